//! Connections that helpers expect: few, short-lived, and no cost to packets that are none of them.
//!
//! They are found by zone, addresses, protocol and ports. Beside that each is in the *brood* of its parent, a chain from the newest
//! to the oldest, so that a parent's end, or one too many of it, costs what that parent has and no more.
//!
//! Expectations are of 65,536 *classes*, by a keyed hash of the zone and of where their first packet goes to. Whoever sees by
//! a class's count that it has none takes no lock. And a generation moves when one is put in, of which each of 4,096 is shared
//! by sixteen classes: links of packets that found nothing go on holding in all others. Else one client's announcements would cost
//! everybody.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use crate::expect::{Expected, Unexpected};
use crate::hash;
use crate::tuple::Tuple;

/// Seconds for which a connection is expected.
const PATIENCE: u32 = 300;
/// So many are expected of one connection at most: whoever says more than he does takes nobody else's place.
pub(crate) const OF_ONE: u32 = 16;
/// How many classes there are.
const CLASSES: usize = 1 << 16;
/// How many generations: as many as a link tells apart.
pub(crate) const GENERATIONS: usize = 1 << 12;

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
    /// The one that the same parent expected before.
    older: Option<Key>,
}

/// The zone, what is shown of the tuple, and whether its source is.
type Key = (u16, Tuple, bool);

/// A parent: its zone, and the tuple that began it.
type Parent = (u16, Tuple);

/// What one parent expects.
#[derive(Clone, Copy, Debug)]
struct Brood {
    newest: Key,
    len: u32,
}

/// A class's number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Class(pub u16);

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
        Expectation { expected: *expected, zone, mark, label, original, until, older: None }
    }

    fn key(&self) -> Key {
        let Expected { tuple, any_source, .. } = self.expected;
        let src = if any_source { 0 } else { tuple.src };
        (self.zone, Tuple { src, ..tuple }, any_source)
    }

    fn parent(&self) -> Parent {
        (self.zone, self.original)
    }
}

/// All that is expected.
#[derive(Debug)]
pub(crate) struct Expectations {
    book: RwLock<Book>,
    max: usize,
    count: AtomicU32,
    /// By class: how many there are.
    counts: Box<[AtomicU32]>,
    /// Moves when something becomes expected: what was not found before may be related now.
    generations: Box<[AtomicU32]>,
    key: hash::Key,
    /// The second of the last sweep.
    swept: AtomicU32,
}

/// What the lock is about. All of a brood is in the map, and all of the map in broods.
#[derive(Debug)]
struct Book {
    map: HashMap<Key, Expectation>,
    broods: HashMap<Parent, Brood>,
}

