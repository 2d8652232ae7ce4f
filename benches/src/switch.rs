//! One worker between a replay port and null ports, driven by hand: no thread, no device, no system call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_conntrack::Filter;
use weft_core::counters::WorkerCounters;
use weft_core::datapath::Datapath;
use weft_core::fdb::Fdb;
use weft_core::key::PortId;
use weft_core::runtime::MAINTAIN_EVERY;
use weft_core::shared::Now;
use weft_core::snapshot::{BridgeSpec, Model};
use weft_core::tables::FlowTables;
use weft_core::vlan::{VlanMode, VlanSet};
use weft_core::worker::Worker;
use weft_io::null::NullQueue;
use weft_io::replay::ReplayQueue;
use weft_io::{FramePool, PortQueue};

use crate::Failure;
use crate::case::{self, BRIDGE, Case, IN, OUT, SECOND_OUT, TUNNEL, VLAN, VNI};

/// The FDB's secret: always the same, so that two runs do the same.
const SECRET: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f];
/// Entries that the FDB has room for.
pub const FDB_LIMIT: u32 = 131_072;
/// How many rounds share a look at the clock.
const ROUNDS_PER_LOOK: u32 = 1024;

/// What a switch is to be, besides the ports of its case.
#[derive(Debug)]
pub struct Setup {
    /// Ports, stations and the VLAN.
    pub case: Case,
    /// The bridge's rules.
    pub flows: Arc<FlowTables>,
    /// Where packets come in; what leaves is swallowed.
    pub inputs: Vec<(PortId, Box<dyn PortQueue>)>,
}

/// A whole switch. See the module's text.
#[derive(Debug)]
pub struct Switch {
    /// The control thread's side.
    pub datapath: Datapath,
    worker: Worker,
    case: Case,
    start: Instant,
    now: Now,
    /// When it was last maintained.
    maintained: Duration,
    turn: u32,
}

impl Switch {
    /// A switch that does what `case` says with what `replay` delivers; all destinations are known, if any is.
    pub fn new(case: Case, replay: ReplayQueue) -> Result<Self, Failure> {
        Switch::with(Setup { case, flows: case.flows()?, inputs: vec![(IN, Box::new(replay))] })
    }

    /// A switch with these rules and inputs; all destinations are known, if the case knows any.
    pub fn with(Setup { case, flows, inputs }: Setup) -> Result<Self, Failure> {
        let pool = FramePool::new(FramePool::DEFAULT_FRAMES)?;
        let (mut datapath, mut workers) = Datapath::new(pool, 1)?;
        let worker = workers.pop().ok_or("no worker")?;
        let fdb = Fdb::new(&datapath.shared().epochs, FDB_LIMIT, SECRET)?;
        for (mac, port) in case.stations() {
            fdb.insert_static(case.vlan(), mac, port, 1);
        }
        let mut ports = case.ports()?;
        let is_silent = |port: &PortId| inputs.iter().all(|(id, _)| id != port);
        let silent: Vec<PortId> = [OUT, SECOND_OUT].into_iter().filter(is_silent).collect();
        for (id, queue) in inputs {
            if ports.iter().all(|port| port.id != id) {
                ports.push(case::port(id, &format!("in{}", id.0), VlanMode::Trunk(VlanSet::all())));
            }
            datapath.add_queue(id, queue, 0);
        }
        silent.into_iter().for_each(|id| datapath.add_queue(id, Box::new(NullQueue), 0));
        let bridge = BridgeSpec {
            id: BRIDGE,
            name: "br0".into(),
            fdb: fdb.into(),
            forward_reserved: false,
            vnis: vec![(VLAN, VNI)],
            flows,
        };
        datapath.publish(Model { bridges: vec![bridge], ports, ..Model::default() })?;
        let (start, now, maintained) = (Instant::now(), Now::default(), Duration::ZERO);
        Ok(Switch { datapath, worker, case, start, now, maintained, turn: 0 })
    }

    /// One round of the worker; the packets that it received.
    #[inline]
    pub fn round(&mut self) -> u64 {
        self.turn = self.turn.wrapping_add(1);
        if self.turn.is_multiple_of(ROUNDS_PER_LOOK) {
            self.now = Now { uptime: self.start.elapsed() };
        }
        self.worker.round(self.now) as u64
    }

    /// One round, and the maintenance when it is due, as [`weft_core::runtime`] does them.
    #[inline]
    pub fn work(&mut self) -> u64 {
        let packets = self.round();
        if self.now.uptime.saturating_sub(self.maintained) >= MAINTAIN_EVERY {
            self.maintain();
        }
        packets
    }

    /// What a worker does ten times a second.
    pub fn maintain(&mut self) {
        self.now = Now { uptime: self.start.elapsed() };
        self.maintained = self.now.uptime;
        self.worker.maintain(self.now);
    }

    /// The time since the start, as the worker knows it.
    pub fn uptime(&self) -> Duration {
        self.now.uptime
    }

    /// The worker's counters.
    pub fn counters(&self) -> &WorkerCounters {
        &self.worker.counters().worker
    }

    /// Lets time go on for the worker: flows' and stations' ages are noted anew.
    pub fn wait(&mut self, time: Duration) {
        self.now.uptime += time;
        self.worker.maintain(self.now);
    }

    /// Forgets all connections.
    pub fn forget_connections(&self) {
        self.datapath.connections().flush(&Filter::default(), self.now.second());
    }

    /// How many connections there are.
    pub fn connections(&self) -> u32 {
        self.datapath.connections().statistics().connections
    }

    /// Packets whose flow was not cached, so far.
    pub fn misses(&self) -> u64 {
        self.worker.counters().worker.misses.get()
    }

    /// A bench that measured drops would be a fast one: every packet has to have left.
    pub fn check(&self) -> Result<(), Failure> {
        let totals = [IN, OUT, SECOND_OUT].map(|port| self.datapath.port_totals(port));
        let received: u64 = totals.iter().map(|port| port.rx_packets).sum();
        let sent: u64 = totals.iter().map(|port| port.tx_packets).sum();
        let expected = self.case.copies() * received;
        let drops: Vec<_> = [IN, OUT, SECOND_OUT, TUNNEL]
            .iter()
            .flat_map(|&port| self.datapath.port_totals(port).drops.nonzero().collect::<Vec<_>>())
            .collect();
        if received > 0 && sent == expected && drops.is_empty() {
            Ok(())
        } else {
            Err(format!("{sent} of {expected} were sent, dropped: {drops:?}").into())
        }
    }
}
