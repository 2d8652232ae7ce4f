//! The walk through the flow tables that a cache miss takes, and NORMAL, the rule that a plain bridge consists of.
//!
//! Runs inline in the worker, on what is published at that moment, and leaves a [`Verdict`]: where copies of the packet
//! go, or why nowhere, and every epoch that this depends on. The same walk serves every bridge; there is no other way
//! through the switch. VLAN semantics are Open vSwitch's (`xlate_normal`, `input_vid_is_valid`, `output_normal`).

use weft_wire::{DropReason, Tci, Vid};

use crate::epoch::Epochs;
use crate::fdb::{Lookup, Sight};
use crate::key::{FlowKey, Ingress, VtepId};
use crate::program::{Emit, Verdict};
use crate::snapshot::{Bridge, Path, Port, PortKind, Snapshot, TunnelKeys};
use crate::table::{Action, Rule};
use crate::vlan::{Arrival, TagRewrite};

/// Runs the pipeline for a packet with `key`, as of `second`; what it learns goes to the FDB at once.
pub fn walk(snapshot: &Snapshot, key: &FlowKey, second: u32, verdict: &mut Verdict) {
    verdict.clear();
    let walk = Walk { snapshot, key, second, verdict };
    if let Err(reason) = walk.run() {
        verdict.emits.clear();
        verdict.drop = Some(reason);
    }
}

struct Walk<'a> {
    snapshot: &'a Snapshot,
    key: &'a FlowKey,
    second: u32,
    verdict: &'a mut Verdict,
}

/// A packet on its bridge: the port it came in by, and the VLAN that it belongs to.
struct OnBridge<'a> {
    bridge: &'a Bridge,
    port: &'a Port,
    tci: Tci,
}

impl<'a> Walk<'a> {
    fn run(mut self) -> Result<(), DropReason> {
        let port: &Port = match Ingress::of(self.key).decode() {
            Ok(id) => self.snapshot.port(id).ok_or(DropReason::NoBridge)?,
            Err(vtep) => self.tunnel_port(vtep)?,
        };
        self.verdict.deps.push(port.dep);
        let bridge: &Bridge =
            port.spec.bridge.and_then(|id| self.snapshot.bridge(id)).ok_or(DropReason::NoBridge)?;
        self.verdict.deps.push(bridge.table_dep);
        let mut key = *self.key;
        key.0[0] = key.0[0] & !0xffff | Ingress::port(port.spec.id).bits();
        let rule = bridge.spec.table.lookup(&key).ok_or(DropReason::TableMiss)?;
        self.apply(rule, &OnBridge { bridge, port, tci: key.tci() })
    }

