//! `[[bridge.tunnel]]`: a remote end that a bridge reaches through the underlay, or all those that its rules name.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use weft_wire::{OfPort, PortName, TunnelKey, TunnelKind, Vid};

use crate::port::FdbLimit;
use crate::validate::Problem;
use crate::value::{Bounded, NumberSet, Quoted, Value, ValueError, is_default, number, optional, scalar};
use crate::vlan::{PriorityTags, Trunks, VlanMode, VlanModeName};

/// The outer IP header's time to live.
pub type Ttl = Bounded<1, 255, 64>;
/// The outer UDP destination port of VXLAN (RFC 7348, section 5).
pub type DstPort = Bounded<1, 65535, 4789>;
/// VNIs, 24 bits each.
pub type Vnis = NumberSet<0x00ff_ffff>;

/// The key `key`: where a packet's tunnel key comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KeyMode {
    /// From the packet's VLAN, by the bridge's VLAN-to-VNI map.
    #[default]
    Map,
    /// One key; the tunnel is then a port with a VLAN mode of its own.
    Fixed(TunnelKey),
    /// Any key in; out, what the rules say (`set_tunnel`). Such a tunnel has a VLAN mode of its own, too.
    Flow,
}

impl Value for KeyMode {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let legal = "a tunnel key: map, flow, or 0 to 16777215 (vxlan) or 4294967295 (gre)";
        match text {
            "map" => Ok(KeyMode::Map),
            "flow" => Ok(KeyMode::Flow),
            _ => TunnelKey::parse(text)
                .map(KeyMode::Fixed)
                .map_err(|_| ValueError::Word { value: Quoted::new(text), legal }),
        }
    }
}

impl fmt::Display for KeyMode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyMode::Map => out.write_str("map"),
            KeyMode::Flow => out.write_str("flow"),
            KeyMode::Fixed(key) => key.fmt(out),
        }
    }
}

impl Serialize for KeyMode {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            KeyMode::Map => out.serialize_str("map"),
            KeyMode::Flow => out.serialize_str("flow"),
            KeyMode::Fixed(key) => out.serialize_u32(key.0),
        }
    }
}

impl<'de> Deserialize<'de> for KeyMode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from)
    }
}

/// The key `remote`: where a tunnel leads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Remote {
    /// To this address.
    Fixed(Ipv4Addr),
    /// Out, where the rules say (`set_field:..->tun_dst`); in, from any address.
    Flow,
}

impl Remote {
    /// The address, if there is one.
    pub fn address(self) -> Option<Ipv4Addr> {
        match self {
            Remote::Fixed(address) => Some(address),
            Remote::Flow => None,
        }
    }
}

impl From<Ipv4Addr> for Remote {
    fn from(address: Ipv4Addr) -> Self {
        Remote::Fixed(address)
    }
}

impl Value for Remote {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let legal = "an IPv4 address, as in 192.0.2.1, or flow";
        match text {
            "flow" => Ok(Remote::Flow),
            _ => Ipv4Addr::parse(text)
                .map(Remote::Fixed)
                .map_err(|_| ValueError::Word { value: Quoted::new(text), legal }),
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remote::Fixed(address) => address.fmt(out),
            Remote::Flow => out.write_str("flow"),
        }
    }
}

impl Serialize for Remote {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Remote {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from)
    }
}

/// The key `tos`: the outer IP header's type of service octet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tos {
    /// Copied from the inner packet if it is IP, else 0.
    Inherit,
    /// This octet; the ECN bits still follow RFC 6040.
    Fixed(u8),
}

impl Default for Tos {
    fn default() -> Self {
        Tos::Fixed(0)
    }
}

impl Value for Tos {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let legal = "a type of service: inherit, or 0 to 255";
        match text {
            "inherit" => Ok(Tos::Inherit),
            _ => number(text, 0, 255)
                .map(|octet| Tos::Fixed(octet as u8))
                .map_err(|_| ValueError::Word { value: Quoted::new(text), legal }),
        }
    }
}

impl Serialize for Tos {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Tos::Inherit => out.serialize_str("inherit"),
            Tos::Fixed(octet) => out.serialize_u8(*octet),
        }
    }
}

impl<'de> Deserialize<'de> for Tos {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from)
    }
}

/// A tunnel to one remote end, or to those that rules name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tunnel {
    /// Unique in the switch.
    #[serde(deserialize_with = "scalar")]
    pub name: PortName,
    /// The encapsulation.
    #[serde(rename = "type", deserialize_with = "scalar")]
    pub kind: TunnelKind,
    /// The outer source address: an address of this host.
    #[serde(deserialize_with = "scalar")]
    pub local: Ipv4Addr,
    /// The outer destination address.
    pub remote: Remote,
    /// Where a packet's key comes from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub key: KeyMode,
    /// Which of the bridge's VNIs the tunnel carries; only with `key = "map"`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub vnis: Vnis,
    /// The outer time to live.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ttl: Ttl,
    /// The outer type of service.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tos: Tos,
    /// Sets the outer "don't fragment" bit.
    #[serde(default = "yes", deserialize_with = "scalar", skip_serializing_if = "is_yes")]
    pub df: bool,
    /// The outer UDP destination port; only with VXLAN, see [`Tunnel::udp_port`].
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub dst_port: Option<DstPort>,
    /// Fills in the outer UDP checksum, or GRE's.
    #[serde(default, deserialize_with = "scalar", skip_serializing_if = "is_default")]
    pub csum: bool,
    /// The OpenFlow number, 1 to 65279; given by the switch when absent, and kept from then on.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub ofport: Option<OfPort>,
    /// The VLAN mode as written, not with `key = "map"`; see [`Tunnel::vlan_mode`].
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub mode: Option<VlanModeName>,
    /// The VLAN of an access port, or the native VLAN; not with `key = "map"`.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vid>,
    /// The VLANs of a trunk; not with `key = "map"`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub trunks: Trunks,
    /// Whether a packet without a VLAN leaves with a priority tag; not with `key = "map"`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority_tags: PriorityTags,
    /// FDB entries that may be learned behind it, of all its remote ends together; as many as there is room for when absent.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub fdb_limit: Option<FdbLimit>,
}

impl Tunnel {
    /// A tunnel of that kind between two addresses, everything else as by default.
    pub fn new(name: PortName, kind: TunnelKind, local: Ipv4Addr, remote: Remote) -> Self {
        Tunnel {
            name,
            kind,
            local,
            remote,
            key: KeyMode::Map,
            vnis: Vnis::default(),
            ttl: Ttl::default(),
            tos: Tos::default(),
            df: true,
            dst_port: None,
            csum: false,
            ofport: None,
            mode: None,
            vlan: None,
            trunks: Trunks::default(),
            priority_tags: PriorityTags::No,
            fdb_limit: None,
        }
    }

    /// The outer UDP destination port of a VXLAN tunnel, 4789 unless configured.
    pub fn udp_port(&self) -> u16 {
        self.dst_port.unwrap_or_default().get() as u16
    }

    /// What `mode`, `vlan` and `trunks` of a tunnel without `key = "map"` mean together.
    pub fn vlan_mode(&self) -> Result<VlanMode, Problem> {
        VlanMode::resolve(self.mode, self.vlan, &self.trunks)
    }
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}
