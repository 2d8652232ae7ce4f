//! IPv4 headers (RFC 791; DSCP: RFC 2474; ECN: RFC 3168).

use std::fmt;
use std::net::Ipv4Addr;

use crate::Malformed;
use crate::checksum::{Sum, checksum};
use crate::view::{get, header_view, put};

/// An IP protocol or next header number (RFC 5237). Each is legal; those that weft knows have names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(transparent)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP (RFC 792).
    pub const ICMP: Protocol = Protocol(1);
    /// IGMP (RFC 3376).
    pub const IGMP: Protocol = Protocol(2);
    /// TCP (RFC 9293).
    pub const TCP: Protocol = Protocol(6);
    /// UDP (RFC 768).
    pub const UDP: Protocol = Protocol(17);
    /// GRE (RFC 2784).
    pub const GRE: Protocol = Protocol(47);
    /// IPv6's routing header (RFC 8200, section 4.4).
    pub const IPV6_ROUTING: Protocol = Protocol(43);
    /// IPv6's fragment header (RFC 8200, section 4.5).
    pub const IPV6_FRAGMENT: Protocol = Protocol(44);
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: Protocol = Protocol(58);
    /// SCTP (RFC 9260).
    pub const SCTP: Protocol = Protocol(132);
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

mod field {
    pub const VERSION_IHL: usize = 0;
    pub const TOS: usize = 1;
    pub const TOTAL_LEN: usize = 2;
    pub const IDENT: usize = 4;
    pub const FRAGMENT: usize = 6;
    pub const TTL: usize = 8;
    pub const PROTOCOL: usize = 9;
    pub const CHECKSUM: usize = 10;
    pub const SRC: usize = 12;
    pub const DST: usize = 16;
}

/// "Don't fragment", in the word of flags and fragment offset.
const DF: u16 = 0x4000;
/// "More fragments", in the same word.
const MF: u16 = 0x2000;
/// The fragment offset in that word, in units of 8 octets.
const OFFSET: u16 = 0x1fff;

header_view! {
    /// The fixed part of the header, 20 octets.
    20
}

impl<B: std::borrow::Borrow<[u8; LEN]>> Header<B> {
    /// The version: 4, or else this is no IPv4.
    #[inline]
    pub fn version(&self) -> u8 {
        self.as_bytes()[field::VERSION_IHL] >> 4
    }

    /// The length of fixed part and options in octets, 0 to 60 as stated.
    #[inline]
    pub fn header_len(&self) -> usize {
        (self.as_bytes()[field::VERSION_IHL] & 0x0f) as usize * 4
    }

    /// Type of service: DSCP in the high 6 bits, ECN in the low 2.
    #[inline]
    pub fn tos(&self) -> u8 {
        self.as_bytes()[field::TOS]
    }

    /// Header and payload in octets, as stated.
    #[inline]
    pub fn total_len(&self) -> u16 {
        u16::from_be_bytes(get::<{ field::TOTAL_LEN }, 2, LEN>(self.as_bytes()))
    }

    /// Says which fragments belong together.
    #[inline]
    pub fn ident(&self) -> u16 {
        u16::from_be_bytes(get::<{ field::IDENT }, 2, LEN>(self.as_bytes()))
    }

    #[inline]
    fn fragment(&self) -> u16 {
        u16::from_be_bytes(get::<{ field::FRAGMENT }, 2, LEN>(self.as_bytes()))
    }

