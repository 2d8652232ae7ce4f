//! Flow text: the language of `ovs-ofctl` for rules, matches, actions, groups and meters, read and written.
//!
//! Reading takes every spelling that ovs-fields(7) and ovs-actions(7) have, checks a rule as Open vSwitch checks one
//! that is added, and refuses it with one line that names the token, its column and what was expected. Text isn't
//! bound to a version of OpenFlow: what any version accepts is accepted. Writing is byte for byte what `ovs-ofctl
//! dump-flows`, `dump-groups`, `dump-meters` print, so that a dump can be read back.
//!
//! Time and memory are linear in a line, which has [`MAX_LINE`] octets at most, and files are read line by line.
//! Nesting is bounded, and no input panics. Where weft is stricter than Open vSwitch or writes another spelling,
//! `tests/data/differences.txt` says so.

use std::io::BufRead;
use std::time::Duration;

use crate::action::{Action, Actions};
use crate::fields::Fields;
use crate::matching::Match;
use crate::message::{
    FlowCommand, FlowFlags, FlowMod, GroupCommand, GroupMod, MeterCommand, MeterMod, MeterSpec,
};

mod actions;
mod balance;
mod check;
mod context;
mod ct;
mod error;
mod file;
mod flags;
mod flow;
mod group;
mod learn;
mod matches;
mod meter;
mod number;
mod order;
mod port;
mod print_actions;
mod print_ct;
mod print_match;
mod simple;
mod token;
mod value;

pub use error::{Error, Problem};
pub use file::MAX_LINE;
pub use group::{GroupStats, print_group_stats};
pub use meter::{MeterStats, print_meter_stats};
pub use order::Instruction;
pub use port::{NoNames, PortNames};

use actions::{Parser, Within};
use context::Context;
use token::Token;

/// A rule as it is written.
#[derive(Clone, Copy, Debug)]
pub struct FlowLine<'a> {
    /// Its table: above 255 one of weft's own, which no text names.
    pub table: u16,
    /// Its priority.
    pub priority: u16,
    /// Its match.
    pub matches: &'a Match,
    /// Its cookie.
    pub cookie: u64,
    /// Seconds; 0 is never.
    pub idle_timeout: u16,
    /// Seconds; 0 is never.
    pub hard_timeout: u16,
    /// Its importance.
    pub importance: u16,
    /// Its flags.
    pub flags: FlowFlags,
    /// What it does.
    pub actions: &'a [Action],
}

impl<'a> From<&'a FlowMod> for FlowLine<'a> {
    fn from(flow: &'a FlowMod) -> FlowLine<'a> {
        FlowLine {
            table: flow.table.unwrap_or(0).into(),
            priority: flow.priority,
            matches: &flow.matches,
            cookie: flow.cookie.unwrap_or(0),
            idle_timeout: flow.idle_timeout,
            hard_timeout: flow.hard_timeout,
            importance: flow.importance,
            flags: flow.flags,
            actions: &flow.actions,
        }
    }
}

/// What a dump says of a rule besides the rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowStats {
    /// How long it has been there.
    pub duration: Duration,
    /// Packets that hit it.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    /// Seconds since the last of them; dumps of OpenFlow 1.0 and 1.5 have it.
    pub idle_age: Option<u64>,
    /// Seconds since it was changed; not printed if that is all its life.
    pub hard_age: Option<u64>,
}

/// Reads one rule for a command (`ovs-ofctl add-flow`, `mod-flows`, `del-flows`, with or without `--strict`).
///
/// A filter, as `dump-flows` takes it, is a [`FlowCommand::Delete`]: match, table, cookie with its mask, out_port,
/// out_group.
pub fn parse_flow(line: &str, command: FlowCommand, ports: &dyn PortNames) -> Result<FlowMod, Error> {
    flow::parse(Token::new(line), command, ports)
}

/// Reads the rules of a file, line by line: `#` starts a comment, empty lines and a dump's headings are skipped.
///
/// Where `command` is [`FlowCommand::Add`], each line may start with its own: add, modify, modify_strict, delete or
/// delete_strict. The error names the line.
pub fn parse_flows(
    reader: impl BufRead,
    command: FlowCommand,
    ports: &dyn PortNames,
) -> Result<Vec<FlowMod>, Error> {
    let mut flows = Vec::new();
    parse_flows_with(reader, command, ports, |flow| flows.push(flow))?;
    Ok(flows)
}

