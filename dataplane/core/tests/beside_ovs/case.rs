//! A case: groups and rules as text, packets, and what came of each. Cases are written to a file and read from it.

use std::collections::BTreeMap;
use std::fmt::Write;

pub use crate::rig::octets::hex;
use crate::rig::octets::{changed, difference, unhex};

/// Groups and rules of one bridge, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    pub groups: Vec<String>,
    pub rules: Vec<String>,
}

/// A packet that comes in by a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub port: u16,
    pub octets: Vec<u8>,
}

/// The frames that a packet leaves as, by port, in order.
pub type Outcome = BTreeMap<u16, Vec<Vec<u8>>>;

/// Rules and packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    pub name: String,
    /// Of each bridge.
    pub tables: [Tables; 2],
    pub offers: Vec<Offer>,
}

/// A case, and what Open vSwitch made of its packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub case: Case,
    pub outcomes: Vec<Outcome>,
}

impl Recorded {
    /// The case as lines of the file.
    pub fn print(&self) -> String {
        let mut text = format!("case {}\n", self.case.name);
        for (bridge, tables) in self.case.tables.iter().enumerate() {
            tables.groups.iter().for_each(|line| writeln!(text, "group {bridge} {line}").unwrap());
            tables.rules.iter().for_each(|line| writeln!(text, "rule {bridge} {line}").unwrap());
        }
        for (offer, outcome) in self.case.offers.iter().zip(&self.outcomes) {
            writeln!(text, "in {} {}", offer.port, hex(&offer.octets)).unwrap();
            for (port, frames) in outcome {
                for frame in frames {
                    writeln!(text, "out {port} {}", difference(&offer.octets, frame)).unwrap();
                }
            }
        }
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
            cases.push(Recorded { case, outcomes: Vec::new() });
            continue;
        }
        let Recorded { case, outcomes } = cases.last_mut().unwrap();
        let (number, rest) = rest.split_once(' ').unwrap();
        let number: u16 = number.parse().unwrap();
        match word {
            "group" => case.tables[usize::from(number)].groups.push(rest.to_owned()),
            "rule" => case.tables[usize::from(number)].rules.push(rest.to_owned()),
            "in" => {
                case.offers.push(Offer { port: number, octets: unhex(rest) });
                outcomes.push(Outcome::new());
            }
            "out" => {
                let frame = changed(&case.offers.last().unwrap().octets, rest);
                outcomes.last_mut().unwrap().entry(number).or_default().push(frame);
            }
            other => panic!("{other}"),
        }
    }
    cases
}
