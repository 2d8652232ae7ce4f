//! A packet: a head frame, up to 17 continuation frames, and what is still to be done to it.
//!
//! A [`Packet`] owns its frames; it is made by a [`FrameCache`](crate::FrameCache) and has to be given back to one
//! (dropping it loses the frames until the pool goes, and is counted, see [`lost_packets`]). Its size is 24 bytes, so
//! that a burst of them stays in a few cache lines.
//!
//! Layout of a frame (4096 bytes):
//!
//! ```text
//!  0            136                 offset          offset+len        4096
//!  | chain area | headroom ........ | packet data   | tailroom ....... |
//! ```
//!
//! The chain area of the head frame lists the continuation frames. It is not reachable through any safe method, which
//! is what makes the list trustworthy.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// Octets in a frame.
pub const FRAME_SIZE: usize = 4096;
/// Octets at a frame's start that packet data never reaches.
pub const CHAIN_AREA: usize = MAX_CONTINUATIONS * size_of::<Link>();
/// Where a fresh packet's data starts at the earliest: room for outer headers, and AF_XDP's own `XDP_PACKET_HEADROOM`.
pub const DATA_OFFSET: usize = 256;
/// Continuation frames of one packet: with the head's, enough for a 64 KiB segment.
pub const MAX_CONTINUATIONS: usize = 17;

/// One continuation frame, as the chain area holds it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Link {
    /// Distance from the head frame, in frames.
    delta: i32,
    offset: u16,
    len: u16,
}

const _: () = assert!(size_of::<Link>() == 8 && CHAIN_AREA < DATA_OFFSET);
const _: () =
    assert!(size_of::<Packet>() == 24 && size_of::<Option<Packet>>() == 24 && size_of::<Offload>() == 8);

/// What an egress port or software still has to do to a packet: the meaning of `virtio_net_hdr` (virtio 1.2,
/// section 5.1.6), carried from ingress to egress.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Offload {
    /// [`Offload::NEEDS_CHECKSUM`], [`Offload::CHECKSUM_VALID`] and [`Offload::INNER_UNKNOWN`].
    pub flags: u8,
    /// [`Offload::GSO_NONE`] or one of virtio's `VIRTIO_NET_HDR_GSO_*`.
    pub gso_type: u8,
    /// Payload octets of each segment, when `gso_type` says that there are any.
    pub gso_size: u16,
    /// Where the checksummed part starts, as an offset *in the frame*, so that it stays right when headers are put in
    /// front or taken away. Use [`Packet::checksum_start`] and [`Packet::request_checksum`].
    start_in_frame: u16,
    /// Where the checksum goes, counted from the start of the checksummed part.
    pub checksum_offset: u16,
}

impl Offload {
    /// The checksum field holds the pseudo-header's sum; the rest has to be added (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    pub const NEEDS_CHECKSUM: u8 = 1;
    /// Somebody has verified the checksum (`VIRTIO_NET_HDR_F_DATA_VALID`).
    pub const CHECKSUM_VALID: u8 = 2;
    /// The port shows no checksum state, and a packet of another stack of this machine, wrapped by a tunnel, may hold an
    /// inner packet whose checksum is unfinished. No bit of virtio's: it ends with the decapsulation.
    pub const INNER_UNKNOWN: u8 = 0x80;
    /// Not a segment to be cut.
    pub const GSO_NONE: u8 = 0;
}

/// A packet that owns its frames. See the module's text.
// In this order and without padding a move is two copies of whole words. Where the compiler splits a move, each piece is read
// before the pieces that were written a moment ago are in the cache, and the processor waits for them.
#[must_use = "a packet that is not given back to a FrameCache loses its frames"]
#[repr(C)]
pub struct Packet {
    /// The head frame's first octet.
    base: NonNull<u8>,
    offset: u16,
    len: u16,
    continuations: u32,
    /// What is still to be done to the packet.
    pub offload: Offload,
}

// SAFETY: a packet is the only owner of its frames (it can't be cloned, and only a frame cache makes one, from frames
// that nobody else holds), so moving it to another thread moves all access to those frames with it.
unsafe impl Send for Packet {}

