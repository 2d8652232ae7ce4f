//! Rules that came after a program was made, and that some of its flows may meet and others not.
//!
//! A new rule ends a program only if every packet with it would meet the rule. Else the program stands, with a *doubt*:
//! what of a packet the rule still asks for, once all that the walk had written is accounted for. Each of the program's
//! flows is compared with it once, at its next packet ([`crate::lane`] keeps up to which doubt a flow was compared); one
//! that meets the rule walks again. So a change of rules costs a flow some nanoseconds if it isn't its business.
//!
//! Always true: a flow that was compared with all doubts does what a walk would do. Numbers rise, and 0 is none.

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use weft_flow::{KeyMask, Match, Term};

use crate::tables::{Rule, TableId};

/// Doubts that a program has at most; a flow that wasn't compared with an older one walks again.
const MOST: usize = 64;
/// Terms of a doubt that count. Of a rule with more, the others are taken for met.
pub const TERMS: usize = 6;

/// What a packet has to be to meet a new rule.
pub type Terms = ArrayVec<Term, TERMS>;

/// A rule's place in the tables.
#[derive(Clone, Debug)]
pub struct Place {
    /// Which of the verdict's bridges.
    pub bridge: u8,
    /// Its table.
    pub table: TableId,
    /// Its priority.
    pub priority: u16,
    /// Its match.
    pub matches: Match,
    /// It is, or was, a clause of a conjunctive match: whether it is there or not, other rules decide.
    pub clause: bool,
}

#[derive(Debug)]
struct Doubt {
    number: u32,
    place: Place,
    terms: Terms,
}

/// A program's doubts, oldest first. See the module's text.
#[derive(Debug, Default)]
pub struct Doubts {
    list: VecDeque<Doubt>,
    latest: u32,
    /// The number of the latest one that was dropped to make room.
    dropped: u32,
    /// When the latest was added was not yet asked.
    fresh: bool,
    /// The maintenance during which the latest was added, or one soon after.
    since: u64,
}

impl Doubts {
    /// Up to which one a flow has to have been compared; 0 if there are none.
    pub fn latest(&self) -> u32 {
        if self.list.is_empty() && self.dropped == 0 { 0 } else { self.latest }
    }

    /// A rule that a packet meets if it has these terms. False: there can be no more.
    pub fn add(&mut self, place: Place, terms: Terms) -> bool {
        let Some(number) = self.latest.checked_add(1) else { return false };
        if self.list.len() == MOST
            && let Some(oldest) = self.list.pop_front()
        {
            self.dropped = oldest.number;
        }
        (self.latest, self.fresh) = (number, true);
        self.list.push_back(Doubt { number, place, terms });
        true
    }

    /// The rule has gone again from a bridge of the verdict's, and no other stands in its place.
    pub fn withdraw(&mut self, bridge: u8, rule: &Rule) {
        self.list.retain(|Doubt { place, .. }| {
            let same = (place.bridge, place.table, place.priority) == (bridge, rule.table, rule.priority);
            !same || place.clause || place.matches != rule.matches
        });
    }

    /// Whether a flow that was compared up to number `seen` meets none of those since. Of its key the bits of `mask` are
    /// known; of the others anything is possible.
    pub fn clear(&self, seen: u32, key: &[u64], mask: &KeyMask) -> bool {
        let meets = |term: &Term| {
            let at = usize::from(term.word);
            let known = mask.0.get(at).copied().unwrap_or(0);
            (key.get(at).copied().unwrap_or(0) ^ term.value) & term.mask & known == 0
        };
        let mut since = self.list.iter().rev().take_while(|doubt| doubt.number > seen);
        seen >= self.dropped && !since.any(|doubt| doubt.terms.iter().all(meets))
    }

    /// Forgets all, if the latest is from before maintenance number `swept_since`, since which all flows have been compared; `now` is
    /// the number of this one. Whether there are none then.
    pub fn dispel(&mut self, (now, swept_since): (u64, u64)) -> bool {
        if std::mem::take(&mut self.fresh) {
            self.since = now;
        }
        if self.since < swept_since {
            self.list.clear();
            self.dropped = 0;
        }
        self.latest() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MASK: KeyMask = KeyMask([u64::MAX; 16]);

    /// The rule that packets with this first word meet.
    fn place(value: u64) -> Place {
        let matches = Match::any().with(weft_flow::Field::EthDst, value.into());
        Place { bridge: 0, table: TableId::FIRST, priority: 1, matches, clause: false }
    }

    fn terms(value: u64) -> Terms {
        Terms::from_iter([Term { word: 0, mask: u64::MAX, value }])
    }

    fn rule(value: u64) -> std::sync::Arc<Rule> {
        let tables = crate::tables::FlowTables::new();
        let matches = place(value).matches;
        let flow =
            weft_flow::message::FlowMod { priority: 1, matches: matches.clone(), ..Default::default() };
        tables.prepare(&[crate::tables::Change::Flow(flow)], std::time::Duration::ZERO).unwrap().commit();
        std::sync::Arc::clone(tables.load().rule(TableId::FIRST, 1, &matches).unwrap())
    }

    #[test]
    fn bits_that_are_not_known_can_be_anything() {
        let mut doubts = Doubts::default();
        assert!(doubts.add(place(5), terms(5)));
        assert!(doubts.clear(0, &[4], &MASK));
        assert!(!doubts.clear(0, &[4], &KeyMask::default()));
        assert!(!doubts.clear(0, &[5], &MASK));
        assert!(doubts.clear(1, &[5], &MASK));
    }

    #[test]
    fn doubts_are_dispelled_when_all_flows_have_been_compared() {
        let mut doubts = Doubts::default();
        doubts.add(place(5), terms(5));
        assert!(!doubts.dispel((100, 90)));
        assert!(!doubts.dispel((110, 100)));
        assert!(doubts.dispel((111, 101)));
        assert_eq!(doubts.latest(), 0);
        doubts.add(place(5), terms(5));
        assert_eq!((doubts.latest(), doubts.dispel((111, 101))), (2, false));
    }

    proptest! {
        /// Rules come and go, flows are compared now and then; the oracle remembers which rules are there that a flow has
        /// not been compared with.
        #[test]
        fn a_flow_is_clear_only_if_it_meets_no_rule_that_came_since(steps in proptest::collection::vec((0..8u8, 0..6u64), 1..300)) {
            let rules: Vec<_> = (0..6).map(rule).collect();
            let mut doubts = Doubts::default();
            let mut there: Vec<u64> = Vec::new();
            let (mut seen, mut pending) = ([0; 6], vec![false; 6]);
            for (kind, value) in steps {
                let at = value as usize;
                match kind {
                    0..3 if !there.contains(&value) => {
                        there.push(value);
                        pending[at] = true;
                        doubts.add(place(value), terms(value));
                    }
                    3..5 if there.contains(&value) => {
                        there.retain(|own| *own != value);
                        pending[at] = false;
                        doubts.withdraw(0, &rules[at]);
                    }
                    _ => {
                        let clear = seen[at] >= doubts.latest() || doubts.clear(seen[at], &[value], &MASK);
                        prop_assert!(!(clear && pending[at]), "it meets a rule");
                        prop_assert!(clear || pending[at] || seen[at] < doubts.dropped, "it meets none");
                        (seen[at], pending[at]) = (doubts.latest(), false);
                    }
                }
            }
        }
    }
}
