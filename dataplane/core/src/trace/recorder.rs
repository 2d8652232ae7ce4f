//! Listens to a walk, and writes down what it hears.

use std::net::Ipv4Addr;

use weft_conntrack::{Facts, Tracked};
use weft_flow::action::{Controller, PacketInReason};
use weft_flow::text::{print_actions, print_flow, print_match};
use weft_flow::{Action, Field, Fields, FlowKey, Subfield};
use weft_wire::{DropReason, OfPort, Tci};

use super::fields::{changes, header_changes, packet_text, read_fields, tag};
use super::hint::{Place, hint, last_lookup};
use super::{
    Connection, Copy, Dropped, MAX_STEPS, Names, RuleText, Step, ToController, Trace, Way, What, Wrapped,
};
use crate::key::{Ingress, PortId};
use crate::pipeline::trace::{Event, Tracer};
use crate::snapshot::{Bridge, BridgeId, Path, Port, PortSpec, Snapshot, TunnelSpec};
use crate::tables::{Rule, TableId};
use crate::verdict::{Emit, Verdict};
use crate::vlan::TagRewrite;

/// See the module's text.
pub(super) struct Recorder<'a> {
    snapshot: &'a Snapshot,
    key: &'a FlowKey,
    /// The packet as it came in.
    start: Fields,
    /// The fields at the last event that had them.
    last: Fields,
    /// What the walk is within.
    scopes: Vec<Scope>,
    trace: Trace,
    /// The last action, and where its copies were to go.
    action: String,
    towards: Option<PortId>,
    vid: Option<u16>,
    /// The first refusal, which is why nothing leaves if nothing does.
    refused: Option<Dropped>,
    failed: Option<Dropped>,
}

/// What a step can be within.
enum Scope {
    Bridge(BridgeId, PortId),
    Lookup,
    /// The fields before it; whether those who come within it have said what changes.
    Action(Box<Fields>, bool),
    ActionSet,
    Bucket,
}

impl<'a> Recorder<'a> {
    pub fn new(snapshot: &'a Snapshot, key: &'a FlowKey) -> Self {
        let start = Fields::of_packet(key);
        Recorder {
            snapshot,
            key,
            start,
            last: start,
            scopes: Vec::new(),
            trace: Trace::default(),
            action: String::new(),
            towards: None,
            vid: None,
            refused: None,
            failed: None,
        }
    }

    /// All that was heard, and what the verdict comes to.
    pub fn finish(mut self, verdict: &Verdict) -> Trace {
        let ingress = Ingress::of(self.key);
        let mask = match ingress.decode() {
            Ok(id) => self.snapshot.port(id).map(|port| port.mask),
            Err(id) => self.snapshot.vtep(id).map(|vtep| vtep.mask),
        };
        self.trace.reads = mask.map(|mask| read_fields(&mask, &self.start)).unwrap_or_default();
        self.scopes.truncate(1);
        if self.trace.packet.is_empty() {
            self.trace.packet = packet_text(&self.start, &weft_flow::text::NoNames);
        }
        if verdict.does_something() {
            return self.trace;
        }
        let ended = self.failed.take().or_else(|| self.refused.take());
        self.trace.dropped =
            Some(ended.unwrap_or_else(|| self.drop_of(verdict.drop.unwrap_or(DropReason::RuleDrop))));
        self.trace
    }

    fn push(&mut self, what: What) {
        if self.trace.steps.len() >= MAX_STEPS {
            self.trace.left_out += 1;
            return;
        }
        let depth = u16::try_from(self.scopes.len()).unwrap_or(u16::MAX);
        self.trace.steps.push(Step { depth, what });
    }

    fn place(&self) -> Option<(&'a Bridge, &'a PortSpec)> {
        let (bridge, port) = self.scopes.iter().rev().find_map(|scope| match scope {
            Scope::Bridge(bridge, port) => Some((*bridge, *port)),
            _ => None,
        })?;
        Some((self.snapshot.bridge(bridge)?, &self.snapshot.port(port)?.spec))
    }

    /// Text that names ports as the bridge has them.
    fn text(&self, print: impl FnOnce(&dyn weft_flow::text::PortNames) -> String) -> String {
        match self.place() {
            Some((bridge, _)) => print(&Names { snapshot: self.snapshot, bridge }),
            None => print(&weft_flow::text::NoNames),
        }
    }

    fn name(&self, ofport: OfPort) -> String {
        let port = self.place().and_then(|(bridge, _)| bridge.by_ofport(self.snapshot, ofport));
        port.map_or_else(|| ofport.to_string(), |port| port.spec.name.to_string())
    }

