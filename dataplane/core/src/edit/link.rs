//! Ethernet addresses, tags and MPLS labels.

use weft_io::Packet;
use weft_wire::ethernet::{TAG_AT, TAG_LEN};
use weft_wire::{DropReason, EtherType, Tci};

use super::{Masked, Values, vlan};
use crate::parse;

/// Octets of a label stack entry.
const ENTRY: usize = 4;
/// A label stack entry's time to live (RFC 3032, section 2.1).
const TTL: u32 = 0xff;

/// Destination and source, each in the upper 48 bits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Addresses {
    destination: Masked<u64>,
    source: Masked<u64>,
}

impl Addresses {
    pub(super) fn new(values: &Values) -> Option<Self> {
        let (destination, source) = (values.address(0), values.address(1));
        let any = !destination.is_none() || !source.is_none();
        any.then_some(Addresses { destination, source })
    }

    #[inline]
    pub(super) fn apply(&self, frame: &mut [u8]) -> Result<(), DropReason> {
        let head: &mut [u8; 14] = frame.first_chunk_mut().ok_or(DropReason::Malformed)?;
        // Two writes that overlap, as in `parse::ethernet`; the other address and the type are outside of their masks.
        if let Some(front) = head.first_chunk_mut() {
            *front = self.destination.of(u64::from_be_bytes(*front)).to_be_bytes();
        }
        if let Some(back) = head.last_chunk_mut() {
            *back = self.source.of(u64::from_be_bytes(*back)).to_be_bytes();
        }
        Ok(())
    }
}

/// VLAN and priority of the outermost tag.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Tag(Masked<u16>);

impl Tag {
    pub(super) fn new(values: &Values) -> Option<Self> {
        let tci = values.short(1, 0, !Tci::PRESENT);
        (!tci.is_none()).then_some(Tag(tci))
    }

    #[inline]
    pub(super) fn apply(&self, frame: &mut [u8]) -> Result<(), DropReason> {
        if is_tagged(frame) {
            let tci = vlan::tci(frame).ok_or(DropReason::Malformed)?;
            *tci = self.0.of(u16::from_be_bytes(*tci)).to_be_bytes();
        }
        Ok(())
    }
}

#[inline]
fn is_tagged(frame: &[u8]) -> bool {
    parse::be16(frame, TAG_AT).is_some_and(|tpid| EtherType(tpid).is_tag())
}

#[inline]
pub(super) fn pop_vlan(packet: &mut Packet) -> Result<(), DropReason> {
    if is_tagged(packet.data()) {
        // What follows the tag has a type, too.
        if packet.len() < TAG_AT + TAG_LEN + 2 {
            return Err(DropReason::Malformed);
        }
        vlan::pop(packet).ok_or(DropReason::Malformed)?;
    }
    Ok(())
}

/// The first three label stack entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Labels([Masked<u32>; 3]);

impl Labels {
    pub(super) fn new(values: &Values) -> Option<Self> {
        let entries =
            [values.part(11, 32, u32::MAX), values.part(15, 32, u32::MAX), values.part(15, 0, u32::MAX)];
        (!entries.iter().all(|entry| entry.is_none())).then_some(Labels(entries))
    }

    #[inline]
    pub(super) fn apply(&self, frame: &mut [u8]) -> Result<(), DropReason> {
        let Some(at) = stack(frame) else { return Ok(()) };
        let entries = frame.get_mut(at..).unwrap_or_default().as_chunks_mut::<ENTRY>().0;
        for (entry, masked) in entries.iter_mut().zip(&self.0) {
            *entry = masked.of(u32::from_be_bytes(*entry)).to_be_bytes();
        }
        Ok(())
    }
}

/// Where the label stack starts, if that is what is behind the tags.
#[inline]
fn stack(frame: &[u8]) -> Option<usize> {
    let link = parse::behind_tags(frame)?;
    link.ether_type.is_mpls().then_some(link.at)
}

/// The outermost label stack entry, if that is what is behind the tags.
#[inline]
fn outermost(frame: &mut [u8]) -> Result<Option<&mut [u8; ENTRY]>, DropReason> {
    let Some(at) = stack(frame) else { return Ok(None) };
    let entry = frame.get_mut(at..).and_then(<[u8]>::first_chunk_mut);
    entry.map(Some).ok_or(DropReason::Malformed)
}

pub(super) fn decrement_ttl(frame: &mut [u8]) -> Result<(), DropReason> {
    if let Some(entry) = outermost(frame)? {
        let old = u32::from_be_bytes(*entry);
        if old & TTL <= 1 {
            return Err(DropReason::TtlExpired);
        }
        *entry = (old - 1).to_be_bytes();
    }
    Ok(())
}

/// What is in front of the label moves over it, and gets another type.
pub(super) fn pop_mpls(packet: &mut Packet, ether_type: EtherType) -> Result<(), DropReason> {
    let frame = packet.data_mut();
    if outermost(frame)?.is_some()
        && let Some(at) = stack(frame)
    {
        set_type(frame, at, ether_type);
        frame.copy_within(..at, ENTRY);
        packet.pull_front(ENTRY).ok_or(DropReason::Malformed)?;
    }
    Ok(())
}

/// What is in front of the label moves away from the rest, and gets another type. An 802.2 header stays in front.
pub(super) fn push_mpls(packet: &mut Packet, ether_type: EtherType, entry: u32) -> Result<(), DropReason> {
    let Some(at) = parse::behind_tags(packet.data()).map(|link| link.at) else { return Ok(()) };
    if packet.len() < at {
        return Err(DropReason::Malformed);
    }
    let frame = packet.push_front(ENTRY).ok_or(DropReason::NoHeadroom)?;
    frame.copy_within(ENTRY..ENTRY + at, 0);
    set_type(frame, at, ether_type);
    if let Some(place) = frame.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = entry.to_be_bytes();
    }
    Ok(())
}

/// The type of what starts at `at`: the two octets in front of it.
#[inline]
fn set_type(frame: &mut [u8], at: usize, ether_type: EtherType) {
    if let Some(place) = frame.get_mut(at - 2..).and_then(<[u8]>::first_chunk_mut) {
        *place = ether_type.0.to_be_bytes();
    }
}
