//! The table: what it learns, forgets and gives up, by examples and against a plain map.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

fn fdb(limit: u32) -> (Arc<Epochs>, Fdb) {
    let epochs = Arc::new(Epochs::new().unwrap());
    let fdb = Fdb::new(&epochs, limit, [0x1234_5678_9abc_def1, 0xfedc_ba98_7654_3211]).unwrap();
    (epochs, fdb)
}

fn vid(number: u16) -> Vid {
    Vid::new(number).unwrap()
}

const A: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
const B: Mac = Mac([2, 0, 0, 0, 0, 0xb]);

#[test]
fn a_decision_on_an_absent_address_falls_when_it_is_learned() {
    let (epochs, fdb) = fdb(100);
    let Lookup::Absent(dep) = fdb.lookup(vid(1), A) else { panic!("an empty table knows {A}") };
    assert!(epochs.holds(dep));
    fdb.learn(vid(1), A, PortId(1), 0);
    assert!(!epochs.holds(dep));
    assert!(matches!(fdb.lookup(vid(2), A), Lookup::Absent(_)));
}

#[test]
fn a_move_is_counted_and_ends_what_depended_on_the_old_place() {
    let (epochs, fdb) = fdb(100);
    let first = fdb.learn(vid(1), A, PortId(1), 0);
    assert!(matches!(first, Learned::New(_)));
    assert_eq!(fdb.learn(vid(1), A, PortId(1), 5), Learned::Known(first.dep()));
    assert!(epochs.holds(first.dep()));
    assert!(matches!(fdb.learn(vid(1), A, PortId(2), 6), Learned::Moved(PortId(1), _)));
    assert!(!epochs.holds(first.dep()));
    let entry = fdb.entries()[0];
    assert_eq!((entry.port, entry.moves, entry.seen, fdb.stats().moved), (PortId(2), 1, 6, 1));
}

#[test]
fn a_static_entry_neither_moves_nor_ages_nor_makes_room() {
    let (_, fdb) = fdb(2);
    fdb.insert_static(vid(1), A, PortId(1), 0);
    assert!(matches!(fdb.learn(vid(1), A, PortId(2), 1), Learned::Pinned(_)));
    fdb.learn(vid(1), B, PortId(2), 1);
    fdb.learn(vid(2), B, PortId(2), 2);
    assert!(matches!(fdb.lookup(vid(1), A), Lookup::Found(PortId(1), _)));
    assert_eq!(fdb.expire(1000, 300), 1);
    assert_eq!(fdb.flush(Flush::default()), 0);
    assert_eq!(fdb.flush(Flush { statics: true, ..Flush::default() }), 1);
    assert_eq!(fdb.stats().entries, 0);
}

#[test]
fn ageing_counts_from_the_last_sight() {
    let (_, fdb) = fdb(10);
    fdb.learn(vid(1), A, PortId(1), 10);
    fdb.learn(vid(1), B, PortId(1), 10);
    fdb.learn(vid(1), A, PortId(1), 200);
    assert_eq!(fdb.expire(310, 300), 1);
    assert!(matches!(fdb.lookup(vid(1), A), Lookup::Found(..)));
    assert!(matches!(fdb.lookup(vid(1), B), Lookup::Absent(_)));
}

#[test]
fn a_full_table_takes_from_the_port_that_has_most() {
    let (_, fdb) = fdb(100);
    for number in 0..10u8 {
        fdb.learn(vid(1), Mac([2, 0, 0, 0, 1, number]), PortId(1), 0);
    }
    for number in 0..1000u16 {
        let [high, low] = number.to_be_bytes();
        fdb.learn(vid(1), Mac([2, 0, 0, 1, high, low]), PortId(2), 100 + u32::from(number));
    }
    let of_the_quiet_port = fdb.entries().iter().filter(|entry| entry.port == PortId(1)).count();
    assert_eq!((of_the_quiet_port, fdb.stats().entries), (10, 100));
}

