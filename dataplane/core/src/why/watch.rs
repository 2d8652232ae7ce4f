//! Samples of dropped packets: one of each kind, while somebody asks.
//!
//! Bounded in every way: [`WATCHES`] questions at a time, [`SAMPLES`] packets each until the next answer, [`KEPT`] octets a
//! packet, and `LOOKS` packets a round that are looked at for whether they concern the subject. A watch ends by itself
//! when nobody has asked again for some seconds.

use std::sync::Arc;

use arrayvec::ArrayVec;
use weft_flow::{FlowKey, KeyMask};
use weft_io::Packet;
use weft_wire::{DropCounts, DropReason};

use super::{Decided, Subject};
use crate::key::{Ingress, PortId};
use crate::parse;
use crate::program::ProgramId;
use crate::tables::Rule;

/// Questions that a worker watches for.
pub const WATCHES: usize = 8;
/// Samples between two answers.
pub const SAMPLES: usize = 64;
/// Octets that are kept of each.
pub const KEPT: usize = 128;
/// Packets of a round that are looked at.
const LOOKS: u32 = 64;

/// A dropped packet.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The port that has counted it.
    pub port: PortId,
    /// As this.
    pub reason: DropReason,
    /// The look-up that decided, if its program dropped it.
    pub decided: Option<Decided>,
    /// The rule that was found.
    pub rule: Option<Arc<Rule>>,
    /// When, in seconds.
    pub second: u32,
    /// How many octets it had.
    pub length: usize,
    /// The first of them.
    pub data: ArrayVec<u8, KEPT>,
}

/// A dropped packet, before anybody knows whether it is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspect<'p> {
    pub port: PortId,
    pub reason: DropReason,
    /// The program that was run last.
    pub program: ProgramId,
    /// Its first octets, with its headers.
    pub data: &'p [u8],
    /// How many it has in all.
    pub length: usize,
}

/// What is watched for, for one question.
#[derive(Debug)]
struct Watch {
    subject: Arc<Subject>,
    until: u32,
    /// Packets of this round that may still be looked at.
    left: u32,
    known: Vec<(PortId, DropReason, ProgramId)>,
    samples: Vec<Sample>,
}

/// All that a worker watches for. See the module's text.
#[derive(Debug, Default)]
pub struct Watches(Vec<Watch>);

impl Watches {
    /// Whether nobody has asked.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A new round: watches whose time is over go.
    pub fn renew(&mut self, second: u32) {
        self.0.retain(|watch| watch.until >= second);
        self.0.iter_mut().for_each(|watch| watch.left = LOOKS);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }

    /// Watches for packets of the subject up to that second; one that it does watch for already goes on. If there are too
    /// many, the one that would end first goes.
    pub fn arm(&mut self, subject: &Arc<Subject>, until: u32) {
        if let Some(watch) = self.0.iter_mut().find(|watch| watch.subject == *subject) {
            watch.until = watch.until.max(until);
            return;
        }
        if self.0.len() >= WATCHES
            && let Some(first) = (0..self.0.len()).min_by_key(|&at| self.0.get(at).map(|watch| watch.until))
        {
            self.0.swap_remove(first);
        }
        let (known, samples) = (Vec::with_capacity(SAMPLES), Vec::with_capacity(SAMPLES));
        self.0.push(Watch { subject: Arc::clone(subject), until, left: LOOKS, known, samples });
    }

    /// What was seen of the subject since it was last asked for.
    pub fn take(&mut self, subject: &Subject) -> Vec<Sample> {
        let Some(watch) = self.0.iter_mut().find(|watch| *watch.subject == *subject) else {
            return Vec::new();
        };
        watch.known.clear();
        std::mem::replace(&mut watch.samples, Vec::with_capacity(SAMPLES))
    }

    /// Keeps the packet for whoever wants to see it; `sample` makes it presentable.
    pub(crate) fn offer(&mut self, suspect: Suspect<'_>, sample: impl Fn() -> Sample) {
        let Suspect { port, reason, program, .. } = suspect;
        for watch in &mut self.0 {
            let kind = (port, reason, program);
            if watch.left == 0 || watch.samples.len() >= SAMPLES || watch.known.contains(&kind) {
                continue;
            }
            watch.left -= 1;
            if concerns(&watch.subject, suspect) {
                watch.known.push(kind);
                watch.samples.push(sample());
            }
        }
    }
}

/// Whether the packet is one of the subject's. All that there is of it can be read here, whatever the tables read.
fn concerns(subject: &Subject, Suspect { port, data, length, .. }: Suspect<'_>) -> bool {
    let all = KeyMask([u64::MAX; weft_flow::fields::KEY_WORDS]);
    match parse::words(data, length, Ingress::port(port)).map(FlowKey) {
        Some(key) => subject.concerns(port, &key, &all),
        None => subject.whole_ports && subject.ports.contains(&port),
    }
}

/// The first octets of a packet.
pub(crate) fn head(packet: &Packet) -> ArrayVec<u8, KEPT> {
    packet.data().iter().take(KEPT).copied().collect()
}

/// What is kept of a batch while its port transmits it: a queue frees what its device refuses, and says only why.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// The longest packet: the one that is too big if any is.
    pub longest: ArrayVec<u8, KEPT>,
    pub length: usize,
    /// How many there are.
    packets: usize,
}

impl Outgoing {
    /// Of a batch.
    pub fn of(batch: &[Packet]) -> Option<Outgoing> {
        let longest = batch.iter().max_by_key(|packet| packet.total_len())?;
        Some(Outgoing { longest: head(longest), length: longest.total_len(), packets: batch.len() })
    }

    /// Why the longest one was refused, if that is certain: it was too big, or none has left.
    pub fn refused_for(&self, drops: &DropCounts) -> Option<DropReason> {
        let all = drops.nonzero().find(|&(_, packets)| packets == self.packets as u64);
        let too_big = (drops.get(DropReason::TxTooBig) > 0).then_some(DropReason::TxTooBig);
        too_big.or(all.map(|(reason, _)| reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_held_before_a_question_nor_some_seconds_after_it() {
        let mut watches = Watches::default();
        assert!(watches.is_empty() && watches.0.capacity() == 0);
        let subject = Arc::new(Subject::default());
        watches.arm(&subject, 5);
        watches.renew(5);
        assert!(!watches.is_empty());
        watches.arm(&subject, 7);
        watches.renew(6);
        assert_eq!(watches.0.len(), 1, "the same question goes on");
        watches.renew(8);
        assert!(watches.is_empty() && watches.0.capacity() == 0);
    }

    #[test]
    fn of_a_batch_only_what_is_certain_is_shown() {
        let outgoing = Outgoing { longest: ArrayVec::new(), length: 1500, packets: 4 };
        let refused = |reason, packets| {
            let mut drops = DropCounts::default();
            drops.add(reason, packets);
            outgoing.refused_for(&drops)
        };
        assert_eq!(refused(DropReason::TxTooBig, 1), Some(DropReason::TxTooBig));
        assert_eq!(refused(DropReason::TxRingFull, 4), Some(DropReason::TxRingFull));
        assert_eq!(refused(DropReason::TxRingFull, 3), None);
    }
}
