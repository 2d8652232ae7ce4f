//! The rules, groups and meters of one bridge, and all changes to them, with Open vSwitch's semantics.
//!
//! ```text
//!   control thread ── prepare ─▶ Draft ── commit ─▶ ┌─────────┐ ◀── load ── workers (on a miss)
//!   worker ────────── learn ───▶  (one writer)      │ Tables  │
//!   control thread ── expire ──▶                    └─────────┘ immutable, one root per version
//! ```
//!
//! [`FlowTables`] has one root, [`Tables`], which workers load and never wait for, and one writer at a time, behind a
//! lock. A change is made on a draft of the next root (everything in it is copied on write) and published by one store:
//! no packet sees half of a bundle, and a bundle that fails leaves nothing behind. In between, the caller can look at
//! the draft ([`Prepared::tables`]) and widen key masks before its rules can be met.
//!
//! What always holds: the writer's index (by cookie, group, meter, deadline, and what is read) describes the rules of
//! the current root. Of one table, priority and match there is one rule. Rules use no group and no meter that isn't
//! there. A worker never frees a root: the writer keeps those that are replaced until nobody holds them.
//!
//! References: ovs-ofctl(8), ovs-actions(7); OpenFlow 1.5.1, sections 5 and 7.3.4.

mod draft;
mod error;
mod flow_tables;
mod flows;
mod group;
mod groups;
mod history;
mod index;
mod learn;
mod meter;
mod reach;
mod reads;
mod replace;
mod root;
mod rule;
mod select;
mod table;

use std::fmt;

pub use error::{ChangeError, Refused};
pub use flow_tables::{Expired, FlowTables, Outcome, Prepared};
pub use group::{Group, GroupSpec};
pub use history::{ChangeRecord, DETAIL, KEPT};
pub use learn::LearnResult;
pub use meter::{Admission, MAX_BANDS, Meter};
pub use reach::{Edge, Reach};
pub use replace::{Difference, Extent};
pub use root::{Hit, Tables};
pub use rule::{FlowRemoved, RemovedReason, Rule, RuleStats};
pub use select::Shown;
pub use table::{Miss, Table, TableMod};

use weft_flow::message::{FlowMod, GroupMod, MeterMod};

/// The number of a table: 0 to 253 are the user's, 254 is Open vSwitch's internal one, and those above 255 are weft's
/// own, which no OpenFlow message can name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TableId(pub u16);

impl TableId {
    /// The one that packets enter.
    pub const FIRST: TableId = TableId(0);
    /// Open vSwitch's internal table: hidden, and read-only for OpenFlow.
    pub const INTERNAL: TableId = TableId(254);
    /// The first of weft's own.
    pub const OWN: TableId = TableId(256);
    /// Of weft's own: where packets from a guarded port enter, before the first of the user's tables.
    pub const FROM_GUARDED: TableId = TableId(256);
    /// Of weft's own: where packets that are to leave by a guarded port enter.
    pub const TO_GUARDED: TableId = TableId(261);

    /// Whether OpenFlow messages can change it.
    pub const fn is_users(self) -> bool {
        self.0 < TableId::INTERNAL.0
    }

    /// Where a packet goes on behind a table whose misses continue; none behind the last.
    pub fn next(self) -> Option<TableId> {
        self.0.checked_add(1).map(TableId).filter(|next| next.is_users())
    }
}

impl From<u8> for TableId {
    fn from(id: u8) -> TableId {
        TableId(id.into())
    }
}

impl From<u16> for TableId {
    fn from(id: u16) -> TableId {
        TableId(id)
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// One change; a bundle is a slice of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// To the user's rules.
    Flow(FlowMod),
    /// To the rules of one table, be it weft's own or internal. The message's own table is not looked at.
    FlowIn(TableId, FlowMod),
    /// To the groups.
    Group(GroupMod),
    /// To the meters.
    Meter(MeterMod),
    /// To a table's settings.
    Table(TableMod),
}

#[cfg(test)]
mod tests;
