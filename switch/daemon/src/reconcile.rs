//! Making the switch equal to a configuration: whole, or not at all.
//!
//! In this order: everything new is opened, without traffic; devices take their new settings; those that have to be
//! opened in another way are closed and opened; the configuration is persisted; then ports come, go and change. What
//! fails before that last step is undone, so that a refused request leaves no trace; the last step does not fail for
//! reasons that a request could be refused for. What is equal is not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use weft_config::control::{Code, Refusal};
use weft_config::diff::diff;
use weft_config::model::{Bridge, StaticEntry};
use weft_config::port::PortType;
use weft_config::{Change, Config, Flush};
use weft_core::fdb::{self, Fdb};
use weft_core::key::{PortId, VtepId};
use weft_core::snapshot::BridgeId;
use weft_core::tables::FlowTables;
use weft_wire::PortName;

use crate::conntrack::zone_number;
use crate::device::{self, Handle, Opened, Settings, Wanted};
use crate::model::ends;
use crate::switch::{BridgeState, Live, PortState, Switch};

/// What to do when a port can't be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnAbsence {
    /// Refuse the request.
    Refuse,
    /// Have the port without its device, and try again later: at a restart, the device may come yet.
    Wait,
}

/// Devices that are open and not yet given to anybody.
type Staged = BTreeMap<PortName, (Wanted, Result<Opened, String>)>;

impl Switch {
    /// Makes the switch equal to `next`, which is valid and complete: by these changes, or for another reason. Returns the
    /// differences, one line each.
    pub fn reconcile(
        &mut self,
        next: Config,
        by: Option<&[Change]>,
        absence: OnAbsence,
    ) -> Result<Vec<String>, Refusal> {
        let lines: Vec<String> = diff(&self.config, &next).iter().map(ToString::to_string).collect();
        let same = self.config.bridges == next.bridges
            && self.config.switch == next.switch
            && self.config.conntrack == next.conntrack;
        if same && self.config.acl != next.acl {
            return self.reconcile_groups(next, by, lines);
        }
        let bridges = self.stage_bridges(&next)?;
        let wanted = wanted_devices(&next);
        self.check_room(&next, &wanted)?;
        let mut staged = self.stage_new(&wanted, absence)?;
        let mut undo = Vec::new();
        let outcome = self
            .change_settings(&wanted, absence, &mut undo)
            .and_then(|()| self.stage_changed(&wanted, absence, &mut staged))
            .and_then(|()| self.keep(&next, by, Flush::First));
        if let Err(refusal) = outcome {
            drop(staged);
            self.undo_settings(undo);
            // What had to be closed comes back.
            self.rest = Instant::now();
            self.check_devices();
            return Err(refusal);
        }
        let limits = weft_config::model::Switch {
            slow_path_share: next.switch.slow_path_share,
            port_flows: next.switch.port_flows,
            ..self.config.switch.clone()
        };
        let settings = limits != next.switch || self.config.conntrack.max != next.conntrack.max;
        let zones: Vec<u16> = self.config.conntrack.zones.iter().map(zone_number).collect();
        self.config = next;
        self.set_connection_limits(&zones);
        if settings && !lines.is_empty() {
            tracing::info!("[switch] settings and [conntrack] max take effect when weftd starts again");
        }
        self.commit(bridges, staged, &wanted);
        lines.iter().for_each(|line| tracing::info!("{line}"));
        Ok(lines)
    }

    /// The same where nothing but security groups can have changed: no port is touched, and nobody waits for the disk.
    fn reconcile_groups(
        &mut self,
        next: Config,
        by: Option<&[Change]>,
        lines: Vec<String>,
    ) -> Result<Vec<String>, Refusal> {
        self.keep(&next, by, Flush::Soon)?;
        self.config = next;
        let removals = self.add_own_rules();
        self.remove_own_rules(removals);
        lines.iter().for_each(|line| tracing::info!("{line}"));
        Ok(lines)
    }

    /// Persists what is to be.
    fn keep(&mut self, next: &Config, by: Option<&[Change]>, flush: Flush) -> Result<(), Refusal> {
        let kept = match by {
            Some(changes) => self.store.keep(changes, next, flush),
            None => self.store.save(next),
        };
        kept.map_err(|error| Refusal::new(Code::Failed, error))
    }

