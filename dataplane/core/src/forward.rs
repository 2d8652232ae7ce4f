//! What a worker does with a packet once its program is known: rewrite, wrap, copy, and collect per port; and the walk
//! that finds a program for a flow that has none.

use std::sync::Arc;
use std::time::Duration;

use weft_conntrack::Link;
use weft_io::{FrameCache, Packet, PortQueue, load};
use weft_wire::{DropCounts, DropReason};

use crate::budget::Budget;
use crate::cache::LINKS;
use crate::counters::Counters;
use crate::edit::remark::Remarks;
use crate::encap::Template;
use crate::epoch::Dep;
use crate::fragments::{Fragments, Settings};
use crate::held::Held;
use crate::intake::Intake;
use crate::key::{FlowKey, PortId};
use crate::output::Outputs;
use crate::pipeline::trace::Silent;
use crate::pipeline::{self, Datagram, Occasion};
use crate::program::{Program, ProgramId, Programs, Shape};
use crate::retag::retag;
use crate::shared::Shared;
use crate::snapshot::{PortKind, Snapshot};
use crate::verdict::{Asked, Begun, Verdict};
use crate::vlan::TagRewrite;
use crate::why::DropLog;
use crate::why::watch::Watches;

mod current;
mod leaving;
mod reassembly;
mod steps;
mod waiting;

use current::Current;
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
    /// All flows of all caches have been compared with their programs' doubts since that maintenance.
    pub swept_since: u64,
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
            swept_since: 0,
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

    /// Does what the program says to a packet of a flow with these connections. It came in by the queue of `port`, and has
    /// `bytes` octets.
    #[inline(always)]
    pub fn run(
        &mut self,
        id: ProgramId,
        links: &[Link],
        packet: impl Into<Packet>,
        (port, bytes): (PortId, usize),
    ) {
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
            Shape::Retag(out, rewrite) => {
                let mut packet = packet.into();
                match retag(&mut packet, rewrite) {
                    Some(()) => self.send(out, packet, ingress),
                    None => self.drop(ingress, DropReason::Malformed, packet),
                }
            }
            Shape::Encap => self.send_wrapped(id, packet.into(), ingress),
            Shape::Drop(reason) => self.drop(ingress, reason, packet.into()),
            Shape::General => self.run_steps(id, links, packet.into(), (port, ingress)),
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

    /// Counts a packet as dropped, and frees it.
    #[inline]
    pub fn drop(&mut self, port: PortId, reason: DropReason, packet: Packet) {
        self.counters.port(port).drop(reason);
        if !self.watches.is_empty() {
            self.show_dropped(port, reason, &packet);
        }
        self.frames.free(packet);
    }

    /// Puts a packet into its port's batch.
    #[inline(always)]
    pub fn send(&mut self, out: PortId, packet: impl Into<Packet>, ingress: PortId) {
        // The place first and then the packet, so that it is copied once.
        let Some(batch) = self.outputs.begin(out) else {
            return self.drop(ingress, DropReason::TxPortDown, packet.into());
        };
        if let Err(packet) = load(batch, packet) {
            return self.drop(ingress, DropReason::TxPortDown, packet);
        }
        if batch.is_full() {
            self.flush_port(out);
        }
    }
}

/// Puts the outer header in front of a packet with another tag. Returns the inner frame's length.
#[inline(always)]
fn wrap(packet: &mut Packet, tag: TagRewrite, template: &Template) -> Result<usize, DropReason> {
    retag(packet, tag).ok_or(DropReason::Malformed)?;
    template.wrap(packet)
}
