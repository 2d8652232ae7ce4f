//! From the configuration to what has to be in a bridge's own tables: a list of small [`Unit`]s, each of which stands for
//! a few rules. A pure function but for the numbers of profiles and classes, which stay what they were.
//!
//! * A *profile* is what ports that are bound to the same groups in the same way have in common.
//! * A *class* is what addresses that are members of the same groups have in common: of groups that a rule names as its
//!   remote side.
//! * A *relation* is which of these groups a profile's rules name: what a class is to a profile.
//!
//! So a rule is as many units as there are profiles of its group, and relations of them that it is about, however many
//! ports and addresses there are.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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
    /// What holds for all that guarded ports send.
    Sent,
    /// What holds for all that ports of groups get, and for their connections.
    Got,
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
    /// What a class (the second) is to a profile (the first): the relation.
    Relation(u32, u32, u32),
    /// A group's rule, for one profile (and one relation with the remote group).
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
    /// Addresses whose class has that relation to the profile.
    Relation(u32),
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
    /// The numbers of these, and of no others. One that is given up now stays unused until the next time: while rules
    /// come and go, it means nothing else.
    fn settle<'k>(&mut self, keys: impl Iterator<Item = &'k K>)
    where
        K: 'k,
    {
        let keys: HashSet<&K> = keys.collect();
        let taken: HashSet<u32> = self.ids.values().copied().collect();
        self.ids.retain(|key, _| keys.contains(key));
        let mut new: Vec<&K> = keys.into_iter().filter(|key| !self.ids.contains_key(*key)).collect();
        new.sort_unstable();
        let free = (1..).filter(|id| !taken.contains(id));
        self.ids.extend(new.into_iter().cloned().zip(free));
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
    /// Of relations: groups by number.
    relations: Ids<Vec<u16>>,
}

/// Whether the port's packets go through weft's own tables: what it sends, and what it gets.
pub fn guard(port: &Port) -> weft_core::snapshot::Guard {
    let to = !port.acl.0.is_empty();
    weft_core::snapshot::Guard { from: to || !port.port_security.0.is_empty(), to }
}

/// All that has to be in the tables of `bridge`, in order, each once; `zones` are the uppermost bits of its zones.
pub fn units(config: &Config, bridge: &Bridge, zones: u8, numbering: &mut Numbering) -> Vec<Unit> {
    let ports: Vec<&Port> = bridge.ports.iter().filter(|port| guard(port).from).collect();
    if ports.is_empty() {
        return Vec::new();
    }
    let groups: HashMap<&GroupName, &Group> =
        config.acl.groups.iter().map(|group| (&group.name, group)).collect();
    let bound: Vec<&Port> = ports.iter().copied().filter(|port| !port.acl.0.is_empty()).collect();
    let keys: Vec<ProfileKey> = ports.iter().map(|port| profile_key(port, &groups)).collect();
    numbering.profiles.settle(keys.iter().filter(|(ids, ..)| !ids.is_empty()));
    let addresses = addresses(config, &bound, &groups);
    numbering.classes.settle(addresses.values());
    let mut units = vec![Unit::Sent];
    if !bound.is_empty() {
        units.push(Unit::Got);
    }
    for (port, key) in ports.iter().zip(&keys) {
        port_units(port, numbering.profiles.of(key), zones, &mut units);
    }
    units.extend(addresses.iter().map(|(prefix, class)| Unit::Address(*prefix, numbering.classes.of(class))));
    rule_units(&groups, numbering, &mut units);
    // Most are in order already, and this sort makes use of that.
    units.sort();
    units.dedup();
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

fn port_units(port: &Port, profile: u32, zones: u8, units: &mut Vec<Unit>) {
    // A complete configuration has given it a number.
    let Some(ofport) = port.ofport else { return };
    let secured = !port.port_security.0.is_empty();
    let guarded = GuardedPort { ofport, profile, zones, secured };
    units.push(Unit::Port(guarded));
    for pair in &port.port_security.0 {
        units.push(Unit::Mac(guarded, pair.mac));
        units.push(Unit::Pair(ofport, pair.mac, pair.ip));
    }
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

/// What profiles' rules come to.
fn rule_units(groups: &HashMap<&GroupName, &Group>, numbering: &mut Numbering, units: &mut Vec<Unit>) {
    let by_id: HashMap<u16, &Group> = groups.values().map(|group| (number(group), *group)).collect();
    let remote_of = |rule: &acl::Rule| match &rule.remote {
        Remote::Group(name) => groups.get(name).map(|group| number(group)),
        Remote::Any | Remote::Prefix(_) => None,
    };
    // For each profile, what each class is to it.
    let mut related: Vec<(u32, u32, Vec<u16>)> = Vec::new();
    for ((ids, ..), profile) in numbering.profiles.all() {
        let rules = ids.iter().filter_map(|id| by_id.get(id)).flat_map(|group| &group.rules);
        let named: BTreeSet<u16> = rules.filter_map(remote_of).collect();
        for (members, class) in numbering.classes.all() {
            let relation: Vec<u16> = members.iter().copied().filter(|id| named.contains(id)).collect();
            if !relation.is_empty() {
                related.push((profile, class, relation));
            }
        }
    }
    numbering.relations.settle(related.iter().map(|(.., relation)| relation));
    let mut relations: HashMap<u32, BTreeMap<u32, &[u16]>> = HashMap::new();
    for (profile, class, relation) in &related {
        let id = numbering.relations.of(relation);
        units.push(Unit::Relation(*profile, *class, id));
        relations.entry(*profile).or_default().insert(id, relation);
    }
    for (key, profile) in numbering.profiles.all() {
        let relations = relations.remove(&profile).unwrap_or_default();
        profile_units((key, profile), &by_id, (&relations, &remote_of), units);
    }
}

/// The group that a rule names, by number.
type RemoteOf<'r> = dyn Fn(&acl::Rule) -> Option<u16> + 'r;

fn profile_units(
    (key, id): (&ProfileKey, u32),
    by_id: &HashMap<u16, &Group>,
    (relations, remote_of): (&BTreeMap<u32, &[u16]>, &RemoteOf<'_>),
    units: &mut Vec<Unit>,
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
                Remote::Any => units.push(permit(Far::Any)),
                Remote::Prefix(prefix) => units.push(permit(Far::Prefix(*prefix))),
                Remote::Group(_) => {
                    let remote = remote_of(rule);
                    let about = |(_, groups): &(&u32, &&[u16])| remote.is_some_and(|id| groups.contains(&id));
                    units.extend(relations.iter().filter(about).map(|(id, _)| permit(Far::Relation(*id))));
                }
            }
        }
    }
    if *open {
        units.extend([Ethertype::Ipv4, Ethertype::Ipv6].map(|family| Unit::Permit(open_egress(id, family))));
    }
    units.push(Unit::Profile(profile));
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
