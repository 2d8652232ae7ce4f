//! Flow tables: rules with a priority, a masked match and actions.
//!
//! The pipeline that runs on a cache miss is these tables, for every bridge: one without rules of its own has
//! `table=0, priority=0 actions=NORMAL`.

use weft_wire::OfPort;

use crate::key::{FlowKey, KeyMask, PortId};

/// What a matched rule does, one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// VLAN and FDB switching, as a plain bridge does it.
    Normal,
    /// To one port of the bridge.
    Output(OfPort),
}

/// A value and the bits of it that have to be equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Match {
    /// The value; bits that the mask does not read are 0.
    pub value: FlowKey,
    /// What is compared.
    pub mask: KeyMask,
}

impl Match {
    /// Matches every packet.
    pub const ANY: Match =
        Match { value: FlowKey([0; crate::key::KEY_WORDS]), mask: KeyMask([0; crate::key::KEY_WORDS]) };

    /// Packets that came in by `port` (a tunnel port, too).
    pub fn in_port(port: PortId) -> Match {
        let mut value = FlowKey::default();
        value.0[0] = u64::from(port.0);
        Match { value, mask: KeyMask::INGRESS }
    }

    /// Whether `key` has the value.
    #[inline]
    pub fn covers(&self, key: &FlowKey) -> bool {
        key.masked(&self.mask) == self.value
    }
}

/// A rule. No action means drop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The highest that matches wins; of equals, the one that was added first.
    pub priority: u16,
    /// The owner's mark.
    pub cookie: u64,
    /// Which packets.
    pub matches: Match,
    /// What happens to them, in order.
    pub actions: Box<[Action]>,
}

impl Rule {
    /// `priority=0 actions=NORMAL`
    pub fn normal() -> Rule {
        Rule { priority: 0, cookie: 0, matches: Match::ANY, actions: Box::new([Action::Normal]) }
    }
}

/// One flow table, highest priority first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Table {
    rules: Vec<Rule>,
}

impl Table {
    /// A table of these rules.
    pub fn new(mut rules: Vec<Rule>) -> Self {
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.priority));
        Table { rules }
    }

    /// The rule for a packet.
    pub fn lookup(&self, key: &FlowKey) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches.covers(key))
    }

    /// The rules, highest priority first.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What its matches and actions read of a packet.
    pub fn reads(&self) -> KeyMask {
        let matches = self.rules.iter().map(|rule| &rule.matches.mask);
        let actions = self.rules.iter().flat_map(|rule| &rule.actions).map(|action| match action {
            Action::Normal => &KeyMask::NORMAL,
            // A tunnel's key may follow from the packet's VLAN.
            Action::Output(_) => &KeyMask::VLAN,
        });
        matches.chain(actions).fold(KeyMask::INGRESS, |mask, reads| mask.union(reads))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(priority: u16, cookie: u64, matches: Match) -> Rule {
        Rule { priority, cookie, matches, actions: Box::new([]) }
    }

    #[test]
    fn the_highest_priority_that_matches_wins_and_of_equals_the_first() {
        let (one, two) = (Match::in_port(PortId(1)), Match::in_port(PortId(2)));
        let table =
            Table::new(vec![rule(5, 1, Match::ANY), rule(9, 2, one), rule(9, 3, one), rule(9, 4, two)]);
        let cookie = |port| table.lookup(&Match::in_port(PortId(port)).value).map(|rule| rule.cookie);
        assert_eq!((cookie(1), cookie(2), cookie(3)), (Some(2), Some(4), Some(1)));
    }
}
