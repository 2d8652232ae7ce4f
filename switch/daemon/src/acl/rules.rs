//! From a [`Unit`] to the rules that it stands for.
//!
//! What a guarded port sends goes through *source* (its Ethernet address), *address* (its IP addresses), *service*
//! (what no VM offers) and *egress*; what it gets, through *entry* and *ingress*. There, a profile's packets meet its
//! stateless rules, then connection tracking. A tracked packet is held against the rules of the direction in which its
//! connection was begun, established or not: what a rule says when it comes, goes or loses a member holds for all
//! packets at once. *Remote* tables say which class the other side's address is of, *relation* what that is to the profile.
//!
//! The zone of a connection is the VLAN of its packets at the port, with the bridge's number above it: two ports of a
//! VLAN share the connection, and two bridges or VLANs never do.

use std::net::{IpAddr, Ipv6Addr};

use weft_config::acl::{Direction, Ethertype, IcmpMatch, PortRange, Prefix, Protocol};
use weft_core::tables::TableId;
use weft_flow::action::{Ct, CtZone, Own};
use weft_flow::{Action, Field, Fields, Match, Subfield};
use weft_wire::{DropReason, Mac};

use super::cookie::Cookie;
use super::plan::{Far, GuardedPort, Permit, Profile, Unit};

/// The numbers of the tables.
pub mod table {
    #![allow(missing_docs, reason = "the module's text says it")]
    pub const SOURCE: u16 = 256;
    pub const ADDRESS: u16 = 257;
    pub const SERVICE: u16 = 258;
    pub const EGRESS: u16 = 259;
    pub const EGRESS_STATE: u16 = 260;
    pub const ENTRY: u16 = 261;
    pub const INGRESS: u16 = 262;
    pub const INGRESS_STATE: u16 = 263;
    pub const REMOTE_DST: u16 = 264;
    pub const REMOTE_SRC: u16 = 265;
    pub const RELATION: u16 = 266;
    pub const EGRESS_STATELESS: u16 = 267;
    pub const INGRESS_STATELESS: u16 = 268;
    pub const EGRESS_RULES: u16 = 269;
    pub const EGRESS_REPLIES: u16 = 270;
    pub const INGRESS_RULES: u16 = 271;
    pub const INGRESS_REPLIES: u16 = 272;
    pub const COMMIT: u16 = 273;
}

const _: () = assert!(table::SOURCE == TableId::FROM_GUARDED.0 && table::ENTRY == TableId::TO_GUARDED.0);

/// A rule of one of weft's own tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnRule {
    /// Where.
    pub place: Place,
    /// Whose.
    pub cookie: Cookie,
    /// What it does.
    pub actions: Box<[Action]>,
}

/// Where a rule is: of one place there is one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// The table.
    pub table: TableId,
    /// The priority.
    pub priority: u16,
    /// The match.
    pub matches: Match,
}

/// A match while it is put together.
#[derive(Clone, Default)]
struct If {
    mask: Fields,
    value: Fields,
}

impl If {
    fn is(self, field: Field, value: impl Into<u128>) -> If {
        self.masked(field, value.into(), field.max())
    }

    fn masked(mut self, field: Field, value: u128, mask: u128) -> If {
        Subfield::whole(field).set(&mut self.mask, mask);
        Subfield::whole(field).set(&mut self.value, value & mask);
        self
    }

    fn of(self, ethertype: Ethertype) -> If {
        self.is(Field::EthType, if ethertype == Ethertype::Ipv4 { 0x0800u16 } else { 0x86dd })
    }

    fn arp(self) -> If {
        self.is(Field::EthType, 0x0806u16)
    }

    fn over(self, ethertype: Ethertype, protocol: u8) -> If {
        self.of(ethertype).is(Field::NwProto, protocol)
    }

    fn icmp6(self, kind: u8) -> If {
        self.over(Ethertype::Ipv6, 58).is(Field::Icmpv6Type, kind)
    }

