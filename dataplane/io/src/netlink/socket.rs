//! The two kinds of rtnetlink socket: one for requests and their answers, one for events.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::error::NetlinkError;
use super::message::{Attrs, Message, Messages, Request, text, u32_at};

/// How long the kernel may take for (the next part of) an answer.
pub const TIMEOUT: Duration = Duration::from_secs(1);

/// The kernel fills at most 32 KiB of a datagram, whatever the reader offers.
const DATAGRAM: usize = 64 << 10;

/// `NLMSG_*` of linux/netlink.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The text in an extended acknowledgement.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// `struct nlmsgerr` of an acknowledgement without the request's payload: error number, request's header.
const CAPPED_ERROR: usize = 20;

/// Whether a list that the kernel gave is a picture of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Snapshot {
    Consistent,
    /// The list changed while it was read (`NLM_F_DUMP_INTR`).
    Interrupted,
}

/// What a read of the event socket gave.
#[derive(Debug)]
pub(super) enum Received<'a> {
    Datagram(&'a [u8]),
    /// Events were lost: the queue was full, or one did not fit.
    Overrun,
    Nothing,
}

/// A non-blocking rtnetlink socket with its buffer.
#[derive(Debug)]
struct Endpoint {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Endpoint {
    fn open(groups: u32) -> Result<Self, NetlinkError> {
        let fail = |operation| move |error: io::Error| NetlinkError::socket(operation, &error);
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(fail("open a netlink socket"))?;
        socket.set_non_blocking(true).map_err(fail("make a netlink socket non-blocking"))?;
        socket.bind(&SocketAddr::new(0, groups)).map_err(fail("bind a netlink socket"))?;
        Ok(Endpoint { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Reads one datagram of the kernel's; those of other processes are ignored.
    fn receive(&mut self) -> Result<Received<'_>, NetlinkError> {
        loop {
            self.buffer.clear();
            let read = self.socket.recv_from(&mut self.buffer, libc::MSG_TRUNC);
            match read {
                Ok((_, from)) if from.port_number() != 0 => (),
                Ok((length, _)) if length > self.buffer.len() => return Ok(Received::Overrun),
                Ok(_) => return Ok(Received::Datagram(&self.buffer)),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => (),
                    Some(libc::EAGAIN) => return Ok(Received::Nothing),
                    Some(libc::ENOBUFS) => return Ok(Received::Overrun),
                    _ => return Err(NetlinkError::socket("read a netlink socket", &error)),
                },
            }
        }
    }

    /// Waits until there is something to read. False: the time is over.
    fn wait(&self, until: Instant) -> Result<bool, NetlinkError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // One more than the whole milliseconds, so that a remainder does not spin.
            let milliseconds = libc::c_int::try_from(left.as_millis()).unwrap_or(libc::c_int::MAX - 1) + 1;
            let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd, exclusively borrowed for the call.
            let ready =
                unsafe { libc::poll(&raw mut poll, 1, if left.is_zero() { 0 } else { milliseconds }) };
            if ready >= 0 {
                return Ok(ready > 0);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(NetlinkError::socket("wait for netlink", &error));
            }
        }
    }
}

/// A socket for requests: one at a time, each with its answer.
#[derive(Debug)]
pub(super) struct Channel {
    endpoint: Endpoint,
    sequence: u32,
}

impl Channel {
    /// Opens the socket in the calling thread's namespace.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let endpoint = Endpoint::open(0)?;
        // Without these an error has no text, or repeats the request; both are only a loss of words.
        let _ = endpoint.socket.set_ext_ack(true);
        let _ = endpoint.socket.set_cap_ack(true);
        Ok(Channel { endpoint, sequence: 0 })
    }

    /// Sends a request (with `NLM_F_ACK`, or a dump) and hands each message of the answer to `each`. The first error
    /// is the outcome, but the answer is read to its end: the kernel refuses a new list while one is under way.
    pub(super) fn ask(
        &mut self,
        operation: &'static str,
        request: Request,
        mut each: impl FnMut(&Message<'_>) -> Result<(), NetlinkError>,
    ) -> Result<Snapshot, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let bytes = request.finish(self.sequence);
        let sent = self.endpoint.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0);
        sent.map_err(|error| NetlinkError::socket(operation, &error))?;
        let mut answer = Answer { sequence: self.sequence, snapshot: Snapshot::Consistent, failed: None };
        loop {
            if !self.endpoint.wait(Instant::now() + TIMEOUT)? {
                return Err(NetlinkError::Timeout { operation, milliseconds: TIMEOUT.as_millis() });
            }
            let datagram = match self.endpoint.receive()? {
                Received::Datagram(datagram) => datagram,
                Received::Nothing => continue,
                Received::Overrun => return Err(NetlinkError::Socket { operation, errno: libc::ENOBUFS }),
            };
            if let Some(last) = answer.take(datagram, &mut each) {
                return answer.finish(ended(operation, last));
            }
        }
    }

    /// Sends a request that is answered by success or failure alone.
    pub(super) fn order(&mut self, operation: &'static str, request: Request) -> Result<(), NetlinkError> {
        self.ask(operation, request, |_| Ok(())).map(|_| ())
    }
}

