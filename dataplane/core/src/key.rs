//! Flow keys and key masks: what of a packet the policy reads.
//!
//! A [`FlowKey`] is eleven words, ordered so that what every policy reads comes first. A [`KeyMask`] says which bits the
//! tables reachable from an ingress port read; the flow cache compares `key & mask` and nothing else. A mask that stays
//! in the first three words is *narrow*: its cached flows take one cache line each.
//!
//! ```text
//!  word 0   destination MAC (48) | ingress (16)
//!  word 1   source MAC (48)      | outermost VLAN tag, as Tci (16)
//!  word 2   tunnel remote (32)   | tunnel key (32)              0 if it came in by no tunnel
//!  word 3   EtherType (16) | inner VLAN tag (16) | protocol (8) | TOS (8) | TTL (8) | fragment (8)
//!  word 4-5 source address: IPv6, or IPv4 / ARP SPA in the low half of word 5
//!  word 6-7 destination address: IPv6, or IPv4 / ARP TPA in the low half of word 7
//!  word 8   source port (16) | destination port (16) | TCP flags (16) | 0; ICMP type and code are the ports
//!  word 9   ARP SHA or ND SLL (48) | 0
//!  word 10  ARP THA or ND TLL (48) | 0
//! ```

use weft_wire::{Mac, Tci};

/// Words of a key.
pub const WORDS: usize = 11;
/// Words of a narrow key: Ethernet, VLAN, ingress and tunnel.
pub const NARROW: usize = 3;

/// Where a packet came in: a port, or a VTEP (a local tunnel address and kind).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ingress(u16);

/// The number of a port of this process, whatever its bridge: 0 to [`PortId::COUNT`] - 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortId(pub u16);

/// The number of a VTEP (a local tunnel address and kind), 0 to [`VtepId::COUNT`] - 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VtepId(pub u16);

impl PortId {
    /// How many ports a process has at most.
    pub const COUNT: usize = 4096;
    /// No port.
    pub const NONE: PortId = PortId(u16::MAX);

    /// The number, to index tables of ports.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl VtepId {
    /// How many there are at most.
    pub const COUNT: usize = 64;

    /// The number, to index tables of VTEPs.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl Ingress {
    const VTEP: u16 = 0x8000;

    /// The packet came in by a port.
    #[inline]
    pub const fn port(id: PortId) -> Self {
        Ingress(id.0)
    }

    /// The packet came in by a tunnel.
    #[inline]
    pub const fn vtep(id: VtepId) -> Self {
        Ingress(Self::VTEP | id.0)
    }

    /// The port or the VTEP.
    #[inline]
    pub const fn decode(self) -> Result<PortId, VtepId> {
        if self.0 & Self::VTEP == 0 { Ok(PortId(self.0)) } else { Err(VtepId(self.0 & !Self::VTEP)) }
    }

    /// As a key carries it.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0 as u64
    }
}

/// What a policy can read of a packet. See the module's text for the words.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowKey(pub [u64; WORDS]);

impl FlowKey {
    /// Where the packet came in.
    #[inline]
    pub const fn ingress(&self) -> Ingress {
        Ingress(self.0[0] as u16)
    }

    /// The destination address.
    #[inline]
    pub const fn destination(&self) -> Mac {
        Mac::from_u64(self.0[0] >> 16)
    }

    /// The source address.
    #[inline]
    pub const fn source(&self) -> Mac {
        Mac::from_u64(self.0[1] >> 16)
    }

    /// The outermost VLAN tag.
    #[inline]
    pub const fn tci(&self) -> Tci {
        Tci(self.0[1] as u16)
    }

    /// The tunnel's remote address, as a number; 0 if the packet came in by no tunnel.
    #[inline]
    pub const fn tunnel_remote(&self) -> u32 {
        (self.0[2] >> 32) as u32
    }

    /// The tunnel's key.
    #[inline]
    pub const fn tunnel_key(&self) -> u32 {
        self.0[2] as u32
    }

    /// The EtherType behind the outermost tag; only in keys of ports whose mask reads it.
    #[inline]
    pub const fn ether_type(&self) -> u16 {
        (self.0[3] >> 48) as u16
    }

    /// The bits of this key that `mask` reads.
    #[inline]
    pub fn masked(&self, mask: &KeyMask) -> FlowKey {
        let mut masked = *self;
        for (word, bits) in masked.0.iter_mut().zip(&mask.0) {
            *word &= bits;
        }
        masked
    }

    /// The key's words, to be set.
    pub fn set(&mut self, word: usize, shift: u32, value: u64) {
        self.0[word] |= value << shift;
    }
}

/// Which bits of a key are read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct KeyMask(pub [u64; WORDS]);

impl KeyMask {
    /// What NORMAL reads of a packet from a port: both addresses, ingress, and of the tag its presence and VLAN.
    pub const NORMAL: KeyMask =
        KeyMask::first([u64::MAX, u64::MAX << 16 | (Tci::PRESENT | 0x0fff) as u64, 0]);
    /// What it reads besides for a packet from a tunnel.
    pub const TUNNEL: KeyMask = KeyMask::first([0, 0, u64::MAX]);
    /// What it takes to know whether a packet is tagged, and with which VLAN.
    pub const VLAN: KeyMask = KeyMask::first([0, (Tci::PRESENT | 0x0fff) as u64, 0]);
    /// Every bit.
    pub const EVERYTHING: KeyMask = KeyMask([u64::MAX; WORDS]);
    /// The ingress alone, which every key has.
    pub const INGRESS: KeyMask = KeyMask::first([0xffff, 0, 0]);

    const fn first(words: [u64; NARROW]) -> Self {
        let mut mask = [0; WORDS];
        mask[0] = words[0];
        mask[1] = words[1];
        mask[2] = words[2];
        KeyMask(mask)
    }

    /// Reads what either reads.
    #[must_use]
    pub fn union(mut self, other: &KeyMask) -> KeyMask {
        for (word, bits) in self.0.iter_mut().zip(&other.0) {
            *word |= bits;
        }
        self
    }

    /// Whether only the first three words are read.
    #[inline]
    pub fn is_narrow(&self) -> bool {
        self.0[NARROW..].iter().all(|&word| word == 0)
    }

    /// The first `W` words, at most all.
    #[inline]
    pub fn first_words<const W: usize>(&self) -> [u64; W] {
        let mut words = [0; W];
        words.iter_mut().zip(&self.0).for_each(|(word, bits)| *word = *bits);
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ingress_keeps_ports_and_vteps_apart() {
        assert_eq!(Ingress::port(PortId(7)).decode(), Ok(PortId(7)));
        assert_eq!(Ingress::vtep(VtepId(7)).decode(), Err(VtepId(7)));
    }

    #[test]
    fn normal_is_narrow_and_does_not_read_the_priority() {
        assert!(KeyMask::NORMAL.union(&KeyMask::TUNNEL).is_narrow());
        assert_eq!(KeyMask::NORMAL.0[1] & 0xffff, 0x1fff);
        let mut wide = KeyMask::NORMAL;
        wide.0[8] = 1;
        assert!(!wide.is_narrow());
    }
}
