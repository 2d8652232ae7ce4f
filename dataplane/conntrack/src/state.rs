//! `ct_state`: what tracking says about one packet.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// A set of `ct_state` bits, with the numbers that ovs-fields(7) gives them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct State(pub u16);

impl State {
    /// Not tracked.
    pub const NONE: State = State(0);
    /// `new`: the packet may begin a connection, or belongs to one that has had no answer.
    pub const NEW: State = State(0x01);
    /// `est`: part of a connection that has had an answer.
    pub const EST: State = State(0x02);
    /// `rel`: related to another connection: an ICMP error, or one that a helper expected.
    pub const REL: State = State(0x04);
    /// `rpl`: travels opposite to the packet that began the connection.
    pub const RPL: State = State(0x08);
    /// `inv`: can't be tracked.
    pub const INV: State = State(0x10);
    /// `trk`: has been tracked.
    pub const TRK: State = State(0x20);
    /// `snat`: its source was translated.
    pub const SNAT: State = State(0x40);
    /// `dnat`: its destination was translated.
    pub const DNAT: State = State(0x80);

    /// Whether all bits of `other` are set.
    #[inline]
    pub const fn has(self, other: State) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set.
    #[inline]
    pub const fn any(self, other: State) -> bool {
        self.0 & other.0 != 0
    }

    /// Without the bits of `other`.
    #[inline]
    #[must_use]
    pub const fn without(self, other: State) -> State {
        State(self.0 & !other.0)
    }
}

impl BitOr for State {
    type Output = State;

    #[inline]
    fn bitor(self, other: State) -> State {
        State(self.0 | other.0)
    }
}

impl BitOrAssign for State {
    #[inline]
    fn bitor_assign(&mut self, other: State) {
        self.0 |= other.0;
    }
}

impl fmt::Display for State {
    /// As Open vSwitch writes it: `est|rpl|trk`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 8] = ["new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat"];
        let mut between = "";
        for (bit, name) in NAMES.iter().enumerate().filter(|&(bit, _)| self.0 >> bit & 1 == 1) {
            let _ = bit;
            write!(out, "{between}{name}")?;
            between = "|";
        }
        if between.is_empty() { out.write_str("0") } else { Ok(()) }
    }
}

/// Which way a packet goes in its connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Direction {
    /// As the packet that began it.
    #[default]
    Original,
    /// The other way.
    Reply,
}

impl Direction {
    /// The other direction.
    #[inline]
    pub const fn opposite(self) -> Direction {
        match self {
            Direction::Original => Direction::Reply,
            Direction::Reply => Direction::Original,
        }
    }

    /// 0 for the original direction, 1 for replies.
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_written_as_open_vswitch_writes_them() {
        assert_eq!((State::EST | State::RPL | State::TRK).to_string(), "est|rpl|trk");
        assert_eq!(State::NONE.to_string(), "0");
    }
}
