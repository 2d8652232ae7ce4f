//! What connection tracking is told of a packet.
//!
//! The addresses and ports are those of the walk's fields, so that what an action has rewritten counts. What no field has
//! is read from the packet itself: TCP's numbers, by a hit as well ([`segment`]), and the packet that an ICMP error quotes
//! (`connection/quoted.rs`). No checksum is looked at: a hit could not afford to, and a broken packet changes nothing that its
//! sender couldn't change with a whole one.

mod quoted;

use weft_conntrack::{Facts, Family, Segment, Translation, Tuple};
use weft_flow::{Field, Fields, Subfield};
use weft_io::Packet;
use weft_wire::{EtherType, Protocol, ipv6, tcp};

use crate::parse::ip::{FRAGMENT_LATER, Payload, header_6, skip_extensions, split_4};
use crate::parse::transport::{icmp_has_identifier, icmpv6_has_identifier, tcp_header};
use crate::parse::{self, Link};

/// What tracking knows of a packet; `None` if that is none of its packets: no IP, a fragment, or a message of ICMP that
/// belongs to no connection.
pub fn facts(fields: &Fields, packet: Option<&Packet>) -> Option<Facts> {
    let tuple = tuple(fields).filter(|tuple| tuple.is_trackable() || is_error(tuple))?;
    let inner = if is_error(&tuple) { packet.and_then(quoted::tuple) } else { None };
    let tcp = if tuple.protocol == Protocol::TCP.0 { tcp_of(fields, packet) } else { None };
    Some(Facts { tuple, tcp, inner, valid: true })
}

/// Whether the packet is a fragment.
pub fn is_fragment(fields: &Fields) -> bool {
    Subfield::whole(Field::IpFrag).get(fields) != 0
}

/// The tuple that these fields are.
pub fn tuple(fields: &Fields) -> Option<Tuple> {
    let get = |field| Subfield::whole(field).get(fields);
    let family = match EtherType(get(Field::EthType) as u16) {
        EtherType::IPV4 => Family::V4,
        EtherType::IPV6 => Family::V6,
        _ => return None,
    };
    if is_fragment(fields) {
        return None;
    }
    let (src, dst) = match family {
        Family::V4 => (get(Field::IpSrc), get(Field::IpDst)),
        Family::V6 => (get(Field::Ipv6Src), get(Field::Ipv6Dst)),
    };
    let protocol = get(Field::NwProto) as u8;
    let (src_port, dst_port) = (get(Field::TcpSrc) as u16, get(Field::TcpDst) as u16);
    let tuple = Tuple { src, dst, src_port, dst_port, protocol, family };
    Some(match (tuple.is_icmp(), Protocol(protocol)) {
        (true, _) => message(tuple),
        (false, Protocol::TCP | Protocol::UDP | Protocol::SCTP) => tuple,
        (false, _) => Tuple { src_port: 0, dst_port: 0, ..tuple },
    })
}

/// As keys have them, type and code are in the low octets of the ports and the identifier in the high ones.
fn message(tuple: Tuple) -> Tuple {
    let [[high, kind], [low, code]] = [tuple.src_port, tuple.dst_port].map(u16::to_be_bytes);
    Tuple { src_port: u16::from_be_bytes([high, low]), dst_port: Tuple::icmp(kind, code), ..tuple }
}

/// ICMP messages that quote the packet that they are about (RFC 792; RFC 4443, section 3).
pub fn is_error(tuple: &Tuple) -> bool {
    tuple.is_icmp()
        && match tuple.family {
            Family::V4 => matches!(tuple.icmp_type(), 3 | 4 | 5 | 11 | 12),
            Family::V6 => matches!(tuple.icmp_type(), 1..=4),
        }
}

/// Of a packet that is only described, the flags are all that is known.
fn tcp_of(fields: &Fields, packet: Option<&Packet>) -> Option<Segment> {
    match packet {
        Some(packet) => segment(packet),
        None => {
            let flags = Subfield::whole(Field::TcpFlags).get(fields) as u8;
            Some(Segment { flags, window: u16::MAX, ..Segment::default() })
        }
    }
}

