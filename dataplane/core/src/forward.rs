//! What a worker does with a packet once its program is known: rewrite, wrap, copy, and collect per port; and the walk
//! that finds a program for a flow that has none.

use std::sync::Arc;
use std::time::Duration;

use weft_io::{FrameCache, Packet, PortQueue};
use weft_wire::{DropCounts, DropReason};

use crate::counters::Counters;
use crate::encap::Template;
use crate::epoch::Dep;
use crate::held::{HELD_FOR, Held, Waiting};
use crate::key::{FlowKey, PortId};
use crate::output::{Outputs, Pushed, discard, hand_over};
use crate::pipeline;
use crate::program::{ProgramId, Programs, Shape, Verdict};
use crate::retag::retag;
use crate::shared::Shared;
use crate::snapshot::{PortKind, Snapshot};

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
    pub published: u32,
    /// The time, in seconds.
    pub second: u32,
    /// Compiled programs.
    pub programs: Programs,
    /// Packets that wait for a neighbour.
    pub held: Held,
    /// This worker's queues.
    pub queues: Vec<(PortId, Box<dyn PortQueue>)>,
    /// Which of `queues` is a port's.
    queue_of: Vec<u16>,
    outputs: Outputs,
    verdict: Verdict,
    current: Current,
    /// What a queue's call has dropped; empty between calls.
    pub drops: DropCounts,
}

/// The program that the last packet of this burst took, known to stand: most packets of a burst take the same.
#[derive(Clone, Copy, Debug)]
struct Current {
    id: ProgramId,
    shape: Shape,
    tunnel: PortId,
}

impl Current {
    const NONE: Current =
        Current { id: ProgramId::MAX, shape: Shape::Drop(DropReason::NoBridge), tunnel: PortId::NONE };
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
            second: 1,
            programs: Programs::default(),
            held: Held::default(),
            queues: Vec::new(),
            queue_of: vec![NOT_OURS; PortId::COUNT],
            outputs: Outputs::new(),
            verdict: Verdict::default(),
            current: Current::NONE,
            drops: DropCounts::default(),
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

    fn index_queues(&mut self) {
        self.queue_of.fill(NOT_OURS);
        for (at, (port, _)) in self.queues.iter().enumerate() {
            if let Some(place) = self.queue_of.get_mut(port.index()) {
                *place = at as u16;
            }
        }
    }

    /// Takes a snapshot up.
    pub fn adopt(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = snapshot;
        for port in self.snapshot.ports.iter().flatten() {
            if !matches!(port.spec.kind, PortKind::Tunnel(_)) {
                self.outputs.prepare(port.spec.id);
            }
        }
    }

    /// Walks the pipeline for `key`; the program that this gives has one more user then. The error is a drop that
    /// must not be cached, because nothing would ever end it.
    pub fn walk(&mut self, key: &FlowKey) -> Result<(ProgramId, [Dep; 2]), DropReason> {
        self.counters.worker.misses.add(1);
        // Programs may come and go now.
        self.forget_current();
        pipeline::walk(&self.snapshot, key, self.second, &mut self.verdict);
        if self.verdict.deps.is_empty() {
            return Err(self.verdict.drop.unwrap_or(DropReason::NoBridge));
        }
        Ok((self.programs.intern(&self.verdict, &self.snapshot, self.published), self.verdict.flow_deps))
    }

    /// Another burst starts, or programs have changed.
    #[inline]
    pub fn forget_current(&mut self) {
        self.current = Current::NONE;
    }

    /// Whether what the program was compiled from stands; then it is the current one.
    #[inline(always)]
    pub fn is_current(&mut self, id: ProgramId) -> bool {
        self.current.id == id || self.make_current(id)
    }

    #[inline]
    fn make_current(&mut self, id: ProgramId) -> bool {
        let valid = self.programs.valid(id, &self.shared.epochs, self.published);
        if let Some(program) = self.programs.get(id).filter(|_| valid) {
            self.current = Current { id, shape: program.shape, tunnel: program.tunnel };
        }
        valid
    }