    /// Tables of bridges that are new, or whose FDB has another size.
    fn stage_bridges(&self, next: &Config) -> Result<BTreeMap<PortName, Arc<Fdb>>, Refusal> {
        let size_of = |name: &PortName| {
            self.config.bridges.iter().find(|bridge| bridge.name == *name).map(|bridge| bridge.fdb_size)
        };
        let changed = next.bridges.iter().filter(|bridge| {
            !self.bridges.contains_key(&bridge.name) || size_of(&bridge.name) != Some(bridge.fdb_size)
        });
        let make = |bridge: &Bridge| {
            let fdb = Fdb::new(&self.datapath.shared().epochs, bridge.fdb_size.get(), secret());
            let refusal = |error| Refusal::new(Code::Failed, format!("bridge {}: {error}", bridge.name));
            Ok((bridge.name.clone(), Arc::new(fdb.map_err(refusal)?)))
        };
        let vteps: BTreeSet<_> = next
            .bridges
            .iter()
            .flat_map(|bridge| &bridge.tunnels)
            .map(|tunnel| ends(tunnel).endpoint)
            .collect();
        if vteps.len() > VtepId::COUNT {
            let line =
                format!("{} local tunnel endpoints are too many: at most {}", vteps.len(), VtepId::COUNT);
            return Err(Refusal::new(Code::Refused, line));
        }
        if next.bridges.len() > BridgeId::COUNT {
            let line = format!("{} bridges are too many: at most {}", next.bridges.len(), BridgeId::COUNT);
            return Err(Refusal::new(Code::Refused, line));
        }
        changed.map(make).collect()
    }

    fn check_room(&self, next: &Config, wanted: &BTreeMap<PortName, Wanted>) -> Result<(), Refusal> {
        let tunnels = tunnel_names(next).len() + patch_names(next).len();
        let room = PortId::COUNT - wanted.len().min(PortId::COUNT);
        if tunnels + self.underlay.uplinks().count() <= room {
            return Ok(());
        }
        let ports = wanted.len() + tunnels;
        let line = format!("{ports} ports and tunnels are too many: at most {}", PortId::COUNT);
        Err(Refusal::new(Code::Refused, line))
    }

    /// Opens the devices of ports that are new, and of those whose device is absent or elsewhere and that want another
    /// one now.
    fn stage_new(
        &mut self,
        wanted: &BTreeMap<PortName, Wanted>,
        absence: OnAbsence,
    ) -> Result<Staged, Refusal> {
        let mut staged = Staged::new();
        for (name, wanted) in wanted {
            let serves = match self.ports.get(name).map(|port| &port.live) {
                Some(Live::Open(open, _)) => !open.is_elsewhere(wanted),
                Some(Live::Absent(absent, _)) => absent.same_device(wanted),
                Some(Live::Tunnel | Live::Patch) | None => false,
            };
            if !serves {
                let opened = self.stage_device(name, wanted, absence)?;
                staged.insert(name.clone(), (wanted.clone(), opened));
            }
        }
        Ok(staged)
    }

    /// Devices that have to be opened in another way: each is closed first, because it's the same device.
    fn stage_changed(
        &mut self,
        wanted: &BTreeMap<PortName, Wanted>,
        absence: OnAbsence,
        staged: &mut Staged,
    ) -> Result<(), Refusal> {
        for (name, wanted) in wanted {
            let Some(PortState { live: Live::Open(open, _), .. }) = self.ports.get(name) else { continue };
            if open.same_device(wanted) || staged.contains_key(name) {
                continue;
            }
            drop(self.close_device(name));
            let opened = self.stage_device(name, wanted, absence)?;
            staged.insert(name.clone(), (wanted.clone(), opened));
        }
        Ok(())
    }

    /// Takes the device away from a port that stays; to be dropped by the caller.
    fn close_device(&mut self, name: &PortName) -> Option<Box<Handle>> {
        let port = self.ports.get_mut(name)?;
        let Live::Open(open, _) = &port.live else { return None };
        let (id, absent) = (port.id, Live::Absent(open.clone(), "being changed".to_owned()));
        let Live::Open(_, handle) = std::mem::replace(&mut port.live, absent) else { return None };
        self.publish();
        self.remove_queues(id);
        Some(handle)
    }

