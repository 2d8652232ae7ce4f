//! Translation to ranges of addresses and ports, beside Open vSwitch. Each of the two chooses by a hash of its own, so frames
//! are compared up to names ([`Names`]): what the first packet of a connection has become is learned, has to be in the
//! range, free, and the same from then on; answers, and what errors quote, go to what each has chosen.
//!
//! The packets are made one by one, since answers are sent to where Open vSwitch's went; weft's differ by names. What was
//! recorded is `tests/data/ranges-truth.txt`.

use std::collections::HashSet;

use weft_tests::Result;

use crate::case::{Case, Recorded, Step};
use crate::explained::{self, Difference, Then};
use crate::names::{Learned, Names};
use crate::ours::Weft;
use crate::packets::{self, Ends, Form, ICMP, ICMP6, Segment, TCP, UDP};
use crate::policy::{Nat, Path, Policy, outer};
use crate::range::Range;
use crate::rig::dice::Dice;
use crate::stock::Stock;
use crate::suite::{self, Peers, Suite};
use crate::talks::Talk;
use crate::{Counts, show};

const ONE: &str = "nothing is free at the address that one of the two has chosen, at the other's there is";
const ORPHAN: &str = "what comes to an address of a translation that is over begins another connection";
const BOTH: &str = "nothing is free at the addresses that the two have chosen";

/// A case as it is made: each packet by what became of those before it.
fn play(stock: &mut Stock, seed: u64) -> Result<Recorded> {
    let mut dice = Dice(seed);
    let policy = Policy::ranged(&mut dice);
    let case = Case { name: format!("{seed}"), rules: policy.rules(&mut dice), steps: vec![] };
    let talks: Vec<Talk> = (0..3 + dice.below(7)).map(|_| Talk::ranged(&mut dice, &policy)).collect();
    let (side, rounds) = (Range::of(&case.rules).side, 60 + dice.below(60));
    let hear = |talk: &mut Talk, packet: &[u8], frames: &_| talk.hear(packet, (frames, side));
    suite::converse((stock, &mut dice), case, (talks, rounds), hear)
}

/// As many connections as there may be, and more.
struct Fill {
    range: Range,
    protocol: u8,
    /// The port of the first of those that ask, and how many ask.
    port: u16,
    count: usize,
    /// How many are translated; not known where ports are tried at random.
    fit: Option<usize>,
    recorded: bool,
}

fn fills() -> Vec<Fill> {
    let range = |six, side, addresses: u128, ports| {
        let first = outer(six, 0);
        Range { side, six, addresses: [first, first + addresses - 1], ports, choice: "" }
    };
    let fill =
        |range, protocol, port, count, fit| Fill { range, protocol, port, count, fit, recorded: count < 200 };
    vec![
        fill(range(false, 0, 1, Some([5000, 5009])), UDP, 2000, 15, Some(10)),
        fill(range(true, 0, 1, Some([5000, 5009])), TCP, 2000, 15, Some(10)),
        fill(range(false, 0, 4, Some([65532, 65535])), TCP, 2000, 170, Some(16)),
        fill(range(true, 0, 4, Some([1, 4])), UDP, 2000, 170, Some(16)),
        fill(Range { choice: ",random", ..range(false, 0, 4, Some([1, 4])) }, UDP, 2000, 170, Some(16)),
        fill(range(false, 0, 1, Some([3000, 3127])), UDP, 2000, 140, Some(128)),
        fill(range(false, 0, 1, Some([3000, 3199])), UDP, 2000, 260, None),
        // Ports of their class.
        fill(range(false, 0, 1, None), UDP, 1, 560, None),
        // Without ports: as many as there are addresses.
        fill(range(false, 0, 3, None), ICMP, 7, 60, Some(3)),
        fill(range(true, 0, 3, Some([5000, 5009])), ICMP6, 7, 60, Some(3)),
        fill(range(false, 1, 2, None), 47, 7, 40, Some(2)),
        // The source port helps out.
        fill(range(false, 1, 1, Some([8080, 8082])), TCP, 2000, 40, Some(40)),
        fill(range(true, 1, 2, Some([8080, 8080])), UDP, 2000, 40, Some(40)),
    ]
}

