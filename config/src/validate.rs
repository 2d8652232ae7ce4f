//! What a configuration must hold as a whole, beyond the ranges of its single values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use weft_wire::tunnel::InvalidTunnelKey;
use weft_wire::{Mac, OfPort, PortName, TunnelKey, TunnelKind, Vid};

use crate::acl::{Direction, Ethertype, GroupName, IcmpMatch, Prefix, Protocol, Queries};
use crate::model::{Bridge, Config};
use crate::port::{Backend, Port, PortType};
use crate::tunnel::{KeyMode, Remote, Tunnel};
use crate::value::is_default;
use crate::vlan::VlanModeName;

/// One step of a [`KeyPath`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A table's key.
    Key(String),
    /// A table of an array of tables: its index, and the name that it has.
    Item(usize, String),
}

/// Where in a configuration something is, written `bridge[br0].port[vm1].vlan`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyPath(pub Vec<Step>);

impl KeyPath {
    /// The path of a key in this table.
    pub fn key(&self, key: &str) -> KeyPath {
        self.with(Step::Key(key.to_owned()))
    }

    /// The path of the table `index` of the array `key` in this table.
    pub fn item(&self, key: &str, index: usize, name: &impl fmt::Display) -> KeyPath {
        self.key(key).with(Step::Item(index, name.to_string()))
    }

    fn with(&self, step: Step) -> KeyPath {
        KeyPath([&self.0[..], &[step]].concat())
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if index == 0 => write!(out, "{}", key.escape_debug())?,
                Step::Key(key) => write!(out, ".{}", key.escape_debug())?,
                Step::Item(_, name) => write!(out, "[{}]", name.escape_debug())?,
            }
        }
        Ok(())
    }
}

/// Why a configuration is not valid, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {problem}")]
pub struct Invalid {
    /// Where.
    pub at: KeyPath,
    /// What is wrong there.
    pub problem: Problem,
}

impl Invalid {
    /// The same in a table: where it is there is known.
    fn within(self, table: KeyPath) -> Invalid {
        Invalid { at: KeyPath([table.0, self.at.0].concat()), ..self }
    }
}

