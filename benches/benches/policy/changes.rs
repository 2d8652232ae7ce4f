//! What 100 changes of rules a second cost a bridge with 100,000 cached flows.
//!
//! Each window adds and deletes rules in turn, one every 10 ms; their making is not counted, as it isn't the worker's.

use std::time::Duration;

use weft_core::tables::Change;
use weft_flow::message::{FlowCommand, FlowMod};
use weft_flow::{Action, Field, Match};
use weft_wire::OfPort;

use super::{OUT, Scope, Shares, clock, forwarding, median, rate, rule, switch, tables, tuples};
use crate::sets;
use weft_benches::case::{BRIDGE, IN};
use weft_benches::switch::Switch;
use weft_benches::synth::SynthQueue;

const FLOWS: usize = 100_000;
const INTERVAL: f64 = 0.01;

fn udp() -> Match {
    Match::any().with(Field::EthType, 0x0800).with(Field::NwProto, 17)
}

/// Which rules come and go, by number.
type Changing = fn(u64) -> FlowMod;

/// One that a packet could meet, but none does: another network.
fn of_none(number: u64) -> FlowMod {
    let matches = udp().with(Field::IpDst, 0x0c00_0000 | u128::from(number & 0xffff));
    rule(1000, matches, vec![Action::Output(OUT)])
}

/// One that no packet could meet: another port's.
fn elsewhere(number: u64) -> FlowMod {
    let FlowMod { matches, .. } = of_none(number);
    rule(1000, matches.with(Field::InPort, 99), vec![Action::Output(OUT)])
}

/// One that some 400 flows meet.
fn of_a_few(number: u64) -> FlowMod {
    let matches = udp().with_masked(Field::IpDst, 0x0b00_0000 | u128::from(number & 0xff) << 16, 0xffff_0000);
    rule(1000, matches, vec![Action::Output(OUT)])
}

/// Traffic for `seconds`, with a change now and then. The worker's packets per second of its CPU time.
fn rate_under(switch: &mut Switch, changing: Changing, next: &mut u64, seconds: f64) -> f64 {
    let (start, mut others, mut packets) = (clock(), Duration::ZERO, 0);
    let (mut due, mut maintenance) = (INTERVAL, 0.1);
    loop {
        for _ in 0..32 {
            packets += switch.round();
        }
        let now = clock();
        let spent = (now - start - others).as_secs_f64();
        if spent >= due {
            due += INTERVAL;
            change(switch, changing, *next);
            *next += 1;
            others += clock() - now;
        }
        if spent >= maintenance {
            maintenance += 0.1;
            switch.maintain();
        }
        if spent >= seconds {
            return packets as f64 / spent;
        }
    }
}

/// Adds one, or deletes it.
fn change(switch: &mut Switch, changing: Changing, number: u64) {
    let flow = changing(number / 2);
    let command = if number.is_multiple_of(2) { FlowCommand::Add } else { FlowCommand::DeleteStrict };
    let now = switch.uptime();
    switch
        .datapath
        .change_flows(BRIDGE, &[Change::Flow(FlowMod { command, ..flow })], now)
        .expect("a change");
}

pub fn run(scope: Scope) {
    let set = sets::shapes(1000, 50);
    let normal = vec![
        // Reads what the changes read.
        rule(
            1,
            of_none(0).matches.with(Field::UdpSrc, 9).with(Field::UdpDst, 9).with(Field::IpSrc, 9),
            vec![],
        ),
        rule(0, Match::any(), vec![Action::Output(OfPort::NORMAL)]),
    ];
    for (bridge, rules) in [("1,000 rules in 50 shapes", forwarding(&set)), ("one rule, NORMAL", normal)] {
        let queue = SynthQueue::new(IN, tuples(&set, scope.flows(FLOWS), 5));
        let mut switch = switch(tables(rules), vec![(IN, queue)]);
        for _ in 0..2 {
            rate(&mut switch, scope.window);
        }
        let changing: [(&str, Changing); 3] = [
            ("that no flow can meet", elsewhere),
            ("that none of the flows meets", of_none),
            ("that a few flows meet", of_a_few),
        ];
        for (what, changing) in changing {
            let (mut still, mut under, mut next) = (Vec::new(), Vec::new(), 0);
            let (mut missed, mut reprieved) = (0.0, 0);
            for _ in 0..scope.windows {
                still.push(rate(&mut switch, scope.window));
                let (before, spared) = (Shares::of(&switch), switch.counters().reprieved.get());
                under.push(rate_under(&mut switch, changing, &mut next, scope.window));
                missed = Shares::of(&switch).misses_since(&before);
                reprieved = switch.counters().reprieved.get() - spared;
            }
            let (still, under) = (median(still), median(under));
            println!(
                "changes: {bridge}, 100k flows, 100 changes a second of rules {what}: {:.0} % of {:.2} Mpps ({missed:.2} % miss, {reprieved} spared in a window)",
                100.0 * under / still,
                still / 1e6,
            );
        }
    }
}
