//! The versions of the spec that are spoken.

use std::{fmt, str::FromStr};

use super::{CniError, Code};

/// Every version that is spoken, oldest first.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub const NEWEST: Self = Self::V1_1_0;
    pub const ALL: [Self; 5] =
        [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    pub fn as_str(self) -> &'static str {
        VERSIONS[self as usize]
    }
}

impl FromStr for Version {
    type Err = CniError;
    fn from_str(text: &str) -> Result<Self, CniError> {
        let known = Self::ALL.into_iter().find(|version| version.as_str() == text);
        known.ok_or_else(|| {
            CniError::new(
                Code::IncompatibleVersion,
                "incompatible CNI version",
                format!("cniVersion {text:?}; weft-cni speaks {}", VERSIONS.join(", ")),
            )
        })
    }
}
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
