//! What [`Rule::check`] refuses, held against the tables that rules become and against the tracker: a rule is refused if
//! no packet can pass by it, and no other.
//!
//! [`Rule::check`]: weft_config::acl::Rule::check

use weft_config::acl::{Direction, Ethertype, IcmpMatch, PortRange, Protocol, Rule};
use weft_core::key::{Ingress, PortId};
use weft_core::parse;

use super::*;

/// Rules one after the other, whether anybody takes them or not, and packets that nobody has sent before.
struct Judge {
    lab: Lab,
    bare: Config,
    host: u32,
}

impl Judge {
    fn new() -> Judge {
        let bare = two_ports("acl = \"web\"", "[[acl.group]]\nname = \"web\"");
        Judge { lab: Lab::new("[[bridge]]\nname = \"br0\"\n"), bare, host: 0 }
    }

    /// Whether one of the packets passes with the rule, and not without it.
    fn can_match(&mut self, rule: &Rule, packets: &[String]) -> bool {
        let mut config = self.bare.clone();
        config.acl.groups[0].rules.push(Rule { id: weft_config::acl::AclId::new(1).ok(), ..rule.clone() });
        let (from, to) = if rule.direction == Direction::Ingress { ("vm3", "vm1") } else { ("vm1", "vm3") };
        let passes = |judge: &mut Judge, config: Config| {
            judge.lab.apply(config);
            packets.iter().any(|packet| {
                judge.host += 1;
                let ends = match rule.ethertype {
                    Ethertype::Ipv4 => format!(
                        "nw_src={},nw_dst=10.0.0.1",
                        std::net::Ipv4Addr::from(0x0b00_0000 + judge.host)
                    ),
                    Ethertype::Ipv6 => format!(
                        "ipv6_src=2001:db8::{:x}:{:x},ipv6_dst=2001:db8::",
                        judge.host >> 16,
                        judge.host & 0xffff
                    ),
                };
                judge.lab.sends(from, &format!("{packet},{ends}")) == to
            })
        };
        let bare = self.bare.clone();
        !passes(self, bare) && passes(self, config)
    }
}

fn rule(direction: Direction, ethertype: Ethertype, number: u8, stateless: bool) -> Rule {
    Rule {
        id: None,
        direction,
        ethertype,
        protocol: Protocol::Number(number),
        ports: None,
        icmp: None,
        remote: Default::default(),
        stateless,
    }
}

fn sides() -> impl Iterator<Item = (Direction, Ethertype, bool)> {
    let both = [Direction::Ingress, Direction::Egress];
    both.into_iter().flat_map(|direction| {
        let families = [Ethertype::Ipv4, Ethertype::Ipv6];
        families
            .into_iter()
            .flat_map(move |family| [false, true].map(|stateless| (direction, family, stateless)))
    })
}

#[test]
fn rules_about_icmp_are_refused_if_nothing_can_match_them_and_only_then() {
    let mut judge = Judge::new();
    for (direction, family, stateless) in sides() {
        let (number, name) = if family == Ethertype::Ipv4 { (1, "icmp") } else { (58, "icmp6") };
        // All that is anything, and some that nobody has given a meaning.
        for kind in (0..=19).chain(126..=147).chain([255]) {
            for code in [None, Some(0), Some(3)] {
                let icmp = Some(IcmpMatch { kind, code });
                let rule = Rule { icmp, ..rule(direction, family, number, stateless) };
                let packet = |code| format!("{name},icmp_type={kind},icmp_code={code}");
                let can = judge.can_match(&rule, &[packet(0), packet(3)]);
                assert_eq!(rule.check().is_ok(), can, "{rule}: {:?}", rule.check());
            }
        }
    }
}

#[test]
fn rules_about_port_0_are_refused_if_nothing_can_match_them_and_only_then() {
    let mut judge = Judge::new();
    for (direction, family, stateless) in sides() {
        for (number, name) in [(6, "tcp"), (17, "udp"), (132, "sctp")] {
            for range in ["0", "0-1", "1", "0-65535", "65535"] {
                let ports = PortRange::parse(range).unwrap();
                let rule = Rule { ports: Some(ports), ..rule(direction, family, number, stateless) };
                let name = if family == Ethertype::Ipv4 { name.to_owned() } else { format!("{name}6") };
                let packet = |port| format!("{name},tp_src=4000,tp_dst={port}");
                let can = judge.can_match(&rule, &[packet(ports.bounds().0), packet(ports.bounds().1)]);
                assert_eq!(rule.check().is_ok(), can, "{rule}: {:?}", rule.check());
            }
        }
    }
}

#[test]
fn rules_about_extension_headers_are_refused_and_those_about_what_can_be_behind_are_not() {
    for number in 0..=255 {
        // Whatever it is, what follows says that nothing does.
        let header =
            [&[0x60, 0, 0, 0, 0, 64, number, 64][..], &[1; 32], &[59, 0, 0, 0, 0, 0, 0, 0], &[0; 56]];
        let frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd], &header.concat()[..]].concat();
        let key = parse::full(&frame, Ingress::port(PortId(1))).unwrap();
        let found = (key.0[3] >> 24) as u8;
        let refused = rule(Direction::Ingress, Ethertype::Ipv6, number, false).check().is_err();
        assert_eq!(refused, found != number || number == 1, "{number}: {found}");
    }
}
