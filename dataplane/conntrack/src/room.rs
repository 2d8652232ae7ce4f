//! Room in a full table: a connection that nobody has answered makes way for a new one.
//!
//! Whoever begins connections that nobody answers would else have the whole table, and nobody could begin another until
//! their time is over. The kernel does the same (`early_drop` in net/netfilter/nf_conntrack_core.c). Here it is fair
//! between zones: one of the zone that has most of them goes, and of no zone that has fewer than the newcomer's. Who was
//! answered stays: UDP and ICMP from the first reply on, TCP from its third segment on until both ends have closed or one
//! has reset it.
//!
//! How: a hand goes round all slots, as a clock's. The first that may go is the one that it has left alone for longest, so
//! a new connection has a whole round to be answered in. Where the hand finds nobody it jumps, so that a few who may go
//! are found wherever they are. What is looked at for one newcomer is bounded, and there is nothing to allocate.
//!
//! Threads: any worker, which holds no lock meanwhile. It looks without one; who goes is taken out as a sweep takes him out
//! ([`Connections::remove`]), under his own lock, if he is still the same and still nobody has answered. The hand is a hint:
//! two workers may move it at once.
//!
//! Slots need no such care: there are 4,096 more than connections ([`crate::arena`]), so who is counted finds one.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::connections::Connections;
use crate::entry::Entry;
use crate::tally::Count;
use crate::tuple::Tuple;

const RELAXED: Ordering = Ordering::Relaxed;
/// From so many places connections are looked at; from fewer where that was in vain for those before.
const PLACES: usize = 4;
/// So often another worker may have been quicker: then there are some who may go.
const RACES: usize = 16;
/// So many connections are looked at from one place on, or so many slots where most are free.
const CONNECTIONS: usize = 32;
const SLOTS: usize = 512;

/// Where the hand is.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    hand: AtomicUsize,
    /// The zone that had most unanswered connections of those that were looked at.
    largest: AtomicU32,
    /// How many newcomers were refused since somebody made room, 2 at most.
    barren: AtomicU32,
}

impl Clock {
    /// From how many places to look: where all were answered, who begins more costs less.
    fn places(&self) -> usize {
        PLACES >> self.barren.load(RELAXED).min(2)
    }

    fn note(&self, made: bool) {
        let barren = self.barren.load(RELAXED);
        let now = if made { 0 } else { (barren + 1).min(2) };
        if now != barren {
            self.barren.store(now, RELAXED);
        }
    }
}

/// Who wants to begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Newcomer<'a> {
    pub zone: u16,
    /// Whether it is counted already.
    pub counted: bool,
    pub second: u32,
    /// The tuple that began the connection that expects this one: it doesn't go for what it expects.
    pub parent: Option<&'a Tuple>,
}

/// Who may go.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    slot: usize,
    epoch: u32,
    zone: u16,
    /// How many unanswered connections that zone has, with the newcomer.
    weight: u32,
    why: Count,
}

/// What was seen from one place on.
struct Look {
    /// Who should go.
    choice: Option<Candidate>,
    /// Where to go on.
    next: usize,
}

impl Connections {
    /// Ends a connection that may go for the newcomer; false if none was found.
    #[cold]
    pub(crate) fn make_room(&self, newcomer: &Newcomer<'_>) -> bool {
        let mut place = self.clock.hand.load(RELAXED);
        let (mut places, mut races) = (self.clock.places(), RACES);
        while places > 0 && races > 0 {
            let Look { choice, next } = self.look_from(place, newcomer);
            place = next;
            self.clock.hand.store(next, RELAXED);
            match choice {
                Some(candidate) if self.put_out(&candidate, newcomer) => {
                    self.clock.note(true);
                    return true;
                }
                Some(_) => races -= 1,
                None => places -= 1,
            }
        }
        self.clock.note(false);
        false
    }

    /// The slot of the connection that would go.
    #[cold]
    pub(crate) fn could_make_room(&self, newcomer: &Newcomer<'_>) -> Option<usize> {
        let mut place = self.clock.hand.load(RELAXED);
        (0..self.clock.places()).find_map(|_| {
            let Look { choice, next } = self.look_from(place, newcomer);
            place = next;
            choice.map(|candidate| candidate.slot)
        })
    }

    /// Ends it, unless it has been answered, or is another by now.
    fn put_out(&self, candidate: &Candidate, newcomer: &Newcomer<'_>) -> bool {
        let zone = u32::from(candidate.zone);
        if candidate.why == Count::EarlyDrop && self.clock.largest.load(RELAXED) != zone {
            self.clock.largest.store(zone, RELAXED);
        }
        let may_go = |entry: &Entry| newcomer.second >= entry.expiry() || !entry.is_answered();
        self.remove(candidate.slot, candidate.epoch, candidate.why, may_go)
    }

