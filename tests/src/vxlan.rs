//! The kernel's own vxlan device as a peer.

use crate::cmd::Result;
use crate::netns::Netns;

/// A vxlan device in a namespace; it goes with the namespace.
pub struct KernelVxlan<'a> {
    ns: &'a Netns,
    device: String,
}

impl<'a> KernelVxlan<'a> {
    /// Makes `vx<vni>` from the underlay address `local`, port 4789, and gives it `cidr`. Without a remote it sends nothing.
    pub fn new(ns: &'a Netns, vni: u32, local: &str, cidr: &str) -> Result<Self> {
        Self::with_options(ns, vni, (local, cidr), "")
    }

    /// The same with further options of `ip link add ... type vxlan` (`udpcsum`); `ends` are `local` and `cidr`.
    pub fn with_options(ns: &'a Netns, vni: u32, ends: (&str, &str), options: &str) -> Result<Self> {
        let (device, (local, cidr)) = (format!("vx{vni}"), ends);
        ns.ip(&format!("link add {device} type vxlan id {vni} local {local} dstport 4789 {options}"))?;
        ns.configure(&device, cidr, 0)?;
        Ok(KernelVxlan { ns, device })
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Floods to this remote as well.
    pub fn flood_to(&self, remote: &str) -> Result<()> {
        self.forward("00:00:00:00:00:00", remote)
    }

    /// Sends what goes to `mac` to this remote.
    pub fn forward(&self, mac: &str, remote: &str) -> Result<()> {
        self.ns.sh(&format!("bridge fdb append {mac} dev {} dst {remote}", self.device)).map(drop)
    }

    /// The remote behind which the device learned this address.
    pub fn learned(&self, mac: &str) -> Result<Option<String>> {
        let fdb = self.ns.sh(&format!("bridge fdb show dev {}", self.device))?;
        let line = fdb.lines().find(|line| line.starts_with(mac));
        Ok(line.and_then(|line| line.split("dst ").nth(1)?.split_whitespace().next()).map(str::to_owned))
    }
}
