//! IPv4 (RFC 791) and IPv6 (RFC 8200): what of them is in a flow key, and where what they carry starts.
//!
//! A packet is as long as its header says: padding behind it never looks like ports. A header that says more than there
//! is leaves all fields of IP and above 0. As in Open vSwitch, the version in the header is not looked at: the EtherType
//! has said it.

use weft_wire::{Protocol, ipv4, ipv6};

use super::{Words, be64, transport};

/// Fragment bits as Open vSwitch's `nw_frag` has them: any fragment, and a later one.
pub(crate) const FRAGMENT_ANY: u8 = 1;
/// See [`FRAGMENT_ANY`].
pub(crate) const FRAGMENT_LATER: u8 = 2;

/// What an IP packet carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Payload {
    /// Where it starts, counted from the IP header's first octet.
    pub(crate) at: usize,
    /// How many octets it has, in all frames, as the IP header says.
    pub(crate) len: usize,
    /// Its protocol; [`Protocol::IPV6_FRAGMENT`] for a later fragment over IPv6.
    pub(crate) protocol: Protocol,
    /// [`FRAGMENT_ANY`] and [`FRAGMENT_LATER`].
    pub(crate) fragment: u8,
    /// Where IPv6's fragment header starts, of a packet that is a fragment by it.
    pub(crate) fragment_at: usize,
    /// Whether the packet is on its way to a stop that a routing header names.
    pub(crate) routed: bool,
}

/// The IPv4 header that `packet` starts with, and what it carries; `size` octets are in the packet from its first on.
#[inline(always)]
pub(crate) fn split_4(packet: &[u8], size: usize) -> Option<(&[u8; ipv4::LEN], Payload)> {
    let octets = packet.first_chunk::<{ ipv4::LEN }>()?;
    let header = ipv4::Header::new(octets);
    let (at, total) = (header.header_len(), usize::from(header.total_len()));
    if at < ipv4::LEN || total < at || size < total {
        return None;
    }
    let later = if header.is_later_fragment() { FRAGMENT_LATER } else { 0 };
    let fragment = if header.is_fragment() { FRAGMENT_ANY | later } else { 0 };
    let (len, protocol) = (total - at, header.protocol());
    Some((octets, Payload { at, len, protocol, fragment, fragment_at: 0, routed: false }))
}

#[inline(always)]
pub(super) fn version_4<const W: usize>(packet: &[u8], size: usize, word3: u64, key: &mut Words<W>) {
    let Some((octets, payload)) = split_4(packet, size) else { return };
    let header = ipv4::Header::new(octets);
    let (tos, ttl) = (header.tos(), header.ttl());
    key.put(3, word3 | word3_low(&payload, tos, ttl));
    key.put(5, u64::from(header.src().to_bits()));
    key.put(7, u64::from(header.dst().to_bits()));
    transport::read(packet, &payload, key);
}

/// Protocol, TOS, TTL and fragment bits, as word 3 has them.
#[inline(always)]
fn word3_low(payload: &Payload, tos: u8, ttl: u8) -> u64 {
    u64::from(u32::from_be_bytes([payload.protocol.0, tos, ttl, payload.fragment]))
}

/// Whether the IPv6 header that `packet` starts with is whole, and the packet as long as it says.
#[inline(always)]
pub(crate) fn header_6(packet: &[u8], size: usize) -> Option<&[u8; ipv6::LEN]> {
    let octets = packet.first_chunk::<{ ipv6::LEN }>()?;
    let total = ipv6::LEN + usize::from(ipv6::Header::new(octets).payload_len());
    (total <= size).then_some(octets)
}

#[inline(always)]
pub(super) fn version_6<const W: usize>(packet: &[u8], size: usize, word3: u64, key: &mut Words<W>) {
    let Some(octets) = header_6(packet, size) else { return };
    for (word, at) in [(4, 8), (5, 16), (6, 24), (7, 32)] {
        key.put(word, be64(octets, at).unwrap_or(0));
    }
    // Addresses are read even if what follows can't be; the other fields are not (as in Open vSwitch).
    let header = ipv6::Header::new(octets);
    let Some(payload) = skip_extensions(packet, &header) else { return };
    key.put(3, word3 | word3_low(&payload, header.traffic_class(), header.hop_limit()));
    key.put(11, u64::from(header.flow_label()));
    transport::read(packet, &payload, key);
}

/// Walks extension headers (RFC 8200, section 4; RFC 4302) to what the packet carries. Each takes eight octets at
/// least, so that the packet's length bounds the walk. `None` if one of them isn't whole.
#[inline(always)]
pub(crate) fn skip_extensions(packet: &[u8], header: &ipv6::View<'_>) -> Option<Payload> {
    let (protocol, len) = (header.next_header(), usize::from(header.payload_len()));
    let first = Payload { at: ipv6::LEN, len, protocol, fragment: 0, fragment_at: 0, routed: false };
    if is_extension(protocol) { walk(packet, first) } else { Some(first) }
}

#[inline(always)]
fn is_extension(protocol: Protocol) -> bool {
    // Hop-by-hop options, routing, fragment, authentication, destination options.
    matches!(protocol.0, 0 | 43 | 44 | 51 | 60)
}

fn walk(packet: &[u8], mut payload: Payload) -> Option<Payload> {
    while is_extension(payload.protocol) {
        let header: &[u8; 8] = packet.get(payload.at..)?.first_chunk()?;
        let &[next, units, third, fourth, ..] = header;
        let units = usize::from(units);
        let len = match payload.protocol {
            Protocol::IPV6_FRAGMENT => 8,
            Protocol(51) => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        payload.len = payload.len.checked_sub(len)?;
        payload.at += len;
        payload.routed |= payload.protocol == Protocol::IPV6_ROUTING && fourth > 0;
        let offset = u16::from_be_bytes([third, fourth]);
        if payload.protocol == Protocol::IPV6_FRAGMENT && offset != 0 {
            payload.fragment = FRAGMENT_ANY;
            payload.fragment_at = payload.at - len;
            if offset & 0xfff8 != 0 {
                payload.fragment |= FRAGMENT_LATER;
                return Some(payload);
            }
        }
        payload.protocol = Protocol(next);
    }
    Some(payload)
}
