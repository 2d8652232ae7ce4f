//! Making a connection: limits, translation, and its one place in the table.

use std::sync::atomic::Ordering;

use crate::connections::{Connections, Sought};
use crate::entry::{Entry, Image};
use crate::expectations::Expectation;
use crate::hash::spread;
use crate::link::Link;
use crate::nat::{self, Nat, Side};
use crate::protocol::Progress;
use crate::request::{Commit, Refusal, Request};
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

impl Work<'_> {
    /// Makes the connection of a tuple that has none; `None` if it has one by now.
    pub fn make(
        &self,
        tuple: &Tuple,
        commit: &Commit,
        parent: Option<&Expectation>,
    ) -> Result<Option<(Image, Link)>, Refusal> {
        let Request { zone, effects, .. } = *self.request;
        if !effects {
            self.tracker.room(zone)?;
            let image = self.plan(tuple, commit, parent)?;
            return Ok(Some((image, Link::NEVER)));
        }
        self.tracker.reserve(zone)?;
        let made = self.put(tuple, commit, parent);
        if !matches!(made, Ok(Some(_))) {
            self.tracker.release(zone);
        }
        made
    }

    fn put(
        &self,
        tuple: &Tuple,
        commit: &Commit,
        parent: Option<&Expectation>,
    ) -> Result<Option<(Image, Link)>, Refusal> {
        for _ in 0..CHOICES {
            let image = self.plan(tuple, commit, parent)?;
            if parent.is_some_and(|parent| !self.tracker.expectations.take(parent)) {
                return Ok(None);
            }
            let outcome = self.insert(&image);
            if let (Some(parent), Err(_)) = (parent, &outcome) {
                // It wasn't used: it may be by another packet.
                let _ = self.tracker.expectations.insert(*parent, self.request.second);
            }
            match outcome {
                Ok(link) => {
                    self.tracker.tally.add(link.place as usize >> 3, Count::Created, 1);
                    if parent.is_some() {
                        self.tracker.tally.add(0, Count::Expected, 1);
                    }
                    return Ok(Some((image, link)));
                }
                Err(Obstacle::Raced) => return Ok(None),
                Err(Obstacle::Full) => return Err(Refusal::Full),
                Err(Obstacle::Clash) if image.nat.is_none() => return Err(Refusal::Clash),
                Err(Obstacle::Clash) => {}
            }
        }
        Err(Refusal::NatExhausted)
    }

    /// The connection as it is to be.
    fn plan(&self, tuple: &Tuple, commit: &Commit, parent: Option<&Expectation>) -> Result<Image, Refusal> {
        let (reply, nat) = match (parent, &commit.nat) {
            (Some(parent), _) if self.translates() => self.foretold(tuple, parent)?,
            (None, Some(nat)) => (self.translated(tuple, nat)?, Some(nat.side)),
            _ => (tuple.reversed(), None),
        };
        if nat.is_none() && !self.request.effects && self.taken(&reply) {
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
            mark,
            label,
            progress,
            timeout,
            helper: commit.helper.filter(|helper| helper.is_for(tuple)),
            parent: parent.map(|parent| parent.original),
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
        if self.taken(&reply) { Err(Refusal::NatExhausted) } else { Ok((reply, Some(side))) }
    }

    /// The first reply tuple of a range that is free.
    fn translated(&self, tuple: &Tuple, nat: &Nat) -> Result<Tuple, Refusal> {
        let random = spread(self.tracker.random.fetch_add(1, Ordering::Relaxed));
        let number = nat::number(nat, tuple, self.request.zone, &self.tracker.key, random);
        nat::choose(nat, tuple, number, |reply| self.taken(reply)).ok_or(Refusal::NatExhausted)
    }

    fn taken(&self, reply: &Tuple) -> bool {
        let Request { zone, second, .. } = *self.request;
        let place = self.tracker.place(zone, reply);
        matches!(self.tracker.find(place, zone, reply, second), Sought::Found(_))
    }

    /// Fills a slot and puts it where both tuples are sought, if neither has a connection.
    fn insert(&self, image: &Image) -> Result<Link, Obstacle> {
        let tracker = self.tracker;
        let second = self.request.second;
        let home = tracker.place(image.zone, &image.original);
        let slot = tracker.arena.take(home.bucket).ok_or(Obstacle::Full)?;
        let entry = tracker.arena.get(slot).ok_or(Obstacle::Full)?;
        let seconds = tracker.zones.seconds(image.zone, image.timeout);
        let epoch = entry.fill(image, home.bucket, second, seconds);
        match self.publish(image, slot, entry) {
            Ok(()) => Ok(Link::entry(slot, Direction::Original, epoch)),
            Err(obstacle) => {
                entry.end();
                tracker.arena.give(slot, home.bucket);
                Err(obstacle)
            }
        }
    }

    fn publish(&self, image: &Image, slot: usize, entry: &Entry) -> Result<(), Obstacle> {
        let (tracker, zone, second) = (self.tracker, image.zone, self.request.second);
        let home = tracker.place(zone, &image.original);
        let away = if image.nat.is_some() { tracker.place(zone, &image.reply) } else { home };
        let _held = tracker.index.lock(home.bucket, away.bucket);
        if tracker.find_held(home, zone, &image.original, second).is_some() {
            return Err(Obstacle::Raced);
        }
        if image.reply != image.original && tracker.find_held(away, zone, &image.reply, second).is_some() {
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
    /// Counts one more connection of the zone, if there may be one.
    fn reserve(&self, zone: u16) -> Result<(), Refusal> {
        if !self.zones.admit(zone) {
            return Err(Refusal::ZoneLimit);
        }
        if self.total.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.release(zone);
            return Err(Refusal::Full);
        }
        Ok(())
    }

    fn release(&self, zone: u16) {
        self.zones.release(zone);
        self.total.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether there may be one.
    fn room(&self, zone: u16) -> Result<(), Refusal> {
        self.reserve(zone)?;
        self.release(zone);
        Ok(())
    }
}
