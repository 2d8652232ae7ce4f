//! Fragments wait for each other, so that all of them get what their whole packet gets: virtual reassembly.
//!
//! Where: in a walk, when connection tracking meets a fragment. It is held until all of its packet are there; then they are
//! taken out, in the order in which they came, and walk as parts of a packet whose ends, TCP numbers and soundness are
//! known ([`Whole`]). No octet is copied or changed.
//!
//! The rules are those of Open vSwitch's userspace datapath (lib/ipf.c): what came first counts, what overlaps it is refused;
//! a fragment that is not the last has a least size; a packet has 15 seconds from its first fragment on; so many fragments are
//! held. Where it differs: what is refused is dropped (there it goes on as *invalid*); a fragment that covers another entirely
//! overlaps it; one that contradicts the packet's end is refused at once; the ports that packets come in by don't share
//! packets, nor their quota; fragments of a packet are limited in number over IPv6, too.
//!
//! What always holds: what is given in comes out once: refused, taken, expired or drained. Memory is allocated when the table
//! is made, and never after. Look-ups are keyed ([`RandomState`]): nobody aims at a chain.
//!
//! Owner: one worker.

mod piece;
mod settings;

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use weft_conntrack::Facts;
use weft_io::Packet;
use weft_wire::DropReason;

use crate::facts::{self, Layers, each_piece};
use crate::key::{Ingress, PortId, VtepId};
use crate::parse::ip::FRAGMENT_ANY;
use piece::{Key, Piece};
pub use settings::Settings;

/// What a table holds and has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Fragments held now.
    pub held: usize,
    /// Packets that they are of.
    pub packets: usize,
    /// Fragments taken in, since the table was made.
    pub accepted: u64,
    /// Packets of which all fragments came.
    pub completed: u64,
}

/// A packet of which all fragments are there.
#[derive(PartialEq, Eq, Debug)]
pub struct Whole {
    /// What the tracker is told of the whole packet, as if its checksum were known to be right.
    pub facts: Facts,
    /// The length of what IP carries, in octets, without extension headers.
    pub len: usize,
    place: u16,
}

/// Where a fragment comes from. Fragments from different places are never of one packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Origin {
    /// Where it came in.
    pub ingress: Ingress,
    /// What else tells packets apart: tunnel, VLAN, zone.
    pub scope: [u64; 2],
}

/// What became of a fragment.
#[derive(Debug)]
pub enum Outcome<C> {
    /// It waits.
    Held,
    /// It was the last that lacked: [`Fragments::take`] gives them all, this one too.
    Whole(Whole),
    /// It has to be dropped.
    Refused(Packet, C, DropReason),
}

/// The fragments that wait at one worker; `C` is what the caller wants to know of each when it comes out. See the module's
/// text.
#[derive(Debug)]
pub struct Fragments<C> {
    settings: Settings,
    hasher: RandomState,
    slots: Box<[Slot<C>]>,
    free_slot: u16,
    parts: Box<[Parts]>,
    free_parts: u16,
    /// By hash: the first of a chain of `parts`.
    buckets: Box<[u16]>,
    /// Fragments by ingress: ports, then VTEPs.
    by_ingress: Box<[u16]>,
    /// Where the search for expired ones goes on.
    sweep: usize,
    statistics: Statistics,
}

/// No slot, no parts.
const NONE: u16 = u16::MAX;

#[derive(Debug)]
struct Slot<C> {
    held: Option<(Packet, C)>,
    piece: Piece,
    /// The next that came, of the same packet; else the next free slot.
    next: u16,
}

/// The fragments of one packet that are there.
#[derive(Clone, Copy, Debug)]
struct Parts {
    key: Key,
    deadline: Duration,
    /// In the order in which they came; [`NONE`]: these parts are free.
    first: u16,
    last: u16,
    count: u16,
    /// Octets that are there.
    octets: u32,
    /// Octets of the whole, once its last fragment is there.
    total: Option<u32>,
    /// The next of the chain, or the next free one.
    next: u16,
}

impl<C> Fragments<C> {
    /// A table within the bounds of `settings`.
    pub fn new(settings: Settings) -> Self {
        let settings = settings.bounded();
        // Each leads to the next, the last to none.
        let next = |at: u16, len: u16| if at + 1 < len { at + 1 } else { NONE };
        let slot = |at| Slot { held: None, piece: Piece::default(), next: next(at, settings.fragments) };
        let free = |at| Parts { next: next(at, settings.packets), ..Parts::new(Key::NONE, Duration::ZERO) };
        Fragments {
            hasher: RandomState::new(),
            slots: (0..settings.fragments).map(slot).collect(),
            free_slot: 0,
            parts: (0..settings.packets).map(free).collect(),
            free_parts: 0,
            buckets: vec![NONE; usize::from(settings.packets).next_power_of_two()].into(),
            by_ingress: vec![0; PortId::COUNT + VtepId::COUNT].into(),
            sweep: 0,
            statistics: Statistics::default(),
            settings,
        }
    }

