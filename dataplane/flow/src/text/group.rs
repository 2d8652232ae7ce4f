//! Reading and writing groups: `group_id=1,type=select,bucket=weight:100,actions=output:1`.

use std::time::Duration;

use weft_wire::OfPort;

use super::actions::{Parser, Within};
use super::error::{Error, Problem};
use super::number;
use super::port::{self, PortNames};
use super::print_actions;
use super::token::{Item, Token};
use super::value;
use crate::field::{Field, Maskable};
use crate::message::{Bucket, BucketPosition, GroupCommand, GroupKind, GroupMod, Selection};

/// Kinds of group and their names; the first name of a kind is the one that is written.
const KINDS: [(&str, GroupKind); 5] = [
    ("all", GroupKind::All),
    ("select", GroupKind::Select),
    ("indirect", GroupKind::Indirect),
    ("ff", GroupKind::FastFailover),
    ("fast_failover", GroupKind::FastFailover),
];

/// The highest number of a bucket (`OFPG15_BUCKET_MAX`).
const MAX_BUCKET: u128 = 0xffff_ff00;

/// A group in the making.
struct Reader<'a> {
    ports: &'a dyn PortNames,
    command: GroupCommand,
    id: Option<u32>,
    kind: Option<GroupKind>,
    method: Option<Token<'a>>,
    param: Option<(u64, Token<'a>)>,
    fields: Option<(Vec<(Field, u128)>, Token<'a>)>,
    position: Option<BucketPosition>,
}

/// Reads a group.
pub(super) fn parse<'a>(
    line: Token<'a>,
    command: GroupCommand,
    ports: &'a dyn PortNames,
) -> Result<GroupMod, Error> {
    if command == GroupCommand::Delete && line.trim().is_empty() {
        return Ok(empty(command, GroupMod::ALL));
    }
    let mut reader = Reader {
        ports,
        command,
        id: None,
        kind: None,
        method: None,
        param: None,
        fields: None,
        position: None,
    };
    // Each bucket with its settings and actions; those before the first are the group's.
    let mut buckets: Vec<(Token<'a>, Vec<Item<'a>>)> = Vec::new();
    for item in line.items() {
        let item = item?;
        if item.key.text == "bucket" {
            let first = item.value.items().collect::<Result<_, _>>()?;
            buckets.push((item.whole, first));
        } else if let Some((_, items)) = buckets.last_mut() {
            items.push(item);
        } else {
            reader.setting(&item)?;
        }
    }
    reader.finish(line, buckets)
}

fn empty(command: GroupCommand, id: u32) -> GroupMod {
    let (kind, selection) = (GroupKind::All, Selection::Default);
    GroupMod { command, id, kind, selection, buckets: [].into(), position: None }
}

impl<'a> Reader<'a> {
    /// Whether the command describes a whole group.
    fn whole(&self) -> bool {
        matches!(self.command, GroupCommand::Add | GroupCommand::Modify | GroupCommand::AddOrModify)
    }

    fn setting(&mut self, item: &Item<'a>) -> Result<(), Error> {
        let value = item.value;
        let twice = match item.key.text {
            "group_id" => self.id.replace(self.group_id(value)?).is_some(),
            "type" if self.whole() => self.kind.replace(kind(value)?).is_some(),
            "selection_method" if self.whole() => self.method.replace(value).is_some(),
            "selection_method_param" if self.whole() => {
                self.param.replace((value.u64("the parameter")?, item.whole)).is_some()
            }
            "fields" if self.whole() => {
                self.fields.replace((hash_fields(value, self.ports)?, item.whole)).is_some()
            }
            "command_bucket_id" if self.command == GroupCommand::InsertBuckets => {
                let position = position(value)?;
                if position == BucketPosition::All {
                    return value.fail(Problem::Expected("first, last or a bucket's number"));
                }
                self.position.replace(position).is_some()
            }
            "command_bucket_id" if self.command == GroupCommand::RemoveBuckets => {
                self.position.replace(position(value)?).is_some()
            }
            "type" | "selection_method" | "selection_method_param" | "fields" | "command_bucket_id" => {
                return item.whole.fail(Problem::NotHere);
            }
            _ => return item.key.fail(Problem::UnknownKeyword),
        };
        if twice { item.whole.fail(Problem::Twice) } else { Ok(()) }
    }

