//! What a change of peers alone asks of the kernel. It says the same as planning everything, of
//! which a table of tests and the agent's full looks are the proof, at the cost of what changed
//! instead of the cost of all peers.

use std::sync::Arc;

use crate::{
    desired::Served,
    paths::{Choices, PeerChoice},
    plan::{Change, plan},
    state::{Object, State},
};

/// The changes from `last`, which the kernel held in full, to `now`. None where more than choices
/// of peers differ, or where two peers share an object: then everything is to be planned.
pub fn moved(last: &[Served<'_>], now: &[Served<'_>], actual: &State) -> Option<Vec<Change>> {
    if last.len() != now.len() {
        return None;
    }
    let (mut was, mut want, mut unmoved) = (State::default(), State::default(), Vec::new());
    for (last, now) in last.iter().zip(now) {
        if !same_ground(last, now) {
            return None;
        }
        let (old, new) = (&last.stage.choices, &now.stage.choices);
        let stays = |peer, choice: &Arc<PeerChoice>, there: &Choices| {
            there.get(peer).is_some_and(|other| Arc::ptr_eq(choice, other) || choice == other)
        };
        for (peer, choice) in old {
            if stays(peer, choice, new) {
                unmoved.push(choice);
            } else {
                was.extend(choice.objects());
            }
        }
        let moved = new.iter().filter(|(peer, choice)| !stays(peer, choice, old));
        want.extend(moved.flat_map(|(_, choice)| choice.objects()));
    }
    let contested = |object: Object| match want.get(&object.key()) {
        Some(wanted) => *wanted != object,
        None => was.contains(&object.key()),
    };
    if unmoved.iter().flat_map(|choice| choice.objects()).any(contested) {
        return None;
    }
    let concerned = was.keys().chain(want.keys());
    let actual = concerned.filter_map(|key| actual.get(key).cloned()).collect();
    Some(plan(&want, &actual))
}

/// All that does not come from the choice of a path to one peer.
fn same_ground(last: &Served<'_>, now: &Served<'_>) -> bool {
    let ground = |served: &Served<'_>| (served.stage.send, served.stage.accept);
    last.name == now.name
        && last.network == now.network
        && last.blocks == now.blocks
        && last.stage.hold == now.stage.hold
        && ground(last) == ground(now)
}

#[cfg(test)]
mod tests;
