//! The Container Network Interface, versions 0.3.0 to 1.1.0: what a runtime may ask, what the
//! answers look like, and how plugin and agent pass both on. Pure; who answers is the agent.

mod call;
mod error;
mod result;
pub mod wire;

pub use call::{Call, Request, Verb, Version};
pub use error::{CniError, Code};
pub use result::{AddResult, Interface, Ip, RouteOut};

/// Every version that is spoken, oldest first.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
