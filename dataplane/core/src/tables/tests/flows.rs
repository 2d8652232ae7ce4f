//! Rules: add, modify, delete, overlap, limits, timeouts, learning.

use weft_flow::action::{Learn, LearnSource, LearnSpec, LearnTarget};
use weft_flow::message::FlowFlags;
use weft_flow::{Fields, Subfield};

use super::*;

fn cookie(flow: FlowMod, cookie: u64) -> FlowMod {
    FlowMod { cookie: Some(cookie), ..flow }
}

fn delete() -> FlowMod {
    FlowMod { command: FlowCommand::Delete, table: None, ..FlowMod::default() }
}

#[test]
fn a_plain_bridge_has_one_rule_that_says_normal() {
    let tables = FlowTables::normal();
    let root = tables.load();
    let hit = root.lookup(TableId::FIRST, &mut Fields::default());
    let rule = hit.rule.unwrap();
    assert_eq!((&*rule.actions, rule.priority), (&[Action::Output(OfPort::NORMAL)][..], 0));
    assert_eq!((tables.version(), root.version, root.len()), (2, 2, 1));
    assert!(FlowTables::new().load().is_empty());
}

#[test]
fn adding_an_equal_match_and_priority_replaces_the_rule_and_resets_counts_only_if_asked() {
    let tables = FlowTables::new();
    change(&tables, cookie(flow(5, 1, 1), 7)).unwrap();
    let old = rule(&tables, &flow(5, 1, 1)).unwrap();
    old.count(3, 300, at(2));
    let again = FlowMod { idle_timeout: 9, ..flow(5, 1, 2) };
    let outcome = commit(&tables, &[Change::Flow(again.clone())], at(4)).unwrap();
    assert_eq!((outcome.added, outcome.replaced, outcome.removed), (0, 1, 0));
    let kept = rule(&tables, &again).unwrap();
    assert_eq!((kept.cookie, kept.idle_timeout(), kept.created), (0, 9, at(4)));
    // What a worker still counts on the old one is not lost.
    old.count(1, 100, at(5));
    assert_eq!(kept.stats(), RuleStats { packets: 4, bytes: 400, used: at(5) });

    let reset = FlowFlags { reset_counts: true, ..FlowFlags::default() };
    commit(&tables, &[Change::Flow(FlowMod { flags: reset, ..again })], at(6)).unwrap();
    let fresh = rule(&tables, &flow(5, 1, 1)).unwrap();
    assert_eq!(fresh.stats(), RuleStats { packets: 0, bytes: 0, used: at(5) });
    assert_eq!(tables.load().len(), 1);
}

#[test]
fn modify_keeps_counters_timeouts_and_creation_and_adds_nothing_unless_asked() {
    let tables = FlowTables::new();
    let timed = FlowMod { idle_timeout: 10, hard_timeout: 20, importance: 3, ..cookie(flow(5, 1, 1), 7) };
    commit(&tables, &[Change::Flow(timed.clone())], at(1)).unwrap();
    rule(&tables, &timed).unwrap().count(1, 60, at(2));
    let modify = FlowMod { matches: Match::any(), priority: 77, ..with(FlowCommand::Modify, flow(0, 0, 9)) };
    let outcome = commit(&tables, &[Change::Flow(modify.clone())], at(3)).unwrap();
    assert_eq!(outcome.replaced, 1);
    let modified = rule(&tables, &timed).unwrap();
    assert_eq!(&*modified.actions, &*out(9));
    assert_eq!((modified.cookie, modified.idle_timeout(), modified.hard_timeout()), (7, 10, 20));
    assert_eq!((modified.created, modified.last_modified(), modified.importance), (at(1), at(3), 3));
    assert_eq!(modified.stats().packets, 1);

    // Strict takes the very match and priority; and `cookie` is changed only if there is one.
    let strict = with(FlowCommand::ModifyStrict, cookie(flow(5, 1, 8), 8));
    assert_eq!(change(&tables, with(FlowCommand::ModifyStrict, flow(6, 1, 8))).unwrap().replaced, 0);
    assert_eq!(change(&tables, strict.clone()).unwrap().replaced, 1);
    assert_eq!(rules(&tables), [(0, 5, 8)]);

    let none = with(FlowCommand::Modify, flow(9, 5, 1));
    let version = tables.version();
    assert_eq!(change(&tables, none.clone()).unwrap().added, 0);
    assert_eq!(tables.version(), version, "nothing was done, so nothing is published");
    assert_eq!(change(&tables, FlowMod { or_add: true, ..none }).unwrap().added, 1);
    assert_eq!(rules(&tables), [(0, 5, 8), (0, 9, 0)]);
}

