//! Whole sequences of packets through weft's connection tracking and through stock Open vSwitch's: after each packet the
//! same `ct_state`, `ct_zone`, `ct_mark`, `ct_label` and original tuple, the same frames out, and at the end the same list
//! of connections.
//!
//! The rules ([`policy`]) write what they see of a connection into the addresses of copies. The type of service of a
//! packet chooses what is done with it: looked at, committed (with marks, translation, helper, `force`), in two zones.
//! Talks ([`talks`]) are TCP in all its stages, UDP, pings and other protocols, with what goes wrong in them, errors about
//! them, fragments, and time that goes by. `tests/data/sequences-truth.txt` has what Open vSwitch did, so that the
//! comparison needs none; where it is installed, fresh cases are made as well: `WEFT_CASES` says how many, `WEFT_SEED`
//! from which seed on. `WEFT_OVS_RECORD=1` writes the file anew.
//!
//! What differs has to be one of [`explained`]'s classes, each of which `docs/semantics.md` explains.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs, reason = "a test")]

#[path = "../rig/mod.rs"]
mod rig;

mod case;
mod explained;
mod flow;
mod kernel;
mod limits;
mod names;
mod ours;
mod packets;
mod policy;
mod range;
mod ranges;
mod services;
mod stock;
mod suite;
mod talks;

use std::collections::BTreeMap;

use case::{Case, Outcome, Recorded, Step};
use explained::{Difference, Then};
use ours::Weft;
use policy::Policy;
use rig::dice::Dice;
use rig::octets::hex;
use suite::Suite;
use talks::Talk;
use weft_tests::Result;

/// States that packets of the recorded cases have to have: new, established, related and invalid, each way, translated as
/// source and as destination.
const STATES: [u8; 12] = [0x21, 0x22, 0x24, 0x2a, 0x2c, 0x30, 0x61, 0x62, 0x6a, 0xa1, 0xa2, 0xaa];

/// A packet that no rule tracks.
pub fn idle() -> Vec<u8> {
    let ends = packets::Ends { six: false, addresses: [1, 2], ports: [7, 7] };
    let form = packets::Form::default();
    packets::frame(&ends, packets::UDP, &form, &packets::udp(&ends, b"idle"))
}

fn random(seed: u64) -> Case {
    let mut dice = Dice(seed);
    let policy = Policy::random(&mut dice);
    let rules = policy.rules(&mut dice);
    let mut talks: Vec<Talk> = (0..1 + dice.below(4)).map(|_| Talk::random(&mut dice, &policy)).collect();
    let mut steps = Vec::new();
    for _ in 0..60 + dice.below(60) {
        if dice.percent(3) {
            let long = [1, 5, 14, 29, 30, 31, 45, 59, 60, 61, 120, 900, 86400];
            // The sweep of a connection takes away what its successor expects, in Open vSwitch.
            let long = if talks.iter().any(Talk::has_helper) { &long[..3] } else { &long };
            steps.push(Step::Wait(dice.pick(long)));
        }
        let talk = dice.below(talks.len());
        steps.extend(talks[talk].next(&mut dice).into_iter().map(Step::Packet));
        let announced = talks[talk].take_announced();
        talks.extend(announced);
    }
    Case { name: format!("{seed}"), rules, steps }
}

/// What was compared.
#[derive(Default, Debug)]
struct Counts {
    cases: usize,
    /// Cases that Open vSwitch does not survive.
    died: usize,
    /// Cases that were played to their end.
    whole: usize,
    packets: usize,
    frames: usize,
    connections: usize,
    /// Connections that limits of zones have refused.
    refused: u64,
    /// Copies by their `ct_state`.
    states: BTreeMap<u8, usize>,
    explained: BTreeMap<&'static str, usize>,
    unexplained: Vec<String>,
}

impl Counts {
    fn compare(&mut self, Recorded { case, outcomes, connections }: &Recorded) {
        self.cases += 1;
        let (mut weft, mut doubt, mut wide) = (Weft::load(case), None, false);
        for (number, (step, theirs)) in case.steps.iter().zip(outcomes).enumerate() {
            let (ours, drops) = weft.play(step);
            self.note(step, theirs);
            wide |= explained::is_wide(step);
            doubt = doubt.or_else(|| explained::doubt(step, theirs, &drops));
            if ours == *theirs {
                continue;
            }
            let difference = Difference { step, ours: &ours, theirs, drops: &drops, wide };
            let explained = explained::why(&difference).or_else(|| doubt.map(|why| (Then::Stop, why)));
            let Some((then, why)) = explained else {
                self.unexplained.push(show(case, number, &difference));
                return;
            };
            *self.explained.entry(why).or_default() += 1;
            if then == Then::Stop {
                return;
            }
        }
        self.refused += weft.refused();
        self.end(case, (weft.connections(), connections.clone()), doubt);
    }

