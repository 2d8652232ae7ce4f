//! The single values of security groups.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use weft_wire::Mac;

use crate::value::{Quoted, Value, ValueError, number, scalar, words};

fn word<T>(text: &str, legal: &'static str) -> Result<T, ValueError> {
    Err(ValueError::Word { value: Quoted::new(text), legal })
}

/// Reads and writes a value as one word.
macro_rules! one_word {
    ($($type:ty),+) => {
        $(impl Serialize for $type {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                scalar(from)
            }
        })+
    };
}
one_word!(GroupName, Prefix, PortRange, IcmpMatch, Protocol, Remote);

/// Who starts a connection, seen from a group's ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// Others do: towards the port.
    Ingress,
    /// The port does.
    Egress,
}

words!(Direction, "a direction: ingress (to the port) or egress (from the port)",
    "ingress" => Ingress, "egress" => Egress);

/// The family of a rule's packets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Ethertype {
    /// 0x0800
    #[default]
    Ipv4,
    /// 0x86dd
    Ipv6,
}

words!(Ethertype, "ipv4 or ipv6", "ipv4" => Ipv4, "ipv6" => Ipv6; "IPv4" => Ipv4, "IPv6" => Ipv6);

/// What becomes of what a bound port sends and no rule is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Decision {
    /// It is dropped.
    #[default]
    Deny,
    /// It may leave, and its answers come back.
    Open,
}

words!(Decision, "deny or open", "deny" => Deny, "open" => Open);

/// A group's name: 1 to 63 letters, digits, `.`, `_` and `-`, a letter or digit first, and not an address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupName(String);

impl GroupName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&self.0)
    }
}

impl Value for GroupName {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let known = |octet: u8| octet.is_ascii_alphanumeric() || b"._-".contains(&octet);
        let first = text.bytes().next().is_some_and(|octet| octet.is_ascii_alphanumeric());
        let taken = text == "any" || text.parse::<IpAddr>().is_ok();
        if first && !taken && text.len() <= 63 && text.bytes().all(known) {
            return Ok(GroupName(text.to_owned()));
        }
        word(
            text,
            "the name of a group: 1 to 63 letters, digits, '.', '_' and '-', a letter or digit first, and not any",
        )
    }
}

/// An address, or all of a network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    /// With no bit set beyond the length.
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The network of that many bits that the address is in.
    pub fn of(address: IpAddr, length: u8) -> Prefix {
        let address = match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        };
        Prefix { address, length: length.min(Prefix::bits(&address)) }
    }

    fn bits(address: &IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its leading bits, 0 to 32 or 128.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether it is one address.
    pub fn is_address(&self) -> bool {
        self.length == Prefix::bits(&self.address)
    }

    /// Its family.
    pub fn family(&self) -> Ethertype {
        if self.address.is_ipv4() { Ethertype::Ipv4 } else { Ethertype::Ipv6 }
    }

    /// Whether every address of `other` is in it.
    pub fn contains(&self, other: &Prefix) -> bool {
        self.family() == other.family()
            && self.length <= other.length
            && Prefix::of(other.address, self.length).address == self.address
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(out)?;
        if self.is_address() { Ok(()) } else { write!(out, "/{}", self.length) }
    }
}

impl Value for Prefix {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let legal = "an address or a network, as in 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32";
        let (address, length) = text.split_once('/').map_or((text, None), |(at, length)| (at, Some(length)));
        let Ok(address) = address.parse::<IpAddr>() else { return word(text, legal) };
        let bits = Prefix::bits(&address);
        let length = match length {
            Some(length) => number(length, 0, bits.into())? as u8,
            None => bits,
        };
        let prefix = Prefix::of(address, length);
        if prefix.address != address {
            return Err(ValueError::HostBits { value: Quoted::new(text), network: prefix });
        }
        Ok(prefix)
    }
}

/// Destination ports: one, or a range.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The first and the last port.
    pub fn bounds(self) -> (u16, u16) {
        (self.first, self.last)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(out)?;
        if self.first == self.last { Ok(()) } else { write!(out, "-{}", self.last) }
    }
}

impl Value for PortRange {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (number(first, 0, 65_535)? as u16, number(last, 0, 65_535)? as u16);
        if first > last {
            return word(text, "a range of ports: the first is above the last");
        }
        Ok(PortRange { first, last })
    }
}