/// What can be wrong with a configuration whose single values are all legal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says it")]
pub enum Problem {
    #[error(
        "the name '{name}' is taken by {other}: names of bridges, ports and tunnels are unique in the switch"
    )]
    NameTaken { name: PortName, other: KeyPath },
    #[error("OpenFlow number {ofport} is taken by {other}: numbers are unique in the bridge")]
    OfportTaken { ofport: OfPort, other: PortName },
    #[error(
        "an access port takes no trunks: leave them out, or say mode=native-untagged or mode=native-tagged"
    )]
    AccessWithTrunks,
    #[error("a trunk takes no vlan: leave it out, or say mode=native-untagged or mode=native-tagged")]
    TrunkWithVlan,
    #[error("mode {mode} needs a vlan, 0 to 4095")]
    ModeNeedsVlan { mode: VlanModeName },
    #[error("a port of type {kind} takes no {key}: only {legal} do")]
    KeyOfOtherType { key: &'static str, kind: PortType, legal: &'static str },
    #[error("a port of type {kind} needs a file")]
    NeedsFile { kind: PortType },
    #[error("a port of type patch needs a peer, the name of the patch port at the other end")]
    NeedsPeer,
    #[error("a patch port can't be its own peer")]
    OwnPeer,
    #[error("{mac} is not the address of one station: expected one that is neither a group's nor all zeros")]
    NotAStation { mac: Mac },
    #[error("VNI {vni} is mapped to VLAN {other} already: a VNI belongs to one VLAN of the bridge")]
    VniTaken { vni: TunnelKey, other: Vid },
    #[error("VLAN {vlan} and {mac} have a static entry already")]
    StaticEntryTwice { vlan: Vid, mac: Mac },
    #[error("{count} static entries don't fit an FDB of {size}: raise fdb_size, up to 1000000")]
    TooManyEntries { count: usize, size: u32 },
    #[error("bridge {bridge} has no port '{port}'")]
    NoSuchPort { bridge: PortName, port: PortName },
    #[error("{address} is not the address of one host")]
    NotAHost { address: Ipv4Addr },
    #[error("local and remote are the same, {address}")]
    TunnelToItself { address: Ipv4Addr },
    #[error(transparent)]
    KeyTooLarge(#[from] InvalidTunnelKey),
    #[error("a tunnel of type {kind} takes no {key}: only vxlan does")]
    KeyOfOtherKind { key: &'static str, kind: TunnelKind },
    #[error(
        "a tunnel with key=map takes no {key}: the VLAN-to-VNI map rules its VLANs; say key=flow, or key=0 to 16777215"
    )]
    KeyOfFixed { key: &'static str },
    #[error("a tunnel with key={key} takes no vnis: only key=map does")]
    VnisWithoutMap { key: KeyMode },
    #[error("a tunnel with remote=flow takes no key=map: say key=flow, or key=0 to 16777215")]
    MapToAnywhere,
    #[error("{kind} packets from {} to {local} with any other key belong to tunnel {other} already", sender(*remote))]
    FlowTunnelTaken { kind: TunnelKind, local: Ipv4Addr, remote: Remote, other: PortName },
    #[error("{kind} packets from {} to {local} with key {key} belong to tunnel {other} already", sender(*remote))]
    TunnelTaken { kind: TunnelKind, local: Ipv4Addr, remote: Remote, key: TunnelKey, other: PortName },
    #[error("zone {zone} is there already")]
    ZoneTwice { zone: u32 },
    #[error("there is no group '{group}'")]
    NoSuchGroup { group: GroupName },
    #[error("there is a group '{group}' already")]
    GroupTwice { group: GroupName },
    #[error("number {id} is taken by group {other}")]
    GroupIdTaken { id: u32, other: GroupName },
    #[error("the group has a rule {id} already")]
    RuleIdTaken { id: usize },
    #[error("rule {other} of the group says the same")]
    RuleTwice { other: usize },
    #[error("the rule can never match: there is no protocol {protocol} in {ethertype}")]
    ProtocolOfOtherFamily { protocol: Protocol, ethertype: Ethertype },
    #[error(
        "the rule can never match: {protocol} is an extension header in ipv6, and rules are about what follows: expected any, or a number other than 0, 43, 44, 51 and 60"
    )]
    ProtocolIsExtension { protocol: Protocol },
    #[error("the rule can never match: protocol {protocol} has no ports; tcp, udp and sctp have")]
    RuleWithoutPorts { protocol: Protocol },
    #[error(
        "the rule can never match: no {protocol} connection is to port 0: expected ports of 1 to 65535, or stateless=true"
    )]
    RuleOfPortZero { protocol: Protocol },
    #[error("the rule can never match: protocol {protocol} has no ICMP type; icmp and icmpv6 have")]
    RuleWithoutIcmp { protocol: Protocol },
    #[error(
        "the rule can never match: ICMP {icmp} begins no connection, {queries} (answers to what passes, and errors about it, need no rule); others need stateless=true"
    )]
    RuleOfNoQuery { icmp: IcmpMatch, queries: Queries },
    #[error(
        "the rule can never match: {direction} ICMPv6 of type {kind} passes every port without a rule, from and to everybody"
    )]
    RuleOfNeighbours { kind: u8, direction: Direction },
    #[error("the rule can never match: {remote} is no {ethertype} network")]
    RemoteOfOtherFamily { remote: Prefix, ethertype: Ethertype },
    #[error(
        "the rule can never match: no packet comes from {remote}, which is multicast or broadcast: expected addresses of stations, or any"
    )]
    RemoteIsNoSender { remote: Prefix },
    #[error(
        "the rule can never match: no packet goes to {remote}, which is the address of who has none: everybody is any"
    )]
    RemoteIsNoReceiver { remote: Prefix },
    #[error("{count} bridges have ports that are bound to groups: at most {max}", max = crate::acl::MAX_BRIDGES)]
    TooManyGuardedBridges { count: usize },
}

