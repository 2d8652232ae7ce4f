//! The tables of one bridge as others hold them: load, change, learn, expire.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use crossbeam::queue::{ArrayQueue, SegQueue};
use weft_flow::Action;
use weft_flow::message::FlowMod;
use weft_wire::OfPort;

use super::draft::{Draft, Step, Writer};
use super::error::{ChangeError, Refused};
use super::flows::Scope;
use super::{Change, FlowRemoved, Rule, Tables};

/// How many flow-removed events wait for whoever drains them; more are counted and lost.
const EVENTS: usize = 65536;
/// How many rules one call of [`FlowTables::expire`] looks at.
const EXPIRE_SLICE: usize = 8192;

/// The rules, groups and meters of one bridge. See the module's text.
#[derive(Debug)]
pub struct FlowTables {
    current: ArcSwap<Tables>,
    version: AtomicU64,
    pub(super) writer: Mutex<Writer>,
    removed: ArrayQueue<FlowRemoved>,
    lost: AtomicU64,
    /// Rules whose timeouts workers have lowered.
    shortened: SegQueue<Arc<Rule>>,
}

/// What a commit did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// The version that is now current.
    pub version: u64,
    /// Rules that are new.
    pub added: usize,
    /// Rules in whose place another one stands.
    pub replaced: usize,
    /// Rules that are gone.
    pub removed: usize,
}

/// A bundle that is ready: nobody sees it yet. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Prepared<'a> {
    tables: &'a FlowTables,
    draft: Draft<'a>,
}

/// What [`FlowTables::expire`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Expired {
    /// Rules that are gone.
    pub rules: usize,
    /// There are more that are due: call again.
    pub more: bool,
}

impl FlowTables {
    /// Without any rule.
    pub fn new() -> Arc<Self> {
        let tables = Tables { version: 1, ..Tables::default() };
        Arc::new(FlowTables {
            version: AtomicU64::new(tables.version),
            current: ArcSwap::from_pointee(tables),
            writer: Mutex::default(),
            removed: ArrayQueue::new(EVENTS),
            lost: AtomicU64::new(0),
            shortened: SegQueue::new(),
        })
    }

    /// With the one rule of a plain bridge: `table=0, priority=0 actions=NORMAL`.
    pub fn normal() -> Arc<Self> {
        let tables = FlowTables::new();
        let actions = Box::new([Action::Output(OfPort::NORMAL)]);
        let rule = Change::Flow(FlowMod { priority: 0, actions, ..FlowMod::default() });
        if let Ok(prepared) = tables.prepare(std::slice::from_ref(&rule), Duration::ZERO) {
            prepared.commit();
        }
        tables
    }

    /// The current root. Workers load it once per walk.
    pub fn load(&self) -> Guard<Arc<Tables>> {
        self.current.load()
    }

