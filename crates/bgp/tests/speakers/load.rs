//! What many neighbours cost, and one that takes nothing.

use std::{net::IpAddr, time::Duration};

use weft_bgp::{
    Action, Closed, Event, Speaker,
    wire::{Frames, Message},
};

use crate::{
    bench::{Bench, established, open},
    net::Net,
    pair::SECOND,
    setting::{addr, neighbour, node, originated},
};

/// RFC 9687.
#[test]
fn a_neighbour_that_never_reads_holds_no_memory_and_is_given_up() {
    let mut bench = Bench::new();
    established(&mut bench);
    bench.said.clear();
    let began = bench.now;
    let conn = bench.conn;
    let mut closed = false;
    for turn in 0..200_u8 {
        // It lives, and there is always something to tell it.
        let mut keepalive = vec![0xff; 16];
        keepalive.extend([0, 19, 4]);
        bench.speaker.handle(Event::Bytes(conn, &keepalive), bench.now);
        bench.config.originated = originated(turn);
        bench.speaker.configure(bench.config.clone(), bench.now);
        bench.now += SECOND / 4;
        bench.speaker.tick(bench.now);
        closed = closed || bench.speaker.action() == Some(Action::Close(conn));
        if closed {
            break;
        }
    }
    let took = bench.now.saturating_sub(began);
    assert!(closed && took > 18 * SECOND && took < 23 * SECOND, "{took:?}");
    let mut bytes = vec![];
    bench.speaker.outgoing(conn, &mut bytes, 1_000_000, bench.now);
    assert!(bytes.len() < 100, "KEEPALIVE and NOTIFICATION: {} bytes", bytes.len());
    let report = bench.speaker.neighbours(bench.now).remove(0);
    assert_eq!(report.last_error.unwrap(), "it has read nothing for 18 s: does it hang?");
}

/// With a hold time of 0 nothing is sent and nothing is waited for.
#[test]
fn without_hold_time_a_session_stands_in_silence() {
    let mut bench = Bench::new();
    bench.wait(1);
    bench.event(Event::Connected(bench.conn));
    bench.send(&open(|open| open.hold_time = 0));
    bench.send(&Message::Keepalive);
    bench.said.clear();
    bench.pass(SECOND * 1000);
    assert_eq!(bench.outcome(), "established: -");
}

/// Of two that see each other at the same time, one waits a moment.
#[test]
fn a_mesh_comes_up_with_one_connection_a_pair() {
    let size = 20;
    let nodes = (1..=size).map(|local| (addr(local), node(local, 1..=size)));
    let mut net = Net::new(5, nodes.collect());
    let up = |net: &Net| (1..=size).all(|n| net.learnt(addr(n)).len() == 2 * usize::from(size - 1));
    assert!(net.until(2 * SECOND, up));
    let connections = net.connections();
    assert!(connections <= 20 * 19 / 2, "{connections} connections");
}

/// Five hundred neighbours: a speaker is woken for each of them when it is due, not for all.
#[test]
fn many_neighbours_are_cheap() {
    let remotes: Vec<IpAddr> =
        (0..500_u16).map(|n| [10, 1, n.to_be_bytes()[0], n.to_be_bytes()[1]].into()).collect();
    let mut config = node(1, []);
    config.neighbours = remotes.iter().map(|remote| (*remote, neighbour(1, 2))).collect();
    let mut now = SECOND;
    let mut speaker = Speaker::new(now);
    speaker.configure(config.clone(), now);
    let conns: Vec<_> = remotes
        .iter()
        .map(|from| speaker.handle(Event::Accepted { from: *from, to: addr(1) }, now).unwrap())
        .collect();
    for (turn, conn) in (0..500_u16).zip(&conns) {
        let mut bytes = vec![];
        let id = [10, 9, turn.to_be_bytes()[0], turn.to_be_bytes()[1]];
        for message in [open(|open| open.router_id = id.into()), Message::Keepalive] {
            weft_bgp::wire::write(&message, &crate::bench::agreed(), &mut bytes);
        }
        speaker.handle(Event::Bytes(*conn, &bytes), now);
        let mut said = vec![];
        speaker.outgoing(*conn, &mut said, 10_000, now);
    }
    assert!(speaker.neighbours(now).iter().all(|report| report.state == "established"));

    let (end, mut wakes, mut keepalives) = (now + 30 * SECOND, 0, 0);
    while let Some(next) = speaker.deadline().filter(|next| *next < end) {
        now = next;
        wakes += 1;
        speaker.tick(now);
        for conn in &conns {
            let mut bytes = vec![];
            if speaker.has_outgoing(*conn) {
                speaker.outgoing(*conn, &mut bytes, 1000, now);
                keepalives += count(&bytes);
            }
            let alive = [&[0xff; 16][..], &[0, 19, 4]].concat();
            if !bytes.is_empty() {
                speaker.handle(Event::Bytes(*conn, &alive), now);
            }
        }
    }
    let each = f64::from(keepalives) / 500.0;
    assert!((9.0..15.0).contains(&each), "{each} keepalives in 30 s of a hold time of 9 s");
    assert!(wakes <= keepalives + 2 * 500, "{wakes} wakes for {keepalives} keepalives");
    for conn in conns {
        speaker.handle(Event::Closed(conn, Closed::ByPeer), now);
    }
    assert!(speaker.deadline().is_some_and(|next| next < now + Duration::from_secs(1)));
}

fn count(bytes: &[u8]) -> u32 {
    let mut frames = Frames::default();
    frames.push(bytes);
    let mut messages = 0;
    while frames.cut().unwrap().is_some() {
        messages += 1;
    }
    messages
}
