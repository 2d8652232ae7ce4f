//! What programs have dropped, by port, reason and the rule that decided.
//!
//! Bounded: a place that has had no packet for [`FORGET`] makes room for a new one, and when there is none, the new one's
//! packets are only added to [`DropLog::beyond`]. The counters of ports count them all the same.

use hashbrown::HashMap;
use weft_wire::DropReason;

use crate::key::PortId;
use crate::program::Tally;
use crate::snapshot::BridgeId;
use crate::tables::TableId;

/// Places that a worker remembers.
pub const PLACES: usize = 4096;
/// Seconds without a packet after which a place may go.
pub const FORGET: u32 = 600;

/// Where packets were dropped, and why.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// The port or tunnel that they came in by; [`PortId::NONE`] for tunnel packets that are no tunnel's.
    pub port: PortId,
    /// The reason that their port has counted.
    pub reason: DropReason,
    /// The last look-up, if there was one.
    pub decided: Option<Decided>,
}

/// The look-up that decided.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Decided {
    /// On which bridge.
    pub bridge: BridgeId,
    /// In which table.
    pub table: TableId,
    /// The cookie of the rule that was found; without one, no rule matched.
    pub cookie: Option<u64>,
}

/// What was dropped at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tallied {
    /// Packets.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    /// The second of the last one, as precise as programs are settled.
    pub second: u32,
}

impl Tallied {
    /// Adds what another worker has.
    pub fn add(&mut self, other: Tallied) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.second = self.second.max(other.second);
    }
}

/// See the module's text. Belongs to one worker.
#[derive(Debug, Default)]
pub struct DropLog {
    places: HashMap<Place, Tallied, foldhash::fast::FixedState>,
    /// Packets of places that there was no room for.
    pub beyond: u64,
    /// The second in which room was last looked for.
    searched: u32,
}

impl DropLog {
    /// Enters what a program has counted, if it drops its packets.
    pub fn enter(&mut self, tally: &Tally<'_>, second: u32) {
        let Some(reason) = tally.drops else { return };
        let place = Place {
            port: tally.verdict.ingress.unwrap_or(PortId::NONE),
            reason,
            decided: tally.verdict.decider().map(|decider| decider.decided()),
        };
        self.add(place, Tallied { packets: tally.packets, bytes: tally.bytes, second });
    }

    fn add(&mut self, place: Place, more: Tallied) {
        if let Some(known) = self.places.get_mut(&place) {
            return known.add(more);
        }
        if self.places.len() >= PLACES && self.searched != more.second {
            self.searched = more.second;
            self.places.retain(|_, tallied| more.second.saturating_sub(tallied.second) < FORGET);
        }
        if self.places.len() < PLACES {
            self.places.insert(place, more);
        } else {
            self.beyond += more.packets;
        }
    }

    /// The port is gone: its number may be another one's next.
    pub fn forget(&mut self, port: PortId) {
        self.places.retain(|place, _| place.port != port);
    }

    /// All places.
    pub fn iter(&self) -> impl Iterator<Item = (Place, Tallied)> + '_ {
        self.places.iter().map(|(&place, &tallied)| (place, tallied))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(number: u64) -> Place {
        let decided = Decided { bridge: BridgeId(0), table: TableId(0), cookie: Some(number) };
        Place { port: PortId(1), reason: DropReason::RuleDrop, decided: Some(decided) }
    }

    fn packet(second: u32) -> Tallied {
        Tallied { packets: 1, bytes: 60, second }
    }

    #[test]
    fn the_log_is_bounded_and_old_places_make_room() {
        let mut log = DropLog::default();
        for number in 0..PLACES as u64 {
            log.add(place(number), packet(1));
        }
        log.add(place(5000), packet(2));
        log.add(place(0), packet(3));
        assert_eq!((log.iter().count(), log.beyond), (PLACES, 1));
        let first = log.iter().find(|(known, _)| *known == place(0));
        assert_eq!(first, Some((place(0), Tallied { packets: 2, bytes: 120, second: 3 })));
        log.add(place(5000), packet(FORGET + 1));
        assert_eq!(log.iter().count(), 2, "the one that was met again, and the new one");
        log.forget(PortId(1));
        assert_eq!(log.iter().count(), 0);
    }
}
