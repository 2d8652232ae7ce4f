//! One flow table: its rules by match, its settings, and what its rules read.

use std::sync::Arc;

use weft_flow::KeyMask;

use crate::classifier::{Classifier, Clause};

use super::draft::{Draft, Step};
use super::error::Refused;
use super::reach::Edge;
use super::{RemovedReason, Rule, TableId};

/// What becomes of a packet that no rule matches (`OFPTC11_TABLE_MISS_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Miss {
    /// It is dropped.
    #[default]
    Drop,
    /// It goes to the controller, reason `no_match`.
    Controller,
    /// It is looked up in the next table.
    Continue,
}

/// A change to a table's settings; `None` leaves one as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TableMod {
    /// Which; `None` is every user's one, 0 to 253.
    pub table: Option<TableId>,
    /// Its name; the empty one is none.
    pub name: Option<Box<str>>,
    /// What becomes of a packet that no rule matches.
    pub miss: Option<Miss>,
    /// How many rules it takes; `u32::MAX` is no limit.
    pub max_flows: Option<u32>,
    /// Whether, when it is full, a rule with a timeout makes room for a new one.
    pub eviction: Option<bool>,
}

/// A table as packets find it.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its number.
    pub id: TableId,
    /// Its name; empty if it has none.
    pub name: Box<str>,
    /// What becomes of a packet that no rule matches.
    pub miss: Miss,
    /// How many rules it takes; `u32::MAX` is no limit.
    pub max_flows: u32,
    /// Whether, when it is full, a rule with a timeout makes room for a new one.
    pub eviction: bool,
    pub(super) rules: Classifier<Arc<Rule>>,
    pub(super) summary: Summary,
}

/// What all rules of a table read and where they send packets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Summary {
    pub reads: KeyMask,
    /// Ascending, each once.
    pub edges: Arc<[Edge]>,
}

impl Table {
    /// Puts a rule there, in place of an equal one.
    pub(super) fn insert(&mut self, rule: &Arc<Rule>) {
        let clauses: Box<[Clause]> = rule.clauses().collect();
        let value = Arc::clone(rule);
        if clauses.is_empty() {
            self.rules.insert(rule.priority, &rule.matches, value);
        } else {
            self.rules.insert_conjunction(rule.priority, &rule.matches, clauses, value);
        }
    }

    pub(super) fn new(id: TableId) -> Table {
        Table {
            id,
            name: "".into(),
            miss: Miss::default(),
            max_flows: u32::MAX,
            eviction: false,
            rules: Classifier::new(),
            summary: Summary::default(),
        }
    }

    /// How many rules it has.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its rules, in no order.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.iter().map(|(_, _, rule)| rule)
    }

    /// Which bits of a packet its rules' matches and actions read, and those of what they could learn into it.
    pub fn reads(&self) -> &KeyMask {
        &self.summary.reads
    }
}

impl Draft<'_> {
    /// Carries out one change to tables' settings.
    pub fn table(&mut self, change: &TableMod) -> Result<(), Refused> {
        match change.table {
            Some(TableId::INTERNAL) => Err(Refused::ReadOnlyTable(TableId::INTERNAL)),
            Some(TableId(255)) => Err(Refused::BadTable(255)),
            Some(id) => {
                self.set_table(id, change);
                Ok(())
            }
            None => {
                (0..TableId::INTERNAL.0).for_each(|id| self.set_table(TableId(id), change));
                Ok(())
            }
        }
    }

    fn set_table(&mut self, id: TableId, change: &TableMod) {
        let table = self.next.table_mut(id);
        if let Some(name) = &change.name {
            table.name.clone_from(name);
        }
        table.miss = change.miss.unwrap_or(table.miss);
        table.max_flows = change.max_flows.unwrap_or(table.max_flows);
        table.eviction = change.eviction.unwrap_or(table.eviction);
        let surplus = table.len().saturating_sub(table.max_flows as usize);
        let evicted = if table.eviction {
            self.writer.index.start_evicting(id, table.rules());
            surplus
        } else {
            0
        };
        self.steps.push(Step::Table(id));
        for _ in 0..evicted {
            let Some(rule) = self.least_worth(id) else { break };
            self.remove(&rule, RemovedReason::Eviction);
        }
        self.remove_forsaken();
    }
}
