//! What there is only so much of: how much of it is used, by whom, and how often there was none left. `weftctl top` shows it,
//! and once a second the control thread looks whether a limit has been met, and says so in the log: a line for each limit,
//! at most one a minute.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;

use weft_config::control::TopLimit;
use weft_conntrack::ZoneLimit;
use weft_core::budget::{UPLINK, WHOLE};
use weft_core::key::PortId;
use weft_core::worker::CACHED_FLOWS;
use weft_wire::DropReason;

use crate::switch::Switch;

/// Seconds between two lines about the same limit.
const PAUSE: u32 = 60;

/// What the log has been told.
#[derive(Debug, Default)]
pub struct LimitLog {
    told: HashMap<String, Told>,
    /// Refusals by zones' limits at the last look.
    zones: u64,
    /// What each port's walks had taken at the last tick, in nanoseconds, and what they took in the second before, in microseconds.
    walks: BTreeMap<PortId, (u64, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    second: u32,
    refused: u64,
}

impl LimitLog {
    /// The lines that are due in `second`.
    fn look(&mut self, limits: &[TopLimit], second: u32) -> Vec<String> {
        let mut lines = Vec::new();
        for TopLimit { what, used, limit, refused } in limits.iter().filter(|limit| limit.refused > 0) {
            let known = self.told.get(what).copied();
            // Fewer than before: it was made anew.
            let before = known.map_or(0, |told| told.refused).min(*refused);
            let resting = known.is_some_and(|told| second.saturating_sub(told.second) < PAUSE);
            if *refused == before || resting {
                continue;
            }
            lines.push(format!("limit of {what}: {used} of {limit}, refused {}", refused - before));
            self.told.insert(what.clone(), Told { second, refused: *refused });
        }
        lines
    }
}

impl Switch {
    /// Makes the limits those of the configuration.
    pub(crate) fn set_limits(&self) {
        let limits = &self.datapath.shared().limits;
        limits.slow_path.store(self.config.switch.slow_path_share.get(), Ordering::Relaxed);
        limits.flows.store(self.config.switch.port_flows.get(), Ordering::Relaxed);
        for bridge in &self.config.bridges {
            let Some(state) = self.bridges.get(&bridge.name) else { continue };
            let ports = bridge.ports.iter().map(|port| (&port.name, port.fdb_limit));
            let tunnels = bridge.tunnels.iter().map(|tunnel| (&tunnel.name, tunnel.fdb_limit));
            let wanted: BTreeMap<PortId, u32> = ports
                .chain(tunnels)
                .filter_map(|(name, limit)| Some((self.ports.get(name)?.id, limit?.get())))
                .collect();
            for share in state.fdb.shares().iter().filter(|share| share.limit.is_some()) {
                if !wanted.contains_key(&share.port) {
                    state.fdb.set_port_limit(share.port, None);
                }
            }
            for (&port, &limit) in &wanted {
                state.fdb.set_port_limit(port, Some(limit));
            }
        }
    }

    /// Once a second: what walks have taken, and what the log is to be told.
    pub(crate) fn follow_limits(&mut self, elapsed: f64) {
        let (mut walks, names) = (BTreeMap::new(), self.port_names());
        for &port in names.keys() {
            let nanos = self.datapath.port_use(port).slow_nanos;
            let before = self.limit_log.walks.get(&port).map_or(0, |(before, _)| *before);
            let micros = nanos.saturating_sub(before) as f64 / 1e3 / elapsed.max(1e-3);
            walks.insert(port, (nanos, micros as u64));
        }
        self.limit_log.walks = walks;
        let refused = self.datapath.connections().statistics().refused_zone;
        // To look through all zones takes a while.
        let zones = std::mem::replace(&mut self.limit_log.zones, refused) != refused;
        let (limits, second) = (self.limits_of(&names, zones), self.second());
        for line in self.limit_log.look(&limits, second) {
            tracing::warn!("{line}");
        }
    }

    /// Every limit.
    pub(crate) fn all_limits(&self) -> Vec<TopLimit> {
        self.limits_of(&self.port_names(), true)
    }

    /// Every limit of these ports and of what they share; those of zones if wanted.
    fn limits_of(&self, names: &BTreeMap<PortId, String>, zones: bool) -> Vec<TopLimit> {
        let mut limits = self.limits_of_all();
        self.limits_of_bridges(names, &mut limits);
        self.limits_of_ports(names, &mut limits);
        if zones {
            self.limits_of_zones(&mut limits);
        }
        limits
    }

