//! The queue of a packet socket: `recvmmsg` into free frames, `sendmmsg` from a burst's frames.
//!
//! Receiving: some packets are asked for at once, each with frames laid out for it ([`Ready`]), its offload header, and
//! the kernel's word on its VLAN tag. They are delivered one by one; a GSO packet becomes segments on the way, and what no
//! longer fits the burst waits for the next call.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;
use bytemuck::{Pod, Zeroable};
use weft_wire::{DropCounts, DropReason, PortName, ethernet};

use super::PACKET_AUXDATA;
use crate::device::{Device, DeviceError};
use crate::fault::{FaultState, tx_drop_reason};
use crate::offload::{VNET_HEADER, VNET_HEADER_V1, emit_vnet_header, parse_vnet_header};
use crate::packet::{Offload, Packet};
use crate::pool::{FrameCache, FramePool};
use crate::queue::{BURST, Burst, PortQueue, QueueFault, Sent};
use crate::receive::{RX_PIECES, Ready, SPILL, TX_PIECES, constant_piece, piece};
use crate::segment::Segmenter;
use crate::sys;

/// Packets that are asked for at once, at least and at most.
const FEW: usize = 4;
const BATCH: usize = 32;

/// The control message that comes with each packet: `struct cmsghdr`, then `struct tpacket_auxdata`.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
struct Auxiliary {
    message_len: usize,
    level: i32,
    kind: i32,
    status: u32,
    len: u32,
    captured: u32,
    mac: u16,
    network: u16,
    vlan_tci: u16,
    vlan_tpid: u16,
    _padding: u32,
}

const _: () = assert!(size_of::<Auxiliary>() == 40, "CMSG_SPACE of tpacket_auxdata on 64-bit Linux");

impl Auxiliary {
    /// TPID and tag control information of the tag that the kernel has taken out.
    fn vlan(&self) -> Option<(u16, u16)> {
        const VLAN_VALID: u32 = 1 << 4;
        const TPID_VALID: u32 = 1 << 6;
        const LENGTH: usize = 36;
        let ours =
            self.level == libc::SOL_PACKET && self.kind == PACKET_AUXDATA && self.message_len >= LENGTH;
        if !ours || self.status & VLAN_VALID == 0 {
            return None;
        }
        let tpid = if self.status & TPID_VALID != 0 { self.vlan_tpid } else { 0x8100 };
        Some((tpid, self.vlan_tci))
    }
}

/// Room for one packet, and what has come into it.
#[derive(Default)]
struct Slot {
    ready: Ready,
    header: [u8; VNET_HEADER],
    auxiliary: Auxiliary,
    /// Octets received, the offload header's among them.
    len: usize,
    truncated: bool,
}

/// The queue of a packet socket.
pub(super) struct PacketQueue {
    socket: Arc<OwnedFd>,
    device: Device,
    name: PortName,
    slots: Box<[Slot; BATCH]>,
    /// A spill area for each slot; untouched, and so without memory behind it, until large packets come.
    spill: Box<[u8]>,
    /// Of the slots, those that hold packets to be delivered: `next .. filled`.
    next: usize,
    filled: usize,
    /// How many packets to ask for.
    ask: usize,
    cutting: Option<Segmenter>,
    /// Where the frames of the slots came from, and go when the queue does.
    pool: Option<Arc<FramePool>>,
    state: FaultState,
}

impl PacketQueue {
    pub(super) fn new(socket: Arc<OwnedFd>, device: Device, name: PortName) -> Self {
        PacketQueue {
            socket,
            device,
            name,
            slots: Box::new(std::array::from_fn(|_| Slot::default())),
            spill: vec![0; BATCH * SPILL].into_boxed_slice(),
            next: 0,
            filled: 0,
            ask: FEW,
            cutting: None,
            pool: None,
            state: FaultState::default(),
        }
    }

    fn pending(&self) -> bool {
        self.cutting.is_some() || self.next < self.filled
    }

    /// Fills slots from the socket; whether there may be more in it.
    fn receive(&mut self, room: usize, frames: &mut FrameCache, drops: &mut DropCounts) -> bool {
        let ask = self.ask.min(room);
        let Some(slots) = self.slots.get_mut(..ask) else { return false };
        match receive_into(self.socket.as_fd(), slots, &mut self.spill, frames) {
            Ok(got) => {
                self.state.works();
                (self.next, self.filled) = (0, got);
                let full = got == ask;
                self.ask = if full { self.ask * 2 } else { got }.clamp(FEW, BATCH);
                full
            }
            // A packet that the kernel can't describe; it is gone.
            Err(libc::EINVAL) => {
                drops.add(DropReason::RxError, 1);
                true
            }
            Err(errno) => {
                self.state.failed(errno);
                false
            }
        }
    }

