//! Labels: what is put in front of a packet and taken off it, and what is behind them.
//!
//! A key has a packet's first three labels and nothing of what is behind them. So what a label is put in front of is kept
//! until the label goes; and who takes off a label that the packet came with, and looks further, has the packet itself
//! read ([`Walk::can_read_inside`]): its verdict is then for this packet only. Open vSwitch sends such a packet through its
//! datapath again (`was_mpls`).

use weft_flow::action::LearnSource;
use weft_flow::field::Prerequisite;
use weft_flow::{Action, Field};
use weft_wire::{DropReason, EtherType};

use super::Walk;
use super::trace::Tracer;
use super::write::TAG_LEN;
use crate::lane::LENGTH_WORD;
use crate::parse;
use crate::verdict::Op;

/// Bottom of stack (RFC 3032, section 2.1).
const BOTTOM: u32 = 0x100;
/// Label stack entries that a key has.
const KEPT: usize = 3;
/// The words of what a packet carries, and which of their bits: neither EtherType, second tag, nor length class.
const INSIDE: [(usize, u64); 11] = [
    (3, 0xffff_ffff),
    (4, u64::MAX),
    (5, u64::MAX),
    (6, u64::MAX),
    (7, u64::MAX),
    (LENGTH_WORD, !0xffff),
    (9, u64::MAX),
    (10, u64::MAX),
    (11, 0xffff_ffff),
    (12, u64::MAX),
    (13, u64::MAX),
];

/// Labels that came and went.
#[derive(Clone, Copy, Default)]
pub(super) struct Labels {
    /// Those that the packet came with, and that are gone.
    gone: usize,
    /// Those that were put in front, and are there.
    pushed: usize,
    /// What the first of these was put in front of, and its type.
    covered: Option<(u16, [u64; INSIDE.len()])>,
    /// What is behind the last label is bare, and was not read.
    unread: bool,
}

/// Whether it takes more than Ethernet header, tags and labels to carry the action out. Look-ups and groups see to
/// themselves.
pub(super) fn looks_inside(action: &Action) -> bool {
    let inside = |field: Field| {
        use Prerequisite::{Ethernet, Mpls, None, Vlan};
        let info = field.info();
        let carried =
            info.segments.iter().any(|part| INSIDE.iter().any(|&(word, _)| word == part.word.into()));
        carried && !matches!(info.prerequisite, None | Ethernet | Vlan | Mpls)
    };
    match action {
        Action::SetField { field, .. } => inside(*field),
        Action::Load { target: part, .. } | Action::Push(part) | Action::Pop(part) => inside(part.field),
        Action::Move { source, target } => inside(source.field) || inside(target.field),
        Action::Learn(learn) => learn
            .specs
            .iter()
            .any(|spec| matches!(spec.source, LearnSource::Field(source) if inside(source.field))),
        Action::SetIpSrc(_)
        | Action::SetIpDst(_)
        | Action::SetIpTos(_)
        | Action::SetIpEcn(_)
        | Action::SetIpTtl(_)
        | Action::SetTpSrc(_)
        | Action::SetTpDst(_)
        | Action::DecTtl(_)
        | Action::PushMpls(_)
        | Action::Multipath(_)
        | Action::Bundle(_)
        | Action::FinTimeout { .. }
        | Action::Ct(_) => true,
        _ => false,
    }
}

