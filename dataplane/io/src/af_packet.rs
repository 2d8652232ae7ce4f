//! Packet sockets on devices that weft doesn't own: the tap that a VM's QEMU holds, a container's veth, a NIC.
//!
//! * What is seen: all packets that the device receives, before the host's own stack, which sees them too (give the
//!   device no addresses); not what the host sends through it. What is sent leaves by the device's queueing discipline.
//! * Offloads: `virtio_net_hdr` both ways, so that unfinished checksums come and go unfinished. A VLAN tag that the
//!   kernel has taken out is put back in.
//! * Segmentation: *the sender* decides whether packets larger than the MTU arrive here: a veth's other end (`ethtool
//!   -K PEER tso off` there), or a guest (`host_tso4=off` in its device's properties); nothing on this side
//!   changes it. So received GSO packets are cut into segments (`segment`). Merging on
//!   this side (GRO, LRO) is switched off while the port is open, and back on afterwards: it would change what was on the
//!   wire, and the kernel can't describe merged tunnel packets to a packet socket. Such a packet, sent by a peer that
//!   segments tunnels by offload, is counted as [`RxError`](weft_wire::DropReason::RxError).
//! * Life: a device that goes down is a fault until it is up again; one that is deleted, or moved to another namespace, is
//!   gone, and the port has to be opened again.
//! * Threads: one queue, for one worker; the control handle is the device.
//!
//! References: packet(7); Linux `Documentation/networking/packet_mmap.rst`.

mod queue;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use weft_wire::PortName;

use crate::device::{Device, DeviceError, DeviceOffload, PreviousOffloads};
use crate::netns::{Netns, NetnsError};
use crate::open::OpenPort;
use crate::sys;
use queue::PacketQueue;

/// Octets of memory for packets that wait to be received, and to be sent, at most (the kernel counts its own
/// overhead too, and takes twice this).
const BUFFER: i32 = 4 << 20;

// Of <linux/if_packet.h>.
const PACKET_STATISTICS: i32 = 6;
const PACKET_AUXDATA: i32 = 8;
const PACKET_VNET_HDR: i32 = 15;
const PACKET_IGNORE_OUTGOING: i32 = 23;

/// Which device to use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AfPacketSpec {
    /// The device's name.
    pub name: PortName,
    /// The namespace that it is in, by its `ip netns` name; the caller's if `None`.
    pub netns: Option<String>,
}

/// A device can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AfPacketError {
    /// It is not there, or not readable.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Namespace trouble.
    #[error("{name}: {source}")]
    Netns {
        /// The device.
        name: PortName,
        /// The reason.
        source: NetnsError,
    },
    /// It carries something else.
    #[error("{0} is not an Ethernet device")]
    NotEthernet(PortName),
    /// The kernel refuses.
    #[error("{name}: packet socket: {what}: {source}")]
    Socket {
        /// The device.
        name: PortName,
        /// The call or option that failed.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Opens a packet socket on the device. See the module's text.
pub fn open(spec: &AfPacketSpec) -> Result<OpenPort<AfPacketControl>, AfPacketError> {
    let lost = |source| AfPacketError::Netns { name: spec.name.clone(), source };
    let netns = Netns::open_or_current(spec.netns.as_deref()).map_err(lost)?;
    let device = Device::open(&netns, spec.name.as_str())?;
    if device.mac()?.is_none() {
        return Err(AfPacketError::NotEthernet(spec.name.clone()));
    }
    // A socket of no protocol receives nothing until it is bound.
    let socket = netns.run(|| sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)).map_err(lost)?;
    let socket = socket.map_err(|source| refused(spec, "socket", source))?;
    prepare(socket.as_fd(), &device).map_err(|(what, source)| refused(spec, what, source))?;
    let socket = Arc::new(socket);
    let (switched_off, overruns) = (Vec::new(), Cell::new(0));
    let mut control = AfPacketControl { device, socket: Arc::downgrade(&socket), switched_off, overruns };
    control.switch_merging_off()?;
    let for_queue = Device::open(&netns, spec.name.as_str())?;
    sys::bind_packet(socket.as_fd(), control.device.index())
        .map_err(|source| refused(spec, "bind", source))?;
    let queue = PacketQueue::new(socket, for_queue, spec.name.clone());
    Ok(OpenPort { queues: vec![Box::new(queue)], control })
}

fn refused(spec: &AfPacketSpec, what: &'static str, source: io::Error) -> AfPacketError {
    AfPacketError::Socket { name: spec.name.clone(), what, source }
}

fn prepare(socket: BorrowedFd<'_>, device: &Device) -> Result<(), (&'static str, io::Error)> {
    let options = [
        ("PACKET_VNET_HDR", libc::SOL_PACKET, PACKET_VNET_HDR, 1),
        ("PACKET_AUXDATA", libc::SOL_PACKET, PACKET_AUXDATA, 1),
        ("PACKET_IGNORE_OUTGOING", libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1),
        ("SO_RCVBUFFORCE", libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER),
        ("SO_SNDBUFFORCE", libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER),
    ];
    for (what, level, name, value) in options {
        sys::setsockopt(socket, level, name, &value).map_err(|source| (what, source))?;
    }
    sys::join_promiscuous(socket, device.index()).map_err(|source| ("PACKET_ADD_MEMBERSHIP", source))
}

/// The control plane's handle of an open device.
///
/// Drop it after the port's queue, and before the same device is opened again: it switches back on what merging the port has
/// switched off.
#[derive(Debug)]
pub struct AfPacketControl {
    device: Device,
    socket: Weak<OwnedFd>,
    switched_off: Vec<PreviousOffloads>,
    /// Of [`AfPacketControl::overruns`], as of the last call.
    overruns: Cell<u64>,
}

impl AfPacketControl {
    /// The device: its number, name, address, MTU and link.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Packets that the kernel has dropped so far because the port didn't take them in time: its receive buffer was full.
    pub fn overruns(&self) -> u64 {
        if let Some(socket) = self.socket.upgrade() {
            // struct tpacket_stats: packets, drops. Reading it sets both to 0.
            let stats = sys::getsockopt::<[u32; 2]>(socket.as_fd(), libc::SOL_PACKET, PACKET_STATISTICS);
            let [_, drops] = stats.unwrap_or_default();
            self.overruns.set(self.overruns.get() + u64::from(drops));
        }
        self.overruns.get()
    }

    fn switch_merging_off(&mut self) -> Result<(), DeviceError> {
        for how in [DeviceOffload::Gro, DeviceOffload::Lro] {
            match self.device.switch_offloads(&[(how, false)]) {
                Ok(previous) => self.switched_off.push(previous.that_were_on()),
                // A device that can't is left as it is.
                Err(DeviceError::StaysOn { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Drop for AfPacketControl {
    fn drop(&mut self) {
        for previous in &self.switched_off {
            // A device that is gone needs nothing.
            let _ = self.device.restore_offloads(previous);
        }
    }
}