    fn udp(self, ethertype: Ethertype, source: u16, destination: u16) -> If {
        self.over(ethertype, 17).is(Field::UdpSrc, source).is(Field::UdpDst, destination)
    }

    /// The port that the packet came by or leaves by.
    fn port(self, port: weft_wire::OfPort) -> If {
        self.is(PORT, port.0)
    }

    fn prefix(self, [v4, v6]: [Field; 2], prefix: Prefix) -> If {
        let length = u32::from(prefix.length());
        match prefix.address() {
            IpAddr::V4(at) => {
                let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
                self.masked(v4, at.to_bits().into(), mask.into())
            }
            IpAddr::V6(at) => self.masked(v6, at.to_bits(), u128::MAX.checked_shl(128 - length).unwrap_or(0)),
        }
    }
}

/// Registers: the port, the zone, the profile, the class of the other side's address, and what it is to the profile.
const PORT: Field = Field::Reg5;
const ZONE: Field = Field::Reg6;
const PROFILE: Field = Field::Reg7;
const CLASS: Field = Field::Reg8;
const RELATION: Field = Field::Reg9;

const SOURCES: [Field; 2] = [Field::IpSrc, Field::Ipv6Src];
const DESTINATIONS: [Field; 2] = [Field::IpDst, Field::Ipv6Dst];

fn go(table: u16) -> Action {
    Action::Resubmit { in_port: None, table: Some(table), ct: false }
}

/// By the original direction of the packet's connection.
fn go_by_origin(table: u16) -> Action {
    Action::Resubmit { in_port: None, table: Some(table), ct: true }
}

fn load(field: Field, value: u32) -> Action {
    Action::Load { target: Subfield::whole(field), value: value.into() }
}

fn refuse(reason: DropReason) -> Action {
    Action::Own(Own::Drop(reason))
}

const PERMIT: Action = Action::Own(Own::Permit);

fn zone() -> CtZone {
    Subfield::new(ZONE, 0, 16).map_or(CtZone::Number(0), CtZone::Field)
}

fn track(table: u16) -> Action {
    Action::Ct(Box::new(Ct { zone: zone(), table: Some(table), ..Ct::default() }))
}

/// Takes rules of one owner.
struct Out {
    rules: Vec<OwnRule>,
    cookie: Cookie,
}

impl Out {
    fn add(&mut self, table: u16, priority: u16, when: If, actions: &[Action]) {
        let place = Place { table: TableId(table), priority, matches: Match::new(&when.mask, &when.value) };
        self.rules.push(OwnRule { place, cookie: self.cookie, actions: actions.into() });
    }
}

/// The rules of a unit.
pub fn of(unit: &Unit) -> Vec<OwnRule> {
    let mut out = Out { rules: Vec::new(), cookie: owner(unit) };
    match unit {
        Unit::Sent => sent(&mut out),
        Unit::Got => {
            got(&mut out);
            states(&mut out);
        }
        Unit::Port(port) => port_rules(&mut out, port),
        Unit::Mac(port, mac) => mac_rules(&mut out, port, *mac),
        Unit::Pair(port, mac, ip) => pair_rules(&mut out, *port, (*mac, *ip)),
        Unit::Profile(profile) => profile_rules(&mut out, profile),
        Unit::Address(prefix, class) => {
            let priority = 100 + u16::from(prefix.length());
            for (table, side) in [(table::REMOTE_DST, DESTINATIONS), (table::REMOTE_SRC, SOURCES)] {
                let when = If::default().of(prefix.family()).prefix(side, *prefix);
                out.add(table, priority, when, &[load(CLASS, *class), go(table::RELATION)]);
            }
        }
        Unit::Relation(profile, class, relation) => {
            let when = If::default().is(PROFILE, *profile).is(CLASS, *class);
            out.add(table::RELATION, 100, when, &[load(RELATION, *relation)]);
        }
        Unit::Permit(permit) => permit_rules(&mut out, permit),
    }
    out.rules
}

