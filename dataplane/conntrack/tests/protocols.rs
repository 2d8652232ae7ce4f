//! What rules see of UDP, ICMP and the rest, packet by packet; limits, timeouts, and the sweep.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use weft_conntrack::{
    Commit, Connection, Connections, Facts, Family, Filter, Masked, Partial, Refusal, Request, Settings,
    State, Timeout, Timeouts, Tracked, Tuple, ZoneLimit,
};

const UDP: Tuple = Tuple {
    src: 0x0a00_0001,
    dst: 0x0a00_0002,
    src_port: 40_000,
    dst_port: 53,
    protocol: 17,
    family: Family::V4,
};
const PING: Tuple = Tuple { src_port: 77, dst_port: Tuple::icmp(8, 0), protocol: 1, ..UDP };

fn tracker(max: u32) -> Connections {
    Connections::new(Settings { max, secret: [5, 6], expectations: 3 }).unwrap()
}

fn track_in(tracker: &Connections, zone: u16, tuple: Tuple, commit: bool, second: u32) -> Tracked {
    let facts = Facts { tuple, valid: true, ..Facts::default() };
    let default = Commit::default();
    let (before, commit) = (None, commit.then_some(&default));
    tracker.track(&Request { zone, facts: &facts, before, commit, translate: false, second, effects: true })
}

fn track(tracker: &Connections, tuple: Tuple, commit: bool, second: u32) -> Tracked {
    track_in(tracker, 0, tuple, commit, second)
}

fn state(answer: &Tracked) -> State {
    answer.state.without(State::TRK)
}

fn only(tracker: &Connections, second: u32) -> Connection {
    let mut found = Vec::new();
    tracker.list(&Filter::default(), second, &mut |connection| found.push(*connection));
    assert_eq!(found.len(), 1);
    found[0]
}

const NEW: State = State::NEW;
const EST: State = State::EST;
const RPL: State = State(0x0a);

#[test]
fn packets_of_each_protocol_are_new_until_there_is_an_answer() {
    let gre = Tuple { src_port: 0, dst_port: 0, protocol: 47, ..UDP };
    let udp = [
        (false, NEW, Timeout::UdpFirst),
        (false, NEW, Timeout::UdpSingle),
        (true, RPL, Timeout::UdpMultiple),
    ];
    let icmp =
        [(false, NEW, Timeout::IcmpFirst), (false, NEW, Timeout::IcmpFirst), (true, RPL, Timeout::IcmpReply)];
    let last = [(udp, Timeout::UdpMultiple), (icmp, Timeout::IcmpReply)];
    let ping6 = Tuple { dst_port: Tuple::icmp(128, 0), protocol: 58, family: Family::V6, ..PING };
    let timestamp = Tuple { dst_port: Tuple::icmp(13, 0), ..PING };
    let sctp = Tuple { protocol: 132, ..gre };
    let zero = Tuple { protocol: 0, ..gre };
    for (tuple, which) in [(UDP, 0), (gre, 0), (sctp, 0), (zero, 0), (PING, 1), (ping6, 1), (timestamp, 1)] {
        let tracker = tracker(10);
        let (lines, after) = last[which];
        for (reply, seen, timeout) in lines.into_iter().chain([(false, EST, after), (true, RPL, after)]) {
            let packet = if reply { tuple.reversed() } else { tuple };
            assert_eq!(state(&track(&tracker, packet, true, 10)), seen, "{tuple}");
            let connection = only(&tracker, 10);
            assert_eq!(
                (connection.timeout, connection.left),
                (timeout, Timeouts::default().get(timeout)),
                "{tuple}"
            );
        }
    }
}

#[test]
fn what_has_no_connection_is_invalid() {
    let tracker = tracker(10);
    let reply = Tuple { dst_port: Tuple::icmp(0, 0), ..PING };
    let code = Tuple { dst_port: Tuple::icmp(8, 1), ..PING };
    let solicitation = Tuple { dst_port: Tuple::icmp(135, 0), protocol: 58, family: Family::V6, ..PING };
    let listener = Tuple { dst_port: Tuple::icmp(143, 0), ..solicitation };
    let port = Tuple { src_port: 0, ..UDP };
    let tcp = Tuple { protocol: 6, ..UDP };
    for tuple in [reply, code, solicitation, listener, port, tcp] {
        assert_eq!(state(&track(&tracker, tuple, true, 10)), State::INV, "{tuple}");
    }
    let broken = Facts { tuple: UDP, valid: false, ..Facts::default() };
    let commit = Commit::default();
    let request = Request {
        zone: 0,
        facts: &broken,
        before: None,
        commit: Some(&commit),
        translate: false,
        second: 1,
        effects: true,
    };
    assert_eq!(state(&tracker.track(&request)), State::INV);
    assert_eq!((tracker.statistics().connections, tracker.statistics().invalid), (0, 7));
}

