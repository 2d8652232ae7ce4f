//! What a worker has cached of a port's flows, for people to look at.
//!
//! Only flows that packets still find are listed. What is stale waits in the cache until it is swept, and so does what was cached
//! under another mask than today's: its key would be read wrongly.

use weft_flow::Term;
use weft_wire::DropReason;

use crate::cache::{Cache, Flow};
use crate::flows::widened;
use crate::forward::Forwarder;
use crate::key::{FlowKey, Ingress, KeyMask, PortId, Width};
use crate::program::Shape;
use crate::snapshot::Snapshot;
use crate::verdict::Op;

/// A cached flow, for people to look at.
#[derive(Clone, Debug)]
pub struct FlowInfo {
    /// The masked key.
    pub key: FlowKey,
    /// Which of its bits count.
    pub mask: KeyMask,
    /// What is done, in short.
    pub shape: Shape,
    /// What is done, step by step.
    pub ops: Vec<Op>,
    /// What the steps refer to.
    pub terms: Vec<Term>,
    /// Why nothing leaves, or the first output that was refused.
    pub drop: Option<DropReason>,
    /// The tunnel port that its packets came in by.
    pub tunnel: Option<PortId>,
    /// How many rules its packets went through.
    pub rules: usize,
    /// Packets so far.
    pub packets: u64,
    /// Octets so far.
    pub bytes: u64,
    /// The second of the last packet.
    pub stamp: u32,
}

/// Adds a port's flows out of one cache to `flows`, which has `limit` at most.
pub fn list<const W: usize, const L: usize>(
    cache: &Cache<W, L>,
    forward: &mut Forwarder,
    (port, width, limit): (PortId, Width, usize),
    flows: &mut Vec<FlowInfo>,
) {
    let left = limit.saturating_sub(flows.len());
    flows.extend(cache.iter().filter_map(|flow| flow_info(forward, flow, (port, width))).take(left));
}

/// What there is to see of a flow, if it is one of that port and packets find it.
fn flow_info<const W: usize, const L: usize>(
    forward: &mut Forwarder,
    flow: &Flow<W, L>,
    (port, width): (PortId, Width),
) -> Option<FlowInfo> {
    let key = widened(&flow.key);
    let tunnel = forward.programs.hot(flow.program)?.tunnel;
    if Ingress::of(&key) != Ingress::port(port) && tunnel != port {
        return None;
    }
    let mask = standing(forward, flow, (&key, width))?;
    let shape = forward.programs.hot(flow.program)?.shape;
    let program = forward.programs.get(flow.program)?;
    let verdict = &program.verdict;
    Some(FlowInfo {
        key,
        mask,
        shape,
        ops: verdict.ops.clone(),
        terms: verdict.terms.clone(),
        drop: verdict.drop,
        tunnel: verdict.tunnel,
        rules: verdict.rules.len(),
        packets: flow.packets,
        bytes: flow.bytes,
        stamp: flow.stamp,
    })
}

/// Which bits of a flow's key count, if packets still find it.
pub fn standing<const W: usize, const L: usize>(
    forward: &mut Forwarder,
    flow: &Flow<W, L>,
    (key, width): (&FlowKey, Width),
) -> Option<KeyMask> {
    let (epochs, connections) = (&forward.shared.epochs, &forward.shared.connections);
    let stands = flow.deps.iter().all(|&dep| epochs.holds(dep))
        && flow.links.iter().all(|&link| connections.holds(link, forward.second))
        && forward.programs.valid(flow.program, epochs, forward.published);
    let (mask, in_use) = mask_of(&forward.snapshot, Ingress::of(key));
    let readable = in_use == width && key.0.iter().zip(&mask.0).all(|(word, bits)| word & !bits == 0);
    (stands && readable).then_some(mask)
}

/// Which bits of packets that come in there count, and how wide the keys of their flows are.
pub fn mask_of(snapshot: &Snapshot, ingress: Ingress) -> (KeyMask, Width) {
    let mask = snapshot.mask(ingress).copied().unwrap_or_default();
    let is_port = ingress.decode().is_ok();
    (mask, if is_port { mask.width() } else { tunnel_width(snapshot) })
}

/// All packets from tunnels are kept in one cache, for what the widest mask of them needs.
pub fn tunnel_width(snapshot: &Snapshot) -> Width {
    snapshot.vteps.iter().map(|vtep| vtep.mask.width()).max().unwrap_or_default()
}
