//! From what the control plane wants to what workers see, moving on no epoch but those of what has changed.

mod compare;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use weft_wire::{TunnelKind, Vid};

use crate::epoch::{Cell, Dep, Epochs, OutOfCells};
use crate::key::{KeyMask, PortId, VtepId};
use crate::masks::{self, OwnReads, Reads, Seen};
use crate::snapshot::{
    Bridge, BridgeId, BridgeSpec, Model, Path, Port, PortSpec, Remote, Route, Routes, Snapshot, TunnelKeys,
    Vtep,
};
use compare::{Changes, compare, note_peers};

/// VLANs of a bridge, as an array length.
const VLANS: usize = 4096;

/// Where the cells of a bridge's VLANs start among its cells.
const FIRST_VLAN: usize = 3;

/// The published snapshot, shared by the control thread and all workers.
#[derive(Debug)]
pub struct Published {
    snapshot: ArcSwap<Snapshot>,
    generation: AtomicU64,
}

impl Published {
    /// An empty switch.
    pub fn new() -> Self {
        Published { snapshot: ArcSwap::from_pointee(Snapshot::default()), generation: AtomicU64::new(0) }
    }

    /// The number of the latest snapshot: a cheap look, once per burst.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The latest snapshot.
    pub fn load(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    fn store(&self, snapshot: Arc<Snapshot>) {
        let generation = snapshot.generation;
        self.snapshot.store(snapshot);
        self.generation.store(generation, Ordering::Release);
    }
}

impl Default for Published {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes snapshots; belongs to the control thread.
#[derive(Debug)]
pub struct Publisher {
    epochs: Arc<Epochs>,
    published: Arc<Published>,
    /// The snapshot before the published one: held so that no worker is the last to let go of it, and frees it.
    retired: Arc<Snapshot>,
    model: Model,
    /// One cell per port: its settings. Then one per port: its tunnel's path.
    port_cells: Cell,
    vtep_cells: Cell,
    /// Per bridge: settings, flow tables, the list of its ports, and then one cell per VLAN.
    bridge_cells: HashMap<BridgeId, Cell>,
    /// The cell for routes that come and go, and one for each route's path.
    routes_cell: Cell,
    route_cells: HashMap<Route, Cell>,
    /// What bridges' tables were taken to read when masks were made last.
    reads: OwnReads,
}

impl Publisher {
    /// A publisher of an empty switch.
    pub fn new(epochs: Arc<Epochs>, published: Arc<Published>) -> Result<Self, OutOfCells> {
        let port_cells = epochs.allocate(2 * PortId::COUNT)?;
        let vtep_cells = epochs.allocate(VtepId::COUNT)?;
        let routes_cell = epochs.allocate(1)?;
        Ok(Publisher {
            epochs,
            retired: published.load(),
            published,
            model: Model::default(),
            port_cells,
            vtep_cells,
            bridge_cells: HashMap::new(),
            routes_cell,
            route_cells: HashMap::new(),
            reads: OwnReads::new(),
        })
    }

    /// What was published last.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Publishes `model`: the next packet of any worker meets it. Equal parts are not touched.
    pub fn publish(&mut self, model: Model) -> Result<Arc<Snapshot>, OutOfCells> {
        self.publish_with(model, None)
    }

    fn publish_with(
        &mut self,
        model: Model,
        coming: Option<(BridgeId, &Reads)>,
    ) -> Result<Arc<Snapshot>, OutOfCells> {
        for bridge in &model.bridges {
            if !self.bridge_cells.contains_key(&bridge.id) {
                self.bridge_cells.insert(bridge.id, self.epochs.allocate(FIRST_VLAN + VLANS)?);
            }
        }
        for &route in model.routes.keys() {
            if !self.route_cells.contains_key(&route) {
                self.route_cells.insert(route, self.epochs.allocate(1)?);
            }
        }
        self.reads = masks::own_reads(&model);
        if let Some((own, coming)) = coming.and_then(|(id, coming)| Some((self.reads.get_mut(&id)?, coming)))
        {
            own.add(coming);
        }
        let old = self.published.load();
        let mut changes = compare(&self.model, &model);
        note_peers(&model, &mut changes);
        let snapshot = Arc::new(self.build(&old, &model, &mut changes));
        self.published.store(Arc::clone(&snapshot));
        self.advance(&changes);
        for route in changes.gone_routes.drain(..) {
            if let Some(cell) = self.route_cells.remove(&route) {
                self.epochs.release(cell, 1);
            }
        }
        self.epochs.publish();
        for (bridge, flush) in &changes.flushes {
            bridge.fdb.flush_for(snapshot.generation, *flush);
        }
        self.model = model;
        self.retired = old;
        Ok(snapshot)
    }

    /// Whether that is what the bridge's tables were taken to read when masks were made last: then they can stay.
    pub fn is_known(&self, bridge: BridgeId, reads: &Reads) -> bool {
        self.reads.get(&bridge) == Some(reads)
    }