    /// Moves what was received into the burst, as far as it has room.
    fn deliver(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) {
        self.cut(frames, burst, drops);
        while self.cutting.is_none() && self.next < self.filled && !burst.is_full() {
            match self.next_packet(frames) {
                Ok(packet) if packet.offload.gso_type == Offload::GSO_NONE => burst.push(packet),
                Ok(packet) => {
                    match Segmenter::new(packet) {
                        Ok(segmenter) => self.cutting = Some(segmenter),
                        Err((packet, reason)) => {
                            frames.free(packet);
                            drops.add(reason, 1);
                        }
                    }
                    self.cut(frames, burst, drops);
                }
                Err(reason) => drops.add(reason, 1),
            }
        }
    }

    fn cut(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) {
        let Some(mut segmenter) = self.cutting.take() else { return };
        while !burst.is_full() {
            match segmenter.next(frames) {
                Some(Ok(packet)) => burst.push(packet),
                Some(Err(reason)) => drops.add(reason, 1),
                None => return segmenter.finish(frames),
            }
        }
        self.cutting = Some(segmenter);
    }

    /// The packet of the next slot, with its offload state and its tag.
    fn next_packet(&mut self, frames: &mut FrameCache) -> Result<Packet, DropReason> {
        let spill = self.spill.chunks_exact(SPILL).nth(self.next).unwrap_or_default();
        let slot = self.slots.get_mut(self.next).ok_or(DropReason::RxError)?;
        self.next += 1;
        if slot.truncated {
            return Err(DropReason::RxTooBig);
        }
        let mut packet = slot.ready.take(slot.len.saturating_sub(VNET_HEADER), spill, frames)?;
        let checked = if packet.len() < ethernet::LEN {
            Err(DropReason::RxTruncated)
        } else {
            parse_vnet_header(&mut packet, &slot.header)
        };
        let checked = checked.and_then(|()| match slot.auxiliary.vlan() {
            Some((tpid, tci)) => insert_tag(&mut packet, tpid, tci).ok_or(DropReason::RxTooBig),
            None => Ok(()),
        });
        match checked {
            Ok(()) => Ok(packet),
            Err(reason) => {
                frames.free(packet);
                Err(reason)
            }
        }
    }

    /// Sends packets `from..`; how many the kernel has taken, or why it doesn't take the first.
    fn send(&mut self, messages: &mut [libc::mmsghdr]) -> Result<usize, i32> {
        // SAFETY: the messages and what they point to live until the call returns; it reads them, and writes msg_len.
        let sent = unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(sent).map_err(|_| sys::errno())
    }

    /// Sends as many of `burst` as the kernel takes.
    fn send_all(&mut self, burst: &Burst, drops: &mut DropCounts) -> Sent {
        let headers: ArrayVec<[u8; VNET_HEADER_V1], BURST> = burst.iter().map(emit_vnet_header).collect();
        let mut pieces = ArrayVec::<libc::iovec, { BURST * TX_PIECES }>::new();
        let mut messages = ArrayVec::<libc::mmsghdr, BURST>::new();
        for (packet, header) in burst.iter().zip(&headers) {
            let first = pieces.len();
            pieces.push(constant_piece(header.get(..VNET_HEADER).unwrap_or(header)));
            pieces.extend(packet.segments().map(constant_piece));
            messages.push(message(pieces.get_mut(first..).unwrap_or_default()));
        }
        let (mut done, mut sent) = (0, Sent::default());
        while let Some(rest) = messages.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let left = rest.len() as u64;
            match self.send(rest) {
                Ok(taken) => {
                    let bytes = burst.iter().skip(done).take(taken).map(|packet| packet.total_len() as u64);
                    sent =
                        Sent { packets: sent.packets + taken as u64, bytes: sent.bytes + bytes.sum::<u64>() };
                    done += taken.max(1);
                    self.state.works();
                }
                Err(errno) => {
                    self.state.failed(errno);
                    let reason = tx_drop_reason(errno);
                    // A full buffer and a device that is down are the same for all that follow.
                    if errno == libc::EAGAIN || reason == DropReason::TxPortDown {
                        drops.add(reason, left);
                        break;
                    }
                    drops.add(reason, 1);
                    done += 1;
                }
            }
        }
        sent
    }
}

