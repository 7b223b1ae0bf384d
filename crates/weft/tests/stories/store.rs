//! The store: claims of blocks, times without it, records of other versions.

use std::process::Command;

use crate::story::*;

#[test]
fn nodes_claim_apart_keep_their_blocks_and_lose_them_only_when_forgotten() {
    let cluster = cluster(6, "veth", "host-gw");
    let claims = || -> Vec<(String, String)> {
        let all = cluster.nodes[0].ask("GET", "/v1/ipam", None).unwrap();
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        all.as_array().unwrap().iter().map(|c| (text(&c["block"]), text(&c["node"]))).collect()
    };
    let before = claims();
    assert_eq!(before.len(), 12, "one block of each family for each of six nodes: {before:?}");
    let node = &cluster.nodes[5];
    node.kill().unwrap();
    node.start(&[]).unwrap();
    node.wait_until("back", |node| Ok(node.status()?["converged"] == true)).unwrap();
    assert_eq!(claims(), before, "the same blocks after a restart");
    node.kill().unwrap();
    let freed = cluster.nodes[0].ask("POST", "/v1/nodes/node-f/forget", None).unwrap();
    assert_eq!(freed["freed"].as_array().unwrap().len(), 2);
    until("forgotten", || claims().iter().all(|(_, owner)| owner != "node-f"));
    cluster.nodes[0]
        .wait_until("without the peer", |n| Ok(n.status()?["networks"]["net"]["peers"] == 4))
        .unwrap();
    node.start(&[]).unwrap();
    until("claimed anew", || claims().iter().filter(|(_, owner)| owner == "node-f").count() == 2);
    cluster.settled("net", "host-gw").unwrap();
    let error = cluster.nodes[0].ask("POST", "/v1/nodes/nobody/forget", None).unwrap_err();
    assert!(error.to_string().contains("there is no node nobody"), "{error}");
}

#[test]
fn the_store_away_disturbs_nothing_that_runs() {
    let cluster = cluster(2, "veth", "vxlan");
    let (pods, _echo) = answering(&cluster);
    let node = &cluster.nodes[0];
    until("kept on disk", || node.dir().join("cache/view.jsonl").exists());
    std::thread::sleep(Duration::from_millis(2500)); // The view on disk may be two seconds old.
    let store = cluster.plan.dir.join("store");
    let hidden = cluster.plan.dir.join("hidden");
    std::fs::rename(&store, &hidden).unwrap();
    std::fs::write(&store, "not a directory").unwrap();
    // The agent goes on, and a new one begins, without the store.
    node.kill().unwrap();
    sh(&node.netns, "ip neigh flush nud permanent dev weftx4-1");
    node.start(&[]).unwrap();
    until("heals without the store", || reaches(&pods[0], &pods[1]));
    let more = node.add_pod("more", "net").unwrap();
    let _more = Responder::start(&more).unwrap();
    assert!(reaches(&pods[1], &more));
    node.delete_pod(more).unwrap();
    std::fs::remove_file(&store).unwrap();
    std::fs::rename(&hidden, &store).unwrap();
    node.wait_until("synced again", |node| Ok(node.status()?["store"]["synced"] == true)).unwrap();
    cluster.settled("net", "vxlan").unwrap();
    assert!(reaches(&pods[0], &pods[1]));
}

