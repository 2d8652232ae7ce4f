//! What the writer knows of the rules beside the tables: by cookie, group, meter and deadline, and what is read.
//!
//! All of it follows from the set of rules and groups: adding one and removing it again leaves the index as it was. So a
//! draft that is given up is undone by the opposite of its steps.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use weft_flow::Action;
use weft_flow::action::Learn;

use super::reach::Uses;
use super::reads::Reads;
use super::rule::nanos;
use super::table::Summary;
use super::{Group, Rule, TableId};

/// Rules by their serial numbers.
type ById = BTreeMap<u64, Arc<Rule>>;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Index {
    cookies: HashMap<(u64, TableId), Bag>,
    groups: HashMap<u32, ById>,
    meters: HashMap<u32, ById>,
    deadlines: BTreeMap<(u64, u64), Arc<Rule>>,
    evictable: BTreeMap<(TableId, u16, u64, u64), Arc<Rule>>,
    /// Actions `learn(delete_learned)`, by the cookie and table of what they learn.
    learners: HashMap<(u64, TableId), u32>,
    /// Those whose last one is gone.
    pub forsaken: Vec<(u64, TableId)>,
    uses: HashMap<TableId, Uses>,
    /// Tables whose summary may be another one.
    stale: Vec<TableId>,
}

/// Rules of one cookie and table: most cookies have one, some have all.
#[derive(Debug)]
enum Bag {
    One(Arc<Rule>),
    Many(Box<ById>),
}

impl Bag {
    fn insert(&mut self, rule: Arc<Rule>) {
        match self {
            Bag::One(first) => {
                let two = [Arc::clone(first), rule].map(|rule| (rule.serial, rule));
                *self = Bag::Many(Box::new(two.into()));
            }
            Bag::Many(rules) => {
                rules.insert(rule.serial, rule);
            }
        }
    }

