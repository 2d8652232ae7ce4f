//! Ports, ICMP's type and code, neighbour discovery; and the checksums that cover them and the addresses of IP.

use weft_conntrack::{Family, Tuple};
use weft_wire::checksum::Change;
use weft_wire::{DropReason, Protocol, crc32c, icmpv4, tcp, udp};

use super::network::edit_address;
use super::{Masked, Values};
use crate::facts::{is_icmp, is_query};
use crate::parse::ip::{FRAGMENT_LATER, Payload};
use crate::parse::transport::{OPTIONS, SCTP, TARGET, is_neighbour_discovery, tcp_header};

/// Where ICMP's and ICMPv6's checksum is (RFC 792, RFC 4443).
pub(super) const ICMP_CHECKSUM_AT: usize = 2;
/// Where a query's identifier is.
const IDENTIFIER_AT: usize = 4;
/// ICMPv6 is that long at least, as long as its checksum is there.
const ICMPV6: usize = 4;

/// A header that is to be changed goes on behind the head frame.
const BEHIND_THE_HEAD: DropReason = DropReason::Malformed;

/// What changes in what IP carries: made of words 8 to 10, 12 and 13.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Transport {
    source_port: Masked<u16>,
    destination_port: Masked<u16>,
    /// ICMP's type and code.
    kind: Masked<u16>,
    target: [Masked<u64>; 2],
    /// Link-layer addresses of source and target, each in the upper 48 bits.
    hardware: [Masked<u64>; 2],
    /// The identifier that a query of this version's ICMP gets.
    identifier: Option<(Family, u16)>,
    /// Whether none of these changes.
    none: bool,
}

impl Transport {
    pub(super) fn new(values: &Values) -> Self {
        let (kind, code) = (values.octet(8, 48), values.octet(8, 32));
        let mut transport = Transport {
            source_port: values.short(8, 48, u16::MAX),
            destination_port: values.short(8, 32, u16::MAX),
            kind: Masked {
                mask: u16::from_be_bytes([kind.mask, code.mask]),
                value: u16::from_be_bytes([kind.value, code.value]),
            },
            target: [values.0[12], values.0[13]],
            hardware: [values.address(9), values.address(10)],
            identifier: None,
            none: false,
        };
        let words = transport.target.iter().chain(&transport.hardware);
        transport.none = words.into_iter().all(|word| word.is_none())
            && transport.source_port.is_none()
            && transport.destination_port.is_none();
        transport
    }

    /// Ports, and the identifier of ICMP's queries. What is tracked without ports has zeros there, and keeps what it has.
    #[inline]
    pub(super) fn translation(tuple: &Tuple) -> Self {
        let port = |port: u16| if port == 0 { Masked::default() } else { Masked::all(port) };
        Transport {
            source_port: port(tuple.src_port),
            destination_port: port(tuple.dst_port),
            identifier: Some((tuple.family, tuple.src_port)),
            ..Transport::default()
        }
    }

    pub(super) const fn is_none(&self) -> bool {
        self.none
    }

    /// Edits what the IP packet `packet` carries. `pseudo` is what has changed of the pseudo-header; an unfinished checksum
    /// covers what starts at `unfinished`.
    #[inline]
    pub(super) fn apply(
        &self,
        packet: &mut [u8],
        payload: &Payload,
        pseudo: Change,
        unfinished: Option<usize>,
    ) -> Result<(), DropReason> {
        let idle = self.none && pseudo.is_none();
        if idle || payload.fragment & FRAGMENT_LATER != 0 {
            return Ok(());
        }
        let octets = packet.get_mut(payload.at..).unwrap_or_default();
        let segment = Segment { octets, len: payload.len, unfinished: unfinished == Some(payload.at) };
        match payload.protocol {
            Protocol::TCP => self.tcp(segment, pseudo),
            Protocol::UDP => self.udp(segment, pseudo),
            Protocol::SCTP => self.sctp(segment),
            Protocol::ICMP => self.message(segment, Protocol::ICMP, Change::NONE),
            Protocol::ICMPV6 => self.message(segment, Protocol::ICMPV6, pseudo),
            _ => Ok(()),
        }
    }

