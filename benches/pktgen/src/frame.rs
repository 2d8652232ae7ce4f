//! The frames of a run: IPv4/UDP, numbered in their first 14 octets of payload, so that a tagged frame of 60 octets holds
//! them.
//!
//! ```text
//!  0       4        8                     14
//!  | magic | stream | sequence (48 bits)  | 0x5a ...
//! ```
//!
//! The flow is a function of the sequence number, packets go round the flows in turn. Headers and checksums are made once
//! for flow 0 and sequence 0; a stamp changes what differs, and the checksums by as much (RFC 1624).

use std::net::Ipv4Addr;

use weft_wire::{EtherType, Mac, Malformed, Protocol, Vid, arp, checksum, ethernet, ipv4, udp};

/// "weft" with the high bits set, which no text payload has.
const MAGIC: [u8; 4] = [0xf7, 0xe5, 0xe6, 0xf4];
const NUMBERED: usize = 14;
/// The discard service: what gets through by mistake asks for no answer.
const DST_PORT: u16 = 9;
const FIRST_SRC_PORT: u16 = 1024;
/// Flows of one source address.
const PORTS: u32 = 60_000;
const TTL: u8 = 64;
/// Sequence numbers have 48 bits.
pub const MAX_SEQUENCE: u64 = (1 << 48) - 1;

/// What the frames of a run have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Octets per frame, tag included, 60 or more.
    pub size: usize,
    /// How many flows, 1 or more.
    pub flows: u32,
    /// The tag, if there is one.
    pub vlan: Option<Vid>,
    /// Source MAC address.
    pub smac: Mac,
    /// Destination MAC address.
    pub dmac: Mac,
    /// Source address of the first flows.
    pub sip: Ipv4Addr,
    /// Destination address.
    pub dip: Ipv4Addr,
    /// Tells runs apart.
    pub stream: u32,
}

/// What a received frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// One of this run's, whole: its sequence number.
    Numbered(u64),
    /// One of this run's, but its length or a checksum is wrong.
    Damaged,
    /// Anything else.
    Foreign,
}

/// The frame of flow 0 with sequence number 0, and what it takes to make the others of it.
#[derive(Clone, Debug)]
pub struct Template {
    shape: Shape,
    bytes: Vec<u8>,
    l3: usize,
    ip_checksum: u16,
    udp_checksum: u16,
}

/// Writes an Ethernet header with or without a tag, and returns where it ends.
fn emit_ethernet(
    bytes: &mut [u8],
    (dst, src): (Mac, Mac),
    vlan: Option<Vid>,
    of: EtherType,
) -> Result<usize, Malformed> {
    let (mut header, behind) = ethernet::Header::split_mut(bytes)?;
    header.set_dst(dst);
    header.set_src(src);
    header.set_ethertype(if vlan.is_some() { EtherType::VLAN } else { of });
    let Some(vid) = vlan else { return Ok(ethernet::LEN) };
    let have = behind.len();
    let (tag, _) =
        behind.split_first_chunk_mut().ok_or_else(|| Malformed::truncated(ethernet::TAG_LEN, have))?;
    let ([a, b], [c, d]) = (vid.get().to_be_bytes(), of.0.to_be_bytes());
    *tag = [a, b, c, d];
    Ok(ethernet::LEN + ethernet::TAG_LEN)
}

impl Template {
    /// Makes it.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when `shape.size` is too small for headers and number.
    pub fn new(shape: Shape) -> Result<Self, Malformed> {
        let mut bytes = vec![0x5a; shape.size];
        let l3 = emit_ethernet(&mut bytes, (shape.dmac, shape.smac), shape.vlan, EtherType::IPV4)?;
        let packet = bytes.get_mut(l3..).unwrap_or_default();
        let need = ipv4::LEN + udp::LEN + NUMBERED;
        if packet.len() < need {
            return Err(Malformed::truncated(need, packet.len()));
        }
        let total_len = packet.len() as u16;
        let (ip, behind) = ipv4::Header::split_mut(packet)?;
        let mut ip = ip;
        let (src, dst) = (shape.sip, shape.dip);
        let repr = ipv4::Repr {
            src,
            dst,
            protocol: Protocol::UDP,
            ttl: TTL,
            tos: 0,
            ident: 0,
            dont_fragment: true,
            total_len,
        };
        repr.emit(ip.as_bytes_mut());
        let length = total_len - ipv4::LEN as u16;
        let (_, payload) = udp::Header::split_mut(behind)?;
        let stream = shape.stream.to_be_bytes();
        let number = MAGIC.iter().chain(&stream).chain(&[0; 6]);
        payload.iter_mut().zip(number).for_each(|(to, from)| *to = *from);
        let (mut udp, payload) = udp::Header::split_mut(behind)?;
        udp::Repr { src_port: FIRST_SRC_PORT, dst_port: DST_PORT, length, checksum: 0 }
            .emit(udp.as_bytes_mut());
        let mut sum = checksum::pseudo_v4(src, dst, Protocol::UDP.0, length);
        sum.add(udp.as_bytes());
        sum.add(payload);
        let udp_checksum = sum.checksum();
        udp.set_checksum(if udp_checksum == 0 { 0xffff } else { udp_checksum });
        let ip_checksum = ip.checksum();
        Ok(Template { shape, bytes, l3, ip_checksum, udp_checksum })
    }

