//! What is behind a label that goes is looked at, and every packet by itself.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod rig;

use std::collections::BTreeMap;
use std::time::Duration;

use rig::Rig;
use rig::frames::{Ip, ip_frame, mac};
use weft_core::snapshot::BridgeId;
use weft_core::tables::Change;
use weft_core::trace::{Description, Names, Trace};
use weft_core::vlan::{VlanMode, VlanSet};
use weft_flow::message::FlowCommand;
use weft_flow::text::{NoNames, parse_flow, parse_match};
use weft_tests::{Lab, Need, StockOvs, cmd, pcap, wait_for};
use weft_wire::{DropReason, OfPort};

const PORTS: u16 = 4;

/// Look-ups behind a label, changes there, labels that come and go, all on the way to the ports that the frames' inside says.
const RULES: &str = "\
table=0,in_port=1,mpls,mpls_bos=1 actions=pop_mpls:0x0800,resubmit(,1)
table=0,in_port=1,mpls,mpls_bos=0 actions=pop_mpls:0x8847,resubmit(,2)
table=0,in_port=1,ip actions=push_mpls:0x8847,set_field:99->mpls_label,pop_mpls:0x0800,resubmit(,1)
table=0,in_port=2,mpls,mpls_label=20 actions=pop_mpls:0x0800,dec_ttl,output:3
table=0,in_port=2,mpls,mpls_label=21 actions=output:4,clone(pop_mpls:0x0800,set_field:10.9.9.9->nw_dst,output:3)
table=0,in_port=2,mpls,mpls_label=22 actions=pop_mpls:0x0800,push_mpls:0x8847,set_field:7->mpls_label,output:1
table=0,in_port=2,mpls,mpls_label=23 actions=pop_mpls:0x0800,mod_vlan_vid:5,mod_tp_dst:4000,resubmit(,1)
table=0,in_port=2,mpls,mpls_label=24 actions=pop_mpls:0x0800,move:NXM_OF_IP_SRC[]->NXM_NX_REG0[],resubmit(,3)
table=0,in_port=2,mpls,mpls_label=25 actions=pop_mpls:0x0800,output:1
table=0,in_port=2,mpls,mpls_label=26 actions=pop_mpls:0x0800,group:1
table=0,in_port=3,ip actions=push_mpls:0x8847,push_mpls:0x8847,output:1,pop_mpls:0x8847,pop_mpls:0x0800,resubmit(,1)
table=1,priority=30,udp,tp_dst=53 actions=output:2
table=1,priority=30,udp,tp_dst=4000 actions=output:4
table=1,priority=20,tcp actions=dec_ttl,mod_nw_tos:32,output:3
table=1,priority=10,ip,nw_dst=10.0.0.0/24 actions=mod_nw_src:10.3.3.3,output:4
table=2,mpls,mpls_label=17 actions=pop_mpls:0x0800,resubmit(,1)
table=2,mpls,mpls_label=18,mpls_bos=0 actions=pop_mpls:0x8847,pop_mpls:0x0800,resubmit(,1)
table=3,reg0=0x0a000001 actions=output:3
table=3,reg0=0x0a000002 actions=output:4
";

/// A group whose bucket looks behind the label.
const GROUP: &str = "group_id=1,type=indirect,bucket=actions=dec_ttl,output:4";

/// A frame with these labels in front of what it carries.
fn labelled(frame: &[u8], labels: &[u32]) -> Vec<u8> {
    let mut out = [&frame[..12], &[0x88, 0x47]].concat();
    for (at, label) in labels.iter().enumerate() {
        let bottom = u32::from(at + 1 == labels.len()) << 8;
        out.extend((label << 12 | bottom | 60).to_be_bytes());
    }
    out.extend(&frame[14..]);
    out
}

fn ip(source: u8, protocol: u8, port: u16) -> Vec<u8> {
    let ip = Ip { source: [10, 0, 0, source % 3], protocol, ports: (1000, port), ..Ip::default() };
    ip_frame(mac(source), mac(99), ip, 30)
}

