//! Changes to the tree. What somebody else has too is copied first, and that is a path from the root to a leaf.
//!
//! A split is thought over when its rules have doubled or have become a quarter, and made anew if another cut promises
//! much. Most changes have nothing to do with that; [`REMADE`] keeps the few that have to about a millisecond.

use std::sync::Arc;

use super::choose;
use super::cut::{Cut, Dense, Keys};
use super::long::{Long, PIECE, inserted, removed, replace};
use super::node::{Item, Kind, LEAF, Node, STEP, Split, WIDTH};
use super::rank::Rank;

/// A split with more rules keeps its cut.
const REMADE: u32 = 4096;
/// Splits above each other, tables and rests: deeper down, lists are long instead.
const DEPTH: u8 = 128;

/// Where in the tree a node is.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct At {
    /// Splits above it.
    depth: u8,
    /// Bits of the hash that the branches above it have used.
    shift: u32,
    /// The hash of what changes, in the table that the node is in; 0 if it is in none.
    hash: u32,
}

impl At {
    /// In a split's table.
    fn in_table(self, hash: u32) -> At {
        At { depth: self.depth + 1, shift: 0, hash }
    }

    /// In a split's rest.
    fn in_rest(self) -> At {
        At { depth: self.depth + 1, ..self }
    }

    fn in_branch(self) -> At {
        At { shift: self.shift + STEP, ..self }
    }

    /// Which child of a branch here.
    fn turn(self, hash: u32) -> usize {
        (hash.checked_shr(self.shift).unwrap_or(0)) as usize % WIDTH
    }
}

impl<V: Clone> Node<V> {
    /// Adds an item, which must not be there yet.
    pub(super) fn insert(&mut self, mut item: Item<V>, dense: &Dense<'_>, at: At) {
        let max = self.max;
        self.max = max.max(item.rank);
        item.hash = at.hash;
        match &mut self.kind {
            Kind::Empty => *self = Node::leaf(vec![item]),
            Kind::Leaf(items) => {
                let (longer, first) = (items.len() + 1, items.first());
                if longer <= LEAF || longer <= PIECE && !is_tried(longer, first, at) {
                    *items = inserted(items, item);
                } else {
                    let all = items.iter().cloned().chain([item]).collect();
                    *self = Node::build(all, dense.keys, at);
                }
            }
            Kind::Long(long) if is_tried(long.len() + 1, long.first(), at) => {
                let all = self.items().cloned().chain([item]).collect();
                *self = Node::build(all, dense.keys, at);
            }
            Kind::Long(long) => Arc::make_mut(long).insert(item),
            Kind::Branch(children) => {
                Arc::make_mut(children)[at.turn(at.hash)].insert(item, dense, at.in_branch());
            }
            Kind::Split(split) if split.hash != at.hash => {
                let hash = split.hash;
                let old = Node { max, ..std::mem::replace(self, Node::EMPTY) };
                *self = Node::fork(old, hash, item, at);
            }
            Kind::Split(split) => {
                let split = Arc::make_mut(split);
                split.len += 1;
                match dense.hash(&split.cut) {
                    Some(hash) => split.table.insert(item, dense, at.in_table(hash)),
                    None => split.rest.insert(item, dense, at.in_rest()),
                }
                if split.len / 2 >= split.chosen_for && split.len <= REMADE {
                    self.think_over(dense.keys, at);
                }
            }
        }
    }

    /// Gives the item of that rank another value. It has to be there, with that match.
    pub(super) fn replace(&mut self, rank: Rank, value: V, dense: &Dense<'_>) {
        let (mut node, mut at) = (self, At::default());
        loop {
            match &mut node.kind {
                Kind::Empty => return,
                Kind::Leaf(items) => return replace(items, rank, value),
                Kind::Long(long) => return Arc::make_mut(long).replace(rank, value),
                Kind::Branch(children) => {
                    node = &mut Arc::make_mut(children)[at.turn(at.hash)];
                    at = at.in_branch();
                }
                Kind::Split(split) => {
                    let split = Arc::make_mut(split);
                    match dense.hash(&split.cut) {
                        Some(hash) => (node, at) = (&mut split.table, at.in_table(hash)),
                        None => (node, at) = (&mut split.rest, at.in_rest()),
                    }
                }
            }
        }
    }

    /// Takes the item of that rank out. It has to be there, with that match.
    pub(super) fn remove(&mut self, rank: Rank, dense: &Dense<'_>, at: At) {
        match &mut self.kind {
            Kind::Empty => {}
            Kind::Leaf(items) => *self = Node::of_ranked(removed(items, rank)),
            Kind::Long(long) => {
                let long = Arc::make_mut(long);
                long.remove(rank);
                self.max = long.first().map_or(Rank::NONE, |first| first.rank);
                if long.len() <= PIECE / 2 {
                    *self = Node::of_ranked(self.items().cloned().collect());
                }
            }
            Kind::Branch(children) => {
                let children = Arc::make_mut(children);
                children[at.turn(at.hash)].remove(rank, dense, at.in_branch());
                self.max = children.iter().map(|child| child.max).max().unwrap_or(Rank::NONE);
                if few(children) {
                    *self = Node::leaf(self.items().cloned().collect());
                }
            }
            Kind::Split(split) => {
                let split = Arc::make_mut(split);
                split.len -= 1;
                match dense.hash(&split.cut) {
                    Some(hash) => split.table.remove(rank, dense, at.in_table(hash)),
                    None => split.rest.remove(rank, dense, at.in_rest()),
                }
                self.max = split.table.max.max(split.rest.max);
                self.shrink(dense.keys, at);
            }
        }
    }