    /// The frame of flow 0 with sequence number 0.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The flow of a sequence number.
    pub fn flow(&self, sequence: u64) -> u32 {
        (sequence % u64::from(self.shape.flows)) as u32
    }

    /// Turns a copy of [`Template::bytes`], stamped before or not, into the frame number `sequence`.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when `frame` is no such copy.
    #[inline]
    pub fn stamp(&self, frame: &mut [u8], sequence: u64) -> Result<(), Malformed> {
        let have = frame.len();
        let short = || Malformed::truncated(self.shape.size, have);
        let packet = frame.get_mut(self.l3..).ok_or_else(short)?;
        let (mut ip, behind) = ipv4::Header::split_mut(packet)?;
        let (mut udp, payload) = udp::Header::split_mut(behind)?;
        let number = payload.first_chunk_mut::<NUMBERED>().ok_or_else(short)?;

        let (flow, old) = (self.flow(sequence), self.shape.sip.to_bits());
        let (src, port) = (old.wrapping_add(flow / PORTS), FIRST_SRC_PORT + (flow % PORTS) as u16);
        let [_, _, a, b, c, d, e, f] = sequence.to_be_bytes();
        ip.set_src(Ipv4Addr::from_bits(src));
        ip.set_checksum(checksum::updated32(self.ip_checksum, old, src));
        udp.set_src_port(port);
        let (high, low) = (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]));
        let udp_checksum = checksum::updated32(self.udp_checksum, old, src);
        let udp_checksum = checksum::updated(udp_checksum, FIRST_SRC_PORT, port);
        let udp_checksum = checksum::updated32(checksum::updated(udp_checksum, 0, high), 0, low);
        udp.set_checksum(if udp_checksum == 0 { 0xffff } else { udp_checksum });
        let [.., to_a, to_b, to_c, to_d, to_e, to_f] = number;
        (*to_a, *to_b, *to_c, *to_d, *to_e, *to_f) = (a, b, c, d, e, f);
        Ok(())
    }

    /// Says what a received frame is. With or without tag: a switch may have pushed or popped one.
    #[inline]
    pub fn recognise(&self, frame: &[u8]) -> Seen {
        let Ok(frame) = ethernet::Frame::new_checked(frame) else { return Seen::Foreign };
        if frame.ethertype != EtherType::IPV4 {
            return Seen::Foreign;
        }
        let Ok(ip) = ipv4::Packet::new_checked(frame.payload) else { return Seen::Foreign };
        let Ok(udp) = udp::Packet::new_checked(ip.payload) else { return Seen::Foreign };
        let [m @ .., s0, s1, s2, s3, a, b, c, d, e, f] = match udp.payload.first_chunk::<NUMBERED>() {
            Some(number) if ip.header.protocol() == Protocol::UDP && udp.header.dst_port() == DST_PORT => {
                *number
            }
            _ => return Seen::Foreign,
        };
        if m != MAGIC || [s0, s1, s2, s3] != self.shape.stream.to_be_bytes() {
            return Seen::Foreign;
        }
        let length = udp.header.length();
        let pseudo = checksum::pseudo_v4(ip.header.src(), ip.header.dst(), Protocol::UDP.0, length);
        let whole = ip.header.total_len() as usize == self.shape.size - self.l3
            && ip.check_checksum().is_ok()
            && udp.header.checksum() != 0
            && udp.check_checksum(pseudo).is_ok();
        if whole { Seen::Numbered(u64::from_be_bytes([0, 0, a, b, c, d, e, f])) } else { Seen::Damaged }
    }
}

