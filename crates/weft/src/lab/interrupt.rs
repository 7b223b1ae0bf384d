//! What an interrupt (Ctrl-C) does: it ends the lab and says so, until its shell has come, whose
//! matter it is from then on.

use std::{
    fs,
    io::Write,
    process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::Context;
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

static HANDED_OVER: AtomicBool = AtomicBool::new(false);

/// From now on it is the shell's.
pub fn hand_over() {
    HANDED_OVER.store(true, Ordering::Relaxed);
}

/// Handles it on a thread of its own. Whoever began the lab without (in a script's background) has none.
pub fn watch() -> anyhow::Result<()> {
    if is_ignored().context("read which signals are ignored")? {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let told = runtime.block_on(async { signal(SignalKind::interrupt()) });
    let mut told = told.context("hear of interrupts")?;
    let wait = move || {
        while runtime.block_on(told.recv()).is_some() {
            if !HANDED_OVER.load(Ordering::Relaxed) {
                let _ = writeln!(std::io::stderr(), "weft: interrupted; nothing is left behind");
                process::exit(128 + Signal::SIGINT as i32);
            }
        }
    };
    thread::Builder::new().name("interrupt".into()).spawn(wait)?;
    Ok(())
}

/// `SigIgn` of proc(5): a bit for each signal, the first for the first.
fn is_ignored() -> anyhow::Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or("0");
    let mask = u64::from_str_radix(mask.trim(), 16)?;
    Ok(mask & (1 << (Signal::SIGINT as i32 - 1)) != 0)
}
