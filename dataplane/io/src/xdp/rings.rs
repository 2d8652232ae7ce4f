//! The four rings of an AF_XDP socket, each a mapping that it shares with the kernel.
//!
//! Fill and transmit are [`Producer`]s, receive and completion [`Consumer`]s. Both keep a private copy of their own
//! index and of what they last saw of the kernel's, so that the shared cache lines are touched once per burst. The
//! kernel's index is believed only as far as the ring is long: no value that it could hold leads out of the mapping.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// A receive or transmit descriptor (`struct xdp_desc`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(super) struct Desc {
    /// Octets from the start of the UMEM.
    pub addr: u64,
    /// Octets of packet data.
    pub len: u32,
    /// 0 or `XDP_PKT_CONTD`.
    pub options: u32,
}

const _: () = assert!(size_of::<Desc>() == size_of::<libc::xdp_desc>());

impl Desc {
    /// Whether another descriptor of the same packet follows.
    #[inline]
    pub fn continues(&self) -> bool {
        self.options & libc::XDP_PKT_CONTD != 0
    }
}

/// What a ring entry may be: plain numbers, for which every bit pattern is a value.
pub(super) trait Entry: Copy {}
impl Entry for u64 {}
impl Entry for Desc {}

/// Which ring of a socket, as the kernel names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingKind {
    /// The socket option that sets its size.
    pub option: libc::c_int,
    /// The offset at which it is mapped.
    pub page_offset: libc::off_t,
}

/// A ring's mapping, and where its parts are.
#[derive(Debug)]
struct Shared<T> {
    mapping: NonNull<u8>,
    bytes: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
}

// SAFETY: the mapping belongs to this value alone on this side; it is not bound to a thread.
unsafe impl<T: Entry> Send for Shared<T> {}

impl<T: Entry> Shared<T> {
    /// Maps the ring `kind` of `socket`, whose size was set to `size`, a power of two.
    fn map(
        socket: BorrowedFd<'_>,
        kind: RingKind,
        size: u32,
        offsets: &libc::xdp_ring_offset,
    ) -> io::Result<Self> {
        use std::os::fd::AsRawFd;
        let bytes = offsets.desc as usize + size as usize * size_of::<T>();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, protection, flags, socket.as_raw_fd(), kind.page_offset)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = NonNull::new(start.cast::<u8>()).ok_or_else(io::Error::last_os_error)?;
        let part = |offset: u64| {
            // SAFETY: the kernel's own offsets lie in the mapping, whose length follows from the last of them.
            unsafe { mapping.add(offset as usize) }
        };
        Ok(Shared {
            mapping,
            bytes,
            producer: part(offsets.producer).cast(),
            consumer: part(offsets.consumer).cast(),
            flags: part(offsets.flags).cast(),
            entries: part(offsets.desc).cast(),
            size,
        })
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: in the mapping, aligned by the kernel, alive as long as self; the kernel uses atomic accesses too.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.flags.as_ref() }
    }

    #[inline]
    fn slot(&self, index: u32) -> NonNull<T> {
        // SAFETY: index & (size - 1) < size, and the mapping holds `size` entries.
        unsafe { self.entries.add((index & (self.size - 1)) as usize) }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, of this length; its only owner is going.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.bytes) };
    }
}

/// A ring into which this process puts entries for the kernel.
#[derive(Debug)]
pub(super) struct Producer<T: Entry> {
    shared: Shared<T>,
    /// Entries put so far; what the kernel sees lags behind until [`Producer::publish`].
    put: u32,
    /// Entries taken by the kernel, as last seen.
    taken: u32,
}

impl<T: Entry> Producer<T> {
    /// Maps the ring.
    pub fn map(
        socket: BorrowedFd<'_>,
        kind: RingKind,
        size: u32,
        offsets: &libc::xdp_ring_offset,
    ) -> io::Result<Self> {
        Ok(Producer { shared: Shared::map(socket, kind, size, offsets)?, put: 0, taken: 0 })
    }

    /// How many entries can be put; looks at the kernel's index only when fewer than `wanted` are known to be free.
    #[inline]
    pub fn free(&mut self, wanted: u32) -> u32 {
        if self.known_free() < wanted {
            self.taken = self.shared.consumer().load(Ordering::Acquire);
        }
        self.known_free()
    }

    #[inline]
    fn known_free(&self) -> u32 {
        self.shared.size.saturating_sub(self.put.wrapping_sub(self.taken))
    }

    /// How many entries the kernel has not taken yet.
    #[inline]
    pub fn waiting(&self) -> u32 {
        self.put.wrapping_sub(self.shared.consumer().load(Ordering::Acquire)).min(self.shared.size)
    }

    /// Puts an entry; `false` when the ring is full.
    #[inline]
    pub fn put(&mut self, entry: T) -> bool {
        if self.free(1) == 0 {
            return false;
        }
        let slot = self.shared.slot(self.put);
        // SAFETY: the slot is in the mapping, and the kernel has taken what was in it before (free > 0, read with
        // acquire ordering), so nobody else touches it until `publish`.
        unsafe { slot.write(entry) };
        self.put = self.put.wrapping_add(1);
        true
    }

    /// Shows the kernel what was put.
    #[inline]
    pub fn publish(&mut self) {
        self.shared.producer().store(self.put, Ordering::Release);
    }

    /// Whether the kernel wants to be called before it looks at the ring.
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        self.shared.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A ring from which this process takes the kernel's entries.
#[derive(Debug)]
pub(super) struct Consumer<T: Entry> {
    shared: Shared<T>,
    /// Entries taken so far; what the kernel sees lags behind until [`Consumer::release`].
    taken: u32,
    /// Entries put by the kernel, as last seen.
    put: u32,
}

impl<T: Entry> Consumer<T> {
    /// Maps the ring.
    pub fn map(
        socket: BorrowedFd<'_>,
        kind: RingKind,
        size: u32,
        offsets: &libc::xdp_ring_offset,
    ) -> io::Result<Self> {
        Ok(Consumer { shared: Shared::map(socket, kind, size, offsets)?, taken: 0, put: 0 })
    }

    /// How many entries wait; looks at the kernel's index only when fewer than `wanted` are known to wait.
    #[inline]
    pub fn ready(&mut self, wanted: u32) -> u32 {
        if self.put.wrapping_sub(self.taken) < wanted {
            self.put = self.shared.producer().load(Ordering::Acquire);
        }
        self.put.wrapping_sub(self.taken).min(self.shared.size)
    }

    /// Takes the next entry, if there is one that [`Consumer::ready`] has seen.
    #[inline]
    pub fn take(&mut self) -> Option<T> {
        let entry = self.peek(0)?;
        self.taken = self.taken.wrapping_add(1);
        Some(entry)
    }

    /// The entry `ahead` places behind the next one, if [`Consumer::ready`] has seen it.
    #[inline]
    pub fn peek(&self, ahead: u32) -> Option<T> {
        if ahead >= self.put.wrapping_sub(self.taken).min(self.shared.size) {
            return None;
        }
        let slot = self.shared.slot(self.taken.wrapping_add(ahead));
        // SAFETY: the slot is in the mapping; the kernel wrote it before it moved its index there (read with acquire
        // ordering), and won't write it again until `release`; every bit pattern is a value of T (`Entry`).
        Some(unsafe { slot.read() })
    }

    /// Gives the slots of all entries taken back to the kernel.
    #[inline]
    pub fn release(&mut self) {
        self.shared.consumer().store(self.taken, Ordering::Release);
    }

    /// Whether nothing waits at this moment.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.shared.producer().load(Ordering::Acquire) == self.taken
    }
}
