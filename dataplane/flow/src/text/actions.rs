//! Reading lists of actions: `load:1->reg0[0..3],resubmit(,10)`.
//!
//! Each action is checked where it is read, against what the match and the actions before it say of the packet
//! ([`Context`]), as Open vSwitch checks a rule that is added. Lists nest at most [`MAX_DEPTH`] deep.

use weft_wire::OfPort;

use super::check::{self, Checks};
use super::context::Context;
use super::error::{Error, Problem};
use super::order::Instruction;
use super::port::{self, PortNames};
use super::token::{Item, Token};
use super::{balance, ct, learn, simple, value};
use crate::action::{Action, Actions};
use crate::field::{Access, Field, Subfield};

/// How deep lists nest, the outermost counted: Open vSwitch's limit.
const MAX_DEPTH: usize = 100;

/// What a list of actions is part of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Within {
    /// A rule: instructions are allowed.
    Rule,
    /// A bucket of a group.
    Bucket,
    /// `clone(..)`
    Clone,
    /// `write_actions(..)`
    WriteActions,
    /// `ct(exec(..))`
    Ct,
}

/// Reads lists of actions.
pub(super) struct Parser<'a> {
    pub ports: &'a dyn PortNames,
    /// The rule's table, if it is known.
    pub table: Option<u8>,
    pub checks: Checks<'a>,
    depth: usize,
}

impl<'a> Parser<'a> {
    pub fn new(ports: &'a dyn PortNames, table: Option<u8>) -> Parser<'a> {
        Parser { ports, table, checks: Checks::default(), depth: 0 }
    }

    /// Reads a list. What is known of the packet (nothing, in a group) changes with each action.
    pub fn list(
        &mut self,
        token: Token<'a>,
        within: Within,
        context: &mut Option<Context>,
    ) -> Result<Actions, Error> {
        if self.depth == MAX_DEPTH {
            return token.fail(Problem::TooDeep { max: MAX_DEPTH });
        }
        self.depth += 1;
        let list = self.items(token.items(), within, context);
        self.depth -= 1;
        list
    }

    /// Reads a list that is already taken apart.
    pub fn items(
        &mut self,
        items: impl Iterator<Item = Result<Item<'a>, Error>>,
        within: Within,
        context: &mut Option<Context>,
    ) -> Result<Actions, Error> {
        let mut list = Vec::with_capacity(4);
        let mut drop = None;
        let mut order = Order::default();
        for item in items {
            let item = item?;
            if item.key.text.eq_ignore_ascii_case("drop") && item.value.is_empty() {
                drop = Some(item.whole);
                continue;
            }
            if within == Within::Ct && item.key.text == "nat" {
                // Whoever reads the ct takes it.
                continue;
            }
            let before = list.len();
            self.read(&item, &mut list, context)?;
            for action in list.iter().skip(before) {
                order.next(action, within, item.whole)?;
                check::within(action, within, item.whole)?;
                self.checks.check(action, item.whole, self.table, context)?;
            }
        }
        match drop {
            Some(drop) if !list.is_empty() => drop.fail(Problem::DropNotAlone),
            _ => Ok(list.into()),
        }
    }

    /// Reads one action.
    fn read(
        &mut self,
        item: &Item<'a>,
        list: &mut Vec<Action>,
        context: &mut Option<Context>,
    ) -> Result<(), Error> {
        let mut buffer = [0; 24];
        let name = lower(item.key.text, &mut buffer);
        let action = match name {
            "load" => return load(item, list),
            "clone" => Action::Clone(self.list(item.value, Within::Clone, &mut context.clone())?),
            "write_actions" => self.write_actions(item, context)?,
            "ct" => ct::parse(self, item, context)?,
            "learn" => learn::parse(item, self.ports, context.as_ref())?,
            "output" | "output_reg" => output(item, self.ports)?,
            "bundle" | "bundle_load" => balance::bundle(item, name == "bundle_load", self.ports)?,
            "multipath" => balance::multipath(item)?,
            "apply_actions" => {
                return item.key.fail(Problem::Expected("actions, which apply_actions is the default for"));
            }
            _ => match simple::parse(name, item, self.ports)? {
                Some(action) => action,
                None => Action::Output(
                    port::lookup(item.key.text, self.ports)
                        .ok_or_else(|| item.key.error(Problem::UnknownAction))?,
                ),
            },
        };
        list.push(action);
        Ok(())
    }

    /// What an action set does at the end can't be judged by the match: only hard errors count.
    fn write_actions(&mut self, item: &Item<'a>, context: &Option<Context>) -> Result<Action, Error> {
        let before = self.checks;
        let list = self.list(item.value, Within::WriteActions, &mut context.clone())?;
        self.checks = before;
        Ok(Action::WriteActions(list))
    }
}

/// An action's name in lower case, if it isn't longer than any is.
fn lower<'b>(name: &'b str, buffer: &'b mut [u8; 24]) -> &'b str {
    if !name.bytes().any(|letter| letter.is_ascii_uppercase()) {
        return name;
    }
    let Some(space) = buffer.get_mut(..name.len()) else { return name };
    space.copy_from_slice(name.as_bytes());
    space.make_ascii_lowercase();
    std::str::from_utf8(space).unwrap_or(name)
}

/// What has been seen of a list, to check what follows.
#[derive(Default)]
struct Order {
    previous: Option<Instruction>,
    conjunction: bool,
    other: bool,
}

impl Order {
    fn next(&mut self, action: &Action, within: Within, token: Token<'_>) -> Result<(), Error> {
        self.conjunction |= matches!(action, Action::Conjunction { .. });
        self.other |= !matches!(action, Action::Conjunction { .. } | Action::Note(_));
        if self.conjunction && self.other {
            return token.fail(Problem::MixedConjunction);
        }
        let kind = Instruction::of(action);
        let instruction = !matches!(kind, Instruction::Apply | Instruction::Meter);
        if instruction && within != Within::Rule {
            return token.fail(Problem::OnlyWithin("a rule's own list of actions"));
        }
        match self.previous.replace(kind) {
            Some(previous) if kind < previous => token.fail(Problem::Order(kind, previous)),
            Some(previous) if kind == previous && kind != Instruction::Apply => {
                token.fail(Problem::InstructionTwice(kind))
            }
            _ => Ok(()),
        }
    }
}

/// `source->target`
pub(super) fn arrow<'a>(token: Token<'a>) -> Result<(Token<'a>, Token<'a>), Error> {
    token.split_arrow().ok_or_else(|| token.error(Problem::Missing("'->' and what it leads to")))
}

