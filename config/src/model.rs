//! [`Config`]: everything that an operator can want of a switch.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use weft_wire::{Mac, OfPort, PortName, TunnelKey, Vid};

use crate::acl::Acl;
use crate::conntrack::Conntrack;
use crate::port::Port;
use crate::tunnel::Tunnel;
use crate::value::{Bounded, Quoted, Value, ValueError, is_default, number, optional, scalar, vni, words};

/// Frames of the pool.
pub type Frames = Bounded<1024, 4_194_304, 65_536>;
/// Percent of a worker's time that a port's slow path may take while others need it.
pub type SlowPathShare = Bounded<1, 100, 3>;
/// Flows of a port that a worker caches.
pub type PortFlows = Bounded<1024, 262_144, 262_144>;
/// Entries of a bridge's FDB.
pub type FdbSize = Bounded<1, 1_000_000, 8192>;
/// Seconds until an FDB entry that is not heard of goes; 0 is never. (Open vSwitch allows 15 to 3600.)
pub type FdbAgeing = Bounded<0, 86_400, 300>;

/// The desired state of a switch.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What concerns the process and its workers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub switch: Switch,
    /// The bridges, in the order in which they were added.
    #[serde(rename = "bridge", default, skip_serializing_if = "Vec::is_empty")]
    pub bridges: Vec<Bridge>,
    /// Connections.
    #[serde(default, skip_serializing_if = "is_default")]
    pub conntrack: Conntrack,
    /// Security groups.
    #[serde(default, skip_serializing_if = "Acl::is_empty")]
    pub acl: Acl,
}

impl Config {
    /// The bridge of that name.
    pub fn bridge(&self, name: &str) -> Option<&Bridge> {
        self.bridges.iter().find(|bridge| bridge.name.as_str() == name)
    }

    /// The port of that name, with its bridge.
    pub fn port(&self, name: &str) -> Option<(&Bridge, &Port)> {
        let mut ports =
            self.bridges.iter().flat_map(|bridge| bridge.ports.iter().map(move |port| (bridge, port)));
        ports.find(|(_, port)| port.name.as_str() == name)
    }

    /// The tunnel of that name, with its bridge.
    pub fn tunnel(&self, name: &str) -> Option<(&Bridge, &Tunnel)> {
        let of_bridge = |bridge| move |tunnel| (bridge, tunnel);
        let mut tunnels = self.bridges.iter().flat_map(|bridge| bridge.tunnels.iter().map(of_bridge(bridge)));
        tunnels.find(|(_, tunnel)| tunnel.name.as_str() == name)
    }
}

/// `[switch]`: what concerns the process and its workers. Takes effect when the switch starts, but for the limits, which do at
/// once.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// How many workers, and on which CPUs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub workers: Workers,
    /// Frames of the pool, 4 KiB each.
    #[serde(default, skip_serializing_if = "is_default")]
    pub frames: Frames,
    /// What a worker without packets does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub idle: Idle,
    /// The group that may use the control socket; the daemon's own when absent.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub socket_group: Option<Group>,
    /// Percent of a worker's time that a port's slow path may take while others need it; 100 is no limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub slow_path_share: SlowPathShare,
    /// Flows of a port that a worker caches.
    #[serde(default, skip_serializing_if = "is_default")]
    pub port_flows: PortFlows,
}

/// The key `idle`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Idle {
    /// Spins a little, then sleeps a little, then blocks until a packet comes.
    #[default]
    Auto,
    /// Polls all the time, at 100 % of a CPU.
    Spin,
}

words!(Idle, "auto or spin", "auto" => Auto, "spin" => Spin);

/// The name of a group of users.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct Group(String);

impl Group {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for Group {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let legal = "the name of a group: 1 to 32 printable ASCII characters without ':'";
        let graphic = text.bytes().all(|octet| octet.is_ascii_graphic() && octet != b':');
        if graphic && (1..=32).contains(&text.len()) {
            return Ok(Group(text.to_owned()));
        }
        Err(ValueError::Word { value: Quoted::new(text), legal })
    }
}

/// The key `workers`: a number of workers, or a list with the CPU of each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Workers {
    /// That many, on any CPU; 1 to [`Workers::MAX`].
    Count(u16),
    /// One pinned to each of these CPUs, none twice.
    Cpus(Vec<u16>),
}

impl Workers {
    /// As many workers as a switch may have.
    pub const MAX: u16 = 64;
    /// The highest CPU number.
    pub const MAX_CPU: u16 = 1023;

    /// The CPU of each worker; `None` is any.
    pub fn pins(&self) -> Vec<Option<u16>> {
        match self {
            Workers::Count(count) => vec![None; usize::from(*count)],
            Workers::Cpus(cpus) => cpus.iter().copied().map(Some).collect(),
        }
    }

    fn from_cpus(cpus: Vec<u16>) -> Result<Self, ValueError> {
        let twice = cpus.iter().enumerate().any(|(index, cpu)| cpus[..index].contains(cpu));
        if cpus.is_empty() || cpus.len() > usize::from(Self::MAX) || twice {
            let legal = "a list of 1 to 64 different CPU numbers";
            return Err(ValueError::Word { value: Quoted::new(&Workers::Cpus(cpus).to_string()), legal });
        }
        Ok(Workers::Cpus(cpus))
    }
}

impl Default for Workers {
    fn default() -> Self {
        Workers::Count(1)
    }
}

impl Value for Workers {
    /// `2` are two workers; `[1,3]` are two as well, on CPU 1 and CPU 3.
    fn parse(text: &str) -> Result<Self, ValueError> {
        let Some(list) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
            return number(text, 1, Self::MAX.into()).map(|count| Workers::Count(count as u16));
        };
        let cpus = list.split(',').map(|cpu| Ok(number(cpu.trim(), 0, Self::MAX_CPU.into())? as u16));
        Self::from_cpus(cpus.collect::<Result<_, ValueError>>()?)
    }
}

