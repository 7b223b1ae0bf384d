//! The lab's own wire: links, bridges, addresses and routes in namespaces that it made. Never used
//! on a node; what an agent owns goes through `Kernel`.

use std::{
    fs, io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
};

use ipnet::IpNet;
use weft_core::{
    mark,
    name::{IfName, Mac},
    state::{Hop, Route},
};

use crate::{encode, netns::Netns, socket, uapi::*, wire::Batch};

/// One request in the calling thread's namespace.
fn ask(write: impl FnOnce(&mut Batch, &mut socket::Link) -> io::Result<()>) -> io::Result<()> {
    let mut socket = socket::Link::route()?;
    let mut batch = socket.batch();
    write(&mut batch, &mut socket)?;
    match socket.send(batch)?.first() {
        Some(answer) => Err(io::Error::from_raw_os_error(answer.errno)),
        None => Ok(()),
    }
}

fn name(dev: &str) -> io::Result<IfName> {
    dev.parse().map_err(io::Error::other)
}

pub fn up_here(dev: &str) -> io::Result<()> {
    let dev = name(dev)?;
    ask(|batch, _| {
        encode::set_up(batch, &dev, true);
        Ok(())
    })
}

/// A veth pair between two namespaces; both ends up.
pub fn pair(a: &Netns, a_dev: &str, b: &Netns, b_dev: &str, mtu: u32) -> io::Result<()> {
    let there = b.as_fd().as_raw_fd();
    a.run(|| {
        ask(|batch, _| {
            batch.begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfomsg(0, 0, 0));
            batch.attr_str(IFLA_IFNAME, a_dev).attr_u32(IFLA_MTU, mtu);
            batch.nest(IFLA_LINKINFO, |batch| {
                batch.attr(IFLA_INFO_KIND, b"veth").nest(IFLA_INFO_DATA, |batch| {
                    batch.nest(VETH_INFO_PEER, |batch| {
                        batch
                            .raw(&ifinfomsg(0, 0, 0))
                            .attr_str(IFLA_IFNAME, b_dev)
                            .attr_u32(IFLA_MTU, mtu)
                            .attr(IFLA_NET_NS_FD, &there.to_ne_bytes());
                    });
                });
            });
            batch.end();
            Ok(())
        })?;
        up_here(a_dev)
    })??;
    b.run(|| up_here(b_dev))?
}

/// A switch: a bridge that is up.
pub fn bridge(netns: &Netns, dev: &str) -> io::Result<()> {
    netns.run(|| {
        ask(|batch, _| {
            batch.begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfomsg(0, 0, 0));
            batch.attr_str(IFLA_IFNAME, dev).nest(IFLA_LINKINFO, |batch| {
                batch.attr(IFLA_INFO_KIND, b"bridge");
            });
            batch.end();
            Ok(())
        })?;
        up_here(dev)
    })?
}

pub fn port(netns: &Netns, dev: &str, bridge: &str) -> io::Result<()> {
    netns.run(|| {
        ask(|batch, socket| {
            let (port, master) = (socket.index_of(&name(dev)?)?, socket.index_of(&name(bridge)?)?);
            batch.begin(RTM_NEWLINK, 0, &ifinfomsg(port, 0, 0)).attr_u32(IFLA_MASTER, master).end();
            Ok(())
        })
    })?
}

/// Whether a switch's port sends back what came by it.
pub fn hairpin(netns: &Netns, dev: &str, back: bool) -> io::Result<()> {
    netns.run(|| {
        ask(|batch, _| {
            encode::set_port_to(batch, &name(dev)?, &[(IFLA_BRPORT_MODE, back.into())]);
            Ok(())
        })
    })?
}

/// Has a switch's port take in this MAC address alone and send nothing to others, as clouds do; or
/// whatever comes.
pub fn admit(netns: &Netns, dev: &str, only: Option<Mac>) -> io::Result<()> {
    let one = u8::from(only.is_some());
    let settings = [
        (IFLA_BRPORT_LOCKED, one),
        (IFLA_BRPORT_LEARNING, 1 - one),
        (IFLA_BRPORT_UNICAST_FLOOD, 1 - one),
        // Forgets who was behind it.
        (IFLA_BRPORT_FLUSH, 1),
    ];
    netns.run(|| {
        ask(|batch, socket| {
            let index = socket.index_of(&name(dev)?)?;
            encode::set_port_to(batch, &name(dev)?, &settings);
            only.iter().for_each(|mac| encode::behind(batch, true, index, mac));
            Ok(())
        })
    })?
}

pub fn addr(netns: &Netns, dev: &str, addr: IpNet) -> io::Result<()> {
    netns.run(|| {
        ask(|batch, socket| {
            let index = socket.index_of(&name(dev)?)?;
            encode::addr(batch, index, &addr, encode::Hold::Plain);
            Ok(())
        })
    })?
}

pub fn remove_addr(netns: &Netns, dev: &str, addr: IpNet) -> io::Result<()> {
    netns.run(|| {
        ask(|batch, socket| {
            let index = socket.index_of(&name(dev)?)?;
            encode::delete_addr(batch, index, &addr);
            Ok(())
        })
    })?
}

