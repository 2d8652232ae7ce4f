//! The same rules and packets in weft and in stock Open vSwitch 3.1: the same frames leave, octet for octet.
//!
//! Two bridges with four and two ports and a patch between them; random pipelines over several tables, with every kind
//! of action ([`rules`], [`actions`]); random packets that often hit them ([`packets`]). `tests/data/ovs-truth.txt` has
//! what Open vSwitch did, so that the comparison needs none; where it is installed, fresh cases are made and compared as
//! well: `WEFT_OVS_CASES` says how many, `WEFT_OVS_SEED` from which seed on. `WEFT_OVS_RECORD=1` writes the file anew.
//!
//! What differs has to be one of [`explained`]'s classes, each of which `docs/semantics.md` explains.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs, reason = "a test")]

#[path = "../rig/mod.rs"]
mod rig;

mod actions;
mod case;
mod explained;
mod ours;
mod packets;
mod rules;
mod stock;
mod traced;

use std::collections::{BTreeMap, BTreeSet};

use weft_core::trace::Step;
use weft_tests::{Lab, Need, Result};

use case::{Case, Outcome, Recorded, hex};
use explained::Difference;
use ours::Weft;
use stock::Stock;

/// A port of both switches: its number, its bridge, and its columns in Open vSwitch.
#[derive(Clone, Copy)]
pub struct Port {
    pub number: u16,
    pub bridge: u16,
    pub columns: &'static str,
}

pub const PORTS: [Port; 6] = [
    Port { number: 1, bridge: 0, columns: "" },
    Port { number: 2, bridge: 0, columns: "tag=10" },
    Port { number: 3, bridge: 0, columns: "trunks=10,20" },
    Port { number: 4, bridge: 0, columns: "tag=20 vlan_mode=native-untagged trunks=10,20" },
    Port { number: 5, bridge: 1, columns: "" },
    Port { number: 6, bridge: 1, columns: "tag=10" },
];
/// The patch ports, of bridge 0 and of bridge 1.
pub const PATCHES: [u16; 2] = [11, 12];

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/ovs-truth.txt");

/// Cases that are in the file.
const RECORDED: u64 = 24;
/// Packets of a case that are traced before any is sent.
const TRACED: usize = 6;

/// What was compared.
#[derive(Default, Debug)]
struct Counts {
    cases: usize,
    rules: usize,
    packets: usize,
    frames: usize,
    dropped: usize,
    traces: usize,
    /// Actions that packets met.
    actions: BTreeSet<String>,
    /// Differences with their explanations.
    explained: BTreeMap<&'static str, usize>,
    /// Those without.
    unexplained: Vec<String>,
    /// Rules that weft takes and Open vSwitch doesn't.
    refused: Vec<String>,
}

impl Counts {
    /// Compares what weft makes of the case's packets to what Open vSwitch made of them.
    fn compare(&mut self, Recorded { case, outcomes }: &Recorded, mut stock: Option<&mut Stock>) {
        self.cases += 1;
        self.rules +=
            case.tables.iter().map(|tables| tables.rules.len() + tables.groups.len()).sum::<usize>();
        let mut weft = Weft::load(case).unwrap();
        for (number, (offer, theirs)) in case.offers.iter().zip(outcomes).enumerate() {
            self.packets += 1;
            self.frames += theirs.values().map(Vec::len).sum::<usize>();
            self.dropped += usize::from(theirs.is_empty());
            let trace = weft.trace(offer);
            self.actions.extend(explained::actions(&trace).map(name));
            let ours = weft.exchange(offer);
            let difference = Difference { offer, ours: &ours, theirs, trace: &trace, case };
            if self.is_unexplained(&difference, number) {
                let told = stock.as_mut().map(|stock| stock.trace(offer).unwrap()).unwrap_or_default();
                self.unexplained.extend([told]);
            }
            if !explained::is_harmless(&difference) {
                // What differs may have taught the switches different things.
                break;
            }
        }
    }

    /// Whether this is a difference that has no explanation. It is noted then.
    fn is_unexplained(&mut self, difference: &Difference<'_>, number: usize) -> bool {
        if difference.ours == difference.theirs {
            return false;
        }
        let reason = explained::why(difference);
        match reason {
            Some(reason) => *self.explained.entry(reason).or_default() += 1,
            None => {
                let (name, port) = (&difference.case.name, difference.offer.port);
                self.unexplained
                    .push(format!("case {name}, packet {number} in by {port}:\n{}", show(difference)));
            }
        }
        reason.is_none()
    }

    /// Compares traces of packets that nobody has sent yet.
    fn compare_traces(&mut self, case: &Case, stock: &mut Stock) -> Result {
        let weft = Weft::load(case).unwrap();
        let ports = stock.numbers()?;
        for (number, offer) in case.offers.iter().take(TRACED).enumerate() {
            let (trace, told) = (weft.trace(offer), stock.trace(offer)?);
            stock.forget()?;
            let Some(theirs) = traced::theirs(&told, &ports, &offer.octets) else { continue };
            self.traces += 1;
            let ours = traced::ours(&trace);
            let difference = Difference { offer, ours: &ours, theirs: &theirs, trace: &trace, case };
            if self.is_unexplained(&difference, number) {
                self.unexplained.push(told);
            }
        }
        Ok(())
    }

