//! Translation and expectations: out and back again, never two connections with one tuple, and what Open vSwitch does with
//! ranges, clashes and exhaustion.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;

use proptest::prelude::*;
use weft_conntrack::{
    Before, Choice, Commit, Connections, Direction, Expected, Facts, Family, Filter, Helper, Link, Masked,
    Nat, Partial, Refusal, Request, Settings, Side, State, Stream, Tracked, Tuple, Unexpected, ZoneLimit,
};

const CLIENT: Tuple = Tuple {
    src: 0x0a00_0001,
    dst: 0x0a00_0002,
    src_port: 40_000,
    dst_port: 80,
    protocol: 17,
    family: Family::V4,
};

fn tracker() -> Connections {
    Connections::new(Settings { max: 2000, secret: [5, 6], expectations: 3 }).unwrap()
}

fn ask(tracker: &Connections, facts: &Facts, commit: Option<&Commit>, before: Option<Before>) -> Tracked {
    tracker.track(&Request { zone: 7, facts, before, commit, translate: true, second: 5, effects: true })
}

fn track(tracker: &Connections, tuple: Tuple, commit: Option<&Commit>) -> Tracked {
    ask(tracker, &Facts { tuple, valid: true, ..Facts::default() }, commit, None)
}

fn nat(side: Side, addresses: (u128, u128), ports: Option<(u16, u16)>) -> Commit {
    let nat = Nat { side, addresses: Some(addresses), ports, choice: Choice::Hash };
    Commit { nat: Some(nat), ..Commit::default() }
}

fn state(answer: &Tracked) -> State {
    answer.state.without(State::TRK)
}

#[test]
fn a_source_translation_is_undone_for_replies() {
    let tracker = tracker();
    let out = track(&tracker, CLIENT, Some(&nat(Side::Source, (99, 99), None)));
    assert_eq!(state(&out), State::NEW | State::SNAT);
    let wire = out.translation.unwrap();
    assert_eq!((wire.tuple, wire.source, wire.destination), (Tuple { src: 99, ..CLIENT }, true, false));
    let back = track(&tracker, wire.tuple.reversed(), None);
    assert_eq!(state(&back), State::EST | State::RPL | State::DNAT);
    assert_eq!(back.translation.unwrap().tuple, CLIENT.reversed());
    assert_eq!(tracker.translation(back.link), back.translation);
    assert_eq!(back.original, Some(CLIENT));
}

#[test]
fn a_connection_that_changes_is_translated_as_before_and_one_that_ends_no_more() {
    let tracker = tracker();
    let out = track(&tracker, CLIENT, Some(&nat(Side::Source, (99, 99), None)));
    let wire = out.translation.unwrap();
    let again = track(&tracker, CLIENT, None);
    assert_eq!((state(&again), again.translation), (State::NEW | State::SNAT, out.translation));
    // Another worker's packet makes it established, while one that was asked about before is under way.
    assert!(tracker.step(again.link, 5, || None));
    let back = track(&tracker, wire.tuple.reversed(), None);
    assert_eq!(state(&back), State::EST | State::RPL | State::DNAT);
    assert!(!tracker.step(again.link, 5, || None));
    assert_eq!(tracker.translation(again.link), out.translation);
    tracker.flush(&Filter::default(), 5);
    assert_eq!((tracker.translation(again.link), tracker.translation(back.link)), (None, None));
    // Nor is it that of another connection in its place.
    for port in 0..6000 {
        track(&tracker, Tuple { src_port: port + 1, ..CLIENT }, Some(&nat(Side::Source, (99, 99), None)));
        tracker.flush(&Filter::default(), 5);
        assert_eq!((tracker.translation(again.link), tracker.translation(back.link)), (None, None));
    }
}

#[test]
fn a_destination_translation_is_undone_for_replies() {
    let tracker = tracker();
    let out = track(&tracker, CLIENT, Some(&nat(Side::Destination, (99, 99), Some((8080, 8080)))));
    let wire = out.translation.unwrap();
    assert_eq!((wire.tuple, wire.source), (Tuple { dst: 99, dst_port: 8080, ..CLIENT }, false));
    assert_eq!(state(&out), State::NEW | State::DNAT);
    let back = track(&tracker, wire.tuple.reversed(), None);
    assert_eq!(state(&back), State::EST | State::RPL | State::SNAT);
    assert_eq!(back.translation.unwrap().tuple, CLIENT.reversed());
}

