//! A program's steps, one after the other, for those that are no quick ways.

use weft_conntrack::Link;
use weft_io::Packet;
use weft_wire::DropReason;

use super::{Forwarder, wrap};
use crate::edit::{self, nat};
use crate::encap::Template;
use crate::key::PortId;
use crate::program::{ProgramId, Step};
use crate::retag::retag;
use crate::shared::Wanted;
use crate::tables::{Admission, Meter};
use crate::verdict::Emit;

/// Whose packet a program is run for.
#[derive(Clone, Copy, Debug)]
struct Run<'a> {
    /// By whose queue it came in.
    port: PortId,
    /// Who answers for its drops.
    ingress: PortId,
    /// Why it ends if no step takes it.
    ends: DropReason,
    /// Its connections.
    links: &'a [Link],
}

impl Forwarder {
    #[inline(never)]
    pub(super) fn run_steps(
        &mut self,
        id: ProgramId,
        links: &[Link],
        packet: Packet,
        (port, ingress): (PortId, PortId),
    ) {
        let ends = self.programs.get(id).map_or(DropReason::NoDestination, |program| program.ends);
        let steps = self.programs.take_steps(id);
        self.do_steps(&steps, packet, Run { port, ingress, ends, links });
        self.programs.put_steps(id, steps);
    }

    /// Step by step; the last output takes the packet itself.
    fn do_steps(&mut self, steps: &[Step], mut packet: Packet, run: Run<'_>) {
        let Run { ingress, .. } = run;
        let mut at = 0;
        while let Some(step) = steps.get(at) {
            at += 1;
            let is_last = at == steps.len();
            match step {
                Step::Output(emit, template) if is_last => {
                    return self.send_one((emit, template.as_ref()), packet, ingress);
                }
                Step::Output(emit, template) => {
                    if let Some(copy) = self.copy(&packet, run) {
                        self.send_one((emit, template.as_ref()), copy, ingress);
                    }
                }
                Step::Clone(count) => {
                    let inside = steps.get(at..at + *count as usize).unwrap_or_default();
                    at += inside.len();
                    if let Some(copy) = self.copy(&packet, run) {
                        self.do_steps(inside, copy, run);
                    }
                }
                Step::PacketIn(packet_in) => self.shared.packet_ins.offer(packet_in, &packet, self.now),
                Step::Sample(probability, _) => self.sample(*probability),
                Step::Edit(_)
                | Step::Meter(_)
                | Step::Translate(_)
                | Step::TranslateTo(_)
                | Step::Rewrite(_) => {
                    if let Err(reason) = self.change(step, &mut packet, run) {
                        return self.drop(ingress, reason, packet);
                    }
                }
            }
        }
        self.drop(ingress, run.ends, packet);
    }

    /// Steps that change the packet, or end it.
    #[inline]
    fn change(&mut self, step: &Step, packet: &mut Packet, run: Run<'_>) -> Result<(), DropReason> {
        match step {
            Step::Edit(edits) => edit::apply(edits, packet, &mut self.frames),
            Step::Meter(meter) => self.admit(meter, packet),
            Step::Translate(link) => {
                // A connection may have gone since it was asked: by another worker, for another packet.
                let link = run.links.get(usize::from(*link)).ok_or(DropReason::ConnectionGone)?;
                let translation = self.shared.connections.translation(*link);
                nat::translate(packet, &translation.ok_or(DropReason::ConnectionGone)?)
            }
            Step::TranslateTo(once) => once.apply(packet),
            Step::Rewrite(rewrite) => rewrite.apply(packet),
            _ => Ok(()),
        }
    }

    /// Takes `probability` of 65535 packets, spread evenly.
    fn sample(&mut self, probability: u16) {
        self.sample_debt += u32::from(probability);
        if self.sample_debt >= u32::from(u16::MAX) {
            self.sample_debt -= u32::from(u16::MAX);
            self.counters.worker.sampled.add(1);
        }
    }

    /// A copy. One that can't be made counts as made, and dropped.
    fn copy(&mut self, packet: &Packet, Run { port, ingress, .. }: Run<'_>) -> Option<Packet> {
        self.counters.port(port).copies.add(1);
        let copy = self.frames.copy(packet);
        if copy.is_none() {
            self.counters.port(ingress).drop(DropReason::CopyNoFrame);
        }
        copy
    }

    fn admit(&mut self, meter: &Meter, packet: &mut Packet) -> Result<(), DropReason> {
        match meter.admit(packet.total_len() as u64, self.now) {
            Admission::Pass => Ok(()),
            Admission::Drop => Err(DropReason::MeterExceeded),
            Admission::Remark(levels) => self.remarks.apply(levels, packet, &mut self.frames),
        }
    }

    /// One output: retagged, wrapped or held as it needs.
    fn send_one(
        &mut self,
        (emit, template): (&Emit, Option<&Template>),
        mut packet: Packet,
        ingress: PortId,
    ) {
        match (template, emit.key) {
            (Some(template), _) => match wrap(&mut packet, emit.tag, template) {
                Ok(bytes) => {
                    self.count_tunneled(emit.port, bytes);
                    self.send(template.uplink, packet, ingress);
                }
                Err(reason) => self.drop(ingress, reason, packet),
            },
            (None, key) => match (retag(&mut packet, emit.tag), key) {
                (None, _) => self.drop(ingress, DropReason::Malformed, packet),
                (Some(()), None) => self.send(emit.port, packet, ingress),
                (Some(()), Some(key)) => {
                    let towards = Wanted { tunnel: emit.port, remote: emit.remote };
                    self.hold((towards, key), packet, ingress);
                }
            },
        }
    }
}
