use std::collections::HashMap;

use proptest::prelude::*;
use weft_io::FrameCache;

use super::*;
use crate::crafted::{self, Form, Kind, SIMPLE, cut, forms, fragment, frames, header_len};

const SMALL: Settings = Settings {
    fragments: 12,
    fragments_per_ingress: 8,
    packets: 4,
    fragments_per_packet: 5,
    least_v4: 400,
    least_v6: 400,
    age: Duration::from_secs(15),
};
const HERE: Origin = Origin { ingress: Ingress::port(PortId(1)), scope: [7, 0] };
const NOW: Duration = Duration::from_secs(100);

fn put(
    fragments: &mut Fragments<usize>,
    cache: &mut FrameCache,
    octets: &[u8],
    context: usize,
) -> Outcome<usize> {
    let packet = crafted::packet(cache, octets, 300);
    fragments.put(packet, context, HERE, NOW)
}

/// Why it is refused, if it is.
fn refusal(fragments: &mut Fragments<usize>, octets: &[u8]) -> Option<DropReason> {
    let mut cache = frames();
    match put(fragments, &mut cache, octets, 0) {
        Outcome::Refused(packet, _, reason) => {
            cache.free(packet);
            Some(reason)
        }
        _ => {
            while let Some((packet, _)) = fragments.drain() {
                cache.free(packet);
            }
            None
        }
    }
}

/// A permutation of that many numbers.
fn order(count: usize) -> impl Strategy<Value = Vec<usize>> {
    Just((0..count).collect::<Vec<usize>>()).prop_shuffle()
}

proptest! {
    #[test]
    fn fragments_in_any_order_are_what_their_whole_packet_is(
        form in forms(), payload in prop::collection::vec(any::<u8>(), 2600..4000), order in order(4), wrong: bool,
        cuts in (50..60usize, 110..130usize, 200..240usize),
    ) {
        let mut cache = frames();
        let mut fragments = Fragments::new(SMALL);
        let mut whole_packet = crafted::frame(&form, &payload);
        let mut pieces = cut(&form, &payload, &[cuts.0 * 8, cuts.1 * 8, cuts.2 * 8]);
        if wrong {
            *whole_packet.last_mut().unwrap() ^= 1;
            *pieces[3].last_mut().unwrap() ^= 1;
        }
        let mut whole = None;
        for (number, &index) in order.iter().enumerate() {
            match put(&mut fragments, &mut cache, &pieces[index], index) {
                Outcome::Held => prop_assert!(number < 3),
                Outcome::Whole(found) => whole = Some(found),
                Outcome::Refused(_, _, reason) => panic!("{reason}"),
            }
        }
        let whole = whole.unwrap();
        let (_, expected) = {
            let packet = crafted::packet(&mut cache, &whole_packet, 300);
            let expected = facts::facts(&packet).unwrap();
            (cache.free(packet), expected)
        };
        prop_assert_eq!(expected.valid, !wrong);
        // Of a whole, nothing is summed up.
        prop_assert_eq!(whole.facts, Facts { valid: true, ..expected });
        let has_pseudo = crafted::ip(&form, &payload).len() - header_len(&form);
        prop_assert_eq!(whole.len, has_pseudo);
        for &index in &order {
            let (packet, context) = fragments.take(&whole).unwrap();
            prop_assert_eq!(context, index);
            prop_assert_eq!(&crafted::octets(&mut cache, packet), &pieces[index]);
        }
        prop_assert!(fragments.take(&whole).is_none());
        prop_assert_eq!(fragments.statistics(), Statistics { accepted: 4, completed: 1, ..Statistics::default() });
    }

    #[test]
    fn any_octets_are_refused_or_held(
        octets in prop::collection::vec(any::<u8>(), 0..700), form in forms(), lead in 0..70usize, more: bool, start in 0..8192usize,
    ) {
        let like = fragment(&form, &[], (start * 8, start * 8 + 480), more, 1);
        let lead = lead.min(octets.len());
        let octets = [&like[..lead], &octets[lead..]].concat();
        let mut fragments = Fragments::new(Settings { least_v4: 0, ..SMALL });
        refusal(&mut fragments, &octets);
        prop_assert_eq!(fragments.statistics().held, 0);
    }
}

/// What may be done to a table.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A fragment: ingress, identification, start and end in units of 400 octets, whether it is the last.
    Put(u16, u32, usize, usize, bool),
    /// So many seconds pass.
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let put = (0..3u16, 0..3u32, 0..6usize, 1..3usize, prop::bool::weighted(0.3)).prop_map(
        |(ingress, id, start, len, is_last)| {
            Step::Put(ingress, id, start.max(usize::from(is_last)), len, is_last)
        },
    );
    let step = prop_oneof![20 => put, 1 => (1..20u64).prop_map(Step::Wait)];
    prop::collection::vec(step, 0..120)
}

