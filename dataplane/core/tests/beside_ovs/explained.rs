//! Where weft means to differ from Open vSwitch, by classes that `docs/semantics.md` explains.

use weft_core::trace::{Trace, What};
use weft_wire::DropReason;

use crate::case::{Case, Offer, Outcome};

/// A packet whose frames differ.
pub struct Difference<'d> {
    pub offer: &'d Offer,
    pub ours: &'d Outcome,
    pub theirs: &'d Outcome,
    /// weft's way through the rules.
    pub trace: &'d Trace,
    pub case: &'d Case,
}

type Is = fn(&Difference<'_>) -> bool;

/// The class of a difference; `None` if there is no reason for it.
pub fn why(difference: &Difference<'_>) -> Option<&'static str> {
    let classes: [(Is, &str); 10] = [
        (is_of_order, "copies that reach one port by different ways leave in another order"),
        (is_multiplied, "a packet that goes to and fro until a limit is met: weft drops it"),
        (has_many_tags, "a third tag: Open vSwitch loses the innermost, weft keeps all"),
        (is_normal_on_two_tags, "NORMAL on two tags: Open vSwitch goes by both, weft by the outer one"),
        (is_later_fragment, "a later fragment has no transport header: its payload stays"),
        (
            is_hashed_in_clone,
            "a group that hashes, in a clone: Open vSwitch forgets what comes behind the clone",
        ),
        (is_behind_check, "check_pkt_larger: in Open vSwitch what follows it in its list is done to a copy"),
        (
            is_label_back_off,
            "labels that are put on and taken off in one walk cancel each other in Open vSwitch",
        ),
        (is_cut, "a cut packet: Open vSwitch cuts before it puts tags and labels in front"),
        (is_dei, "a tag that is changed keeps its DEI"),
    ];
    classes.iter().find(|(is, _)| is(difference)).map(|&(_, why)| why)
}

/// Whether both switches have learned the same: there is no difference, or one in octets that nobody learns from.
pub fn is_harmless(difference: &Difference<'_>) -> bool {
    let harmless: [Is; 4] = [is_of_order, is_later_fragment, is_cut, is_dei];
    difference.ours == difference.theirs || harmless.iter().any(|is| is(difference))
}

fn sorted(outcome: &Outcome, form: impl Fn(&[u8]) -> Vec<u8>) -> Vec<(u16, Vec<u8>)> {
    let all = outcome.iter().flat_map(|(&port, frames)| frames.iter().map(move |frame| (port, frame)));
    let mut all: Vec<_> = all.map(|(port, frame)| (port, form(frame))).collect();
    all.sort();
    all
}

/// Whether the frames are the same once what `form` forgets is forgotten.
fn same(difference: &Difference<'_>, form: impl Fn(&[u8]) -> Vec<u8>) -> bool {
    sorted(difference.ours, &form) == sorted(difference.theirs, &form)
}

fn is_of_order(difference: &Difference<'_>) -> bool {
    same(difference, <[u8]>::to_vec)
}

/// It went to and fro between the bridges.
fn is_multiplied(difference: &Difference<'_>) -> bool {
    use DropReason::{RecursionTooDeep, TooManyResubmits};
    difference.trace.steps.iter().any(|step| {
        matches!(&step.what, What::Failed(dropped) if [RecursionTooDeep, TooManyResubmits].contains(&dropped.reason))
    })
}

/// The places of a frame's tags, and that of the type behind them.
fn tags(frame: &[u8]) -> (Vec<usize>, usize) {
    let is_tag = |at: &usize| matches!(frame.get(*at..at + 2), Some([0x81, 0] | [0x88, 0xa8]));
    let tags: Vec<usize> = (12..).step_by(4).take_while(is_tag).collect();
    let end = 12 + 4 * tags.len();
    (tags, end)
}

pub fn actions(trace: &Trace) -> impl Iterator<Item = &str> {
    trace.steps.iter().filter_map(|step| match &step.what {
        What::Action(text) => Some(&**text),
        _ => None,
    })
}

/// Open vSwitch keeps two tags of a packet.
fn has_many_tags(difference: &Difference<'_>) -> bool {
    let pushed = actions(difference.trace)
        .filter(|text| {
            ["push_vlan", "load:0x1014->NXM_OF_VLAN_TCI", "mod_vlan"]
                .iter()
                .any(|word| text.starts_with(word))
        })
        .count();
    pushed > 0 && tags(&difference.offer.octets).0.len() + pushed > 2
}

/// With `vlan-limit=2`, Open vSwitch's NORMAL looks at both tags.
fn is_normal_on_two_tags(difference: &Difference<'_>) -> bool {
    let normal = difference.trace.steps.iter().any(|step| matches!(step.what, What::Vlan(_)));
    let pushed = actions(difference.trace).filter(|text| text.starts_with("push_vlan")).count();
    normal && tags(&difference.offer.octets).0.len() + pushed > 1
}

/// Open vSwitch lets a packet go round for a hash.
fn is_hashed_in_clone(difference: &Difference<'_>) -> bool {
    let mut groups = difference.case.tables.iter().flat_map(|tables| &tables.groups);
    let hashed = groups.any(|group| group.contains("select") && !group.contains("selection_method"));
    let cloned = actions(difference.trace).any(|text| text.starts_with("clone("));
    hashed && cloned && difference.trace.steps.iter().any(|step| matches!(step.what, What::Bucket { .. }))
}

/// The rules that called this one, and the action set, see the packet as it was before.
fn is_behind_check(difference: &Difference<'_>) -> bool {
    let steps = || difference.trace.steps.iter();
    let top = steps().find(|step| matches!(step.what, What::Action(_))).map_or(0, |step| step.depth);
    let set = steps().any(|step| matches!(step.what, What::ActionSet));
    let is_check = |text: &str| text.starts_with("check_pkt_larger");
    steps()
        .any(|step| matches!(&step.what, What::Action(text) if is_check(text) && (set || step.depth > top)))
}

fn is_label_back_off(difference: &Difference<'_>) -> bool {
    let has = |word| actions(difference.trace).any(|text| text.starts_with(word));
    has("push_mpls") && has("pop_mpls")
}

/// What is cut (to 64 octets at most, here) is longer by what was put in front for the copy.
fn is_cut(difference: &Difference<'_>) -> bool {
    let cuts = actions(difference.trace).any(|text| text.contains("max_len="));
    cuts && same(difference, |frame| frame[..if frame.len() < 80 { 14 } else { frame.len() }].to_vec())
}

/// A frame without what Open vSwitch takes for a header in a later fragment of IPv4.
fn is_later_fragment(difference: &Difference<'_>) -> bool {
    same(difference, |frame| {
        let mut frame = frame.to_vec();
        let mut at = tags(&frame).1 + 2;
        if let Some([0x88, 0x47 | 0x48]) = frame.get(at - 2..at) {
            let labels = frame.get(at..).unwrap_or_default().chunks_exact(4);
            at += 4 + 4 * labels.take_while(|label| label[2] & 1 == 0).count();
        }
        let header = frame.get(at..at + 20).unwrap_or(&[0; 20]);
        let is_later = header[0] == 0x45 && (header[6] & 0x1f | header[7]) != 0;
        let (place, length) = match header[9] {
            6 if is_later => (at + 36, 2),
            17 if is_later => (at + 26, 2),
            // Type and code, too.
            1 if is_later => (at + 20, 4),
            _ => return frame,
        };
        frame.get_mut(place..place + length).into_iter().for_each(|sum| sum.fill(0));
        frame
    })
}

fn is_dei(difference: &Difference<'_>) -> bool {
    same(difference, |frame| {
        let mut frame = frame.to_vec();
        tags(&frame).0.into_iter().for_each(|at| frame[at + 2] &= 0xef);
        frame
    })
}
