//! Several workers at once: one connection per tuple, unique translations, answers in one piece, nothing left behind.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use weft_conntrack::{
    Choice, Commit, Connections, Facts, Family, Filter, Link, Masked, Nat, Request, Segment, Settings, Side,
    State, Tracked, Tuple, flags,
};

fn tracker(max: u32) -> Connections {
    Connections::new(Settings { max, secret: [11, 12], expectations: 16 }).unwrap()
}

fn udp(number: u32) -> Tuple {
    let (src_port, src) = (1024 + (number & 0x3fff) as u16, 0x0a00_0000 + u128::from(number >> 14));
    Tuple { src, dst: 0x0b00_0001, src_port, dst_port: 53, protocol: 17, family: Family::V4 }
}

fn track(tracker: &Connections, tuple: Tuple, commit: Option<&Commit>, second: u32) -> Tracked {
    let facts = Facts { tuple, valid: true, ..Facts::default() };
    let translate = commit.is_some_and(|commit| commit.nat.is_some());
    tracker.track(&Request { zone: 1, facts: &facts, before: None, commit, translate, second, effects: true })
}

#[test]
fn two_directions_that_start_at_the_same_moment_make_one_connection() {
    const ROUNDS: u32 = 400_000;
    // Two at once may hold a place each for a moment.
    let tracker = tracker(ROUNDS + 1);
    let (barrier, commit) = (Barrier::new(2), Commit::default());
    let run = |turned: bool| {
        let mut created = 0;
        for number in 0..ROUNDS {
            if number % 256 == 0 {
                barrier.wait();
            }
            let tuple = if turned { udp(number).reversed() } else { udp(number) };
            let answer = track(&tracker, tuple, Some(&commit), 1);
            assert!(!answer.state.has(State::INV) && answer.refused.is_none(), "{answer:?}");
            created += u32::from(answer.created);
        }
        created
    };
    let (one, other) = thread::scope(|scope| {
        let (one, other) = (scope.spawn(|| run(false)), scope.spawn(|| run(true)));
        (one.join().unwrap(), other.join().unwrap())
    });
    assert_eq!(one + other, ROUNDS, "{one} by one, {other} by the other");
    let statistics = tracker.statistics();
    assert_eq!((statistics.connections, statistics.created), (ROUNDS, u64::from(ROUNDS)));
    let mut seen = HashSet::new();
    tracker.list(&Filter::default(), 1, &mut |connection| {
        assert!(seen.insert(connection.original.min(connection.reply)));
    });
    assert_eq!(seen.len(), ROUNDS as usize);
}

#[test]
fn translations_that_workers_choose_at_once_are_unique() {
    let tracker = tracker(100_000);
    let nat =
        |choice| Nat { side: Side::Source, addresses: Some((99, 100)), ports: Some((2000, 21_999)), choice };
    let barrier = Barrier::new(4);
    thread::scope(|scope| {
        for worker in 0..4 {
            let (tracker, barrier) = (&tracker, &barrier);
            scope.spawn(move || {
                let choice = if worker % 2 == 0 { Choice::Hash } else { Choice::Random };
                let commit = Commit { nat: Some(nat(choice)), ..Commit::default() };
                barrier.wait();
                for number in 0..7000 {
                    let answer = track(tracker, udp(number + worker * 7000), Some(&commit), 1);
                    assert!(answer.refused.is_none(), "{answer:?}");
                    let out = answer.translation.unwrap().tuple;
                    let back = track(tracker, out.reversed(), None, 1);
                    assert_eq!(back.original, Some(udp(number + worker * 7000)));
                    assert!(back.state.has(State::EST | State::RPL));
                }
            });
        }
    });
    let mut replies = HashSet::new();
    tracker.list(&Filter::default(), 1, &mut |connection| assert!(replies.insert(connection.reply)));
    assert_eq!(replies.len(), 28_000);
}

#[test]
fn mark_and_label_are_always_seen_together() {
    let tracker = tracker(1000);
    let commit = |number: u32| Commit {
        mark: Masked { value: number, mask: u32::MAX },
        label: Masked { value: u128::from(number) << 64 | u128::from(number), mask: u128::MAX },
        ..Commit::default()
    };
    track(&tracker, udp(1), Some(&commit(0)), 1);
    track(&tracker, udp(1).reversed(), None, 1);
    let read = || {
        for _ in 0..50_000 {
            let seen = track(&tracker, udp(1).reversed(), None, 1);
            assert_eq!(seen.label, u128::from(seen.mark) << 64 | u128::from(seen.mark));
        }
    };
    thread::scope(|scope| {
        let readers = [scope.spawn(read), scope.spawn(read)];
        let mut number = 0;
        while readers.iter().any(|reader| !reader.is_finished()) {
            number += 1;
            let answer = track(&tracker, udp(1), Some(&commit(number)), 1);
            assert_eq!(answer.mark, number);
            assert!(tracker.holds(answer.connection, 1));
        }
        assert!(number > 1);
    });
}

/// A TCP connection whose two directions are two workers' at once.
struct Stream {
    tuple: Tuple,
    /// What each end has sent, and so what the other may acknowledge.
    sent: [AtomicU32; 2],
    /// What each end has acknowledged.
    acknowledged: [AtomicU32; 2],
}