/// ICMP's type, and its code if that matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IcmpMatch {
    /// The type.
    pub kind: u8,
    /// The code.
    pub code: Option<u8>,
}

impl fmt::Display for IcmpMatch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(out)?;
        self.code.map_or(Ok(()), |code| write!(out, "/{code}"))
    }
}

impl Value for IcmpMatch {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let (kind, code) = text.split_once('/').map_or((text, None), |(kind, code)| (kind, Some(code)));
        let kind = number(kind, 0, 255)? as u8;
        let code = code.map(|code| number(code, 0, 255)).transpose()?.map(|code| code as u8);
        Ok(IcmpMatch { kind, code })
    }
}

/// The protocol of a rule's packets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Protocol {
    /// Whatever it is.
    #[default]
    Any,
    /// This number.
    Number(u8),
}

impl Protocol {
    /// 1
    pub const ICMP: Protocol = Protocol::Number(1);
    /// 58
    pub const ICMPV6: Protocol = Protocol::Number(58);
    /// 132
    pub const SCTP: Protocol = Protocol::Number(132);
    const NAMES: [(&'static str, u8); 5] =
        [("tcp", 6), ("udp", 17), ("icmp", 1), ("icmpv6", 58), ("sctp", 132)];

    /// Whether it has ports.
    pub fn has_ports(self) -> bool {
        matches!(self, Protocol::Number(6 | 17 | 132))
    }

    /// Whether it has types and codes.
    pub fn is_icmp(self) -> bool {
        self == Protocol::ICMP || self == Protocol::ICMPV6
    }

    /// Whether it is what a packet of IPv6 has in front of what it carries (RFC 8200, section 4; RFC 4302): hop-by-hop
    /// options, routing, fragment, authentication, destination options. In IPv4, the numbers are protocols.
    pub fn is_extension(self) -> bool {
        matches!(self, Protocol::Number(0 | 43 | 44 | 51 | 60))
    }

    /// The only family that it is in.
    pub fn family(self) -> Option<Ethertype> {
        match self {
            Protocol::ICMP => Some(Ethertype::Ipv4),
            Protocol::ICMPV6 => Some(Ethertype::Ipv6),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Protocol::Number(number) = self else { return out.pad("any") };
        match Protocol::NAMES.iter().find(|(_, known)| known == number) {
            Some((name, _)) => out.pad(name),
            None => out.pad(&number.to_string()),
        }
    }
}

impl Value for Protocol {
    fn parse(text: &str) -> Result<Self, ValueError> {
        if text == "any" {
            return Ok(Protocol::Any);
        }
        if let Some((_, number)) = Protocol::NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(Protocol::Number(*number));
        }
        match text.parse() {
            Ok(number) => Ok(Protocol::Number(number)),
            Err(_) => word(text, "a protocol: any, tcp, udp, icmp, icmpv6, sctp, or 0 to 255"),
        }
    }
}

/// The other side of a rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Remote {
    /// Everybody.
    #[default]
    Any,
    /// A network or an address.
    Prefix(Prefix),
    /// The members of a group.
    Group(GroupName),
}

impl fmt::Display for Remote {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remote::Any => out.write_str("any"),
            Remote::Prefix(prefix) => prefix.fmt(out),
            Remote::Group(group) => group.fmt(out),
        }
    }
}

impl Value for Remote {
    fn parse(text: &str) -> Result<Self, ValueError> {
        if text == "any" {
            return Ok(Remote::Any);
        }
        if text.contains(['/', ':']) || text.parse::<IpAddr>().is_ok() {
            return Prefix::parse(text).map(Remote::Prefix);
        }
        match GroupName::parse(text) {
            Ok(group) => Ok(Remote::Group(group)),
            Err(_) => word(text, "a remote: any, an address or network, or the name of a group"),
        }
    }
}

/// What a port may send from: an Ethernet address, and an IP address or network if not all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pair {
    /// The Ethernet address.
    pub mac: Mac,
    /// The IP addresses; every one when absent.
    pub ip: Option<Prefix>,
}

impl fmt::Display for Pair {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mac.fmt(out)?;
        self.ip.map_or(Ok(()), |ip| write!(out, " {ip}"))
    }
}

