//! `weftctl trace`: a packet, described or real, goes through what is published, and nothing comes of it.

use std::collections::BTreeMap;

use weft_config::control::{
    Code, FoundRule, Refusal, Reply, TraceChange, TraceConnection, TraceController, TraceCopy, TraceDrop,
    TraceEvent, TraceReport, TraceRequest, TraceStep, TraceTunnel,
};
use weft_core::snapshot::Snapshot;
use weft_core::tables::TableId;
use weft_core::trace::{
    self, Change, Connection, Copy, Description, Dropped, Names, Octets, Query, Step, ToController, Trace,
    What,
};
use weft_flow::FlowKey;
use weft_flow::text::{PortNames, parse_match};
use weft_wire::OfPort;

use crate::acl::Owners;
use crate::switch::Switch;

/// Octets that a frame may have.
const MAX_FRAME: usize = 65_549;

impl Switch {
    pub(crate) fn trace(&self, request: &TraceRequest) -> Result<Reply, Refusal> {
        let snapshot = self.datapath.shared().published.load();
        let unknown = || Refusal::new(Code::NotFound, format!("there is no bridge '{}'", request.bridge));
        let state = self.bridges.get(&request.bridge).ok_or_else(unknown)?;
        let bridge = snapshot.bridge(state.id).ok_or_else(unknown)?;
        let names = Names { snapshot: &snapshot, bridge };
        let bad = |error: &dyn std::fmt::Display| Refusal::new(Code::Refused, error);
        let matches = parse_match(&request.flow, &names).map_err(|error| bad(&error))?;
        let frame = request.frame.as_deref().map(octets).transpose()?;
        let in_port = request.in_port.as_deref().map(|port| port_of(port, &names)).transpose()?;
        let description = Description { bridge, in_port, matches: &matches, frame: frame.as_deref() };
        let key = description.key(&snapshot).map_err(|error| bad(&error))?;
        let pool = &self.datapath.shared().pool;
        let octets = frame.as_deref().map(|frame| Octets { frame, pool });
        let mut traced = trace::run(self.query((&snapshot, &key), octets))
            .map_err(|error| Refusal::new(Code::Failed, format!("can't trace: {error}")))?;
        self.name_groups(&mut traced);
        Ok(Reply::Trace { trace: Box::new(report(traced, Namer::new(self))) })
    }

    /// What would happen now to a packet of this key.
    pub(crate) fn query<'a>(
        &'a self,
        (snapshot, key): (&'a Snapshot, &'a FlowKey),
        octets: Option<Octets<'a>>,
    ) -> Query<'a> {
        let connections = self.datapath.connections();
        Query { snapshot, key, octets, connections, second: self.second(), now: self.start.elapsed() }
    }
}

/// The bridges that a step of a walk is within, with the depths of their own steps.
#[derive(Debug, Default)]
pub(crate) struct Within(Vec<(u16, String)>);

impl Within {
    /// The next step.
    pub fn follow(&mut self, step: &Step) {
        self.0.retain(|(depth, _)| *depth < step.depth);
        if let What::Bridge { bridge, .. } = &step.what {
            self.0.push((step.depth, bridge.clone()));
        }
    }

    /// The innermost.
    pub fn bridge(&self) -> Option<&String> {
        self.0.last().map(|(_, bridge)| bridge)
    }
}

/// A port of the bridge, by name or number.
fn port_of(text: &str, names: &Names<'_>) -> Result<OfPort, Refusal> {
    let number = || text.parse().ok().map(OfPort).filter(|&port| names.name(port).is_some());
    names.number(text).or_else(number).ok_or_else(|| {
        Refusal::new(Code::NotFound, format!("bridge {} has no port '{text}'", names.bridge.spec.name))
    })
}

/// Hexadecimal digits, two for an octet; blanks and colons between them don't matter.
fn octets(text: &str) -> Result<Vec<u8>, Refusal> {
    let bad = |what: String| Refusal::new(Code::Refused, format!("the frame: {what}"));
    let digits: Vec<char> = text.chars().filter(|letter| !letter.is_whitespace() && *letter != ':').collect();
    let digit = |letter: &char| letter.to_digit(16).map(|digit| digit as u8);
    let octet = |pair: &[char]| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    };
    if digits.len() > 2 * MAX_FRAME {
        return Err(bad(format!("it has more than {MAX_FRAME} octets")));
    }
    digits
        .chunks(2)
        .map(octet)
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(|| bad("not hexadecimal digits, two for each octet".to_owned()))
}

/// Says whose rules of weft's own tables are, step by step.
struct Namer<'a> {
    switch: &'a Switch,
    within: Within,
    owners: BTreeMap<String, Owners>,
}

impl<'a> Namer<'a> {
    fn new(switch: &'a Switch) -> Self {
        Namer { switch, within: Within::default(), owners: BTreeMap::new() }
    }

