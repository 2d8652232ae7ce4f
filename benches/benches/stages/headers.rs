//! What is done to a packet's front: tunnel headers on and off, VLAN tags on, off and changed.

use std::hint::black_box;
use std::time::Duration;

use weft_benches::case::{Case, VNI, tunnel};
use weft_benches::frames::{self, DESTINATION};
use weft_benches::switch::Switch;
use weft_core::decap::Vteps;
use weft_core::encap::Template;
use weft_core::retag::retag;
use weft_core::vlan::TagRewrite;
use weft_wire::{Mac, TunnelKind, Vid};

use crate::Criterion;

const SOURCE: Mac = Mac([2, 0, 0, 0, 0, 1]);
const KINDS: [(TunnelKind, Case, &str); 2] =
    [(TunnelKind::Vxlan, Case::VxlanDecap, "VXLAN"), (TunnelKind::Gre, Case::GreDecap, "GRE")];

pub fn bench(criterion: &mut Criterion) {
    encap(criterion);
    decap(criterion);
    tags(criterion);
}

fn encap(criterion: &mut Criterion) {
    let mut frames = crate::frames();
    let mut group = criterion.benchmark_group("encap");
    for (kind, _, name) in KINDS {
        let spec = tunnel(kind);
        let template = Template::new(&spec, VNI).expect("the path is known");
        let mut packet = crate::packet(&mut frames, &frames::udp(SOURCE, DESTINATION, 1, false));
        let inner = packet.len();
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let outcome = template.wrap(black_box(&mut packet));
                // The header goes again: the next one is put in front of the same inner frame.
                packet.pull_front(packet.len() - inner);
                outcome
            });
        });
        frames.free(packet);
    }
    group.finish();
}

fn decap(criterion: &mut Criterion) {
    let mut frames = crate::frames();
    let mut group = criterion.benchmark_group("decap");
    for (kind, case, name) in KINDS {
        let inner = frames::udp(SOURCE, DESTINATION, 1, false);
        let outer = frames::wrapped(kind, &inner).expect("the frame fits");
        let replay = frames::replay(case, vec![inner]).expect("a frame");
        let switch = Switch::new(case, replay).expect("a switch");
        let vteps = Vteps::new(&switch.datapath.shared().published.load().vteps);
        let mut packet = crate::packet(&mut frames, &outer);
        assert!(vteps.strip(&mut packet).is_ok(), "the packet is for the tunnel");
        group.bench_function(name, |bench| {
            bench.iter(|| {
                // What decapsulation has left in front of the inner frame is still there.
                packet.push_front(outer.len() - packet.len());
                vteps.strip(black_box(&mut packet))
            });
        });
        frames.free(packet);
    }
    group.finish();
}

fn tags(criterion: &mut Criterion) {
    let mut frames = crate::frames();
    let mut packet = crate::packet(&mut frames, &frames::udp(SOURCE, DESTINATION, 1, true));
    let mut group = criterion.benchmark_group("retag");
    group.measurement_time(Duration::from_millis(800));
    group.bench_function("set", |bench| {
        bench.iter(|| retag(black_box(&mut packet), TagRewrite::Set(Vid::from_tci(7))));
    });
    group.bench_function("pop and push", |bench| {
        bench.iter(|| {
            let popped = retag(black_box(&mut packet), TagRewrite::Pop);
            (popped, retag(&mut packet, TagRewrite::Push(Vid::from_tci(7))))
        });
    });
    group.finish();
    frames.free(packet);
}
