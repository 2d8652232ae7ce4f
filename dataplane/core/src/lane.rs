//! The burst's phases *key*, *probe* and *act*, over keys of one width.
//!
//! A worker has three lanes: a narrow one for ports whose policy reads Ethernet, VLAN and tunnel only, a middle one for
//! most others, and a wide one for those that read MPLS, flow labels, ARP's and ND's hardware addresses or a tunnel's own
//! fields. Same code, other width, other cache. A port takes the narrowest that its mask fits.

use std::sync::Arc;

use weft_conntrack::Link;
use weft_io::{BURST, Burst, Packet};
use weft_wire::DropReason;

use crate::cache::{Flow, KeyHash, Place};
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
    found: [Found; BURST],
    /// The bucket at which the next sweep starts.
    swept: usize,
}

/// Buckets that a sweep looks at: some ten microseconds' work. Ten sweeps a second see every flow in under two minutes.
const SWEEP: usize = 32;
/// Seconds without a packet after which a flow is forgotten.
const IDLE: u32 = 300;

/// The outcome of the phases *key* and *probe* for one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
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
        let (keys, hashes, found) = ([[0; W]; BURST], [KeyHash::default(); BURST], [Found::Nothing; BURST]);
        Ok(Box::new(Lane { flows, keys, hashes, found, swept: 0 }))
    }

    /// Takes out some of the flows that are stale or idle: nobody would find them otherwise, and each keeps a program.
    pub fn sweep(&mut self, forward: &mut Forwarder) {
        forward.forget_current();
        let shared = Arc::clone(&forward.shared);
        let (second, published) = (forward.second, forward.published);
        let round = 2 * self.flows.cache.buckets().div_ceil(SWEEP) as u64;
        let stands = |flow: &Flow<W, L>, forward: &mut Forwarder| {
            forward.programs.dispel(flow.program, (forward.maintenance, round));
            second.saturating_sub(flow.stamp) < IDLE
                && flow.deps.iter().all(|&dep| shared.epochs.holds(dep))
                && flow.links.iter().all(|&link| shared.connections.holds(link, second))
                && forward.programs.valid(flow.program, &shared.epochs, published)
        };
        self.swept = self.flows.cache.sweep(self.swept, SWEEP, |flow, compared| {
            let keeps = stands(flow, forward) && forward.has_compared(flow.program, compared, &flow.key);
            if !keeps {
                forward.release(flow.program);
            }
            keeps
        });
        self.flows.beginnings.sweep(SWEEP, forward, stands);
    }

    /// Switches a burst from a bridge port.
    // A function of its own for each width: the loops of one don't push the others' numbers out of registers.
    #[inline(never)]
    pub fn switch(&mut self, burst: &mut Burst, port: PortId, mask: &KeyMask, forward: &mut Forwarder) {
        let mask = mask.first_words();
        let ingress = Ingress::port(port);
        let lengths = lengths(&mask, forward);
        self.key(burst, |packet| {
            let read = Read { mask: &mask, lengths: lengths.as_deref() };
            key_of(packet, ingress, [0; 2], read).ok_or(DropReason::RxTruncated)
        });
        self.probe(burst.len(), forward.programs.have_doubts());
        self.prefetch_connections(burst.len(), forward);
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
        self.key(burst, |packet| {
            let outer = vteps.strip(packet)?;
            let mask = vteps.mask(outer.vtep).first_words();
            let tunnel = if W > MIDDLE { vteps.words(&outer) } else { [outer.word(), 0] };
            let read = Read { mask: &mask, lengths: Some(&snapshot) };
            key_of(packet, outer.ingress(), tunnel, read).ok_or(DropReason::RxTruncated)
        });
        self.probe(burst.len(), forward.programs.have_doubts());
        self.prefetch_connections(burst.len(), forward);
        self.prefetch_beginnings(burst.len(), forward);
        self.act(burst, uplink, forward);
    }

    /// Phase *key*: parse, mask, hash, and bring the bucket near.
    #[inline(always)]
    fn key(
        &mut self,
        burst: &mut Burst,
        mut key_of: impl FnMut(&mut Packet) -> Result<[u64; W], DropReason>,
    ) {
        let slots = self.keys.iter_mut().zip(&mut self.hashes).zip(&mut self.found);
        for (packet, ((key, hash), found)) in burst.iter_mut().zip(slots) {
            *found = match key_of(packet) {
                Ok(words) => {
                    *key = words;
                    *hash = KeyHash::of(key);
                    self.flows.cache.prefetch(*hash);
                    Found::Nothing
                }
                Err(reason) => Found::Broken(reason),
            };
        }
    }

    /// Phase *probe*: compare the bucket's tags, and bring the flow near. Packets of one flow, and of the two directions of a
    /// connection, come in trains: what was found for the last two is at hand.
    #[inline(always)]
    fn probe(&mut self, packets: usize, doubts: bool) {
        let [mut last, mut before] = [(KeyHash::default(), Found::Nothing); 2];
        for (hash, found) in self.hashes.iter().zip(&mut self.found).take(packets) {
            if *found != Found::Nothing {
                continue;
            }
            if *hash != last.0 {
                std::mem::swap(&mut last, &mut before);
            }
            if *hash != last.0 || last.1 == Found::Nothing {
                let place = self.flows.cache.candidate(*hash);
                last = (*hash, place.map_or(Found::Nothing, Found::Candidate));
                if doubts && let Some(place) = place {
                    self.flows.cache.prefetch_compared(place);
                }
            }
            *found = last.1;
        }
    }

    /// Between *probe* and *act*, where connections are tracked: bring them near. Their flows are on their way already.
    #[inline(always)]
    fn prefetch_connections(&mut self, packets: usize, forward: &Forwarder) {
        if L == 0 || !self.flows.tracks {
            return;
        }
        let [mut last, mut before] = [Found::Nothing; 2];
        for &found in self.found.iter().take(packets) {
            if found == last || found == before {
                continue;
            }
            if let Found::Candidate(place) = found
                && let Some(flow) = self.flows.cache.flow(place)
            {
                (last, before) = (found, last);
                let links = flow.links.iter().take_while(|&&link| link != Link::NONE);
                links.for_each(|&link| forward.shared.connections.prefetch(link));
            }
        }
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
        let slots = self.keys.iter().zip(&self.hashes).zip(&self.found);
        for (packet, ((key, &hash), &found)) in burst.drain(..).zip(slots) {
            let hit = match found {
                Found::Candidate(place) => self.flows.hit(place, key, &packet, forward),
                Found::Nothing => None,
                Found::Broken(reason) => {
                    forward.drop(port, reason, packet);
                    continue;
                }
            };
            hits += u32::from(hit.is_some());
            let flow = match hit {
                Some(flow) => flow,
                None => match self.flows.miss((hash, key), &packet, forward, &mut intake) {
                    Ok(flow) => flow,
                    Err(ended) => {
                        forward.end(ended, packet, (&widened(key), port));
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
    }
}

/// The masked key of a packet; `None` when it ends before its Ethernet header or tag does.
#[inline(always)]
fn key_of<const W: usize>(
    packet: &Packet,
    ingress: Ingress,
    tunnel: [u64; 2],
    Read { mask, lengths }: Read<'_, W>,
) -> Option<[u64; W]> {
    // A narrow key needs no length.
    let total = if W > NARROW { packet.total_len() } else { 0 };
    let mut key = parse::words::<W>(packet.data(), total, ingress)?;
    for (word, said) in TUNNEL_WORDS.into_iter().zip(tunnel) {
        if let Some(place) = key.get_mut(word) {
            *place = said;
        }
    }
    if let Some(snapshot) = lengths
        && let Some(place) = key.get_mut(LENGTH_WORD)
    {
        *place |= snapshot.length_class(total);
    }
    key.iter_mut().zip(mask).for_each(|(word, bits)| *word &= bits);
    Some(key)
}

/// What is read of a packet.
#[derive(Clone, Copy)]
struct Read<'a, const W: usize> {
    mask: &'a [u64; W],
    /// What its length is compared with, if that matters.
    lengths: Option<&'a Snapshot>,
}

/// The word whose low 16 bits are the length class.
pub const LENGTH_WORD: usize = 8;

/// The configuration, if it has lengths that a packet with this mask is compared with.
fn lengths<const W: usize>(mask: &[u64; W], forward: &Forwarder) -> Option<Arc<Snapshot>> {
    let reads = mask.get(LENGTH_WORD).is_some_and(|bits| bits & 0xffff != 0);
    reads.then(|| Arc::clone(&forward.snapshot))
}
