//! When each port last dropped a packet, by reason: counters say how many, but not when. Looked at once a second, and
//! whenever somebody asks.

use std::collections::BTreeMap;

use weft_core::key::PortId;
use weft_wire::{DropCounts, DropReason};

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Recent(BTreeMap<PortId, BTreeMap<DropReason, Moved>>);

/// A counter, and the second in which it was last found to have moved.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    packets: u64,
    second: u32,
}

impl Recent {
    /// Takes note of the counters of all ports. Those that are not among them are forgotten.
    pub fn look(&mut self, counts: &[(PortId, DropCounts)], second: u32) {
        let mut before = std::mem::take(&mut self.0);
        for (port, drops) in counts.iter().filter(|(_, drops)| drops.total() > 0) {
            let mut known = before.remove(port).unwrap_or_default();
            for (reason, packets) in drops.nonzero() {
                let moved = known.entry(reason).or_default();
                if moved.packets != packets {
                    *moved = Moved { packets, second };
                }
            }
            self.0.insert(*port, known);
        }
    }

    /// What a port has dropped: reason, packets, when last.
    pub fn of(&self, port: PortId) -> impl Iterator<Item = (DropReason, u64, u32)> + '_ {
        let reasons = self.0.get(&port).into_iter().flatten();
        reasons.map(|(&reason, moved)| (reason, moved.packets, moved.second))
    }

    /// How many packets a port has dropped for a reason.
    pub fn count(&self, port: PortId, reason: DropReason) -> u64 {
        self.0.get(&port).and_then(|reasons| reasons.get(&reason)).map_or(0, |moved| moved.packets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_stands_still_keeps_its_second() {
        let mut recent = Recent::default();
        let counts = |full, big| {
            let mut drops = DropCounts::default();
            drops.add(DropReason::TxRingFull, full);
            drops.add(DropReason::TxTooBig, big);
            [(PortId(3), drops)]
        };
        recent.look(&counts(1, 0), 10);
        recent.look(&counts(1, 4), 20);
        let all: Vec<_> = recent.of(PortId(3)).collect();
        assert_eq!(all, [(DropReason::TxTooBig, 4, 20), (DropReason::TxRingFull, 1, 10)]);
        recent.look(&[], 30);
        assert_eq!(recent.of(PortId(3)).count(), 0, "the port is gone");
    }
}
