//! ARP, IPv4 and IPv6: addresses, TOS, TTL, flow label; and from there to what IP carries.

use std::net::Ipv4Addr;

use weft_conntrack::Translation;
use weft_io::Packet;
use weft_wire::checksum::Change;
use weft_wire::{DropReason, EtherType, Mac, Protocol, arp, ipv4, ipv6};

use super::transport::Transport;
use super::{Masked, Values};
use crate::parse::ip::Payload;
use crate::parse::{self, ip};

/// What changes behind the Ethernet header: made of words 3 to 13 of the key layout.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Patch {
    /// Words 4 and 5: IPv6; the low half of the second is IPv4's or ARP's.
    source: [Masked<u64>; 2],
    /// Words 6 and 7.
    destination: [Masked<u64>; 2],
    tos: Masked<u8>,
    ttl: Masked<u8>,
    operation: Masked<u8>,
    /// The first four octets of an IPv6 header: traffic class and flow label.
    class_and_label: Masked<u32>,
    /// ARP's addresses; each in the upper 48 bits.
    hardware: [Masked<u64>; 2],
    pub(super) transport: Transport,
}

impl Patch {
    /// Gives a packet the ends that `translation` says.
    #[inline]
    pub(super) fn translation(translation: &Translation) -> Self {
        let transport = Transport::translation(&translation.tuple);
        Patch { transport, ..Patch::addresses(translation) }
    }

    /// Gives a packet the addresses that `translation` says, and no ports.
    #[inline]
    pub(super) fn addresses(translation: &Translation) -> Self {
        let words = |wanted: bool, address: u128| match wanted {
            true => [Masked::all((address >> 64) as u64), Masked::all(address as u64)],
            false => [Masked::default(); 2],
        };
        Patch {
            source: words(translation.source, translation.tuple.src),
            destination: words(translation.destination, translation.tuple.dst),
            tos: Masked::default(),
            ttl: Masked::default(),
            operation: Masked::default(),
            class_and_label: Masked::default(),
            hardware: [Masked::default(); 2],
            transport: Transport::default(),
        }
    }

    pub(super) fn new(values: &Values) -> Option<Self> {
        let (tos, label) = (values.octet(3, 16), values.part(11, 0, 0x000f_ffff));
        let class_and_label = Masked {
            mask: u32::from(tos.mask) << 20 | label.mask,
            value: u32::from(tos.value) << 20 | label.value,
        };
        let patch = Patch {
            source: [values.0[4], values.0[5]],
            destination: [values.0[6], values.0[7]],
            tos,
            ttl: values.octet(3, 8),
            operation: values.octet(3, 24),
            class_and_label,
            hardware: [values.address(9), values.address(10)],
            transport: Transport::new(values),
        };
        let words = patch.source.iter().chain(&patch.destination).chain(&patch.hardware);
        let none = words.into_iter().all(|word| word.is_none())
            && patch.ttl.is_none()
            && patch.operation.is_none()
            && class_and_label.is_none()
            && patch.transport.is_none();
        (!none).then_some(patch)
    }

    #[inline]
    pub(super) fn apply(&self, packet: &mut Packet) -> Result<(), DropReason> {
        let (total, unfinished) = (packet.total_len(), packet.checksum_start());
        let frame = packet.data_mut();
        let Some(parse::Link { ether_type, at, .. }) = parse::behind_tags(frame) else { return Ok(()) };
        let Some(octets) = frame.get_mut(at..) else { return Ok(()) };
        let size = total.saturating_sub(at);
        let unfinished = unfinished.and_then(|start| start.checked_sub(at));
        if matches!(ether_type, EtherType::ARP | EtherType::RARP) {
            self.resolution(octets);
        }
        match self.header(ether_type, octets, size) {
            Some((payload, pseudo)) => self.transport.apply(octets, &payload, pseudo, unfinished),
            None => Ok(()),
        }
    }

    /// Edits the IP header that `packet` starts with, if it can be read: says what it carries, and what has changed of the
    /// pseudo-header.
    #[inline]
    pub(super) fn header(
        &self,
        ether_type: EtherType,
        packet: &mut [u8],
        size: usize,
    ) -> Option<(Payload, Change)> {
        match ether_type {
            EtherType::IPV4 => self.version_4(packet, size),
            EtherType::IPV6 => self.version_6(packet, size),
            _ => None,
        }
    }

    #[inline]
    fn version_4(&self, packet: &mut [u8], size: usize) -> Option<(Payload, Change)> {
        let (octets, payload) = ip::split_4(packet, size)?;
        let mut header = ipv4::Header::new(*octets);
        let (source, destination) = (header.src().to_bits(), header.dst().to_bits());
        let (tos, ttl) = (header.tos(), header.ttl());
        let new_source = self.source[1].of(source.into()) as u32;
        let new_destination = self.destination[1].of(destination.into()) as u32;
        let (new_tos, new_ttl) = (self.tos.of(tos), self.ttl.of(ttl));
        let mut addresses = Change::NONE;
        addresses.words(source, new_source);
        addresses.words(destination, new_destination);
        let mut own = addresses;
        own.word(tos.into(), new_tos.into());
        own.word(u16::from(ttl) << 8, u16::from(new_ttl) << 8);
        header.set_src(new_source.into());
        header.set_dst(new_destination.into());
        header.set_tos(new_tos);
        header.set_ttl(new_ttl);
        header.set_checksum(own.of(header.checksum()));
        if let Some(place) = packet.first_chunk_mut() {
            *place = *header.as_bytes();
        }
        // ICMPv6 has a pseudo-header over IPv6 only.
        let pseudo = if payload.protocol == Protocol::ICMPV6 { Change::NONE } else { addresses };
        Some((payload, pseudo))
    }