/// An ARP announcement of `mac` (RFC 5227, section 3) in a frame of 60 octets or a little more, by which switches learn
/// where `mac` is.
///
/// # Errors
/// None for any input; the length is a constant.
pub fn announcement(mac: Mac, ip: Ipv4Addr, vlan: Option<Vid>) -> Result<Vec<u8>, Malformed> {
    let mut bytes = vec![0; 60];
    let l3 = emit_ethernet(&mut bytes, (Mac::BROADCAST, mac), vlan, EtherType::ARP)?;
    let short = || Malformed::truncated(l3 + arp::LEN, 60);
    let packet = bytes.get_mut(l3..).and_then(|rest| rest.first_chunk_mut()).ok_or_else(short)?;
    let operation = arp::Operation::REQUEST;
    arp::Repr { operation, sender_mac: mac, sender_ip: ip, target_mac: Mac::ZERO, target_ip: ip }
        .emit(packet);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shape(size: usize, flows: u32, vlan: Option<Vid>) -> Shape {
        Shape {
            size,
            flows,
            vlan,
            smac: Mac([2, 0, 0, 0, 0, 1]),
            dmac: Mac([2, 0, 0, 0, 0, 2]),
            sip: Ipv4Addr::new(198, 18, 0, 1),
            dip: Ipv4Addr::new(198, 19, 0, 1),
            stream: 0x1234_5678,
        }
    }

    #[test]
    fn the_smallest_tagged_frame_holds_a_number() {
        let template = Template::new(shape(60, 1, Vid::new(100).ok())).unwrap();
        let mut frame = template.bytes().to_vec();
        template.stamp(&mut frame, MAX_SEQUENCE).unwrap();
        assert_eq!(frame[12..18], [0x81, 0x00, 0x00, 0x64, 0x08, 0x00]);
        assert_eq!(template.recognise(&frame), Seen::Numbered(MAX_SEQUENCE));
        assert!(Template::new(shape(59, 1, Vid::new(100).ok())).is_err());
    }

    #[test]
    fn a_frame_is_recognised_with_its_tag_pushed_or_popped() {
        let template = Template::new(shape(60, 1, None)).unwrap();
        let mut tagged = template.bytes().to_vec();
        tagged.splice(12..12, [0x81, 0x00, 0x00, 0x64]);
        assert_eq!(template.recognise(&tagged), Seen::Numbered(0));
    }

    #[test]
    fn flows_differ_in_port_and_then_in_address() {
        let template = Template::new(shape(60, 60_001, None)).unwrap();
        let source = |sequence| {
            let mut frame = template.bytes().to_vec();
            template.stamp(&mut frame, sequence).unwrap();
            (frame[29], u16::from_be_bytes([frame[34], frame[35]]))
        };
        assert_eq!((source(0), source(59_999)), ((1, 1024), (1, 61_023)));
        assert_eq!((source(60_000), source(60_001)), ((2, 1024), (1, 1024)));
    }

    #[test]
    fn each_flipped_bit_behind_the_addresses_is_damage_or_makes_the_frame_foreign() {
        let template = Template::new(shape(61, 1, None)).unwrap();
        for bit in 12 * 8..61 * 8 {
            let mut frame = template.bytes().to_vec();
            frame[bit / 8] ^= 0x80 >> (bit % 8);
            assert!(!matches!(template.recognise(&frame), Seen::Numbered(_)), "bit {bit}");
        }
    }

    #[test]
    fn another_run_and_other_traffic_are_foreign() {
        let template = Template::new(shape(60, 1, None)).unwrap();
        let other = Template::new(Shape { stream: 1, ..shape(60, 1, None) }).unwrap();
        assert_eq!(template.recognise(other.bytes()), Seen::Foreign);
        let announcement = announcement(Mac([2, 0, 0, 0, 0, 2]), Ipv4Addr::new(10, 0, 0, 1), None).unwrap();
        assert_eq!(template.recognise(&announcement), Seen::Foreign);
        assert_eq!(template.recognise(&[]), Seen::Foreign);
        assert_eq!(template.recognise(&template.bytes()[..59]), Seen::Foreign);
    }

    proptest! {
        #[test]
        fn each_stamp_is_recognised_whatever_was_stamped_before(
            size in 60usize..1600, flows in 1u32..200_000, vlan in proptest::option::of(0u16..4096),
            first in 0..=MAX_SEQUENCE, second in 0..=MAX_SEQUENCE,
        ) {
            let template = Template::new(shape(size, flows, vlan.and_then(|vid| Vid::new(vid).ok()))).unwrap();
            let mut frame = template.bytes().to_vec();
            for sequence in [first, second, 0] {
                template.stamp(&mut frame, sequence).unwrap();
                prop_assert_eq!(template.recognise(&frame), Seen::Numbered(sequence));
            }
            prop_assert_eq!(&frame[..], template.bytes());
        }

        #[test]
        fn any_octets_are_recognised_as_something(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let template = Template::new(shape(60, 1, None)).unwrap();
            prop_assert_eq!(template.recognise(&bytes), Seen::Foreign);
        }
    }
}
