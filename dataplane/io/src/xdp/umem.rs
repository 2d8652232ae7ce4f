//! The UMEM: the frame pool as the kernel's AF_XDP sockets know it, and the anchor that holds it.
//!
//! A UMEM belongs to the socket that registered it, and that socket has to stay bound for others to share it. So it is
//! bound where nothing ever goes: to the loopback device of a network namespace that nobody else knows, which exists as
//! long as the socket does. No program is attached there, and no packet passes.
//!
//! What the first socket was bound with holds for all that share its UMEM: copy mode, need-wakeup, and packets of
//! several buffers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::socket::{self, Place, RingSizes};
use crate::packet::FRAME_SIZE;
use crate::pool::FramePool;
use crate::sys;

/// The loopback device's index, in every network namespace.
const LOOPBACK: u32 = 1;

/// The registered pool.
#[derive(Debug)]
pub(super) struct Umem {
    // The socket goes before the pool's memory does.
    anchor: OwnedFd,
    pool: Arc<FramePool>,
    multi_buffer: bool,
}

impl Umem {
    /// Registers `pool` and binds the anchor.
    pub fn new(pool: Arc<FramePool>) -> io::Result<Self> {
        let flags = libc::XDP_COPY | libc::XDP_USE_NEED_WAKEUP;
        // Before Linux 6.6 a packet has one buffer.
        let (anchor, multi_buffer) = match anchor(&pool, flags | libc::XDP_USE_SG) {
            Ok(anchor) => (anchor, true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (anchor(&pool, flags)?, false),
            Err(error) => return Err(error),
        };
        Ok(Umem { anchor, pool, multi_buffer })
    }

    /// The socket whose UMEM the others share.
    pub fn anchor(&self) -> BorrowedFd<'_> {
        self.anchor.as_fd()
    }

    /// The pool that is registered.
    pub fn pool(&self) -> &Arc<FramePool> {
        &self.pool
    }

    /// Whether packets may have several buffers.
    pub fn multi_buffer(&self) -> bool {
        self.multi_buffer
    }
}

fn anchor(pool: &FramePool, flags: u16) -> io::Result<OwnedFd> {
    run_in_new_netns(|| {
        let fd = socket::open()?;
        register(&fd, pool)?;
        socket::make_rings(fd.as_fd(), RingSizes { rx: RingSizes::MIN, tx: RingSizes::MIN })?;
        socket::bind(fd.as_fd(), Place { ifindex: LOOPBACK, queue: 0 }, flags, None)?;
        Ok(fd)
    })
}

/// Runs `job` on a thread of its own, in a network namespace of its own, which lives as long as a socket that was
/// opened in it; in the caller's if this process may not make one.
fn run_in_new_netns<T: Send>(job: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let job = || {
        // SAFETY: no memory is involved; only this short-lived thread changes its namespace.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            tracing::debug!(error = %io::Error::last_os_error(), "no network namespace of its own for the UMEM");
        }
        job()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("weft-umem".into()).spawn_scoped(scope, job)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that registers the UMEM died")))
    })
}

fn register(socket: &OwnedFd, pool: &FramePool) -> io::Result<()> {
    let umem = libc::xdp_umem_reg {
        addr: pool.base().addr().get() as u64,
        len: u64::from(pool.frames()) * FRAME_SIZE as u64,
        chunk_size: FRAME_SIZE as u32,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    // The kernel writes to frames only that it was given through a fill ring, and the queue that gave it one
    // has taken that frame from the pool.
    sys::setsockopt(socket.as_fd(), libc::SOL_XDP, libc::XDP_UMEM_REG, &umem)
}
