//! Security groups do what their users were told, whatever happens.
//!
//! Two sides get the same random groups, packets and changes: one is weft's datapath, with caches and one or two workers,
//! and the flow tables that `acl` compiles; the other ([`words`]) knows the configuration and a list of connections. Of each
//! packet both have to say the same: by which ports it leaves, or for which reason it is dropped. `WEFT_CASES` sets how
//! many cases there are, `WEFT_SEED` which is the first.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a test")]

mod first_packets;
#[path = "../../../../dataplane/core/tests/sequences/packets.rs"]
#[allow(dead_code, reason = "fragments and padding are others' business")]
mod octets;
mod packet;
#[path = "../../../../dataplane/core/tests/rig/mod.rs"]
mod rig;
mod universe;
mod words;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use weft_config::Config;
use weft_conntrack::{Filter, Partial, Timeouts};
use weft_core::key::{Ingress, PortId};
use weft_core::parse;
use weft_core::snapshot::PortKind;
use weft_core::tables::Change;
use weft_core::trace::Trace;
use weft_daemon::acl::cookie::Cookie;
use weft_daemon::acl::{Changes, Compiled, guard, units};
use weft_wire::DropReason;

use packet::Packet;
use rig::dice::Dice;
use rig::frames::mac;
use rig::{Rig, access, trunk, vid};
use universe::PORTS;
use words::{LIFE, Words};

/// The uppermost bits of the bridges' zones.
const ZONES: [u8; 2] = [15, 14];

/// A packet, where it came in, and its VLAN.
type Sent = (usize, u16, Packet);

struct World {
    rig: Rig,
    compiled: [Compiled; 2],
    words: Words,
    /// What was sent lately: most is sent again, or answered.
    lately: VecDeque<Sent>,
    /// How often something came of a packet: `None` if it left.
    seen: BTreeMap<Option<DropReason>, u64>,
}

impl World {
    fn new(workers: usize, dice: &mut Dice) -> World {
        let config = universe::config(60, dice);
        let mut rig = Rig::new(workers);
        (0..2).for_each(|bridge| rig.add_bridge(bridge));
        for (id, &(name, bridge, vlans, tagged)) in PORTS.iter().enumerate() {
            let mode = if tagged { trunk(vlans) } else { access(vlans[0]) };
            rig.add_port(id as u16, Some(bridge as u16), mode, PortKind::Device);
            rig.port(id as u16).name = name.into();
            rig.port(id as u16).ofport = config.port(name).unwrap().1.ofport.unwrap();
            rig.plug(id as u16);
        }
        rig.publish();
        for (id, &(_, bridge, vlans, _)) in PORTS.iter().enumerate() {
            for &vlan in vlans {
                let fdb = Arc::clone(&rig.model.bridges[bridge].fdb);
                fdb.insert_static(vid(vlan), mac(id as u8 + 1), PortId(id as u16), 1);
            }
        }
        rig.datapath.connections().set_default_timeouts(Timeouts { seconds: [LIFE as u32; 11] });
        let words = Words { config: Config::default(), talks: Vec::new(), second: 0, permitted: 0 };
        let mut world = World {
            rig,
            compiled: Default::default(),
            words,
            lately: VecDeque::new(),
            seen: BTreeMap::new(),
        };
        world.words.config = universe::config(0, dice);
        world.apply(config);
        world
    }

    /// The switch's way: rules that come, ports, rules that go.
    fn apply(&mut self, config: Config) {
        let before = self.words.clone();
        let ports = before.config.bridges != config.bridges;
        let mut all = Vec::new();
        for (at, compiled) in self.compiled.iter_mut().enumerate() {
            let next = units(&config, &config.bridges[at], ZONES[at], &mut compiled.numbering);
            all.push(compiled.become_units(next, &self.rig.model.bridges[at].flows.load()));
        }
        self.words.config = config;
        self.put(&all, |changes| &changes.now);
        self.midway(&before);
        if ports {
            for (id, (name, ..)) in PORTS.iter().enumerate() {
                self.rig.port(id as u16).guard = guard(&self.words.port(name));
            }
            self.rig.publish();
            self.midway(&before);
        }
        self.put(&all, |changes| &changes.later);
    }

    fn put(&mut self, all: &[Changes], which: fn(&Changes) -> &Vec<Change>) {
        for (bridge, changes) in all.iter().enumerate().filter(|(_, changes)| !which(changes).is_empty()) {
            self.rig.change(bridge as u16, which(changes));
        }
    }

