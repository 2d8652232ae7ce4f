//! A plain bridge, packet by packet: learning, flooding, ageing, several workers, packets of several frames, garbage.

#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use proptest::prelude::*;
use rig::craft::{CraftQueue, Crafted, Workshop};
use rig::frames::{BROADCAST, Ip, frame, ip_frame, mac, tagged};
use rig::{Rig, UPLINK, access, trunk, tunnel, vid};
use weft_core::fdb::Flush;
use weft_core::key::PortId;
use weft_core::output::INBOX;
use weft_core::snapshot::{PortKind, TunnelKeys};
use weft_core::vlan::VlanMode;
use weft_wire::checksum::checksum;
use weft_wire::{DropReason, Mac, TunnelKind};

/// `ports` access ports in VLAN 10, each on the worker that its number says.
fn bridge(workers: usize, ports: u16) -> Rig {
    let mut rig = Rig::with_bridge(workers);
    (0..ports).for_each(|port| rig.add_device(port, access(10)));
    rig.publish();
    rig
}

/// An address of station `number` among many.
fn station(number: u16) -> Mac {
    let [high, low] = number.to_be_bytes();
    Mac([2, 0, 0, 1, high, low])
}

#[test]
fn an_unknown_destination_is_flooded_and_a_known_one_is_not() {
    for workers in [1, 2, 3] {
        let mut rig = bridge(workers, 4);
        assert_eq!(rig.reaches(0, frame(mac(1), mac(2))), [1, 2, 3]);
        assert_eq!(rig.reaches(1, frame(mac(2), mac(1))), [0]);
        assert_eq!(rig.reaches(0, frame(mac(1), mac(2))), [1]);
        assert_eq!(rig.exchange(0, frame(mac(1), mac(2)))[0].1, frame(mac(1), mac(2)));
    }
}

#[test]
fn a_station_that_moves_to_another_workers_port_is_followed_at_once() {
    let mut rig = bridge(2, 4);
    rig.exchange(0, frame(mac(1), BROADCAST));
    assert_eq!(rig.reaches(2, frame(mac(2), mac(1))), [0]);
    rig.exchange(3, frame(mac(1), BROADCAST));
    assert_eq!(rig.reaches(2, frame(mac(2), mac(1))), [3]);
    assert_eq!((rig.learned(mac(1)).unwrap().moves, rig.fdb().stats().moved), (1, 1));
    rig.exchange(0, frame(mac(1), BROADCAST));
    assert_eq!(rig.reaches(2, frame(mac(2), mac(1))), [0]);
}

#[test]
fn an_address_ages_from_its_last_packet_even_if_that_took_a_cached_flow() {
    let mut rig = bridge(2, 3);
    rig.exchange(0, frame(mac(1), BROADCAST));
    rig.exchange(1, frame(mac(2), BROADCAST));
    for _ in 0..5 {
        rig.wait(100);
        rig.exchange(0, frame(mac(1), BROADCAST));
    }
    let second = rig.now.as_secs() as u32 + 1;
    assert_eq!(rig.fdb().expire(second, 300), 1);
    assert!(rig.learned(mac(1)).is_some() && rig.learned(mac(2)).is_none());
    assert_eq!(rig.reaches(0, frame(mac(1), mac(2))), [1, 2]);
}

#[test]
fn an_address_is_not_kept_young_by_packets_to_it() {
    let mut rig = bridge(1, 3);
    rig.exchange(1, frame(mac(2), BROADCAST));
    for _ in 0..4 {
        rig.wait(100);
        assert_eq!(rig.reaches(0, frame(mac(1), mac(2))), [1]);
    }
    let second = rig.now.as_secs() as u32 + 1;
    rig.fdb().expire(second, 300);
    assert_eq!(rig.reaches(0, frame(mac(1), mac(2))), [1, 2]);
}

#[test]
fn a_port_that_floods_addresses_crowds_nobody_out_and_the_table_keeps_its_limit() {
    let mut rig = Rig::new(2);
    rig.add_bridge_with_limit(0, 64);
    (0..3).for_each(|port| rig.add_device(port, access(10)));
    rig.publish();
    for number in 0..8 {
        rig.exchange(0, frame(mac(number), BROADCAST));
    }
    for number in 0..1000 {
        rig.send(1, frame(station(number), BROADCAST));
    }
    rig.run();
    rig.sent_all();
    let of = |port: u16| rig.fdb().entries().iter().filter(|entry| entry.port == PortId(port)).count();
    assert_eq!((of(0), of(1)), (8, 56));
    assert_eq!(rig.fdb().stats().evicted, 944);
    for number in 0..8 {
        assert_eq!(rig.reaches(2, frame(mac(99), mac(number))), [0]);
    }
}