/// The same, with each rule handed on as it is read. What came before an error has been handed on.
pub fn parse_flows_with(
    reader: impl BufRead,
    command: FlowCommand,
    ports: &dyn PortNames,
    mut take: impl FnMut(FlowMod),
) -> Result<(), Error> {
    file::lines(reader, |line| {
        let (command, line) = file::command(line, command);
        if !file::is_heading(line) {
            take(flow::parse(line, command, ports)?);
        }
        Ok(())
    })
}

/// Reads a match alone.
pub fn parse_match(text: &str, ports: &dyn PortNames) -> Result<Match, Error> {
    matches::parse(Token::new(text), ports)
}

/// Reads the description of a packet, as `ovs-appctl ofproto/trace` takes it: `in_port=1,tcp,nw_src=10.0.0.1`. Every
/// field may be given, metadata and registers too, with values but without masks; what isn't given is 0.
pub fn parse_packet(text: &str, ports: &dyn PortNames) -> Result<Fields, Error> {
    matches::parse_packet(Token::new(text), ports)
}

/// Reads the actions of a rule with that match, in whichever table.
pub fn parse_actions(text: &str, matches: &Match, ports: &dyn PortNames) -> Result<Actions, Error> {
    let mut parser = Parser::new(ports, None);
    let list = parser.list(Token::new(text), Within::Rule, &mut Some(Context::of(matches)))?;
    parser.checks.finish()?;
    Ok(list)
}

/// Writes a rule as `ovs-ofctl dump-flows` does, without the blank before it; without statistics as `--no-stats`.
pub fn print_flow<'a>(
    flow: impl Into<FlowLine<'a>>,
    stats: Option<&FlowStats>,
    ports: &dyn PortNames,
) -> String {
    let mut out = String::with_capacity(160);
    flow::print(&mut out, &flow.into(), stats, ports);
    out
}

/// The same, behind what `out` holds.
pub fn write_flow(out: &mut String, flow: &FlowLine<'_>, stats: Option<&FlowStats>, ports: &dyn PortNames) {
    flow::print(out, flow, stats, ports);
}

/// Writes a match; one of everything is empty.
pub fn print_match(matches: &Match, ports: &dyn PortNames) -> String {
    let mut out = String::new();
    print_match::print(&mut out, matches, ports);
    out.pop();
    out
}

/// Writes a list of actions; an empty one is `drop`.
pub fn print_actions(actions: &[Action], ports: &dyn PortNames) -> String {
    let mut out = String::new();
    print_actions::print(&mut out, actions, ports);
    out
}

/// Reads one group for a command (`ovs-ofctl add-group`, `mod-group`, `del-groups`, `insert-buckets`,
/// `remove-buckets`).
pub fn parse_group(line: &str, command: GroupCommand, ports: &dyn PortNames) -> Result<GroupMod, Error> {
    group::parse(Token::new(line), command, ports)
}

/// Reads the groups of a file. Where `command` is [`GroupCommand::Add`], each line may start with its own: add,
/// modify, add_or_mod, delete, insert_bucket or remove_bucket.
pub fn parse_groups(
    reader: impl BufRead,
    command: GroupCommand,
    ports: &dyn PortNames,
) -> Result<Vec<GroupMod>, Error> {
    let mut groups = Vec::new();
    file::lines(reader, |line| {
        let (command, line) = file::group_command(line, command);
        if !file::is_heading(line) {
            groups.push(group::parse(line, command, ports)?);
        }
        Ok(())
    })?;
    Ok(groups)
}

/// Writes a group as `ovs-ofctl dump-groups` does, without the blank before it.
pub fn print_group(group: &GroupMod, ports: &dyn PortNames) -> String {
    group::print(group, ports)
}

/// Reads one meter for a command (`ovs-ofctl add-meter`, `mod-meter`, `del-meters`).
pub fn parse_meter(line: &str, command: MeterCommand) -> Result<MeterMod, Error> {
    meter::parse(Token::new(line), command)
}

/// Writes a meter as `ovs-ofctl dump-meters` does: a line, and one for each band.
pub fn print_meter(meter: &MeterSpec) -> String {
    meter::print(meter)
}
