//! The table is held against maps: random packets of few tuples in few zones, in both directions, with translation,
//! marks, limits, flushes and time, get the same answers from both; and a link that steps means what a walk would say.

use proptest::prelude::*;

use crate::connections::Connections;
use crate::control::{Connection, Filter, Settings, Statistics, ZoneLimit};
use crate::expect::Expected;
use crate::image::Image;
use crate::link::Link;
use crate::naive::{Naive, Who};
use crate::nat::{Choice, Nat, Side};
use crate::request::{Commit, Facts, Helper, Masked, Refusal, Request, Segment, Tracked};
use crate::timeouts::{Timeout, Timeouts};
use crate::tuple::{Family, Partial, Tuple};

/// A packet: which tuple of those that are known, and the rest.
#[derive(Clone, Debug)]
struct Packet {
    tuple: usize,
    turned: bool,
    zone: u16,
    segment: Segment,
    commit: Option<Commit>,
    translate: bool,
    /// An ICMP error that quotes the tuple.
    error: bool,
    /// A second `ct(..)` on the same packet, in this zone.
    again: Option<u16>,
}

#[derive(Clone, Debug)]
enum Op {
    Packet(Packet),
    /// A hit, by the link of an earlier answer.
    Step(usize, Segment),
    Time(u32),
    Expire,
    Flush(Filter),
    Limit(u16, ZoneLimit),
    Policy(u16, Option<u32>),
    Expect(usize, u16, Option<(Side, u128)>),
    Windows(bool),
}

fn base() -> Vec<Tuple> {
    let udp = Tuple {
        src: 0x0a00_0001,
        dst: 0x0a00_0002,
        src_port: 7,
        dst_port: 9,
        protocol: 17,
        family: Family::V4,
    };
    let six = Tuple { src: 1 << 100, dst: 2 << 100, family: Family::V6, ..udp };
    vec![
        udp,
        Tuple { src: 0x0a00_0003, ..udp },
        Tuple { src_port: 70, dst_port: 80, protocol: 6, ..udp },
        Tuple { src_port: 71, dst_port: 80, protocol: 6, ..udp },
        Tuple { protocol: 1, src_port: 5, dst_port: Tuple::icmp(8, 0), ..udp },
        Tuple { protocol: 47, src_port: 0, dst_port: 0, ..udp },
        Tuple { src_port: 0, ..udp },
        six,
        Tuple { protocol: 6, ..six },
        Tuple { dst: udp.src, dst_port: 7, ..udp },
    ]
}

fn segments() -> impl Strategy<Value = Segment> {
    let flags = prop::sample::select(vec![0x02, 0x12, 0x10, 0x10, 0x18, 0x11, 0x04, 0x14, 0x00, 0x03]);
    (flags, 0u32..6, 0u32..6, 0u32..3, prop::option::of(0u8..4)).prop_map(|(flags, seq, ack, len, scale)| {
        Segment {
            seq: 1000 + seq * 100,
            ack: 1000 + ack * 100,
            window: 300,
            flags,
            payload: len * 100,
            scale,
        }
    })
}

fn nats() -> impl Strategy<Value = Nat> {
    let side = prop::sample::select(vec![Side::Source, Side::Destination]);
    let addresses =
        prop::option::of(prop::sample::select(vec![(0, 0), (0x0a00_0009, 0x0a00_0009), (50, 52)]));
    let ports = prop::option::of(prop::sample::select(vec![(7, 7), (100, 102), (1024, 65535)]));
    let choice = prop::sample::select(vec![Choice::Hash, Choice::Persistent]);
    (side, addresses, ports, choice).prop_map(|(side, addresses, ports, choice)| Nat {
        side,
        addresses,
        ports,
        choice,
    })
}

fn commits() -> impl Strategy<Value = Commit> {
    (
        prop::bool::weighted(0.1),
        0u32..3,
        0u128..3,
        prop::option::weighted(0.4, nats()),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(force, mark, label, nat, helper)| Commit {
            force,
            mark: Masked { value: mark, mask: 1 },
            label: Masked { value: label << 64, mask: 3 << 64 },
            nat,
            helper: helper.then_some(Helper::Ftp),
        })
}

fn packets() -> impl Strategy<Value = Packet> {
    let which = (0usize..24, any::<bool>(), 0u16..2, segments());
    let how = (prop::option::weighted(0.5, commits()), any::<bool>(), prop::bool::weighted(0.1));
    (which, how, prop::option::weighted(0.3, 0u16..2)).prop_map(
        |((tuple, turned, zone, segment), (commit, translate, error), again)| Packet {
            tuple,
            turned,
            zone,
            segment,
            commit,
            translate,
            error,
            again,
        },
    )
}

fn filters() -> impl Strategy<Value = Filter> {
    let tuple = prop::option::of(0usize..10);
    (prop::option::of(0u16..2), tuple, prop::option::of(0u32..2)).prop_map(|(zone, tuple, mark)| Filter {
        zone,
        original: Partial {
            src: tuple.and_then(|at| base().get(at).map(|tuple| tuple.src)),
            ..Partial::default()
        },
        mark: mark.map(|value| Masked { value, mask: 1 }).unwrap_or_default(),
        ..Filter::default()
    })
}

