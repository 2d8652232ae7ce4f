//! Edits: what actions change in a packet's headers.
//!
//! A walk leaves a list of [`Edit`]s, in the order in which they happen. [`Edits::new`] compiles them once, when the
//! program is made: values for fields become one patch for each layer (`link.rs`, `network.rs`, `transport.rs`), and
//! fields that are set one after the other, one patch. [`apply`] runs them on each packet, in one pass over its headers:
//! where a layer starts is looked for only if something there changes, and each checksum is updated once, from what has
//! changed (RFC 1624).
//!
//! What always holds:
//! * A header that isn't there, isn't whole, or isn't what the field belongs to is not changed: the rule's match has asked
//!   for the field's prerequisites, and a packet that has the right type and is broken behind it leaves as it came. The
//!   same reader finds headers for keys and for edits ([`crate::parse`]).
//! * A right checksum stays right, a wrong one stays wrong, and an unfinished one ([`Offload`]) stays unfinished.
//! * Octets behind the head frame are neither written nor read. A header that goes on behind the head frame is
//!   [`DropReason::Malformed`].
//!
//! [`nat`] gives a packet the ends that its connection's translation says, by the same code.
//!
//! Owner: the programs of one worker hold compiled edits; nobody changes them.

mod link;
pub mod nat;
mod network;
pub mod remark;
pub mod stream;
mod transport;
pub(crate) mod vlan;

use std::ops::Not;

use weft_flow::Term;
use weft_flow::fields::KEY_WORDS;
use weft_io::{FrameCache, Offload, Packet, offload};
use weft_wire::{DropReason, EtherType};

use crate::retag::retag;
use crate::vlan::TagRewrite;
use link::{Addresses, Labels, Tag};
use network::Patch;

/// One change to a packet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Edit {
    /// Header fields get values, bit by bit: terms on the words of a key (`weft_flow::fields`).
    ///
    /// Where fields share bits (addresses of IPv4, IPv6 and ARP; ports and ICMP's type), the packet's own type decides which
    /// of them is meant. Of word 1's tag, VLAN and priority count, if there is a tag. No effect have the ingress, the
    /// tunnel's words (they are an outer header's), EtherType, second tag, fragment bits, and TCP flags.
    Set(Box<[Term]>),
    /// Takes the outermost tag off, if there is one.
    PopVlan,
    /// Puts a tag in front. DEI is 0, whatever `tci` says.
    PushVlan {
        /// [`EtherType::VLAN`] or [`EtherType::SVLAN`].
        tpid: EtherType,
        /// Priority and VLAN, as on the wire.
        tci: u16,
    },
    /// What NORMAL does to the outermost tag.
    Retag(TagRewrite),
    /// Takes the outermost label off, if there is one.
    PopMpls {
        /// The type of what is behind it.
        ether_type: EtherType,
    },
    /// Puts a label between the tags and the rest.
    PushMpls {
        /// [`EtherType::MPLS`] or [`EtherType::MPLS_MULTICAST`].
        ether_type: EtherType,
        /// The whole label stack entry (RFC 3032, section 2.1): label, traffic class, bottom of stack, TTL.
        entry: u32,
    },
    /// Takes one off IPv4's TTL or IPv6's hop limit. A packet that has 1 or 0 is [`DropReason::TtlExpired`].
    DecTtl,
    /// Takes one off the outermost label's TTL. A packet that has 1 or 0 is [`DropReason::TtlExpired`].
    DecMplsTtl,
    /// Cuts the packet to at most so many octets. What was still to be done to it (checksum, segmentation) is done or
    /// forgotten: it leaves as one frame.
    Truncate(u16),
}

/// Compiled edits. See the module's text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Edits(Box<[Step]>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    Addresses(Addresses),
    Tag(Tag),
    Labels(Labels),
    Patch(Box<Patch>),
    PopVlan,
    PushVlan(EtherType, u16),
    Retag(TagRewrite),
    PopMpls(EtherType),
    PushMpls(EtherType, u32),
    DecTtl,
    DecMplsTtl,
    Truncate(usize),
}

impl Edits {
    /// Compiles `edits`.
    pub fn new(edits: &[Edit]) -> Edits {
        let (mut steps, mut pending) = (Vec::new(), Values::default());
        for edit in edits {
            if let Edit::Set(terms) = edit {
                pending.add(terms);
                continue;
            }
            pending.flush(&mut steps);
            steps.push(match *edit {
                Edit::Set(_) => continue,
                Edit::PopVlan => Step::PopVlan,
                Edit::PushVlan { tpid, tci } => Step::PushVlan(tpid, tci & !vlan::DEI),
                Edit::Retag(rewrite) => Step::Retag(rewrite),
                Edit::PopMpls { ether_type } => Step::PopMpls(ether_type),
                Edit::PushMpls { ether_type, entry } => Step::PushMpls(ether_type, entry),
                Edit::DecTtl => Step::DecTtl,
                Edit::DecMplsTtl => Step::DecMplsTtl,
                Edit::Truncate(len) => Step::Truncate(len.into()),
            });
        }
        pending.flush(&mut steps);
        Edits(steps.into())
    }

