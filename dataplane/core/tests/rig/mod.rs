//! A switch in memory, driven by hand: workers without threads, ports without devices, time that the test tells.
//!
//! A [`Rig`] holds the model that it publishes; tests change [`Rig::model`] and call [`Rig::publish`]. When a rig goes, it
//! checks what holds at the end of every test: the counters account for each packet, every frame came home, and no
//! packet was lost.

#![allow(dead_code, reason = "each test file uses a part of the rig")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a test's own helper")]

pub mod craft;
pub mod dice;
pub mod frames;
pub mod octets;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use craft::{CraftQueue, Workshop};
use weft_conntrack::Settings;
use weft_core::counters::port_totals;
use weft_core::datapath::Datapath;
use weft_core::encap::Template;
use weft_core::fdb::{Entry, Fdb};
use weft_core::key::PortId;
use weft_core::shared::Now;
use weft_core::snapshot::{BridgeId, BridgeSpec, Model, Path, PortKind, PortSpec, TunnelKeys, TunnelSpec};
use weft_core::tables::{Change, FlowTables};
use weft_core::trace::{self, Trace};
use weft_core::vlan::{PriorityTags, VlanMode, VlanSet};
use weft_core::worker::Worker;
use weft_flow::message::{FlowCommand, FlowMod};
use weft_flow::text::{NoNames, parse_flow};
use weft_flow::{Action, Field, FlowKey, Match};
use weft_io::memory::{MemoryPeer, pair};
use weft_io::packet::lost_packets;
use weft_io::{FramePool, PortQueue};
use weft_wire::{DropReason, Mac, OfPort, TunnelKind, Vid};

/// Packets that a memory port's directions hold.
pub const DEPTH: usize = 8192;
/// Our own tunnel address, and its MAC on the underlay.
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const LOCAL_MAC: Mac = Mac([2, 0xff, 0, 0, 0, 1]);
pub const UNDERLAY_MTU: u16 = 1600;

/// Few connections, so that a test can fill the table.
pub const CONNECTIONS: Settings = Settings { max: 1000, secret: [7, 8], expectations: 16 };

pub struct Rig {
    pub pool: Arc<FramePool>,
    pub datapath: Datapath,
    pub workers: Vec<Worker>,
    /// What [`Rig::publish`] publishes.
    pub model: Model,
    pub now: Duration,
    peers: BTreeMap<PortId, MemoryPeer>,
    crafted: Vec<PortId>,
    lost_before: u64,
}

pub fn vid(number: u16) -> Vid {
    Vid::new(number).unwrap()
}

pub fn vids(numbers: &[u16]) -> VlanSet {
    numbers.iter().map(|&number| vid(number)).collect()
}

pub fn access(number: u16) -> VlanMode {
    VlanMode::Access(vid(number))
}

pub fn trunk(numbers: &[u16]) -> VlanMode {
    VlanMode::Trunk(vids(numbers))
}

