//! What rules and settings do to packets and to what is cached of them.

#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use rig::frames::{BROADCAST, frame, mac, tagged};
use rig::{Rig, UPLINK, access, in_port, normal, rule, tables, trunk, tunnel, vid};
use weft_core::key::{Ingress, PortId};
use weft_core::parse;
use weft_core::pipeline::trace::Silent;
use weft_core::pipeline::{Occasion, walk};
use weft_core::snapshot::{PortKind, TunnelKeys};
use weft_core::tables::Change;
use weft_core::verdict::Verdict;
use weft_flow::message::{FlowCommand, GroupCommand};
use weft_flow::text::{NoNames, parse_flow, parse_group};
use weft_flow::{Action, Match};
use weft_wire::{DropReason, OfPort, TunnelKind};

/// To the port of that number.
fn output(port: u16) -> Action {
    Action::Output(OfPort(port + 1))
}

#[test]
fn a_port_without_a_bridge_drops_everything_and_is_not_taken_for_another_port() {
    let mut rig = Rig::with_bridge(1);
    rig.add_device(0, access(10));
    rig.add_device(1, access(10));
    rig.add_port(7, None, access(10), PortKind::Device);
    rig.plug(7);
    rig.publish();
    assert!(rig.exchange(7, frame(mac(1), BROADCAST)).is_empty());
    assert_eq!(rig.drops(7), [(DropReason::NoBridge, 1)]);
    assert!(rig.fdb().entries().is_empty());
}

#[test]
fn a_port_whose_bridge_comes_later_is_switched_then() {
    let mut rig = Rig::with_bridge(1);
    rig.add_device_to(0, 1, access(10));
    rig.add_device_to(1, 1, access(10));
    rig.publish();
    assert!(rig.exchange(0, frame(mac(1), BROADCAST)).is_empty());
    rig.add_bridge(1);
    rig.bridge(1).flows = tables(&[rule(1, Match::any(), &[])]);
    rig.publish();
    assert!(rig.exchange(0, frame(mac(1), BROADCAST)).is_empty());
    assert_eq!(rig.drops(0), [(DropReason::NoBridge, 1), (DropReason::RuleDrop, 1)]);
    rig.bridge(1).flows = tables(&[normal()]);
    rig.publish();
    assert_eq!(rig.reaches(0, frame(mac(1), BROADCAST)), [1]);
}

#[test]
fn an_output_to_a_mapped_tunnel_reads_the_tag_even_when_no_rule_matches_on_it() {
    let mut rig = Rig::with_bridge(1);
    rig.bridge(0).vnis = vec![(vid(10), 1000), (vid(20), 2000)];
    rig.bridge(0).flows = tables(&[rule(1, in_port(0), &[output(50)])]);
    rig.add_device(0, trunk(&[10, 20]));
    rig.add_uplink();
    rig.add_tunnel(50, tunnel(TunnelKind::Vxlan, 50, TunnelKeys::Map(None)));
    rig.publish();
    for (tag, vni) in [(10, 1000u32), (20, 2000)] {
        let sent = rig.exchange(0, tagged(mac(1), mac(2), &[tag]));
        assert_eq!(sent[0].0, UPLINK);
        assert_eq!(sent[0].1[46..49], vni.to_be_bytes()[1..]);
        assert_eq!(sent[0].1[50..], frame(mac(1), mac(2)));
    }
    assert!(rig.exchange(0, frame(mac(1), mac(2))).is_empty());
    assert_eq!(rig.drops(0), [(DropReason::VniUnmapped, 1)]);
}

#[test]
fn a_rule_does_not_send_a_packet_back_to_where_it_came_from() {
    let mut rig = Rig::with_bridge(1);
    rig.bridge(0).flows = tables(&[rule(1, Match::any(), &[output(0), output(1)])]);
    rig.add_device(0, access(10));
    rig.add_device(1, access(10));
    rig.publish();
    assert_eq!(rig.reaches(0, frame(mac(1), mac(2))), [1]);
    rig.bridge(0).flows = tables(&[rule(1, Match::any(), &[output(0)])]);
    rig.publish();
    assert!(rig.exchange(0, frame(mac(1), mac(2))).is_empty());
    assert_eq!(rig.drops(0), [(DropReason::SamePort, 1)]);
}

#[test]
fn a_frame_does_not_leave_by_a_port_of_another_vlan_even_if_its_address_is_said_to_be_there() {
    let mut rig = Rig::with_bridge(1);
    for (port, vlan) in [(0, 10), (1, 10), (2, 20)] {
        rig.add_device(port, access(vlan));
    }
    rig.publish();
    rig.fdb().insert_static(vid(10), mac(9), PortId(2), 1);
    assert_eq!(rig.reaches(0, frame(mac(1), mac(9))), [1]);
    rig.fdb().insert_static(vid(10), mac(9), PortId(1), 1);
    assert_eq!(rig.reaches(0, frame(mac(1), mac(9))), [1]);
}