/// Ports and frames; every frame has a source address of its own.
fn frames() -> Vec<(u16, Vec<u8>)> {
    let mut frames = Vec::new();
    let mut next = 1;
    let mut ip = |protocol, port| {
        next += 1;
        ip(next, protocol, port)
    };
    for (protocol, port) in [(17, 53), (17, 54), (6, 53), (17, 4000), (6, 4000), (17, 53)] {
        for labels in [&[16][..], &[16, 17], &[16, 17, 1], &[16, 18, 1], &[16, 18, 2, 3]] {
            frames.push((1, labelled(&ip(protocol, port), labels)));
        }
        for label in 20..27 {
            frames.push((2, labelled(&ip(protocol, port), &[label])));
        }
        frames.push((1, ip(protocol, port)));
        frames.push((3, ip(protocol, port)));
    }
    // What is behind the label is no packet, or has no time to live.
    let mut old = ip(17, 53);
    old[22] = 1;
    frames.push((2, labelled(&old, &[20])));
    let short = ip(17, 53);
    frames.push((1, labelled(&short[..40], &[16])));
    frames
}

fn lines(rules: &str) -> Vec<Change> {
    rules.lines().map(|line| Change::Flow(parse_flow(line, FlowCommand::Add, &NoNames).unwrap())).collect()
}

fn switch() -> Rig {
    let mut rig = Rig::with_bridge(1);
    (0..PORTS).for_each(|id| rig.add_device(id, VlanMode::Trunk(VlanSet::all())));
    rig.publish();
    let group = weft_flow::text::parse_group(GROUP, weft_flow::message::GroupCommand::Add, &NoNames).unwrap();
    let delete = parse_flow("", FlowCommand::Delete, &NoNames).unwrap();
    let changes: Vec<Change> =
        [Change::Flow(delete), Change::Group(group)].into_iter().chain(lines(RULES)).collect();
    rig.change(0, &changes);
    rig
}

/// What left: port and frame.
type Left = Vec<(u16, Vec<u8>)>;

fn weft(rig: &mut Rig, frames: &[(u16, Vec<u8>)]) -> Vec<Left> {
    let number = |(port, frame): (u16, Vec<u8>)| (port + 1, frame);
    frames
        .iter()
        .map(|(port, frame)| rig.exchange(port - 1, frame.clone()).into_iter().map(number).collect())
        .collect()
}

