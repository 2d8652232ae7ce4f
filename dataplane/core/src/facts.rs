//! What connection tracking wants to know of a packet: its ends, TCP's numbers, the packet that an ICMP error quotes, and
//! whether it is sound.
//!
//! Ways in: [`segment`] is for each packet of a cached flow: TCP's numbers and no more, no checksum. [`facts`] reads everything,
//! and sums up the packet in all its frames: tests hold it against others. `facts/quoted.rs` reads ICMP errors.
//!
//! Sound is what Open vSwitch's userspace tracking takes for it (`conn_key_extract`): an IPv4 header with a right checksum;
//! TCP with its options and a right checksum; UDP whose length is within the packet's, with a right checksum, or over IPv4
//! none; SCTP of whole chunks with a right CRC; ICMP and ICMPv6 of the types that are tracked, with a right checksum; no port
//! 0. A checksum is not looked at if it is still to be finished, or somebody has verified it ([`Offload`]). Of other
//! protocols nothing is asked. A fragment is never sound by itself: [`crate::fragments`] says what the whole is.
//!
//! The same reader finds headers here, for keys and for edits ([`crate::parse`]). Headers are read in the first frame only; no
//! octets make this panic.

mod quoted;

use weft_conntrack::{Facts, Family, Segment, Tuple};
use weft_io::{Offload, Packet};
use weft_wire::checksum::{self, Sum};
use weft_wire::tcp::{Flags, Options};
use weft_wire::{EtherType, Protocol, crc32c, icmpv4, ipv4, ipv6, tcp, udp};

use crate::parse::ip::{self, Payload};
use crate::parse::transport::{SCTP, tcp_header};
use crate::parse::{self, be16};
pub(crate) use quoted::{QUOTATION, Quoted, is_error, quoted};

/// What TCP says in a packet that is no fragment; `None` if it isn't TCP, or has no whole header.
#[inline]
pub fn segment(packet: &Packet) -> Option<Segment> {
    let frame = packet.data();
    let parse::Link { ether_type, at, .. } = parse::link(frame)?;
    let network = frame.get(at..)?;
    let size = packet.total_len().checked_sub(at)?;
    match plain_segment(ether_type, network, size) {
        Some(found) => Some(found),
        None => any_segment(ether_type, network, size),
    }
}

/// The usual case: no options of IP, no extension headers, no fragment, no SYN. All is at fixed places.
#[inline]
fn plain_segment(ether_type: EtherType, network: &[u8], size: usize) -> Option<Segment> {
    let (octets, len) = match ether_type {
        EtherType::IPV4 => {
            let (header, octets) = network.split_first_chunk::<{ ipv4::LEN }>()?;
            let header = ipv4::Header::new(header);
            let whole = header.header_len() == ipv4::LEN && !header.is_fragment();
            let total = usize::from(header.total_len());
            let is_plain = whole && header.protocol() == Protocol::TCP && total <= size;
            (octets, total.checked_sub(ipv4::LEN).filter(|_| is_plain)?)
        }
        EtherType::IPV6 => {
            let (header, octets) = network.split_first_chunk::<{ ipv6::LEN }>()?;
            let header = ipv6::Header::new(header);
            let len = usize::from(header.payload_len());
            let is_plain = header.next_header() == Protocol::TCP && ipv6::LEN + len <= size;
            (octets, is_plain.then_some(len)?)
        }
        _ => return None,
    };
    let header = tcp::Header::new(octets.first_chunk::<{ tcp::LEN }>()?);
    let (flags, header_len) = (header.flags(), header.header_len());
    if flags.contains(Flags::SYN) || header_len < tcp::LEN {
        return None;
    }
    let payload = len.checked_sub(header_len)? as u32;
    let (seq, ack, window) = (header.seq(), header.ack(), header.window());
    Some(Segment { seq, ack, window, flags: flags.0 as u8, payload, scale: None })
}

#[cold]
fn any_segment(ether_type: EtherType, network: &[u8], size: usize) -> Option<Segment> {
    let payload = match ether_type {
        EtherType::IPV4 => ip::split_4(network, size)?.1,
        EtherType::IPV6 => ip::skip_extensions(network, &ipv6::Header::new(ip::header_6(network, size)?))?,
        _ => return None,
    };
    if payload.protocol != Protocol::TCP || payload.fragment != 0 {
        return None;
    }
    read_segment(network.get(payload.at..)?, payload.len)
}

