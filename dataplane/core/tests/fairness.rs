//! What a port that makes the slow path work as hard as it can leaves to another one of the same worker.
//!
//! Time is the thread's own processor time, so that it does not matter who else uses the machine. A VM sends frames of one
//! flow through a device that costs system calls, as a tap does; an attacker sends from memory, as fast as a replay port can.
//! What the VM gets through in a while is compared with what it gets through when the attacker's packets are all of one flow.

#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rig::frames::{Ip, frame, ip_frame, mac};
use weft_conntrack::Settings;
use weft_core::budget::SHARE;
use weft_core::datapath::Datapath;
use weft_core::fdb::Fdb;
use weft_core::key::PortId;
use weft_core::shared::Now;
use weft_core::snapshot::{BridgeId, BridgeSpec, Model, PortKind};
use weft_core::tables::{Change, FlowTables};
use weft_core::worker::Worker;
use weft_flow::message::FlowCommand;
use weft_flow::text::{NoNames, parse_flow};
use weft_io::null::NullQueue;
use weft_io::replay::ReplayQueue;
use weft_io::thread::cpu_time;
use weft_io::{Burst, FrameCache, FramePool, PortQueue, Sent};
use weft_wire::{DropCounts, DropReason, Vid};

/// The VM's port, its peer's, the attacker's, and where the attacker's packets go.
const VM: u16 = 0;
const PEER: u16 = 1;
const ATTACKER: u16 = 2;
const SINK: u16 = 3;
/// Frames that an attacker has: twice as many as a cache holds.
const MANY: u32 = 1 << 20;
/// For how long is looked.
const WHILE: Duration = Duration::from_millis(100);

/// A device that costs four system calls for each frame, some microsecond.
#[derive(Debug)]
struct Device(ReplayQueue);

impl PortQueue for Device {
    fn rx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) {
        self.0.rx_burst(frames, burst, drops);
        for _ in 0..4 * burst.len() {
            clock();
        }
    }

    fn tx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) -> Sent {
        self.0.tx_burst(frames, burst, drops)
    }
}

fn clock() -> Duration {
    cpu_time().unwrap()
}

/// What the attacker sends.
#[derive(Clone, Copy, Debug)]
enum Attack {
    OneFlow,
    NewFlows,
    NewAddresses,
}

impl Attack {
    /// To read so many from memory costs the same whatever they say.
    fn queue(self) -> ReplayQueue {
        let mut octets = ip_frame(mac(77), mac(99), Ip::default(), 18);
        let mut all = Vec::with_capacity(octets.len() * MANY as usize);
        for number in 0..MANY {
            match self {
                Attack::OneFlow => {}
                // UDP ports, which have no checksum to fit; then the end of the source address.
                Attack::NewFlows => octets[34..38].copy_from_slice(&number.to_be_bytes()),
                Attack::NewAddresses => {
                    octets[8..12].copy_from_slice(&(0x6600_0000 + number % 100_000).to_be_bytes())
                }
            }
            all.extend_from_slice(&octets);
        }
        ReplayQueue::from_frames(all.chunks(octets.len()), true).unwrap()
    }
}

struct Switch {
    datapath: Datapath,
    worker: Worker,
}

impl Switch {
    /// With these rules, ports that may take `share` percent for walks, and an attacker.
    fn new(rules: &[&str], share: u32, attack: Attack) -> Switch {
        let pool = FramePool::new(4096).unwrap();
        let settings = Settings { max: 1 << 20, ..Settings::default() };
        let (mut datapath, mut workers) = Datapath::with_connections(pool, 1, settings).unwrap();
        let worker = workers.remove(0);
        let fdb = Arc::new(Fdb::new(&datapath.shared().epochs, 8192, [3, 5]).unwrap());
        for (station, port) in [(2, PEER), (99, SINK)] {
            fdb.insert_static(Vid::NONE, mac(station), PortId(port), 0);
        }
        datapath.shared().limits.slow_path.store(share, Ordering::Relaxed);
        let lone = ReplayQueue::from_frames([&frame(mac(1), mac(2))[..]], true);
        let device = Device(lone.unwrap());
        let queues: [Box<dyn PortQueue>; 4] =
            [Box::new(device), Box::new(NullQueue), Box::new(attack.queue()), Box::new(NullQueue)];
        for (port, queue) in (VM..).zip(queues) {
            datapath.add_queue(PortId(port), queue, 0);
        }
        datapath.publish(model(fdb, rules)).unwrap();
        Switch { datapath, worker }
    }

