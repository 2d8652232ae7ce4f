//! Random groups and rules, as text: every kind of action, and matches on the values that packets have.

use weft_flow::message::FlowCommand;
use weft_flow::text::{NoNames, parse_flow};

use crate::actions;
use crate::case::{Case, Tables};
use crate::packets;
use crate::rig::dice::Dice;
use crate::stock;

/// Rules are in tables 0 to 5; what is learned is in the next.
pub const TABLES: usize = 6;
pub const LEARNED: usize = 6;

/// What a rule's match says the packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Any,
    Ip4,
    Ip6,
    Arp,
    Tcp,
    Udp,
    Sctp,
    Icmp,
    Tcp6,
    Udp6,
    Icmp6,
    Solicit,
    Advert,
    Mpls,
}

impl Kind {
    const ALL: [(Kind, &str); 18] = [
        (Kind::Any, ""),
        (Kind::Any, ""),
        (Kind::Any, ""),
        (Kind::Ip4, "ip"),
        (Kind::Ip4, "ip"),
        (Kind::Ip6, "ipv6"),
        (Kind::Arp, "arp"),
        (Kind::Tcp, "tcp"),
        (Kind::Udp, "udp"),
        (Kind::Sctp, "sctp"),
        (Kind::Icmp, "icmp"),
        (Kind::Tcp6, "tcp6"),
        (Kind::Udp6, "udp6"),
        (Kind::Icmp6, "icmp6"),
        (Kind::Solicit, "icmp6,icmp_type=135,icmp_code=0"),
        (Kind::Advert, "icmp6,icmp_type=136,icmp_code=0"),
        (Kind::Mpls, "mpls"),
        (Kind::Mpls, "mpls"),
    ];

    pub fn is_ip4(self) -> bool {
        matches!(self, Kind::Ip4 | Kind::Tcp | Kind::Udp | Kind::Sctp | Kind::Icmp)
    }

    pub fn is_ip6(self) -> bool {
        matches!(self, Kind::Ip6 | Kind::Tcp6 | Kind::Udp6 | Kind::Icmp6 | Kind::Solicit | Kind::Advert)
    }

    pub fn is_ip(self) -> bool {
        self.is_ip4() || self.is_ip6()
    }

    /// The name of its ports' fields.
    pub fn ports(self) -> Option<&'static str> {
        match self {
            Kind::Tcp | Kind::Tcp6 => Some("tcp"),
            Kind::Udp | Kind::Udp6 => Some("udp"),
            Kind::Sctp => Some("sctp"),
            _ => None,
        }
    }
}

/// The case of a seed.
pub fn case(seed: u64) -> Case {
    let mut dice = Dice(seed);
    let tables = [tables(&mut dice, 0), tables(&mut dice, 1)];
    let mut offers = Vec::new();
    while offers.len() < 60 {
        let offer = packets::offer(&mut dice);
        // Twice, so that a cached flow is compared, too; and later again, when more has been learned.
        let again =
            if dice.percent(30) { offers.get(dice.below(offers.len().max(1))).cloned() } else { None };
        offers.extend(again);
        offers.push(offer.clone());
        if dice.percent(30) {
            offers.push(offer);
        }
    }
    Case { name: seed.to_string(), tables, offers }
}

fn tables(dice: &mut Dice, bridge: usize) -> Tables {
    let count = if bridge == 0 { TABLES } else { 3 };
    let mut rules = Vec::new();
    for table in 0..count {
        let rows = if bridge == 0 { 5 + dice.below(5) } else { 3 };
        for row in 0..rows {
            rule(dice, bridge, (table, 1000 - 10 * row), &mut rules);
        }
        if dice.percent(30) {
            conjunction(dice, table, &mut rules);
        }
        if dice.percent(80) {
            let last = dice.pick(&["NORMAL", "NORMAL", "FLOOD", "output:1,output:2,output:5", "drop"]);
            let next = format!("resubmit(,{})", table + 1);
            let last = if dice.percent(40) && table + 1 < count { &next } else { last };
            rules.push(format!("table={table},priority=0,actions={last}"));
        }
    }
    Tables { groups: (1..=4).map(|id| actions::group(dice, id)).collect(), rules }
}

