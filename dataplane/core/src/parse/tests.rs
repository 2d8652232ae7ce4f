//! Frames whose keys can be read off by eye; `tests/parse_truth.rs` compares thousands with Open vSwitch.

use super::*;
use crate::key::PortId;
use proptest::prelude::*;

const PORT: Ingress = Ingress::port(PortId(3));

fn frame(tail: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1], tail].concat()
}

#[test]
fn addresses_ingress_and_tag_are_read() {
    let frame = frame(&[0x81, 0, 0xa0, 0x64, 8, 0]);
    let key = full(&frame, PORT).unwrap();
    assert_eq!(key.destination(), Mac([2, 0, 0, 0, 0, 2]));
    assert_eq!(key.source(), Mac([2, 0, 0, 0, 0, 1]));
    assert_eq!((key.tci().vid().get(), key.tci().pcp(), key.tci().is_tagged()), (100, 5, true));
    assert_eq!((Ingress::of(&key), key.ether_type()), (PORT, EtherType::IPV4.0));
}

#[test]
fn a_frame_that_ends_in_its_ethernet_header_or_tag_has_no_key() {
    assert_eq!(full(&frame(&[8]), PORT), None);
    assert_eq!(full(&frame(&[0x81, 0, 0, 1, 8]), PORT), None);
    assert!(full(&frame(&[8, 0]), PORT).is_some());
}

#[test]
fn a_udp_packets_five_tuple_is_read() {
    let mut ip = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    ip.extend([0x12, 0x34, 0, 53, 0, 8, 0, 0]);
    let key = full(&frame(&[&[8, 0], &ip[..]].concat()), PORT).unwrap();
    assert_eq!((key.0[5], key.0[7]), (0x0a00_0001, 0x0a00_0002));
    assert_eq!(key.0[8], 0x1234_0035_0000_0000);
    assert_eq!(key.0[3] & 0xffff_ffff, 0x1100_4000);
}

#[test]
fn of_icmp_an_echos_identifier_is_read_and_an_errors_rest_is_not() {
    let key = |kind: u8| {
        let mut ip = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        ip.extend([kind, 7, 0, 0, 0x12, 0x34, 0, 1]);
        full(&frame(&[&[8, 0], &ip[..]].concat()), PORT).unwrap().0[8]
    };
    assert_eq!(key(8), 0x1208_3407_0000_0000);
    assert_eq!(key(3), 0x0003_0007_0000_0000);
}

proptest! {
    #[test]
    fn any_octets_are_parsed_without_a_panic(octets in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..4usize) {
        let mut octets = octets;
        let ether_type = [EtherType::IPV4, EtherType::IPV6, EtherType::ARP, EtherType::VLAN][kind].0.to_be_bytes();
        if let Some(place) = octets.get_mut(12..14) {
            place.copy_from_slice(&ether_type);
        }
        let full = full(&octets, PORT);
        prop_assert_eq!(full.map(|key| [key.0[0], key.0[1]]), ethernet(&octets, PORT));
    }
}

proptest! {
    /// Plain IPv4, of which octets that matter are changed.
    #[test]
    fn what_is_plain_is_read_as_anything_else_is(
        changes in proptest::collection::vec((12..54usize, any::<u8>()), 0..3), protocol in prop::sample::select(vec![6u8, 17, 132]),
        len in 40..70usize, total in 0..80usize, said in 0..60u16,
    ) {
        let mut frame = [0; 70];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&said.to_be_bytes());
        frame[23] = protocol;
        frame[26..38].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2, 4, 5, 0, 53]);
        frame[46] = 0x50;
        changes.into_iter().for_each(|(at, octet)| frame[at] = octet);
        let (frame, ingress) = (&frame[..len], Ingress::port(PortId(3)));
        prop_assert_eq!(words::<MIDDLE>(frame, total, ingress), any_words::<MIDDLE>(frame, total, ingress));
        prop_assert_eq!(words::<KEY_WORDS>(frame, len, ingress), any_words::<KEY_WORDS>(frame, len, ingress));
    }
}
