//! Properties of configurations: text and structure are the same thing, and a difference leads to its target.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::json;
use weft_config::acl::{Acl, Group, Rule};
use weft_config::conntrack::Conntrack;
use weft_config::control::{Op, Request, parse_request, to_line};
use weft_config::model::{Bridge, Idle, StaticEntry, Switch, VniMap, Workers};
use weft_config::value::Value;
use weft_config::{
    Backend, Config, KeyMode, Netns, Port, PortType, PriorityTags, Tos, Tunnel, VlanModeName, diff,
};
use weft_wire::{Mac, OfPort, PortName, TunnelKey, TunnelKind, Vid};

fn parse<T: Value>(text: impl ToString) -> T {
    match T::parse(&text.to_string()) {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

fn maybe<T: Clone + std::fmt::Debug + 'static>(
    inner: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<T>> {
    proptest::option::of(inner).boxed()
}

fn vid() -> impl Strategy<Value = Vid> {
    (0u16..4096).prop_map(parse)
}

fn trunks() -> impl Strategy<Value = String> {
    proptest::collection::vec((0u16..4096, 0u16..20), 1..5).prop_map(|ranges| {
        let range = |(first, more): (u16, u16)| format!("{first}-{}", (first + more).min(4095));
        ranges.into_iter().map(range).collect::<Vec<_>>().join(",")
    })
}

/// Mode, VLAN and trunks that go together.
fn vlan_mode() -> impl Strategy<Value = (Option<VlanModeName>, Option<Vid>, String)> {
    let native = select(vec![VlanModeName::NativeTagged, VlanModeName::NativeUntagged]);
    prop_oneof![
        Just((None, None, "all".to_owned())),
        vid().prop_map(|vlan| (None, Some(vlan), "all".to_owned())),
        vid().prop_map(|vlan| (Some(VlanModeName::Access), Some(vlan), "all".to_owned())),
        trunks().prop_map(|trunks| (Some(VlanModeName::Trunk), None, trunks)),
        (native, vid(), trunks()).prop_map(|(mode, vlan, trunks)| (Some(mode), Some(vlan), trunks)),
    ]
}

fn mac() -> impl Strategy<Value = Mac> {
    any::<u32>().prop_map(|low| Mac::from_u64(0x5254_0000_0000 | u64::from(low)))
}

fn tags() -> impl Strategy<Value = PriorityTags> {
    select(vec![PriorityTags::No, PriorityTags::Always, PriorityTags::IfNonzero])
}

fn device(port: &mut Port, kind: u8) {
    port.kind = [PortType::Auto, PortType::Tap, PortType::Internal, PortType::Netdev][usize::from(kind % 4)];
    match port.kind {
        PortType::Netdev => {
            port.backend = [Backend::Auto, Backend::AfPacket, Backend::AfXdp][usize::from(kind / 4 % 3)];
            port.mac = None;
        }
        _ => port.persistent = kind & 128 != 0,
    }
}

fn port() -> impl Strategy<Value = Port> {
    let netns = maybe(select(vec!["vm1", "a.b", "x-y_z"]).prop_map(parse::<Netns>));
    let numbers = (maybe(68u32..=9600), any::<bool>(), any::<u8>());
    (vlan_mode(), tags(), netns, maybe(mac()), numbers).prop_map(
        |(vlan, priority_tags, netns, mac, numbers)| {
            let mut port = Port::new(parse("p"), PortType::Auto);
            (port.mode, port.vlan, port.trunks) = (vlan.0, vlan.1, parse(vlan.2));
            (port.priority_tags, port.netns, port.mac) = (priority_tags, netns, mac);
            (port.mtu, port.protected) = (numbers.0.map(parse), numbers.1);
            port.fdb_limit = numbers.0.map(parse);
            match numbers.2 {
                kind @ 0..200 => device(&mut port, kind),
                kind => {
                    port.kind = if kind % 2 == 0 { PortType::Replay } else { PortType::Capture };
                    (port.netns, port.mac) = (None, None);
                    port.file = Some(PathBuf::from("/a \"strange\" path\\.pcap"));
                    port.repeat = kind % 4 == 0;
                }
            }
            port
        },
    )
}

fn tunnel() -> impl Strategy<Value = Tunnel> {
    let fixed = (0u32..0x100_0000, vlan_mode(), tags());
    let flags = (any::<bool>(), any::<bool>(), maybe(1u32..=65535), 1u32..=255, maybe(any::<u8>()));
    (any::<bool>(), maybe(fixed), flags).prop_map(|(vxlan, fixed, (df, csum, dst_port, ttl, tos))| {
        let kind = if vxlan { TunnelKind::Vxlan } else { TunnelKind::Gre };
        let mut tunnel = Tunnel::new(parse("t"), kind, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST.into());
        (tunnel.df, tunnel.csum, tunnel.ttl) = (df, csum, parse(ttl));
        tunnel.tos = tos.map_or(Tos::Inherit, Tos::Fixed);
        tunnel.dst_port = dst_port.filter(|_| vxlan).map(parse);
        tunnel.fdb_limit = tos.filter(|limit| *limit > 0).map(parse);
        match fixed {
            Some((key, vlan, priority_tags)) => {
                tunnel.key = if key % 4 == 0 { KeyMode::Flow } else { KeyMode::Fixed(TunnelKey(key)) };
                (tunnel.mode, tunnel.vlan, tunnel.trunks) = (vlan.0, vlan.1, parse(vlan.2));
                tunnel.priority_tags = priority_tags;
            }
            None => tunnel.vnis = parse(if df { "all".to_owned() } else { format!("5000-{}", 5000 + ttl) }),
        }
        tunnel
    })
}

/// Ports and tunnels of a small set of names, so that two configurations share some.
fn bridge() -> impl Strategy<Value = Bridge> {
    let names = || subsequence((0..6u8).collect::<Vec<_>>(), 0..5);
    let ports = names().prop_flat_map(|names| {
        names.into_iter().map(|name| (Just(name), port(), maybe(1u16..40))).collect::<Vec<_>>()
    });
    let tunnels = names()
        .prop_flat_map(|names| names.into_iter().map(|name| (Just(name), tunnel())).collect::<Vec<_>>());
    let vnis = proptest::collection::btree_map(vid(), 0u32..0xff_ffff, 0..5);
    let fdb = proptest::collection::vec((0u16..2, 0u64..3, any::<u8>()), 0..4);
    let numbers = (1u32..=1_000_000, 0u32..=86_400, any::<bool>(), any::<bool>(), maybe(mac()));
    (ports, tunnels, vnis, fdb, numbers).prop_map(|(ports, tunnels, vnis, fdb, numbers)| {
        let mut bridge = Bridge::new(parse("b"));
        (bridge.fdb_size, bridge.fdb_ageing) = (parse(numbers.0), parse(numbers.1));
        (bridge.forward_reserved, bridge.internal, bridge.mac) = (numbers.2, numbers.3, numbers.4);
        for (name, port, ofport) in ports {
            let ofport =
                ofport.map(OfPort).filter(|new| bridge.ports.iter().all(|port| port.ofport != Some(*new)));
            bridge.ports.push(Port { name: parse(format!("p{name}")), ofport, ..port });
        }
        for (name, tunnel) in tunnels {
            bridge.tunnels.push(Tunnel { name: parse(format!("t{name}")), ..tunnel });
        }
        let mut used = BTreeMap::new();
        bridge.vnis = VniMap(
            vnis.into_iter()
                .filter(|(vlan, vni)| used.insert(*vni, *vlan).is_none())
                .map(|(vlan, vni)| (vlan, TunnelKey(vni)))
                .collect(),
        );
        static_entries(&mut bridge, fdb);
        bridge
    })
}

fn static_entries(bridge: &mut Bridge, wanted: Vec<(u16, u64, u8)>) {
    let ports = bridge.ports.iter().map(|port| port.name.clone());
    let names: Vec<PortName> = ports.chain(bridge.tunnels.iter().map(|tunnel| tunnel.name.clone())).collect();
    for (vlan, mac, port) in wanted {
        let (vlan, mac) = (parse(vlan), Mac::from_u64(0x5254_0000_0000 + mac));
        let known = bridge.fdb.iter().any(|entry| (entry.vlan, entry.mac) == (vlan, mac));
        if let (false, Some(port)) = (known, names.get(usize::from(port) % names.len().max(1))) {
            bridge.fdb.push(StaticEntry { vlan, mac, port: port.clone() });
        }
    }
}

fn renamed(bridge: &mut Bridge, index: u8) {
    let old: Vec<String> = bridge.fdb.iter().map(|entry| format!("{}.{index}", entry.port)).collect();
    bridge.name = parse(format!("br{index}"));
    bridge.ports.iter_mut().for_each(|port| port.name = parse(format!("{}.{index}", port.name)));
    for (number, tunnel) in bridge.tunnels.iter_mut().enumerate() {
        tunnel.name = parse(format!("{}.{index}", tunnel.name));
        tunnel.local = Ipv4Addr::new(10, 0, 0, 1);
        tunnel.remote = Ipv4Addr::new(10, 1, index, number as u8).into();
    }
    bridge.fdb.iter_mut().zip(old).for_each(|(entry, name)| entry.port = parse(name));
}

/// Settings with limits of their own.
fn limited(number: u32) -> Switch {
    Switch {
        socket_group: Some(parse("weft")),
        slow_path_share: parse(number % 100 + 1),
        port_flows: parse(number % 1000 + 1024),
        ..Switch::default()
    }
}

fn config() -> impl Strategy<Value = Config> {
    let workers = prop_oneof![
        (1u16..=64).prop_map(Workers::Count),
        subsequence((0..9u16).collect::<Vec<_>>(), 1..5).prop_map(Workers::Cpus)
    ];
    let bridges = subsequence((0..3u8).collect::<Vec<_>>(), 0..=3)
        .prop_flat_map(|names| names.into_iter().map(|name| (Just(name), bridge())).collect::<Vec<_>>());
    let rest = (bridges, groups(), any::<u8>(), conntrack());
    (workers, 1024u32..=4_194_304, any::<bool>(), rest).prop_map(|(workers, frames, spin, rest)| {
        let (bridges, groups, bound, conntrack) = rest;
        let idle = if spin { Idle::Spin } else { Idle::Auto };
        let switch = Switch { workers, frames: parse(frames), idle, ..limited(frames) };
        let mut config = Config { switch, bridges: Vec::new(), conntrack, acl: Acl { groups } };
        let names: Vec<String> = config.acl.groups.iter().map(|group| group.name.to_string()).collect();
        for (index, mut bridge) in bridges {
            renamed(&mut bridge, index);
            for (at, port) in
                bridge.ports.iter_mut().enumerate().filter(|(at, _)| at % 3 == usize::from(bound) % 3)
            {
                port.acl = parse(names.get(at % 4..).unwrap_or_default().join(","));
                port.acl_multicast = bound % 2 == 0;
                port.port_security = parse("02:00:00:00:00:01 10.0.0.0/24,02:00:00:00:00:01 2001:db8::1");
            }
            config.bridges.push(bridge);
        }
        config
    })
}

fn conntrack() -> impl Strategy<Value = Conntrack> {
    let zones = subsequence(vec![0u32, 5, 65_535], 0..=3);
    (1u32..9, zones, any::<bool>()).prop_map(|(limit, zones, all)| {
        let of_zone = |id| match all {
            true => json!({"id": id, "limit": "unlimited", "tcp_close": limit}),
            false => json!({"id": id, "limit": limit}),
        };
        let mut text = json!({"zone": zones.into_iter().map(of_zone).collect::<Vec<_>>()});
        if all {
            text["limit"] = json!(limit);
            text["udp_first"] = json!(limit * 10);
            text["tcp_be_liberal"] = json!(true);
        }
        serde_json::from_value(text).unwrap_or_else(|error| panic!("{error}"))
    })
}

/// Security groups that name each other.
fn groups() -> impl Strategy<Value = Vec<Group>> {
    let names = subsequence(vec!["web", "db", "default", "4f5e"], 0..=4);
    let members = subsequence(vec!["10.0.0.1", "10.1.0.0/16", "2001:db8::/32", "::/0"], 0..=4);
    let rules = subsequence((0..6usize).collect::<Vec<_>>(), 0..=6);
    let group = (members, rules, maybe(1u32..9));
    (names, proptest::collection::vec(group, 4)).prop_map(|(names, groups)| {
        let ids = names.iter().zip(&groups).map(|(_, (_, _, id))| *id).collect::<Vec<_>>();
        let made = names.iter().zip(groups).enumerate().map(|(at, (name, (members, rules, id)))| {
            let mut group = Group::new(parse(name));
            group.id = id.filter(|id| !ids[..at].contains(&Some(*id))).map(parse);
            group.members = members.into_iter().map(parse).collect();
            group.rules = rules.into_iter().map(|rule| acl_rule(rule, names[0])).collect();
            group
        });
        made.collect()
    })
}

fn acl_rule(number: usize, remote: &str) -> Rule {
    let text = [
        json!({"direction": "egress"}),
        json!({"direction": "ingress", "protocol": "tcp", "ports": "80-90", "remote": remote}),
        json!({"direction": "ingress", "protocol": 6, "ports": 22, "remote": "10.0.0.0/8"}),
        json!({"direction": "egress", "ethertype": "ipv6", "protocol": "icmpv6", "icmp": "128/0"}),
        json!({"direction": "ingress", "protocol": "icmp", "icmp": 8, "stateless": true}),
        json!({"direction": "egress", "ethertype": "ipv6", "protocol": 89, "remote": "2001:db8::1", "id": 77}),
    ];
    serde_json::from_value(text[number].clone()).unwrap()
}

fn sorted(mut config: Config) -> Config {
    config.acl.groups.sort_by(|a, b| a.name.cmp(&b.name));
    config.acl.groups.iter_mut().for_each(|group| group.rules.sort_by_key(|rule| rule.id));
    config.bridges.sort_by(|a, b| a.name.cmp(&b.name));
    for bridge in &mut config.bridges {
        bridge.ports.sort_by(|a, b| a.name.cmp(&b.name));
        bridge.tunnels.sort_by(|a, b| a.name.cmp(&b.name));
        bridge.fdb.sort_by_key(|entry| (entry.vlan, entry.mac));
    }
    config
}

fn complete(config: &Config, current: &Config) -> Config {
    match config.complete(current) {
        Ok(config) => config,
        Err(error) => panic!("{error}"),
    }
}

proptest! {
    #[test]
    fn text_reads_back_to_the_same_configuration(config in config()) {
        prop_assert_eq!(config.validate(), Ok(()));
        let text = config.to_toml();
        prop_assert_eq!(Config::from_toml(&text, "text").map_err(|error| error.to_string()), Ok(config.clone()));
        let json = serde_json::to_string(&config).unwrap();
        prop_assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
    }

    #[test]
    fn a_difference_leads_from_any_configuration_to_any_other(old in config(), new in config()) {
        let old = complete(&old, &Config::default());
        let new = complete(&new, &old);
        let changes: Vec<_> = diff(&old, &new).into_iter().map(|difference| difference.change).collect();
        let reached = old.apply(&changes);
        prop_assert_eq!(reached.map(sorted), Ok(sorted(new.clone())), "{:?}", changes);
        prop_assert_eq!(diff(&new, &new), vec![]);
        let lines: Vec<String> = diff(&old, &new).iter().map(ToString::to_string).collect();
        prop_assert!(lines.iter().all(|line| !line.contains('\n')));
    }

    #[test]
    fn a_change_survives_json(old in config(), new in config()) {
        for difference in diff(&old, &new) {
            let json = serde_json::to_string(&difference.change).unwrap();
            prop_assert_eq!(serde_json::from_str::<weft_config::Change>(&json).unwrap(), difference.change);
        }
    }

    #[test]
    fn ports_keep_their_numbers(old in config(), new in config()) {
        let old = complete(&old, &Config::default());
        let reached = complete(&new, &old);
        prop_assert_eq!(reached.validate(), Ok(()));
        for (bridge, said) in reached.bridges.iter().zip(&new.bridges) {
            for (port, said) in bridge.ports.iter().zip(&said.ports) {
                prop_assert!(port.ofport.is_some());
                prop_assert!(said.ofport.is_none() || said.ofport == port.ofport);
            }
        }
        let twice: Config = complete(&reached, &old);
        prop_assert_eq!(twice, reached);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "(?s).{0,200}", config in config(), cut in any::<(usize, usize, char)>()) {
        let _ = Config::from_toml(&text, "text").map_err(|error| error.to_string());
        let mut bytes = config.to_toml();
        let (from, to, with) = cut;
        let place = |at: usize, text: &str| (at % (text.len() + 1)..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        let from = place(from, &bytes);
        let to = place(to, &bytes).clamp(from, (from + 5).min(bytes.len()));
        if bytes.is_char_boundary(to) {
            bytes.replace_range(from..to, &with.to_string());
        }
        if let Err(error) = Config::from_toml(&bytes, "text") {
            let error = error.to_string();
            prop_assert!(!error.contains('\n') && !error.is_empty(), "{}", error);
        }
    }

    #[test]
    fn any_changes_lead_to_a_valid_configuration_or_to_one_line(
        start in config(),
        old in config(),
        new in config(),
        order in any::<u64>(),
    ) {
        let start = complete(&start, &Config::default());
        let mut changes: Vec<_> = diff(&old, &new).into_iter().map(|difference| difference.change).collect();
        let turns = order as usize % changes.len().max(1);
        changes.rotate_left(turns);
        changes.truncate(order as usize / 7 % 8);
        match start.apply(&changes) {
            Ok(next) => {
                prop_assert_eq!(next.validate(), Ok(()));
                prop_assert_eq!(complete(&next, &Config::default()), next);
            }
            Err(error) => prop_assert!(!error.to_string().contains('\n')),
        }
    }

    #[test]
    fn any_line_is_a_request_or_is_answered_in_one_line(
        garbage in proptest::collection::vec(any::<u8>(), 0..100),
        config in config(),
        cut in any::<(u8, u8, u8)>(),
    ) {
        let changes = diff(&Config::default(), &config).into_iter().map(|difference| difference.change).collect();
        let mut line = to_line(&Request { id: 7, op: Op::Apply { changes } });
        prop_assert!(parse_request(&line).is_ok());
        let at = usize::from(cut.0) * line.len() / 256;
        line[at] = cut.1;
        line.truncate(line.len() - usize::from(cut.2 % 3));
        for line in [line, garbage] {
            if let Err(response) = parse_request(&line) {
                let answer = to_line(&response);
                prop_assert_eq!(answer.iter().position(|octet| *octet == b'\n'), Some(answer.len() - 1));
            }
        }
    }
}