    /// The tunnel port of a packet that a VTEP received: one whose fixed key it carries, else one whose map knows it.
    fn tunnel_port(&mut self, id: VtepId) -> Result<&'a Port, DropReason> {
        let vtep = self.snapshot.vtep(id).ok_or(DropReason::TunnelUnknown)?;
        self.verdict.deps.push(vtep.dep);
        let (remote, vni) = (self.key.tunnel_remote(), self.key.tunnel_key());
        let ports = |fixed: Option<u32>| {
            let ids = vtep.tunnels.get(&(remote, fixed)).map(Vec::as_slice).unwrap_or_default();
            ids.iter().filter_map(|&id| self.snapshot.port(id))
        };
        let knows = |port: &&std::sync::Arc<Port>| {
            let bridge = port.spec.bridge.and_then(|bridge| self.snapshot.bridge(bridge));
            bridge.is_some_and(|bridge| bridge.vid_of.contains_key(&vni))
                && port.spec.tunnel().is_some_and(|tunnel| tunnel.carries_vni(vni))
        };
        let found =
            ports(Some(vni)).next().or_else(|| ports(None).find(knows)).or_else(|| ports(None).next());
        let Some(port) = found else {
            let remote_known = vtep.tunnels.keys().any(|&(known, _)| known == remote);
            return Err(if remote_known { DropReason::TunnelKeyUnknown } else { DropReason::TunnelUnknown });
        };
        self.verdict.tunnel = Some(port.spec.id);
        Ok(port)
    }

    fn apply(&mut self, rule: &Rule, packet: &OnBridge<'a>) -> Result<(), DropReason> {
        let mut outcome = Err(DropReason::RuleDrop);
        for action in &rule.actions {
            let result = match *action {
                Action::Normal => self.normal(packet),
                Action::Output(ofport) => match packet.bridge.by_ofport(self.snapshot, ofport) {
                    Some(port) => self.output(packet, port),
                    None => {
                        self.verdict.deps.push(packet.bridge.ports_dep);
                        Err(DropReason::NoSuchPort)
                    }
                },
            };
            if outcome.is_err() {
                outcome = result;
            }
        }
        outcome
    }

    /// To a port that a rule names: the packet as it is, under the key that its VLAN has there.
    fn output(&mut self, packet: &OnBridge<'a>, out: &Port) -> Result<(), DropReason> {
        self.verdict.deps.push(out.dep);
        // OpenFlow 1.3.5, section 5.12: not to the ingress port, unless it is named as IN_PORT.
        if out.spec.id == packet.port.spec.id {
            return Err(DropReason::SamePort);
        }
        match out.spec.tunnel().map(|tunnel| &tunnel.key) {
            None => self.emit(out, TagRewrite::Keep, None),
            Some(TunnelKeys::Fixed(key)) => self.emit(out, TagRewrite::Keep, Some(*key)),
            Some(TunnelKeys::Map(_)) => self.emit_in_vlan(packet, out, packet.tci.vid()),
        }
    }

    /// VLAN and FDB switching.
    fn normal(&mut self, packet: &OnBridge<'a>) -> Result<(), DropReason> {
        let vid = self.admit(packet)?;
        let (bridge, source, destination) = (packet.bridge, self.key.source(), self.key.destination());
        self.verdict.deps.push(bridge.dep);
        if destination.is_link_local_reserved() && !bridge.spec.forward_reserved {
            return Err(DropReason::LinkLocalReserved);
        }
        let fdb = &bridge.spec.fdb;
        if !source.is_multicast() {
            let (port, generation) = (packet.port.spec.id, self.snapshot.generation);
            let sight = Sight { port, second: self.second, generation };
            self.verdict.flow_deps[0] = fdb.learn_by(vid, source, sight).dep();
        }
        if destination.is_multicast() {
            return self.flood(packet, vid);
        }
        match fdb.lookup(vid, destination) {
            Lookup::Absent(dep) => {
                self.verdict.flow_deps[1] = dep;
                self.flood(packet, vid)
            }
            Lookup::Found(id, dep) => {
                self.verdict.flow_deps[1] = dep;
                let home = Some(bridge.spec.id);
                match self.snapshot.port(id).filter(|port| port.spec.bridge == home) {
                    Some(out) if out.spec.has_vlan(vid) => self.unicast(packet, out, vid),
                    // The port went or left the VLAN, and its addresses are just being forgotten; or it isn't there yet.
                    _ => {
                        self.verdict.deps.push(bridge.ports_dep);
                        self.flood(packet, vid)
                    }
                }
            }
        }
    }

    /// The VLAN of the packet, if the port admits it.
    fn admit(&mut self, packet: &OnBridge<'a>) -> Result<Vid, DropReason> {
        let spec = &packet.port.spec;
        let Some(TunnelKeys::Map(_)) = spec.tunnel().map(|tunnel| &tunnel.key) else {
            return spec.vlan.admit(packet.tci).ok_or(DropReason::VlanNotAdmitted);
        };
        // The key says which VLAN it is; a tag inside would be a second one, and is the tenant's own.
        let vni = self.key.tunnel_key();
        let carried = spec.tunnel().is_some_and(|tunnel| tunnel.carries_vni(vni));
        let vid = packet.bridge.vid_of.get(&vni).filter(|_| carried).ok_or(DropReason::TunnelKeyUnknown)?;
        if packet.tci.vid() != Vid::NONE {
            return Err(DropReason::VlanNotAdmitted);
        }
        // Nothing to note: the VTEP's epoch moves on with the map.
        Ok(*vid)
    }

    fn depend_on_vlan(&mut self, bridge: &Bridge, vid: Vid) {
        if let Some(&dep) = bridge.vlan_deps.get(vid.index())
            && !self.verdict.deps.contains(&dep)
        {
            self.verdict.deps.push(dep);
        }
    }

    fn unicast(&mut self, packet: &OnBridge<'a>, out: &Port, vid: Vid) -> Result<(), DropReason> {
        self.verdict.deps.push(out.dep);
        let from = &packet.port.spec;
        if out.spec.id == from.id {
            return Err(DropReason::SamePort);
        }
        if from.tunnel().is_some() && out.spec.tunnel().is_some() {
            return Err(DropReason::SplitHorizon);
        }
        if from.protected && out.spec.protected {
            return Err(DropReason::NoDestination);
        }
        self.emit_in_vlan(packet, out, vid)
    }

    fn flood(&mut self, packet: &OnBridge<'a>, vid: Vid) -> Result<(), DropReason> {
        self.depend_on_vlan(packet.bridge, vid);
        let from = &packet.port.spec;
        let mut refused = DropReason::NoDestination;
        for &id in &packet.bridge.ports {
            let Some(out) = self.snapshot.port(id) else { continue };
            let member = match out.spec.tunnel().map(|tunnel| &tunnel.key) {
                Some(TunnelKeys::Map(_)) => packet
                    .bridge
                    .vni_of
                    .get(&vid)
                    .is_some_and(|&vni| out.spec.tunnel().is_some_and(|tunnel| tunnel.carries_vni(vni))),
                Some(TunnelKeys::Fixed(_)) | None => out.spec.vlan.carries(vid),
            };
            if id == from.id || !member || !out.spec.up || from.protected && out.spec.protected {
                continue;
            }
            if from.tunnel().is_some() && out.spec.tunnel().is_some() {
                refused = DropReason::SplitHorizon;
                continue;
            }
            if let Err(reason) = self.emit_in_vlan(packet, out, vid) {
                refused = reason;
            }
        }
        if self.verdict.emits.is_empty() { Err(refused) } else { Ok(()) }
    }

    /// To a port in the form that it wants frames of `vid` in.
    fn emit_in_vlan(&mut self, packet: &OnBridge<'a>, out: &Port, vid: Vid) -> Result<(), DropReason> {
        let assigned = packet.port.spec.assigns_vlan();
        let arrival = Arrival { vid, tci: packet.tci, assigned };
        let rewrite = || out.spec.vlan.emit(arrival, out.spec.priority_tags);
        match out.spec.tunnel().map(|tunnel| &tunnel.key) {
            None => self.emit(out, rewrite(), None),
            Some(TunnelKeys::Fixed(key)) => self.emit(out, rewrite(), Some(*key)),
            Some(TunnelKeys::Map(_)) => {
                self.depend_on_vlan(packet.bridge, vid);
                let vni = packet.bridge.vni_of.get(&vid).copied();
                let carried = |vni: &u32| out.spec.tunnel().is_some_and(|tunnel| tunnel.carries_vni(*vni));
                let vni = vni.filter(carried).ok_or(DropReason::VniUnmapped)?;
                let tag = if packet.tci.is_tagged() { TagRewrite::Pop } else { TagRewrite::Keep };
                self.emit(out, tag, Some(vni))
            }
        }
    }

    fn emit(&mut self, out: &Port, tag: TagRewrite, key: Option<u32>) -> Result<(), DropReason> {
        if !out.spec.up {
            return Err(DropReason::TxPortDown);
        }
        if let PortKind::Tunnel(tunnel) = &out.spec.kind {
            self.verdict.deps.push(out.path_dep);
            if tunnel.path == Path::NoRoute {
                return Err(DropReason::TunnelNoRoute);
            }
        }
        self.verdict.emits.push(Emit { port: out.spec.id, tag, key });
        Ok(())
    }
}

/// Whether all that `verdict` depends on still stands.
pub fn holds(verdict: &Verdict, epochs: &Epochs) -> bool {
    verdict.deps.iter().chain(&verdict.flow_deps).all(|&dep| epochs.holds(dep))
}
