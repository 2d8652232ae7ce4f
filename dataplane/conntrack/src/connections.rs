//! The table as others see it: the calls of the packet path. What they do to connections is in [`crate::track`], what the
//! control plane asks is in [`crate::admin`].

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use weft_io::mem::prefetch;

use crate::arena::Arena;
use crate::control::Settings;
use crate::entry::{Entry, Sight};
use crate::expect::{Expected, Unexpected};
use crate::expectations::{Class, Expectation, Expectations};
use crate::hash::Key;
use crate::image::Image;
use crate::index::{Index, Place};
use crate::link::{Absence, Link, Target};
use crate::nat::Translation;
use crate::request::{Commit, Facts, Request, Segment, Tracked};
use crate::room::Clock;
use crate::state::{Direction, State};
use crate::streams::{Stream, Streams};
use crate::tally::{Count, Tally};
use crate::tcp;
use crate::track::Work;
use crate::tuple::Tuple;
use crate::zones::Zones;

/// How often a reader that meets a writer looks again before it takes the writer's lock.
const READ_TRIES: usize = 64;

/// All connections of the switch. See the crate's text.
#[derive(Debug)]
pub struct Connections {
    pub(crate) arena: Arena,
    pub(crate) index: Index,
    pub(crate) key: Key,
    pub(crate) zones: Zones,
    pub(crate) expectations: Expectations,
    pub(crate) streams: Streams,
    pub(crate) tally: Tally,
    /// Connections in the index.
    pub(crate) total: AtomicU32,
    pub(crate) max: u32,
    /// Accepts TCP segments outside of windows.
    pub(crate) liberal: AtomicBool,
    /// What random choices are made of.
    pub(crate) random: AtomicU64,
    /// Where the sweep goes on.
    pub(crate) cursor: AtomicUsize,
    /// Who makes room next.
    pub(crate) clock: Clock,
}

/// A live connection that has a tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub slot: usize,
    pub direction: Direction,
    pub epoch: u32,
}

/// What a look-up gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sought {
    /// The connection.
    Found(Found),
    /// None, at this epoch of the bucket.
    Absent(u32),
}

/// An entry is being written.
struct Busy;

