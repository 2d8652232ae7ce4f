//! Whether a verdict still stands when rules have changed since.
//!
//! A verdict notes each look-up it made: the table, from which priority on a new rule would matter, and what the fields
//! were by then. So a change to the tables can be held against it: a rule that was removed or modified ends the verdicts
//! that it was part of; a rule that was added ends those that it can match at a look-up. All others stand.

use std::sync::Arc;

use weft_flow::fields::KEY_WORDS;
use weft_flow::message::FlowMod;
use weft_flow::{FlowKey, KeyMask, Match};

use crate::tables::{ChangeRecord, Rule, TableId};
use crate::verdict::{Look, Op, UNKNOWN, Verdict};

/// The word of `conj_id`, and its bits.
const CONJ_ID: (usize, u64) = (26, 0xffff_ffff << 32);

/// A packet that a verdict is asked about: its masked key, and which bits of it are known.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The key.
    pub key: &'a FlowKey,
    /// Its ingress's mask.
    pub mask: &'a KeyMask,
}

/// Holds the changes since the verdict's versions against it: whether it stands for every packet, or for `subject` if one
/// is given. If so, and for every packet, it is of the latest version then.
pub fn bring_up_to_date(verdict: &mut Verdict) -> bool {
    for at in 0..verdict.visited.len() {
        match standing(verdict, at, None) {
            Some(version) => verdict.visited[at].version = version,
            None => return false,
        }
    }
    true
}

/// Whether the verdict stands for this packet, though perhaps not for every one; `versions` are then those of its tables
/// up to which it does.
pub fn stands_for(verdict: &Verdict, subject: Subject<'_>, versions: &mut Vec<u64>) -> bool {
    versions.clear();
    versions.extend((0..verdict.visited.len()).map_while(|at| standing(verdict, at, Some(subject))));
    versions.len() == verdict.visited.len()
}

/// Whether the changes to one bridge's tables leave the verdict as it is: then, up to which version.
fn standing(verdict: &Verdict, at: usize, subject: Option<Subject<'_>>) -> Option<u64> {
    let visited = verdict.visited.get(at)?;
    if visited.tables.version() == visited.version {
        return Some(visited.version);
    }
    let tables = visited.tables.load();
    let mut changes = tables.changes_since(visited.version)?;
    let over = changes.any(|change| concerns(change, verdict, (at as u8, subject)));
    (!over).then_some(tables.version)
}

/// Whether the change can bear on the verdict.
fn concerns(change: &ChangeRecord, verdict: &Verdict, (bridge, subject): (u8, Option<Subject<'_>>)) -> bool {
    match change {
        ChangeRecord::Added { table, priority, matches, .. } => {
            let mut looks = verdict.looks.iter().filter(|look| look.bridge == bridge && look.table == *table);
            looks.any(|look| *priority >= look.priority && !contradicts(matches, look, (verdict, subject)))
        }
        ChangeRecord::Removed { rule } => {
            // A rule that the flow's packets make, and that others have changed, is made anew.
            verdict.rules.iter().any(|own| Arc::ptr_eq(own, rule))
                || verdict.learned.iter().any(|learned| is_same_place(&learned.rule, rule))
        }
        ChangeRecord::Group(id) => verdict.groups.contains(id),
        ChangeRecord::Meter(_) => verdict.ops.iter().any(|op| matches!(op, Op::Meter(_) | Op::PacketIn(_))),
        ChangeRecord::Table(table) => {
            verdict.looks.iter().any(|look| look.bridge == bridge && look.table == *table)
        }
    }
}

fn is_same_place(learned: &FlowMod, rule: &Rule) -> bool {
    (learned.table.map(TableId::from), learned.priority) == (Some(rule.table), rule.priority)
        && learned.matches == rule.matches
}

/// Whether the packet (or, without one, any packet with this verdict) can't match at this look-up: a bit that is known is
/// another one.
fn contradicts(matches: &Match, look: &Look, (verdict, subject): (&Verdict, Option<Subject<'_>>)) -> bool {
    let state = verdict.terms(look.state);
    matches.terms().iter().any(|term| {
        let word = usize::from(term.word);
        let known = state.iter().find(|known| known.word == term.word);
        let (mut mask, mut value) = match known {
            Some(known) => (known.mask, known.value),
            // The pipeline's own words are known, and 0 where nothing is said.
            None => (if word < KEY_WORDS { 0 } else { u64::MAX }, 0),
        };
        if let Some(Subject { key, mask: read }) = subject.filter(|_| word < KEY_WORDS) {
            // What the walk has not written is the packet's own.
            let own = read.0.get(word).copied().unwrap_or(0) & !mask;
            value |= key.0.get(word).copied().unwrap_or(0) & own;
            mask |= own;
        }
        let mut free = if look.conjunctive && word == CONJ_ID.0 { CONJ_ID.1 } else { 0 };
        if let Some(unknown) = state.iter().find(|known| known.word == term.word | UNKNOWN) {
            free |= unknown.mask;
        }
        (value ^ term.value) & term.mask & mask & !free != 0
    })
}
