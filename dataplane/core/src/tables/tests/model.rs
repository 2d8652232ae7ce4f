//! Random changes, against a plain list of rules that does what the manuals say.

use proptest::prelude::*;
use weft_flow::message::{FlowFlags, GroupCommand};
use weft_flow::{Fields, Subfield};

use super::*;

/// A rule as the list has it.
#[derive(Clone, PartialEq, Debug)]
struct Entry {
    table: u16,
    priority: u16,
    matches: Match,
    cookie: u64,
    actions: Box<[Action]>,
    hard_timeout: u16,
    created: Duration,
    packets: u64,
}

/// The list.
#[derive(Clone, Default, Debug)]
struct Model {
    rules: Vec<Entry>,
    groups: Vec<u32>,
}

fn key(entry: &Entry) -> (u16, u16, Match) {
    (entry.table, entry.priority, entry.matches.clone())
}

impl Model {
    /// What a change does to the list; `false` if it can't be.
    fn apply(&mut self, change: &Change, now: Duration) -> bool {
        match change {
            Change::Flow(flow) => self.flow(flow, now),
            Change::Group(group) => self.group(group),
            _ => false,
        }
    }

    fn group(&mut self, group: &GroupMod) -> bool {
        let there = self.groups.contains(&group.id);
        match group.command {
            GroupCommand::Add if there => false,
            GroupCommand::Add => {
                self.groups.push(group.id);
                true
            }
            _ => {
                self.groups.retain(|id| *id != group.id);
                self.rules.retain(|rule| !rule.actions.contains(&Action::Group(group.id)));
                true
            }
        }
    }

    fn flow(&mut self, flow: &FlowMod, now: Duration) -> bool {
        let strict = matches!(flow.command, FlowCommand::ModifyStrict | FlowCommand::DeleteStrict);
        let selected = |rule: &Entry| {
            flow.table.is_none_or(|table| u16::from(table) == rule.table)
                && (rule.cookie ^ flow.cookie_filter.0) & flow.cookie_filter.1 == 0
                && if strict {
                    (rule.priority, &rule.matches) == (flow.priority, &flow.matches)
                } else {
                    rule.matches.is_within(&flow.matches)
                }
        };
        match flow.command {
            FlowCommand::Add => self.add(flow, now),
            FlowCommand::Modify | FlowCommand::ModifyStrict => {
                if !self.rules.iter().any(selected) {
                    return !flow.or_add || self.add(flow, now);
                }
                for rule in self.rules.iter_mut().filter(|rule| selected(rule)) {
                    rule.actions = flow.actions.clone();
                    rule.cookie = flow.cookie.unwrap_or(rule.cookie);
                    rule.packets = if flow.flags.reset_counts { 0 } else { rule.packets };
                }
                self.knows(&flow.actions)
            }
            _ => {
                let outputs = |rule: &Entry| {
                    flow.out_port.is_none_or(|port| rule.actions.contains(&Action::Output(port)))
                };
                self.rules.retain(|rule| !(selected(rule) && outputs(rule)));
                true
            }
        }
    }

    fn knows(&self, actions: &[Action]) -> bool {
        actions.iter().all(|action| match action {
            Action::Group(id) => self.groups.contains(id),
            _ => true,
        })
    }

    fn add(&mut self, flow: &FlowMod, now: Duration) -> bool {
        let mut entry = Entry {
            table: flow.table.unwrap_or(0).into(),
            priority: flow.priority,
            matches: flow.matches.clone(),
            cookie: flow.cookie.unwrap_or(0),
            actions: flow.actions.clone(),
            hard_timeout: flow.hard_timeout,
            created: now,
            packets: 0,
        };
        if !self.knows(&flow.actions) {
            return false;
        }
        if let Some(old) = self.rules.iter_mut().find(|old| key(old) == key(&entry)) {
            entry.packets = if flow.flags.reset_counts { 0 } else { old.packets };
            *old = entry;
            return true;
        }
        let clashes = |old: &Entry| {
            (old.table, old.priority) == (entry.table, entry.priority) && old.matches.overlaps(&entry.matches)
        };
        if flow.flags.check_overlap && self.rules.iter().any(clashes) {
            return false;
        }
        self.rules.push(entry);
        true
    }

    fn sorted(&self) -> Vec<Entry> {
        let mut rules = self.rules.clone();
        rules.sort_by_key(key);
        rules
    }
}

fn entries(tables: &FlowTables) -> Vec<Entry> {
    let root = tables.load();
    let entry = |rule: &Arc<Rule>| Entry {
        table: rule.table.0,
        priority: rule.priority,
        matches: rule.matches.clone(),
        cookie: rule.cookie,
        actions: (*rule.actions).into(),
        hard_timeout: rule.hard_timeout(),
        created: rule.created,
        packets: rule.stats().packets,
    };
    let mut rules: Vec<_> = root.tables().flat_map(|table| table.rules()).map(entry).collect();
    rules.sort_by_key(key);
    rules
}

fn some_match() -> impl Strategy<Value = Match> {
    let mask = prop_oneof![Just(0_u128), Just(1), Just(2), Just(3), Just(0xff)];
    (mask.clone(), mask, 0..4_u128, 0..4_u128).prop_map(|(mask, other, value, port)| {
        Match::any().with_masked(Field::IpDst, value & mask, mask).with_masked(
            Field::TcpDst,
            port & other,
            other,
        )
    })
}

