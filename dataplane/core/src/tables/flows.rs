//! Changes to rules: add, modify and delete, strict and loose (OpenFlow 1.5.1, section 6.4; ovs-ofctl(8)).

use std::sync::Arc;

use weft_flow::Action;
use weft_flow::message::{FlowCommand, FlowMod};
use weft_wire::OfPort;

use super::draft::Draft;
use super::error::Refused;
use super::index::each;
use super::rule::Seed;
use super::{RemovedReason, Rule, Table, TableId};

/// How deep actions may be nested.
pub(super) const NESTING: usize = 100;

/// Who asks, and for which tables.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scope {
    /// OpenFlow: the message's table, or every user's one.
    Users,
    /// This very table, be it internal or weft's own.
    Table(TableId),
}

impl Draft<'_> {
    /// Carries out one change to rules.
    pub fn flow(&mut self, scope: Scope, flow: &FlowMod) -> Result<(), Refused> {
        match flow.command {
            FlowCommand::Add => self.add_flow(scope, flow),
            FlowCommand::Modify | FlowCommand::ModifyStrict => self.modify_flows(scope, flow),
            FlowCommand::Delete | FlowCommand::DeleteStrict => self.delete_flows(scope, flow),
        }?;
        self.remove_forsaken();
        Ok(())
    }

    fn add_flow(&mut self, scope: Scope, flow: &FlowMod) -> Result<(), Refused> {
        let table = writable(scope, flow)?.unwrap_or(TableId::FIRST);
        self.check_actions(&flow.actions)?;
        let old = self.next.rule(table, flow.priority, &flow.matches).cloned();
        if old.is_none() {
            self.check_overlap(table, flow)?;
            self.make_room(table)?;
        }
        let actions = self.writer.index.share(&flow.actions);
        let seed = self.seed(table, flow, actions);
        let new = Arc::new(Rule::added(seed, old.as_deref()));
        match old {
            Some(old) => self.replace(&old, new),
            None => self.add(new),
        }
        Ok(())
    }

    fn seed<'f>(&mut self, table: TableId, flow: &'f FlowMod, actions: Arc<[Action]>) -> Seed<'f> {
        Seed { table, flow, actions, now: self.now, serial: self.serial() }
    }

    fn check_overlap(&self, table: TableId, flow: &FlowMod) -> Result<(), Refused> {
        let overlaps = |table: &Table| table.rules.overlapping(flow.priority, &flow.matches).next().is_some();
        let any = flow.flags.check_overlap && self.next.table(table).is_some_and(|table| overlaps(table));
        if any { Err(Refused::Overlap) } else { Ok(()) }
    }

    /// Before a rule is added: a full table gives one up, if it may.
    fn make_room(&mut self, id: TableId) -> Result<(), Refused> {
        let Some(table) = self.next.table(id) else { return Ok(()) };
        let (max_flows, eviction) = (table.max_flows, table.eviction);
        if table.len() < max_flows as usize {
            return Ok(());
        }
        let full = Refused::TableFull { table: id, max_flows };
        let least = if eviction { self.least_worth(id) } else { None };
        let rule = least.ok_or(full)?;
        self.remove(&rule, RemovedReason::Eviction);
        Ok(())
    }

    /// The rule with a timeout that is least important, and of those the one that would expire first.
    pub fn least_worth(&mut self, table: TableId) -> Option<Arc<Rule>> {
        // Rules that were used since they were last looked at move back; looking at a few is enough.
        for _ in 0..64 {
            let rule = Arc::clone(self.writer.index.evictable(table)?);
            let known = rule.scheduled.load(std::sync::atomic::Ordering::Relaxed);
            self.writer.index.schedule(&rule);
            if rule.scheduled.load(std::sync::atomic::Ordering::Relaxed) == known {
                return Some(rule);
            }
        }
        self.writer.index.evictable(table).cloned()
    }

    fn modify_flows(&mut self, scope: Scope, flow: &FlowMod) -> Result<(), Refused> {
        let strict = flow.command == FlowCommand::ModifyStrict;
        writable(scope, flow)?;
        let rules = self.select(scope, flow, strict);
        if rules.is_empty() {
            return if flow.or_add { self.add_flow(scope, flow) } else { Ok(()) };
        }
        self.check_actions(&flow.actions)?;
        let actions = self.writer.index.share(&flow.actions);
        for old in &rules {
            let seed = self.seed(old.table, flow, Arc::clone(&actions));
            self.replace(old, Arc::new(Rule::modified(seed, old)));
        }
        Ok(())
    }

    fn delete_flows(&mut self, scope: Scope, flow: &FlowMod) -> Result<(), Refused> {
        readable(scope, flow)?;
        let rules = self.select(scope, flow, flow.command == FlowCommand::DeleteStrict);
        let read_only = |rule: &&Arc<Rule>| matches!(scope, Scope::Users) && !rule.table.is_users();
        if let Some(rule) = rules.iter().find(read_only) {
            return Err(Refused::ReadOnlyTable(rule.table));
        }
        let goes = |rule: &&Arc<Rule>| {
            flow.out_port.is_none_or(|port| outputs_to(&rule.actions, port))
                && flow.out_group.is_none_or(|group| uses_group(&rule.actions, group))
        };
        rules.iter().filter(goes).for_each(|rule| self.remove(rule, RemovedReason::Delete));
        Ok(())
    }

    /// The rules that a modification or deletion is about.
    fn select(&self, scope: Scope, flow: &FlowMod, strict: bool) -> Vec<Arc<Rule>> {
        let tables: Vec<&Arc<Table>> = match scope_table(scope, flow) {
            Some(id) => self.next.table(id).into_iter().collect(),
            None => self.next.users_tables().collect(),
        };
        let (cookie, mask) = flow.cookie_filter;
        let wanted = |rule: &&Arc<Rule>| (rule.cookie ^ cookie) & mask == 0;
        let mut rules = Vec::new();
        for table in tables {
            if strict {
                rules.extend(table.rules.get(flow.priority, &flow.matches).filter(wanted).cloned());
            } else if mask == u64::MAX {
                let within = |rule: &&Arc<Rule>| rule.matches.is_within(&flow.matches);
                rules.extend(self.writer.index.with_cookie(cookie, table.id).filter(within).cloned());
            } else {
                let within = table.rules.within(&flow.matches).map(|(_, _, rule)| rule);
                rules.extend(within.filter(wanted).cloned());
            }
        }
        rules
    }

    /// What actions presuppose, beside what their text or bytes show.
    fn check_actions(&self, actions: &[Action]) -> Result<(), Refused> {
        check_nesting(actions, NESTING)?;
        let clause = |action: &Action| matches!(action, Action::Conjunction { .. });
        let note = |action: &Action| matches!(action, Action::Note(_));
        if actions.iter().any(clause) && !actions.iter().all(|action| clause(action) || note(action)) {
            return Err(Refused::MixedConjunction);
        }
        let mut refused = Ok(());
        each(actions, &mut |action| {
            let why = match action {
                Action::Group(id) if self.next.group(*id).is_none() => Refused::BadOutGroup(*id),
                Action::Meter(id) if self.next.meter(*id).is_none() => Refused::BadOutMeter(*id),
                _ => return,
            };
            if refused.is_ok() {
                refused = Err(why);
            }
        });
        refused
    }
}

