//! A change of join while packets flow. The guided run (`guided.rs`) changes in every direction.

use crate::story::*;

#[test]
fn a_frozen_agent_in_mid_change_costs_no_packet() {
    for attach in ["veth", "bridge"] {
        let cluster = cluster(3, attach, "vxlan");
        let pods = cluster.add_pods("net", "").unwrap();
        let flows: Vec<Flow> = [
            (FlowKind::Small, 0, 1),
            (FlowKind::Full, 1, 2),
            (FlowKind::Full, 2, 0),
            (FlowKind::Small, 2, 1),
            (FlowKind::Bulk, 0, 2),
        ]
        .into_iter()
        .map(|(kind, from, to)| Flow::start(kind, &pods[from], &pods[to], true).unwrap())
        .collect();
        let frozen = &cluster.nodes[2];
        for (join, other) in [("host-gw", "vxlan"), ("vxlan", "host-gw")] {
            frozen.signal(Signal::SIGSTOP).unwrap();
            cluster.apply("net", &cluster.network(attach, join, 1)).unwrap();
            let start = Instant::now();
            cluster.nodes[0]
                .wait_until("waiting for the frozen one", |node| {
                    let net = &node.status()?["networks"]["net"];
                    Ok(net["join"] == join && net["waiting"].to_string().contains("node-c"))
                })
                .unwrap_or_else(|error| panic!("{attach}, {other} to {join}: {error}"));
            while start.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(50));
            }
            frozen.signal(Signal::SIGCONT).unwrap();
            cluster.settled("net", join).unwrap();
        }
        let mut all = Report::default();
        for flow in flows {
            assert!(flow.arrived() > 0);
            all += flow.stop();
        }
        assert_eq!((all.lost, all.resets), (0, 0), "{attach}: {all:?}");
        assert!(all.sent > 30_000, "{all:?}");
    }
}
