//! A switch that remembers nothing but its FDBs: every packet takes a fresh walk through the pipeline, with its whole key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weft_conntrack::Connections;
use weft_core::counters::PortTotals;
use weft_core::decap::{TUNNEL_WORDS, Vteps};
use weft_core::edit::remark::Remarks;
use weft_core::edit::{self, Edit, Edits};
use weft_core::encap::Template;
use weft_core::epoch::Epochs;
use weft_core::fdb::Fdb;
use weft_core::fragments::{Fragments, Origin, Outcome, Settings};
use weft_core::held::HELD_FOR;
use weft_core::key::{FlowKey, Ingress, PortId};
use weft_core::parse;
use weft_core::pipeline::Datagram;
use weft_core::pipeline::trace::Silent;
use weft_core::pipeline::{Occasion, walk};
use weft_core::publish::{Published, Publisher};
use weft_core::retag::retag;
use weft_core::shared::Wanted;
use weft_core::snapshot::{BridgeId, Model, Path, PortKind, Snapshot};
use weft_core::tables::{Admission, Change, FlowTables, Meter};
use weft_core::verdict::{Emit, Op, Verdict};
use weft_io::{FrameCache, FramePool, Packet};
use weft_wire::{DropReason, EtherType};

use crate::rig::CONNECTIONS;
use crate::rules;

/// What of a bridge's FDB both switches have to agree on.
pub const SECRET: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f];
/// Packets that wait for one tunnel on one worker at most.
const PER_TUNNEL: usize = 8;

struct Waiting {
    worker: usize,
    towards: Wanted,
    key: u32,
    ingress: PortId,
    deadline: Duration,
    octets: Vec<u8>,
}

/// Whether somebody sees the packet, or counts it, as it is by then.
fn leaves(op: &Op) -> bool {
    matches!(op, Op::Output(_) | Op::PacketIn(_) | Op::Meter(_) | Op::Sample { .. })
}

pub struct Oracle {
    publisher: Publisher,
    snapshot: Arc<Snapshot>,
    pub fdbs: BTreeMap<BridgeId, Arc<Fdb>>,
    /// The other switch's tables, and this one's.
    flows: Vec<(Arc<FlowTables>, Arc<FlowTables>)>,
    epochs: Arc<Epochs>,
    pub connections: Connections,
    frames: FrameCache,
    workers: usize,
    pub now: Duration,
    held: Vec<Waiting>,
    /// Fragments that wait, by worker: their keys, the port that they came in by, who answers for their drops.
    fragments: Vec<Fragments<(FlowKey, PortId, PortId)>>,
    remarks: Remarks,
    pub totals: BTreeMap<PortId, PortTotals>,
    pub sent: BTreeMap<PortId, Vec<Vec<u8>>>,
}

impl Drop for Oracle {
    fn drop(&mut self) {
        for waiting in &mut self.fragments {
            while let Some((packet, _)) = waiting.drain() {
                self.frames.free(packet);
            }
        }
    }
}

impl Oracle {
    pub fn new(workers: usize, now: Duration) -> Oracle {
        let epochs = Arc::new(Epochs::new().unwrap());
        let published = Arc::new(Published::new());
        Oracle {
            publisher: Publisher::new(Arc::clone(&epochs), Arc::clone(&published)).unwrap(),
            snapshot: published.load(),
            fdbs: BTreeMap::new(),
            flows: Vec::new(),
            epochs,
            connections: Connections::new(CONNECTIONS).unwrap(),
            frames: FramePool::new(4096).unwrap().cache(),
            workers,
            now,
            held: Vec::new(),
            fragments: (0..workers).map(|_| Fragments::new(Settings::default())).collect(),
            remarks: Remarks::default(),
            totals: BTreeMap::new(),
            sent: BTreeMap::new(),
        }
    }

    pub fn fdb(&mut self, bridge: BridgeId, limit: u32) -> &Arc<Fdb> {
        let make = || Arc::new(Fdb::new(&self.epochs, limit, SECRET).unwrap());
        self.fdbs.entry(bridge).or_insert_with(make)
    }

