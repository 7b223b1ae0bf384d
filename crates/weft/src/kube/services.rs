//! The cluster's ranges of Services (ServiceCIDRs of `networking.k8s.io/v1`, Kubernetes 1.33 and later), which
//! pods on a physical network reach by their node where the network does not say which.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ipnet::IpNet;
use serde::Deserialize;

use super::{
    ApiServer, KubeError,
    client::jitter,
    follow::{Collection, Followed, Meta, Told, Whole, few, follow},
};
use crate::agent::Agent;

const SERVICE_CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
/// An older server has no such objects, and its successor may.
const ASK_AGAIN: Duration = Duration::from_secs(600);
/// Before one that is away is asked again.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Deserialize)]
struct ServiceCidr {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Spec {
    #[serde(default)]
    cidrs: Vec<IpNet>,
}

impl Followed for ServiceCidr {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// Follows them for as long as the agent runs.
pub(super) async fn run(agent: Arc<Agent>, server: ApiServer) {
    while let Err(error) = asked(&server).await {
        // It does not know what is asked for, or we may not ask.
        if matches!(error.code, Some(403 | 404)) {
            tracing::info!(
                %error,
                "this API server tells no ServiceCIDRs: networks name their `services`"
            );
            tokio::time::sleep(ASK_AGAIN + jitter(ASK_AGAIN)).await;
        } else {
            tokio::time::sleep(jitter(RETRY)).await;
        }
    }
    let mut told = follow::<ServiceCidr>(server, Collection::all(SERVICE_CIDRS));
    let mut known = Known::default();
    while let Some(told) = told.recv().await {
        if let Some(cidrs) = known.take(told) {
            agent.learn_services(cidrs);
        }
    }
}

/// Whether the server tells them.
async fn asked(server: &ApiServer) -> Result<(), KubeError> {
    few::<ServiceCidr>(server, &Collection::all(SERVICE_CIDRS), 1).await.map(drop)
}

#[derive(Default)]
struct Known {
    listed: Whole<ServiceCidr>,
    known: BTreeMap<String, Vec<IpNet>>,
}

impl Known {
    /// All ranges, if something was said of them.
    fn take(&mut self, told: Told<ServiceCidr>) -> Option<Vec<IpNet>> {
        match told {
            Told::Page(page) => {
                let (all, _) = self.listed.add(page)?;
                self.known = all.into_iter().map(|of| (of.metadata.name, of.spec.cidrs)).collect();
            }
            Told::Put(of) => _ = self.known.insert(of.metadata.name, of.spec.cidrs),
            Told::Gone(of) => _ = self.known.remove(&of.metadata.name),
            Told::At(_) | Told::Away { .. } | Told::Back => return None,
        }
        let mut all: Vec<IpNet> = self.known.values().flatten().copied().collect();
        all.sort();
        all.dedup();
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::follow::Page, *};

    #[test]
    fn ranges_are_those_of_all_objects() {
        let object = |name: &str, cidrs: &[&str]| ServiceCidr {
            metadata: Meta { name: name.into(), ..Meta::default() },
            spec: Spec { cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect() },
        };
        let own = object("kubernetes", &["fd96::/108", "10.96.0.0/12"]);
        let more = object("more", &["10.112.0.0/16", "10.96.0.0/12"]);
        let mut known = Known::default();
        let mut said = |told| {
            let all = known.take(told)?;
            Some(all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let list = Told::Page(Page { objects: vec![own], first: true, last: Some(1) });
        assert_eq!(said(list).as_deref(), Some("10.96.0.0/12 fd96::/108"));
        let put = said(Told::Put(more.clone()));
        assert_eq!(put.as_deref(), Some("10.96.0.0/12 10.112.0.0/16 fd96::/108"));
        assert_eq!(said(Told::Away { why: "gone".into() }), None, "what is known stays");
        assert_eq!(said(Told::Gone(more)).as_deref(), Some("10.96.0.0/12 fd96::/108"));
    }
}
