//! What is in a bridge's own tables, and how it becomes something else: only what differs is touched.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use weft_core::tables::{Change, Tables};
use weft_flow::message::{FlowCommand, FlowFlags, FlowMod};
use weft_wire::OfPort;

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

/// What has to be done to the tables: in two steps, each at once. Ports are published in between.
#[derive(Debug, Default)]
pub struct Changes {
    /// All that makes a difference to ports that are guarded before and after.
    pub now: Vec<Change>,
    /// Rules that go, and that only ports meet which are guarded no longer.
    pub later: Vec<Change>,
}

impl Changes {
    /// How many rules are touched.
    pub fn len(&self) -> usize {
        self.now.len() + self.later.len()
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
        let mut urgent: HashSet<Place> = HashSet::new();
        let (gone, come) = differences(&self.units, &next);
        let stays = Stays::of(if gone.is_empty() { &[] } else { &next });
        let gone = gone
            .into_iter()
            .flat_map(|unit| rules::of(unit).into_iter().map(|rule| (rule, stays.meet(unit))));
        let (gone, come): (Vec<(OwnRule, bool)>, Vec<OwnRule>) =
            (gone.collect(), come.into_iter().flat_map(rules::of).collect());
        for (rule, is_met) in gone {
            self.note(&rule.place, &mut before);
            if is_met {
                urgent.insert(rule.place.clone());
            }
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
            let Some((change, leaves_a_rule)) = self.change(&place, (old, new), tables) else { continue };
            let is_now = leaves_a_rule || urgent.contains(&place);
            let list = if is_now { &mut changes.now } else { &mut changes.later };
            list.push(change);
        }
        changes
    }

    fn note(&self, place: &Place, before: &mut HashMap<Place, Option<OwnRule>>) {
        if !before.contains_key(place) {
            let rule = self.places.get(place).and_then(|rules| rules.first()).cloned();
            before.insert(place.clone(), rule);
        }
    }

    /// The change of a place, and whether there is a rule behind it.
    fn change(
        &mut self,
        place: &Place,
        (old, new): (Option<OwnRule>, Option<OwnRule>),
        tables: &Tables,
    ) -> Option<(Change, bool)> {
        if old == new {
            return None;
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
        Some((Change::FlowIn(place.table, flow), command == FlowCommand::Add))
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

/// What there still is behind a change.
#[derive(Default)]
struct Stays {
    ports: HashSet<OfPort>,
    profiles: HashSet<u32>,
    classes: HashSet<u32>,
}

impl Stays {
    fn of(units: &[Unit]) -> Stays {
        let mut stays = Stays::default();
        for unit in units {
            match unit {
                Unit::Port(port) => drop(stays.ports.insert(port.ofport)),
                Unit::Profile(profile) => drop(stays.profiles.insert(profile.id)),
                Unit::Address(_, class) => drop(stays.classes.insert(*class)),
                _ => {}
            }
        }
        stays
    }

    /// Whether a port that is guarded still meets the rules of a unit that goes. If not, they serve those that are guarded
    /// until they are published otherwise, and that may do everything then. If so, they must not be met together with
    /// what is new: the two may permit what neither the old groups nor the new ones do.
    fn meet(&self, unit: &Unit) -> bool {
        match unit {
            Unit::Sent | Unit::Got | Unit::Port(_) => false,
            Unit::Mac(port, _) => self.ports.contains(&port.ofport),
            Unit::Pair(port, ..) => self.ports.contains(port),
            Unit::Profile(profile) => self.profiles.contains(&profile.id),
            Unit::Relation(profile, ..) => self.profiles.contains(profile),
            Unit::Permit(permit) => self.profiles.contains(&permit.profile),
            Unit::Address(_, class) => self.classes.contains(class),
        }
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
