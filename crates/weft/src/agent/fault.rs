//! Places where a test may let the agent die: `WEFT_FAULT=add.after-birth` ends the process there,
//! as SIGKILL would. Compiled in only with the feature `faults`.

#[cfg(feature = "faults")]
pub fn point(name: &str) {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var("WEFT_FAULT").ok());
    if chosen.as_deref() == Some(name) {
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
    }
}

#[cfg(not(feature = "faults"))]
pub fn point(_name: &str) {}
