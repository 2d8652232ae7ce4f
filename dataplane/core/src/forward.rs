//! What a worker does with a packet once its program is known: rewrite, wrap, copy, and collect per port; and the walk
//! that finds a program for a flow that has none.

use std::sync::Arc;
use std::time::Duration;

use weft_conntrack::Link;
use weft_io::{FrameCache, Packet, PortQueue};
use weft_wire::{DropCounts, DropReason};

use crate::budget::Budget;
use crate::cache::LINKS;
use crate::counters::Counters;
use crate::edit::remark::Remarks;
use crate::edit::{self, nat};
use crate::encap::Template;
use crate::epoch::Dep;
use crate::facts;
use crate::fragments::{Fragments, Settings};
use crate::held::{HELD_FOR, Held, Waiting};
use crate::intake::Intake;
use crate::key::{FlowKey, Ingress, PortId};
use crate::ledger::Ledger;
use crate::output::{Outputs, Pushed, hand_over};
use crate::pipeline::trace::Silent;
use crate::pipeline::{self, Datagram, Occasion};
use crate::program::{Program, ProgramId, Programs, Shape, Step};
use crate::retag::retag;
use crate::shared::{Shared, Wanted};
use crate::snapshot::{PortKind, Snapshot};
use crate::tables::{Admission, Meter};
use crate::verdict::{Asked, Begun, Emit, Verdict};
use crate::vlan::TagRewrite;
use crate::why::watch::{Outgoing, Suspect, Watches, head};
use crate::why::{DropLog, Sample};

mod reassembly;

use reassembly::Waits;

/// No queue of this worker's.
const NOT_OURS: u16 = u16::MAX;

/// All of a worker that comes after the cache. Belongs to one worker.
#[derive(Debug)]
pub struct Forwarder {
    worker: usize,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// This worker's free frames.
    pub frames: FrameCache,
    /// This worker's counters.
    pub counters: Arc<Counters>,
    /// The configuration that this burst goes by.
    pub snapshot: Arc<Snapshot>,
    /// The publication count that this burst goes by.
    pub published: u64,
    /// Walks of this worker that made rules.
    learned: u32,
    /// The time, in seconds.
    pub second: u32,
    /// How often the worker has done what is due now and then.
    pub maintenance: u64,
    /// The time.
    pub now: Duration,
    /// Compiled programs.
    pub programs: Programs,
    /// Packets that wait for a neighbour.
    pub held: Held,
    /// Fragments that wait for others.
    fragments: Fragments<Waits>,
    /// This worker's queues.
    pub queues: Vec<(PortId, Box<dyn PortQueue>)>,
    /// Which of `queues` is a port's.
    queue_of: Vec<u16>,
    outputs: Outputs,
    /// What walks may take of this worker's time.
    pub budget: Budget,
    /// Which new flows are cached, by the port whose queue they come by.
    intakes: Vec<Intake>,
    verdict: Verdict,
    current: Current,
    /// The one before it: packets of a connection's two directions take turns.
    previous: Current,
    /// What meters' bands do to a packet's DSCP.
    remarks: Remarks,
    /// What `sample` actions owe, of 65535.
    sample_debt: u32,
    /// What a queue's call has dropped; empty between calls.
    pub drops: DropCounts,
    /// What programs have dropped, and where.
    pub dropped: DropLog,
    /// Who wants to see dropped packets.
    pub watches: Watches,
}

/// A program that packets of this burst took, known to stand: most packets of a burst take one of two.
#[derive(Clone, Copy, Debug)]
struct Current {
    id: ProgramId,
    shape: Shape,
    tunnel: PortId,
    /// Whether it may cease to stand within this burst.
    watched: bool,
    /// Whether its flows have to be compared with its doubts.
    doubtful: bool,
    /// Packets and octets that it has taken in this burst.
    packets: u64,
    bytes: u64,
}

/// What a walk has found for a packet.
#[derive(Clone, Copy, Debug)]
pub struct Decision {
    /// What to do; it has one more user.
    pub program: ProgramId,
    /// The FDB entries that this was chosen by.
    pub deps: [Dep; 2],
    /// The connections, or the places where none was found.
    pub links: [Link; LINKS],
    /// Whether it is for further packets of the flow.
    pub lasts: bool,
    /// How the packet has begun a connection, if all that do so the same way are to be treated alike.
    pub begun: Option<Begun>,
}

