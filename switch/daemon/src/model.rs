//! From the configuration, and what is open, to what the dataplane is told.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_config::model::Bridge;
use weft_config::port::{Port, PortType};
use weft_config::tunnel::{KeyMode, Remote, Tos, Tunnel};
use weft_config::value::NumberSet;
use weft_config::vlan;
use weft_core::snapshot::{self, BridgeSpec, Guard, Model, Path, PortKind, PortSpec, TunnelKeys, TunnelSpec};
use weft_core::vlan::{PriorityTags, VlanMode, VlanSet};
use weft_io::netlink::Pair;
use weft_io::xdp::Endpoint;
use weft_wire::{OfPort, PortName, TunnelKind, Vid};

use crate::switch::{BridgeState, Live, PortState, Switch};
use crate::underlay::Ends;

impl Switch {
    /// What the dataplane is to be.
    pub(crate) fn model(&self) -> Model {
        let mut model = Model::default();
        for bridge in &self.config.bridges {
            let Some(state) = self.bridges.get(&bridge.name) else { continue };
            model.bridges.push(bridge_spec(bridge, state));
            model.ports.extend(self.internal_spec(bridge, state));
            model.ports.extend(bridge.ports.iter().filter_map(|port| self.port_spec(port, state)));
            model
                .ports
                .extend(bridge.tunnels.iter().filter_map(|tunnel| self.tunnel_spec(tunnel, bridge, state)));
        }
        model.routes = self.underlay.routes().collect();
        model.ports.extend(self.underlay.uplinks().map(|uplink| PortSpec {
            id: uplink.id,
            ofport: OfPort(0),
            name: uplink.name.as_str().into(),
            bridge: None,
            vlan: VlanMode::Trunk(VlanSet::none()),
            priority_tags: PriorityTags::Never,
            guard: Guard::default(),
            protected: false,
            up: true,
            kind: PortKind::Uplink,
        }));
        model
    }

    fn port_spec(&self, port: &Port, bridge: &BridgeState) -> Option<PortSpec> {
        let state = self.ports.get(&port.name)?;
        Some(PortSpec {
            // Validation has made sure of both.
            vlan: port.vlan_mode().map(|mode| vlan_mode(&mode)).ok()?,
            ofport: port.ofport?,
            priority_tags: priority_tags(port.priority_tags),
            protected: port.protected,
            guard: crate::acl::guard(port),
            ..match state.live {
                Live::Patch => self.patch_spec(state, port, bridge),
                _ => device_spec(state, &port.name, bridge),
            }
        })
    }

    fn patch_spec(&self, state: &PortState, port: &Port, bridge: &BridgeState) -> PortSpec {
        let peer = match self.patch_problem(port) {
            None => port.peer.as_ref().and_then(|peer| self.ports.get(peer)).map(|peer| peer.id),
            Some(_) => None,
        };
        PortSpec { up: peer.is_some(), kind: PortKind::Patch(peer), ..device_spec(state, &port.name, bridge) }
    }

    /// Why a patch port leads nowhere: both ends have to name each other.
    pub(crate) fn patch_problem(&self, port: &Port) -> Option<String> {
        let Some(name) = &port.peer else { return Some("it has no peer".to_owned()) };
        let mut ports = self.config.bridges.iter().flat_map(|bridge| &bridge.ports);
        match ports.find(|other| other.name == *name) {
            None => Some(format!("its peer {name} does not exist")),
            Some(other) if other.kind != PortType::Patch => Some(format!("its peer {name} is no patch port")),
            Some(Port { peer: Some(back), .. }) if *back == port.name => None,
            Some(other) => {
                let back = other.peer.as_ref().map(ToString::to_string).unwrap_or_default();
                Some(format!("its peer {name} is the peer of {back}"))
            }
        }
    }

    fn internal_spec(&self, bridge: &Bridge, state: &BridgeState) -> Option<PortSpec> {
        let port = self.ports.get(&bridge.name).filter(|_| bridge.internal)?;
        Some(device_spec(port, &bridge.name, state))
    }

