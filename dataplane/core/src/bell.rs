//! Wakes a thread that sleeps in `epoll`, and costs one load when it doesn't.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use mio::Waker;

/// A thread's bell: anybody rings, the owner sleeps by it.
#[derive(Debug, Default)]
pub struct Bell {
    asleep: AtomicBool,
    waker: OnceLock<Waker>,
}

impl Bell {
    /// Gives the bell the owner's waker, once.
    pub fn attach(&self, waker: Waker) {
        // A second owner would be a second thread with the same number, which nobody starts.
        let _ = self.waker.set(waker);
    }

    /// Wakes the owner if it sleeps. What it is to find was written before.
    #[inline]
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        if self.asleep.swap(false, Ordering::AcqRel)
            && let Some(waker) = self.waker.get()
        {
            // Fails only when the kernel is out of memory: then the owner's own time-out wakes it.
            let _ = waker.wake();
        }
    }

    /// The owner is about to sleep: it has to look once more for what came before it said so.
    pub fn lie_down(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The owner is awake.
    pub fn get_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }
}