/// Why a walk has left nothing to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The packet is dropped.
    Dropped(DropReason),
    /// It is a fragment, and waits for the others of its packet ([`Verdict::waits`]).
    Waits([u64; 2]),
}

/// Whose packet a program is run for.
#[derive(Clone, Copy, Debug)]
struct Run<'a> {
    /// By whose queue it came in.
    port: PortId,
    /// Who answers for its drops.
    ingress: PortId,
    /// Why it ends if no step takes it.
    ends: DropReason,
    /// Its connections.
    links: &'a [Link],
}

impl Current {
    const NONE: Current = Current {
        id: ProgramId::MAX,
        shape: Shape::Drop(DropReason::NoBridge),
        tunnel: PortId::NONE,
        watched: false,
        doubtful: false,
        packets: 0,
        bytes: 0,
    };
}

impl Forwarder {
    /// Of worker number `worker`, without queues.
    pub fn new(worker: usize, shared: Arc<Shared>, counters: Arc<Counters>) -> Self {
        Forwarder {
            worker,
            frames: shared.pool.cache(),
            counters,
            snapshot: shared.published.load(),
            published: 0,
            learned: 0,
            second: 1,
            maintenance: 0,
            now: Duration::ZERO,
            programs: Programs::default(),
            held: Held::default(),
            fragments: Fragments::new(Settings::default()),
            queues: Vec::new(),
            queue_of: vec![NOT_OURS; PortId::COUNT],
            outputs: Outputs::new(),
            budget: Budget::default(),
            intakes: vec![Intake::default(); PortId::COUNT],
            verdict: Verdict::default(),
            current: Current::NONE,
            previous: Current::NONE,
            remarks: Remarks::default(),
            sample_debt: 0,
            drops: DropCounts::default(),
            dropped: DropLog::default(),
            watches: Watches::default(),
            shared,
        }
    }

    /// Takes a queue over.
    pub fn add_queue(&mut self, port: PortId, queue: Box<dyn PortQueue>) {
        self.outputs.prepare(port);
        self.queues.push((port, queue));
        self.index_queues();
    }

    /// Gives a port's queue away; what waits for it is sent first.
    pub fn remove_queue(&mut self, port: PortId) -> Option<Box<dyn PortQueue>> {
        self.flush();
        let at = self.queues.iter().position(|(owned, _)| *owned == port)?;
        let (_, queue) = self.queues.swap_remove(at);
        self.index_queues();
        Some(queue)
    }

    /// A port's intake, to be put back behind the burst.
    #[inline]
    pub fn intake(&self, port: PortId) -> Intake {
        self.intakes.get(port.index()).copied().unwrap_or_default()
    }

    /// Puts it back.
    #[inline]
    pub fn put_intake(&mut self, port: PortId, intake: Intake) {
        if let Some(own) = self.intakes.get_mut(port.index()) {
            *own = intake;
        }
    }

    fn index_queues(&mut self) {
        self.queue_of.fill(NOT_OURS);
        for (at, (port, _)) in self.queues.iter().enumerate() {
            if let Some(place) = self.queue_of.get_mut(port.index()) {
                *place = at as u16;
            }
        }
    }

    /// Goes by what was published up to the publication of this number.
    #[inline]
    pub fn go_by(&mut self, publication: u32) {
        self.published = u64::from(publication) << 32 | u64::from(self.learned);
    }

    /// Takes a snapshot up.
    pub fn adopt(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = snapshot;
        for port in self.snapshot.ports.iter().flatten() {
            if matches!(port.spec.kind, PortKind::Device | PortKind::Uplink) {
                self.outputs.prepare(port.spec.id);
            }
        }
    }

