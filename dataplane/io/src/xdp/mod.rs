//! AF_XDP ports: an existing network device whose packets come into frames of the pool by way of an XDP program, and
//! leave from where they lie. Forwarding between two such ports moves a descriptor and no octet on this side.
//!
//! * [`XdpSystem`]: the frame pool as the kernel's UMEM, once per process. It opens ports.
//! * `umem`, `socket`, `rings`, `custody`: sockets and their rings, and which frames the kernel has.
//! * `quiet`: what keeps the kernel from answering an uplink's packets that come to it.
//! * `program`, `bpf`: the two XDP programs, and bpf(2).
//! * `device`, `offloads`: the device, wherever it lives, and what it must not do in the host's place.
//! * `queue`: the port's queue.
//!
//! Why there is neither xsk-rs nor libxdp here: `docs/decisions/af-xdp.md`.
//!
//! Kernel: Documentation/networking/af_xdp.rst; net/xdp/xsk.c for what it leaves out.

mod bpf;
mod custody;
mod device;
mod offloads;
mod port;
mod program;
mod queue;
mod quiet;
mod rings;
mod socket;
mod umem;

#[cfg(test)]
mod tests;

use std::io;

use crate::device::DeviceError;
use crate::netlink::NetlinkError;
use crate::netns::NetnsError;

pub use port::{Endpoint, Mode, OpenPort, Role, WantedMode, XdpPort, XdpSpec, XdpSystem};
pub use socket::{KernelStats, RingSizes};

/// Why an AF_XDP port can't be.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// The pool can't be made known to the kernel.
    #[error("AF_XDP: the frame pool can't be registered with the kernel: {0}")]
    Umem(#[source] io::Error),
    /// The device doesn't exist, or doesn't answer.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device's namespace can't be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The ring sizes are out of range.
    #[error(
        "{device}: rings of {rx} and {tx} entries are out of range: powers of two from {min} to {max}",
        rx = sizes.rx, tx = sizes.tx, min = RingSizes::MIN, max = RingSizes::MAX
    )]
    RingSizes {
        /// The device's name.
        device: String,
        /// What was asked for.
        sizes: RingSizes,
    },
    /// The pool has too few free frames for the port's share.
    #[error(
        "{device}: {queues} queues reserve {wanted} frames, and only {free} of the pool's {all} are free: \
         configure a larger pool, or smaller rings"
    )]
    NoFrames {
        /// The device's name.
        device: String,
        /// How many receive queues it has.
        queues: u32,
        /// How many frames that takes.
        wanted: u64,
        /// How many are free.
        free: u32,
        /// How many there are.
        all: u32,
    },
    /// An offload is in the way, and can't be switched off.
    #[error("{0}: AF_XDP would not see what it hides")]
    Offload(#[source] DeviceError),
    /// The kernel doesn't tell about the device.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The other end of a veth is out of reach, and would send what generic mode can't take.
    #[error(
        "{device}: the veth's other end can't be found to switch its segmentation and VLAN offloads off: \
         use native mode"
    )]
    PeerHidden {
        /// The device's name.
        device: String,
    },
    /// The device doesn't receive what is for others.
    #[error("{device}: promiscuous mode is refused: {source}")]
    Promiscuous {
        /// The device's name.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A socket can't be made or bound.
    #[error("{device}: no AF_XDP socket on queue {queue}: {source}{}", bind_hint(source))]
    Socket {
        /// The device's name.
        device: String,
        /// The receive queue.
        queue: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A program or map can't be loaded.
    #[error("{device}: the XDP program can't be loaded: {source}")]
    Program {
        /// The device's name.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Somebody else's XDP program is on the device.
    #[error(
        "{device}: another XDP program is attached to the device: take it off first (ip link set dev {device} xdp off)"
    )]
    OtherProgram {
        /// The device's name.
        device: String,
    },
    /// The device takes no program in the mode that was asked for.
    #[error("{device}: no XDP program can be attached in {mode} mode: {source}{}", attach_hint(source))]
    Attach {
        /// The device's name.
        device: String,
        /// What was asked for.
        mode: Mode,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The program's list of endpoints can't be changed.
    #[error("{device}: tunnel endpoint {endpoint} can't be changed: {source}{}", endpoint_hint(source))]
    Endpoint {
        /// The device's name.
        device: String,
        /// The endpoint.
        endpoint: Endpoint,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A thread can't be started.
    #[error("AF_XDP: no thread for closing sockets: {0}")]
    Thread(#[source] io::Error),
}

fn bind_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => " (another AF_XDP socket is bound to it)",
        Some(libc::EPERM) => " (this needs CAP_NET_RAW)",
        _ => "",
    }
}

fn endpoint_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => " (a VXLAN device of the kernel, or another program, has it)",
        Some(libc::E2BIG) => " (there are too many)",
        _ => "",
    }
}

/// What the kernel's answer to an attempt to attach a program means.
fn attach_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => " (the driver has none)",
        Some(libc::ERANGE | libc::EINVAL) => " (the MTU may be too large for it, or an offload in its way)",
        Some(libc::ENOSPC) => " (the veth's peer has more transmit queues than the veth has receive queues)",
        Some(libc::ENOTCONN) => " (the veth has no peer)",
        Some(libc::EPERM) => " (this needs CAP_BPF and CAP_NET_ADMIN)",
        _ => "",
    }
}
