//! A packet socket: works on each device, takes every frame size, and is not fast.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::device::Device;
use crate::port::{BURST, Port};
use crate::sys;

/// Octets that the kernel may hold for us before it drops: half a second of small packets at a million per second.
const RECEIVE_BUFFER: i32 = 512 << 20;
/// A frame of 9000 octets with its tag fits.
const SLOT: usize = 9216;

/// A packet socket bound to one device. Frames that the host itself sends there are not received.
pub struct PacketPort {
    socket: OwnedFd,
    slots: Vec<u8>,
    wait: Duration,
    drops: u64,
}

impl PacketPort {
    /// Opens it, in the calling thread's namespace.
    ///
    /// # Errors
    /// What the kernel says; packet sockets need CAP_NET_RAW.
    pub fn open(device: &Device) -> io::Result<Self> {
        let socket = sys::packet_socket()?;
        sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)
            .or_else(|_| sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER))?;
        sys::set_option(&socket, libc::SOL_PACKET, sys::PACKET_IGNORE_OUTGOING, 1)?;
        // Past the queueing discipline, a full device queue refuses the frame, so that we can send it again; behind it
        // the kernel would drop frames that it had accepted.
        sys::set_option(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
        sys::bind_packet(&socket, device.index)?;
        Ok(PacketPort { socket, slots: vec![0; BURST * SLOT], wait: Duration::ZERO, drops: 0 })
    }
}

impl Port for PacketPort {
    fn send(&mut self, frames: &[u8], size: usize) -> io::Result<usize> {
        match sys::send_burst(&self.socket, frames, size) {
            Err(error) if is_busy(&error) => Ok(0),
            result => result,
        }
    }

    fn receive(&mut self, wait: Duration, each: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        if wait != self.wait {
            sys::set_receive_timeout(&self.socket, wait)?;
            self.wait = wait;
        }
        let mut lens = [0; BURST];
        let count = match sys::receive_burst(&self.socket, &mut self.slots, SLOT, &mut lens) {
            Err(error) if is_busy(&error) => return Ok(0),
            result => result?,
        };
        for (slot, &len) in self.slots.chunks_exact(SLOT).zip(&lens).take(count) {
            each(slot.get(..len).unwrap_or(slot));
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn receiver_drops(&mut self) -> io::Result<u64> {
        // The kernel's counter starts again at 0 with each reading.
        self.drops += u64::from(sys::packet_drops(&self.socket)?);
        Ok(self.drops)
    }
}

/// Whether trying again may help: the device's queue is full, nothing came in time, or a signal came between.
fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR | libc::EBUSY))
}
