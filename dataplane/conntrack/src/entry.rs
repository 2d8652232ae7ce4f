//! One connection in the table: three cache lines, of which a hit touches the first alone.
//!
//! Threads: `epoch` is a sequence lock. It is even at rest, and moves by two when anything changes that rules see, or when
//! the entry goes; it goes on counting when the slot is used again. Who changes it holds the lock of the bucket `home`
//! ([`crate::index`]), or has the slot to itself. Three things are written without that lock, each a plain atomic:
//! `expiry` (only ever exchanged from a value that was read: 0 is final), and the windows of TCP's ends, each by packets
//! of one direction.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use bytemuck::Zeroable;

use crate::expect::Skew;
use crate::nat::{Side, Translation};
use crate::protocol::{Kind, Phase, Progress};
use crate::request::{Helper, Segment};
use crate::state::Direction;
use crate::tcp::{self, Peer, TcpState};
use crate::timeouts::Timeout;
use crate::tuple::{Family, Tuple};

const RELAXED: Ordering = Ordering::Relaxed;

/// One end of a TCP connection.
#[derive(Debug, Zeroable)]
#[repr(C)]
struct PeerCell {
    low: AtomicU32,
    high: AtomicU32,
    window: AtomicU16,
    scale: AtomicU8,
    state: AtomicU8,
}

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
    skew: [AtomicU32; 2],
}

const _: () = assert!(size_of::<Entry>() == 192);

/// Bits of `flags`.
mod flag {
    // Bits 0 and 1: an ordinary packet of the original, of the reply direction changes nothing that rules see.
    pub const KIND: u32 = 2;
    pub const PHASE: u32 = 4;
    pub const NAT: u32 = 1 << 6;
    pub const NAT_DESTINATION: u32 = 1 << 7;
    pub const PARENT: u32 = 1 << 8;
    pub const HELPER: u32 = 9;
    /// In the index.
    pub const LINKED: u32 = 1 << 11;
    pub const TIMEOUT: u32 = 12;
}

/// A connection as values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    pub zone: u16,
    pub original: Tuple,
    pub reply: Tuple,
    pub nat: Option<Side>,
    pub mark: u32,
    pub label: u128,
    pub progress: Progress,
    pub timeout: Timeout,
    pub helper: Option<Helper>,
    pub parent: Option<Tuple>,
}

impl Image {
    /// How a packet of a direction is rewritten.
    pub fn translation(&self, direction: Direction) -> Option<Translation> {
        self.nat.map(|side| Translation::of(side, direction, &self.original, &self.reply))
    }

    fn flags(&self) -> u32 {
        let progress = &self.progress;
        let quiet =
            u32::from(progress.quiet(Direction::Original)) | u32::from(progress.quiet(Direction::Reply)) << 1;
        let nat = match self.nat {
            None => 0,
            Some(Side::Source) => flag::NAT,
            Some(Side::Destination) => flag::NAT | flag::NAT_DESTINATION,
        };
        quiet
            | (progress.kind as u32) << flag::KIND
            | (progress.phase as u32) << flag::PHASE
            | nat
            | if self.parent.is_some() { flag::PARENT } else { 0 }
            | self.helper.map_or(0, |helper| helper as u32) << flag::HELPER
            | (self.timeout as u32) << flag::TIMEOUT
    }
}

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

impl PeerCell {
    #[inline]
    fn load(&self) -> Peer {
        Peer {
            low: self.low.load(RELAXED),
            high: self.high.load(RELAXED),
            window: self.window.load(RELAXED),
            scale: self.scale.load(RELAXED),
            state: TcpState::from_number(self.state.load(RELAXED)),
        }
    }

    /// Stores what differs, so that what other workers slide meanwhile stays.
    #[inline]
    fn store(&self, old: &Peer, new: &Peer) {
        self.slide(old, new);
        if new.scale != old.scale {
            self.scale.store(new.scale, RELAXED);
        }
        if new.state != old.state {
            self.state.store(new.state as u8, RELAXED);
        }
    }

    #[inline]
    fn slide(&self, old: &Peer, new: &Peer) {
        if new.low != old.low {
            self.low.store(new.low, RELAXED);
        }
        if new.high != old.high {
            self.high.store(new.high, RELAXED);
        }
        if new.window != old.window {
            self.window.store(new.window, RELAXED);
        }
    }
}

fn load_addresses(words: &[AtomicU64; 4]) -> (u128, u128) {
    let [a, b, c, d] = words.each_ref().map(|word| u128::from(word.load(RELAXED)));
    (a | b << 64, c | d << 64)
}

