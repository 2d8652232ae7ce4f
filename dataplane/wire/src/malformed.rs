//! What can be wrong with a header. Eight octets at most, because it travels through the packet path in a register.

use crate::DropReason;

/// Why octets are not the header that they claim to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// There are fewer octets than the header, or the length that it states, needs.
    #[error("truncated: {have} octets where {need} are needed")]
    Truncated {
        /// What the header says that it needs, in octets.
        need: u16,
        /// What is there, in octets (65535 stands for that or more).
        have: u16,
    },
    /// The version is not this protocol's.
    #[error("version {found} where {expected} belongs")]
    BadVersion {
        /// The version in the header.
        found: u8,
        /// The only legal one.
        expected: u8,
    },
    /// The header states a header length that is shorter than its fixed part.
    #[error("header length {found} is out of range: {least} octets or more")]
    BadHeaderLen {
        /// The stated header length in octets.
        found: u8,
        /// The length of the fixed part in octets.
        least: u8,
    },
    /// The header states a total length that is shorter than itself.
    #[error("length {found} is out of range: {least} octets or more")]
    BadLength {
        /// The stated length in octets.
        found: u16,
        /// The least that it can be.
        least: u16,
    },
    /// The flags ask for something that the RFC forbids, or lack what it demands.
    #[error("flags {0:#06x} are not legal here")]
    BadFlags(u16),
    /// The ARP packet is not about IPv4 over Ethernet.
    #[error("ARP for hardware {hardware} and protocol {protocol:#06x}, where 1 and 0x0800 belong")]
    NotEthernetIpv4 {
        /// The hardware type.
        hardware: u16,
        /// The protocol type.
        protocol: u16,
    },
    /// The checksum does not fit the octets that it covers.
    #[error("checksum {0:#06x} is wrong")]
    BadChecksum(u16),
}

const _: () = assert!(size_of::<Malformed>() <= 8);

impl Malformed {
    /// `have` octets where `need` are needed; numbers that do not fit 16 bits are cut to 65535.
    #[cold]
    pub fn truncated(need: usize, have: usize) -> Self {
        let cut = |octets: usize| u16::try_from(octets).unwrap_or(u16::MAX);
        Malformed::Truncated { need: cut(need), have: cut(have) }
    }
}

impl From<Malformed> for DropReason {
    fn from(malformed: Malformed) -> DropReason {
        match malformed {
            Malformed::Truncated { .. } => DropReason::RxTruncated,
            _ => DropReason::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_says_the_bad_value_and_the_legal_ones() {
        assert_eq!(Malformed::truncated(20, 7).to_string(), "truncated: 7 octets where 20 are needed");
        assert_eq!(Malformed::BadVersion { found: 5, expected: 4 }.to_string(), "version 5 where 4 belongs");
        assert_eq!(
            Malformed::BadHeaderLen { found: 16, least: 20 }.to_string(),
            "header length 16 is out of range: 20 octets or more"
        );
    }

    #[test]
    fn a_truncated_frame_and_a_lying_one_are_counted_apart() {
        assert_eq!(DropReason::from(Malformed::truncated(1, 0)), DropReason::RxTruncated);
        assert_eq!(DropReason::from(Malformed::BadFlags(0)), DropReason::Malformed);
    }
}
