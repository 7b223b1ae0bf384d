//! Touches the kernel: the only crate that knows netlink, nftables and namespaces. Decides nothing.

mod announce;
pub mod bfd;
mod dhcp;
mod elsewhere;
mod encode;
mod events;
mod flows;
mod kernel;
mod kinds;
pub mod memory;
mod netns;
mod nft;
mod observe;
mod probe;
pub mod rig;
pub mod sandbox;
mod shaped;
mod socket;
pub mod sockets;
mod solicit;
mod solicitor;
mod tables;
pub mod tcp;
mod uapi;
mod wire;
mod writer;

pub use announce::Announcement;
pub use dhcp::{DhcpSocket, random, since_boot};
pub use events::{Event, Watch};
pub use kernel::{Error, Kernel, Refusal, read_knob};
pub use netns::{Netns, cookie_here, own};
pub use nft::{Error as TableError, Finding, Passing, PolicyTable, Wanted, Was};
pub use observe::{ForeignRoute, HostLink, Observed, RouteTo};
pub use probe::Heard;
pub use solicit::{Neighbour, Says};
pub use solicitor::Solicitor;