#[test]
fn all_zeros_keep_the_address_and_change_the_port_only_on_a_clash() {
    let tracker = tracker();
    let zero = nat(Side::Source, (0, 0), None);
    let first = track(&tracker, CLIENT, Some(&nat(Side::Source, (99, 99), None)));
    let same = Tuple { src: 99, ..CLIENT };
    assert_eq!(first.translation.unwrap().tuple, same);
    let free = track(&tracker, Tuple { dst_port: 81, ..same }, Some(&zero));
    assert_eq!(free.translation.unwrap().tuple, Tuple { dst_port: 81, ..same }, "nothing is changed");
    let clash = track(&tracker, same, Some(&zero));
    assert_eq!(clash.translation.unwrap().tuple, Tuple { src_port: 40_001, ..same });
    let plain = track(&tracker, Tuple { src_port: 40_001, ..same }, Some(&Commit::default()));
    assert_eq!(plain.refused, Some(Refusal::Clash), "its replies are another's");
}

#[test]
fn a_range_that_is_used_up_is_a_refusal_and_what_ends_is_free_again() {
    let tracker = tracker();
    let commit = nat(Side::Source, (99, 99), Some((5000, 5002)));
    let answers: Vec<_> =
        (0..5).map(|port| track(&tracker, Tuple { src_port: 100 + port, ..CLIENT }, Some(&commit))).collect();
    assert_eq!(answers.iter().filter(|answer| answer.created).count(), 3);
    assert!(answers[3..].iter().all(|answer| answer.refused == Some(Refusal::NatExhausted)));
    assert_eq!(state(&answers[4]), State::NEW, "as Open vSwitch says; the caller drops it");
    assert_eq!(tracker.statistics().refused_nat, 2);
    assert_eq!(tracker.statistics().connections, 3);
    tracker.flush(&Filter::default(), 5);
    assert!(track(&tracker, CLIENT, Some(&commit)).created);
}

#[test]
fn icmp_errors_are_translated_with_what_they_quote() {
    let tracker = tracker();
    let out = track(&tracker, CLIENT, Some(&nat(Side::Source, (99, 99), None)));
    let quoted = out.translation.unwrap().tuple;
    let router =
        Tuple { src: 1234, dst: 99, src_port: 0, dst_port: Tuple::icmp(11, 0), protocol: 1, ..CLIENT };
    let error = |inner| Facts { tuple: router, inner: Some(inner), valid: true, tcp: None };
    let answer = ask(&tracker, &error(quoted), None, None);
    assert_eq!(state(&answer), State::REL | State::RPL | State::DNAT);
    let translation = answer.translation.unwrap();
    assert!(translation.related && translation.destination);
    assert_eq!(translation.tuple.dst, CLIENT.src, "the outer destination");
    assert_eq!(translation.tuple.reversed(), CLIENT, "what is quoted");
    assert!(!tracker.step(answer.link, 5, || None), "never from the cache");
    let nothing = ask(&tracker, &error(Tuple { src_port: 1, ..quoted }), None, None);
    assert_eq!(state(&nothing), State::INV, "about nothing");
    let elsewhere = Facts { tuple: Tuple { dst: 98, ..router }, ..error(quoted) };
    assert_eq!(state(&ask(&tracker, &elsewhere, None, None)), State::INV, "not to who sent what it quotes");
}

#[test]
fn a_second_look_in_the_same_zone_changes_nothing() {
    let tracker = tracker();
    let commit = nat(Side::Source, (99, 99), None);
    let first = track(&tracker, CLIENT, Some(&commit));
    let turned = Facts { tuple: first.translation.unwrap().tuple, valid: true, ..Facts::default() };
    let marked = Commit { mark: Masked { value: 3, mask: 3 }, ..commit };
    let again = ask(&tracker, &turned, Some(&marked), Some(first.before()));
    assert_eq!((again.state, again.translation, again.mark), (first.state, None, 3));
    // Another worker's packet has moved the connection on: the tuple still leads to it.
    track(&tracker, turned.tuple.reversed(), None);
    let later = ask(&tracker, &turned, None, Some(again.before()));
    assert_eq!(later.original, Some(CLIENT));
    assert_eq!(state(&later), State::EST | State::SNAT);
    assert_eq!(tracker.statistics().connections, 1);
}