#[test]
fn a_flush_makes_the_next_packet_flood_on_every_worker() {
    let mut rig = bridge(2, 4);
    rig.exchange(0, frame(mac(1), BROADCAST));
    for port in [1, 2] {
        assert_eq!(rig.reaches(port, frame(mac(port as u8 + 1), mac(1))), [0]);
    }
    rig.fdb().flush(Flush::default());
    assert_eq!(rig.reaches(1, frame(mac(2), mac(1))), [0, 2, 3]);
    assert_eq!(rig.reaches(2, frame(mac(3), mac(1))), [0, 1, 3]);
}

#[test]
fn within_one_burst_the_first_packet_teaches_the_second() {
    let mut rig = bridge(1, 3);
    rig.send(0, frame(mac(1), mac(2)));
    rig.send(0, frame(mac(2), mac(1)));
    rig.send(0, frame(mac(1), mac(2)));
    rig.run();
    assert_eq!((rig.sent(1).len(), rig.sent(2).len()), (1, 1));
    assert_eq!(rig.drops(0), [(DropReason::SamePort, 2)]);
}

#[test]
fn the_frames_of_a_port_keep_their_order_whatever_becomes_of_each() {
    let mut rig = bridge(2, 3);
    rig.exchange(1, frame(mac(2), BROADCAST));
    for round in 0..4u8 {
        for number in 0..50u8 {
            let destination = if number % 3 == 0 { BROADCAST } else { mac(2) };
            let mut frame = frame(mac(number % 7 + 10), destination);
            frame[59] = round * 50 + number;
            rig.send(0, frame);
        }
    }
    rig.run();
    let order: Vec<u8> = rig.sent(1).iter().map(|frame| frame[59]).collect();
    assert_eq!(order, (0..200).collect::<Vec<u8>>());
}

#[test]
fn protected_ports_reach_others_and_not_each_other() {
    let mut rig = bridge(1, 4);
    (rig.port(0).protected, rig.port(1).protected) = (true, true);
    rig.publish();
    assert_eq!(rig.reaches(0, frame(mac(1), BROADCAST)), [2, 3]);
    assert_eq!(rig.reaches(2, frame(mac(3), BROADCAST)), [0, 1, 3]);
    rig.exchange(1, frame(mac(2), BROADCAST));
    assert!(rig.reaches(0, frame(mac(1), mac(2))).is_empty());
    assert_eq!(rig.drops(0), [(DropReason::NoDestination, 1)]);
}

#[test]
fn reserved_addresses_are_dropped_unless_the_bridge_forwards_them() {
    let mut rig = bridge(1, 2);
    let lldp = Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]);
    assert!(rig.reaches(0, frame(mac(1), lldp)).is_empty());
    assert_eq!(rig.drops(0), [(DropReason::LinkLocalReserved, 1)]);
    rig.bridge(0).forward_reserved = true;
    rig.publish();
    assert_eq!(rig.reaches(0, frame(mac(1), lldp)), [1]);
}

#[test]
fn a_multicast_source_is_forwarded_and_not_learned() {
    let mut rig = bridge(1, 2);
    assert_eq!(rig.reaches(0, frame(BROADCAST, mac(1))), [1]);
    assert!(rig.fdb().entries().is_empty());
}

#[test]
fn packets_in_another_workers_inbox_are_counted_when_their_port_goes() {
    let mut rig = bridge(2, 2);
    for _ in 0..5 {
        rig.send(0, frame(mac(1), BROADCAST));
    }
    let now = weft_core::shared::Now { uptime: rig.now };
    assert_eq!(rig.workers[0].round(now), 5);
    assert_eq!(rig.datapath.shared().workers[1].inbox.len(), 5);
    rig.model.ports.retain(|port| port.id != PortId(1));
    rig.publish_unseen();
    // The owner takes the removal up before it looks into its inbox, as it does between two bursts.
    rig.unplug_first(1);
    rig.run();
    assert_eq!(rig.drops(1), [(DropReason::PortRemoved, 5)]);
}

#[test]
fn a_port_that_moves_to_another_worker_loses_nothing_that_comes_later() {
    let mut rig = bridge(2, 2);
    assert_eq!(rig.reaches(0, frame(mac(1), BROADCAST)), [1]);
    rig.unplug(1);
    let workshop = Workshop::default();
    rig.datapath.add_queue(PortId(1), Box::new(CraftQueue(workshop.clone())), 0);
    rig.run();
    rig.exchange(0, frame(mac(1), BROADCAST));
    assert_eq!((workshop.taken().len(), rig.sent(1).len()), (1, 0));
    // The crafted port's packets count as the memory port's that was there before.
}

