//! Tests of segmentation: what comes out of a GSO packet is what its sender would have sent one by one.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::offload::finish_checksum;
use crate::test_packets::{Kind, expected, field, frame, kinds, packet, pool};

fn gso_type(kind: Kind) -> u8 {
    match (kind.tcp, kind.v6) {
        (false, _) => GSO_UDP_L4,
        (true, false) => GSO_TCPV4,
        (true, true) => GSO_TCPV6,
    }
}

/// All segments of `octets`, with finished checksums.
fn segments(octets: &[u8], head: usize, gso_type: u8, gso_size: u16) -> Result<Vec<Vec<u8>>, DropReason> {
    let pool = pool();
    let mut frames = pool.cache();
    let mut whole = packet(&mut frames, octets, head, 2800);
    (whole.offload.gso_type, whole.offload.gso_size) = (gso_type, gso_size);
    let mut segmenter = match Segmenter::new(whole) {
        Ok(segmenter) => segmenter,
        Err((packet, reason)) => {
            frames.free(packet);
            return Err(reason);
        }
    };
    let mut all = Vec::new();
    while let Some(segment) = segmenter.next(&mut frames) {
        let mut segment = segment.expect("there are frames");
        finish_checksum(&mut segment);
        all.push(segment.segments().flatten().copied().collect());
        frames.free(segment);
    }
    segmenter.finish(&mut frames);
    drop(frames);
    assert_eq!(pool.at_home(), pool.frames());
    Ok(all)
}

proptest! {
    #[test]
    fn segments_are_what_the_sender_would_have_sent(
        kind in kinds(),
        payload in prop::collection::vec(any::<u8>(), 1..20_000),
        size in 100u16..9000,
        head in 100usize..2000,
    ) {
        let mut whole = frame(kind, &payload);
        let found = Transport::locate(&whole).expect("TCP or UDP");
        if kind.tcp {
            // CWR, PSH, FIN.
            whole[found.start + 13] |= 0x89;
        }
        let cut = segments(&whole, head, gso_type(kind), size).expect("it can be cut");
        prop_assert_eq!(cut.len(), payload.len().div_ceil(usize::from(size)));
        let mut together = Vec::new();
        for (index, segment) in cut.iter().enumerate() {
            let sliced = SlicedPacket::from_ethernet(segment).expect("a packet");
            prop_assert_eq!(field(segment).1 % 0xffff, expected(segment) % 0xffff);
            if let Some(NetSlice::Ipv4(ip)) = &sliced.net {
                let header = ip.header().to_header();
                prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
                prop_assert_eq!(usize::from(header.identification), index);
            }
            match sliced.transport.expect("TCP or UDP") {
                TransportSlice::Tcp(tcp) => {
                    let (first, last) = (index == 0, index + 1 == cut.len());
                    prop_assert_eq!(tcp.sequence_number(), 77 + together.len() as u32);
                    prop_assert_eq!((tcp.cwr(), tcp.psh(), tcp.fin(), tcp.ack()), (first, last, last, true));
                    together.extend_from_slice(tcp.payload());
                }
                TransportSlice::Udp(udp) => {
                    prop_assert_eq!(usize::from(udp.length()), 8 + udp.payload().len());
                    together.extend_from_slice(udp.payload());
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
        prop_assert_eq!(together, payload);
    }

    #[test]
    fn segments_behind_labels_are_those_without_labels_each_with_its_labels(
        kind in kinds(),
        payload in prop::collection::vec(any::<u8>(), 1..9_000),
        size in 100u16..2000,
        labels in 1usize..4,
    ) {
        let whole = frame(kind, &payload);
        let at = Transport::locate(&whole).expect("TCP or UDP").network;
        let stack: Vec<u8> = (1..=labels).flat_map(|left| [0, 1, u8::from(left == labels), 64]).collect();
        let label = |octets: &[u8]| [&octets[..at - 2], &[0x88, 0x47], &stack, &octets[at..]].concat();
        let bare = segments(&whole, 300, gso_type(kind), size).expect("it can be cut");
        let labelled = segments(&label(&whole), 300, gso_type(kind), size).expect("it can be cut");
        prop_assert_eq!(labelled, bare.iter().map(|segment| label(segment)).collect::<Vec<_>>());
    }

    #[test]
    fn garbage_is_cut_or_refused_and_never_panics(
        octets in prop::collection::vec(any::<u8>(), 0..300),
        head in 0usize..300,
        gso_type: u8,
        gso_size: u16,
    ) {
        let _ = segments(&octets, head, gso_type, gso_size);
    }

    #[test]
    fn a_packet_with_some_octets_changed_is_cut_or_refused_and_never_panics(
        kind in kinds(),
        changes in prop::collection::vec((0usize..90, any::<u8>()), 1..6),
        gso_size: u16,
    ) {
        let mut octets = frame(kind, &[7; 3000]);
        for (at, value) in changes {
            if let Some(octet) = octets.get_mut(at) {
                *octet = value;
            }
        }
        let _ = segments(&octets, 200, gso_type(kind), gso_size);
    }
}

#[test]
fn what_is_not_segments_of_its_type_is_refused() {
    let tcp4 = frame(Kind { v6: false, tcp: true, tagged: false }, &[1; 3000]);
    let udp6 = frame(Kind { v6: true, tcp: false, tagged: true }, &[1; 3000]);
    assert_eq!(segments(&tcp4, 200, GSO_TCPV6, 1000), Err(DropReason::Malformed));
    assert_eq!(segments(&tcp4, 200, GSO_UDP_L4, 1000), Err(DropReason::Malformed));
    assert_eq!(segments(&udp6, 200, GSO_TCPV6, 1000), Err(DropReason::Malformed));
    assert_eq!(segments(&udp6, 200, crate::offload::GSO_UDP, 1000), Err(DropReason::RxTooBig));
    assert_eq!(segments(&tcp4, 200, GSO_TCPV4, 1), Err(DropReason::Malformed), "3000 segments");
    assert_eq!(segments(&tcp4, 40, GSO_TCPV4, 1000), Err(DropReason::Malformed), "headers in two frames");
    assert_eq!(segments(&tcp4, 200, GSO_TCPV4 | GSO_ECN, 1000).map(|all| all.len()), Ok(3));
}