    /// Whether routers must not cut the packet.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.fragment() & DF != 0
    }

    /// Whether it is a part of a packet only, first or later.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.fragment() & (MF | OFFSET) != 0
    }

    /// Whether it is a part without the transport header.
    #[inline]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment() & OFFSET != 0
    }

    /// Hops that the packet may still take.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.as_bytes()[field::TTL]
    }

    /// What the payload is.
    #[inline]
    pub fn protocol(&self) -> Protocol {
        Protocol(self.as_bytes()[field::PROTOCOL])
    }

    /// The checksum of the header.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes(get::<{ field::CHECKSUM }, 2, LEN>(self.as_bytes()))
    }

    /// The source address.
    #[inline]
    pub fn src(&self) -> Ipv4Addr {
        Ipv4Addr::from(get::<{ field::SRC }, 4, LEN>(self.as_bytes()))
    }

    /// The destination address.
    #[inline]
    pub fn dst(&self) -> Ipv4Addr {
        Ipv4Addr::from(get::<{ field::DST }, 4, LEN>(self.as_bytes()))
    }

    /// Holds version and lengths to the `available` octets from this header's first one on (of all of a packet's frames).
    ///
    /// # Errors
    /// [`Malformed::BadVersion`], `BadHeaderLen`, `BadLength`, or `Truncated`.
    #[inline]
    pub fn check(&self, available: usize) -> Result<(), Malformed> {
        if self.as_bytes()[field::VERSION_IHL] != 0x45 {
            self.check_version_and_options()?;
        }
        let (header, total) = (self.header_len(), self.total_len());
        if (total as usize) < header {
            return Err(Malformed::BadLength { found: total, least: header as u16 });
        }
        if total as usize > available {
            return Err(Malformed::truncated(total as usize, available));
        }
        Ok(())
    }

    #[cold]
    fn check_version_and_options(&self) -> Result<(), Malformed> {
        if self.version() != 4 {
            return Err(Malformed::BadVersion { found: self.version(), expected: 4 });
        }
        if self.header_len() < LEN {
            return Err(Malformed::BadHeaderLen { found: self.header_len() as u8, least: LEN as u8 });
        }
        Ok(())
    }
}

impl<B: std::borrow::BorrowMut<[u8; LEN]>> Header<B> {
    /// Writes the type of service; the checksum is the caller's.
    #[inline]
    pub fn set_tos(&mut self, tos: u8) {
        self.as_bytes_mut()[field::TOS] = tos;
    }

    /// Writes the total length; the checksum is the caller's.
    #[inline]
    pub fn set_total_len(&mut self, octets: u16) {
        put::<{ field::TOTAL_LEN }, 2, LEN>(self.as_bytes_mut(), octets.to_be_bytes());
    }

    /// Writes the identification; the checksum is the caller's.
    #[inline]
    pub fn set_ident(&mut self, ident: u16) {
        put::<{ field::IDENT }, 2, LEN>(self.as_bytes_mut(), ident.to_be_bytes());
    }

    /// Writes the time to live; the checksum is the caller's.
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        self.as_bytes_mut()[field::TTL] = ttl;
    }

    /// Writes the source address; the checksums are the caller's.
    #[inline]
    pub fn set_src(&mut self, address: Ipv4Addr) {
        put::<{ field::SRC }, 4, LEN>(self.as_bytes_mut(), address.octets());
    }

    /// Writes the destination address; the checksums are the caller's.
    #[inline]
    pub fn set_dst(&mut self, address: Ipv4Addr) {
        put::<{ field::DST }, 4, LEN>(self.as_bytes_mut(), address.octets());
    }

    /// Writes a checksum that is already known.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put::<{ field::CHECKSUM }, 2, LEN>(self.as_bytes_mut(), checksum.to_be_bytes());
    }

    /// Computes and writes the checksum of a header without options.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.set_checksum(0);
        self.set_checksum(checksum(self.as_bytes()));
    }
}

/// An IPv4 packet whose lengths hold: header, options, payload. Octets behind the total length (Ethernet's padding) are
/// not part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// The fixed part.
    pub header: View<'a>,
    /// Up to 40 octets.
    pub options: &'a [u8],
    /// What the header carries.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The packet at the start of `buffer`. The checksum is not looked at, see [`Packet::check_checksum`].
    ///
    /// # Errors
    /// As [`Header::check`].
    #[inline]
    pub fn new_checked(buffer: &'a [u8]) -> Result<Self, Malformed> {
        let (header, behind) = Header::split(buffer)?;
        header.check(buffer.len())?;
        let short = || Malformed::truncated(header.total_len() as usize, buffer.len());
        let stated = behind.get(..header.total_len() as usize - LEN).ok_or_else(short)?;
        let (options, payload) = stated.split_at_checked(header.header_len() - LEN).ok_or_else(short)?;
        Ok(Packet { header, options, payload })
    }

    /// Whether the header's checksum fits header and options.
    ///
    /// # Errors
    /// [`Malformed::BadChecksum`].
    #[inline]
    pub fn check_checksum(&self) -> Result<(), Malformed> {
        let mut sum = Sum::new();
        sum.add(self.header.as_bytes());
        sum.add(self.options);
        if sum.is_right() { Ok(()) } else { Err(Malformed::BadChecksum(self.header.checksum())) }
    }
}

