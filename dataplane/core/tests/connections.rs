//! Connections in the pipeline: what rules see of them, what is cached, and what ends it.

#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use std::time::Duration;

use rig::frames::{Ip, ip_frame, mac};
use rig::{CONNECTIONS, Rig};
use weft_conntrack::{Filter, Masked, ZoneLimit};
use weft_core::key::{Ingress, PortId};
use weft_core::parse;
use weft_core::tables::Change;
use weft_core::trace::What;
use weft_flow::message::FlowCommand;
use weft_flow::text::{NoNames, parse_flow};
use weft_wire::checksum::checksum;
use weft_wire::{DropReason, OfPort};

/// From inside (port 0) all is allowed, from outside what belongs to a connection.
const FIREWALL: [&str; 6] = [
    "table=0,ip,actions=ct(table=1,zone=5)",
    "table=1,priority=9,ct_state=+inv+trk,actions=drop",
    "table=1,priority=8,in_port=1,ct_state=+new+trk,ip,actions=ct(commit,zone=5),output:2",
    "table=1,priority=7,in_port=1,ct_state=+est+trk,actions=output:2",
    "table=1,priority=6,in_port=2,ct_state=+est+trk,actions=output:1",
    "table=1,priority=0,actions=drop",
];

fn udp(out: bool) -> Vec<u8> {
    packet(out, Ip::default(), 20)
}

/// From station 1 to 2, or back: with the ends of `ip` changed.
fn packet(out: bool, ip: Ip, payload: usize) -> Vec<u8> {
    if out {
        return ip_frame(mac(1), mac(2), ip, payload);
    }
    let ports = (ip.ports.1, ip.ports.0);
    ip_frame(mac(2), mac(1), Ip { source: ip.destination, destination: ip.source, ports, ..ip }, payload)
}

/// A TCP segment with 20 octets of payload if it is one with data.
fn tcp(out: bool, flags: u8, (seq, ack): (u32, u32), payload: usize) -> Vec<u8> {
    let mut frame = packet(out, Ip { protocol: 6, ..Ip::default() }, payload);
    frame[38..42].copy_from_slice(&seq.to_be_bytes());
    frame[42..46].copy_from_slice(&ack.to_be_bytes());
    frame[47] = flags;
    frame
}

const SYN: u8 = 2;
const ACK: u8 = 0x10;

/// Whether the packet is let through.
fn passes(rig: &mut Rig, out: bool, frame: Vec<u8>) -> bool {
    let (from, to) = if out { (0, 1) } else { (1, 0) };
    match &rig.reaches(from, frame)[..] {
        [] => false,
        [port] => *port == to,
        more => panic!("{more:?}"),
    }
}

/// The same, and how many walks that took.
fn walks(rig: &mut Rig, out: bool, frame: Vec<u8>) -> (bool, u64) {
    let before = rig.misses();
    let passed = passes(rig, out, frame);
    (passed, rig.misses() - before)
}

#[test]
fn an_answer_passes_and_a_stranger_does_not() {
    let mut rig = Rig::two_stations(&FIREWALL);
    assert!(!passes(&mut rig, false, udp(false)));
    assert!(passes(&mut rig, true, udp(true)));
    assert!(passes(&mut rig, false, udp(false)));
    let stranger = Ip { ports: (1001, 2000), ..Ip::default() };
    assert!(!passes(&mut rig, false, packet(false, stranger, 20)));
    assert_eq!(rig.datapath.connections().zones(), [(5, 1)]);
}

#[test]
fn established_traffic_and_refused_traffic_take_no_walk() {
    let mut rig = Rig::two_stations(&FIREWALL);
    assert_eq!(walks(&mut rig, false, udp(false)), (false, 1));
    assert_eq!(walks(&mut rig, false, udp(false)), (false, 0), "the drop is cached");
    assert_eq!(walks(&mut rig, true, udp(true)), (true, 1));
    assert_eq!(walks(&mut rig, false, udp(false)), (true, 1), "the drop was of another connection's absence");
    assert_eq!(walks(&mut rig, true, udp(true)), (true, 1));
    for _ in 0..3 {
        assert_eq!(walks(&mut rig, true, udp(true)), (true, 0));
        assert_eq!(walks(&mut rig, false, udp(false)), (true, 0));
    }
}

#[test]
fn connections_that_take_one_path_share_a_program() {
    let mut rig = Rig::two_stations(&FIREWALL);
    for port in 0..100 {
        let ip = Ip { ports: (5000 + port, 53), ..Ip::default() };
        for out in [true, false, true] {
            assert!(passes(&mut rig, out, packet(out, ip, 20)));
        }
    }
    let programs: u64 = rig.datapath.counters().map(|counters| counters.worker.programs.get()).sum();
    // Established there, established back; new, which no flow keeps, may have gone.
    assert!((2..=3).contains(&programs), "{programs}");
}