static LOST: AtomicU64 = AtomicU64::new(0);

/// Packets that were dropped without being given back; counted in builds with debug assertions only.
pub fn lost_packets() -> u64 {
    LOST.load(Ordering::Relaxed)
}

#[cfg(debug_assertions)]
impl Drop for Packet {
    fn drop(&mut self) {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

impl Packet {
    /// A packet over the frame at `base`.
    ///
    /// # Safety
    /// `base` is the start of a frame of a live [`FramePool`](crate::FramePool) that nobody else uses, the pool's
    /// mapping outlives the packet, and `offset + len <= FRAME_SIZE` with `offset >= CHAIN_AREA`.
    #[inline]
    pub(crate) unsafe fn from_frame(base: NonNull<u8>, offset: u16, len: u16) -> Self {
        debug_assert!(offset as usize >= CHAIN_AREA && offset as usize + len as usize <= FRAME_SIZE);
        Packet { base, offset, len, continuations: 0, offload: Offload::default() }
    }

    /// The head frame's address; the packet forgets it.
    #[inline]
    pub(crate) fn into_base(self) -> NonNull<u8> {
        let base = self.base;
        std::mem::forget(self);
        base
    }

    /// The head frame's address.
    #[inline]
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Where the data starts in the head frame.
    #[inline]
    pub fn offset(&self) -> usize {
        self.offset as usize
    }

    /// Octets in the head frame (all of the packet, unless [`Packet::continuations`] says otherwise).
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the head frame holds nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Octets in all frames.
    #[inline]
    pub fn total_len(&self) -> usize {
        let mut total = self.len();
        if self.continuations > 0 {
            total += self.links().iter().map(|link| link.len as usize).sum::<usize>();
        }
        total
    }

    /// How many frames follow the head.
    #[inline]
    pub fn continuations(&self) -> usize {
        self.continuations as usize
    }

    /// The head frame's data: every header of the packet is in it.
    #[inline]
    pub fn data(&self) -> &[u8] {
        // SAFETY: base is the start of a frame that this packet owns, and offset + len <= FRAME_SIZE (kept by every
        // method that changes them), so the range lies in the frame.
        let start = unsafe { self.base.as_ptr().add(self.offset as usize) };
        // SAFETY: start .. start + len is in the frame (above), initialised (the mapping is zeroed at first), and
        // borrowed from self, which is the frame's only owner.
        unsafe { std::slice::from_raw_parts(start, self.len as usize) }
    }

    /// The head frame's data, to be changed.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`.
        let start = unsafe { self.base.as_ptr().add(self.offset as usize) };
        // SAFETY: as in `data`; the borrow is exclusive because self is.
        unsafe { std::slice::from_raw_parts_mut(start, self.len as usize) }
    }

    /// Octets that can still be put in front.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.offset as usize - CHAIN_AREA
    }

    /// Octets that can still be put behind the head frame's data.
    #[inline]
    pub fn tailroom(&self) -> usize {
        FRAME_SIZE - self.offset as usize - self.len as usize
    }

    /// Puts `count` octets in front, whose content is whatever the frame held, and returns the data. `None`, and
    /// nothing changes, when the headroom is too small.
    #[inline]
    pub fn push_front(&mut self, count: usize) -> Option<&mut [u8]> {
        if count > self.headroom() {
            return None;
        }
        self.offset -= count as u16;
        self.len += count as u16;
        Some(self.data_mut())
    }

    /// Takes `count` octets away in front. `None`, and nothing changes, when the head frame holds fewer.
    #[inline]
    pub fn pull_front(&mut self, count: usize) -> Option<()> {
        if count > self.len as usize {
            return None;
        }
        self.offset += count as u16;
        self.len -= count as u16;
        Some(())
    }

    /// Puts `count` octets behind the head frame's data and returns the data. `None`, and nothing changes, when the
    /// tailroom is too small or continuation frames follow.
    #[inline]
    pub fn extend(&mut self, count: usize) -> Option<&mut [u8]> {
        if count > self.tailroom() || self.continuations > 0 {
            return None;
        }
        self.len += count as u16;
        Some(self.data_mut())
    }

