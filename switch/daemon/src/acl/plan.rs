//! From the configuration to what has to be in a bridge's own tables: a list of small [`Unit`]s, each of which stands for
//! a few rules. A pure function but for the numbers of profiles and classes, which stay what they were.
//!
//! * A *profile* is what ports that are bound to the same groups in the same way have in common.
//! * A *class* is what addresses that are members of the same groups have in common: of groups that a rule names as its
//!   remote side. So a rule is as many units as there are profiles (and classes), however many ports and addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use weft_config::acl::{
    Decision, Direction, Ethertype, Group, GroupName, IcmpMatch, PortRange, Prefix, Protocol, Remote,
};
use weft_config::model::Bridge;
use weft_config::port::Port;
use weft_config::{Config, acl};
use weft_wire::{Mac, OfPort};

/// A part of what is in the tables. Equal units stand for equal rules.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Unit {
    /// What holds for all guarded ports.
    Fixed,
    /// A port with a guard.
    Port(GuardedPort),
    /// An Ethernet address that a port may send from.
    Mac(GuardedPort, Mac),
    /// What may be sent from, with that Ethernet address.
    Pair(OfPort, Mac, Option<Prefix>),
    /// Where a profile's packets are looked for.
    Profile(Profile),
    /// The class of an address.
    Address(Prefix, u32),
    /// A group's rule, for one profile (and one class of the remote group).
    Permit(Permit),
}

/// A port whose packets go through weft's own tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GuardedPort {
    /// Its number.
    pub ofport: OfPort,
    /// Its profile; 0 if it is bound to no group.
    pub profile: u32,
    /// The uppermost four bits of its connections' zones.
    pub zones: u8,
    /// It may send from some addresses only.
    pub secured: bool,
}

/// A profile's settings.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Profile {
    /// Its number, from 1.
    pub id: u32,
    /// There are stateless rules for what its ports send, and for what they get.
    pub stateless: [bool; 2],
    /// There are stateful rules.
    pub stateful: bool,
    /// IGMP and MLD pass.
    pub multicast: bool,
}

/// What may pass, and whose rule says so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Permit {
    /// For ports of that profile.
    pub profile: u32,
    /// The group and its rule; none if it is `acl_egress=open`.
    pub rule: Option<(u16, u16)>,
    /// Who starts it.
    pub direction: Direction,
    /// The family.
    pub ethertype: Ethertype,
    /// The protocol.
    pub protocol: Protocol,
    /// Destination ports.
    pub ports: Option<PortRange>,
    /// ICMP type and code.
    pub icmp: Option<IcmpMatch>,
    /// The other side.
    pub remote: Far,
    /// Packet by packet.
    pub stateless: bool,
}

/// The other side of a [`Permit`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Far {
    /// Everybody.
    Any,
    /// An address or network.
    Prefix(Prefix),
    /// Addresses of that class.
    Class(u32),
}

/// What makes a profile: groups by number, `acl_egress=open`, `acl_multicast`.
type ProfileKey = (Vec<u16>, bool, bool);

/// Numbers, from 1, for things that are the same as long as they are in use.
#[derive(Debug)]
pub struct Ids<K> {
    ids: HashMap<K, u32>,
}

