//! The Internet checksum: RFC 1071 (the ones' complement sum of 16-bit words, over octets that come in pieces), RFC 1624
//! (incremental update), and the pseudo-headers of RFC 768 and 8200.
//!
//! A sum and a checksum are numbers: 0x1234 stands on the wire as octets 12 34.
//!
//! The sum is kept in the machine's own octet order, four octets at a time in 64 bits, which the compiler turns into
//! vector additions; ones' complement sums don't depend on the order (RFC 1071, section 2(B)), so it is swapped once,
//! at the end.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A running ones' complement sum. Pieces may have any length; an odd one shifts those that follow by an octet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum {
    /// Congruent to the sum of the words modulo 0xffff, in the machine's octet order; zero only if all were zero.
    words: u64,
    /// The octets so far are odd in number.
    odd: bool,
}

impl Sum {
    /// The sum of nothing.
    pub const fn new() -> Self {
        Sum { words: 0, odd: false }
    }

    /// Adds the next octets.
    #[inline]
    pub fn add(&mut self, octets: &[u8]) {
        let sum = sum(octets);
        self.words += if self.odd { u64::from(fold(sum).swap_bytes()) } else { fold_once(sum) };
        self.odd ^= octets.len() % 2 == 1;
    }

    /// Adds a number in network order, as if its two octets came next; after an even number of octets only.
    #[inline]
    pub fn add_word(&mut self, word: u16) {
        debug_assert!(!self.odd);
        self.words += u64::from(word.to_be());
    }

    /// The sum of all words (as numbers in network order), in 16 bits, not complemented.
    #[inline]
    pub fn folded(self) -> u16 {
        u16::from_be(fold(self.words))
    }

    /// The checksum: the complement of the sum.
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.folded()
    }

    /// UDP's checksum, where 0 would say that there is none (RFC 768). To all others its twin is the same number.
    #[inline]
    pub fn udp_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            checksum => checksum,
        }
    }

    /// Whether octets among which is their checksum fit it.
    #[inline]
    pub fn is_right(self) -> bool {
        self.checksum() == 0
    }
}

/// The sum of UDP's and TCP's pseudo-header over IPv4 (RFC 768; RFC 9293, section 3.1). `len` is that of header and
/// payload in octets.
#[inline]
pub fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u16) -> Sum {
    let address = |address: Ipv4Addr| u64::from(address.to_bits().to_be());
    let mut sum = Sum { words: address(src) + address(dst), odd: false };
    sum.add_word(u16::from(protocol));
    sum.add_word(len);
    sum
}

/// The sum of UDP's, TCP's and ICMPv6's pseudo-header over IPv6 (RFC 8200, section 8.1). `len` is the upper-layer packet's
/// in octets.
#[inline]
pub fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, next_header: u8, len: u32) -> Sum {
    let mut sum = Sum::new();
    sum.add(&src.octets());
    sum.add(&dst.octets());
    sum.add(&len.to_be_bytes());
    sum.add_word(u16::from(next_header));
    sum
}

/// The checksum of `octets`, which is 0 for octets that hold a right checksum.
#[inline]
pub fn checksum(octets: &[u8]) -> u16 {
    let mut sum = Sum::new();
    sum.add(octets);
    sum.checksum()
}

/// The checksum after one of the words that it covers has changed (RFC 1624, equation 3).
#[inline]
pub fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// As [`updated`], for 32 bits that begin at an even octet: an IPv4 address.
#[inline]
pub fn updated32(checksum: u16, old: u32, new: u32) -> u16 {
    let step = updated(checksum, (old >> 16) as u16, (new >> 16) as u16);
    updated(step, old as u16, new as u16)
}

/// Changes to octets that a checksum covers, collected, to be put into the checksum at once (RFC 1624, equation 3).
///
/// The outcome is the same as if [`updated`] had been called for each changed word. Words that stay as they are have to be
/// left out: they would turn a sum of 0 into its twin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Change(u64);

impl Change {
    /// No change.
    pub const NONE: Change = Change(0);

    /// Whether no checksum changes.
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// A word of 16 bits becomes another.
    #[inline]
    pub const fn word(&mut self, old: u16, new: u16) {
        if old != new {
            self.0 += !old as u64 + new as u64;
        }
    }

