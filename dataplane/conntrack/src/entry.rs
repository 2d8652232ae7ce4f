//! One connection in the table: three cache lines, of which a hit touches the first alone.
//!
//! Threads: `epoch` is a sequence lock. It is even at rest, and moves by two when anything changes that rules see, or when
//! the entry goes; it goes on counting when the slot is used again. Who changes it holds the lock of the bucket `home`
//! ([`crate::index`]), or has the slot to itself. Three things are written without that lock, each a plain atomic:
//! `expiry` (only ever exchanged from a value that was read: 0 is final), and the windows of TCP's ends, each by packets
//! of one direction.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use bytemuck::Zeroable;
use weft_io::mem::prefetch;

use crate::cells::{PeerCell, identity, ports, same_addresses, store_addresses, store_wide, tuple_of, wide};
use crate::image::{Image, Moving, flag, helper_of, kind_of, nat_of, phase_of, timeout_of};
use crate::nat::Translation;
use crate::protocol::{Kind, Progress};
use crate::request::Segment;
use crate::state::Direction;
use crate::tcp;
use crate::timeouts::Timeout;
use crate::tuple::Tuple;

const RELAXED: Ordering = Ordering::Relaxed;

/// A connection. See the module's text.
#[derive(Debug, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Entry {
    pub epoch: AtomicU32,
    /// The first second in which it is no longer there; 0 for good.
    pub expiry: AtomicU32,
    /// The timeout that counts now.
    pub seconds: AtomicU32,
    flags: AtomicU32,
    mark: AtomicU32,
    /// The bucket of the original tuple.
    pub home: AtomicU32,
    peers: [PeerCell; 2],
    original_ports: AtomicU32,
    reply_ports: AtomicU32,
    /// Zone, protocol, family.
    identity: AtomicU32,
    /// The next free slot, while this one is free.
    pub next: AtomicU32,
    original: [AtomicU64; 4],
    reply: [AtomicU64; 4],
    label: [AtomicU64; 2],
    parent: [AtomicU64; 4],
    parent_ports: AtomicU32,
    parent_identity: AtomicU32,
}

const _: () = assert!(size_of::<Entry>() == 192);

/// What a reader met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sight {
    /// The tuple is its own in this direction, and the epoch at that time.
    Mine(Direction, u32),
    /// It is another's.
    Other,
    /// A writer is at it: look again.
    Busy,
}

impl Entry {
    /// Whether a live connection of this zone has the tuple, and in which direction.
    #[inline]
    pub fn look(&self, zone: u16, tuple: &Tuple, second: u32) -> Sight {
        let epoch = self.epoch.load(Ordering::Acquire);
        if epoch & 1 != 0 {
            return Sight::Busy;
        }
        let direction = self.direction_of(zone, tuple);
        let live = second < self.expiry.load(RELAXED);
        fence(Ordering::Acquire);
        match direction {
            _ if self.epoch.load(RELAXED) != epoch => Sight::Busy,
            Some(direction) if live => Sight::Mine(direction, epoch),
            _ => Sight::Other,
        }
    }

    /// In which direction the tuple is this connection's.
    #[inline]
    fn direction_of(&self, zone: u16, tuple: &Tuple) -> Option<Direction> {
        let ports = ports(tuple);
        if self.identity.load(RELAXED) != identity(zone, tuple) {
            None
        } else if self.original_ports.load(RELAXED) == ports
            && same_addresses(&self.original, tuple.src, tuple.dst)
        {
            Some(Direction::Original)
        } else if self.reply_ports.load(RELAXED) == ports && same_addresses(&self.reply, tuple.src, tuple.dst)
        {
            Some(Direction::Reply)
        } else {
            None
        }
    }

    /// Ends the connection for good if it has the tuple and has expired: for who is about to put another in its place, and
    /// holds its lock. False if it has the tuple and lives: a packet whose worker's second is behind has been quicker.
    pub fn bury(&self, zone: u16, tuple: &Tuple, second: u32) -> bool {
        let expiry = self.expiry.load(RELAXED);
        if expiry == 0 || self.direction_of(zone, tuple).is_none() {
            return true;
        }
        second >= expiry && self.expiry.compare_exchange(expiry, 0, RELAXED, RELAXED).is_ok()
    }

    /// Whether a packet of this direction changes nothing that rules see; if so its windows have slid.
    #[inline(always)]
    pub fn step(&self, direction: Direction, segment: impl FnOnce() -> Option<Segment>) -> bool {
        let flags = self.flags.load(RELAXED);
        if flags >> direction.index() & 1 == 0 {
            return false;
        }
        if kind_of(flags) != Kind::Tcp {
            return true;
        }
        segment().is_some_and(|segment| self.advance(direction, &segment))
    }

