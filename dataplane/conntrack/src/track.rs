//! One `ct(..)` at work.
//!
//! A connection that is found is read without a lock, and judged: what this packet makes of it. If that is only its age
//! and its windows, they are written as a hit writes them. Else its lock is taken, and it is judged again as it is then.
//! Whoever finds that another worker was quicker begins anew.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use crate::connections::{Connections, Found, Sought};
use crate::entry::Entry;
use crate::image::{Image, Moving};
use crate::index::Place;
use crate::link::{Absence, Link, Target};
use crate::make::Wanted;
use crate::nat::Translation;
use crate::protocol::{self, Kind, Outcome, Verdict};
use crate::request::{Before, Helper, Refusal, Request, Segment, Tracked};
use crate::state::{Direction, State};
use crate::tally::Count;
use crate::tuple::Tuple;

/// How often a request begins anew before it gives up, and the packet counts as invalid. Each time another worker has to have been
/// quicker, with a packet of this very connection that changes what rules see of it, or begins or ends it, within a fraction of a
/// microsecond: an attacker on all other workers at once gets one or two rounds out of it. What would fail each time by itself
/// (see [`Work::begin`]) is a refusal at once.
const ATTEMPTS: usize = 64;

/// One request.
pub(crate) struct Work<'a> {
    pub tracker: &'a Connections,
    pub request: &'a Request<'a>,
    /// What was said of the packet before, in this zone.
    before: Option<Before>,
    /// The slot of a connection that a trace would have replaced, or that would have made room.
    pub replaced: Cell<Option<usize>>,
}

/// What a packet makes of a connection.
struct Judgement {
    moving: Moving,
    /// `None` if it takes no part in the connection's state.
    verdict: Option<Verdict>,
}

/// The answer has been filled in; `None` is that another worker was quicker.
type Done = Option<()>;

impl<'a> Work<'a> {
    pub fn new(tracker: &'a Connections, request: &'a Request<'a>) -> Self {
        let before = request.before.filter(|before| before.zone == request.zone);
        Work { tracker, request, before, replaced: Cell::new(None) }
    }

    pub fn run(&self) -> Tracked {
        let mut answer = Tracked::nothing(self.request.zone);
        if self.before.is_some() && self.again(&mut answer).is_some() {
            return answer;
        }
        let done = self
            .request
            .facts
            .key()
            .and_then(|tuple| (0..ATTEMPTS).find_map(|_| self.attempt(&tuple, &mut answer)));
        done.map_or(Tracked::invalid(self.request.zone), |()| answer)
    }

    /// The second `ct(..)` in the same zone: the connection has seen the packet already.
    fn again(&self, answer: &mut Tracked) -> Done {
        let before = self.before?;
        let Target::Entry(slot, direction) = before.connection.target() else { return None };
        let live = self.tracker.holds(before.connection, self.request.second);
        if !live || self.request.commit.is_some_and(|commit| commit.force) {
            return None;
        }
        let found = Found { slot, direction, epoch: before.connection.epoch };
        let entry = self.tracker.arena.get(slot)?;
        let (image, _) = entry.read().filter(|&(_, epoch)| epoch == found.epoch)?;
        let judgement = Judgement { moving: self.marked(&image, &image.moving), verdict: None };
        let epoch = self.write(entry, &found, (&image, &judgement))?;
        let connection = Link::entry(slot, direction, epoch);
        // What was said before depends on the link that was given then.
        answer.link = if self.is_ordinary(&image) { connection } else { Link::NEVER };
        self.answer((&image, &judgement.moving), connection, before.state, answer);
        Some(())
    }

    /// Whether it is neither an ICMP error nor to be shown to a helper.
    fn is_ordinary(&self, image: &Image) -> bool {
        image.helper.is_none() && self.request.facts.inner.is_none()
    }

    fn attempt(&self, tuple: &Tuple, answer: &mut Tracked) -> Done {
        let Request { zone, facts, second, commit, .. } = *self.request;
        let turned = self.turned();
        // What was translated in this zone is found by where its answers come from.
        let sought = if turned { tuple.reversed() } else { *tuple };
        let place = self.tracker.place(zone, &sought);
        let mut found = match self.tracker.find(place, zone, &sought, second) {
            Sought::Found(found) => found,
            Sought::Absent(_) if facts.inner.is_some() => {
                answer.state = State::INV | State::TRK;
                answer.original = Some(*tuple);
                return Some(());
            }
            Sought::Absent(epoch) => {
                return self.absent(tuple, (!turned).then_some((place, epoch)), answer);
            }
        };
        if turned {
            found.direction = found.direction.opposite();
        }
        // An ICMP error begins nothing, so it doesn't end anything either (in Open vSwitch it does).
        let force = commit.is_some_and(|commit| commit.force) && facts.inner.is_none();
        if found.direction == Direction::Reply && force {
            return self.replace(&found, tuple, answer);
        }
        self.found(&found, tuple, answer)
    }

