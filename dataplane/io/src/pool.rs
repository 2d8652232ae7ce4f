//! The frame pool: one mapping of 4 KiB frames for every port, and each worker's cache of free frames.
//!
//! What: frames `0..count` of one contiguous mapping, which AF_XDP sockets register as their UMEM. Free frames are in
//! one `crossbeam` queue; each worker has a [`FrameCache`] over it, last in first out, so that the frames that transmit
//! gives back are the ones that receive takes next, still hot in the core's cache.
//!
//! Owner: the pool is shared by [`Arc`]; a cache belongs to one thread. The mapping goes when the last handle does,
//! unless frames are still out: then it stays for the process's life, because a packet may point to it.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::assemble::Assembly;
use crate::mem::Mapping;
use crate::packet::{DATA_OFFSET, FRAME_SIZE, Packet};

/// Free frames that a cache takes from the pool, or gives back to it, at a time.
const BATCH: usize = 128;
/// Free frames that a cache holds at most.
const CACHE_MAX: usize = 4 * BATCH;
/// Fresh packets start at one of this many offsets, a cache line apart, chosen by the frame's number: frames that all
/// start on a 4 KiB boundary would otherwise compete for the same few cache sets.
const COLOURS: u32 = 16;

/// The pool can't be made.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The number of frames is out of range.
    #[error("a pool of {0} frames is out of range: {min} to {max}", min = FramePool::MIN_FRAMES, max = FramePool::MAX_FRAMES)]
    Size(u32),
    /// The kernel gives no memory.
    #[error("no memory for {frames} frames of 4096 bytes: {source}")]
    Memory {
        /// What was asked for.
        frames: u32,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// All frames of the process. See the module's text.
pub struct FramePool {
    mapping: std::mem::ManuallyDrop<Mapping>,
    count: u32,
    home: ArrayQueue<u32>,
}

impl FramePool {
    /// The smallest pool.
    pub const MIN_FRAMES: u32 = 1024;
    /// The largest pool (16 GiB).
    pub const MAX_FRAMES: u32 = 4 << 20;
    /// What a switch has unless told otherwise (256 MiB of address space, touched as needed).
    pub const DEFAULT_FRAMES: u32 = 64 << 10;

    /// Maps a pool of `count` frames: huge pages if there are any, else transparent huge pages, else plain ones.
    pub fn new(count: u32) -> Result<Arc<Self>, PoolError> {
        if !(Self::MIN_FRAMES..=Self::MAX_FRAMES).contains(&count) {
            return Err(PoolError::Size(count));
        }
        let mapping = Mapping::new(count as usize * FRAME_SIZE)
            .map_err(|source| PoolError::Memory { frames: count, source })?;
        let home = ArrayQueue::new(count as usize);
        for frame in 0..count {
            let pushed = home.push(frame);
            debug_assert!(pushed.is_ok());
        }
        Ok(Arc::new(FramePool { mapping: std::mem::ManuallyDrop::new(mapping), count, home }))
    }

    /// How many frames there are.
    pub fn frames(&self) -> u32 {
        self.count
    }

    /// How many frames no cache, port or packet holds at this moment.
    pub fn at_home(&self) -> u32 {
        self.home.len() as u32
    }

    /// The first octet of the mapping, for UMEM registration.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.mapping.base()
    }

    /// A cache over this pool, for one worker.
    pub fn cache(self: &Arc<Self>) -> FrameCache {
        FrameCache {
            base: self.base(),
            count: self.count as usize,
            ids: Vec::with_capacity(CACHE_MAX),
            pool: Arc::clone(self),
        }
    }

    /// Takes frame numbers away from the pool, for a port's own use: all of `count`, or none.
    pub(crate) fn take(&self, count: usize) -> Option<Vec<u32>> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            match self.home.pop() {
                Some(frame) => taken.push(frame),
                None => {
                    self.give(&taken);
                    return None;
                }
            }
        }
        Some(taken)
    }

    /// Gives frame numbers back that nobody uses any more.
    pub(crate) fn give(&self, frames: &[u32]) {
        for &frame in frames {
            // The queue has room for every frame there is, so this can't fail while each frame has one owner.
            let pushed = self.home.push(frame);
            debug_assert!(pushed.is_ok(), "frame {frame} was given back twice");
        }
    }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        if self.home.len() == self.count as usize {
            // SAFETY: the field is not used after this; every frame is home, so no packet points into the mapping.
            unsafe { std::mem::ManuallyDrop::drop(&mut self.mapping) };
        }
    }
}

impl std::fmt::Debug for FramePool {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "FramePool({} of {} frames at home)", self.at_home(), self.count)
    }
}

/// One worker's free frames, last in first out.
pub struct FrameCache {
    base: NonNull<u8>,
    /// The pool's frames.
    count: usize,
    ids: Vec<u32>,
    pool: Arc<FramePool>,
}

// SAFETY: `base` is the pool's mapping, which the Arc keeps alive; the cache itself has no other thread-bound state.
unsafe impl Send for FrameCache {}

impl FrameCache {
    /// The pool behind this cache.
    pub fn pool(&self) -> &Arc<FramePool> {
        &self.pool
    }

