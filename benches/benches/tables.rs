//! What changes of flow tables cost: one rule among many, all rules at once, and the memory of a rule.
//!
//! Medians of single changes, publication included. `cargo test` runs it once, small.

#![allow(clippy::unwrap_used, reason = "a bench that can't go on ends")]

use std::time::{Duration, Instant};

use allocation_counter::measure;
use weft_core::tables::{Change, Extent, FlowTables, TableId};
use weft_flow::message::{FlowCommand, FlowMod};
use weft_flow::{Action, Field, Match, Subfield};
use weft_wire::OfPort;

const NOW: Duration = Duration::from_secs(1);

/// A mixing function, so that the rules are the same in every run.
fn random(seed: u64) -> u64 {
    let mixed = (seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ mixed >> 31).wrapping_mul(0x94d0_49bb_1331_11eb) ^ mixed >> 29
}

/// `table=20, dl_vlan, dl_dst, actions=..,output`: what br-tun learns.
fn station(number: u64) -> FlowMod {
    FlowMod {
        table: Some(20),
        priority: 1,
        matches: Match::any()
            .with_masked(Field::VlanTci, u128::from(number % 100), 0x0fff)
            .with(Field::EthDst, u128::from(random(number) & 0xfeff_ffff_ffff)),
        actions: Box::new([
            Action::StripVlan,
            Action::SetTunnel { id: number % 100, wide: false },
            Action::Output(OfPort((number % 50) as u16)),
        ]),
        ..FlowMod::default()
    }
}

/// The same with timeouts, and with actions that no other has.
fn learned(number: u64) -> FlowMod {
    let station = station(number);
    let load = Action::Load { target: Subfield::whole(Field::Reg0), value: number.into() };
    let actions = station.actions.iter().cloned().chain([load]).collect();
    FlowMod { actions, hard_timeout: 300, ..station }
}

/// `ip, tcp, nw_src/prefix, nw_dst/prefix, tp_dst`: an access list.
fn filter(number: u64) -> FlowMod {
    let (random, lengths) = (random(number), random(number ^ 1 << 40));
    let prefix =
        |length: u64| u128::from(u32::MAX << (32 - [8, 16, 20, 24, 28, 32, 32, 32][length as usize % 8]));
    let masked = |value: u64, length: u64| (u128::from(value & 0xffff_ffff) & prefix(length), prefix(length));
    let (source, destination) = (masked(random, lengths), masked(random >> 32, lengths >> 8));
    FlowMod {
        priority: (number % 1000) as u16,
        matches: Match::any()
            .with(Field::EthType, 0x0800)
            .with(Field::NwProto, 6)
            .with_masked(Field::IpSrc, source.0, source.1)
            .with_masked(Field::IpDst, destination.0, destination.1)
            .with(Field::TcpDst, u128::from(number % 0xffff)),
        actions: Box::new([Action::Resubmit { in_port: None, table: Some(1), ct: false }]),
        ..FlowMod::default()
    }
}

/// Octets that the process has in memory.
fn resident() -> i64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<i64>().unwrap() * 4096
}

fn median(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// Changes of single rules among `count`.
fn single(name: &str, rule: fn(u64) -> FlowMod, count: u64) {
    let tables = FlowTables::new();
    let before = resident();
    let start = Instant::now();
    let info = measure(|| {
        // Bundle by bundle, so that the messages take no room of their own.
        let numbers: Vec<u64> = (0..count).collect();
        for numbers in numbers.chunks(1000) {
            let changes: Vec<_> = numbers.iter().map(|&number| Change::Flow(rule(number))).collect();
            tables.prepare(&changes, NOW).unwrap().commit();
        }
    });
    let took = start.elapsed();
    println!(
        "{name:>8} {count:>7} rules: {:>4} B a rule ({} B of the process's memory), {took:>8.1?} by thousands",
        info.bytes_current / count as i64,
        (resident() - before) / count as i64
    );
    let rounds = count.min(5000);
    for (verb, command, first) in [
        ("add", FlowCommand::Add, count),
        ("modify", FlowCommand::ModifyStrict, count),
        ("delete", FlowCommand::DeleteStrict, count),
        ("delete", FlowCommand::Delete, 0),
    ] {
        let timed = |number: u64| {
            let change = Change::Flow(FlowMod { command, ..rule(first + number * 7 % count) });
            let start = Instant::now();
            tables.prepare(std::slice::from_ref(&change), NOW).unwrap().commit();
            start.elapsed()
        };
        let (median, worst) = median((0..rounds).map(timed).collect());
        println!(
            "{name:>8} {verb:>15} one: median {median:>8.1?}, of 100 the worst {worst:>8.1?} ({command:?})"
        );
    }
    let learned = |number: u64| {
        let flow = rule(10 * count + number);
        let start = Instant::now();
        tables.learn(&flow, 0, NOW);
        start.elapsed()
    };
    println!("{name:>8} {:>15} one: median {:>8.1?}", "learn", median((0..rounds).map(learned).collect()).0);
    println!(
        "{name:>8} {:>15} one: median {:>8.1?}",
        "learn again",
        median((0..rounds).map(learned).collect()).0
    );
}

/// All rules, half of them other ones than before.
fn replace(count: u64) {
    let tables = FlowTables::new();
    let flows = |first: u64| -> Vec<_> { (first..first + count).map(filter).collect() };
    tables.replace(Extent::Users, &flows(0), NOW).unwrap().commit();
    let version = tables.version();
    for (what, wanted) in
        [("half of", flows(count / 2)), ("none of", flows(count / 2)), ("all", flows(9 * count))]
    {
        let start = Instant::now();
        let prepared = tables.replace(Extent::Users, &wanted, NOW).unwrap();
        let ready = start.elapsed();
        let outcome = prepared.commit();
        let commit = start.elapsed() - ready;
        println!(
            " replace {what} {count} rules: ready in {ready:.1?}, published and freed in {commit:.1?}: {outcome:?}"
        );
    }
    assert_eq!(tables.version(), version + 2);
    let start = Instant::now();
    let reach = tables.load().reads(TableId::FIRST);
    println!(" reads {:.1?}, {} edges", start.elapsed(), reach.edges.len());
}

fn main() {
    let small = !std::env::args().any(|argument| argument == "--bench");
    let scale = |count: u64| if small { count / 1000 } else { count };
    for count in [200_000, 1_000, 10_000, 100_000] {
        single("stations", station, scale(count));
        single("learned", learned, scale(count));
        single("filters", filter, scale(count));
    }
    replace(scale(100_000));
}
