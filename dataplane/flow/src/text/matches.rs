//! Reading matches: `tcp,nw_src=10.0.0.0/8,tp_dst=80,reg0[0..3]=5`.

use super::context::Context;
use super::error::{Error, Problem};
use super::flags::Flags;
use super::port::PortNames;
use super::token::{Item, Token};
use super::value;
use crate::field::{Field, Subfield};
use crate::fields::Fields;
use crate::matching::Match;

/// What a word stands for: EtherType, and protocol if not 0.
const PROTOCOLS: [(&str, u16, u8); 17] = [
    ("ip", 0x0800, 0),
    ("ipv4", 0x0800, 0),
    ("ip4", 0x0800, 0),
    ("arp", 0x0806, 0),
    ("icmp", 0x0800, 1),
    ("tcp", 0x0800, 6),
    ("udp", 0x0800, 17),
    ("sctp", 0x0800, 132),
    ("ipv6", 0x86dd, 0),
    ("ip6", 0x86dd, 0),
    ("icmp6", 0x86dd, 58),
    ("tcp6", 0x86dd, 6),
    ("udp6", 0x86dd, 17),
    ("sctp6", 0x86dd, 132),
    ("rarp", 0x8035, 0),
    ("mpls", 0x8847, 0),
    ("mplsm", 0x8848, 0),
];

/// `dl_vlan` of untagged packets (OpenFlow 1.0).
const NO_VLAN: u128 = 0xffff;

/// A match in the making.
pub(super) struct Builder<'a> {
    mask: Fields,
    value: Fields,
    /// Fields that were given, for their prerequisites.
    given: Vec<(Field, Token<'a>)>,
    /// Those that were given as a whole, a bit each.
    seen: u128,
    /// A packet is described: no masks.
    exact: bool,
}

// Each field has a bit in `seen`.
const _: () = assert!(Field::ALL.len() <= 128);