impl Stream {
    /// What one end sends: data as far as the window goes, and acknowledgements of all that has come.
    fn segment(&self, end: usize) -> Segment {
        let seq = self.sent[end].load(Ordering::Acquire);
        let room = 60_000 - seq.wrapping_sub(self.acknowledged[1 - end].load(Ordering::Acquire));
        let ack = self.sent[1 - end].load(Ordering::Acquire);
        Segment { seq, ack, window: 60_000, flags: flags::ACK, payload: room.min(1400), scale: None }
    }

    /// The tracker has seen it.
    fn seen(&self, end: usize, segment: &Segment) {
        self.sent[end].store(segment.seq.wrapping_add(segment.payload), Ordering::Release);
        self.acknowledged[end].store(segment.ack, Ordering::Release);
    }
}

#[test]
fn two_workers_slide_the_windows_of_one_connection_and_nothing_is_invalid() {
    let tracker = tracker(10);
    let start = u32::MAX - 1_000_000;
    let at = || [AtomicU32::new(start), AtomicU32::new(start)];
    let stream = Stream { tuple: Tuple { protocol: 6, ..udp(1) }, sent: at(), acknowledged: at() };
    let see = |end: usize, segment: Segment| {
        let tuple = if end == 0 { stream.tuple } else { stream.tuple.reversed() };
        let facts = Facts { tuple, tcp: Some(segment), valid: true, inner: None };
        let commit = Commit::default();
        let (before, commit) = (None, Some(&commit));
        tracker.track(&Request {
            zone: 1,
            facts: &facts,
            before,
            commit,
            translate: false,
            second: 1,
            effects: true,
        })
    };
    let shake = |seq, ack, flags| Segment { seq, ack, window: 60_000, flags, payload: 0, scale: None };
    see(0, shake(start - 1, 0, flags::SYN));
    see(1, shake(start - 1, start, flags::SYN | flags::ACK));
    assert!(see(0, shake(start, start, flags::ACK)).state.has(State::EST));
    let run = &|end: usize| {
        let (mut link, mut steps) = (Link::NEVER, 0);
        for number in 0..300_000 {
            let segment = stream.segment(end);
            if number % 100 != 0 && tracker.step(link, 1, || Some(segment)) {
                steps += 1;
            } else {
                let answer = see(end, segment);
                assert!(answer.state.has(State::EST), "{segment:?} is {}", answer.state);
                link = answer.link;
            }
            stream.seen(end, &segment);
        }
        steps
    };
    let steps: Vec<i32> = thread::scope(|scope| {
        let workers = [0, 1].map(|end| scope.spawn(move || run(end)));
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    assert!(steps.iter().all(|&steps| steps > 290_000), "{steps:?}");
}

#[test]
fn what_is_flushed_is_gone_for_every_worker_and_nothing_is_left_behind() {
    let tracker = tracker(2000);
    let (second, done) = (AtomicU32::new(1), AtomicBool::new(false));
    let nat = Nat { side: Side::Source, addresses: Some((99, 99)), ports: None, choice: Choice::Hash };
    let work = &|worker: u32| {
        let commits = [Commit::default(), Commit { nat: Some(nat), ..Commit::default() }];
        let mut links = vec![Link::NEVER; 64];
        let mut number = worker;
        while !done.load(Ordering::Relaxed) {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let now = second.load(Ordering::Relaxed);
            let tuple = udp(number >> 8 & 0x7ff);
            let tuple = if number >> 20 & 3 == 0 { tuple.reversed() } else { tuple };
            let commit = commits.get((number >> 22 & 1) as usize);
            let answer = track(&tracker, tuple, commit, now);
            assert!(!answer.state.has(State::INV), "{answer:?}");
            links[(number >> 24 & 63) as usize] = answer.connection;
            for link in &links {
                tracker.step(*link, now, || None);
                tracker.translation(*link);
            }
        }
    };
    thread::scope(|scope| {
        for worker in 0..3 {
            scope.spawn(move || work(worker));
        }
        for round in 0u32.. {
            if round >= 300 && tracker.statistics().created > 50_000 {
                break;
            }
            thread::yield_now();
            let now = second.fetch_add(7, Ordering::Relaxed);
            tracker.expire(now, 500);
            let filter = Filter {
                mark: Masked::default(),
                original: weft_conntrack::Partial {
                    src_port: Some(1024 + (round % 300) as u16),
                    ..Default::default()
                },
                ..Filter::default()
            };
            tracker.flush(&filter, now);
            if round % 10 == 0 {
                tracker.flush(&Filter::default(), now);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let now = second.load(Ordering::Relaxed);
    let links: Vec<Link> =
        (0..2048).map(|number| track(&tracker, udp(number), None, now).connection).collect();
    tracker.flush(&Filter::default(), now);
    assert!(links.iter().all(|&link| !tracker.holds(link, now) && !tracker.step(link, now, || None)));
    tracker.expire(now, 1 << 20);
    tracker.expire(now + 100_000, 1 << 20);
    let statistics = tracker.statistics();
    assert_eq!((statistics.connections, tracker.zones()), (0, vec![]));
    let ended = statistics.flushed + statistics.expired + statistics.replaced + statistics.early_drop;
    assert_eq!(statistics.created, ended);
    assert!(statistics.created > 1000, "{statistics:?}");
}
