//! Counters that one worker writes and anybody reads.
//!
//! A counter has one writer, so that adding to it is a plain load and store; readers see a recent value, and sum over
//! the workers. For the ports with a queue of their own, and over all workers, at rest:
//!
//! ```text
//! rx + copies = tx + drops + held
//! ```
//!
//! where `copies` are the packets that floods made beyond the one that came in, and `held` those that wait for a
//! neighbour. A tunnel port's `rx` and `tx` count what passed through it *as well*; its drops count in the sum.

use std::sync::atomic::{AtomicU64, Ordering};

use bytemuck::Zeroable;
use weft_io::mem::HugeTable;
use weft_wire::{DropCounts, DropReason};

use crate::key::PortId;

/// A number that one thread adds to.
#[derive(Debug, Default, Zeroable)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the counter's one writer may.
    #[inline(always)]
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// Sets; only the counter's one writer may.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One port's counters, of one worker.
#[derive(Debug, Zeroable)]
#[repr(C, align(64))]
pub struct PortCounters {
    /// Packets received.
    pub rx_packets: Counter,
    /// Octets received, from the Ethernet header on.
    pub rx_bytes: Counter,
    /// Packets handed to the device.
    pub tx_packets: Counter,
    /// Octets handed to the device.
    pub tx_bytes: Counter,
    /// Nanoseconds that walks have taken while they were limited ([`crate::budget`]).
    pub slow_nanos: Counter,
    /// Flows that are cached.
    pub flows: Counter,
    /// Flows that were not cached, or took the place of another one of the port, because it has as many as it may have.
    pub flows_refused: Counter,
    /// Copies that floods of packets received here have made, beyond the first.
    pub copies: Counter,
    drops: [Counter; DropReason::COUNT],
}

impl PortCounters {
    /// Counts one dropped packet.
    #[inline]
    pub fn drop(&self, reason: DropReason) {
        self.drops[reason as usize].add(1);
    }

    /// Takes over the drops that a queue has counted.
    #[inline]
    pub fn take_drops(&self, drops: &mut DropCounts) {
        if drops.total() > 0 {
            drops.nonzero().for_each(|(reason, packets)| self.drops[reason as usize].add(packets));
            drops.clear();
        }
    }
}

/// What one worker does with its time.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Rounds over all queues.
    pub rounds: Counter,
    /// Rounds that found packets.
    pub busy_rounds: Counter,
    /// Packets received.
    pub packets: Counter,
    /// Nanoseconds in rounds that found packets.
    pub busy_nanos: Counter,
    /// Nanoseconds asleep.
    pub idle_nanos: Counter,
    /// Packets whose flow was cached.
    pub hits: Counter,
    /// Packets whose flow was not.
    pub misses: Counter,
    /// Of those, packets whose flow was cached and had gone stale.
    pub stale: Counter,
    /// Of those, packets that began a connection as others had before them, without a walk.
    pub begun: Counter,
    /// Packets whose flow a change of rules might have concerned, but did not.
    pub reprieved: Counter,
    /// Packets whose flow was not cached because those of their port are hardly met again.
    pub uncached: Counter,
    /// Flows pushed out of the cache.
    pub evicted: Counter,
    /// Cached flows.
    pub flows: Counter,
    /// Flows there is room for.
    pub capacity: Counter,
    /// Compiled programs.
    pub programs: Counter,
    /// Packets that wait for a neighbour.
    pub held: Counter,
    /// Packets that `sample` actions have taken.
    pub sampled: Counter,
}

/// All counters of one worker.
#[derive(Debug)]
pub struct Counters {
    ports: HugeTable<PortCounters>,
    /// The worker's own.
    pub worker: WorkerCounters,
}

/// One port's counters, summed over workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortTotals {
    /// Packets received.
    pub rx_packets: u64,
    /// Octets received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Octets sent.
    pub tx_bytes: u64,
    /// Flood copies of what was received here.
    pub copies: u64,
    /// Drops by reason.
    pub drops: DropCounts,
}

/// What a port takes of the workers, all together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortUse {
    /// Nanoseconds that walks have taken while they were limited.
    pub slow_nanos: u64,
    /// Flows that are cached.
    pub flows: u64,
    /// How often a flow was not cached, or took the place of another one of the port, because of its limit.
    pub flows_refused: u64,
}

impl Counters {
    /// Zeroed counters for every port there can be.
    pub fn new() -> std::io::Result<Self> {
        Ok(Counters { ports: HugeTable::new(PortId::COUNT)?, worker: WorkerCounters::default() })
    }

    /// One port's counters; those of port 0's neighbour at the end for a number out of range, which can't be.
    #[inline(always)]
    pub fn port(&self, id: PortId) -> &PortCounters {
        &self.ports[id.index() & (PortId::COUNT - 1)]
    }
}

/// Sums one port's counters over all workers.
pub fn port_totals<'a>(workers: impl IntoIterator<Item = &'a Counters>, id: PortId) -> PortTotals {
    let mut totals = PortTotals::default();
    for counters in workers {
        let port = counters.port(id);
        totals.rx_packets += port.rx_packets.get();
        totals.rx_bytes += port.rx_bytes.get();
        totals.tx_packets += port.tx_packets.get();
        totals.tx_bytes += port.tx_bytes.get();
        totals.copies += port.copies.get();
        for (&reason, counter) in DropReason::ALL.iter().zip(&port.drops) {
            totals.drops.add(reason, counter.get());
        }
    }
    totals
}

/// Sums what one port takes over all workers.
pub fn port_use<'a>(workers: impl IntoIterator<Item = &'a Counters>, id: PortId) -> PortUse {
    let ports = workers.into_iter().map(|counters| counters.port(id));
    ports.fold(PortUse::default(), |sum, port| PortUse {
        slow_nanos: sum.slow_nanos + port.slow_nanos.get(),
        flows: sum.flows + port.flows.get(),
        flows_refused: sum.flows_refused + port.flows_refused.get(),
    })
}

impl PortUse {
    /// What was counted since `before`, and what is used now.
    #[must_use]
    pub fn since(&self, before: &PortUse) -> PortUse {
        PortUse {
            slow_nanos: self.slow_nanos.wrapping_sub(before.slow_nanos),
            flows: self.flows,
            flows_refused: self.flows_refused.wrapping_sub(before.flows_refused),
        }
    }
}

impl PortTotals {
    /// What was counted since `before`.
    #[must_use]
    pub fn since(&self, before: &PortTotals) -> PortTotals {
        let mut drops = DropCounts::default();
        for &reason in DropReason::ALL {
            drops.add(reason, self.drops.get(reason).wrapping_sub(before.drops.get(reason)));
        }
        PortTotals {
            rx_packets: self.rx_packets.wrapping_sub(before.rx_packets),
            rx_bytes: self.rx_bytes.wrapping_sub(before.rx_bytes),
            tx_packets: self.tx_packets.wrapping_sub(before.tx_packets),
            tx_bytes: self.tx_bytes.wrapping_sub(before.tx_bytes),
            copies: self.copies.wrapping_sub(before.copies),
            drops,
        }
    }
}