    /// The current version: whoever sees it gets at least its root from [`FlowTables::load`].
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a bundle ready: all of its changes, in order, or none. `now` is the time since the process's start.
    ///
    /// Holds the writer's lock until it is committed or dropped. Errors: the first change that can't be, and why.
    pub fn prepare(&self, changes: &[Change], now: Duration) -> Result<Prepared<'_>, ChangeError> {
        let mut draft = self.draft(self.lock(), now);
        for (index, change) in changes.iter().enumerate() {
            draft.change(change).map_err(|why| ChangeError { index, why })?;
        }
        Ok(self.prepared(draft))
    }

    pub(super) fn draft<'a>(&'a self, writer: MutexGuard<'a, Writer>, now: Duration) -> Draft<'a> {
        Draft::new(writer, &self.current.load(), now)
    }

    pub(super) fn prepared<'a>(&'a self, mut draft: Draft<'a>) -> Prepared<'a> {
        draft.settle();
        Prepared { tables: self, draft }
    }

    /// Lowers a rule's timeouts (`fin_timeout`), in seconds; 0 leaves one as it is. Never waits.
    pub fn reduce_timeouts(&self, rule: &Arc<Rule>, idle: u16, hard: u16) {
        if rule.reduce_timeouts(idle, hard) {
            self.shortened.push(Arc::clone(rule));
        }
    }

    /// Deletes rules whose time is over, as many as one slice allows. Counters have to be rolled up before.
    pub fn expire(&self, now: Duration) -> Expired {
        let mut draft = self.draft(self.lock(), now);
        while let Some(rule) = self.shortened.pop() {
            draft.reschedule(&rule);
        }
        let more = draft.expire(EXPIRE_SLICE);
        let rules = self.prepared(draft).commit().removed;
        Expired { rules, more }
    }

    /// The flow-removed events since the last call, oldest first.
    pub fn drain_removed(&self) -> Vec<FlowRemoved> {
        std::iter::from_fn(|| self.removed.pop()).take(EVENTS).collect()
    }

    /// How many flow-removed events were lost because nobody drained them.
    pub fn lost_removed(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn publish(&self, next: Tables, writer: &mut Writer) {
        let version = next.version;
        writer.retired.push(self.current.swap(Arc::new(next)));
        self.version.store(version, Ordering::Release);
    }

    fn announce(&self, events: Vec<FlowRemoved>) {
        for event in events {
            if self.removed.push(event).is_err() {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Prepared<'_> {
    /// The tables as they will be.
    pub fn tables(&self) -> &Tables {
        &self.draft.next
    }

    /// Makes them the current ones, by one store.
    pub fn commit(self) -> Outcome {
        let mut garbage = Vec::new();
        self.commit_keeping(&mut |writer| {
            // Nobody can get at a replaced root any more: who holds it not now never will.
            garbage.extend(writer.retired.extract_if(.., |root| Arc::strong_count(root) == 1));
        })
        // Here, behind the lock, what nobody holds is freed.
    }

    /// The same; `reap` sees the writer's state at the end.
    pub(super) fn commit_keeping(mut self, reap: &mut dyn FnMut(&mut Writer)) -> Outcome {
        let count = |of: fn(&Step) -> bool| self.draft.steps.iter().filter(|step| of(step)).count();
        let mut outcome = Outcome {
            version: 0,
            added: count(|step| matches!(step, Step::Added(_))),
            replaced: count(|step| matches!(step, Step::Replaced(..))),
            removed: count(|step| matches!(step, Step::Removed(_))),
        };
        if let Some((next, events)) = self.draft.finish() {
            self.tables.publish(next, &mut self.draft.writer);
            self.tables.announce(events);
        }
        reap(&mut self.draft.writer);
        outcome.version = self.tables.version();
        outcome
    }
}

impl Draft<'_> {
    fn change(&mut self, change: &Change) -> Result<(), Refused> {
        match change {
            Change::Flow(flow) => self.flow(Scope::Users, flow),
            Change::FlowIn(table, flow) => self.flow(Scope::Table(*table), flow),
            Change::Group(group) => self.group(group),
            Change::Meter(meter) => self.meter(meter),
            Change::Table(table) => self.table(table),
        }
    }

    /// A rule's timeouts are others now, if it is still there.
    fn reschedule(&mut self, rule: &Arc<Rule>) {
        let there = self.next.rule(rule.table, rule.priority, &rule.matches);
        if there.is_some_and(|there| Arc::ptr_eq(there, rule)) {
            self.writer.index.schedule(rule);
        }
    }

    /// Removes rules that are due, after looking at `slice` at most. Whether there may be more.
    fn expire(&mut self, slice: usize) -> bool {
        let now = super::rule::nanos(self.now);
        for _ in 0..slice {
            let due = self.writer.index.first_deadline().filter(|(deadline, _)| *deadline < now);
            let Some(rule) = due.map(|(_, rule)| Arc::clone(rule)) else { return false };
            match rule.deadline().filter(|(deadline, _)| *deadline < self.now) {
                Some((_, reason)) => {
                    self.remove(&rule, reason);
                    self.remove_forsaken();
                }
                // It was used, modified or learned again.
                None => self.writer.index.schedule(&rule),
            }
        }
        true
    }
}