    fn note(&mut self, step: &Step, theirs: &Outcome) {
        self.packets += usize::from(matches!(step, Step::Packet(_)));
        self.frames += theirs.len();
        theirs.iter().for_each(|frame| *self.states.entry(frame[11]).or_default() += 1);
    }

    /// Compares the connections at the end of a case; `doubt` says why they may be others.
    fn end(&mut self, case: &Case, (ours, theirs): (Vec<String>, Vec<String>), doubt: Option<&'static str>) {
        self.whole += 1;
        self.connections += theirs.len();
        if let Some(why) = doubt.filter(|_| ours != theirs) {
            *self.explained.entry(why).or_default() += 1;
        } else if ours != theirs {
            let lacks = |all: &[String], others: &[String]| {
                let only = all.iter().filter(|line| !others.contains(line));
                only.map(|line| format!("\n    {line}")).collect::<String>()
            };
            let (only_ours, only_theirs) = (lacks(&ours, &theirs), lacks(&theirs, &ours));
            let name = &case.name;
            self.unexplained
                .push(format!("case {name}, at its end\n  weft:{only_ours}\n  ovs:{only_theirs}"));
        }
    }

    fn finish(self) {
        let Counts { cases, died, whole, packets, frames, connections, .. } = self;
        let explained: usize = self.explained.values().sum();
        println!(
            "{cases} cases ({died} more were Open vSwitch's end), of which {whole} to their end: {packets} packets, {frames} frames out, {connections} connections at the \
             end; {explained} differences explained, {} not",
            self.unexplained.len()
        );
        println!("states: {:x?}", self.states);
        self.explained.iter().for_each(|(reason, count)| println!("{count:6} {reason}"));
        let shown = self.unexplained.len().min(number("WEFT_SHOWN", 3) as usize);
        assert!(shown == 0, "{}", self.unexplained[..shown].join("\n"));
    }
}

/// A difference, with the packets before it.
fn show(case: &Case, number: usize, difference: &Difference<'_>) -> String {
    let mut text = format!("case {}, step {number} ({:?}):\n", case.name, difference.drops);
    let first = number.saturating_sub(crate::number("WEFT_BEFORE", 12) as usize);
    for step in &case.steps[first..=number] {
        text += &match step {
            Step::Wait(seconds) => format!("  wait {seconds}\n"),
            Step::Set(setting) => format!("  set {setting:?}\n"),
            Step::Packet(octets) => {
                let mark =
                    if octets[12] == 8 { octets[15] / 4 } else { (octets[14] << 4 | octets[15] >> 4) / 4 };
                let path = policy::PATHS.get(usize::from(mark));
                format!("  {path:?} {}\n", hex(&octets[..octets.len().min(110)]))
            }
        };
    }
    let frames = |outcome: &Outcome| {
        outcome
            .iter()
            .map(|frame| format!("\n    {}", hex(&frame[..frame.len().min(110)])))
            .collect::<String>()
    };
    text + &format!("  weft:{}\n  ovs:{}", frames(difference.ours), frames(difference.theirs))
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn sequences_go_as_they_went_through_stock_ovs() {
    let counts = SUITE.replay();
    assert!(counts.frames > 1000 && counts.connections > 10);
    let unseen: Vec<&u8> = STATES.iter().filter(|state| !counts.states.contains_key(state)).collect();
    assert!(unseen.is_empty(), "{unseen:x?} of {:x?}", counts.states);
    counts.finish();
}

#[test]
fn sequences_go_as_they_go_through_stock_ovs() -> Result {
    SUITE.beside_ovs()
}

const SUITE: Suite = Suite {
    name: "sequences",
    head: HEAD,
    recorded: 12,
    cases: 60,
    play: |stock, seed| stock.play(&random(seed)),
    compare: |counts, recorded| counts.compare(recorded),
};

const HEAD: &str = "\
# What stock Open vSwitch's connection tracking makes of sequences of packets.
#
# How to read it. `case` starts with no rules and no connections. `rule` is one in the words of ovs-ofctl. `in` is a packet
# that comes in by port 1. `out` is a frame that leaves by port 3, in order: `=` the packet as it came; `FROM-TO:OCTETS` the
# packet with other octets in the place of those from FROM to TO (exclusive). `(61*300)` is 300 octets of 61. `wait` is
# seconds that go by. `connection` is a line of dump-conntrack -m at the end of the case.
#
# Recorded from Open vSwitch 3.1 (Debian 12), userspace datapath, by
# WEFT_OVS_RECORD=1 cargo test -p weft-core --test sequences

";
