//! What a port's slow path may take of its worker's time.
//!
//! A miss costs its worker what ten to a hundred hits cost, and a port decides by itself how many of its packets walk. So a
//! worker that has no time left gives each port a share of it for walks; a miss beyond that is dropped
//! ([`SlowPathLimit`](weft_wire::DropReason::SlowPathLimit)). What counts is time and not the number of walks, because a walk
//! through twenty tables that makes a connection takes ten times as long as one through a plain bridge.
//!
//! It costs others nothing when a worker that is idle now and then walks as much as it can. So the share holds only while
//! another port of this worker has been active in the last [`ACTIVE`], and while the worker is busy: at the end of each
//! [`WINDOW`] without idle time shares are halved, and with idle time they are doubled, from the one that is configured up to
//! no limit at all.
//!
//! What is not used is saved, [`DEPTH`] at most. The last half of that is for flows that were cached and are stale: a change
//! of rules makes all of a port's flows walk once, and they are not to suffer by the port's new ones.
//!
//! To refuse a packet costs time as well: most of what it costs to receive one and to look for its flow. So a port that is refused
//! something rests for [`REST`] rounds: what it sends waits where it is, and meets its device's own limits. An uplink never rests.
//!
//! Owner: one worker. The hit path does not come here; once per burst somebody asks whether the port is limited, and a miss's
//! time is taken only then: from the look for a program to the flow that is cached. What else it costs, by the memory that it
//! pushes out of the processor's caches, say, is about as much again.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::key::PortId;

/// Nobody but the port has sent anything for so long: it may walk as it likes.
pub const ACTIVE: Duration = Duration::from_millis(10);
/// How often a worker looks at whether it is busy.
pub const WINDOW: Duration = Duration::from_millis(5);
/// What a port can save.
pub const DEPTH: Duration = Duration::from_millis(10);
/// What of that only stale flows may use.
pub const RESERVE: Duration = Duration::from_millis(5);
/// No miss is charged more: it has not worked all the time, then, but somebody else had the processor. (The longest walk, of
/// 4096 look-ups, takes some 300 microseconds.)
pub const MOST: Duration = Duration::from_micros(500);
/// A share that is no limit, in percent.
pub const WHOLE: u32 = 100;
/// The share of a port when nobody says another, in percent.
pub const SHARE: u32 = 3;
/// An uplink carries the packets of many: it has so many shares.
pub const UPLINK: u32 = 4;
/// Rounds in which a port is not served after one in which it was refused something.
pub const REST: u8 = 3;
/// How often a share is doubled until it is no limit.
const OPEN: u8 = 5;

/// One worker's. See the module's text.
#[derive(Debug)]
pub struct Budget {
    clock: fn() -> Duration,
    /// Percent of the worker's time.
    share: u32,
    /// Shares are doubled so often.
    level: u8,
    window: Window,
    /// The last two ports that were active, the latest first, and when.
    recent: [(PortId, Duration); 2],
    purses: Vec<Purse>,
    serving: PortId,
    /// Whether the walks of the port that is being served are limited.
    limited: bool,
    /// Whether it rests when it is refused something.
    rests: bool,
}

/// What has happened since a worker last looked at whether it is busy.
#[derive(Debug, Default)]
struct Window {
    start: Duration,
    now: Duration,
    idle: Duration,
}

/// What a port has saved.
#[derive(Clone, Copy, Debug)]
struct Purse {
    /// Less than nothing after a walk that took longer than there was.
    nanos: i64,
    filled: Duration,
    /// For so many rounds the port rests.
    rest: u8,
}

impl Default for Budget {
    fn default() -> Self {
        let full = Purse { nanos: nanos(DEPTH), filled: Duration::ZERO, rest: 0 };
        Budget {
            clock: uptime,
            share: SHARE,
            level: OPEN,
            window: Window::default(),
            recent: [(PortId::NONE, Duration::ZERO); 2],
            purses: vec![full; PortId::COUNT],
            serving: PortId::NONE,
            limited: false,
            rests: false,
        }
    }
}

impl Budget {
    /// Takes the time of walks by another clock, for tests.
    pub fn set_clock(&mut self, clock: fn() -> Duration) {
        self.clock = clock;
    }

