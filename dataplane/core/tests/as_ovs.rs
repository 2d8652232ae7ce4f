//! What Open vSwitch does where its documents say little: each found beside it (`beside_ovs`), and held here by name.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

mod rig;

use rig::Rig;
use rig::frames::{frame, mac, tagged};
use weft_core::key::PortId;
use weft_core::snapshot::PortKind;
use weft_core::tables::Change;
use weft_core::vlan::{VlanMode, VlanSet};
use weft_flow::message::{FlowCommand, GroupCommand};
use weft_flow::text::{NoNames, parse_flow, parse_group};

/// Ports 1 to 4 on bridge 0, port 5 on bridge 1, and a patch, 11 and 12, between them.
fn switch(groups: &[&str], rules: [&[&str]; 2]) -> Rig {
    let mut rig = Rig::with_bridge(1);
    rig.add_bridge(1);
    let all = || VlanMode::Trunk(VlanSet::all());
    (0..4).for_each(|id| rig.add_device_to(id, 0, all()));
    rig.add_device_to(4, 1, all());
    for (bridge, id, peer) in [(0, 10, 11), (1, 11, 10)] {
        rig.add_port(id, Some(bridge), all(), PortKind::Patch(Some(PortId(peer))));
    }
    rig.publish();
    for (bridge, rules) in (0..).zip(rules) {
        let groups = groups.iter().filter(|_| bridge == 0);
        let groups =
            groups.map(|line| Change::Group(parse_group(line, GroupCommand::Add, &NoNames).unwrap()));
        let rules =
            rules.iter().map(|line| Change::Flow(parse_flow(line, FlowCommand::Add, &NoNames).unwrap()));
        let delete = parse_flow("", FlowCommand::Delete, &NoNames).unwrap();
        let changes: Vec<Change> = std::iter::once(Change::Flow(delete)).chain(groups).chain(rules).collect();
        rig.change(bridge, &changes);
    }
    rig
}

/// The ports that a plain packet by port 1 leaves by, the second time as the first.
fn ports(rig: &mut Rig) -> Vec<u16> {
    let mut once = || rig.reaches(0, frame(mac(1), mac(2))).into_iter().map(|id| id + 1).collect::<Vec<_>>();
    let (first, second) = (once(), once());
    assert_eq!(first, second);
    first
}

#[test]
fn an_exit_in_a_clone_ends_the_list_around_it_and_the_action_set() {
    let rules = ["actions=clone(output:2,exit,output:3),output:4,write_actions(output:3)"];
    assert_eq!(ports(&mut switch(&[], [&rules, &[]])), [2]);
}

#[test]
fn what_is_done_to_a_copy_is_not_taken_for_done_to_the_packet() {
    let rules = ["actions=push_vlan:0x8100,clone(output:2,push_vlan:0x8100),pop_vlan,output:3"];
    let mut rig = switch(&[], [&rules, &[]]);
    for _ in 0..2 {
        let sent = rig.exchange(0, frame(mac(1), mac(2)));
        let lengths: Vec<_> = sent.iter().map(|(port, octets)| (*port, octets.len())).collect();
        let plain = frame(mac(1), mac(2)).len();
        assert_eq!(lengths, [(1, plain + 4), (2, plain)]);
    }
}

#[test]
fn an_exit_keeps_the_action_set_from_being_carried_out() {
    let rules =
        ["actions=output:2,resubmit(,1),write_actions(output:3),goto_table:1", "table=1,actions=exit"];
    assert_eq!(ports(&mut switch(&[], [&rules, &[]])), [2]);
}

#[test]
fn a_clone_carries_the_action_set_out_and_so_does_the_packet() {
    let rules = ["actions=write_actions(output:3),goto_table:1", "table=1,actions=clone(output:2),output:4"];
    assert_eq!(ports(&mut switch(&[], [&rules, &[]])), [2, 3, 3, 4]);
}

#[test]
fn a_time_to_live_that_runs_out_ends_its_bucket_or_action_set_and_no_more() {
    let group = "group_id=1,type=all,bucket=dec_ttl,output:2,bucket=output:3";
    let rules = ["ip,actions=mod_nw_ttl:1,group:1,output:4,write_actions(dec_ttl,output:2)"];
    assert_eq!(ports(&mut switch(&[group], [&rules, &[]])), [3, 4]);
}

const TOO_MANY_LABELS: &str = "push_mpls:0x8847,push_mpls:0x8847,push_mpls:0x8847,push_mpls:0x8847,output:4";

#[test]
fn what_goes_wrong_behind_a_patch_port_does_not_undo_what_was_done_before_it() {
    let rules = ["actions=output:2,output:11,output:3"];
    let peer = [&*format!("actions=output:5,{TOO_MANY_LABELS}")];
    assert_eq!(ports(&mut switch(&[], [&rules, &peer])), [2, 3, 5]);
}

#[test]
fn what_goes_wrong_in_a_bucket_does_not_undo_the_others() {
    let group = "group_id=1,type=all,bucket=resubmit(,1),bucket=output:3";
    let rules = ["actions=output:2,group:1", &format!("table=1,actions={TOO_MANY_LABELS}")];
    assert_eq!(ports(&mut switch(&[group], [&rules, &[]])), [2, 3]);
}

#[test]
fn a_packet_that_goes_to_and_fro_between_bridges_is_dropped() {
    let rules = ["in_port=11,actions=output:3,in_port", "in_port=1,actions=output:2,output:11"];
    let mut rig = switch(&[], [&rules, &["actions=output:5,in_port"]]);
    assert!(ports(&mut rig).is_empty());
    assert_eq!(rig.drops(0), [(weft_wire::DropReason::RecursionTooDeep, 2)]);
}

