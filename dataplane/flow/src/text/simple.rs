//! Reading the actions that have no grammar of their own.

use std::net::Ipv4Addr;

use weft_wire::{Mac, OfPort};

use super::actions::{arrow, target, writable};
use super::error::{Error, Problem};
use super::port::{self, PortNames};
use super::token::{Item, Token};
use super::value;
use crate::action::{Action, Controller, PacketInReason, Sample, SampleDirection, SampleId, VlanChange};
use crate::field::Field;
use crate::message::GroupMod;

/// The note of an action fills up its message: 6 octets, and then 8 at a time.
const NOTE: (usize, usize) = (6, 8);

/// Reads the action of that name, if there is one.
pub(super) fn parse(name: &str, item: &Item<'_>, ports: &dyn PortNames) -> Result<Option<Action>, Error> {
    if let Some(action) = without_argument(name) {
        return Ok(Some(action));
    }
    let value = item.value;
    let action = match name {
        "controller" => controller(value)?,
        "enqueue" => enqueue(value, ports)?,
        "set_queue" => Action::SetQueue(value.u32("the queue")?),
        "group" => Action::Group(value.number("the group", GroupMod::MAX.into())? as u32),
        "meter" => {
            Action::Meter(value.number_in("the meter", 1, crate::message::MeterMod::MAX.into())? as u32)
        }
        "set_field" => set_field(value, ports)?,
        "move" => {
            let (source, to) = arrow(value)?;
            let (source, target) = (value::parse_subfield(source)?, target(to)?);
            if source.bits != target.bits {
                let (source_bits, target_bits) = (source.bits, target.bits);
                return value.fail(Problem::WidthsDiffer { source_bits, target_bits });
            }
            Action::Move { source, target }
        }
        "push" => Action::Push(value::parse_subfield(value)?),
        "pop" => Action::Pop(target(value)?),
        "resubmit" => resubmit(value, ports)?,
        "goto_table" => Action::GotoTable(table(value)?),
        "conjunction" => conjunction(value)?,
        "note" => Action::Note(note(value)?),
        "sample" => sample(value, ports)?,
        "fin_timeout" => fin_timeout(value)?,
        "check_pkt_larger" => check_pkt_larger(value)?,
        "write_metadata" => {
            let (number, mask) =
                value.split_once("/").map_or((value, None), |(value, mask)| (value, Some(mask)));
            let mask = mask.map_or(Ok(u64::MAX), |mask| mask.u64("the mask"))?;
            Action::WriteMetadata { value: number.u64("the metadata")?, mask }
        }
        _ => return header(name, value),
    };
    Ok(Some(action))
}

fn without_argument(name: &str) -> Option<Action> {
    Some(match name {
        "pop_queue" => Action::PopQueue,
        "strip_vlan" | "pop_vlan" => Action::StripVlan,
        "dec_mpls_ttl" => Action::DecMplsTtl,
        "exit" => Action::Exit,
        "ct_clear" => Action::CtClear,
        "clear_actions" => Action::ClearActions,
        _ => return None,
    })
}

/// Actions that rewrite headers.
fn header(name: &str, value: Token<'_>) -> Result<Option<Action>, Error> {
    let ethernet = |value: Token<'_>| value::mac(value).map(|mac| Mac::from_u64(mac as u64));
    Ok(Some(match name {
        "mod_vlan_vid" | "set_vlan_vid" => {
            let vid = value.number("the VLAN", 0xfff)? as u16;
            Action::SetVlanVid(VlanChange { value: vid, push: name == "mod_vlan_vid" })
        }
        "mod_vlan_pcp" | "set_vlan_pcp" => {
            let pcp = value.number("the priority", 7)? as u16;
            Action::SetVlanPcp(VlanChange { value: pcp, push: name == "mod_vlan_pcp" })
        }
        "push_vlan" => {
            Action::PushVlan(one_of(value, &[0x8100, 0x88a8], "an EtherType of VLAN tags: 0x8100 or 0x88a8")?)
        }
        "mod_dl_src" => Action::SetEthSrc(ethernet(value)?),
        "mod_dl_dst" => Action::SetEthDst(ethernet(value)?),
        "mod_nw_src" => Action::SetIpSrc(ipv4(value)?),
        "mod_nw_dst" => Action::SetIpDst(ipv4(value)?),
        "mod_nw_tos" => {
            let tos = value.number("the TOS", 252)? as u8;
            if tos & 3 != 0 {
                return value.fail(Problem::Expected("a multiple of 4, 0 to 252"));
            }
            Action::SetIpTos(tos)
        }
        "mod_nw_ecn" => Action::SetIpEcn(value.number("ECN", 3)? as u8),
        "mod_nw_ttl" | "set_nw_ttl" => Action::SetIpTtl(value.u8("the TTL")?),
        "mod_tp_src" => Action::SetTpSrc(value.u16("the port")?),
        "mod_tp_dst" => Action::SetTpDst(value.u16("the port")?),
        "dec_ttl" => {
            Action::DecTtl(value.words().map(|id| id.u16("the controller's id")).collect::<Result<_, _>>()?)
        }
        "set_mpls_label" => Action::SetMplsLabel(value.number("the label", 0xf_ffff)? as u32),
        "set_mpls_tc" => Action::SetMplsTc(value.number("the traffic class", 7)? as u8),
        "set_mpls_ttl" => Action::SetMplsTtl(value.u8("the TTL")?),
        "push_mpls" => {
            Action::PushMpls(one_of(value, &[0x8847, 0x8848], "an EtherType of MPLS: 0x8847 or 0x8848")?)
        }
        "pop_mpls" => Action::PopMpls(value.u16("the EtherType")?),
        "set_tunnel" | "set_tunnel64" => {
            let id = value.u64("the tunnel's key")?;
            Action::SetTunnel { id, wide: name == "set_tunnel64" || id > u32::MAX.into() }
        }
        _ => return Ok(None),
    }))
}

