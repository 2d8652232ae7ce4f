//! Single values: text or a number becomes a type whose illegal values can't exist.
//!
//! Every scalar of the configuration is read by one path, `scalar` or `optional`: the number, boolean or string of
//! TOML or JSON is taken as text and parsed by the type's [`Value`]. So `vlan = 10`, `vlan = "10"` and the command
//! line's `vlan=10` mean the same and fail with the same message, which has the bad value and the legal range.

use std::fmt;
use std::marker::PhantomData;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::de::{Deserializer, Error as _, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use weft_wire::mac::InvalidMac;
use weft_wire::port::InvalidPortName;
use weft_wire::tunnel::{InvalidTunnelKey, UnknownTunnelKind};
use weft_wire::vlan::InvalidVid;
use weft_wire::{Mac, OfPort, PortName, TunnelKey, TunnelKind, Vid};

use crate::acl::Prefix;

/// A value that its key does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a number, or one out of range.
    #[error("{value} is out of range: {min} to {max}")]
    Number {
        /// What was given.
        value: Quoted,
        /// The smallest legal number.
        min: u64,
        /// The largest legal number.
        max: u64,
    },
    /// Not one of the words that the key takes.
    #[error("{value} is not {legal}")]
    Word {
        /// What was given.
        value: Quoted,
        /// The words, as in "yes or no".
        legal: &'static str,
    },
    /// A network of which bits beyond its length are set.
    #[error(
        "{value} is not a network: bits beyond its length are set: expected {network}, or the address without a length"
    )]
    HostBits {
        /// What was given.
        value: Quoted,
        /// The network that the address is in.
        network: Prefix,
    },
    /// A list or range of numbers that is none.
    #[error("{value} is not a list of numbers and ranges: expected all, or as in 10,20-29, each 0 to {max}")]
    Set {
        /// The part that is wrong.
        value: Quoted,
        /// The largest legal number.
        max: u32,
    },
    /// Not a VLAN identifier.
    #[error(transparent)]
    Vid(#[from] InvalidVid),
    /// Not an Ethernet address.
    #[error(transparent)]
    Mac(#[from] InvalidMac),
    /// Not a name for a port or bridge.
    #[error(transparent)]
    Name(#[from] InvalidPortName),
    /// Not a kind of tunnel.
    #[error(transparent)]
    Kind(#[from] UnknownTunnelKind),
    /// Not a tunnel key.
    #[error(transparent)]
    Key(#[from] InvalidTunnelKey),
}

/// What somebody wrote, for an error message: cut to 40 characters, control characters escaped, numbers bare and
/// everything else in quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted(String);

impl Quoted {
    /// Takes a copy of at most 40 characters.
    pub fn new(text: &str) -> Self {
        Quoted(text.chars().take(40).collect())
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.parse::<f64>() {
            Ok(_) => out.write_str(&self.0),
            Err(_) => write!(out, "'{}'", self.0.escape_debug()),
        }
    }
}

/// A type that one word of configuration text stands for.
pub trait Value: Sized {
    /// Reads the text as a file or a command line has it.
    fn parse(text: &str) -> Result<Self, ValueError>;
}

macro_rules! value_by_from_str {
    ($($type:ty),+) => {
        $(impl Value for $type {
            fn parse(text: &str) -> Result<Self, ValueError> {
                Ok(text.parse()?)
            }
        })+
    };
}
value_by_from_str!(Vid, Mac, PortName, TunnelKind);

/// Words that stand for the variants of an enum: its `Value`, `Display`, `Serialize` and `Deserialize`.
macro_rules! words {
    ($type:ident, $legal:literal, $($word:literal => $variant:ident),+ $(; $($alias:literal => $same:ident),+)?) => {
        impl $crate::value::Value for $type {
            fn parse(text: &str) -> Result<Self, $crate::value::ValueError> {
                match text {
                    $($word => Ok($type::$variant),)+
                    $($($alias => Ok($type::$same),)+)?
                    _ => Err($crate::value::ValueError::Word { value: $crate::value::Quoted::new(text), legal: $legal }),
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.pad(match self { $($type::$variant => $word,)+ })
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $crate::value::scalar(from)
            }
        }
    };
}
pub(crate) use words;

impl Value for bool {
    fn parse(text: &str) -> Result<Self, ValueError> {
        match text {
            "true" | "yes" | "on" => Ok(true),
            "false" | "no" | "off" => Ok(false),
            _ => Err(ValueError::Word { value: Quoted::new(text), legal: "true or false" }),
        }
    }
}

impl Value for Ipv4Addr {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let legal = "an IPv4 address, as in 192.0.2.1";
        text.parse().map_err(|_| ValueError::Word { value: Quoted::new(text), legal })
    }
}

impl Value for PathBuf {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let legal = "the absolute path of a file";
        let clean = text.starts_with('/') && !text.contains(char::is_control);
        if clean { Ok(text.into()) } else { Err(ValueError::Word { value: Quoted::new(text), legal }) }
    }
}

impl Value for OfPort {
    fn parse(text: &str) -> Result<Self, ValueError> {
        number(text, 1, u32::from(OfPort::MAX.0)).map(|number| OfPort(number as u16))
    }
}

impl Value for TunnelKey {
    /// The range of GRE; the tunnel's kind may narrow it.
    fn parse(text: &str) -> Result<Self, ValueError> {
        number(text, 0, u32::MAX).map(TunnelKey)
    }
}

/// A VNI of a VLAN-to-VNI map: 24 bits.
pub(crate) fn vni(text: &str) -> Result<TunnelKey, ValueError> {
    number(text, 0, TunnelKind::Vxlan.max_key()).map(TunnelKey)
}

/// A decimal number from `min` to `max`.
pub(crate) fn number(text: &str, min: u32, max: u32) -> Result<u32, ValueError> {
    let digits = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|value| digits && (min..=max).contains(value))
        .ok_or_else(|| ValueError::Number { value: Quoted::new(text), min: min.into(), max: max.into() })
}

/// A number from `MIN` to `MAX`, `DEFAULT` when nothing is said.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(transparent)]
pub struct Bounded<const MIN: u32, const MAX: u32, const DEFAULT: u32>(u32);

impl<const MIN: u32, const MAX: u32, const DEFAULT: u32> Bounded<MIN, MAX, DEFAULT> {
    /// Checks the range.
    pub fn new(value: u32) -> Result<Self, ValueError> {
        Self::parse(&value.to_string())
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32, const DEFAULT: u32> Default for Bounded<MIN, MAX, DEFAULT> {
    fn default() -> Self {
        const { assert!(MIN <= DEFAULT && DEFAULT <= MAX) };
        Bounded(DEFAULT)
    }
}

impl<const MIN: u32, const MAX: u32, const DEFAULT: u32> Value for Bounded<MIN, MAX, DEFAULT> {
    fn parse(text: &str) -> Result<Self, ValueError> {
        number(text, MIN, MAX).map(Bounded)
    }
}

impl<const MIN: u32, const MAX: u32, const DEFAULT: u32> fmt::Display for Bounded<MIN, MAX, DEFAULT> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl<'de, const MIN: u32, const MAX: u32, const DEFAULT: u32> Deserialize<'de>
    for Bounded<MIN, MAX, DEFAULT>
{
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from)
    }
}

/// The name of a network namespace, as `ip netns` has it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct Netns(String);

impl Netns {
    /// The name: a file of `/run/netns`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for Netns {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let graphic = text.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'/');
        if graphic && (1..=255).contains(&text.len()) && text != "." && text != ".." {
            return Ok(Netns(text.to_owned()));
        }
        let legal = "the name of a network namespace: 1 to 255 printable ASCII characters without '/'";
        Err(ValueError::Word { value: Quoted::new(text), legal })
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&self.0)
    }
}

