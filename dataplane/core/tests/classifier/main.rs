//! The classifier answers as a plain list of rules would, whatever was added, replaced or removed, and goes on answering
//! so in the versions that somebody still has. `WEFT_CASES` sets how many tables are tried.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

#[path = "../rig/dice.rs"]
#[allow(dead_code, reason = "others use the rest of it")]
mod dice;

mod oracle;
mod universe;

use proptest::prelude::*;
use weft_core::classifier::{Classifier, Clause};
use weft_flow::{Field, Fields, Match};

use dice::Dice;
use oracle::{Answer, Oracle, Rule};
use universe::World;

#[derive(Clone, Default)]
struct Pair {
    classifier: Classifier<u32>,
    oracle: Oracle,
}

type Shown = Vec<(u16, Match, u32)>;

fn sorted<'a>(rules: impl Iterator<Item = (u16, &'a Match, &'a u32)>) -> Shown {
    let mut rules: Shown =
        rules.map(|(priority, matches, value)| (priority, matches.clone(), *value)).collect();
    rules.sort();
    rules
}

impl Pair {
    fn insert(&mut self, rule: Rule) {
        let old = if rule.clauses.is_empty() {
            self.classifier.insert(rule.priority, &rule.matches, rule.value)
        } else {
            let clauses = rule.clauses.clone().into();
            self.classifier.insert_conjunction(rule.priority, &rule.matches, clauses, rule.value)
        };
        assert_eq!(old, self.oracle.insert(rule));
    }

    fn remove(&mut self, priority: u16, matches: &Match) {
        let (old, expected) =
            (self.classifier.remove(priority, matches), self.oracle.remove(priority, matches));
        assert_eq!(old, expected);
    }

    fn change(&mut self, world: &World, dice: &mut Dice, removals: u64) {
        if dice.percent(removals) && !self.oracle.rules.is_empty() {
            let rule = dice.pick(&self.oracle.rules);
            return self.remove(rule.priority, &rule.matches);
        }
        match dice.below(20) {
            0 => {
                let (priority, matches) = (world.priority(dice), world.matches(dice));
                self.remove(priority, &matches);
            }
            1 if !self.oracle.rules.is_empty() => {
                let old = dice.pick(&self.oracle.rules);
                self.insert(Rule { priority: old.priority, matches: old.matches, ..world.rule(dice) });
            }
            _ => self.insert(world.rule(dice)),
        }
    }

    fn look_up(&self, world: &World, dice: &mut Dice) {
        let fields = world.packet(&self.oracle.rules, dice);
        let found = self.classifier.find(&fields);
        let answer = Answer {
            rule: found.rule.map(|(priority, value)| (priority, *value)),
            conjunction: found.conjunction,
            conjunctive: found.conjunctive,
            floor: found.floor,
        };
        assert_eq!(answer, self.oracle.find(&fields));
        assert_eq!(self.classifier.lookup(&fields), found.rule);
    }

    fn select(&self, world: &World, dice: &mut Dice) {
        let rules = &self.oracle.rules;
        let some = if rules.is_empty() { world.matches(dice) } else { dice.pick(rules).matches };
        let matches = if dice.percent(50) { world.matches(dice) } else { some };
        let priority = world.priority(dice);
        let of = |wanted: &dyn Fn(&Rule) -> bool| {
            let wanted = rules.iter().filter(|rule| wanted(rule));
            sorted(wanted.map(|rule| (rule.priority, &rule.matches, &rule.value)))
        };
        assert_eq!(sorted(self.classifier.within(&matches)), of(&|rule| rule.matches.is_within(&matches)));
        assert_eq!(
            sorted(self.classifier.overlapping(priority, &matches)),
            of(&|rule| rule.priority == priority && rule.matches.overlaps(&matches))
        );
        let own = rules.iter().find(|rule| rule.priority == priority && rule.matches == matches);
        assert_eq!(self.classifier.get(priority, &matches), own.map(|rule| &rule.value));
    }

