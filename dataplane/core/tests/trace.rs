//! A trace tells what a real packet meets, and leaves no trace itself.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod rig;

use std::sync::Arc;
use std::time::Duration;

use rig::frames::frame;
use rig::{Rig, access, in_port, normal, rule, trunk};
use weft_core::pipeline::trace::{Event, Tracer};
use weft_core::pipeline::{self, Occasion};
use weft_core::runtime;
use weft_core::snapshot::{BridgeId, PortKind, Snapshot, TunnelKeys};
use weft_core::tables::Change;
use weft_core::trace::{self, Description, Names, Trace, What};
use weft_core::verdict::Verdict;
use weft_flow::message::{FlowCommand, FlowMod};
use weft_flow::text::{parse_flow, parse_match};
use weft_flow::{Action, Match};
use weft_wire::{DropReason, Mac, OfPort, TunnelKind};

const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
const B: Mac = Mac([2, 0, 0, 0, 0, 2]);

fn snapshot(rig: &Rig) -> Arc<Snapshot> {
    rig.datapath.shared().published.load()
}

/// A trace of a frame that comes in by a port of bridge 0.
fn traced(rig: &Rig, port: u16, frame: &[u8]) -> Trace {
    let snapshot = snapshot(rig);
    let matches = Match::any();
    let bridge = snapshot.bridge(BridgeId(0)).unwrap();
    let description =
        Description { bridge, in_port: Some(OfPort(port + 1)), matches: &matches, frame: Some(frame) };
    let key = description.key(&snapshot).unwrap();
    rig.trace(&key, None)
}

/// A trace of a described packet.
fn described(rig: &Rig, flow: &str) -> Trace {
    let snapshot = snapshot(rig);
    let bridge = snapshot.bridge(BridgeId(0)).unwrap();
    let matches = parse_match(flow, &Names { snapshot: &snapshot, bridge }).unwrap();
    let description = Description { bridge, in_port: None, matches: &matches, frame: None };
    let key = description.key(&snapshot).unwrap();
    rig.trace(&key, None)
}

fn rules(rig: &mut Rig, lines: &[&str]) {
    rules_of(rig, 0, lines);
}

fn rules_of(rig: &mut Rig, bridge: u16, lines: &[&str]) {
    let delete = FlowMod { command: FlowCommand::Delete, table: None, ..FlowMod::default() };
    let parse = |line: &&str| parse_flow(line, FlowCommand::Add, &weft_flow::text::NoNames).unwrap();
    let changes: Vec<Change> =
        std::iter::once(delete).chain(lines.iter().map(parse)).map(Change::Flow).collect();
    rig.change(bridge, &changes);
}

/// The trace says what then happens to the packet itself; and nothing happens before it.
#[track_caller]
fn tells(rig: &mut Rig, port: u16, frame: Vec<u8>) -> Trace {
    let before = (rig.fdb().entries(), rig.misses(), counted(rig), rig.drops(port));
    let trace = traced(rig, port, &frame);
    rig.run();
    assert_eq!(
        before,
        (rig.fdb().entries(), rig.misses(), counted(rig), rig.drops(port)),
        "the trace left a trace"
    );
    let dropped = |rig: &Rig| rig.drops(port).into_iter().map(|(reason, _)| reason).collect::<Vec<_>>();
    let drops = dropped(rig).len();
    let mut reached: Vec<u16> = rig.reaches(port, frame).into_iter().map(|port| port + 1).collect();
    let mut told: Vec<u16> = trace.copies.iter().map(|copy| copy.ofport.0).collect();
    reached.sort_unstable();
    told.sort_unstable();
    assert_eq!(told, reached, "{trace:#?}");
    match &trace.dropped {
        Some(trace) => {
            assert!(dropped(rig).contains(&trace.reason), "{trace:?} but {:?}", dropped(rig));
            assert!(trace.hint.len() > 10 && !trace.hint.contains('?'), "{trace:?}");
        }
        None => assert_eq!(dropped(rig).len(), drops),
    }
    trace
}

/// What all rules of bridge 0 have counted, and how many there are.
fn counted(rig: &Rig) -> (u64, usize) {
    let tables = rig.model.bridges[0].flows.load();
    let rules: Vec<_> =
        tables.tables().flat_map(|table| table.rules()).map(|rule| rule.stats().packets).collect();
    (rules.iter().sum(), rules.len())
}

fn switch() -> Rig {
    let mut rig = Rig::with_bridge(1);
    rig.add_device(0, access(10));
    rig.add_device(1, access(10));
    rig.add_device(2, trunk(&[10, 20]));
    rig.add_device(3, access(20));
    rig.publish();
    rig
}