    /// Two words become others.
    #[inline]
    pub const fn words(&mut self, old: u32, new: u32) {
        if old != new {
            self.0 += !old as u64 + new as u64;
        }
    }

    /// Four words become others.
    #[inline]
    pub const fn quad(&mut self, old: u64, new: u64) {
        if old != new {
            self.words((old >> 32) as u32, (new >> 32) as u32);
            self.words(old as u32, new as u32);
        }
    }

    /// This and another change.
    #[inline]
    #[must_use]
    pub const fn and(self, other: Change) -> Change {
        Change(self.0 + other.0)
    }

    /// The checksum after the change.
    #[inline]
    pub const fn of(self, checksum: u16) -> u16 {
        !self.of_sum(!checksum)
    }

    /// The sum after the change: what an unfinished checksum holds isn't complemented yet.
    #[inline]
    pub const fn of_sum(self, sum: u16) -> u16 {
        let sum = self.0 + sum as u64;
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    /// UDP's checksum after the change: 0 says that there is none, and stays (RFC 768).
    #[inline]
    pub const fn of_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.of(checksum) {
            0 => 0xffff,
            updated => updated,
        }
    }
}

/// Folds a sum of 16-bit words, at most 32 bits wide, to 16 bits.
#[inline]
pub const fn fold_u32(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Sums four octets at a time. A slice is shorter than 2^34 octets in any use, so that 64 bits can't overflow.
#[inline]
fn sum(octets: &[u8]) -> u64 {
    let (quads, rest) = octets.as_chunks::<4>();
    let mut sum: u64 = quads.iter().map(|quad| u64::from(u32::from_ne_bytes(*quad))).sum();
    let (pairs, last) = rest.as_chunks::<2>();
    sum += pairs.iter().map(|pair| u64::from(u16::from_ne_bytes(*pair))).sum::<u64>();
    sum + last.iter().map(|&octet| u64::from(u16::from_ne_bytes([octet, 0]))).sum::<u64>()
}

/// Down to 33 bits, so that many sums add up without overflow.
#[inline]
fn fold_once(sum: u64) -> u64 {
    (sum & 0xffff_ffff) + (sum >> 32)
}

#[inline]
fn fold(sum: u64) -> u16 {
    let sum = fold_once(fold_once(sum));
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Word by word, as RFC 1071, section 4.1 spells it.
    fn naive(octets: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in octets.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    /// 0 and 0xffff are the same number in ones' complement.
    fn same(one: u16, other: u16) -> bool {
        one % 0xffff == other % 0xffff
    }

    proptest! {
        #[test]
        fn it_equals_the_naive_sum_however_the_octets_are_cut(
            octets in prop::collection::vec(any::<u8>(), 0..3000),
            cuts in prop::collection::vec(0usize..3000, 0..5),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(octets.len())).collect();
            cuts.sort_unstable();
            let (mut sum, mut start) = (Sum::new(), 0);
            for end in cuts.into_iter().chain([octets.len()]) {
                sum.add(&octets[start..end]);
                start = end;
            }
            prop_assert_eq!(sum.checksum(), naive(&octets));
            prop_assert_eq!(checksum(&octets), naive(&octets));
        }

        #[test]
        fn it_equals_etherparse(words in prop::collection::vec(any::<[u8; 2]>(), 0..100)) {
            let mut theirs = etherparse::checksum::Sum16BitWords::new();
            let mut ours = Sum::new();
            for word in words {
                theirs = theirs.add_2bytes(word);
                ours.add_word(u16::from_be_bytes(word));
            }
            prop_assert_eq!(ours.checksum().to_be(), theirs.ones_complement());
        }

        #[test]
        fn an_update_of_32_bits_equals_a_new_sum(mut octets in prop::collection::vec(any::<u8>(), 8..80), new: u32) {
            octets.truncate(octets.len() / 4 * 4);
            let before = checksum(&octets);
            let old = u32::from_be_bytes([octets[4], octets[5], octets[6], octets[7]]);
            octets[4..8].copy_from_slice(&new.to_be_bytes());
            prop_assert!(same(updated32(before, old, new), checksum(&octets)));
        }

        #[test]
        fn pseudo_headers_equal_their_octets(src: u128, dst: u128, protocol: u8, len: u16) {
            let (src6, dst6) = (Ipv6Addr::from_bits(src), Ipv6Addr::from_bits(dst));
            let mut octets = [src6.octets(), dst6.octets()].concat();
            octets.extend_from_slice(&u32::from(len).to_be_bytes());
            octets.extend_from_slice(&[0, 0, 0, protocol]);
            prop_assert_eq!(pseudo_v6(src6, dst6, protocol, len.into()).checksum(), naive(&octets));

            let (src4, dst4) = (Ipv4Addr::from_bits(src as u32), Ipv4Addr::from_bits(dst as u32));
            let mut octets = [src4.octets(), dst4.octets()].concat();
            octets.extend_from_slice(&[0, protocol]);
            octets.extend_from_slice(&len.to_be_bytes());
            prop_assert_eq!(pseudo_v4(src4, dst4, protocol, len).checksum(), naive(&octets));
        }

        #[test]
        fn a_change_of_many_words_is_that_of_one_after_the_other(
            checksum: u16, old in prop::array::uniform8(any::<u16>()), new in prop::array::uniform8(any::<u16>()), kept in 0..8usize
        ) {
            let new: Vec<u16> = (0..8).map(|at| if at < kept { old[at] } else { new[at] }).collect();
            let steps = (0..8).filter(|&at| old[at] != new[at]);
            let expected = steps.fold(checksum, |checksum, at| updated(checksum, old[at], new[at]));
            let mut change = Change::NONE;
            (0..8).for_each(|at| change.word(old[at], new[at]));
            prop_assert_eq!(change.of(checksum), expected);
            prop_assert_eq!(change.of_sum(!checksum), !expected);
            let quad = |words: &[u16]| words.iter().fold(0u64, |quad, &word| quad << 16 | u64::from(word));
            let mut change = Change::NONE;
            change.quad(quad(&old[..4]), quad(&new[..4]));
            change.quad(quad(&old[4..]), quad(&new[4..]));
            prop_assert!(same(change.of(checksum), expected));
        }

        #[test]
        fn an_update_equals_a_new_sum(mut words in prop::collection::vec(any::<u16>(), 2..20), new: u16) {
            let over = |words: &[u16]| {
                let mut sum = Sum::new();
                words.iter().for_each(|&word| sum.add_word(word));
                sum.checksum()
            };
            // A header is never all zeros, and neither sum has the second zero then (RFC 1624, section 3).
            words[0] |= 0x4000;
            let (before, old) = (over(&words), std::mem::replace(&mut words[1], new));
            prop_assert_eq!(updated(before, old, new), over(&words));
        }
    }

    #[test]
    fn the_example_of_rfc_1071_sums_to_ddf2() {
        let mut sum = Sum::new();
        sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_updates_to_zero() {
        assert_eq!(updated(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn all_ones_of_any_length_stay_all_ones() {
        for len in 1..200 {
            let octets = vec![0xff; len];
            assert_eq!(checksum(&octets), if len % 2 == 0 { 0 } else { naive(&octets) }, "{len} octets");
        }
        assert_eq!(fold_u32(u32::MAX), 0xffff);
    }

    #[test]
    fn a_udp_checksum_that_is_not_there_stays_so_and_one_that_is_there_never_becomes_zero() {
        let mut change = Change::NONE;
        change.word(0x0001, 0xffff);
        assert_eq!((change.of_udp(0), change.of(0xfffe), change.of_udp(0xfffe)), (0, 0, 0xffff));
    }

    #[test]
    fn a_udp_checksum_is_never_zero() {
        let of = |word| {
            let mut sum = Sum::new();
            sum.add_word(word);
            sum.udp_checksum()
        };
        assert_eq!((of(0xffff), of(0x1234)), (0xffff, 0xedcb));
    }

    #[test]
    fn all_ones_and_nothing_are_the_two_zeros() {
        assert_eq!(checksum(&[0xff; 65_536]), 0);
        assert_eq!(checksum(&[]), 0xffff);
    }
}
