//! What devices receive, frame by frame, with their VLAN tags.

use crate::cmd::{Result, SHORT};
use crate::lab::Lab;
use crate::netns::Netns;
use crate::process::Process;

/// Frames that are being recorded on some devices of a namespace.
pub struct Recorder {
    process: Process,
}

/// A recorded frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The device that received it.
    pub device: String,
    /// Its octets, tags included.
    pub frame: Vec<u8>,
}

impl Recorder {
    /// Starts recording; `name` names its log.
    pub fn start(lab: &Lab, name: &str, ns: &Netns, devices: &[&str]) -> Result<Self> {
        let script = include_str!("../data/recorder.py");
        let argv = [&["/usr/bin/python3", "-c", script], devices].concat();
        let mut process = ns.spawn(lab, name, &argv)?;
        process.wait_until(SHORT, |process| process.log().starts_with("ready"))?;
        Ok(Recorder { process })
    }

    /// What was received so far, in order; a line that is still being written is left out.
    pub fn received(&self) -> Vec<Received> {
        let log = self.process.log();
        let complete = log.rsplit_once('\n').map_or("", |(complete, _)| complete);
        let received = |line: &str| {
            let (device, hex) = line.split_once(' ')?;
            Some(Received { device: device.to_owned(), frame: unhex(hex)? })
        };
        complete.lines().skip(1).filter_map(received).collect()
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let octet = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..text.len()).step_by(2).map(octet).collect()
}