    /// Lets the worker work for so long; how many packets the VM and the attacker have sent meanwhile.
    fn work(&mut self, time: Duration) -> [u64; 2] {
        let start = clock();
        let before = [VM, ATTACKER].map(|port| self.received(port));
        loop {
            let now = clock();
            if now >= start + time {
                break;
            }
            self.worker.round(Now { uptime: now });
        }
        self.worker.maintain(Now { uptime: clock() });
        let after = [VM, ATTACKER].map(|port| self.received(port));
        [after[0] - before[0], after[1] - before[1]]
    }

    fn received(&self, port: u16) -> u64 {
        self.datapath.port_totals(PortId(port)).rx_packets
    }

    /// `rx = tx + drops`, over all ports.
    fn check_counters(&self) {
        let totals = (VM..=SINK).map(|port| self.datapath.port_totals(PortId(port)));
        let (came, went) = totals.fold((0, 0), |(came, went), port| {
            (came + port.rx_packets + port.copies, went + port.tx_packets + port.drops.total())
        });
        assert_eq!(came, went, "rx + copies is not tx + drops");
    }

    fn refused(&self, port: u16) -> u64 {
        self.datapath.port_totals(PortId(port)).drops.get(DropReason::SlowPathLimit)
    }
}

fn model(fdb: Arc<Fdb>, rules: &[&str]) -> Model {
    let flows = FlowTables::new();
    let parsed = rules.iter().map(|rule| parse_flow(rule, FlowCommand::Add, &NoNames).unwrap());
    flows.prepare(&parsed.map(Change::Flow).collect::<Vec<_>>(), Duration::ZERO).unwrap().commit();
    let bridge = BridgeSpec {
        id: BridgeId(0),
        name: "br0".into(),
        fdb,
        forward_reserved: false,
        vnis: Vec::new(),
        flows,
    };
    let port = |id| rig::port_spec(id, Some(0), rig::access(0), PortKind::Device);
    Model { bridges: vec![bridge], ports: (VM..=SINK).map(port).collect(), ..Model::default() }
}

const PLAIN: &[&str] = &["priority=0,actions=NORMAL"];
const PORTS: &[&str] = &["priority=0,actions=NORMAL", "priority=9,udp,tp_src=9,tp_dst=65535,actions=drop"];
const TRACKED: &[&str] = &[
    "table=0,priority=9,udp,actions=ct(table=1,zone=5)",
    "table=0,priority=0,actions=NORMAL",
    "table=1,priority=9,ct_state=+inv+trk,actions=drop",
    "table=1,priority=8,ct_state=+new+trk,udp,actions=ct(commit,zone=5),NORMAL",
    "table=1,priority=7,ct_state=+est+trk,actions=NORMAL",
];

/// How much of its packets the VM keeps while it is attacked, as the median of several comparisons; and how many of the
/// attacker's packets there are for each that it sends as one flow.
fn kept(rules: &[&str], share: u32, attack: Attack) -> (f64, f64) {
    let mut calm = Switch::new(rules, share, Attack::OneFlow);
    let mut attacked = Switch::new(rules, share, attack);
    // Until the worker has seen that it is busy.
    calm.work(WHILE);
    attacked.work(WHILE);
    let mut ratios: Vec<(f64, f64)> = (0..9)
        .map(|_| {
            let ([calm, one], [attacked, many]) = (calm.work(WHILE), attacked.work(WHILE));
            (attacked as f64 / calm as f64, many as f64 / one as f64)
        })
        .collect();
    attacked.check_counters();
    assert_eq!(attacked.refused(VM), 0);
    assert_eq!(attacked.refused(ATTACKER) > 0, share < 100);
    ratios.sort_by(|one, two| one.0.total_cmp(&two.0));
    ratios[ratios.len() / 2]
}

fn is_fair(what: &str, rules: &[&str], attack: Attack) {
    let (without, _) = kept(rules, 100, attack);
    let (with, packets) = kept(rules, SHARE, attack);
    println!("{what}: the VM keeps {with:.3}, without a limit {without:.3}; attacker's packets {packets:.3}");
    assert!(with >= 0.9, "{what}: {with}");
    assert!(without < with - 0.1, "{what}: without a limit {without}");
}

#[test]
fn new_flows_leave_others_nine_tenths() {
    is_fair("new flows", PORTS, Attack::NewFlows);
}

#[test]
fn new_connections_leave_others_nine_tenths() {
    is_fair("new connections", TRACKED, Attack::NewFlows);
}

#[test]
fn new_addresses_leave_others_nine_tenths() {
    is_fair("new addresses", PLAIN, Attack::NewAddresses);
}
