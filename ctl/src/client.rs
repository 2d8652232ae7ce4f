//! The connection to the switch: a request out, a line back.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_config::control::{Op, Request, Response, to_line};

/// How long the switch may take for an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest answer, in octets: an FDB of a million entries is a sixth of it.
const MAX_ANSWER: u64 = 1 << 30;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or we may not talk to it.
    #[error("can't reach weftd at {}: {source}; is it running? Its socket is chosen by --socket or WEFT_SOCKET", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It went away, or took too long.
    #[error("weftd did not answer within {} s", PATIENCE.as_secs())]
    TimedOut,
    /// It went away.
    #[error("the connection to weftd broke: {0}")]
    Broken(#[source] io::Error),
    /// It closed the connection.
    #[error("weftd closed the connection without an answer")]
    Closed,
    /// What it said is no answer of this protocol, or not to our request.
    #[error("weftd sent what this weftctl does not understand: is it of another version?")]
    Unexpected,
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::TimedOut,
            _ => ClientError::Broken(error),
        }
    }
}

/// A connection to a switch.
pub struct Client {
    stream: BufReader<UnixStream>,
    next: u64,
}

impl Client {
    /// Connects to the socket at `path`.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let connected = UnixStream::connect(path);
        let stream = connected.map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client { stream: BufReader::new(stream), next: 1 })
    }

    /// Asks and waits. Gives the answer as it came, with its newline, and as a structure.
    pub fn ask(&mut self, op: Op) -> Result<(String, Response), ClientError> {
        let id = self.next;
        self.next += 1;
        // A switch that refuses us closes its side at once; its answer is there all the same.
        let sent = self.stream.get_mut().write_all(&to_line(&Request { id, op }));
        let mut line = String::new();
        let read = (&mut self.stream).take(MAX_ANSWER).read_line(&mut line);
        match (sent, read) {
            (Err(error), Ok(0) | Err(_)) => return Err(error.into()),
            (_, Err(error)) => return Err(error.into()),
            (_, Ok(0)) => return Err(ClientError::Closed),
            (_, Ok(_)) => {}
        }
        let response: Response = serde_json::from_str(&line).map_err(|_| ClientError::Unexpected)?;
        let ours = response.id == id || response.id == 0;
        if ours && line.ends_with('\n') { Ok((line, response)) } else { Err(ClientError::Unexpected) }
    }
}