    /// Takes a fragment in. `now` is the time since the process's start.
    pub fn put(&mut self, packet: Packet, context: C, origin: Origin, now: Duration) -> Outcome<C> {
        let read = Piece::read(&packet, &self.settings, origin);
        let admitted = read.and_then(|(piece, key)| Ok((piece, self.admit(&piece, key, now)?)));
        let (piece, place) = match admitted {
            Ok(admitted) => admitted,
            Err(reason) => return Outcome::Refused(packet, context, reason),
        };
        if let Err((packet, context)) = self.append(place, piece, (packet, context)) {
            return Outcome::Refused(packet, context, DropReason::FragmentLimit);
        }
        self.count(origin.ingress, 1);
        self.statistics.held += 1;
        self.statistics.accepted += 1;
        let parts = self.parts.get(usize::from(place));
        match parts
            .is_some_and(|parts| parts.total == Some(parts.octets))
            .then(|| self.whole(place))
            .flatten()
        {
            Some(whole) => {
                self.unchain(place);
                self.statistics.completed += 1;
                Outcome::Whole(whole)
            }
            None => Outcome::Held,
        }
    }

    /// The next fragment of a whole packet, in the order in which they came. When there is none left, `whole` is used up.
    pub fn take(&mut self, whole: &Whole) -> Option<(Packet, C)> {
        self.pop(whole.place)
    }

    /// A fragment whose packet has not been completed in time: [`DropReason::FragmentExpired`]. `None` ends one look at all
    /// packets that wait.
    pub fn take_expired(&mut self, now: Duration) -> Option<(Packet, C)> {
        if self.statistics.held == 0 {
            self.sweep = 0;
            return None;
        }
        while let Some(parts) = self.parts.get(self.sweep) {
            let place = self.sweep as u16;
            if parts.first != NONE && parts.deadline <= now {
                self.unchain(place);
                return self.pop(place);
            }
            self.sweep += 1;
        }
        self.sweep = 0;
        None
    }

    /// A fragment of a packet whose first `is` such a one: for those whose origin is no more. `None` if there is none left.
    pub fn take_of(&mut self, is: impl Fn(&C) -> bool) -> Option<(Packet, C)> {
        if self.statistics.held == 0 {
            return None;
        }
        let held = |slot: u16| self.slots.get(usize::from(slot)).and_then(|slot| slot.held.as_ref());
        let is_wanted = |parts: &Parts| held(parts.first).is_some_and(|(_, context)| is(context));
        let place = self.parts.iter().position(is_wanted)? as u16;
        self.unchain(place);
        self.pop(place)
    }

    /// Any fragment, for a worker that ends.
    pub fn drain(&mut self) -> Option<(Packet, C)> {
        self.sweep = 0;
        self.take_expired(Duration::MAX)
    }

    /// What it holds and has done.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// The parts that a fragment belongs to, which may be new.
    fn admit(&mut self, piece: &Piece, key: Key, now: Duration) -> Result<u16, DropReason> {
        let found = self.find(&key, now);
        if let Some(place) = found {
            self.fits(place, piece)?;
        }
        let quota = self.settings.fragments_per_ingress;
        let held = self.by_ingress.get(ingress_index(key.origin.ingress));
        if self.free_slot == NONE || held.is_none_or(|&held| held >= quota) {
            return Err(DropReason::FragmentLimit);
        }
        match found {
            Some(place) => Ok(place),
            None => self.add_parts(key, now).ok_or(DropReason::FragmentLimit),
        }
    }

    /// Whether a fragment agrees with those that are there.
    fn fits(&self, place: u16, piece: &Piece) -> Result<(), DropReason> {
        let Some(parts) = self.parts.get(usize::from(place)) else { return Err(DropReason::FragmentLimit) };
        let mut end = 0;
        for slot in self.pieces(parts.first) {
            if piece.start < slot.piece.end && slot.piece.start < piece.end {
                return Err(DropReason::FragmentOverlap);
            }
            end = end.max(slot.piece.end);
        }
        let beyond = match (parts.total, piece.is_last) {
            (None, true) => piece.end < end,
            (None, false) => false,
            (Some(_), true) => true,
            (Some(total), false) => piece.end >= total,
        };
        if beyond {
            return Err(DropReason::FragmentMalformed);
        }
        if parts.count >= self.settings.fragments_per_packet {
            return Err(DropReason::FragmentTooMany);
        }
        Ok(())
    }

    /// The slots from `first` on.
    fn pieces(&self, first: u16) -> impl Iterator<Item = &Slot<C>> {
        std::iter::successors(self.slots.get(usize::from(first)), |slot| {
            self.slots.get(usize::from(slot.next))
        })
    }

