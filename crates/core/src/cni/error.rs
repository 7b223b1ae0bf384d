//! Errors as the spec numbers them (section 5, "Error").

use serde_json::{Value, json};

/// 0 to 99 are the spec's, from 100 on ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// `cniVersion` is none that we speak, or older than the operation.
    IncompatibleVersion = 1,
    /// A field that we can't honour. The error names key and value.
    UnsupportedField = 2,
    /// The container is unknown or its namespace does not exist: nothing is left to clean up.
    UnknownContainer = 3,
    /// A variable is missing or breaks its rule. The error names it.
    InvalidEnvironment = 4,
    /// A file, a pipe or a socket failed.
    Io = 5,
    /// What came is not the JSON that it should be.
    Decode = 6,
    /// The configuration is well formed and says something impossible.
    InvalidConfig = 7,
    /// It will pass by itself: the runtime should call again.
    TryAgainLater = 11,
    /// STATUS: ADD can't be served.
    Unavailable = 50,
    /// STATUS: nor may pods that run have their network.
    UnavailableLimited = 51,
    /// Ours: what was promised is not what the kernel holds.
    NotAsPromised = 100,
    /// Ours: the kernel refused.
    Refused = 101,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg}: {details}")]
pub struct CniError {
    pub code: u32,
    /// What went wrong.
    pub msg: String,
    /// On what, and what to do.
    pub details: String,
}

impl CniError {
    pub fn new(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code: code as u32, msg: msg.into(), details: details.into() }
    }

    /// As it goes to standard output.
    pub fn render(&self, version: &str) -> Value {
        json!({
            "cniVersion": version,
            "code": self.code,
            "msg": self.msg,
            "details": self.details,
        })
    }
}
