//! CRC32c (Castagnoli), SCTP's checksum (RFC 9260, section 6.8 and appendix A): of a message that comes in pieces, and what a
//! change to a few octets does to it.
//!
//! The checksum is linear: if some octets of a message change, it changes by the CRC of their difference, followed by as
//! many zeros as there are octets behind. Zeros are passed over by powers of two, each a matrix of bits: the message
//! itself isn't read.

/// The polynomial, lowest bit first.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Octets of the longest message, as a power of two, exclusive.
const POWERS: usize = 17;

/// What a state becomes by so many octets of zeros: an image for each of its bits.
type Matrix = [u32; 32];

/// Of one octet, two octets, four, and so on.
static ZEROS: [Matrix; POWERS] = zeros();

const fn zeros() -> [Matrix; POWERS] {
    let mut powers = [[0; 32]; POWERS];
    let mut bit = 0;
    while bit < 32 {
        let (mut state, mut step) = (1u32 << bit, 0);
        while step < 8 {
            state = if state & 1 == 0 { state >> 1 } else { state >> 1 ^ POLYNOMIAL };
            step += 1;
        }
        powers[0][bit] = state;
        bit += 1;
    }
    let mut power = 1;
    while power < POWERS {
        let mut bit = 0;
        while bit < 32 {
            powers[power][bit] = apply(&powers[power - 1], powers[power - 1][bit]);
            bit += 1;
        }
        power += 1;
    }
    powers
}

const fn apply(matrix: &Matrix, state: u32) -> u32 {
    let (mut image, mut bit) = (0, 0);
    while bit < 32 {
        image ^= matrix[bit] & (state >> bit & 1).wrapping_neg();
        bit += 1;
    }
    image
}

/// What a state becomes by one octet that is exclusive-ored into it.
static OCTETS: [u32; 256] = {
    let mut table = [0; 256];
    let mut octet = 0;
    while octet < 256 {
        table[octet] = apply(&ZEROS[0], octet as u32);
        octet += 1;
    }
    table
};

/// The checksum of a message that comes in pieces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Crc(u32);

impl Crc {
    /// Of nothing so far.
    pub const fn new() -> Self {
        Crc(u32::MAX)
    }

    /// Goes on with these octets.
    pub fn add(&mut self, octets: &[u8]) {
        for &octet in octets {
            let [low, ..] = self.0.to_le_bytes();
            self.0 = self.0 >> 8 ^ OCTETS[usize::from(low ^ octet)];
        }
    }

    /// The checksum as SCTP has it on the wire: lowest octet first.
    pub const fn checksum(self) -> [u8; 4] {
        (!self.0).to_le_bytes()
    }
}

impl Default for Crc {
    fn default() -> Self {
        Self::new()
    }
}

/// By which number (to be combined by exclusive or) the checksum of a message changes if four of its octets change by
/// `difference` (combined by exclusive or), with `behind` octets behind them, at most 131,067. As SCTP has it on the wire:
/// lowest octet first.
pub fn change(difference: [u8; 4], behind: usize) -> [u8; 4] {
    let octets = behind + difference.len();
    let steps = ZEROS.iter().enumerate().filter(|(power, _)| octets >> power & 1 != 0);
    steps.fold(u32::from_le_bytes(difference), |state, (_, matrix)| apply(matrix, state)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bit by bit.
    fn naive(octets: &[u8]) -> u32 {
        let step = |state: u32, _| if state & 1 == 0 { state >> 1 } else { state >> 1 ^ POLYNOMIAL };
        !octets.iter().fold(u32::MAX, |state, &octet| (0..8).fold(state ^ u32::from(octet), step))
    }

    #[test]
    fn the_naive_one_knows_the_vectors_of_rfc_3720() {
        assert_eq!(naive(&[0; 32]), 0x8a91_36aa);
        assert_eq!(naive(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(naive(b"123456789"), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn a_message_in_pieces_has_the_checksum_that_it_has_bit_by_bit(octets: Vec<u8>, at: usize) {
            let (front, back) = octets.split_at(at % (octets.len() + 1));
            let mut crc = Crc::new();
            crc.add(front);
            crc.add(back);
            prop_assert_eq!(crc.checksum(), naive(&octets).to_le_bytes());
        }

        #[test]
        fn a_change_is_the_difference_of_two_checksums(octets in prop::collection::vec(any::<u8>(), 4..2000), new: [u8; 4], at: usize) {
            let at = at % (octets.len() - 3);
            let mut changed = octets.clone();
            changed[at..at + 4].copy_from_slice(&new);
            let difference: Vec<u8> = octets[at..at + 4].iter().zip(new).map(|(old, new)| old ^ new).collect();
            let by = change(difference.try_into().unwrap(), octets.len() - at - 4);
            prop_assert_eq!((naive(&octets) ^ naive(&changed)).to_le_bytes(), by);
        }
    }

    #[test]
    fn a_message_in_pieces_has_the_checksum_of_the_whole() {
        let octets: Vec<u8> = (0..=255).collect();
        for cut in [0, 1, 100, 255, 256] {
            let mut crc = Crc::default();
            crc.add(&octets[..cut]);
            crc.add(&octets[cut..]);
            assert_eq!(crc.checksum(), naive(&octets).to_le_bytes());
        }
    }

    #[test]
    fn the_longest_message_is_not_too_long() {
        let (mut octets, len) = (vec![0; 70_000], 70_000);
        let before = naive(&octets);
        octets[..4].copy_from_slice(&[1, 2, 3, 4]);
        assert_eq!((naive(&octets) ^ before).to_le_bytes(), change([1, 2, 3, 4], len - 4));
    }
}