impl Config {
    /// Checks everything; the first thing that is wrong, in the order of the configuration, is the error.
    pub fn validate(&self) -> Result<(), Invalid> {
        let mut whole = Whole { config: self, names: BTreeMap::new(), tunnels: BTreeMap::new() };
        for (index, bridge) in self.bridges.iter().enumerate() {
            let place = Place { bridge: index, part: None };
            whole.name(&bridge.name, place)?;
            let at = place.path(self);
            check_bridge(bridge, &at)?;
            for (index, port) in bridge.ports.iter().enumerate() {
                let place = Place { part: Some(("port", index)), ..place };
                whole.name(&port.name, place)?;
                // There are many, and most are right: a path is made for one that isn't.
                check_port(port, &KeyPath::default()).map_err(|invalid| invalid.within(place.path(self)))?;
            }
            for (index, tunnel) in bridge.tunnels.iter().enumerate() {
                let place = Place { part: Some(("tunnel", index)), ..place };
                whole.name(&tunnel.name, place)?;
                let at = place.path(self);
                check_tunnel(tunnel, &at)?;
                whole.tunnel(bridge, tunnel, &at)?;
            }
            check_ofports(bridge, &at)?;
            check_static_entries(bridge, &at)?;
        }
        self.conntrack.check()?;
        crate::acl::check(self)
    }
}

fn refuse<T>(at: &KeyPath, key: &str, problem: Problem) -> Result<T, Invalid> {
    Err(Invalid { at: at.key(key), problem })
}

fn sender(remote: Remote) -> String {
    match remote {
        Remote::Fixed(address) => address.to_string(),
        Remote::Flow => "any other address".to_owned(),
    }
}

/// The outer addresses, kind and key that lead to one tunnel; no key is any that no other has.
type TunnelTuple = (TunnelKind, Ipv4Addr, Remote, Option<TunnelKey>);

/// A bridge, or one of its ports or tunnels, by index.
#[derive(Clone, Copy)]
struct Place {
    bridge: usize,
    part: Option<(&'static str, usize)>,
}

impl Place {
    fn path(self, config: &Config) -> KeyPath {
        let Some(bridge) = config.bridges.get(self.bridge) else { return KeyPath::default() };
        let at = KeyPath::default().item("bridge", self.bridge, &bridge.name);
        let Some((key, index)) = self.part else { return at };
        let name = match key {
            "tunnel" => bridge.tunnels.get(index).map(|tunnel| &tunnel.name),
            _ => bridge.ports.get(index).map(|port| &port.name),
        };
        name.map_or_else(KeyPath::default, |name| at.item(key, index, name))
    }
}

/// What is unique in the whole switch.
struct Whole<'a> {
    config: &'a Config,
    names: BTreeMap<&'a PortName, Place>,
    tunnels: BTreeMap<TunnelTuple, &'a PortName>,
}

impl<'a> Whole<'a> {
    fn name(&mut self, name: &'a PortName, place: Place) -> Result<(), Invalid> {
        let Some(other) = self.names.insert(name, place) else { return Ok(()) };
        let [at, other] = [place, other].map(|place| place.path(self.config));
        refuse(&at, "name", Problem::NameTaken { name: name.clone(), other })
    }

    fn tunnel(&mut self, bridge: &Bridge, tunnel: &'a Tunnel, at: &KeyPath) -> Result<(), Invalid> {
        let Tunnel { kind, local, remote, .. } = *tunnel;
        for key in keys_of(bridge, tunnel) {
            if let Some(other) = self.tunnels.insert((kind, local, remote, key), &tunnel.name) {
                let other = other.clone();
                let problem = match key {
                    Some(key) => Problem::TunnelTaken { kind, local, remote, key, other },
                    None => Problem::FlowTunnelTaken { kind, local, remote, other },
                };
                return refuse(at, "remote", problem);
            }
        }
        Ok(())
    }
}