fn one_of(value: Token<'_>, legal: &[u16], expected: &'static str) -> Result<u16, Error> {
    let number = value.u16("the EtherType")?;
    if legal.contains(&number) { Ok(number) } else { value.fail(Problem::Expected(expected)) }
}

fn ipv4(value: Token<'_>) -> Result<Ipv4Addr, Error> {
    value.text.parse().map_err(|_| value.error(Problem::Expected("an IPv4 address, such as 10.0.0.1")))
}

/// A table's number.
pub(super) fn table(value: Token<'_>) -> Result<u8, Error> {
    value.number("the table", 254).map(|table| table as u8)
}

/// `CONTROLLER:max_len`
pub(super) fn to_controller(max_len: u16) -> Action {
    let reason = PacketInReason::Action;
    Action::Controller(Box::new(Controller {
        max_len,
        reason,
        id: 0,
        userdata: [].into(),
        pause: false,
        meter: None,
    }))
}

fn controller(value: Token<'_>) -> Result<Action, Error> {
    if value.is_empty() {
        return Ok(to_controller(u16::MAX));
    }
    if value.text.bytes().all(|digit| digit.is_ascii_digit()) {
        return value.u16("max_len").map(to_controller);
    }
    let Action::Controller(mut action) = to_controller(u16::MAX) else {
        return value.fail(Problem::UnknownAction);
    };
    for item in value.items() {
        let item = item?;
        match item.key.text {
            "reason" => action.reason = reason(item.value)?,
            "max_len" => action.max_len = item.value.u16("max_len")?,
            "id" => action.id = item.value.u16("id")?,
            "userdata" => action.userdata = octets(item.value)?.into(),
            "pause" => action.pause = true,
            "meter_id" => {
                action.meter = Some(item.value.u32("the meter")?).filter(|meter| *meter != u32::MAX)
            }
            _ => {
                let expected = "reason, max_len, id, userdata, pause or meter_id";
                return item.key.fail(Problem::UnknownArgument { action: "controller", expected });
            }
        }
    }
    Ok(Action::Controller(action))
}

/// Reasons and their names.
pub(super) const REASONS: [(&str, PacketInReason); 6] = [
    ("no_match", PacketInReason::NoMatch),
    ("action", PacketInReason::Action),
    ("invalid_ttl", PacketInReason::InvalidTtl),
    ("action_set", PacketInReason::ActionSet),
    ("group", PacketInReason::Group),
    ("packet_out", PacketInReason::PacketOut),
];

fn reason(value: Token<'_>) -> Result<PacketInReason, Error> {
    let known = REASONS.iter().find(|(name, _)| value.text.eq_ignore_ascii_case(name));
    let expected = "no_match, action, invalid_ttl, action_set, group or packet_out";
    known.map(|(_, reason)| *reason).ok_or_else(|| value.error(Problem::Expected(expected)))
}