/// A subfield that is written.
pub(super) fn target(token: Token<'_>) -> Result<Subfield, Error> {
    let target = value::parse_subfield(token)?;
    writable(target.field, token)?;
    Ok(target)
}

/// Refuses fields that can't be written.
pub(super) fn writable(field: Field, token: Token<'_>) -> Result<(), Error> {
    match field.info().access {
        Access::Writable => Ok(()),
        Access::ReadOnly => token.fail(Problem::ReadOnly(field)),
    }
}

/// `load:value->subfield`; one of more than 64 bits becomes several.
fn load(item: &Item<'_>, list: &mut Vec<Action>) -> Result<(), Error> {
    let (source, to) = arrow(item.value)?;
    let target = target(to)?;
    let value = match target.bits {
        64 => source.u64("the value")?.into(),
        _ => source.number("the value", target.max())?,
    };
    for from in (0..target.bits).step_by(64) {
        let bits = (target.bits - from).min(64);
        let part = Subfield { field: target.field, offset: target.offset + from, bits };
        list.push(Action::Load { target: part, value: value >> from & part.max() });
    }
    Ok(())
}

/// `output:port`, `output:subfield`, `output(port=..,max_len=..)`
fn output(item: &Item<'_>, ports: &dyn PortNames) -> Result<Action, Error> {
    let value = item.value;
    if value.text.contains("port") && value.text.contains("max_len") {
        return truncated(value, ports);
    }
    match port::lookup(value.text, ports) {
        Some(OfPort::CONTROLLER) => Ok(simple::to_controller(u16::MAX)),
        Some(port) => Ok(Action::Output(port)),
        None if value.is_empty() => value.fail(Problem::Missing("the port")),
        None => match value::parse_subfield(value) {
            Ok(source) => Ok(Action::OutputReg { source, max_len: u16::MAX }),
            Err(Error { problem: Problem::UnknownField, .. }) => value.fail(Problem::UnknownPort),
            Err(error) => Err(error),
        },
    }
}

fn truncated(value: Token<'_>, ports: &dyn PortNames) -> Result<Action, Error> {
    let (mut to, mut max_len) = (None, None);
    for item in value.items() {
        let item = item?;
        match item.key.text {
            "port" => {
                let port = port::parse(item.value, ports)?;
                if port > OfPort::MAX && ![OfPort::LOCAL, OfPort::IN_PORT].contains(&port) {
                    return item.value.fail(Problem::BadPort { reserved: "LOCAL and IN_PORT" });
                }
                to = Some(port);
            }
            "max_len" => max_len = Some(item.value.number_in("max_len", 14, u32::MAX.into())? as u32),
            _ => {
                let expected = "port and max_len";
                return item.key.fail(Problem::UnknownArgument { action: "output", expected });
            }
        }
    }
    let port = to.ok_or_else(|| value.error(Problem::Missing("port=")))?;
    let max_len = max_len.ok_or_else(|| value.error(Problem::Missing("max_len=")))?;
    Ok(Action::OutputTrunc { port, max_len })
}
