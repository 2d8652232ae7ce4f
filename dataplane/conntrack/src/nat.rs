//! Network address translation: what may be asked for, and which addresses and ports are tried.
//!
//! A connection's reply tuple is what a translation changes: for source translation where replies go to, for destination
//! translation where they come from. A translation is free of clashes if no live connection has the reply tuple in
//! either direction. The order of tries is Open vSwitch's (lib/conntrack.c, `nat_get_unique_tuple`).

use crate::hash::Key;
use crate::state::{Direction, State};
use crate::tuple::Tuple;

/// Which end of the first packet is translated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    /// `src`
    Source,
    /// `dst`
    Destination,
}

/// How an address and port are chosen from a range.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Choice {
    /// By a keyed hash of the connection: `hash`, and when nothing is said.
    #[default]
    Hash,
    /// `random`
    Random,
    /// `persistent`: by a hash of the addresses alone that stays the same over restarts.
    Persistent,
}

/// `nat(src=..)` or `nat(dst=..)`
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Nat {
    /// What is translated.
    pub side: Side,
    /// From this address to that. `None`, like zeros, keeps the packet's.
    pub addresses: Option<(u128, u128)>,
    /// From this port to that. `None` keeps the packet's if it is free (source translation then tries others).
    pub ports: Option<(u16, u16)>,
    /// How one is chosen.
    pub choice: Choice,
}

/// How a packet is rewritten.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Translation {
    /// The packet's addresses and ports afterwards. TCP and UDP get both ports; an ICMP query keeps its identifier.
    pub tuple: Tuple,
    /// Whether the source address is rewritten.
    pub source: bool,
    /// Whether the destination address is rewritten.
    pub destination: bool,
    /// The packet is an ICMP error: of the outer header only the address that is said above is rewritten; the packet
    /// that it quotes becomes `tuple.reversed()`.
    pub related: bool,
}

impl Translation {
    /// What becomes of a packet of this direction in a connection with these tuples that is translated at `side`.
    pub(crate) fn of(side: Side, direction: Direction, original: &Tuple, reply: &Tuple) -> Translation {
        let source = (side == Side::Source) == (direction == Direction::Original);
        let tuple = match direction {
            Direction::Original => reply.reversed(),
            Direction::Reply => original.reversed(),
        };
        Translation { tuple, source, destination: !source, related: false }
    }

    /// The `ct_state` bit that says it.
    pub fn state(&self) -> State {
        if self.source { State::SNAT } else { State::DNAT }
    }
}

/// The most ports tried in one row.
const TRIES: u32 = 128;
/// A row of fewer tries isn't followed by another.
const FEW: u32 = 16;

/// The number that makes the choice for a connection: its upper half the address, its lower half the port. `random` is
/// used where the choice is to be random.
pub(crate) fn number(nat: &Nat, original: &Tuple, zone: u16, key: &Key, random: u64) -> u64 {
    match nat.choice {
        Choice::Hash => key.hash(original, zone),
        Choice::Random => random,
        // The same client gets the same address, whatever it talks to and after a restart; its ports are spread.
        Choice::Persistent => {
            let client = Tuple { src: original.src, family: original.family, ..Tuple::default() };
            Key::new([0; 2]).hash(&client, 0) << 32 | key.hash(original, zone) & 0xffff_ffff
        }
    }
}

/// The first reply tuple of the range for which `taken` is false, for a connection that begins with `original`;
/// `hash` makes the choice ([`number`]).
pub(crate) fn choose(
    nat: &Nat,
    original: &Tuple,
    hash: u64,
    mut taken: impl FnMut(&Tuple) -> bool,
) -> Option<Tuple> {
    let mut reply = original.reversed();
    let address = pick_address(nat, original, (hash >> 32) as u32);
    let hash = hash as u32;
    match nat.side {
        Side::Source => reply.dst = address,
        Side::Destination => reply.src = address,
    }
    if !original.has_ports() {
        return (!taken(&reply)).then_some(reply);
    }
    let (source, first_source) = source_ports(nat, original, hash);
    reply.dst_port = first_source;
    if let (Side::Destination, Some((low, high))) = (nat.side, ordered(nat.ports)) {
        let first = low.wrapping_add((hash % (u32::from(high - low) + 1)) as u16);
        if let Some(port) =
            search((low, high), first, hash, |port| !taken(&Tuple { src_port: port, ..reply }))
        {
            return Some(Tuple { src_port: port, ..reply });
        }
        reply.src_port = first;
    }
    let port = search(source, first_source, hash, |port| !taken(&Tuple { dst_port: port, ..reply }))?;
    Some(Tuple { dst_port: port, ..reply })
}

fn ordered(ports: Option<(u16, u16)>) -> Option<(u16, u16)> {
    ports.map(|(low, high)| (low.min(high), low.max(high)))
}

