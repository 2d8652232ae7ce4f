//! Groups: what they may be, what uses them, how they count.

use weft_flow::message::{Bucket, BucketPosition, FlowFlags, GroupCommand, GroupKind, Selection};

use super::*;

fn bucket(id: u32) -> Bucket {
    Bucket { id, weight: 0, watch_port: None, watch_group: None, actions: out(id as u16) }
}

fn group(id: u32, kind: GroupKind, buckets: &[Bucket]) -> GroupMod {
    GroupMod { id, kind, buckets: buckets.into(), ..GroupMod::default() }
}

fn all(id: u32) -> GroupMod {
    group(id, GroupKind::All, &[bucket(1), bucket(2)])
}

fn apply(tables: &FlowTables, command: GroupCommand, group: GroupMod) -> Result<Outcome, Refused> {
    commit(tables, &[Change::Group(GroupMod { command, ..group })], at(5))
}

fn add(tables: &FlowTables, group: GroupMod) -> Result<Outcome, Refused> {
    apply(tables, GroupCommand::Add, group)
}

fn ids(tables: &FlowTables, id: u32) -> Vec<u32> {
    tables.load().group(id).unwrap().spec().buckets.iter().map(|bucket| bucket.id).collect()
}

#[test]
fn groups_are_added_once_and_modified_only_if_they_are_there() {
    let tables = FlowTables::new();
    add(&tables, all(7)).unwrap();
    assert_eq!(add(&tables, all(7)), Err(Refused::GroupExists(7)));
    assert_eq!(apply(&tables, GroupCommand::Modify, all(8)), Err(Refused::UnknownGroup(8)));
    assert_eq!(apply(&tables, GroupCommand::InsertBuckets, all(8)), Err(Refused::UnknownGroup(8)));
    apply(&tables, GroupCommand::AddOrModify, all(8)).unwrap();
    apply(&tables, GroupCommand::AddOrModify, group(8, GroupKind::All, &[])).unwrap();
    apply(&tables, GroupCommand::Delete, GroupMod { id: 99, ..GroupMod::default() }).unwrap();
    assert_eq!((ids(&tables, 7), ids(&tables, 8)), (vec![1, 2], vec![]));
    apply(&tables, GroupCommand::Delete, GroupMod { id: GroupMod::ALL, ..GroupMod::default() }).unwrap();
    assert_eq!(tables.load().groups().count(), 0);
}

#[test]
fn a_group_that_cant_be_is_refused_with_its_reason() {
    let tables = FlowTables::new();
    let refused = |group| add(&tables, group).unwrap_err();
    let one = [bucket(1)];
    let watching = Bucket { watch_port: Some(OfPort(1)), ..bucket(1) };
    let (id, bucket_id) = (1, 1);
    assert_eq!(refused(all(0xffff_ff01)), Refused::InvalidGroup(0xffff_ff01));
    assert_eq!(refused(group(id, GroupKind::Indirect, &[])), Refused::IndirectBuckets { id, buckets: 0 });
    assert_eq!(
        refused(group(id, GroupKind::Indirect, &[bucket(1), bucket(2)])),
        Refused::IndirectBuckets { id, buckets: 2 }
    );
    assert_eq!(
        refused(group(id, GroupKind::All, &[bucket(1), bucket(1)])),
        Refused::BucketExists { id, bucket: bucket_id }
    );
    assert_eq!(
        refused(group(id, GroupKind::All, &[Bucket { weight: 1, ..bucket(1) }])),
        Refused::Weight { id, bucket: bucket_id }
    );
    assert_eq!(
        refused(group(id, GroupKind::All, std::slice::from_ref(&watching))),
        Refused::WatchUnsupported { id, bucket: bucket_id }
    );
    assert_eq!(
        refused(group(id, GroupKind::FastFailover, &one)),
        Refused::WatchMissing { id, bucket: bucket_id }
    );
    let method = GroupMod { selection: Selection::DpHash { param: 0 }, ..all(id) };
    assert_eq!(refused(method), Refused::SelectionMethod(id));
    assert_eq!(
        refused(group(id, GroupKind::All, &[bucket(0xffff_ff01)])),
        Refused::BadBucket { id, bucket: 0xffff_ff01 }
    );
    add(&tables, group(1, GroupKind::FastFailover, &[watching])).unwrap();
    add(&tables, group(2, GroupKind::Select, &[Bucket { weight: 9, ..bucket(1) }])).unwrap();
    add(&tables, group(3, GroupKind::Indirect, &one)).unwrap();
}

#[test]
fn no_group_leads_to_itself_be_it_by_a_chain_or_by_what_it_watches() {
    let tables = FlowTables::new();
    let to = |id: u32, next: u32| {
        let actions = Box::new([Action::Clone(Box::new([Action::Group(next)]))]);
        group(id, GroupKind::Indirect, &[Bucket { actions, ..bucket(1) }])
    };
    assert_eq!(add(&tables, to(1, 1)), Err(Refused::GroupLoop(1)));
    add(&tables, to(1, 2)).unwrap();
    add(&tables, to(2, 3)).unwrap();
    assert_eq!(add(&tables, to(3, 1)), Err(Refused::GroupLoop(3)));
    add(&tables, to(3, 4)).unwrap();
    assert_eq!(apply(&tables, GroupCommand::Modify, to(3, 2)), Err(Refused::GroupLoop(3)));
    let watch = Bucket { watch_group: Some(1), ..bucket(1) };
    assert_eq!(add(&tables, group(4, GroupKind::FastFailover, &[watch])), Err(Refused::GroupLoop(4)));
}

