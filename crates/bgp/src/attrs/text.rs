//! Attributes as text, for people and in records: communities as `64512:100`, paths as
//! `64512 65001 {65010,65011}`.

use std::{
    fmt::{self, Write},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{AsPath, Community, LargeCommunity, Segment};

/// RFC 1997, 3765, 7999, 8326.
const WELL_KNOWN: [(Community, &str); 5] = [
    (Community::NO_EXPORT, "no-export"),
    (Community::NO_ADVERTISE, "no-advertise"),
    (Community::NO_EXPORT_SUBCONFED, "no-export-subconfed"),
    (Community::BLACKHOLE, "blackhole"),
    (Community::GRACEFUL_SHUTDOWN, "graceful-shutdown"),
];

/// Text that does not say what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchText {
    #[error(
        "{0:?} is no community: write two numbers up to 65535 like 64512:100, or no-export, \
         no-advertise, no-export-subconfed, blackhole, graceful-shutdown"
    )]
    Community(String),
    #[error("{0:?} is no large community: write three numbers up to 4294967295 like 64512:1:2")]
    LargeCommunity(String),
    #[error(
        "{0:?} is no AS path: write AS numbers with spaces between, sets in braces, like \
         64512 65001 {{65010,65011}}"
    )]
    AsPath(String),
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match WELL_KNOWN.iter().find(|(community, _)| community == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff),
        }
    }
}

impl FromStr for Community {
    type Err = NoSuchText;

    fn from_str(text: &str) -> Result<Self, NoSuchText> {
        if let Some((community, _)) = WELL_KNOWN.iter().find(|(_, name)| *name == text) {
            return Ok(*community);
        }
        let numbers = text.split_once(':').and_then(|(high, low)| {
            let high = decimal(high)?.try_into().ok()?;
            Some((high, decimal(low)?.try_into().ok()?))
        });
        let (high, low): (u16, u16) =
            numbers.ok_or_else(|| NoSuchText::Community(text.to_owned()))?;
        Ok(Self(u32::from(high) << 16 | u32::from(low)))
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0, self.1, self.2)
    }
}

impl FromStr for LargeCommunity {
    type Err = NoSuchText;

    fn from_str(text: &str) -> Result<Self, NoSuchText> {
        let mut numbers = text.split(':').map(decimal);
        match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Some(a)), Some(Some(b)), Some(Some(c)), None) => Ok(Self(a, b, c)),
            _ => Err(NoSuchText::LargeCommunity(text.to_owned())),
        }
    }
}

/// Digits alone: `parse` takes a sign too.
fn decimal(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Sequences as they are, sets in `{}`, a confederation's in `()` and `[]`.
impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, segment) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { " " })?;
            match segment {
                Segment::Sequence(numbers) => list(f, numbers, ' ')?,
                Segment::Set(numbers) => enclosed(f, '{', numbers, ',', '}')?,
                Segment::ConfedSequence(numbers) => enclosed(f, '(', numbers, ' ', ')')?,
                Segment::ConfedSet(numbers) => enclosed(f, '[', numbers, ',', ']')?,
            }
        }
        Ok(())
    }
}

fn enclosed(
    f: &mut fmt::Formatter<'_>,
    open: char,
    numbers: &[u32],
    between: char,
    close: char,
) -> fmt::Result {
    f.write_char(open)?;
    list(f, numbers, between)?;
    f.write_char(close)
}

fn list(f: &mut fmt::Formatter<'_>, numbers: &[u32], between: char) -> fmt::Result {
    for (at, number) in numbers.iter().enumerate() {
        if at > 0 {
            f.write_char(between)?;
        }
        write!(f, "{number}")?;
    }
    Ok(())
}

impl FromStr for AsPath {
    type Err = NoSuchText;

    fn from_str(text: &str) -> Result<Self, NoSuchText> {
        path(text).ok_or_else(|| NoSuchText::AsPath(text.to_owned()))
    }
}

fn path(text: &str) -> Option<AsPath> {
    let mut path = AsPath::default();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (close, make): (char, fn(Vec<u32>) -> Segment) = match first {
            '{' => ('}', Segment::Set),
            '(' => (')', Segment::ConfedSequence),
            '[' => (']', Segment::ConfedSet),
            _ => {
                let end = rest.find(['{', '(', '[']).unwrap_or(rest.len());
                path.append(Segment::Sequence(numbers(&rest[..end])?));
                rest = &rest[end..];
                continue;
            }
        };
        let (inside, after) = rest[1..].split_once(close)?;
        path.append(make(numbers(inside)?));
        rest = after.trim_start();
    }
    Some(path)
}

/// At least one, none of them 0.
fn numbers(text: &str) -> Option<Vec<u32>> {
    let words = text.split([' ', ',']).filter(|word| !word.is_empty());
    let numbers: Vec<u32> = words.map(decimal).collect::<Option<_>>()?;
    (!numbers.is_empty() && !numbers.contains(&0)).then_some(numbers)
}

/// In records they are text.
macro_rules! serde_as_text {
    ($($kind:ty),*) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

serde_as_text!(Community, LargeCommunity, AsPath);
