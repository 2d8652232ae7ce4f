//! `weftctl conntrack`: connections as they are, and what the configuration says of their number and age.

mod walk;

use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_config::Config;
use weft_config::conntrack::{Limit, TIMEOUTS, Zone};
use weft_config::control::{
    Bits, ConnectionStatus, ConntrackFilter, ConntrackOp, ConntrackReply, Protocol, TupleStatus,
    ZoneLimitStatus, ZoneTimeouts,
};
use weft_conntrack::{
    Connection, Family, Filter, Helper, Kind, Masked, Partial, Settings, Side, Timeout, Timeouts, Tuple,
    ZoneLimit,
};

use crate::switch::Switch;

pub use walk::Walk;

/// How large the table is, and a secret for its hash.
pub(crate) fn settings(config: &Config) -> Settings {
    let random = std::hash::RandomState::new();
    let secret = [random.hash_one(0), random.hash_one(1)];
    Settings { max: config.conntrack.max.get(), secret, ..Settings::default() }
}

/// The number of a zone with settings of its own.
pub(crate) fn zone_number(zone: &Zone) -> u16 {
    // Its type has the range.
    zone.id.get() as u16
}

impl Switch {
    /// What a client asks about settings of connections; what is about connections themselves is a [`Walk`].
    pub(crate) fn conntrack(&self, op: &ConntrackOp) -> Result<ConntrackReply, Box<Walk>> {
        match op {
            ConntrackOp::Limits => Ok(self.limits()),
            ConntrackOp::Timeouts => Ok(self.timeouts()),
            ConntrackOp::List { filter, limit, from } => Err(Walk::list(filter_of(filter), *limit, *from)),
            ConntrackOp::Flush { filter } => Err(Walk::flush(filter_of(filter))),
            ConntrackOp::Count { filter } => Err(Walk::count(filter_of(filter))),
        }
    }

    fn limits(&self) -> ConntrackReply {
        let connections = self.datapath.connections();
        let default = connections.default_zone_limit();
        let mut zones: BTreeMap<u16, u32> = connections.zones().into_iter().collect();
        for zone in &self.config.conntrack.zones {
            zones.entry(zone_number(zone)).or_default();
        }
        let told = |(zone, connections_now): (u16, u32)| {
            let own = connections.zone_limit(zone);
            let limit = match own {
                ZoneLimit::Default => default,
                ZoneLimit::Unlimited => None,
                ZoneLimit::AtMost(limit) => Some(limit),
            };
            ZoneLimitStatus {
                zone,
                connections: connections_now,
                limit,
                own: own != ZoneLimit::Default,
                refused: connections.zone_refusals(zone),
            }
        };
        let zones = zones.into_iter().map(told).collect();
        ConntrackReply::Limits { max: connections.statistics().max, default, zones }
    }

    fn timeouts(&self) -> ConntrackReply {
        let connections = self.datapath.connections();
        let named = |timeouts: Timeouts| -> BTreeMap<String, u32> {
            Timeout::ALL.iter().map(|&which| (which.name().to_owned(), timeouts.get(which))).collect()
        };
        let of_zones = self.config.conntrack.zones.iter();
        let own = of_zones.filter(|zone| zone.timeouts().iter().any(|(_, seconds)| seconds.is_some()));
        let told = |zone| ZoneTimeouts { zone, seconds: named(connections.timeouts(zone)) };
        let zones = own.map(zone_number).map(told).collect();
        let default = timeouts_over(Timeouts::default(), self.config.conntrack.timeouts());
        ConntrackReply::Timeouts { default: named(default), zones }
    }

