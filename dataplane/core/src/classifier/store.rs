//! Rules by rank and match, in a [`Node`] tree.

use weft_flow::{Fields, Match};

use super::change::At;
use super::cut::{Dense, Keys};
use super::node::{Best, Item, Node, Packet};
use super::rank::Rank;

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct Store<V> {
    root: Node<V>,
    len: usize,
    keys: Keys,
}

impl<V> Default for Store<V> {
    fn default() -> Self {
        Store { root: Node::EMPTY, len: 0, keys: Keys::random() }
    }
}

type Shown<'a, V> = (u16, &'a Match, &'a V);

fn shown<V>(item: &Item<V>) -> Shown<'_, V> {
    (item.rank.priority(), &item.matches, &item.value)
}

impl<V: Clone> Store<V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The highest rank of all.
    #[inline]
    pub(super) fn max(&self) -> Rank {
        self.root.max
    }

    /// Adds a rule with that rank, or replaces the one of the same priority and match, which keeps its own.
    pub(super) fn insert(&mut self, rank: Rank, matches: &Match, value: V) -> Option<V> {
        let dense = Dense::new(matches, &self.keys);
        if let Some(old) = self.root.find(rank.priority(), matches, &dense) {
            let (rank, old) = (old.rank, old.value.clone());
            self.root.replace(rank, value, &dense);
            return Some(old);
        }
        let item = Item { rank, matches: matches.clone(), value, hash: 0 };
        self.root.insert(item, &dense, At::default());
        self.len += 1;
        None
    }

    pub(super) fn remove(&mut self, priority: u16, matches: &Match) -> Option<(Rank, V)> {
        if self.len == 0 {
            return None;
        }
        let dense = Dense::new(matches, &self.keys);
        let item = self.root.find(priority, matches, &dense)?.clone();
        self.root.remove(item.rank, &dense, At::default());
        self.len -= 1;
        Some((item.rank, item.value))
    }

    pub(super) fn get(&self, priority: u16, matches: &Match) -> Option<&V> {
        let found = self.root.find(priority, matches, &Dense::new(matches, &self.keys));
        found.map(|item| &item.value)
    }

    /// The highest-ranking one that covers `fields`.
    #[inline]
    pub(super) fn best(&self, fields: &Fields) -> Option<(Rank, &V)> {
        let mut best = Best { rank: Rank::NONE, value: None };
        self.root.best(fields, &self.keys, 0, &mut best);
        best.value.map(|value| (best.rank, value))
    }

    /// Calls `take` with each that covers `fields` and ranks above `above`.
    pub(super) fn covering<'a>(&'a self, fields: &Fields, above: Rank, mut take: impl FnMut(Rank, &'a V)) {
        let packet = Packet { fields, keys: &self.keys };
        self.root.covering(&packet, above, 0, &mut take);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Shown<'_, V>> {
        self.root.items().map(shown)
    }

    pub(super) fn within(&self, filter: &Match) -> impl Iterator<Item = Shown<'_, V>> {
        self.root.within(filter, &self.keys).into_iter().map(shown)
    }

    pub(super) fn overlapping(&self, priority: u16, matches: &Match) -> impl Iterator<Item = Shown<'_, V>> {
        self.root.overlapping(priority, matches, &self.keys).into_iter().map(shown)
    }
}
