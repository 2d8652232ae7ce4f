//! Where a tuple's connection is: buckets of eight slots with 16-bit tags, and locks for who writes.
//!
//! Both directions of an untranslated connection have one hash, so one bucket, so one lock: whoever puts it in under
//! that lock, having looked there first, puts in the only one. A translated connection is in two buckets, whose locks
//! are taken in order.
//!
//! A bucket's epoch is a sequence lock for readers, and what a cached decision that found nothing depends on. Bucket
//! and overflow buckets of a chain change only under the lock of its first bucket. An overflow bucket that has become
//! empty is given back: a reader that is in it meanwhile finds that the first bucket's epoch has moved.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytemuck::Zeroable;
use weft_io::mem::{HugeTable, equal_lanes, prefetch};

const RELAXED: Ordering = Ordering::Relaxed;
/// Slots of a bucket.
const WAYS: usize = 8;
/// Writers' locks.
const SHARDS: usize = 1024;
/// A longer chain isn't followed: it can't come to be by chance.
const CHAIN: usize = 64;

#[derive(Debug, Zeroable)]
#[repr(C, align(64))]
struct Bucket {
    epoch: AtomicU32,
    /// The next bucket of the chain; 0 is none.
    more: AtomicU32,
    /// Four tags each; 0 is free.
    tags: [AtomicU64; 2],
    slots: [AtomicU32; WAYS],
    _spare: [u32; 2],
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// A lock on its own cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(Mutex<()>);

/// The place of a tuple: its first bucket, and its tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// The first bucket of its chain.
    pub bucket: usize,
    tag: u16,
}

/// The index. See the module's text.
#[derive(Debug)]
pub(crate) struct Index {
    buckets: HugeTable<Bucket>,
    /// Buckets that chains begin with, a power of two; the others are for overflow.
    heads: usize,
    shards: Box<[Shard]>,
    spare: Mutex<Spare>,
}

/// Overflow buckets that nobody uses.
#[derive(Debug)]
struct Spare {
    /// Given back, chained by `more`.
    back: u32,
    /// The first that was never used.
    fresh: usize,
}

/// Locks of one or two buckets.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    _first: MutexGuard<'a, ()>,
    _second: Option<MutexGuard<'a, ()>>,
}

/// There is no overflow bucket left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoRoom;

impl Index {
    /// An index for so many places, with room for twice as many.
    pub fn new(places: usize) -> io::Result<Index> {
        let heads = (places.div_ceil(WAYS / 2)).next_power_of_two().max(SHARDS);
        let overflow = heads / 8 + 64;
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        let spare = Mutex::new(Spare { back: 0, fresh: heads });
        Ok(Index { buckets: HugeTable::new(heads + overflow)?, heads, shards, spare })
    }

    /// Octets mapped.
    pub fn octets(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>()
    }

    /// Where a hash belongs.
    #[inline]
    pub fn place(&self, hash: u64) -> Place {
        Place { bucket: (hash >> 16) as usize & (self.heads - 1), tag: (hash as u16).max(1) }
    }

    /// Fetches the bucket.
    #[inline]
    pub fn prefetch(&self, bucket: usize) {
        if let Some(bucket) = self.buckets.get(bucket) {
            prefetch(bucket);
        }
    }

    /// The bucket's epoch; odd while a writer is at it.
    #[inline]
    pub fn epoch(&self, bucket: usize) -> u32 {
        self.buckets.get(bucket).map_or(1, |bucket| bucket.epoch.load(Ordering::Acquire))
    }

    /// Whether the bucket's epoch is still this one, after all that was read of it.
    #[inline]
    pub fn still(&self, bucket: usize, epoch: u32) -> bool {
        fence(Ordering::Acquire);
        self.buckets.get(bucket).is_some_and(|bucket| bucket.epoch.load(RELAXED) == epoch)
    }

    /// The first slot with the place's tag for which `wanted` gives something.
    #[inline]
    pub fn scan<T>(&self, place: Place, mut wanted: impl FnMut(usize) -> Option<T>) -> Option<T> {
        let mut at = place.bucket;
        for _ in 0..CHAIN {
            let bucket = self.buckets.get(at)?;
            let mut lanes = equal_lanes(&bucket.lanes(), place.tag);
            while lanes != 0 {
                let lane = lanes.trailing_zeros() as usize;
                lanes &= lanes - 1;
                let found = bucket.slots.get(lane).and_then(|slot| wanted(slot.load(RELAXED) as usize));
                if found.is_some() {
                    return found;
                }
            }
            at = bucket.more.load(RELAXED) as usize;
            if at == 0 {
                return None;
            }
        }
        None
    }

