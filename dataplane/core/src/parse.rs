//! Packet to flow key.
//!
//! [`ethernet`] reads the two words that every key has; [`full`] reads all, for ports whose policy reads more. Both are
//! total: a frame that ends before its Ethernet header or its outermost tag does gives `None` (a counted drop), and a
//! truncated header further in leaves its words 0, as Open vSwitch's `flow_extract` does.

use weft_wire::{EtherType, Mac, Tci, arp, ipv4, ipv6};

use crate::key::{FlowKey, Ingress};

/// Words 0 and 1 of the key: addresses, ingress, outermost tag.
#[inline(always)]
pub fn ethernet(frame: &[u8], ingress: Ingress) -> Option<[u64; 2]> {
    let head = frame.first_chunk::<14>()?;
    // Two loads that overlap: both addresses, and the EtherType at the end of the second.
    let front = u64::from_be_bytes(*head.first_chunk()?);
    let back = u64::from_be_bytes(*head.last_chunk()?);
    let tci = if EtherType(back as u16).is_tag() {
        let tag = frame.get(14..18)?.first_chunk::<2>()?;
        Tci::from_wire(u16::from_be_bytes(*tag))
    } else {
        Tci::UNTAGGED
    };
    Some([front & !0xffff | ingress.bits(), back & !0xffff | u64::from(tci.0)])
}

/// The whole key of a packet that came in by a port; word 2 (tunnel) is the caller's.
pub fn full(frame: &[u8], ingress: Ingress) -> Option<FlowKey> {
    let mut key = FlowKey::default();
    let [first, second] = ethernet(frame, ingress)?;
    (key.0[0], key.0[1]) = (first, second);
    let (mut at, mut ether_type) = (14, EtherType(be16(frame, 12)?));
    if ether_type.is_tag() {
        (at, ether_type) = (18, EtherType(be16(frame, 16)?));
        if ether_type.is_tag()
            && let (Some(inner), Some(behind)) = (be16(frame, 18), be16(frame, 20))
        {
            key.set(3, 32, u64::from(Tci::from_wire(inner).0));
            (at, ether_type) = (22, EtherType(behind));
        }
    }
    key.set(3, 48, u64::from(ether_type.0));
    let payload = frame.get(at..).unwrap_or_default();
    match ether_type {
        EtherType::IPV4 => network_v4(payload, &mut key),
        EtherType::IPV6 => network_v6(payload, &mut key),
        EtherType::ARP => resolution(payload, &mut key),
        _ => {}
    }
    Some(key)
}

fn be16(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*octets.get(at..)?.first_chunk()?))
}

/// Fragment bits as Open vSwitch's `nw_frag` has them: any fragment, and a later one.
const FRAGMENT_ANY: u64 = 1;
const FRAGMENT_LATER: u64 = 2;

fn network_v4(packet: &[u8], key: &mut FlowKey) {
    let Ok((header, _)) = ipv4::Header::split(packet) else { return };
    let header_len = header.header_len();
    if header.version() != 4 || header_len < ipv4::LEN || packet.len() < header_len {
        return;
    }
    let later = header.is_later_fragment();
    key.set(3, 24, u64::from(header.protocol().0));
    key.set(3, 16, u64::from(header.tos()));
    key.set(3, 8, u64::from(header.ttl()));
    let any = if header.is_fragment() { FRAGMENT_ANY } else { 0 };
    key.set(3, 0, any | if later { FRAGMENT_LATER } else { 0 });
    key.set(5, 0, u64::from(header.src().to_bits()));
    key.set(7, 0, u64::from(header.dst().to_bits()));
    if !later {
        transport(header.protocol().0, packet.get(header_len..).unwrap_or_default(), key);
    }
}

fn network_v6(packet: &[u8], key: &mut FlowKey) {
    let Ok((header, behind)) = ipv6::Header::split(packet) else { return };
    if header.version() != 6 {
        return;
    }
    for (word, address) in [(4, header.src().to_bits()), (6, header.dst().to_bits())] {
        key.set(word, 0, (address >> 64) as u64);
        key.set(word + 1, 0, address as u64);
    }
    key.set(3, 16, u64::from(header.traffic_class()));
    key.set(3, 8, u64::from(header.hop_limit()));
    let Some((protocol, payload)) = skip_extensions(header.next_header().0, behind, key) else { return };
    key.set(3, 24, u64::from(protocol));
    if key.0[3] & FRAGMENT_LATER == 0 {
        transport(protocol, payload, key);
    }
}

