//! What `weftctl top` asks for, time and again: counters and gauges that cost next to nothing to read.

use weft_config::control::{Counters, TopConnections, TopLimit, TopPort, TopStatus, TopWorker};
use weft_core::counters::Counters as WorkerCounters;

use crate::status::counters;
use crate::switch::Switch;

impl Switch {
    /// The switch at this moment.
    pub(crate) fn top(&self) -> TopStatus {
        TopStatus {
            uptime_ms: self.start.elapsed().as_millis() as u64,
            ports: self.top_ports(),
            workers: self.datapath.counters().enumerate().map(|worker| self.top_worker(worker)).collect(),
            limits: self.top_limits(),
            connections: Some(self.top_connections()),
        }
    }

    fn top_ports(&self) -> Vec<TopPort> {
        let mut ports = Vec::new();
        for bridge in &self.config.bridges {
            let own = bridge.internal.then_some(&bridge.name);
            let plain = bridge.ports.iter().map(|port| &port.name);
            for name in own.into_iter().chain(plain).chain(bridge.tunnels.iter().map(|tunnel| &tunnel.name)) {
                let Some(state) = self.ports.get(name) else { continue };
                let counters = counters(&self.datapath.port_totals(state.id));
                ports.push(TopPort { bridge: Some(bridge.name.clone()), name: name.to_string(), counters });
            }
        }
        ports.extend(self.underlay.uplinks().map(|uplink| TopPort {
            bridge: None,
            name: uplink.name.clone(),
            counters: Counters {
                rx_missed: uplink.missed(),
                ..counters(&self.datapath.port_totals(uplink.id))
            },
        }));
        ports
    }

    fn top_worker(&self, (index, counters): (usize, &WorkerCounters)) -> TopWorker {
        let counters = &counters.worker;
        TopWorker {
            index: index as u32,
            cpu: self.pins.get(index).copied().flatten().map(u32::from),
            busy_ns: counters.busy_nanos.get(),
            packets: counters.packets.get(),
            misses: counters.misses.get(),
            evictions: counters.evicted.get(),
        }
    }

    fn top_limits(&self) -> Vec<TopLimit> {
        let (frames, free) = (u64::from(self.pool.frames()), u64::from(self.pool.at_home()));
        let used = frames.saturating_sub(free);
        let mut limits = vec![TopLimit { what: "frames".to_owned(), used, limit: frames, refused: 0 }];
        for (name, bridge) in &self.bridges {
            let stats = bridge.fdb.stats();
            limits.push(TopLimit {
                what: format!("FDB of {name}"),
                used: stats.entries.into(),
                limit: stats.limit.into(),
                refused: stats.evicted,
            });
        }
        for (index, counters) in self.datapath.counters().enumerate() {
            let counters = &counters.worker;
            limits.push(TopLimit {
                what: format!("flow cache of worker {index}"),
                used: counters.flows.get(),
                limit: counters.capacity.get(),
                refused: counters.evicted.get(),
            });
        }
        let statistics = self.datapath.connections().statistics();
        limits.push(TopLimit {
            what: "connections".to_owned(),
            used: statistics.connections.into(),
            limit: statistics.max.into(),
            refused: statistics.refused_full,
        });
        limits.extend(self.top_zones());
        limits
    }

    /// Zones that have a limit.
    fn top_zones(&self) -> Vec<TopLimit> {
        use weft_conntrack::ZoneLimit;
        let connections = self.datapath.connections();
        let limit = |zone| match connections.zone_limit(zone) {
            ZoneLimit::Default => connections.default_zone_limit(),
            ZoneLimit::Unlimited => None,
            ZoneLimit::AtMost(limit) => Some(limit),
        };
        let zones = connections.zones().into_iter();
        let limited = zones.filter_map(|(zone, used)| Some((zone, used, limit(zone)?)));
        let told = |(zone, used, limit): (u16, u32, u32)| TopLimit {
            what: format!("connections of zone {zone}"),
            used: used.into(),
            limit: limit.into(),
            refused: 0,
        };
        limited.map(told).collect()
    }

    fn top_connections(&self) -> TopConnections {
        let statistics = self.datapath.connections().statistics();
        TopConnections {
            connections: statistics.connections.into(),
            max: statistics.max.into(),
            created: statistics.created,
            refused: statistics.refused_full
                + statistics.refused_zone
                + statistics.refused_nat
                + statistics.refused_clash,
        }
    }
}
