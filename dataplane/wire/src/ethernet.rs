//! Ethernet II frames (IEEE 802.3, clause 3) and their VLAN tags (IEEE 802.1Q-2018, clause 9; 802.1ad's S-tag has the
//! same form with another TPID).
//!
//! A tag stands between the source address and the EtherType. [`push_tag`] and [`pop_tag`] move the two addresses over
//! it, so that a frame with headroom gains or loses a tag without its payload moving.

use std::fmt;

use crate::view::{get, header_view, put};
use crate::{Mac, Malformed, Tci};

/// An EtherType (IEEE 802.3, clause 3.2.6). Each number is legal; those that weft knows have names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(transparent)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IPV4: EtherType = EtherType(0x0800);
    /// ARP (RFC 826).
    pub const ARP: EtherType = EtherType(0x0806);
    /// Transparent Ethernet bridging: an Ethernet frame, as GRE carries it.
    pub const TEB: EtherType = EtherType(0x6558);
    /// A C-tag, the usual VLAN tag (IEEE 802.1Q).
    pub const VLAN: EtherType = EtherType(0x8100);
    /// IPv6 (RFC 2464).
    pub const IPV6: EtherType = EtherType(0x86dd);
    /// An S-tag (IEEE 802.1ad).
    pub const SVLAN: EtherType = EtherType(0x88a8);
    /// Reverse ARP (RFC 903).
    pub const RARP: EtherType = EtherType(0x8035);
    /// MPLS, unicast (RFC 5332).
    pub const MPLS: EtherType = EtherType(0x8847);
    /// MPLS, multicast (RFC 5332).
    pub const MPLS_MULTICAST: EtherType = EtherType(0x8848);
    /// No type at all, of 802.2 frames that give none: Open vSwitch's number for them.
    pub const NONE: EtherType = EtherType(0x05ff);
    /// Numbers below are not types but the length of an 802.3 frame's payload.
    pub const MIN: EtherType = EtherType(0x0600);

    /// Whether it announces a VLAN tag.
    #[inline]
    pub const fn is_tag(self) -> bool {
        self.0 == Self::VLAN.0 || self.0 == Self::SVLAN.0
    }

    /// Whether it announces MPLS labels.
    #[inline]
    pub const fn is_mpls(self) -> bool {
        self.0 == Self::MPLS.0 || self.0 == Self::MPLS_MULTICAST.0
    }
}

impl fmt::Display for EtherType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:#06x}", self.0)
    }
}

mod field {
    pub const DST: usize = 0;
    pub const SRC: usize = 6;
    pub const ETHERTYPE: usize = 12;
}

/// Where a tag begins, in octets from the start of the frame.
pub const TAG_AT: usize = field::ETHERTYPE;
/// The length of a tag in octets.
pub const TAG_LEN: usize = 4;

header_view! {
    /// The addresses and the EtherType that follows them; in a tagged frame that is the TPID.
    14
}

impl<B: std::borrow::Borrow<[u8; LEN]>> Header<B> {
    /// The destination address.
    #[inline]
    pub fn dst(&self) -> Mac {
        Mac(get::<{ field::DST }, 6, LEN>(self.as_bytes()))
    }

    /// The source address.
    #[inline]
    pub fn src(&self) -> Mac {
        Mac(get::<{ field::SRC }, 6, LEN>(self.as_bytes()))
    }

    /// The EtherType, or a tag's TPID.
    #[inline]
    pub fn ethertype(&self) -> EtherType {
        EtherType(u16::from_be_bytes(get::<{ field::ETHERTYPE }, 2, LEN>(self.as_bytes())))
    }
}

impl<B: std::borrow::BorrowMut<[u8; LEN]>> Header<B> {
    /// Writes the destination address.
    #[inline]
    pub fn set_dst(&mut self, mac: Mac) {
        put::<{ field::DST }, 6, LEN>(self.as_bytes_mut(), mac.0);
    }

    /// Writes the source address.
    #[inline]
    pub fn set_src(&mut self, mac: Mac) {
        put::<{ field::SRC }, 6, LEN>(self.as_bytes_mut(), mac.0);
    }

    /// Writes the EtherType.
    #[inline]
    pub fn set_ethertype(&mut self, ethertype: EtherType) {
        put::<{ field::ETHERTYPE }, 2, LEN>(self.as_bytes_mut(), ethertype.0.to_be_bytes());
    }
}

