//! What `ofproto/trace` comes to: ports, and the VLAN of the outermost tag there.

use std::collections::BTreeMap;

use weft_core::trace::Trace;
use weft_tests::ovs::action_words;

use crate::case::Outcome;

/// Datapath actions that lead the packet where their words don't say.
const OPAQUE: [&str; 4] = ["recirc(", "check_pkt_len(", "sample(", "pop_mpls("];

/// A copy for each port, as a frame that is its VLAN.
fn copies(all: impl Iterator<Item = (u16, Option<u16>)>) -> Outcome {
    let mut outcome = Outcome::new();
    for (port, vid) in all {
        outcome.entry(port).or_default().push(vid.map_or(vec![], |vid| vid.to_be_bytes().to_vec()));
    }
    outcome.values_mut().for_each(|frames| frames.sort());
    outcome
}

/// What weft's trace comes to.
pub fn ours(trace: &Trace) -> Outcome {
    copies(trace.copies.iter().map(|copy| (copy.ofport.0, copy.vlan.tag.map(|(vid, _)| vid))))
}

/// The tags of a frame, outermost last.
fn tags(frame: &[u8]) -> Vec<u16> {
    let is_tag = |at: &usize| matches!(frame.get(*at..at + 2), Some([0x81, 0] | [0x88, 0xa8]));
    let tags = (12..).step_by(4).take_while(is_tag);
    let mut tags: Vec<u16> =
        tags.map(|at| u16::from_be_bytes([frame[at + 2], frame[at + 3]]) & 0x0fff).collect();
    tags.reverse();
    tags
}

/// What Open vSwitch's trace comes to; `None` if its words don't tell. `ports` are its ports' numbers by those in the
/// datapath.
pub fn theirs(told: &str, ports: &BTreeMap<u16, u16>, frame: &[u8]) -> Option<Outcome> {
    let actions = told.lines().find_map(|line| line.strip_prefix("Datapath actions: "))?;
    if OPAQUE.iter().any(|word| actions.contains(word)) {
        return None;
    }
    let (mut tags, mut before, mut outs) = (tags(frame), Vec::new(), Vec::new());
    for word in action_words(actions) {
        match &*word {
            "clone(" => before.push(tags.clone()),
            ")" => tags = before.pop()?,
            "pop_vlan" => drop(tags.pop()),
            word => {
                if let Some(rest) = word.strip_prefix("push_vlan(") {
                    let vid = rest.split(',').find_map(|part| part.strip_prefix("vid="))?;
                    tags.push(vid.trim_end_matches(')').parse().ok()?);
                } else if let Ok(number) = word.parse::<u16>() {
                    // A bridge's own port is none that weft has.
                    outs.extend(ports.get(&number).map(|&port| (port, tags.last().copied())));
                }
            }
        }
    }
    Some(copies(outs.into_iter()))
}