    fn check(&self, world: &World, dice: &mut Dice) {
        assert_eq!(self.classifier.len(), self.oracle.rules.len());
        assert_eq!(self.classifier.is_empty(), self.oracle.rules.is_empty());
        (0..20).for_each(|_| self.look_up(world, dice));
        (0..2).for_each(|_| self.select(world, dice));
    }

    fn check_all(&self, world: &World, dice: &mut Dice) {
        self.check(world, dice);
        let all = self.oracle.rules.iter().map(|rule| (rule.priority, &rule.matches, &rule.value));
        assert_eq!(sorted(self.classifier.iter()), sorted(all));
    }
}

/// A table grows, changes and shrinks, with versions of it kept on the way.
fn live(seed: u64) {
    let mut dice = Dice(seed);
    let world = World::new(&mut dice);
    let size = dice.pick(&[3, 8, 12, 20, 20, 60, 60, 300]);
    let mut pair = Pair::default();
    let mut kept: Vec<Pair> = Vec::new();
    for removals in [5, 50, 90] {
        for step in 0..size {
            pair.change(&world, &mut dice, removals);
            if dice.percent(10) {
                kept.push(pair.clone());
            }
            if step % (1 + size / 8) == 0 {
                pair.check(&world, &mut dice);
            }
        }
        pair.check_all(&world, &mut dice);
    }
    for old in kept.iter().step_by(1 + kept.len() / 8) {
        old.check_all(&world, &mut dice);
    }
    for rule in pair.oracle.rules.clone() {
        pair.remove(rule.priority, &rule.matches);
    }
    pair.check_all(&world, &mut dice);
}

fn cases() -> u32 {
    std::env::var("WEFT_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1500)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_classifier_answers_as_a_plain_list_does(seed: u64) {
        live(seed);
    }
}

fn address(field: Field, value: u128) -> Match {
    Match::any().with(field, value)
}

fn clause(id: u32, clause: u8, clauses: u8) -> Clause {
    Clause { id, clauses, clause }
}

fn packet(source: u128, destination: u128) -> Fields {
    Match::any().with(Field::IpSrc, source).with(Field::IpDst, destination).value()
}

/// Sources 1 to 3, destinations 5 to 7, id 9, priority 100; its actions are at `priority`.
fn conjunction(priority: u16) -> Classifier<&'static str> {
    let mut table = Classifier::new();
    for value in 1..=3 {
        let matches = address(Field::IpSrc, value);
        table.insert_conjunction(100, &matches, Box::new([clause(9, 0, 2)]), "source");
    }
    for value in 5..=7 {
        let matches = address(Field::IpDst, value);
        table.insert_conjunction(100, &matches, Box::new([clause(9, 1, 2)]), "destination");
    }
    table.insert(priority, &address(Field::ConjId, 9), "both");
    table
}

#[test]
fn all_clauses_together_lead_to_the_rule_of_their_conj_id() {
    let table = conjunction(100);
    let found = table.find(&packet(1, 7));
    assert_eq!(found.rule, Some((100, &"both")));
    assert_eq!(found.conjunction.map(|by| (by.id, by.priority)), Some((9, 100)));
    assert!(found.conjunctive);
    let found = table.find(&packet(1, 8));
    assert!(found.rule.is_none() && !found.conjunctive && found.floor == 0);
    assert_eq!(table.lookup(&packet(4, 5)), None);
}

#[test]
fn an_ordinary_rule_of_the_same_priority_beats_a_conjunction() {
    let mut table = conjunction(200);
    table.insert(100, &address(Field::IpSrc, 1), "plain");
    assert_eq!(table.lookup(&packet(1, 5)), Some((100, &"plain")));
    assert_eq!(table.lookup(&packet(2, 5)), Some((200, &"both")));
    table.insert(99, &address(Field::IpSrc, 2), "lower");
    assert_eq!(table.lookup(&packet(2, 5)), Some((200, &"both")));
}

