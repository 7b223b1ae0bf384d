//! All stores. What each must do is one suite; what can befall each is a file of its own. Every
//! etcd is a real one, started here and ended with the test.
#![allow(clippy::unwrap_used)]

mod agent;
mod claimers;
mod cluster;
mod etcd;
#[cfg(feature = "kubernetes")]
#[path = "../kube/fake/mod.rs"]
mod fake;
mod files;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod listener;
mod server;
mod suite;
mod tls;

use std::{path::PathBuf, time::Duration};

use weft::store::{Store, StoreConfig};

const PATIENCE: Duration = Duration::from_secs(30);

fn dir(name: &str) -> PathBuf {
    let dir = PathBuf::from("/run").join(format!("store-{name}"));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn config(value: serde_json::Value) -> StoreConfig {
    serde_json::from_value(value).unwrap()
}

fn file(name: &str) -> StoreConfig {
    config(serde_json::json!({"file": {"dir": dir(name)}}))
}

fn endpoints(urls: &[&str]) -> StoreConfig {
    config(serde_json::json!({"etcd": {"endpoints": urls}}))
}

async fn open(config: &StoreConfig) -> Store {
    let store = Store::open(config).await.unwrap();
    until("the store answers", async || store.list().await.is_ok()).await;
    store
}

/// Looks again and again, with a bound.
async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let looks = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looks).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Why the store can't be had.
async fn refusal(config: &StoreConfig) -> String {
    match Store::open(config).await {
        Ok(store) => store.list().await.unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}
