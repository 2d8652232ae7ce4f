//! Writing actions as `ovs-ofctl` does.

use weft_wire::OfPort;

use super::balance::{BUNDLES, HASHES, MULTIPATHS, name_of};
use super::number;
use super::port::{self, PortNames};
use super::print_ct;
use super::simple::REASONS;
use super::value;
use crate::action::{
    Action, Bundle, Controller, Learn, LearnSource, LearnSpec, LearnTarget, Multipath, Own, PacketInReason,
    Sample, SampleDirection, SampleId,
};
use crate::field::Subfield;

/// Writes a list; an empty one is `drop`.
pub(super) fn print(out: &mut String, actions: &[Action], ports: &dyn PortNames) {
    if actions.is_empty() {
        out.push_str("drop");
    }
    for (at, action) in actions.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        one(out, action, ports);
    }
}

/// A word and a number.
fn word(out: &mut String, word: &str, value: impl Into<u128>) {
    out.push_str(word);
    number::decimal(out, value.into());
}

/// The same, which was opened by the word.
fn call(out: &mut String, name: &str, value: impl Into<u128>) {
    word(out, name, value);
    out.push(')');
}

/// A word and a hexadecimal number.
fn word_hex(out: &mut String, word: &str, value: impl Into<u128>) {
    out.push_str(word);
    number::hex(out, value.into());
}

fn word_subfield(out: &mut String, word: &str, subfield: Subfield) {
    out.push_str(word);
    value::print_subfield(out, subfield);
}

fn one(out: &mut String, action: &Action, ports: &dyn PortNames) {
    match action {
        Action::Output(to) => output(out, *to, ports),
        Action::OutputTrunc { port: to, max_len } => {
            out.push_str("output(port=");
            port::print(out, *to, ports);
            word(out, ",max_len=", *max_len);
            out.push(')');
        }
        Action::OutputReg { source, .. } => word_subfield(out, "output:", *source),
        Action::Controller(action) => controller(out, action),
        Action::Enqueue { port: to, queue } => {
            out.push_str("enqueue:");
            port::print(out, *to, ports);
            word(out, ":", *queue);
        }
        Action::Bundle(action) => bundle(out, action, ports),
        Action::SetField { field, value, mask } => {
            out.push_str("set_field:");
            value::print(out, *field, (*value, mask.bits(*field)), ports);
            out.push_str("->");
            out.push_str(field.info().name);
        }
        Action::Load { target, value } => {
            word_hex(out, "load:", *value);
            word_subfield(out, "->", *target);
        }
        Action::Move { source, target } => {
            word_subfield(out, "move:", *source);
            word_subfield(out, "->", *target);
        }
        Action::Push(subfield) => word_subfield(out, "push:", *subfield),
        Action::Pop(subfield) => word_subfield(out, "pop:", *subfield),
        Action::Resubmit { in_port, table, ct } => resubmit(out, (*in_port, *table, *ct), ports),
        Action::Learn(action) => learn(out, action, ports),
        Action::Multipath(action) => multipath(out, action),
        Action::Sample(action) => sample(out, action, ports),
        Action::Clone(actions) => nested(out, "clone(", actions, ports),
        Action::WriteActions(actions) => nested(out, "write_actions(", actions, ports),
        Action::Ct(action) => print_ct::print(out, action, ports),
        Action::CheckPktLarger { target, length } => {
            word(out, "check_pkt_larger(", *length);
            word_subfield(out, ")->", *target);
        }
        _ => plain(out, action),
    }
}

/// Actions without ports and lists.
fn plain(out: &mut String, action: &Action) {
    match action {
        Action::SetQueue(queue) => word(out, "set_queue:", *queue),
        Action::PopQueue => out.push_str("pop_queue"),
        Action::Group(group) => word(out, "group:", *group),
        Action::Conjunction { id, clause, clauses } => {
            word(out, "conjunction(", *id);
            word(out, ",", u16::from(*clause) + 1);
            word(out, "/", *clauses);
            out.push(')');
        }
        Action::Note(octets) => {
            out.push_str("note:");
            number::octets(out, octets);
        }
        Action::Exit => out.push_str("exit"),
        Action::FinTimeout { idle, hard } => {
            out.push_str("fin_timeout(");
            if *idle != 0 {
                word(out, "idle_timeout=", *idle);
            }
            if *hard != 0 {
                word(out, if *idle != 0 { ",hard_timeout=" } else { "hard_timeout=" }, *hard);
            }
            out.push(')');
        }
        Action::CtClear => out.push_str("ct_clear"),
        Action::Meter(meter) => word(out, "meter:", *meter),
        Action::ClearActions => out.push_str("clear_actions"),
        Action::WriteMetadata { value, mask } => {
            word_hex(out, "write_metadata:", *value);
            if *mask != u64::MAX {
                word_hex(out, "/", *mask);
            }
        }
        Action::GotoTable(table) => word(out, "goto_table:", *table),
        Action::Own(Own::Permit) => out.push_str("permit"),
        Action::Own(Own::Drop(reason)) => {
            out.push_str("drop(");
            out.push_str(reason.name());
            out.push(')');
        }
        _ => header(out, action),
    }
}