impl Fill {
    /// Many that ask one for the same; behind a destination translation: one that asks many.
    fn case(&self, number: usize) -> Case {
        let &Fill { range, protocol, port, count, .. } = self;
        let six = range.six;
        let stations = if six { 0xfd00 << 112 } else { 0x0a00_0000 };
        let policy = Policy { six, stations, zones: [5, 7], nats: [Nat::Range(range), Nat::Not] };
        let packet = |number: usize| {
            let [client, server] = [stations + 0x100, stations + 0x1000].map(|first| {
                let is_many = (first == stations + 0x100) == (range.side == 0);
                first + if is_many { number as u128 } else { 0 }
            });
            let low = port < 512 && matches!(protocol, TCP | UDP);
            let own = if low { port + (number % 511) as u16 } else { port };
            let ends = Ends { six, addresses: [client, server], ports: [own, 53] };
            let message = match protocol {
                TCP => packets::tcp(&ends, &Segment { flags: 2, window: 8192, ..Segment::default() }),
                UDP => packets::udp(&ends, b"weft"),
                ICMP => packets::icmp(8, 0, [0, 7, 0, 0], b"weft"),
                ICMP6 => packets::icmp(128, 0, [0, 7, 0, 0], b"weft"),
                _ => vec![7; 20],
            };
            let form = Form { tos: Path::Commit.tos(), ..Form::default() };
            Step::Packet(packets::frame(&ends, protocol, &form, &message))
        };
        let rules = policy.rules(&mut Dice(1));
        Case { name: format!("fill-{number}"), rules, steps: (0..count).map(packet).collect() }
    }

    /// Each address is used to its end, and no more.
    fn check(&self, made: [usize; 2]) {
        match self.fit {
            Some(fit) => assert_eq!(made, [fit; 2], "{:?}", self.range),
            None => assert!(made.iter().all(|&made| made >= 128), "{made:?} {:?}", self.range),
        }
    }
}

/// Compares a case, up to names; how many connections each has at its end.
fn compare(counts: &mut Counts, recorded: &Recorded) -> [usize; 2] {
    let Recorded { case, outcomes, .. } = recorded;
    let range = Range::of(&case.rules);
    let (mut weft, mut names) = (Weft::load(case), Names::new(range));
    let (mut doubt, mut wide) = (None, false);
    counts.cases += 1;
    for (number, (step, theirs)) in case.steps.iter().zip(outcomes).enumerate() {
        let step = match step {
            Step::Packet(octets) if names.is_lost(octets) => continue,
            Step::Packet(octets) if names.is_unknown(octets) => {
                *counts.explained.entry(ORPHAN).or_default() += 1;
                continue;
            }
            Step::Packet(octets) => Step::Packet(names.ours(octets)),
            Step::Wait(seconds) => {
                names.wait();
                Step::Wait(*seconds)
            }
            Step::Set(setting) => Step::Set(setting.clone()),
        };
        let (ours, drops) = weft.play(&step);
        counts.note(&step, theirs);
        wide |= explained::is_wide(&step);
        doubt = doubt.or_else(|| explained::doubt(&step, theirs, &drops));
        if let (Step::Packet(to_them), Step::Packet(to_us)) = (&case.steps[number], &step)
            && names.is_orphan([to_them, to_us], [theirs, &ours])
        {
            *counts.explained.entry(ORPHAN).or_default() += 1;
            continue;
        }
        let learned = match &step {
            Step::Packet(octets) => names.learn(octets, (&ours, theirs), &drops),
            _ => Ok(Learned::Nothing),
        };
        let theirs: Vec<_> = theirs.iter().map(|frame| names.ours(frame)).collect();
        let difference = Difference { step: &step, ours: &ours, theirs: &theirs, drops: &drops, wide };
        let explained = match learned {
            Err(text) => {
                counts.unexplained.push(format!("{text}\n{}", show(case, number, &difference)));
                return [0; 2];
            }
            Ok(Learned::One) => Some((Then::GoOn, ONE)),
            Ok(Learned::Neither) => Some((Then::GoOn, BOTH)),
            Ok(_) if ours == theirs => continue,
            Ok(_) => explained::why(&difference)
                .filter(|(_, why)| *why != explained::OTHER_PORT)
                .or_else(|| doubt.map(|why| (Then::Stop, why))),
        };
        let Some((then, why)) = explained else {
            counts.unexplained.push(show(case, number, &difference));
            return [0; 2];
        };
        *counts.explained.entry(why).or_default() += 1;
        if then == Then::Stop {
            return [0; 2];
        }
    }
    compare_ends(counts, recorded, (&weft.connections(), &names), doubt)
}

