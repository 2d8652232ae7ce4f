//! What connection tracking costs: the step of a hit, a packet of a known connection that the flow cache missed, a new
//! connection, the sweep, and memory.
//!
//! Hits come in bursts of 32, each prefetched before the first is taken, as the packet path does it, and in an order that
//! the prefetcher can't guess. `cargo test` runs it once, small.

#![allow(clippy::unwrap_used, reason = "a bench that can't go on ends")]

use std::hint::black_box;

use allocation_counter::measure;
use weft_conntrack::{
    Choice, Commit, Connections, Expected, Facts, Family, Helper, Link, Nat, Request, Segment, Settings,
    Side, Tracked, Tuple, flags,
};

const BURST: usize = 32;

fn random(seed: u64) -> u64 {
    let mixed = (seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ mixed >> 31).wrapping_mul(0x94d0_49bb_1331_11eb) ^ mixed >> 29
}

fn tuple(number: u64, protocol: u8) -> Tuple {
    let mixed = random(number);
    Tuple {
        src: u128::from(0x0a00_0000 | number as u32),
        dst: u128::from(0x0b00_0000 | mixed as u32 & 0xff_ffff),
        src_port: 1024 + (mixed >> 32) as u16 % 60_000,
        dst_port: 80,
        protocol,
        family: Family::V4,
    }
}

fn tracker(max: u32) -> Connections {
    Connections::new(Settings { max, secret: [1, 2], ..Settings::default() }).unwrap()
}

fn track(tracker: &Connections, tuple: Tuple, tcp: Option<Segment>, commit: Option<&Commit>) -> Tracked {
    let facts = Facts { tuple, tcp, valid: true, inner: None };
    let translate = commit.is_some_and(|commit| commit.nat.is_some());
    tracker.track(&Request {
        zone: 1,
        facts: &facts,
        before: None,
        commit,
        translate,
        second: 1,
        effects: true,
    })
}

fn segment(seq: u32, ack: u32, flags: u8, payload: u32) -> Segment {
    Segment { seq, ack, window: 60_000, flags, payload, scale: Some(7) }
}

/// Nanoseconds of the processor for each of `count` times: others may use it, too.
fn nanoseconds(count: usize, work: impl FnOnce()) -> f64 {
    let start = on_processor();
    work();
    (on_processor() - start) as f64 / count as f64
}

/// Nanoseconds that this thread has had so far.
fn on_processor() -> u64 {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    statistics.split(' ').next().unwrap().parse().unwrap()
}

/// The best of a few rounds: the machine isn't ours alone.
fn best(rounds: usize, mut round: impl FnMut() -> f64) -> f64 {
    (0..rounds).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// An established connection for each number, and its link.
fn established(tracker: &Connections, count: u64, protocol: u8) -> Vec<Link> {
    let tcp = |segment| (protocol == 6).then_some(segment);
    let commit = Commit::default();
    let one = |number| {
        let tuple = tuple(number, protocol);
        track(tracker, tuple, tcp(segment(100, 0, flags::SYN, 0)), Some(&commit));
        track(tracker, tuple.reversed(), tcp(segment(500, 101, flags::SYN | flags::ACK, 0)), None);
        track(tracker, tuple, tcp(segment(101, 501, flags::ACK, 0)), None).link
    };
    (0..count).map(one).collect()
}

fn step(count: u64, protocol: u8, packets: usize, rounds: usize) {
    let tracker = tracker(count as u32 + 1000);
    let mut links = established(&tracker, count, protocol);
    (1..links.len()).rev().for_each(|at| links.swap(at, random(at as u64) as usize % (at + 1)));
    let data = segment(101, 501, flags::ACK | flags::PSH, 1000);
    let mut next = 0;
    let mut held = 0;
    let mut burst = || {
        let burst: [Link; BURST] = std::array::from_fn(|_| {
            let link = links[next];
            next = if next + 1 == links.len() { 0 } else { next + 1 };
            tracker.prefetch(link);
            link
        });
        held += burst.iter().filter(|&&link| tracker.step(link, 2, || Some(data))).count();
    };
    let cost = best(rounds, || nanoseconds(packets, || (0..packets / BURST).for_each(|_| burst())));
    let allocated = measure(|| (0..packets / BURST).for_each(|_| burst())).count_total;
    assert_eq!((held, allocated), ((rounds + 1) * (packets / BURST) * BURST, 0));
    let name = if protocol == 6 { "TCP" } else { "UDP" };
    println!("step, {name}, {count:>7} connections: {cost:6.1} ns a packet, no allocation");
}

fn known(count: u64) {
    let tracker = tracker(count as u32 + 1000);
    established(&tracker, count, 17);
    let cost = best(5, || {
        nanoseconds(count as usize, || {
            (0..count).for_each(|number| {
                black_box(track(&tracker, tuple(number, 17), None, None));
            });
        })
    });
    println!("track, UDP, known, {count:>7} connections: {cost:6.1} ns a packet");
}

/// How the packets of new connections come.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Commit,
    LookThenCommit,
    /// The same, in bursts whose tuples are prefetched.
    Foreseen,
}

