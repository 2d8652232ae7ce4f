//! The tree that rules are looked up in.
//!
//! Rules that are few are a *leaf*: a short list, by rank. A list that has become too long is *split* by a [`Cut`], that
//! is some bits which most of its rules compare: those that compare all of them go into a table that is hashed by their
//! value there; the *rest*, which leave some of them open, goes into a tree of its own beside it. A table is a trie of
//! *branches* by four bits of the hash at a time. Under one hash value there is a tree again, which other bits can split.
//!
//! A look-up goes through one bucket of each table and the rest beside it, and leaves out what can't rank higher than what
//! it has. Cuts are wide where rules are alike (one table for all of Neutron's rules of a kind) and narrow where they
//! are not (a few bits that all prefixes have), so that there are a few tables where tuple space search has one for each
//! mask. This is TupleMerge's idea (Daly and others, 2019), applied again within each bucket.
//!
//! Always true: `max` is the highest rank below a node. In a leaf ranks fall. All items of one leaf or split below a
//! table come to it by the table's hash; those of a split have all the same. A split's rest has the hash of the split
//! itself. Nothing that is published is changed: everything hangs on `Arc`s, and is copied before it changes.

use std::sync::Arc;

use weft_flow::{Fields, Match};

use super::cut::{Cut, Keys};
use super::long::Long;
use super::rank::Rank;

/// Rules that a leaf has at most, unless nothing tells them apart.
pub(super) const LEAF: usize = 16;
/// Children of a branch.
pub(super) const WIDTH: usize = 16;
/// Bits of the hash that choose one.
pub(super) const STEP: u32 = 4;

/// A rule.
#[derive(Clone, Debug)]
pub(super) struct Item<V> {
    pub(super) rank: Rank,
    pub(super) matches: Match,
    pub(super) value: V,
    /// Its hash in the table that it is in; 0 if it is in none.
    pub(super) hash: u32,
}

/// A part of the tree.
#[derive(Clone, Debug)]
pub(super) struct Node<V> {
    pub(super) max: Rank,
    pub(super) kind: Kind<V>,
}

#[derive(Clone, Debug)]
pub(super) enum Kind<V> {
    Empty,
    /// At least one item.
    Leaf(Arc<[Item<V>]>),
    /// Items that nothing tells apart, too many for a leaf.
    Long(Arc<Long<V>>),
    /// Only below a split's table.
    Branch(Arc<[Node<V>; WIDTH]>),
    Split(Arc<Split<V>>),
}

#[derive(Clone, Debug)]
pub(super) struct Split<V> {
    pub(super) cut: Cut,
    /// Those that compare all bits of the cut, by their hash.
    pub(super) table: Node<V>,
    /// Those that don't.
    pub(super) rest: Node<V>,
    /// The hash of all of them in the table that the split is in.
    pub(super) hash: u32,
    /// How many rules there are below.
    pub(super) len: u32,
    /// How many there were when the cut was chosen, or last thought to be good.
    pub(super) chosen_for: u32,
}

const _: () = assert!(size_of::<Node<Arc<u8>>>() == 32 && size_of::<Item<Arc<u8>>>() == 40);

/// What is looked for.
#[derive(Debug)]
pub(super) struct Packet<'p> {
    pub(super) fields: &'p Fields,
    pub(super) keys: &'p Keys,
}

/// What a look-up has found so far.
#[derive(Debug)]
pub(super) struct Best<'a, V> {
    pub(super) rank: Rank,
    pub(super) value: Option<&'a V>,
}

impl<V> Node<V> {
    pub(super) const EMPTY: Node<V> = Node { max: Rank::NONE, kind: Kind::Empty };

    /// Looks for what covers `fields` and ranks higher than the best so far. `hash` is that of the table this is in.
    #[inline]
    pub(super) fn best<'a>(&'a self, fields: &Fields, keys: &Keys, hash: u32, best: &mut Best<'a, V>) {
        if self.max <= best.rank {
            return;
        }
        match &self.kind {
            Kind::Leaf(items) => best_of(items, fields, hash, best),
            _ => self.best_below(fields, keys, hash, best),
        }
    }

    fn best_below<'a>(&'a self, fields: &Fields, keys: &Keys, hash: u32, best: &mut Best<'a, V>) {
        let (mut node, mut left) = (self, hash);
        while node.max > best.rank {
            match &node.kind {
                Kind::Leaf(items) => return best_of(items, fields, hash, best),
                Kind::Long(long) => {
                    return long.pieces().iter().for_each(|items| best_of(items, fields, hash, best));
                }
                Kind::Branch(children) => {
                    node = child(children, left);
                    left >>= STEP;
                }
                Kind::Split(split) if split.hash == hash => {
                    let table = split.cut.hash(fields, keys);
                    if split.rest.max > split.table.max {
                        split.rest.best(fields, keys, hash, best);
                        return split.table.best(fields, keys, table, best);
                    }
                    split.table.best(fields, keys, table, best);
                    node = &split.rest;
                }
                Kind::Split(_) | Kind::Empty => return,
            }
        }
    }

    /// Calls `take` with each that covers the packet and ranks above `above`.
    pub(super) fn covering<'a>(
        &'a self,
        packet: &Packet<'_>,
        above: Rank,
        hash: u32,
        take: &mut dyn FnMut(Rank, &'a V),
    ) {
        let (mut node, mut left) = (self, hash);
        let mut of = |items: &'a [Item<V>]| {
            let items = items.iter().take_while(|item| item.rank > above);
            items
                .filter(|item| item.hash == hash && item.matches.covers(packet.fields))
                .for_each(|item| take(item.rank, &item.value));
        };
        while node.max > above {
            match &node.kind {
                Kind::Leaf(items) => return of(items),
                Kind::Long(long) => return long.pieces().iter().for_each(|items| of(items)),
                Kind::Branch(children) => {
                    node = child(children, left);
                    left >>= STEP;
                }
                Kind::Split(split) if split.hash == hash => {
                    let table = split.cut.hash(packet.fields, packet.keys);
                    split.table.covering(packet, above, table, take);
                    return split.rest.covering(packet, above, hash, take);
                }
                Kind::Split(_) | Kind::Empty => return,
            }
        }
    }
}

/// The child for the lowest bits of what is left of a hash.
#[inline(always)]
pub(super) fn child<V>(children: &[Node<V>; WIDTH], left: u32) -> &Node<V> {
    &children[left as usize % WIDTH]
}

#[inline(always)]
fn best_of<'a, V>(items: &'a [Item<V>], fields: &Fields, hash: u32, best: &mut Best<'a, V>) {
    for item in items {
        if item.rank <= best.rank {
            return;
        }
        if item.hash == hash && item.matches.covers(fields) {
            (best.rank, best.value) = (item.rank, Some(&item.value));
            return;
        }
    }
}