#[test]
fn cookies_select_what_is_modified_and_deleted() {
    let tables = FlowTables::new();
    for (priority, mark) in [(1, 0x10), (2, 0x11), (3, 0x20)] {
        change(&tables, cookie(flow(priority, priority.into(), 1), mark)).unwrap();
    }
    let filtered =
        FlowMod { cookie_filter: (0x20, 0xf0), table: Some(0), ..with(FlowCommand::Modify, delete()) };
    assert_eq!(change(&tables, FlowMod { actions: out(4), ..filtered }).unwrap().replaced, 1);
    let exact = FlowMod { cookie_filter: (0x11, u64::MAX), ..delete() };
    assert_eq!(change(&tables, exact).unwrap().removed, 1);
    assert_eq!(rules(&tables), [(0, 1, 0x10), (0, 3, 0x20)]);
    assert_eq!(change(&tables, FlowMod { cookie_filter: (0, 0x0f), ..delete() }).unwrap().removed, 2);
}

#[test]
fn loose_deletion_takes_what_is_within_the_match_and_strict_the_one_rule() {
    let tables = FlowTables::new();
    for dst in [0x0a00_0001_u128, 0x0a00_0002, 0x0b00_0001] {
        change(&tables, flow(5, dst, 1)).unwrap();
    }
    let net = Match::any().with(Field::EthType, 0x0800).with_masked(Field::IpDst, 0x0a00_0000, 0xff00_0000);
    let strict =
        FlowMod { command: FlowCommand::DeleteStrict, priority: 5, matches: net.clone(), ..delete() };
    assert_eq!(change(&tables, strict).unwrap().removed, 0);
    assert_eq!(change(&tables, FlowMod { matches: net, ..delete() }).unwrap().removed, 2);
    let one = FlowMod { command: FlowCommand::DeleteStrict, ..flow(5, 0x0b00_0001, 1) };
    assert_eq!(change(&tables, one).unwrap().removed, 1);
    assert!(tables.load().is_empty());
}

#[test]
fn out_port_and_out_group_narrow_a_deletion_nested_actions_included() {
    let tables = FlowTables::new();
    let group = GroupMod { id: 6, ..GroupMod::default() };
    commit(&tables, &[Change::Group(group)], at(1)).unwrap();
    change(&tables, flow(1, 1, 1)).unwrap();
    change(&tables, FlowMod { actions: Box::new([Action::Clone(out(2))]), ..flow(2, 2, 0) }).unwrap();
    change(&tables, FlowMod { actions: Box::new([Action::Group(6)]), ..flow(3, 3, 0) }).unwrap();
    assert_eq!(change(&tables, FlowMod { out_port: Some(OfPort(2)), ..delete() }).unwrap().removed, 1);
    assert_eq!(change(&tables, FlowMod { out_group: Some(6), ..delete() }).unwrap().removed, 1);
    assert_eq!(rules(&tables), [(0, 1, 0)]);
}

#[test]
fn check_overlap_refuses_a_rule_that_a_packet_could_share_with_another_of_its_priority() {
    let tables = FlowTables::new();
    change(&tables, flow(5, 1, 1)).unwrap();
    let check = FlowFlags { check_overlap: true, ..FlowFlags::default() };
    let all = FlowMod { matches: Match::any(), flags: check, ..flow(5, 0, 1) };
    assert_eq!(change(&tables, all.clone()), Err(Refused::Overlap));
    assert_eq!(Refused::Overlap.to_string(), "a rule with overlapping match and the same priority exists");
    change(&tables, FlowMod { priority: 6, ..all.clone() }).unwrap();
    change(&tables, FlowMod { flags: check, ..flow(5, 2, 1) }).unwrap();
    // An equal rule is replaced, not overlapped.
    change(&tables, FlowMod { flags: check, ..flow(5, 1, 3) }).unwrap();
}

