//! Asking a network who has an address, and hearing who does, by frames of our own making: ARP
//! probes (RFC 5227, 2.1.1) and neighbour solicitations (RFC 4861, 4.3; RFC 4862, 5.4.2). No
//! address of the node's is said, so nobody learns a wrong one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_core::{checksum::checksum, name::Mac};

use crate::announce::{ETH_ARP, ETH_IPV6};

const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
/// Ethernet, IPv4, lengths of 6 and 4.
const ARP_HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// Somebody on the network, by what he says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub addr: IpAddr,
    pub mac: Mac,
    /// Whom the frame was sent to.
    pub to: Mac,
    pub says: Says,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// He has the address, as an answer.
    Answers,
    /// He has it, in asking for another or unasked.
    Has,
    /// He asks whether somebody has it, and will take it if not.
    Probes,
}

/// An ARP probe, or a solicitation as of duplicate address detection: an answer to the latter goes
/// to all nodes.
pub(crate) fn probe(mac: Mac, addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => arp_probe(mac, addr),
        IpAddr::V6(addr) => solicitation(mac, Ipv6Addr::UNSPECIFIED, addr),
    }
}

/// As `probe`, but the answer comes to `mac` alone: IPv6 asks by the MAC's own link-local address.
pub(crate) fn question(mac: Mac, local: Ipv6Addr, addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => arp_probe(mac, addr),
        IpAddr::V6(addr) => solicitation(mac, local, addr),
    }
}

fn arp_probe(mac: Mac, addr: Ipv4Addr) -> Vec<u8> {
    let head = [&[0xff; 6], &mac.0[..], &ETH_ARP, &ARP_HEAD, &REQUEST].concat();
    // Nobody's address as the sender's: no cache takes it.
    [&head, &mac.0[..], &[0; 4], &[0; 6], &addr.octets()].concat()
}

/// The group of everybody who may have the address (RFC 4291, 2.7.1).
fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = addr.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// The MAC of a multicast group (RFC 2464, 7).
fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

/// What a prober listens to, since another may be asking for the same (RFC 4862, 5.4.2).
pub(crate) fn probers_group(addr: Ipv6Addr) -> Mac {
    group_mac(solicited_node(addr))
}

pub(crate) const ALL_NODES: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

fn solicitation(mac: Mac, from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let to = solicited_node(target);
    let mut icmp = [&[SOLICITATION, 0, 0, 0, 0, 0, 0, 0][..], &target.octets()].concat();
    // Nobody's address has no MAC (RFC 4861, 4.3).
    if !from.is_unspecified() {
        icmp.extend([SOURCE_LINK_LAYER, 1]);
        icmp.extend(mac.0);
    }
    let length = u16::try_from(icmp.len()).unwrap_or(0).to_be_bytes();
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 0], &length, &[0, 0, 0, ICMPV6], &icmp];
    let sum = checksum(&[&pseudo.concat()]);
    icmp[2..4].copy_from_slice(&sum);
    let ip = [&[0x60, 0, 0, 0][..], &length, &[ICMPV6, 255], &from.octets(), &to.octets()];
    [&group_mac(to).0[..], &mac.0, &ETH_IPV6, &ip.concat(), &icmp].concat()
}

/// What a frame says of an address, if anything.
pub(crate) fn read(frame: &[u8]) -> Option<Neighbour> {
    let (to, from) = (mac_at(frame, 0)?, mac_at(frame, 6)?);
    let body = frame.get(14..)?;
    let kind = frame.get(12..14)?;
    let (addr, mac, says) = if kind == ETH_ARP {
        read_arp(body)?
    } else if kind == ETH_IPV6 {
        read_nd(body, from)?
    } else {
        return None;
    };
    mac.is_unicast().then_some(Neighbour { addr, mac, to, says })
}

fn mac_at(bytes: &[u8], at: usize) -> Option<Mac> {
    bytes.get(at..at + 6)?.try_into().ok().map(Mac)
}

