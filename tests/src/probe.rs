//! Streams that count every packet, and what the kernel knows of a process: for tests that disturb a running switch.

use crate::cmd::{self, Error, Result, SHORT};
use crate::lab::Lab;
use crate::netns::{Host, Netns};
use crate::process::Process;
use crate::wait_for;
use crate::weftd::{Weftd, binary};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Numbered packets from one VM to another, by `weft-pktgen`, in the background.
pub struct Stream {
    process: Process,
    name: String,
    limit: Duration,
}

/// What became of a [`Stream`]. All counts are exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Streamed {
    /// Packets sent.
    pub sent: u64,
    /// Packets that did not arrive.
    pub lost: u64,
    /// Packets that arrived twice.
    pub duplicated: u64,
    /// Packets that arrived after a later one.
    pub reordered: u64,
    /// Packets that arrived changed.
    pub damaged: u64,
    /// Packets that arrived and that the receiving program was too slow for.
    pub receiver_drops: u64,
}

impl Streamed {
    /// True when each packet arrived once, whole and in its place.
    pub fn is_clean(&self) -> bool {
        let Streamed { sent, lost, duplicated, reordered, damaged, .. } = *self;
        sent > 0 && (lost, duplicated, reordered, damaged) == (0, 0, 0, 0)
    }
}

impl Stream {
    /// Sends `pps` packets a second for `seconds` from one host's device to another's.
    pub fn start(
        lab: &Lab,
        name: &str,
        (from, to): (&Host, &Host),
        (pps, seconds): (u32, u64),
    ) -> Result<Self> {
        Self::start_with(lab, name, (from, to), (pps, seconds), "")
    }

    /// As [`Stream::start`], with further options of `weft-pktgen`.
    pub fn start_with(
        lab: &Lab,
        name: &str,
        (from, to): (&Host, &Host),
        (pps, seconds): (u32, u64),
        options: &str,
    ) -> Result<Self> {
        let program = binary("weft-pktgen")?.display().to_string();
        let end = |host: &Host| format!("{}@{}", host.device(), host.ns().name());
        let (tx, rx, rate, time) = (end(from), end(to), pps.to_string(), seconds.to_string());
        let mut argv =
            vec![&program[..], "--json", "--tx", &tx, "--rx", &rx, "--rate", &rate, "--seconds", &time];
        argv.extend(["--flows", "4", "--settle", "2000"]);
        argv.extend(options.split_whitespace());
        let process = Process::start(name, &argv, &lab.path(&format!("{name}.stream")), &[])?;
        Ok(Stream { process, name: name.to_owned(), limit: Duration::from_secs(seconds + 20) })
    }

    /// Waits for its end and says what became of the packets.
    pub fn finish(mut self) -> Result<Streamed> {
        self.process.wait(self.limit)?;
        let log = self.process.log();
        let line = log.lines().find(|line| line.starts_with('{'));
        let report: serde_json::Value = serde_json::from_str(line.unwrap_or_default())
            .map_err(|_| Error::new(format!("stream {}: no report: {log}", self.name)))?;
        let count = |key: &str| report[key].as_u64().unwrap_or(u64::MAX);
        Ok(Streamed {
            sent: count("sent"),
            lost: count("lost"),
            duplicated: count("duplicated"),
            reordered: count("reordered"),
            damaged: count("damaged"),
            receiver_drops: count("receiver_drops"),
        })
    }

    /// As [`Stream::finish`]; an error unless each packet arrived once, whole and in its place.
    pub fn finish_clean(self) -> Result<Streamed> {
        let name = self.name.clone();
        let streamed = self.finish()?;
        if streamed.is_clean() {
            return Ok(streamed);
        }
        Err(Error::new(format!("stream {name}: {streamed:?}")))
    }
}

