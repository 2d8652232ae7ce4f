//! What connection tracking does with a packet's octets: *segment* is what a hit reads, *facts* what a walk does, checksum and
//! all, and translation is done to a fresh copy of 60 octets (*nothing* of the group `edit`).

use std::hint::black_box;

use etherparse::PacketBuilder;
use weft_benches::frames;
use weft_conntrack::{Family, Translation, Tuple};
use weft_core::edit::nat::translate;
use weft_core::facts::{facts, segment};
use weft_wire::Mac;

use crate::Criterion;

const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

fn tcp(six: bool, payload: usize) -> Vec<u8> {
    let (builder, mut octets) = (PacketBuilder::ethernet2(MACS.0, MACS.1), Vec::new());
    let builder = match six {
        false => builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64),
        true => builder.ipv6([1; 16], [2; 16], 64),
    };
    let builder = builder.tcp(1000, 80, 1, 500).ack(2);
    builder.write(&mut octets, &vec![7; payload]).expect("a vector takes it");
    octets
}

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("connections");
    let mut cache = crate::frames();
    for (name, six) in [("IPv4", false), ("IPv6", true)] {
        let packet = crate::packet(&mut cache, &tcp(six, 6));
        group.bench_function(format!("segment, {name}"), |bench| bench.iter(|| segment(black_box(&packet))));
        group.bench_function(format!("facts, {name}"), |bench| bench.iter(|| facts(black_box(&packet))));
        cache.free(packet);
    }
    let packet = crate::packet(&mut cache, &tcp(false, 1460));
    group.bench_function("facts, 1514 octets", |bench| bench.iter(|| facts(black_box(&packet))));
    cache.free(packet);
    let frame = frames::udp(Mac(MACS.0), frames::DESTINATION, 1, false);
    let mut packet = crate::packet(&mut cache, &frame);
    let tuple = Tuple {
        src: 0x0a01_0203,
        dst: 0x0a00_0002,
        src_port: 9,
        dst_port: 53,
        protocol: 17,
        family: Family::V4,
    };
    let translation = Translation { tuple, source: true, destination: false, related: false };
    group.bench_function("translation", |bench| {
        bench.iter(|| {
            packet.data_mut().copy_from_slice(black_box(&frame));
            translate(black_box(&mut packet), black_box(&translation))
        });
    });
    cache.free(packet);
    group.finish();
}