#[test]
fn tables_are_out_of_reach_as_open_vswitch_has_them() {
    let tables = FlowTables::new();
    let in_table = |id: u8| FlowMod { table: Some(id), ..flow(1, 1, 1) };
    assert_eq!(
        change(&tables, in_table(255)).unwrap_err().to_string(),
        "table id 255 is out of range: 0 to 254"
    );
    assert_eq!(change(&tables, in_table(254)), Err(Refused::ReadOnlyTable(TableId::INTERNAL)));
    change(&tables, in_table(253)).unwrap();
    let own = |id: u16| Change::FlowIn(TableId(id), flow(1, 1, 1));
    commit(&tables, &[own(254), own(300), own(256)], at(1)).unwrap();
    assert_eq!(rules(&tables), [(253, 1, 0), (254, 1, 0), (256, 1, 0), (300, 1, 0)]);
    // A deletion without a table is about the user's only; one of the internal table is refused.
    assert_eq!(change(&tables, delete()).unwrap().removed, 1);
    assert_eq!(
        change(&tables, FlowMod { table: Some(254), ..delete() }),
        Err(Refused::ReadOnlyTable(TableId::INTERNAL))
    );
    commit(&tables, &[Change::FlowIn(TableId(300), delete())], at(1)).unwrap();
    assert_eq!(rules(&tables), [(254, 1, 0), (256, 1, 0)]);
}

#[test]
fn a_bundle_commits_whole_or_not_at_all_and_the_error_says_which_change() {
    let tables = FlowTables::new();
    let learner = Action::Learn(Box::new(learn(20, 5)));
    change(&tables, cookie(flow(1, 1, 1), 3)).unwrap();
    change(&tables, FlowMod { idle_timeout: 5, actions: Box::new([learner]), ..flow(2, 2, 1) }).unwrap();
    let before = (rules(&tables), tables.version(), tables.load().reads(TableId::FIRST));
    let bad = flow(1, 1, 1);
    let bundle = [
        Change::Flow(cookie(flow(9, 9, 9), 3)),
        Change::Flow(cookie(flow(1, 1, 7), 4)),
        Change::Flow(delete()),
        Change::Flow(FlowMod { actions: Box::new([Action::Group(1)]), ..bad }),
    ];
    let error = tables.prepare(&bundle, at(9)).unwrap_err();
    assert_eq!((error.index, error.why.clone()), (3, Refused::BadOutGroup(1)));
    assert_eq!(error.to_string(), "change 4: group 1, which the actions use, doesn't exist");
    assert_eq!(before, (rules(&tables), tables.version(), tables.load().reads(TableId::FIRST)));
    // The writer's index, too, is as it was: cookie and deadline still find the rules.
    drop(tables.prepare(&bundle[..3], at(9)).unwrap());
    assert_eq!(change(&tables, FlowMod { cookie_filter: (3, u64::MAX), ..delete() }).unwrap().removed, 1);
    assert_eq!(tables.expire(at(100)).rules, 1);
    assert_eq!(tables.load().reads(TableId::FIRST).mask.0[3], 0);
}

#[test]
fn a_prepared_bundle_is_seen_by_nobody_until_it_is_committed() {
    let tables = FlowTables::new();
    let prepared = tables.prepare(&[Change::Flow(flow(1, 1, 1))], at(1)).unwrap();
    assert_eq!((prepared.tables().len(), tables.load().len(), tables.version()), (1, 0, 1));
    assert_eq!(prepared.tables().reads(TableId::FIRST).mask.0[7], 0xffff_ffff);
    assert_eq!(tables.learn(&flow(1, 2, 1), 0, at(1)), LearnResult::Busy);
    let outcome = prepared.commit();
    assert_eq!((outcome.version, tables.version(), tables.load().version, tables.load().len()), (2, 2, 2, 1));
}

