//! A worker: the burst loop.
//!
//! A burst of up to 64 packets from one queue goes through four phases: *key* (parse, and for an uplink decapsulate;
//! hash; prefetch the bucket), *probe* (compare tags; prefetch the flow), *act* (compare key and epochs; count; apply the
//! program, or walk the pipeline on a miss), *flush* (transmit what the batch of each port has collected). Packets act in
//! the order in which they came in, whatever their outcome, so that no flow is reordered; a packet that misses learns
//! and caches before the next one acts.
//!
//! Owner: one thread, which has the worker for itself. What it shares: the published snapshot, epochs and FDBs
//! ([`crate::shared`]), its counters, its inbox and its commands.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender};
use weft_io::{Burst, PortQueue};
use weft_wire::DropReason;

use crate::budget::UPLINK;
use crate::cache::LINKS;
use crate::counters::Counters;
use crate::decap::Vteps;
use crate::forward::Forwarder;
use crate::key::{KEY_WORDS, KeyMask, MIDDLE, NARROW, PortId, Width};
use crate::lane::Lane;
use crate::listing::{FlowInfo, list, tunnel_width};
use crate::output::INBOX;
use crate::shared::{Now, Shared};
use crate::snapshot::{PortKind, Snapshot};
use crate::why::scan::Scan;
use crate::why::{Place, Question, Tallied};

/// Flows that a worker caches under narrow and wide keys, of each.
pub const CACHED_FLOWS: usize = 256 << 10;
/// Flows that it caches under middle keys: there each direction of each connection is one.
pub const CACHED_TUPLES: usize = 512 << 10;
/// Packets that a worker takes from its inbox at a time.
const INBOX_BURST: usize = 256;

/// What the control thread asks of a worker.
#[derive(Debug)]
pub enum Command {
    /// Take this queue over. It's polled as soon as the port is published.
    AddQueue(PortId, Box<dyn PortQueue>),
    /// Give the port's queue back.
    RemoveQueue(PortId, Sender<Option<Box<dyn PortQueue>>>),
    /// Say so when all before this has been done, and the snapshot that is published now is in use.
    Sync(Sender<()>),
    /// List the cached flows of a port, so many at most.
    ListFlows(PortId, usize, Sender<Vec<FlowInfo>>),
    /// Adds what flows have counted to rules, buckets and patch ports; answers when that is done.
    Settle(Sender<()>),
    /// Say why packets are dropped.
    Why(Question),
    /// Say what programs have dropped, after settling them, and how much there was no room for.
    Drops(Sender<(Vec<(Place, Tallied)>, u64)>),
    /// The port's number is another port's from now on: what was dropped there is forgotten.
    ForgetDrops(PortId),
    /// End.
    Stop,
}

/// What the snapshot says about the port of a queue, in the order of the queues.
#[derive(Clone, Debug)]
struct Role {
    part: Part,
    mask: KeyMask,
    width: Width,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// Not published (yet, or any more): not polled.
    Silent,
    /// A bridge port.
    Switched,
    /// Carries tunnel packets.
    Uplink,
}

/// One worker. See the module's text.
#[derive(Debug)]
pub struct Worker {
    index: usize,
    commands: Receiver<Command>,
    forward: Forwarder,
    roles: Vec<Role>,
    vteps: Vteps,
    narrow: Box<Lane<NARROW, 0>>,
    middle: Box<Lane<MIDDLE, LINKS>>,
    wide: Box<Lane<KEY_WORDS, LINKS>>,
    burst: Option<Box<Burst>>,
    /// A question that is being looked into.
    scan: Option<Box<Scan>>,
    running: bool,
    /// Whether the last round has found nothing.
    was_idle: bool,
    /// Counts comings and goings of queues.
    queue_changes: u64,
}

/// Programs without flows that are looked at in one go: some hundred microseconds' work.
const FORGET: usize = 1024;
/// Programs whose counts are added to rules in one go: some hundred microseconds' work.
const SETTLE: usize = 4096;
/// Connections that are looked at in one go for whether their time is over: some ten microseconds' work.
const EXPIRE: usize = 4096;

