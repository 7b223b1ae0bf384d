//! How much a pod may send and receive (`bandwidth`): measured beside one that is not limited.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use crate::{ports::add_with, story::*};

const RATE: u64 = 8_000_000;

/// Bytes a second from one pod to another, over some of a second.
fn speed(from: &Pod, to: &Pod) -> u64 {
    let at = SocketAddr::new(to.addrs[0], 5201);
    let door = to.netns.run(|| TcpListener::bind(at).unwrap()).unwrap();
    let sent = from.netns.run(|| TcpStream::connect(at).unwrap()).unwrap();
    let (mut got, _) = door.accept().unwrap();
    let until = Instant::now() + Duration::from_millis(1500);
    let sender = thread::spawn(move || {
        let (mut stream, block) = (sent, vec![0; 65536]);
        while Instant::now() < until && stream.write_all(&block).is_ok() {}
    });
    let (mut bytes, mut block) = (0, vec![0; 65536]);
    // What the bucket held at first is no measure.
    while let Ok(n) = got.read(&mut block) {
        if n == 0 || Instant::now() > until {
            break;
        }
        if until - Instant::now() < Duration::from_secs(1) {
            bytes += n as u64;
        }
    }
    drop(got);
    sender.join().unwrap();
    bytes
}

fn limited(attach: &str) {
    let site = cluster(1, attach, "host-gw");
    let node = &site.nodes[0];
    let add = |name: &str, limits: Value| {
        add_with(node, name, &json!({"bandwidth": limits})).unwrap_or_else(|why| panic!("{why}"))
    };
    let free = add("free", json!({}));
    let slow = add("slow", json!({"ingressRate": RATE, "egressRate": RATE}));
    let other = add("other", json!({}));
    let bounds = RATE / 8 / 2..RATE / 8 * 3 / 2;
    let unlimited = speed(&free, &other);
    for (what, measured) in [("receives", speed(&free, &slow)), ("sends", speed(&slow, &free))] {
        println!(
            "{attach}: it {what} {measured} of {} bytes a second, unlimited {unlimited}",
            RATE / 8
        );
        assert!(bounds.contains(&measured), "{attach}: it {what} {measured}");
        assert!(unlimited > 10 * measured, "{attach}: {unlimited} without, {measured} with");
    }
    empty_plan(node);
    // Taken away on the node's end, it is there again.
    let limits = || sh(&node.netns, "tc qdisc show").matches("qdisc tbf").count();
    assert_eq!(limits(), 1);
    let line = sh(&node.netns, "tc qdisc show | grep tbf");
    let dev = line.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap();
    sh(
        &node.netns,
        &format!(
            "tc qdisc del dev {dev} root; ip link add poke type dummy 2>/dev/null || ip link add poke type bridge"
        ),
    );
    until("limited again", || limits() == 1);
    [free, slow, other].into_iter().for_each(|pod| node.delete_pod(pod).unwrap());
    nothing_left(node);
}

#[test]
fn a_limited_pod_sends_and_receives_what_it_may_with_veth() {
    limited("veth");
}

#[test]
fn a_limited_pod_sends_and_receives_what_it_may_on_a_bridge() {
    limited("bridge");
}

#[test]
fn what_a_pod_on_the_physical_network_receives_is_not_limited_and_that_is_said() {
    let site = crate::lan::on_lan(&crate::lan::lan(1), &crate::macvlan::attach("bridge"));
    let node = &site.nodes[0];
    let said = add_with(node, "slow", &json!({"bandwidth": {"ingressRate": RATE}})).err().unwrap();
    assert!(said.to_string().contains("leave out `ingressRate`"), "{said}");
    let slow = add_with(node, "slow", &json!({"bandwidth": {"egressRate": RATE}}))
        .unwrap_or_else(|why| panic!("{why}"));
    let free = node.add_pod("free", "net").unwrap();
    let measured = speed(&slow, &free);
    assert!((RATE / 8 / 2..RATE / 8 * 3 / 2).contains(&measured), "{measured}");
    empty_plan(node);
    [slow, free].into_iter().for_each(|pod| node.delete_pod(pod).unwrap());
    nothing_left(node);
}