impl<T: Tracer> Walk<'_, T> {
    /// `push_mpls`: class and time to live are those of the label or IP header that was outermost; the first label is an
    /// explicit null (RFC 3032, section 2.1).
    pub(super) fn push_mpls(&mut self, ethertype: u16) -> Result<(), DropReason> {
        let labelled = self.has(Prerequisite::Mpls);
        if labelled && self.label_count() >= KEPT {
            return Err(DropReason::TooManyMplsLabels);
        }
        self.flush();
        let outer = (self.fields.0[11] >> 32) as u32;
        let lse = if labelled {
            outer & !BOTTOM
        } else if self.has(Prerequisite::Ip) {
            let ttl = match self.get(Field::NwTtl) as u32 {
                0 => 64,
                ttl => ttl,
            };
            let label = if self.has(Prerequisite::Ipv6) { 2 << 12 } else { 0 };
            label | (self.get(Field::IpDscp) as u32 & 7) << 9 | BOTTOM | ttl
        } else {
            BOTTOM | 64
        };
        self.grows(TAG_LEN);
        self.verdict.ops.push(Op::PushMpls { ethertype, lse });
        let below = if labelled { (self.fields.0[15] >> 32) as u32 } else { 0 };
        if !labelled {
            self.cover();
        }
        self.labels.pushed += 1;
        let outer = if labelled { outer } else { 0 };
        self.replace_labels(ethertype, [lse, outer, below]);
        Ok(())
    }

    /// `pop_mpls`: what is no label any more has none, so that all of them go at once.
    pub(super) fn pop_mpls(&mut self, ethertype: u16) -> Result<(), DropReason> {
        if !self.has(Prerequisite::Mpls) {
            return Ok(());
        }
        let (count, rest) = (self.label_count(), self.fields.0[15]);
        if count == KEPT && rest as u32 & BOTTOM == 0 {
            // What would be the third label then, the key doesn't have.
            return Err(DropReason::TooManyMplsLabels);
        }
        self.flush();
        if EtherType(ethertype).is_mpls() {
            self.pop_label(ethertype);
            self.replace_labels(ethertype, [(rest >> 32) as u32, rest as u32, 0]);
        } else {
            (1..count).for_each(|_| self.pop_label(EtherType::MPLS.0));
            self.pop_label(ethertype);
            self.replace_labels(ethertype, [0; KEPT]);
            self.uncover(ethertype);
        }
        Ok(())
    }

    fn pop_label(&mut self, ethertype: u16) {
        self.grows(-TAG_LEN);
        self.verdict.ops.push(Op::PopMpls { ethertype });
        match &mut self.labels {
            Labels { pushed: 0, gone, .. } => *gone = gone.saturating_add(1),
            Labels { pushed, .. } => *pushed -= 1,
        }
    }

    fn label_count(&self) -> usize {
        let entries =
            [(self.fields.0[11] >> 32) as u32, (self.fields.0[15] >> 32) as u32, self.fields.0[15] as u32];
        entries.iter().position(|lse| lse & BOTTOM != 0).map_or(KEPT, |last| last + 1)
    }

    fn replace_labels(&mut self, ethertype: u16, [first, second, third]: [u32; KEPT]) {
        let fields = &mut self.fields.0;
        fields[3] = fields[3] & !(0xffff << 48) | u64::from(ethertype) << 48;
        fields[11] = fields[11] & u64::from(u32::MAX) | u64::from(first) << 32;
        fields[15] = u64::from(second) << 32 | u64::from(third);
        self.written.0[3] |= 0xffff << 48;
        self.written.0[11] |= u64::from(u32::MAX) << 32;
        self.written.0[15] = u64::MAX;
        self.state = None;
    }

    /// Behind a label nothing can be read.
    fn cover(&mut self) {
        let ethertype = (self.fields.0[3] >> 48) as u16;
        self.labels.covered = Some((ethertype, INSIDE.map(|(word, bits)| self.fields.0[word] & bits)));
        self.put_inside([0; INSIDE.len()]);
    }

    /// The last label has gone.
    fn uncover(&mut self, ethertype: u16) {
        match self.labels.covered.take() {
            Some((covered, inside)) if covered == ethertype => self.put_inside(inside),
            // What was covered is of another type: nobody has read it as this one.
            Some(_) => self.labels = Labels { gone: usize::MAX, unread: true, ..self.labels },
            None => self.labels.unread = true,
        }
    }

    fn put_inside(&mut self, inside: [u64; INSIDE.len()]) {
        for ((word, bits), value) in INSIDE.into_iter().zip(inside) {
            self.fields.0[word] = self.fields.0[word] & !bits | value & bits;
            self.written.0[word] |= bits;
        }
        self.state = None;
    }

    /// Whether the fields are what the packet carries: if the last label has gone, the packet is read. It can't be if there is
    /// only a description of it, or if it was changed before it got its labels, and is said to be of another type since.
    pub(super) fn can_read_inside(&mut self) -> bool {
        if !self.labels.unread {
            return true;
        }
        let ether_type = EtherType((self.fields.0[3] >> 48) as u16);
        // A tag that comes to light there isn't looked for.
        let readable = self.labels.gone != usize::MAX && !ether_type.is_tag();
        let Some(packet) = self.occasion.packet.filter(|_| readable) else { return false };
        let words = parse::behind_labels(packet, self.labels.gone, ether_type);
        self.put_inside(INSIDE.map(|(word, _)| words[word]));
        self.labels.unread = false;
        self.verdict.fleeting = true;
        true
    }
}
