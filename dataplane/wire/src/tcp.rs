//! TCP headers (RFC 9293, section 3.1).

use crate::Malformed;
use crate::checksum::Sum;
use crate::view::{get, header_view, put};

/// The nine flags of a header (RFC 9293, section 3.1; NS was RFC 3540's and is kept as it comes).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[repr(transparent)]
pub struct Flags(pub u16);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x001);
    /// Synchronise sequence numbers.
    pub const SYN: Flags = Flags(0x002);
    /// Reset the connection.
    pub const RST: Flags = Flags(0x004);
    /// Push.
    pub const PSH: Flags = Flags(0x008);
    /// The acknowledgement number counts.
    pub const ACK: Flags = Flags(0x010);
    /// The urgent pointer counts.
    pub const URG: Flags = Flags(0x020);
    /// ECN-Echo (RFC 3168).
    pub const ECE: Flags = Flags(0x040);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Flags = Flags(0x080);
    /// Every flag.
    pub const ALL: Flags = Flags(0x1ff);

    /// Whether each flag of `other` is set.
    #[inline]
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags of both.
    #[inline]
    pub const fn union(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

mod field {
    pub const SRC_PORT: usize = 0;
    pub const DST_PORT: usize = 2;
    pub const SEQ: usize = 4;
    pub const ACK: usize = 8;
    pub const OFFSET_FLAGS: usize = 12;
    pub const WINDOW: usize = 14;
    pub const CHECKSUM: usize = 16;
    pub const URGENT: usize = 18;
}

/// The options of a header (RFC 9293, section 3.1), taken apart. They end with the list's own end, or with the first one
/// that has no room: every step goes on by an octet at least.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Options<'a> {
    /// End of the list.
    const END: u8 = 0;
    /// No operation: an octet by itself.
    const NOTHING: u8 = 1;
    /// Window scale (RFC 7323, section 2).
    pub const WINDOW_SCALE: u8 = 3;
    /// Selective acknowledgements (RFC 2018, section 3).
    pub const SACK: u8 = 5;

    /// What lies between the fixed part of a header and its data.
    pub const fn new(all: &'a [u8]) -> Self {
        Options { all, at: 0 }
    }
}

impl<'a> Iterator for Options<'a> {
    /// An option's kind, where its data starts among the options, and its data.
    type Item = (u8, usize, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = self.all.get(self.at..)?;
            match *rest {
                [Self::NOTHING, ..] => self.at += 1,
                [Self::END, ..] => return None,
                [kind, len, ..] => {
                    let data = rest.get(2..usize::from(len))?;
                    let start = self.at + 2;
                    self.at += usize::from(len);
                    return Some((kind, start, data));
                }
                _ => return None,
            }
        }
    }
}

/// Where the checksum stands, in octets from the start of the header.
pub const CHECKSUM_AT: usize = field::CHECKSUM;