/// Walks IPv6 extension headers (RFC 8200, section 4) to the upper-layer protocol; at most eight of them.
fn skip_extensions<'a>(mut next: u8, mut rest: &'a [u8], key: &mut FlowKey) -> Option<(u8, &'a [u8])> {
    for _ in 0..8 {
        let len = match next {
            0 | 43 | 60 | 135 => (usize::from(*rest.get(1)?) + 1) * 8,
            51 => (usize::from(*rest.get(1)?) + 2) * 4,
            44 => {
                let later = be16(rest, 2)? & 0xfff8 != 0;
                key.set(3, 0, FRAGMENT_ANY | if later { FRAGMENT_LATER } else { 0 });
                8
            }
            _ => return Some((next, rest)),
        };
        next = *rest.first()?;
        rest = rest.get(len..)?;
        if key.0[3] & FRAGMENT_LATER != 0 {
            return Some((next, rest));
        }
    }
    None
}

fn transport(protocol: u8, segment: &[u8], key: &mut FlowKey) {
    match protocol {
        // TCP, UDP, SCTP
        6 | 17 | 132 => {
            let (Some(source), Some(destination)) = (be16(segment, 0), be16(segment, 2)) else { return };
            key.set(8, 48, u64::from(source));
            key.set(8, 32, u64::from(destination));
            if protocol == 6 {
                key.set(8, 16, u64::from(be16(segment, 12).unwrap_or(0) & 0x0fff));
            }
        }
        // ICMP, ICMPv6
        1 | 58 => {
            let (Some(&kind), Some(&code)) = (segment.first(), segment.get(1)) else { return };
            key.set(8, 48, u64::from(kind));
            key.set(8, 32, u64::from(code));
        }
        _ => {}
    }
}

/// ARP for Ethernet and IPv4 only.
fn resolution(packet: &[u8], key: &mut FlowKey) {
    let Ok(arp) = arp::Header::new_checked(packet) else { return };
    let word = |Mac([a, b, c, d, e, f]): Mac| u64::from_be_bytes([a, b, c, d, e, f, 0, 0]);
    key.set(3, 24, u64::from(arp.operation().0) & 0xff);
    key.set(5, 0, u64::from(arp.sender_ip().to_bits()));
    key.set(7, 0, u64::from(arp.target_ip().to_bits()));
    key.set(9, 0, word(arp.sender_mac()));
    key.set(10, 0, word(arp.target_mac()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PortId;
    use proptest::prelude::*;

    const PORT: Ingress = Ingress::port(PortId(3));

    fn frame(tail: &[u8]) -> Vec<u8> {
        [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1], tail].concat()
    }

    #[test]
    fn addresses_ingress_and_tag_are_read() {
        let frame = frame(&[0x81, 0, 0xa0, 0x64, 8, 0]);
        let key = full(&frame, PORT).unwrap();
        assert_eq!(key.destination(), Mac([2, 0, 0, 0, 0, 2]));
        assert_eq!(key.source(), Mac([2, 0, 0, 0, 0, 1]));
        assert_eq!((key.tci().vid().get(), key.tci().pcp(), key.tci().is_tagged()), (100, 5, true));
        assert_eq!((Ingress::of(&key), key.ether_type()), (PORT, EtherType::IPV4.0));
    }

    #[test]
    fn a_frame_that_ends_in_its_ethernet_header_or_tag_has_no_key() {
        assert_eq!(full(&frame(&[8]), PORT), None);
        assert_eq!(full(&frame(&[0x81, 0, 0, 1, 8]), PORT), None);
        assert!(full(&frame(&[8, 0]), PORT).is_some());
    }

    #[test]
    fn a_udp_packets_five_tuple_is_read() {
        let mut ip = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        ip.extend([0x12, 0x34, 0, 53, 0, 8, 0, 0]);
        let key = full(&frame(&[&[8, 0], &ip[..]].concat()), PORT).unwrap();
        assert_eq!((key.0[5], key.0[7]), (0x0a00_0001, 0x0a00_0002));
        assert_eq!(key.0[8], 0x1234_0035_0000_0000);
        assert_eq!(key.0[3] & 0xffff_ffff, 0x1100_4000);
    }

    proptest! {
        #[test]
        fn any_octets_are_parsed_without_a_panic(octets in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..4usize) {
            let mut octets = octets;
            let ether_type = [EtherType::IPV4, EtherType::IPV6, EtherType::ARP, EtherType::VLAN][kind].0.to_be_bytes();
            if let Some(place) = octets.get_mut(12..14) {
                place.copy_from_slice(&ether_type);
            }
            let full = full(&octets, PORT);
            prop_assert_eq!(full.map(|key| [key.0[0], key.0[1]]), ethernet(&octets, PORT));
        }
    }
}
