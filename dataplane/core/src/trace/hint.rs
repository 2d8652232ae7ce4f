//! Why nothing leaves, in terms of what somebody could change.

use weft_wire::{DropReason, Tci};

use super::fields::tag;
use super::{RuleText, Trace, What};
use crate::snapshot::{PortSpec, Remote, Routes, TunnelKeys};
use crate::tables::TableId;
use crate::vlan::{VlanMode, VlanSet};

/// Where a walk is when something is refused.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// The bridge.
    pub bridge: &'a str,
    /// The port by which the packet came in there.
    pub port: Option<&'a PortSpec>,
    /// The tag that the packet has.
    pub tci: Tci,
    /// The last look-up.
    pub looked: Looked<'a>,
    /// The action.
    pub action: &'a str,
    /// The port that a copy was to leave by.
    pub towards: Option<&'a PortSpec>,
    /// What NORMAL said of VLAN and destination.
    pub vid: Option<u16>,
    /// Where a tunnel is to take the packet, if the flow says it.
    pub sent_to: std::net::Ipv4Addr,
    /// The tunnel's key and remote end.
    pub tunnel: (u32, std::net::Ipv4Addr),
}

/// One line, without a full stop.
pub(super) fn hint(reason: DropReason, place: Place<'_>) -> String {
    let Place { bridge, action, .. } = place;
    let port = place.port.map_or("?", |port| &*port.name);
    let towards = place.towards.map_or("?", |port| &*port.name);
    let vid = place.vid.map_or("?".to_owned(), |vid| vid.to_string());
    let rule = place.rule_words();
    match reason {
        DropReason::NoBridge => format!("port {port} belongs to no bridge"),
        DropReason::VlanNotAdmitted => place.admission(port),
        DropReason::LinkLocalReserved => {
            format!("bridge {bridge} does not forward reserved addresses; forward_reserved=true would")
        }
        DropReason::SamePort if action.ends_with("NORMAL") => {
            format!("the destination is behind port {port}, where the packet came in")
        }
        DropReason::SamePort => {
            format!("{rule} outputs to the port where the packet came in; in_port would send it back")
        }
        DropReason::NoDestination if place.towards.is_some() => {
            format!("ports {port} and {towards} are both protected")
        }
        DropReason::NoDestination => {
            format!(
                "no other port of bridge {bridge} that is up and not protected from {port} carries VLAN {vid}"
            )
        }
        DropReason::SplitHorizon => {
            format!(
                "it came in by tunnel {port}, and NORMAL sends nothing from tunnel to tunnel; a rule's output can"
            )
        }
        DropReason::TableMiss => format!("{} has no rule for it", place.table_words()),
        DropReason::RuleDrop => place.ended(&rule),
        DropReason::NoSuchPort if place.towards.is_some() => {
            format!("patch port {towards} has no peer, or its peer is down")
        }
        DropReason::NoSuchPort => format!("bridge {bridge} has no port as '{action}' names it, in {rule}"),
        DropReason::NoSuchGroup => format!("bridge {bridge} has no such group: '{action}' in {rule}"),
        DropReason::NoLiveBucket => format!("no bucket of '{action}' has a port that is up, in {rule}"),
        DropReason::TtlExpired => format!("the time to live is 1 or 0 at '{action}' in {rule}"),
        DropReason::MplsUnparsed => unread(&rule),
        DropReason::AclEgress => closed(port, "may send it"),
        DropReason::AclIngress => closed(towards, "may get it"),
        DropReason::TunnelUnknown
        | DropReason::TunnelKeyUnknown
        | DropReason::VniUnmapped
        | DropReason::TunnelNoRoute
        | DropReason::TunnelNoRemote
        | DropReason::TunnelRemotesFull => place.tunnel_words(reason, towards, &vid),
        DropReason::TxPortDown => format!("port {towards} is down"),
        reason => format!("{} At {rule}", reason.text()),
    }
}

fn unread(rule: &str) -> String {
    format!(
        "{rule} takes a label off and looks behind it; a description doesn't say what is there: trace the frame itself"
    )
}

/// No security group permits it.
fn closed(port: &str, what: &str) -> String {
    format!("no group of port {port} says that it {what}: 'acl show {port}' lists its groups")
}

