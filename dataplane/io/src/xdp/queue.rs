//! One AF_XDP socket as a port's queue.
//!
//! Receive: the kernel copies a packet into a frame of the fill ring, 256 octets from its start, and puts a descriptor
//! in the receive ring; the frame becomes the packet's, and a free one takes its place in the fill ring. A packet for
//! which there is no replacement is dropped and its own frame goes back, so that the queue's reserve never shrinks.
//!
//! Transmit: a packet's frames go into the transmit ring where they lie, whatever their data's offset is, and come back
//! through the completion ring. In copy mode the kernel transmits within the system call that tells it to, up to
//! 32 descriptors at a time, and nowhere else.
//!
//! Owner: the worker that has the queue. Closing a socket waits until the kernel has left it (some milliseconds), so
//! a dropped queue is closed by a thread of its own, see `Closer`.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, mpsc};

use arrayvec::ArrayVec;
use weft_wire::{DropCounts, DropReason, ethernet};

use super::custody::Custody;
use super::device::PortDevice;
use super::rings::Desc;
use super::socket::{self, XdpSocket};
use super::umem::Umem;
use crate::offload::{finish_checksum, request_if_partial};
use crate::packet::{CHAIN_AREA, FRAME_SIZE, MAX_CONTINUATIONS, Offload, Packet};
use crate::pool::FrameCache;
use crate::queue::{Burst, PortQueue, QueueFault, Sent};

/// Descriptors that the kernel transmits per system call in copy mode (`TX_BATCH_SIZE`).
const KERNEL_BATCH: u32 = 32;
/// Takes closed queues, and closes their sockets on a thread of its own.
pub(super) type Closer = mpsc::Sender<QueueParts>;

/// Starts the thread that closes sockets; it ends with the last [`Closer`].
pub(super) fn closer() -> std::io::Result<Closer> {
    let (closer, closed) = mpsc::channel::<QueueParts>();
    std::thread::Builder::new().name("weft-xdp-close".into()).spawn(move || closed.iter().for_each(drop))?;
    Ok(closer)
}

/// A queue's parts, in the order in which they have to go.
#[derive(Debug)]
pub(super) struct QueueParts {
    pub socket: XdpSocket,
    pub custody: Custody,
    pub umem: Arc<Umem>,
    pub device: Arc<PortDevice>,
}

/// The queue of an AF_XDP port.
pub(super) struct XdpQueue {
    parts: ManuallyDrop<QueueParts>,
    closer: Closer,
    /// Whose checksums may be unfinished.
    suspects: Suspects,
    /// Descriptors in the transmit ring that the kernel has not been seen to take.
    unsent: bool,
    /// Frames handed over for transmit that have not come back.
    in_flight: u32,
    /// Packets that the kernel has refused after they were reported as sent.
    refused_late: u64,
    /// The last system call said that the device is down.
    down: bool,
    gone: Cell<bool>,
}

/// Which packets may have an unfinished checksum, as far as the device is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Suspects {
    /// None.
    Nobody,
    /// Each received packet.
    Packets,
    /// Each received packet, or the one in the tunnel that it belongs to.
    TunnelPackets,
}

impl XdpQueue {
    /// A queue over a socket that is bound and whose fill ring holds its reserve.
    pub fn new(parts: QueueParts, closer: Closer, suspects: Suspects) -> Self {
        XdpQueue {
            parts: ManuallyDrop::new(parts),
            closer,
            suspects,
            unsent: false,
            in_flight: 0,
            refused_late: 0,
            down: false,
            gone: Cell::new(false),
        }
    }

    /// Looks whether the kernel left the packet's checksum unfinished. It leaves that of a tunnel packet *or* that of the
    /// packet inside.
    #[inline]
    fn examine(&self, packet: &mut Packet) {
        request_if_partial(packet);
        if self.suspects == Suspects::TunnelPackets && packet.offload.flags == 0 {
            packet.offload.flags = Offload::INNER_UNKNOWN;
        }
    }