    #[inline]
    fn version_6(&self, packet: &mut [u8], size: usize) -> Option<(Payload, Change)> {
        let octets = ip::header_6(packet, size)?;
        let payload = ip::skip_extensions(packet, &ipv6::Header::new(octets))?;
        let mut header = *octets;
        let mut pseudo = edit_address(&mut header, SOURCE_6, &self.source);
        let destination = edit_address(&mut header, DESTINATION_6, &self.destination);
        // With a routing header that is still to be followed, the pseudo-header has its last address (RFC 8200, section
        // 8.1).
        if !payload.routed {
            pseudo = pseudo.and(destination);
        }
        if let Some(first) = header.first_chunk_mut() {
            *first = self.class_and_label.of(u32::from_be_bytes(*first)).to_be_bytes();
        }
        let mut view = ipv6::Header::new(header);
        view.set_hop_limit(self.ttl.of(view.hop_limit()));
        if let Some(place) = packet.first_chunk_mut() {
            *place = *view.as_bytes();
        }
        Some((payload, pseudo))
    }

    /// ARP for Ethernet and IPv4 only, as in keys.
    fn resolution(&self, packet: &mut [u8]) {
        let Some(octets) = packet.first_chunk_mut::<{ arp::LEN }>() else { return };
        let Ok(header) = arp::Header::new_checked(octets.as_slice()) else { return };
        let mut new = header.parse();
        if !self.operation.is_none() {
            // The key has the low eight bits of it, and 0 for what doesn't fit.
            let old = u8::try_from(new.operation.0).unwrap_or(0);
            new.operation = arp::Operation(self.operation.of(old).into());
        }
        let ip = |old: Ipv4Addr, words: &[Masked<u64>; 2]| {
            Ipv4Addr::from(words[1].of(old.to_bits().into()) as u32)
        };
        let mac = |old: Mac, word: Masked<u64>| Mac::from_u64(word.of(old.to_u64() << 16) >> 16);
        new.sender_ip = ip(new.sender_ip, &self.source);
        new.target_ip = ip(new.target_ip, &self.destination);
        new.sender_mac = mac(new.sender_mac, self.hardware[0]);
        new.target_mac = mac(new.target_mac, self.hardware[1]);
        new.emit(octets);
    }
}

/// Where the addresses are in an IPv6 header.
const SOURCE_6: usize = 8;
const DESTINATION_6: usize = 24;

/// Changes the 128 bits at `at`, and says how.
#[inline]
pub(super) fn edit_address(octets: &mut [u8], at: usize, words: &[Masked<u64>; 2]) -> Change {
    let Some(place) = octets.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<16>) else {
        return Change::NONE;
    };
    let old = u128::from_be_bytes(*place);
    let (high, low) = ((old >> 64) as u64, old as u64);
    let (new_high, new_low) = (words[0].of(high), words[1].of(low));
    let mut change = Change::NONE;
    change.quad(high, new_high);
    change.quad(low, new_low);
    *place = (u128::from(new_high) << 64 | u128::from(new_low)).to_be_bytes();
    change
}

/// One off IPv4's TTL or IPv6's hop limit. An IP packet that can't be read has a TTL of 0, as in its key.
pub(super) fn decrement_ttl(packet: &mut Packet) -> Result<(), DropReason> {
    let total = packet.total_len();
    let frame = packet.data_mut();
    let Some(parse::Link { ether_type, at, .. }) = parse::behind_tags(frame) else { return Ok(()) };
    let octets = frame.get_mut(at..).unwrap_or_default();
    let size = total.saturating_sub(at);
    let expired = |_| DropReason::TtlExpired;
    match ether_type {
        EtherType::IPV4 => {
            ip::split_4(octets, size).ok_or(DropReason::TtlExpired)?;
            let (mut header, _) = ipv4::Header::split_mut(octets).map_err(expired)?;
            let ttl = header.ttl();
            header.set_ttl(one_less(ttl)?);
            let mut change = Change::NONE;
            change.word(u16::from(ttl) << 8, u16::from(header.ttl()) << 8);
            header.set_checksum(change.of(header.checksum()));
        }
        EtherType::IPV6 => {
            let whole = ip::header_6(octets, size).map(ipv6::Header::new);
            whole.and_then(|header| ip::skip_extensions(octets, &header)).ok_or(DropReason::TtlExpired)?;
            let (mut header, _) = ipv6::Header::split_mut(octets).map_err(expired)?;
            header.set_hop_limit(one_less(header.hop_limit())?);
        }
        _ => {}
    }
    Ok(())
}

fn one_less(ttl: u8) -> Result<u8, DropReason> {
    if ttl > 1 { Ok(ttl - 1) } else { Err(DropReason::TtlExpired) }
}
