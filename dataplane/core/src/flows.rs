//! The flows of one key width: those that are cached, and what a packet does that has none.
//!
//! A flow is a hit if it has the packet's key, and all that it depends on stands. Three things are asked in turn: the
//! FDB entries that it was chosen by (epochs), its program (published things and rules), and its connections. Asking a
//! connection is taking part in it: it keeps the packet's window and its own age. So it is asked last, and a packet that
//! changes what rules can see of its connection is no hit.
//!
//! What a walk finds is cached, unless it is for this packet only: one that begins a connection, say. Then the next packet
//! walks as well, and no other flow is pushed out of the cache for this one.
//!
//! Owner: one worker's lane.

use bytemuck::Zeroable;
use weft_conntrack::Link;
use weft_io::Packet;
use weft_wire::DropReason;

use crate::cache::{Cache, Flow, KeyHash, LINKS, Place};
use crate::forward::{Decision, Forwarder};
use crate::key::FlowKey;

/// See the module's text.
#[derive(Debug)]
pub struct Flows<const W: usize, const L: usize> {
    /// Those that are cached.
    pub cache: Cache<W, L>,
    /// What the last packet did whose decision was for it alone.
    once: Flow<W, L>,
    /// Whether there may be flows with connections among them.
    pub tracks: bool,
}

impl<const W: usize, const L: usize> Flows<W, L> {
    /// None, with room for `flows`.
    pub fn new(flows: usize) -> std::io::Result<Self> {
        Ok(Flows { cache: Cache::new(flows)?, once: Flow::zeroed(), tracks: false })
    }

    /// The flow at this place, if it is the packet's.
    #[inline(always)]
    pub fn hit(
        &mut self,
        place: Place,
        key: &[u64; W],
        packet: &Packet,
        forward: &mut Forwarder,
    ) -> Option<&mut Flow<W, L>> {
        let flow = self.cache.flow(place)?;
        if stands(flow, key, forward) && forward.steps(&flow.links, packet) { Some(flow) } else { None }
    }

    /// The flow isn't cached, or is stale, or was cached within this burst: walks the pipeline if need be, and caches what
    /// it says. The error is a drop that is not cached.
    #[cold]
    #[inline(never)]
    pub fn miss(
        &mut self,
        hash: KeyHash,
        key: &[u64; W],
        packet: &Packet,
        forward: &mut Forwarder,
    ) -> Result<&mut Flow<W, L>, DropReason> {
        let known = self.cache.find(hash, key);
        if let Some(place) = known
            && let Some(flow) = self.cache.flow(place)
            && (stands(flow, key, forward) || is_spared(flow, key, forward))
            && forward.steps(&flow.links, packet)
        {
            return self.at(place);
        }
        let decision = forward.walk(&widened(key), packet)?;
        match links_of(&decision) {
            Some(links) => {
                let place = self.place(hash, known, key, forward);
                if let Some(flow) = self.cache.flow(place) {
                    *flow = Flow { program: decision.program, deps: decision.deps, links, ..*flow };
                }
                self.tracks |= links.iter().any(|&link| link != Link::NONE);
                self.at(place)
            }
            None => {
                forward.keep(decision.program);
                // Its counts go to the program; the second that it is of keeps nobody young whom the walk has not.
                let stamp = forward.second;
                self.once = Flow { program: decision.program, stamp, ..Flow::zeroed() };
                self.once.links.iter_mut().zip(decision.links).for_each(|(place, link)| *place = link);
                Ok(&mut self.once)
            }
        }
    }

    fn at(&mut self, place: Place) -> Result<&mut Flow<W, L>, DropReason> {
        // The place is one of the cache's own.
        self.cache.flow(place).ok_or(DropReason::NoBridge)
    }

    /// Where the flow is, or shall be.
    fn place(
        &mut self,
        hash: KeyHash,
        known: Option<Place>,
        key: &[u64; W],
        forward: &mut Forwarder,
    ) -> Place {
        let counters = &forward.counters.worker;
        let (place, replaced) = match known {
            Some(place) => {
                counters.stale.add(1);
                (place, self.cache.flow(place).map(|flow| flow.program))
            }
            None => {
                let (place, victim) = self.cache.insert(hash, key);
                counters.evicted.add(u64::from(victim.is_some()));
                (place, victim)
            }
        };
        if let Some(replaced) = replaced {
            forward.release(replaced);
        }
        place
    }
}

/// Compares keys without a call: that of 72 octets would be one.
#[inline(always)]
fn is_same<const W: usize>(one: &[u64; W], other: &[u64; W]) -> bool {
    one.iter().zip(other).fold(0, |difference, (one, other)| difference | one ^ other) == 0
}

/// Whether the flow is the key's, and all that it depends on stands but its connections.
#[inline(always)]
fn stands<const W: usize, const L: usize>(
    flow: &Flow<W, L>,
    key: &[u64; W],
    forward: &mut Forwarder,
) -> bool {
    let epochs = &forward.shared.epochs;
    is_same(&flow.key, key)
        && epochs.holds(flow.deps[0])
        && epochs.holds(flow.deps[1])
        && forward.is_current(flow.program)
}

/// Whether rules have changed, but none that the flow goes by: then it has a program that says so.
fn is_spared<const W: usize, const L: usize>(
    flow: &mut Flow<W, L>,
    key: &[u64; W],
    forward: &mut Forwarder,
) -> bool {
    if !flow.deps.iter().all(|&dep| forward.shared.epochs.holds(dep)) {
        return false;
    }
    let Some(program) = forward.reprieve(flow.program, &widened(key)) else { return false };
    forward.release(std::mem::replace(&mut flow.program, program));
    true
}

/// What a flow that lasts is to have; `None` if it is for one packet only. A flow without room for connections whose mask
/// doesn't read what they are told apart by has none.
fn links_of<const L: usize>(decision: &Decision) -> Option<[Link; L]> {
    let fits = decision.links.iter().skip(L).all(|&link| link == Link::NONE);
    let mut links = [Link::NONE; L];
    links.iter_mut().zip(decision.links).for_each(|(place, link)| *place = link);
    (decision.lasts && fits && L <= LINKS).then_some(links)
}

fn widened<const W: usize>(key: &[u64; W]) -> FlowKey {
    let mut full = FlowKey::default();
    full.0.iter_mut().zip(key).for_each(|(word, read)| *word = *read);
    full
}
