//! All connections, the plain way: maps behind one lock. What the real table is held against in tests.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::control::{Connection, Filter, Settings, Statistics, ZoneLimit};
use crate::expect::{Expected, Unexpected};
use crate::expectations::{Class, OF_ONE};
use crate::hash::{Key, spread};
use crate::link::{Absence, Link, Target};
use crate::nat::{self, Side, Translation};
use crate::protocol::{self, Kind, Outcome, Progress};
use crate::request::{Commit, Helper, Refusal, Request, Segment, Tracked};
use crate::state::{Direction, State};
use crate::tcp;
use crate::timeouts::{Timeout, Timeouts};
use crate::tuple::Tuple;

/// All connections of the switch. See the crate's text.
#[derive(Debug)]
pub struct Naive {
    world: Mutex<World>,
    liberal: AtomicBool,
    key: Key,
    settings: Settings,
}

#[derive(Debug, Default)]
struct World {
    connections: BTreeMap<u32, Entry>,
    index: HashMap<(u16, Tuple), (u32, Direction)>,
    next: u32,
    /// Counts what may be found that was absent before.
    put: u32,
    zones: HashMap<u16, u32>,
    limits: HashMap<u16, ZoneLimit>,
    default_limit: Option<u32>,
    timeouts: HashMap<u16, Timeouts>,
    default_timeouts: Timeouts,
    expected: Vec<Expectation>,
    statistics: Statistics,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    zone: u16,
    original: Tuple,
    reply: Tuple,
    nat: Option<Side>,
    mark: u32,
    label: u128,
    progress: Progress,
    timeout: Timeout,
    expiry: u32,
    epoch: u32,
    helper: Option<Helper>,
    parent: Option<Tuple>,
}

#[derive(Clone, Copy, Debug)]
struct Expectation {
    expected: Expected,
    zone: u16,
    mark: u32,
    label: u128,
    original: Tuple,
    until: u32,
}

/// A connection, as far as it matters who goes: of one that has expired, and another in its place, the table has both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Who {
    pub zone: u16,
    pub original: Tuple,
    pub helper: Option<Helper>,
    pub answered: bool,
    pub expired: bool,
}

/// Seconds for which a connection is expected.
const PATIENCE: u32 = 300;

