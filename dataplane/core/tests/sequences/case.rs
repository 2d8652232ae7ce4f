//! A case: rules, what happens, and what came of it. Cases are written to a file and read from it.

use std::fmt::Write;

use crate::rig::octets::{changed, difference, hex, unhex};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Packet(Vec<u8>),
    /// Seconds go by.
    Wait(u64),
    /// Something is set.
    Set(Setting),
}

/// What is set for zones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// The most connections of a zone, or of those that have no limit of their own.
    Limit { zone: Option<u16>, limit: u32 },
    /// Timeouts, as the CT_Timeout_Policy table has them, with spaces between.
    Timeouts { zone: u16, policy: String },
}

impl Setting {
    fn print(&self) -> String {
        match self {
            Setting::Limit { zone: Some(zone), limit } => format!("limit {zone} {limit}"),
            Setting::Limit { zone: None, limit } => format!("limit - {limit}"),
            Setting::Timeouts { zone, policy } => format!("timeouts {zone} {policy}"),
        }
    }

    fn parse(text: &str) -> Setting {
        let words: Vec<&str> = text.splitn(3, ' ').collect();
        match words[..] {
            ["limit", zone, limit] => {
                Setting::Limit { zone: zone.parse().ok(), limit: limit.parse().unwrap() }
            }
            ["timeouts", zone, policy] => {
                Setting::Timeouts { zone: zone.parse().unwrap(), policy: policy.to_owned() }
            }
            _ => panic!("{text}"),
        }
    }
}

/// The frames that a packet left as, in order; of time, none.
pub type Outcome = Vec<Vec<u8>>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    pub name: String,
    pub rules: Vec<String>,
    pub steps: Vec<Step>,
}

/// A case, and what Open vSwitch made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    pub case: Case,
    pub outcomes: Vec<Outcome>,
    /// The connections at its end, a line each, sorted.
    pub connections: Vec<String>,
}

/// Octets as hexadecimal digits; `(61*300)` is 300 times 61.
fn packed(digits: &str) -> String {
    let mut text = String::new();
    let pairs: Vec<&str> = (0..digits.len() / 2).map(|at| &digits[2 * at..2 * at + 2]).collect();
    for run in pairs.chunk_by(|a, b| a == b) {
        match run.len() {
            ..6 => run.iter().for_each(|pair| text.push_str(pair)),
            long => write!(text, "({}*{long})", run[0]).unwrap(),
        }
    }
    text
}

fn unpacked(text: &str) -> String {
    let mut digits = String::new();
    for (number, part) in text.split(['(', ')']).enumerate() {
        match part.split_once('*').filter(|_| number % 2 == 1) {
            Some((pair, times)) => digits.push_str(&pair.repeat(times.parse().unwrap())),
            None => digits.push_str(part),
        }
    }
    digits
}

/// What a frame is beside the packet: [`difference`], packed.
fn told(octets: &[u8], frame: &[u8]) -> String {
    let text = difference(octets, frame);
    match text.split_once(':') {
        Some((place, digits)) => format!("{place}:{}", packed(digits)),
        None => text,
    }
}

impl Recorded {
    pub fn print(&self) -> String {
        let mut text = format!("case {}\n", self.case.name);
        self.case.rules.iter().for_each(|line| writeln!(text, "rule {line}").unwrap());
        for (step, outcome) in self.case.steps.iter().zip(&self.outcomes) {
            match step {
                Step::Wait(seconds) => writeln!(text, "wait {seconds}").unwrap(),
                Step::Set(setting) => writeln!(text, "set {}", setting.print()).unwrap(),
                Step::Packet(octets) => {
                    writeln!(text, "in {}", packed(&hex(octets))).unwrap();
                    outcome.iter().for_each(|frame| {
                        writeln!(text, "out {}", told(octets, frame)).unwrap();
                    });
                }
            }
        }
        self.connections.iter().for_each(|line| writeln!(text, "connection {line}").unwrap());
        text
    }
}

/// The cases of a file.
pub fn parse(text: &str) -> Vec<Recorded> {
    let mut cases: Vec<Recorded> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (word, rest) = line.split_once(' ').unwrap();
        if word == "case" {
            let case = Case { name: rest.to_owned(), ..Case::default() };
            cases.push(Recorded { case, ..Recorded::default() });
            continue;
        }
        let Recorded { case, outcomes, connections } = cases.last_mut().unwrap();
        let step = match word {
            "set" => Step::Set(Setting::parse(rest)),
            "wait" => Step::Wait(rest.parse().unwrap()),
            "in" => Step::Packet(unhex(&unpacked(rest))),
            "rule" => {
                case.rules.push(rest.to_owned());
                continue;
            }
            "connection" => {
                connections.push(rest.to_owned());
                continue;
            }
            "out" => {
                let Some(Step::Packet(octets)) = case.steps.last() else { panic!("{line}") };
                outcomes.last_mut().unwrap().push(changed(octets, &unpacked(rest)));
                continue;
            }
            other => panic!("{other}"),
        };
        case.steps.push(step);
        outcomes.push(Outcome::new());
    }
    cases
}