    /// Does what the program says to a packet of `bytes` octets that came in by the queue of `port`.
    #[inline(always)]
    pub fn run(&mut self, id: ProgramId, mut packet: Packet, bytes: usize, port: PortId) {
        if self.current.id != id && !self.make_current(id) {
            return self.drop(port, DropReason::NoBridge, packet);
        }
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
            Shape::Encap => self.send_wrapped(id, 0, packet, ingress),
            Shape::Drop(reason) => self.drop(ingress, reason, packet),
            Shape::General => self.send_all(id, packet, (port, ingress)),
        }
    }

    /// Every output of a program, each with a copy of its own but the last.
    #[inline(never)]
    fn send_all(&mut self, id: ProgramId, packet: Packet, (port, ingress): (PortId, PortId)) {
        let emits = self.programs.get(id).map_or(0, |program| program.emits.len());
        if emits == 0 {
            return self.drop(ingress, DropReason::NoDestination, packet);
        }
        for at in 0..emits - 1 {
            // A copy that can't be made counts as made, and dropped.
            self.counters.port(port).copies.add(1);
            match self.frames.copy(&packet) {
                Some(copy) => self.send_one(id, at, copy, ingress),
                None => self.counters.port(ingress).drop(DropReason::CopyNoFrame),
            }
        }
        self.send_one(id, emits - 1, packet, ingress);
    }

    fn send_one(&mut self, id: ProgramId, at: usize, mut packet: Packet, ingress: PortId) {
        let output =
            self.programs.get(id).and_then(|program| Some((*program.emits.get(at)?, program.is_ready(at))));
        match output {
            Some((_, true)) => self.send_wrapped(id, at, packet, ingress),
            Some((emit, false)) => match (retag(&mut packet, emit.tag), emit.key) {
                (None, _) => self.drop(ingress, DropReason::Malformed, packet),
                (Some(()), None) => self.send(emit.port, packet, ingress),
                (Some(()), Some(key)) => self.hold((emit.port, key), packet, ingress),
            },
            None => self.drop(ingress, DropReason::NoDestination, packet),
        }
    }

    /// To a tunnel: puts the outer header in front, and sends to the uplink.
    #[inline(always)]
    fn send_wrapped(&mut self, id: ProgramId, at: usize, mut packet: Packet, ingress: PortId) {
        let program = self.programs.get(id);
        let output =
            program.and_then(|program| Some((program.emits.get(at)?, program.templates.get(at)?.as_ref()?)));
        let Some((emit, template)) = output else {
            return self.drop(ingress, DropReason::NoDestination, packet);
        };
        let wrapped = match retag(&mut packet, emit.tag) {
            Some(()) => template.wrap(&mut packet),
            None => Err(DropReason::Malformed),
        };
        match wrapped {
            Ok(bytes) => {
                let tunnel = self.counters.port(emit.port);
                tunnel.tx_packets.add(1);
                tunnel.tx_bytes.add(bytes as u64);
                let uplink = template.uplink;
                self.send(uplink, packet, ingress);
            }
            Err(reason) => self.drop(ingress, reason, packet),
        }
    }

    /// Keeps a packet until its tunnel's next hop is known, and asks for that.
    #[cold]
    fn hold(&mut self, (tunnel, key): (PortId, u32), packet: Packet, ingress: PortId) {
        let deadline = Duration::from_secs(u64::from(self.second)) + HELD_FOR;
        if let Err(packet) = self.held.put(Waiting { tunnel, key, ingress, deadline, packet }) {
            // Those that wait have asked: a flood does not keep the control thread busy.
            return self.drop(ingress, DropReason::NeighbourUnresolved, packet);
        }
        self.counters.worker.held.set(self.held.len() as u64);
        // Full means that many are asked for already.
        let _ = self.shared.wanted.push(tunnel);
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
        let port = self.snapshot.port(waiting.tunnel).ok_or(DropReason::PortRemoved)?;
        let tunnel = port.spec.tunnel().ok_or(DropReason::PortRemoved)?;
        if !port.spec.up {
            return Err(DropReason::TxPortDown);
        }
        let template = Template::new(tunnel, waiting.key).ok_or(DropReason::TunnelNoRoute)?;
        let bytes = waiting.packet.total_len() as u64;
        template.wrap(&mut waiting.packet)?;
        let counters = self.counters.port(waiting.tunnel);
        counters.tx_packets.add(1);
        counters.tx_bytes.add(bytes);
        Ok(template.uplink)
    }

    /// Counts a packet as dropped, and frees it.
    #[inline]
    pub fn drop(&mut self, port: PortId, reason: DropReason, packet: Packet) {
        self.counters.port(port).drop(reason);
        self.frames.free(packet);
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
            let sent = queue.tx_burst(&mut self.frames, batch, &mut self.drops);
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
            None => discard(batch, DropReason::PortRemoved, port, &mut self.frames, &self.counters),
        }
    }
}
