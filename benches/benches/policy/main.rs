//! What flow tables cost a whole switch: many rules, misses, an attack on the classifier, changes under traffic.
//!
//!   cargo bench -p weft-benches --bench policy               all
//!   cargo bench -p weft-benches --bench policy -- changes    those whose name matches
//!
//! One worker by hand, from a port in memory to a null port, as in weft-replay. Rates are per second of the thread's CPU
//! time. What is compared with something is compared in alternating windows of one run, and medians are printed.
//! `cargo test` runs everything once, small.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a bench")]

mod changes;
#[path = "../../../dataplane/core/tests/rig/dice.rs"]
mod dice;
mod explosion;
mod misses;
#[path = "../classifier/sets.rs"]
#[allow(dead_code, reason = "the classifier's bench uses the rest")]
mod sets;

use std::sync::Arc;
use std::time::Duration;

use dice::Dice;
use sets::{Set, Traffic};
use weft_benches::case::Case;
use weft_benches::switch::{Setup, Switch};
use weft_benches::synth::{SynthQueue, Tuple};
use weft_core::key::PortId;
use weft_core::tables::{Change, FlowTables};
use weft_flow::message::FlowMod;
use weft_flow::{Action, Match};
use weft_io::PortQueue;
use weft_wire::OfPort;

/// Where packets leave, as rules name it.
const OUT: OfPort = OfPort(2);

/// How much to do.
#[derive(Clone, Copy)]
pub struct Scope {
    /// Seconds of CPU time of a window.
    window: f64,
    /// Windows of which the median counts.
    windows: usize,
    /// What numbers of flows are divided by.
    divisor: usize,
}

impl Scope {
    fn flows(&self, count: usize) -> usize {
        count / self.divisor
    }
}

fn clock() -> Duration {
    weft_io::thread::cpu_time().expect("a clock for CPU time")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A rule of table 0.
fn rule(priority: u16, matches: Match, actions: Vec<Action>) -> FlowMod {
    FlowMod { priority, matches, actions: actions.into(), ..FlowMod::default() }
}

fn tables(rules: Vec<FlowMod>) -> Arc<FlowTables> {
    let tables = FlowTables::new();
    let changes: Vec<Change> = rules.into_iter().map(Change::Flow).collect();
    tables.prepare(&changes, Duration::ZERO).expect("sound rules").commit();
    tables
}

/// The rules of a set, all with one output; what no other matches goes there, too.
fn forwarding(set: &Set) -> Vec<FlowMod> {
    let output =
        |(priority, matches): &(u16, Match)| rule(*priority, matches.clone(), vec![Action::Output(OUT)]);
    set.rules.iter().map(output).collect()
}

/// Packets for a set, as a port receives them.
fn tuples(set: &Set, count: usize, seed: u64) -> Vec<Tuple> {
    let traffic = Traffic::new(set, count, &mut Dice(seed));
    let mut fields = weft_flow::Fields::default();
    let tuple = |at: usize| {
        traffic.write(at, &mut fields);
        let [ether, source, destination, ports] = [3, 5, 7, 8].map(|word: usize| fields.0[word]);
        Tuple {
            addresses: [source as u32, destination as u32],
            ports: [(ports >> 48) as u16, (ports >> 32) as u16],
            protocol: (ether >> 24) as u8,
        }
    };
    (0..traffic.len()).map(tuple).collect()
}

fn switch(flows: Arc<FlowTables>, inputs: Vec<(PortId, SynthQueue)>) -> Switch {
    let boxed = |(port, queue): (PortId, SynthQueue)| (port, Box::new(queue) as Box<dyn PortQueue>);
    let inputs = inputs.into_iter().map(boxed).collect();
    Switch::with(Setup { case: Case::L2, flows, inputs }).expect("memory for a switch")
}

/// A window's packets per second of CPU time. Maintenance comes ten times a second, as in a worker's life.
fn rate(switch: &mut Switch, seconds: f64) -> f64 {
    let (start, mut packets, mut due) = (clock(), 0, 0.1);
    loop {
        for _ in 0..256 {
            packets += switch.round();
        }
        let spent = (clock() - start).as_secs_f64();
        if spent >= due {
            due += 0.1;
            switch.maintain();
        }
        if spent >= seconds {
            return packets as f64 / spent;
        }
    }
}

/// Windows of each switch in turn, after one to warm up: the median rate of each.
fn in_turn<const N: usize>(switches: [&mut Switch; N], scope: Scope) -> [f64; N] {
    let mut rates = [const { Vec::new() }; N];
    let mut switches = switches;
    for _ in 0..=scope.windows {
        for (switch, rates) in switches.iter_mut().zip(&mut rates) {
            rates.push(rate(switch, scope.window));
        }
    }
    rates.map(|rates| median(rates[1..].to_vec()))
}

/// What the worker's counters say of the time since they were last asked.
struct Shares {
    packets: u64,
    misses: u64,
}

impl Shares {
    fn of(switch: &Switch) -> Shares {
        let counters = switch.counters();
        Shares { packets: counters.packets.get(), misses: counters.misses.get() }
    }

    /// The percentage of misses since `before`.
    fn misses_since(&self, before: &Shares) -> f64 {
        100.0 * (self.misses - before.misses) as f64 / (self.packets - before.packets).max(1) as f64
    }
}

type Bench = fn(Scope);

fn main() {
    let thorough = std::env::args().any(|argument| argument == "--bench");
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let scope = match thorough {
        true => Scope { window: 0.7, windows: 5, divisor: 1 },
        false => Scope { window: 0.005, windows: 1, divisor: 100 },
    };
    let all: [(&str, Bench); 6] = [
        ("cached", misses::cached),
        ("uncached", misses::uncached),
        ("pipeline", misses::pipeline),
        ("setup", misses::set_up),
        ("explosion", explosion::run),
        ("changes", changes::run),
    ];
    for (name, run) in all {
        if wanted.is_empty() || wanted.iter().any(|part| name.starts_with(part.as_str())) {
            run(scope);
        }
    }
}
