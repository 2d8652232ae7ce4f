//! Who sends what makes no sense, or too much of it: no answer passes that nobody has asked for, no limit is exceeded, and
//! others are served as before.

#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use rig::dice::Dice;
use rig::frames::{Ip, ip_frame, mac};
use rig::{CONNECTIONS, Rig, access};
use weft_wire::DropReason;
use weft_wire::checksum::checksum;

/// From inside (port 0) all is allowed, from outside what belongs to a connection.
const FIREWALL: [&str; 6] = [
    "table=0,ip,actions=ct(table=1,zone=5)",
    "table=1,priority=9,ct_state=+inv+trk,actions=drop",
    "table=1,priority=8,in_port=1,ct_state=+new+trk,ip,actions=ct(commit,zone=5),output:2",
    "table=1,priority=7,in_port=1,ct_state=+est+trk,actions=output:2",
    "table=1,priority=6,ct_state=+est+trk,actions=output:1",
    "table=1,priority=0,actions=drop",
];

const UDP: Ip =
    Ip { source: [10, 0, 0, 1], destination: [10, 0, 0, 2], protocol: 17, tos: 0, ports: (1000, 2000) };

fn turned(ip: Ip) -> Ip {
    Ip { source: ip.destination, destination: ip.source, ports: (ip.ports.1, ip.ports.0), ..ip }
}

fn tcp(out: bool, port: u16, flags: u8, (seq, ack): (u32, u32)) -> Vec<u8> {
    let ip = Ip { protocol: 6, ports: (port, 80), ..UDP };
    let ends = if out { (mac(1), mac(2), ip) } else { (mac(2), mac(1), turned(ip)) };
    let mut frame = ip_frame(ends.0, ends.1, ends.2, 0);
    frame[38..42].copy_from_slice(&seq.to_be_bytes());
    frame[42..46].copy_from_slice(&ack.to_be_bytes());
    frame[47] = flags;
    frame
}

const SYN: u8 = 2;
const ACK: u8 = 0x10;

fn open(rig: &mut Rig, port: u16) {
    for (out, flags, numbers) in
        [(true, SYN, (99, 0)), (false, SYN | ACK, (499, 100)), (true, ACK, (100, 500))]
    {
        assert_eq!(rig.reaches(u16::from(!out), tcp(out, port, flags, numbers)), [u16::from(out)]);
    }
}

#[test]
fn nothing_from_outside_is_established_that_nobody_inside_has_begun() {
    let mut rig = Rig::two_stations(&FIREWALL);
    open(&mut rig, 1000);
    let mut dice = Dice(7);
    for number in 0..20_000_u32 {
        // Any flags, numbers, windows, offsets and protocols, to all ports but the one.
        let mut frame =
            tcp(false, 1001 + dice.below(50) as u16, dice.roll() as u8, (number, dice.roll() as u32));
        frame[46] = (dice.roll() as u8 & 0xf0) | dice.pick(&[0, 0x50]);
        frame[48..50].copy_from_slice(&(dice.roll() as u16).to_be_bytes());
        frame[23] = dice.pick(&[6, 6, 6, 17, 1, 0, 132, dice.clone().roll() as u8]);
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame.resize(frame.len() + dice.pick(&[0, 6, 300]), 0xff);
        rig.send(1, frame);
        if number % 500 == 0 {
            rig.run();
            assert!(rig.sent(0).is_empty() && rig.sent(1).is_empty());
        }
    }
    rig.run();
    assert!(rig.sent_all().is_empty());
    assert_eq!(rig.datapath.connections().statistics().connections, 1);
    assert_eq!(rig.reaches(1, tcp(false, 1000, ACK, (500, 100))), [0]);
}

