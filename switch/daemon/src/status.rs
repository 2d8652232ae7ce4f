//! What the switch tells about itself, and what it does with each request of the control socket.

use std::collections::BTreeMap;

use weft_config::control::{
    BridgeStatus, CacheStatus, Code, Counters, FdbEntry, Flush, Op, PortState as Shown, PortStatus, Refusal,
    Reply, Scope, SwitchStatus, TunnelStatus, UplinkStatus, VniEntry, WorkerStatus,
};
use weft_config::model::Bridge;
use weft_config::port::Port;
use weft_config::tunnel::{KeyMode, Tunnel};
use weft_core::counters::{Counters as WorkerCounters, PortTotals};
use weft_core::fdb;
use weft_core::snapshot::{Path, TunnelSpec};
use weft_wire::{OfPort, PortName};

use crate::control::{Answer, Handler, Work};
use crate::model::ends;
use crate::reconcile::OnAbsence;
use crate::switch::{Live, PortState, Switch};
use crate::underlay::Uplink;

impl Handler for Switch {
    fn handle(&mut self, op: Op) -> Answer {
        match op {
            Op::Conntrack(op) => match self.conntrack(&op) {
                Ok(reply) => Answer::Done(Ok(Reply::Conntrack(reply))),
                Err(walk) => self.go_on(walk),
            },
            op => Answer::Done(self.do_at_once(op)),
        }
    }

    fn go_on(&mut self, work: Work) -> Answer {
        match work.go_on(self.datapath.connections(), self.second()) {
            Ok(reply) => Answer::Done(Ok(Reply::Conntrack(reply))),
            Err(walk) => Answer::Unfinished(walk),
        }
    }
}

impl Switch {
    /// Does it, whole or not at all.
    pub(crate) fn do_at_once(&mut self, op: Op) -> Result<Reply, Refusal> {
        match op {
            Op::Version => Ok(Reply::Version { version: env!("CARGO_PKG_VERSION").to_owned() }),
            change @ (Op::Apply { .. } | Op::ConfigApply { .. }) => self.change(&change),
            Op::ConfigShow => {
                let (toml, config) = (self.config.to_toml(), Box::new(self.config.clone()));
                Ok(Reply::Config { toml, config })
            }
            Op::FdbShow { bridge } => Ok(Reply::Fdb { entries: self.fdb_entries(bridge.as_ref())? }),
            Op::FdbFlush(flush) => self.flush(&flush),
            Op::PortShow(scope) => Ok(Reply::Ports {
                ports: found(self.port_statuses(&scope), &scope, "port")?,
                uplinks: Vec::new(),
            }),
            Op::TunnelShow(scope) => {
                Ok(Reply::Tunnels { tunnels: found(self.tunnel_statuses(&scope), &scope, "tunnel")? })
            }
            Op::BridgeShow(scope) => {
                Ok(Reply::Bridges { bridges: found(self.bridge_statuses(&scope), &scope, "bridge")? })
            }
            Op::VniShow { bridge } => Ok(Reply::Vnis { vnis: self.vnis(bridge.as_ref())? }),
            Op::StatsPorts => Ok(Reply::Ports {
                ports: self.port_statuses(&Scope::default()),
                uplinks: self.uplink_statuses(),
            }),
            Op::StatsDrops => Ok(Reply::Drops { drops: self.drops(), places: self.drop_places()? }),
            Op::StatsCache => Ok(Reply::Caches { caches: self.caches() }),
            Op::StatsWorkers => Ok(Reply::Workers { workers: self.worker_statuses() }),
            Op::Trace(request) => self.trace(&request),
            Op::Why(request) => Ok(Reply::Why { why: Box::new(self.why(&request)?) }),
            Op::Top => Ok(Reply::Top { top: Box::new(self.top()) }),
            Op::Show => Ok(Reply::Switch { switch: Box::new(self.status()) }),
            Op::Conntrack(_) => Err(Refusal::new(Code::Failed, "connections take several turns")),
            Op::Flow(op) => self.flow(op).map(Reply::Flow),
            Op::AclShow { name } => self.show_acl(name.as_deref()),
        }
    }
}

