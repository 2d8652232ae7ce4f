//! Tunnels, packet by packet: replication, split horizon, keys, and what happens while a next hop isn't known.

#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use rig::frames::{BROADCAST, frame, mac, tagged};
use rig::{Rig, UPLINK, access, ready, trunk, tunnel, vid};
use weft_core::key::PortId;
use weft_core::snapshot::{Path, TunnelKeys};
use weft_wire::{DropReason, TunnelKind};

const VXLAN: TunnelKind = TunnelKind::Vxlan;

/// Bridge 0 with VLAN 10 as VNI 1000 and VLAN 20 as VNI 2000, port 0 in VLAN 10, port 1 in VLAN 20, an uplink, and a
/// tunnel by map to each of `remotes`, whose number is the port's.
fn overlay(workers: usize, remotes: &[u8]) -> Rig {
    let mut rig = Rig::with_bridge(workers);
    rig.bridge(0).vnis = vec![(vid(10), 1000), (vid(20), 2000)];
    rig.add_device(0, access(10));
    rig.add_device(1, access(20));
    rig.add_uplink();
    for &number in remotes {
        rig.add_tunnel(number.into(), tunnel(VXLAN, number, TunnelKeys::Map(None)));
    }
    rig.publish();
    rig
}

/// The last octet of an outer packet's destination address, and its VNI.
fn outer(frame: &[u8]) -> (u8, u32) {
    (frame[33], u32::from_be_bytes([0, frame[46], frame[47], frame[48]]))
}

#[test]
fn held_copies_of_a_flood_leave_once_when_their_next_hop_is_known_and_nobody_gets_the_packet_twice() {
    let mut rig = overlay(1, &[50, 51]);
    rig.add_device(2, access(10));
    rig.tunnel(51).path = Path::Resolving;
    rig.publish();
    assert_eq!(rig.reaches(0, frame(mac(1), BROADCAST)), [2, UPLINK]);
    assert_eq!((rig.held(), rig.wanted()), (1, vec![51]));
    rig.tunnel(51).path = ready(UPLINK, 51);
    rig.publish();
    let sent = rig.sent_all();
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!((sent[0].0, outer(&sent[0].1)), (UPLINK, (51, 1000)));
    assert_eq!(rig.held(), 0);
}

#[test]
fn a_worker_goes_on_when_the_ingress_port_of_a_held_packet_is_removed() {
    let mut rig = overlay(1, &[50]);
    rig.tunnel(50).path = Path::Resolving;
    rig.publish();
    rig.exchange(0, frame(mac(1), BROADCAST));
    rig.model.ports.retain(|port| port.id.0 != 0);
    rig.tunnel(50).path = ready(UPLINK, 50);
    rig.publish();
    assert_eq!(rig.sent(UPLINK).len(), 1);
    rig.add_device(3, access(20));
    rig.publish();
    assert_eq!(rig.reaches(1, frame(mac(2), BROADCAST)), [3, UPLINK]);
}

#[test]
fn a_packet_whose_next_hop_stays_unknown_is_dropped_after_its_time_and_counted() {
    let mut rig = overlay(1, &[50]);
    rig.tunnel(50).path = Path::Resolving;
    rig.publish();
    for _ in 0..10 {
        rig.exchange(0, frame(mac(1), BROADCAST));
    }
    assert_eq!((rig.held(), rig.drops(0)), (8, vec![(DropReason::NeighbourUnresolved, 2)]));
    assert!(!rig.wanted().is_empty());
    rig.wait(5);
    assert_eq!((rig.held(), rig.drops(0)), (0, vec![(DropReason::NeighbourUnresolved, 10)]));
}

#[test]
fn held_packets_of_a_tunnel_that_turns_out_to_have_no_route_or_goes_are_counted_so() {
    let mut rig = overlay(1, &[50, 51]);
    rig.tunnel(50).path = Path::Resolving;
    rig.tunnel(51).path = Path::Resolving;
    rig.publish();
    rig.exchange(0, frame(mac(1), BROADCAST));
    rig.tunnel(50).path = Path::NoRoute;
    rig.model.ports.retain(|port| port.id.0 != 51);
    rig.publish();
    assert_eq!(rig.drops(0), [(DropReason::TunnelNoRoute, 1), (DropReason::PortRemoved, 1)]);
}

#[test]
fn stations_behind_a_tunnel_are_forgotten_when_it_leads_elsewhere_but_not_when_its_path_changes() {
    let mut rig = overlay(1, &[50]);
    rig.fdb().learn(vid(10), mac(7), PortId(50), 100);
    rig.tunnel(50).path = Path::NoRoute;
    rig.publish();
    assert!(rig.learned(mac(7)).is_some());
    rig.tunnel(50).remote = rig::remote(51).into();
    rig.publish();
    assert_eq!(rig.learned(mac(7)), None);
}

