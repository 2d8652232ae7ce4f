//! What the switch tells about itself. Plain numbers and text: packets and bytes are counted since the port was added.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use weft_wire::{Mac, OfPort, PortName, TunnelKey, TunnelKind, Vid};

use crate::tunnel::Remote;

/// Packets and octets of one port. Over all ports with a device of their own, and at rest, `rx_packets` + `copies` =
/// `tx_packets` + the sums of `drops` + the workers' `held`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counters {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    /// Packets that came to the device and were lost before the switch could receive them, because its ring was full.
    #[serde(default)]
    pub rx_missed: u64,
    /// Copies that floods of what was received here have made beyond the first.
    #[serde(default)]
    pub copies: u64,
    /// Dropped packets by the name of the reason; reasons that never happened are left out.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
}

impl Counters {
    /// Dropped packets of all reasons.
    pub fn dropped(&self) -> u64 {
        self.drops.values().sum()
    }
}

/// Whether packets can pass.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortState {
    /// They can.
    Up,
    /// They can't: why, in a few words.
    Down(String),
}

/// A port, tunnels and internal ports included.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortStatus {
    /// Its bridge.
    pub bridge: PortName,
    /// Its name.
    pub name: PortName,
    /// Its OpenFlow number.
    pub ofport: OfPort,
    /// `tap`, `netdev`, `internal`, `vxlan`, ...: what `auto` became, not the word `auto`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `tap`, `af_packet`, `af_xdp native zero-copy`, ...; empty where there is none.
    pub backend: String,
    /// Why this type and backend, one short sentence; empty when configured so.
    pub why: String,
    /// Whether packets can pass.
    pub state: PortState,
    /// The device's Ethernet address.
    pub mac: Option<Mac>,
    /// The device's MTU, octets.
    pub mtu: Option<u32>,
    /// The largest MTU at which this port's packets fit every tunnel of the bridge, octets; absent without tunnels.
    pub effective_mtu: Option<u32>,
    /// The VLAN mode, as in `access 10` or `native-untagged 10 trunk 20-29`.
    pub vlan: String,
    /// The network namespace, when it is not the switch's own.
    pub netns: Option<String>,
    /// The device's index in its namespace.
    pub ifindex: Option<u32>,
    /// The worker that receives from it.
    pub worker: Option<u32>,
    /// What it has carried and dropped.
    pub counters: Counters,
}

/// A tunnel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// Its bridge.
    pub bridge: PortName,
    /// Its name.
    pub name: PortName,
    /// Its OpenFlow number.
    pub ofport: OfPort,
    /// The encapsulation.
    #[serde(rename = "type")]
    pub kind: TunnelKind,
    /// The outer source address.
    pub local: Ipv4Addr,
    /// The outer destination address, or `flow`.
    pub remote: Remote,
    /// `map`, or the fixed key.
    pub key: String,
    /// The VNIs that it carries, as in `5010,5020`; empty with a fixed key.
    pub vnis: String,
    /// Whether packets can pass.
    pub state: PortState,
    /// The device that leads to the remote end.
    pub underlay: Option<String>,
    /// The next hop on the way: a gateway, or the remote end itself.
    pub next_hop: Option<Ipv4Addr>,
    /// The next hop's neighbour entry: `reachable 52:54:00:00:00:01`, `resolving`, ...; empty without a next hop.
    pub neighbour: String,
    /// The underlay's MTU, octets.
    pub underlay_mtu: Option<u32>,
    /// The largest MTU of an untagged inner frame that fits, octets.
    pub effective_mtu: Option<u32>,
    /// What it has carried and dropped.
    pub counters: Counters,
}

/// A bridge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BridgeStatus {
    /// Its name.
    pub name: PortName,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// Whether it has an internal port.
    pub internal: bool,
    /// How many ports it has; tunnels and the internal port count too.
    pub ports: u32,
    /// How many of them are tunnels.
    pub tunnels: u32,
    /// How many VLANs are mapped to VNIs.
    pub vnis: u32,
    /// Entries in the FDB.
    pub fdb_entries: u64,
    /// As many as it may have.
    pub fdb_size: u64,
    /// Seconds until an entry that is not heard of goes; 0 is never.
    pub fdb_ageing: u64,
    /// Stations that changed their port since the bridge was added.
    pub fdb_moves: u64,
    /// Stations that were forgotten to make room for others, because the FDB was full.
    pub fdb_full: u64,
}

