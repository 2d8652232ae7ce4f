//! Flow text held to what stock Open vSwitch said of it (tests/data/record.py): what it accepts we accept and print
//! as it dumps it; what it refuses we refuse; what it dumps we read back and print as it was. Differences are listed,
//! each with its reason, in tests/data/differences.txt.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use weft_flow::message::{FlowCommand, GroupCommand, MeterCommand};
use weft_flow::text::{self, Error, FlowStats, GroupStats, MeterStats, NoNames, PortNames};
use weft_wire::OfPort;

/// The ports of the bridge that was recorded.
struct Ports;

impl PortNames for Ports {
    fn number(&self, name: &str) -> Option<OfPort> {
        ["p1", "p2", "p3"].iter().position(|known| *known == name).map(|at| OfPort(at as u16 + 1))
    }

    fn name(&self, _: OfPort) -> Option<&str> {
        None
    }
}

/// What was recorded of a line.
struct Record {
    line: String,
    /// Whether a version accepted it, and its dump or its complaint.
    said: Vec<(bool, String)>,
}

fn path(file: &str) -> String {
    format!("{}/tests/data/{file}", env!("CARGO_MANIFEST_DIR"))
}

fn records(file: &str) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    for line in std::fs::read_to_string(path(file)).unwrap().lines() {
        if let Some(line) = line.strip_prefix("in  ") {
            records.push(Record { line: line.to_owned(), said: Vec::new() });
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            let (versions, text) = line.split_at(line.find(['!', ' ']).unwrap());
            let end =
                line[versions.len()..].find(|c: char| !c.is_ascii_digit() && c != ' ').unwrap_or(text.len());
            let accepted = !line[versions.len()..versions.len() + end + 1].contains('!');
            let said =
                if accepted { line.split_once("  ").unwrap().1 } else { line.split_once("! ").unwrap().1 };
            records.last_mut().unwrap().said.push((accepted, said.replace("\\n", "\n")));
        }
    }
    records
}

/// Differences and their reasons, by kind and text: what Open vSwitch has, and what we have.
fn known_differences() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(path("differences.txt")).unwrap_or_default();
    let mut known = BTreeMap::new();
    let mut lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    while let Some(theirs) = lines.next() {
        known.insert(theirs.to_owned(), lines.next().unwrap_or_default().trim_start().to_owned());
    }
    known
}

/// Compares what was found with what is listed for `kind`; each way round.
fn hold(kind: &str, found: &BTreeMap<String, String>) {
    let known = known_differences();
    let mut report = String::new();
    for (theirs, ours) in found {
        if known.get(&format!("{kind}: {theirs}")) != Some(ours) {
            writeln!(report, "{kind}: {theirs}\n    {ours}").unwrap();
        }
    }
    for theirs in known.keys().filter_map(|theirs| theirs.strip_prefix(&format!("{kind}: "))) {
        if !found.contains_key(theirs) {
            writeln!(report, "listed, but no longer a difference: {kind}: {theirs}").unwrap();
        }
    }
    assert!(report.is_empty(), "differences that are not listed:\n{report}");
}

fn told(result: Result<String, Error>) -> String {
    result.unwrap_or_else(|error| format!("! {error}"))
}

/// Holds each record to what `print` makes of its text.
fn compare(kind: &str, file: &str, least: usize, print: impl Fn(&str) -> Result<String, Error>) {
    let records = records(file);
    assert!(records.len() >= least, "{} records in {file}", records.len());
    let mut found = BTreeMap::new();
    for record in &records {
        let dumps: Vec<&String> =
            record.said.iter().filter(|(done, _)| *done).map(|(_, text)| text).collect();
        let ours = told(print(&record.line));
        let same = if dumps.is_empty() { ours.starts_with('!') } else { dumps.contains(&&ours) };
        if !same {
            found.insert(record.line.clone(), ours.replace('\n', "\\n"));
        }
        for dump in dumps {
            let again = told(print(dump));
            if again != **dump {
                found.insert(format!("dump {}", dump.replace('\n', "\\n")), again.replace('\n', "\\n"));
            }
        }
    }
    hold(kind, &found);
}

fn flow(line: &str) -> Result<String, Error> {
    text::parse_flow(line, FlowCommand::Add, &Ports).map(|flow| text::print_flow(&flow, None, &NoNames))
}

#[test]
fn flows_are_accepted_and_printed_as_open_vswitch_does() {
    compare("flow", "corpus.txt", 1200, flow);
}