fn ops() -> impl Strategy<Value = Op> {
    let limits = prop::sample::select(vec![ZoneLimit::Default, ZoneLimit::Unlimited, ZoneLimit::AtMost(3)]);
    let translation =
        prop::option::of((prop::sample::select(vec![Side::Source, Side::Destination]), 60u128..62));
    prop_oneof![
        20 => packets().prop_map(Op::Packet),
        8 => (any::<prop::sample::Index>(), segments()).prop_map(|(at, segment)| Op::Step(at.index(1000), segment)),
        3 => prop::sample::select(vec![1, 10, 29, 61, 901]).prop_map(Op::Time),
        1 => Just(Op::Expire),
        1 => filters().prop_map(Op::Flush),
        1 => (0u16..2, limits).prop_map(|(zone, limit)| Op::Limit(zone, limit)),
        1 => (0u16..2, prop::option::of(1u32..90)).prop_map(|(zone, seconds)| Op::Policy(zone, seconds)),
        1 => (any::<prop::sample::Index>(), 0u16..10, translation)
            .prop_map(|(at, tuple, how)| Op::Expect(at.index(1000), tuple, how)),
        1 => any::<bool>().prop_map(Op::Windows),
    ]
}

/// Both, and what they said so far.
struct Pair {
    real: Connections,
    naive: Naive,
    second: u32,
    tuples: Vec<Tuple>,
    said: Vec<(Facts, u16, Option<Commit>, bool, Tracked, Tracked)>,
}

/// An answer without its links: those are numbers of one table.
fn bare(answer: &Tracked) -> Tracked {
    Tracked { link: Link::NONE, connection: Link::NONE, ..*answer }
}

