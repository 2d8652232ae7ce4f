//! The case in weft: the same two bridges.

use weft_core::key::{Ingress, PortId};
use weft_core::parse;
use weft_core::snapshot::PortKind;
use weft_core::tables::Change;
use weft_core::trace::Trace;
use weft_core::vlan::VlanMode;
use weft_flow::message::{FlowCommand, GroupCommand};
use weft_flow::text::{NoNames, parse_flow, parse_group};

use crate::case::{Case, Offer, Outcome, Tables};
use crate::rig::{Rig, vid, vids};
use crate::{PATCHES, PORTS};

pub struct Weft {
    pub rig: Rig,
}

/// The port's modes, from Open vSwitch's columns.
fn mode(columns: &str) -> VlanMode {
    let column = |name: &str| columns.split_whitespace().find_map(|word| word.strip_prefix(name));
    let trunks: Option<Vec<u16>> =
        column("trunks=").map(|list| list.split(',').map(|number| number.parse().unwrap()).collect());
    let trunks = trunks.map(|list| vids(&list));
    match (column("tag=").map(|tag| vid(tag.parse().unwrap())), column("vlan_mode=")) {
        (Some(tag), Some("native-untagged")) => VlanMode::native(tag, trunks, false),
        (Some(tag), None) => VlanMode::Access(tag),
        (None, None) => VlanMode::Trunk(trunks.unwrap_or_else(weft_core::vlan::VlanSet::all)),
        _ => panic!("{columns}"),
    }
}

fn changes(tables: &Tables) -> Result<Vec<Change>, String> {
    let said = |line: &str, error: &dyn std::fmt::Display| format!("{line}: {error}");
    let delete = parse_flow("", FlowCommand::Delete, &NoNames).unwrap();
    let mut changes = vec![Change::Flow(delete)];
    for line in &tables.groups {
        let group = parse_group(line, GroupCommand::Add, &NoNames).map_err(|error| said(line, &error))?;
        changes.push(Change::Group(group));
    }
    for line in &tables.rules {
        let flow = parse_flow(line, FlowCommand::Add, &NoNames).map_err(|error| said(line, &error))?;
        changes.push(Change::Flow(flow));
    }
    Ok(changes)
}

impl Weft {
    /// A switch with the case's rules, or what it has against them.
    pub fn load(case: &Case) -> Result<Weft, String> {
        let mut rig = Rig::with_bridge(1);
        rig.add_bridge(1);
        for port in PORTS {
            rig.add_device_to(port.number - 1, port.bridge, mode(port.columns));
        }
        for (bridge, number) in (0..).zip(PATCHES) {
            let peer = PATCHES.into_iter().find(|&other| other != number).map(|peer| PortId(peer - 1));
            rig.add_port(number - 1, Some(bridge), mode(""), PortKind::Patch(peer));
        }
        rig.publish();
        for (bridge, tables) in (0..).zip(&case.tables) {
            let changes = changes(tables)?;
            let result = rig.datapath.change_flows(weft_core::snapshot::BridgeId(bridge), &changes, rig.now);
            result.map_err(|error| format!("{error}: {tables:#?}"))?;
        }
        Ok(Weft { rig })
    }

    pub fn exchange(&mut self, offer: &Offer) -> Outcome {
        let mut outcome = Outcome::new();
        for (port, frame) in self.rig.exchange(offer.port - 1, offer.octets.clone()) {
            outcome.entry(port + 1).or_default().push(frame);
        }
        outcome
    }

    pub fn trace(&self, offer: &Offer) -> Trace {
        let key = parse::full(&offer.octets, Ingress::port(PortId(offer.port - 1))).unwrap();
        self.rig.trace(&key, Some(&offer.octets))
    }
}
