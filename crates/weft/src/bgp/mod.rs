//! Drives the speaker (`weft-bgp`): sockets, clock and threads. Knows no store and no kernel routes;
//! what it is told to be comes whole, what it learnt is handed out whole.
//!
//! `router.rs` is the thread that has BGP's sockets, `detector.rs` the one that has BFD's. They share
//! no lock with each other nor with anybody else: what passes between them goes through channels.

mod detector;

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc};

use ipnet::IpNet;
use weft_bgp::{
    bfd,
    config::Config,
    report::{Learnt, NeighbourReport},
};

pub use detector::Detector;

/// The handle. The threads end with it.
pub struct Router {}

/// What a router is told to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    pub config: Config,
    /// Neighbours that BFD watches over.
    pub bfd: BTreeMap<IpAddr, bfd::Settings>,
}

/// What it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    pub routes: BTreeMap<IpNet, Learnt>,
    /// After a restart, until all neighbours have said their routes again: what is missing is not
    /// gone yet.
    pub settling: bool,
}

#[allow(unused_variables)]
impl Router {
    /// Starts the threads, in the caller's network namespace. What it learns is kept in the file
    /// `keep`, written before `news` is told, so that a successor goes on from there.
    pub fn start(keep: PathBuf, news: Box<dyn Fn() + Send + Sync>) -> std::io::Result<Self> {
        todo!()
    }

    /// What is to be from now on. Returns at once; sockets that can't be had are tried again, and are
    /// told as problems.
    pub fn configure(&self, desired: Desired) {
        todo!()
    }

    pub fn known(&self) -> Arc<Known> {
        todo!()
    }

    pub fn neighbours(&self) -> Vec<NeighbourReport> {
        todo!()
    }

    /// What keeps it from its work (port 179 taken by another program, …), in words.
    pub fn problems(&self) -> Vec<String> {
        todo!()
    }

    /// Says goodbye and waits until it is said: `for_good`, and neighbours forget our routes at once;
    /// else they keep them as agreed.
    pub fn stop(self, for_good: bool) {
        todo!()
    }
}
