//! A bridge's forwarding database: (VLAN, MAC) to port, learned and static.
//!
//! What: a hash table in one mapping, buckets of eight slots of 16 octets, four times as many slots as entries are
//! allowed, so that a full bucket in a table that isn't full is rare; it gives up its oldest learned entry. The hash is keyed, so that nobody
//! can aim at a bucket.
//!
//! Threads: any worker looks up without a lock; each slot and each bucket has an epoch ([`crate::epoch`]) that serves as
//! a sequence lock, and is what cached flows depend on: a slot's for an entry that was found, a bucket's for one that
//! was not. Learning, moving, expiring and flushing take the one writer's lock (a packet of a known flow never does).
//!
//! Ageing: a slot's stamp is the second in which its address was last *seen as a source*. [`Fdb::expire`] runs on the
//! control thread, and gives the lock away between pieces.
//!
//! Configuration: a worker that still goes by an older snapshot could put an address at a port that has just left the
//! VLAN. So a flush that a publication makes says which, and from then on older snapshots teach the table nothing.
//!
//! When the table is full, a new address takes the place of an old one of the port that has the most, so that one
//! port can't crowd out the others (Open vSwitch's fairness rule); the victim is the oldest of a few found by sampling.
//! A port can be given a limit of its own: beyond it, addresses are not learned. What was decided without them depends on the
//! table's *room*, a cell that moves when a port that has met its limit loses an entry.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytemuck::Zeroable;
use weft_io::mem::HugeTable;
use weft_wire::{Mac, Vid};

use crate::epoch::{Cell, Dep, Epochs};
use crate::key::PortId;

/// Slots of a bucket: two cache lines.
const WAYS: usize = 8;
/// Slots per entry allowed.
const SPARE: usize = 4;
/// A reader that meets a writer this many times in a row takes the writer's lock instead.
const READ_TRIES: usize = 64;

/// One slot: `key` is 0 when it is free.
#[derive(Debug, Zeroable)]
#[repr(C)]
struct Slot {
    /// Bit 63: in use; bits 59 to 48: VLAN; 47 to 0: MAC.
    key: AtomicU64,
    /// Bits 63 to 32: times moved; bit 16: static; bits 15 to 0: port.
    value: AtomicU64,
}

const IN_USE: u64 = 1 << 63;
const STATIC: u64 = 1 << 16;

/// An entry, as people see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The VLAN.
    pub vid: Vid,
    /// The address.
    pub mac: Mac,
    /// Where it is.
    pub port: PortId,
    /// Whether it was configured: it neither ages nor moves.
    pub is_static: bool,
    /// How often it has moved from port to port.
    pub moves: u32,
    /// The second in which it was last seen as a source.
    pub seen: u32,
}

/// What a look-up says, and what that depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// The address is at this port.
    Found(PortId, Dep),
    /// It isn't known.
    Absent(Dep),
}

/// What happened when a source address was shown to the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learned {
    /// It was known, there.
    Known(Dep),
    /// It is new.
    New(Dep),
    /// It was at the other port.
    Moved(PortId, Dep),
    /// It is static, at the other port, and stays there.
    Pinned(Dep),
    /// It was not taken: the packet was switched by a snapshot that is older than what the table goes by.
    Outdated(Dep),
    /// It was not taken: the port has learned as many as it may.
    Refused(Dep),
}

impl Learned {
    /// What the outcome depends on: the entry of the source address.
    pub fn dep(self) -> Dep {
        match self {
            Learned::Known(dep)
            | Learned::New(dep)
            | Learned::Moved(_, dep)
            | Learned::Pinned(dep)
            | Learned::Outdated(dep)
            | Learned::Refused(dep) => dep,
        }
    }
}

/// Where and when an address was seen as a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sight {
    /// The port.
    pub port: PortId,
    /// The second.
    pub second: u32,
    /// The number of the snapshot by which the packet was switched.
    pub generation: u64,
}

/// Counters of a table, since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FdbStats {
    /// Entries now.
    pub entries: u32,
    /// Entries allowed.
    pub limit: u32,
    /// Addresses learned.
    pub learned: u64,
    /// Addresses that moved from one port to another.
    pub moved: u64,
    /// Entries that aged out.
    pub expired: u64,
    /// Entries that made room for others.
    pub evicted: u64,
}