#[test]
fn a_persistent_client_keeps_its_address_and_a_random_one_does_not() {
    let tracker = tracker();
    let addresses = |choice, base: u16| -> Vec<u128> {
        let nat = Nat { side: Side::Source, addresses: Some((1000, 1999)), ports: None, choice };
        let commit = Commit { nat: Some(nat), ..Commit::default() };
        let one = |port| track(&tracker, Tuple { dst_port: base + port, ..CLIENT }, Some(&commit));
        (0..50).map(|port| one(port).translation.unwrap().tuple.src).collect()
    };
    let persistent = addresses(Choice::Persistent, 100);
    assert!(persistent.iter().all(|&address| address == persistent[0]));
    for (choice, base) in [(Choice::Random, 200), (Choice::Hash, 300)] {
        let mut seen = addresses(choice, base);
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() > 30, "{seen:?}");
    }
}

fn control(tracker: &Connections) -> Tracked {
    let mark = Masked { value: 9, mask: u32::MAX };
    let commit = Commit { helper: Some(Helper::Tftp), mark, ..Commit::default() };
    let parent = Tuple { dst_port: 69, ..CLIENT };
    let answer = track(tracker, parent, Some(&commit));
    assert_eq!(answer.helper, Some(Helper::Tftp));
    answer
}

#[test]
fn an_expected_connection_is_related_once_and_has_its_parents_mark() {
    let tracker = tracker();
    let parent = control(&tracker);
    let data = Tuple { src_port: 3000, dst_port: 40_000, ..CLIENT.reversed() };
    let unknown = track(&tracker, data, None);
    assert!(tracker.step(unknown.link, 5, || None));
    let expected = Expected {
        parent: parent.connection,
        tuple: Tuple { src_port: 0, ..data },
        any_source: false,
        translation: None,
    };
    assert_eq!(tracker.expect(&expected, 5), Ok(()));
    assert_eq!(tracker.expect(&expected, 5), Err(Unexpected::Known));
    assert!(!tracker.step(unknown.link, 5, || None), "what was new is related now");
    let foretold = track(&tracker, data, None);
    assert_eq!((state(&foretold), foretold.mark), (State::NEW | State::REL, 9));
    let commit = Commit { mark: Masked { value: 1, mask: u32::MAX }, ..Commit::default() };
    let first = track(&tracker, data, Some(&commit));
    assert_eq!((state(&first), first.mark, first.original), (State::NEW | State::REL, 9, parent.original));
    let reply = track(&tracker, data.reversed(), None);
    assert_eq!(state(&reply), State::EST | State::REL | State::RPL);
    let other = track(&tracker, Tuple { src_port: 3001, ..data }, None);
    assert_eq!(state(&other), State::NEW, "the expectation is used up");
    assert_eq!((tracker.statistics().expected, tracker.statistics().expectations), (1, 0));
}

#[test]
fn expectations_are_bounded_end_with_their_parent_and_in_time() {
    let tracker = tracker();
    let parent = control(&tracker);
    let expected = |dst_port, any_source| Expected {
        parent: parent.connection,
        tuple: Tuple {
            src: if any_source { 0 } else { CLIENT.dst },
            dst: CLIENT.src,
            src_port: 0,
            dst_port,
            ..CLIENT
        },
        any_source,
        translation: None,
    };
    for port in 0..3 {
        assert_eq!(tracker.expect(&expected(100 + port, port == 1), 5), Ok(()));
    }
    assert_eq!(tracker.expect(&expected(200, false), 5), Err(Unexpected::Full));
    assert_eq!(tracker.statistics().refused_expectations, 1);
    let anyone = Tuple { src: 4444, dst: CLIENT.src, src_port: 1, dst_port: 101, ..CLIENT };
    assert_eq!(state(&track(&tracker, anyone, None)), State::NEW | State::REL);
    assert_eq!(state(&track(&tracker, Tuple { dst_port: 100, ..anyone }, None)), State::NEW);
    tracker.flush(
        &Filter { original: Partial { dst_port: Some(69), ..Default::default() }, ..Filter::default() },
        5,
    );
    assert_eq!(state(&track(&tracker, anyone, None)), State::NEW);
    assert_eq!(tracker.expect(&expected(100, false), 5), Err(Unexpected::NoParent));
    let parent = control(&tracker);
    tracker.expect(&Expected { parent: parent.connection, ..expected(100, false) }, 5).unwrap();
    tracker.expire(400, 0);
    assert_eq!(tracker.statistics().expectations, 0);
}