#[test]
fn buckets_are_inserted_and_removed_where_it_is_said() {
    let tables = FlowTables::new();
    add(&tables, all(1)).unwrap();
    let change = |command, position, buckets: &[u32]| {
        let buckets: Vec<_> = buckets.iter().copied().map(bucket).collect();
        apply(&tables, command, GroupMod { position, ..group(1, GroupKind::All, &buckets) })
    };
    let (insert, remove) = (GroupCommand::InsertBuckets, GroupCommand::RemoveBuckets);
    change(insert, Some(BucketPosition::First), &[10, 11]).unwrap();
    change(insert, Some(BucketPosition::Last), &[20]).unwrap();
    change(insert, None, &[21]).unwrap();
    change(insert, Some(BucketPosition::Id(1)), &[30, 31]).unwrap();
    assert_eq!(ids(&tables, 1), [10, 11, 1, 30, 31, 2, 20, 21]);
    let unknown = Refused::UnknownBucket { id: 1, bucket: 99 };
    assert_eq!(change(insert, Some(BucketPosition::Id(99)), &[5]), Err(unknown.clone()));
    assert_eq!(change(insert, Some(BucketPosition::All), &[5]), Err(Refused::BucketPosition));
    assert_eq!(change(insert, None, &[2]), Err(Refused::BucketExists { id: 1, bucket: 2 }));
    assert_eq!(change(remove, Some(BucketPosition::Id(99)), &[]), Err(unknown));
    assert_eq!(change(remove, None, &[]), Err(Refused::BucketPosition));
    assert_eq!(change(remove, Some(BucketPosition::All), &[5]), Err(Refused::BadBucket { id: 1, bucket: 5 }));
    change(remove, Some(BucketPosition::First), &[]).unwrap();
    change(remove, Some(BucketPosition::Last), &[]).unwrap();
    change(remove, Some(BucketPosition::Id(30)), &[]).unwrap();
    assert_eq!(ids(&tables, 1), [11, 1, 31, 2, 20]);
    change(remove, Some(BucketPosition::All), &[]).unwrap();
    assert_eq!(ids(&tables, 1), [0; 0]);
    change(remove, Some(BucketPosition::First), &[]).unwrap();
}

#[test]
fn a_group_counts_for_itself_and_its_buckets_and_starts_again_when_modified() {
    let tables = FlowTables::new();
    commit(&tables, &[Change::Group(all(1))], at(2)).unwrap();
    let group = Arc::clone(tables.load().group(1).unwrap());
    group.count(3, 180);
    group.count_bucket(1, 2, 120);
    group.count_bucket(9, 2, 120);
    assert_eq!((group.stats(), group.bucket_stats(0), group.bucket_stats(1)), ((3, 180), (0, 0), (2, 120)));
    apply(&tables, GroupCommand::Modify, all(1)).unwrap();
    let group = Arc::clone(tables.load().group(1).unwrap());
    assert_eq!((group.stats(), group.created()), ((0, 0), at(2)));
}

#[test]
fn a_rule_may_use_groups_that_are_there_and_goes_with_them() {
    let tables = FlowTables::new();
    let notice = FlowFlags { send_removed: true, ..FlowFlags::default() };
    let user = |priority: u16, id| FlowMod {
        actions: Box::new([Action::WriteActions(Box::new([Action::Group(id)]))]),
        flags: notice,
        ..flow(priority, priority.into(), 1)
    };
    assert_eq!(change(&tables, user(1, 7)), Err(Refused::BadOutGroup(7)));
    // In one bundle the group may come first, and only first.
    let bundle = [Change::Flow(user(1, 7)), Change::Group(all(7))];
    assert_eq!(tables.prepare(&bundle, at(1)).map(|_| ()).unwrap_err().index, 0);
    let [first, second] = bundle;
    commit(&tables, &[second, first, Change::Group(all(8)), Change::Flow(user(2, 8))], at(1)).unwrap();
    let modify = FlowMod { matches: Match::any(), ..with(FlowCommand::Modify, user(0, 9)) };
    assert_eq!(change(&tables, modify), Err(Refused::BadOutGroup(9)));
    apply(&tables, GroupCommand::Modify, all(7)).unwrap();
    assert_eq!(rules(&tables).len(), 2, "a group that is modified keeps its rules");
    let outcome = apply(&tables, GroupCommand::Delete, all(7)).unwrap();
    assert_eq!((outcome.removed, rules(&tables)), (1, vec![(0, 2, 0)]));
    apply(&tables, GroupCommand::Delete, GroupMod { id: GroupMod::ALL, ..GroupMod::default() }).unwrap();
    assert!(tables.load().is_empty());
    let reasons: Vec<_> = tables.drain_removed().iter().map(|event| event.reason).collect();
    assert_eq!(reasons, [RemovedReason::GroupDelete; 2]);
}
