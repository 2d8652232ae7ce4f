//! Who a packet came from: ports, VTEPs, and the ingress that says which of them it was.
//!
//! What of a packet the policy reads is [`FlowKey`] and [`KeyMask`], whose words `weft_flow::fields` lays out. The
//! ingress is the low 16 bits of word 0; only the dataplane knows what they mean.

pub use weft_flow::fields::{FlowKey, KEY_WORDS, KeyMask, MIDDLE, NARROW};
pub use weft_flow::key::Width;

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

    /// Where the packet of a key came in.
    #[inline]
    pub const fn of(key: &FlowKey) -> Self {
        Ingress::of_word(key.0[0])
    }

    /// The same, from the key's first word.
    #[inline]
    pub const fn of_word(word: u64) -> Self {
        Ingress(word as u16)
    }

    /// As a key carries it.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0 as u64
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
}