fn stock(lab: &Lab, frames: &[(u16, Vec<u8>)]) -> Vec<Left> {
    let ovs = StockOvs::dummy(lab, "ovs").unwrap();
    ovs.vsctl(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=dummy"]).unwrap();
    let file = |port: u16| ovs.dir().join(format!("p{port}.pcap"));
    for port in 1..=PORTS + 1 {
        let (name, number) = (format!("p{port}"), format!("ofport_request={port}"));
        let pcap = format!("options:tx_pcap={}", file(port).display());
        let add = ["add-port", "br0", &name, "--", "set", "interface", &name, "type=dummy", &number, &pcap];
        ovs.vsctl(&add).unwrap();
    }
    let bridge = format!("unix:{}", ovs.dir().join("br0.mgmt").display());
    let rules = lab.path("rules");
    // The witness: what is sent at port 5 leaves by it, behind all that was sent before.
    std::fs::write(&rules, format!("{RULES}in_port=5 actions=in_port\n")).unwrap();
    let of = |words: &[&str]| {
        cmd::ok(&[&["ovs-ofctl"], words].concat(), cmd::SHORT).unwrap();
    };
    of(&["del-flows", &bridge]);
    of(&["-OOpenFlow14", "add-group", &bridge, GROUP]);
    of(&["add-flows", &bridge, &rules.display().to_string()]);
    let sent = |port| std::fs::read(file(port)).map(|file| pcap::frames(&file).map(<[u8]>::to_vec).collect());
    for (number, (port, frame)) in frames.iter().enumerate() {
        ovs.receive(&format!("p{port}"), frame).unwrap();
        if number % 16 == 15 || number + 1 == frames.len() {
            ovs.receive("p5", &ip(200, 17, number as u16)).unwrap();
        }
    }
    let witnesses = frames.len().div_ceil(16);
    let seen = || Ok(sent(5).is_ok_and(|all: Vec<Vec<u8>>| all.len() >= witnesses));
    wait_for("the witness frames", Duration::from_secs(10), seen).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let mut by_source: BTreeMap<Vec<u8>, Left> = BTreeMap::new();
    for port in 1..=PORTS {
        for frame in sent(port).unwrap() {
            by_source.entry(frame[6..12].to_vec()).or_default().push((port, frame));
        }
    }
    frames.iter().map(|(_, frame)| by_source.remove(&frame[6..12]).unwrap_or_default()).collect()
}

#[test]
fn what_leaves_behind_a_label_is_what_leaves_open_vswitch() {
    let needs = ["ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovs-appctl", "ovs-ofctl"].map(Need::Tool);
    let Some(lab) = Lab::open("labels-ovs", &needs).unwrap() else { return };
    let frames = frames();
    let mut rig = switch();
    let theirs = stock(&lab, &frames);
    // Once by fresh walks, once by what they left in the cache.
    for ours in [weft(&mut rig, &frames), weft(&mut rig, &frames)] {
        for ((frame, ours), theirs) in frames.iter().zip(ours).zip(&theirs) {
            let (mut ours, mut theirs) = (ours, theirs.clone());
            ours.sort();
            theirs.sort();
            assert_eq!(ours, theirs, "{frame:02x?}");
        }
    }
    assert!(theirs.iter().filter(|left| !left.is_empty()).count() > frames.len() / 2);
}

#[test]
fn two_packets_under_one_label_each_meet_their_own_rule() {
    let mut rig = switch();
    let mut out = |port| rig.reaches(0, labelled(&ip(1, 17, port), &[16]));
    let reached: Vec<Vec<u16>> = [53, 4000, 53, 9, 53].into_iter().map(&mut out).collect();
    assert_eq!(reached, [vec![1], vec![3], vec![1], vec![3], vec![1]]);
}

#[test]
fn what_a_label_was_put_in_front_of_is_known_without_the_packet_and_cached() {
    let mut rig = switch();
    for _ in 0..5 {
        assert_eq!(rig.reaches(0, ip(1, 17, 53)), [1]);
    }
    assert_eq!(rig.misses(), 1);
}

fn traced(rig: &Rig, flow: &str, frame: Option<&[u8]>) -> Trace {
    let snapshot = rig.datapath.shared().published.load();
    let bridge = snapshot.bridge(BridgeId(0)).unwrap();
    let matches = parse_match(flow, &Names { snapshot: &snapshot, bridge }).unwrap();
    let description = Description { bridge, in_port: Some(OfPort(1)), matches: &matches, frame };
    let key = description.key(&snapshot).unwrap();
    rig.trace(&key, frame)
}

#[test]
fn a_trace_of_a_frame_looks_behind_its_label_and_one_of_a_description_says_that_it_cant() {
    let rig = switch();
    let trace = traced(&rig, "", Some(&labelled(&ip(1, 17, 53), &[16])));
    assert_eq!(trace.copies.iter().map(|copy| copy.ofport.0).collect::<Vec<_>>(), [2], "{trace:?}");
    let trace = traced(&rig, "in_port=1,mpls,mpls_bos=1", None);
    assert_eq!(trace.dropped.map(|dropped| dropped.reason), Some(DropReason::MplsUnparsed));
    let trace = traced(&rig, "in_port=1,udp,tp_dst=53", None);
    assert_eq!(trace.copies.len(), 1, "{trace:?}");
    // A packet of many frames has as much behind its label.
    let long = ip_frame(mac(1), mac(9), Ip { ports: (1, 53), ..Ip::default() }, 20_000);
    let trace = traced(&rig, "", Some(&labelled(&long, &[16])));
    assert_eq!(trace.copies.len(), 1, "{trace:?}");
}
