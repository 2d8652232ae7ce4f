//! Going through the tree for people and for loose changes: all rules, those within a match, those that overlap one.

use std::slice;
use std::sync::Arc;

use weft_flow::Match;

use super::cut::{Dense, Keys};
use super::node::{Item, Kind, Node, STEP, child};

/// All items, lazily.
#[derive(Debug)]
pub(super) struct Items<'a, V> {
    todo: Vec<&'a Node<V>>,
    pieces: slice::Iter<'a, Arc<[Item<V>]>>,
    leaf: slice::Iter<'a, Item<V>>,
}

impl<'a, V> Iterator for Items<'a, V> {
    type Item = &'a Item<V>;

    fn next(&mut self) -> Option<&'a Item<V>> {
        loop {
            if let Some(item) = self.leaf.next() {
                return Some(item);
            }
            if let Some(piece) = self.pieces.next() {
                self.leaf = piece.iter();
                continue;
            }
            match &self.todo.pop()?.kind {
                Kind::Empty => {}
                Kind::Leaf(items) => self.leaf = items.iter(),
                Kind::Long(long) => self.pieces = long.pieces().iter(),
                Kind::Branch(children) => self.todo.extend(children.iter()),
                Kind::Split(split) => self.todo.extend([&split.rest, &split.table]),
            }
        }
    }
}

/// Which items are wanted.
struct Query<'q> {
    matches: &'q Match,
    dense: Dense<'q>,
    /// `None`: those within the match. Else those of the priority that overlap it.
    overlapping: Option<u16>,
}

impl<V> Node<V> {
    pub(super) fn items(&self) -> Items<'_, V> {
        Items { todo: vec![self], pieces: [].iter(), leaf: [].iter() }
    }

    /// The item of that priority and match.
    pub(super) fn find(&self, priority: u16, matches: &Match, dense: &Dense<'_>) -> Option<&Item<V>> {
        let (mut node, mut hash, mut left) = (self, 0, 0);
        let is_it = |hash: u32, item: &&Item<V>| {
            item.hash == hash && item.rank.priority() == priority && item.matches == *matches
        };
        loop {
            match &node.kind {
                Kind::Empty => return None,
                Kind::Leaf(items) => return items.iter().find(|item| is_it(hash, item)),
                Kind::Long(_) => return node.items().find(|item| is_it(hash, item)),
                Kind::Branch(children) => {
                    node = child(children, left);
                    left >>= STEP;
                }
                Kind::Split(split) if split.hash != hash => return None,
                Kind::Split(split) => match dense.hash(&split.cut) {
                    Some(table) => {
                        (hash, left) = (table, table);
                        node = &split.table;
                    }
                    None => node = &split.rest,
                },
            }
        }
    }

    /// The items whose match is within `filter`.
    pub(super) fn within(&self, filter: &Match, keys: &Keys) -> Vec<&Item<V>> {
        let query = Query { matches: filter, dense: Dense::new(filter, keys), overlapping: None };
        let mut found = Vec::new();
        self.select(&query, Some(0), &mut found);
        found
    }

    /// The items of that priority that overlap `matches`.
    pub(super) fn overlapping(&self, priority: u16, matches: &Match, keys: &Keys) -> Vec<&Item<V>> {
        let query = Query { matches, dense: Dense::new(matches, keys), overlapping: Some(priority) };
        let mut found = Vec::new();
        self.select(&query, Some(0), &mut found);
        found
    }

    /// `hash` is that of the table that this is in, if only one comes into question.
    fn select<'a>(&'a self, query: &Query<'_>, hash: Option<u32>, found: &mut Vec<&'a Item<V>>) {
        let (mut node, mut left) = (self, hash);
        loop {
            if query.overlapping.is_some_and(|priority| node.max.priority() < priority) {
                return;
            }
            match &node.kind {
                Kind::Empty => return,
                Kind::Leaf(_) | Kind::Long(_) => {
                    return found.extend(node.items().filter(|item| query.wants(item)));
                }
                Kind::Branch(children) => {
                    let Some(bits) = left else {
                        return children.iter().for_each(|child| child.select(query, None, found));
                    };
                    node = child(children, bits);
                    left = Some(bits >> STEP);
                }
                Kind::Split(split) if hash.is_some_and(|hash| hash != split.hash) => return,
                Kind::Split(split) => {
                    let table = query.dense.hash(&split.cut);
                    split.table.select(query, table, found);
                    // What is within a match compares all that the match does.
                    if table.is_some() && query.overlapping.is_none() {
                        return;
                    }
                    node = &split.rest;
                }
            }
        }
    }
}

impl Query<'_> {
    fn wants<V>(&self, item: &Item<V>) -> bool {
        match self.overlapping {
            None => item.matches.is_within(self.matches),
            Some(priority) => item.rank.priority() == priority && item.matches.overlaps(self.matches),
        }
    }
}
