//! What a runtime finds on a node: the plugin and its configuration, written once pods can be served,
//! kept while the agent is installed, gone after uninstall.

use std::fs;

use crate::story::*;

struct Places {
    bin: PathBuf,
    conf: PathBuf,
}

impl Places {
    /// Of a node whose agent is to install there, beside another network that was there before.
    fn of(node: &Node) -> Self {
        let host = node.dir().with_extension("host");
        let places = Self { bin: host.join("bin"), conf: host.join("net.d") };
        fs::create_dir_all(&places.conf).unwrap();
        fs::write(places.conf.join("10-flannel.conflist"), "{}").unwrap();
        configure(node, |config| {
            config["install"] = json!({
                "binDir": places.bin, "confDir": places.conf, "others": "aside",
                "plugin": program(),
            });
        });
        places
    }
    fn ours(&self) -> PathBuf {
        self.conf.join("05-weft.conflist")
    }
    fn plugin(&self) -> PathBuf {
        self.bin.join("weft-cni")
    }
    fn written(&self) -> String {
        fs::read_to_string(self.ours()).unwrap_or_default()
    }
}

#[test]
fn what_runtimes_read_is_there_when_pods_are_served_and_stays_until_uninstall() {
    let site = built(&plan(1));
    let node = &site.nodes[0];
    let places = Places::of(node);
    site.start().unwrap();
    until("the plugin is there", || places.plugin().exists());
    until("started", || node.status().is_ok_and(|status| status["store"]["synced"] == true));
    assert!(!places.ours().exists(), "no network is served yet");
    let mut network = site.network("veth", "host-gw", 1);
    network["default"] = json!(true);
    site.apply("net", &network).unwrap();
    until("written", || places.ours().exists());
    let written = places.written();
    let conf: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(conf["plugins"][0]["type"], "weft-cni");
    assert_eq!(conf["plugins"][0]["socket"], json!(node.dir().join("cni.sock")));
    assert_eq!(conf["plugins"][0]["capabilities"]["portMappings"], true);
    until("alone", || !places.conf.join("10-flannel.conflist").exists());

    // Somebody else's hand.
    fs::write(places.ours(), "{}").unwrap();
    until("written anew", || places.written() == written);
    fs::remove_file(places.ours()).unwrap();
    fs::remove_file(places.plugin()).unwrap();
    until("both back", || places.written() == written && places.plugin().exists());
    fs::write(places.conf.join("00-other.conf"), "{}").unwrap();
    until("moved aside", || !places.conf.join("00-other.conf").exists());

    // An agent that ends takes nothing away, so pods that start meanwhile wait for the next.
    node.kill().unwrap();
    assert_eq!(places.written(), written);
    uninstall(node);
    assert!(!places.ours().exists() && !places.plugin().exists());
    assert!(places.conf.join("10-flannel.conflist").exists());
    assert!(places.conf.join("00-other.conf").exists());
    assert!(!node.dir().join("attachments").exists() && !node.dir().join("cache").exists());
}

#[test]
fn a_directory_that_can_not_be_written_is_said_and_tried_again() {
    let site = built(&plan(1));
    let node = &site.nodes[0];
    let places = Places::of(node);
    fs::write(&places.bin, "a file where the directory should be").unwrap();
    begin(&site, "veth", "host-gw");
    node.wait_until("said", |node| {
        let problems = node.status()?["problems"].to_string();
        Ok(problems.contains("the runtime does not find weft: make "))
    })
    .unwrap();
    fs::remove_file(&places.bin).unwrap();
    until("there", || places.plugin().exists());
}

#[test]
fn the_first_networks_are_made_once_and_never_changed_again() {
    let site = built(&plan(2));
    let network = site.network("veth", "host-gw", 1);
    for node in &site.nodes {
        configure(node, |config| config["networks"] = json!({"default": network}));
    }
    site.start().unwrap();
    site.settled("default", "host-gw").unwrap();
    let mut changed = site.nodes[0].ask("GET", "/v1/networks", None).unwrap()["default"].clone();
    changed["join"] = json!("vxlan");
    site.apply("default", &changed).unwrap();
    site.settled("default", "vxlan").unwrap();
    let node = &site.nodes[1];
    node.kill().unwrap();
    node.start(&[]).unwrap();
    site.settled("default", "vxlan").unwrap();
}
