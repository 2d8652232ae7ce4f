//! What packets can have read, and where they can go, from one table on: the union over all that is reachable.
//!
//! Each table keeps, by reference counts, which bits its rules read and where they send packets. So a rule that comes
//! costs only itself, and nothing is walked unless a table's union or edges change.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use weft_flow::message::BandKind;
use weft_flow::{Field, KeyMask, Subfield};
use weft_wire::OfPort;

use super::reads::Reads;
use super::table::Summary;
use super::{Miss, TableId, Tables};

/// One thing that actions can lead to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Edge {
    /// A look-up in that table.
    Table(TableId),
    /// That group.
    Group(u32),
    /// That meter.
    Meter(u32),
    /// That port, or a reserved one: `NORMAL`, `FLOOD`, `ALL`, `IN_PORT`, `LOCAL`.
    Port(OfPort),
    /// A port whose number is read from a field, or learned: any.
    Dynamic,
    /// The controllers.
    Controller,
    /// Connection tracking.
    Ct,
    /// `check_pkt_larger` with that length.
    Length(u16),
    /// The outermost tag goes, so that the second is read in its place.
    PopVlan,
    /// A tag comes, so that the outermost is read as the second.
    PushVlan,
}

/// What packets that enter a table can have read, and where they can go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reach {
    /// Which bits of them; where they came in is always among them.
    pub mask: KeyMask,
    /// The same without what tracking reads to know their connections. What kind of packet they are is always among them.
    pub apart: KeyMask,
    /// All that they can come to, each once, in ascending order; tables include the first one.
    pub edges: Vec<Edge>,
}

impl Reach {
    /// Whether that can be come to.
    pub fn has(&self, edge: Edge) -> bool {
        self.edges.binary_search(&edge).is_ok()
    }

    /// The ports of the bridge that packets can leave by; `None` is any of them.
    pub fn ports(&self) -> Option<impl Iterator<Item = OfPort>> {
        let any = [OfPort::NORMAL, OfPort::FLOOD, OfPort::ALL];
        let all = self.has(Edge::Dynamic) || any.into_iter().any(|port| self.has(Edge::Port(port)));
        (!all).then(|| {
            self.edges.iter().filter_map(|edge| match edge {
                Edge::Port(port) => Some(*port),
                _ => None,
            })
        })
    }

    /// The lengths that `check_pkt_larger` compares with, ascending.
    pub fn lengths(&self) -> impl Iterator<Item = u16> {
        self.edges.iter().filter_map(|edge| match edge {
            Edge::Length(length) => Some(*length),
            _ => None,
        })
    }

    /// `beside`: packets that enter `from` can be looked up there, too, though no rule says so.
    pub(super) fn compute(tables: &Tables, from: TableId, beside: Option<TableId>) -> Reach {
        // Where it came in is in every key.
        let mut mask = KeyMask::default();
        mask.0[0] = 0xffff;
        let mut apart = union(mask, &Reads::of_kind().mask);
        let mut seen: BTreeSet<Edge> = [from].into_iter().chain(beside).map(Edge::Table).collect();
        let mut open: Vec<Edge> = seen.iter().copied().collect();
        while let Some(edge) = open.pop() {
            let (reads, edges) = follow(tables, edge);
            mask = union(mask, &reads);
            if edge != Edge::Ct {
                apart = union(apart, &reads);
            }
            open.extend(edges.into_iter().filter(|edge| seen.insert(*edge)));
        }
        shift_tags(&mut mask, &seen);
        shift_tags(&mut apart, &seen);
        Reach { mask, apart, edges: seen.into_iter().collect() }
    }
}

/// What an edge's far end reads, and where it leads.
fn follow(tables: &Tables, edge: Edge) -> (KeyMask, Vec<Edge>) {
    match edge {
        Edge::Table(id) => {
            let Some(table) = tables.table(id) else { return Default::default() };
            let miss = match table.miss {
                Miss::Drop => None,
                Miss::Controller => Some(Edge::Controller),
                Miss::Continue => id.next().map(Edge::Table),
            };
            (table.summary.reads, table.summary.edges.iter().copied().chain(miss).collect())
        }
        Edge::Group(id) => {
            let Some(group) = tables.group(id) else { return Default::default() };
            (group.reads.mask, group.reads.edges.clone())
        }
        Edge::Meter(id) => {
            let bands = tables.meter(id).map(|meter| &*meter.spec.bands).unwrap_or_default();
            let remarks = bands.iter().any(|band| matches!(band.kind, BandKind::DscpRemark(_)));
            let ip = Subfield::whole(Field::EthType).mask().key();
            (if remarks { KeyMask(ip.0) } else { KeyMask::default() }, Vec::new())
        }
        Edge::Ct => (Reads::of_tracking().mask, Vec::new()),
        _ => Default::default(),
    }
}

/// Where tags come or go, what is read of the one is read of the other.
fn shift_tags(mask: &mut KeyMask, edges: &BTreeSet<Edge>) {
    let (outer, inner) = (mask.0[1] & 0xffff, mask.0[3] >> 32 & 0xffff);
    if edges.contains(&Edge::PopVlan) {
        mask.0[3] |= outer << 32;
    }
    if edges.contains(&Edge::PushVlan) {
        mask.0[1] |= inner;
    }
}

/// Reads what either reads.
pub(super) fn union(mut mask: KeyMask, other: &KeyMask) -> KeyMask {
    mask.0.iter_mut().zip(other.0).for_each(|(word, bits)| *word |= bits);
    mask
}

/// What a table's rules read, counted, so that what the last of them read is forgotten with it.
#[derive(Debug, Default)]
pub(super) struct Uses {
    bits: HashMap<(u8, u64), u32>,
    edges: HashMap<Edge, u32>,
    stale: bool,
}

impl Uses {
    /// A rule (or what could be learned) reads this. Whether the summary may be another one now.
    pub fn add(&mut self, reads: &Reads) -> bool {
        let stale = self.stale;
        terms(&reads.mask).for_each(|term| count_up(&mut self.bits, term, &mut self.stale));
        reads.edges.iter().for_each(|edge| count_up(&mut self.edges, *edge, &mut self.stale));
        self.stale && !stale
    }

    /// It does no more.
    pub fn remove(&mut self, reads: &Reads) -> bool {
        let stale = self.stale;
        terms(&reads.mask).for_each(|term| count_down(&mut self.bits, term, &mut self.stale));
        reads.edges.iter().for_each(|edge| count_down(&mut self.edges, *edge, &mut self.stale));
        self.stale && !stale
    }

    /// The union.
    pub fn summary(&mut self) -> Summary {
        self.stale = false;
        let mut reads = KeyMask::default();
        for &(word, bits) in self.bits.keys() {
            reads.0[usize::from(word)] |= bits;
        }
        let mut edges: Vec<Edge> = self.edges.keys().copied().collect();
        edges.sort_unstable();
        Summary { reads, edges: Arc::from(edges) }
    }
}

fn terms(mask: &KeyMask) -> impl Iterator<Item = (u8, u64)> {
    mask.0.iter().zip(0..).filter(|(bits, _)| **bits != 0).map(|(&bits, word)| (word, bits))
}

fn count_up<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: K, changed: &mut bool) {
    let count = counts.entry(key).or_insert(0);
    *count += 1;
    *changed |= *count == 1;
}

fn count_down<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: K, changed: &mut bool) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
            *changed = true;
        }
    }
}
