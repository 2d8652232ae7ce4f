//! What rules, groups, buckets and meters count is what went through them, to the packet and the octet: by cached flows of two workers,
//! over changes of rules, and up to the last packet of a rule that is gone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod rig;

use std::collections::BTreeMap;

use rig::dice::Dice;
use rig::frames::{Ip, ip_frame, mac};
use rig::{Rig, trunk};
use weft_core::tables::{Change, RemovedReason};
use weft_flow::message::{FlowCommand, GroupCommand, MeterCommand};
use weft_flow::text::{NoNames, parse_flow, parse_group, parse_meter};

/// Packets and octets.
type Count = (u64, u64);

const PORTS: u16 = 6;
/// The UDP ports that rules tell apart.
const KINDS: u16 = 8;

fn flow(command: FlowCommand, line: &str) -> Change {
    Change::Flow(parse_flow(line, command, &NoNames).unwrap())
}

/// Sends a burst by every port, and adds up what of each kind of packet has gone in.
fn traffic(rig: &mut Rig, dice: &mut Dice, sent: &mut [Count; KINDS as usize]) {
    for _ in 0..200 {
        let (port, kind) = (dice.below(PORTS.into()) as u16, dice.below(KINDS.into()) as u16);
        let (source, size) = (dice.pick(&[1, 2, 3, 4, 5]), dice.below(100));
        let ip = Ip { ports: (dice.below(9) as u16, kind), ..Ip::default() };
        let frame = ip_frame(mac(source), mac(99), ip, size);
        let (packets, bytes) = &mut sent[usize::from(kind)];
        *packets += 1;
        *bytes += frame.len() as u64;
        rig.send(port, frame);
        if dice.percent(10) {
            rig.run();
        }
    }
    rig.run();
    (0..PORTS).for_each(|port| drop(rig.sent(port)));
}

fn switch() -> Rig {
    let mut rig = Rig::with_bridge(2);
    (0..PORTS).for_each(|id| rig.add_device(id, trunk(&[0])));
    rig.publish();
    rig
}

/// Live rules' counts by cookie, with those of rules that have gone added.
fn counted(rig: &Rig, gone: &BTreeMap<u64, Count>) -> BTreeMap<u64, Count> {
    let mut all = gone.clone();
    let root = rig.model.bridges[0].flows.load();
    for rule in root.tables().flat_map(|table| table.rules()) {
        let (packets, bytes) = all.entry(rule.cookie).or_default();
        *packets += rule.stats().packets;
        *bytes += rule.stats().bytes;
    }
    all
}

#[test]
fn rules_count_every_packet_once_while_they_come_change_and_go() {
    let mut rig = switch();
    let (mut dice, mut sent, mut gone) = (Dice(7), [(0, 0); KINDS as usize], BTreeMap::new());
    let rule = |kind: u16, out: usize| {
        format!("send_flow_rem,cookie={kind},table=1,udp,tp_dst={kind} actions=output:{out}")
    };
    rig.change(
        0,
        &[flow(FlowCommand::Delete, ""), flow(FlowCommand::Add, "cookie=100 actions=resubmit(,1)")],
    );
    rig.change(0, &[flow(FlowCommand::Add, "cookie=101,table=1,priority=1 actions=resubmit(,2)")]);
    (0..KINDS).for_each(|kind| rig.change(0, &[flow(FlowCommand::Add, &rule(kind, 1))]));
    let mut missed = (0, 0);
    for round in 0..60 {
        let before = sent;
        traffic(&mut rig, &mut dice, &mut sent);
        let kind = dice.below(KINDS.into()) as u16;
        if round % 2 == 0 {
            // Another output: the counts go on.
            rig.change(0, &[flow(FlowCommand::ModifyStrict, &rule(kind, dice.below(6) + 1))]);
            rig.change(0, &[flow(FlowCommand::Add, &rule((kind + 1) % KINDS, dice.below(6) + 1))]);
        } else {
            rig.change(0, &[flow(FlowCommand::Delete, &format!("cookie={kind}/-1"))]);
            let now = sent;
            traffic(&mut rig, &mut dice, &mut sent);
            // Meanwhile the rule below has them.
            let at = usize::from(kind);
            missed.0 += sent[at].0 - now[at].0;
            missed.1 += sent[at].1 - now[at].1;
            rig.change(0, &[flow(FlowCommand::Add, &rule(kind, 2))]);
        }
        for removed in rig.model.bridges[0].flows.drain_removed() {
            assert_eq!(removed.reason, RemovedReason::Delete);
            let stats = removed.rule.stats();
            let (packets, bytes): &mut Count = gone.entry(removed.rule.cookie).or_default();
            *packets += stats.packets;
            *bytes += stats.bytes;
        }
        assert_ne!(before, sent);
    }
    let counted = counted(&rig, &gone);
    let total = sent.iter().fold((0, 0), |sum, kind| (sum.0 + kind.0, sum.1 + kind.1));
    assert_eq!((counted[&100], counted[&101]), (total, missed));
    let by_kind = (0..KINDS)
        .map(|kind| counted[&kind.into()])
        .fold((0, 0), |sum, kind| (sum.0 + kind.0, sum.1 + kind.1));
    assert_eq!((by_kind.0 + missed.0, by_kind.1 + missed.1), total);
    assert!(rig.misses() * 4 < total.0, "{} misses of {} packets", rig.misses(), total.0);
}

