//! Whatever is written is read again; whatever is read, however broken, is an answer.

use weft_bgp::wire::{self, Agreed, Frames, MESSAGE_MAX, Message, Notification, Update};

use crate::{
    corpus::{Case, cases},
    corpus_told,
    dice::Dice,
    told::hex,
    values,
};

const ROUNDS: u64 = 20_000;
const MUTATIONS: u64 = 300_000;

fn read_all(bytes: &[u8], agreed: &Agreed) -> Vec<Message> {
    let mut frames = Frames::default();
    frames.push(bytes);
    let mut all = Vec::new();
    while let Some(message) = frames.cut().unwrap() {
        all.extend(wire::read(&message, agreed).unwrap());
    }
    all
}

#[test]
fn what_is_written_is_read_again() {
    let mut dice = Dice(0x5eed);
    for round in 0..ROUNDS {
        let agreed = values::agreed(&mut dice);
        let message = values::message(&mut dice, &agreed);
        let mut written = Vec::new();
        wire::write(&message, &agreed, &mut written);
        assert!(written.len() <= MESSAGE_MAX, "round {round}");
        assert_eq!(read_all(&written, &agreed), [message], "round {round} {agreed:?}");
    }
}

/// One read from bytes is written to others that mean the same.
#[test]
fn the_corpus_survives_its_way_through() {
    for case in cases() {
        let agreed = corpus_told::agreed(&case);
        let Ok(Some(Message::Update(mut update))) = wire::read(&case.message, &agreed) else {
            continue;
        };
        update.faults.clear();
        let mut written = Vec::new();
        wire::write(&Message::Update(update.clone()), &agreed, &mut written);
        let mut again = Update::default();
        for message in read_all(&written, &agreed) {
            let Message::Update(part) = message else { panic!() };
            assert!(part.faults.is_empty(), "{}: {:?}", case.name, part.faults);
            again.attrs = part.attrs.or(again.attrs);
            again.reach.extend(part.reach);
            again.withdrawn.extend(part.withdrawn);
            again.end_of_rib = part.end_of_rib.or(again.end_of_rib);
        }
        update.withdrawn.sort();
        again.withdrawn.sort();
        assert_eq!(again, update, "{}", case.name);
    }
}

/// What holds of every answer.
fn sound(message: &[u8], agreed: &Agreed) {
    match wire::read(message, agreed) {
        Err(notification) => assert!((1..=7).contains(&notification.code), "{notification}"),
        Ok(Some(Message::Update(update))) => sound_update(&update, message),
        Ok(Some(message)) => {
            // It is written, and what is written is read as the same.
            let mut written = Vec::new();
            wire::write(&message, agreed, &mut written);
            assert_eq!(wire::read(&written, agreed), Ok(Some(message)));
        }
        Ok(None) => {}
    }
}

fn sound_update(update: &Update, message: &[u8]) {
    let hex = || hex(message);
    assert_eq!(update.attrs.is_some(), !update.reach.is_empty(), "{}", hex());
    assert!(update.reach.iter().all(|reach| !reach.prefixes.is_empty()), "{}", hex());
    assert!(update.faults.len() <= 9, "{}", hex());
    assert!(update.faults.iter().all(|fault| fault.len() < 200), "{}", hex());
    let reach = update.reach.iter().flat_map(|reach| &reach.prefixes);
    for prefix in reach.chain(&update.withdrawn) {
        assert_eq!(prefix.trunc(), *prefix, "{}", hex());
    }
    if update.end_of_rib.is_some() {
        assert!(update.reach.is_empty() && update.withdrawn.is_empty(), "{}", hex());
    }
}

fn set_length(message: &mut [u8]) {
    let length = u16::try_from(message.len()).unwrap();
    message[16..18].copy_from_slice(&length.to_be_bytes());
}

/// Every cut of every message. Without its length set right it is a bad length; with it, it is one
/// more message that has to have an answer.
#[test]
fn cut_at_every_byte() {
    let mut dice = Dice(99);
    let random = (0..300).map(|_| {
        let agreed = values::agreed(&mut dice);
        let mut written = Vec::new();
        wire::write(&values::message(&mut dice, &agreed), &agreed, &mut written);
        (written, agreed)
    });
    let corpus = cases().into_iter().map(|case| {
        let agreed = corpus_told::agreed(&case);
        (case.message, agreed)
    });
    for (message, agreed) in random.collect::<Vec<_>>().into_iter().chain(corpus) {
        for end in 0..message.len() {
            let mut cut = message[..end].to_vec();
            let error = Notification::with(1, 2, &u16::try_from(end).unwrap().to_be_bytes());
            assert_eq!(wire::read(&cut, &agreed), Err(error));
            if end >= 19 {
                set_length(&mut cut);
                sound(&cut, &agreed);
            }
        }
    }
}