/// The table that a change is about; `None` is every user's.
fn scope_table(scope: Scope, flow: &FlowMod) -> Option<TableId> {
    match scope {
        Scope::Users => flow.table.map(TableId::from),
        Scope::Table(id) => Some(id),
    }
}

/// The table that is looked at.
fn readable(scope: Scope, flow: &FlowMod) -> Result<Option<TableId>, Refused> {
    match scope_table(scope, flow) {
        Some(TableId(255)) => Err(Refused::BadTable(255)),
        table => Ok(table),
    }
}

/// The table that is changed.
fn writable(scope: Scope, flow: &FlowMod) -> Result<Option<TableId>, Refused> {
    match (readable(scope, flow)?, scope) {
        (Some(TableId::INTERNAL), Scope::Users) => Err(Refused::ReadOnlyTable(TableId::INTERNAL)),
        (table, _) => Ok(table),
    }
}

pub(super) fn check_nesting(actions: &[Action], deeper: usize) -> Result<(), Refused> {
    let below = deeper.checked_sub(1).ok_or(Refused::NestedTooDeep(NESTING))?;
    let mut nested = actions.iter().map(Action::nested).filter(|nested| !nested.is_empty());
    nested.try_for_each(|nested| check_nesting(nested, below))
}

/// Whether rules that name this port as an output are meant (`out_port`); outputs by number in a field aren't.
fn outputs_to(actions: &[Action], port: OfPort) -> bool {
    let mut found = port == OfPort::NONE;
    each(actions, &mut |action| {
        found |= match action {
            Action::Output(to) | Action::Enqueue { port: to, .. } => *to == port,
            Action::Controller(_) => port == OfPort::CONTROLLER,
            _ => false,
        };
    });
    found
}

fn uses_group(actions: &[Action], group: u32) -> bool {
    let mut found = false;
    each(actions, &mut |action| found |= matches!(action, Action::Group(id) if *id == group));
    found
}
