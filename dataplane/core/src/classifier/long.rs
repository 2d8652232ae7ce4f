//! Lists of rules that no bits tell apart: one match at many priorities, or masks that nobody can sort.
//!
//! A list by rank, in pieces of [`PIECE`] rules at most, so that a change copies one piece and the list of pieces.

use std::sync::Arc;

use super::node::Item;
use super::rank::Rank;

/// Rules of a piece.
pub(super) const PIECE: usize = 64;

/// A long list. No piece is empty, and there is at least one.
#[derive(Clone, Debug)]
pub(super) struct Long<V> {
    pieces: Vec<Arc<[Item<V>]>>,
}

impl<V: Clone> Long<V> {
    /// A list of these, which are in order.
    pub(super) fn of_ranked(items: &[Item<V>]) -> Long<V> {
        Long { pieces: items.chunks(PIECE / 2).map(Arc::from).collect() }
    }

    /// Where an item of that rank is or belongs.
    fn piece(&mut self, rank: Rank) -> Option<(usize, &mut Arc<[Item<V>]>)> {
        let after = |piece: &Arc<[Item<V>]>| piece.last().is_some_and(|last| last.rank > rank);
        let place = self.pieces.partition_point(after).min(self.pieces.len().checked_sub(1)?);
        self.pieces.get_mut(place).map(|piece| (place, piece))
    }

    pub(super) fn insert(&mut self, item: Item<V>) {
        let Some((place, piece)) = self.piece(item.rank) else {
            return self.pieces.push([item].into());
        };
        *piece = inserted(piece, item);
        if piece.len() > PIECE {
            let (before, after) = piece.split_at(PIECE / 2);
            let (before, after) = (Arc::from(before), Arc::from(after));
            *piece = before;
            self.pieces.insert(place + 1, after);
        }
    }

    pub(super) fn remove(&mut self, rank: Rank) {
        let Some((place, piece)) = self.piece(rank) else { return };
        *piece = removed(piece, rank);
        let left = piece.len();
        let next = self.pieces.get(place + 1).map(|next| next.len());
        match (left, next) {
            (0, _) => drop(self.pieces.remove(place)),
            (_, Some(next)) if left + next <= PIECE / 2 => {
                let next = self.pieces.remove(place + 1);
                if let Some(piece) = self.pieces.get_mut(place) {
                    *piece = piece.iter().chain(next.iter()).cloned().collect();
                }
            }
            _ => {}
        }
    }

    /// Gives the item of that rank another value.
    pub(super) fn replace(&mut self, rank: Rank, value: V) {
        if let Some((_, piece)) = self.piece(rank) {
            replace(piece, rank, value);
        }
    }
}

impl<V> Long<V> {
    /// Its pieces, in order.
    #[inline]
    pub(super) fn pieces(&self) -> &[Arc<[Item<V>]>] {
        &self.pieces
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }

    /// The first.
    pub(super) fn first(&self) -> Option<&Item<V>> {
        self.pieces.first()?.first()
    }
}

/// A list by rank, with an item more.
pub(super) fn inserted<V: Clone>(items: &[Item<V>], item: Item<V>) -> Arc<[Item<V>]> {
    let place = items.partition_point(|other| other.rank > item.rank);
    let (before, after) = items.split_at(place);
    before.iter().cloned().chain([item]).chain(after.iter().cloned()).collect()
}

/// A list by rank, without the item of that rank.
pub(super) fn removed<V: Clone>(items: &[Item<V>], rank: Rank) -> Arc<[Item<V>]> {
    let place = items.partition_point(|item| item.rank > rank);
    let (before, after) = items.split_at(place);
    let after = if after.first().is_some_and(|item| item.rank == rank) { &after[1..] } else { after };
    before.iter().chain(after).cloned().collect()
}

/// Gives the item of that rank in a list another value.
pub(super) fn replace<V: Clone>(items: &mut Arc<[Item<V>]>, rank: Rank, value: V) {
    let place = items.iter().position(|item| item.rank == rank);
    if let Some(item) = place.and_then(|place| Arc::make_mut(items).get_mut(place)) {
        item.value = value;
    }
}
