//! The walk through the flow tables that a cache miss takes.
//!
//! Runs inline in the worker, on what is published at that moment, and leaves a [`Verdict`]: what is done to the packet,
//! and everything that this depends on. The same walk serves every bridge (one without rules of its own has one rule,
//! NORMAL) and `weftctl trace`: there is no other way through the switch.
//!
//! A walk is a function of the masked key and of what its verdict notes: it reads no bit of the packet that the tables'
//! key mask leaves out, unless the verdict is for this packet only ([`Verdict::fleeting`]). Semantics are Open vSwitch's (`ofproto-dpif-xlate`).
//!
//! * `lookup`: tables; `execute`: actions, one after the other; `write`: what they do to fields and headers;
//! * `output`: ports, patch ports, tunnels, controllers; `normal`: VLAN and FDB switching;
//! * `policy`: weft's own tables, before and behind the user's;
//! * `connect`: connections; `assist`: helpers; [`group`]: groups, and the choices that hashes make; `learn`: rules that packets make;
//! * `mpls`: labels, and what is behind them; [`trace`]: who listens.

mod assist;
mod connect;
pub(crate) mod execute;
pub mod group;
mod learn;
mod lookup;
mod mpls;
mod normal;
mod output;
pub(crate) mod policy;
pub mod trace;
mod write;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use weft_conntrack::{Before, Connections, Facts, Tracked, Translation, Tuple};
use weft_flow::action::Own;
use weft_flow::{Action, Field, Fields, FlowKey, KeyMask, Subfield};
use weft_io::Packet;
use weft_wire::{DropReason, OfPort};

use crate::cache::LINKS;
use crate::fragments::Whole;
use crate::key::{Ingress, VtepId};
use crate::snapshot::{Bridge, BridgeId, Port, Snapshot};
use crate::tables::{FlowTables, Rule, TableId, Tables};
use crate::verdict::{Terms, Verdict, Visited};

pub(crate) use connect::TUPLE;
use connect::Unknown;
use lookup::{How, Missed};
use trace::{Event, Tracer};

/// How deep resubmits backwards may nest (Open vSwitch's `MAX_DEPTH`).
pub const MAX_DEPTH: u16 = 64;
/// How many look-ups a walk may make (`MAX_RESUBMITS`).
pub const MAX_LOOKUPS: u16 = 4096;
/// Tags that actions may put in front of a packet: as many fit every frame, with a tunnel's headers.
pub const MAX_TAGS: u8 = 8;

/// What a walk goes by.
#[derive(Clone, Copy)]
pub struct Occasion<'a> {
    /// The configuration.
    pub snapshot: &'a Snapshot,
    /// The packet's key, masked or not.
    pub key: &'a FlowKey,
    /// The packet itself, without the headers of a tunnel that it came in by, which has what no key has; `None` if it is only
    /// described. A walk that looks behind its labels leaves a [`fleeting`](Verdict::fleeting) verdict.
    pub packet: Option<&'a Packet>,
    /// Of a fragment: its whole packet, if all of that is there.
    pub whole: Option<&'a Datagram>,
    /// The connections that there are.
    pub connections: &'a Connections,
    /// The time, in seconds, for the FDB and connections.
    pub second: u32,
    /// The time, for rules.
    pub now: Duration,
    /// Whether the walk may teach the FDB, make rules and change connections: a trace may not.
    pub effects: bool,
}

/// A packet that has come in fragments, all of which are there. Each of them walks; what the tracker is asked on the way it is asked
/// for the first, and its answers serve them all.
#[derive(Debug)]
pub struct Datagram {
    /// What the tracker is told of it.
    facts: Facts,
    /// How many octets IP carries.
    len: usize,
    /// In the order in which a walk asks.
    answers: RefCell<Vec<Tracked>>,
}

impl Datagram {
    /// The one that has been put together.
    pub fn new(whole: &Whole) -> Self {
        Datagram { facts: whole.facts, len: whole.len, answers: RefCell::default() }
    }
}

/// Runs the pipeline; what it learns is there at once.
pub fn walk<T: Tracer>(occasion: Occasion<'_>, verdict: &mut Verdict, tracer: &mut T) {
    verdict.clear();
    let fields = Fields::of_packet(occasion.key);
    let mut walk = Walk {
        occasion,
        verdict,
        tracer,
        fields,
        written: KeyMask::default(),
        pending: KeyMask::default(),
        stack: Vec::new(),
        action_set: Vec::new(),
        depth: 0,
        lookups: 0,
        exit: false,
        labels: mpls::Labels::default(),
        tags: 0,
        grown: 0,
        before: None,
        quoted: None,
        ports: None,
        answered: 0,
        reworded: false,
        unknown: Unknown::default(),
        translations: [None; LINKS],
        state: None,
        outcome: None,
    };
    if let Err(reason) = walk.run() {
        walk.tracer.event(Event::Error(reason));
        walk.verdict.ops.clear();
        walk.verdict.drop = Some(reason);
    }
    if walk.translations.iter().any(Option::is_some) {
        walk.settle_translations();
    }
}

