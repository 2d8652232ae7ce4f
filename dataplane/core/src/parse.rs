//! Packet to flow key.
//!
//! [`ethernet()`] reads the two words that every key has; [`words`] reads as many as the port's policy does, for ports
//! whose policy reads more. Both are total: a frame that ends before its Ethernet header or its outermost tag does gives
//! `None` (a counted drop). Further in they find what Open vSwitch's `flow_extract` finds: a header that isn't whole, or
//! that contradicts the packet's length, leaves its fields 0, and the packet is switched.
//!
//! This file reads what lies between Ethernet and IP; IP is in `parse/ip.rs`, what IP carries in `parse/transport.rs`. Reading is all
//! that happens here, and all of it in the head frame.

pub(crate) mod ip;
pub(crate) mod transport;

use weft_flow::fields::KEY_WORDS;
use weft_io::Packet;
use weft_wire::{EtherType, Mac, Protocol, Tci, arp, ethernet, ipv4, tcp, udp};

use crate::key::{FlowKey, Ingress, MIDDLE, NARROW};

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

/// The whole key of a packet of one frame that came in by a port; what the tunnel said (words 2 and 14) is the caller's.
pub fn full(frame: &[u8], ingress: Ingress) -> Option<FlowKey> {
    words(frame, frame.len(), ingress).map(FlowKey)
}

/// The first `W` words of the key of a packet that has `total` octets, whose headers are in `frame`; what the tunnel said
/// (words 2 and 14) is the caller's.
#[inline(always)]
pub fn words<const W: usize>(frame: &[u8], total: usize, ingress: Ingress) -> Option<[u64; W]> {
    if W <= NARROW {
        return any_words(frame, total, ingress);
    }
    plain(frame, total, ingress).or_else(|| any_words(frame, total, ingress))
}

/// The same of what most packets are: untagged IPv4 without options, no fragment, with a whole header of TCP or UDP. All is
/// at fixed places then, and one look at the frame's length suffices.
#[inline(always)]
pub(crate) fn plain<const W: usize>(frame: &[u8], total: usize, ingress: Ingress) -> Option<[u64; W]> {
    const HEADERS: usize = ethernet::LEN + ipv4::LEN + tcp::LEN;
    /// The header's length in words, and what only a fragment has.
    const SHAPE: u64 = 0xf << 56 | 0x3fff;
    const NO_OPTIONS: u64 = (ipv4::LEN as u64 / 4) << 56;
    let octets = frame.first_chunk::<HEADERS>()?;
    let at = |at: usize| octets.get(at..)?.first_chunk().map(|octets| u64::from_be_bytes(*octets));
    let (front, back) = (at(0)?, at(6)?);
    // Version and header length, TOS, total length, identification, fragment; TTL, protocol, checksum, source;
    // destination, ports.
    let (first, second, third) = (at(14)?, at(22)?, at(30)?);
    let len = (first >> 32 & 0xffff) as usize;
    let is_plain = back as u16 == EtherType::IPV4.0
        && first & SHAPE == NO_OPTIONS
        && len <= total.saturating_sub(ethernet::LEN);
    let protocol = Protocol((second >> 48) as u8);
    let flags = match protocol {
        Protocol::UDP if is_plain && len >= ipv4::LEN + udp::LEN => 0,
        Protocol::TCP if is_plain => {
            let header_len = usize::from(octets[46] >> 4) * 4;
            if header_len < tcp::LEN || len < ipv4::LEN + header_len {
                return None;
            }
            u64::from(u16::from_be_bytes([octets[46], octets[47]]) & 0x0fff) << 16
        }
        _ => return None,
    };
    let kind = u64::from(protocol.0) << 24 | (first >> 48 & 0xff) << 16 | second >> 56 << 8;
    let mut key = Words([0; W]);
    key.put(0, front & !0xffff | ingress.bits());
    key.put(1, back & !0xffff | u64::from(Tci::UNTAGGED.0));
    key.put(3, u64::from(EtherType::IPV4.0) << 48 | u64::from(Tci::UNTAGGED.0) << 32 | kind);
    key.put(5, second & 0xffff_ffff);
    key.put(7, third >> 32);
    key.put(8, third << 32 | flags);
    Some(key.0)
}

/// The same of any packet.
#[inline(always)]
pub(crate) fn any_words<const W: usize>(frame: &[u8], total: usize, ingress: Ingress) -> Option<[u64; W]> {
    let mut key = Words([0; W]);
    let [first, second] = ethernet(frame, ingress)?;
    key.put(0, first);
    key.put(1, second);
    if W > NARROW {
        behind_addresses(frame, total, &mut key);
    }
    Some(key.0)
}

/// The words of a key, as many as are wanted: what is written elsewhere is forgotten, and costs nothing.
pub(crate) struct Words<const W: usize>([u64; W]);

impl<const W: usize> Words<W> {
    #[inline(always)]
    fn put(&mut self, word: usize, value: u64) {
        if let Some(place) = self.0.get_mut(word) {
            *place = value;
        }
    }
}

/// What a frame is behind its addresses and tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    /// The second tag.
    pub(crate) inner: Tci,
    /// The type of what it carries; [`EtherType::NONE`] for an 802.2 frame that gives none.
    pub(crate) ether_type: EtherType,
    /// Where that starts.
    pub(crate) at: usize,
}