/// Numbers from 0 to `MAX`, written `10,20-29`; the empty set stands for all of them and is written `all`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct NumberSet<const MAX: u32> {
    /// First and last, ascending, never touching one another.
    ranges: Vec<(u32, u32)>,
}

impl<const MAX: u32> NumberSet<MAX> {
    /// Whether every number is in it.
    pub fn is_all(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether `number` is in it.
    pub fn contains(&self, number: u32) -> bool {
        let after = self.ranges.partition_point(|&(first, _)| first <= number);
        self.is_all() || self.ranges[..after].last().is_some_and(|&(_, last)| number <= last)
    }

    /// First and last number of each range, ascending; `(0, MAX)` for all.
    pub fn ranges(&self) -> Vec<(u32, u32)> {
        if self.is_all() { vec![(0, MAX)] } else { self.ranges.clone() }
    }

    fn from_ranges(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        if merged == [(0, MAX)] { NumberSet::default() } else { NumberSet { ranges: merged } }
    }

    fn parse_range(text: &str) -> Result<(u32, u32), ValueError> {
        let wrong = || ValueError::Set { value: Quoted::new(text), max: MAX };
        let bound = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
            if digits { number(text, 0, MAX) } else { Err(wrong()) }
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (bound(first.trim())?, bound(last.trim())?);
        if first <= last { Ok((first, last)) } else { Err(wrong()) }
    }
}

impl<const MAX: u32> Value for NumberSet<MAX> {
    fn parse(text: &str) -> Result<Self, ValueError> {
        if text == "all" {
            return Ok(NumberSet::default());
        }
        let ranges = text.split(',').map(|part| Self::parse_range(part.trim()));
        ranges.collect::<Result<Vec<_>, _>>().map(Self::from_ranges)
    }
}

impl<const MAX: u32> fmt::Display for NumberSet<MAX> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return out.write_str("all");
        }
        for (index, &(first, last)) in self.ranges.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match last - first {
                0 => write!(out, "{comma}{first}")?,
                _ => write!(out, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl<const MAX: u32> Serialize for NumberSet<MAX> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de, const MAX: u32> Deserialize<'de> for NumberSet<MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Scalar::<Self, true>(PhantomData))
    }
}

