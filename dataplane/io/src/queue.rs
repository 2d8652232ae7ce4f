//! The trait that every port backend has.
//!
//! A port is one or more queues; a queue (receive side and transmit side together) belongs to one worker, which alone
//! calls it. Opening a port (names, namespaces, privileges, errors) is each backend's own business, on the control
//! thread; what comes out of it is a `Box<dyn PortQueue>` per queue, which is handed to a worker, and dropped when the
//! port goes. Dropping a queue gives every frame that it holds back to the pool.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use weft_wire::DropCounts;

use crate::packet::Packet;
use crate::pool::FrameCache;

/// Packets that a burst holds at most.
pub const BURST: usize = 64;

/// Packets that are handled together.
pub type Burst = ArrayVec<Packet, BURST>;

/// Puts a packet behind a burst's last one, or gives it back if there is no room. It is copied once: `ArrayVec::push` keeps it on the
/// stack, too, for the case that there is none.
#[inline(always)]
pub fn load(burst: &mut Burst, packet: impl Into<Packet>) -> Result<(), Packet> {
    if burst.is_full() {
        return Err(packet.into());
    }
    // SAFETY: the burst isn't full.
    unsafe { burst.push_unchecked(packet.into()) };
    Ok(())
}

/// Empties a burst packet by packet, where they lie: who takes none of a packet but its length moves none of it.
#[inline(always)]
pub fn unload(burst: &mut Burst) -> impl ExactSizeIterator<Item = Unloaded<'_>> {
    let packets = burst.len();
    // SAFETY: no packet is left behind the new length, which is 0, that has not been initialised.
    unsafe { burst.set_len(0) };
    let first = burst.as_mut_ptr();
    // SAFETY: the first `packets` elements are initialised (they were the burst's until now) and ManuallyDrop has a packet's
    // layout; the burst, which calls them its own no longer, is borrowed as long as the slice lives.
    let packets = unsafe { std::slice::from_raw_parts_mut(first.cast::<ManuallyDrop<Packet>>(), packets) };
    packets.iter_mut().map(Unloaded)
}

/// A packet that is in a burst's memory and no longer in the burst. Not taken, it is lost as a dropped one is.
#[must_use = "a packet that is not taken loses its frames"]
#[derive(Debug)]
pub struct Unloaded<'a>(&'a mut ManuallyDrop<Packet>);

impl Unloaded<'_> {
    /// The packet itself.
    #[inline(always)]
    pub fn take(self) -> Packet {
        let mut slot = ManuallyDrop::new(self);
        // SAFETY: `unload` has made one of these for each packet, and this one ends here: nobody takes the packet again.
        unsafe { ManuallyDrop::take(slot.0) }
    }
}

#[cfg(debug_assertions)]
impl Drop for Unloaded<'_> {
    fn drop(&mut self) {
        // SAFETY: `take` forgets what it has taken from, so the packet is still there. Dropped, it is counted as lost.
        unsafe { ManuallyDrop::drop(self.0) };
    }
}

impl Deref for Unloaded<'_> {
    type Target = Packet;

    #[inline(always)]
    fn deref(&self) -> &Packet {
        self.0
    }
}

impl From<Unloaded<'_>> for Packet {
    #[inline(always)]
    fn from(packet: Unloaded<'_>) -> Packet {
        packet.take()
    }
}

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