#[test]
fn a_static_entry_for_a_port_that_is_not_there_yet_serves_as_soon_as_the_port_comes() {
    let mut rig = Rig::with_bridge(1);
    rig.add_device(0, access(10));
    rig.add_device(1, access(10));
    rig.add_uplink();
    rig.publish();
    rig.fdb().insert_static(vid(10), mac(9), PortId(50), 1);
    assert_eq!(rig.reaches(0, frame(mac(1), mac(9))), [1]);
    // A tunnel whose bridge maps no VLAN belongs to none: its coming moves no VLAN's epoch on.
    rig.add_tunnel(50, tunnel(TunnelKind::Vxlan, 50, TunnelKeys::Map(None)));
    rig.publish();
    assert!(rig.reaches(0, frame(mac(1), mac(9))).is_empty());
    assert_eq!(rig.drops(0), [(DropReason::VniUnmapped, 1)]);
}

#[test]
fn a_worker_that_still_goes_by_the_old_snapshot_puts_no_address_back_that_a_change_has_flushed() {
    let mut rig = Rig::with_bridge(1);
    rig.add_device(0, access(10));
    rig.publish();
    rig.exchange(0, frame(mac(1), BROADCAST));
    let old = rig.datapath.shared().published.load();
    rig.port(0).vlan = access(20);
    rig.publish_unseen();
    let key = parse::full(&frame(mac(1), BROADCAST), Ingress::port(PortId(0))).unwrap();
    let connections = rig.datapath.connections();
    let occasion = Occasion {
        snapshot: &old,
        key: &key,
        packet: None,
        whole: None,
        connections,
        second: 101,
        now: rig.now,
        effects: true,
    };
    walk(occasion, &mut Verdict::default(), &mut Silent);
    assert!(rig.fdb().entries().is_empty());
    rig.exchange(0, frame(mac(1), BROADCAST));
    assert_eq!(rig.learned(mac(1)).unwrap().vid, vid(20));
}

#[test]
fn a_flood_that_met_a_patch_port_without_a_peer_goes_through_it_when_the_peer_comes() {
    let mut rig = Rig::with_bridge(1);
    rig.add_bridge(1);
    rig.add_device(0, access(10));
    rig.add_device(1, access(10));
    rig.add_device_to(2, 1, access(10));
    rig.add_port(60, Some(0), trunk(&[10]), PortKind::Patch(Some(PortId(61))));
    rig.publish();
    assert_eq!(rig.reaches(0, frame(mac(1), BROADCAST)), [1]);
    rig.add_port(61, Some(1), trunk(&[10]), PortKind::Patch(Some(PortId(60))));
    rig.publish();
    assert_eq!(rig.reaches(0, frame(mac(1), BROADCAST)), [1, 2]);
    rig.port(61).up = false;
    rig.publish();
    assert_eq!(rig.reaches(0, frame(mac(1), BROADCAST)), [1]);
    rig.port(61).up = true;
    rig.publish();
    assert_eq!(rig.reaches(0, frame(mac(1), BROADCAST)), [1, 2]);
}

#[test]
fn a_group_that_comes_or_changes_is_met_whatever_came_of_the_old_one() {
    let mut rig = Rig::with_bridge(1);
    (0..3).for_each(|id| rig.add_device(id, access(10)));
    rig.publish();
    let flow = |line| Change::Flow(parse_flow(line, FlowCommand::Add, &NoNames).unwrap());
    let group = |command, line| Change::Group(parse_group(line, command, &NoNames).unwrap());
    use GroupCommand::{Add, Modify};
    // Nothing there is alive: port 99 isn't, nor group 2, which watches it.
    rig.change(
        0,
        &[
            group(Add, "group_id=1,type=ff,bucket=watch_port=99,output:2"),
            group(Add, "group_id=2,type=ff,bucket=watch_port=99,output:2"),
            group(Add, "group_id=3,type=ff,bucket=watch_group:2,output:3,bucket=watch_port:2,output:2"),
            flow("priority=8,in_port=1,udp actions=output:98,group:1"),
            flow("priority=8,in_port=2 actions=output:98,group:3"),
        ],
    );
    assert!(rig.reaches(0, frame(mac(1), mac(2))).is_empty());
    assert_eq!(rig.reaches(1, frame(mac(2), mac(1))), Vec::<u16>::new());
    rig.change(0, &[group(Modify, "group_id=1,type=all,bucket=output:2")]);
    assert_eq!(rig.reaches(0, frame(mac(1), mac(2))), [1]);
    rig.change(0, &[group(Modify, "group_id=2,type=all,bucket=output:2")]);
    assert_eq!(rig.reaches(1, frame(mac(2), mac(1))), [2]);
}

#[test]
fn enqueue_is_an_output_and_a_queue_changes_nothing_else() {
    let mut rig = Rig::with_bridge(1);
    (0..4).for_each(|id| rig.add_device(id, access(10)));
    rig.publish();
    let flow = |line| Change::Flow(parse_flow(line, FlowCommand::Add, &NoNames).unwrap());
    rig.change(
        0,
        &[
            flow("priority=9,in_port=1 actions=enqueue:3:7,set_queue:5,output:2,pop_queue,enqueue(4,1)"),
            flow("priority=9,in_port=2 actions=enqueue:2:1,enqueue:9:1"),
        ],
    );
    let sent = frame(mac(1), mac(2));
    for _ in 0..2 {
        let left = rig.exchange(0, sent.clone());
        assert_eq!(left, [(1, sent.clone()), (2, sent.clone()), (3, sent.clone())]);
    }
    // Not to where it came from, and not to a port that isn't there.
    assert!(rig.reaches(1, sent).is_empty());
    assert_eq!(rig.drops(1), [(DropReason::SamePort, 1)]);
}
