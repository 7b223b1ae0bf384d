//! What a pod was given, as its annotation says it.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::attachment::Attachment;

/// The value of `k8s.v1.cni.cncf.io/network-status`: the first attachment, then the further ones.
/// `gateways` says by which routers one leads everywhere, `mtu` what its link takes.
pub fn status<'a>(
    pods: impl IntoIterator<Item = (&'a Attachment, Vec<IpAddr>, Option<u32>)>,
) -> String {
    let one = |(pod, gateways, mtu): (&Attachment, Vec<IpAddr>, Option<u32>)| {
        let selected = pod.further.as_ref().map(|further| further.selected.as_str());
        let mut said = json!({
            "name": selected.unwrap_or(pod.network.as_str()),
            "interface": pod.id.ifname,
            "ips": pod.addrs,
            "mac": pod.mac.to_string(),
            "dns": {},
        });
        if let Some(mtu) = mtu {
            said["mtu"] = mtu.into();
        }
        if selected.is_none() {
            said["default"] = true.into();
        }
        let gateways: Vec<_> = gateways.into_iter().filter(|by| pod.leads(by.is_ipv4())).collect();
        if !gateways.is_empty() {
            said["gateway"] = json!(gateways);
        }
        said
    };
    let all: Vec<Value> = pods.into_iter().map(one).collect();
    // As people read it in `kubectl describe`.
    serde_json::to_string_pretty(&all).unwrap_or_default()
}