/// The units that a fragment covers, and whether it is the last.
type Units = (Vec<usize>, bool);

/// A naive table: each packet's fragments, as units that they cover.
#[derive(Default)]
struct Model {
    packets: HashMap<(u16, u32), (u64, Vec<Units>)>,
    second: u64,
}

#[derive(PartialEq, Eq, Debug)]
enum Expected {
    Held,
    Whole(usize),
    Refused(DropReason),
}

impl Model {
    fn held(&self, of: Option<u16>) -> usize {
        let counted = self.packets.iter().filter(|((ingress, _), _)| of.is_none_or(|of| of == *ingress));
        counted.map(|(_, (_, fragments))| fragments.len()).sum()
    }

    fn put(&mut self, key: (u16, u32), units: Vec<usize>, is_last: bool) -> Expected {
        let there = self.packets.get(&key);
        if let Some((_, fragments)) = there {
            if fragments.iter().any(|(others, _)| others.iter().any(|unit| units.contains(unit))) {
                return Expected::Refused(DropReason::FragmentOverlap);
            }
            let top = units.iter().max();
            let last = fragments.iter().find(|(_, is_last)| *is_last);
            let beyond = match last {
                Some((last, _)) => is_last || top > last.iter().max(),
                None => is_last && fragments.iter().any(|(others, _)| others.iter().max() > top),
            };
            if beyond {
                return Expected::Refused(DropReason::FragmentMalformed);
            }
            if fragments.len() == 5 {
                return Expected::Refused(DropReason::FragmentTooMany);
            }
        }
        let full = there.is_none() && self.packets.len() == 4;
        if self.held(None) == 12 || self.held(Some(key.0)) == 8 || full {
            return Expected::Refused(DropReason::FragmentLimit);
        }
        let second = self.second;
        let (_, fragments) = self.packets.entry(key).or_insert((second + 15, Vec::new()));
        fragments.push((units, is_last));
        let end = fragments.iter().find(|(_, is_last)| *is_last).and_then(|(units, _)| units.iter().max());
        let covered = |unit: usize| fragments.iter().any(|(units, _)| units.contains(&unit));
        match end {
            Some(&end) if (0..=end).all(covered) => {
                Expected::Whole(self.packets.remove(&key).map_or(0, |(_, fragments)| fragments.len()))
            }
            _ => Expected::Held,
        }
    }
}

proptest! {
    #[test]
    fn it_does_what_the_naive_table_does_and_no_packet_is_lost(steps in steps()) {
        let mut cache = frames();
        let (mut fragments, mut model) = (Fragments::new(SMALL), Model::default());
        let (mut given, mut back) = (0, 0);
        for step in steps {
            match step {
                Step::Wait(seconds) => {
                    model.second += seconds;
                    let second = model.second;
                    let before = model.held(None);
                    model.packets.retain(|_, (deadline, _)| *deadline > second);
                    let mut expired = 0;
                    while let Some((packet, ())) = fragments.take_expired(Duration::from_secs(second)) {
                        cache.free(packet);
                        expired += 1;
                    }
                    prop_assert_eq!(expired, before - model.held(None));
                    back += expired;
                }
                Step::Put(port, id, start, len, is_last) => {
                    let range = (start * 400, (start + len) * 400);
                    let packet = crafted::packet(&mut cache, &fragment(&SIMPLE, &[], range, !is_last, id), 90);
                    let origin = Origin { ingress: Ingress::port(PortId(port)), scope: [0; 2] };
                    given += 1;
                    let found = match fragments.put(packet, (), origin, Duration::from_secs(model.second)) {
                        Outcome::Held => Expected::Held,
                        Outcome::Refused(packet, (), reason) => {
                            cache.free(packet);
                            back += 1;
                            Expected::Refused(reason)
                        }
                        Outcome::Whole(whole) => {
                            let mut count = 0;
                            while let Some((packet, ())) = fragments.take(&whole) {
                                cache.free(packet);
                                count += 1;
                            }
                            back += count;
                            Expected::Whole(count)
                        }
                    };
                    prop_assert_eq!(found, model.put((port, id), (start..start + len).collect(), is_last));
                }
            }
            let statistics = fragments.statistics();
            prop_assert_eq!((statistics.held, statistics.packets), (model.held(None), model.packets.len()));
        }
        while let Some((packet, ())) = fragments.drain() {
            cache.free(packet);
            back += 1;
        }
        prop_assert_eq!(given, back);
        prop_assert!(fragments.by_ingress.iter().all(|&held| held == 0));
        prop_assert!(fragments.buckets.iter().all(|&place| place == NONE));
    }
}

