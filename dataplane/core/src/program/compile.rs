//! From a verdict's operations to a program's steps: rewrites merged, outer headers prepared.

use std::sync::Arc;

use weft_wire::EtherType;

use super::Step;
use crate::edit::{Edit, Edits};
use crate::encap::Template;
use crate::fold::folded;
use crate::snapshot::Snapshot;
use crate::verdict::{Emit, Op, Verdict};

/// The steps of a verdict.
pub(super) fn steps(verdict: &Verdict, snapshot: &Snapshot) -> Box<[Step]> {
    let mut steps = Vec::new();
    compile(verdict, snapshot, &verdict.ops, &mut steps);
    steps.into()
}

fn compile(verdict: &Verdict, snapshot: &Snapshot, ops: &[Op], steps: &mut Vec<Step>) {
    let ops = folded(verdict, ops);
    let mut at = 0;
    while let Some(op) = ops.get(at) {
        at += 1;
        match op {
            Op::Clone(count) => {
                let inside = ops.get(at..at + *count as usize).unwrap_or_default();
                at += inside.len();
                let start = steps.len();
                steps.push(Step::Clone(0));
                compile(verdict, snapshot, inside, steps);
                steps[start] = Step::Clone((steps.len() - start - 1) as u32);
            }
            Op::Output(emit) if emit.max_len > 0 => {
                let cut = Edit::Truncate(u16::try_from(emit.max_len).unwrap_or(u16::MAX));
                if at < ops.len() {
                    steps.push(Step::Clone(2));
                }
                steps.push(Step::Edit(Edits::new(&[cut])));
                steps.push(Step::Output(Emit { max_len: 0, ..*emit }, template(snapshot, emit)));
            }
            Op::Output(emit) => steps.push(Step::Output(*emit, template(snapshot, emit))),
            Op::Meter(meter) => steps.push(Step::Meter(Arc::clone(&meter.0))),
            Op::PacketIn(packet_in) => steps.push(Step::PacketIn(Arc::clone(&packet_in.0))),
            Op::Sample { probability, collector_set_id } => {
                steps.push(Step::Sample(*probability, *collector_set_id));
            }
            Op::Translate(link) => steps.push(Step::Translate(*link)),
            Op::TranslateTo(translation) => steps.push(Step::TranslateTo(translation.clone())),
            Op::Rewrite(rewrite) => steps.push(Step::Rewrite(rewrite.clone())),
            Op::Set(_) | Op::PopVlan | Op::PushVlan { .. } | Op::PopMpls { .. } | Op::PushMpls { .. } => {
                let run = ops.iter().skip(at).take_while(|op| is_edit(op)).count();
                let edits = ops.get(at - 1..at + run).unwrap_or_default();
                steps.push(Step::Edit(edits_of(verdict, edits)));
                at += run;
            }
        }
    }
}

fn is_edit(op: &Op) -> bool {
    matches!(op, Op::Set(_) | Op::PopVlan | Op::PushVlan { .. } | Op::PopMpls { .. } | Op::PushMpls { .. })
}

fn template(snapshot: &Snapshot, emit: &Emit) -> Option<Template> {
    let tunnel = snapshot.port(emit.port)?.spec.tunnel()?;
    Template::towards(tunnel, emit.key?, snapshot.way(tunnel, emit.remote)?)
}

/// A run of edits, merged.
fn edits_of(verdict: &Verdict, ops: &[Op]) -> Edits {
    let edit = |op: &Op| match *op {
        Op::Set(terms) => Some(Edit::Set(verdict.terms(terms).into())),
        Op::PopVlan => Some(Edit::PopVlan),
        Op::PushVlan { tpid, tci } => Some(Edit::PushVlan { tpid: EtherType(tpid), tci }),
        Op::PopMpls { ethertype } => Some(Edit::PopMpls { ether_type: EtherType(ethertype) }),
        Op::PushMpls { ethertype, lse } => {
            Some(Edit::PushMpls { ether_type: EtherType(ethertype), entry: lse })
        }
        Op::Output(_)
        | Op::Clone(_)
        | Op::Meter(_)
        | Op::PacketIn(_)
        | Op::Sample { .. }
        | Op::Translate(_)
        | Op::TranslateTo(_)
        | Op::Rewrite(_) => None,
    };
    Edits::new(&ops.iter().filter_map(edit).collect::<Vec<Edit>>())
}