impl Expectations {
    pub fn new(max: u32, key: hash::Key) -> Expectations {
        let capacity = max as usize;
        let book = Book { map: HashMap::with_capacity(capacity), broods: HashMap::with_capacity(capacity) };
        Expectations {
            book: RwLock::new(book),
            max: capacity,
            count: AtomicU32::new(0),
            counts: (0..CLASSES).map(|_| AtomicU32::new(0)).collect(),
            generations: (0..GENERATIONS).map(|_| AtomicU32::new(0)).collect(),
            key,
            swept: AtomicU32::new(0),
        }
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// The class of what goes where this tuple does: any source may be expected.
    #[inline]
    pub fn class(&self, zone: u16, tuple: &Tuple) -> Class {
        let destination = Tuple { src: 0, src_port: 0, ..*tuple };
        Class(self.key.hash(&destination, zone) as u16)
    }

    fn in_class(&self, Class(class): Class) -> &AtomicU32 {
        // There is one for each number.
        &self.counts[usize::from(class)]
    }

    fn generation_of(&self, Class(class): Class) -> &AtomicU32 {
        // The mask keeps it in range.
        &self.generations[usize::from(class) & (GENERATIONS - 1)]
    }

    /// A number that moves whenever something of the class becomes expected.
    #[inline]
    pub fn generation(&self, class: Class) -> u32 {
        self.generation_of(class).load(Ordering::Acquire)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Book> {
        self.book.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an expectation in.
    pub fn insert(&self, expectation: Expectation, second: u32) -> Result<(), Unexpected> {
        let (key, parent) = (expectation.key(), expectation.parent());
        let mut book = self.write();
        if let Some(other) = book.map.get(&key).copied() {
            if second < other.until {
                return Err(Unexpected::Known);
            }
            self.prune(&mut book, &other.parent(), |known, _| *known == key);
        }
        if book.broods.get(&parent).is_some_and(|brood| brood.len >= OF_ONE) {
            let mut left = OF_ONE;
            self.prune(&mut book, &parent, |_, _| {
                left = left.saturating_sub(1);
                left == 0
            });
        }
        if book.map.len() >= self.max && self.swept.swap(second, Ordering::Relaxed) != second {
            self.sweep(&mut book, second);
        }
        if book.map.len() >= self.max {
            return Err(Unexpected::Full);
        }
        let brood = book.broods.get(&parent).copied();
        let older = brood.map(|brood| brood.newest);
        book.map.insert(key, Expectation { older, ..expectation });
        book.broods.insert(parent, Brood { newest: key, len: brood.map_or(0, |brood| brood.len) + 1 });
        self.count.store(book.map.len() as u32, Ordering::Relaxed);
        let class = self.class(expectation.zone, &expectation.expected.tuple);
        self.in_class(class).fetch_add(1, Ordering::Relaxed);
        // Two, as a bucket's epoch moves: their sum is even at rest. Who sees it move sees the counts.
        self.generation_of(class).fetch_add(2, Ordering::Release);
        Ok(())
    }

    /// The expectation that a packet meets.
    pub fn find(&self, zone: u16, tuple: &Tuple, second: u32) -> Option<Expectation> {
        if self.count() == 0 || self.in_class(self.class(zone, tuple)).load(Ordering::Relaxed) == 0 {
            return None;
        }
        let book = self.book.read().unwrap_or_else(PoisonError::into_inner);
        let keys = [(tuple.src_port, false), (0, false), (tuple.src_port, true), (0, true)];
        keys.into_iter().find_map(|(src_port, any)| {
            let src = if any { 0 } else { tuple.src };
            let found = book.map.get(&(zone, Tuple { src, src_port, ..*tuple }, any));
            found.filter(|found| second < found.until).copied()
        })
    }

    /// Takes it out, for the one connection that it stands for. Whether it was still there.
    pub fn take(&self, expectation: &Expectation) -> bool {
        let key = expectation.key();
        let mut book = self.write();
        let parent = book.map.get(&key).map(Expectation::parent);
        parent.inspect(|parent| self.prune(&mut book, parent, |known, _| *known == key)).is_some()
    }

    /// Takes out what has not come in time; once a second is enough.
    pub fn expire(&self, second: u32) {
        if self.count() > 0 && self.swept.swap(second, Ordering::Relaxed) != second {
            self.sweep(&mut self.write(), second);
        }
    }

    fn sweep(&self, book: &mut Book, second: u32) {
        let Book { map, broods } = book;
        broods.retain(|_, brood| self.thin(map, brood, |_, other| second >= other.until));
        self.count.store(map.len() as u32, Ordering::Relaxed);
    }

    /// Takes out what a parent expected that has ended.
    pub fn orphan(&self, zone: u16, original: &Tuple) {
        if self.count() > 0 {
            self.prune(&mut self.write(), &(zone, *original), |_, _| true);
        }
    }

    /// Takes out those of a parent that `go`, from the newest to the oldest.
    fn prune(&self, book: &mut Book, parent: &Parent, go: impl FnMut(&Key, &Expectation) -> bool) {
        let Book { map, broods } = book;
        let stays = broods.get_mut(parent).is_none_or(|brood| self.thin(map, brood, go));
        if !stays {
            broods.remove(parent);
        }
        self.count.store(map.len() as u32, Ordering::Relaxed);
    }

    /// The same of a brood; whether any is left.
    fn thin(
        &self,
        map: &mut HashMap<Key, Expectation>,
        brood: &mut Brood,
        mut go: impl FnMut(&Key, &Expectation) -> bool,
    ) -> bool {
        let (mut next, mut kept) = (Some(brood.newest), None);
        brood.len = 0;
        while let Some(key) = next {
            let Some(expectation) = map.get(&key).copied() else { break };
            next = expectation.older;
            if go(&key, &expectation) {
                map.remove(&key);
                let class = self.class(expectation.zone, &expectation.expected.tuple);
                self.in_class(class).fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            match kept.and_then(|kept| map.get_mut(&kept)) {
                Some(newer) => newer.older = Some(key),
                None => brood.newest = key,
            }
            kept = Some(key);
            brood.len += 1;
        }
        if let Some(oldest) = kept.and_then(|kept| map.get_mut(&kept)) {
            oldest.older = None;
        }
        brood.len > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Link;
    use crate::tuple::Family;

    const PARENT: Tuple =
        Tuple { src: 1, dst: 2, src_port: 1000, dst_port: 21, protocol: 6, family: Family::V4 };

    fn all(max: u32) -> Expectations {
        Expectations::new(max, hash::Key::new([1, 2]))
    }

    fn of(parent: Tuple, dst_port: u16) -> Expectation {
        let tuple = Tuple { src_port: 0, dst_port, ..parent.reversed() };
        let expected = Expected { parent: Link::NEVER, tuple, any_source: false, translation: None };
        Expectation::new(&expected, 5, (0, 0), parent, 0)
    }

    /// What is in the book is there once, in its parent's brood, and counted in its class.
    fn check(expectations: &Expectations) {
        let book = expectations.book.read().unwrap();
        let mut seen = 0;
        for (parent, brood) in &book.broods {
            let mut next = Some(brood.newest);
            let mut len = 0;
            while let Some(key) = next {
                let expectation = &book.map[&key];
                assert_eq!((expectation.key(), expectation.parent()), (key, *parent));
                (next, len) = (expectation.older, len + 1);
            }
            assert!(len == brood.len && (1..=OF_ONE).contains(&len));
            seen += len;
        }
        assert_eq!((book.map.len() as u32, expectations.count()), (seen, seen));
        let counted: u32 = expectations.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        assert_eq!(counted, seen);
    }

    #[test]
    fn one_connection_expects_a_few_the_latest_and_leaves_room_for_others() {
        let expectations = all(64);
        for port in 1..=1000 {
            assert_eq!(expectations.insert(of(PARENT, port), 0), Ok(()));
        }
        assert_eq!(expectations.count(), OF_ONE);
        let is_there =
            |port| expectations.find(5, &Tuple { dst_port: port, ..PARENT.reversed() }, 0).is_some();
        assert!((985..=1000).all(is_there) && !(1..985).any(is_there));
        let other = Tuple { src: 3, ..PARENT };
        assert_eq!(expectations.insert(of(other, 1), 0), Ok(()));
        assert_eq!(expectations.count(), OF_ONE + 1);
        check(&expectations);
    }

    #[test]
    fn broods_are_whole_whatever_is_put_in_taken_out_orphaned_and_forgotten() {
        let expectations = all(100);
        let mut number = 1u32;
        for _ in 0..20_000 {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let parent = Tuple { src: u128::from(number >> 8 & 7), ..PARENT };
            let expectation = of(parent, 1 + (number >> 12 & 31) as u16);
            let second = number >> 20 & 1;
            match number >> 28 {
                0 => expectations.orphan(5, &parent),
                1..=3 => {
                    let there = expectations.find(5, &expectation.expected.tuple, 0).is_some();
                    assert_eq!(expectations.take(&expectation), there);
                }
                4 => expectations.expire(PATIENCE + second),
                5..=8 => {
                    let _ = expectations.insert(Expectation { until: 1, ..expectation }, second);
                }
                _ => {
                    let _ = expectations.insert(expectation, second);
                }
            }
            check(&expectations);
        }
    }
}