header_view! {
    /// The fixed part of the header, 20 octets.
    20
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

    /// The sequence number of the first octet, or of SYN.
    #[inline]
    pub fn seq(&self) -> u32 {
        u32::from_be_bytes(get::<{ field::SEQ }, 4, LEN>(self.as_bytes()))
    }

    /// The next sequence number that the sender expects.
    #[inline]
    pub fn ack(&self) -> u32 {
        u32::from_be_bytes(get::<{ field::ACK }, 4, LEN>(self.as_bytes()))
    }

    #[inline]
    fn offset_flags(&self) -> u16 {
        u16::from_be_bytes(get::<{ field::OFFSET_FLAGS }, 2, LEN>(self.as_bytes()))
    }

    /// The length of fixed part and options in octets, 0 to 60 as stated.
    #[inline]
    pub fn header_len(&self) -> usize {
        (self.offset_flags() >> 12) as usize * 4
    }

    /// The flags.
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags(self.offset_flags() & Flags::ALL.0)
    }

    /// The receive window, unscaled.
    #[inline]
    pub fn window(&self) -> u16 {
        u16::from_be_bytes(get::<{ field::WINDOW }, 2, LEN>(self.as_bytes()))
    }

    /// The checksum.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes(get::<{ field::CHECKSUM }, 2, LEN>(self.as_bytes()))
    }

    /// The urgent pointer.
    #[inline]
    pub fn urgent(&self) -> u16 {
        u16::from_be_bytes(get::<{ field::URGENT }, 2, LEN>(self.as_bytes()))
    }

    /// Holds the stated header length to the `available` octets from this header's first one on.
    ///
    /// # Errors
    /// [`Malformed::BadHeaderLen`] or `Truncated`.
    #[inline]
    pub fn check(&self, available: usize) -> Result<(), Malformed> {
        let header = self.header_len();
        if header < LEN {
            return Err(Malformed::BadHeaderLen { found: header as u8, least: LEN as u8 });
        }
        if header > available { Err(Malformed::truncated(header, available)) } else { Ok(()) }
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

    /// Writes the sequence number.
    #[inline]
    pub fn set_seq(&mut self, seq: u32) {
        put::<{ field::SEQ }, 4, LEN>(self.as_bytes_mut(), seq.to_be_bytes());
    }

    /// Writes the acknowledgement number.
    #[inline]
    pub fn set_ack(&mut self, ack: u32) {
        put::<{ field::ACK }, 4, LEN>(self.as_bytes_mut(), ack.to_be_bytes());
    }

    /// Writes header length (octets, cut to a multiple of 4 below 64) and flags; the reserved bits become 0.
    #[inline]
    pub fn set_header_len_and_flags(&mut self, octets: usize, flags: Flags) {
        let word = (octets as u16 / 4) << 12 | flags.0 & Flags::ALL.0;
        put::<{ field::OFFSET_FLAGS }, 2, LEN>(self.as_bytes_mut(), word.to_be_bytes());
    }

    /// Takes flags away; all else stays.
    #[inline]
    pub fn clear_flags(&mut self, flags: Flags) {
        let word = self.offset_flags() & !(flags.0 & Flags::ALL.0);
        put::<{ field::OFFSET_FLAGS }, 2, LEN>(self.as_bytes_mut(), word.to_be_bytes());
    }

    /// Writes the receive window.
    #[inline]
    pub fn set_window(&mut self, window: u16) {
        put::<{ field::WINDOW }, 2, LEN>(self.as_bytes_mut(), window.to_be_bytes());
    }

    /// Writes the checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put::<{ field::CHECKSUM }, 2, LEN>(self.as_bytes_mut(), checksum.to_be_bytes());
    }

    /// Writes the urgent pointer.
    #[inline]
    pub fn set_urgent(&mut self, pointer: u16) {
        put::<{ field::URGENT }, 2, LEN>(self.as_bytes_mut(), pointer.to_be_bytes());
    }
}