/// The keys of the packets that a tunnel sends and takes; none is any.
fn keys_of(bridge: &Bridge, tunnel: &Tunnel) -> Vec<Option<TunnelKey>> {
    match tunnel.key {
        KeyMode::Fixed(key) => vec![Some(key)],
        KeyMode::Map => {
            let mapped = bridge.vnis.0.values().copied().filter(|vni| tunnel.vnis.contains(vni.0));
            mapped.map(Some).collect()
        }
        KeyMode::Flow => vec![None],
    }
}

fn check_bridge(bridge: &Bridge, at: &KeyPath) -> Result<(), Invalid> {
    check_station(bridge.mac, at)?;
    let mut vlans = BTreeMap::new();
    for (vlan, vni) in &bridge.vnis.0 {
        if let Some(&other) = vlans.get(vni) {
            return refuse(&at.key("vnis"), &vlan.to_string(), Problem::VniTaken { vni: *vni, other });
        }
        vlans.insert(*vni, *vlan);
    }
    Ok(())
}

fn check_station(mac: Option<Mac>, at: &KeyPath) -> Result<(), Invalid> {
    match mac {
        Some(mac) if mac.is_multicast() || mac == Mac::ZERO => {
            refuse(at, "mac", Problem::NotAStation { mac })
        }
        _ => Ok(()),
    }
}

fn check_port(port: &Port, at: &KeyPath) -> Result<(), Invalid> {
    use PortType::{Auto, Capture, Internal, Netdev, Patch, Replay, Tap};
    let device = [Auto, Tap, Netdev, Internal];
    let rules: [(&'static str, bool, &[PortType], &'static str); 7] = [
        ("backend", port.backend != Backend::Auto, &[Auto, Netdev], "auto and netdev"),
        ("netns", port.netns.is_some(), &device, "auto, tap, netdev and internal"),
        ("persistent", port.persistent, &[Auto, Tap, Internal], "auto, tap and internal"),
        ("mac", port.mac.is_some(), &[Auto, Tap, Internal], "auto, tap and internal"),
        ("file", port.file.is_some(), &[Replay, Capture], "replay and capture"),
        ("loop", port.repeat, &[Replay], "replay"),
        ("peer", port.peer.is_some(), &[Patch], "ports of type patch"),
    ];
    for (key, given, types, legal) in rules {
        if given && !types.contains(&port.kind) {
            return refuse(at, key, Problem::KeyOfOtherType { key, kind: port.kind, legal });
        }
    }
    if matches!(port.kind, Replay | Capture) && port.file.is_none() {
        return refuse(at, "file", Problem::NeedsFile { kind: port.kind });
    }
    match &port.peer {
        None if port.kind == Patch => return refuse(at, "peer", Problem::NeedsPeer),
        Some(peer) if *peer == port.name => return refuse(at, "peer", Problem::OwnPeer),
        _ => {}
    }
    check_station(port.mac, at)?;
    check_mode(port.vlan_mode().err(), at)
}

/// Names the key that a problem of the VLAN mode is about.
fn check_mode(problem: Option<Problem>, at: &KeyPath) -> Result<(), Invalid> {
    match problem {
        None => Ok(()),
        Some(problem @ Problem::AccessWithTrunks) => refuse(at, "trunks", problem),
        Some(problem @ Problem::TrunkWithVlan) => refuse(at, "vlan", problem),
        Some(problem) => refuse(at, "mode", problem),
    }
}

