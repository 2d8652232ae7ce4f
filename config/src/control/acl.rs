//! Security groups over the control protocol: what there is, and what it has counted. (They are changed like the rest of
//! the configuration.)

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weft_wire::PortName;

use super::flow::Counted;

/// A security group.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AclGroupStatus {
    /// Its name.
    pub name: String,
    /// Its number, as cookies have it.
    pub id: u32,
    /// Addresses of its own.
    pub members: Vec<String>,
    /// The ports that are bound to it, by name.
    pub ports: Vec<PortName>,
    /// Its rules, in order of their numbers.
    pub rules: Vec<AclRuleStatus>,
    /// What all of its rules have let pass.
    pub counted: Counted,
}

/// A rule of a group.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AclRuleStatus {
    /// Its number in the group.
    pub id: u32,
    /// The cookie of what it becomes.
    pub cookie: u64,
    /// What it permits: `ingress ipv4 tcp ports=22 remote=10.0.0.0/8`.
    pub text: String,
    /// What it has let pass. A packet that several rules permit is counted at one of them.
    pub counted: Counted,
}

/// A port with a guard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AclPortStatus {
    /// Its bridge.
    pub bridge: PortName,
    /// Its name.
    pub name: PortName,
    /// The groups that it is bound to; none: whatever it sends from its addresses may pass.
    pub groups: Vec<String>,
    /// `deny` or `open`: what it sends and no rule is about.
    pub egress: String,
    /// Whether IGMP and MLD pass.
    pub multicast: bool,
    /// The addresses that it may send from, `MAC IP` each; none: all.
    pub security: Vec<String>,
    /// The first zone of its bridge's connections: a VLAN's zone is that number above it. 0 if it is bound to no group.
    pub zones: u32,
    /// What its guards have dropped, by reason: from it, and to it.
    pub drops: BTreeMap<String, u64>,
}
