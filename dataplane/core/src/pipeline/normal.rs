//! NORMAL: VLAN and FDB switching, the rule that a plain bridge consists of.
//!
//! VLAN semantics are Open vSwitch's (`xlate_normal`, `input_vid_is_valid`, `output_normal`), on the packet as the walk
//! has made it so far.

use weft_flow::Field;
use weft_wire::{DropReason, Mac, Tci, Vid};

use super::trace::{Event, Tracer};
use super::{Here, Walk};
use crate::epoch::Dep;
use crate::fdb::{Lookup, Sight};
use crate::snapshot::{Bridge, Port, TunnelKeys};
use crate::vlan::{Arrival, TagRewrite};

impl<'a, T: Tracer> Walk<'a, T> {
    /// VLAN and FDB switching.
    pub(super) fn normal(&mut self, here: &Here<'_>) -> Result<(), DropReason> {
        match self.try_normal(here) {
            Ok(()) => Ok(()),
            Err(Halt::Refused(reason)) => {
                self.refuse(reason);
                Ok(())
            }
            Err(Halt::Fatal(reason)) => Err(reason),
        }
    }

    fn try_normal(&mut self, here: &Here<'_>) -> Result<(), Halt> {
        // The port that the packet came in by, unless an action has said that it was another.
        let in_port = self.in_port();
        if in_port == here.port.spec.ofport {
            return self.switch(&Arrived { bridge: here.bridge, port: here.port, here });
        }
        self.verdict.deps.push(here.bridge.ports_dep);
        let port = here.bridge.by_ofport(self.occasion.snapshot, in_port);
        let port = port.ok_or(Halt::Refused(DropReason::NoSuchPort))?;
        self.verdict.deps.push(port.dep);
        self.switch(&Arrived { bridge: here.bridge, port, here })
    }

    fn switch(&mut self, packet: &Arrived<'_>) -> Result<(), Halt> {
        let vid = self.admit(packet)?;
        self.tracer.event(Event::Vlan(vid));
        let bridge = packet.bridge;
        let mac = |of: &Self, field| Mac::from_u64(of.get(field) as u64);
        let (source, destination) = (mac(self, Field::EthSrc), mac(self, Field::EthDst));
        self.verdict.deps.push(bridge.dep);
        if destination.is_link_local_reserved() && !bridge.spec.forward_reserved {
            return Err(Halt::Refused(DropReason::LinkLocalReserved));
        }
        // The first NORMAL's senders and receivers are the flow's own; of others each path has its own program.
        let first = self.verdict.flow_deps == [Dep::NONE; 2];
        if !source.is_multicast() {
            let dep = self.meet_sender(packet, vid, source);
            if first {
                self.verdict.flow_deps[0] = dep;
            } else {
                self.verdict.further.push(dep);
                self.verdict.young.push(dep);
            }
        }
        if destination.is_multicast() {
            self.tracer.event(Event::Destination { vid, mac: destination, port: None });
            return self.flood(packet, vid);
        }
        let found = match bridge.spec.fdb.lookup(vid, destination) {
            // A trace has taught nothing, but goes where the packet would have gone.
            Lookup::Absent(dep) if source == destination && !self.occasion.effects => {
                Lookup::Found(packet.port.spec.id, dep)
            }
            found => found,
        };
        let (Lookup::Absent(dep) | Lookup::Found(_, dep)) = found;
        if first {
            self.verdict.flow_deps[1] = dep;
        } else {
            self.verdict.further.push(dep);
        }
        let home = Some(bridge.spec.id);
        let snapshot = self.occasion.snapshot;
        let out = match found {
            Lookup::Absent(_) => None,
            Lookup::Found(id, _) => {
                let port =
                    snapshot.port(id).filter(|port| port.spec.bridge == home && port.spec.has_vlan(vid));
                if port.is_none() {
                    // The port went or left the VLAN, and its addresses are just being forgotten; or it isn't there yet.
                    self.verdict.deps.push(bridge.ports_dep);
                }
                port
            }
        };
        let name = out.map(|port| &*port.spec.name);
        self.tracer.event(Event::Destination { vid, mac: destination, port: name });
        match out {
            Some(out) => self.unicast(packet, out, vid),
            None => self.flood(packet, vid),
        }
    }

    /// Learns where the sender is; a trace only looks.
    fn meet_sender(&mut self, packet: &Arrived<'_>, vid: Vid, mac: Mac) -> Dep {
        let (id, ofport) = (packet.port.spec.id, packet.port.spec.ofport);
        let fdb = &packet.bridge.spec.fdb;
        if self.occasion.effects {
            let generation = self.occasion.snapshot.generation;
            let sight = Sight { port: id, second: self.occasion.second, generation };
            return fdb.learn_by(vid, mac, sight).dep();
        }
        let (known, dep) = match fdb.lookup(vid, mac) {
            Lookup::Found(at, dep) => (at == id, dep),
            Lookup::Absent(dep) => (false, dep),
        };
        self.tracer.event(Event::Learned { vid, mac, port: ofport, known });
        dep
    }

    pub(super) fn packet_tci(&self) -> Tci {
        Tci(self.fields.0[1] as u16)
    }

