//! Flows that a cache holds, flows that none does, and how fast new ones come.

use weft_flow::message::FlowMod;
use weft_flow::{Action, Field, Match};

use super::{OUT, Scope, Shares, forwarding, in_turn, median, rate, rule, switch, tables, tuples};
use crate::sets::{self, Set};
use weft_benches::case::IN;
use weft_benches::synth::SynthQueue;

/// 1,000 rules and 100,000 flows.
pub fn cached(scope: Scope) {
    for shapes in [10, 50] {
        let set = sets::shapes(1000, shapes);
        let queue = SynthQueue::new(IN, tuples(&set, scope.flows(100_000), 1));
        let mut switch = switch(tables(forwarding(&set)), vec![(IN, queue)]);
        let [rate] = in_turn([&mut switch], scope);
        println!("cached: 1,000 rules in {shapes} shapes, 100k flows: {:.2} Mpps", rate / 1e6);
    }
}

/// So many flows that no cache holds them.
pub fn uncached(scope: Scope) {
    for shapes in [10, 50] {
        let set = sets::shapes(1000, shapes);
        let queue = SynthQueue::new(IN, tuples(&set, scope.flows(4_000_000), 1));
        let mut switch = switch(tables(forwarding(&set)), vec![(IN, queue)]);
        rate(&mut switch, scope.window);
        let before = Shares::of(&switch);
        let [rate] = in_turn([&mut switch], scope);
        println!(
            "uncached: 1,000 rules in {shapes} shapes, 4M random flows: {:.2} Mpps, {:.0} ns a packet ({:.1} % miss, {} programs)",
            rate / 1e6,
            1e9 / rate,
            Shares::of(&switch).misses_since(&before),
            switch.counters().programs.get(),
        );
    }
}

/// Ten tables of 1,000 rules each, one after the other; the tables' rules are others each, or the same.
fn ten_tables(alike: bool) -> (Vec<FlowMod>, Set) {
    let first = sets::shapes(1000, 50);
    let mut rules = Vec::new();
    for table in 0..10_u8 {
        let then = if table < 9 { Action::GotoTable(table + 1) } else { Action::Output(OUT) };
        // Addresses and ports are moved by the table's number, so that the masks stay.
        let moved = |matches: &Match| match alike {
            true => matches.clone(),
            false => {
                let (mask, mut value) = (matches.mask(), matches.value());
                for word in [5, 7, 8] {
                    let shift = u64::from(table) * 0x0002_0200_0202_0200;
                    value.0[word] = (value.0[word] ^ shift) & mask.0[word];
                }
                Match::new(&mask, &value)
            }
        };
        let of_table = first.rules.iter().map(|(priority, matches)| FlowMod {
            table: Some(table),
            ..rule(*priority, moved(matches), vec![then.clone()])
        });
        rules.extend(of_table);
    }
    (rules, first)
}

/// Ten tables of 1,000 rules each, by addresses and ports in turn: some 2^40 ways through.
fn crossing() -> (Vec<FlowMod>, Set) {
    let udp = Match::any().with(Field::EthType, 0x0800).with(Field::NwProto, 17);
    let mut rules = Vec::new();
    let mut set = Set { name: "crossing".into(), rules: Vec::new(), base: None };
    for table in 0..10_u8 {
        let then = if table < 9 { Action::GotoTable(table + 1) } else { Action::Output(OUT) };
        // Ten bits of an address or a port, others in each table.
        let (field, low) =
            [(Field::IpSrc, 0), (Field::IpDst, 0), (Field::UdpSrc, 0), (Field::UdpDst, 0), (Field::IpSrc, 6)]
                [usize::from(table) % 5];
        let low = low + u32::from(table) / 5 * 5;
        for number in 0..1000_u128 {
            let matches = udp.with_masked(field, number << low, 0x3ff << low);
            rules.push(FlowMod { table: Some(table), ..rule(100, matches.clone(), vec![then.clone()]) });
            if table == 0 {
                set.rules.push((100, matches));
            }
        }
        rules.push(FlowMod { table: Some(table), ..rule(0, Match::any(), vec![then.clone()]) });
    }
    // So that packets have random ports and addresses.
    let open = udp.with_masked(Field::IpDst, 0, 1).with_masked(Field::UdpSrc, 0, 1);
    set.rules.push((1, open));
    (rules, set)
}

/// A miss that goes through ten tables.
pub fn pipeline(scope: Scope) {
    let kinds = [
        ("1,000 ways through", ten_tables(true)),
        ("1,000 ways through, not of the first table", ten_tables(false)),
        ("each packet by a way of its own", crossing()),
    ];
    for (what, (rules, set)) in kinds {
        let rules_count = rules.len();
        let queue = SynthQueue::new(IN, tuples(&set, scope.flows(4_000_000), 1));
        let mut switch = switch(tables(rules), vec![(IN, queue)]);
        rate(&mut switch, scope.window);
        let before = Shares::of(&switch);
        let [rate] = in_turn([&mut switch], scope);
        println!(
            "pipeline: a packet that misses, through 10 tables with {rules_count} rules, {what}: {:.2} µs ({:.1} % miss, {} programs)",
            1e6 / rate,
            Shares::of(&switch).misses_since(&before),
            switch.counters().programs.get(),
        );
    }
}

/// New flows: each has two packets, the second soon after the first.
pub fn set_up(scope: Scope) {
    let single = |tables| {
        let fresh = tuples(&sets::shapes(1000, 50), scope.flows(4_000_000), 7);
        let pairs = fresh.chunks(1024).flat_map(|chunk| chunk.iter().chain(chunk).copied()).collect();
        switch(tables, vec![(IN, SynthQueue::new(IN, pairs))])
    };
    let plain = |set: &Set| {
        let (_, matches) = set.rules.iter().max_by_key(|(priority, _)| *priority).expect("rules");
        // One rule that reads the five-tuple, and NORMAL.
        let reading = matches.clone().with(Field::UdpSrc, 9).with(Field::UdpDst, 9);
        let reading = reading.with(Field::IpSrc, 9).with(Field::IpDst, 9);
        let normal = Action::Output(weft_wire::OfPort::NORMAL);
        tables(vec![rule(9, reading, vec![normal.clone()]), rule(0, Match::any(), vec![normal])])
    };
    let set = sets::shapes(1000, 50);
    for (what, tables) in
        [("NORMAL, keyed by five-tuple", plain(&set)), ("1,000 rules in 50 shapes", tables(forwarding(&set)))]
    {
        let mut switch = single(tables);
        rate(&mut switch, scope.window);
        let mut rates = Vec::new();
        for _ in 0..scope.windows {
            let (start, before) = (super::clock(), switch.misses());
            rate(&mut switch, scope.window);
            rates.push((switch.misses() - before) as f64 / (super::clock() - start).as_secs_f64());
        }
        println!("setup: new flows of two packets, {what}: {:.2} M flows/s", median(rates) / 1e6);
    }
}
