//! What is published: the switch's configuration as workers see it, immutable, replaced as a whole.
//!
//! The control thread describes what it wants ([`Model`]); [`crate::publish::Publisher`] makes a [`Snapshot`] of it, in
//! which each thing carries the epoch that decisions on it depend on. A snapshot is published *before* its epochs
//! advance: a worker that still has the old one notes old epochs, which do not hold; it looks again and finds the new.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use weft_wire::{Mac, OfPort, TunnelKind, Vid};

use crate::epoch::Dep;
use crate::fdb::Fdb;
use crate::key::{Ingress, KeyMask, PortId, VtepId};
use crate::masks::Seen;
use crate::tables::FlowTables;
use crate::vlan::{PriorityTags, VlanMode, VlanSet};

/// The number of a bridge of this process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BridgeId(pub u16);

impl BridgeId {
    /// How many bridges a process has at most.
    pub const COUNT: usize = 256;
}

/// A bridge, as the control plane describes it.
#[derive(Clone, Debug)]
pub struct BridgeSpec {
    /// Its number.
    pub id: BridgeId,
    /// Its name, for people.
    pub name: Box<str>,
    /// Its forwarding database.
    pub fdb: Arc<Fdb>,
    /// Whether frames to 01:80:c2:00:00:0x are forwarded.
    pub forward_reserved: bool,
    /// Which VLANs travel through tunnels, under which key.
    pub vnis: Vec<(Vid, u32)>,
    /// Its flow tables, groups and meters.
    pub flows: Arc<FlowTables>,
}

impl PartialEq for BridgeSpec {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
            && self.name == other.name
            && Arc::ptr_eq(&self.fdb, &other.fdb)
            && self.forward_reserved == other.forward_reserved
            && self.vnis == other.vnis
            && Arc::ptr_eq(&self.flows, &other.flows)
    }
}

/// A port, as the control plane describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortSpec {
    /// Its number in this process.
    pub id: PortId,
    /// Its number on its bridge.
    pub ofport: OfPort,
    /// Its name, for people.
    pub name: Box<str>,
    /// Its bridge; an uplink has none.
    pub bridge: Option<BridgeId>,
    /// How it treats VLAN tags.
    pub vlan: VlanMode,
    /// Whether it emits priority tags.
    pub priority_tags: PriorityTags,
    /// Protected ports don't talk to each other.
    pub protected: bool,
    /// Whether frames can leave by it.
    pub up: bool,
    /// Which of weft's own tables its packets go through.
    pub guard: Guard,
    /// What is behind it.
    pub kind: PortKind,
}

/// Which of weft's own tables a port's packets go through: port security and security groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Guard {
    /// What comes in by it: from [`TableId::FROM_GUARDED`](crate::tables::TableId::FROM_GUARDED) on.
    pub from: bool,
    /// What is to leave by it: from [`TableId::TO_GUARDED`](crate::tables::TableId::TO_GUARDED) on.
    pub to: bool,
}

/// What is behind a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortKind {
    /// A queue of its own.
    Device,
    /// A remote tunnel end (or all those that rules name), reached through an uplink.
    Tunnel(TunnelSpec),
    /// One end of a pair: what leaves by it comes in by its peer. `None` while there is no peer.
    Patch(Option<PortId>),
    /// The underlay: it carries this switch's tunnel packets and nothing else.
    Uplink,
}

/// Where a tunnel leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remote {
    /// To this address; [`TunnelSpec::path`] says how.
    Fixed(Ipv4Addr),
    /// Out, where the flow says (`tun_dst`), by a path of [`Model::routes`]; in, from anywhere.
    Flow,
}

impl From<Ipv4Addr> for Remote {
    fn from(address: Ipv4Addr) -> Self {
        Remote::Fixed(address)
    }
}

/// A local address, and a remote one that packets go to because rules say so.
pub type Route = (Ipv4Addr, Ipv4Addr);

/// A tunnel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TunnelSpec {
    /// The encapsulation.
    pub kind: TunnelKind,
    /// Our end.
    pub local: Ipv4Addr,
    /// The other end.
    pub remote: Remote,
    /// Which keys, and what they mean.
    pub key: TunnelKeys,
    /// Time to live of the outer header.
    pub ttl: u8,
    /// Type of service of the outer header (ECN bits 0: they always come from the inner one); `None` inherits it.
    pub tos: Option<u8>,
    /// Don't-fragment bit of the outer header.
    pub df: bool,
    /// VXLAN's UDP destination port.
    pub udp_port: u16,
    /// Whether the UDP or GRE checksum is filled in.
    pub checksum: bool,
    /// How to get there, if there is one place.
    pub path: Path,
}