    fn step(&mut self, step: Step) -> TraceStep {
        self.within.follow(&step);
        let Step { depth, what } = step;
        let mut event = event(what);
        if let TraceEvent::Lookup { table, rule: Some(rule) } = &mut event
            && TableId(*table) >= TableId::OWN
        {
            rule.name = self.owner(rule.cookie);
        }
        TraceStep { depth, event }
    }

    fn owner(&mut self, cookie: u64) -> Option<String> {
        let bridge = self.within.bridge()?;
        if !self.owners.contains_key(bridge) {
            let owners = self.switch.own_rule_owners(&bridge.parse().ok()?);
            self.owners.insert(bridge.clone(), owners);
        }
        self.owners.get(bridge).map(|owners| owners.of(cookie)).filter(|owner| !owner.is_empty())
    }
}

fn report(trace: Trace, mut namer: Namer<'_>) -> TraceReport {
    let summary = trace.summary();
    let steps = trace.steps.into_iter();
    TraceReport {
        packet: trace.packet,
        reads: trace.reads.into_iter().map(str::to_owned).collect(),
        steps: steps.map(|step| namer.step(step)).collect(),
        left_out: trace.left_out,
        copies: trace.copies.into_iter().map(copy).collect(),
        controllers: trace.controllers.into_iter().map(controller).collect(),
        dropped: trace.dropped.map(drop_of),
        summary,
    }
}

fn event(what: What) -> TraceEvent {
    match what {
        What::Bridge { bridge, port, ofport } => TraceEvent::Bridge { bridge, port, ofport: ofport.0 },
        What::Lookup { table, rule } => TraceEvent::Lookup {
            table: table.0,
            rule: rule.map(|rule| FoundRule {
                priority: rule.priority,
                cookie: rule.cookie,
                name: None,
                matches: rule.matches,
                actions: rule.actions,
            }),
        },
        What::Action(action) => TraceEvent::Action(action),
        What::Changed(of) => TraceEvent::Change(change(of)),
        What::Tracked(of) => TraceEvent::Tracked(connection(of)),
        What::ActionSet => TraceEvent::ActionSet {},
        What::Bucket { group, bucket } => TraceEvent::Bucket { group, bucket },
        What::Vlan(vlan) => TraceEvent::Vlan { vlan },
        What::Sender { vid, mac, port, known } => TraceEvent::Sender { vlan: vid, mac, port, known },
        What::Destination { vid, mac, port } => TraceEvent::Destination { vlan: vid, mac, port },
        What::Skipped { port, reason } => TraceEvent::Skipped { port, reason: reason.name().to_owned() },
        What::Output(of) => TraceEvent::Output(copy(of)),
        What::Controller(of) => TraceEvent::Controller(controller(of)),
        What::Learn(rule) => TraceEvent::Learn(rule),
        What::Refused(of) => TraceEvent::Refused(drop_of(of)),
        What::Failed(of) => TraceEvent::Failed(drop_of(of)),
    }
}

fn connection(of: Connection) -> TraceConnection {
    let text = of.to_string();
    TraceConnection {
        zone: of.zone,
        state: of.state,
        tuple: of.tuple,
        original: of.original,
        mark: of.mark,
        label: format!("{:#x}", of.label),
        made: of.is_made,
        refused: of.refused,
        translated: of.translated,
        text,
    }
}

fn drop_of(dropped: Dropped) -> TraceDrop {
    TraceDrop { reason: dropped.reason.name().to_owned(), hint: dropped.hint }
}

fn change(change: Change) -> TraceChange {
    TraceChange { field: change.field.to_owned(), from: change.from, to: change.to }
}

fn copy(copy: Copy) -> TraceCopy {
    let text = copy.to_string();
    TraceCopy {
        bridge: copy.bridge,
        port: copy.port,
        ofport: copy.ofport.0,
        vlan: copy.vlan.tag.map(|(vid, _)| vid),
        pcp: copy.vlan.tag.map(|(_, priority)| priority),
        changes: copy.changes.into_iter().map(change).collect(),
        max_len: copy.max_len,
        tunnel: copy.tunnel.map(|wrapped| TraceTunnel {
            kind: wrapped.kind,
            local: wrapped.local,
            remote: wrapped.remote,
            key: wrapped.key,
            uplink: wrapped.path.as_ref().map(|way| way.uplink.clone()),
            next_hop: wrapped.path.as_ref().map(|way| way.next_hop),
            max_frame: wrapped.path.as_ref().map(|way| way.max_frame),
        }),
        text,
    }
}

fn controller(sent: ToController) -> TraceController {
    TraceController { reason: sent.reason.to_owned(), max_len: sent.max_len, id: sent.id }
}