    /// Whether packets of every port are read widely enough for a bridge's tables to read this, too.
    pub fn is_wide_enough(&self, bridge: BridgeId, coming: &Reads) -> bool {
        let mut reads = self.reads.clone();
        reads.entry(bridge).or_default().add(coming);
        self.compare_masks(&reads, |own, needed| own.union(needed) == *own)
    }

    /// A bridge's tables read this now. Whether packets of every port are read just as widely as that needs.
    pub fn is_exact(&mut self, bridge: BridgeId, now: Reads) -> bool {
        self.reads.insert(bridge, now);
        self.compare_masks(&self.reads, |own, needed| own == needed)
    }

    /// Whether masks compare so with those that `reads` would make, and lengths are the same.
    fn compare_masks(&self, reads: &OwnReads, fits: impl Fn(&Seen, &Seen) -> bool) -> bool {
        let masks = masks::of(&self.model, reads);
        let snapshot = self.published.load();
        masks.lengths == snapshot.lengths
            && snapshot
                .ports
                .iter()
                .flatten()
                .all(|port| masks.of_port(&port.spec).is_none_or(|seen| fits(&port.seen(), &seen)))
    }

    /// Publishes the same again, with key masks as the tables need them now, and for what a bridge's are about to read.
    pub fn widen(&mut self, coming: Option<(BridgeId, &Reads)>) -> Result<Arc<Snapshot>, OutOfCells> {
        self.publish_with(self.model.clone(), coming)
    }

    fn build(&self, old: &Snapshot, model: &Model, changes: &mut Changes) -> Snapshot {
        let masks = masks::of(model, &self.reads);
        let lengths = masks.lengths.clone();
        let other_lengths = lengths != old.lengths;
        let mut snapshot = Snapshot { generation: old.generation + 1, lengths, ..Snapshot::default() };
        for spec in &model.ports {
            // Even of a port without a bridge: packets of two ports are never one flow.
            let Seen { all: mask, apart } = masks.of_port(spec).unwrap_or(Seen::both(KeyMask::INGRESS));
            let other_class = other_lengths && mask.reads_length();
            let other_mask = old.port(spec.id).is_some_and(|port| port.mask != mask || other_class);
            let other_home = spec.bridge.is_some_and(|id| changes.homes.contains(&id));
            if (other_mask || other_home) && !changes.ports.contains(&spec.id) {
                changes.ports.push(spec.id);
            }
            let port = Port {
                spec: spec.clone(),
                dep: self.dep(self.port_cells.at(spec.id.index()), changes.ports.contains(&spec.id)),
                path_dep: self.dep(self.path_cell(spec.id), changes.paths.contains(&spec.id)),
                mask,
                apart,
            };
            put(&mut snapshot.ports, spec.id.index(), Arc::new(port));
        }
        snapshot.vteps = self.build_vteps(old, model, &masks.bridges, changes);
        snapshot.routes = self.build_routes(model, changes);
        for spec in &model.bridges {
            put(
                &mut snapshot.bridges,
                spec.id.0 as usize,
                Arc::new(self.build_bridge(spec, model, old, changes)),
            );
        }
        snapshot
    }

    fn build_bridge(&self, spec: &BridgeSpec, model: &Model, old: &Snapshot, changes: &Changes) -> Bridge {
        let cells = self.bridge_cells.get(&spec.id).copied().unwrap_or(Cell::NEVER);
        let changed = changes.vlans.get(&spec.id);
        let vlan_deps = match (old.bridge(spec.id), changed) {
            (Some(bridge), None) => Arc::clone(&bridge.vlan_deps),
            _ => (0..VLANS as u16)
                .map(|vid| {
                    let moves_on = changed.is_some_and(|vlans| vlans.contains(Vid::from_tci(vid)));
                    self.dep(cells.at(FIRST_VLAN + usize::from(vid)), moves_on)
                })
                .collect(),
        };
        let mut ports: Vec<&PortSpec> =
            model.ports.iter().filter(|port| port.bridge == Some(spec.id)).collect();
        ports.sort_by_key(|port| port.ofport);
        Bridge {
            dep: self.dep(cells, changes.bridges.contains(&spec.id)),
            table_dep: self.dep(cells.at(1), changes.tables.contains(&spec.id)),
            ports_dep: self.dep(cells.at(2), changes.port_lists.contains(&spec.id)),
            vlan_deps,
            ports: ports.iter().map(|port| port.id).collect(),
            vni_of: spec.vnis.iter().copied().collect(),
            vid_of: spec.vnis.iter().map(|&(vid, vni)| (vni, vid)).collect(),
            spec: spec.clone(),
        }
    }

