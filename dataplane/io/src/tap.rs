//! Taps that weft owns: it opens the tun device itself, so that checksum offload works, and holds it as long as the
//! port lives.
//!
//! * Where: a tap is created in the namespace that [`TapSpec::netns`] names, so its name collides with nothing
//!   elsewhere. It may be moved to another one at any time, traffic goes on; [`TapControl`] follows it.
//! * Life: a tap goes when its queues do, unless it is persistent. A persistent one is found wherever it is when the
//!   port is opened again: where the spec says, in the caller's namespace, in a named one, in that of any process. If
//!   the spec has an address, a tap elsewhere has to have it too, so that two taps of one name are told apart.
//!   `persistent: false` leaves the persistence of a tap that is there as it is; [`TapControl::set_persistent`]
//!   changes it.
//! * Offloads: `virtio_net_hdr` in front of each packet; the kernel may leave checksums to us (`TUN_F_CSUM`), but not
//!   segmentation, so that nothing larger than the MTU comes in.
//! * Threads: queues belong to a worker each. The control handle holds no reference to the device: when the
//!   queues are gone it says so.
//!
//! References: Linux `Documentation/networking/tuntap.rst`, `include/uapi/linux/if_tun.h`.

mod queue;
#[cfg(test)]
mod tests;

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Weak};

use weft_wire::{Mac, PortName};

use crate::device::{Device, DeviceError};
use crate::netns::{self, Netns, NetnsError};
use crate::offload::VNET_HEADER;
use crate::open::OpenPort;
use crate::queue::PortQueue;
use crate::sys;
use queue::TapQueue;

const TUN: &str = "/dev/net/tun";
/// Octets of packets that the kernel holds for us at most, on their way into the tap's namespace.
const SEND_BUFFER: i32 = 4 << 20;
/// Packets that wait for us at most, in a tap that we create. The kernel drops what is more, and tells the sender
/// nothing: with its own 1000, one TCP connection overruns the queue again and again (measured: thousands of
/// retransmissions a second, against none, and a fifth less throughput).
const QUEUE_LENGTH: u16 = 4096;

/// What a tap is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TapSpec {
    /// The device's name.
    pub name: PortName,
    /// The namespace to create it in, by its `ip netns` name; the caller's if `None`.
    pub netns: Option<String>,
    /// Its Ethernet address (what the VM's side has); random if `None`.
    pub mac: Option<Mac>,
    /// Its MTU; the kernel's 1500 if `None`.
    pub mtu: Option<u16>,
    /// Whether it stays when weft goes.
    pub persistent: bool,
    /// Whether to set it up.
    pub up: bool,
    /// How many queues (1 to [`TapSpec::MAX_QUEUES`]); more than one makes it a multi-queue device.
    pub queues: u16,
}

impl TapSpec {
    /// What the kernel allows (`MAX_TAP_QUEUES`).
    pub const MAX_QUEUES: u16 = 256;

    /// A tap of one queue in the caller's namespace, up, that goes with its port.
    pub fn new(name: PortName) -> Self {
        TapSpec { name, netns: None, mac: None, mtu: None, persistent: false, up: true, queues: 1 }
    }
}

