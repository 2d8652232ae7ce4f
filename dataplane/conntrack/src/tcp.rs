//! TCP: states and windows, as a firewall in the middle sees them.
//!
//! The rules are those of Open vSwitch's userspace tracker (lib/conntrack-tcp.c), which has them from OpenBSD's pf; they
//! go back to Guido van Rooij, "Real Stateful TCP Packet Filtering in IP Filter" (2000). In short:
//!
//! * A segment is valid if its last octet is inside what the other end has opened, it begins not more than one window
//!   back, and what it acknowledges is near what the other end has sent. A reset must hit the next octet, or one beside.
//! * A connection may be picked up in midstream: any segment but a SYN with ACK makes one. Its windows are then taken as
//!   scaled by 14, since nobody saw the option.
//! * Beyond that, while one end hasn't been heard or one has closed, segments within 66,000 octets are let through;
//!   they don't refresh the connection's age.
//! * A SYN in a connection that both ends have closed begins a new one in its place.

use crate::protocol::{Outcome, Verdict};
use crate::request::Segment;
use crate::state::Direction;
use crate::timeouts::Timeout;

/// FIN
pub const FIN: u8 = 0x01;
/// SYN
pub const SYN: u8 = 0x02;
/// RST
pub const RST: u8 = 0x04;
/// PSH
pub const PSH: u8 = 0x08;
/// ACK
pub const ACK: u8 = 0x10;
/// URG
pub const URG: u8 = 0x20;

/// One end's state; numbers and names as Open vSwitch's `ct-dpif.h`, and their order matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum TcpState {
    /// Nothing was heard of this end.
    #[default]
    Closed = 0,
    /// It has sent something that wasn't acknowledged yet.
    SynSent = 2,
    /// What it sent was acknowledged.
    Established = 4,
    /// It has sent a FIN.
    Closing = 7,
    /// Its FIN was acknowledged.
    FinWait2 = 9,
    /// The connection was reset.
    TimeWait = 10,
}

impl TcpState {
    /// The state of a number; an unknown one is `Closed`.
    pub(crate) const fn from_number(number: u8) -> TcpState {
        match number {
            2 => TcpState::SynSent,
            4 => TcpState::Established,
            7 => TcpState::Closing,
            9 => TcpState::FinWait2,
            10 => TcpState::TimeWait,
            _ => TcpState::Closed,
        }
    }

    /// Its name in Open vSwitch's listings.
    pub const fn name(self) -> &'static str {
        match self {
            TcpState::Closed => "CLOSED",
            TcpState::SynSent => "SYN_SENT",
            TcpState::Established => "ESTABLISHED",
            TcpState::Closing => "CLOSING",
            TcpState::FinWait2 => "FIN_WAIT_2",
            TcpState::TimeWait => "TIME_WAIT",
        }
    }
}

/// What is known of one end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Peer {
    /// The sequence number behind the last octet that it sent.
    pub low: u32,
    /// The sequence number behind the last octet that it may send.
    pub high: u32,
    /// The largest window that it has opened, before scaling.
    pub window: u16,
    /// Its window scale in the low four bits; 0x80 if it was heard, 0x40 if its SYN was not seen.
    pub scale: u8,
    /// State.
    pub state: TcpState,
}

/// The end has sent a window scale option.
pub const SCALED: u8 = 0x80;
/// Its SYN was not seen.
pub const UNKNOWN_SCALE: u8 = 0x40;
const SCALE: u8 = 0x0f;
/// The largest scale (RFC 7323 section 2.3).
const MAX_SCALE: u8 = 14;
/// What may be acknowledged beside what was sent; also how loosely a half-known connection is taken.
const SLACK: u32 = 0xffff + 1500;

