//! `weftctl acl`: security groups, what ports are bound to them, and what they have let pass.

use std::fmt::Write as _;

use clap::Subcommand;
use serde_json::{Value as Json, json};
use weft_config::acl::{AclId, Group, GroupName, List, Prefix, Rule};
use weft_config::control::{AclGroupStatus, AclPortStatus, Op};
use weft_config::keys;
use weft_config::{Change, acl};
use weft_wire::PortName;

use crate::args::list;
use crate::request::{UsageError, json_pairs, one, read, value};

/// `weftctl acl`
#[derive(Subcommand, Debug)]
pub enum AclCommand {
    /// Groups.
    Group {
        #[command(subcommand)]
        command: GroupCommand,
    },
    /// Rules of a group: each permits something, and what none permits is dropped.
    Rule {
        #[command(subcommand)]
        command: RuleCommand,
    },
    /// Addresses of a group, besides those of its ports (their port_security).
    Member {
        #[command(subcommand)]
        command: MemberCommand,
    },
    /// Bind a port to these groups and no others; to none, it is guarded by none.
    Bind {
        port: String,
        #[arg(value_name = "GROUP")]
        groups: Vec<String>,
    },
    /// Show groups and guarded ports, or one of them, with what they have counted.
    Show {
        #[arg(value_name = "GROUP|PORT")]
        name: Option<String>,
    },
}

/// `weftctl acl group`
#[derive(Subcommand, Debug)]
pub enum GroupCommand {
    /// Add a group, without members and rules.
    Add { name: String },
    /// Remove a group that no port and no rule names.
    Del { name: String },
}

/// `weftctl acl rule`
#[derive(Subcommand, Debug)]
pub enum RuleCommand {
    /// Add a rule to a group.
    #[command(after_help = list(keys::ACL_RULE))]
    Add {
        group: String,
        #[arg(value_name = "ingress|egress")]
        direction: String,
        #[arg(value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Remove a rule, by the number that show has.
    Del { group: String, id: String },
}

/// `weftctl acl member`
#[derive(Subcommand, Debug)]
pub enum MemberCommand {
    /// Add addresses or networks to a group.
    Add {
        group: String,
        #[arg(value_name = "ADDRESS", required = true)]
        addresses: Vec<String>,
    },
    /// Remove addresses or networks from a group.
    Del {
        group: String,
        #[arg(value_name = "ADDRESS", required = true)]
        addresses: Vec<String>,
    },
}

/// What a command asks.
pub fn operation(command: &AclCommand) -> Result<Op, UsageError> {
    Ok(match command {
        AclCommand::Group { command: GroupCommand::Add { name } } => {
            one(Change::AclGroupAdd { group: Box::new(Group::new(value("group", name)?)) })
        }
        AclCommand::Group { command: GroupCommand::Del { name } } => {
            one(Change::AclGroupDel { name: value("group", name)? })
        }
        AclCommand::Rule { command: RuleCommand::Add { group, direction, set } } => {
            let name = value("group", group)?;
            one(Change::AclRuleAdd { group: name, rule: Box::new(rule(group, direction, set)?) })
        }
        AclCommand::Rule { command: RuleCommand::Del { group, id } } => {
            let id: AclId = value("rule", id)?;
            one(Change::AclRuleDel { group: value("group", group)?, id })
        }
        AclCommand::Member { command } => members(command)?,
        AclCommand::Bind { port, groups } => {
            let groups: Vec<GroupName> =
                groups.iter().map(|group| value("group", group)).collect::<Result<_, _>>()?;
            let groups = List(groups).to_string();
            let acl = if groups.is_empty() { Json::Null } else { json!(groups) };
            let name: PortName = value("port", port)?;
            one(Change::PortSet { name, set: [("acl".to_owned(), acl)].into() })
        }
        AclCommand::Show { name } => Op::AclShow { name: name.clone() },
    })
}

fn rule(group: &str, direction: &str, set: &[String]) -> Result<Rule, UsageError> {
    let what = format!("rule of {group}");
    let keys: Vec<keys::Key> = keys::ACL_RULE.iter().copied().filter(|key| key.name != "direction").collect();
    let mut given = json_pairs(&what, set, &keys)?;
    given.retain(|_, value| !value.is_null());
    let _: acl::Direction = value("direction", direction)?;
    given.insert("direction".to_owned(), json!(direction));
    let rule: Rule = read(&what, given)?;
    rule.check().map_err(|(key, problem)| UsageError::Value {
        place: format!("{what}: {key}"),
        problem: problem.to_string(),
    })?;
    Ok(rule)
}

fn members(command: &MemberCommand) -> Result<Op, UsageError> {
    let (group, addresses, adds) = match command {
        MemberCommand::Add { group, addresses } => (group, addresses, true),
        MemberCommand::Del { group, addresses } => (group, addresses, false),
    };
    let group: GroupName = value("group", group)?;
    let change = |text: &String| {
        let (group, member) = (group.clone(), value::<Prefix>("member", text)?);
        Ok(match adds {
            true => Change::AclMemberAdd { group, member },
            false => Change::AclMemberDel { group, member },
        })
    };
    Ok(Op::Apply { changes: addresses.iter().map(change).collect::<Result<_, UsageError>>()? })
}

/// The text for people.
pub fn shown(groups: &[AclGroupStatus], ports: &[AclPortStatus]) -> String {
    let mut text = String::new();
    for group in groups {
        let _ = writeln!(text, "group {} (id {})", group.name, group.id);
        let members =
            if group.members.is_empty() { "none of its own".to_owned() } else { group.members.join(" ") };
        let _ = writeln!(text, "  members: {members}");
        let ports: Vec<&str> = group.ports.iter().map(PortName::as_str).collect();
        let ports = if ports.is_empty() { "none".to_owned() } else { ports.join(" ") };
        let _ = writeln!(text, "  ports: {ports}");
        for rule in &group.rules {
            let counted = &rule.counted;
            let _ = writeln!(
                text,
                "  rule {}: {}  (n_packets={}, n_bytes={})",
                rule.id, rule.text, counted.packets, counted.bytes
            );
        }
        if group.rules.is_empty() {
            text.push_str("  no rules: nothing may pass\n");
        }
    }
    for port in ports {
        let groups = if port.groups.is_empty() { "none".to_owned() } else { port.groups.join(" ") };
        let _ = writeln!(text, "port {} of bridge {}: groups {groups}", port.name, port.bridge);
        if !port.groups.is_empty() {
            let multicast = if port.multicast { ", IGMP and MLD pass" } else { "" };
            let zones = format!("{} to {}", port.zones, port.zones | 0xfff);
            let _ = writeln!(text, "  egress: {}{multicast}; zones {zones}", port.egress);
        }
        let security =
            if port.security.is_empty() { "any address".to_owned() } else { port.security.join(", ") };
        let _ = writeln!(text, "  may send from: {security}");
        for (reason, packets) in &port.drops {
            let _ = writeln!(text, "  dropped: {reason} {packets}");
        }
    }
    if text.is_empty() { "no groups, and no guarded ports\n".to_owned() } else { text }
}
