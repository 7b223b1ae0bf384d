//! A child of a NIC, with a MAC address of its own on the NIC's network (MACVLAN). It exists in the
//! pod's namespace alone: the node has no end of it, and no route to the pod.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::{Attaching, Birth, Ground, NextHop};
use crate::{
    attachment::Attachment,
    name::{IfName, Mac},
    state::{Kind, Knob, Link, Object, State},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Macvlan {
    /// The node's NIC that is on the network; of the same name on every node.
    pub parent: IfName,
    /// Who on the node may meet whom.
    #[serde(default)]
    pub mode: Mode,
}

/// As iproute2 names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
        Birth::Child { parent: self.parent.clone(), pod: link }
    }

    /// The kernel keeps only broadcast from private siblings: what a switch sends back must be
    /// dropped as it comes in by the NIC.
    fn outside(&self, pod: &Attachment, _on: &Ground<'_>) -> State {
        let apart = (self.mode == Mode::Private)
            .then(|| Object::Apart { dev: self.parent.clone(), mac: pod.mac });
        apart.into_iter().collect()
    }

    /// A link to strangers needs a link-local address, for neighbour discovery and for switches
    /// that watch who listens (RFC 4291, 2.8; RFC 3590); what strangers advertise is not taken.
    fn beside(&self, pod: &Attachment) -> State {
        let dev = &pod.id.ifname;
        if pod.addrs.iter().all(IpAddr::is_ipv4) {
            return State::default();
        }
        let deaf = Object::Sysctl { knob: Knob::AcceptRa(dev.clone()), value: 0 };
        let addr = Object::Addr { dev: dev.clone(), addr: link_local(pod.mac) };
        [deaf, addr].into_iter().collect()
    }

    /// A router of the network, found as strangers are: by asking.
    fn next_hop(&self, addr: IpAddr, on: &Ground<'_>) -> Option<NextHop> {
        let gateway = on.gateways.iter().find(|gateway| gateway.is_ipv4() == addr.is_ipv4());
        gateway.map(|gateway| NextHop { ip: *gateway, mac: None })
    }

    fn pod_addr(&self, addr: IpAddr, on: &Ground<'_>) -> IpNet {
        let prefix = on.ranges.iter().find(|range| range.contains(&addr));
        let prefix = prefix.map_or_else(|| IpNet::from(addr).prefix_len(), IpNet::prefix_len);
        IpNet::new(addr, prefix).unwrap_or_else(|_| addr.into())
    }

    fn reached_past_routes(&self) -> bool {
        true
    }

    fn node(&self, _on: &Ground<'_>) -> State {
        State::default()
    }

    fn parent(&self) -> Option<&IfName> {
        Some(&self.parent)
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

/// As the kernel would derive it (RFC 4291, appendix A).
fn link_local(Mac([a, b, c, d, e, f]): Mac) -> IpNet {
    let id = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    let mut octets = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).octets();
    octets[8..].copy_from_slice(&id);
    Ipv6Net::new(octets.into(), 64).expect("64 is a length of prefixes").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_is_the_kernels() {
        let mac = "02:77:65:66:74:01".parse().unwrap();
        assert_eq!(link_local(mac).to_string(), "fe80::77:65ff:fe66:7401/64");
    }
}
