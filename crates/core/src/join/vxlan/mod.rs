//! VXLAN: pod packets cross the underlay inside UDP (RFC 7348). Needs only IP reachability; costs
//! 50 bytes of each packet over IPv4, 70 over IPv6.
//!
//! For each peer the kernel needs three facts, and no learning: the route says which tunnel
//! address is next, the neighbour says which inner MAC that is, the FDB says which node has it.
//! With `discovery: multicast` the kernel finds all three itself (`learnt.rs`).
//! A device carries one underlay family, so a node with both has two devices.

mod discovery;
pub mod learnt;

use std::{net::IpAddr, num::NonZeroU16};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use discovery::{Discovery, Finding, Group};

use super::{Joining, Receive, Receiver, Way};
use crate::{
    attach::Ground,
    name::{IfName, Mac, Mtu, Vni},
    paths::{Path, Peer, Refusal, Sender},
    state::{Kind, Knob, Link, Object, State},
};

/// Settings of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Vxlan {
    /// VXLAN network identifier, 1 to 16777215; each network has its own.
    #[serde(default = "first_vni")]
    pub vni: Vni,
    /// UDP port of the VTEPs; 4789 is IANA's, Flannel uses 8472.
    #[serde(default = "iana_port")]
    pub port: NonZeroU16,
    #[serde(flatten)]
    pub finding: Finding,
}

impl Default for Vxlan {
    fn default() -> Self {
        Self { vni: first_vni(), port: iana_port(), finding: Finding::default() }
    }
}

impl Joining for Vxlan {
    fn receives(&self, me: &Receiver<'_>) -> Vec<Receive> {
        let mac = |underlay: &IpAddr| {
            let family = if underlay.is_ipv4() { "4" } else { "6" };
            Mac::derived(&["vtep", me.node.as_str(), me.network.as_str(), family])
        };
        let group = self.finding.group();
        let receive = |at: &IpAddr| {
            let (underlay, vni, port, mac) = (*at, self.vni, self.port.get(), mac(at));
            match &group {
                None => Some(Receive::Vxlan { underlay, vni, port, mac }),
                Some(group) => (at.is_ipv4() == group.addr.is_ipv4()).then(|| {
                    let group = group.clone();
                    Receive::VxlanLearnt { underlay, vni, port, mac, group }
                }),
            }
        };
        me.underlay.iter().filter_map(receive).collect()
    }
    fn order(&self) -> &'static [Way] {
        &[Way::Vxlan]
    }
    fn vni(&self) -> Option<Vni> {
        Some(self.vni)
    }
    fn group(&self) -> Option<IpAddr> {
        self.finding.group().map(|group| group.addr)
    }
    fn check(&self) -> Result<(), String> {
        self.finding.check()
    }
}

/// Outer Ethernet is not counted: it is the link's, not the IP packet's. Outer IP, UDP 8, VXLAN 8,
/// inner Ethernet 14.
pub fn overhead(underlay: IpAddr) -> u16 {
    if underlay.is_ipv4() { 20 + 8 + 8 + 14 } else { 40 + 8 + 8 + 14 }
}

pub fn device(vni: Vni, underlay: IpAddr) -> IfName {
    let family = if underlay.is_ipv4() { 4 } else { 6 };
    IfName::new(&format!("weftx{family}-{vni}"))
}

/// A VTEP: its address on the underlay, VNI, port and own MAC.
pub type Vtep = (IpAddr, Vni, u16, Mac);

pub fn link((underlay, vni, port, mac): Vtep, wire: Mtu) -> Link {
    Link {
        dev: device(vni, underlay),
        kind: Kind::Vxlan { vni, port, local: underlay },
        mtu: wire.less(overhead(underlay)),
        mac,
        master: None,
    }
}

pub fn hold(vtep: Vtep, on: &Ground<'_>) -> State {
    let link = link(vtep, on.wire);
    let dev = link.dev.clone();
    // While a path changes, packets may come by another way than they go.
    let loose = Object::Sysctl { knob: Knob::RpFilter(dev.clone()), value: 2 };
    // The kernel has no IPv6 on a device that is too small for it (`addrconf_notify`).
    let held = on.blocks.iter().map(tunnel_address);
    let held = held.filter(|addr| addr.is_ipv4() || link.mtu >= Mtu::IPV6_LEAST);
    let addrs: Vec<Object> =
        held.map(|addr| Object::Addr { dev: dev.clone(), addr: addr.into() }).collect();
    [Object::Link(link), loose, Object::Up { dev: dev.clone() }].into_iter().chain(addrs).collect()
}

pub fn path(
    receive: &Receive,
    vni: Vni,
    sender: &Sender<'_>,
    peer: &Peer<'_>,
    ipv4: bool,
) -> Result<Path, Refusal> {
    let underlay = receive.underlay();
    let local = sender
        .underlay
        .iter()
        .find(|nic| nic.addr.addr().is_ipv4() == underlay.is_ipv4())
        .ok_or(Refusal::NoFamily { underlay })?;
    if sender.reach.get(&underlay).is_none_or(Option::is_none) {
        return Err(Refusal::NoRoute { underlay });
    }
    let address = peer.tunnel_address(ipv4).ok_or(Refusal::NoBlock { ipv4 })?;
    // An IPv6 next hop to which a route leads by another device is refused (net/ipv6/route.c,
    // `ip6_route_check_nh_onlink`), and while a path changes the block's own route does so.
    let via = match receive {
        Receive::Vxlan { mac, .. } if !ipv4 => mac.link_local().addr(),
        _ => address,
    };
    let dev = device(vni, underlay);
    let mtu = local.mtu.min(peer.mtu).less(overhead(underlay));
    let (overhead, legs) = (overhead(underlay), Vec::new());
    Ok(Path { receive: receive.clone(), dev, via, mtu, overhead, legs })
}

/// Which inner MAC the next hop has, and which node has that MAC.
pub fn facts(dev: &IfName, via: IpAddr, mac: Mac, underlay: IpAddr) -> [Object; 2] {
    [
        Object::Neigh { dev: dev.clone(), ip: via, mac },
        Object::Fdb { dev: dev.clone(), mac, dst: underlay },
    ]
}

/// The tunnel's own address in a block: the first, which no pod is given.
pub fn tunnel_address(block: &IpNet) -> IpAddr {
    block.network()
}

fn first_vni() -> Vni {
    Vni::try_from(1).expect("1 is a VNI")
}
fn iana_port() -> NonZeroU16 {
    NonZeroU16::new(4789).expect("4789 is not zero")
}
