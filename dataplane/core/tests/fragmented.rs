//! Packets in fragments through a policy with connections: each fragment gets what its whole packet gets.

#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use rig::frames::{Ip, ip_frame, mac};
use rig::{Rig, access, rule};
use weft_core::key::PortId;
use weft_core::snapshot::Guard;
use weft_core::tables::{Change, TableId};
use weft_flow::Action;
use weft_flow::action::{Ct, CtZone, Own};
use weft_flow::text::{NoNames, parse_match};
use weft_wire::DropReason;
use weft_wire::checksum::checksum;

/// From inside all is allowed, from outside what belongs to a connection. No rule in front of `ct` sees ports.
const FIREWALL: [&str; 5] = [
    "table=0,ip,actions=ct(table=1,zone=5)",
    "table=1,priority=8,in_port=1,ct_state=+new+trk,ip,actions=ct(commit,zone=5),output:2",
    "table=1,priority=7,in_port=1,ct_state=+est+trk,actions=output:2",
    "table=1,priority=6,in_port=2,ct_state=+est+trk,actions=output:1",
    "table=1,priority=0,actions=drop",
];

/// A whole packet with right checksums, from station 1 to 2 or back.
fn whole(out: bool, ip: Ip, payload: usize) -> Vec<u8> {
    let mut frame = if out {
        ip_frame(mac(1), mac(2), ip, payload)
    } else {
        let turned =
            Ip { source: ip.destination, destination: ip.source, ports: (ip.ports.1, ip.ports.0), ..ip };
        ip_frame(mac(2), mac(1), turned, payload)
    };
    let at = if ip.protocol == 1 { 36 } else { 40 };
    if ip.protocol == 1 {
        let kind = if out { 8 } else { 0 };
        frame[34..42].copy_from_slice(&[kind, 0, 0, 0, 0, 77, 0, 1]);
    }
    let sum = transport_sum(&frame);
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn transport_sum(frame: &[u8]) -> u16 {
    if frame[23] == 1 {
        return checksum(&frame[34..]);
    }
    let len = (frame.len() - 34) as u16;
    checksum(&[&frame[26..34], &[0, frame[23]], &len.to_be_bytes(), &frame[34..]].concat())
}

/// Cuts a packet into fragments of `size` octets of payload.
fn cut(frame: &[u8], size: usize, id: u16) -> Vec<Vec<u8>> {
    let pieces = frame[34..].chunks(size).enumerate();
    let last = frame[34..].len().div_ceil(size) - 1;
    let cut = pieces.map(|(number, piece)| {
        let mut fragment = [&frame[..34], piece].concat();
        let more = if number == last { 0 } else { 0x2000 };
        fragment[16..18].copy_from_slice(&(20 + piece.len() as u16).to_be_bytes());
        fragment[18..20].copy_from_slice(&id.to_be_bytes());
        fragment[20..22].copy_from_slice(&(more | (number * size / 8) as u16).to_be_bytes());
        fragment[24..26].fill(0);
        let sum = checksum(&fragment[14..34]);
        fragment[24..26].copy_from_slice(&sum.to_be_bytes());
        fragment
    });
    cut.collect()
}

/// Puts fragments together, with right IP headers.
fn joined(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut fragments = fragments.to_vec();
    fragments.sort_by_key(|fragment| u16::from_be_bytes([fragment[20], fragment[21]]) & 0x1fff);
    let mut frame = fragments[0][..34].to_vec();
    for fragment in &fragments {
        assert_eq!(checksum(&fragment[14..34]), 0);
        assert_eq!(fragment[26..34], fragments[0][26..34]);
        frame.extend(&fragment[34..]);
    }
    frame
}

/// Sends fragments in this order: the ports and octets of what leaves, and how many wait before the last one.
fn send(rig: &mut Rig, port: u16, fragments: &[Vec<u8>], order: &[usize]) -> (Vec<(u16, Vec<u8>)>, u64) {
    let (mut sent, mut held) = (Vec::new(), 0);
    for (at, &number) in order.iter().enumerate() {
        held = if at + 1 == order.len() { rig.held() } else { 0 };
        sent.extend(rig.exchange(port, fragments[number].clone()));
    }
    (sent, held)
}

const UDP: Ip =
    Ip { source: [10, 0, 0, 1], destination: [10, 0, 0, 2], protocol: 17, tos: 0, ports: (1000, 2000) };

#[test]
fn fragments_pass_a_stateful_policy_in_both_directions_once_all_are_there() {
    for ip in [UDP, Ip { protocol: 1, ports: (0, 0), ..UDP }] {
        let mut rig = Rig::two_stations(&FIREWALL);
        let stranger = cut(&whole(false, ip, 4000), 1480, 9);
        let (sent, _) = send(&mut rig, 1, &stranger, &[0, 1, 2]);
        assert!(sent.is_empty(), "no connection yet");
        assert_eq!(rig.drops(1), [(DropReason::RuleDrop, 3)]);
        for (id, order) in [(1, [0, 1, 2]), (2, [2, 0, 1]), (3, [1, 2, 0])] {
            for out in [true, false] {
                let fragments = cut(&whole(out, ip, 4000), 1480, id);
                let (sent, held) = send(&mut rig, u16::from(!out), &fragments, &order);
                assert_eq!(held, 2, "the last one lets them go");
                let expected: Vec<_> =
                    order.iter().map(|&at| (u16::from(out), fragments[at].clone())).collect();
                assert_eq!(sent, expected, "{out} {order:?}: {:?}", rig.drops(u16::from(!out)));
                assert_eq!(rig.held(), 0);
            }
        }
        assert_eq!(rig.datapath.connections().statistics().connections, 1);
        assert_eq!(rig.datapath.connections().statistics().created, 1);
    }
}

#[test]
fn fragments_and_whole_packets_are_of_one_connection() {
    let mut rig = Rig::two_stations(&FIREWALL);
    assert_eq!(rig.reaches(0, whole(true, UDP, 20)), [1]);
    let fragments = cut(&whole(false, UDP, 4000), 1480, 1);
    assert_eq!(send(&mut rig, 1, &fragments, &[0, 1, 2]).0.len(), 3);
    let other = cut(&whole(false, Ip { ports: (1001, 2000), ..UDP }, 4000), 1480, 2);
    assert!(send(&mut rig, 1, &other, &[0, 1, 2]).0.is_empty(), "another port's");
}

#[test]
fn translated_fragments_are_a_right_packet_and_its_answer_comes_back() {
    let mut rig = Rig::two_stations(&[
        "table=0,priority=2,in_port=1,ip,actions=ct(commit,table=1,zone=1,nat(src=192.0.2.1:4000))",
        "table=0,priority=1,in_port=2,ip,actions=ct(table=1,zone=1,nat)",
        "table=1,priority=9,in_port=1,ct_state=+snat,ip,nw_src=192.0.2.1,actions=output:2",
        "table=1,priority=8,in_port=2,ct_state=+est+rpl,ip,nw_dst=10.0.0.1,actions=output:1",
        "table=1,priority=7,actions=drop",
    ]);
    for (id, order) in [(1, [0, 1, 2]), (2, [2, 1, 0])] {
        let own = whole(true, UDP, 4000);
        let (sent, _) = send(&mut rig, 0, &cut(&own, 1480, id), &order);
        assert_eq!(sent.len(), 3, "{:?}", rig.drops(0));
        let seen = joined(&sent.into_iter().map(|(_, fragment)| fragment).collect::<Vec<_>>());
        assert_eq!((&seen[26..30], &seen[34..36]), (&[192, 0, 2, 1][..], &4000_u16.to_be_bytes()[..]));
        assert_eq!(transport_sum(&seen), 0);
        assert_eq!(seen[42..], own[42..]);
        let answer = whole(false, Ip { source: [192, 0, 2, 1], ports: (4000, 2000), ..UDP }, 4000);
        let (sent, _) = send(&mut rig, 1, &cut(&answer, 1480, id), &order);
        assert_eq!(sent.len(), 3, "{:?}", rig.drops(1));
        let seen = joined(&sent.into_iter().map(|(_, fragment)| fragment).collect::<Vec<_>>());
        assert_eq!((&seen[30..34], &seen[36..38]), (&[10, 0, 0, 1][..], &1000_u16.to_be_bytes()[..]));
        assert_eq!(transport_sum(&seen), 0);
    }
}

#[test]
fn what_leaves_in_front_of_ct_leaves_once() {
    let mut rig =
        Rig::two_stations(&["table=0,ip,actions=output:2,ct(table=1,zone=5)", "table=1,actions=output:2"]);
    let fragments = cut(&whole(true, UDP, 2000), 1480, 1);
    assert!(rig.exchange(0, fragments[0].clone()).is_empty());
    assert_eq!(rig.exchange(0, fragments[1].clone()).len(), 4);
}

#[test]
fn fragments_that_lack_others_or_contradict_them_are_counted_drops() {
    let mut rig = Rig::two_stations(&FIREWALL);
    let fragments = cut(&whole(true, UDP, 4000), 1480, 1);
    rig.send(0, fragments[0].clone());
    rig.send(0, fragments[0].clone());
    rig.send(0, cut(&whole(true, UDP, 4000), 800, 2)[0].clone());
    rig.run();
    assert_eq!(rig.drops(0), [(DropReason::FragmentOverlap, 1), (DropReason::FragmentTooSmall, 1)]);
    assert_eq!(rig.held(), 1);
    rig.wait(16);
    assert_eq!(rig.held(), 0);
    assert!(rig.drops(0).contains(&(DropReason::FragmentExpired, 1)));
    rig.check_counters();
}

#[test]
fn fragments_of_a_port_that_goes_are_its_drops_and_not_those_of_the_next_with_its_number() {
    let mut rig = Rig::two_stations(&FIREWALL);
    let fragments = cut(&whole(true, UDP, 4000), 1480, 1);
    rig.exchange(0, fragments[0].clone());
    assert_eq!(rig.held(), 1);
    rig.remove_device(0);
    assert_eq!((rig.drops(0), rig.held()), (vec![(DropReason::PortRemoved, 1)], 0));
    rig.datapath.reset_counters(PortId(0));
    rig.add_device(0, access(0));
    rig.publish();
    assert!(send(&mut rig, 0, &fragments, &[1, 2]).0.is_empty(), "the first one was another's");
    rig.wait(16);
    assert_eq!(rig.drops(0), [(DropReason::FragmentExpired, 2)]);
    rig.check_counters();
}

#[test]
fn a_rule_in_front_of_ct_drops_fragments_as_ever() {
    let mut rig = Rig::two_stations(&[
        "table=0,priority=9,ip,nw_src=10.0.0.9,actions=drop",
        "table=0,priority=1,ip,actions=ct(table=1,zone=5)",
        "table=1,actions=output:2",
    ]);
    let fragments = cut(&whole(true, Ip { source: [10, 0, 0, 9], ..UDP }, 4000), 1480, 1);
    assert!(send(&mut rig, 0, &fragments, &[0, 1, 2]).0.is_empty());
    assert_eq!((rig.drops(0), rig.held()), (vec![(DropReason::RuleDrop, 3)], 0));
}

/// A rule of weft's own tables.
fn own(table: u16, priority: u16, matches: &str, actions: &[Action]) -> Change {
    let matches = parse_match(matches, &NoNames).unwrap();
    Change::FlowIn(TableId(table), rule(priority, matches, actions))
}

/// Two stations; what `guard` says goes through rules of weft's own.
fn guarded(guard: [Guard; 2], rules: &[Change]) -> Rig {
    let mut rig =
        Rig::two_stations(&["table=0,in_port=1,actions=output:2", "table=0,in_port=2,actions=output:1"]);
    rig.change(0, rules);
    (0..).zip(guard).for_each(|(id, guard)| rig.port(id).guard = guard);
    rig.publish();
    rig
}

const GUARDED: Guard = Guard { from: true, to: true };
const PERMIT: Action = Action::Own(Own::Permit);

#[test]
fn what_a_guard_refuses_does_not_come_in_fragments_either() {
    let from = TableId::FROM_GUARDED.0;
    let rogue = [Action::Own(Own::Drop(DropReason::RogueDhcp))];
    let rules = [
        own(from, 100, "udp,udp_src=67,udp_dst=68", &rogue),
        own(from, 100, "udp6,udp_src=547,udp_dst=546", &rogue),
        own(from, 100, "icmp6,icmp_type=134", &[Action::Own(Own::Drop(DropReason::RogueRa))]),
        own(from, 100, "icmp6,icmp_type=135,nw_frag=yes", &[Action::Own(Own::Drop(DropReason::SpoofedNd))]),
        own(from, 0, "", &[PERMIT]),
    ];
    let mut rig = guarded([Guard { from: true, to: false }, Guard::default()], &rules);
    let offer = cut(&whole(true, Ip { ports: (67, 68), ..UDP }, 4000), 1480, 1);
    assert!(send(&mut rig, 0, &offer, &[0, 1, 2]).0.is_empty());
    assert_eq!(rig.drops(0), [(DropReason::RogueDhcp, 3)]);
    let datagram = |source: u16, destination: u16| {
        let mut datagram = vec![0; 2000];
        datagram[..2].copy_from_slice(&source.to_be_bytes());
        datagram[2..4].copy_from_slice(&destination.to_be_bytes());
        datagram[4..6].copy_from_slice(&2000_u16.to_be_bytes());
        datagram
    };
    assert!(send(&mut rig, 0, &six(true, 17, &datagram(547, 546), 1), &[1, 0]).0.is_empty());
    assert_eq!(rig.drops(0), [(DropReason::RogueDhcp, 5)]);
    let mut advert = vec![0; 2000];
    advert[0] = 134;
    let advert = six(true, 58, &advert, 2);
    assert!(send(&mut rig, 0, &advert, &[0, 1]).0.is_empty());
    assert!(rig.drops(0).contains(&(DropReason::RogueRa, 2)), "{:?}", rig.drops(0));
    // In whatever order they come: the later one doesn't say itself what it is a part of.
    for (id, order) in [(3, [0, 1]), (5, [1, 0])] {
        let mut solicitation = vec![0; 2000];
        solicitation[0] = 135;
        assert!(send(&mut rig, 0, &six(true, 58, &solicitation, id), &order).0.is_empty());
    }
    assert!(rig.drops(0).contains(&(DropReason::SpoofedNd, 4)), "{:?}", rig.drops(0));
    // And all others come whole.
    let fragments = cut(&whole(true, UDP, 4000), 1480, 3);
    assert_eq!(send(&mut rig, 0, &fragments, &[2, 0, 1]).0.len(), 3);
    assert_eq!(send(&mut rig, 0, &six(true, 17, &datagram(5, 6), 4), &[1, 0]).0.len(), 2);
    rig.check_counters();
}

#[test]
fn a_guards_rules_see_the_ports_of_the_whole_packet() {
    let track =
        |table| Action::Ct(Box::new(Ct { zone: CtZone::Number(9), table: Some(table), ..Ct::default() }));
    let commit = Action::Ct(Box::new(Ct { commit: true, zone: CtZone::Number(9), ..Ct::default() }));
    let (from, to) = (TableId::FROM_GUARDED.0, TableId::TO_GUARDED.0);
    let rules = [
        own(from, 1, "", &[track(280)]),
        own(280, 2, "ct_state=+trk+rpl,udp,udp_src=2000", &[PERMIT]),
        own(to, 1, "", &[track(281)]),
        own(281, 2, "ct_state=+trk-rpl,udp,udp_dst=2000", &[commit, PERMIT]),
        own(281, 2, "ct_state=+trk+new,icmp,icmp_type=8", &[PERMIT]),
    ];
    let mut rig = guarded([Guard::default(), GUARDED], &rules);
    for (id, order) in [(1, [0, 1, 2]), (2, [2, 1, 0])] {
        let fragments = cut(&whole(true, UDP, 4000), 1480, id);
        assert_eq!(send(&mut rig, 0, &fragments, &order).0.len(), 3, "{:?}", rig.drops(0));
        let answer = cut(&whole(false, UDP, 4000), 1480, id);
        assert_eq!(send(&mut rig, 1, &answer, &order).0.len(), 3, "{:?}", rig.drops(1));
        let other = cut(&whole(true, Ip { ports: (1000, 2001), ..UDP }, 4000), 1480, id + 10);
        assert!(send(&mut rig, 0, &other, &order).0.is_empty());
        let ping = cut(&whole(true, Ip { protocol: 1, ports: (0, 0), ..UDP }, 4000), 1480, id + 20);
        assert_eq!(send(&mut rig, 0, &ping, &order).0.len(), 3, "{:?}", rig.drops(0));
    }
    rig.check_counters();
}

/// Fragments of an IPv6 packet that carries `message` (its checksum is filled in), at most 1,232 octets of it each.
fn six(out: bool, protocol: u8, message: &[u8], id: u8) -> Vec<Vec<u8>> {
    let [one, two] = [1, 2].map(|last| [&[0xfd; 1][..], &[0; 14], &[last]].concat());
    let (from, to) = if out { (&one, &two) } else { (&two, &one) };
    let mut message = message.to_vec();
    let place = if protocol == 6 { 16 } else { 6 };
    message[place..place + 2].fill(0);
    let len = (message.len() as u32).to_be_bytes();
    let sum = checksum(&[from, to, &len[..], &[0, 0, 0, protocol], &message].concat());
    message[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    let (source, destination) = if out { (mac(1), mac(2)) } else { (mac(2), mac(1)) };
    let last = message.len().div_ceil(1232) - 1;
    let fragment = |(number, piece): (usize, &[u8])| {
        let mut frame = [&destination.0[..], &source.0, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
        frame.extend((8 + piece.len() as u16).to_be_bytes());
        frame.extend([44, 64]);
        frame.extend(from.iter().chain(to));
        let offset = (number * 1232) as u16 | u16::from(number != last);
        frame.extend([protocol, 0]);
        frame.extend(offset.to_be_bytes());
        frame.extend([0, 0, 0, id]);
        frame.extend(piece);
        frame
    };
    message.chunks(1232).enumerate().map(fragment).collect()
}

/// A UDP datagram, or a TCP segment with these flags and numbers, of station 1 or of station 2.
fn message(out: bool, tcp: Option<(u8, u32, u32)>, payload: usize) -> Vec<u8> {
    let [from, to] = if out { [1000_u16, 2000] } else { [2000, 1000] };
    let mut message = [from.to_be_bytes(), to.to_be_bytes()].concat();
    match tcp {
        None => message.extend([(8 + payload as u16).to_be_bytes(), [0; 2]].concat()),
        Some((flags, seq, ack)) => {
            message.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
            message.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
        }
    }
    message.extend((0..payload).map(|octet| octet as u8));
    message
}

/// The policy for IPv6.
const FIREWALL6: [&str; 5] = [
    "table=0,ipv6,actions=ct(table=1,zone=5)",
    "table=1,priority=8,in_port=1,ct_state=+new+trk,ipv6,actions=ct(commit,zone=5),output:2",
    "table=1,priority=7,in_port=1,ct_state=+est+trk,actions=output:2",
    "table=1,priority=6,in_port=2,ct_state=+est+trk,actions=output:1",
    "table=1,priority=0,actions=drop",
];

#[test]
fn fragments_over_ipv6_pass_as_their_packet_does() {
    let mut rig = Rig::two_stations(&FIREWALL6);
    let stranger = six(false, 17, &message(false, None, 3000), 1);
    assert!(send(&mut rig, 1, &stranger, &[0, 1, 2]).0.is_empty());
    assert_eq!(rig.drops(1), [(DropReason::RuleDrop, 3)]);
    for (id, order) in [(2, [0, 1, 2]), (3, [2, 1, 0])] {
        for out in [true, false] {
            let fragments = six(out, 17, &message(out, None, 3000), id);
            let (sent, held) = send(&mut rig, u16::from(!out), &fragments, &order);
            let expected: Vec<_> = order.iter().map(|&at| (u16::from(out), fragments[at].clone())).collect();
            assert_eq!((sent, held), (expected, 2), "{:?}", rig.drops(u16::from(!out)));
        }
    }
    assert_eq!(rig.datapath.connections().zones(), [(5, 1)]);
}

#[test]
fn a_tcp_segment_in_fragments_is_held_against_its_window() {
    const ACK: u8 = 0x10;
    let mut rig = Rig::two_stations(&FIREWALL6);
    for (out, flags, seq, ack) in [(true, 2, 99, 0), (false, 2 | ACK, 499, 100), (true, ACK, 100, 500)] {
        let whole = six(out, 6, &message(out, Some((flags, seq, ack)), 0), 1);
        assert_eq!(rig.exchange(u16::from(!out), unfragmented(&whole[0])).len(), 1);
    }
    let data = |seq, id| six(true, 6, &message(true, Some((ACK, seq, 500)), 3000), id);
    assert_eq!(send(&mut rig, 0, &data(100, 2), &[1, 2, 0]).0.len(), 3, "{:?}", rig.drops(0));
    // What comes next is behind the 3,000 octets.
    let answer = six(false, 6, &message(false, Some((ACK, 500, 3100)), 0), 3);
    assert_eq!(rig.reaches(1, unfragmented(&answer[0])), [0]);
    assert!(send(&mut rig, 0, &data(100 + (1 << 30), 4), &[0, 1, 2]).0.is_empty(), "out of its window");
    assert_eq!(rig.drops(0), [(DropReason::RuleDrop, 3)]);
}

/// The packet of a frame that has one fragment, without its fragment header.
fn unfragmented(frame: &[u8]) -> Vec<u8> {
    let mut whole = [&frame[..54], &frame[62..]].concat();
    whole[20] = frame[54];
    let len = (whole.len() - 54) as u16;
    whole[18..20].copy_from_slice(&len.to_be_bytes());
    whole
}

#[test]
fn fragments_that_a_tunnel_carries_wait_for_each_other_and_not_for_those_of_another_tunnel() {
    use weft_core::snapshot::TunnelKeys;
    use weft_wire::TunnelKind;
    let mut rig = Rig::with_bridge(1);
    rig.add_uplink();
    rig.add_device(1, access(0));
    let spec = |number| rig::tunnel(TunnelKind::Vxlan, number, TunnelKeys::Flow);
    (50..=51).for_each(|number| rig.add_tunnel(number, spec(number as u8)));
    rig.publish();
    rig.load_rules(
        0,
        &["table=0,ip,actions=ct(commit,table=1,zone=5)", "table=1,ct_state=+new,actions=output:2"],
    );
    let fragments = cut(&whole(true, UDP, 2000), 1400, 7);
    let arrival = |number: u8, key, fragment: &[u8]| {
        let (mut frame, local) = (rig::wrapped(&spec(number), key, fragment), rig::LOCAL.octets());
        // As the remote end sends it.
        frame[..6].copy_from_slice(&rig::LOCAL_MAC.0);
        frame[26..30].copy_from_slice(&rig::remote(number).octets());
        frame[30..34].copy_from_slice(&local);
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    assert!(rig.exchange(rig::UPLINK, arrival(50, 9, &fragments[0])).is_empty());
    // Another remote end, another key: packets of their own.
    for (number, key) in [(51, 9), (50, 8)] {
        assert!(rig.exchange(rig::UPLINK, arrival(number, key, &fragments[1])).is_empty());
    }
    assert_eq!(rig.held(), 3);
    let sent = rig.exchange(rig::UPLINK, arrival(50, 9, &fragments[1]));
    assert_eq!(sent, [(1, fragments[0].clone()), (1, fragments[1].clone())]);
    assert_eq!(rig.held(), 2);
}

#[test]
fn a_second_zone_goes_by_the_ports_that_the_first_has_given_to_the_packet() {
    let mut rig = Rig::two_stations(&[
        "table=0,in_port=1,ip,actions=ct(commit,table=1,zone=1,nat(src=192.0.2.1:4000))",
        "table=1,in_port=1,ip,actions=ct(commit,table=2,zone=2)",
        "table=2,in_port=1,ip,actions=output:2",
        "table=0,in_port=2,ip,actions=ct(table=3,zone=2)",
        "table=3,in_port=2,ip,ct_state=+est,actions=ct(table=4,zone=1,nat)",
        "table=4,in_port=2,ip,ct_state=+est,actions=output:1",
    ]);
    let there = cut(&whole(true, UDP, 2000), 1400, 1);
    assert_eq!(send(&mut rig, 0, &there, &[0, 1]).0.len(), 2, "{:?}", rig.drops(0));
    let answer = Ip { source: [192, 0, 2, 1], ports: (4000, 2000), ..UDP };
    assert_eq!(rig.reaches(1, whole(false, answer, 20)), [0], "{:?}", rig.drops(1));
    let back = cut(&whole(false, answer, 2000), 1400, 2);
    assert_eq!(send(&mut rig, 1, &back, &[1, 0]).0.len(), 2, "{:?}", rig.drops(1));
    assert_eq!(rig.datapath.connections().zones(), [(1, 1), (2, 1)]);
}