fn less(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

fn at_least(a: u32, b: u32) -> bool {
    !less(a, b)
}

/// Whether no sane sender sets these flags together.
fn senseless(flags: u8) -> bool {
    let alone = if flags & SYN != 0 { flags & (RST | FIN) != 0 } else { flags & (ACK | RST) == 0 };
    alone || (flags & ACK == 0 && flags & (FIN | PSH | URG) != 0)
}

/// Whether a segment may begin a connection: a SYN, or one from the middle of a connection; not a SYN with ACK.
#[inline]
pub fn may_begin(flags: u8) -> bool {
    !senseless(flags) && flags & (SYN | ACK) != SYN | ACK
}

/// Both ends after the first segment.
pub(crate) fn begin(segment: &Segment) -> [Peer; 2] {
    let syn = segment.flags & SYN != 0;
    let scale = if syn { option(segment.scale) } else { UNKNOWN_SCALE };
    let octets =
        segment.payload.wrapping_add(1).wrapping_add(u32::from(syn)).wrapping_add(fin(segment.flags));
    let source = Peer {
        low: segment.seq,
        high: segment.seq.wrapping_add(octets),
        window: unscaled(segment.window.max(1), scale & SCALE),
        scale,
        state: TcpState::SynSent,
    };
    let unheard = if syn { 0 } else { UNKNOWN_SCALE };
    [source, Peer { low: 0, high: 1, window: 1, scale: unheard, state: TcpState::Closed }]
}

fn option(scale: Option<u8>) -> u8 {
    scale.map_or(0, |scale| scale.min(MAX_SCALE) | SCALED)
}

fn fin(flags: u8) -> u32 {
    u32::from(flags & FIN != 0)
}

fn unscaled(window: u16, scale: u8) -> u16 {
    window.div_ceil(1 << scale)
}

/// A segment, as the window check sees it.
#[derive(Clone, Copy)]
struct Span {
    seq: u32,
    end: u32,
    ack: u32,
    window: u16,
    /// How far windows of source and destination are shifted.
    shift: (u8, u8),
    check_ack: bool,
}

/// The shift of both windows: known, taken as the largest, or none.
fn shifts(source: &Peer, destination: &Peer, flags: u8) -> (u8, u8) {
    let both = source.scale & destination.scale;
    if flags & SYN != 0 {
        (0, 0)
    } else if both & SCALED != 0 {
        (source.scale & SCALE, destination.scale & SCALE)
    } else if both & UNKNOWN_SCALE != 0 {
        (MAX_SCALE, MAX_SCALE)
    } else {
        (0, 0)
    }
}

impl Span {
    #[inline]
    fn of(source: &Peer, destination: &Peer, segment: &Segment) -> Span {
        let flags = segment.flags;
        let syn = u32::from(flags & SYN != 0);
        Span {
            seq: segment.seq,
            end: segment.seq.wrapping_add(segment.payload).wrapping_add(syn).wrapping_add(fin(flags)),
            ack: segment.ack,
            window: segment.window,
            shift: shifts(source, destination, flags),
            check_ack: true,
        }
    }

    /// What isn't said, or by broken senders not meant, is taken as what is right.
    #[inline]
    fn lenient(mut self, source: &Peer, destination: &Peer, flags: u8) -> Span {
        if flags & ACK == 0 || (self.ack == 0 && flags & RST != 0) {
            self.ack = destination.low;
        }
        if self.seq == self.end {
            self.seq = source.low;
            self.end = source.low;
        }
        self
    }

    /// Whether it lies where the other end's window and earlier segments say that it may.
    #[inline]
    fn fits(&self, source: &Peer, destination: &Peer) -> bool {
        let skew = if self.check_ack { destination.low.wrapping_sub(self.ack) as i32 } else { 0 };
        let back = u32::from(destination.window) << self.shift.1;
        at_least(source.high, self.end)
            && at_least(self.seq, source.low.wrapping_sub(back))
            && i64::from(skew) >= -i64::from(SLACK)
            && i64::from(skew) <= i64::from(SLACK) << self.shift.0
    }

    /// Both ends after it: what the source has sent and opened.
    #[inline]
    fn slide(&self, source: &mut Peer, destination: &mut Peer) {
        source.window = source.window.max(self.window);
        if less(source.low, self.end) {
            source.low = self.end;
        }
        let open = u32::from(self.window) << self.shift.0;
        if at_least(self.ack.wrapping_add(open), destination.high) {
            destination.high = self.ack.wrapping_add(open.max(1));
        }
    }
}

/// An ordinary segment of a connection in which it changes no state: windows slide, and true is returned. False says
/// that it is another sort, or out of its window: [`update`] is to see it.
#[inline]
pub(crate) fn advance(source: &mut Peer, destination: &mut Peer, segment: &Segment) -> bool {
    if segment.flags & (SYN | FIN | RST | ACK) != ACK {
        return false;
    }
    let span = Span::of(source, destination, segment).lenient(source, destination, segment.flags);
    let fits = span.fits(source, destination);
    if fits {
        span.slide(source, destination);
    }
    fits
}

/// Whether an ordinary segment of this source changes no state.
pub(crate) fn quiet(source: TcpState, destination: TcpState) -> bool {
    source >= TcpState::SynSent && !matches!(destination, TcpState::SynSent | TcpState::Closing)
}

/// Whether both ends have acknowledged the other's first segment, and not each the other's last.
pub(crate) fn is_open(a: TcpState, b: TcpState) -> bool {
    (TcpState::Established..TcpState::FinWait2).contains(&a.min(b))
}

/// The timeout that goes with a pair of states.
pub(crate) fn timeout(a: TcpState, b: TcpState) -> Timeout {
    let (least, most) = (a.min(b), a.max(b));
    if least >= TcpState::FinWait2 {
        Timeout::TcpClose
    } else if least >= TcpState::Closing {
        Timeout::TcpTimeWait
    } else if least < TcpState::Established {
        Timeout::TcpSynRecv
    } else if most >= TcpState::Closing {
        Timeout::TcpFinWait
    } else {
        Timeout::TcpEstablished
    }
}

/// What a segment of an existing connection does to it.
pub(crate) fn update(
    peers: &mut [Peer; 2],
    direction: Direction,
    segment: &Segment,
    liberal: bool,
) -> Verdict {
    let [first, second] = peers;
    let (source, destination) = match direction {
        Direction::Original => (first, second),
        Direction::Reply => (second, first),
    };
    if senseless(segment.flags) {
        return Verdict { outcome: Outcome::Invalid, refresh: None };
    }
    if segment.flags & (SYN | ACK) == SYN
        && let Some(verdict) = knock(source, destination)
    {
        return verdict;
    }
    let mut span = Span::of(source, destination, segment);
    if source.state < TcpState::SynSent {
        greet(source, destination, segment, &mut span);
    }
    let span = span.lenient(source, destination, segment.flags);
    if liberal || (span.fits(source, destination) && reset_fits(source, segment)) {
        span.slide(source, destination);
        change(source, destination, segment.flags);
        let refresh = Some(timeout(source.state, destination.state));
        return Verdict { outcome: Outcome::Established, refresh };
    }
    if !loosely_fits(source, destination, &span) {
        return Verdict { outcome: Outcome::Invalid, refresh: None };
    }
    span.slide(source, destination);
    close(source, destination, segment.flags);
    Verdict { outcome: Outcome::Established, refresh: None }
}

/// A SYN without ACK: it begins a new connection where both ends have closed, and is a first packet while its sender
/// has sent nothing else.
fn knock(source: &mut Peer, destination: &mut Peer) -> Option<Verdict> {
    if source.state >= TcpState::FinWait2 && destination.state >= TcpState::FinWait2 {
        source.state = TcpState::Closed;
        destination.state = TcpState::Closed;
        return Some(Verdict { outcome: Outcome::Again, refresh: None });
    }
    if source.state > TcpState::SynSent {
        return None;
    }
    source.state = TcpState::SynSent;
    Some(Verdict { outcome: Outcome::New, refresh: Some(Timeout::TcpSynSent) })
}

/// The first segment of an end that wasn't heard before.
fn greet(source: &mut Peer, destination: &mut Peer, segment: &Segment, span: &mut Span) {
    if segment.flags & SYN != 0 && destination.scale & SCALED != 0 {
        source.scale = option(segment.scale);
        if source.scale & SCALED != 0 {
            span.shift = (source.scale & SCALE, destination.scale & SCALE);
            span.window = unscaled(span.window, span.shift.0);
        } else {
            // Scaling is off unless both ends ask for it (RFC 7323 section 2.2): the other's window counts as it is.
            let window = u32::from(destination.window) << (destination.scale & SCALE);
            // It was rounded up. (Open vSwitch 3.1 lets 65,536 become 0.)
            destination.window = window.try_into().unwrap_or(u16::MAX);
            destination.scale = 0;
        }
    }
    source.low = span.seq;
    source.state = TcpState::SynSent;
    let may = span.end.wrapping_add((u32::from(destination.window) << span.shift.1).max(1));
    if source.high == 1 || at_least(may, source.high) {
        source.high = may;
        span.check_ack = false;
    }
    source.window = source.window.max(span.window);
}

/// A reset counts if it hits the next octet, or one beside it (RFC 5961 section 3 asks for the exact one).
fn reset_fits(source: &Peer, segment: &Segment) -> bool {
    segment.flags & RST == 0 || segment.seq.wrapping_sub(source.low).wrapping_add(1) <= 2
}

/// While an end is unknown, or has closed, a segment may lie anywhere near.
fn loosely_fits(source: &Peer, destination: &Peer, span: &Span) -> bool {
    (destination.state < TcpState::SynSent
        || destination.state >= TcpState::FinWait2
        || source.state >= TcpState::FinWait2)
        && at_least(source.high.wrapping_add(SLACK), span.end)
        && at_least(span.seq, source.low.wrapping_sub(SLACK))
}

fn change(source: &mut Peer, destination: &mut Peer, flags: u8) {
    if flags & SYN != 0 && source.state < TcpState::SynSent {
        source.state = TcpState::SynSent;
    }
    if flags & FIN != 0 && source.state < TcpState::Closing {
        source.state = TcpState::Closing;
    }
    if flags & ACK != 0 {
        destination.state = match destination.state {
            TcpState::SynSent => TcpState::Established,
            TcpState::Closing => TcpState::FinWait2,
            other => other,
        };
    }
    reset(source, destination, flags);
}

fn close(source: &mut Peer, destination: &mut Peer, flags: u8) {
    if flags & FIN != 0 && source.state < TcpState::Closing {
        source.state = TcpState::Closing;
    }
    reset(source, destination, flags);
}

fn reset(source: &mut Peer, destination: &mut Peer, flags: u8) {
    if flags & RST != 0 {
        source.state = TcpState::TimeWait;
        destination.state = TcpState::TimeWait;
    }
}
