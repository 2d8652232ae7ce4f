use proptest::prelude::*;

use super::*;
use crate::crafted::{self, Form, Kind, SIMPLE, error, forms, frame, header_len, link};

fn facts_of(octets: &[u8]) -> Option<Facts> {
    crafted::with(octets, |packet| facts(packet)).1
}

fn tuple(form: &Form) -> Tuple {
    let ([src, dst], [src_port, dst_port]) = (form.addresses, form.ports);
    let family = if form.six { Family::V6 } else { Family::V4 };
    let (protocol, dst_port) = match (form.kind, form.six) {
        (Kind::Tcp, _) => (6, dst_port),
        (Kind::Udp, _) => (17, dst_port),
        (Kind::Ping, false) => (1, 0x0800),
        (Kind::Ping, true) => (58, 0x8000),
    };
    Tuple { src, dst, src_port, dst_port, protocol, family }
}

/// Some octets of it.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..2000)
}

proptest! {
    #[test]
    fn a_right_packet_is_sound_whatever_frames_it_is_in(form in forms(), payload in payload(), head in 100..2100usize) {
        let octets = frame(&form, &payload);
        let mut cache = crafted::frames();
        let packet = crafted::packet(&mut cache, &octets, head);
        let found = facts(&packet).unwrap();
        let tcp = (form.kind == Kind::Tcp).then_some(Segment {
            seq: 77, ack: 9, window: 500, flags: 0x10, payload: payload.len() as u32, scale: None,
        });
        prop_assert_eq!(found, Facts { tuple: tuple(&form), tcp, inner: None, valid: true });
        prop_assert_eq!(segment(&packet), tcp);
        cache.free(packet);
    }

    #[test]
    fn a_flipped_bit_is_found(form in forms(), payload in payload(), at: prop::sample::Index, bit in 0..8) {
        let mut octets = frame(&form, &payload);
        let start = link(&form).len();
        // IPv6 has no checksum of its own.
        let start = if form.six { start + header_len(&form) } else { start };
        let at = start + at.index(octets.len() - start);
        octets[at] ^= 1u8 << bit;
        let transport = link(&form).len() + header_len(&form);
        // A checksum of one bit would become none.
        prop_assume!(form.six || form.kind != Kind::Udp || !(transport + 6..transport + 8).contains(&at));
        prop_assert!(!facts_of(&octets).is_some_and(|found| found.valid));
    }

    #[test]
    fn padding_is_not_the_packets(form in forms(), payload in payload(), padding in 1..300usize) {
        let mut octets = frame(&form, &payload);
        let expected = facts_of(&octets);
        octets.resize(octets.len() + padding, 0xa5);
        prop_assert_eq!(facts_of(&octets), expected);
    }

    #[test]
    fn an_error_says_what_it_is_about(form in forms(), router: u128, kind in crafted::kinds(), left in 8..200usize) {
        // The quoted packet went the other way.
        let inner = Form { kind, addresses: [form.addresses[1], form.addresses[0]], options: !form.options, ..form };
        let mut quotation = crafted::ip(&inner, &[7; 200]);
        quotation.truncate(header_len(&inner) + left);
        let outer = Form { addresses: [router & form.addresses[0], inner.addresses[0]], ..form };
        let octets = error(&outer, &quotation);
        let found = facts_of(&octets).unwrap();
        prop_assert_eq!((found.inner, found.valid), (Some(tuple(&inner)), true));
        // Of which too little is there.
        quotation.truncate(header_len(&inner) + 7);
        prop_assert!(!facts_of(&error(&outer, &quotation)).unwrap().valid);
    }

    #[test]
    fn any_octets_are_read_without_a_panic(
        mut octets in prop::collection::vec(any::<u8>(), 0..200), kind in 0..5usize, head in 0..200usize, lead: bool,
        protocol in prop::sample::select(vec![1u8, 6, 17, 58, 132, 0, 43, 44]),
    ) {
        let ether_type = [[8, 0], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8], [0x88, 0x47]][kind];
        octets.splice(12.min(octets.len())..14.min(octets.len()), ether_type);
        if lead && octets.len() > 60 {
            let len = octets.len() as u16 - 14;
            match kind {
                0 => {
                    octets[14] = 0x45;
                    octets[16..18].copy_from_slice(&len.to_be_bytes());
                    octets[20..22].fill(0);
                    octets[23] = protocol;
                }
                _ => {
                    octets[18..20].copy_from_slice(&(len - 40).to_be_bytes());
                    octets[20] = protocol;
                }
            }
        }
        let mut cache = crafted::frames();
        let packet = crafted::packet(&mut cache, &octets, head);
        let found = facts(&packet);
        let tcp = segment(&packet);
        if tcp.is_some() {
            prop_assert_eq!(tcp, found.and_then(|found| found.tcp));
        }
        cache.free(packet);
    }
}