    /// Whether `frames` are of the pool that the kernel knows; nothing is done with those of another.
    #[inline]
    fn knows(&self, frames: &FrameCache) -> bool {
        let same = Arc::ptr_eq(frames.pool(), self.parts.umem.pool());
        debug_assert!(same, "an AF_XDP queue was called with another pool's cache");
        same
    }

    /// Takes back what was transmitted.
    #[inline]
    fn reap(&mut self, frames: &mut FrameCache) {
        if self.in_flight == 0 {
            return;
        }
        let parts = &mut *self.parts;
        if parts.socket.completion.ready(u32::MAX) == 0 {
            return;
        }
        while let Some(address) = parts.socket.completion.take() {
            let frame = frame_of(address);
            if parts.custody.strike(frame) {
                frames.give_id(frame);
                self.in_flight = self.in_flight.saturating_sub(1);
            }
        }
        parts.socket.completion.release();
    }

    /// Gives a free frame to the kernel for receiving.
    #[inline]
    fn feed(&mut self, frame: u32, frames: &mut FrameCache) {
        let parts = &mut *self.parts;
        if parts.custody.enter(frame) && !parts.socket.fill.put(address_of(frame)) {
            // The ring has room for the whole reserve, so this doesn't happen; the frame would not be lost.
            parts.custody.strike(frame);
            frames.give_id(frame);
        }
    }

    /// The packet of one descriptor, and a fresh frame in its place; `None` when there is none, or the descriptor is
    /// not what the kernel should write.
    #[inline]
    fn accept(&mut self, desc: Desc, frames: &mut FrameCache) -> Result<Packet, DropReason> {
        let (frame, offset) = (frame_of(desc.addr), desc.addr as usize % FRAME_SIZE);
        if !self.parts.custody.strike(frame) {
            return Err(DropReason::RxError);
        }
        let Some(fresh) = frames.take_id() else {
            self.feed(frame, frames);
            return Err(DropReason::RxNoFrame);
        };
        if offset < CHAIN_AREA || offset + desc.len as usize > FRAME_SIZE {
            frames.give_id(fresh);
            self.feed(frame, frames);
            return Err(DropReason::RxError);
        }
        self.feed(fresh, frames);
        Ok(frames.adopt(frame, offset as u16, desc.len as u16))
    }

    /// Takes the next packet from the receive ring, which `ready` has looked at; `None` when no whole one is there.
    #[inline]
    fn receive(&mut self, frames: &mut FrameCache) -> Option<Result<Packet, DropReason>> {
        if self.parts.socket.rx.peek(0)?.continues() {
            return self.receive_chain(frames);
        }
        let desc = self.parts.socket.rx.take()?;
        Some(self.accept(desc, frames))
    }

    /// A packet of several frames. Its descriptors are taken all together, or not yet.
    #[cold]
    fn receive_chain(&mut self, frames: &mut FrameCache) -> Option<Result<Packet, DropReason>> {
        self.parts.socket.rx.ready(u32::MAX);
        let mut count = 1;
        while self.parts.socket.rx.peek(count - 1)?.continues() {
            count += 1;
        }
        let mut result: Option<Result<Packet, DropReason>> = None;
        for _ in 0..count {
            let desc = self.parts.socket.rx.take()?;
            let part = self.accept(desc, frames);
            result = Some(match (result, part) {
                (None, part) => part,
                (Some(Ok(head)), part) => join(head, part, frames),
                (Some(Err(reason)), part) => {
                    if let Ok(part) = part {
                        frames.free(part);
                    }
                    Err(reason)
                }
            });
        }
        result
    }

    /// Checks and finishes a packet that is to be sent.
    #[inline]
    fn prepare(&self, packet: &mut Packet) -> Result<(), DropReason> {
        let len = packet.total_len();
        let mtu = self.parts.device.mtu() as usize;
        if packet.len() < ethernet::LEN {
            return Err(DropReason::TxError);
        }
        if len > mtu + ethernet::LEN
            && (len > mtu + ethernet::LEN + ethernet::TAG_LEN || !is_tagged(packet.data()))
        {
            return Err(DropReason::TxTooBig);
        }
        if packet.continuations() > 0 && !self.parts.umem.multi_buffer() {
            return Err(DropReason::TxTooBig);
        }
        if packet.offload.flags & Offload::NEEDS_CHECKSUM != 0 {
            finish_checksum(packet);
        }
        Ok(())
    }

