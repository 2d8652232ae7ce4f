//! The control socket: many clients, one JSON object per line, answered in order.
//!
//! A [`ControlServer`] lives on the control thread, inside somebody else's `mio::Poll`: it registers tokens of a range
//! of its own, and its owner hands it the events of that range and a [`Handler`] that knows the switch. It never blocks.
//!
//! What always holds, whatever a client does:
//! * a turn of one client ends after [`TURN`] steps (a read of 64 KiB or a request each), or with a piece of a long one; the others
//!   come between;
//! * a line is at most [`MAX_LINE`](weft_config::control::MAX_LINE) octets, what is longer is answered and the connection closed;
//! * a client that does not read is not served either: at most [`MAX_BACKLOG`] octets and one response wait for it;
//! * there are at most [`MAX_CLIENTS`]; one more is told so and closed;
//! * a client that leaves a request half sent or a response unread for [`PATIENCE`] is closed.

mod client;
mod socket;

pub use socket::{ControlSocket, SocketError};

use std::io::{self, Write};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use weft_config::control::{Code, Op, Refusal, Reply, Response, to_line};

use client::{Client, Next};

/// As many clients as there may be at a time.
pub const MAX_CLIENTS: usize = 64;
/// Steps of one client before the others come.
pub const TURN: usize = 64;
/// Octets that may wait for a client before its next request is served.
pub const MAX_BACKLOG: usize = 256 * 1024;
/// How long a client may leave a request half sent or a response unread.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a request has come to.
#[derive(Debug)]
pub enum Answer {
    /// It is done, or refused.
    Done(Result<Reply, Refusal>),
    /// It takes more turns: [`Handler::go_on`] is to be called.
    Unfinished(Work),
}

/// What is still to be done.
pub type Work = Box<crate::conntrack::Walk>;

/// What the switch does with a request.
pub trait Handler {
    /// Does it, or begins with it. Everybody waits meanwhile.
    fn handle(&mut self, op: Op) -> Answer;

    /// Goes on with what it has begun, for some milliseconds at most. It is done to its end even if its client has
    /// gone.
    fn go_on(&mut self, work: Work) -> Answer;
}

/// The listening socket and its clients.
pub struct ControlServer {
    socket: ControlSocket,
    registry: Registry,
    first: usize,
    clients: Vec<Option<Client>>,
    /// The system had no descriptor for a waiting client; to be tried again when one is free.
    starved: bool,
}

impl ControlServer {
    /// Tokens that a server uses, from its first on.
    pub const TOKENS: usize = 1 + MAX_CLIENTS;

    /// Registers the socket; the server uses the tokens `first` to `first` + [`Self::TOKENS`] - 1.
    pub fn new(mut socket: ControlSocket, registry: &Registry, first: Token) -> io::Result<Self> {
        let registry = registry.try_clone()?;
        registry.register(socket.listener(), first, Interest::READABLE)?;
        let clients = (0..MAX_CLIENTS).map(|_| None).collect();
        Ok(ControlServer { socket, registry, first: first.0, clients, starved: false })
    }

    /// Whether events with this token are for the server.
    pub fn owns(&self, token: Token) -> bool {
        (self.first..self.first + Self::TOKENS).contains(&token.0)
    }

    /// Serves the socket or the client that the event is about; events of other tokens are ignored.
    pub fn handle(&mut self, event: &Event, now: Instant, handler: &mut dyn Handler) {
        match event.token().0.checked_sub(self.first) {
            Some(0) => self.accept(now),
            Some(index @ 1..Self::TOKENS) => self.serve(index - 1, now, handler),
            _ => {}
        }
    }

    /// Closes the clients whose patience is over. To be called now and then, say every second.
    pub fn expire(&mut self, now: Instant) {
        for slot in 0..self.clients.len() {
            let stuck =
                self.clients.get(slot).and_then(Option::as_ref).is_some_and(|client| client.is_stuck(now));
            if stuck {
                tracing::info!("closed a control client that was stuck for {} s", PATIENCE.as_secs());
                self.close(slot);
            }
        }
        if self.starved {
            self.accept(now);
        }
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        self.clients.iter().flatten().count()
    }

    fn accept(&mut self, now: Instant) {
        let known = std::mem::take(&mut self.starved);
        loop {
            match self.socket.listener().accept() {
                Ok((stream, _)) => self.admit(stream, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if !known {
                        tracing::warn!("control socket: can't accept a client: {error}");
                    }
                    self.starved = true;
                    return;
                }
            }
        }
    }

    fn admit(&mut self, mut stream: UnixStream, now: Instant) {
        let Some(slot) = self.clients.iter().position(Option::is_none) else {
            let refusal =
                Refusal::new(Code::Busy, format_args!("the switch has {MAX_CLIENTS} clients already"));
            // Whether it can be told or not, it is closed.
            let _ = stream.write(&to_line(&Response::new(0, Err(refusal))));
            return;
        };
        let token = Token(self.first + 1 + slot);
        match self.registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE) {
            Ok(()) => {
                if let Some(place) = self.clients.get_mut(slot) {
                    *place = Some(Client::new(stream, now));
                }
            }
            Err(error) => tracing::warn!("control socket: can't watch a client: {error}"),
        }
    }

    fn serve(&mut self, slot: usize, now: Instant, handler: &mut dyn Handler) {
        let Some(client) = self.clients.get_mut(slot).and_then(Option::as_mut) else { return };
        match client.serve(now, handler) {
            Next::Wait => {}
            Next::Again => {
                // Arms the edge again: the next poll brings this client back, after the others.
                let token = Token(self.first + 1 + slot);
                let both = Interest::READABLE | Interest::WRITABLE;
                if let Err(error) = self.registry.reregister(client.stream(), token, both) {
                    tracing::warn!("control socket: can't watch a client: {error}");
                    self.close(slot);
                }
            }
            Next::Close => {
                self.close(slot);
                if self.starved {
                    self.accept(now);
                }
            }
        }
    }

    fn close(&mut self, slot: usize) {
        if let Some(mut client) = self.clients.get_mut(slot).and_then(Option::take)
            && let Err(error) = self.registry.deregister(client.stream())
        {
            tracing::debug!("control socket: can't stop watching a client: {error}");
        }
    }
}

#[cfg(test)]
mod tests;
