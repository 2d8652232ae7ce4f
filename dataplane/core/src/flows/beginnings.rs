//! What first packets of connections do, by what of them matters apart from which connection they begin.
//!
//! A packet that begins a connection walks, and its own flow isn't cached: the next packet of it sees another state. But
//! all that begin one in the same zone, and differ in nothing that a rule reads, walk the same way. So what the first of
//! them did is kept, under its key without what tracking alone reads ([`crate::masks::Seen::apart`]). The next one has its
//! connection made at once ([`weft_conntrack::Connections::begin`]), and does the same.
//!
//! Always true: an entry's walk met no connection and nothing that was expected, in one zone; so it is for packets of which
//! the tracker says the same. Any other walks. Entries are made under the masks of one snapshot, and go with it.
//!
//! Owner: one worker's lane.

use weft_conntrack::{Commit, Facts};
use weft_io::Packet;
use weft_wire::Protocol;

use crate::cache::{Cache, Flow, Inserted, KeyHash, Place};
use crate::connection::{self, WORDS};
use crate::facts;
use crate::forward::{Decision, Forwarder};
use crate::key::Ingress;
use crate::verdict::Begun;

/// How many kinds of first packets are known.
const KINDS: usize = 4096;

/// See the module's text.
#[derive(Debug)]
pub struct Beginnings<const W: usize, const L: usize> {
    /// By masked key.
    pub cache: Cache<W, L>,
    /// How those at each place begin.
    begun: Vec<Begun>,
    /// The zone of the last one, if the last burst had any: more will come.
    zone: Option<u16>,
    /// The snapshot whose masks they are under.
    generation: u64,
    /// The bucket at which the next sweep starts.
    swept: usize,
}

impl<const W: usize, const L: usize> Beginnings<W, L> {
    /// None; flows without connections have none ever.
    pub fn new() -> std::io::Result<Self> {
        let cache = Cache::new(if L == 0 { 1 } else { KINDS })?;
        let begun = vec![Begun::default(); cache.capacity() + 1];
        Ok(Beginnings { cache, begun, zone: None, generation: 0, swept: 0 })
    }

    /// Makes the connection that a packet begins, if others like it have begun theirs. Where it says what else happens.
    pub fn begin(&mut self, key: &[u64; W], packet: &Packet, forward: &mut Forwarder) -> Option<Place> {
        if L == 0 || self.cache.is_empty() || self.generation != forward.snapshot.generation {
            return None;
        }
        let kind = kind(key, forward)?;
        let place = self.cache.find(KeyHash::of(&kind), &kind)?;
        if !self.stands(place, &kind, forward) {
            return None;
        }
        let Begun { zone, mark, label } = *self.begun.get(place as usize)?;
        let facts = first_facts(key, packet)?;
        let commit = Commit { mark, label, ..Commit::default() };
        forward.shared.connections.begin(zone, &facts, &commit, forward.second)?;
        self.zone = Some(zone);
        Some(place)
    }

    /// Whether all that the kind's decision rests on stands.
    fn stands(&mut self, place: Place, kind: &[u64; W], forward: &mut Forwarder) -> bool {
        let Some((flow, compared)) = self.cache.flow_and_compared(place) else { return false };
        let Flow { deps, program, .. } = *flow;
        forward.holds(deps)
            && forward.is_current(program)
            && (!forward.current_has_doubts()
                || compared
                    .get_mut(place as usize)
                    .is_some_and(|compared| forward.has_compared_kind(program, compared, kind)))
    }

    /// A walk has begun a connection: those of its kind will do the same. Where it is kept; its program gets a user.
    pub fn put(
        &mut self,
        key: &[u64; W],
        begun: Begun,
        decision: &Decision,
        forward: &mut Forwarder,
    ) -> Option<Place> {
        if L == 0 {
            return None;
        }
        if self.generation != forward.snapshot.generation {
            self.clear(forward);
            self.generation = forward.snapshot.generation;
        }
        let kind = kind(key, forward)?;
        let hash = KeyHash::of(&kind);
        let (place, replaced) = match self.cache.find(hash, &kind) {
            Some(place) => (place, self.cache.flow(place).map(|flow| flow.program)),
            None => {
                let port = forward.budget.serving();
                let Inserted { place, victim, .. } = self.cache.insert((hash, &kind), (port, forward.second));
                (place, victim)
            }
        };
        if let Some(replaced) = replaced {
            forward.release(replaced);
        }
        if place == self.cache.spare() {
            return None;
        }
        let flow = self.cache.flow(place)?;
        *flow = Flow { program: decision.program, deps: decision.deps, ..*flow };
        if let Some(own) = self.begun.get_mut(place as usize) {
            *own = begun;
        }
        if let Some(compared) = self.cache.compared(place) {
            *compared = forward.programs.hot(decision.program).map_or(0, |hot| hot.doubt);
        }
        self.zone = Some(begun.zone);
        Some(place)
    }

    /// Looks at `buckets` of them, and forgets those that don't stand.
    pub fn sweep(
        &mut self,
        buckets: usize,
        forward: &mut Forwarder,
        stands: impl Fn(&Flow<W, L>, &mut Forwarder) -> bool,
    ) {
        if self.generation != forward.snapshot.generation {
            return self.clear(forward);
        }
        self.swept = self.cache.sweep(self.swept, buckets, |flow, compared| {
            let keeps = stands(flow, forward) && forward.has_compared_kind(flow.program, compared, &flow.key);
            if !keeps {
                forward.release(flow.program);
            }
            keeps
        });
    }

    fn clear(&mut self, forward: &mut Forwarder) {
        let buckets = self.cache.buckets();
        if !self.cache.is_empty() {
            self.cache.sweep(0, buckets, |flow, _| {
                forward.release(flow.program);
                false
            });
        }
    }

    /// Another burst starts: in which zone its unknown packets may begin connections, if they are as those of the last one.
    pub fn likely_zone(&mut self) -> Option<u16> {
        self.zone.take()
    }
}

/// Brings near where the packet's connection will be.
#[inline]
pub fn prefetch<const W: usize>(key: &[u64; W], zone: u16, forward: &Forwarder) {
    if let Some(tuple) = key.first_chunk().and_then(connection::tuple_of_words) {
        forward.shared.connections.prefetch_tuple(zone, &tuple);
    }
}

/// The key without what tracking alone reads.
fn kind<const W: usize>(key: &[u64; W], forward: &Forwarder) -> Option<[u64; W]> {
    let mask = forward.snapshot.mask_apart(Ingress::of_word(*key.first()?))?;
    let mut kind = *key;
    kind.iter_mut().zip(&mask.0).for_each(|(word, bits)| *word &= bits);
    Some(kind)
}

/// What the tracker is told of a packet that nothing has changed yet; `None` if it can't be an ordinary first one.
fn first_facts<const W: usize>(key: &[u64; W], packet: &Packet) -> Option<Facts> {
    let words: &[u64; WORDS] = key.first_chunk()?;
    let tuple = connection::tuple_of_words(words).filter(|tuple| tuple.is_trackable())?;
    let tcp = if tuple.protocol == Protocol::TCP.0 { Some(facts::segment(packet)?) } else { None };
    Some(Facts { tuple, tcp, inner: None, valid: true })
}