fn new(name: &str, count: u64, commit: &Commit, way: Way) {
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let tracker = tracker(count as u32);
        let mut created = 0;
        let mut allocated = 0;
        let cost = nanoseconds(count as usize, || {
            let counted = measure(|| {
                for number in 0..count {
                    let tuple = tuple(number, 17);
                    if way == Way::Foreseen && number % BURST as u64 == 0 {
                        (number..number + BURST as u64)
                            .for_each(|number| tracker.prefetch_tuple(1, &self::tuple(number, 17)));
                    }
                    if way != Way::Commit {
                        black_box(track(&tracker, tuple, None, None));
                    }
                    created += u64::from(track(&tracker, tuple, None, Some(commit)).created);
                }
            });
            allocated = counted.count_total;
        });
        assert_eq!((created, allocated), (count, 0));
        best = best.min(cost);
    }
    println!("new UDP connections, {count}, {name}: {best:6.1} ns each, no allocation");
}

/// The same when the slots have been used before: memory that is mapped already.
fn again(count: u64) {
    let tracker = tracker(count as u32);
    let commit = Commit::default();
    let mut cost = f64::INFINITY;
    for round in 0..3 {
        let each = nanoseconds(count as usize, || {
            (0..count).for_each(|number| {
                track(&tracker, tuple(number + round * count, 17), None, Some(&commit));
            });
        });
        cost = if round == 0 { cost } else { cost.min(each) };
        let sweep =
            nanoseconds(count as usize, || assert_eq!(tracker.expire(1000, usize::MAX), count as usize));
        println!("sweep, all of {count} expired: {sweep:6.1} ns each");
    }
    println!("new UDP connections, {count}, in used memory: {cost:6.1} ns each");
    let idle = nanoseconds(count as usize, || assert_eq!(tracker.expire(1000, usize::MAX), 0));
    println!("sweep, nothing to do: {idle:6.1} ns an entry");
}

/// New connections in a table that is full: of those that nobody has answered, one makes room for each; of those that were answered, none
/// does, and each is refused.
fn full(count: u64, answered: bool) {
    let tracker = tracker(count as u32);
    let commit = Commit::default();
    for number in 0..count {
        track(&tracker, tuple(number, 17), None, Some(&commit));
        if answered {
            track(&tracker, tuple(number, 17).reversed(), None, None);
        }
    }
    let mut next = count;
    let cost = best(3, || {
        nanoseconds(count as usize, || {
            let counted = measure(|| {
                for _ in 0..count {
                    let made = track(&tracker, tuple(next, 17), None, Some(&commit)).created;
                    assert_eq!(made, !answered);
                    next += 1;
                }
            });
            assert_eq!(counted.count_total, 0);
        })
    });
    let name = if answered { "answered: refused" } else { "unanswered: others make room" };
    println!("new UDP connections, {count}, in a table full of {name}: {cost:6.1} ns each, no allocation");
}