    /// Edits the ends of what a packet carries that an ICMP error quotes, of which `octets` are there: eight at least
    /// ([`crate::facts`]). A checksum that isn't there isn't changed.
    pub(super) fn apply_quoted(&self, octets: &mut [u8], payload: &Payload, pseudo: Change) {
        let mut segment = Segment { octets, len: payload.len, unfinished: false };
        match payload.protocol {
            Protocol::TCP => {
                let ports = self.edit_ports(segment.octets).1;
                segment.update(tcp::CHECKSUM_AT, pseudo, ports, Change::of);
            }
            Protocol::UDP => {
                let ports = self.edit_ports(segment.octets).1;
                segment.update(udp::CHECKSUM_AT, pseudo, ports, Change::of_udp);
            }
            Protocol::SCTP => {
                let (difference, _) = self.edit_ports(segment.octets);
                let header = segment.octets.first_chunk_mut::<SCTP>();
                if let Some(header) = header.filter(|_| payload.fragment == 0) {
                    update_crc(header, difference, segment.len);
                }
            }
            protocol @ (Protocol::ICMP | Protocol::ICMPV6) => {
                let pseudo = if protocol == Protocol::ICMP { Change::NONE } else { pseudo };
                let own = self.edit_identifier(&mut segment, protocol);
                segment.update(ICMP_CHECKSUM_AT, pseudo, own, Change::of);
            }
            _ => {}
        }
    }

    #[inline]
    fn tcp(&self, mut segment: Segment<'_>, pseudo: Change) -> Result<(), DropReason> {
        let len = segment.len;
        let Some(header) = segment.header::<{ tcp::LEN }>()? else { return Ok(()) };
        // As for keys, what isn't whole with its options has no ports. Its checksum covers the addresses all the same.
        let whole = tcp_header(header, len).is_some();
        let ports = if whole { self.edit_ports(header).1 } else { Change::NONE };
        segment.update(tcp::CHECKSUM_AT, pseudo, ports, Change::of);
        Ok(())
    }

    #[inline]
    fn udp(&self, mut segment: Segment<'_>, pseudo: Change) -> Result<(), DropReason> {
        let Some(header) = segment.header::<{ udp::LEN }>()? else { return Ok(()) };
        let (_, ports) = self.edit_ports(header);
        segment.update(udp::CHECKSUM_AT, pseudo, ports, Change::of_udp);
        Ok(())
    }

    /// SCTP's checksum doesn't cover addresses, and an unfinished one has no value yet.
    fn sctp(&self, mut segment: Segment<'_>) -> Result<(), DropReason> {
        let (len, unfinished) = (segment.len, segment.unfinished);
        let Some(header) = segment.header::<SCTP>()? else { return Ok(()) };
        let (difference, _) = self.edit_ports(header);
        if !unfinished {
            update_crc(header, difference, len);
        }
        Ok(())
    }

    /// Changes the ports at the start of `header`: which of their bits change, and what that is to a checksum.
    #[inline]
    fn edit_ports(&self, header: &mut [u8]) -> ([u8; 4], Change) {
        let Some(place) = header.first_chunk_mut() else { return ([0; 4], Change::NONE) };
        let old @ [a, b, c, d] = *place;
        let (source, destination) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let (new_source, new_destination) =
            (self.source_port.of(source), self.destination_port.of(destination));
        let mut change = Change::NONE;
        change.word(source, new_source);
        change.word(destination, new_destination);
        let new = u32::from(new_source) << 16 | u32::from(new_destination);
        *place = new.to_be_bytes();
        ((new ^ u32::from_be_bytes(old)).to_be_bytes(), change)
    }

    /// ICMP and ICMPv6.
    fn message(
        &self,
        mut segment: Segment<'_>,
        protocol: Protocol,
        pseudo: Change,
    ) -> Result<(), DropReason> {
        let len = segment.len;
        let Some(header) = segment.header::<ICMPV6>()? else { return Ok(()) };
        let mut own = Change::NONE;
        let mut is_neighbour = is_neighbour_discovery(header);
        if len >= icmpv4::LEN
            && let Some(place) = header.first_chunk_mut()
        {
            let old = u16::from_be_bytes(*place);
            let new = self.kind.of(old);
            own.word(old, new);
            *place = new.to_be_bytes();
            is_neighbour |= is_neighbour_discovery(place);
        }
        if is_neighbour {
            own = own.and(self.edit_neighbour(&mut segment)?);
        }
        own = own.and(self.edit_identifier(&mut segment, protocol));
        segment.update(ICMP_CHECKSUM_AT, pseudo, own, Change::of);
        Ok(())
    }