#[test]
fn a_trace_of_normal_tells_where_a_packet_goes_before_and_after_its_station_is_known() {
    let mut rig = switch();
    let flood = tells(&mut rig, 0, frame(A, B).to_vec());
    assert!(flood.steps.iter().any(|step| matches!(step.what, What::Sender { known: false, .. })));
    assert_eq!(flood.summary(), "forwarded to port1 (untagged); port2 (VLAN 10)");
    tells(&mut rig, 1, frame(B, A).to_vec());
    let known = tells(&mut rig, 0, frame(A, B).to_vec());
    assert!(known.steps.iter().any(|step| matches!(step.what, What::Sender { known: true, .. })));
    assert_eq!(known.summary(), "forwarded to port1 (untagged)");
}

#[test]
fn each_drop_is_told_with_what_it_is_due_to() {
    let mut rig = switch();
    let hint = |trace: Trace| trace.dropped.unwrap().hint;
    let tagged = rig::frames::tagged(A, B, &[20]);
    assert_eq!(
        hint(tells(&mut rig, 0, tagged.to_vec())),
        "port port0 admits VLAN 10 only, untagged (access); the packet is tagged 20"
    );
    let tagged = rig::frames::tagged(A, B, &[30]);
    assert_eq!(
        hint(tells(&mut rig, 2, tagged.to_vec())),
        "port port2 admits VLANs 10,20 (trunk); the packet is tagged 30"
    );
    let reserved = frame(A, Mac([1, 0x80, 0xc2, 0, 0, 3])).to_vec();
    assert_eq!(
        hint(tells(&mut rig, 0, reserved)),
        "bridge br0 does not forward reserved addresses; forward_reserved=true would"
    );
    tells(&mut rig, 0, frame(A, B).to_vec());
    assert_eq!(
        hint(tells(&mut rig, 0, frame(B, A).to_vec())),
        "the destination is behind port port0, where the packet came in"
    );
    rules(&mut rig, &["priority=5,in_port=1,cookie=0x7 actions=drop", "priority=0 actions=resubmit(,20)"]);
    assert_eq!(
        hint(tells(&mut rig, 0, frame(A, B).to_vec())),
        "the rule of table 0 of bridge br0, priority 5, cookie 0x7, matching in_port=port0, says drop"
    );
    assert_eq!(
        hint(tells(&mut rig, 1, frame(A, B).to_vec())),
        "table 20 of bridge br0 has no rule for it, and a resubmit that finds none does nothing"
    );
    rules(
        &mut rig,
        &["in_port=1 actions=goto_table:20", "in_port=2 actions=output:99", "in_port=3 actions=output:3"],
    );
    assert_eq!(hint(tells(&mut rig, 0, frame(A, B).to_vec())), "table 20 of bridge br0 has no rule for it");
    assert_eq!(
        hint(tells(&mut rig, 1, frame(A, B).to_vec())),
        "bridge br0 has no port as 'output:99' names it, in the rule of table 0 of bridge br0, priority 32768, matching in_port=port1"
    );
    assert_eq!(
        hint(tells(&mut rig, 2, frame(A, B).to_vec())),
        "the rule of table 0 of bridge br0, priority 32768, matching in_port=port2 outputs to the port where the packet came in; \
         in_port would send it back"
    );
    rules(&mut rig, &["priority=1 actions=resubmit(,0)", "priority=9,in_port=2 actions=output:1"]);
    rig.port(0).up = false;
    rig.publish();
    assert_eq!(hint(tells(&mut rig, 1, frame(A, B).to_vec())), "port port0 is down");
    let deep = tells(&mut rig, 0, frame(A, B).to_vec());
    assert_eq!(deep.dropped.unwrap().reason, DropReason::RecursionTooDeep);
    assert!(deep.copies.is_empty());
}

