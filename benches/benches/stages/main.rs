//! What each stage of a packet's journey costs, alone and with warm caches. The whole journey is `weft-replay`'s.
//!
//!   cargo bench -p weft-benches                      all of them, in a minute
//!   cargo bench -p weft-benches -- fdb               those whose name matches
//!   cargo bench -p weft-benches -- --test            each once, without measuring
//!
//! A stage is measured in bursts of 32 where it has to do with memory, as the worker runs it. Times are CPU times of the
//! thread, because machines are shared.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that can't be set up says so and ends")]

mod cache;
mod checksum;
mod connections;
mod edit;
mod fdb;
mod headers;
mod parse;
mod pipeline;

use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{criterion_group, criterion_main};
use weft_io::{FrameCache, FramePool, Packet};

/// Criterion, by [`CpuTime`].
type Criterion = criterion::Criterion<CpuTime>;

/// The CPU time of the calling thread.
struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        weft_io::thread::cpu_time().expect("a clock for CPU time")
    }

    fn end(&self, start: Duration) -> Duration {
        self.start() - start
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// Packets per burst.
const BURST: usize = 32;

/// Frames for one bench.
fn frames() -> FrameCache {
    FramePool::new(FramePool::MIN_FRAMES).expect("memory for 1024 frames").cache()
}

/// A packet of these octets.
fn packet(frames: &mut FrameCache, octets: &[u8]) -> Packet {
    let mut packet = frames.alloc().expect("a free frame");
    packet.append(octets).expect("room in the frame");
    packet
}

/// Short: a stage takes nanoseconds, and on a shared machine a longer measurement is not a better one.
fn short() -> Criterion {
    let (warm_up, measurement) = (Duration::from_millis(300), Duration::from_millis(1000));
    criterion::Criterion::default()
        .with_measurement(CpuTime)
        .warm_up_time(warm_up)
        .measurement_time(measurement)
        .sample_size(40)
}

criterion_group! {
    name = stages;
    config = short();
    targets = parse::bench, cache::bench, fdb::bench, headers::bench, checksum::bench, pipeline::bench, edit::bench,
        connections::bench
}
criterion_main!(stages);
