//! The cases of the comparison: ports, tunnels and the VLAN that the packets are in.

use std::fs::File;
use std::io::BufReader;
use std::net::Ipv4Addr;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use weft_core::key::PortId;
use weft_core::snapshot::{BridgeId, Path, PortKind, PortSpec, TunnelKeys, TunnelSpec};
use weft_core::tables::{Change, FlowTables};
use weft_core::vlan::{PriorityTags, VlanMode, VlanSet};
use weft_flow::message::{FlowCommand, FlowMod};
use weft_flow::text::{NoNames, PortNames, parse_flow, parse_flows};
use weft_flow::{Field, Match};
use weft_wire::{Mac, OfPort, TunnelKind, Vid};

use crate::groups::{self, Far};
use crate::{Failure, frames};

/// What the switch does with the packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Case {
    /// Receive and free, no switching.
    Bare,
    /// One bridge, NORMAL, between two ports that trunk all VLANs.
    L2,
    /// As L2, with a rule that reads addresses and ports, so that each connection is a flow.
    Tuples,
    /// As L2, behind a stateful access list: known connections pass, new ones to four ports are committed.
    Stateful,
    /// The same, and all connections are forgotten between two passes over the packets: what each first packet costs.
    NewConnections,
    /// 1,000 ports in 50 security groups that name each other: between two of them.
    Groups,
    /// The same, from one of them to a port without a guard.
    GroupsOut,
    /// What each first packet costs between two of the ports.
    NewGroups,
    /// What each first packet costs from one of them to a port without a guard.
    NewGroupsOut,
    /// From an access port to a trunk.
    Push,
    /// From a trunk to an access port.
    Pop,
    /// From an access port into a VXLAN tunnel.
    VxlanEncap,
    /// From the underlay, out of a VXLAN tunnel.
    VxlanDecap,
    /// From an access port into a GRE tunnel.
    GreEncap,
    /// From the underlay, out of a GRE tunnel.
    GreDecap,
    /// From an access port, unknown destination, to two trunks.
    Flood2,
}

/// Where the packets come in.
pub const IN: PortId = PortId(0);
/// Where they leave.
pub const OUT: PortId = PortId(1);
/// Where a flood's copies leave.
pub const SECOND_OUT: PortId = PortId(2);
/// The tunnel, in the cases with one.
pub const TUNNEL: PortId = PortId(3);
/// The one bridge.
pub const BRIDGE: BridgeId = BridgeId(0);
/// The tenant's VLAN.
pub const VLAN: Vid = Vid::from_tci(100);
/// ... and its key in the tunnels.
pub const VNI: u32 = 100;
/// Both ends of the tunnels.
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(172, 31, 1, 1);
/// See [`LOCAL`].
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(172, 31, 1, 2);

impl Case {
    /// The VLAN of the packets on the bridge.
    pub fn vlan(self) -> Vid {
        let untagged = [Case::L2, Case::Tuples, Case::Stateful, Case::NewConnections];
        if untagged.contains(&self) || self.groups().is_some() { Vid::NONE } else { VLAN }
    }

    /// Of the cases with security groups: whether the far port is in one.
    pub fn groups(self) -> Option<Far> {
        match self {
            Case::Groups | Case::NewGroups => Some(Far::Guarded),
            Case::GroupsOut | Case::NewGroupsOut => Some(Far::Open),
            _ => None,
        }
    }

    /// Whether all connections are forgotten between two passes over the packets.
    pub fn forgets(self) -> bool {
        matches!(self, Case::NewConnections | Case::NewGroups | Case::NewGroupsOut)
    }

    /// The stations that are known, and the ports that they are behind; none in a flood.
    pub fn stations(self) -> Vec<(Mac, PortId)> {
        let behind = |port| frames::destinations().map(|mac| (mac, port)).collect();
        match self {
            Case::Flood2 => Vec::new(),
            Case::VxlanEncap | Case::GreEncap => behind(TUNNEL),
            _ if self.groups().is_some() => [IN, OUT].map(|port| (groups::mac(port), port)).into(),
            _ => behind(OUT),
        }
    }

    /// The rules of the bridge.
    pub fn flows(self) -> Result<Arc<FlowTables>, Failure> {
        if let Some(far) = self.groups() {
            return groups::flows(far);
        }
        if matches!(self, Case::Stateful | Case::NewConnections) {
            return Ok(stateful());
        }
        let tables = FlowTables::normal();
        if self == Case::Tuples {
            // UDP over IPv4 from 192.0.2.1, port 9, to 192.0.2.2, port 9: nobody's.
            let matches = [
                (Field::EthType, 0x0800),
                (Field::NwProto, 17),
                (Field::IpSrc, 0xc000_0201),
                (Field::IpDst, 0xc000_0202),
                (Field::UdpSrc, 9),
                (Field::UdpDst, 9),
            ]
            .into_iter()
            .fold(Match::any(), |matches, (field, value)| matches.with(field, value));
            let rule = Change::Flow(FlowMod { priority: 1, matches, ..FlowMod::default() });
            tables.prepare(&[rule], Duration::ZERO)?.commit();
        }
        Ok(tables)
    }

