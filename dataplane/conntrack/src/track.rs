//! One `ct(..)` at work.
//!
//! A connection that is found is read without a lock, and judged: what this packet makes of it. If that is only its age
//! and its windows, they are written as a hit writes them. Else its lock is taken, and it is judged again as it is then.
//! Whoever finds that another worker was quicker begins anew.

use std::sync::atomic::Ordering;

use crate::connections::{Connections, Found, Sought};
use crate::entry::{Entry, Image};
use crate::expectations::Expectation;
use crate::index::Place;
use crate::link::{Absence, Link, Target};
use crate::nat::Translation;
use crate::protocol::{self, Kind, Outcome, Verdict};
use crate::request::{Before, Commit, Request, Tracked};
use crate::state::{Direction, State};
use crate::tally::Count;
use crate::tuple::Tuple;

/// How often a request begins anew before it gives up: others would have to be quicker each time.
const ATTEMPTS: usize = 1000;

/// One request.
pub(crate) struct Work<'a> {
    pub tracker: &'a Connections,
    pub request: &'a Request<'a>,
    /// What was said of the packet before, in this zone.
    before: Option<Before>,
}

/// What a packet makes of a connection.
struct Judgement {
    image: Image,
    /// `None` if it takes no part in the connection's state.
    verdict: Option<Verdict>,
}

impl<'a> Work<'a> {
    pub fn new(tracker: &'a Connections, request: &'a Request<'a>) -> Self {
        Work { tracker, request, before: request.before.filter(|before| before.zone == request.zone) }
    }

    pub fn run(&self) -> Tracked {
        if let Some(answer) = self.again() {
            return answer;
        }
        let Some(tuple) = self.request.facts.key() else { return Tracked::invalid(self.request.zone) };
        (0..ATTEMPTS).find_map(|_| self.attempt(&tuple)).unwrap_or(Tracked::invalid(self.request.zone))
    }

    /// The second `ct(..)` in the same zone: the connection has seen the packet already.
    fn again(&self) -> Option<Tracked> {
        let before = self.before?;
        let Target::Entry(slot, direction) = before.connection.target() else { return None };
        let live = self.tracker.holds(before.connection, self.request.second);
        if !live || self.request.commit.is_some_and(|commit| commit.force) {
            return None;
        }
        let found = Found { slot, direction, epoch: before.connection.epoch };
        let (entry, old) = self.read(&found)?;
        let judgement = Judgement { image: self.marked(&old), verdict: None };
        let epoch = self.write(entry, &found, (&old, &judgement))?;
        let connection = Link::entry(slot, direction, epoch);
        // What was said before depends on the link that was given then.
        let link = if self.is_ordinary(&old) { connection } else { Link::NEVER };
        Some(self.answer(
            &judgement.image,
            connection,
            Tracked { state: before.state, link, ..self.nothing() },
        ))
    }

    /// Whether it is neither an ICMP error nor to be shown to a helper.
    fn is_ordinary(&self, image: &Image) -> bool {
        image.helper.is_none() && self.request.facts.inner.is_none()
    }

    fn nothing(&self) -> Tracked {
        Tracked::nothing(self.request.zone)
    }

    fn attempt(&self, tuple: &Tuple) -> Option<Tracked> {
        let Request { zone, facts, second, effects, commit, .. } = *self.request;
        let generation = self.tracker.expectations.generation();
        let turned = self.before.is_some_and(|before| before.state.any(State::SNAT | State::DNAT));
        // What was translated in this zone is found by where its answers come from.
        let sought = if turned { tuple.reversed() } else { *tuple };
        let place = self.tracker.place(zone, &sought);
        let mut found = match self.tracker.find(place, zone, &sought, second) {
            Sought::Found(found) => found,
            Sought::Absent(_) if facts.inner.is_some() => {
                return Some(Tracked { original: Some(*tuple), ..Tracked::invalid(zone) });
            }
            Sought::Absent(epoch) => {
                return self.absent(tuple, (!turned).then(|| (place, epoch.wrapping_add(generation))));
            }
        };
        if turned {
            found.direction = found.direction.opposite();
        }
        // An ICMP error begins nothing, so it doesn't end anything either (in Open vSwitch it does).
        let force = commit.is_some_and(|commit| commit.force) && facts.inner.is_none();
        if found.direction == Direction::Reply && force {
            return self.replace(&found, effects, tuple);
        }
        self.found(&found, tuple)
    }

