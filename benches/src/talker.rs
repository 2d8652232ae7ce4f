//! Two ports that talk: first one at a time, so that each knows the other's connections, then both.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use weft_io::null::NullQueue;
use weft_io::queue::Sent;
use weft_io::replay::ReplayQueue;
use weft_io::{Burst, FrameCache, PortQueue};
use weft_wire::DropCounts;

/// Whose turn it is, by stages: those of the first port are even.
pub type Turn = AtomicUsize;

/// One of two ports that talk in turn, twice each, and then both.
#[derive(Debug)]
pub struct Talker {
    /// Which of the two.
    pub own: usize,
    /// Whose turn it is.
    pub turn: Arc<Turn>,
    /// What comes in in its own stages, once.
    pub stages: [ReplayQueue; 2],
    /// What comes in when both talk, over and over.
    pub again: ReplayQueue,
}

impl Talker {
    /// The turn of both.
    pub const ALL: usize = usize::MAX;
}

impl PortQueue for Talker {
    fn rx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) {
        match self.turn.load(Ordering::Relaxed) {
            Talker::ALL => self.again.rx_burst(frames, burst, drops),
            stage if stage % 2 == self.own => {
                if let Some(queue) = self.stages.get_mut(stage / 2) {
                    queue.rx_burst(frames, burst, drops);
                }
            }
            _ => {}
        }
    }

    fn tx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) -> Sent {
        NullQueue.tx_burst(frames, burst, drops)
    }
}
