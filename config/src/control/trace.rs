//! Tracing a packet: what is asked, and what is told.

use serde::{Deserialize, Serialize};
use weft_wire::{Mac, PortName, Vid};

/// Which packet to trace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// The bridge that it comes in on.
    pub bridge: PortName,
    /// The packet as a match (`in_port=vm1,tcp,nw_dst=10.0.0.1`); with a frame its in_port and tunnel fields only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub flow: String,
    /// The packet's octets, two hexadecimal digits each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<String>,
    /// The port by which it comes in, by name or number, if the match does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_port: Option<String>,
}

/// What would happen to the packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TraceReport {
    /// The packet, as a match.
    pub packet: String,
    /// Which of its fields the tables that it can reach read.
    pub reads: Vec<String>,
    /// What happens, in order; what a step is made of follows it, one deeper.
    pub steps: Vec<TraceStep>,
    /// Steps that were too many to tell.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: usize,
    /// What leaves.
    pub copies: Vec<TraceCopy>,
    /// What goes to the controllers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controllers: Vec<TraceController>,
    /// Why nothing leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<TraceDrop>,
    /// All of it in one line.
    pub summary: String,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// A step, and how many others it is within.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TraceStep {
    /// 0 for the bridge that the packet comes in on.
    pub depth: u16,
    /// What happens.
    #[serde(flatten)]
    pub event: TraceEvent,
}

/// What a `ct` says of a packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it; weft_core::trace::Connection has more")]
pub struct TraceConnection {
    pub zone: u16,
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuple: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<String>,
    pub mark: u32,
    /// Hexadecimal: it has 128 bits.
    pub label: String,
    /// Whether a connection would be made.
    pub made: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translated: Option<String>,
    /// All of it, for people.
    pub text: String,
}

/// What happens in a step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it; weft_core::trace::What has more")]
pub enum TraceEvent {
    Bridge {
        bridge: String,
        port: String,
        ofport: u16,
    },
    /// Without a rule nothing matched.
    Lookup {
        table: u16,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<FoundRule>,
    },
    Action(String),
    Change(TraceChange),
    /// A `ct` asks for the packet's connection.
    Tracked(TraceConnection),
    ActionSet {},
    Bucket {
        group: u32,
        bucket: u32,
    },
    Vlan {
        vlan: Vid,
    },
    /// `known`: it is in the FDB already, at this port.
    Sender {
        vlan: Vid,
        mac: Mac,
        port: String,
        known: bool,
    },
    /// Without a port it is flooded.
    Destination {
        vlan: Vid,
        mac: Mac,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<String>,
    },
    /// A flood leaves the port out.
    Skipped {
        port: String,
        reason: String,
    },
    Output(TraceCopy),
    Controller(TraceController),
    /// The rule that would be made.
    Learn(String),
    /// One copy can't leave.
    Refused(TraceDrop),
    /// The walk ends, and nothing of it is done.
    Failed(TraceDrop),
}

/// A rule that a look-up has found: of a trace, or of a dropped packet.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of flow text")]
pub struct FoundRule {
    pub priority: u16,
    pub cookie: u64,
    /// What the cookie stands for, if the switch has made the rule itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Empty: matches everything.
    #[serde(rename = "match")]
    pub matches: String,
    pub actions: String,
}

/// A field gets another value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct TraceChange {
    pub field: String,
    pub from: String,
    pub to: String,
}

/// A copy that leaves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TraceCopy {
    /// The port's bridge.
    pub bridge: String,
    /// The port.
    pub port: String,
    /// Its number.
    pub ofport: u16,
    /// The VLAN of its tag (0: a priority tag); untagged without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The priority in its tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcp: Option<u8>,
    /// Its other header fields that differ from the packet's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<TraceChange>,
    /// Octets that are kept, if not all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_len: Option<u32>,
    /// How it is wrapped, if the port is a tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TraceTunnel>,
    /// All of it for people.
    pub text: String,
}

/// What is put around a copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct TraceTunnel {
    #[serde(rename = "type")]
    pub kind: String,
    pub local: String,
    pub remote: String,
    pub key: u32,
    /// Absent while the next hop is looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<Mac>,
    /// Octets of the largest inner frame that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_frame: Option<u16>,
}

/// A copy for the controllers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct TraceController {
    pub reason: String,
    pub max_len: u16,
    pub id: u16,
}

/// Why nothing leaves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TraceDrop {
    /// The counter's name.
    pub reason: String,
    /// Which rule or setting it is due to.
    pub hint: String,
}
