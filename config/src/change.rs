//! [`Change`]: one step of a transaction on a [`Config`]. [`Config::apply`] applies all of them or none.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use weft_wire::{Mac, OfPort, PortName, TunnelKey, Vid};

use crate::acl::{AclId, Group, GroupName, Prefix, Rule};
use crate::conntrack::ZoneId;
use crate::model::{Bridge, Config, StaticEntry, Vni};
use crate::port::Port;
use crate::source::one_line;
use crate::tunnel::Tunnel;
use crate::validate::{Invalid, KeyPath, Problem};
use crate::value::scalar;

/// New values by key, as text or as TOML has them; null or the empty string puts a key back to its default.
pub type Settings = BTreeMap<String, Json>;

/// One step of a transaction, as the control protocol has it: `{"port_add": {"bridge": "br0", "port": {..}}}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(missing_docs, reason = "the names of fields are those of the configuration")]
pub enum Change {
    /// Sets keys of `[switch]`.
    SwitchSet { set: Settings },
    /// Sets keys of `[conntrack]`, or of one of its zones.
    ConntrackSet {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        zone: Option<ZoneId>,
        set: Settings,
    },
    /// Adds a bridge, with whatever it holds.
    BridgeAdd { bridge: Box<Bridge> },
    /// Sets keys of a bridge that are neither lists nor maps.
    BridgeSet { name: PortName, set: Settings },
    /// Removes a bridge and whatever it holds.
    BridgeDel { name: PortName },
    /// Adds a port to a bridge.
    PortAdd { bridge: PortName, port: Box<Port> },
    /// Sets keys of a port.
    PortSet { name: PortName, set: Settings },
    /// Removes a port, and the static FDB entries that point to it.
    PortDel { name: PortName },
    /// Adds a tunnel to a bridge.
    TunnelAdd { bridge: PortName, tunnel: Box<Tunnel> },
    /// Sets keys of a tunnel.
    TunnelSet { name: PortName, set: Settings },
    /// Removes a tunnel, and the static FDB entries that point to it.
    TunnelDel { name: PortName },
    /// Maps a VLAN to a VNI, in place of what it was mapped to.
    VniMap {
        bridge: PortName,
        #[serde(deserialize_with = "scalar")]
        vlan: Vid,
        #[serde(deserialize_with = "vni")]
        vni: TunnelKey,
    },
    /// Takes a VLAN out of the VLAN-to-VNI map.
    VniUnmap {
        bridge: PortName,
        #[serde(deserialize_with = "scalar")]
        vlan: Vid,
    },
    /// Adds a static FDB entry, in place of the one that VLAN and MAC had.
    FdbAdd { bridge: PortName, entry: StaticEntry },
    /// Removes a static FDB entry.
    FdbDel {
        bridge: PortName,
        #[serde(deserialize_with = "scalar")]
        vlan: Vid,
        mac: Mac,
    },
    /// Adds a security group, with whatever it holds.
    AclGroupAdd { group: Box<Group> },
    /// Removes a group. Ports and rules must not name it any more.
    AclGroupDel {
        #[serde(deserialize_with = "scalar")]
        name: GroupName,
    },
    /// Adds a rule to a group.
    AclRuleAdd {
        #[serde(deserialize_with = "scalar")]
        group: GroupName,
        rule: Box<Rule>,
    },
    /// Removes a rule from a group.
    AclRuleDel {
        #[serde(deserialize_with = "scalar")]
        group: GroupName,
        id: AclId,
    },
    /// Adds an address or network to a group; nothing changes if it is a member already.
    AclMemberAdd {
        #[serde(deserialize_with = "scalar")]
        group: GroupName,
        #[serde(deserialize_with = "scalar")]
        member: Prefix,
    },
    /// Removes an address or network from a group.
    AclMemberDel {
        #[serde(deserialize_with = "scalar")]
        group: GroupName,
        #[serde(deserialize_with = "scalar")]
        member: Prefix,
    },
}

fn vni<'de, D: serde::Deserializer<'de>>(from: D) -> Result<TunnelKey, D::Error> {
    scalar::<D, Vni>(from).map(|Vni(vni)| vni)
}

