//! Claims by many processes at once, of which some are killed: each block has one owner, and no
//! claim that its owner was told of is lost.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use weft::store::{Created, Store, StoreConfig};

use super::{dir, file, open, server::Etcd, until};

const CLAIMERS: usize = 8;
const BLOCKS: usize = 800;
/// Those who are killed.
const VICTIMS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn files_claimed_by_many_processes() {
    race("files_claimed_by_many_processes", &file("claimers")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_claimed_by_many_processes() {
    if std::env::var_os("WEFT_TEST_CLAIMER").is_some() {
        return claim_all().await;
    }
    let etcd = Etcd::start("etcd-claimers", 23700);
    race("etcd_claimed_by_many_processes", &etcd.config()).await;
}

async fn race(test: &str, config: &StoreConfig) {
    if std::env::var_os("WEFT_TEST_CLAIMER").is_some() {
        return claim_all().await;
    }
    let store = open(config).await;
    let won = dir("won");
    let mut claimers: Vec<Child> =
        (0..CLAIMERS).map(|n| claimer(test, config, &won.join(n.to_string()))).collect();
    until("all at the line", async || fs::read_dir(&won).unwrap().count() == CLAIMERS).await;
    fs::write(start_of(&won), "").unwrap();
    // Each dies with the race at another stage.
    for (stage, victim) in claimers.iter_mut().take(VICTIMS).enumerate() {
        let enough = BLOCKS * (stage + 1) / 8;
        until("claims", async || store.list().await.unwrap().0.len() >= enough).await;
        assert!(victim.try_wait().unwrap().is_none(), "killed while it claims");
        victim.kill().unwrap();
        victim.wait().unwrap();
    }
    for mut claimer in claimers.drain(VICTIMS..) {
        assert!(claimer.wait().unwrap().success());
    }
    let (entries, _) = store.list().await.unwrap();
    let owners: BTreeMap<String, String> =
        entries.into_iter().map(|e| (e.key, String::from_utf8(e.value).unwrap())).collect();
    assert_eq!(owners.len(), BLOCKS);
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    let mut winners = 0;
    for n in 0..CLAIMERS {
        let text = fs::read_to_string(won.join(n.to_string())).unwrap_or_default();
        winners += usize::from(!text.is_empty());
        // The last line of one who was killed may be half there.
        for key in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            assert_eq!(told.insert(key.to_owned(), n.to_string()), None, "{key} won twice");
            assert_eq!(owners[key], n.to_string(), "{key} is its winner's");
        }
    }
    assert!(winners > VICTIMS, "a race: {winners} won something");
    // A claim whose claimer died before it was told is still a claim.
    let untold = owners.iter().filter(|(key, _)| !told.contains_key(*key));
    assert!(untold.clone().all(|(_, owner)| owner.parse::<usize>().unwrap() < VICTIMS));
}

/// Where it is, the race is on.
fn start_of(won: &Path) -> PathBuf {
    won.with_extension("start")
}

fn claimer(test: &str, config: &StoreConfig, won: &Path) -> Child {
    let module = module_path!().split_once("::").unwrap().1;
    Command::new(std::env::current_exe().unwrap())
        .args([&format!("{module}::{test}"), "--exact"])
        .env("WEFT_TEST_CLAIMER", won)
        .env("WEFT_TEST_STORE", serde_json::to_string(config).unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

async fn claim_all() {
    let won = PathBuf::from(std::env::var_os("WEFT_TEST_CLAIMER").unwrap());
    let name = won.file_name().unwrap().to_str().unwrap().to_owned();
    let config = serde_json::from_str(&std::env::var("WEFT_TEST_STORE").unwrap()).unwrap();
    let store = Store::open(&config).await.unwrap();
    let start = start_of(won.parent().unwrap());
    let mut won = fs::File::create(won).unwrap();
    until("the start", async || start.exists()).await;
    // From a place of its own, as nodes do, into what the next ones are claiming.
    let first = name.parse::<usize>().unwrap() * BLOCKS / CLAIMERS / 2;
    for block in first..first + BLOCKS {
        let block = block % BLOCKS;
        let key = format!("blocks/race/10.3.{block}.0-24");
        if let Created::New(_) = store.create(&key, name.clone().into_bytes()).await.unwrap() {
            won.write_all(format!("{key}\n").as_bytes()).unwrap();
        }
    }
}
