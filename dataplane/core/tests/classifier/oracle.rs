//! What a table means, said as plainly as possible: a list of rules in the order of their coming.

use weft_core::classifier::{Clause, Conjunction};
use weft_flow::{Field, Fields, Match, Subfield};

#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub priority: u16,
    pub matches: Match,
    pub value: u32,
    /// Empty: an ordinary rule.
    pub clauses: Vec<Clause>,
}

#[derive(Clone, Debug, Default)]
pub struct Oracle {
    pub rules: Vec<Rule>,
}

/// What a look-up must say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    pub rule: Option<(u16, u32)>,
    pub conjunction: Option<Conjunction>,
    pub conjunctive: bool,
    pub floor: u16,
}

impl Oracle {
    pub fn insert(&mut self, rule: Rule) -> Option<u32> {
        let twin =
            self.rules.iter_mut().find(|old| old.priority == rule.priority && old.matches == rule.matches);
        match twin {
            Some(old) => Some(std::mem::replace(old, rule).value),
            None => {
                self.rules.push(rule);
                None
            }
        }
    }

    pub fn remove(&mut self, priority: u16, matches: &Match) -> Option<u32> {
        let place =
            self.rules.iter().position(|rule| rule.priority == priority && rule.matches == *matches)?;
        Some(self.rules.remove(place).value)
    }

    fn hard(&self, fields: &Fields) -> Option<&Rule> {
        let mut best: Option<&Rule> = None;
        for rule in self.rules.iter().filter(|rule| rule.clauses.is_empty() && rule.matches.covers(fields)) {
            if best.is_none_or(|best| rule.priority > best.priority) {
                best = Some(rule);
            }
        }
        best
    }

    pub fn find(&self, fields: &Fields) -> Answer {
        let hard = self.hard(fields);
        let beaten = |priority: u16| hard.is_some_and(|hard| hard.priority >= priority);
        let soft: Vec<&Rule> = self
            .rules
            .iter()
            .filter(|rule| !rule.clauses.is_empty() && !beaten(rule.priority) && rule.matches.covers(fields))
            .collect();
        let mut priorities: Vec<u16> = soft.iter().map(|rule| rule.priority).collect();
        priorities.sort();
        priorities.dedup();
        let mut conjunctive = false;
        for priority in priorities.into_iter().rev() {
            let clauses: Vec<Clause> = soft
                .iter()
                .filter(|rule| rule.priority == priority)
                .flat_map(|rule| rule.clauses.clone())
                .collect();
            let mut ids: Vec<(u32, u8)> = clauses.iter().map(|clause| (clause.id, clause.clauses)).collect();
            ids.sort();
            ids.dedup();
            for (id, n) in ids {
                if !(0..n).all(|clause| clauses.contains(&Clause { id, clauses: n, clause })) {
                    continue;
                }
                conjunctive = true;
                let mut again = *fields;
                Subfield::whole(Field::ConjId).set(&mut again, u128::from(id));
                if let Some(rule) = self.hard(&again) {
                    return Answer {
                        rule: Some((rule.priority, rule.value)),
                        conjunction: Some(Conjunction { id, priority }),
                        conjunctive,
                        floor: priority.min(rule.priority),
                    };
                }
            }
        }
        Answer {
            rule: hard.map(|rule| (rule.priority, rule.value)),
            conjunction: None,
            conjunctive,
            floor: hard.map_or(0, |rule| rule.priority),
        }
    }
}