impl<'a> Builder<'a> {
    pub fn new() -> Builder<'a> {
        let given = Vec::with_capacity(12);
        Builder { mask: Fields::default(), value: Fields::default(), given, seen: 0, exact: false }
    }

    /// For the description of a packet, which has no masks.
    pub fn of_packet() -> Builder<'a> {
        Builder { exact: true, ..Builder::new() }
    }

    /// Takes a setting if it is about the match.
    pub fn take(&mut self, item: &Item<'a>, ports: &dyn PortNames) -> Result<bool, Error> {
        let key = item.key.text;
        if let Some(&(_, eth_type, proto)) = PROTOCOLS.iter().find(|(name, ..)| *name == key) {
            self.given.push((Field::EthType, item.whole));
            self.add(Subfield::whole(Field::EthType), (eth_type.into(), 0xffff), item.whole)?;
            if proto != 0 {
                self.add(Subfield::whole(Field::NwProto), (proto.into(), 0xff), item.whole)?;
            }
        } else if key == "eth" {
            // Every packet is an Ethernet frame.
        } else if key.contains('[') {
            self.add_part(item, ports)?;
        } else if let Some(field) = value::field(key) {
            self.add_field(field, item, ports)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// `reg0[0..3]=5`
    fn add_part(&mut self, item: &Item<'a>, ports: &dyn PortNames) -> Result<(), Error> {
        let part = value::parse_part(item.key)?;
        let whole = part == value::all_of(part.field);
        if whole && !item.value.text.starts_with("0x") {
            return self.add_field(part.field, item, ports);
        }
        if !whole && part.field.info().maskable == crate::field::Maskable::Whole {
            return item.whole.fail(Problem::NotMaskable(part.field));
        }
        let number = item.value.number("the value", part.max())?;
        self.given.push((part.field, item.whole));
        self.add(part, (number, part.max()), item.whole)
    }

    fn add_field(&mut self, field: Field, item: &Item<'a>, ports: &dyn PortNames) -> Result<(), Error> {
        let bit = 1 << field as u32;
        if self.seen & bit != 0 {
            return item.whole.fail(Problem::Twice);
        }
        self.seen |= bit;
        if item.value.is_empty() {
            return item.whole.fail(Problem::Missing("its value"));
        }
        if let Some((tci, mask)) = vlan(field, item, ports)? {
            if mask != 0 {
                self.given.push((field, item.whole));
            }
            return self.add(Subfield::whole(Field::VlanTci), (tci, mask), item.whole);
        }
        let (number, mask) = value::parse(field, item.value, ports)?;
        let flags = Flags::of(field.info().format).is_some() && !item.value.text.contains('/');
        if self.exact && mask != all_bits(field) && !flags {
            return item.value.fail(Problem::Expected("a value without a mask"));
        }
        if mask == 0 || (field, number) == (Field::PacketType, 0) {
            return Ok(());
        }
        self.given.push((field, item.whole));
        if field == Field::NwTos {
            // Its two low bits are nw_ecn.
            if number & 3 != 0 {
                return item.value.fail(Problem::Expected("a multiple of 4, 0 to 252"));
            }
            return self.add(Subfield::whole(Field::IpDscp), (number >> 2, 0x3f), item.whole);
        }
        self.add(Subfield::whole(field), (number, mask), item.whole)
    }

    /// Adds bits; they must agree with those that are there.
    fn add(&mut self, part: Subfield, bits: (u128, u128), token: Token<'a>) -> Result<(), Error> {
        let (value, mask) = bits;
        let (old_value, old_mask) = (part.get(&self.value), part.get(&self.mask));
        if (old_value ^ value) & old_mask & mask != 0 {
            return token.fail(Problem::Contradiction);
        }
        part.set(&mut self.mask, old_mask | mask);
        part.set(&mut self.value, old_value | value & mask);
        Ok(())
    }

    /// Refuses what a rule can't match on.
    pub fn refuse_internal(&self) -> Result<(), Error> {
        let hidden = |(field, _): &&(Field, Token<'a>)| {
            let value = Subfield::whole(Field::RecircId).get(&self.value);
            *field == Field::DpHash || *field == Field::RecircId && value != 0
        };
        match self.given.iter().find(hidden) {
            Some((field, token)) => token.fail(Problem::Internal(*field)),
            None => Ok(()),
        }
    }

    /// What is described of a packet, if all prerequisites are met.
    pub fn finish_packet(mut self) -> Result<Fields, Error> {
        let tag = Subfield::whole(Field::VlanTci);
        if tag.get(&self.mask) & 0xfff != 0 && tag.get(&self.value) & 0xfff != 0 {
            // A VLAN is one of a tag.
            let tci = tag.get(&self.value) | u128::from(weft_wire::Tci::PRESENT);
            tag.set(&mut self.value, tci);
        }
        let value = self.value;
        self.finish().map(|_| value)
    }

    /// The match, if all prerequisites are met.
    pub fn finish(self) -> Result<Match, Error> {
        let matches = Match::new(&self.mask, &self.value);
        let context = Context::of(&matches);
        for (field, token) in self.given {
            if !matchable(&context, field) {
                return token.fail(lacks(field));
            }
        }
        Ok(matches)
    }
}

/// The mask of a match on all of a field, as values are read.
fn all_bits(field: Field) -> u128 {
    Flags::of(field.info().format).map_or(field.max(), |flags| flags.all)
}

/// Whether a field, or another in the same place (`tp_dst` is `tcp_dst`, but serves for UDP too), can be matched.
fn matchable(context: &Context, field: Field) -> bool {
    let twin = |other: &Field| other.info().segments == field.info().segments && context.reads(*other);
    context.reads(field) || Field::ALL.iter().any(twin)
}

/// What is wrong with a field whose prerequisites aren't met.
fn lacks(field: Field) -> Problem {
    use Field::{
        IcmpCode, IcmpType, Icmpv6Code, Icmpv6Type, IpDst, IpSrc, NwProto, SctpDst, SctpSrc, TcpDst, TcpSrc,
        UdpDst, UdpSrc,
    };
    match field {
        TcpSrc | TcpDst | UdpSrc | UdpDst | SctpSrc | SctpDst => {
            Problem::NotMatched("tcp, udp or sctp (or tcp6, udp6, sctp6), but no later fragments,")
        }
        IcmpType | IcmpCode | Icmpv6Type | Icmpv6Code => Problem::NotMatched("icmp or icmp6"),
        IpSrc | IpDst => Problem::NotMatched("ip (or arp, rarp)"),
        NwProto => Problem::NotMatched("ip, ipv6, arp or rarp"),
        _ => Problem::Lacks { field, needs: field.info().prerequisite },
    }
}

/// What settings of the outer VLAN tag say of its [`weft_wire::Tci`]: value and mask.
fn vlan(field: Field, item: &Item<'_>, ports: &dyn PortNames) -> Result<Option<(u128, u128)>, Error> {
    let present = u128::from(weft_wire::Tci::PRESENT);
    if field == Field::DlVlan && item.value.number("dl_vlan", NO_VLAN) == Ok(NO_VLAN) {
        return Ok(Some((0, 0xffff)));
    }
    let tag = match field {
        Field::DlVlan => |value: u128, _: u128| (value, 0xfff),
        Field::VlanVid => return value::parse(field, item.value, ports).map(Some),
        Field::DlVlanPcp | Field::VlanPcp => |value: u128, _: u128| (value << 13, 0xe000),
        _ => return Ok(None),
    };
    let (value, mask) = value::parse(field, item.value, ports)?;
    let (value, bits) = tag(value, mask);
    Ok(Some(if mask == 0 { (0, 0) } else { (value | present, bits | present) }))
}

/// Reads a match alone.
pub(super) fn parse(token: Token<'_>, ports: &dyn PortNames) -> Result<Match, Error> {
    all(Builder::new(), token, ports)?.finish()
}

/// Reads the description of a packet.
pub(super) fn parse_packet(token: Token<'_>, ports: &dyn PortNames) -> Result<Fields, Error> {
    all(Builder::of_packet(), token, ports)?.finish_packet()
}

fn all<'a>(mut builder: Builder<'a>, token: Token<'a>, ports: &dyn PortNames) -> Result<Builder<'a>, Error> {
    for item in token.items() {
        let item = item?;
        if !builder.take(&item, ports)? {
            return item.key.fail(Problem::UnknownKeyword);
        }
    }
    Ok(builder)
}
