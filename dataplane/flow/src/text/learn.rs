//! Reading `learn(..)`.

use super::actions::{arrow, target, writable};
use super::context::Context;
use super::error::{Error, Problem};
use super::port::PortNames;
use super::simple::table;
use super::token::{Item, Token};
use super::value;
use crate::action::{Action, Learn, LearnSource, LearnSpec, LearnTarget};
use crate::field::{Field, Subfield};
use crate::fields::Fields;

/// The table of learned rules that name none.
const DEFAULT_TABLE: u8 = 1;
/// Their priority.
const DEFAULT_PRIORITY: u16 = 32768;

/// Reads a `learn` of a rule whose match says `context`.
pub(super) fn parse(
    item: &Item<'_>,
    ports: &dyn PortNames,
    context: Option<&Context>,
) -> Result<Action, Error> {
    let mut learn = Learn {
        idle_timeout: 0,
        hard_timeout: 0,
        priority: DEFAULT_PRIORITY,
        cookie: 0,
        table: DEFAULT_TABLE,
        fin_idle_timeout: 0,
        fin_hard_timeout: 0,
        send_flow_removed: false,
        delete_learned: false,
        limit: 0,
        result: None,
        specs: [].into(),
    };
    let mut specs = Vec::new();
    let mut learned = Fields::default();
    for part in item.value.items() {
        let part = part?;
        if setting(&mut learn, &part)? {
            continue;
        }
        let spec = spec(&part, ports)?;
        check(&spec, part.whole, context, &mut learned)?;
        specs.push(spec);
    }
    learn.specs = specs.into();
    Ok(Action::Learn(Box::new(learn)))
}

/// Takes a setting of the learned rule, if it is one.
fn setting(learn: &mut Learn, part: &Item<'_>) -> Result<bool, Error> {
    let value = part.value;
    match part.key.text {
        "table" => learn.table = table(value)?,
        "priority" => learn.priority = value.u16("the priority")?,
        "idle_timeout" => learn.idle_timeout = value.u16("idle_timeout")?,
        "hard_timeout" => learn.hard_timeout = value.u16("hard_timeout")?,
        "fin_idle_timeout" => learn.fin_idle_timeout = value.u16("fin_idle_timeout")?,
        "fin_hard_timeout" => learn.fin_hard_timeout = value.u16("fin_hard_timeout")?,
        "cookie" => learn.cookie = value.u64("the cookie")?,
        "send_flow_rem" => learn.send_flow_removed = true,
        "delete_learned" => learn.delete_learned = true,
        "limit" => learn.limit = value.u32("the limit")?,
        "result_dst" => {
            let result = target(value)?;
            if result.bits != 1 {
                return value.fail(Problem::NotOneBit);
            }
            learn.result = Some(result);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn spec(part: &Item<'_>, ports: &dyn PortNames) -> Result<LearnSpec, Error> {
    match part.key.text {
        "load" => load(part.value),
        "output" => {
            let source = LearnSource::Field(value::parse_subfield(part.value)?);
            Ok(LearnSpec { source, target: LearnTarget::Output })
        }
        _ => match value::parse_subfield(part.key) {
            Ok(target) => matching(target, part.value, ports),
            Err(Error { problem: Problem::UnknownField, .. }) => part.key.fail(Problem::UnknownKeyword),
            Err(error) => Err(error),
        },
    }
}

/// `field`, `field=field` or `field=value`
fn matching(target: Subfield, from: Token<'_>, ports: &dyn PortNames) -> Result<LearnSpec, Error> {
    let source = if from.is_empty() {
        LearnSource::Field(target)
    } else {
        match value::parse_subfield(from) {
            Ok(source) if source.bits == target.bits => LearnSource::Field(source),
            Ok(source) => {
                let (source_bits, target_bits) = (source.bits, target.bits);
                return from.fail(Problem::WidthsDiffer { source_bits, target_bits });
            }
            Err(Error { problem: Problem::UnknownField, .. }) => {
                LearnSource::Immediate(immediate(target, from, ports)?)
            }
            Err(error) => return Err(error),
        }
    };
    Ok(LearnSpec { source, target: LearnTarget::Match(target) })
}

fn immediate(target: Subfield, from: Token<'_>, ports: &dyn PortNames) -> Result<u128, Error> {
    if target == value::all_of(target.field) {
        value::parse_whole(target.field, from, ports)
    } else {
        from.number("the value", target.max())
    }
}

/// `load:field->field` or `load:value->field`
fn load(value: Token<'_>) -> Result<LearnSpec, Error> {
    let (from, to) = arrow(value)?;
    let target = target(to)?;
    let source = if from.text.starts_with(|first: char| first.is_ascii_digit()) {
        LearnSource::Immediate(from.number("the value", target.max())?)
    } else {
        let source = value::parse_subfield(from)?;
        if source.bits != target.bits {
            let (source_bits, target_bits) = (source.bits, target.bits);
            return value.fail(Problem::WidthsDiffer { source_bits, target_bits });
        }
        LearnSource::Field(source)
    };
    Ok(LearnSpec { source, target: LearnTarget::Load(target) })
}

/// Checks a part: what it reads against the rule's match, what it writes against the parts before.
fn check(
    spec: &LearnSpec,
    token: Token<'_>,
    context: Option<&Context>,
    learned: &mut Fields,
) -> Result<(), Error> {
    let lacks = |field: Field| token.fail(Problem::Lacks { field, needs: field.info().prerequisite });
    if let (LearnSource::Field(source), Some(context)) = (&spec.source, context)
        && !context.reads(source.field)
    {
        return lacks(source.field);
    }
    let (LearnTarget::Match(target) | LearnTarget::Load(target)) = spec.target else { return Ok(()) };
    if !Context::of_values(learned, learned).reads(target.field) {
        return lacks(target.field);
    }
    match (&spec.target, &spec.source) {
        (LearnTarget::Match(_), LearnSource::Immediate(value)) => {
            target.set(learned, *value);
            if matches!(target.field, Field::VlanPcp | Field::DlVlan | Field::DlVlanPcp) {
                Subfield { field: Field::VlanTci, offset: 12, bits: 1 }.set(learned, 1);
            }
            Ok(())
        }
        (LearnTarget::Load(target), _) => writable(target.field, token),
        _ => Ok(()),
    }
}
