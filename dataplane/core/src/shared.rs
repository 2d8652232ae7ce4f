//! What workers and the control thread share, and the time that they go by.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use weft_io::FramePool;

use crate::bell::Bell;
use crate::epoch::Epochs;
use crate::faults::Faults;
use crate::key::PortId;
use crate::output::{INBOX, Inbox, Owners};
use crate::publish::Published;

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
    /// Tunnel ports whose next hop a worker needs and does not know.
    pub wanted: ArrayQueue<PortId>,
    /// What is wrong with ports' queues.
    pub faults: Faults,
    /// Wakes the control thread.
    pub control: Bell,
    /// Each worker's inbox and bell.
    pub workers: Vec<Mailbox>,
}

/// How to reach a worker.
#[derive(Debug, Default)]
pub struct Mailbox {
    /// Packets for its ports.
    pub inbox: MailInbox,
    /// Rung when it may be asleep.
    pub bell: Bell,
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
    pub fn new(pool: Arc<FramePool>, workers: usize) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Shared {
            pool,
            epochs: Arc::new(Epochs::new()?),
            published: Arc::new(Published::new()),
            owners: Owners::default(),
            wanted: ArrayQueue::new(PortId::COUNT),
            faults: Faults::default(),
            control: Bell::default(),
            workers: (0..workers).map(|_| Mailbox::default()).collect(),
        }))
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
