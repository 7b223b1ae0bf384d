//! What `weft` says of policies, beside what happens to packets.

use std::net::SocketAddr;

use crate::{
    bgp::weft,
    policies::{add_pods, only, only_out, world},
    services::{ENDPOINT, seen_at},
    story::*,
};

#[test]
fn who_asks_is_told_which_policy_lets_a_packet_pass_or_drops_it() {
    let (site, objects) = world("veth", "vxlan");
    let pods = add_pods(&site, &objects);
    let [a1, a2, b1, b2] = &pods[..] else { panic!() };
    let passes = |from: &Pod, to: &Pod, tcp: bool| {
        let to = SocketAddr::new(to.addrs[0], ENDPOINT);
        seen_at(&from.netns, to, tcp).is_some()
    };
    objects.policy("in", &only("a1", &["a2", "b1"]));
    objects.policy("out", &only_out("a1", &["b1"]));
    until("shut", || !passes(b2, a1, true) && !passes(a1, a2, true));
    let (opens, tcp) = ("lab/in spec.ingress[0] opens tcp", format!("--port {ENDPOINT}"));
    let udp = format!("--port {ENDPOINT}/UDP");
    let cases = [
        (b1, a1, &*tcp, opens, true),
        (b1, a1, &*udp, "ingress: dropped: it is open by no rule of lab/in (list", false),
        (b2, a1, &*tcp, "ingress: dropped: it is open by no rule of lab/in", false),
        (a2, a1, &*tcp, opens, true),
        (a1, a2, &*tcp, "egress: dropped: it is open by no rule of lab/out (list", false),
        (a1, b1, &*udp, "egress: lab/out spec.egress[0] opens everything (list", true),
        (a2, b2, &*udp, "egress: no policy selects the pod", true),
        (a1, a1, &*tcp, "received", true),
    ];
    for (from, to, port, want, open) in cases {
        let node = &site.nodes[usize::from(from.name.starts_with('b'))];
        let (said, code) = weft(node, &format!("explain {} {} {port}", from.name, to.addrs[0]));
        // A list is this node's.
        let want = if from.name.starts_with('b') { want.trim_end_matches(" (list") } else { want };
        assert!(said.contains(want), "{} to {} {port}: {said}", from.name, to.name);
        assert_eq!(code, if open { 0 } else { 2 }, "{said}");
        assert_eq!(passes(from, to, port == tcp), open, "{said}");
    }
    // A pod of another node by its name, and whatever is open to it.
    let (said, code) = weft(&site.nodes[1], "explain b1 lab/a1");
    assert!(code == 0 && said.contains(opens), "{said}");
    let (said, code) = weft(&site.nodes[1], "explain b1 lab/a1 --port 80/ICMP");
    assert!(code == 1 && said.contains("\"ICMP\" is not TCP, UDP or SCTP"), "{said}");
    site.delete_pods(pods).unwrap();
}

#[test]
fn policies_are_listed_pod_by_pod_and_what_cannot_be_is_a_problem() {
    let (site, objects) = world("bridge", "host-gw");
    let pods = add_pods(&site, &objects);
    let (a2, node) = (&pods[1], &site.nodes[0]);
    objects.policy("in", &only("a1", &["a2"]));
    let lines = |args: &str| {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        weft(node, args).0.lines().map(words).collect::<Vec<_>>()
    };
    let entries = a2.addrs.len();
    let selected = format!("lab/a1 ingress lab/in {entries} entries");
    until("listed", || lines("policy").contains(&selected));
    assert_eq!(
        lines("policy")[2..],
        ["lab/a1 egress - everything", "lab/a2 ingress - everything", "lab/a2 egress - everything"]
    );
    let of_one = lines("policy lab/a1");
    assert!(of_one.contains(&format!("{} tcp {ENDPOINT}", a2.addrs[0])), "{of_one:?}");
    let status = lines("status");
    assert!(status.contains(&"policies 1 select 1 pods here".to_owned()), "{status:?}");

    let odd = json!({"podSelector": {}, "ingress": [{"ports": [{"port": 9, "endPort": 8}]}]});
    objects.policy("odd", &odd);
    let problem = "problem: NetworkPolicy lab/odd: spec.ingress[0].ports[0]: endPort 8 is below port 9; \
                   this entry opens nothing";
    until("a problem", || lines("status").contains(&problem.to_owned()));
    assert_eq!(weft(node, "status").1, 2);
    let json: Value = serde_json::from_str(&weft(node, "policy --json").0).unwrap();
    assert_eq!(json["pods"][0]["ingress"]["policies"], json!(["lab/in", "lab/odd"]));
    assert_eq!(json["pods"][1]["ingress"]["entries"], 0);
    site.delete_pods(pods).unwrap();
}
