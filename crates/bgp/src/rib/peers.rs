//! Neighbours by number: what is decided by who said a route, and what each is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use super::{Peer, out::Out, refusal::Refusal};
use crate::attrs::Family;

/// Who said a route, as far as it decides what becomes of the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Who {
    pub addr: IpAddr,
    pub router_id: Ipv4Addr,
    pub local_as: u32,
    pub remote_as: u32,
    pub external: bool,
    pub client: bool,
}

impl Who {
    pub fn of(addr: IpAddr, peer: &Peer) -> Self {
        Self {
            addr,
            router_id: peer.router_id,
            local_as: peer.config.local_as,
            remote_as: peer.config.remote_as,
            external: peer.config.local_as != peer.config.remote_as,
            client: peer.config.client,
        }
    }
}

/// One neighbour that is up, or has stale routes.
#[derive(Debug)]
pub(super) struct Known {
    pub who: Who,
    pub up: Option<Arc<Peer>>,
    pub taken: [u32; 2],
    pub stale: [u32; 2],
    pub refused: BTreeMap<Refusal, u32>,
    pub out: [Out; 2],
    /// The family that is asked first for what is to be told, in turn.
    pub first: Turn,
}

/// So that neither family waits for all of the other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turn(bool);

impl Turn {
    pub fn next(&mut self) -> [Family; 2] {
        self.0 = !self.0;
        if self.0 { Family::ALL } else { [Family::Ipv6, Family::Ipv4] }
    }
}

#[derive(Debug, Default)]
pub(super) struct Peers {
    list: Vec<Option<Box<Known>>>,
    by_addr: BTreeMap<IpAddr, u32>,
    /// Addresses of our own, as the sessions that are up have them.
    pub own_addrs: BTreeSet<IpAddr>,
}

impl Peers {
    pub fn find(&self, addr: IpAddr) -> Option<u32> {
        self.by_addr.get(&addr).copied()
    }

    pub fn find_or_make(&mut self, who: Who) -> u32 {
        if let Some(id) = self.find(who.addr) {
            return id;
        }
        let known = Some(Box::new(Known {
            who,
            up: None,
            taken: [0; 2],
            stale: [0; 2],
            refused: BTreeMap::new(),
            out: [Out::default(), Out::default()],
            first: Turn::default(),
        }));
        let id = match self.list.iter().position(Option::is_none) {
            Some(id) => {
                self.list[id] = known;
                id
            }
            None => {
                self.list.push(known);
                self.list.len() - 1
            }
        };
        let id = u32::try_from(id).expect("fewer than there are addresses of neighbours");
        self.by_addr.insert(who.addr, id);
        id
    }

    /// One of which nothing is left.
    pub fn forget(&mut self, id: u32) {
        if let Some(gone) = self.list[id as usize].take() {
            self.by_addr.remove(&gone.who.addr);
        }
    }

    pub fn get(&self, id: u32) -> Option<&Known> {
        self.list.get(id as usize)?.as_deref()
    }

    pub fn get_mut(&mut self, id: u32) -> Option<&mut Known> {
        self.list.get_mut(id as usize)?.as_deref_mut()
    }

    pub fn who(&self, id: u32) -> Option<&Who> {
        self.get(id).map(|known| &known.who)
    }

    pub fn all(&self) -> impl Iterator<Item = (u32, &Known)> {
        (0..).zip(&self.list).filter_map(|(id, known)| Some((id, known.as_deref()?)))
    }

    pub fn all_mut(&mut self) -> impl Iterator<Item = (u32, &mut Known)> {
        (0..).zip(&mut self.list).filter_map(|(id, known)| Some((id, known.as_deref_mut()?)))
    }

    /// Somebody was told of this prefix, and has not been told that it is gone.
    pub fn was_told(&self, family: Family, slot: u32) -> bool {
        self.all().any(|(_, known)| known.out[family as usize].told(slot).is_some())
    }

    pub fn learn_own_addrs(&mut self) {
        let of_session = |peer: &Arc<Peer>| {
            let config = &peer.config;
            let hops = [config.next_hop4.map(IpAddr::from), config.next_hop6.map(IpAddr::from)];
            hops.into_iter().flatten().chain([config.local_addr])
        };
        let up = self.list.iter().flatten().filter_map(|known| known.up.as_ref());
        self.own_addrs = up.flat_map(of_session).collect();
    }
}
