//! What belongs to another connection: ICMP errors about translated ones, and answers that would be two connections'.

#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use rig::Rig;
use rig::frames::{Ip, ip_frame, mac};
use weft_wire::DropReason;
use weft_wire::checksum::checksum;

/// Inside is seen as 192.0.2.1, port 4000.
const SNAT: [&str; 5] = [
    "table=0,priority=2,in_port=1,ip,actions=ct(commit,table=1,zone=1,nat(src=192.0.2.1:4000))",
    "table=0,priority=1,in_port=2,ip,actions=ct(table=1,zone=1,nat)",
    "table=1,priority=9,in_port=1,ip,nw_src=192.0.2.1,actions=output:2",
    "table=1,priority=8,in_port=2,ct_state=+rel+rpl-new-inv,ip,nw_dst=10.0.0.1,actions=output:1",
    "table=1,priority=7,actions=drop",
];

/// An ICMP error of a router (10.0.0.9) about `quoted`, of which IP header and 8 octets are there.
fn error(kind: u8, code: u8, to: [u8; 4], quoted: &[u8]) -> Vec<u8> {
    let ip = Ip { source: [10, 0, 0, 9], destination: to, protocol: 1, ports: (0, 0), ..Ip::default() };
    let mut frame = ip_frame(mac(2), mac(1), ip, 28);
    frame[34..42].copy_from_slice(&[kind, code, 0, 0, 0, 0, 5, 0]);
    frame[42..70].copy_from_slice(&quoted[14..42]);
    let sum = checksum(&frame[34..]);
    frame[36..38].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn errors_about_a_translated_packet_come_back_to_its_sender_as_he_knows_it() {
    let mut rig = Rig::two_stations(&SNAT);
    let own = ip_frame(mac(1), mac(2), Ip::default(), 20);
    let sent = rig.exchange(0, own.clone());
    let seen = &sent[0].1;
    assert_eq!((&seen[26..30], &seen[34..36]), (&[192, 0, 2, 1][..], &4000_u16.to_be_bytes()[..]));
    // Fragmentation needed, time exceeded, port unreachable.
    for (kind, code) in [(3, 4), (11, 0), (3, 3)] {
        let sent = rig.exchange(1, error(kind, code, [192, 0, 2, 1], seen));
        assert_eq!(sent.len(), 1, "{kind} {code}: {:?}", rig.drops(1));
        let (port, frame) = &sent[0];
        assert_eq!((*port, &frame[26..30], &frame[30..34]), (0, &[10, 0, 0, 9][..], &[10, 0, 0, 1][..]));
        assert_eq!((checksum(&frame[14..34]), checksum(&frame[34..]), checksum(&frame[42..62])), (0, 0, 0));
        // As it was sent: but for the checksum of its header, which its own is now.
        assert_eq!(frame[42..70], own[14..42], "{kind} {code}");
        assert_eq!((frame[34], frame[35], &frame[38..42]), (kind, code, &[0, 0, 5, 0][..]));
    }
    assert_eq!(rig.datapath.connections().statistics().connections, 1);
    // About a packet that nobody has sent.
    let other = ip_frame(mac(1), mac(2), Ip { source: [192, 0, 2, 1], ..Ip::default() }, 20);
    assert!(rig.exchange(1, error(11, 0, [192, 0, 2, 1], &other)).is_empty());
}

#[test]
fn an_error_is_translated_zone_by_zone() {
    let mut rig = Rig::two_stations(&[
        "table=0,priority=2,in_port=1,ip,actions=ct(commit,table=1,zone=1,nat(src=192.0.2.1:4000))",
        "table=1,in_port=1,ip,actions=ct(commit,table=2,zone=2,nat(src=198.51.100.1:5000))",
        "table=2,in_port=1,ip,actions=output:2",
        "table=0,priority=1,in_port=2,ip,actions=ct(table=3,zone=2,nat)",
        "table=3,ip,ct_state=+rel,actions=ct(table=4,zone=1,nat)",
        "table=4,ip,ct_state=+rel,actions=output:1",
    ]);
    let own = ip_frame(mac(1), mac(2), Ip::default(), 20);
    let sent = rig.exchange(0, own.clone());
    let sent = rig.exchange(1, error(11, 0, [198, 51, 100, 1], &sent[0].1));
    assert_eq!(sent.len(), 1, "{:?}", rig.drops(1));
    assert_eq!(sent[0].1[30..34], [10, 0, 0, 1]);
    assert_eq!(sent[0].1[42..70], own[14..42]);
}

#[test]
fn a_connection_whose_answers_are_anothers_is_a_counted_drop() {
    let mut rig = Rig::two_stations(&[
        "priority=2,ip,nw_src=10.0.0.1,actions=ct(commit,table=1,zone=1,nat(src=192.0.2.1:4000))",
        "priority=1,ip,actions=ct(commit,table=1,zone=1)",
        "table=1,actions=output:2",
    ]);
    assert_eq!(rig.reaches(0, ip_frame(mac(1), mac(2), Ip::default(), 20)), [1]);
    let same = Ip { source: [192, 0, 2, 1], ports: (4000, 2000), ..Ip::default() };
    assert!(rig.reaches(0, ip_frame(mac(1), mac(2), same, 20)).is_empty());
    assert_eq!(rig.drops(0), [(DropReason::ConnectionClash, 1)]);
}

#[test]
fn an_error_about_a_packet_of_another_protocol_is_related_however_short_that_was() {
    let mut rig = Rig::two_stations(&[
        "table=0,ip,actions=ct(commit,table=1,zone=1)",
        "table=1,ct_state=+rel,actions=output:1",
        "table=1,ct_state=+new,actions=output:2",
    ]);
    // GRE, ESP, SCTP, and no protocol at all.
    for protocol in [47, 50, 132, 0] {
        let ip = Ip { protocol, ..Ip::default() };
        assert_eq!(rig.reaches(0, ip_frame(mac(1), mac(2), ip, 0)), [1]);
        for octets in [0, 3, 8] {
            let quoted = ip_frame(mac(1), mac(2), ip, 0);
            let about = error(3, 2, ip.source, &quoted);
            let mut short = about[..62 + octets].to_vec();
            short[16..18].copy_from_slice(&(48 + octets as u16).to_be_bytes());
            short[24..26].fill(0);
            let sum = checksum(&short[14..34]);
            short[24..26].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(rig.reaches(1, short), [0], "{protocol} {octets}");
        }
    }
    // About a protocol of which nobody has sent anything.
    let other = ip_frame(mac(1), mac(2), Ip { protocol: 99, ..Ip::default() }, 0);
    assert!(rig.exchange(1, error(3, 2, [10, 0, 0, 1], &other)).is_empty());
}
