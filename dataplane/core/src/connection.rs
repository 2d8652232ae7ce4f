//! What connection tracking is told of a packet.
//!
//! The addresses and ports are those of the walk's fields, so that what an action has rewritten counts. What no field has
//! is read from the packet itself ([`crate::facts`]): TCP's numbers, by a hit as well, and the packet that an ICMP error
//! quotes. No checksum is looked at: a hit could not afford to, and a broken packet changes nothing that its sender couldn't
//! change with a whole one.

use weft_conntrack::{Connections, Direction, Facts, Family, Segment, Translation, Tuple};
use weft_flow::{Field, Fields, Subfield};
use weft_io::Packet;
use weft_wire::{EtherType, Protocol};

use crate::facts;

/// What tracking knows of a packet; `None` if that is none of its packets: no IP, a fragment, or a message of ICMP that
/// belongs to no connection.
pub fn facts(fields: &Fields, packet: Option<&Packet>) -> Option<Facts> {
    let tuple = tuple(fields).filter(|tuple| tuple.is_trackable() || is_error(tuple))?;
    let inner = if is_error(&tuple) { packet.and_then(facts::inner) } else { None };
    let tcp = if tuple.protocol == Protocol::TCP.0 { packet.and_then(facts::segment) } else { None };
    Some(Facts { tuple, tcp, inner, valid: true })
}

/// The same of a fragment, whose whole packet is this; its addresses are what they are by now, and its ports what translations
/// have made of them, if any has.
pub fn facts_of_fragment(fields: &Fields, whole: &Facts, ports: Option<(u16, u16)>) -> Option<Facts> {
    let found = fields.0.first_chunk().and_then(addresses);
    let (family, src, dst) = found.filter(|&(family, ..)| family == whole.tuple.family)?;
    let (src_port, dst_port) = ports.unwrap_or((whole.tuple.src_port, whole.tuple.dst_port));
    let tuple = facts::named(Tuple { src, dst, src_port, dst_port, family, ..whole.tuple });
    let inner = whole.inner.map(facts::named);
    (tuple.is_trackable() || is_error(&tuple)).then_some(Facts { tuple, inner, valid: true, ..*whole })
}

/// Whether the packet is a fragment.
#[inline]
pub fn is_fragment(fields: &Fields) -> bool {
    fields.0[3] & 3 != 0
}

/// The tuple that these fields are. This runs for every new connection, so it reads words (`weft_flow::fields`).
pub fn tuple(fields: &Fields) -> Option<Tuple> {
    fields.0.first_chunk().and_then(tuple_of_words)
}

/// The words of a key that say which connection a packet belongs to.
pub const WORDS: usize = 9;

/// The tuple that a key with these words is of.
#[inline]
pub fn tuple_of_words(words: &[u64; WORDS]) -> Option<Tuple> {
    let (family, src, dst) = addresses(words)?;
    if words[3] & 3 != 0 {
        return None;
    }
    let protocol = (words[3] >> 24) as u8;
    let (src_port, dst_port) = ((words[8] >> 48) as u16, (words[8] >> 32) as u16);
    let tuple = Tuple { src, dst, src_port, dst_port, protocol, family };
    Some(match (tuple.is_icmp(), Protocol(protocol)) {
        (true, _) => message(tuple),
        (false, Protocol::TCP | Protocol::UDP) => tuple,
        // As Open vSwitch, SCTP too.
        (false, _) => Tuple { src_port: 0, dst_port: 0, ..tuple },
    })
}

/// Version, source and destination of an IP packet.
#[inline]
fn addresses(words: &[u64; WORDS]) -> Option<(Family, u128, u128)> {
    let address = |at: usize| u128::from(words[at]) << 64 | u128::from(words[at + 1]);
    match EtherType((words[3] >> 48) as u16) {
        EtherType::IPV4 => Some((Family::V4, (words[5] as u32).into(), (words[7] as u32).into())),
        EtherType::IPV6 => Some((Family::V6, address(4), address(6))),
        _ => None,
    }
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

/// A TCP segment that is only described is the next one of its connection, or the first of a new one.
pub fn described(
    connections: &Connections,
    zone: u16,
    facts: &Facts,
    fields: &Fields,
    second: u32,
) -> Segment {
    let flags = (fields.0[8] >> 16) as u8;
    let tuple = &facts.tuple;
    let found = connections.of_tuple(zone, tuple, second).map(|(direction, connection)| {
        let [one, two] = connection.progress.peers;
        match direction {
            Direction::Original => (one.low, two.low),
            Direction::Reply => (two.low, one.low),
        }
    });
    let (seq, ack) = found.unwrap_or_default();
    let usual = if found.is_some() { ACK } else { SYN };
    let flags = if flags == 0 { usual } else { flags };
    Segment { seq, ack, window: u16::MAX, flags, payload: 0, scale: None }
}

/// TCP's flags.
const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

/// Puts a tuple into the fields of the original direction: `ct_nw_src` and so on; or zeros.
pub(crate) fn set_original(fields: &mut Fields, tuple: Option<&Tuple>) {
    let words = &mut fields.0;
    words[32..36].fill(0);
    (words[30], words[31]) = (0, words[31] & 0xffff << 48);
    let Some(tuple) = tuple else { return };
    let (source_port, destination_port) = ports_of(tuple);
    words[31] |= u64::from(tuple.protocol) << 32 | u64::from(source_port) << 16 | u64::from(destination_port);
    match tuple.family {
        Family::V4 => words[30] = u64::from(tuple.src as u32) << 32 | u64::from(tuple.dst as u32),
        Family::V6 => {
            (words[32], words[33]) = ((tuple.src >> 64) as u64, tuple.src as u64);
            (words[34], words[35]) = ((tuple.dst >> 64) as u64, tuple.dst as u64);
        }
    }
}

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

/// What such an error quotes behind its translation: the same backwards.
pub(crate) fn translated_quote(quoted: Tuple, translation: &Translation) -> Tuple {
    let turned = translation.tuple.reversed();
    Tuple {
        src: if translation.destination { turned.src } else { quoted.src },
        dst: if translation.source { turned.dst } else { quoted.dst },
        src_port: turned.src_port,
        dst_port: if quoted.is_icmp() { quoted.dst_port } else { turned.dst_port },
        ..quoted
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
