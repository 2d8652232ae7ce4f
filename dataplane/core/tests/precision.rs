//! What a change costs: it ends the cached flows that it bears on, and no other.

#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use rig::frames::{BROADCAST, Ip, frame, ip_frame, mac};
use rig::{Rig, UPLINK, access, in_port, normal, ready, rule, tables, trunk, tunnel, vid};
use weft_core::fdb::Flush;
use weft_core::key::{FlowKey, KeyMask, PortId};
use weft_core::snapshot::{Path, TunnelKeys};
use weft_core::tables::{Change, TableId};
use weft_flow::message::{FlowCommand, FlowMod};
use weft_flow::text::{NoNames, parse_flow};
use weft_flow::{Action, Field, Match};
use weft_wire::OfPort;
use weft_wire::TunnelKind;

type Flow = (u16, Vec<u8>);

/// Ports 0 and 1 in VLAN 10, 2 and 3 in VLAN 20; tunnels 50 and 51 carry both VLANs by map.
fn switch() -> Rig {
    let mut rig = Rig::with_bridge(2);
    rig.bridge(0).vnis = vec![(vid(10), 1000), (vid(20), 2000)];
    for (port, vlan) in [(0, 10), (1, 10), (2, 20), (3, 20)] {
        rig.add_device(port, access(vlan));
    }
    rig.add_uplink();
    for number in [50, 51] {
        rig.add_tunnel(number.into(), tunnel(TunnelKind::Vxlan, number, TunnelKeys::Map(None)));
    }
    rig.publish();
    rig
}

/// A rule is added.
fn added(rule: &str) -> Change {
    Change::Flow(parse_flow(rule, FlowCommand::Add, &NoNames).unwrap())
}

/// How many of the flows are not cached (any more).
fn missing(rig: &mut Rig, flows: &[Flow]) -> u64 {
    let before = rig.misses();
    for (port, frame) in flows {
        rig.exchange(*port, frame.clone());
    }
    rig.misses() - before
}

/// A packet of a station behind remote end `number`, as it comes in by the uplink.
fn from_remote(number: u8, vni: u32, inner: Vec<u8>) -> Flow {
    let mut spec = tunnel(TunnelKind::Vxlan, 1, TunnelKeys::Map(None));
    (spec.local, spec.remote) = (rig::remote(number), rig::LOCAL.into());
    (UPLINK, rig::wrapped(&spec, vni, &inner))
}

/// One flow of each kind in a VLAN: flooded, to a port, to tunnel 50, and back. Stations 1, 2 and 5 are at `first`, at
/// `second` and behind tunnel 50.
fn flows(vlan: u8, first: u16, second: u16) -> Vec<Flow> {
    let station = |number: u8| mac(vlan + number);
    vec![
        from_remote(50, u32::from(vlan) * 100, frame(station(5), BROADCAST)),
        (first, frame(station(1), BROADCAST)),
        (second, frame(station(2), station(1))),
        (first, frame(station(1), station(5))),
        from_remote(50, u32::from(vlan) * 100, frame(station(5), station(1))),
    ]
}

/// A switch that has cached all flows of both VLANs.
fn warm() -> (Rig, Vec<Flow>, Vec<Flow>) {
    let mut rig = switch();
    let (ten, twenty) = (flows(10, 0, 1), flows(20, 2, 3));
    for _ in 0..2 {
        missing(&mut rig, &ten);
        missing(&mut rig, &twenty);
    }
    assert_eq!((missing(&mut rig, &ten), missing(&mut rig, &twenty)), (0, 0));
    (rig, ten, twenty)
}

#[test]
fn publishing_what_is_published_ends_no_flow() {
    let (mut rig, ten, twenty) = warm();
    rig.publish();
    assert_eq!((missing(&mut rig, &ten), missing(&mut rig, &twenty)), (0, 0));
}

#[test]
fn a_port_that_comes_to_vlan_20_or_goes_ends_floods_of_vlan_20_only() {
    let (mut rig, ten, twenty) = warm();
    rig.add_device(4, access(20));
    rig.publish();
    // Both floods, and the flow that leaves by a tunnel: it asks the map for the VLAN's key.
    assert_eq!((missing(&mut rig, &ten), missing(&mut rig, &twenty)), (0, 3));
    rig.remove_device(4);
    assert_eq!((missing(&mut rig, &ten), missing(&mut rig, &twenty)), (0, 3));
    rig.add_device(5, trunk(&[30]));
    rig.publish();
    assert_eq!((missing(&mut rig, &ten), missing(&mut rig, &twenty)), (0, 0));
}