fn store_addresses(words: &[AtomicU64; 4], src: u128, dst: u128) {
    let values = [src as u64, (src >> 64) as u64, dst as u64, (dst >> 64) as u64];
    words.iter().zip(values).for_each(|(word, value)| word.store(value, RELAXED));
}

fn same_addresses(words: &[AtomicU64; 4], src: u128, dst: u128) -> bool {
    load_addresses(words) == (src, dst)
}

fn ports(tuple: &Tuple) -> u32 {
    u32::from(tuple.src_port) << 16 | u32::from(tuple.dst_port)
}

fn identity(zone: u16, tuple: &Tuple) -> u32 {
    u32::from(zone) << 16 | u32::from(tuple.protocol) << 8 | tuple.family as u32
}

fn tuple_of(words: &[AtomicU64; 4], ports: &AtomicU32, identity: u32) -> Tuple {
    let (src, dst) = load_addresses(words);
    let ports = ports.load(RELAXED);
    let family = if identity & 0xff == 0 { Family::V4 } else { Family::V6 };
    Tuple {
        src,
        dst,
        src_port: (ports >> 16) as u16,
        dst_port: ports as u16,
        protocol: (identity >> 8) as u8,
        family,
    }
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

    /// Ends the connection for good if it has the tuple and has expired: for who is about to put another in its place.
    pub fn bury(&self, zone: u16, tuple: &Tuple, second: u32) {
        let expiry = self.expiry.load(RELAXED);
        if expiry != 0 && second >= expiry && self.direction_of(zone, tuple).is_some() {
            let _ = self.expiry.compare_exchange(expiry, 0, RELAXED, RELAXED);
        }
    }

    /// Whether a packet of this direction changes nothing that rules see; if so its windows have slid.
    #[inline]
    pub fn step(&self, direction: Direction, segment: impl FnOnce() -> Option<Segment>) -> bool {
        let flags = self.flags.load(RELAXED);
        if flags >> direction.index() & 1 == 0 {
            return false;
        }
        if flags >> flag::KIND & 3 != Kind::Tcp as u32 {
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
        let old = (from.load(), to.load());
        let (mut source, mut destination) = old;
        let fits = tcp::advance(&mut source, &mut destination, segment);
        if fits {
            from.slide(&old.0, &source);
            to.slide(&old.1, &destination);
        }
        fits
    }

    /// Lets it live on from this second. `seconds` is asked for if its age hasn't been seen to in this second.
    #[inline]
    pub fn refresh(&self, second: u32, seconds: impl FnOnce(u16, Timeout) -> u32) {
        let expiry = self.expiry.load(RELAXED);
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

    /// Says that it is in the index, for who has just put it there and holds its lock.
    pub fn link(&self) {
        self.flags.store(self.flags.load(RELAXED) | flag::LINKED, RELAXED);
    }

    /// Whether it is in the index; who holds its lock can rely on it.
    pub fn linked(&self) -> bool {
        self.flags.load(RELAXED) & flag::LINKED != 0
    }

    /// The connection, unless a writer is at it, and its epoch.
    pub fn read(&self) -> Option<(Image, u32)> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let image = self.image();
        fence(Ordering::Acquire);
        (epoch & 1 == 0 && self.epoch.load(RELAXED) == epoch).then_some((image, epoch))
    }

    /// The connection, for who holds its lock.
    pub fn image(&self) -> Image {
        let flags = self.flags.load(RELAXED);
        let identity = self.identity.load(RELAXED);
        let parent = || tuple_of(&self.parent, &self.parent_ports, self.parent_identity.load(RELAXED));
        Image {
            zone: (identity >> 16) as u16,
            original: tuple_of(&self.original, &self.original_ports, identity),
            reply: tuple_of(&self.reply, &self.reply_ports, identity),
            nat: nat_of(flags),
            mark: self.mark.load(RELAXED),
            label: self.label(),
            progress: self.progress(flags),
            timeout: timeout_of(flags),
            helper: helper_of(flags),
            parent: (flags & flag::PARENT != 0).then(parent),
        }
    }

    fn label(&self) -> u128 {
        let [low, high] = self.label.each_ref().map(|word| u128::from(word.load(RELAXED)));
        low | high << 64
    }

    fn progress(&self, flags: u32) -> Progress {
        let kind = match flags >> flag::KIND & 3 {
            0 => Kind::Other,
            1 => Kind::Icmp,
            _ => Kind::Tcp,
        };
        let phase = match flags >> flag::PHASE & 3 {
            0 => Phase::First,
            1 => Phase::Multiple,
            _ => Phase::Both,
        };
        let peers = match kind {
            Kind::Tcp => self.peers.each_ref().map(PeerCell::load),
            _ => Default::default(),
        };
        Progress { kind, phase, peers }
    }

    /// How a packet of this direction is rewritten, if the epoch is still this one.
    #[inline]
    pub fn translation(&self, direction: Direction, epoch: u32) -> Option<Translation> {
        let flags = self.flags.load(RELAXED);
        let side = nat_of(flags)?;
        if self.epoch.load(Ordering::Acquire) != epoch {
            return None;
        }
        let identity = self.identity.load(RELAXED);
        let original = tuple_of(&self.original, &self.original_ports, identity);
        let reply = tuple_of(&self.reply, &self.reply_ports, identity);
        fence(Ordering::Acquire);
        (self.epoch.load(RELAXED) == epoch).then(|| Translation::of(side, direction, &original, &reply))
    }

    /// Writes a new connection into a slot that is the caller's alone, and says its epoch.
    pub fn fill(&self, image: &Image, home: usize, second: u32, seconds: u32) -> u32 {
        let epoch = self.open();
        self.flags.store(image.flags(), RELAXED);
        self.mark.store(image.mark, RELAXED);
        self.home.store(home as u32, RELAXED);
        if image.progress.kind == Kind::Tcp {
            for (cell, peer) in self.peers.iter().zip(&image.progress.peers) {
                cell.low.store(peer.low, RELAXED);
                cell.high.store(peer.high, RELAXED);
                cell.window.store(peer.window, RELAXED);
                cell.scale.store(peer.scale, RELAXED);
                cell.state.store(peer.state as u8, RELAXED);
            }
        }
        self.identity.store(identity(image.zone, &image.original), RELAXED);
        self.original_ports.store(ports(&image.original), RELAXED);
        self.reply_ports.store(ports(&image.reply), RELAXED);
        store_addresses(&self.original, image.original.src, image.original.dst);
        store_addresses(&self.reply, image.reply.src, image.reply.dst);
        self.store_label(image.label);
        self.skew.iter().for_each(|skew| skew.store(0, RELAXED));
        if let Some(parent) = image.parent {
            store_addresses(&self.parent, parent.src, parent.dst);
            self.parent_ports.store(ports(&parent), RELAXED);
            self.parent_identity.store(identity(0, &parent), RELAXED);
        }
        self.seconds.store(seconds, RELAXED);
        self.expiry.store(second.saturating_add(seconds), RELAXED);
        self.close(epoch)
    }

    /// Writes what may change of a connection, for who holds its lock; says its epoch afterwards.
    pub fn change(&self, old: &Image, new: &Image) -> u32 {
        let visible = old.progress.visible() != new.progress.visible()
            || (old.mark, old.label) != (new.mark, new.label);
        let epoch = if visible { self.open() } else { self.epoch.load(RELAXED) };
        let (before, after) = (old.flags(), new.flags());
        if before != after {
            self.flags.store(after | flag::LINKED, RELAXED);
        }
        if new.progress.kind == Kind::Tcp {
            let peers = old.progress.peers.iter().zip(&new.progress.peers);
            self.peers.iter().zip(peers).for_each(|(cell, (old, new))| cell.store(old, new));
        }
        if old.mark != new.mark {
            self.mark.store(new.mark, RELAXED);
        }
        if old.label != new.label {
            self.store_label(new.label);
        }
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
        low.store(label as u64, RELAXED);
        high.store((label >> 64) as u64, RELAXED);
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

    /// Skew of its sequence numbers.
    pub fn skew(&self) -> Skew {
        let [original, reply] = self.skew.each_ref().map(|skew| skew.load(RELAXED) as i32);
        Skew { original, reply }
    }

    /// Sets that.
    pub fn set_skew(&self, skew: Skew) {
        let [original, reply] = &self.skew;
        original.store(skew.original as u32, RELAXED);
        reply.store(skew.reply as u32, RELAXED);
    }
}

fn nat_of(flags: u32) -> Option<Side> {
    match (flags & flag::NAT != 0, flags & flag::NAT_DESTINATION != 0) {
        (false, _) => None,
        (true, false) => Some(Side::Source),
        (true, true) => Some(Side::Destination),
    }
}

fn helper_of(flags: u32) -> Option<Helper> {
    match flags >> flag::HELPER & 3 {
        1 => Some(Helper::Ftp),
        2 => Some(Helper::Tftp),
        _ => None,
    }
}

fn timeout_of(flags: u32) -> Timeout {
    Timeout::ALL.get((flags >> flag::TIMEOUT & 0xf) as usize).copied().unwrap_or_default()
}
