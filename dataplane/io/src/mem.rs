//! Memory: large mappings in huge pages, tables in them, and prefetch. Safe on the outside.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use bytemuck::Zeroable;

const HUGE_PAGE: usize = 2 << 20;

/// Tells the processor that `place` will be read soon. It has no effect but on speed.
#[inline(always)]
pub fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults, and the address comes from a reference.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Bit `i` is set when `lanes[i]` is `wanted`: one vector comparison.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn equal_lanes(lanes: &[u16; 8], wanted: u16) -> u32 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16, _mm_setzero_si128,
    };
    #[inline]
    #[target_feature(enable = "sse2")]
    fn compare(lanes: __m128i, wanted: u16) -> u32 {
        let equal = _mm_cmpeq_epi16(lanes, _mm_set1_epi16(wanted as i16));
        _mm_movemask_epi8(_mm_packs_epi16(equal, _mm_setzero_si128())) as u32
    }
    // SAFETY: every x86-64 processor has SSE2, which is all that the function needs.
    unsafe { compare(bytemuck::cast(*lanes), wanted) }
}

/// Bit `i` is set when `lanes[i]` is `wanted`.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub fn equal_lanes(lanes: &[u16; 8], wanted: u16) -> u32 {
    lanes.iter().enumerate().fold(0, |bits, (lane, &other)| bits | u32::from(other == wanted) << lane)
}

/// Anonymous memory, zeroed, in huge pages if there are any, else in transparent huge pages if the kernel has them.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    start: NonNull<u8>,
}

// SAFETY: a mapping is plain memory that belongs to its owner; nothing in it is bound to a thread.
unsafe impl Send for Mapping {}
// SAFETY: shared access hands out the base address only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` (rounded up to whole pages), aligned to a huge page.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let len = bytes.max(1).next_multiple_of(HUGE_PAGE);
        if let Ok(start) = map(len, libc::MAP_HUGETLB) {
            return Ok(Mapping { base: start, len, start });
        }
        // One huge page more than needed, so that an aligned range of `len` is in it.
        let padded = len.checked_add(HUGE_PAGE).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let start = map(padded, libc::MAP_NORESERVE)?;
        let skip = start.as_ptr().align_offset(HUGE_PAGE);
        // SAFETY: skip < HUGE_PAGE, so skip + len lies in the mapping.
        let base = unsafe { start.add(skip) };
        // SAFETY: base .. base + len is in the mapping made above; the advice changes no content.
        unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        Ok(Mapping { base, len: padded, start })
    }

    /// The first octet.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }
}

fn map(len: usize, flags: libc::c_int) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    // SAFETY: a fresh anonymous mapping, at an address of the kernel's choice, touches nothing that exists.
    let start =
        unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and len are those of the mapping; its owner is going, so nobody uses it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A table of fixed size in a [`Mapping`]: zeroed, touched page by page as it is used, with few TLB misses.
#[derive(Debug)]
pub struct HugeTable<T> {
    mapping: Mapping,
    len: usize,
    _of: std::marker::PhantomData<Box<[T]>>,
}

impl<T: Zeroable> HugeTable<T> {
    /// A table of `len` zeroed elements.
    pub fn new(len: usize) -> io::Result<Self> {
        const { assert!(align_of::<T>() <= 4096 && !std::mem::needs_drop::<T>()) };
        let bytes =
            len.checked_mul(size_of::<T>()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(HugeTable { mapping: Mapping::new(bytes)?, len, _of: std::marker::PhantomData })
    }
}

impl<T> Deref for HugeTable<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds len elements, zeroed at first, which T: Zeroable says is a value; page alignment
        // suffices (asserted in new); the mapping lives as long as self.
        unsafe { std::slice::from_raw_parts(self.mapping.base().cast().as_ptr(), self.len) }
    }
}

impl<T> DerefMut for HugeTable<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in deref, and exclusive because self is.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.base().cast().as_ptr(), self.len) }
    }
}

// SAFETY: the table owns its elements as a Box<[T]> would.
unsafe impl<T: Send> Send for HugeTable<T> {}
// SAFETY: as for a Box<[T]>: sharing the table shares the elements.
unsafe impl<T: Sync> Sync for HugeTable<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_starts_zeroed_and_keeps_what_is_written() {
        let mut table = HugeTable::<u64>::new(1_000_000).expect("8 MB");
        assert_eq!((table.len(), table[0], table[999_999]), (1_000_000, 0, 0));
        table[999_999] = 7;
        assert_eq!(table[999_999], 7);
        prefetch(&table[5]);
    }

    #[test]
    fn equal_lanes_names_each_lane_that_is_equal() {
        assert_eq!(equal_lanes(&[7, 0, 7, 1, 2, 3, 4, 7], 7), 0b1000_0101);
        assert_eq!(equal_lanes(&[0x8000; 8], 0x8000), 0xff);
        assert_eq!(equal_lanes(&[1; 8], 0), 0);
    }

    #[test]
    fn an_absurd_size_is_refused() {
        assert!(HugeTable::<u64>::new(usize::MAX / 4).is_err());
    }
}