#[test]
fn an_inbox_that_is_full_drops_and_counts() {
    let mut rig = Rig::with_frames(2, 16384);
    rig.add_bridge(0);
    (0..2).for_each(|port| rig.add_device(port, access(10)));
    rig.publish();
    let now = weft_core::shared::Now { uptime: rig.now };
    let extra = 100;
    for number in 0..INBOX + extra {
        rig.send(0, frame(mac(1), BROADCAST));
        if number % 64 == 63 {
            rig.workers[0].round(now);
        }
    }
    while rig.workers[0].round(now) > 0 {}
    assert_eq!(rig.drops(1), [(DropReason::HandoverFull, extra as u64)]);
    rig.run();
    assert_eq!(rig.sent(1).len(), INBOX);
}

#[test]
fn an_empty_pool_costs_copies_and_no_frame() {
    let mut rig = Rig::with_frames(1, 1024);
    rig.add_bridge(0);
    (0..30).for_each(|port| rig.add_device(port, access(10)));
    rig.publish();
    // 64 packets to 29 ports are 1,856 frames.
    for _ in 0..64 {
        rig.send(0, frame(mac(1), BROADCAST));
    }
    rig.run();
    assert!(rig.drops(0).iter().any(|&(reason, packets)| reason == DropReason::CopyNoFrame && packets > 100));
    rig.sent_all();
    assert_eq!(rig.reaches(0, frame(mac(1), BROADCAST)).len(), 29);
}

/// A bridge whose port 9 is crafted; port 0 is in VLAN 10 as well, port 1 a trunk, tunnel 50 carries VLAN 10.
fn crafted_bridge() -> (Rig, Workshop) {
    let mut rig = Rig::with_bridge(1);
    rig.bridge(0).vnis = vec![(vid(10), 1000)];
    rig.add_device(0, access(10));
    rig.add_device(1, trunk(&[10]));
    rig.add_uplink();
    rig.add_port(9, Some(0), access(10), PortKind::Device);
    let workshop = Workshop::default();
    rig.plug_crafted(9, workshop.clone());
    rig.publish();
    (rig, workshop)
}

fn udp(payload: usize) -> Vec<u8> {
    ip_frame(mac(9), BROADCAST, Ip::default(), payload)
}

#[test]
fn a_packet_of_several_frames_is_flooded_tagged_and_wrapped_whole() {
    let (mut rig, workshop) = crafted_bridge();
    rig.add_tunnel(50, tunnel(TunnelKind::Vxlan, 50, TunnelKeys::Map(None)));
    rig.tunnel(50).checksum = true;
    rig.publish();
    let whole = udp(1400);
    let frames = vec![whole[..101].to_vec(), whole[101..500].to_vec(), whole[500..].to_vec()];
    workshop.send(Crafted { frames, ..Crafted::default() });
    rig.run();
    let sent = rig.sent_all();
    assert_eq!(sent.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [0, 1, UPLINK]);
    assert_eq!(sent[0].1, whole);
    assert_eq!(sent[1].1[12..16], [0x81, 0, 0, 10]);
    assert_eq!((&sent[1].1[..12], &sent[1].1[16..]), (&whole[..12], &whole[12..]));
    assert_eq!(sent[2].1[50..], whole);
    assert_eq!(udp_sum(&sent[2].1[14..]), 0);
}

/// The sum that has to be 0: of the UDP datagram in an IPv4 packet, with its pseudo-header.
fn udp_sum(ip: &[u8]) -> u16 {
    let length = (ip.len() - 20) as u16;
    let pseudo = [&ip[12..20], &[0, 17], &length.to_be_bytes()].concat();
    checksum(&[&pseudo, &ip[20..]].concat())
}

#[test]
fn an_unfinished_checksum_is_finished_before_the_packet_goes_into_a_tunnel() {
    let (mut rig, workshop) = crafted_bridge();
    rig.add_tunnel(50, tunnel(TunnelKind::Gre, 50, TunnelKeys::Map(None)));
    rig.publish();
    let mut partial = udp(33);
    let length = (partial.len() - 34) as u16;
    let pseudo = !checksum(&[&partial[26..34], &[0, 17], &length.to_be_bytes()].concat());
    partial[40..42].copy_from_slice(&pseudo.to_be_bytes());
    workshop.send(Crafted { frames: vec![partial], partial: Some((34, 6)), gso: None });
    rig.run();
    rig.sent(0);
    rig.sent(1);
    let sent = rig.sent(UPLINK);
    assert_eq!(udp_sum(&sent[0][42 + 14..]), 0);
}

