//! The few system calls of the kernel-device ports, each with the proof of its safety in one place.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_void};

/// The call's result, or `errno`.
pub(crate) fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `errno` of the call that has just failed.
pub(crate) fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// A descriptor that a call has just returned.
///
/// # Safety
/// `result` is a failed call's negative result, or a new descriptor that nobody else owns.
pub(crate) unsafe fn own(result: RawFd) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: fd is open and ours alone, by the caller's word.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `ioctl` with a pointer to `argument`.
///
/// # Safety
/// For `request`, the kernel reads or writes nothing but `*argument`, or memory that pointers in it rightly name.
pub(crate) unsafe fn ioctl<T>(
    fd: BorrowedFd<'_>,
    request: libc::Ioctl,
    argument: &mut T,
) -> io::Result<c_int> {
    // SAFETY: argument is valid for reads and writes for the time of the call; the rest is the caller's word.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) })
}

/// `ioctl` with a number.
///
/// # Safety
/// For `request`, the kernel takes `argument` as a number, not as an address.
pub(crate) unsafe fn ioctl_number(
    fd: BorrowedFd<'_>,
    request: libc::Ioctl,
    argument: libc::c_ulong,
) -> io::Result<c_int> {
    // SAFETY: no memory is involved, by the caller's word.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) })
}

/// A socket that is closed on exec and never blocks.
pub(crate) fn socket(domain: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    let kind = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket() has no memory arguments.
    let result = unsafe { libc::socket(domain, kind, protocol) };
    // SAFETY: the result of socket() is an error or a new descriptor.
    unsafe { own(result) }
}

/// `setsockopt` with a plain structure or number.
pub(crate) fn setsockopt<T: Copy>(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: &T,
) -> io::Result<()> {
    let value: *const c_void = std::ptr::from_ref(value).cast();
    // SAFETY: the kernel reads size_of::<T>() octets at most from value, which lives for the call.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value, size_of::<T>() as libc::socklen_t) };
    check(result).map(drop)
}

/// What `poll` says at once of one descriptor; nothing when it fails.
pub(crate) fn poll_now(fd: BorrowedFd<'_>, events: libc::c_short) -> libc::c_short {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    // SAFETY: one pollfd, which lives for the call.
    if unsafe { libc::poll(&raw mut poll, 1, 0) } == 1 { poll.revents } else { 0 }
}

/// `getsockopt` of a plain structure or number.
pub(crate) fn getsockopt<T: bytemuck::Pod>(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<T> {
    let mut value = T::zeroed();
    let mut len = size_of::<T>() as libc::socklen_t;
    let place: *mut c_void = std::ptr::from_mut(&mut value).cast();
    // SAFETY: the kernel writes len octets at most to value, for which every content is legal.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, place, &raw mut len) })?;
    Ok(value)
}

/// Binds a packet socket to a device, for all protocols.
pub(crate) fn bind_packet(socket: BorrowedFd<'_>, index: i32) -> io::Result<()> {
    let mut address: libc::sockaddr_ll = zeroed();
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index;
    let place: *const libc::sockaddr = std::ptr::from_ref(&address).cast();
    // SAFETY: a sockaddr_ll of its own size, which lives for the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), place, size_of::<libc::sockaddr_ll>() as libc::socklen_t) })
        .map(drop)
}

/// Has a device receive frames for all addresses, as long as the packet socket is open.
pub(crate) fn join_promiscuous(socket: BorrowedFd<'_>, index: i32) -> io::Result<()> {
    let wanted = libc::packet_mreq {
        mr_ifindex: index,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    setsockopt(socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &wanted)
}

/// The number of the device that a packet socket is bound to; `None` once the device is gone.
pub(crate) fn packet_index(socket: BorrowedFd<'_>) -> Option<i32> {
    let mut address: libc::sockaddr_ll = zeroed();
    let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    let place: *mut libc::sockaddr = std::ptr::from_mut(&mut address).cast();
    // SAFETY: the kernel writes len octets at most to address, which lives for the call.
    check(unsafe { libc::getsockname(socket.as_raw_fd(), place, &raw mut len) }).ok()?;
    (address.sll_ifindex > 0).then_some(address.sll_ifindex)
}

/// A C structure of zeros.
pub(crate) fn zeroed<T: Plain>() -> T {
    // SAFETY: Plain says that all zeros are a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// A C structure for which all zeros are a value.
///
/// # Safety
/// Every bit pattern of zeros is a value of the type.
pub(crate) unsafe trait Plain {}

// SAFETY: integers and arrays of them only.
unsafe impl Plain for libc::sockaddr_ll {}
// SAFETY: integers and raw pointers, which may be null.
unsafe impl Plain for libc::mmsghdr {}
