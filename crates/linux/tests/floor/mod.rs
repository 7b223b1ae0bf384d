//! What tests of the seam stand on: a namespace with a NIC, and convergence proven by looking.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use ipnet::IpNet;
use weft_core::{
    plan::plan,
    policy::{Rule, Ruleset},
    state::{Knob, Object, State},
};
use weft_linux::{Kernel, Netns};

/// Runs `story` in a namespace of its own, with a veth `eth0` as its NIC.
pub fn node(story: impl FnOnce(&Kernel) + Send) {
    let netns = Netns::create().expect("make a namespace; run by `cargo xtask test`");
    netns
        .run(|| {
            sh("ip link set lo up; ip link add eth0 type veth peer name wire; ip link set wire up; \
                ip link set eth0 up; ip addr add 192.0.2.1/24 dev eth0; \
                ip addr add 2001:db8::1/64 dev eth0 nodad");
            story(&Kernel::here().unwrap());
        })
        .unwrap();
}

pub fn sh(command: &str) -> String {
    let out = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[allow(dead_code)] // Not every test has a table.
pub fn ruleset() -> Ruleset {
    let (a, b) = (net("10.1.0.0/16"), net("fd00:1::/48"));
    Ruleset {
        raw: vec![
            Rule::NoTunnel { from: a, port: 4789 },
            Rule::NoTunnel { from: b, port: 4789 },
            Rule::NoTrackPort { port: 4789 },
            Rule::NoTrack { from: a, to: a },
            Rule::NoTrack { from: b, to: b },
        ],
        forward: vec![
            Rule::Apart { range: a, unless_translated: false },
            Rule::Apart { range: b, unless_translated: true },
        ],
        nat: vec![
            Rule::Keep { from: a, to: a },
            Rule::Masquerade { from: a },
            Rule::Keep { from: b, to: b },
            Rule::Masquerade { from: b },
            Rule::MasqueradeAccess,
            Rule::MasqueradeLed,
        ],
    }
}

pub const KNOBS: [Knob; 2] = [Knob::Forward4, Knob::Forward6];

pub fn observe(kernel: &Kernel, desired: &State) -> State {
    let mut knobs = KNOBS.to_vec();
    knobs.extend(desired.objects().filter_map(|object| match object {
        Object::Sysctl { knob, .. } => Some(knob.clone()),
        _ => None,
    }));
    let mut state = kernel.observe_node(&knobs).unwrap().ours;
    for knob in KNOBS {
        let key = Object::Sysctl { knob, value: 0 }.key();
        if !desired.contains(&key) {
            state.drop(&key);
        }
    }
    state
}

/// Brings the kernel to `desired`, and proves it by looking.
pub fn converge(kernel: &Kernel, desired: &State) {
    for _ in 0..3 {
        let changes = plan(desired, &observe(kernel, desired));
        if changes.is_empty() {
            return;
        }
        let refusals = kernel.apply(&changes);
        assert!(refusals.is_empty(), "{refusals:#?}");
    }
    let rest: Vec<String> =
        plan(desired, &observe(kernel, desired)).iter().map(ToString::to_string).collect();
    panic!("not converged: {rest:#?}\n{}", sh("ip -d link; ip route; ip -6 route; ip nexthop"));
}

/// How many transactions nftables has seen in this namespace.
#[allow(dead_code)] // Few tests count them.
pub fn generation() -> u32 {
    use netlink_sys::{Socket, SocketAddr, protocols};
    const NFT_MSG_GETGEN: u16 = 10 << 8 | 16;
    let mut socket = Socket::new(protocols::NETLINK_NETFILTER).unwrap();
    socket.bind_auto().unwrap();
    socket.connect(&SocketAddr::new(0, 0)).unwrap();
    let mut message = [0; 20];
    message[..4].copy_from_slice(&20_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&NFT_MSG_GETGEN.to_ne_bytes());
    message[6..8].copy_from_slice(&1_u16.to_ne_bytes());
    socket.send(&message, 0).unwrap();
    let (answer, _) = socket.recv_from_full().unwrap();
    // Behind both headers and that of the first attribute, the generation's number.
    u32::from_be_bytes(answer[24..28].try_into().unwrap())
}