    fn look_from(&self, place: usize, newcomer: &Newcomer<'_>) -> Look {
        let end = self.arena.end();
        let start = if place < end { place } else { 0 };
        let largest = self.clock.largest.load(RELAXED);
        let own = self.zones.unanswered(newcomer.zone).saturating_sub(u32::from(newcomer.counted));
        let (mut left, mut first, mut choice) = (CONNECTIONS, None, None::<Candidate>);
        for slot in (start..end).chain(0..start).take(SLOTS) {
            let Some(entry) = self.arena.get(slot).filter(|entry| entry.linked()) else { continue };
            if let Some(found) = self.candidate((slot, entry), newcomer, own) {
                first = first.or(Some(slot));
                let goes_at_once = found.why == Count::Expired || u32::from(found.zone) == largest;
                if goes_at_once || choice.is_none_or(|choice| found.weight > choice.weight) {
                    choice = Some(found);
                }
                if goes_at_once {
                    break;
                }
            }
            left -= 1;
            if left == 0 {
                break;
            }
        }
        let next = match (first, &choice) {
            (Some(first), Some(choice)) if first == choice.slot => first + 1,
            // It may be the next to go.
            (Some(first), _) => first,
            (None, _) => jump(start, end),
        };
        Look { choice, next }
    }

    /// The slot's connection if it may go for the newcomer, whose zone has `own` that nobody has answered.
    fn candidate(
        &self,
        (slot, entry): (usize, &Entry),
        newcomer: &Newcomer<'_>,
        own: u32,
    ) -> Option<Candidate> {
        let epoch = entry.epoch.load(Ordering::Acquire);
        // What is read of an entry that changes meanwhile is nobody's: its epoch will be another.
        let zone = entry.zone();
        let candidate = |weight, why| Candidate { slot, epoch, zone, weight, why };
        let is_own = zone == newcomer.zone;
        let began = |parent: &Tuple| entry.read().is_some_and(|(image, _)| image.original == *parent);
        if epoch & 1 != 0 || is_own && newcomer.parent.is_some_and(began) {
            return None;
        }
        if newcomer.second >= entry.expiry() {
            return Some(candidate(0, Count::Expired));
        }
        if entry.is_answered() {
            return None;
        }
        let weight = if is_own { own.saturating_add(1) } else { self.zones.unanswered(zone) };
        (is_own || weight > own).then(|| candidate(weight, Count::EarlyDrop))
    }
}

/// From a place where nobody may go, to another: by the golden ratio of the whole, so that places don't gather.
fn jump(place: usize, end: usize) -> usize {
    let far = ((end as u64 * 0x9e37_79b9) >> 32) as usize | 1;
    let next = place + far;
    if next < end { next } else { next - end.min(next) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Filter, Settings};
    use crate::request::{Commit, Facts, Request};
    use crate::tuple::Family;

    #[test]
    fn what_each_zone_has_unanswered_is_counted_right_while_two_workers_begin_answer_and_flush() {
        const MAX: u32 = 50;
        let tracker = Connections::new(Settings { max: MAX, secret: [5, 6], expectations: 2 }).unwrap();
        let work = |mut number: u32| {
            for _ in 0..100_000 {
                number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let (src_port, zone) = (1 + (number >> 8 & 0x3f) as u16, (number >> 16 & 1) as u16);
                let tuple =
                    Tuple { src: 1, dst: 2, src_port, dst_port: 100, protocol: 17, family: Family::V4 };
                let tuple = if number >> 20 & 3 == 0 { tuple.reversed() } else { tuple };
                let facts = Facts { tuple, valid: true, ..Facts::default() };
                let (before, commit, translate) = (None, Some(&Commit::default()), false);
                let effects = number >> 24 & 7 != 0;
                tracker.track(&Request {
                    zone,
                    facts: &facts,
                    before,
                    commit,
                    translate,
                    second: 1,
                    effects,
                });
                if number >> 24 == 0 {
                    tracker.flush(&Filter { zone: Some(zone), ..Filter::default() }, 1);
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| work(1));
            work(2);
        });
        for zone in 0..2 {
            let (mut all, mut unanswered) = (0, 0);
            tracker.list(&Filter { zone: Some(zone), ..Filter::default() }, 1, &mut |connection| {
                all += 1;
                unanswered += u32::from(!connection.progress.is_answered());
            });
            assert_eq!((tracker.zones.count(zone), tracker.zones.unanswered(zone)), (all, unanswered));
        }
        tracker.flush(&Filter::default(), 1);
        assert!((0..2).all(|zone| tracker.zones.count(zone) + tracker.zones.unanswered(zone) == 0));
        let statistics = tracker.statistics();
        assert!(statistics.early_drop > 1000 && statistics.flushed > 1000, "{statistics:?}");
    }

    #[test]
    fn jumps_come_near_every_place_before_long() {
        for end in [1, 2, 7, 100, 5096, 4_035_346, 1 << 20] {
            let mut places: Vec<usize> =
                std::iter::successors(Some(0), |&place| Some(jump(place, end))).take(1000).collect();
            assert!(places.iter().all(|&place| place < end));
            places.sort_unstable();
            let gap = places.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
            assert!(gap <= end / 300 + 1, "{gap} of {end}");
        }
    }
}
