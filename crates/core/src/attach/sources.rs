//! From which addresses a pod may send by the links whose other ends its node holds: its own. They are
//! in force before such a link is up, and until it is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::Ground;
use crate::{attachment::Attachment, network::Network, state::Object};

/// True unless the network leaves it to its pods. One that is not served may have been checked.
pub fn checked(network: Option<&Network>) -> bool {
    network.is_none_or(|network| network.spoof_check)
}

/// `others` are the pod's further attachments.
pub fn outside<'a>(
    pod: &Attachment,
    on: &Ground<'_>,
    others: impl Iterator<Item = &'a Attachment>,
) -> Vec<Object> {
    let others: BTreeSet<IpAddr> = others.flat_map(Attachment::usable).copied().collect();
    let addrs = |own: &[IpAddr]| own.iter().chain(&others).copied().collect();
    let birth = pod.attach.kind().birth(pod, on);
    let host = birth.host().map(|host| Object::Sources {
        dev: host.dev.clone(),
        mac: host.master.is_some().then_some(pod.mac),
        addrs: addrs(&pod.addrs),
    });
    let access = pod.access.iter().map(|dev| Object::Sources {
        dev: dev.clone(),
        mac: None,
        addrs: addrs(pod.usable()),
    });
    host.into_iter().chain(access).collect()
}

/// The same of a link that is in the pod's namespace alone.
pub fn inside<'a>(
    pod: &Attachment,
    others: impl Iterator<Item = &'a Attachment>,
) -> Option<Object> {
    // What a server offers is given back under itself, also where the ADD died that asked.
    let leased = pod.lease.as_ref().filter(|lease| !lease.is_lost());
    let leased = leased.map(|lease| IpAddr::from(lease.terms.addr));
    let mut addrs: BTreeSet<IpAddr> = pod.usable().iter().copied().chain(leased).collect();
    addrs.extend(others.flat_map(Attachment::usable));
    let (dev, mac) = (pod.id.ifname.clone(), Some(pod.mac));
    pod.host_end.is_none().then_some(Object::Sources { dev, mac, addrs })
}

/// The attachments of each pod that may answer by each other's links: an answer leaves by the pod's
/// routes, whichever link was asked. Only where nobody else can have the same addresses.
#[derive(Default)]
pub struct Together<'a>(BTreeMap<u64, Vec<&'a Attachment>>);

impl<'a> Together<'a> {
    /// `network` is each attachment's, where it is served.
    pub fn of<'n>(
        pods: impl Iterator<Item = &'a Attachment>,
        network: impl Fn(&Attachment) -> Option<&'n Network>,
    ) -> Self {
        let mut together = Self::default();
        for pod in pods.filter(|pod| network(pod).is_some_and(|network| network.host_access)) {
            together.0.entry(pod.cookie).or_default().push(pod);
        }
        together
    }

    /// Of the same pod, without `pod` itself.
    pub fn others(&self, pod: &Attachment) -> impl Iterator<Item = &'a Attachment> {
        let all = self.0.get(&pod.cookie).into_iter().flatten().copied();
        let in_them = all.clone().any(|one| one.id == pod.id);
        let id = pod.id.clone();
        all.filter(move |one| in_them && one.id != id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{attach::Segment, name::Mtu};

    fn pod(container: &str, attach: &str, more: &serde_json::Value) -> Attachment {
        let mut pod = serde_json::json!({
            "schema": 1, "cni": "net", "container": container, "ifname": "eth0", "phase": "attached",
            "network": "net", "attach": {"kind": attach}, "runtime": "test", "netns": "/run/netns/x",
            "cookie": 1, "mac": "02:00:00:00:00:01", "addrs": ["10.1.7.5", "fd00:1::705"],
            "host_end": "weft00000000001", "default_route": true,
        });
        let more = more.as_object().unwrap().clone();
        pod.as_object_mut().unwrap().extend(more);
        serde_json::from_value(pod).unwrap()
    }

    fn said<'a>(pod: &Attachment, others: impl Iterator<Item = &'a Attachment>) -> Vec<String> {
        let on = Ground {
            node: &"node-a".parse().unwrap(),
            network: &"net".parse().unwrap(),
            ranges: &[],
            blocks: &[],
            gateways: &[],
            segment: Segment::Node,
            nics: &[],
            answers: Vec::new(),
            send: Mtu::ETHERNET,
            accept: Mtu::ETHERNET,
            wire: Mtu::ETHERNET,
            parent: None,
            access: None,
        };
        outside(pod, &on, others).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pod_sends_under_its_own_addresses() {
        let none = || std::iter::empty();
        let veth = pod("a", "veth", &serde_json::json!({}));
        assert_eq!(
            said(&veth, none()),
            ["prerouting weft00000000001 saddr { 10.1.7.5, fd00:1::705 }"]
        );
        let bridge = pod("b", "bridge", &serde_json::json!({"phase": "doomed"}));
        assert_eq!(
            said(&bridge, none()),
            ["prerouting weft00000000001 ether saddr 02:00:00:00:00:01 \
              saddr { 10.1.7.5, fd00:1::705 }"]
        );
        let child = serde_json::json!({"attach": {"kind": "macvlan", "parent": "eth1"},
            "host_end": null, "access": "weftn0000000001"});
        let child = pod("c", "macvlan", &child);
        assert_eq!(
            said(&child, none()),
            ["prerouting weftn0000000001 saddr { 10.1.7.5, fd00:1::705 }"]
        );
    }

    #[test]
    fn it_answers_by_each_link_with_all_addresses_that_nobody_else_can_have() {
        let first = pod("a", "veth", &serde_json::json!({}));
        let second =
            serde_json::json!({"ifname": "net1", "addrs": ["10.2.0.9"], "network": "blue"});
        let second = pod("a", "veth", &second);
        let other = pod("b", "veth", &serde_json::json!({"cookie": 2, "addrs": ["10.1.7.6"]}));
        let alone =
            serde_json::json!({"ifname": "net2", "addrs": ["10.1.7.9"], "network": "alone"});
        let alone = pod("a", "veth", &alone);
        let network = |access: bool| -> Network {
            serde_json::from_value(serde_json::json!({
                "attach": "bridge", "join": {"kind": "vxlan-bridged", "vni": 7},
                "ranges": ["10.1.0.0/16"], "hostAccess": access,
            }))
            .unwrap()
        };
        let (open, shut) = (network(true), network(false));
        let all = [&first, &second, &other, &alone];
        let of =
            |pod: &Attachment| Some(if pod.network.as_str() == "alone" { &shut } else { &open });
        let together = Together::of(all.into_iter(), of);
        let says = |pod| said(pod, together.others(pod)).join(" ");
        assert!(says(&first).ends_with("saddr { 10.1.7.5, 10.2.0.9, fd00:1::705 }"));
        assert!(says(&second).ends_with("saddr { 10.1.7.5, 10.2.0.9, fd00:1::705 }"));
        assert!(says(&other).ends_with("saddr { 10.1.7.6 }"));
        assert!(says(&alone).ends_with("saddr { 10.1.7.9 }"), "the network's own alone");
    }
}
