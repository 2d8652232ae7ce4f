//! FTP and TFTP through a policy with helpers, packet by packet, as each end counts them: with and without translation.

#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use rig::Rig;
use rig::frames::{Ip, ip_frame, mac};
use weft_wire::checksum::checksum;

type Address = [u8; 4];
const CLIENT: Address = [10, 0, 0, 1];
const SERVER: Address = [10, 0, 0, 2];

/// A translation of the control connection: the client as the server knows it, and the server as the client does.
#[derive(Clone, Copy, Debug)]
struct Case {
    nat: &'static str,
    client: Address,
    server: Address,
}

const CASES: [Case; 3] = [
    Case { nat: "", client: CLIENT, server: SERVER },
    Case { nat: ",nat(src=192.0.2.100)", client: [192, 0, 2, 100], server: SERVER },
    Case { nat: ",nat(dst=10.0.0.2)", client: CLIENT, server: [10, 99, 99, 99] },
];

/// The client is behind port 0 (`in_port=1`), and may open control connections; else there is what is established or related.
fn switch(case: Case) -> Rig {
    let allow = |what: &str, helper: &str| {
        format!(
            "table=1,priority=8,in_port=1,ct_state=+new-rel,{what},actions=ct(commit,zone=1,alg={helper}{},table=2)",
            case.nat
        )
    };
    let rules = [
        "table=0,ip,actions=ct(table=1,zone=1,nat)",
        "table=1,priority=9,ct_state=+inv,actions=drop",
        &allow("tcp,tp_dst=21", "ftp"),
        &allow("udp,tp_dst=69", "tftp"),
        "table=1,priority=8,ct_state=+new+rel,ip,actions=ct(commit,zone=1,nat,table=2)",
        "table=1,priority=7,ct_state=+est,ip,actions=resubmit(,2)",
        "table=1,priority=0,actions=drop",
        "table=2,in_port=1,actions=output:2",
        "table=2,in_port=2,actions=output:1",
    ];
    Rig::two_stations(&rules)
}

