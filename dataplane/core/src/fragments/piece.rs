//! One fragment: which packet it is of, and which part (RFC 791, section 3.2; RFC 8200, section 4.5).

use weft_conntrack::Family;
use weft_io::Packet;
use weft_wire::{DropReason, ipv6};

use super::{Origin, Settings};
use crate::facts::{Layers, header_is_right};
use crate::key::{Ingress, PortId};
use crate::parse::be16;

/// Octets that a packet with its header (over IPv6: without) has at most.
const MOST: usize = u16::MAX as usize;
/// IPv6's fragment header.
const FRAGMENT_HEADER: usize = 8;

/// Which packet a fragment is of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key {
    src: u128,
    dst: u128,
    pub(super) origin: Origin,
    id: u32,
    family: Family,
    /// 0 over IPv6, where only the first fragment's counts.
    protocol: u8,
}

impl Key {
    /// No packet's.
    pub(super) const NONE: Key = Key {
        src: 0,
        dst: 0,
        origin: Origin { ingress: Ingress::port(PortId::NONE), scope: [0; 2] },
        id: 0,
        family: Family::V4,
        protocol: 0,
    };
}

/// Which octets of its packet a fragment has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Piece {
    /// The first, and the one behind the last; never the same.
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) is_last: bool,
    /// Where they are in the fragment, counted from its Ethernet header.
    pub(super) at: u16,
}

impl Piece {
    /// Reads a fragment, and refuses what can't be one.
    pub(super) fn read(
        packet: &Packet,
        settings: &Settings,
        origin: Origin,
    ) -> Result<(Piece, Key), DropReason> {
        let layers = Layers::find(packet).ok_or(DropReason::FragmentMalformed)?;
        if layers.payload.fragment == 0 || !header_is_right(packet, &layers) {
            return Err(DropReason::FragmentMalformed);
        }
        let network = packet.data().get(layers.network..).unwrap_or_default();
        let (fields, least) = match layers.family {
            Family::V4 => (Fields::version_4(network, &layers), settings.least_v4),
            Family::V6 => (Fields::version_6(network, &layers), settings.least_v6),
        };
        let Fields { start, is_last, id, at, front } = fields.ok_or(DropReason::FragmentMalformed)?;
        let size = layers.payload.at + layers.payload.len;
        let len = size.checked_sub(at).filter(|&len| len > 0).ok_or(DropReason::FragmentMalformed)?;
        // All but the last end where another may start.
        let is_cut = !is_last && len % 8 != 0;
        if is_cut || front + start + len > MOST {
            return Err(DropReason::FragmentMalformed);
        }
        if !is_last && size < usize::from(least) {
            return Err(DropReason::FragmentTooSmall);
        }
        let at = u16::try_from(layers.network + at).map_err(|_| DropReason::FragmentMalformed)?;
        let protocol = if layers.family == Family::V4 { layers.payload.protocol.0 } else { 0 };
        let (src, dst, family) = (layers.src, layers.dst, layers.family);
        let piece = Piece { start: start as u32, end: (start + len) as u32, is_last, at };
        Ok((piece, Key { src, dst, origin, id, family, protocol }))
    }
}

/// What a header says of a fragment.
struct Fields {
    /// Where it starts in its packet.
    start: usize,
    is_last: bool,
    id: u32,
    /// Where it starts in this packet, counted from the IP header.
    at: usize,
    /// Octets in front of it that count for the length of the whole.
    front: usize,
}

impl Fields {
    fn version_4(network: &[u8], layers: &Layers) -> Option<Fields> {
        const MORE: u16 = 0x2000;
        let (id, word) = (be16(network, 4)?, be16(network, 6)?);
        let start = usize::from(word & 0x1fff) * 8;
        let at = layers.payload.at;
        Some(Fields { start, is_last: word & MORE == 0, id: id.into(), at, front: at })
    }

    fn version_6(network: &[u8], layers: &Layers) -> Option<Fields> {
        const MORE: u16 = 1;
        let header_at = layers.payload.fragment_at;
        let header = network.get(header_at..)?.first_chunk::<FRAGMENT_HEADER>()?;
        let word = be16(header, 2)?;
        let id = u32::from_be_bytes(*header.last_chunk()?);
        let front = header_at.checked_sub(ipv6::LEN)?;
        let at = header_at + FRAGMENT_HEADER;
        Some(Fields { start: usize::from(word & 0xfff8), is_last: word & MORE == 0, id, at, front })
    }
}