    /// How many packets leave for one that comes in.
    pub fn copies(self) -> u64 {
        if self == Case::Flood2 { 2 } else { 1 }
    }

    /// The ports of the case.
    pub fn ports(self) -> Result<Vec<PortSpec>, Failure> {
        if let Some(far) = self.groups() {
            return groups::ports(far);
        }
        let (access, trunk) = (|| VlanMode::Access(VLAN), || VlanMode::Trunk(VlanSet::from_iter([VLAN])));
        let everything = || VlanMode::Trunk(VlanSet::all());
        let uplink =
            |id, name| PortSpec { bridge: None, kind: PortKind::Uplink, ..port(id, name, everything()) };
        let tunnel =
            |kind| PortSpec { kind: PortKind::Tunnel(tunnel(kind)), ..port(TUNNEL, "tun0", everything()) };
        Ok(match self {
            Case::Push => vec![port(IN, "in", access()), port(OUT, "out", trunk())],
            Case::Pop => vec![port(IN, "in", trunk()), port(OUT, "out", access())],
            Case::Flood2 => {
                vec![port(IN, "in", access()), port(OUT, "out", trunk()), port(SECOND_OUT, "out2", trunk())]
            }
            Case::VxlanEncap => {
                vec![port(IN, "in", access()), uplink(OUT, "out"), tunnel(TunnelKind::Vxlan)]
            }
            Case::GreEncap => vec![port(IN, "in", access()), uplink(OUT, "out"), tunnel(TunnelKind::Gre)],
            Case::VxlanDecap => {
                vec![uplink(IN, "in"), port(OUT, "out", access()), tunnel(TunnelKind::Vxlan)]
            }
            Case::GreDecap => vec![uplink(IN, "in"), port(OUT, "out", access()), tunnel(TunnelKind::Gre)],
            _ => vec![port(IN, "in", everything()), port(OUT, "out", everything())],
        })
    }
}

/// What rules call the ports.
struct Names;

impl PortNames for Names {
    fn number(&self, name: &str) -> Option<OfPort> {
        let id = match name {
            "in0" => IN,
            "out0" => OUT,
            _ => return None,
        };
        Some(OfPort(id.0 + 1))
    }

    fn name(&self, _: OfPort) -> Option<&str> {
        None
    }
}

/// Flow tables with the rules of a file, as `ovs-ofctl add-flows` reads it; ports are in0 and out0.
pub fn tables(path: &FilePath) -> Result<Arc<FlowTables>, Failure> {
    let rules = parse_flows(BufReader::new(File::open(path)?), FlowCommand::Add, &Names)?;
    let changes: Vec<Change> = rules.into_iter().map(Change::Flow).collect();
    let tables = FlowTables::new();
    tables.prepare(&changes, Duration::ZERO)?.commit();
    Ok(tables)
}

/// The rules that Open vSwitch has in the comparison: established and related connections pass, new ones to four ports do
/// and are committed, all else is dropped.
fn stateful() -> Arc<FlowTables> {
    let fixed = [
        "table=0,priority=10,ip,ct_state=-trk,actions=ct(table=1,zone=1)",
        "table=0,priority=5,arp,actions=NORMAL",
        "table=1,priority=30,ip,ct_state=+trk+inv,actions=drop",
        "table=1,priority=20,ip,ct_state=+trk+est,actions=NORMAL",
        "table=1,priority=20,ip,ct_state=+trk+rel,actions=NORMAL",
        "table=1,priority=0,actions=drop",
    ];
    let opened = ["udp", "tcp"].into_iter().flat_map(|protocol| {
        [53, 80, 443, 8080].map(|port| {
            format!(
                "table=1,priority=10,{protocol},ct_state=+trk+new,tp_dst={port},actions=ct(commit,zone=1),NORMAL"
            )
        })
    });
    let lines = fixed.into_iter().map(str::to_owned).chain(opened);
    let rules = lines.filter_map(|line| parse_flow(&line, FlowCommand::Add, &NoNames).ok());
    let rules: Vec<Change> = rules.map(Change::Flow).collect();
    let tables = FlowTables::new();
    if let Ok(prepared) = tables.prepare(&rules, Duration::ZERO) {
        prepared.commit();
    }
    tables
}

/// A port of the bridge.
pub fn port(id: PortId, name: &str, vlan: VlanMode) -> PortSpec {
    PortSpec {
        id,
        ofport: OfPort(id.0 + 1),
        name: name.into(),
        bridge: Some(BRIDGE),
        vlan,
        priority_tags: PriorityTags::Never,
        guard: Default::default(),
        protected: false,
        up: true,
        kind: PortKind::Device,
    }
}

/// The tunnel of the case, its next hop known.
pub fn tunnel(kind: TunnelKind) -> TunnelSpec {
    TunnelSpec {
        kind,
        local: LOCAL,
        remote: REMOTE.into(),
        key: TunnelKeys::Map(None),
        ttl: 64,
        tos: Some(0),
        df: true,
        udp_port: 4789,
        checksum: false,
        path: Path::Ready {
            uplink: OUT,
            source: Mac([2, 0, 0, 0, 1, 1]),
            destination: Mac([2, 0, 0, 0, 1, 2]),
            mtu: 1600,
        },
    }
}