#[test]
fn a_ports_own_change_ends_the_flows_from_it_and_to_it() {
    let (mut rig, ten, twenty) = warm();
    rig.port(3).protected = true;
    rig.publish();
    assert_eq!(missing(&mut rig, &ten), 0);
    assert!((1..=5).contains(&missing(&mut rig, &twenty)));
    rig.add_device(6, trunk(&[30]));
    rig.publish();
    missing(&mut rig, &[(6, frame(mac(99), BROADCAST))]);
    rig.port(6).up = false;
    rig.publish();
    assert_eq!((missing(&mut rig, &ten), missing(&mut rig, &twenty)), (0, 0));
    assert_eq!(missing(&mut rig, &[(6, frame(mac(99), BROADCAST))]), 1);
}

#[test]
fn a_path_change_ends_what_leaves_by_that_tunnel_only() {
    let (mut rig, ten, twenty) = warm();
    rig.tunnel(50).path = ready(UPLINK, 77);
    rig.publish();
    // In each VLAN: the flood and the flow to the station behind it; what comes from it stays.
    assert_eq!((missing(&mut rig, &ten), missing(&mut rig, &twenty)), (2, 2));
    rig.tunnel(51).path = Path::NoRoute;
    rig.publish();
    assert_eq!((missing(&mut rig, &ten), missing(&mut rig, &twenty)), (1, 1));
}

#[test]
fn a_rule_change_ends_the_flows_of_its_bridge_only() {
    let (mut rig, ten, _) = warm();
    rig.add_bridge(1);
    rig.add_device_to(7, 1, access(10));
    rig.add_device_to(8, 1, access(10));
    rig.publish();
    let other = [(7, frame(mac(1), BROADCAST)), (8, frame(mac(2), mac(1)))];
    missing(&mut rig, &other);
    rig.change(1, &[Change::Flow(rule(9, in_port(7), &[NORMAL]))]);
    assert_eq!((missing(&mut rig, &ten), missing(&mut rig, &other)), (0, 1));
}

#[test]
fn a_rule_ends_the_flows_that_it_can_match_and_when_it_goes_those_that_it_did() {
    let (mut rig, ten, twenty) = warm();
    let to_station = |number| Match::any().with(Field::EthDst, mac(number).to_u64().into());
    let elsewhere = rule(9, to_station(250), &[]);
    rig.change(0, &[Change::Flow(elsewhere.clone())]);
    assert_eq!((missing(&mut rig, &ten), missing(&mut rig, &twenty)), (0, 0));
    rig.change(0, &[Change::Flow(FlowMod { command: FlowCommand::DeleteStrict, ..elsewhere })]);
    assert_eq!((missing(&mut rig, &ten), missing(&mut rig, &twenty)), (0, 0));
    // Below what matched already, or in a table that nothing leads to: nobody is concerned.
    let unreached = FlowMod { table: Some(7), ..rule(9, Match::any(), &[]) };
    rig.change(0, &[Change::Flow(unreached)]);
    assert_eq!((missing(&mut rig, &ten), missing(&mut rig, &twenty)), (0, 0));
}

#[test]
fn a_flow_that_sleeps_while_rules_come_and_change_meets_those_that_are_there_then() {
    let (mut rig, ten, twenty) = warm();
    let to_station = |number| Match::any().with(Field::EthDst, mac(number).to_u64().into());
    // Two flows go to station 11: they meet the rule, which is another one by then.
    rig.change(0, &[Change::Flow(rule(9, to_station(11), &[NORMAL]))]);
    let modified = FlowMod { command: FlowCommand::ModifyStrict, ..rule(9, to_station(11), &[]) };
    rig.change(0, &[Change::Flow(modified)]);
    assert_eq!((missing(&mut rig, &ten), missing(&mut rig, &twenty)), (2, 0));
    // One that came and went is nobody's.
    rig.change(0, &[Change::Flow(rule(9, to_station(12), &[]))]);
    let gone = FlowMod { command: FlowCommand::DeleteStrict, ..rule(9, to_station(12), &[]) };
    rig.change(0, &[Change::Flow(gone)]);
    assert_eq!((missing(&mut rig, &ten), missing(&mut rig, &twenty)), (0, 0));
}