    /// Whether the packet was translated in this zone.
    fn turned(&self) -> bool {
        self.before.is_some_and(|before| before.state.any(State::SNAT | State::DNAT))
    }

    /// The packet begins a new connection in this one's place.
    fn replace(&self, found: &Found, tuple: &Tuple, answer: &mut Tracked) -> Done {
        let removed = if self.request.effects {
            self.tracker.remove(found.slot, found.epoch, Count::Replaced, |_| true)
        } else {
            self.replaced.set(Some(found.slot));
            true
        };
        if removed { self.absent(tuple, None, answer) } else { None }
    }

    fn found(&self, found: &Found, tuple: &Tuple, answer: &mut Tracked) -> Done {
        let entry = self.tracker.arena.get(found.slot)?;
        let expiry = entry.expiry();
        let (image, _) = entry.read().filter(|&(_, epoch)| epoch == found.epoch)?;
        let mut judgement = self.judge(&image, &image.moving, found);
        if judgement.verdict.is_some_and(|verdict| verdict.outcome == Outcome::Again) {
            return self.replace(found, tuple, answer);
        }
        let epoch = match self.write(entry, found, (&image, &judgement)) {
            Some(epoch) => {
                self.refresh(entry, expiry, &judgement);
                epoch
            }
            None => self.write_held(entry, found, (&image, &mut judgement))?,
        };
        let link = Link::entry(found.slot, found.direction, epoch);
        let state = self.seen(&image, &judgement, found.direction);
        answer.link = if self.is_ordinary(&image) && judgement.lasts() { link } else { Link::NEVER };
        self.answer((&image, &judgement.moving), link, state, answer);
        Some(())
    }

    /// What the packet makes of the connection.
    #[inline]
    fn judge(&self, image: &Image, old: &Moving, found: &Found) -> Judgement {
        let facts = self.request.facts;
        let mut moving = self.marked(image, old);
        let liberal = self.tracker.liberal.load(Ordering::Relaxed);
        let verdict = facts
            .inner
            .is_none()
            .then(|| moving.progress.update(found.direction, self.segment(image, found).as_ref(), liberal));
        if let Some(timeout) = verdict.and_then(|verdict| verdict.refresh) {
            moving.timeout = timeout;
        }
        Judgement { moving, verdict }
    }

    /// The packet's TCP header, in the numbers in which each end has counted its own octets.
    #[inline]
    fn segment(&self, image: &Image, found: &Found) -> Option<Segment> {
        let segment = self.request.facts.tcp?;
        match image.helper {
            Some(Helper::Ftp) => Some(self.tracker.streams.counted(found.slot, found.direction, segment)),
            _ => Some(segment),
        }
    }

    /// With the marks that a commit sets; an expected connection keeps its parent's.
    #[inline]
    fn marked(&self, image: &Image, old: &Moving) -> Moving {
        match (self.request.commit, image.parent) {
            (Some(commit), None) => {
                Moving { mark: commit.mark.apply(old.mark), label: commit.label.apply(old.label), ..*old }
            }
            _ => *old,
        }
    }

    /// Writes what can be written without a lock; `None` if there is more.
    #[inline]
    fn write(&self, entry: &Entry, found: &Found, (image, new): (&Image, &Judgement)) -> Option<u32> {
        let old = &image.moving;
        let calm = match new.verdict {
            None => new.moving == *old,
            Some(verdict) if old.progress.kind == Kind::Tcp => {
                (old.mark, old.label) == (new.moving.mark, new.moving.label)
                    && verdict.refresh == Some(old.timeout)
                    && (!self.request.effects || entry.step(found.direction, || self.segment(image, found)))
            }
            Some(_) => new.moving == *old,
        };
        if calm || !self.request.effects {
            return Some(found.epoch);
        }
        if new.verdict.is_some() {
            return None;
        }
        let home = entry.home.load(Ordering::Relaxed) as usize;
        let _held = self.tracker.index.lock(home, home);
        let current = entry.epoch.load(Ordering::Acquire) == found.epoch && entry.linked();
        current.then(|| {
            let old = entry.moving();
            entry.change(&old, &self.marked(image, &old))
        })
    }

    /// Not as it was read, but as it is now, under its lock.
    fn write_held(
        &self,
        entry: &Entry,
        found: &Found,
        (image, judgement): (&Image, &mut Judgement),
    ) -> Option<u32> {
        let home = entry.home.load(Ordering::Relaxed) as usize;
        let _held = self.tracker.index.lock(home, home);
        if entry.epoch.load(Ordering::Acquire) != found.epoch || !entry.linked() {
            return None;
        }
        let old = entry.moving();
        *judgement = self.judge(image, &old, found);
        if judgement.verdict.is_some_and(|verdict| verdict.outcome == Outcome::Again) {
            return None;
        }
        let epoch = entry.change(&old, &judgement.moving);
        let answered = judgement.moving.progress.is_answered();
        if answered != old.progress.is_answered() {
            self.tracker.zones.change(image.zone, answered);
        }
        self.refresh(entry, entry.expiry(), judgement);
        Some(epoch)
    }

