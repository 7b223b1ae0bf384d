//! What a change of peers alone asks of the kernel. It says the same as planning everything, of
//! which a table of tests and the agent's full looks are the proof, at the cost of what changed
//! instead of the cost of all peers.

use std::{cmp::Ordering, collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{
    desired::Served,
    join::Receive,
    learnt::{Beside, through},
    name::Mac,
    paths::{Choices, PeerChoice},
    plan::{Change, plan},
    state::{Group, Key, Object, State},
};

/// The changes from `last`, which the kernel holds in full, to `now`; and from the learnt routes of
/// then to those of now. None where more than these and choices of peers differ, or where what moved
/// shares an object with what did not: then everything is to be planned.
pub fn moved(
    last: &[Served<'_>],
    now: &[Served<'_>],
    learnt: (&Beside, &Beside),
) -> Option<Vec<Change>> {
    if last.len() != now.len() {
        return None;
    }
    let (mut was, mut want) = (Vec::new(), Vec::new());
    let mut unmoved = Vec::new();
    for (last, now) in last.iter().zip(now) {
        if !same_ground(last, now) {
            return None;
        }
        part(&last.stage.choices, &now.stage.choices, &mut was, &mut want, &mut unmoved);
    }
    let (gone, come, stayed) = part_learnt(learnt);
    if was.is_empty() && want.is_empty() && gone.is_empty() && come.is_empty() {
        return Some(Vec::new());
    }
    let mut marks = Marks::of(was.iter().chain(&want));
    marks.hops.extend(gone.iter().chain(&come).flat_map(|(_, hops)| vias(hops)));
    let objects = |choices: &[&Arc<PeerChoice>], routes: &[Learnt<'_>]| -> State {
        let learnt = routes.iter().flat_map(|(dst, hops)| through(**dst, hops));
        choices.iter().flat_map(|choice| choice.objects()).chain(learnt).collect()
    };
    let (was, want) = (objects(&was, &gone), objects(&want, &come));
    let contested = |object: Object| match want.get(&object.key()) {
        Some(wanted) => *wanted != object,
        None => was.contains(&object.key()),
    };
    let mut shared = unmoved.into_iter().filter(|choice| marks.on(choice));
    let mut beside = stayed.filter(|(_, hops)| vias(hops).any(|via| marks.hops.contains(&via)));
    if shared.any(|choice| choice.objects().any(contested))
        || beside.any(|(dst, hops)| through(*dst, hops).into_iter().any(contested))
        || on_own_block(now, &was, &want)
    {
        return None;
    }
    Some(plan(&want, &was))
}

/// A learnt route that is no peer's block.
type Learnt<'a> = (&'a IpNet, &'a Group);

fn vias(hops: &Group) -> impl Iterator<Item = IpAddr> + '_ {
    hops.hops().iter().map(|(_, via)| *via)
}

/// Those that went, those that came, and those that stayed.
fn part_learnt<'a>(
    (last, now): (&'a Beside, &'a Beside),
) -> (Vec<Learnt<'a>>, Vec<Learnt<'a>>, impl Iterator<Item = Learnt<'a>>) {
    let (was, want) = (&last.routes, &now.routes);
    let gone = was.iter().filter(|(dst, hops)| want.get(*dst) != Some(*hops)).collect();
    let come = want.iter().filter(|(dst, hops)| was.get(*dst) != Some(*hops)).collect();
    (gone, come, want.iter().filter(move |(dst, hops)| was.get(*dst) == Some(*hops)))
}

/// All that does not come from the choice of a path to one peer.
fn same_ground(last: &Served<'_>, now: &Served<'_>) -> bool {
    let ground = |served: &Served<'_>| (served.stage.send, served.stage.accept);
    last.name == now.name
        && last.network == now.network
        && last.blocks == now.blocks
        && last.stage.hold == now.stage.hold
        && ground(last) == ground(now)
        && last.access == now.access
}

/// Parts the choices of two moments into those that went, those that came and those that stayed.
/// Both are in the order of names: walked together, not looked up.
fn part<'a>(
    old: &'a Choices,
    new: &'a Choices,
    was: &mut Vec<&'a Arc<PeerChoice>>,
    want: &mut Vec<&'a Arc<PeerChoice>>,
    unmoved: &mut Vec<&'a Arc<PeerChoice>>,
) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        let gone = if order.is_le() { old.next() } else { None };
        let come = if order.is_ge() { new.next() } else { None };
        match (gone, come) {
            (Some((_, a)), Some((_, b))) if Arc::ptr_eq(a, b) || a == b => unmoved.push(b),
            (gone, come) => {
                was.extend(gone.map(|(_, choice)| choice));
                want.extend(come.map(|(_, choice)| choice));
            }
        }
    }
}

/// What two peers would have to have in common for one object to be both's: told apart without
/// making the objects of thousands that have nothing to do with it.
#[derive(Default)]
struct Marks {
    blocks: BTreeSet<IpNet>,
    hops: BTreeSet<IpAddr>,
    macs: BTreeSet<Mac>,
}

impl Marks {
    fn of<'a>(choices: impl Iterator<Item = &'a &'a Arc<PeerChoice>>) -> Self {
        let mut marks = Self::default();
        for choice in choices {
            marks.blocks.extend(&choice.blocks);
            for (via, mac) in ends(choice) {
                marks.hops.insert(via);
                marks.macs.extend(mac);
            }
        }
        marks
    }

    fn on(&self, choice: &PeerChoice) -> bool {
        choice.blocks.iter().any(|block| self.blocks.contains(block))
            || ends(choice).any(|(via, mac)| {
                self.hops.contains(&via) || mac.is_some_and(|mac| self.macs.contains(&mac))
            })
    }
}

fn ends(choice: &PeerChoice) -> impl Iterator<Item = (IpAddr, Option<Mac>)> + '_ {
    let paths = choice.each().filter_map(|(_, choice)| choice.path.as_ref()).flat_map(|path| {
        let (mac, flood) = match &path.receive {
            Receive::Direct { .. } | Receive::Bgp { .. } | Receive::VxlanLearnt { .. } => {
                (None, None)
            }
            Receive::Vxlan { mac, .. } => (Some(*mac), None),
            Receive::VxlanBridged { mac, underlay, .. }
            | Receive::VxlanGroup { mac, underlay, .. } => (Some(*mac), Some(*underlay)),
        };
        let hops: Vec<_> = path.ends().into_iter().map(|(_, via)| (via, mac)).collect();
        hops.into_iter().chain(flood.map(|underlay| (underlay, None)))
    });
    let pods = choice.domain.iter().flat_map(|domain| &domain.pods);
    paths.chain(pods.flat_map(|pod| pod.addrs.iter().map(|addr| (*addr, Some(pod.mac)))))
}

/// True if a peer claims what is this node's own: a block, or a pod's address on a segment that
/// both are on.
fn on_own_block(now: &[Served<'_>], was: &State, want: &State) -> bool {
    let own = |ip: &IpAddr| now.iter().flat_map(|served| served.blocks).any(|b| b.contains(ip));
    let mut keys = was.keys().chain(want.keys());
    keys.any(|key| match key {
        Key::Route(dst) => now.iter().flat_map(|served| served.blocks).any(|block| block == dst),
        Key::Neigh(_, ip) => own(ip),
        _ => false,
    })
}

#[cfg(test)]
mod tests;
