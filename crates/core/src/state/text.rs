//! Objects and keys as `weft plan` and the log print them: in iproute2's words.

use std::fmt;

use super::*;

/// As iproute2 would say it.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(link) => link.fmt(f),
            Self::Sysctl { knob, value } => write!(f, "sysctl {knob} = {value}"),
            Self::Table { ruleset } => write!(f, "table inet weft {ruleset}"),
            Self::Apart { dev, mac } => write!(f, "netdev ingress {dev} ether saddr {mac} drop"),
            Self::Sources { dev, mac, addrs } => {
                let mac = mac.map_or_else(String::new, |mac| format!("ether saddr {mac} "));
                let addrs: Vec<String> = addrs.iter().map(ToString::to_string).collect();
                write!(f, "prerouting {dev} {mac}saddr {{ {} }}", addrs.join(", "))
            }
            Self::Shaped { dev, limit } => write!(f, "qdisc {limit} dev {dev}"),
            Self::Up { dev } => write!(f, "link {dev} up"),
            Self::Addr { dev, addr } => write!(f, "addr {addr} dev {dev}"),
            Self::Member { dev, addr } => write!(f, "addr {addr} dev {dev} noprefixroute"),
            Self::Anycast { dev, addr } => {
                let shy = if addr.addr().is_ipv4() { "scope host" } else { "deprecated" };
                write!(f, "addr {addr} dev {dev} noprefixroute {shy}")
            }
            Self::Neigh { dev, ip, mac } => write!(f, "neigh {ip} lladdr {mac} dev {dev}"),
            Self::Proxy { dev, ip } => write!(f, "neigh proxy {ip} dev {dev}"),
            Self::Fdb { dev, mac, dst } => write!(f, "fdb {mac} dst {dst} dev {dev}"),
            Self::Flood { dev, dst } => write!(f, "fdb 00:00:00:00:00:00 dst {dst} dev {dev}"),
            Self::Behind { dev, mac } => write!(f, "fdb {mac} dev {dev} master static"),
            Self::NextHop { dev, via } => write!(f, "nexthop via {via} dev {dev}"),
            Self::Group { hops } => write!(f, "nexthop group {hops}"),
            Self::Route(route) => route.fmt(f),
            Self::Hidden { .. } => write!(f, "{}", self.key()),
            Self::Port { door, to } => write!(f, "{door} dnat to {to}"),
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {} {} mtu {} address {}", self.dev, self.kind, self.mtu, self.mac)?;
        self.master.iter().try_for_each(|master| write!(f, " master {master}"))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vxlan { vni, port, local } => {
                write!(f, "vxlan id {vni} local {local} dstport {port}")
            }
            Self::VxlanGroup { vni, port, local, group, ttl, lower } => write!(
                f,
                "vxlan id {vni} group {group} dev {lower} local {local} dstport {port} ttl {ttl}"
            ),
            Self::Bridge => f.write_str("bridge"),
            Self::Veth => f.write_str("veth"),
            Self::Macvlan { mode } => write!(f, "macvlan mode {mode}"),
            Self::Ipvlan { mode, flag } => write!(f, "ipvlan mode {mode} {flag}"),
            Self::Vlan { lower, id } => write!(f, "vlan link {lower} id {id}"),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.to {
            Hop::Link(dev) => write!(f, "route {} dev {dev}", self.dst)?,
            Hop::From(dev, src) => write!(f, "route {} dev {dev} src {src}", self.dst)?,
            Hop::NextHop(dev, via) | Hop::Gateway(dev, via) => {
                write!(f, "route {} via {via} dev {dev}", self.dst)?;
            }
            Hop::Group(hops) => write!(f, "route {} {hops}", self.dst)?,
            Hop::GatewayFrom(dev, via, src) => {
                write!(f, "route {} via {via} dev {dev} src {src}", self.dst)?;
            }
            Hop::Blackhole => write!(f, "route blackhole {}", self.dst)?,
        }
        self.mtu.iter().try_for_each(|mtu| write!(f, " mtu {mtu}"))
    }
}

impl fmt::Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path().replace('/', "."))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(dev) => write!(f, "link {dev}"),
            Self::Sysctl(knob) => write!(f, "sysctl {knob}"),
            Self::Table => f.write_str("table inet weft"),
            Self::Apart(dev, mac) => write!(f, "netdev ingress {dev} ether saddr {mac}"),
            Self::Sources(dev) => write!(f, "prerouting {dev} saddr"),
            Self::Shaped(dev) => write!(f, "qdisc tbf dev {dev}"),
            Self::Up(dev) => write!(f, "link {dev} up"),
            Self::Addr(dev, addr) => write!(f, "addr {addr} dev {dev}"),
            Self::Neigh(dev, ip) => write!(f, "neigh {ip} dev {dev}"),
            Self::Proxy(dev, ip) => write!(f, "neigh proxy {ip} dev {dev}"),
            Self::Fdb(dev, mac) => write!(f, "fdb {mac} dev {dev}"),
            Self::Flood(dev, dst) => write!(f, "fdb 00:00:00:00:00:00 dst {dst} dev {dev}"),
            Self::Behind(dev, mac) => write!(f, "fdb {mac} dev {dev} master"),
            Self::NextHop(dev, via) => write!(f, "nexthop via {via} dev {dev}"),
            Self::Group(hops) => write!(f, "nexthop group {hops}"),
            Self::Route(dst) => write!(f, "route {dst}"),
            Self::Access(dst) => write!(f, "route {dst} by the node"),
            Self::Hidden(addr, Client::Itself) => write!(f, "saddr {addr} daddr {addr} masquerade"),
            Self::Hidden(addr, Client::Anybody) => {
                write!(f, "daddr {addr} ct status dnat masquerade")
            }
            Self::Port(door) => write!(f, "{door} dnat"),
        }
    }
}