/// Its connection has ended between two looks at a packet, and what the translation has made of it is another's by now.
#[test]
fn a_translated_packet_whose_tuple_is_anothers_is_refused_at_once() {
    let tracker = tracker();
    let first = track(&tracker, CLIENT, Some(&nat(Side::Source, (99, 99), None)));
    let wire = first.translation.unwrap().tuple;
    assert!(track(&tracker, wire, Some(&nat(Side::Destination, (55, 55), None))).created);
    let original = Partial { src: Some(CLIENT.src), ..Partial::default() };
    assert_eq!(tracker.flush(&Filter { original, ..Filter::default() }, 5), 1);
    let places = tracker.places();
    let facts = Facts { tuple: wire, valid: true, ..Facts::default() };
    let again = ask(&tracker, &facts, Some(&Commit::default()), Some(first.before()));
    assert_eq!((again.refused, again.created), (Some(Refusal::Clash), false));
    assert!(tracker.places() <= places + 1, "it was tried {} times", tracker.places() - places);
    assert_eq!(tracker.statistics().refused_clash, 1);
    // Nor if there is no room in the zone.
    tracker.set_zone_limit(7, ZoneLimit::AtMost(1));
    let again = ask(&tracker, &facts, Some(&Commit::default()), Some(first.before()));
    assert_eq!((again.refused, tracker.statistics().refused_zone), (Some(Refusal::ZoneLimit), 1));
    assert_eq!(tracker.zone_refusals(7), 1, "it was asked once");
}

#[test]
fn what_is_expected_ends_the_links_of_its_own_packets_and_not_those_of_others() {
    let tracker = tracker();
    let control = Tuple { dst_port: 21, ..CLIENT };
    let parent = track(&tracker, control, Some(&Commit { helper: Some(Helper::Tftp), ..Commit::default() }));
    let others: Vec<Link> = (0..500)
        .map(|port| track(&tracker, Tuple { src_port: 30_000 + port, ..CLIENT.reversed() }, None).link)
        .chain((0..500).map(|host| track(&tracker, Tuple { src: 77 + host, ..CLIENT }, None).link))
        .collect();
    let data = Tuple { src_port: 0, dst_port: 4000, ..control.reversed() };
    let own = track(&tracker, Tuple { src_port: 20, ..data }, None).link;
    let holds = |link: &Link| tracker.holds(*link, 5) && tracker.step(*link, 5, || None);
    assert!(others.iter().all(holds) && holds(&own));
    let expected = Expected { parent: parent.connection, tuple: data, any_source: false, translation: None };
    assert_eq!(tracker.expect(&expected, 5), Ok(()));
    assert!(!holds(&own));
    let held = others.iter().filter(|link| holds(link)).count();
    assert!(held >= 998, "{held} of 1000");
}

#[test]
fn an_expected_connection_is_translated_as_its_helper_says() {
    let tracker = tracker();
    let parent = control(&tracker);
    let data = Tuple { src: CLIENT.dst, dst: 99, src_port: 3000, dst_port: 40_000, ..CLIENT };
    let tuple = Tuple { src_port: 0, ..data };
    let translation = Some((Side::Destination, CLIENT.src));
    tracker
        .expect(&Expected { parent: parent.connection, tuple, any_source: false, translation }, 5)
        .unwrap();
    let first = track(&tracker, data, Some(&Commit::default()));
    assert_eq!(state(&first), State::NEW | State::REL | State::DNAT);
    assert_eq!(first.translation.unwrap().tuple, Tuple { dst: CLIENT.src, ..data });
    let reply = track(&tracker, first.translation.unwrap().tuple.reversed(), None);
    assert_eq!(reply.translation.unwrap().tuple, data.reversed());
}