    fn second(&self) -> u32 {
        self.now.as_secs() as u32 + 1
    }

    /// Publishes what the other switch publishes, on FDBs of its own.
    pub fn publish(&mut self, model: &Model) {
        let mut model = model.clone();
        for bridge in &mut model.bridges {
            bridge.flows = self.flows(&bridge.flows);
            let limit = bridge.fdb.limit();
            bridge.fdb = Arc::clone(self.fdb(bridge.id, limit));
        }
        self.snapshot = self.publisher.publish(model).unwrap();
        for waiting in std::mem::take(&mut self.held) {
            self.look_again(waiting);
        }
        self.forget_removed();
    }

    /// What waits and came in by a port that is no more is dropped.
    fn forget_removed(&mut self) {
        let snapshot = Arc::clone(&self.snapshot);
        let is_gone = |port: PortId| snapshot.port(port).is_none();
        let (gone, held) =
            std::mem::take(&mut self.held).into_iter().partition(|waiting| is_gone(waiting.ingress));
        self.held = held;
        for waiting in gone {
            let _: &Waiting = &waiting;
            self.drop(waiting.ingress, DropReason::PortRemoved);
        }
        for worker in 0..self.workers {
            while let Some((packet, (_, port, ingress))) =
                self.fragments[worker].take_of(|(_, port, ingress)| is_gone(*port) || is_gone(*ingress))
            {
                self.drop_fragment(packet, (port, ingress), DropReason::PortRemoved);
            }
        }
    }

    /// This switch's own copy of the tables that the other one has.
    fn flows(&mut self, theirs: &Arc<FlowTables>) -> Arc<FlowTables> {
        let known = self.flows.iter().find(|(other, _)| Arc::ptr_eq(other, theirs));
        if let Some((_, own)) = known {
            return Arc::clone(own);
        }
        let own = rules::copied(theirs, self.now);
        self.flows.push((Arc::clone(theirs), Arc::clone(&own)));
        own
    }

    /// What rules, groups, buckets and meters have counted: in the other switch's tables, and in this one's.
    pub fn counts(&mut self, theirs: &Arc<FlowTables>) -> [Vec<String>; 2] {
        let own = self.flows(theirs);
        [theirs, &own].map(|tables| {
            let root = tables.load();
            let mut counts = Vec::new();
            for rule in root.tables().flat_map(|table| table.rules()) {
                let stats = rule.stats();
                let (packets, bytes) = (stats.packets, stats.bytes);
                counts.push(format!(
                    "{:?} {} {:?}: {packets} {bytes}",
                    rule.table, rule.priority, rule.matches
                ));
            }
            for group in root.groups() {
                let buckets: Vec<_> =
                    (0..group.spec().buckets.len()).map(|at| group.bucket_stats(at)).collect();
                counts.push(format!("group {}: {:?} {buckets:?}", group.spec().id, group.stats()));
            }
            for meter in root.meters() {
                let bands: Vec<_> = (0..meter.spec.bands.len()).map(|at| meter.band_stats(at)).collect();
                counts.push(format!("meter {}: {:?} {bands:?}", meter.spec.id, meter.stats()));
            }
            counts.sort();
            counts
        })
    }

    /// Changes rules as the other switch does.
    pub fn change(&mut self, model: &Model, bridge: BridgeId, changes: &[Change]) {
        let theirs = model.bridges.iter().find(|spec| spec.id == bridge).map(|spec| Arc::clone(&spec.flows));
        self.flows(&theirs.unwrap()).prepare(changes, self.now).unwrap().commit();
        self.snapshot = self.publisher.widen(None).unwrap();
    }

