//! Flow keys and key masks: reading them, combining them, and how much of a key a mask needs.
//!
//! The flow cache compares `key & mask` and nothing else. Flows are kept with as many words as their ingress's mask
//! needs, in one of three [`Width`]s: a narrow flow takes one cache line, a wide one three.

use weft_wire::{Mac, Tci};

use crate::fields::{FlowKey, KEY_WORDS, KeyMask, MIDDLE, NARROW};

impl FlowKey {
    /// The destination address.
    #[inline]
    pub const fn destination(&self) -> Mac {
        Mac::from_u64(self.0[0] >> 16)
    }

    /// The source address.
    #[inline]
    pub const fn source(&self) -> Mac {
        Mac::from_u64(self.0[1] >> 16)
    }

    /// The outermost VLAN tag.
    #[inline]
    pub const fn tci(&self) -> Tci {
        Tci(self.0[1] as u16)
    }

    /// The tunnel's remote address, as a number; 0 if the packet came in by no tunnel.
    #[inline]
    pub const fn tunnel_remote(&self) -> u32 {
        (self.0[2] >> 32) as u32
    }

    /// The tunnel's key.
    #[inline]
    pub const fn tunnel_key(&self) -> u32 {
        self.0[2] as u32
    }

    /// The EtherType behind the tags; only in keys of ports whose mask reads it.
    #[inline]
    pub const fn ether_type(&self) -> u16 {
        (self.0[3] >> 48) as u16
    }

    /// The bits of this key that `mask` reads.
    #[inline]
    pub fn masked(&self, mask: &KeyMask) -> FlowKey {
        let mut masked = *self;
        for (word, bits) in masked.0.iter_mut().zip(&mask.0) {
            *word &= bits;
        }
        masked
    }

    /// Puts `value` into bits that are 0: of word `word`, from bit `shift` up.
    ///
    /// # Panics
    /// If there is no such word or bit.
    #[inline]
    pub const fn set(&mut self, word: usize, shift: u32, value: u64) {
        self.0[word] |= value << shift;
    }
}

/// How much of a key a mask needs: flows are kept that wide.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Width {
    /// [`NARROW`] words: Ethernet, VLAN, ingress and tunnel.
    #[default]
    Narrow,
    /// [`MIDDLE`] words: all but what few policies read.
    Middle,
    /// All [`KEY_WORDS`] words.
    Wide,
}

impl KeyMask {
    /// What NORMAL reads of a packet from a port: both addresses, ingress, and of the tag its presence and VLAN.
    pub const NORMAL: KeyMask =
        KeyMask::first([u64::MAX, u64::MAX << 16 | (Tci::PRESENT | 0x0fff) as u64, 0]);
    /// What it reads besides for a packet from a tunnel: the remote address and the key.
    pub const TUNNEL: KeyMask = KeyMask::first([0, 0, u64::MAX]);
    /// What it takes to know whether a packet is tagged, and with which VLAN.
    pub const VLAN: KeyMask = KeyMask::first([0, (Tci::PRESENT | 0x0fff) as u64, 0]);
    /// All of the outermost tag but DEI.
    pub const TAG: KeyMask = KeyMask::first([0, 0xffff, 0]);
    /// Every bit.
    pub const EVERYTHING: KeyMask = KeyMask([u64::MAX; KEY_WORDS]);
    /// The ingress alone, which every key has.
    pub const INGRESS: KeyMask = KeyMask::first([0xffff, 0, 0]);

    const fn first(words: [u64; NARROW]) -> Self {
        let mut mask = [0; KEY_WORDS];
        mask[0] = words[0];
        mask[1] = words[1];
        mask[2] = words[2];
        KeyMask(mask)
    }

    /// Reads what either reads.
    #[must_use]
    pub fn union(mut self, other: &KeyMask) -> KeyMask {
        for (word, bits) in self.0.iter_mut().zip(&other.0) {
            *word |= bits;
        }
        self
    }

    /// The narrowest width that holds all bits that are read.
    pub fn width(&self) -> Width {
        let used = KEY_WORDS - self.0.iter().rev().take_while(|&&word| word == 0).count();
        if used <= NARROW {
            Width::Narrow
        } else if used <= MIDDLE {
            Width::Middle
        } else {
            Width::Wide
        }
    }

    /// Whether the packet's length matters.
    pub fn reads_length(&self) -> bool {
        self.0[8] & 0xffff != 0
    }

    /// Whether only the first three words are read.
    #[inline]
    pub fn is_narrow(&self) -> bool {
        self.width() == Width::Narrow
    }

    /// The first `W` words, at most all.
    #[inline]
    pub fn first_words<const W: usize>(&self) -> [u64; W] {
        let mut words = [0; W];
        words.iter_mut().zip(&self.0).for_each(|(word, bits)| *word = *bits);
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_is_narrow_and_does_not_read_the_priority() {
        assert!(KeyMask::NORMAL.union(&KeyMask::TUNNEL).is_narrow());
        assert_eq!(KeyMask::NORMAL.0[1] & 0xffff, 0x1fff);
    }

    #[test]
    fn one_bit_decides_how_wide_a_mask_is() {
        for word in 0..KEY_WORDS {
            let mut mask = KeyMask::INGRESS;
            mask.0[word] |= 1 << 63;
            let expected = match word {
                0..3 => Width::Narrow,
                3..9 => Width::Middle,
                _ => Width::Wide,
            };
            assert_eq!(mask.width(), expected, "word {word}");
            assert_eq!(mask.is_narrow(), expected == Width::Narrow);
        }
        assert_eq!(KeyMask::default().width(), Width::Narrow);
        assert_eq!(KeyMask::EVERYTHING.first_words::<9>(), [u64::MAX; MIDDLE]);
    }
}
