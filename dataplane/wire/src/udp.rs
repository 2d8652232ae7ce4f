//! UDP (RFC 768).

use crate::Malformed;
use crate::checksum::Sum;
use crate::view::{get, header_view, put};

mod field {
    pub const SRC_PORT: usize = 0;
    pub const DST_PORT: usize = 2;
    pub const LENGTH: usize = 4;
    pub const CHECKSUM: usize = 6;
}

/// Where the checksum stands, in octets from the start of the header.
pub const CHECKSUM_AT: usize = field::CHECKSUM;

header_view! {
    /// The header.
    8
}

impl<B: std::borrow::Borrow<[u8; LEN]>> Header<B> {
    /// The source port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        u16::from_be_bytes(get::<{ field::SRC_PORT }, 2, LEN>(self.as_bytes()))
    }

    /// The destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        u16::from_be_bytes(get::<{ field::DST_PORT }, 2, LEN>(self.as_bytes()))
    }

    /// Header and payload in octets, as stated.
    #[inline]
    pub fn length(&self) -> u16 {
        u16::from_be_bytes(get::<{ field::LENGTH }, 2, LEN>(self.as_bytes()))
    }

    /// The checksum; 0 means that there is none.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes(get::<{ field::CHECKSUM }, 2, LEN>(self.as_bytes()))
    }

    /// Holds the stated length to the `available` octets from this header's first one on (of all of a packet's frames).
    ///
    /// # Errors
    /// [`Malformed::BadLength`] or `Truncated`.
    #[inline]
    pub fn check(&self, available: usize) -> Result<(), Malformed> {
        let length = self.length();
        if (length as usize) < LEN {
            return Err(Malformed::BadLength { found: length, least: LEN as u16 });
        }
        if length as usize > available {
            Err(Malformed::truncated(length as usize, available))
        } else {
            Ok(())
        }
    }
}

impl<B: std::borrow::BorrowMut<[u8; LEN]>> Header<B> {
    /// Writes the source port.
    #[inline]
    pub fn set_src_port(&mut self, port: u16) {
        put::<{ field::SRC_PORT }, 2, LEN>(self.as_bytes_mut(), port.to_be_bytes());
    }

    /// Writes the destination port.
    #[inline]
    pub fn set_dst_port(&mut self, port: u16) {
        put::<{ field::DST_PORT }, 2, LEN>(self.as_bytes_mut(), port.to_be_bytes());
    }

    /// Writes the length of header and payload.
    #[inline]
    pub fn set_length(&mut self, octets: u16) {
        put::<{ field::LENGTH }, 2, LEN>(self.as_bytes_mut(), octets.to_be_bytes());
    }

    /// Writes the checksum; 0 means that there is none.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put::<{ field::CHECKSUM }, 2, LEN>(self.as_bytes_mut(), checksum.to_be_bytes());
    }
}

/// A UDP packet whose length holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// The header.
    pub header: View<'a>,
    /// What it carries.
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
        let need = header.length() as usize;
        let payload = behind.get(..need - LEN).ok_or_else(|| Malformed::truncated(need, buffer.len()))?;
        Ok(Packet { header, payload })
    }

    /// Whether the checksum fits; `pseudo` is the pseudo-header's sum. Over IPv4 a packet without checksum is good; over
    /// IPv6 that is the caller's to judge (RFC 8200, section 8.1).
    ///
    /// # Errors
    /// [`Malformed::BadChecksum`].
    #[inline]
    pub fn check_checksum(&self, pseudo: Sum) -> Result<(), Malformed> {
        let checksum = self.header.checksum();
        let mut sum = pseudo;
        sum.add(self.header.as_bytes());
        sum.add(self.payload);
        if checksum == 0 || sum.is_right() { Ok(()) } else { Err(Malformed::BadChecksum(checksum)) }
    }
}

/// A header's contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repr {
    /// The source port.
    pub src_port: u16,
    /// The destination port.
    pub dst_port: u16,
    /// Header and payload in octets.
    pub length: u16,
    /// The checksum; 0 for none, as VXLAN over IPv4 has it (RFC 7348, section 5).
    pub checksum: u16,
}

