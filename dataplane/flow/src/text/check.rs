//! What Open vSwitch refuses when a rule is added: actions that don't fit what is known of the packet, each other, or
//! what they are nested in.

use weft_wire::{OfPort, Tci};

use super::actions::Within;
use super::context::{Context, TCP, UDP};
use super::error::{Error, Problem};
use super::token::Token;
use crate::action::{Action, Bundle, Ct, CtHelper, CtZone, NatAddresses, VlanChange};
use crate::field::{Field, Subfield};

/// What a whole rule shows only at its end: OpenFlow 1.0 tolerates actions that don't fit the match (they do
/// nothing), but some actions only exist in later versions. A rule with both can't be.
#[derive(Clone, Copy, Default)]
pub(super) struct Checks<'a> {
    misfit: Option<Token<'a>>,
    newer: Option<&'static str>,
}

impl<'a> Checks<'a> {
    /// Notes something that OpenFlow 1.0 hasn't.
    pub fn newer(&mut self, what: &'static str) {
        self.newer.get_or_insert(what);
    }

    /// The rule as a whole.
    pub fn finish(&self) -> Result<(), Error> {
        match (self.misfit, self.newer) {
            (Some(action), Some(newer)) => action.fail(Problem::Inconsistent(newer)),
            _ => Ok(()),
        }
    }

    /// One action; `table` is the rule's. Where nothing is known of the packet, only its form is checked.
    pub fn check(
        &mut self,
        action: &Action,
        token: Token<'a>,
        table: Option<u8>,
        context: &mut Option<Context>,
    ) -> Result<(), Error> {
        form(action, token, table)?;
        match action {
            Action::PushVlan(_) => self.newer("push_vlan"),
            Action::Meter(_) => self.newer("meter"),
            _ => (),
        }
        let Some(context) = context else { return Ok(()) };
        needs(action, token, context)?;
        if !fits(action, context) {
            self.misfit.get_or_insert(token);
        }
        follow(action, context);
        Ok(())
    }
}

/// Whether an action can stand in what it is nested in.
pub(super) fn within(action: &Action, within: Within, token: Token<'_>) -> Result<(), Error> {
    let target = match action {
        Action::SetField { field, .. } => Some(*field),
        Action::Load { target, .. } | Action::Move { target, .. } => Some(target.field),
        _ => None,
    };
    let of_connection = target.is_some_and(|field| matches!(field, Field::CtMark | Field::CtLabel));
    match (within, action) {
        (Within::Ct, _) if !of_connection => {
            token.fail(Problem::NotWithin("ct(exec(..)), which changes ct_mark and ct_label only"))
        }
        (Within::Ct, _) => Ok(()),
        _ if of_connection => token.fail(Problem::OnlyWithin("ct(exec(..))")),
        (Within::Clone, Action::Meter(_)) => token.fail(Problem::NotWithin("clone(..)")),
        (Within::WriteActions, action) if !is_of_set(action) => {
            token.fail(Problem::NotWithin("write_actions(..), which has output, group, resubmit, ct, changes of headers and fields, and set_queue"))
        }
        _ => Ok(()),
    }
}

/// Whether an action can be in an action set (OpenFlow 1.5.1, section 5.6, and Open vSwitch's own).
fn is_of_set(action: &Action) -> bool {
    match action {
        Action::Controller(action) => action.is_output(),
        Action::OutputTrunc { .. }
        | Action::OutputReg { .. }
        | Action::Enqueue { .. }
        | Action::PopQueue
        | Action::Bundle(_)
        | Action::Push(_)
        | Action::Pop(_)
        | Action::Learn(_)
        | Action::Conjunction { .. }
        | Action::Multipath(_)
        | Action::Note(_)
        | Action::Exit
        | Action::Sample(_)
        | Action::Clone(_)
        | Action::CheckPktLarger { .. }
        | Action::FinTimeout { .. }
        | Action::Meter(_)
        | Action::ClearActions
        | Action::WriteActions(_)
        | Action::WriteMetadata { .. }
        | Action::GotoTable(_) => false,
        _ => true,
    }
}

/// What is wrong whatever the packet is.
fn form(action: &Action, token: Token<'_>, table: Option<u8>) -> Result<(), Error> {
    match action {
        Action::Output(port) if !is_output(*port) => {
            let reserved = "IN_PORT, TABLE, NORMAL, FLOOD, ALL, CONTROLLER and LOCAL";
            token.fail(Problem::BadPort { reserved })
        }
        Action::Enqueue { port, .. }
            if *port > OfPort::MAX && ![OfPort::IN_PORT, OfPort::LOCAL].contains(port) =>
        {
            token.fail(Problem::BadPort { reserved: "IN_PORT and LOCAL" })
        }
        Action::Bundle(bundle) if !bundle.ports.iter().all(|port| is_member(*port)) => {
            token.fail(Problem::BadPort { reserved: "IN_PORT, TABLE, NORMAL, FLOOD, ALL, LOCAL and NONE" })
        }
        Action::GotoTable(to) if table.is_some_and(|table| *to <= table) => {
            token.fail(Problem::NotForward(table.unwrap_or_default()))
        }
        _ => Ok(()),
    }
}