/// A name that nothing has is an error; a bridge without any is not.
fn found<T>(items: Vec<T>, scope: &Scope, what: &str) -> Result<Vec<T>, Refusal> {
    match &scope.name {
        Some(name) if items.is_empty() => {
            Err(Refusal::new(Code::NotFound, format!("there is no {what} '{name}'")))
        }
        _ => Ok(items),
    }
}

fn in_scope(scope: &Scope, bridge: &PortName, name: &PortName) -> bool {
    scope.bridge.as_ref().is_none_or(|wanted| wanted == bridge)
        && scope.name.as_ref().is_none_or(|wanted| wanted == name)
}

impl Switch {
    /// Makes the switch what the operation wants it to be; an operation that changes nothing finds it so.
    fn change(&mut self, op: &Op) -> Result<Reply, Refusal> {
        let next = op.next_config(&self.config).unwrap_or_else(|| Ok(self.config.clone()))?;
        let by = match op {
            Op::Apply { changes } => Some(&changes[..]),
            _ => None,
        };
        Ok(Reply::Applied { differences: self.reconcile(next, by, OnAbsence::Refuse)? })
    }

    fn bridge(&self, name: Option<&PortName>) -> Result<Vec<&Bridge>, Refusal> {
        let bridges: Vec<&Bridge> = self
            .config
            .bridges
            .iter()
            .filter(|bridge| name.is_none_or(|name| *name == bridge.name))
            .collect();
        match name {
            Some(name) if bridges.is_empty() => {
                Err(Refusal::new(Code::NotFound, format!("there is no bridge '{name}'")))
            }
            _ => Ok(bridges),
        }
    }

    fn fdb_entries(&self, bridge: Option<&PortName>) -> Result<Vec<FdbEntry>, Refusal> {
        let names: BTreeMap<_, _> = self.ports.iter().map(|(name, port)| (port.id, name)).collect();
        let second = self.second();
        let mut entries = Vec::new();
        for bridge in self.bridge(bridge)? {
            let Some(state) = self.bridges.get(&bridge.name) else { continue };
            let mut learned = state.fdb.entries();
            learned.sort_by_key(|entry| (entry.vid, entry.mac));
            entries.extend(learned.into_iter().filter_map(|entry| {
                let port = *names.get(&entry.port)?;
                let age_s = if entry.is_static { 0 } else { u64::from(second.saturating_sub(entry.seen)) };
                Some(FdbEntry {
                    bridge: bridge.name.clone(),
                    port: port.clone(),
                    ofport: bridge.ofport_of(port.as_str())?,
                    vlan: entry.vid,
                    mac: entry.mac,
                    age_s,
                    fixed: entry.is_static,
                    moves: u64::from(entry.moves),
                })
            }));
        }
        Ok(entries)
    }

    fn flush(&mut self, flush: &Flush) -> Result<Reply, Refusal> {
        let port = match &flush.port {
            Some(name) => match self.ports.get(name) {
                Some(port) => Some(port.id),
                None => return Err(Refusal::new(Code::NotFound, format!("there is no port '{name}'"))),
            },
            None => None,
        };
        let what = fdb::Flush { port, vid: flush.vlan, statics: false };
        let bridges = self.bridge(flush.bridge.as_ref())?;
        let states = bridges.iter().filter_map(|bridge| self.bridges.get(&bridge.name));
        Ok(Reply::Flushed { entries: states.map(|state| u64::from(state.fdb.flush(what))).sum() })
    }

    fn vnis(&self, bridge: Option<&PortName>) -> Result<Vec<VniEntry>, Refusal> {
        let entries = self.bridge(bridge)?.into_iter().flat_map(|bridge| {
            bridge.vnis.0.iter().map(|(&vlan, &vni)| {
                let carries = |tunnel: &&Tunnel| tunnel.key == KeyMode::Map && tunnel.vnis.contains(vni.0);
                let tunnels =
                    bridge.tunnels.iter().filter(carries).map(|tunnel| tunnel.name.clone()).collect();
                VniEntry { bridge: bridge.name.clone(), vlan, vni, tunnels }
            })
        });
        Ok(entries.collect())
    }

