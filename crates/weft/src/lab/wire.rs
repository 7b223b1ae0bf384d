//! The underlay of the lab: one switch, two with a router between, or two racks with a router each,
//! and a host beyond that stands for the rest of the world.

use std::net::IpAddr;

use anyhow::Context;
use clap::ValueEnum;
use ipnet::IpNet;
use serde_json::{Value, json};
use weft_core::name::IfName;
use weft_linux::{Kernel, Netns, rig};

use super::Families;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Topology {
    /// All nodes on one L2 segment
    Segment,
    /// Two segments joined by a router; the last node alone on the second
    Routed,
    /// Two racks, half the nodes in each, with a top-of-rack router each, which speaks BGP
    Racks,
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
    /// The racks' routers, where there are any: then the world is only a host behind them.
    tors: Vec<Netns>,
    topology: Topology,
}

/// A node's place on the wire.
#[derive(Clone, Debug)]
pub struct Place {
    pub segment: usize,
    pub addrs: Vec<IpNet>,
}

impl Place {
    /// What a node says of its place.
    pub fn labels(&self) -> Value {
        json!({"rack": (self.segment + 1).to_string()})
    }
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

/// What routes: the world, and a rack's router.
fn router() -> anyhow::Result<Netns> {
    let router = Netns::create()?;
    no_dad(&router)?;
    router.run(|| rig::up_here("lo"))??;
    rig::sysctl(&router, "net/ipv4/ip_forward", "1")?;
    rig::sysctl(&router, "net/ipv6/conf/all/forwarding", "1")?;
    Ok(router)
}

/// A switch with `router` on it, as everybody's way out.
fn segment(router: &Netns, segment: usize) -> anyhow::Result<Netns> {
    let switch = Netns::create()?;
    rig::bridge(&switch, "br0")?;
    let dev = format!("seg{segment}");
    rig::pair(router, &dev, &switch, "up", MTU)?;
    rig::port(&switch, "up", "br0")?;
    rig::addr(router, &dev, segment4(segment, ROUTER)?)?;
    rig::addr(router, &dev, segment6(segment, ROUTER)?)?;
    Ok(switch)
}

/// A cable between two routers: link number, ends and their devices.
fn cable(number: usize, ends: [(&Netns, &str); 2]) -> anyhow::Result<()> {
    let [(a, a_dev), (b, b_dev)] = ends;
    rig::pair(a, a_dev, b, b_dev, MTU)?;
    for ((netns, dev), end) in ends.into_iter().zip(0..) {
        rig::addr(netns, dev, cable4(number, end)?)?;
        rig::addr(netns, dev, cable6(number, end)?)?;
    }
    Ok(())
}

fn cable4(number: usize, end: usize) -> anyhow::Result<IpNet> {
    net(&format!("10.254.{number}.{end}/31"))
}

fn cable6(number: usize, end: usize) -> anyhow::Result<IpNet> {
    net(&format!("fd00:fe:{number}::{end}/127"))
}

/// The cable between the two racks' routers; those from each to the world come after.
const BETWEEN: usize = 0;

/// Routes of `netns` to a prefix through the far end of a cable.
fn through(netns: &Netns, dst: [&str; 2], number: usize, end: usize) -> anyhow::Result<()> {
    let [dst4, dst6] = dst;
    rig::route(netns, net(dst4)?, cable4(number, end)?.addr())?;
    Ok(rig::route(netns, net(dst6)?, cable6(number, end)?.addr())?)
}

/// Two routers beside each other, each between its rack and the world. They know the way to each
/// other's nodes; of pods they learn by BGP.
fn racks(world: &Netns) -> anyhow::Result<Vec<Netns>> {
    let tors = vec![router()?, router()?];
    cable(BETWEEN, [(&tors[0], "tor1"), (&tors[1], "tor0")])?;
    for (rack, tor) in tors.iter().enumerate() {
        let number = BETWEEN + 1 + rack;
        cable(number, [(world, &format!("rack{rack}")), (tor, "up")])?;
        through(tor, ["0.0.0.0/0", "::/0"], number, 0)?;
        let (mine, other) = (nodes_of(rack)?, nodes_of(1 - rack)?);
        through(world, [&mine.0, &mine.1], number, 1)?;
        through(tor, [&other.0, &other.1], BETWEEN, 1 - rack)?;
    }
    Ok(tors)
}

/// The networks of a segment's nodes.
fn nodes_of(segment: usize) -> anyhow::Result<(String, String)> {
    let text = |addr: IpNet| addr.trunc().to_string();
    Ok((text(segment4(segment, ROUTER)?), text(segment6(segment, ROUTER)?)))
}

impl Wire {
    pub fn build(topology: Topology, lan: Option<Switch>) -> anyhow::Result<Self> {
        let world = router()?;
        let tors = if topology == Topology::Racks { racks(&world)? } else { Vec::new() };
        let segments = if topology == Topology::Segment { 1 } else { 2 };
        let switches = (0..segments).map(|n| segment(tors.get(n).unwrap_or(&world), n));
        let switches = switches.collect::<anyhow::Result<_>>()?;
        rig::addr(&world, "lo", net(&format!("{WORLD4}/32"))?)?;
        rig::addr(&world, "lo", net("2001:db8:ffff::1/128")?)?;
        let admits = lan.unwrap_or_default();
        let lan = lan.map(|_| second(&world)).transpose()?;
        Ok(Self { switches, lan, admits, world, tors, topology })
    }

    /// The racks' routers.
    pub fn tors(&self) -> &[Netns] {
        &self.tors
    }

    /// Where the `n`-th of `all` nodes stands.
    pub fn place(&self, n: usize, all: usize, families: Families) -> anyhow::Result<Place> {
        let segment = match self.topology {
            Topology::Segment => 0,
            Topology::Routed => usize::from(n + 1 == all),
            Topology::Racks => usize::from(n >= all.div_ceil(2)),
        };
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