impl Naive {
    /// A tracker without connections.
    ///
    /// # Errors
    /// There is no memory for so many.
    pub fn new(settings: Settings) -> io::Result<Self> {
        Ok(Naive {
            world: Mutex::default(),
            liberal: AtomicBool::new(false),
            key: Key::new(settings.secret),
            settings,
        })
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What one `ct(..)` does: finds the packet's connection or makes one, moves its state on, and says how the packet
    /// is to be seen and translated.
    pub fn track(&self, request: &Request<'_>) -> Tracked {
        let mut world = self.world();
        let answer = Work { tracker: self, world: &mut world, request }.run();
        if request.effects {
            world.statistics.invalid += u64::from(answer.state.has(State::INV));
            if let Some(refusal) = answer.refused {
                let counters = &mut world.statistics;
                *match refusal {
                    Refusal::Full => &mut counters.refused_full,
                    Refusal::ZoneLimit => &mut counters.refused_zone,
                    Refusal::NatExhausted => &mut counters.refused_nat,
                    Refusal::Clash => &mut counters.refused_clash,
                } += 1;
            }
        }
        answer
    }

    /// A hit of a cached decision: whether rules would see what they saw when the link was made. If so, the connection's
    /// age starts anew and its windows slide. If not, nothing has happened, and [`Connections::track`] is to be asked.
    ///
    /// `segment` is called for TCP alone. Takes no lock and allocates nothing.
    pub fn step(&self, link: Link, second: u32, segment: impl FnOnce() -> Option<Segment>) -> bool {
        let mut world = self.world();
        match link.target() {
            Target::Nothing => link.epoch == 0,
            Target::Absent(_, _, why) => {
                let begins = || segment().is_some_and(|segment| tcp::may_begin(segment.flags));
                link.has_sum(world.put)
                    && match why {
                        Absence::Any => true,
                        Absence::TcpNew => begins(),
                        Absence::TcpInvalid => !begins(),
                    }
            }
            Target::Entry(id, direction) => {
                let Some(seconds) = world.seconds(id as u32) else { return false };
                let Some(entry) = world.connections.get_mut(&(id as u32)) else { return false };
                entry.holds(link, second) && entry.step(direction, segment) && {
                    entry.expiry = second.saturating_add(seconds);
                    true
                }
            }
        }
    }

    /// Whether the link's epoch is still the one that it was. Says nothing of a TCP segment.
    pub fn holds(&self, link: Link, second: u32) -> bool {
        let world = self.world();
        match link.target() {
            Target::Nothing => link.epoch == 0,
            Target::Absent(..) => link.has_sum(world.put),
            Target::Entry(id, _) => {
                world.connections.get(&(id as u32)).is_some_and(|entry| entry.holds(link, second))
            }
        }
    }

    /// Expects a connection.
    ///
    /// # Errors
    /// See [`Unexpected`].
    pub fn expect(&self, expected: &Expected, second: u32) -> Result<(), Unexpected> {
        let mut world = self.world();
        let Target::Entry(id, _) = expected.parent.target() else { return Err(Unexpected::NoParent) };
        let parent = world.connections.get(&(id as u32)).copied().ok_or(Unexpected::NoParent)?;
        if parent.epoch != expected.parent.epoch || second >= parent.expiry {
            return Err(Unexpected::NoParent);
        }
        world.expected.retain(|other| second < other.until);
        let same = |other: &Expectation| other.zone == parent.zone && other.expected.tuple == expected.tuple;
        if world.expected.iter().any(same) {
            return Err(Unexpected::Known);
        }
        let of_parent = |other: &Expectation| (other.zone, other.original) == (parent.zone, parent.original);
        if world.expected.iter().filter(|other| of_parent(other)).count() >= OF_ONE as usize {
            let oldest = world.expected.iter().position(of_parent);
            oldest.map(|at| world.expected.remove(at));
        }
        if world.expected.len() >= self.settings.expectations as usize {
            world.statistics.refused_expectations += 1;
            return Err(Unexpected::Full);
        }
        let until = second.saturating_add(PATIENCE);
        let Entry { zone, mark, label, original, .. } = parent;
        world.expected.push(Expectation { expected: *expected, zone, mark, label, original, until });
        world.put = world.put.wrapping_add(1);
        Ok(())
    }

    /// Sweeps `budget` entries for what has expired, and says how many that were. Called often with a small budget, it
    /// goes round the whole table.
    pub fn expire(&self, second: u32, budget: usize) -> usize {
        let _ = budget;
        let mut world = self.world();
        world.expected.retain(|expectation| second < expectation.until);
        let old: Vec<u32> =
            world.connections.iter().filter(|(_, entry)| second >= entry.expiry).map(|(&id, _)| id).collect();
        old.iter().for_each(|&id| world.remove(id));
        world.statistics.expired += old.len() as u64;
        old.len()
    }

    /// Shows each live connection that the filter covers, in no order. The table may change meanwhile.
    pub fn list(&self, filter: &Filter, second: u32, visit: &mut dyn FnMut(&Connection)) {
        let world = self.world();
        for entry in world.connections.values().filter(|entry| second < entry.expiry) {
            let connection = entry.show(second);
            if filter.covers(&connection) {
                visit(&connection);
            }
        }
    }

    /// Ends each live connection that the filter covers, and says how many that were.
    pub fn flush(&self, filter: &Filter, second: u32) -> u64 {
        let mut world = self.world();
        let covered = |entry: &Entry| second < entry.expiry && filter.covers(&entry.show(second));
        let gone: Vec<u32> =
            world.connections.iter().filter(|(_, entry)| covered(entry)).map(|(&id, _)| id).collect();
        gone.iter().for_each(|&id| world.remove(id));
        world.statistics.flushed += gone.len() as u64;
        gone.len() as u64
    }

    /// Zones that have connections, with their number (expired ones count until they are swept).
    pub fn zones(&self) -> Vec<(u16, u32)> {
        let mut zones: Vec<_> =
            self.world().zones.iter().map(|(&zone, &n)| (zone, n)).filter(|&(_, n)| n > 0).collect();
        zones.sort_unstable();
        zones
    }

    /// A zone's limit. A zone that has more connections keeps them.
    pub fn set_zone_limit(&self, zone: u16, limit: ZoneLimit) {
        self.world().limits.insert(zone, limit);
    }

    /// The timeout policy of a zone; `None` is the default. Counts from a connection's next packet on.
    pub fn set_timeouts(&self, zone: u16, timeouts: Option<Timeouts>) {
        let mut world = self.world();
        match timeouts {
            Some(timeouts) => world.timeouts.insert(zone, timeouts),
            None => world.timeouts.remove(&zone),
        };
    }

    /// Whether TCP segments outside of their windows are invalid; so they are at first.
    pub fn set_window_check(&self, check: bool) {
        self.liberal.store(!check, Ordering::Relaxed);
    }

    /// Who may go for a connection that this tuple begins in this zone: those that have expired, and, in a zone that has no fewer of
    /// them, those that nobody has answered.
    fn candidates(world: &World, zone: u16, tuple: &Tuple, second: u32) -> Vec<u32> {
        let parent = world.expected(zone, tuple, second).and_then(|at| world.expected.get(at));
        let may_go = |entry: &Entry| {
            let is_parent =
                parent.is_some_and(|parent| (parent.zone, parent.original) == (entry.zone, entry.original));
            let is_fair = entry.zone == zone || world.unanswered(entry.zone) > world.unanswered(zone);
            !is_parent && (second >= entry.expiry || !entry.progress.is_answered() && is_fair)
        };
        world.connections.iter().filter(|(_, entry)| may_go(entry)).map(|(&id, _)| id).collect()
    }

    /// Whether anybody may go for it.
    pub fn has_candidates(&self, zone: u16, tuple: &Tuple, second: u32) -> bool {
        !Naive::candidates(&self.world(), zone, tuple, second).is_empty()
    }

    /// The table has put it out for one that a tuple will begin in a zone.
    pub fn put_out(&self, who: Who, (zone, tuple): (u16, Tuple), second: u32) {
        let mut world = self.world();
        let is_it = |id: &u32| world.connections.get(id).is_some_and(|entry| entry.who(second) == who);
        let id = Naive::candidates(&world, zone, &tuple, second).into_iter().find(is_it);
        world.remove(id.unwrap_or_else(|| panic!("{who:?} may not go")));
        let counters = &mut world.statistics;
        *if who.expired { &mut counters.expired } else { &mut counters.early_drop } += 1;
    }

    /// How many connections of a zone nobody has answered.
    pub fn unanswered(&self, zone: u16) -> u32 {
        self.world().unanswered(zone)
    }

    /// Counters.
    pub fn statistics(&self) -> Statistics {
        let world = self.world();
        Statistics {
            connections: world.connections.len() as u32,
            max: self.settings.max,
            expectations: world.expected.len() as u32,
            ..world.statistics
        }
    }
}

impl Entry {
    fn holds(&self, link: Link, second: u32) -> bool {
        self.epoch == link.epoch && second < self.expiry
    }

