//! The flow cache: one probe from a masked key to a program.
//!
//! What: an exact-match table in one mapping, eight ways to a bucket. A bucket's eight 16-bit tags are compared in one
//! vector instruction; the entry whose tag matches is one cache line (narrow keys), two (middle) or three (wide), and
//! holds all that a hit touches: key, epochs, counters, age, program number. Beside it, for programs with doubts only,
//! is up to which doubt the flow was compared ([`crate::doubt`]).
//!
//! A flow whose bucket is full goes to its *neighbour*, whose tags are in the same cache line: so the table can be filled
//! to nine tenths before flows push each other out.
//!
//! The table is as large as its flows need (`cache/size.rs`).
//!
//! One more place, [`Cache::spare`], is for the flow of a packet that is not to be cached: no key leads there.
//!
//! Bounded: a full bucket with a full neighbour gives up one of its flows: one of a port that has more than twice as many
//! flows as the one whose flow comes, else one of the same port, else one that has been idle for [`IDLE`] seconds, else one of
//! a port that has at least half as many. So whoever makes flows by the thousand, or aims at a bucket, pushes out his own. That
//! is also why the hash needs no secret. Who has how many is counted beside, where no hit looks.
//!
//! Owner: one worker, alone.

mod size;

use bytemuck::Zeroable;
use weft_conntrack::Link;
use weft_io::hash::folded_product;
use weft_io::mem::{HugeTable, equal_lanes, prefetch};

use crate::epoch::Dep;
use crate::key::PortId;
use crate::program::ProgramId;

/// Flows of a bucket.
const WAYS: usize = 8;
/// Seconds without a packet after which a flow makes room for any other.
pub const IDLE: u32 = 10;
/// Connections that a flow can depend on. What goes through more of them isn't cached.
pub const LINKS: usize = 2;

/// A cached flow of a key of `W` words, and of up to `L` connections; the program is meaningful only while the entry's tag
/// is set.
#[derive(Zeroable, Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Flow<const W: usize, const L: usize> {
    /// The masked key.
    pub key: [u64; W],
    /// The connections that its packets belong to, or the places where none was found; the used ones first.
    pub links: [Link; L],
    /// The FDB entries that the program was chosen by.
    pub deps: [Dep; 2],
    /// What to do.
    pub program: ProgramId,
    /// The second of the last packet.
    pub stamp: u32,
    /// Packets so far.
    pub packets: u64,
    /// Octets so far.
    pub bytes: u64,
}

impl<const W: usize, const L: usize> Flow<W, L> {
    /// Whether that is its key. A loop of its own: a call for so few octets would cost more than they do.
    #[inline(always)]
    pub fn is_of(&self, key: &[u64; W]) -> bool {
        self.key.iter().zip(key).fold(0, |differ, (own, other)| differ | (own ^ other)) == 0
    }
}

const _: () = assert!(size_of::<Flow<{ crate::key::NARROW }, 0>>() == 64);
const _: () = assert!(size_of::<Flow<{ crate::key::MIDDLE }, { LINKS }>>() == 128);
const _: () = assert!(size_of::<Flow<{ crate::key::KEY_WORDS }, { LINKS }>>() == 192);

/// The place of a flow in its table.
pub type Place = u32;

/// Flows by masked key. See the module's text.
#[derive(Debug)]
pub struct Cache<const W: usize, const L: usize> {
    tags: HugeTable<[u16; WAYS]>,
    /// The last one is the spare place.
    flows: HugeTable<Flow<W, L>>,
    /// Up to which of its program's doubts each flow was compared.
    compared: HugeTable<u32>,
    /// Buckets that there are now; the others are empty.
    buckets: usize,
    /// There are never fewer.
    fewest: usize,
    /// The lowest power of two that is no less than the number of buckets, minus 1.
    bucket_mask: usize,
    used: usize,
    /// With more flows than this there are too few buckets.
    roomy: usize,
    /// The number of buckets stays as it is.
    still: bool,
    /// A flow has found its buckets full, and the table isn't twice as large yet.
    crowded: bool,
    /// The bucket at which the next sweep starts.
    swept: usize,
    /// When the sweeps' present way round the table began: a number of the caller's.
    round_began: u64,
    /// When the last whole one did.
    swept_since: u64,
    /// How many flows a port may have; the cache's capacity is no limit.
    pub limit: u32,
    /// The port by which each flow came in.
    owners: HugeTable<[u16; WAYS]>,
    /// How many flows each port has.
    held: Vec<u32>,
    /// Which way goes next when a bucket is full.
    turn: usize,
}