/// The frame with `flags` in the place of IPv4's flags and fragment offset.
fn fragment(flags: u16) -> Vec<u8> {
    let mut octets = frame(mac(1), mac(2));
    octets[20..22].copy_from_slice(&flags.to_be_bytes());
    octets[24..26].fill(0);
    let sum = weft_wire::checksum::checksum(&octets[14..34]);
    octets[24..26].copy_from_slice(&sum.to_be_bytes());
    octets
}

#[test]
fn rules_see_no_ports_of_a_fragment_and_actions_do() {
    let rules = [
        "priority=2,udp,udp_dst=2,actions=output:2",
        "priority=1,udp,udp_dst=0,actions=move:udp_dst->reg0[0..15],resubmit(,1)",
        "table=1,reg0=2,actions=output:3",
        "table=1,priority=0,actions=output:4",
    ];
    let mut rig = switch(&[], [&rules, &[]]);
    for (flags, port) in [(0, 2), (0x2000, 3), (0x2004, 4), (0x4000, 2), (0x2000, 3), (0, 2)] {
        assert_eq!(rig.reaches(0, fragment(flags)), [port - 1], "{flags:#06x}");
    }
}

#[test]
fn a_rule_on_port_0_that_comes_meets_the_cached_flow_of_a_first_fragment() {
    let rules = ["udp,udp_dst=2,actions=output:2", "priority=0,actions=output:3"];
    let mut rig = switch(&[], [&rules, &[]]);
    assert_eq!(rig.reaches(0, fragment(0x2000)), [2]);
    let rule = parse_flow("udp,udp_dst=0,actions=output:4", FlowCommand::Add, &NoNames).unwrap();
    rig.change(0, &[Change::Flow(rule)]);
    assert_eq!(rig.reaches(0, fragment(0x2000)), [3]);
    assert_eq!(rig.reaches(0, fragment(0)), [1]);
}

#[test]
fn a_label_in_front_of_ipv6_is_its_explicit_null() {
    let rules = ["actions=push_mpls:0x8847,output:2"];
    let mut rig = switch(&[], [&rules, &[]]);
    let mut octets = frame(mac(1), mac(2));
    octets.resize(14, 0);
    octets[12..14].copy_from_slice(&[0x86, 0xdd]);
    octets.extend([0x60, 0, 0, 0, 0, 0, 59, 9]);
    octets.extend([0; 32]);
    let (_, sent) = rig.exchange(0, octets).pop().unwrap();
    assert_eq!(sent[12..18], [0x88, 0x47, 0, 0, 0x21, 9]);
}

#[test]
fn a_label_that_makes_room_for_another_type_takes_those_below_it_along() {
    let rules = ["mpls,actions=pop_mpls:0x0800,output:2"];
    let mut rig = switch(&[], [&rules, &[]]);
    let plain = frame(mac(1), mac(2));
    let mut labelled = plain.clone();
    labelled.splice(12..14, [0x88, 0x47, 0, 6, 0x40, 9, 0, 7, 0x41, 9]);
    assert_eq!(rig.exchange(0, labelled), [(1, plain)]);
}

#[test]
fn headers_behind_three_tags_are_changed() {
    let rules = ["ip,actions=push_vlan:0x8100,mod_nw_ttl:9,output:2"];
    let mut rig = switch(&[], [&rules, &[]]);
    let (_, sent) = rig.exchange(0, tagged(mac(1), mac(2), &[10, 20])).pop().unwrap();
    assert_eq!((&sent[12..16], sent[16 + 10 + 8]), (&[0x81, 0, 0, 0][..], 9));
}

#[test]
fn a_trace_of_a_packet_to_its_own_sender_goes_where_the_packet_goes() {
    use weft_core::key::Ingress;
    let rig = switch(&[], [&["actions=NORMAL"], &[]]);
    let key = weft_core::parse::full(&frame(mac(1), mac(1)), Ingress::port(PortId(0))).unwrap();
    let trace = rig.trace(&key, None);
    assert_eq!(trace.dropped.unwrap().reason, weft_wire::DropReason::SamePort);
}

#[test]
fn a_packet_is_as_long_as_its_tags_and_labels_have_made_it_by_then() {
    let length = frame(mac(1), mac(2)).len();
    // (what is done before, octets that are added by that)
    let cases = [
        ("", 0),
        ("push_vlan:0x8100,", 4),
        ("push_vlan:0x8100,push_vlan:0x8100,", 8),
        ("push_vlan:0x8100,strip_vlan,", 0),
        ("push_mpls:0x8847,", 4),
        ("clone(push_vlan:0x8100,output:4),", 0),
    ];
    for (before, added) in cases {
        for (against, larger) in [(length + added - 1, true), (length + added, false)] {
            let check = format!("actions={before}check_pkt_larger({against})->NXM_NX_REG0[0],resubmit(,1)");
            let rules = [&*check, "table=1,reg0=1,actions=output:2", "table=1,reg0=0,actions=output:3"];
            let copy = before.starts_with("clone").then_some(4);
            let expected: Vec<u16> = copy.into_iter().chain([if larger { 2 } else { 3 }]).collect();
            let mut reached = ports(&mut switch(&[], [&rules, &[]]));
            reached.sort_by_key(|port| std::cmp::Reverse(*port == 4));
            assert_eq!(reached, expected, "{check}");
        }
    }
}