#[test]
fn what_a_helper_remembers_is_kept_with_its_connection_and_no_link_notices() {
    let tracker = tracker();
    let link = control(&tracker).connection;
    tracker.with_stream(link, |stream| stream.skews[1].add(100, 12)).unwrap();
    assert_eq!(tracker.with_stream(link, |stream| stream.skews[1].sent(101)), Some(113));
    assert!(tracker.holds(link, 5));
    tracker.flush(&Filter::default(), 5);
    assert_eq!(tracker.with_stream(link, |_| ()), None);
    let link = control(&tracker).connection;
    assert_eq!(tracker.with_stream(link, |stream| *stream), Some(Stream::default()));
}

fn tuples() -> impl Strategy<Value = Tuple> {
    let protocol = prop::sample::select(vec![6u8, 17, 17, 1, 132]);
    (0u128..6, 0u128..3, 1020u16..1030, 80u16..83, protocol, any::<bool>()).prop_map(
        |(src, dst, src_port, dst_port, protocol, six)| {
            let family = if six && protocol != 1 { Family::V6 } else { Family::V4 };
            let wide = if six { 1 << 96 } else { 0 };
            let (src_port, dst_port) = match protocol {
                1 => (src_port, Tuple::icmp(8, 0)),
                132 => (0, 0),
                _ => (src_port, dst_port),
            };
            Tuple { src: wide + 10 + src, dst: wide + 20 + dst, src_port, dst_port, protocol, family }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_translation_comes_back_and_no_two_are_the_same(
        flows in prop::collection::vec((tuples(), 0usize..6), 1..200),
    ) {
        let tracker = tracker();
        let choices = [
            Commit::default(),
            nat(Side::Source, (99, 99), None),
            nat(Side::Source, (98, 99), Some((1020, 1040))),
            nat(Side::Destination, (20, 22), None),
            nat(Side::Destination, (20, 21), Some((80, 82))),
            nat(Side::Source, (0, 0), None),
        ];
        let mut owners = HashMap::new();
        for (tuple, choice) in flows {
            let tcp = Some(weft_conntrack::Segment { flags: 2, window: 100, ..Default::default() });
            let facts = Facts { tuple, tcp, valid: true, inner: None };
            let answer = ask(&tracker, &facts, choices.get(choice), None);
            if !answer.created {
                continue;
            }
            let wire = answer.translation.map_or(tuple, |translation| translation.tuple);
            for end in [tuple, wire.reversed()] {
                prop_assert_eq!(owners.insert(end, tuple).filter(|owner| *owner != tuple), None);
            }
            let tcp = Some(weft_conntrack::Segment { flags: 0x12, window: 100, ack: 1, ..Default::default() });
            let reply = Facts { tuple: wire.reversed(), tcp, ..facts };
            let back = ask(&tracker, &reply, None, None);
            prop_assert_eq!(back.original, Some(tuple));
            prop_assert!(back.state.has(State::RPL | State::EST));
            let home = back.translation.map_or(reply.tuple, |translation| translation.tuple);
            prop_assert_eq!(home, tuple.reversed());
        }
        for (end, owner) in &owners {
            let facts = Facts { tuple: *end, valid: true, tcp: Some(Default::default()), inner: None };
            prop_assert_eq!(ask(&tracker, &facts, None, None).original, Some(*owner));
            // One look-up finds what a listing does.
            let mut listed = None;
            tracker.list(&Filter::default(), 5, &mut |connection| {
                if connection.original == *end {
                    listed = Some((Direction::Original, *connection));
                } else if connection.reply == *end {
                    listed = Some((Direction::Reply, *connection));
                }
            });
            prop_assert!(listed.is_some());
            prop_assert_eq!(tracker.of_tuple(7, end, 5), listed);
            prop_assert_eq!(tracker.of_tuple(8, end, 5), None);
            prop_assert_eq!(tracker.of_tuple(7, end, u32::MAX), None);
        }
    }
}