    fn stage_device(
        &mut self,
        name: &PortName,
        wanted: &Wanted,
        absence: OnAbsence,
    ) -> Result<Result<Opened, String>, Refusal> {
        match device::open(wanted, &mut self.xdp) {
            Ok(opened) => Ok(Ok(opened)),
            Err(error) if absence == OnAbsence::Refuse => {
                Err(Refusal::new(Code::Failed, format!("port {name}: {error}")))
            }
            Err(error) => {
                tracing::warn!("port {name}: down: {error}");
                Ok(Err(error.to_string()))
            }
        }
    }

    /// MTUs, addresses and persistence that are other ones now; what they were before goes to `undo`.
    fn change_settings(
        &mut self,
        wanted: &BTreeMap<PortName, Wanted>,
        absence: OnAbsence,
        undo: &mut Vec<(PortName, Settings)>,
    ) -> Result<(), Refusal> {
        for (name, wanted) in wanted {
            let Some(PortState { live: Live::Open(open, handle), .. }) = self.ports.get(name) else {
                continue;
            };
            if open.settings == wanted.settings || !open.same_device(wanted) {
                continue;
            }
            let changed = handle.settings(&open.settings).and_then(|before| {
                undo.push((name.clone(), before));
                handle.set(wanted.settings)
            });
            match changed {
                Err(error) if absence == OnAbsence::Refuse => {
                    return Err(Refusal::new(Code::Failed, format!("port {name}: {error}")));
                }
                Err(error) => tracing::error!("port {name}: {error}"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn undo_settings(&self, undo: Vec<(PortName, Settings)>) {
        for (name, before) in undo {
            if let Some(PortState { live: Live::Open(_, handle), .. }) = self.ports.get(&name)
                && let Err(error) = handle.set(before)
            {
                tracing::error!("port {name}: {error}");
            }
        }
    }

    fn commit(
        &mut self,
        fdbs: BTreeMap<PortName, Arc<Fdb>>,
        staged: Staged,
        wanted: &BTreeMap<PortName, Wanted>,
    ) {
        let (tunnels, patches) = (tunnel_names(&self.config), patch_names(&self.config));
        // A name may pass from a port to a tunnel: that is another port.
        let gone = self.ports.extract_if(.., |name, port| match port.live {
            Live::Tunnel => !tunnels.contains(name),
            Live::Patch => !patches.contains(name),
            Live::Open(..) | Live::Absent(..) => !wanted.contains_key(name),
        });
        let gone: Vec<PortState> = gone.map(|(_, port)| port).collect();
        self.commit_bridges(fdbs);
        self.commit_settings(wanted);
        for (name, (wanted, opened)) in staged {
            self.commit_device(name, wanted, opened);
        }
        tunnels.into_iter().for_each(|name| self.commit_virtual(name, Live::Tunnel));
        patches.into_iter().for_each(|name| self.commit_virtual(name, Live::Patch));
        self.underlay.follow(self.tunnel_ends());
        self.forget_routes_without_tunnel();
        let removals = self.add_own_rules();
        // Before the first packet of a new port.
        self.set_limits();
        self.publish();
        self.remove_own_rules(removals);
        for port in gone {
            if let Live::Open(_, handle) = &port.live {
                handle.discard();
            }
            self.remove_queues(port.id);
            self.forget_stations(port.id);
            self.port_numbers.give(port.id.0);
        }
        self.follow_underlay();
        self.set_static_entries();
    }

    /// Whatever a worker has learned by a port while it was being removed: the number may be another port's next.
    fn forget_stations(&self, port: PortId) {
        for bridge in self.bridges.values() {
            bridge.fdb.flush(fdb::Flush { port: Some(port), vid: None, statics: true });
        }
    }

    fn commit_bridges(&mut self, fdbs: BTreeMap<PortName, Arc<Fdb>>) {
        let wanted: BTreeSet<&PortName> = self.config.bridges.iter().map(|bridge| &bridge.name).collect();
        let gone: Vec<PortName> =
            self.bridges.keys().filter(|name| !wanted.contains(name)).cloned().collect();
        for name in gone {
            if let Some(state) = self.bridges.remove(&name) {
                self.bridge_numbers.give(state.id.0);
            }
        }
        for (name, fdb) in fdbs {
            match self.bridges.get_mut(&name) {
                Some(state) => state.fdb = fdb,
                None => {
                    // The number of bridges was checked.
                    let Some(id) = self.bridge_numbers.take().map(BridgeId) else { continue };
                    self.bridges.insert(name, BridgeState { id, fdb, flows: FlowTables::normal() });
                }
            }
        }
    }

    fn commit_device(&mut self, name: PortName, wanted: Wanted, opened: Result<Opened, String>) {
        // What it had elsewhere is not left behind.
        if let Some(PortState { live: Live::Open(_, handle), .. }) = self.ports.get(&name) {
            handle.discard();
        }
        drop(self.close_device(&name));
        let id = match self.ports.get(&name) {
            Some(port) => port.id,
            // The number of ports was checked.
            None => match self.port_numbers.take().map(PortId) {
                Some(id) => {
                    self.datapath.reset_counters(id);
                    id
                }
                None => return,
            },
        };
        let live = match opened {
            Ok(opened) => {
                self.add_queues(id, opened.queues);
                Live::Open(wanted, Box::new(opened.handle))
            }
            Err(why) => Live::Absent(wanted, why),
        };
        self.ports.insert(name, PortState { id, live });
    }

    /// A port without a device, if it isn't there.
    fn commit_virtual(&mut self, name: PortName, live: Live) {
        if !self.ports.contains_key(&name)
            && let Some(id) = self.port_numbers.take().map(PortId)
        {
            self.datapath.reset_counters(id);
            self.ports.insert(name, PortState { id, live });
        }
    }

    /// What is wanted of devices that stay as they are, from now on.
    fn commit_settings(&mut self, wanted: &BTreeMap<PortName, Wanted>) {
        for (name, port) in &mut self.ports {
            if let Live::Open(known, _) | Live::Absent(known, _) = &mut port.live
                && let Some(wanted) = wanted.get(name)
            {
                *known = wanted.clone();
            }
        }
    }

    /// Static FDB entries: those that are wanted, and no others.
    fn set_static_entries(&mut self) {
        let second = self.second();
        for bridge in &self.config.bridges {
            let Some(state) = self.bridges.get(&bridge.name) else { continue };
            let wanted = |vid, mac| bridge.fdb.iter().any(|entry| (entry.vlan, entry.mac) == (vid, mac));
            for entry in state.fdb.entries().iter().filter(|entry| entry.is_static) {
                if !wanted(entry.vid, entry.mac) {
                    state.fdb.remove(entry.vid, entry.mac);
                }
            }
            for StaticEntry { vlan, mac, port } in &bridge.fdb {
                if let Some(port) = self.ports.get(port) {
                    state.fdb.insert_static(*vlan, *mac, port.id, second);
                }
            }
        }
    }
}

/// Everything that has a device of its own, by name.
fn wanted_devices(config: &Config) -> BTreeMap<PortName, Wanted> {
    let mut wanted = BTreeMap::new();
    for bridge in &config.bridges {
        if bridge.internal {
            wanted.insert(bridge.name.clone(), Wanted::internal(&bridge.name, bridge.mac));
        }
        let devices = bridge.ports.iter().filter(|port| port.kind != PortType::Patch);
        wanted.extend(devices.map(|port| (port.name.clone(), Wanted::port(port))));
    }
    wanted
}

/// The names of all tunnels.
fn tunnel_names(config: &Config) -> BTreeSet<PortName> {
    config.bridges.iter().flat_map(|bridge| &bridge.tunnels).map(|tunnel| tunnel.name.clone()).collect()
}

/// The names of all patch ports.
fn patch_names(config: &Config) -> BTreeSet<PortName> {
    let ports = config.bridges.iter().flat_map(|bridge| &bridge.ports);
    ports.filter(|port| port.kind == PortType::Patch).map(|port| port.name.clone()).collect()
}

/// Two words that nobody outside can know: std's hasher takes its keys from the system's random source.
fn secret() -> [u64; 2] {
    use std::hash::{BuildHasher, RandomState};
    [RandomState::new().hash_one(1u8), RandomState::new().hash_one(2u8)]
}
