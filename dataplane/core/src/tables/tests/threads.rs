//! Readers and writers at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use weft_flow::{Fields, Subfield};

use super::*;

const RULES: u16 = 500;

/// Rules that all output to the same port.
fn generation(number: u16) -> Vec<FlowMod> {
    (0..RULES).map(|dst| flow(dst, dst.into(), number)).collect()
}

fn packet(dst: u16) -> Fields {
    let mut fields = Fields::default();
    Subfield::whole(Field::EthType).set(&mut fields, 0x0800);
    Subfield::whole(Field::IpDst).set(&mut fields, dst.into());
    fields
}

fn output_of(root: &Tables, dst: u16) -> Option<u16> {
    let hit = root.lookup(TableId::FIRST, &mut packet(dst));
    hit.rule.and_then(|rule| match &*rule.actions {
        [Action::Output(port)] => Some(port.0),
        _ => None,
    })
}

#[test]
fn who_looks_up_while_all_rules_are_replaced_sees_whole_bundles_only() {
    let tables = FlowTables::new();
    tables.replace(Extent::Users, &generation(1), at(0)).unwrap().commit();
    let done = Arc::new(AtomicBool::new(false));
    let reader = |first: u16| {
        let (tables, done) = (Arc::clone(&tables), Arc::clone(&done));
        std::thread::spawn(move || {
            let (mut last, mut looks) = (1, 0_u64);
            while !done.load(Ordering::Relaxed) {
                let version = tables.version();
                let root = tables.load();
                assert!(root.version >= version, "a version that is seen can be loaded");
                let seen: Vec<_> =
                    (0..RULES).step_by(7).map(|dst| output_of(&root, (dst + first) % RULES)).collect();
                let generation = seen[0].unwrap();
                assert!(seen.iter().all(|output| *output == Some(generation)), "{seen:?}");
                assert!(generation >= last, "{generation} after {last}");
                last = generation;
                looks += 1;
            }
            looks
        })
    };
    let readers = [reader(0), reader(3)];
    for number in 2..60 {
        let outcome = tables.replace(Extent::Users, &generation(number), at(number.into())).unwrap().commit();
        assert_eq!(outcome.replaced, usize::from(RULES));
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
}

#[test]
fn two_workers_that_learn_at_once_never_make_a_rule_twice() {
    let tables = FlowTables::new();
    // Something that reads and outputs alike, so that what is learned widens nothing.
    change(&tables, FlowMod { cookie: Some(1), ..flow(9, 9999, 1) }).unwrap();
    let made = Arc::new(AtomicUsize::new(0));
    let worker = |_| {
        let (tables, made) = (Arc::clone(&tables), Arc::clone(&made));
        std::thread::spawn(move || {
            for dst in 0..2000_u16 {
                // Until somebody has made it, as packets would.
                loop {
                    match tables.learn(&flow(1, dst.into(), 1), 1500, at(1)) {
                        LearnResult::Made => made.fetch_add(1, Ordering::Relaxed),
                        LearnResult::Busy => continue,
                        LearnResult::Refreshed | LearnResult::Full => break,
                    };
                }
            }
        })
    };
    let workers: Vec<_> = (0..2).map(worker).collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert_eq!((made.load(Ordering::Relaxed), tables.load().len()), (1500, 1501));
    assert_eq!(tables.version(), 1502);
    let distinct: std::collections::HashSet<_> =
        tables.load().tables().flat_map(|table| table.rules()).map(|rule| rule.matches.clone()).collect();
    assert_eq!(distinct.len(), 1501);
}

#[test]
fn counters_that_many_threads_add_to_are_exact_across_modifications() {
    let tables = FlowTables::new();
    change(&tables, flow(1, 1, 1)).unwrap();
    let worker = |_| {
        let tables = Arc::clone(&tables);
        std::thread::spawn(move || {
            for _ in 0..1000 {
                // Programs hold a rule for a while.
                let held = rule(&tables, &flow(1, 1, 1)).unwrap();
                (0..20).for_each(|_| held.count(1, 60, at(5)));
            }
        })
    };
    let workers: Vec<_> = (0..3).map(worker).collect();
    for output in 2..200 {
        change(&tables, with(FlowCommand::ModifyStrict, flow(1, 1, output))).unwrap();
    }
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    let stats = rule(&tables, &flow(1, 1, 1)).unwrap().stats();
    assert_eq!((stats.packets, stats.bytes), (60_000, 3_600_000));
}

#[test]
fn a_root_that_a_worker_holds_is_freed_by_the_writer_and_never_by_the_worker() {
    let tables = FlowTables::new();
    change(&tables, flow(1, 1, 1)).unwrap();
    let held = arc_swap::Guard::into_inner(tables.load());
    for output in 2..50 {
        change(&tables, flow(1, 1, output)).unwrap();
    }
    let retired = || tables.writer.lock().unwrap().retired.len();
    assert_eq!((retired(), Arc::strong_count(&held)), (1, 2));
    drop(held);
    assert_eq!(retired(), 1);
    tables.expire(at(1));
    assert_eq!(retired(), 0);
}
