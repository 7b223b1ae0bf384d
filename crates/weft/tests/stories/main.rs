//! Stories on the real kernel: a cluster is built, hurt, and must be whole again. Each runs in a
//! sandbox of its own (`cargo xtask test`), and ends with strangers' things in place and an empty
//! plan. What all of them use is in `story.rs`; the rest is one file per theme.
#![allow(clippy::unwrap_used)]

mod addresses;
mod advertised;
mod bgp;
mod bgp_router;
mod change;
mod citizens;
mod cni;
mod cri;
mod crio;
mod dhcp;
mod domains;
mod explained;
mod flannel;
mod forged;
mod further;
mod input;
mod install;
mod ipvlan;
mod kill;
mod kube_proxy;
mod lan;
mod learnt;
mod limits;
mod local;
mod macvlan;
mod networks;
mod packets;
mod plugin;
mod policies;
mod ports;
mod racks;
mod reboot;
mod sabotage;
mod services;
mod sources;
mod store;
mod story;
mod strangers;
mod strangers_lan;
mod trust;
mod underlay;
mod vlan;