/// An answer that is being read.
struct Answer {
    sequence: u32,
    snapshot: Snapshot,
    failed: Option<NetlinkError>,
}

impl Answer {
    /// Takes one datagram of the answer, and gives the body of its last message if that is in it.
    fn take<'a>(
        &mut self,
        datagram: &'a [u8],
        each: &mut impl FnMut(&Message<'_>) -> Result<(), NetlinkError>,
    ) -> Option<&'a [u8]> {
        for message in Messages(datagram) {
            let message = match message {
                // The late answer to a request that was given up is nobody's.
                Ok(message) if message.sequence != self.sequence => continue,
                Ok(message) => message,
                Err(error) => {
                    self.failed.get_or_insert(error);
                    continue;
                }
            };
            if message.flags & libc::NLM_F_DUMP_INTR as u16 != 0 {
                self.snapshot = Snapshot::Interrupted;
            }
            if matches!(message.kind, NLMSG_ERROR | NLMSG_DONE) {
                return Some(message.body);
            }
            if self.failed.is_none() {
                self.failed = each(&message).err();
            }
        }
        None
    }

    fn finish(self, ended: Result<(), NetlinkError>) -> Result<Snapshot, NetlinkError> {
        ended?;
        self.failed.map_or(Ok(self.snapshot), Err)
    }
}

/// What the last message of an answer says: both kinds start with a negative error number, or zero.
fn ended(operation: &'static str, body: &[u8]) -> Result<(), NetlinkError> {
    let code = u32_at(body, 0).unwrap_or(0).cast_signed();
    if code == 0 {
        return Ok(());
    }
    let words = Attrs::new(body.get(CAPPED_ERROR..).unwrap_or(&[]));
    let detail = words.flatten().find(|&(kind, _)| kind == NLMSGERR_ATTR_MSG);
    let detail = detail.map(|(_, value)| text(value)).unwrap_or_default();
    Err(NetlinkError::Refused { operation, errno: code.saturating_neg(), detail })
}

/// A socket that receives events.
#[derive(Debug)]
pub(super) struct EventSocket {
    endpoint: Endpoint,
}

impl EventSocket {
    /// Opens the socket in the calling thread's namespace. `groups`: a bit for each multicast group, group 1 lowest.
    /// `receive_buffer`: octets that may wait in the kernel; the system's limit is lifted if we are allowed to.
    pub(super) fn open(groups: u32, receive_buffer: u32) -> Result<Self, NetlinkError> {
        let endpoint = Endpoint::open(groups)?;
        let size = libc::c_int::try_from(receive_buffer).unwrap_or(libc::c_int::MAX);
        // SAFETY: the option's value is the int that is borrowed, and its size is given.
        let forced = unsafe {
            libc::setsockopt(
                endpoint.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                (&raw const size).cast(),
                size_of_val(&size) as libc::socklen_t,
            )
        };
        if forced != 0 {
            let set = endpoint.socket.set_rx_buf_sz(size);
            set.map_err(|error| NetlinkError::socket("size a netlink socket", &error))?;
        }
        Ok(EventSocket { endpoint })
    }

    /// Subscribes to one group more. An old kernel may not have it.
    pub(super) fn join(&self, group: u32) -> io::Result<()> {
        self.endpoint.socket.add_membership(group)
    }

    /// Reads one datagram, if there is one.
    pub(super) fn receive(&mut self) -> Result<Received<'_>, NetlinkError> {
        self.endpoint.receive()
    }
}

impl AsRawFd for EventSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.endpoint.socket.as_raw_fd()
    }
}
