//! Frames: a stream, however it is cut, gives the same messages.

use weft_bgp::wire::{Agreed, Frames, Message, Notification, write};

use crate::dice::Dice;

const KEEPALIVE: [u8; 19] = {
    let mut bytes = [0xff; 19];
    bytes[16] = 0;
    bytes[17] = 19;
    bytes[18] = 4;
    bytes
};

fn all(frames: &mut Frames) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| frames.cut().unwrap()).collect()
}

#[test]
fn cut_anywhere() {
    let mut dice = Dice(7);
    let mut stream = Vec::new();
    let mut messages = Vec::new();
    for _ in 0..300 {
        let length = usize::try_from(dice.roll(4076)).unwrap();
        let data = vec![7; length];
        let message = match dice.roll(2) {
            0 => Message::Keepalive,
            _ => Message::Notification(Notification { code: 6, subcode: 2, data }),
        };
        let begin = stream.len();
        write(&message, &Agreed::default(), &mut stream);
        messages.push(stream[begin..].to_vec());
    }
    for most in [1, 3, 19, 100, 4096, 70_000, stream.len()] {
        let mut frames = Frames::default();
        let mut got = Vec::new();
        let mut rest = stream.as_slice();
        while !rest.is_empty() {
            let count = usize::try_from(dice.roll(most as u64)).unwrap() + 1;
            let (piece, after) = rest.split_at(count.min(rest.len()));
            frames.push(piece);
            // Not always at once.
            if dice.roll(3) > 0 {
                got.extend(all(&mut frames));
            }
            rest = after;
        }
        got.extend(all(&mut frames));
        assert!(got == messages, "pieces of up to {most} bytes");
    }
}

#[test]
fn an_error_comes_as_soon_as_the_header_is_there_and_stays() {
    let mut frames = Frames::default();
    frames.push(&KEEPALIVE);
    frames.push(&KEEPALIVE[..16]);
    frames.push(&[0xff, 0xff]);
    assert_eq!(frames.cut(), Ok(Some(KEEPALIVE.to_vec())));
    assert_eq!(frames.cut(), Ok(None));
    frames.push(&[2]);
    let error = Notification::with(1, 2, &[0xff, 0xff]);
    assert_eq!(frames.cut(), Err(error.clone()));
    frames.push(&KEEPALIVE);
    assert_eq!(frames.cut(), Err(error));
}

/// What is not a message is not waited for: 19 bytes are enough.
#[test]
fn noise() {
    let mut frames = Frames::default();
    frames.push(b"GET / HTTP/1.1\r\n\r\n\r\n");
    assert_eq!(frames.cut(), Err(Notification::new(1, 1)));
}
