//! What first packets of connections do, by what of them matters apart from which connection they begin.
//!
//! A packet that begins a connection walks, and its own flow isn't cached: the next packet of it sees another state. But
//! all that begin one in the same zone, and differ in nothing that a rule tells apart, walk the same way. So what the first of
//! them did is kept, under its *kind*: its key without what tracking alone reads ([`crate::masks::Seen::apart`]), and
//! without addresses and ports that no rule on its way matches (`kinds.rs`). The next one has its connection made at once
//! ([`weft_conntrack::Connections::begin`]), and does the same.
//!
//! A packet between two guarded ports takes part in the connection twice: the receiver's rules ask for it as the sender's do.
//! So does one of its kind, behind the making.
//!
//! Always true: an entry's walk met no connection and nothing that was expected, in one zone, but the one that it has begun; so it
//! is for packets of which the tracker says the same. Any other walks. Entries are made under the masks of one snapshot, and go with it.
//!
//! Owner: one worker's lane.

use weft_conntrack::{Commit, Facts};
use weft_io::Packet;
use weft_wire::Protocol;

use crate::cache::{Cache, Flow, Inserted, KeyHash, Place};
use crate::connection::{self, WORDS};
use crate::facts;
use crate::flows::kinds::{Kinds, Lens};
use crate::forward::{Decision, Forwarder};
use crate::key::{Ingress, KeyMask};
use crate::program::ProgramId;
use crate::verdict::Begun;

/// TCP's flags (RFC 9293, section 3.1).
const SYN: u8 = 0x02;
/// See [`SYN`].
const ACK: u8 = 0x10;
/// How many kinds of first packets are known.
const KINDS: usize = 4096;

/// How first packets of a kind begin.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    begun: Begun,
    /// The number of the kind's lens.
    lens: u32,
}

/// The lens of no kind.
const NO_LENS: u32 = u32::MAX;

/// See the module's text.
#[derive(Debug)]
pub struct Beginnings<const W: usize, const L: usize> {
    /// By masked key.
    pub cache: Cache<W, L>,
    /// How those at each place begin.
    begun: Vec<Entry>,
    kinds: Kinds,
    /// The zone of the last one, if the last burst had any: more will come.
    zone: Option<u16>,
    /// The snapshot whose masks they are under.
    generation: u64,
}

impl<const W: usize, const L: usize> Beginnings<W, L> {
    /// None; flows without connections have none ever.
    pub fn new() -> std::io::Result<Self> {
        let cache = Cache::fixed(if L == 0 { 1 } else { KINDS })?;
        let begun = vec![Entry::default(); cache.capacity() + 1];
        Ok(Beginnings { cache, begun, kinds: Kinds::default(), zone: None, generation: 0 })
    }

    /// Makes the connection that a packet begins, if others like it have begun theirs. Where it says what else happens.
    pub fn begin(&mut self, key: &[u64; W], packet: &Packet, forward: &mut Forwarder) -> Option<Place> {
        if L == 0 || self.cache.is_empty() || self.generation != forward.snapshot.generation {
            return None;
        }
        let (place, kind) = self.find(key, forward)?;
        let Entry { begun, lens } = *self.begun.get(place as usize)?;
        if !self.stands(place, (&kind, lens), forward) {
            // It would hide those that come after it in other lenses.
            self.begun.get_mut(place as usize)?.lens = NO_LENS;
            return None;
        }
        let facts = first_facts(key, packet)?;
        take_part(&facts, &begun, forward)?;
        self.zone = Some(begun.zone);
        Some(place)
    }

    /// Where a packet's kind is, and the kind.
    fn find(&mut self, key: &[u64; W], forward: &Forwarder) -> Option<(Place, [u64; W])> {
        let whole = whole(key, forward)?;
        let Beginnings { cache, begun, kinds, .. } = self;
        let found = kinds.lenses().iter().enumerate().find_map(|(at, lens)| {
            let kind = lens.kind(&whole, key)?;
            let place = cache.find(KeyHash::of(&kind), &kind)?;
            let is_its = begun.get(place as usize).is_some_and(|entry| entry.lens == lens.id);
            is_its.then_some((at, (place, kind)))
        });
        let (at, found) = found?;
        kinds.met(at);
        Some(found)
    }

