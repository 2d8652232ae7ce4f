//! Connections that helpers expect: few, short-lived, and no cost while there are none.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use crate::expect::{Expected, Unexpected};
use crate::tuple::Tuple;

/// Seconds for which a connection is expected.
const PATIENCE: u32 = 300;
/// So many are expected of one connection at most: whoever says more than he does takes nobody else's place.
pub(crate) const OF_ONE: usize = 16;

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
    /// When it was taken in, in the count of [`Expectations::generation`].
    born: u32,
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
        Expectation { expected: *expected, zone, mark, label, original, until, born: 0 }
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
        if map.len() >= OF_ONE {
            self.make_room(&mut map, &expectation, second);
        }
        if map.len() >= self.max {
            map.retain(|_, other| second < other.until);
        }
        if map.len() >= self.max {
            return Err(Unexpected::Full);
        }
        let born = self.generation.load(Ordering::Relaxed);
        map.insert(expectation.key(), Expectation { born, ..expectation });
        self.count.store(map.len() as u32, Ordering::Relaxed);
        // Two, as a bucket's epoch moves: their sum is even at rest.
        self.generation.fetch_add(2, Ordering::Release);
        Ok(())
    }

    /// Takes out the oldest of the same parent if it has as many as one may have.
    fn make_room(&self, map: &mut HashMap<Key, Expectation>, new: &Expectation, second: u32) {
        let now = self.generation.load(Ordering::Relaxed);
        let of_parent = |other: &&Expectation| {
            (other.zone, other.original) == (new.zone, new.original) && second < other.until
        };
        if map.values().filter(of_parent).count() >= OF_ONE {
            let oldest = map.values().filter(of_parent).max_by_key(|other| now.wrapping_sub(other.born));
            if let Some(key) = oldest.map(Expectation::key) {
                map.remove(&key);
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Link;
    use crate::tuple::Family;

    const PARENT: Tuple =
        Tuple { src: 1, dst: 2, src_port: 1000, dst_port: 21, protocol: 6, family: Family::V4 };

    fn of(parent: Tuple, dst_port: u16) -> Expectation {
        let tuple = Tuple { src_port: 0, dst_port, ..parent.reversed() };
        let expected = Expected { parent: Link::NEVER, tuple, any_source: false, translation: None };
        Expectation::new(&expected, 5, (0, 0), parent, 0)
    }

    #[test]
    fn one_connection_expects_a_few_the_latest_and_leaves_room_for_others() {
        let expectations = Expectations::new(64);
        for port in 1..=1000 {
            assert_eq!(expectations.insert(of(PARENT, port), 0), Ok(()));
        }
        assert_eq!(expectations.count(), OF_ONE as u32);
        let is_there =
            |port| expectations.find(5, &Tuple { dst_port: port, ..PARENT.reversed() }, 0).is_some();
        assert!((985..=1000).all(is_there) && !(1..985).any(is_there));
        let other = Tuple { src: 3, ..PARENT };
        assert_eq!(expectations.insert(of(other, 1), 0), Ok(()));
        assert_eq!(expectations.count(), OF_ONE as u32 + 1);
    }
}
