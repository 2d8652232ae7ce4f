//! What actions do to fields, and the steps by which a packet follows.
//!
//! Fields change at once. The packet follows when somebody looks at it: an output, a copy, the controllers. Until then
//! changes only add up ([`Walk::pending`]), so that a header that is changed five times is written once.

use weft_flow::field::Access;
use weft_flow::fields::KEY_WORDS;
use weft_flow::{Field, Subfield, Term};
use weft_wire::Tci;

use super::Walk;
use super::trace::Tracer;
use crate::fold::leaves;
use crate::verdict::{Op, Terms};

/// Octets of a tag, and of a label.
pub(super) const TAG_LEN: i16 = 4;
/// The word whose low 16 bits are the outermost tag.
const TAG_WORD: usize = 1;
/// That tag's bits.
const TAG: u64 = 0xffff;
/// The word of the type of service, and its two ECN bits.
const TOS: (usize, u64) = (3, 3 << 16);
/// The word with the second tag, and where.
const INNER_TAG: (usize, u32) = (3, 32);
/// Words whose bits are header fields; of the first two, the tag and the ingress are not.
const HEADER: [u64; KEY_WORDS] = {
    let mut words = [0; KEY_WORDS];
    (words[0], words[1], words[3]) = (!0xffff, u64::MAX, !(0xffff << 48 | 0xffff << 32 | 0xff));
    let mut word = 4;
    while word < 14 {
        words[word] = u64::MAX;
        word += 1;
    }
    words
};

/// A copy that is being changed: where its steps begin, and those of the one around it.
#[derive(Clone, Copy)]
pub(super) struct Copied {
    start: usize,
}

