//! Ranges of Services for networks that name none: the cluster's ServiceCIDRs, where an API server says
//! them. They are kept on disk: an agent that begins while the server is away takes them from no pod.

use std::fs;
#[cfg(feature = "kubernetes")]
use std::path::Path;

use ipnet::IpNet;
use weft_core::network::{Network, overlap};

use super::{Agent, Config, POISONED};
use crate::store::StoreConfig;

const FILE: &str = "services.json";

/// What the last run heard.
pub(super) fn last(config: &Config) -> Vec<IpNet> {
    let read = fs::read(config.cache_dir.join(FILE)).ok();
    let read = read.filter(|_| matches!(config.store, StoreConfig::Kubernetes(_)));
    read.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

#[cfg(feature = "kubernetes")]
fn keep(dir: &Path, cidrs: &[IpNet]) -> std::io::Result<()> {
    let tmp = dir.join("services.tmp");
    fs::write(&tmp, serde_json::to_vec(cidrs)?)?;
    fs::rename(tmp, dir.join(FILE))
}

impl Agent {
    /// Which ranges of Services pods of the network reach by their node; and which of the cluster's not,
    /// each with the range of pods that it overlaps.
    pub(super) fn services(
        &self,
        network: &Network,
        pods: &[IpNet],
    ) -> (Vec<IpNet>, Vec<(IpNet, IpNet)>) {
        match &network.services {
            Some(named) => (named.clone(), Vec::new()),
            None => apart(&self.service_cidrs.lock().expect(POISONED), pods),
        }
    }

    /// Takes in what the API server says.
    #[cfg(feature = "kubernetes")]
    pub fn learn_services(&self, cidrs: Vec<IpNet>) {
        let mut known = self.service_cidrs.lock().expect(POISONED);
        if *known == cidrs {
            return;
        }
        tracing::info!(?cidrs, "ranges of Services");
        if let Err(error) = keep(&self.config.cache_dir, &cidrs) {
            tracing::warn!(%error, "ranges of Services are not kept on disk");
        }
        *known = cidrs;
        drop(known);
        self.wake.ring(super::wake::Reasons::VIEW);
    }
}

fn apart(cidrs: &[IpNet], pods: &[IpNet]) -> (Vec<IpNet>, Vec<(IpNet, IpNet)>) {
    let met = |cidr: &IpNet| pods.iter().find(|range| overlap(cidr, range)).copied();
    let left_out = cidrs.iter().filter_map(|cidr| Some((*cidr, met(cidr)?))).collect();
    (cidrs.iter().filter(|cidr| met(cidr).is_none()).copied().collect(), left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_cidr_that_overlaps_pods_is_left_out() {
        let nets =
            |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        let cidrs = nets(&["10.96.0.0/12", "fd96::/108"]);
        let said = apart(&cidrs, &nets(&["10.77.0.0/24", "fd00:77::/64"]));
        assert_eq!(said, (cidrs.clone(), Vec::new()));
        for range in ["10.100.7.0/24", "10.0.0.0/8"] {
            let (services, left_out) = apart(&cidrs, &nets(&["192.168.0.0/16", range]));
            assert_eq!(services, nets(&["fd96::/108"]));
            assert_eq!(left_out, [(cidrs[0], range.parse().unwrap())]);
        }
    }
}