/// A frame of a station behind remote end `number`, as it comes in by the uplink.
fn from_remote(kind: TunnelKind, number: u8, key: u32, inner: &[u8]) -> Vec<u8> {
    let mut spec = tunnel(kind, 1, TunnelKeys::Map(None));
    (spec.local, spec.remote) = (rig::remote(number), rig::LOCAL.into());
    rig::wrapped(&spec, key, inner)
}

/// The remote end and the VNI of everything that left by the uplink.
fn outers(sent: &[(u16, Vec<u8>)]) -> Vec<(u8, u32)> {
    sent.iter().filter(|(port, _)| *port == UPLINK).map(|(_, frame)| outer(frame)).collect()
}

#[test]
fn a_flood_goes_to_every_remote_end_of_its_vlans_vni_and_an_answer_to_one() {
    for workers in [1, 2] {
        let mut rig = overlay(workers, &[50, 51, 52]);
        let sent = rig.exchange(0, frame(mac(1), BROADCAST));
        assert_eq!(outers(&sent), [(50, 1000), (51, 1000), (52, 1000)]);
        assert!(sent.iter().all(|(_, octets)| octets[50..] == frame(mac(1), BROADCAST)));
        assert_eq!(outers(&rig.exchange(1, frame(mac(2), BROADCAST))), [(50, 2000), (51, 2000), (52, 2000)]);
        let inner = frame(mac(7), mac(1));
        assert_eq!(rig.exchange(UPLINK, from_remote(VXLAN, 51, 1000, &inner)), [(0, inner)]);
        assert_eq!(outers(&rig.exchange(0, frame(mac(1), mac(7)))), [(51, 1000)]);
    }
}

#[test]
fn a_tunnel_that_lists_vnis_carries_these_only() {
    let mut rig = overlay(1, &[50, 51]);
    rig.tunnel(51).key = TunnelKeys::Map(Some([2000].as_slice().into()));
    rig.publish();
    assert_eq!(outers(&rig.exchange(0, frame(mac(1), BROADCAST))), [(50, 1000)]);
    assert_eq!(outers(&rig.exchange(1, frame(mac(2), BROADCAST))), [(50, 2000), (51, 2000)]);
    assert!(rig.exchange(UPLINK, from_remote(VXLAN, 51, 1000, &frame(mac(7), BROADCAST))).is_empty());
    assert_eq!(rig.drops(51), [(DropReason::TunnelKeyUnknown, 1)]);
}

#[test]
fn what_came_in_by_a_tunnel_leaves_by_none_neither_flooded_nor_addressed() {
    let mut rig = overlay(1, &[50, 51]);
    rig.exchange(UPLINK, from_remote(VXLAN, 51, 1000, &frame(mac(8), BROADCAST)));
    let inner = frame(mac(7), BROADCAST);
    assert_eq!(rig.reaches(UPLINK, from_remote(VXLAN, 50, 1000, &inner)), [0]);
    assert!(rig.reaches(UPLINK, from_remote(VXLAN, 50, 1000, &frame(mac(7), mac(8)))).is_empty());
    assert_eq!(rig.drops(50), [(DropReason::SplitHorizon, 1)]);
    rig.model.ports.retain(|port| port.id != PortId(0));
    rig.publish();
    assert!(rig.reaches(UPLINK, from_remote(VXLAN, 50, 1000, &inner)).is_empty());
    assert_eq!(rig.drops(50), [(DropReason::SplitHorizon, 2)]);
}

#[test]
fn unknown_remote_ends_and_keys_are_told_apart() {
    let mut rig = overlay(1, &[50]);
    let inner = frame(mac(7), BROADCAST);
    for (number, key) in [(60, 1000), (50, 3000), (50, 1000)] {
        rig.exchange(UPLINK, from_remote(VXLAN, number, key, &inner));
    }
    assert!(rig.exchange(UPLINK, from_remote(TunnelKind::Gre, 50, 1000, &inner)).is_empty());
    let mut drops = rig.drops(UPLINK);
    drops.extend(rig.drops(50));
    assert_eq!(drops, [(DropReason::TunnelUnknown, 2), (DropReason::TunnelKeyUnknown, 1)]);
}

