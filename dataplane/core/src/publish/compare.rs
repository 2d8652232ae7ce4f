//! What differs between two models: which ports, bridges, VLANs and routes workers have to look at again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::fdb::Flush;
use crate::key::{PortId, VtepId};
use crate::snapshot::{BridgeId, BridgeSpec, Model, Path, PortKind, PortSpec, Route};
use crate::vlan::VlanSet;

/// What has to be looked at again.
#[derive(Default)]
pub(super) struct Changes {
    pub ports: Vec<PortId>,
    pub paths: Vec<PortId>,
    pub bridges: Vec<BridgeId>,
    /// Bridges that come or go: their ports' packets have another fate even if the port stays as it is.
    pub homes: Vec<BridgeId>,
    /// Bridges whose VLAN-to-VNI map changes, or that come or go.
    pub maps: Vec<BridgeId>,
    pub tables: Vec<BridgeId>,
    pub port_lists: Vec<BridgeId>,
    pub vlans: HashMap<BridgeId, VlanSet>,
    pub vteps: Vec<VtepId>,
    pub flushes: Vec<(BridgeSpec, Flush)>,
    /// Whether routes come or go.
    pub routes: bool,
    pub other_routes: Vec<Route>,
    pub gone_routes: Vec<Route>,
}

pub(super) fn compare(old: &Model, new: &Model) -> Changes {
    let mut changes = Changes::default();
    compare_bridges(old, new, &mut changes);
    compare_ports(old, new, &mut changes);
    compare_routes(old, new, &mut changes);
    changes
}

fn compare_routes(old: &Model, new: &Model, changes: &mut Changes) {
    for (route, before) in &old.routes {
        match new.routes.get(route) {
            None => changes.gone_routes.push(*route),
            Some(after) if after != before => changes.other_routes.push(*route),
            Some(_) => {}
        }
    }
    changes.routes = !old.routes.keys().eq(new.routes.keys());
}

fn compare_bridges(old: &Model, new: &Model, changes: &mut Changes) {
    for (id, before, after) in pairs(&old.bridges, &new.bridges, |bridge| bridge.id) {
        if before == after {
            continue;
        }
        let vlans = changes.vlans.entry(id).or_insert_with(VlanSet::none);
        let (Some(before), Some(after)) = (before, after) else {
            *vlans = VlanSet::all();
            changes.homes.push(id);
            changes.maps.push(id);
            changes.bridges.push(id);
            changes.tables.push(id);
            changes.port_lists.push(id);
            continue;
        };
        if !Arc::ptr_eq(&before.flows, &after.flows) {
            changes.tables.push(id);
        }
        if before.vnis != after.vnis {
            changes.maps.push(id);
        }
        for (vid, ..) in
            pairs(&before.vnis, &after.vnis, |&(vid, _)| vid).into_iter().filter(|(_, old, new)| old != new)
        {
            vlans.insert(vid);
        }
        // The rest of the comparison: what is neither tables nor map.
        let rest = BridgeSpec { flows: Arc::clone(&after.flows), vnis: after.vnis.clone(), ..before.clone() };
        if rest != *after {
            changes.bridges.push(id);
        }
    }
}

fn compare_ports(old: &Model, new: &Model, changes: &mut Changes) {
    for (id, before, after) in pairs(&old.ports, &new.ports, |port| port.id) {
        if before == after {
            continue;
        }
        let pathless = |port: Option<&PortSpec>| port.map(without_path);
        if pathless(before) == pathless(after) {
            changes.paths.push(id);
            continue;
        }
        changes.ports.push(id);
        changes.paths.push(id);
        for (model, port) in [(old, before), (new, after)] {
            let Some((port, bridge)) = port.and_then(|port| Some((port, bridge_of(model, port)?))) else {
                continue;
            };
            changes.port_lists.push(bridge.id);
            let vlans = changes.vlans.entry(bridge.id).or_insert_with(VlanSet::none);
            for vid in port.member_vlans(&bridge.vnis).iter() {
                vlans.insert(vid);
            }
        }
        // Stations are forgotten when their VLAN, their bridge or the remote end may be another now.
        let place = |port: &PortSpec| (port.vlan.clone(), port.bridge, without_path(port).kind);
        let forgotten = before.filter(|before| after.is_none_or(|after| place(before) != place(after)));
        if let Some(bridge) = forgotten.and_then(|port| bridge_of(old, port)) {
            let statics = after.is_none_or(|after| after.bridge != Some(bridge.id));
            changes.flushes.push((bridge.clone(), Flush { port: Some(id), vid: None, statics }));
        }
    }
}

fn bridge_of<'a>(model: &'a Model, port: &PortSpec) -> Option<&'a BridgeSpec> {
    model.bridges.iter().find(|bridge| Some(bridge.id) == port.bridge)
}

fn without_path(port: &PortSpec) -> PortSpec {
    let mut port = port.clone();
    if let PortKind::Tunnel(tunnel) = &mut port.kind {
        tunnel.path = Path::NoRoute;
    }
    port
}

/// Joins two lists by key: what is in either, with both sides.
fn pairs<'a, T, K: Ord + Copy>(
    old: &'a [T],
    new: &'a [T],
    key: impl Fn(&T) -> K,
) -> Vec<(K, Option<&'a T>, Option<&'a T>)> {
    let mut joined: BTreeMap<K, (Option<&T>, Option<&T>)> = BTreeMap::new();
    for item in old {
        joined.entry(key(item)).or_default().0 = Some(item);
    }
    for item in new {
        joined.entry(key(item)).or_default().1 = Some(item);
    }
    joined.into_iter().map(|(key, (old, new))| (key, old, new)).collect()
}

/// A patch port leads somewhere else when its peer comes, goes or changes.
pub(super) fn note_peers(model: &Model, changes: &mut Changes) {
    for port in &model.ports {
        if let PortKind::Patch(Some(peer)) = port.kind
            && changes.ports.contains(&peer)
            && !changes.ports.contains(&port.id)
        {
            changes.ports.push(port.id);
        }
    }
}
