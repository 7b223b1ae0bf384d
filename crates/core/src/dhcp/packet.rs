//! IPv4 and UDP around a message, since the pod has no address when it first asks.

use std::net::Ipv4Addr;

use crate::checksum::checksum;

pub const SERVER_PORT: u16 = 67;
pub const CLIENT_PORT: u16 = 68;
const UDP: u8 = 17;
const IP_HEAD: usize = 20;
const UDP_HEAD: usize = 8;

/// An IPv4 packet from the client's port to the servers'.
pub fn wrap(from: Ipv4Addr, to: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let length =
        |head: usize| u16::try_from(message.len() + head).unwrap_or(u16::MAX).to_be_bytes();
    let (whole, udp_length) = (length(IP_HEAD + UDP_HEAD), length(UDP_HEAD));
    let addrs = [from.octets(), to.octets()].concat();
    // Version and header length, then don't fragment, then a TTL.
    let mut ip = [&[0x45, 0][..], &whole, &[0, 0, 0x40, 0, 64, UDP, 0, 0], &addrs].concat();
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum);
    let ports = [SERVER_PORT, CLIENT_PORT].map(u16::to_be_bytes);
    let mut udp = [&ports[1][..], &ports[0], &udp_length, &[0, 0]].concat();
    let sum = match checksum(&[&addrs, &[0, UDP], &udp_length, &udp, message]) {
        // Zero would say that there is none (RFC 768).
        [0, 0] => [0xff, 0xff],
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum);
    [&ip[..], &udp, message].concat()
}

/// The message in a packet from a server's port to the client's; none in any other. UDP's checksum
/// is not looked at: of a packet that no wire was crossed with it may be yet to be made.
pub fn unwrap(packet: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    let first = *packet.first()?;
    let head = usize::from(first & 15) * 4;
    let whole = usize::from(word(2)?);
    let fragment = word(6)? & 0x3fff != 0;
    if first >> 4 != 4 || head < IP_HEAD || *packet.get(9)? != UDP || fragment {
        return None;
    }
    // What stands behind its end is the link's padding.
    let udp = packet.get(head..whole)?;
    let length = usize::from(u16::from_be_bytes(udp.get(4..6)?.try_into().ok()?));
    let ports = (word(head)?, word(head + 2)?);
    if ports != (SERVER_PORT, CLIENT_PORT) || length < UDP_HEAD {
        return None;
    }
    udp.get(UDP_HEAD..length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrapped_has_sums_that_add_up() {
        for message in [&b"even"[..], b"odd", b""] {
            let (from, to) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::BROADCAST);
            let packet = wrap(from, to, message);
            assert_eq!(checksum(&[&packet[..20]]), [0, 0]);
            let length = u16::try_from(8 + message.len()).unwrap().to_be_bytes();
            assert_eq!(checksum(&[&packet[12..20], &[0, UDP], &length, &packet[20..]]), [0, 0]);
        }
    }

    #[test]
    fn only_a_whole_packet_from_a_server_is_unwrapped() {
        let mut packet = wrap(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, b"hello");
        assert_eq!(unwrap(&packet), None, "it is a client's");
        packet[20..24].copy_from_slice(&[0, 67, 0, 68]);
        assert_eq!(unwrap(&packet), Some(&b"hello"[..]));
        let padded = [&packet[..], &[0; 18]].concat();
        assert_eq!(unwrap(&padded), Some(&b"hello"[..]));
        for length in 0..packet.len() {
            assert_eq!(unwrap(&packet[..length]), None, "{length}");
        }
        for (at, value) in
            [(0, 0x65), (0, 0x44), (0, 0x4f), (6, 0x20), (7, 1), (9, 6), (23, 67), (25, 7)]
        {
            let mut odd = packet.clone();
            odd[at] = value;
            assert_eq!(unwrap(&odd), None, "{at}: {value}");
        }
    }
}
