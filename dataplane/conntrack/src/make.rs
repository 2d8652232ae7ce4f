//! Making a connection: limits, translation, and its one place in the table.

use std::sync::atomic::Ordering;

use crate::connections::{Connections, Sought};
use crate::entry::Entry;
use crate::expectations::Expectation;
use crate::hash::spread;
use crate::image::{Image, Moving};
use crate::index::Place;
use crate::link::Link;
use crate::nat::{self, Nat, Side};
use crate::protocol::{self, Progress};
use crate::request::{Commit, Refusal, Request, Tracked};
use crate::room::Newcomer;
use crate::state::Direction;
use crate::tally::Count;
use crate::track::Work;
use crate::tuple::Tuple;

/// How often another translation is chosen because another worker has taken the one that was free.
const CHOICES: usize = 16;

/// Why a connection was not put in.
enum Obstacle {
    /// Its tuple has a connection by now.
    Raced,
    /// Its reply tuple has.
    Clash,
    /// There is no slot or no bucket left.
    Full,
}

/// The connection that is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Its original tuple.
    pub tuple: &'a Tuple,
    /// Where that belongs.
    pub home: Place,
    /// What is asked for.
    pub commit: &'a Commit,
    /// What expects it.
    pub parent: Option<&'a Expectation>,
}

impl Work<'_> {
    /// Makes the connection of a tuple that has none, and says what it says; false if it has one by now.
    pub fn make(&self, wanted: &Wanted<'_>, answer: &mut Tracked) -> Result<bool, Refusal> {
        let Request { zone, effects, second, .. } = *self.request;
        let parent = wanted.parent.map(|parent| &parent.original);
        let newcomer = Newcomer { zone, counted: effects, second, parent };
        if !effects {
            if let Some(leaving) = self.tracker.room(&newcomer, self.replaced.get().is_some())? {
                self.replaced.set(Some(leaving));
            }
            let image = self.plan(wanted)?;
            self.created(&image, Link::NEVER, answer);
            return Ok(true);
        }
        self.tracker.reserve(&newcomer)?;
        let made = self.put(wanted, answer);
        if made != Ok(true) {
            self.tracker.release(zone);
        }
        made
    }

    fn created(&self, image: &Image, link: Link, answer: &mut Tracked) {
        answer.created = true;
        self.answer((image, &image.moving), link, answer.state, answer);
    }

    fn put(&self, wanted: &Wanted<'_>, answer: &mut Tracked) -> Result<bool, Refusal> {
        let parent = wanted.parent;
        for _ in 0..CHOICES {
            let image = self.plan(wanted)?;
            if parent.is_some_and(|parent| !self.tracker.expectations.take(parent)) {
                return Ok(false);
            }
            let outcome = self.insert(&image, wanted.home);
            if let (Some(parent), Err(_)) = (parent, &outcome) {
                // It wasn't used: it may be by another packet.
                let _ = self.tracker.expectations.insert(*parent, self.request.second);
            }
            match outcome {
                Ok(link) => {
                    self.tracker.tally.add(wanted.home.bucket, Count::Created, 1);
                    if parent.is_some() {
                        self.tracker.tally.add(0, Count::Expected, 1);
                    }
                    self.created(&image, link, answer);
                    return Ok(true);
                }
                Err(Obstacle::Raced) => return Ok(false),
                Err(Obstacle::Full) => return Err(Refusal::Full),
                Err(Obstacle::Clash) if image.nat.is_none() => return Err(Refusal::Clash),
                Err(Obstacle::Clash) => {}
            }
        }
        Err(Refusal::NatExhausted)
    }

    /// Makes the connection of a packet that is nothing out of the ordinary; see [`Connections::begin`].
    pub fn begin_at_once(&self, commit: &Commit, again: u8) -> Option<Link> {
        let Request { zone, facts, second, .. } = *self.request;
        let tracker = self.tracker;
        let tuple = facts.key().filter(|_| facts.inner.is_none() && protocol::may_begin(facts))?;
        let home = tracker.place(zone, &tuple);
        if tracker.find(home, zone, &tuple, second) != Sought::Absent(tracker.index.epoch(home.bucket))
            || tracker.expectations.find(zone, &tuple, second).is_some()
        {
            return None;
        }
        tracker.reserve(&Newcomer { zone, counted: true, second, parent: None }).ok()?;
        let wanted = Wanted { tuple: &tuple, home, commit, parent: None };
        let plan = self.plan(&wanted).ok().map(|image| self.seen_again(image, again));
        let made = plan.and_then(|image| self.insert(&image, home).ok());
        match made {
            Some(_) => tracker.tally.add(home.bucket, Count::Created, 1),
            None => tracker.release(zone),
        }
        made
    }

    /// The connection after the packet that begins it has come so often more.
    #[inline(always)]
    fn seen_again(&self, mut image: Image, again: u8) -> Image {
        for _ in 0..again {
            let liberal = self.tracker.liberal.load(Ordering::Relaxed);
            let segment = self.request.facts.tcp.as_ref();
            let verdict = image.moving.progress.update(Direction::Original, segment, liberal);
            image.moving.timeout = verdict.refresh.unwrap_or(image.moving.timeout);
        }
        image
    }

    /// The connection as it is to be.
    #[inline(always)]
    fn plan(&self, wanted: &Wanted<'_>) -> Result<Image, Refusal> {
        let Wanted { tuple, commit, parent, .. } = *wanted;
        let (reply, nat) = match (parent, &commit.nat) {
            (Some(parent), _) if self.translates() => self.foretold(tuple, parent)?,
            (None, Some(nat)) => (self.translated(tuple, nat)?, Some(nat.side)),
            _ => (tuple.reversed(), None),
        };
        if nat.is_none() && !self.request.effects && self.is_known(&reply) {
            return Err(Refusal::Clash);
        }
        let (progress, timeout) = Progress::begin(self.request.facts);
        let (mark, label) = match parent {
            Some(parent) => (parent.mark, parent.label),
            None => (commit.mark.apply(0), commit.label.apply(0)),
        };
        Ok(Image {
            zone: self.request.zone,
            original: *tuple,
            reply,
            nat,
            helper: commit.helper.filter(|helper| helper.is_for(tuple)),
            parent: parent.map(|parent| parent.original),
            moving: Moving { mark, label, progress, timeout },
        })
    }

    /// The reply tuple that the helper has foretold.
    fn foretold(&self, tuple: &Tuple, parent: &Expectation) -> Result<(Tuple, Option<Side>), Refusal> {
        let mut reply = tuple.reversed();
        let side = match parent.expected.translation {
            Some((Side::Source, address)) => {
                reply.dst = address;
                Side::Source
            }
            Some((Side::Destination, address)) => {
                reply.src = address;
                Side::Destination
            }
            None => return Ok((reply, None)),
        };
        if self.is_known(&reply) { Err(Refusal::NatExhausted) } else { Ok((reply, Some(side))) }
    }

    /// The first reply tuple of a range that is free.
    fn translated(&self, tuple: &Tuple, nat: &Nat) -> Result<Tuple, Refusal> {
        let random = spread(self.tracker.random.fetch_add(1, Ordering::Relaxed));
        let number = nat::number(nat, tuple, self.request.zone, &self.tracker.key, random);
        nat::choose(nat, tuple, number, |reply| self.is_known(reply)).ok_or(Refusal::NatExhausted)
    }

    /// Whether a live connection has the tuple that stays.
    pub fn is_known(&self, tuple: &Tuple) -> bool {
        let Request { zone, second, .. } = *self.request;
        let place = self.tracker.place(zone, tuple);
        match self.tracker.find(place, zone, tuple, second) {
            Sought::Found(found) => self.replaced.get() != Some(found.slot),
            Sought::Absent(_) => false,
        }
    }

    /// Fills a slot and puts it where both tuples are sought, if neither has a connection.
    fn insert(&self, image: &Image, home: Place) -> Result<Link, Obstacle> {
        let tracker = self.tracker;
        let second = self.request.second;
        let slot = tracker.arena.take(home.bucket).ok_or(Obstacle::Full)?;
        let entry = tracker.arena.get(slot).ok_or(Obstacle::Full)?;
        let seconds = tracker.zones.seconds(image.zone, image.moving.timeout);
        let epoch = entry.fill(image, home.bucket, second, seconds);
        match self.publish(image, home, (slot, entry)) {
            Ok(()) => Ok(Link::entry(slot, Direction::Original, epoch)),
            Err(obstacle) => {
                entry.end();
                tracker.arena.give(slot, home.bucket);
                Err(obstacle)
            }
        }
    }

    fn publish(&self, image: &Image, home: Place, (slot, entry): (usize, &Entry)) -> Result<(), Obstacle> {
        let (tracker, zone, second) = (self.tracker, image.zone, self.request.second);
        let away = if image.nat.is_some() { tracker.place(zone, &image.reply) } else { home };
        let _held = tracker.index.lock(home.bucket, away.bucket);
        if image.nat.is_none() {
            // One place for both tuples.
            match tracker.find_held(home, zone, [&image.original, &image.reply], second) {
                Some(0) => return Err(Obstacle::Raced),
                Some(_) => return Err(Obstacle::Clash),
                None => {}
            }
        } else if tracker.find_held(home, zone, [&image.original; 2], second).is_some() {
            return Err(Obstacle::Raced);
        } else if image.reply != image.original
            && tracker.find_held(away, zone, [&image.reply; 2], second).is_some()
        {
            return Err(Obstacle::Clash);
        }
        tracker.index.insert(home, slot).map_err(|_| Obstacle::Full)?;
        if away != home && tracker.index.insert(away, slot).is_err() {
            tracker.index.remove(home, slot);
            return Err(Obstacle::Full);
        }
        entry.link();
        Ok(())
    }
}

