//! Packets on their way to the controllers: a bounded queue that workers fill and the control plane drains.
//!
//! What comes faster than [`RATE`], or finds the queue full, is not copied, only counted: who sends packets can't make the
//! switch work for the controllers without end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use weft_io::Packet;

use crate::tables::Admission;
use crate::verdict::PacketIn;

/// Packets that wait at most.
pub const CAPACITY: usize = 512;
/// Packets a second, in the long run; a burst may have as many at once.
pub const RATE: u64 = 1000;

/// A packet for the controllers.
#[derive(Debug)]
pub struct Message {
    /// Why, from where, for whom.
    pub about: Arc<PacketIn>,
    /// Its first octets.
    pub data: Vec<u8>,
    /// How many it had in all.
    pub total_len: usize,
}

/// See the module's text.
#[derive(Debug)]
pub struct PacketIns {
    queue: ArrayQueue<Message>,
    /// When the bucket of tokens was empty, in nanoseconds since the process's start, at [`RATE`].
    empty_at: AtomicU64,
    queued: AtomicU64,
    lost: AtomicU64,
}

impl Default for PacketIns {
    fn default() -> Self {
        PacketIns {
            queue: ArrayQueue::new(CAPACITY),
            empty_at: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }
}

impl PacketIns {
    /// Puts a copy into the queue, if it is not too much.
    pub fn offer(&self, about: &Arc<PacketIn>, packet: &Packet, now: Duration) {
        let metered = about.meter.as_ref().map(|meter| meter.admit(packet.total_len() as u64, now));
        if metered == Some(Admission::Drop) || !self.take_token(now) || self.queue.is_full() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let kept = packet.data().len().min(usize::from(about.controller.max_len));
        let data = packet.data().get(..kept).unwrap_or_default().to_vec();
        let message = Message { about: Arc::clone(about), data, total_len: packet.total_len() };
        let counter = if self.queue.push(message).is_ok() { &self.queued } else { &self.lost };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The next one.
    pub fn take(&self) -> Option<Message> {
        self.queue.pop()
    }

    /// How many were queued, and how many were too much, so far.
    pub fn stats(&self) -> (u64, u64) {
        (self.queued.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }

    fn take_token(&self, now: Duration) -> bool {
        const COST: u64 = 1_000_000_000 / RATE;
        let now = now.as_nanos() as u64;
        let take = |empty_at: u64| {
            // A full bucket holds a second's tokens.
            let empty_at = empty_at.max(now.saturating_sub(1_000_000_000)) + COST;
            (empty_at <= now + COST).then_some(empty_at)
        };
        self.empty_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}
