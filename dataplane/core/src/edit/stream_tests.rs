use etherparse::PacketBuilder;
use proptest::prelude::*;
use weft_io::offload;

use super::*;
use crate::crafted::{self, Form, Kind, SIMPLE, forms, frame, header_len, is_sound, link};

fn tcp_forms() -> impl Strategy<Value = Form> {
    forms().prop_map(|form| Form { kind: Kind::Tcp, ..form })
}

/// A skew of so many octets, from the beginning.
fn skew(change: i32) -> Skew {
    let mut skew = Skew::default();
    skew.add(0x8000_0000, change);
    skew.add(0x9000_0000, 0);
    skew
}

proptest! {
    #[test]
    fn a_replaced_text_is_as_if_it_had_been_sent(
        form in tcp_forms(), payload in prop::collection::vec(any::<u8>(), 0..300), text in prop::collection::vec(any::<u8>(), 0..50),
        cut: (prop::sample::Index, prop::sample::Index), padding in 0..30usize, unfinished: bool, wrong: bool,
    ) {
        let (one, other) = (cut.0.index(payload.len() + 1), cut.1.index(payload.len() + 1));
        let span = one.min(other)..one.max(other);
        let mut replaced = payload.clone();
        replaced.splice(span.clone(), text.iter().copied());
        let (mut before, mut expected) = (frame(&form, &payload), frame(&form, &replaced));
        let start = link(&form).len() + header_len(&form);
        if wrong && !unfinished {
            // Urgent, without its checksum.
            before[start + 19] ^= 1;
            expected[start + 19] ^= 1;
        }
        before.resize(before.len() + padding, 0);
        let (octets, change) = crafted::with(&before, |packet| {
            if unfinished {
                let found = Layers::find(packet).unwrap();
                let pseudo = found.pseudo(found.payload.len).folded();
                packet.data_mut()[start + 16..start + 18].copy_from_slice(&pseudo.to_be_bytes());
                packet.request_checksum(start, 16).unwrap();
            }
            let change = replace(packet, span.clone(), &text);
            offload::finish_checksum(packet);
            change
        });
        prop_assert_eq!(change, Some(text.len() as i32 - span.len() as i32));
        // 0 and 0xffff are the same number.
        let twin = |octets: &[u8]| octets[start + 16..start + 18] == [0xff; 2] || octets[start + 16..start + 18] == [0; 2];
        prop_assert!(octets == expected || twin(&octets) && twin(&expected));
        prop_assert!(wrong || twin(&octets) || is_sound(&octets[link(&form).len()..]));
    }

    #[test]
    fn what_does_not_fit_changes_nothing(form in forms(), payload in prop::collection::vec(any::<u8>(), 0..300), start in 0..400usize) {
        let octets = frame(&form, &payload);
        let beyond = start..payload.len() + 1;
        let (after, change) = crafted::with(&octets, |packet| {
            let outcomes = [replace(packet, beyond, b"x"), replace(packet, 0..0, &[0; 5000])];
            outcomes.iter().any(Option::is_some)
        });
        prop_assert_eq!((after, change), (octets.clone(), false));
        // What is in several frames is not touched.
        let mut cache = crafted::frames();
        let mut packet = crafted::packet(&mut cache, &octets, link(&form).len() + header_len(&form) + 20);
        if packet.continuations() > 0 {
            prop_assert_eq!(replace(&mut packet, 0..0, b"x"), None);
        }
        prop_assert_eq!(crafted::octets(&mut cache, packet), octets);
    }

    #[test]
    fn a_renumbered_packet_is_one_that_had_these_numbers(
        numbers: (u32, u32), own in -100..100i32, other in -100..100i32, edges: [u32; 4], nothing in 0..3usize, unfinished: bool,
    ) {
        let (own, other) = (skew(own), skew(other));
        let build = |seq: u32, ack: u32, edges: [u32; 4]| {
            let mut options = vec![1u8; nothing];
            options.extend([5, 18]);
            edges.iter().for_each(|edge| options.extend(edge.to_be_bytes()));
            let mut octets = link(&SIMPLE);
            let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(1, 2, seq, 9).ack(ack);
            let mut ip = Vec::new();
            builder.options_raw(&options).unwrap().write(&mut ip, b"weft").unwrap();
            octets.extend(ip);
            octets
        };
        let (seq, ack) = numbers;
        let (octets, ()) = crafted::with(&build(seq, ack, edges), |packet| {
            if unfinished {
                let found = Layers::find(packet).unwrap();
                let pseudo = found.pseudo(found.payload.len).folded();
                packet.data_mut()[50..52].copy_from_slice(&pseudo.to_be_bytes());
                packet.request_checksum(34, 16).unwrap();
            }
            renumber(packet, &own, &other);
            offload::finish_checksum(packet);
        });
        let expected = build(own.sent(seq), other.acknowledged(ack), edges.map(|edge| other.acknowledged(edge)));
        prop_assert_eq!(octets, expected);
    }

    #[test]
    fn any_octets_are_renumbered_without_a_panic(
        octets in prop::collection::vec(any::<u8>(), 0..120), form in tcp_forms(), lead in 0..120usize, span: (u8, u8), at: prop::sample::Index, with: u8,
    ) {
        let like = frame(&form, &[0; 60]);
        let lead = lead.min(octets.len()).min(like.len());
        let mut octets = [&like[..lead], &octets[lead..]].concat();
        if !octets.is_empty() {
            let at = at.index(octets.len());
            octets[at] = with;
        }
        crafted::with(&octets, |packet| {
            renumber(packet, &skew(3), &skew(-7));
            data(packet).map(<[u8]>::len);
            replace(packet, span.0.into()..span.1.into(), b"some text");
            renumber(packet, &skew(3), &skew(-7));
        });
    }
}

#[test]
fn the_data_is_what_is_behind_the_options() {
    let mut padded = frame(&SIMPLE, b"weft");
    padded.resize(100, 0);
    crafted::with(&padded, |packet| assert_eq!(data(packet), Some(&b"weft"[..])));
    let udp = frame(&Form { kind: Kind::Udp, ..SIMPLE }, b"weft");
    crafted::with(&udp, |packet| assert_eq!(data(packet), None));
}

#[test]
fn an_acknowledgement_number_that_does_not_count_stays() {
    let mut octets = frame(&SIMPLE, b"");
    octets[47] &= !0x10;
    let before = octets[42..46].to_vec();
    let (after, ()) = crafted::with(&octets, |packet| renumber(packet, &skew(0), &skew(9)));
    assert_eq!(after[42..46], before[..]);
}