fn owner(unit: &Unit) -> Cookie {
    match unit {
        Unit::Sent | Unit::Got => Cookie::Fixed,
        Unit::Port(port) | Unit::Mac(port, _) => Cookie::Port(port.ofport),
        Unit::Pair(port, ..) => Cookie::Port(*port),
        Unit::Profile(Profile { id, .. }) | Unit::Relation(id, ..) => Cookie::Profile(*id),
        Unit::Address(_, class) => Cookie::Class(*class),
        Unit::Permit(permit) => match permit.rule {
            Some((group, rule)) => Cookie::Rule(group, rule),
            None => Cookie::Open(permit.profile),
        },
    }
}

/// What no guarded port offers, and what every one may send.
fn sent(out: &mut Out) {
    use Ethertype::{Ipv4, Ipv6};
    let when = If::default;
    let service = [
        (when().udp(Ipv4, 67, 68), DropReason::RogueDhcp),
        (when().udp(Ipv6, 547, 546), DropReason::RogueDhcpv6),
        (when().icmp6(134), DropReason::RogueRa),
    ];
    for (when, reason) in service {
        out.add(table::SERVICE, 100, when, &[refuse(reason)]);
    }
    out.add(table::SERVICE, 0, when(), &[go(table::EGRESS)]);
    for kind in [135, 136] {
        out.add(table::SERVICE, 80, when().icmp6(kind), &[refuse(DropReason::SpoofedNd)]);
    }
    // No fragment but the first says whose addresses it shows, and nobody has to take them (RFC 6980, section 5).
    for kind in [133, 135, 136, 137] {
        let piece = when().icmp6(kind).masked(Field::IpFrag, 1, 1);
        out.add(table::SERVICE, 95, piece, &[refuse(DropReason::SpoofedNd)]);
    }
    let silent = when().icmp6(135).is(Field::Icmpv6Code, 0u8).is(Field::NdSll, 0u8);
    out.add(table::SERVICE, 90, silent, &[go(table::EGRESS)]);
    // Who asks for an address has none, and neither has who looks whether one is free (RFC 4862, section 5.4).
    out.add(table::ADDRESS, 100, when().udp(Ipv4, 68, 67).is(Field::IpSrc, 0u8), &[go(table::SERVICE)]);
    for kind in [133, 135, 131, 132, 143] {
        out.add(table::ADDRESS, 100, when().icmp6(kind).is(Field::Ipv6Src, 0u8), &[go(table::SERVICE)]);
    }
    out.add(table::ADDRESS, 10, when().arp(), &[refuse(DropReason::SpoofedArp)]);
    for family in [Ipv4, Ipv6] {
        out.add(table::ADDRESS, 10, when().of(family), &[refuse(DropReason::SpoofedIp)]);
    }
    out.add(table::ADDRESS, 0, when(), &[go(table::SERVICE)]);
    // A port of no group.
    out.add(table::EGRESS, 300, when().is(PROFILE, 0u8), &[PERMIT]);
    let always = [when().arp(), when().udp(Ipv4, 68, 67), when().udp(Ipv6, 546, 547)];
    for when in always.into_iter().chain([133, 135, 136].map(|kind| when().icmp6(kind))) {
        out.add(table::EGRESS, 200, when, &[PERMIT]);
    }
    out.add(table::EGRESS, 0, when(), &[refuse(DropReason::AclEgress)]);
}

/// What every port of groups gets.
fn got(out: &mut Out) {
    use Ethertype::{Ipv4, Ipv6};
    let when = If::default;
    let always = [when().arp(), when().udp(Ipv4, 67, 68), when().udp(Ipv6, 547, 546)];
    for when in always.into_iter().chain([134, 135, 136].map(|kind| when().icmp6(kind))) {
        out.add(table::ENTRY, 200, when, &[PERMIT]);
    }
    out.add(table::INGRESS, 0, when(), &[refuse(DropReason::AclIngress)]);
}

