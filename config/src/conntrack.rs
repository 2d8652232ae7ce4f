//! `[conntrack]`: how many connections there may be, and how long each lives without a packet.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::validate::{Invalid, KeyPath, Problem};
use crate::value::{Bounded, Quoted, Value, ValueError, is_default, number, optional, scalar};

/// Connections of the whole switch.
pub type MaxConnections = Bounded<1, 67_108_864, 4_000_000>;
/// Seconds without a packet.
pub type Seconds = Bounded<1, 31_536_000, 30>;

/// How many connections a zone may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// As many as there are.
    Unlimited,
    /// So many.
    AtMost(u32),
}

impl Value for Limit {
    fn parse(text: &str) -> Result<Self, ValueError> {
        if text == "unlimited" {
            return Ok(Limit::Unlimited);
        }
        let legal = "unlimited, or a number: 1 to 67108864";
        let wrong = || ValueError::Word { value: Quoted::new(text), legal };
        number(text, 1, 67_108_864).map(Limit::AtMost).map_err(|_| wrong())
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Unlimited => out.write_str("unlimited"),
            Limit::AtMost(limit) => limit.fmt(out),
        }
    }
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Limit::Unlimited => out.serialize_str("unlimited"),
            Limit::AtMost(limit) => out.serialize_u32(*limit),
        }
    }
}

/// A struct that has all timeouts between its first and its last fields.
macro_rules! with_timeouts {
    ($(#[$about:meta])* $name:ident { $($(#[$first_meta:meta])* $first:ident: $first_type:ty,)* }
     then { $($(#[$last_meta:meta])* $last:ident: $last_type:ty,)* }) => {
        $(#[$about])*
        #[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(missing_docs, reason = "timeouts: what keys.rs says of the key")]
        pub struct $name {
            $($(#[$first_meta])* pub $first: $first_type,)*
            #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
            pub tcp_syn_sent: Option<Seconds>,
            #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
            pub tcp_syn_recv: Option<Seconds>,
            #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
            pub tcp_established: Option<Seconds>,
            #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
            pub tcp_fin_wait: Option<Seconds>,
            #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
            pub tcp_time_wait: Option<Seconds>,
            #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
            pub tcp_close: Option<Seconds>,
            #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
            pub udp_first: Option<Seconds>,
            #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
            pub udp_single: Option<Seconds>,
            #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
            pub udp_multiple: Option<Seconds>,
            #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
            pub icmp_first: Option<Seconds>,
            #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
            pub icmp_reply: Option<Seconds>,
            $($(#[$last_meta])* pub $last: $last_type,)*
        }

        impl $name {
            /// The timeouts that are set, by name, in the order of [`TIMEOUTS`].
            pub fn timeouts(&self) -> [(&'static str, Option<u32>); TIMEOUTS.len()] {
                let all = [
                    self.tcp_syn_sent,
                    self.tcp_syn_recv,
                    self.tcp_established,
                    self.tcp_fin_wait,
                    self.tcp_time_wait,
                    self.tcp_close,
                    self.udp_first,
                    self.udp_single,
                    self.udp_multiple,
                    self.icmp_first,
                    self.icmp_reply,
                ];
                let mut named = TIMEOUTS.map(|name| (name, None));
                named.iter_mut().zip(all).for_each(|(place, seconds)| place.1 = seconds.map(Bounded::get));
                named
            }
        }
    };
}

/// The names of timeouts, as in Open vSwitch's `CT_Timeout_Policy` (ovs-vswitchd.conf.db(5)).
pub const TIMEOUTS: [&str; 11] = [
    "tcp_syn_sent",
    "tcp_syn_recv",
    "tcp_established",
    "tcp_fin_wait",
    "tcp_time_wait",
    "tcp_close",
    "udp_first",
    "udp_single",
    "udp_multiple",
    "icmp_first",
    "icmp_reply",
];

with_timeouts! {
    /// `[conntrack]`: what holds for all zones that don't say otherwise.
    Conntrack {
        /// Connections of the whole switch. Takes effect when the switch starts.
        #[serde(default, skip_serializing_if = "is_default")]
        max: MaxConnections,
        /// Connections of a zone.
        #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
        limit: Option<Limit>,
        /// TCP segments outside of their windows are valid, too (the kernel's `nf_conntrack_tcp_be_liberal`).
        #[serde(default, deserialize_with = "scalar", skip_serializing_if = "is_default")]
        tcp_be_liberal: bool,
    } then {
        /// Zones that have settings of their own, by number.
        #[serde(rename = "zone", default, skip_serializing_if = "Vec::is_empty")]
        zones: Vec<Zone>,
    }
}

with_timeouts! {
    /// `[[conntrack.zone]]`: what is otherwise in one zone.
    Zone {
        /// Its number.
        #[serde(deserialize_with = "scalar")]
        id: ZoneId,
        /// Connections of the zone.
        #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
        limit: Option<Limit>,
    } then {}
}

/// The number of a zone.
pub type ZoneId = Bounded<0, 65_535, 0>;

impl Conntrack {
    /// The settings of a zone, for them to be changed.
    pub(crate) fn zone_mut(&mut self, id: ZoneId) -> &mut Zone {
        let at = match self.zones.iter().position(|zone| zone.id == id) {
            Some(at) => at,
            None => {
                self.zones.push(Zone { id, ..Zone::default() });
                self.zones.len() - 1
            }
        };
        &mut self.zones[at]
    }

    /// Zones without settings go; the others stand by number.
    pub(crate) fn tidy(&mut self) {
        self.zones.retain(|zone| *zone != Zone { id: zone.id, ..Zone::default() });
        self.zones.sort_by_key(|zone| zone.id);
    }

    /// Whether each zone is there once.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        for (index, zone) in self.zones.iter().enumerate() {
            if self.zones.iter().take(index).any(|other| other.id == zone.id) {
                let at = KeyPath::default().key("conntrack").item("zone", index, &zone.id).key("id");
                return Err(Invalid { at, problem: Problem::ZoneTwice { zone: zone.id.get() } });
            }
        }
        Ok(())
    }
}