#[test]
fn records_of_other_versions_are_kept_handled_and_said() {
    let cluster = cluster(1, "veth", "host-gw");
    let node = &cluster.nodes[0];
    let store = cluster.plan.dir.join("store/networks");
    std::fs::write(store.join("newer"), "7\n{\"schema\":9,\"ranges\":[\"10.7.0.0/16\"]}").unwrap();
    std::fs::write(
        store.join("odd"),
        "8\n{\"ranges\":[\"10.8.0.0/16\"],\"join\":\"host-gw\",\"colour\":\"red\"}",
    )
    .unwrap();
    // Two networks that overlap can only come by another's hand; the first by name is served.
    std::fs::write(store.join("zz"), "9\n{\"ranges\":[\"10.1.7.0/24\"],\"join\":\"host-gw\"}")
        .unwrap();
    node.wait_until("saying that two overlap", |node| {
        Ok(node.status()?["problems"].to_string().contains("overlaps 10.1.0.0/16 of network net"))
    })
    .unwrap();
    assert_eq!(node.status().unwrap()["converged"], true, "which holds nothing else up");
    node.wait_until("saying it", |node| {
        let problems = node.status()?["problems"].to_string();
        Ok(problems.contains("schema 9 is newer") && problems.contains("colour (known here"))
    })
    .unwrap();
    let status = node.status().unwrap();
    assert!(
        status["networks"]["odd"].is_object() && status["networks"]["newer"].is_null(),
        "{status}"
    );
    assert!(std::fs::read_to_string(store.join("newer")).unwrap().contains("10.7.0.0/16"), "kept");
}

/// A real etcd in the world beyond the wire, where every node reaches it.
fn start_etcd(cluster: &Cluster) -> std::process::Child {
    let dir = cluster.plan.dir.join("etcd");
    std::fs::create_dir_all(&dir).unwrap();
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let mut etcd = Command::new("etcd");
    etcd.arg("--data-dir")
        .arg(dir.join("data"))
        .args(["--listen-client-urls", "http://192.0.2.254:2379"])
        .args(["--advertise-client-urls", "http://192.0.2.254:2379"])
        .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
        .stdout(std::process::Stdio::null())
        .stderr(log);
    cluster.wire.world.run(|| etcd.spawn()).unwrap().expect("Debian package etcd-server")
}

#[test]
fn etcd_away_disturbs_nothing_and_all_catches_up_when_it_returns() {
    let store = json!({"etcd": {"endpoints": ["http://192.0.2.254:2379"]}});
    let plan = plan(3);
    let cluster = site(&plan, Cluster::build_on(&plan, &program(), &store).unwrap());
    let mut etcd = start_etcd(&cluster);
    begin(&cluster, "veth", "vxlan");
    cluster.settled("net", "vxlan").unwrap();
    let (pods, _echo) = answering(&cluster);
    assert!(reaches(&pods[0], &pods[1]) && reaches(&pods[2], &pods[0]));
    let node = &cluster.nodes[0];
    until("kept on disk", || {
        let kept = std::fs::read_to_string(node.dir().join("cache/view.jsonl")).unwrap_or_default();
        kept.contains("nodes/node-c") && kept.contains("blocks/net")
    });
    etcd.kill().unwrap();
    etcd.wait().unwrap();
    for node in &cluster.nodes {
        node.wait_until("aware of it", |node| Ok(!node.status()?["store"]["away"].is_null()))
            .unwrap();
    }
    // The agent is restarted meanwhile, and what was broken before it began is healed.
    node.kill().unwrap();
    sh(&node.netns, "ip neigh flush nud permanent dev weftx4-1");
    assert!(reach(&pods[0].netns, pods[1].addr(true).unwrap()).is_none());
    node.start(&[]).unwrap();
    until("healed without the store", || reaches(&pods[0], &pods[1]));
    let more = node.add_pod("more", "net").unwrap();
    let _more = Responder::start(&more).unwrap();
    assert!(reaches(&pods[2], &more));
    node.delete_pod(more).unwrap();
    let refused = node.ask("PUT", "/v1/networks/net", Some(cluster.network("veth", "auto", 1)));
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("192.0.2.254:2379"), "{said}");
    etcd = start_etcd(&cluster);
    for node in &cluster.nodes {
        node.wait_until("synced", |node| {
            let store = &node.status()?["store"];
            Ok(store["away"].is_null() && store["synced"] == true)
        })
        .unwrap();
    }
    cluster.apply("net", &cluster.network("veth", "host-gw", 1)).unwrap();
    cluster.settled("net", "host-gw").unwrap();
    assert!(reaches(&pods[0], &pods[1]) && reaches(&pods[2], &pods[0]));
    etcd.kill().unwrap();
    etcd.wait().unwrap();
}
