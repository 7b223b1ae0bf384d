//! What the kernel refuses, as people are told.

use std::fmt;

/// What the kernel refused, on which change, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub what: String,
    pub errno: i32,
    /// The kernel's extended acknowledgement, where it gave one.
    pub text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = nix::errno::Errno::from_raw(self.errno).desc();
        write!(f, "{}: {errno}", self.what)?;
        if self.text.is_empty() { Ok(()) } else { write!(f, " ({})", self.text) }
    }
}
impl std::error::Error for Refusal {}
