//! One AF_XDP socket with its four rings.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::rings::{Consumer, Desc, Producer, RingKind};
use crate::sys;

const RX: RingKind = RingKind { option: libc::XDP_RX_RING, page_offset: libc::XDP_PGOFF_RX_RING };
const TX: RingKind = RingKind { option: libc::XDP_TX_RING, page_offset: libc::XDP_PGOFF_TX_RING };
const FILL: RingKind =
    RingKind { option: libc::XDP_UMEM_FILL_RING, page_offset: libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t };
const COMPLETION: RingKind = RingKind {
    option: libc::XDP_UMEM_COMPLETION_RING,
    page_offset: libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t,
};

/// How long a bind waits for the queue's last socket to be gone for good, which the kernel finishes asynchronously.
const BIND_PATIENCE: Duration = Duration::from_secs(3);

/// Entries of the rings of each queue of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingSizes {
    /// Entries of the receive ring and of the fill ring: as many frames as a queue reserves.
    pub rx: u32,
    /// Entries of the transmit ring and of the completion ring.
    pub tx: u32,
}

impl Default for RingSizes {
    fn default() -> Self {
        RingSizes { rx: 2048, tx: 1024 }
    }
}

impl RingSizes {
    /// The smallest ring.
    pub const MIN: u32 = 64;
    /// The largest ring.
    pub const MAX: u32 = 32 << 10;

    /// Whether both are powers of two in the legal range.
    pub fn is_legal(self) -> bool {
        [self.rx, self.tx].iter().all(|size| size.is_power_of_two() && (Self::MIN..=Self::MAX).contains(size))
    }
}

/// What the kernel counts for a socket since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct KernelStats {
    /// Packets that found no frame or were too long.
    pub rx_dropped: u64,
    /// Packets that found the receive ring full.
    pub rx_ring_full: u64,
    /// How often the fill ring was found empty.
    pub rx_fill_ring_empty: u64,
    /// Descriptors in the fill ring that the kernel did not take.
    pub rx_invalid: u64,
    /// Descriptors in the transmit ring that the kernel did not take.
    pub tx_invalid: u64,
}

impl std::ops::AddAssign for KernelStats {
    fn add_assign(&mut self, other: Self) {
        self.rx_dropped += other.rx_dropped;
        self.rx_ring_full += other.rx_ring_full;
        self.rx_fill_ring_empty += other.rx_fill_ring_empty;
        self.rx_invalid += other.rx_invalid;
        self.tx_invalid += other.tx_invalid;
    }
}

/// Opens an AF_XDP socket in the calling thread's network namespace.
pub(super) fn open() -> io::Result<OwnedFd> {
    sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0)
}

/// Reads a socket option.
///
/// # Safety
/// Every bit pattern is a value of `T`.
unsafe fn get_option<T>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    mut value: T,
) -> io::Result<T> {
    let mut len = size_of::<T>() as libc::socklen_t;
    let place = std::ptr::from_mut(&mut value).cast();
    // SAFETY: the kernel writes at most `len` octets, the size of the value, of which every bit pattern is legal.
    match unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, place, &mut len) } {
        0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The error that the socket has met since this was last asked, if any.
pub(super) fn pending_error(socket: BorrowedFd<'_>) -> Option<i32> {
    // SAFETY: the value is a plain number.
    let error: libc::c_int = unsafe { get_option(socket, libc::SOL_SOCKET, libc::SO_ERROR, 0) }.ok()?;
    (error != 0).then_some(error)
}

/// What the kernel has counted for `socket`.
pub(super) fn kernel_stats(socket: BorrowedFd<'_>) -> io::Result<KernelStats> {
    let zero = libc::xdp_statistics {
        rx_dropped: 0,
        rx_invalid_descs: 0,
        tx_invalid_descs: 0,
        rx_ring_full: 0,
        rx_fill_ring_empty_descs: 0,
        tx_ring_empty_descs: 0,
    };
    // SAFETY: the structure consists of plain numbers.
    let counts = unsafe { get_option(socket, libc::SOL_XDP, libc::XDP_STATISTICS, zero) }?;
    Ok(KernelStats {
        rx_dropped: counts.rx_dropped,
        rx_ring_full: counts.rx_ring_full,
        rx_fill_ring_empty: counts.rx_fill_ring_empty_descs,
        rx_invalid: counts.rx_invalid_descs,
        tx_invalid: counts.tx_invalid_descs,
    })
}

/// Where a socket is bound to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub ifindex: u32,
    pub queue: u32,
}