    /// Locks the buckets of one or two places.
    pub fn lock(&self, a: usize, b: usize) -> Held<'_> {
        let (a, b) = (a & (SHARDS - 1), b & (SHARDS - 1));
        let _first = self.shard(a.min(b));
        Held { _first, _second: (a != b).then(|| self.shard(a.max(b))) }
    }

    fn shard(&self, number: usize) -> MutexGuard<'_, ()> {
        // The mask keeps it in range; of a lock without content none is poisoned to any harm.
        self.shards[number & (SHARDS - 1)].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a slot in. The caller holds the bucket's lock.
    pub fn insert(&self, place: Place, slot: usize) -> Result<(), NoRoom> {
        let head = self.buckets.get(place.bucket).ok_or(NoRoom)?;
        let (mut last, mut free, mut length) = (head, None, 1);
        loop {
            let lanes = equal_lanes(&last.lanes(), 0);
            if lanes != 0 {
                free = Some(lanes.trailing_zeros() as usize);
                break;
            }
            match last.more.load(RELAXED) as usize {
                0 if length < CHAIN => break,
                more if length < CHAIN => last = self.buckets.get(more).ok_or(NoRoom)?,
                // What is behind it would be found by nobody, and stay for ever.
                _ => return Err(NoRoom),
            }
            length += 1;
        }
        let added = if free.is_none() { Some(self.take_spare().ok_or(NoRoom)?) } else { None };
        let epoch = head.open();
        if let Some(at) = added {
            last.more.store(at as u32, RELAXED);
            last = self.buckets.get(at).unwrap_or(last);
        }
        last.set(free.unwrap_or(0), place.tag, slot as u32);
        head.close(epoch);
        Ok(())
    }

    /// Takes a slot out. The caller holds the bucket's lock.
    pub fn remove(&self, place: Place, slot: usize) {
        let Some(head) = self.buckets.get(place.bucket) else { return };
        let (mut before, mut at) = (head, place.bucket);
        for _ in 0..CHAIN {
            let Some(bucket) = self.buckets.get(at) else { return };
            if let Some(lane) = bucket.lane_of(place.tag, slot as u32) {
                let epoch = head.open();
                bucket.set(lane, 0, 0);
                if at != place.bucket && bucket.is_empty() {
                    before.more.store(bucket.more.load(RELAXED), RELAXED);
                    self.give_back(at, bucket);
                }
                head.close(epoch);
                return;
            }
            before = bucket;
            at = bucket.more.load(RELAXED) as usize;
            if at == 0 {
                return;
            }
        }
    }

    fn take_spare(&self) -> Option<usize> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.back != 0 {
            let at = spare.back as usize;
            let bucket = self.buckets.get(at)?;
            spare.back = bucket.more.swap(0, RELAXED);
            return Some(at);
        }
        let at = spare.fresh;
        (at < self.buckets.len()).then(|| {
            spare.fresh += 1;
            at
        })
    }

    fn give_back(&self, at: usize, bucket: &Bucket) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.more.store(spare.back, RELAXED);
        spare.back = at as u32;
    }
}

impl Bucket {
    #[inline]
    fn lanes(&self) -> [u16; WAYS] {
        let [low, high] = &self.tags;
        bytemuck::cast([low.load(RELAXED), high.load(RELAXED)])
    }

    fn is_empty(&self) -> bool {
        self.tags.iter().all(|tags| tags.load(RELAXED) == 0)
    }

    fn lane_of(&self, tag: u16, slot: u32) -> Option<usize> {
        let mut lanes = equal_lanes(&self.lanes(), tag);
        while lanes != 0 {
            let lane = lanes.trailing_zeros() as usize;
            lanes &= lanes - 1;
            if self.slots.get(lane).is_some_and(|other| other.load(RELAXED) == slot) {
                return Some(lane);
            }
        }
        None
    }

    fn set(&self, lane: usize, tag: u16, slot: u32) {
        let mut lanes = self.lanes();
        if let (Some(place), Some(cell)) = (lanes.get_mut(lane), self.slots.get(lane)) {
            *place = tag;
            cell.store(slot, RELAXED);
            let [first, second]: [u64; 2] = bytemuck::cast(lanes);
            let [low, high] = &self.tags;
            low.store(first, RELAXED);
            high.store(second, RELAXED);
        }
    }

    fn open(&self) -> u32 {
        let epoch = self.epoch.load(RELAXED);
        self.epoch.store(epoch.wrapping_add(1), RELAXED);
        fence(Ordering::Release);
        epoch
    }

    fn close(&self, epoch: u32) {
        self.epoch.store(epoch.wrapping_add(2), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_slots_of_one_bucket_are_found_and_their_overflow_is_given_back() {
        let index = Index::new(100).unwrap();
        let place = |tag: u64| index.place(7 << 16 | tag);
        for round in 0..3 {
            for slot in 1..=50 {
                index.insert(place(slot as u64), slot).unwrap();
            }
            for slot in 1..=50 {
                let same = |found| (found == slot).then_some(found);
                assert_eq!(index.scan(place(slot as u64), same), Some(slot), "round {round}");
            }
            (1..=50).rev().for_each(|slot| index.remove(place(slot as u64), slot));
            assert_eq!(index.scan(place(5), Some), None);
        }
        let used = index.spare.lock().unwrap().fresh - index.heads;
        assert!(used <= 6, "{used} overflow buckets for 42 slots");
    }
    #[test]
    fn a_chain_ends_where_it_is_no_longer_followed() {
        // 640 overflow buckets: more than a chain may have.
        let index = Index::new(1 << 14).unwrap();
        let place = |tag: u64| index.place(7 << 16 | tag);
        for round in 0..2 {
            let most = CHAIN * WAYS;
            for slot in 1..=most + 20 {
                assert_eq!(index.insert(place(slot as u64), slot).is_ok(), slot <= most, "{slot}");
            }
            for slot in 1..=most {
                let same = |found| (found == slot).then_some(found);
                assert_eq!(index.scan(place(slot as u64), same), Some(slot), "round {round}");
            }
            (1..=most).for_each(|slot| index.remove(place(slot as u64), slot));
            assert!((1..=most as u64 + 20).all(|tag| index.scan(place(tag), Some).is_none()));
            assert!(index.buckets[place(1).bucket].is_empty(), "round {round}");
        }
        let used = index.spare.lock().unwrap().fresh - index.heads;
        assert_eq!(used, CHAIN - 1);
    }
}
