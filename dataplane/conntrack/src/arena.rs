//! The slots of connections: mapped at once, touched as they are used, and which of them are free.
//!
//! A slot that becomes free goes to the end of one of a few queues, and is used again only when that queue has grown to
//! [`REST`]: a worker that still holds a link to it, and looks at the wrong moment, finds it at rest. For the same reason
//! there are some more slots than connections.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use weft_io::mem::HugeTable;

use crate::entry::Entry;

const RELAXED: Ordering = Ordering::Relaxed;
/// Queues of free slots.
const QUEUES: usize = 16;
/// How many slots rest in a queue.
const REST: u32 = 128;

/// All slots. Number 0 isn't used. The remainder of a hint is a queue's number.
#[derive(Debug)]
pub(crate) struct Arena {
    entries: HugeTable<Entry>,
    queues: Box<[Queue]>,
    /// The first slot that was never used.
    fresh: AtomicU32,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Queue {
    /// As `Free::len`, for who wants to know without the lock whether it is worth while.
    len: AtomicU32,
    free: Mutex<Free>,
}

/// Free slots in the order in which they became so, chained by [`Entry::next`].
#[derive(Debug, Default)]
struct Free {
    first: u32,
    last: u32,
    len: u32,
}

impl Arena {
    /// Slots for `max` connections.
    pub fn new(max: u32) -> io::Result<Arena> {
        let slots = max as usize + max as usize / 128 + 2 * QUEUES * REST as usize;
        let queues = (0..QUEUES).map(|_| Queue::default()).collect();
        Ok(Arena { entries: HugeTable::new(slots)?, queues, fresh: AtomicU32::new(1) })
    }

    /// Octets mapped.
    pub fn octets(&self) -> usize {
        self.entries.len() * size_of::<Entry>()
    }

    /// A slot's entry.
    #[inline(always)]
    pub fn get(&self, slot: usize) -> Option<&Entry> {
        self.entries.get(slot)
    }

    /// Slots that were ever used are below this one.
    pub fn end(&self) -> usize {
        (self.fresh.load(Ordering::Acquire) as usize).min(self.entries.len())
    }

    /// A free slot; `hint` chooses the queue.
    pub fn take(&self, hint: usize) -> Option<usize> {
        if let Some(slot) = self.pop(hint, REST) {
            return Some(slot);
        }
        if (self.fresh.load(RELAXED) as usize) < self.entries.len() {
            let slot = self.fresh.fetch_add(1, Ordering::AcqRel) as usize;
            if slot < self.entries.len() {
                self.prefetch(slot + 1);
                return Some(slot);
            }
        }
        (0..QUEUES).find_map(|more| self.pop(hint + more, 0))
    }

    /// Gives a slot back.
    pub fn give(&self, slot: usize, hint: usize) {
        let mut free = self.queue(hint);
        let Some(entry) = self.get(slot) else { return };
        entry.next.store(0, RELAXED);
        match self.get(free.last as usize).filter(|_| free.len > 0) {
            Some(last) => last.next.store(slot as u32, RELAXED),
            None => free.first = slot as u32,
        }
        free.last = slot as u32;
        free.len += 1;
        self.queues[hint % QUEUES].len.store(free.len, RELAXED);
    }

    fn pop(&self, hint: usize, rest: u32) -> Option<usize> {
        if self.queues[hint % QUEUES].len.load(RELAXED) <= rest {
            return None;
        }
        let mut free = self.queue(hint);
        if free.len <= rest {
            return None;
        }
        let slot = free.first as usize;
        let next = self.get(slot)?.next.load(RELAXED);
        free.first = next;
        free.len -= 1;
        self.queues[hint % QUEUES].len.store(free.len, RELAXED);
        drop(free);
        self.prefetch(next as usize);
        Some(slot)
    }

    /// Fetches a slot that will be filled next.
    fn prefetch(&self, slot: usize) {
        if let Some(entry) = self.get(slot) {
            entry.prefetch();
        }
    }

    fn queue(&self, hint: usize) -> MutexGuard<'_, Free> {
        self.queues[hint % QUEUES].free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_slot_is_given_once_and_rests_before_it_is_given_again() {
        let arena = Arena::new(100).unwrap();
        let mut taken: HashSet<usize> = std::iter::from_fn(|| arena.take(3)).collect();
        assert_eq!(taken.len(), arena.entries.len() - 1, "all but number 0");
        for slot in 1..=200 {
            assert!(taken.remove(&slot));
            arena.give(slot, 3);
        }
        for slot in 1..=72 {
            assert_eq!(arena.take(3), Some(slot), "the oldest first");
        }
        assert_eq!(arena.take(3), Some(73), "without fresh ones, those at rest");
    }
}
