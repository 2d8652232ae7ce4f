//! Connection tracking: which connection a packet belongs to, in which state that is, and how it is translated.
//!
//! What: [`Connections`] holds all connections of the switch, in zones. `ct(..)` is one call of [`Connections::track`]
//! with the [`Facts`] of a packet. Its answer, [`Tracked`], has a [`Link`]: what a cached decision keeps. For a packet
//! that the flow cache knows, [`Connections::step`] is all that is called: it says whether the link holds, and keeps
//! windows and age, without a lock.
//!
//! Knows nothing of ports, bridges, flow tables and octets of packets.
//!
//! Threads: shared by all workers and the control thread. Time is injected: seconds of uptime, never going back by more
//! than the workers' clocks differ.
//!
//! What always holds: a tuple belongs to one connection of its zone at most, also when both directions start at the same
//! moment on two workers; a connection that has expired or was flushed is found by nobody, and no link to it holds.
//!
//! Semantics: those of Open vSwitch 3.1's userspace tracker (lib/conntrack*.c), with the differences that
//! `docs/semantics.md` names.

#![forbid(unsafe_code)]

mod admin;
mod arena;
mod cells;
mod connections;
mod control;
mod entry;
mod expect;
mod expectations;
mod hash;
mod image;
mod index;
mod link;
mod make;
#[cfg(test)]
mod naive;
mod nat;
#[cfg(test)]
mod oracle;
mod protocol;
mod request;
mod room;
mod sequence;
mod state;
mod streams;
mod tally;
mod tcp;
mod timeouts;
mod track;
mod tuple;
mod zones;

pub use connections::Connections;
pub use control::{Connection, Filter, Settings, Statistics, ZoneLimit};
pub use expect::{Expected, Unexpected};
pub use link::Link;
pub use nat::{Choice, Nat, Side, Translation};
pub use protocol::{Kind, Phase, Progress};
pub use request::{Before, Commit, Facts, Helper, Masked, Refusal, Request, Segment, Tracked};
pub use sequence::{Skew, is_behind};
pub use state::{Direction, State};
pub use streams::Stream;
pub use tcp::{Peer, TcpState};
pub use timeouts::{Timeout, Timeouts};
pub use tuple::{Family, Partial, Tuple, protocol as ip};

/// TCP flags, as they are in a header.
pub mod flags {
    pub use crate::tcp::{ACK, FIN, PSH, RST, SYN, URG};
}
