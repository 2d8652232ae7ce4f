//! The next root while it is made, and the way back.
//!
//! A draft holds the writer's lock. Each step changes the draft's tables (copies on write, which nobody else sees) and
//! the writer's index, and is logged. A draft that is dropped undoes the index; one that is finished becomes the next
//! root, and its log the change set.

use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::Duration;

use super::history::ChangeRecord;
use super::index::Index;
use super::{FlowRemoved, Group, RemovedReason, Rule, TableId, Tables};

/// What only the writer has.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub index: Index,
    /// How many rules were ever made.
    pub serial: u64,
    /// Roots that were replaced and that somebody may still hold.
    pub retired: Vec<Arc<Tables>>,
}

/// One step of a draft.
#[derive(Debug)]
pub(super) enum Step {
    Added(Arc<Rule>),
    Removed(Arc<Rule>),
    /// Of one match and priority.
    Replaced(Arc<Rule>, Arc<Rule>),
    Group {
        id: u32,
        old: Option<Arc<Group>>,
        new: Option<Arc<Group>>,
    },
    Meter(u32),
    Table(TableId),
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub writer: MutexGuard<'a, Writer>,
    pub next: Tables,
    pub steps: Vec<Step>,
    pub removed: Vec<FlowRemoved>,
    pub now: Duration,
}

impl<'a> Draft<'a> {
    pub fn new(writer: MutexGuard<'a, Writer>, current: &Tables, now: Duration) -> Self {
        Draft { writer, next: current.clone(), steps: Vec::new(), removed: Vec::new(), now }
    }

    pub fn serial(&mut self) -> u64 {
        self.writer.serial += 1;
        self.writer.serial
    }

    /// Puts a rule into its table, where no equal one is.
    pub fn add(&mut self, rule: Arc<Rule>) {
        self.writer.index.add(&rule);
        self.next.table_mut(rule.table).insert(&rule);
        self.steps.push(Step::Added(rule));
    }

    /// Puts a rule into the place of an equal one.
    pub fn replace(&mut self, old: &Arc<Rule>, new: Arc<Rule>) {
        // The new one first: what both learn is not forsaken in between.
        self.writer.index.add(&new);
        self.writer.index.remove(old);
        self.next.table_mut(new.table).insert(&new);
        self.steps.push(Step::Replaced(Arc::clone(old), new));
    }

    /// Takes a rule out of its table.
    pub fn remove(&mut self, rule: &Arc<Rule>, reason: RemovedReason) {
        self.writer.index.remove(rule);
        self.next.table_mut(rule.table).rules.remove(rule.priority, &rule.matches);
        if rule.flags.send_removed {
            self.removed.push(FlowRemoved { rule: Arc::clone(rule), reason, at: self.now });
        }
        self.steps.push(Step::Removed(Arc::clone(rule)));
    }

    /// Takes out what was learned by `learn(delete_learned)` actions that are gone, and what goes with that.
    pub fn remove_forsaken(&mut self) {
        while let Some((cookie, table)) = self.writer.index.forsaken.pop() {
            if !self.writer.index.has_learner((cookie, table)) {
                let learned: Vec<_> = self.writer.index.with_cookie(cookie, table).cloned().collect();
                learned.iter().for_each(|rule| self.remove(rule, RemovedReason::Delete));
            }
        }
    }

    /// Puts a group there, in place of what was, or takes it away.
    pub fn set_group(&mut self, id: u32, new: Option<Arc<Group>>) {
        let groups = Arc::make_mut(&mut self.next.groups);
        let old = match &new {
            Some(group) => groups.insert(id, Arc::clone(group)),
            None => groups.remove(&id),
        };
        new.iter().for_each(|group| self.writer.index.add_group(group));
        old.iter().for_each(|group| self.writer.index.remove_group(group));
        self.steps.push(Step::Group { id, old, new });
    }

    /// Brings what tables read up to date. To be called behind the last step.
    pub fn settle(&mut self) {
        let mut reach_changes = self
            .steps
            .iter()
            .any(|step| matches!(step, Step::Group { .. } | Step::Meter(_) | Step::Table(_)));
        for (table, summary) in self.writer.index.take_stale() {
            if self.next.table(table).is_none_or(|table| table.summary != summary) {
                self.next.table_mut(table).summary = summary;
                reach_changes = true;
            }
        }
        if reach_changes {
            self.next.reach = Arc::new(OnceLock::new());
        }
    }

    /// The root and the events, once there is no way back. `None` if nothing was done.
    pub fn finish(&mut self) -> Option<(Tables, Vec<FlowRemoved>)> {
        let steps = std::mem::take(&mut self.steps);
        if steps.is_empty() {
            return None;
        }
        let mut next = std::mem::take(&mut self.next);
        next.version += 1;
        next.history.push(next.version, steps.into_iter().flat_map(records).collect());
        Some((next, std::mem::take(&mut self.removed)))
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        let index = &mut self.writer.index;
        for step in std::mem::take(&mut self.steps).iter().rev() {
            match step {
                Step::Added(rule) => index.remove(rule),
                Step::Removed(rule) => index.add(rule),
                Step::Replaced(old, new) => {
                    index.add(old);
                    index.remove(new);
                }
                Step::Group { old, new, .. } => {
                    old.iter().for_each(|group| index.add_group(group));
                    new.iter().for_each(|group| index.remove_group(group));
                }
                Step::Meter(_) | Step::Table(_) => {}
            }
        }
        index.forsaken.clear();
    }
}

/// What cached flows need to know of a step.
fn records(step: Step) -> impl Iterator<Item = ChangeRecord> {
    let added = |rule: &Rule| ChangeRecord::Added {
        table: rule.table,
        priority: rule.priority,
        matches: rule.matches.clone(),
        conj: rule.is_clause(),
    };
    // A clause is no rule that a flow has hit. Without it another rule may be the answer, as with a new one.
    let clause = |rule: &Arc<Rule>| rule.is_clause().then(|| added(rule));
    let (first, second) = match step {
        Step::Added(rule) => (added(&rule), None),
        Step::Removed(rule) => {
            let second = clause(&rule);
            (ChangeRecord::Removed { rule }, second)
        }
        // Who did not match the old one does not match the new one either, unless clauses decide.
        Step::Replaced(old, new) => {
            let second = clause(&old).or_else(|| clause(&new));
            (ChangeRecord::Removed { rule: old }, second)
        }
        Step::Group { id, .. } => (ChangeRecord::Group(id), None),
        Step::Meter(id) => (ChangeRecord::Meter(id), None),
        Step::Table(id) => (ChangeRecord::Table(id), None),
    };
    std::iter::once(first).chain(second)
}