/// How many packets have begun a connection as others had before them.
fn begun(rig: &Rig) -> u64 {
    rig.datapath.counters().map(|counters| counters.worker.begun.get()).sum()
}

#[test]
fn first_packets_of_a_kind_begin_as_the_first_of_them_did() {
    let mut rig = Rig::two_stations(&FIREWALL);
    let from = |port| packet(true, Ip { ports: (port, 53), ..Ip::default() }, 20);
    for port in 1000..1010 {
        assert!(passes(&mut rig, true, from(port)));
    }
    assert_eq!((begun(&rig), rig.datapath.connections().zones()), (9, vec![(5, 10)]));
    assert!(passes(&mut rig, true, from(1005)), "it has begun already");
    assert!(passes(&mut rig, false, packet(false, Ip { ports: (1005, 53), ..Ip::default() }, 20)));
    assert_eq!(begun(&rig), 9);
    let tcp_from = |flags, port: u16| {
        let mut frame = tcp(true, flags, (1, 0), 0);
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        frame
    };
    for (flags, port, passed) in [(SYN, 2001, true), (SYN, 2002, true), (SYN | ACK, 2003, false)] {
        assert_eq!(passes(&mut rig, true, tcp_from(flags, port)), passed);
    }
    assert_eq!(begun(&rig), 10, "another kind: its first one walks");
    rig.check_counters();
}

#[test]
fn what_a_new_rule_reads_tells_kinds_apart() {
    let mut rig = Rig::two_stations(&FIREWALL);
    let from = |port| packet(true, Ip { ports: (port, 53), ..Ip::default() }, 20);
    for port in [1000, 1001] {
        assert!(passes(&mut rig, true, from(port)));
    }
    let refused = "table=1,priority=10,udp,tp_src=77,ct_state=+new+trk,actions=drop";
    let rule = parse_flow(refused, FlowCommand::Add, &NoNames).unwrap();
    rig.change(0, &[Change::Flow(rule)]);
    assert!(passes(&mut rig, true, from(1002)));
    assert!(!passes(&mut rig, true, from(77)));
    assert!(passes(&mut rig, true, from(1003)));
    assert_eq!(begun(&rig), 2, "ports that no rule asks for are all the same");
    assert!(!passes(&mut rig, true, packet(true, Ip { ports: (77, 54), ..Ip::default() }, 20)));
    assert!(passes(&mut rig, true, from(1004)));
    assert_eq!(begun(&rig), 3);
}

#[test]
fn connections_of_a_full_zone_are_refused_to_first_packets_of_every_kind() {
    let mut rig = Rig::two_stations(&FIREWALL);
    rig.datapath.connections().set_zone_limit(5, ZoneLimit::AtMost(2));
    for port in 1000..1004 {
        passes(&mut rig, true, packet(true, Ip { ports: (port, 53), ..Ip::default() }, 20));
    }
    let statistics = rig.datapath.connections().statistics();
    assert_eq!((statistics.connections, statistics.refused_zone, begun(&rig)), (2, 2, 1));
}

#[test]
fn tcp_is_followed_by_its_numbers_and_a_segment_out_of_its_window_is_invalid() {
    let mut rig = Rig::two_stations(&FIREWALL);
    assert!(passes(&mut rig, true, tcp(true, SYN, (100, 0), 0)));
    assert!(passes(&mut rig, false, tcp(false, SYN | ACK, (500, 101), 0)));
    assert!(passes(&mut rig, true, tcp(true, ACK, (101, 501), 0)));
    assert!(passes(&mut rig, true, tcp(true, ACK, (101, 501), 20)));
    assert!(passes(&mut rig, false, tcp(false, ACK, (501, 121), 0)));
    assert_eq!(walks(&mut rig, true, tcp(true, ACK, (121, 501), 20)), (true, 0));
    assert_eq!(walks(&mut rig, false, tcp(false, ACK, (501, 141), 20)), (true, 0));
    let far = tcp(true, ACK, (121 + (1 << 30), 501), 20);
    assert_eq!(walks(&mut rig, true, far), (false, 1));
    assert_eq!(walks(&mut rig, true, tcp(true, ACK, (141, 521), 20)), (true, 0), "the flow stays as it was");
}

