//! What the kernel holds: looked at, or remembered for as long as nobody wrote to it but the loop
//! itself, whose every write the kernel acknowledged. A change of one record then costs no dump
//! of what thousands of peers have.

use weft_core::{
    plan::Change,
    state::{Key, Knob},
};
use weft_linux::{Error, Kernel, Observed};

#[derive(Default)]
pub(super) struct Sight {
    /// With how many writes had been made to the kernel by then.
    remembered: Option<(u64, Observed)>,
}

impl Sight {
    /// `anew`: something was heard from the kernel, or refused by it. True with it: remembered.
    pub(super) fn look(
        &mut self,
        kernel: &Kernel,
        knobs: &[Knob],
        anew: bool,
    ) -> Result<(Observed, bool), Error> {
        match self.remembered.take() {
            Some((writes, observed)) if !anew && writes == kernel.writes() => Ok((observed, true)),
            _ => Ok((kernel.observe_node(knobs)?, false)),
        }
    }

    /// After what was seen, `changes` were acknowledged. A change of a link has consequences of
    /// its own (neighbours and routes go with it): after one, only a look can tell.
    pub(super) fn remember(&mut self, kernel: &Kernel, mut seen: Observed, changes: &[Change]) {
        if changes.iter().any(|change| matches!(change.key(), Key::Link(_) | Key::Up(_))) {
            return;
        }
        changes.iter().for_each(|change| seen.ours.take(change));
        self.remembered = Some((kernel.writes(), seen));
    }
}
