//! A port that receives nothing and swallows what it is given.

use weft_wire::DropCounts;

use crate::pool::FrameCache;
use crate::queue::{Burst, PortQueue, Sent, unload};

/// The null port's queue: transmit frees the frames and counts them as sent.
#[derive(Debug, Default)]
pub struct NullQueue;

impl PortQueue for NullQueue {
    fn rx_burst(&mut self, _: &mut FrameCache, _: &mut Burst, _: &mut DropCounts) {}

    fn tx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, _: &mut DropCounts) -> Sent {
        let mut sent = Sent { packets: burst.len() as u64, bytes: 0 };
        for packet in unload(burst) {
            sent.bytes += packet.total_len() as u64;
            frames.free(packet.take());
        }
        sent
    }

    fn is_transmit_only(&self) -> bool {
        true
    }
}