    /// The VLAN of the packet, if the port admits it.
    fn admit(&mut self, packet: &Arrived<'_>) -> Result<Vid, Halt> {
        let spec = &packet.port.spec;
        let Some(TunnelKeys::Map(_)) = spec.tunnel().map(|tunnel| &tunnel.key) else {
            return spec.vlan.admit(self.packet_tci()).ok_or(Halt::Refused(DropReason::VlanNotAdmitted));
        };
        // The key says which VLAN it is; a tag inside would be a second one, and is the tenant's own.
        let vni = self.get(Field::TunId) as u32;
        let carried = spec.tunnel().is_some_and(|tunnel| tunnel.carries_vni(vni));
        let vid = packet.bridge.vid_of.get(&vni).filter(|_| carried);
        let vid = vid.ok_or(Halt::Refused(DropReason::TunnelKeyUnknown))?;
        if self.packet_tci().vid() != Vid::NONE {
            return Err(Halt::Refused(DropReason::VlanNotAdmitted));
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

    fn unicast(&mut self, packet: &Arrived<'_>, out: &Port, vid: Vid) -> Result<(), Halt> {
        self.verdict.deps.push(out.dep);
        let from = &packet.port.spec;
        if out.spec.id == from.id {
            return Err(Halt::Refused(DropReason::SamePort));
        }
        if from.tunnel().is_some() && out.spec.tunnel().is_some() {
            return Err(Halt::Refused(DropReason::SplitHorizon));
        }
        if from.protected && out.spec.protected {
            return Err(Halt::Refused(DropReason::NoDestination));
        }
        Ok(self.emit_in_vlan_from(packet, out, vid)?)
    }

    fn flood(&mut self, packet: &Arrived<'_>, vid: Vid) -> Result<(), Halt> {
        self.depend_on_vlan(packet.bridge, vid);
        let from = &packet.port.spec;
        let before = self.verdict.ops.len();
        let mut refused = DropReason::NoDestination;
        for &id in &packet.bridge.ports {
            let Some(out) = self.occasion.snapshot.port(id) else { continue };
            let member = match out.spec.tunnel().map(|tunnel| &tunnel.key) {
                Some(TunnelKeys::Map(_)) => packet
                    .bridge
                    .vni_of
                    .get(&vid)
                    .is_some_and(|&vni| out.spec.tunnel().is_some_and(|tunnel| tunnel.carries_vni(vni))),
                Some(TunnelKeys::Fixed(_) | TunnelKeys::Flow) | None => out.spec.vlan.carries(vid),
            };
            if id == from.id || !member {
                continue;
            }
            if !out.spec.up || from.protected && out.spec.protected {
                let reason = if out.spec.up { DropReason::NoDestination } else { DropReason::TxPortDown };
                self.tracer.event(Event::Skipped { port: out, reason });
                continue;
            }
            if from.tunnel().is_some() && out.spec.tunnel().is_some() {
                refused = DropReason::SplitHorizon;
                self.tracer.event(Event::Skipped { port: out, reason: refused });
                continue;
            }
            self.emit_in_vlan_from(packet, out, vid)?;
        }
        if self.verdict.ops.len() == before { Err(Halt::Refused(refused)) } else { Ok(()) }
    }

    /// To a port in the form that it wants frames of `vid` in.
    pub(super) fn emit_in_vlan(&mut self, here: &Here<'_>, out: &Port, vid: Vid) -> Result<(), DropReason> {
        self.emit_in_vlan_from(&Arrived { bridge: here.bridge, port: here.port, here }, out, vid)
    }

    fn emit_in_vlan_from(&mut self, packet: &Arrived<'_>, out: &Port, vid: Vid) -> Result<(), DropReason> {
        self.tracer.event(Event::Towards(out));
        let tci = self.packet_tci();
        let arrival = Arrival { vid, tci, assigned: packet.port.spec.assigns_vlan() };
        let rewrite = || out.spec.vlan.emit(arrival, out.spec.priority_tags);
        let here = packet.here;
        match out.spec.tunnel().map(|tunnel| &tunnel.key) {
            None => self.emit(here, out, rewrite(), (None, 0)),
            Some(TunnelKeys::Fixed(key)) => self.emit(here, out, rewrite(), (Some(*key), 0)),
            Some(TunnelKeys::Flow) => {
                self.emit(here, out, rewrite(), (Some(self.get(Field::TunId) as u32), 0))
            }
            Some(TunnelKeys::Map(_)) => {
                self.depend_on_vlan(here.bridge, vid);
                let vni = here.bridge.vni_of.get(&vid).copied();
                let carried = |vni: &u32| out.spec.tunnel().is_some_and(|tunnel| tunnel.carries_vni(*vni));
                let Some(vni) = vni.filter(carried) else {
                    self.refuse(DropReason::VniUnmapped);
                    return Ok(());
                };
                let tag = if tci.is_tagged() { TagRewrite::Pop } else { TagRewrite::Keep };
                self.emit(here, out, tag, (Some(vni), 0))
            }
        }
    }

    /// Gives the packet the tag that a patch port sends it with.
    pub(super) fn apply_tag(&mut self, tag: TagRewrite) {
        match tag {
            TagRewrite::Keep => {}
            TagRewrite::PopUnlessPriority if self.packet_tci().pcp() != 0 => {
                self.write_tag((0x0fff, 0), false)
            }
            TagRewrite::Pop | TagRewrite::PopUnlessPriority => self.pop_vlan(),
            TagRewrite::Push(vid) => self.push_vlan(0x8100, vid.get()),
            TagRewrite::Set(vid) => self.write_tag((0x0fff, vid.get()), false),
        }
    }
}

/// A packet on its bridge, and the port that it came in by.
struct Arrived<'w> {
    bridge: &'w Bridge,
    port: &'w Port,
    here: &'w Here<'w>,
}

/// Why NORMAL ends early.
enum Halt {
    /// It sends the packet nowhere.
    Refused(DropReason),
    /// The whole walk is undone.
    Fatal(DropReason),
}

impl From<DropReason> for Halt {
    fn from(reason: DropReason) -> Self {
        Halt::Fatal(reason)
    }
}
