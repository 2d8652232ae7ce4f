//! What `weftctl top` shows: counters to make rates of, gauges, and limits. Cheaper to ask for than
//! [`Op::Show`](super::Op::Show): no device is asked.

use serde::{Deserialize, Serialize};
use weft_wire::PortName;

use super::Counters;

/// The switch at one moment.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TopStatus {
    /// Milliseconds since the switch has started.
    pub uptime_ms: u64,
    /// Ports, tunnels and internal ports; uplinks have no bridge.
    pub ports: Vec<TopPort>,
    /// The workers.
    pub workers: Vec<TopWorker>,
    /// What there is only so much of.
    pub limits: Vec<TopLimit>,
    /// Connections; absent where none are tracked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<TopConnections>,
}

/// A port.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TopPort {
    /// Its bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<PortName>,
    /// Its name.
    pub name: String,
    /// What it has carried and dropped.
    pub counters: Counters,
}

/// A worker.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TopWorker {
    /// Which, from 0.
    pub index: u32,
    /// The CPU that it is pinned to.
    pub cpu: Option<u32>,
    /// Nanoseconds spent in rounds that found packets.
    pub busy_ns: u64,
    /// Packets received.
    pub packets: u64,
    /// Of those, packets whose flow wasn't cached.
    pub misses: u64,
    /// Flows pushed out of the cache.
    pub evictions: u64,
}

/// Something that there is only so much of.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TopLimit {
    /// What, as in `FDB of br0`.
    pub what: String,
    /// How much is used.
    pub used: u64,
    /// How much there may be.
    pub limit: u64,
    /// How often there was none left.
    pub refused: u64,
}

/// Connections.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TopConnections {
    /// How many there are.
    pub connections: u64,
    /// How many there may be.
    pub max: u64,
    /// Made so far.
    pub created: u64,
    /// Refused so far, whatever for.
    pub refused: u64,
}
