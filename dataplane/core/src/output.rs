//! Where packets wait for the end of the burst: one batch per port, transmitted at once, by the worker that owns the
//! port's queue. What another worker owns goes to his inbox.

use std::sync::atomic::{AtomicU16, Ordering};

use crossbeam::queue::ArrayQueue;
use weft_io::{Burst, FrameCache, Packet};
use weft_wire::DropReason;

use crate::counters::Counters;
use crate::key::PortId;

/// Packets that wait in a worker's inbox at most.
pub const INBOX: usize = 4096;

/// Packets for ports of one worker, from the others.
pub type Inbox = ArrayQueue<(PortId, Packet)>;

/// Which worker transmits for each port: 0 is nobody, `n` is worker `n - 1`. Written by the control thread.
#[derive(Debug)]
pub struct Owners(Box<[AtomicU16]>);

impl Default for Owners {
    fn default() -> Self {
        Owners((0..PortId::COUNT).map(|_| AtomicU16::new(0)).collect())
    }
}

impl Owners {
    /// Sets or clears a port's owner.
    pub fn set(&self, port: PortId, worker: Option<usize>) {
        if let Some(owner) = self.0.get(port.index()) {
            owner.store(worker.map_or(0, |worker| worker as u16 + 1), Ordering::Release);
        }
    }

    /// A port's owner.
    #[inline]
    pub fn get(&self, port: PortId) -> Option<usize> {
        let owner = self.0.get(port.index())?.load(Ordering::Acquire);
        (owner > 0).then(|| usize::from(owner) - 1)
    }
}

/// The batches of one worker.
#[derive(Debug)]
pub struct Outputs {
    batches: Vec<Option<Box<Burst>>>,
    /// Ports whose batch isn't empty.
    waiting: Vec<PortId>,
}

impl Outputs {
    /// No port.
    pub fn new() -> Self {
        let mut batches = Vec::new();
        batches.resize_with(PortId::COUNT, || None);
        Outputs { batches, waiting: Vec::with_capacity(PortId::COUNT) }
    }

    /// Makes room for a port's batch: called when a port comes, so that no packet has to.
    pub fn prepare(&mut self, port: PortId) {
        if let Some(slot) = self.batches.get_mut(port.index()) {
            slot.get_or_insert_with(Box::default);
        }
    }

    /// A port's batch, which is about to get a packet, and is flushed when it is full. `None` if there is no such port.
    #[inline(always)]
    pub fn begin(&mut self, port: PortId) -> Option<&mut Burst> {
        let batch = self.batches.get_mut(port.index())?.as_deref_mut()?;
        if batch.is_empty() {
            self.waiting.push(port);
        }
        Some(batch)
    }

    /// A port that has something to send.
    #[inline]
    pub fn next_waiting(&mut self) -> Option<PortId> {
        self.waiting.pop()
    }

    /// A port's batch.
    #[inline]
    pub fn batch(&mut self, port: PortId) -> Option<&mut Burst> {
        self.batches.get_mut(port.index())?.as_deref_mut()
    }
}

impl Default for Outputs {
    fn default() -> Self {
        Self::new()
    }
}

/// Hands a batch over to the worker that owns the port; what his inbox has no room for is dropped.
pub fn hand_over(
    batch: &mut Burst,
    port: PortId,
    inbox: &Inbox,
    frames: &mut FrameCache,
    counters: &Counters,
) {
    for packet in batch.drain(..) {
        if let Err((_, packet)) = inbox.push((port, packet)) {
            counters.port(port).drop(DropReason::HandoverFull);
            frames.free(packet);
        }
    }
}
