//! Agents whose own records somebody else deletes or spoils: a living node makes them good.

use serde_json::Value;
use weft::{
    lab::{Cluster, Plan},
    store::Store,
};

use super::{config, until};

async fn names(store: &Store, prefix: &str) -> Vec<String> {
    let (entries, _) = store.list().await.unwrap();
    let keys = entries.into_iter().map(|entry| entry.key);
    keys.filter(|key| key.starts_with(prefix)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_living_node_says_of_itself_is_made_good() {
    assert_eq!(std::process::id() / 100, 0, "run by `cargo xtask test`, which makes a sandbox");
    let plan = Plan { nodes: 2, pods: 1, ..Plan::default() };
    let cluster = Cluster::build(&plan, env!("CARGO_BIN_EXE_weft").as_ref()).unwrap();
    cluster.start().unwrap();
    cluster.apply("net", &cluster.network("veth", "host-gw", 1)).unwrap();
    cluster.settled("net", "host-gw").unwrap();
    let dir = cluster.plan.dir.join("store");
    let store = Store::open(&config(serde_json::json!({"file": {"dir": dir}}))).await.unwrap();
    let good = store.get("nodes/node-a").await.unwrap().unwrap();
    let is_good = async || {
        let now = store.get("nodes/node-a").await.unwrap();
        now.is_some_and(|now| now.value == good.value && now.revision > good.revision)
    };
    assert!(store.delete("nodes/node-a").await.unwrap());
    until("the record is there again", is_good).await;
    let spoilt = store.put("nodes/node-a", b"{".to_vec()).await.unwrap();
    until("the spoilt record is good", async || {
        let now = store.get("nodes/node-a").await.unwrap().unwrap();
        now.revision > spoilt && now.value == good.value
    })
    .await;
    let mut other: Value = serde_json::from_slice(&good.value).unwrap();
    other["underlay"] = serde_json::json!([]);
    let changed = store.put("nodes/node-a", other.to_string().into_bytes()).await.unwrap();
    until("the changed record is good", async || {
        let now = store.get("nodes/node-a").await.unwrap().unwrap();
        now.revision > changed && now.value == good.value
    })
    .await;

    // A claim, too; and one is enough.
    let blocks = names(&store, "blocks/").await;
    for block in &blocks {
        assert!(store.delete(block).await.unwrap());
    }
    until("claimed again", async || names(&store, "blocks/").await.len() >= blocks.len()).await;
    cluster.settled("net", "host-gw").unwrap();
    assert_eq!(names(&store, "blocks/").await.len(), blocks.len(), "no block beside");
}
