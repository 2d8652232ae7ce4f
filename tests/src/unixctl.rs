//! The control socket of an OVS daemon, kept open: what `ovs-appctl` does, without a process for each command.

use crate::cmd::{Error, Result, SHORT};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// An open control socket.
#[derive(Debug)]
pub struct Control(UnixStream);

impl Control {
    /// Connects to a daemon's socket.
    pub fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(SHORT))?;
        Ok(Control(stream))
    }

    /// Carries out a command and returns what it says.
    pub fn call(&mut self, command: &str, words: &[&str]) -> Result<String> {
        let request = json!({"id": 0, "method": command, "params": words});
        self.0.write_all(request.to_string().as_bytes())?;
        let answer = self.answer()?;
        match (&answer["result"], &answer["error"]) {
            (Value::String(text), _) => Ok(text.clone()),
            (_, error) => Err(Error::new(format!("{command} {}: {error}", words.join(" ")))),
        }
    }

    fn answer(&mut self) -> Result<Value> {
        let (mut told, mut part) = (Vec::new(), [0; 65536]);
        loop {
            let octets = self.0.read(&mut part)?;
            if octets == 0 {
                return Err(Error::new("the daemon closed its control socket"));
            }
            told.extend_from_slice(&part[..octets]);
            match serde_json::from_slice(&told) {
                Err(error) if error.is_eof() => {}
                answer => return Ok(answer?),
            }
        }
    }
}
