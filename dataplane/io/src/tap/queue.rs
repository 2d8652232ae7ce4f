//! One queue of a tap: a packet per `readv`, a packet per `writev`, each with its `virtio_net_hdr`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;
use weft_wire::{DropCounts, DropReason, PortName, ethernet};

use crate::fault::{FaultState, tx_drop_reason};
use crate::offload::{VNET_HEADER, emit_vnet_header, parse_vnet_header};
use crate::packet::Packet;
use crate::pool::{FrameCache, FramePool};
use crate::queue::{Burst, PortQueue, QueueFault, Sent};
use crate::receive::{RX_PIECES, Ready, SPILL, TX_PIECES, constant_piece, piece};
use crate::sys;

/// A queue of a tap. Dropping the last one lets the device go, unless it is persistent.
pub(super) struct TapQueue {
    tap: Arc<OwnedFd>,
    name: PortName,
    ready: Ready,
    spill: Box<[u8]>,
    /// Where the frames of `ready` came from, and go when the queue does.
    pool: Option<Arc<FramePool>>,
    state: FaultState,
}

impl TapQueue {
    pub(super) fn new(tap: Arc<OwnedFd>, name: PortName) -> Self {
        let spill = vec![0; SPILL].into_boxed_slice();
        TapQueue { tap, name, ready: Ready::default(), spill, pool: None, state: FaultState::default() }
    }

    /// One read: the octets after the offload header and that header, or `None` when there is nothing (any more).
    fn read(&mut self, header: &mut [u8; VNET_HEADER]) -> Option<usize> {
        let mut pieces = ArrayVec::<libc::iovec, RX_PIECES>::new();
        pieces.push(piece(header));
        self.ready.pieces(&mut self.spill, &mut pieces);
        // SAFETY: the pieces are the header, frames that `ready` owns, and the spill area; all live, and nobody else
        // uses them, until the call returns.
        let got = unsafe { libc::readv(self.tap.as_raw_fd(), pieces.as_ptr(), pieces.len() as libc::c_int) };
        match usize::try_from(got) {
            Ok(got) => {
                self.state.works();
                Some(got.saturating_sub(VNET_HEADER))
            }
            Err(_) => {
                self.state.failed(sys::errno());
                None
            }
        }
    }

    fn write(&mut self, packet: &Packet) -> Result<(), DropReason> {
        let header = emit_vnet_header(packet);
        let mut pieces = ArrayVec::<libc::iovec, TX_PIECES>::new();
        pieces.push(constant_piece(header.get(..VNET_HEADER).unwrap_or(&header)));
        pieces.extend(packet.segments().map(constant_piece));
        // SAFETY: the pieces are the header and the packet's frames, which live until the call returns; it reads them.
        let sent =
            unsafe { libc::writev(self.tap.as_raw_fd(), pieces.as_ptr(), pieces.len() as libc::c_int) };
        if sent >= 0 {
            self.state.works();
            return Ok(());
        }
        let errno = sys::errno();
        self.state.failed(errno);
        Err(tx_drop_reason(errno))
    }
}

impl PortQueue for TapQueue {
    fn rx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) {
        if self.pool.is_none() {
            self.pool = Some(Arc::clone(frames.pool()));
        }
        while burst.remaining_capacity() > 0 && !self.state.is_gone() {
            self.ready.refill(frames);
            let mut header = [0; VNET_HEADER];
            let Some(len) = self.read(&mut header) else { return };
            match self.ready.take(len, &self.spill, frames) {
                Ok(packet) => accept(packet, &header, frames, burst, drops),
                Err(reason) => drops.add(reason, 1),
            }
        }
    }

    fn tx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) -> Sent {
        let mut sent = Sent::default();
        for packet in burst.drain(..) {
            match self.write(&packet) {
                Ok(()) => {
                    let bytes = sent.bytes + packet.total_len() as u64;
                    sent = Sent { packets: sent.packets + 1, bytes };
                }
                Err(reason) => drops.add(reason, 1),
            }
            frames.free(packet);
        }
        sent
    }

    /// After [`QueueFault::DeviceGone`] it reports an error for ever: the queue is to be dropped then.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.tap.as_fd())
    }

    fn fault(&self) -> Option<QueueFault> {
        let events = sys::poll_now(self.tap.as_fd(), libc::POLLOUT);
        if events & libc::POLLERR != 0 {
            return Some(QueueFault::DeviceGone);
        }
        // A tap that is down is never writable.
        if self.state.is_down() && events & libc::POLLOUT != 0 { None } else { self.state.fault() }
    }
}

/// Delivers a packet that is what it says it is.
fn accept(
    mut packet: Packet,
    header: &[u8; VNET_HEADER],
    frames: &mut FrameCache,
    burst: &mut Burst,
    drops: &mut DropCounts,
) {
    let verdict = if packet.len() < ethernet::LEN {
        Err(DropReason::RxTruncated)
    } else {
        parse_vnet_header(&mut packet, header)
    };
    match verdict {
        Ok(()) => burst.push(packet),
        Err(reason) => {
            drops.add(reason, 1);
            frames.free(packet);
        }
    }
}

impl Drop for TapQueue {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            self.ready.clear(&mut pool.cache());
        }
    }
}

impl std::fmt::Debug for TapQueue {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "TapQueue({})", self.name)
    }
}
