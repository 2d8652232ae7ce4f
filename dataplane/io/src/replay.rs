//! Ports over pcap files: replay (preloaded, once or in a loop) and capture.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};

use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use pcap_file::{DataLink, PcapError};
use weft_wire::{DropCounts, DropReason};

use crate::mem::{HugeTable, prefetch};
use crate::pool::FrameCache;
use crate::queue::{Burst, PortQueue, QueueFault, Sent};

/// The file can't be replayed or written.
#[derive(Debug, thiserror::Error)]
pub enum PcapFileError {
    /// Opening or creating failed.
    #[error("{path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The content isn't a pcap file, or one of its packets is broken.
    #[error("{path}: packet {packet}: {source}")]
    Content {
        /// The file.
        path: PathBuf,
        /// The packet's number, from 1; 0 is the file's header.
        packet: u64,
        /// What is wrong.
        source: PcapError,
    },
    /// The packets are not Ethernet frames.
    #[error("{path}: link type {found:?} is not Ethernet")]
    LinkType {
        /// The file.
        path: PathBuf,
        /// What the file's header says.
        found: DataLink,
    },
    /// There is nothing to replay.
    #[error("{0}: no packet in it")]
    Empty(PathBuf),
}

/// Replays the Ethernet frames of a pcap file: all are loaded at the start, and copied into a frame one by one.
pub struct ReplayQueue {
    /// All octets, frame after frame. In large pages: else a page would be looked up for every 64 short packets.
    octets: HugeTable<u8>,
    /// Where each frame ends in `octets`.
    ends: Box<[u32]>,
    next: usize,
    start: usize,
    repeat: bool,
    /// Packets per call at most.
    burst: usize,
}

/// How many octets ahead of the frame that is copied the next ones are called for: eight short frames.
const AHEAD: usize = 512;

impl ReplayQueue {
    /// Loads `path`; with `repeat`, starts over at the end.
    pub fn open(path: &Path, repeat: bool) -> Result<Self, PcapFileError> {
        let at = |packet| move |source| PcapFileError::Content { path: path.to_owned(), packet, source };
        let file =
            File::open(path).map_err(|source| PcapFileError::Open { path: path.to_owned(), source })?;
        let mut reader = PcapReader::new(BufReader::new(file)).map_err(at(0))?;
        let found = reader.header().datalink;
        if found != DataLink::ETHERNET {
            return Err(PcapFileError::LinkType { path: path.to_owned(), found });
        }
        let (mut octets, mut ends) = (Vec::new(), Vec::new());
        while let Some(packet) = reader.next_packet() {
            let packet = packet.map_err(at(ends.len() as u64 + 1))?;
            octets.extend_from_slice(&packet.data);
            ends.push(octets.len() as u32);
        }
        if ends.is_empty() {
            return Err(PcapFileError::Empty(path.to_owned()));
        }
        Self::new(&octets, ends, repeat)
            .map_err(|source| PcapFileError::Open { path: path.to_owned(), source })
    }

    /// The same, from frames in memory. A frame beyond what a frame of the pool takes is a counted drop at replay.
    ///
    /// # Errors
    /// The system has no memory for them.
    pub fn from_frames<'a>(
        frames: impl IntoIterator<Item = &'a [u8]>,
        repeat: bool,
    ) -> std::io::Result<Self> {
        let (mut octets, mut ends) = (Vec::new(), Vec::new());
        for frame in frames {
            octets.extend_from_slice(frame);
            ends.push(octets.len() as u32);
        }
        Self::new(&octets, ends, repeat)
    }

    fn new(frames: &[u8], ends: Vec<u32>, repeat: bool) -> std::io::Result<Self> {
        let mut octets = HugeTable::new(frames.len())?;
        octets.copy_from_slice(frames);
        Ok(ReplayQueue { octets, ends: ends.into(), next: 0, start: 0, repeat, burst: 32 })
    }

    /// How many packets a call delivers at most (1 to 64; 32 unless set).
    pub fn set_burst(&mut self, packets: usize) {
        self.burst = packets.clamp(1, crate::queue::BURST);
    }

    /// How many frames were loaded.
    pub fn frames(&self) -> usize {
        self.ends.len()
    }
}

impl std::fmt::Debug for ReplayQueue {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "ReplayQueue({} of {} frames)", self.next, self.ends.len())
    }
}

impl PortQueue for ReplayQueue {
    fn rx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) {
        if self.ends.is_empty() {
            return;
        }
        let mut room = self.burst.min(burst.remaining_capacity());
        while room > 0 {
            if self.next == self.ends.len() {
                if !self.repeat {
                    return;
                }
                (self.next, self.start) = (0, 0);
            }
            let ends = self.ends.get(self.next..).unwrap_or_default();
            let ends = ends.get(..room).unwrap_or(ends);
            (self.next, room) = (self.next + ends.len(), room - ends.len());
            let mut start = self.start;
            for &end in ends {
                let frame = &self.octets[start..end as usize];
                start = end as usize;
                if let Some(ahead) = self.octets.get(start + AHEAD) {
                    prefetch(ahead);
                }
                if frame.len() > FrameCache::LONGEST {
                    drops.add(DropReason::RxTooBig, 1);
                    continue;
                }
                match frames.alloc_with(frame) {
                    Some(packet) => burst.push(packet),
                    None => drops.add(DropReason::RxNoFrame, 1),
                }
            }
            self.start = start;
        }
    }

    /// A replay port has no other end: what is sent to it is swallowed, as the null port does.
    fn tx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) -> Sent {
        crate::null::NullQueue.tx_burst(frames, burst, drops)
    }
}

/// Writes what is transmitted to a pcap file (time stamps are the packets' numbers, in microseconds).
pub struct CaptureQueue {
    writer: PcapWriter<BufWriter<File>>,
    packets: u64,
    fault: Option<QueueFault>,
}

impl CaptureQueue {
    /// Creates `path`, or empties it.
    pub fn create(path: &Path) -> Result<Self, PcapFileError> {
        let file =
            File::create(path).map_err(|source| PcapFileError::Open { path: path.to_owned(), source })?;
        let writer = PcapWriter::new(BufWriter::new(file)).map_err(|source| PcapFileError::Content {
            path: path.to_owned(),
            packet: 0,
            source,
        })?;
        Ok(CaptureQueue { writer, packets: 0, fault: None })
    }
}

impl std::fmt::Debug for CaptureQueue {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "CaptureQueue({} frames)", self.packets)
    }
}

impl PortQueue for CaptureQueue {
    fn rx_burst(&mut self, _: &mut FrameCache, _: &mut Burst, _: &mut DropCounts) {}

    fn tx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) -> Sent {
        let mut sent = Sent::default();
        for packet in burst.drain(..) {
            let octets: Vec<u8> = packet.segments().flatten().copied().collect();
            frames.free(packet);
            let time = std::time::Duration::from_micros(self.packets);
            self.packets += 1;
            match self.writer.write_packet(&PcapPacket::new(time, octets.len() as u32, &octets)) {
                Ok(_) => sent = Sent { packets: sent.packets + 1, bytes: sent.bytes + octets.len() as u64 },
                Err(error) => {
                    drops.add(DropReason::TxError, 1);
                    self.fault = Some(QueueFault::Os(error.to_string()));
                }
            }
        }
        sent
    }

    fn is_transmit_only(&self) -> bool {
        true
    }

    fn fault(&self) -> Option<QueueFault> {
        self.fault.clone()
    }
}
