//! The control protocol: what `weftctl` and `weftd` say to each other.
//!
//! A unix stream socket; each message is one JSON object on one line (RFC 8259, no newline inside), at most
//! [`MAX_LINE`] octets long with its newline. A client may send many requests without waiting; each gets one response,
//! in order, with the request's `id`:
//!
//! ```text
//! > {"id":1,"op":{"apply":{"changes":[{"port_del":{"name":"vm1"}}]}}}
//! < {"id":1,"result":{"applied":{"differences":["- port vm1 of bridge br0"]}}}
//! > {"id":2,"op":"version"}
//! < {"id":2,"result":{"version":{"version":"0.1.0"}}}
//! > {"id":3,"op":{"apply":{"changes":[{"port_del":{"name":"vm1"}}]}}}
//! < {"id":3,"error":{"code":"refused","message":"there is no port 'vm1'"}}
//! ```
//!
//! What is not a request is answered with the code `bad_request` and its `id` if it has one, 0 otherwise.

mod acl;
mod conntrack;
mod flow;
mod status;
mod top;
mod trace;
mod why;

pub use acl::{AclGroupStatus, AclPortStatus, AclRuleStatus};
pub use conntrack::{
    Bits, ConnectionStatus, ConntrackCount, ConntrackFilter, ConntrackOp, ConntrackReply, Protocol,
    TupleStatus, ZoneCount, ZoneLimitStatus, ZoneTimeouts,
};
pub use flow::{
    CachedFlow, Counted, FlowDump, FlowOp, FlowReply, FlowText, GroupDump, GroupStatus, MAX_BUNDLE,
    MeterStatus, RuleStatus, Verb,
};
pub use status::{
    BridgeStatus, CacheStatus, Counters, FdbEntry, PortState, PortStatus, SwitchStatus, TunnelStatus,
    UplinkStatus, VniEntry, WorkerStatus,
};
pub use top::{TopConnections, TopLimit, TopPort, TopStatus, TopWorker};
pub use trace::{
    FoundRule, TraceChange, TraceConnection, TraceController, TraceCopy, TraceDrop, TraceEvent, TraceReport,
    TraceRequest, TraceStep, TraceTunnel,
};
pub use why::{
    DropPlace, WhyDrop, WhyGuard, WhyOutput, WhyReport, WhyRequest, WhyRule, WhySample, WhySent, WhyTunnel,
};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weft_wire::{PortName, Vid};

use crate::change::{Change, ChangeError};
use crate::model::Config;
use crate::source::{ConfigError, one_line};
use crate::value::optional;

/// The largest request, in octets with its newline.
pub const MAX_LINE: usize = 1 << 20;

/// Where the switch listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/weft/weftd.sock";

/// What a client asks.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Any number; comes back in the response.
    pub id: u64,
    /// What to do.
    pub op: Op,
}

/// The operations.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// The switch's version: [`Reply::Version`].
    Version,
    /// Applies changes as one transaction and persists them: [`Reply::Applied`].
    Apply {
        /// In order.
        changes: Vec<Change>,
    },
    /// The desired state: [`Reply::Config`].
    ConfigShow,
    /// Makes the switch equal to a TOML text: [`Reply::Applied`].
    ConfigApply {
        /// The text.
        toml: String,
        /// What errors call the text.
        #[serde(default = "unnamed")]
        file: String,
    },
    /// [`Reply::Fdb`].
    FdbShow {
        /// All bridges when absent.
        #[serde(default, deserialize_with = "optional")]
        bridge: Option<PortName>,
    },
    /// Forgets learned FDB entries, static ones stay: [`Reply::Flushed`].
    FdbFlush(Flush),
    /// [`Reply::Ports`].
    PortShow(Scope),
    /// [`Reply::Tunnels`].
    TunnelShow(Scope),
    /// [`Reply::Bridges`].
    BridgeShow(Scope),
    /// [`Reply::Vnis`].
    VniShow {
        /// All bridges when absent.
        #[serde(default, deserialize_with = "optional")]
        bridge: Option<PortName>,
    },
    /// [`Reply::Ports`] of everything.
    StatsPorts,
    /// Drops by reason, over all ports, and by the rules that decided: [`Reply::Drops`].
    StatsDrops,
    /// [`Reply::Caches`].
    StatsCache,
    /// [`Reply::Workers`].
    StatsWorkers,
    /// The whole switch: [`Reply::Switch`].
    Show,
    /// What would happen to a packet; nothing comes of it: [`Reply::Trace`].
    Trace(TraceRequest),
    /// Why packets are dropped: [`Reply::Why`]. From then on some of them are watched for, for a few seconds.
    Why(WhyRequest),
    /// What changes from moment to moment: [`Reply::Top`].
    Top,
    /// Connections: [`Reply::Conntrack`].
    Conntrack(ConntrackOp),
    /// Flow tables: [`Reply::Flow`].
    Flow(FlowOp),
    /// Security groups and the ports with a guard, or those of this name only: [`Reply::Acl`].
    AclShow {
        /// A group's or a port's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
}

