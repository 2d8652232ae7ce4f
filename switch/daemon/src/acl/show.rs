//! What there is to say about groups and guarded ports.

use std::collections::HashMap;

use weft_config::acl::{Group, GroupName};
use weft_config::control::{AclGroupStatus, AclPortStatus, AclRuleStatus, Code, Counted, Refusal, Reply};
use weft_config::model::Bridge;
use weft_config::port::Port;
use weft_wire::{DropReason, OfPort, PortName};

use super::cookie::{self, Cookie};
use super::guard;
use crate::switch::Switch;

/// What guards drop packets for.
const REASONS: [DropReason; 10] = [
    DropReason::SpoofedMac,
    DropReason::SpoofedIp,
    DropReason::SpoofedArp,
    DropReason::SpoofedNd,
    DropReason::RogueRa,
    DropReason::RogueDhcp,
    DropReason::RogueDhcpv6,
    DropReason::AclEgress,
    DropReason::AclIngress,
    DropReason::AclInvalid,
];

/// Whose rules of weft's own tables are, in words.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    ports: HashMap<OfPort, PortName>,
    groups: HashMap<u16, GroupName>,
    /// The groups of profiles, and of classes.
    profiles: HashMap<u32, String>,
    classes: HashMap<u32, String>,
}

impl Owners {
    /// "group web, rule 2"; empty if the cookie is none of weft's.
    pub fn of(&self, number: u64) -> String {
        let named =
            |names: &HashMap<u32, String>, id| names.get(&id).cloned().unwrap_or_else(|| "?".to_owned());
        match Cookie::of(number) {
            None => String::new(),
            Some(Cookie::Fixed) => "all guarded ports".to_owned(),
            Some(Cookie::Rule(group, rule)) => match self.groups.get(&group) {
                Some(name) => format!("group {name}, rule {rule}"),
                None => format!("group number {group}, rule {rule}"),
            },
            Some(Cookie::Port(port)) => match self.ports.get(&port) {
                Some(name) => format!("port {name}"),
                None => format!("port number {port}"),
            },
            Some(Cookie::Profile(id)) => format!("ports of {}", named(&self.profiles, id)),
            Some(Cookie::Class(id)) => format!("members of {}", named(&self.classes, id)),
            Some(Cookie::Open(id)) => format!("acl_egress=open, ports of {}", named(&self.profiles, id)),
        }
    }
}

impl Switch {
    /// Whose the rules of a bridge's own tables are.
    pub(crate) fn own_rule_owners(&self, bridge: &PortName) -> Owners {
        let Some(guarded) = self.acl.bridges.get(bridge) else { return Owners::default() };
        let name = |id: &u16| cookie::group(&self.config, *id).map(|group| &group.name);
        let numbering = &guarded.compiled.numbering;
        let config = self.config.bridge(bridge.as_str());
        let ports = config.map(|bridge| bridge.ports.as_slice()).unwrap_or_default();
        let groups = self.config.acl.groups.iter();
        Owners {
            ports: ports.iter().filter_map(|port| Some((port.ofport?, port.name.clone()))).collect(),
            groups: groups.filter_map(|group| Some((group.id?.get() as u16, group.name.clone()))).collect(),
            profiles: numbering
                .profiles
                .all()
                .map(|((ids, ..), id)| (id, cookie::names(ids.iter().filter_map(name))))
                .collect(),
            classes: numbering
                .classes
                .all()
                .map(|(ids, id)| (id, cookie::names(ids.iter().filter_map(name))))
                .collect(),
        }
    }

    /// `weftctl acl show`
    pub(crate) fn show_acl(&self, name: Option<&str>) -> Result<Reply, Refusal> {
        self.datapath.settle().map_err(|error| Refusal::new(Code::Failed, error))?;
        let mut counted: HashMap<u64, (u64, u64)> = HashMap::new();
        for (bridge, guarded) in &self.acl.bridges {
            let Some(state) = self.bridges.get(bridge) else { continue };
            for (cookie, (packets, bytes)) in guarded.compiled.counted(&state.flows.load()) {
                let sum = counted.entry(cookie).or_default();
                *sum = (sum.0 + packets, sum.1 + bytes);
            }
        }
        let wanted = |own: &str| name.is_none_or(|name| name == own);
        let groups = self.config.acl.groups.iter().filter(|group| wanted(group.name.as_str()));
        let groups: Vec<AclGroupStatus> = groups.map(|group| self.group_status(group, &counted)).collect();
        let of = |bridge| move |port| (bridge, port);
        let ports = self.config.bridges.iter().flat_map(|bridge| bridge.ports.iter().map(of(bridge)));
        let ports = ports.filter(|(_, port): &(_, &Port)| guard(port).from && wanted(port.name.as_str()));
        let ports: Vec<AclPortStatus> = ports.map(|(bridge, port)| self.port_guards(bridge, port)).collect();
        match name {
            Some(name) if groups.is_empty() && ports.is_empty() => {
                let line = match self.config.port(name) {
                    Some(_) => format!("port {name} is bound to no group, and may send from any address"),
                    None => format!("there is no group or port '{name}'"),
                };
                Err(Refusal::new(Code::NotFound, line))
            }
            _ => Ok(Reply::Acl { groups, ports }),
        }
    }

    fn group_status(&self, group: &Group, counted: &HashMap<u64, (u64, u64)>) -> AclGroupStatus {
        let id = group.id.map_or(0, |id| id.get());
        let status = |rule: &weft_config::acl::Rule| {
            let number = rule.id.map_or(0, |id| id.get());
            let cookie = Cookie::Rule(id as u16, number as u16).number();
            let counted = Counted::from(counted.get(&cookie).copied().unwrap_or_default());
            AclRuleStatus { id: number, cookie, text: rule.to_string(), counted }
        };
        let mut rules: Vec<AclRuleStatus> = group.rules.iter().map(status).collect();
        rules.sort_by_key(|rule| rule.id);
        let sum = |of: fn(&Counted) -> u64| rules.iter().map(|rule| of(&rule.counted)).sum();
        let ports = self.config.bridges.iter().flat_map(|bridge| &bridge.ports);
        AclGroupStatus {
            name: group.name.to_string(),
            id,
            members: group.members.iter().map(ToString::to_string).collect(),
            ports: ports
                .filter(|port| port.acl.0.contains(&group.name))
                .map(|port| port.name.clone())
                .collect(),
            counted: Counted { packets: sum(|counted| counted.packets), bytes: sum(|counted| counted.bytes) },
            rules,
        }
    }

    fn port_guards(&self, bridge: &Bridge, port: &Port) -> AclPortStatus {
        let totals = self.ports.get(&port.name).map(|state| self.datapath.port_totals(state.id));
        let drops = REASONS.iter().filter_map(|reason| {
            let packets = totals.as_ref().map_or(0, |totals| totals.drops.get(*reason));
            (packets > 0).then(|| (reason.name().to_owned(), packets))
        });
        let zones = self.acl.bridges.get(&bridge.name).map_or(0, |guarded| guarded.zones);
        AclPortStatus {
            bridge: bridge.name.clone(),
            name: port.name.clone(),
            groups: port.acl.0.iter().map(ToString::to_string).collect(),
            egress: port.acl_egress.to_string(),
            multicast: port.acl_multicast,
            security: port.port_security.0.iter().map(ToString::to_string).collect(),
            zones: if guard(port).to { u32::from(zones) << 12 } else { 0 },
            drops: drops.collect(),
        }
    }
}
