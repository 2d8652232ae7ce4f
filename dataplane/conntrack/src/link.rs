//! What a cached decision holds of connection tracking: eight octets.

use bytemuck::{Pod, Zeroable};

use crate::control::Settings;
use crate::expectations::{Class, GENERATIONS};
use crate::state::Direction;

/// A connection and a packet's direction in it, or the place where a tuple was *not* found, with the epoch that it had.
///
/// A link that holds says: tracking a packet of the same tuple in the same zone would tell rules what it told them when
/// the link was made. [`crate::Connections::step`] asks, and does a hit's bookkeeping in the same breath.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Zeroable, Pod)]
#[repr(C)]
pub struct Link {
    /// Bits 31 to 3: an entry, or (27 to 3) a bucket and (31 to 28) of the class of what could be expected the lower part; bits 2 to 0:
    /// what it is, 2 or 3 for a connection's two directions.
    pub place: u32,
    /// Its epoch; of a bucket the lower 24 bits of it and of the class's, and (31 to 24) the upper part of the class.
    pub epoch: u32,
}

/// Bits of a bucket: there are no more of them ([`crate::Settings::MOST`]).
const BUCKET: usize = 25;
/// Bits of the epoch of a link to a bucket.
const SUM: u32 = 0xff_ffff;

const _: () = assert!(Settings::MOST as usize / 2 <= 1 << BUCKET && GENERATIONS <= 1 << 12);

/// What a link leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// Nothing: it holds if `epoch` is 0.
    Nothing,
    /// An entry.
    Entry(usize, Direction),
    /// A bucket without the tuple, and the class of what could be expected.
    Absent(usize, Class, Absence),
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

    /// `sum` is the bucket's epoch and the class's generation.
    pub(crate) fn absent((bucket, class): (usize, Class), why: Absence, sum: u32) -> Link {
        let class = u32::from(class.0);
        Link {
            place: class << 28 | (bucket as u32) << 3 | (ABSENT + why as u32),
            epoch: (class >> 4) << 24 | sum & SUM,
        }
    }

    /// Of a link to a bucket: whether that and the class have these numbers still.
    #[inline]
    pub(crate) fn has_sum(self, sum: u32) -> bool {
        (self.epoch ^ sum) & SUM == 0
    }

    #[inline]
    fn absence(self, why: Absence) -> Target {
        let bucket = (self.place >> 3) as usize & ((1 << BUCKET) - 1);
        Target::Absent(bucket, Class((self.place >> 28 | (self.epoch >> 24) << 4) as u16), why)
    }

    #[inline(always)]
    pub(crate) fn target(self) -> Target {
        let place = (self.place >> 3) as usize;
        match self.place & 7 {
            2 => Target::Entry(place, Direction::Original),
            3 => Target::Entry(place, Direction::Reply),
            4 => self.absence(Absence::Any),
            5 => self.absence(Absence::TcpNew),
            6 => self.absence(Absence::TcpInvalid),
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
