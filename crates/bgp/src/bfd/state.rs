//! The states of a session, where it goes at what it hears (RFC 5880, 6.8.6), and why it went.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Switched off by an operator: says so, and hears nothing.
    AdminDown,
    #[default]
    Down,
    /// The other side is heard, but has not yet said that it hears us.
    Init,
    Up,
}

impl State {
    /// All, by their numbers on the wire.
    pub const ALL: [Self; 4] = [Self::AdminDown, Self::Down, Self::Init, Self::Up];

    pub(super) fn of(code: u8) -> Self {
        Self::ALL[usize::from(code & 3)]
    }

    pub(super) fn code(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }

    /// Where a session in this state goes when the other side says that it is in that one, and with
    /// which diagnostic it goes down.
    pub fn hears(self, other: Self) -> (Self, Diag) {
        match (self, other) {
            (Self::AdminDown, _) => (Self::AdminDown, Diag::AdministrativelyDown),
            (Self::Down, Self::Down) => (Self::Init, Diag::None),
            (Self::Down, Self::Init) | (Self::Init, Self::Init | Self::Up) => {
                (Self::Up, Diag::None)
            }
            (Self::Init | Self::Up, Self::AdminDown) | (Self::Up, Self::Down) => {
                (Self::Down, Diag::NeighbourSignaledDown)
            }
            (same, _) => (same, Diag::None),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::AdminDown => "admindown",
            Self::Down => "down",
            Self::Init => "init",
            Self::Up => "up",
        })
    }
}

/// Why a session last changed its state (RFC 5880, 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Diag {
    #[default]
    None,
    DetectionTimeExpired,
    EchoFailed,
    NeighbourSignaledDown,
    ForwardingPlaneReset,
    PathDown,
    ConcatenatedPathDown,
    AdministrativelyDown,
    ReverseConcatenatedPathDown,
    Reserved(u8),
}

/// By their numbers on the wire.
const DIAGS: [Diag; 9] = [
    Diag::None,
    Diag::DetectionTimeExpired,
    Diag::EchoFailed,
    Diag::NeighbourSignaledDown,
    Diag::ForwardingPlaneReset,
    Diag::PathDown,
    Diag::ConcatenatedPathDown,
    Diag::AdministrativelyDown,
    Diag::ReverseConcatenatedPathDown,
];

impl Diag {
    pub(super) fn of(code: u8) -> Self {
        DIAGS.get(usize::from(code)).copied().unwrap_or(Self::Reserved(code))
    }

    pub(super) fn code(self) -> u8 {
        match self {
            Self::Reserved(code) => code & 0x1f,
            known => (0..).zip(DIAGS).find(|(_, diag)| *diag == known).map_or(0, |(code, _)| code),
        }
    }
}

impl fmt::Display for Diag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no diagnostic",
            Self::DetectionTimeExpired => "control detection time expired",
            Self::EchoFailed => "echo function failed",
            Self::NeighbourSignaledDown => "neighbour signaled session down",
            Self::ForwardingPlaneReset => "forwarding plane reset",
            Self::PathDown => "path down",
            Self::ConcatenatedPathDown => "concatenated path down",
            Self::AdministrativelyDown => "administratively down",
            Self::ReverseConcatenatedPathDown => "reverse concatenated path down",
            Self::Reserved(code) => return write!(f, "diagnostic {code}"),
        })
    }
}
