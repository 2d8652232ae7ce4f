//! Translated packets against packets that etherparse has built with the new ends, all checksums anew.

use proptest::prelude::*;
use weft_conntrack::Tuple;
use weft_io::offload;
use weft_wire::crc32c::Crc;

use super::*;
use crate::crafted::{self, Form, Kind, SIMPLE, error, forms, frame, header_len, is_sound, link};
use crate::facts::facts;

/// What gives a packet of `form` its ends, whatever it had before.
fn to(form: &Form) -> Translation {
    let (protocol, dst_port) = match (form.kind, form.six) {
        (Kind::Tcp, _) => (6, form.ports[1]),
        (Kind::Udp, _) => (17, form.ports[1]),
        (Kind::Ping, false) => (1, 0x0800),
        (Kind::Ping, true) => (58, 0x8000),
    };
    let family = if form.six { Family::V6 } else { Family::V4 };
    let ([src, dst], src_port) = (form.addresses, form.ports[0]);
    let tuple = Tuple { src, dst, src_port, dst_port, protocol, family };
    Translation { tuple, source: true, destination: true, related: false }
}

/// A form, and the same with other ends; each of them may be the same.
fn pairs() -> impl Strategy<Value = (Form, Form)> {
    (forms(), forms(), any::<[bool; 3]>()).prop_map(|(old, other, [source, destination, ports])| {
        let mask = if old.six { u128::MAX } else { u128::from(u32::MAX) };
        let pick = |change: bool, at: usize| {
            if change { other.addresses[at] & mask } else { old.addresses[at] }
        };
        let new_ports = if ports { other.ports } else { old.ports };
        (old, Form { addresses: [pick(source, 0), pick(destination, 1)], ports: new_ports, ..old })
    })
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..300)
}

fn translated(octets: &[u8], translation: &Translation) -> Vec<u8> {
    let (octets, result) = crafted::with(octets, |packet| translate(packet, translation));
    assert_eq!(result, Ok(()));
    octets
}

