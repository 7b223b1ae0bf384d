//! A child of a NIC, with a MAC address of its own on the NIC's network (MACVLAN). It exists in the
//! pod's namespace alone: the node has no end of it, and no route to the pod.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    Attaching, Birth, Footing, Ground, NextHop, Parent, Siblings,
    parent::{on_network, router},
};
use crate::{
    attachment::Attachment,
    state::{Kind, Knob, Link, Object, State},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Macvlan {
    #[serde(flatten)]
    pub parent: Parent,
    /// Who on the node may meet whom.
    #[serde(default)]
    pub mode: Mode,
}

/// As iproute2 names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Pods of a node never meet, not even through the switch.
    Private,
    /// Every packet goes out to the switch; pods of a node meet if it sends them back (802.1Qbg).
    Vepa,
    /// Pods of a node meet directly.
    #[default]
    Bridge,
    /// One pod has the whole NIC, and its MAC address.
    Passthru,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Bridge => "bridge",
            Self::Passthru => "passthru",
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl Attaching for Macvlan {
    fn birth(&self, pod: &Attachment, on: &Ground<'_>) -> Birth {
        // The link's own MTU says what the pod may send: a route on the link would stand behind
        // the one that the kernel makes of the address. What comes in is not measured by it.
        let link = Link {
            dev: pod.id.ifname.clone(),
            kind: Kind::Macvlan { mode: self.mode },
            mtu: on.send,
            mac: pod.mac,
            master: None,
        };
        Birth::Child { parent: self.parent.dev(), pod: link, index: pod.child_index() }
    }

    /// The kernel keeps only broadcast from private siblings: what a switch sends back must be
    /// dropped as it comes in by the NIC.
    fn outside(&self, pod: &Attachment, _on: &Ground<'_>) -> State {
        let apart = (self.mode == Mode::Private)
            .then(|| Object::Apart { dev: self.parent.dev(), mac: pod.mac });
        apart.into_iter().collect()
    }

    /// A link to strangers needs a link-local address, for neighbour discovery and for switches
    /// that watch who listens (RFC 4291, 2.8; RFC 3590); what strangers advertise is not taken.
    fn beside(&self, pod: &Attachment) -> State {
        let dev = &pod.id.ifname;
        let deaf = Object::Sysctl { knob: Knob::AcceptRa(dev.clone()), value: 0 };
        super::link_local(pod).into_iter().chain([deaf]).collect()
    }

    fn next_hop(&self, addr: IpAddr, on: &Ground<'_>) -> Option<NextHop> {
        router(addr, on)
    }

    fn pod_addr(&self, addr: IpAddr, on: &Ground<'_>) -> IpNet {
        on_network(addr, on)
    }

    fn reached_past_routes(&self) -> bool {
        true
    }

    fn node(&self, on: &Ground<'_>) -> State {
        self.parent.hold(on)
    }

    fn parent(&self) -> Option<&Parent> {
        Some(&self.parent)
    }

    fn footing(&self) -> Footing {
        Footing::Network
    }

    fn siblings(&self) -> Siblings {
        match self.mode {
            Mode::Private => Siblings::Never,
            Mode::Vepa => Siblings::ByNetwork,
            Mode::Bridge => Siblings::Meet,
            Mode::Passthru => Siblings::None,
        }
    }

    fn has_nics_mac(&self) -> bool {
        self.alone()
    }

    fn alone(&self) -> bool {
        self.mode == Mode::Passthru
    }

    fn described(&self) -> String {
        format!("macvlan on {}, mode {}", self.parent, self.mode)
    }

    fn beside_on_parent(&self, other: &dyn Attaching) -> Result<(), String> {
        if self.alone() || self.described() != other.described() {
            return Err(format!("{} can't share it with {}", self.described(), other.described()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eth1() -> Parent {
        Parent { nic: crate::name::IfName::new("eth1"), vlan: None }
    }

    fn pod(default_route: bool, addrs: &[&str]) -> Attachment {
        serde_json::from_value(serde_json::json!({
            "schema": 1, "cni": "net", "container": "c", "ifname": "eth0", "phase": "attached",
            "network": "lan", "attach": {"kind": "macvlan", "parent": "eth1"}, "runtime": "test",
            "netns": "/run/netns/x", "cookie": 1, "nsid": 0, "mac": "02:77:65:66:74:01",
            "addrs": addrs, "default_route": default_route,
        }))
        .unwrap()
    }

    /// What a pod holds, and what its node holds for it.
    fn held(mode: Mode, pod: &Attachment, gateways: &[&str]) -> (Vec<String>, Vec<String>) {
        let ranges: [IpNet; 2] = ["10.77.0.0/24".parse().unwrap(), "fd00:77::/64".parse().unwrap()];
        let gateways: Vec<IpAddr> = gateways.iter().map(|addr| addr.parse().unwrap()).collect();
        let mtu = |mtu: u64| crate::name::Mtu::try_from(mtu).unwrap();
        let on = Ground {
            node: &"node-a".parse().unwrap(),
            network: &"lan".parse().unwrap(),
            ranges: &ranges,
            blocks: &["10.77.0.16/28".parse().unwrap()],
            gateways: &gateways,
            segment: crate::attach::Segment::Node,
            nics: &[],
            parent: None,
            answers: Vec::new(),
            access: None,
            send: mtu(1400),
            accept: mtu(9000),
            wire: mtu(1500),
        };
        let kind = Macvlan { parent: eth1(), mode };
        let attach = crate::attach::Attach(crate::attach::Kind::Macvlan(kind.clone()));
        let said = |state: State| state.objects().map(ToString::to_string).collect();
        (said(attach.inside(pod, &on)), said(kind.outside(pod, &on)))
    }

    #[test]
    fn a_pod_has_the_networks_prefix_and_asks_its_router_as_strangers_do() {
        let both = pod(true, &["10.77.0.17", "fd00:77::11"]);
        let (inside, outside) = held(Mode::Bridge, &both, &["10.77.0.1", "fd00:77::1"]);
        assert_eq!(
            inside,
            [
                "link eth0 macvlan mode bridge mtu 1400 address 02:77:65:66:74:01",
                "sysctl net.ipv6.conf.eth0.accept_ra = 0",
                "link eth0 up",
                "link lo up",
                "addr 10.77.0.17/24 dev eth0",
                "addr fd00:77::11/64 dev eth0",
                "addr fe80::77:65ff:fe66:7401/64 dev eth0",
                "route 0.0.0.0/0 via 10.77.0.1 dev eth0 mtu 1400",
                "route ::/0 via fd00:77::1 dev eth0 mtu 1400",
            ]
        );
        assert_eq!(outside, [""; 0]);
    }

    #[test]
    fn without_a_router_or_beside_another_way_out_it_has_its_network_alone() {
        let one = pod(true, &["10.77.0.17"]);
        let second = pod(false, &["10.77.0.17"]);
        let link = "link eth0 macvlan mode vepa mtu 1400 address 02:77:65:66:74:01";
        let deaf = "sysctl net.ipv6.conf.eth0.accept_ra = 0";
        let alone = [link, deaf, "link eth0 up", "link lo up", "addr 10.77.0.17/24 dev eth0"];
        assert_eq!(held(Mode::Vepa, &one, &["fd00:77::1"]).0, alone);
        assert_eq!(held(Mode::Vepa, &second, &["10.77.0.1"]).0, alone);
    }

    #[test]
    fn a_private_pods_frames_are_not_taken_in_by_its_nic() {
        let pod = pod(true, &["10.77.0.17"]);
        let guard = "netdev ingress eth1 ether saddr 02:77:65:66:74:01 drop";
        assert_eq!(held(Mode::Private, &pod, &[]).1, [guard]);
    }

    #[test]
    fn a_parent_is_shared_by_equals_alone() {
        let kind = |mode| Macvlan { parent: eth1(), mode };
        let beside = |a, b| kind(a).beside_on_parent(&kind(b)).is_ok();
        assert!(beside(Mode::Bridge, Mode::Bridge) && beside(Mode::Private, Mode::Private));
        assert!(!beside(Mode::Bridge, Mode::Private) && !beside(Mode::Vepa, Mode::Bridge));
        assert!(!beside(Mode::Passthru, Mode::Passthru));
    }
}