/// What a port has in a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// The port.
    pub port: PortId,
    /// Its entries, learned and static.
    pub entries: u32,
    /// Those that were learned.
    pub learned: u32,
    /// How many it may learn.
    pub limit: Option<u32>,
    /// How often an address was not learned because of that.
    pub refused: u64,
    /// Whether one was refused since room was made.
    waits: bool,
}

/// Which entries a flush takes: those that match everything that is given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flush {
    /// Entries of this port only.
    pub port: Option<PortId>,
    /// Entries of this VLAN only.
    pub vid: Option<Vid>,
    /// Static entries too.
    pub statics: bool,
}

/// One bridge's table. See the module's text.
#[derive(Debug)]
pub struct Fdb {
    slots: HugeTable<Slot>,
    buckets: usize,
    epochs: Arc<Epochs>,
    /// Cells of the slots, then those of the buckets, then that of the room.
    cells: Cell,
    secret: [u64; 2],
    limit: AtomicU32,
    writer: Mutex<Writer>,
}

/// What only the holder of the lock touches.
#[derive(Debug)]
struct Writer {
    stats: FdbStats,
    /// The oldest snapshot by which addresses can be learned.
    oldest: u64,
    /// What ports have, those that have anything or may not have all.
    shares: Vec<Share>,
    random: u64,
}