proptest! {
    #[test]
    fn a_translated_packet_is_one_that_had_these_ends_from_the_start((old, new) in pairs(), payload in payload()) {
        let octets = translated(&frame(&old, &payload), &to(&new));
        prop_assert!(is_sound(&octets[link(&old).len()..]));
        prop_assert_eq!(&octets, &frame(&new, &payload));
        prop_assert_eq!(translated(&octets, &to(&old)), frame(&old, &payload), "and back");
    }

    #[test]
    fn a_wrong_checksum_stays_as_wrong((old, new) in pairs(), payload in prop::collection::vec(any::<u8>(), 1..99)) {
        let flip = |mut octets: Vec<u8>| {
            *octets.last_mut().unwrap() ^= 0x40;
            octets
        };
        prop_assert_eq!(translated(&flip(frame(&old, &payload)), &to(&new)), flip(frame(&new, &payload)));
    }

    #[test]
    fn an_unfinished_checksum_stays_so_and_is_right_when_it_is_finished(
        (old, new) in pairs(), payload in payload(), udp: bool,
    ) {
        let kind = if udp { Kind::Udp } else { Kind::Tcp };
        let (old, new) = (Form { kind, ..old }, Form { kind, ..new });
        let start = link(&old).len() + header_len(&old);
        let offset = if udp { 6 } else { 16 };
        let (octets, ()) = crafted::with(&frame(&old, &payload), |packet| {
            let found = Layers::find(packet).unwrap();
            let pseudo = found.pseudo(found.payload.len).folded();
            packet.data_mut()[start + offset..start + offset + 2].copy_from_slice(&pseudo.to_be_bytes());
            packet.request_checksum(start, offset).unwrap();
            translate(packet, &to(&new)).unwrap();
            assert!(packet.checksum_start().is_some());
            offload::finish_checksum(packet);
        });
        prop_assert_eq!(octets, frame(&new, &payload));
    }

    #[test]
    fn an_error_is_translated_and_what_it_quotes_in_reverse(
        (old, new) in pairs(), router: u128, payload in payload(), left in 8..120usize,
    ) {
        // Half a checksum can't be brought up to date.
        prop_assume!(left != 17);
        let router = if old.six { router } else { u128::from(router as u32) };
        let quotation = |form: &Form| {
            let mut octets = crafted::ip(form, &payload);
            octets.truncate(header_len(form) + left);
            octets
        };
        // The error is on its way to the quoted packet's source.
        let (source, destination) = (new.addresses[1] != old.addresses[1], new.addresses[0] != old.addresses[0]);
        let translation = Translation { tuple: to(&new).tuple.reversed(), source, destination, related: true };
        let outer = |from, to| Form { addresses: [from, to], ..old };
        let before = error(&outer(router, old.addresses[0]), &quotation(&old));
        let from = if source { new.addresses[1] } else { router };
        let after = error(&outer(from, new.addresses[0]), &quotation(&new));
        prop_assert_eq!(translated(&before, &translation), after.clone());
        let inner = crafted::with(&after, |packet| facts(packet)).1.unwrap();
        prop_assert_eq!((inner.inner, inner.valid), (Some(to(&new).tuple), true));
    }

    #[test]
    fn any_octets_are_translated_without_a_panic(
        mut octets in prop::collection::vec(any::<u8>(), 0..200), form in forms(), related: bool, head in 0..200usize, lead: bool,
    ) {
        let whole = frame(&form, &octets);
        if lead {
            let keep = octets.len().min(whole.len());
            octets.splice(..keep.min(link(&form).len() + 30), whole[..keep.min(link(&form).len() + 30)].iter().copied());
        }
        let mut cache = crafted::frames();
        let mut packet = crafted::packet(&mut cache, &octets, head);
        let _ = translate(&mut packet, &Translation { related, ..to(&form) });
        let _ = translate_fragment(&mut packet, &to(&form), 70_000);
        prop_assert_eq!(crafted::octets(&mut cache, packet).len(), octets.len());
    }

    #[test]
    fn any_quotation_is_translated_without_a_panic(
        form in forms(), inner in forms(), junk in payload(), cut in 0..200usize, at: prop::sample::Index, with: u8,
    ) {
        let mut quotation = crafted::ip(&Form { six: form.six, ..inner }, &junk);
        quotation.truncate(cut);
        if !quotation.is_empty() {
            let at = at.index(quotation.len());
            quotation[at] = with;
        }
        let octets = error(&form, &quotation);
        let translation = Translation { related: true, ..to(&form) };
        let sum_is_right = |octets: &[u8]| {
            let mut again = octets.to_vec();
            let at = link(&form).len() + header_len(&form);
            let sender = |at: usize| octets[link(&form).len() + at..][..16].try_into().map(u128::from_be_bytes).unwrap();
            let addresses = if form.six { [sender(8), sender(24)] } else { [0; 2] };
            crafted::fill_icmp(&Form { addresses, ..form }, &mut again[at..]);
            // 0 and 0xffff are the same number.
            let sum = |octets: &[u8]| u16::from_be_bytes([octets[at + 2], octets[at + 3]]) % 0xffff;
            sum(&again) == sum(octets)
        };
        prop_assert!(sum_is_right(&octets));
        prop_assert!(sum_is_right(&translated(&octets, &translation)));
    }
}

#[test]
fn no_udp_checksum_stays_none() {
    let form = Form { kind: Kind::Udp, ..SIMPLE };
    let mut octets = frame(&form, b"weft");
    octets[40..42].fill(0);
    let octets = translated(&octets, &to(&Form { addresses: [1, 2], ports: [3, 4], ..form }));
    assert_eq!((&octets[26..38], &octets[40..42]), (&[0, 0, 0, 1, 0, 0, 0, 2, 0, 3, 0, 4][..], &[0, 0][..]));
}

#[test]
fn an_end_that_is_not_asked_for_stays() {
    let new = Form { addresses: [1, 2], ports: [0, 4], ..SIMPLE };
    let octets = translated(&frame(&SIMPLE, b""), &Translation { source: false, ..to(&new) });
    let expected = Form { addresses: [SIMPLE.addresses[0], 2], ports: [SIMPLE.ports[0], 4], ..SIMPLE };
    assert_eq!(octets, frame(&expected, b""));
}

