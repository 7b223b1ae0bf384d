//! Errors as the spec numbers them (section 4, "Error").

use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    IncompatibleVersion = 1,
    UnsupportedField = 2,
    /// The container is unknown or its namespace does not exist.
    UnknownContainer = 3,
    InvalidEnvironment = 4,
    Io = 5,
    Decode = 6,
    InvalidConfig = 7,
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

    pub fn render(&self, version: &str) -> Value {
        json!({
            "cniVersion": version,
            "code": self.code,
            "msg": self.msg,
            "details": self.details,
        })
    }
}
