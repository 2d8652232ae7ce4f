//! The tuple space explosion (Csikor and others, "Tuple Space Explosion", CoNEXT 2019), and who stands by.
//!
//! The attacker is a tenant who may write an access list and send packets. His list allows one source address, one
//! source port and one destination port, and denies the rest; for each combination of first bits that differ there is a
//! packet: 32 * 16 * 16 = 8,192. In a tuple space cache each makes a mask of its own. His rules can also say all of that
//! outright: 8,192 rules, no two of one mask. The bystander's port is on the same bridge.

use weft_flow::message::FlowMod;
use weft_flow::{Action, Field, Match};
use weft_wire::OfPort;

use super::{OUT, Scope, in_turn, rule, switch, tables, tuples};
use crate::sets::{self, Set};
use weft_benches::case::{IN, SECOND_OUT};
use weft_benches::synth::{SynthQueue, Tuple};
use weft_core::key::PortId;

const ATTACKER: PortId = PortId(7);
const BYSTANDER_FLOWS: usize = 10_000;

/// What the bystander has to himself: rules that read addresses and ports.
fn own() -> Vec<FlowMod> {
    let udp = || Match::any().with(Field::EthType, 0x0800).with(Field::NwProto, 17);
    let tcp = || Match::any().with(Field::EthType, 0x0800).with(Field::NwProto, 6);
    vec![
        rule(900, udp().with_masked(Field::IpDst, 0x0b00_0000, 0xff00_0000), vec![Action::Output(OUT)]),
        rule(800, tcp().with(Field::IpSrc, 1).with(Field::TcpSrc, 1).with(Field::TcpDst, 1), vec![]),
    ]
}

/// An access list with one mask for each field, as the tenant may write it.
fn published() -> Vec<FlowMod> {
    let tcp = Match::any()
        .with(Field::EthType, 0x0800)
        .with(Field::NwProto, 6)
        .with(Field::InPort, u128::from(ATTACKER.0) + 1);
    let allow = || vec![Action::Output(OfPort(SECOND_OUT.0 + 1))];
    vec![
        rule(500, tcp.with(Field::IpSrc, 0x0a14_1e28), allow()),
        rule(400, tcp.with(Field::TcpSrc, 0x1e28), allow()),
        rule(300, tcp.with(Field::TcpDst, 0x1e28), allow()),
        rule(200, tcp, vec![]),
    ]
}

/// The same in one rule for each mask.
fn outright(set: &Set) -> Vec<FlowMod> {
    set.rules.iter().map(|(priority, matches)| rule(*priority, matches.clone(), vec![])).collect()
}

/// For each rule of the set the packet that it was made for, and then a few at random.
fn attack(set: &Set, scope: Scope) -> Vec<Tuple> {
    let base = set.base.expect("a base");
    let exact = |matches: &Match| {
        let (mask, value) = (matches.mask(), matches.value());
        let word = |at: usize| value.0[at] | base.0[at] & !mask.0[at];
        let (source, ports) = (word(5) as u32, word(8));
        Tuple {
            addresses: [source, 0x0a00_0063],
            ports: [(ports >> 48) as u16, (ports >> 32) as u16],
            protocol: 6,
        }
    };
    set.rules.iter().step_by(scope.divisor).map(|(_, matches)| exact(matches)).collect()
}

pub fn run(scope: Scope) {
    let set = sets::explosion();
    let bystander = || {
        let flows = tuples(&sets::shapes(1000, 50), scope.flows(BYSTANDER_FLOWS), 3);
        (IN, SynthQueue::new(IN, flows))
    };
    let harmless = vec![Tuple { addresses: [1, 2], ports: [3, 4], protocol: 6 }];
    let attacker = |tuples: &Vec<Tuple>, burst, every| {
        (ATTACKER, SynthQueue::new(ATTACKER, tuples.clone()).sparse(burst, every))
    };
    let with = |rules: Vec<FlowMod>| own().into_iter().chain(rules).collect::<Vec<_>>();
    let trace = attack(&set, scope);
    // One packet in 32 rounds beside 1024 of the bystander's: above 10,000 a second.
    for (how, burst, every) in
        [("one packet for 1,024 of the bystander's", 1, 32), ("as many as the bystander", 32, 1)]
    {
        let mut quiet = switch(tables(with(vec![])), vec![bystander(), attacker(&harmless, burst, every)]);
        let mut list = switch(tables(with(published())), vec![bystander(), attacker(&trace, burst, every)]);
        let mut masks =
            switch(tables(with(outright(&set))), vec![bystander(), attacker(&trace, burst, every)]);
        let rates = in_turn([&mut quiet, &mut list, &mut masks], scope);
        println!(
            "explosion: {how}: {:.2} Mpps beside one harmless flow, {:.1} % less beside the published list and trace, {:.1} % less beside 8,192 masks and the trace",
            rates[0] / 1e6,
            100.0 * (1.0 - rates[1] / rates[0]),
            100.0 * (1.0 - rates[2] / rates[0]),
        );
    }
}
