//! The tables: what each neighbour said (Adj-RIB-In), which of it is best (Loc-RIB), what each is to
//! be told (Adj-RIB-Out), and where next hops lead. One table in memory: each prefix has its paths,
//! each path names its neighbour and its attributes, which are kept once.
//!
//! `table.rs` has the prefixes and their paths, `routes.rs` what paths say, `hops.rs` where they lead,
//! `peers.rs` who said them, `out.rs` what each neighbour was told. `rib.rs` puts a path in or takes
//! one out; `import.rs`, `neighbour.rs` and `keep.rs` say which, `best.rs` and `export.rs` what follows
//! from it; `learnt.rs` and `tell.rs` are asked for the result.

mod best;
mod export;
mod hops;
mod import;
mod index;
mod keep;
mod learnt;
mod neighbour;
mod out;
mod packed;
mod path;
mod peers;
mod refusal;
#[allow(clippy::module_inception)] // The tables as one, which the folder is named for.
mod rib;
mod routes;
mod table;
mod tell;

use std::{collections::BTreeMap, net::Ipv4Addr};

pub use rib::Rib;

use crate::{attrs::Family, config::Neighbour, wire::Agreed};

/// A neighbour whose session is established.
#[derive(Clone, Debug)]
pub struct Peer {
    pub config: Neighbour,
    pub router_id: Ipv4Addr,
    pub agreed: Agreed,
}

/// What came of an UPDATE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// It said more routes of this family than `routes_max`.
    pub too_many: Option<Family>,
}

/// Routes of one neighbour, by family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub taken: BTreeMap<Family, u32>,
    pub stale: BTreeMap<Family, u32>,
    pub told: BTreeMap<Family, u32>,
    /// Said since the session began and not taken, by reason.
    pub refused: BTreeMap<String, u32>,
}
