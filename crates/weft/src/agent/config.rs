//! The agent's configuration file. Each field's comment here is its documentation: `weft config`
//! prints it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use weft_core::{
    name::{IfName, NetworkName, NodeName},
    network::{Network, unknown_fields},
    written,
};

use super::install::Install;
use crate::store::StoreConfig;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    #[serde(default)]
    pub node: Option<NodeName>,
    pub store: StoreConfig,
    #[serde(default = "run_dir")]
    pub run_dir: PathBuf,
    #[serde(default = "cache_dir")]
    pub cache_dir: PathBuf,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub underlay: Underlay,
    #[serde(default)]
    pub blocks: BTreeMap<NetworkName, Vec<IpNet>>,
    #[serde(default)]
    pub peers: Vec<NodeName>,
    #[serde(default)]
    pub policies: Option<PathBuf>,
    #[serde(default)]
    pub networks: BTreeMap<NetworkName, Network>,
    #[serde(default)]
    pub install: Option<Install>,
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
    #[serde(default = "probe_again")]
    pub probe_again_seconds: NonZeroU16,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Underlay {
    #[serde(default)]
    pub device: Option<IfName>,
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// What `weft config` prints: a complete file with every field said.
pub const REFERENCE: &str = "\
# weft agent --config FILE. Only `store` is required; what is commented out is not the default.

# This node's name in the cluster: a DNS name, as Kubernetes has it. Default: the host name.
# node: node-a

# Where the cluster's networks and nodes are kept. One of:
store:
  # A directory: for one machine and the lab.
  file: {dir: /var/lib/weft/store}
  # etcd v3. `tls` and `user` may be left out.
  # etcd:
  #   endpoints: [https://192.0.2.1:2379, https://192.0.2.2:2379]
  #   prefix: /weft
  #   tls: {ca: /etc/weft/ca.pem, cert: /etc/weft/cert.pem, key: /etc/weft/key.pem}
  #   user: weft
  #   passwordFile: /etc/weft/password
  # The API server of Kubernetes (`weft crds` prints the definitions that it needs). Without
  # `kubeconfig`: as the service account of the pod that this runs in. `podCidrs`: what the blocks are
  # that Nodes are given (spec.podCIDRs): `auto` (this node's blocks of the default network, if they
  # lie in its ranges; waits where others have some and this one has none), `required` or `ignored`.
  # kubernetes: {kubeconfig: /etc/weft/kubeconfig, podCidrs: auto}

# Sockets and the ledger of pods: what lives as long as the namespaces do, until the next boot.
# The plugin looks for RUNDIR/cni.sock, the command line for RUNDIR/control.sock.
runDir: /run/weft

# The last view of the cluster, for a start while the store is away; old values of sysctls.
cacheDir: /var/lib/weft

# What is to be known of this node in the cluster: BGP's settings choose nodes by it (`weft models bgp`).
labels: {}
#   rack: r1

# The node's address on the underlay. Default: the device of the default route and the first
# address of each family on it.
# underlay:
#   device: eth0
#   addresses: [192.0.2.1, '2001:db8::1']

# Blocks that are this node's, by network, where the operator deals them out instead of having nodes
# claim what is free. A network with `discovery: multicast` then needs no store in common: each node
# may have a `file` store of its own.
blocks: {}
#   default: [10.1.7.0/24, 'fd00:1::7:0/112']

# Nodes that must be heard in multicast groups, though no store may list them.
peers: []

# A directory of NetworkPolicies, and of the Namespaces and Pods that they speak of, each as Kubernetes
# writes it: for clusters without it. Only pods that are in it are attached then. Default: none, and
# every pod is open.
# policies: /etc/weft/policies

# Networks that are made while the cluster has none at all (`weft models` tells of their fields).
networks: {}
#   default: {attach: veth, join: auto, ranges: [10.244.0.0/16], default: true}

# Installs the plugin and a CNI configuration on this node once pods can be served, and keeps both
# there. Default: nothing is installed. All fields may be left out.
# `confName`: a runtime takes the first by name. `others`: configuration of other networks, `leave` or
# `aside` (renamed; put back at uninstall). `plugin`: where its program is, by default weft-cni beside
# the agent's own program.
# install:
#   binDir: /opt/cni/bin
#   confDir: /etc/cni/net.d
#   confName: 05-weft.conflist
#   others: leave
#   plugin: /usr/bin/weft-cni

# Where to serve Prometheus metrics (/metrics) and health (/healthz, /readyz). Default: nowhere
# but on the control socket.
# metrics: 127.0.0.1:9473

# On physical networks (join underlay): how soon an address that a stranger had is asked for again,
# and the switch's port measured again.
probeAgainSeconds: 60
";

fn probe_again() -> NonZeroU16 {
    const { NonZeroU16::new(60).expect("60 is not 0") }
}
pub(super) fn run_dir() -> PathBuf {
    "/run/weft".into()
}
fn cache_dir() -> PathBuf {
    "/var/lib/weft".into()
}

impl Config {
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "read the agent's configuration {} (--config names another; `weft config` \
                     prints one)",
                path.display()
            )
        })?;
        from_yaml(&text).and_then(Self::checked).with_context(|| {
            format!("configuration {}: see `weft config` for every field", path.display())
        })
    }

    fn checked(self) -> anyhow::Result<Self> {
        for (name, network) in &self.networks {
            network.check(name)?;
            for (other, beside) in self.networks.range(..name) {
                network.check_beside(name, other, beside)?;
            }
        }
        self.install.as_ref().map_or(Ok(()), Install::check)?;
        let store = match &self.store {
            StoreConfig::File(file) => Some(("store.file.dir", &file.dir)),
            _ => None,
        };
        let dirs = [("runDir", &self.run_dir), ("cacheDir", &self.cache_dir)];
        if let Some((field, dir)) = dirs.into_iter().chain(store).find(|(_, dir)| dir.is_relative())
        {
            bail!("{field} {} is relative; give the whole path, from /", dir.display());
        }
        Ok(self)
    }

    pub fn probe_again(&self) -> Duration {
        Duration::from_secs(self.probe_again_seconds.get().into())
    }
    pub fn cni_socket(&self) -> PathBuf {
        self.run_dir.join("cni.sock")
    }
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    /// The node's name: as configured, else the host's.
    pub fn node_name(&self) -> anyhow::Result<NodeName> {
        if let Some(name) = &self.node {
            return Ok(name.clone());
        }
        let host =
            std::fs::read_to_string("/proc/sys/kernel/hostname").context("read the host name")?;
        host.trim()
            .to_lowercase()
            .parse()
            .context("the host name cannot be this node's name; set `node` in the configuration")
    }
}