impl<T: Tracer> Walk<'_, T> {
    /// Sets bits, whatever the packet is.
    pub(super) fn write(&mut self, target: Subfield, value: u128) {
        let (tag, ecn) = (self.tag(), self.fields.0[TOS.0] & TOS.1);
        target.set(&mut self.fields, value);
        let mut bits = target.mask();
        match target.field {
            // Who sets a part of the tag means that there is one.
            Field::DlVlan | Field::VlanVid | Field::DlVlanPcp | Field::VlanPcp => {
                self.fields.0[TAG_WORD] |= u64::from(Tci::PRESENT);
                bits.0[TAG_WORD] |= u64::from(Tci::PRESENT);
            }
            // `nw_tos` is the class; congestion marks are a field of their own.
            Field::NwTos => {
                self.fields.0[TOS.0] = self.fields.0[TOS.0] & !TOS.1 | ecn;
                bits.0[TOS.0] &= !TOS.1;
            }
            _ => {}
        }
        for (word, &mask) in bits.0.iter().enumerate().take(KEY_WORDS) {
            self.written.0[word] |= mask;
            self.pending.0[word] |= mask & HEADER[word];
        }
        self.state = None;
        if bits.0[TAG_WORD] & TAG != 0 {
            self.follow_tag(tag);
        }
    }

    /// Sets bits of a field, if the packet has it.
    pub(super) fn write_if_there(&mut self, target: Subfield, value: u128) {
        let info = target.field.info();
        if info.access == Access::Writable && self.has(info.prerequisite) {
            self.write(target, value);
        }
    }

    /// `set_field:value/mask`
    pub(super) fn write_masked(&mut self, field: Field, value: u128, mask: u128) {
        if !self.has(field.info().prerequisite) {
            return;
        }
        // Run by run: bits between them are the packet's own, and not known.
        let mut rest = mask & field.max();
        while rest != 0 {
            let offset = rest.trailing_zeros();
            let bits = (rest >> offset).trailing_ones();
            if let Some(part) = Subfield::new(field, offset as u8, bits as u8) {
                self.write(part, value >> offset);
            }
            rest &= u128::MAX.checked_shl(offset + bits).unwrap_or(0);
        }
    }

    fn tag(&self) -> Tci {
        Tci(self.fields.0[TAG_WORD] as u16)
    }

    /// The tag's field was written: one comes, goes, or changes.
    fn follow_tag(&mut self, before: Tci) {
        let after = self.tag();
        match (before.is_tagged(), after.is_tagged()) {
            (true, true) => {}
            (false, false) => self.pending.0[TAG_WORD] &= !TAG,
            (true, false) => self.drop_tag(),
            (false, true) => {
                self.pending.0[TAG_WORD] &= !TAG;
                // All of it is known: an untagged packet's bits were 0.
                self.written.0[TAG_WORD] |= TAG;
                self.tag_comes();
                self.verdict.ops.push(Op::PushVlan { tpid: 0x8100, tci: after.0 & !Tci::PRESENT });
            }
        }
    }

    fn tag_comes(&mut self) {
        self.tags = self.tags.saturating_add(1);
        self.grows(TAG_LEN);
    }

    /// A tag or label comes, or goes.
    pub(super) fn grows(&mut self, octets: i16) {
        self.grown = self.grown.saturating_add(octets);
    }

    fn drop_tag(&mut self) {
        self.grows(-TAG_LEN);
        self.pending.0[TAG_WORD] &= !TAG;
        match self.verdict.ops.last() {
            // This packet's own: a copy ends with what leaves.
            Some(Op::PushVlan { .. }) => {
                self.verdict.ops.pop();
            }
            _ => self.verdict.ops.push(Op::PopVlan),
        }
    }

    /// `strip_vlan`, `pop_vlan`: the second tag is the outermost then.
    pub(super) fn pop_vlan(&mut self) {
        if !self.tag().is_tagged() {
            return;
        }
        self.drop_tag();
        let (word, shift) = INNER_TAG;
        let inner = self.fields.0[word] >> shift & TAG;
        self.replace_tags(inner, 0);
    }

    /// `push_vlan`
    pub(super) fn push_vlan(&mut self, tpid: u16, tci: u16) {
        self.tag_comes();
        self.flush_tag();
        let outer = self.fields.0[TAG_WORD] & TAG;
        self.verdict.ops.push(Op::PushVlan { tpid, tci });
        self.replace_tags(u64::from(tci | Tci::PRESENT), outer);
    }

    fn replace_tags(&mut self, outer: u64, inner: u64) {
        let (word, shift) = INNER_TAG;
        self.fields.0[TAG_WORD] = self.fields.0[TAG_WORD] & !TAG | outer;
        self.fields.0[word] = self.fields.0[word] & !(TAG << shift) | inner << shift;
        self.written.0[TAG_WORD] |= TAG;
        self.written.0[word] |= TAG << shift;
        self.state = None;
    }

    /// `mod_vlan_vid`, `mod_vlan_pcp`: the bits of a mask and their value.
    pub(super) fn write_tag(&mut self, (mask, value): (u16, u16), push: bool) {
        let before = self.tag();
        if !before.is_tagged() && !push {
            return;
        }
        let bits = u64::from(mask | Tci::PRESENT);
        let word = &mut self.fields.0[TAG_WORD];
        *word = *word & !bits | u64::from(value & mask | Tci::PRESENT);
        self.written.0[TAG_WORD] |= bits;
        self.pending.0[TAG_WORD] |= u64::from(mask);
        self.state = None;
        self.follow_tag(before);
    }

    /// Puts what has changed into a step, so that the packet is what the fields say.
    pub(super) fn flush(&mut self) {
        let start = self.verdict.terms.len() as u32;
        for (word, mask) in self.pending.0.iter_mut().enumerate() {
            if *mask != 0 {
                self.verdict.terms.push(Term {
                    word: word as u8,
                    mask: *mask,
                    value: self.fields.0[word] & *mask,
                });
                *mask = 0;
            }
        }
        let end = self.verdict.terms.len() as u32;
        if start != end {
            self.verdict.ops.push(Op::Set(Terms { start, end }));
        }
    }

    fn flush_tag(&mut self) {
        if self.pending.0[TAG_WORD] & TAG != 0 {
            self.flush();
        }
    }

    /// Steps from here to [`Walk::end_copy`] are done to a copy.
    pub(super) fn begin_copy(&mut self) -> Copied {
        let start = self.verdict.ops.len();
        self.verdict.ops.push(Op::Clone(0));
        Copied { start }
    }

    /// See [`Walk::begin_copy`]. What is done to a copy behind the last time that it leaves is left out; and one that isn't
    /// changed needs not be one.
    pub(super) fn end_copy(&mut self, Copied { start }: Copied) {
        let inside = self.verdict.ops.get(start + 1..).unwrap_or_default();
        let changes =
            |op: &Op| !matches!(op, Op::Output(_) | Op::PacketIn(_) | Op::Sample { .. } | Op::Clone(_));
        let Some(last) = inside.iter().rposition(leaves) else {
            return self.verdict.ops.truncate(start);
        };
        let inside = inside.get(..=last).unwrap_or_default();
        let (steps, is_changed) = (inside.len(), inside.iter().any(changes));
        self.verdict.ops.truncate(start + 1 + steps);
        match self.verdict.ops.get_mut(start) {
            Some(op) if is_changed => *op = Op::Clone(steps as u32),
            _ => drop(self.verdict.ops.remove(start)),
        }
    }
}