/// Bits of `ct_state` (ovs-fields(7)).
const NEW: u128 = 0x01;
const RELATED: u128 = 0x04;
const REPLY: u128 = 0x08;
const INVALID: u128 = 0x10;
const TRACKED: u128 = 0x20;

/// Tracked packets go to the rules of the direction in which their connection was begun.
fn states(out: &mut Out) {
    let state = |value, mask| If::default().masked(Field::CtState, value | TRACKED, mask | TRACKED);
    let sides = [
        // What a port sends: the other side is the destination.
        (
            (table::EGRESS_STATE, table::REMOTE_DST, DropReason::AclEgress),
            (table::EGRESS_RULES, table::INGRESS_REPLIES),
            ((table::REMOTE_DST, table::EGRESS_RULES), (table::REMOTE_SRC, table::INGRESS_RULES)),
        ),
        (
            (table::INGRESS_STATE, table::REMOTE_SRC, DropReason::AclIngress),
            (table::INGRESS_RULES, table::EGRESS_REPLIES),
            ((table::REMOTE_SRC, table::INGRESS_RULES), (table::REMOTE_DST, table::EGRESS_RULES)),
        ),
    ];
    for ((table, remote, reason), (rules, replies), (same, other)) in sides {
        out.add(table, 100, state(INVALID, INVALID), &[refuse(DropReason::AclInvalid)]);
        for (reply, (remote, rules)) in [(0, same), (REPLY, other)] {
            let steps = [load(RELATION, 0), go_by_origin(remote), go_by_origin(rules), refuse(reason)];
            out.add(table, 90, state(RELATED | reply, RELATED | REPLY), &steps);
        }
        out.add(table, 80, state(REPLY, REPLY), &[go(remote), go(replies), refuse(reason)]);
        out.add(table, 70, state(0, 0), &[go(remote), go(rules), refuse(reason)]);
    }
    let commit = Action::Ct(Box::new(Ct { commit: true, zone: zone(), ..Ct::default() }));
    out.add(table::COMMIT, 100, state(NEW, NEW), &[commit, PERMIT]);
    out.add(table::COMMIT, 0, If::default(), &[PERMIT]);
}

/// What is known of a port, for the tables that follow.
fn introduce(port: &GuardedPort, next: u16) -> [Action; 3] {
    let high = Subfield { field: ZONE, offset: 12, bits: 4 };
    [Action::Load { target: high, value: port.zones.into() }, load(PROFILE, port.profile), go(next)]
}

fn port_rules(out: &mut Out, port: &GuardedPort) {
    let when = || If::default().port(port.ofport);
    if port.profile != 0 {
        out.add(table::ENTRY, 100, when(), &introduce(port, table::INGRESS));
    }
    if !port.secured {
        return out.add(table::SOURCE, 50, when(), &introduce(port, table::EGRESS));
    }
    out.add(table::SOURCE, 50, when(), &[refuse(DropReason::SpoofedMac)]);
}

/// What goes with an Ethernet address, whatever the IP addresses are.
fn mac_rules(out: &mut Out, port: &GuardedPort, mac: Mac) {
    let when = || If::default().port(port.ofport).is(Field::EthSrc, mac.to_u64());
    out.add(table::SOURCE, 100, when(), &introduce(port, table::ADDRESS));
    // A probe claims nothing (RFC 5227, section 2.1.1).
    let probe = when().arp().is(Field::ArpSha, mac.to_u64()).is(Field::ArpSpa, 0u8);
    out.add(table::ADDRESS, 100, probe, &[go(table::SERVICE)]);
    let local = link_local(mac).to_bits();
    let own = when().of(Ethertype::Ipv6).is(Field::Ipv6Src, local);
    out.add(table::ADDRESS, 100, own, &[go(table::SERVICE)]);
    let solicit = when().icmp6(135).is(Field::Icmpv6Code, 0u8).is(Field::NdSll, mac.to_u64());
    out.add(table::SERVICE, 90, solicit, &[go(table::EGRESS)]);
    for shown in [mac.to_u64(), 0] {
        let advert = when().icmp6(136).is(Field::Icmpv6Code, 0u8).is(Field::NdTll, shown);
        out.add(table::SERVICE, 90, advert.is(Field::NdTarget, local), &[go(table::EGRESS)]);
    }
}

