//! The switch's answers as text for people: stable, aligned, one thing on a line.

use std::collections::BTreeMap;
use std::fmt::Display;

use weft_config::control::{
    BridgeStatus, CacheStatus, DropPlace, FdbEntry, PortState, PortStatus, Reply, SwitchStatus, TunnelStatus,
    UplinkStatus, VniEntry, WorkerStatus,
};
use weft_wire::{DropReason, PortName};

use crate::args::{Command, ConfigCommand, PortCommand, TunnelCommand};
use crate::table::{Table, listing};

/// The text for the answer to a command; empty where success says it all.
pub fn render(command: &Command, reply: &Reply) -> String {
    match (command, reply) {
        (Command::Config { command: ConfigCommand::Apply { .. } }, Reply::Applied { differences }) => {
            applied(differences)
        }
        (_, Reply::Applied { .. }) => String::new(),
        (Command::Port { command: PortCommand::Show { .. } }, Reply::Ports { ports, .. }) => {
            ports.iter().map(port).collect()
        }
        (Command::Port { .. }, Reply::Ports { ports, .. }) => port_table(&all(ports)).render(),
        (_, Reply::Ports { ports, uplinks }) => counter_table(ports, uplinks),
        (Command::Tunnel { command: TunnelCommand::Show { .. } }, Reply::Tunnels { tunnels }) => {
            tunnels.iter().map(tunnel).collect()
        }
        (_, Reply::Tunnels { tunnels }) => tunnel_table(&all(tunnels)).render(),
        (_, Reply::Bridges { bridges }) => bridge_table(bridges),
        (_, Reply::Vnis { vnis }) => vni_table(&all(vnis)).render(),
        (_, Reply::Fdb { entries }) => fdb(entries),
        (_, Reply::Flushed { entries }) => format!("{entries} entries flushed\n"),
        (_, Reply::Drops { drops, places }) => drop_table(drops) + &place_table(places),
        (_, Reply::Caches { caches }) => cache_table(caches).render(),
        (_, Reply::Workers { workers }) => worker_table(workers).render(),
        (_, Reply::Switch { switch }) => whole(switch),
        (_, Reply::Trace { trace }) => crate::trace::render(trace),
        (_, Reply::Why { why }) => crate::why::render(why),
        // It takes two of them to say something.
        (_, Reply::Top { .. }) => String::new(),
        (_, Reply::Config { toml, .. }) => toml.clone(),
        (_, Reply::Version { version }) => format!("weftd {version}\n"),
        (Command::Conntrack { command }, Reply::Conntrack(reply)) => crate::conntrack::render(command, reply),
        (_, Reply::Conntrack(_)) => String::new(),
        (command, Reply::Flow(reply)) => crate::flow::render(command, reply),
        (_, Reply::Acl { groups, ports }) => crate::acl::shown(groups, ports),
    }
}

fn all<T>(items: &[T]) -> Vec<&T> {
    items.iter().collect()
}

/// Differences, one a line.
pub fn applied(differences: &[String]) -> String {
    if differences.is_empty() {
        return "nothing differs\n".to_owned();
    }
    differences.iter().map(|line| format!("{line}\n")).collect()
}

fn maybe(value: &Option<impl Display>) -> String {
    value.as_ref().map_or(String::new(), ToString::to_string)
}

fn state(state: &PortState) -> String {
    match state {
        PortState::Up => "up".to_owned(),
        PortState::Down(reason) => format!("down: {reason}"),
    }
}

fn names(names: &[PortName]) -> String {
    names.iter().map(PortName::as_str).collect::<Vec<_>>().join(",")
}

fn reasons(drops: &BTreeMap<String, u64>) -> String {
    let drops: Vec<String> = drops.iter().map(|(reason, packets)| format!("{reason} {packets}")).collect();
    drops.join(", ")
}