    /// A split that has lost a rule: is it still worth being one?
    fn shrink(&mut self, keys: &Keys, at: At) {
        let Kind::Split(split) = &mut self.kind else { return };
        let hash = split.hash;
        if split.len as usize <= LEAF / 2 {
            *self = Node::leaf(self.items_for(hash));
        } else if matches!(split.table.kind, Kind::Empty) {
            let rest = std::mem::replace(&mut Arc::make_mut(split).rest, Node::EMPTY);
            *self = rest;
        } else if split.len <= split.chosen_for / 4 && split.len <= REMADE {
            self.think_over(keys, at);
        }
    }

    /// Its items, for a table in which their hash is `hash`.
    fn items_for(&self, hash: u32) -> Vec<Item<V>> {
        self.items().map(|item| Item { hash, ..item.clone() }).collect()
    }

    /// Makes a split anew if that promises much.
    fn think_over(&mut self, keys: &Keys, at: At) {
        let Kind::Split(split) = &self.kind else { return };
        let items: Vec<&Item<V>> = self.items().collect();
        match choose::better(&items, &split.cut) {
            Some(cut) => {
                let items = self.items_for(split.hash);
                *self = Node::split(items, cut, keys, at);
            }
            None => {
                if let Kind::Split(split) = &mut self.kind {
                    let split = Arc::make_mut(split);
                    split.chosen_for = split.len;
                }
            }
        }
    }

    /// A list of these.
    fn leaf(mut items: Vec<Item<V>>) -> Node<V> {
        items.sort_unstable_by_key(|item| std::cmp::Reverse(item.rank));
        match items.first() {
            Some(first) if items.len() > PIECE => {
                Node { max: first.rank, kind: Kind::Long(Arc::new(Long::of_ranked(&items))) }
            }
            _ => Node::of_ranked(items.into()),
        }
    }

    /// A leaf of these, which are in order.
    fn of_ranked(items: Arc<[Item<V>]>) -> Node<V> {
        match items.first() {
            Some(first) => Node { max: first.rank, kind: Kind::Leaf(items) },
            None => Node::EMPTY,
        }
    }

    /// A tree of these, whose hashes are those in the table that it will be in.
    fn build(items: Vec<Item<V>>, keys: &Keys, at: At) -> Node<V> {
        if items.len() <= LEAF {
            return Node::leaf(items);
        }
        let first = items.first().map(|item| item.hash);
        if items.iter().any(|item| Some(item.hash) != first) {
            return Node::branch(items, keys, at);
        }
        let some: Vec<&Item<V>> = items.iter().collect();
        match choose::cut(&some) {
            Some(cut) if at.depth < DEPTH => Node::split(items, cut, keys, at),
            _ => Node::leaf(items),
        }
    }

    fn branch(items: Vec<Item<V>>, keys: &Keys, at: At) -> Node<V> {
        let mut parts: [Vec<Item<V>>; WIDTH] = std::array::from_fn(|_| Vec::new());
        for item in items {
            parts[at.turn(item.hash)].push(item);
        }
        Node::of_children(parts.map(|part| Node::build(part, keys, at.in_branch())))
    }

    fn of_children(children: [Node<V>; WIDTH]) -> Node<V> {
        let max = children.iter().map(|child| child.max).max().unwrap_or(Rank::NONE);
        Node { max, kind: Kind::Branch(Arc::new(children)) }
    }

    /// A branch for a split with that hash, and an item with another.
    fn fork(old: Node<V>, hash: u32, item: Item<V>, at: At) -> Node<V> {
        let mut children = [const { Node::EMPTY }; WIDTH];
        if at.turn(hash) == at.turn(item.hash) {
            children[at.turn(hash)] = Node::fork(old, hash, item, at.in_branch());
        } else {
            let turn = at.turn(item.hash);
            children[at.turn(hash)] = old;
            children[turn] = Node::leaf(vec![item]);
        }
        Node::of_children(children)
    }

    /// Splits these, which have all the same hash, by that cut.
    fn split(items: Vec<Item<V>>, cut: Cut, keys: &Keys, at: At) -> Node<V> {
        let (len, hash) = (items.len() as u32, items.first().map_or(0, |item| item.hash));
        let (mut table, rest): (Vec<_>, Vec<_>) =
            items.into_iter().partition(|item| cut.is_read_by_match(&item.matches));
        table.iter_mut().for_each(|item| item.hash = cut.hash_match(&item.matches, keys));
        let (table, rest) =
            (Node::build(table, keys, at.in_table(0)), Node::build(rest, keys, at.in_table(0)));
        let max = table.max.max(rest.max);
        Node { max, kind: Kind::Split(Arc::new(Split { cut, table, rest, hash, len, chosen_for: len })) }
    }
}

/// Whether a list that grows to that length is to be cut, if anything can cut it. All of a long one have the same hash.
fn is_tried<V>(longer: usize, first: Option<&Item<V>>, at: At) -> bool {
    longer == LEAF + 1 || longer.is_power_of_two() || first.is_some_and(|first| first.hash != at.hash)
}

/// Whether a branch with these children is better a leaf.
fn few<V>(children: &[Node<V>; WIDTH]) -> bool {
    let mut items = 0;
    for child in children {
        items += match &child.kind {
            Kind::Empty => 0,
            Kind::Leaf(own) => own.len(),
            _ => return false,
        };
    }
    items <= LEAF / 2
}