/// A tap can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The tun driver can't be used.
    #[error("tap {name}: {TUN}: {source}")]
    Driver {
        /// The tap.
        name: PortName,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The number of queues is out of range.
    #[error("tap {name}: {queues} queues are out of range: 1 to {}", TapSpec::MAX_QUEUES)]
    Queues {
        /// The tap.
        name: PortName,
        /// What was asked for.
        queues: u16,
    },
    /// Somebody else has it.
    #[error("tap {name} in {netns} is in use by another process")]
    Busy {
        /// The tap.
        name: PortName,
        /// Where it is.
        netns: String,
    },
    /// The name is taken by a device that is no tap.
    #[error("{name} in {netns} exists and is no tap (its driver is '{driver}')")]
    NotATap {
        /// The device.
        name: PortName,
        /// Where it is.
        netns: String,
        /// What it is.
        driver: String,
    },
    /// The tap was made with, or without, several queues, and the spec says otherwise.
    #[error(
        "tap {name} in {netns} exists and does not fit the port: it is a tun device, or multi-queue differs (asked for: {queues} queues)"
    )]
    Unlike {
        /// The tap.
        name: PortName,
        /// Where it is.
        netns: String,
        /// How many queues were asked for.
        queues: u16,
    },
    /// The kernel refuses to create or attach it.
    #[error("tap {name} in {netns}: {what}: {source}")]
    Refused {
        /// The tap.
        name: PortName,
        /// Where it was to be.
        netns: String,
        /// The call that failed.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Namespace trouble.
    #[error("tap {name}: {source}")]
    Netns {
        /// The tap.
        name: PortName,
        /// The reason.
        source: NetnsError,
    },
    /// Address, MTU or state can't be set.
    #[error("tap: {0}")]
    Device(#[from] DeviceError),
}

/// Creates the tap, or attaches to one that is there. See the module's text.
pub fn open(spec: &TapSpec) -> Result<OpenPort<TapControl>, TapError> {
    if !(1..=TapSpec::MAX_QUEUES).contains(&spec.queues) {
        return Err(TapError::Queues { name: spec.name.clone(), queues: spec.queues });
    }
    let (netns, exists) = place(spec)?;
    let files = (0..spec.queues)
        .map(|number| attach(spec, &netns, exists || number > 0).map(Arc::new))
        .collect::<Result<Vec<_>, _>>()?;
    let device = Device::open(&netns, spec.name.as_str())?;
    if !exists {
        device.set_queue_length(QUEUE_LENGTH)?;
    }
    configure(spec, &device)?;
    let first = files.first().ok_or(TapError::Queues { name: spec.name.clone(), queues: 0 })?;
    if spec.persistent {
        set_persistent(first.as_fd(), true)
            .map_err(|source| refused(spec, &netns, "TUNSETPERSIST", source))?;
    }
    let control = TapControl { tap: Arc::downgrade(first), name: spec.name.clone() };
    let queues = files
        .into_iter()
        .map(|file| Box::new(TapQueue::new(file, spec.name.clone())) as Box<dyn PortQueue>)
        .collect();
    Ok(OpenPort { queues, control })
}

/// The namespace that the tap is in, or is to be created in, and whether it is there.
fn place(spec: &TapSpec) -> Result<(Netns, bool), TapError> {
    let wanted = Netns::open_or_current(spec.netns.as_deref());
    if let Ok(netns) = &wanted
        && let Ok(device) = Device::open(netns, spec.name.as_str())
    {
        let driver = device.driver()?;
        if driver != "tun" {
            let (name, netns) = (spec.name.clone(), netns.to_string());
            return Err(TapError::NotATap { name, netns, driver });
        }
        return wanted.map(|netns| (netns, true)).map_err(|source| lost(spec, source));
    }
    if spec.persistent
        && let Some(netns) = find(spec)
    {
        return Ok((netns, true));
    }
    wanted.map(|netns| (netns, false)).map_err(|source| lost(spec, source))
}

/// Looks for a persistent tap of the spec's name (and address) that nobody holds, in every namespace there is.
fn find(spec: &TapSpec) -> Option<Netns> {
    netns::all().find(|netns| {
        let Ok(device) = Device::open(netns, spec.name.as_str()) else { return false };
        device.driver().is_ok_and(|driver| driver == "tun")
            && (spec.mac.is_none() || device.mac().is_ok_and(|mac| mac == spec.mac))
            && attach(spec, netns, true).is_ok()
    })
}

fn configure(spec: &TapSpec, device: &Device) -> Result<(), DeviceError> {
    if let Some(mac) = spec.mac
        && device.mac()? != Some(mac)
    {
        device.set_mac(mac)?;
    }
    if let Some(mtu) = spec.mtu
        && device.mtu()? != u32::from(mtu)
    {
        device.set_mtu(mtu)?;
    }
    if spec.up && !device.link()?.up {
        device.set_up(true)?;
    }
    Ok(())
}

/// A descriptor attached to one queue of the tap in `netns`, which is created unless it `exists`.
fn attach(spec: &TapSpec, netns: &Netns, exists: bool) -> Result<OwnedFd, TapError> {
    let driver = |source| TapError::Driver { name: spec.name.clone(), source };
    let open = || OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(TUN);
    // The device's namespace is that of the thread that opens the file.
    let file: OwnedFd = netns.run(open).map_err(|source| lost(spec, source))?.map_err(driver)?.into();
    let mut request = interface_request(spec, exists);
    // SAFETY: TUNSETIFF reads and writes a struct ifreq.
    let attached = unsafe { sys::ioctl(file.as_fd(), libc::TUNSETIFF, &mut request) };
    attached.map_err(|source| unattached(spec, netns, exists, source))?;
    let refused = |what| move |source| refused(spec, netns, what, source);
    let mut header = VNET_HEADER as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads an int.
    unsafe { sys::ioctl(file.as_fd(), libc::TUNSETVNETHDRSZ, &mut header) }
        .map_err(refused("TUNSETVNETHDRSZ"))?;
    // SAFETY: TUNSETOFFLOAD takes its argument as a number.
    unsafe { sys::ioctl_number(file.as_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(libc::TUN_F_CSUM)) }
        .map_err(refused("TUNSETOFFLOAD"))?;
    let mut buffer = SEND_BUFFER;
    // SAFETY: TUNSETSNDBUF reads an int.
    unsafe { sys::ioctl(file.as_fd(), libc::TUNSETSNDBUF, &mut buffer) }.map_err(refused("TUNSETSNDBUF"))?;
    Ok(file)
}

/// `struct ifreq` for TUNSETIFF: the name and the flags.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    _rest: [u8; size_of::<libc::ifreq>() - libc::IFNAMSIZ - 2],
}