    fn port_statuses(&self, scope: &Scope) -> Vec<PortStatus> {
        let mut statuses = Vec::new();
        for bridge in &self.config.bridges {
            let wanted = |name: &PortName| in_scope(scope, &bridge.name, name);
            if bridge.internal && wanted(&bridge.name) {
                let plain = Port::new(bridge.name.clone(), weft_config::port::PortType::Internal);
                statuses.extend(self.port_status(&plain, Some(OfPort::LOCAL), bridge));
            }
            for port in bridge.ports.iter().filter(|port| wanted(&port.name)) {
                statuses.extend(self.port_status(port, port.ofport, bridge));
            }
            for tunnel in bridge.tunnels.iter().filter(|tunnel| wanted(&tunnel.name)) {
                statuses.extend(self.tunnel_as_port(tunnel, bridge));
            }
        }
        statuses
    }

    fn port_status(&self, port: &Port, ofport: Option<OfPort>, bridge: &Bridge) -> Option<PortStatus> {
        let state = self.ports.get(&port.name)?;
        let mut status = PortStatus {
            vlan: port.vlan_mode().map(|mode| mode.to_string()).unwrap_or_default(),
            effective_mtu: bridge.tunnels.iter().filter_map(|tunnel| self.effective_mtu(tunnel)).min(),
            ..self.blank_status(&port.name, ofport?, bridge, state)
        };
        match &state.live {
            Live::Open(_, handle) => {
                status.kind = handle.kind.to_owned();
                status.backend = handle.backend.clone();
                status.why = handle.why.clone();
                status.counters.rx_missed = handle.missed();
                match handle.facts() {
                    Ok(Some(facts)) => {
                        (status.mac, status.mtu, status.netns) = (facts.mac, facts.mtu, facts.netns);
                        status.ifindex = facts.ifindex;
                        if !facts.up {
                            status.state = Shown::Down("the device is administratively down".to_owned());
                        }
                    }
                    Ok(None) => {}
                    Err(error) => status.state = Shown::Down(error.to_string()),
                }
            }
            Live::Absent(_, why) => status.state = Shown::Down(why.clone()),
            Live::Tunnel => {}
            Live::Patch => {
                status.kind = port.kind.to_string();
                status.why = port.peer.as_ref().map(|peer| format!("peer {peer}")).unwrap_or_default();
                status.state = self.patch_problem(port).map_or(Shown::Up, Shown::Down);
            }
        }
        if status.netns.is_none() {
            status.netns = port.netns.as_ref().map(|netns| netns.as_str().to_owned());
        }
        Some(status)
    }

    fn tunnel_as_port(&self, tunnel: &Tunnel, bridge: &Bridge) -> Option<PortStatus> {
        let state = self.ports.get(&tunnel.name)?;
        let problem = self.underlay.problem_of(&ends(tunnel));
        Some(PortStatus {
            kind: tunnel.kind.to_string(),
            state: problem.map_or(Shown::Up, Shown::Down),
            effective_mtu: self.effective_mtu(tunnel),
            vlan: match tunnel.key {
                KeyMode::Map => String::new(),
                KeyMode::Fixed(_) | KeyMode::Flow => {
                    tunnel.vlan_mode().map(|mode| mode.to_string()).unwrap_or_default()
                }
            },
            ..self.blank_status(&tunnel.name, tunnel.ofport?, bridge, state)
        })
    }

    /// What every port has; the rest is empty.
    fn blank_status(
        &self,
        name: &PortName,
        ofport: OfPort,
        bridge: &Bridge,
        state: &PortState,
    ) -> PortStatus {
        PortStatus {
            bridge: bridge.name.clone(),
            name: name.clone(),
            ofport,
            kind: String::new(),
            backend: String::new(),
            why: String::new(),
            state: Shown::Up,
            mac: None,
            mtu: None,
            effective_mtu: None,
            vlan: String::new(),
            netns: None,
            ifindex: None,
            worker: self.datapath.owner(state.id).map(|worker| worker as u32),
            counters: counters(&self.datapath.port_totals(state.id)),
        }
    }

