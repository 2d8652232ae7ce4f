//! VXLAN (RFC 7348, section 5): eight octets between UDP and the inner Ethernet frame.

use crate::view::{get, header_view, put};
use crate::{Malformed, TunnelKey};

/// The UDP destination port (RFC 7348, section 5).
pub const UDP_PORT: u16 = 4789;

mod field {
    pub const FLAGS: usize = 0;
    pub const VNI: usize = 4;
}

/// "The VNI is valid", in the first octet.
const I: u8 = 0x08;

header_view! {
    /// The header.
    8
}

impl<B: std::borrow::Borrow<[u8; LEN]>> Header<B> {
    /// Whether the I flag, and nothing else, is set.
    ///
    /// Section 5 would have the other flags and the reserved fields ignored. They have to be 0 here as in Linux and in Open
    /// vSwitch: an extension that uses them (a policy, another inner protocol) is not to be taken for plain VXLAN.
    ///
    /// # Errors
    /// [`Malformed::BadFlags`] with the first 16 bits.
    #[inline]
    pub fn check(&self) -> Result<(), Malformed> {
        let [a, b, c, d, .., reserved] = *self.as_bytes();
        if [a, b, c, d] == [I, 0, 0, 0] && reserved == 0 {
            Ok(())
        } else {
            Err(Malformed::BadFlags(u16::from_be_bytes([a, b])))
        }
    }

    /// The VXLAN network identifier, 24 bits.
    #[inline]
    pub fn vni(&self) -> TunnelKey {
        TunnelKey(u32::from_be_bytes(get::<{ field::VNI }, 4, LEN>(self.as_bytes())) >> 8)
    }
}

/// A header's contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repr {
    /// The VXLAN network identifier; the high 8 bits are not sent.
    pub vni: TunnelKey,
}

impl Repr {
    /// Writes the whole header.
    #[inline]
    pub fn emit(&self, bytes: &mut [u8; LEN]) {
        put::<{ field::FLAGS }, 4, LEN>(bytes, [I, 0, 0, 0]);
        put::<{ field::VNI }, 4, LEN>(bytes, (self.vni.0 << 8).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PACKET: [u8; 10] = [0x08, 0x00, 0x00, 0x00, 0x12, 0xd6, 0x87, 0x00, 0xde, 0xad];

    #[test]
    fn a_header_is_taken_apart() {
        let (header, inner) = Header::split(&PACKET).unwrap();
        assert_eq!((header.check(), header.vni()), (Ok(()), TunnelKey(0x12d687)));
        assert_eq!(inner, [0xde, 0xad]);
    }

    #[test]
    fn a_header_is_constructed_over_what_lay_there() {
        let mut bytes = [0xa5; 8];
        Repr { vni: TunnelKey(0x12d687) }.emit(&mut bytes);
        assert_eq!(bytes, PACKET[..8]);
    }

    #[test]
    fn a_packet_that_ends_early_is_truncated() {
        for len in 0..8 {
            assert_eq!(Header::split(&PACKET[..len]), Err(Malformed::truncated(8, len)));
        }
    }

    #[test]
    fn a_missing_i_flag_and_reserved_bits_are_refused() {
        let with = |at: usize, octet: u8| {
            let mut bytes = *PACKET.first_chunk::<LEN>().unwrap();
            bytes[at] = octet;
            Header::new(bytes).check()
        };
        assert_eq!(with(0, 0), Err(Malformed::BadFlags(0)));
        assert_eq!(with(0, 0xf7), Err(Malformed::BadFlags(0xf700)));
        assert_eq!(with(0, 0x88), Err(Malformed::BadFlags(0x8800)));
        for at in [1, 2, 3, 7] {
            assert!(with(at, 1).is_err(), "octet {at}");
        }
        assert_eq!(with(6, 0xff), Ok(()), "that is the VNI's");
    }

    proptest! {
        #[test]
        fn each_vni_comes_back(vni in 0u32..1 << 24) {
            let mut bytes = [0xa5; 8];
            Repr { vni: TunnelKey(vni) }.emit(&mut bytes);
            prop_assert_eq!(Header::new(&bytes).vni(), TunnelKey(vni));
        }
    }
}