    /// Gives the cached frames back to the pool, where others find them.
    pub fn go_home(&mut self) {
        self.pool.give(&self.ids);
        self.ids.clear();
    }

    /// An empty packet in a free frame, with headroom for outer headers; `None` when the pool is empty.
    #[inline]
    pub fn alloc(&mut self) -> Option<Packet> {
        self.fresh(0)
    }

    /// The most octets that a fresh packet of one frame takes, whatever the frame's colour.
    pub const LONGEST: usize = FRAME_SIZE - DATA_OFFSET - COLOURS as usize * 64;

    /// A packet of these octets in a free frame; `None` when the pool is empty or they are more than
    /// [`FrameCache::LONGEST`].
    #[inline]
    pub fn alloc_with(&mut self, octets: &[u8]) -> Option<Packet> {
        if octets.len() > Self::LONGEST {
            return None;
        }
        let mut packet = self.fresh(octets.len() as u16)?;
        packet.data_mut().copy_from_slice(octets);
        Some(packet)
    }

    /// A packet of `len` octets in a free frame, at most [`FrameCache::LONGEST`]; they are what the frame had there.
    #[inline]
    fn fresh(&mut self, len: u16) -> Option<Packet> {
        let id = self.take_id()?;
        let offset = DATA_OFFSET as u32 + (id % COLOURS) * 64;
        Some(self.adopt(id, offset as u16, len))
    }

    /// Gives a packet's frames back.
    #[inline]
    pub fn free(&mut self, packet: Packet) {
        if packet.continuations() > 0 {
            return self.free_chain(packet);
        }
        self.free_base(packet.into_base());
    }

    #[cold]
    fn free_chain(&mut self, mut packet: Packet) {
        while let Some(tail) = packet.pop_continuation() {
            self.free_base(tail.into_base());
        }
        self.free_base(packet.into_base());
    }

    #[inline]
    fn free_base(&mut self, base: NonNull<u8>) {
        let distance = base.addr().get().wrapping_sub(self.base.addr().get());
        // A frame of another pool would corrupt this one: it stays lost, which its own pool notices.
        let id = distance / FRAME_SIZE;
        if id < self.count {
            self.give_id(id as u32);
        } else {
            debug_assert!(false, "a packet was given to another pool's cache");
        }
    }

    /// A copy of `packet` in frames of its own, with its offload state; `None` when the pool is empty. The copy may be
    /// cut into frames elsewhere, because each of the two has the headroom of a fresh packet, or more.
    #[inline]
    pub fn copy(&mut self, packet: &Packet) -> Option<Packet> {
        let mut copy = self.alloc()?;
        if packet.continuations() > 0 || copy.append(packet.data()).is_none() {
            copy = self.copy_large(packet, copy)?;
        }
        copy_offload(packet, &mut copy);
        Some(copy)
    }

    #[cold]
    fn copy_large(&mut self, packet: &Packet, head: Packet) -> Option<Packet> {
        let mut copy = Assembly::new(head);
        for segment in packet.segments() {
            if copy.append(segment, self).is_err() {
                copy.abandon(self);
                return None;
            }
        }
        copy.finish(self).ok()
    }

    /// A free frame's number.
    #[inline]
    pub(crate) fn take_id(&mut self) -> Option<u32> {
        match self.ids.pop() {
            Some(id) => Some(id),
            None => self.refill(),
        }
    }

    /// Puts a frame's number among the free ones.
    #[inline]
    pub(crate) fn give_id(&mut self, id: u32) {
        if self.ids.len() == CACHE_MAX {
            self.spill();
        }
        self.ids.push(id);
    }

    /// The packet at `offset` of frame `id`, which the caller took from the pool, or got back from the kernel.
    #[inline]
    pub(crate) fn adopt(&self, id: u32, offset: u16, len: u16) -> Packet {
        assert!((id as usize) < self.count, "frame {id} is not of this pool");
        // SAFETY: id is a frame of the pool (asserted), so the result is its first octet.
        let base = unsafe { self.base.add(id as usize * FRAME_SIZE) };
        // SAFETY: the caller hands over a frame that nobody else uses; the pool's mapping stays as long as any frame
        // is out (FramePool::drop); offset and len lie in the frame by the caller's contract, checked in debug builds.
        unsafe { Packet::from_frame(base, offset, len) }
    }

    /// The number of the packet's head frame.
    #[inline]
    pub(crate) fn id_of(&self, packet: &Packet) -> u32 {
        ((packet.base().addr().get() - self.base.addr().get()) / FRAME_SIZE) as u32
    }

    #[cold]
    fn refill(&mut self) -> Option<u32> {
        for _ in 0..BATCH {
            match self.pool.home.pop() {
                Some(id) => self.ids.push(id),
                None => break,
            }
        }
        self.ids.pop()
    }

    #[cold]
    fn spill(&mut self) {
        let keep = CACHE_MAX - BATCH;
        // The coldest are the oldest, at the bottom of the stack.
        self.pool.give(&self.ids[..BATCH]);
        self.ids.copy_within(BATCH.., 0);
        self.ids.truncate(keep);
    }
}

