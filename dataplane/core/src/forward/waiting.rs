//! Packets whose tunnel's next hop is not known yet.

use std::time::Duration;

use weft_io::Packet;
use weft_wire::DropReason;

use super::Forwarder;
use crate::encap::Template;
use crate::held::{HELD_FOR, Waiting};
use crate::key::PortId;
use crate::shared::Wanted;

impl Forwarder {
    /// Keeps a packet until its tunnel's next hop is known, and asks for that.
    #[cold]
    pub(super) fn hold(&mut self, (towards, key): (Wanted, u32), packet: Packet, ingress: PortId) {
        let deadline = Duration::from_secs(u64::from(self.second)) + HELD_FOR;
        if let Err(packet) = self.held.put(Waiting { towards, key, ingress, deadline, packet }) {
            // Those that wait have asked: a flood does not keep the control thread busy.
            return self.drop(ingress, DropReason::NeighbourUnresolved, packet);
        }
        self.show_held();
        // Full means that many are asked for already.
        let _ = self.shared.wanted.push(towards);
        self.shared.control.ring();
    }

    /// Sends a packet that was held, now that its tunnel's path is decided. It does not go through the pipeline again:
    /// its other copies have left already.
    pub fn resume(&mut self, mut waiting: Waiting) {
        match self.wrap_waiting(&mut waiting) {
            Ok(uplink) => self.send(uplink, waiting.packet, waiting.ingress),
            Err(reason) => self.drop(waiting.ingress, reason, waiting.packet),
        }
    }

    fn wrap_waiting(&self, waiting: &mut Waiting) -> Result<PortId, DropReason> {
        let Wanted { tunnel: id, remote } = waiting.towards;
        let port = self.snapshot.port(id).ok_or(DropReason::PortRemoved)?;
        let tunnel = port.spec.tunnel().ok_or(DropReason::PortRemoved)?;
        if !port.spec.up {
            return Err(DropReason::TxPortDown);
        }
        let way = self.snapshot.way(tunnel, remote).ok_or(DropReason::TunnelNoRoute)?;
        let template = Template::towards(tunnel, waiting.key, way).ok_or(DropReason::TunnelNoRoute)?;
        let bytes = waiting.packet.total_len() as u64;
        template.wrap(&mut waiting.packet)?;
        let counters = self.counters.port(id);
        counters.tx_packets.add(1);
        counters.tx_bytes.add(bytes);
        Ok(template.uplink)
    }
}
