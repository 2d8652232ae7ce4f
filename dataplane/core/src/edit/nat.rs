//! Translation: a packet gets the ends that its connection says.
//!
//! The same patches as for actions do it, so the same rules hold ([`super`]): each checksum is updated once, from what has
//! changed; an unfinished one stays unfinished, and its pseudo-header follows; UDP's 0 stays; SCTP's CRC follows the ports. A
//! later fragment has addresses and no ports.
//!
//! An ICMP error is on its way to the source of the packet that it quotes, so what happens to the quoted packet is the
//! translation backwards (RFC 5508, sections 4.1 and 4.2; `nat_inner_packet` of Open vSwitch): its addresses, ports or
//! identifier, its own checksums if they are there, and from these the error's. The error's own address changes where the quoted
//! one's other end does.

use weft_conntrack::{Family, Translation};
use weft_io::Packet;
use weft_wire::checksum::{Change, Sum};
use weft_wire::{DropReason, EtherType};

use super::network::Patch;
use super::transport::{ICMP_CHECKSUM_AT, Segment};
use crate::facts::{Layers, QUOTATION, Quoted, is_icmp, quoted};
use crate::parse;
use crate::parse::ip::FRAGMENT_LATER;

/// How one packet is translated that no other is like.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Once {
    /// What its connection says.
    pub translation: Translation,
    /// Of a fragment: how many octets its whole packet carries.
    pub whole: Option<usize>,
}

impl Once {
    /// Translates the packet.
    ///
    /// # Errors
    /// As [`translate`].
    pub fn apply(&self, packet: &mut Packet) -> Result<(), DropReason> {
        match self.whole {
            Some(len) => translate_fragment(packet, &self.translation, len),
            None => translate(packet, &self.translation),
        }
    }
}

/// Translates a packet.
///
/// # Errors
/// [`DropReason::Malformed`] if a header that is to be changed goes on behind the first frame; it may be changed in part.
#[inline]
pub fn translate(packet: &mut Packet, translation: &Translation) -> Result<(), DropReason> {
    if translation.related {
        translate_error(packet, translation);
        return Ok(());
    }
    run(packet, translation, None)
}

/// Translates one fragment of a packet. What the whole packet carries has `len` octets, all of which SCTP's checksum covers.
///
/// # Errors
/// As [`translate`].
pub fn translate_fragment(
    packet: &mut Packet,
    translation: &Translation,
    len: usize,
) -> Result<(), DropReason> {
    let is_first = |layers: Layers| layers.payload.fragment & FRAGMENT_LATER == 0;
    if translation.related && Layers::find(packet).is_some_and(is_first) {
        // The quoted headers are in front.
        translate_error(packet, translation);
        return Ok(());
    }
    run(packet, translation, Some(len))
}

#[inline]
fn run(packet: &mut Packet, translation: &Translation, whole: Option<usize>) -> Result<(), DropReason> {
    let (total, unfinished) = (packet.total_len(), packet.checksum_start());
    let frame = packet.data_mut();
    let Some(parse::Link { ether_type, at, .. }) = parse::behind_tags(frame) else { return Ok(()) };
    let Some(octets) = frame.get_mut(at..) else { return Ok(()) };
    let unfinished = unfinished.and_then(|start| start.checked_sub(at));
    let patch = Patch::translation(translation);
    match patch.header(ether_type, octets, total.saturating_sub(at)) {
        Some((mut payload, pseudo)) => {
            payload.len = whole.unwrap_or(payload.len);
            patch.transport.apply(octets, &payload, pseudo, unfinished)
        }
        None => Ok(()),
    }
}

/// A message that quotes nothing ([`weft_conntrack::Facts::inner`]) stays as it is.
#[cold]
fn translate_error(packet: &mut Packet, translation: &Translation) {
    let Some(layers) = Layers::find(packet) else { return };
    let unfinished = packet.checksum_start() == Some(layers.transport());
    let (family, payload) = (layers.family, layers.payload);
    let Some(octets) = packet.data_mut().get_mut(layers.network..) else { return };
    // Padding behind the packet is nothing that it quotes.
    let end = octets.len().min(payload.at + payload.len);
    let message = octets.get_mut(payload.at..end).unwrap_or_default();
    let Some(found) = quoted(family, message).filter(|_| is_icmp(family, payload.protocol)) else { return };
    let own = translate_quoted(message, translation, &found);
    let patch = Patch::addresses(translation);
    let Some((_, pseudo)) = patch.header(ether_type(family), octets, usize::MAX) else { return };
    let pseudo = if family == Family::V6 { pseudo } else { Change::NONE };
    if let Some(octets) = octets.get_mut(payload.at..) {
        let segment = Segment { octets, len: payload.len, unfinished };
        segment.update(ICMP_CHECKSUM_AT, pseudo, own, Change::of);
    }
}

const fn ether_type(family: Family) -> EtherType {
    match family {
        Family::V4 => EtherType::IPV4,
        Family::V6 => EtherType::IPV6,
    }
}

/// Translates what an error quotes, in reverse; says what that is to the error's checksum: the difference of the sums of the
/// headers, which start at an even octet.
fn translate_quoted(message: &mut [u8], translation: &Translation, found: &Quoted) -> Change {
    /// Of what the quoted packet carries, the octets that can change: TCP's header has the last checksum.
    const CHANGED: usize = 20;
    let quotation = message.get_mut(QUOTATION..).unwrap_or_default();
    let covered = quotation.len().min(found.layers.payload.at + CHANGED);
    let sum_of = |octets: &[u8]| {
        let mut sum = Sum::new();
        sum.add(octets.get(..covered).unwrap_or_default());
        sum.folded()
    };
    let before = sum_of(quotation);
    let patch = Patch::translation(&Translation {
        tuple: translation.tuple.reversed(),
        source: translation.destination,
        destination: translation.source,
        related: false,
    });
    if let Some((payload, pseudo)) = patch.header(ether_type(found.tuple.family), quotation, usize::MAX) {
        let octets = quotation.get_mut(payload.at..).unwrap_or_default();
        patch.transport.apply_quoted(octets, &payload, pseudo);
    }
    let mut change = Change::NONE;
    change.word(before, sum_of(quotation));
    change
}

#[cfg(test)]
#[path = "nat_tests.rs"]
mod tests;