/// The packet that an ICMP error quotes, as quoted: what the connection of such a packet is sought by. `None` if it is none, or
/// quotes too little.
#[cold]
pub fn inner(packet: &Packet) -> Option<Tuple> {
    let Layers { family, network, payload, .. } = Layers::find(packet)?;
    let octets = packet.data().get(network + payload.at..)?;
    // Padding behind the packet is nothing that it quotes.
    let message = octets.get(..payload.len).unwrap_or(octets);
    let is_whole = payload.fragment == 0 && is_icmp(family, payload.protocol) && is_error(family, message);
    let tuple = quoted(family, message).filter(|_| is_whole)?.tuple;
    Some(named(tuple))
}

/// As connections are named: of protocols other than TCP, UDP and ICMP (SCTP, say) by addresses alone.
pub(crate) fn named(tuple: Tuple) -> Tuple {
    if tuple.has_ports() || tuple.is_icmp() { tuple } else { Tuple { src_port: 0, dst_port: 0, ..tuple } }
}

/// The tracker's view of a packet; `None` if it isn't IP, or has no IP header that can be read.
///
/// Its ends are those in the packet's octets. Whether an error goes to where the quoted packet came from is left to the tracker,
/// because earlier actions may have changed the ends.
pub fn facts(packet: &Packet) -> Option<Facts> {
    let layers = Layers::find(packet)?;
    let octets = packet.data().get(layers.transport()..).unwrap_or_default();
    let (start, len) = (layers.transport(), layers.payload.len);
    let visit = |visitor: &mut dyn FnMut(&[u8])| each_piece(packet, start, len, visitor);
    let carried = Carried { layers, octets, len, pieces: &visit, checked: is_checked(packet, start) };
    let mut facts = carried.facts();
    facts.valid &= layers.payload.fragment == 0 && header_is_right(packet, &layers);
    Some(facts)
}

/// Where the layers of an IP packet are, in a packet's first frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layers {
    pub(crate) family: Family,
    /// Where the IP header starts.
    pub(crate) network: usize,
    pub(crate) src: u128,
    pub(crate) dst: u128,
    /// What it carries; its place counts from the IP header.
    pub(crate) payload: Payload,
}

impl Layers {
    pub(crate) fn find(packet: &Packet) -> Option<Layers> {
        let frame = packet.data();
        let parse::Link { ether_type, at, .. } = parse::behind_tags(frame)?;
        let size = packet.total_len().checked_sub(at)?;
        Layers::of(frame.get(at..)?, ether_type, size).map(|layers| Layers { network: at, ..layers })
    }

    /// Of the IP packet that `network` starts with, `size` octets of which are there.
    pub(crate) fn of(network: &[u8], ether_type: EtherType, size: usize) -> Option<Layers> {
        match ether_type {
            EtherType::IPV4 => {
                let (octets, payload) = ip::split_4(network, size)?;
                let header = ipv4::Header::new(octets);
                let (src, dst) = (header.src().to_bits().into(), header.dst().to_bits().into());
                Some(Layers { family: Family::V4, network: 0, src, dst, payload })
            }
            EtherType::IPV6 => {
                let header = ipv6::Header::new(ip::header_6(network, size)?);
                let payload = ip::skip_extensions(network, &header)?;
                let (src, dst) = (header.src().to_bits(), header.dst().to_bits());
                Some(Layers { family: Family::V6, network: 0, src, dst, payload })
            }
            _ => None,
        }
    }

    /// Where what IP carries starts.
    pub(crate) const fn transport(&self) -> usize {
        self.network + self.payload.at
    }

    /// The sum of the pseudo-header for `len` octets.
    pub(crate) fn pseudo(&self, len: usize) -> Sum {
        let protocol = self.payload.protocol.0;
        match self.family {
            Family::V4 => {
                let (src, dst) = ((self.src as u32).into(), (self.dst as u32).into());
                checksum::pseudo_v4(src, dst, protocol, len as u16)
            }
            Family::V6 => checksum::pseudo_v6(self.src.into(), self.dst.into(), protocol, len as u32),
        }
    }
}

/// Shows a visitor the octets of something that lies in pieces, in order.
pub(crate) type Pieces<'a> = &'a dyn Fn(&mut dyn FnMut(&[u8]));