fn interface_request(spec: &TapSpec, exists: bool) -> InterfaceRequest {
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if spec.queues > 1 {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    if !exists {
        // If somebody has created it since we looked, it is theirs.
        flags |= libc::IFF_TUN_EXCL;
    }
    let mut request = InterfaceRequest {
        name: [0; libc::IFNAMSIZ],
        flags: flags as u16,
        _rest: [0; size_of::<libc::ifreq>() - libc::IFNAMSIZ - 2],
    };
    // A PortName has at most 15 octets, so the last one stays 0.
    for (to, from) in request.name.iter_mut().zip(spec.name.as_str().bytes()) {
        *to = from;
    }
    request
}

fn unattached(spec: &TapSpec, netns: &Netns, exists: bool, source: io::Error) -> TapError {
    let (name, place) = (spec.name.clone(), netns.to_string());
    match source.raw_os_error() {
        Some(libc::EBUSY) => TapError::Busy { name, netns: place },
        Some(libc::EINVAL) if exists => TapError::Unlike { name, netns: place, queues: spec.queues },
        _ => refused(spec, netns, "TUNSETIFF", source),
    }
}

fn refused(spec: &TapSpec, netns: &Netns, what: &'static str, source: io::Error) -> TapError {
    TapError::Refused { name: spec.name.clone(), netns: netns.to_string(), what, source }
}

fn lost(spec: &TapSpec, source: NetnsError) -> TapError {
    TapError::Netns { name: spec.name.clone(), source }
}

fn set_persistent(tap: BorrowedFd<'_>, persistent: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument as a number.
    unsafe { sys::ioctl_number(tap, libc::TUNSETPERSIST, libc::c_ulong::from(persistent)) }.map(drop)
}

/// The control plane's handle of an open tap.
#[derive(Clone, Debug)]
pub struct TapControl {
    /// Weak, so that the tap goes with its queues.
    tap: Weak<OwnedFd>,
    /// The name at the start, for messages.
    name: PortName,
}

impl TapControl {
    /// The device, where it is now: its number, name, address, MTU and link are read and set there.
    pub fn device(&self) -> Result<Device, DeviceError> {
        let tap = self.tap()?;
        Device::open(&self.netns_of(&tap)?, &self.name_of(&tap)?)
    }

    /// Whether the device is there, wherever that is: [`DeviceError::Gone`] if not. Costs one system call.
    pub fn check(&self) -> Result<(), DeviceError> {
        self.name_of(&*self.tap()?).map(drop)
    }

    fn name_of(&self, tap: &OwnedFd) -> Result<String, DeviceError> {
        let unreadable = |source| self.unreadable("TUNGETIFF", source);
        let mut request = InterfaceRequest {
            name: [0; libc::IFNAMSIZ],
            flags: 0,
            _rest: [0; size_of::<libc::ifreq>() - libc::IFNAMSIZ - 2],
        };
        // SAFETY: TUNGETIFF writes a struct ifreq.
        unsafe { sys::ioctl(tap.as_fd(), libc::TUNGETIFF, &mut request) }.map_err(unreadable)?;
        let name = request.name.split(|&octet| octet == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    /// The namespace that it is in now.
    pub fn netns(&self) -> Result<Netns, DeviceError> {
        self.netns_of(&*self.tap()?)
    }

    /// Makes it stay, or go, when its queues go.
    pub fn set_persistent(&self, persistent: bool) -> Result<(), DeviceError> {
        set_persistent(self.tap()?.as_fd(), persistent).map_err(|source| DeviceError::Refused {
            device: self.name.to_string(),
            what: "persistence",
            value: persistent.to_string(),
            source,
        })
    }

    fn tap(&self) -> Result<Arc<OwnedFd>, DeviceError> {
        self.tap.upgrade().ok_or_else(|| DeviceError::Gone(self.name.to_string()))
    }

    fn netns_of(&self, tap: &OwnedFd) -> Result<Netns, DeviceError> {
        Netns::of_tap(tap.as_fd()).map_err(|source| self.unreadable("TUNGETDEVNETNS", source))
    }

    fn unreadable(&self, what: &'static str, source: io::Error) -> DeviceError {
        if matches!(source.raw_os_error(), Some(libc::EBADFD | libc::ENODEV)) {
            return DeviceError::Gone(self.name.to_string());
        }
        DeviceError::Unreadable { device: self.name.to_string(), what, source }
    }
}
