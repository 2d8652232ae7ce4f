//! No packet allocates: neither on a hit, nor on a miss whose path was compiled before.
//!
//! Counted by `allocation-counter`, whose global allocator counts what the calling thread asks for. A worker driven by
//! hand is all that this thread runs while it counts.

use allocation_counter::measure;
use weft_benches::Failure;
use weft_benches::case::{Case, IN};
use weft_benches::frames;
use weft_benches::groups::{self, Protocol};
use weft_benches::switch::Switch;

/// Rounds, of 32 packets each, that are counted.
const ROUNDS: u64 = 1000;
const PER_ROUND: u64 = 32;

const CASES: [Case; 9] = [
    Case::L2,
    Case::Stateful,
    Case::Flood2,
    Case::Push,
    Case::Pop,
    Case::VxlanEncap,
    Case::VxlanDecap,
    Case::GreEncap,
    Case::GreDecap,
];

fn switch(case: Case, frames: Vec<Vec<u8>>) -> Result<Switch, Failure> {
    Switch::new(case, frames::replay(case, frames)?)
}

/// What so many rounds allocate, and how many of their packets missed.
fn count(switch: &mut Switch, rounds: u64) -> (u64, u64) {
    let (misses, mut packets) = (switch.misses(), 0);
    let info = measure(|| packets = (0..rounds).map(|_| switch.round()).sum());
    assert_eq!(
        packets,
        rounds * PER_ROUND,
        "packets in {rounds} rounds, {} of them missed",
        switch.misses() - misses
    );
    (info.count_total, switch.misses() - misses)
}

#[test]
fn the_counter_counts() {
    assert_eq!(measure(|| drop(std::hint::black_box(Box::new(1u64)))).count_total, 1);
}

#[test]
fn a_packet_of_a_cached_flow_allocates_nothing() {
    for case in CASES {
        let mut switch = switch(case, frames::by_tuple(1000, case == Case::Pop)).unwrap();
        // A pool's frames and a cache's places are all in use once.
        count(&mut switch, 100);
        switch.wait(std::time::Duration::from_secs(2));
        assert_eq!(count(&mut switch, ROUNDS), (0, 0), "{case:?}: (allocations, misses)");
        switch.check().unwrap();
    }
}

#[test]
fn a_new_flow_on_a_path_that_was_compiled_before_allocates_nothing() {
    const WARM: u64 = 100;
    for case in CASES {
        // Each packet is a flow of its own, from a station that the FDB has not seen.
        let flows = (WARM + ROUNDS) * PER_ROUND;
        let mut switch = switch(case, frames::by_mac(flows as u32, case == Case::Pop)).unwrap();
        count(&mut switch, WARM);
        assert_eq!(count(&mut switch, ROUNDS), (0, ROUNDS * PER_ROUND), "{case:?}: (allocations, misses)");
        switch.check().unwrap();
    }
}

#[test]
fn a_connection_that_begins_as_others_before_it_allocates_nothing() {
    const WARM: u64 = 100;
    let frames = frames::by_tuple(((WARM + ROUNDS) * PER_ROUND) as u32, false);
    let mut switch = switch(Case::NewConnections, frames).unwrap();
    count(&mut switch, WARM);
    assert_eq!(count(&mut switch, ROUNDS), (0, ROUNDS * PER_ROUND), "(allocations, misses)");
    // All but the very first.
    assert_eq!(switch.counters().begun.get(), (WARM + ROUNDS) * PER_ROUND - 1);
    switch.check().unwrap();
}

#[test]
fn neither_does_one_between_two_ports_of_security_groups() {
    const WARM: u64 = 100;
    // Servers listen on so many ports, each of which the rules know.
    const KINDS: u64 = 16;
    let connections = (WARM + ROUNDS) * PER_ROUND;
    let [_, frames] = groups::talk(IN, connections as u32, Protocol::Udp);
    let mut switch = switch(Case::NewGroups, frames).unwrap();
    // So many rules are looked at by a sweep, and not by the walk that comes there first.
    count(&mut switch, 1);
    // The other port has said who is there, and is idle by then: nobody's walks are limited.
    std::thread::sleep(std::time::Duration::from_millis(20));
    switch.maintain();
    count(&mut switch, WARM - 1);
    assert_eq!(count(&mut switch, ROUNDS), (0, ROUNDS * PER_ROUND), "(allocations, misses)");
    assert_eq!(switch.counters().begun.get(), connections - PER_ROUND - KINDS);
    switch.check().unwrap();
}