fn bridge_table(bridges: &[BridgeStatus]) -> String {
    let titles =
        ["bridge", ">ports", ">tunnels", ">VNIs", ">FDB", ">size", ">ageing", ">moves", "MAC", "internal"];
    let mut table = Table::new(&titles);
    for bridge in bridges {
        table.row([
            bridge.name.to_string(),
            bridge.ports.to_string(),
            bridge.tunnels.to_string(),
            bridge.vnis.to_string(),
            bridge.fdb_entries.to_string(),
            bridge.fdb_size.to_string(),
            bridge.fdb_ageing.to_string(),
            bridge.fdb_moves.to_string(),
            maybe(&bridge.mac),
            if bridge.internal { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table.render()
}

fn port_table(ports: &[&PortStatus]) -> Table {
    let titles = [
        "bridge", "port", ">ofport", "type", "backend", "VLANs", ">MTU", ">rx", ">tx", ">drops", "netns",
        "state",
    ];
    let mut table = Table::new(&titles);
    for port in ports {
        table.row([
            port.bridge.to_string(),
            port.name.to_string(),
            port.ofport.to_string(),
            port.kind.clone(),
            port.backend.clone(),
            port.vlan.clone(),
            maybe(&port.mtu),
            port.counters.rx_packets.to_string(),
            port.counters.tx_packets.to_string(),
            port.counters.dropped().to_string(),
            maybe(&port.netns),
            state(&port.state),
        ]);
    }
    table
}

fn port(port: &PortStatus) -> String {
    let with_reason = |what: &str| match port.why.as_str() {
        "" => what.to_owned(),
        why => format!("{what} ({why})"),
    };
    let counters = &port.counters;
    let packets = |packets: u64, bytes: u64| format!("{packets} packets, {bytes} bytes");
    listing(
        &format!("port {} of bridge {}", port.name, port.bridge),
        &[
            ("ofport", port.ofport.to_string()),
            ("state", state(&port.state)),
            ("type", if port.backend.is_empty() { with_reason(&port.kind) } else { port.kind.clone() }),
            ("backend", if port.backend.is_empty() { String::new() } else { with_reason(&port.backend) }),
            ("VLANs", port.vlan.clone()),
            ("MAC", maybe(&port.mac)),
            ("MTU", maybe(&port.mtu)),
            ("effective MTU", maybe(&port.effective_mtu)),
            ("netns", maybe(&port.netns)),
            ("ifindex", maybe(&port.ifindex)),
            ("worker", maybe(&port.worker)),
            ("rx", packets(counters.rx_packets, counters.rx_bytes)),
            ("tx", packets(counters.tx_packets, counters.tx_bytes)),
            ("drops", dropped(&counters.drops)),
        ],
    )
}

fn dropped(drops: &BTreeMap<String, u64>) -> String {
    match drops.values().sum::<u64>() {
        0 => "0".to_owned(),
        total => format!("{total} ({})", reasons(drops)),
    }
}

fn counter_table(ports: &[PortStatus], uplinks: &[UplinkStatus]) -> String {
    let titles = [
        "bridge",
        "port",
        ">rx packets",
        ">rx bytes",
        ">tx packets",
        ">tx bytes",
        ">missed",
        ">drops",
        "reasons",
    ];
    let mut table = Table::new(&titles);
    let ports = ports.iter().map(|port| (port.bridge.to_string(), port.name.to_string(), &port.counters));
    let uplinks =
        uplinks.iter().map(|uplink| ("(uplink)".to_owned(), uplink.device.clone(), &uplink.counters));
    for (bridge, name, counters) in ports.chain(uplinks) {
        table.row([
            bridge,
            name,
            counters.rx_packets.to_string(),
            counters.rx_bytes.to_string(),
            counters.tx_packets.to_string(),
            counters.tx_bytes.to_string(),
            counters.rx_missed.to_string(),
            counters.dropped().to_string(),
            reasons(&counters.drops),
        ]);
    }
    table.render()
}

fn uplink_table(uplinks: &[UplinkStatus]) -> Table {
    let titles = ["uplink", "backend", ">MTU", ">rx", ">tx", ">missed", ">drops"];
    let mut table = Table::new(&titles);
    for uplink in uplinks {
        table.row([
            uplink.device.clone(),
            uplink.backend.clone(),
            uplink.mtu.to_string(),
            uplink.counters.rx_packets.to_string(),
            uplink.counters.tx_packets.to_string(),
            uplink.counters.rx_missed.to_string(),
            uplink.counters.dropped().to_string(),
        ]);
    }
    table
}

fn tunnel_table(tunnels: &[&TunnelStatus]) -> Table {
    let titles = [
        "bridge", "tunnel", ">ofport", "type", "local", "remote", "key", "VNIs", "underlay", ">MTU", ">rx",
        ">tx", ">drops", "state",
    ];
    let mut table = Table::new(&titles);
    for tunnel in tunnels {
        table.row([
            tunnel.bridge.to_string(),
            tunnel.name.to_string(),
            tunnel.ofport.to_string(),
            tunnel.kind.to_string(),
            tunnel.local.to_string(),
            tunnel.remote.to_string(),
            tunnel.key.clone(),
            tunnel.vnis.clone(),
            maybe(&tunnel.underlay),
            maybe(&tunnel.effective_mtu),
            tunnel.counters.rx_packets.to_string(),
            tunnel.counters.tx_packets.to_string(),
            tunnel.counters.dropped().to_string(),
            state(&tunnel.state),
        ]);
    }
    table
}

fn tunnel(tunnel: &TunnelStatus) -> String {
    let counters = &tunnel.counters;
    let packets = |packets: u64, bytes: u64| format!("{packets} packets, {bytes} bytes");
    let next_hop = match (&tunnel.next_hop, tunnel.neighbour.as_str()) {
        (Some(address), "") => address.to_string(),
        (Some(address), neighbour) => format!("{address} ({neighbour})"),
        (None, _) => String::new(),
    };
    listing(
        &format!("tunnel {} of bridge {}", tunnel.name, tunnel.bridge),
        &[
            ("ofport", tunnel.ofport.to_string()),
            ("state", state(&tunnel.state)),
            ("type", tunnel.kind.to_string()),
            ("local", tunnel.local.to_string()),
            ("remote", tunnel.remote.to_string()),
            ("key", tunnel.key.clone()),
            ("VNIs", tunnel.vnis.clone()),
            ("underlay", maybe(&tunnel.underlay)),
            ("underlay MTU", maybe(&tunnel.underlay_mtu)),
            ("next hop", next_hop),
            ("effective MTU", maybe(&tunnel.effective_mtu)),
            ("rx", packets(counters.rx_packets, counters.rx_bytes)),
            ("tx", packets(counters.tx_packets, counters.tx_bytes)),
            ("drops", dropped(&counters.drops)),
        ],
    )
}

fn vni_table(vnis: &[&VniEntry]) -> Table {
    let mut table = Table::new(&["bridge", ">VLAN", ">VNI", "tunnels"]);
    for entry in vnis {
        let VniEntry { bridge, vlan, vni, tunnels } = entry;
        table.row([bridge.to_string(), vlan.to_string(), vni.to_string(), names(tunnels)]);
    }
    table
}

/// The columns of Open vSwitch's `fdb/show`, with the bridge in front and the moves behind.
fn fdb(entries: &[FdbEntry]) -> String {
    let mut table = Table::new(&["bridge", ">port", ">VLAN", "MAC", ">Age", ">moves"]);
    for entry in entries {
        let age = if entry.fixed { "static".to_owned() } else { entry.age_s.to_string() };
        table.row([
            entry.bridge.to_string(),
            entry.port.to_string(),
            entry.vlan.to_string(),
            entry.mac.to_string(),
            age,
            entry.moves.to_string(),
        ]);
    }
    table.render()
}

fn drop_table(drops: &BTreeMap<String, u64>) -> String {
    let mut table = Table::new(&["reason", ">packets", "meaning"]);
    for (name, packets) in drops {
        let known = DropReason::ALL.iter().find(|reason| reason.name() == name);
        table.row([name.clone(), packets.to_string(), known.map_or("", |reason| reason.text()).to_owned()]);
    }
    let text = table.render();
    if text.is_empty() { "no packet was dropped\n".to_owned() } else { text }
}

/// What rules have dropped: nothing if there was nothing.
fn place_table(places: &[DropPlace]) -> String {
    let titles = ["port", "bridge", ">table", "cookie", "reason", ">packets", ">bytes", ">last"];
    let mut table = Table::new(&titles);
    for place in places {
        let cookie = place.cookie.map_or_else(|| "(no rule)".to_owned(), |cookie| format!("{cookie:#x}"));
        let name = place.name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
        table.row([
            place.port.clone(),
            maybe(&place.bridge),
            maybe(&place.table),
            if place.table.is_some() { cookie + &name } else { String::new() },
            place.reason.clone(),
            place.packets.to_string(),
            place.bytes.to_string(),
            format!("{} s", place.age_s),
        ]);
    }
    let text = table.render();
    if text.is_empty() { text } else { format!("\n{text}") }
}

fn share(part: u64, whole: u64) -> String {
    match whole {
        0 => String::new(),
        _ => format!("{:.1} %", part as f64 * 100.0 / whole as f64),
    }
}

fn cache_table(caches: &[CacheStatus]) -> Table {
    let titles = [
        ">worker",
        ">flows",
        ">capacity",
        ">hits",
        ">misses",
        ">hit rate",
        ">stale",
        ">begun",
        ">uncached",
        ">evictions",
        ">programs",
    ];
    let mut table = Table::new(&titles);
    for cache in caches {
        table.row([
            cache.worker.to_string(),
            cache.entries.to_string(),
            cache.capacity.to_string(),
            cache.hits.to_string(),
            cache.misses.to_string(),
            share(cache.hits, cache.hits.saturating_add(cache.misses)),
            cache.stale.to_string(),
            cache.begun.to_string(),
            cache.uncached.to_string(),
            cache.evictions.to_string(),
            cache.programs.to_string(),
        ]);
    }
    table
}

fn worker_table(workers: &[WorkerStatus]) -> Table {
    let titles =
        [">worker", ">CPU", "state", ">busy", ">bursts", ">packets", ">per burst", ">cycles/packet", "ports"];
    let mut table = Table::new(&titles);
    for worker in workers {
        let per_burst = match worker.bursts {
            0 => String::new(),
            bursts => format!("{:.1}", worker.packets as f64 / bursts as f64),
        };
        table.row([
            worker.index.to_string(),
            worker.cpu.map_or("any".to_owned(), |cpu| cpu.to_string()),
            worker.state.clone(),
            format!("{:.1} %", worker.busy_percent),
            worker.bursts.to_string(),
            worker.packets.to_string(),
            per_burst,
            if worker.packets == 0 { String::new() } else { format!("{:.0}", worker.cycles_per_packet) },
            names(&worker.ports),
        ]);
    }
    table
}

fn whole(switch: &SwitchStatus) -> String {
    let mut text = format!(
        "weftd {}, process {}, up {}, {} of {} frames free\n",
        switch.version,
        switch.pid,
        duration(switch.uptime_s),
        switch.frames_free,
        switch.frames
    );
    for bridge in &switch.bridges {
        text.push_str(&format!(
            "\nbridge {}: FDB {} of {}, ageing {} s, moves {}, MAC {}\n",
            bridge.name,
            bridge.fdb_entries,
            bridge.fdb_size,
            bridge.fdb_ageing,
            bridge.fdb_moves,
            bridge.mac.map_or("-".to_owned(), |mac| mac.to_string())
        ));
        let tunnels: Vec<_> = switch.tunnels.iter().filter(|tunnel| tunnel.bridge == bridge.name).collect();
        let is_tunnel = |name: &PortName| tunnels.iter().any(|tunnel| tunnel.name == *name);
        let of_bridge = switch.ports.iter().filter(|port| port.bridge == bridge.name);
        let ports: Vec<_> = of_bridge.filter(|port| !is_tunnel(&port.name)).collect();
        let vnis: Vec<_> = switch.vnis.iter().filter(|entry| entry.bridge == bridge.name).collect();
        for table in [port_table(&ports), tunnel_table(&tunnels), vni_table(&vnis)] {
            text.push_str(&table.without_first().indented(2).render());
        }
    }
    if !switch.uplinks.is_empty() {
        text.push_str(&format!("\nuplinks\n{}", uplink_table(&switch.uplinks).indented(2).render()));
    }
    text.push_str(&format!("\nworkers\n{}", worker_table(&switch.workers).indented(2).render()));
    text.push_str(&format!("\nflow caches\n{}", cache_table(&switch.caches).indented(2).render()));
    text
}

/// `1d 02:03:04`, or less where there is less.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let clock = format!("{hours:02}:{minutes:02}:{:02}", seconds % 60);
    if days > 0 { format!("{days}d {clock}") } else { clock }
}
