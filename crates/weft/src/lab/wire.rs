//! The underlay of the lab: one switch, or two with a router between, and a host beyond that
//! stands for the rest of the world.

use std::net::IpAddr;

use anyhow::Context;
use clap::ValueEnum;
use ipnet::IpNet;
use weft_core::name::IfName;
use weft_linux::{Kernel, Netns, rig};

use super::Families;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Topology {
    /// All nodes on one L2 segment
    Segment,
    /// Two segments joined by a router; the last node alone on the second
    Routed,
}

/// What the switch of the nodes' second NICs takes in by a node's port
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Any MAC address
    #[default]
    Any,
    /// The NIC's own alone, as clouds do
    OneMac,
}

pub const MTU: u32 = 1500;

/// The switches, and the host that is everybody's way out.
pub struct Wire {
    switches: Vec<Netns>,
    /// The switch of the nodes' second NICs, where there are any.
    lan: Option<Netns>,
    admits: Switch,
    /// Router between the segments, and a host with an address of its own, 203.0.113.1.
    pub world: Netns,
    topology: Topology,
}

/// A node's place on the wire.
#[derive(Clone, Debug)]
pub struct Place {
    pub segment: usize,
    pub addrs: Vec<IpNet>,
}

pub const WORLD4: &str = "203.0.113.1";

fn net(text: &str) -> anyhow::Result<IpNet> {
    text.parse().with_context(|| format!("{text} is no prefix"))
}

fn segment4(segment: usize, host: usize) -> anyhow::Result<IpNet> {
    let base = if segment == 0 { "192.0.2" } else { "198.51.100" };
    net(&format!("{base}.{host}/24"))
}

fn segment6(segment: usize, host: usize) -> anyhow::Result<IpNet> {
    net(&format!("2001:db8:{}::{host:x}/64", segment + 1))
}

const ROUTER: usize = 254;

/// Addresses serve at once: nobody else is there to have them (RFC 4862, 5.4).
fn no_dad(netns: &Netns) -> std::io::Result<()> {
    rig::sysctl(netns, "net/ipv6/conf/all/accept_dad", "0")?;
    rig::sysctl(netns, "net/ipv6/conf/default/accept_dad", "0")
}

/// The range of the second switch's network, and its router there, which is the world's.
pub const LAN4: (&str, &str) = ("10.77.0.0/24", "10.77.0.1");
pub const LAN6: (&str, &str) = ("fd00:77::/64", "fd00:77::1");

fn second(world: &Netns) -> anyhow::Result<Netns> {
    let switch = Netns::create()?;
    rig::bridge(&switch, "br0")?;
    rig::pair(world, "lan", &switch, "up", MTU)?;
    rig::port(&switch, "up", "br0")?;
    rig::addr(world, "lan", net(&format!("{}/24", LAN4.1))?)?;
    rig::addr(world, "lan", net(&format!("{}/64", LAN6.1))?)?;
    Ok(switch)
}

impl Wire {
    pub fn build(topology: Topology, lan: Option<Switch>) -> anyhow::Result<Self> {
        let world = Netns::create()?;
        no_dad(&world)?;
        world.run(|| rig::up_here("lo"))??;
        rig::sysctl(&world, "net/ipv4/ip_forward", "1")?;
        rig::sysctl(&world, "net/ipv6/conf/all/forwarding", "1")?;
        let segments = if topology == Topology::Segment { 1 } else { 2 };
        let mut switches = Vec::new();
        for segment in 0..segments {
            let switch = Netns::create()?;
            rig::bridge(&switch, "br0")?;
            let dev = format!("seg{segment}");
            rig::pair(&world, &dev, &switch, "up", MTU)?;
            rig::port(&switch, "up", "br0")?;
            rig::addr(&world, &dev, segment4(segment, ROUTER)?)?;
            rig::addr(&world, &dev, segment6(segment, ROUTER)?)?;
            switches.push(switch);
        }
        rig::addr(&world, "lo", net(&format!("{WORLD4}/32"))?)?;
        rig::addr(&world, "lo", net("2001:db8:ffff::1/128")?)?;
        let admits = lan.unwrap_or_default();
        let lan = lan.map(|_| second(&world)).transpose()?;
        Ok(Self { switches, lan, admits, world, topology })
    }

    /// Where the `n`-th of `all` nodes stands.
    pub fn place(&self, n: usize, all: usize, families: Families) -> anyhow::Result<Place> {
        let segment = usize::from(self.topology == Topology::Routed && n + 1 == all);
        let mut addrs = Vec::new();
        if families.has(true, n) {
            addrs.push(segment4(segment, n + 1)?);
        }
        if families.has(false, n) {
            addrs.push(segment6(segment, n + 1)?);
        }
        Ok(Place { segment, addrs })
    }

    /// Plugs a node in: `eth0` with its addresses and a default route.
    pub fn plug(&self, node: &Netns, name: &str, place: &Place) -> anyhow::Result<()> {
        let switch = &self.switches[place.segment];
        node.run(|| rig::up_here("lo"))??;
        no_dad(node)?;
        rig::pair(node, "eth0", switch, name, MTU)?;
        rig::port(switch, name, "br0")?;
        for addr in &place.addrs {
            rig::addr(node, "eth0", *addr)?;
            let (all, via) = if addr.addr().is_ipv4() {
                ("0.0.0.0/0", segment4(place.segment, ROUTER)?)
            } else {
                ("::/0", segment6(place.segment, ROUTER)?)
            };
            let via: IpAddr = via.addr();
            rig::route(node, net(all)?, via)?;
        }
        Ok(())
    }

    /// Plugs a node's second NIC into the second switch: `eth1`, with no address.
    pub fn plug_second(&self, node: &Netns, name: &str) -> anyhow::Result<()> {
        let Some(switch) = &self.lan else { return Ok(()) };
        rig::pair(node, "eth1", switch, name, MTU)?;
        rig::port(switch, name, "br0")?;
        self.admit(node, name, self.admits)
    }

    /// What the second switch takes in by a node's port, from now on.
    pub fn admit(&self, node: &Netns, name: &str, admits: Switch) -> anyhow::Result<()> {
        let nic = Kernel::of(node)?.link(&IfName::new("eth1"))?.context("a node without eth1")?;
        let only = (admits == Switch::OneMac).then_some(nic.mac);
        Ok(rig::admit(self.lan()?, name, only)?)
    }

    /// The second switch.
    pub fn lan(&self) -> anyhow::Result<&Netns> {
        self.lan.as_ref().context("the lab was built without a second switch")
    }

    /// Has the second switch send a node's frames back to it, or not.
    pub fn hairpin(&self, node: &str, back: bool) -> anyhow::Result<()> {
        Ok(rig::hairpin(self.lan()?, node, back)?)
    }

    pub fn switch(&self, segment: usize) -> &Netns {
        &self.switches[segment]
    }
}
