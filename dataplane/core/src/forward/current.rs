//! Whether a cached flow stands, and which programs a burst's packets take: the last two are at hand, known to stand; what they
//! count is written down when others take their place, or the burst ends.

use weft_conntrack::Link;
use weft_io::Packet;
use weft_wire::DropReason;

use super::Forwarder;
use crate::epoch::Dep;
use crate::facts;
use crate::key::{Ingress, KeyMask, PortId};
use crate::ledger::Ledger;
use crate::program::{ProgramId, Shape};
use crate::snapshot::Snapshot;

/// A program that packets of this burst took, known to stand: most packets of a burst take one of two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Current {
    pub id: ProgramId,
    pub shape: Shape,
    pub tunnel: PortId,
    /// Whether it may cease to stand within this burst.
    pub watched: bool,
    /// Whether its flows have to be compared with its doubts.
    pub doubtful: bool,
    /// Packets and octets that it has taken in this burst.
    pub packets: u64,
    pub bytes: u64,
}

impl Current {
    pub const NONE: Current = Current {
        id: ProgramId::MAX,
        shape: Shape::Drop(DropReason::NoBridge),
        tunnel: PortId::NONE,
        watched: false,
        doubtful: false,
        packets: 0,
        bytes: 0,
    };
}

impl Forwarder {
    /// Whether FDB entries are as they were.
    #[inline(always)]
    pub fn holds(&self, deps: [Dep; 2]) -> bool {
        let epochs = &self.shared.epochs;
        deps.into_iter().all(|dep| epochs.holds(dep))
    }

    /// Whether a packet changes nothing that rules can see of the connections that its flow belongs to. Then they have taken
    /// note of it.
    #[inline(always)]
    pub fn steps<const L: usize>(&self, links: &[Link; L], packet: &Packet) -> bool {
        let Some((&first, further)) = links.split_first() else { return true };
        if first == Link::NONE {
            return true;
        }
        self.shared.connections.step(first, self.second, || facts::segment(packet))
            && further.iter().all(|&link| link == Link::NONE || self.steps_further(link, packet))
    }

    /// The same of a second connection: out of the way of the usual case.
    #[inline(never)]
    fn steps_further(&self, link: Link, packet: &Packet) -> bool {
        self.shared.connections.step(link, self.second, || facts::segment(packet))
    }

    /// Whether a flow of `key` that was compared with the program's doubts as far as `compared` says may keep the program.
    /// It has been compared with all of them then.
    #[inline(always)]
    pub fn has_compared(&mut self, id: ProgramId, compared: &mut u32, key: &[u64]) -> bool {
        let latest = self.programs.hot(id).map_or(0, |hot| hot.doubt);
        *compared >= latest || self.compare(id, (compared, latest), key)
    }

    /// The same of packets that are alike in `kind`, and differ in what tracking alone reads.
    #[cold]
    pub fn has_compared_kind(&mut self, id: ProgramId, compared: &mut u32, kind: &[u64]) -> bool {
        let latest = self.programs.hot(id).map_or(0, |hot| hot.doubt);
        *compared >= latest || self.clears(id, (compared, latest), kind, Snapshot::mask_apart)
    }

    #[cold]
    #[inline(never)]
    fn compare(&mut self, id: ProgramId, (compared, latest): (&mut u32, u32), key: &[u64]) -> bool {
        let clear = self.clears(id, (compared, latest), key, Snapshot::mask);
        if clear {
            self.counters.worker.reprieved.add(1);
        }
        clear
    }

    /// Compares a key, of which `mask_of` its ingress is known, with the program's doubts.
    fn clears(
        &self,
        id: ProgramId,
        (compared, latest): (&mut u32, u32),
        key: &[u64],
        mask_of: fn(&Snapshot, Ingress) -> Option<&KeyMask>,
    ) -> bool {
        let mask = key.first().and_then(|&word| mask_of(&self.snapshot, Ingress::of_word(word)));
        let clear = mask.is_some_and(|mask| self.programs.clears(id, *compared, (key, mask)));
        if clear {
            *compared = latest;
        }
        clear
    }

    /// Another burst starts, or programs have changed.
    #[inline]
    pub fn forget_current(&mut self) {
        self.settle_current();
        (self.current, self.previous) = (Current::NONE, Current::NONE);
    }

    /// Whether what the program was compiled from stands; then it is the current one.
    #[inline(always)]
    pub fn is_current(&mut self, id: ProgramId) -> bool {
        self.current.id == id && !self.current.watched || self.make_current(id)
    }

    /// Whether the current program's flows have to be compared with its doubts.
    #[inline(always)]
    pub fn current_has_doubts(&self) -> bool {
        self.current.doubtful
    }

    #[inline]
    fn make_current(&mut self, id: ProgramId) -> bool {
        if self.previous.id == id && !self.previous.watched {
            std::mem::swap(&mut self.current, &mut self.previous);
            return true;
        }
        let valid = self.programs.valid(id, &self.shared.epochs, self.published);
        if valid {
            self.set_current(id);
        }
        valid
    }

    #[inline]
    pub(super) fn set_current(&mut self, id: ProgramId) {
        if self.current.id != id {
            std::mem::swap(&mut self.current, &mut self.previous);
        }
        if self.current.packets > 0 {
            self.settle_current();
        }
        if let Some(hot) = self.programs.hot(id) {
            let (shape, tunnel, doubtful) = (hot.shape, hot.tunnel, hot.doubt != 0);
            let watched = hot.has_to_be_watched(self.published);
            self.current = Current { id, shape, tunnel, watched, doubtful, packets: 0, bytes: 0 };
        }
    }

    /// Writes down what the current programs have counted in this burst.
    #[inline]
    fn settle_current(&mut self) {
        for counted in [&mut self.current, &mut self.previous] {
            if counted.packets > 0 {
                self.programs.count(counted.id, counted.packets, counted.bytes);
                (counted.packets, counted.bytes) = (0, 0);
            }
        }
    }

    /// Adds what programs have counted to rules, buckets and patch ports, and repeats what their packets teach: at most
    /// `limit` programs. Whether that was all.
    pub fn settle(&mut self, limit: usize) -> bool {
        self.forget_current();
        let counts = (&*self.counters, &mut self.dropped);
        let mut ledger = Ledger::of(counts, &self.shared, self.now, self.second);
        self.programs.settle(limit, |tally| ledger.enter(&tally))
    }

    /// Forgets programs that no flow uses, after looking at `limit` at most.
    pub fn forget_unused(&mut self, limit: usize) {
        self.forget_current();
        let counts = (&*self.counters, &mut self.dropped);
        let mut ledger = Ledger::of(counts, &self.shared, self.now, self.second);
        self.programs.forget(limit, |tally| ledger.enter(&tally));
    }

    /// A flow no longer uses the program.
    pub fn release(&mut self, id: ProgramId) {
        self.settle_current();
        let counts = (&*self.counters, &mut self.dropped);
        let mut ledger = Ledger::of(counts, &self.shared, self.now, self.second);
        self.programs.release(id, |tally| ledger.enter(&tally));
    }
}