#[test]
fn a_connection_that_expires_or_is_flushed_is_gone_for_the_next_packet() {
    let mut rig = Rig::two_stations(&FIREWALL);
    for out in [true, false, true, false] {
        assert!(passes(&mut rig, out, udp(out)));
    }
    rig.wait(29);
    assert!(passes(&mut rig, false, udp(false)));
    rig.now += Duration::from_secs(30);
    assert!(!passes(&mut rig, false, udp(false)), "30 seconds without a packet");
    for out in [true, false, true, false] {
        assert!(passes(&mut rig, out, udp(out)));
    }
    let second = rig.now.as_secs() as u32 + 1;
    assert_eq!(rig.datapath.connections().flush(&Filter::default(), second), 1);
    assert!(!passes(&mut rig, false, udp(false)));
}

#[test]
fn marks_and_labels_are_set_seen_and_end_what_was_cached_by_others() {
    let mut rig = Rig::two_stations(&[
        "table=0,priority=40000,ip,nw_tos=32,actions=ct(table=2,zone=1)",
        "table=0,ip,actions=ct(table=1,zone=1)",
        "table=1,priority=9,ct_mark=1/1,actions=drop",
        "table=1,priority=8,ct_state=+new+trk,ip,actions=ct(commit,zone=1,exec(load:6->NXM_NX_CT_MARK[],set_field:0x50/0xf0->ct_label)),output:2",
        "table=1,priority=7,ct_mark=6,ct_label=0x50,actions=output:2,output:1",
        "table=2,ip,actions=ct(commit,zone=1,exec(set_field:1/1->ct_mark)),output:2",
    ]);
    assert!(passes(&mut rig, true, udp(true)));
    assert!(passes(&mut rig, true, udp(true)));
    assert!(passes(&mut rig, false, udp(false)));
    for _ in 0..2 {
        assert!(passes(&mut rig, true, udp(true)));
    }
    assert_eq!(walks(&mut rig, true, udp(true)), (true, 0));
    let tos = Ip { tos: 32, ..Ip::default() };
    assert!(passes(&mut rig, true, packet(true, tos, 20)));
    let mut seen = Vec::new();
    let marked = Filter { mark: Masked { value: 7, mask: u32::MAX }, ..Filter::default() };
    rig.datapath.connections().list(&marked, 102, &mut |connection| seen.push(connection.label));
    assert_eq!(seen, [0x50]);
    assert!(!passes(&mut rig, true, udp(true)), "the mark is 7 now");
}

#[test]
fn a_tracked_copy_has_registers_and_action_set_and_behind_the_action_is_no_connection() {
    let mut rig = Rig::two_stations(&[
        "table=0,ip,actions=load:7->NXM_NX_REG0[],set_field:9->metadata,ct(table=1,zone=1),goto_table:2",
        "table=1,ct_state=+trk,reg0=7,metadata=9,actions=load:1->NXM_NX_REG0[],output:2",
        "table=2,ct_state=-trk,ct_zone=0,reg0=7,actions=mod_nw_tos:32,output:2",
    ]);
    let sent = rig.exchange(0, udp(true));
    let tos: Vec<u8> = sent.iter().map(|(_, frame)| frame[15]).collect();
    assert_eq!(tos, [0, 32]);
}

#[test]
fn a_zone_can_be_a_field_and_ct_clear_forgets() {
    let mut rig = Rig::two_stations(&[
        "table=0,ip,actions=load:77->NXM_NX_REG3[0..15],ct(commit,table=1,zone=NXM_NX_REG3[0..15])",
        "table=1,ct_zone=77,actions=ct_clear,resubmit(,2)",
        "table=2,ct_state=-trk,ct_zone=0,actions=output:2",
    ]);
    assert!(passes(&mut rig, true, udp(true)));
    assert_eq!(rig.datapath.connections().zones(), [(77, 1)]);
}

#[test]
fn resubmit_ct_looks_up_by_the_original_direction_and_only_looks_up() {
    let mut rig = Rig::two_stations(&[
        "table=0,ip,actions=ct(commit,table=1,zone=1)",
        "table=1,ip,ct_state=+trk+new,actions=resubmit(,2,ct)",
        "table=1,ip,ct_state=+trk+est,actions=resubmit(,2,ct)",
        "table=2,udp,nw_src=10.0.0.1,tp_dst=2000,actions=resubmit(,3)",
        "table=3,priority=2,udp,nw_src=10.0.0.2,tp_src=2000,actions=output:1",
        "table=3,priority=1,actions=output:2",
    ]);
    assert!(passes(&mut rig, true, udp(true)));
    for _ in 0..3 {
        assert!(passes(&mut rig, false, udp(false)));
    }
    // Another connection of the same path: its answer is looked up by its own first direction.
    let other = Ip { source: [10, 0, 0, 7], ..Ip::default() };
    assert!(!passes(&mut rig, true, packet(true, other, 20)));
    assert!(!passes(&mut rig, false, packet(false, other, 20)));
    // A new rule about addresses that are the connection's concerns what is cached.
    let rule =
        parse_flow("table=2,priority=40000,ip,nw_src=10.0.0.1,actions=drop", FlowCommand::Add, &NoNames);
    assert_eq!(walks(&mut rig, false, udp(false)), (true, 0));
    rig.change(0, &[Change::Flow(rule.unwrap())]);
    assert!(!passes(&mut rig, false, udp(false)));
}