    fn tunnel_statuses(&self, scope: &Scope) -> Vec<TunnelStatus> {
        let tunnels = self
            .config
            .bridges
            .iter()
            .flat_map(|bridge| bridge.tunnels.iter().map(move |tunnel| (bridge, tunnel)));
        let wanted = tunnels.filter(|(bridge, tunnel)| in_scope(scope, &bridge.name, &tunnel.name));
        wanted.filter_map(|(bridge, tunnel)| self.tunnel_status(tunnel, bridge)).collect()
    }

    fn tunnel_status(&self, tunnel: &Tunnel, bridge: &Bridge) -> Option<TunnelStatus> {
        let state = self.ports.get(&tunnel.name)?;
        let ends = ends(tunnel);
        let resolution = ends.pair.and_then(|pair| self.underlay.lookup(pair));
        let path = resolution.and_then(|resolution| resolution.as_ref().ok());
        let carried = bridge.vnis.0.values().filter(|vni| tunnel.vnis.contains(vni.0));
        let vnis: Vec<String> = carried.map(ToString::to_string).collect();
        Some(TunnelStatus {
            bridge: bridge.name.clone(),
            name: tunnel.name.clone(),
            ofport: tunnel.ofport?,
            kind: tunnel.kind,
            local: tunnel.local,
            remote: tunnel.remote,
            key: tunnel.key.to_string(),
            vnis: if tunnel.key == KeyMode::Map { vnis.join(",") } else { String::new() },
            state: self.underlay.problem_of(&ends).map_or(Shown::Up, Shown::Down),
            underlay: path.map(|path| path.ifname.clone()),
            next_hop: path.map(|path| path.next_hop),
            neighbour: path.map_or(String::new(), |path| match path.dst_mac {
                Some(mac) => format!("reachable {mac}"),
                None => "resolving".to_owned(),
            }),
            underlay_mtu: path.map(|path| path.mtu),
            effective_mtu: self.effective_mtu(tunnel),
            counters: counters(&self.datapath.port_totals(state.id)),
        })
    }

    /// The largest IP packet of a VM that fits the tunnel, as it was published.
    fn effective_mtu(&self, tunnel: &Tunnel) -> Option<u32> {
        let id = self.ports.get(&tunnel.name)?.id;
        let spec = self.datapath.model().ports.iter().find(|port| port.id == id)?.tunnel()?;
        match spec {
            TunnelSpec { path: Path::Ready { mtu, .. }, .. } => Some(u32::from(spec.inner_mtu(*mtu))),
            _ => {
                let path = self.underlay.lookup(ends(tunnel).pair?)?.as_ref().ok()?;
                Some(u32::from(spec.inner_mtu(u16::try_from(path.mtu).unwrap_or(u16::MAX))))
            }
        }
    }

    fn bridge_statuses(&self, scope: &Scope) -> Vec<BridgeStatus> {
        let wanted = self.config.bridges.iter().filter(|bridge| in_scope(scope, &bridge.name, &bridge.name));
        wanted.filter_map(|bridge| self.bridge_status(bridge)).collect()
    }

    fn bridge_status(&self, bridge: &Bridge) -> Option<BridgeStatus> {
        let stats = self.bridges.get(&bridge.name)?.fdb.stats();
        let internal = self.ports.get(&bridge.name).filter(|_| bridge.internal);
        let facts = internal.and_then(|port| match &port.live {
            Live::Open(_, handle) => handle.facts().ok().flatten(),
            Live::Absent(..) | Live::Tunnel | Live::Patch => None,
        });
        Some(BridgeStatus {
            name: bridge.name.clone(),
            mac: facts.and_then(|facts| facts.mac).or(bridge.mac),
            internal: bridge.internal,
            ports: (bridge.ports.len() + bridge.tunnels.len() + usize::from(bridge.internal)) as u32,
            tunnels: bridge.tunnels.len() as u32,
            vnis: bridge.vnis.0.len() as u32,
            fdb_entries: u64::from(stats.entries),
            fdb_size: u64::from(stats.limit),
            fdb_ageing: u64::from(bridge.fdb_ageing.get()),
            fdb_moves: stats.moved,
            fdb_full: stats.evicted,
        })
    }

