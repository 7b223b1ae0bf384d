//! Whose the terminal is: a process group of a PID namespace has no number that the other side knows, so
//! each side puts its own into the foreground.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use nix::{
    sys::signal::{SigSet, Signal},
    unistd::{Pid, getpgrp, setpgid, tcgetpgrp, tcsetpgrp},
};

static OURS: AtomicBool = AtomicBool::new(false);

/// Notes, outside, whether the terminal is this process's, and so its children's.
pub(crate) fn look() {
    OURS.store(tcgetpgrp(io::stdin()) == Ok(getpgrp()), Ordering::Relaxed);
}

/// Makes a process group inside, that shells can come back to, and gives it the terminal.
pub fn take() {
    if OURS.load(Ordering::Relaxed) && setpgid(Pid::from_raw(0), Pid::from_raw(0)).is_ok() {
        take_back();
    }
}

/// Gives it to the group of the calling process.
pub(crate) fn take_back() {
    let mut background = SigSet::empty();
    background.add(Signal::SIGTTOU);
    if OURS.load(Ordering::Relaxed) && background.thread_block().is_ok() {
        // Without, the terminal's own user does so.
        let _ = tcsetpgrp(io::stdin(), getpgrp());
        let _ = background.thread_unblock();
    }
}
