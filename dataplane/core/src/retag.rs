//! What NORMAL does to the outermost VLAN tag when a packet leaves: take off, put in front, renumber.

use weft_io::Packet;
use weft_wire::ethernet::TAG_AT;
use weft_wire::{EtherType, Vid};

use crate::edit::vlan;
use crate::vlan::TagRewrite;

/// Does `rewrite` to the outermost tag. `None`, and nothing changes, when the packet has no such tag or no headroom,
/// which the pipeline and the frame layout rule out.
#[inline]
pub fn retag(packet: &mut Packet, rewrite: TagRewrite) -> Option<()> {
    match rewrite {
        TagRewrite::Keep => Some(()),
        TagRewrite::Pop => vlan::pop(packet),
        TagRewrite::PopUnlessPriority if has_priority(packet)? => set(packet, Vid::NONE),
        TagRewrite::PopUnlessPriority => vlan::pop(packet),
        TagRewrite::Push(vid) => vlan::push(packet, EtherType::VLAN, vid.get()),
        TagRewrite::Set(vid) => set(packet, vid),
    }
}

/// Whether the priority in the outermost tag isn't 0.
#[inline]
fn has_priority(packet: &Packet) -> Option<bool> {
    packet.data().get(TAG_AT + 2).map(|octet| octet & 0xe0 != 0)
}

#[inline]
fn set(packet: &mut Packet, vid: Vid) -> Option<()> {
    let tci = vlan::tci(packet.data_mut())?;
    *tci = (u16::from_be_bytes(*tci) & 0xf000 | vid.get()).to_be_bytes();
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_io::FramePool;

    fn octets(rewrite: TagRewrite, frame: &[u8]) -> Vec<u8> {
        let pool = FramePool::new(FramePool::MIN_FRAMES).unwrap();
        let mut frames = pool.cache();
        let mut packet = frames.alloc().unwrap();
        packet.append(frame).unwrap();
        retag(&mut packet, rewrite).unwrap();
        let octets = packet.data().to_vec();
        frames.free(packet);
        octets
    }

    const UNTAGGED: [u8; 18] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 8, 0, 21, 22, 23, 24];
    const TAGGED: [u8; 22] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x81, 0, 0xb0, 7, 8, 0, 21, 22, 23, 24];

    #[test]
    fn a_tag_goes_between_addresses_and_type_and_comes_off_again() {
        let tagged = octets(TagRewrite::Push(Vid::from_tci(7)), &UNTAGGED);
        assert_eq!(tagged[12..16], [0x81, 0, 0, 7]);
        assert_eq!(octets(TagRewrite::Pop, &tagged), UNTAGGED);
    }

    #[test]
    fn a_tag_with_a_priority_stays_as_a_priority_tag_and_one_without_comes_off() {
        assert_eq!(octets(TagRewrite::PopUnlessPriority, &TAGGED)[12..16], [0x81, 0, 0xb0, 0]);
        let tagged = octets(TagRewrite::Push(Vid::from_tci(7)), &UNTAGGED);
        assert_eq!(octets(TagRewrite::PopUnlessPriority, &tagged), UNTAGGED);
    }

    #[test]
    fn renumbering_keeps_priority_and_dei() {
        let renumbered = octets(TagRewrite::Set(Vid::from_tci(0xabc)), &TAGGED);
        assert_eq!(renumbered[12..16], [0x81, 0, 0xba, 0xbc]);
        assert_eq!((&renumbered[..12], &renumbered[16..]), (&TAGGED[..12], &TAGGED[16..]));
    }
}
