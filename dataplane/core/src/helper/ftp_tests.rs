use proptest::prelude::*;
use weft_conntrack::{Side, Translation, Tuple};

use super::*;

const CLIENT: u128 = 0x0a00_0001;
const SERVER: u128 = 0x0a00_0002;
const ORIGINAL: Tuple =
    Tuple { src: CLIENT, dst: SERVER, src_port: 5000, dst_port: 21, protocol: 6, family: Family::V4 };

fn plain() -> Control {
    Control { original: ORIGINAL, reply: ORIGINAL.reversed() }
}

/// The client is 9 for the server.
fn hidden_client() -> Control {
    Control { original: ORIGINAL, reply: Tuple { dst: 9, ..ORIGINAL.reversed() } }
}

/// The server is 8 for itself.
fn hidden_server() -> Control {
    Control { original: ORIGINAL, reply: Tuple { src: 8, ..ORIGINAL.reversed() } }
}

fn of_client(text: &str) -> Reading {
    read(Direction::Original, Family::V4, text.as_bytes())
}

fn of_server(text: &str) -> Reading {
    read(Direction::Reply, Family::V4, text.as_bytes())
}

/// Address, port, and the text that says them.
fn said(reading: Reading, text: &str) -> (Option<u128>, u16, String) {
    let Reading::Announcement(announcement) = reading else { panic!("{text}: {reading:?}") };
    (announcement.address, announcement.port, text[announcement.span].to_owned())
}

fn announcement(reading: Reading) -> Announcement {
    let Reading::Announcement(announcement) = reading else { panic!("{reading:?}") };
    announcement
}

#[test]
fn commands_and_answers_are_read() {
    let numbers = "10,0,0,1,4,1".to_owned();
    for text in ["PORT 10,0,0,1,4,1\r\n", "port  10,0,0,1,4,1\n", "PORT 10,0,0,1,4,1\r\nNOOP\r\n"] {
        assert_eq!(said(of_client(text), text), (Some(CLIENT), 1025, numbers.clone()));
    }
    for text in [
        "227 Entering Passive Mode (10,0,0,1,4,1)\r\n",
        "227 Entering Passive Mode (10,0,0,1,4,1).\r\n",
        "227 =10,0,0,1,4,1\r\n",
        "227 Version 1 says (10,0,0,1,4,1)\r\n",
    ] {
        assert_eq!(said(of_server(text), text), (Some(CLIENT), 1025, numbers.clone()));
    }
    for text in ["EPRT |1|10.0.0.1|1025|\r\n", "eprt !1!10.0.0.1!1025!\r\n"] {
        let (address, port, span) = said(of_client(text), text);
        assert_eq!((address, port, span.replace('!', "|")), (Some(CLIENT), 1025, "10.0.0.1|1025".to_owned()));
    }
    let text = "229 Entering Extended Passive Mode (|||1025|)\r\n";
    assert_eq!(said(of_server(text), text), (None, 1025, "1025".to_owned()));
}

#[test]
fn ipv6_has_the_extended_ones_only() {
    let of = |direction, text: &str| read(direction, Family::V6, text.as_bytes());
    let text = "EPRT |2|fd00::1|1025|\r\n";
    let (address, port, span) = said(of(Direction::Original, text), text);
    assert_eq!((address, port, span.as_str()), (Some((0xfd00 << 112) + 1), 1025, "fd00::1|1025"));
    let text = "229 Extended Passive (|||65535|)\r\n";
    assert_eq!(said(of(Direction::Reply, text), text), (None, 65535, "65535".to_owned()));
    assert_eq!(of(Direction::Original, "PORT 10,0,0,1,4,1\r\n"), Reading::Nothing);
    assert_eq!(of(Direction::Reply, "227 Entering (10,0,0,1,4,1)\r\n"), Reading::Nothing);
    assert_eq!(of(Direction::Original, "EPRT |1|10.0.0.1|1025|\r\n"), Reading::Malformed);
}

#[test]
fn each_side_has_its_own_commands() {
    assert_eq!(of_server("PORT 10,0,0,1,4,1\r\n"), Reading::Nothing);
    assert_eq!(of_server("EPRT |1|10.0.0.1|1025|\r\n"), Reading::Nothing);
    assert_eq!(of_client("227 Entering Passive Mode (10,0,0,1,4,1)\r\n"), Reading::Nothing);
    assert_eq!(of_client("229 Entering Extended Passive Mode (|||1025|)\r\n"), Reading::Nothing);
}

