//! How large a table is: it has as many buckets as its flows need, so that those of a host with few lie close together.
//! Spread over a table for half a million, some thousand flows would each have a line of tags and a page of their own.
//!
//! By linear hashing (Litwin, VLDB 1980): a table that is three eighths full is split, pair by pair of neighbours, a few pairs after
//! a burst; one that is a sixteenth full is put together again the same way by sweeps. Nothing ever stops for it. In a table of
//! `b` buckets with `2^n <= b < 2^(n+1)` those below `b - 2^n`, and those from `2^n` on, have been split by one more bit of the hash.
//!
//! A pair of buckets that is full before the table is (by chance one in many thousands, else because somebody aims at it) doubles the
//! table, too: who aims makes it as large as it can be, where he meets one pair of thousands. While he does, it stays so.

use super::{Cache, Flow, KeyHash, WAYS};

/// Buckets that a table starts with and never goes below, if it may have as many. With fewer nothing is gained, and sweeps would be round
/// them so soon that a rule change ends flows which only pause.
pub(super) const FEWEST: usize = 8 << 10;
/// Pairs of buckets that are split after one burst, in which 64 flows come at most: some ten microseconds' work.
const SPLITS: usize = 32;

impl<const W: usize, const L: usize> Cache<W, L> {
    /// Splits some buckets, if there are more flows than are at their ease. To be called between bursts: flows change places.
    #[inline(always)]
    pub fn make_room(&mut self) {
        if self.used > self.roomy {
            self.split_some();
        }
    }

    /// For as long as it stands still, flows stay where they are.
    pub fn stand_still(&mut self, still: bool) {
        self.still = still;
        self.set_roomy();
    }

    /// A flow has found its pair of buckets full.
    pub(super) fn set_crowded(&mut self) {
        self.crowded = self.buckets < self.tags.len();
        self.set_roomy();
    }

    /// How many flows are at their ease: as many as fill three eighths of the buckets, if none had been split.
    pub(super) fn set_roomy(&mut self) {
        self.roomy = if self.still || self.buckets == self.tags.len() {
            usize::MAX
        } else if self.crowded {
            0
        } else {
            (1 << self.buckets.ilog2()) * WAYS * 3 / 8
        };
    }

    #[cold]
    #[inline(never)]
    fn split_some(&mut self) {
        for _ in 0..SPLITS {
            if self.used <= self.roomy {
                break;
            }
            self.split();
        }
    }

    /// Splits the next pair of buckets, by one more bit of the hash.
    fn split(&mut self) {
        let new = self.buckets;
        if new > self.bucket_mask {
            self.bucket_mask = 2 * new - 1;
        }
        let bit = self.bucket_mask.div_ceil(2);
        for (from, to) in [(new - bit, new), (new - bit + 1, new + 1)] {
            for way in 0..WAYS {
                let is_there = self.tags[from][way] != 0;
                if is_there && KeyHash::of(&self.flows[from * WAYS + way].key).0 as usize & bit != 0 {
                    self.shift((from, way), (to, way));
                }
            }
        }
        self.buckets += 2;
        self.crowded &= !self.buckets.is_power_of_two();
        self.set_roomy();
    }

    /// Whether so few flows are there that half as many buckets would do.
    pub(super) fn is_sparse(&self) -> bool {
        !self.still && !self.crowded && self.buckets > self.fewest && self.used < self.buckets * WAYS / 16
    }

    /// The two buckets that [`Cache::merge`] would do away with.
    pub(super) fn last_pair(&self) -> [usize; 2] {
        [self.buckets - 2, self.buckets - 1]
    }

    /// Puts the flows of the last two buckets back to where these were split off; whether there was room. Somebody who keeps it full
    /// keeps the table large.
    pub(super) fn merge(&mut self) -> bool {
        let bit = 1 << (self.buckets - 1).ilog2();
        let pairs = self.last_pair().map(|from| (from, from - bit));
        let used = |bucket: usize| self.tags[bucket].iter().filter(|&&tag| tag != 0).count();
        if pairs.iter().map(|&(from, to)| used(from) + used(to)).sum::<usize>() > 2 * WAYS {
            return false;
        }
        for (from, to) in pairs {
            for way in 0..WAYS {
                if self.tags[from][way] == 0 {
                    continue;
                }
                let free = [to, to ^ 1].into_iter().find_map(|bucket| {
                    let way = self.tags[bucket].iter().position(|&tag| tag == 0)?;
                    Some((bucket, way))
                });
                debug_assert!(free.is_some(), "there are as many free places as flows");
                if let Some(free) = free {
                    self.shift((from, way), free);
                }
            }
        }
        self.buckets -= 2;
        if self.buckets == bit {
            self.bucket_mask = bit - 1;
        }
        self.set_roomy();
        true
    }

