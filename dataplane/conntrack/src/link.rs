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
    /// Bits 31 to 3: an entry or a bucket; bits 2 to 0: what it is.
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

impl Link {
    /// Always holds: for a decision without a connection.
    pub const NONE: Link = Link { place: 0, epoch: 0 };
    /// Never holds: for a decision that is to be taken again with the next packet.
    pub const NEVER: Link = Link { place: 0, epoch: 1 };

    pub(crate) fn entry(slot: usize, direction: Direction, epoch: u32) -> Link {
        Link { place: (slot as u32) << 3 | (1 + direction.index() as u32), epoch }
    }

    pub(crate) fn absent(bucket: usize, why: Absence, epoch: u32) -> Link {
        Link { place: (bucket as u32) << 3 | (3 + why as u32), epoch }
    }

    #[inline(always)]
    pub(crate) fn target(self) -> Target {
        let place = (self.place >> 3) as usize;
        match self.place & 7 {
            1 => Target::Entry(place, Direction::Original),
            2 => Target::Entry(place, Direction::Reply),
            3 => Target::Absent(place, Absence::Any),
            4 => Target::Absent(place, Absence::TcpNew),
            5 => Target::Absent(place, Absence::TcpInvalid),
            _ => Target::Nothing,
        }
    }

    /// The entry that it leads to, and the direction, if it leads to one.
    #[inline(always)]
    pub(crate) fn connection(self) -> Option<(usize, Direction)> {
        let direction = if self.place & 1 != 0 { Direction::Original } else { Direction::Reply };
        self.is_connection().then_some(((self.place >> 3) as usize, direction))
    }

    /// Whether it leads to a connection.
    #[inline(always)]
    pub fn is_connection(self) -> bool {
        matches!(self.place & 7, 1 | 2)
    }

    /// The direction of the packet that it was made for, if it leads to a connection.
    #[inline]
    pub fn direction(self) -> Option<Direction> {
        match self.place & 7 {
            1 => Some(Direction::Original),
            2 => Some(Direction::Reply),
            _ => None,
        }
    }
}
