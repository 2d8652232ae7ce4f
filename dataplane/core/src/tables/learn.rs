//! Rules that workers make (`learn`, ovs-actions(7)).

use std::sync::TryLockError;
use std::time::Duration;

use weft_flow::message::{FlowCommand, FlowMod};

use super::flows::Scope;
use super::reach::union;
use super::{Edge, FlowTables, Rule, TableId, Tables};

/// What became of a rule that a worker wants.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LearnResult {
    /// It is new, or different from before.
    Made,
    /// It was there; its hard timeout counts from now.
    Refreshed,
    /// Not now: somebody else is changing the tables, or the rule that learns is gone (and key masks with it). Walk again
    /// with the next packet.
    Busy,
    /// It can't be: the limit is reached, the table is full, or there is no such table.
    Full,
}

impl FlowTables {
    /// Makes a rule, or keeps the one that is already so from ending. `limit` is how many rules with its cookie its
    /// table may have; 0 is no limit. Never waits, and frees nothing.
    ///
    /// An equal rule is only refreshed: that takes no lock and makes no new version. The rule's `command` and `or_add`
    /// are not looked at: it comes in place of one with its match and priority, whose counters it keeps (and whose
    /// timeouts, as a modification does).
    pub fn learn(&self, flow: &FlowMod, limit: u32, now: Duration) -> LearnResult {
        let Some(table) = flow.table.map(TableId::from).filter(|table| table.is_users()) else {
            return LearnResult::Full;
        };
        let refresh = |rule: &Rule| {
            let same = is_as(rule, flow);
            if same {
                rule.refresh(now);
            }
            same
        };
        if self.load().rule(table, flow.priority, &flow.matches).is_some_and(|rule| refresh(rule)) {
            return LearnResult::Refreshed;
        }
        let writer = match self.writer.try_lock() {
            Ok(writer) => writer,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return LearnResult::Busy,
        };
        let mut draft = self.draft(writer, now);
        // Another worker may have made it meanwhile.
        if draft.next.rule(table, flow.priority, &flow.matches).is_some_and(|rule| refresh(rule)) {
            return LearnResult::Refreshed;
        }
        let cookie = flow.cookie.unwrap_or(0);
        if limit != 0 && draft.writer.index.count_with_cookie(cookie, table) >= limit as usize {
            return LearnResult::Full;
        }
        let flow = FlowMod { command: FlowCommand::ModifyStrict, or_add: true, ..flow.clone() };
        if draft.flow(Scope::Users, &flow).is_err() {
            return LearnResult::Full;
        }
        let prepared = self.prepared(draft);
        if widens(&self.load(), prepared.tables(), table) {
            return LearnResult::Busy;
        }
        prepared.commit_keeping(&mut |_| {});
        LearnResult::Made
    }
}

/// Whether packets in the table can have more read, or go to more ports, than key masks are made for. What a `learn`
/// action can make is counted as long as the action is there; so this is one that has just gone, or another one.
fn widens(old: &Tables, new: &Tables, table: TableId) -> bool {
    let summary =
        |tables: &Tables| tables.table(table).map(|table| table.summary.clone()).unwrap_or_default();
    let (old, new) = (summary(old), summary(new));
    let dynamic = old.edges.contains(&Edge::Dynamic);
    let known =
        |edge: &Edge| old.edges.binary_search(edge).is_ok() || dynamic && matches!(edge, Edge::Port(_));
    union(old.reads, &new.reads) != old.reads || !new.edges.iter().all(known)
}

/// Whether a rule is what the message asks for. Timeouts, importance and flags don't count: a modification keeps them.
fn is_as(rule: &Rule, flow: &FlowMod) -> bool {
    flow.cookie.is_none_or(|cookie| cookie == rule.cookie) && *rule.actions == *flow.actions
}