/// Why a transaction was refused; nothing of it was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says it")]
pub enum ChangeError {
    #[error("there is no bridge '{0}'")]
    NoSuchBridge(PortName),
    #[error("there is no port '{0}'")]
    NoSuchPort(PortName),
    #[error("there is no tunnel '{0}'")]
    NoSuchTunnel(PortName),
    #[error("VLAN {vlan} of bridge {bridge} is not mapped to a VNI")]
    NotMapped { bridge: PortName, vlan: Vid },
    #[error("bridge {bridge} has no static entry for VLAN {vlan} and {mac}")]
    NoSuchEntry { bridge: PortName, vlan: Vid, mac: Mac },
    #[error("{what}.{key}: can't be set: {hint}")]
    NotSettable { what: String, key: String, hint: &'static str },
    #[error("{what}: {problem}")]
    BadValue { what: String, problem: String },
    #[error("bridge[{0}]: no OpenFlow number is free: a bridge has 1 to {max}", max = OfPort::MAX)]
    NoOfport(PortName),
    #[error("there is no group '{0}'")]
    NoSuchGroup(GroupName),
    #[error("group {group} has no rule {id}")]
    NoSuchRule { group: GroupName, id: u32 },
    #[error("group {group} has no member {member} of its own")]
    NoSuchMember { group: GroupName, member: Prefix },
    #[error("group {group} can't go: {at} names it")]
    GroupNamed { group: GroupName, at: KeyPath },
    #[error("no number is free: there are at most 65535 groups")]
    NoGroupId,
    #[error("group {0}: no number is free: a group has at most 65535 rules")]
    NoRuleId(GroupName),
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// A group that goes while something names it is told as that.
fn of_changes(invalid: Invalid, changes: &[Change]) -> ChangeError {
    let goes =
        |group| changes.iter().any(|change| matches!(change, Change::AclGroupDel { name } if name == group));
    match invalid.problem {
        Problem::NoSuchGroup { group } if goes(&group) => ChangeError::GroupNamed { group, at: invalid.at },
        _ => invalid.into(),
    }
}

impl Config {
    /// The configuration after all of `changes`, valid as a whole and with a number for every port; or why not.
    ///
    /// Only the result has to be valid, so the order of changes that need one another does not matter much.
    pub fn apply(&self, changes: &[Change]) -> Result<Config, ChangeError> {
        let mut next = self.clone();
        for change in changes {
            next.apply_one(change)?;
        }
        next.validate().map_err(|invalid| of_changes(invalid, changes))?;
        next.assign_ofports()?;
        next.acl.assign_ids()?;
        Ok(next)
    }

    /// Applies changes that were found to be right when they were made, as [`Config::apply`] did then.
    pub(crate) fn follow(&mut self, changes: &[Change]) -> Result<(), ChangeError> {
        changes.iter().try_for_each(|change| self.apply_one(change))?;
        self.assign_ofports()?;
        self.acl.assign_ids()
    }

    /// This configuration with a number for every port: a port that says none keeps the one that it has in
    /// `current`, if the same bridge has it there, and gets a free one otherwise.
    pub fn complete(&self, current: &Config) -> Result<Config, ChangeError> {
        let mut next = self.clone();
        for bridge in &mut next.bridges {
            if let Some(before) = current.bridges.iter().find(|before| before.name == bridge.name) {
                adopt_ofports(bridge, before);
            }
        }
        next.assign_ofports()?;
        next.acl.adopt_ids(&current.acl);
        next.acl.assign_ids()?;
        Ok(next)
    }

    fn apply_one(&mut self, change: &Change) -> Result<(), ChangeError> {
        match change {
            Change::SwitchSet { set } => set_keys(&mut self.switch, set, "switch", &[]),
            Change::ConntrackSet { zone, set } => self.set_conntrack(*zone, set),
            Change::BridgeAdd { bridge } => {
                self.bridges.push((**bridge).clone());
                Ok(())
            }
            Change::BridgeSet { name, set } => {
                set_keys(self.bridge_mut(name)?, set, &format!("bridge[{name}]"), &Bridge::NOT_SETTABLE)
            }
            Change::BridgeDel { name } => self.delete_bridge(name),
            Change::PortAdd { bridge, port } => {
                self.bridge_mut(bridge)?.ports.push((**port).clone());
                Ok(())
            }
            Change::PortSet { name, set } => self.set_port(name, set),
            Change::PortDel { name } => self.delete_port(name),
            Change::TunnelAdd { bridge, tunnel } => {
                self.bridge_mut(bridge)?.tunnels.push((**tunnel).clone());
                Ok(())
            }
            Change::TunnelSet { name, set } => self.set_tunnel(name, set),
            Change::TunnelDel { name } => self.delete_tunnel(name),
            Change::VniMap { bridge, vlan, vni } => {
                self.bridge_mut(bridge)?.vnis.0.insert(*vlan, *vni);
                Ok(())
            }
            Change::VniUnmap { bridge, vlan } => self.unmap(bridge, *vlan),
            Change::FdbAdd { bridge, entry } => self.add_entry(bridge, entry),
            Change::FdbDel { bridge, vlan, mac } => self.delete_entry(bridge, *vlan, *mac),
            Change::AclGroupAdd { group } => {
                self.acl.groups.push((**group).clone());
                Ok(())
            }
            Change::AclGroupDel { name } => self.acl.delete_group(name),
            Change::AclRuleAdd { group, rule } => self.acl.add_rule(group, rule),
            Change::AclRuleDel { group, id } => self.acl.delete_rule(group, *id),
            Change::AclMemberAdd { group, member } => {
                self.acl.group_mut(group)?.members.insert(*member);
                Ok(())
            }
            Change::AclMemberDel { group, member } => self.acl.delete_member(group, member),
        }
    }

    fn set_conntrack(&mut self, zone: Option<ZoneId>, set: &Settings) -> Result<(), ChangeError> {
        let of_zone = [("zone", "set the keys of one zone by its number")];
        let Some(id) = zone else { return set_keys(&mut self.conntrack, set, "conntrack", &of_zone) };
        let what = format!("conntrack.zone[{id}]");
        set_keys(self.conntrack.zone_mut(id), set, &what, &[("id", "a number stays")])?;
        self.conntrack.tidy();
        Ok(())
    }

    fn bridge_mut(&mut self, name: &PortName) -> Result<&mut Bridge, ChangeError> {
        let found = self.bridges.iter_mut().find(|bridge| bridge.name == *name);
        found.ok_or_else(|| ChangeError::NoSuchBridge(name.clone()))
    }

    fn delete_bridge(&mut self, name: &PortName) -> Result<(), ChangeError> {
        self.bridge_mut(name)?;
        self.bridges.retain(|bridge| bridge.name != *name);
        Ok(())
    }

    fn set_port(&mut self, name: &PortName, set: &Settings) -> Result<(), ChangeError> {
        for bridge in &mut self.bridges {
            if let Some(port) = bridge.ports.iter_mut().find(|port| port.name == *name) {
                return set_keys(port, set, &format!("bridge[{}].port[{name}]", bridge.name), &[NO_RENAMING]);
            }
        }
        Err(ChangeError::NoSuchPort(name.clone()))
    }

    fn set_tunnel(&mut self, name: &PortName, set: &Settings) -> Result<(), ChangeError> {
        for bridge in &mut self.bridges {
            if let Some(tunnel) = bridge.tunnels.iter_mut().find(|tunnel| tunnel.name == *name) {
                return set_keys(
                    tunnel,
                    set,
                    &format!("bridge[{}].tunnel[{name}]", bridge.name),
                    &[NO_RENAMING],
                );
            }
        }
        Err(ChangeError::NoSuchTunnel(name.clone()))
    }

    fn delete_port(&mut self, name: &PortName) -> Result<(), ChangeError> {
        let holder =
            self.bridges.iter_mut().find(|bridge| bridge.ports.iter().any(|port| port.name == *name));
        let bridge = holder.ok_or_else(|| ChangeError::NoSuchPort(name.clone()))?;
        bridge.ports.retain(|port| port.name != *name);
        bridge.fdb.retain(|entry| entry.port != *name);
        Ok(())
    }

    fn delete_tunnel(&mut self, name: &PortName) -> Result<(), ChangeError> {
        let holder =
            self.bridges.iter_mut().find(|bridge| bridge.tunnels.iter().any(|tunnel| tunnel.name == *name));
        let bridge = holder.ok_or_else(|| ChangeError::NoSuchTunnel(name.clone()))?;
        bridge.tunnels.retain(|tunnel| tunnel.name != *name);
        bridge.fdb.retain(|entry| entry.port != *name);
        Ok(())
    }

    fn unmap(&mut self, bridge: &PortName, vlan: Vid) -> Result<(), ChangeError> {
        match self.bridge_mut(bridge)?.vnis.0.remove(&vlan) {
            Some(_) => Ok(()),
            None => Err(ChangeError::NotMapped { bridge: bridge.clone(), vlan }),
        }
    }

    fn add_entry(&mut self, bridge: &PortName, entry: &StaticEntry) -> Result<(), ChangeError> {
        let fdb = &mut self.bridge_mut(bridge)?.fdb;
        match fdb.iter_mut().find(|old| (old.vlan, old.mac) == (entry.vlan, entry.mac)) {
            Some(old) => old.port = entry.port.clone(),
            None => fdb.push(entry.clone()),
        }
        Ok(())
    }

    fn delete_entry(&mut self, bridge: &PortName, vlan: Vid, mac: Mac) -> Result<(), ChangeError> {
        let fdb = &mut self.bridge_mut(bridge)?.fdb;
        let before = fdb.len();
        fdb.retain(|entry| (entry.vlan, entry.mac) != (vlan, mac));
        if fdb.len() < before {
            Ok(())
        } else {
            Err(ChangeError::NoSuchEntry { bridge: bridge.clone(), vlan, mac })
        }
    }

    /// Gives a number to every port and tunnel that has none.
    fn assign_ofports(&mut self) -> Result<(), ChangeError> {
        for bridge in &mut self.bridges {
            let ports = bridge.ports.iter_mut().map(|port| &mut port.ofport);
            let numbers: Vec<&mut Option<OfPort>> =
                ports.chain(bridge.tunnels.iter_mut().map(|tunnel| &mut tunnel.ofport)).collect();
            if numbers.iter().all(|number| number.is_some()) {
                continue;
            }
            let mut taken: BTreeSet<OfPort> = numbers.iter().filter_map(|number| **number).collect();
            for number in numbers.into_iter().filter(|number| number.is_none()) {
                let free = free_ofport(&taken).ok_or_else(|| ChangeError::NoOfport(bridge.name.clone()))?;
                taken.insert(free);
                *number = Some(free);
            }
        }
        Ok(())
    }
}

/// One above the highest number in use, so that a number comes back late; the lowest free one when that is used up.
fn free_ofport(taken: &BTreeSet<OfPort>) -> Option<OfPort> {
    let above = taken.last().map_or(1, |highest| highest.0.saturating_add(1));
    if above <= OfPort::MAX.0 {
        return Some(OfPort(above));
    }
    (1..=OfPort::MAX.0).map(OfPort).find(|number| !taken.contains(number))
}

fn adopt_ofports(bridge: &mut Bridge, before: &Bridge) {
    let said: BTreeSet<OfPort> = bridge.ports.iter().filter_map(|port| port.ofport).collect();
    let said: BTreeSet<OfPort> =
        said.into_iter().chain(bridge.tunnels.iter().filter_map(|tunnel| tunnel.ofport)).collect();
    let known = |name: &PortName| before.ofport_of(name.as_str()).filter(|number| !said.contains(number));
    for port in &mut bridge.ports {
        port.ofport = port.ofport.or_else(|| known(&port.name));
    }
    for tunnel in &mut bridge.tunnels {
        tunnel.ofport = tunnel.ofport.or_else(|| known(&tunnel.name));
    }
}

/// A key that `set` refuses, and what to do instead.
type NotSettable = (&'static str, &'static str);

const NO_RENAMING: NotSettable = ("name", "a name stays; delete and add instead");

impl Bridge {
    const NOT_SETTABLE: [NotSettable; 5] = [
        NO_RENAMING,
        ("port", "add and delete ports one by one"),
        ("tunnel", "add and delete tunnels one by one"),
        ("vnis", "map and unmap VLANs one by one"),
        ("fdb", "add and delete entries one by one"),
    ];
}

/// Sets keys of one object by way of its serialized form: serde's schema is the only one.
fn set_keys<T: Serialize + DeserializeOwned>(
    object: &mut T,
    set: &Settings,
    what: &str,
    refused: &[NotSettable],
) -> Result<(), ChangeError> {
    let bad = |what: String, problem: &str| ChangeError::BadValue { what, problem: one_line(problem) };
    let mut keys = match serde_json::to_value(&*object) {
        Ok(Json::Object(keys)) => keys,
        Ok(_) | Err(_) => unreachable!("an object of the configuration serializes to an object"),
    };
    for (key, value) in set {
        if let Some((key, hint)) = refused.iter().find(|(refused, _)| refused == key) {
            return Err(ChangeError::NotSettable { what: what.to_owned(), key: (*key).to_owned(), hint });
        }
        match value {
            Json::Null => keys.remove(key),
            Json::String(text) if text.is_empty() => keys.remove(key),
            _ => keys.insert(key.clone(), value.clone()),
        };
    }
    let next = serde_path_to_error::deserialize(Json::Object(keys)).map_err(|error| {
        let place =
            if error.path().iter().len() == 0 { what.to_owned() } else { format!("{what}.{}", error.path()) };
        bad(place, &error.inner().to_string())
    })?;
    *object = next;
    Ok(())
}