#[test]
fn a_port_at_its_limit_learns_nothing_until_it_has_room_again() {
    let (epochs, fdb) = fdb(100);
    let mac = |number| Mac([2, 0, 0, 0, 1, number]);
    fdb.set_port_limit(PortId(1), Some(3));
    fdb.insert_static(vid(1), A, PortId(1), 0);
    let learned = |number| fdb.learn(vid(1), mac(number), PortId(1), number.into());
    assert!((0..3).all(|number| matches!(learned(number), Learned::New(_))));
    let Learned::Refused(dep) = learned(3) else { panic!("a fourth address is learned") };
    fdb.learn(vid(1), B, PortId(2), 0);
    assert!(matches!(fdb.learn(vid(1), B, PortId(1), 1), Learned::Refused(_)), "nor does it get another's");
    assert!(matches!(learned(1), Learned::Known(_)));
    assert!(epochs.holds(dep));
    let share = fdb.shares().into_iter().find(|share| share.port == PortId(1)).unwrap();
    assert_eq!((share.entries, share.learned, share.limit, share.refused), (4, 3, Some(3), 2));
    assert!(fdb.remove(vid(1), mac(0)));
    assert!(!epochs.holds(dep), "whoever was refused asks again");
    assert!(matches!(learned(3), Learned::New(_)));
    let Learned::Refused(dep) = learned(4) else { panic!("a fourth address is learned") };
    fdb.set_port_limit(PortId(1), None);
    assert!(!epochs.holds(dep));
    assert!(matches!(learned(4), Learned::New(_)));
    // Another one takes an address over: that is room, too.
    fdb.set_port_limit(PortId(1), Some(1));
    fdb.learn(vid(1), mac(4), PortId(2), 9);
    assert!(matches!(learned(5), Learned::Refused(_)), "it keeps those that it has");
}

#[test]
fn what_a_publication_has_flushed_is_not_learned_again_by_an_older_snapshot() {
    let (_, fdb) = fdb(100);
    let sight = |generation| Sight { port: PortId(1), second: 1, generation };
    fdb.learn_by(vid(1), A, sight(6));
    fdb.learn_by(vid(1), B, Sight { port: PortId(2), ..sight(6) });
    assert_eq!(fdb.flush_for(7, Flush { port: Some(PortId(1)), ..Flush::default() }), 1);
    assert!(matches!(fdb.learn_by(vid(1), A, sight(6)), Learned::Outdated(_)));
    assert!(matches!(fdb.learn_by(vid(1), B, sight(6)), Learned::Outdated(_)));
    assert_eq!(fdb.entries().len(), 1);
    assert!(matches!(fdb.learn_by(vid(1), A, sight(7)), Learned::New(_)));
}

#[test]
fn flushes_take_what_they_name() {
    let (_, fdb) = fdb(100);
    for (number, port) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
        fdb.learn(vid(number), Mac([2, 0, 0, 0, port, number as u8]), PortId(port.into()), 0);
    }
    assert_eq!(fdb.flush(Flush { port: Some(PortId(1)), vid: Some(vid(1)), statics: false }), 1);
    assert_eq!(fdb.flush(Flush { vid: Some(vid(2)), ..Flush::default() }), 2);
    assert_eq!(fdb.flush(Flush { port: Some(PortId(2)), ..Flush::default() }), 1);
}

#[test]
fn two_threads_that_learn_and_look_up_never_meet_a_half_written_entry() {
    let (_, fdb) = fdb(8);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..20_000u32 {
                let number = (round % 64) as u8;
                fdb.learn(
                    vid(u16::from(number)),
                    Mac([2, 0, 0, 0, 0, number]),
                    PortId(u16::from(number)),
                    round,
                );
            }
        });
        for round in 0..200_000u32 {
            let number = (round % 64) as u8;
            if let Lookup::Found(port, _) = fdb.lookup(vid(u16::from(number)), Mac([2, 0, 0, 0, 0, number])) {
                assert_eq!(port.0, u16::from(number));
            }
        }
    });
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_plain_map(
        limit in proptest::option::of(1..10u32),
        steps in proptest::collection::vec((0..5u8, 0..4u16, 0..20u8, 0..4u16), 1..300)
    ) {
        let (_, fdb) = fdb(1000);
        fdb.set_port_limit(PortId(3), limit);
        let mut oracle: HashMap<(u16, u8), u16> = HashMap::new();
        for (second, (step, number, mac, port)) in steps.into_iter().enumerate() {
            let address = Mac([2, 0, 0, 0, 0, mac]);
            match step {
                0..3 => {
                    let learned = fdb.learn(vid(number), address, PortId(port), second as u32);
                    let has = oracle.values().filter(|&&known| known == 3).count() as u32;
                    let known = oracle.get(&(number, mac)) == Some(&port);
                    let refused = port == 3 && !known && limit.is_some_and(|limit| has >= limit);
                    prop_assert_eq!(matches!(learned, Learned::Refused(_)), refused);
                    if !refused {
                        oracle.insert((number, mac), port);
                    }
                }
                3 => prop_assert_eq!(fdb.remove(vid(number), address), oracle.remove(&(number, mac)).is_some()),
                _ => {
                    fdb.flush(Flush { port: Some(PortId(port)), ..Flush::default() });
                    oracle.retain(|_, known| *known != port);
                }
            }
            let found = match fdb.lookup(vid(number), address) {
                Lookup::Found(port, _) => Some(port.0),
                Lookup::Absent(_) => None,
            };
            prop_assert_eq!(found, oracle.get(&(number, mac)).copied());
        }
        prop_assert_eq!(fdb.stats().entries as usize, oracle.len());
    }
}
