//! Connections that helpers expect: few, short-lived, and no cost while there are none.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use crate::expect::{Expected, Unexpected};
use crate::tuple::Tuple;

/// Seconds for which a connection is expected.
const PATIENCE: u32 = 300;

/// An expectation, with what it has from its parent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expectation {
    pub expected: Expected,
    pub zone: u16,
    pub mark: u32,
    pub label: u128,
    /// The tuple that began the parent.
    pub original: Tuple,
    pub until: u32,
}

/// The zone, what is shown of the tuple, and whether its source is.
type Key = (u16, Tuple, bool);

impl Expectation {
    /// An expectation of a parent that is this, from this second on.
    pub fn new(
        expected: &Expected,
        zone: u16,
        (mark, label): (u32, u128),
        original: Tuple,
        second: u32,
    ) -> Self {
        let until = second.saturating_add(PATIENCE);
        Expectation { expected: *expected, zone, mark, label, original, until }
    }

    fn key(&self) -> Key {
        let Expected { tuple, any_source, .. } = self.expected;
        let src = if any_source { 0 } else { tuple.src };
        (self.zone, Tuple { src, ..tuple }, any_source)
    }
}

/// All that is expected.
#[derive(Debug)]
pub(crate) struct Expectations {
    map: RwLock<HashMap<Key, Expectation>>,
    max: usize,
    count: AtomicU32,
    /// Moves when something becomes expected: what was not found before may be related now.
    generation: AtomicU32,
    /// The second of the last sweep.
    swept: AtomicU32,
}

impl Expectations {
    pub fn new(max: u32) -> Expectations {
        let (count, generation, swept) = Default::default();
        let map = RwLock::new(HashMap::with_capacity(max as usize));
        Expectations { map, max: max as usize, count, generation, swept }
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// A number that moves whenever something becomes expected.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Key, Expectation>> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an expectation in.
    pub fn insert(&self, expectation: Expectation, second: u32) -> Result<(), Unexpected> {
        let mut map = self.write();
        if map.get(&expectation.key()).is_some_and(|other| second < other.until) {
            return Err(Unexpected::Known);
        }
        if map.len() >= self.max {
            map.retain(|_, other| second < other.until);
        }
        if map.len() >= self.max {
            return Err(Unexpected::Full);
        }
        map.insert(expectation.key(), expectation);
        self.count.store(map.len() as u32, Ordering::Relaxed);
        // Two, as a bucket's epoch moves: their sum is even at rest.
        self.generation.fetch_add(2, Ordering::Release);
        Ok(())
    }

    /// The expectation that a packet meets.
    pub fn find(&self, zone: u16, tuple: &Tuple, second: u32) -> Option<Expectation> {
        if self.count() == 0 {
            return None;
        }
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let keys = [(tuple.src_port, false), (0, false), (tuple.src_port, true), (0, true)];
        keys.into_iter().find_map(|(src_port, any)| {
            let src = if any { 0 } else { tuple.src };
            map.get(&(zone, Tuple { src, src_port, ..*tuple }, any))
                .filter(|found| second < found.until)
                .copied()
        })
    }

    /// Takes it out, for the one connection that it stands for. Whether it was still there.
    pub fn take(&self, expectation: &Expectation) -> bool {
        self.remove(|map| map.remove(&expectation.key()).is_some())
    }

    /// Takes out what has not come in time; once a second is enough.
    pub fn expire(&self, second: u32) {
        if self.count() > 0 && self.swept.swap(second, Ordering::Relaxed) != second {
            self.remove(|map| map.retain(|_, other| second < other.until));
        }
    }

    /// Takes out what a parent expected that has ended.
    pub fn orphan(&self, zone: u16, original: &Tuple) {
        if self.count() > 0 {
            self.remove(|map| map.retain(|_, other| other.zone != zone || other.original != *original));
        }
    }

    fn remove<T>(&self, what: impl FnOnce(&mut HashMap<Key, Expectation>) -> T) -> T {
        let mut map = self.write();
        let result = what(&mut map);
        self.count.store(map.len() as u32, Ordering::Relaxed);
        result
    }
}