/// A rule that weft accepts; a random one often can't be.
fn rule(dice: &mut Dice, bridge: usize, (table, priority): (usize, usize), rules: &mut Vec<String>) {
    for _ in 0..20 {
        let (kind, matches) = matches(dice, table);
        // What matches much comes behind what matches little, mostly.
        if kind == Kind::Any && priority > 960 && dice.percent(80) {
            continue;
        }
        let mut actions = actions::list(dice, kind, table);
        // A packet that goes to and fro between the bridges becomes thousands.
        if bridge == 1 && dice.percent(97) {
            actions = actions.replace("in_port", "output:5").replace("output:12", "output:6");
        }
        let line = format!("table={table},priority={priority}{matches},actions={actions}");
        if is_of_two_versions(&actions) {
            continue;
        }
        if parse_flow(&line, FlowCommand::Add, &NoNames).is_ok() {
            return rules.push(line);
        }
    }
}

/// Actions that OpenFlow 1.0 has, beside ones that it hasn't: later versions have to say them in other words, which don't
/// do the same.
fn is_of_two_versions(rule: &str) -> bool {
    stock::has(rule, &stock::OLD) && stock::has(rule, &stock::NEW)
}

/// Two dimensions of clauses and the rule that they lead to.
fn conjunction(dice: &mut Dice, table: usize, rules: &mut Vec<String>) {
    let (id, priority) = (1 + dice.below(3), 995);
    for clause in [format!("nw_src=10.0.0.{}", 1 + dice.below(3)), "nw_src=10.0.0.2/31".to_owned()] {
        rules.push(format!("table={table},priority={priority},ip,{clause},actions=conjunction({id},1/2)"));
    }
    for clause in ["nw_ttl=64", "in_port=2"] {
        rules.push(format!("table={table},priority={priority},ip,{clause},actions=conjunction({id},2/2)"));
    }
    let line = |actions: &str| format!("table={table},priority={priority},conj_id={id},actions={actions}");
    let random = line(&actions::list(dice, Kind::Any, table));
    let can_be = parse_flow(&random, FlowCommand::Add, &NoNames).is_ok() && !is_of_two_versions(&random);
    rules.push(if can_be { random } else { line("output:1,resubmit(,5)") });
}

fn matches(dice: &mut Dice, table: usize) -> (Kind, String) {
    let (kind, word) = dice.pick(&Kind::ALL);
    let mut parts: Vec<String> = if word.is_empty() { vec![] } else { vec![word.to_owned()] };
    if dice.percent(35) {
        parts.push(link(dice));
    }
    if dice.percent(if table == 0 { 10 } else { 35 }) {
        parts.push(own(dice));
    }
    if dice.percent(60) {
        parts.extend(network(dice, kind));
    }
    if dice.percent(40) {
        parts.extend(transport(dice, kind));
    }
    (kind, parts.iter().fold(String::new(), |text, part| format!("{text},{part}")))
}

fn link(dice: &mut Dice) -> String {
    let station = 1 + dice.below(4);
    match dice.below(12) {
        0..3 => format!("in_port={}", 1 + dice.below(4)),
        3 | 4 => format!("dl_src=02:00:00:00:00:0{station}"),
        5 | 6 => format!("dl_dst=02:00:00:00:00:0{station}"),
        7 => dice
            .pick(&[
                "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00",
                "dl_src=02:00:00:00:00:02/ff:ff:ff:ff:ff:fe",
            ])
            .to_owned(),
        8 => dice.pick(&["dl_vlan=10", "dl_vlan=20", "dl_vlan=0"]).to_owned(),
        9 => "vlan_tci=0x0000".to_owned(),
        10 => dice
            .pick(&["vlan_tci=0x1000/0x1000", "vlan_tci=0x100a/0x1fff", "vlan_tci=0x0000/0x1000"])
            .to_owned(),
        _ => dice.pick(&["dl_vlan=10,dl_vlan_pcp=5", "dl_vlan_pcp=5", "vlan_vid=0x1000/0x1000"]).to_owned(),
    }
}