    fn finish(self) {
        let Counts { cases, rules, packets, frames, dropped, traces, .. } = self;
        let explained: usize = self.explained.values().sum();
        println!(
            "{cases} cases: {rules} rules and groups, {packets} packets, of which {dropped} dropped, {frames} frames out, \
             {traces} traces; {explained} differences explained, {} not",
            self.unexplained.len() / 2
        );
        self.explained.iter().for_each(|(reason, count)| println!("{count:6} {reason}"));
        println!("{} rules refused by Open vSwitch alone", self.refused.len());
        if std::env::var_os("WEFT_OVS_REFUSED").is_some() {
            println!("{}", self.refused.join("\n"));
        }
        let shown = self.unexplained.len().min(number("WEFT_OVS_SHOWN", 4) as usize * 2);
        assert!(shown == 0, "{}", self.unexplained[..shown].join("\n"));
    }
}

/// A difference, for whoever has to explain it.
fn show(difference: &Difference<'_>) -> String {
    let frames = |outcome: &Outcome| {
        let all = outcome.iter().flat_map(|(port, frames)| frames.iter().map(move |frame| (port, frame)));
        all.take(40).map(|(port, frame)| format!("\n    {port} {}", hex(frame))).collect::<String>()
    };
    let step = |step: &Step| format!("{:indent$}{:?}\n", "", step.what, indent = usize::from(step.depth));
    format!(
        "{}{}\n      {}\n  weft:{}\n  ovs:{}",
        difference.trace.steps.iter().map(step).collect::<String>(),
        difference.trace.summary(),
        hex(&difference.offer.octets),
        frames(difference.ours),
        frames(difference.theirs)
    )
}

/// The name of an action: its words up to the first argument.
fn name(action: &str) -> String {
    let end = action.find([':', '(']).unwrap_or(action.len());
    let target = action.split_once("->").map_or("", |(_, target)| target);
    let is_field = ["load", "set_field", "move"].contains(&&action[..end]);
    if is_field { target.to_owned() } else { action[..end].to_owned() }
}

/// What packets of the recorded cases have to meet.
const MET: &str = "output NORMAL FLOOD ALL IN_PORT CONTROLLER resubmit goto_table write_actions clear_actions \
    write_metadata push_vlan pop_vlan mod_vlan_vid push_mpls pop_mpls set_mpls_ttl dec_mpls_ttl mod_nw_src mod_nw_dst \
    mod_nw_ttl dec_ttl mod_dl_src mod_dl_dst group learn clone push pop multipath bundle bundle_load \
    check_pkt_larger note exit sample set_queue pop_queue";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn packets_leave_as_they_left_stock_ovs() {
    let cases = case::parse(&std::fs::read_to_string(FILE).unwrap());
    let mut counts = Counts::default();
    cases.iter().for_each(|recorded| counts.compare(recorded, None));
    assert!(counts.cases == RECORDED as usize && counts.frames > 1000 && counts.dropped > 100);
    let unmet: Vec<&str> = MET.split_whitespace().filter(|name| !counts.actions.contains(*name)).collect();
    assert!(unmet.is_empty(), "{unmet:?} of {:?}", counts.actions);
    counts.finish();
}

#[test]
fn the_same_rules_and_packets_give_the_frames_that_stock_ovs_gives() -> Result {
    let needs = ["ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovs-appctl", "ovs-ofctl"].map(Need::Tool);
    let Some(lab) = Lab::open("beside-ovs", &needs)? else { return Ok(()) };
    let mut stock = Stock::start(&lab)?;
    let records = std::env::var_os("WEFT_OVS_RECORD").is_some();
    let (first, count) = match records {
        true => (1, RECORDED),
        false => (number("WEFT_OVS_SEED", 100), number("WEFT_OVS_CASES", 20)),
    };
    let (mut counts, mut text) = (Counts::default(), HEAD.to_owned());
    for seed in first..first + count {
        let mut case = rules::case(seed);
        let refused = stock.load(&mut case)?;
        // Clauses without the rule that they lead to are not for Open vSwitch 3.1 (docs/semantics.md).
        let is_whole = !refused.iter().any(|line| line.contains("conj_id"));
        counts.refused.extend(refused);
        if !is_whole {
            continue;
        }
        counts.compare_traces(&case, &mut stock)?;
        let outcomes = stock.exchange(&case.offers)?;
        let recorded = Recorded { case, outcomes };
        if records {
            text += &recorded.print();
        }
        counts.compare(&recorded, Some(&mut stock));
    }
    if records {
        std::fs::write(FILE, text)?;
    }
    counts.finish();
    Ok(())
}

const HEAD: &str = "\
# What stock Open vSwitch makes of packets by random rules.
#
# How to read it. `case` starts with no rules. `group` and `rule` give one to bridge 0 or 1, in the words of ovs-ofctl.
# `in` is a packet: the port that it comes in by, and its octets. `out` is a frame that leaves, by which port, in order:
# `=` the packet as it came; `FROM-TO:OCTETS` the packet with other octets in the place of those from FROM to TO
# (exclusive). Which ports there are says dataplane/core/tests/beside_ovs/main.rs.
#
# Recorded from Open vSwitch 3.1 (Debian 12), userspace datapath, other_config:vlan-limit=2, by
# WEFT_OVS_RECORD=1 cargo test -p weft-core --test beside_ovs

";
