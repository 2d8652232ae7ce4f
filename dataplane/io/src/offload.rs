//! What is still to be done to a packet: from and to the kernel's `virtio_net_hdr`, and in software.
//!
//! A packet enters with a header that says "the checksum is unfinished" or "these are several segments in one"; the
//! header is checked here, once, and becomes the packet's [`Offload`]. It leaves by a port that takes such a header
//! ([`emit_vnet_header`]), or the port calls [`finish_checksum`] first. AF_XDP shows no header at all: there an
//! unfinished checksum is recognised by its value ([`looks_partial`]).
//!
//! The header's numbers are in the machine's order, which is what tun and packet sockets use unless told otherwise.
//! References: virtio 1.2, section 5.1.6; Linux `include/linux/virtio_net.h`.

use weft_wire::checksum::Sum;
use weft_wire::crc32c::Crc;
use weft_wire::{DropReason, ethernet};

use crate::packet::{Offload, Packet};
use crate::transport::Transport;

/// Octets of `virtio_net_hdr`, which tun devices and packet sockets use.
pub const VNET_HEADER: usize = 10;
/// Octets of `virtio_net_hdr_v1`, which ends with the number of merged buffers, and which vhost-user uses.
pub const VNET_HEADER_V1: usize = 12;

/// `VIRTIO_NET_HDR_GSO_TCPV4`
pub const GSO_TCPV4: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_UDP`: fragments, not segments.
pub const GSO_UDP: u8 = 3;
/// `VIRTIO_NET_HDR_GSO_TCPV6`
pub const GSO_TCPV6: u8 = 4;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`
pub const GSO_UDP_L4: u8 = 5;
/// `VIRTIO_NET_HDR_GSO_ECN`, beside one of TCP's: only the first segment carries CWR.
pub const GSO_ECN: u8 = 0x80;

/// Where SCTP's checksum is in its header. No other protocol whose checksum may be left unfinished has it there.
const SCTP_CHECKSUM_AT: u16 = 8;

/// Reads `header` into the packet's offload state. The packet's data starts with the Ethernet header.
///
/// A header that contradicts itself or the packet is [`DropReason::Malformed`]. `hdr_len` is a hint that nobody has to
/// set right, and flags that are not known are to be ignored (virtio 1.2, section 5.1.6.4).
pub fn parse_vnet_header(packet: &mut Packet, header: &[u8; VNET_HEADER]) -> Result<(), DropReason> {
    let [flags, gso_type, _, _, gso0, gso1, start0, start1, offset0, offset1] = *header;
    let gso_size = u16::from_ne_bytes([gso0, gso1]);
    packet.offload = Offload::default();
    if flags & Offload::NEEDS_CHECKSUM != 0 {
        let start = usize::from(u16::from_ne_bytes([start0, start1]));
        let offset = usize::from(u16::from_ne_bytes([offset0, offset1]));
        if start < ethernet::LEN || packet.request_checksum(start, offset).is_none() {
            return Err(DropReason::Malformed);
        }
    } else {
        packet.offload.flags = flags & Offload::CHECKSUM_VALID;
    }
    match gso_type & !GSO_ECN {
        Offload::GSO_NONE if gso_type == Offload::GSO_NONE => Ok(()),
        GSO_TCPV4 | GSO_UDP | GSO_TCPV6 | GSO_UDP_L4 if gso_size > 0 => {
            packet.offload.gso_type = gso_type;
            packet.offload.gso_size = gso_size;
            Ok(())
        }
        _ => Err(DropReason::Malformed),
    }
}

/// The header that says to a tun device, a packet socket or a guest what is still to be done to `packet`.
///
/// Its first [`VNET_HEADER`] octets are `virtio_net_hdr`, all of it is `virtio_net_hdr_v1` for one buffer.
#[inline]
pub fn emit_vnet_header(packet: &Packet) -> [u8; VNET_HEADER_V1] {
    let mut header = [0; VNET_HEADER_V1];
    let mut number = |at: usize, value: usize| {
        if let Some(place) = header.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            *place = (value as u16).to_ne_bytes();
        }
    };
    number(10, 1);
    let start = packet.checksum_start();
    if let Some(start) = start {
        number(6, start);
        number(8, usize::from(packet.offload.checksum_offset));
    }
    let gso = packet.offload.gso_type != Offload::GSO_NONE;
    if gso {
        number(2, packet.len());
        number(4, usize::from(packet.offload.gso_size));
    }
    let [flags, gso_type, ..] = &mut header;
    *flags = if start.is_some() { Offload::NEEDS_CHECKSUM } else { 0 };
    *gso_type = packet.offload.gso_type;
    header
}

