//! The cached verdict equals the verdict of a fresh pipeline run, always.
//!
//! Two switches get the same random configuration, frames and changes: one is weft, with caches and one or two workers;
//! the other ([`oracle`]) walks the pipeline for every packet, with the packet's whole key. After each step the frames
//! that left and every counter of every port have to be equal. `WEFT_CASES` sets how many cases there are.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

#[path = "../rig/mod.rs"]
mod rig;
mod rules;

mod oracle;
mod own;
mod universe;

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;
use weft_conntrack::{Connections, Filter, Statistics, Timeout};
use weft_core::counters::port_totals;
use weft_core::fdb::{Fdb, Flush};
use weft_core::key::PortId;
use weft_core::snapshot::{BridgeId, BridgeSpec, PortKind};

use oracle::{Oracle, SECRET};
use rig::dice::Dice;
use rig::frames::mac;
use rig::{Rig, UPLINK, vid};

struct Pair {
    /// Whether all is about connections.
    tracking: bool,
    rig: Rig,
    oracle: Oracle,
    limit: u32,
    /// Frames that were sent lately: most are sent again, so that the cache has something to say.
    lately: VecDeque<(u16, Vec<u8>)>,
    retired: Vec<Arc<Fdb>>,
}

/// How many frames [`Pair::lately`] has.
const LATELY: usize = 12;

impl Pair {
    fn new(workers: usize, tracking: bool, dice: &mut Dice) -> Pair {
        let mut rig = Rig::with_frames(workers, 16384);
        let limit = dice.pick(&[200, 200, 4]);
        rig.add_uplink();
        rig.model.ports.extend(if tracking { universe::open_ports() } else { universe::model_ports(dice) });
        (0..universe::DEVICES).for_each(|id| rig.plug(id));
        let oracle = Oracle::new(workers, rig.now);
        let limit_of_zones = dice.pick(&[None, None, Some(3)]);
        rig.datapath.connections().set_default_zone_limit(limit_of_zones);
        oracle.connections.set_default_zone_limit(limit_of_zones);
        let mut pair = Pair { tracking, rig, oracle, limit, lately: VecDeque::new(), retired: Vec::new() };
        let bridges: Vec<BridgeSpec> =
            (0..universe::BRIDGES).map(|id| pair.bridge(BridgeId(id), dice)).collect();
        pair.rig.model.bridges = bridges;
        pair.publish();
        pair
    }

    fn publish(&mut self) {
        self.rig.publish();
        self.oracle.publish(&self.rig.model);
    }

    /// Up to six frames from one port, in one burst. One by one where rules learn: packets of cached flows repeat what they
    /// teach when they are counted, so that of two that teach otherwise within a burst any may be the last.
    fn frames(&mut self, dice: &mut Dice) {
        let is_in = |port: &u16| self.rig.model.ports.iter().any(|spec| spec.id.0 == *port);
        let uplinks = [UPLINK; 4].into_iter().filter(|_| !self.tracking);
        let ports: Vec<u16> = (0..universe::DEVICES).chain(uplinks).filter(is_in).collect();
        let port = dice.pick(&ports);
        let teaches = self.rig.model.bridges.iter().any(|bridge| rules::teach(&bridge.flows));
        for _ in 0..1 + dice.below(6) {
            let frame = match (self.tracking, port) {
                (true, _) => universe::tracked_frame(dice),
                (false, UPLINK) => universe::tunnel_frame(dice),
                (false, _) => universe::frame(dice),
            };
            self.send(port, frame.clone());
            self.lately.truncate(LATELY - 1);
            self.lately.push_front((port, frame));
            if teaches {
                self.rig.run();
            }
        }
        self.rig.run();
    }

    /// What was sent lately, once more, one by one.
    fn again(&mut self) {
        for at in 0..self.lately.len() {
            let (port, frame) = self.lately[at].clone();
            if self.rig.model.ports.iter().any(|spec| spec.id.0 == port) {
                self.send(port, frame);
                self.rig.run();
            }
        }
    }

    fn send(&mut self, port: u16, frame: Vec<u8>) {
        self.oracle.receive(PortId(port), &frame);
        self.rig.send(port, frame);
    }

