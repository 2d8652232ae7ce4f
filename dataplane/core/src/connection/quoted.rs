//! The packet that an ICMP error quotes.

use weft_conntrack::{Family, Tuple};
use weft_io::Packet;
use weft_wire::{Protocol, ipv4, ipv6};

use super::{carried, ends};
use crate::parse::ip::{FRAGMENT_LATER, skip_extensions};

/// Where the quoted packet starts (RFC 792; RFC 4443, section 3).
const QUOTE_AT: usize = 8;

/// The tuple of the packet that is quoted, as quoted: its length may be cut, eight octets behind its header are enough.
/// `None` if it isn't there, or is a later fragment.
pub(super) fn tuple(packet: &Packet) -> Option<Tuple> {
    let (octets, payload) = carried(packet)?;
    let quote = octets.get(QUOTE_AT..payload.len.min(octets.len()))?;
    match payload.protocol {
        Protocol::ICMP => version_4(quote),
        Protocol::ICMPV6 => version_6(quote),
        _ => None,
    }
}

fn version_4(quote: &[u8]) -> Option<Tuple> {
    let header = ipv4::Header::new(quote.first_chunk::<{ ipv4::LEN }>()?);
    if header.header_len() < ipv4::LEN || header.is_later_fragment() {
        return None;
    }
    let tuple = Tuple {
        src: header.src().to_bits().into(),
        dst: header.dst().to_bits().into(),
        protocol: header.protocol().0,
        family: Family::V4,
        ..Tuple::default()
    };
    ends(quote.get(header.header_len()..)?, tuple)
}

fn version_6(quote: &[u8]) -> Option<Tuple> {
    let header = ipv6::Header::new(quote.first_chunk::<{ ipv6::LEN }>()?);
    let payload = skip_extensions(quote, &header)?;
    if payload.fragment & FRAGMENT_LATER != 0 {
        return None;
    }
    let tuple = Tuple {
        src: header.src().to_bits(),
        dst: header.dst().to_bits(),
        protocol: payload.protocol.0,
        family: Family::V6,
        ..Tuple::default()
    };
    ends(quote.get(payload.at..)?, tuple)
}
