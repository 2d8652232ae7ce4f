//! Reading and writing rules: `table=3,priority=10,tcp actions=output:1`.

use weft_wire::OfPort;

use super::actions::{Parser, Within};
use super::context::Context;
use super::error::{Error, Problem};
use super::matches::Builder;
use super::number;
use super::port::{self, PortNames};
use super::print_actions;
use super::print_match;
use super::simple;
use super::token::{Item, Token};
use super::{FlowLine, FlowStats};
use crate::matching::Match;
use crate::message::{FlowCommand, FlowFlags, FlowMod, GroupMod};

/// The priority of rules that name none; it isn't printed.
const DEFAULT_PRIORITY: u16 = 32768;

/// Which settings a command has.
#[derive(Clone, Copy)]
struct Settings {
    actions: bool,
    priority: bool,
    importance: bool,
}

impl Settings {
    fn of(command: FlowCommand) -> Settings {
        let actions = !matches!(command, FlowCommand::Delete | FlowCommand::DeleteStrict);
        let priority = command != FlowCommand::Delete;
        Settings { actions, priority, importance: command == FlowCommand::Add }
    }
}

/// Reads a rule.
pub(super) fn parse(line: Token<'_>, command: FlowCommand, ports: &dyn PortNames) -> Result<FlowMod, Error> {
    let settings = Settings::of(command);
    let table = if command == FlowCommand::Add { Some(0) } else { None };
    let mut flow = FlowMod { command, table, ..FlowMod::default() };
    let mut builder = Builder::new();
    let mut given = Given::default();
    let (head, actions) = split_actions(line);
    for item in head.items() {
        let item = item?;
        if !builder.take(&item, ports)? {
            given.take(&mut flow, settings, &item, ports)?;
        }
    }
    if settings.actions {
        builder.refuse_internal()?;
    }
    flow.matches = builder.finish()?;
    match actions {
        Some(actions) if settings.actions => parse_actions(&mut flow, actions, ports)?,
        Some(actions) => return actions.fail(Problem::NotHere),
        None if settings.actions => return line.fail(Problem::NoActions),
        None => (),
    }
    // As by OpenFlow 1.0, which ovs-ofctl speaks unless told otherwise: what selects by no cookie adds a rule if there is none.
    let modifies = matches!(command, FlowCommand::Modify | FlowCommand::ModifyStrict);
    flow.or_add = modifies && flow.cookie_filter.1 == 0;
    Ok(flow)
}

/// Reads the actions of a rule whose match and flags are known.
fn parse_actions(flow: &mut FlowMod, actions: Token<'_>, ports: &dyn PortNames) -> Result<(), Error> {
    let mut parser = Parser::new(ports, flow.table);
    let FlowFlags { reset_counts, no_packet_counts, no_byte_counts, .. } = flow.flags;
    if reset_counts || no_packet_counts || no_byte_counts {
        parser.checks.newer("a flag of the rule");
    }
    flow.actions = parser.list(actions, Within::Rule, &mut Some(Context::of(&flow.matches)))?;
    parser.checks.finish()
}

/// The settings of a rule, and its actions, which come last: behind `actions=` or `action=`.
fn split_actions(line: Token<'_>) -> (Token<'_>, Option<Token<'_>>) {
    let mut from = 0;
    while let Some(found) = line.text.get(from..).and_then(|text| text.find("action")) {
        let at = from + found;
        let (head, word) = line.split_at(at);
        let tail = word.skip("action".len());
        let sign = tail.strip_prefix("s").unwrap_or(tail).trim().strip_prefix("=");
        let starts = head.is_empty() || head.text.ends_with([',', ' ', '\t']);
        if let (Some(actions), true) = (sign, starts) {
            return (head, Some(actions));
        }
        from = at + "action".len();
    }
    (line, None)
}

/// Which settings were given, to find those that are given twice.
#[derive(Default)]
struct Given {
    names: Vec<&'static str>,
}

impl Given {
    fn once(&mut self, name: &'static str, item: &Item<'_>) -> Result<(), Error> {
        if self.names.contains(&name) {
            return item.whole.fail(Problem::Twice);
        }
        self.names.push(name);
        Ok(())
    }

    /// Takes a setting that isn't about the match.
    fn take(
        &mut self,
        flow: &mut FlowMod,
        settings: Settings,
        item: &Item<'_>,
        ports: &dyn PortNames,
    ) -> Result<(), Error> {
        if Given::flag(flow, settings, item)? || Given::statistic(item) {
            return Ok(());
        }
        let value = item.value;
        let known =
            |name: &'static str, here: bool| if here { Ok(name) } else { item.whole.fail(Problem::NotHere) };
        let name = match item.key.text {
            "table" => known("table", true)?,
            "cookie" if value.text.contains('/') => "cookie's mask",
            "cookie" => known("cookie", true)?,
            "priority" => known("priority", settings.priority)?,
            "idle_timeout" => known("idle_timeout", settings.actions)?,
            "hard_timeout" => known("hard_timeout", settings.actions)?,
            "importance" => known("importance", settings.importance)?,
            "out_port" => known("out_port", !settings.actions)?,
            "out_group" => known("out_group", !settings.actions)?,
            _ => return item.key.fail(Problem::UnknownKeyword),
        };
        self.once(name, item)?;
        if value.is_empty() {
            return item.whole.fail(Problem::Missing("its value"));
        }
        match name {
            "table" if flow.command == FlowCommand::Add => flow.table = Some(simple::table(value)?),
            "table" => flow.table = Some(value.number("the table", 255)? as u8).filter(|table| *table != 255),
            "cookie" | "cookie's mask" => cookie(flow, settings, value)?,
            "priority" => flow.priority = value.u16(name)?,
            "idle_timeout" => flow.idle_timeout = value.u16(name)?,
            "hard_timeout" => flow.hard_timeout = value.u16(name)?,
            "importance" => flow.importance = value.u16(name)?,
            "out_port" => {
                flow.out_port = Some(port::parse(value, ports)?).filter(|port| *port != OfPort::NONE)
            }
            _ => flow.out_group = out_group(value)?,
        }
        Ok(())
    }