    fn change(&mut self, dice: &mut Dice) {
        if (self.tracking || dice.percent(40)) && !self.rig.model.bridges.is_empty() {
            let at = dice.below(self.rig.model.bridges.len());
            let bridge = self.rig.model.bridges[at].id;
            let mut changes =
                if self.tracking { rules::tracking_changes(dice) } else { rules::changes(dice) };
            if dice.percent(30) {
                changes = own::changes(dice);
            } else if dice.percent(30) {
                changes = own::membership(dice);
            }
            self.oracle.change(&self.rig.model, bridge, &changes);
            return self.rig.change(bridge.0, &changes);
        }
        for _ in 0..1 + dice.below(2) {
            universe::change(&mut self.rig.model, dice);
        }
        self.publish();
    }

    /// A bridge gets an empty FDB, and the old one lives on somewhere; or bridge 1 goes or comes, and its ports stay.
    fn renew(&mut self, dice: &mut Dice) {
        let id = dice.pick(&[BridgeId(0), BridgeId(1), BridgeId(1)]);
        let at = self.rig.model.bridges.iter().position(|bridge| bridge.id == id);
        let old = at.map(|at| self.rig.model.bridges.remove(at));
        self.retired.extend(old.iter().map(|bridge| Arc::clone(&bridge.fdb)));
        if old.is_none() || id == BridgeId(0) || dice.percent(50) {
            let fresh = self.bridge(id, dice);
            let bridge = BridgeSpec { fdb: Arc::clone(&fresh.fdb), ..old.unwrap_or(fresh) };
            self.rig.model.bridges.push(bridge);
            self.oracle.fdbs.remove(&id);
        }
        self.publish();
    }

    fn bridge(&self, id: BridgeId, dice: &mut Dice) -> BridgeSpec {
        let fdb = Fdb::new(&self.rig.datapath.shared().epochs, self.limit, SECRET).unwrap();
        BridgeSpec {
            id,
            name: format!("br{}", id.0).into(),
            fdb: Arc::new(fdb),
            forward_reserved: dice.percent(30),
            vnis: universe::vnis(dice),
            flows: if self.tracking { rules::tracking_tables(dice) } else { rules::tables(dice) },
        }
    }

    /// The control plane changes an FDB by itself.
    fn addresses(&mut self, dice: &mut Dice) {
        let id = BridgeId(dice.below(universe::BRIDGES.into()) as u16);
        let Some(bridge) = self.rig.model.bridges.iter().find(|bridge| bridge.id == id) else { return };
        let fdbs = [Arc::clone(&bridge.fdb), Arc::clone(self.oracle.fdb(id, self.limit))];
        let port = PortId(dice.pick(&[0, 1, 2, 3, 50, 51]));
        let (vlan, mac) = (vid(dice.pick(&[0, 10, 20])), mac(dice.pick(&[1, 2, 3])));
        let (step, second) = (dice.below(4), self.rig.now.as_secs() as u32 + 1);
        for fdb in fdbs {
            match step {
                0 => drop(fdb.insert_static(vlan, mac, port, second)),
                1 => drop(fdb.remove(vlan, mac)),
                2 => drop(fdb.flush(Flush { port: Some(port), vid: None, statics: true })),
                _ => drop(fdb.flush(Flush { port: None, vid: Some(vlan), statics: false })),
            }
        }
    }

    fn time(&mut self, dice: &mut Dice) {
        let seconds = dice.pick(&[1, 1, 2, 5, 60, 200]);
        self.oracle.now += std::time::Duration::from_secs(seconds);
        self.oracle.expire();
        self.rig.wait(seconds);
        let second = self.rig.now.as_secs() as u32 + 1;
        for bridge in &self.rig.model.bridges {
            let expired = bridge.fdb.expire(second, 300);
            assert_eq!(expired, self.oracle.fdbs[&bridge.id].expire(second, 300));
        }
    }

    /// The control plane ends connections.
    fn flush(&mut self, dice: &mut Dice) {
        let zone = dice.pick(&[None, Some(0), Some(1)]);
        let protocol = dice.pick(&[None, Some(6), Some(17)]);
        let original = weft_conntrack::Partial { protocol, ..Default::default() };
        let filter = Filter { zone, original, ..Filter::default() };
        let second = self.rig.now.as_secs() as u32 + 1;
        let flushed = self.rig.datapath.connections().flush(&filter, second);
        assert_eq!(flushed, self.oracle.connections.flush(&filter, second));
    }

