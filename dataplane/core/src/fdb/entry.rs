//! What is said of entries: as people see one, what a look-up or a sight of one comes to, which of them a flush takes.

use weft_wire::{Mac, Vid};

use crate::epoch::Dep;
use crate::key::PortId;

/// An entry, as people see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The VLAN.
    pub vid: Vid,
    /// The address.
    pub mac: Mac,
    /// Where it is.
    pub port: PortId,
    /// Whether it was configured: it neither ages nor moves.
    pub is_static: bool,
    /// How often it has moved from port to port.
    pub moves: u32,
    /// The second in which it was last seen as a source.
    pub seen: u32,
}

/// What a look-up says, and what that depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// The address is at this port.
    Found(PortId, Dep),
    /// It isn't known.
    Absent(Dep),
}

/// What happened when a source address was shown to the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learned {
    /// It was known, there.
    Known(Dep),
    /// It is new.
    New(Dep),
    /// It was at the other port.
    Moved(PortId, Dep),
    /// It is static, at the other port, and stays there.
    Pinned(Dep),
    /// It was not taken: the packet was switched by a snapshot that is older than what the table goes by.
    Outdated(Dep),
    /// It was not taken: the port has learned as many as it may.
    Refused(Dep),
}

impl Learned {
    /// What the outcome depends on: the entry of the source address.
    pub fn dep(self) -> Dep {
        match self {
            Learned::Known(dep)
            | Learned::New(dep)
            | Learned::Moved(_, dep)
            | Learned::Pinned(dep)
            | Learned::Outdated(dep)
            | Learned::Refused(dep) => dep,
        }
    }
}

/// Where and when an address was seen as a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sight {
    /// The port.
    pub port: PortId,
    /// The second.
    pub second: u32,
    /// The number of the snapshot by which the packet was switched.
    pub generation: u64,
}

/// What a port has in a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// The port.
    pub port: PortId,
    /// Its entries, learned and static.
    pub entries: u32,
    /// Those that were learned.
    pub learned: u32,
    /// How many it may learn.
    pub limit: Option<u32>,
    /// How often an address was not learned because of that.
    pub refused: u64,
    /// Whether one was refused since room was made.
    pub(super) waits: bool,
}

/// Which entries a flush takes: those that match everything that is given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flush {
    /// Entries of this port only.
    pub port: Option<PortId>,
    /// Entries of this VLAN only.
    pub vid: Option<Vid>,
    /// Static entries too.
    pub statics: bool,
}