/// Where a new flow is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inserted {
    /// Its place; [`Cache::spare`] if it gets none.
    pub place: Place,
    /// The program of the flow that it has pushed out.
    pub victim: Option<ProgramId>,
    /// Whether its port had as many flows as it may have.
    pub refused: bool,
}

/// A key's hash: bucket in the low bits, tag in the high ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyHash(u64);

impl KeyHash {
    #[inline]
    fn tag(self) -> u16 {
        // 0 is a free way.
        (self.0 >> 48) as u16 | 1
    }

    /// Hashes a key's words by folded multiplication, two at a time; no pair waits for another.
    ///
    /// Words that are 0 in most packets (what a tunnel said, the upper halves of IPv6 addresses, labels) share a pair: who
    /// makes them cancel each other out fills a bucket with his own flows.
    #[inline(always)]
    pub fn of<const W: usize>(key: &[u64; W]) -> KeyHash {
        const SECRET: [u64; 2] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db];
        // Two pairs that change places give another hash.
        let pair = |one: u64, other: u64, turn: u32| {
            folded_product(one ^ SECRET[0].rotate_left(turn), other ^ SECRET[1])
        };
        let word = |number: usize| key.get(number).copied().unwrap_or(0);
        let mut hash = pair(word(0), word(1), 0);
        if W > crate::key::NARROW {
            let seldom = word(2) ^ word(4).rotate_left(21) ^ word(6).rotate_left(42);
            hash ^= pair(word(3) ^ seldom, word(5), 11) ^ pair(word(7), word(8), 22);
        } else if word(2) != 0 {
            // Most narrow keys have no tunnel: a 0 costs nothing but this comparison.
            hash = folded_product(word(2) ^ hash, SECRET[1]);
        }
        if W > crate::key::MIDDLE {
            let seldom = word(11) ^ word(14).rotate_left(21) ^ word(15).rotate_left(42);
            hash ^= pair(word(9) ^ seldom, word(10), 33) ^ pair(word(12), word(13), 44);
        }
        KeyHash(hash)
    }
}

impl<const W: usize, const L: usize> Cache<W, L> {
    /// A cache with room for at least `capacity` flows, and as many buckets as those need that are there.
    pub fn new(capacity: usize) -> std::io::Result<Self> {
        Self::with(capacity, size::FEWEST)
    }

    /// A cache for at least `capacity` flows, whose flows never change places.
    pub fn fixed(capacity: usize) -> std::io::Result<Self> {
        Self::with(capacity, usize::MAX)
    }

    fn with(capacity: usize, fewest: usize) -> std::io::Result<Self> {
        let most = capacity.max(WAYS).div_ceil(WAYS).next_power_of_two();
        let (places, buckets) = (most * WAYS + 1, most.min(fewest));
        let mut cache = Cache {
            tags: HugeTable::new(most)?,
            flows: HugeTable::new(places)?,
            compared: HugeTable::new(places)?,
            owners: HugeTable::new(most)?,
            held: vec![0; PortId::COUNT],
            limit: (most * WAYS) as u32,
            bucket_mask: buckets - 1,
            fewest: buckets,
            buckets,
            used: 0,
            roomy: 0,
            still: false,
            crowded: false,
            swept: 0,
            round_began: 0,
            swept_since: 0,
            turn: 0,
        };
        cache.set_roomy();
        Ok(cache)
    }

    /// How many flows there is room for.
    pub fn capacity(&self) -> usize {
        self.flows.len() - 1
    }

    /// How many buckets there are at this moment.
    pub fn buckets(&self) -> usize {
        self.buckets
    }

    /// Every flow that there is has been shown to a sweep since then.
    pub fn swept_since(&self) -> u64 {
        self.swept_since
    }