    /// Makes limits and timeouts those of the configuration; `before` are zones that had some of their own.
    pub(crate) fn set_connection_limits(&self, before: &[u16]) {
        let (connections, wanted) = (self.datapath.connections(), &self.config.conntrack);
        connections.set_default_zone_limit(match wanted.limit {
            None | Some(Limit::Unlimited) => None,
            Some(Limit::AtMost(limit)) => Some(limit),
        });
        connections.set_window_check(!wanted.tcp_be_liberal);
        let default = timeouts_over(Timeouts::default(), wanted.timeouts());
        connections.set_default_timeouts(default);
        // Not those that keep some, for which nothing else shall hold in between.
        let kept: HashSet<u16> = wanted.zones.iter().map(zone_number).collect();
        for &zone in before.iter().filter(|zone| !kept.contains(zone)) {
            connections.set_zone_limit(zone, ZoneLimit::Default);
            connections.set_timeouts(zone, None);
        }
        for zone in &wanted.zones {
            let number = zone_number(zone);
            let own = zone.timeouts().iter().any(|(_, seconds)| seconds.is_some());
            connections.set_timeouts(number, own.then(|| timeouts_over(default, zone.timeouts())));
            connections.set_zone_limit(
                number,
                match zone.limit {
                    None => ZoneLimit::Default,
                    Some(Limit::Unlimited) => ZoneLimit::Unlimited,
                    Some(Limit::AtMost(limit)) => ZoneLimit::AtMost(limit),
                },
            );
        }
    }
}

