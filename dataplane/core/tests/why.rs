//! Why packets were dropped: what workers tell of flows, places and packets when somebody asks.

#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use std::sync::Arc;
use std::time::Duration;

use rig::frames::{frame, mac};
use rig::{DEPTH, Rig, access, in_port, normal, rule, tables, tunnel, vid};
use weft_core::key::PortId;
use weft_core::shared::Now;
use weft_core::snapshot::{BridgeId, TunnelKeys};
use weft_core::tables::TableId;
use weft_core::why::watch::{KEPT, SAMPLES, WATCHES};
use weft_core::why::{Decided, Found, Output, Pattern, Place, Subject, Tallied};
use weft_flow::message::FlowMod;
use weft_flow::{Action, Field, Match};
use weft_wire::{DropReason, Mac, OfPort, TunnelKind};

fn port(id: u16) -> Arc<Subject> {
    Arc::new(Subject { ports: vec![PortId(id)], whole_ports: true, patterns: Vec::new() })
}

fn sender(mac: Mac) -> Arc<Subject> {
    let from = Match::any().with(Field::EthSrc, mac.to_u64().into());
    let pattern = Pattern { addresses: from.clone(), whole: from, sends: true };
    Arc::new(Subject { patterns: vec![pattern], ..Subject::default() })
}

/// Asks while the workers run.
fn while_running<T: Send>(rig: &mut Rig, ask: impl FnOnce(&weft_core::datapath::Datapath) -> T + Send) -> T {
    let (datapath, workers, now) = (&rig.datapath, &mut rig.workers, Now { uptime: rig.now });
    std::thread::scope(|scope| {
        let asked = scope.spawn(move || ask(datapath));
        while !asked.is_finished() {
            workers.iter_mut().for_each(|worker| {
                worker.round(now);
            });
        }
        asked.join().unwrap()
    })
}

/// Asks, and has packets watched for another two seconds.
fn ask(rig: &mut Rig, subject: &Arc<Subject>) -> Found {
    let until = Now { uptime: rig.now }.second() + 2;
    while_running(rig, |datapath| datapath.why(subject, until).unwrap())
}

fn dropping(cookie: u64, priority: u16, matches: Match) -> FlowMod {
    FlowMod { cookie: Some(cookie), ..rule(priority, matches, &[]) }
}

/// Ports 0 and 1 in VLAN 10; port 0 may not send to station 9.
fn guarded() -> Rig {
    let mut rig = Rig::with_bridge(1);
    let to_nine = in_port(0).with(Field::EthDst, mac(9).to_u64().into());
    rig.bridge(0).flows = tables(&[dropping(0x55, 7, to_nine), normal()]);
    rig.add_device(0, access(10));
    rig.add_device(1, access(10));
    rig.publish();
    rig
}

#[test]
fn a_dropped_packet_is_told_with_rule_flow_and_sample_from_the_first_question_on() {
    let mut rig = guarded();
    let bad = frame(mac(1), mac(9));
    rig.exchange(0, bad.clone());
    let found = ask(&mut rig, &port(0));
    assert!(found.samples.is_empty(), "nobody had asked");
    assert_eq!(found.dropped.len(), 1);
    let row = &found.dropped[0];
    assert_eq!((row.port, row.reason, row.leaves), (PortId(0), DropReason::RuleDrop, false));
    assert_eq!(row.looked, Some((BridgeId(0), TableId(0))));
    assert_eq!(row.rule.as_ref().map(|rule| (rule.cookie, rule.priority)), Some((0x55, 7)));
    assert_eq!((row.sum.flows, row.sum.packets, row.sum.key.destination()), (1, 1, mac(9)));
    rig.exchange(0, bad.clone());
    rig.exchange(0, bad.clone());
    let found = ask(&mut rig, &port(0));
    assert_eq!(found.dropped[0].sum.packets, 3);
    assert_eq!(found.samples.len(), 1, "one of a kind");
    let sample = &found.samples[0];
    assert_eq!((sample.port, sample.reason, sample.length), (PortId(0), DropReason::RuleDrop, bad.len()));
    assert_eq!(sample.rule.as_ref().map(|rule| rule.cookie), Some(0x55));
    assert_eq!(sample.data[..], bad[..bad.len().min(KEPT)]);
    assert!(ask(&mut rig, &port(0)).samples.is_empty(), "each is told once");
}

#[test]
fn only_the_subjects_packets_are_told() {
    let mut rig = guarded();
    ask(&mut rig, &sender(mac(1)));
    ask(&mut rig, &port(1));
    rig.exchange(0, frame(mac(2), mac(9)));
    rig.exchange(0, frame(mac(1), mac(9)));
    let found = ask(&mut rig, &sender(mac(1)));
    assert_eq!(found.dropped.len(), 1);
    assert_eq!((found.dropped[0].sum.flows, found.dropped[0].sum.key.source()), (1, mac(1)));
    assert_eq!(found.samples.len(), 1);
    assert_eq!(found.samples[0].data[6..12], mac(1).0);
    let found = ask(&mut rig, &port(1));
    assert!(found.dropped.is_empty() && found.samples.is_empty());
}

