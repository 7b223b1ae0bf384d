//! Packets are written and read, and what is none is refused by name.

use crate::bfd::{
    Bfd, Control, Diag, State,
    packet::LENGTH,
    tests::world::{A, B, World, addr, ms, watch},
    timing::Dice,
};

fn example() -> Control {
    Control {
        diag: Diag::NeighbourSignaledDown,
        state: State::Up,
        poll: true,
        last: false,
        independent: false,
        demand: false,
        multiplier: 3,
        mine: 0x0102_0304,
        yours: 0x0a0b_0c0d,
        desired_tx: ms(300),
        required_rx: ms(100),
        required_echo: ms(0),
    }
}

fn hex(bytes: &[u8]) -> String {
    let words = bytes.chunks(4).map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect());
    words.collect::<Vec<String>>().join(" ")
}

#[test]
fn a_packet_is_as_rfc_5880_draws_it() {
    let bytes = example().write();
    assert_eq!(hex(&bytes), "23e00318 01020304 0a0b0c0d 000493e0 000186a0 00000000");
    assert_eq!(Control::read(&bytes), Ok(example()));
}

#[test]
fn what_is_no_packet_is_refused_in_words() {
    let cases: [(&str, &dyn Fn(&mut Vec<u8>)); 12] = [
        ("shorter than a BFD packet", &|bytes| bytes.truncate(3)),
        ("version other than 1", &|bytes| bytes[0] = 0x43),
        ("length that can't be", &|bytes| bytes.truncate(23)),
        ("length that can't be", &|bytes| bytes[3] = 23),
        ("length that can't be", &|bytes| bytes[3] = 25),
        // With authentication two more bytes are the least.
        ("length that can't be", &|bytes| bytes[1] |= 0x04),
        ("detection multiplier 0", &|bytes| bytes[2] = 0),
        ("multipoint bit", &|bytes| bytes[1] |= 0x01),
        ("discriminator 0", &|bytes| bytes[4..8].fill(0)),
        ("authentication, which is not configured", &|bytes| {
            bytes[1] |= 0x04;
            bytes[3] = 28;
            bytes.extend([1, 4, 1, 0]);
        }),
        ("fine", &|bytes| bytes.extend([1, 2, 3])),
        ("fine", &|bytes| bytes[0] = 0x3f),
    ];
    for (expected, spoil) in cases {
        let mut bytes = example().write().to_vec();
        spoil(&mut bytes);
        let said = Control::read(&bytes).map_or_else(|why| why.to_string(), |_| "fine".into());
        assert_eq!(said, expected, "{}", hex(&bytes));
    }
}

#[test]
fn whatever_is_read_is_written_as_it_was() {
    let mut dice = Dice::new(1);
    let mut read = 0;
    for _ in 0..200_000 {
        let mut bytes = example().write();
        for _ in 0..dice.between(1, 4) {
            let at = usize::try_from(dice.between(0, 23)).unwrap();
            bytes[at] = dice.roll().to_be_bytes()[0];
        }
        if let Ok(control) = Control::read(&bytes) {
            read += 1;
            assert_eq!(control.write()[4..], bytes[4..]);
            assert_eq!(Control::read(&control.write()), Ok(control));
            assert_eq!(control.write()[..3], bytes[..3]);
        }
    }
    assert!(read > 50_000, "{read}");
}

