//! What the classifier costs, beside tuple space search: look-ups, changes, memory.
//!
//!   cargo bench -p weft-benches --bench classifier               all
//!   cargo bench -p weft-benches --bench classifier -- 'acl 1001' sets whose name and number of rules match
//!   cargo bench -p weft-benches --bench classifier -- changes    only what a change costs
//!
//! Times are CPU times of the thread; each packet is random, so that nothing but the table itself is in the cache.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a bench")]

#[path = "../../../dataplane/core/tests/rig/dice.rs"]
mod dice;
mod sets;
mod tuple_space;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use weft_core::classifier::{Classifier, Clause};
use weft_flow::{Field, Fields, Match};

use dice::Dice;
use sets::{Set, Traffic};
use tuple_space::TupleSpace;

/// What a table keeps: a handle.
type Rule = Arc<u32>;

fn clock() -> Duration {
    weft_io::thread::cpu_time().expect("a clock for CPU time")
}

/// How thorough to be: 0 only runs everything once.
struct Scope {
    lookups: usize,
    changes: usize,
}

/// Nanoseconds per look-up: the best of a few rounds, which are shorter for what is slow.
#[inline(never)]
fn measured(traffic: &Traffic, scope: &Scope, mut lookup: impl FnMut(&Fields) -> u64) -> f64 {
    let mut fields = Fields::default();
    let mut round = |from: usize, lookups: usize| {
        let (start, mut sum) = (clock(), 0_u64);
        for at in from..from + lookups {
            traffic.write(at % traffic.len().max(1), &mut fields);
            sum = sum.wrapping_add(lookup(&fields));
        }
        black_box(sum);
        (clock() - start).as_nanos() as f64 / lookups as f64
    };
    let mut best = round(0, scope.lookups / 100 + 1);
    let lookups = scope.lookups.min((2e8 / best) as usize).max(1);
    for number in 0..4 {
        best = best.min(round(number * lookups, lookups));
    }
    best
}

fn built(set: &Set, values: &[Rule]) -> Classifier<Rule> {
    let mut table = Classifier::new();
    for ((priority, matches), value) in set.rules.iter().zip(values) {
        table.insert(*priority, matches, value.clone());
    }
    table
}

fn look_ups(set: &Set, scope: &Scope) {
    let values: Vec<Rule> = (0..set.rules.len() as u32).map(Arc::new).collect();
    let start = clock();
    let table = built(set, &values);
    let build = (clock() - start).as_secs_f64();
    let memory = allocation_counter::measure(|| std::mem::forget(built(set, &values)));
    let traffic = Traffic::new(set, scope.lookups.clamp(1, 1 << 16), &mut Dice(99));
    let nothing = measured(&traffic, scope, |fields| fields.0[7]);
    let ours =
        measured(&traffic, scope, |fields| table.lookup(fields).map_or(0, |(_, rule)| u64::from(**rule)));
    let others = [false, true].map(|tries| {
        let tuples = TupleSpace::new(&set.rules, tries);
        compare(set, &table, &tuples, &traffic);
        measured(&traffic, scope, |fields| tuples.lookup(fields).map_or(0, u64::from)) - nothing
    });
    println!(
        "{:22} {:7} {:6} {:9.1} {:9.1} {:9.1} {:8.2} {:7.0} {:7.0}",
        set.name,
        set.rules.len(),
        sets::masks(set),
        ours - nothing,
        others[0],
        others[1],
        build * 1e6 / set.rules.len() as f64,
        build * 1e3,
        memory.bytes_current as f64 / set.rules.len() as f64,
    );
}

/// Both have to find a rule of the same priority (of a rule that came twice they keep different ones).
fn compare(set: &Set, table: &Classifier<Rule>, tuples: &TupleSpace, traffic: &Traffic) {
    let mut fields = Fields::default();
    for at in 0..traffic.len().min(5000) {
        traffic.write(at, &mut fields);
        let theirs = tuples.lookup(&fields).map(|number| set.rules[number as usize].0);
        assert_eq!(table.lookup(&fields).map(|(priority, _)| priority), theirs, "{}", set.name);
    }
}

