//! BFD's sockets on the real stack: what came in is known with its TTL and the address that it went to.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use weft_linux::{
    Netns,
    bfd::{Ear, Heard, Mouth, urgent},
    rig,
};

const PORT: u16 = 3784;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn hosts() -> (Netns, Netns) {
    let (here, there) = (Netns::create().unwrap(), Netns::create().unwrap());
    rig::pair(&here, "eth0", &there, "eth0", 1500).unwrap();
    for (netns, host) in [(&here, 1), (&there, 2)] {
        rig::addr(netns, "eth0", format!("10.0.0.{host}/24").parse().unwrap()).unwrap();
        rig::addr(netns, "eth0", format!("fd00::{host}/64").parse().unwrap()).unwrap();
    }
    (here, there)
}

fn hears(ear: &mut Ear, buffer: &mut [u8]) -> Heard {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(heard) = ear.receive(buffer).unwrap() {
            return heard;
        }
        assert!(Instant::now() < end, "nothing came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_packet_is_sent_with_ttl_255_from_its_own_port_and_heard_so() {
    let (here, there) = hosts();
    let mut buffer = [0; 64];
    for (from, to, any) in [("10.0.0.2", "10.0.0.1", "0.0.0.0"), ("fd00::2", "fd00::1", "::")] {
        let at = SocketAddr::new(ip(any), PORT);
        let mut ear = here.run(|| Ear::open(at)).unwrap().unwrap();
        assert_eq!((ear.receive(&mut buffer).unwrap(), ear.port()), (None, PORT));
        let mouth = there.run(|| Mouth::open(ip(from), 50_000)).unwrap().unwrap();
        mouth.send(SocketAddr::new(ip(to), PORT), b"hello").unwrap();
        let heard = hears(&mut ear, &mut buffer);
        let expected = Heard { from: ip(from), to: ip(to), ttl: 255, length: 5 };
        assert_eq!((heard, &buffer[..5]), (expected, &b"hello"[..]));
        // Another's TTL is seen as well.
        let plain = there.run(|| UdpSocket::bind((ip(from), 0)).unwrap()).unwrap();
        plain.send_to(b"plain", (ip(to), PORT)).unwrap();
        assert_eq!(hears(&mut ear, &mut buffer).ttl, 64);
        // Whoever is not there does not make the next packet fail.
        drop(ear);
        for _ in 0..3 {
            mouth.send(SocketAddr::new(ip(to), PORT), b"nobody").unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_port_that_another_has_is_named() {
    let netns = Netns::create().unwrap();
    let all = ["0.0.0.0:3784", "[::]:3784", "0.0.0.0:4784", "[::]:4784"];
    let open = |at: &str| netns.run(|| Ear::open(at.parse().unwrap())).unwrap();
    // The families are apart.
    let ears: Vec<Ear> = all.iter().map(|at| open(at).unwrap()).collect();
    for at in all {
        let error = open(at).err().unwrap().to_string();
        let port = &at[at.len() - 4..];
        assert!(error.starts_with(&format!("UDP port {port} is taken by another BFD daemon")));
    }
    drop(ears);
    all.iter().for_each(|at| drop(open(at).unwrap()));
}

#[test]
fn an_urgent_thread_runs_before_others() {
    let stat = std::thread::spawn(|| {
        urgent();
        fs::read_to_string("/proc/thread-self/stat").unwrap()
    });
    let stat = stat.join().unwrap();
    // The name may have spaces and ends with a parenthesis (proc_pid_stat(5)).
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let (nice, policy) = (fields[16], fields[38]);
    // In real time (SCHED_RR), else nicer to us, where either is allowed at all.
    let allowed = capabilities() & (1 << 23) != 0 && first_user_namespace();
    let got = policy == "2" || nice == "-10";
    assert!(got || !allowed, "policy {policy}, nice {nice}");
}

fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let of = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    u64::from_str_radix(of, 16).unwrap()
}

/// Capabilities of others count for nothing here.
fn first_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295")
}