/// What a tunnel's keys mean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TunnelKeys {
    /// The bridge's VLAN-to-VNI map decides: all of it, or the listed VNIs only.
    Map(Option<Arc<[u32]>>),
    /// One key, in and out; VLAN tags travel inside, as the port's VLAN mode says.
    Fixed(u32),
    /// Any key in; out, what the flow says (`set_tunnel`). VLAN tags travel inside, as the port's VLAN mode says.
    Flow,
}

/// How to reach a tunnel's remote end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Path {
    /// Known: leave by `uplink`, between these Ethernet addresses.
    Ready {
        /// The port to leave by.
        uplink: PortId,
        /// Its address.
        source: Mac,
        /// The next hop's address.
        destination: Mac,
        /// Largest outer IP packet, in octets.
        mtu: u16,
    },
    /// The next hop's address is being looked for.
    Resolving,
    /// The kernel has no way there.
    NoRoute,
}

/// All that the control plane wants.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Bridges by number.
    pub bridges: Vec<BridgeSpec>,
    /// Ports, tunnels and uplinks.
    pub ports: Vec<PortSpec>,
    /// How to get to the remote ends that flows have asked for, at most [`Routes::LIMIT`].
    pub routes: BTreeMap<Route, Path>,
}

/// The ways to the remote ends that flows have asked for, as workers see them.
#[derive(Debug, Default)]
pub struct Routes {
    /// Each way, and what holds as long as it does.
    pub known: HashMap<Route, (Path, Dep)>,
    /// Holds as long as no route comes or goes.
    pub dep: Dep,
}

impl Routes {
    /// How many are kept track of at most.
    pub const LIMIT: usize = 4096;
}

/// A port, as workers see it.
#[derive(Debug)]
pub struct Port {
    /// What was asked for.
    pub spec: PortSpec,
    /// Holds as long as nothing of the port but its path changes.
    pub dep: Dep,
    /// Holds as long as the path does (tunnels only).
    pub path_dep: Dep,
    /// What of a packet from this port can matter.
    pub mask: KeyMask,
    /// The same apart from which connection it belongs to.
    pub apart: KeyMask,
}

impl Port {
    /// Both masks.
    pub fn seen(&self) -> Seen {
        Seen { all: self.mask, apart: self.apart }
    }
}

/// A bridge, as workers see it.
#[derive(Debug)]
pub struct Bridge {
    /// What was asked for.
    pub spec: BridgeSpec,
    /// Holds as long as the bridge's own settings do.
    pub dep: Dep,
    /// Holds as long as its flow tables are the same ones, whatever is in them.
    pub table_dep: Dep,
    /// Holds as long as no port comes, goes or changes.
    pub ports_dep: Dep,
    /// By VLAN: what a decision depends on that reads the VLAN's members or its VNI.
    pub vlan_deps: Arc<[Dep]>,
    /// Its ports, tunnels included, in order of their ofports.
    pub ports: Vec<PortId>,
    /// The VNI of a VLAN.
    pub vni_of: HashMap<Vid, u32>,
    /// The VLAN of a VNI.
    pub vid_of: HashMap<u32, Vid>,
}

/// A local tunnel address and kind.
#[derive(Debug, Clone)]
pub struct Vtep {
    /// Its number.
    pub id: VtepId,
    /// The address.
    pub local: Ipv4Addr,
    /// The encapsulation.
    pub kind: TunnelKind,
    /// VXLAN's UDP port; 0 for GRE.
    pub udp_port: u16,
    /// Holds as long as no tunnel of this VTEP comes or goes, and no key gets or loses a meaning.
    pub dep: Dep,
    /// The union over its tunnel ports.
    pub mask: KeyMask,
    /// The same apart from which connection a packet belongs to.
    pub apart: KeyMask,
    /// Tunnel ports by remote address and fixed key; `None` for those that take any address, and for those that go by
    /// their bridge's map or by the flow.
    pub tunnels: HashMap<(Option<u32>, Option<u32>), Vec<PortId>>,
}

/// The switch as workers see it. See the module's text.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts publications.
    pub generation: u64,
    /// Ports by number.
    pub ports: Vec<Option<Arc<Port>>>,
    /// Bridges by number.
    pub bridges: Vec<Option<Arc<Bridge>>>,
    /// Local tunnel ends.
    pub vteps: Vec<Vtep>,
    /// The ways to remote ends that flows name.
    pub routes: Routes,
    /// What `check_pkt_larger` actions compare with, ascending. A key's length class counts those that a packet is
    /// larger than.
    pub lengths: Vec<u16>,
}

