//! What belongs to a zone: its numbers of connections, its limit, its timeout policy. One cache line each.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytemuck::Zeroable;
use weft_io::mem::HugeTable;

use crate::control::ZoneLimit;
use crate::timeouts::{Timeout, Timeouts};

const RELAXED: Ordering = Ordering::Relaxed;
/// All zones.
const ZONES: usize = 1 << 16;
/// One that nobody has answered, in [`Zone::counts`].
const UNANSWERED: u64 = 1 << 32;

#[derive(Debug, Zeroable)]
#[repr(C, align(64))]
struct Zone {
    /// Connections in the lower half, those of them that nobody has answered in the upper one: one step counts both.
    counts: AtomicU64,
    /// 0: the default; 1: none; else less two.
    limit: AtomicU32,
    /// Whether it has a policy of its own.
    own: AtomicU32,
    timeouts: [AtomicU32; 11],
    _spare: u32,
}

const _: () = assert!(size_of::<Zone>() == 64);

/// All zones.
#[derive(Debug)]
pub(crate) struct Zones {
    zones: HugeTable<Zone>,
    /// By zone: connections that its limit has refused.
    refused: HugeTable<AtomicU64>,
    /// As [`Zone::limit`], never 0.
    limit: AtomicU32,
    timeouts: [AtomicU32; 11],
}

impl Zones {
    pub fn new() -> io::Result<Zones> {
        let timeouts = Timeouts::default().seconds.map(AtomicU32::new);
        let (zones, refused) = (HugeTable::new(ZONES)?, HugeTable::new(ZONES)?);
        Ok(Zones { zones, refused, limit: AtomicU32::new(1), timeouts })
    }

    fn zone(&self, zone: u16) -> &Zone {
        // There is one for each number.
        &self.zones[usize::from(zone)]
    }

    /// Counts a connection that nobody has answered yet, if the zone may have one more.
    pub fn admit(&self, zone: u16) -> bool {
        let before = self.zone(zone).counts.fetch_add(1 + UNANSWERED, RELAXED);
        let admitted = self.is_below(zone, before as u32);
        if !admitted {
            self.release(zone, false);
            self.refused[usize::from(zone)].fetch_add(1, RELAXED);
        }
        admitted
    }

    /// Whether the zone may have one more when so many have gone.
    pub fn room(&self, zone: u16, leaving: u32) -> bool {
        self.is_below(zone, self.count(zone).saturating_sub(leaving))
    }

    fn is_below(&self, zone: u16, count: u32) -> bool {
        let limit = match self.zone(zone).limit.load(RELAXED) {
            0 => self.limit.load(RELAXED),
            own => own,
        };
        limit < 2 || count < limit - 2
    }

    /// How many connections it has.
    pub fn count(&self, zone: u16) -> u32 {
        self.zone(zone).counts.load(RELAXED) as u32
    }

    /// How many of them nobody has answered.
    pub fn unanswered(&self, zone: u16) -> u32 {
        (self.zone(zone).counts.load(RELAXED) >> 32) as u32
    }

    /// A connection has gone.
    pub fn release(&self, zone: u16, answered: bool) {
        let one = if answered { 1 } else { 1 + UNANSWERED };
        self.zone(zone).counts.fetch_sub(one, RELAXED);
    }

    /// A connection was answered, or counts as if it never had been.
    pub fn change(&self, zone: u16, answered: bool) {
        let counts = &self.zone(zone).counts;
        match answered {
            true => counts.fetch_sub(UNANSWERED, RELAXED),
            false => counts.fetch_add(UNANSWERED, RELAXED),
        };
    }

    /// Connections that the zone's limit has refused.
    pub fn refused(&self, zone: u16) -> u64 {
        self.refused[usize::from(zone)].load(RELAXED)
    }

    /// Zones that have connections.
    pub fn counts(&self) -> Vec<(u16, u32)> {
        let counts = (0..=u16::MAX).map(|zone| (zone, self.count(zone)));
        counts.filter(|&(_, count)| count > 0).collect()
    }

    pub fn set_default_limit(&self, limit: Option<u32>) {
        self.limit.store(limit.map_or(1, |limit| limit.saturating_add(2)), RELAXED);
    }

    pub fn default_limit(&self) -> Option<u32> {
        self.limit.load(RELAXED).checked_sub(2)
    }

    pub fn set_limit(&self, zone: u16, limit: ZoneLimit) {
        let number = match limit {
            ZoneLimit::Default => 0,
            ZoneLimit::Unlimited => 1,
            ZoneLimit::AtMost(limit) => limit.saturating_add(2),
        };
        self.zone(zone).limit.store(number, RELAXED);
    }

    pub fn limit(&self, zone: u16) -> ZoneLimit {
        match self.zone(zone).limit.load(RELAXED) {
            0 => ZoneLimit::Default,
            1 => ZoneLimit::Unlimited,
            more => ZoneLimit::AtMost(more - 2),
        }
    }

    /// Seconds of a timeout in a zone.
    #[inline]
    pub fn seconds(&self, zone: u16, timeout: Timeout) -> u32 {
        let zone = self.zone(zone);
        let timeouts = if zone.own.load(Ordering::Acquire) != 0 { &zone.timeouts } else { &self.timeouts };
        timeouts[timeout as usize].load(RELAXED)
    }

    /// The policy that counts for a zone.
    pub fn timeouts(&self, zone: u16) -> Timeouts {
        Timeouts { seconds: Timeout::ALL.map(|timeout| self.seconds(zone, timeout)) }
    }

    pub fn set_timeouts(&self, zone: u16, timeouts: Option<Timeouts>) {
        let zone = self.zone(zone);
        if let Some(timeouts) = timeouts {
            zone.timeouts
                .iter()
                .zip(timeouts.seconds)
                .for_each(|(cell, seconds)| cell.store(seconds, RELAXED));
        }
        zone.own.store(u32::from(timeouts.is_some()), Ordering::Release);
    }

    pub fn set_default_timeouts(&self, timeouts: Timeouts) {
        self.timeouts.iter().zip(timeouts.seconds).for_each(|(cell, seconds)| cell.store(seconds, RELAXED));
    }
}