/// The link-local address that goes with an Ethernet address (RFC 4291, appendix A).
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

fn pair_rules(out: &mut Out, port: weft_wire::OfPort, (mac, ip): (Mac, Option<Prefix>)) {
    let when = || If::default().port(port).is(Field::EthSrc, mac.to_u64());
    let next = [go(table::SERVICE)];
    let of = |family: Ethertype| ip.is_none_or(|ip| ip.family() == family);
    let from = |when: If, sources| match ip {
        Some(ip) => when.prefix(sources, ip),
        None => when,
    };
    if of(Ethertype::Ipv4) {
        let arp = when().arp().is(Field::ArpSha, mac.to_u64());
        out.add(table::ADDRESS, 100, from(arp, [Field::ArpSpa; 2]), &next);
        out.add(table::ADDRESS, 100, from(when().of(Ethertype::Ipv4), SOURCES), &next);
    }
    if of(Ethertype::Ipv6) {
        out.add(table::ADDRESS, 100, from(when().of(Ethertype::Ipv6), SOURCES), &next);
        for shown in [mac.to_u64(), 0] {
            let advert = when().icmp6(136).is(Field::Icmpv6Code, 0u8).is(Field::NdTll, shown);
            out.add(table::SERVICE, 90, from(advert, [Field::NdTarget; 2]), &[go(table::EGRESS)]);
        }
    }
}

fn profile_rules(out: &mut Out, profile: &Profile) {
    let [egress, ingress] = profile.stateless;
    let sides = [
        (table::EGRESS, table::REMOTE_DST, (egress, table::EGRESS_STATELESS), table::EGRESS_STATE),
        (table::INGRESS, table::REMOTE_SRC, (ingress, table::INGRESS_STATELESS), table::INGRESS_STATE),
    ];
    let reasons = [DropReason::AclEgress, DropReason::AclIngress];
    for ((table, remote, (has, stateless), state), reason) in sides.into_iter().zip(reasons) {
        let mut steps = if has { vec![go(remote), go(stateless)] } else { Vec::new() };
        steps.push(if profile.stateful { track(state) } else { refuse(reason) });
        let when = || If::default().is(PROFILE, profile.id);
        for family in [Ethertype::Ipv4, Ethertype::Ipv6] {
            out.add(table, 100, when().of(family), &steps);
        }
        if profile.multicast {
            out.add(table, 150, when().over(Ethertype::Ipv4, 2), &[PERMIT]);
            for kind in [130, 131, 132, 143] {
                out.add(table, 150, when().icmp6(kind), &[PERMIT]);
            }
        }
    }
}

fn permit_rules(out: &mut Out, permit: &Permit) {
    let (stateless, rules, replies) = match permit.direction {
        Direction::Egress => (table::EGRESS_STATELESS, table::EGRESS_RULES, table::EGRESS_REPLIES),
        Direction::Ingress => (table::INGRESS_STATELESS, table::INGRESS_RULES, table::INGRESS_REPLIES),
    };
    let (ahead, action) = if permit.stateless { (stateless, PERMIT) } else { (rules, go(table::COMMIT)) };
    for when in matches(permit, Way::Ahead) {
        out.add(ahead, 100, when, std::slice::from_ref(&action));
    }
    if !permit.stateless {
        matches(permit, Way::Back).into_iter().for_each(|when| out.add(replies, 100, when, &[PERMIT]));
    }
}

/// Which packets of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Those of its first packet's direction.
    Ahead,
    /// Their answers.
    Back,
}

