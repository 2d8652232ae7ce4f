//! The fixed IPv6 header (RFC 8200, section 3). Extension headers are payload here.

use std::net::Ipv6Addr;

use crate::Malformed;
use crate::ipv4::Protocol;
use crate::view::{get, header_view, put};

mod field {
    pub const VERSION_CLASS_LABEL: usize = 0;
    pub const PAYLOAD_LEN: usize = 4;
    pub const NEXT_HEADER: usize = 6;
    pub const HOP_LIMIT: usize = 7;
    pub const SRC: usize = 8;
    pub const DST: usize = 24;
}

header_view! {
    /// The fixed header.
    40
}

impl<B: std::borrow::Borrow<[u8; LEN]>> Header<B> {
    #[inline]
    fn first_word(&self) -> u32 {
        u32::from_be_bytes(get::<{ field::VERSION_CLASS_LABEL }, 4, LEN>(self.as_bytes()))
    }

    /// The version: 6, or else this is no IPv6.
    #[inline]
    pub fn version(&self) -> u8 {
        (self.first_word() >> 28) as u8
    }

    /// Traffic class: DSCP in the high 6 bits, ECN in the low 2.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (self.first_word() >> 20) as u8
    }

    /// The flow label, 20 bits.
    #[inline]
    pub fn flow_label(&self) -> u32 {
        self.first_word() & 0x000f_ffff
    }

    /// What follows this header in octets, as stated.
    #[inline]
    pub fn payload_len(&self) -> u16 {
        u16::from_be_bytes(get::<{ field::PAYLOAD_LEN }, 2, LEN>(self.as_bytes()))
    }

    /// What follows: a transport protocol or an extension header.
    #[inline]
    pub fn next_header(&self) -> Protocol {
        Protocol(self.as_bytes()[field::NEXT_HEADER])
    }

    /// Hops that the packet may still take.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.as_bytes()[field::HOP_LIMIT]
    }

    /// The source address.
    #[inline]
    pub fn src(&self) -> Ipv6Addr {
        Ipv6Addr::from(get::<{ field::SRC }, 16, LEN>(self.as_bytes()))
    }

    /// The destination address.
    #[inline]
    pub fn dst(&self) -> Ipv6Addr {
        Ipv6Addr::from(get::<{ field::DST }, 16, LEN>(self.as_bytes()))
    }

    /// Holds version and length to the `available` octets from this header's first one on (of all of a packet's frames).
    ///
    /// # Errors
    /// [`Malformed::BadVersion`] or `Truncated`.
    #[inline]
    pub fn check(&self, available: usize) -> Result<(), Malformed> {
        if self.version() != 6 {
            return Err(Malformed::BadVersion { found: self.version(), expected: 6 });
        }
        let need = LEN + self.payload_len() as usize;
        if need > available { Err(Malformed::truncated(need, available)) } else { Ok(()) }
    }
}

impl<B: std::borrow::BorrowMut<[u8; LEN]>> Header<B> {
    /// Writes version 6, the traffic class and the low 20 bits of `label`.
    #[inline]
    pub fn set_class_and_label(&mut self, class: u8, label: u32) {
        let word = 6 << 28 | u32::from(class) << 20 | label & 0x000f_ffff;
        put::<{ field::VERSION_CLASS_LABEL }, 4, LEN>(self.as_bytes_mut(), word.to_be_bytes());
    }

    /// Writes the payload's length.
    #[inline]
    pub fn set_payload_len(&mut self, octets: u16) {
        put::<{ field::PAYLOAD_LEN }, 2, LEN>(self.as_bytes_mut(), octets.to_be_bytes());
    }

    /// Writes what follows.
    #[inline]
    pub fn set_next_header(&mut self, protocol: Protocol) {
        self.as_bytes_mut()[field::NEXT_HEADER] = protocol.0;
    }

    /// Writes the hop limit.
    #[inline]
    pub fn set_hop_limit(&mut self, hops: u8) {
        self.as_bytes_mut()[field::HOP_LIMIT] = hops;
    }