    #[inline]
    fn advance(&self, direction: Direction, segment: &Segment) -> bool {
        let [first, second] = &self.peers;
        let (from, to) = match direction {
            Direction::Original => (first, second),
            Direction::Reply => (second, first),
        };
        let old = (from.load_window(), to.load_window());
        let (mut source, mut destination) = old;
        let fits = tcp::advance(&mut source, &mut destination, segment);
        if fits {
            from.slide(&old.0, &source);
            to.slide(&old.1, &destination);
        }
        fits
    }

    /// Its expiry, for who looks at its epoch afterwards: then both are of one connection.
    #[inline]
    pub fn expiry(&self) -> u32 {
        self.expiry.load(Ordering::Acquire)
    }

    /// Lets it live on from this second; `expiry` is what was read before its epoch was seen to be right. `seconds` is asked
    /// for if its age hasn't been seen to in this second.
    #[inline]
    pub fn refresh(&self, expiry: u32, second: u32, seconds: impl FnOnce(u16, Timeout) -> u32) {
        if second.saturating_add(self.seconds.load(RELAXED)) == expiry {
            return;
        }
        let flags = self.flags.load(RELAXED);
        let zone = (self.identity.load(RELAXED) >> 16) as u16;
        self.revive(expiry, second, seconds(zone, timeout_of(flags)));
    }

    /// The same, with a timeout that is known.
    pub fn revive(&self, expiry: u32, second: u32, seconds: u32) {
        let new = second.saturating_add(seconds);
        // It may have ended meanwhile, which is final; or another worker has been quicker, which is as good.
        if expiry != 0 && self.expiry.compare_exchange(expiry, new, RELAXED, RELAXED).is_ok() {
            self.seconds.store(seconds, RELAXED);
        }
    }

    /// Fetches all of it: it will be filled.
    pub fn prefetch(&self) {
        prefetch(&self.epoch);
        prefetch(&self.original);
        prefetch(&self.label);
    }

    /// Says that it is in the index, for who has just put it there and holds its lock.
    pub fn link(&self) {
        self.flags.store(self.flags.load(RELAXED) | flag::LINKED, RELAXED);
    }

    /// Whether it is in the index; who holds its lock can rely on it.
    pub fn linked(&self) -> bool {
        self.flags.load(RELAXED) & flag::LINKED != 0
    }

    /// The connection's zone.
    pub fn zone(&self) -> u16 {
        (self.identity.load(RELAXED) >> 16) as u16
    }

    /// Whether both ends have said what makes it one, and it isn't over.
    pub fn is_answered(&self) -> bool {
        self.progress(self.flags.load(RELAXED)).is_answered()
    }