impl fmt::Display for Workers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Workers::Count(count) => count.fmt(out),
            Workers::Cpus(cpus) => {
                let cpus: Vec<String> = cpus.iter().map(u16::to_string).collect();
                write!(out, "[{}]", cpus.join(","))
            }
        }
    }
}

impl Serialize for Workers {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Workers::Count(count) => out.serialize_u16(*count),
            Workers::Cpus(cpus) => cpus.serialize(out),
        }
    }
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(WorkersVisitor)
    }
}

struct WorkersVisitor;

impl<'de> Visitor<'de> for WorkersVisitor {
    type Value = Workers;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a number of workers or a list of CPU numbers")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Workers, E> {
        Workers::parse(text).map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Workers, E> {
        self.visit_str(&count.to_string())
    }

    fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<Workers, E> {
        self.visit_str(&count.to_string())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Workers, A::Error> {
        let mut cpus = Vec::new();
        while let Some(cpu) = items.next_element::<Bounded<0, { Workers::MAX_CPU as u32 }, 0>>()? {
            cpus.push(cpu.get() as u16);
        }
        Workers::from_cpus(cpus).map_err(A::Error::custom)
    }
}

/// `[[bridge]]`: an Ethernet bridge with its ports.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bridge {
    /// Unique in the switch, among ports and tunnels as well; the name of the internal port's device.
    #[serde(deserialize_with = "scalar")]
    pub name: PortName,
    /// The Ethernet address of the internal port; the kernel's choice, made anew at each start, when absent.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Entries of the FDB.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fdb_size: FdbSize,
    /// Seconds until an FDB entry that is not heard of goes; 0 is never.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fdb_ageing: FdbAgeing,
    /// Forwards 01:80:c2:00:00:00 to 0f as well (Open vSwitch's `forward-bpdu`).
    #[serde(default, deserialize_with = "scalar", skip_serializing_if = "is_default")]
    pub forward_reserved: bool,
    /// The bridge has an internal port: a device of its own name in the host's stack, OpenFlow number LOCAL.
    #[serde(default = "yes", deserialize_with = "scalar", skip_serializing_if = "is_yes")]
    pub internal: bool,
    /// Which VLAN is which VNI in the bridge's tunnels.
    #[serde(default, skip_serializing_if = "is_default")]
    pub vnis: VniMap,
    /// Static entries of the FDB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fdb: Vec<StaticEntry>,
    /// The ports, in the order in which they were added.
    #[serde(rename = "port", default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// The tunnels, in the order in which they were added.
    #[serde(rename = "tunnel", default, skip_serializing_if = "Vec::is_empty")]
    pub tunnels: Vec<Tunnel>,
}

impl Bridge {
    /// A bridge without ports, everything as by default.
    pub fn new(name: PortName) -> Self {
        Bridge {
            name,
            mac: None,
            fdb_size: FdbSize::default(),
            fdb_ageing: FdbAgeing::default(),
            forward_reserved: false,
            internal: true,
            vnis: VniMap::default(),
            fdb: Vec::new(),
            ports: Vec::new(),
            tunnels: Vec::new(),
        }
    }

    /// The OpenFlow number of the port, tunnel or internal port of that name, when it has one.
    pub fn ofport_of(&self, name: &str) -> Option<OfPort> {
        if self.internal && self.name.as_str() == name {
            return Some(OfPort::LOCAL);
        }
        let port = self.ports.iter().find(|port| port.name.as_str() == name).map(|port| port.ofport);
        let tunnel =
            || self.tunnels.iter().find(|tunnel| tunnel.name.as_str() == name).map(|tunnel| tunnel.ofport);
        port.or_else(tunnel).flatten()
    }
}

/// A static FDB entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticEntry {
    /// The VLAN, 0 for none.
    #[serde(deserialize_with = "scalar")]
    pub vlan: Vid,
    /// The station's address.
    #[serde(deserialize_with = "scalar")]
    pub mac: Mac,
    /// The port or tunnel of the bridge, or the bridge itself, behind which the station is.
    #[serde(deserialize_with = "scalar")]
    pub port: PortName,
}

/// Which VLAN is which VNI; no VNI twice in a valid configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VniMap(pub BTreeMap<Vid, TunnelKey>);

impl Serialize for VniMap {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_map(self.0.iter().map(|(vlan, vni)| (vlan.to_string(), vni)))
    }
}

impl<'de> Deserialize<'de> for VniMap {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(VniMapVisitor)
    }
}

/// A VNI as a scalar: a tunnel key of 24 bits.
pub(crate) struct Vni(pub(crate) TunnelKey);

impl Value for Vni {
    fn parse(text: &str) -> Result<Self, ValueError> {
        vni(text).map(Vni)
    }
}

impl<'de> Deserialize<'de> for Vni {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from)
    }
}

struct VniMapVisitor;

impl<'de> Visitor<'de> for VniMapVisitor {
    type Value = VniMap;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a map of VLANs to VNIs, as in { 10 = 5010 }")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<VniMap, A::Error> {
        let mut map = BTreeMap::new();
        while let Some(vlan) = entries.next_key::<String>()? {
            let vlan = Vid::parse(&vlan).map_err(A::Error::custom)?;
            let Vni(vni) = entries.next_value()?;
            if map.insert(vlan, vni).is_some() {
                return Err(A::Error::custom(format_args!("VLAN {vlan} is mapped twice")));
            }
        }
        Ok(VniMap(map))
    }
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}