    fn look_again(&mut self, waiting: Waiting) {
        let port = self.snapshot.port(waiting.towards.tunnel).cloned();
        let tunnel = port.as_ref().and_then(|port| port.spec.tunnel());
        let (Some(port), Some(tunnel)) = (&port, tunnel) else {
            return self.drop(waiting.ingress, DropReason::PortRemoved);
        };
        let snapshot = Arc::clone(&self.snapshot);
        let Some(way) = snapshot.way(tunnel, waiting.towards.remote) else {
            // The tunnel had an end when the packet was held, and leaves it to the flow now.
            let reason = if port.spec.up { DropReason::TunnelNoRoute } else { DropReason::TxPortDown };
            return self.drop(waiting.ingress, reason);
        };
        match way.1 {
            Path::Resolving => self.held.push(waiting),
            _ if !port.spec.up => self.drop(waiting.ingress, DropReason::TxPortDown),
            Path::NoRoute => self.drop(waiting.ingress, DropReason::TunnelNoRoute),
            Path::Ready { .. } => {
                let template = Template::towards(tunnel, waiting.key, way).unwrap();
                self.send_wrapped(&template, (waiting.towards.tunnel, waiting.ingress), &waiting.octets);
            }
        }
    }

    /// Time has gone on: packets that waited too long are dropped.
    pub fn expire(&mut self) {
        self.connections.expire(self.second(), usize::MAX);
        for worker in 0..self.workers {
            while let Some((packet, (_, port, ingress))) = self.fragments[worker].take_expired(self.now) {
                self.drop_fragment(packet, (port, ingress), DropReason::FragmentExpired);
            }
        }
        let (late, held) =
            std::mem::take(&mut self.held).into_iter().partition(|waiting| waiting.deadline <= self.now);
        self.held = held;
        for waiting in late {
            let _: &Waiting = &waiting;
            self.drop(waiting.ingress, DropReason::NeighbourUnresolved);
        }
    }

    /// A frame comes in by a port.
    pub fn receive(&mut self, port: PortId, octets: &[u8]) {
        let totals = self.totals.entry(port).or_default();
        totals.rx_packets += 1;
        totals.rx_bytes += octets.len() as u64;
        let mut packet = self.frames.alloc().unwrap();
        packet.append(octets).unwrap();
        match self.key_of(port, &mut packet) {
            Ok(key) => self.switch(port, &key, &packet),
            Err(reason) => self.drop(port, reason),
        }
        self.frames.free(packet);
    }

    fn key_of(&self, port: PortId, packet: &mut Packet) -> Result<FlowKey, DropReason> {
        if self.snapshot.port(port).unwrap().spec.kind != PortKind::Uplink {
            let key = parse::full(packet.data(), Ingress::port(port)).ok_or(DropReason::RxTruncated)?;
            return Ok(self.with_length(key, packet));
        }
        let vteps = Vteps::new(&self.snapshot.vteps);
        let outer = vteps.strip(packet)?;
        let mut key = parse::full(packet.data(), outer.ingress()).ok_or(DropReason::RxTruncated)?;
        for (word, said) in TUNNEL_WORDS.into_iter().zip(vteps.words(&outer)) {
            key.0[word] = said;
        }
        Ok(self.with_length(key, packet))
    }

    fn with_length(&self, mut key: FlowKey, packet: &Packet) -> FlowKey {
        key.0[8] |= self.snapshot.length_class(packet.total_len());
        key
    }

    fn switch(&mut self, port: PortId, key: &FlowKey, packet: &Packet) {
        self.switch_as(port, key, packet, None);
    }

    /// A fragment waits; if its packet is whole by it, all of them go on.
    fn wait(&mut self, key: FlowKey, (port, ingress): (PortId, PortId), scope: [u64; 2], packet: &Packet) {
        let copy = self.frames.copy(packet).unwrap();
        let origin = Origin { ingress: Ingress::of(&key), scope };
        let worker = port.index() % self.workers;
        match self.fragments[worker].put(copy, (key, port, ingress), origin, self.now) {
            Outcome::Held => {}
            Outcome::Refused(packet, (_, port, ingress), reason) => {
                self.drop_fragment(packet, (port, ingress), reason);
            }
            Outcome::Whole(whole) => {
                let datagram = Datagram::new(&whole);
                while let Some((packet, (old, port, _))) = self.fragments[worker].take(&whole) {
                    let mut key = parse::full(packet.data(), Ingress::of(&old)).unwrap();
                    TUNNEL_WORDS.into_iter().for_each(|word| key.0[word] = old.0[word]);
                    let key = self.with_length(key, &packet);
                    self.switch_as(port, &key, &packet, Some(&datagram));
                    self.frames.free(packet);
                }
            }
        }
    }

