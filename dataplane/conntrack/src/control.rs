//! What the control plane asks: settings, limits, listings, statistics.

use crate::nat::Side;
use crate::protocol::Progress;
use crate::request::{Helper, Masked};
use crate::timeouts::Timeout;
use crate::tuple::{Partial, Tuple};

/// How large a tracker is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Connections at most, all zones together.
    pub max: u32,
    /// What the hash is keyed with: random, and nobody's knowledge.
    pub secret: [u64; 2],
    /// Expected connections at most.
    pub expectations: u32,
}

impl Settings {
    /// The most connections that can be asked for.
    pub const MOST: u32 = 1 << 26;
}

impl Default for Settings {
    /// 4 million connections. The secret is to be set.
    fn default() -> Self {
        Settings { max: 4_000_000, secret: [0; 2], expectations: 4096 }
    }
}

/// How many connections a zone may have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ZoneLimit {
    /// What the default says.
    #[default]
    Default,
    /// As many as there are.
    Unlimited,
    /// So many.
    AtMost(u32),
}

/// Which connections a listing or a flush is about: those that fit everything that is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// Zone.
    pub zone: Option<u16>,
    /// The tuple that began it.
    pub original: Partial,
    /// The tuple of replies.
    pub reply: Partial,
    /// Mark.
    pub mark: Masked<u32>,
    /// Label.
    pub label: Masked<u128>,
}

impl Filter {
    /// Whether the connection is one of them.
    pub fn covers(&self, connection: &Connection) -> bool {
        self.zone.is_none_or(|zone| zone == connection.zone)
            && self.original.covers(&connection.original)
            && self.reply.covers(&connection.reply)
            && self.mark.covers(connection.mark)
            && self.label.covers(connection.label)
    }
}

/// A connection, as people see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// Zone.
    pub zone: u16,
    /// The tuple that began it.
    pub original: Tuple,
    /// The tuple of replies.
    pub reply: Tuple,
    /// Which side is translated.
    pub nat: Option<Side>,
    /// `ct_mark`
    pub mark: u32,
    /// `ct_label`
    pub label: u128,
    /// State.
    pub progress: Progress,
    /// Which timeout counts now.
    pub timeout: Timeout,
    /// Seconds that it has left.
    pub left: u32,
    /// Its helper.
    pub helper: Option<Helper>,
    /// The tuple that began its parent, if it was expected.
    pub parent: Option<Tuple>,
}

/// Counters since the tracker was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Connections now, with those that have expired and were not swept yet.
    pub connections: u32,
    /// The most that there may be.
    pub max: u32,
    /// Made.
    pub created: u64,
    /// Ended by age.
    pub expired: u64,
    /// Ended by a flush.
    pub flushed: u64,
    /// Ended because another took their place: `force`, or a new SYN.
    pub replaced: u64,
    /// Ended unanswered in a full table, to make room for another.
    pub early_drop: u64,
    /// Refused because the table was full.
    pub refused_full: u64,
    /// Refused by a zone's limit.
    pub refused_zone: u64,
    /// Refused because no translation was free.
    pub refused_nat: u64,
    /// Refused because the replies belong to another connection.
    pub refused_clash: u64,
    /// Expected connections now.
    pub expectations: u32,
    /// Expected connections that began.
    pub expected: u64,
    /// Expectations that were not taken since there were too many.
    pub refused_expectations: u64,
    /// Requests that were answered with `inv`.
    pub invalid: u64,
}