#[test]
fn zones_don_t_know_each_other() {
    let tracker = tracker(10);
    assert!(track_in(&tracker, 1, UDP, true, 1).created);
    assert_eq!(state(&track_in(&tracker, 2, UDP.reversed(), false, 1)), NEW);
    assert!(track_in(&tracker, 2, UDP.reversed(), true, 1).created);
    assert_eq!(state(&track_in(&tracker, 1, UDP.reversed(), false, 1)), RPL);
    assert_eq!(tracker.zones(), [(1, 1), (2, 1)]);
}

#[test]
fn a_trace_changes_nothing() {
    let tracker = tracker(10);
    let facts = Facts { tuple: UDP, valid: true, ..Facts::default() };
    let commit = Commit::default();
    let trace = Request {
        zone: 0,
        facts: &facts,
        before: None,
        commit: Some(&commit),
        translate: false,
        second: 1,
        effects: false,
    };
    assert!(tracker.track(&trace).created, "it would have been");
    assert_eq!(tracker.statistics().connections, 0);
    track(&tracker, UDP, true, 1);
    let before = only(&tracker, 5);
    let reply = Facts { tuple: UDP.reversed(), ..facts };
    assert_eq!(state(&tracker.track(&Request { facts: &reply, second: 5, ..trace })), RPL);
    assert_eq!(only(&tracker, 5), before);
}

#[test]
fn force_turns_a_connection_round() {
    let tracker = tracker(10);
    track(&tracker, UDP, true, 1);
    let facts = Facts { tuple: UDP.reversed(), valid: true, ..Facts::default() };
    let commit = Commit { force: true, ..Commit::default() };
    let request = Request {
        zone: 0,
        facts: &facts,
        before: None,
        commit: Some(&commit),
        translate: false,
        second: 1,
        effects: true,
    };
    let answer = tracker.track(&request);
    assert!(answer.created && state(&answer) == NEW);
    assert_eq!(only(&tracker, 1).original, UDP.reversed());
    assert_eq!(state(&track(&tracker, UDP, false, 1)), RPL);
}

#[test]
fn limits_are_kept_and_each_refusal_is_counted() {
    let tracker = tracker(6);
    let one = |zone, port| track_in(&tracker, zone, Tuple { src_port: port, ..UDP }, true, 1);
    tracker.set_default_zone_limit(Some(2));
    tracker.set_zone_limit(7, ZoneLimit::AtMost(1));
    tracker.set_zone_limit(8, ZoneLimit::Unlimited);
    let refusals = |zone| (1..=4).filter(|&port| one(zone, port).refused == Some(Refusal::ZoneLimit)).count();
    assert_eq!((refusals(1), refusals(7)), (2, 3));
    assert_eq!(tracker.statistics().refused_zone, 5);
    for port in 1..=3 {
        assert!(one(8, port).created);
    }
    for (zone, port) in [(1, 1), (1, 2), (7, 1), (8, 1), (8, 2), (8, 3)] {
        let answer = track_in(&tracker, zone, Tuple { src_port: port, ..UDP }.reversed(), false, 1);
        assert!(answer.state.has(State::EST));
    }
    let full = one(8, 4);
    assert_eq!((full.refused, state(&full), full.created), (Some(Refusal::Full), NEW, false));
    assert_eq!((tracker.statistics().refused_full, tracker.zones()), (1, vec![(1, 2), (7, 1), (8, 3)]));
    assert_eq!(tracker.flush(&Filter { zone: Some(8), ..Filter::default() }, 1), 3);
    assert!(one(8, 4).created);
    tracker.set_zone_limit(7, ZoneLimit::AtMost(0));
    assert!(one(7, 1).state.has(State::EST), "what is there stays");
    assert_eq!((tracker.zone_limit(7), tracker.zone_limit(9)), (ZoneLimit::AtMost(0), ZoneLimit::Default));
    assert_eq!(tracker.default_zone_limit(), Some(2));
}