    /// While rules come and go, no port lets a packet pass that neither its old groups nor its new ones permit.
    fn midway(&self, before: &Words) {
        for (port, vlan, packet) in &self.lately {
            let (name, bridge, ..) = PORTS[*port];
            let place = (bridge, *vlan);
            let either = |permits: &dyn Fn(&mut Words) -> bool| {
                [before, &self.words].into_iter().any(|words| permits(&mut words.clone()))
            };
            for copy in &self.trace(*port, *vlan, packet).copies {
                let sent = either(&|words| words.may_send(name, place, packet).is_ok());
                let got = either(&|words| words.may_get(&copy.port, place, packet).is_ok());
                assert!(sent && got, "midway: {packet:x?} from {name} to {}", copy.port);
            }
        }
    }

    /// What rules of groups say that they have let pass, those that are gone included.
    fn counted(&mut self) -> u64 {
        self.rig.wait(1);
        let counted = self.compiled.iter().zip(&self.rig.model.bridges);
        let counted = counted.flat_map(|(compiled, bridge)| compiled.counted(&bridge.flows.load()));
        let by_rule =
            |(cookie, _): &(u64, _)| matches!(Cookie::of(*cookie), Some(Cookie::Rule(..) | Cookie::Open(_)));
        counted.filter(by_rule).map(|(_, (packets, _))| packets).sum()
    }

    fn trace(&self, port: usize, vlan: u16, packet: &Packet) -> Trace {
        let frame = packet.frame(tag(port, vlan));
        let key = parse::full(&frame, Ingress::port(PortId(port as u16))).unwrap();
        self.rig.trace(&key, Some(&frame))
    }

    fn send(&mut self, (port, vlan, packet): Sent) {
        let (copies, refused) = outcome(&mut self.words, (port, vlan, &packet));
        let frames: Vec<(u16, Vec<u8>)> =
            copies.iter().map(|&to| (to as u16, packet.frame(tag(to, vlan)))).collect();
        let before: BTreeMap<DropReason, u64> = self.rig.drops(port as u16).into_iter().collect();
        let mut left = self.rig.exchange(port as u16, packet.frame(tag(port, vlan)));
        left.sort();
        let drops = self.rig.drops(port as u16).into_iter();
        let drops: Vec<DropReason> = drops
            .filter(|(reason, count)| before.get(reason) != Some(count))
            .map(|(reason, _)| reason)
            .collect();
        let reason = refused.first().filter(|_| copies.is_empty()).copied();
        *self.seen.entry(reason).or_default() += 1;
        let what = || {
            self.trace(port, vlan, &packet).steps.iter().for_each(|step| eprintln!("{step:?}"));
            let talks: String = self.words.talks.iter().map(|talk| format!("  {talk:x?}\n")).collect();
            format!("{}{talks}{packet:x?}\nfrom {}, VLAN {vlan}", self.words.config.to_toml(), PORTS[port].0)
        };
        let ports: Vec<u16> = left.iter().map(|(port, _)| *port).collect();
        assert_eq!(
            (ports, drops),
            (copies.iter().map(|to| *to as u16).collect(), reason.into_iter().collect()),
            "{}",
            what()
        );
        assert_eq!(left, frames, "{}", what());
    }

    /// One packet, twice: what was cached says the same.
    fn packet(&mut self, dice: &mut Dice) {
        let sent = self.draw(dice);
        self.lately.truncate(15);
        self.lately.push_front(sent.clone());
        self.send(sent.clone());
        if dice.percent(70) {
            self.send(sent);
        }
    }

    fn draw(&self, dice: &mut Dice) -> Sent {
        if dice.percent(60) && !self.lately.is_empty() {
            let (port, vlan, packet) = &self.lately[dice.below(self.lately.len())];
            let to = (0..PORTS.len()).find(|id| mac(*id as u8 + 1) == packet.destination);
            if let (Some(to), Some(packet)) = (to, universe::answer(packet, dice))
                && packet.destination == mac(*port as u8 + 1)
            {
                return (to, *vlan, packet);
            }
        }
        let port = dice.below(PORTS.len());
        let vlan = dice.pick(PORTS[port].2);
        (port, vlan, universe::packet(port, vlan, dice))
    }

    /// What was sent lately, once more.
    fn again(&mut self) {
        for sent in self.lately.clone() {
            self.send(sent);
        }
    }

    fn flush(&mut self, dice: &mut Dice) {
        let place = dice.pick(&[None, Some((0, 10)), Some((1, 0))]);
        let protocol = dice.pick(&[None, Some(6), Some(17)]);
        self.words.flush(place, protocol);
        let zone = place.map(|(bridge, vlan)| u16::from(ZONES[bridge]) << 12 | vlan);
        let filter =
            Filter { zone, original: Partial { protocol, ..Partial::default() }, ..Filter::default() };
        let second = self.rig.now.as_secs() as u32 + 1;
        self.rig.datapath.connections().flush(&filter, second);
    }