#[test]
fn more_new_rules_than_a_program_keeps_in_mind_cost_each_of_its_flows_a_walk() {
    let (mut rig, ten, _) = warm();
    let to_station = |number| Match::any().with(Field::EthDst, mac(number).to_u64().into());
    for number in 100..170 {
        rig.change(0, &[Change::Flow(rule(9, to_station(number), &[]))]);
    }
    assert_eq!((missing(&mut rig, &ten), missing(&mut rig, &ten)), (5, 0));
}

#[test]
fn the_vni_of_a_vlan_changes_that_vlans_flows_and_what_comes_in_by_tunnels() {
    let (mut rig, ten, twenty) = warm();
    rig.bridge(0).vnis = vec![(vid(10), 1000), (vid(20), 2000), (vid(30), 3000)];
    rig.publish();
    // The two flows from the tunnel in each VLAN look their key up again.
    assert_eq!((missing(&mut rig, &ten), missing(&mut rig, &twenty)), (2, 2));
}

#[test]
fn an_address_that_is_learned_moves_or_goes_ends_the_flows_that_looked_it_up() {
    let (mut rig, ten, twenty) = warm();
    let unknown = [(0, frame(mac(11), mac(200)))];
    assert_eq!((missing(&mut rig, &unknown), missing(&mut rig, &unknown)), (1, 0));
    rig.fdb().learn(vid(10), mac(200), PortId(1), 101);
    assert_eq!(missing(&mut rig, &unknown), 1);
    // Station 11 goes to port 1: its own flows at port 0 learn it back.
    rig.fdb().learn(vid(10), mac(11), PortId(1), 101);
    assert_eq!(missing(&mut rig, &twenty), 0);
    assert!(missing(&mut rig, &ten) >= 2);
    rig.fdb().flush(Flush { vid: Some(vid(10)), ..Flush::default() });
    assert_eq!(missing(&mut rig, &twenty), 0);
    assert!(missing(&mut rig, &ten) >= 4);
}

#[test]
fn the_addresses_of_a_port_that_goes_or_changes_its_vlan_are_forgotten_and_of_no_other() {
    let (mut rig, _, _) = warm();
    let known =
        |rig: &Rig, port: u16| rig.fdb().entries().iter().filter(|entry| entry.port == PortId(port)).count();
    assert_eq!([0, 1, 2, 3, 50].map(|port| known(&rig, port)), [1, 1, 1, 1, 2]);
    rig.remove_device(0);
    rig.port(2).vlan = access(10);
    rig.port(3).protected = true;
    rig.publish();
    assert_eq!([0, 1, 2, 3, 50].map(|port| known(&rig, port)), [0, 1, 0, 1, 2]);
}

const NORMAL: Action = Action::Output(OfPort::NORMAL);

/// A rule on the destination port.
fn on_udp_port(port: u16) -> FlowMod {
    rule(5, Match::any().with(Field::UdpDst, port.into()), &[])
}

#[test]
fn a_rule_widens_the_key_to_what_it_reads_and_when_it_goes_the_key_is_narrow_again() {
    let mut rig = switch();
    let packet = |source: u16, destination: u16| {
        (0, ip_frame(mac(1), BROADCAST, Ip { ports: (source, destination), ..Ip::default() }, 10))
    };
    let flows = [packet(1, 53), packet(1, 80), packet(2, 80), packet(2, 53)];
    assert_eq!(missing(&mut rig, &flows), 1);
    let dns = on_udp_port(53);
    rig.change(0, &[Change::Flow(dns.clone())]);
    assert_eq!(missing(&mut rig, &flows), 2);
    rig.change(0, &[Change::Flow(FlowMod { command: FlowCommand::DeleteStrict, ..dns })]);
    assert_eq!((missing(&mut rig, &flows), missing(&mut rig, &flows)), (1, 0));
}

#[test]
fn the_key_mask_is_what_table_and_actions_read() {
    let reads = |rules: &[FlowMod]| tables(rules).load().reads(TableId::FIRST).mask;
    let in_port_only = |actions: &[Action]| reads(&[rule(1, in_port(1), actions)]);
    assert_eq!(in_port_only(&[]), KeyMask::INGRESS);
    assert_eq!(in_port_only(&[NORMAL]), KeyMask::NORMAL);
    let output = Action::Output(OfPort(1));
    assert_eq!(in_port_only(&[output]), KeyMask::INGRESS.union(&KeyMask::VLAN));
    let mut wide = KeyMask::NORMAL;
    wide.0[8] = 0xffff << 32;
    // Fragments show no ports.
    wide.0[3] = 3;
    assert_eq!(reads(&[normal(), on_udp_port(1)]), wide);
    assert_eq!(FlowKey([u64::MAX; 16]).masked(&wide).0[8], 0xffff << 32);
}