fn matches(permit: &Permit, way: Way) -> Vec<If> {
    let mut when = If::default().is(PROFILE, permit.profile).of(permit.ethertype);
    if let Protocol::Number(number) = permit.protocol {
        when = when.is(Field::NwProto, number);
    }
    // Whoever is not the port: ahead, the receiver of what it sends, or the sender of what it gets.
    let sent = (permit.direction == Direction::Egress) == (way == Way::Ahead);
    match permit.remote {
        Far::Any => {}
        Far::Prefix(prefix) => when = when.prefix(if sent { DESTINATIONS } else { SOURCES }, prefix),
        Far::Relation(relation) => when = when.is(RELATION, relation),
    }
    if let Some(icmp) = permit.icmp {
        return icmp_match(when, permit.ethertype, icmp, way).into_iter().collect();
    }
    let Some(ports) = permit.ports else { return vec![when] };
    let field = if way == Way::Ahead { Field::TcpDst } else { Field::TcpSrc };
    let part = |(value, mask): (u16, u16)| when.clone().masked(field, value.into(), mask.into());
    blocks(ports).into_iter().map(part).collect()
}

fn icmp_match(when: If, ethertype: Ethertype, icmp: IcmpMatch, way: Way) -> Option<If> {
    let [kind, code] = match ethertype {
        Ethertype::Ipv4 => [Field::IcmpType, Field::IcmpCode],
        Ethertype::Ipv6 => [Field::Icmpv6Type, Field::Icmpv6Code],
    };
    if way == Way::Back {
        // A query has code 0: one with another has no connection, and no answer.
        if icmp.code.is_some_and(|code| code != 0) {
            return None;
        }
        return answer(ethertype, icmp.kind).map(|answer| when.is(kind, answer));
    }
    let when = when.is(kind, icmp.kind);
    Some(match icmp.code {
        Some(value) => when.is(code, value),
        None => when,
    })
}

/// The type of an answer, of those that have one (RFC 792, RFC 950, RFC 4443).
fn answer(ethertype: Ethertype, kind: u8) -> Option<u8> {
    const PAIRS: [(Ethertype, u8, u8); 5] = [
        (Ethertype::Ipv4, 8, 0),
        (Ethertype::Ipv4, 13, 14),
        (Ethertype::Ipv4, 15, 16),
        (Ethertype::Ipv4, 17, 18),
        (Ethertype::Ipv6, 128, 129),
    ];
    let of = PAIRS.iter().filter(|(family, ..)| *family == ethertype);
    let mut both = of.flat_map(|&(_, ask, tell)| [(ask, tell), (tell, ask)]);
    both.find(|(one, _)| *one == kind).map(|(_, other)| other)
}

/// A range of ports as values under masks: aligned blocks, as large as they can be.
pub fn blocks(range: PortRange) -> Vec<(u16, u16)> {
    let (first, last) = range.bounds();
    let (mut at, end) = (u32::from(first), u32::from(last) + 1);
    let mut blocks = Vec::new();
    while at < end {
        let aligned = if at == 0 { 1 << 16 } else { at & at.wrapping_neg() };
        let mut size = aligned;
        while size > end - at {
            size >>= 1;
        }
        blocks.push((at as u16, !((size - 1) as u16)));
        at += size;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use weft_config::value::Value;

    use super::*;

    #[test]
    fn blocks_are_the_range_and_nothing_else() {
        for text in ["0-65535", "80", "1-65535", "0", "65535", "1000-1023", "22-8080", "1-65534", "4095-4097"]
        {
            let Ok(range) = PortRange::parse(text) else { unreachable!("a good range") };
            let blocks = blocks(range);
            let (first, last) = range.bounds();
            for port in 0..=u16::MAX {
                let within = blocks.iter().filter(|(value, mask)| port & mask == *value).count();
                assert_eq!(within, usize::from((first..=last).contains(&port)), "{text}: {port}");
            }
            assert!(blocks.len() <= 30);
        }
    }

    #[test]
    fn a_station_has_the_link_local_address_of_its_mac() {
        let mac = Mac([0xfa, 0x16, 0x3e, 0x7c, 0xaa, 0x99]);
        assert_eq!(link_local(mac).to_string(), "fe80::f816:3eff:fe7c:aa99");
    }
}
