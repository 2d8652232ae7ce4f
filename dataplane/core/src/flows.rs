//! The flows of one key width: those that are cached, and what a packet does that has none.
//!
//! A flow is a hit if it has the packet's key, and all that it depends on stands. Three things are asked in turn: the
//! FDB entries that it was chosen by (epochs), its program (published things and rules), and its connections. Asking a
//! connection is taking part in it: it keeps the packet's window and its own age. So it is asked last, and a packet that
//! changes what rules can see of its connection is no hit.
//!
//! What a walk finds is cached, unless it is for this packet only. Then the next packet walks as well, and no other flow is
//! pushed out of the cache for this one. What begins a connection is for this packet only, but those like it learn from it
//! ([`beginnings`]).
//!
//! Owner: one worker's lane.

pub mod beginnings;
mod kinds;

use weft_conntrack::Link;
use weft_io::Packet;
use weft_wire::DropReason;

use crate::cache::{Cache, Flow, Inserted, KeyHash, Place};
use crate::forward::{Decision, Ended, Forwarder};
use crate::intake::Intake;
use crate::key::FlowKey;
use beginnings::Beginnings;

/// See the module's text.
#[derive(Debug)]
pub struct Flows<const W: usize, const L: usize> {
    /// Those that are cached.
    pub cache: Cache<W, L>,
    /// What first packets of connections do.
    pub beginnings: Beginnings<W, L>,
    /// Whether there may be flows with connections among them.
    pub tracks: bool,
}

impl<const W: usize, const L: usize> Flows<W, L> {
    /// None, with room for `flows`.
    pub fn new(flows: usize) -> std::io::Result<Self> {
        Ok(Flows { cache: Cache::new(flows)?, beginnings: Beginnings::new()?, tracks: false })
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
        let (flow, compared) = self.cache.flow_and_compared(place)?;
        let Flow { deps, program, .. } = *flow;
        let stands = flow.is_of(key)
            && forward.holds(deps)
            && forward.is_current(program)
            && (!forward.current_has_doubts()
                || compared
                    .get_mut(place as usize)
                    .is_some_and(|compared| forward.has_compared(program, compared, key)));
        if stands && forward.steps(&flow.links, packet) { Some(flow) } else { None }
    }

    /// The flow isn't cached, or is stale, or was cached within this burst: walks the pipeline if need be, and caches what
    /// it says, if it lasts and the port's intake takes it. The error is that the packet waits, or a drop that is not cached.
    #[cold]
    #[inline(never)]
    pub fn miss(
        &mut self,
        (hash, key): (KeyHash, &[u64; W]),
        packet: &Packet,
        forward: &mut Forwarder,
        intake: &mut Intake,
    ) -> Result<&mut Flow<W, L>, Ended> {
        let known = self.cache.find(hash, key);
        if let Some(place) = known
            && self.hit(place, key, packet, forward).is_some()
        {
            return at(&mut self.cache, place);
        }
        if !forward.budget.grants(known.is_some()) {
            forward.counters.worker.misses.add(1);
            return Err(Ended::Dropped(DropReason::SlowPathLimit));
        }
        match forward.charged(|forward| self.decide((hash, key), known, packet, (forward, intake)))? {
            Found::Flow(place) => at(&mut self.cache, place),
            Found::Kind(place) => at(&mut self.beginnings.cache, place),
        }
    }

    /// What is done with a packet whose flow isn't cached, or no longer stands at `known`.
    fn decide(
        &mut self,
        (hash, key): (KeyHash, &[u64; W]),
        known: Option<Place>,
        packet: &Packet,
        (forward, intake): (&mut Forwarder, &mut Intake),
    ) -> Result<Found, Ended> {
        if let Some(place) = self.beginnings.begin(key, packet, forward) {
            forward.counters.worker.misses.add(1);
            forward.counters.worker.begun.add(1);
            return Ok(Found::Kind(place));
        }
        let decision = forward.walk(&widened(key), packet, None)?;
        if let Some(begun) = decision.begun
            && let Some(place) = self.beginnings.put(key, begun, &decision, forward)
        {
            return Ok(Found::Kind(place));
        }
        let place = match lasts::<L>(&decision) {
            true => self.place((hash, key), known, forward, intake),
            false => self.cache.spare(),
        };
        let spare = place == self.cache.spare();
        if spare {
            // The packet is the only one; the program lingers until it is through.
            forward.release(decision.program);
        }
        if let Some(flow) = self.cache.flow(place) {
            // The spare place has seen other flows: each has to be new there.
            let stamp = if spare { 0 } else { flow.stamp };
            let Decision { program, deps, .. } = decision;
            *flow = Flow { program, deps, stamp, ..*flow };
            flow.links.iter_mut().zip(decision.links).for_each(|(place, link)| *place = link);
            self.tracks |= !spare && flow.links.iter().any(|&link| link != Link::NONE);
        }
        if let Some(compared) = self.cache.compared(place) {
            *compared = forward.programs.hot(decision.program).map_or(0, |hot| hot.doubt);
        }
        Ok(Found::Flow(place))
    }

    /// Where the flow is, or shall be: the spare place if the port's intake doesn't take it.
    fn place(
        &mut self,
        (hash, key): (KeyHash, &[u64; W]),
        known: Option<Place>,
        forward: &mut Forwarder,
        intake: &mut Intake,
    ) -> Place {
        let counters = &forward.counters.worker;
        let (place, replaced) = match known {
            Some(place) => {
                counters.stale.add(1);
                (place, self.cache.flow(place).map(|flow| flow.program))
            }
            None if intake.takes() => {
                let port = forward.budget.serving();
                let Inserted { place, victim, refused } =
                    self.cache.insert((hash, key), (port, forward.second));
                if refused {
                    forward.counters.port(port).flows_refused.add(1);
                }
                counters.evicted.add(u64::from(victim.is_some()));
                counters.uncached.add(u64::from(place == self.cache.spare()));
                if victim.is_some() {
                    intake.pushed_out();
                }
                (place, victim)
            }
            None => {
                counters.uncached.add(1);
                (self.cache.spare(), None)
            }
        };
        if let Some(replaced) = replaced {
            forward.release(replaced);
        }
        place
    }
}

/// Where a miss has found what to do.
#[derive(Clone, Copy, Debug)]
enum Found {
    /// A flow.
    Flow(Place),
    /// What first packets of its kind do.
    Kind(Place),
}

fn at<const W: usize, const L: usize>(
    cache: &mut Cache<W, L>,
    place: Place,
) -> Result<&mut Flow<W, L>, Ended> {
    // The place is one of the cache's own.
    cache.flow(place).ok_or(Ended::Dropped(DropReason::NoBridge))
}

/// Whether the decision is for more than one packet, and a flow has room for what it depends on. One without room for
/// connections, whose mask doesn't read what they are told apart by, has none.
fn lasts<const L: usize>(decision: &Decision) -> bool {
    decision.lasts && decision.links.iter().skip(L).all(|&link| link == Link::NONE)
}

/// The key with all its words.
pub fn widened<const W: usize>(key: &[u64; W]) -> FlowKey {
    let mut full = FlowKey::default();
    full.0.iter_mut().zip(key).for_each(|(word, read)| *word = *read);
    full
}
