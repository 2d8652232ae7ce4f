//! Two moments of the prepared switch, one second from each other: each `top --once` sees both.

use std::sync::atomic::{AtomicU32, Ordering};

use weft_config::control::{Counters, Reply, TopConnections, TopLimit, TopPort, TopStatus, TopWorker};

use crate::support::{drops, parse};

static ASKED: AtomicU32 = AtomicU32::new(0);

/// The earlier moment, then the later one, in turn.
pub fn answer() -> Reply {
    let later = ASKED.fetch_add(1, Ordering::Relaxed) % 2 == 1;
    Reply::Top { top: Box::new(moment(u64::from(later))) }
}

fn port(bridge: Option<&str>, name: &str, counters: Counters) -> TopPort {
    TopPort { bridge: bridge.map(parse), name: name.to_owned(), counters }
}

fn counters(packets: u64, bytes: u64, dropped: &[(&str, u64)]) -> Counters {
    Counters {
        rx_packets: packets,
        rx_bytes: bytes,
        tx_packets: packets / 2,
        tx_bytes: bytes / 2,
        rx_missed: 0,
        copies: 0,
        drops: drops(dropped),
    }
}

fn limit(what: &str, used: u64, limit: u64, refused: u64) -> TopLimit {
    TopLimit { what: what.to_owned(), used, limit, refused }
}

fn moment(later: u64) -> TopStatus {
    let quiet = counters(5, 500, &[("vlan_not_admitted", 1)]);
    let busy = counters(
        1000 + 1_250_000 * later,
        60_000 + 100_000_000 * later,
        &[("rule_drop", 7 + 2000 * later), ("table_miss", 100 + later)],
    );
    let worker = |index, busy: u64| TopWorker {
        index,
        cpu: (index == 1).then_some(3),
        busy_ns: 5_000_000_000 + busy * later,
        packets: 2000 + busy / 400 * later,
        misses: 20 + busy / 400_000 * later,
        evictions: 0,
    };
    TopStatus {
        uptime_ms: 10_000 + 1000 * later,
        ports: vec![
            port(Some("br0"), "vm1", quiet),
            port(Some("br0"), "vm2", busy.clone()),
            port(None, "eth0", counters(1 + later / 2, 70, &[])),
        ],
        workers: vec![worker(0, 512_000_000), worker(1, 0)],
        limits: vec![
            limit("frames", 4000, 65_536, 0),
            limit("FDB of br0", 8100, 8192, 3),
            limit("flow cache of worker 0", 12, 786_432, 0),
        ],
        connections: Some(TopConnections {
            connections: 12_345,
            max: 4_000_000,
            created: 20_000 + 1500 * later,
            refused: 4,
        }),
    }
}