    fn group_id(&self, value: Token<'_>) -> Result<u32, Error> {
        if value.text == "all" && self.command == GroupCommand::Delete {
            return Ok(GroupMod::ALL);
        }
        value.number("the group", GroupMod::MAX.into()).map(|id| id as u32)
    }

    fn finish(self, line: Token<'a>, buckets: Vec<(Token<'a>, Vec<Item<'a>>)>) -> Result<GroupMod, Error> {
        let id = self.id.ok_or_else(|| line.error(Problem::Missing("group_id=")))?;
        let mut group = empty(self.command, id);
        if self.whole() {
            group.kind = self.kind.ok_or_else(|| line.error(Problem::Missing("type=")))?;
        }
        group.selection = self.selection(group.kind)?;
        group.position = match self.command {
            GroupCommand::InsertBuckets if self.position.is_none() => {
                return line.fail(Problem::Missing("command_bucket_id="));
            }
            GroupCommand::RemoveBuckets => Some(self.position.unwrap_or(BucketPosition::All)),
            _ => self.position,
        };
        if let (Some((bucket, _)), GroupCommand::Delete | GroupCommand::RemoveBuckets) =
            (buckets.first(), self.command)
        {
            return bucket.fail(Problem::NotHere);
        }
        match (group.kind, &buckets[..]) {
            (GroupKind::Indirect, [_, (second, _), ..]) => {
                return second.fail(Problem::TooMany { what: "buckets of an indirect group", max: 1 });
            }
            (GroupKind::Indirect, []) => {
                return line.fail(Problem::Missing("the bucket of an indirect group"));
            }
            _ => (),
        }
        let mut taken = Vec::new();
        let mut list = Vec::with_capacity(buckets.len());
        for (token, items) in buckets {
            let bucket = self.bucket(token, &items, group.kind)?;
            taken.extend((bucket.id != Bucket::UNNUMBERED).then_some((bucket.id, token)));
            list.push(bucket);
        }
        taken.sort_by_key(|(id, token)| (*id, token.at));
        let pairs = taken.iter().zip(taken.iter().skip(1));
        if let Some((_, (_, second))) = pairs.into_iter().find(|((first, _), (second, _))| first == second) {
            return second.fail(Problem::Twice);
        }
        // By what this text has: which numbers the group has already, it doesn't know.
        if self.whole() || self.command == GroupCommand::InsertBuckets {
            number(&mut list);
        }
        group.buckets = list.into();
        Ok(group)
    }

    fn selection(&self, kind: GroupKind) -> Result<Selection, Error> {
        let Some(method) = self.method else {
            let stray = self.param.as_ref().map(|(_, token)| token);
            return match stray.or(self.fields.as_ref().map(|(_, token)| token)) {
                Some(token) => token.fail(Problem::Needs("selection_method")),
                None => Ok(Selection::Default),
            };
        };
        if kind != GroupKind::Select {
            return method.fail(Problem::Needs("type=select"));
        }
        let param = self.param.map_or(0, |(param, _)| param);
        match (method.text, &self.fields) {
            ("hash", fields) => {
                let fields = fields.as_ref().map_or(&[][..], |(fields, _)| fields);
                Ok(Selection::Hash { param, fields: fields.into() })
            }
            ("dp_hash", None) => Ok(Selection::DpHash { param }),
            ("dp_hash", Some((_, token))) => token.fail(Problem::Needs("selection_method=hash")),
            _ => method.fail(Problem::Expected("hash or dp_hash")),
        }
    }