    /// The identifier of a query.
    fn edit_identifier(&self, segment: &mut Segment<'_>, protocol: Protocol) -> Change {
        let mut change = Change::NONE;
        let wanted = self.identifier.filter(|&(family, _)| {
            is_icmp(family, protocol) && segment.len >= icmpv4::LEN && is_query(family, segment.octets)
        });
        if let Some((_, new)) = wanted
            && let Some(place) = segment.octets.get_mut(IDENTIFIER_AT..).and_then(<[u8]>::first_chunk_mut)
        {
            change.word(u16::from_be_bytes(*place), new);
            *place = new.to_be_bytes();
        }
        change
    }

    /// Target and link-layer address. As in Open vSwitch, only the first link-layer address option is looked at: a
    /// solicitation has no other than the source's, an advertisement no other than the target's (RFC 4861, section 4).
    fn edit_neighbour(&self, segment: &mut Segment<'_>) -> Result<Change, DropReason> {
        if self.target.iter().chain(&self.hardware).all(|word| word.is_none()) || segment.len < OPTIONS {
            return Ok(Change::NONE);
        }
        let message = segment.octets.get_mut(..segment.len).ok_or(BEHIND_THE_HEAD)?;
        let mut change = edit_address(message, TARGET, &self.target);
        let mut rest = message.get_mut(OPTIONS..).unwrap_or_default();
        while let Some(option) = rest.first_chunk_mut::<8>() {
            let octets = u64::from_be_bytes(*option);
            let word = match octets >> 48 {
                SOURCE_LINK_LAYER => self.hardware[0],
                TARGET_LINK_LAYER => self.hardware[1],
                kind_and_units => {
                    let len = usize::from(kind_and_units as u8) * 8;
                    rest = if len > 0 { rest.get_mut(len..).unwrap_or_default() } else { &mut [] };
                    continue;
                }
            };
            let new = octets & TYPE_AND_LENGTH | word.of(octets << 16) >> 16;
            change.quad(octets, new);
            *option = new.to_be_bytes();
            break;
        }
        Ok(change)
    }
}

/// Brings SCTP's checksum up to date, which ends the header (RFC 9260, section 3.1): the ports of a packet of `len` octets have
/// changed by `difference`.
fn update_crc(header: &mut [u8; SCTP], difference: [u8; 4], len: usize) {
    if difference == [0; 4] || len < SCTP {
        return;
    }
    if let Some(checksum) = header.last_chunk_mut::<4>() {
        let by = crc32c::change(difference, len - difference.len());
        checksum.iter_mut().zip(by).for_each(|(octet, by)| *octet ^= by);
    }
}

/// The first two octets of an option.
const TYPE_AND_LENGTH: u64 = 0xffff << 48;
/// These, of the options that give a link-layer address of eight octets with both (RFC 4861, section 4.6.1).
const SOURCE_LINK_LAYER: u64 = 0x0101;
const TARGET_LINK_LAYER: u64 = 0x0201;

/// What an IP packet carries.
pub(super) struct Segment<'a> {
    /// From its first octet to the head frame's end.
    pub(super) octets: &'a mut [u8],
    /// Its length, in all frames.
    pub(super) len: usize,
    /// Whether its checksum is an unfinished one.
    pub(super) unfinished: bool,
}

impl Segment<'_> {
    /// Its first `N` octets, if it has so many.
    #[inline]
    fn header<const N: usize>(&mut self) -> Result<Option<&mut [u8; N]>, DropReason> {
        if self.len < N {
            return Ok(None);
        }
        self.octets.first_chunk_mut().map(Some).ok_or(BEHIND_THE_HEAD)
    }

    /// Brings the checksum at `at` up to date. An unfinished one is the sum of the pseudo-header, and covers no more yet.
    #[inline]
    pub(super) fn update(self, at: usize, pseudo: Change, own: Change, finished: fn(Change, u16) -> u16) {
        if let Some(field) = self.octets.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            let old = u16::from_be_bytes(*field);
            let new = if self.unfinished { pseudo.of_sum(old) } else { finished(pseudo.and(own), old) };
            *field = new.to_be_bytes();
        }
    }
}