fn copy_offload(from: &Packet, to: &mut Packet) {
    let start = from.checksum_start();
    to.offload = from.offload;
    if let Some(start) = start {
        // The copy's data starts elsewhere in its frame; the same range exists in it, so this can't fail.
        let _ = to.request_checksum(start, from.offload.checksum_offset as usize);
    }
}

impl Drop for FrameCache {
    fn drop(&mut self) {
        self.pool.give(&self.ids);
    }
}

impl std::fmt::Debug for FrameCache {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "FrameCache({} free frames of {:?})", self.ids.len(), self.pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Arc<FramePool> {
        FramePool::new(FramePool::MIN_FRAMES).expect("memory for 1024 frames")
    }

    #[test]
    fn every_frame_comes_home() {
        let pool = pool();
        let mut cache = pool.cache();
        let packets: Vec<_> = std::iter::from_fn(|| cache.alloc()).collect();
        assert_eq!(packets.len(), 1024);
        assert_eq!(pool.at_home(), 0);
        packets.into_iter().for_each(|packet| cache.free(packet));
        cache.go_home();
        assert_eq!(pool.at_home(), 1024);
        drop(cache);
        assert_eq!(pool.at_home(), 1024);
    }

    #[test]
    fn the_frame_freed_last_is_the_next_one_out() {
        let pool = pool();
        let mut cache = pool.cache();
        let (first, second) = (cache.alloc().unwrap(), cache.alloc().unwrap());
        let base = second.base();
        cache.free(first);
        cache.free(second);
        let again = cache.alloc().unwrap();
        assert_eq!(again.base(), base);
        cache.free(again);
    }

    #[test]
    fn a_packet_of_18_frames_keeps_its_octets_and_copies() {
        let pool = pool();
        let mut cache = pool.cache();
        let mut packet = cache.alloc().unwrap();
        packet.append(&[0; 100]).unwrap();
        for number in 1..=17u8 {
            let mut tail = cache.alloc().unwrap();
            tail.append(&[number; 1000]).unwrap();
            assert!(packet.push_continuation(tail).is_ok());
        }
        let surplus = packet.push_continuation(cache.alloc().unwrap());
        cache.free(surplus.expect_err("an 19th frame"));
        let copy = cache.copy(&packet).unwrap();
        assert_eq!(copy.total_len(), 17_100);
        let octets: Vec<u8> = copy.segments().flatten().copied().collect();
        let original: Vec<u8> = packet.segments().flatten().copied().collect();
        assert_eq!(octets, original);
        cache.free(packet);
        cache.free(copy);
        drop(cache);
        assert_eq!(pool.at_home(), 1024);
    }

    #[test]
    fn a_packet_that_fills_its_frames_copies_into_frames_of_another_colour() {
        let pool = pool();
        let mut cache = pool.cache();
        let mut spare = Vec::new();
        for _ in 0..40 {
            let mut packet = cache.alloc().unwrap();
            packet.extend(packet.tailroom()).unwrap().fill(7);
            let mut tail = cache.alloc().unwrap();
            tail.push_front(tail.headroom()).unwrap().fill(8);
            tail.extend(tail.tailroom()).unwrap().fill(9);
            packet.push_continuation(tail).unwrap();
            packet.request_checksum(34, 16).unwrap();
            let copy = cache.copy(&packet).unwrap();
            assert!(copy.segments().flatten().eq(packet.segments().flatten()));
            assert_eq!((copy.checksum_start(), copy.total_len()), (Some(34), packet.total_len()));
            cache.free(copy);
            cache.free(packet);
            // So that the next round has other frames.
            spare.extend(cache.alloc());
        }
        spare.into_iter().for_each(|packet| cache.free(packet));
        drop(cache);
        assert_eq!(pool.at_home(), 1024);
    }

    #[test]
    fn headroom_and_tailroom_end_where_they_say() {
        let pool = pool();
        let mut cache = pool.cache();
        let mut packet = cache.alloc().unwrap();
        let (head, tail) = (packet.headroom(), packet.tailroom());
        assert!(head >= 70 && tail >= 1600);
        assert!(packet.push_front(head + 1).is_none());
        assert!(packet.push_front(head).is_some());
        assert!(packet.extend(tail + 1).is_none());
        assert!(packet.extend(tail).is_some());
        assert!(packet.pull_front(head + tail + 1).is_none());
        assert!(packet.pull_front(head + tail).is_some());
        cache.free(packet);
    }

    #[test]
    fn a_requested_checksum_stays_put_when_headers_come_and_go() {
        let pool = pool();
        let mut cache = pool.cache();
        let mut packet = cache.alloc().unwrap();
        packet.append(&[0; 100]).unwrap();
        assert!(packet.request_checksum(34, 65).is_none());
        packet.request_checksum(34, 16).unwrap();
        packet.push_front(50).unwrap();
        assert_eq!(packet.checksum_start(), Some(84));
        packet.pull_front(60).unwrap();
        let copy = cache.copy(&packet).unwrap();
        assert_eq!(copy.checksum_start(), Some(24));
        cache.free(copy);
        cache.free(packet);
    }
}