impl Pair {
    fn new() -> Pair {
        let settings = Settings { max: 9, secret: [3, 4], expectations: 2 };
        Pair {
            real: Connections::new(settings).unwrap(),
            naive: Naive::new(settings).unwrap(),
            second: 100,
            tuples: base(),
            said: Vec::new(),
        }
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Packet(packet) => self.packet(packet),
            Op::Step(at, segment) => self.step(*at, *segment),
            Op::Time(seconds) => self.second += seconds,
            Op::Expire => {
                let ended = self.real.expire(self.second, 1 << 20);
                assert_eq!(ended, self.naive.expire(self.second, 1 << 20));
                assert_eq!(self.real.zones(), self.naive.zones());
                assert_eq!(self.real.statistics(), self.naive.statistics());
            }
            Op::Flush(filter) => {
                assert_eq!(self.real.flush(filter, self.second), self.naive.flush(filter, self.second));
            }
            Op::Limit(zone, limit) => {
                self.real.set_zone_limit(*zone, *limit);
                self.naive.set_zone_limit(*zone, *limit);
            }
            Op::Policy(zone, seconds) => {
                let policy = seconds.map(|seconds| {
                    let mut policy = Timeouts::default();
                    policy.set(Timeout::UdpMultiple, seconds);
                    policy.set(Timeout::TcpEstablished, seconds + 1);
                    policy
                });
                self.real.set_timeouts(*zone, policy);
                self.naive.set_timeouts(*zone, policy);
                // It counts from the next second on.
                self.second += 1;
            }
            Op::Expect(at, tuple, translation) => self.expect(*at, *tuple, *translation),
            Op::Windows(check) => {
                self.real.set_window_check(*check);
                self.naive.set_window_check(*check);
            }
        }
        // What is no longer expected is swept at other times.
        let statistics = (self.real.statistics(), self.naive.statistics());
        assert_eq!(statistics.0, Statistics { expectations: statistics.0.expectations, ..statistics.1 });
        assert_eq!(self.list(true), self.list(false));
        for zone in 0..2 {
            assert_eq!(self.real.zones.unanswered(zone), self.naive.unanswered(zone));
        }
    }

    fn list(&self, real: bool) -> Vec<String> {
        let mut list = Vec::new();
        let mut visit = |connection: &Connection| list.push(format!("{connection:?}"));
        if real {
            self.real.list(&Filter::default(), self.second, &mut visit);
        } else {
            self.naive.list(&Filter::default(), self.second, &mut visit);
        }
        list.sort();
        list
    }

    fn facts(&self, packet: &Packet) -> Facts {
        let tuple = self.tuples[packet.tuple % self.tuples.len()];
        let tuple = if packet.turned { tuple.reversed() } else { tuple };
        if packet.error && tuple.family == Family::V4 {
            let outer = Tuple {
                src: 77,
                dst: tuple.src,
                src_port: 0,
                dst_port: Tuple::icmp(3, 3),
                protocol: 1,
                ..tuple
            };
            return Facts { tuple: outer, inner: Some(tuple), valid: true, tcp: None };
        }
        let tcp = (tuple.protocol == 6).then_some(packet.segment);
        Facts { tuple, tcp, inner: None, valid: true }
    }

    fn packet(&mut self, packet: &Packet) {
        let facts = self.facts(packet);
        let commit = packet.commit.as_ref();
        let request = |effects| Request {
            zone: packet.zone,
            facts: &facts,
            before: None,
            commit,
            translate: packet.translate,
            second: self.second,
            effects,
        };
        let foretold = self.real.track(&request(false));
        let there = self.there();
        let real = self.real.track(&request(true));
        self.put_out(there, &real, (packet.zone, &facts));
        let naive = self.naive.track(&request(true));
        assert_eq!(bare(&real), bare(&naive));
        assert_eq!(bare(&foretold), bare(&real), "the trace was right");
        assert_eq!(real.link.is_connection(), naive.link.is_connection());
        self.said.push((facts, packet.zone, packet.commit, packet.translate, real, naive));
        if let Some(translation) = real.translation {
            self.tuples.push(translation.tuple.reversed());
        }
        if let Some(zone) = packet.again {
            self.again(zone, packet, facts, (real, naive));
        }
    }

    /// Connections in the index, by slot.
    fn there(&self) -> Vec<(usize, Who)> {
        let shown = |slot: usize| {
            let entry = self.real.arena.get(slot).filter(|entry| entry.linked())?;
            let (Image { zone, original, helper, .. }, _) = entry.read()?;
            let (answered, expired) = (entry.is_answered(), self.second >= entry.expiry());
            Some((slot, Who { zone, original, helper, answered, expired }))
        };
        (1..self.real.arena.end()).filter_map(shown).collect()
    }

    /// Tells the maps who has made room, which has to be one who may; and holds a refusal against them.
    fn put_out(&self, before: Vec<(usize, Who)>, real: &Tracked, (zone, facts): (u16, &Facts)) {
        let Some(tuple) = facts.key() else { return };
        let counted = |statistics: &Statistics| statistics.early_drop + statistics.expired;
        let gone = counted(&self.real.statistics()) - counted(&self.naive.statistics());
        assert!(gone <= 1, "one makes room for one");
        if gone == 1 {
            let now = self.there();
            let (_, who) = before.into_iter().find(|there| !now.contains(there)).unwrap();
            self.naive.put_out(who, (zone, tuple), self.second);
        } else if real.refused == Some(Refusal::Full) {
            assert!(!self.naive.has_candidates(zone, &tuple, self.second));
        }
    }

    fn again(&mut self, zone: u16, packet: &Packet, mut facts: Facts, (real, naive): (Tracked, Tracked)) {
        if let Some(translation) = real.translation.filter(|_| facts.inner.is_none()) {
            facts.tuple = translation.tuple;
        }
        let commit = packet.commit.as_ref();
        let common = Request {
            zone,
            facts: &facts,
            before: None,
            commit,
            translate: true,
            second: self.second,
            effects: true,
        };
        let there = self.there();
        let real = self.real.track(&Request { before: Some(real.before()), ..common });
        self.put_out(there, &real, (zone, &facts));
        let naive = self.naive.track(&Request { before: Some(naive.before()), ..common });
        assert_eq!(bare(&real), bare(&naive), "the second time");
    }

    fn step(&mut self, at: usize, segment: Segment) {
        if self.said.is_empty() {
            return;
        }
        let (mut facts, zone, commit, translate, real, naive) = self.said[at % self.said.len()];
        facts.tcp = facts.tcp.map(|_| segment);
        let fresh = self.naive.track(&Request {
            zone,
            facts: &facts,
            before: None,
            commit: commit.as_ref(),
            translate,
            second: self.second,
            effects: false,
        });
        let same = Tracked { created: false, ..bare(&fresh) } == bare(&real);
        let steps = self.real.step(real.link, self.second, || Some(segment));
        assert!(!steps || same, "a hit would say {real:?}, but it is {fresh:?}");
        let oracle = self.naive.step(naive.link, self.second, || Some(segment));
        if naive.link.is_connection() {
            assert_eq!(steps, oracle);
            assert_eq!(self.real.holds(real.link, self.second), self.naive.holds(naive.link, self.second));
            if steps && translate {
                assert_eq!(self.real.translation(real.link), real.translation);
            }
        }
    }

    fn expect(&mut self, at: usize, tuple: u16, translation: Option<(Side, u128)>) {
        if self.said.is_empty() {
            return;
        }
        let (.., real, naive) = self.said[at % self.said.len()];
        let tuple = Tuple { src_port: 0, ..self.tuples[usize::from(tuple)] };
        let expected = |parent| Expected { parent, tuple, any_source: false, translation };
        assert_eq!(
            self.real.expect(&expected(real.connection), self.second),
            self.naive.expect(&expected(naive.connection), self.second)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_table_says_what_maps_say(ops in prop::collection::vec(ops(), 1..120)) {
        let mut pair = Pair::new();
        ops.iter().for_each(|op| pair.run(op));
    }
}
