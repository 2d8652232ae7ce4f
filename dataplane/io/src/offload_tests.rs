//! Tests of offload state: known bytes, lies, and etherparse as the oracle of checksums.

use proptest::prelude::*;

use super::*;
use crate::test_packets::{Kind, expected, field, frame, kinds, packet, pool};

proptest! {
    #[test]
    fn an_unfinished_checksum_is_recognised_and_finished_to_what_etherparse_says(
        kind in kinds(),
        payload in prop::collection::vec(any::<u8>(), 0..3000),
        head in 94usize..200,
        tail in 200usize..600,
    ) {
        let pool = pool();
        let mut cache = pool.cache();
        let good = frame(kind, &payload);
        prop_assert_eq!(field(&good).1, expected(&good));
        let mut partial = good.clone();
        let found = Transport::locate(&good).expect("TCP or UDP");
        let pseudo = found.pseudo_header(&good, found.len).expect("addresses");
        let at = field(&good).0;
        partial[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        let mut packet = packet(&mut cache, &partial, head, tail);
        prop_assert_eq!(looks_partial(&packet), Some(found));
        request_if_partial(&mut packet);
        prop_assert_eq!(packet.checksum_start(), Some(found.start));
        finish_checksum(&mut packet);
        let octets: Vec<u8> = packet.segments().flatten().copied().collect();
        let (flags, again) = (packet.offload.flags, looks_partial(&packet).is_some());
        cache.free(packet);
        prop_assert_eq!(flags, 0);
        prop_assert_eq!(field(&octets).1, if expected(&good) == 0 { 0xffff } else { expected(&good) });
        prop_assert!(!again || field(&good).1 == pseudo);
    }

    #[test]
    fn an_unfinished_checksum_of_sctp_is_finished_as_a_crc(
        payload in prop::collection::vec(any::<u8>(), 0..3000),
        junk: [u8; 4],
        tail in 200usize..600,
    ) {
        let pool = pool();
        let mut cache = pool.cache();
        let mut octets = frame(Kind { v6: false, tcp: false, tagged: false }, &[]);
        let start = octets.len() - 8;
        octets.truncate(start);
        octets.extend([0x0b, 0x59, 0x0b, 0x59, 0, 0, 0, 1]);
        octets.extend(junk);
        octets.extend(&payload);
        let mut expected = octets.clone();
        expected[start + 8..start + 12].fill(0);
        let mut crc = Crc::new();
        crc.add(&expected[start..]);
        expected[start + 8..start + 12].copy_from_slice(&crc.checksum());
        let mut packet = packet(&mut cache, &octets, 100, tail);
        prop_assert!(packet.request_checksum(start, 8).is_some());
        finish_checksum(&mut packet);
        let finished: Vec<u8> = packet.segments().flatten().copied().collect();
        let flags = packet.offload.flags;
        cache.free(packet);
        prop_assert_eq!((flags, finished), (0, expected));
    }

    #[test]
    fn no_header_and_no_packet_makes_it_panic_or_point_outside(
        octets in prop::collection::vec(any::<u8>(), 0..200),
        header in any::<[u8; VNET_HEADER]>(),
        pull in 0usize..100,
    ) {
        let pool = pool();
        let mut cache = pool.cache();
        let mut packet = packet(&mut cache, &octets, 200, 100);
        let verdict = parse_vnet_header(&mut packet, &header);
        if verdict.is_ok() && packet.offload.flags & Offload::NEEDS_CHECKSUM != 0 {
            let start = packet.checksum_start().expect("it was just set");
            prop_assert!(start + usize::from(packet.offload.checksum_offset) + 2 <= packet.len());
        }
        let _ = packet.pull_front(pull);
        let emitted = emit_vnet_header(&packet);
        prop_assert_eq!(emitted[0] & !1, 0);
        let _ = looks_partial(&packet);
        request_if_partial(&mut packet);
        packet.truncate(octets.len() / 2);
        finish_checksum(&mut packet);
        cache.free(packet);
    }

    #[test]
    fn a_header_reads_back_as_it_was_written(
        start in 14u16..80, offset in 0u16..18, size in 1u16.., gso in prop::sample::select(vec![0, 1, 3, 4, 5, 0x81]),
    ) {
        let pool = pool();
        let mut cache = pool.cache();
        let mut packet = packet(&mut cache, &[0; 100], 100, 100);
        let gso_size = if gso == 0 { 0 } else { size };
        let mut header = [0xa5; VNET_HEADER];
        header[..2].copy_from_slice(&[1, gso]);
        header[2..4].copy_from_slice(&if gso == 0 { 0u16 } else { 100 }.to_ne_bytes());
        header[4..6].copy_from_slice(&gso_size.to_ne_bytes());
        header[6..8].copy_from_slice(&start.to_ne_bytes());
        header[8..10].copy_from_slice(&offset.to_ne_bytes());
        prop_assert_eq!(parse_vnet_header(&mut packet, &header), Ok(()));
        let emitted = emit_vnet_header(&packet);
        cache.free(packet);
        prop_assert_eq!(&emitted[..VNET_HEADER], &header);
        prop_assert_eq!(u16::from_ne_bytes([emitted[10], emitted[11]]), 1);
    }
}

#[test]
fn headers_that_lie_are_malformed() {
    let pool = pool();
    let mut cache = pool.cache();
    let mut packet = packet(&mut cache, &[0; 60], 60, 100);
    let header = |flags: u8, gso: u8, size: u16, start: u16, offset: u16| {
        let mut header = [0; VNET_HEADER];
        header[..2].copy_from_slice(&[flags, gso]);
        header[4..6].copy_from_slice(&size.to_ne_bytes());
        header[6..8].copy_from_slice(&start.to_ne_bytes());
        header[8..10].copy_from_slice(&offset.to_ne_bytes());
        header
    };
    for (lie, what) in [
        (header(1, 0, 0, 59, 0), "half of the field is outside"),
        (header(1, 0, 0, 60, 0), "the start is outside"),
        (header(1, 0, 0, 0xffff, 0xffff), "both are far outside"),
        (header(1, 0, 0, 13, 6), "the start is in the Ethernet header"),
        (header(1, 1, 0, 34, 16), "segments of no octets"),
        (header(0, 2, 1000, 0, 0), "an unknown segment type"),
        (header(0, 0x80, 1000, 0, 0), "ECN of no segments"),
    ] {
        assert_eq!(parse_vnet_header(&mut packet, &lie), Err(DropReason::Malformed), "{what}");
    }
    assert_eq!(parse_vnet_header(&mut packet, &header(2, 0, 0, 9, 9)), Ok(()));
    assert_eq!((packet.offload.flags, packet.checksum_start()), (Offload::CHECKSUM_VALID, None));
    assert_eq!(
        emit_vnet_header(&packet),
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1u16.to_ne_bytes()[0], 1u16.to_ne_bytes()[1]]
    );
    cache.free(packet);
}