/// Pairs of hexadecimal digits; dots and blanks may separate them.
fn octets(value: Token<'_>) -> Result<Vec<u8>, Error> {
    let mut octets = Vec::new();
    let mut rest = value.text.trim_start_matches(['.', ' ']);
    while !rest.is_empty() {
        let pair = rest.get(..2).filter(|pair| pair.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let octet = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        octets.push(octet.ok_or_else(|| value.error(Problem::Expected("pairs of hexadecimal digits")))?);
        rest = rest[2..].trim_start_matches(['.', ' ']);
    }
    Ok(octets)
}

fn note(value: Token<'_>) -> Result<Box<[u8]>, Error> {
    let mut octets = octets(value)?;
    let (first, more) = NOTE;
    let filled = first + octets.len().saturating_sub(first).next_multiple_of(more);
    octets.resize(filled, 0);
    Ok(octets.into())
}

fn enqueue(value: Token<'_>, ports: &dyn PortNames) -> Result<Action, Error> {
    let end = value.unquoted(|rest| matches!(rest, [b':' | b',', ..]));
    let end = end.or_else(|| value.unquoted(|rest| rest.starts_with(b"q")));
    let parts = end.map(|end| value.split_at(end)).filter(|(port, _)| !port.is_empty());
    let (port, queue) = parts.ok_or_else(|| value.error(Problem::Expected("port:queue or (port,queue)")))?;
    let port = port::parse(port.trim(), ports)?;
    Ok(Action::Enqueue { port, queue: queue.skip(1).trim().u32("the queue")? })
}

fn set_field(value: Token<'_>, ports: &dyn PortNames) -> Result<Action, Error> {
    let (source, to) = arrow(value)?;
    let field = value::field(to.text).ok_or_else(|| to.error(Problem::UnknownField))?;
    writable(field, to)?;
    let (number, mask) = value::parse(field, source, ports)?;
    if number & !mask != 0 {
        return source.fail(Problem::OutsideMask);
    }
    if field == Field::NwTos && number & 3 != 0 {
        return source.fail(Problem::Expected("a multiple of 4, 0 to 252"));
    }
    Ok(Action::set_field(field, number, mask))
}

fn resubmit(value: Token<'_>, ports: &dyn PortNames) -> Result<Action, Error> {
    let mut parts = value.parts();
    let mut next = || parts.next().filter(|part| !part.is_empty());
    let (in_port, to, ct) = (next(), next(), next());
    let in_port = in_port.map(|port| port::parse(port, ports)).transpose()?;
    let in_port = in_port.filter(|port| *port != OfPort::IN_PORT);
    let table = match to {
        Some(to) => Some(to.number("the table", 255)? as u16).filter(|table| *table != 255),
        None => None,
    };
    if let Some(ct) = ct.filter(|ct| ct.text != "ct") {
        return ct.fail(Problem::Expected("ct"));
    }
    if let Some(more) = parts.next() {
        return more.fail(Problem::Trailing("resubmit"));
    }
    if in_port.is_none() && table.is_none() {
        return value.fail(Problem::Missing("the port or the table"));
    }
    Ok(Action::Resubmit { in_port, table, ct: ct.is_some() })
}

fn conjunction(value: Token<'_>) -> Result<Action, Error> {
    let syntax = || value.error(Problem::Expected("(id,k/n)"));
    let (id, rest) = value.split_once(",").ok_or_else(syntax)?;
    let (clause, clauses) = rest.split_once("/").ok_or_else(syntax)?;
    let id = id.trim().u32("the id")?;
    let clauses = clauses.trim().number_in("the number of clauses", 2, 64)? as u8;
    let clause = clause.trim().number_in("the clause", 1, clauses.into())? as u8 - 1;
    Ok(Action::Conjunction { id, clause, clauses })
}

fn sample(value: Token<'_>, ports: &dyn PortNames) -> Result<Action, Error> {
    let mut sample = Sample {
        probability: 0,
        collector_set_id: 0,
        obs_domain_id: SampleId::Number(0),
        obs_point_id: SampleId::Number(0),
        sampling_port: None,
        direction: SampleDirection::Default,
    };
    for item in value.items() {
        let item = item?;
        match item.key.text {
            "probability" => {
                sample.probability = item.value.number_in("the probability", 1, u16::MAX.into())? as u16;
            }
            "collector_set_id" => sample.collector_set_id = item.value.u32("collector_set_id")?,
            "obs_domain_id" => sample.obs_domain_id = sample_id(item.value)?,
            "obs_point_id" => sample.obs_point_id = sample_id(item.value)?,
            "sampling_port" => {
                sample.sampling_port =
                    Some(port::parse(item.value, ports)?).filter(|port| *port != OfPort::NONE);
            }
            "ingress" => sample.direction = SampleDirection::Ingress,
            "egress" => sample.direction = SampleDirection::Egress,
            _ => {
                let expected = "probability, collector_set_id, obs_domain_id, obs_point_id, sampling_port, ingress or egress";
                return item.key.fail(Problem::UnknownArgument { action: "sample", expected });
            }
        }
    }
    match sample.probability {
        0 => value.fail(Problem::Missing("probability=")),
        _ => Ok(Action::Sample(Box::new(sample))),
    }
}

/// A number, or (Open vSwitch 3.3) a field that holds it.
fn sample_id(value: Token<'_>) -> Result<SampleId, Error> {
    if value.text.starts_with(|first: char| first.is_ascii_digit()) || value.is_empty() {
        return value.u32("the id").map(SampleId::Number);
    }
    value::parse_subfield(value).map(SampleId::Field)
}

fn fin_timeout(value: Token<'_>) -> Result<Action, Error> {
    let (mut idle, mut hard) = (0, 0);
    for item in value.items() {
        let item = item?;
        match item.key.text {
            "idle_timeout" => idle = item.value.u16("idle_timeout")?,
            "hard_timeout" => hard = item.value.u16("hard_timeout")?,
            _ => {
                let expected = "idle_timeout or hard_timeout";
                return item.key.fail(Problem::UnknownArgument { action: "fin_timeout", expected });
            }
        }
    }
    Ok(Action::FinTimeout { idle, hard })
}

fn check_pkt_larger(value: Token<'_>) -> Result<Action, Error> {
    let (length, to) = arrow(value)?;
    let length = length.strip_suffix(")").unwrap_or(length).trim();
    let target = target(to)?;
    if target.bits != 1 {
        return to.fail(Problem::NotOneBit);
    }
    Ok(Action::CheckPktLarger { target, length: length.u16("the length")? })
}
