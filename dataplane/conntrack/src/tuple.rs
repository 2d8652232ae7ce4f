//! What names a connection in one direction: addresses, ports, protocol.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// IP protocol numbers that are tracked by more than their addresses.
pub mod protocol {
    /// ICMP
    pub const ICMP: u8 = 1;
    /// TCP
    pub const TCP: u8 = 6;
    /// UDP
    pub const UDP: u8 = 17;
    /// ICMPv6
    pub const ICMPV6: u8 = 58;
}

/// The version of IP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Family {
    /// IPv4: an address is in the low 32 bits.
    #[default]
    V4 = 0,
    /// IPv6
    V6 = 1,
}

/// One direction of a connection, as a packet shows it.
///
/// Protocols without ports have zeros there. An ICMP or ICMPv6 query has its identifier in `src_port` and
/// `type << 8 | code` in `dst_port` ([`Tuple::icmp`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Tuple {
    /// Source address; IPv4 in the low 32 bits.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
    /// Source port, or an ICMP query's identifier.
    pub src_port: u16,
    /// Destination port, or an ICMP message's type and code.
    pub dst_port: u16,
    /// IP protocol (the upper-layer one of IPv6).
    pub protocol: u8,
    /// Version of IP.
    pub family: Family,
}

impl Tuple {
    /// `dst_port` of an ICMP or ICMPv6 message.
    #[inline]
    pub const fn icmp(kind: u8, code: u8) -> u16 {
        (kind as u16) << 8 | code as u16
    }

    /// Whether this is ICMP over IPv4 or ICMPv6 over IPv6.
    #[inline]
    pub const fn is_icmp(&self) -> bool {
        match self.family {
            Family::V4 => self.protocol == protocol::ICMP,
            Family::V6 => self.protocol == protocol::ICMPV6,
        }
    }

    /// Whether it has ports that a translation may change: TCP and UDP.
    #[inline]
    pub const fn has_ports(&self) -> bool {
        matches!(self.protocol, protocol::TCP | protocol::UDP)
    }

    /// The ICMP type, if it is ICMP.
    #[inline]
    pub const fn icmp_type(&self) -> u8 {
        (self.dst_port >> 8) as u8
    }

    /// The tuple of an answer: the ends change places, and an ICMP query becomes its reply.
    #[inline]
    pub fn reversed(&self) -> Tuple {
        let turned = Tuple { src: self.dst, dst: self.src, ..*self };
        if !self.is_icmp() {
            return Tuple { src_port: self.dst_port, dst_port: self.src_port, ..turned };
        }
        let kind = answer(self.family, self.icmp_type()).unwrap_or(self.icmp_type());
        Tuple { dst_port: Tuple::icmp(kind, self.dst_port as u8), ..turned }
    }

    /// Whether a packet like this belongs to a connection of its own: ports are not 0, an ICMP message is a query or
    /// the reply to one, with code 0 (Open vSwitch, conntrack.c: `extract_l4`).
    pub fn is_trackable(&self) -> bool {
        if self.is_icmp() {
            answer(self.family, self.icmp_type()).is_some() && self.dst_port & 0xff == 0
        } else {
            !self.has_ports() || (self.src_port != 0 && self.dst_port != 0)
        }
    }

    /// Whether an ICMP message is a query that may begin a connection: echo, timestamp and information requests of
    /// RFC 792, the echo request of RFC 4443.
    pub fn is_query(&self) -> bool {
        match self.family {
            Family::V4 => matches!(self.icmp_type(), 8 | 13 | 15),
            Family::V6 => self.icmp_type() == 128,
        }
    }
}

/// The ICMP type that answers a type, and the other way round.
fn answer(family: Family, kind: u8) -> Option<u8> {
    Some(match (family, kind) {
        (Family::V4, 8) => 0,
        (Family::V4, 0) => 8,
        (Family::V4, 13) => 14,
        (Family::V4, 14) => 13,
        (Family::V4, 15) => 16,
        (Family::V4, 16) => 15,
        (Family::V6, 128) => 129,
        (Family::V6, 129) => 128,
        _ => return None,
    })
}

