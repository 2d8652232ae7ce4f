//! Phase *key*: octets to key words, and their hash.

use std::hint::black_box;

use weft_benches::{case, frames};
use weft_core::cache::KeyHash;
use weft_core::key::{Ingress, KEY_WORDS, MIDDLE, NARROW};
use weft_core::parse;
use weft_wire::Mac;

use crate::Criterion;

pub fn bench(criterion: &mut Criterion) {
    let ingress = Ingress::port(case::IN);
    let source = Mac([2, 0, 0, 0, 0, 1]);
    let mut group = criterion.benchmark_group("parse");
    for (name, tagged) in [("untagged", false), ("tagged", true)] {
        let frame = frames::udp(source, frames::DESTINATION, 1, tagged);
        group.bench_function(format!("ethernet, {name}"), |bench| {
            bench.iter(|| parse::ethernet(black_box(&frame), ingress));
        });
        group.bench_function(format!("full, UDP, {name}"), |bench| {
            bench.iter(|| parse::full(black_box(&frame), ingress));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("hash");
    let frame = frames::udp(source, frames::DESTINATION, 1, true);
    let key = parse::full(&frame, ingress).expect("a whole frame").0;
    let narrow: [u64; NARROW] = [key[0], key[1], 0];
    group.bench_function("narrow key", |bench| bench.iter(|| KeyHash::of::<NARROW>(black_box(&narrow))));
    let middle = *key.first_chunk().expect("a key is longer");
    group.bench_function("middle key", |bench| bench.iter(|| KeyHash::of::<MIDDLE>(black_box(&middle))));
    group.bench_function("wide key", |bench| bench.iter(|| KeyHash::of::<KEY_WORDS>(black_box(&key))));
    group.finish();
}
