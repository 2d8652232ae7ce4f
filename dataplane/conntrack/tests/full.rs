//! A full table: who fills it keeps nobody else from beginning, and nobody who was answered is put out.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::sync::Barrier;
use std::thread;

use proptest::prelude::*;
use weft_conntrack::{
    Choice, Commit, Connections, Expected, Facts, Family, Filter, Helper, Link, Nat, Refusal, Request,
    Segment, Settings, Side, State, Tracked, Tuple, flags,
};

fn tracker(max: u32) -> Connections {
    Connections::new(Settings { max, secret: [21, 22], expectations: 16 }).unwrap()
}

/// The `number`th connection of a client.
fn udp(client: u8, number: u32) -> Tuple {
    Tuple {
        src: 0x0a00_0000 + u128::from(client),
        dst: 0x0b00_0000 + u128::from(number >> 14),
        src_port: 1024 + (number & 0x3fff) as u16,
        dst_port: 53,
        protocol: 17,
        family: Family::V4,
    }
}

fn request(
    tracker: &Connections,
    zone: u16,
    facts: &Facts,
    commit: Option<&Commit>,
    effects: bool,
) -> Tracked {
    let translate = commit.is_some_and(|commit| commit.nat.is_some());
    tracker.track(&Request { zone, facts, before: None, commit, translate, second: 1, effects })
}

fn track(tracker: &Connections, zone: u16, tuple: Tuple) -> Tracked {
    let facts = Facts { tuple, valid: true, ..Facts::default() };
    request(tracker, zone, &facts, Some(&Commit::default()), true)
}

fn tcp(tracker: &Connections, tuple: Tuple, (seq, ack, flags): (u32, u32, u8)) -> Tracked {
    let segment = Segment { seq, ack, window: 1000, flags, payload: 0, scale: None };
    let facts = Facts { tuple, tcp: Some(segment), valid: true, inner: None };
    request(tracker, 1, &facts, Some(&Commit::default()), true)
}

fn listed(tracker: &Connections) -> Vec<(u16, Tuple)> {
    let mut list = Vec::new();
    tracker.list(&Filter::default(), 1, &mut |connection| list.push((connection.zone, connection.original)));
    list
}

/// Begins connections that nobody answers.
struct Attacker<'a> {
    tracker: &'a Connections,
    zone: u16,
    next: u32,
}

impl Attacker<'_> {
    fn send(&mut self, count: u32) {
        for _ in 0..count {
            track(self.tracker, self.zone, udp(1, self.next));
            self.next += 1;
        }
    }
}

#[test]
fn who_fills_the_table_keeps_nobody_from_beginning() {
    const VICTIMS: u32 = 1000;
    let tracker = tracker(10_000);
    let mut attacker = Attacker { tracker: &tracker, zone: 1, next: 0 };
    attacker.send(30_000);
    let mut links = Vec::new();
    for number in 0..VICTIMS {
        // In another zone, and in the attacker's own.
        for (zone, client) in [(2, 2), (1, 3)] {
            let begun = track(&tracker, zone, udp(client, number));
            assert!(begun.created, "{number} of zone {zone}: {:?}", begun.refused);
            attacker.send(20);
            let answered = track(&tracker, zone, udp(client, number).reversed());
            assert_eq!(answered.state, State::EST | State::RPL | State::TRK, "{number} of zone {zone}");
            links.push(answered.link);
        }
    }
    attacker.send(100_000);
    assert!(links.iter().all(|&link| tracker.holds(link, 1) && tracker.step(link, 1, || None)));
    let statistics = tracker.statistics();
    assert_eq!((statistics.connections, statistics.refused_full), (10_000, 0));
    assert_eq!(statistics.created, 10_000 + statistics.early_drop);
    assert_eq!(tracker.zones(), [(1, 9000), (2, 1000)]);
}

