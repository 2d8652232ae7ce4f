//! What the last publications changed, so that cached flows can be checked against it.

use std::collections::VecDeque;
use std::sync::Arc;

use weft_flow::Match;

use super::{Rule, TableId};

/// How many change sets are kept at least.
pub const KEPT: usize = 128;
/// A publication with more records than this says which tables it changed, and no more.
pub const DETAIL: usize = 256;
const CHUNK: usize = 16;

/// One thing that a publication changed.
#[derive(Clone, Debug)]
pub enum ChangeRecord {
    /// A rule is new; or one that is a clause of a conjunctive match is gone or another one, which changes the same
    /// look-ups.
    Added {
        /// Its table.
        table: TableId,
        /// Its priority.
        priority: u16,
        /// Which packets.
        matches: Match,
        /// It is a clause of a conjunctive match.
        conj: bool,
    },
    /// A rule is gone, or something else stands in its place.
    Removed {
        /// The rule.
        rule: Arc<Rule>,
    },
    /// A group came, went or changed.
    Group(u32),
    /// A meter came, went or changed.
    Meter(u32),
    /// Anything in this table may have changed.
    Table(TableId),
}

#[derive(Debug)]
struct ChangeSet {
    version: u64,
    records: Box<[ChangeRecord]>,
}

/// The last change sets. Cheap to clone: they are held by sixteens.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    chunks: VecDeque<Arc<Vec<Arc<ChangeSet>>>>,
}

impl History {
    /// Notes what the publication of `version` changes.
    pub fn push(&mut self, version: u64, records: Vec<ChangeRecord>) {
        let set = Arc::new(ChangeSet { version, records: condensed(records).into() });
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK => Arc::make_mut(chunk).push(set),
            _ => self.chunks.push_back(Arc::new(vec![set])),
        }
        if self.chunks.len() > KEPT / CHUNK + 1 {
            self.chunks.pop_front();
        }
    }

    /// What was changed after `version`; `None` if that is too long ago to know.
    pub fn since(&self, version: u64, current: u64) -> Option<impl Iterator<Item = &ChangeRecord>> {
        let sets = self.chunks.iter().flat_map(|chunk| chunk.iter());
        let oldest = sets.clone().next().map_or(current + 1, |set| set.version);
        let known = version.saturating_add(1) >= oldest;
        known.then(|| sets.filter(move |set| set.version > version).flat_map(|set| set.records.iter()))
    }
}

/// Large sets are not worth their details: who checks them would sooner walk again, and removed rules would stay alive.
fn condensed(records: Vec<ChangeRecord>) -> Vec<ChangeRecord> {
    if records.len() <= DETAIL {
        return records;
    }
    let mut tables = Vec::new();
    let mut rest = Vec::new();
    for record in records {
        match record {
            ChangeRecord::Added { table, .. } | ChangeRecord::Table(table) => tables.push(table),
            ChangeRecord::Removed { rule } => tables.push(rule.table),
            other => rest.push(other),
        }
    }
    tables.sort_unstable();
    tables.dedup();
    rest.extend(tables.into_iter().map(ChangeRecord::Table));
    rest
}