    fn drop_fragment(&mut self, packet: Packet, (port, ingress): (PortId, PortId), reason: DropReason) {
        if port != ingress {
            let totals = self.totals.entry(ingress).or_default();
            totals.rx_packets += 1;
            totals.rx_bytes += packet.total_len() as u64;
        }
        self.frames.free(packet);
        self.drop(ingress, reason);
    }

    fn switch_as(&mut self, port: PortId, key: &FlowKey, packet: &Packet, whole: Option<&Datagram>) {
        let mut verdict = Verdict::default();
        let occasion = Occasion {
            snapshot: &self.snapshot,
            key,
            packet: Some(packet),
            whole,
            connections: &self.connections,
            second: self.second(),
            now: self.now,
            effects: true,
        };
        walk(occasion, &mut verdict, &mut Silent);
        let ingress = verdict.tunnel.unwrap_or(port);
        if let Some(scope) = verdict.waits {
            return self.wait(*key, (port, ingress), scope, packet);
        }
        if let Some(tunnel) = verdict.tunnel {
            let totals = self.totals.entry(tunnel).or_default();
            totals.rx_packets += 1;
            totals.rx_bytes += packet.total_len() as u64;
        }
        let bytes = packet.total_len() as u64;
        verdict.rules.iter().for_each(|rule| rule.count(1, bytes, self.now));
        for chosen in &verdict.buckets {
            match chosen.bucket {
                Some(at) => chosen.group.count_bucket(at, 1, bytes),
                None => chosen.group.count(1, bytes),
            }
        }
        if !verdict.ops.iter().any(leaves) {
            return self.drop(ingress, verdict.drop.unwrap());
        }
        let ends = match verdict.ops.iter().any(|op| matches!(op, Op::PacketIn(_))) {
            true => DropReason::ToController,
            false => verdict.drop.unwrap_or(DropReason::NoDestination),
        };
        let packet = self.frames.copy(packet).unwrap();
        let copies = self.play(&verdict, &verdict.ops, packet, (port, ingress, ends));
        self.totals.entry(port).or_default().copies += copies - 1;
    }

    /// Does step after step to a packet of its own, each by itself. In how many places it ends.
    fn play(
        &mut self,
        verdict: &Verdict,
        ops: &[Op],
        mut packet: Packet,
        from: (PortId, PortId, DropReason),
    ) -> u64 {
        let (port, ingress, reason) = from;
        let mut ends = 0;
        let Some(last) = ops.iter().rposition(leaves) else {
            self.frames.free(packet);
            return 0;
        };
        let mut at = 0;
        let mut taken = false;
        while at <= last {
            let op = &ops[at];
            at += 1;
            match op {
                Op::Output(emit) => {
                    let mut copy = self.frames.copy(&packet).unwrap();
                    retag(&mut copy, emit.tag).unwrap();
                    let octets = copy.data().to_vec();
                    self.frames.free(copy);
                    self.emit(*emit, (port, ingress), &octets);
                    ends += 1;
                    taken = at > last;
                }
                Op::Clone(count) => {
                    let inside = &ops[at..at + *count as usize];
                    at += inside.len();
                    let copy = self.frames.copy(&packet).unwrap();
                    ends += self.play(verdict, inside, copy, from);
                    taken = at > last;
                }
                op => {
                    if let Err(reason) = self.step(verdict, op, &mut packet) {
                        ends += 1;
                        self.drop(ingress, reason);
                        self.frames.free(packet);
                        return ends;
                    }
                }
            }
        }
        if !taken {
            ends += 1;
            self.drop(ingress, reason);
        }
        self.frames.free(packet);
        ends
    }