#[test]
fn a_flood_of_first_segments_takes_what_the_table_has_and_goes_with_its_time() {
    let mut rig = Rig::two_stations(&FIREWALL);
    open(&mut rig, 9);
    for port in 1000..6000 {
        rig.send(0, tcp(true, port, SYN, (1, 0)));
        if port % 500 == 0 {
            rig.run();
        }
    }
    rig.run();
    rig.sent_all();
    let statistics = rig.datapath.connections().statistics();
    assert_eq!((statistics.connections, statistics.early_drop), (CONNECTIONS.max, 4001));
    assert_eq!(rig.reaches(1, tcp(false, 9, ACK, (500, 100))), [0], "who was there before goes on");
    for port in 10..20 {
        open(&mut rig, port);
        (0..500).for_each(|number| {
            rig.send(0, tcp(true, 20_000 + u16::from(port as u8) * 500 + number, SYN, (1, 0)))
        });
        rig.run();
        rig.sent_all();
    }
    for port in 9..20 {
        assert_eq!(
            rig.reaches(1, tcp(false, port, ACK, (500, 100))),
            [0],
            "nor is anybody kept from beginning"
        );
    }
    rig.wait(31);
    (0..100).for_each(|_| rig.run());
    open(&mut rig, 21);
    assert_eq!(rig.reaches(1, tcp(false, 9, ACK, (500, 100))), [0]);
}

/// A fragment of 1,200 octets: the `number`th of a packet, with more to come.
fn fragment(source: u8, id: u16, number: u16) -> Vec<u8> {
    let ip = Ip { source: [10, 0, 0, source], ..UDP };
    let mut frame = ip_frame(mac(source), mac(2), ip, 1200 - 8);
    frame[18..20].copy_from_slice(&id.to_be_bytes());
    frame[20..22].copy_from_slice(&(0x2000 | (number * 150)).to_be_bytes());
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The last fragment, 8 octets.
fn last(source: u8, id: u16, number: u16) -> Vec<u8> {
    let mut frame = fragment(source, id, number);
    frame.truncate(42);
    frame[16..18].copy_from_slice(&28_u16.to_be_bytes());
    frame[20] &= 0x1f;
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn fragments_without_end_are_held_within_limits_and_leave_room_for_others() {
    let mut rig = Rig::with_bridge(1);
    (0..3).for_each(|port| rig.add_device(port, access(0)));
    rig.publish();
    rig.load_rules(0, &["table=0,ip,actions=ct(commit,table=1,zone=5)", "table=1,actions=output:2"]);
    // One packet that doesn't end, then first fragments of ever new ones.
    (0..50).for_each(|number| rig.send(0, fragment(1, 1, number)));
    for id in 2..3000 {
        rig.send(0, fragment(1, id, 0));
        if id % 200 == 0 {
            rig.run();
        }
    }
    rig.run();
    assert!(rig.held() <= 500, "{}", rig.held());
    let drops = rig.drops(0);
    assert!(
        drops
            .iter()
            .all(|(reason, _)| [DropReason::FragmentLimit, DropReason::FragmentTooMany].contains(reason))
    );
    assert_eq!(drops.iter().map(|(_, packets)| packets).sum::<u64>() + rig.held(), 3048);
    // Another port's packet comes through.
    assert!(rig.exchange(2, fragment(3, 7, 0)).is_empty());
    assert_eq!(rig.exchange(2, last(3, 7, 1)).len(), 2, "{:?}", rig.drops(2));
    rig.wait(16);
    assert_eq!(rig.held(), 0);
    assert!(rig.exchange(0, fragment(1, 1, 0)).is_empty());
    assert_eq!(rig.exchange(0, last(1, 1, 1)).len(), 2, "{:?}", rig.drops(0));
}

#[test]
fn padding_is_nothing_that_was_sent() {
    let mut rig = Rig::two_stations(&FIREWALL);
    let padded = |out, flags, numbers| {
        let mut frame = tcp(out, 1000, flags, numbers);
        frame.resize(frame.len() + 300, 0xff);
        frame
    };
    for (out, flags, numbers) in
        [(true, SYN, (99, 0)), (false, SYN | ACK, (499, 100)), (true, ACK, (100, 500))]
    {
        assert_eq!(rig.reaches(u16::from(!out), padded(out, flags, numbers)), [u16::from(out)]);
    }
    // A window of 8,192 octets is no shorter for it.
    assert_eq!(rig.reaches(1, padded(false, ACK, (500 + 8000, 100))), [0]);
    let connections = rig.datapath.connections();
    let mut low = 0;
    connections.list(&Default::default(), 101, &mut |connection| low = connection.progress.peers[0].low);
    assert_eq!(low, 99, "no data has moved it");
}
