//! Connections over the control protocol: listing, flushing, counting; what limits and timeouts hold.
//!
//! Limits and timeouts are configuration: they are set as that is ([`Change::ConntrackSet`](crate::Change)).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::de::Deserializer;
use serde::{Deserialize, Serialize, Serializer};

use crate::value::{Quoted, Value, ValueError, optional, scalar};

/// What a client asks about connections.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ConntrackOp {
    /// [`ConntrackReply::Connections`]
    List {
        /// Which.
        #[serde(default)]
        filter: ConntrackFilter,
        /// At most so many.
        limit: u32,
        /// Where to begin: 0, or what the answer before said as `next`.
        #[serde(default, skip_serializing_if = "is_zero")]
        from: u64,
    },
    /// Ends connections: [`ConntrackReply::Flushed`].
    Flush {
        /// Which.
        #[serde(default)]
        filter: ConntrackFilter,
    },
    /// [`ConntrackReply::Counted`]
    Count {
        /// Which.
        #[serde(default)]
        filter: ConntrackFilter,
    },
    /// [`ConntrackReply::Limits`]
    Limits,
    /// [`ConntrackReply::Timeouts`]
    Timeouts,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Which connections: those that fit everything that is said.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ConntrackFilter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<u16>,
    /// IP protocol.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub proto: Option<Protocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sport: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dport: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_src: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_dst: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_sport: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_dport: Option<u16>,
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub mark: Option<Bits>,
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub label: Option<Bits>,
}

impl ConntrackFilter {
    /// Its keys.
    pub const KEYS: [&'static str; 12] = [
        "zone",
        "proto",
        "src",
        "dst",
        "sport",
        "dport",
        "reply_src",
        "reply_dst",
        "reply_sport",
        "reply_dport",
        "mark",
        "label",
    ];
}

/// An IP protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Protocol(pub u8);

/// Protocols with a name.
const PROTOCOLS: [(u8, &str); 7] =
    [(1, "icmp"), (2, "igmp"), (6, "tcp"), (17, "udp"), (33, "dccp"), (58, "icmpv6"), (132, "sctp")];

impl Value for Protocol {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let named = PROTOCOLS.iter().find(|(_, name)| *name == text).map(|(number, _)| *number);
        let legal = "an IP protocol: tcp, udp, icmp, icmpv6, sctp, dccp, igmp, or 0 to 255";
        let wrong = || ValueError::Word { value: Quoted::new(text), legal };
        named.or_else(|| text.parse().ok()).map(Protocol).ok_or_else(wrong)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOCOLS.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => out.write_str(name),
            None => self.0.fmt(out),
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

/// A value of some bits: `5`, `0x5/0xff`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bits {
    /// The value.
    pub value: u128,
    /// Which bits of it count.
    pub mask: u128,
}

impl Value for Bits {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(digits) => u128::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        let (value, mask) = text.split_once('/').map_or((text, None), |(value, mask)| (value, Some(mask)));
        let bits = number(value).zip(mask.map_or(Some(u128::MAX), number));
        let legal = "a number or VALUE/MASK, as in 5 or 0x5/0xff";
        bits.map(|(value, mask)| Bits { value, mask })
            .ok_or_else(|| ValueError::Word { value: Quoted::new(text), legal })
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:#x}", self.value)?;
        if self.mask == u128::MAX { Ok(()) } else { write!(out, "/{:#x}", self.mask) }
    }
}

impl Serialize for Bits {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bits {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        scalar(from)
    }
}

/// What the switch answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConntrackReply {
    /// In no order.
    Connections {
        /// One each.
        connections: Vec<ConnectionStatus>,
        /// How many more there are than were asked for.
        more: u64,
        /// These are not all that were asked for: where the rest begins.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<u64>,
    },
    /// That many are gone.
    Flushed {
        /// How many.
        connections: u64,
    },
    /// How many there are.
    Counted(ConntrackCount),
    /// How many there may be.
    Limits {
        /// All zones together.
        max: u32,
        /// Zones that don't say otherwise; no limit without one.
        default: Option<u32>,
        /// Zones that have connections or settings.
        zones: Vec<ZoneLimitStatus>,
    },
    /// Seconds without a packet, by name.
    Timeouts {
        /// Zones that don't say otherwise.
        default: BTreeMap<String, u32>,
        /// Zones that do.
        zones: Vec<ZoneTimeouts>,
    },
}

/// A connection.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// The connection as `ovs-appctl dpctl/dump-conntrack` prints it.
    pub text: String,
    /// IP protocol, by name or number.
    pub proto: String,
    /// Zone.
    pub zone: u16,
    /// What began it.
    pub original: TupleStatus,
    /// Its replies.
    pub reply: TupleStatus,
    /// TCP's state: of the end that is further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// `ct_mark`
    pub mark: u32,
    /// `ct_label`, in hexadecimal digits.
    pub label: String,
    /// `src` or `dst`: what is translated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<String>,
    /// `ftp` or `tftp`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<String>,
    /// What began the connection that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TupleStatus>,
    /// Seconds until it ends if nothing comes.
    pub left_s: u32,
}

/// One direction of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TupleStatus {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port; an ICMP query's identifier.
    pub sport: u16,
    /// Destination port; ICMP's type and code, as type * 256 + code.
    pub dport: u16,
}

impl Default for TupleStatus {
    fn default() -> Self {
        let none = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        TupleStatus { src: none, dst: none, sport: 0, dport: 0 }
    }
}

/// How many connections there are, and what became of others.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConntrackCount {
    /// Those that fit the filter.
    pub connections: u64,
    /// Of each zone that has some of them.
    pub zones: Vec<ZoneCount>,
    /// Since the switch has started, by name: created, expired, flushed, refused_full, ...
    pub totals: BTreeMap<String, u64>,
}

/// A zone's connections.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ZoneCount {
    /// Its number.
    pub zone: u16,
    /// How many it has.
    pub connections: u64,
}

/// A zone's timeouts.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ZoneTimeouts {
    /// Its number.
    pub zone: u16,
    /// Seconds without a packet, by name: all of them.
    pub seconds: BTreeMap<String, u32>,
}

/// A zone's limit.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ZoneLimitStatus {
    /// Its number.
    pub zone: u16,
    /// How many connections it has.
    pub connections: u32,
    /// How many it may have; no limit without one.
    pub limit: Option<u32>,
    /// The limit is its own, not the default.
    pub own: bool,
    /// How many connections it has refused because of its limit.
    #[serde(default)]
    pub refused: u64,
}
