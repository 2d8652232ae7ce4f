//! What the writer knows of the rules beside the tables: by cookie, group, meter and deadline, and what is read.
//!
//! All of it follows from the set of rules and groups (but for shared lists of actions, which nobody asks about): adding
//! one and removing it again leaves the index as it was. So a draft that is given up is undone by the opposite of its
//! steps.

use std::collections::{BTreeMap, HashMap, HashSet};
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
    /// Rules with a timeout, the least worth first, of tables that give rules up when they are full.
    evictable: BTreeMap<(TableId, u16, u64, u64), Arc<Rule>>,
    /// Those tables, or more.
    evicting: HashSet<TableId>,
    /// Actions `learn(delete_learned)`, by the cookie and table of what they learn.
    learners: HashMap<(u64, TableId), u32>,
    /// Those whose last one is gone.
    pub forsaken: Vec<(u64, TableId)>,
    uses: HashMap<TableId, Uses>,
    /// Tables whose summary may be another one.
    stale: Vec<TableId>,
    lists: Lists,
}

/// How many lists of actions are shared.
const LISTS: usize = 4096;

/// Lists of actions that rules share: of thousands of rules, most do one of a few things.
#[derive(Debug, Default)]
struct Lists {
    known: HashSet<Arc<[Action]>>,
    /// New ones since those that nobody has any more were given up.
    since: usize,
}

impl Lists {
    fn share(&mut self, actions: &[Action]) -> Arc<[Action]> {
        if let Some(known) = self.known.get(actions) {
            return Arc::clone(known);
        }
        let new = Arc::from(actions);
        self.since += 1;
        if self.since > LISTS {
            self.since = 0;
            self.known.retain(|list| Arc::strong_count(list) > 1);
        }
        if self.known.len() < LISTS {
            self.known.insert(Arc::clone(&new));
        }
        new
    }
}

/// Rules of one cookie and table: most cookies have one, some have all. A rule knows its place among them.
#[derive(Debug)]
enum Bag {
    One(Arc<Rule>),
    Many(Vec<Arc<Rule>>),
}

impl Bag {
    fn insert(&mut self, rule: Arc<Rule>) {
        match self {
            Bag::One(first) => {
                first.place.store(0, Ordering::Relaxed);
                rule.place.store(1, Ordering::Relaxed);
                *self = Bag::Many(vec![Arc::clone(first), rule]);
            }
            Bag::Many(rules) => {
                rule.place.store(rules.len() as u32, Ordering::Relaxed);
                rules.push(rule);
            }
        }
    }

    /// Whether it is empty then.
    fn remove(&mut self, rule: &Rule) -> bool {
        let Bag::Many(rules) = self else { return true };
        let place = rule.place.load(Ordering::Relaxed);
        if rules.get(place as usize).is_some_and(|there| there.serial == rule.serial) {
            rules.swap_remove(place as usize);
        }
        if let Some(moved) = rules.get(place as usize) {
            moved.place.store(place, Ordering::Relaxed);
        }
        if rules.len() < rules.capacity() / 4 {
            rules.shrink_to(rules.len() * 2);
        }
        rules.is_empty()
    }

    fn rules(&self) -> &[Arc<Rule>] {
        match self {
            Bag::One(rule) => std::slice::from_ref(rule),
            Bag::Many(rules) => rules,
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

    /// The list of actions, shared if others have the same.
    pub fn share(&mut self, actions: &[Action]) -> Arc<[Action]> {
        self.lists.share(actions)
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
        if self.evicting.contains(&rule.table) {
            self.evictable.insert((rule.table, rule.importance, deadline, rule.serial), Arc::clone(rule));
        }
    }

    /// From now on rules of that table, which has these, may have to make room.
    pub fn start_evicting<'r>(&mut self, table: TableId, rules: impl Iterator<Item = &'r Arc<Rule>>) {
        if self.evicting.insert(table) {
            rules.for_each(|rule| self.schedule(rule));
        }
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
        self.cookies.get(&(cookie, table)).into_iter().flat_map(Bag::rules)
    }

    /// How many there are.
    pub fn count_with_cookie(&self, cookie: u64, table: TableId) -> usize {
        self.cookies.get(&(cookie, table)).map_or(0, |bag| bag.rules().len())
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
