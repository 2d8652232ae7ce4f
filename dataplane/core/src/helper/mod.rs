//! Helpers: protocols that agree in one connection on another.
//!
//! A helper reads a packet of the *control connection* and says which connection is to be expected ([`Expectation`]). All
//! of it is pure: octets and tuples in, values out. [`ftp`] and [`tftp`] read; what a translation has to change in the
//! packet's text, [`crate::edit::stream`] changes; that later packets are numbered otherwise, [`weft_conntrack::Skew`] remembers.
//!
//! In this order, for each packet of a control connection: it is translated; its data is read, numbered as its sender has it; what
//! is announced is expected, and a text that the peer has to see otherwise replaced, which the direction's skew takes note
//! of; it is renumbered. A tracker of windows is to see one count for each direction: the sender's own.
//!
//! What always holds: nothing is expected but between the two hosts of the control connection, so a client can't have a hole made
//! to somebody else; and what is not understood is not expected.

pub mod ftp;
pub mod tftp;

use weft_conntrack::{Direction, Expected, Link, Side, Translation, Tuple};

/// The two tuples of a control connection. They are each other's reverse unless it is translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Control {
    /// What the client sends.
    pub original: Tuple,
    /// What the server sends.
    pub reply: Tuple,
}

impl Control {
    /// The connection of a packet that had `tuple` before its translation.
    pub fn of(direction: Direction, tuple: &Tuple, translation: Option<&Translation>) -> Self {
        let answer = translation.map_or(*tuple, |translation| translation.tuple).reversed();
        match direction {
            Direction::Original => Control { original: *tuple, reply: answer },
            Direction::Reply => Control { original: answer, reply: *tuple },
        }
    }

    /// A connection that the server will open to the client, which listens at `port`; the server knows it as `shown`.
    fn towards_client(&self, shown: u16, port: u16) -> Expectation {
        let tuple = Tuple { src_port: 0, dst_port: shown, ..self.reply };
        let translation = if self.original.src != self.reply.dst || shown != port {
            Some((Side::Destination, self.original.src))
        } else if self.original.dst != self.reply.src {
            Some((Side::Source, self.original.dst))
        } else {
            None
        };
        Expectation { tuple, translation, port }
    }

    /// A connection that the client will open to the server, which listens at `port`.
    fn towards_server(&self, port: u16) -> Expectation {
        let tuple = Tuple { src_port: 0, dst_port: port, ..self.original };
        let translation = if self.original.dst != self.reply.src {
            Some((Side::Destination, self.reply.src))
        } else if self.original.src != self.reply.dst {
            Some((Side::Source, self.reply.dst))
        } else {
            None
        };
        Expectation { tuple, translation, port }
    }
}

/// A connection that is to be expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expectation {
    /// Its first packet. The source port, 0, is any.
    pub tuple: Tuple,
    /// What that packet's source or destination becomes, as the control connection is translated.
    pub translation: Option<(Side, u128)>,
    /// The port where it is awaited: another than the tuple's if the control connection's own port is translated.
    pub port: u16,
}

impl Expectation {
    /// The same, for the tracker; `parent` is the control connection.
    pub fn expected(&self, parent: Link) -> Expected {
        Expected { parent, tuple: self.tuple, any_source: false, translation: self.translation }
    }
}
