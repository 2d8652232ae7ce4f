//! A network device of the kernel, seen from the control plane: its name, number, address, MTU and link; its driver and
//! offloads are read and set by `ethtool`.
//!
//! A [`Device`] is a socket in the device's namespace and the device's number there: it can be used from any thread,
//! follows a rename, and says [`DeviceError::Gone`] once the device is deleted or moved elsewhere. Nothing here
//! is called by the packet path.
//!
//! References: netdevice(7); Linux `include/uapi/linux/ethtool.h`.

mod ethtool;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use weft_wire::Mac;

use crate::netns::{Netns, NetnsError};
use crate::sys;
pub(crate) use ethtool::{DeviceOffload, PreviousOffloads};

/// Something about a device can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No such device there.
    #[error("{device}: no such device in {netns}")]
    NotFound {
        /// Its name.
        device: String,
        /// Where it was looked for.
        netns: String,
    },
    /// It was there, and was deleted, or moved to another namespace.
    #[error("{0}: the device is gone")]
    Gone(String),
    /// The namespace can't be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The kernel doesn't take the value.
    #[error("{device}: {what} {value} is refused: {source}")]
    Refused {
        /// The device.
        device: String,
        /// What was to be set.
        what: &'static str,
        /// To which value.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// An offload has to be off, and the driver doesn't switch it off.
    #[error("{device}: {feature} can't be switched off")]
    StaysOn {
        /// The device.
        device: String,
        /// The kernel's name of the feature.
        feature: String,
    },
    /// The kernel doesn't tell.
    #[error("{device}: {what}: {source}")]
    Unreadable {
        /// The device.
        device: String,
        /// What was to be read.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A device's link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Administratively up.
    pub up: bool,
    /// There is a carrier, and the device is operational.
    pub running: bool,
}

/// A network device. See the module's text.
#[derive(Debug)]
pub struct Device {
    /// In the device's namespace.
    socket: OwnedFd,
    index: i32,
    /// The name when it was opened, for messages.
    name: String,
}

/// `struct ifreq`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    /// The union; its largest members are a `sockaddr` and a map of 24 octets.
    data: [u64; 3],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

impl Request {
    fn new(name: &str) -> Self {
        let mut request = Request { name: [0; libc::IFNAMSIZ], data: [0; 3] };
        // The last octet stays 0: `Device::open` refuses longer names.
        for (to, from) in request.name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
            *to = from;
        }
        request
    }

    fn name(&self) -> String {
        self.name.iter().take_while(|&&octet| octet != 0).map(|&octet| char::from(octet)).collect()
    }

    fn octets(&self) -> [u8; 24] {
        bytemuck::cast(self.data)
    }

    fn int(&self) -> i32 {
        let [a, b, c, d, ..] = self.octets();
        i32::from_ne_bytes([a, b, c, d])
    }

    fn set_int(&mut self, value: i32) {
        let [a, b, c, d] = value.to_ne_bytes();
        let mut octets = [0; 24];
        octets[..4].copy_from_slice(&[a, b, c, d]);
        self.data = bytemuck::cast(octets);
    }

    fn set_address(&mut self, kind: u16, mac: Mac) {
        let mut octets = [0; 24];
        octets[..2].copy_from_slice(&kind.to_ne_bytes());
        octets[2..8].copy_from_slice(&mac.0);
        self.data = bytemuck::cast(octets);
    }
}