    /// The packet begins a new connection in this one's place.
    fn replace(&self, found: &Found, effects: bool, tuple: &Tuple) -> Option<Tracked> {
        if effects && !self.tracker.remove(found.slot, found.epoch, Count::Replaced, |_| true) {
            return None;
        }
        self.absent(tuple, None)
    }

    fn read(&self, found: &Found) -> Option<(&'a Entry, Image)> {
        let entry = self.tracker.arena.get(found.slot)?;
        let (image, epoch) = entry.read()?;
        (epoch == found.epoch).then_some((entry, image))
    }

    fn found(&self, found: &Found, tuple: &Tuple) -> Option<Tracked> {
        let (entry, old) = self.read(found)?;
        let mut judgement = self.judge(&old, found.direction);
        if judgement.verdict.is_some_and(|verdict| verdict.outcome == Outcome::Again) {
            return self.replace(found, self.request.effects, tuple);
        }
        let epoch = match self.write(entry, found, (&old, &judgement)) {
            Some(epoch) => epoch,
            None => {
                // Not as it was read: as it is now, under its lock.
                let home = entry.home.load(Ordering::Relaxed) as usize;
                let _held = self.tracker.index.lock(home, home);
                if entry.epoch.load(Ordering::Acquire) != found.epoch || !entry.linked() {
                    return None;
                }
                let old = entry.image();
                judgement = self.judge(&old, found.direction);
                if judgement.verdict.is_some_and(|verdict| verdict.outcome == Outcome::Again) {
                    return None;
                }
                entry.change(&old, &judgement.image)
            }
        };
        self.refresh(entry, &judgement);
        let link = Link::entry(found.slot, found.direction, epoch);
        let state = self.seen(&judgement, found.direction);
        let mut answer = self.answer(&judgement.image, link, Tracked { state, ..self.nothing() });
        if self.is_ordinary(&old) && judgement.lasts() {
            answer.link = link;
        }
        Some(answer)
    }

    /// What the packet makes of the connection.
    fn judge(&self, old: &Image, direction: Direction) -> Judgement {
        let facts = self.request.facts;
        let mut image = self.marked(old);
        let liberal = self.tracker.liberal.load(Ordering::Relaxed);
        let verdict =
            facts.inner.is_none().then(|| image.progress.update(direction, facts.tcp.as_ref(), liberal));
        if let Some(timeout) = verdict.and_then(|verdict| verdict.refresh) {
            image.timeout = timeout;
        }
        Judgement { image, verdict }
    }

    /// With the marks that a commit sets; an expected connection keeps its parent's.
    fn marked(&self, old: &Image) -> Image {
        match (self.request.commit, old.parent) {
            (Some(commit), None) => {
                Image { mark: commit.mark.apply(old.mark), label: commit.label.apply(old.label), ..*old }
            }
            _ => *old,
        }
    }

    /// Writes what can be written without a lock; `None` if there is more.
    fn write(&self, entry: &Entry, found: &Found, (old, new): (&Image, &Judgement)) -> Option<u32> {
        if !self.request.effects {
            return Some(found.epoch);
        }
        let same = (old.mark, old.label) == (new.image.mark, new.image.label);
        let calm = match new.verdict {
            None => true,
            Some(_) if new.image.progress.kind == Kind::Tcp => {
                same && new.verdict.is_some_and(|verdict| verdict.refresh == Some(old.timeout))
                    && entry.step(found.direction, || self.request.facts.tcp)
            }
            Some(_) => new.image.progress == old.progress && new.image.timeout == old.timeout,
        };
        if same && calm {
            return Some(found.epoch);
        }
        if new.verdict.is_some() {
            return None;
        }
        let home = entry.home.load(Ordering::Relaxed) as usize;
        let _held = self.tracker.index.lock(home, home);
        let current = entry.epoch.load(Ordering::Acquire) == found.epoch && entry.linked();
        current.then(|| {
            let old = entry.image();
            entry.change(&old, &self.marked(&old))
        })
    }

    fn refresh(&self, entry: &Entry, judgement: &Judgement) {
        let Some(timeout) = judgement.verdict.and_then(|verdict| verdict.refresh) else { return };
        if self.request.effects {
            let seconds = self.tracker.zones.seconds(judgement.image.zone, timeout);
            entry.revive(entry.expiry.load(Ordering::Relaxed), self.request.second, seconds);
        }
    }