    /// The connection, unless a writer is at it, and its epoch.
    #[inline]
    pub fn read(&self) -> Option<(Image, u32)> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let image = self.image();
        fence(Ordering::Acquire);
        (epoch & 1 == 0 && self.epoch.load(RELAXED) == epoch).then_some((image, epoch))
    }

    #[inline]
    fn image(&self) -> Image {
        let flags = self.flags.load(RELAXED);
        let identity = self.identity.load(RELAXED);
        let parent = || tuple_of(&self.parent, &self.parent_ports, self.parent_identity.load(RELAXED));
        Image {
            zone: (identity >> 16) as u16,
            original: tuple_of(&self.original, &self.original_ports, identity),
            reply: tuple_of(&self.reply, &self.reply_ports, identity),
            nat: nat_of(flags),
            helper: helper_of(flags),
            parent: (flags & flag::PARENT != 0).then(parent),
            moving: self.moving(),
        }
    }

    /// What moves, for who holds the connection's lock.
    #[inline]
    pub fn moving(&self) -> Moving {
        let flags = self.flags.load(RELAXED);
        Moving {
            mark: self.mark.load(RELAXED),
            label: self.label(),
            progress: self.progress(flags),
            timeout: timeout_of(flags),
        }
    }

    #[inline]
    fn label(&self) -> u128 {
        let [low, high] = &self.label;
        wide(low, high)
    }

    #[inline]
    fn progress(&self, flags: u32) -> Progress {
        let kind = kind_of(flags);
        let peers = match kind {
            Kind::Tcp => {
                let [first, second] = &self.peers;
                [first.load(), second.load()]
            }
            _ => Default::default(),
        };
        Progress { kind, phase: phase_of(flags), peers }
    }

    /// How a packet of this direction is rewritten, if the connection that had this epoch is still there. It may have changed
    /// since, by another worker's packet, which says nothing of its ends: these are written when the slot is filled again, at
    /// the third step of the epoch at the earliest (a connection's end is two).
    #[inline]
    pub fn translation(&self, direction: Direction, epoch: u32) -> Option<Translation> {
        let is_the_same = || self.epoch.load(Ordering::Acquire).wrapping_sub(epoch) <= 2;
        if !is_the_same() {
            return None;
        }
        let side = nat_of(self.flags.load(RELAXED))?;
        let identity = self.identity.load(RELAXED);
        let original = tuple_of(&self.original, &self.original_ports, identity);
        let reply = tuple_of(&self.reply, &self.reply_ports, identity);
        fence(Ordering::Acquire);
        is_the_same().then(|| Translation::of(side, direction, &original, &reply))
    }

    /// Writes a new connection into a slot that is the caller's alone, and says its epoch.
    pub fn fill(&self, image: &Image, home: usize, second: u32, seconds: u32) -> u32 {
        let epoch = self.open();
        let moving = &image.moving;
        self.flags.store(image.flags(), RELAXED);
        self.mark.store(moving.mark, RELAXED);
        self.home.store(home as u32, RELAXED);
        if moving.progress.kind == Kind::Tcp {
            self.peers.iter().zip(&moving.progress.peers).for_each(|(cell, peer)| cell.set(peer));
        }
        self.identity.store(identity(image.zone, &image.original), RELAXED);
        self.original_ports.store(ports(&image.original), RELAXED);
        self.reply_ports.store(ports(&image.reply), RELAXED);
        store_addresses(&self.original, image.original.src, image.original.dst);
        store_addresses(&self.reply, image.reply.src, image.reply.dst);
        self.store_label(moving.label);
        if let Some(parent) = image.parent {
            store_addresses(&self.parent, parent.src, parent.dst);
            self.parent_ports.store(ports(&parent), RELAXED);
            self.parent_identity.store(identity(0, &parent), RELAXED);
        }
        self.seconds.store(seconds, RELAXED);
        self.expiry.store(second.saturating_add(seconds), RELAXED);
        self.close(epoch)
    }

    /// Writes what has moved, for who holds the connection's lock; says its epoch afterwards.
    pub fn change(&self, old: &Moving, new: &Moving) -> u32 {
        let visible = old.progress.visible() != new.progress.visible()
            || (old.mark, old.label) != (new.mark, new.label);
        let epoch = if visible { self.open() } else { self.epoch.load(RELAXED) };
        self.flags.store(self.flags.load(RELAXED) & flag::FIXED | new.flags(), RELAXED);
        if new.progress.kind == Kind::Tcp {
            let peers = old.progress.peers.iter().zip(&new.progress.peers);
            self.peers.iter().zip(peers).for_each(|(cell, (old, new))| cell.store(old, new));
        }
        self.mark.store(new.mark, RELAXED);
        self.store_label(new.label);
        if visible { self.close(epoch) } else { epoch }
    }

    /// Ends it, for who holds its lock and takes it from the index.
    pub fn end(&self) {
        let epoch = self.open();
        self.expiry.store(0, RELAXED);
        self.flags.store(0, RELAXED);
        self.close(epoch);
    }

    fn store_label(&self, label: u128) {
        let [low, high] = &self.label;
        store_wide(low, high, label);
    }

    fn open(&self) -> u32 {
        let epoch = self.epoch.load(RELAXED);
        self.epoch.store(epoch.wrapping_add(1), RELAXED);
        fence(Ordering::Release);
        epoch
    }

    fn close(&self, epoch: u32) -> u32 {
        let epoch = epoch.wrapping_add(2);
        self.epoch.store(epoch, Ordering::Release);
        epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tuple::Family;

    #[test]
    fn an_expired_connection_that_a_packet_of_the_second_before_keeps_is_not_buried() {
        let original = Tuple { src: 1, dst: 2, src_port: 3, dst_port: 4, protocol: 17, family: Family::V4 };
        let progress = Progress::default();
        let moving = Moving { mark: 0, label: 0, progress, timeout: Timeout::UdpFirst };
        let reply = original.reversed();
        let image = Image { zone: 5, original, reply, nat: None, helper: None, parent: None, moving };
        let entry: Entry = Zeroable::zeroed();
        entry.fill(&image, 0, 0, 30);
        assert_eq!(entry.look(5, &reply, 30), Sight::Other);
        entry.refresh(entry.expiry(), 29, |_, _| 60);
        assert!(!entry.bury(5, &reply, 30), "it lives");
        assert!(entry.bury(6, &reply, 30), "of another zone");
        assert!(matches!(entry.look(5, &reply, 30), Sight::Mine(Direction::Reply, _)));
        assert!(entry.bury(5, &reply, 89));
        entry.refresh(entry.expiry(), 88, |_, _| 60);
        assert_eq!(entry.look(5, &reply, 88), Sight::Other, "for good");
        assert!(entry.bury(5, &reply, 88), "once more");
    }
}