#[test]
fn a_group_counts_a_packet_once_and_each_bucket_that_it_takes() {
    let mut rig = switch();
    let group = |line| Change::Group(parse_group(line, GroupCommand::Add, &NoNames).unwrap());
    rig.change(
        0,
        &[
            flow(FlowCommand::Delete, ""),
            group("group_id=1,type=all,bucket=output:2,bucket=output:3"),
            group("group_id=2,type=ff,bucket=watch_port=77,output:2,bucket=watch_port=2,output:2"),
            group("group_id=3,type=ff,bucket=watch_port=77,output:2"),
            group("group_id=4,type=select,bucket=output:2,bucket=output:3"),
            group("group_id=5,type=all"),
            flow(FlowCommand::Add, "actions=group:1,group:2,group:2,group:3,group:4,group:5"),
        ],
    );
    let (mut dice, mut sent) = (Dice(9), [(0, 0); KINDS as usize]);
    (0..5).for_each(|_| traffic(&mut rig, &mut dice, &mut sent));
    let all = sent.iter().fold((0, 0), |sum: Count, kind| (sum.0 + kind.0, sum.1 + kind.1));
    let twice = (2 * all.0, 2 * all.1);
    let root = rig.model.bridges[0].flows.load();
    let of = |id| {
        let group = root.group(id).unwrap();
        (group.stats(), (0..group.spec().buckets.len()).map(|at| group.bucket_stats(at)).collect::<Vec<_>>())
    };
    // As stock Open vSwitch counts.
    assert_eq!(of(1), (all, vec![all, all]));
    assert_eq!(of(2), (twice, vec![(0, 0), twice]));
    assert_eq!(of(3), ((0, 0), vec![(0, 0)]));
    assert_eq!(of(5), (all, vec![]));
    let (total, buckets) = of(4);
    assert_eq!(total, all);
    assert_eq!(buckets.iter().fold((0, 0), |sum, bucket| (sum.0 + bucket.0, sum.1 + bucket.1)), all);
}

#[test]
fn a_meter_counts_what_it_sees_and_what_it_drops() {
    let mut rig = switch();
    let meter = "meter=1,pktps,burst,stats,bands=type=drop,rate=10,burst_size=50";
    rig.change(
        0,
        &[
            flow(FlowCommand::Delete, ""),
            Change::Meter(parse_meter(meter, MeterCommand::Add).unwrap()),
            flow(FlowCommand::Add, "actions=meter:1,output:6"),
        ],
    );
    let (mut dice, mut sent) = (Dice(9), [(0, 0); KINDS as usize]);
    (0..5).for_each(|_| {
        traffic(&mut rig, &mut dice, &mut sent);
        rig.wait(2);
    });
    let all = sent.iter().fold((0, 0), |sum: Count, kind| (sum.0 + kind.0, sum.1 + kind.1));
    let root = rig.model.bridges[0].flows.load();
    let meter = root.meter(1).unwrap();
    assert_eq!(meter.stats(), all);
    // 50 at once, and 20 more after each 2 seconds.
    assert_eq!(meter.band_stats(0).0, all.0 - 50 - 4 * 20);
}