#[test]
fn a_zone_s_timeouts_count_from_the_next_packet_on() {
    let tracker = tracker(10);
    let mut policy = Timeouts::default();
    policy.set(Timeout::UdpMultiple, 500);
    track(&tracker, UDP, true, 1);
    let link = track(&tracker, UDP.reversed(), false, 1).link;
    tracker.set_timeouts(0, Some(policy));
    assert_eq!(only(&tracker, 1).left, 30);
    assert!(tracker.step(link, 2, || None));
    assert_eq!(only(&tracker, 2).left, 500);
    tracker.set_timeouts(0, None);
    let mut other = Timeouts::default();
    other.set(Timeout::UdpMultiple, 40);
    tracker.set_default_timeouts(other);
    assert_eq!(tracker.timeouts(0), other);
    assert!(tracker.step(link, 3, || None));
    assert_eq!(only(&tracker, 3).left, 40);
}

#[test]
fn the_sweep_goes_round_in_small_pieces() {
    let tracker = tracker(1000);
    let zones: Vec<u16> = (0..1000).collect();
    for &zone in &zones {
        assert!(track_in(&tracker, zone, UDP, true, u32::from(zone % 2) * 1000).created);
    }
    assert_eq!(tracker.statistics().connections, 1000);
    let mut ended = 0;
    for _ in 0..101 {
        let some = tracker.expire(500, 10);
        assert!(some <= 10);
        ended += some;
    }
    assert_eq!((ended, tracker.statistics().expired, tracker.statistics().connections), (500, 500, 500));
    assert!(zones.iter().all(|&zone| state(&track_in(&tracker, zone, UDP.reversed(), false, 500))
        == if zone % 2 == 1 { RPL } else { NEW }));
}

#[test]
fn a_flush_takes_what_it_is_asked_for_and_no_more() {
    let tracker = tracker(100);
    for port in 1..=10 {
        let facts = Facts { tuple: Tuple { src_port: port, ..UDP }, valid: true, ..Facts::default() };
        let mark = Masked { value: u32::from(port) & 1, mask: 1 };
        let label = Masked { value: u128::from(port) << 100, mask: u128::MAX };
        let commit = Commit { mark, label, ..Commit::default() };
        let (zone, commit) = (port / 6, Some(&commit));
        tracker.track(&Request {
            zone,
            facts: &facts,
            before: None,
            commit,
            translate: false,
            second: 1,
            effects: true,
        });
    }
    let flush = |filter| tracker.flush(&filter, 1);
    let any = Filter::default();
    assert_eq!(flush(Filter { label: Masked { value: 4 << 100, mask: u128::MAX }, ..any }), 1);
    assert_eq!(flush(Filter { mark: Masked { value: 1, mask: 1 }, zone: Some(0), ..any }), 3);
    assert_eq!(flush(Filter { original: Partial { src_port: Some(9), ..Partial::default() }, ..any }), 1);
    assert_eq!(flush(Filter { reply: Partial { dst_port: Some(8), ..Partial::default() }, ..any }), 1);
    assert_eq!(
        flush(Filter { original: Partial { family: Some(Family::V6), ..Partial::default() }, ..any }),
        0
    );
    assert_eq!(tracker.zones(), [(0, 1), (1, 3)]);
    assert_eq!((flush(any), tracker.statistics().flushed), (4, 10));
}

#[test]
fn a_thousand_zones_with_the_same_tuple_are_no_burden() {
    let tracker = tracker(70_000);
    for zone in 0..=u16::MAX {
        assert!(track_in(&tracker, zone, UDP, true, 1).created, "zone {zone}");
    }
    assert_eq!(tracker.statistics().connections, 1 << 16);
    assert_eq!(tracker.flush(&Filter::default(), 1), 1 << 16);
}

#[test]
fn absurd_sizes_are_refused() {
    assert!(Connections::new(Settings { max: u32::MAX, ..Settings::default() }).is_err());
    let none = tracker(0);
    assert_eq!(track(&none, UDP, true, 1).refused, Some(Refusal::Full));
}
