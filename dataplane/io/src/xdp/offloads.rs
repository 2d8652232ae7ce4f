//! Offloads that AF_XDP can't see: switched off while a port is open, and put back when it goes.
//!
//! AF_XDP hands over the octets of a packet and nothing that the kernel knows beside them: a VLAN tag that the NIC has
//! taken out, segments that were merged, a checksum that nobody has finished. On a veth it is the other end that
//! leaves such things undone, so they are switched off there.
//!
//! An unfinished TCP or UDP checksum would be found by its value; of SCTP, or in a tunnel within the packet, it would
//! not. Hence that offload goes too.

use super::XdpError;
use super::port::Mode;
use crate::device::{Device, DeviceError, DeviceOffload, PreviousOffloads};
use crate::netlink::{VethEnds, VethPeer, veth_peer};
use crate::netns::Netns;

/// What was switched off at one device.
#[derive(Debug)]
struct Switched {
    device: Device,
    previous: PreviousOffloads,
}

/// What was switched off for a port. Dropping it switches that on again, as far as the devices are still there.
#[derive(Debug)]
pub(super) struct Offloads {
    switched: Vec<Switched>,
    notes: Vec<String>,
}

impl Offloads {
    /// Switches off what is in the way at `device`, which is in `netns`, the calling thread's namespace.
    pub fn switch_off(netns: &Netns, device: &str, mode: Mode) -> Result<Self, XdpError> {
        let mut offloads = Offloads { switched: Vec::new(), notes: Vec::new() };
        let mut own = vec![(DeviceOffload::RxVlan, false), (DeviceOffload::Lro, false)];
        if mode == Mode::Generic {
            // Behind the driver, the program gets what was merged.
            own.push((DeviceOffload::Gro, false));
        }
        offloads.switch(netns, device, &own, device)?;
        match veth_peer(device)? {
            VethEnds::NoVeth => {}
            VethEnds::Found(peer) => offloads.switch_peer(netns, &peer, mode)?,
            VethEnds::Hidden if mode == Mode::Generic => {
                return Err(XdpError::PeerHidden { device: device.to_owned() });
            }
            VethEnds::Hidden => offloads.notes.push(format!(
                "{device}: the veth's other end can't be found: VLAN tags that it sends by offload are not seen"
            )),
        }
        Ok(offloads)
    }

    fn switch_peer(&mut self, here: &Netns, peer: &VethPeer, mode: Mode) -> Result<(), XdpError> {
        let mut wanted = vec![(DeviceOffload::TxVlan, false), (DeviceOffload::TxChecksum, false)];
        if mode == Mode::Generic {
            // In native mode the kernel does this itself.
            wanted.extend([(DeviceOffload::Tso, false), (DeviceOffload::OtherSegmentation, false)]);
        }
        let netns = peer.netns.as_ref().unwrap_or(here);
        let shown = match &peer.netns {
            Some(netns) => format!("{} in {netns}", peer.name),
            None => peer.name.clone(),
        };
        self.switch(netns, &peer.name, &wanted, &shown)
    }

    fn switch(
        &mut self,
        netns: &Netns,
        device: &str,
        wanted: &[(DeviceOffload, bool)],
        shown: &str,
    ) -> Result<(), XdpError> {
        let device = Device::open(netns, device)?;
        let previous = device.switch_offloads(wanted).map_err(XdpError::Offload)?.that_were_on();
        if !previous.is_empty() {
            self.notes.push(format!("{shown}: switched off {}", previous.names()));
            self.switched.push(Switched { device, previous });
        }
        Ok(())
    }

    /// What was done, and what could not be, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

impl Switched {
    fn restore(&self) -> Result<(), DeviceError> {
        match self.device.restore_offloads(&self.previous) {
            // It has nothing to restore.
            Err(DeviceError::Gone(_)) => Ok(()),
            other => other,
        }
    }
}

impl Drop for Offloads {
    fn drop(&mut self) {
        for switched in self.switched.iter().rev() {
            if let Err(error) = switched.restore() {
                tracing::warn!(%error, "offloads stay off");
            }
        }
    }
}