    /// Drops by reason, of all ports and uplinks.
    fn drops(&self) -> BTreeMap<String, u64> {
        let uplinks = self.underlay.uplinks().map(|uplink| uplink.id);
        let mut drops = BTreeMap::new();
        for id in self.ports.values().map(|port| port.id).chain(uplinks) {
            for (reason, packets) in self.datapath.port_totals(id).drops.nonzero() {
                *drops.entry(reason.name().to_owned()).or_default() += packets;
            }
        }
        drops
    }

    fn caches(&self) -> Vec<CacheStatus> {
        let status = |(worker, counters): (usize, &WorkerCounters)| {
            let counters = &counters.worker;
            CacheStatus {
                worker: worker as u32,
                entries: counters.flows.get(),
                capacity: counters.capacity.get(),
                hits: counters.packets.get().saturating_sub(counters.misses.get()),
                misses: counters.misses.get(),
                stale: counters.stale.get(),
                begun: counters.begun.get(),
                uncached: counters.uncached.get(),
                evictions: counters.evicted.get(),
                programs: counters.programs.get(),
            }
        };
        self.datapath.counters().enumerate().map(status).collect()
    }

    fn worker_statuses(&self) -> Vec<WorkerStatus> {
        let cycles_per_nano = weft_io::thread::tsc_hz() / 1e9;
        let status = |(worker, counters): (usize, &WorkerCounters)| {
            let counters = &counters.worker;
            let packets = counters.packets.get();
            let busy = counters.busy_nanos.get() as f64;
            let ports = self.ports.iter().filter(|(_, port)| self.datapath.owner(port.id) == Some(worker));
            let busy_percent = self.samples.get(worker).map_or(0.0, |sample| sample.busy_percent);
            WorkerStatus {
                index: worker as u32,
                cpu: self.pins.get(worker).copied().flatten().map(u32::from),
                state: if busy_percent >= 1.0 { "busy" } else { "idle" }.to_owned(),
                busy_percent,
                bursts: counters.busy_rounds.get(),
                packets,
                cycles_per_packet: if packets > 0 { busy * cycles_per_nano / packets as f64 } else { 0.0 },
                held: counters.held.get(),
                ports: ports.map(|(name, _)| name.clone()).collect(),
            }
        };
        self.datapath.counters().enumerate().map(status).collect()
    }

    fn uplink_statuses(&self) -> Vec<UplinkStatus> {
        let status = |uplink: &Uplink| {
            let (backend, why) = uplink.backend();
            let (ifindex, mtu) = uplink.facts();
            let totals = self.datapath.port_totals(uplink.id);
            UplinkStatus {
                device: uplink.name.clone(),
                backend,
                why: why.to_owned(),
                ifindex,
                mtu,
                worker: self.datapath.owner(uplink.id).map(|worker| worker as u32),
                counters: Counters { rx_missed: uplink.missed(), ..counters(&totals) },
            }
        };
        self.underlay.uplinks().map(status).collect()
    }

    fn status(&self) -> SwitchStatus {
        let everything = Scope::default();
        SwitchStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.start.elapsed().as_secs(),
            frames: u64::from(self.pool.frames()),
            frames_free: u64::from(self.pool.at_home()),
            bridges: self.bridge_statuses(&everything),
            ports: self.port_statuses(&everything),
            tunnels: self.tunnel_statuses(&everything),
            uplinks: self.uplink_statuses(),
            vnis: self.vnis(None).unwrap_or_default(),
            workers: self.worker_statuses(),
            caches: self.caches(),
        }
    }
}

pub(crate) fn counters(totals: &PortTotals) -> Counters {
    Counters {
        rx_packets: totals.rx_packets,
        rx_bytes: totals.rx_bytes,
        tx_packets: totals.tx_packets,
        tx_bytes: totals.tx_bytes,
        rx_missed: 0,
        copies: totals.copies,
        drops: totals.drops.nonzero().map(|(reason, packets)| (reason.name().to_owned(), packets)).collect(),
    }
}
