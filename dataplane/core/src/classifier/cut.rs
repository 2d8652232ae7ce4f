//! Cuts: which bits a table of the tree is hashed by.

use std::hash::{BuildHasher, RandomState};

use arrayvec::ArrayVec;
use weft_flow::{Fields, Match};
use weft_io::hash::folded_product;

/// A cut reads so many words at most: an IPv6 five-tuple's.
pub(super) const CUT_WORDS: usize = 6;

/// What hashes are keyed by, so that nobody who chooses packets or rules can aim at a bucket. One set for each store.
#[derive(Clone, Debug)]
pub(super) struct Keys([(u64, u64); CUT_WORDS]);

impl Keys {
    pub(super) fn random() -> Keys {
        let source = RandomState::new();
        let mut number = 0_u64;
        let mut next = || {
            number += 1;
            source.hash_one(number)
        };
        Keys(std::array::from_fn(|_| (next(), next() | 1)))
    }
}

/// A match, as one mask and one value for each word: to be compared with many cuts.
#[derive(Debug)]
pub(super) struct Dense<'k> {
    pub(super) mask: Fields,
    pub(super) value: Fields,
    pub(super) keys: &'k Keys,
}

impl Dense<'_> {
    pub(super) fn new<'k>(matches: &Match, keys: &'k Keys) -> Dense<'k> {
        Dense { mask: matches.mask(), value: matches.value(), keys }
    }

    /// Its hash in the table of that cut, if it belongs there.
    #[inline]
    pub(super) fn hash(&self, cut: &Cut) -> Option<u32> {
        cut.is_read_by(&self.mask).then(|| cut.hash(&self.value, self.keys))
    }
}

/// Bits of some words.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Cut {
    bits: ArrayVec<(u8, u64), CUT_WORDS>,
}

impl Cut {
    /// Whether `bits` of `word` can be added.
    pub(super) fn has_room(&self, word: u8) -> bool {
        !self.bits.is_full() || self.bits.iter().any(|(own, _)| *own == word)
    }

    /// This cut and `bits` of `word`; there has to be room.
    pub(super) fn add(&mut self, word: u8, bits: u64) {
        match self.bits.iter_mut().find(|(own, _)| *own == word) {
            Some((_, own)) => *own |= bits,
            // Without room the cut stays coarser, which is no error.
            None => drop(self.bits.try_push((word, bits))),
        }
    }

    /// The hash of what `fields` have in its bits.
    #[inline]
    pub(super) fn hash(&self, fields: &Fields, keys: &Keys) -> u32 {
        self.hash_of(keys, |word| fields.0.get(usize::from(word)).copied().unwrap_or(0))
    }

    /// The hash of what every packet of a match has in its bits.
    pub(super) fn hash_match(&self, matches: &Match, keys: &Keys) -> u32 {
        self.hash_of(keys, |word| matches.part(word).1)
    }

    #[inline(always)]
    fn hash_of(&self, keys: &Keys, value: impl Fn(u8) -> u64) -> u32 {
        let mut hash = 0;
        for ((word, bits), (add, multiply)) in self.bits.iter().zip(&keys.0) {
            // As in the flow cache; here both factors depend on secrets.
            hash ^= folded_product((value(*word) & bits) ^ add, *multiply);
        }
        (hash >> 32 ^ hash) as u32
    }

    /// Whether a match has a value for each of its bits.
    #[inline]
    fn is_read_by(&self, mask: &Fields) -> bool {
        self.bits
            .iter()
            .all(|(word, bits)| mask.0.get(usize::from(*word)).is_some_and(|mask| mask & bits == *bits))
    }

    /// As [`Self::is_read_by`].
    pub(super) fn is_read_by_match(&self, matches: &Match) -> bool {
        self.bits.iter().all(|(word, bits)| matches.part(*word).0 & bits == *bits)
    }

    pub(super) fn bits(&self) -> &[(u8, u64)] {
        &self.bits
    }
}
