//! Random groups, rules, members and packets. Everything is small, so that what is drawn meets.

use weft_config::Config;
use weft_config::acl::{Decision, Direction, Ethertype, List, Pair, Prefix, Protocol, Remote, Rule};
use weft_config::value::Value;
use weft_wire::Mac;

use crate::packet::{ACK, Body, Inside, Packet, SYN, View};
use crate::rig::dice::Dice;
use crate::rig::frames::{BROADCAST, mac};
use crate::words::link_local;

/// Name, bridge, VLANs, and whether its packets have tags.
pub type Jack = (&'static str, usize, &'static [u16], bool);

pub const PORTS: [Jack; 7] = [
    ("a0", 0, &[10], false),
    ("a1", 0, &[10], false),
    ("a2", 0, &[10, 20], true),
    ("a3", 0, &[20], false),
    ("b0", 1, &[0], false),
    ("b1", 1, &[0], false),
    ("b2", 1, &[0], false),
];

const GROUPS: [&str; 4] = ["web", "db", "ops", "old"];
const V6: u128 = 0x2001_0db8_0000_0000_0000_0000_0000_0000;
const NET: u128 = 0x0a00_0000;

/// A port's own address; beyond the ports, somebody else's.
fn address(six: bool, number: usize) -> u128 {
    number as u128 + 1 + if six { V6 } else { NET }
}

fn prefix(text: &str) -> Prefix {
    Prefix::parse(text).unwrap()
}

/// Two bridges, ports without guards, groups without rules; then this many changes.
pub fn config(changes: usize, dice: &mut Dice) -> Config {
    let mut toml = String::new();
    for bridge in 0..2 {
        toml += &format!("[[bridge]]\nname = \"br{bridge}\"\n");
        for (name, ..) in PORTS.iter().filter(|port| port.1 == bridge) {
            toml += &format!("[[bridge.port]]\nname = \"{name}\"\ntype = \"null\"\n");
        }
    }
    GROUPS.iter().for_each(|name| toml += &format!("[[acl.group]]\nname = \"{name}\"\n"));
    let mut config = Config::from_toml(&toml, "test").unwrap().complete(&Config::default()).unwrap();
    (0..changes).for_each(|_| config = change(&config, dice).unwrap_or_else(|| config.clone()));
    config
}

/// Another configuration, if what was drawn makes one.
pub fn change(current: &Config, dice: &mut Dice) -> Option<Config> {
    let mut next = current.clone();
    for _ in 0..dice.pick(&[1, 1, 2, 4]) {
        let group = dice.below(GROUPS.len());
        let group = &mut next.acl.groups[group];
        match dice.below(10) {
            0..3 => {
                let member = prefix(dice.pick(&MEMBERS));
                if !group.members.remove(&member) {
                    group.members.insert(member);
                }
            }
            3..5 => group.rules.push(rule(dice)),
            5..7 if !group.rules.is_empty() => drop(group.rules.remove(dice.below(group.rules.len()))),
            5..7 => {}
            _ => {
                let at = dice.below(PORTS.len());
                let ports = next.bridges.iter_mut().flat_map(|bridge| &mut bridge.ports);
                bind(ports.into_iter().nth(at)?, at, dice);
            }
        }
    }
    let next = next.complete(current).ok()?;
    next.validate().ok()?;
    Some(next)
}

/// Networks are few: not everybody is to be a member.
const MEMBERS: [&str; 22] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.0.0.5",
    "10.0.0.6",
    "10.0.0.7",
    "10.0.0.9",
    "10.0.1.5",
    "10.0.0.0/30",
    "10.0.0.0/24",
    "10.0.1.0/24",
    "0.0.0.0/0",
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8::3",
    "2001:db8::5",
    "2001:db8::6",
    "2001:db8::7",
    "2001:db8::9",
    "2001:db8::/126",
    "2001:db8::/32",
    "::/0",
];

fn bind(port: &mut weft_config::Port, at: usize, dice: &mut Dice) {
    match dice.below(4) {
        0 => {
            let own = mac(at as u8 + 1);
            let pair = |mac, ip| Pair { mac, ip };
            let [v4, v6] =
                [format!("10.0.0.{}", at + 1), format!("2001:db8::{}", at + 1)].map(|ip| Some(prefix(&ip)));
            port.port_security = List(match dice.below(4) {
                0 => Vec::new(),
                1 => vec![pair(own, v4), pair(own, v6)],
                2 => vec![
                    pair(own, v4),
                    pair(own, v6),
                    pair(mac(at as u8 + 0x11), Some(prefix("10.0.1.0/24"))),
                ],
                _ => vec![pair(own, None)],
            });
        }
        1 => {
            port.acl_egress = dice.pick(&[Decision::Open, Decision::Deny]);
            port.acl_multicast = dice.percent(30);
        }
        _ => {
            let bound = GROUPS.iter().filter(|_| dice.percent(40));
            port.acl = List(bound.map(|name| Value::parse(name).unwrap()).collect());
        }
    }
}

