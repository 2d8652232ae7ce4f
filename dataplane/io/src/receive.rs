//! What a system call receives a packet into: free frames, with room behind them for whatever is larger.
//!
//! A read names the head frame's data area, then whole continuation frames, then a spill area that takes all that a
//! device can send. So no packet is cut, whatever the device's MTU becomes. What lands in the spill area is copied into
//! frames, and more frames are laid out from then on ([`MAX_READY`] at most): a port with an MTU of 9000 copies once.

use arrayvec::ArrayVec;
use weft_wire::DropReason;

use crate::assemble::{Assembly, push, whole_frame};
use crate::packet::{FRAME_SIZE, MAX_CONTINUATIONS, Packet};
use crate::pool::FrameCache;

/// Octets of a spill area: the largest packet that the kernel hands out (64 KiB of GSO packet and its headers), and
/// one more, by which a longer one is known.
pub(crate) const SPILL: usize = 65_536 + 256;
/// Frames laid out for one packet at most, the head's not counted: enough for an MTU of 9000.
const MAX_READY: usize = 3;
/// Pieces of memory that a packet is received into, its offload header's among them.
pub(crate) const RX_PIECES: usize = MAX_READY + 3;
/// Pieces of memory that a packet is sent from, its offload header's among them.
pub(crate) const TX_PIECES: usize = MAX_CONTINUATIONS + 2;

/// Frames laid out for one packet.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    /// All of its tailroom is data, to be cut when the length is known.
    head: Option<Packet>,
    /// All of the frame is data. Used from the last on.
    tails: ArrayVec<Packet, MAX_READY>,
    /// How many tails are wanted.
    want: usize,
}

impl Ready {
    /// Lays out what is missing, as far as there are frames.
    #[inline]
    pub(crate) fn refill(&mut self, frames: &mut FrameCache) {
        if self.head.is_none() {
            self.head = frames.alloc().map(|mut head| {
                head.extend(head.tailroom());
                head
            });
        }
        while self.tails.len() < self.want {
            let Some(mut tail) = whole_frame(frames) else { break };
            tail.extend(tail.tailroom());
            self.tails.push(tail);
        }
    }

    /// Appends the memory to receive into. The pieces are valid until the next call of any other method.
    #[inline]
    pub(crate) fn pieces(&mut self, spill: &mut [u8], pieces: &mut ArrayVec<libc::iovec, RX_PIECES>) {
        let tails = self.tails.iter_mut().rev();
        let frames = self.head.iter_mut().chain(tails).map(Packet::data_mut);
        pieces.extend(frames.chain([spill]).map(piece));
    }

    /// The packet of `len` octets that has just been received into the pieces.
    #[inline]
    pub(crate) fn take(
        &mut self,
        len: usize,
        spill: &[u8],
        frames: &mut FrameCache,
    ) -> Result<Packet, DropReason> {
        let Some(mut head) = self.head.take() else { return Err(DropReason::RxNoFrame) };
        if len <= head.len() {
            head.truncate(len);
            return Ok(head);
        }
        match self.gather(&mut head, len, frames) {
            Ok(left) => spilled(head, spill.get(..left).unwrap_or_default(), frames),
            Err(reason) => {
                frames.free(head);
                Err(reason)
            }
        }
    }

    /// Takes the continuation frames that were received into; how many octets are in the spill area.
    #[cold]
    fn gather(
        &mut self,
        head: &mut Packet,
        len: usize,
        frames: &mut FrameCache,
    ) -> Result<usize, DropReason> {
        let mut left = len - head.len();
        while let Some(mut tail) = if left > 0 { self.tails.pop() } else { None } {
            tail.truncate(left);
            left -= tail.len();
            push(head, tail, frames)?;
        }
        if left >= SPILL {
            return Err(DropReason::RxTooBig);
        }
        if left > 0 {
            self.want = (head.continuations() + left.div_ceil(FRAME_SIZE)).min(MAX_READY).max(self.want);
        }
        Ok(left)
    }

    /// Gives all frames back.
    pub(crate) fn clear(&mut self, frames: &mut FrameCache) {
        self.head.take().into_iter().chain(self.tails.drain(..)).for_each(|packet| frames.free(packet));
    }
}

/// Appends what is in the spill area.
fn spilled(head: Packet, spill: &[u8], frames: &mut FrameCache) -> Result<Packet, DropReason> {
    let mut whole = Assembly::new(head);
    match whole.append(spill, frames) {
        Ok(()) => whole.finish(frames),
        Err(reason) => {
            whole.abandon(frames);
            Err(reason)
        }
    }
}

/// Memory for the kernel to write to. The caller sees to it that the memory outlives the use.
pub(crate) fn piece(memory: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() }
}

/// Memory for the kernel to read from, to which it never writes. The caller sees to it that it outlives the use.
pub(crate) fn constant_piece(memory: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: memory.as_ptr().cast_mut().cast(), iov_len: memory.len() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::FramePool;

    /// Plays the kernel: fills the pieces with `octets`.
    fn receive(ready: &mut Ready, octets: &[u8], frames: &mut FrameCache) -> Result<Packet, DropReason> {
        let mut spill = vec![0xa5; SPILL];
        ready.refill(frames);
        let mut left = octets;
        let tails = ready.tails.iter_mut().rev();
        for place in ready.head.iter_mut().chain(tails).map(Packet::data_mut).chain([&mut spill[..]]) {
            let (now, later) = left.split_at(left.len().min(place.len()));
            place[..now.len()].copy_from_slice(now);
            left = later;
        }
        ready.take(octets.len(), &spill, frames)
    }

    #[test]
    fn every_length_arrives_whole_and_large_ones_need_no_copy_the_second_time() {
        let pool = FramePool::new(FramePool::MIN_FRAMES).unwrap();
        let mut frames = pool.cache();
        let mut ready = Ready::default();
        for len in [0, 1, 60, 1514, 2880, 4000, 9014, 9014, 60, 65_536, 1514, 30_000] {
            let octets: Vec<u8> = (0..len).map(|number| number as u8).collect();
            let packet = receive(&mut ready, &octets, &mut frames).unwrap();
            let got: Vec<u8> = packet.segments().flatten().copied().collect();
            assert_eq!(got, octets, "{len}");
            assert!(packet.headroom() >= 100);
            frames.free(packet);
        }
        assert_eq!(ready.want, MAX_READY);
        ready.clear(&mut frames);
        drop(frames);
        assert_eq!(pool.at_home(), pool.frames());
    }

    #[test]
    fn an_empty_pool_and_an_endless_packet_are_drops() {
        let pool = FramePool::new(FramePool::MIN_FRAMES).unwrap();
        let mut frames = pool.cache();
        let mut ready = Ready::default();
        assert_eq!(receive(&mut ready, &[1; SPILL + 4096], &mut frames).err(), Some(DropReason::RxTooBig));
        let all: Vec<Packet> = std::iter::from_fn(|| frames.alloc()).collect();
        assert_eq!(receive(&mut ready, &[1; 60], &mut frames).err(), Some(DropReason::RxNoFrame));
        all.into_iter().for_each(|packet| frames.free(packet));
        let packet = receive(&mut ready, &[1; 60], &mut frames).unwrap();
        frames.free(packet);
        ready.clear(&mut frames);
        drop(frames);
        assert_eq!(pool.at_home(), pool.frames());
    }
}
