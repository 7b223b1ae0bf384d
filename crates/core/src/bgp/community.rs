//! Marks on routes (RFC 1997, RFC 8092), as people write them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct Community(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

/// IANA's registry of well-known communities, those that mean something to any router.
const KNOWN: [(&str, u32); 6] = [
    ("graceful-shutdown", 0xffff_0000),
    ("blackhole", 0xffff_029a),
    ("no-export", 0xffff_ff01),
    ("no-advertise", 0xffff_ff02),
    ("no-export-subconfed", 0xffff_ff03),
    ("no-peer", 0xffff_ff04),
];

impl FromStr for Community {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, value)) = KNOWN.iter().find(|(name, _)| *name == text) {
            return Ok(Self(*value));
        }
        let halves = text.split_once(':').and_then(|(high, low)| {
            Some((u32::from(high.parse::<u16>().ok()?), u32::from(low.parse::<u16>().ok()?)))
        });
        let (high, low) = halves.ok_or_else(|| {
            let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
            format!(
                "{text:?} is no community: write two numbers up to 65535 as 64512:100, or {}",
                names.join(", ")
            )
        })?;
        Ok(Self(high << 16 | low))
    }
}
impl TryFrom<String> for Community {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
impl From<Community> for String {
    fn from(community: Community) -> Self {
        community.to_string()
    }
}
impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match KNOWN.iter().find(|(_, value)| *value == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff),
        }
    }
}

impl FromStr for LargeCommunity {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Option<Vec<u32>> = text.split(':').map(|part| part.parse().ok()).collect();
        match parts.as_deref() {
            Some([a, b, c]) => Ok(Self(*a, *b, *c)),
            _ => Err(format!("{text:?} is no large community: write three numbers as 64512:1:2")),
        }
    }
}
impl TryFrom<String> for LargeCommunity {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
impl From<LargeCommunity> for String {
    fn from(community: LargeCommunity) -> Self {
        community.to_string()
    }
}
impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0, self.1, self.2)
    }
}