/// Actions that rewrite headers.
fn header(out: &mut String, action: &Action) {
    match action {
        Action::SetVlanVid(change) if change.push => word(out, "mod_vlan_vid:", change.value),
        Action::SetVlanVid(change) => word(out, "set_vlan_vid:", change.value),
        Action::SetVlanPcp(change) if change.push => word(out, "mod_vlan_pcp:", change.value),
        Action::SetVlanPcp(change) => word(out, "set_vlan_pcp:", change.value),
        Action::StripVlan => out.push_str("pop_vlan"),
        Action::PushVlan(eth_type) => word_hex(out, "push_vlan:", *eth_type),
        Action::SetEthSrc(mac) => {
            out.push_str("mod_dl_src:");
            number::mac(out, mac.to_u64().into());
        }
        Action::SetEthDst(mac) => {
            out.push_str("mod_dl_dst:");
            number::mac(out, mac.to_u64().into());
        }
        Action::SetIpSrc(address) => {
            out.push_str("mod_nw_src:");
            number::ipv4(out, u32::from(*address).into());
        }
        Action::SetIpDst(address) => {
            out.push_str("mod_nw_dst:");
            number::ipv4(out, u32::from(*address).into());
        }
        Action::SetIpTos(tos) => word(out, "mod_nw_tos:", *tos),
        Action::SetIpEcn(ecn) => word(out, "mod_nw_ecn:", *ecn),
        Action::SetIpTtl(ttl) => word(out, "mod_nw_ttl:", *ttl),
        Action::SetTpSrc(port) => word(out, "mod_tp_src:", *port),
        Action::SetTpDst(port) => word(out, "mod_tp_dst:", *port),
        Action::DecTtl(ids) => {
            out.push_str("dec_ttl");
            for (at, id) in ids.iter().enumerate() {
                word(out, if at == 0 { "(" } else { "," }, *id);
            }
            if !ids.is_empty() {
                out.push(')');
            }
        }
        Action::SetMplsLabel(label) => call(out, "set_mpls_label(", *label),
        Action::SetMplsTc(class) => call(out, "set_mpls_tc(", *class),
        Action::SetMplsTtl(ttl) => call(out, "set_mpls_ttl(", *ttl),
        Action::DecMplsTtl => out.push_str("dec_mpls_ttl"),
        Action::PushMpls(eth_type) => {
            out.push_str("push_mpls:");
            number::hex_padded(out, u128::from(*eth_type), 4);
        }
        Action::PopMpls(eth_type) => {
            out.push_str("pop_mpls:");
            number::hex_padded(out, u128::from(*eth_type), 4);
        }
        Action::SetTunnel { id, wide: false } => word_hex(out, "set_tunnel:", *id),
        Action::SetTunnel { id, wide: true } => word_hex(out, "set_tunnel64:", *id),
        // The others are written by whoever calls this.
        _ => (),
    }
}

fn nested(out: &mut String, name: &str, actions: &[Action], ports: &dyn PortNames) {
    out.push_str(name);
    print(out, actions, ports);
    out.push(')');
}

fn output(out: &mut String, to: OfPort, ports: &dyn PortNames) {
    if to <= OfPort::MAX {
        out.push_str("output:");
    }
    port::print(out, to, ports);
}

fn controller(out: &mut String, action: &Controller) {
    let Controller { max_len, reason, id, userdata, pause, meter } = action;
    if action.is_output() {
        return word(out, "CONTROLLER:", *max_len);
    }
    out.push_str("controller(");
    if *reason != PacketInReason::Action {
        out.push_str("reason=");
        out.push_str(name_of(&REASONS, *reason));
        out.push(',');
    }
    if *max_len != u16::MAX {
        word(out, "max_len=", *max_len);
        out.push(',');
    }
    if *id != 0 {
        word(out, "id=", *id);
        out.push(',');
    }
    if !userdata.is_empty() {
        out.push_str("userdata=");
        number::octets(out, userdata);
        out.push(',');
    }
    if *pause {
        out.push_str("pause,");
    }
    if let Some(meter) = meter {
        word(out, "meter_id=", *meter);
        out.push(',');
    }
    close(out);
}

/// A closing parenthesis instead of the last comma.
pub(super) fn close(out: &mut String) {
    if out.ends_with(',') {
        out.pop();
    }
    out.push(')');
}