#[test]
fn two_workers_in_a_table_full_of_unanswered_ones_find_room() {
    const EACH: u32 = 200_000;
    for zones in [[1, 1], [1, 2]] {
        let tracker = tracker(5000);
        let barrier = Barrier::new(2);
        let work = |client: u8, zone: u16| {
            barrier.wait();
            (0..EACH).filter(|&number| !track(&tracker, zone, udp(client, number)).created).count()
        };
        let refused: usize = thread::scope(|scope| {
            let workers =
                [(1, zones[0]), (2, zones[1])].map(|(client, zone)| scope.spawn(move || work(client, zone)));
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        // Of two zones that have as many, the one that has one more may be far from its own.
        let most = if zones[0] == zones[1] { 0 } else { EACH as usize / 100 };
        assert!(refused <= most, "{refused} were refused");
        let statistics = tracker.statistics();
        assert_eq!((statistics.connections, statistics.refused_full), (5000, refused as u64));
        assert_eq!(statistics.created, 5000 + statistics.early_drop);
    }
}

#[test]
fn a_connection_that_has_made_room_is_gone_for_the_next_packet() {
    let tracker = tracker(10);
    let first = track(&tracker, 1, udp(1, 0));
    (1..10).for_each(|number| assert!(track(&tracker, 1, udp(1, number)).created));
    assert!(tracker.holds(first.connection, 1));
    // The one that was looked at longest ago goes first.
    assert!(track(&tracker, 1, udp(1, 10)).created);
    assert!(!tracker.holds(first.connection, 1) && !tracker.step(first.connection, 1, || None));
    assert_eq!(track(&tracker, 1, udp(1, 0).reversed()).state, State::NEW | State::TRK);
    let statistics = tracker.statistics();
    assert_eq!((statistics.connections, statistics.early_drop), (10, 2));
}

#[test]
fn the_zone_with_most_unanswered_makes_room_and_never_one_with_fewer_than_the_newcomers() {
    let tracker = tracker(12);
    let begin = |zone, numbers: std::ops::Range<u32>| {
        numbers.for_each(|number| assert!(track(&tracker, zone, udp(1, number)).created));
    };
    let answer = |zone| {
        for (_, tuple) in listed(&tracker).into_iter().filter(|(of, _)| *of == zone) {
            assert!(track(&tracker, zone, tuple.reversed()).state.has(State::EST));
        }
    };
    begin(2, 0..4);
    begin(1, 0..8);
    begin(3, 0..2);
    assert_eq!(tracker.zones(), [(1, 6), (2, 4), (3, 2)]);
    begin(2, 4..6);
    assert_eq!(tracker.zones(), [(1, 5), (2, 5), (3, 2)], "in the end they have as many");
    begin(2, 8..100);
    assert_eq!(tracker.zones(), [(1, 5), (2, 5), (3, 2)], "so its own make room");
    // Those that were answered don't count: it is by far the largest, and takes of others nevertheless.
    answer(2);
    begin(2, 100..102);
    assert_eq!(tracker.zones(), [(1, 3), (2, 7), (3, 2)]);
    begin(3, 2..4);
    assert_eq!(tracker.zones(), [(1, 2), (2, 7), (3, 3)]);
    (1..=3).for_each(answer);
    assert_eq!(track(&tracker, 2, udp(1, 200)).refused, Some(Refusal::Full));
}

#[test]
fn where_all_were_answered_the_newcomer_is_refused_and_counted() {
    let tracker = tracker(2000);
    let facts = Facts { tuple: udp(2, 0), valid: true, ..Facts::default() };
    for number in 0..2000 {
        assert!(track(&tracker, 1, udp(1, number)).created);
        assert!(track(&tracker, 1, udp(1, number).reversed()).state.has(State::EST));
    }
    for _ in 0..100 {
        assert_eq!(track(&tracker, 2, udp(2, 0)).refused, Some(Refusal::Full));
        assert_eq!(tracker.begin(2, &facts, &Commit::default(), 1), None);
    }
    let statistics = tracker.statistics();
    assert_eq!((statistics.connections, statistics.refused_full, statistics.early_drop), (2000, 100, 0));
    assert_eq!(tracker.zones(), [(1, 2000)]);
    // Who has expired makes room before the sweep comes to him.
    assert!(tracker.begin(2, &facts, &Commit::default(), 40).is_some());
    assert_eq!((tracker.statistics().expired, tracker.statistics().early_drop), (1, 0));
}

#[test]
fn tcp_is_answered_from_its_third_segment_on_until_it_is_over() {
    let tracker = tracker(4);
    let tuple = |port| Tuple { protocol: 6, src_port: port, ..udp(1, 0) };
    let open = |port| {
        tcp(&tracker, tuple(port), (100, 0, flags::SYN));
        tcp(&tracker, tuple(port).reversed(), (500, 101, flags::SYN | flags::ACK));
    };
    (1..=4).for_each(open);
    for port in 1..=2 {
        tcp(&tracker, tuple(port), (101, 501, flags::ACK));
    }
    // One is open; one was reset after that; one is half open; one was reset by who began it.
    tcp(&tracker, tuple(2), (101, 501, flags::RST | flags::ACK));
    tcp(&tracker, tuple(4), (101, 501, flags::RST | flags::ACK));
    for number in 0..3 {
        assert!(track(&tracker, 1, udp(2, number)).created);
        track(&tracker, 1, udp(2, number).reversed());
    }
    assert_eq!(track(&tracker, 1, udp(2, 3)).refused, Some(Refusal::Full));
    assert!(listed(&tracker).contains(&(1, tuple(1))));
    assert_eq!(tracker.statistics().early_drop, 3);
}

#[test]
fn what_an_evicted_connection_had_is_free_again() {
    let tracker = tracker(2);
    let nat = Nat {
        side: Side::Source,
        addresses: Some((99, 99)),
        ports: Some((7000, 7000)),
        choice: Choice::Hash,
    };
    let translated = Commit { nat: Some(nat), ..Commit::default() };
    let facts = |tuple| Facts { tuple, valid: true, ..Facts::default() };
    let first = request(&tracker, 1, &facts(udp(1, 0)), Some(&translated), true);
    assert!(first.created);
    let helped = Commit { helper: Some(Helper::Tftp), ..Commit::default() };
    let parent = request(&tracker, 1, &facts(udp(1, 1)), Some(&helped), true).connection;
    let tuple = Tuple { src_port: 0, ..udp(1, 1).reversed() };
    tracker.expect(&Expected { parent, tuple, any_source: false, translation: None }, 1).unwrap();
    tracker.with_stream(parent, |stream| stream.lines[0][0] = Some(7)).unwrap();
    // Both go: the port is free for another, and nothing is expected.
    let other = request(&tracker, 1, &facts(udp(1, 2)), Some(&translated), true);
    assert_eq!(other.translation.unwrap().tuple.src_port, 7000);
    assert!(track(&tracker, 1, udp(1, 3)).created);
    let statistics = tracker.statistics();
    assert_eq!((statistics.connections, statistics.early_drop, statistics.expectations), (2, 2, 0));
    assert_eq!(tracker.with_stream(parent, |_| ()), None);
}

#[test]
fn a_parent_does_not_make_room_for_what_it_expects() {
    let tracker = tracker(2);
    let helped = Commit { helper: Some(Helper::Tftp), ..Commit::default() };
    let facts = Facts { tuple: udp(1, 0), valid: true, ..Facts::default() };
    let parent = request(&tracker, 1, &facts, Some(&helped), true).connection;
    track(&tracker, 1, udp(2, 0));
    let tuple = Tuple { src_port: 0, ..udp(1, 0).reversed() };
    tracker.expect(&Expected { parent, tuple, any_source: false, translation: None }, 1).unwrap();
    let child = track(&tracker, 1, Tuple { src_port: 4000, ..tuple });
    assert_eq!((child.created, child.state), (true, State::NEW | State::REL | State::TRK));
    assert!(tracker.holds(parent, 1));
}

#[test]
fn a_trace_foretells_who_is_let_in_and_changes_nothing() {
    let tracker = tracker(300);
    let facts = |tuple| Facts { tuple, valid: true, ..Facts::default() };
    for number in 0..300 {
        track(&tracker, 1, udp(1, number));
    }
    for number in 0..400 {
        let zone = 1 + (number % 2) as u16;
        let before = (tracker.statistics(), listed(&tracker).len());
        let foretold = request(&tracker, zone, &facts(udp(2, number)), Some(&Commit::default()), false);
        assert_eq!((tracker.statistics(), listed(&tracker).len()), before);
        let real = track(&tracker, zone, udp(2, number));
        assert_eq!((foretold.created, foretold.refused), (real.created, real.refused), "{number}");
        track(&tracker, zone, udp(2, number).reversed());
    }
    // And what they would have been answered.
    assert_eq!(tracker.statistics().refused_full, 200);
}

/// What one of two workers does: which client and number, in which zone, and whether it is answered.
type Step = (u32, u16, bool);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0u32..600, 1u16..4, prop::bool::weighted(0.2)), 1..800)
}

