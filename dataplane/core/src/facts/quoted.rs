//! The packet that an ICMP error quotes (RFC 792; RFC 4443, section 3).

use weft_conntrack::{Family, Tuple};
use weft_wire::{EtherType, Protocol, icmpv4};

use super::{Layers, ends, is_icmp, is_query};
use crate::parse::ip::FRAGMENT_LATER;

/// What has to be there of a packet whose connection is named by more than its addresses: RFC 792 promises so much.
const LEAST: usize = 8;

/// What a quotation is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Quoted {
    /// The ends of the quoted packet.
    pub(crate) tuple: Tuple,
    /// Its layers; places count from its own IP header.
    pub(crate) layers: Layers,
}

/// Where the quoted packet starts in an ICMP error, of both versions.
pub(crate) const QUOTATION: usize = icmpv4::LEN;

/// Whether the message is an error: destination unreachable, source quench, redirect, time exceeded, parameter problem;
/// of ICMPv6 destination unreachable, packet too big, time exceeded, parameter problem.
pub(crate) fn is_error(family: Family, message: &[u8]) -> bool {
    match (family, message) {
        (Family::V4, [kind, ..]) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (Family::V6, [kind, ..]) => matches!(kind, 1..=4),
        _ => false,
    }
}

/// What the ICMP error `message` quotes: a packet that is whole up to the ports or the identifier. It may end there: its
/// own lengths are not held to what is there.
///
/// `None` if there is less, if it is a later fragment, or itself an ICMP message that is no query.
pub(crate) fn quoted(family: Family, message: &[u8]) -> Option<Quoted> {
    let network = message.get(QUOTATION..)?;
    let ether_type = match family {
        Family::V4 => EtherType::IPV4,
        Family::V6 => EtherType::IPV6,
    };
    let layers = Layers::of(network, ether_type, usize::MAX)?;
    let Layers { src, dst, payload, .. } = layers;
    let transport = network.get(payload.at..)?;
    if payload.fragment & FRAGMENT_LATER != 0 {
        return None;
    }
    let is_icmp = is_icmp(family, payload.protocol);
    // A packet of another protocol may be shorter than that.
    let is_named = is_icmp || matches!(payload.protocol, Protocol::TCP | Protocol::UDP);
    if (is_named && transport.len() < LEAST) || (is_icmp && !is_query(family, transport)) {
        return None;
    }
    let ends = ends(family, payload.protocol, transport);
    let (src_port, dst_port) = if is_named { ends? } else { ends.unwrap_or_default() };
    let tuple = Tuple { src, dst, src_port, dst_port, protocol: payload.protocol.0, family };
    Some(Quoted { tuple, layers })
}