/// What a frame's Ethernet header says, its outermost tag taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// The destination address.
    pub dst: Mac,
    /// The source address.
    pub src: Mac,
    /// The outermost tag's TPID; 0 when untagged.
    pub tpid: EtherType,
    /// The outermost tag; [`Tci::UNTAGGED`] when there is none.
    pub tci: Tci,
    /// The EtherType behind the outermost tag: that of an inner tag, where there is one.
    pub ethertype: EtherType,
    /// What follows that EtherType.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes the header and at most one tag apart, as Open vSwitch does by default (`vlan-limit` 1).
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when the frame ends before the EtherType that the payload needs.
    #[inline]
    pub fn new_checked(frame: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = Header::split(frame)?;
        let (dst, src, first) = (header.dst(), header.src(), header.ethertype());
        if !first.is_tag() {
            return Ok(Frame {
                dst,
                src,
                tpid: EtherType(0),
                tci: Tci::UNTAGGED,
                ethertype: first,
                payload: rest,
            });
        }
        let (tci, ethertype, payload) =
            split_tag(rest).ok_or_else(|| Malformed::truncated(LEN + TAG_LEN, frame.len()))?;
        Ok(Frame { dst, src, tpid: first, tci: Tci::from_wire(tci), ethertype, payload })
    }
}

/// What follows a TPID: the tag's control information as on the wire (DEI in bit 12), the next EtherType, the rest.
/// `None` when the octets end before. Serves for each tag of a stack.
#[inline]
pub fn split_tag(behind_tpid: &[u8]) -> Option<(u16, EtherType, &[u8])> {
    let (&[a, b, c, d], rest) = behind_tpid.split_first_chunk()?;
    Some((u16::from_be_bytes([a, b]), EtherType(u16::from_be_bytes([c, d])), rest))
}

/// The 16 octets that [`push_tag`] and [`pop_tag`] work on: the two addresses and the place of one tag.
pub const TAG_WINDOW: usize = TAG_AT + TAG_LEN;

/// Pushes a tag: `window` is 4 octets of headroom and the frame's two addresses, and becomes the addresses and the tag.
/// The frame then begins 4 octets earlier. `tci` is as on the wire.
#[inline]
pub fn push_tag(window: &mut [u8; TAG_WINDOW], tpid: EtherType, tci: u16) {
    let addresses = get::<TAG_LEN, TAG_AT, TAG_WINDOW>(window);
    put::<0, TAG_AT, TAG_WINDOW>(window, addresses);
    put::<TAG_AT, 2, TAG_WINDOW>(window, tpid.0.to_be_bytes());
    put::<{ TAG_AT + 2 }, 2, TAG_WINDOW>(window, tci.to_be_bytes());
}