#[test]
fn idle_and_hard_timeouts_end_rules_and_say_so_to_who_wants_to_know() {
    let tables = FlowTables::new();
    let notice = FlowFlags { send_removed: true, ..FlowFlags::default() };
    let idle = FlowMod { idle_timeout: 10, flags: notice, ..flow(1, 1, 1) };
    let hard = FlowMod { hard_timeout: 30, flags: notice, ..flow(2, 2, 1) };
    let both = FlowMod { idle_timeout: 10, hard_timeout: 10, flags: notice, ..flow(3, 3, 1) };
    let quiet = FlowMod { idle_timeout: 10, ..flow(4, 4, 1) };
    let bundle = [idle.clone(), hard, both, quiet].map(Change::Flow);
    commit(&tables, &bundle, at(0)).unwrap();
    rule(&tables, &idle).unwrap().count(1, 60, at(15));
    assert_eq!(tables.expire(at(10)), Expired { rules: 0, more: false }, "exactly then is not yet");
    assert_eq!(tables.expire(at(11)).rules, 2);
    assert_eq!(tables.expire(at(25)).rules, 0);
    assert_eq!(tables.expire(at(26)).rules, 1);
    assert_eq!(tables.expire(at(31)).rules, 1);
    let told: Vec<_> = tables.drain_removed();
    let told: Vec<_> = told.iter().map(|event| (event.rule.priority, event.reason, event.at)).collect();
    assert_eq!(
        told,
        [
            (3, RemovedReason::HardTimeout, at(11)),
            (1, RemovedReason::IdleTimeout, at(26)),
            (2, RemovedReason::HardTimeout, at(31)),
        ]
    );
    assert_eq!(tables.lost_removed(), 0);
}

#[test]
fn a_modification_starts_the_hard_timeout_again() {
    let tables = FlowTables::new();
    commit(&tables, &[Change::Flow(FlowMod { hard_timeout: 10, ..flow(1, 1, 1) })], at(0)).unwrap();
    let modify = with(FlowCommand::Modify, flow(1, 1, 2));
    commit(&tables, &[Change::Flow(modify)], at(8)).unwrap();
    assert_eq!((tables.expire(at(12)).rules, tables.expire(at(19)).rules), (0, 1));
}

#[test]
fn fin_timeout_lowers_timeouts_and_never_raises_them() {
    let tables = FlowTables::new();
    let bundle = [FlowMod { idle_timeout: 100, ..flow(1, 1, 1) }, flow(2, 2, 1)].map(Change::Flow);
    commit(&tables, &bundle, at(0)).unwrap();
    for priority in [1, 2] {
        let rule = rule(&tables, &flow(priority, priority.into(), 1)).unwrap();
        tables.reduce_timeouts(&rule, 5, 0);
        tables.reduce_timeouts(&rule, 50, 0);
        assert_eq!((rule.idle_timeout(), rule.hard_timeout()), (5, 0));
    }
    assert_eq!((tables.expire(at(5)).rules, tables.expire(at(6)).rules), (0, 2));
}

#[test]
fn expiry_is_done_in_slices() {
    let tables = FlowTables::new();
    let bundle: Vec<_> = (0..10_000)
        .map(|dst| {
            Change::Flow(FlowMod {
                hard_timeout: 1,
                priority: dst as u16,
                matches: to(1),
                ..FlowMod::default()
            })
        })
        .collect();
    commit(&tables, &bundle, at(0)).unwrap();
    let first = tables.expire(at(9));
    assert!(first.more && first.rules > 0 && first.rules < 10_000);
    let second = tables.expire(at(9));
    assert_eq!((first.rules + second.rules, second.more), (10_000, false));
}

#[test]
fn a_full_table_refuses_or_gives_up_the_least_important_rule_that_would_end_first() {
    let tables = FlowTables::new();
    let limit = |max_flows, eviction| {
        Change::Table(TableMod {
            table: Some(TableId::FIRST),
            max_flows: Some(max_flows),
            eviction: Some(eviction),
            ..TableMod::default()
        })
    };
    commit(&tables, &[limit(4, false)], at(0)).unwrap();
    let timed = |priority: u16, importance, hard_timeout| FlowMod {
        importance,
        hard_timeout,
        flags: FlowFlags { send_removed: true, ..FlowFlags::default() },
        ..flow(priority, priority.into(), 1)
    };
    let bundle = [timed(1, 2, 10), timed(2, 1, 90), timed(3, 1, 50), timed(4, 0, 0)].map(Change::Flow);
    commit(&tables, &bundle, at(0)).unwrap();
    let full = Refused::TableFull { table: TableId::FIRST, max_flows: 4 };
    assert_eq!(change(&tables, flow(9, 9, 1)), Err(full.clone()));
    assert_eq!(full.to_string(), "table 0 is full: it is limited to 4 rules");
    // Replacing takes no room.
    change(&tables, timed(4, 0, 0)).unwrap();
    commit(&tables, &[limit(4, true)], at(0)).unwrap();
    for priority in [10, 11, 12] {
        change(&tables, flow(priority, priority.into(), 1)).unwrap();
    }
    assert_eq!(change(&tables, flow(13, 13, 1)), Err(full), "those left have no timeout");
    let events = tables.drain_removed();
    let evicted: Vec<_> = events.iter().map(|event| (event.rule.priority, event.reason)).collect();
    assert_eq!(evicted, [3, 2, 1].map(|priority| (priority, RemovedReason::Eviction)));
    // A lower limit evicts what it can.
    change(&tables, with(FlowCommand::DeleteStrict, flow(12, 12, 1))).unwrap();
    change(&tables, timed(1, 0, 9)).unwrap();
    commit(&tables, &[limit(1, true)], at(0)).unwrap();
    assert_eq!(rules(&tables), [(0, 4, 0), (0, 10, 0), (0, 11, 0)]);
}

