//! The classifier: the rules of one flow table, by priority and match, and which of them a packet meets.
//!
//! What: a persistent data structure. A clone costs a reference count and keeps answering as it did; a change copies
//! the path to what it changes, and nothing if nobody else has it. So who changes a table clones it, changes the clone
//! and publishes it, while workers look up in the old one without a lock.
//!
//! Where: a walk (a cache miss) asks it once per table that the packet goes through. A hit in the flow cache never does.
//!
//! What always holds:
//! * The answer is the rule of the highest priority that covers the fields; of equals the one added first. A rule that is
//!   replaced keeps its place.
//! * Rules with `conjunction` actions are no answers themselves ([`mod@conjunction`]).
//! * There is one rule at most of the same priority and match.
//!
//! `classifier/node.rs` says how it works, `docs/decisions/classifier.md` why so and what it costs.
//!
//! It knows nothing of actions, ports or counters: a rule's value is whatever handle the table gives.

mod change;
mod choose;
pub mod conjunction;
mod cut;
mod long;
mod node;
mod rank;
mod select;
mod store;

use std::sync::Arc;

use weft_flow::{Fields, Match};

pub use conjunction::{Clause, Conjunction};
use conjunction::{Soft, matched};
use rank::Rank;
use store::Store;

/// Rules of one table. See the module's text. `T` is a cheap handle.
#[derive(Clone, Debug)]
pub struct Classifier<T: Clone> {
    /// Rules that can be an answer.
    hard: Store<T>,
    /// Rules that are part of a conjunctive match.
    soft: Store<Soft<T>>,
    /// How many have ever been added.
    added: u64,
}

/// What a look-up says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lookup<'a, T> {
    /// The rule's priority and value.
    pub rule: Option<(u16, &'a T)>,
    /// By which conjunctive match it was found. Its actions see the fields as they were: `conj_id` is not set for them,
    /// as in Open vSwitch.
    pub conjunction: Option<Conjunction>,
    /// Whether it was also looked up with a `conj_id` other than the fields' own. If so, an added rule that asks for
    /// any `conj_id` can change the answer.
    pub conjunctive: bool,
    /// A rule that is added below this priority can't change the answer; one that is removed can only if it is the answer
    /// itself, or if it is part of a conjunctive match of [`Self::conjunction`]'s priority.
    pub floor: u16,
}

impl<T: Clone> Default for Classifier<T> {
    fn default() -> Self {
        Classifier { hard: Store::default(), soft: Store::default(), added: 0 }
    }
}

impl<T: Clone> Classifier<T> {
    /// A table without rules.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many rules it has.
    pub fn len(&self) -> usize {
        self.hard.len() + self.soft.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a rule, or replaces the one with the same priority and match, which it returns.
    pub fn insert(&mut self, priority: u16, matches: &Match, value: T) -> Option<T> {
        let fresh = self.fresh(priority);
        match self.soft.remove(priority, matches) {
            Some((rank, soft)) => {
                self.hard.insert(rank, matches, value);
                Some(soft.value)
            }
            None => self.hard.insert(fresh, matches, value),
        }
    }

    /// Adds a rule whose actions are `conjunction(id,k/n)`, one clause for each, or replaces the one with the same
    /// priority and match, which it returns.
    pub fn insert_conjunction(
        &mut self,
        priority: u16,
        matches: &Match,
        clauses: Box<[Clause]>,
        value: T,
    ) -> Option<T> {
        let fresh = self.fresh(priority);
        let soft = Soft { clauses: Arc::from(clauses), value };
        match self.hard.remove(priority, matches) {
            Some((rank, value)) => {
                self.soft.insert(rank, matches, soft);
                Some(value)
            }
            None => self.soft.insert(fresh, matches, soft).map(|old| old.value),
        }
    }

    fn fresh(&mut self, priority: u16) -> Rank {
        self.added += 1;
        Rank::new(priority, self.added)
    }

    /// Takes the rule with this priority and match out.
    pub fn remove(&mut self, priority: u16, matches: &Match) -> Option<T> {
        let hard = self.hard.remove(priority, matches).map(|(_, value)| value);
        hard.or_else(|| self.soft.remove(priority, matches).map(|(_, soft)| soft.value))
    }

    /// The rule with this priority and match.
    pub fn get(&self, priority: u16, matches: &Match) -> Option<&T> {
        let soft = || self.soft.get(priority, matches).map(|soft| &soft.value);
        self.hard.get(priority, matches).or_else(soft)
    }

    /// The rule that a packet with these fields meets: its priority and value.
    #[inline]
    pub fn lookup(&self, fields: &Fields) -> Option<(u16, &T)> {
        self.find(fields).rule
    }

    /// The rule that a packet with these fields meets, and what that depends on.
    #[inline]
    pub fn find(&self, fields: &Fields) -> Lookup<'_, T> {
        let hard = self.hard.best(fields);
        if self.soft.max() <= hard.map_or(Rank::NONE, |(rank, _)| rank.first()) {
            return Lookup::plain(hard);
        }
        matched(&self.hard, &self.soft, fields, hard)
    }

    /// All rules: priority, match, value. In no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &Match, &T)> {
        let soft = self.soft.iter().map(|(priority, matches, soft)| (priority, matches, &soft.value));
        self.hard.iter().chain(soft)
    }

    /// The rules that match only packets that `filter` matches too: what a loose change selects.
    pub fn within(&self, filter: &Match) -> impl Iterator<Item = (u16, &Match, &T)> {
        let soft = self.soft.within(filter).map(|(priority, matches, soft)| (priority, matches, &soft.value));
        self.hard.within(filter).chain(soft)
    }

    /// The rules of that priority that can match a packet that `matches` can match too.
    pub fn overlapping(&self, priority: u16, matches: &Match) -> impl Iterator<Item = (u16, &Match, &T)> {
        let soft = self.soft.overlapping(priority, matches);
        let soft = soft.map(|(priority, matches, soft)| (priority, matches, &soft.value));
        self.hard.overlapping(priority, matches).chain(soft)
    }
}

impl<'a, T> Lookup<'a, T> {
    /// An answer that has nothing to do with conjunctive matches.
    #[inline]
    fn plain(rule: Option<(Rank, &'a T)>) -> Self {
        let rule = rule.map(|(rank, value)| (rank.priority(), value));
        let floor = rule.map_or(0, |(priority, _)| priority);
        Lookup { rule, conjunction: None, conjunctive: false, floor }
    }
}
