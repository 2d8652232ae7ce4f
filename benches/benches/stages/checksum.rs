//! The Internet checksum, over a header's or a full packet's octets.

use std::hint::black_box;

use criterion::Throughput;
use weft_wire::checksum::checksum;

use crate::Criterion;

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for octets in [64usize, 1500] {
        let data = vec![0xa5; octets];
        group.throughput(Throughput::Bytes(octets as u64));
        group.bench_function(format!("{octets} octets"), |bench| bench.iter(|| checksum(black_box(&data))));
    }
    group.finish();
}
