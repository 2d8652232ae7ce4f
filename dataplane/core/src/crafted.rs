//! Packets for the tests of what connection tracking reads and changes, made and judged by etherparse.

#![allow(clippy::unwrap_used, reason = "tests")]

use etherparse::{
    IpHeaders, Ipv4Header, Ipv6Extensions, Ipv6Header, Ipv6RawExtHeader, NetSlice, PacketBuilder,
    SlicedPacket, TransportSlice, ip_number,
};
use proptest::prelude::*;
use weft_io::{FrameCache, FramePool, Packet};

/// What IP carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Tcp,
    Udp,
    /// An echo request; its identifier is the source port.
    Ping,
}

/// A packet's form and ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Form {
    pub(crate) kind: Kind,
    pub(crate) six: bool,
    /// Tags in front, 0 to 2.
    pub(crate) tags: usize,
    /// With IPv4 options, or an IPv6 extension header.
    pub(crate) options: bool,
    /// IPv4 in the low 32 bits.
    pub(crate) addresses: [u128; 2],
    pub(crate) ports: [u16; 2],
}

pub(crate) const SIMPLE: Form = Form {
    kind: Kind::Tcp,
    six: false,
    tags: 0,
    options: false,
    addresses: [0x0a00_0001, 0x0a00_0002],
    ports: [1000, 80],
};

pub(crate) fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Tcp), Just(Kind::Udp), Just(Kind::Ping)]
}

pub(crate) fn forms() -> impl Strategy<Value = Form> {
    let rest = (any::<bool>(), any::<[u128; 2]>(), [1..=u16::MAX, 1..=u16::MAX]);
    (kinds(), any::<bool>(), 0..=2usize, rest).prop_map(|(kind, six, tags, (options, addresses, ports))| {
        let mask = if six { u128::MAX } else { u128::from(u32::MAX) };
        Form { kind, six, tags, options, addresses: addresses.map(|address| address & mask), ports }
    })
}

pub(crate) fn ether_type(form: &Form) -> [u8; 2] {
    if form.six { [0x86, 0xdd] } else { [8, 0] }
}

/// An Ethernet header with the form's tags.
pub(crate) fn link(form: &Form) -> Vec<u8> {
    let mut octets = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for tag in 0..form.tags {
        let tpid = if form.tags - tag == 2 { [0x88, 0xa8] } else { [0x81, 0] };
        octets.extend([tpid[0], tpid[1], 0, 7]);
    }
    octets.extend(ether_type(form));
    octets
}

fn headers(form: &Form) -> IpHeaders {
    let [source, destination] = form.addresses;
    if form.six {
        let (source, destination) = (source.to_be_bytes(), destination.to_be_bytes());
        let header = Ipv6Header { source, destination, hop_limit: 64, ..Ipv6Header::default() };
        let raw = Ipv6RawExtHeader::new_raw(ip_number::UDP, &[1, 4, 0, 0, 0, 0]).unwrap();
        let hop_by_hop_options = form.options.then_some(raw);
        return IpHeaders::Ipv6(header, Ipv6Extensions { hop_by_hop_options, ..Default::default() });
    }
    let (source, destination) = ((source as u32).to_be_bytes(), (destination as u32).to_be_bytes());
    let mut header = Ipv4Header::new(0, 64, ip_number::UDP, source, destination).unwrap();
    if form.options {
        header.options = [1, 1, 1, 0].into();
    }
    IpHeaders::Ipv4(header, Default::default())
}

/// The IP packet, with right checksums.
pub(crate) fn ip(form: &Form, payload: &[u8]) -> Vec<u8> {
    let (builder, [source, destination]) = (PacketBuilder::ip(headers(form)), form.ports);
    let mut octets = Vec::new();
    match form.kind {
        Kind::Tcp => builder.tcp(source, destination, 77, 500).ack(9).write(&mut octets, payload).unwrap(),
        Kind::Udp => builder.udp(source, destination).write(&mut octets, payload).unwrap(),
        Kind::Ping if form.six => builder.icmpv6_echo_request(source, 3).write(&mut octets, payload).unwrap(),
        Kind::Ping => builder.icmpv4_echo_request(source, 3).write(&mut octets, payload).unwrap(),
    }
    octets
}

/// The frame, with right checksums.
pub(crate) fn frame(form: &Form, payload: &[u8]) -> Vec<u8> {
    [link(form), ip(form, payload)].concat()
}

/// How long the IP header is, with options and extension headers.
pub(crate) fn header_len(form: &Form) -> usize {
    match (form.six, form.options) {
        (false, false) => 20,
        (false, true) => 24,
        (true, false) => 40,
        (true, true) => 48,
    }
}