impl<K> Default for Ids<K> {
    fn default() -> Self {
        Ids { ids: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash + Ord> Ids<K> {
    /// The numbers of these, and of no others.
    fn settle(&mut self, keys: BTreeSet<K>) {
        self.ids.retain(|key, _| keys.contains(key));
        let mut taken: BTreeSet<u32> = self.ids.values().copied().collect();
        for key in keys {
            if !self.ids.contains_key(&key) {
                let free = (1..).find(|id| !taken.contains(id)).unwrap_or(u32::MAX);
                taken.insert(free);
                self.ids.insert(key, free);
            }
        }
    }

    fn of(&self, key: &K) -> u32 {
        self.ids.get(key).copied().unwrap_or(0)
    }

    /// Each, with its number.
    pub fn all(&self) -> impl Iterator<Item = (&K, u32)> {
        self.ids.iter().map(|(key, id)| (key, *id))
    }
}

/// What numbers were given on a bridge.
#[derive(Debug, Default)]
pub struct Numbering {
    /// Of profiles.
    pub profiles: Ids<ProfileKey>,
    /// Of classes: groups by number.
    pub classes: Ids<Vec<u16>>,
}

/// Whether the port's packets go through weft's own tables: what it sends, and what it gets.
pub fn guard(port: &Port) -> weft_core::snapshot::Guard {
    let to = !port.acl.0.is_empty();
    weft_core::snapshot::Guard { from: to || !port.port_security.0.is_empty(), to }
}

/// All that has to be in the tables of `bridge`; `zones` are the uppermost bits of its zones.
pub fn units(config: &Config, bridge: &Bridge, zones: u8, numbering: &mut Numbering) -> BTreeSet<Unit> {
    let ports: Vec<&Port> = bridge.ports.iter().filter(|port| guard(port).from).collect();
    if ports.is_empty() {
        return BTreeSet::new();
    }
    let groups: HashMap<&GroupName, &Group> =
        config.acl.groups.iter().map(|group| (&group.name, group)).collect();
    let bound: Vec<&Port> = ports.iter().copied().filter(|port| !port.acl.0.is_empty()).collect();
    numbering.profiles.settle(bound.iter().map(|port| profile_key(port, &groups)).collect());
    let addresses = addresses(config, &bound, &groups);
    numbering.classes.settle(addresses.values().cloned().collect());
    let mut units = BTreeSet::from([Unit::Fixed]);
    for port in ports {
        let profile = match port.acl.0.is_empty() {
            true => 0,
            false => numbering.profiles.of(&profile_key(port, &groups)),
        };
        units.extend(port_units(port, profile, zones));
    }
    for (prefix, class) in &addresses {
        units.insert(Unit::Address(*prefix, numbering.classes.of(class)));
    }
    let by_id: HashMap<u16, &Group> = groups.values().map(|group| (number(group), *group)).collect();
    for (key, id) in &numbering.profiles.ids {
        profile_units((key, *id), &by_id, (&groups, &numbering.classes), &mut units);
    }
    units
}

fn number(group: &Group) -> u16 {
    group.id.map_or(0, |id| id.get() as u16)
}

fn profile_key(port: &Port, groups: &HashMap<&GroupName, &Group>) -> ProfileKey {
    let mut ids: Vec<u16> =
        port.acl.0.iter().filter_map(|name| groups.get(name)).map(|group| number(group)).collect();
    ids.sort_unstable();
    (ids, port.acl_egress == Decision::Open, port.acl_multicast)
}

fn port_units(port: &Port, profile: u32, zones: u8) -> Vec<Unit> {
    // A complete configuration has given it a number.
    let Some(ofport) = port.ofport else { return Vec::new() };
    let secured = !port.port_security.0.is_empty();
    let guarded = GuardedPort { ofport, profile, zones, secured };
    let mut units = vec![Unit::Port(guarded)];
    for pair in &port.port_security.0 {
        units.push(Unit::Mac(guarded, pair.mac));
        units.push(Unit::Pair(ofport, pair.mac, pair.ip));
    }
    units
}

/// The addresses that are members of groups which rules of the ports' groups name, each with these groups, those of the
/// networks that it is in included.
fn addresses(
    config: &Config,
    bound: &[&Port],
    groups: &HashMap<&GroupName, &Group>,
) -> BTreeMap<Prefix, Vec<u16>> {
    let used: BTreeSet<&GroupName> = bound.iter().flat_map(|port| &port.acl.0).collect();
    let rules = used.iter().filter_map(|name| groups.get(*name)).flat_map(|group| &group.rules);
    let remotes: BTreeSet<&GroupName> = rules
        .filter_map(|rule| match &rule.remote {
            Remote::Group(name) => Some(name),
            _ => None,
        })
        .collect();
    let mut members: BTreeMap<Prefix, Vec<u16>> = BTreeMap::new();
    let mut add = |prefix: Prefix, group: u16| {
        let of = members.entry(prefix).or_default();
        if !of.contains(&group) {
            of.push(group);
        }
    };
    for group in remotes.iter().filter_map(|name| groups.get(*name)) {
        group.members.iter().for_each(|member| add(*member, number(group)));
    }
    for port in config.bridges.iter().flat_map(|bridge| &bridge.ports) {
        for group in
            port.acl.0.iter().filter(|name| remotes.contains(name)).filter_map(|name| groups.get(name))
        {
            port.port_security.0.iter().filter_map(|pair| pair.ip).for_each(|ip| add(ip, number(group)));
        }
    }
    // In order, a network comes before what is in it.
    let mut around: Vec<(Prefix, Vec<u16>)> = Vec::new();
    for (prefix, of) in &mut members {
        while around.last().is_some_and(|(outer, _)| !outer.contains(prefix)) {
            around.pop();
        }
        if let Some((_, outer)) = around.last() {
            of.extend(outer.iter().filter(|id| !of.contains(id)).copied().collect::<Vec<_>>());
        }
        of.sort_unstable();
        let bits = if prefix.family() == Ethertype::Ipv4 { 32 } else { 128 };
        if prefix.length() < bits {
            around.push((*prefix, of.clone()));
        }
    }
    members
}

fn profile_units(
    (key, id): (&ProfileKey, u32),
    by_id: &HashMap<u16, &Group>,
    (groups, classes): (&HashMap<&GroupName, &Group>, &Ids<Vec<u16>>),
    units: &mut BTreeSet<Unit>,
) {
    let (ids, open, multicast) = key;
    let mut profile = Profile { id, stateless: [false; 2], stateful: *open, multicast: *multicast };
    for group in ids.iter().filter_map(|id| by_id.get(id)) {
        for rule in &group.rules {
            match (rule.stateless, rule.direction) {
                (false, _) => profile.stateful = true,
                (true, Direction::Egress) => profile.stateless[0] = true,
                (true, Direction::Ingress) => profile.stateless[1] = true,
            }
            let permit = |remote| Unit::Permit(Permit { remote, ..permit(id, group, rule) });
            match &rule.remote {
                Remote::Any => drop(units.insert(permit(Far::Any))),
                Remote::Prefix(prefix) => drop(units.insert(permit(Far::Prefix(*prefix)))),
                Remote::Group(name) => {
                    let Some(remote) = groups.get(name).map(|group| number(group)) else { continue };
                    let of_remote = classes.ids.iter().filter(|(members, _)| members.contains(&remote));
                    units.extend(of_remote.map(|(_, class)| permit(Far::Class(*class))));
                }
            }
        }
    }
    if *open {
        units.extend(
            [Ethertype::Ipv4, Ethertype::Ipv6].map(|ethertype| Unit::Permit(open_egress(id, ethertype))),
        );
    }
    units.insert(Unit::Profile(profile));
}

fn permit(profile: u32, group: &Group, rule: &acl::Rule) -> Permit {
    Permit {
        profile,
        rule: rule.id.map(|id| (number(group), id.get() as u16)),
        direction: rule.direction,
        ethertype: rule.ethertype,
        protocol: rule.protocol,
        ports: rule.ports,
        icmp: rule.icmp,
        remote: Far::Any,
        stateless: rule.stateless,
    }
}

fn open_egress(profile: u32, ethertype: Ethertype) -> Permit {
    Permit {
        profile,
        rule: None,
        direction: Direction::Egress,
        ethertype,
        protocol: Protocol::Any,
        ports: None,
        icmp: None,
        remote: Far::Any,
        stateless: false,
    }
}