/// What a person wrote, as it stands.
pub fn yaml(text: &str) -> anyhow::Result<serde_json::Value> {
    // Whoever calls knows the file's name.
    let written: serde_json::Value =
        serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("not YAML: {error}"))?;
    anyhow::ensure!(!written.is_null(), "it is empty");
    Ok(written)
}

/// Reads what a person wrote: a field that nobody knows is an error, with the choices.
pub fn from_yaml<T: DeserializeOwned + Serialize>(text: &str) -> anyhow::Result<T> {
    from_value(yaml(text)?)
}

pub fn from_value<T: DeserializeOwned + Serialize>(
    written: serde_json::Value,
) -> anyhow::Result<T> {
    let read: T = written::read(&written).map_err(anyhow::Error::msg)?;
    let unknown = unknown_fields(&written, &read);
    if !unknown.is_empty() {
        bail!("unknown field {}", unknown.join("; unknown field "));
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_a_configuration() {
        let config: Config = from_yaml(REFERENCE).unwrap();
        assert_eq!(config.run_dir, run_dir());
        // What a node has of its own, or opens to others, is not taken over unread.
        assert!(config.node.is_none() && config.underlay.device.is_none());
        assert!(config.install.is_none() && config.metrics.is_none());
    }

    #[test]
    fn what_the_reference_has_as_comments_may_be_said() {
        let is_field = |line: &str| {
            let name = line.split(':').next().unwrap_or_default().trim_start();
            line.contains(':') && !name.is_empty() && name.chars().all(char::is_alphanumeric)
        };
        let said = REFERENCE.lines().map(|line| match line.strip_prefix("# ") {
            Some(field) if is_field(field) => field,
            // A map that is empty is not empty then.
            _ => line.strip_suffix(" {}").unwrap_or(line),
        });
        let said: Vec<&str> = said.collect();
        let config: Config = from_yaml(&said.join("\n")).unwrap();
        assert_eq!(config.underlay.device.unwrap().as_str(), "eth0");
        assert!(config.install.is_some() && config.metrics.is_some() && config.node.is_some());
        assert_eq!((config.labels.len(), config.blocks.len(), config.networks.len()), (1, 1, 1));
    }

    #[test]
    fn a_misspelt_field_is_answered_with_the_choices() {
        let error = from_yaml::<Config>("store: {file: {dir: /x}}\nunderlay: {dev: eth0}\n");
        let said = format!("{:#}", error.unwrap_err());
        assert!(said.contains("underlay.dev (known here: addresses, device)"), "{said}");
    }
}