/// Connections that were answered.
fn work(tracker: &Connections, client: u8, steps: &[Step]) -> Vec<(u16, Tuple, Link)> {
    let mut answered = Vec::new();
    for &(number, zone, answers) in steps {
        let tuple = udp(client, number);
        let begun = track(tracker, zone, tuple);
        assert!(begun.state.any(State::NEW | State::EST) && !begun.state.has(State::INV), "{begun:?}");
        if !answers {
            continue;
        }
        let answer = track(tracker, zone, tuple.reversed());
        // Else it is gone already, and the answer has begun another, or was refused.
        if answer.state.has(State::EST) {
            answered.push((zone, tuple, answer.link));
        }
    }
    answered
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn two_workers_in_a_full_table_leave_no_tuple_twice_nothing_behind_and_put_out_nobody_who_was_answered(
        max in 1u32..300,
        both in [steps(), steps()],
        shared in any::<bool>(),
    ) {
        let tracker = tracker(max);
        let barrier = Barrier::new(2);
        let run = |client: u8, steps: &[Step]| {
            barrier.wait();
            // Of the same tuples, or each of its own.
            work(&tracker, if shared { 1 } else { client }, steps)
        };
        let answered = thread::scope(|scope| {
            let [one, two] = [(1, &both[0]), (2, &both[1])]
                .map(|(client, steps)| scope.spawn(move || run(client, steps)));
            [one.join().unwrap(), two.join().unwrap()].concat()
        });
        let listed = listed(&tracker);
        let statistics = tracker.statistics();
        prop_assert_eq!(statistics.connections as usize, listed.len());
        prop_assert!(statistics.connections <= max);
        prop_assert_eq!(statistics.created, u64::from(statistics.connections) + statistics.early_drop);
        let mut tuples = HashSet::new();
        for (zone, tuple) in listed {
            prop_assert!(tuples.insert((zone, tuple.min(tuple.reversed()))), "{tuple} twice");
        }
        for (zone, tuple, link) in answered {
            prop_assert!(tracker.holds(link, 1), "{tuple} of zone {zone} was answered");
            prop_assert!(tuples.contains(&(zone, tuple.min(tuple.reversed()))));
        }
        tracker.flush(&Filter::default(), 1);
        prop_assert_eq!((tracker.statistics().connections, tracker.zones()), (0, vec![]));
        // All slots are there again.
        for number in 0..max {
            prop_assert!(track(&tracker, 9, udp(9, number)).created);
        }
    }
}
