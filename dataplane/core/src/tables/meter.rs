//! Meters: token buckets that packets of many rules share (OpenFlow 1.5.1, section 5.11).
//!
//! Semantics are those of Open vSwitch's userspace datapath. Each band has a bucket of tokens: bits, or thousandths of a
//! packet. It starts full, and fills at the band's rate up to its burst size (or one second's worth, if none is said),
//! by whole milliseconds. A packet takes its tokens from each band that has enough; of the bands that haven't, the one
//! with the highest rate applies.
//!
//! Lock-free, and shared by all workers. How exact: a millisecond is credited exactly once, by the thread that moves the
//! clock on, and no token is taken twice. So over any time no band passes more than burst size + rate * time, to the
//! millisecond; by one thread it passes exactly what Open vSwitch would. Between another thread's moving the clock and
//! its filling the buckets, a packet can find a bucket emptier than it should: that one is refused too early, and its
//! tokens stay for the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weft_flow::message::{Band, BandKind, MeterCommand, MeterMod, MeterSpec};

use super::RemovedReason;
use super::draft::{Draft, Step};
use super::error::Refused;

/// How many bands a meter may have (Open vSwitch's userspace datapath has as many).
pub const MAX_BANDS: usize = 8;

/// A meter. A modification makes a new one in its place, which counts from 0 and starts with full buckets.
#[derive(Debug)]
pub struct Meter {
    /// What it is.
    pub spec: MeterSpec,
    /// When it was added, since the process's start; a modification keeps it.
    pub created: Duration,
    /// The millisecond up to which its buckets have been filled.
    filled: AtomicU64,
    /// A longer time than this fills any bucket, in milliseconds.
    longest: u64,
    packets: AtomicU64,
    bytes: AtomicU64,
    bands: Box<[Bucket]>,
}

/// A band's bucket and counters.
#[derive(Debug)]
struct Bucket {
    kind: BandKind,
    /// Tokens per millisecond.
    rate: u64,
    capacity: u64,
    tokens: AtomicU64,
    packets: AtomicU64,
    bytes: AtomicU64,
}

/// What a meter says to a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Admission {
    /// It goes on as it is.
    Pass,
    /// It goes.
    Drop,
    /// Its drop precedence rises by so many levels.
    Remark(u8),
}

impl Bucket {
    fn new(band: &Band) -> Bucket {
        let burst = if band.burst_size == 0 { band.rate } else { band.burst_size };
        let capacity = u64::from(burst) * 1000;
        Bucket {
            kind: band.kind,
            rate: band.rate.into(),
            capacity,
            tokens: AtomicU64::new(capacity),
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    fn fill(&self, milliseconds: u64) {
        let filled = |tokens: u64| {
            Some(tokens.saturating_add(milliseconds.saturating_mul(self.rate)).min(self.capacity))
        };
        // Always some: there is no failure to look at.
        let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, filled);
    }

    /// Whether it had enough.
    fn take(&self, tokens: u64) -> bool {
        let taken = |left: u64| left.checked_sub(tokens);
        self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }
}

impl Meter {
    fn new(spec: MeterSpec, created: Duration, now: Duration) -> Meter {
        let bands: Box<[Bucket]> = spec.bands.iter().map(Bucket::new).collect();
        let longest = bands.iter().map(|band| band.capacity.div_ceil(band.rate.max(1))).max();
        Meter {
            spec,
            created,
            filled: AtomicU64::new(milliseconds(now)),
            longest: longest.unwrap_or(0),
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            bands,
        }
    }

    /// What becomes of a packet of `bytes` octets at `now`, the time since the process's start. Never waits.
    pub fn admit(&self, bytes: u64, now: Duration) -> Admission {
        self.fill(milliseconds(now));
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let tokens = if self.spec.packets { 1000 } else { bytes.saturating_mul(8) };
        let mut exceeded: Option<&Bucket> = None;
        for band in self.bands.iter().filter(|band| !band.take(tokens)) {
            if exceeded.is_none_or(|other| band.rate > other.rate) {
                exceeded = Some(band);
            }
        }
        let Some(band) = exceeded else { return Admission::Pass };
        band.packets.fetch_add(1, Ordering::Relaxed);
        band.bytes.fetch_add(bytes, Ordering::Relaxed);
        match band.kind {
            BandKind::Drop => Admission::Drop,
            BandKind::DscpRemark(levels) => Admission::Remark(levels),
        }
    }

    /// Credits the time since the last fill, to whoever moves the clock on.
    fn fill(&self, now: u64) {
        let forward = |filled: u64| (filled < now).then_some(now);
        if let Ok(before) = self.filled.fetch_update(Ordering::Relaxed, Ordering::Relaxed, forward) {
            let passed = (now - before).min(self.longest);
            self.bands.iter().for_each(|band| band.fill(passed));
        }
    }

    /// Packets and octets that came to it.
    pub fn stats(&self) -> (u64, u64) {
        (self.packets.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Packets and octets that exceeded the band in this place, from 0, and no other of a higher rate.
    pub fn band_stats(&self, at: usize) -> (u64, u64) {
        self.bands
            .get(at)
            .map_or((0, 0), |band| (band.packets.load(Ordering::Relaxed), band.bytes.load(Ordering::Relaxed)))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Draft<'_> {
    /// Carries out one change to meters (OpenFlow 1.5.1, section 7.3.4.5).
    pub fn meter(&mut self, change: &MeterMod) -> Result<(), Refused> {
        let id = change.meter.id;
        if change.command == MeterCommand::Delete {
            self.delete_meters(id);
            return Ok(());
        }
        check(&change.meter)?;
        let old = self.next.meter(id);
        let created = match change.command {
            MeterCommand::Add if old.is_some() => return Err(Refused::MeterExists(id)),
            MeterCommand::Add => self.now,
            _ => old.ok_or(Refused::UnknownMeter(id))?.created,
        };
        let meter = Meter::new(change.meter.clone(), created, self.now);
        Arc::make_mut(&mut self.next.meters).insert(id, Arc::new(meter));
        self.steps.push(Step::Meter(id));
        Ok(())
    }

    fn delete_meters(&mut self, id: u32) {
        let ids: Vec<u32> = match id {
            MeterMod::ALL => self.next.meters.keys().copied().collect(),
            id => self.next.meter(id).map(|meter| meter.spec.id).into_iter().collect(),
        };
        for id in ids {
            let rules = self.writer.index.using_meter(id);
            rules.iter().for_each(|rule| self.remove(rule, RemovedReason::MeterDelete));
            self.remove_forsaken();
            Arc::make_mut(&mut self.next.meters).remove(&id);
            self.steps.push(Step::Meter(id));
        }
    }
}

fn check(spec: &MeterSpec) -> Result<(), Refused> {
    let reserved = [MeterMod::SLOWPATH, MeterMod::CONTROLLER].contains(&spec.id);
    if !(1..=MeterMod::MAX).contains(&spec.id) && !reserved {
        return Err(Refused::InvalidMeter(spec.id));
    }
    if spec.bands.len() > MAX_BANDS {
        return Err(Refused::TooManyBands(spec.bands.len()));
    }
    // Open vSwitch's tools refuse it, and its datapath would divide by it.
    if spec.bands.iter().any(|band| band.rate == 0) {
        return Err(Refused::BadRate(spec.id));
    }
    Ok(())
}
