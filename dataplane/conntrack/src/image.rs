//! A connection as values, what stays and what moves, and the word of flags in which most of its state is.

use crate::nat::{Side, Translation};
use crate::protocol::{Kind, Phase, Progress};
use crate::request::Helper;
use crate::state::Direction;
use crate::timeouts::Timeout;
use crate::tuple::Tuple;

/// Bits of `flags`.
pub(crate) mod flag {
    // Bits 0 and 1: an ordinary packet of the original, of the reply direction changes nothing that rules see.
    pub const KIND: u32 = 2;
    pub const PHASE: u32 = 4;
    pub const NAT: u32 = 1 << 6;
    pub const NAT_DESTINATION: u32 = 1 << 7;
    pub const PARENT: u32 = 1 << 8;
    pub const HELPER: u32 = 9;
    /// In the index.
    pub const LINKED: u32 = 1 << 11;
    pub const TIMEOUT: u32 = 12;
    /// What stays as long as the connection.
    pub const FIXED: u32 = NAT | NAT_DESTINATION | PARENT | 3 << HELPER | LINKED;
}

/// What moves in a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Moving {
    pub mark: u32,
    pub label: u128,
    pub progress: Progress,
    pub timeout: Timeout,
}

/// A connection as values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    pub zone: u16,
    pub original: Tuple,
    pub reply: Tuple,
    pub nat: Option<Side>,
    pub helper: Option<Helper>,
    pub parent: Option<Tuple>,
    pub moving: Moving,
}

impl Moving {
    /// Its part of the flags.
    #[inline]
    pub fn flags(&self) -> u32 {
        let progress = &self.progress;
        // Not as long as the next packet would start another timeout.
        let quiet = |direction| u32::from(progress.quiet(direction) && progress.keeps(self.timeout));
        let quiet = quiet(Direction::Original) | quiet(Direction::Reply) << 1;
        quiet
            | (progress.kind as u32) << flag::KIND
            | (progress.phase as u32) << flag::PHASE
            | (self.timeout as u32) << flag::TIMEOUT
    }
}

impl Image {
    /// How a packet of a direction is rewritten.
    #[inline]
    pub fn translation(&self, direction: Direction) -> Option<Translation> {
        self.nat.map(|side| Translation::of(side, direction, &self.original, &self.reply))
    }

    /// All of its flags.
    pub fn flags(&self) -> u32 {
        let nat = match self.nat {
            None => 0,
            Some(Side::Source) => flag::NAT,
            Some(Side::Destination) => flag::NAT | flag::NAT_DESTINATION,
        };
        let parent = if self.parent.is_some() { flag::PARENT } else { 0 };
        nat | parent | self.helper.map_or(0, |helper| helper as u32) << flag::HELPER | self.moving.flags()
    }
}

#[inline]
pub(crate) fn kind_of(flags: u32) -> Kind {
    match flags >> flag::KIND & 3 {
        0 => Kind::Other,
        1 => Kind::Icmp,
        _ => Kind::Tcp,
    }
}

#[inline]
pub(crate) fn phase_of(flags: u32) -> Phase {
    match flags >> flag::PHASE & 3 {
        0 => Phase::First,
        1 => Phase::Multiple,
        _ => Phase::Both,
    }
}

#[inline]
pub(crate) fn nat_of(flags: u32) -> Option<Side> {
    match (flags & flag::NAT != 0, flags & flag::NAT_DESTINATION != 0) {
        (false, _) => None,
        (true, false) => Some(Side::Source),
        (true, true) => Some(Side::Destination),
    }
}

#[inline]
pub(crate) fn helper_of(flags: u32) -> Option<Helper> {
    match flags >> flag::HELPER & 3 {
        1 => Some(Helper::Ftp),
        2 => Some(Helper::Tftp),
        _ => None,
    }
}

#[inline]
pub(crate) fn timeout_of(flags: u32) -> Timeout {
    Timeout::ALL.get((flags >> flag::TIMEOUT & 0xf) as usize).copied().unwrap_or_default()
}