/// One station of an FDB.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FdbEntry {
    /// The bridge.
    pub bridge: PortName,
    /// The port's name.
    pub port: PortName,
    /// The port's OpenFlow number.
    pub ofport: OfPort,
    /// The VLAN, 0 for none.
    pub vlan: Vid,
    /// The station.
    pub mac: Mac,
    /// Seconds since it was last heard of; 0 for a static entry.
    pub age_s: u64,
    /// Configured, not learned.
    #[serde(rename = "static")]
    pub fixed: bool,
    /// How often it changed its port.
    pub moves: u64,
}

/// One line of a VLAN-to-VNI map.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VniEntry {
    /// The bridge.
    pub bridge: PortName,
    /// The VLAN.
    pub vlan: Vid,
    /// Its VNI.
    pub vni: TunnelKey,
    /// The tunnels that carry it.
    pub tunnels: Vec<PortName>,
}

/// The flow cache of one worker.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CacheStatus {
    /// The worker.
    pub worker: u32,
    /// Cached flows.
    pub entries: u64,
    /// As many as there is room for.
    pub capacity: u64,
    /// Packets that found their flow.
    pub hits: u64,
    /// Packets that did not.
    pub misses: u64,
    /// Misses because something that the flow depended on had changed.
    pub stale: u64,
    /// Of the misses, packets that began a connection as others had before them, without a walk.
    #[serde(default)]
    pub begun: u64,
    /// Packets whose flow was not cached because those of their port are hardly met again.
    #[serde(default)]
    pub uncached: u64,
    /// Flows that had to make room for others.
    pub evictions: u64,
    /// Compiled programs.
    pub programs: u64,
}

/// One worker.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Which, from 0.
    pub index: u32,
    /// The CPU that it is pinned to.
    pub cpu: Option<u32>,
    /// `busy`, `polling`, `sleeping` or `blocked`.
    pub state: String,
    /// How much of its time went into packets since the last time it was asked, or the last second: 0 to 100.
    pub busy_percent: f64,
    /// Bursts that had a packet.
    pub bursts: u64,
    /// Packets received.
    pub packets: u64,
    /// Time stamp counter cycles per packet, of the busy time.
    pub cycles_per_packet: f64,
    /// Packets that wait for a neighbour of the underlay.
    #[serde(default)]
    pub held: u64,
    /// The ports that it receives from.
    pub ports: Vec<PortName>,
}

/// A device of the host that carries this switch's tunnel packets, and belongs to the host for all else.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// The device's name.
    pub device: String,
    /// `af_xdp native` or `af_xdp generic`.
    pub backend: String,
    /// Why this one.
    pub why: String,
    /// The device's index.
    pub ifindex: u32,
    /// Its MTU, octets.
    pub mtu: u32,
    /// The worker that receives from it.
    pub worker: Option<u32>,
    /// Tunnel packets that it has carried and dropped.
    pub counters: Counters,
}

/// The whole switch on one screen.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SwitchStatus {
    /// weftd's version.
    pub version: String,
    /// weftd's process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Frames of the pool.
    pub frames: u64,
    /// Frames of them that nobody uses.
    pub frames_free: u64,
    /// The bridges.
    pub bridges: Vec<BridgeStatus>,
    /// Their ports, tunnels and internal ports included.
    pub ports: Vec<PortStatus>,
    /// The tunnels.
    pub tunnels: Vec<TunnelStatus>,
    /// The devices that carry them.
    #[serde(default)]
    pub uplinks: Vec<UplinkStatus>,
    /// The VLAN-to-VNI maps.
    pub vnis: Vec<VniEntry>,
    /// The workers.
    pub workers: Vec<WorkerStatus>,
    /// Their flow caches.
    pub caches: Vec<CacheStatus>,
}