    /// Whether it is empty then.
    fn remove(&mut self, rule: &Rule) -> bool {
        match self {
            Bag::One(only) => only.serial == rule.serial,
            Bag::Many(rules) => {
                rules.remove(&rule.serial);
                rules.is_empty()
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Rule>> {
        let (one, many) = match self {
            Bag::One(rule) => (Some(rule), None),
            Bag::Many(rules) => (None, Some(rules.values())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn len(&self) -> usize {
        match self {
            Bag::One(_) => 1,
            Bag::Many(rules) => rules.len(),
        }
    }
}

impl Index {
    /// A rule is in a table.
    pub fn add(&mut self, rule: &Arc<Rule>) {
        match self.cookies.get_mut(&(rule.cookie, rule.table)) {
            Some(bag) => bag.insert(Arc::clone(rule)),
            None => {
                self.cookies.insert((rule.cookie, rule.table), Bag::One(Arc::clone(rule)));
            }
        }
        each(&rule.actions, &mut |action| match action {
            Action::Group(id) => {
                self.groups.entry(*id).or_default().insert(rule.serial, Arc::clone(rule));
            }
            Action::Meter(id) => {
                self.meters.entry(*id).or_default().insert(rule.serial, Arc::clone(rule));
            }
            Action::Learn(learn) if learn.delete_learned => {
                *self.learners.entry(target(learn)).or_default() += 1;
            }
            _ => {}
        });
        self.schedule(rule);
        self.add_reads(rule.table, &Reads::of_rule(rule));
    }

    /// A rule is out of its table.
    pub fn remove(&mut self, rule: &Arc<Rule>) {
        let key = (rule.cookie, rule.table);
        if self.cookies.get_mut(&key).is_some_and(|bag| bag.remove(rule)) {
            self.cookies.remove(&key);
        }
        each(&rule.actions, &mut |action| match action {
            Action::Group(id) => forget(&mut self.groups, *id, rule),
            Action::Meter(id) => forget(&mut self.meters, *id, rule),
            Action::Learn(learn) if learn.delete_learned => self.remove_learner(target(learn)),
            _ => {}
        });
        self.unschedule(rule);
        self.remove_reads(rule.table, &Reads::of_rule(rule));
    }

    fn remove_learner(&mut self, learned: (u64, TableId)) {
        if let Some(count) = self.learners.get_mut(&learned) {
            *count -= 1;
            if *count == 0 {
                self.learners.remove(&learned);
                self.forsaken.push(learned);
            }
        }
    }

    /// Whether there is a `learn(delete_learned)` of that cookie and table.
    pub fn has_learner(&self, learned: (u64, TableId)) -> bool {
        self.learners.contains_key(&learned)
    }

    /// Notes when a rule is to be looked at, if it ends by itself.
    pub fn schedule(&mut self, rule: &Arc<Rule>) {
        self.unschedule(rule);
        let Some((deadline, _)) = rule.deadline() else { return };
        let deadline = nanos(deadline).max(1);
        rule.scheduled.store(deadline, Ordering::Relaxed);
        self.deadlines.insert((deadline, rule.serial), Arc::clone(rule));
        self.evictable.insert((rule.table, rule.importance, deadline, rule.serial), Arc::clone(rule));
    }

    fn unschedule(&mut self, rule: &Rule) {
        let deadline = rule.scheduled.swap(0, Ordering::Relaxed);
        if deadline != 0 {
            self.deadlines.remove(&(deadline, rule.serial));
            self.evictable.remove(&(rule.table, rule.importance, deadline, rule.serial));
        }
    }

    /// The rule that is to be looked at first, and when, in nanoseconds.
    pub fn first_deadline(&self) -> Option<(u64, &Arc<Rule>)> {
        self.deadlines.first_key_value().map(|((deadline, _), rule)| (*deadline, rule))
    }

    /// The rule of a table that makes room first, as far as is known: the least important, and of those the one that
    /// would expire first.
    pub fn evictable(&self, table: TableId) -> Option<&Arc<Rule>> {
        let (key, rule) = self.evictable.range((table, 0, 0, 0)..).next()?;
        (key.0 == table).then_some(rule)
    }

    /// Rules with exactly that cookie in a table.
    pub fn with_cookie(&self, cookie: u64, table: TableId) -> impl Iterator<Item = &Arc<Rule>> {
        self.cookies.get(&(cookie, table)).into_iter().flat_map(Bag::iter)
    }

    /// How many there are.
    pub fn count_with_cookie(&self, cookie: u64, table: TableId) -> usize {
        self.cookies.get(&(cookie, table)).map_or(0, Bag::len)
    }

    /// Rules that use a group.
    pub fn using_group(&self, id: u32) -> Vec<Arc<Rule>> {
        self.groups.get(&id).map_or(Vec::new(), |rules| rules.values().cloned().collect())
    }

    /// Rules that use a meter.
    pub fn using_meter(&self, id: u32) -> Vec<Arc<Rule>> {
        self.meters.get(&id).map_or(Vec::new(), |rules| rules.values().cloned().collect())
    }

    /// A group is there: what its buckets could learn counts like a rule's.
    pub fn add_group(&mut self, group: &Group) {
        group.reads.learned.iter().for_each(|(table, reads)| self.use_table(*table, |uses| uses.add(reads)));
    }

    /// A group is gone.
    pub fn remove_group(&mut self, group: &Group) {
        group
            .reads
            .learned
            .iter()
            .for_each(|(table, reads)| self.use_table(*table, |uses| uses.remove(reads)));
    }

    fn add_reads(&mut self, table: TableId, reads: &Reads) {
        self.use_table(table, |uses| uses.add(reads));
        reads.learned.iter().for_each(|(table, reads)| self.use_table(*table, |uses| uses.add(reads)));
    }

    fn remove_reads(&mut self, table: TableId, reads: &Reads) {
        self.use_table(table, |uses| uses.remove(reads));
        reads.learned.iter().for_each(|(table, reads)| self.use_table(*table, |uses| uses.remove(reads)));
    }

    fn use_table(&mut self, table: TableId, change: impl FnOnce(&mut Uses) -> bool) {
        if change(self.uses.entry(table).or_default()) {
            self.stale.push(table);
        }
    }

    /// The tables whose summary may be another one since the last call, with the new one.
    pub fn take_stale(&mut self) -> Vec<(TableId, Summary)> {
        let stale = std::mem::take(&mut self.stale);
        let summary = |table: TableId| self.uses.get_mut(&table).map(|uses| (table, uses.summary()));
        stale.into_iter().filter_map(summary).collect()
    }
}

fn target(learn: &Learn) -> (u64, TableId) {
    (learn.cookie, TableId::from(learn.table))
}

fn forget(users: &mut HashMap<u32, ById>, id: u32, rule: &Rule) {
    if let Some(rules) = users.get_mut(&id) {
        rules.remove(&rule.serial);
        if rules.is_empty() {
            users.remove(&id);
        }
    }
}

/// Every action, nested ones too.
pub(super) fn each(actions: &[Action], act: &mut impl FnMut(&Action)) {
    for action in actions {
        act(action);
        each(action.nested(), act);
    }
}