/// A walk under way. See the module's text.
struct Walk<'a, T> {
    occasion: Occasion<'a>,
    verdict: &'a mut Verdict,
    tracer: &'a mut T,
    /// The packet as it is now, and what the pipeline keeps beside it.
    fields: Fields,
    /// Bits of the packet's words that the walk has written.
    written: KeyMask,
    /// Those of them that no step of the verdict has put into the packet yet.
    pending: KeyMask,
    /// `push` and `pop`.
    stack: Vec<u128>,
    /// `write_actions`.
    action_set: Vec<Action>,
    depth: u16,
    lookups: u16,
    /// `exit` was met.
    exit: bool,
    /// Labels that came and went.
    labels: mpls::Labels,
    /// Tags that were put in front.
    tags: u8,
    /// Octets by which tags and labels have made it longer than it came in.
    grown: i16,
    /// What the last `ct` has said of the packet.
    before: Option<Before>,
    /// What the ICMP error that the packet is quotes by now.
    quoted: Option<Tuple>,
    /// Of a fragment: the ports of its whole packet, as translations have made them. A later fragment's own has none.
    ports: Option<(u16, u16)>,
    /// How many answers of its [`Datagram`] the walk has had.
    answered: usize,
    /// A helper has changed the packet's text.
    reworded: bool,
    /// Bits of fields that a connection decides, and not the path.
    unknown: Unknown,
    /// How the connections of the verdict's links translate the packet, where they do.
    translations: [Option<Translation>; LINKS],
    /// The range that says what `fields` are, if they haven't changed since it was written down.
    state: Option<Terms>,
    /// What weft's own tables have said of the packet.
    outcome: Option<Own>,
}

/// Where a walk is: on which bridge, and where the packet came in there.
struct Here<'w> {
    bridge: &'w Bridge,
    port: &'w Port,
    live: &'w Arc<FlowTables>,
    tables: &'w Tables,
    /// The bridge's place among those visited.
    visited: u8,
}

/// Which rule's actions are being carried out.
#[derive(Clone, Copy)]
struct By<'r> {
    table: TableId,
    rule: Option<&'r Arc<Rule>>,
}

