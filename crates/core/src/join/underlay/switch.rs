//! How many MAC addresses the physical switch takes in by a node's port, from who answers whom. One
//! is what clouds and hypervisors admit: a child with a MAC address of its own is heard by nobody.

use std::{fmt, net::IpAddr};

/// So many questions that only the NIC's own MAC address had answered make a verdict: what is lost
/// once is not lost each time.
pub const TRIES: usize = 3;

/// Who of the network answered in one go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Try {
    /// The NIC's own MAC address.
    pub own: Option<IpAddr>,
    /// Another; asked of him who had answered the first.
    pub foreign: Option<IpAddr>,
}

/// What is known of the switch at a NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Switch {
    /// Nobody was heard.
    #[default]
    Unknown,
    /// Somebody answered a MAC address that is not the NIC's.
    Several(IpAddr),
    /// Somebody answers the NIC's MAC address and no other.
    One(IpAddr),
}

impl Switch {
    /// None: not enough was tried.
    pub fn judge(tries: &[Try]) -> Option<Self> {
        if let Some(by) = tries.iter().find_map(|tried| tried.foreign) {
            return Some(Self::Several(by));
        }
        if tries.len() < TRIES {
            return None;
        }
        let last = &tries[tries.len() - TRIES..];
        let deaf = last.iter().find(|tried| tried.own.is_none());
        Some(match (deaf, last[0].own) {
            (None, Some(by)) => Self::One(by),
            _ => Self::Unknown,
        })
    }

    /// What counts once this was found: that nobody is heard now says nothing against what was.
    pub fn after(self, last: Self) -> Self {
        if self == Self::Unknown { last } else { self }
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("nothing is known: nobody answered the NIC's MAC address"),
            Self::Several(by) => {
                write!(f, "takes in other MAC addresses than the NIC's ({by} answers one)")
            }
            Self::One(by) => write!(
                f,
                "admits only the NIC's own MAC address (measured: {by} answers it and no other)"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each try as two letters: who answered the NIC's own address, and who the other; `-` nobody.
    fn judged(tries: &str) -> Option<Switch> {
        let who = |letter: u8| (letter != b'-').then(|| IpAddr::from([10, 0, 0, letter - b'a']));
        let read = |tried: &str| {
            let letters = tried.as_bytes();
            Try { own: who(letters[0]), foreign: who(letters[1]) }
        };
        Switch::judge(&tries.split_whitespace().map(read).collect::<Vec<_>>())
    }

    #[test]
    fn a_verdict_takes_three_tries_or_one_answer_to_another_address() {
        let (a, b) = (IpAddr::from([10, 0, 0, 0]), IpAddr::from([10, 0, 0, 1]));
        for (tries, verdict) in [
            ("", None),
            ("a-", None),
            ("a- a-", None),
            ("--", None),
            ("aa", Some(Switch::Several(a))),
            ("a- a- aa", Some(Switch::Several(a))),
            ("-- -b", Some(Switch::Several(b))),
            ("a- a- a-", Some(Switch::One(a))),
            ("a- b- a-", Some(Switch::One(a))),
            // Somebody who answers now and then proves nothing.
            ("a- -- a-", Some(Switch::Unknown)),
            ("-- -- --", Some(Switch::Unknown)),
            ("-- a- a- a-", Some(Switch::One(a))),
        ] {
            assert_eq!(judged(tries), verdict, "{tries:?}");
        }
    }

    #[test]
    fn silence_takes_nothing_back() {
        let by = IpAddr::from([10, 0, 0, 1]);
        let (one, several, unknown) = (Switch::One(by), Switch::Several(by), Switch::Unknown);
        for (now, last, counts) in [
            (unknown, unknown, unknown),
            (unknown, one, one),
            (unknown, several, several),
            (several, one, several),
            (one, several, one),
        ] {
            assert_eq!(now.after(last), counts, "{now:?} after {last:?}");
        }
    }
}