impl Value for Pair {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let mut words = text.split_whitespace();
        let (mac, ip) = (words.next().unwrap_or_default(), words.next());
        if words.next().is_some() {
            return word(text, "a pair of addresses, as in '02:00:00:00:00:01 192.0.2.1'");
        }
        Ok(Pair { mac: Mac::parse(mac)?, ip: ip.map(Prefix::parse).transpose()? })
    }
}

impl<'de> Deserialize<'de> for Pair {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(PairVisitor)
    }
}

struct PairVisitor;

impl<'de> Visitor<'de> for PairVisitor {
    type Value = Pair;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a pair, as in '02:00:00:00:00:01 192.0.2.1' or { mac = \"..\", ip = \"..\" }")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Pair, E> {
        Pair::parse(text).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Pair, A::Error> {
        let (mut mac, mut ip) = (None, None);
        while let Some(key) = entries.next_key::<String>()? {
            let value: String = entries.next_value()?;
            match key.as_str() {
                "mac" => mac = Some(Mac::parse(&value).map_err(A::Error::custom)?),
                "ip" => ip = Some(Prefix::parse(&value).map_err(A::Error::custom)?),
                _ => return Err(A::Error::unknown_field(&key, &["mac", "ip"])),
            }
        }
        mac.map(|mac| Pair { mac, ip }).ok_or_else(|| A::Error::missing_field("mac"))
    }
}

/// Several values, each once, in the order given; written as one word, with commas in between.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct List<T>(pub Vec<T>);

/// The groups of a port, or the pairs that it may send from.
pub type Pairs = List<Pair>;

impl<T> Default for List<T> {
    fn default() -> Self {
        List(Vec::new())
    }
}

impl<T: Value + PartialEq> Value for List<T> {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let mut items = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let item = T::parse(part)?;
            if items.contains(&item) {
                return word(part, "listed once: it is there twice");
            }
            items.push(item);
        }
        Ok(List(items))
    }
}

impl<T: fmt::Display> fmt::Display for List<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        out.write_str(&items.join(","))
    }
}

impl<T: fmt::Display> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de, T: Value + PartialEq + Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Value + PartialEq + Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a list, or text with commas in between")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<List<T>, E> {
        List::parse(text).map_err(E::custom)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<List<T>, E> {
        Ok(List::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<List<T>, A::Error> {
        let mut list = List::default();
        while let Some(item) = items.next_element::<T>()? {
            if list.0.contains(&item) {
                return Err(A::Error::custom("an item is there twice"));
            }
            list.0.push(item);
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: Value + fmt::Debug>(text: &str) -> String {
        T::parse(text).map_or_else(|error| error.to_string(), |value| format!("taken: {value:?}"))
    }

    #[test]
    fn values_read_back_as_they_are_written() {
        for text in ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "fe80::1", "::/0"] {
            assert_eq!(Prefix::parse(text).map(|prefix| prefix.to_string()), Ok(text.to_owned()));
        }
        for text in ["any", "10.0.0.0/8", "web", "2001:db8::1"] {
            assert_eq!(Remote::parse(text).map(|remote| remote.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(PortRange::parse("80-80").map(|range| range.to_string()), Ok("80".to_owned()));
        assert_eq!(Protocol::parse("6").map(|protocol| protocol.to_string()), Ok("tcp".to_owned()));
        let pairs = "02:00:00:00:00:01 10.0.0.1,02:00:00:00:00:02";
        assert_eq!(Pairs::parse(pairs).map(|pairs| pairs.to_string()), Ok(pairs.to_owned()));
    }

    #[test]
    fn what_is_wrong_is_told_in_one_line() {
        assert_eq!(
            refused::<PortRange>("90-80"),
            "'90-80' is not a range of ports: the first is above the last"
        );
        assert_eq!(refused::<PortRange>("1-70000"), "70000 is out of range: 0 to 65535");
        assert_eq!(
            refused::<Prefix>("10.0.0.5/24"),
            "'10.0.0.5/24' is not a network: bits beyond its length are set: expected 10.0.0.0/24, or the address without a length"
        );
        assert_eq!(refused::<Prefix>("10.0.0.0/33"), "33 is out of range: 0 to 32");
        assert!(refused::<GroupName>("10.0.0.1").starts_with("'10.0.0.1' is not the name of a group"));
        assert!(refused::<Protocol>("tpc").contains("any, tcp, udp, icmp, icmpv6, sctp, or 0 to 255"));
    }
}
