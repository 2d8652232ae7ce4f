//! Groups: several lists of actions, of which a packet takes one or all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weft_flow::message::{Bucket, GroupKind, Selection};

use super::reads::Reads;

/// What a group is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GroupSpec {
    /// Its number.
    pub id: u32,
    /// Its kind.
    pub kind: GroupKind,
    /// How it chooses.
    pub selection: Selection,
    /// Its buckets, in order.
    pub buckets: Box<[Bucket]>,
}

/// A group and what it has counted. A modification makes a new one in its place, which counts from 0, as Open vSwitch's
/// does.
#[derive(Debug)]
pub struct Group {
    spec: GroupSpec,
    created: Duration,
    pub(super) reads: Reads,
    counts: Counts,
    buckets: Box<[Counts]>,
}

#[derive(Debug, Default)]
struct Counts {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    fn count(&self, packets: u64, bytes: u64) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn get(&self) -> (u64, u64) {
        (self.packets.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

impl Group {
    pub(super) fn new(spec: GroupSpec, created: Duration) -> Group {
        let buckets = spec.buckets.iter();
        Group {
            created,
            reads: Reads::of_group(
                spec.kind,
                &spec.selection,
                buckets.clone().map(|bucket| &*bucket.actions),
            ),
            counts: Counts::default(),
            buckets: buckets.map(|_| Counts::default()).collect(),
            spec,
        }
    }

    /// What it is.
    pub fn spec(&self) -> &GroupSpec {
        &self.spec
    }

    /// When it was added, since the process's start; a modification keeps it.
    pub fn created(&self) -> Duration {
        self.created
    }

    /// Adds packets and octets that took this group; any thread may.
    pub fn count(&self, packets: u64, bytes: u64) {
        self.counts.count(packets, bytes);
    }

    /// Adds packets and octets that took the bucket in this place, from 0.
    pub fn count_bucket(&self, at: usize, packets: u64, bytes: u64) {
        if let Some(bucket) = self.buckets.get(at) {
            bucket.count(packets, bytes);
        }
    }

    /// Packets and octets that took this group.
    pub fn stats(&self) -> (u64, u64) {
        self.counts.get()
    }

    /// Packets and octets that took the bucket in this place.
    pub fn bucket_stats(&self, at: usize) -> (u64, u64) {
        self.buckets.get(at).map_or((0, 0), Counts::get)
    }
}