    fn step(&mut self, direction: Direction, segment: impl FnOnce() -> Option<Segment>) -> bool {
        if !self.progress.quiet(direction) || !self.progress.keeps(self.timeout) {
            return false;
        }
        if self.progress.kind != Kind::Tcp {
            return true;
        }
        let [first, second] = &mut self.progress.peers;
        let (source, destination) = match direction {
            Direction::Original => (first, second),
            Direction::Reply => (second, first),
        };
        segment().is_some_and(|segment| tcp::advance(source, destination, &segment))
    }

    fn who(&self, second: u32) -> Who {
        let Entry { zone, original, helper, progress, expiry, .. } = *self;
        Who { zone, original, helper, answered: progress.is_answered(), expired: second >= expiry }
    }

    fn translation(&self, direction: Direction) -> Option<Translation> {
        self.nat.map(|side| Translation::of(side, direction, &self.original, &self.reply))
    }

    fn show(&self, second: u32) -> Connection {
        let Entry { zone, original, reply, nat, mark, label, progress, timeout, helper, parent, .. } = *self;
        let left = self.expiry.saturating_sub(second);
        Connection { zone, original, reply, nat, mark, label, progress, timeout, left, helper, parent }
    }
}

impl World {
    fn policy(&self, zone: u16) -> Timeouts {
        self.timeouts.get(&zone).copied().unwrap_or(self.default_timeouts)
    }