/// Pops a tag: `window` is the first 16 octets of a tagged frame, the addresses and the tag. The addresses move over the
/// tag; the frame then begins 4 octets later. Returns TPID and control information as on the wire.
#[inline]
pub fn pop_tag(window: &mut [u8; TAG_WINDOW]) -> (EtherType, u16) {
    let tpid = EtherType(u16::from_be_bytes(get::<TAG_AT, 2, TAG_WINDOW>(window)));
    let tci = u16::from_be_bytes(get::<{ TAG_AT + 2 }, 2, TAG_WINDOW>(window));
    let addresses = get::<0, TAG_AT, TAG_WINDOW>(window);
    put::<TAG_LEN, TAG_AT, TAG_WINDOW>(window, addresses);
    (tpid, tci)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Ethernet2Slice, SingleVlanSlice};
    use proptest::prelude::*;

    const UNTAGGED: [u8; 16] =
        [0x02, 0x00, 0x00, 0x00, 0x00, 0x02, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x08, 0x00, 0xde, 0xad];
    const TAGGED: [u8; 20] = [
        0x02, 0x00, 0x00, 0x00, 0x00, 0x02, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x81, 0x00, 0xa0, 0x64, 0x08,
        0x00, 0xde, 0xad,
    ];

    #[test]
    fn an_untagged_frame_is_taken_apart() {
        let frame = Frame::new_checked(&UNTAGGED).unwrap();
        assert_eq!(frame.dst.to_string(), "02:00:00:00:00:02");
        assert_eq!(frame.src.to_string(), "02:00:00:00:00:01");
        assert_eq!((frame.tpid, frame.tci), (EtherType(0), Tci::UNTAGGED));
        assert_eq!((frame.ethertype, frame.payload), (EtherType::IPV4, &[0xde, 0xad][..]));
    }

    #[test]
    fn a_tagged_frame_shows_its_tag_and_the_type_behind_it() {
        let frame = Frame::new_checked(&TAGGED).unwrap();
        assert_eq!((frame.tpid, frame.tci), (EtherType::VLAN, Tci::from_wire(0xa064)));
        assert_eq!((frame.tci.vid().get(), frame.tci.pcp()), (100, 5));
        assert_eq!((frame.ethertype, frame.payload), (EtherType::IPV4, &[0xde, 0xad][..]));
    }

    #[test]
    fn a_stack_of_tags_is_taken_apart_one_by_one() {
        let mut frame = UNTAGGED[..12].to_vec();
        frame.extend_from_slice(&[0x88, 0xa8, 0x00, 0x0a, 0x81, 0x00, 0x00, 0x14, 0x86, 0xdd, 0x60]);
        let outer = Frame::new_checked(&frame).unwrap();
        assert_eq!((outer.tpid, outer.tci.vid().get()), (EtherType::SVLAN, 10));
        assert_eq!(outer.ethertype, EtherType::VLAN);
        assert_eq!(split_tag(outer.payload), Some((20, EtherType::IPV6, &[0x60][..])));
        assert_eq!(split_tag(&[0, 1, 2]), None);
    }

    #[test]
    fn a_frame_that_ends_within_its_header_or_tag_is_truncated() {
        for len in 0..14 {
            assert_eq!(Frame::new_checked(&TAGGED[..len]), Err(Malformed::truncated(14, len)));
        }
        for len in 14..18 {
            assert_eq!(Frame::new_checked(&TAGGED[..len]), Err(Malformed::truncated(18, len)));
        }
        assert!(Frame::new_checked(&TAGGED[..18]).is_ok());
        assert!(Frame::new_checked(&UNTAGGED[..14]).is_ok());
    }

    #[test]
    fn a_header_is_constructed_over_what_lay_there() {
        let mut buffer = [0xa5; 16];
        let (mut header, rest) = Header::split_mut(&mut buffer).unwrap();
        header.set_dst(Mac([2, 0, 0, 0, 0, 2]));
        header.set_src(Mac([2, 0, 0, 0, 0, 1]));
        header.set_ethertype(EtherType::IPV4);
        rest.copy_from_slice(&[0xde, 0xad]);
        assert_eq!(buffer, UNTAGGED);
    }

    #[test]
    fn push_uses_four_octets_of_headroom_and_pop_gives_them_back() {
        let mut buffer = [0xa5; 20];
        buffer[4..].copy_from_slice(&UNTAGGED);
        push_tag(buffer.first_chunk_mut().unwrap(), EtherType::VLAN, 0xa064);
        assert_eq!(buffer, TAGGED);
        assert_eq!(pop_tag(buffer.first_chunk_mut().unwrap()), (EtherType::VLAN, 0xa064));
        assert_eq!(buffer[4..], UNTAGGED);
    }

    proptest! {
        #[test]
        fn fields_equal_those_that_etherparse_reads(bytes: [u8; 18]) {
            let ours = Header::split(&bytes).unwrap().0;
            let theirs = Ethernet2Slice::from_slice_without_fcs(&bytes).unwrap();
            prop_assert_eq!(ours.dst().0, theirs.destination());
            prop_assert_eq!(ours.src().0, theirs.source());
            prop_assert_eq!(ours.ethertype().0, theirs.ether_type().0);
            let tag = SingleVlanSlice::from_slice(&bytes[14..]).unwrap();
            let (tci, ethertype, _) = split_tag(&bytes[14..]).unwrap();
            prop_assert_eq!(Tci::from_wire(tci).vid().get(), tag.vlan_identifier().value());
            prop_assert_eq!(Tci::from_wire(tci).pcp(), tag.priority_code_point().value());
            prop_assert_eq!(ethertype.0, tag.ether_type().0);
        }

        #[test]
        fn any_octets_are_a_frame_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Frame::new_checked(&bytes);
        }
    }
}