fn some_actions() -> impl Strategy<Value = Box<[Action]>> {
    let action = prop_oneof![
        8 => (1..4_u16).prop_map(|port| Action::Output(OfPort(port))),
        2 => (1..3_u8).prop_map(Action::GotoTable),
        1 => (1..3_u32).prop_map(Action::Group),
    ];
    prop::collection::vec(action, 0..3).prop_map(Vec::into_boxed_slice)
}

fn some_flow() -> impl Strategy<Value = Change> {
    use FlowCommand::*;
    let command = prop_oneof![
        6 => Just(Add), 2 => Just(Modify), 1 => Just(ModifyStrict), 2 => Just(Delete), 1 => Just(DeleteStrict)
    ];
    let target = (command, prop::option::weighted(0.8, 0..3_u8), 0..3_u16, some_match());
    let filter = prop_oneof![
        4 => Just((0, 0)), 1 => (0..3_u64).prop_map(|cookie| (cookie, 1)), 1 => (0..3_u64).prop_map(|cookie| (cookie, u64::MAX))
    ];
    let marks = (prop::option::of(0..3_u64), filter, prop::option::weighted(0.2, 1..4_u16));
    let rest = (some_actions(), 0..3_u16, any::<bool>(), any::<bool>(), prop::bool::weighted(0.2));
    (target, marks, rest).prop_map(|(target, marks, rest)| {
        let (command, table, priority, matches) = target;
        let (cookie, cookie_filter, out_port) = marks;
        let (actions, hard_timeout, or_add, reset_counts, check_overlap) = rest;
        Change::Flow(FlowMod {
            command,
            table,
            priority,
            matches,
            cookie,
            cookie_filter,
            actions,
            hard_timeout: hard_timeout * 1000,
            or_add,
            out_port: out_port.map(OfPort),
            flags: FlowFlags { reset_counts, check_overlap, ..FlowFlags::default() },
            ..FlowMod::default()
        })
    })
}

fn some_change() -> impl Strategy<Value = Change> {
    let group = (1..3_u32, any::<bool>()).prop_map(|(id, add)| {
        let command = if add { GroupCommand::Add } else { GroupCommand::Delete };
        Change::Group(GroupMod { command, id, ..GroupMod::default() })
    });
    prop_oneof![9 => some_flow(), 1 => group]
}

/// What the tables must know of themselves is what tables made anew from the same rules know.
fn assert_consistent(tables: &FlowTables, model: &Model) {
    let fresh = FlowTables::new();
    let groups = model.groups.iter().map(|&id| Change::Group(GroupMod { id, ..GroupMod::default() }));
    let rules = model.rules.iter().map(|rule| {
        Change::Flow(FlowMod {
            table: Some(rule.table as u8),
            priority: rule.priority,
            matches: rule.matches.clone(),
            cookie: Some(rule.cookie),
            actions: rule.actions.clone(),
            ..FlowMod::default()
        })
    });
    commit(&fresh, &groups.chain(rules).collect::<Vec<_>>(), at(0)).unwrap();
    for id in 0..4 {
        let id = TableId(id);
        assert_eq!(tables.load().reads(id), fresh.load().reads(id));
    }
}

/// The priority at which a packet is decided in a table.
fn decided(model: &Model, table: u16, fields: &Fields) -> Option<u16> {
    let rules = model.rules.iter().filter(|rule| rule.table == table && rule.matches.covers(fields));
    rules.map(|rule| rule.priority).max()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn bundles_do_what_they_do_to_a_plain_list(
        bundles in prop::collection::vec(prop::collection::vec(some_change(), 1..5), 1..12),
        packets in prop::collection::vec((0..4_u128, 0..4_u128), 4),
    ) {
        let (tables, mut model) = (FlowTables::new(), Model::default());
        for (bundle, now) in bundles.iter().zip(1..) {
            let now = at(now);
            let mut next = model.clone();
            let bad = bundle.iter().position(|change| !next.apply(change, now));
            match tables.prepare(bundle, now) {
                Ok(prepared) => {
                    prop_assert_eq!(bad, None);
                    prepared.commit();
                    model = next;
                }
                Err(error) => prop_assert_eq!(bad, Some(error.index)),
            }
            prop_assert_eq!(entries(&tables), model.sorted());
            // Workers count on what they hold.
            let root = tables.load();
            for rule in root.tables().flat_map(|table| table.rules()) {
                rule.count(1, 60, now);
            }
            model.rules.iter_mut().for_each(|rule| rule.packets += 1);
        }
        assert_consistent(&tables, &model);
        for (dst, port) in packets {
            let mut fields = Fields::default();
            Subfield::whole(Field::IpDst).set(&mut fields, dst);
            Subfield::whole(Field::TcpDst).set(&mut fields, port);
            for table in 0..3 {
                let root = tables.load();
                let hit = root.lookup(TableId(table), &mut fields);
                prop_assert_eq!(hit.rule.map(|rule| rule.priority), decided(&model, table, &fields));
            }
        }
        // The index finds by deadline what the tables have; then nothing is left of what was read.
        let timed = model.rules.iter().filter(|rule| rule.hard_timeout != 0).count();
        prop_assert_eq!(tables.expire(at(100_000)).rules, timed);
        let all = FlowMod { command: FlowCommand::Delete, table: None, ..FlowMod::default() };
        prop_assert_eq!(change(&tables, all).unwrap().removed, model.rules.len() - timed);
        prop_assert_eq!(tables.load().reads(TableId::FIRST), FlowTables::new().load().reads(TableId::FIRST));
    }
}