#[test]
fn a_later_fragment_has_addresses_and_no_ports() {
    let mut octets = frame(&SIMPLE, b"weft");
    // The fragment offset, and what that is to the header's checksum.
    (octets[20], octets[21]) = (0, 9);
    octets[24..26].fill(0);
    let sum = weft_wire::checksum::checksum(&octets[14..34]);
    octets[24..26].copy_from_slice(&sum.to_be_bytes());
    let new = translated(&octets, &to(&Form { addresses: [1, 2], ports: [3, 4], ..SIMPLE }));
    assert_eq!((&new[26..34], &new[34..]), (&[0, 0, 0, 1, 0, 0, 0, 2][..], &octets[34..]));
    assert_eq!(weft_wire::checksum::checksum(&new[14..34]), 0);
}

#[test]
fn sctp_ports_change_with_the_checksum_of_the_whole_packet() {
    let whole = |ports: [u8; 4]| {
        let mut message = [&ports[..], &[9; 4], &[0; 4], &[5; 100]].concat();
        let mut crc = Crc::default();
        crc.add(&message);
        message[8..12].copy_from_slice(&crc.checksum());
        message
    };
    let packet = |fragment: u8, message: &[u8]| {
        let mut octets = frame(&Form { kind: Kind::Udp, ..SIMPLE }, &vec![0; message.len() - 8]);
        (octets[20], octets[23]) = (fragment, 132);
        octets[34..].copy_from_slice(message);
        octets
    };
    let tuple = Tuple { protocol: 132, src_port: 0x0304, dst_port: 0x0506, ..to(&SIMPLE).tuple };
    let translation = Translation { tuple, source: false, destination: false, related: false };
    let (old, new) = (whole([0, 1, 0, 2]), whole([3, 4, 5, 6]));
    assert_eq!(translated(&packet(0, &old), &translation), packet(0, &new));
    // The first 64 octets in a fragment.
    let (octets, result) = crafted::with(&packet(0x20, &old[..64]), |packet| {
        translate_fragment(packet, &translation, old.len())
    });
    assert_eq!((octets, result), (packet(0x20, &new[..64]), Ok(())));
    // As tracked without ports.
    let tuple = Tuple { src_port: 0, dst_port: 0, ..tuple };
    let translation = Translation { tuple, ..translation };
    assert_eq!(translated(&packet(0, &old), &translation), packet(0, &old));
}

#[test]
fn an_error_in_fragments_is_translated_like_a_whole_one() {
    for six in [false, true] {
        let client = Form { kind: Kind::Udp, six, ..SIMPLE };
        let hidden = Form { addresses: [9, client.addresses[1]], ..client };
        let outer = Form { addresses: [7, 9], ..client };
        let quotation = crafted::ip(&hidden, &[5; 900]);
        let tuple = to(&client).tuple.reversed();
        let translation = Translation { tuple, source: false, destination: true, related: true };
        let before = error(&outer, &quotation);
        let after = translated(&before, &translation);
        assert_eq!(
            after,
            error(&Form { addresses: [7, client.addresses[0]], ..outer }, &crafted::ip(&client, &[5; 900]))
        );
        let at = 14 + header_len(&outer);
        let ping = Form { kind: Kind::Ping, ..outer };
        for (range, more) in [((0, 480), true), ((480, before.len() - at), false)] {
            let piece = crafted::fragment(&ping, &before[at..], range, more, 1);
            let front = piece.len() - (range.1 - range.0);
            let (octets, result) =
                crafted::with(&piece, |packet| translate_fragment(packet, &translation, before.len() - at));
            assert_eq!((result, &octets[front..]), (Ok(()), &after[at + range.0..at + range.1]));
            let (destination, len) = if six { (38, 16) } else { (30, 4) };
            assert_eq!(octets[destination..destination + len], after[destination..destination + len]);
        }
    }
}