/// What IP carries, whole: in one packet or in several fragments.
#[derive(Clone, Copy)]
pub(crate) struct Carried<'a> {
    pub(crate) layers: Layers,
    /// Its first octets, as many as are in one piece.
    pub(crate) octets: &'a [u8],
    /// Its length.
    pub(crate) len: usize,
    /// All of it.
    pub(crate) pieces: Pieces<'a>,
    /// Whether nothing has to be summed up: the checksum is unfinished, or known to be right.
    pub(crate) checked: bool,
}

impl Carried<'_> {
    /// Everything but what the IP header says of itself.
    pub(crate) fn facts(&self) -> Facts {
        let Layers { family, src, dst, payload, .. } = self.layers;
        let later = payload.fragment & ip::FRAGMENT_LATER != 0;
        let octets = if later { &[] } else { self.octets.get(..self.len).unwrap_or(self.octets) };
        let (src_port, dst_port) = ends(family, payload.protocol, octets).unwrap_or((0, 0));
        let tuple = Tuple { src, dst, src_port, dst_port, protocol: payload.protocol.0, family };
        let is_tcp = payload.protocol == Protocol::TCP;
        let tcp = if is_tcp { read_segment(octets, self.len) } else { None };
        let quotes = is_icmp(family, payload.protocol) && is_error(family, octets);
        let inner = if quotes { quoted(family, octets).map(|quoted| quoted.tuple) } else { None };
        let valid = match payload.protocol {
            Protocol::TCP => tcp.is_some() && has_ports(&tuple) && self.sum_is_right(),
            Protocol::UDP => has_ports(&tuple) && self.udp_is_right(octets),
            Protocol::SCTP => has_ports(&tuple) && self.sctp_is_right(octets),
            _ if quotes => inner.is_some() && self.sum_is_right(),
            protocol if is_icmp(family, protocol) => is_query(family, octets) && self.sum_is_right(),
            _ => true,
        };
        Facts { tuple, tcp, inner, valid }
    }

    /// The Internet checksum, over all octets and, but for ICMP, the pseudo-header.
    fn sum_is_right(&self) -> bool {
        if self.checked {
            return true;
        }
        let is_bare = self.layers.payload.protocol == Protocol::ICMP;
        let mut sum = if is_bare { Sum::new() } else { self.layers.pseudo(self.len) };
        (self.pieces)(&mut |piece| sum.add(piece));
        sum.is_right()
    }

    /// Over IPv4, 0 is no checksum (RFC 768); over IPv6 there has to be one (RFC 8200, section 8.1). As in Open vSwitch and
    /// the kernel, what is summed up is what IP carries, of which UDP's length may leave some out.
    fn udp_is_right(&self, octets: &[u8]) -> bool {
        let Some((header, _)) = udp::Header::split(octets).ok() else { return false };
        let stated = usize::from(header.length());
        if stated < udp::LEN || stated > self.len {
            return false;
        }
        let none = header.checksum() == 0;
        if none { self.layers.family == Family::V4 || self.checked } else { self.sum_is_right() }
    }

    /// Chunks that fill the packet (RFC 9260, section 3.2), and the CRC.
    fn sctp_is_right(&self, octets: &[u8]) -> bool {
        /// The checksum is where these four octets are, and counts as 0 itself.
        const CHECKSUM_AT: usize = SCTP - 4;
        let Some(header) = octets.first_chunk::<SCTP>() else { return false };
        let (mut crc, mut chunks, mut at) = (crc32c::Crc::default(), Chunks::default(), 0);
        let mut zeroed = *header;
        zeroed[CHECKSUM_AT..].fill(0);
        crc.add(&zeroed);
        (self.pieces)(&mut |piece| {
            chunks.add(piece);
            let skip = SCTP.saturating_sub(at).min(piece.len());
            if !self.checked {
                crc.add(piece.get(skip..).unwrap_or_default());
            }
            at += piece.len();
        });
        chunks.fill(self.len) && (self.checked || crc.checksum() == header[CHECKSUM_AT..])
    }
}

/// ICMP over IPv4 or ICMPv6 over IPv6.
#[inline]
pub(crate) fn is_icmp(family: Family, protocol: Protocol) -> bool {
    Tuple { family, protocol: protocol.0, ..Tuple::default() }.is_icmp()
}

fn has_ports(tuple: &Tuple) -> bool {
    tuple.src_port != 0 && tuple.dst_port != 0
}

