//! Changes to groups (OpenFlow 1.5.1, section 7.3.4.4).

use std::collections::HashSet;
use std::sync::Arc;

use weft_flow::Action;
use weft_flow::message::{Bucket, BucketPosition, GroupCommand, GroupKind, GroupMod, Selection};

use super::draft::Draft;
use super::error::Refused;
use super::flows::{NESTING, check_nesting};
use super::index::each;
use super::{Group, GroupSpec, RemovedReason};

/// The largest number of a bucket (`OFPG15_BUCKET_MAX`).
const MAX_BUCKET: u32 = 0xffff_ff00;

impl Draft<'_> {
    /// Carries out one change to groups.
    pub fn group(&mut self, change: &GroupMod) -> Result<(), Refused> {
        let exists = self.next.group(change.id).is_some();
        match change.command {
            GroupCommand::Add if exists => Err(Refused::GroupExists(change.id)),
            GroupCommand::Add => self.put_group(asked_for(change)),
            GroupCommand::AddOrModify => self.put_group(asked_for(change)),
            GroupCommand::Modify if exists => self.put_group(asked_for(change)),
            GroupCommand::InsertBuckets | GroupCommand::RemoveBuckets if exists => {
                self.change_buckets(change)
            }
            GroupCommand::Delete => {
                self.delete_groups(change.id);
                Ok(())
            }
            _ => Err(Refused::UnknownGroup(change.id)),
        }
    }

    fn put_group(&mut self, spec: GroupSpec) -> Result<(), Refused> {
        check(&spec)?;
        self.check_loop(&spec)?;
        let created = self.next.group(spec.id).map_or(self.now, |old| old.created());
        self.set_group(spec.id, Some(Arc::new(Group::new(spec, created))));
        Ok(())
    }

    fn change_buckets(&mut self, change: &GroupMod) -> Result<(), Refused> {
        let Some(group) = self.next.group(change.id) else { return Err(Refused::UnknownGroup(change.id)) };
        let old = group.spec();
        let buckets = match change.command {
            GroupCommand::InsertBuckets => inserted(old, change)?,
            _ => remaining(old, change)?,
        };
        let spec = GroupSpec { buckets: buckets.into(), ..old.clone() };
        self.put_group(spec)
    }

    fn delete_groups(&mut self, id: u32) {
        let ids: Vec<u32> = match id {
            GroupMod::ALL => self.next.groups().map(|group| group.spec().id).collect(),
            id => self.next.group(id).map(|group| group.spec().id).into_iter().collect(),
        };
        for id in ids {
            let rules = self.writer.index.using_group(id);
            rules.iter().for_each(|rule| self.remove(rule, RemovedReason::GroupDelete));
            self.remove_forsaken();
            self.set_group(id, None);
        }
    }

    /// A packet must not come to a group again by its buckets; nor must the question whether it is live.
    fn check_loop(&self, spec: &GroupSpec) -> Result<(), Refused> {
        let mut open = next_groups(spec);
        let mut seen = HashSet::new();
        while let Some(id) = open.pop() {
            if id == spec.id {
                return Err(Refused::GroupLoop(id));
            }
            if seen.insert(id) {
                open.extend(self.next.group(id).map(|group| next_groups(group.spec())).unwrap_or_default());
            }
        }
        Ok(())
    }
}

fn asked_for(change: &GroupMod) -> GroupSpec {
    let GroupMod { id, kind, selection, buckets, .. } = change.clone();
    GroupSpec { id, kind, selection, buckets }
}

fn next_groups(spec: &GroupSpec) -> Vec<u32> {
    let mut ids: Vec<u32> = spec.buckets.iter().filter_map(|bucket| bucket.watch_group).collect();
    for bucket in &spec.buckets {
        each(&bucket.actions, &mut |action| {
            if let Action::Group(id) = action {
                ids.push(*id);
            }
        });
    }
    ids
}

/// What a group has to be, by itself.
fn check(spec: &GroupSpec) -> Result<(), Refused> {
    let id = spec.id;
    if id > GroupMod::MAX {
        return Err(Refused::InvalidGroup(id));
    }
    if spec.kind == GroupKind::Indirect && spec.buckets.len() != 1 {
        return Err(Refused::IndirectBuckets { id, buckets: spec.buckets.len() });
    }
    if spec.kind != GroupKind::Select && spec.selection != Selection::Default {
        return Err(Refused::SelectionMethod(id));
    }
    let mut ids = HashSet::new();
    for bucket in &spec.buckets {
        check_bucket(spec, bucket)?;
        if !ids.insert(bucket.id) {
            return Err(Refused::BucketExists { id, bucket: bucket.id });
        }
    }
    Ok(())
}

fn check_bucket(spec: &GroupSpec, bucket: &Bucket) -> Result<(), Refused> {
    let (id, number) = (spec.id, bucket.id);
    let watches = bucket.watch_port.is_some() || bucket.watch_group.is_some();
    if number > MAX_BUCKET {
        return Err(Refused::BadBucket { id, bucket: number });
    }
    match spec.kind {
        GroupKind::Select => {}
        _ if bucket.weight != 0 => return Err(Refused::Weight { id, bucket: number }),
        GroupKind::All | GroupKind::Indirect if watches => {
            return Err(Refused::WatchUnsupported { id, bucket: number });
        }
        GroupKind::FastFailover if !watches => return Err(Refused::WatchMissing { id, bucket: number }),
        _ => {}
    }
    check_nesting(&bucket.actions, NESTING)
}

/// The place of a bucket in a group.
fn place(spec: &GroupSpec, bucket: u32) -> Result<usize, Refused> {
    let found = spec.buckets.iter().position(|other| other.id == bucket);
    found.ok_or(Refused::UnknownBucket { id: spec.id, bucket })
}

/// `insert-buckets`: at the end if it isn't said where; behind the one that is named.
fn inserted(old: &GroupSpec, change: &GroupMod) -> Result<Vec<Bucket>, Refused> {
    let at = match change.position {
        Some(BucketPosition::First) => 0,
        Some(BucketPosition::Last) | None => old.buckets.len(),
        Some(BucketPosition::Id(bucket)) => place(old, bucket)? + 1,
        Some(BucketPosition::All) => return Err(Refused::BucketPosition),
    };
    let mut buckets = old.buckets.to_vec();
    buckets.splice(at..at, change.buckets.iter().cloned());
    Ok(buckets)
}

/// `remove-buckets`
fn remaining(old: &GroupSpec, change: &GroupMod) -> Result<Vec<Bucket>, Refused> {
    if let Some(bucket) = change.buckets.first() {
        return Err(Refused::BadBucket { id: old.id, bucket: bucket.id });
    }
    let mut buckets = old.buckets.to_vec();
    match change.position.ok_or(Refused::BucketPosition)? {
        BucketPosition::All => buckets.clear(),
        BucketPosition::First => drop(buckets.drain(..buckets.len().min(1))),
        BucketPosition::Last => drop(buckets.pop()),
        BucketPosition::Id(bucket) => drop(buckets.remove(place(old, bucket)?)),
    }
    Ok(buckets)
}