fn udp_with_checksum(six: bool, checksum: [u8; 2]) -> Facts {
    let form = Form { kind: Kind::Udp, six, ..SIMPLE };
    let mut octets = frame(&form, b"weft");
    let at = 14 + header_len(&form) + 6;
    octets[at..at + 2].copy_from_slice(&checksum);
    facts_of(&octets).unwrap()
}

#[test]
fn no_udp_checksum_is_one_over_ipv4_only() {
    assert!(udp_with_checksum(false, [0, 0]).valid);
    assert!(!udp_with_checksum(true, [0, 0]).valid);
    assert!(!udp_with_checksum(false, [0, 1]).valid);
}

#[test]
fn a_udp_length_beyond_the_packet_or_below_its_header_is_not_sound() {
    let form = Form { kind: Kind::Udp, ..SIMPLE };
    for (len, valid) in [(12, true), (8, true), (7, false), (13, false)] {
        let mut octets = frame(&form, b"weft");
        octets[38..42].copy_from_slice(&[0, len, 0, 0]);
        assert_eq!(facts_of(&octets).unwrap().valid, valid, "{len}");
    }
}

#[test]
fn a_checksum_that_is_unfinished_or_verified_is_not_looked_at() {
    for form in [SIMPLE, Form { kind: Kind::Udp, six: true, ..SIMPLE }] {
        let mut octets = frame(&form, b"weft");
        *octets.last_mut().unwrap() ^= 1;
        let start = 14 + header_len(&form);
        let valid = |act: &dyn Fn(&mut Packet)| {
            crafted::with(&octets, |packet| {
                act(packet);
                facts(packet).unwrap().valid
            })
            .1
        };
        assert!(!valid(&|_| ()));
        assert!(valid(&|packet| packet.request_checksum(start, 6).unwrap()));
        assert!(valid(&|packet| packet.offload.flags = Offload::CHECKSUM_VALID));
        // One of something else inside.
        assert!(!valid(&|packet| packet.request_checksum(start + 2, 0).unwrap()));
    }
}

#[test]
fn port_0_is_not_sound() {
    for (kind, ports) in
        [(Kind::Tcp, [0, 80]), (Kind::Tcp, [80, 0]), (Kind::Udp, [0, 53]), (Kind::Udp, [53, 0])]
    {
        assert!(!facts_of(&frame(&Form { kind, ports, ..SIMPLE }, b"")).unwrap().valid);
    }
    // An identifier may be 0.
    assert!(facts_of(&frame(&Form { kind: Kind::Ping, ports: [0, 0], ..SIMPLE }, b"")).unwrap().valid);
}

#[test]
fn what_is_not_ip_has_no_facts_and_a_fragment_is_not_sound_by_itself() {
    let mut arp = frame(&SIMPLE, b"");
    arp[13] = 6;
    assert_eq!(facts_of(&arp), None);
    let mut fragment = frame(&Form { kind: Kind::Udp, ..SIMPLE }, b"weft");
    fragment[40..42].fill(0);
    fragment[20] |= 0x20;
    fragment[24] = fragment[24].wrapping_sub(0x20);
    let found = facts_of(&fragment).unwrap();
    assert_eq!((found.valid, found.tuple.src_port), (false, 1000));
    assert_eq!(crafted::with(&fragment, |packet| segment(packet)).1, None);
}