/// Source and destination port of a tuple; `None` if the header isn't there. Of ICMP, see [`Tuple`].
pub(crate) fn ends(family: Family, protocol: Protocol, octets: &[u8]) -> Option<(u16, u16)> {
    match protocol {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => Some((be16(octets, 0)?, be16(octets, 2)?)),
        _ if is_icmp(family, protocol) => {
            let kind_and_code = be16(octets, 0)?;
            let identifier = be16(octets, 4)?;
            Some((if is_query(family, octets) { identifier } else { 0 }, kind_and_code))
        }
        _ => Some((0, 0)),
    }
}

/// An ICMP message with an identifier.
pub(crate) fn is_query(family: Family, octets: &[u8]) -> bool {
    let protocol = match family {
        Family::V4 => Protocol::ICMP.0,
        Family::V6 => Protocol::ICMPV6.0,
    };
    let is_tracked = |dst_port| Tuple { protocol, family, dst_port, ..Tuple::default() }.is_trackable();
    octets.len() >= icmpv4::LEN && be16(octets, 0).is_some_and(is_tracked)
}

/// What the header says that `octets` start with; all of TCP has `len`.
#[inline]
fn read_segment(octets: &[u8], len: usize) -> Option<Segment> {
    let bytes = tcp_header(octets, len)?;
    let header = tcp::Header::new(bytes);
    let flags = header.flags();
    let scale = if flags.contains(Flags::SYN) { window_scale(octets, header.header_len()) } else { None };
    Some(Segment {
        seq: header.seq(),
        ack: header.ack(),
        window: header.window(),
        flags: flags.0 as u8,
        payload: (len - header.header_len()) as u32,
        scale,
    })
}

/// The window scale of a SYN; of several the last, at most 14 (RFC 7323, section 2.3).
#[cold]
fn window_scale(octets: &[u8], header_len: usize) -> Option<u8> {
    const MOST: u8 = 14;
    let options = octets.get(tcp::LEN..header_len)?;
    let scales = Options::new(options).filter_map(|(kind, _, data)| match (kind, data) {
        (Options::WINDOW_SCALE, &[scale]) => Some(scale.min(MOST)),
        _ => None,
    });
    scales.last()
}

/// Whether the checksum of what starts at `start` is unfinished, or was verified.
fn is_checked(packet: &Packet, start: usize) -> bool {
    packet.checksum_start() == Some(start) || packet.offload.flags & Offload::CHECKSUM_VALID != 0
}

/// Whether the IPv4 header's checksum fits; IPv6 has none.
pub(crate) fn header_is_right(packet: &Packet, layers: &Layers) -> bool {
    if layers.family == Family::V6 {
        return true;
    }
    let header = packet.data().get(layers.network..layers.transport());
    header.is_some_and(|header| checksum::checksum(header) == 0)
}

/// Shows `visitor` `len` octets of a packet, from `start` on.
pub(crate) fn each_piece(packet: &Packet, start: usize, len: usize, visitor: &mut dyn FnMut(&[u8])) {
    let (mut skip, mut left) = (start, len);
    for piece in packet.segments() {
        let from = skip.min(piece.len());
        skip -= from;
        let piece = piece.get(from..).unwrap_or_default();
        let piece = piece.get(..left).unwrap_or(piece);
        left -= piece.len();
        visitor(piece);
    }
}

/// Walks an SCTP packet's chunks, piece by piece. Only their lengths are read, the third and fourth octet of each.
struct Chunks {
    /// Octets seen.
    at: usize,
    /// Where the next chunk starts; [`usize::MAX`] once one has contradicted itself.
    next: usize,
    /// The first octet of its length.
    high: Option<u8>,
}

impl Default for Chunks {
    fn default() -> Self {
        Chunks { at: 0, next: SCTP, high: None }
    }
}

impl Chunks {
    const LEAST: usize = 4;

    fn add(&mut self, piece: &[u8]) {
        loop {
            let wanted = self.next.saturating_add(2 + usize::from(self.high.is_some()));
            let Some(&octet) = wanted.checked_sub(self.at).and_then(|place| piece.get(place)) else { break };
            let Some(high) = self.high.take() else {
                self.high = Some(octet);
                continue;
            };
            let len = usize::from(u16::from_be_bytes([high, octet]));
            self.next = if len < Self::LEAST { usize::MAX } else { self.next + len.next_multiple_of(4) };
        }
        self.at += piece.len();
    }

    /// Whether they fill `len` octets.
    const fn fill(&self, len: usize) -> bool {
        self.next == len && self.high.is_none()
    }
}

#[cfg(test)]
#[path = "facts/tests.rs"]
mod tests;