/// What tracking reads of a TCP packet. `None` if it has no whole TCP header.
#[inline]
pub fn segment(packet: &Packet) -> Option<Segment> {
    let (octets, payload) = carried(packet)?;
    if payload.protocol != Protocol::TCP {
        return None;
    }
    let header = tcp_header(octets, payload.len)?;
    let header_len = usize::from(header[12] >> 4) * 4;
    let word = |at: usize| {
        header.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_be_bytes(*word))
    };
    let flags = header[13];
    let options = octets.get(tcp::LEN..header_len).unwrap_or_default();
    Some(Segment {
        seq: word(4),
        ack: word(8),
        window: u16::from_be_bytes([header[14], header[15]]),
        flags,
        payload: (payload.len - header_len) as u32,
        scale: if flags & SYN != 0 { window_scale(options) } else { None },
    })
}

/// TCP's SYN flag.
const SYN: u8 = 2;

/// The window scale option (RFC 7323, section 2.2).
fn window_scale(mut options: &[u8]) -> Option<u8> {
    loop {
        options = match *options {
            [0, ..] | [] | [_] => return None,
            [1, ref rest @ ..] => rest,
            [3, 3, scale, ..] => return Some(scale.min(14)),
            [_, len, ..] if len >= 2 => options.get(usize::from(len)..)?,
            _ => return None,
        };
    }
}

/// What an IP packet carries, as far as the head frame has it, and what that is.
#[inline(always)]
fn carried(packet: &Packet) -> Option<(&[u8], Payload)> {
    let (frame, total) = (packet.data(), packet.total_len());
    let Link { ether_type, at, .. } = parse::link(frame)?;
    let octets = frame.get(at..)?;
    let size = total.saturating_sub(at);
    let payload = match ether_type {
        EtherType::IPV4 => split_4(octets, size)?.1,
        EtherType::IPV6 => skip_extensions(octets, &ipv6::Header::new(header_6(octets, size)?))?,
        _ => return None,
    };
    (payload.fragment & FRAGMENT_LATER == 0).then_some(())?;
    Some((octets.get(payload.at..)?, payload))
}

/// The ports (or identifier, type and code) at the start of what an IP packet of this protocol carries.
fn ends(octets: &[u8], tuple: Tuple) -> Option<Tuple> {
    let &[a, b, c, d] = octets.first_chunk::<4>()?;
    let protocol = Protocol(tuple.protocol);
    if tuple.is_icmp() {
        let &[kind, code, _, _, high, low, ..] = octets.first_chunk::<8>()?;
        let known = match tuple.family {
            Family::V4 => icmp_has_identifier(kind),
            Family::V6 => icmpv6_has_identifier(kind),
        };
        let src_port = if known { u16::from_be_bytes([high, low]) } else { 0 };
        return Some(Tuple { src_port, dst_port: Tuple::icmp(kind, code), ..tuple });
    }
    match protocol {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => Some(Tuple {
            src_port: u16::from_be_bytes([a, b]),
            dst_port: u16::from_be_bytes([c, d]),
            ..tuple
        }),
        _ => Some(tuple),
    }
}

/// Puts a tuple into the fields of the original direction: `ct_nw_src` and so on, and takes out what was there.
pub(crate) fn set_original(fields: &mut Fields, tuple: Option<&Tuple>) {
    let Some(tuple) = tuple else {
        for field in TUPLE {
            Subfield::whole(field).set(fields, 0);
        }
        return;
    };
    let (ports, v4) = (ports_of(tuple), tuple.family == Family::V4);
    let at = |family: bool, address| if family { address } else { 0 };
    let values = [
        tuple.protocol.into(),
        at(v4, tuple.src),
        at(v4, tuple.dst),
        at(!v4, tuple.src),
        at(!v4, tuple.dst),
        ports.0.into(),
        ports.1.into(),
    ];
    for (field, value) in TUPLE.into_iter().zip(values) {
        Subfield::whole(field).set(fields, value);
    }
}

