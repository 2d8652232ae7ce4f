//! The control thread's state: what is wanted, what is open, and what is published.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_config::Config;
use weft_config::store::Store;
use weft_core::datapath::Datapath;
use weft_core::faults::Health;
use weft_core::fdb::Fdb;
use weft_core::key::PortId;
use weft_core::snapshot::BridgeId;
use weft_core::tables::FlowTables;
use weft_io::FramePool;
use weft_io::netlink::{Event, Pair};
use weft_wire::PortName;

use crate::device::{Handle, LazyXdp, Wanted};
use crate::numbers::Numbers;
use crate::underlay::{Underlay, UplinkChanges};

/// How long it may take to look after all devices without that being made up for.
const SLOW: Duration = Duration::from_millis(100);
/// For how long absent devices are left alone at most.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// The switch, seen from the control thread.
#[derive(Debug)]
pub struct Switch {
    /// What is wanted, and persisted.
    pub config: Config,
    pub(crate) store: Store,
    pub(crate) datapath: Datapath,
    pub(crate) pool: Arc<FramePool>,
    pub(crate) xdp: LazyXdp,
    pub(crate) underlay: Underlay,
    pub(crate) bridges: BTreeMap<PortName, BridgeState>,
    /// Ports, internal ports and tunnels, by name.
    pub(crate) ports: BTreeMap<PortName, PortState>,
    pub(crate) bridge_numbers: Numbers,
    pub(crate) port_numbers: Numbers,
    pub(crate) start: Instant,
    /// The processor of each worker.
    pub(crate) pins: Vec<Option<u16>>,
    pub(crate) samples: Vec<Sample>,
    /// Where rules have sent packets, and when that was asked for.
    pub(crate) routes: BTreeMap<Pair, u32>,
    /// Until when absent devices are left alone.
    pub(crate) rest: Instant,
    /// Texts and dumps of flow tables that take several requests.
    pub(crate) flow_sessions: crate::flows::Sessions,
    /// When ports last dropped packets.
    pub(crate) recent: crate::why::Recent,
    /// What the log has been told of limits.
    pub(crate) limit_log: crate::limits::LimitLog,
    /// Port security and security groups, as the flow tables have them.
    pub(crate) acl: crate::acl::Acl,
}

/// A bridge that exists.
#[derive(Debug)]
pub struct BridgeState {
    /// Its number in the dataplane.
    pub id: BridgeId,
    /// Its forwarding database.
    pub fdb: Arc<Fdb>,
    /// Its flow tables, groups and meters.
    pub flows: Arc<FlowTables>,
}

/// A port that exists.
#[derive(Debug)]
pub struct PortState {
    /// Its number in the dataplane.
    pub id: PortId,
    /// What is behind it.
    pub live: Live,
}

/// What is behind a port.
#[derive(Debug)]
pub enum Live {
    /// An open device.
    Open(Wanted, Box<Handle>),
    /// A device that isn't there, and why; it's tried again.
    Absent(Wanted, String),
    /// A tunnel: nothing of its own.
    Tunnel,
    /// A patch port: its peer, if that is one that names it.
    Patch,
}

/// A worker's counters at the last tick, and what came of them.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sample {
    /// Nanoseconds spent on packets.
    pub busy_nanos: u64,
    /// Share of the time between the last two ticks, 0 to 100.
    pub busy_percent: f64,
}

impl Switch {
    /// Seconds since the start, as the dataplane counts them.
    pub fn second(&self) -> u32 {
        weft_core::shared::Now { uptime: self.start.elapsed() }.second()
    }

    /// What has to be done once a second: ageing, rules whose time is over, devices that are gone or back, samples.
    pub fn tick(&mut self, elapsed: f64) {
        let second = self.second();
        for bridge in &self.config.bridges {
            let max_age = bridge.fdb_ageing.get();
            if max_age > 0
                && let Some(state) = self.bridges.get(&bridge.name)
            {
                // Both seconds are cut off: a difference of `max_age` may be almost a second less.
                state.fdb.expire(second, max_age + 1);
            }
        }
        for (sample, counters) in self.samples.iter_mut().zip(self.datapath.counters()) {
            let busy = counters.worker.busy_nanos.get();
            let share = busy.saturating_sub(sample.busy_nanos) as f64 / 1e9 / elapsed.max(1e-3) * 100.0;
            *sample = Sample { busy_nanos: busy, busy_percent: share.clamp(0.0, 100.0) };
        }
        self.settle_state();
        self.follow_drops();
        self.follow_limits(elapsed);
        self.expire_flows();
        self.forget_routes();
        self.check_devices();
    }

    /// Takes in what the underlay has to say.
    pub fn follow_underlay(&mut self) {
        let now = Instant::now();
        // The resolver probes what is unknown by itself; a packet that asks makes this turn happen now.
        let asked = self.take_wanted();
        let (events, mut changed) = self.underlay.update(now);
        changed |= asked;
        let uplinks = self.underlay.tend_uplinks(now, &mut self.xdp, &mut self.port_numbers);
        if !uplinks.is_empty() {
            changed = true;
            self.switch_uplinks(uplinks);
        }
        if changed {
            self.publish();
        }
        if events.iter().any(|event| matches!(event, Event::Device { .. } | Event::Resynchronized)) {
            self.check_devices();
        }
    }

