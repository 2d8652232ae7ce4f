//! The control thread's handle on the dataplane: publish, give and take queues, read counters.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use weft_conntrack::{Connections, Settings};
use weft_flow::message::FlowMod;
use weft_io::{FramePool, PortQueue};

use crate::counters::{Counters, PortTotals, PortUse, port_totals, port_use};
use crate::epoch::OutOfCells;
use crate::key::PortId;
use crate::listing::FlowInfo;
use crate::masks::Reads;
use crate::publish::Publisher;
use crate::shared::Shared;
use crate::snapshot::{BridgeId, Model, Snapshot};
use crate::tables::{Change, ChangeError, Extent, FlowTables, Outcome, Prepared};
use crate::why::{Found, Place, Question, Subject, Tallied};
use crate::worker::{Command, Worker};

/// How long a worker may take to answer: it answers between two bursts.
const PATIENCE: Duration = Duration::from_secs(5);

/// The dataplane can't be made, or doesn't answer.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The number of workers is out of range.
    #[error("{0} workers are out of range: 1 to {max}", max = Datapath::MAX_WORKERS)]
    Workers(usize),
    /// The kernel gives no memory.
    #[error("no memory for the dataplane's tables: {0}")]
    Memory(#[from] std::io::Error),
    /// Epochs are used up.
    #[error(transparent)]
    Cells(#[from] OutOfCells),
    /// A worker does not answer.
    #[error("worker {0} does not answer")]
    Silent(usize),
}

/// A bridge's rules can't be changed so.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// There is no such bridge.
    #[error("no such bridge")]
    NoBridge,
    /// One of the changes is refused, and none is made.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The dataplane doesn't follow.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
}

/// See the module's text. Belongs to the control thread.
#[derive(Debug)]
pub struct Datapath {
    shared: Arc<Shared>,
    publisher: Publisher,
    workers: Vec<Handle>,
    /// Which workers have how many queues of a port.
    placement: Vec<(PortId, usize)>,
    /// What ports had counted when their number was given to a new port: that is not the new port's.
    before: Vec<(PortId, PortTotals, PortUse)>,
}

#[derive(Debug)]
struct Handle {
    commands: Sender<Command>,
    counters: Arc<Counters>,
}

impl Datapath {
    /// The largest number of workers.
    pub const MAX_WORKERS: usize = 64;

    /// A dataplane without ports, and its workers, which the caller runs ([`crate::runtime::run`]) or drives by hand. There
    /// may be so many connections as [`Settings`] says when nobody says more.
    pub fn new(pool: Arc<FramePool>, workers: usize) -> Result<(Self, Vec<Worker>), DatapathError> {
        let random = std::hash::RandomState::new();
        let secret = [random.hash_one(0), random.hash_one(1)];
        Self::with_connections(pool, workers, Settings { secret, ..Settings::default() })
    }

    /// The same, with as many connections as `settings` says.
    pub fn with_connections(
        pool: Arc<FramePool>,
        workers: usize,
        settings: Settings,
    ) -> Result<(Self, Vec<Worker>), DatapathError> {
        if !(1..=Self::MAX_WORKERS).contains(&workers) {
            return Err(DatapathError::Workers(workers));
        }
        let connections = Arc::new(Connections::new(settings)?);
        let shared = Shared::new(pool, workers, connections)?;
        let publisher = Publisher::new(Arc::clone(&shared.epochs), Arc::clone(&shared.published))?;
        let (mut handles, mut made) = (Vec::new(), Vec::new());
        for index in 0..workers {
            let (commands, receiver): (_, Receiver<Command>) = unbounded();
            let counters = Arc::new(Counters::new()?);
            made.push(Worker::new(index, Arc::clone(&shared), Arc::clone(&counters), receiver)?);
            handles.push(Handle { commands, counters });
        }
        Ok((
            Datapath { shared, publisher, workers: handles, placement: Vec::new(), before: Vec::new() },
            made,
        ))
    }

