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

mod entry;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytemuck::Zeroable;
use weft_io::mem::HugeTable;
use weft_wire::{Mac, Vid};

use crate::epoch::{Cell, Dep, Epochs};
use crate::key::PortId;

pub use entry::{Entry, Flush, Learned, Lookup, Share, Sight};

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
mod tests;
