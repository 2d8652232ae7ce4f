//! What IP carries: ports, TCP flags, ICMP's type and code, neighbour discovery.
//!
//! A header has to be whole for its fields to be read: TCP's with its options, eight octets of UDP and ICMP, twelve of
//! SCTP. As in Open vSwitch, the protocol alone says what it is, whichever version of IP carries it.

use weft_wire::{Protocol, icmpv4, tcp, udp};

use super::ip::{FRAGMENT_LATER, Payload};
use super::{Words, be64};
use crate::key::MIDDLE;

/// SCTP's common header (RFC 9260, section 3.1).
pub(crate) const SCTP: usize = 12;

#[inline(always)]
pub(super) fn read<const W: usize>(packet: &[u8], payload: &Payload, key: &mut Words<W>) {
    if payload.fragment & FRAGMENT_LATER != 0 {
        return;
    }
    let segment = packet.get(payload.at..).unwrap_or_default();
    match payload.protocol {
        Protocol::TCP => {
            if let Some(header) = tcp_header(segment, payload.len) {
                let ports = u64::from(u32::from_be_bytes([header[0], header[1], header[2], header[3]]));
                let flags = u64::from(u16::from_be_bytes([header[12], header[13]]) & 0x0fff);
                key.put(8, ports << 32 | flags << 16);
            }
        }
        Protocol::UDP if payload.len >= udp::LEN => key.put(8, ports(segment)),
        Protocol::SCTP if payload.len >= SCTP => key.put(8, ports(segment)),
        Protocol::ICMP if payload.len >= icmpv4::LEN => {
            key.put(8, type_and_code(segment, icmp_has_identifier))
        }
        Protocol::IGMP if payload.len >= icmpv4::LEN => key.put(8, type_and_code(segment, |_| false)),
        Protocol::ICMPV6 if payload.len >= icmpv4::LEN => {
            key.put(8, type_and_code(segment, icmpv6_has_identifier));
            if W > MIDDLE && is_neighbour_discovery(segment) {
                neighbour_discovery(segment, payload.len, key);
            }
        }
        _ => {}
    }
}

/// The fixed part of a TCP header (RFC 9293, section 3.1) all of which is there, options included.
#[inline(always)]
pub(crate) fn tcp_header(segment: &[u8], len: usize) -> Option<&[u8; tcp::LEN]> {
    let header = segment.first_chunk::<{ tcp::LEN }>()?;
    let header_len = usize::from(header[12] >> 4) * 4;
    (header_len >= tcp::LEN && len >= header_len).then_some(header)
}

#[inline(always)]
fn ports(segment: &[u8]) -> u64 {
    segment.first_chunk().map_or(0, |ports| u64::from(u32::from_be_bytes(*ports)) << 32)
}

/// In the places of the ports. `has_identifier` says which types have one.
#[inline(always)]
fn type_and_code(segment: &[u8], has_identifier: fn(u8) -> bool) -> u64 {
    let &[kind, code, _, _, high, low, ..] = segment.first_chunk::<8>().unwrap_or(&[0; 8]);
    let [high, low] = if has_identifier(kind) { [high, low] } else { [0; 2] };
    u64::from(u32::from_be_bytes([high, kind, low, code])) << 32
}

/// ICMP's types with an identifier, which tells connections apart: echo, timestamp and information, each asked
/// and answered (RFC 792).
pub(crate) fn icmp_has_identifier(kind: u8) -> bool {
    matches!(kind, 0 | 8 | 13..=16)
}

/// The same of ICMPv6: echo (RFC 4443, section 4).
pub(crate) fn icmpv6_has_identifier(kind: u8) -> bool {
    matches!(kind, 128 | 129)
}

/// Neighbour solicitation and advertisement (RFC 4861, sections 4.3 and 4.4).
#[inline(always)]
pub(crate) fn is_neighbour_discovery(segment: &[u8]) -> bool {
    matches!(segment, [135 | 136, 0, ..])
}

/// Target and link-layer addresses. An address that is given twice makes all of them void.
fn neighbour_discovery<const W: usize>(segment: &[u8], len: usize, key: &mut Words<W>) {
    let Some(found) = Neighbour::find(segment, len) else { return };
    key.put(12, be64(segment, TARGET).unwrap_or(0));
    key.put(13, be64(segment, TARGET + 8).unwrap_or(0));
    for (word, place) in [(9, found.source), (10, found.target)] {
        if let Some(at) = place {
            key.put(word, be64(segment, at).unwrap_or(0) << 16);
        }
    }
}

/// Where the target address starts in a neighbour solicitation or advertisement.
pub(crate) const TARGET: usize = 8;
/// Where its options start.
pub(crate) const OPTIONS: usize = TARGET + 16;

/// The link-layer address options of a neighbour solicitation or advertisement: where each of them starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Neighbour {
    /// The source's (RFC 4861, section 4.6.1).
    source: Option<usize>,
    /// The target's.
    target: Option<usize>,
}

impl Neighbour {
    /// Looks through the options of the message of `len` octets that `segment` starts with; `None` if the target isn't
    /// there, or an address is there twice. Options end with the first that has no length or more than there is.
    fn find(segment: &[u8], len: usize) -> Option<Neighbour> {
        let message = segment.get(..len).unwrap_or(segment);
        let mut rest = message.get(OPTIONS..)?;
        let mut found = Neighbour::default();
        while let Some(&[kind, units, ..]) = rest.first_chunk::<8>() {
            let option_len = usize::from(units) * 8;
            let Some(behind) = rest.get(option_len..).filter(|_| option_len > 0) else { break };
            let place = match kind {
                1 => Some(&mut found.source),
                2 => Some(&mut found.target),
                _ => None,
            };
            if let Some(place) = place.filter(|_| option_len == 8) {
                // An address of zeros can't be told from none.
                if place.is_some_and(|at| message.get(at + 2..at + 8) != Some(&[0; 6])) {
                    return None;
                }
                *place = Some(message.len() - rest.len());
            }
            rest = behind;
        }
        Some(found)
    }
}
