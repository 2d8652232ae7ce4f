//! A port that receives packets which differ in protocol, addresses and ports alone: millions of flows in little memory.

use weft_core::key::PortId;
use weft_io::null::NullQueue;
use weft_io::queue::Sent;
use weft_io::{Burst, FrameCache, PortQueue};
use weft_wire::{DropCounts, DropReason, Mac};

use crate::frames;

/// What tells one packet from another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// IPv4 addresses: source, destination.
    pub addresses: [u32; 2],
    /// Ports: source, destination.
    pub ports: [u16; 2],
    /// The IP protocol; UDP's header stands behind it whatever it is.
    pub protocol: u8,
}

/// Receives one packet for each tuple, over and over. See the module's text.
#[derive(Debug)]
pub struct SynthQueue {
    template: Vec<u8>,
    tuples: Box<[Tuple]>,
    next: usize,
    burst: usize,
    /// It receives at every so many-th call.
    every: u32,
    calls: u32,
}

impl SynthQueue {
    /// `source` tells the stations of several such ports apart. Bursts of 32.
    pub fn new(source: PortId, tuples: Vec<Tuple>) -> Self {
        let source = Mac([2, 0x30, 0, 0, (source.0 >> 8) as u8, source.0 as u8]);
        let template = frames::udp(source, frames::DESTINATION, 0, false);
        SynthQueue { template, tuples: tuples.into(), next: 0, burst: 32, every: 1, calls: 0 }
    }

    /// Receives only `burst` packets at every `every`-th call.
    #[must_use]
    pub fn sparse(self, burst: usize, every: u32) -> Self {
        SynthQueue { burst, every: every.max(1), ..self }
    }
}

impl PortQueue for SynthQueue {
    fn rx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) {
        self.calls = self.calls.wrapping_add(1);
        if !self.calls.is_multiple_of(self.every) {
            return;
        }
        for _ in 0..self.burst.min(burst.remaining_capacity()) {
            let Some(tuple) = self.tuples.get(self.next) else { return };
            self.next = if self.next + 1 == self.tuples.len() { 0 } else { self.next + 1 };
            let Some(mut packet) = frames.alloc() else {
                drops.add(DropReason::RxNoFrame, 1);
                return;
            };
            let _ = packet.append(&self.template);
            tuple.write(packet.data_mut());
            burst.push(packet);
        }
    }

    fn tx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) -> Sent {
        NullQueue.tx_burst(frames, burst, drops)
    }
}

impl Tuple {
    /// Into an untagged IPv4 frame without options; its header's checksum, which no switch looks at, stays.
    #[inline]
    fn write(&self, frame: &mut [u8]) {
        let Some(Ok(part)) = frame.get_mut(22..38).map(<&mut [u8; 16]>::try_from) else { return };
        part[1] = self.protocol;
        part[4..8].copy_from_slice(&self.addresses[0].to_be_bytes());
        part[8..12].copy_from_slice(&self.addresses[1].to_be_bytes());
        part[12..14].copy_from_slice(&self.ports[0].to_be_bytes());
        part[14..16].copy_from_slice(&self.ports[1].to_be_bytes());
    }
}
