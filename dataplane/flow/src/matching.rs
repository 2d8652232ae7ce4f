//! Matches: which bits of which words must have which value.

use std::sync::Arc;

use crate::field::{Field, Subfield};
use crate::fields::{Fields, KEY_WORDS, KeyMask};

/// One word of a match, or of a change to fields.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Term {
    /// Which word of [`Fields`].
    pub word: u8,
    /// Which of its bits; never 0 in a match.
    pub mask: u64,
    /// Their value; bits that the mask does not read are 0.
    pub value: u64,
}

/// A masked value of all fields, sparse: terms of different words, in order of their words. No terms match everything.
/// A clone shares the terms.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Match {
    terms: Arc<[Term]>,
}

impl Match {
    /// Matches every packet.
    pub fn any() -> Match {
        Match::default()
    }

    /// The match of `mask` and `value`; bits of the value outside the mask don't count.
    pub fn new(mask: &Fields, value: &Fields) -> Match {
        let words = mask.0.iter().zip(&value.0).enumerate();
        let terms = words
            .filter(|(_, (mask, _))| **mask != 0)
            .map(|(word, (&mask, &value))| Term { word: word as u8, mask, value: value & mask })
            .collect();
        Match { terms }
    }

    /// Its terms, in order of their words.
    #[inline]
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// Which bits are compared, as a dense mask.
    pub fn mask(&self) -> Fields {
        self.dense(|term| term.mask)
    }

    /// What they are compared with, as dense values.
    pub fn value(&self) -> Fields {
        self.dense(|term| term.value)
    }

    fn dense(&self, part: impl Fn(&Term) -> u64) -> Fields {
        let mut fields = Fields::default();
        for term in self.terms.iter() {
            if let Some(word) = fields.0.get_mut(usize::from(term.word)) {
                *word = part(term);
            }
        }
        fields
    }

    /// Whether `fields` have the value.
    #[inline]
    pub fn covers(&self, fields: &Fields) -> bool {
        self.terms.iter().all(|term| {
            fields.0.get(usize::from(term.word)).is_some_and(|word| word & term.mask == term.value)
        })
    }

    /// This match, which also wants `field` to be `value` in the bits of `mask` (both within the field's width).
    #[must_use]
    pub fn with_masked(&self, field: Field, value: u128, mask: u128) -> Match {
        let (mut masks, mut values) = (self.mask(), self.value());
        let whole = Subfield::whole(field);
        let (old_mask, old_value) = (whole.get(&masks), whole.get(&values));
        whole.set(&mut masks, old_mask | mask);
        whole.set(&mut values, old_value & !mask | value & mask);
        Match::new(&masks, &values)
    }

    /// This match, which also wants `field` to be `value`.
    #[must_use]
    pub fn with(&self, field: Field, value: u128) -> Match {
        self.with_masked(field, value, field.max())
    }

    /// Which bits of the packet itself it reads.
    pub fn reads(&self) -> KeyMask {
        let mut mask = KeyMask::default();
        for term in self.terms.iter().take_while(|term| usize::from(term.word) < KEY_WORDS) {
            mask.0[usize::from(term.word)] = term.mask;
        }
        mask
    }

    /// Which bits of that word are compared, and with what; 0 and 0 if none are.
    #[inline]
    pub fn part(&self, word: u8) -> (u64, u64) {
        let term = self.terms.iter().find(|term| term.word == word);
        term.map_or((0, 0), |term| (term.mask, term.value))
    }

    /// Whether a packet can match both.
    pub fn overlaps(&self, other: &Match) -> bool {
        self.terms.iter().all(|term| {
            let (mask, value) = other.part(term.word);
            (value ^ term.value) & mask & term.mask == 0
        })
    }

    /// Whether every packet that this matches is matched by `other` too: what a loose change or a filter selects.
    pub fn is_within(&self, other: &Match) -> bool {
        other.terms.iter().all(|term| {
            let (mask, value) = self.part(term.word);
            mask & term.mask == term.mask && value & term.mask == term.value
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_covers_what_has_its_bits_and_nothing_else() {
        let web = Match::any().with(Field::TcpDst, 80).with(Field::NwProto, 6).with_masked(
            Field::IpSrc,
            0x0a00_0000,
            0xff00_0000,
        );
        let mut fields = Fields::default();
        assert!(Match::any().covers(&fields) && !web.covers(&fields));
        for (field, value) in [(Field::TcpDst, 80), (Field::NwProto, 6), (Field::IpSrc, 0x0a01_0203)] {
            Subfield::whole(field).set(&mut fields, value);
        }
        assert!(web.covers(&fields));
        Subfield::whole(Field::IpSrc).set(&mut fields, 0x0b01_0203);
        assert!(!web.covers(&fields));
        assert_eq!(web.terms().len(), 3);
    }

    #[test]
    fn a_narrower_match_is_within_a_wider_one_and_overlap_needs_no_order() {
        let host = Match::any().with(Field::IpSrc, 0x0a00_0001);
        let net = Match::any().with_masked(Field::IpSrc, 0x0a00_0000, 0xffff_ff00);
        let port = Match::any().with(Field::TcpDst, 80);
        let elsewhere = Match::any().with(Field::IpSrc, 0x0b00_0001);
        assert!(host.is_within(&net) && !net.is_within(&host) && host.is_within(&Match::any()));
        assert!(host.overlaps(&net) && host.overlaps(&port) && port.overlaps(&net));
        assert!(!host.overlaps(&elsewhere) && !net.overlaps(&elsewhere));
    }
}