    /// Packets that a cached flow served.
    fn hits(&self) -> u64 {
        let packets = self.rig.datapath.counters().map(|counters| counters.worker.packets.get()).sum::<u64>();
        packets - self.rig.misses()
    }

    fn step(&mut self, kind: u8, dice: &mut Dice) {
        match kind {
            0..35 => self.frames(dice),
            35..70 => self.again(),
            70..84 => self.change(dice),
            84..86 if !self.tracking => self.renew(dice),
            84..86 => self.flush(dice),
            86..92 => self.addresses(dice),
            92 | 93 => self.flush(dice),
            _ => self.time(dice),
        }
    }

    /// What either has sent, in order if one burst was the cause; and all that was ever counted.
    fn compare(&mut self, in_order: bool) {
        let mut expected = std::mem::take(&mut self.oracle.sent);
        let ports: Vec<PortId> = (0..universe::DEVICES).chain([UPLINK]).map(PortId).collect();
        for &port in &ports {
            let (mut sent, mut expected) =
                (self.rig.sent(port.0), expected.remove(&port).unwrap_or_default());
            if !in_order {
                sent.sort();
                expected.sort();
            }
            let same = sent.iter().zip(&expected).take_while(|(sent, expected)| sent == expected).count();
            let (sent, expected) = (&sent[same..], &expected[same..]);
            let counts = (sent.len(), expected.len());
            assert_eq!(sent.first(), expected.first(), "frame {same} that {port:?} sent, of {counts:?} more");
        }
        assert!(expected.is_empty());
        for port in ports.into_iter().chain(universe::TUNNELS.map(PortId)) {
            let expected = self.oracle.totals.get(&port).copied().unwrap_or_default();
            assert_eq!(port_totals(self.rig.datapath.counters(), port), expected, "{port:?}");
        }
        let second = self.rig.now.as_secs() as u32 + 1;
        let connections = |of: &Connections| {
            let mut all = Vec::new();
            of.list(&Filter::default(), second, &mut |connection| all.push(*connection));
            all.sort_by_key(|connection| (connection.zone, connection.original));
            all
        };
        let (own, expected) =
            (connections(self.rig.datapath.connections()), connections(&self.oracle.connections));
        let differs = own.iter().zip(&expected).find(|(own, expected)| own != expected);
        assert!(differs.is_none() && own.len() == expected.len(), "{differs:?}");
        for bridge in &self.rig.model.bridges {
            let [counted, expected] = self.oracle.counts(&bridge.flows);
            assert_eq!(counted, expected);
        }
        for bridge in &self.rig.model.bridges {
            let entries = |fdb: &Fdb| {
                let mut entries = fdb.entries();
                // A static entry does not age.
                entries.iter_mut().filter(|entry| entry.is_static).for_each(|entry| entry.seen = 0);
                entries.sort_by_key(|entry| (entry.vid, entry.mac.to_u64()));
                entries
            };
            assert_eq!(entries(&bridge.fdb), entries(&self.oracle.fdbs[&bridge.id]));
        }
    }
}

fn run(seed: u64, workers: usize, tracking: bool, steps: &[(u8, u64)]) {
    let mut pair = Pair::new(workers, tracking, &mut Dice(seed));
    for &(kind, seed) in steps {
        pair.step(kind, &mut Dice(seed));
        pair.compare(kind < 35);
    }
}

