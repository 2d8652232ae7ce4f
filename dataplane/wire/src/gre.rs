//! GRE (RFC 2784) with key and sequence number (RFC 2890). Its optional fields make the header 4 to 16 octets long.

use crate::view::{get, header_view, put};
use crate::{EtherType, Malformed, TunnelKey};

mod field {
    pub const FLAGS_VERSION: usize = 0;
    pub const PROTOCOL: usize = 2;
}

/// A checksum and a reserved word follow (RFC 2784, section 2.1).
const C: u16 = 0x8000;
/// A key follows (RFC 2890, section 2).
const K: u16 = 0x2000;
/// A sequence number follows (RFC 2890, section 2).
const S: u16 = 0x1000;
/// The version, which must be 0 (RFC 2784, section 2.3.1).
const VERSION: u16 = 0x0007;

/// Where the checksum stands, if there is one, in octets from the start of the header.
pub const CHECKSUM_AT: usize = LEN;
/// The longest header that weft sends: fixed part, checksum, key.
pub const MAX_LEN: usize = 12;

header_view! {
    /// The fixed part of the header.
    4
}

impl<B: std::borrow::Borrow<[u8; LEN]>> Header<B> {
    #[inline]
    fn flags(&self) -> u16 {
        u16::from_be_bytes(get::<{ field::FLAGS_VERSION }, 2, LEN>(self.as_bytes()))
    }

    /// What the payload is; [`EtherType::TEB`] for an Ethernet frame.
    #[inline]
    pub fn protocol(&self) -> EtherType {
        EtherType(u16::from_be_bytes(get::<{ field::PROTOCOL }, 2, LEN>(self.as_bytes())))
    }

    /// Whether there is a checksum, at [`CHECKSUM_AT`].
    #[inline]
    pub fn has_checksum(&self) -> bool {
        self.flags() & C != 0
    }

    /// Where the key stands, in octets from the start of the header, if there is one.
    #[inline]
    pub fn key_at(&self) -> Option<usize> {
        (self.flags() & K != 0).then_some(if self.has_checksum() { LEN + 4 } else { LEN })
    }

    /// Fixed part and optional fields in octets, 4 to 16, by the flags C, K and S.
    #[inline]
    pub fn header_len(&self) -> usize {
        LEN + 4 * (self.flags() & (C | K | S)).count_ones() as usize
    }

    /// Whether no flag but C, K and S is set and the version is 0.
    ///
    /// The flags of RFC 1701 have to be refused (RFC 2784, section 2.3). The other reserved bits could be ignored; that
    /// they are refused too is Linux's and Open vSwitch's practice.
    ///
    /// # Errors
    /// [`Malformed::BadVersion`] or [`Malformed::BadFlags`].
    #[inline]
    pub fn check(&self) -> Result<(), Malformed> {
        let flags = self.flags();
        if flags & !(C | K | S) == 0 {
            return Ok(());
        }
        match (flags & VERSION) as u8 {
            0 => Err(Malformed::BadFlags(flags)),
            found => Err(Malformed::BadVersion { found, expected: 0 }),
        }
    }
}

/// The header of an Ethernet frame in GRE, as weft sends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repr {
    /// The key.
    pub key: TunnelKey,
    /// Whether there is a checksum; it is 0 until it is filled in.
    pub checksum: bool,
}

impl Repr {
    /// The header; zeros behind [`Header::header_len`].
    #[inline]
    pub fn emit(&self) -> [u8; MAX_LEN] {
        let mut out = [0; MAX_LEN];
        let flags = if self.checksum { C | K } else { K };
        put::<{ field::FLAGS_VERSION }, 2, MAX_LEN>(&mut out, flags.to_be_bytes());
        put::<{ field::PROTOCOL }, 2, MAX_LEN>(&mut out, EtherType::TEB.0.to_be_bytes());
        let key = self.key.0.to_be_bytes();
        if self.checksum {
            put::<{ LEN + 4 }, 4, MAX_LEN>(&mut out, key);
        } else {
            put::<LEN, 4, MAX_LEN>(&mut out, key);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: [u8; 6] = [0x00, 0x00, 0x65, 0x58, 0xde, 0xad];
    const KEYED: [u8; 10] = [0x20, 0x00, 0x65, 0x58, 0x12, 0x34, 0x56, 0x78, 0xde, 0xad];
    const ALL: [u8; 18] = [
        0xb0, 0x00, 0x65, 0x58, 0xa3, 0x43, 0x00, 0x00, 0x12, 0x34, 0x56, 0x78, 0x00, 0x00, 0x00, 0x09, 0xde,
        0xad,
    ];

    fn header(packet: &[u8]) -> View<'_> {
        Header::split(packet).unwrap().0
    }

    #[test]
    fn a_header_is_taken_apart_by_its_flags() {
        let plain = header(&PLAIN);
        assert_eq!((plain.protocol(), plain.header_len(), plain.key_at()), (EtherType::TEB, 4, None));
        let keyed = header(&KEYED);
        assert_eq!((keyed.header_len(), keyed.key_at(), keyed.has_checksum()), (8, Some(4), false));
        let all = header(&ALL);
        assert_eq!((all.header_len(), all.key_at(), all.has_checksum()), (16, Some(8), true));
        for header in [plain, keyed, all] {
            assert_eq!(header.check(), Ok(()));
        }
    }

    #[test]
    fn a_header_is_constructed() {
        let repr = Repr { key: TunnelKey(0x1234_5678), checksum: false };
        assert_eq!(repr.emit()[..8], KEYED[..8]);
        let repr = Repr { checksum: true, ..repr };
        assert_eq!(repr.emit(), [0xa0, 0, 0x65, 0x58, 0, 0, 0, 0, 0x12, 0x34, 0x56, 0x78]);
    }

    #[test]
    fn a_header_that_ends_early_is_truncated() {
        for len in 0..4 {
            assert_eq!(Header::split(&ALL[..len]), Err(Malformed::truncated(4, len)));
        }
    }

    #[test]
    fn unknown_flags_and_other_versions_are_refused() {
        let with = |flags: u16| {
            let mut bytes = PLAIN;
            bytes[..2].copy_from_slice(&flags.to_be_bytes());
            header(&bytes).check()
        };
        for flags in [0x4000, 0x0800, 0x0400, 0x0200, 0x0008] {
            assert_eq!(with(flags), Err(Malformed::BadFlags(flags)));
        }
        assert_eq!(with(0x0001), Err(Malformed::BadVersion { found: 1, expected: 0 }));
    }

    #[test]
    fn a_checksum_covers_header_and_payload() {
        assert_eq!(crate::checksum::checksum(&ALL), 0);
    }

    proptest! {
        #[test]
        fn what_is_emitted_reads_back(key: u32, checksum: bool) {
            let bytes = Repr { key: TunnelKey(key), checksum }.emit();
            let header = header(&bytes);
            prop_assert_eq!((header.check(), header.has_checksum()), (Ok(()), checksum));
            let at = header.key_at().unwrap();
            prop_assert_eq!(at + 4, header.header_len());
            prop_assert_eq!(&bytes[at..at + 4], &key.to_be_bytes()[..]);
        }
    }
}