#[test]
fn what_is_not_the_last_has_a_least_size() {
    let mut fragments = Fragments::new(Settings { least_v4: 1200, least_v6: 1280, ..SMALL });
    for (six, header, least) in [(false, 20, 1200), (true, 48, 1280)] {
        let form = Form { six, kind: Kind::Udp, ..SIMPLE };
        let enough = (least - header as usize).next_multiple_of(8);
        let mut of = |len, more| refusal(&mut fragments, &fragment(&form, &[], (0, len), more, 1));
        assert_eq!(of(enough, true), None);
        assert_eq!(of(enough - 8, true), Some(DropReason::FragmentTooSmall));
    }
    let last = fragment(&SIMPLE, &[], (800, 801), false, 1);
    assert_eq!(refusal(&mut fragments, &last), None, "a last one may be small");
}

#[test]
fn what_contradicts_itself_is_malformed() {
    let mut fragments = Fragments::new(SMALL);
    let mut of = |octets: &[u8]| refusal(&mut fragments, octets);
    for six in [false, true] {
        let form = Form { six, ..SIMPLE };
        let piece = |range, more| fragment(&form, &[], range, more, 1);
        assert_eq!(of(&piece((400, 804), true)), Some(DropReason::FragmentMalformed), "no multiple of 8");
        assert_eq!(of(&piece((400, 400), false)), Some(DropReason::FragmentMalformed), "nothing");
        assert_eq!(of(&piece((65_528, 65_528 + 80), false)), Some(DropReason::FragmentMalformed), "endless");
        assert_eq!(of(&piece((0, 800), true)), None);
        assert_eq!(of(&crafted::frame(&form, b"whole")), Some(DropReason::FragmentMalformed));
    }
    let mut wrong = fragment(&SIMPLE, &[], (0, 800), true, 1);
    wrong[24] ^= 1;
    assert_eq!(of(&wrong), Some(DropReason::FragmentMalformed), "a wrong checksum");
}

#[test]
fn fragments_from_different_places_are_of_different_packets() {
    let mut cache = frames();
    let mut fragments = Fragments::new(SMALL);
    let pieces = cut(&SIMPLE, &[7; 1000], &[480]);
    let others =
        [HERE, Origin { scope: [7, 1], ..HERE }, Origin { ingress: Ingress::vtep(VtepId(1)), ..HERE }];
    for (index, origin) in others.into_iter().enumerate() {
        let packet = crafted::packet(&mut cache, &pieces[0], 90);
        assert!(matches!(fragments.put(packet, index, origin, NOW), Outcome::Held));
    }
    let packet = crafted::packet(&mut cache, &pieces[1], 90);
    let Outcome::Whole(whole) = fragments.put(packet, 9, others[2], NOW) else { panic!("not whole") };
    let taken: Vec<usize> = std::iter::from_fn(|| fragments.take(&whole))
        .map(|(packet, context)| {
            cache.free(packet);
            context
        })
        .collect();
    assert_eq!(taken, [2, 9]);
    while let Some((packet, _)) = fragments.drain() {
        cache.free(packet);
    }
}

#[test]
fn a_fragment_that_comes_too_late_starts_anew() {
    let mut cache = frames();
    let mut fragments = Fragments::new(SMALL);
    let pieces = cut(&SIMPLE, &[7; 1000], &[480]);
    let mut put = |fragments: &mut Fragments<usize>, index: usize, now| {
        let packet = crafted::packet(&mut cache, &pieces[index], 90);
        fragments.put(packet, index, HERE, now)
    };
    assert!(matches!(put(&mut fragments, 0, NOW), Outcome::Held));
    assert!(matches!(put(&mut fragments, 1, NOW + SMALL.age), Outcome::Held), "the first is too old");
    assert!(matches!(put(&mut fragments, 0, NOW + SMALL.age), Outcome::Whole(_)));
    let (old, context) = fragments.take_expired(NOW + SMALL.age).unwrap();
    cache.free(old);
    assert_eq!((context, fragments.statistics().held), (0, 2));
    while let Some((packet, _)) = fragments.drain() {
        cache.free(packet);
    }
}

#[test]
fn limits_are_within_bounds() {
    let wild = Settings {
        fragments: 0,
        fragments_per_ingress: 9,
        packets: 9,
        fragments_per_packet: 0,
        least_v4: 1,
        least_v6: 9000,
        age: Duration::ZERO,
    };
    let bounded = wild.bounded();
    assert_eq!((bounded.fragments, bounded.fragments_per_ingress, bounded.packets), (1, 1, 1));
    assert_eq!((bounded.least_v4, bounded.least_v6), (400, 9000));
    assert_eq!(Settings::default().bounded(), Settings::default());
    assert_eq!(Settings { fragments: u16::MAX, ..wild }.bounded().fragments, 5000);
}