    fn flag(flow: &mut FlowMod, settings: Settings, item: &Item<'_>) -> Result<bool, Error> {
        let flags = &mut flow.flags;
        let flag = match item.key.text {
            "send_flow_rem" => &mut flags.send_removed,
            "check_overlap" => &mut flags.check_overlap,
            "reset_counts" => &mut flags.reset_counts,
            "no_packet_counts" => &mut flags.no_packet_counts,
            "no_byte_counts" => &mut flags.no_byte_counts,
            "no_readonly_table" | "allow_hidden_fields" => return Ok(true),
            _ => return Ok(false),
        };
        if !settings.actions {
            return item.whole.fail(Problem::NotHere);
        }
        *flag = true;
        Ok(true)
    }

    /// What a dump says besides the rule.
    fn statistic(item: &Item<'_>) -> bool {
        ["duration", "n_packets", "n_bytes", "idle_age", "hard_age"].contains(&item.key.text)
    }
}

fn cookie(flow: &mut FlowMod, settings: Settings, value: Token<'_>) -> Result<(), Error> {
    match value.split_once("/") {
        Some(_) if flow.command == FlowCommand::Add => {
            value.fail(Problem::Expected("a cookie without a mask, which selects rules to change or delete"))
        }
        Some((cookie, mask)) => {
            let mask = mask.u64("the cookie's mask")?;
            flow.cookie_filter = (cookie.u64("the cookie")? & mask, mask);
            Ok(())
        }
        None if !settings.actions => {
            value.fail(Problem::Expected("a cookie with a mask, such as 0x1/-1: a deletion can't set it"))
        }
        None => {
            flow.cookie = Some(value.u64("the cookie")?);
            Ok(())
        }
    }
}

fn out_group(value: Token<'_>) -> Result<Option<u32>, Error> {
    if value.text.eq_ignore_ascii_case("any") {
        return Ok(None);
    }
    if value.text.eq_ignore_ascii_case("all") {
        return Ok(Some(GroupMod::ALL));
    }
    value.number("the group", GroupMod::MAX.into()).map(|group| Some(group as u32))
}

/// Writes a rule, with statistics if there are any.
pub(super) fn print(out: &mut String, flow: &FlowLine<'_>, stats: Option<&FlowStats>, ports: &dyn PortNames) {
    if stats.is_some() || flow.cookie != 0 {
        out.push_str("cookie=");
        number::hex_padded(out, flow.cookie.into(), 1);
        out.push_str(", ");
    }
    if let Some(stats) = stats {
        out.push_str("duration=");
        number::duration(out, stats.duration);
        out.push_str(", ");
    }
    if stats.is_some() || flow.table != 0 {
        setting(out, "table=", flow.table.into());
    }
    if let Some(stats) = stats {
        setting(out, "n_packets=", stats.packets);
        setting(out, "n_bytes=", stats.bytes);
    }
    for (name, value) in [("idle_timeout=", flow.idle_timeout), ("hard_timeout=", flow.hard_timeout)] {
        if value != 0 {
            setting(out, name, value.into());
        }
    }
    print_flags(out, flow.flags);
    if flow.importance != 0 {
        setting(out, "importance=", flow.importance.into());
    }
    if let Some(stats) = stats {
        let hard_age = stats.hard_age.filter(|age| *age != stats.duration.as_secs());
        for (name, age) in [("idle_age=", stats.idle_age), ("hard_age=", hard_age)] {
            if let Some(age) = age {
                setting(out, name, age);
            }
        }
    }
    print_selection(out, flow.priority, flow.matches, ports);
    out.push_str("actions=");
    print_actions::print(out, flow.actions, ports);
}

fn setting(out: &mut String, name: &str, value: u64) {
    out.push_str(name);
    number::decimal(out, value.into());
    out.push_str(", ");
}

fn print_flags(out: &mut String, flags: FlowFlags) {
    let words = [
        (flags.send_removed, "send_flow_rem "),
        (flags.check_overlap, "check_overlap "),
        (flags.reset_counts, "reset_counts "),
        (flags.no_packet_counts, "no_packet_counts "),
        (flags.no_byte_counts, "no_byte_counts "),
    ];
    words.into_iter().filter(|(set, _)| *set).for_each(|(_, word)| out.push_str(word));
}

/// Priority and match, and a blank if there is anything.
fn print_selection(out: &mut String, priority: u16, matches: &Match, ports: &dyn PortNames) {
    let start = out.len();
    if priority != DEFAULT_PRIORITY {
        out.push_str("priority=");
        number::decimal(out, priority.into());
        out.push(',');
    }
    print_match::print(out, matches, ports);
    if out.len() > start {
        out.pop();
        out.push(' ');
    }
}
