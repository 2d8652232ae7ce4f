//! Reading `ct(..)` and the `nat(..)` within it.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::actions::{Parser, Within};
use super::context::Context;
use super::error::{Error, Problem};
use super::simple::table;
use super::token::{Item, Token};
use super::value;
use crate::action::{Action, Ct, CtHelper, CtZone, Nat, NatAddresses, NatChoice, NatKind};

/// Reads a `ct`.
pub(super) fn parse<'a>(
    parser: &mut Parser<'a>,
    item: &Item<'a>,
    context: &Option<Context>,
) -> Result<Action, Error> {
    let mut ct = Ct::default();
    for part in item.value.items() {
        let part = part?;
        match part.key.text {
            "commit" => ct.commit = true,
            "force" => ct.force = true,
            "table" => ct.table = Some(table(part.value)?.into()),
            "zone" => ct.zone = zone(part.value)?,
            "alg" => ct.helper = Some(helper(part.value)?),
            "nat" => ct.nat = Some(nat(part.value)?),
            "exec" => {
                if let Some(inner) = nat_within(part.value)? {
                    ct.nat = Some(nat(inner)?);
                }
                ct.exec = parser.list(part.value, Within::Ct, &mut context.clone())?;
            }
            _ => {
                let expected = "commit, force, table, zone, alg, nat or exec";
                return part.key.fail(Problem::UnknownArgument { action: "ct", expected });
            }
        }
    }
    if ct.force && !ct.commit {
        return item.whole.fail(Problem::Missing("commit, which force needs,"));
    }
    Ok(Action::Ct(Box::new(ct)))
}

/// Open vSwitch prints a `nat` that doesn't come first within the `exec`.
fn nat_within(exec: Token<'_>) -> Result<Option<Token<'_>>, Error> {
    for item in exec.items() {
        let item = item?;
        if item.key.text == "nat" {
            return Ok(Some(item.value));
        }
    }
    Ok(None)
}

fn zone(value: Token<'_>) -> Result<CtZone, Error> {
    if value.text.starts_with(|first: char| first.is_ascii_digit()) || value.is_empty() {
        return value.u16("the zone").map(CtZone::Number);
    }
    let field = value::parse_subfield(value)?;
    match field.bits {
        16 => Ok(CtZone::Field(field)),
        _ => value.fail(Problem::Expected("a number, or 16 bits of a field")),
    }
}

fn helper(value: Token<'_>) -> Result<CtHelper, Error> {
    match value.text {
        "ftp" => Ok(CtHelper::Ftp),
        "tftp" => Ok(CtHelper::Tftp),
        _ => value.fail(Problem::Expected("ftp or tftp")),
    }
}

fn nat(value: Token<'_>) -> Result<Nat, Error> {
    let mut nat = Nat::default();
    for part in value.items() {
        let part = part?;
        let choice = |choice| match nat.choice.is_some_and(|other| other != choice) {
            true => part.key.fail(Problem::Excludes("the other of hash and random")),
            false => Ok(Some(choice)),
        };
        let kind = match part.key.text {
            "src" => NatKind::Source,
            "dst" => NatKind::Destination,
            "persistent" => {
                nat.persistent = true;
                continue;
            }
            "hash" => {
                nat.choice = choice(NatChoice::Hash)?;
                continue;
            }
            "random" => {
                nat.choice = choice(NatChoice::Random)?;
                continue;
            }
            _ => {
                let expected = "src, dst, persistent, hash or random";
                return part.key.fail(Problem::UnknownArgument { action: "nat", expected });
            }
        };
        if nat.kind.replace(kind).is_some() {
            return part.whole.fail(Problem::Excludes("another src or dst"));
        }
        if !part.value.is_empty() {
            range(&mut nat, part.value)?;
        }
    }
    if nat.kind.is_none() && (nat.persistent || nat.choice.is_some()) {
        return value.fail(Problem::Missing("src or dst"));
    }
    Ok(nat)
}

/// `address[-address][:port[-port]]`; IPv6 addresses are in brackets if ports follow.
fn range(nat: &mut Nat, value: Token<'_>) -> Result<(), Error> {
    let wrong = || {
        value.error(Problem::Expected(
            "address[-address][:port[-port]], [..] around IPv6 addresses before ports, each range upwards",
        ))
    };
    let (first, mut rest) = address(value).ok_or_else(wrong)?;
    let mut last = first;
    if let Some(tail) = rest.strip_prefix("-") {
        (last, rest) = address(tail).ok_or_else(wrong)?;
    }
    nat.addresses = match (first, last) {
        (Address::V4(first), Address::V4(last)) if first <= last => Some(NatAddresses::V4(first, last)),
        (Address::V6(first), Address::V6(last)) if first <= last => Some(NatAddresses::V6(first, last)),
        _ => return Err(wrong()),
    };
    if rest.is_empty() {
        return Ok(());
    }
    let ports = rest.strip_prefix(":").ok_or_else(wrong)?;
    let (first, last) = ports.split_once("-").unwrap_or((ports, ports));
    let port = |token: Token<'_>| token.number_in("the port", 1, u16::MAX.into()).map(|port| port as u16);
    let (first, last) = (port(first)?, port(last)?);
    nat.ports = Some((first, last)).filter(|_| first <= last);
    if nat.ports.is_some() { Ok(()) } else { Err(wrong()) }
}

#[derive(Clone, Copy)]
enum Address {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

/// The address that a token starts with, and what is behind it.
fn address(token: Token<'_>) -> Option<(Address, Token<'_>)> {
    if let Some(inner) = token.strip_prefix("[") {
        let (address, rest) = inner.split_once("]")?;
        return Some((Address::V6(address.text.parse().ok()?), rest));
    }
    let end = |ends: &[char]| token.text.find(ends).unwrap_or(token.text.len());
    let (address, rest) = token.split_at(end(&[':', '-']));
    if let Ok(address) = address.text.parse() {
        return Some((Address::V4(address), rest));
    }
    let (address, rest) = token.split_at(end(&['-']));
    Some((Address::V6(address.text.parse().ok()?), rest))
}