    /// Where a flow is put that is not to be found again.
    pub fn spare(&self) -> Place {
        self.capacity() as Place
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    #[inline(always)]
    fn bucket(&self, hash: KeyHash) -> usize {
        let bucket = hash.0 as usize & self.bucket_mask;
        if self.buckets > self.bucket_mask {
            return bucket;
        }
        // What isn't split yet goes by one bit less. No branch: nobody could foretell which it is.
        bucket & !(usize::from(bucket >= self.buckets).wrapping_neg() & self.bucket_mask.div_ceil(2))
    }

    /// The bucket that takes what this one has no room for; the other way round, too.
    #[inline(always)]
    fn neighbour(&self, bucket: usize) -> usize {
        (bucket ^ 1) & self.bucket_mask
    }

    /// Brings the tags of the bucket near to which a hash leads, and its neighbour's. Returns the bucket, which is right until
    /// flows change places.
    #[inline(always)]
    pub fn prefetch(&self, hash: KeyHash) -> u32 {
        let bucket = self.bucket(hash);
        if let Some(tags) = self.tags.get(bucket) {
            prefetch(tags);
        }
        bucket as u32
    }

    /// The first flow whose tag fits, to be compared by [`Cache::flow`]'s caller; brings it near. `bucket` is that of the hash.
    #[inline(always)]
    pub fn candidate(&self, bucket: u32, hash: KeyHash) -> Option<Place> {
        let mut bucket = bucket as usize;
        let mut ways = equal_lanes(self.tags.get(bucket)?, hash.tag());
        if ways == 0 {
            bucket = self.neighbour(bucket);
            ways = equal_lanes(self.tags.get(bucket)?, hash.tag());
            if ways == 0 {
                return None;
            }
        }
        let place = bucket * WAYS + ways.trailing_zeros() as usize;
        let flow = self.flows.get(place)?;
        prefetch(flow);
        if W > crate::key::NARROW {
            prefetch(&flow.bytes);
        }
        Some(place as Place)
    }

    /// Brings near up to which doubt the flow was compared.
    #[inline(always)]
    pub fn prefetch_compared(&self, place: Place) {
        if let Some(compared) = self.compared.get(place as usize) {
            prefetch(compared);
        }
    }

    /// Up to which of its program's doubts the flow was compared; to be set when it gets a program.
    #[inline(always)]
    pub fn compared(&mut self, place: Place) -> Option<&mut u32> {
        self.compared.get_mut(place as usize)
    }

    /// The flow at a place.
    #[inline(always)]
    pub fn flow(&mut self, place: Place) -> Option<&mut Flow<W, L>> {
        self.flows.get_mut(place as usize)
    }

    /// The flow at a place, and of all places up to which of their programs' doubts the flows were compared.
    #[inline(always)]
    pub fn flow_and_compared(&mut self, place: Place) -> Option<(&mut Flow<W, L>, &mut [u32])> {
        Some((self.flows.get_mut(place as usize)?, &mut self.compared))
    }

    /// The flow of that key, whatever way it is in.
    pub fn find(&self, hash: KeyHash, key: &[u64; W]) -> Option<Place> {
        let bucket = self.bucket(hash);
        [bucket, self.neighbour(bucket)].into_iter().find_map(|bucket| {
            let mut ways = equal_lanes(self.tags.get(bucket)?, hash.tag());
            while ways != 0 {
                let place = bucket * WAYS + ways.trailing_zeros() as usize;
                if self.is_key(place as Place, key) {
                    return Some(place as Place);
                }
                ways &= ways - 1;
            }
            None
        })
    }

    /// Whether that is the flow's key.
    fn is_key(&self, place: Place, key: &[u64; W]) -> bool {
        self.flows.get(place as usize).is_some_and(|flow| flow.is_of(key))
    }

    /// How many flows a port has.
    pub fn held(&self, port: PortId) -> u32 {
        self.held.get(port.index()).copied().unwrap_or(0)
    }

    /// A place for a flow of `port` that isn't there, in this second.
    pub fn insert(&mut self, (hash, key): (KeyHash, &[u64; W]), (port, second): (PortId, u32)) -> Inserted {
        let home = self.bucket(hash);
        let refused = self.held(port) >= self.limit;
        let free = |bucket: usize| {
            let ways = equal_lanes(self.tags.get(bucket)?, 0);
            (ways != 0).then(|| (bucket, ways.trailing_zeros() as usize))
        };
        let free = free(home).or_else(|| free(self.neighbour(home)));
        if free.is_none() {
            self.set_crowded();
        }
        let free = free.filter(|_| !refused);
        let way = free.or_else(|| Some((home, self.victim(home, port, (!refused).then_some(second))?)));
        let Some((bucket, way)) = way else {
            return Inserted { place: self.spare(), victim: None, refused };
        };
        let place = bucket * WAYS + way;
        let victim = (self.tags[bucket][way] != 0).then(|| self.flows[place].program);
        match victim {
            Some(_) => self.count(self.owners[bucket][way], -1),
            None => self.used += 1,
        }
        self.count(port.0, 1);
        self.owners[bucket][way] = port.0;
        self.tags[bucket][way] = hash.tag();
        self.flows[place] = Flow { key: *key, ..Flow::zeroed() };
        Inserted { place: place as Place, victim, refused }
    }

    /// Which flow of a bucket makes room for one of `port`: its own, or, if it may have more in `second`, another's.
    fn victim(&mut self, bucket: usize, port: PortId, second: Option<u32>) -> Option<usize> {
        self.turn = (self.turn + 1) % WAYS;
        let (tags, owners) = (self.tags.get(bucket)?, self.owners.get(bucket)?);
        let ways = (0..WAYS).map(|way| (way + self.turn) % WAYS).filter(|&way| tags[way] != 0);
        let holds = |way: &usize| self.held(PortId(owners[*way]));
        let greediest = ways.clone().max_by_key(holds)?;
        let own = || ways.clone().find(|&way| owners[way] == port.0);
        let Some(second) = second else { return own() };
        if holds(&greediest) / 2 > self.held(port) {
            return Some(greediest);
        }
        if let Some(own) = own() {
            return Some(own);
        }
        let seen = |way: &usize| self.flows.get(bucket * WAYS + way).map_or(0, |flow| flow.stamp);
        let oldest = ways.clone().min_by_key(seen)?;
        if second.saturating_sub(seen(&oldest)) >= IDLE {
            return Some(oldest);
        }
        (holds(&greediest) >= self.held(port) / 2).then_some(greediest)
    }

    fn count(&mut self, port: u16, change: i32) {
        if let Some(held) = self.held.get_mut(usize::from(port)) {
            *held = held.saturating_add_signed(change);
        }
    }

    /// Shows every flow of `buckets` buckets to `keep`, from where the last sweep ended, round the table; those that it doesn't
    /// want are taken out. `now` is a number that never falls. A table that is too large gets smaller.
    pub fn sweep(&mut self, buckets: usize, now: u64, mut keep: impl FnMut(&Flow<W, L>, &mut u32) -> bool) {
        for _ in 0..buckets.min(self.buckets) {
            self.show(self.swept, &mut keep);
            self.swept += 1;
            self.end_round(now);
        }
        for _ in 0..buckets / 2 {
            if !self.is_sparse() {
                break;
            }
            // The sweep may be past where these go.
            for bucket in self.last_pair() {
                self.show(bucket, &mut keep);
            }
            if !self.merge() {
                break;
            }
            self.end_round(now);
        }
    }

    /// Starts again behind the last bucket.
    fn end_round(&mut self, now: u64) {
        if self.swept >= self.buckets {
            self.swept = 0;
            (self.swept_since, self.round_began) = (self.round_began, now);
        }
    }

    /// Takes those flows of a bucket out that `keep` doesn't want.
    fn show(&mut self, bucket: usize, keep: &mut impl FnMut(&Flow<W, L>, &mut u32) -> bool) {
        let Some(tags) = self.tags.get_mut(bucket) else { return };
        let places = bucket * WAYS..(bucket + 1) * WAYS;
        let flows = self.flows[places.clone()].iter().zip(&mut self.compared[places]);
        let owners = self.owners.get(bucket).into_iter().flatten();
        for ((tag, (flow, compared)), &owner) in tags.iter_mut().zip(flows).zip(owners) {
            if *tag != 0 && !keep(flow, compared) {
                *tag = 0;
                self.used -= 1;
                if let Some(held) = self.held.get_mut(usize::from(owner)) {
                    *held = held.saturating_sub(1);
                }
            }
        }
    }

    /// The flows of `buckets` buckets, from bucket `from` on, for people to look at.
    pub fn part(&self, from: usize, buckets: usize) -> impl Iterator<Item = &Flow<W, L>> {
        let buckets = (from..self.buckets).take(buckets);
        buckets.flat_map(move |bucket| {
            let tags = self.tags.get(bucket).copied().unwrap_or_default();
            let used = tags.into_iter().enumerate().filter(|&(_, tag)| tag != 0);
            used.filter_map(move |(way, _)| self.flows.get(bucket * WAYS + way))
        })
    }

    /// Every flow that is cached, for people to look at.
    pub fn iter(&self) -> impl Iterator<Item = &Flow<W, L>> {
        self.part(0, self.buckets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_full_bucket_gives_up_one_flow_and_says_which_program_it_used() {
        let mut cache = Cache::<3, 0>::new(8).unwrap();
        for number in 0..8u64 {
            let key = [number, 1, 0];
            let Inserted { place, victim, .. } = cache.insert((KeyHash::of(&key), &key), (PortId(1), 0));
            assert_eq!(victim, None);
            cache.flow(place).unwrap().program = 100 + number as u32;
        }
        let key = [8, 1, 0];
        let Inserted { victim, .. } = cache.insert((KeyHash::of(&key), &key), (PortId(1), 0));
        assert!(victim.is_some_and(|program| (100..108).contains(&program)));
        assert_eq!((cache.len(), cache.iter().count()), (8, 8));
    }

    /// Puts flow `number` of a port in, unless it is there.
    fn put(cache: &mut Cache<3, 0>, port: u16, number: u64, second: u32) -> Inserted {
        let key = [u64::from(port), number, 0];
        let inserted = cache.insert((KeyHash::of(&key), &key), (PortId(port), second));
        if let Some(flow) = cache.flow(inserted.place) {
            (flow.program, flow.stamp) = (port.into(), second);
        }
        inserted
    }

    #[test]
    fn a_port_with_many_flows_pushes_out_its_own_and_never_those_of_one_with_few() {
        let mut cache = Cache::<3, 0>::new(1024).unwrap();
        for number in 0..100_000 {
            put(&mut cache, 2, number, 1);
            if number == 700 {
                (0..100).for_each(|number| assert_eq!(put(&mut cache, 1, number, 1).victim.unwrap_or(2), 2));
            }
        }
        let places = (0..100).map(|number| cache.find(KeyHash::of(&[1, number, 0]), &[1, number, 0]));
        assert_eq!(places.flatten().count(), 100);
        assert_eq!((cache.held(PortId(1)), cache.held(PortId(2))), (100, cache.len() as u32 - 100));
        // A port that comes later takes its room from the one that has most.
        for number in 0..100 {
            assert_eq!(put(&mut cache, 3, number, 1).victim.unwrap_or(2), 2);
        }
        assert!(cache.held(PortId(3)) >= 90 && cache.held(PortId(1)) == 100);
    }

    #[test]
    fn an_idle_flow_makes_room_whoever_has_it() {
        let mut cache = Cache::<3, 0>::new(8).unwrap();
        for port in 1..=8 {
            put(&mut cache, port, 0, 100 + u32::from(port));
        }
        let at = |port, second| (PortId(port), second);
        assert_eq!(cache.victim(0, PortId(9), Some(111)), Some(0));
        let key = [9, 9, 9];
        assert_eq!(cache.insert((KeyHash::of(&key), &key), at(9, 111)).victim, Some(1));
        assert_eq!((cache.held(PortId(1)), cache.held(PortId(9)), cache.len()), (0, 1, 8));
    }

    #[test]
    fn a_port_at_its_limit_takes_the_place_of_its_own_flows_or_none() {
        let mut cache = Cache::<3, 0>::new(1024).unwrap();
        cache.limit = 64;
        for number in 0..10_000 {
            let Inserted { place, victim, refused } = put(&mut cache, 2, number, 1);
            assert_eq!(refused, number >= 64, "{number}");
            assert!(!refused || victim == Some(2) || place == cache.spare());
        }
        assert_eq!((cache.held(PortId(2)), cache.len()), (64, 64));
        cache.sweep(cache.buckets(), 0, |_, _| false);
        assert_eq!((cache.held(PortId(2)), cache.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn what_the_cache_finds_is_what_was_put_in(keys in proptest::collection::vec((0..50u64, 0..50u64, 0..3u64), 1..400)) {
            let mut cache = Cache::<3, 0>::new(64).unwrap();
            let mut oracle: HashMap<[u64; 3], u32> = HashMap::new();
            for (number, (a, b, c)) in keys.into_iter().enumerate() {
                let key = [a, b, c];
                let hash = KeyHash::of(&key);
                match cache.find(hash, &key) {
                    Some(place) => prop_assert_eq!(Some(&cache.flow(place).unwrap().program), oracle.get(&key)),
                    None => {
                        let place = cache.insert((hash, &key), (PortId(1), 0)).place;
                        cache.flow(place).unwrap().program = number as u32;
                        oracle.insert(key, number as u32);
                    }
                }
            }
            prop_assert!(cache.len() <= cache.capacity());
        }
    }
}