fn check_tunnel(tunnel: &Tunnel, at: &KeyPath) -> Result<(), Invalid> {
    let remote = tunnel.remote.address().map(|address| ("remote", address));
    for (key, address) in [("local", tunnel.local)].into_iter().chain(remote) {
        if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
            return refuse(at, key, Problem::NotAHost { address });
        }
    }
    if tunnel.remote == Remote::Fixed(tunnel.local) {
        return refuse(at, "remote", Problem::TunnelToItself { address: tunnel.local });
    }
    if tunnel.remote == Remote::Flow && tunnel.key == KeyMode::Map {
        return refuse(at, "remote", Problem::MapToAnywhere);
    }
    if tunnel.dst_port.is_some() && tunnel.kind != TunnelKind::Vxlan {
        return refuse(at, "dst_port", Problem::KeyOfOtherKind { key: "dst_port", kind: tunnel.kind });
    }
    match tunnel.key {
        KeyMode::Fixed(_) | KeyMode::Flow => check_other_key(tunnel, at),
        KeyMode::Map => check_map_key(tunnel, at),
    }
}

fn check_other_key(tunnel: &Tunnel, at: &KeyPath) -> Result<(), Invalid> {
    if let KeyMode::Fixed(key) = tunnel.key
        && let Err(error) = TunnelKey::new(tunnel.kind, key.0.into())
    {
        return refuse(at, "key", error.into());
    }
    if !tunnel.vnis.is_all() {
        return refuse(at, "vnis", Problem::VnisWithoutMap { key: tunnel.key });
    }
    check_mode(tunnel.vlan_mode().err(), at)
}

fn check_map_key(tunnel: &Tunnel, at: &KeyPath) -> Result<(), Invalid> {
    let given = [
        ("mode", tunnel.mode.is_some()),
        ("vlan", tunnel.vlan.is_some()),
        ("trunks", !tunnel.trunks.is_all()),
        ("priority_tags", !is_default(&tunnel.priority_tags)),
    ];
    match given.into_iter().find(|&(_, given)| given) {
        Some((key, _)) => refuse(at, key, Problem::KeyOfFixed { key }),
        None => Ok(()),
    }
}

fn check_ofports(bridge: &Bridge, at: &KeyPath) -> Result<(), Invalid> {
    let ports = bridge.ports.iter().enumerate().map(|(index, port)| ("port", index, &port.name, port.ofport));
    let tunnels = bridge.tunnels.iter().enumerate();
    let tunnels = tunnels.map(|(index, tunnel)| ("tunnel", index, &tunnel.name, tunnel.ofport));
    let mut taken: BTreeMap<OfPort, &PortName> = BTreeMap::new();
    for (key, index, name, ofport) in ports.chain(tunnels) {
        let Some(ofport) = ofport else { continue };
        if let Some(other) = taken.insert(ofport, name) {
            let other = other.clone();
            return refuse(&at.item(key, index, name), "ofport", Problem::OfportTaken { ofport, other });
        }
    }
    Ok(())
}

fn check_static_entries(bridge: &Bridge, at: &KeyPath) -> Result<(), Invalid> {
    let (count, size) = (bridge.fdb.len(), bridge.fdb_size.get());
    if count > size as usize {
        return refuse(at, "fdb", Problem::TooManyEntries { count, size });
    }
    if count == 0 {
        return Ok(());
    }
    let ports = bridge.ports.iter().map(|port| &port.name);
    let tunnels = bridge.tunnels.iter().map(|tunnel| &tunnel.name);
    let internal = bridge.internal.then_some(&bridge.name);
    let names: BTreeSet<&PortName> = ports.chain(tunnels).chain(internal).collect();
    let mut seen = BTreeSet::new();
    for (index, entry) in bridge.fdb.iter().enumerate() {
        let at = at.item("fdb", index, &index);
        let (vlan, mac) = (entry.vlan, entry.mac);
        check_station(Some(mac), &at)?;
        if !seen.insert((vlan, mac)) {
            return refuse(&at, "mac", Problem::StaticEntryTwice { vlan, mac });
        }
        if !names.contains(&entry.port) {
            let (bridge, port) = (bridge.name.clone(), entry.port.clone());
            return refuse(&at, "port", Problem::NoSuchPort { bridge, port });
        }
    }
    Ok(())
}