impl Op {
    /// What the configuration is to be after this operation, complete and valid, or why that can't be; nothing for
    /// an operation that does not change it.
    pub fn next_config(&self, current: &Config) -> Option<Result<Config, Refusal>> {
        match self {
            Op::Apply { changes } => Some(current.apply(changes).map_err(Refusal::from)),
            Op::ConfigApply { toml, file } => Some(complete_toml(toml, file, current)),
            _ => None,
        }
    }
}

fn complete_toml(toml: &str, file: &str, current: &Config) -> Result<Config, Refusal> {
    Ok(Config::from_toml(toml, file)?.complete(current)?)
}

fn unnamed() -> String {
    "request".to_owned()
}

/// Which learned entries a flush forgets: those that match everything that is said.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Flush {
    #[serde(default, deserialize_with = "optional")]
    pub bridge: Option<PortName>,
    #[serde(default, deserialize_with = "optional")]
    pub port: Option<PortName>,
    #[serde(default, deserialize_with = "optional")]
    pub vlan: Option<Vid>,
}

/// Which ports, tunnels or bridges to show: those that match everything that is said.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Of this bridge only.
    #[serde(default, deserialize_with = "optional")]
    pub bridge: Option<PortName>,
    /// Of this name only; refused with `not_found` when there is none.
    #[serde(default, deserialize_with = "optional")]
    pub name: Option<PortName>,
}

/// What the switch answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Response {
    /// The request's.
    pub id: u64,
    /// `result` or `error`.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a request ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Result(Reply),
    /// It was not, and nothing has changed.
    Error(Refusal),
}

impl Response {
    /// The response to request `id`.
    pub fn new(id: u64, result: Result<Reply, Refusal>) -> Self {
        let outcome = match result {
            Ok(reply) => Outcome::Result(reply),
            Err(refusal) => Outcome::Error(refusal),
        };
        Response { id, outcome }
    }
}

/// What comes back when a request was done.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the operation that leads to each says what it is")]
pub enum Reply {
    Version {
        version: String,
    },
    Applied {
        differences: Vec<String>,
    },
    Config {
        toml: String,
        config: Box<Config>,
    },
    Fdb {
        entries: Vec<FdbEntry>,
    },
    Flushed {
        entries: u64,
    },
    Ports {
        ports: Vec<PortStatus>,
        /// Only with [`Op::StatsPorts`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        uplinks: Vec<UplinkStatus>,
    },
    Tunnels {
        tunnels: Vec<TunnelStatus>,
    },
    Bridges {
        bridges: Vec<BridgeStatus>,
    },
    Vnis {
        vnis: Vec<VniEntry>,
    },
    Drops {
        drops: BTreeMap<String, u64>,
        /// What rules have dropped, the most first.
        #[serde(default)]
        places: Vec<DropPlace>,
    },
    Caches {
        caches: Vec<CacheStatus>,
    },
    Workers {
        workers: Vec<WorkerStatus>,
    },
    Switch {
        switch: Box<SwitchStatus>,
    },
    Trace {
        trace: Box<TraceReport>,
    },
    Why {
        why: Box<WhyReport>,
    },
    Top {
        top: Box<TopStatus>,
    },
    Conntrack(ConntrackReply),
    Flow(FlowReply),
    Acl {
        groups: Vec<AclGroupStatus>,
        ports: Vec<AclPortStatus>,
    },
}

/// Why a request was not done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people: one line, with what, where, and the legal range.
    pub message: String,
}

impl Refusal {
    /// A refusal with that line; control characters in it are escaped.
    pub fn new(code: Code, message: impl std::fmt::Display) -> Self {
        Refusal { code, message: one_line(&message.to_string()) }
    }
}

/// Kinds of refusals.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The line is not a request.
    BadRequest,
    /// The line is too long.
    TooLong,
    /// The switch has too many clients.
    Busy,
    /// The changes or the text don't make a valid configuration.
    Refused,
    /// There is no bridge, port or tunnel of that name.
    NotFound,
    /// The system would not do it: a device, a file, memory.
    Failed,
}

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Self {
        let code = match error {
            ChangeError::NoSuchBridge(_)
            | ChangeError::NoSuchPort(_)
            | ChangeError::NoSuchTunnel(_)
            | ChangeError::NoSuchGroup(_) => Code::NotFound,
            _ => Code::Refused,
        };
        Refusal::new(code, error)
    }
}

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Self {
        Refusal::new(Code::Refused, error)
    }
}

/// Reads one line as a request. The error is the response to send.
pub fn parse_request(line: &[u8]) -> Result<Request, Box<Response>> {
    let bad = |id, message: String| Box::new(Response::new(id, Err(Refusal::new(Code::BadRequest, message))));
    let json: serde_json::Value =
        serde_json::from_slice(line).map_err(|error| bad(0, format!("not a JSON object: {error}")))?;
    let id = json.get("id").and_then(serde_json::Value::as_u64).unwrap_or(0);
    serde_path_to_error::deserialize(json).map_err(|error| {
        let place = error.path().to_string();
        let place = if place == "." { String::new() } else { format!("{place}: ") };
        bad(id, format!("{place}{}", error.inner()))
    })
}

/// One message as a line, newline included.
pub fn to_line(message: &impl Serialize) -> Vec<u8> {
    let mut line = match serde_json::to_vec(message) {
        Ok(line) => line,
        Err(error) => unreachable!("messages have string keys and plain numbers only: {error}"),
    };
    line.push(b'\n');
    line
}