#[test]
fn a_tables_settings_are_kept_and_what_is_not_said_stays() {
    let tables = FlowTables::new();
    let named = TableMod { table: Some(TableId(3)), name: Some("acl".into()), ..TableMod::default() };
    let missing = TableMod { table: None, miss: Some(Miss::Continue), ..TableMod::default() };
    commit(&tables, &[Change::Table(named), Change::Table(missing)], at(0)).unwrap();
    let root = tables.load();
    let table = root.table(TableId(3)).unwrap();
    assert_eq!((&*table.name, table.miss, table.max_flows), ("acl", Miss::Continue, u32::MAX));
    assert_eq!((root.miss(TableId(253)), root.miss(TableId::INTERNAL)), (Miss::Continue, Miss::Drop));
    for (id, why) in [(254, Refused::ReadOnlyTable(TableId::INTERNAL)), (255, Refused::BadTable(255))] {
        let change = Change::Table(TableMod { table: Some(TableId(id)), ..TableMod::default() });
        assert_eq!(commit(&tables, &[change], at(0)), Err(why));
    }
}

#[test]
fn conjunction_stands_alone_but_for_notes_and_nesting_has_an_end() {
    let tables = FlowTables::new();
    let clause = Action::Conjunction { id: 1, clause: 0, clauses: 2 };
    let actions = |actions: &[Action]| FlowMod { actions: actions.into(), ..flow(1, 1, 1) };
    change(&tables, actions(&[clause.clone(), Action::Note(Box::new([1]))])).unwrap();
    assert!(rule(&tables, &flow(1, 1, 1)).unwrap().is_clause());
    let mixed = actions(&[clause, Action::Output(OfPort(1))]);
    assert_eq!(change(&tables, mixed), Err(Refused::MixedConjunction));
    let nested = |depth| (0..depth).fold(out(1), |inner, _| Box::new([Action::Clone(inner)]));
    change(&tables, actions(&nested(99))).unwrap();
    assert_eq!(change(&tables, actions(&nested(100))), Err(Refused::NestedTooDeep(100)));
    assert_eq!(change(&tables, actions(&nested(5000))), Err(Refused::NestedTooDeep(100)));
}

fn learn(table: u8, cookie: u64) -> Learn {
    Learn {
        idle_timeout: 0,
        hard_timeout: 60,
        priority: 10,
        cookie,
        table,
        fin_idle_timeout: 0,
        fin_hard_timeout: 0,
        send_flow_removed: false,
        delete_learned: true,
        limit: 0,
        result: None,
        specs: Box::new([]),
    }
}

/// Tables that may learn anything that [`flow`] makes, in tables 0 and 20.
fn learning() -> Arc<FlowTables> {
    let tables = FlowTables::new();
    let whole = |field| LearnTarget::Match(Subfield::whole(field));
    let targets = [whole(Field::EthType), whole(Field::IpDst), LearnTarget::Output];
    let specs = targets.map(|target| LearnSpec { source: LearnSource::Immediate(0), target });
    let learner = |table| Action::Learn(Box::new(Learn { specs: specs.to_vec().into(), ..learn(table, 99) }));
    change(
        &tables,
        FlowMod { table: Some(1), actions: Box::new([learner(0), learner(20)]), ..flow(0, 0, 0) },
    )
    .unwrap();
    tables
}

