//! Rules that workers make (`learn`, ovs-actions(7)).

use std::sync::TryLockError;
use std::time::Duration;

use weft_flow::message::{FlowCommand, FlowMod};

use super::flows::Scope;
use super::{FlowTables, Rule, TableId};

/// What became of a rule that a worker wants.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LearnResult {
    /// It is new, or different from before.
    Made,
    /// It was there; its hard timeout counts from now.
    Refreshed,
    /// Somebody else is changing the tables: try again with the next packet.
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
        match draft.flow(Scope::Users, &flow) {
            Ok(()) => {
                self.prepared(draft).commit_keeping(&mut |_| {});
                LearnResult::Made
            }
            Err(_) => LearnResult::Full,
        }
    }
}

/// Whether a rule is what the message asks for. Timeouts, importance and flags don't count: a modification keeps them.
fn is_as(rule: &Rule, flow: &FlowMod) -> bool {
    flow.cookie.is_none_or(|cookie| cookie == rule.cookie) && *rule.actions == *flow.actions
}