    /// Writes the source address; the transport's checksum is the caller's.
    #[inline]
    pub fn set_src(&mut self, address: Ipv6Addr) {
        put::<{ field::SRC }, 16, LEN>(self.as_bytes_mut(), address.octets());
    }

    /// Writes the destination address; the transport's checksum is the caller's.
    #[inline]
    pub fn set_dst(&mut self, address: Ipv6Addr) {
        put::<{ field::DST }, 16, LEN>(self.as_bytes_mut(), address.octets());
    }
}

/// An IPv6 packet whose length holds. Octets behind it (Ethernet's padding) are not part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// The fixed header.
    pub header: View<'a>,
    /// Extension headers, if any, and the transport's packet.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The packet at the start of `buffer`.
    ///
    /// # Errors
    /// As [`Header::check`].
    #[inline]
    pub fn new_checked(buffer: &'a [u8]) -> Result<Self, Malformed> {
        let (header, behind) = Header::split(buffer)?;
        header.check(buffer.len())?;
        let need = header.payload_len() as usize;
        let payload = behind.get(..need).ok_or_else(|| Malformed::truncated(need, behind.len()))?;
        Ok(Packet { header, payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::Ipv6HeaderSlice;
    use proptest::prelude::*;

    const PACKET: [u8; 42] = [
        0x6b, 0x91, 0x23, 0x45, 0x00, 0x02, 0x11, 0x40, 0xfd, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0x01, 0xfd, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0xde, 0xad,
    ];
    const SRC: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    const DST: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

    #[test]
    fn a_packet_is_taken_apart() {
        let packet = Packet::new_checked(&PACKET).unwrap();
        let header = packet.header;
        assert_eq!((header.version(), header.traffic_class(), header.flow_label()), (6, 0xb9, 0x12345));
        assert_eq!((header.payload_len(), header.hop_limit()), (2, 64));
        assert_eq!(header.next_header(), Protocol::UDP);
        assert_eq!((header.src(), header.dst()), (SRC, DST));
        assert_eq!(packet.payload, [0xde, 0xad]);
    }

    #[test]
    fn a_header_is_constructed_over_what_lay_there() {
        let mut bytes = [0xa5; 42];
        let (mut header, rest) = Header::split_mut(&mut bytes).unwrap();
        header.set_class_and_label(0xb9, 0xfff1_2345);
        header.set_payload_len(2);
        header.set_next_header(Protocol::UDP);
        header.set_hop_limit(64);
        header.set_src(SRC);
        header.set_dst(DST);
        rest.copy_from_slice(&[0xde, 0xad]);
        assert_eq!(bytes, PACKET);
    }

    #[test]
    fn a_packet_that_ends_early_is_truncated() {
        for len in 0..40 {
            assert_eq!(Packet::new_checked(&PACKET[..len]), Err(Malformed::truncated(40, len)));
        }
        assert_eq!(Packet::new_checked(&PACKET[..41]), Err(Malformed::truncated(42, 41)));
    }

    #[test]
    fn another_version_is_refused() {
        let mut bytes = PACKET;
        bytes[0] = 0x45;
        assert_eq!(Packet::new_checked(&bytes), Err(Malformed::BadVersion { found: 4, expected: 6 }));
    }

    proptest! {
        #[test]
        fn fields_equal_those_that_etherparse_reads(mut bytes: [[u8; 20]; 2]) {
            bytes[0][0] = 0x60 | bytes[0][0] & 0x0f;
            let bytes = bytes.concat();
            let ours = Header::split(&bytes).unwrap().0;
            let theirs = Ipv6HeaderSlice::from_slice(&bytes).unwrap();
            prop_assert_eq!(theirs.traffic_class(), ours.traffic_class());
            prop_assert_eq!(theirs.flow_label().value(), ours.flow_label());
            prop_assert_eq!(theirs.payload_length(), ours.payload_len());
            prop_assert_eq!(theirs.next_header().0, ours.next_header().0);
            prop_assert_eq!(theirs.hop_limit(), ours.hop_limit());
            prop_assert_eq!((theirs.source_addr(), theirs.destination_addr()), (ours.src(), ours.dst()));
        }

        #[test]
        fn any_octets_are_a_packet_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Packet::new_checked(&bytes);
        }
    }
}
