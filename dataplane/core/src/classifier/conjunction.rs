//! Conjunctive matches: `conjunction(id,k/n)` (ovs-actions(7), and "Conjunctive Match Fields" of ovs-fields(7)).
//!
//! A rule with such actions is no answer, but a *soft* match: it fulfils clauses. When all clauses of an id are fulfilled
//! by rules of one priority, the packet is looked up again with `conj_id` set to that id, this time among ordinary
//! (*hard*) rules alone; whatever that finds is the answer. So an address list and a port list of some thousand
//! entries cost one look-up for each list, and no product.
//!
//! What decides, as Open vSwitch's classifier does it:
//! * A hard match beats soft ones of its own and of lower priorities.
//! * Soft matches count from the highest priority down. If no conjunction of a priority is fulfilled, or nothing is found
//!   with its `conj_id`, the next lower priority has its turn, down to the hard match.
//! * The second look-up has no priority to keep to: it may find a rule that doesn't ask for a `conj_id` at all.
//!
//! Where Open vSwitch leaves the result open, weft promises one: if several ids are fulfilled at one priority, the
//! lowest that leads to a rule; and a clause counts only together with those of the same n.

use std::sync::Arc;

use weft_flow::{Field, Fields, Subfield};

use super::Lookup;
use super::rank::Rank;
use super::store::Store;

/// One `conjunction(id,k/n)` action.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Clause {
    /// Which conjunctive match.
    pub id: u32,
    /// How many clauses it has, 2 to 64.
    pub clauses: u8,
    /// Which of them this is, from 0.
    pub clause: u8,
}

/// A conjunctive match that led to an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conjunction {
    /// Its id.
    pub id: u32,
    /// The priority of the rules that fulfilled it.
    pub priority: u16,
}

/// A rule that is part of conjunctive matches.
#[derive(Clone, Debug)]
pub(super) struct Soft<T> {
    pub(super) clauses: Arc<[Clause]>,
    pub(super) value: T,
}

/// The answer where soft matches may have a say; `hard` is the best ordinary rule.
#[cold]
pub(super) fn matched<'a, T: Clone>(
    rules: &'a Store<T>,
    soft: &'a Store<Soft<T>>,
    fields: &Fields,
    hard: Option<(Rank, &'a T)>,
) -> Lookup<'a, T> {
    // A hard match beats soft ones of its own priority.
    let above = hard.map_or(Rank::NONE, |(rank, _)| rank.first());
    let mut fulfilled: Vec<(u16, Clause)> = Vec::new();
    soft.covering(fields, above, |rank, soft| {
        fulfilled.extend(soft.clauses.iter().map(|clause| (rank.priority(), *clause)));
    });
    fulfilled.sort_unstable_by_key(|(priority, clause)| (u16::MAX - priority, *clause));
    let mut conjunctive = false;
    for (id, priority) in complete(&fulfilled) {
        conjunctive = true;
        let mut again = *fields;
        Subfield::whole(Field::ConjId).set(&mut again, u128::from(id));
        if let Some((rank, value)) = rules.best(&again) {
            let conjunction = Some(Conjunction { id, priority });
            let floor = priority.min(rank.priority());
            return Lookup { rule: Some((rank.priority(), value)), conjunction, conjunctive, floor };
        }
    }
    Lookup { conjunctive, ..Lookup::plain(hard) }
}

/// Ids of which every clause is there, with their priority. `fulfilled` is sorted.
fn complete(fulfilled: &[(u16, Clause)]) -> impl Iterator<Item = (u32, u16)> {
    let same =
        |a: &(u16, Clause), b: &(u16, Clause)| (a.0, a.1.id, a.1.clauses) == (b.0, b.1.id, b.1.clauses);
    fulfilled.chunk_by(same).filter_map(|group| {
        let (priority, Clause { id, clauses, .. }) = *group.first()?;
        let bit = |clause: u8| 1_u64.checked_shl(u32::from(clause)).unwrap_or(0);
        let there = group.iter().fold(0, |there, (_, own)| there | bit(own.clause));
        let all = u64::MAX >> 64_u32.saturating_sub(u32::from(clauses)).min(63);
        (there & all == all).then_some((id, priority))
    })
}