fn read_arp(body: &[u8]) -> Option<(IpAddr, Mac, Says)> {
    let addr = |at: usize| -> Option<Ipv4Addr> {
        Some(<[u8; 4]>::try_from(body.get(at..at + 4)?).ok()?.into())
    };
    if body.get(..6)? != ARP_HEAD {
        return None;
    }
    let (mac, sender, target) = (mac_at(body, 8)?, addr(14)?, addr(24)?);
    let says = match body.get(6..8)? {
        op if op == REPLY => Says::Answers,
        op if op == REQUEST => Says::Has,
        _ => return None,
    };
    match (sender.is_unspecified(), says) {
        (false, says) => Some((sender.into(), mac, says)),
        (true, Says::Has) => Some((target.into(), mac, Says::Probes)),
        (true, _) => None,
    }
}

/// Neighbour discovery, as far as a receiver takes it (RFC 4861, 7.1).
fn read_nd(packet: &[u8], from: Mac) -> Option<(IpAddr, Mac, Says)> {
    const IP: usize = 40;
    let addr = |at: usize| -> Option<Ipv6Addr> {
        Some(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?.into())
    };
    let length = usize::from(u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?));
    let icmp = packet.get(IP..IP + length)?;
    if packet[0] >> 4 != 6 || packet[6] != ICMPV6 || packet[7] != 255 || *icmp.get(1)? != 0 {
        return None;
    }
    let (source, target) = (addr(8)?, addr(IP + 8).filter(|_| icmp.len() >= 24)?);
    if target.is_multicast() {
        return None;
    }
    let of = |kind: u8| link_layer(&icmp[24..], kind, from);
    match icmp[0] {
        ADVERTISEMENT => Some((target.into(), of(TARGET_LINK_LAYER)?, Says::Answers)),
        SOLICITATION if source.is_unspecified() => Some((target.into(), from, Says::Probes)),
        SOLICITATION => Some((source.into(), of(SOURCE_LINK_LAYER)?, Says::Has)),
        _ => None,
    }
}