impl PortQueue for PacketQueue {
    fn rx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) {
        if self.pool.is_none() {
            self.pool = Some(Arc::clone(frames.pool()));
        }
        self.deliver(frames, burst, drops);
        for _ in 0..BURST {
            if burst.is_full() || !self.receive(burst.remaining_capacity(), frames, drops) {
                break;
            }
            self.deliver(frames, burst, drops);
        }
        self.deliver(frames, burst, drops);
    }

    fn tx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) -> Sent {
        let sent = self.send_all(burst, drops);
        burst.drain(..).for_each(|packet| frames.free(packet));
        sent
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn arm(&mut self) -> bool {
        !self.pending()
    }

    fn fault(&self) -> Option<QueueFault> {
        if sys::packet_index(self.socket.as_fd()).is_none() {
            return Some(QueueFault::DeviceGone);
        }
        match (self.device.link(), self.state) {
            (Err(DeviceError::Gone(_)), _) => Some(QueueFault::DeviceGone),
            (Ok(link), _) if !link.up => Some(QueueFault::DeviceDown),
            (_, state @ FaultState::Other(_)) => state.fault(),
            _ => None,
        }
    }
}

/// Receives into `slots`; how many were filled, or `errno`.
fn receive_into(
    socket: BorrowedFd<'_>,
    slots: &mut [Slot],
    spill: &mut [u8],
    frames: &mut FrameCache,
) -> Result<usize, i32> {
    let mut pieces = ArrayVec::<ArrayVec<libc::iovec, RX_PIECES>, BATCH>::new();
    let mut messages = ArrayVec::<libc::mmsghdr, BATCH>::new();
    for (slot, spill) in slots.iter_mut().zip(spill.chunks_exact_mut(SPILL)) {
        slot.ready.refill(frames);
        slot.auxiliary = Auxiliary::default();
        let mut memory = ArrayVec::new();
        memory.push(piece(&mut slot.header));
        slot.ready.pieces(spill, &mut memory);
        pieces.push(memory);
        messages.push(controlled(&mut slot.auxiliary));
    }
    for (message, memory) in messages.iter_mut().zip(&mut pieces) {
        message.msg_hdr.msg_iov = memory.as_mut_ptr();
        message.msg_hdr.msg_iovlen = memory.len() as _;
    }
    // SAFETY: the messages point to pieces (not moved any more), and those to headers, frames and spill areas of the
    // slots, which nobody else uses and which live until the call returns; control memory is as large as it says.
    let got = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            messages.len() as libc::c_uint,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
        )
    };
    let got = usize::try_from(got).map_err(|_| sys::errno())?;
    for (slot, message) in slots.iter_mut().zip(&messages).take(got) {
        slot.len = message.msg_len as usize;
        slot.truncated = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
    }
    Ok(got)
}

/// A message that brings its control message to `auxiliary`, which has to stay where it is until it was used.
fn controlled(auxiliary: &mut Auxiliary) -> libc::mmsghdr {
    let mut message: libc::mmsghdr = sys::zeroed();
    message.msg_hdr.msg_control = std::ptr::from_mut(auxiliary).cast();
    message.msg_hdr.msg_controllen = size_of::<Auxiliary>() as _;
    message
}

/// A message over `pieces`, which have to stay where they are until it was used.
fn message(pieces: &mut [libc::iovec]) -> libc::mmsghdr {
    let mut message: libc::mmsghdr = sys::zeroed();
    message.msg_hdr.msg_iov = pieces.as_mut_ptr();
    message.msg_hdr.msg_iovlen = pieces.len() as _;
    message
}

/// Puts a tag behind the Ethernet addresses. `None`, and nothing changes, when there is no headroom for it.
fn insert_tag(packet: &mut Packet, tpid: u16, tci: u16) -> Option<()> {
    const ADDRESSES: usize = 12;
    const TAG: usize = 4;
    let data = packet.push_front(TAG)?;
    data.copy_within(TAG..TAG + ADDRESSES, 0);
    let [a, b] = tpid.to_be_bytes();
    let [c, d] = tci.to_be_bytes();
    *data.get_mut(ADDRESSES..)?.first_chunk_mut()? = [a, b, c, d];
    Some(())
}

impl Drop for PacketQueue {
    fn drop(&mut self) {
        let Some(pool) = &self.pool else { return };
        let mut frames = pool.cache();
        self.slots.iter_mut().for_each(|slot| slot.ready.clear(&mut frames));
        if let Some(segmenter) = self.cutting.take() {
            segmenter.finish(&mut frames);
        }
    }
}

impl std::fmt::Debug for PacketQueue {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "PacketQueue({})", self.name)
    }
}
