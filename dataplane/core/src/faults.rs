//! What is wrong with ports' queues, as their workers have last seen it.

use std::sync::atomic::{AtomicU8, Ordering};

use weft_io::queue::QueueFault;

use crate::key::PortId;

/// A queue's state, as one octet can say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Health {
    /// Nothing is wrong.
    #[default]
    Good,
    /// The device is gone.
    Gone,
    /// The device is administratively down.
    Down,
    /// The kernel reports something else.
    Broken,
}

/// One octet per port: written by the worker that has the queue, read by the control thread.
#[derive(Debug)]
pub struct Faults(Box<[AtomicU8]>);

impl Default for Faults {
    fn default() -> Self {
        Faults((0..PortId::COUNT).map(|_| AtomicU8::new(0)).collect())
    }
}

impl Faults {
    /// Notes what is wrong with a port's queue; `true` if that is news.
    pub fn report(&self, port: PortId, fault: Option<&QueueFault>) -> bool {
        let health = match fault {
            None => Health::Good,
            Some(QueueFault::DeviceGone) => Health::Gone,
            Some(QueueFault::DeviceDown) => Health::Down,
            Some(QueueFault::Os(_)) => Health::Broken,
        };
        self.0
            .get(port.index())
            .is_some_and(|octet| octet.swap(health as u8, Ordering::AcqRel) != health as u8)
    }

    /// The port's queue was taken away.
    pub fn clear(&self, port: PortId) {
        self.report(port, None);
    }

    /// What was last noted.
    pub fn health(&self, port: PortId) -> Health {
        match self.0.get(port.index()).map(|octet| octet.load(Ordering::Acquire)) {
            Some(1) => Health::Gone,
            Some(2) => Health::Down,
            Some(3) => Health::Broken,
            _ => Health::Good,
        }
    }
}