impl Repr {
    /// Writes the whole header.
    #[inline]
    pub fn emit(&self, bytes: &mut [u8; LEN]) {
        let mut header = Header::new(bytes);
        header.set_src_port(self.src_port);
        header.set_dst_port(self.dst_port);
        header.set_length(self.length);
        header.set_checksum(self.checksum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum;
    use etherparse::{UdpHeader, UdpSlice};
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const SRC: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
    const DST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
    const PACKET: [u8; 12] = [0xbf, 0x00, 0x00, 0x35, 0x00, 0x0c, 0x12, 0x4d, 0xaa, 0x00, 0x00, 0xff];

    #[test]
    fn a_packet_is_taken_apart() {
        let packet = Packet::new_checked(&PACKET).unwrap();
        let header = packet.header;
        assert_eq!((header.src_port(), header.dst_port(), header.length()), (48896, 53, 12));
        assert_eq!(header.checksum(), 0x124d);
        assert_eq!(packet.payload, [0xaa, 0x00, 0x00, 0xff]);
        assert_eq!(packet.check_checksum(checksum::pseudo_v4(SRC, DST, 17, 12)), Ok(()));
    }

    #[test]
    fn a_header_is_constructed_over_what_lay_there() {
        let mut bytes = [0xa5; 12];
        Repr { src_port: 48896, dst_port: 53, length: 12, checksum: 0x124d }
            .emit(bytes.first_chunk_mut().unwrap());
        bytes[8..].copy_from_slice(&[0xaa, 0x00, 0x00, 0xff]);
        assert_eq!(bytes, PACKET);
    }

    #[test]
    fn a_packet_that_ends_early_is_truncated() {
        for len in 0..8 {
            assert_eq!(Packet::new_checked(&PACKET[..len]), Err(Malformed::truncated(8, len)));
        }
        for len in 8..12 {
            assert_eq!(Packet::new_checked(&PACKET[..len]), Err(Malformed::truncated(12, len)));
        }
    }

    #[test]
    fn a_length_shorter_than_the_header_is_refused() {
        for length in 0..8 {
            let mut bytes = PACKET;
            bytes[5] = length;
            let error = Malformed::BadLength { found: length.into(), least: 8 };
            assert_eq!(Packet::new_checked(&bytes), Err(error));
        }
    }

    #[test]
    fn no_checksum_is_good_and_a_wrong_one_is_not() {
        let mut bytes = PACKET;
        bytes[6..8].copy_from_slice(&[0, 0]);
        assert_eq!(Packet::new_checked(&bytes).unwrap().check_checksum(Sum::new()), Ok(()));
        bytes[6..8].copy_from_slice(&[0x12, 0x34]);
        let pseudo = checksum::pseudo_v4(SRC, DST, 17, 12);
        let packet = Packet::new_checked(&bytes).unwrap();
        assert_eq!(packet.check_checksum(pseudo), Err(Malformed::BadChecksum(0x1234)));
    }

    proptest! {
        #[test]
        fn checksums_equal_those_of_etherparse(
            ports: (u16, u16), addresses: (u32, u32), payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let (src, dst) = (Ipv4Addr::from_bits(addresses.0), Ipv4Addr::from_bits(addresses.1));
            let theirs = UdpHeader::with_ipv4_checksum(ports.0, ports.1, &etherparse::Ipv4Header {
                source: src.octets(), destination: dst.octets(), ..Default::default()
            }, &payload).unwrap();
            let length = 8 + payload.len() as u16;
            let mut bytes = vec![0xa5; 8];
            bytes.extend_from_slice(&payload);
            let repr = Repr { src_port: ports.0, dst_port: ports.1, length, checksum: 0 };
            repr.emit(bytes.first_chunk_mut().unwrap());
            let pseudo = checksum::pseudo_v4(src, dst, 17, length);
            let mut sum = pseudo;
            sum.add(&bytes);
            let checksum = sum.udp_checksum();
            prop_assert_eq!(checksum, theirs.checksum);
            Repr { checksum, ..repr }.emit(bytes.first_chunk_mut().unwrap());
            prop_assert_eq!(&bytes[..8], &theirs.to_bytes()[..]);
            let packet = Packet::new_checked(&bytes).unwrap();
            prop_assert_eq!(packet.check_checksum(pseudo), Ok(()));
            prop_assert_eq!(UdpSlice::from_slice(&bytes).unwrap().payload(), packet.payload);
        }

        #[test]
        fn any_octets_are_a_packet_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Packet::new_checked(&bytes).map(|packet| packet.check_checksum(Sum::new()));
        }
    }
}
