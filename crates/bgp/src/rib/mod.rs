//! The tables: what each neighbour said (Adj-RIB-In), which of it is best (Loc-RIB), what each is to
//! be told (Adj-RIB-Out), and where next hops lead. One table in memory: each prefix has its paths,
//! each path names its neighbour and its attributes, which are kept once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

use crate::{
    attrs::Family,
    config::{Neighbour, Originated},
    report::Learnt,
    wire::{Agreed, Update},
};

pub struct Rib {}

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
    /// Said and not taken, by reason.
    pub refused: BTreeMap<String, u32>,
}

#[allow(unused_variables)]
impl Rib {
    pub fn new() -> Self {
        todo!()
    }

    /// Our own routes and what is on-link; the difference to before is found here.
    pub fn configure(
        &mut self,
        router_id: Ipv4Addr,
        originated: &BTreeMap<IpNet, Originated>,
        connected: &[IpNet],
        paths_max: usize,
    ) {
        todo!()
    }

    /// Filters and `routes_max` of a neighbour that stays up have changed. Its import takes effect on
    /// what it says from now on (the caller asks it for a refresh), its export at once.
    pub fn reconfigure(&mut self, peer: IpAddr, config: &Neighbour) {
        todo!()
    }

    /// A session is established: it is to be told everything. Stale routes that it said before stay
    /// until `sweep`.
    pub fn up(&mut self, peer: IpAddr, of: Peer) {
        todo!()
    }

    /// Its session has ended. Routes of the families in `keep` become stale and stay, those that were
    /// stale already go (RFC 4724, 4.2); the rest go now.
    pub fn down(&mut self, peer: IpAddr, keep: &BTreeSet<Family>) {
        todo!()
    }

    /// All its routes of the family are stale until said again (RFC 7313, 4).
    pub fn stale(&mut self, peer: IpAddr, family: Family) {
        todo!()
    }

    /// What is still stale of its routes goes.
    pub fn sweep(&mut self, peer: IpAddr, family: Family) {
        todo!()
    }

    pub fn update(&mut self, peer: IpAddr, update: Update) -> Taken {
        todo!()
    }

    /// It asked for all routes of the family again. With `marked`, BoRR and EoRR stand around them
    /// (RFC 7313).
    pub fn refresh(&mut self, peer: IpAddr, family: Family, marked: bool) {
        todo!()
    }

    /// Once all routes that there are now were said, End-of-RIB follows, when this was asked.
    pub fn end_of_rib(&mut self, peer: IpAddr, family: Family) {
        todo!()
    }

    /// Adds whole messages for the neighbour to the buffer, up to about `most` bytes, and their
    /// number.
    pub fn outgoing(&mut self, peer: IpAddr, buffer: &mut Vec<u8>, most: usize) -> u64 {
        todo!()
    }

    pub fn has_outgoing(&self, peer: IpAddr) -> bool {
        todo!()
    }

    pub fn counts(&self, peer: IpAddr) -> Counts {
        todo!()
    }

    /// Counts up whenever `learnt` would answer differently.
    pub fn version(&self) -> u64 {
        todo!()
    }

    pub fn learnt(&self) -> Vec<Learnt> {
        todo!()
    }

    /// What neighbours said, in the form of their UPDATE messages, for `restore`.
    pub fn keep(&self) -> Vec<u8> {
        todo!()
    }

    /// Takes what `keep` gave as stale routes of neighbours that are yet to come up; says whose.
    pub fn restore(&mut self, kept: &[u8]) -> BTreeMap<IpAddr, BTreeSet<Family>> {
        todo!()
    }
}
