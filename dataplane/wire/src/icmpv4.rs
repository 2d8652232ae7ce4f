//! ICMP for IPv4 (RFC 792): type, code, checksum, and the word whose meaning depends on them.

use crate::Malformed;
use crate::checksum::Sum;
use crate::view::{get, header_view, put};

/// An ICMP type. Each number is legal; those that weft knows have names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Kind(pub u8);

impl Kind {
    /// Echo reply.
    pub const ECHO_REPLY: Kind = Kind(0);
    /// Destination unreachable; with code 4, "fragmentation needed".
    pub const UNREACHABLE: Kind = Kind(3);
    /// Echo request.
    pub const ECHO_REQUEST: Kind = Kind(8);
    /// Time exceeded.
    pub const TIME_EXCEEDED: Kind = Kind(11);
}

mod field {
    pub const KIND: usize = 0;
    pub const CODE: usize = 1;
    pub const CHECKSUM: usize = 2;
    pub const REST: usize = 4;
}

header_view! {
    /// The header.
    8
}

impl<B: std::borrow::Borrow<[u8; LEN]>> Header<B> {
    /// The type.
    #[inline]
    pub fn kind(&self) -> Kind {
        Kind(self.as_bytes()[field::KIND])
    }

    /// The code; its meaning is the type's.
    #[inline]
    pub fn code(&self) -> u8 {
        self.as_bytes()[field::CODE]
    }

    /// The checksum of header and payload.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes(get::<{ field::CHECKSUM }, 2, LEN>(self.as_bytes()))
    }

    /// The rest of the header: an echo's identifier and sequence number, or what the type says.
    #[inline]
    pub fn rest(&self) -> u32 {
        u32::from_be_bytes(get::<{ field::REST }, 4, LEN>(self.as_bytes()))
    }
}

impl<B: std::borrow::BorrowMut<[u8; LEN]>> Header<B> {
    /// Writes type and code.
    #[inline]
    pub fn set_kind_and_code(&mut self, kind: Kind, code: u8) {
        put::<{ field::KIND }, 2, LEN>(self.as_bytes_mut(), [kind.0, code]);
    }

    /// Writes the checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put::<{ field::CHECKSUM }, 2, LEN>(self.as_bytes_mut(), checksum.to_be_bytes());
    }

    /// Writes the rest of the header.
    #[inline]
    pub fn set_rest(&mut self, rest: u32) {
        put::<{ field::REST }, 4, LEN>(self.as_bytes_mut(), rest.to_be_bytes());
    }
}

/// An ICMP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// The header.
    pub header: View<'a>,
    /// What follows it.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The packet that fills `buffer`; nothing in it states a length.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] below 8 octets.
    #[inline]
    pub fn new_checked(buffer: &'a [u8]) -> Result<Self, Malformed> {
        let (header, payload) = Header::split(buffer)?;
        Ok(Packet { header, payload })
    }

    /// Whether the checksum fits.
    ///
    /// # Errors
    /// [`Malformed::BadChecksum`].
    #[inline]
    pub fn check_checksum(&self) -> Result<(), Malformed> {
        let mut sum = Sum::new();
        sum.add(self.header.as_bytes());
        sum.add(self.payload);
        if sum.is_right() { Ok(()) } else { Err(Malformed::BadChecksum(self.header.checksum())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::checksum;
    use etherparse::Icmpv4Slice;
    use proptest::prelude::*;

    const ECHO: [u8; 12] = [0x08, 0x00, 0x8e, 0xfe, 0x12, 0x34, 0xab, 0xcd, 0xaa, 0x00, 0x00, 0xff];

    #[test]
    fn an_echo_request_is_taken_apart() {
        let packet = Packet::new_checked(&ECHO).unwrap();
        assert_eq!((packet.header.kind(), packet.header.code()), (Kind::ECHO_REQUEST, 0));
        assert_eq!((packet.header.checksum(), packet.header.rest()), (0x8efe, 0x1234_abcd));
        assert_eq!(packet.payload, [0xaa, 0x00, 0x00, 0xff]);
        assert_eq!(packet.check_checksum(), Ok(()));
    }

    #[test]
    fn a_header_is_constructed_over_what_lay_there() {
        let mut bytes = [0xa5; 12];
        let (mut header, rest) = Header::split_mut(&mut bytes).unwrap();
        header.set_kind_and_code(Kind::ECHO_REQUEST, 0);
        header.set_checksum(0x8efe);
        header.set_rest(0x1234_abcd);
        rest.copy_from_slice(&[0xaa, 0x00, 0x00, 0xff]);
        assert_eq!(bytes, ECHO);
    }

    #[test]
    fn a_packet_that_ends_early_is_truncated() {
        for len in 0..8 {
            assert_eq!(Packet::new_checked(&ECHO[..len]), Err(Malformed::truncated(8, len)));
        }
    }

    #[test]
    fn a_wrong_checksum_is_found() {
        let mut bytes = ECHO;
        bytes[11] ^= 1;
        let packet = Packet::new_checked(&bytes).unwrap();
        assert_eq!(packet.check_checksum(), Err(Malformed::BadChecksum(0x8efe)));
    }

    proptest! {
        #[test]
        fn fields_and_checksum_equal_those_of_etherparse(mut bytes in prop::collection::vec(any::<u8>(), 8..80)) {
            bytes[0] = Kind::ECHO_REQUEST.0;
            bytes[1] = 0;
            let theirs = Icmpv4Slice::from_slice(&bytes).unwrap();
            prop_assert_eq!(theirs.type_u8(), 8);
            prop_assert_eq!(theirs.checksum(), Packet::new_checked(&bytes).unwrap().header.checksum());
            let expect = theirs.icmp_type().calc_checksum(theirs.payload());
            let mut header = Header::split_mut(&mut bytes).unwrap().0;
            header.set_checksum(0);
            let checksum = checksum(&bytes);
            prop_assert_eq!(checksum, expect);
            Header::split_mut(&mut bytes).unwrap().0.set_checksum(checksum);
            prop_assert_eq!(Packet::new_checked(&bytes).unwrap().check_checksum(), Ok(()));
        }
    }
}
