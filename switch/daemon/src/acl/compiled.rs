//! What is in a bridge's own tables, and how it becomes something else: only what differs is touched.

use std::cmp::Ordering;
use std::collections::HashMap;

use weft_core::tables::{Change, Tables};
use weft_flow::message::{FlowCommand, FlowFlags, FlowMod};

use super::cookie::Cookie;
use super::plan::{Numbering, Unit};
use super::rules::{self, OwnRule, Place};

/// Units, and the rules that they stand for. Of rules of several units in one place, the first counts: all of them do
/// the same there.
#[derive(Debug, Default)]
pub struct Compiled {
    /// What numbers stand for.
    pub numbering: Numbering,
    /// In order, each once.
    units: Vec<Unit>,
    places: HashMap<Place, Vec<OwnRule>>,
    /// What rules that are gone have counted, by cookie: packets and octets.
    retired: HashMap<u64, (u64, u64)>,
}

/// What has to be done to the tables.
#[derive(Debug, Default)]
pub struct Changes {
    /// Rules that come, or that are others now.
    pub added: Vec<Change>,
    /// Rules that go.
    pub removed: Vec<Change>,
}

impl Changes {
    /// How many rules are touched.
    pub fn len(&self) -> usize {
        self.added.len() + self.removed.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Compiled {
    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Its rules, in order.
    pub fn rules(&self) -> Vec<&OwnRule> {
        let mut rules: Vec<&OwnRule> = self.places.values().filter_map(|rules| rules.first()).collect();
        let key = |rule: &OwnRule| (rule.place.table, std::cmp::Reverse(rule.place.priority));
        rules.sort_by(|one, two| {
            key(one).cmp(&key(two)).then_with(|| one.place.matches.cmp(&two.place.matches))
        });
        rules
    }

    /// Becomes `next`; what has to be done for it. `tables` are those that the rules are in, for their counters.
    pub fn become_units(&mut self, next: Vec<Unit>, tables: &Tables) -> Changes {
        let mut before: HashMap<Place, Option<OwnRule>> = HashMap::new();
        let (gone, come) = differences(&self.units, &next);
        let (gone, come): (Vec<OwnRule>, Vec<OwnRule>) =
            (gone.into_iter().flat_map(rules::of).collect(), come.into_iter().flat_map(rules::of).collect());
        for rule in gone {
            self.note(&rule.place, &mut before);
            let Some(here) = self.places.get_mut(&rule.place) else { continue };
            here.extract_if(.., |own| *own == rule).next();
            if here.is_empty() {
                self.places.remove(&rule.place);
            }
        }
        for rule in come {
            self.note(&rule.place, &mut before);
            self.places.entry(rule.place.clone()).or_default().push(rule);
        }
        self.units = next;
        let mut changes = Changes::default();
        for (place, old) in before {
            let new = self.places.get(&place).and_then(|rules| rules.first()).cloned();
            self.change(&place, (old, new), tables, &mut changes);
        }
        changes
    }

    fn note(&self, place: &Place, before: &mut HashMap<Place, Option<OwnRule>>) {
        if !before.contains_key(place) {
            let rule = self.places.get(place).and_then(|rules| rules.first()).cloned();
            before.insert(place.clone(), rule);
        }
    }

    fn change(
        &mut self,
        place: &Place,
        (old, new): (Option<OwnRule>, Option<OwnRule>),
        tables: &Tables,
        changes: &mut Changes,
    ) {
        if old == new {
            return;
        }
        let other_owner = old.as_ref().map(|rule| rule.cookie) != new.as_ref().map(|rule| rule.cookie);
        if other_owner && let Some(rule) = tables.rule(place.table, place.priority, &place.matches) {
            let stats = rule.stats();
            let retired = self.retired.entry(rule.cookie).or_default();
            *retired = (retired.0 + stats.packets, retired.1 + stats.bytes);
        }
        let (command, rule) = match (old, new) {
            (_, Some(new)) => (FlowCommand::Add, Some(new)),
            (_, None) => (FlowCommand::DeleteStrict, None),
        };
        let flow = FlowMod {
            command,
            table: None,
            priority: place.priority,
            matches: place.matches.clone(),
            cookie: rule.as_ref().map(|rule| rule.cookie.number()),
            actions: rule.map(|rule| rule.actions).unwrap_or_default(),
            flags: FlowFlags { reset_counts: other_owner, ..FlowFlags::default() },
            ..FlowMod::default()
        };
        let list = if command == FlowCommand::Add { &mut changes.added } else { &mut changes.removed };
        list.push(Change::FlowIn(place.table, flow));
    }

    /// Packets and octets by cookie, those of rules that are gone included.
    pub fn counted(&self, tables: &Tables) -> HashMap<u64, (u64, u64)> {
        let mut counted = self.retired.clone();
        let own = tables.tables().filter(|table| table.id >= weft_core::tables::TableId::OWN);
        for rule in own.flat_map(|table| table.rules()) {
            let stats = rule.stats();
            let sum = counted.entry(rule.cookie).or_default();
            *sum = (sum.0 + stats.packets, sum.1 + stats.bytes);
        }
        counted
    }

    /// Forgets what rules have counted that `stays` doesn't know.
    pub fn forget_counts(&mut self, stays: impl Fn(Cookie) -> bool) {
        self.retired.retain(|cookie, _| Cookie::of(*cookie).is_some_and(&stays));
    }
}

/// What of two ordered lists is in the first alone, and in the second alone.
fn differences<'u>(old: &'u [Unit], new: &'u [Unit]) -> (Vec<&'u Unit>, Vec<&'u Unit>) {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return (gone, come),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(two)) => one.cmp(two),
        };
        match order {
            Ordering::Less => gone.extend(old.next()),
            Ordering::Greater => come.extend(new.next()),
            Ordering::Equal => {
                old.next();
                new.next();
            }
        }
    }
}