fn cases() -> ProptestConfig {
    let cases = std::env::var("WEFT_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(300);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 2000, ..ProptestConfig::default() }
}

fn steps() -> impl Strategy<Value = Vec<(u8, u64)>> {
    proptest::collection::vec((0..100u8, any::<u64>()), 20..150)
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_cached_verdict_is_that_of_a_fresh_walk_with_one_worker(seed in any::<u64>(), steps in steps()) {
        run(seed, 1, false, &steps);
    }

    #[test]
    fn a_cached_verdict_is_that_of_a_fresh_walk_with_two_workers(seed in any::<u64>(), steps in steps()) {
        run(seed, 2, false, &steps);
    }

    #[test]
    fn connections_are_those_of_fresh_walks_with_one_worker(seed in any::<u64>(), steps in steps()) {
        run(seed, 1, true, &steps);
    }

    #[test]
    fn connections_are_those_of_fresh_walks_with_two_workers(seed in any::<u64>(), steps in steps()) {
        run(seed, 2, true, &steps);
    }
}

#[test]
fn the_universe_reaches_what_it_is_meant_to_reach() {
    let mut seen = std::collections::BTreeMap::new();
    let (mut hits, mut sent) = (0, 0);
    for seed in 0..36 {
        let mut dice = Dice(seed);
        let mut pair = Pair::new(2, false, &mut dice);
        for _ in 0..150 {
            let kind = dice.below(100) as u8;
            pair.step(kind, &mut dice);
            pair.compare(kind < 35);
        }
        for (&port, totals) in &pair.oracle.totals {
            let kind = pair.rig.model.ports.iter().find(|spec| spec.id == port).map(|spec| &spec.kind);
            sent += if kind == Some(&PortKind::Device) { totals.tx_packets } else { 0 };
            totals.drops.nonzero().for_each(|(reason, packets)| *seen.entry(reason).or_insert(0) += packets);
        }
        let worker = |of: fn(&weft_core::counters::WorkerCounters) -> u64| {
            pair.rig.datapath.counters().map(|counters| of(&counters.worker)).sum::<u64>()
        };
        hits += worker(|worker| worker.packets.get()) - worker(|worker| worker.misses.get());
    }
    use weft_wire::DropReason::*;
    for reason in [
        RxTruncated,
        NoBridge,
        VlanNotAdmitted,
        LinkLocalReserved,
        SamePort,
        NoDestination,
        SplitHorizon,
        TableMiss,
        MeterExceeded,
        TooManyMplsLabels,
        RuleDrop,
        NoSuchPort,
        SpoofedArp,
        AclEgress,
        AclIngress,
        TunnelUnknown,
        TunnelKeyUnknown,
        TunnelMalformed,
        VniUnmapped,
        TunnelTooBig,
        TunnelNoRoute,
        TunnelNoRemote,
        NeighbourUnresolved,
        TxPortDown,
    ] {
        assert!(seen.contains_key(&reason), "{reason} is not among {seen:?}");
    }
    assert!(hits > 500 && sent > 500, "{hits} hits, {sent} packets out");
}

#[test]
fn connections_come_to_something() {
    let (mut all, mut hits, mut begun) = (Statistics::default(), 0, 0);
    let (mut translated, mut established, mut strangers) = (0, 0, 0);
    for seed in 0..90 {
        let mut dice = Dice(seed);
        let mut pair = Pair::new(2, true, &mut dice);
        for _ in 0..80 {
            let kind = dice.below(100) as u8;
            pair.step(kind, &mut dice);
            pair.compare(kind < 35);
            let second = pair.rig.now.as_secs() as u32 + 1;
            pair.rig.datapath.connections().list(&Filter::default(), second, &mut |connection| {
                translated += u32::from(connection.nat.is_some());
                established += u32::from(connection.timeout == Timeout::TcpEstablished);
            });
        }
        hits += pair.hits();
        begun += pair.rig.datapath.counters().map(|counters| counters.worker.begun.get()).sum::<u64>();
        for totals in pair.oracle.totals.values() {
            let of_groups = [weft_wire::DropReason::AclEgress, weft_wire::DropReason::AclIngress];
            let reasons = totals.drops.nonzero().filter(|(reason, _)| of_groups.contains(reason));
            strangers += reasons.map(|(_, packets)| packets).sum::<u64>();
        }
        let one = pair.rig.datapath.connections().statistics();
        all.created += one.created;
        all.replaced += one.replaced;
        all.expired += one.expired;
        all.flushed += one.flushed;
        all.refused_zone += one.refused_zone;
        all.refused_nat += one.refused_nat;
        all.invalid += one.invalid;
    }
    let Statistics { created, replaced, expired, flushed, refused_zone, refused_nat, invalid, .. } = all;
    assert!(hits > 2000 && translated > 100 && established > 20, "{hits}, {translated}, {established}");
    assert!(strangers > 100, "{strangers}");
    assert!(created > 500 && replaced > 5 && expired > 50 && flushed > 50 && invalid > 200, "{all:?}");
    assert!(begun > 20, "{begun} began as others before them");
    assert!(refused_zone > 50 && refused_nat > 0, "{all:?}");
}