/// Finishes the packet's pending checksum, if there is one, over all of its frames.
///
/// A pending checksum whose part of the packet has been cut off is forgotten.
#[inline]
pub fn finish_checksum(packet: &mut Packet) {
    if packet.offload.flags & Offload::NEEDS_CHECKSUM != 0 {
        finish(packet);
    }
}

fn finish(packet: &mut Packet) {
    let start = packet.checksum_start();
    packet.offload.flags &= !Offload::NEEDS_CHECKSUM;
    let Some(start) = start else { return };
    if packet.offload.checksum_offset == SCTP_CHECKSUM_AT {
        return finish_sctp(packet, start);
    }
    let mut sum = Sum::new();
    for (index, segment) in packet.segments().enumerate() {
        sum.add(segment.get(if index == 0 { start } else { 0 }..).unwrap_or_default());
    }
    // To UDP, 0 says that there is no checksum, and to all others its twin is the same number (RFC 768).
    let checksum = sum.udp_checksum();
    let at = start + usize::from(packet.offload.checksum_offset);
    if let Some(field) = packet.data_mut().get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *field = checksum.to_be_bytes();
    }
}

/// SCTP's is a CRC over all of its packet, with zeros in its place (RFC 9260, section 6.8).
#[cold]
fn finish_sctp(packet: &mut Packet, start: usize) {
    let at = start + usize::from(SCTP_CHECKSUM_AT);
    let Some(field) = packet.data_mut().get_mut(at..).and_then(<[u8]>::first_chunk_mut::<4>) else { return };
    *field = [0; 4];
    let mut crc = Crc::new();
    for (index, segment) in packet.segments().enumerate() {
        crc.add(segment.get(if index == 0 { start } else { 0 }..).unwrap_or_default());
    }
    if let Some(field) = packet.data_mut().get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *field = crc.checksum();
    }
}

/// Whether the packet's TCP or UDP checksum is an unfinished one, as the kernel leaves them (`CHECKSUM_PARTIAL`): the
/// sum of the pseudo-header and no more. Then that header is returned.
///
/// Finishing the checksum of a good packet that looks so by chance gives the checksum that it has.
pub fn looks_partial(packet: &Packet) -> Option<Transport> {
    let head = packet.data();
    let found = Transport::locate(head)?;
    let field = head.get(found.start + found.checksum_offset()..)?.first_chunk()?;
    let field = u16::from_be_bytes(*field);
    // UDP's "no checksum".
    if field == 0 && !found.is_tcp() {
        return None;
    }
    let pseudo = found.pseudo_header(head, found.len)?;
    // 0 and 0xffff are the same number.
    let same = field == pseudo || (field % 0xffff == 0 && pseudo % 0xffff == 0);
    (same && ends_with(packet, found.start + found.len)).then_some(found)
}

/// Requests the checksum of a packet that [`looks_partial`], so that its egress port or [`finish_checksum`] does it.
#[inline]
pub fn request_if_partial(packet: &mut Packet) {
    if let Some(found) = looks_partial(packet) {
        // The field was read, so it is in the head frame, and this can't fail.
        let _ = packet.request_checksum(found.start, found.checksum_offset());
    }
}

/// Whether the packet ends at `end`, or goes on with zeros: what a driver pads a short frame with, and what changes no
/// checksum.
fn ends_with(packet: &Packet, end: usize) -> bool {
    if packet.continuations() > 0 {
        return packet.total_len() == end;
    }
    packet.data().get(end..).is_some_and(|padding| padding.iter().all(|&octet| octet == 0))
}

#[cfg(test)]
#[path = "offload_tests.rs"]
mod tests;