impl Device {
    /// The device `name` in `netns`.
    pub fn open(netns: &Netns, name: &str) -> Result<Self, DeviceError> {
        let unreadable = |source| DeviceError::Unreadable { device: name.to_owned(), what: "socket", source };
        let socket = netns.run(|| sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0))?.map_err(unreadable)?;
        let mut device = Device { socket, index: 0, name: name.to_owned() };
        let missing = || DeviceError::NotFound { device: name.to_owned(), netns: netns.to_string() };
        // Cut, it could be another device's.
        if name.len() >= libc::IFNAMSIZ || name.contains('\0') {
            return Err(missing());
        }
        let found = device.call(libc::SIOCGIFINDEX as libc::Ioctl, Request::new(name));
        device.index = found.map_err(|_| missing())?.int();
        Ok(device)
    }

    /// Its number (`ifindex`) in its namespace.
    pub fn index(&self) -> i32 {
        self.index
    }

    /// Its name now.
    pub fn name(&self) -> Result<String, DeviceError> {
        let mut request = Request::new("");
        request.set_int(self.index);
        match self.call(libc::SIOCGIFNAME as libc::Ioctl, request) {
            Ok(answer) => Ok(answer.name()),
            Err(_) => Err(DeviceError::Gone(self.name.clone())),
        }
    }

    /// Its MTU, in octets after the Ethernet header.
    pub fn mtu(&self) -> Result<u32, DeviceError> {
        Ok(self.read("MTU", libc::SIOCGIFMTU as libc::Ioctl)?.int() as u32)
    }

    /// Sets the MTU; which values are legal is the device's driver's business.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), DeviceError> {
        self.write("MTU", mtu, libc::SIOCSIFMTU as libc::Ioctl, |request| request.set_int(i32::from(mtu)))
    }

    /// How many packets the device's queue holds.
    #[cfg(test)]
    pub(crate) fn queue_length(&self) -> Result<u32, DeviceError> {
        Ok(self.read("queue length", libc::SIOCGIFTXQLEN as libc::Ioctl)?.int() as u32)
    }

    /// Sets how many packets the device's queue holds.
    pub(crate) fn set_queue_length(&self, packets: u16) -> Result<(), DeviceError> {
        let request = libc::SIOCSIFTXQLEN as libc::Ioctl;
        self.write("queue length", packets, request, |request| request.set_int(i32::from(packets)))
    }

    /// Its Ethernet address; `None` when it is not an Ethernet device.
    pub fn mac(&self) -> Result<Option<Mac>, DeviceError> {
        let octets = self.read("address", libc::SIOCGIFHWADDR as libc::Ioctl)?.octets();
        let [kind0, kind1, a, b, c, d, e, f, ..] = octets;
        let ethernet = u16::from_ne_bytes([kind0, kind1]) == libc::ARPHRD_ETHER;
        Ok(ethernet.then_some(Mac([a, b, c, d, e, f])))
    }

    /// Sets the Ethernet address.
    pub fn set_mac(&self, mac: Mac) -> Result<(), DeviceError> {
        let request = libc::SIOCSIFHWADDR as libc::Ioctl;
        self.write("address", mac, request, |request| request.set_address(libc::ARPHRD_ETHER, mac))
    }

    /// Whether it is up, and has a carrier.
    pub fn link(&self) -> Result<Link, DeviceError> {
        let flags = self.flags()?;
        Ok(Link { up: flags & libc::IFF_UP != 0, running: flags & libc::IFF_RUNNING != 0 })
    }

    /// Sets it administratively up or down.
    pub fn set_up(&self, up: bool) -> Result<(), DeviceError> {
        let flags = self.flags()?;
        let flags = if up { flags | libc::IFF_UP } else { flags & !libc::IFF_UP };
        let value = if up { "up" } else { "down" };
        // The kernel reads 16 bits of flags.
        self.write("state", value, libc::SIOCSIFFLAGS as libc::Ioctl, |request| {
            request.set_int(flags & 0xffff)
        })
    }

    fn flags(&self) -> Result<i32, DeviceError> {
        Ok(self.read("flags", libc::SIOCGIFFLAGS as libc::Ioctl)?.int() & 0xffff)
    }

    fn read(&self, what: &'static str, request: libc::Ioctl) -> Result<Request, DeviceError> {
        let name = self.name()?;
        self.call(request, Request::new(&name)).map_err(|source| self.unreadable(what, source))
    }

    fn write(
        &self,
        what: &'static str,
        value: impl ToString,
        request: libc::Ioctl,
        fill: impl FnOnce(&mut Request),
    ) -> Result<(), DeviceError> {
        let device = self.name()?;
        let mut argument = Request::new(&device);
        fill(&mut argument);
        let refused = |source| DeviceError::Refused { device, what, value: value.to_string(), source };
        self.call(request, argument).map(drop).map_err(refused)
    }

    fn unreadable(&self, what: &'static str, source: io::Error) -> DeviceError {
        if source.raw_os_error() == Some(libc::ENODEV) {
            return DeviceError::Gone(self.name.clone());
        }
        DeviceError::Unreadable { device: self.name.clone(), what, source }
    }

    fn call(&self, request: libc::Ioctl, mut argument: Request) -> io::Result<Request> {
        // SAFETY: every request of this module takes a struct ifreq, whose size and layout Request has; SIOCETHTOOL's
        // points to octets that live for the call, as many as the structure of its command has.
        unsafe { sys::ioctl(self.socket.as_fd(), request, &mut argument) }?;
        Ok(argument)
    }
}

#[cfg(test)]
mod tests;