    /// Moves a flow to a free place.
    fn shift(&mut self, (from, way): (usize, usize), (to, free): (usize, usize)) {
        let (place, new) = (from * WAYS + way, to * WAYS + free);
        self.tags[to][free] = std::mem::take(&mut self.tags[from][way]);
        self.owners[to][free] = self.owners[from][way];
        self.compared[new] = self.compared[place];
        let flow: Flow<W, L> = self.flows[place];
        self.flows[new] = flow;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::key::PortId;
    use proptest::prelude::*;

    const CAPACITY: usize = 64 << 10;
    const LEAST: usize = 128;

    fn small(capacity: usize) -> Cache<3, 0> {
        Cache::with(capacity, LEAST).unwrap()
    }

    /// The key of a flow. Those of numbers from [`AIMED`] on lead to the first two buckets of a table of the least size.
    fn key(number: u64) -> [u64; 3] {
        let key = |salt: u64| [number, number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt, 0];
        let fits = |key: &[u64; 3]| number < AIMED || KeyHash::of(key).0 as usize % LEAST < 2;
        (0..).map(key).find(fits).unwrap()
    }

    const AIMED: u64 = 1 << 20;

    /// Puts a flow in, whose numbers are all its own, and returns the program of the one that it has pushed out.
    fn put(cache: &mut Cache<3, 0>, number: u64) -> Option<u32> {
        let key = key(number);
        let inserted = cache.insert((KeyHash::of(&key), &key), (PortId((number % 5) as u16), 0));
        cache.flow(inserted.place).unwrap().program = number as u32;
        *cache.compared(inserted.place).unwrap() = number as u32;
        inserted.victim
    }

    fn find(cache: &mut Cache<3, 0>, number: u64) -> Option<(u32, u32)> {
        let place = cache.find(KeyHash::of(&key(number)), &key(number))?;
        let hash = KeyHash::of(&key(number));
        assert!(cache.candidate(cache.prefetch(hash), hash).is_some(), "its tag is found, too");
        Some((cache.flow(place)?.program, *cache.compared(place)?))
    }

    #[test]
    fn a_table_grows_with_its_flows_and_gets_small_again() {
        let mut cache = small(CAPACITY);
        let (mut pushed_out, mut fullest) = (0, 0.0f64);
        for burst in 0..400 {
            pushed_out += (0..64).filter(|one| put(&mut cache, burst * 64 + one).is_some()).count();
            cache.make_room();
            fullest = fullest.max(cache.len() as f64 / (cache.buckets() * WAYS) as f64);
        }
        assert!(pushed_out < 30 && fullest < 0.5, "{pushed_out} of 25,600, {fullest}");
        assert_eq!(cache.buckets(), CAPACITY / WAYS, "at three eighths of its capacity it has all of it");
        let there = (0..25_600).filter(|&number| find(&mut cache, number).is_some()).count();
        assert_eq!((there, cache.iter().count()), (cache.len(), cache.len()));
        // Most of them go; the table follows little by little.
        for now in 1..256 {
            cache.sweep(32, now, |flow, _| flow.program < 50);
        }
        assert!(
            cache.len() <= 50 + 32 * WAYS && cache.buckets() > CAPACITY / WAYS / 2,
            "{}",
            cache.buckets()
        );
        (256..600).for_each(|now| cache.sweep(32, now, |flow, _| flow.program < 50));
        assert_eq!(cache.buckets(), LEAST);
        assert!((0..50).filter(|&number| find(&mut cache, number).is_some()).count() >= 48);
    }

    #[test]
    fn a_table_that_stands_still_stays_as_large_as_it_is() {
        let mut cache = small(CAPACITY);
        cache.stand_still(true);
        for number in 0..600 {
            put(&mut cache, number);
            cache.make_room();
        }
        assert_eq!(cache.buckets(), LEAST);
        cache.stand_still(false);
        cache.make_room();
        assert!(cache.buckets() > LEAST);
        let before = cache.buckets();
        cache.stand_still(true);
        cache.sweep(before, 1, |_, _| false);
        assert_eq!((cache.buckets(), cache.len()), (before, 0));
    }

    #[test]
    fn a_full_pair_of_buckets_doubles_the_table() {
        let mut cache = small(CAPACITY);
        let aim = |cache: &mut Cache<3, 0>, numbers: std::ops::Range<u64>| {
            let pushed_out = numbers.filter(|number| put(cache, AIMED + number).is_some()).count();
            (0..8).for_each(|_| cache.make_room());
            (pushed_out, cache.buckets())
        };
        assert_eq!(aim(&mut cache, 0..16), (0, LEAST), "the pair is full, and nobody has missed a place");
        assert_eq!(aim(&mut cache, 16..17), (1, 2 * LEAST));
        // Some went on to the new pair.
        let (pushed_out, buckets) = aim(&mut cache, 17..20);
        assert!(pushed_out == 0 && buckets == 2 * LEAST);
        assert_eq!((0..20).filter(|number| find(&mut cache, AIMED + number).is_some()).count(), 19);
        (0..100).for_each(|now| cache.sweep(32, now, |_, _| false));
        assert_eq!((cache.buckets(), cache.len()), (LEAST, 0));
        // As large as it can be, it gets small again all the same.
        (20..2000).for_each(|number| {
            aim(&mut cache, number..number + 1);
        });
        assert_eq!(cache.buckets(), CAPACITY / WAYS);
        (0..600).for_each(|now| cache.sweep(32, now, |_, _| false));
        assert_eq!((cache.buckets(), cache.len()), (LEAST, 0));
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// So many flows come, from this number on.
        Come(u64, u64),
        /// A sweep goes on, and takes those out that leave this remainder.
        Sweep(usize, u32),
        /// A sweep goes on and finds nothing to take out.
        Look(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..20_000u64, 1..600u64).prop_map(|(from, count)| Step::Come(from, count)),
            (AIMED..AIMED + 100, 1..40u64).prop_map(|(from, count)| Step::Come(from, count)),
            (1..2000usize, 0..3u32).prop_map(|(buckets, remainder)| Step::Sweep(buckets, remainder)),
            (1..400usize).prop_map(Step::Look),
        ]
    }

