//! Two moments' counters as rates, and their text.

use serde::Serialize;
use weft_config::control::{Counters, TopConnections, TopLimit, TopPort, TopStatus, TopWorker};

use crate::table::Table;

/// Limits that are shown: those that are nearest to being reached.
const LIMITS: usize = 10;

/// See the module's text.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Report {
    /// Seconds between the two moments.
    pub seconds: f64,
    /// The busiest first.
    pub ports: Vec<PortRates>,
    /// By number.
    pub workers: Vec<WorkerLoad>,
    /// Those that refuse something now first, then those that are nearest to being reached.
    pub limits: Vec<TopLimit>,
    /// Connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<ConnectionRates>,
}

/// What a port carries, a second.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct PortRates {
    /// Its bridge; empty for an uplink.
    pub bridge: String,
    /// Its name.
    pub port: String,
    /// Packets received.
    pub rx_pps: f64,
    /// Bits received.
    pub rx_bps: f64,
    /// Packets sent.
    pub tx_pps: f64,
    /// Bits sent.
    pub tx_bps: f64,
    /// Packets dropped.
    pub drops_pps: f64,
    /// Why most of them are.
    pub reason: String,
}

/// What a worker does.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct WorkerLoad {
    /// Its number.
    pub worker: u32,
    /// Its CPU, if it is pinned.
    pub cpu: Option<u32>,
    /// Share of its time that goes into packets, 0 to 100.
    pub busy_percent: f64,
    /// Packets a second.
    pub pps: f64,
    /// Share of them whose flow was cached, 0 to 100.
    pub hit_percent: f64,
    /// Packets a second whose flow was not.
    pub misses_pps: f64,
    /// Flows a second that are pushed out of the cache.
    pub evictions_ps: f64,
}

/// Connections.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct ConnectionRates {
    /// How many there are.
    pub connections: u64,
    /// How many there may be.
    pub max: u64,
    /// New ones a second.
    pub new_ps: f64,
    /// Refused ones a second.
    pub refused_ps: f64,
}

/// Rates over a time.
#[derive(Clone, Copy)]
struct Over(f64);

impl Over {
    fn rate(self, before: u64, now: u64) -> f64 {
        if self.0 <= 0.0 {
            return 0.0;
        }
        tenths(now.saturating_sub(before) as f64 / self.0)
    }
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

impl Report {
    /// What has happened from one moment to the other.
    pub fn new(before: &TopStatus, now: &TopStatus) -> Report {
        let seconds = now.uptime_ms.saturating_sub(before.uptime_ms) as f64 / 1000.0;
        let over = Over(seconds);
        let mut ports: Vec<PortRates> = now.ports.iter().map(|port| port_rates(before, port, over)).collect();
        // The busiest first, and among equals as they are configured.
        ports.sort_by(|one, two| busy(two).total_cmp(&busy(one)));
        let mut limits = now.limits.clone();
        // Those that refuse something now come first.
        let refuses = |limit: &TopLimit| {
            let old = before.limits.iter().find(|known| known.what == limit.what);
            limit.refused > old.map_or(0, |old| old.refused)
        };
        let order = |one: &TopLimit, two: &TopLimit| share(two).total_cmp(&share(one));
        limits.sort_by(|one, two| refuses(two).cmp(&refuses(one)).then(order(one, two)));
        Report {
            seconds,
            ports,
            workers: now.workers.iter().map(|worker| load(before, worker, over)).collect(),
            limits,
            connections: now.connections.as_ref().map(|now| connections(before, now, over)),
        }
    }

    /// On one line.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }

    /// All of it, part by part.
    pub fn text(&self) -> String {
        let parts = self.parts();
        parts.iter().map(|(title, text)| format!("{title}\n{text}")).collect::<Vec<_>>().join("\n")
    }

    /// Titles, and what stands under them.
    pub fn parts(&self) -> Vec<(String, String)> {
        let mut parts = vec![
            (format!("ports, per second (over {:.1} s)", self.seconds), self.port_table()),
            ("workers".to_owned(), self.worker_table()),
            ("nearest to a limit".to_owned(), self.limit_table()),
        ];
        if let Some(of) = &self.connections {
            let text = format!(
                "  {} of {}, {} new and {} refused a second\n",
                of.connections,
                of.max,
                si(of.new_ps),
                si(of.refused_ps)
            );
            parts.push(("connections".to_owned(), text));
        }
        parts
    }

    fn port_table(&self) -> String {
        let titles = ["port", "bridge", ">rx pps", ">rx bit/s", ">tx pps", ">tx bit/s", ">drops", "most for"];
        let mut table = Table::new(&titles);
        for port in &self.ports {
            table.row([
                port.port.clone(),
                if port.bridge.is_empty() { "(uplink)".to_owned() } else { port.bridge.clone() },
                si(port.rx_pps),
                si(port.rx_bps),
                si(port.tx_pps),
                si(port.tx_bps),
                si(port.drops_pps),
                port.reason.clone(),
            ]);
        }
        table.indented(2).render()
    }

