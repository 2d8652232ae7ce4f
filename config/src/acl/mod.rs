//! Security groups: `[[acl.group]]` with members and rules, and which groups a port is bound to.
//!
//! A group says who its members are (addresses of its own, and those of the ports bound to it) and what its ports may
//! send and receive. Ports name groups ([`crate::Port::acl`]), rules name groups as their remote side. Numbers (`id`) are
//! given when they are absent, and kept: cookies are made of them.

mod change;
mod check;
mod difference;
mod value;

pub use check::Queries;
pub use value::{Decision, Direction, Ethertype, GroupName, IcmpMatch, List, Pair, Pairs, PortRange, Prefix};
pub use value::{Protocol, Remote};

pub(crate) use difference::differences;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::Config;
use crate::port::PortType;
use crate::validate::{Invalid, KeyPath, Problem};
use crate::value::{Bounded, is_default, optional, scalar};

/// The number of a group, or of a rule in its group.
pub type AclId = Bounded<1, 65_535, 1>;

/// `[acl]`: security groups.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acl {
    /// In the order in which they were added.
    #[serde(rename = "group", default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
}

/// `[[acl.group]]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Unique among groups.
    #[serde(deserialize_with = "scalar")]
    pub name: GroupName,
    /// Its number, 1 to 65535; given by the switch when absent, and kept from then on.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub id: Option<AclId>,
    /// Addresses that belong to it, besides those of its ports.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub members: BTreeSet<Prefix>,
    /// What its ports may send and receive. Nothing else.
    #[serde(rename = "rule", default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// `[[acl.group.rule]]`: what may pass.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its number in the group, 1 to 65535; given by the switch when absent, and kept from then on.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub id: Option<AclId>,
    /// Who starts it, seen from the group's ports.
    pub direction: Direction,
    /// The family.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ethertype: Ethertype,
    /// The protocol.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: Protocol,
    /// Destination ports.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortRange>,
    /// ICMP's type, and code.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub icmp: Option<IcmpMatch>,
    /// The other side.
    #[serde(default, skip_serializing_if = "is_default")]
    pub remote: Remote,
    /// Only packets of this direction, each by itself: answers need a rule of their own.
    #[serde(default, deserialize_with = "scalar", skip_serializing_if = "is_default")]
    pub stateless: bool,
}

impl Acl {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The group of that name.
    pub fn group(&self, name: &GroupName) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == *name)
    }
}

impl Group {
    /// A group without members and rules.
    pub fn new(name: GroupName) -> Group {
        Group { name, id: None, members: BTreeSet::new(), rules: Vec::new() }
    }

    /// The rule of that number.
    pub fn rule(&self, id: AclId) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.id == Some(id))
    }
}

impl Rule {
    /// Whether both permit the same, whatever their numbers.
    pub fn permits_the_same(&self, other: &Rule) -> bool {
        Rule { id: None, ..self.clone() } == Rule { id: None, ..other.clone() }
    }
}

impl std::fmt::Display for Rule {
    /// `ingress ipv4 tcp ports=22 remote=10.0.0.0/8`
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {} {}", self.direction, self.ethertype, self.protocol)?;
        if let Some(ports) = self.ports {
            write!(out, " ports={ports}")?;
        }
        if let Some(icmp) = self.icmp {
            write!(out, " icmp={icmp}")?;
        }
        if self.remote != Remote::Any {
            write!(out, " remote={}", self.remote)?;
        }
        out.write_str(if self.stateless { " stateless" } else { "" })
    }
}

/// Everything about groups and who names them.
pub(crate) fn check(config: &Config) -> Result<(), Invalid> {
    let refuse = |at: &KeyPath, key: &str, problem| Err(Invalid { at: at.key(key), problem });
    let acl = KeyPath::default().key("acl");
    let names: BTreeSet<&GroupName> = config.acl.groups.iter().map(|group| &group.name).collect();
    let (mut seen, mut ids) = (BTreeSet::new(), BTreeMap::new());
    for (index, group) in config.acl.groups.iter().enumerate() {
        let at = acl.item("group", index, &group.name);
        if !seen.insert(&group.name) {
            return refuse(&at, "name", Problem::GroupTwice { group: group.name.clone() });
        }
        if let Some(id) = group.id
            && let Some(other) = ids.insert(id, &group.name)
        {
            return refuse(&at, "id", Problem::GroupIdTaken { id: id.get(), other: other.clone() });
        }
        check_rules(group, &names, &at)?;
    }
    for (index, bridge) in config.bridges.iter().enumerate() {
        let at = KeyPath::default().item("bridge", index, &bridge.name);
        for (index, port) in bridge.ports.iter().enumerate() {
            let at = || at.item("port", index, &port.name);
            if let Some(group) = port.acl.0.iter().find(|name| !names.contains(name)) {
                return refuse(&at(), "acl", Problem::NoSuchGroup { group: group.clone() });
            }
            for (key, given) in
                [("acl", !port.acl.0.is_empty()), ("port_security", !port.port_security.0.is_empty())]
            {
                if given && port.kind == PortType::Patch {
                    let legal = "ports with a device";
                    return refuse(&at(), key, Problem::KeyOfOtherType { key, kind: port.kind, legal });
                }
            }
            let station = |pair: &&Pair| pair.mac.is_multicast() || pair.mac == weft_wire::Mac::ZERO;
            if let Some(pair) = port.port_security.0.iter().find(station) {
                return refuse(&at(), "port_security", Problem::NotAStation { mac: pair.mac });
            }
        }
    }
    check_bridges(config)
}

fn check_rules(group: &Group, names: &BTreeSet<&GroupName>, at: &KeyPath) -> Result<(), Invalid> {
    let mut ids = BTreeSet::new();
    let mut same: BTreeMap<String, usize> = BTreeMap::new();
    for (index, rule) in group.rules.iter().enumerate() {
        let number = rule.id.map_or(index, |id| id.get() as usize);
        let at = at.item("rule", index, &number);
        let refuse = |key: &str, problem| Err(Invalid { at: at.key(key), problem });
        rule.check().or_else(|(key, problem)| refuse(key, problem))?;
        if let Remote::Group(name) = &rule.remote
            && !names.contains(name)
        {
            return refuse("remote", Problem::NoSuchGroup { group: name.clone() });
        }
        if rule.id.is_some_and(|id| !ids.insert(id)) {
            return refuse("id", Problem::RuleIdTaken { id: number });
        }
        if let Some(other) = same.insert(rule.to_string(), number) {
            return refuse("direction", Problem::RuleTwice { other });
        }
    }
    Ok(())
}

/// How many bridges can have ports that are bound to groups: each takes 4096 conntrack zones, and users keep as many.
pub const MAX_BRIDGES: usize = 15;

fn check_bridges(config: &Config) -> Result<(), Invalid> {
    let bound = |bridge: &&crate::Bridge| bridge.ports.iter().any(|port| !port.acl.0.is_empty());
    let count = config.bridges.iter().filter(bound).count();
    if count > MAX_BRIDGES {
        let at = KeyPath::default().key("acl");
        return Err(Invalid { at, problem: Problem::TooManyGuardedBridges { count } });
    }
    Ok(())
}