    fn tunnel_spec(&self, tunnel: &Tunnel, bridge: &Bridge, state: &BridgeState) -> Option<PortSpec> {
        let port = self.ports.get(&tunnel.name)?;
        let spec = TunnelSpec {
            kind: tunnel.kind,
            local: tunnel.local,
            remote: match tunnel.remote {
                Remote::Fixed(address) => snapshot::Remote::Fixed(address),
                Remote::Flow => snapshot::Remote::Flow,
            },
            key: keys(tunnel, bridge),
            ttl: tunnel.ttl.get() as u8,
            tos: match tunnel.tos {
                Tos::Inherit => None,
                Tos::Fixed(octet) => Some(octet),
            },
            df: tunnel.df,
            udp_port: tunnel.udp_port(),
            checksum: tunnel.csum,
            path: ends(tunnel).pair.map_or(Path::NoRoute, |pair| self.underlay.path(pair)),
        };
        Some(PortSpec {
            ofport: tunnel.ofport?,
            vlan: tunnel.vlan_mode().map(|mode| vlan_mode(&mode)).ok()?,
            priority_tags: priority_tags(tunnel.priority_tags),
            up: true,
            kind: PortKind::Tunnel(spec),
            ..device_spec(port, &tunnel.name, state)
        })
    }

    /// The ends of all tunnels.
    pub(crate) fn tunnel_ends(&self) -> BTreeSet<Ends> {
        self.config.bridges.iter().flat_map(|bridge| &bridge.tunnels).map(ends).collect()
    }
}

/// A tunnel's ends in the underlay.
pub(crate) fn ends(tunnel: &Tunnel) -> Ends {
    let local = tunnel.local;
    let endpoint = match tunnel.kind {
        TunnelKind::Vxlan => Endpoint::Vxlan { local, port: tunnel.udp_port() },
        TunnelKind::Gre => Endpoint::Gre { local },
    };
    Ends { pair: tunnel.remote.address().map(|remote| Pair { local, remote }), endpoint }
}

fn bridge_spec(bridge: &Bridge, state: &BridgeState) -> BridgeSpec {
    BridgeSpec {
        id: state.id,
        name: bridge.name.as_str().into(),
        fdb: Arc::clone(&state.fdb),
        forward_reserved: bridge.forward_reserved,
        vnis: bridge.vnis.0.iter().map(|(&vid, vni)| (vid, vni.0)).collect(),
        flows: Arc::clone(&state.flows),
    }
}

/// A port as the dataplane has it when nothing more is said: a trunk of all VLANs.
fn device_spec(port: &PortState, name: &PortName, bridge: &BridgeState) -> PortSpec {
    PortSpec {
        id: port.id,
        ofport: OfPort::LOCAL,
        name: name.as_str().into(),
        bridge: Some(bridge.id),
        vlan: VlanMode::Trunk(VlanSet::all()),
        priority_tags: PriorityTags::Never,
        guard: Guard::default(),
        protected: false,
        up: matches!(port.live, Live::Open(..)),
        kind: PortKind::Device,
    }
}

fn keys(tunnel: &Tunnel, bridge: &Bridge) -> TunnelKeys {
    match tunnel.key {
        KeyMode::Fixed(key) => TunnelKeys::Fixed(key.0),
        KeyMode::Flow => TunnelKeys::Flow,
        KeyMode::Map if tunnel.vnis.is_all() => TunnelKeys::Map(None),
        KeyMode::Map => {
            let mapped = bridge.vnis.0.values().map(|vni| vni.0);
            TunnelKeys::Map(Some(mapped.filter(|&vni| tunnel.vnis.contains(vni)).collect()))
        }
    }
}

fn vlan_mode(mode: &vlan::VlanMode) -> VlanMode {
    match mode {
        vlan::VlanMode::Access(vid) => VlanMode::Access(*vid),
        vlan::VlanMode::Trunk(trunks) => VlanMode::Trunk(vlan_set(trunks)),
        vlan::VlanMode::NativeTagged { native, trunks } => {
            VlanMode::native(*native, Some(vlan_set(trunks)), true)
        }
        vlan::VlanMode::NativeUntagged { native, trunks } => {
            VlanMode::native(*native, Some(vlan_set(trunks)), false)
        }
    }
}

fn vlan_set(trunks: &NumberSet<4095>) -> VlanSet {
    if trunks.is_all() {
        return VlanSet::all();
    }
    trunks
        .ranges()
        .into_iter()
        .flat_map(|(first, last)| first..=last)
        .map(|vid| Vid::from_tci(vid as u16))
        .collect()
}

fn priority_tags(setting: vlan::PriorityTags) -> PriorityTags {
    match setting {
        vlan::PriorityTags::No => PriorityTags::Never,
        vlan::PriorityTags::Always => PriorityTags::Always,
        vlan::PriorityTags::IfNonzero => PriorityTags::IfNonzero,
    }
}