#[test]
fn a_tag_inside_a_mapped_tunnel_is_not_admitted() {
    let mut rig = overlay(1, &[50]);
    let inner = tagged(mac(7), BROADCAST, &[20]);
    assert!(rig.exchange(UPLINK, from_remote(VXLAN, 50, 1000, &inner)).is_empty());
    assert_eq!(rig.drops(50), [(DropReason::VlanNotAdmitted, 1)]);
    assert!(rig.fdb().entries().is_empty());
}

#[test]
fn a_tunnel_with_a_fixed_key_carries_tags_as_its_vlan_mode_says() {
    for kind in [VXLAN, TunnelKind::Gre] {
        let mut rig = Rig::with_bridge(1);
        rig.add_device(0, access(10));
        rig.add_device(1, access(20));
        rig.add_uplink();
        rig.add_tunnel(50, tunnel(kind, 50, TunnelKeys::Fixed(7)));
        rig.port(50).vlan = trunk(&[10]);
        rig.publish();
        let sent = rig.exchange(0, frame(mac(1), BROADCAST));
        let start = if kind == VXLAN { 50 } else { 42 };
        assert_eq!(sent[0].1[start..], tagged(mac(1), BROADCAST, &[10])[..]);
        assert!(rig.exchange(1, frame(mac(2), BROADCAST)).is_empty());
        let inner = |vlan| from_remote(kind, 50, 7, &tagged(mac(7), mac(1), &[vlan]));
        assert_eq!(rig.exchange(UPLINK, inner(10)), [(0, frame(mac(7), mac(1)))]);
        assert!(rig.exchange(UPLINK, inner(20)).is_empty());
        assert_eq!(rig.drops(50), [(DropReason::VlanNotAdmitted, 1)]);
    }
}

#[test]
fn gre_tunnels_of_one_local_address_all_receive_whatever_their_udp_port() {
    let mut rig = Rig::with_bridge(1);
    rig.add_device(0, access(0));
    rig.add_uplink();
    for number in [50, 51] {
        rig.add_tunnel(number, tunnel(TunnelKind::Gre, number as u8, TunnelKeys::Fixed(7)));
        rig.tunnel(number).udp_port = number;
    }
    rig.publish();
    for number in [50, 51] {
        assert_eq!(
            rig.reaches(UPLINK, from_remote(TunnelKind::Gre, number as u8, 7, &frame(mac(7), BROADCAST))),
            [0]
        );
    }
}

#[test]
fn the_largest_frame_fits_and_one_octet_more_is_too_big() {
    for (kind, overhead) in [(VXLAN, 36), (TunnelKind::Gre, 28)] {
        let mut rig = Rig::with_bridge(1);
        rig.add_device(0, access(0));
        rig.add_uplink();
        rig.add_tunnel(50, tunnel(kind, 50, TunnelKeys::Fixed(7)));
        rig.publish();
        let mut largest = frame(mac(1), BROADCAST);
        largest.resize(usize::from(rig::UNDERLAY_MTU) - overhead, 0);
        assert_eq!(rig.exchange(0, largest.clone())[0].1.len(), 14 + usize::from(rig::UNDERLAY_MTU));
        largest.push(0);
        assert!(rig.exchange(0, largest).is_empty());
        assert_eq!(rig.drops(0), [(DropReason::TunnelTooBig, 1)]);
    }
}

#[test]
fn held_packets_keep_their_order_and_go_before_what_comes_later() {
    let mut rig = overlay(2, &[50]);
    rig.tunnel(50).path = Path::Resolving;
    rig.publish();
    for number in 1..=3 {
        rig.exchange(0, frame(mac(number), BROADCAST));
    }
    rig.tunnel(50).path = ready(UPLINK, 50);
    rig.send(0, frame(mac(4), BROADCAST));
    rig.publish();
    let sources: Vec<u8> = rig.sent(UPLINK).iter().map(|frame| frame[50 + 11]).collect();
    assert_eq!(sources, [1, 2, 3, 4]);
}

#[test]
fn a_tunnels_counters_count_the_inner_frames() {
    let mut rig = overlay(1, &[50]);
    rig.exchange(0, frame(mac(1), BROADCAST));
    rig.exchange(UPLINK, from_remote(VXLAN, 50, 1000, &frame(mac(7), mac(1))));
    let tunnel = rig.datapath.port_totals(PortId(50));
    assert_eq!((tunnel.rx_packets, tunnel.rx_bytes, tunnel.tx_packets, tunnel.tx_bytes), (1, 60, 1, 60));
    let uplink = rig.datapath.port_totals(PortId(UPLINK));
    assert_eq!((uplink.rx_bytes, uplink.tx_bytes), (110, 110));
}
