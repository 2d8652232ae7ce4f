//! The trait that every port backend has.
//!
//! A port is one or more queues; a queue (receive side and transmit side together) belongs to one worker, which alone
//! calls it. Opening a port (names, namespaces, privileges, errors) is each backend's own business, on the control
//! thread; what comes out of it is a `Box<dyn PortQueue>` per queue, which is handed to a worker, and dropped when the
//! port goes. Dropping a queue gives every frame that it holds back to the pool.

use std::fmt;
use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use weft_wire::DropCounts;

use crate::packet::Packet;
use crate::pool::FrameCache;

/// Packets that a burst holds at most.
pub const BURST: usize = 64;

/// Packets that are handled together.
pub type Burst = ArrayVec<Packet, BURST>;

/// What a transmit call has handed to the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Packets.
    pub packets: u64,
    /// Octets of those packets, from the Ethernet header on, without frame check sequence.
    pub bytes: u64,
}

/// Why a queue can't go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueFault {
    /// The device behind the queue is gone; the port has to be opened again.
    #[error("the device is gone")]
    DeviceGone,
    /// The device is there and administratively down; the queue goes on by itself when it is up again.
    #[error("the device is down")]
    DeviceDown,
    /// The kernel reports something else.
    #[error("the kernel says: {0}")]
    Os(String),
}

/// One receive and transmit queue of a port. See the module's text.
///
/// `rx` and `tx` never block and never allocate; a call makes the system calls that its device needs per burst.
pub trait PortQueue: Send + fmt::Debug {
    /// Appends received packets to `burst`, at most as many as it has room for.
    ///
    /// Each packet that was received and can't be delivered (too big, truncated, no free frame) is counted in `drops`.
    fn rx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts);

    /// Transmits all of `burst` and leaves it empty; what the device doesn't take is freed and counted in `drops`.
    ///
    /// The backend finishes what its device can't (checksums) before it hands a packet over.
    fn tx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) -> Sent;

    /// A descriptor that `epoll` reports readable when there is something to receive; `None` for a queue that has to
    /// be polled (then its worker never sleeps long).
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Called before the worker sleeps on [`PortQueue::wait_fd`]: arms the wake-up. `false` when there is work at
    /// once, so that the worker must not sleep.
    fn arm(&mut self) -> bool {
        true
    }

    /// Whether the queue never receives, so that nobody has to look.
    fn is_transmit_only(&self) -> bool {
        false
    }

    /// What is wrong with the queue, if anything. Cheap; called now and then, not per burst.
    fn fault(&self) -> Option<QueueFault> {
        None
    }
}
