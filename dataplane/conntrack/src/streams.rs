//! What helpers have to remember of TCP connections whose text they read and change: beside the table, since few have it.
//!
//! Threads: one lock, which only packets of connections with a helper take. What is here belongs to a live connection: who ends one
//! lets its stream go, and nothing is put in for one that has ended.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::request::Segment;
use crate::sequence::Skew;
use crate::state::Direction;
use crate::tcp::ACK;

/// So many are kept at most.
const MOST: usize = 65_536;

/// What is remembered of one connection; each pair is by direction, the original one first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stream {
    /// How sequence numbers differ behind the helper.
    pub skews: [Skew; 2],
    /// Where the next line starts, and the one before it, as the helper has counted them.
    pub lines: [[Option<u32>; 2]; 2],
}

/// By slot.
#[derive(Debug, Default)]
pub(crate) struct Streams(Mutex<HashMap<usize, Stream>>);

impl Streams {
    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Stream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows `change` what is remembered of a slot, and keeps what that makes of it; `None` if the connection isn't alive, or there are
    /// too many.
    pub fn with<R>(
        &self,
        slot: usize,
        alive: impl FnOnce() -> bool,
        change: impl FnOnce(&mut Stream) -> R,
    ) -> Option<R> {
        let mut streams = self.lock();
        let known = streams.get(&slot).copied();
        if !alive() || known.is_none() && streams.len() >= MOST {
            return None;
        }
        let mut stream = known.unwrap_or_default();
        let result = change(&mut stream);
        if stream != known.unwrap_or_default() {
            streams.insert(slot, stream);
        }
        Some(result)
    }

    /// The connection has ended.
    pub fn forget(&self, slot: usize) {
        self.lock().remove(&slot);
    }

    /// A segment as it is to be counted: what it acknowledges in the numbers of who has sent that.
    pub fn counted(&self, slot: usize, direction: Direction, segment: Segment) -> Segment {
        if segment.flags & ACK == 0 {
            return segment;
        }
        let [original, reply] = self.lock().get(&slot).copied().unwrap_or_default().skews;
        let other = if direction == Direction::Original { reply } else { original };
        Segment { ack: other.acknowledged(segment.ack), ..segment }
    }
}