    /// Appends `octets`. `None`, and nothing changes, when they don't fit behind the head frame's data.
    #[inline]
    pub fn append(&mut self, octets: &[u8]) -> Option<()> {
        let len = self.len();
        self.extend(octets.len())?[len..].copy_from_slice(octets);
        Some(())
    }

    /// Cuts a packet of one frame to `len` octets, if it has more.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        if self.continuations == 0 && len < self.len as usize {
            self.len = len as u16;
        }
    }

    /// Where the checksummed part starts, counted from the packet's first octet, if a checksum is still to be done
    /// and that part has not been cut off.
    #[inline]
    pub fn checksum_start(&self) -> Option<usize> {
        let wanted = self.offload.flags & Offload::NEEDS_CHECKSUM != 0;
        if wanted { self.offload.start_in_frame.checked_sub(self.offset).map(usize::from) } else { None }
    }

    /// Asks for the checksum from `start` (counted from the packet's first octet) to the packet's end, to be put at
    /// `start + offset`. `None`, and nothing changes, when that isn't in the head frame.
    pub fn request_checksum(&mut self, start: usize, offset: usize) -> Option<()> {
        if start.checked_add(offset)?.checked_add(2)? > self.len() {
            return None;
        }
        self.offload.flags = Offload::NEEDS_CHECKSUM;
        self.offload.start_in_frame = self.offset + start as u16;
        self.offload.checksum_offset = offset as u16;
        Some(())
    }

    /// Appends `tail`, a packet of one frame of the same pool, as a continuation frame; gives it back when there is no
    /// room in the chain, or when it has continuation frames itself.
    pub fn push_continuation(&mut self, tail: Packet) -> Result<(), Packet> {
        let delta = (tail.base.addr().get() as isize - self.base.addr().get() as isize) / FRAME_SIZE as isize;
        let (true, true, Ok(delta)) =
            (self.continuations() < MAX_CONTINUATIONS, tail.continuations == 0, i32::try_from(delta))
        else {
            return Err(tail);
        };
        let link = Link { delta, offset: tail.offset, len: tail.len };
        let area = self.base.cast::<Link>().as_ptr();
        // SAFETY: continuations < MAX_CONTINUATIONS, so the slot lies in the chain area of the head frame.
        let slot = unsafe { area.add(self.continuations()) };
        // SAFETY: the head frame is ours, data never reaches its chain area, and a frame's start is aligned for Link.
        unsafe { slot.write(link) };
        self.continuations += 1;
        let _ = tail.into_base();
        Ok(())
    }

    /// Takes the last continuation frame off, as a packet of its own.
    pub fn pop_continuation(&mut self) -> Option<Packet> {
        let link = *self.links().last()?;
        self.continuations -= 1;
        let base = self.link_base(link);
        // SAFETY: the link was written by push_continuation, from a packet that owned this frame; with the link gone,
        // the new packet is its only owner again.
        Some(unsafe { Packet::from_frame(base, link.offset, link.len) })
    }

    /// The packet's octets, frame by frame, the head first.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.data()).chain(self.links().iter().map(|&link| {
            let base = self.link_base(link).as_ptr();
            // SAFETY: offset + len <= FRAME_SIZE held for the packet that the link was made from.
            let start = unsafe { base.add(link.offset as usize) };
            // SAFETY: the range is in a frame that this packet owns through its chain.
            unsafe { std::slice::from_raw_parts(start, link.len as usize) }
        }))
    }

    fn links(&self) -> &[Link] {
        let area = self.base.cast::<Link>().as_ptr();
        // SAFETY: the first `continuations` (at most MAX_CONTINUATIONS) entries of the chain area were written by
        // push_continuation, and nothing else writes there.
        unsafe { std::slice::from_raw_parts(area, self.continuations()) }
    }

    fn link_base(&self, link: Link) -> NonNull<u8> {
        // SAFETY: delta was computed from two frames of one mapping, so the result is a frame of that mapping.
        unsafe { self.base.offset(link.delta as isize * FRAME_SIZE as isize) }
    }
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Packet({} octets in {} frames)", self.total_len(), 1 + self.continuations())
    }
}
