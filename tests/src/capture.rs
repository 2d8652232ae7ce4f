//! Packets on a device, captured by tcpdump and judged by tshark.

use crate::cmd::{self, Error, Result, SHORT};
use crate::lab::Lab;
use crate::netns::Netns;
use crate::process::Process;
use crate::wait_for;
use rustix::process::Signal;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// tshark looks at every checksum; by default it trusts them.
const CHECK: [&str; 6] =
    ["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"];

/// What must not occur. A checksum's status is 0 when it is bad, the severity is that of an error. A TCP checksum of 0xffff
/// is none: the kernel writes it where the sum is 0, which is the same number in ones' complement (RFC 1624 section 3).
const BAD: &str = "_ws.malformed || _ws.short || ip.checksum.status == 0 || udp.checksum.status == 0 || \
                   icmp.checksum.status == 0 || gre.checksum.status == 0 || \
                   ((tcp.checksum.status == 0 || _ws.expert.severity == 8388608) && !tcp.checksum.ffff)";

/// What tshark would guess from the payload of a connection: random octets look like some protocol now and then, and are then
/// malformed packets of it.
fn guesses() -> Result<&'static [String]> {
    static GUESSES: OnceLock<Vec<String>> = OnceLock::new();
    if let Some(known) = GUESSES.get() {
        return Ok(known);
    }
    let table = cmd::ok(&["tshark", "-G", "heuristic-decodes"], Duration::from_secs(60))?;
    // What it is guessed in, the protocol, whether it is on: `tcp  thrift  T`.
    let name = |line: &str| {
        let mut columns = line.split('\t');
        let parent = columns.next()?;
        ["tcp", "udp"].contains(&parent).then(|| columns.next().map(str::to_owned))?
    };
    Ok(GUESSES.get_or_init(|| table.lines().filter_map(name).collect()))
}

/// A capture that is running.
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
}

/// A capture that has ended.
pub struct Captured {
    file: String,
}

impl Capture {
    /// Captures up to 200,000 packets that pass `filter` (pcap syntax, may be empty) on a device, to `<name>.pcap`.
    ///
    /// On a veth the sender's unfinished checksums are seen as they are: turn its offloads off, or capture behind the
    /// device that finishes them.
    pub fn start(lab: &Lab, name: &str, ns: &Netns, device: &str, filter: &str) -> Result<Self> {
        let file = lab.path(&format!("{name}.pcap"));
        let path = file.display().to_string();
        let mut argv = vec![
            "tcpdump",
            "-B",
            "65536",
            "-Z",
            "root",
            "--immediate-mode",
            "-U",
            "-n",
            "-s",
            "0",
            "-c",
            "200000",
        ];
        argv.extend(["-i", device, "-w", &path]);
        argv.extend(filter.split_whitespace());
        let mut tcpdump = ns.spawn(lab, name, &argv)?;
        tcpdump.wait_until(SHORT, |tcpdump| tcpdump.log().contains("listening on"))?;
        Ok(Capture { tcpdump, file })
    }

    /// Ends it, once what was already sent has had 200 ms to arrive and tcpdump has written it.
    pub fn stop(mut self) -> Result<Captured> {
        std::thread::sleep(Duration::from_millis(200));
        self.catch_up()?;
        self.tcpdump.signal(Signal::INT)?;
        self.tcpdump.wait(SHORT)?;
        let log = self.tcpdump.log();
        if !log.contains("\n0 packets dropped by kernel") {
            return Err(Error::new(format!("the capture lost packets:\n{log}")));
        }
        Ok(Captured { file: self.file.display().to_string() })
    }

