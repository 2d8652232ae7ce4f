//! What is known of a packet where an action runs: what the rule's match says, and what the actions before did to it.
//!
//! Prerequisites are those of ovs-fields(7), and are judged as Open vSwitch judges them: by what the match says of
//! EtherType, protocol, VLAN tags and connection, whether or not it says it with a mask.

use weft_wire::Tci;

use crate::field::{Field, Prerequisite, Subfield};
use crate::fields::Fields;
use crate::matching::Match;

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
const IPV6: u16 = 0x86dd;
const MPLS: u16 = 0x8847;
const MPLS_MULTICAST: u16 = 0x8848;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

const CT_INVALID: u16 = 0x10;
const CT_TRACKED: u16 = 0x20;
/// new, est, rel, rpl, snat, dnat: each says that there is a connection.
const CT_CONNECTED: u16 = 0xcf;
/// new, est, rpl: what a packet of a connection has.
const CT_SEEN: u16 = 0x0b;

/// See the module's text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Context {
    pub eth_type: u16,
    pub proto: u8,
    /// The match selects later fragments, which have no transport header.
    pub later: bool,
    /// Outer and inner VLAN tag.
    pub tags: [u16; 2],
    /// ICMPv6 type and code.
    icmp: (u8, u8),
    pub ct_state: (u16, u16),
    /// Not an Ethernet frame.
    foreign: bool,
}

impl Context {
    /// What a match says.
    pub fn of(matches: &Match) -> Context {
        Context::of_values(&matches.mask(), &matches.value())
    }

    /// What values under a mask say.
    pub fn of_values(mask: &Fields, value: &Fields) -> Context {
        let get = |field| Subfield::whole(field).get(value);
        let packet_type = get(Field::PacketType) as u32;
        let eth_type = get(Field::EthType) as u16;
        Context {
            eth_type: if packet_type >> 16 == 1 { packet_type as u16 } else { eth_type },
            proto: get(Field::NwProto) as u8,
            later: get(Field::IpFrag) & 2 != 0,
            tags: [get(Field::VlanTci) as u16, get(Field::InnerVlanTci) as u16],
            icmp: (get(Field::Icmpv6Type) as u8, get(Field::Icmpv6Code) as u8),
            ct_state: (get(Field::CtState) as u16, Subfield::whole(Field::CtState).get(mask) as u16),
            foreign: packet_type != 0,
        }
    }

    /// Whether the prerequisite is met in a match.
    pub fn has(&self, needs: Prerequisite) -> bool {
        match needs {
            Prerequisite::None => true,
            Prerequisite::Ethernet => !self.foreign,
            Prerequisite::Vlan => self.tagged(),
            Prerequisite::Mpls => self.is_mpls(),
            Prerequisite::Arp => matches!(self.eth_type, ARP | RARP),
            Prerequisite::Ipv4 => self.eth_type == IPV4,
            Prerequisite::Ipv6 => self.eth_type == IPV6,
            Prerequisite::Ip => self.is_ip(),
            Prerequisite::Tcp => self.has_transport(TCP),
            Prerequisite::Udp => self.has_transport(UDP),
            Prerequisite::Sctp => self.has_transport(SCTP),
            Prerequisite::Icmp4 => self.eth_type == IPV4 && self.proto == ICMP,
            Prerequisite::Icmp6 => self.eth_type == IPV6 && self.proto == ICMP6,
            Prerequisite::Nd => self.is_nd(&[135, 136]),
            Prerequisite::NdSolicit => self.is_nd(&[135]),
            Prerequisite::NdAdvert => self.is_nd(&[136]),
            Prerequisite::Ct => self.is_tracked(),
        }
    }

    /// Whether a field can be read.
    pub fn reads(&self, field: Field) -> bool {
        // Of the connection's addresses, those of the packet's own kind exist.
        let same_kind = match field {
            Field::CtNwSrc | Field::CtNwDst => self.eth_type == IPV4,
            Field::CtIpv6Src | Field::CtIpv6Dst => self.eth_type == IPV6,
            _ => true,
        };
        self.has(field.info().prerequisite) && same_kind
    }

    /// Whether `set_field` can write a field: a VLAN identifier is only set in a tag that is there.
    pub fn sets(&self, field: Field) -> bool {
        let needs = field.info().prerequisite;
        let met = if needs == Prerequisite::Ct { self.ct_state.0 & CT_SEEN != 0 } else { self.has(needs) };
        met && (field != Field::VlanVid || self.tagged())
    }

    /// A tag is there.
    pub fn tagged(&self) -> bool {
        Tci(self.tags[0]).is_tagged()
    }

    pub fn is_ip(&self) -> bool {
        matches!(self.eth_type, IPV4 | IPV6)
    }

    pub fn is_ipv4(&self) -> bool {
        self.eth_type == IPV4
    }

    pub fn is_ipv6(&self) -> bool {
        self.eth_type == IPV6
    }

    pub fn is_mpls(&self) -> bool {
        matches!(self.eth_type, MPLS | MPLS_MULTICAST)
    }

    pub fn is_ethernet(&self) -> bool {
        !self.foreign
    }

    /// Ports are there.
    pub fn has_ports(&self) -> bool {
        [TCP, UDP, SCTP].iter().any(|proto| self.has_transport(*proto))
    }

    fn has_transport(&self, proto: u8) -> bool {
        self.is_ip() && self.proto == proto && !self.later
    }

    fn is_nd(&self, types: &[u8]) -> bool {
        self.has(Prerequisite::Icmp6) && types.contains(&self.icmp.0) && self.icmp.1 == 0
    }

    /// The match says that the packet is tracked, and of a connection.
    pub fn is_tracked(&self) -> bool {
        let (value, mask) = self.ct_state;
        let valid = value & CT_TRACKED != 0 && mask & CT_INVALID != 0 && value & CT_INVALID == 0;
        value & CT_CONNECTED != 0 || valid
    }

    /// The match selects invalid packets.
    pub fn is_invalid(&self) -> bool {
        self.ct_state.0 & CT_INVALID != 0
    }

    /// A tag is put before the others.
    pub fn push_tag(&mut self) {
        self.tags = [Tci::PRESENT, self.tags[0]];
    }

    /// The outer tag goes.
    pub fn pop_tag(&mut self) {
        self.tags = [self.tags[1], 0];
    }
}