/// The link-layer address among the options (RFC 4861, 4.6.1), or `otherwise`. None: they are no
/// options, and the whole is to be dropped.
fn link_layer(mut options: &[u8], kind: u8, otherwise: Mac) -> Option<Mac> {
    let mut found = None;
    while let [this, units, ..] = *options {
        let length = usize::from(units) * 8;
        // Of no length, they would never end.
        let option = options.get(..length).filter(|_| length > 0)?;
        if this == kind {
            found = found.or(mac_at(option, 2));
        }
        options = &options[length..];
    }
    Some(found.unwrap_or(otherwise))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        digits
            .chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn a_probe_of_ipv4_is_rfc_5227s() {
        let want = "ffffffffffff 020000000001 0806
                    0001 0800 06 04 0001  020000000001 00000000  000000000000 0a4d0009";
        assert_eq!(probe(OWN, "10.77.0.9".parse().unwrap()), hex(want));
    }

    #[test]
    fn a_probe_of_ipv6_is_rfc_4862s() {
        let want = "3333ff345678 020000000001 86dd
                    60000000 0018 3a ff  00000000000000000000000000000000
                    ff0200000000000000000001ff345678
                    87 00 0000 00000000  fd000077000000000000000012345678";
        let frame = probe(OWN, "fd00:77::1234:5678".parse().unwrap());
        let mut unsummed = frame.clone();
        unsummed[56..58].fill(0);
        assert_eq!(unsummed, hex(want));
        // The sum over all of it, its own included, is nothing (RFC 1071).
        let pseudo = [&frame[22..54], &[0, 0, 0, 24, 0, 0, 0, 58], &frame[54..]].concat();
        assert_eq!(checksum(&[&pseudo]), [0, 0]);
    }

    #[test]
    fn a_question_of_ipv6_says_whom_to_answer() {
        let local = "fe80::77".parse().unwrap();
        let frame = question(OWN, local, "fd00:77::1".parse().unwrap());
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(frame[78..], [1, 1, 2, 0, 0, 0, 0, 1], "its source link-layer address");
        let said = read(&frame).unwrap();
        assert_eq!((said.addr, said.mac, said.says), (local.into(), OWN, Says::Has));
    }

    /// An ARP frame from THEIRS to OWN.
    fn arp(op: u8, sender: &str, target: &str) -> Vec<u8> {
        let addr = |text: &str| text.parse::<Ipv4Addr>().unwrap().octets();
        let head = hex("020000000001 020000000009 0806 0001 0800 06 04 00");
        [&head[..], &[op], &THEIRS.0, &addr(sender), &OWN.0, &addr(target)].concat()
    }

    /// An advertisement or solicitation from THEIRS.
    fn nd(kind: u8, source: &str, target: &str, options: &str) -> Vec<u8> {
        let addr = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        let icmp = [&[kind, 0, 0, 0, 0, 0, 0, 0], &addr(target)[..], &hex(options)].concat();
        let length = u16::try_from(icmp.len()).unwrap().to_be_bytes();
        let ip = [&hex("60000000")[..], &length, &[58, 255], &addr(source), &addr("ff02::1")];
        [&hex("333300000001 020000000009 86dd")[..], &ip.concat(), &icmp].concat()
    }

    fn said(frame: &[u8]) -> String {
        let Some(Neighbour { addr, mac, says, .. }) = read(frame) else { return "nothing".into() };
        format!("{mac} {says:?} {addr}")
    }

    #[test]
    fn what_others_say_is_understood() {
        let theirs = "02:00:00:00:00:09";
        for (frame, want) in [
            (arp(2, "10.77.0.9", "0.0.0.0"), "Answers 10.77.0.9"),
            (arp(1, "10.77.0.9", "10.77.0.1"), "Has 10.77.0.9"),
            (arp(1, "10.77.0.9", "10.77.0.9"), "Has 10.77.0.9"),
            (arp(1, "0.0.0.0", "10.77.0.9"), "Probes 10.77.0.9"),
            (nd(136, "fd00::9", "fd00::9", ""), "Answers fd00::9"),
            (nd(136, "fe80::9", "fd00::9", "0201 020000000009"), "Answers fd00::9"),
            (nd(135, "::", "fd00::9", ""), "Probes fd00::9"),
            (nd(135, "fd00::9", "fd00::1", "0101 020000000009"), "Has fd00::9"),
        ] {
            assert_eq!(said(&frame), format!("{theirs} {want}"));
        }
        let proxied = nd(136, "fe80::9", "fd00::9", "0e01 000000000000 0201 02000000000a");
        assert_eq!(said(&proxied), "02:00:00:00:00:0a Answers fd00::9", "behind another option");
    }

    #[test]
    fn what_no_receiver_takes_says_nothing() {
        let mut hops = nd(136, "fd00::9", "fd00::9", "");
        hops[21] = 64;
        let mut code = nd(136, "fd00::9", "fd00::9", "");
        code[55] = 1;
        let mut longer = nd(136, "fd00::9", "fd00::9", "");
        longer[19] += 8;
        let mut token_ring = arp(2, "10.77.0.9", "0.0.0.0");
        token_ring[15] = 6;
        let all = [
            hops,
            code,
            longer,
            token_ring,
            arp(2, "0.0.0.0", "10.77.0.9"),
            arp(3, "10.77.0.9", "10.77.0.1"),
            nd(136, "fd00::9", "ff02::9", ""),
            nd(134, "fe80::9", "fd00::9", ""),
            nd(136, "fd00::9", "fd00::9", "0500 000000000000"),
            nd(136, "fd00::9", "fd00::9", "0202 020000000009"),
            hex("ffffffffffff 020000000001 0800 45"),
        ];
        for frame in all {
            assert_eq!(said(&frame), "nothing", "{frame:x?}");
        }
        // Cut anywhere, it is read to its end and no further.
        for whole in
            [arp(1, "10.77.0.9", "10.77.0.1"), nd(135, "::", "fd00::9", "0101 020000000009")]
        {
            assert!((0..whole.len() - 8).all(|end| read(&whole[..end]).is_none()));
        }
    }
}
