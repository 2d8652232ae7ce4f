//! A way through the whole table of connections, for a client that lists, counts or flushes: in pieces, between which others
//! are served. A piece is [`PIECE`] places, some milliseconds at most; a table of four million takes some 500 of them.
//!
//! Connections stay at their places, so who is there from the beginning to the end is met once. Who comes or goes meanwhile
//! may be met or not.

use std::collections::BTreeMap;

use weft_config::control::{ConnectionStatus, ConntrackCount, ConntrackReply, ZoneCount};
use weft_conntrack::{Connections, Filter};

use super::status;

/// Places that are looked at in a turn.
const PIECE: usize = 8192;
/// Connections of one answer; the client asks for the rest.
const PAGE: u32 = 1024;

/// See the module's text. By default, one that counts everything.
#[derive(Debug, Default)]
pub struct Walk {
    what: What,
    filter: Filter,
    next: usize,
}

/// What is done, and what has come of it so far.
#[derive(Debug)]
enum What {
    List { limit: u32, listed: Vec<ConnectionStatus>, more: u64 },
    Flush { gone: u64 },
    Count { zones: BTreeMap<u16, u64> },
}

impl Default for What {
    fn default() -> Self {
        What::Count { zones: BTreeMap::new() }
    }
}

impl Walk {
    /// Lists up to `limit` of them, from a place on.
    pub(super) fn list(filter: Filter, limit: u32, from: u64) -> Box<Walk> {
        let next = usize::try_from(from).unwrap_or(usize::MAX);
        Box::new(Walk { what: What::List { limit, listed: Vec::new(), more: 0 }, filter, next })
    }

    /// Ends them.
    pub(super) fn flush(filter: Filter) -> Box<Walk> {
        Box::new(Walk { what: What::Flush { gone: 0 }, filter, next: 0 })
    }

    /// Counts them.
    pub(super) fn count(filter: Filter) -> Box<Walk> {
        Box::new(Walk { filter, ..Walk::default() })
    }

    /// Goes through one piece; gives the answer if it was the last.
    pub fn go_on(
        mut self: Box<Self>,
        connections: &Connections,
        second: u32,
    ) -> Result<ConntrackReply, Box<Walk>> {
        let places = connections.places();
        let piece = self.next..self.next.saturating_add(PIECE).min(places);
        let filter = &self.filter;
        self.next = piece.end.max(self.next);
        match &mut self.what {
            What::List { limit, listed, more } => {
                // One by one: a page ends where it is full.
                for place in piece {
                    connections.list_in(place..place + 1, filter, second, &mut |connection| {
                        if listed.len() < *limit as usize {
                            listed.push(status(connection))
                        } else {
                            *more += 1
                        }
                    });
                    if listed.len() >= PAGE as usize && *limit > PAGE {
                        let (connections, next) = (std::mem::take(listed), Some(place as u64 + 1));
                        return Ok(ConntrackReply::Connections { connections, more: 0, next });
                    }
                }
            }
            What::Flush { gone } => *gone += connections.flush_in(piece, filter, second),
            What::Count { zones } => connections.list_in(piece, filter, second, &mut |connection| {
                *zones.entry(connection.zone).or_default() += 1;
            }),
        }
        if self.next >= places { Ok(self.what.answer(connections)) } else { Err(self) }
    }
}

impl What {
    fn answer(self, connections: &Connections) -> ConntrackReply {
        match self {
            What::List { listed, more, .. } => {
                ConntrackReply::Connections { connections: listed, more, next: None }
            }
            What::Flush { gone } => ConntrackReply::Flushed { connections: gone },
            What::Count { zones } => ConntrackReply::Counted(counted(zones, connections)),
        }
    }
}

fn counted(zones: BTreeMap<u16, u64>, connections: &Connections) -> ConntrackCount {
    let statistics = connections.statistics();
    let totals = [
        ("created", statistics.created),
        ("expired", statistics.expired),
        ("flushed", statistics.flushed),
        ("replaced", statistics.replaced),
        ("early_drop", statistics.early_drop),
        ("refused_full", statistics.refused_full),
        ("refused_zone", statistics.refused_zone),
        ("refused_nat", statistics.refused_nat),
        ("refused_clash", statistics.refused_clash),
        ("expected", statistics.expected),
        ("refused_expectations", statistics.refused_expectations),
        ("invalid", statistics.invalid),
    ];
    ConntrackCount {
        connections: zones.values().sum(),
        zones: zones.into_iter().map(|(zone, connections)| ZoneCount { zone, connections }).collect(),
        totals: totals.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
    }
}

#[cfg(test)]
mod tests;