    /// What the whole packet is, all of which is there.
    fn whole(&self, place: u16) -> Option<Whole> {
        let parts = self.parts.get(usize::from(place))?;
        let starts_at = |start: u32| self.pieces(parts.first).find(|slot| slot.piece.start == start);
        let first = starts_at(0)?;
        let (packet, _) = first.held.as_ref()?;
        let layers = Layers::find(packet)?;
        // Extension headers behind the fragment header are not what IP carries.
        let skip = layers.transport().checked_sub(usize::from(first.piece.at))?;
        let len = (parts.total? as usize).checked_sub(skip)?;
        let visit = |visitor: &mut dyn FnMut(&[u8])| {
            let (mut at, mut skip) = (0, skip);
            while let Some((slot, (packet, _))) =
                starts_at(at).and_then(|slot| Some((slot, slot.held.as_ref()?)))
            {
                let octets = (slot.piece.end - slot.piece.start) as usize;
                each_piece(packet, usize::from(slot.piece.at) + skip, octets.saturating_sub(skip), visitor);
                (at, skip) = (slot.piece.end, 0);
            }
        };
        let transport = layers.transport();
        let in_first = (first.piece.end as usize).checked_sub(skip)?;
        let octets = packet.data().get(transport..).unwrap_or_default();
        let octets = octets.get(..in_first).unwrap_or(octets);
        // Nobody asks whether a packet is sound (`connection.rs`): nothing is summed up.
        let facts = facts::Carried { layers, octets, len, pieces: &visit, checked: true }.facts();
        debug_assert_eq!(layers.payload.fragment, FRAGMENT_ANY, "the first of several");
        Some(Whole { facts, len, place })
    }

    fn bucket(&self, key: &Key) -> usize {
        self.hasher.hash_one(key) as usize & (self.buckets.len() - 1)
    }

    fn find(&self, key: &Key, now: Duration) -> Option<u16> {
        let mut place = *self.buckets.get(self.bucket(key))?;
        while let Some(parts) = self.parts.get(usize::from(place)) {
            if parts.key == *key && parts.deadline > now {
                return Some(place);
            }
            place = parts.next;
        }
        None
    }

    /// Puts new parts into their chain.
    fn add_parts(&mut self, key: Key, now: Duration) -> Option<u16> {
        let bucket = self.bucket(&key);
        let (place, head) = (self.free_parts, self.buckets.get_mut(bucket)?);
        let parts = self.parts.get_mut(usize::from(place))?;
        self.free_parts = parts.next;
        *parts = Parts { next: *head, ..Parts::new(key, now.saturating_add(self.settings.age)) };
        *head = place;
        self.statistics.packets += 1;
        Some(place)
    }

    /// Takes parts out of their chain, so that nothing more comes to them.
    fn unchain(&mut self, place: u16) {
        let Some(Parts { key, next, .. }) = self.parts.get(usize::from(place)).copied() else { return };
        let bucket = self.bucket(&key);
        let mut link = self.buckets.get_mut(bucket);
        while let Some(at) = link {
            if *at == place {
                *at = next;
                return;
            }
            let follow = usize::from(*at);
            link = self.parts.get_mut(follow).map(|parts| &mut parts.next);
        }
    }

    /// Puts a fragment behind the others of its packet.
    fn append(&mut self, place: u16, piece: Piece, held: (Packet, C)) -> Result<(), (Packet, C)> {
        let new = self.free_slot;
        let (Some(parts), Some(slot)) =
            (self.parts.get_mut(usize::from(place)), self.slots.get_mut(usize::from(new)))
        else {
            return Err(held);
        };
        self.free_slot = slot.next;
        *slot = Slot { held: Some(held), piece, next: NONE };
        parts.count += 1;
        parts.octets += piece.end - piece.start;
        parts.total = if piece.is_last { Some(piece.end) } else { parts.total };
        let before = std::mem::replace(&mut parts.last, new);
        match self.slots.get_mut(usize::from(before)) {
            Some(before) => before.next = new,
            None => parts.first = new,
        }
        Ok(())
    }

    /// Takes the first fragment out; parts that have no other become free.
    fn pop(&mut self, place: u16) -> Option<(Packet, C)> {
        let parts = self.parts.get_mut(usize::from(place))?;
        let (taken, ingress) = (parts.first, parts.key.origin.ingress);
        let slot = self.slots.get_mut(usize::from(taken))?;
        let held = slot.held.take();
        parts.first = std::mem::replace(&mut slot.next, self.free_slot);
        self.free_slot = taken;
        if parts.first == NONE {
            parts.next = std::mem::replace(&mut self.free_parts, place);
            self.statistics.packets -= 1;
        }
        self.statistics.held -= 1;
        self.count(ingress, -1);
        held
    }

    fn count(&mut self, ingress: Ingress, by: i16) {
        if let Some(count) = self.by_ingress.get_mut(ingress_index(ingress)) {
            *count = count.saturating_add_signed(by);
        }
    }
}

impl Parts {
    fn new(key: Key, deadline: Duration) -> Self {
        Parts { key, deadline, first: NONE, last: NONE, count: 0, octets: 0, total: None, next: NONE }
    }
}

fn ingress_index(ingress: Ingress) -> usize {
    match ingress.decode() {
        Ok(port) => port.index(),
        Err(vtep) => PortId::COUNT + vtep.index(),
    }
}

#[cfg(test)]
#[path = "fragments/tests.rs"]
mod tests;
