//! What the kernel holds: looked at, or known for as long as nobody wrote to it but the loop
//! itself, whose every write the kernel acknowledged. A change of one record then costs no dump
//! of what thousands of peers have, and none of it is kept twice.

use weft_core::state::{Knob, State};
use weft_linux::{Error, Kernel, Observed};

#[derive(Default)]
pub(super) struct Sight {
    /// With how many writes had been made to the kernel by then.
    known: Option<(u64, Observed)>,
}

/// What the host has besides us, and what it has of ours.
pub(super) struct Look {
    /// `ours` is empty where `as_decided`.
    pub(super) observed: Observed,
    /// What there is of ours was not read: it is what the loop last decided.
    pub(super) as_decided: bool,
}

impl Sight {
    /// `anew`: something was heard from the kernel, or refused by it.
    pub(super) fn look(
        &mut self,
        kernel: &Kernel,
        knobs: &[Knob],
        anew: bool,
    ) -> Result<Look, Error> {
        match self.known.take() {
            Some((writes, observed)) if !anew && writes == kernel.writes() => {
                Ok(Look { observed, as_decided: true })
            }
            _ => Ok(Look { observed: kernel.observe_node(knobs)?, as_decided: false }),
        }
    }

    /// The kernel holds all that was decided, and nothing else of ours.
    pub(super) fn know(&mut self, kernel: &Kernel, look: Look) {
        let observed = Observed { ours: State::default(), ..look.observed };
        self.known = Some((kernel.writes(), observed));
    }
}