/// A route as an administrator would add it (protocol static).
pub fn route(netns: &Netns, dst: IpNet, via: IpAddr) -> io::Result<()> {
    const RTPROT_STATIC: u8 = 4;
    netns.run(|| {
        ask(|batch, _| {
            let body = rtmsg(family(via), dst.prefix_len(), RTPROT_STATIC, 0, RTN_UNICAST, 0);
            batch.begin(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &body);
            batch.attr_ip(RTA_DST, dst.addr()).attr_ip(RTA_GATEWAY, via).end();
            Ok(())
        })
    })?
}

/// True if this kernel makes links of the kind, such as `ipvlan`.
pub fn has_kind(kind: &str) -> io::Result<bool> {
    let asked = Netns::create()?.run(|| {
        ask(|batch, _| {
            batch.begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfomsg(0, 0, 0));
            batch.nest(IFLA_LINKINFO, |batch| {
                batch.attr(IFLA_INFO_KIND, kind.as_bytes());
            });
            batch.end();
            Ok(())
        })
    })?;
    // A kind that it has is refused for what is missing here.
    Ok(!asked.is_err_and(|error| error.raw_os_error() == Some(libc::EOPNOTSUPP)))
}

pub fn delete_link(netns: &Netns, dev: &str) -> io::Result<()> {
    netns.run(|| {
        ask(|batch, _| {
            encode::delete_link(batch, &name(dev)?);
            Ok(())
        })
    })?
}

pub fn sysctl(netns: &Netns, path: &str, value: &str) -> io::Result<()> {
    netns.run(|| fs::write(format!("/proc/sys/{path}"), value))?
}

/// True if the namespace has no link of ours left.
pub fn is_clean(netns: &Netns) -> io::Result<bool> {
    netns.run(|| {
        let links = crate::observe::links(&mut socket::Link::route()?)?;
        Ok(!links
            .iter()
            .any(|link| link.group == mark::LINK_GROUP || link.group == mark::DOOMED_GROUP))
    })?
}

/// The least netlink work that an attachment can be: what a benchmark holds against the real one.
/// One send on the host (the pair with numbers chosen beforehand, neighbour, route), one in the pod.
/// Leaves the calling thread in the pod's namespace.
pub fn bare_add(netns: &Netns, index: u32, dev: &str, addr: std::net::Ipv4Addr) -> io::Result<()> {
    const POD_INDEX: u32 = 2;
    const GATEWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 1, 1));
    let (host_mac, pod_mac) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
    let there = netns.as_fd().as_raw_fd();
    let ends = |batch: &mut Batch, dev: &str, mac: Mac| {
        batch
            .attr_str(IFLA_IFNAME, dev)
            .attr(IFLA_ADDRESS, &mac.0)
            .attr_u32(IFLA_NUM_TX_QUEUES, 1)
            .attr_u32(IFLA_NUM_RX_QUEUES, 1);
    };
    let up = |batch: &mut Batch, index: u32| {
        batch.begin(RTM_NEWLINK, 0, &ifinfomsg(index, IFF_UP, IFF_UP)).end();
    };
    let on = |dst: IpNet, to: Hop| Route { dst, to, mtu: None };
    ask(|batch, _| {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        batch.begin(RTM_NEWLINK, flags, &ifinfomsg(index, 0, 0));
        ends(batch, dev, host_mac);
        batch.nest(IFLA_LINKINFO, |batch| {
            batch.attr(IFLA_INFO_KIND, b"veth").nest(IFLA_INFO_DATA, |batch| {
                batch.nest(VETH_INFO_PEER, |batch| {
                    batch.raw(&ifinfomsg(POD_INDEX, 0, 0));
                    ends(batch, "eth0", pod_mac);
                    batch.attr(IFLA_NET_NS_FD, &there.to_ne_bytes());
                });
            });
        });
        batch.end();
        up(batch, index);
        encode::neigh(batch, index, addr.into(), Some(&pod_mac));
        let host_end = name(dev)?;
        encode::route(batch, &on(IpAddr::from(addr).into(), Hop::Link(host_end)), index);
        Ok(())
    })?;
    netns.enter()?;
    ask(|batch, _| {
        let eth0 = name("eth0")?;
        up(batch, 1);
        up(batch, POD_INDEX);
        encode::addr(batch, POD_INDEX, &IpAddr::from(addr).into(), encode::Hold::Plain);
        encode::neigh(batch, POD_INDEX, GATEWAY, Some(&host_mac));
        let all =
            IpNet::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0).map_err(io::Error::other)?;
        encode::route(batch, &on(all, Hop::Gateway(eth0, GATEWAY)), POD_INDEX);
        Ok(())
    })
}

/// And its end: the link is deleted, and the kernel waited for.
pub fn bare_del(dev: &str) -> io::Result<()> {
    let dev = name(dev)?;
    ask(|batch, _| {
        encode::delete_link(batch, &dev);
        Ok(())
    })
}
