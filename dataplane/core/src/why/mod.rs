//! Why packets were dropped: what a worker tells about it when somebody asks.
//!
//! Three things, none of which a packet pays for until then:
//!
//! * [`place`]: what programs have dropped, by port, reason and the rule that decided, added up when programs are settled;
//! * [`scan`]: the cached flows of somebody ([`Subject`]) whose packets are dropped, or leave. The flow cache is the
//!   record: it has keys, counts and ages. A scan goes through it in pieces, one a round, so that no packet waits for it;
//! * [`watch`]: some dropped packets, as samples. A worker watches for some seconds after each question, and keeps one
//!   packet of each kind; while nobody asks, a dropped packet costs one look at an empty list.
//!
//! Owner: each worker has its own; the control thread adds up what they answer.

pub mod place;
pub mod scan;
pub mod subject;
pub mod watch;

pub use place::{Decided, DropLog, Place, Tallied};
pub use scan::{DroppedFlows, Found, Output, SentFlows};
pub use subject::{Pattern, Subject};
pub use watch::Sample;

use std::sync::Arc;

use crossbeam::channel::Sender;

/// A question to a worker.
#[derive(Clone, Debug)]
pub struct Question {
    /// About whose packets.
    pub subject: Arc<Subject>,
    /// The last second in which dropped packets are watched for; 0 for no samples.
    pub until: u32,
    /// Where the answer goes.
    pub reply: Sender<Found>,
}