/// Binds `socket`; with the UMEM of `shared`, or with its own.
pub(super) fn bind(
    socket: BorrowedFd<'_>,
    place: Place,
    flags: u16,
    shared: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: place.ifindex,
        sxdp_queue_id: place.queue,
        sxdp_shared_umem_fd: shared.map_or(0, |fd| fd.as_raw_fd().unsigned_abs()),
    };
    let start = Instant::now();
    loop {
        let len = size_of::<libc::sockaddr_xdp>() as u32;
        // SAFETY: the address is a local of the length given.
        if unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) || start.elapsed() > BIND_PATIENCE {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Makes the four rings of a socket.
pub(super) fn make_rings(socket: BorrowedFd<'_>, sizes: RingSizes) -> io::Result<()> {
    let rings = [(RX, sizes.rx), (TX, sizes.tx), (FILL, sizes.rx), (COMPLETION, sizes.tx)];
    rings.iter().try_for_each(|(kind, size)| sys::setsockopt(socket, libc::SOL_XDP, kind.option, size))
}

/// A socket's descriptor and rings.
#[derive(Debug)]
pub(super) struct XdpSocket {
    pub rx: Consumer<Desc>,
    pub tx: Producer<Desc>,
    pub fill: Producer<u64>,
    pub completion: Consumer<u64>,
    fd: Arc<OwnedFd>,
}

impl XdpSocket {
    /// Makes and maps the rings of `fd`, which is not bound yet.
    pub fn new(fd: OwnedFd, sizes: RingSizes) -> io::Result<Self> {
        let socket = fd.as_fd();
        make_rings(socket, sizes)?;
        let none = libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
        let zero = libc::xdp_mmap_offsets { rx: none, tx: none, fr: none, cr: none };
        // SAFETY: the structure consists of plain numbers.
        let offsets = unsafe { get_option(socket, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, zero) }?;
        Ok(XdpSocket {
            rx: Consumer::map(socket, RX, sizes.rx, &offsets.rx)?,
            tx: Producer::map(socket, TX, sizes.tx, &offsets.tx)?,
            fill: Producer::map(socket, FILL, sizes.rx, &offsets.fr)?,
            completion: Consumer::map(socket, COMPLETION, sizes.tx, &offsets.cr)?,
            fd: Arc::new(fd),
        })
    }

    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The descriptor, to be watched by somebody who must not keep it open.
    pub fn watch(&self) -> std::sync::Weak<OwnedFd> {
        Arc::downgrade(&self.fd)
    }

    /// Lets the kernel have as many packets under way as the transmit ring has entries: its default would be reached
    /// by some 90 packets of full size.
    pub fn set_send_buffer(&self, packets: u32) -> io::Result<()> {
        let octets = (packets * 4096) as libc::c_int;
        sys::setsockopt(self.fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &octets)
            .or_else(|_| sys::setsockopt(self.fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, &octets))
    }

    /// Makes the kernel look at the transmit ring.
    #[inline]
    pub fn kick(&self) -> Result<(), i32> {
        let fd = self.fd.as_raw_fd();
        // SAFETY: no memory is handed over.
        let sent = unsafe { libc::sendto(fd, std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
        if sent >= 0 { Ok(()) } else { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) }
    }
}
