//! Cutting a GSO packet (TCP over IPv4 or IPv6, UDP) into the segments that it stands for.
//!
//! A VM or a veth's other end may send 64 KiB with one set of headers; a packet socket shows them so. Each segment gets
//! the headers, with lengths, IPv4 identification, sequence number and flags of its own, a part of the payload, and a
//! pending checksum that its egress port finishes. Segments come one by one, so that a burst that is full needs no
//! memory for the others.
//!
//! References: RFC 9293; RFC 3168, section 6.1.2 (CWR); Linux `Documentation/networking/segmentation-offloads.rst`.

use weft_wire::DropReason;
use weft_wire::checksum::Sum;
use weft_wire::tcp::Flags;
use weft_wire::{ipv4, ipv6, tcp, udp};

use crate::assemble::Assembly;
use crate::offload::{GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4};
use crate::packet::{Offload, Packet};
use crate::pool::FrameCache;
use crate::transport::Transport;

/// More segments than any sender of 64 KiB has a reason for: one packet must not become a flood.
const MAX_SEGMENTS: usize = 2048;

/// A GSO packet on its way to become segments.
#[derive(Debug)]
pub struct Segmenter {
    packet: Packet,
    transport: Transport,
    /// Octets of all headers.
    header: usize,
    /// Octets of payload in each segment but the last.
    size: usize,
    /// Octets of payload.
    payload: usize,
    /// Octets of payload that are in segments already.
    done: usize,
    segments: u16,
}

impl Segmenter {
    /// Takes a packet whose offload state says that it is several; gives it back, with the reason, when its headers
    /// don't fit that.
    pub fn new(packet: Packet) -> Result<Self, (Packet, DropReason)> {
        match plan(&packet) {
            Ok((transport, header)) => {
                let size = usize::from(packet.offload.gso_size);
                let payload = packet.total_len() - header;
                Ok(Segmenter { packet, transport, header, size, payload, done: 0, segments: 0 })
            }
            Err(reason) => Err((packet, reason)),
        }
    }

    /// The next segment, or why it is lost; `None` when there are no more.
    pub fn next(&mut self, frames: &mut FrameCache) -> Option<Result<Packet, DropReason>> {
        if self.done >= self.payload && self.segments > 0 {
            return None;
        }
        let octets = self.size.min(self.payload - self.done);
        let segment = self.cut(octets, frames);
        self.done += octets;
        self.segments += 1;
        Some(segment)
    }

    /// Gives the packet's frames back.
    pub fn finish(self, frames: &mut FrameCache) {
        frames.free(self.packet);
    }

    fn cut(&self, octets: usize, frames: &mut FrameCache) -> Result<Packet, DropReason> {
        let mut head = frames.alloc().ok_or(DropReason::RxNoFrame)?;
        // The headers fit: `plan` has limited them to what every frame takes.
        let _ = head.append(self.packet.data().get(..self.header).unwrap_or_default());
        if self.adjust(&mut head, octets).is_none() {
            frames.free(head);
            return Err(DropReason::Malformed);
        }
        let mut segment = Assembly::new(head);
        match self.copy_payload(&mut segment, octets, frames) {
            Ok(()) => segment.finish(frames),
            Err(reason) => {
                segment.abandon(frames);
                Err(reason)
            }
        }
    }

    fn copy_payload(
        &self,
        segment: &mut Assembly,
        octets: usize,
        frames: &mut FrameCache,
    ) -> Result<(), DropReason> {
        let (mut skip, mut left) = (self.header + self.done, octets);
        for piece in self.packet.segments() {
            let (_, rest) = piece.split_at(skip.min(piece.len()));
            skip = skip.saturating_sub(piece.len());
            let (now, _) = rest.split_at(left.min(rest.len()));
            segment.append(now, frames)?;
            left -= now.len();
            if left == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Makes the copied headers right for a segment of `octets` of payload.
    fn adjust(&self, head: &mut Packet, octets: usize) -> Option<()> {
        let Transport { network, start, ipv6, .. } = self.transport;
        let len = self.header + octets;
        let last = self.done + octets == self.payload;
        let data = head.data_mut();
        if ipv6 {
            let (mut ip, _) = ipv6::Header::split_mut(data.get_mut(network..)?).ok()?;
            ip.set_payload_len((len - network - ipv6::LEN) as u16);
        } else {
            self.adjust_ipv4(data.get_mut(network..start)?, len - network)?;
        }
        if self.transport.is_tcp() {
            self.adjust_tcp(data.get_mut(start..)?, last)?;
        } else {
            udp::Header::split_mut(data.get_mut(start..)?).ok()?.0.set_length((len - start) as u16);
        }
        let pseudo = self.transport.pseudo_header(data, len - start)?;
        let offset = self.transport.checksum_offset();
        *data.get_mut(start + offset..)?.first_chunk_mut()? = pseudo.to_be_bytes();
        head.request_checksum(start, offset)
    }

    fn adjust_ipv4(&self, header: &mut [u8], len: usize) -> Option<()> {
        let (mut ip, options) = ipv4::Header::split_mut(header).ok()?;
        ip.set_total_len(len as u16);
        ip.set_ident(ip.ident().wrapping_add(self.segments));
        ip.set_checksum(0);
        let mut sum = Sum::new();
        sum.add(ip.as_bytes());
        sum.add(options);
        ip.set_checksum(sum.checksum());
        Some(())
    }

    fn adjust_tcp(&self, header: &mut [u8], last: bool) -> Option<()> {
        let (mut tcp, _) = tcp::Header::split_mut(header).ok()?;
        tcp.set_seq(tcp.seq().wrapping_add(self.done as u32));
        if !last {
            tcp.clear_flags(Flags::FIN.union(Flags::PSH));
        }
        if self.segments > 0 {
            tcp.clear_flags(Flags::CWR);
        }
        Some(())
    }
}

/// Where the packet's headers are, and how long they are, if it can be cut.
fn plan(packet: &Packet) -> Result<(Transport, usize), DropReason> {
    /// A header in a frame of its own leaves room for payload whatever the frame's colour is.
    const LONGEST_HEADERS: usize = 512;
    let head = packet.data();
    let transport = Transport::locate(head).ok_or(DropReason::Malformed)?;
    let fits = match packet.offload.gso_type & !GSO_ECN {
        GSO_TCPV4 => transport.is_tcp() && !transport.ipv6,
        GSO_TCPV6 => transport.is_tcp() && transport.ipv6,
        GSO_UDP_L4 => !transport.is_tcp(),
        Offload::GSO_NONE => false,
        // One datagram to be fragmented.
        _ => return Err(DropReason::RxTooBig),
    };
    let (own, shortest) = if transport.is_tcp() {
        let octets = head.get(transport.start..).unwrap_or_default();
        let (tcp, _) = tcp::Header::split(octets).map_err(|_| DropReason::Malformed)?;
        (tcp.header_len(), tcp::LEN)
    } else {
        (udp::LEN, udp::LEN)
    };
    let header = transport.start + own;
    let payload = packet.total_len().checked_sub(header).ok_or(DropReason::Malformed)?;
    let size = usize::from(packet.offload.gso_size);
    // A segment's length has to fit the IP header's field.
    let legal = size > 0 && payload.div_ceil(size) <= MAX_SEGMENTS && size + header <= 0xffff;
    if fits && legal && own >= shortest && header <= head.len().min(LONGEST_HEADERS) {
        Ok((transport, header))
    } else {
        Err(DropReason::Malformed)
    }
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
