//! Tunnels whose remote end the rules say: to whom packets go, who asks for the way there, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use std::net::Ipv4Addr;

use rig::frames::{frame, mac};
use rig::{LOCAL, Rig, UPLINK, access, in_port, ready, remote, rule, tunnel};
use weft_core::key::PortId;
use weft_core::shared::Wanted;
use weft_core::snapshot::{Path, Remote, Routes, TunnelKeys};
use weft_flow::message::FlowMod;
use weft_flow::{Action, Field, Match};
use weft_wire::{DropReason, OfPort, TunnelKind};

const VXLAN: TunnelKind = TunnelKind::Vxlan;
/// The tunnel.
const TUNNEL: u16 = 60;
/// Its number on the bridge.
const OUT: OfPort = OfPort(TUNNEL + 1);

fn towards(address: Ipv4Addr) -> Action {
    Action::set_field(Field::TunDst, address.to_bits().into(), Field::TunDst.max())
}

/// To remote end `number` under the key `number`, by the destination's address.
fn to(number: u8) -> FlowMod {
    let matches = Match::any().with(Field::EthDst, u128::from(mac(number).to_u64()));
    let key = Action::SetTunnel { id: number.into(), wide: false };
    rule(10, matches, &[key, towards(remote(number)), Action::Output(OUT)])
}

/// A bridge with port 0, an uplink, a tunnel to wherever the flow says, and these rules.
fn overlay(key: TunnelKeys, rules: &[FlowMod]) -> Rig {
    let mut rig = Rig::with_bridge(1);
    rig.add_device(0, access(10));
    rig.add_uplink();
    let mut spec = tunnel(VXLAN, 1, key);
    (spec.remote, spec.path) = (Remote::Flow, Path::NoRoute);
    rig.add_tunnel(TUNNEL, spec);
    rig.bridge(0).flows = rig::tables(rules);
    rig.publish();
    rig
}

fn set_route(rig: &mut Rig, number: u8, path: Path) {
    rig.model.routes.insert((LOCAL, remote(number)), path);
    rig.publish();
}

/// The last octet of each outer packet's destination address, and its VNI.
fn outers(sent: &[(u16, Vec<u8>)]) -> Vec<(u8, u32)> {
    let outer = |frame: &[u8]| (frame[33], u32::from_be_bytes([0, frame[46], frame[47], frame[48]]));
    sent.iter().filter(|(port, _)| *port == UPLINK).map(|(_, frame)| outer(frame)).collect()
}

fn wanted(rig: &Rig) -> Vec<Wanted> {
    std::iter::from_fn(|| rig.datapath.shared().wanted.pop()).collect()
}

#[test]
fn two_rules_send_by_one_tunnel_to_two_remote_ends() {
    let mut rig = overlay(TunnelKeys::Flow, &[to(50), to(51)]);
    set_route(&mut rig, 50, ready(UPLINK, 50));
    set_route(&mut rig, 51, ready(UPLINK, 51));
    for _ in 0..2 {
        assert_eq!(outers(&rig.exchange(0, frame(mac(1), mac(50)))), [(50, 50)]);
        assert_eq!(outers(&rig.exchange(0, frame(mac(1), mac(51)))), [(51, 51)]);
    }
    assert_eq!(rig.datapath.port_totals(PortId(TUNNEL)).tx_packets, 4);
    // The way changes, or is no more: only for those who go there.
    set_route(&mut rig, 50, Path::NoRoute);
    assert_eq!(rig.exchange(0, frame(mac(1), mac(50))), []);
    assert_eq!(rig.drops(0), [(DropReason::TunnelNoRoute, 1)]);
    assert_eq!(outers(&rig.exchange(0, frame(mac(1), mac(51)))), [(51, 51)]);
}