/// The address of remote tunnel end `number`.
pub fn remote(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

/// A way to a remote end by `uplink`.
pub fn ready(uplink: u16, number: u8) -> Path {
    Path::Ready {
        uplink: PortId(uplink),
        source: LOCAL_MAC,
        destination: Mac([2, 0xff, 0, 0, 0, number]),
        mtu: UNDERLAY_MTU,
    }
}

/// A tunnel to remote end `number` by uplink 100.
pub fn tunnel(kind: TunnelKind, number: u8, key: TunnelKeys) -> TunnelSpec {
    TunnelSpec {
        kind,
        local: LOCAL,
        remote: remote(number).into(),
        key,
        ttl: 64,
        tos: Some(0),
        df: true,
        udp_port: 4789,
        checksum: false,
        path: ready(100, number),
    }
}

/// A rule of table 0, to be added.
pub fn rule(priority: u16, matches: Match, actions: &[Action]) -> FlowMod {
    FlowMod { priority, matches, actions: actions.into(), ..FlowMod::default() }
}

/// `priority=0 actions=NORMAL`
pub fn normal() -> FlowMod {
    rule(0, Match::any(), &[Action::Output(OfPort::NORMAL)])
}

/// Packets that came in by the port of that number.
pub fn in_port(id: u16) -> Match {
    Match::any().with(Field::InPort, u128::from(id) + 1)
}

/// Flow tables with these rules.
pub fn tables(rules: &[FlowMod]) -> Arc<FlowTables> {
    let tables = FlowTables::new();
    let changes: Vec<Change> = rules.iter().cloned().map(Change::Flow).collect();
    tables.prepare(&changes, Duration::ZERO).unwrap().commit();
    tables
}

/// A frame as the tunnel end `spec` sends it under `key`.
pub fn wrapped(spec: &TunnelSpec, key: u32, inner: &[u8]) -> Vec<u8> {
    let mut frames = FramePool::new(FramePool::MIN_FRAMES).unwrap().cache();
    let mut packet = frames.alloc().unwrap();
    packet.append(inner).unwrap();
    Template::new(spec, key).unwrap().wrap(&mut packet).unwrap();
    let octets = packet.data().to_vec();
    frames.free(packet);
    octets
}

/// The highest port number that tests use.
pub const LAST_PORT: u16 = 255;
/// The uplink's number.
pub const UPLINK: u16 = 100;

impl Rig {
    /// A switch without ports.
    pub fn new(workers: usize) -> Rig {
        Rig::with_frames(workers, 4096)
    }

    pub fn with_frames(workers: usize, frames: u32) -> Rig {
        let lost_before = lost_packets();
        // Huge pages are for switches that run long: zeroing them is most of what a short test would do.
        let _ = rustix::thread::disable_transparent_huge_pages(true);
        let pool = FramePool::new(frames).unwrap();
        let (datapath, workers) =
            Datapath::with_connections(Arc::clone(&pool), workers, CONNECTIONS).unwrap();
        Rig {
            pool,
            datapath,
            workers,
            model: Model::default(),
            now: Duration::from_secs(100),
            peers: BTreeMap::new(),
            crafted: Vec::new(),
            lost_before,
        }
    }

    /// A switch with bridge 0, on which every frame takes NORMAL.
    pub fn with_bridge(workers: usize) -> Rig {
        let mut rig = Rig::new(workers);
        rig.add_bridge(0);
        rig
    }

    /// Bridge 0 with these rules. Station 1 is behind port 0, station 2 behind port 1 (`in_port` 1 and 2).
    pub fn two_stations(rules: &[&str]) -> Rig {
        let mut rig = Rig::with_bridge(1);
        rig.add_device(0, access(0));
        rig.add_device(1, access(0));
        rig.publish();
        rig.load_rules(0, rules);
        rig
    }

    pub fn add_bridge(&mut self, id: u16) {
        self.add_bridge_with_limit(id, 200);
    }

    pub fn add_bridge_with_limit(&mut self, id: u16, limit: u32) {
        let secret = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f];
        let fdb = Fdb::new(&self.datapath.shared().epochs, limit, secret).unwrap();
        self.model.bridges.push(BridgeSpec {
            id: BridgeId(id),
            name: format!("br{id}").into(),
            fdb: Arc::new(fdb),
            forward_reserved: false,
            vnis: Vec::new(),
            flows: FlowTables::normal(),
        });
    }

    /// Adds a port to the model; its ofport is its number plus 1.
    pub fn add_port(&mut self, id: u16, bridge: Option<u16>, vlan: VlanMode, kind: PortKind) {
        self.model.ports.push(port_spec(id, bridge, vlan, kind));
    }

    /// Adds a memory port to bridge 0, on the worker that its number says.
    pub fn add_device(&mut self, id: u16, vlan: VlanMode) {
        self.add_device_to(id, 0, vlan);
    }

    pub fn add_device_to(&mut self, id: u16, bridge: u16, vlan: VlanMode) {
        self.add_port(id, Some(bridge), vlan, PortKind::Device);
        self.plug(id);
    }

    /// Adds the underlay: memory port [`UPLINK`].
    pub fn add_uplink(&mut self) {
        self.add_port(UPLINK, None, access(0), PortKind::Uplink);
        self.plug(UPLINK);
    }

    /// Adds a tunnel port to bridge 0, which trunks all VLANs.
    pub fn add_tunnel(&mut self, id: u16, spec: TunnelSpec) {
        self.add_port(id, Some(0), VlanMode::Trunk(VlanSet::all()), PortKind::Tunnel(spec));
    }

    /// Gives a port a memory queue.
    pub fn plug(&mut self, id: u16) {
        let (queue, peer) = pair(DEPTH);
        self.peers.insert(PortId(id), peer);
        self.plug_queue(id, Box::new(queue));
    }

    pub fn plug_queue(&mut self, id: u16, queue: Box<dyn PortQueue>) {
        let worker = usize::from(id) % self.workers.len();
        self.datapath.add_queue(PortId(id), queue, worker);
    }

    /// Changes the rules of a bridge.
    pub fn change(&mut self, bridge: u16, changes: &[Change]) {
        self.datapath.change_flows(BridgeId(bridge), changes, self.now).unwrap();
    }

    /// Gives a bridge these rules and no others, in one bundle.
    pub fn replace_rules(&mut self, bridge: u16, rules: &[FlowMod]) {
        let delete = FlowMod { command: FlowCommand::Delete, table: None, ..FlowMod::default() };
        let changes: Vec<Change> =
            std::iter::once(delete).chain(rules.iter().cloned()).map(Change::Flow).collect();
        self.change(bridge, &changes);
    }

    /// The same, with rules as text.
    pub fn load_rules(&mut self, bridge: u16, lines: &[impl AsRef<str>]) {
        let parse = |line: &str| match parse_flow(line.trim(), FlowCommand::Add, &NoNames) {
            Ok(rule) => rule,
            Err(error) => panic!("{line}: {error}"),
        };
        let rules: Vec<_> = lines.iter().map(|line| parse(line.as_ref())).collect();
        self.replace_rules(bridge, &rules);
    }

    /// Takes a port out of the model, publishes that, and takes its queue back.
    pub fn remove_device(&mut self, id: u16) {
        self.model.ports.retain(|port| port.id != PortId(id));
        self.publish();
        self.unplug(id);
    }

    /// Gives a port a queue whose packets the test makes.
    pub fn plug_crafted(&mut self, id: u16, workshop: Workshop) {
        self.crafted.push(PortId(id));
        self.plug_queue(id, Box::new(CraftQueue(workshop)));
    }

    /// Takes a port's queue back while no worker looks into its inbox.
    pub fn unplug_first(&mut self, id: u16) {
        let worker = usize::from(id) % self.workers.len();
        let inbox = &self.datapath.shared().workers[worker].inbox;
        let waiting: Vec<_> = std::iter::from_fn(|| inbox.pop()).collect();
        self.unplug(id);
        for packet in waiting {
            self.datapath.shared().workers[worker].inbox.push(packet).unwrap();
        }
    }

    /// Takes a port's queue back.
    pub fn unplug(&mut self, id: u16) {
        let (datapath, workers, now) = (&mut self.datapath, &mut self.workers, Now { uptime: self.now });
        std::thread::scope(|scope| {
            let taken = scope.spawn(move || datapath.remove_queues(PortId(id)).unwrap());
            while !taken.is_finished() {
                workers.iter_mut().for_each(|worker| {
                    worker.round(now);
                });
            }
            assert!(!taken.join().unwrap().is_empty(), "port {id} had no queue");
        });
    }

    pub fn port(&mut self, id: u16) -> &mut PortSpec {
        self.model.ports.iter_mut().find(|port| port.id == PortId(id)).unwrap()
    }

    pub fn tunnel(&mut self, id: u16) -> &mut TunnelSpec {
        match &mut self.port(id).kind {
            PortKind::Tunnel(tunnel) => tunnel,
            other => panic!("port {id} is {other:?}"),
        }
    }

    pub fn bridge(&mut self, id: u16) -> &mut BridgeSpec {
        self.model.bridges.iter_mut().find(|bridge| bridge.id == BridgeId(id)).unwrap()
    }

    pub fn fdb(&self) -> &Fdb {
        &self.model.bridges[0].fdb
    }

    /// Bridge 0's entry for an address.
    pub fn learned(&self, mac: Mac) -> Option<Entry> {
        self.fdb().entries().into_iter().find(|entry| entry.mac == mac)
    }

    /// Publishes the model, and lets every worker take it up.
    pub fn publish(&mut self) {
        self.publish_unseen();
        self.run();
    }

    /// Publishes the model, and no more.
    pub fn publish_unseen(&mut self) {
        self.datapath.publish(self.model.clone()).unwrap();
    }

    /// Offers a frame to a port.
    pub fn send(&self, port: u16, frame: impl Into<Vec<u8>>) {
        self.peers[&PortId(port)].send(frame).unwrap();
    }

    /// Offers a frame to a port, if there is room.
    pub fn offer(&self, port: u16, frame: Vec<u8>) {
        let _full = self.peers[&PortId(port)].send(frame);
    }

    /// Waits until workers on threads have received and sent all that there is: a whole round of each counts nothing.
    pub fn settle(&self) {
        let count = || {
            let totals = (0..=LAST_PORT).map(|port| port_totals(self.datapath.counters(), PortId(port)));
            totals.map(|port| (port.rx_packets, port.tx_packets, port.drops.total())).collect::<Vec<_>>()
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < deadline, "the workers don't come to rest");
            let before = count();
            // The answer comes early in a round: between two answers lies the rest of one; then what was handed over.
            (0..4).for_each(|_| self.datapath.sync().unwrap());
            if count() == before {
                return;
            }
        }
    }

    /// Lets all workers go on until none has anything to do.
    pub fn run(&mut self) {
        let now = Now { uptime: self.now };
        let round = |worker: &mut Worker| worker.round(now);
        while self.workers.iter_mut().map(round).sum::<usize>() > 0
            || self.workers.iter().any(Worker::has_mail)
        {}
        self.workers.iter_mut().for_each(|worker| worker.maintain(now));
    }

    /// Time goes on; what is overdue happens.
    pub fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.run();
    }

    /// What a port has transmitted since the last look.
    pub fn sent(&self, port: u16) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.peers[&PortId(port)].receive()).collect()
    }

    /// What all ports have transmitted since the last look, by port.
    pub fn sent_all(&self) -> Vec<(u16, Vec<u8>)> {
        let ports = self.peers.keys();
        ports.flat_map(|port| self.sent(port.0).into_iter().map(|frame| (port.0, frame))).collect()
    }

    /// Sends one frame, and returns what came of it: port and frame.
    pub fn exchange(&mut self, port: u16, frame: impl Into<Vec<u8>>) -> Vec<(u16, Vec<u8>)> {
        self.send(port, frame);
        self.run();
        self.sent_all()
    }

    /// Sends one frame, and returns the ports that it left by.
    pub fn reaches(&mut self, port: u16, frame: impl Into<Vec<u8>>) -> Vec<u16> {
        self.exchange(port, frame).into_iter().map(|(port, _)| port).collect()
    }

    /// What would become of a packet now, by its key, and (if it's at hand) by its octets.
    pub fn trace(&self, key: &FlowKey, frame: Option<&[u8]>) -> Trace {
        trace::run(trace::Query {
            snapshot: &self.datapath.shared().published.load(),
            key,
            octets: frame.map(|frame| trace::Octets { frame, pool: &self.pool }),
            connections: self.datapath.connections(),
            second: Now { uptime: self.now }.second(),
            now: self.now,
        })
        .unwrap()
    }

    /// What a port has dropped.
    pub fn drops(&self, port: u16) -> Vec<(DropReason, u64)> {
        self.datapath.port_totals(PortId(port)).drops.nonzero().collect()
    }

    /// Packets for which no cached flow served, in all workers.
    pub fn misses(&self) -> u64 {
        self.datapath.counters().map(|counters| counters.worker.misses.get()).sum()
    }

    /// Packets that wait for a neighbour.
    pub fn held(&self) -> u64 {
        self.datapath.counters().map(|counters| counters.worker.held.get()).sum()
    }

    /// Tunnel ports whose next hop was asked for since the last look.
    pub fn wanted(&self) -> Vec<u16> {
        std::iter::from_fn(|| self.datapath.shared().wanted.pop()).map(|wanted| wanted.tunnel.0).collect()
    }

    /// `rx + copies = tx + drops + held`, over all ports; tunnels count in the drops only.
    pub fn check_counters(&self) {
        let (mut came, mut went) = (0, self.held());
        for port in (0..=LAST_PORT).map(PortId) {
            // All that was ever counted under this number, whoever had it.
            let totals = port_totals(self.datapath.counters(), port);
            went += totals.drops.total();
            if self.peers.contains_key(&port) || self.crafted.contains(&port) {
                came += totals.rx_packets + totals.copies;
                went += totals.tx_packets;
            }
        }
        assert_eq!(came, went, "rx + copies is not tx + drops + held");
    }
}

/// A port without a guard; its ofport is its number plus 1.
pub fn port_spec(id: u16, bridge: Option<u16>, vlan: VlanMode, kind: PortKind) -> PortSpec {
    PortSpec {
        id: PortId(id),
        ofport: OfPort(id + 1),
        name: format!("port{id}").into(),
        bridge: bridge.map(BridgeId),
        vlan,
        priority_tags: PriorityTags::Never,
        guard: Default::default(),
        protected: false,
        up: true,
        kind,
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.run();
        self.check_counters();
        self.wait(20);
        assert_eq!(self.held(), 0, "packets wait for ever");
        self.check_counters();
        self.workers.clear();
        assert_eq!(self.pool.at_home(), self.pool.frames(), "frames are away");
        assert_eq!(lost_packets(), self.lost_before, "packets were lost");
    }
}