    fn worker_table(&self) -> String {
        let titles = [">worker", ">CPU", ">busy", ">pps", ">hit rate", ">misses", ">evictions"];
        let mut table = Table::new(&titles);
        for worker in &self.workers {
            table.row([
                worker.worker.to_string(),
                worker.cpu.map_or("any".to_owned(), |cpu| cpu.to_string()),
                format!("{:.1} %", worker.busy_percent),
                si(worker.pps),
                if worker.pps > 0.0 { format!("{:.1} %", worker.hit_percent) } else { String::new() },
                si(worker.misses_pps),
                si(worker.evictions_ps),
            ]);
        }
        table.indented(2).render()
    }

    fn limit_table(&self) -> String {
        let mut table = Table::new(&["what", ">used", ">limit", ">share", ">refused"]);
        for limit in self.limits.iter().take(LIMITS) {
            table.row([
                limit.what.clone(),
                limit.used.to_string(),
                limit.limit.to_string(),
                format!("{:.1} %", share(limit) * 100.0),
                limit.refused.to_string(),
            ]);
        }
        table.indented(2).render()
    }
}

fn busy(port: &PortRates) -> f64 {
    port.rx_pps + port.tx_pps + port.drops_pps
}

fn share(limit: &TopLimit) -> f64 {
    if limit.limit == 0 { 0.0 } else { limit.used as f64 / limit.limit as f64 }
}

fn port_rates(before: &TopStatus, port: &TopPort, over: Over) -> PortRates {
    let same = |known: &&TopPort| (&known.bridge, &known.name) == (&port.bridge, &port.name);
    let none = Counters::default();
    let old = before.ports.iter().find(same).map_or(&none, |known| &known.counters);
    let now = &port.counters;
    let dropped = |reason: &str| old.drops.get(reason).copied().unwrap_or(0);
    let drops = now.drops.iter().map(|(reason, &packets)| (packets.saturating_sub(dropped(reason)), reason));
    let most = drops.filter(|(packets, _)| *packets > 0).max_by_key(|(packets, _)| *packets);
    let bits = |before: u64, now: u64| tenths(over.rate(before, now) * 8.0);
    PortRates {
        bridge: port.bridge.as_ref().map_or_else(String::new, ToString::to_string),
        port: port.name.clone(),
        rx_pps: over.rate(old.rx_packets, now.rx_packets),
        rx_bps: bits(old.rx_bytes, now.rx_bytes),
        tx_pps: over.rate(old.tx_packets, now.tx_packets),
        tx_bps: bits(old.tx_bytes, now.tx_bytes),
        drops_pps: over.rate(old.dropped(), now.dropped()),
        reason: most.map_or_else(String::new, |(_, reason)| reason.clone()),
    }
}

fn load(before: &TopStatus, worker: &TopWorker, over: Over) -> WorkerLoad {
    let none = TopWorker::default();
    let old = before.workers.iter().find(|known| known.index == worker.index).unwrap_or(&none);
    let (packets, misses) =
        (worker.packets.saturating_sub(old.packets), worker.misses.saturating_sub(old.misses));
    let hits = packets.saturating_sub(misses);
    WorkerLoad {
        worker: worker.index,
        cpu: worker.cpu,
        busy_percent: tenths(over.rate(old.busy_ns, worker.busy_ns) / 1e7).min(100.0),
        pps: over.rate(old.packets, worker.packets),
        hit_percent: if packets > 0 { tenths(hits as f64 * 100.0 / packets as f64) } else { 0.0 },
        misses_pps: over.rate(old.misses, worker.misses),
        evictions_ps: over.rate(old.evictions, worker.evictions),
    }
}

fn connections(before: &TopStatus, now: &TopConnections, over: Over) -> ConnectionRates {
    let none = TopConnections::default();
    let old = before.connections.as_ref().unwrap_or(&none);
    ConnectionRates {
        connections: now.connections,
        max: now.max,
        new_ps: over.rate(old.created, now.created),
        refused_ps: over.rate(old.refused, now.refused),
    }
}

/// A number of three or four digits: `950`, `1.2k`, `34.5M`.
fn si(value: f64) -> String {
    match value {
        value if value < 10.0 && value.fract() > 0.0 => format!("{value:.1}"),
        value if value < 1000.0 => format!("{value:.0}"),
        value if value < 1e6 => format!("{:.1}k", value / 1e3),
        value if value < 1e9 => format!("{:.1}M", value / 1e6),
        value => format!("{:.1}G", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let all = [0.0, 0.5, 12.3, 999.0, 1000.0, 999_949.0, 2_500_000.0, 4e10];
        assert_eq!(all.map(si), ["0", "0.5", "12", "999", "1.0k", "999.9k", "2.5M", "40.0G"]);
    }

    #[test]
    fn a_switch_that_has_started_again_has_no_rates_yet() {
        let old = TopStatus { uptime_ms: 90_000, ..TopStatus::default() };
        let worker = TopWorker { packets: 5, ..TopWorker::default() };
        let new = TopStatus { uptime_ms: 1000, workers: vec![worker], ..TopStatus::default() };
        let report = Report::new(&old, &new);
        assert_eq!((report.seconds, report.workers[0].pps), (0.0, 0.0));
    }
}
