//! VLAN tags on a packet: take off, put in front, change (IEEE 802.1Q-2018, section 9).

use weft_io::Packet;
use weft_wire::EtherType;
use weft_wire::ethernet::{self, TAG_AT, TAG_LEN, TAG_WINDOW};

/// The bit of a tag that says that the frame may be dropped first, which is in no key.
pub(crate) const DEI: u16 = 0x1000;

/// Takes the four octets behind the addresses off. `None` when the packet ends before.
#[inline]
pub(crate) fn pop(packet: &mut Packet) -> Option<()> {
    ethernet::pop_tag(packet.data_mut().first_chunk_mut::<TAG_WINDOW>()?);
    packet.pull_front(TAG_LEN)
}

/// Puts a tag behind the addresses. `None` when there is no headroom.
#[inline]
pub(crate) fn push(packet: &mut Packet, tpid: EtherType, tci: u16) -> Option<()> {
    let window = packet.push_front(TAG_LEN)?.first_chunk_mut::<TAG_WINDOW>()?;
    ethernet::push_tag(window, tpid, tci);
    Some(())
}

/// The 16 bits behind the TPID of the outermost tag, which is there.
#[inline]
pub(crate) fn tci(frame: &mut [u8]) -> Option<&mut [u8; 2]> {
    frame.get_mut(TAG_AT + 2..TAG_WINDOW)?.first_chunk_mut()
}
