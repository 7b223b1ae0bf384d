//! Whether a rule as the kernel tells it says what was written: the kernel adds what was left at its
//! default, and nothing else.

use super::numbers::*;
use crate::wire;

/// Both are lists of expressions.
pub(super) fn alike(written: &[u8], is: &[u8]) -> bool {
    let (written, is): (Vec<_>, Vec<_>) =
        (wire::attrs(written).collect(), wire::attrs(is).collect());
    let one = |(written, is): (&(u16, &[u8]), &(u16, &[u8]))| {
        let name = of(written.1, EXPR_NAME);
        // What was counted is no part of it.
        let counter = name.map(wire::text).is_some_and(|name| name == "counter");
        name == of(is.1, EXPR_NAME)
            && (counter
                || same(
                    of(written.1, EXPR_DATA).unwrap_or_default(),
                    of(is.1, EXPR_DATA).unwrap_or_default(),
                ))
    };
    written.len() == is.len() && written.iter().zip(&is).all(one)
}

fn of(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    wire::attrs(attributes).find(|(is, _)| *is == kind).map(|(_, value)| value)
}

/// What was written is there; what is there besides is zero.
fn same(written: &[u8], is: &[u8]) -> bool {
    let there = wire::attrs(written).all(|(kind, wanted)| {
        // Nests are told apart by their padding alone, which is the kernel's to choose.
        of(is, kind).is_some_and(|value| value == wanted || nested(wanted) && same(wanted, value))
    });
    let zero = |value: &[u8]| value.iter().all(|byte| *byte == 0);
    let besides = |kind: u16, value: &[u8]| of(written, kind).is_some() || zero(value);
    there && wire::attrs(is).all(|(kind, value)| besides(kind, value))
}

/// True if the value reads as attributes to its end.
fn nested(value: &[u8]) -> bool {
    let length: usize =
        wire::attrs(value).map(|(_, value)| 4 + value.len().next_multiple_of(4)).sum();
    length > 0 && length == value.len().next_multiple_of(4)
}
