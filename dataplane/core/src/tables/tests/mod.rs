//! Tests of the tables, by subject.

mod flows;
mod groups;
mod meters;
mod model;
mod reads;
mod replace;
mod threads;

use std::sync::Arc;
use std::time::Duration;

use weft_flow::message::{FlowCommand, FlowMod, GroupMod};
use weft_flow::{Action, Field, Match};
use weft_wire::OfPort;

use super::*;

/// A moment.
pub fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// `priority=.., in_port=.., actions=output:..`
pub fn flow(priority: u16, dst: u128, output: u16) -> FlowMod {
    FlowMod { priority, matches: to(dst), actions: out(output), ..FlowMod::default() }
}

/// `ip,nw_dst=..`
pub fn to(dst: u128) -> Match {
    Match::any().with(Field::EthType, 0x0800).with(Field::IpDst, dst)
}

/// `output:..`
pub fn out(port: u16) -> Box<[Action]> {
    Box::new([Action::Output(OfPort(port))])
}

/// The same message with another command.
pub fn with(command: FlowCommand, flow: FlowMod) -> FlowMod {
    FlowMod { command, ..flow }
}

/// Commits a bundle.
pub fn commit(tables: &FlowTables, changes: &[Change], now: Duration) -> Result<Outcome, Refused> {
    tables.prepare(changes, now).map(Prepared::commit).map_err(|error| error.why)
}

/// Commits one change to rules.
pub fn change(tables: &FlowTables, flow: FlowMod) -> Result<Outcome, Refused> {
    commit(tables, &[Change::Flow(flow)], at(1))
}

/// The rule that a message's table, priority and match name.
pub fn rule(tables: &FlowTables, flow: &FlowMod) -> Option<Arc<Rule>> {
    let table = flow.table.map(TableId::from).unwrap_or_default();
    tables.load().rule(table, flow.priority, &flow.matches).cloned()
}

/// Table, priority and cookie of each rule, sorted.
pub fn rules(tables: &FlowTables) -> Vec<(u16, u16, u64)> {
    let root = tables.load();
    let rules = root.tables().flat_map(|table| table.rules());
    let mut rules: Vec<_> = rules.map(|rule| (rule.table.0, rule.priority, rule.cookie)).collect();
    rules.sort_unstable();
    rules
}