#[test]
fn steps_nest_and_tell_what_each_action_changes() {
    let mut rig = switch();
    rules(
        &mut rig,
        &[
            "priority=1,ip actions=load:0x5->NXM_NX_REG0[],dec_ttl,resubmit(,7),output:2",
            "table=7,reg0=5 actions=mod_dl_dst:02:00:00:00:00:09,mod_vlan_vid:20,output:3",
        ],
    );
    let trace = described(&rig, "in_port=port0,tcp,dl_src=02:00:00:00:00:01,nw_src=10.0.0.1,nw_dst=10.0.0.2");
    let told: Vec<String> = trace
        .steps
        .iter()
        .map(|step| {
            let text = match &step.what {
                What::Bridge { bridge, port, .. } => format!("{bridge} {port}"),
                What::Lookup { table, rule } => format!("table {table} {}", rule.as_ref().unwrap().matches),
                What::Action(action) => action.clone(),
                What::Changed(change) => change.to_string(),
                What::Output(copy) => format!("=> {copy}"),
                other => format!("{other:?}"),
            };
            format!("{}{text}", " ".repeat(step.depth.into()))
        })
        .collect();
    assert_eq!(
        told,
        [
            "br0 port0",
            " table 0 ip",
            "  load:0x5->NXM_NX_REG0[]",
            "   reg0 0x0 -> 0x5",
            "  dec_ttl",
            "   nw_ttl 64 -> 63",
            "  resubmit(,7)",
            "   table 7 reg0=0x5",
            "    mod_dl_dst:02:00:00:00:00:09",
            "     dl_dst 00:00:00:00:00:00 -> 02:00:00:00:00:09",
            "    mod_vlan_vid:20",
            "     vlan untagged -> VLAN 20",
            "    output:port2",
            "     => port2 (VLAN 20, dl_dst 00:00:00:00:00:00 -> 02:00:00:00:00:09, nw_ttl 64 -> 63)",
            "  output:port1",
            "   => port1 (VLAN 20, dl_dst 00:00:00:00:00:00 -> 02:00:00:00:00:09, nw_ttl 64 -> 63)",
        ]
    );
    assert!(trace.packet.starts_with("tcp,in_port=port0,"), "{}", trace.packet);
    assert!(trace.reads.contains(&"nw_ttl") && !trace.reads.contains(&"nw_src"), "{:?}", trace.reads);
}

#[test]
fn a_trace_makes_no_rule_and_a_packet_does() {
    let mut rig = switch();
    rules(
        &mut rig,
        &["actions=learn(table=5,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[]),output:2"],
    );
    let trace = tells(&mut rig, 0, frame(A, B).to_vec());
    let learns = |step: &trace::Step| match &step.what {
        What::Learn(rule) => Some(rule.clone()),
        _ => None,
    };
    let made: Vec<String> = trace.steps.iter().filter_map(learns).collect();
    assert_eq!(made, ["table=5, dl_dst=02:00:00:00:00:01 actions=output:port0"]);
    assert_eq!(counted(&rig).1, 2);
}

#[test]
fn a_packet_from_a_tunnel_is_described_by_its_port_and_key_and_leaves_by_another_with_its_own() {
    let mut rig = switch();
    rig.add_uplink();
    rig.add_tunnel(50, rig::tunnel(TunnelKind::Vxlan, 2, TunnelKeys::Flow));
    rig.publish();
    rules(
        &mut rig,
        &["in_port=51,tun_id=0x64 actions=output:2", "in_port=1 actions=set_tunnel:0x65,output:51"],
    );
    let came = described(&rig, "in_port=port50,tun_id=100,dl_src=02:00:00:00:00:01");
    assert_eq!(came.summary(), "forwarded to port1 (untagged)");
    assert!(came.packet.contains("tun_id=0x64,tun_src=192.0.2.2,tun_dst=192.0.2.1"), "{}", came.packet);
    let other = described(&rig, "in_port=port50,tun_id=101");
    assert_eq!(other.dropped.unwrap().reason, DropReason::TableMiss);
    let went = described(&rig, "in_port=port0");
    assert_eq!(
        went.summary(),
        "forwarded to port50 (untagged, vxlan key 101 to 192.0.2.2 by port100 and 02:ff:00:00:00:02, frames up to 1564 octets)"
    );
}

#[test]
fn a_patch_port_leads_into_the_other_bridge_and_back_out() {
    let mut rig = switch();
    rig.add_bridge(1);
    rig.add_port(60, Some(0), trunk(&[10, 20]), PortKind::Patch(Some(weft_core::key::PortId(61))));
    rig.add_port(61, Some(1), trunk(&[10, 20]), PortKind::Patch(Some(weft_core::key::PortId(60))));
    rig.add_device_to(4, 1, access(10));
    rig.publish();
    let trace = tells(&mut rig, 0, frame(A, B).to_vec());
    let bridges = trace.steps.iter().filter(|step| matches!(step.what, What::Bridge { .. })).count();
    assert_eq!(bridges, 2);
    assert!(trace.copies.iter().any(|copy| copy.bridge == "br1" && copy.port == "port4"));
    // What is dropped behind the patch port is due to a rule there.
    rules(&mut rig, &["actions=output:61"]);
    rules_of(&mut rig, 1, &["priority=1,ip actions=drop"]);
    let trace = tells(&mut rig, 0, frame(A, B).to_vec());
    assert_eq!(
        trace.dropped.unwrap().hint,
        "the rule of table 0 of bridge br1, priority 1, matching ip, says drop"
    );
    rules_of(&mut rig, 1, &[]);
    let trace = tells(&mut rig, 0, frame(A, B).to_vec());
    assert_eq!(trace.dropped.unwrap().hint, "table 0 of bridge br1 has no rule for it");
}