#[test]
fn fragments_and_udp_without_checksum_never_look_partial() {
    let pool = pool();
    let mut cache = pool.cache();
    let kind = Kind { v6: false, tcp: false, tagged: false };
    for (change, what) in [((14 + 6, 0x20), "more fragments follow"), ((14 + 7, 1), "not the first fragment")]
    {
        let mut octets = frame(kind, &[1, 2, 3]);
        let found = Transport::locate(&octets).unwrap();
        let pseudo = found.pseudo_header(&octets, found.len).unwrap();
        octets[40..42].copy_from_slice(&pseudo.to_be_bytes());
        octets[change.0] = change.1;
        let packet = packet(&mut cache, &octets, 200, 200);
        assert_eq!(looks_partial(&packet), None, "{what}");
        cache.free(packet);
    }
    let mut octets = frame(kind, &[1, 2, 3]);
    octets[40..42].copy_from_slice(&[0, 0]);
    let packet = packet(&mut cache, &octets, 200, 200);
    assert_eq!(looks_partial(&packet), None);
    cache.free(packet);
}

#[test]
fn zero_padding_is_no_obstacle_and_other_padding_is_one() {
    let pool = pool();
    let mut cache = pool.cache();
    let mut octets = frame(Kind { v6: false, tcp: false, tagged: false }, &[1]);
    let found = Transport::locate(&octets).unwrap();
    let pseudo = found.pseudo_header(&octets, found.len).unwrap();
    octets[40..42].copy_from_slice(&pseudo.to_be_bytes());
    octets.resize(60, 0);
    let packet = packet(&mut cache, &octets, 200, 200);
    assert_eq!(looks_partial(&packet), Some(found));
    cache.free(packet);
    octets[59] = 1;
    let packet = crate::test_packets::packet(&mut cache, &octets, 200, 200);
    assert_eq!(looks_partial(&packet), None);
    cache.free(packet);
}