/// A packet with right checksums; TCP if there are numbers.
fn packet(from: (Address, u16), to: (Address, u16), tcp: Option<(u8, u32, u32)>, data: &[u8]) -> Vec<u8> {
    let protocol = if tcp.is_some() { 6 } else { 17 };
    let ip = Ip { source: from.0, destination: to.0, protocol, tos: 0, ports: (from.1, to.1) };
    let mut frame = ip_frame(mac(1), mac(2), ip, data.len());
    let start = frame.len() - data.len();
    frame[start..].copy_from_slice(data);
    let place = if let Some((flags, seq, ack)) = tcp {
        frame[38..42].copy_from_slice(&seq.to_be_bytes());
        frame[42..46].copy_from_slice(&ack.to_be_bytes());
        (frame[46], frame[47]) = (0x50, flags);
        50
    } else {
        40
    };
    let sum = transport_sum(&frame);
    frame[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn transport_sum(frame: &[u8]) -> u16 {
    let len = (frame.len() - 34) as u16;
    checksum(&[&frame[26..34], &[0, frame[23]], &len.to_be_bytes(), &frame[34..]].concat())
}

/// What arrives at the other side.
fn through(rig: &mut Rig, from_client: bool, frame: Vec<u8>) -> Option<Vec<u8>> {
    let sent = rig.exchange(u16::from(!from_client), frame);
    let [(port, frame)] = &sent[..] else {
        assert!(sent.is_empty());
        return None;
    };
    assert_eq!(*port, u16::from(from_client));
    assert_eq!((checksum(&frame[14..34]), transport_sum(frame)), (0, 0), "checksums");
    Some(frame.clone())
}

fn ends(frame: &[u8]) -> ((Address, u16), (Address, u16)) {
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    ((frame[26..30].try_into().unwrap(), port(34)), (frame[30..34].try_into().unwrap(), port(36)))
}

/// A control connection: what each end has sent and received, by its own count; the client is the first.
struct Talk {
    case: Case,
    ends: [(u32, u32); 2],
}

impl Talk {
    fn begin(rig: &mut Rig, case: Case) -> Talk {
        // Numbers wrap on the way.
        let mut talk = Talk { case, ends: [(u32::MAX - 20, 0), (u32::MAX - 40, 0)] };
        for (from, flags) in [(0, 2), (1, 0x12), (0, 0x10)] {
            assert!(talk.say(rig, (from, flags), ["", ""]).is_some());
        }
        talk.say(rig, (1, 0x18), ["220 weft\r\n", "220 weft\r\n"]).unwrap();
        talk.say(rig, (0, 0x18), ["USER weft\r\n", "USER weft\r\n"]).unwrap();
        talk
    }

    /// One end says something, twice (the first was lost on the way), and the other gets `seen`.
    fn say(&mut self, rig: &mut Rig, (from, flags): (usize, u8), [text, seen]: [&str; 2]) -> Option<()> {
        let Case { client, server, .. } = self.case;
        let (source, destination) =
            if from == 0 { ((CLIENT, 40_000), (server, 21)) } else { ((SERVER, 21), (client, 40_000)) };
        let (seq, ack) = self.ends[from];
        let syn = u32::from(flags & 2 != 0);
        for _ in 0..2 - syn {
            let frame = packet(source, destination, Some((flags, seq, ack)), text.as_bytes());
            let frame = through(rig, from == 0, frame)?;
            let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
            assert_eq!(std::str::from_utf8(&frame[54..]).unwrap(), seen);
            assert!(syn > 0 || number(38) == self.ends[1 - from].1, "{text}: {} {:?}", number(38), self.ends);
            assert!(flags & 0x10 == 0 || number(42) == self.ends[1 - from].0, "{text}");
        }
        self.ends[from].0 = seq.wrapping_add(text.len() as u32 + syn);
        let start = if syn > 0 { self.ends[from].0 } else { self.ends[1 - from].1 };
        self.ends[1 - from].1 = start.wrapping_add(seen.len() as u32);
        Some(())
    }

    fn both(&mut self, rig: &mut Rig, text: &str) {
        for from in [0, 1, 0, 1] {
            self.say(rig, (from, 0x18), [text, text]).unwrap();
            self.say(rig, (1 - from, 0x10), ["", ""]).unwrap();
        }
    }
}

fn numbers(address: Address, low: u8) -> String {
    let [a, b, c, d] = address;
    format!("{a},{b},{c},{d},4,{low}")
}

/// A data connection opens: who sends the first packet, from where to where, and as what it arrives; and its answer.
fn opens(
    rig: &mut Rig,
    from_client: bool,
    sent: ((Address, u16), (Address, u16)),
    seen: ((Address, u16), (Address, u16)),
) {
    let frame = through(rig, from_client, packet(sent.0, sent.1, Some((2, 5, 0)), b"")).unwrap();
    assert_eq!(ends(&frame), seen);
    let answer = packet(seen.1, seen.0, Some((0x12, 9, 6)), b"");
    assert_eq!(ends(&through(rig, !from_client, answer).unwrap()), (sent.1, sent.0));
    let data = packet(sent.0, sent.1, Some((0x18, 6, 10)), b"file");
    assert_eq!(ends(&through(rig, from_client, data).unwrap()), seen);
}

#[test]
fn active_ftp_opens_what_the_client_has_announced_and_nothing_else() {
    for case in CASES {
        let mut rig = switch(case);
        let mut talk = Talk::begin(&mut rig, case);
        for low in [1, 2] {
            let port = 1024 + u16::from(low);
            let data = ((SERVER, 20), (case.client, port));
            assert!(through(&mut rig, false, packet(data.0, data.1, Some((2, 5, 0)), b"")).is_none());
            let [text, seen] = [CLIENT, case.client].map(|who| format!("PORT {}\r\n", numbers(who, low)));
            talk.say(&mut rig, (0, 0x18), [&text, &seen]).unwrap();
            talk.say(&mut rig, (1, 0x18), ["200 Fine.\r\n", "200 Fine.\r\n"]).unwrap();
            let other = ((SERVER, 20), (case.client, port + 7));
            assert!(through(&mut rig, false, packet(other.0, other.1, Some((2, 5, 0)), b"")).is_none());
            opens(&mut rig, false, data, ((case.server, 20), (CLIENT, port)));
            talk.both(&mut rig, "NOOP\r\n");
        }
    }
}

#[test]
fn passive_ftp_opens_what_the_server_has_announced() {
    for case in CASES {
        let mut rig = switch(case);
        let mut talk = Talk::begin(&mut rig, case);
        for low in [1, 2] {
            let port = 1024 + u16::from(low);
            talk.say(&mut rig, (0, 0x18), ["PASV\r\n", "PASV\r\n"]).unwrap();
            let data = ((CLIENT, 50_000), (case.server, port));
            assert!(through(&mut rig, true, packet(data.0, data.1, Some((2, 5, 0)), b"")).is_none());
            let [text, seen] =
                [SERVER, case.server].map(|who| format!("227 Go ({}).\r\n", numbers(who, low)));
            talk.say(&mut rig, (1, 0x18), [&text, &seen]).unwrap();
            opens(&mut rig, true, data, ((case.client, 50_000), (SERVER, port)));
            talk.both(&mut rig, "NOOP\r\n");
        }
        let text = "229 Go (|||1030|)\r\n";
        talk.say(&mut rig, (1, 0x18), [text, text]).unwrap();
        let data = ((CLIENT, 50_001), (case.server, 1030));
        opens(&mut rig, true, data, ((case.client, 50_001), (SERVER, 1030)));
    }
}

#[test]
fn an_announcement_of_another_host_is_invalid_and_opens_nothing() {
    for case in CASES {
        let mut rig = switch(case);
        let mut talk = Talk::begin(&mut rig, case);
        let text = format!("PORT {}\r\n", numbers([10, 0, 0, 77], 1));
        assert!(talk.say(&mut rig, (0, 0x18), [&text, &text]).is_none());
        assert_eq!(rig.datapath.connections().statistics().connections, 1);
    }
}

#[test]
fn tftp_answers_come_from_any_port_of_the_server() {
    for case in CASES {
        let mut rig = switch(case);
        let answer = ((SERVER, 7777), (case.client, 5000));
        assert!(through(&mut rig, false, packet(answer.0, answer.1, None, b"\0\x03\0\x01data")).is_none());
        let request = packet((CLIENT, 5000), (case.server, 69), None, b"\0\x01boot\0octet\0");
        assert_eq!(ends(&through(&mut rig, true, request).unwrap()), ((case.client, 5000), (SERVER, 69)));
        for _ in 0..3 {
            let data = packet(answer.0, answer.1, None, b"\0\x03\0\x01data");
            let seen = ((case.server, 7777), (CLIENT, 5000));
            assert_eq!(ends(&through(&mut rig, false, data).unwrap()), seen, "{case:?}");
            let back = packet(seen.1, seen.0, None, b"\0\x04\0\x01");
            assert_eq!(ends(&through(&mut rig, true, back).unwrap()), (answer.1, answer.0));
        }
        let stranger = packet((SERVER, 7778), answer.1, None, b"\0\x03\0\x01data");
        assert!(through(&mut rig, false, stranger).is_none(), "the expectation is used up");
    }
}

#[test]
fn an_announcement_in_pieces_or_of_no_port_opens_nothing() {
    for case in CASES {
        for line in [
            ["PORT 10,0,0,", "1,4,1\r\n"],
            ["POR", "T 10,0,0,1,4,1\r\n"],
            ["NOOP PORT 10,0,0,1,4,1\r\n", "PORT 10,0,0,1,4"],
        ] {
            let mut rig = switch(case);
            let mut talk = Talk::begin(&mut rig, case);
            for piece in line {
                talk.say(&mut rig, (0, 0x18), [piece, piece]).unwrap();
            }
            assert_eq!(rig.datapath.connections().statistics().expectations, 0, "{line:?}");
            let data = packet((SERVER, 20), (case.client, 1025), Some((2, 5, 0)), b"");
            assert!(through(&mut rig, false, data).is_none());
        }
        for line in ["PORT 10,0,0,1,0,0\r\n", "PORT 10,0,0,1,256,1\r\n", "EPRT |2|::1|1025|\r\n"] {
            let mut rig = switch(case);
            let mut talk = Talk::begin(&mut rig, case);
            assert!(talk.say(&mut rig, (0, 0x18), [line, line]).is_none(), "{line}");
            assert_eq!(rig.datapath.connections().statistics().expectations, 0, "{line}");
        }
    }
}

#[test]
fn what_is_no_request_makes_no_answer_expected() {
    for text in [&b"\0\x03boot\0octet\0"[..], b"\0\x01boot", b"\0\x01", b""] {
        let mut rig = switch(CASES[0]);
        through(&mut rig, true, packet((CLIENT, 5000), (SERVER, 69), None, text)).unwrap();
        assert_eq!(rig.datapath.connections().statistics().expectations, 0, "{text:?}");
    }
}
