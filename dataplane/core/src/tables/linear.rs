//! A list with the classifier's interface, until the classifier is there.

use std::sync::Arc;

use weft_flow::{Fields, Match};

#[derive(Clone, Debug)]
pub struct Classifier<T> {
    rules: Arc<Vec<(u16, Match, T)>>,
}

impl<T: Clone> Classifier<T> {
    pub fn new() -> Self {
        Classifier { rules: Arc::default() }
    }

    pub fn len(&self) -> usize {
        self.rules.len()
    }

    fn find(&self, priority: u16, matches: &Match) -> Option<usize> {
        self.rules.iter().position(|rule| rule.0 == priority && rule.1 == *matches)
    }

    pub fn insert(&mut self, priority: u16, matches: &Match, value: T) -> Option<T> {
        let at = self.find(priority, matches);
        let rules = Arc::make_mut(&mut self.rules);
        match at.and_then(|at| rules.get_mut(at)) {
            Some(rule) => Some(std::mem::replace(&mut rule.2, value)),
            None => {
                rules.push((priority, matches.clone(), value));
                None
            }
        }
    }

    pub fn remove(&mut self, priority: u16, matches: &Match) -> Option<T> {
        let at = self.find(priority, matches)?;
        Some(Arc::make_mut(&mut self.rules).remove(at).2)
    }

    pub fn get(&self, priority: u16, matches: &Match) -> Option<&T> {
        self.rules.get(self.find(priority, matches)?).map(|rule| &rule.2)
    }

    pub fn lookup(&self, fields: &Fields) -> Option<(u16, &T)> {
        let covering = self.rules.iter().filter(|rule| rule.1.covers(fields));
        covering.max_by_key(|rule| rule.0).map(|rule| (rule.0, &rule.2))
    }

    pub fn iter(&self) -> impl Iterator<Item = (u16, &Match, &T)> {
        self.rules.iter().map(|rule| (rule.0, &rule.1, &rule.2))
    }

    pub fn within(&self, outer: &Match) -> impl Iterator<Item = (u16, &Match, &T)> {
        self.iter().filter(move |rule| rule.1.is_within(outer))
    }

    pub fn overlapping(&self, priority: u16, with: &Match) -> impl Iterator<Item = (u16, &Match, &T)> {
        self.iter().filter(move |rule| rule.0 == priority && rule.1.overlaps(with))
    }
}
