//! Sabotage: what somebody breaks is healed, what is a stranger's is left alone.

use crate::story::*;

#[test]
fn sabotage_hurts_and_is_healed_in_under_a_second() {
    let cluster = cluster(2, "veth", "vxlan");
    let (pods, _echo) = answering(&cluster);
    let (node, netns) = (&cluster.nodes[0], &cluster.nodes[0].netns);
    sh(
        netns,
        "ip link add stranger type bridge; ip route add 10.9.0.0/16 dev eth0; nft add table inet strangers",
    );
    assert!(reaches(&pods[0], &pods[1]));
    let block = sh(netns, "ip route show proto 119")
        .lines()
        .find(|l| l.contains("nhid"))
        .unwrap()
        .to_owned();
    let dst = block.split(' ').next().unwrap().to_owned();
    for sabotage in [
        format!("ip route del {dst} proto 119 metric 119"),
        "ip neigh flush nud permanent dev weftx4-1".into(),
        "bridge fdb show dev weftx4-1 | while read mac rest; do bridge fdb del $mac dev weftx4-1; done".into(),
        "ip link del weftx4-1".into(),
        "ip link set weftx4-1 down".into(),
        format!("ip link del {}", pods_of(node)[0]),
    ] {
        // The agent is held while the hurt is proved, or it would heal before we look.
        node.signal(Signal::SIGSTOP).unwrap();
        sh(netns, &sabotage);
        let addr = pods[1].addr(true).unwrap();
        let hurt = reach(&pods[0].netns, addr).is_none();
        assert!(hurt, "{sabotage}: the sabotage did nothing, so the test proves nothing");
        node.signal(Signal::SIGCONT).unwrap();
        let start = Instant::now();
        until(&format!("healed from {sabotage}"), || reaches(&pods[0], &pods[1]));
        // `reach` itself waits half a second for an answer that does not come.
        assert!(start.elapsed() < Duration::from_millis(1900), "{sabotage}: {:?}", start.elapsed());
        empty_plan(node);
    }
    node.signal(Signal::SIGSTOP).unwrap();
    sh(netns, "nft delete table inet weft");
    assert!(!sh(netns, "nft list tables").contains("inet weft"));
    node.signal(Signal::SIGCONT).unwrap();
    until("the table is back", || sh(netns, "nft list tables").contains("inet weft"));
    let left = sh(netns, "ip -o link; ip route; nft list tables");
    for kept in ["stranger", "10.9.0.0/16", "strangers"] {
        assert!(left.contains(kept), "{kept} is gone: {left}");
    }
    empty_plan(node);
}

fn pods_of(node: &Node) -> Vec<String> {
    pods(node).iter().map(|pod| pod["host_end"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_admins_route_to_a_pod_block_survives_and_is_reported() {
    let cluster = cluster(2, "veth", "host-gw");
    let (node, netns) = (&cluster.nodes[0], &cluster.nodes[0].netns);
    let routes = sh(netns, "ip route show proto 119");
    let dst =
        routes.lines().find(|l| l.contains("nhid")).unwrap().split(' ').next().unwrap().to_owned();
    sh(netns, &format!("ip route add {dst} via 192.0.2.254"));
    node.wait_until("reporting", |node| {
        let problems = node.status()?["problems"].to_string();
        Ok(problems.contains("a foreign route stands beside ours") && problems.contains(&dst))
    })
    .unwrap();
    assert!(sh(netns, "ip route").contains(&format!("{dst} via 192.0.2.254 dev eth0")));
    sh(
        netns,
        "nft add table inet fw; nft 'add chain inet fw f { type filter hook forward priority 0; policy drop; }'",
    );
    node.wait_until("naming the firewall", |node| {
        Ok(node.status()?["problems"].to_string().contains("table inet fw chain f has policy drop"))
    })
    .unwrap();
}
