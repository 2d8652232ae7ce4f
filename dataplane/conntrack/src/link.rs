//! What a cached decision holds of connection tracking: eight octets.

use bytemuck::{Pod, Zeroable};

use crate::state::Direction;

/// A connection and a packet's direction in it, or the place where a tuple was *not* found, with the epoch that it had.
///
/// A link that holds says: tracking a packet of the same tuple in the same zone would tell rules what it told them when
/// the link was made. [`crate::Connections::step`] asks, and does a hit's bookkeeping in the same breath.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Zeroable, Pod)]
#[repr(C)]
pub struct Link {
    /// Bits 31 to 3: an entry or a bucket; bits 2 to 0: what it is, 2 or 3 for a connection's two directions.
    pub place: u32,
    /// Its epoch.
    pub epoch: u32,
}

/// What a link leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// Nothing: it holds if `epoch` is 0.
    Nothing,
    /// An entry.
    Entry(usize, Direction),
    /// A bucket without the tuple.
    Absent(usize, Absence),
}

/// Why nothing was found matters for TCP alone: its flags, which are in no flow's key, decide between `new` and `inv`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Absence {
    /// Not TCP: the tuple says all.
    Any,
    /// TCP flags that may begin a connection.
    TcpNew,
    /// TCP flags that may not.
    TcpInvalid,
}

/// Added to the direction: a connection.
const CONNECTION: u32 = 2;
/// The bit that is the direction in a connection's link.
const DIRECTION: u32 = 1;
/// Added to why there is none: a place without the tuple.
const ABSENT: u32 = 4;

impl Link {
    /// Always holds: for a decision without a connection.
    pub const NONE: Link = Link { place: 0, epoch: 0 };
    /// Never holds: for a decision that is to be taken again with the next packet.
    pub const NEVER: Link = Link { place: 0, epoch: 1 };

    pub(crate) fn entry(slot: usize, direction: Direction, epoch: u32) -> Link {
        Link { place: (slot as u32) << 3 | CONNECTION | direction.index() as u32, epoch }
    }

    pub(crate) fn absent(bucket: usize, why: Absence, epoch: u32) -> Link {
        Link { place: (bucket as u32) << 3 | (ABSENT + why as u32), epoch }
    }

    #[inline(always)]
    pub(crate) fn target(self) -> Target {
        let place = (self.place >> 3) as usize;
        match self.place & 7 {
            2 => Target::Entry(place, Direction::Original),
            3 => Target::Entry(place, Direction::Reply),
            4 => Target::Absent(place, Absence::Any),
            5 => Target::Absent(place, Absence::TcpNew),
            6 => Target::Absent(place, Absence::TcpInvalid),
            _ => Target::Nothing,
        }
    }

    /// The entry that it leads to, and the direction, if it leads to one.
    #[inline(always)]
    pub(crate) fn connection(self) -> Option<(usize, Direction)> {
        self.is_connection().then_some(((self.place >> 3) as usize, self.side()))
    }

    /// Whether it leads to a connection.
    #[inline(always)]
    pub fn is_connection(self) -> bool {
        self.place & !DIRECTION & 7 == CONNECTION
    }

    /// The direction of the packet that it was made for, if it leads to a connection.
    #[inline]
    pub fn direction(self) -> Option<Direction> {
        self.is_connection().then_some(self.side())
    }

    #[inline(always)]
    fn side(self) -> Direction {
        if self.place & DIRECTION == 0 { Direction::Original } else { Direction::Reply }
    }
}