fn is_output(port: OfPort) -> bool {
    port <= OfPort::MAX || (OfPort::IN_PORT..=OfPort::LOCAL).contains(&port)
}

fn is_member(port: OfPort) -> bool {
    port == OfPort::NONE || is_output(port) && port != OfPort::CONTROLLER
}

/// What an action must have in every version of OpenFlow.
fn needs(action: &Action, token: Token<'_>, context: &Context) -> Result<(), Error> {
    let reads = |field: Field| match context.reads(field) {
        true => Ok(()),
        false => token.fail(Problem::Lacks { field, needs: field.info().prerequisite }),
    };
    match action {
        Action::OutputReg { source, .. } | Action::Push(source) | Action::Pop(source) => reads(source.field),
        Action::Move { source, target } => reads(source.field).and_then(|()| reads(target.field)),
        Action::Multipath(multipath) => reads(multipath.target.field),
        Action::Bundle(bundle) => match &**bundle {
            Bundle { target: Some(target), .. } => reads(target.field),
            _ => Ok(()),
        },
        Action::SetField { field, .. } => sets(*field, token, context),
        Action::Load { target, .. } => sets(target.field, token, context),
        Action::PushVlan(_) if Tci(context.tags[1]).is_tagged() => token.fail(Problem::TooManyVlans),
        Action::Resubmit { ct: true, .. } if !context.is_tracked() => {
            token.fail(Problem::NotMatched("a tracked connection (ct_state)"))
        }
        Action::Ct(ct) => connection(ct, token, context),
        _ => Ok(()),
    }
}

fn sets(field: Field, token: Token<'_>, context: &Context) -> Result<(), Error> {
    if context.sets(field) {
        return Ok(());
    }
    let needs = field.info().prerequisite;
    let needs = if field == Field::VlanVid { crate::field::Prerequisite::Vlan } else { needs };
    token.fail(Problem::Lacks { field, needs })
}

fn connection(ct: &Ct, token: Token<'_>, context: &Context) -> Result<(), Error> {
    let lacks = |what| token.fail(Problem::NotMatched(what));
    match ct.zone {
        _ if !context.is_ip() => lacks("ip or ipv6"),
        _ if ct.commit && context.is_invalid() => lacks("packets that ct_state does not call invalid"),
        _ if ct.helper == Some(CtHelper::Ftp) && context.proto != TCP => lacks("tcp or tcp6"),
        _ if ct.helper == Some(CtHelper::Tftp) && context.proto != UDP => lacks("udp or udp6"),
        CtZone::Field(Subfield { field, .. }) if !context.reads(field) => {
            token.fail(Problem::Lacks { field, needs: field.info().prerequisite })
        }
        _ => match ct.nat.as_ref().and_then(|nat| nat.addresses) {
            Some(NatAddresses::V4(..)) if !context.is_ipv4() => lacks("ip"),
            Some(NatAddresses::V6(..)) if !context.is_ipv6() => lacks("ipv6"),
            _ => Ok(()),
        },
    }
}

/// Whether an action does something to the packets that it gets; if not, only OpenFlow 1.0 has it.
fn fits(action: &Action, context: &Context) -> bool {
    match action {
        Action::SetVlanVid(VlanChange { push, .. }) | Action::SetVlanPcp(VlanChange { push, .. }) => {
            *push || context.tagged()
        }
        Action::StripVlan => context.tagged(),
        Action::SetIpSrc(_) | Action::SetIpDst(_) => context.is_ipv4(),
        Action::SetIpTos(_) | Action::SetIpEcn(_) | Action::SetIpTtl(_) | Action::DecTtl(_) => {
            context.is_ip()
        }
        Action::SetTpSrc(_) | Action::SetTpDst(_) => context.has_ports(),
        Action::SetMplsLabel(_) | Action::SetMplsTc(_) | Action::SetMplsTtl(_) | Action::DecMplsTtl => {
            context.is_mpls()
        }
        Action::PushMpls(_) => context.is_ethernet(),
        Action::PopMpls(_) => context.is_ethernet() && context.is_mpls(),
        Action::FinTimeout { .. } => context.proto == TCP,
        _ => true,
    }
}

/// What an action changes of what is known.
fn follow(action: &Action, context: &mut Context) {
    match action {
        Action::SetVlanVid(_) | Action::SetVlanPcp(_) => context.tags[0] |= Tci::PRESENT,
        Action::StripVlan => context.pop_tag(),
        Action::PushVlan(_) => context.push_tag(),
        Action::PushMpls(eth_type) => (context.eth_type, context.proto) = (*eth_type, 0),
        Action::PopMpls(eth_type) => context.eth_type = *eth_type,
        Action::SetField { field: Field::VlanTci, value, .. } => context.tags[0] = *value as u16,
        Action::Load { target, value } if target.field == Field::VlanTci => {
            context.tags[0] = (*value << target.offset) as u16;
        }
        _ => (),
    }
}