#[test]
fn no_datagram_harms_a_set_of_sessions() {
    let mut world = World::up(7, (ms(300), 3), (ms(300), 3));
    let sample = world.sent_by(B);
    let mut dice = Dice::new(2);
    for round in 0..100_000 {
        let mut bytes = sample.to_vec();
        for _ in 0..dice.between(0, 5) {
            let at = usize::try_from(dice.between(0, 23)).unwrap();
            bytes[at] ^= 1 << dice.between(0, 7);
        }
        bytes.truncate(usize::try_from(dice.between(20, 30)).unwrap());
        let now = world.now + ms(round);
        let port = if dice.between(0, 1) == 0 { 3784 } else { 4784 };
        let ttl = 255 - u8::try_from(dice.between(0, 1)).unwrap();
        let bfd = world.end(A);
        let _ = bfd.receive(addr(B), addr(A), ttl, port, &bytes, now);
        bfd.tick(now);
        // For every datagram at most one answer and one word of its own.
        assert!(std::iter::from_fn(|| bfd.transmit()).count() <= 2);
        assert!(std::iter::from_fn(|| bfd.event()).count() <= 2);
    }
    let [mut a, b] = [Bfd::new(3), Bfd::new(4)];
    a.configure(watch(A, ms(300), 3), ms(0));
    let mut fresh = World::new(5, (ms(300), 3), (ms(300), 3));
    fresh.ends = [Some(a), Some(b)];
    fresh.configure(B, ms(300), 3);
    fresh.run(ms(10_000));
    assert_eq!(fresh.states(), [State::Up, State::Up]);
}

/// A pod's words leave its node under the node's address, but through it.
#[test]
fn for_one_on_the_link_nobody_speaks_from_beyond_it_whatever_the_port() {
    let mut world = World::up(7, (ms(300), 3), (ms(300), 3));
    let good = Control::read(&world.sent_by(B)).unwrap();
    let down = Control { state: State::Down, yours: 0, ..good }.write();
    for on_link in [true, false] {
        let mut settings = watch(A, ms(300), 3);
        settings.values_mut().for_each(|one| (one.multihop, one.on_link) = (true, on_link));
        let mut bfd = Bfd::new(3);
        bfd.configure(settings, ms(0));
        let mut hears = |ttl| bfd.receive(addr(B), addr(A), ttl, 4784, &down, ms(1)).is_ok();
        assert_eq!([hears(254), hears(255)], [!on_link, true], "on the link: {on_link}");
    }
}

#[test]
fn what_is_not_meant_for_a_session_is_refused_and_counted() {
    let mut world = World::up(7, (ms(300), 3), (ms(300), 3));
    let now = world.now;
    let good = Control::read(&world.sent_by(B)).unwrap();
    let down = Control { state: State::Down, yours: 0, ..good };
    let stranger = "10.0.0.9".parse().unwrap();
    let elsewhere = "10.0.0.8".parse().unwrap();
    let cases = [
        ("TTL below 255: it came through a router", addr(B), addr(A), 254, 3784, down),
        (
            "port of the other kind of session (3784: one hop, 4784: several)",
            addr(B),
            addr(A),
            255,
            4784,
            down,
        ),
        ("sent to another address of ours", addr(B), elsewhere, 255, 3784, down),
        ("no session with this address", stranger, addr(A), 255, 3784, down),
        (
            "discriminator 0 in state init or up",
            addr(B),
            addr(A),
            255,
            3784,
            Control { yours: 0, ..good },
        ),
        (
            "discriminator of no session",
            addr(B),
            addr(A),
            255,
            3784,
            Control { yours: !good.yours, ..good },
        ),
    ];
    for (expected, from, to, ttl, port, control) in cases {
        let refused = world.end(A).receive(from, to, ttl, port, &control.write(), now);
        assert_eq!(refused.unwrap_err().to_string(), expected);
        let count = world.report(A).refused.get(expected).copied();
        assert_eq!(count, (from == addr(B)).then_some(1), "{expected}");
    }
    assert_eq!(world.states(), [State::Up, State::Up]);
    // Had one of them been taken, it would have hurt.
    world.end(A).receive(addr(B), addr(A), 255, 3784, &down.write(), now).unwrap();
    assert_eq!(world.states(), [State::Down, State::Up]);
}

impl World {
    /// The last packet of an end.
    fn sent_by(&mut self, end: usize) -> [u8; LENGTH] {
        self.run(ms(1000));
        let of = self.sent.iter().rev().find(|(_, by, _)| *by == end).unwrap();
        of.2.write()
    }
}
