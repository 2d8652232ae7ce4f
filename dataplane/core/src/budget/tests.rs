use super::*;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};

const ALICE: PortId = PortId(1);
const MALLORY: PortId = PortId(2);

thread_local! {
    static CLOCK: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}

/// A share in percent.
const FIVE: u32 = 5;

fn budget() -> Budget {
    let mut budget = Budget { share: FIVE, ..Budget::default() };
    budget.set_clock(|| CLOCK.get());
    budget
}

/// A walk of so many microseconds, if it is granted.
fn walk(budget: &mut Budget, stale: bool, cost: u64) -> bool {
    let granted = budget.grants(stale);
    if granted && let Some(start) = budget.start() {
        CLOCK.set(start + micros(cost));
        budget.charge(start);
    }
    granted
}

/// Rounds of 100 microseconds in which Mallory has 32 new flows of 2 microseconds each, and `other` a packet; how many of Mallory's
/// packets walk. One in `idle` rounds finds nothing.
fn play(budget: &mut Budget, from: u64, rounds: u64, (other, idle): (PortId, u64)) -> u64 {
    let mut walks = 0;
    for round in from..from + rounds {
        budget.begin_round(micros(100 * round), idle > 0 && round % idle == 0, FIVE);
        budget.serve(other, 1);
        budget.serve(MALLORY, 1);
        walks += (0..32).filter(|_| walk(budget, false, 2)).count() as u64;
    }
    walks
}

#[test]
fn a_port_that_is_alone_walks_as_much_as_it_likes() {
    let mut budget = budget();
    assert_eq!(play(&mut budget, 0, 1000, (MALLORY, 0)), 32_000);
}

#[test]
fn beside_others_on_a_busy_worker_it_gets_its_share_of_the_time() {
    let mut budget = budget();
    play(&mut budget, 0, 2000, (ALICE, 0));
    let walks = play(&mut budget, 2000, 10_000, (ALICE, 0));
    // A second of which 5 percent are walks of 2 microseconds.
    assert!((24_900..=25_100).contains(&walks), "{walks}");
}

#[test]
fn beside_others_on_a_worker_with_time_left_it_walks_as_much_as_it_likes() {
    let mut budget = budget();
    assert_eq!(play(&mut budget, 0, 10_000, (ALICE, 4)), 320_000);
}

#[test]
fn time_that_is_left_again_opens_it_step_by_step() {
    let mut budget = budget();
    play(&mut budget, 0, 2000, (ALICE, 0));
    let opening: Vec<u64> =
        (0..6).map(|window| play(&mut budget, 2000 + window * 50, 50, (ALICE, 4))).collect();
    assert!(opening.is_sorted(), "{opening:?}");
    assert_eq!(opening.last(), Some(&1600));
}

#[test]
fn others_that_fall_silent_no_longer_limit_it() {
    let mut budget = budget();
    play(&mut budget, 0, 2000, (ALICE, 0));
    play(&mut budget, 2000, 100, (MALLORY, 0));
    assert_eq!(play(&mut budget, 2100, 100, (MALLORY, 0)), 3200);
}

#[test]
fn others_that_are_active_for_moments_lose_no_more_than_others() {
    let mut budget = budget();
    play(&mut budget, 0, 2000, (ALICE, 0));
    let mut walks = 0;
    for turn in 0..100 {
        let from = 2000 + turn * 200;
        play(&mut budget, from, 190, (MALLORY, 0));
        walks += play(&mut budget, from + 190, 10, (ALICE, 0));
    }
    // A hundred times, the last round before the others are active and 10 in which they are, of 100 microseconds each.
    assert!(walks <= 100 * 11 * 5 / 2 + 100, "{walks}");
}

#[test]
fn who_has_few_new_flows_is_not_limited_by_who_has_many() {
    let mut budget = budget();
    for round in 0..10_000 {
        play(&mut budget, round, 1, (ALICE, 0));
        budget.serve(ALICE, 1);
        assert!(round % 100 != 0 || walk(&mut budget, false, 20), "round {round}");
    }
}

#[test]
fn stale_flows_have_what_new_ones_leave() {
    let mut budget = budget();
    play(&mut budget, 0, 3000, (ALICE, 0));
    while walk(&mut budget, false, 2) {}
    let walks = (0..10_000).filter(|_| walk(&mut budget, true, 2)).count();
    assert!((2400..=2510).contains(&walks), "{walks} of 2 microseconds in 5 milliseconds");
}

