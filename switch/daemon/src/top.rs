//! What `weftctl top` asks for, time and again: counters and gauges that cost next to nothing to read.

use weft_config::control::{Counters, TopConnections, TopPort, TopStatus, TopWorker};
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
            limits: self.all_limits(),
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