    fn limits_of_all(&self) -> Vec<TopLimit> {
        let (frames, free) = (u64::from(self.pool.frames()), u64::from(self.pool.at_home()));
        let used = frames.saturating_sub(free);
        let mut limits = vec![TopLimit { what: "frames".to_owned(), used, limit: frames, refused: 0 }];
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
            refused: statistics.refused_full + statistics.early_drop,
        });
        limits
    }

    fn limits_of_bridges(&self, names: &BTreeMap<PortId, String>, limits: &mut Vec<TopLimit>) {
        for (name, bridge) in &self.bridges {
            let stats = bridge.fdb.stats();
            limits.push(TopLimit {
                what: format!("FDB of {name}"),
                used: stats.entries.into(),
                limit: stats.limit.into(),
                refused: stats.evicted,
            });
            limits.extend(bridge.fdb.shares().into_iter().filter_map(|share| {
                Some(TopLimit {
                    what: format!("FDB of {name}, learned at {}", names.get(&share.port)?),
                    used: share.learned.into(),
                    limit: share.limit?.into(),
                    refused: share.refused,
                })
            }));
        }
    }

    /// Cached flows, and walks, of those that have any.
    fn limits_of_ports(&self, names: &BTreeMap<PortId, String>, limits: &mut Vec<TopLimit>) {
        let switch = &self.config.switch;
        let uplinks: Vec<PortId> = self.underlay.uplinks().map(|uplink| uplink.id).collect();
        for (&port, name) in names {
            let uses = self.datapath.port_use(port);
            let flows = switch.port_flows.get();
            if uses.flows_refused > 0 || uses.flows > 0 && flows < CACHED_FLOWS as u32 {
                limits.push(TopLimit {
                    what: format!("cached flows of {name}"),
                    used: uses.flows,
                    limit: flows.into(),
                    refused: uses.flows_refused,
                });
            }
            let used = self.limit_log.walks.get(&port).map_or(0, |(_, micros)| *micros);
            let refused = self.datapath.port_totals(port).drops.get(DropReason::SlowPathLimit);
            if used > 0 || refused > 0 {
                let shares = if uplinks.contains(&port) { UPLINK } else { 1 };
                let share = (switch.slow_path_share.get() * shares).min(WHOLE);
                let (what, limit) = (format!("slow path of {name}, us/s"), u64::from(share) * 10_000);
                limits.push(TopLimit { what, used, limit, refused });
            }
        }
    }

    /// Connections of zones that have a limit.
    fn limits_of_zones(&self, limits: &mut Vec<TopLimit>) {
        let connections = self.datapath.connections();
        let limit = |zone| match connections.zone_limit(zone) {
            ZoneLimit::Default => connections.default_zone_limit(),
            ZoneLimit::Unlimited => None,
            ZoneLimit::AtMost(limit) => Some(limit),
        };
        let zones = connections.zones().into_iter();
        let limited = zones.filter_map(|(zone, used)| Some((zone, used, limit(zone)?)));
        limits.extend(limited.map(|(zone, used, limit)| TopLimit {
            what: format!("connections of zone {zone}"),
            used: used.into(),
            limit: limit.into(),
            refused: connections.zone_refusals(zone),
        }));
    }

    /// Ports and uplinks.
    fn port_names(&self) -> BTreeMap<PortId, String> {
        let ports = self.ports.iter().map(|(name, port)| (port.id, name.to_string()));
        ports.chain(self.underlay.uplinks().map(|uplink| (uplink.id, uplink.name.clone()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(what: &str, refused: u64) -> TopLimit {
        TopLimit { what: what.to_owned(), used: 9, limit: 10, refused }
    }

    #[test]
    fn each_limit_that_is_met_has_a_line_at_most_once_a_minute_and_none_is_left_out() {
        let mut log = LimitLog::default();
        assert!(log.look(&[limit("FDB of br0", 0)], 1).is_empty());
        let first = log.look(&[limit("FDB of br0", 5), limit("connections", 2)], 2);
        assert_eq!(
            first,
            ["limit of FDB of br0: 9 of 10, refused 5", "limit of connections: 9 of 10, refused 2"]
        );
        for second in 3..62 {
            assert!(
                log.look(&[limit("FDB of br0", u64::from(second) + 5), limit("connections", 2)], second)
                    .is_empty()
            );
        }
        // It has ended long before the minute is over, and is told all the same.
        assert_eq!(log.look(&[limit("FDB of br0", 66)], 62), ["limit of FDB of br0: 9 of 10, refused 61"]);
        assert!(log.look(&[limit("FDB of br0", 66)], 200).is_empty());
    }

    #[test]
    fn a_table_that_was_made_anew_is_told_of_again() {
        let mut log = LimitLog::default();
        assert_eq!(log.look(&[limit("FDB of br0", 50)], 1).len(), 1);
        assert_eq!(log.look(&[limit("FDB of br0", 3)], 100), Vec::<String>::new());
    }
}