/// A table can't be made.
#[derive(Debug, thiserror::Error)]
pub enum FdbError {
    /// The limit is out of range.
    #[error("an FDB of {0} entries is out of range: 1 to {max}", max = Fdb::MAX_ENTRIES)]
    Size(u32),
    /// The epochs are used up.
    #[error(transparent)]
    Cells(#[from] crate::epoch::OutOfCells),
    /// The kernel gives no memory.
    #[error("no memory for an FDB: {0}")]
    Memory(#[from] std::io::Error),
}

impl Fdb {
    /// The largest limit.
    pub const MAX_ENTRIES: u32 = 1 << 20;

    /// A table that holds at most `limit` entries.
    pub fn new(epochs: &Arc<Epochs>, limit: u32, secret: [u64; 2]) -> Result<Self, FdbError> {
        if !(1..=Self::MAX_ENTRIES).contains(&limit) {
            return Err(FdbError::Size(limit));
        }
        let buckets = (limit as usize * SPARE).div_ceil(WAYS).next_power_of_two();
        let slots = HugeTable::new(buckets * WAYS)?;
        let cells = epochs.allocate(buckets * WAYS + buckets + 1)?;
        let writer = Writer {
            stats: FdbStats { limit, ..FdbStats::default() },
            oldest: 0,
            shares: Vec::new(),
            random: secret[0] | 1,
        };
        Ok(Fdb {
            slots,
            buckets,
            epochs: Arc::clone(epochs),
            cells,
            secret,
            limit: AtomicU32::new(limit),
            writer: Mutex::new(writer),
        })
    }

    /// How many entries are allowed.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// The counters.
    pub fn stats(&self) -> FdbStats {
        self.lock().stats
    }

    /// How many addresses a port may learn; it keeps those that it has. `None` is as many as there is room for.
    pub fn set_port_limit(&self, port: PortId, limit: Option<u32>) {
        let mut writer = self.lock();
        let share = writer.share(port);
        if share.limit != limit {
            share.limit = limit;
            self.make_room(share);
        }
        writer.forget_empty();
    }

    /// What ports have that have a limit or any entry.
    pub fn shares(&self) -> Vec<Share> {
        self.lock().shares.clone()
    }

    /// The port may learn again: whoever was refused is to ask again.
    fn make_room(&self, share: &mut Share) {
        if std::mem::take(&mut share.waits) {
            self.epochs.advance(self.room_cell());
        }
    }

    /// The address is not learned.
    #[cold]
    fn refuse(&self, writer: &mut Writer, port: PortId) -> Learned {
        let share = writer.share(port);
        share.refused += 1;
        share.waits = true;
        Learned::Refused(self.epochs.observe(self.room_cell()))
    }

    /// Where `mac` is in `vid`.
    #[inline]
    pub fn lookup(&self, vid: Vid, mac: Mac) -> Lookup {
        let key = slot_key(vid, mac);
        let bucket = self.bucket_of(key);
        for _ in 0..READ_TRIES {
            if let Some(answer) = self.try_lookup(bucket, key) {
                return answer;
            }
            std::hint::spin_loop();
        }
        let _writers_are_out = self.lock();
        self.try_lookup(bucket, key).unwrap_or(Lookup::Absent(self.epochs.observe(self.bucket_cell(bucket))))
    }

    #[inline]
    fn try_lookup(&self, bucket: usize, key: u64) -> Option<Lookup> {
        let (found, absent) = self.epochs.read(self.bucket_cell(bucket), || self.find(bucket, key))?;
        let Some(slot) = found else { return Some(Lookup::Absent(absent)) };
        let read =
            || (self.slots[slot].key.load(Ordering::Relaxed), self.slots[slot].value.load(Ordering::Relaxed));
        let ((still, value), dep) = self.epochs.read(self.cells.at(slot), read)?;
        (still == key).then_some(Lookup::Found(port_of(value), dep))
    }

    /// [`Fdb::learn_by`] whatever snapshot is in use.
    pub fn learn(&self, vid: Vid, mac: Mac, port: PortId, second: u32) -> Learned {
        self.learn_by(vid, mac, Sight { port, second, generation: u64::MAX })
    }

    /// Shows the table a source address: learns it, moves it, or notes that it's still in use.
    pub fn learn_by(&self, vid: Vid, mac: Mac, sight: Sight) -> Learned {
        if let Lookup::Found(known, dep) = self.lookup(vid, mac)
            && known == sight.port
        {
            self.epochs.stamp(dep.cell, sight.second);
            return Learned::Known(dep);
        }
        self.insert(slot_key(vid, mac), sight, false)
    }

    /// Adds or moves a static entry.
    pub fn insert_static(&self, vid: Vid, mac: Mac, port: PortId, second: u32) -> Learned {
        self.insert(slot_key(vid, mac), Sight { port, second, generation: u64::MAX }, true)
    }

    /// Puts an address where it was seen, as a static entry or a learned one.
    fn insert(&self, key: u64, Sight { port, second, generation }: Sight, is_static: bool) -> Learned {
        let bucket = self.bucket_of(key);
        let mut writer = self.lock();
        if generation < writer.oldest {
            return Learned::Outdated(self.epochs.observe(self.bucket_cell(bucket)));
        }
        if let Some(slot) = self.find(bucket, key) {
            return self.update(&mut writer, slot, (port, second, is_static));
        }
        if !is_static && writer.share(port).is_full() {
            return self.refuse(&mut writer, port);
        }
        if writer.stats.entries >= self.limit() {
            self.evict_fairly(&mut writer);
        }
        let slot = self.free_slot(&mut writer, bucket);
        let value = u64::from(port.0) | if is_static { STATIC } else { 0 };
        let dep = self.write_slot(slot, key, value);
        self.epochs.stamp(dep.cell, second);
        self.epochs.advance(self.bucket_cell(bucket));
        writer.add(port, is_static);
        writer.stats.learned += u64::from(!is_static);
        Learned::New(dep)
    }

    /// The address is in the table already: another worker was faster, it has moved, or its kind changes.
    fn update(&self, writer: &mut Writer, slot: usize, new: (PortId, u32, bool)) -> Learned {
        let (port, second, make_static) = new;
        let cell = self.cells.at(slot);
        let value = self.slots[slot].value.load(Ordering::Relaxed);
        let (old, was_static) = (port_of(value), value & STATIC != 0);
        if was_static && !make_static && old != port {
            return Learned::Pinned(self.epochs.observe(cell));
        }
        if old != port && !make_static && writer.share(port).is_full() {
            return self.refuse(writer, port);
        }
        self.epochs.stamp(cell, second);
        if old == port && (was_static || !make_static) {
            return Learned::Known(self.epochs.observe(cell));
        }
        let moved = old != port;
        let moves = (value >> 32).saturating_add(u64::from(moved)).min(u64::from(u32::MAX));
        let value = moves << 32 | u64::from(port.0) | if make_static { STATIC } else { 0 };
        let dep = self.write_slot(slot, self.slots[slot].key.load(Ordering::Relaxed), value);
        self.take(writer, old, was_static);
        writer.add(port, make_static);
        if !moved {
            return Learned::Known(dep);
        }
        writer.stats.moved += 1;
        Learned::Moved(old, dep)
    }

    /// Takes an entry out; `false` if it isn't there.
    pub fn remove(&self, vid: Vid, mac: Mac) -> bool {
        let key = slot_key(vid, mac);
        let mut writer = self.lock();
        let found = self.find(self.bucket_of(key), key);
        if let Some(slot) = found {
            self.clear(&mut writer, slot);
        }
        found.is_some()
    }

    /// Takes out what `flush` describes; returns how many entries that were.
    pub fn flush(&self, flush: Flush) -> u32 {
        self.remove_where(|entry| {
            (flush.statics || !entry.is_static)
                && flush.port.is_none_or(|port| port == entry.port)
                && flush.vid.is_none_or(|vid| vid == entry.vid)
        })
    }

    /// Takes out what `flush` describes because of the publication of snapshot `generation`: older ones teach the table
    /// nothing from now on.
    pub fn flush_for(&self, generation: u64, flush: Flush) -> u32 {
        let mut writer = self.lock();
        writer.oldest = writer.oldest.max(generation);
        drop(writer);
        self.flush(flush)
    }

    /// Takes out what was not seen for `max_age` seconds, as of `second`; returns how many entries that were.
    pub fn expire(&self, second: u32, max_age: u32) -> u32 {
        let expired =
            self.remove_where(|entry| !entry.is_static && second.saturating_sub(entry.seen) >= max_age);
        self.lock().stats.expired += u64::from(expired);
        expired
    }

    /// Every entry, in no particular order.
    pub fn entries(&self) -> Vec<Entry> {
        (0..self.slots.len()).filter_map(|slot| self.entry(slot)).collect()
    }

    fn remove_where(&self, condemned: impl Fn(&Entry) -> bool) -> u32 {
        const PIECE: usize = 4096;
        let mut removed = 0;
        for start in (0..self.slots.len()).step_by(PIECE) {
            let mut writer = self.lock();
            for slot in start..(start + PIECE).min(self.slots.len()) {
                if self.entry(slot).is_some_and(|entry| condemned(&entry)) {
                    self.clear(&mut writer, slot);
                    removed += 1;
                }
            }
        }
        removed
    }

    fn entry(&self, slot: usize) -> Option<Entry> {
        let place = &self.slots[slot];
        let key = place.key.load(Ordering::Relaxed);
        if key & IN_USE == 0 {
            return None;
        }
        let value = place.value.load(Ordering::Relaxed);
        Some(Entry {
            vid: Vid::from_tci((key >> 48) as u16),
            mac: Mac::from_u64(key),
            port: port_of(value),
            is_static: value & STATIC != 0,
            moves: (value >> 32) as u32,
            seen: self.epochs.stamped(self.cells.at(slot)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        // A writer that panicked leaves whole slots behind (each write is one step), so the table is usable.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn find(&self, bucket: usize, key: u64) -> Option<usize> {
        let start = bucket * WAYS;
        let ways = self.slots.get(start..start + WAYS)?;
        ways.iter().position(|slot| slot.key.load(Ordering::Relaxed) == key).map(|way| start + way)
    }

    #[inline]
    fn bucket_of(&self, key: u64) -> usize {
        let product = u128::from(key ^ self.secret[0]) * u128::from(self.secret[1] | 1);
        let mixed = (product as u64) ^ (product >> 64) as u64;
        let product = u128::from(mixed ^ self.secret[1]) * u128::from(self.secret[0] | 1);
        ((product >> 64) as u64 ^ product as u64) as usize & (self.buckets - 1)
    }

    #[inline]
    fn bucket_cell(&self, bucket: usize) -> Cell {
        self.cells.at(self.slots.len() + bucket)
    }

    fn room_cell(&self) -> Cell {
        self.bucket_cell(self.buckets)
    }

    fn write_slot(&self, slot: usize, key: u64, value: u64) -> Dep {
        let place = &self.slots[slot];
        self.epochs.write(self.cells.at(slot), || {
            place.key.store(key, Ordering::Relaxed);
            place.value.store(value, Ordering::Relaxed);
        })
    }

    fn clear(&self, writer: &mut Writer, slot: usize) {
        let value = self.slots[slot].value.load(Ordering::Relaxed);
        self.write_slot(slot, 0, 0);
        self.take(writer, port_of(value), value & STATIC != 0);
    }

    /// A port has one entry less.
    fn take(&self, writer: &mut Writer, port: PortId, is_static: bool) {
        writer.stats.entries = writer.stats.entries.saturating_sub(1);
        let share = writer.share(port);
        share.entries = share.entries.saturating_sub(1);
        share.learned = share.learned.saturating_sub(u32::from(!is_static));
        if !share.is_full() {
            self.make_room(share);
        }
        if share.entries == 0 {
            writer.forget_empty();
        }
    }

    /// A free slot of the bucket, which is made if there is none: a learned entry goes before a static one, one of the
    /// port that has most before others, an old one before a young one.
    fn free_slot(&self, writer: &mut Writer, bucket: usize) -> usize {
        let ways = bucket * WAYS..(bucket + 1) * WAYS;
        if let Some(slot) = ways.clone().find(|&slot| self.slots[slot].key.load(Ordering::Relaxed) == 0) {
            return slot;
        }
        let greediest = writer.greediest();
        let worth = |&slot: &usize| {
            self.entry(slot).map(|entry| (entry.is_static, Some(entry.port) != greediest, entry.seen))
        };
        let victim = ways.clone().min_by_key(worth).unwrap_or(ways.start);
        self.clear(writer, victim);
        writer.stats.evicted += 1;
        victim
    }

    /// Makes room: the oldest of up to four learned entries of the port that has the most, found by sampling.
    fn evict_fairly(&self, writer: &mut Writer) {
        const SAMPLES: usize = 512;
        const CANDIDATES: usize = 4;
        let Some(greediest) = writer.greediest() else { return };
        let mut victim: Option<(u32, usize)> = None;
        let (mut found, mut any) = (0, None);
        for _ in 0..SAMPLES {
            let slot = writer.random_below(self.slots.len());
            let Some(entry) = self.entry(slot).filter(|entry| !entry.is_static) else { continue };
            any.get_or_insert(slot);
            if entry.port == greediest {
                victim = Some(victim.map_or((entry.seen, slot), |best| best.min((entry.seen, slot))));
                found += 1;
                if found == CANDIDATES {
                    break;
                }
            }
        }
        let learned =
            || (0..self.slots.len()).find(|&slot| self.entry(slot).is_some_and(|entry| !entry.is_static));
        let Some(slot) = victim.map(|(_, slot)| slot).or(any).or_else(learned) else { return };
        self.clear(writer, slot);
        writer.stats.evicted += 1;
    }
}

impl Drop for Fdb {
    fn drop(&mut self) {
        self.epochs.release(self.cells, self.slots.len() + self.buckets + 1);
    }
}

impl Share {
    fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.learned >= limit)
    }
}

impl Writer {
    /// The port that has most entries.
    fn greediest(&self) -> Option<PortId> {
        self.shares.iter().max_by_key(|share| share.entries).map(|share| share.port)
    }

    /// What a port has; it has a share from now on.
    fn share(&mut self, port: PortId) -> &mut Share {
        let at = self.shares.iter().position(|share| share.port == port).unwrap_or_else(|| {
            let none = Share { port, entries: 0, learned: 0, limit: None, refused: 0, waits: false };
            self.shares.push(none);
            self.shares.len() - 1
        });
        &mut self.shares[at]
    }

    /// A port has one entry more.
    fn add(&mut self, port: PortId, is_static: bool) {
        self.stats.entries = self.stats.entries.saturating_add(1);
        let share = self.share(port);
        share.entries = share.entries.saturating_add(1);
        share.learned = share.learned.saturating_add(u32::from(!is_static));
    }

    fn forget_empty(&mut self) {
        self.shares.retain(|share| share.entries > 0 || share.limit.is_some());
    }

    /// xorshift64: good enough to sample slots.
    fn random_below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((u128::from(self.random) * bound as u128) >> 64) as usize
    }
}

#[inline]
fn slot_key(vid: Vid, mac: Mac) -> u64 {
    IN_USE | u64::from(vid.get()) << 48 | mac.to_u64()
}

#[inline]
fn port_of(value: u64) -> PortId {
    PortId(value as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn fdb(limit: u32) -> (Arc<Epochs>, Fdb) {
        let epochs = Arc::new(Epochs::new().unwrap());
        let fdb = Fdb::new(&epochs, limit, [0x1234_5678_9abc_def1, 0xfedc_ba98_7654_3211]).unwrap();
        (epochs, fdb)
    }

    fn vid(number: u16) -> Vid {
        Vid::new(number).unwrap()
    }

    const A: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 0xb]);

    #[test]
    fn a_decision_on_an_absent_address_falls_when_it_is_learned() {
        let (epochs, fdb) = fdb(100);
        let Lookup::Absent(dep) = fdb.lookup(vid(1), A) else { panic!("an empty table knows {A}") };
        assert!(epochs.holds(dep));
        fdb.learn(vid(1), A, PortId(1), 0);
        assert!(!epochs.holds(dep));
        assert!(matches!(fdb.lookup(vid(2), A), Lookup::Absent(_)));
    }

    #[test]
    fn a_move_is_counted_and_ends_what_depended_on_the_old_place() {
        let (epochs, fdb) = fdb(100);
        let first = fdb.learn(vid(1), A, PortId(1), 0);
        assert!(matches!(first, Learned::New(_)));
        assert_eq!(fdb.learn(vid(1), A, PortId(1), 5), Learned::Known(first.dep()));
        assert!(epochs.holds(first.dep()));
        assert!(matches!(fdb.learn(vid(1), A, PortId(2), 6), Learned::Moved(PortId(1), _)));
        assert!(!epochs.holds(first.dep()));
        let entry = fdb.entries()[0];
        assert_eq!((entry.port, entry.moves, entry.seen, fdb.stats().moved), (PortId(2), 1, 6, 1));
    }

    #[test]
    fn a_static_entry_neither_moves_nor_ages_nor_makes_room() {
        let (_, fdb) = fdb(2);
        fdb.insert_static(vid(1), A, PortId(1), 0);
        assert!(matches!(fdb.learn(vid(1), A, PortId(2), 1), Learned::Pinned(_)));
        fdb.learn(vid(1), B, PortId(2), 1);
        fdb.learn(vid(2), B, PortId(2), 2);
        assert!(matches!(fdb.lookup(vid(1), A), Lookup::Found(PortId(1), _)));
        assert_eq!(fdb.expire(1000, 300), 1);
        assert_eq!(fdb.flush(Flush::default()), 0);
        assert_eq!(fdb.flush(Flush { statics: true, ..Flush::default() }), 1);
        assert_eq!(fdb.stats().entries, 0);
    }

    #[test]
    fn ageing_counts_from_the_last_sight() {
        let (_, fdb) = fdb(10);
        fdb.learn(vid(1), A, PortId(1), 10);
        fdb.learn(vid(1), B, PortId(1), 10);
        fdb.learn(vid(1), A, PortId(1), 200);
        assert_eq!(fdb.expire(310, 300), 1);
        assert!(matches!(fdb.lookup(vid(1), A), Lookup::Found(..)));
        assert!(matches!(fdb.lookup(vid(1), B), Lookup::Absent(_)));
    }

    #[test]
    fn a_full_table_takes_from_the_port_that_has_most() {
        let (_, fdb) = fdb(100);
        for number in 0..10u8 {
            fdb.learn(vid(1), Mac([2, 0, 0, 0, 1, number]), PortId(1), 0);
        }
        for number in 0..1000u16 {
            let [high, low] = number.to_be_bytes();
            fdb.learn(vid(1), Mac([2, 0, 0, 1, high, low]), PortId(2), 100 + u32::from(number));
        }
        let of_the_quiet_port = fdb.entries().iter().filter(|entry| entry.port == PortId(1)).count();
        assert_eq!((of_the_quiet_port, fdb.stats().entries), (10, 100));
    }

    #[test]
    fn a_port_at_its_limit_learns_nothing_until_it_has_room_again() {
        let (epochs, fdb) = fdb(100);
        let mac = |number| Mac([2, 0, 0, 0, 1, number]);
        fdb.set_port_limit(PortId(1), Some(3));
        fdb.insert_static(vid(1), A, PortId(1), 0);
        let learned = |number| fdb.learn(vid(1), mac(number), PortId(1), number.into());
        assert!((0..3).all(|number| matches!(learned(number), Learned::New(_))));
        let Learned::Refused(dep) = learned(3) else { panic!("a fourth address is learned") };
        fdb.learn(vid(1), B, PortId(2), 0);
        assert!(
            matches!(fdb.learn(vid(1), B, PortId(1), 1), Learned::Refused(_)),
            "nor does it get another's"
        );
        assert!(matches!(learned(1), Learned::Known(_)));
        assert!(epochs.holds(dep));
        let share = fdb.shares().into_iter().find(|share| share.port == PortId(1)).unwrap();
        assert_eq!((share.entries, share.learned, share.limit, share.refused), (4, 3, Some(3), 2));
        assert!(fdb.remove(vid(1), mac(0)));
        assert!(!epochs.holds(dep), "whoever was refused asks again");
        assert!(matches!(learned(3), Learned::New(_)));
        let Learned::Refused(dep) = learned(4) else { panic!("a fourth address is learned") };
        fdb.set_port_limit(PortId(1), None);
        assert!(!epochs.holds(dep));
        assert!(matches!(learned(4), Learned::New(_)));
        // Another one takes an address over: that is room, too.
        fdb.set_port_limit(PortId(1), Some(1));
        fdb.learn(vid(1), mac(4), PortId(2), 9);
        assert!(matches!(learned(5), Learned::Refused(_)), "it keeps those that it has");
    }

    #[test]
    fn what_a_publication_has_flushed_is_not_learned_again_by_an_older_snapshot() {
        let (_, fdb) = fdb(100);
        let sight = |generation| Sight { port: PortId(1), second: 1, generation };
        fdb.learn_by(vid(1), A, sight(6));
        fdb.learn_by(vid(1), B, Sight { port: PortId(2), ..sight(6) });
        assert_eq!(fdb.flush_for(7, Flush { port: Some(PortId(1)), ..Flush::default() }), 1);
        assert!(matches!(fdb.learn_by(vid(1), A, sight(6)), Learned::Outdated(_)));
        assert!(matches!(fdb.learn_by(vid(1), B, sight(6)), Learned::Outdated(_)));
        assert_eq!(fdb.entries().len(), 1);
        assert!(matches!(fdb.learn_by(vid(1), A, sight(7)), Learned::New(_)));
    }

    #[test]
    fn flushes_take_what_they_name() {
        let (_, fdb) = fdb(100);
        for (number, port) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            fdb.learn(vid(number), Mac([2, 0, 0, 0, port, number as u8]), PortId(port.into()), 0);
        }
        assert_eq!(fdb.flush(Flush { port: Some(PortId(1)), vid: Some(vid(1)), statics: false }), 1);
        assert_eq!(fdb.flush(Flush { vid: Some(vid(2)), ..Flush::default() }), 2);
        assert_eq!(fdb.flush(Flush { port: Some(PortId(2)), ..Flush::default() }), 1);
    }

