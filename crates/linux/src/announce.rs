//! Telling a network which MAC address an address has now: gratuitous ARP (RFC 5227, 3) and
//! unsolicited neighbour advertisements (RFC 4861, 7.2.6), from inside the pod's namespace.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use weft_core::{checksum::checksum, name::Mac};

use crate::{frames::Frames, netns::Netns};

pub(crate) const ETH_IPV6: [u8; 2] = [0x86, 0xdd];
pub(crate) const ETH_ARP: [u8; 2] = [0x08, 0x06];

/// What is told, as often as one likes.
pub struct Announcement {
    by: Frames,
    frames: Vec<Vec<u8>>,
}

impl Announcement {
    pub(crate) fn new(netns: &Netns, index: u32, mac: Mac, addrs: &[IpAddr]) -> io::Result<Self> {
        let by = netns.run(|| Frames::by(index))??;
        let frames = addrs.iter().map(|addr| match addr {
            IpAddr::V4(addr) => arp(mac, *addr),
            IpAddr::V6(addr) => advertisement(mac, *addr),
        });
        Ok(Self { by, frames: frames.collect() })
    }

    pub fn send(&self) -> io::Result<()> {
        self.frames.iter().try_for_each(|frame| self.by.send(frame))
    }
}

/// A request for the address by its owner: whoever has it in his cache takes the sender's MAC.
fn arp(mac: Mac, addr: Ipv4Addr) -> Vec<u8> {
    // Ethernet, IPv4, lengths of 6 and 4, request.
    const HEAD: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
    let addr = addr.octets();
    [&[0xff; 6], &mac.0[..], &ETH_ARP, &HEAD, &mac.0, &addr, &[0; 6], &addr].concat()
}

/// To all nodes, with the bit that says that what they have in their caches is to be overridden.
fn advertisement(mac: Mac, addr: Ipv6Addr) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ICMPV6: u8 = 58;
    let target_link_layer = [&[2, 1], &mac.0[..]].concat();
    let mut icmp =
        [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &addr.octets(), &target_link_layer].concat();
    let length = u16::try_from(icmp.len()).unwrap_or(0).to_be_bytes();
    let pseudo =
        [&addr.octets()[..], &ALL_NODES.octets(), &[0, 0], &length, &[0, 0, 0, ICMPV6], &icmp];
    let sum = checksum(&[&pseudo.concat()]);
    icmp[2..4].copy_from_slice(&sum);
    let ip = [&[0x60, 0, 0, 0][..], &length, &[ICMPV6, 255], &addr.octets(), &ALL_NODES.octets()];
    [&[0x33, 0x33, 0, 0, 0, 1][..], &mac.0, &ETH_IPV6, &ip.concat(), &icmp].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_long_as_they_should_be() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        assert_eq!(arp(mac, Ipv4Addr::LOCALHOST).len(), 14 + 28);
        assert_eq!(advertisement(mac, Ipv6Addr::LOCALHOST).len(), 14 + 40 + 32);
    }
}
