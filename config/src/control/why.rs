//! Why packets were dropped: what is asked, and what is told.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use weft_wire::TunnelKind;

use super::trace::FoundRule;

/// Whose packets to tell of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhyRequest {
    /// A port or tunnel by name, a MAC or IP address, or a connection as a match (`tcp,nw_src=10.0.0.1,nw_dst=10.0.0.2,tp_dst=80`).
    pub subject: String,
    /// Only what had a packet within so many seconds.
    #[serde(default = "recent")]
    pub last_s: u32,
}

fn recent() -> u32 {
    60
}

/// What is dropped of the subject's packets, and what leaves.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct WhyReport {
    /// What the subject was taken for.
    pub subject: String,
    /// Milliseconds since the switch has started: counts of two reports make a rate.
    pub uptime_ms: u64,
    /// What is dropped, the latest first.
    pub drops: Vec<WhyDrop>,
    /// What leaves, the latest first.
    pub sent: Vec<WhySent>,
    /// Rows of `drops` that there was no room for, of packets that are longer ago.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub further: u64,
    /// Rows whose packet was not traced, for want of time: their hint is what holds for the reason in general.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub untraced: u64,
    /// Flows that there was no room for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// What one rule, or one other reason, has dropped.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct WhyDrop {
    /// The port, tunnel or uplink that counts it.
    pub port: String,
    /// Where on a packet's way: `receive`, `tunnel in`, `flow tables`, `port security`, `security groups`,
    /// `connection tracking`, `tunnel out` or `transmit`.
    pub stage: String,
    /// The counter's name.
    pub reason: String,
    /// The rule that decided, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<WhyRule>,
    /// Whose security groups don't permit it, if that is the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<WhyGuard>,
    /// Something leaves, but one output was refused.
    #[serde(default, skip_serializing_if = "is_false")]
    pub leaves: bool,
    /// What the packets have in common: the latest flow that is dropped so, as a match. Empty if it isn't known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub flow: String,
    /// How many flows; 0 if it isn't known.
    pub flows: u64,
    /// Packets so far: of these flows, or of the port where no flow is known.
    pub packets: u64,
    /// Packets a second between two reports: weftctl's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Seconds since the last one.
    pub age_s: u32,
    /// One of them, if one came by since the last report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<WhySample>,
    /// What would have to change.
    pub hint: String,
}

/// A port that security groups guard.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WhyGuard {
    /// The port: it was to send the packet, or to get it.
    pub port: String,
    /// Its groups: no rule of theirs permits the packet.
    pub groups: Vec<String>,
}

/// A look-up.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WhyRule {
    /// On this bridge.
    pub bridge: String,
    /// In this table.
    pub table: u16,
    /// What was found; nothing matched without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<FoundRule>,
}

/// A dropped packet.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WhySample {
    /// Its headers, in one line.
    pub text: String,
    /// How many octets it had.
    pub length: usize,
    /// Seconds since it came.
    pub age_s: u32,
}

/// What leaves by the same ports.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct WhySent {
    /// Where it came in.
    pub port: String,
    /// Where it leaves: the first ports.
    pub outputs: Vec<WhyOutput>,
    /// How many ports more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub further: u64,
    /// The latest of the flows, as a match.
    pub flow: String,
    /// How many flows.
    pub flows: u64,
    /// Their packets so far.
    pub packets: u64,
    /// Packets a second between two reports: weftctl's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Seconds since the last one.
    pub age_s: u32,
}

/// A port by which packets leave.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WhyOutput {
    /// Its name.
    pub port: String,
    /// Where a tunnel leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<WhyTunnel>,
}

/// How a packet is wrapped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WhyTunnel {
    /// The encapsulation.
    #[serde(rename = "type")]
    pub kind: TunnelKind,
    /// The other end.
    pub remote: Ipv4Addr,
    /// VNI or key.
    pub key: u32,
    /// What keeps packets from leaving after all: the next hop isn't known, or there is no route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Packets that rules have dropped, by place.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DropPlace {
    /// The port or tunnel that they came in by.
    pub port: String,
    /// The counter's name.
    pub reason: String,
    /// The bridge of the last look-up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Its table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u16>,
    /// The cookie of the rule that it found; nothing matched without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<u64>,
    /// What the cookie stands for, if the switch has made the rule itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Packets.
    pub packets: u64,
    /// Octets.
    pub bytes: u64,
    /// Seconds since the last one.
    pub age_s: u32,
}
