//! The burst's phases *key*, *probe* and *act*, over keys of one width.
//!
//! Each phase calls for the memory that the next one needs, some packets before it does. Between a packet's phases its key, hash
//! and place are kept in the lane; the packet stays where it was received until it is known where it goes.
//!
//! A worker has three lanes: a narrow one for ports whose policy reads Ethernet, VLAN and tunnel only, a middle one for
//! most others, and a wide one for those that read MPLS, flow labels, ARP's and ND's hardware addresses or a tunnel's own
//! fields. Same code, other width, other cache. A port takes the narrowest that its mask fits.

use std::sync::Arc;

use weft_conntrack::{Connections, Link};
use weft_io::{BURST, Burst, Packet, unload};
use weft_wire::DropReason;

use crate::cache::{Cache, Flow, KeyHash, Place};
use crate::decap::{TUNNEL_WORDS, Vteps};
use crate::flows::{Flows, beginnings, widened};
use crate::forward::Forwarder;
use crate::key::{Ingress, KeyMask, MIDDLE, NARROW, PortId};
use crate::parse;
use crate::snapshot::Snapshot;

/// A cache for keys of `W` words and flows of `L` connections, and its per-burst scratch. See the module's text.
#[derive(Debug)]
pub struct Lane<const W: usize, const L: usize> {
    /// The flows.
    pub flows: Flows<W, L>,
    keys: [[u64; W]; BURST],
    hashes: [KeyHash; BURST],
    /// Behind the burst's own there are some that say nothing.
    found: [Found; BURST + AHEAD],
}

/// How many packets *probe* is behind *key*: while so many are parsed a bucket comes from the memory.
const LAG: usize = 20;
/// How many packets connections are called for ahead of *act*.
const AHEAD: usize = 12;

/// Buckets that a sweep looks at: some ten microseconds' work. Ten sweeps a second see every flow in half a minute while there are few,
/// in under four minutes when a cache is full.
const SWEEP: usize = 32;
/// Seconds without a packet after which a flow is forgotten.
const IDLE: u32 = 300;

/// The outcome of the phases *key* and *probe* for one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    /// Not yet asked: in this bucket, if it is there.
    Bucket(u32),
    /// Perhaps this flow's.
    Candidate(Place),
    /// No flow's.
    Nothing,
    /// No packet to be switched.
    Broken(DropReason),
}

impl<const W: usize, const L: usize> Lane<W, L> {
    /// A lane whose cache has room for `flows` flows.
    pub fn new(flows: usize) -> std::io::Result<Box<Self>> {
        let flows = Flows::new(flows)?;
        let (keys, hashes, found) =
            ([[0; W]; BURST], [KeyHash::default(); BURST], [Found::Nothing; BURST + AHEAD]);
        Ok(Box::new(Lane { flows, keys, hashes, found }))
    }

    /// Takes out some of the flows that are stale or idle: nobody would find them otherwise, and each keeps a program.
    pub fn sweep(&mut self, forward: &mut Forwarder) {
        forward.forget_current();
        let shared = Arc::clone(&forward.shared);
        let (second, published) = (forward.second, forward.published);
        let stands = |flow: &Flow<W, L>, forward: &mut Forwarder| {
            forward.programs.dispel(flow.program, (forward.maintenance, forward.swept_since));
            second.saturating_sub(flow.stamp) < IDLE
                && flow.deps.iter().all(|&dep| shared.epochs.holds(dep))
                && flow.links.iter().all(|&link| shared.connections.holds(link, second))
                && forward.programs.valid(flow.program, &shared.epochs, published)
        };
        self.flows.cache.sweep(SWEEP, forward.maintenance, |flow, compared| {
            let keeps = stands(flow, forward) && forward.has_compared(flow.program, compared, &flow.key);
            if !keeps {
                forward.release(flow.program);
            }
            keeps
        });
        self.flows.beginnings.sweep(SWEEP, forward, stands);
    }

    /// Every flow that there is has been looked at by a sweep since that maintenance.
    pub fn swept_since(&self) -> u64 {
        self.flows.cache.swept_since().min(self.flows.beginnings.swept_since())
    }

    /// Switches a burst from a bridge port.
    // A function of its own for each width: the loops of one don't push the others' numbers out of registers.
    #[inline(never)]
    pub fn switch(&mut self, burst: &mut Burst, port: PortId, mask: &KeyMask, forward: &mut Forwarder) {
        let mask = mask.first_words();
        let ingress = Ingress::port(port);
        let lengths = lengths(&mask, forward);
        let read = Read { mask: &mask, lengths: lengths.as_deref() };
        self.look_up(burst, forward, |packet, key| {
            read.key(packet, (ingress, [0; 2]), key).ok_or(DropReason::RxTruncated)
        });
        self.prefetch_beginnings(burst.len(), forward);
        self.act(burst, port, forward);
    }