    /// A round begins; the last one has found packets, or not. Each port's share is `share` percent.
    #[inline]
    pub fn begin_round(&mut self, now: Duration, was_idle: bool, share: u32) {
        let window = &mut self.window;
        if was_idle {
            window.idle += now.saturating_sub(window.now);
        }
        window.now = now;
        self.limited = false;
        if now.saturating_sub(window.start) >= WINDOW {
            self.share = share;
            self.judge();
        }
    }

    /// Less than a sixteenth of the window without packets is busy; twice as much is not.
    fn judge(&mut self) {
        let Window { start, now, idle } = self.window;
        let length = now.saturating_sub(start);
        if idle * 16 < length {
            self.level = self.level.saturating_sub(1);
        } else if idle * 8 >= length {
            self.level = OPEN.min(self.level + 1);
        }
        self.window = Window { start: now, now, idle: Duration::ZERO };
    }

    /// Packets of a port, or for one ([`PortId::NONE`]) from other workers, are about to be served. A port has as many
    /// shares as `shares` says.
    #[inline]
    pub fn serve(&mut self, port: PortId, shares: u32) {
        let now = self.window.now;
        let [latest, other] = &mut self.recent;
        if latest.0 != port {
            *other = *latest;
        }
        *latest = (port, now);
        let contended = now.saturating_sub(other.1) < ACTIVE;
        (self.serving, self.rests) = (port, shares == 1);
        let limits = self.level < OPEN && self.share < WHOLE;
        self.limited = limits && self.fill(if contended { shares } else { 0 }) && contended;
    }

    /// Adds what has become the port's since it was served last. Of time in which it had the worker for itself nothing is
    /// saved: others that are active for moments would lose a moment each time. False if it isn't a port of this worker's own.
    fn fill(&mut self, shares: u32) -> bool {
        let (now, level) = (self.window.now, self.level);
        let share = (self.share * shares) << level;
        let Some(purse) = self.purses.get_mut(self.serving.index()) else { return false };
        // More than this fills any purse.
        let passed = now.saturating_sub(purse.filled).min(Duration::from_secs(10));
        let more = nanos(passed) * i64::from(share) / i64::from(WHOLE);
        *purse = Purse { nanos: (purse.nanos + more).min(nanos(DEPTH)), filled: now, rest: 0 };
        true
    }

    /// Whether the port that is being served may walk for a packet whose flow was not cached, or was stale.
    #[inline]
    pub fn grants(&mut self, stale: bool) -> bool {
        !self.limited || self.has_left(if stale { 0 } else { nanos(RESERVE) })
    }

    fn has_left(&mut self, reserve: i64) -> bool {
        let Some(purse) = self.purses.get_mut(self.serving.index()) else { return false };
        let granted = purse.nanos > reserve;
        if !granted && self.rests {
            purse.rest = REST;
        }
        granted
    }

    /// Whether the port is not to be served in this round.
    #[inline]
    pub fn rests(&mut self, port: PortId) -> bool {
        self.level < OPEN && self.rest_on(port)
    }

    fn rest_on(&mut self, port: PortId) -> bool {
        let Some(purse) = self.purses.get_mut(port.index()) else { return false };
        let rests = purse.rest > 0;
        purse.rest = purse.rest.saturating_sub(1);
        rests
    }

    /// The port that is being served.
    #[inline]
    pub fn serving(&self) -> PortId {
        self.serving
    }

    /// A walk begins: at what time, if anybody wants to know.
    #[inline]
    pub fn start(&self) -> Option<Duration> {
        self.limited.then(self.clock)
    }

    /// A walk that began at `start` has ended; for whom, and how many nanoseconds it took.
    pub fn charge(&mut self, start: Duration) -> (PortId, u64) {
        let took = (self.clock)().saturating_sub(start);
        if let Some(purse) = self.purses.get_mut(self.serving.index()) {
            purse.nanos -= nanos(took.min(MOST));
        }
        (self.serving, took.as_nanos() as u64)
    }
}

fn nanos(time: Duration) -> i64 {
    time.as_nanos() as i64
}

/// Since somebody asked first.
fn uptime() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

#[cfg(test)]
mod tests;
