//! The device behind a port, as its queues and its control handle see it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use super::XdpError;
use crate::device::{Device, DeviceError};
use crate::netns::Netns;
use crate::queue::QueueFault;
use crate::sys;

/// A device that exists, or existed. It is asked through a socket of its own namespace, from any thread.
#[derive(Debug)]
pub(super) struct PortDevice {
    device: Device,
    name: String,
    mtu: AtomicU32,
}

impl PortDevice {
    /// Finds the device.
    pub fn find(netns: &Netns, name: &str) -> Result<Self, XdpError> {
        let device = Device::open(netns, name)?;
        let mtu = AtomicU32::new(device.mtu()?);
        Ok(PortDevice { device, name: name.to_owned(), mtu })
    }

    /// The name it was found by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its index in its namespace.
    pub fn ifindex(&self) -> u32 {
        self.device.index().unsigned_abs()
    }

    /// The largest payload behind the Ethernet header that it takes, as of the last look.
    #[inline]
    pub fn mtu(&self) -> u32 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Looks whether the device is there and up, and what its MTU is now.
    pub fn fault(&self) -> Option<QueueFault> {
        match self.look() {
            Ok(true) => None,
            Ok(false) => Some(QueueFault::DeviceDown),
            Err(DeviceError::Gone(_)) => Some(QueueFault::DeviceGone),
            Err(error) => Some(QueueFault::Os(error.to_string())),
        }
    }

    /// Whether the device is up.
    fn look(&self) -> Result<bool, DeviceError> {
        self.mtu.store(self.device.mtu()?, Ordering::Relaxed);
        Ok(self.device.link()?.up)
    }

    /// Has the device receive frames for all addresses, as long as the descriptor is open. To be called in the device's
    /// namespace.
    pub fn promiscuous(&self) -> Result<OwnedFd, XdpError> {
        // A packet socket of no protocol receives nothing.
        let join = || {
            let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
            sys::join_promiscuous(socket.as_fd(), self.device.index())?;
            Ok(socket)
        };
        join().map_err(|source| XdpError::Promiscuous { device: self.name.clone(), source })
    }

    /// How many receive queues it has; 1 if it doesn't say.
    pub fn rx_queues(&self) -> Result<u32, XdpError> {
        Ok(self.device.rx_queues()?)
    }

    /// Whether it may hand over packets whose checksum the sender left to it. Those without hardware do, since nothing
    /// goes over a wire, and virtio does for packets of the same host.
    pub fn may_be_partial(&self) -> bool {
        let software = ["", "veth", "tun", "bridge", "dummy", "macvlan", "macvtap", "ipvlan", "virtio_net"];
        self.device.driver().map_or(true, |driver| software.contains(&driver.as_str()))
    }
}