/// A policy with some of its seconds set.
fn timeouts_over(mut timeouts: Timeouts, set: [(&'static str, Option<u32>); TIMEOUTS.len()]) -> Timeouts {
    for (name, seconds) in set {
        let which = Timeout::ALL.into_iter().find(|which| which.name() == name);
        if let (Some(which), Some(seconds)) = (which, seconds) {
            timeouts.set(which, seconds);
        }
    }
    timeouts
}

fn filter_of(filter: &ConntrackFilter) -> Filter {
    let protocol = filter.proto.map(|Protocol(number)| number);
    let partial = |(src, dst): (Option<IpAddr>, Option<IpAddr>), (src_port, dst_port)| Partial {
        src: src.map(bits),
        dst: dst.map(bits),
        src_port,
        dst_port,
        protocol,
        family: src.or(dst).map(family),
    };
    let mark = filter.mark.unwrap_or(Bits { value: 0, mask: 0 });
    let label = filter.label.unwrap_or(Bits { value: 0, mask: 0 });
    Filter {
        zone: filter.zone,
        original: partial((filter.src, filter.dst), (filter.sport, filter.dport)),
        reply: partial((filter.reply_src, filter.reply_dst), (filter.reply_sport, filter.reply_dport)),
        mark: Masked { value: mark.value as u32, mask: mark.mask as u32 },
        label: Masked { value: label.value, mask: label.mask },
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn family(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

fn status(connection: &Connection) -> ConnectionStatus {
    ConnectionStatus {
        text: text(connection),
        proto: Protocol(connection.original.protocol).to_string(),
        zone: connection.zone,
        original: tuple(&connection.original),
        reply: tuple(&connection.reply),
        state: state(connection),
        mark: connection.mark,
        label: format!("{:#x}", connection.label),
        nat: connection.nat.map(|side| side_name(side).to_owned()),
        helper: connection.helper.map(|helper| helper_name(helper).to_owned()),
        parent: connection.parent.as_ref().map(tuple),
        left_s: connection.left,
    }
}

fn tuple(tuple: &Tuple) -> TupleStatus {
    let address = |bits: u128| match tuple.family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    };
    TupleStatus {
        src: address(tuple.src),
        dst: address(tuple.dst),
        sport: tuple.src_port,
        dport: tuple.dst_port,
    }
}

/// TCP's state: that of the end which is further, as Open vSwitch's listing has it (`ct_dpif_format_entry`).
fn state(connection: &Connection) -> Option<String> {
    let [one, two] = connection.progress.peers;
    let further = one.state.max(two.state);
    (connection.progress.kind == Kind::Tcp).then(|| further.name().to_owned())
}

fn side_name(side: Side) -> &'static str {
    match side {
        Side::Source => "src",
        Side::Destination => "dst",
    }
}

fn helper_name(helper: Helper) -> &'static str {
    match helper {
        Helper::Ftp => "ftp",
        Helper::Tftp => "tftp",
    }
}

/// As `ovs-appctl dpctl/dump-conntrack` prints it.
fn text(connection: &Connection) -> String {
    let Connection { zone, original, reply, mark, label, .. } = connection;
    let mut text = format!("{},orig=({original}),reply=({reply})", Protocol(original.protocol));
    if *zone != 0 {
        text.push_str(&format!(",zone={zone}"));
    }
    if *mark != 0 {
        text.push_str(&format!(",mark={mark}"));
    }
    if *label != 0 {
        text.push_str(&format!(",labels={label:#x}"));
    }
    if let Some(state) = state(connection) {
        text.push_str(&format!(",protoinfo=(state={state})"));
    }
    if let Some(helper) = connection.helper {
        text.push_str(&format!(",helper={}", helper_name(helper)));
    }
    if let Some(parent) = &connection.parent {
        text.push_str(&format!(",parent=({parent})"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_conntrack::{Phase, Progress, TcpState};

    fn connection() -> Connection {
        let address = |last: u32| u128::from(0x0a00_0000 | last);
        let original = Tuple {
            src: address(1),
            dst: address(2),
            src_port: 40000,
            dst_port: 80,
            protocol: 6,
            family: Family::V4,
        };
        let mut progress = Progress { kind: Kind::Tcp, phase: Phase::First, ..Progress::default() };
        progress.peers[0].state = TcpState::Established;
        progress.peers[1].state = TcpState::SynSent;
        Connection {
            zone: 5,
            original,
            reply: original.reversed(),
            nat: None,
            mark: 1,
            label: 0x10,
            progress,
            timeout: Timeout::TcpEstablished,
            left: 77,
            helper: Some(Helper::Ftp),
            parent: None,
        }
    }

    #[test]
    fn a_connection_is_printed_as_open_vswitch_prints_it() {
        assert_eq!(
            status(&connection()).text,
            "tcp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=40000,dport=80),reply=(src=10.0.0.2,dst=10.0.0.1,sport=80,dport=40000),zone=5,mark=1,labels=0x10,protoinfo=(state=ESTABLISHED),helper=ftp"
        );
        let udp = Tuple { protocol: 17, ..connection().original };
        let plain = Connection {
            zone: 0,
            original: udp,
            reply: udp.reversed(),
            mark: 0,
            label: 0,
            helper: None,
            progress: Progress::default(),
            ..connection()
        };
        assert_eq!(
            status(&plain).text,
            "udp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=40000,dport=80),reply=(src=10.0.0.2,dst=10.0.0.1,sport=80,dport=40000)"
        );
    }

    #[test]
    fn a_filter_takes_what_it_says_and_nothing_else() {
        let all = [
            (r#"{}"#, true),
            (r#"{"zone": 5, "proto": "tcp", "src": "10.0.0.1", "dport": 80}"#, true),
            (r#"{"zone": 6}"#, false),
            (r#"{"proto": 17}"#, false),
            (r#"{"reply_src": "10.0.0.2", "reply_dport": 40000}"#, true),
            (r#"{"src": "::a00:1"}"#, false),
            (r#"{"mark": "0x1/0x3", "label": "0x10/0xf0"}"#, true),
            (r#"{"mark": "3"}"#, false),
        ];
        for (text, fits) in all {
            let filter: ConntrackFilter =
                serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(filter_of(&filter).covers(&connection()), fits, "{text}");
        }
    }

    #[test]
    fn names_of_timeouts_are_those_of_the_tracker() {
        assert_eq!(Timeout::ALL.map(Timeout::name), TIMEOUTS);
        let set = TIMEOUTS.map(|name| (name, (name == "udp_single").then_some(7)));
        let timeouts = timeouts_over(Timeouts::default(), set);
        assert_eq!((timeouts.get(Timeout::UdpSingle), timeouts.get(Timeout::UdpFirst)), (7, 60));
    }
}