    /// Whether nothing is changed.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Does `edits` to `packet`; `frames` takes the frames that a cut packet no longer needs.
///
/// # Errors
/// Why the packet has to be dropped, which may be changed in part by then: [`DropReason::TtlExpired`],
/// [`DropReason::NoHeadroom`], or [`DropReason::Malformed`] if a header that is to be changed goes on behind the head frame
/// (a label or a tag: ends there).
#[inline]
pub fn apply(edits: &Edits, packet: &mut Packet, frames: &mut FrameCache) -> Result<(), DropReason> {
    edits.0.iter().try_for_each(|step| match step {
        Step::Addresses(addresses) => addresses.apply(packet.data_mut()),
        Step::Tag(tag) => tag.apply(packet.data_mut()),
        Step::Labels(labels) => labels.apply(packet.data_mut()),
        Step::Patch(patch) => patch.apply(packet),
        Step::PopVlan => link::pop_vlan(packet),
        Step::PushVlan(tpid, tci) => vlan::push(packet, *tpid, *tci).ok_or(DropReason::NoHeadroom),
        Step::Retag(rewrite) => retag(packet, *rewrite).ok_or(DropReason::Malformed),
        Step::PopMpls(ether_type) => link::pop_mpls(packet, *ether_type),
        Step::PushMpls(ether_type, entry) => link::push_mpls(packet, *ether_type, *entry),
        Step::DecTtl => network::decrement_ttl(packet),
        Step::DecMplsTtl => link::decrement_ttl(packet.data_mut()),
        Step::Truncate(len) => {
            truncate(packet, *len, frames);
            Ok(())
        }
    })
}

/// Cuts `packet` to at most `len` octets. The copy has the checksum that the whole packet has.
#[cold]
fn truncate(packet: &mut Packet, len: usize, frames: &mut FrameCache) {
    if packet.total_len() <= len {
        return;
    }
    offload::finish_checksum(packet);
    packet.offload = Offload::default();
    while packet.continuations() > 0 && packet.total_len() > len {
        let Some(mut tail) = packet.pop_continuation() else { break };
        let before = packet.total_len();
        if before < len {
            tail.truncate(len - before);
            // There was room for it until now.
            if let Err(tail) = packet.push_continuation(tail) {
                frames.free(tail);
            }
            return;
        }
        frames.free(tail);
    }
    packet.truncate(len);
}

/// Which bits of a number get which value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Masked<T> {
    mask: T,
    value: T,
}

impl<T: Not<Output = T> + Default> Masked<T> {
    /// Every bit.
    #[inline(always)]
    fn all(value: T) -> Self {
        Masked { mask: !T::default(), value }
    }
}

macro_rules! masked {
    ($($number:ty)+) => {
        $(impl Masked<$number> {
            /// `old` with these bits changed.
            #[inline(always)]
            const fn of(self, old: $number) -> $number {
                old & !self.mask | self.value
            }

            const fn is_none(self) -> bool {
                self.mask == 0
            }
        })+
    };
}
masked!(u8 u16 u32 u64);

/// The values of fields that are set one after the other.
#[derive(Default)]
struct Values([Masked<u64>; KEY_WORDS]);

impl Values {
    fn add(&mut self, terms: &[Term]) {
        for term in terms {
            if let Some(word) = self.0.get_mut(usize::from(term.word)) {
                word.value = word.value & !term.mask | term.value & term.mask;
                word.mask |= term.mask;
            }
        }
    }

    /// Bits `shift` to `shift + 31` of a word, of which `keep` count.
    fn part(&self, word: usize, shift: u32, keep: u32) -> Masked<u32> {
        let Masked { mask, value } = self.0[word];
        Masked { mask: (mask >> shift) as u32 & keep, value: (value >> shift) as u32 & keep }
    }

    /// The same of at most 16 bits.
    fn short(&self, word: usize, shift: u32, keep: u16) -> Masked<u16> {
        let Masked { mask, value } = self.part(word, shift, keep.into());
        Masked { mask: mask as u16, value: value as u16 }
    }

    /// The same of at most 8 bits.
    fn octet(&self, word: usize, shift: u32) -> Masked<u8> {
        let Masked { mask, value } = self.part(word, shift, 0xff);
        Masked { mask: mask as u8, value: value as u8 }
    }

    /// An Ethernet address, in the upper 48 bits of a word.
    fn address(&self, word: usize) -> Masked<u64> {
        let Masked { mask, value } = self.0[word];
        Masked { mask: mask & !0xffff, value: value & !0xffff }
    }

    /// Makes steps of them, and starts anew.
    fn flush(&mut self, steps: &mut Vec<Step>) {
        steps.extend(Addresses::new(self).map(Step::Addresses));
        steps.extend(Tag::new(self).map(Step::Tag));
        steps.extend(Labels::new(self).map(Step::Labels));
        steps.extend(Patch::new(self).map(|patch| Step::Patch(patch.into())));
        *self = Values::default();
    }
}
