//! AS paths (RFC 4271, 4.3; RFC 5065, 3), and how those of four bytes pass through neighbours that
//! know two (RFC 6793, 4.2).

use super::{AS_TRANS, attribute::Malformed, bytes::Bytes, notification::update_error as error};
use crate::attrs::{AsPath, Segment};

const SET: u8 = 1;
const SEQUENCE: u8 = 2;
const CONFED_SEQUENCE: u8 = 3;
const CONFED_SET: u8 = 4;

/// Sequences that follow each other become one: a long one stands in several segments.
pub fn read(value: &[u8], four_octet_as: bool) -> Result<AsPath, Malformed> {
    let malformed = |why: &str| Malformed::new(error::AS_PATH, why);
    let mut rest = Bytes(value);
    let mut path = AsPath::default();
    while !rest.is_empty() {
        let (Some(kind), Some(count)) = (rest.u8(), rest.u8()) else {
            return Err(malformed("a byte behind its last segment"));
        };
        let count = usize::from(count);
        let width = if four_octet_as { 4 } else { 2 };
        let Some(bytes) = rest.take(count * width) else {
            return Err(malformed("a segment beyond its end"));
        };
        if count == 0 {
            return Err(malformed("an empty segment"));
        }
        let numbers = numbers(bytes, four_octet_as);
        if numbers.contains(&0) {
            return Err(malformed("AS 0 in it (RFC 7607)"));
        }
        path.append(match kind {
            SET => Segment::Set(numbers),
            SEQUENCE => Segment::Sequence(numbers),
            CONFED_SEQUENCE => Segment::ConfedSequence(numbers),
            CONFED_SET => Segment::ConfedSet(numbers),
            other => return Err(malformed(&format!("{other} is no type of segment"))),
        });
    }
    Ok(path)
}

fn numbers(bytes: &[u8], four_octet_as: bool) -> Vec<u32> {
    if four_octet_as {
        bytes.as_chunks::<4>().0.iter().map(|four| u32::from_be_bytes(*four)).collect()
    } else {
        bytes.as_chunks::<2>().0.iter().map(|two| u16::from_be_bytes(*two).into()).collect()
    }
}

pub fn write(path: &AsPath, four_octet_as: bool, out: &mut Vec<u8>) {
    for segment in &path.0 {
        let (kind, numbers) = match segment {
            Segment::Set(numbers) => (SET, numbers),
            Segment::Sequence(numbers) => (SEQUENCE, numbers),
            Segment::ConfedSequence(numbers) => (CONFED_SEQUENCE, numbers),
            Segment::ConfedSet(numbers) => (CONFED_SET, numbers),
        };
        for part in numbers.chunks(255) {
            out.extend_from_slice(&[kind, u8::try_from(part.len()).unwrap_or(255)]);
            for asn in part {
                if four_octet_as {
                    out.extend_from_slice(&asn.to_be_bytes());
                } else {
                    out.extend_from_slice(&two_octet(*asn).to_be_bytes());
                }
            }
        }
    }
}

pub fn two_octet(asn: u32) -> u16 {
    u16::try_from(asn).unwrap_or(AS_TRANS)
}

pub fn is_confed(segment: &Segment) -> bool {
    matches!(segment, Segment::ConfedSequence(_) | Segment::ConfedSet(_))
}

/// Without the segments of a confederation, which AS4_PATH can't have (RFC 6793, 3).
pub fn without_confed(path: &AsPath) -> AsPath {
    AsPath(path.0.iter().filter(|segment| !is_confed(segment)).cloned().collect())
}

/// Some number of it does not fit into two bytes.
pub fn needs_four(path: &AsPath) -> bool {
    let large = |numbers: &Vec<u32>| numbers.iter().any(|asn| u16::try_from(*asn).is_err());
    path.0.iter().any(|segment| match segment {
        Segment::Set(numbers) | Segment::Sequence(numbers) => large(numbers),
        Segment::ConfedSequence(_) | Segment::ConfedSet(_) => false,
    })
}

/// The path that is meant by both (RFC 6793, 4.2.3): what `path` has more, then `new`.
pub fn merge(path: AsPath, new: AsPath) -> AsPath {
    let Some(mut more) = path.length().checked_sub(new.length()) else { return path };
    let mut merged = AsPath::default();
    for segment in path.0 {
        match segment {
            confed @ (Segment::ConfedSequence(_) | Segment::ConfedSet(_)) => merged.append(confed),
            _ if more == 0 => break,
            Segment::Sequence(mut numbers) if numbers.len() > more => {
                numbers.truncate(more);
                merged.append(Segment::Sequence(numbers));
                break;
            }
            Segment::Sequence(numbers) => {
                more -= numbers.len();
                merged.append(Segment::Sequence(numbers));
            }
            set @ Segment::Set(_) => {
                more -= 1;
                merged.append(set);
            }
        }
    }
    new.0.into_iter().for_each(|segment| merged.append(segment));
    merged
}
