//! Rules in one list, by rank: the plainest store there is.

use std::sync::Arc;

use weft_flow::{Fields, Match};

use super::rank::Rank;

/// Rules by rank, the highest first.
#[derive(Clone, Debug)]
pub(super) struct Store<V> {
    items: Arc<Vec<(Rank, Match, V)>>,
}

impl<V> Default for Store<V> {
    fn default() -> Self {
        Store { items: Arc::default() }
    }
}

impl<V: Clone> Store<V> {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// The highest rank of all.
    pub(super) fn max(&self) -> Rank {
        self.items.first().map_or(Rank::NONE, |(rank, ..)| *rank)
    }

    fn place(&self, priority: u16, matches: &Match) -> Option<usize> {
        self.items.iter().position(|(rank, own, _)| rank.priority() == priority && own == matches)
    }

    /// Adds a rule with that rank, or replaces the one of the same priority and match, which keeps its own.
    pub(super) fn insert(&mut self, rank: Rank, matches: &Match, value: V) -> Option<V> {
        let place = self.place(rank.priority(), matches);
        let items = Arc::make_mut(&mut self.items);
        if let Some(item) = place.and_then(|place| items.get_mut(place)) {
            return Some(std::mem::replace(&mut item.2, value));
        }
        let place = items.partition_point(|(other, ..)| *other > rank);
        items.insert(place, (rank, matches.clone(), value));
        None
    }

    pub(super) fn remove(&mut self, priority: u16, matches: &Match) -> Option<(Rank, V)> {
        let place = self.place(priority, matches)?;
        let (rank, _, value) = Arc::make_mut(&mut self.items).remove(place);
        Some((rank, value))
    }

    pub(super) fn get(&self, priority: u16, matches: &Match) -> Option<&V> {
        self.items.get(self.place(priority, matches)?).map(|(.., value)| value)
    }

    /// The highest-ranking one that covers `fields`.
    pub(super) fn best(&self, fields: &Fields) -> Option<(Rank, &V)> {
        let found = self.items.iter().find(|(_, matches, _)| matches.covers(fields));
        found.map(|(rank, _, value)| (*rank, value))
    }

    /// Calls `take` with each that covers `fields` and ranks above `above`.
    pub(super) fn covering<'a>(&'a self, fields: &Fields, above: Rank, mut take: impl FnMut(Rank, &'a V)) {
        for (rank, _, value) in self.items.iter().filter(|(_, matches, _)| matches.covers(fields)) {
            if *rank > above {
                take(*rank, value);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &Match, &V)> {
        self.items.iter().map(|(rank, matches, value)| (rank.priority(), matches, value))
    }

    pub(super) fn within(&self, filter: &Match) -> impl Iterator<Item = (u16, &Match, &V)> {
        self.iter().filter(|(_, matches, _)| matches.is_within(filter))
    }

    pub(super) fn overlapping(
        &self,
        priority: u16,
        matches: &Match,
    ) -> impl Iterator<Item = (u16, &Match, &V)> {
        self.iter().filter(move |(own, other, _)| *own == priority && other.overlaps(matches))
    }
}