/// What the pipeline keeps beside the packet.
fn own(dice: &mut Dice) -> String {
    let value = dice.below(4);
    match dice.below(8) {
        0..3 => format!("reg{}={value}", dice.below(3)),
        3 => format!("reg1={value}/0x3"),
        4 => format!("metadata={value}"),
        5 => format!("metadata={value}/0x3"),
        6 => dice.pick(&["actset_output=1", "pkt_mark=1", "tun_id=7", "tun_id=0"]).to_owned(),
        _ => dice.pick(&["xreg0=0x100000000", "xxreg0=0", "reg2=1/0x1"]).to_owned(),
    }
}

fn network(dice: &mut Dice, kind: Kind) -> Option<String> {
    let last = 1 + dice.below(3);
    let common = |dice: &mut Dice| {
        dice.pick(&["nw_ttl=64", "nw_ttl=1", "nw_tos=0", "nw_tos=184", "ip_dscp=8", "nw_ecn=1", "nw_ecn=0"])
            .to_owned()
    };
    Some(match (kind, dice.below(6)) {
        (kind, 0 | 1) if kind.is_ip4() => format!("nw_src=10.0.0.{last}"),
        (kind, 2) if kind.is_ip4() => {
            dice.pick(&["nw_dst=10.0.1.0/24", "nw_src=10.0.0.2/31", "nw_dst=0.0.0.1/0.0.0.1"]).to_owned()
        }
        (kind, 3) if kind.is_ip4() => format!("nw_dst=10.0.0.{last}"),
        (kind, 0) if kind.is_ip6() => format!("ipv6_src=2001:db8::{last}"),
        (kind, 1 | 2) if kind.is_ip6() => format!("ipv6_dst=2001:db8::{last}"),
        (kind, 3) if kind.is_ip6() => {
            dice.pick(&["ipv6_dst=2001:db8::2/127", "ipv6_label=7", "ipv6_label=0"]).to_owned()
        }
        (Kind::Ip4 | Kind::Ip6, 4) => {
            format!("ip_frag={}", dice.pick(&["no", "yes", "first", "later", "not_later"]))
        }
        (kind, _) if kind.is_ip() => common(dice),
        (Kind::Arp, 0) => format!("arp_op={}", 1 + dice.below(2)),
        (Kind::Arp, 1 | 2) => format!("arp_spa=10.0.0.{last}"),
        (Kind::Arp, 3) => format!("arp_tpa=10.0.0.{last}/31"),
        (Kind::Arp, 4) => format!("arp_sha=02:00:00:00:00:0{last}"),
        (Kind::Arp, _) => "arp_tha=00:00:00:00:00:00".to_owned(),
        (Kind::Mpls, 0 | 1) => format!("mpls_label={}", dice.pick(&[100, 101])),
        (Kind::Mpls, 2) => format!("mpls_bos={}", dice.below(2)),
        (Kind::Mpls, 3) => format!("mpls_tc={}", dice.pick(&[0, 5])),
        (Kind::Mpls, _) => format!("mpls_ttl={}", dice.pick(&[64, 1])),
        _ => return None,
    })
}

fn transport(dice: &mut Dice, kind: Kind) -> Option<String> {
    let station = 1 + dice.below(4);
    Some(match (kind, dice.below(4)) {
        (Kind::Tcp | Kind::Tcp6, 0) => {
            dice.pick(&["tcp_flags=+syn-ack", "tcp_flags=+ack", "tcp_flags=0x11/0xfff"]).to_owned()
        }
        (kind, 1) => format!("{}_src={}", kind.ports()?, dice.pick(&["1000", "0x3e8/0xfffe"])),
        (kind, 0 | 2 | 3) if kind.ports().is_some() => {
            format!("{}_dst={}", kind.ports()?, dice.pick(&["53", "80", "0x50/0xfff0"]))
        }
        (Kind::Icmp, _) => format!("icmp_type={}", dice.pick(&[8, 0])),
        (Kind::Icmp6, _) => format!("icmpv6_type={}", dice.pick(&[128, 135])),
        (Kind::Solicit | Kind::Advert, 0 | 2) => format!("nd_target=2001:db8::{station}"),
        (Kind::Solicit, _) => format!("nd_sll=02:00:00:00:00:0{station}"),
        (Kind::Advert, _) => format!("nd_tll=02:00:00:00:00:0{station}"),
        _ => return None,
    })
}