/// Takes up to two tags and an 802.2 header off.
#[inline(always)]
pub(crate) fn link(frame: &[u8]) -> Option<Link> {
    let mut found = Link { inner: Tci::UNTAGGED, ether_type: EtherType(be16(frame, 12)?), at: ethernet::LEN };
    if found.ether_type.is_tag()
        && let Some(behind) = be16(frame, 16)
    {
        (found.ether_type, found.at) = (EtherType(behind), 18);
        if found.ether_type.is_tag()
            && let (Some(inner), Some(behind)) = (be16(frame, 18), be16(frame, 20))
        {
            found = Link { inner: Tci::from_wire(inner), ether_type: EtherType(behind), at: 22 };
        }
    }
    if found.ether_type < EtherType::MIN {
        (found.ether_type, found.at) = llc(frame, found.at);
    }
    Some(found)
}

/// As [`link`], behind all tags: actions may have put more in front than keys can have.
#[inline(always)]
pub(crate) fn behind_tags(frame: &[u8]) -> Option<Link> {
    let found = link(frame)?;
    if found.ether_type.is_tag() { behind_more_tags(frame, found) } else { Some(found) }
}

#[cold]
fn behind_more_tags(frame: &[u8], mut found: Link) -> Option<Link> {
    while found.ether_type.is_tag() {
        (found.ether_type, found.at) = (EtherType(be16(frame, found.at + 2)?), found.at + 4);
    }
    if found.ether_type < EtherType::MIN {
        (found.ether_type, found.at) = llc(frame, found.at);
    }
    Some(found)
}

/// What follows a length in the place of the EtherType: IEEE 802.2, clause 3, and SNAP of RFC 1042.
#[cold]
fn llc(frame: &[u8], at: usize) -> (EtherType, usize) {
    /// SNAP's service access points, unnumbered information, and the organization "Ethernet".
    const SNAP: [u8; 6] = [0xaa, 0xaa, 3, 0, 0, 0];
    match frame.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        Some([snap @ .., high, low]) if *snap == SNAP => match EtherType(u16::from_be_bytes([*high, *low])) {
            length if length < EtherType::MIN => (EtherType::NONE, at),
            ether_type => (ether_type, at + 8),
        },
        _ => (EtherType::NONE, at),
    }
}

#[inline(always)]
fn behind_addresses<const W: usize>(frame: &[u8], total: usize, key: &mut Words<W>) {
    let Some(Link { inner, ether_type, at }) = link(frame) else { return };
    let word3 = u64::from(ether_type.0) << 48 | u64::from(inner.0) << 32;
    key.put(3, word3);
    let payload = frame.get(at..).unwrap_or_default();
    // Of octets that are in no frame of the packet nothing is read: a total that is too short can do no harm.
    let size = total.saturating_sub(at);
    carried(ether_type, (payload, size), word3, key);
}

/// The words of what is behind `gone` of a packet's labels, if it is of this type: word 3 but for its tag, and 4 to 13 but
/// for labels and length class; the others are 0.
pub(crate) fn behind_labels(packet: &Packet, gone: usize, ether_type: EtherType) -> [u64; KEY_WORDS] {
    let mut key = Words([0; KEY_WORDS]);
    let at = link(packet.data()).map_or(0, |link| link.at) + gone * 4;
    let payload = packet.data().get(at..).unwrap_or_default();
    let word3 = u64::from(ether_type.0) << 48;
    key.put(3, word3);
    carried(ether_type, (payload, packet.total_len().saturating_sub(at)), word3, &mut key);
    key.0
}

/// What a frame carries: its octets in the head frame, and their number in all.
#[inline(always)]
fn carried<const W: usize>(
    ether_type: EtherType,
    (payload, size): (&[u8], usize),
    word3: u64,
    key: &mut Words<W>,
) {
    match ether_type {
        EtherType::IPV4 => ip::version_4(payload, size, word3, key),
        EtherType::IPV6 => ip::version_6(payload, size, word3, key),
        EtherType::ARP | EtherType::RARP => resolution(payload, word3, key),
        EtherType::MPLS | EtherType::MPLS_MULTICAST if W > MIDDLE => labels(payload, key),
        _ => {}
    }
}

#[inline(always)]
pub(crate) fn be16(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*octets.get(at..)?.first_chunk()?))
}

#[inline(always)]
fn be64(octets: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*octets.get(at..)?.first_chunk()?))
}

/// Up to three MPLS label stack entries (RFC 3032, section 2.1); what is behind them nobody reads.
fn labels<const W: usize>(stack: &[u8], key: &mut Words<W>) {
    const BOTTOM: u32 = 1 << 8;
    let mut labels = [0; 3];
    for (label, entry) in labels.iter_mut().zip(stack.chunks_exact(4)) {
        *label = entry.first_chunk().map_or(0, |entry| u32::from_be_bytes(*entry));
        if *label & BOTTOM != 0 {
            break;
        }
    }
    let [first, second, third] = labels.map(u64::from);
    key.put(11, first << 32);
    key.put(15, second << 32 | third);
}

/// ARP and RARP, for Ethernet and IPv4 only. An operation that doesn't fit its field is 0.
fn resolution<const W: usize>(packet: &[u8], word3: u64, key: &mut Words<W>) {
    let Ok(arp) = arp::Header::new_checked(packet) else { return };
    let word = |Mac([a, b, c, d, e, f]): Mac| u64::from_be_bytes([a, b, c, d, e, f, 0, 0]);
    key.put(3, word3 | u64::from(u8::try_from(arp.operation().0).unwrap_or(0)) << 24);
    key.put(5, u64::from(arp.sender_ip().to_bits()));
    key.put(7, u64::from(arp.target_ip().to_bits()));
    key.put(9, word(arp.sender_mac()));
    key.put(10, word(arp.target_mac()));
}

#[cfg(test)]
#[path = "parse/tests.rs"]
mod tests;
