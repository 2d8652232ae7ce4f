//! What a helper's translation changes in a TCP stream: a piece of text, which may get longer or shorter, and from then on
//! the numbers of all packets ([`Skew`]).
//!
//! Checksums are updated from what has changed ([`super`]): that of the text as the difference of two sums, because what is
//! behind it moves.

use std::ops::Range;

use weft_conntrack::{Family, Skew};
use weft_io::Packet;
use weft_wire::checksum::{Change, Sum};
use weft_wire::tcp::{self, Flags, Options};
use weft_wire::{DropReason, Protocol, ipv4, ipv6, udp};

use super::transport::Segment;
use crate::facts::Layers;
use crate::helper::ftp::Text;
use crate::parse::transport::tcp_header;

/// What a helper changes in one packet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Rewrite {
    /// Octets of its data, and what they become.
    pub replace: Option<(Range<usize>, Text)>,
    /// How the sequence numbers of its direction differ.
    pub own: Skew,
    /// The same of what it acknowledges.
    pub other: Skew,
}

impl Rewrite {
    /// Changes the packet.
    ///
    /// # Errors
    /// [`DropReason::HelperNoRoom`] if the text doesn't fit it.
    pub fn apply(&self, packet: &mut Packet) -> Result<(), DropReason> {
        if let Some((span, text)) = &self.replace {
            replace(packet, span.clone(), text).ok_or(DropReason::HelperNoRoom)?;
        }
        renumber(packet, &self.own, &self.other);
        Ok(())
    }
}

/// The data of a UDP packet that is no fragment, as far as it is in the first frame.
pub fn datagram(packet: &Packet) -> Option<&[u8]> {
    let layers = Layers::find(packet)?;
    let is_whole = layers.payload.protocol == Protocol::UDP && layers.payload.fragment == 0;
    let octets = packet.data().get(layers.transport()..).filter(|_| is_whole)?;
    octets.get(..layers.payload.len).unwrap_or(octets).get(udp::LEN..)
}

/// Where the data of a TCP packet is.
#[derive(Clone, Copy)]
struct Data {
    layers: Layers,
    /// TCP's header with its options, in octets.
    header_len: usize,
}

impl Data {
    /// Of a packet that is no fragment, and whose headers are whole and in the first frame.
    fn find(packet: &Packet) -> Option<Data> {
        let layers = Layers::find(packet)?;
        if layers.payload.protocol != Protocol::TCP || layers.payload.fragment != 0 {
            return None;
        }
        let octets = packet.data().get(layers.transport()..)?;
        let header_len = tcp::Header::new(tcp_header(octets, layers.payload.len)?).header_len();
        (octets.len() >= header_len).then_some(Data { layers, header_len })
    }

    /// Where it starts and ends.
    fn range(&self) -> Range<usize> {
        let start = self.layers.transport();
        start + self.header_len..start + self.layers.payload.len
    }
}

/// The data of a TCP packet, as far as it is in the first frame.
pub fn data(packet: &Packet) -> Option<&[u8]> {
    let octets = packet.data();
    let Range { start, end } = Data::find(packet)?.range();
    octets.get(start..end.min(octets.len()))
}

/// Replaces the octets `span` of a TCP packet's data by `text`: by how many octets the packet gets longer. Padding behind the
/// packet is cut off.
///
/// `None`, and nothing changes, if the packet has several frames, or `text` doesn't fit it.
pub fn replace(packet: &mut Packet, span: Range<usize>, text: &[u8]) -> Option<i32> {
    let found = Data::find(packet)?;
    let (range, unfinished) = (found.range(), packet.checksum_start() == Some(found.layers.transport()));
    let (start, end) = (range.start.checked_add(span.start)?, range.start.checked_add(span.end)?);
    if packet.continuations() > 0 || start > end || end > range.end || range.end > packet.len() {
        return None;
    }
    let new_end = range.end - (end - start) + text.len();
    let fits = new_end - found.layers.network <= usize::from(u16::MAX);
    if !fits || new_end.saturating_sub(packet.len()) > packet.tailroom() {
        return None;
    }
    let before = sum_of(packet, found.layers.transport()..range.end);
    packet.extend(new_end.saturating_sub(packet.len()))?;
    let octets = packet.data_mut();
    octets.copy_within(end..range.end, start + text.len());
    octets.get_mut(start..start + text.len())?.copy_from_slice(text);
    packet.truncate(new_end);
    let mut own = Change::NONE;
    own.word(before, sum_of(packet, found.layers.transport()..new_end));
    resize(packet, &found, new_end, own, unfinished);
    Some(new_end as i32 - range.end as i32)
}