impl Place<'_> {
    fn table_words(&self) -> String {
        self.looked.table.map_or("no table".to_owned(), |table| {
            format!("table {table} of bridge {}", self.looked.bridge.unwrap_or(self.bridge))
        })
    }

    fn rule_words(&self) -> String {
        let Some(rule) = self.looked.rule else { return self.table_words() };
        let cookie = if rule.cookie == 0 { String::new() } else { format!(", cookie {:#x}", rule.cookie) };
        let matches = if rule.matches.is_empty() { "everything" } else { &rule.matches };
        format!("the rule of {}, priority {}{cookie}, matching {matches}", self.table_words(), rule.priority)
    }

    /// Why a tunnel doesn't take the packet.
    fn tunnel_words(&self, reason: DropReason, towards: &str, vid: &str) -> String {
        match reason {
            DropReason::TunnelUnknown => {
                format!("no tunnel of this local end has the remote end {}", self.tunnel.1)
            }
            DropReason::TunnelKeyUnknown => {
                format!(
                    "key {} is not mapped to a VLAN, and no tunnel to {} has it as its own",
                    self.tunnel.0, self.tunnel.1
                )
            }
            DropReason::VniUnmapped => {
                format!(
                    "VLAN {vid} has no VNI on bridge {}, or tunnel {towards} does not carry it",
                    self.bridge
                )
            }
            DropReason::TunnelNoRoute => {
                match self.towards.and_then(PortSpec::tunnel).map(|tunnel| tunnel.remote) {
                    Some(Remote::Flow) => {
                        format!(
                            "the kernel has no route to {}, to which tunnel {towards} is to take it",
                            self.sent_to
                        )
                    }
                    _ => format!("the kernel has no route to the remote end of tunnel {towards}"),
                }
            }
            DropReason::TunnelNoRemote => format!(
                "tunnel {towards} has remote=flow: a rule has to set tun_dst to a host's address before the output, as in set_field:192.0.2.2->tun_dst"
            ),
            DropReason::TunnelRemotesFull => format!(
                "rules send packets to {} remote ends already, and {} is none of them; those that no packet goes to are forgotten after a while",
                Routes::LIMIT,
                self.sent_to
            ),
            reason => reason.text().to_owned(),
        }
    }

    /// The walk came to its end without an output.
    fn ended(&self, rule: &str) -> String {
        match self.looked.rule {
            Some(found) if found.actions == "drop" => format!("{rule}, says drop"),
            Some(found) => format!("{rule}, ends without an output: {}", found.actions),
            None => format!(
                "{} has no rule for it, and a resubmit that finds none does nothing",
                self.table_words()
            ),
        }
    }

    fn admission(&self, name: &str) -> String {
        let admits = match self.port {
            Some(port) if matches!(port.tunnel().map(|tunnel| &tunnel.key), Some(TunnelKeys::Map(_))) => {
                "is a tunnel by map, inside which frames are untagged".to_owned()
            }
            Some(port) => match &port.vlan {
                VlanMode::Access(vid) => format!("admits VLAN {vid} only, untagged (access)"),
                VlanMode::Trunk(trunks) => format!("admits VLANs {} (trunk)", ranges(trunks)),
                VlanMode::NativeTagged(native, trunks) | VlanMode::NativeUntagged(native, trunks) => {
                    format!("admits VLANs {} and untagged frames as VLAN {native} (native)", ranges(trunks))
                }
            },
            None => "does not admit it".to_owned(),
        };
        format!(
            "port {name} {admits}; the packet is {}",
            match tag(self.tci).tag {
                None => "untagged (VLAN 0)".to_owned(),
                Some((vid, _)) => format!("tagged {vid}"),
            }
        )
    }
}

/// `1-5,7`
fn ranges(set: &VlanSet) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for vid in set.iter().map(|vid| vid.get()) {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == vid => *last = vid,
            _ => runs.push((vid, vid)),
        }
    }
    let words = runs.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    let words: Vec<String> = words.collect();
    if words.is_empty() { "none".to_owned() } else { words.join(",") }
}

/// A look-up that a walk came to.
#[derive(Clone, Copy, Default)]
pub(super) struct Looked<'a> {
    /// In a table of this bridge; none if there was no look-up.
    pub bridge: Option<&'a str>,
    /// The table.
    pub table: Option<TableId>,
    /// What it found.
    pub rule: Option<&'a RuleText>,
}

/// The last look-up of a walk. It may have been in another bridge than the one where the walk ended.
pub(super) fn last_lookup(trace: &Trace) -> Looked<'_> {
    let mut looked = Looked::default();
    // Steps from the look-up outwards: each stands further out than the one before.
    let mut depth = u16::MAX;
    for step in trace.steps.iter().rev() {
        match &step.what {
            What::Lookup { table, rule } if looked.table.is_none() => {
                (looked.table, looked.rule) = (Some(*table), rule.as_ref());
                depth = step.depth;
            }
            _ if looked.table.is_none() || step.depth >= depth => {}
            What::Bridge { bridge, .. } => {
                looked.bridge = Some(bridge);
                return looked;
            }
            _ => depth = step.depth,
        }
    }
    looked
}
