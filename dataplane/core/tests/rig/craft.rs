//! A port whose packets a test makes itself: several frames, offload state.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use weft_io::{Burst, FrameCache, Offload, Packet, PortQueue, Sent};
use weft_wire::DropCounts;

/// A packet to be received: its frames, and where an unfinished checksum starts and goes.
#[derive(Clone, Debug, Default)]
pub struct Crafted {
    pub frames: Vec<Vec<u8>>,
    pub partial: Option<(usize, usize)>,
    pub gso: Option<(u8, u16)>,
}

/// What was transmitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub octets: Vec<u8>,
    pub frames: usize,
    pub offload: Offload,
    pub checksum_start: Option<usize>,
}

/// The outside of a [`CraftQueue`].
#[derive(Clone, Debug, Default)]
pub struct Workshop {
    pub to_switch: Arc<Mutex<VecDeque<Crafted>>>,
    pub from_switch: Arc<Mutex<Vec<Taken>>>,
}

#[derive(Debug)]
pub struct CraftQueue(pub Workshop);

impl Workshop {
    pub fn send(&self, packet: Crafted) {
        self.to_switch.lock().unwrap().push_back(packet);
    }

    pub fn taken(&self) -> Vec<Taken> {
        std::mem::take(&mut self.from_switch.lock().unwrap())
    }
}

fn make(frames: &mut FrameCache, crafted: &Crafted) -> Packet {
    let mut packet = frames.alloc().unwrap();
    packet.append(&crafted.frames[0]).unwrap();
    if let Some((start, offset)) = crafted.partial {
        packet.request_checksum(start, offset).unwrap();
    }
    if let Some((kind, size)) = crafted.gso {
        (packet.offload.gso_type, packet.offload.gso_size) = (kind, size);
    }
    for octets in &crafted.frames[1..] {
        let mut tail = frames.alloc().unwrap();
        tail.append(octets).unwrap();
        packet.push_continuation(tail).unwrap();
    }
    packet
}

impl PortQueue for CraftQueue {
    fn rx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, _: &mut DropCounts) {
        while burst.remaining_capacity() > 0 {
            let Some(crafted) = self.0.to_switch.lock().unwrap().pop_front() else { return };
            burst.push(make(frames, &crafted));
        }
    }

    fn tx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, _: &mut DropCounts) -> Sent {
        let mut sent = Sent::default();
        for packet in burst.drain(..) {
            sent = Sent { packets: sent.packets + 1, bytes: sent.bytes + packet.total_len() as u64 };
            self.0.from_switch.lock().unwrap().push(Taken {
                octets: packet.segments().flatten().copied().collect(),
                frames: 1 + packet.continuations(),
                offload: packet.offload,
                checksum_start: packet.checksum_start(),
            });
            frames.free(packet);
        }
        sent
    }
}