fn sum_of(packet: &Packet, range: Range<usize>) -> u16 {
    let mut sum = Sum::new();
    sum.add(packet.data().get(range).unwrap_or_default());
    sum.folded()
}

/// Brings lengths and checksums up to date, for a packet that ends at `end` now.
fn resize(packet: &mut Packet, found: &Data, end: usize, own: Change, unfinished: bool) {
    let Layers { family, network, payload, .. } = found.layers;
    let Some(octets) = packet.data_mut().get_mut(network..) else { return };
    let (old_len, new_len) = (payload.len, end - found.layers.transport());
    match family {
        Family::V4 => {
            let Ok((mut header, _)) = ipv4::Header::split_mut(octets) else { return };
            let (old, new) = (header.total_len(), (end - network) as u16);
            let mut change = Change::NONE;
            change.word(old, new);
            header.set_total_len(new);
            header.set_checksum(change.of(header.checksum()));
        }
        Family::V6 => {
            let Ok((mut header, _)) = ipv6::Header::split_mut(octets) else { return };
            header.set_payload_len((end - network - ipv6::LEN) as u16);
        }
    }
    let mut pseudo = Change::NONE;
    pseudo.word(old_len as u16, new_len as u16);
    if let Some(octets) = octets.get_mut(payload.at..) {
        Segment { octets, len: new_len, unfinished }.update(tcp::CHECKSUM_AT, pseudo, own, Change::of);
    }
}

/// Renumbers a TCP packet: its sequence number by what was changed in its own direction, its acknowledgements, selective ones
/// too (RFC 2018, section 3), by what was changed in the other. What is no TCP packet stays as it is.
pub fn renumber(packet: &mut Packet, own: &Skew, other: &Skew) {
    if own.is_none() && other.is_none() {
        return;
    }
    let Some(found) = Data::find(packet) else { return };
    let (start, len) = (found.layers.transport(), found.layers.payload.len);
    let unfinished = packet.checksum_start() == Some(start);
    let header = start..start + found.header_len;
    let before = sum_of(packet, header.clone());
    let Some(octets) = packet.data_mut().get_mut(header.clone()) else { return };
    let Some((fixed, options)) = octets.split_first_chunk_mut::<{ tcp::LEN }>() else { return };
    let mut view = tcp::Header::new(fixed);
    view.set_seq(own.sent(view.seq()));
    if view.flags().contains(Flags::ACK) {
        view.set_ack(other.acknowledged(view.ack()));
        renumber_selective(options, other);
    }
    let mut change = Change::NONE;
    change.word(before, sum_of(packet, header));
    if let Some(octets) = packet.data_mut().get_mut(start..) {
        Segment { octets, len, unfinished }.update(tcp::CHECKSUM_AT, Change::NONE, change, Change::of);
    }
}

/// The edges of each block that has come.
fn renumber_selective(options: &mut [u8], other: &Skew) {
    /// The option is used once, and has four blocks at most.
    const EDGES: usize = 8;
    let mut places = Options::new(options).filter(|&(kind, _, _)| kind == Options::SACK);
    let Some((_, start, data)) = places.next() else { return };
    let end = start + data.len();
    let Some(data) = options.get_mut(start..end) else { return };
    let (edges, _) = data.as_chunks_mut::<4>();
    for edge in edges.iter_mut().take(EDGES) {
        *edge = other.acknowledged(u32::from_be_bytes(*edge)).to_be_bytes();
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