/// The contents of a header without options, of a packet that is no fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repr {
    /// The source address.
    pub src: Ipv4Addr,
    /// The destination address.
    pub dst: Ipv4Addr,
    /// What the payload is.
    pub protocol: Protocol,
    /// Hops that the packet may take.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// The identification.
    pub ident: u16,
    /// Whether routers must not cut the packet.
    pub dont_fragment: bool,
    /// Header and payload in octets.
    pub total_len: u16,
}

impl Repr {
    /// Writes the whole header, checksum included.
    #[inline]
    pub fn emit(&self, bytes: &mut [u8; LEN]) {
        put::<{ field::VERSION_IHL }, 2, LEN>(bytes, [0x45, self.tos]);
        put::<{ field::TOTAL_LEN }, 2, LEN>(bytes, self.total_len.to_be_bytes());
        put::<{ field::IDENT }, 2, LEN>(bytes, self.ident.to_be_bytes());
        let fragment = if self.dont_fragment { DF } else { 0 };
        put::<{ field::FRAGMENT }, 2, LEN>(bytes, fragment.to_be_bytes());
        put::<{ field::TTL }, 2, LEN>(bytes, [self.ttl, self.protocol.0]);
        put::<{ field::SRC }, 4, LEN>(bytes, self.src.octets());
        put::<{ field::DST }, 4, LEN>(bytes, self.dst.octets());
        Header::new(bytes).fill_checksum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::Ipv4HeaderSlice;
    use proptest::prelude::*;

    const PACKET: [u8; 24] = [
        0x45, 0xb9, 0x00, 0x18, 0x12, 0x34, 0x40, 0x00, 0x40, 0x11, 0x13, 0xe6, 0x0a, 0x00, 0x00, 0x01, 0x0a,
        0x00, 0x00, 0x02, 0xde, 0xad, 0xbe, 0xef,
    ];

    fn repr() -> Repr {
        Repr {
            src: Ipv4Addr::new(10, 0, 0, 1),
            dst: Ipv4Addr::new(10, 0, 0, 2),
            protocol: Protocol::UDP,
            ttl: 64,
            tos: 0xb9,
            ident: 0x1234,
            dont_fragment: true,
            total_len: 24,
        }
    }

    #[test]
    fn a_packet_is_taken_apart() {
        let packet = Packet::new_checked(&PACKET).unwrap();
        let header = packet.header;
        assert_eq!((header.version(), header.header_len(), header.total_len()), (4, 20, 24));
        assert_eq!((header.tos(), header.ident(), header.ttl()), (0xb9, 0x1234, 64));
        assert_eq!(header.protocol(), Protocol::UDP);
        assert_eq!((header.src(), header.dst()), (repr().src, repr().dst));
        assert!(header.dont_fragment() && !header.is_fragment());
        assert_eq!((packet.options, packet.payload), (&[][..], &[0xde, 0xad, 0xbe, 0xef][..]));
        assert_eq!(packet.check_checksum(), Ok(()));
    }

    #[test]
    fn a_header_is_constructed_over_what_lay_there() {
        let mut bytes = [0xa5; 20];
        repr().emit(&mut bytes);
        assert_eq!(bytes, PACKET[..20]);
        let mut bytes = [0xa5; 20];
        bytes[..2].copy_from_slice(&[0x45, 0]);
        let mut header = Header::new(&mut bytes);
        header.set_tos(0xb9);
        header.set_total_len(24);
        header.set_ident(0x1234);
        header.set_ttl(64);
        header.set_src(repr().src);
        header.set_dst(repr().dst);
        assert_eq!(header.src(), repr().src);
        header.fill_checksum();
        assert_eq!(checksum(header.as_bytes()), 0);
    }

    #[test]
    fn padding_behind_the_total_length_is_not_payload() {
        let mut padded = PACKET.to_vec();
        padded.extend_from_slice(&[0; 22]);
        assert_eq!(Packet::new_checked(&padded).unwrap().payload.len(), 4);
    }

    #[test]
    fn options_are_kept_and_covered_by_the_checksum() {
        let mut bytes = PACKET;
        bytes[0] = 0x46;
        let checksum = checksum(&[&bytes[..10], &[0, 0], &bytes[12..24]].concat());
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        let packet = Packet::new_checked(&bytes).unwrap();
        assert_eq!((packet.options.len(), packet.payload.len()), (4, 0));
        assert_eq!(packet.check_checksum(), Ok(()));
    }

    #[test]
    fn a_packet_that_ends_early_is_truncated() {
        for len in 0..20 {
            assert_eq!(Packet::new_checked(&PACKET[..len]), Err(Malformed::truncated(20, len)));
        }
        for len in 20..24 {
            assert_eq!(Packet::new_checked(&PACKET[..len]), Err(Malformed::truncated(24, len)));
        }
    }

    #[test]
    fn lies_about_version_and_lengths_are_refused() {
        let with = |at: usize, value: u8| {
            let mut bytes = PACKET;
            bytes[at] = value;
            Packet::new_checked(&bytes).map(|_| ()).unwrap_err()
        };
        assert_eq!(with(0, 0x65), Malformed::BadVersion { found: 6, expected: 4 });
        assert_eq!(with(0, 0x44), Malformed::BadHeaderLen { found: 16, least: 20 });
        assert_eq!(with(0, 0x4f), Malformed::BadLength { found: 24, least: 60 });
        assert_eq!(with(3, 19), Malformed::BadLength { found: 19, least: 20 });
        assert_eq!(with(2, 0xff), Malformed::truncated(0xff18, 24));
    }

    #[test]
    fn a_flipped_bit_breaks_the_checksum() {
        for bit in 0..160 {
            let mut bytes = PACKET;
            bytes[bit / 8] ^= 0x80 >> (bit % 8);
            if let Ok(packet) = Packet::new_checked(&bytes) {
                assert_eq!(packet.check_checksum(), Err(Malformed::BadChecksum(packet.header.checksum())));
            }
        }
    }

    #[test]
    fn first_and_later_fragments_are_told_apart() {
        let with = |word: u16| {
            let mut bytes = *PACKET.first_chunk::<20>().unwrap();
            bytes[6..8].copy_from_slice(&word.to_be_bytes());
            let header = Header::new(bytes);
            (header.is_fragment(), header.is_later_fragment())
        };
        assert_eq!(with(DF), (false, false));
        assert_eq!(with(MF), (true, false));
        assert_eq!(with(MF | 1), (true, true));
        assert_eq!(with(185), (true, true));
    }

    proptest! {
        #[test]
        fn what_is_emitted_reads_back_here_and_in_etherparse(
            addresses: (u32, u32), protocol: u8, ttl: u8, tos: u8, ident: u16, dont_fragment: bool, len in 20u16..2000,
        ) {
            let (src, dst) = (Ipv4Addr::from_bits(addresses.0), Ipv4Addr::from_bits(addresses.1));
            let repr = Repr { src, dst, protocol: Protocol(protocol), ttl, tos, ident, dont_fragment, total_len: len };
            let mut bytes = vec![0xa5; len as usize];
            repr.emit(bytes.first_chunk_mut().unwrap());
            let packet = Packet::new_checked(&bytes).unwrap();
            prop_assert_eq!(packet.check_checksum(), Ok(()));
            prop_assert_eq!(packet.payload.len(), len as usize - 20);
            let theirs = Ipv4HeaderSlice::from_slice(&bytes).unwrap();
            prop_assert_eq!(theirs.to_header().calc_header_checksum(), packet.header.checksum());
            prop_assert_eq!(theirs.source_addr(), packet.header.src());
            prop_assert_eq!(theirs.destination_addr(), packet.header.dst());
            prop_assert_eq!(theirs.dcp().value() << 2 | theirs.ecn().value(), packet.header.tos());
            prop_assert_eq!(theirs.identification(), packet.header.ident());
            prop_assert_eq!(theirs.dont_fragment(), packet.header.dont_fragment());
            prop_assert_eq!((theirs.ttl(), theirs.protocol().0), (ttl, protocol));
        }

        #[test]
        fn any_octets_are_a_packet_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..80), lead in 0x44u8..0x48) {
            if let Some(first) = bytes.first_mut() { *first = lead; }
            if let Ok(packet) = Packet::new_checked(&bytes) {
                let _ = packet.check_checksum();
                prop_assert_eq!(20 + packet.options.len() + packet.payload.len(), packet.header.total_len() as usize);
            }
        }
    }
}
