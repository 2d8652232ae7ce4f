//! A port in memory: a test or another thread puts packets in on one side and takes them out on the other.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use weft_wire::{DropCounts, DropReason};

use crate::packet::FRAME_SIZE;
use crate::pool::FrameCache;
use crate::queue::{Burst, PortQueue, Sent};

/// The switch's end of an in-memory port.
#[derive(Debug)]
pub struct MemoryQueue {
    wire: Arc<Wire>,
}

/// The outside end of an in-memory port: cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct MemoryPeer {
    wire: Arc<Wire>,
}

#[derive(Debug)]
struct Wire {
    to_switch: ArrayQueue<Vec<u8>>,
    from_switch: ArrayQueue<Vec<u8>>,
}

/// An in-memory port whose two directions hold `depth` packets each: the queue for the switch, and the outside.
pub fn pair(depth: usize) -> (MemoryQueue, MemoryPeer) {
    let wire = Arc::new(Wire { to_switch: ArrayQueue::new(depth), from_switch: ArrayQueue::new(depth) });
    (MemoryQueue { wire: Arc::clone(&wire) }, MemoryPeer { wire })
}

impl MemoryPeer {
    /// Offers a packet to the switch; gives it back when the queue is full.
    pub fn send(&self, octets: impl Into<Vec<u8>>) -> Result<(), Vec<u8>> {
        self.wire.to_switch.push(octets.into())
    }

    /// The next packet that the switch has transmitted.
    pub fn receive(&self) -> Option<Vec<u8>> {
        self.wire.from_switch.pop()
    }
}

impl PortQueue for MemoryQueue {
    fn rx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) {
        while burst.remaining_capacity() > 0 {
            let Some(octets) = self.wire.to_switch.pop() else { break };
            let Some(mut packet) = frames.alloc() else {
                drops.add(DropReason::RxNoFrame, 1);
                continue;
            };
            if octets.len() <= FRAME_SIZE && packet.append(&octets).is_some() {
                burst.push(packet);
            } else {
                frames.free(packet);
                drops.add(DropReason::RxTooBig, 1);
            }
        }
    }

    fn tx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) -> Sent {
        let mut sent = Sent::default();
        for packet in burst.drain(..) {
            let octets: Vec<u8> = packet.segments().flatten().copied().collect();
            let bytes = octets.len() as u64;
            match self.wire.from_switch.push(octets) {
                Ok(()) => sent = Sent { packets: sent.packets + 1, bytes: sent.bytes + bytes },
                Err(_) => drops.add(DropReason::TxRingFull, 1),
            }
            frames.free(packet);
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::FramePool;

    #[test]
    fn what_goes_in_comes_out_and_what_does_not_fit_is_counted() {
        let pool = FramePool::new(FramePool::MIN_FRAMES).unwrap();
        let mut frames = pool.cache();
        let (mut queue, peer) = pair(2);
        let (mut burst, mut drops) = (Burst::new(), DropCounts::default());
        peer.send([1; 60]).unwrap();
        peer.send([2; 9000]).unwrap();
        assert!(peer.send([3; 60]).is_err());
        queue.rx_burst(&mut frames, &mut burst, &mut drops);
        assert_eq!((burst.len(), drops.get(DropReason::RxTooBig)), (1, 1));
        assert_eq!(queue.tx_burst(&mut frames, &mut burst, &mut drops), Sent { packets: 1, bytes: 60 });
        assert_eq!(peer.receive(), Some(vec![1; 60]));
        assert_eq!(peer.receive(), None);
    }
}