    /// Puts a packet into the transmit ring, which has room for all its frames.
    #[inline]
    fn enqueue(&mut self, packet: Packet, frames: &mut FrameCache) -> Result<(), DropReason> {
        if self.parts.socket.tx.free(packet.continuations() as u32 + 1) <= packet.continuations() as u32 {
            frames.free(packet);
            return Err(DropReason::TxRingFull);
        }
        if packet.continuations() > 0 {
            self.enqueue_chain(packet, frames);
        } else {
            self.enqueue_frame(packet, 0, frames);
        }
        Ok(())
    }

    #[cold]
    fn enqueue_chain(&mut self, mut packet: Packet, frames: &mut FrameCache) {
        let mut tails: ArrayVec<Packet, MAX_CONTINUATIONS> = ArrayVec::new();
        while let Some(tail) = packet.pop_continuation() {
            // An empty descriptor would be refused, and the packet with it.
            if tail.is_empty() {
                frames.free(tail);
            } else {
                tails.push(tail);
            }
        }
        let mut next = Some(packet);
        while let Some(packet) = next {
            next = tails.pop();
            let options = if next.is_some() { libc::XDP_PKT_CONTD } else { 0 };
            self.enqueue_frame(packet, options, frames);
        }
    }

    /// Puts one frame into the transmit ring. The caller has seen that there is room.
    #[inline]
    fn enqueue_frame(&mut self, packet: Packet, options: u32, frames: &FrameCache) {
        let frame = frames.id_of(&packet);
        let desc =
            Desc { addr: address_of(frame) + packet.offset() as u64, len: packet.len() as u32, options };
        let _ = packet.into_base();
        if self.parts.custody.enter(frame) {
            let put = self.parts.socket.tx.put(desc);
            debug_assert!(put, "the caller has looked for room");
            self.in_flight += 1;
        }
    }

    /// Has the kernel transmit what is in the ring. Returns how many packets it took and threw away.
    ///
    /// What it does not take stays in the ring, counted as sent: full queues empty themselves, and a device that is
    /// down sends it when it is up again.
    fn transmit(&mut self, frames: &mut FrameCache) -> u64 {
        if !self.parts.socket.tx.needs_wakeup() {
            return 0;
        }
        let waiting = self.parts.socket.tx.waiting();
        let mut patience = waiting / KERNEL_BATCH + 3;
        let mut refused = 0;
        self.unsent = true;
        loop {
            match self.parts.socket.kick() {
                Ok(()) => {
                    (self.unsent, self.down) = (false, false);
                    break;
                }
                // One packet was taken, and the device refused it.
                Err(libc::EBUSY) if refused <= waiting => refused += 1,
                // The kernel's batch is done, or its queues are full.
                Err(libc::EAGAIN | libc::ENOBUFS | libc::EINTR | libc::ENOMEM) if patience > 0 => {
                    patience -= 1;
                    self.reap(frames);
                }
                Err(errno) => {
                    self.down |= errno == libc::ENETDOWN;
                    let gone = matches!(errno, libc::ENXIO | libc::EBADF | libc::ENODEV);
                    self.gone.set(self.gone.get() || gone);
                    break;
                }
            }
        }
        self.reap(frames);
        refused.into()
    }

    /// Before a burst: takes back what was transmitted, and tries again what the kernel did not take last time.
    #[inline]
    fn catch_up(&mut self, frames: &mut FrameCache, drops: &mut DropCounts) {
        self.reap(frames);
        if self.unsent && !self.gone.get() {
            let refused = self.transmit(frames);
            drops.add(DropReason::TxError, refused);
            self.refused_late += refused;
        }
    }
}

