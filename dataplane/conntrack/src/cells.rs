//! Values in atomic cells: a tuple, one end of TCP.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use bytemuck::Zeroable;

use crate::tcp::{Peer, TcpState};
use crate::tuple::{Family, Tuple};

const RELAXED: Ordering = Ordering::Relaxed;

/// One end of a TCP connection.
#[derive(Debug, Zeroable)]
#[repr(C)]
pub(crate) struct PeerCell {
    low: AtomicU32,
    high: AtomicU32,
    window: AtomicU16,
    scale: AtomicU8,
    state: AtomicU8,
}

impl PeerCell {
    #[inline]
    pub fn load(&self) -> Peer {
        Peer { state: TcpState::from_number(self.state.load(RELAXED)), ..self.load_window() }
    }

    /// Without the state.
    #[inline]
    pub fn load_window(&self) -> Peer {
        Peer {
            low: self.low.load(RELAXED),
            high: self.high.load(RELAXED),
            window: self.window.load(RELAXED),
            scale: self.scale.load(RELAXED),
            state: TcpState::Established,
        }
    }

    /// Stores all, in a connection that is the caller's alone.
    pub fn set(&self, peer: &Peer) {
        self.low.store(peer.low, RELAXED);
        self.high.store(peer.high, RELAXED);
        self.window.store(peer.window, RELAXED);
        self.scale.store(peer.scale, RELAXED);
        self.state.store(peer.state as u8, RELAXED);
    }

    /// Stores what differs, so that what other workers slide meanwhile stays.
    #[inline]
    pub fn store(&self, old: &Peer, new: &Peer) {
        self.slide(old, new);
        if new.scale != old.scale {
            self.scale.store(new.scale, RELAXED);
        }
        if new.state != old.state {
            self.state.store(new.state as u8, RELAXED);
        }
    }

    #[inline]
    pub fn slide(&self, old: &Peer, new: &Peer) {
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

/// Source and destination address.
#[inline]
pub(crate) fn load_addresses([a, b, c, d]: &[AtomicU64; 4]) -> (u128, u128) {
    (wide(a, b), wide(c, d))
}

/// A number from its lower and its upper half.
#[inline]
pub(crate) fn wide(low: &AtomicU64, high: &AtomicU64) -> u128 {
    u128::from(low.load(RELAXED)) | u128::from(high.load(RELAXED)) << 64
}

#[inline]
pub(crate) fn store_addresses([a, b, c, d]: &[AtomicU64; 4], src: u128, dst: u128) {
    store_wide(a, b, src);
    store_wide(c, d, dst);
}

#[inline]
pub(crate) fn store_wide(low: &AtomicU64, high: &AtomicU64, value: u128) {
    low.store(value as u64, RELAXED);
    high.store((value >> 64) as u64, RELAXED);
}

#[inline]
pub(crate) fn same_addresses(words: &[AtomicU64; 4], src: u128, dst: u128) -> bool {
    load_addresses(words) == (src, dst)
}

#[inline]
pub(crate) fn ports(tuple: &Tuple) -> u32 {
    u32::from(tuple.src_port) << 16 | u32::from(tuple.dst_port)
}

#[inline]
pub(crate) fn identity(zone: u16, tuple: &Tuple) -> u32 {
    u32::from(zone) << 16 | u32::from(tuple.protocol) << 8 | tuple.family as u32
}

#[inline]
pub(crate) fn tuple_of(words: &[AtomicU64; 4], ports: &AtomicU32, identity: u32) -> Tuple {
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