impl Snapshot {
    /// The port of that number.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&Arc<Port>> {
        self.ports.get(id.index())?.as_ref()
    }

    /// The bridge of that number.
    #[inline]
    pub fn bridge(&self, id: BridgeId) -> Option<&Arc<Bridge>> {
        self.bridges.get(id.0 as usize)?.as_ref()
    }

    /// Which bits of packets that come in there count.
    pub fn mask(&self, ingress: Ingress) -> Option<&KeyMask> {
        match ingress.decode() {
            Ok(port) => self.port(port).map(|port| &port.mask),
            Err(vtep) => self.vtep(vtep).map(|vtep| &vtep.mask),
        }
    }

    /// Which of these bits count apart from which connection a packet belongs to.
    pub fn mask_apart(&self, ingress: Ingress) -> Option<&KeyMask> {
        match ingress.decode() {
            Ok(port) => self.port(port).map(|port| &port.apart),
            Err(vtep) => self.vtep(vtep).map(|vtep| &vtep.apart),
        }
    }

    /// How many of the lengths that packets are compared with a packet of `octets` exceeds.
    #[inline]
    pub fn length_class(&self, octets: usize) -> u64 {
        self.lengths.iter().filter(|&&length| octets > usize::from(length)).count() as u64
    }

    /// How to get to a tunnel's end, and where that is: to `remote`, if the tunnel leaves it to the flow. What nobody has
    /// looked for yet is being looked for.
    pub fn way<'a>(
        &'a self,
        tunnel: &'a TunnelSpec,
        remote: Option<Ipv4Addr>,
    ) -> Option<(Ipv4Addr, &'a Path)> {
        match tunnel.remote {
            Remote::Fixed(remote) => Some((remote, &tunnel.path)),
            Remote::Flow => {
                let remote = remote?;
                let known = self.routes.known.get(&(tunnel.local, remote));
                Some((remote, known.map_or(&Path::Resolving, |(path, _)| path)))
            }
        }
    }

    /// The VTEP of that number.
    #[inline]
    pub fn vtep(&self, id: VtepId) -> Option<&Vtep> {
        self.vteps.iter().find(|vtep| vtep.id == id)
    }
}

impl Bridge {
    /// The port of that ofport.
    pub fn by_ofport<'a>(&self, snapshot: &'a Snapshot, ofport: OfPort) -> Option<&'a Arc<Port>> {
        self.ports.iter().filter_map(|&id| snapshot.port(id)).find(|port| port.spec.ofport == ofport)
    }
}

impl PortSpec {
    /// The tunnel, if it is one.
    #[inline]
    pub fn tunnel(&self) -> Option<&TunnelSpec> {
        match &self.kind {
            PortKind::Tunnel(tunnel) => Some(tunnel),
            PortKind::Device | PortKind::Patch(_) | PortKind::Uplink => None,
        }
    }

    /// Whether stations behind the port can be in `vid`. (What a tunnel by map carries is the bridge's matter.)
    pub fn has_vlan(&self, vid: Vid) -> bool {
        match self.tunnel().map(|tunnel| &tunnel.key) {
            Some(TunnelKeys::Map(_)) => true,
            Some(TunnelKeys::Fixed(_) | TunnelKeys::Flow) | None => self.vlan.has(vid),
        }
    }

    /// Whether an untagged frame gets its VLAN from the port: from its VLAN mode, or from the bridge's VNI map.
    pub fn assigns_vlan(&self) -> bool {
        self.tunnel().is_some_and(|tunnel| matches!(tunnel.key, TunnelKeys::Map(_))) || self.vlan.assigns()
    }

    /// The VLANs of its bridge that are flooded to it, given the bridge's VLANs that have a VNI.
    pub fn member_vlans(&self, vnis: &[(Vid, u32)]) -> VlanSet {
        match self.tunnel().map(|tunnel| &tunnel.key) {
            Some(TunnelKeys::Map(only)) => vnis
                .iter()
                .filter(|(_, vni)| only.as_ref().is_none_or(|only| only.contains(vni)))
                .map(|&(vid, _)| vid)
                .collect(),
            Some(TunnelKeys::Fixed(_) | TunnelKeys::Flow) | None => self.vlan.vlans(),
        }
    }
}

impl TunnelSpec {
    /// Whether the tunnel carries `vni`, which the bridge's map has.
    pub fn carries_vni(&self, vni: u32) -> bool {
        match &self.key {
            TunnelKeys::Map(only) => only.as_ref().is_none_or(|only| only.contains(&vni)),
            TunnelKeys::Fixed(_) | TunnelKeys::Flow => false,
        }
    }

    /// The largest IP packet that fits the tunnel, in octets: what a VM's MTU has to be at most (`mtu` is the path's).
    /// Under a fixed key the inner frame may carry a VLAN tag, for which room is left.
    pub fn inner_mtu(&self, mtu: u16) -> u16 {
        let tag = match self.key {
            TunnelKeys::Fixed(_) | TunnelKeys::Flow => 4,
            TunnelKeys::Map(_) => 0,
        };
        usize::from(mtu).saturating_sub(self.overhead() + 14 + tag) as u16
    }

    /// Octets in front of the inner frame, without the outer Ethernet header.
    pub fn overhead(&self) -> usize {
        let checksum = if self.kind == TunnelKind::Gre && self.checksum { 4 } else { 0 };
        self.kind.overhead_ipv4() + checksum
    }
}
