//! An FTP control connection through a translation, packet by packet: tracked, translated, read, its text changed and its
//! numbers with it. Each end counts for itself what it sends and gets.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../src/crafted.rs"]
#[allow(dead_code, reason = "not all of it is used here")]
mod crafted;

use crafted::{Form, SIMPLE, frame, header_len, link};
use weft_conntrack::{Choice, Commit, Connections, Direction, Nat, Request, Settings, Side, Skew, State};
use weft_core::edit::nat::translate;
use weft_core::edit::stream;
use weft_core::facts::facts;
use weft_core::helper::Control;
use weft_core::helper::ftp::{self, Reading};
use weft_io::Packet;

/// One side of a control connection: what it has sent, and what it has received.
#[derive(Clone, Copy, Default)]
struct End {
    seq: u32,
    ack: u32,
}

/// A packet of a control connection, which the helper reads; the ends' skews change.
fn control_packet(
    packet: &mut Packet,
    connections: &Connections,
    zone: u16,
    nat: Nat,
    skews: &mut [Skew; 2],
) {
    let before = facts(packet).unwrap();
    let commit = Commit { nat: Some(nat), ..Commit::default() };
    let (facts, commit) = (&before, Some(&commit));
    let request = Request { zone, facts, before: None, commit, translate: true, second: 1, effects: true };
    let tracked = connections.track(&request);
    let is_reply = tracked.state.0 & State::RPL.0 != 0;
    let direction = if is_reply { Direction::Reply } else { Direction::Original };
    translate(packet, &tracked.translation.unwrap()).unwrap();
    let control = Control::of(direction, &before.tuple, tracked.translation.as_ref());
    let [original, reply] = skews;
    let (own, other) = if is_reply { (reply, original) } else { (original, reply) };
    if let Reading::Announcement(found) =
        ftp::read(direction, before.tuple.family, stream::data(packet).unwrap())
    {
        assert!(found.expectation(&control).is_some());
        if let Some(text) = found.translated(&control) {
            let change = stream::replace(packet, found.span, &text).unwrap();
            own.add(before.tcp.unwrap().seq, change);
        }
    }
    stream::renumber(packet, own, other);
}

#[test]
fn an_ftp_session_through_a_translation_makes_sense_to_both_ends() {
    let connections = Connections::new(Settings { max: 1000, ..Settings::default() }).unwrap();
    for six in [false, true] {
        for (zone, side) in [(4, Side::Source), (5, Side::Destination)] {
            let prefix = 0xfd00_u128 << 112;
            let (client, server) = if six { (prefix | 1, prefix | 2) } else { (0x0a00_0001, 0x0a00_0002) };
            let new = if six { prefix | 0x1234 << 96 | 0x5678_0009 } else { 0x0a63_64c8 };
            let nat = Nat { side, addresses: Some((new, new)), ports: None, choice: Choice::Hash };
            let to_server = [client, server];
            let to_client = if side == Side::Source { [server, new] } else { [new, client] };
            // Numbers wrap on the way.
            let mut ends = [End { seq: u32::MAX - 30, ack: 0 }, End { seq: u32::MAX - 60, ack: 0 }];
            let mut skews = [Skew::default(); 2];
            for (from, flags, text, seen) in script(six, side) {
                let (addresses, ports) =
                    if from == 0 { (to_server, [40_000, 21]) } else { (to_client, [21, 40_000]) };
                let form = Form { six, addresses, ports, ..SIMPLE };
                let octets = segment(&form, ends[from], flags, text.as_bytes());
                // Lost on the way behind the switch, once.
                for _ in 0..2 {
                    let (left, ()) = crafted::with(&octets, |packet| {
                        control_packet(packet, &connections, zone, nat, &mut skews)
                    });
                    let (_, (taken, data)) = crafted::with(&left, |packet| {
                        (facts(packet).unwrap(), stream::data(packet).unwrap().to_vec())
                    });
                    let segment = taken.tcp.unwrap();
                    assert!(taken.valid && data == seen.as_bytes(), "{six} {side:?} {text} {data:?}");
                    let is_expected = ends[1 - from].ack == segment.seq || flags & 2 != 0;
                    assert!(is_expected, "{six} {side:?} {text}");
                    assert!(flags & 0x10 == 0 || segment.ack == ends[1 - from].seq, "{six} {side:?} {text}");
                }
                let count = u32::from(flags & 2 != 0);
                ends[from].seq = ends[from].seq.wrapping_add(text.len() as u32 + count);
                let start = if count > 0 { ends[from].seq } else { ends[1 - from].ack };
                ends[1 - from].ack = start.wrapping_add(seen.len() as u32);
            }
        }
    }
}

/// Who says what: the client (0) or the server (1), TCP flags, the text, and what the other gets.
fn script(six: bool, side: Side) -> Vec<(usize, u8, &'static str, &'static str)> {
    let say = |from, text| (from, 0x18, text, text);
    let (speaker, first, second) = match (six, side) {
        (false, Side::Source) => (
            0,
            ("PORT 10,0,0,1,4,1\r\n", "PORT 10,99,100,200,4,1\r\n"),
            ("EPRT |1|10.0.0.1|1026|\r\n", "EPRT |1|10.99.100.200|1026|\r\n"),
        ),
        (false, Side::Destination) => (
            1,
            ("227 Passive (10,99,100,200,4,1).\r\n", "227 Passive (10,0,0,2,4,1).\r\n"),
            ("227 Passive (10,99,100,200,4,2).\r\n", "227 Passive (10,0,0,2,4,2).\r\n"),
        ),
        (true, Side::Source) => (
            0,
            ("EPRT |2|fd00::1|1025|\r\n", "EPRT |2|fd00:1234::5678:9|1025|\r\n"),
            ("EPRT |2|fd00::1|1026|\r\n", "EPRT |2|fd00:1234::5678:9|1026|\r\n"),
        ),
        (true, Side::Destination) => {
            let text = "229 Extended (|||1025|)\r\n";
            (1, (text, text), (text, text))
        }
    };
    let other = 1 - speaker;
    vec![
        (0, 0x02, "", ""),
        (1, 0x12, "", ""),
        (0, 0x10, "", ""),
        say(1, "220 weft\r\n"),
        say(0, "USER weft\r\n"),
        (speaker, 0x18, first.0, first.1),
        say(other, "an answer\r\n"),
        say(speaker, "NOOP\r\n"),
        (other, 0x10, "", ""),
        (speaker, 0x18, second.0, second.1),
        say(other, "another answer\r\n"),
        say(speaker, "NOOP\r\n"),
        (other, 0x10, "", ""),
    ]
}

/// A TCP packet with these numbers and flags.
fn segment(form: &Form, end: End, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut octets = frame(form, data);
    let at = link(form).len() + header_len(form);
    octets[at + 4..at + 8].copy_from_slice(&end.seq.to_be_bytes());
    octets[at + 8..at + 12].copy_from_slice(&end.ack.to_be_bytes());
    octets[at + 13] = flags;
    octets[at + 16..at + 18].fill(0);
    let pseudo: Vec<u8> = if form.six {
        form.addresses.iter().flat_map(|address| address.to_be_bytes()).collect()
    } else {
        form.addresses.iter().flat_map(|&address| (address as u32).to_be_bytes()).collect()
    };
    let mut sum = weft_wire::checksum::Sum::new();
    sum.add(&pseudo);
    sum.add_word(6);
    sum.add_word((octets.len() - at) as u16);
    sum.add(&octets[at..]);
    octets[at + 16..at + 18].copy_from_slice(&sum.checksum().to_be_bytes());
    octets
}