    fn drop_of(&self, reason: DropReason) -> Dropped {
        let place = self.place();
        let get = |field| Subfield::whole(field).get(&self.last);
        let hint = hint(
            reason,
            Place {
                bridge: place.map_or("?", |(bridge, _)| &*bridge.spec.name),
                port: place.map(|(_, port)| port).or_else(|| self.ingress_port()),
                tci: Tci(get(Field::VlanTci) as u16),
                looked: last_lookup(&self.trace),
                action: &self.action,
                towards: self.towards.and_then(|id| self.snapshot.port(id)).map(|port| &port.spec),
                vid: self.vid,
                sent_to: Ipv4Addr::from_bits(get(Field::TunDst) as u32),
                tunnel: (get(Field::TunId) as u32, Ipv4Addr::from_bits(get(Field::TunSrc) as u32)),
            },
        );
        Dropped { reason, hint }
    }

    fn ingress_port(&self) -> Option<&'a PortSpec> {
        let id = Ingress::of(self.key).decode().ok()?;
        self.snapshot.port(id).map(|port| &port.spec)
    }

    /// Leaves scopes until the top is one that `stays`.
    fn leave(&mut self, stays: impl Fn(&Scope) -> bool) {
        while self.scopes.last().is_some_and(|scope| !stays(scope)) {
            self.scopes.pop();
        }
    }

    fn enter(&mut self, what: What, scope: Scope) {
        self.push(what);
        self.scopes.push(scope);
    }

    fn enter_bridge(&mut self, bridge: &Bridge, port: &Port, fields: &Fields) {
        let outermost = self.trace.steps.is_empty();
        let what = What::Bridge {
            bridge: bridge.spec.name.to_string(),
            port: port.spec.name.to_string(),
            ofport: port.spec.ofport,
        };
        self.enter(what, Scope::Bridge(bridge.spec.id, port.spec.id));
        if outermost {
            self.trace.packet = self.text(|ports| packet_text(fields, ports));
        } else {
            let changed = changes(&self.last, fields);
            changed.into_iter().for_each(|change| self.push(What::Changed(change)));
        }
        (self.last, self.vid) = (*fields, None);
    }

    fn looked_up(&mut self, table: TableId, rule: Option<&Rule>, fields: &Fields) {
        // Behind a table whose misses continue.
        self.leave(|scope| !matches!(scope, Scope::Lookup));
        let rule = rule.map(|rule| RuleText {
            priority: rule.priority,
            cookie: rule.cookie,
            matches: self.text(|ports| print_match(&rule.matches, ports)),
            actions: self.text(|ports| print_actions(&rule.actions, ports)),
        });
        self.last = *fields;
        self.enter(What::Lookup { table, rule }, Scope::Lookup);
    }

    fn act(&mut self, action: &Action) {
        self.action = self.text(|ports| print_actions(std::slice::from_ref(action), ports));
        (self.towards, self.vid) = (None, None);
        let told =
            matches!(action, Action::Resubmit { .. } | Action::GotoTable(_) | Action::Output(OfPort::TABLE));
        self.enter(What::Action(self.action.clone()), Scope::Action(Box::new(self.last), told));
    }

    fn acted(&mut self, fields: &Fields) {
        self.leave(|scope| matches!(scope, Scope::Action(..)));
        if let Some(Scope::Action(before, false)) = self.scopes.last() {
            let changed = changes(before, fields);
            changed.into_iter().for_each(|change| self.push(What::Changed(change)));
        }
        self.scopes.pop();
        self.last = *fields;
    }

    /// Each bucket gets the packet as the group got it.
    fn enter_bucket(&mut self, group: u32, bucket: u32) {
        self.leave(|scope| matches!(scope, Scope::Action(..)));
        if let Some(Scope::Action(before, _)) = self.scopes.last() {
            self.last = **before;
        }
        self.enter(What::Bucket { group, bucket }, Scope::Bucket);
    }

    fn copied(&mut self, copy: Copy) {
        self.trace.copies.push(copy.clone());
        self.push(What::Output(copy));
    }

    fn copy(&self, port: &Port, emit: Emit, fields: &Fields) -> Copy {
        let Emit { tag: rewrite, key, remote, max_len, .. } = emit;
        let bridge = port.spec.bridge.and_then(|id| self.snapshot.bridge(id));
        let wrapped = port.spec.tunnel().zip(key).and_then(|(tunnel, key)| {
            let (remote, path) = self.snapshot.way(tunnel, remote)?;
            Some(Wrapped {
                kind: tunnel.kind.to_string(),
                local: tunnel.local.to_string(),
                remote: remote.to_string(),
                key,
                path: self.way(tunnel, path),
            })
        });
        Copy {
            bridge: bridge.map_or_else(String::new, |bridge| bridge.spec.name.to_string()),
            port: port.spec.name.to_string(),
            ofport: port.spec.ofport,
            vlan: tag(retagged(fields, rewrite)),
            changes: header_changes(&self.start, fields),
            max_len: (max_len > 0).then_some(max_len),
            tunnel: wrapped,
        }
    }

    fn way(&self, tunnel: &TunnelSpec, path: &Path) -> Option<Way> {
        let Path::Ready { uplink, destination, mtu, .. } = *path else { return None };
        let uplink = self.snapshot.port(uplink);
        Some(Way {
            uplink: uplink.map_or_else(String::new, |port| port.spec.name.to_string()),
            next_hop: destination,
            max_frame: usize::from(mtu).saturating_sub(tunnel.overhead()) as u16,
        })
    }

    fn report(&mut self, controller: &Controller) {
        let reason = match controller.reason {
            PacketInReason::NoMatch => "no_match",
            PacketInReason::InvalidTtl => "invalid_ttl",
            PacketInReason::ActionSet => "action_set",
            PacketInReason::Group => "group",
            PacketInReason::PacketOut => "packet_out",
            PacketInReason::Action => "action",
        };
        let sent = ToController { reason, max_len: controller.max_len, id: controller.id };
        self.trace.controllers.push(sent.clone());
        self.push(What::Controller(sent));
    }

    fn refuse(&mut self, reason: DropReason) {
        let refused = self.drop_of(reason);
        self.refused.get_or_insert_with(|| refused.clone());
        self.push(What::Refused(refused));
    }

    fn fail(&mut self, reason: DropReason) {
        let failed = self.drop_of(reason);
        self.failed = Some(failed.clone());
        self.push(What::Failed(failed));
        self.trace.copies.clear();
        self.trace.controllers.clear();
    }
}