/// The connection is translated as 192.0.2.1, ports 4000 to 4001.
const SNAT: [&str; 5] = [
    "table=0,priority=2,in_port=1,ip,actions=ct(commit,table=1,zone=1,nat(src=192.0.2.1:4000-4001))",
    "table=0,priority=1,in_port=2,ip,actions=ct(table=1,zone=1,nat)",
    "table=1,priority=9,ct_state=+snat,in_port=1,ip,nw_src=192.0.2.1,actions=output:2",
    "table=1,priority=8,ct_state=+est+rpl,ip,nw_dst=10.0.0.1,actions=output:1",
    "table=1,priority=7,actions=drop",
];

/// With a right UDP checksum.
fn summed(mut frame: Vec<u8>) -> Vec<u8> {
    frame[40..42].fill(0);
    let sum = udp_sum(&frame);
    frame[40..42].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn udp_sum(frame: &[u8]) -> u16 {
    let len = (frame.len() - 34) as u16;
    let pseudo = [&frame[26..34], &[0, 17], &len.to_be_bytes(), &frame[34..]].concat();
    checksum(&pseudo)
}

#[test]
fn a_translated_connection_leaves_as_another_and_its_answer_comes_back() {
    let mut rig = Rig::two_stations(&SNAT);
    for _ in 0..3 {
        let sent = rig.exchange(0, summed(udp(true)));
        assert_eq!(sent.len(), 1, "{:?}", rig.drops(0));
        let frame = &sent[0].1;
        let port = u16::from_be_bytes([frame[34], frame[35]]);
        assert_eq!(frame[26..30], [192, 0, 2, 1]);
        assert!((4000..=4001).contains(&port));
        assert_eq!((checksum(&frame[14..34]), udp_sum(frame)), (0, 0));
        let back = Ip { source: [192, 0, 2, 1], ports: (port, 2000), ..Ip::default() };
        let sent = rig.exchange(1, summed(packet(false, back, 20)));
        assert_eq!(sent.len(), 1, "{:?}", rig.drops(1));
        let frame = &sent[0].1;
        assert_eq!((sent[0].0, &frame[30..34], &frame[36..38]), (0, &[10, 0, 0, 1][..], &[3, 0xe8][..]));
        assert_eq!((checksum(&frame[14..34]), udp_sum(frame)), (0, 0));
    }
    assert_eq!(walks(&mut rig, true, udp(true)), (true, 0));
}

#[test]
fn a_range_that_is_used_up_is_a_counted_drop() {
    let mut rig = Rig::two_stations(&SNAT);
    for (port, passed) in [(1000, true), (1001, true), (1002, false)] {
        let ip = Ip { ports: (port, 2000), ..Ip::default() };
        assert_eq!(passes(&mut rig, true, packet(true, ip, 20)), passed);
    }
    assert_eq!(rig.drops(0), [(DropReason::NatExhausted, 1)]);
    assert_eq!(rig.datapath.connections().statistics().refused_nat, 1);
}

#[test]
fn what_can_not_be_made_passes_as_new_and_is_counted() {
    let mut rig = Rig::two_stations(&FIREWALL);
    rig.datapath.connections().set_zone_limit(5, ZoneLimit::AtMost(1));
    assert!(passes(&mut rig, true, udp(true)));
    let other = Ip { ports: (7, 7), ..Ip::default() };
    assert!(passes(&mut rig, true, packet(true, other, 20)));
    assert!(!passes(&mut rig, false, packet(false, other, 20)));
    assert_eq!(rig.datapath.connections().statistics().refused_zone, 1);
    rig.datapath.connections().set_zone_limit(5, ZoneLimit::Unlimited);
    for port in 0..CONNECTIONS.max as u16 + 10 {
        let ip = Ip { ports: (10_000 + port, 7), ..Ip::default() };
        assert!(passes(&mut rig, true, packet(true, ip, 20)));
        // Who was answered doesn't make room.
        assert_eq!(passes(&mut rig, false, packet(false, ip, 20)), port < CONNECTIONS.max as u16);
    }
    let statistics = rig.datapath.connections().statistics();
    assert_eq!((statistics.refused_full, statistics.early_drop), (10, 1), "one for who was not answered");
}

#[test]
fn pings_are_told_apart_by_their_identifier_and_an_error_is_related() {
    let mut rig = Rig::two_stations(&[
        "table=0,ip,actions=ct(table=1,zone=5)",
        "table=1,priority=9,in_port=1,ct_state=+new+trk,ip,actions=ct(commit,zone=5),output:2",
        "table=1,priority=8,in_port=2,ct_state=+est+trk,actions=output:1",
        "table=1,priority=7,in_port=2,ct_state=+rel+trk,actions=output:1",
        "table=1,priority=0,actions=drop",
    ]);
    let ping = |out: bool, identifier: u8| {
        let mut frame = packet(out, Ip { protocol: 1, ports: (0, 0), ..Ip::default() }, 20);
        frame[34..42].copy_from_slice(&[if out { 8 } else { 0 }, 0, 0, 0, 0, identifier, 0, 1]);
        frame
    };
    assert!(passes(&mut rig, true, ping(true, 1)));
    assert!(passes(&mut rig, false, ping(false, 1)));
    assert!(!passes(&mut rig, false, ping(false, 2)));
    assert!(passes(&mut rig, true, udp(true)));
    // "Port unreachable", of the packet that was sent, and of one that wasn't.
    let unreachable = |quoted: Vec<u8>| {
        let ip = Ip { protocol: 1, ports: (0, 0), ..Ip::default() };
        let mut frame = packet(false, ip, 28);
        frame[34..42].copy_from_slice(&[3, 3, 0, 0, 0, 0, 0, 0]);
        frame[42..70].copy_from_slice(&quoted[14..42]);
        frame
    };
    assert!(passes(&mut rig, false, unreachable(udp(true))));
    let other = Ip { ports: (1, 2), ..Ip::default() };
    assert!(!passes(&mut rig, false, unreachable(packet(true, other, 20))));
}

#[test]
fn port_0_is_invalid() {
    let mut rig = Rig::two_stations(&[
        "table=0,ip,actions=ct(table=1)",
        "table=1,priority=9,ct_state=+inv+trk-new-est,actions=output:2",
        "table=1,priority=0,actions=drop",
    ]);
    let zero = packet(true, Ip { ports: (0, 7), ..Ip::default() }, 20);
    assert_eq!(walks(&mut rig, true, zero.clone()), (true, 1));
    assert_eq!(walks(&mut rig, true, zero), (true, 0));
    assert!(!passes(&mut rig, true, udp(true)));
    assert_eq!(rig.datapath.connections().statistics().connections, 0);
}

#[test]
fn a_trace_says_what_ct_would_say_and_changes_nothing() {
    let mut rig = Rig::two_stations(&FIREWALL);
    let said = |rig: &Rig, frame: &[u8]| {
        let key = parse::full(frame, Ingress::port(PortId(0))).unwrap();
        let trace = rig.trace(&key, None);
        assert_eq!(trace.copies[0].ofport, OfPort(2));
        let connections = trace.steps.into_iter().filter_map(|step| match step.what {
            What::Tracked(connection) => Some(connection.to_string()),
            _ => None,
        });
        connections.collect::<Vec<_>>()
    };
    let new = "zone 5: new|trk, src=10.0.0.1,dst=10.0.0.2,sport=1000,dport=2000, begun as src=10.0.0.1,dst=10.0.0.2,sport=1000,dport=2000";
    assert_eq!(said(&rig, &udp(true)), [new.to_owned(), format!("{new}, would be made")]);
    assert_eq!(rig.datapath.connections().statistics().connections, 0);
    assert!(passes(&mut rig, true, udp(true)));
    assert!(passes(&mut rig, false, udp(false)));
    assert_eq!(said(&rig, &udp(true)), [new.replace("new", "est")]);
    // What is only described has no sequence numbers: it is taken as the next segment.
    let segment = |flags| tcp(true, flags, (0, 0), 0);
    assert!(said(&rig, &segment(0))[0].starts_with("zone 5: new|trk"));
    assert!(passes(&mut rig, true, tcp(true, SYN, (100, 0), 0)));
    assert!(passes(&mut rig, false, tcp(false, SYN | ACK, (500, 101), 0)));
    assert!(passes(&mut rig, true, tcp(true, ACK, (101, 501), 0)));
    assert!(said(&rig, &segment(0))[0].starts_with("zone 5: est|trk"));
}