    /// Reads a bucket; what isn't a setting is an action, and `actions=` stands before the first.
    fn bucket(&self, token: Token<'a>, items: &[Item<'a>], kind: GroupKind) -> Result<Bucket, Error> {
        let weight = u16::from(kind == GroupKind::Select);
        let mut bucket = Bucket {
            id: Bucket::UNNUMBERED,
            weight,
            watch_port: None,
            watch_group: None,
            actions: [].into(),
        };
        let mut actions = Vec::new();
        let mut any = false;
        for item in items {
            let value = item.value;
            match item.key.text {
                "weight" => bucket.weight = self.weight(item, kind)?,
                "watch_port" => bucket.watch_port = watch_port(value, self.ports)?,
                "watch_group" => {
                    bucket.watch_group = Some(value.number("the group", GroupMod::MAX.into())? as u32);
                }
                "bucket_id" => bucket.id = value.number("the bucket", MAX_BUCKET)? as u32,
                "action" | "actions" => {
                    any = true;
                    for action in value.items() {
                        actions.push(action?);
                    }
                }
                _ => {
                    any = true;
                    actions.push(*item);
                }
            }
        }
        if !any {
            return token.fail(Problem::NoActions);
        }
        if kind == GroupKind::FastFailover && bucket.watch_port.is_none() && bucket.watch_group.is_none() {
            return token.fail(Problem::Needs("watch_port or watch_group"));
        }
        let mut parser = Parser::new(self.ports, None);
        bucket.actions = parser.items(actions.into_iter().map(Ok), Within::Bucket, &mut None)?;
        Ok(bucket)
    }

    fn weight(&self, item: &Item<'_>, kind: GroupKind) -> Result<u16, Error> {
        let weight = item.value.u16("the weight")?;
        if weight != 0 && kind != GroupKind::Select && self.whole() {
            return item.whole.fail(Problem::Needs("type=select"));
        }
        Ok(weight)
    }
}

/// Gives numbers to buckets that have none: the lowest that are free.
fn number(buckets: &mut [Bucket]) {
    let mut taken: Vec<u32> = buckets.iter().map(|bucket| bucket.id).collect();
    taken.sort_unstable();
    let mut taken = taken.into_iter().peekable();
    let mut next = 0;
    for bucket in buckets.iter_mut().filter(|bucket| bucket.id == Bucket::UNNUMBERED) {
        while taken.peek().is_some_and(|taken| *taken <= next) {
            if taken.next() == Some(next) {
                next += 1;
            }
        }
        bucket.id = next;
        next += 1;
    }
}

fn kind(value: Token<'_>) -> Result<GroupKind, Error> {
    let known = KINDS.iter().find(|(name, _)| *name == value.text);
    let expected = "all, select, indirect, ff or fast_failover";
    known.map(|(_, kind)| *kind).ok_or_else(|| value.error(Problem::Expected(expected)))
}

fn position(value: Token<'_>) -> Result<BucketPosition, Error> {
    Ok(match value.text {
        "first" => BucketPosition::First,
        "last" => BucketPosition::Last,
        "all" => BucketPosition::All,
        _ => BucketPosition::Id(value.number("the bucket", MAX_BUCKET)? as u32),
    })
}

fn watch_port(value: Token<'_>, ports: &dyn PortNames) -> Result<Option<OfPort>, Error> {
    let port = port::parse(value, ports)?;
    if port > OfPort::MAX && ![OfPort::NONE, OfPort::CONTROLLER].contains(&port) {
        return value.fail(Problem::BadPort { reserved: "CONTROLLER and ANY" });
    }
    Ok(Some(port).filter(|port| *port != OfPort::NONE))
}

