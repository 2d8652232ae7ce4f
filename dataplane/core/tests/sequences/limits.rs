//! Limits and timeouts of zones: the same packets begin a connection, and the same connections are over at the same second.

use weft_tests::Result;

use crate::Counts;
use crate::case::{Case, Recorded, Setting, Step};
use crate::ours::Weft;
use crate::packets::{self, Ends, Form, UDP};
use crate::policy::{Nat, Path, Policy};
use crate::rig::dice::Dice;
use crate::stock::Stock;
use crate::suite::{Peers, Suite};
use crate::talks::Talk;

/// Paths that commit nothing with `force`: what it replaces counts in Open vSwitch until the sweep.
pub const UNFORCED: [Path; 11] = [
    Path::Look,
    Path::CommitNew,
    Path::Commit,
    Path::Other,
    Path::Both,
    Path::Clear,
    Path::Mark,
    Path::Back,
    Path::Plain,
    Path::Field,
    Path::Count,
];

fn policy(dice: &mut Dice) -> Policy {
    let nats = if dice.percent(70) { [Nat::Not; 2] } else { [Nat::Source(0), Nat::Not] };
    Policy { zones: [5, 7], nats, ..Policy::random(dice) }
}

/// Zones that may have few connections; limits that change.
fn limited(dice: &mut Dice) -> (Policy, Vec<Step>) {
    let policy = policy(dice);
    let mut zones: Vec<u16> = policy.zones.to_vec();
    if dice.percent(30) {
        zones.pop();
    }
    let set = |dice: &mut Dice, zone| Step::Set(Setting::Limit { zone, limit: dice.below(6) as u32 });
    let mut steps: Vec<Step> = zones.iter().map(|&zone| set(dice, Some(zone))).collect();
    if zones.len() == 1 && dice.percent(60) {
        // There is one zone without a limit of its own then.
        steps.push(set(dice, None));
    }
    let mut talks: Vec<Talk> = (0..4 + dice.below(8)).map(|_| Talk::unforced(dice, &policy, false)).collect();
    for _ in 0..60 + dice.below(40) {
        match dice.below(100) {
            // Until the sweep, connections that are over count in both: so long that both have swept.
            0..4 => steps.push(Step::Wait(dice.pick(&[90, 900]))),
            4..8 => steps.push(set(dice, Some(zones[0]))),
            _ => {}
        }
        let talk = dice.below(talks.len());
        steps.extend(talks[talk].next(dice).into_iter().map(Step::Packet));
    }
    (policy, steps)
}

/// Zones with timeouts of their own.
fn timed(dice: &mut Dice) -> (Policy, Vec<Step>) {
    let policy = policy(dice);
    let mut steps = Vec::new();
    for zone in policy.zones {
        let mut words = Vec::new();
        for timeout in weft_conntrack::Timeout::ALL {
            if dice.percent(75) {
                words.push(format!("{}={}", timeout.name(), 1 + dice.below(6)));
            }
        }
        if !words.is_empty() && dice.percent(90) {
            steps.push(Step::Set(Setting::Timeouts { zone, policy: words.join(" ") }));
        }
    }
    let mut talks: Vec<Talk> = (0..2 + dice.below(5)).map(|_| Talk::unforced(dice, &policy, true)).collect();
    for _ in 0..60 + dice.below(40) {
        if dice.percent(25) {
            steps.push(Step::Wait(1 + dice.below(5) as u64));
        }
        let talk = dice.below(talks.len());
        steps.extend(talks[talk].next(dice).into_iter().map(Step::Packet));
    }
    (policy, steps)
}

fn play(stock: &mut Stock, seed: u64) -> Result<Recorded> {
    let mut dice = Dice(seed);
    let (policy, steps) = if dice.percent(50) { limited(&mut dice) } else { timed(&mut dice) };
    let rules = policy.rules(&mut dice);
    stock.play(&Case { name: format!("{seed}"), rules, steps })
}

const SUITE: Suite = Suite {
    name: "limits",
    head: HEAD,
    recorded: 10,
    cases: 40,
    play,
    compare: |counts, recorded| counts.compare(recorded),
};

#[test]
fn limits_and_timeouts_count_as_they_did_in_stock_ovs() {
    let counts = SUITE.replay();
    assert!(counts.frames > 500 && counts.refused > 20);
    counts.finish();
}

#[test]
fn limits_and_timeouts_count_as_they_do_in_stock_ovs() -> Result {
    let Some(mut peers) = Peers::open(SUITE.name)? else { return Ok(()) };
    let mut counts = Counts::default();
    let text = SUITE.run(&mut peers, &mut counts)?;
    SUITE.record(text)?;
    println!("{} connections refused", counts.refused);
    counts.finish();
    for (steps, ours, theirs) in differences() {
        let mut dice = Dice(1);
        let policy = Policy { six: false, nats: [Nat::Not; 2], ..policy(&mut dice) };
        let case = Case { name: String::new(), rules: policy.rules(&mut dice), steps };
        let told = peers.current.play(&case)?.connections;
        let mut weft = Weft::load(&case);
        case.steps.iter().for_each(|step| drop(weft.play(step)));
        let left = |lines: &[String]| {
            let mut all: Vec<String> =
                lines.iter().map(|line| line.rsplit('=').next().unwrap().to_owned()).collect();
            all.sort();
            all.join(" ")
        };
        assert_eq!((left(&weft.connections()), left(&told)), (ours.to_owned(), theirs.to_owned()));
    }
    Ok(())
}

/// Where weft means to differ: what happens, and the seconds that connections have left in the end, in weft and in Open
/// vSwitch.
fn differences() -> Vec<(Vec<Step>, &'static str, &'static str)> {
    let limit = |zone, limit| Step::Set(Setting::Limit { zone, limit });
    let timeouts = |policy: &str| Step::Set(Setting::Timeouts { zone: 5, policy: policy.to_owned() });
    let packet = |path: Path, number: u128, protocol: u8| {
        let ends = Ends { six: false, addresses: [0x0a00_0000 + number, 0x0a00_0009], ports: [7, 9] };
        let message = packets::udp(&ends, b"weft");
        let form = Form { tos: path.tos(), ..Form::default() };
        Step::Packet(packets::frame(&ends, protocol, &form, &message))
    };
    let a = |number| packet(Path::Commit, number, UDP);
    let b = |number| packet(Path::Field, number, UDP);
    vec![
        // What zones without a limit of their own may have: each, and all together.
        (vec![limit(None, 2), a(1), a(2), a(3), b(1), b(2), b(3)], "60 60 60 60", "60 60"),
        // Connections that are older than the limit count, and don't.
        (vec![a(1), a(2), limit(Some(5), 2), a(3), a(4), a(5)], "60 60", "60 60 60 60"),
        // A policy counts for other protocols as for UDP, and doesn't.
        (vec![timeouts("udp_first=50"), packet(Path::Commit, 1, 47)], "50", "60"),
    ]
}

const HEAD: &str = "\
# What stock Open vSwitch's connection tracking makes of limits and timeouts of zones. It reads like sequences-truth.txt; `set`
# is `limit ZONE NUMBER` (`-` for zones that have none of their own) or `timeouts ZONE POLICY`.
#
# Recorded from Open vSwitch 3.1 (Debian 12), userspace datapath, by
# WEFT_OVS_RECORD=1 cargo test -p weft-core --test sequences limits

";