/// Reads one `T` from a string, number or boolean.
pub(crate) fn scalar<'de, D: Deserializer<'de>, T: Value>(from: D) -> Result<T, D::Error> {
    from.deserialize_any(Scalar::<T, false>(PhantomData))
}

/// Like [`scalar`]; null and the empty string are nothing.
pub(crate) fn optional<'de, D: Deserializer<'de>, T: Value>(from: D) -> Result<Option<T>, D::Error> {
    scalar::<D, Maybe<T>>(from).map(|value| value.0)
}

struct Maybe<T>(Option<T>);

impl<T: Value> Value for Maybe<T> {
    fn parse(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() { Ok(Maybe(None)) } else { T::parse(text).map(|value| Maybe(Some(value))) }
    }
}

/// Hands every kind of scalar to [`Value::parse`] as text. For a type that may be written as a `LIST`, a sequence is
/// joined by commas.
struct Scalar<T, const LIST: bool>(PhantomData<T>);

impl<'de, T: Value, const LIST: bool> Visitor<'de> for Scalar<T, LIST> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a single value")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        T::parse(text).map_err(E::custom)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<T, E> {
        self.visit_str(if value { "true" } else { "false" })
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<T, E> {
        self.visit_str("")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<T, A::Error> {
        if !LIST {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        }
        let mut parts: Vec<String> = Vec::new();
        while let Some(Text(part)) = items.next_element()? {
            parts.push(part);
        }
        T::parse(&parts.join(",")).map_err(A::Error::custom)
    }
}

/// Any scalar, as text.
struct Text(String);

impl Value for Text {
    fn parse(text: &str) -> Result<Self, ValueError> {
        Ok(Text(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from)
    }
}

/// For `skip_serializing_if`: what is as by default is not written.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Trunks = NumberSet<4095>;

    #[test]
    fn a_set_of_vlans_is_normalised_and_reads_back() {
        let set = Trunks::parse("20-29, 10,30,5-5,11").unwrap();
        assert_eq!(set.to_string(), "5,10-11,20-30");
        assert_eq!(Trunks::parse(&set.to_string()), Ok(set.clone()));
        let members: Vec<u32> = (0..=4095).filter(|&vid| set.contains(vid)).collect();
        assert_eq!(members, [&[5, 10, 11][..], &(20..=30).collect::<Vec<_>>()].concat());
        assert!(Trunks::parse("all").unwrap().contains(4095));
        assert!(Trunks::parse("0-4095").unwrap().is_all());
    }

    #[test]
    fn a_bad_set_is_refused_with_its_part_and_range() {
        for text in ["", "10,", "4096", "9-3", "a", "1-2-3", "-1", "+1", "10,5000"] {
            let error = Trunks::parse(text).unwrap_err().to_string();
            assert!(error.contains("0 to 4095"), "{text}: {error}");
        }
    }

    #[test]
    fn numbers_are_bounded_and_quoted() {
        type Ttl = Bounded<1, 255, 64>;
        assert_eq!(Ttl::default().get(), 64);
        assert_eq!(Ttl::parse("0").unwrap_err().to_string(), "0 is out of range: 1 to 255");
        assert_eq!(Ttl::parse("+1").unwrap_err().to_string(), "+1 is out of range: 1 to 255");
        assert_eq!(
            Ttl::parse("99999999999999999999").unwrap_err().to_string(),
            "99999999999999999999 is out of range: 1 to 255"
        );
        assert_eq!(Ttl::parse("x\n").unwrap_err().to_string(), "'x\\n' is out of range: 1 to 255");
    }
}