    /// `ct_state` without what a translation adds.
    fn seen(&self, judgement: &Judgement, direction: Direction) -> State {
        let before = self.before.map(|before| before.state).unwrap_or_default();
        let reply = if direction == Direction::Reply { State::RPL } else { State::NONE };
        let related = if judgement.image.parent.is_some() { State::REL } else { State::NONE };
        match judgement.verdict.map(|verdict| verdict.outcome) {
            None => before | State::REL | reply,
            Some(Outcome::Established) => (before | related | State::EST | reply).without(State::NEW),
            Some(Outcome::New) => before | related | State::NEW,
            Some(Outcome::Invalid | Outcome::Again) => State::INV,
        }
    }

    /// Fills in what the connection says.
    fn answer(&self, image: &Image, connection: Link, answer: Tracked) -> Tracked {
        let done = answer.state.any(State::SNAT | State::DNAT);
        let direction = connection.direction().unwrap_or_default();
        let translation = if self.translates() && !done { image.translation(direction) } else { None };
        let related = self.request.facts.inner.is_some();
        let translation = translation.map(|translation| Translation { related, ..translation });
        let turned = translation.map(|translation| translation.state()).unwrap_or_default();
        Tracked {
            state: answer.state | turned | State::TRK,
            mark: image.mark,
            label: image.label,
            original: Some(image.parent.unwrap_or(image.original)),
            translation,
            connection,
            helper: image.helper,
            ..answer
        }
    }

    pub fn translates(&self) -> bool {
        self.request.translate || self.request.commit.is_some_and(|commit| commit.nat.is_some())
    }

    /// There is no connection. `known` is where it was sought, and what a link to that holds.
    fn absent(&self, tuple: &Tuple, known: Option<(Place, u32)>) -> Option<Tracked> {
        let Request { zone, facts, commit, second, .. } = *self.request;
        let expectation = self.tracker.expectations.find(zone, tuple, second);
        let begins = protocol::may_begin(facts);
        let state = if begins { State::NEW } else { State::INV } | State::TRK;
        let mut answer = Tracked { state, original: Some(*tuple), ..self.nothing() };
        match (&expectation, known) {
            (Some(parent), _) => {
                (answer.mark, answer.label) = (parent.mark, parent.label);
                answer.original = Some(parent.original);
                if begins {
                    answer.state |= State::REL;
                }
            }
            (None, Some((place, epoch))) => {
                answer.link = Link::absent(place.bucket, absence(tuple, begins), epoch);
            }
            _ => {}
        }
        match commit {
            Some(commit) if begins => self.begin(tuple, commit, expectation.as_ref(), answer),
            _ => Some(answer),
        }
    }

    fn begin(
        &self,
        tuple: &Tuple,
        commit: &Commit,
        expectation: Option<&Expectation>,
        answer: Tracked,
    ) -> Option<Tracked> {
        let answer = Tracked { link: Link::NEVER, ..answer };
        match self.make(tuple, commit, expectation) {
            Ok(Some((image, link))) => {
                let fresh = Tracked { state: answer.state, created: true, ..self.nothing() };
                Some(self.answer(&image, link, fresh))
            }
            Ok(None) => None,
            Err(refusal) => {
                if self.request.effects {
                    self.tracker.tally.add(usize::from(tuple.src_port), refusal.into(), 1);
                }
                Some(Tracked { refused: Some(refusal), ..answer })
            }
        }
    }
}

impl Judgement {
    /// Whether the next packet of this tuple hears the same, as long as the connection's epoch stays. TCP's answer to a
    /// SYN or to a bad segment is that packet's alone.
    fn lasts(&self) -> bool {
        match self.verdict.map(|verdict| verdict.outcome) {
            Some(Outcome::Established) => true,
            Some(Outcome::New) => self.image.progress.kind != Kind::Tcp,
            _ => false,
        }
    }
}

fn absence(tuple: &Tuple, begins: bool) -> Absence {
    match (Kind::of(tuple), begins) {
        (Kind::Tcp, true) => Absence::TcpNew,
        (Kind::Tcp, false) => Absence::TcpInvalid,
        _ => Absence::Any,
    }
}