#[test]
fn a_rule_whose_learner_is_gone_is_not_learned_if_it_would_widen_what_is_read() {
    let tables = learning();
    let learned = flow(7, 1, 1);
    let learner = with(FlowCommand::DeleteStrict, FlowMod { table: Some(1), ..flow(0, 0, 0) });
    change(&tables, learner).unwrap();
    let version = tables.version();
    assert_eq!(tables.learn(&learned, 0, at(0)), LearnResult::Busy);
    assert_eq!((tables.version(), tables.load().len()), (version, 0));
    // If others read the same, it doesn't.
    change(&tables, flow(8, 2, 1)).unwrap();
    assert_eq!(tables.learn(&learned, 0, at(0)), LearnResult::Made);
    assert_eq!(tables.learn(&flow(7, 3, 2), 0, at(0)), LearnResult::Busy, "another port");
}

#[test]
fn learning_makes_a_rule_once_and_refreshes_it_without_a_new_version() {
    let tables = learning();
    let wanted = FlowMod { hard_timeout: 10, table: Some(20), ..cookie(flow(7, 1, 1), 5) };
    assert_eq!(tables.learn(&wanted, 0, at(0)), LearnResult::Made);
    let version = tables.version();
    assert_eq!(tables.learn(&wanted, 0, at(9)), LearnResult::Refreshed);
    assert_eq!(tables.version(), version);
    assert_eq!(tables.expire(at(15)).rules, 0, "it was learned again at 9");
    // Other actions: another rule in its place, which keeps its counters.
    rule(&tables, &wanted).unwrap().count(2, 200, at(10));
    let moved = FlowMod { actions: out(2), ..wanted.clone() };
    assert_eq!(tables.learn(&moved, 0, at(12)), LearnResult::Made);
    assert_eq!((tables.version(), rule(&tables, &wanted).unwrap().stats().packets), (version + 1, 2));
    assert_eq!(tables.expire(at(23)).rules, 1);
    let nowhere = |table| FlowMod { table, ..wanted.clone() };
    assert_eq!(tables.learn(&nowhere(Some(254)), 0, at(0)), LearnResult::Full);
    assert_eq!(tables.learn(&nowhere(None), 0, at(0)), LearnResult::Full);
}

#[test]
fn learning_stops_at_the_limit_of_its_cookie_and_table() {
    let tables = learning();
    let learned = |dst, mark| cookie(flow(7, dst, 1), mark);
    assert_eq!(tables.learn(&learned(1, 5), 2, at(0)), LearnResult::Made);
    assert_eq!(tables.learn(&learned(2, 6), 2, at(0)), LearnResult::Made);
    assert_eq!(tables.learn(&learned(3, 5), 2, at(0)), LearnResult::Made);
    assert_eq!(tables.learn(&learned(4, 5), 2, at(0)), LearnResult::Full);
    assert_eq!(tables.learn(&learned(3, 5), 2, at(0)), LearnResult::Refreshed);
    assert_eq!(tables.load().len(), 1 + 3);
}

#[test]
fn what_was_learned_goes_with_the_last_rule_that_learns_it() {
    let tables = FlowTables::new();
    let learner = |priority: u16| FlowMod {
        actions: Box::new([Action::Learn(Box::new(learn(20, 5)))]),
        ..flow(priority, priority.into(), 1)
    };
    change(&tables, learner(1)).unwrap();
    change(&tables, learner(2)).unwrap();
    for dst in [1, 2] {
        change(&tables, FlowMod { table: Some(20), ..cookie(flow(10, dst, 1), 5) }).unwrap();
    }
    change(&tables, FlowMod { table: Some(20), ..cookie(flow(10, 3, 1), 6) }).unwrap();
    let go = |priority: u16| with(FlowCommand::DeleteStrict, flow(priority, priority.into(), 1));
    assert_eq!(change(&tables, go(1)).unwrap().removed, 1);
    // Replaced by one that learns the same: nothing is forsaken.
    assert_eq!(change(&tables, learner(2)).unwrap().removed, 0);
    assert_eq!(change(&tables, go(2)).unwrap().removed, 3);
    assert_eq!(rules(&tables), [(20, 10, 6)]);
}