    fn switch_uplinks(&mut self, changes: UplinkChanges) {
        for (id, queues) in changes.opened {
            self.datapath.reset_counters(id);
            self.add_queues(id, queues);
        }
        if changes.closed.is_empty() {
            return;
        }
        self.publish();
        for uplink in changes.closed {
            tracing::info!("uplink {}: closed", uplink.name);
            self.remove_queues(uplink.id);
            self.port_numbers.give(uplink.id.0);
        }
    }

    /// Spreads a port's queues over the workers, the least loaded first.
    pub(crate) fn add_queues(&mut self, id: PortId, queues: Vec<Box<dyn weft_io::PortQueue>>) {
        for queue in queues {
            let worker = (0..self.datapath.workers()).min_by_key(|&worker| self.datapath.load_of(worker));
            self.datapath.add_queue(id, queue, worker.unwrap_or(0));
        }
    }

    /// Takes a port's queues away from the workers and closes them.
    pub(crate) fn remove_queues(&mut self, id: PortId) {
        match self.datapath.remove_queues(id) {
            Ok(queues) => drop(queues),
            Err(error) => fatal(&error),
        }
    }

    /// Publishes what is wanted and what is open.
    pub(crate) fn publish(&mut self) {
        let model = self.model();
        let published = self.datapath.publish(model).map(|_| ()).and_then(|()| self.datapath.sync());
        if let Err(error) = published {
            fatal(&error);
        }
    }

    /// Looks at devices whose queue has reported that something is wrong.
    pub(crate) fn check_faults(&mut self) {
        let faults = &self.datapath.shared().faults;
        if self
            .ports
            .values()
            .any(|port| matches!(port.live, Live::Open(..)) && faults.health(port.id) == Health::Gone)
        {
            self.check_devices();
        }
    }

    /// The disk has refused a change that was acknowledged: the whole state is written, again and again until it is taken.
    /// While nobody asks for anything, a long journal is made a short one.
    fn settle_state(&mut self) {
        if !self.store.is_behind() {
            if let Err(error) = self.store.rest(&self.config) {
                tracing::warn!("{error}; the journal has it all");
            }
            return;
        }
        match self.store.settle(&self.config) {
            Ok(()) => tracing::warn!("a change could not be flushed to the disk; the state is written anew"),
            Err(error) => tracing::error!("{error}; the last changes would not survive a power cut"),
        }
    }

    /// Ends it all: workers stop, queues close, taps that are not persistent go.
    pub(crate) fn close(&mut self) {
        if let Err(error) = self.store.settle(&self.config) {
            tracing::warn!("{error}; the journal has it all");
        }
        self.datapath.stop();
    }

    /// Closes devices that are gone, and tries to open those that were absent.
    pub(crate) fn check_devices(&mut self) {
        let start = Instant::now();
        let tired = start < self.rest;
        let watched = |live: &Live| match live {
            Live::Open(..) => true,
            Live::Absent(..) => !tired,
            Live::Tunnel | Live::Patch => false,
        };
        let ports = self.ports.iter().filter(|(_, port)| watched(&port.live));
        let names: Vec<PortName> = ports.map(|(name, _)| name.clone()).collect();
        let mut changed = false;
        for name in names {
            changed |= self.check_device(&name);
        }
        if changed {
            self.publish();
        }
        // Some devices take long to say that they can't be opened; nobody is to wait for them all the time.
        if !tired {
            let took = start.elapsed();
            self.rest = if took > SLOW { Instant::now() + (took * 5).min(LONGEST_REST) } else { start };
        }
    }

    fn check_device(&mut self, name: &PortName) -> bool {
        let Some(port) = self.ports.get(name) else { return false };
        let id = port.id;
        match &port.live {
            Live::Open(wanted, handle) => {
                let gone = self.datapath.shared().faults.health(id) == Health::Gone;
                let problem = handle.problem();
                if !gone && problem.is_none() {
                    return false;
                }
                let why = problem.unwrap_or_else(|| "the device is gone".to_owned());
                tracing::warn!("port {name}: down: {why}");
                let absent = Live::Absent(wanted.clone(), why);
                // A persistent tap would keep a namespace alive that is deleted.
                handle.discard();
                // The handle goes after the queues: it gives the device its settings back.
                let _closing = self.ports.get_mut(name).map(|port| std::mem::replace(&mut port.live, absent));
                self.publish();
                self.remove_queues(id);
                true
            }
            Live::Absent(wanted, why) => match crate::device::open(wanted, &mut self.xdp) {
                Ok(opened) => {
                    tracing::info!("port {name}: up again: {}", opened.handle.backend);
                    let live = Live::Open(wanted.clone(), Box::new(opened.handle));
                    if let Some(port) = self.ports.get_mut(name) {
                        port.live = live;
                    }
                    self.add_queues(id, opened.queues);
                    true
                }
                Err(error) => {
                    let error = error.to_string();
                    if *why != error
                        && let Some(PortState { live: Live::Absent(_, why), .. }) = self.ports.get_mut(name)
                    {
                        *why = error;
                    }
                    false
                }
            },
            Live::Tunnel | Live::Patch => false,
        }
    }
}

/// A dataplane that does not answer is a dead switch: better none than half of one.
pub(crate) fn fatal(error: &dyn std::error::Error) {
    tracing::error!("the dataplane has failed: {error}; ending");
    std::process::abort();
}
