//! Where packets end: transmitted, handed over, or dropped and shown to who asks why.

use weft_io::Packet;
use weft_wire::DropReason;

use super::{Forwarder, NOT_OURS};
use crate::key::PortId;
use crate::output::hand_over;
use crate::program::ProgramId;
use crate::why::Sample;
use crate::why::watch::{Outgoing, Suspect, head};

impl Forwarder {
    /// Somebody asks why packets are dropped: here is one.
    #[cold]
    #[inline(never)]
    pub(super) fn show_dropped(&mut self, port: PortId, reason: DropReason, packet: &Packet) {
        let (programs, second, program) = (&self.programs, self.second, self.current.id);
        let sample = || {
            // What is dropped for another reason than its program's was dropped before it came to its end, or had none.
            let by = programs.get(program).filter(|program| program.drops() == Some(reason));
            let decider = by.and_then(|program| program.verdict.decider());
            Sample {
                port,
                reason,
                decided: decider.map(|decider| decider.decided()),
                rule: decider.and_then(|decider| decider.rule.cloned()),
                second,
                length: packet.total_len(),
                data: head(packet),
            }
        };
        let (data, length) = (packet.data(), packet.total_len());
        self.watches.offer(Suspect { port, reason, program, data, length }, sample);
    }

    /// Phase *flush*: transmits what the batches have collected.
    #[inline]
    pub fn flush(&mut self) {
        while let Some(port) = self.outputs.next_waiting() {
            self.flush_port(port);
        }
    }

    pub(super) fn flush_port(&mut self, port: PortId) {
        let Some(batch) = self.outputs.batch(port).filter(|batch| !batch.is_empty()) else { return };
        let own = self.queue_of.get(port.index()).copied().unwrap_or(NOT_OURS);
        if let Some((_, queue)) = self.queues.get_mut(usize::from(own)) {
            let watched = if self.watches.is_empty() { None } else { Outgoing::of(batch) };
            let sent = queue.tx_burst(&mut self.frames, batch, &mut self.drops);
            if let Some(outgoing) = watched {
                self.show_refused(port, &outgoing);
            }
            let counters = self.counters.port(port);
            counters.tx_packets.add(sent.packets);
            counters.tx_bytes.add(sent.bytes);
            counters.take_drops(&mut self.drops);
            return;
        }
        let owner = self.shared.owners.get(port).filter(|&owner| owner != self.worker);
        match owner.and_then(|owner| Some((owner, self.shared.workers.get(owner)?))) {
            Some((owner, mailbox)) => {
                hand_over(batch, port, &mailbox.inbox, &mut self.frames, &self.counters);
                self.shared.ring(owner);
            }
            None => self.discard(port, DropReason::PortRemoved),
        }
    }

    /// Somebody asks why packets are dropped, and the port's device may have refused some.
    #[cold]
    fn show_refused(&mut self, port: PortId, outgoing: &Outgoing) {
        let Some(reason) = outgoing.refused_for(&self.drops) else { return };
        let (data, length, second) = (&outgoing.longest, outgoing.length, self.second);
        let sample =
            || Sample { port, reason, decided: None, rule: None, second, length, data: data.clone() };
        self.watches.offer(Suspect { port, reason, program: ProgramId::MAX, data, length }, sample);
    }

    /// Drops a whole batch, for one reason.
    #[cold]
    fn discard(&mut self, port: PortId, reason: DropReason) {
        while let Some(packet) = self.outputs.batch(port).and_then(|batch| batch.pop()) {
            self.drop(port, reason, packet);
        }
    }
}
