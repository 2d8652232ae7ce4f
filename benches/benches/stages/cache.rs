//! Phase *probe*, and the comparison of keys in *act*: bursts of hits among so many flows, in random order.

use std::hint::black_box;

use criterion::Throughput;
use weft_core::cache::{Cache, KeyHash, LINKS};
use weft_core::key::{KEY_WORDS, MIDDLE, NARROW, PortId};
use weft_core::worker::CACHED_FLOWS;

use crate::{BURST, Criterion};

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cache");
    group.throughput(Throughput::Elements(BURST as u64));
    for flows in [1usize, 1_000, 100_000] {
        let (mut cache, keys) = filled::<NARROW, 0>(flows);
        let mut next = 0;
        group.bench_function(format!("hit, narrow, {flows} flows"), |bench| {
            bench.iter(|| burst(&mut cache, &keys, &mut next));
        });
        let (mut cache, keys) = filled::<MIDDLE, LINKS>(flows);
        let mut next = 0;
        group.bench_function(format!("hit, middle, {flows} flows"), |bench| {
            bench.iter(|| burst(&mut cache, &keys, &mut next));
        });
        let (mut cache, keys) = filled::<KEY_WORDS, LINKS>(flows);
        let mut next = 0;
        group.bench_function(format!("hit, wide, {flows} flows"), |bench| {
            bench.iter(|| burst(&mut cache, &keys, &mut next));
        });
    }
    group.finish();
}

/// A cache of a worker's size with `flows` flows in it, and their keys in another order, at least a burst of them.
fn filled<const W: usize, const L: usize>(flows: usize) -> (Cache<W, L>, Vec<[u64; W]>) {
    let mut cache = Cache::new(CACHED_FLOWS).expect("memory for a cache");
    let mut keys: Vec<[u64; W]> = (0..flows.max(BURST) as u64)
        .map(|number| {
            let mut key = [0; W];
            (key[0], key[1]) = (0x0200_0000_0002_0000, (0x0210_0000_0000 + number % flows as u64) << 16);
            key
        })
        .collect();
    for key in keys.iter().take(flows) {
        cache.insert((KeyHash::of(key), key), (PortId(0), 0));
        cache.make_room();
    }
    // Fisher and Yates, with a generator that is the same in every run.
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for at in (1..keys.len()).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        keys.swap(at, (random >> 33) as usize % (at + 1));
    }
    (cache, keys)
}

fn burst<const W: usize, const L: usize>(
    cache: &mut Cache<W, L>,
    keys: &[[u64; W]],
    next: &mut usize,
) -> usize {
    if *next + BURST > keys.len() {
        *next = 0;
    }
    let keys = &keys[*next..*next + BURST];
    *next += BURST;
    let mut hashes = [(0, KeyHash::default()); BURST];
    for ((bucket, hash), key) in hashes.iter_mut().zip(keys) {
        *hash = KeyHash::of(black_box(key));
        *bucket = cache.prefetch(*hash);
    }
    let mut places = [None; BURST];
    for (place, &(bucket, hash)) in places.iter_mut().zip(&hashes) {
        *place = cache.candidate(bucket, hash);
    }
    let mut hits = 0;
    for (place, key) in places.iter().zip(keys) {
        if let Some(flow) = place.and_then(|place| cache.flow(place)).filter(|flow| flow.key == *key) {
            flow.packets += 1;
            hits += 1;
        }
    }
    hits
}
