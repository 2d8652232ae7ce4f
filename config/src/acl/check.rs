//! What a rule can't say: whatever no packet could ever match is refused, by its key and with what would be legal.
//!
//! A stateful rule is held against first packets of connections, and against what belongs to these: so it can't be about
//! packets that connection tracking takes for invalid unless their connection is known (answers, errors, TCP or UDP port 0;
//! `weft_conntrack::Tuple`). A stateless rule can. The tests of the switch hold all this against the tables that rules
//! become, and against the tracker.
//!
//! Not knowable, and so not refused: a remote group without members of the rule's family, because one may join.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::{Direction, Ethertype, IcmpMatch, Prefix, Protocol, Remote, Rule};
use crate::validate::Problem;

/// What is wrong with a rule, at which of its keys.
type Checked = Result<(), (&'static str, Problem)>;

impl Rule {
    /// What can't be about it, and at which key.
    pub fn check(&self) -> Checked {
        self.check_protocol().map_err(|problem| ("protocol", problem))?;
        self.check_ports().map_err(|problem| ("ports", problem))?;
        self.check_icmp().map_err(|problem| ("icmp", problem))?;
        self.check_remote().map_err(|problem| ("remote", problem))
    }

    fn check_protocol(&self) -> Result<(), Problem> {
        let Rule { ethertype, protocol, .. } = *self;
        if protocol.family().is_some_and(|family| family != ethertype) {
            return Err(Problem::ProtocolOfOtherFamily { protocol, ethertype });
        }
        if ethertype == Ethertype::Ipv6 && protocol.is_extension() {
            return Err(Problem::ProtocolIsExtension { protocol });
        }
        Ok(())
    }

    fn check_ports(&self) -> Result<(), Problem> {
        let protocol = self.protocol;
        let Some(ports) = self.ports else { return Ok(()) };
        if !protocol.has_ports() {
            return Err(Problem::RuleWithoutPorts { protocol });
        }
        // SCTP is tracked by its addresses.
        if !self.stateless && ports.bounds() == (0, 0) && protocol != Protocol::SCTP {
            return Err(Problem::RuleOfPortZero { protocol });
        }
        Ok(())
    }

    fn check_icmp(&self) -> Result<(), Problem> {
        let Rule { direction, ethertype, protocol, .. } = *self;
        let Some(icmp) = self.icmp else { return Ok(()) };
        if !protocol.is_icmp() {
            return Err(Problem::RuleWithoutIcmp { protocol });
        }
        if ethertype == Ethertype::Ipv6 && always_passes(direction, icmp.kind) {
            return Err(Problem::RuleOfNeighbours { kind: icmp.kind, direction });
        }
        if !self.stateless && !begins(ethertype, icmp) {
            return Err(Problem::RuleOfNoQuery { icmp, queries: Queries(ethertype) });
        }
        Ok(())
    }

    fn check_remote(&self) -> Result<(), Problem> {
        let Rule { direction, ethertype, .. } = *self;
        let Remote::Prefix(remote) = self.remote else { return Ok(()) };
        if remote.family() != ethertype {
            return Err(Problem::RemoteOfOtherFamily { remote, ethertype });
        }
        match direction {
            Direction::Ingress if is_nobodys(&remote) => Err(Problem::RemoteIsNoSender { remote }),
            Direction::Egress if is_unspecified(&remote) => Err(Problem::RemoteIsNoReceiver { remote }),
            _ => Ok(()),
        }
    }
}

/// ICMPv6 that every port may send or get without a rule, whoever the other side is: neighbour discovery, solicitations
/// of routers from it and their advertisements to it.
fn always_passes(direction: Direction, kind: u8) -> bool {
    match direction {
        Direction::Egress => matches!(kind, 133 | 135 | 136),
        Direction::Ingress => matches!(kind, 134..=136),
    }
}

/// Whether the first packet of a connection may be such a message: queries, which have code 0 (RFC 792, RFC 4443).
fn begins(ethertype: Ethertype, icmp: IcmpMatch) -> bool {
    let queries = Queries(ethertype).types();
    queries.contains(&icmp.kind) && icmp.code.is_none_or(|code| code == 0)
}

/// Addresses that no packet may come from: multicast, and IPv4's limited broadcast (RFC 1122, section 3.2.1.3; RFC 4291,
/// section 2.7). The unspecified address is one that it may: who has no address yet sends from it.
fn is_nobodys(remote: &Prefix) -> bool {
    let all = match remote.family() {
        Ethertype::Ipv4 => Prefix::of(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4),
        Ethertype::Ipv6 => Prefix::of(IpAddr::V6(std::net::Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
    };
    all.contains(remote) || *remote == Prefix::of(IpAddr::V4(Ipv4Addr::BROADCAST), 32)
}

/// The one address that no packet may go to (RFC 1122, section 3.2.1.3; RFC 4291, section 2.5.2).
fn is_unspecified(remote: &Prefix) -> bool {
    remote.is_address() && remote.address().is_unspecified()
}

/// The ICMP types that begin a connection, as text for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queries(pub Ethertype);

impl Queries {
    fn types(self) -> &'static [u8] {
        match self.0 {
            Ethertype::Ipv4 => &[8, 13, 15],
            Ethertype::Ipv6 => &[128],
        }
    }
}

impl fmt::Display for Queries {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self.0 {
            Ethertype::Ipv4 => "types 8, 13 and 15 with code 0 do",
            Ethertype::Ipv6 => "type 128 with code 0 does",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acl::PortRange;
    use crate::value::Value;

    /// `ingress ipv6 icmpv6 icmp=128 ..`, as [`Rule`] prints it.
    fn rule(text: &str) -> Rule {
        fn read<T: Value>(text: &str) -> T {
            T::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
        }
        let words: Vec<&str> = text.split(' ').collect();
        let key = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        Rule {
            id: None,
            direction: read(words[0]),
            ethertype: read(words[1]),
            protocol: read(words[2]),
            ports: key("ports").map(read::<PortRange>),
            icmp: key("icmp").map(read::<IcmpMatch>),
            remote: key("remote").map(read).unwrap_or_default(),
            stateless: words.contains(&"stateless"),
        }
    }

    #[test]
    fn rules_that_can_match_are_taken() {
        for text in [
            // As Neutron has them: by number, without a type, with ranges that begin at 0.
            "ingress ipv4 any",
            "egress ipv6 any",
            "ingress ipv4 1",
            "ingress ipv6 58",
            "ingress ipv4 6 ports=22",
            "ingress ipv4 112",
            "ingress ipv6 112 remote=web",
            "ingress ipv4 tcp ports=0-65535",
            "egress ipv4 udp ports=0-1",
            "ingress ipv4 icmp icmp=8 remote=0.0.0.0/0",
            "ingress ipv4 icmp icmp=8/0",
            "ingress ipv4 icmp icmp=13",
            "ingress ipv4 icmp icmp=15",
            "ingress ipv6 icmpv6 icmp=128 remote=::/0",
            // Extension headers of IPv6 are protocols of IPv4, or at least were.
            "ingress ipv4 0",
            "ingress ipv4 51",
            "ingress ipv6 59",
            "ingress ipv6 50",
            "ingress ipv4 2",
            // Packet by packet, everything that a packet may be.
            "ingress ipv4 tcp ports=0 stateless",
            "ingress ipv4 sctp ports=0",
            "egress ipv4 icmp icmp=0 stateless",
            "ingress ipv4 icmp icmp=3/4 stateless",
            "ingress ipv4 icmp icmp=8/3 stateless",
            "egress ipv4 icmp icmp=17 stateless",
            "egress ipv6 icmpv6 icmp=143 stateless",
            "egress ipv6 icmpv6 icmp=134 stateless",
            "ingress ipv6 icmpv6 icmp=133 stateless",
            "ingress ipv6 icmpv6 icmp=137 stateless",
            // Towards a group of receivers, and from who has no address yet.
            "egress ipv4 udp remote=224.0.0.251",
            "egress ipv4 udp remote=255.255.255.255",
            "egress ipv6 udp remote=ff02::/16",
            "ingress ipv4 udp ports=67 remote=0.0.0.0",
            "ingress ipv6 icmpv6 icmp=143 remote=:: stateless",
            "ingress ipv4 any remote=224.0.0.0/3",
        ] {
            assert_eq!(rule(text).check(), Ok(()), "{text}");
            assert_eq!(rule(text).to_string().split(' ').count(), text.split(' ').count(), "{text}");
        }
    }

    /// All of these rules are refused at that key, in these words; `{}` in them is what stands behind each rule.
    #[track_caller]
    fn never(key: &str, words: &str, rules: &[(&str, &str)]) {
        for (text, part) in rules {
            let refused = rule(text).check().map_err(|(key, problem)| format!("{key}: {problem}"));
            let words = words.replacen("{}", part, 1);
            assert_eq!(refused, Err(format!("{key}: the rule can never match: {words}")), "{text}");
        }
    }

    #[test]
    fn rules_about_what_a_protocol_has_not_are_refused() {
        never(
            "protocol",
            "there is no protocol {}",
            &[
                ("ingress ipv4 icmpv6", "icmpv6 in ipv4"),
                ("egress ipv6 1 stateless", "icmp in ipv6"),
                ("ingress ipv4 icmpv6 icmp=128", "icmpv6 in ipv4"),
            ],
        );
        never(
            "protocol",
            "{} is an extension header in ipv6, and rules are about what follows: expected any, or a number other than 0, 43, 44, 51 and 60",
            &[
                ("ingress ipv6 0", "0"),
                ("ingress ipv6 43", "43"),
                ("egress ipv6 44 stateless", "44"),
                ("ingress ipv6 51", "51"),
                ("ingress ipv6 60", "60"),
            ],
        );
        never(
            "ports",
            "protocol {} has no ports; tcp, udp and sctp have",
            &[
                ("ingress ipv4 any ports=80", "any"),
                ("ingress ipv4 icmp ports=80", "icmp"),
                ("ingress ipv4 47 ports=80", "47"),
            ],
        );
        never(
            "icmp",
            "protocol {} has no ICMP type; icmp and icmpv6 have",
            &[("ingress ipv4 tcp icmp=8", "tcp"), ("ingress ipv4 any icmp=8", "any")],
        );
    }

    #[test]
    fn stateful_rules_about_what_begins_no_connection_are_refused() {
        never(
            "ports",
            "no {} connection is to port 0: expected ports of 1 to 65535, or stateless=true",
            &[("ingress ipv4 tcp ports=0", "tcp"), ("egress ipv6 udp ports=0-0", "udp")],
        );
        let others =
            "(answers to what passes, and errors about it, need no rule); others need stateless=true";
        never(
            "icmp",
            &format!("ICMP {{}} begins no connection, types 8, 13 and 15 with code 0 do {others}"),
            &[
                ("ingress ipv4 icmp icmp=0", "0"),
                ("egress ipv4 icmp icmp=3/4", "3/4"),
                ("ingress ipv4 icmp icmp=8/3", "8/3"),
                ("ingress ipv4 icmp icmp=14", "14"),
                ("ingress ipv4 icmp icmp=17", "17"),
                ("ingress ipv4 icmp icmp=255", "255"),
            ],
        );
        never(
            "icmp",
            &format!("ICMP {{}} begins no connection, type 128 with code 0 does {others}"),
            &[
                ("ingress ipv6 icmpv6 icmp=129", "129"),
                ("ingress ipv6 icmpv6 icmp=128/1", "128/1"),
                ("egress ipv6 icmpv6 icmp=2", "2"),
                ("egress ipv6 icmpv6 icmp=143", "143"),
                ("egress ipv6 icmpv6 icmp=134", "134"),
                ("ingress ipv6 icmpv6 icmp=133", "133"),
            ],
        );
    }

    #[test]
    fn rules_that_would_only_seem_to_restrict_what_always_passes_are_refused() {
        never(
            "icmp",
            "{} passes every port without a rule, from and to everybody",
            &[
                ("ingress ipv6 icmpv6 icmp=134 remote=fe80::1", "ingress ICMPv6 of type 134"),
                ("ingress ipv6 icmpv6 icmp=135/0 stateless", "ingress ICMPv6 of type 135"),
                ("egress ipv6 icmpv6 icmp=133", "egress ICMPv6 of type 133"),
                ("egress ipv6 icmpv6 icmp=136 stateless", "egress ICMPv6 of type 136"),
            ],
        );
    }

    #[test]
    fn rules_about_who_sends_or_gets_nothing_are_refused() {
        never(
            "remote",
            "{} network",
            &[
                ("ingress ipv4 any remote=2001:db8::/32", "2001:db8::/32 is no ipv4"),
                ("ingress ipv6 any remote=0.0.0.0/0", "0.0.0.0/0 is no ipv6"),
            ],
        );
        never(
            "remote",
            "no packet comes from {}, which is multicast or broadcast: expected addresses of stations, or any",
            &[
                ("ingress ipv4 udp remote=224.0.0.0/4", "224.0.0.0/4"),
                ("ingress ipv4 udp remote=239.1.2.3 stateless", "239.1.2.3"),
                ("ingress ipv4 any remote=255.255.255.255", "255.255.255.255"),
                ("ingress ipv6 any remote=ff02::1", "ff02::1"),
            ],
        );
        never(
            "remote",
            "no packet goes to {}, which is the address of who has none: everybody is any",
            &[("egress ipv4 any remote=0.0.0.0", "0.0.0.0"), ("egress ipv6 tcp remote=::", "::")],
        );
    }
}
