//! The system calls that the standard library does not offer, each behind a safe function.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use weft_wire::Mac;

use crate::device::Device;
use crate::port::BURST;

/// `PACKET_IGNORE_OUTGOING` (linux/if_packet.h, since Linux 4.20).
pub const PACKET_IGNORE_OUTGOING: i32 = 23;

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Moves the calling thread into the network namespace that `file` is.
pub fn enter_netns(file: &File) -> io::Result<()> {
    // SAFETY: setns takes a descriptor, which `file` keeps open, and touches no memory of ours.
    check(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// What the kernel says about an interface of the calling thread's namespace.
pub struct Interface {
    pub device: Device,
    pub up: bool,
}

/// Looks an interface up by name.
pub fn interface(name: &str) -> io::Result<Interface> {
    // SAFETY: socket takes numbers only.
    let raw = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let ask = |request: libc::Ioctl| -> io::Result<libc::ifreq> {
        // SAFETY: ifreq is plain old data, for which all zeroes is a value.
        let mut answer: libc::ifreq = unsafe { mem::zeroed() };
        // The last octet stays 0, so that the name is terminated whatever its length.
        for (to, from) in answer.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        // SAFETY: each request below reads and writes one ifreq, which `answer` is.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), request, &mut answer) })?;
        Ok(answer)
    };
    let (index, hardware) = (ask(libc::SIOCGIFINDEX)?, ask(libc::SIOCGIFHWADDR)?);
    let (mtu, flags) = (ask(libc::SIOCGIFMTU)?, ask(libc::SIOCGIFFLAGS)?);
    // SAFETY: SIOCGIFINDEX has filled this member.
    let index = unsafe { index.ifr_ifru.ifru_ifindex };
    // SAFETY: SIOCGIFHWADDR has filled this member.
    let [a, b, c, d, e, f, ..] = unsafe { hardware.ifr_ifru.ifru_hwaddr.sa_data };
    // SAFETY: SIOCGIFMTU has filled this member.
    let mtu = unsafe { mtu.ifr_ifru.ifru_mtu };
    // SAFETY: SIOCGIFFLAGS has filled this member.
    let flags = i32::from(unsafe { flags.ifr_ifru.ifru_flags });
    let mac = Mac([a, b, c, d, e, f].map(|octet| octet as u8));
    let device = Device { index, mac, mtu: usize::try_from(mtu).unwrap_or(0) };
    Ok(Interface { device, up: flags & libc::IFF_UP != 0 })
}

/// A packet socket that receives nothing until it is bound.
pub fn packet_socket() -> io::Result<OwnedFd> {
    // SAFETY: socket takes numbers only.
    let raw = check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Binds a packet socket to a device, all protocols.
pub fn bind_packet(socket: &OwnedFd, index: i32) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain old data, for which all zeroes is a value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index;
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the pointer and the length are those of `address`, which lives until the call returns.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) }).map(drop)
}

/// Sets an option that is one number.
pub fn set_option(socket: &OwnedFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointer and the length are those of `value`, which lives until the call returns.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) })
        .map(drop)
}

/// Sets how long a receive waits; zero would be for ever, and becomes a microsecond.
pub fn set_receive_timeout(socket: &OwnedFd, wait: Duration) -> io::Result<()> {
    let wait = wait.max(Duration::from_micros(1));
    let time = libc::timeval { tv_sec: wait.as_secs() as _, tv_usec: wait.subsec_micros() as _ };
    let (fd, len) = (socket.as_raw_fd(), size_of_val(&time) as libc::socklen_t);
    // SAFETY: the pointer and the length are those of `time`, which lives until the call returns.
    check(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const time).cast(), len) })
        .map(drop)
}

/// Frames that the socket dropped since the last call.
pub fn packet_drops(socket: &OwnedFd) -> io::Result<u32> {
    // `struct tpacket_stats` (linux/if_packet.h): packets, drops.
    let mut stats = [0u32; 2];
    let mut len = size_of_val(&stats) as libc::socklen_t;
    let (fd, to) = (socket.as_raw_fd(), (&raw mut stats).cast());
    // SAFETY: the kernel writes at most `len` octets to `stats`, which is that long, and the length to `len`.
    check(unsafe { libc::getsockopt(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, to, &mut len) })?;
    Ok(stats[1])
}

type Messages = ([libc::mmsghdr; BURST], [libc::iovec; BURST]);

fn empty_messages() -> Messages {
    let message = {
        // SAFETY: mmsghdr is plain old data, for which all zeroes (null pointers, no lengths) is a value.
        unsafe { mem::zeroed::<libc::mmsghdr>() }
    };
    ([message; BURST], [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BURST])
}

/// Sends frames of `size` octets that lie end to end in `frames`, at most [`BURST`]. Returns how many went.
pub fn send_burst(socket: &OwnedFd, frames: &[u8], size: usize) -> io::Result<usize> {
    let (mut messages, mut vectors) = empty_messages();
    let mut count = 0;
    for ((message, vector), frame) in
        messages.iter_mut().zip(&mut vectors).zip(frames.chunks_exact(size.max(1)))
    {
        vector.iov_base = frame.as_ptr().cast_mut().cast();
        vector.iov_len = frame.len();
        message.msg_hdr.msg_iov = vector;
        message.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    let (fd, list) = (socket.as_raw_fd(), messages.as_mut_ptr());
    // SAFETY: the first `count` messages each point to one vector, and that to one frame of `frames`; all three live until
    // the call returns, and sending only reads the frames.
    check(unsafe { libc::sendmmsg(fd, list, count, libc::MSG_DONTWAIT) }).map(|sent| sent as usize)
}

/// Receives up to [`BURST`] frames into slots of `slot` octets each, waiting for the first only, and writes their lengths
/// to `lens`. Longer frames are cut. Returns how many came.
pub fn receive_burst(
    socket: &OwnedFd,
    slots: &mut [u8],
    slot: usize,
    lens: &mut [usize; BURST],
) -> io::Result<usize> {
    let (mut messages, mut vectors) = empty_messages();
    let mut count = 0;
    for ((message, vector), frame) in
        messages.iter_mut().zip(&mut vectors).zip(slots.chunks_exact_mut(slot.max(1)))
    {
        vector.iov_base = frame.as_mut_ptr().cast();
        vector.iov_len = frame.len();
        message.msg_hdr.msg_iov = vector;
        message.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    let (fd, list) = (socket.as_raw_fd(), messages.as_mut_ptr());
    let no_timeout = std::ptr::null_mut();
    // SAFETY: the first `count` messages each point to one vector, and that to one slot of `slots`, which we hold
    // exclusively; all three live until the call returns. A null timeout is allowed.
    let came = check(unsafe { libc::recvmmsg(fd, list, count, libc::MSG_WAITFORONE, no_timeout) })? as usize;
    for (len, message) in lens.iter_mut().zip(&messages).take(came) {
        *len = message.msg_len as usize;
    }
    Ok(came)
}