/// Compares the connections at the end of a case;
/// `doubt` says why they may be others.
fn compare_ends(
    counts: &mut Counts,
    Recorded { case, connections, .. }: &Recorded,
    (all, names): (&[String], &Names),
    doubt: Option<&'static str>,
) -> [usize; 2] {
    if !names.is_persistent() {
        counts.unexplained.push(format!("case {}: a client has two addresses: {names:?}", case.name));
    }
    for (lines, name) in [(all, "weft"), (&connections[..], "Open vSwitch")] {
        let mut seen = HashSet::new();
        let twice = lines.iter().find(|line| !seen.insert(answers(line)));
        assert!(twice.is_none(), "{name} has twice: {twice:?}");
    }
    let (ours, theirs) = (names.own_lines(all), names.lines(connections));
    counts.end(case, (ours, theirs), doubt);
    [all.len(), connections.len()]
}

/// Protocol, answers and zone.
fn answers(line: &str) -> (String, String, String) {
    let (protocol, rest) = line.split_once(',').unwrap();
    let (reply, tail) = rest.split_once("reply=(").unwrap().1.split_once(')').unwrap();
    let zone = tail.split(',').find(|word| word.starts_with("zone=")).unwrap_or_default();
    (protocol.to_owned(), reply.to_owned(), zone.to_owned())
}

#[test]
fn ranges_are_used_as_they_were_by_stock_ovs() {
    let mut counts = Counts::default();
    let fills: Vec<Fill> = fills().into_iter().filter(|fill| fill.recorded).collect();
    let (random, full) = SUITE.read();
    for recorded in &random {
        compare(&mut counts, recorded);
    }
    assert_eq!(full.len(), fills.len());
    fills.iter().zip(&full).for_each(|(fill, recorded)| fill.check(compare(&mut counts, recorded)));
    assert!(counts.frames > 500);
    counts.finish();
}

#[test]
fn ranges_are_used_as_they_are_by_stock_ovs() -> Result {
    let Some(mut peers) = Peers::open(SUITE.name)? else { return Ok(()) };
    let mut counts = Counts::default();
    let mut text = SUITE.run(&mut peers, &mut counts)?;
    for (number, fill) in fills().iter().enumerate() {
        let recorded = peers.current.play(&fill.case(number))?;
        if let Some(text) = text.as_mut().filter(|_| fill.recorded) {
            *text += &recorded.print();
        }
        let made = compare(&mut counts, &recorded);
        if counts.unexplained.is_empty() {
            fill.check(made);
        }
    }
    SUITE.record(text)?;
    counts.finish();
    Ok(())
}

const SUITE: Suite = Suite {
    name: "ranges",
    head: HEAD,
    recorded: 8,
    cases: 60,
    play,
    compare: |counts, recorded| {
        compare(counts, recorded);
    },
};

const HEAD: &str = "\
# What stock Open vSwitch's connection tracking makes of translations to ranges. It reads like sequences-truth.txt; what is
# sent to where a connection was translated to goes to what Open vSwitch has chosen.
#
# Recorded from Open vSwitch 3.1 (Debian 12), userspace datapath, by
# WEFT_OVS_RECORD=1 cargo test -p weft-core --test sequences ranges

";
