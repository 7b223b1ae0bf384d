//! How plugin and agent talk over the agent's socket: one frame there, with the namespace's
//! descriptor beside its first byte, one frame back. A frame is a version byte, a length of four
//! bytes in network order, and JSON.
//!
//! The agent may see a call twice: a plugin whose connection broke before the whole answer came
//! sends it again. So every verb must be safe to repeat: ADD answers for what it has already made
//! in this namespace, and the second DEL, CHECK or GC finds what the first left.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Version of this protocol.
pub const VERSION: u8 = 1;
/// Bytes of version and length.
pub const HEAD: usize = 5;
/// Longest frame: a configuration of [`CONFIG_MAX`] bytes of quotes, each escaped, fits.
pub const FRAME_MAX: usize = 4 << 20;
/// Longest configuration that is read; one with a long `prevResult` is a few kilobytes, one of GC
/// about a hundred bytes per pod.
pub const CONFIG_MAX: usize = 1 << 20;
/// Where the agent listens unless it is told otherwise.
pub const SOCKET: &str = "/run/weft/cni.sock";

/// What the plugin prints and exits with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub exit: u8,
    pub stdout: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    #[error(
        "protocol version {0}, this side speaks {VERSION}: install plugin and agent of one release"
    )]
    Version(u8),
    #[error("a frame of {0} bytes is longer than {FRAME_MAX}")]
    TooLong(usize),
    #[error("a frame that is not what was expected: {0}")]
    Json(String),
}

pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, BadFrame> {
    let mut frame = vec![VERSION, 0, 0, 0, 0];
    serde_json::to_writer(&mut frame, message)
        .map_err(|error| BadFrame::Json(error.to_string()))?;
    let length = frame.len() - HEAD;
    let said = u32::try_from(length).ok().filter(|_| length <= FRAME_MAX);
    let said = said.ok_or(BadFrame::TooLong(length))?;
    frame[1..HEAD].copy_from_slice(&said.to_be_bytes());
    Ok(frame)
}

/// The length of the JSON behind this head.
pub fn length(head: [u8; HEAD]) -> Result<usize, BadFrame> {
    let [version, length @ ..] = head;
    let length = u32::from_be_bytes(length) as usize;
    if version != VERSION {
        return Err(BadFrame::Version(version));
    }
    if length > FRAME_MAX { Err(BadFrame::TooLong(length)) } else { Ok(length) }
}

pub fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, BadFrame> {
    serde_json::from_slice(json).map_err(|error| BadFrame::Json(error.to_string()))
}
