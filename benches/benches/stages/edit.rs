//! Edits of a packet, compiled once. Each time they are done to a fresh copy of its 60 octets: *nothing* is what that costs.

use std::hint::black_box;

use weft_benches::frames;
use weft_core::edit::{Edit, Edits, apply};
use weft_flow::{Field, Match};
use weft_wire::{EtherType, Mac};

use crate::Criterion;

/// Values for fields.
fn set(fields: &[(Field, u128)]) -> Edit {
    let all = fields.iter().fold(Match::any(), |all, &(field, value)| all.with(field, value));
    Edit::Set(all.terms().into())
}

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("edit");
    let macs = [(Field::EthSrc, 1), (Field::EthDst, 2)];
    let nat = [(Field::IpSrc, 0x0a01_0203), (Field::UdpSrc, 9)];
    for (name, edits) in [
        ("nothing", vec![]),
        ("Ethernet addresses", vec![set(&macs)]),
        ("IPv4 address", vec![set(&nat[..1])]),
        ("IPv4 address and port", vec![set(&nat)]),
        ("addresses, TTL and port", vec![set(&macs), set(&nat), set(&[(Field::NwTtl, 63)])]),
        ("VLAN tag, on and off", vec![Edit::PushVlan { tpid: EtherType::VLAN, tci: 100 }, Edit::PopVlan]),
        (
            "MPLS label, on and off",
            vec![
                Edit::PushMpls { ether_type: EtherType::MPLS, entry: 0x0001_0140 },
                Edit::PopMpls { ether_type: EtherType::IPV4 },
            ],
        ),
    ] {
        let mut cache = crate::frames();
        let frame = frames::udp(Mac([2, 0, 0, 0, 0, 1]), frames::DESTINATION, 1, false);
        let mut packet = crate::packet(&mut cache, &frame);
        let edits = Edits::new(&edits);
        group.bench_function(name, |bench| {
            bench.iter(|| {
                packet.data_mut().copy_from_slice(black_box(&frame));
                apply(black_box(&edits), black_box(&mut packet), &mut cache)
            });
        });
        cache.free(packet);
    }
    group.finish();
}