#[test]
fn a_remote_end_that_nobody_knows_is_asked_for_while_the_packet_waits() {
    let mut rig = overlay(TunnelKeys::Fixed(7), &[to(50), to(51)]);
    assert_eq!(rig.exchange(0, frame(mac(1), mac(50))), []);
    assert_eq!(wanted(&rig), [Wanted { tunnel: PortId(TUNNEL), remote: Some(remote(50)) }]);
    set_route(&mut rig, 50, Path::Resolving);
    assert_eq!((rig.held(), rig.exchange(0, frame(mac(1), mac(51)))), (1, vec![]));
    assert_eq!(wanted(&rig), [Wanted { tunnel: PortId(TUNNEL), remote: Some(remote(51)) }]);
    set_route(&mut rig, 50, ready(UPLINK, 50));
    assert_eq!((outers(&rig.sent_all()), rig.held()), (vec![(50, 7)], 1));
    assert_eq!(outers(&rig.exchange(0, frame(mac(1), mac(50)))), [(50, 7)]);
    // Forgotten: the next packet asks again.
    rig.model.routes.clear();
    rig.publish();
    assert_eq!((rig.exchange(0, frame(mac(1), mac(50))), rig.held()), (vec![], 2));
    assert_eq!(wanted(&rig), [Wanted { tunnel: PortId(TUNNEL), remote: Some(remote(50)) }]);
    set_route(&mut rig, 51, Path::NoRoute);
    assert_eq!(rig.drops(0), [(DropReason::TunnelNoRoute, 1)]);
    rig.wait(5);
    assert_eq!(rig.drops(0), [(DropReason::TunnelNoRoute, 1), (DropReason::NeighbourUnresolved, 1)]);
    rig.check_counters();
}

#[test]
fn what_no_rule_gives_a_destination_is_refused_as_is_one_too_many() {
    let plain = rule(0, Match::any(), &[Action::Output(OUT)]);
    let group = rule(
        1,
        in_port(0).with(Field::EthDst, u128::from(mac(9).to_u64())),
        &[towards(Ipv4Addr::new(224, 0, 0, 1)), Action::Output(OUT)],
    );
    let mut rig = overlay(TunnelKeys::Flow, &[plain, group, to(50)]);
    assert_eq!(rig.exchange(0, frame(mac(1), mac(2))), []);
    assert_eq!(rig.exchange(0, frame(mac(1), mac(9))), []);
    assert_eq!(rig.drops(0), [(DropReason::TunnelNoRemote, 2)]);
    for number in 0..Routes::LIMIT as u32 {
        rig.model.routes.insert((LOCAL, Ipv4Addr::from_bits(0x0b00_0000 + number)), Path::NoRoute);
    }
    rig.publish();
    for _ in 0..2 {
        assert_eq!(rig.exchange(0, frame(mac(1), mac(50))), []);
    }
    assert_eq!(rig.drops(0), [(DropReason::TunnelNoRemote, 2), (DropReason::TunnelRemotesFull, 2)]);
    assert!(wanted(&rig).is_empty());
    // One goes: there is room again.
    rig.model.routes.pop_first();
    rig.publish();
    rig.exchange(0, frame(mac(1), mac(50)));
    assert_eq!(wanted(&rig), [Wanted { tunnel: PortId(TUNNEL), remote: Some(remote(50)) }]);
}

#[test]
fn packets_come_in_from_anywhere_but_a_tunnel_of_its_own_goes_first() {
    let deliver = rule(0, in_port(TUNNEL), &[Action::Output(OfPort(1))]);
    let own = rule(0, in_port(50), &[Action::Output(OfPort(1))]);
    let back = rule(
        5,
        in_port(TUNNEL).with(Field::EthDst, u128::from(mac(9).to_u64())),
        &[Action::Output(OfPort::IN_PORT)],
    );
    let mut rig = overlay(TunnelKeys::Flow, &[deliver, own, back]);
    rig.add_tunnel(50, tunnel(VXLAN, 50, TunnelKeys::Flow));
    rig.publish();
    for number in [50, 51, 52] {
        let mut spec = tunnel(VXLAN, 1, TunnelKeys::Flow);
        (spec.local, spec.remote, spec.path) = (remote(number), LOCAL.into(), ready(UPLINK, 1));
        let inner = frame(mac(7), mac(1));
        assert_eq!(rig.exchange(UPLINK, rig::wrapped(&spec, 1000, &inner)), [(0, inner)]);
        // Where it came to is not where it goes to.
        assert_eq!(
            rig.exchange(UPLINK, rig::wrapped(&spec, 1000, &frame(mac(7), mac(9)))).len(),
            usize::from(number == 50)
        );
    }
    assert_eq!(rig.datapath.port_totals(PortId(50)).rx_packets, 2);
    assert_eq!(rig.datapath.port_totals(PortId(TUNNEL)).rx_packets, 4);
    assert_eq!(rig.drops(TUNNEL), [(DropReason::TunnelNoRemote, 2)]);
}