    #[test]
    fn two_threads_that_learn_and_look_up_never_meet_a_half_written_entry() {
        let (_, fdb) = fdb(8);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..20_000u32 {
                    let number = (round % 64) as u8;
                    fdb.learn(
                        vid(u16::from(number)),
                        Mac([2, 0, 0, 0, 0, number]),
                        PortId(u16::from(number)),
                        round,
                    );
                }
            });
            for round in 0..200_000u32 {
                let number = (round % 64) as u8;
                if let Lookup::Found(port, _) =
                    fdb.lookup(vid(u16::from(number)), Mac([2, 0, 0, 0, 0, number]))
                {
                    assert_eq!(port.0, u16::from(number));
                }
            }
        });
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_a_plain_map(
            limit in proptest::option::of(1..10u32),
            steps in proptest::collection::vec((0..5u8, 0..4u16, 0..20u8, 0..4u16), 1..300)
        ) {
            let (_, fdb) = fdb(1000);
            fdb.set_port_limit(PortId(3), limit);
            let mut oracle: HashMap<(u16, u8), u16> = HashMap::new();
            for (second, (step, number, mac, port)) in steps.into_iter().enumerate() {
                let address = Mac([2, 0, 0, 0, 0, mac]);
                match step {
                    0..3 => {
                        let learned = fdb.learn(vid(number), address, PortId(port), second as u32);
                        let has = oracle.values().filter(|&&known| known == 3).count() as u32;
                        let known = oracle.get(&(number, mac)) == Some(&port);
                        let refused = port == 3 && !known && limit.is_some_and(|limit| has >= limit);
                        prop_assert_eq!(matches!(learned, Learned::Refused(_)), refused);
                        if !refused {
                            oracle.insert((number, mac), port);
                        }
                    }
                    3 => prop_assert_eq!(fdb.remove(vid(number), address), oracle.remove(&(number, mac)).is_some()),
                    _ => {
                        fdb.flush(Flush { port: Some(PortId(port)), ..Flush::default() });
                        oracle.retain(|_, known| *known != port);
                    }
                }
                let found = match fdb.lookup(vid(number), address) {
                    Lookup::Found(port, _) => Some(port.0),
                    Lookup::Absent(_) => None,
                };
                prop_assert_eq!(found, oracle.get(&(number, mac)).copied());
            }
            prop_assert_eq!(fdb.stats().entries as usize, oracle.len());
        }
    }
}
