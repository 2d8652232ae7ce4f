//! Steps that undo each other, taken out before a program is compiled.
//!
//! What one bridge does to a packet, the next one often takes back: Neutron's tables put a local VLAN's tag on what comes
//! by a tunnel, and the port of a VM takes it off. The walk can't know that, because copies may leave in between.

use crate::verdict::{Emit, Op, Verdict};
use crate::vlan::TagRewrite;

/// The word whose low 16 bits are the outermost tag.
const TAG: (u8, u64) = (1, 0xffff);

/// A verdict's steps, or those of a copy, without those that come to nothing: what is done behind the last copy that leaves,
/// a copy where the packet itself is no longer needed, and a tag that is put on and taken off.
pub fn folded(verdict: &Verdict, ops: &[Op]) -> Vec<Op> {
    let needed = ops.iter().rposition(leaves).map_or(0, |last| last + 1);
    let mut ops = ops.get(..needed).unwrap_or_default().to_vec();
    unwrap_last_copy(&mut ops);
    cancel_last_tag(&mut ops, verdict);
    ops
}

/// Whether somebody gets to see the packet by this step.
pub fn leaves(op: &Op) -> bool {
    matches!(op, Op::Output(_) | Op::PacketIn(_) | Op::Meter(_) | Op::Sample { .. })
}

/// A copy at the end can be the packet itself.
fn unwrap_last_copy(ops: &mut Vec<Op>) {
    let mut at = 0;
    while let Some(op) = ops.get(at) {
        match *op {
            Op::Clone(count) if at + 1 + count as usize >= ops.len() => drop(ops.remove(at)),
            Op::Clone(count) => at += 1 + count as usize,
            _ => at += 1,
        }
    }
}

/// A tag that is put on for an output that takes it off, behind which nobody needs the packet. Not if the output cuts the
/// packet: the tag counts until then.
fn cancel_last_tag(ops: &mut Vec<Op>, verdict: &Verdict) {
    let Some((Op::Output(emit), before)) = ops.split_last() else { return };
    let sets = before.iter().rev().take_while(|op| matches!(op, Op::Set(_))).count();
    let Some(push) = before.len().checked_sub(sets + 1) else { return };
    let comes_and_goes = emit.tag == TagRewrite::Pop && matches!(before.get(push), Some(Op::PushVlan { .. }));
    if !comes_and_goes || emit.max_len > 0 || is_in_copy(before, push) {
        return;
    }
    let mut kept = Vec::new();
    for op in before.iter().skip(push + 1) {
        match changes(op, verdict) {
            // Of the tag and of something else, in one range of terms: that stays as it is.
            (true, true) => return,
            (true, false) => {}
            (false, _) => kept.push(op.clone()),
        }
    }
    let emit = Emit { tag: TagRewrite::Keep, ..*emit };
    ops.truncate(push);
    ops.extend(kept);
    ops.push(Op::Output(emit));
}

/// Whether a step changes fields of the outermost tag, and whether others.
fn changes(op: &Op, verdict: &Verdict) -> (bool, bool) {
    let Op::Set(range) = op else { return (false, false) };
    let terms = verdict.terms(*range);
    let of_tag = terms.iter().any(|term| term.word == TAG.0 && term.mask & TAG.1 != 0);
    (of_tag, terms.iter().any(|term| term.word != TAG.0 || term.mask & !TAG.1 != 0))
}

/// Whether a copy that begins before that step goes beyond it.
fn is_in_copy(ops: &[Op], step: usize) -> bool {
    ops.iter().take(step).enumerate().any(|(at, op)| match op {
        Op::Clone(count) => at + *count as usize >= step,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use weft_flow::Term;

    use super::*;
    use crate::key::PortId;
    use crate::verdict::Terms;

    const PUSH: Op = Op::PushVlan { tpid: 0x8100, tci: 0 };
    const SET_TAG: Op = Op::Set(Terms { start: 0, end: 1 });
    const SET_MAC: Op = Op::Set(Terms { start: 1, end: 2 });
    const SET_BOTH: Op = Op::Set(Terms { start: 0, end: 2 });

    fn out(tag: TagRewrite) -> Op {
        Op::Output(Emit { port: PortId(2), tag, key: None, remote: None, max_len: 0 })
    }

    fn fold(ops: &[Op]) -> Vec<Op> {
        let tag = Term { word: 1, mask: 0xfff, value: 1 };
        let mac = Term { word: 1, mask: !0xffff, value: 2 << 16 };
        folded(&Verdict { terms: vec![tag, mac], ..Verdict::default() }, ops)
    }

    #[test]
    fn a_tag_that_comes_for_an_output_that_takes_it_off_never_comes() {
        use TagRewrite::{Keep, Pop};
        assert_eq!(fold(&[PUSH, Op::Clone(2), SET_TAG, out(Pop)]), [out(Keep)]);
        assert_eq!(fold(&[PUSH, SET_MAC, out(Pop), Op::PopVlan]), [SET_MAC, out(Keep)]);
        assert_eq!(fold(&[out(Keep), PUSH, out(Pop)]), [out(Keep), out(Keep)]);
    }

    #[test]
    fn what_somebody_sees_stays() {
        use TagRewrite::{Keep, Pop};
        for ops in [
            vec![PUSH, out(Keep), out(Pop)],
            vec![PUSH, SET_BOTH, out(Pop)],
            vec![PUSH, Op::PopVlan, out(Pop)],
            vec![Op::Clone(1), out(Keep), PUSH, out(Keep)],
            vec![PUSH, Op::PushVlan { tpid: 0x88a8, tci: 5 }, SET_TAG, out(Keep)],
        ] {
            assert_eq!(fold(&ops), ops);
        }
        let cut = Op::Output(Emit { port: PortId(2), tag: Pop, key: None, remote: None, max_len: 60 });
        assert_eq!(fold(&[PUSH, cut.clone()]), [PUSH, cut], "the tag is among the octets that are kept");
        // A copy that the packet is not needed behind.
        assert_eq!(fold(&[PUSH, Op::Clone(1), out(Keep), Op::PopVlan]), [PUSH, out(Keep)]);
    }
}
