//! One rule, as it lies in a table: immutable but for its timeouts and counters.
//!
//! A modification makes a new rule in the old one's place, which shares its counters: what programs that still hold the
//! old rule count afterwards is not lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use weft_flow::message::{FlowFlags, FlowMod};
use weft_flow::text::FlowLine;
use weft_flow::{Action, Match};

use super::TableId;
use crate::classifier::Clause;

/// A rule of a table. Workers hold it by `Arc`, the table being the other owner.
#[derive(Debug)]
pub struct Rule {
    /// Its table.
    pub table: TableId,
    /// The highest that matches wins.
    pub priority: u16,
    /// The less important go first when a table is full.
    pub importance: u16,
    /// Its flags.
    pub flags: FlowFlags,
    /// The owner's mark.
    pub cookie: u64,
    /// Which packets.
    pub matches: Match,
    /// What happens to them.
    pub actions: Arc<[Action]>,
    /// When it was added, since the process's start; a modification keeps it.
    pub created: Duration,
    idle_timeout: AtomicU16,
    hard_timeout: AtomicU16,
    /// When it was last added, modified or learned again, in nanoseconds.
    modified: AtomicU64,
    stats: Arc<Stats>,
    /// The writer's: which rule it is, in order of making.
    pub(super) serial: u64,
    /// The writer's: the deadline under which its index has the rule; 0 if it has none.
    pub(super) scheduled: AtomicU64,
    /// The writer's: where it stands among the rules of its cookie.
    pub(super) place: AtomicU32,
}

/// Packets, octets and last use; shared by a rule and what it is modified to.
#[derive(Debug, Default)]
struct Stats {
    packets: AtomicU64,
    bytes: AtomicU64,
    used: AtomicU64,
}

/// What a rule has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RuleStats {
    /// Packets.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    /// When the last one was handled (or the rule was added), since the process's start.
    pub used: Duration,
}

/// Why a rule is gone (OpenFlow 1.5.1, section 7.4.2, `ofp_flow_removed_reason`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RemovedReason {
    /// No packet for its idle timeout.
    IdleTimeout,
    /// Its hard timeout is over.
    HardTimeout,
    /// A modification deleted it.
    Delete,
    /// A group that it uses was deleted.
    GroupDelete,
    /// A meter that it uses was deleted.
    MeterDelete,
    /// It made room in a full table.
    Eviction,
}

/// A rule with `send_flow_rem` is gone.
#[derive(Clone, Debug)]
pub struct FlowRemoved {
    /// The rule. Its counters may still rise while programs that hold it are rolled up.
    pub rule: Arc<Rule>,
    /// Why.
    pub reason: RemovedReason,
    /// When, since the process's start.
    pub at: Duration,
}

/// What a rule is made of when it is added.
pub(super) struct Seed<'a> {
    pub table: TableId,
    pub flow: &'a FlowMod,
    pub actions: Arc<[Action]>,
    pub now: Duration,
    pub serial: u64,
}

impl Rule {
    /// A rule as a message adds it; `replaces` is the equal rule in whose place it comes.
    pub(super) fn added(seed: Seed<'_>, replaces: Option<&Rule>) -> Rule {
        let Seed { table, flow, actions, now, serial } = seed;
        Rule {
            table,
            priority: flow.priority,
            importance: flow.importance,
            flags: flow.flags,
            cookie: flow.cookie.unwrap_or(0),
            matches: flow.matches.clone(),
            actions,
            created: now,
            idle_timeout: AtomicU16::new(flow.idle_timeout),
            hard_timeout: AtomicU16::new(flow.hard_timeout),
            modified: AtomicU64::new(nanos(now)),
            stats: match replaces {
                Some(old) => old.inherited(flow.flags.reset_counts),
                None => Arc::new(Stats { used: AtomicU64::new(nanos(now)), ..Stats::default() }),
            },
            serial,
            scheduled: AtomicU64::new(0),
            place: AtomicU32::new(0),
        }
    }

