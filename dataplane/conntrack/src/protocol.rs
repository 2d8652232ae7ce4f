//! What a packet does to its connection, by protocol: plain values in, plain values out.
//!
//! TCP has its own file ([`crate::tcp`]). Everything else is counted by who has been heard (Open vSwitch's
//! lib/conntrack-other.c and conntrack-icmp.c).

use crate::request::{Facts, Segment};
use crate::state::Direction;
use crate::tcp::{self, Peer};
use crate::timeouts::Timeout;
use crate::tuple::{Tuple, protocol};

/// How a connection is tracked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Kind {
    /// By packets seen: UDP and all that isn't below.
    #[default]
    Other = 0,
    /// Query and reply.
    Icmp = 1,
    /// States and windows.
    Tcp = 2,
}

impl Kind {
    /// How connections of this tuple are tracked.
    #[inline]
    pub fn of(tuple: &Tuple) -> Kind {
        if tuple.protocol == protocol::TCP {
            Kind::Tcp
        } else if tuple.is_icmp() {
            Kind::Icmp
        } else {
            Kind::Other
        }
    }
}

/// How far a connection has got that isn't TCP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum Phase {
    /// One packet.
    #[default]
    First = 0,
    /// Several, all in one direction.
    Multiple = 1,
    /// Both directions.
    Both = 2,
}

/// What tracking keeps of a connection's past.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// How it is tracked.
    pub kind: Kind,
    /// Where it is, unless TCP.
    pub phase: Phase,
    /// TCP's two ends: the one that began, and the other.
    pub peers: [Peer; 2],
}

/// What a packet is in its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// `new`: there was no answer yet.
    New,
    /// `est`
    Established,
    /// `inv`
    Invalid,
    /// The connection has ended, and this packet begins another.
    Again,
}

/// What [`Progress::update`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Verdict {
    /// What the packet is.
    pub outcome: Outcome,
    /// The timeout that starts anew; `None` leaves the connection's age as it is.
    pub refresh: Option<Timeout>,
}

/// Whether a packet may begin a connection.
pub(crate) fn may_begin(facts: &Facts) -> bool {
    match Kind::of(&facts.tuple) {
        Kind::Tcp => facts.tcp.is_some_and(|segment| tcp::may_begin(segment.flags)),
        Kind::Icmp => facts.tuple.is_query(),
        Kind::Other => true,
    }
}

impl Progress {
    /// After the first packet, with its timeout.
    pub(crate) fn begin(facts: &Facts) -> (Progress, Timeout) {
        let kind = Kind::of(&facts.tuple);
        let peers = match (kind, &facts.tcp) {
            (Kind::Tcp, Some(segment)) => tcp::begin(segment),
            _ => Default::default(),
        };
        let first = match kind {
            Kind::Tcp => Timeout::TcpSynSent,
            Kind::Icmp => Timeout::IcmpFirst,
            Kind::Other => Timeout::UdpFirst,
        };
        (Progress { kind, phase: Phase::First, peers }, first)
    }

    /// After another packet. `liberal` accepts TCP segments outside of windows.
    pub(crate) fn update(
        &mut self,
        direction: Direction,
        segment: Option<&Segment>,
        liberal: bool,
    ) -> Verdict {
        match (self.kind, segment) {
            (Kind::Tcp, Some(segment)) => tcp::update(&mut self.peers, direction, segment, liberal),
            (Kind::Tcp, None) => Verdict { outcome: Outcome::Invalid, refresh: None },
            (Kind::Icmp, _) => self.query(direction),
            (Kind::Other, _) => self.count(direction),
        }
    }

    fn query(&mut self, direction: Direction) -> Verdict {
        if direction == Direction::Reply {
            self.phase = Phase::Both;
        }
        match self.phase {
            Phase::Both => Verdict { outcome: Outcome::Established, refresh: Some(Timeout::IcmpReply) },
            _ => Verdict { outcome: Outcome::New, refresh: Some(Timeout::IcmpFirst) },
        }
    }

    fn count(&mut self, direction: Direction) -> Verdict {
        if direction == Direction::Reply {
            self.phase = Phase::Both;
        } else if self.phase == Phase::First {
            self.phase = Phase::Multiple;
        }
        match self.phase {
            Phase::Both => Verdict { outcome: Outcome::Established, refresh: Some(Timeout::UdpMultiple) },
            _ => Verdict { outcome: Outcome::New, refresh: Some(Timeout::UdpSingle) },
        }
    }

    /// Whether an ordinary packet starts the timeout anew that counts already.
    pub(crate) fn keeps(&self, timeout: Timeout) -> bool {
        self.kind != Kind::Tcp || timeout == tcp::timeout(self.peers[0].state, self.peers[1].state)
    }

    /// Whether an ordinary packet of this direction changes nothing but windows and age.
    pub(crate) fn quiet(&self, direction: Direction) -> bool {
        let [source, destination] = match direction {
            Direction::Original => self.peers,
            Direction::Reply => [self.peers[1], self.peers[0]],
        };
        match (self.kind, direction) {
            (Kind::Tcp, _) => tcp::quiet(source.state, destination.state),
            (Kind::Icmp, Direction::Original) => true,
            (Kind::Other, Direction::Original) => self.phase != Phase::First,
            (_, Direction::Reply) => self.phase == Phase::Both,
        }
    }

    /// Whether it was answered: TCP is open, and not over (a reset needs but one end, so it is no answer).
    pub(crate) fn is_answered(&self) -> bool {
        match self.kind {
            Kind::Tcp => tcp::is_open(self.peers[0].state, self.peers[1].state),
            _ => self.phase == Phase::Both,
        }
    }

    /// What rules see of it: for packets of each direction, whether they are `new` or `est`. While it stays the same, so
    /// does what they see.
    pub(crate) fn visible(&self) -> (bool, bool) {
        match self.kind {
            Kind::Tcp => (self.quiet(Direction::Original), self.quiet(Direction::Reply)),
            _ => (self.phase == Phase::Both, true),
        }
    }
}