    fn step(&mut self, dice: &mut Dice) {
        match dice.below(20) {
            0..2 => {
                if let Some(config) = universe::change(&self.words.config, dice) {
                    self.apply(config);
                    self.again();
                }
            }
            2 => {
                let seconds = dice.pick(&[1, 1, 5, LIFE - 1, LIFE, LIFE + 1]);
                self.words.wait(seconds);
                self.rig.wait(seconds);
                self.again();
            }
            3 if dice.percent(50) => {
                self.flush(dice);
                self.again();
            }
            _ => self.packet(dice),
        }
        let held: usize =
            self.rig.datapath.connections().zones().iter().map(|(_, count)| *count as usize).sum();
        assert!(held >= self.words.talks.len(), "{held} connections: {:#x?}", self.words.talks);
    }
}

/// The tag of a VLAN's packets at a port.
fn tag(port: usize, vlan: u16) -> Option<u16> {
    PORTS[port].3.then_some(vlan)
}

/// By which ports a packet leaves, in order, and why it doesn't leave by others.
fn outcome(words: &mut Words, (from, vlan, packet): (usize, u16, &Packet)) -> (Vec<usize>, Vec<DropReason>) {
    let (name, bridge, ..) = PORTS[from];
    if let Err(reason) = words.may_send(name, (bridge, vlan), packet) {
        return (Vec::new(), vec![reason]);
    }
    let (mut copies, mut refused) = (Vec::new(), Vec::new());
    let near = |to: &usize| *to != from && PORTS[*to].1 == bridge && PORTS[*to].2.contains(&vlan);
    let known = (0..PORTS.len()).filter(near).find(|to| mac(*to as u8 + 1) == packet.destination);
    for to in (0..PORTS.len()).filter(near).filter(|to| known.is_none_or(|known| known == *to)) {
        match words.may_get(PORTS[to].0, (bridge, vlan), packet) {
            Ok(()) => copies.push(to),
            Err(reason) => refused.push(reason),
        }
    }
    (copies, refused)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What came of packets, how often; how many of all were served by cached flows, and how many began as others before them.
type Seen = (BTreeMap<Option<DropReason>, u64>, [u64; 3]);

fn case(workers: usize, seed: u64) -> Seen {
    let mut dice = Dice(seed);
    let mut world = World::new(workers, &mut dice);
    (0..120).for_each(|_| world.step(&mut dice));
    assert_eq!(world.counted(), world.words.permitted, "what rules have let pass");
    let packets: u64 = world.rig.datapath.counters().map(|counters| counters.worker.packets.get()).sum();
    let begun = world.begun();
    (std::mem::take(&mut world.seen), [packets - world.rig.misses(), packets, begun])
}

fn play(workers: usize) {
    let (first, cases) = (number("WEFT_SEED", 1), number("WEFT_CASES", CASES));
    let mut seen = Seen::default();
    for seed in first..first + cases {
        let came = std::panic::catch_unwind(|| case(workers, seed)).unwrap_or_else(|cause| {
            eprintln!("WEFT_SEED={seed} WEFT_CASES=1, {workers} workers");
            std::panic::resume_unwind(cause)
        });
        came.0.into_iter().for_each(|(outcome, count)| *seen.0.entry(outcome).or_default() += count);
        seen.1.iter_mut().zip(came.1).for_each(|(sum, more)| *sum += more);
    }
    let (outcomes, [hits, packets, begun]) = seen;
    println!(
        "{hits} of {packets} packets were served by cached flows, {begun} began as others: {outcomes:?}"
    );
    if cases >= CASES {
        assert!(hits * 2 > packets, "the cache has little to say");
        assert!(begun > 100, "few began as others before them");
        assert!(OUTCOMES.iter().all(|reason| outcomes.contains_key(&Some(*reason))), "not all was met");
    }
}

/// How many cases there are if nobody says otherwise.
const CASES: u64 = 100;

/// What groups and port security drop packets for.
const OUTCOMES: [DropReason; 10] = [
    DropReason::SpoofedMac,
    DropReason::SpoofedIp,
    DropReason::SpoofedArp,
    DropReason::SpoofedNd,
    DropReason::RogueRa,
    DropReason::RogueDhcp,
    DropReason::RogueDhcpv6,
    DropReason::AclEgress,
    DropReason::AclIngress,
    DropReason::AclInvalid,
];

#[test]
fn groups_do_what_their_words_say_on_one_worker() {
    play(1);
}

#[test]
fn groups_do_what_their_words_say_on_two_workers() {
    play(2);
}