#[test]
fn an_unfinished_checksum_stays_with_the_packet_from_port_to_port_tagged_or_not() {
    let (mut rig, workshop) = crafted_bridge();
    rig.add_port(8, Some(0), trunk(&[10]), PortKind::Device);
    let trunk_side = Workshop::default();
    rig.plug_crafted(8, trunk_side.clone());
    rig.publish();
    workshop.send(Crafted { frames: vec![udp(33)], partial: Some((34, 6)), gso: None });
    rig.run();
    let taken = trunk_side.taken();
    assert_eq!((taken[0].checksum_start, taken[0].offload.checksum_offset), (Some(38), 6));
    rig.sent_all();
}

#[test]
fn an_inner_checksum_that_a_kernels_tunnel_left_unfinished_survives_decapsulation_and_an_outer_one_does_not()
{
    let mut rig = Rig::with_bridge(1);
    rig.bridge(0).vnis = vec![(vid(10), 1000)];
    let (port, uplink) = (Workshop::default(), Workshop::default());
    rig.add_port(8, Some(0), access(10), PortKind::Device);
    rig.plug_crafted(8, port.clone());
    rig.add_port(UPLINK, None, access(0), PortKind::Uplink);
    rig.plug_crafted(UPLINK, uplink.clone());
    rig.add_tunnel(50, tunnel(TunnelKind::Vxlan, 50, TunnelKeys::Map(None)));
    rig.publish();
    let mut other_end = tunnel(TunnelKind::Vxlan, 1, TunnelKeys::Map(None));
    (other_end.local, other_end.remote) = (rig::remote(50), rig::LOCAL.into());
    let outer = rig::wrapped(&other_end, 1000, &udp(33));
    let crafted = |partial| Crafted { frames: vec![outer.clone()], partial, gso: None };
    uplink.send(crafted(Some((50 + 34, 6))));
    uplink.send(crafted(Some((34, 6))));
    rig.run();
    let taken = port.taken();
    assert_eq!(taken.iter().map(|packet| packet.checksum_start).collect::<Vec<_>>(), [Some(34), None]);
    assert!(taken.iter().all(|packet| packet.octets == udp(33)));
}

#[test]
fn a_segment_to_be_cut_does_not_fit_a_tunnel_and_is_counted() {
    let (mut rig, workshop) = crafted_bridge();
    rig.add_tunnel(50, tunnel(TunnelKind::Vxlan, 50, TunnelKeys::Map(None)));
    rig.publish();
    workshop.send(Crafted { frames: vec![udp(200)], partial: Some((34, 6)), gso: Some((5, 100)) });
    rig.run();
    assert_eq!(rig.drops(9), [(DropReason::TunnelTooBig, 1)]);
    rig.sent_all();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// What the rig checks at its end is the property: nothing panics, every frame is counted and comes home.
    #[test]
    fn any_octets_on_any_port_are_counted(
        frames in proptest::collection::vec((0..4u16, 0..6usize, proptest::collection::vec(any::<u8>(), 0..200)), 1..60)
    ) {
        let mut rig = Rig::with_bridge(2);
        rig.bridge(0).vnis = vec![(vid(10), 1000)];
        rig.add_device(0, access(10));
        rig.add_device(1, trunk(&[0, 10, 20]));
        rig.add_device(2, VlanMode::native(vid(10), None, false));
        rig.add_uplink();
        for (port, kind) in [(50, TunnelKind::Vxlan), (51, TunnelKind::Gre)] {
            rig.add_tunnel(port, tunnel(kind, 50, TunnelKeys::Map(None)));
        }
        rig.publish();
        let mut other_end = tunnel(TunnelKind::Vxlan, 1, TunnelKeys::Map(None));
        (other_end.local, other_end.remote) = (rig::remote(50), rig::LOCAL.into());
        for (number, (port, kind, octets)) in (0..).zip(frames) {
            let port = if port == 3 { UPLINK } else { port };
            let mut outer = match kind {
                0 => Vec::new(),
                1 => tagged(mac(1), mac(2), &[10])[..16].to_vec(),
                2 | 3 => rig::wrapped(&other_end, 1000, &tagged(mac(number), BROADCAST, &[])),
                4 => rig::wrapped(&other_end, 1000, &[0; 14])[..50].to_vec(),
                _ => {
                    other_end.kind = TunnelKind::Gre;
                    rig::wrapped(&other_end, 1000, &tagged(mac(number), BROADCAST, &[]))
                }
            };
            match kind {
                // The outer headers, damaged.
                3 | 5 => octets.iter().zip(outer.iter_mut().skip(12)).step_by(7).for_each(|(octet, place)| *place = *octet),
                _ => outer.extend(&octets),
            }
            rig.send(port, outer);
        }
        rig.run();
        rig.sent_all();
    }
}