/// The open descriptors of a process, counted by what they are (`socket`, `anon_inode:bpf-link`, a path, ...).
pub fn descriptors(pid: u32) -> Result<BTreeMap<String, usize>> {
    let mut kinds = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let target = target.display().to_string();
        let kind = target.split(":[").next().unwrap_or(&target).to_owned();
        *kinds.entry(kind).or_insert(0) += 1;
    }
    Ok(kinds)
}

/// Processor time that all threads of a process have used so far (utime and stime of proc(5)).
pub fn processor_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> =
        stat.rsplit(')').next().map(|rest| rest.split_whitespace().collect()).unwrap_or_default();
    // The third field of the line is the first after the name; utime and stime are the 14th and 15th.
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Ok(Duration::from_millis((user + system) * 10)),
        _ => Err(Error::new(format!("/proc/{pid}/stat: {stat}"))),
    }
}

/// The share of one core that a process uses over `time`, in percent.
pub fn processor_share(pid: u32, time: Duration) -> Result<f64> {
    let (start, before) = (Instant::now(), processor_time(pid)?);
    std::thread::sleep(time);
    let used = processor_time(pid)? - before;
    Ok(100.0 * used.as_secs_f64() / start.elapsed().as_secs_f64())
}

/// Waits until a process uses less than so many percent of a core, looked at over `time` each: what spins never does. Returns
/// the share.
pub fn wait_calm(pid: u32, percent: f64, time: Duration) -> Result<f64> {
    let mut share = f64::NAN;
    let calm = wait_for(&format!("{percent} % of a core"), 6 * time, || {
        share = processor_share(pid, time)?;
        Ok(share < percent)
    });
    calm.map_err(|error| Error::new(format!("{error}: {share:.1} %")))?;
    Ok(share)
}

/// Waits until a port has received a hundred packets more: a stream that was started may take its time.
pub fn wait_traffic(weftd: &Weftd, port: &str) -> Result<()> {
    let before = weftd.counter(port, "rx_packets")?;
    let more = || Ok(weftd.counter(port, "rx_packets")? >= before + 100);
    wait_for(&format!("traffic from {port}"), SHORT, more)
}

/// How often a share of this test's load is done: `WEFT_TEST_SECONDS`, or `default`.
pub fn duration_of_load(default: u64) -> Duration {
    let asked = std::env::var("WEFT_TEST_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(default))
}

/// A number that `weftctl --json show` has at its top.
pub fn gauge(weftd: &Weftd, key: &str) -> Result<u64> {
    let shown = weftd.json("show")?;
    find(&shown, key)
        .and_then(serde_json::Value::as_u64)
        .ok_or_else(|| Error::new(format!("no {key} in {shown}")))
}

/// The first value of a key, wherever it is.
pub fn find<'a>(value: &'a serde_json::Value, key: &str) -> Option<&'a serde_json::Value> {
    match value {
        serde_json::Value::Object(map) => {
            map.get(key).or_else(|| map.values().find_map(|value| find(value, key)))
        }
        serde_json::Value::Array(items) => items.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}

/// Why a port is down; `None` when it is up.
pub fn down(weftd: &Weftd, name: &str) -> Result<Option<String>> {
    Ok(weftd.port(name)?["state"]["down"].as_str().map(str::to_owned))
}

/// A command that runs in the background, for what it prints in the end.
pub fn in_background(lab: &Lab, ns: &Netns, name: &str, line: &str) -> Result<Process> {
    ns.spawn(lab, name, &line.split_whitespace().collect::<Vec<_>>())
}

/// A file of the lab's folder with this text.
pub fn file(lab: &Lab, name: &str, text: &str) -> Result<PathBuf> {
    let path = lab.path(name);
    std::fs::write(&path, text)?;
    Ok(path)
}

/// A Python program of a few lines in a namespace, with its arguments; it must succeed.
pub fn python(ns: &Netns, program: &str, arguments: &[&str], limit: Duration) -> Result<String> {
    cmd::ok(&[&ns.prefix()[..], &["/usr/bin/python3", "-c", program], arguments].concat(), limit)
}
