//! Places where a test may let the agent die: `WEFT_FAULT=add.after-birth` ends the process there,
//! as SIGKILL would; `add.after-birth#2` when it comes there for the second time. Compiled in only with the feature `faults`.

#[cfg(feature = "faults")]
pub fn point(name: &str) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    };
    static CHOSEN: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let chosen = CHOSEN.get_or_init(|| {
        let said = std::env::var("WEFT_FAULT").ok()?;
        match said.split_once('#') {
            Some((name, times)) => Some((name.to_owned(), times.parse().ok()?)),
            None => Some((said, 1)),
        }
    });
    let Some((_, times)) = chosen.as_ref().filter(|(chosen, _)| chosen == name) else { return };
    if PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *times {
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
    }
}

#[cfg(not(feature = "faults"))]
pub fn point(_name: &str) {}
