//! Whether a verdict still stands when rules have changed since.
//!
//! A verdict notes each look-up it made: the table, from which priority on a new rule would matter, and what the fields
//! were by then. So a change to the tables can be held against it: a rule that was removed or modified ends the verdicts
//! that it was part of; a rule that was added ends those that it can match at a look-up. All others stand.

use std::sync::Arc;

use weft_flow::fields::KEY_WORDS;
use weft_flow::message::FlowMod;
use weft_flow::{Match, Term};

use crate::doubt::{Doubts, Place, Terms};
use crate::tables::{ChangeRecord, Rule, TableId, Tables};
use crate::verdict::{Look, Op, UNKNOWN, Verdict};

/// The word of `conj_id`, and its bits.
const CONJ_ID: (usize, u64) = (26, 0xffff_ffff << 32);

/// Holds the changes since the verdict's versions against it. Whether it stands, for every packet that `doubts` don't tell
/// apart; it is of the latest version then.
pub fn bring_up_to_date(verdict: &mut Verdict, doubts: &mut Doubts) -> bool {
    for at in 0..verdict.visited.len() {
        match standing(verdict, at, doubts) {
            Some(version) => verdict.visited[at].version = version,
            None => return false,
        }
    }
    true
}

/// Whether the changes to one bridge's tables leave the verdict as it is: then, up to which version.
fn standing(verdict: &Verdict, at: usize, doubts: &mut Doubts) -> Option<u64> {
    let visited = verdict.visited.get(at)?;
    if visited.tables.version() == visited.version {
        return Some(visited.version);
    }
    let tables = visited.tables.load();
    let mut changes = tables.changes_since(visited.version)?;
    let over = changes.any(|change| ends(change, verdict, (at as u8, &tables, doubts)));
    (!over).then_some(tables.version)
}

/// Whether the change bears on every packet with this verdict. If it can bear on some, that's a doubt.
fn ends(
    change: &ChangeRecord,
    verdict: &Verdict,
    (bridge, tables, doubts): (u8, &Tables, &mut Doubts),
) -> bool {
    match change {
        ChangeRecord::Added { table, priority, matches, conj } => {
            let mut looks = verdict.looks.iter().filter(|look| look.bridge == bridge && look.table == *table);
            let place = || {
                let (matches, clause) = (matches.clone(), *conj);
                Place { bridge, table: *table, priority: *priority, matches, clause }
            };
            looks.any(|look| {
                *priority >= look.priority
                    && open_terms(matches, look, verdict)
                        .is_some_and(|terms| terms.is_empty() || !doubts.add(place(), terms))
            })
        }
        ChangeRecord::Removed { rule } => {
            // What is in its place now, if anything, is for the same packets.
            if tables.rule(rule.table, rule.priority, &rule.matches).is_none() {
                doubts.withdraw(bridge, rule);
            }
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

/// What of the packet itself decides whether it matches at this look-up; `None` if it can't: a bit that is known is
/// another one.
fn open_terms(matches: &Match, look: &Look, verdict: &Verdict) -> Option<Terms> {
    let state = verdict.terms(look.state);
    let mut open = Terms::new();
    for term in matches.terms() {
        let word = usize::from(term.word);
        let known = state.iter().find(|known| known.word == term.word);
        let (mask, value) = match known {
            Some(known) => (known.mask, known.value),
            // The pipeline's own words are known, and 0 where nothing is said.
            None => (if word < KEY_WORDS { 0 } else { u64::MAX }, 0),
        };
        let mut free = if look.conjunctive && word == CONJ_ID.0 { CONJ_ID.1 } else { 0 };
        // What a connection decides may be anything.
        if let Some(unknown) = state.iter().find(|known| known.word == term.word | UNKNOWN) {
            free |= unknown.mask;
        }
        if (value ^ term.value) & term.mask & mask & !free != 0 {
            return None;
        }
        // What the walk has not written is the packet's own.
        let own = term.mask & !mask & !free;
        if word < KEY_WORDS && own != 0 {
            // Without room a term is taken for met.
            let _ = open.try_push(Term { word: term.word, mask: own, value: term.value & own });
        }
    }
    Some(open)
}