#[test]
fn a_watch_ends_by_itself_and_samples_are_bounded() {
    let mut rig = Rig::with_bridge(1);
    let from = |number: u8| in_port(0).with(Field::EthSrc, mac(number).to_u64().into());
    let rules: Vec<FlowMod> = (0..100).map(|number| dropping(number.into(), 7, from(number))).collect();
    rig.bridge(0).flows = tables(&rules);
    rig.add_device(0, access(10));
    rig.publish();
    ask(&mut rig, &port(0));
    let all = |rig: &mut Rig| {
        for number in 0..100 {
            rig.exchange(0, frame(mac(number), mac(200)));
        }
    };
    all(&mut rig);
    let found = ask(&mut rig, &port(0));
    assert_eq!(found.samples.len(), SAMPLES);
    assert_eq!((found.dropped.len(), found.left_out), (64, 36));
    rig.now += Duration::from_secs(5);
    all(&mut rig);
    assert!(ask(&mut rig, &port(0)).samples.is_empty(), "it ended three seconds ago");
    // As many questions as a worker watches for; one more takes the place of the one that would end first.
    for number in 0..=WATCHES as u8 {
        ask(&mut rig, &sender(mac(number)));
    }
    all(&mut rig);
    let kept: usize =
        (0..=WATCHES as u8).map(|number| ask(&mut rig, &sender(mac(number))).samples.len()).sum();
    assert!((1..=WATCHES).contains(&kept), "{kept}");
}

#[test]
fn what_a_queue_has_no_room_for_is_shown_at_its_port() {
    let mut rig = guarded();
    rig.exchange(1, frame(mac(2), mac(1)));
    ask(&mut rig, &port(1));
    for _ in 0..=DEPTH {
        rig.send(0, frame(mac(1), mac(2)));
        rig.run();
    }
    let found = ask(&mut rig, &port(1));
    assert_eq!(rig.drops(1), [(DropReason::TxRingFull, 1)]);
    let sample = found.samples.first().unwrap();
    assert_eq!((sample.port, sample.reason, sample.decided), (PortId(1), DropReason::TxRingFull, None));
    assert_eq!(sample.data[..12], [mac(2).0, mac(1).0].concat());
    rig.sent(1);
}

#[test]
fn drops_are_kept_by_port_table_and_cookie() {
    let mut rig = guarded();
    let from_one = |priority, cookie, actions: &[Action]| FlowMod {
        cookie: Some(cookie),
        ..rule(priority, in_port(1), actions)
    };
    for _ in 0..3 {
        rig.exchange(0, frame(mac(1), mac(9)));
    }
    rig.replace_rules(0, &[from_one(1, 6, &[Action::Output(OfPort(77))])]);
    rig.exchange(0, frame(mac(1), mac(9)));
    rig.exchange(1, frame(mac(3), mac(9)));
    let (places, beyond) = while_running(&mut rig, |datapath| datapath.drops().unwrap());
    let second = Now { uptime: rig.now }.second();
    let length = frame(mac(1), mac(9)).len() as u64;
    let place = |port, reason, cookie| Place {
        port: PortId(port),
        reason,
        decided: Some(Decided { bridge: BridgeId(0), table: TableId(0), cookie }),
    };
    let tallied = |packets| Tallied { packets, bytes: packets * length, second };
    let expected = [
        (place(0, DropReason::TableMiss, None), tallied(1)),
        (place(0, DropReason::RuleDrop, Some(0x55)), tallied(3)),
        (place(1, DropReason::NoSuchPort, Some(6)), tallied(1)),
    ];
    assert_eq!(places.into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(beyond, 0);
    // The counters of ports say the same.
    assert_eq!(rig.drops(0), [(DropReason::TableMiss, 1), (DropReason::RuleDrop, 3)]);
    rig.datapath.reset_counters(PortId(0));
    let (places, _) = while_running(&mut rig, |datapath| datapath.drops().unwrap());
    assert_eq!(places.len(), 1, "the number is another port's now");
}

#[test]
fn what_leaves_by_a_tunnel_is_told_with_its_key() {
    let mut rig = Rig::with_bridge(1);
    rig.bridge(0).vnis = vec![(vid(10), 1000)];
    rig.add_device(0, access(10));
    rig.add_uplink();
    rig.add_tunnel(50, tunnel(TunnelKind::Vxlan, 50, TunnelKeys::Map(None)));
    rig.publish();
    rig.exchange(0, frame(mac(1), mac(2)));
    let found = ask(&mut rig, &port(0));
    assert!(found.dropped.is_empty());
    assert_eq!(found.sent.len(), 1);
    assert_eq!(found.sent[0].outputs[..], [Output { port: PortId(50), key: Some(1000), remote: None }]);
    assert_eq!((found.sent[0].further, found.sent[0].sum.packets), (0, 1));
}
