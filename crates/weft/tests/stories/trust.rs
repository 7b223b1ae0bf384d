//! What is said in the store, and what can't be read: pods outlive it.

use crate::story::*;

/// True if the node has the pods' links and they reach each other.
fn all_there(site: &Cluster, pods: &[Pod]) {
    assert!(site.nodes.iter().all(|node| pod_links(node) == 1), "a link is gone");
    assert!(reaches(&pods[0], &pods[1]) && reaches(&pods[1], &pods[0]));
}

fn said(node: &Node, what: &str) {
    node.wait_until(&format!("saying {what:?}"), |node| {
        Ok(node.status()?["problems"].to_string().contains(what))
    })
    .unwrap();
}

fn restart_plainly(node: &Node) {
    node.kill().unwrap();
    node.start(&[]).unwrap();
    node.wait_until("started", |node| Ok(node.status()?["store"]["synced"] == true)).unwrap();
}

#[test]
fn what_is_not_known_takes_no_pod_away() {
    let cluster = cluster(2, "veth", "vxlan");
    let pods = cluster.add_pods("net", "").unwrap();
    let _echo = responders(&pods);
    let (node, store) = (&cluster.nodes[0], cluster.plan.dir.join("store"));
    let network = store.join("networks/net");
    let good = std::fs::read(&network).unwrap();
    // A record of tomorrow: what was read last still stands, in a new list too, …
    std::fs::write(&network, "900\n{\"schema\":9,\"ranges\":[\"10.1.0.0/16\"]}").unwrap();
    said(node, "schema 9 is newer");
    std::fs::create_dir(store.join("spare")).unwrap();
    std::fs::write(store.join("spare/x"), "901\n{}").unwrap();
    said(node, "spare/x");
    all_there(&cluster, &pods);
    // … and an agent that never read another takes nothing away.
    restart_plainly(node);
    said(node, "nothing of weft's is taken away: there are pods of network net");
    all_there(&cluster, &pods);
    std::fs::write(&network, good).unwrap();
    std::fs::create_dir(store.join("again")).unwrap();
    cluster.settled("net", "vxlan").unwrap();
    // The store gone, and an empty one in its place.
    let hidden = cluster.plan.dir.join("hidden");
    std::fs::rename(&store, &hidden).unwrap();
    restart_plainly(node);
    said(node, "nothing of weft's is taken away");
    all_there(&cluster, &pods);
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::rename(&hidden, &store).unwrap();
    cluster.settled("net", "vxlan").unwrap();
    all_there(&cluster, &pods);
    // A pod's record that can't be read: its link stays, its address is given to nobody.
    node.kill().unwrap();
    let records = std::fs::read_dir(node.dir().join("attachments")).unwrap();
    let record = records.map(|entry| entry.unwrap().path()).next().unwrap();
    let whole = std::fs::read(&record).unwrap();
    std::fs::write(&record, &whole[..whole.len() / 2]).unwrap();
    node.start(&[]).unwrap();
    said(node, "a pod's record can't be read");
    assert!(reaches(&pods[1], &pods[0]));
    let other = node.add_pod("other", "net").unwrap();
    assert!(other.addrs.iter().all(|addr| !pods[0].addrs.contains(addr)), "{:?}", other.addrs);
    node.delete_pod(other).unwrap();
    std::fs::write(&record, &whole).unwrap();
    restart_plainly(node);
    all_there(&cluster, &pods);
    empty_plan(node);
    // Such a pod is deleted all the same: nobody reaches it any more, and of its record nothing is left.
    node.kill().unwrap();
    std::fs::write(&record, &whole[..whole.len() / 2]).unwrap();
    node.start(&[]).unwrap();
    said(node, "a pod's record can't be read");
    let config = node.cni_config("net");
    let (exit, answer) = node.cni("DEL", &pods[0].name, &pods[0].path, &config, &[]).unwrap();
    assert_eq!(exit, 0, "{answer}");
    assert!(!reaches(&pods[1], &pods[0]) && !record.exists());
    node.wait_until("well again", |node| {
        let status = node.status()?;
        let unread = status["problems"].to_string().contains("ledger: ");
        Ok(!unread && status["pods"] == 0)
    })
    .unwrap();
    nothing_left(node);
}

#[test]
fn what_one_pod_or_one_peer_refuses_keeps_nothing_from_the_others() {
    let cluster = cluster(2, "veth", "vxlan");
    let pods = cluster.add_pods("net", "").unwrap();
    let _echo = responders(&pods);
    let node = &cluster.nodes[0];
    sh(&pods[0].netns, "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1");
    // A peer whose word is nonsense, and one that says another's block is its own.
    let block = sh(&cluster.nodes[1].netns, "ip route show proto 119 type blackhole");
    let block = block.split_whitespace().nth(1).unwrap().to_owned();
    let peer = |name: &str, addr: &str, block: &str| {
        let receives = json!([{"way": "direct", "underlay": addr}]);
        let part = json!({"blocks": [block], "receives": receives, "send": 1450, "accept": 1500});
        let record = json!({
            "schema": 1, "boot": "x", "version": "0", "underlay": [addr], "mtu": 1500,
            "networks": {"net": part},
        });
        let path = cluster.plan.dir.join("store/nodes").join(name);
        std::fs::write(path, format!("950\n{record}")).unwrap();
    };
    peer("thief", "192.0.2.77", &block);
    peer("odd", "192.0.2.255", "10.1.250.0/24");
    peer("wild", "192.0.2.78", "224.1.0.0/24");
    said(node, &format!("node thief says that {block} of network net is its own: left out"));
    cluster.apply("net", &cluster.network("veth", "host-gw", 1)).unwrap();
    for node in &cluster.nodes {
        node.wait_until("by host-gw, with nothing held", |node| {
            let net = &node.status()?["networks"]["net"];
            let record =
                std::fs::read_to_string(cluster.plan.dir.join("store/nodes").join(&node.name))?;
            Ok(net["join"] == "host-gw" && !record.contains("\"receives\":[{\"way\":\"vxlan\""))
        })
        .unwrap();
    }
    until("sent to directly", || {
        cluster.way("node-a", "node-b", "net", true).unwrap().0 == "direct"
    });
    assert!(reach(&pods[0].netns, pods[1].addr(true).unwrap()).is_some());
    said(node, "pod lab/a1: + addr");
}