impl<'a, T: Tracer> Walk<'a, T> {
    fn run(&mut self) -> Result<(), DropReason> {
        let snapshot = self.occasion.snapshot;
        let port: &'a Port = match Ingress::of(self.occasion.key).decode() {
            Ok(id) => {
                self.verdict.ingress = Some(id);
                snapshot.port(id).ok_or(DropReason::NoBridge)?
            }
            Err(vtep) => self.tunnel_port(vtep)?,
        };
        self.verdict.deps.push(port.dep);
        self.enter(port)?;
        if !self.verdict.does_something() && self.verdict.drop.is_none() {
            self.verdict.drop = Some(DropReason::RuleDrop);
        }
        Ok(())
    }

    /// The tunnel port of a packet that a VTEP received: one whose fixed key it carries, else one whose map knows it, else
    /// one that takes every key.
    fn tunnel_port(&mut self, id: VtepId) -> Result<&'a Port, DropReason> {
        let snapshot = self.occasion.snapshot;
        let vtep = snapshot.vtep(id).ok_or(DropReason::TunnelUnknown)?;
        self.verdict.deps.push(vtep.dep);
        let (remote, vni) = (self.occasion.key.tunnel_remote(), self.occasion.key.tunnel_key());
        let ports = |remote: Option<u32>, fixed: Option<u32>| {
            let ids = vtep.tunnels.get(&(remote, fixed)).map(Vec::as_slice).unwrap_or_default();
            ids.iter().filter_map(|&id| snapshot.port(id))
        };
        let knows = |port: &&Arc<Port>| {
            let bridge = port.spec.bridge.and_then(|bridge| snapshot.bridge(bridge));
            bridge.is_some_and(|bridge| bridge.vid_of.contains_key(&vni))
                && port.spec.tunnel().is_some_and(|tunnel| tunnel.carries_vni(vni))
        };
        let takes_any = |port: &&Arc<Port>| {
            port.spec.tunnel().is_some_and(|tunnel| tunnel.key == crate::snapshot::TunnelKeys::Flow)
        };
        // Before a tunnel that takes any address, one that has this address; before one that takes any key, one with this key.
        let own = Some(remote);
        let found = ports(own, Some(vni))
            .next()
            .or_else(|| ports(None, Some(vni)).next())
            .or_else(|| ports(own, None).find(knows))
            .or_else(|| ports(own, None).find(takes_any))
            .or_else(|| ports(None, None).find(takes_any))
            .or_else(|| ports(own, None).next());
        let Some(port) = found else {
            let remote_known = vtep.tunnels.keys().any(|&(known, _)| known.is_none() || known == own);
            return Err(if remote_known { DropReason::TunnelKeyUnknown } else { DropReason::TunnelUnknown });
        };
        (self.verdict.tunnel, self.verdict.ingress) = (Some(port.spec.id), Some(port.spec.id));
        Ok(port)
    }

    /// Through the tables of the bridge that `port` belongs to, as a packet that came in there.
    fn enter(&mut self, port: &Port) -> Result<(), DropReason> {
        let bridge =
            port.spec.bridge.and_then(|id| self.occasion.snapshot.bridge(id)).ok_or(DropReason::NoBridge)?;
        self.verdict.deps.push(bridge.table_dep);
        let live = &bridge.spec.flows;
        let tables = live.load();
        let visited = self.visit(bridge.spec.id, live, tables.version)?;
        self.set_in_port(port.spec.ofport);
        self.set_bits(ACTSET_OUTPUT.0, ACTSET_OUTPUT.1, UNSET.into());
        let here = Here { bridge, port, live, tables: &tables, visited };
        self.tracer.event(Event::Bridge { bridge, port, fields: &self.fields });
        if port.spec.guard.from && !self.may_enter(&here)? {
            return Ok(());
        }
        self.look_up(&here, TableId::FIRST, How::arrived(port.spec.ofport))?;
        self.run_action_set(&here)
    }

    /// Notes that the verdict depends on these tables.
    fn visit(&mut self, bridge: BridgeId, live: &Arc<FlowTables>, version: u64) -> Result<u8, DropReason> {
        let same = |known: &Visited| Arc::ptr_eq(&known.tables, live) && known.version == version;
        if let Some(at) = self.verdict.visited.iter().position(same) {
            return Ok(at as u8);
        }
        let at = self.verdict.visited.len();
        if at == usize::from(u8::MAX) {
            return Err(DropReason::RecursionTooDeep);
        }
        self.verdict.visited.push(Visited { bridge, tables: Arc::clone(live), version });
        Ok(at as u8)
    }

    /// An output that can't be, or a rule that has none. The first reason is the verdict's if nothing leaves.
    fn refuse(&mut self, reason: DropReason) {
        self.tracer.event(Event::Refused(reason));
        self.verdict.drop.get_or_insert(reason);
    }

    /// What goes wrong in a bucket or behind a patch port ends the walk there, and what has left has left, as in Open
    /// vSwitch. A packet that waits does so as a whole. Limits are everybody's: who meets one has gone round in circles, and the whole walk is undone.
    fn contained(&mut self, result: Result<(), DropReason>) -> Result<(), DropReason> {
        use DropReason::{RecursionTooDeep, StackTooDeep, TooManyResubmits};
        match result {
            Err(reason) if self.verdict.waits.is_some() => Err(reason),
            Err(reason) if !matches!(reason, RecursionTooDeep | TooManyResubmits | StackTooDeep) => {
                self.refuse(reason);
                Ok(())
            }
            result => result,
        }
    }

    /// Where the packet came in, for rules (word 31).
    fn in_port(&self) -> OfPort {
        OfPort((self.fields.0[31] >> 48) as u16)
    }

    fn set_in_port(&mut self, port: OfPort) {
        self.set_bits(31, 0xffff << 48, u64::from(port.0) << 48);
    }

    /// `conj_id` (word 26).
    fn conjunction(&self) -> u32 {
        (self.fields.0[26] >> 32) as u32
    }

    fn set_conjunction(&mut self, id: u32) {
        self.set_bits(26, u64::from(u32::MAX) << 32, u64::from(id) << 32);
    }

    fn set_bits(&mut self, word: usize, mask: u64, value: u64) {
        let place = &mut self.fields.0[word];
        if *place & mask != value {
            *place = *place & !mask | value;
            self.state = None;
        }
    }

    fn get(&self, field: Field) -> u128 {
        Subfield::whole(field).get(&self.fields)
    }

    /// Sets a field of the pipeline's own.
    fn set(&mut self, field: Field, value: u128) {
        if self.get(field) != value {
            Subfield::whole(field).set(&mut self.fields, value);
            self.state = None;
        }
    }
}

/// Word and bits of `actset_output`.
const ACTSET_OUTPUT: (usize, u64) = (26, 0xffff_ffff);
/// `actset_output` when the action set has no output (`OFPP_UNSET`).
const UNSET: u16 = 0xfff7;

/// Word and bits of the ports of TCP, UDP and SCTP, and of type and code of ICMP.
pub(crate) const PORTS: (usize, u64) = (8, 0xffff_ffff << 32);