#[test]
fn flows_that_went_stale_or_idle_are_swept_away_with_their_programs() {
    let mut rig = switch();
    let gauges = |rig: &Rig| {
        let workers = || rig.datapath.counters().map(|counters| &counters.worker);
        let sum = |gauge: fn(&weft_core::counters::WorkerCounters) -> u64| workers().map(gauge).sum::<u64>();
        (sum(|worker| worker.flows.get()), sum(|worker| worker.programs.get()))
    };
    for number in 0..200 {
        rig.exchange(0, frame(mac(number), BROADCAST));
    }
    assert_eq!(gauges(&rig), (200, 1));
    rig.port(1).vlan = access(30);
    rig.publish();
    rig.exchange(0, frame(mac(7), BROADCAST));
    let sweep = |rig: &mut Rig| (0..1100).for_each(|_| rig.run());
    sweep(&mut rig);
    assert_eq!(gauges(&rig), (1, 1));
    rig.wait(299);
    sweep(&mut rig);
    assert_eq!(gauges(&rig), (1, 1));
    rig.wait(1);
    sweep(&mut rig);
    assert_eq!(gauges(&rig), (0, 0));
    assert_eq!(rig.reaches(0, frame(mac(7), BROADCAST)), [UPLINK, UPLINK]);
}

#[test]
fn a_walk_that_only_keeps_a_learned_rule_from_ending_is_no_publication() {
    let mut rig = Rig::with_bridge(1);
    (0..3).for_each(|id| rig.add_device(id, access(10)));
    rig.publish();
    let learn = "learn(table=9,hard_timeout=300,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[])";
    rig.change(0, &[added(&format!("priority=9 actions={learn},output:2"))]);
    let published = |rig: &Rig| rig.datapath.shared().epochs.published();
    let before = published(&rig);
    rig.exchange(0, frame(mac(1), mac(2)));
    assert_eq!(published(&rig), before + 1);
    // Two flows more by the same sender, and many packets of each: they learn what is there.
    for number in 3..5 {
        (0..3).for_each(|_| drop(rig.exchange(0, frame(mac(1), mac(number)))));
        rig.wait(1);
    }
    assert_eq!((published(&rig), rig.misses()), (before + 1, 3));
    rig.exchange(0, frame(mac(7), mac(2)));
    assert_eq!(published(&rig), before + 2);
}

#[test]
fn a_cache_that_grows_loses_no_flow_and_each_meets_a_rule_that_comes_later() {
    let mut rig =
        Rig::two_stations(&["priority=1,udp,tp_src=1,tp_dst=1 actions=drop", "priority=0 actions=NORMAL"]);
    rig.exchange(1, frame(mac(2), mac(1)));
    // How many of 70,000 flows arrive, and how many of those aren't cached.
    let pass = |rig: &mut Rig| {
        let before = rig.misses();
        let flows = (2..352).flat_map(|source| (2..202).map(move |destination| (source, destination)));
        let mut arrived = 0;
        for burst in flows.collect::<Vec<_>>().chunks(60) {
            for &ports in burst {
                rig.send(0, ip_frame(mac(1), mac(2), Ip { ports, ..Ip::default() }, 10));
            }
            rig.run();
            arrived += rig.sent(1).len();
        }
        (arrived, rig.misses() - before)
    };
    assert_eq!(pass(&mut rig), (70_000, 70_000));
    let flows = || rig.datapath.counters().map(|counters| counters.worker.flows.get()).sum::<u64>();
    assert!(flows() > 69_990, "more than the least size has places: {}", flows());
    let (arrived, missed) = pass(&mut rig);
    assert!(arrived == 70_000 && missed < 10, "{missed} are walked again");
    // One program, whose flows are in all parts of a table that is larger than the other caches'.
    rig.change(0, &[added("priority=5,udp,tp_src=7 actions=drop")]);
    // Sweeps go round all caches meanwhile, and forget that there was a doubt when they have asked every flow.
    (0..2200).for_each(|_| rig.run());
    let (arrived, missed) = pass(&mut rig);
    assert_eq!(arrived, 70_000 - 200);
    assert!(missed < 220, "{missed} are walked again, of which 200 meet the rule");
}