/// An address of the range. At most 2^32 of them are used, as Open vSwitch does.
fn pick_address(nat: &Nat, original: &Tuple, hash: u32) -> u128 {
    match nat.addresses {
        Some((low, high)) if low != 0 => {
            let span = high.saturating_sub(low).min(0xffff_fffe) + 1;
            low.saturating_add(u128::from(hash) % span)
        }
        _ => match nat.side {
            Side::Source => original.src,
            Side::Destination => original.dst,
        },
    }
}

/// The range of source ports, and the one to try first. Without a range it is the packet's own, then the others of its
/// class: below 512, below 1024, and the rest, since some services trust low ports.
fn source_ports(nat: &Nat, original: &Tuple, hash: u32) -> ((u16, u16), u16) {
    if let (Side::Source, Some((low, high))) = (nat.side, ordered(nat.ports)) {
        return ((low, high), low.wrapping_add((hash % (u32::from(high - low) + 1)) as u16));
    }
    let range = match original.src_port {
        ..512 => (1, 511),
        512..1024 => (600, 1023),
        _ => (1024, u16::MAX),
    };
    (range, original.src_port)
}

/// Tries ports in rows, each from another place and half as long as the one before.
fn search(range: (u16, u16), first: u16, hash: u32, mut free: impl FnMut(u16) -> bool) -> Option<u16> {
    let (low, high) = range;
    let size = u32::from(high - low) + 1;
    let mut tries = size.min(TRIES);
    let (mut port, mut seed) = (first, hash);
    loop {
        // A first port outside of the range doesn't count.
        let row = tries + u32::from(tries == size && !(low..=high).contains(&port));
        for _ in 0..row {
            if free(port) {
                return Some(port);
            }
            port = if (low..high).contains(&port) { port + 1 } else { low };
        }
        if tries >= size || tries < FEW {
            return None;
        }
        tries /= 2;
        seed = scramble(seed);
        port = low + (seed % size) as u16;
    }
}

/// The next of a row of numbers that look random (the finaliser of MurmurHash3).
pub(crate) fn scramble(seed: u32) -> u32 {
    let mut number = seed.wrapping_add(0x9e37_79b9);
    number = (number ^ number >> 16).wrapping_mul(0x85eb_ca6b);
    number = (number ^ number >> 13).wrapping_mul(0xc2b2_ae35);
    number ^ number >> 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tuple::Family;
    use std::collections::HashSet;

    const TUPLE: Tuple =
        Tuple { src: 1, dst: 2, src_port: 5000, dst_port: 80, protocol: 17, family: Family::V4 };
    const SNAT: Nat = Nat { side: Side::Source, addresses: Some((9, 9)), ports: None, choice: Choice::Hash };

    #[test]
    fn a_source_port_is_kept_while_it_is_free() {
        let reply = choose(&SNAT, &TUPLE, 7, |_| false).unwrap();
        assert_eq!(reply, Tuple { src: 2, dst: 9, src_port: 80, dst_port: 5000, ..TUPLE });
        let other = choose(&SNAT, &TUPLE, 7, |reply| reply.dst_port == 5000).unwrap();
        assert_eq!(other.dst_port, 5001);
    }

    #[test]
    fn a_small_range_is_used_to_the_last_port_and_then_exhausted() {
        let nat = Nat { ports: Some((100, 109)), ..SNAT };
        let mut used = HashSet::new();
        for _ in 0..10 {
            let reply = choose(&nat, &TUPLE, 12345, |reply| used.contains(reply)).unwrap();
            assert!((100..=109).contains(&reply.dst_port) && used.insert(reply));
        }
        assert_eq!(choose(&nat, &TUPLE, 12345, |reply| used.contains(reply)), None);
    }

    #[test]
    fn the_number_of_tries_is_bounded() {
        let mut tries = 0;
        let none = choose(&SNAT, &TUPLE, 7, |_| {
            tries += 1;
            true
        });
        assert_eq!((none, tries), (None, 128 + 64 + 32 + 16 + 8));
    }

    #[test]
    fn a_destination_is_chosen_from_the_range_and_the_source_port_helps_out() {
        let nat =
            Nat { side: Side::Destination, addresses: Some((50, 52)), ports: Some((8080, 8080)), ..SNAT };
        let reply = choose(&nat, &TUPLE, 4 << 32, |_| false).unwrap();
        assert_eq!(reply, Tuple { src: 51, dst: 1, src_port: 8080, dst_port: 5000, ..TUPLE });
        let other = choose(&nat, &TUPLE, 4 << 32, |tuple| *tuple == reply).unwrap();
        assert_eq!((other.src_port, other.dst_port), (8080, 5001));
    }
}
