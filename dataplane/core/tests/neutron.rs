//! Neutron's own firewall: the flows of a compute node's br-int, as its agent made them, and packets of two of its VMs.

#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use rig::frames::{Ip, ip_frame};
use rig::{Rig, access};
use weft_conntrack::Filter;
use weft_core::tables::Change;
use weft_flow::message::{FlowCommand, FlowMod};
use weft_flow::text::{NoNames, parse_flow};
use weft_wire::{DropReason, Mac};

const FLOWS: &str = include_str!("../../flow/tests/data/neutron/c1.br-int.flows.nostats");

/// Two VMs of VLAN 1, at `in_port` 4 and 5.
const ONE: (u16, Mac, [u8; 4]) = (3, Mac([0xfa, 0x16, 0x3e, 0x7c, 0xaa, 0x99]), [10, 1, 0, 203]);
const OTHER: (u16, Mac, [u8; 4]) = (4, Mac([0xfa, 0x16, 0x3e, 0xd4, 0xce, 0xc6]), [10, 1, 0, 183]);

const SYN: u8 = 2;
const ACK: u8 = 0x10;

fn flows(of: impl Fn(&str) -> bool) -> Vec<FlowMod> {
    let lines = FLOWS.lines().map(str::trim).filter(|line| !line.is_empty() && of(line));
    lines.map(|line| parse_flow(line, FlowCommand::Add, &NoNames).unwrap()).collect()
}

fn node() -> Rig {
    let mut rig = Rig::with_bridge(1);
    for (port, ..) in [ONE, OTHER] {
        rig.add_device(port, access(1));
    }
    rig.publish();
    let flows = flows(|_| true);
    assert_eq!(flows.len(), 376);
    rig.replace_rules(0, &flows);
    rig
}

/// A packet of the first VM to the other, or back with its ports changed.
fn packet(there: bool, protocol: u8, ports: (u16, u16)) -> Vec<u8> {
    let ((_, source_mac, source), (_, destination_mac, destination)) =
        if there { (ONE, OTHER) } else { (OTHER, ONE) };
    let ports = if there { ports } else { (ports.1, ports.0) };
    let ip = Ip { source, destination, protocol, tos: 0, ports };
    ip_frame(source_mac, destination_mac, ip, 0)
}

fn tcp(there: bool, port: u16, flags: u8, (seq, ack): (u32, u32)) -> Vec<u8> {
    let mut frame = packet(there, 6, (40_000, port));
    frame[38..42].copy_from_slice(&seq.to_be_bytes());
    frame[42..46].copy_from_slice(&ack.to_be_bytes());
    frame[47] = flags;
    frame
}

fn passes(rig: &mut Rig, there: bool, frame: Vec<u8>) -> bool {
    let (from, to) = if there { (ONE.0, OTHER.0) } else { (OTHER.0, ONE.0) };
    let reached = rig.reaches(from, frame);
    assert!(reached.is_empty() || reached == [to], "{reached:?}");
    !reached.is_empty()
}

/// A handshake with port 22 of the other VM, and a segment each way.
fn connect(rig: &mut Rig) {
    assert!(passes(rig, true, tcp(true, 22, SYN, (100, 0))), "{:?}", rig.drops(ONE.0));
    assert!(passes(rig, false, tcp(false, 22, SYN | ACK, (500, 101))), "{:?}", rig.drops(OTHER.0));
    for _ in 0..2 {
        assert!(passes(rig, true, tcp(true, 22, ACK, (101, 501))));
        assert!(passes(rig, false, tcp(false, 22, ACK, (501, 101))));
    }
}

#[test]
fn what_the_group_permits_passes_both_ways_and_established_packets_take_no_walk() {
    let mut rig = node();
    connect(&mut rig);
    let before = rig.misses();
    for _ in 0..5 {
        assert!(passes(&mut rig, true, tcp(true, 22, ACK, (101, 501))));
        assert!(passes(&mut rig, false, tcp(false, 22, ACK, (501, 101))));
    }
    assert_eq!(rig.misses(), before);
    assert_eq!(rig.datapath.connections().zones(), [(1, 1)], "one zone for both VMs, and one connection");
}

#[test]
fn what_no_rule_permits_is_refused_and_so_is_a_lie_about_the_sender() {
    let mut rig = node();
    assert!(!passes(&mut rig, true, tcp(true, 80, SYN, (100, 0))));
    assert!(!passes(&mut rig, false, packet(false, 17, (1000, 2000))));
    // An answer to nothing.
    assert!(!passes(&mut rig, false, tcp(false, 22, SYN | ACK, (500, 101))));
    // Another's address.
    let ip = Ip { source: [10, 1, 0, 9], destination: OTHER.2, protocol: 6, tos: 0, ports: (40_000, 22) };
    assert!(!passes(&mut rig, true, ip_frame(ONE.1, OTHER.1, ip, 0)));
    assert_eq!(rig.datapath.connections().statistics().connections, 0);
    let drops = [ONE.0, OTHER.0].map(|port| rig.drops(port));
    assert_eq!(drops, [[(DropReason::RuleDrop, 2)], [(DropReason::RuleDrop, 2)]]);
}

#[test]
fn a_ping_is_answered() {
    let mut rig = node();
    let ping = |there: bool| {
        let mut frame = packet(there, 1, (0, 0));
        frame[34..42].copy_from_slice(&[if there { 8 } else { 0 }, 0, 0, 0, 0x12, 0x34, 0, 1]);
        frame
    };
    assert!(!passes(&mut rig, false, ping(false)), "nobody has asked");
    for _ in 0..3 {
        assert!(passes(&mut rig, true, ping(true)));
        assert!(passes(&mut rig, false, ping(false)));
    }
}

#[test]
fn a_running_connection_is_cut_when_its_rule_goes_and_stays_cut() {
    let mut rig = node();
    connect(&mut rig);
    let ssh = flows(|line| line.contains("table=82") && line.contains("tcp,reg5=0x5,tp_dst=22"));
    assert_eq!(ssh.len(), 2);
    let delete = |flow: &FlowMod| {
        Change::Flow(FlowMod { command: FlowCommand::DeleteStrict, actions: Box::default(), ..flow.clone() })
    };
    rig.change(0, &ssh.iter().map(delete).collect::<Vec<_>>());
    // The next packet is refused, and marks the connection: its answers are refused from then on.
    assert!(!passes(&mut rig, true, tcp(true, 22, ACK, (101, 501))));
    assert!(!passes(&mut rig, false, tcp(false, 22, ACK, (501, 101))));
    let mut marks = Vec::new();
    rig.datapath.connections().list(&Filter::default(), 101, &mut |connection| marks.push(connection.mark));
    assert_eq!(marks, [1]);
    let walks = rig.misses();
    assert!(!passes(&mut rig, false, tcp(false, 22, ACK, (501, 101))));
    assert_eq!(rig.misses(), walks, "the refusal is cached");
    // The rule comes back, and new connections do.
    rig.change(0, &ssh.into_iter().map(Change::Flow).collect::<Vec<_>>());
    let mut syn = tcp(true, 22, SYN, (900, 0));
    syn[34..36].copy_from_slice(&40_001u16.to_be_bytes());
    assert!(passes(&mut rig, true, syn));
}
