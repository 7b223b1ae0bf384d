//! BGP as the whole cluster has it: what its operator says of it (`settings.rs`), and what follows from that
//! and the view for one node: with whom it speaks, who reflects (`reflect.rs`), and what it says
//! (`speaker.rs`). Decides only; the speaker itself is another crate's.

mod check;
mod community;
mod reflect;
mod settings;
mod speaker;
#[cfg(test)]
mod tests;

pub use check::check;
pub use community::{Community, LargeCommunity};
pub use reflect::reflectors;
pub use settings::{
    Action, Bfd, External, Import, Reflecting, Restart, Selector, Settings, Switch,
};
pub use speaker::{
    Filter, Local, Neighbour, Originated, Rule, Speaker, Ttl, asn_of, participates, speaker,
};
