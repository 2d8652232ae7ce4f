//! What workers have cached of a port's flows, for people to look at.

use std::collections::BTreeMap;
use std::fmt::Write;

use weft_config::control::{CachedFlow, Code, FlowReply, Refusal};
use weft_core::key::{Ingress, PortId};
use weft_core::listing::FlowInfo;
use weft_core::verdict::{Emit, Op, Terms};
use weft_core::vlan::TagRewrite;
use weft_flow::text;
use weft_flow::{Fields, FlowKey, KeyMask, Match};
use weft_wire::PortName;

use super::Names;
use crate::switch::Switch;

/// What ports are called, whatever their bridge.
type PortsById<'a> = BTreeMap<PortId, &'a PortName>;

impl Switch {
    /// Flows of packets that came in by the port or tunnel.
    pub(super) fn cached_flows(&self, name: &PortName, limit: u32) -> Result<FlowReply, Refusal> {
        let no_port = || Refusal::new(Code::NotFound, format!("there is no port '{name}'"));
        let id = self.ports.get(name).ok_or_else(no_port)?.id;
        let holds = |bridge: &&weft_config::Bridge| bridge.ofport_of(name.as_str()).is_some();
        let bridge = self.config.bridges.iter().find(holds).ok_or_else(no_port)?;
        let flows =
            self.datapath.flows(id, limit as usize).map_err(|error| Refusal::new(Code::Failed, error))?;
        let (names, second) = (Names::of(bridge), self.second());
        let ports: PortsById<'_> = self.ports.iter().map(|(name, port)| (port.id, name)).collect();
        let flows = flows.into_iter().map(|(worker, flow)| CachedFlow {
            worker: worker as u32,
            matches: matches(&flow, &ports, &names),
            steps: steps(&flow, &ports, &names),
            rules: flow.rules as u32,
            packets: flow.packets,
            bytes: flow.bytes,
            age_s: second.saturating_sub(flow.stamp),
        });
        Ok(FlowReply::Cached { flows: flows.collect() })
    }
}

/// Where its packets came in, and which of their bits count.
fn matches(flow: &FlowInfo, ports: &PortsById<'_>, names: &Names) -> String {
    let port = flow.tunnel.or(Ingress::of(&flow.key).decode().ok());
    let name = port.and_then(|id| ports.get(&id)).map(|name| name.as_str());
    cached_match(name, (&flow.key, &flow.mask), names)
}

/// The bits of a cached flow's packets that count, as a match.
pub(crate) fn cached_match(port: Option<&str>, (key, read): (&FlowKey, &KeyMask), names: &Names) -> String {
    let mut text = port.map_or_else(String::new, |name| format!("in_port={name}"));
    let mut mask = Fields::default();
    mask.0.iter_mut().zip(read.0).for_each(|(word, bits)| *word = bits);
    // The low bits of the first word say where the packet came in: no field of a rule.
    if let Some(first) = mask.0.first_mut() {
        *first &= !0xffff;
    }
    let rest = text::print_match(&Match::new(&mask, &Fields::of_packet(key)), names);
    if !rest.is_empty() {
        let _ = write!(text, "{}{rest}", if text.is_empty() { "" } else { "," });
    }
    text
}

fn steps(flow: &FlowInfo, ports: &PortsById<'_>, names: &Names) -> Vec<String> {
    let mut steps: Vec<String> = flow.ops.iter().map(|op| step(op, flow, ports, names)).collect();
    if let Some(reason) = flow.drop {
        steps.push(format!("drop({})", reason.name()));
    }
    steps
}

fn step(op: &Op, flow: &FlowInfo, ports: &PortsById<'_>, names: &Names) -> String {
    match op {
        Op::Set(terms) => format!("set({})", set(*terms, flow, names)),
        Op::PopVlan => "pop_vlan".to_owned(),
        Op::PushVlan { tpid, tci } => {
            format!("push_vlan({tpid:#06x},vlan={},pcp={})", tci & 0xfff, tci >> 13)
        }
        Op::PopMpls { ethertype } => format!("pop_mpls({ethertype:#06x})"),
        Op::PushMpls { ethertype, lse } => format!("push_mpls({ethertype:#06x},lse={lse:#010x})"),
        // Which connection's, the flow's packets say.
        Op::Translate(number) => format!("nat(connection {number})"),
        Op::TranslateTo(once) => format!("nat({})", once.translation.tuple),
        Op::Rewrite(_) => "alg".to_owned(),
        Op::Output(emit) => output(emit, ports),
        Op::Clone(steps) => format!("clone(next {steps})"),
        Op::Meter(meter) => format!("meter({})", meter.0.spec.id),
        Op::PacketIn(packet) => format!("controller(table={},cookie={:#x})", packet.0.table, packet.0.cookie),
        Op::Sample { probability, collector_set_id } => {
            format!("sample(probability={probability},collector_set_id={collector_set_id})")
        }
    }
}

/// The new values, as a match has them.
fn set(range: Terms, flow: &FlowInfo, names: &Names) -> String {
    let terms = flow.terms.get(range.start as usize..range.end as usize).unwrap_or_default();
    let (mut mask, mut value) = (Fields::default(), Fields::default());
    for term in terms {
        let at = usize::from(term.word);
        if let (Some(mask), Some(value)) = (mask.0.get_mut(at), value.0.get_mut(at)) {
            (*mask, *value) = (term.mask, term.value);
        }
    }
    text::print_match(&Match::new(&mask, &value), names)
}

fn output(emit: &Emit, ports: &PortsById<'_>) -> String {
    let port = ports.get(&emit.port).map_or_else(|| "(gone)".to_owned(), ToString::to_string);
    let mut text = format!("output({port}");
    text.push_str(&match emit.tag {
        TagRewrite::Keep => String::new(),
        TagRewrite::Pop => ",pop_vlan".to_owned(),
        TagRewrite::PopUnlessPriority => ",pop_vlan_unless_pcp".to_owned(),
        TagRewrite::Push(vid) => format!(",push_vlan={vid}"),
        TagRewrite::Set(vid) => format!(",set_vlan={vid}"),
    });
    if let Some(key) = emit.key {
        let _ = write!(text, ",tun_id={key:#x}");
    }
    if emit.max_len > 0 {
        let _ = write!(text, ",max_len={}", emit.max_len);
    }
    text.push(')');
    text
}