    /// Does some work on the slow path, which the port that is being served answers for.
    #[inline]
    pub fn charged<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let start = self.budget.start();
        let done = work(self);
        if let Some(start) = start {
            let (port, nanos) = self.budget.charge(start);
            self.counters.port(port).slow_nanos.add(nanos);
        }
        done
    }

    /// Walks the pipeline for a packet of this key; for a fragment whose packet is `whole`, to the end. The error is that the packet
    /// waits, or a drop that must not be cached, because nothing would ever end it.
    pub fn walk(
        &mut self,
        key: &FlowKey,
        packet: &Packet,
        whole: Option<&Datagram>,
    ) -> Result<Decision, Ended> {
        self.counters.worker.misses.add(1);
        // Programs may come and go now.
        self.forget_current();
        let occasion = Occasion {
            snapshot: &self.snapshot,
            key,
            packet: Some(packet),
            whole,
            connections: &self.shared.connections,
            second: self.second,
            now: self.now,
            effects: true,
        };
        pipeline::walk(occasion, &mut self.verdict, &mut Silent);
        if self.verdict.made {
            // Others see by this that rules have changed; this worker's next packet does, too.
            self.shared.epochs.publish();
            self.learned = self.learned.wrapping_add(1);
            self.published = self.published & !u64::from(u32::MAX) | u64::from(self.learned);
        }
        let verdict = &self.verdict;
        if let Some(scope) = verdict.waits {
            return Err(Ended::Waits(scope));
        }
        if verdict.deps.is_empty() {
            return Err(Ended::Dropped(verdict.drop.unwrap_or(DropReason::NoBridge)));
        }
        // A rule that this walk has made is for the next packet, even if it is of the same flow.
        let checked = if verdict.made { 0 } else { self.published };
        let begun = match verdict.asked {
            Asked::Begun(begun) => Some(begun),
            _ => None,
        };
        Ok(Decision {
            program: self.programs.intern(verdict, &self.snapshot, checked),
            deps: verdict.flow_deps,
            links: verdict.links,
            lasts: !verdict.fleeting && begun.is_none(),
            begun: begun.filter(|_| !verdict.fleeting && !verdict.made),
        })
    }

    /// Whether FDB entries are as they were.
    #[inline(always)]
    pub fn holds(&self, deps: [Dep; 2]) -> bool {
        let epochs = &self.shared.epochs;
        deps.into_iter().all(|dep| epochs.holds(dep))
    }

    /// Whether a packet changes nothing that rules can see of the connections that its flow belongs to. Then they have taken
    /// note of it.
    #[inline(always)]
    pub fn steps<const L: usize>(&self, links: &[Link; L], packet: &Packet) -> bool {
        let Some((&first, further)) = links.split_first() else { return true };
        if first == Link::NONE {
            return true;
        }
        self.shared.connections.step(first, self.second, || facts::segment(packet))
            && further.iter().all(|&link| link == Link::NONE || self.steps_further(link, packet))
    }

    /// The same of a second connection: out of the way of the usual case.
    #[inline(never)]
    fn steps_further(&self, link: Link, packet: &Packet) -> bool {
        self.shared.connections.step(link, self.second, || facts::segment(packet))
    }

    /// Whether a flow of `key` that was compared with the program's doubts as far as `compared` says may keep the program.
    /// It has been compared with all of them then.
    #[inline(always)]
    pub fn has_compared(&mut self, id: ProgramId, compared: &mut u32, key: &[u64]) -> bool {
        let latest = self.programs.hot(id).map_or(0, |hot| hot.doubt);
        *compared >= latest || self.compare(id, (compared, latest), key)
    }

    /// The same of packets that are alike in `kind`, and differ in what tracking alone reads.
    #[cold]
    pub fn has_compared_kind(&mut self, id: ProgramId, compared: &mut u32, kind: &[u64]) -> bool {
        let latest = self.programs.hot(id).map_or(0, |hot| hot.doubt);
        let mask = kind.first().and_then(|&word| self.snapshot.mask_apart(Ingress::of_word(word)));
        let clear =
            *compared >= latest || mask.is_some_and(|mask| self.programs.clears(id, *compared, (kind, mask)));
        if clear {
            *compared = latest;
        }
        clear
    }

    #[cold]
    #[inline(never)]
    fn compare(&mut self, id: ProgramId, (compared, latest): (&mut u32, u32), key: &[u64]) -> bool {
        let Some(&word) = key.first() else { return false };
        let Some(mask) = self.snapshot.mask(Ingress::of_word(word)) else { return false };
        let clear = self.programs.clears(id, *compared, (key, mask));
        if clear {
            *compared = latest;
            self.counters.worker.reprieved.add(1);
        }
        clear
    }

    /// Another burst starts, or programs have changed.
    #[inline]
    pub fn forget_current(&mut self) {
        self.settle_current();
        (self.current, self.previous) = (Current::NONE, Current::NONE);
    }

    /// Whether what the program was compiled from stands; then it is the current one.
    #[inline(always)]
    pub fn is_current(&mut self, id: ProgramId) -> bool {
        self.current.id == id && !self.current.watched || self.make_current(id)
    }

    /// Whether the current program's flows have to be compared with its doubts.
    #[inline(always)]
    pub fn current_has_doubts(&self) -> bool {
        self.current.doubtful
    }

    #[inline]
    fn make_current(&mut self, id: ProgramId) -> bool {
        if self.previous.id == id && !self.previous.watched {
            std::mem::swap(&mut self.current, &mut self.previous);
            return true;
        }
        let valid = self.programs.valid(id, &self.shared.epochs, self.published);
        if valid {
            self.set_current(id);
        }
        valid
    }

    #[inline]
    fn set_current(&mut self, id: ProgramId) {
        if self.current.id != id {
            std::mem::swap(&mut self.current, &mut self.previous);
        }
        if self.current.packets > 0 {
            self.settle_current();
        }
        if let Some(hot) = self.programs.hot(id) {
            let (shape, tunnel, doubtful) = (hot.shape, hot.tunnel, hot.doubt != 0);
            let watched = hot.has_to_be_watched(self.published);
            self.current = Current { id, shape, tunnel, watched, doubtful, packets: 0, bytes: 0 };
        }
    }

    /// Writes down what the current programs have counted in this burst.
    #[inline]
    fn settle_current(&mut self) {
        for counted in [&mut self.current, &mut self.previous] {
            if counted.packets > 0 {
                self.programs.count(counted.id, counted.packets, counted.bytes);
                (counted.packets, counted.bytes) = (0, 0);
            }
        }
    }

    /// Adds what programs have counted to rules, buckets and patch ports, and repeats what their packets teach: at most
    /// `limit` programs. Whether that was all.
    pub fn settle(&mut self, limit: usize) -> bool {
        self.forget_current();
        let counts = (&*self.counters, &mut self.dropped);
        let mut ledger = Ledger::of(counts, &self.shared, self.now, self.second);
        self.programs.settle(limit, |tally| ledger.enter(&tally))
    }

    /// Forgets programs that no flow uses, after looking at `limit` at most.
    pub fn forget_unused(&mut self, limit: usize) {
        self.forget_current();
        let counts = (&*self.counters, &mut self.dropped);
        let mut ledger = Ledger::of(counts, &self.shared, self.now, self.second);
        self.programs.forget(limit, |tally| ledger.enter(&tally));
    }

    /// A flow no longer uses the program.
    pub fn release(&mut self, id: ProgramId) {
        self.settle_current();
        let counts = (&*self.counters, &mut self.dropped);
        let mut ledger = Ledger::of(counts, &self.shared, self.now, self.second);
        self.programs.release(id, |tally| ledger.enter(&tally));
    }

    /// Does what the program says to a packet of a flow with these connections. It came in by the queue of `port`, and has
    /// `bytes` octets.
    #[inline(always)]
    pub fn run(&mut self, id: ProgramId, links: &[Link], mut packet: Packet, (port, bytes): (PortId, usize)) {
        // A hit has made it the current one; the program that a walk has just found serves the packet that it was for.
        if self.current.id != id {
            self.set_current(id);
        }
        self.current.packets += 1;
        self.current.bytes += bytes as u64;
        let Current { shape, tunnel, .. } = self.current;
        let ingress = if tunnel == PortId::NONE {
            port
        } else {
            let counters = self.counters.port(tunnel);
            counters.rx_packets.add(1);
            counters.rx_bytes.add(bytes as u64);
            tunnel
        };
        match shape {
            Shape::Forward(out) => self.send(out, packet, ingress),
            Shape::Retag(out, rewrite) => match retag(&mut packet, rewrite) {
                Some(()) => self.send(out, packet, ingress),
                None => self.drop(ingress, DropReason::Malformed, packet),
            },
            Shape::Encap => self.send_wrapped(id, packet, ingress),
            Shape::Drop(reason) => self.drop(ingress, reason, packet),
            Shape::General => self.run_steps(id, links, packet, (port, ingress)),
        }
    }

    /// The one output of a program that has just one, to a tunnel.
    #[inline(always)]
    fn send_wrapped(&mut self, id: ProgramId, mut packet: Packet, ingress: PortId) {
        let Some((emit, template)) = self.programs.get(id).and_then(Program::encap) else {
            return self.drop(ingress, DropReason::NoDestination, packet);
        };
        match wrap(&mut packet, emit.tag, template) {
            Ok(bytes) => {
                let (tunnel, uplink) = (emit.port, template.uplink);
                self.count_tunneled(tunnel, bytes);
                self.send(uplink, packet, ingress);
            }
            Err(reason) => self.drop(ingress, reason, packet),
        }
    }

    #[inline]
    fn count_tunneled(&self, tunnel: PortId, bytes: usize) {
        let counters = self.counters.port(tunnel);
        counters.tx_packets.add(1);
        counters.tx_bytes.add(bytes as u64);
    }

    #[inline(never)]
    fn run_steps(
        &mut self,
        id: ProgramId,
        links: &[Link],
        packet: Packet,
        (port, ingress): (PortId, PortId),
    ) {
        let ends = self.programs.get(id).map_or(DropReason::NoDestination, |program| program.ends);
        let steps = self.programs.take_steps(id);
        self.do_steps(&steps, packet, Run { port, ingress, ends, links });
        self.programs.put_steps(id, steps);
    }

    /// Step by step; the last output takes the packet itself.
    fn do_steps(&mut self, steps: &[Step], mut packet: Packet, run: Run<'_>) {
        let Run { ingress, .. } = run;
        let mut at = 0;
        while let Some(step) = steps.get(at) {
            at += 1;
            let is_last = at == steps.len();
            match step {
                Step::Output(emit, template) if is_last => {
                    return self.send_one((emit, template.as_ref()), packet, ingress);
                }
                Step::Output(emit, template) => {
                    if let Some(copy) = self.copy(&packet, run) {
                        self.send_one((emit, template.as_ref()), copy, ingress);
                    }
                }
                Step::Clone(count) => {
                    let inside = steps.get(at..at + *count as usize).unwrap_or_default();
                    at += inside.len();
                    if let Some(copy) = self.copy(&packet, run) {
                        self.do_steps(inside, copy, run);
                    }
                }
                Step::PacketIn(packet_in) => self.shared.packet_ins.offer(packet_in, &packet, self.now),
                Step::Sample(probability, _) => self.sample(*probability),
                Step::Edit(_)
                | Step::Meter(_)
                | Step::Translate(_)
                | Step::TranslateTo(_)
                | Step::Rewrite(_) => {
                    if let Err(reason) = self.change(step, &mut packet, run) {
                        return self.drop(ingress, reason, packet);
                    }
                }
            }
        }
        self.drop(ingress, run.ends, packet);
    }

    /// Steps that change the packet, or end it.
    #[inline]
    fn change(&mut self, step: &Step, packet: &mut Packet, run: Run<'_>) -> Result<(), DropReason> {
        match step {
            Step::Edit(edits) => edit::apply(edits, packet, &mut self.frames),
            Step::Meter(meter) => self.admit(meter, packet),
            Step::Translate(link) => {
                // A connection may have gone since it was asked: by another worker, for another packet.
                let link = run.links.get(usize::from(*link)).ok_or(DropReason::ConnectionGone)?;
                let translation = self.shared.connections.translation(*link);
                nat::translate(packet, &translation.ok_or(DropReason::ConnectionGone)?)
            }
            Step::TranslateTo(once) => once.apply(packet),
            Step::Rewrite(rewrite) => rewrite.apply(packet),
            _ => Ok(()),
        }
    }

    /// Takes `probability` of 65535 packets, spread evenly.
    fn sample(&mut self, probability: u16) {
        self.sample_debt += u32::from(probability);
        if self.sample_debt >= u32::from(u16::MAX) {
            self.sample_debt -= u32::from(u16::MAX);
            self.counters.worker.sampled.add(1);
        }
    }

    /// A copy. One that can't be made counts as made, and dropped.
    fn copy(&mut self, packet: &Packet, Run { port, ingress, .. }: Run<'_>) -> Option<Packet> {
        self.counters.port(port).copies.add(1);
        let copy = self.frames.copy(packet);
        if copy.is_none() {
            self.counters.port(ingress).drop(DropReason::CopyNoFrame);
        }
        copy
    }

    fn admit(&mut self, meter: &Meter, packet: &mut Packet) -> Result<(), DropReason> {
        match meter.admit(packet.total_len() as u64, self.now) {
            Admission::Pass => Ok(()),
            Admission::Drop => Err(DropReason::MeterExceeded),
            Admission::Remark(levels) => self.remarks.apply(levels, packet, &mut self.frames),
        }
    }

    /// One output: retagged, wrapped or held as it needs.
    fn send_one(
        &mut self,
        (emit, template): (&Emit, Option<&Template>),
        mut packet: Packet,
        ingress: PortId,
    ) {
        match (template, emit.key) {
            (Some(template), _) => match wrap(&mut packet, emit.tag, template) {
                Ok(bytes) => {
                    self.count_tunneled(emit.port, bytes);
                    self.send(template.uplink, packet, ingress);
                }
                Err(reason) => self.drop(ingress, reason, packet),
            },
            (None, key) => match (retag(&mut packet, emit.tag), key) {
                (None, _) => self.drop(ingress, DropReason::Malformed, packet),
                (Some(()), None) => self.send(emit.port, packet, ingress),
                (Some(()), Some(key)) => {
                    let towards = Wanted { tunnel: emit.port, remote: emit.remote };
                    self.hold((towards, key), packet, ingress);
                }
            },
        }
    }

    /// Keeps a packet until its tunnel's next hop is known, and asks for that.
    #[cold]
    fn hold(&mut self, (towards, key): (Wanted, u32), packet: Packet, ingress: PortId) {
        let deadline = Duration::from_secs(u64::from(self.second)) + HELD_FOR;
        if let Err(packet) = self.held.put(Waiting { towards, key, ingress, deadline, packet }) {
            // Those that wait have asked: a flood does not keep the control thread busy.
            return self.drop(ingress, DropReason::NeighbourUnresolved, packet);
        }
        self.show_held();
        // Full means that many are asked for already.
        let _ = self.shared.wanted.push(towards);
        self.shared.control.ring();
    }

    /// Sends a packet that was held, now that its tunnel's path is decided. It does not go through the pipeline again:
    /// its other copies have left already.
    pub fn resume(&mut self, mut waiting: Waiting) {
        match self.wrap_waiting(&mut waiting) {
            Ok(uplink) => self.send(uplink, waiting.packet, waiting.ingress),
            Err(reason) => self.drop(waiting.ingress, reason, waiting.packet),
        }
    }

    fn wrap_waiting(&self, waiting: &mut Waiting) -> Result<PortId, DropReason> {
        let Wanted { tunnel: id, remote } = waiting.towards;
        let port = self.snapshot.port(id).ok_or(DropReason::PortRemoved)?;
        let tunnel = port.spec.tunnel().ok_or(DropReason::PortRemoved)?;
        if !port.spec.up {
            return Err(DropReason::TxPortDown);
        }
        let way = self.snapshot.way(tunnel, remote).ok_or(DropReason::TunnelNoRoute)?;
        let template = Template::towards(tunnel, waiting.key, way).ok_or(DropReason::TunnelNoRoute)?;
        let bytes = waiting.packet.total_len() as u64;
        template.wrap(&mut waiting.packet)?;
        let counters = self.counters.port(id);
        counters.tx_packets.add(1);
        counters.tx_bytes.add(bytes);
        Ok(template.uplink)
    }

    /// Counts a packet as dropped, and frees it.
    #[inline]
    pub fn drop(&mut self, port: PortId, reason: DropReason, packet: Packet) {
        self.counters.port(port).drop(reason);
        if !self.watches.is_empty() {
            self.show_dropped(port, reason, &packet);
        }
        self.frames.free(packet);
    }

    /// Somebody asks why packets are dropped: here is one.
    #[cold]
    #[inline(never)]
    fn show_dropped(&mut self, port: PortId, reason: DropReason, packet: &Packet) {
        let (programs, second, program) = (&self.programs, self.second, self.current.id);
        let sample = || {
            // What is dropped for another reason than its program's was dropped before it came to its end, or had none.
            let by = programs.get(program).filter(|program| program.drops() == Some(reason));
            let decider = by.and_then(|program| program.verdict.decider());
            Sample {
                port,
                reason,
                decided: decider.map(|decider| decider.decided()),
                rule: decider.and_then(|decider| decider.rule.cloned()),
                second,
                length: packet.total_len(),
                data: head(packet),
            }
        };
        let (data, length) = (packet.data(), packet.total_len());
        self.watches.offer(Suspect { port, reason, program, data, length }, sample);
    }

    /// Puts a packet into its port's batch.
    #[inline(always)]
    pub fn send(&mut self, out: PortId, packet: Packet, ingress: PortId) {
        match self.outputs.push(out, packet) {
            Ok(Pushed::Waits) => {}
            Ok(Pushed::Full) => self.flush_port(out),
            Err(packet) => self.drop(ingress, DropReason::TxPortDown, packet),
        }
    }

    /// Phase *flush*: transmits what the batches have collected.
    #[inline]
    pub fn flush(&mut self) {
        while let Some(port) = self.outputs.next_waiting() {
            self.flush_port(port);
        }
    }

    fn flush_port(&mut self, port: PortId) {
        let Some(batch) = self.outputs.batch(port).filter(|batch| !batch.is_empty()) else { return };
        let own = self.queue_of.get(port.index()).copied().unwrap_or(NOT_OURS);
        if let Some((_, queue)) = self.queues.get_mut(usize::from(own)) {
            let watched = if self.watches.is_empty() { None } else { Outgoing::of(batch) };
            let sent = queue.tx_burst(&mut self.frames, batch, &mut self.drops);
            if let Some(outgoing) = watched {
                self.show_refused(port, &outgoing);
            }
            let counters = self.counters.port(port);
            counters.tx_packets.add(sent.packets);
            counters.tx_bytes.add(sent.bytes);
            counters.take_drops(&mut self.drops);
            return;
        }
        let owner = self.shared.owners.get(port).filter(|&owner| owner != self.worker);
        match owner.and_then(|owner| Some((owner, self.shared.workers.get(owner)?))) {
            Some((owner, mailbox)) => {
                hand_over(batch, port, &mailbox.inbox, &mut self.frames, &self.counters);
                self.shared.ring(owner);
            }
            None => self.discard(port, DropReason::PortRemoved),
        }
    }

    /// Somebody asks why packets are dropped, and the port's device may have refused some.
    #[cold]
    fn show_refused(&mut self, port: PortId, outgoing: &Outgoing) {
        let Some(reason) = outgoing.refused_for(&self.drops) else { return };
        let (data, length, second) = (&outgoing.longest, outgoing.length, self.second);
        let sample =
            || Sample { port, reason, decided: None, rule: None, second, length, data: data.clone() };
        self.watches.offer(Suspect { port, reason, program: ProgramId::MAX, data, length }, sample);
    }

    /// Drops a whole batch, for one reason.
    #[cold]
    fn discard(&mut self, port: PortId, reason: DropReason) {
        while let Some(packet) = self.outputs.batch(port).and_then(|batch| batch.pop()) {
            self.drop(port, reason, packet);
        }
    }
}

/// Puts the outer header in front of a packet with another tag. Returns the inner frame's length.
#[inline(always)]
fn wrap(packet: &mut Packet, tag: TagRewrite, template: &Template) -> Result<usize, DropReason> {
    retag(packet, tag).ok_or(DropReason::Malformed)?;
    template.wrap(packet)
}