#[test]
fn icmp_that_has_no_connection_is_not_sound() {
    let message = |six: bool, kind: u8, code: u8| {
        let form = Form { kind: Kind::Ping, six, ..SIMPLE };
        let mut octets = frame(&form, &[0; 40]);
        let at = 14 + header_len(&form);
        octets[at..at + 2].copy_from_slice(&[kind, code]);
        crafted::fill_icmp(&form, &mut octets[at..]);
        facts_of(&octets).unwrap().valid
    };
    assert!([0, 8, 13, 14, 15, 16].iter().all(|&kind| message(false, kind, 0)));
    assert!(message(true, 128, 0) && message(true, 129, 0));
    // A code, a router's advertisement, an error about nothing; neighbour discovery.
    assert!(!message(false, 8, 1) && !message(false, 9, 0) && !message(false, 3, 1));
    assert!(!message(true, 128, 1) && !message(true, 135, 0) && !message(true, 2, 0));
}

#[test]
fn a_syn_says_its_window_scale() {
    let scale = |flags: u8, options: &[u8]| {
        let mut segment = vec![0; 20];
        (segment[12], segment[13]) = (((20 + options.len()) * 4) as u8, flags);
        segment.extend(options);
        read_segment(&segment, segment.len()).unwrap().scale
    };
    assert_eq!(scale(2, &[2, 4, 5, 180, 1, 3, 3, 7]), Some(7));
    assert_eq!(scale(0x12, &[3, 3, 255, 0]), Some(14));
    assert_eq!(scale(0x10, &[3, 3, 7, 0]), None, "no SYN");
    assert_eq!(scale(2, &[3, 4, 7, 0]), None, "a wrong length");
    assert_eq!(scale(2, &[0, 3, 3, 7]), None, "behind the end");
    assert_eq!(scale(2, &[]), None);
    assert_eq!(scale(2, &[8, 9, 3, 3]), None, "more than there is");
}

/// An SCTP packet of these chunks.
fn sctp(chunks: &[u8]) -> Vec<u8> {
    let form = Form { kind: Kind::Udp, ..SIMPLE };
    let mut octets = frame(&form, &[&[0; 4], chunks].concat());
    octets[34..46].copy_from_slice(&[0, 1, 0, 2, 9, 9, 9, 9, 0, 0, 0, 0]);
    let mut crc = crc32c::Crc::default();
    crc.add(&octets[34..]);
    octets[42..46].copy_from_slice(&crc.checksum());
    // The IPv4 header's checksum, for another protocol.
    (octets[23], octets[25]) = (132, octets[25].wrapping_sub(132 - 17));
    octets[24..26].fill(0);
    let sum = checksum::checksum(&octets[14..34]);
    octets[24..26].copy_from_slice(&sum.to_be_bytes());
    octets
}

#[test]
fn sctp_is_sound_if_its_chunks_fill_it_and_its_checksum_fits() {
    let whole = [0, 3, 0, 6, 1, 2, 0, 0, 11, 0, 0, 4];
    let mut cache = crafted::frames();
    for head in 46..60 {
        let packet = crafted::packet(&mut cache, &sctp(&whole), head);
        let found = facts(&packet).unwrap();
        assert!(found.valid, "{head}");
        assert_eq!((found.tuple.src_port, found.tuple.dst_port), (1, 2));
        cache.free(packet);
    }
    for chunks in [&whole[..11], &whole[..10], &whole[..9], &[0, 0, 0, 3], &[0, 0, 0, 8], &[0, 0, 255, 255]] {
        assert!(!facts_of(&sctp(chunks)).unwrap().valid, "{chunks:?}");
    }
    let mut wrong = sctp(&whole);
    wrong[50] ^= 1;
    assert!(!facts_of(&wrong).unwrap().valid);
}