/// A cut inside of the prefixes ends the session, as between two of them it is a shorter UPDATE; a cut
/// inside of the attributes leaves lengths that do not agree (RFC 7606, 3 a).
#[test]
fn what_each_cut_of_an_update_means() {
    let good = &cases()[0];
    let agreed = corpus_told::agreed(good);
    let whole = good.message.len();
    for end in 23..whole {
        let mut cut = good.message[..end].to_vec();
        set_length(&mut cut);
        let read = wire::read(&cut, &agreed);
        let subcode = read.as_ref().err().map(|n| (n.code, n.subcode));
        match whole - end {
            1..=3 => assert_eq!(subcode, Some((3, 10)), "{end}"),
            // The prefix is gone whole: attributes that belong to nothing.
            4 => assert_eq!(read, Ok(Some(Message::Update(Update::default())))),
            _ => assert_eq!(subcode, Some((3, 1)), "{end}"),
        }
    }
}

/// A cut of the list of attributes, its length set right: the prefix is withdrawn, wherever it is.
#[test]
fn each_cut_of_the_attributes_withdraws() {
    let good = &cases()[0];
    let agreed = corpus_told::agreed(good);
    let (begin, end) = (23, good.message.len() - 4);
    for cut in begin..end {
        let mut message = [&good.message[..cut], &good.message[end..]].concat();
        message[21..23].copy_from_slice(&u16::try_from(cut - begin).unwrap().to_be_bytes());
        set_length(&mut message);
        let Ok(Some(Message::Update(update))) = wire::read(&message, &agreed) else { panic!() };
        assert_eq!(update.withdrawn, ["198.51.100.0/24".parse().unwrap()], "{cut}");
        assert!(update.attrs.is_none() && !update.faults.is_empty());
    }
}

fn mutate(dice: &mut Dice, message: &mut Vec<u8>) {
    for _ in 0..=dice.roll(3) {
        let at = 19 + dice.below(message.len().max(20) - 19);
        match dice.roll(6) {
            0 if at < message.len() => message[at] ^= 1 << dice.roll(8),
            1 if at < message.len() => message[at] = dice.byte(),
            2 if at < message.len() => message[at] = [0, 1, 127, 128, 254, 255][dice.below(6)],
            3 => message.truncate(at),
            4 => message.insert(at.min(message.len()), dice.byte()),
            _ => {
                let from = 19 + dice.below(message.len().max(20) - 19);
                let piece =
                    message[from.min(at).min(message.len())..at.min(message.len())].to_vec();
                message.extend(piece.iter().take(64));
            }
        }
    }
    message.truncate(MESSAGE_MAX);
    set_length(message);
}

#[test]
fn broken_messages_have_an_answer() {
    let mut dice = Dice(4271);
    let corpus: Vec<Case> = cases().into_iter().filter(|case| case.message.len() < 300).collect();
    for _ in 0..MUTATIONS {
        let mut agreed = values::agreed(&mut dice);
        agreed.ipv4 = dice.roll(8) > 0;
        agreed.ipv6 = dice.roll(8) > 0;
        let mut message = if dice.yes() {
            corpus[dice.below(corpus.len())].message.clone()
        } else {
            let mut written = Vec::new();
            wire::write(&values::message(&mut dice, &agreed), &agreed, &mut written);
            written
        };
        mutate(&mut dice, &mut message);
        sound(&message, &agreed);
    }
}

/// Nothing but chance, behind a good header.
#[test]
fn noise_has_an_answer() {
    let mut dice = Dice(7606);
    for _ in 0..100_000 {
        let agreed = values::agreed(&mut dice);
        let mut message = vec![0xff; 19];
        message[18] = u8::try_from(dice.roll(6)).unwrap();
        message.extend(dice.many(64, |dice| if dice.yes() { 0 } else { dice.byte() }));
        set_length(&mut message);
        sound(&message, &agreed);
    }
}