#[test]
fn a_conjunction_without_a_rule_for_its_id_leaves_the_turn_to_lower_priorities() {
    let mut table = conjunction(100);
    table.remove(100, &address(Field::ConjId, 9));
    assert_eq!(table.find(&packet(1, 5)).rule, None);
    assert!(table.find(&packet(1, 5)).conjunctive);
    let half = |field| address(field, if field == Field::IpSrc { 1 } else { 5 });
    table.insert_conjunction(50, &half(Field::IpSrc), Box::new([clause(3, 0, 2)]), "source");
    table.insert_conjunction(50, &half(Field::IpDst), Box::new([clause(3, 1, 2)]), "destination");
    table.insert(1, &address(Field::ConjId, 3), "second");
    let found = table.find(&packet(1, 5));
    assert_eq!((found.rule, found.floor), (Some((1, &"second")), 1));
    assert_eq!(found.conjunction.map(|by| by.priority), Some(50));
}

#[test]
fn the_second_look_up_may_find_a_rule_that_asks_for_no_conj_id() {
    let mut table = conjunction(100);
    table.remove(100, &address(Field::ConjId, 9));
    table.insert(0, &Match::any(), "default");
    let found = table.find(&packet(1, 5));
    assert_eq!((found.rule, found.floor), (Some((0, &"default")), 0));
    assert_eq!(found.conjunction.map(|by| by.id), Some(9));
}

#[test]
fn of_equals_the_first_wins_and_a_replaced_rule_keeps_its_place() {
    let mut table = Classifier::new();
    table.insert(7, &address(Field::IpSrc, 1), "source");
    table.insert(7, &address(Field::IpDst, 5), "destination");
    assert_eq!(table.lookup(&packet(1, 5)), Some((7, &"source")));
    assert_eq!(table.insert(7, &address(Field::IpSrc, 1), "again"), Some("source"));
    assert_eq!(table.lookup(&packet(1, 5)), Some((7, &"again")));
    assert_eq!(table.remove(7, &address(Field::IpSrc, 1)), Some("again"));
    table.insert(7, &address(Field::IpSrc, 1), "late");
    assert_eq!(table.lookup(&packet(1, 5)), Some((7, &"destination")));
}

#[test]
fn workers_can_look_up_while_the_next_version_is_made() {
    let mut table = conjunction(100);
    let published = table.clone();
    std::thread::scope(|scope| {
        let worker =
            scope.spawn(|| (0..20_000).all(|_| published.lookup(&packet(1, 5)) == Some((100, &"both"))));
        for value in 0..2000 {
            table.insert(200, &address(Field::IpSrc, value), "plain");
        }
        assert!(worker.join().unwrap());
    });
    assert_eq!(table.lookup(&packet(1, 5)), Some((200, &"plain")));
}

#[test]
fn one_match_at_thousands_of_priorities_is_a_list_that_changes_piece_by_piece() {
    let mut table = Classifier::new();
    let (matches, other) = (address(Field::IpSrc, 1), address(Field::IpDst, 5));
    let mut dice = Dice(3);
    let mut priorities: Vec<u16> = (1..=5000).collect();
    for at in (1..priorities.len()).rev() {
        priorities.swap(at, dice.below(at + 1));
    }
    for priority in &priorities {
        assert_eq!(table.insert(*priority, &matches, *priority), None);
    }
    for priority in 0..9 {
        assert_eq!(table.insert(2 * priority, &other, priority), None);
    }
    let whole = table.clone();
    assert_eq!(table.lookup(&packet(1, 5)), Some((5000, &5000)));
    priorities.sort();
    for priority in priorities.iter().rev() {
        assert_eq!(table.lookup(&packet(1, 6)), Some((*priority, priority)));
        assert_eq!(table.insert(*priority, &matches, 0), Some(*priority));
        assert_eq!(table.remove(*priority, &matches), Some(0));
    }
    assert_eq!((table.len(), table.lookup(&packet(1, 5))), (9, Some((16, &8))));
    assert_eq!((whole.len(), whole.within(&matches).count()), (5009, 5000));
    assert_eq!(whole.lookup(&packet(1, 5)), Some((5000, &5000)));
}