impl Worker {
    /// A worker without ports.
    pub fn new(
        index: usize,
        shared: Arc<Shared>,
        counters: Arc<Counters>,
        commands: Receiver<Command>,
    ) -> std::io::Result<Self> {
        let (narrow, middle, wide) =
            (Lane::new(CACHED_FLOWS)?, Lane::new(CACHED_TUPLES)?, Lane::new(CACHED_FLOWS)?);
        let capacity =
            narrow.flows.cache.capacity() + middle.flows.cache.capacity() + wide.flows.cache.capacity();
        counters.worker.capacity.set(capacity as u64);
        Ok(Worker {
            index,
            commands,
            forward: Forwarder::new(index, shared, counters),
            roles: Vec::new(),
            vteps: Vteps::default(),
            narrow,
            middle,
            wide,
            burst: Some(Box::default()),
            scan: None,
            running: true,
            was_idle: true,
            queue_changes: 0,
        })
    }

    /// Its number, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Takes the time of walks by another clock, for tests.
    pub fn set_clock(&mut self, clock: fn() -> Duration) {
        self.forward.budget.set_clock(clock);
    }

    /// Whether nobody has told it to stop.
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// What it shares with the others.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.forward.shared
    }

    /// Its counters.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.forward.counters
    }

    /// The queues, to be waited for.
    pub fn queues(&mut self) -> &mut [(PortId, Box<dyn PortQueue>)] {
        &mut self.forward.queues
    }

    /// Changes whenever a queue comes or goes.
    pub fn queue_changes(&self) -> u64 {
        self.queue_changes
    }

    /// One round: commands, inbox, every queue once. Returns how many packets were received or handed over.
    pub fn round(&mut self, now: Now) -> usize {
        self.forward.second = now.second();
        self.forward.now = now.uptime;
        self.enter_round();
        self.keep_limits();
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
        if !self.forward.watches.is_empty() {
            self.forward.watches.renew(now.second());
        }
        if let Some(scan) = self.scan.take() {
            self.scan_on(scan);
        }
        let mut packets = self.empty_inbox();
        for at in 0..self.forward.queues.len() {
            packets += self.serve(at);
        }
        self.forward.forget_current();
        self.leave_round();
        self.was_idle = packets == 0;
        packets
    }

    /// From here on this worker goes by the limits of this moment.
    fn keep_limits(&mut self) {
        let Forwarder { shared, budget, now, .. } = &mut self.forward;
        budget.begin_round(*now, self.was_idle, shared.limits.slow_path.load(Ordering::Relaxed));
        let flows = shared.limits.flows.load(Ordering::Relaxed);
        self.narrow.flows.cache.limit = flows;
        self.middle.flows.cache.limit = flows;
        self.wide.flows.cache.limit = flows;
    }

    /// From here on this worker goes by one snapshot, and says by which.
    fn enter_round(&mut self) {
        if let Some(mailbox) = self.forward.shared.workers.get(self.index) {
            mailbox.round.enter();
        }
        self.follow();
        if let Some(mailbox) = self.forward.shared.workers.get(self.index) {
            mailbox.round.goes_by(self.forward.snapshot.generation);
        }
    }

    fn leave_round(&self) {
        if let Some(mailbox) = self.forward.shared.workers.get(self.index) {
            mailbox.round.leave();
        }
    }

    /// What has to be done now and then: packets that waited too long go, so do flows that nobody uses, gauges are set.
    pub fn maintain(&mut self, now: Now) {
        self.forward.second = now.second();
        self.forward.now = now.uptime;
        self.forward.maintenance += 1;
        self.forward.settle(SETTLE);
        self.forward.shared.connections.expire(self.forward.second, EXPIRE);
        self.forward.swept_since =
            self.narrow.swept_since().min(self.middle.swept_since()).min(self.wide.swept_since());
        self.narrow.sweep(&mut self.forward);
        self.middle.sweep(&mut self.forward);
        self.wide.sweep(&mut self.forward);
        self.forward.forget_unused(FORGET);
        let forward = &mut self.forward;
        for waiting in forward.held.take_expired(now) {
            forward.drop(waiting.ingress, DropReason::NeighbourUnresolved, waiting.packet);
        }
        forward.expire_fragments(now);
        for (port, queue) in &self.forward.queues {
            if self.forward.shared.faults.report(*port, queue.fault().as_ref()) {
                self.forward.shared.control.ring();
            }
        }
        if self.forward.queues.is_empty() {
            self.forward.frames.go_home();
        }
        let gauges = &self.forward.counters.worker;
        let flows =
            self.narrow.flows.cache.len() + self.middle.flows.cache.len() + self.wide.flows.cache.len();
        gauges.flows.set(flows as u64);
        gauges.programs.set(self.forward.programs.len() as u64);
        for &(port, _) in &self.forward.queues {
            let caches = (&self.narrow.flows.cache, &self.middle.flows.cache, &self.wide.flows.cache);
            let flows = caches.0.held(port) + caches.1.held(port) + caches.2.held(port);
            self.forward.counters.port(port).flows.set(flows.into());
        }
        self.forward.show_held();
    }

    /// Drops what waits, because the worker ends.
    pub fn end(&mut self) {
        let never = Now { uptime: Duration::MAX };
        for waiting in self.forward.held.take_expired(never) {
            self.forward.drop(waiting.ingress, DropReason::NeighbourUnresolved, waiting.packet);
        }
        self.forward.expire_fragments(never);
        self.forward.show_held();
    }

    /// Whether something waits that no descriptor tells of.
    pub fn has_mail(&self) -> bool {
        let shared = &self.forward.shared;
        let inbox = shared.workers.get(self.index).is_some_and(|mailbox| !mailbox.inbox.is_empty());
        inbox
            || self.scan.is_some()
            || !self.commands.is_empty()
            || self.forward.snapshot.generation != shared.published.generation()
    }

    /// Takes the latest snapshot up, if there is a new one.
    #[inline]
    fn follow(&mut self) {
        // The count first: whoever sees it has at least the snapshot that it counts.
        let shared = &self.forward.shared;
        let published = shared.epochs.published();
        self.forward.go_by(published);
        let shared = &self.forward.shared;
        if self.forward.snapshot.generation != shared.published.generation() {
            self.take_snapshot();
        }
    }

    #[cold]
    fn take_snapshot(&mut self) {
        let snapshot = self.forward.shared.published.load();
        self.vteps = Vteps::new(&snapshot.vteps);
        self.forward.adopt(Arc::clone(&snapshot));
        self.cast_roles();
        for waiting in self.forward.held.take_resolved(&snapshot) {
            self.forward.resume(waiting);
        }
        self.forward.forget_removed();
        self.forward.flush();
        self.forward.show_held();
    }

    fn cast_roles(&mut self) {
        let snapshot = &self.forward.snapshot;
        self.roles = self.forward.queues.iter().map(|(port, _)| Role::of(*port, snapshot)).collect();
    }

    fn obey(&mut self, command: Command) {
        // Whoever asked may have given up: then nobody waits for the answer.
        match command {
            Command::AddQueue(port, queue) => {
                self.forward.add_queue(port, queue);
                self.queue_changes += 1;
            }
            Command::RemoveQueue(port, reply) => {
                // What others have handed over for the port goes out first: its number may be another port's next.
                for _ in 0..=INBOX / INBOX_BURST {
                    self.empty_inbox();
                }
                let _ = reply.send(self.forward.remove_queue(port));
                self.forward.counters.port(port).flows.set(0);
                self.queue_changes += 1;
            }
            Command::Sync(reply) => {
                self.follow();
                let _ = reply.send(());
            }
            Command::Settle(reply) => {
                while !self.forward.settle(SETTLE) {}
                let _ = reply.send(());
            }
            Command::ListFlows(port, limit, reply) => {
                self.follow();
                let _ = reply.send(self.list_flows(port, limit));
            }
            Command::Why(question) => {
                if question.until > 0 {
                    self.forward.watches.arm(&question.subject, question.until);
                }
                // The control thread waits for each answer: an older question is one that it has given up.
                self.scan = Some(Scan::new(question));
            }
            Command::Drops(reply) => {
                while !self.forward.settle(SETTLE) {}
                let log = &self.forward.dropped;
                let _ = reply.send((log.iter().collect(), log.beyond));
            }
            Command::ForgetDrops(port) => {
                while !self.forward.settle(SETTLE) {}
                self.forward.dropped.forget(port);
            }
            Command::Stop => self.running = false,
        }
        self.cast_roles();
    }

    /// Sends what other workers have for this one's ports.
    fn empty_inbox(&mut self) -> usize {
        let mut packets = 0;
        while packets < INBOX_BURST {
            let mailbox = self.forward.shared.workers.get(self.index);
            let Some((port, packet)) = mailbox.and_then(|mailbox| mailbox.inbox.pop()) else { break };
            self.forward.send(port, packet, port);
            packets += 1;
        }
        if packets > 0 {
            self.forward.budget.serve(PortId::NONE, 0);
            self.forward.flush();
        }
        packets
    }

    /// Receives and switches one burst of a queue.
    fn serve(&mut self, at: usize) -> usize {
        if self.roles.get(at).is_none_or(|role| role.part == Part::Silent) {
            return 0;
        }
        let Some(mut burst) = self.burst.take() else { return 0 };
        let mut packets = 0;
        if let Some(&mut (port, ref mut queue)) = self.forward.queues.get_mut(at)
            && !self.forward.budget.rests(port)
        {
            queue.rx_burst(&mut self.forward.frames, &mut burst, &mut self.forward.drops);
            packets = burst.len();
            let counters = self.forward.counters.port(port);
            let dropped = self.forward.drops.total();
            if dropped > 0 {
                counters.rx_packets.add(dropped);
                counters.take_drops(&mut self.forward.drops);
            }
            if packets > 0 {
                counters.rx_packets.add(packets as u64);
                counters.rx_bytes.add(burst.iter().map(|packet| packet.total_len() as u64).sum());
                self.forward.counters.worker.packets.add(packets as u64);
                self.switch(port, at, &mut burst);
            }
        }
        self.burst = Some(burst);
        packets
    }

    fn switch(&mut self, port: PortId, at: usize, burst: &mut Burst) {
        let (vteps, forward, Some(role)) = (&self.vteps, &mut self.forward, self.roles.get(at)) else {
            return;
        };
        forward.budget.serve(port, if role.part == Part::Uplink { UPLINK } else { 1 });
        match (role.part, role.width) {
            (Part::Uplink, Width::Narrow) => self.narrow.switch_tunneled(burst, port, vteps, forward),
            (Part::Uplink, Width::Middle) => self.middle.switch_tunneled(burst, port, vteps, forward),
            (Part::Uplink, Width::Wide) => self.wide.switch_tunneled(burst, port, vteps, forward),
            (_, Width::Narrow) => self.narrow.switch(burst, port, &role.mask, forward),
            (_, Width::Middle) => self.middle.switch(burst, port, &role.mask, forward),
            (_, Width::Wide) => self.wide.switch(burst, port, &role.mask, forward),
        }
        self.forward.flush();
    }

    /// A piece of a scan, and its answer at the end.
    #[cold]
    fn scan_on(&mut self, mut scan: Box<Scan>) {
        let Worker { narrow, middle, wide, forward, .. } = self;
        forward.forget_current();
        let done = match scan.width() {
            Width::Narrow => scan.go_on(&narrow.flows.cache, forward),
            Width::Middle => scan.go_on(&middle.flows.cache, forward),
            Width::Wide => scan.go_on(&wide.flows.cache, forward),
        };
        // No flow changes its place while the scan is on its way through them.
        let looks_at = |width: Width| !done && scan.width() == width;
        narrow.flows.cache.stand_still(looks_at(Width::Narrow));
        middle.flows.cache.stand_still(looks_at(Width::Middle));
        wide.flows.cache.stand_still(looks_at(Width::Wide));
        match done {
            true => scan.finish(forward),
            false => self.scan = Some(scan),
        }
    }

    /// The flows that packets of the port still find. What is stale, or of another mask than today's, waits to be swept.
    fn list_flows(&mut self, port: PortId, limit: usize) -> Vec<FlowInfo> {
        let Worker { narrow, middle, wide, forward, .. } = self;
        forward.forget_current();
        let mut flows = Vec::new();
        list(&narrow.flows.cache, forward, (port, Width::Narrow, limit), &mut flows);
        list(&middle.flows.cache, forward, (port, Width::Middle, limit), &mut flows);
        list(&wide.flows.cache, forward, (port, Width::Wide, limit), &mut flows);
        flows
    }
}

impl Role {
    fn of(port: PortId, snapshot: &Snapshot) -> Role {
        let port = snapshot.port(port);
        let part = match port.map(|port| &port.spec.kind) {
            Some(PortKind::Device) => Part::Switched,
            Some(PortKind::Uplink) => Part::Uplink,
            Some(PortKind::Tunnel(_) | PortKind::Patch(_)) | None => Part::Silent,
        };
        let mask = port.map(|port| port.mask).unwrap_or_default();
        let width = match part {
            Part::Uplink => tunnel_width(snapshot),
            Part::Switched | Part::Silent => mask.width(),
        };
        Role { part, mask, width }
    }
}