impl Connections {
    /// A tracker without connections. Its memory is mapped, and touched as it is used.
    ///
    /// # Errors
    /// More than [`Settings::MOST`] connections are asked for, or there is no memory for so many.
    pub fn new(settings: Settings) -> io::Result<Self> {
        if settings.max > Settings::MOST {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let key = Key::new(settings.secret);
        Ok(Connections {
            arena: Arena::new(settings.max)?,
            // A translated connection is in it twice.
            index: Index::new(settings.max as usize * 2)?,
            key,
            zones: Zones::new()?,
            expectations: Expectations::new(settings.expectations, key),
            streams: Streams::default(),
            tally: Tally::default(),
            total: AtomicU32::new(0),
            max: settings.max,
            liberal: AtomicBool::new(false),
            random: AtomicU64::new(settings.secret[0] ^ settings.secret[1].rotate_left(32)),
            cursor: AtomicUsize::new(0),
            clock: Clock::default(),
        })
    }

    /// What one `ct(..)` does: finds the packet's connection or makes one, moves its state on, and says how the packet
    /// is to be seen and translated.
    pub fn track(&self, request: &Request<'_>) -> Tracked {
        let answer = Work::new(self, request).run();
        if request.effects && answer.state.has(State::INV) {
            self.tally.add(usize::from(request.facts.tuple.src_port), Count::Invalid, 1);
        }
        answer
    }

    /// What `ct(..)` and then `ct(commit,..)` do to the first packet of an ordinary connection, at once: one that has none in
    /// the zone, that nothing expects, and that the zone has room for. If it isn't such a packet (`None`) nothing has
    /// happened (but that, of a full table, an unanswered connection may have made room), and [`Connections::track`] is to be asked. Of `commit` only mark and label count.
    pub fn begin(&self, zone: u16, facts: &Facts, commit: &Commit, second: u32) -> Option<Link> {
        self.begin_seen(zone, facts, (commit, 0), second)
    }

    /// The same for a packet that takes part in the connection so often more, each time as if it were the next one.
    #[inline]
    pub fn begin_seen(
        &self,
        zone: u16,
        facts: &Facts,
        (commit, again): (&Commit, u8),
        second: u32,
    ) -> Option<Link> {
        let (translate, effects) = (false, true);
        Work::new(
            self,
            &Request { zone, facts, before: None, commit: Some(commit), translate, second, effects },
        )
        .begin_at_once(commit, again)
    }

    /// Tells the processor that `step` will be called for this link soon.
    #[inline(always)]
    pub fn prefetch(&self, link: Link) {
        match link.connection() {
            Some((slot, _)) => {
                if let Some(entry) = self.arena.get(slot) {
                    prefetch(entry);
                }
            }
            None => self.prefetch_apart(link),
        }
    }

    /// The same where there is no connection.
    #[inline(never)]
    fn prefetch_apart(&self, link: Link) {
        if let Target::Absent(bucket, ..) = link.target() {
            self.index.prefetch(bucket);
        }
    }

    /// Tells the processor that `track` or `begin` will be called for this tuple soon: of what a new connection costs, most is to
    /// wait for one cache line of the index.
    #[inline]
    pub fn prefetch_tuple(&self, zone: u16, tuple: &Tuple) {
        self.index.prefetch(self.place(zone, tuple).bucket);
    }

    /// A hit of a cached decision: whether rules would see what they saw when the link was made. If so, the connection's
    /// age starts anew and its windows slide. If not, nothing has happened, and [`Connections::track`] is to be asked.
    ///
    /// `segment` is called for TCP alone. Takes no lock and allocates nothing.
    #[inline(always)]
    pub fn step(&self, link: Link, second: u32, segment: impl FnOnce() -> Option<Segment>) -> bool {
        let Some((slot, direction)) = link.connection() else { return self.step_apart(link, segment) };
        let Some(entry) = self.arena.get(slot) else { return false };
        let expiry = entry.expiry();
        let alive = entry.epoch.load(Ordering::Acquire) == link.epoch && second < expiry;
        let steps = alive && entry.step(direction, segment);
        if steps {
            entry.refresh(expiry, second, |zone, timeout| self.zones.seconds(zone, timeout));
        }
        steps
    }

    /// The same where there is no connection.
    #[inline(never)]
    fn step_apart(&self, link: Link, segment: impl FnOnce() -> Option<Segment>) -> bool {
        match link.target() {
            Target::Absent(bucket, class, why) => {
                link.has_sum(self.absence(bucket, class)) && still_absent(why, segment)
            }
            _ => link == Link::NONE,
        }
    }

    /// Whether the link's epoch is still the one that it was. Says nothing of a TCP segment.
    #[inline]
    pub fn holds(&self, link: Link, second: u32) -> bool {
        match link.target() {
            Target::Entry(slot, _) => self.arena.get(slot).is_some_and(|entry| alive(entry, link, second)),
            Target::Absent(bucket, class, _) => link.has_sum(self.absence(bucket, class)),
            Target::Nothing => link.epoch == 0,
        }
    }

    /// How a packet of this link is rewritten, if its connection is translated and has not gone; it may have changed since the
    /// link was asked. An ICMP error has no link.
    #[inline]
    pub fn translation(&self, link: Link) -> Option<Translation> {
        let Target::Entry(slot, direction) = link.target() else { return None };
        self.arena.get(slot)?.translation(direction, link.epoch)
    }

    /// Expects a connection.
    ///
    /// # Errors
    /// See [`Unexpected`].
    pub fn expect(&self, expected: &Expected, second: u32) -> Result<(), Unexpected> {
        let entry = self.entry_of(expected.parent).ok_or(Unexpected::NoParent)?;
        let (image, epoch) = entry.read().ok_or(Unexpected::NoParent)?;
        if epoch != expected.parent.epoch || !alive(entry, expected.parent, second) {
            return Err(Unexpected::NoParent);
        }
        let marks = (image.moving.mark, image.moving.label);
        let expectation = Expectation::new(expected, image.zone, marks, image.original, second);
        let result = self.expectations.insert(expectation, second);
        if result == Err(Unexpected::Full) {
            self.tally.add(0, Count::RefusedExpectations, 1);
        }
        // The parent may have ended before this could be seen by who orphans what it expects. Who is at it now will see it.
        let is_another = |now: &Image| (now.zone, now.original) != (image.zone, image.original);
        if entry.read().is_some_and(|(now, _)| !entry.linked() || is_another(&now)) {
            self.expectations.orphan(image.zone, &image.original);
            return Err(Unexpected::NoParent);
        }
        result
    }

    /// Shows `change` what is remembered for the helper of the link's connection, and keeps what that makes of it. It is what rules
    /// can't see, so that links go on holding. `None` if the connection has gone, or too many have helpers.
    pub fn with_stream<R>(&self, link: Link, change: impl FnOnce(&mut Stream) -> R) -> Option<R> {
        let Target::Entry(slot, _) = link.target() else { return None };
        let entry = self.arena.get(slot)?;
        self.streams.with(slot, || entry.linked(), change)
    }

    fn entry_of(&self, link: Link) -> Option<&Entry> {
        match link.target() {
            Target::Entry(slot, _) => self.arena.get(slot),
            _ => None,
        }
    }

    /// What a link to an absent tuple holds: it moves when one is put into the bucket, or something of the class becomes expected.
    #[inline]
    fn absence(&self, bucket: usize, class: Class) -> u32 {
        self.index.epoch(bucket).wrapping_add(self.expectations.generation(class))
    }

    /// Where a tuple's connection is, if it has one.
    #[inline]
    pub(crate) fn place(&self, zone: u16, tuple: &Tuple) -> Place {
        self.index.place(self.key.hash(tuple, zone))
    }

    /// The live connection of a tuple. The caller holds no lock of the index.
    pub(crate) fn find(&self, place: Place, zone: u16, tuple: &Tuple, second: u32) -> Sought {
        for _ in 0..READ_TRIES {
            let epoch = self.index.epoch(place.bucket);
            if epoch & 1 == 0 {
                match self.scan(place, zone, tuple, second) {
                    Ok(Some(found)) => return Sought::Found(found),
                    Ok(None) if self.index.still(place.bucket, epoch) => return Sought::Absent(epoch),
                    _ => {}
                }
            }
            std::hint::spin_loop();
        }
        let _held = self.index.lock(place.bucket, place.bucket);
        loop {
            match self.scan(place, zone, tuple, second) {
                Ok(Some(found)) => return Sought::Found(found),
                Ok(None) => return Sought::Absent(self.index.epoch(place.bucket)),
                Err(Busy) => std::thread::yield_now(),
            }
        }
    }

    /// Which of two tuples of one place has a live connection, for who holds the bucket's lock. Expired connections of
    /// the tuples end for good.
    pub(crate) fn find_held(
        &self,
        place: Place,
        zone: u16,
        tuples: [&Tuple; 2],
        second: u32,
    ) -> Option<usize> {
        loop {
            let met = self.index.scan(place, |slot| self.meet(slot, zone, tuples, second));
            match met.transpose() {
                Ok(found) => return found,
                // Its writer is about to finish, and waits for nothing meanwhile.
                Err(Busy) => std::thread::yield_now(),
            }
        }
    }

    /// Whether the slot's connection has one of the tuples.
    fn meet(&self, slot: usize, zone: u16, tuples: [&Tuple; 2], second: u32) -> Option<Result<usize, Busy>> {
        let entry = self.arena.get(slot)?;
        for (number, tuple) in tuples.into_iter().enumerate() {
            match entry.look(zone, tuple, second) {
                Sight::Mine(..) => return Some(Ok(number)),
                Sight::Busy => return Some(Err(Busy)),
                Sight::Other if entry.bury(zone, tuple, second) => {}
                // It has changed since it was looked at: once more.
                Sight::Other => return Some(Err(Busy)),
            }
        }
        None
    }

    #[inline]
    fn scan(&self, place: Place, zone: u16, tuple: &Tuple, second: u32) -> Result<Option<Found>, Busy> {
        let met = self.index.scan(place, |slot| match self.arena.get(slot)?.look(zone, tuple, second) {
            Sight::Mine(direction, epoch) => Some(Ok(Found { slot, direction, epoch })),
            Sight::Busy => Some(Err(Busy)),
            Sight::Other => None,
        });
        met.transpose()
    }

    /// Ends the connection of a slot if its epoch is still this one and it is `wanted`, and says whether that was so.
    pub(crate) fn remove(
        &self,
        slot: usize,
        epoch: u32,
        why: Count,
        wanted: impl FnOnce(&Entry) -> bool,
    ) -> bool {
        let Some(entry) = self.arena.get(slot) else { return false };
        let Some((image, _)) = entry.read().filter(|&(_, now)| now == epoch) else { return false };
        let home = self.place(image.zone, &image.original);
        let away = self.place(image.zone, &image.reply);
        let answered = {
            let _held = self.index.lock(home.bucket, away.bucket);
            if entry.epoch.load(Ordering::Acquire) != epoch || !entry.linked() || !wanted(entry) {
                return false;
            }
            let answered = entry.is_answered();
            entry.end();
            self.index.remove(home, slot);
            if away != home {
                self.index.remove(away, slot);
            }
            answered
        };
        if image.helper.is_some() {
            self.streams.forget(slot);
        }
        self.zones.release(image.zone, answered);
        self.total.fetch_sub(1, Ordering::Relaxed);
        self.arena.give(slot, home.bucket);
        self.tally.add(slot, why, 1);
        if image.helper.is_some() {
            self.expectations.orphan(image.zone, &image.original);
        }
        true
    }
}

/// Whether the entry is what it was when the link was made.
#[inline]
fn alive(entry: &Entry, link: Link, second: u32) -> bool {
    entry.epoch.load(Ordering::Acquire) == link.epoch && second < entry.expiry.load(Ordering::Relaxed)
}

#[inline]
fn still_absent(why: Absence, segment: impl FnOnce() -> Option<Segment>) -> bool {
    let begins = || segment().is_some_and(|segment| tcp::may_begin(segment.flags));
    match why {
        Absence::Any => true,
        Absence::TcpNew => begins(),
        Absence::TcpInvalid => !begins(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Filter;
    use crate::request::Masked;
    use crate::tuple::Family;

    const UDP: Tuple = Tuple { src: 1, dst: 2, src_port: 3, dst_port: 4, protocol: 17, family: Family::V4 };
    const SYN: Segment = Segment { seq: 7, ack: 0, window: 500, flags: 2, payload: 0, scale: Some(3) };

    fn ask(tracker: &Connections, facts: &Facts, commit: Option<&Commit>) -> Tracked {
        let (before, translate, second, effects) = (None, false, 9, true);
        tracker.track(&Request { zone: 5, facts, before, commit, translate, second, effects })
    }

    fn all(tracker: &Connections) -> Vec<crate::Connection> {
        let mut all = Vec::new();
        tracker.list(&Filter::default(), 9, &mut |connection| all.push(*connection));
        all
    }

    #[test]
    fn what_begins_at_once_is_what_two_questions_make() {
        let commit = Commit { mark: Masked { value: 6, mask: 7 }, ..Commit::default() };
        let echo = Tuple { dst_port: Tuple::icmp(8, 0), protocol: 1, ..UDP };
        let tcp = Tuple { protocol: 6, ..UDP };
        let facts = [(UDP, None), (echo, None), (tcp, Some(SYN)), (Tuple { protocol: 47, ..UDP }, None)];
        for (tuple, tcp) in facts {
            let [one, two] = [(); 2].map(|()| Connections::new(Settings::default()).unwrap());
            let facts = Facts { tuple, tcp, inner: None, valid: true };
            assert!(ask(&one, &facts, None).state.has(State::NEW));
            assert!(ask(&one, &facts, Some(&commit)).created);
            assert!(two.begin(5, &facts, &commit, 9).is_some());
            assert_eq!(all(&one), all(&two));
            assert_eq!(one.statistics().created, two.statistics().created);
            assert_eq!(two.begin(5, &facts, &commit, 9), None, "it is there already");
            let turned = Facts { tuple: tuple.reversed(), ..facts };
            assert_eq!(two.begin(5, &turned, &commit, 9), None, "so are its replies");
        }
    }

    #[test]
    fn what_is_out_of_the_ordinary_does_not_begin_at_once_and_nothing_has_happened() {
        let tracker = Connections::new(Settings::default()).unwrap();
        let plain = Facts { tuple: UDP, tcp: None, inner: None, valid: true };
        let tcp = Tuple { protocol: 6, ..UDP };
        let answer = Segment { flags: 0x12, ..SYN };
        let refused = [
            Facts { valid: false, ..plain },
            Facts { inner: Some(UDP), ..plain },
            Facts { tuple: Tuple { src_port: 0, ..UDP }, ..plain },
            Facts { tuple: tcp, tcp: Some(answer), ..plain },
            Facts { tuple: tcp, ..plain },
            Facts { tuple: Tuple { dst_port: Tuple::icmp(0, 0), protocol: 1, ..UDP }, ..plain },
        ];
        for facts in refused {
            assert_eq!(tracker.begin(5, &facts, &Commit::default(), 9), None, "{facts:?}");
        }
        tracker.set_default_zone_limit(Some(0));
        assert_eq!(tracker.begin(5, &plain, &Commit::default(), 9), None);
        let statistics = tracker.statistics();
        assert_eq!((statistics.connections, statistics.created, statistics.refused_zone), (0, 0, 0));
    }

    #[test]
    fn a_committed_udp_connection_is_established_by_its_reply_and_its_link_steps() {
        let tracker = Connections::new(Settings::default()).unwrap();
        let tuple = Tuple { src: 1, dst: 2, src_port: 3, dst_port: 4, protocol: 17, family: Family::V4 };
        let commit = Commit::default();
        let track = |tuple, commit, second| {
            let facts = Facts { tuple, valid: true, ..Facts::default() };
            let (before, translate, effects) = (None, false, true);
            tracker.track(&Request { zone: 5, facts: &facts, before, commit, translate, second, effects })
        };
        assert_eq!(track(tuple, None, 0).state, State::NEW | State::TRK);
        assert!(track(tuple, Some(&commit), 0).created);
        assert_eq!(track(tuple.reversed(), None, 1).state, State::EST | State::RPL | State::TRK);
        let known = track(tuple, None, 1);
        assert_eq!(known.state, State::EST | State::TRK);
        assert!(tracker.step(known.link, 30, || None));
        assert!(tracker.step(known.link, 59, || None));
        assert!(!tracker.step(known.link, 89, || None), "it lives 30 seconds");
        assert_eq!(tracker.expire(89, 100), 1);
    }
}