    /// Groups tunnel ports by local end; a VTEP keeps its number as long as it has a tunnel.
    fn build_vteps(
        &self,
        old: &Snapshot,
        model: &Model,
        masks: &HashMap<BridgeId, Seen>,
        changes: &mut Changes,
    ) -> Vec<Vtep> {
        let mut vteps: Vec<Vtep> = Vec::new();
        for port in &model.ports {
            let (Some(tunnel), Some(bridge)) = (port.tunnel(), port.bridge) else { continue };
            // GRE has no port.
            let udp_port = if tunnel.kind == TunnelKind::Vxlan { tunnel.udp_port } else { 0 };
            let same =
                |vtep: &Vtep| (vtep.local, vtep.kind, vtep.udp_port) == (tunnel.local, tunnel.kind, udp_port);
            let at = vteps.iter().position(same).or_else(|| {
                let taken = |id: VtepId| old.vteps.iter().chain(&vteps).any(|vtep| vtep.id == id);
                let kept = old.vteps.iter().find(|vtep| same(vtep)).map(|vtep| vtep.id);
                let id = kept.or_else(|| (0..VtepId::COUNT as u16).map(VtepId).find(|&id| !taken(id)))?;
                let (local, kind) = (tunnel.local, tunnel.kind);
                let (mask, tunnels) = (KeyMask::TUNNEL.union(&KeyMask::NORMAL), HashMap::new());
                vteps.push(Vtep { id, local, kind, udp_port, dep: Dep::NONE, mask, apart: mask, tunnels });
                Some(vteps.len() - 1)
            });
            let Some(vtep) = at.and_then(|at| vteps.get_mut(at)) else { continue };
            let seen = masks.get(&bridge).copied().unwrap_or(Seen::both(KeyMask::NORMAL));
            (vtep.mask, vtep.apart) = (vtep.mask.union(&seen.all), vtep.apart.union(&seen.apart));
            let fixed = match tunnel.key {
                TunnelKeys::Fixed(key) => Some(key),
                TunnelKeys::Map(_) | TunnelKeys::Flow => None,
            };
            let remote = match tunnel.remote {
                Remote::Fixed(address) => Some(address.to_bits()),
                Remote::Flow => None,
            };
            vtep.tunnels.entry((remote, fixed)).or_default().push(port.id);
        }
        for vtep in &mut vteps {
            let before = old.vtep(vtep.id);
            let users = |vtep: &Vtep| vtep.tunnels.values().flatten().any(|id| changes.ports.contains(id));
            let remapped = || {
                let homes = model
                    .ports
                    .iter()
                    .filter(|port| vtep.tunnels.values().flatten().any(|&id| id == port.id));
                homes.filter_map(|port| port.bridge).any(|bridge| changes.maps.contains(&bridge))
            };
            let same = before.is_some_and(|old| old.tunnels == vtep.tunnels && old.mask == vtep.mask);
            if !same || users(vtep) || remapped() {
                changes.vteps.push(vtep.id);
            }
            vtep.dep = self.dep(self.vtep_cells.at(vtep.id.index()), changes.vteps.contains(&vtep.id));
        }
        vteps
    }

    fn build_routes(&self, model: &Model, changes: &Changes) -> Routes {
        let known = |(route, path): (&Route, &Path)| {
            let cell = *self.route_cells.get(route)?;
            Some((*route, (path.clone(), self.dep(cell, changes.other_routes.contains(route)))))
        };
        Routes {
            known: model.routes.iter().filter_map(known).collect(),
            dep: self.dep(self.routes_cell, changes.routes),
        }
    }

    fn path_cell(&self, id: PortId) -> Cell {
        self.port_cells.at(PortId::COUNT + id.index())
    }

    /// The state of a cell once this publication is out.
    fn dep(&self, cell: Cell, changes: bool) -> Dep {
        if changes { self.epochs.next(cell) } else { self.epochs.observe(cell) }
    }

    fn advance(&self, changes: &Changes) {
        for id in &changes.ports {
            self.epochs.advance(self.port_cells.at(id.index()));
        }
        for &id in &changes.paths {
            self.epochs.advance(self.path_cell(id));
        }
        for cell in changes.other_routes.iter().filter_map(|route| self.route_cells.get(route)) {
            self.epochs.advance(*cell);
        }
        if changes.routes {
            self.epochs.advance(self.routes_cell);
        }
        for id in &changes.vteps {
            self.epochs.advance(self.vtep_cells.at(id.index()));
        }
        let cells = |id: &BridgeId| self.bridge_cells.get(id).copied();
        for cell in changes.bridges.iter().filter_map(cells) {
            self.epochs.advance(cell);
        }
        for cell in changes.tables.iter().filter_map(cells) {
            self.epochs.advance(cell.at(1));
        }
        changes_once(&changes.port_lists).iter().filter_map(cells).for_each(|cell| {
            self.epochs.advance(cell.at(2));
        });
        for (id, vlans) in &changes.vlans {
            let Some(cell) = cells(id) else { continue };
            for vid in vlans.iter() {
                self.epochs.advance(cell.at(FIRST_VLAN + vid.index()));
            }
        }
    }
}

/// A cell must advance by exactly one step, as the snapshot has promised.
fn changes_once(ids: &[BridgeId]) -> BTreeSet<BridgeId> {
    ids.iter().copied().collect()
}

fn put<T>(table: &mut Vec<Option<T>>, index: usize, value: T) {
    if table.len() <= index {
        table.resize_with(index + 1, || None);
    }
    table[index] = Some(value);
}