fn bundle(out: &mut String, bundle: &Bundle, ports: &dyn PortNames) {
    out.push_str(if bundle.target.is_some() { "bundle_load(" } else { "bundle(" });
    out.push_str(name_of(&HASHES, bundle.fields));
    word(out, ",", bundle.basis);
    out.push(',');
    out.push_str(name_of(&BUNDLES, bundle.algorithm));
    out.push_str(",ofport,");
    if let Some(target) = bundle.target {
        value::print_subfield(out, target);
        out.push(',');
    }
    out.push_str("members:");
    for (at, member) in bundle.ports.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        port::print(out, *member, ports);
    }
    out.push(')');
}

fn multipath(out: &mut String, multipath: &Multipath) {
    out.push_str("multipath(");
    out.push_str(name_of(&HASHES, multipath.fields));
    word(out, ",", multipath.basis);
    out.push(',');
    out.push_str(name_of(&MULTIPATHS, multipath.algorithm));
    word(out, ",", u32::from(multipath.max_link) + 1);
    word(out, ",", multipath.arg);
    word_subfield(out, ",", multipath.target);
    out.push(')');
}

fn resubmit(out: &mut String, action: (Option<OfPort>, Option<u16>, bool), ports: &dyn PortNames) {
    let (in_port, table, ct) = action;
    if let (Some(in_port), None, false) = (in_port, table, ct) {
        out.push_str("resubmit:");
        return port::print(out, in_port, ports);
    }
    out.push_str("resubmit(");
    if let Some(in_port) = in_port {
        port::print(out, in_port, ports);
    }
    out.push(',');
    if let Some(table) = table {
        number::decimal(out, table.into());
    }
    out.push_str(if ct { ",ct)" } else { ")" });
}

fn sample(out: &mut String, sample: &Sample, ports: &dyn PortNames) {
    word(out, "sample(probability=", sample.probability);
    word(out, ",collector_set_id=", sample.collector_set_id);
    for (name, id) in [(",obs_domain_id=", sample.obs_domain_id), (",obs_point_id=", sample.obs_point_id)] {
        match id {
            SampleId::Number(id) => word(out, name, id),
            SampleId::Field(field) => word_subfield(out, name, field),
        }
    }
    if let Some(port) = sample.sampling_port {
        out.push_str(",sampling_port=");
        port::print(out, port, ports);
    }
    out.push_str(match sample.direction {
        SampleDirection::Default => ")",
        SampleDirection::Ingress => ",ingress)",
        SampleDirection::Egress => ",egress)",
    });
}

fn learn(out: &mut String, learn: &Learn, ports: &dyn PortNames) {
    word(out, "learn(table=", learn.table);
    let timeouts = [
        (",idle_timeout=", learn.idle_timeout),
        (",hard_timeout=", learn.hard_timeout),
        (",fin_idle_timeout=", learn.fin_idle_timeout),
        (",fin_hard_timeout=", learn.fin_hard_timeout),
    ];
    for (name, timeout) in timeouts.into_iter().filter(|(_, timeout)| *timeout != 0) {
        word(out, name, timeout);
    }
    if learn.priority != 32768 {
        word(out, ",priority=", learn.priority);
    }
    out.push_str(if learn.send_flow_removed { ",send_flow_rem" } else { "" });
    out.push_str(if learn.delete_learned { ",delete_learned" } else { "" });
    if learn.cookie != 0 {
        word_hex(out, ",cookie=", learn.cookie);
    }
    if learn.limit != 0 {
        word(out, ",limit=", learn.limit);
    }
    if let Some(result) = learn.result {
        word_subfield(out, ",result_dst=", result);
    }
    for spec in &learn.specs {
        out.push(',');
        learn_spec(out, spec, ports);
    }
    out.push(')');
}

fn learn_spec(out: &mut String, spec: &LearnSpec, ports: &dyn PortNames) {
    match (&spec.target, &spec.source) {
        (LearnTarget::Match(target), LearnSource::Immediate(value)) => {
            if *target == value::all_of(target.field) {
                out.push_str(target.field.info().name);
                out.push('=');
                value::print(out, target.field, (*value, target.field.max()), ports);
            } else {
                value::print_subfield(out, *target);
                word_hex(out, "=", *value);
            }
        }
        (LearnTarget::Match(target), LearnSource::Field(source)) => {
            value::print_subfield(out, *target);
            if source != target {
                word_subfield(out, "=", *source);
            }
        }
        (LearnTarget::Load(target), LearnSource::Immediate(value)) => {
            word_hex(out, "load:", *value);
            word_subfield(out, "->", *target);
        }
        (LearnTarget::Load(target), LearnSource::Field(source)) => {
            word_subfield(out, "load:", *source);
            word_subfield(out, "->", *target);
        }
        (LearnTarget::Output, LearnSource::Field(source)) => word_subfield(out, "output:", *source),
        // No message can say it.
        (LearnTarget::Output, LearnSource::Immediate(value)) => word(out, "output:", *value),
    }
}
