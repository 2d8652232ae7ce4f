//! Flow tables over the control protocol: rules, groups and meters as text, dumps, and what workers have cached.
//!
//! Text that doesn't fit a request comes in pieces: each but the last says `more`, and gets the number of the bundle
//! that the next has to name. Nothing happens before the last one, and then all of it or nothing. A piece ends at the
//! end of a line. Dumps come in pieces as well: as long as an answer has `next`, there is more to ask for.
//!
//! ```text
//! > {"id":1,"op":{"flow":{"change":{"bridge":"br0","verb":"flow_add","text":"priority=1 actions=drop"}}}}
//! < {"id":1,"result":{"flow":{"changed":{"added":1,"replaced":0,"removed":0}}}}
//! > {"id":2,"op":{"flow":{"dump":{"bridge":"br0","filter":"table=0"}}}}
//! < {"id":2,"result":{"flow":{"rules":{"rules":[{"table":0, ..}],"next":null}}}}
//! ```

use serde::{Deserialize, Serialize};
use weft_wire::PortName;

/// The most text that one bundle takes, in octets.
pub const MAX_BUNDLE: usize = 64 << 20;

/// What a client asks about flow tables.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FlowOp {
    /// Changes rules, groups or meters: [`FlowReply::Changed`], or [`FlowReply::Bundle`] if more is to come. With
    /// [`Verb::FlowDiff`] nothing is changed: [`FlowReply::Differences`].
    Change(FlowText),
    /// [`FlowReply::Rules`]
    Dump(FlowDump),
    /// The rest of a dump: [`FlowReply::Rules`].
    Next {
        /// What the last answer said.
        dump: u64,
    },
    /// [`FlowReply::Groups`]
    Groups(GroupDump),
    /// [`FlowReply::Meters`]
    Meters {
        /// Of this bridge.
        bridge: PortName,
    },
    /// [`FlowReply::Cached`]
    Cache {
        /// The port or tunnel that packets come in by.
        port: PortName,
        /// At most so many flows.
        limit: u32,
    },
}

/// What to do with each line of a text (the commands of ovs-ofctl(8)).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are those of the commands")]
pub enum Verb {
    FlowAdd,
    FlowMod,
    FlowModStrict,
    FlowDel,
    FlowDelStrict,
    /// Makes the rules equal to those of the text.
    FlowReplace,
    /// Says what that would change.
    FlowDiff,
    GroupAdd,
    GroupMod,
    /// Changes the group, or adds it.
    GroupAddOrMod,
    GroupDel,
    GroupInsertBuckets,
    GroupRemoveBuckets,
    MeterAdd,
    MeterMod,
    MeterDel,
}

/// Rules, groups or meters as text, one on a line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowText {
    /// Of this bridge.
    pub bridge: PortName,
    /// What to do with them.
    pub verb: Verb,
    /// The text, or the next piece of it: whole lines.
    pub text: String,
    /// The file that it is from, for errors. Only files have comments, headings, and commands in front of rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Which bundle this piece goes on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<u64>,
    /// There is more to come.
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
}

/// Which rules to list, and how.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowDump {
    /// Of this bridge.
    pub bridge: PortName,
    /// Those that a loose deletion of this text would delete.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub filter: String,
    /// Of this table only, be it weft's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u16>,
    /// Of weft's own tables as well.
    #[serde(default, skip_serializing_if = "is_false")]
    pub all: bool,
    /// Without counters and ages.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_stats: bool,
    /// Ports by number.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_names: bool,
}

/// Which groups to list, and how.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupDump {
    /// Of this bridge.
    pub bridge: PortName,
    /// Ports by number.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_names: bool,
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// What the switch answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowReply {
    /// The piece was taken.
    Bundle {
        /// To be named with the next one.
        bundle: u64,
    },
    /// The text was carried out.
    Changed {
        /// Rules that are new.
        added: u64,
        /// Rules in whose place another one stands.
        replaced: u64,
        /// Rules that are gone.
        removed: u64,
    },
    /// How the rules differ from the text, one rule a line: `+` would be added, `-` removed.
    Differences {
        /// The lines.
        differences: Vec<String>,
    },
    /// By table, the highest priority first.
    Rules {
        /// One each.
        rules: Vec<RuleStatus>,
        /// What to ask for the rest by.
        next: Option<u64>,
    },
    /// By number.
    Groups {
        /// One each.
        groups: Vec<GroupStatus>,
    },
    /// By number.
    Meters {
        /// One each.
        meters: Vec<MeterStatus>,
    },
    /// Flows of the workers' caches.
    Cached {
        /// One each.
        flows: Vec<CachedFlow>,
    },
}

/// A rule.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of flow text")]
pub struct RuleStatus {
    pub table: u16,
    pub priority: u16,
    pub cookie: u64,
    pub packets: u64,
    pub bytes: u64,
    /// Seconds since it was added.
    pub duration_s: f64,
    /// Seconds since its last packet.
    pub idle_age_s: f64,
    pub idle_timeout: u16,
    pub hard_timeout: u16,
    #[serde(rename = "match")]
    pub matches: String,
    pub actions: String,
    /// The whole rule as `ovs-ofctl dump-flows` prints it.
    pub text: String,
    /// Whose it is, if it is one of weft's own: "group web, rule 2".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
}

/// Packets and octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counted {
    pub packets: u64,
    pub bytes: u64,
}

impl From<(u64, u64)> for Counted {
    fn from((packets, bytes): (u64, u64)) -> Self {
        Counted { packets, bytes }
    }
}

/// A group.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its number.
    pub id: u32,
    /// The group as `ovs-ofctl dump-groups` prints it.
    pub text: String,
    /// Seconds since it was added.
    pub duration_s: f64,
    /// What took it.
    pub counted: Counted,
    /// What took each of its buckets, in order.
    pub buckets: Vec<Counted>,
}

/// A meter.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct MeterStatus {
    /// Its number.
    pub id: u32,
    /// The meter as `ovs-ofctl dump-meters` prints it.
    pub text: String,
    /// Seconds since it was added.
    pub duration_s: f64,
    /// What came to it.
    pub counted: Counted,
    /// What exceeded each of its bands, in order.
    pub bands: Vec<Counted>,
}

/// A flow in a worker's cache.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CachedFlow {
    /// Whose.
    pub worker: u32,
    /// The bits of its packets that count, as the match of a rule.
    #[serde(rename = "match")]
    pub matches: String,
    /// What is done to them, step by step.
    pub steps: Vec<String>,
    /// How many rules they went through.
    pub rules: u32,
    /// Packets so far.
    pub packets: u64,
    /// Octets so far.
    pub bytes: u64,
    /// Seconds since the last packet.
    pub age_s: u32,
}