/// Whether all checksums of an IP packet are right.
pub(crate) fn is_sound(packet: &[u8]) -> bool {
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    match (sliced.net.unwrap(), sliced.transport.unwrap()) {
        (NetSlice::Ipv4(net), transport) => {
            let header = net.header().to_header();
            let right = match transport {
                TransportSlice::Tcp(tcp) => {
                    tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap() == tcp.checksum()
                }
                TransportSlice::Udp(udp) => {
                    let expected = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
                    udp.checksum() == 0 || expected == udp.checksum()
                }
                TransportSlice::Icmpv4(icmp) => {
                    icmp.icmp_type().calc_checksum(icmp.payload()) == icmp.checksum()
                }
                other => panic!("{other:?} over IPv4"),
            };
            right && header.calc_header_checksum() == header.header_checksum
        }
        (NetSlice::Ipv6(net), transport) => {
            let header = net.header().to_header();
            match transport {
                TransportSlice::Tcp(tcp) => {
                    tcp.to_header().calc_checksum_ipv6(&header, tcp.payload()).unwrap() == tcp.checksum()
                }
                TransportSlice::Udp(udp) => {
                    udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap() == udp.checksum()
                }
                TransportSlice::Icmpv6(icmp) => icmp.is_checksum_valid(header.source, header.destination),
                other => panic!("{other:?} over IPv6"),
            }
        }
        (NetSlice::Arp(_), _) => panic!("ARP"),
    }
}

pub(crate) fn frames() -> FrameCache {
    FramePool::new(FramePool::MIN_FRAMES).unwrap().cache()
}

/// A packet whose first `head` octets are in its first frame, and the others in frames of 700.
pub(crate) fn packet(cache: &mut FrameCache, octets: &[u8], head: usize) -> Packet {
    let (first, rest) = octets.split_at(head.min(octets.len()));
    let mut packet = cache.alloc().unwrap();
    packet.append(first).unwrap();
    for piece in rest.chunks(700) {
        let mut frame = cache.alloc().unwrap();
        frame.append(piece).unwrap();
        packet.push_continuation(frame).unwrap();
    }
    packet
}

/// The octets of a packet, which goes home.
pub(crate) fn octets(cache: &mut FrameCache, packet: Packet) -> Vec<u8> {
    let octets = packet.segments().flatten().copied().collect();
    cache.free(packet);
    octets
}

/// Does something with a packet of one frame; its octets afterwards.
pub(crate) fn with<T>(octets: &[u8], act: impl FnOnce(&mut Packet) -> T) -> (Vec<u8>, T) {
    let mut cache = frames();
    let mut packet = packet(&mut cache, octets, octets.len());
    let result = act(&mut packet);
    (self::octets(&mut cache, packet), result)
}

/// The Internet checksum of octets and, over IPv6, of the pseudo-header for them.
pub(crate) fn fill_icmp(form: &Form, message: &mut [u8]) {
    message[2..4].fill(0);
    let mut covered = message.to_vec();
    if form.six {
        covered.resize(covered.len().next_multiple_of(2), 0);
        form.addresses.iter().for_each(|address| covered.extend(address.to_be_bytes()));
        covered.extend((message.len() as u32).to_be_bytes());
        covered.extend([0, 0, 0, 58]);
    }
    let sum = covered.chunks(2).fold(0u32, |sum, pair| {
        let sum = sum + (u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
        (sum & 0xffff) + (sum >> 16)
    });
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// An ICMP error "unreachable" (`form` gives its ends) about a packet.
pub(crate) fn error(form: &Form, quotation: &[u8]) -> Vec<u8> {
    let ping = Form { kind: Kind::Ping, ..*form };
    let mut packet = ip(&ping, quotation);
    let at = header_len(form);
    packet[at..at + 2].copy_from_slice(if form.six { &[1, 4] } else { &[3, 3] });
    packet[at + 4..at + 8].fill(0);
    fill_icmp(form, &mut packet[at..]);
    [link(form), packet].concat()
}

/// A fragment of the packet of `form` that carries `message`: octets `start` to `end`.
pub(crate) fn fragment(
    form: &Form,
    message: &[u8],
    (start, end): (usize, usize),
    more: bool,
    id: u32,
) -> Vec<u8> {
    let header_len = header_len(form);
    let whole = ip(form, &[]);
    let mut header = whole[..header_len].to_vec();
    let len = end - start;
    if form.six {
        let next_at = if form.options { 40 } else { 6 };
        let next = std::mem::replace(&mut header[next_at], 44);
        header[4..6].copy_from_slice(&((header_len - 40 + 8 + len) as u16).to_be_bytes());
        let word = (start as u16 | u16::from(more)).to_be_bytes();
        header.extend([next, 0, word[0], word[1]]);
        header.extend(id.to_be_bytes());
    } else {
        header[2..4].copy_from_slice(&((header_len + len) as u16).to_be_bytes());
        header[4..6].copy_from_slice(&(id as u16).to_be_bytes());
        header[6..8].copy_from_slice(&((start / 8) as u16 | u16::from(more) << 13).to_be_bytes());
        header[10..12].fill(0);
        let sum = weft_wire::checksum::checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let mut message = message.to_vec();
    message.resize(message.len().max(end), 0);
    [link(form), header, message[start..end].to_vec()].concat()
}

/// What the packet of `form` carries, cut at these places.
pub(crate) fn cut(form: &Form, payload: &[u8], places: &[usize]) -> Vec<Vec<u8>> {
    let message = ip(form, payload).split_off(header_len(form));
    let ends = places.iter().copied().chain([message.len()]);
    let starts = [0].into_iter().chain(places.iter().copied());
    let piece = |range: (usize, usize)| fragment(form, &message, range, range.1 < message.len(), 9);
    starts.zip(ends).map(piece).collect()
}
