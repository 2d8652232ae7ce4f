//! A miss's walk through the pipeline, and the publication of a configuration.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use weft_benches::case::{self, BRIDGE, port};
use weft_benches::frames::{self, DESTINATION};
use weft_core::datapath::Datapath;
use weft_core::fdb::Fdb;
use weft_core::key::{FlowKey, Ingress, KeyMask, PortId};
use weft_core::parse;
use weft_core::pipeline::trace::Silent;
use weft_core::pipeline::{self, Occasion};
use weft_core::snapshot::{BridgeSpec, Model};
use weft_core::tables::FlowTables;
use weft_core::verdict::Verdict;
use weft_core::vlan::{VlanMode, VlanSet};
use weft_io::FramePool;
use weft_wire::{Mac, Vid};

use crate::Criterion;

const PORTS: u16 = 100;
const SOURCE: Mac = Mac([2, 0, 0, 0, 0, 1]);

pub fn bench(criterion: &mut Criterion) {
    let pool = FramePool::new(FramePool::MIN_FRAMES).expect("memory for 1024 frames");
    // The worker stays: nothing is published to nobody.
    let (mut datapath, _workers) = Datapath::new(pool, 1).expect("memory for a dataplane");
    let model = model(&datapath);
    datapath.publish(model.clone()).expect("room for the epochs");

    let mut group = criterion.benchmark_group("pipeline");
    let snapshot = datapath.shared().published.load();
    let mut verdict = Verdict::default();
    for (name, destination) in [("known destination", DESTINATION), ("flood to 10 ports", Mac([2; 6]))] {
        let key = key(destination);
        let occasion = Occasion {
            snapshot: &snapshot,
            key: &key,
            packet: None,
            whole: None,
            connections: datapath.connections(),
            second: 1,
            now: Duration::ZERO,
            effects: true,
        };
        pipeline::walk(occasion, &mut verdict, &mut Silent);
        assert!(verdict.drop.is_none(), "{name}: {:?}", verdict.drop);
        group.bench_function(format!("walk, {name}"), |bench| {
            bench.iter(|| pipeline::walk(black_box(occasion), &mut verdict, &mut Silent));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("publish");
    let mut changed = model.clone();
    group.bench_function("100 ports, nothing changes", |bench| {
        bench.iter(|| datapath.publish(changed.clone()).is_ok());
    });
    group.bench_function("100 ports, one goes up or down", |bench| {
        bench.iter(|| {
            if let Some(port) = changed.ports.last_mut() {
                port.up = !port.up;
            }
            datapath.publish(changed.clone()).is_ok()
        });
    });
    group.finish();
}

/// A bridge with 100 access ports, ten in each of ten VLANs, and an uplink trunk.
fn model(datapath: &Datapath) -> Model {
    let secret = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f];
    let fdb = Fdb::new(&datapath.shared().epochs, 8192, secret).expect("memory for an FDB");
    fdb.insert_static(vlan(0), DESTINATION, PortId(10), 1);
    let bridge = BridgeSpec {
        id: BRIDGE,
        name: "br0".into(),
        fdb: Arc::new(fdb),
        forward_reserved: false,
        vnis: Vec::new(),
        flows: FlowTables::normal(),
    };
    let access = |id: u16| port(PortId(id), &format!("vm{id}"), VlanMode::Access(vlan(id % 10)));
    let trunk = port(PortId(PORTS), "trunk", VlanMode::Trunk(VlanSet::all()));
    Model {
        bridges: vec![bridge],
        ports: (0..PORTS).map(access).chain([trunk]).collect(),
        ..Model::default()
    }
}

fn vlan(number: u16) -> Vid {
    Vid::from_tci(100 + number)
}

/// The key of a packet from port 0, as a worker makes it.
fn key(destination: Mac) -> FlowKey {
    let frame = frames::udp(SOURCE, destination, 1, false);
    let full = parse::full(&frame, Ingress::port(case::IN)).expect("a whole frame");
    full.masked(&KeyMask::NORMAL)
}