    /// What all workers share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// All connections: to be listed, flushed and counted, and their limits and timeouts to be set. What is changed there
    /// holds for the next packet of any worker.
    pub fn connections(&self) -> &Arc<Connections> {
        &self.shared.connections
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// What was published last.
    pub fn model(&self) -> &Model {
        self.publisher.model()
    }

    /// Publishes `model`; the next packet of any worker meets it.
    pub fn publish(&mut self, model: Model) -> Result<Arc<Snapshot>, DatapathError> {
        let snapshot = self.publisher.publish(model)?;
        (0..self.workers.len()).for_each(|worker| self.shared.ring(worker));
        Ok(snapshot)
    }

    /// Changes a bridge's rules, groups and meters, all or nothing. The next packet of any worker meets the change.
    ///
    /// If packets have to be read more widely for it, workers do so before they meet it.
    pub fn change_flows(
        &mut self,
        bridge: BridgeId,
        changes: &[Change],
        now: Duration,
    ) -> Result<Outcome, FlowError> {
        let flows = self.flow_tables(bridge)?;
        self.commit(bridge, flows.prepare(changes, now)?)
    }

    /// Makes these flows, and no others, the rules of a part of a bridge's tables, all or nothing. Rules that are already
    /// so stay as they are, with their counters.
    pub fn replace_flows(
        &mut self,
        bridge: BridgeId,
        extent: Extent,
        wanted: &[FlowMod],
        now: Duration,
    ) -> Result<Outcome, FlowError> {
        let flows = self.flow_tables(bridge)?;
        self.commit(bridge, flows.replace(extent, wanted, now)?)
    }

    fn flow_tables(&self, bridge: BridgeId) -> Result<Arc<FlowTables>, FlowError> {
        let spec = self.publisher.model().bridges.iter().find(|spec| spec.id == bridge);
        Ok(Arc::clone(&spec.ok_or(FlowError::NoBridge)?.flows))
    }

    /// Widens what is read of packets as far as the bundle needs it, and commits it.
    fn commit(&mut self, bridge: BridgeId, prepared: Prepared<'_>) -> Result<Outcome, FlowError> {
        let reads = Reads::of(prepared.tables());
        let known = self.publisher.is_known(bridge, &reads);
        if !known && !self.publisher.is_wide_enough(bridge, &reads) {
            self.publisher.widen(Some((bridge, &reads))).map_err(DatapathError::from)?;
            self.shared.wait_for_rounds(PATIENCE).map_err(DatapathError::Silent)?;
        }
        let outcome = prepared.commit();
        self.shared.epochs.publish();
        if !known && !self.publisher.is_exact(bridge, reads) {
            self.publisher.widen(None).map_err(DatapathError::from)?;
        }
        (0..self.workers.len()).for_each(|worker| self.shared.ring(worker));
        Ok(outcome)
    }

    /// Takes rules out whose time is over, after adding up what flows have counted if there may be one. How many went.
    pub fn expire_flows(&mut self, now: Duration) -> Result<usize, DatapathError> {
        let bridges = &self.publisher.model().bridges;
        if !bridges.iter().any(|bridge| bridge.flows.is_due(now)) {
            return Ok(0);
        }
        self.settle()?;
        let expired = bridges.iter().map(|bridge| bridge.flows.expire(now).rules).sum();
        if expired > 0 {
            self.shared.epochs.publish();
        }
        Ok(expired)
    }

    /// Blocks until every worker has added what its flows have counted to rules, buckets and patch ports.
    pub fn settle(&self) -> Result<(), DatapathError> {
        self.ask_all(Command::Settle)
    }

    /// Gives a queue of a port to a worker. The worker that got a port's first queue transmits for those that have none.
    pub fn add_queue(&mut self, port: PortId, queue: Box<dyn PortQueue>, worker: usize) {
        if self.shared.owners.get(port).is_none() {
            self.shared.owners.set(port, Some(worker));
        }
        self.placement.push((port, worker));
        self.tell(worker, Command::AddQueue(port, queue));
    }

    /// How many queues a worker has.
    pub fn load_of(&self, worker: usize) -> usize {
        self.placement.iter().filter(|(_, owner)| *owner == worker).count()
    }

    /// Starts a port's counters at 0: for ports without a queue, too.
    pub fn reset_counters(&mut self, port: PortId) {
        self.before.retain(|(known, ..)| *known != port);
        let (totals, uses) = (port_totals(self.counters(), port), port_use(self.counters(), port));
        self.before.push((port, totals, uses));
        (0..self.workers.len()).for_each(|worker| self.tell(worker, Command::ForgetDrops(port)));
    }

    /// Takes a port's queues back, to be dropped by the caller. Blocks until their workers have let go of them: the port
    /// has to be out of what is published first.
    pub fn remove_queues(&mut self, port: PortId) -> Result<Vec<Box<dyn PortQueue>>, DatapathError> {
        let mut queues = Vec::new();
        for (_, worker) in self.placement.extract_if(.., |(placed, _)| *placed == port).collect::<Vec<_>>() {
            let (reply, answer) = bounded(1);
            self.tell(worker, Command::RemoveQueue(port, reply));
            queues.extend(answer.recv_timeout(PATIENCE).map_err(|_| DatapathError::Silent(worker))?);
        }
        self.shared.owners.set(port, None);
        self.shared.faults.clear(port);
        Ok(queues)
    }

    /// Blocks until every worker has taken up what was published and done what it was told.
    pub fn sync(&self) -> Result<(), DatapathError> {
        self.ask_all(Command::Sync)
    }

    fn ask_all(&self, command: impl Fn(Sender<()>) -> Command) -> Result<(), DatapathError> {
        for (worker, answer) in self.ask_each(command) {
            answer.recv_timeout(PATIENCE).map_err(|_| DatapathError::Silent(worker))?;
        }
        Ok(())
    }

    /// The cached flows of a port, of all workers: `limit` at most.
    pub fn flows(&self, port: PortId, limit: usize) -> Result<Vec<(usize, FlowInfo)>, DatapathError> {
        let mut flows = Vec::new();
        for worker in 0..self.workers.len() {
            let (reply, answer) = bounded(1);
            let rest = limit.saturating_sub(flows.len());
            self.tell(worker, Command::ListFlows(port, rest, reply));
            let part = answer.recv_timeout(PATIENCE).map_err(|_| DatapathError::Silent(worker))?;
            flows.extend(part.into_iter().map(|flow| (worker, flow)));
        }
        Ok(flows)
    }

    /// What programs have dropped, by place, of all workers, and how many packets there was no room for.
    pub fn drops(&self) -> Result<(BTreeMap<Place, Tallied>, u64), DatapathError> {
        let (mut places, mut beyond) = (BTreeMap::<Place, Tallied>::new(), 0);
        for (worker, answer) in self.ask_each(Command::Drops) {
            let (part, more) = answer.recv_timeout(PATIENCE).map_err(|_| DatapathError::Silent(worker))?;
            part.into_iter().for_each(|(place, tallied)| places.entry(place).or_default().add(tallied));
            beyond += more;
        }
        Ok((places, beyond))
    }

    /// The cached flows of a subject, and packets of it that were dropped since it was last asked for: these are watched
    /// for up to the second `until` (0: not at all).
    pub fn why(&self, subject: &Arc<Subject>, until: u32) -> Result<Found, DatapathError> {
        let question = |reply| Command::Why(Question { subject: Arc::clone(subject), until, reply });
        let mut found = Found::default();
        for (worker, answer) in self.ask_each(question) {
            found.add(answer.recv_timeout(PATIENCE).map_err(|_| DatapathError::Silent(worker))?);
        }
        Ok(found)
    }

    fn ask_each<T>(&self, command: impl Fn(Sender<T>) -> Command) -> Vec<(usize, Receiver<T>)> {
        let ask = |worker| {
            let (reply, answer) = bounded(1);
            self.tell(worker, command(reply));
            (worker, answer)
        };
        (0..self.workers.len()).map(ask).collect()
    }

    /// Tells every worker to end.
    pub fn stop(&self) {
        (0..self.workers.len()).for_each(|worker| self.tell(worker, Command::Stop));
    }

    /// Each worker's counters.
    pub fn counters(&self) -> impl Iterator<Item = &Counters> {
        self.workers.iter().map(|worker| &*worker.counters)
    }

    /// One port's counters since it came.
    pub fn port_totals(&self, port: PortId) -> PortTotals {
        let now = port_totals(self.counters(), port);
        match self.before.iter().find(|(known, ..)| *known == port) {
            Some((_, before, _)) => now.since(before),
            None => now,
        }
    }

    /// What one port takes of the workers, since it came.
    pub fn port_use(&self, port: PortId) -> PortUse {
        let now = port_use(self.counters(), port);
        match self.before.iter().find(|(known, ..)| *known == port) {
            Some((.., before)) => now.since(before),
            None => now,
        }
    }

    /// Which worker has the port's queue.
    pub fn owner(&self, port: PortId) -> Option<usize> {
        self.shared.owners.get(port)
    }

    fn tell(&self, worker: usize, command: Command) {
        if let Some(handle) = self.workers.get(worker) {
            // A worker that has ended takes the process down; nobody is left to be told.
            let _ = handle.commands.send(command);
            self.shared.ring(worker);
        }
    }
}
