//! Which frames the kernel has.
//!
//! A frame that is in a ring, or in the kernel's own lists behind it, is in the queue's custody: it is entered when it
//! is handed over and struck out when it comes back. So an address that the kernel was never given is noticed, and when
//! the socket is closed, every frame that was still out goes home, wherever it was.

use std::sync::Arc;

use crate::pool::FramePool;

/// The frames that one queue has given to the kernel. Dropping it gives them back to the pool: the socket has to be
/// closed before.
#[derive(Debug)]
pub(super) struct Custody {
    /// One bit per frame of the pool.
    bits: Box<[u64]>,
    pool: Arc<FramePool>,
}

impl Custody {
    /// None yet.
    pub fn new(pool: Arc<FramePool>) -> Self {
        let words = (pool.frames() as usize).div_ceil(64);
        Custody { bits: vec![0; words].into_boxed_slice(), pool }
    }

    /// Enters a frame; `false` when it is entered already, or is none of the pool's.
    #[inline]
    pub fn enter(&mut self, frame: u32) -> bool {
        let (word, bit) = place(frame);
        match self.bits.get_mut(word) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }

    /// Strikes a frame out; `false` when it is not there.
    #[inline]
    pub fn strike(&mut self, frame: u32) -> bool {
        let (word, bit) = place(frame);
        match self.bits.get_mut(word) {
            Some(word) if *word & bit != 0 => {
                *word &= !bit;
                true
            }
            _ => false,
        }
    }
}

#[inline]
fn place(frame: u32) -> (usize, u64) {
    (frame as usize / 64, 1 << (frame % 64))
}

impl Drop for Custody {
    fn drop(&mut self) {
        for (index, word) in self.bits.iter().enumerate() {
            let mut rest = *word;
            while rest != 0 {
                self.pool.give(&[index as u32 * 64 + rest.trailing_zeros()]);
                rest &= rest - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_handed_over_does_not_come_back_and_the_rest_goes_home() {
        let pool = FramePool::new(FramePool::MIN_FRAMES).unwrap();
        let taken = pool.take(100).unwrap();
        let mut custody = Custody::new(Arc::clone(&pool));
        assert!(taken.iter().all(|&frame| custody.enter(frame)));
        assert!(!custody.enter(taken[0]));
        assert!(!custody.enter(1024 + 64) && !custody.strike(u32::MAX) && !custody.strike(taken[99] + 1));
        assert!(custody.strike(taken[5]));
        assert!(!custody.strike(taken[5]));
        pool.give(&taken[5..6]);
        drop(custody);
        assert_eq!(pool.at_home(), 1024);
    }
}