/// The fields of a connection's original direction.
const TUPLE: [Field; 7] = [
    Field::CtNwProto,
    Field::CtNwSrc,
    Field::CtNwDst,
    Field::CtIpv6Src,
    Field::CtIpv6Dst,
    Field::CtTpSrc,
    Field::CtTpDst,
];

/// What `ct_tp_src` and `ct_tp_dst` say: ports, or ICMP's type and code.
fn ports_of(tuple: &Tuple) -> (u16, u16) {
    if tuple.is_icmp() {
        (tuple.icmp_type().into(), tuple.dst_port & 0xff)
    } else {
        (tuple.src_port, tuple.dst_port)
    }
}

/// The addresses and ports of a tuple, put into a packet's own fields.
pub(crate) fn set_packet(fields: &mut Fields, tuple: &Tuple) {
    let (source, destination) = match tuple.family {
        Family::V4 => (Field::IpSrc, Field::IpDst),
        Family::V6 => (Field::Ipv6Src, Field::Ipv6Dst),
    };
    let mut set = |field, value: u128| Subfield::whole(field).set(fields, value);
    set(source, tuple.src);
    set(destination, tuple.dst);
    if tuple.has_ports() {
        set(Field::TcpSrc, tuple.src_port.into());
        set(Field::TcpDst, tuple.dst_port.into());
    }
}

/// The same of an ICMP error: of its own addresses only one changes.
pub(crate) fn set_related(fields: &mut Fields, translation: &Translation) {
    // It travels as an answer to the packet that it quotes.
    let outer = translation.tuple;
    let (source, destination) = match outer.family {
        Family::V4 => (Field::IpSrc, Field::IpDst),
        Family::V6 => (Field::Ipv6Src, Field::Ipv6Dst),
    };
    if translation.source {
        Subfield::whole(source).set(fields, outer.src);
    }
    if translation.destination {
        Subfield::whole(destination).set(fields, outer.dst);
    }
}

/// The packet's addresses, protocol and ports change places with those of the original direction. `None` if there are none,
/// or the packet is no IP.
pub(crate) fn swap(fields: &mut Fields) -> Option<()> {
    let version_4 = Subfield::whole(Field::EthType).get(fields) == EtherType::IPV4.0.into();
    let is_ip = version_4 || Subfield::whole(Field::EthType).get(fields) == EtherType::IPV6.0.into();
    if !is_ip || Subfield::whole(Field::CtNwProto).get(fields) == 0 {
        return None;
    }
    let addresses = match version_4 {
        true => [(Field::IpSrc, Field::CtNwSrc), (Field::IpDst, Field::CtNwDst)],
        false => [(Field::Ipv6Src, Field::CtIpv6Src), (Field::Ipv6Dst, Field::CtIpv6Dst)],
    };
    let rest = [
        (Field::NwProto, Field::CtNwProto),
        (Field::TcpSrc, Field::CtTpSrc),
        (Field::TcpDst, Field::CtTpDst),
    ];
    for (own, original) in addresses.into_iter().chain(rest) {
        let (own, original) = (Subfield::whole(own), Subfield::whole(original));
        let (one, other) = (own.get(fields), original.get(fields));
        own.set(fields, other);
        original.set(fields, one);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_scale_is_found_among_other_options_and_only_if_it_is_whole() {
        assert_eq!(window_scale(&[2, 4, 5, 180, 1, 3, 3, 7]), Some(7));
        assert_eq!(window_scale(&[1, 3, 3, 20]), Some(14));
        for broken in [&[2, 0, 3, 3, 7][..], &[3, 3], &[0, 3, 3, 7], &[8, 10, 3, 3], &[3, 4, 7, 7]] {
            assert_eq!(window_scale(broken), None, "{broken:?}");
        }
    }
}