#[test]
fn changes_are_told_for_128_versions_and_large_ones_by_table() {
    let tables = FlowTables::new();
    let start = tables.version();
    change(&tables, flow(5, 1, 1)).unwrap();
    change(&tables, with(FlowCommand::Modify, flow(5, 1, 2))).unwrap();
    change(&tables, delete()).unwrap();
    let told = |since: u64| {
        let root = tables.load();
        let words = root.changes_since(since)?.map(|record| match record {
            ChangeRecord::Added { priority, matches, conj, .. } => {
                assert_eq!((matches, *conj), (&to(1), false));
                format!("added {priority}")
            }
            ChangeRecord::Removed { rule } => format!("removed {:?}", rule.actions[0]),
            other => format!("{other:?}"),
        });
        Some(words.collect::<Vec<_>>())
    };
    let removed = |port| format!("removed {:?}", Action::Output(OfPort(port)));
    assert_eq!(told(start), Some(vec!["added 5".into(), removed(1), removed(2)]));
    assert_eq!(told(start + 2), Some(vec![removed(2)]));
    assert_eq!(told(start + 3), Some(vec![]));

    let many: Vec<_> = (0..300).map(|dst| Change::Flow(flow(dst, dst.into(), 1))).collect();
    commit(&tables, &many, at(1)).unwrap();
    assert_eq!(told(start + 3), Some(vec!["Table(TableId(0))".into()]));
    for dst in 0..126 {
        change(&tables, with(FlowCommand::DeleteStrict, flow(dst, dst.into(), 1))).unwrap();
    }
    assert!(told(start + 2).is_some(), "128 sets ago");
    for dst in 126..160 {
        change(&tables, with(FlowCommand::DeleteStrict, flow(dst, dst.into(), 1))).unwrap();
    }
    assert_eq!(told(start), None);
}

#[test]
fn clauses_decide_together_and_a_change_of_one_is_told_as_something_new() {
    let tables = FlowTables::new();
    let clause = |clause, matches| FlowMod {
        matches,
        actions: Box::new([Action::Conjunction { id: 7, clause, clauses: 2 }]),
        ..flow(5, 0, 1)
    };
    let ip = Match::any().with(Field::EthType, 0x0800);
    let port = clause(1, ip.with(Field::NwProto, 6).with(Field::TcpDst, 80));
    let rules = [clause(0, to(1)), clause(0, to(2)), port.clone(), flow(1, 1, 9)];
    let answer = FlowMod { matches: ip.with(Field::ConjId, 7), ..flow(3, 0, 4) };
    let changes: Vec<_> = rules.into_iter().chain([answer]).map(Change::Flow).collect();
    commit(&tables, &changes, at(1)).unwrap();
    let mut packet = Fields::default();
    for (field, value) in
        [(Field::EthType, 0x0800), (Field::NwProto, 6), (Field::TcpDst, 80), (Field::IpDst, 1)]
    {
        Subfield::whole(field).set(&mut packet, value);
    }
    let root = tables.load();
    let mut fields = packet;
    let hit = root.lookup(TableId::FIRST, &mut fields);
    assert_eq!(&*hit.rule.unwrap().actions, &*out(4));
    assert_eq!(Subfield::whole(Field::ConjId).get(&fields), 7);
    assert!(hit.conjunctive && hit.conjunction.is_some_and(|found| (found.id, found.priority) == (7, 5)));
    assert_eq!(hit.matters_from(), 3);

    // Without a clause, or with another action in its place, the packet meets another rule: so it is told like a new rule.
    let told = |since: u64| {
        let root = tables.load();
        let records = root.changes_since(since).unwrap();
        records.filter(|record| matches!(record, ChangeRecord::Added { priority: 5, conj: true, .. })).count()
    };
    let version = tables.version();
    change(&tables, with(FlowCommand::ModifyStrict, FlowMod { actions: out(8), ..port.clone() })).unwrap();
    assert_eq!(told(version), 1);
    let mut fields = packet;
    assert_eq!(&*tables.load().lookup(TableId::FIRST, &mut fields).rule.unwrap().actions, &*out(8));
    change(&tables, port.clone()).unwrap();
    assert_eq!(told(version + 1), 1);
    change(&tables, with(FlowCommand::DeleteStrict, port)).unwrap();
    assert_eq!(told(version + 2), 1);
    let mut fields = packet;
    let root = tables.load();
    let hit = root.lookup(TableId::FIRST, &mut fields);
    assert_eq!((&*hit.rule.unwrap().actions, fields == packet), (&*out(9), true));
}