    /// Whether all that the kind's decision rests on stands.
    fn stands(&mut self, place: Place, (kind, lens): (&[u64; W], u32), forward: &mut Forwarder) -> bool {
        let Some((flow, compared)) = self.cache.flow_and_compared(place) else { return false };
        let Flow { deps, program, .. } = *flow;
        forward.holds(deps)
            && forward.is_current(program)
            && (!forward.current_has_doubts()
                || compared.get_mut(place as usize).is_some_and(|compared| match lens {
                    Lens::WHOLE => forward.has_compared_kind(program, compared, kind),
                    _ => has_no_doubts_since(program, *compared, forward),
                }))
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
        }
        let (kind, lens) = self.kind_of(key, decision, forward)?;
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
            *own = Entry { begun, lens };
        }
        if let Some(compared) = self.cache.compared(place) {
            *compared = forward.programs.hot(decision.program).map_or(0, |hot| hot.doubt);
        }
        self.zone = Some(begun.zone);
        Some(place)
    }

    /// The kind of a packet whose walk this was, and its lens.
    fn kind_of(
        &mut self,
        key: &[u64; W],
        decision: &Decision,
        forward: &Forwarder,
    ) -> Option<([u64; W], u32)> {
        let whole = whole(key, forward)?;
        let apart = mask_apart(key, forward)?;
        let verdict = &forward.programs.get(decision.program)?.verdict;
        let lens = self.kinds.lens_of(verdict, apart);
        let kind = lens.and_then(|lens| Some((lens.kind(&whole, key)?, lens.id)));
        Some(kind.unwrap_or((whole, Lens::WHOLE)))
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
        self.kinds.sweep();
        self.cache.sweep(buckets, forward.maintenance, |flow, compared| {
            let keeps = stands(flow, forward) && has_no_doubts_since(flow.program, *compared, forward);
            if !keeps {
                forward.release(flow.program);
            }
            keeps
        });
    }

    /// Every kind that there is has been looked at by a sweep since that maintenance.
    pub fn swept_since(&self) -> u64 {
        self.cache.swept_since()
    }

    /// Starts anew with the snapshot of now.
    fn clear(&mut self, forward: &mut Forwarder) {
        self.generation = forward.snapshot.generation;
        let buckets = self.cache.buckets();
        self.cache.sweep(buckets, forward.maintenance, |flow, _| {
            forward.release(flow.program);
            false
        });
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
fn whole<const W: usize>(key: &[u64; W], forward: &Forwarder) -> Option<[u64; W]> {
    let mut kind = *key;
    kind.iter_mut().zip(&mask_apart(key, forward)?.0).for_each(|(word, bits)| *word &= bits);
    Some(kind)
}

/// What of packets like this one matters, apart from which connection they begin.
fn mask_apart<'f, const W: usize>(key: &[u64; W], forward: &'f Forwarder) -> Option<&'f KeyMask> {
    forward.snapshot.mask_apart(Ingress::of_word(*key.first()?))
}

/// Whether the program has had no doubts since that one. A kind that leaves addresses out can't be compared with them.
fn has_no_doubts_since(program: ProgramId, compared: u32, forward: &Forwarder) -> bool {
    forward.programs.hot(program).is_some_and(|hot| compared >= hot.doubt)
}

/// Does to the tracker what the walk of such a packet does.
fn take_part(facts: &Facts, begun: &Begun, forward: &Forwarder) -> Option<()> {
    let (connections, second) = (&forward.shared.connections, forward.second);
    let Begun { zone, mark, label, again } = *begun;
    // Asked again, a segment from the middle of a connection is established, a SYN is repeated.
    let stays_new = facts.tcp.is_none_or(|segment| segment.flags & (SYN | ACK) == SYN);
    if again > 0 && !stays_new {
        return None;
    }
    let commit = Commit { mark, label, ..Commit::default() };
    connections.begin_seen(zone, facts, (&commit, again), second).map(drop)
}

/// What the tracker is told of a packet that nothing has changed yet; `None` if it can't be an ordinary first one.
fn first_facts<const W: usize>(key: &[u64; W], packet: &Packet) -> Option<Facts> {
    let words: &[u64; WORDS] = key.first_chunk()?;
    let tuple = connection::tuple_of_words(words).filter(|tuple| tuple.is_trackable())?;
    let tcp = if tuple.protocol == Protocol::TCP.0 { Some(facts::segment(packet)?) } else { None };
    Some(Facts { tuple, tcp, inner: None, valid: true })
}