/// What one client's announcements cost, him and others: `parents` control connections expect as many connections as they may, and one of
/// them goes on.
fn expected(parents: u64, many: u64) {
    let tracker = tracker(100_000);
    let helped = Commit { helper: Some(Helper::Ftp), ..Commit::default() };
    let control = |number: u64| Tuple { dst_port: 21, ..tuple(number, 6) };
    let syn = Some(segment(100, 0, flags::SYN, 0));
    let links: Vec<Link> =
        (0..parents).map(|number| track(&tracker, control(number), syn, Some(&helped)).connection).collect();
    let expect = |number: u64, port: u64| {
        let tuple =
            Tuple { src_port: 0, dst_port: 1024 + (port % 60_000) as u16, ..control(number).reversed() };
        let parent = links[number as usize];
        let _ = tracker.expect(&Expected { parent, tuple, any_source: false, translation: None }, 1);
    };
    let strangers = || (0..many).map(|number| track(&tracker, tuple(1 << 20 | number, 17), None, None).link);
    let look =
        |()| best(3, || nanoseconds(many as usize, || assert!(strangers().all(|link| link != Link::NEVER))));
    let alone = look(());
    (0..parents).for_each(|number| (0..16).for_each(|port| expect(number, port)));
    let among = look(());
    let all = tracker.statistics().expectations;
    let links: Vec<Link> = strangers().collect();
    let mut port = 100;
    let mut announce = || {
        expect(0, port);
        port += 1;
    };
    (0..100).for_each(|_| announce());
    let held = links.iter().filter(|&&link| tracker.holds(link, 1)).count();
    let cost = best(3, || nanoseconds(many as usize, || (0..many).for_each(|_| announce())));
    println!(
        "expected, {all}: {cost:6.1} ns to expect one more; a tuple without connection {among:.1} ns (none expected: {alone:.1})"
    );
    println!("expected, 100 more: {held} of {} links of others hold", links.len());
}

fn memory(count: u32) {
    let before = resident();
    let tracker = tracker(count);
    let nat = Nat { side: Side::Source, addresses: Some((99, 99 << 16)), ports: None, choice: Choice::Hash };
    let commit = Commit { nat: Some(nat), ..Commit::default() };
    let created = (0..u64::from(count))
        .filter(|&number| track(&tracker, tuple(number, 17), None, Some(&commit)).created);
    let created = created.count();
    let used = resident() - before;
    println!(
        "memory, {created} of {count} translated connections: {:.0} octets each mapped, {:.0} resident, {:.2} GiB",
        tracker.octets() as f64 / f64::from(count),
        used as f64 / f64::from(count),
        used as f64 / f64::from(1u32 << 30),
    );
}

/// Octets of memory that the process has.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// What this machine takes at the moment to bring a cache line from memory: the unit of what is random below.
fn yardstick(lines: usize) {
    let mut table = weft_io::mem::HugeTable::<[u64; 8]>::new(lines).unwrap();
    let mut order: Vec<usize> = (0..lines).collect();
    (1..lines).rev().for_each(|at| order.swap(at, random(at as u64) as usize % (at + 1)));
    (0..lines).for_each(|at| table[order[at]][0] = order[(at + 1) % lines] as u64);
    let mut at = 0;
    let cost = best(3, || nanoseconds(lines, || (0..lines).for_each(|_| at = table[at][0] as usize)));
    black_box(at);
    println!("one cache line of {} KiB, at random: {cost:.1} ns", lines / 16);
}

fn main() {
    let quick = !std::env::args().any(|argument| argument == "--bench");
    let (packets, rounds, many) = if quick { (3200, 1, 1000) } else { (3_200_000, 5, 1_000_000) };
    yardstick(if quick { 1000 } else { 1 << 20 });
    for count in [1, 1000, 10_000, 100_000] {
        step(if quick { count.min(1000) } else { count }, 17, packets, rounds);
    }
    for count in [1, 1000, 100_000] {
        step(if quick { count.min(1000) } else { count }, 6, packets, rounds);
    }
    known(if quick { 1000 } else { 100_000 });
    let nat = Nat { side: Side::Source, addresses: Some((99, 1099)), ports: None, choice: Choice::Hash };
    new("commit", many, &Commit::default(), Way::Commit);
    new("look, then commit", many, &Commit::default(), Way::LookThenCommit);
    new("look, then commit, prefetched", many, &Commit::default(), Way::Foreseen);
    new("commit with translation", many, &Commit { nat: Some(nat), ..Commit::default() }, Way::Commit);
    again(many);
    expected(if quick { 16 } else { 255 }, if quick { 100 } else { 200_000 });
    full(many, false);
    full(many, true);
    memory(if quick { 1000 } else { 4_000_000 });
}