    /// Switches a burst from an uplink: outer headers come off first.
    #[inline(never)]
    pub fn switch_tunneled(
        &mut self,
        burst: &mut Burst,
        uplink: PortId,
        vteps: &Vteps,
        forward: &mut Forwarder,
    ) {
        let snapshot = Arc::clone(&forward.snapshot);
        self.look_up(burst, forward, |packet, key| {
            let outer = vteps.strip(packet)?;
            let mask = vteps.mask(outer.vtep).first_words();
            let tunnel = if W > MIDDLE { vteps.words(&outer) } else { [outer.word(), 0] };
            let read = Read { mask: &mask, lengths: Some(&snapshot) };
            read.key(packet, (outer.ingress(), tunnel), key).ok_or(DropReason::RxTruncated)
        });
        self.prefetch_beginnings(burst.len(), forward);
        self.act(burst, uplink, forward);
    }

    /// Phases *key* and *probe*, the second [`LAG`] packets behind the first: what *key* asks the memory for is there when *probe*
    /// needs it, and *probe*, which hardly computes, asks for more while *key* computes.
    #[inline(always)]
    fn look_up(
        &mut self,
        burst: &mut Burst,
        forward: &Forwarder,
        mut key_of: impl FnMut(&mut Packet, &mut [u64; W]) -> Result<KeyHash, DropReason>,
    ) {
        let (packets, doubts) = (burst.len(), forward.programs.have_doubts());
        let mut trains = [(KeyHash::default(), Found::Nothing); 2];
        for (at, packet) in burst.iter_mut().enumerate() {
            self.key(at, |key| key_of(packet, key));
            self.probe(at.wrapping_sub(LAG), doubts, &mut trains);
        }
        (packets.saturating_sub(LAG)..packets).for_each(|at| self.probe(at, doubts, &mut trains));
        self.found.iter_mut().skip(packets).take(AHEAD).for_each(|found| *found = Found::Nothing);
    }

    /// Phase *key*: parse, mask, hash, and bring the bucket near.
    #[inline(always)]
    fn key(&mut self, at: usize, read: impl FnOnce(&mut [u64; W]) -> Result<KeyHash, DropReason>) {
        let (Some(key), Some(hash), Some(found)) =
            (self.keys.get_mut(at), self.hashes.get_mut(at), self.found.get_mut(at))
        else {
            return;
        };
        *found = match read(key) {
            Ok(read) => {
                *hash = read;
                Found::Bucket(self.flows.cache.prefetch(read))
            }
            Err(reason) => Found::Broken(reason),
        };
    }

    /// Phase *probe*: compare the bucket's tags, and bring the flow near. Packets of one flow, and of the two directions of a
    /// connection, come in trains: what was found for the last two is at hand.
    #[inline(always)]
    fn probe(&mut self, at: usize, doubts: bool, [last, before]: &mut [(KeyHash, Found); 2]) {
        let (Some(&hash), Some(found)) = (self.hashes.get(at), self.found.get_mut(at)) else { return };
        let Found::Bucket(bucket) = *found else { return };
        if hash != last.0 {
            std::mem::swap(last, before);
        }
        if hash != last.0 || last.1 == Found::Nothing {
            let place = self.flows.cache.candidate(bucket, hash);
            *last = (hash, place.map_or(Found::Nothing, Found::Candidate));
            if doubts && let Some(place) = place {
                self.flows.cache.prefetch_compared(place);
            }
        }
        *found = last.1;
    }

    /// The same for packets without a flow, where the last burst's began connections.
    #[inline(always)]
    fn prefetch_beginnings(&mut self, packets: usize, forward: &Forwarder) {
        if L == 0 {
            return;
        }
        let Some(zone) = self.flows.beginnings.likely_zone() else { return };
        for (key, found) in self.keys.iter().zip(&self.found).take(packets) {
            if *found == Found::Nothing {
                beginnings::prefetch(key, zone, forward);
            }
        }
    }

