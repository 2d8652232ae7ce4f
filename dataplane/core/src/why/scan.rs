//! The cached flows of a subject: those whose packets are dropped, and those that leave, added up by what is done to them.
//!
//! A scan looks at `PIECE` buckets a round, so that packets don't wait for it: caches of the least size take some 400 rounds. It
//! finds flows that packets still find; those that it has passed when they come are for the next question.

use std::net::Ipv4Addr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam::channel::Sender;
use hashbrown::HashMap;
use weft_flow::{FlowKey, KeyMask};
use weft_wire::DropReason;

use super::{Question, Sample, Subject};
use crate::cache::{Cache, Flow};
use crate::flows::widened;
use crate::forward::Forwarder;
use crate::key::{Ingress, PortId, Width};
use crate::listing::{mask_of, standing};
use crate::snapshot::BridgeId;
use crate::tables::{Rule, TableId};

/// Buckets that are looked at in a round: some ten microseconds' work.
const PIECE: usize = 64;
/// Rows of an answer, of each kind.
pub const ROWS: usize = 64;
/// Outputs that a row names.
pub const OUTPUTS: usize = 4;

/// What there is to say of flows with one outcome.
#[derive(Clone, Debug)]
pub struct FlowSum {
    /// How many flows.
    pub flows: u64,
    /// Their packets, as long as they were cached.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    /// The second of the last one.
    pub second: u32,
    /// The key of the flow that had it.
    pub key: FlowKey,
    /// Which bits of it count.
    pub mask: KeyMask,
}

/// Flows whose packets one look-up has sent to their end, for one reason.
#[derive(Clone, Debug)]
pub struct DroppedFlows {
    /// The port or tunnel that they came in by; [`PortId::NONE`] for tunnel packets that are no tunnel's.
    pub port: PortId,
    /// Why.
    pub reason: DropReason,
    /// Something leaves, but one output was refused.
    pub leaves: bool,
    /// The bridge and table of the last look-up.
    pub looked: Option<(BridgeId, TableId)>,
    /// What it found.
    pub rule: Option<Arc<Rule>>,
    /// How many.
    pub sum: FlowSum,
}

/// Where packets leave.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Output {
    /// The port.
    pub port: PortId,
    /// The key, if it is a tunnel.
    pub key: Option<u32>,
    /// The other end, if it is a tunnel that leaves it to the flow.
    pub remote: Option<Ipv4Addr>,
}

/// Flows whose packets leave by the same ports.
#[derive(Clone, Debug)]
pub struct SentFlows {
    /// The port or tunnel that they came in by.
    pub port: PortId,
    /// Where they leave: the first ports.
    pub outputs: ArrayVec<Output, OUTPUTS>,
    /// Further ports.
    pub further: usize,
    /// How many.
    pub sum: FlowSum,
}

/// The answer.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What is dropped.
    pub dropped: Vec<DroppedFlows>,
    /// What leaves.
    pub sent: Vec<SentFlows>,
    /// Flows that were of too many kinds.
    pub left_out: u64,
    /// Dropped packets since the last answer.
    pub samples: Vec<Sample>,
}

impl FlowSum {
    /// Adds others of the same outcome.
    pub fn add(&mut self, other: &FlowSum) {
        self.flows += other.flows;
        self.packets += other.packets;
        self.bytes += other.bytes;
        if other.second > self.second {
            (self.second, self.key, self.mask) = (other.second, other.key, other.mask);
        }
    }
}

impl DroppedFlows {
    fn is_like(&self, other: &DroppedFlows) -> bool {
        let rule = |of: &DroppedFlows| of.rule.as_ref().map(Arc::as_ptr);
        (self.port, self.reason, self.leaves, self.looked, rule(self))
            == (other.port, other.reason, other.leaves, other.looked, rule(other))
    }
}

impl Found {
    /// Adds what another worker has found.
    pub fn add(&mut self, other: Found) {
        for row in other.dropped {
            match self.dropped.iter_mut().find(|known| known.is_like(&row)) {
                Some(known) => known.sum.add(&row.sum),
                None => self.dropped.push(row),
            }
        }
        for row in other.sent {
            let like = |known: &&mut SentFlows| (known.port, &known.outputs) == (row.port, &row.outputs);
            match self.sent.iter_mut().find(like) {
                Some(known) => known.sum.add(&row.sum),
                None => self.sent.push(row),
            }
        }
        self.left_out += other.left_out;
        self.samples.extend(other.samples);
    }
}

/// Flows that are one row of the answer.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Kind {
    Dropped(PortId, DropReason, bool, Option<(BridgeId, TableId)>, usize),
    Sent(PortId, ArrayVec<Output, OUTPUTS>),
}

