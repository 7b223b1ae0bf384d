//! The Container Network Interface, versions 0.3.0 to 1.1.0: what a runtime may ask, what the
//! answers look like, and how plugin and agent pass both on. Pure; who answers is the agent.
//!
//! Source: `SPEC.md` and `CONVENTIONS.md` of <https://github.com/containernetworking/cni>, spec
//! versions 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0.

mod call;
mod config;
mod endpoint;
mod environment;
mod error;
mod result;
#[cfg(test)]
mod tests;
mod version;
pub mod wire;

pub use call::{Call, Request, Verb};
pub(crate) use config::{address, mac, network_of};
pub use endpoint::Endpoint;
pub use error::{CniError, Code};
pub use result::{AddResult, Interface, Ip, RouteOut};
pub use version::{VERSIONS, Version};