    /// What `old` becomes by a modification: its actions change, and its cookie if the message has one.
    pub(super) fn modified(seed: Seed<'_>, old: &Rule) -> Rule {
        let Seed { flow, actions, now, serial, .. } = seed;
        Rule {
            table: old.table,
            priority: old.priority,
            importance: old.importance,
            flags: old.flags,
            cookie: flow.cookie.unwrap_or(old.cookie),
            matches: old.matches.clone(),
            actions,
            created: old.created,
            idle_timeout: AtomicU16::new(old.idle_timeout()),
            hard_timeout: AtomicU16::new(old.hard_timeout()),
            modified: AtomicU64::new(nanos(now)),
            stats: old.inherited(flow.flags.reset_counts),
            serial,
            scheduled: AtomicU64::new(0),
            place: AtomicU32::new(0),
        }
    }

    /// The counters of what comes in this rule's place. The last use stays even if the counts don't.
    fn inherited(&self, reset: bool) -> Arc<Stats> {
        if reset {
            let used = AtomicU64::new(self.stats.used.load(Ordering::Relaxed));
            Arc::new(Stats { used, ..Stats::default() })
        } else {
            Arc::clone(&self.stats)
        }
    }

    /// Adds what programs have counted; any thread may. `used` is when the last packet was handled.
    pub fn count(&self, packets: u64, bytes: u64, used: Duration) {
        self.stats.packets.fetch_add(packets, Ordering::Relaxed);
        self.stats.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.stats.used.fetch_max(nanos(used), Ordering::Relaxed);
    }

    /// What it has counted.
    pub fn stats(&self) -> RuleStats {
        RuleStats {
            packets: self.stats.packets.load(Ordering::Relaxed),
            bytes: self.stats.bytes.load(Ordering::Relaxed),
            used: Duration::from_nanos(self.stats.used.load(Ordering::Relaxed)),
        }
    }

    /// Seconds without a packet after which it goes; 0 is never.
    pub fn idle_timeout(&self) -> u16 {
        self.idle_timeout.load(Ordering::Relaxed)
    }

    /// Seconds after its last modification after which it goes; 0 is never.
    pub fn hard_timeout(&self) -> u16 {
        self.hard_timeout.load(Ordering::Relaxed)
    }

    /// When it was last added, modified or learned again, since the process's start.
    pub fn last_modified(&self) -> Duration {
        Duration::from_nanos(self.modified.load(Ordering::Relaxed))
    }

    /// Its hard timeout counts from `now` on, if it did from an earlier time.
    pub(super) fn refresh(&self, now: Duration) {
        self.modified.fetch_max(nanos(now), Ordering::Relaxed);
    }

    /// Lowers timeouts; 0 leaves one as it is. Whether one has become lower.
    pub(super) fn reduce_timeouts(&self, idle: u16, hard: u16) -> bool {
        let reduce = |timeout: &AtomicU16, most: u16| {
            let lower = |old: u16| (most != 0 && (old == 0 || old > most)).then_some(most);
            timeout.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower).is_ok()
        };
        let idle = reduce(&self.idle_timeout, idle);
        reduce(&self.hard_timeout, hard) || idle
    }

    /// The rule as text has it.
    pub fn line(&self) -> FlowLine<'_> {
        FlowLine {
            table: self.table.0,
            priority: self.priority,
            matches: &self.matches,
            cookie: self.cookie,
            idle_timeout: self.idle_timeout(),
            hard_timeout: self.hard_timeout(),
            importance: self.importance,
            flags: self.flags,
            actions: &self.actions,
        }
    }

    /// When it goes if nothing happens any more, and why.
    pub fn deadline(&self) -> Option<(Duration, RemovedReason)> {
        let after = |since: Duration, timeout: u16, reason| {
            (timeout != 0).then(|| (since + Duration::from_secs(timeout.into()), reason))
        };
        let hard = after(self.last_modified(), self.hard_timeout(), RemovedReason::HardTimeout);
        let idle = after(self.stats().used, self.idle_timeout(), RemovedReason::IdleTimeout);
        // Of equals the hard one, as Open vSwitch reports it.
        hard.into_iter().chain(idle).min_by_key(|(deadline, _)| *deadline)
    }

    /// Whether it is a clause of a conjunctive match, and so never decides by itself.
    pub fn is_clause(&self) -> bool {
        self.clauses().next().is_some()
    }

    pub(super) fn clauses(&self) -> impl Iterator<Item = Clause> {
        self.actions.iter().filter_map(|action| match action {
            Action::Conjunction { id, clause, clauses } => {
                Some(Clause { id: *id, clauses: *clauses, clause: *clause })
            }
            _ => None,
        })
    }
}

/// A time as atomics hold it. Enough for 584 years.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