/// The fields that are hashed, each with the bits that count.
fn hash_fields(value: Token<'_>, ports: &dyn PortNames) -> Result<Vec<(Field, u128)>, Error> {
    let mut fields: Vec<(Field, u128)> = Vec::new();
    for item in value.items() {
        let item = item?;
        let field = value::field(item.key.text).ok_or_else(|| item.key.error(Problem::UnknownField))?;
        if fields.iter().any(|(other, _)| *other == field) {
            return item.whole.fail(Problem::Twice);
        }
        let bits = match item.value.is_empty() {
            true => field.max(),
            false => value::parse_whole(field, item.value, ports)?,
        };
        if bits == 0 {
            return item.value.fail(Problem::Expected("a mask with at least one bit"));
        }
        if bits != field.max() && field.info().maskable == Maskable::Whole {
            return item.value.fail(Problem::NotMaskable(field));
        }
        fields.push((field, bits));
    }
    fields.sort_unstable();
    Ok(fields)
}

/// Writes a group.
pub(super) fn print(group: &GroupMod, ports: &dyn PortNames) -> String {
    let mut out = String::from("group_id=");
    number::decimal(&mut out, group.id.into());
    out.push_str(",type=");
    let known = KINDS.iter().find(|(_, kind)| *kind == group.kind);
    out.push_str(known.map_or("", |(name, _)| name));
    print_selection(&mut out, &group.selection, ports);
    for bucket in &group.buckets {
        out.push_str(",bucket=");
        print_bucket(&mut out, bucket, group.kind, ports);
    }
    out
}

fn print_selection(out: &mut String, selection: &Selection, ports: &dyn PortNames) {
    let (name, param, fields) = match selection {
        Selection::Default => return,
        Selection::Hash { param, fields } => ("hash", *param, &**fields),
        Selection::DpHash { param } => ("dp_hash", *param, &[][..]),
    };
    out.push_str(",selection_method=");
    out.push_str(name);
    if param != 0 {
        out.push_str(",selection_method_param=");
        number::decimal(out, param.into());
    }
    let (open, close) = match fields.len() {
        0 => return,
        1 => (",fields=", ""),
        _ => (",fields(", ")"),
    };
    out.push_str(open);
    for (at, &(field, bits)) in fields.iter().enumerate() {
        out.push_str(if at > 0 { "," } else { "" });
        out.push_str(field.info().name);
        if bits != field.max() {
            out.push('=');
            value::print(out, field, (bits, field.max()), ports);
        }
    }
    out.push_str(close);
}

fn print_bucket(out: &mut String, bucket: &Bucket, kind: GroupKind, ports: &dyn PortNames) {
    if bucket.id != Bucket::UNNUMBERED {
        out.push_str("bucket_id:");
        number::decimal(out, bucket.id.into());
        out.push(',');
    }
    if bucket.weight != u16::from(kind == GroupKind::Select) {
        out.push_str("weight:");
        number::decimal(out, bucket.weight.into());
        out.push(',');
    }
    if let Some(port) = bucket.watch_port {
        out.push_str("watch_port:");
        port::print(out, port, ports);
        out.push(',');
    }
    if let Some(group) = bucket.watch_group {
        out.push_str("watch_group:");
        number::decimal(out, group.into());
        out.push(',');
    }
    out.push_str("actions=");
    print_actions::print(out, &bucket.actions, ports);
}

/// What `ovs-ofctl dump-group-stats` says of a group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GroupStats {
    /// How long it has been there.
    pub duration: Duration,
    /// How many rules and groups use it.
    pub references: u32,
    /// Packets that came to it.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    /// Packets and octets of each bucket.
    pub buckets: Vec<(u64, u64)>,
}

/// Writes a group's statistics, without the blank before them.
pub fn print_group_stats(id: u32, stats: &GroupStats) -> String {
    let mut out = format!("group_id={id},duration=");
    number::duration(&mut out, stats.duration);
    let GroupStats { references, packets, bytes, .. } = stats;
    out.push_str(&format!(",ref_count={references},packet_count={packets},byte_count={bytes}"));
    for (at, (packets, bytes)) in stats.buckets.iter().enumerate() {
        out.push_str(&format!(",bucket{at}:packet_count={packets},byte_count={bytes}"));
    }
    out
}