impl fmt::Display for Tuple {
    /// As Open vSwitch's `dump-conntrack`: `src=..,dst=..,sport=..,dport=..`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.family {
            Family::V4 => {
                let (src, dst) = (Ipv4Addr::from(self.src as u32), Ipv4Addr::from(self.dst as u32));
                write!(out, "src={src},dst={dst}")?;
            }
            Family::V6 => write!(out, "src={},dst={}", Ipv6Addr::from(self.src), Ipv6Addr::from(self.dst))?,
        }
        if self.is_icmp() {
            write!(out, ",id={},type={},code={}", self.src_port, self.icmp_type(), self.dst_port & 0xff)
        } else if self.src_port != 0 || self.dst_port != 0 {
            write!(out, ",sport={},dport={}", self.src_port, self.dst_port)
        } else {
            Ok(())
        }
    }
}

/// A tuple of which some parts are given: what a listing or a flush asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Partial {
    /// Source address.
    pub src: Option<u128>,
    /// Destination address.
    pub dst: Option<u128>,
    /// Source port, or ICMP identifier.
    pub src_port: Option<u16>,
    /// Destination port, or ICMP type and code.
    pub dst_port: Option<u16>,
    /// IP protocol.
    pub protocol: Option<u8>,
    /// Version of IP.
    pub family: Option<Family>,
}

impl Partial {
    /// Whether every part that is given is the tuple's.
    pub fn covers(&self, tuple: &Tuple) -> bool {
        fn same<T: PartialEq>(wanted: Option<T>, is: T) -> bool {
            wanted.is_none_or(|wanted| wanted == is)
        }
        same(self.src, tuple.src)
            && same(self.dst, tuple.dst)
            && same(self.src_port, tuple.src_port)
            && same(self.dst_port, tuple.dst_port)
            && same(self.protocol, tuple.protocol)
            && same(self.family, tuple.family)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuple_reversed_twice_is_itself_and_a_query_becomes_its_reply() {
        let udp = Tuple { src: 1, dst: 2, src_port: 3, dst_port: 4, protocol: 17, family: Family::V4 };
        assert_eq!(udp.reversed(), Tuple { src: 2, dst: 1, src_port: 4, dst_port: 3, ..udp });
        let ping = Tuple { src_port: 77, dst_port: Tuple::icmp(8, 0), protocol: 1, ..udp };
        let pong = ping.reversed();
        assert_eq!((pong.src, pong.src_port, pong.icmp_type()), (2, 77, 0));
        assert_eq!((udp.reversed().reversed(), pong.reversed()), (udp, ping));
        assert!(ping.is_query() && !pong.is_query() && pong.is_trackable());
    }

    #[test]
    fn port_zero_and_neighbour_discovery_are_not_tracked() {
        let tcp = Tuple { src: 1, dst: 2, src_port: 0, dst_port: 4, protocol: 6, family: Family::V6 };
        assert!(!tcp.is_trackable());
        assert!(!Tuple { protocol: 58, dst_port: Tuple::icmp(135, 0), ..tcp }.is_trackable());
        assert!(!Tuple { protocol: 58, dst_port: Tuple::icmp(128, 1), ..tcp }.is_trackable());
        assert!(Tuple { protocol: 47, dst_port: 0, ..tcp }.is_trackable());
    }

    #[test]
    fn a_tuple_is_written_as_open_vswitch_writes_it() {
        let tcp = Tuple {
            src: 0x0a000001,
            dst: 0x0a000002,
            src_port: 1,
            dst_port: 80,
            protocol: 6,
            family: Family::V4,
        };
        assert_eq!(tcp.to_string(), "src=10.0.0.1,dst=10.0.0.2,sport=1,dport=80");
    }
}