/// A TCP packet whose header length holds.
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
    /// The packet that fills `buffer`.
    ///
    /// # Errors
    /// As [`Header::check`].
    #[inline]
    pub fn new_checked(buffer: &'a [u8]) -> Result<Self, Malformed> {
        let (header, behind) = Header::split(buffer)?;
        header.check(buffer.len())?;
        let need = header.header_len();
        let short = || Malformed::truncated(need, buffer.len());
        let (options, payload) = behind.split_at_checked(need - LEN).ok_or_else(short)?;
        Ok(Packet { header, options, payload })
    }

    /// Whether the checksum fits; `pseudo` is the pseudo-header's sum.
    ///
    /// # Errors
    /// [`Malformed::BadChecksum`].
    #[inline]
    pub fn check_checksum(&self, pseudo: Sum) -> Result<(), Malformed> {
        let mut sum = pseudo;
        [self.header.as_bytes(), self.options, self.payload].into_iter().for_each(|piece| sum.add(piece));
        if sum.is_right() { Ok(()) } else { Err(Malformed::BadChecksum(self.header.checksum())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum;
    use etherparse::{TcpHeader, TcpSlice};
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const PACKET: [u8; 26] = [
        0xbf, 0x00, 0x00, 0x50, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x60, 0x12, 0x01, 0x23, 0x12,
        0x34, 0x00, 0x07, 0x02, 0x04, 0x05, 0xb4, 0xaa, 0xff,
    ];

    #[test]
    fn a_packet_is_taken_apart() {
        let packet = Packet::new_checked(&PACKET).unwrap();
        let header = packet.header;
        assert_eq!((header.src_port(), header.dst_port()), (48896, 80));
        assert_eq!((header.seq(), header.ack()), (0x0123_4567, 0x89ab_cdef));
        assert_eq!((header.header_len(), header.flags()), (24, Flags::SYN.union(Flags::ACK)));
        assert_eq!((header.window(), header.checksum(), header.urgent()), (0x123, 0x1234, 7));
        assert_eq!((packet.options, packet.payload), (&[2, 4, 5, 0xb4][..], &[0xaa, 0xff][..]));
        assert!(header.flags().contains(Flags::ACK) && !header.flags().contains(Flags::FIN));
    }

    #[test]
    fn a_header_is_constructed_over_what_lay_there() {
        let mut bytes = [0xa5; 26];
        let (mut header, rest) = Header::split_mut(&mut bytes).unwrap();
        header.set_src_port(48896);
        header.set_dst_port(80);
        header.set_seq(0x0123_4567);
        header.set_ack(0x89ab_cdef);
        header.set_header_len_and_flags(24, Flags::SYN.union(Flags::ACK));
        header.set_window(0x123);
        header.set_checksum(0x1234);
        header.set_urgent(7);
        rest.copy_from_slice(&PACKET[20..]);
        assert_eq!(bytes, PACKET);
    }

    #[test]
    fn flags_are_taken_away_and_nothing_else_changes() {
        let mut bytes = [0xff; LEN];
        Header::new(&mut bytes).clear_flags(Flags::FIN.union(Flags::CWR));
        let mut expected = [0xff; LEN];
        expected[13] = 0x7e;
        assert_eq!(bytes, expected);
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
    fn a_header_length_below_twenty_is_refused() {
        for words in 0..5u8 {
            let mut bytes = PACKET;
            bytes[12] = words << 4;
            let error = Malformed::BadHeaderLen { found: words * 4, least: 20 };
            assert_eq!(Packet::new_checked(&bytes), Err(error));
        }
    }

    #[test]
    fn options_are_taken_apart_until_one_has_no_room() {
        let all = [1, 3, 3, 7, 1, 1, 5, 10, 1, 2, 3, 4, 5, 6, 7, 8, 0, 3, 3, 9];
        let found: Vec<_> = Options::new(&all).collect();
        assert_eq!(found, [(3, 3, &[7][..]), (5, 8, &[1, 2, 3, 4, 5, 6, 7, 8])]);
        for broken in [&[3][..], &[3, 0, 7], &[3, 1, 7], &[3, 4, 7], &[1, 1, 1, 8]] {
            assert_eq!(Options::new(broken).count(), 0, "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_options_that_end(octets in prop::collection::vec(any::<u8>(), 0..60)) {
            for (_, start, data) in Options::new(&octets) {
                prop_assert_eq!(&octets[start..start + data.len()], data);
            }
        }

        #[test]
        fn fields_and_checksum_equal_those_of_etherparse(
            fixed: [u8; 20], words in 5usize..16, tail in prop::collection::vec(any::<u8>(), 40..100),
            addresses: (u32, u32),
        ) {
            let mut bytes = [&fixed[..], &tail].concat();
            bytes[12] = (words as u8) << 4 | bytes[12] & 1;
            let packet = Packet::new_checked(&bytes).unwrap();
            let (header, theirs) = (packet.header, TcpSlice::from_slice(&bytes).unwrap());
            prop_assert_eq!(theirs.source_port(), header.src_port());
            prop_assert_eq!(theirs.destination_port(), header.dst_port());
            prop_assert_eq!(theirs.sequence_number(), header.seq());
            prop_assert_eq!(theirs.acknowledgment_number(), header.ack());
            prop_assert_eq!(theirs.window_size(), header.window());
            prop_assert_eq!(theirs.urgent_pointer(), header.urgent());
            prop_assert_eq!(theirs.payload(), packet.payload);
            prop_assert_eq!(theirs.options(), packet.options);
            prop_assert_eq!(theirs.syn(), header.flags().contains(Flags::SYN));
            prop_assert_eq!(theirs.rst(), header.flags().contains(Flags::RST));
            let (src, dst) = (Ipv4Addr::from_bits(addresses.0), Ipv4Addr::from_bits(addresses.1));
            let full: TcpHeader = theirs.to_header();
            let checksum = full.calc_checksum_ipv4_raw(src.octets(), dst.octets(), packet.payload).unwrap();
            let pseudo = checksum::pseudo_v4(src, dst, 6, bytes.len() as u16);
            Header::split_mut(&mut bytes).unwrap().0.set_checksum(checksum);
            prop_assert_eq!(Packet::new_checked(&bytes).unwrap().check_checksum(pseudo), Ok(()));
            Header::split_mut(&mut bytes).unwrap().0.set_checksum(checksum ^ 1);
            let wrong = Packet::new_checked(&bytes).unwrap().check_checksum(pseudo);
            prop_assert_eq!(wrong, Err(Malformed::BadChecksum(checksum ^ 1)));
        }

        #[test]
        fn any_octets_are_a_packet_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Packet::new_checked(&bytes).map(|packet| packet.check_checksum(Sum::new()));
        }
    }
}
