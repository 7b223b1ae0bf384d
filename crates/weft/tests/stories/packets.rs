//! What becomes of packets that are too large, and of those that leave for the world.

use crate::story::*;

#[test]
fn a_packet_larger_than_its_path_is_answered() {
    for attach in ["veth", "bridge"] {
        let cluster = cluster(2, attach, "vxlan");
        let (pods, _echo) = answering(&cluster);
        // A pod that takes its own device and route for larger than they are.
        cluster.nodes[0].signal(Signal::SIGSTOP).unwrap();
        sh(&pods[0].netns, "ip link set eth0 mtu 1500; ip route flush cache");
        for ipv4 in [true, false] {
            let addr = pods[1].addr(ipv4).unwrap();
            assert_eq!(largest(&pods[0].netns, addr), Some(1450), "{attach}");
            let learnt = too_big(&pods[0].netns, addr, 1500).unwrap();
            assert_eq!(learnt, Some(1450), "{attach}, ipv4 {ipv4}: the node answers");
        }
    }
}

/// Article: Direct routing, host-gw | routes from the store, packets as they are
/// Negative: the world sees the node, a pod sees the pod
#[test]
fn masqueraded_to_the_world_and_itself_among_pods() {
    let cluster = cluster(2, "veth", "host-gw");
    let pods = cluster.add_pods("net", "").unwrap();
    let seen_by = |server: &Netns, addr: IpAddr| {
        let listener = server.run(|| std::net::TcpListener::bind((addr, 0)).unwrap()).unwrap();
        let target = listener.local_addr().unwrap();
        let client = pods[0]
            .netns
            .run(|| std::net::TcpStream::connect_timeout(&target, Duration::from_secs(3)).unwrap());
        let (_, from) = listener.accept().unwrap();
        drop(client);
        from.ip()
    };
    let node = cluster.nodes[0].place.addrs[0].addr();
    assert_eq!(seen_by(&cluster.wire.world, "203.0.113.1".parse().unwrap()), node, "as the node");
    assert_eq!(seen_by(&pods[1].netns, pods[1].addr(true).unwrap()), pods[0].addr(true).unwrap());
}

/// Pods take less than the wire carries: by a tunnel's overhead, or because the network says so.
#[test]
fn a_packet_of_the_world_larger_than_a_pod_takes_is_answered() {
    for (attach, join, mtu) in
        [("veth", "host-gw", 1400), ("bridge", "host-gw", 1400), ("veth", "vxlan", 1450)]
    {
        let site = built(&plan(1));
        site.start().unwrap();
        let mut network = site.network(attach, join, 1);
        network["mtu"] = json!(mtu);
        site.apply("net", &network).unwrap();
        site.settled("net", join).unwrap();
        let (pods, _echo) = answering(&site);
        // A router that knows where the pods are, as one that speaks BGP would.
        let (world, pod) = (&site.wire.world, &pods[0]);
        for (ipv4, via) in [(true, "192.0.2.1"), (false, "2001:db8:1::1")] {
            let addr = pod.addr(ipv4).unwrap();
            sh(world, &format!("ip route add {addr} via {via}"));
            let what = format!("{attach} × {join}, ipv4 {ipv4}");
            assert_eq!(too_big(world, addr, mtu).unwrap(), None, "{what}: one that fits");
            assert_eq!(too_big(world, addr, 1500).unwrap(), Some(mtu), "{what}: one too large");
            assert_eq!(largest(world, addr), Some(mtu), "{what}: and the next is right");
        }
        empty_plan(&site.nodes[0]);
    }
}
