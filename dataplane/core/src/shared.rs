//! What workers and the control thread share, and the time that they go by.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use weft_conntrack::Connections;
use weft_io::FramePool;

use crate::bell::Bell;
use crate::budget::SHARE;
use crate::epoch::Epochs;
use crate::faults::Faults;
use crate::key::PortId;
use crate::output::{INBOX, Inbox, Owners};
use crate::packet_in::PacketIns;
use crate::publish::Published;
use crate::worker::CACHED_FLOWS;

/// What all workers and the control thread share.
#[derive(Debug)]
pub struct Shared {
    /// Frames.
    pub pool: Arc<FramePool>,
    /// Epochs.
    pub epochs: Arc<Epochs>,
    /// The configuration.
    pub published: Arc<Published>,
    /// Who transmits for which port.
    pub owners: Owners,
    /// Remote ends whose next hop a worker needs and does not know.
    pub wanted: ArrayQueue<Wanted>,
    /// What is wrong with ports' queues.
    pub faults: Faults,
    /// Packets for the controllers.
    pub packet_ins: PacketIns,
    /// Connections.
    pub connections: Arc<Connections>,
    /// What each port may take.
    pub limits: Limits,
    /// Wakes the control thread.
    pub control: Bell,
    /// Each worker's inbox and bell.
    pub workers: Vec<Mailbox>,
}

/// What each port may take of a worker; the next round of each goes by it.
#[derive(Debug)]
pub struct Limits {
    /// Percent of a worker's time for walks while others need it ([`crate::budget`]).
    pub slow_path: AtomicU32,
    /// Cached flows of each width.
    pub flows: AtomicU32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { slow_path: AtomicU32::new(SHARE), flows: AtomicU32::new(CACHED_FLOWS as u32) }
    }
}

/// A remote end whose next hop a packet needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The tunnel port that leads there.
    pub tunnel: PortId,
    /// The remote end, if the tunnel leaves it to the flow.
    pub remote: Option<Ipv4Addr>,
}

/// How to reach a worker.
#[derive(Debug, Default)]
pub struct Mailbox {
    /// Packets for its ports.
    pub inbox: MailInbox,
    /// Rung when it may be asleep.
    pub bell: Bell,
    /// Whether it is at work, and by which snapshot.
    pub round: Round,
}

/// Whether a worker is at work, and by which snapshot: who has replaced a snapshot waits for those that go by older ones.
#[derive(Debug, Default)]
pub struct Round(AtomicU64);

impl Round {
    const OUTSIDE: u64 = 0;
    const UNKNOWN: u64 = u64::MAX;

    /// The worker is about to take up a snapshot.
    pub fn enter(&self) {
        // Before it looks for one: whoever publishes afterwards sees this, or the worker sees what was published.
        self.0.swap(Self::UNKNOWN, Ordering::SeqCst);
    }

    /// It goes by this one.
    pub fn goes_by(&self, generation: u64) {
        self.0.store(generation + 1, Ordering::Release);
    }

    /// It goes by none until it enters again.
    pub fn leave(&self) {
        self.0.store(Self::OUTSIDE, Ordering::Release);
    }

    fn is_behind(&self, generation: u64) -> bool {
        match self.0.load(Ordering::SeqCst) {
            Self::OUTSIDE => false,
            Self::UNKNOWN => true,
            by => by <= generation,
        }
    }
}

/// An inbox of [`INBOX`] packets.
#[derive(Debug)]
pub struct MailInbox(Inbox);

impl Default for MailInbox {
    fn default() -> Self {
        MailInbox(ArrayQueue::new(INBOX))
    }
}

impl std::ops::Deref for MailInbox {
    type Target = Inbox;

    fn deref(&self) -> &Inbox {
        &self.0
    }
}

impl Shared {
    /// For `workers` workers over `pool`.
    pub fn new(
        pool: Arc<FramePool>,
        workers: usize,
        connections: Arc<Connections>,
    ) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Shared {
            pool,
            epochs: Arc::new(Epochs::new()?),
            published: Arc::new(Published::new()),
            owners: Owners::default(),
            wanted: ArrayQueue::new(PortId::COUNT),
            faults: Faults::default(),
            packet_ins: PacketIns::default(),
            connections,
            limits: Limits::default(),
            control: Bell::default(),
            workers: (0..workers).map(|_| Mailbox::default()).collect(),
        }))
    }

    /// Blocks until no worker is in a round that goes by an older snapshot than the latest. The error is a worker that
    /// does not come to its end.
    pub fn wait_for_rounds(&self, patience: Duration) -> Result<(), usize> {
        let generation = self.published.generation();
        std::sync::atomic::fence(Ordering::SeqCst);
        let start = std::time::Instant::now();
        for (worker, mailbox) in self.workers.iter().enumerate() {
            while mailbox.round.is_behind(generation) {
                if start.elapsed() > patience {
                    return Err(worker);
                }
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    /// Wakes a worker that may be asleep.
    pub fn ring(&self, worker: usize) {
        if let Some(mailbox) = self.workers.get(worker) {
            mailbox.bell.ring();
        }
    }
}

/// The time, as the worker is told it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Since the process's start.
    pub uptime: Duration,
}

impl Now {
    /// Whole seconds since the process's start, plus one, so that 0 means never.
    #[inline]
    pub fn second(self) -> u32 {
        self.uptime.as_secs() as u32 + 1
    }
}