    /// Phase *act*: packet by packet, in order: compare key and epochs, count, and do what the program says.
    #[inline(always)]
    fn act(&mut self, burst: &mut Burst, port: PortId, forward: &mut Forwarder) {
        forward.forget_current();
        let mut intake = forward.intake(port);
        let (packets, mut hits) = (burst.len() as u32, 0);
        let (before, ahead) = self.found.split_at(AHEAD);
        let tracks = L > 0 && self.flows.tracks;
        if tracks {
            before
                .iter()
                .for_each(|&found| connect(found, &mut self.flows.cache, &forward.shared.connections));
        }
        let slots = self.keys.iter().zip(&self.hashes).zip(&self.found).zip(ahead);
        for (packet, (((key, &hash), &found), &ahead)) in unload(burst).zip(slots) {
            if tracks {
                connect(ahead, &mut self.flows.cache, &forward.shared.connections);
            }
            let hit = match found {
                Found::Candidate(place) => self.flows.hit(place, key, &packet, forward),
                Found::Nothing | Found::Bucket(_) => None,
                Found::Broken(reason) => {
                    forward.drop(port, reason, packet.take());
                    continue;
                }
            };
            hits += u32::from(hit.is_some());
            let flow = match hit {
                Some(flow) => flow,
                None => match self.flows.miss((hash, key), &packet, forward, &mut intake) {
                    Ok(flow) => flow,
                    Err(ended) => {
                        forward.end(ended, packet.take(), (&widened(key), port));
                        continue;
                    }
                },
            };
            let bytes = packet.total_len();
            flow.packets += 1;
            flow.bytes += bytes as u64;
            if flow.stamp != forward.second {
                flow.stamp = forward.second;
                forward.shared.epochs.stamp(flow.deps[0].cell, forward.second);
            }
            forward.run(flow.program, &flow.links, packet, (port, bytes));
        }
        intake.note(packets, hits);
        forward.put_intake(port, intake);
        self.flows.cache.make_room();
    }
}

/// Where connections are tracked: brings a packet's near. Its flow has been on its way for a while.
#[inline(always)]
fn connect<const W: usize, const L: usize>(found: Found, cache: &mut Cache<W, L>, connections: &Connections) {
    if let Found::Candidate(place) = found
        && let Some(flow) = cache.flow(place)
    {
        flow.links
            .iter()
            .take_while(|&&link| link != Link::NONE)
            .for_each(|&link| connections.prefetch(link));
    }
}

/// What is read of a packet.
#[derive(Clone, Copy)]
struct Read<'a, const W: usize> {
    mask: &'a [u64; W],
    /// What its length is compared with, if that matters.
    lengths: Option<&'a Snapshot>,
}

impl<const W: usize> Read<'_, W> {
    /// Puts the masked key of a packet there and returns its hash; `None` when the packet ends before its Ethernet header or
    /// tag does.
    #[inline(always)]
    fn key(
        &self,
        packet: &Packet,
        (ingress, tunnel): (Ingress, [u64; 2]),
        key: &mut [u64; W],
    ) -> Option<KeyHash> {
        if W <= NARROW {
            // A narrow key needs no length.
            return Some(self.put(parse::any_words(packet.data(), 0, ingress)?, (tunnel, 0), key));
        }
        let total = packet.total_len();
        // Apart from the others, so that what is 0 in every plain packet is neither masked nor hashed.
        match parse::plain(packet.data(), total, ingress) {
            Some(words) => Some(self.put(words, (tunnel, total), key)),
            None => self.other_key(packet, (ingress, tunnel), key),
        }
    }

    /// The same of a packet that is not plain.
    #[inline(never)]
    fn other_key(
        &self,
        packet: &Packet,
        (ingress, tunnel): (Ingress, [u64; 2]),
        key: &mut [u64; W],
    ) -> Option<KeyHash> {
        let total = packet.total_len();
        Some(self.put(parse::any_words(packet.data(), total, ingress)?, (tunnel, total), key))
    }

    /// Puts the words of a packet of `total` octets there, masked, and returns their hash.
    #[inline(always)]
    fn put(&self, mut words: [u64; W], (tunnel, total): ([u64; 2], usize), key: &mut [u64; W]) -> KeyHash {
        for (word, said) in TUNNEL_WORDS.into_iter().zip(tunnel) {
            if let Some(place) = words.get_mut(word) {
                *place = said;
            }
        }
        if let Some(snapshot) = self.lengths
            && let Some(place) = words.get_mut(LENGTH_WORD)
        {
            *place |= snapshot.length_class(total);
        }
        words.iter_mut().zip(self.mask).for_each(|(word, bits)| *word &= bits);
        *key = words;
        KeyHash::of(&words)
    }
}

/// The word whose low 16 bits are the length class.
pub const LENGTH_WORD: usize = 8;

/// The configuration, if it has lengths that a packet with this mask is compared with.
fn lengths<const W: usize>(mask: &[u64; W], forward: &Forwarder) -> Option<Arc<Snapshot>> {
    let reads = mask.get(LENGTH_WORD).is_some_and(|bits| bits & 0xffff != 0);
    reads.then(|| Arc::clone(&forward.snapshot))
}