fn rule(dice: &mut Dice) -> Rule {
    let ethertype = dice.pick(&[Ethertype::Ipv4, Ethertype::Ipv4, Ethertype::Ipv6]);
    let six = ethertype == Ethertype::Ipv6;
    let icmp = if six { 58 } else { 1 };
    let number = dice.pick(&[6, 6, 17, 17, 17, icmp, icmp, icmp, 132, 47, 2]);
    let protocol = if dice.percent(30) { Protocol::Any } else { Protocol::Number(number) };
    let ports = ["80", "22-443", "0-65535", "443", "4000-4001", "81-442"];
    let kinds = if six {
        ["128", "128/0", "128/3", "128/3", "1", "129"]
    } else {
        ["8", "8/0", "8/3", "8/3", "3/1", "0"]
    };
    let nets = if six {
        ["2001:db8::1", "2001:db8::/126", "::/0"]
    } else {
        ["10.0.0.1", "10.0.0.0/29", "0.0.0.0/0"]
    };
    let some = |dice: &mut Dice, texts: &[&'static str]| dice.percent(60).then(|| dice.pick(texts));
    let rule = Rule {
        id: None,
        direction: dice.pick(&[Direction::Ingress, Direction::Ingress, Direction::Egress]),
        ethertype,
        protocol,
        ports: some(dice, &ports).filter(|_| protocol.has_ports()).map(|text| Value::parse(text).unwrap()),
        icmp: some(dice, &kinds).filter(|_| protocol.is_icmp()).map(|text| Value::parse(text).unwrap()),
        remote: match dice.below(6) {
            0 => Remote::Any,
            1 => Remote::Prefix(prefix(dice.pick(&nets))),
            _ => Remote::Group(Value::parse(dice.pick(&GROUPS)).unwrap()),
        },
        stateless: dice.percent(20),
    };
    // What begins no connection is matched packet by packet or never.
    let stateless = rule.stateless || rule.check().is_err();
    Rule { stateless, ..rule }
}

/// A packet from that port, in that VLAN, to another port that is in it.
pub fn packet(from: usize, vlan: u16, dice: &mut Dice) -> Packet {
    let others = (0..PORTS.len())
        .filter(|to| *to != from && PORTS[*to].1 == PORTS[from].1 && PORTS[*to].2.contains(&vlan));
    let to = dice.pick(&others.collect::<Vec<_>>());
    let source = match dice.below(20) {
        0 => mac(to as u8 + 1),
        1 => mac(from as u8 + 0x11),
        _ => mac(from as u8 + 1),
    };
    let destination = if dice.percent(12) { BROADCAST } else { mac(to as u8 + 1) };
    let body = match dice.below(20) {
        0 => Body::Other,
        1 => Body::Arp(dice.pick(&[source, source, mac(9)]), far(false, from, dice) as u32, 0x0a00_0002),
        2 => neighbour((from, source), dice),
        3 => special(from, dice),
        _ => talk((from, to), dice),
    };
    Packet { source, destination, body }
}

/// Mostly that port's own address.
fn far(six: bool, port: usize, dice: &mut Dice) -> u128 {
    match dice.below(12) {
        0 => address(six, dice.below(9)),
        1 if six => u128::from_be_bytes(match link_local(mac(port as u8 + 1)).address() {
            std::net::IpAddr::V6(address) => address.octets(),
            std::net::IpAddr::V4(_) => unreachable!(),
        }),
        1 => 0x0a00_0105,
        2 if dice.percent(30) => 0,
        _ => address(six, port),
    }
}

fn talk((from, to): (usize, usize), dice: &mut Dice) -> Body {
    let six = dice.percent(35);
    let icmp = if six { 58 } else { 1 };
    let protocol = dice.pick(&[6, 6, 6, 17, 17, 17, icmp, icmp, 132, 47]);
    let mut ports = [dice.pick(&[4000, 4001, 4001]), dice.pick(&[22, 80, 80, 443])];
    if dice.percent(40) {
        // One of many clients.
        ports[0] = 4002 + dice.below(1000) as u16;
    }
    if dice.percent(20) {
        ports.swap(0, 1);
    }
    if dice.percent(2) {
        ports[0] = 0;
    }
    let kinds: &[(u8, u8)] = if six {
        &[(128, 0), (128, 0), (129, 0), (128, 3)]
    } else {
        &[(8, 0), (8, 0), (0, 0), (8, 3), (13, 0), (3, 1)]
    };
    let addresses = [far(six, from, dice), far(six, to, dice)];
    let mut view = View { six, protocol, addresses, ports: [0; 2], icmp: (0, 0), id: 0 };
    match protocol {
        6 | 17 | 132 => view.ports = ports,
        1 | 58 => (view.icmp, view.id) = (dice.pick(kinds), dice.pick(&[7, 8])),
        _ => {}
    }
    let inside = if protocol == 6 { segment(&view, dice) } else { Inside::Plain };
    // An error about nothing.
    if view.icmp == (3, 1) && icmp == view.protocol {
        let about = View {
            protocol: 17,
            addresses: [addresses[1], addresses[0]],
            ports: [4000, 80],
            icmp: (0, 0),
            id: 0,
            six,
        };
        return Body::Ip(view, Inside::Error(Box::new(about)));
    }
    Body::Ip(view, inside)
}

/// Port 4000's connections are met in midstream; the others' servers only ever answer a SYN: a SYN against a connection in
/// midstream is one of two that open at once, which is the tracker's business.
fn segment(view: &View, dice: &mut Dice) -> Inside {
    let client = view.ports[0] > view.ports[1];
    Inside::Segment(match (view.ports.contains(&4000), client) {
        (true, _) => ACK,
        (false, true) => dice.pick(&[SYN, ACK]),
        (false, false) => SYN | ACK,
    })
}

fn neighbour((from, source): (usize, Mac), dice: &mut Dice) -> Body {
    let kind = dice.pick(&[135, 136]);
    let sender = far(true, from, dice);
    let target = far(true, from, dice);
    let shown = dice.pick(&[None, Some(source), Some(source), Some(mac(9))]);
    let icmp = (kind, dice.pick(&[0, 0, 0, 0, 1]));
    let view =
        View { six: true, protocol: 58, addresses: [sender, address(true, 3)], ports: [0; 2], icmp, id: 0 };
    Body::Ip(view, Inside::Neighbour(target, shown))
}

/// DHCP, routers, IGMP and MLD.
fn special(from: usize, dice: &mut Dice) -> Body {
    let six = dice.percent(50);
    let source = if dice.percent(30) { 0 } else { far(six, from, dice) };
    let to = address(six, 2);
    let mut view = View { six, protocol: 17, addresses: [source, to], ports: [0; 2], icmp: (0, 0), id: 0 };
    match (dice.below(3), six) {
        (0, false) => view.ports = dice.pick(&[[67, 68], [68, 67]]),
        (0, true) => view.ports = dice.pick(&[[546, 547], [547, 546]]),
        (_, false) => view.protocol = 2,
        (_, true) => (view.protocol, view.icmp.0) = (58, dice.pick(&[130, 131, 132, 133, 134, 143])),
    }
    Body::Ip(view, Inside::Plain)
}

/// What may come of a packet: an answer, the same once more, the next segment, an error about it.
pub fn answer(packet: &Packet, dice: &mut Dice) -> Option<Packet> {
    let Body::Ip(view, inside) = &packet.body else { return None };
    if !matches!(inside, Inside::Plain | Inside::Segment(_)) || packet.destination.is_multicast() {
        return None;
    }
    let turned = Packet { source: packet.destination, destination: packet.source, body: Body::Other };
    let about = matches!(view.protocol, 6 | 17) && !view.ports.contains(&0)
        || view.is_icmp() && view.asks() && view.icmp.1 == 0;
    if dice.percent(35) && about {
        let (protocol, icmp) = if view.six { (58, (1, 0)) } else { (1, (3, 1)) };
        let router = dice.pick(&[view.addresses[1], address(view.six, 8), address(view.six, 5)]);
        let to = if dice.percent(5) { address(view.six, 7) } else { view.addresses[0] };
        let error = View { six: view.six, protocol, addresses: [router, to], ports: [0; 2], icmp, id: 0 };
        return Some(Packet { body: Body::Ip(error, Inside::Error(Box::new(view.clone()))), ..turned });
    }
    let back = view.turned();
    let inside = if view.protocol == 6 { segment(&back, dice) } else { Inside::Plain };
    Some(Packet { body: Body::Ip(back, inside), ..turned })
}