impl PortQueue for XdpQueue {
    fn rx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) {
        if !self.knows(frames) {
            return;
        }
        self.catch_up(frames, drops);
        if self.parts.socket.rx.ready(burst.remaining_capacity() as u32) == 0 {
            return;
        }
        while !burst.is_full() {
            match self.receive(frames) {
                None => break,
                Some(Ok(mut packet)) => {
                    if self.suspects != Suspects::Nobody {
                        self.examine(&mut packet);
                    }
                    burst.push(packet);
                }
                Some(Err(reason)) => drops.add(reason, 1),
            }
        }
        self.parts.socket.rx.release();
        self.parts.socket.fill.publish();
    }

    fn tx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) -> Sent {
        let mut sent = Sent::default();
        if burst.is_empty() || !self.knows(frames) {
            return sent;
        }
        self.catch_up(frames, drops);
        if self.gone.get() || self.down {
            drops.add(DropReason::TxPortDown, burst.len() as u64);
            burst.drain(..).for_each(|packet| frames.free(packet));
            return sent;
        }
        for mut packet in burst.drain(..) {
            let bytes = packet.total_len() as u64;
            let result = match self.prepare(&mut packet) {
                Ok(()) => self.enqueue(packet, frames),
                Err(reason) => {
                    frames.free(packet);
                    Err(reason)
                }
            };
            match result {
                Ok(()) => sent = Sent { packets: sent.packets + 1, bytes: sent.bytes + bytes },
                Err(reason) => drops.add(reason, 1),
            }
        }
        self.parts.socket.tx.publish();
        let refused = self.transmit(frames);
        drops.add(DropReason::TxError, refused);
        self.refused_late += refused;
        let corrected = self.refused_late.min(sent.packets);
        sent.packets -= corrected;
        self.refused_late -= corrected;
        sent
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.parts.socket.fd())
    }

    fn arm(&mut self) -> bool {
        // What the kernel did not take would wait for the next call; a device that is down takes nothing, however
        // often it is asked.
        self.parts.socket.rx.is_empty() && (!self.unsent || self.down || self.gone.get())
    }

    fn fault(&self) -> Option<QueueFault> {
        // The kernel unbinds the sockets of a device that goes, and says so once.
        if socket::pending_error(self.parts.socket.fd()) == Some(libc::ENETDOWN) {
            self.gone.set(true);
        }
        if self.gone.get() {
            return Some(QueueFault::DeviceGone);
        }
        self.parts.device.fault()
    }
}

impl Drop for XdpQueue {
    fn drop(&mut self) {
        // SAFETY: the field is not used after this.
        let parts = unsafe { ManuallyDrop::take(&mut self.parts) };
        // Without the closing thread the parts come back in the error, and go here.
        let _ = self.closer.send(parts);
    }
}

impl std::fmt::Debug for XdpQueue {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "XdpQueue({}, {} in flight)", self.parts.device.name(), self.in_flight)
    }
}

/// The frame that a UMEM address lies in.
#[inline]
fn frame_of(address: u64) -> u32 {
    u32::try_from(address / FRAME_SIZE as u64).unwrap_or(u32::MAX)
}

/// Where a frame starts in the UMEM.
#[inline]
fn address_of(frame: u32) -> u64 {
    u64::from(frame) * FRAME_SIZE as u64
}

/// Whether the frame has a VLAN tag, which the MTU doesn't count.
#[inline]
fn is_tagged(frame: &[u8]) -> bool {
    ethernet::Header::split(frame).is_ok_and(|(header, _)| header.ethertype().is_tag())
}

/// Appends a part to a packet; frees both when one is missing or there are too many.
fn join(
    mut head: Packet,
    part: Result<Packet, DropReason>,
    frames: &mut FrameCache,
) -> Result<Packet, DropReason> {
    let reason = match part.map(|part| head.push_continuation(part)) {
        Ok(Ok(())) => return Ok(head),
        Ok(Err(part)) => {
            frames.free(part);
            DropReason::RxTooBig
        }
        Err(reason) => reason,
    };
    frames.free(head);
    Err(reason)
}