    proptest! {
        /// Flows come and go while the table gets larger and smaller: each is found as long as nothing has taken it out, with
        /// what was kept beside it, and a round of sweeps shows them all.
        #[test]
        fn no_flow_is_lost_and_none_escapes_a_sweep(steps in proptest::collection::vec(step(), 1..80)) {
            let mut cache = small(8 << 10);
            // By number, the sweep that saw it last, or the one before it came.
            let mut there: HashMap<u64, u64> = HashMap::new();
            let mut now = 0;
            for step in steps {
                now += 1;
                match step {
                    Step::Come(from, count) => for number in from..from + count {
                        if find(&mut cache, number).is_none() {
                            if let Some(victim) = put(&mut cache, number) {
                                prop_assert!(there.remove(&victim.into()).is_some());
                            }
                            there.insert(number, now);
                        }
                        if number % 64 == 0 {
                            cache.make_room();
                        }
                    }
                    Step::Sweep(buckets, remainder) => cache.sweep(buckets, now, |flow, compared| {
                        assert_eq!(flow.program, *compared);
                        let goes = flow.program % 3 == remainder;
                        match goes {
                            true => assert!(there.remove(&flow.program.into()).is_some()),
                            false => assert!(there.insert(flow.program.into(), now).is_some()),
                        }
                        !goes
                    }),
                    Step::Look(buckets) => cache.sweep(buckets, now, |flow, _| {
                        there.insert(flow.program.into(), now).is_some()
                    }),
                }
                prop_assert_eq!(cache.len(), there.len());
                prop_assert!(there.values().all(|&seen| seen >= cache.swept_since()));
                for &number in there.keys() {
                    prop_assert_eq!(find(&mut cache, number), Some((number as u32, number as u32)));
                }
                for port in 0..5u64 {
                    let held = there.keys().filter(|&number| number % 5 == port).count();
                    prop_assert_eq!(cache.held(PortId(port as u16)), held as u32);
                }
            }
        }
    }
}