    /// Does one step to a packet, by itself.
    fn step(&mut self, verdict: &Verdict, op: &Op, packet: &mut Packet) -> Result<(), DropReason> {
        match op {
            Op::Meter(meter) => return self.admit(&meter.0, packet),
            Op::Translate(_) | Op::TranslateTo(_) | Op::Rewrite(_) => {
                self.as_the_connection_says(verdict, op, packet);
            }
            _ => {}
        }
        match edit_of(verdict, op) {
            Some(edit) => edit::apply(&Edits::new(&[edit]), packet, &mut self.frames),
            None => Ok(()),
        }
    }

    fn as_the_connection_says(&self, verdict: &Verdict, op: &Op, packet: &mut Packet) {
        match op {
            Op::Translate(number) => {
                let link = verdict.links[usize::from(*number)];
                edit::nat::translate(packet, &self.connections.translation(link).unwrap()).unwrap();
            }
            Op::TranslateTo(once) => once.apply(packet).unwrap(),
            Op::Rewrite(rewrite) => rewrite.apply(packet).unwrap(),
            _ => {}
        }
    }

    fn admit(&mut self, meter: &Meter, packet: &mut Packet) -> Result<(), DropReason> {
        match meter.admit(packet.total_len() as u64, self.now) {
            Admission::Pass => Ok(()),
            Admission::Drop => Err(DropReason::MeterExceeded),
            Admission::Remark(levels) => self.remarks.apply(levels, packet, &mut self.frames),
        }
    }

    fn emit(&mut self, emit: Emit, (port, ingress): (PortId, PortId), octets: &[u8]) {
        let Some(key) = emit.key else { return self.send(emit.port, octets) };
        let snapshot = Arc::clone(&self.snapshot);
        let tunnel = snapshot.port(emit.port).unwrap().spec.tunnel().unwrap();
        let towards = Wanted { tunnel: emit.port, remote: emit.remote };
        if let Some(template) = Template::towards(tunnel, key, snapshot.way(tunnel, emit.remote).unwrap()) {
            return self.send_wrapped(&template, (emit.port, ingress), octets);
        }
        let worker = port.index() % self.workers;
        let same = |other: &&Waiting| other.towards == towards && other.worker == worker;
        if self.held.iter().filter(same).count() >= PER_TUNNEL {
            return self.drop(ingress, DropReason::NeighbourUnresolved);
        }
        let deadline = Duration::from_secs(self.second().into()) + HELD_FOR;
        let octets = octets.to_vec();
        self.held.push(Waiting { worker, towards, key, ingress, deadline, octets });
    }

    fn send_wrapped(&mut self, template: &Template, (tunnel, ingress): (PortId, PortId), octets: &[u8]) {
        let mut packet = self.frames.alloc().unwrap();
        packet.append(octets).unwrap();
        match template.wrap(&mut packet) {
            Ok(_) => {
                let totals = self.totals.entry(tunnel).or_default();
                totals.tx_packets += 1;
                totals.tx_bytes += octets.len() as u64;
                let wrapped = packet.data().to_vec();
                self.send(template.uplink, &wrapped);
            }
            Err(reason) => self.drop(ingress, reason),
        }
        self.frames.free(packet);
    }

    fn send(&mut self, port: PortId, octets: &[u8]) {
        let totals = self.totals.entry(port).or_default();
        totals.tx_packets += 1;
        totals.tx_bytes += octets.len() as u64;
        self.sent.entry(port).or_default().push(octets.to_vec());
    }

    fn drop(&mut self, port: PortId, reason: DropReason) {
        self.totals.entry(port).or_default().drops.add(reason, 1);
    }
}

/// What changes a header.
fn edit_of(verdict: &Verdict, op: &Op) -> Option<Edit> {
    match op {
        Op::Set(terms) => Some(Edit::Set(verdict.terms(*terms).into())),
        Op::PopVlan => Some(Edit::PopVlan),
        Op::PushVlan { tpid, tci } => Some(Edit::PushVlan { tpid: EtherType(*tpid), tci: *tci }),
        Op::PopMpls { ethertype } => Some(Edit::PopMpls { ether_type: EtherType(*ethertype) }),
        Op::PushMpls { ethertype, lse } => {
            Some(Edit::PushMpls { ether_type: EtherType(*ethertype), entry: *lse })
        }
        _ => None,
    }
}
