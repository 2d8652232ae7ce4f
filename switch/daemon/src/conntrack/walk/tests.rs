//! Walks over a table that changes, and how long one turn of them takes when the table is full.

use std::time::{Duration, Instant};

use weft_conntrack::{Commit, Facts, Family, Request, Settings, Tuple};

use super::*;

/// UDP connections, half of them in zone 1.
fn table(connections: u32) -> Connections {
    let table =
        Connections::new(Settings { max: connections + 10, secret: [1, 2], ..Settings::default() }).unwrap();
    for at in 0..connections {
        let tuple = Tuple {
            src: 0x0a00_0000 + u128::from(at >> 12),
            dst: 0x0b00_0000,
            src_port: 1 + (at & 0xfff) as u16,
            dst_port: 53,
            protocol: 17,
            family: Family::V4,
        };
        let facts = Facts { tuple, tcp: None, inner: None, valid: true };
        let request = Request {
            zone: (at % 2) as u16,
            facts: &facts,
            before: None,
            commit: Some(&Commit::default()),
            translate: false,
            second: 10,
            effects: true,
        };
        assert!(table.track(&request).created, "{at}");
    }
    table
}

/// The answer, and in how many turns it came.
fn ended(walk: Box<Walk>, table: &Connections) -> (ConntrackReply, usize) {
    let (mut walk, mut turns) = (walk, 1);
    loop {
        match walk.go_on(table, 11) {
            Ok(reply) => return (reply, turns),
            Err(rest) => (walk, turns) = (rest, turns + 1),
        }
    }
}

fn zone(zone: u16) -> Filter {
    Filter { zone: Some(zone), ..Filter::default() }
}

#[test]
fn a_listing_comes_in_pages_and_says_how_many_it_leaves_out() {
    let table = table(20_000);
    let (mut left, mut from, mut seen) = (5000, 0, std::collections::BTreeSet::new());
    loop {
        let (reply, _) = ended(Walk::list(zone(1), left, from), &table);
        let ConntrackReply::Connections { connections, more, next } = reply else { panic!("{reply:?}") };
        assert!(connections.len() <= 1024 && connections.iter().all(|connection| connection.zone == 1));
        left -= connections.len() as u32;
        seen.extend(connections.into_iter().map(|connection| connection.text));
        let Some(next) = next else {
            assert_eq!((seen.len(), left, more), (5000, 0, 5000));
            break;
        };
        assert_eq!(more, 0);
        from = next;
    }
    for (limit, from) in [(10, u64::MAX), (0, 0), (u32::MAX, 1 << 40)] {
        let (reply, _) = ended(Walk::list(zone(7), limit, from), &table);
        assert_eq!(reply, ConntrackReply::Connections { connections: Vec::new(), more: 0, next: None });
    }
}

#[test]
fn a_turn_looks_at_a_piece_of_the_table_and_no_more() {
    let table = table(50_000);
    let pieces = table.places().div_ceil(PIECE);
    let (reply, turns) = ended(Walk::count(Filter::default()), &table);
    let ConntrackReply::Counted(count) = reply else { panic!("{reply:?}") };
    assert_eq!((count.connections, count.zones.len(), turns), (50_000, 2, pieces));
    assert_eq!(ended(Walk::list(zone(5), 10, 0), &table).1, pieces);
    let (reply, turns) = ended(Walk::flush(zone(0)), &table);
    assert_eq!((reply, turns), (ConntrackReply::Flushed { connections: 25_000 }, pieces));
    assert_eq!(
        ended(Walk::flush(Filter::default()), &table).0,
        ConntrackReply::Flushed { connections: 25_000 }
    );
}

/// Takes a gigabyte and some seconds; `cargo test --release -p weft-daemon -- --ignored --nocapture turn_of_a_full_table`.
#[test]
#[ignore = "takes 1 GiB"]
fn a_turn_of_a_full_table_takes_some_milliseconds() {
    let table = table(4_000_000);
    for (name, walk) in [
        ("count", Walk::count(Filter::default())),
        ("list, nothing found", Walk::list(zone(7), 10, 0)),
        ("list, a page", Walk::list(Filter::default(), 10_000, 0)),
        ("flush", Walk::flush(zone(0))),
    ] {
        let (mut walk, mut turns, start) = (Some(walk), Vec::new(), Instant::now());
        while let Some(going) = walk.take() {
            let turn = Instant::now();
            walk = going.go_on(&table, 11).err();
            turns.push(turn.elapsed());
        }
        turns.sort();
        let (median, most) = (turns[turns.len() / 2], turns[turns.len() - 1]);
        println!(
            "{name}: {:?} in {} turns: median {median:?}, longest {most:?}",
            start.elapsed(),
            turns.len()
        );
        assert!(median < Duration::from_millis(10), "{name}: {median:?}");
    }
}
