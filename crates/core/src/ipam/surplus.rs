//! Which of its blocks a node gives back, so that a range that many nodes share does not run dry by
//! what pods once needed.

use std::time::Duration;

use ipnet::IpNet;

/// One of a node's blocks of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub block: IpNet,
    /// Addresses that pods have, or are about to be given.
    pub taken: usize,
    /// Addresses that can still be given.
    pub room: u128,
    /// It was claimed before the node last booted: its pods are gone with that boot.
    pub of_earlier_boot: bool,
    /// How long nobody has had an address of it.
    pub idle: Duration,
}

/// Blocks without a pod that are not needed: at once if they are of an earlier boot, else once they
/// were idle for `patience`. One stays in any case, and so does one while the others have less room
/// than is `enough`.
pub fn surplus(held: &[Held], enough: u128, patience: Duration) -> Vec<IpNet> {
    let used = held.iter().filter(|block| block.taken > 0);
    let roomy = used.map(|block| block.room).sum::<u128>() >= enough;
    let mut idle: Vec<&Held> = held.iter().filter(|block| block.taken == 0).collect();
    // What stays is what was idle for the shortest time, of this boot.
    idle.sort_by_key(|block| (block.room == 0, block.of_earlier_boot, block.idle, block.block));
    let stays = usize::from(!roomy);
    let due = |block: &&&Held| block.of_earlier_boot || block.idle >= patience;
    idle.iter().skip(stays).filter(due).map(|block| block.block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Blocks as `taken/room/idle seconds`, of an earlier boot with a `*` at the end. Says which go.
    fn gone(blocks: &[&str]) -> Vec<usize> {
        let held: Vec<Held> = (0..)
            .zip(blocks)
            .map(|(n, text): (u8, _)| {
                let numbers: Vec<u64> =
                    text.trim_end_matches('*').split('/').map(|n| n.parse().unwrap()).collect();
                Held {
                    block: IpNet::new([10, 0, 0, n * 16].into(), 28).unwrap(),
                    taken: numbers[0].try_into().unwrap(),
                    room: numbers[1].into(),
                    of_earlier_boot: text.ends_with('*'),
                    idle: Duration::from_secs(numbers[2]),
                }
            })
            .collect();
        let gone = surplus(&held, 8, PATIENCE);
        (0..held.len()).filter(|at| gone.contains(&held[*at].block)).collect()
    }

    #[test]
    fn one_block_stays_and_so_does_one_where_the_others_have_little_room() {
        let cases: [(&[&str], &[usize]); 11] = [
            (&[], &[]),
            (&["0/16/99"], &[]),
            (&["0/16/99*"], &[]),
            (&["0/16/0*", "0/16/0*", "0/16/0*"], &[1, 2]),
            (&["0/16/0*", "0/16/0"], &[0]),
            (&["3/13/0", "0/16/9"], &[]),
            (&["3/13/0", "0/16/10"], &[1]),
            (&["16/0/0", "0/16/99"], &[]),
            (&["9/7/0", "0/16/99"], &[]),
            (&["16/0/0", "0/16/99", "0/16/98*"], &[2]),
            (&["16/0/0*", "1/15/0*", "0/16/0*"], &[2]),
        ];
        for (blocks, want) in cases {
            assert_eq!(gone(blocks), want, "{blocks:?}");
        }
    }
}
