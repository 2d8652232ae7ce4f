//! `[[bridge.port]]`: a port of a bridge that is not a tunnel.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use weft_wire::{Mac, OfPort, PortName, Vid};

use crate::acl::{Decision, GroupName, List, Pairs};
use crate::validate::Problem;
use crate::value::{Bounded, Netns, is_default, optional, scalar, words};
use crate::vlan::{PriorityTags, Trunks, VlanMode, VlanModeName};

/// The MTU of a port: the largest Ethernet payload, in octets, VLAN tag not counted.
pub type Mtu = Bounded<68, 9600, 1500>;

/// FDB entries that may be learned at a port.
pub type FdbLimit = Bounded<1, 1_000_000, 1_000_000>;

/// What stands behind a port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum PortType {
    /// An existing netdev of the port's name, by the backend that is correct for it.
    #[default]
    Auto,
    /// A tap device that weft makes.
    Tap,
    /// A netdev that exists, or will.
    Netdev,
    /// A device of the host's own stack, made by weft.
    Internal,
    /// A pcap file's packets come in; what is sent to it is counted and gone.
    Replay,
    /// What is sent to it goes to a pcap file; nothing comes in.
    Capture,
    /// What is sent to it is counted and gone; nothing comes in.
    Null,
    /// Queues in memory, for tests.
    Memory,
    /// One end of a pair: what leaves by it comes in by its peer.
    Patch,
}

words!(PortType, "a port type: auto, tap, netdev, internal, replay, capture, null, memory or patch",
    "auto" => Auto, "tap" => Tap, "netdev" => Netdev, "internal" => Internal,
    "replay" => Replay, "capture" => Capture, "null" => Null, "memory" => Memory,
    "patch" => Patch);

/// How packets travel between weft and an existing netdev.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Backend {
    /// The best one that is correct for the device.
    #[default]
    Auto,
    /// Packet sockets (packet(7)).
    AfPacket,
    /// AF_XDP sockets.
    AfXdp,
}

words!(Backend, "a backend: auto, af_packet or af_xdp", "auto" => Auto, "af_packet" => AfPacket, "af_xdp" => AfXdp);

/// A port of a bridge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Unique in the switch; the device's name where there is one.
    #[serde(deserialize_with = "scalar")]
    pub name: PortName,
    /// What stands behind the port.
    #[serde(rename = "type", default, skip_serializing_if = "is_default")]
    pub kind: PortType,
    /// How to reach an existing netdev.
    #[serde(default, skip_serializing_if = "is_default")]
    pub backend: Backend,
    /// The network namespace of the device; the switch's own when absent.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub netns: Option<Netns>,
    /// The MTU to set; the device's own when absent.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// The tap stays when the switch ends.
    #[serde(default, deserialize_with = "scalar", skip_serializing_if = "is_default")]
    pub persistent: bool,
    /// The Ethernet address of the device; the kernel chooses when absent.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The OpenFlow number, 1 to 65279; given by the switch when absent, and kept from then on.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub ofport: Option<OfPort>,
    /// The VLAN mode as written, see [`Port::vlan_mode`].
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub mode: Option<VlanModeName>,
    /// The VLAN of an access port, or the native VLAN.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vid>,
    /// The VLANs of a trunk.
    #[serde(default, skip_serializing_if = "is_default")]
    pub trunks: Trunks,
    /// Whether a packet without a VLAN leaves with a priority tag.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority_tags: PriorityTags,
    /// A protected port exchanges no packets with other protected ports.
    #[serde(default, deserialize_with = "scalar", skip_serializing_if = "is_default")]
    pub protected: bool,
    /// The pcap file of a replay or capture port.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// A replay port starts again at its file's end.
    #[serde(rename = "loop", default, deserialize_with = "scalar", skip_serializing_if = "is_default")]
    pub repeat: bool,
    /// The patch port at the other end, which has to name this one; it need not exist yet.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub peer: Option<PortName>,
    /// The security groups that it is bound to: what they permit may pass, and nothing else.
    #[serde(default, skip_serializing_if = "is_default")]
    pub acl: List<GroupName>,
    /// What becomes of what it sends and no rule of its groups is about.
    #[serde(default, skip_serializing_if = "is_default")]
    pub acl_egress: Decision,
    /// Lets IGMP and MLD pass a port that is bound to groups.
    #[serde(default, deserialize_with = "scalar", skip_serializing_if = "is_default")]
    pub acl_multicast: bool,
    /// FDB entries that may be learned at it; as many as there is room for when absent.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub fdb_limit: Option<FdbLimit>,
    /// The addresses that it may send from; all when there are none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub port_security: Pairs,
}

impl Port {
    /// A port of that name and type, everything else as by default.
    pub fn new(name: PortName, kind: PortType) -> Self {
        Port {
            name,
            kind,
            backend: Backend::Auto,
            netns: None,
            mtu: None,
            persistent: false,
            mac: None,
            ofport: None,
            mode: None,
            vlan: None,
            trunks: Trunks::default(),
            priority_tags: PriorityTags::No,
            protected: false,
            file: None,
            repeat: false,
            peer: None,
            acl: List::default(),
            acl_egress: Decision::Deny,
            acl_multicast: false,
            fdb_limit: None,
            port_security: Pairs::default(),
        }
    }

    /// What `mode`, `vlan` and `trunks` mean together; never fails on a valid configuration.
    pub fn vlan_mode(&self) -> Result<VlanMode, Problem> {
        VlanMode::resolve(self.mode, self.vlan, &self.trunks)
    }
}