/// The tag with which a copy leaves.
fn retagged(fields: &Fields, rewrite: TagRewrite) -> Tci {
    let get = |field| Tci(Subfield::whole(field).get(fields) as u16);
    let own = get(Field::VlanTci);
    let with_vid = |vid: u16| Tci(own.0 & !0x0fff | vid | Tci::PRESENT);
    match rewrite {
        TagRewrite::Keep => own,
        TagRewrite::PopUnlessPriority if own.pcp() != 0 => with_vid(0),
        TagRewrite::Pop | TagRewrite::PopUnlessPriority => get(Field::InnerVlanTci),
        TagRewrite::Push(vid) => Tci(vid.get() | Tci::PRESENT),
        TagRewrite::Set(vid) => with_vid(vid.get()),
    }
}

impl Tracer for Recorder<'_> {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Bridge { bridge, port, fields } => self.enter_bridge(bridge, port, fields),
            Event::LeftBridge => {
                self.leave(|scope| matches!(scope, Scope::Bridge(..)));
                self.scopes.pop();
            }
            Event::Lookup { table, rule, fields } => self.looked_up(table, rule, fields),
            Event::Action(action) => self.act(action),
            Event::Fields(fields) => self.acted(fields),
            Event::Tracked { facts, tracked } => self.push(What::Tracked(connection(facts, tracked))),
            Event::ActionSet => {
                self.leave(|scope| matches!(scope, Scope::Bridge(..) | Scope::Action(..)));
                self.enter(What::ActionSet, Scope::ActionSet);
            }
            Event::Bucket { group, bucket } => self.enter_bucket(group, bucket),
            Event::Vlan(vid) => {
                self.vid = Some(vid.get());
                self.push(What::Vlan(vid));
            }
            Event::Learned { vid, mac, port, known } => {
                let port = self.name(port);
                self.push(What::Sender { vid, mac, port, known });
            }
            Event::Destination { vid, mac, port } => {
                self.push(What::Destination { vid, mac, port: port.map(str::to_owned) });
            }
            Event::Towards(port) => {
                self.towards = Some(port.spec.id);
                self.vid.get_or_insert(retagged(&self.last, TagRewrite::Keep).vid().get());
            }
            Event::Skipped { port, reason } => {
                self.push(What::Skipped { port: port.spec.name.to_string(), reason });
            }
            Event::Output { port, emit, fields } => {
                let copy = self.copy(port, emit, fields);
                self.copied(copy);
            }
            Event::Controller(controller) => self.report(controller),
            Event::Learn(rule) => {
                let text = self.text(|ports| print_flow(rule, None, ports));
                self.push(What::Learn(text));
            }
            Event::Refused(reason) => self.refuse(reason),
            Event::Error(reason) => self.fail(reason),
        }
    }
}

/// What a `ct` has said, as text.
fn connection(facts: Option<&Facts>, tracked: &Tracked) -> Connection {
    Connection {
        zone: tracked.zone,
        tuple: facts.map(|facts| facts.tuple.to_string()),
        state: tracked.state.to_string(),
        original: tracked.original.map(|tuple| tuple.to_string()),
        mark: tracked.mark,
        label: tracked.label,
        is_made: tracked.created,
        refused: tracked.refused.map(|refused| refused.to_string()),
        translated: tracked.translation.map(|translation| translation.tuple.to_string()),
    }
}