impl Connections {
    /// Counts one more connection of the zone, if there may be one, or if another makes room for it. The caller holds no
    /// lock.
    fn reserve(&self, newcomer: &Newcomer<'_>) -> Result<(), Refusal> {
        let zone = newcomer.zone;
        if !self.zones.admit(zone) {
            return Err(Refusal::ZoneLimit);
        }
        // Who comes too many has to find one who goes, so there are never more than may be but for those that are at it.
        if self.total.fetch_add(1, Ordering::Relaxed) >= self.max && !self.make_room(newcomer) {
            self.release(zone);
            return Err(Refusal::Full);
        }
        Ok(())
    }

    fn release(&self, zone: u16) {
        self.zones.release(zone, false);
        self.total.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether there may be one, and the slot of who would make room for it. `leaves`: another has gone for it already.
    fn room(&self, newcomer: &Newcomer<'_>, leaves: bool) -> Result<Option<usize>, Refusal> {
        let leaving = u32::from(leaves);
        if !self.zones.room(newcomer.zone, leaving) {
            return Err(Refusal::ZoneLimit);
        }
        if self.total.load(Ordering::Relaxed).saturating_sub(leaving) < self.max {
            return Ok(None);
        }
        self.could_make_room(newcomer).map(Some).ok_or(Refusal::Full)
    }
}