#[test]
fn what_makes_no_sense_is_malformed() {
    for text in [
        "PORT 10,0,0,1,4\r\n",
        "PORT 10,0,0,256,4,1\r\n",
        "PORT 10,0,0,1,4,1x\r\n",
        "PORT 10,0,0,1,0,0\r\n",
        "PORT 10.0.0.1,4,1\r\n",
        "PORT 10,0,0,1,4,99999999999999999999\r\n",
        "PORT -1,0,0,1,4,1\r\n",
        "PORT \r\n",
        "EPRT |3|10.0.0.1|1025|\r\n",
        "EPRT |1|10.0.0|1025|\r\n",
        "EPRT |1|10.0.0.1|65536|\r\n",
        "EPRT |1|10.0.0.1|0|\r\n",
        "EPRT |1|10.0.0.1|1025\r\n",
        "EPRT |1!10.0.0.1|1025|\r\n",
        "EPRT 111 10.0.0.1\r\n",
    ] {
        assert_eq!(of_client(text), Reading::Malformed, "{text}");
    }
    for text in [
        "227 Entering Passive Mode\r\n",
        "227 Entering Passive Mode (10,0,0,1)\r\n",
        "229 Entering Extended Passive Mode (|||1025)\r\n",
        "229 Entering Extended Passive Mode (|1||1025|)\r\n",
        "229 1025\r\n",
    ] {
        assert_eq!(of_server(text), Reading::Malformed, "{text}");
    }
}

#[test]
fn what_is_cut_off_or_something_else_is_nothing() {
    let whole = "PORT 10,0,0,1,4,123\r\n";
    for len in 0..whole.len() - 1 {
        assert_eq!(of_client(&whole[..len]), Reading::Nothing, "{len}");
    }
    for text in ["USER weft\r\n", "PORTS 1\r\n", "XPORT 10,0,0,1,4,1\r\n", "NOOP\r\nPORT 10,0,0,1,4,1\r\n"] {
        assert_eq!(of_client(text), Reading::Nothing, "{text}");
    }
    assert_eq!(of_client(&format!("PORT {} 10,0,0,1,4,1\r\n", " ".repeat(200))), Reading::Nothing);
    assert_eq!(of_server("227-Entering (10,0,0,1,4,1)\r\n"), Reading::Nothing, "a line of several");
}

#[test]
fn the_server_comes_to_the_client_or_the_client_to_the_server() {
    let active = announcement(of_client("PORT 10,0,0,1,4,1\r\n")).expectation(&plain()).unwrap();
    assert_eq!(active.tuple, Tuple { src: SERVER, dst: CLIENT, src_port: 0, dst_port: 1025, ..ORIGINAL });
    let passive = announcement(of_server("227 (10,0,0,2,4,1)\r\n")).expectation(&plain()).unwrap();
    assert_eq!(passive.tuple, Tuple { src_port: 0, dst_port: 1025, ..ORIGINAL });
    assert_eq!((active.translation, passive.translation), (None, None));
    let extended = announcement(of_server("229 (|||1025|)\r\n"));
    assert_eq!(extended.expectation(&plain()), Some(passive));
    assert_eq!(extended.translated(&hidden_server()), None, "no address stands there");
}

/// As in Open vSwitch (lib/conntrack.c, `process_ftp_ctl_v4` and `_v6`), which compares a port with 65535 and nothing else. The hole is
/// one in the speaker's own host, and for its peer alone.
#[test]
fn any_port_of_the_speakers_own_may_be_announced() {
    for port in [1, 21, 22, 445, 1023, 1024, 65_535_u16] {
        let (high, low) = (port >> 8, port & 0xff);
        let active = of_client(&format!("PORT 10,0,0,1,{high},{low}\r\n"));
        let extended = of_client(&format!("EPRT |1|10.0.0.1|{port}|\r\n"));
        for reading in [active, extended] {
            let expected = announcement(reading).expectation(&plain()).unwrap().tuple;
            assert_eq!(expected, Tuple { src: SERVER, dst: CLIENT, src_port: 0, dst_port: port, ..ORIGINAL });
        }
        let passive = of_server(&format!("227 (10,0,0,2,{high},{low})\r\n"));
        let extended = of_server(&format!("229 (|||{port}|)\r\n"));
        for reading in [passive, extended] {
            let expected = announcement(reading).expectation(&plain()).unwrap().tuple;
            assert_eq!(expected, Tuple { src_port: 0, dst_port: port, ..ORIGINAL });
        }
    }
}

#[test]
fn a_translated_control_connection_translates_what_it_announces() {
    let active = announcement(of_client("PORT 10,0,0,1,4,1\r\n"));
    let passive = announcement(of_server("227 (0,0,0,8,4,1)\r\n"));
    // What the server will see, and what that becomes.
    let expected = active.expectation(&hidden_client()).unwrap();
    assert_eq!((expected.tuple.src, expected.tuple.dst), (SERVER, 9));
    assert_eq!(expected.translation, Some((Side::Destination, CLIENT)));
    assert_eq!(active.translated(&hidden_client()).unwrap().as_slice(), b"0,0,0,9,4,1");
    // What the client will see.
    let expected = passive.expectation(&hidden_server()).unwrap();
    assert_eq!((expected.tuple.src, expected.tuple.dst), (CLIENT, SERVER));
    assert_eq!(expected.translation, Some((Side::Destination, 8)));
    assert_eq!(passive.translated(&hidden_server()).unwrap().as_slice(), b"10,0,0,2,4,1");
    // The other way round, the source is translated and the text stays.
    let expected = active.expectation(&hidden_server()).unwrap();
    assert_eq!((expected.tuple.src, expected.translation), (8, Some((Side::Source, SERVER))));
    assert_eq!(active.translated(&hidden_server()), None);
    let passive = announcement(of_server("227 (10,0,0,2,4,1)\r\n"));
    let expected = passive.expectation(&hidden_client()).unwrap();
    assert_eq!((expected.tuple.src, expected.translation), (CLIENT, Some((Side::Source, 9))));
}

