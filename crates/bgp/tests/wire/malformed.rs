//! RFC 7606 as a rule: whatever stands in an attribute other than MP_REACH_NLRI and MP_UNREACH_NLRI,
//! the session goes on, and the route is announced or withdrawn; nothing of it is lost.

use weft_bgp::wire::{self, Agreed, Message, Notification, Update};

use crate::{
    dice::Dice,
    told::{bytes, hex},
    values,
};

const KNOWN: [u8; 13] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17, 18, 32];
const ROUNDS: usize = 1500;

fn message(attributes: &[u8], nlri: &str) -> Vec<u8> {
    let nlri = bytes(nlri);
    let count = u16::try_from(attributes.len()).unwrap().to_be_bytes();
    let length = u16::try_from(23 + attributes.len() + nlri.len()).unwrap().to_be_bytes();
    [&[0xff; 16], length.as_slice(), &[2, 0, 0], &count, attributes, &nlri].concat()
}

fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).unwrap();
    [&[flags & !0x10, code, length], value].concat()
}

/// ORIGIN, AS_PATH and NEXT_HOP, as they should be for these.
fn mandatory(agreed: &Agreed, besides: u8) -> Vec<u8> {
    let path = if agreed.four_octet_as { "02010000fde9" } else { "0201fde9" };
    let all = [(1, "00"), (2, path), (3, "c0000201")];
    all.iter()
        .filter(|(code, _)| *code != besides)
        .flat_map(|(code, value)| attribute(0x40, *code, &bytes(value)))
        .collect()
}

fn read(message: &[u8], agreed: &Agreed) -> Result<Update, Notification> {
    match wire::read(message, agreed)? {
        Some(Message::Update(update)) => Ok(update),
        other => panic!("{other:?}"),
    }
}

fn value(dice: &mut Dice) -> Vec<u8> {
    let length = [0, 1, 3, 4, 5, 6, 8, 12, 24][dice.below(9)];
    let most = [4, 256][dice.below(2)];
    (0..length).map(|_| u8::try_from(dice.roll(most)).unwrap()).collect()
}

#[test]
fn no_attribute_ends_the_session() {
    let mut dice = Dice(7606);
    let (mut announced, mut withdrawn) = ([0; 13], [0; 13]);
    for round in 0..ROUNDS * KNOWN.len() {
        let agreed = values::agreed(&mut dice);
        let which = round % KNOWN.len();
        let code = KNOWN[which];
        let flags = if dice.yes() { right_flags(code) } else { dice.byte() };
        let attribute = attribute(flags, code, &value(&mut dice));
        let mandatory = mandatory(&agreed, code);
        let list = if dice.yes() { [attribute, mandatory] } else { [mandatory, attribute] };
        let message = message(&list.concat(), "18c63364");
        let update = read(&message, &agreed).unwrap_or_else(|n| panic!("{n}: {}", hex(&message)));
        match (&update.reach[..], &update.withdrawn[..]) {
            ([reach], []) if reach.prefixes.len() == 1 => announced[which] += 1,
            ([], [_]) => withdrawn[which] += 1,
            _ => panic!("{update:?}: {}", hex(&message)),
        }
        assert!(update.withdrawn.is_empty() || !update.faults.is_empty());
    }
    // Both happen, but to what is discarded at the worst.
    assert!(announced.iter().all(|count| *count > 0), "{announced:?}");
    for (code, count) in KNOWN.iter().zip(withdrawn) {
        assert_eq!(count == 0, matches!(code, 6 | 7 | 17 | 18), "attribute {code}: {count}");
    }
}

fn right_flags(code: u8) -> u8 {
    match code {
        1 | 2 | 3 | 5 | 6 => 0x40,
        4 | 9 | 10 => 0x80,
        _ => 0xc0,
    }
}

/// The same without a route: only what is discarded lets the session go on (RFC 7606, 5.2).
#[test]
fn without_a_route_what_would_withdraw_ends_the_session() {
    let mut dice = Dice(52);
    for round in 0..ROUNDS * KNOWN.len() {
        let agreed = values::agreed(&mut dice);
        let code = KNOWN[round % KNOWN.len()];
        let list =
            [mandatory(&agreed, code), attribute(dice.byte(), code, &value(&mut dice))].concat();
        let with = read(&message(&list, "18c63364"), &agreed).unwrap();
        let without = read(&message(&list, ""), &agreed);
        assert_eq!(without.is_err(), !with.withdrawn.is_empty(), "{}", hex(&list));
    }
}

/// Every value of every byte behind the header of a good message has an answer.
#[test]
fn every_byte_may_be_any() {
    let agreed = Agreed { four_octet_as: true, ipv4: true, ipv6: true, ..Agreed::default() };
    let mp = "800e1c 000201 10 20010db8000000000000000000000001 00 3020010db80001";
    let list = [bytes(mp), mandatory(&agreed, 0)].concat();
    let good = message(&list, "18c63364");
    for at in 19..good.len() {
        for byte in 0..=255 {
            let mut message = good.clone();
            message[at] = byte;
            match read(&message, &agreed) {
                Ok(update) => {
                    let reach = update.reach.iter().map(|reach| reach.prefixes.len());
                    let told = reach.sum::<usize>() + update.withdrawn.len();
                    assert!(told > 0 || !update.faults.is_empty(), "{}", hex(&message));
                }
                Err(n) => assert!(n.code == 3 && n.subcode > 0, "{n}: {}", hex(&message)),
            }
        }
    }
}