    /// Waits until tcpdump, which may have had no processor for a while, has taken what the kernel has for it. It drops the
    /// rest when it is ended.
    ///
    /// The kernel's number may stay above tcpdump's: it counts what came before the filter was set. So a second without
    /// progress is an end as well.
    fn catch_up(&mut self) -> Result<()> {
        let (mut last, mut since) = (None, Instant::now());
        wait_for("tcpdump to catch up", SHORT, || {
            let progress = self.progress()?;
            if last != Some(progress) {
                (last, since) = (Some(progress), Instant::now());
            }
            Ok(progress.0 >= progress.1 || since.elapsed() > Duration::from_secs(1))
        })
    }

    /// How many packets tcpdump has taken, and how many the kernel has had for it. SIGUSR1 makes it print that.
    fn progress(&mut self) -> Result<(u64, u64)> {
        let known = self.tcpdump.log().lines().filter(|line| progress_in(line).is_some()).count();
        self.tcpdump.signal(Signal::USR1)?;
        let mut progress = None;
        self.tcpdump.wait_until(SHORT, |tcpdump| {
            let log = tcpdump.log();
            progress =
                log.rsplit_once('\n').and_then(|(lines, _)| lines.lines().filter_map(progress_in).nth(known));
            progress.is_some()
        })?;
        progress.ok_or_else(|| Error::new("tcpdump says nothing of its progress"))
    }
}

/// Of `tcpdump: 3 packets captured, 4 packets received by filter, 0 packets dropped by kernel`, the first two numbers.
fn progress_in(line: &str) -> Option<(u64, u64)> {
    let mut parts = line.strip_prefix("tcpdump: ")?.split(", ");
    let mut number_of = |what: &str| {
        let (number, rest) = parts.next()?.split_once(" packet")?;
        rest.trim_start_matches('s').eq(what).then(|| number.parse().ok())?
    };
    Some((number_of(" captured")?, number_of(" received by filter")?))
}

impl Captured {
    /// A capture file from elsewhere.
    pub fn from_file(file: &std::path::Path) -> Self {
        Captured { file: file.display().to_string() }
    }

    fn tshark(&self, words: &[&str]) -> Result<String> {
        let guesses: Vec<&str> =
            guesses()?.iter().flat_map(|name| ["--disable-protocol", name.as_str()]).collect();
        let argv = [&["tshark", "-n", "-r", &self.file][..], &CHECK, &guesses, words].concat();
        cmd::ok(&argv, Duration::from_secs(60))
    }

    /// One row per packet that passes the display filter, with the values of `fields`; a field that occurs several times
    /// (outer and inner addresses) gives its values joined by commas.
    pub fn fields(&self, filter: &str, fields: &[&str]) -> Result<Vec<Vec<String>>> {
        let mut words = vec!["-Y", filter, "-T", "fields", "-E", "occurrence=a", "-E", "separator=/t"];
        words.extend(fields.iter().flat_map(|field| ["-e", field]));
        let text = self.tshark(&words)?;
        Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
    }

    /// Every packet that passes the display filter, as tshark's JSON.
    pub fn json(&self, filter: &str) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.tshark(&["-Y", filter, "-T", "json"])?)?)
    }

    /// How many packets pass the display filter (empty: all).
    pub fn count(&self, filter: &str) -> Result<usize> {
        Ok(self.fields(filter, &["frame.number"])?.len())
    }

    /// Panics, with tshark's own summary of them, when a packet is malformed or has a bad checksum in any header, and when
    /// there is no packet at all.
    pub fn assert_no_malformed_no_bad_checksum(&self) -> Result<()> {
        let bad = self.tshark(&["-Y", BAD])?;
        assert!(bad.is_empty(), "{}: malformed or with a bad checksum:\n{bad}", self.file);
        assert!(self.count("")? > 0, "{}: nothing was captured", self.file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcpdumps_lines_about_its_progress_are_read() {
        let line = "tcpdump: 1 packet captured, 12 packets received by filter, 0 packets dropped by kernel";
        assert_eq!(progress_in(line), Some((1, 12)));
        assert_eq!(progress_in("tcpdump: listening on eth0, link-type EN10MB"), None);
        assert_eq!(progress_in("12 packets captured"), None);
    }
}