    fn refresh(&self, entry: &Entry, expiry: u32, judgement: &Judgement) {
        let Some(timeout) = judgement.verdict.and_then(|verdict| verdict.refresh) else { return };
        if self.request.effects {
            let seconds = self.tracker.zones.seconds(self.request.zone, timeout);
            entry.revive(expiry, self.request.second, seconds);
        }
    }

    /// `ct_state` without what a translation adds.
    fn seen(&self, image: &Image, judgement: &Judgement, direction: Direction) -> State {
        let before = self.before.map(|before| before.state).unwrap_or_default();
        let reply = if direction == Direction::Reply { State::RPL } else { State::NONE };
        let related = if image.parent.is_some() { State::REL } else { State::NONE };
        match judgement.verdict.map(|verdict| verdict.outcome) {
            None => before | State::REL | reply,
            Some(Outcome::Established) => (before | related | State::EST | reply).without(State::NEW),
            Some(Outcome::New) => before | related | State::NEW,
            Some(Outcome::Invalid | Outcome::Again) => State::INV,
        }
    }

    /// Fills in what the connection says.
    #[inline]
    pub fn answer(
        &self,
        (image, moving): (&Image, &Moving),
        connection: Link,
        state: State,
        answer: &mut Tracked,
    ) {
        let done = state.any(State::SNAT | State::DNAT);
        answer.state = state | State::TRK;
        answer.translation = None;
        if image.nat.is_some() && self.translates() && !done {
            let related = self.request.facts.inner.is_some();
            let translation = image.translation(connection.direction().unwrap_or_default());
            answer.translation = translation.map(|translation| Translation { related, ..translation });
            answer.state |= translation.map(|translation| translation.state()).unwrap_or_default();
        }
        answer.mark = moving.mark;
        answer.label = moving.label;
        answer.original = Some(image.parent.unwrap_or(image.original));
        answer.connection = connection;
        answer.helper = image.helper;
    }

    pub fn translates(&self) -> bool {
        self.request.translate || self.request.commit.is_some_and(|commit| commit.nat.is_some())
    }

    /// There is no connection. `known` is where it was sought, and at which epoch of that.
    fn absent(&self, tuple: &Tuple, known: Option<(Place, u32)>, answer: &mut Tracked) -> Done {
        let Request { zone, facts, commit, second, .. } = *self.request;
        let expectations = &self.tracker.expectations;
        let class = expectations.class(zone, tuple);
        // Before it is asked what is expected: if that becomes more meanwhile, no link to this holds.
        let generation = expectations.generation(class);
        let expectation = expectations.find(zone, tuple, second);
        let parent = expectation.as_ref();
        let begins = protocol::may_begin(facts);
        answer.state = if begins { State::NEW } else { State::INV } | State::TRK;
        (answer.original, answer.link) = (Some(*tuple), Link::NEVER);
        // An attempt before this one may have met an expectation that another packet has taken since.
        (answer.mark, answer.label) = (0, 0);
        match (parent, known) {
            (Some(parent), _) => {
                (answer.mark, answer.label) = (parent.mark, parent.label);
                answer.original = Some(parent.original);
                if begins {
                    answer.state |= State::REL;
                }
            }
            (None, Some((place, epoch))) => {
                let sum = epoch.wrapping_add(generation);
                answer.link = Link::absent((place.bucket, class), absence(tuple, begins), sum);
            }
            _ => {}
        }
        match commit {
            Some(commit) if begins => {
                answer.link = Link::NEVER;
                let home = known.map_or_else(|| self.tracker.place(zone, tuple), |(place, _)| place);
                self.begin(&Wanted { tuple, home, commit, parent }, answer)
            }
            _ => Some(()),
        }
    }

    /// A tuple that has a connection by now is sought again, and found. That of a packet that was translated in this zone isn't: it is
    /// sought by where its answers come from. It is refused: its connection has gone, and what it looks like now is another's.
    fn begin(&self, wanted: &Wanted<'_>, answer: &mut Tracked) -> Done {
        let is_known = || self.request.effects && self.is_known(wanted.tuple);
        let refusal = match self.make(wanted, answer) {
            Ok(true) => return Some(()),
            Ok(false) if self.turned() && is_known() => Refusal::Clash,
            Ok(false) => return None,
            // Another worker has made it, and taken the last place for that.
            Err(_) if !self.turned() && is_known() => return None,
            Err(refusal) => refusal,
        };
        if self.request.effects {
            self.tracker.tally.add(usize::from(wanted.tuple.src_port), refusal.into(), 1);
        }
        answer.refused = Some(refusal);
        Some(())
    }
}

impl Judgement {
    /// Whether the next packet of this tuple hears the same, as long as the connection's epoch stays. TCP's answer to a
    /// SYN or to a bad segment is that packet's alone.
    fn lasts(&self) -> bool {
        match self.verdict.map(|verdict| verdict.outcome) {
            Some(Outcome::Established) => true,
            Some(Outcome::New) => self.moving.progress.kind != Kind::Tcp,
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