#[test]
fn groups_are_accepted_and_printed_as_open_vswitch_does() {
    compare("group", "groups.txt", 70, |line| {
        text::parse_group(line, GroupCommand::Add, &Ports).map(|group| text::print_group(&group, &NoNames))
    });
}

#[test]
fn meters_are_accepted_and_printed_as_open_vswitch_does() {
    compare("meter", "meters.txt", 25, |line| {
        text::parse_meter(line, MeterCommand::Add)
            .map(|meter| text::print_meter(&meter.meter).trim_end().to_owned())
    });
}

#[test]
fn what_open_vswitch_refuses_is_refused() {
    compare("bad", "bad.txt", 350, flow);
}

/// tests/data/errors.txt has, for each line of bad.txt, what Open vSwitch complains of (in OpenFlow 1.5), and what we
/// do. WEFT_BLESS=1 writes it anew.
#[test]
fn errors_say_what_is_wrong_and_where() {
    let mut text = String::from("# Lines that can't be: what Open vSwitch says, and what weft says.\n");
    for record in records("bad.txt") {
        let (accepted, theirs) = record.said.last().unwrap();
        let theirs = if *accepted { "(accepted)" } else { theirs.as_str() };
        let ours = match flow(&record.line) {
            Ok(flow) => format!("(accepted) {flow}"),
            Err(error) => error.to_string(),
        };
        assert!(!ours.contains('\n') && ours.len() < 300, "{ours}");
        writeln!(text, "\n{}\n    {theirs}\n    {ours}", record.line).unwrap();
    }
    if std::env::var_os("WEFT_BLESS").is_some() {
        std::fs::write(path("errors.txt"), &text).unwrap();
    }
    let golden = std::fs::read_to_string(path("errors.txt")).unwrap();
    assert!(golden == text, "tests/data/errors.txt is not what we say; WEFT_BLESS=1 writes it anew");
}

/// The number behind a name.
fn number(line: &str, name: &str) -> Option<f64> {
    let at = line.find(name)? + name.len();
    line[at..].split([',', ' ', 's']).next()?.parse().ok()
}

fn duration(line: &str, name: &str) -> Duration {
    Duration::from_millis((number(line, name).unwrap() * 1000.0).round() as u64)
}

/// Packets and octets behind each occurrence of a separator.
fn counts(line: &str, separator: &str, names: [&str; 2]) -> Vec<(u64, u64)> {
    let count = |part: &str, name| number(part, name).unwrap() as u64;
    line.split(separator).skip(1).map(|part| (count(part, names[0]), count(part, names[1]))).collect()
}

#[test]
fn statistics_are_printed_as_open_vswitch_does() {
    let text = std::fs::read_to_string(path("stats.txt")).unwrap();
    let mut seen = 0;
    for (kind, line) in text.lines().map(|line| line.split_once('\t').unwrap()) {
        let line = line.replace("\\n", "\n");
        let count = |name| number(&line, name).unwrap() as u64;
        let printed = match kind {
            "group" => {
                let stats = GroupStats {
                    duration: duration(&line, "duration="),
                    references: count("ref_count=") as u32,
                    packets: count("packet_count="),
                    bytes: count("byte_count="),
                    buckets: counts(&line, ",bucket", ["packet_count=", "byte_count="]),
                };
                text::print_group_stats(count("group_id=") as u32, &stats)
            }
            "meter" => {
                let stats = MeterStats {
                    flows: count("flow_count:") as u32,
                    packets: count("packet_in_count:"),
                    bytes: count("byte_in_count:"),
                    duration: duration(&line, "duration:"),
                    bands: counts(&line, ": p", ["acket_count:", "byte_count:"]),
                };
                text::print_meter_stats(count("meter:") as u32, &stats).trim_end().to_owned()
            }
            _ => {
                let stats = FlowStats {
                    duration: duration(&line, "duration="),
                    packets: count("n_packets="),
                    bytes: count("n_bytes="),
                    idle_age: number(&line, "idle_age=").map(|age| age as u64),
                    hard_age: number(&line, "hard_age=").map(|age| age as u64),
                };
                let flow = text::parse_flow(&line, FlowCommand::Add, &NoNames).unwrap();
                text::print_flow(&flow, Some(&stats), &NoNames)
            }
        };
        assert_eq!(printed, line);
        seen += 1;
    }
    assert_eq!(seen, 14);
}