#[test]
fn who_is_refused_something_rests_for_some_rounds_unless_it_is_an_uplink() {
    for (shares, expected) in [(1, 3), (UPLINK, 0)] {
        let mut budget = budget();
        play(&mut budget, 0, 2000, (ALICE, 0));
        assert!(!budget.rests(ALICE));
        budget.rest_on(MALLORY);
        budget.serve(MALLORY, shares);
        while walk(&mut budget, false, 2) {}
        let rounds = (0..10).map(|_| budget.rests(MALLORY)).take_while(|&rests| rests).count();
        assert_eq!(rounds, expected);
    }
}

#[test]
fn an_uplink_has_four_shares_and_a_whole_one_is_no_limit() {
    for (shares, share, expected) in [(UPLINK, FIVE, 95_000..105_000), (1, WHOLE, 320_000..320_001)] {
        let mut budget = budget();
        let mut walks = 0;
        for round in 0..12_000 {
            budget.begin_round(micros(100 * round), false, share);
            budget.serve(ALICE, 1);
            budget.serve(MALLORY, shares);
            let granted = (0..32).filter(|_| walk(&mut budget, false, 2)).count();
            walks += if round >= 2000 { granted } else { 0 };
        }
        assert!(expected.contains(&walks), "{shares} of {share}: {walks}");
    }
}

/// The same, naively: it goes through all that has happened microsecond by microsecond.
#[derive(Default)]
struct Oracle {
    /// Whether each microsecond was idle.
    idle: VecDeque<bool>,
    level: u32,
    now: u64,
    active: HashMap<u16, u64>,
    saved: HashMap<u16, i64>,
    filled: HashMap<u16, u64>,
}

impl Oracle {
    fn begin_round(&mut self, now: u64, was_idle: bool) {
        self.idle.extend((self.now..now).map(|_| was_idle));
        self.now = now;
        if self.idle.len() >= 5000 {
            let (idle, length) = (self.idle.iter().filter(|&&idle| idle).count(), self.idle.len());
            match idle * 16 / length {
                0 => self.level = self.level.saturating_sub(1),
                1 => {}
                _ => self.level = 5.min(self.level + 1),
            }
            self.idle.clear();
        }
    }

    /// Whether the port is limited now.
    fn serve(&mut self, port: u16) -> bool {
        self.active.insert(port, self.now);
        let others = self.active.iter().any(|(&other, &seen)| other != port && self.now - seen < 10_000);
        if self.level < 5 {
            let saved = self.saved.entry(port).or_insert(10_000_000);
            for _ in self.filled.get(&port).copied().unwrap_or(0)..self.now {
                let more = if others { (5 * 10) << self.level } else { 0 };
                *saved = (*saved + more).min(10_000_000);
            }
            self.filled.insert(port, self.now);
        }
        self.level < 5 && others
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_budget_agrees_with_one_that_looks_at_every_microsecond(
        busy in 0..100u32,
        rounds in proptest::collection::vec(
            (0..2000u64, 0..100u32, proptest::collection::vec((0..3u16, 0..40u64, any::<bool>()), 0..4)), 1..200)
    ) {
        let (mut budget, mut oracle) = (budget(), Oracle { level: 5, ..Oracle::default() });
        // Nobody has been active long before anything has happened.
        let mut now = 20_000;
        budget.begin_round(micros(now), true, FIVE);
        oracle.begin_round(now, true);
        for (passed, chance, served) in rounds {
            now += passed;
            budget.begin_round(micros(now), chance > busy, FIVE);
            oracle.begin_round(now, chance > busy);
            for (port, cost, stale) in served {
                budget.serve(PortId(port), 1);
                let limited = oracle.serve(port);
                for _ in 0..20 {
                    let threshold = if stale { 0 } else { 5_000_000 };
                    let granted = !limited || oracle.saved[&port] > threshold;
                    prop_assert_eq!(budget.grants(stale), granted, "at {} for {}", now, port);
                    prop_assert_eq!(budget.start().is_some(), limited);
                    walk(&mut budget, stale, cost);
                    if granted && limited {
                        *oracle.saved.get_mut(&port).unwrap() -= cost as i64 * 1000;
                    }
                }
            }
        }
    }
}