/// Adds rules to a table that nobody else has, one by one; then deletes one and adds another one again and again, each in
/// a version of its own that is published at once, while the one before is still there.
fn changes(set: &Set, scope: &Scope) {
    let values: Vec<Rule> = (0..set.rules.len() as u32).map(Arc::new).collect();
    let mut published = Classifier::new();
    let mut grown = Vec::new();
    for ((priority, matches), value) in set.rules.iter().zip(&values) {
        let start = clock();
        published.insert(*priority, matches, value.clone());
        grown.push(clock() - start);
    }
    let mut dice = Dice(7);
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    let mut gone = std::collections::VecDeque::new();
    while added.len() < scope.changes {
        let at = dice.below(set.rules.len());
        let (priority, matches) = &set.rules[at];
        let start = clock();
        let mut next = published.clone();
        let was_there = next.remove(*priority, matches).is_some();
        published = next;
        if was_there {
            removed.push(clock() - start);
            gone.push_back(at);
        }
        if gone.len() > scope.changes.min(set.rules.len()) / 10 {
            let Some(at) = gone.pop_front() else { continue };
            let (priority, matches) = &set.rules[at];
            let start = clock();
            let mut next = published.clone();
            next.insert(*priority, matches, values[at].clone());
            published = next;
            added.push(clock() - start);
        }
    }
    for (name, mut times) in [("grow", grown), ("delete", removed), ("insert", added)] {
        times.sort();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_nanos() as f64 / 1e3;
        println!(
            "{:12} {:7} {name:6} median {:6.2} us, 99th percentile {:7.2}, 99.9th {:8.2}, longest {:8.1}",
            set.name,
            set.rules.len(),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        );
    }
}

/// So many addresses and so many ports, in one conjunction.
fn conjunction(addresses: usize, ports: usize, scope: &Scope) {
    let mut table: Classifier<Rule> = Classifier::new();
    let (mut dice, value) = (Dice(3), Arc::new(1));
    let clause = |clause| Box::new([Clause { id: 7, clauses: 2, clause }]);
    let mut set = Set { name: String::new(), rules: Vec::new(), base: None };
    let ip = Match::any().with(Field::EthType, 0x800);
    let mut lists: [Vec<u128>; 2] = Default::default();
    for _ in 0..addresses {
        lists[0].push(u128::from(dice.roll() as u32));
        table.insert_conjunction(
            100,
            &ip.with(Field::IpSrc, lists[0][lists[0].len() - 1]),
            clause(0),
            value.clone(),
        );
    }
    let tcp = ip.with(Field::NwProto, 6);
    for port in 0..ports as u128 {
        lists[1].push(port);
        table.insert_conjunction(100, &tcp.with(Field::TcpDst, port), clause(1), value.clone());
    }
    table.insert(100, &Match::any().with(Field::ConjId, 7), value.clone());
    table.insert(0, &Match::any(), value);
    for _ in 0..4096 {
        let address = lists[0][dice.below(addresses)];
        let port = lists[1][dice.below(ports)];
        set.rules.push((0, tcp.with(Field::IpSrc, address).with(Field::TcpDst, port)));
    }
    let traffic = Traffic::new(&set, scope.lookups.clamp(1, 1 << 14), &mut Dice(99));
    let nothing = measured(&traffic, scope, |fields| fields.0[7]);
    let time = measured(&traffic, scope, |fields| u64::from(table.find(fields).conjunction.is_some()));
    println!("conjunction of {addresses} addresses and {ports} ports: {:.1} ns", time - nothing);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let once = !arguments.iter().any(|argument| argument == "--bench");
    let wanted = arguments.iter().find(|argument| !argument.starts_with("--"));
    let is_wanted = |name: &str| wanted.is_none_or(|wanted| name.contains(wanted.as_str()));
    let scope =
        if once { Scope { lookups: 10, changes: 10 } } else { Scope { lookups: 400_000, changes: 20_000 } };
    let most = if once { 1000 } else { 200_000 };
    println!(
        "ns per look-up of a random flow: this classifier, tuple space search, the same with prefix tries"
    );
    println!(
        "{:22} {:>7} {:>6} {:>9} {:>9} {:>9} {:>8} {:>7} {:>7}",
        "set", "rules", "masks", "weft", "tuples", "tries", "us/add", "ms", "B/rule"
    );
    let mut all: Vec<Box<dyn Fn() -> Set>> = Vec::new();
    for size in [10, 1000, 10_000, 100_000, 200_000].into_iter().filter(|size| *size <= most) {
        all.push(Box::new(move || sets::shapes(size, 10)));
        all.push(Box::new(move || sets::shapes(size, 50)));
        (0..3).for_each(|kind| all.push(Box::new(move || sets::filters(kind, size))));
    }
    all.push(Box::new(sets::explosion));
    all.push(Box::new(|| sets::bitwise(8192, 2)));
    all.push(Box::new(|| sets::bitwise(8192, 7)));
    all.push(Box::new(|| sets::neutron(94, 0)));
    for (kind, ports) in [(60, 2), (60, 16), (71, 2), (71, 16), (81, 3), (81, 16)] {
        all.push(Box::new(move || sets::neutron(kind, ports)));
    }
    for set in all {
        let set = set();
        if is_wanted(&format!("{} {}", set.name, set.rules.len())) {
            look_ups(&set, &scope);
        }
    }
    for set in [sets::shapes(most, 50), sets::filters(0, most), sets::filters(1, most), sets::explosion()] {
        if is_wanted("changes") {
            changes(&set, &scope);
        }
    }
    if is_wanted("conjunction") {
        conjunction(5000, 300, &scope);
        conjunction(10, 10, &scope);
    }
}
