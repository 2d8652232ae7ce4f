//! The FDB, which only misses meet.

use std::hint::black_box;
use std::sync::Arc;

use criterion::BatchSize;
use weft_benches::case::{IN, OUT, VLAN};
use weft_benches::switch::FDB_LIMIT;
use weft_core::epoch::Epochs;
use weft_core::fdb::{Fdb, Flush};
use weft_wire::Mac;

use crate::Criterion;

const SECRET: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f];

fn mac(number: u64) -> Mac {
    Mac::from_u64(0x0210_0000_0000 + number)
}

pub fn bench(criterion: &mut Criterion) {
    let epochs = Arc::new(Epochs::new().expect("memory for epochs"));
    let fdb = Fdb::new(&epochs, FDB_LIMIT, SECRET).expect("memory for an FDB");
    let mut group = criterion.benchmark_group("fdb");
    for stations in [1_000u64, 100_000] {
        (0..stations).for_each(|number| {
            fdb.learn(VLAN, mac(number), IN, 1);
        });
        let mut number = 0;
        let mut next = move || {
            // A prime step: neighbours in the order of learning are not asked for in a row.
            number = (number + 7919) % stations;
            mac(number)
        };
        group.bench_function(format!("lookup, known, {stations} stations"), |bench| {
            bench.iter(|| fdb.lookup(VLAN, black_box(next())));
        });
        group.bench_function(format!("learn, known, {stations} stations"), |bench| {
            bench.iter(|| fdb.learn(VLAN, black_box(next()), IN, 1));
        });
    }
    group.bench_function("lookup, unknown", |bench| {
        bench.iter(|| fdb.lookup(VLAN, black_box(mac(u64::from(u32::MAX)))));
    });
    fdb.flush(Flush::default());
    group.bench_function("learn, new, 1000 stations", |bench| {
        bench.iter_batched(
            || fdb.flush(Flush::default()),
            |_| {
                for number in 0..1000 {
                    black_box(fdb.learn(VLAN, mac(number), IN, 1));
                }
            },
            BatchSize::PerIteration,
        );
    });
    let mut turn = false;
    group.bench_function("learn, moved", |bench| {
        bench.iter(|| {
            turn = !turn;
            fdb.learn(VLAN, mac(0), if turn { IN } else { OUT }, 1)
        });
    });
    group.finish();
}