#[test]
fn an_address_of_somebody_else_is_refused() {
    for (reading, own) in [
        (of_client("PORT 10,0,0,1,4,1\r\n"), true),
        (of_client("PORT 0,0,0,9,4,1\r\n"), true),
        (of_client("PORT 10,0,0,2,4,1\r\n"), false),
        (of_client("EPRT |1|10.0.0.7|22|\r\n"), false),
        (of_server("227 (10,0,0,2,4,1)\r\n"), true),
        (of_server("227 (10,0,0,1,4,1)\r\n"), false),
        (of_server("227 (0,0,0,9,4,1)\r\n"), false),
    ] {
        assert_eq!(announcement(reading.clone()).expectation(&hidden_client()).is_some(), own, "{reading:?}");
    }
}

#[test]
fn only_what_starts_a_line_is_known_to() {
    let mut lines = Lines::default();
    let client = Direction::Original;
    assert!(!lines.starts_line(client, 100, b"USER weft\r\n"), "nothing is known yet");
    assert!(lines.starts_line(client, 111, b"PORT 1"), "cut in the middle");
    assert!(!lines.starts_line(client, 117, b"0,0,0,1,4,1\r\n"));
    assert!(lines.starts_line(client, 130, b"NOOP\r\n"));
    assert!(lines.starts_line(client, 130, b"NOOP\r\n"), "again");
    assert!(lines.starts_line(client, 136, b"NOOP\r\n"));
    assert!(!lines.starts_line(Direction::Reply, 136, b"227 x\r\n"), "each direction has its own");
    assert!(!lines.starts_line(client, 139, b"PORT 10,0,0,1,4,1\r\n"), "in the middle of one");
    let mut lines = Lines::default();
    lines.starts_line(client, u32::MAX - 1, b"NOOP\r\n");
    assert!(lines.starts_line(client, 4, b"x"), "numbers wrap");
}

#[test]
fn a_control_connection_is_known_from_either_direction() {
    for control in [plain(), hidden_client(), hidden_server()] {
        let (original, reply) = (control.original, control.reply);
        let to = |tuple: Tuple| Translation {
            tuple: tuple.reversed(),
            source: true,
            destination: true,
            related: false,
        };
        assert_eq!(Control::of(Direction::Original, &original, Some(&to(reply))), control);
        assert_eq!(Control::of(Direction::Reply, &reply, Some(&to(original))), control);
    }
    assert_eq!(Control::of(Direction::Reply, &plain().reply, None), plain());
}

proptest! {
    #[test]
    fn what_is_written_is_read(address: u128, port in 1..=u16::MAX, six: bool, command in 0..3usize, delimiter in "[!#$%&*+/=|~]") {
        let (family, address) = if six { (Family::V6, address) } else { (Family::V4, u128::from(address as u32)) };
        let command = if six { 2 } else { command };
        let (command, direction) = [
            (Command::Port, Direction::Original), (Command::Passive, Direction::Reply), (Command::ExtendedPort, Direction::Original),
        ][command];
        let delimiter = delimiter.as_bytes()[0];
        let written = Announcement { command, address: Some(address), port, span: 0..0, delimiter };
        let text = written.text(address, family).unwrap();
        let text = std::str::from_utf8(&text).unwrap();
        let between = char::from(delimiter);
        let (front, behind) = match command {
            Command::Port => ("PORT ".to_owned(), "\r\n".to_owned()),
            Command::Passive => ("227 Entering Passive Mode (".to_owned(), ")\r\n".to_owned()),
            _ => (format!("EPRT {between}{}{between}", if six { 2 } else { 1 }), format!("{between}\r\n")),
        };
        let line = format!("{front}{text}{behind}");
        let span = front.len()..front.len() + text.len();
        let delimiter = if command == Command::ExtendedPort { delimiter } else { b',' };
        let expected = Announcement { span, delimiter, ..written };
        prop_assert_eq!(read(direction, family, line.as_bytes()), Reading::Announcement(expected));
    }

    #[test]
    fn any_data_is_read_without_a_panic(
        front in prop::sample::select(vec!["", "PORT ", "EPRT |", "EPRT |2|", "227 (", "229 (|||", "227 "]),
        data in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), "[0-9,.:|()a-f \r\n]{0,60}".prop_map(String::into_bytes)],
        six: bool, reply: bool,
    ) {
        let data = [front.as_bytes(), &data].concat();
        let family = if six { Family::V6 } else { Family::V4 };
        let direction = if reply { Direction::Reply } else { Direction::Original };
        if let Reading::Announcement(found) = read(direction, family, &data) {
            prop_assert!(found.span.end < data.len() && found.port != 0);
            found.expectation(&plain());
            found.translated(&hidden_client());
        }
    }
}