/// A scan under way. See the module's text.
#[derive(Debug)]
pub struct Scan {
    subject: Arc<Subject>,
    reply: Sender<Found>,
    /// Which cache it is in, and its next bucket.
    at: (Width, usize),
    rows: HashMap<Kind, usize, foldhash::fast::FixedState>,
    found: Found,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Kind")
    }
}

impl Scan {
    /// Of all caches, from the first bucket on.
    pub fn new(question: Question) -> Box<Scan> {
        let Question { subject, reply, .. } = question;
        let (rows, found) = (HashMap::default(), Found::default());
        Box::new(Scan { subject, reply, at: (Width::Narrow, 0), rows, found })
    }

    /// Which cache is to be looked at next.
    pub fn width(&self) -> Width {
        self.at.0
    }

    /// Looks at one piece of that cache. Whether that was the last one of all.
    pub fn go_on<const W: usize, const L: usize>(
        &mut self,
        cache: &Cache<W, L>,
        forward: &mut Forwarder,
    ) -> bool {
        let (width, bucket) = self.at;
        for flow in cache.part(bucket, PIECE) {
            self.look_at(flow, forward, width);
        }
        // What is empty needs no looking at.
        let next = if cache.is_empty() { cache.buckets() } else { bucket + PIECE };
        self.at = match width {
            _ if next < cache.buckets() => (width, next),
            Width::Narrow => (Width::Middle, 0),
            Width::Middle => (Width::Wide, 0),
            Width::Wide => return true,
        };
        false
    }

    /// Gives the answer.
    pub fn finish(mut self, forward: &mut Forwarder) {
        self.found.samples = forward.watches.take(&self.subject);
        // Whoever asked may have given up.
        let _ = self.reply.send(self.found);
    }

    fn look_at<const W: usize, const L: usize>(
        &mut self,
        flow: &Flow<W, L>,
        forward: &mut Forwarder,
        width: Width,
    ) {
        let key = widened(&flow.key);
        let Some(program) = forward.programs.get(flow.program) else { return };
        let by = Ingress::of(&key).decode().ok();
        let port = program.verdict.ingress.or(by).unwrap_or(PortId::NONE);
        let mask = mask_of(&forward.snapshot, Ingress::of(&key)).0;
        if !self.subject.concerns(port, &key, &mask) {
            return;
        }
        let Some(mask) = standing(forward, flow, (&key, width)) else { return };
        let (packets, bytes, second) = (flow.packets, flow.bytes, flow.stamp);
        let sum = FlowSum { flows: 1, packets, bytes, second, key, mask };
        self.enter(port, flow.program, (forward, sum));
    }

    fn enter(&mut self, port: PortId, program: u32, (forward, sum): (&Forwarder, FlowSum)) {
        let Some(program) = forward.programs.get(program) else { return };
        let verdict = &program.verdict;
        let leaves = program.drops().is_none();
        if let Some(reason) = program.drops().or(verdict.drop) {
            let decider = verdict.decider();
            let looked = decider.as_ref().map(|decider| (decider.bridge, decider.table));
            let rule = decider.and_then(|decider| decider.rule);
            let address = rule.map_or(0, |rule| Arc::as_ptr(rule) as usize);
            let row = || DroppedFlows { port, reason, leaves, looked, rule: rule.cloned(), sum: sum.clone() };
            let (rows, list) = (&mut self.rows, &mut self.found.dropped);
            let kind = Kind::Dropped(port, reason, leaves, looked, address);
            self.found.left_out += u64::from(!put(rows, list, (kind, row), |row| row.sum.add(&sum)));
        }
        if leaves {
            let mut emits =
                verdict.emits().map(|emit| Output { port: emit.port, key: emit.key, remote: emit.remote });
            let outputs: ArrayVec<_, OUTPUTS> = emits.by_ref().take(OUTPUTS).collect();
            let further = emits.count();
            let kind = Kind::Sent(port, outputs.clone());
            let row = || SentFlows { port, outputs: outputs.clone(), further, sum: sum.clone() };
            let (rows, list) = (&mut self.rows, &mut self.found.sent);
            self.found.left_out += u64::from(!put(rows, list, (kind, row), |row| row.sum.add(&sum)));
        }
    }
}

/// Adds to the row of that kind, or makes it. Whether there was room.
fn put<T>(
    rows: &mut HashMap<Kind, usize, foldhash::fast::FixedState>,
    list: &mut Vec<T>,
    (kind, make): (Kind, impl FnOnce() -> T),
    add: impl FnOnce(&mut T),
) -> bool {
    if let Some(row) = rows.get(&kind).and_then(|&at| list.get_mut(at)) {
        add(row);
        return true;
    }
    if list.len() >= ROWS {
        return false;
    }
    rows.insert(kind, list.len());
    list.push(make());
    true
}