/// The lowest address of a listener's frame that a walk has come to.
struct Depth {
    lowest: usize,
    lookups: usize,
}

impl Tracer for Depth {
    #[inline(never)]
    fn event(&mut self, event: Event<'_>) {
        let here = std::ptr::from_ref(&event) as usize;
        self.lowest = self.lowest.min(here);
        self.lookups += usize::from(matches!(event, Event::Lookup { .. }));
    }
}

/// Octets of stack that a packet's walk takes, look-ups that it makes, and how it ends.
fn stack_of(flows: &[FlowMod]) -> (usize, usize, Option<DropReason>) {
    let mut rig = switch();
    rig.replace_rules(0, flows);
    let snapshot = snapshot(&rig);
    let key = weft_core::parse::full(&frame(A, B), weft_core::key::Ingress::port(weft_core::key::PortId(0)))
        .unwrap();
    let walk = move || {
        let start = 0u8;
        let mut depth = Depth { lowest: usize::MAX, lookups: 0 };
        let mut verdict = Verdict::default();
        let occasion = Occasion {
            snapshot: &snapshot,
            key: &key,
            packet: None,
            whole: None,
            connections: rig.datapath.connections(),
            second: 1,
            now: Duration::ZERO,
            effects: false,
        };
        pipeline::walk(occasion, &mut verdict, &mut depth);
        (std::ptr::from_ref(&start) as usize - depth.lowest, depth.lookups, verdict.drop)
    };
    std::thread::Builder::new().stack_size(runtime::STACK).spawn(walk).unwrap().join().unwrap()
}

fn nested(mut actions: Vec<Action>, clones: usize) -> Vec<Action> {
    for _ in 0..clones {
        actions = vec![Action::Clone(actions.into())];
    }
    actions
}

/// A chain through all tables, back at its end: the deepest that look-ups can nest.
fn chain(clones: usize) -> Vec<FlowMod> {
    let go = |table: u8, next: u8| FlowMod {
        table: Some(table),
        ..rule(
            1,
            Match::any(),
            &nested(vec![Action::Resubmit { in_port: None, table: Some(next.into()), ct: false }], clones),
        )
    };
    (0..253).map(|table| go(table, table + 1)).chain([go(253, 0)]).collect()
}

#[test]
fn the_deepest_walk_fits_the_stack_that_threads_are_given_several_times() {
    let (plain, lookups, reason) = stack_of(&chain(0));
    assert_eq!((lookups, reason), (4096, Some(DropReason::TooManyResubmits)));
    let (backward, ..) =
        stack_of(&[rule(1, Match::any(), &[Action::Resubmit { in_port: None, table: Some(0), ct: false }])]);
    println!("a chain of 4096 look-ups: {plain} octets; 64 backwards: {backward}");
    assert!(plain < runtime::STACK / 4 && backward < runtime::STACK / 4, "{plain} {backward}");
}

#[test]
fn clones_within_clones_end_before_the_stack_does() {
    let (taken, lookups, reason) = stack_of(&chain(30));
    println!("30 clones at each look-up: {taken} octets, {lookups} look-ups, {reason:?}");
    assert!(taken < runtime::STACK / 2, "{taken}");
    assert_eq!(reason, Some(DropReason::TooManyResubmits));
}

#[test]
fn a_trace_of_the_deepest_walk_ends_and_says_why() {
    let mut rig = switch();
    rig.replace_rules(0, &chain(0));
    let trace = traced(&rig, 0, &frame(A, B));
    let dropped = trace.dropped.unwrap();
    assert_eq!(dropped.reason, DropReason::TooManyResubmits);
    assert_eq!(trace.steps.last().unwrap().what, What::Failed(dropped));
    rig.replace_rules(0, &[normal(), rule(9, in_port(3), &[])]);
    assert_eq!(traced(&rig, 0, &frame(A, B)).copies.len(), 2);
}