    fn seconds(&self, id: u32) -> Option<u32> {
        self.connections.get(&id).map(|entry| self.policy(entry.zone).get(entry.timeout))
    }

    fn find(&self, zone: u16, tuple: &Tuple, second: u32) -> Option<(u32, Direction)> {
        let &(id, direction) = self.index.get(&(zone, *tuple))?;
        self.connections.get(&id).filter(|entry| second < entry.expiry).map(|_| (id, direction))
    }

    fn unanswered(&self, zone: u16) -> u32 {
        let is = |entry: &&Entry| entry.zone == zone && !entry.progress.is_answered();
        self.connections.values().filter(is).count() as u32
    }

    fn full(&self, zone: u16, settings: &Settings) -> Option<Refusal> {
        let limit = match self.limits.get(&zone).copied().unwrap_or_default() {
            ZoneLimit::Default => self.default_limit,
            ZoneLimit::Unlimited => None,
            ZoneLimit::AtMost(limit) => Some(limit),
        };
        if limit.is_some_and(|limit| self.zones.get(&zone).copied().unwrap_or(0) >= limit) {
            Some(Refusal::ZoneLimit)
        } else {
            (self.connections.len() >= settings.max as usize).then_some(Refusal::Full)
        }
    }

    fn insert(&mut self, entry: Entry) -> u32 {
        let id = self.next;
        self.next += 1;
        self.put = self.put.wrapping_add(1);
        // The first wins where both directions are one.
        self.index.insert((entry.zone, entry.reply), (id, Direction::Reply));
        self.index.insert((entry.zone, entry.original), (id, Direction::Original));
        *self.zones.entry(entry.zone).or_default() += 1;
        self.connections.insert(id, entry);
        self.statistics.created += 1;
        id
    }

    fn remove(&mut self, id: u32) {
        let Some(entry) = self.connections.remove(&id) else { return };
        for tuple in [entry.original, entry.reply] {
            if self.index.get(&(entry.zone, tuple)).is_some_and(|&(other, _)| other == id) {
                self.index.remove(&(entry.zone, tuple));
            }
        }
        *self.zones.entry(entry.zone).or_default() -= 1;
        if entry.helper.is_some() {
            self.expected.retain(|other| other.zone != entry.zone || other.original != entry.original);
        }
    }

    fn expected(&self, zone: u16, tuple: &Tuple, second: u32) -> Option<usize> {
        self.expected.iter().position(|expectation| {
            let Expected { tuple: wanted, any_source, .. } = expectation.expected;
            let shown = Tuple {
                src: if any_source { wanted.src } else { tuple.src },
                src_port: if wanted.src_port == 0 { 0 } else { tuple.src_port },
                ..*tuple
            };
            expectation.zone == zone && shown == wanted && second < expectation.until
        })
    }
}

/// One request at work.
struct Work<'a> {
    tracker: &'a Naive,
    world: &'a mut World,
    request: &'a Request<'a>,
}

