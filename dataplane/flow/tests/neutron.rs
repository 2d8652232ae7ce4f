//! Every flow that Neutron's agents leave on a compute node, and every shape of line that they hand to `ovs-ofctl`:
//! each dump reads back and prints as it was, octet by octet.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use weft_flow::message::FlowCommand;
use weft_flow::text::{self, FlowStats, NoNames, PortNames};
use weft_wire::OfPort;

fn data(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/data/neutron", file].iter().collect()
}

fn files(suffix: &str) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(data("")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = folder.filter(|path| path.to_str().unwrap().ends_with(suffix)).collect();
    files.sort();
    files
}

/// Any name is a port: the first that is met is port 1.
#[derive(Default)]
struct AnyName {
    names: Vec<String>,
    numbers: HashMap<String, OfPort>,
}

impl AnyName {
    fn in_text(text: &str) -> AnyName {
        let mut names = AnyName::default();
        for name in text.split('"').skip(1).step_by(2) {
            if !names.numbers.contains_key(name) {
                names.names.push(name.to_owned());
                names.numbers.insert(name.to_owned(), OfPort(names.names.len() as u16));
            }
        }
        names
    }
}

impl PortNames for AnyName {
    fn number(&self, name: &str) -> Option<OfPort> {
        self.numbers.get(name).copied()
    }

    fn name(&self, port: OfPort) -> Option<&str> {
        self.names.get(usize::from(port.0).checked_sub(1)?).map(String::as_str)
    }
}

/// The statistics that a line has.
fn stats(line: &str) -> FlowStats {
    let value = |name: &str| {
        let at = line.find(name)? + name.len();
        line[at..].split([',', ' ']).next()
    };
    let seconds: f64 = value("duration=").unwrap().trim_end_matches('s').parse().unwrap();
    FlowStats {
        duration: Duration::from_millis((seconds * 1000.0).round() as u64),
        packets: value("n_packets=").unwrap().parse().unwrap(),
        bytes: value("n_bytes=").unwrap().parse().unwrap(),
        idle_age: value("idle_age=").map(|age| age.parse().unwrap()),
        hard_age: value("hard_age=").map(|age| age.parse().unwrap()),
    }
}

#[test]
fn every_dump_with_statistics_and_names_prints_as_it_was() {
    let mut count = 0;
    for path in files(".flows") {
        let text = std::fs::read_to_string(&path).unwrap();
        let names = AnyName::in_text(&text);
        for (number, line) in text.lines().enumerate() {
            let place = format!("{}:{}", path.display(), number + 1);
            let flow = text::parse_flow(line, FlowCommand::Add, &names);
            let flow = flow.unwrap_or_else(|error| panic!("{place}: {error}\n{line}"));
            let printed = text::print_flow(&flow, Some(&stats(line)), &names);
            assert_eq!(printed, line.trim_start(), "{place}");
            count += 1;
        }
    }
    assert_eq!(count, 773);
}

#[test]
fn every_dump_without_statistics_prints_as_it_was() {
    let mut count = 0;
    for path in files(".nostats") {
        let text = std::fs::read_to_string(&path).unwrap();
        let flows = text::parse_flows(text.as_bytes(), FlowCommand::Add, &NoNames);
        let flows = flows.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(flows.len(), text.lines().count());
        for (number, (flow, line)) in flows.iter().zip(text.lines()).enumerate() {
            let printed = text::print_flow(flow, None, &NoNames);
            assert_eq!(printed, line.trim_start(), "{}:{}", path.display(), number + 1);
            count += 1;
        }
    }
    assert_eq!(count, 773);
}

#[test]
fn every_line_that_the_agents_hand_over_is_read_and_reads_back() {
    let text = std::fs::read_to_string(data("ofctl-lines.txt")).unwrap();
    let mut count = 0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (command, line) = line.split_once('\t').unwrap();
        let command = if command == "add-flows" { FlowCommand::Add } else { FlowCommand::Delete };
        let flow =
            text::parse_flow(line, command, &NoNames).unwrap_or_else(|error| panic!("{line}: {error}"));
        if command == FlowCommand::Add {
            let printed = text::print_flow(&flow, None, &NoNames);
            let again = text::parse_flow(&printed, command, &NoNames).unwrap();
            assert_eq!(again, flow, "{line}\n{printed}");
        } else {
            assert!(line.contains("cookie") == (flow.cookie_filter.1 == u64::MAX), "{line}");
        }
        count += 1;
    }
    assert_eq!(count, 104);
}
