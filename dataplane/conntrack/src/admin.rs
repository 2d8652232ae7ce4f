//! What the control plane asks of the table. Nothing here stops a worker: connections are taken one by one.

use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::connections::{Connections, Sought};
use crate::control::{Connection, Filter, Statistics, ZoneLimit};
use crate::entry::Entry;
use crate::image::{Image, Moving};
use crate::state::Direction;
use crate::tally::Count;
use crate::timeouts::Timeouts;
use crate::tuple::Tuple;

impl Connections {
    /// Sweeps `budget` entries for what has expired, and says how many that were. Called often with a small budget, it
    /// goes round the whole table.
    pub fn expire(&self, second: u32, budget: usize) -> usize {
        self.expectations.expire(second);
        let end = self.arena.end();
        let budget = budget.min(end);
        let start = self.cursor.load(Ordering::Relaxed);
        let start = if start < end { start } else { 0 };
        let ended = (start..start + budget).map(|at| if at < end { at } else { at - end });
        let count = ended.filter(|&slot| self.sweep(slot, second)).count();
        let next = start + budget;
        self.cursor.store(if next < end { next } else { next - end }, Ordering::Relaxed);
        count
    }

    /// Ends the slot's connection if it has expired.
    fn sweep(&self, slot: usize, second: u32) -> bool {
        let Some(entry) = self.arena.get(slot) else { return false };
        let old = |entry: &Entry| second >= entry.expiry.load(Ordering::Relaxed);
        entry.linked()
            && old(entry)
            && self.remove(slot, entry.epoch.load(Ordering::Acquire), Count::Expired, old)
    }

    /// How many places there are in which a connection can be by now: 0 to this number, which only grows. A connection stays
    /// at its place.
    pub fn places(&self) -> usize {
        self.arena.end()
    }

    /// Shows each live connection that the filter covers, in no order. The table may change meanwhile.
    pub fn list(&self, filter: &Filter, second: u32, visit: &mut dyn FnMut(&Connection)) {
        self.list_in(0..self.places(), filter, second, visit);
    }

    /// The same of these places only.
    pub fn list_in(
        &self,
        places: Range<usize>,
        filter: &Filter,
        second: u32,
        visit: &mut dyn FnMut(&Connection),
    ) {
        self.each((places, filter), second, &mut |_, _, connection| visit(connection));
    }

    /// The live connection that a packet of this tuple belongs to, and in which direction. Unlike a listing, it costs the same
    /// however many there are.
    pub fn of_tuple(&self, zone: u16, tuple: &Tuple, second: u32) -> Option<(Direction, Connection)> {
        let Sought::Found(found) = self.find(self.place(zone, tuple), zone, tuple, second) else {
            return None;
        };
        let (_, connection) = show(self.arena.get(found.slot)?, second)?;
        let own = match found.direction {
            Direction::Original => connection.original,
            Direction::Reply => connection.reply,
        };
        // Its place may be another one's by now.
        ((connection.zone, own) == (zone, *tuple)).then_some((found.direction, connection))
    }

    /// Ends each live connection that the filter covers, and says how many that were.
    pub fn flush(&self, filter: &Filter, second: u32) -> u64 {
        self.flush_in(0..self.places(), filter, second)
    }

    /// The same at these places only.
    pub fn flush_in(&self, places: Range<usize>, filter: &Filter, second: u32) -> u64 {
        let mut gone = 0;
        self.each((places, filter), second, &mut |slot, epoch, _| {
            let mut ended = self.remove(slot, epoch, Count::Flushed, |_| true);
            // It has changed since it was read: as it is now.
            while !ended {
                let now = self.arena.get(slot).and_then(|entry| show(entry, second));
                let Some((epoch, _)) = now.filter(|(_, now)| filter.covers(now)) else { break };
                ended = self.remove(slot, epoch, Count::Flushed, |_| true);
            }
            gone += u64::from(ended);
        });
        gone
    }

    fn each(
        &self,
        (places, filter): (Range<usize>, &Filter),
        second: u32,
        visit: &mut dyn FnMut(usize, u32, &Connection),
    ) {
        // The first place is nobody's.
        for slot in places.start.max(1)..places.end.min(self.places()) {
            let Some(entry) = self.arena.get(slot) else { continue };
            let Some((epoch, connection)) = show(entry, second) else { continue };
            if filter.covers(&connection) {
                visit(slot, epoch, &connection);
            }
        }
    }

    /// Zones that have connections, with their number (expired ones count until they are swept).
    pub fn zones(&self) -> Vec<(u16, u32)> {
        self.zones.counts()
    }

    /// The limit of zones that have none of their own; `None` is no limit.
    pub fn set_default_zone_limit(&self, limit: Option<u32>) {
        self.zones.set_default_limit(limit);
    }

    /// That limit.
    pub fn default_zone_limit(&self) -> Option<u32> {
        self.zones.default_limit()
    }

    /// A zone's limit. A zone that has more connections keeps them.
    pub fn set_zone_limit(&self, zone: u16, limit: ZoneLimit) {
        self.zones.set_limit(zone, limit);
    }

    /// That limit.
    pub fn zone_limit(&self, zone: u16) -> ZoneLimit {
        self.zones.limit(zone)
    }

    /// How many connections the zone's limit has refused.
    pub fn zone_refusals(&self, zone: u16) -> u64 {
        self.zones.refused(zone)
    }

    /// The timeout policy of a zone; `None` is the default. Counts for a connection from its first packet in a later
    /// second on.
    pub fn set_timeouts(&self, zone: u16, timeouts: Option<Timeouts>) {
        self.zones.set_timeouts(zone, timeouts);
    }

    /// The policy of zones that have none of their own.
    pub fn set_default_timeouts(&self, timeouts: Timeouts) {
        self.zones.set_default_timeouts(timeouts);
    }

    /// The policy that counts for a zone.
    pub fn timeouts(&self, zone: u16) -> Timeouts {
        self.zones.timeouts(zone)
    }

    /// Whether TCP segments outside of their windows are invalid; so they are at first.
    pub fn set_window_check(&self, check: bool) {
        self.liberal.store(!check, Ordering::Relaxed);
    }

    /// Counters.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            connections: self.total.load(Ordering::Relaxed),
            max: self.max,
            expectations: self.expectations.count(),
            ..self.tally.read()
        }
    }

    /// Octets of memory that all connections take when there are as many as there may be.
    pub fn octets(&self) -> usize {
        self.arena.octets() + self.index.octets()
    }
}

/// A live connection, as people see it, and its epoch.
fn show(entry: &Entry, second: u32) -> Option<(u32, Connection)> {
    if !entry.linked() {
        return None;
    }
    let (image, epoch) = loop {
        if let Some(read) = entry.read() {
            break read;
        }
        std::thread::yield_now();
    };
    let left = entry.expiry.load(Ordering::Relaxed).saturating_sub(second);
    let Image { zone, original, reply, nat, helper, parent, moving } = image;
    let Moving { mark, label, progress, timeout } = moving;
    (left > 0 && entry.linked()).then_some((
        epoch,
        Connection { zone, original, reply, nat, mark, label, progress, timeout, left, helper, parent },
    ))
}
