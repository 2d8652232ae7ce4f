//! One client of the control socket: its input up to the next whole line, and the output that it has not read yet.

use std::io::{self, Read, Write};
use std::time::Instant;

use mio::net::UnixStream;
use weft_config::control::{Code, MAX_LINE, Refusal, Response, parse_request, to_line};

use super::{Answer, Handler, MAX_BACKLOG, PATIENCE, TURN, Work};

/// Octets of one read.
const CHUNK: usize = 64 * 1024;

/// What a client's turn ended with.
pub(super) enum Next {
    /// Its socket has nothing more to read, or takes nothing more: an event will come.
    Wait,
    /// Its turn is over, but not its work.
    Again,
    /// It is done with, or broken.
    Close,
}

/// A connection.
pub(super) struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    /// Where in `input` the next line starts.
    start: usize,
    /// How much of `input` is known to have no end of a line in it, from `start` on.
    scanned: usize,
    output: Vec<u8>,
    /// How much of `output` is sent.
    sent: usize,
    /// Nothing more is read: the client has closed its side, or sent what can't be a line.
    ended: bool,
    /// When an octet went in or out for the last time, or something was done.
    progress: Instant,
    /// A request that isn't done yet, by its number: nothing behind it is looked at.
    begun: Option<(u64, Work)>,
}

impl Client {
    pub(super) fn new(stream: UnixStream, now: Instant) -> Self {
        let (input, output) = (Vec::new(), Vec::new());
        Client {
            stream,
            input,
            start: 0,
            scanned: 0,
            output,
            sent: 0,
            ended: false,
            progress: now,
            begun: None,
        }
    }

    pub(super) fn stream(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    /// Whether it has left something half done for too long.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        let half = self.start < self.input.len() || self.backlog() > 0;
        half && now.saturating_duration_since(self.progress) > PATIENCE
    }

    /// Answers, reads and writes for at most [`TURN`] steps.
    pub(super) fn serve(&mut self, now: Instant, handler: &mut dyn Handler) -> Next {
        for _ in 0..TURN {
            // Before anything else: it is done to its end even if its client has gone.
            if let Some((id, work)) = self.begun.take() {
                self.progress = now;
                self.take_answer(id, handler.go_on(work));
            }
            if self.begun.is_some() {
                return Next::Again;
            }
            if self.flush(now).is_err() {
                return Next::Close;
            }
            if self.backlog() >= MAX_BACKLOG {
                return Next::Wait;
            }
            if self.answer_next_line(handler) {
                continue;
            }
            if self.ended {
                return if self.backlog() > 0 { Next::Wait } else { Next::Close };
            }
            match self.fill(now) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Wait,
                Err(_) => return Next::Close,
            }
        }
        Next::Again
    }

    fn take_answer(&mut self, id: u64, answer: Answer) {
        match answer {
            Answer::Done(result) => self.output.extend(to_line(&Response::new(id, result))),
            Answer::Unfinished(work) => self.begun = Some((id, work)),
        }
    }

    fn backlog(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Sends what the socket takes.
    fn flush(&mut self, now: Instant) -> io::Result<()> {
        while self.backlog() > 0 {
            match self.stream.write(self.output.get(self.sent..).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => {
                    self.sent += sent;
                    self.progress = now;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if self.backlog() == 0 {
            self.output.clear();
            self.output.shrink_to(CHUNK);
            self.sent = 0;
        }
        Ok(())
    }

    /// Reads once. The end of the input is no error.
    fn fill(&mut self, now: Instant) -> io::Result<()> {
        self.input.drain(..self.start);
        self.start = 0;
        let held = self.input.len();
        self.input.resize(held + CHUNK, 0);
        let result = self.stream.read(self.input.get_mut(held..).unwrap_or_default());
        let read = result.as_ref().map_or(0, |read| *read);
        self.input.truncate(held + read);
        match result {
            Ok(0) => self.ended = true,
            Ok(_) => self.progress = now,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Answers the next whole line, if there is one, and what can't become a line. Says whether it did.
    fn answer_next_line(&mut self, handler: &mut dyn Handler) -> bool {
        let rest = self.input.get(self.start..).unwrap_or_default();
        let end =
            rest.iter().skip(self.scanned).position(|octet| *octet == b'\n').map(|end| end + self.scanned);
        match end {
            Some(end) if end < MAX_LINE => {
                let request = rest.get(..end).unwrap_or_default();
                let request = (!request.trim_ascii().is_empty()).then(|| parse_request(request));
                self.start += end + 1;
                self.scanned = 0;
                match request {
                    Some(Ok(request)) => self.take_answer(request.id, handler.handle(request.op)),
                    Some(Err(response)) => self.output.extend(to_line(&response)),
                    None => {}
                }
                true
            }
            None if rest.len() < MAX_LINE && !self.ended => {
                self.scanned = rest.len();
                false
            }
            None if rest.len() < MAX_LINE => {
                let half = !rest.is_empty();
                if half {
                    self.give_up(Code::BadRequest, "the request has no newline at its end".to_owned());
                }
                half
            }
            _ => {
                self.give_up(Code::TooLong, format!("the request is too long: 1 to {MAX_LINE} octets"));
                true
            }
        }
    }

    /// Answers what can't become a request, and listens to nothing more.
    fn give_up(&mut self, code: Code, message: String) {
        self.output.extend(to_line(&Response::new(0, Err(Refusal::new(code, message)))));
        self.ended = true;
        self.input = Vec::new();
        self.start = 0;
        self.scanned = 0;
    }
}
