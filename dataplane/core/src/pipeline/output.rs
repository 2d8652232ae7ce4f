//! Where packets go: ports, patch ports and the bridges behind them, tunnels, controllers.

use std::net::Ipv4Addr;
use std::sync::Arc;

use weft_flow::action::{Controller, PacketInReason};
use weft_flow::fields::WORDS;
use weft_flow::{Action, Field, Fields, Subfield};
use weft_io::Packet;
use weft_wire::{DropReason, OfPort};

use super::trace::{Event, Tracer};
use super::{By, Here, How, Walk};
use crate::lane::LENGTH_WORD;
use crate::snapshot::{Path, Port, PortKind, Remote, Routes, TunnelKeys, TunnelSpec};
use crate::tables::TableId;
use crate::verdict::{Emit, Op, PacketIn, Shared};
use crate::vlan::TagRewrite;

/// Words of the tunnel that the packet came in by, or is to leave by.
const TUNNEL: [usize; 2] = [2, 14];

impl<T: Tracer> Walk<'_, T> {
    /// Actions that send the packet somewhere.
    pub(super) fn send(&mut self, here: &Here<'_>, by: By<'_>, action: &Action) -> Result<(), DropReason> {
        match action {
            Action::Output(port) | Action::Enqueue { port, .. } => self.output(here, by, *port, 0),
            Action::OutputTrunc { port, max_len } => self.output(here, by, *port, *max_len),
            Action::OutputReg { source, max_len } => {
                let port = source.get(&self.fields);
                match u16::try_from(port) {
                    Ok(port) if OfPort(port) == OfPort::CONTROLLER => {
                        self.packet_in(here, by, &to_controller(*max_len, PacketInReason::Action));
                        Ok(())
                    }
                    Ok(port) => self.output(here, by, OfPort(port), 0),
                    Err(_) => {
                        self.refuse(DropReason::NoSuchPort);
                        Ok(())
                    }
                }
            }
            Action::Controller(controller) => {
                self.packet_in(here, by, controller);
                Ok(())
            }
            Action::Bundle(bundle) => match self.choose_slave(here, bundle) {
                (Some(port), None) => self.output(here, by, port, 0),
                (None, None) => {
                    self.refuse(DropReason::NoSuchPort);
                    Ok(())
                }
                (port, Some(target)) => {
                    self.write_if_there(target, port.unwrap_or(OfPort::NONE).0.into());
                    Ok(())
                }
            },
            _ => Ok(()),
        }
    }

    /// `output:port`; `max_len` 0 is the whole packet.
    pub(super) fn output(
        &mut self,
        here: &Here<'_>,
        by: By<'_>,
        port: OfPort,
        max_len: u32,
    ) -> Result<(), DropReason> {
        let in_port = self.in_port();
        match port {
            OfPort::NORMAL => self.normal(here),
            OfPort::FLOOD | OfPort::ALL => self.output_everywhere(here, in_port),
            OfPort::IN_PORT => self.output_to(here, in_port, max_len),
            OfPort::CONTROLLER => {
                self.packet_in(here, by, &to_controller(u16::MAX, PacketInReason::Action));
                Ok(())
            }
            OfPort::TABLE => self.look_up(here, TableId::FIRST, How::arrived(in_port)),
            OfPort::NONE => Ok(()),
            // OpenFlow 1.3.5, section 5.12: not to the ingress port, unless it is named as IN_PORT.
            port if port == in_port => {
                self.refuse(DropReason::SamePort);
                Ok(())
            }
            port => self.output_to(here, port, max_len),
        }
    }

    /// FLOOD and ALL: every port but the one that the packet came in by, in order of their numbers.
    fn output_everywhere(&mut self, here: &Here<'_>, in_port: OfPort) -> Result<(), DropReason> {
        self.verdict.deps.push(here.bridge.ports_dep);
        let snapshot = self.occasion.snapshot;
        for &id in &here.bridge.ports {
            if let Some(port) = snapshot.port(id).filter(|port| port.spec.ofport != in_port) {
                self.emit_as_it_is(here, port, 0)?;
            }
        }
        Ok(())
    }

    fn output_to(&mut self, here: &Here<'_>, port: OfPort, max_len: u32) -> Result<(), DropReason> {
        match here.bridge.by_ofport(self.occasion.snapshot, port) {
            Some(port) => self.emit_as_it_is(here, port, max_len),
            None => {
                self.verdict.deps.push(here.bridge.ports_dep);
                self.refuse(DropReason::NoSuchPort);
                Ok(())
            }
        }
    }

    /// To a port that a rule names: the packet as it is, under the key that its fields or its VLAN say.
    fn emit_as_it_is(&mut self, here: &Here<'_>, out: &Port, max_len: u32) -> Result<(), DropReason> {
        self.tracer.event(Event::Towards(out));
        self.verdict.deps.push(out.dep);
        let key = match out.spec.tunnel().map(|tunnel| &tunnel.key) {
            None => None,
            Some(TunnelKeys::Fixed(key)) => Some(*key),
            Some(TunnelKeys::Flow) => match u32::try_from(self.get(Field::TunId)) {
                Ok(key) => Some(key),
                Err(_) => {
                    self.refuse(DropReason::VniUnmapped);
                    return Ok(());
                }
            },
            Some(TunnelKeys::Map(_)) => {
                let vid = self.packet_tci().vid();
                return self.emit_in_vlan(here, out, vid);
            }
        };
        self.emit(here, out, TagRewrite::Keep, (key, max_len))
    }

    /// One copy, by a port that may be a patch port or a tunnel.
    pub(super) fn emit(
        &mut self,
        here: &Here<'_>,
        out: &Port,
        tag: TagRewrite,
        (key, max_len): (Option<u32>, u32),
    ) -> Result<(), DropReason> {
        let mut remote = None;
        if !out.spec.up {
            self.refuse(DropReason::TxPortDown);
            return Ok(());
        }
        if out.spec.guard.to && !self.may_leave(here, out, tag)? {
            return Ok(());
        }
        match &out.spec.kind {
            PortKind::Patch(peer) => return self.cross(out, *peer, tag),
            PortKind::Tunnel(tunnel) => match self.remote_end(out, tunnel) {
                Ok(end) => remote = end,
                Err(reason) => {
                    self.refuse(reason);
                    return Ok(());
                }
            },
            PortKind::Device | PortKind::Uplink => {}
        }
        self.flush();
        let emit = Emit { port: out.spec.id, tag, key, remote, max_len };
        self.tracer.event(Event::Output { port: out, emit, fields: &self.fields });
        self.verdict.ops.push(Op::Output(emit));
        Ok(())
    }

    /// Where a tunnel is to take the packet, if the flow says it; or why it can't.
    fn remote_end(&mut self, out: &Port, tunnel: &TunnelSpec) -> Result<Option<Ipv4Addr>, DropReason> {
        if let Remote::Fixed(_) = tunnel.remote {
            self.verdict.deps.push(out.path_dep);
            return if tunnel.path == Path::NoRoute { Err(DropReason::TunnelNoRoute) } else { Ok(None) };
        }
        let remote = self.said_destination().ok_or(DropReason::TunnelNoRemote)?;
        let routes = &self.occasion.snapshot.routes;
        let Some((path, dep)) = routes.known.get(&(tunnel.local, remote)) else {
            self.verdict.deps.push(routes.dep);
            let full = routes.known.len() >= Routes::LIMIT;
            return if full { Err(DropReason::TunnelRemotesFull) } else { Ok(Some(remote)) };
        };
        // Its packets keep the route known.
        self.verdict.deps.push(*dep);
        self.verdict.young.push(*dep);
        if *path == Path::NoRoute { Err(DropReason::TunnelNoRoute) } else { Ok(Some(remote)) }
    }

    /// The host that rules have set `tun_dst` to. What a packet had there when it came in by a tunnel is our own address,
    /// and says nothing of where it goes.
    fn said_destination(&self) -> Option<Ipv4Addr> {
        let whole = Subfield::whole(Field::TunDst);
        let bits = whole.mask();
        if bits.0.iter().zip(&self.written.0).any(|(bits, written)| bits & !written != 0) {
            return None;
        }
        let address = Ipv4Addr::from_bits(whole.get(&self.fields) as u32);
        let is_host = !(address.is_unspecified() || address.is_multicast() || address.is_broadcast());
        is_host.then_some(address)
    }

    /// Through a patch port: a copy goes through the peer's bridge, with nothing of this one's but its headers and mark.
    fn cross(
        &mut self,
        out: &Port,
        peer: Option<crate::key::PortId>,
        tag: TagRewrite,
    ) -> Result<(), DropReason> {
        // A peer that comes, goes or changes is a change of this port, too.
        self.verdict.deps.push(out.dep);
        let peer = peer.and_then(|peer| self.occasion.snapshot.port(peer));
        let Some(peer) = peer.filter(|peer| peer.spec.up) else {
            self.refuse(DropReason::NoSuchPort);
            return Ok(());
        };
        self.verdict.deps.push(peer.dep);
        if peer.spec.bridge.and_then(|bridge| self.occasion.snapshot.bridge(bridge)).is_none() {
            self.refuse(DropReason::NoBridge);
            return Ok(());
        }
        self.verdict.patches.push((out.spec.id, peer.spec.id));
        self.depth += 1;
        let result = self.scoped(|walk| {
            let set = std::mem::take(&mut walk.action_set);
            walk.apply_tag(tag);
            walk.clear_for_peer();
            let result = walk.enter(peer);
            walk.tracer.event(Event::LeftBridge);
            walk.action_set = set;
            walk.contained(result)
        });
        self.depth -= 1;
        result
    }

    /// A packet that comes in by a patch port has no registers, metadata, tunnel or connection.
    fn clear_for_peer(&mut self) {
        let mark = Subfield::whole(Field::PktMark);
        let mut kept = Fields::default();
        mark.set(&mut kept, mark.get(&self.fields));
        for word in weft_flow::fields::KEY_WORDS..WORDS {
            self.fields.0[word] = kept.0[word];
        }
        for word in TUNNEL {
            self.fields.0[word] = 0;
            self.written.0[word] = u64::MAX;
        }
        self.stack.clear();
        self.before = None;
        self.state = None;
    }

    /// `controller(..)`
    pub(super) fn packet_in(&mut self, here: &Here<'_>, by: By<'_>, controller: &Controller) {
        self.flush();
        let number = controller.meter.unwrap_or(weft_flow::message::MeterMod::CONTROLLER);
        // The packet's own headers go with it.
        let mut fields = self.fields;
        for (word, value) in fields.0.iter_mut().enumerate().take(weft_flow::fields::KEY_WORDS) {
            *value = if TUNNEL.contains(&word) { *value } else { 0 };
        }
        let packet_in = PacketIn {
            bridge: here.bridge.spec.id,
            table: by.table,
            cookie: by.rule.map_or(u64::MAX, |rule| rule.cookie),
            in_port: self.in_port(),
            fields,
            controller: controller.clone(),
            meter: here.tables.meter(number).cloned(),
        };
        self.tracer.event(Event::Controller(controller));
        self.verdict.ops.push(Op::PacketIn(Shared(Arc::new(packet_in))));
    }

    /// A table whose default is the controller has no rule for the packet.
    pub(super) fn report_miss(&mut self, here: &Here<'_>, table: TableId) {
        let by = By { table, rule: None };
        self.packet_in(here, by, &to_controller(u16::MAX, PacketInReason::NoMatch));
    }

    /// Time to live ran out: the controllers that the action names hear of it.
    pub(super) fn expired(&mut self, here: &Here<'_>, by: By<'_>, controllers: &[u16]) {
        self.refuse(DropReason::TtlExpired);
        let default = [0];
        let ids = if controllers.is_empty() { &default[..] } else { controllers };
        for &id in ids {
            let controller = Controller { id, ..to_controller(u16::MAX, PacketInReason::InvalidTtl) };
            self.packet_in(here, by, &controller);
        }
    }

    /// `meter:N`
    pub(super) fn meter(&mut self, here: &Here<'_>, id: u32) {
        if let Some(meter) = here.tables.meter(id) {
            self.flush();
            self.verdict.ops.push(Op::Meter(Shared(Arc::clone(meter))));
        }
    }

    /// `check_pkt_larger`: the packet as it is now, tags and labels that have come and gone included.
    pub(super) fn check_length(&mut self, target: Subfield, length: u16) {
        let class = self.fields.0[LENGTH_WORD] & 0xffff;
        let came_in_with = length.saturating_add_signed(self.grown.saturating_neg());
        let lengths = &self.occasion.snapshot.lengths;
        let larger = match lengths.iter().position(|&known| known == came_in_with) {
            Some(at) => class > at as u64,
            None => {
                // More has come or gone than key classes foresee: the packet itself is asked.
                self.verdict.fleeting = true;
                let octets = self.occasion.packet.map_or(0, Packet::total_len);
                octets > usize::from(came_in_with)
            }
        };
        self.write_if_there(target, larger.into());
    }
}

fn to_controller(max_len: u16, reason: PacketInReason) -> Controller {
    Controller { max_len, reason, id: 0, userdata: Box::new([]), pause: false, meter: None }
}
