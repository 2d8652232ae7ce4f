//! What `ct(..)` asks of the tracker, and what it hears.

use crate::link::Link;
use crate::nat::{Nat, Translation};
use crate::state::State;
use crate::tuple::{Tuple, protocol};

/// What tracking reads of a TCP segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window, as it is in the header.
    pub window: u16,
    /// The low eight flags (RFC 9293 section 3.1).
    pub flags: u8,
    /// Octets of payload.
    pub payload: u32,
    /// The window scale option (RFC 7323 section 2), if there is one; read of SYN segments only.
    pub scale: Option<u8>,
}

/// What tracking knows of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// Its addresses and ports as they are at this point of the pipeline.
    pub tuple: Tuple,
    /// Its TCP header. TCP without it is invalid.
    pub tcp: Option<Segment>,
    /// For an ICMP or ICMPv6 error: the tuple of the packet that it quotes, as quoted.
    pub inner: Option<Tuple>,
    /// Whether lengths and checksums make sense.
    pub valid: bool,
}

impl Facts {
    /// The tuple by which the packet's connection is sought: of an ICMP error, the answer to the packet that it quotes.
    /// `None` if it can't be tracked. The quoted packet must have come from where the error goes to.
    pub(crate) fn key(&self) -> Option<Tuple> {
        let Facts { tuple, tcp, inner, valid } = self;
        match inner {
            _ if !valid => None,
            Some(inner) => (inner.src == tuple.dst && inner.is_trackable()).then(|| inner.reversed()),
            None => {
                let whole = tuple.protocol != protocol::TCP || tcp.is_some();
                (whole && tuple.is_trackable()).then_some(*tuple)
            }
        }
    }
}

/// Bits to set: those of `mask` become `value`'s.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Masked<T> {
    /// Value.
    pub value: T,
    /// Which bits of it count.
    pub mask: T,
}

impl<T> Masked<T>
where
    T: Copy
        + std::ops::BitAnd<Output = T>
        + std::ops::BitOr<Output = T>
        + std::ops::Not<Output = T>
        + PartialEq,
{
    /// `old` with these bits set.
    #[inline]
    pub fn apply(&self, old: T) -> T {
        (old & !self.mask) | (self.value & self.mask)
    }

    /// Whether `is` has these bits.
    #[inline]
    pub fn covers(&self, is: T) -> bool {
        is & self.mask == self.value & self.mask
    }
}

/// A helper that reads a control connection and expects others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Helper {
    /// FTP (RFC 959, RFC 2428)
    Ftp = 1,
    /// TFTP (RFC 1350)
    Tftp = 2,
}

impl Helper {
    /// Whether it reads connections that begin with this tuple.
    pub fn is_for(self, tuple: &Tuple) -> bool {
        match self {
            Helper::Ftp => tuple.protocol == protocol::TCP,
            Helper::Tftp => tuple.protocol == protocol::UDP,
        }
    }
}

/// What `commit` and its arguments ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Commit {
    /// `force`: a connection in which the packet is a reply is replaced by one that it begins.
    pub force: bool,
    /// Bits of `ct_mark` to set.
    pub mark: Masked<u32>,
    /// Bits of `ct_label` to set.
    pub label: Masked<u128>,
    /// `nat(src=..)` or `nat(dst=..)`: how a new connection is translated.
    pub nat: Option<Nat>,
    /// `alg=`: the helper of a new connection.
    pub helper: Option<Helper>,
}

/// What an earlier `ct(..)` said about the same packet, if nothing has untracked it since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Before {
    /// Its zone.
    pub zone: u16,
    /// The packet's state since then.
    pub state: State,
    /// Its connection ([`Tracked::connection`]).
    pub connection: Link,
}

/// One `ct(..)` on one packet.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The zone.
    pub zone: u16,
    /// The packet.
    pub facts: &'a Facts,
    /// What it was before ([`Tracked::before`]); a packet takes part in its connection's state only once per zone.
    pub before: Option<Before>,
    /// `commit`, if it is there.
    pub commit: Option<&'a Commit>,
    /// `nat`, in any form: translate the packet as its connection says.
    pub translate: bool,
    /// Uptime in seconds.
    pub second: u32,
    /// Whether anything changes; false for a trace.
    pub effects: bool,
}

/// Why a connection was not made. The packet's state is `new` nevertheless, as in Open vSwitch; what becomes of it is
/// the caller's decision.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Refusal {
    /// All connections that there may be are in use.
    #[error("the connection table is full")]
    Full,
    /// The zone has all that it may have.
    #[error("the zone has as many connections as it may have")]
    ZoneLimit,
    /// No address and port is free to translate to.
    #[error("no address and port of the NAT range is free")]
    NatExhausted,
    /// Its replies would belong to another connection. The kernel drops such a packet as well; Open vSwitch makes two
    /// connections with one tuple.
    #[error("its replies belong to another connection")]
    Clash,
}

/// What tracking says about a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tracked {
    /// `ct_state`
    pub state: State,
    /// `ct_zone`
    pub zone: u16,
    /// `ct_mark`
    pub mark: u32,
    /// `ct_label`
    pub label: u128,
    /// The tuple that began the connection, or the parent's if it was expected: `ct_nw_src` and so on.
    pub original: Option<Tuple>,
    /// How the packet's addresses and ports are to be rewritten.
    pub translation: Option<Translation>,
    /// What this answer depends on: [`Link::NEVER`] if the next packet of this tuple may hear another.
    pub link: Link,
    /// The packet's connection, for [`Connections::expect`] and the like; [`Link::NEVER`] if it has none.
    ///
    /// [`Connections::expect`]: crate::Connections::expect
    pub connection: Link,
    /// Whether this request made the connection.
    pub created: bool,
    /// Why none was made, if that was asked for.
    pub refused: Option<Refusal>,
    /// The connection's helper: the packet is to be shown to it.
    pub helper: Option<Helper>,
}

impl Tracked {
    /// What the next `ct(..)` on this packet is to know.
    pub fn before(&self) -> Before {
        Before { zone: self.zone, state: self.state, connection: self.connection }
    }

    /// An invalid packet of no connection.
    pub(crate) fn invalid(zone: u16) -> Tracked {
        Tracked { state: State::INV | State::TRK, ..Tracked::nothing(zone) }
    }

    /// Nothing known but the zone.
    pub(crate) fn nothing(zone: u16) -> Tracked {
        Tracked {
            state: State::TRK,
            zone,
            mark: 0,
            label: 0,
            original: None,
            translation: None,
            link: Link::NEVER,
            connection: Link::NEVER,
            created: false,
            refused: None,
            helper: None,
        }
    }
}