impl Work<'_> {
    fn run(&mut self) -> Tracked {
        let Request { zone, facts, before, second, .. } = *self.request;
        let before = before.filter(|before| before.zone == zone);
        if let Some(answer) = self.again() {
            return answer;
        }
        let Some(tuple) = facts.key() else { return Tracked::invalid(zone) };
        let state = before.map(|before| before.state).unwrap_or_default();
        let translated = state.any(State::SNAT | State::DNAT);
        let sought = if translated { tuple.reversed() } else { tuple };
        let mut found = self.world.find(zone, &sought, second);
        if translated {
            found = found.map(|(id, direction)| (id, direction.opposite()));
        }
        let force = self.request.commit.is_some_and(|commit| commit.force) && facts.inner.is_none();
        if let (Some((id, Direction::Reply)), true) = (found, force) {
            self.replace(id);
            found = None;
        }
        match found {
            Some((id, direction)) => self.found(id, direction, state),
            None if facts.inner.is_some() => Tracked { original: Some(tuple), ..Tracked::invalid(zone) },
            None => self.absent(&tuple),
        }
    }

    /// The second `ct(..)` in the same zone: the connection has seen the packet already.
    fn again(&mut self) -> Option<Tracked> {
        let Request { zone, before, commit, second, .. } = *self.request;
        let before = before.filter(|before| before.zone == zone)?;
        let Target::Entry(id, direction) = before.connection.target() else { return None };
        let entry = self.world.connections.get(&(id as u32))?;
        if !entry.holds(before.connection, second) || commit.is_some_and(|commit| commit.force) {
            return None;
        }
        let answer = Tracked { state: before.state, ..Tracked::nothing(zone) };
        let settled = self.request.facts.inner.is_none();
        Some(self.answer(id as u32, direction, answer, settled))
    }

    fn replace(&mut self, id: u32) {
        if self.request.effects {
            self.world.remove(id);
            self.world.statistics.replaced += 1;
        }
    }

    fn found(&mut self, id: u32, direction: Direction, mut state: State) -> Tracked {
        let Request { zone, facts, second, effects, .. } = *self.request;
        let Some(entry) = self.world.connections.get(&id).copied() else { return Tracked::invalid(zone) };
        let reply = if direction == Direction::Reply { State::RPL } else { State::NONE };
        let mut settled = false;
        if facts.inner.is_some() {
            state |= State::REL | reply;
        } else {
            if entry.parent.is_some() {
                state |= State::REL;
            }
            let liberal = self.tracker.liberal.load(Ordering::Relaxed);
            let mut progress = entry.progress;
            let verdict = progress.update(direction, facts.tcp.as_ref(), liberal);
            if effects {
                let policy = self.world.policy(entry.zone);
                if let Some(entry) = self.world.connections.get_mut(&id) {
                    if let Some(timeout) = verdict.refresh {
                        entry.timeout = timeout;
                        entry.expiry = second.saturating_add(policy.get(timeout));
                    }
                    entry.epoch += u32::from(entry.progress.visible() != progress.visible());
                    entry.progress = progress;
                }
            }
            settled = verdict.outcome == Outcome::Established
                || (verdict.outcome == Outcome::New && progress.kind != Kind::Tcp);
            match verdict.outcome {
                Outcome::Established => state = (state | State::EST | reply).without(State::NEW),
                Outcome::New => state |= State::NEW,
                Outcome::Invalid => state = State::INV,
                Outcome::Again => {
                    self.replace(id);
                    return facts.key().map_or(Tracked::invalid(zone), |tuple| self.absent(&tuple));
                }
            }
        }
        self.answer(id, direction, Tracked { state, ..Tracked::nothing(zone) }, settled)
    }

    /// Fills in what the connection says.
    fn answer(&mut self, id: u32, direction: Direction, mut answer: Tracked, settled: bool) -> Tracked {
        let Request { facts, commit, translate, effects, .. } = *self.request;
        let Some(stored) = self.world.connections.get_mut(&id) else { return answer };
        let mut entry = *stored;
        let done = answer.state.any(State::SNAT | State::DNAT);
        if (translate || commit.is_some_and(|commit| commit.nat.is_some())) && !done {
            answer.translation = entry
                .translation(direction)
                .map(|translation| Translation { related: facts.inner.is_some(), ..translation });
            answer.state |= answer.translation.map(|translation| translation.state()).unwrap_or_default();
        }
        if let (Some(commit), None) = (commit, entry.parent) {
            let before = (entry.mark, entry.label);
            entry.mark = commit.mark.apply(entry.mark);
            entry.label = commit.label.apply(entry.label);
            entry.epoch += u32::from(before != (entry.mark, entry.label));
        }
        if effects {
            *stored = entry;
        }
        answer.state |= State::TRK;
        answer.connection = Link::entry(id as usize, direction, entry.epoch);
        if settled && entry.helper.is_none() {
            answer.link = answer.connection;
        }
        Tracked {
            mark: entry.mark,
            label: entry.label,
            original: Some(entry.parent.unwrap_or(entry.original)),
            helper: entry.helper,
            ..answer
        }
    }

    fn absent(&mut self, tuple: &Tuple) -> Tracked {
        let Request { zone, facts, before, commit, second, effects, .. } = *self.request;
        let expectation = self.world.expected(zone, tuple, second);
        let mut answer = Tracked { original: Some(*tuple), ..Tracked::nothing(zone) };
        if let Some(expectation) = expectation.and_then(|at| self.world.expected.get(at)) {
            (answer.mark, answer.label) = (expectation.mark, expectation.label);
            answer.original = Some(expectation.original);
        }
        let begins = protocol::may_begin(facts);
        answer.state |= if begins { State::NEW } else { State::INV };
        let turned =
            before.filter(|before| before.zone == zone && before.state.any(State::SNAT | State::DNAT));
        if expectation.is_none() && turned.is_none() {
            let why = match (Kind::of(tuple), begins) {
                (Kind::Tcp, true) => Absence::TcpNew,
                (Kind::Tcp, false) => Absence::TcpInvalid,
                _ => Absence::Any,
            };
            answer.link = Link::absent((0, Class(0)), why, self.world.put);
        }
        if !begins {
            return answer;
        }
        if expectation.is_some() {
            answer.state |= State::REL;
        }
        let Some(commit) = commit else { return answer };
        answer.link = Link::NEVER;
        match self.make(tuple, commit, expectation) {
            Ok(entry) if effects => {
                let id = self.world.insert(entry);
                if let Some(at) = expectation {
                    self.world.expected.remove(at);
                    self.world.statistics.expected += 1;
                }
                let fresh = Tracked { state: answer.state, created: true, ..Tracked::nothing(zone) };
                self.answer(id, Direction::Original, fresh, false)
            }
            Ok(entry) => trace(&entry, commit, answer),
            Err(refusal) => Tracked { refused: Some(refusal), ..answer },
        }
    }

    fn make(&self, tuple: &Tuple, commit: &Commit, expectation: Option<usize>) -> Result<Entry, Refusal> {
        let Request { zone, facts, second, translate, .. } = *self.request;
        if let Some(refusal) = self.world.full(zone, &self.tracker.settings) {
            return Err(refusal);
        }
        let parent = expectation.and_then(|at| self.world.expected.get(at)).copied();
        let (reply, nat) = match (parent, commit.nat) {
            (Some(parent), nat) if translate || nat.is_some() => self.foretold(tuple, &parent)?,
            (None, Some(nat)) => (self.translated(tuple, &nat)?, Some(nat.side)),
            _ => (tuple.reversed(), None),
        };
        if nat.is_none() && self.taken(&reply) {
            return Err(Refusal::Clash);
        }
        let (progress, timeout) = Progress::begin(facts);
        Ok(Entry {
            zone,
            original: *tuple,
            reply,
            nat,
            mark: parent.map_or(0, |parent| parent.mark),
            label: parent.map_or(0, |parent| parent.label),
            progress,
            timeout,
            expiry: second.saturating_add(self.world.policy(zone).get(timeout)),
            epoch: 0,
            helper: commit.helper.filter(|helper| helper.is_for(tuple)),
            parent: parent.map(|parent| parent.original),
        })
    }

    fn taken(&self, reply: &Tuple) -> bool {
        self.world.find(self.request.zone, reply, self.request.second).is_some()
    }

    fn foretold(&self, tuple: &Tuple, parent: &Expectation) -> Result<(Tuple, Option<Side>), Refusal> {
        let mut reply = tuple.reversed();
        match parent.expected.translation {
            Some((Side::Source, address)) => reply.dst = address,
            Some((Side::Destination, address)) => reply.src = address,
            None => return Ok((reply, None)),
        }
        let side = parent.expected.translation.map(|(side, _)| side);
        if self.taken(&reply) { Err(Refusal::NatExhausted) } else { Ok((reply, side)) }
    }

    fn translated(&self, tuple: &Tuple, nat: &nat::Nat) -> Result<Tuple, Refusal> {
        let random = spread(self.world.statistics.created ^ u64::from(self.request.second) << 40);
        let number = nat::number(nat, tuple, self.request.zone, &self.tracker.key, random);
        nat::choose(nat, tuple, number, |reply| self.taken(reply)).ok_or(Refusal::NatExhausted)
    }
}

/// What would be said of a connection that is only traced.
fn trace(entry: &Entry, commit: &Commit, answer: Tracked) -> Tracked {
    let translation = entry.translation(Direction::Original);
    let (mark, label) = match entry.parent {
        None => (commit.mark.apply(0), commit.label.apply(0)),
        Some(_) => (entry.mark, entry.label),
    };
    let state = answer.state | translation.map(|translation| translation.state()).unwrap_or_default();
    Tracked { state, mark, label, translation, created: true, helper: entry.helper, ..answer }
}
