//! What a cached flow does with a packet: a short compiled program, shared by all flows that take the same path.
//!
//! A program is made of a walk's verdict: its steps with rewrites merged and outer headers prepared, and what it rests
//! on: published things, tables, rules. Programs are interned: a new flow whose path was compiled before gets the same
//! program, and costs only its own cache entry. A program counts its packets; [`Programs::settle`] adds them to the rules,
//! buckets and patch ports that they passed.
//!
//! Each worker has its own arena, and is the only one to touch it.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;
use weft_conntrack::Translation;
use weft_wire::{DropReason, EtherType};

use crate::edit::{Edit, Edits};
use crate::encap::Template;
use crate::epoch::{Dep, Epochs};
use crate::key::PortId;
use crate::snapshot::{Path, Snapshot};
use crate::tables::{Meter, Rule};
use crate::validity::{self, Subject};
use crate::verdict::{Emit, Op, PacketIn, Verdict};
use crate::vlan::TagRewrite;

/// How the burst loop treats a program, decided once when it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// No output.
    Drop(DropReason),
    /// One output to a device, the packet as it is.
    Forward(PortId),
    /// One output to a device, another tag.
    Retag(PortId, TagRewrite),
    /// One output to a tunnel whose path is known.
    Encap,
    /// Anything else: step by step.
    General,
}

/// One compiled step.
#[derive(Debug)]
pub enum Step {
    /// The packet is changed.
    Edit(Edits),
    /// The packet's addresses and ports are translated as the flow's connection of that number says.
    Translate(u8),
    /// They are translated so.
    TranslateTo(Box<Translation>),
    /// A copy leaves; the packet itself, if it is the last step.
    Output(Emit, Option<Template>),
    /// The next so many steps are done to a copy.
    Clone(u32),
    /// The packet goes on if the meter lets it.
    Meter(Arc<Meter>),
    /// A copy goes to the controllers.
    PacketIn(Arc<PacketIn>),
    /// Counted as a sample, with this probability out of 65535.
    Sample(u16, u32),
}

/// A compiled path. See the module's text.
#[derive(Debug)]
pub struct Program {
    /// The quick way.
    pub shape: Shape,
    /// The tunnel port that packets came in by, or [`PortId::NONE`].
    pub tunnel: PortId,
    /// Why the packet itself ends here if no step takes it.
    pub ends: DropReason,
    /// The publication at which all that the program rests on was last seen to hold.
    checked: u64,
    users: u32,
    hash: u64,
    /// Packets and octets since they were last added to rules.
    packets: u64,
    bytes: u64,
    /// The same as of a later version of the tables: for those of its flows that the changes since don't concern.
    successor: Option<ProgramId>,
    /// What to do.
    pub steps: Box<[Step]>,
    /// What it was made of.
    pub verdict: Verdict,
}

/// The number of a program in its arena.
pub type ProgramId = u32;

/// One worker's programs. See the module's text.
#[derive(Debug, Default)]
pub struct Programs {
    slots: Vec<Option<Program>>,
    free: Vec<ProgramId>,
    index: HashTable<ProgramId>,
    hasher: foldhash::fast::RandomState,
    /// Programs that have counted something.
    busy: Vec<ProgramId>,
    /// Programs that one user less has from the next release on.
    unused: Vec<ProgramId>,
    versions: Vec<u64>,
}

/// What a program has counted since it was last asked.
#[derive(Debug)]
pub struct Tally<'p> {
    /// The program's path.
    pub verdict: &'p Verdict,
    /// Packets.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    /// Why they end, if none of the program's steps takes them.
    pub drops: Option<DropReason>,
}

impl Programs {
    /// The program of that number.
    #[inline]
    pub fn get(&self, id: ProgramId) -> Option<&Program> {
        self.slots.get(id as usize)?.as_ref()
    }

    /// Whether what the program was compiled from still stands, for every flow that uses it.
    #[inline(always)]
    pub fn valid(&mut self, id: ProgramId, epochs: &Epochs, published: u64) -> bool {
        let Some(Some(program)) = self.slots.get_mut(id as usize) else { return false };
        (program.checked == published || program.recheck(epochs, published))
            && program.verdict.further.iter().all(|&dep| epochs.holds(dep))
    }

    /// The program for `verdict`, made if there is none; its user count goes up.
    pub fn intern(&mut self, verdict: &Verdict, snapshot: &Snapshot, published: u64) -> ProgramId {
        let hash = self.hash_of(verdict);
        let slots = &mut self.slots;
        let same = |&id: &ProgramId| {
            slots.get_mut(id as usize).and_then(Option::as_mut).is_some_and(|program| program.is_of(verdict))
        };
        if let Some(&id) = self.index.find(hash, same) {
            if let Some(Some(program)) = slots.get_mut(id as usize) {
                program.users += 1;
                // The walk has just found it again, by the snapshot of this burst: that stands until the next one, even
                // if its epochs are moving on at this moment.
                program.checked = published;
            }
            return id;
        }
        let program = Program::compile(verdict, snapshot, (hash, published));
        let id = self.free.pop().unwrap_or_else(|| {
            slots.push(None);
            (slots.len() - 1) as ProgramId
        });
        slots[id as usize] = Some(program);
        let hash_of = |&id: &ProgramId| {
            slots.get(id as usize).and_then(Option::as_ref).map_or(0, |program| program.hash)
        };
        self.index.insert_unique(hash, id, hash_of);
        id
    }

    /// Of the path: what most programs differ by. Terms are part of it, so that programs which differ by what registers or
    /// marks hold don't fall on one place.
    fn hash_of(&self, verdict: &Verdict) -> u64 {
        let mut hash = self.hasher.hash_one((&verdict.ops, verdict.drop, verdict.tunnel));
        for rule in &verdict.rules {
            hash = fold(hash, Arc::as_ptr(rule) as usize as u64);
        }
        for term in &verdict.terms {
            hash = fold(hash, term.value ^ term.mask.rotate_left(u32::from(term.word)));
        }
        for dep in verdict.deps.iter().chain(&verdict.further) {
            hash = fold(hash, u64::from(dep.cell.0) << 32 | u64::from(dep.epoch));
        }
        hash
    }

    /// Counts packets of the program.
    #[inline]
    pub fn count(&mut self, id: ProgramId, packets: u64, bytes: u64) {
        let Some(Some(program)) = self.slots.get_mut(id as usize) else { return };
        if program.packets == 0 {
            self.busy.push(id);
        }
        program.packets += packets;
        program.bytes += bytes;
    }

    /// The program for a flow whose own one no longer stands for all: the same one as of a later version of the tables, if
    /// the changes since don't concern this packet. The flow uses that one then, besides its old one.
    pub fn reprieve(
        &mut self,
        id: ProgramId,
        subject: Subject<'_>,
        (epochs, snapshot, published): (&Epochs, &Snapshot, u64),
    ) -> Option<ProgramId> {
        let program = self.slots.get_mut(id as usize)?.as_mut()?;
        let deps = program.verdict.deps.iter().chain(&program.verdict.further);
        let stands = deps.into_iter().all(|&dep| epochs.holds(dep))
            && validity::stands_for(&program.verdict, subject, &mut self.versions);
        if !stands {
            return None;
        }
        if program.users == 1 && program.successor.is_none() {
            program.verdict.renew(&self.versions);
            program.checked = published;
            program.users += 1;
            return Some(id);
        }
        if let Some(next) = program.successor
            && self.valid(next, epochs, published)
        {
            self.get_mut(next)?.users += 1;
            return Some(next);
        }
        let mut verdict = self.get(id)?.verdict.clone();
        verdict.renew(&self.versions);
        let next = self.intern(&verdict, snapshot, published);
        // The next flow finds it without looking: it is used by its predecessor, too.
        self.get_mut(next)?.users += 1;
        if let Some(outdated) = self.get_mut(id)?.successor.replace(next) {
            self.unused.push(outdated);
        }
        Some(next)
    }

    fn get_mut(&mut self, id: ProgramId) -> Option<&mut Program> {
        self.slots.get_mut(id as usize)?.as_mut()
    }

    /// Shows what at most `limit` programs have counted since they were last asked. Whether that was all.
    pub fn settle(&mut self, limit: usize, mut take: impl FnMut(Tally<'_>)) -> bool {
        for _ in 0..limit {
            let Some(id) = self.busy.pop() else { return true };
            self.settle_one(id, &mut take);
        }
        self.busy.is_empty()
    }

    fn settle_one(&mut self, id: ProgramId, take: &mut impl FnMut(Tally<'_>)) {
        let Some(Some(program)) = self.slots.get_mut(id as usize) else { return };
        let (packets, bytes) = (std::mem::take(&mut program.packets), std::mem::take(&mut program.bytes));
        if packets > 0 {
            take(Tally { verdict: &program.verdict, packets, bytes, drops: program.drops() });
        }
    }

    /// A flow no longer uses the program. What it has counted is shown if it goes.
    pub fn release(&mut self, id: ProgramId, mut take: impl FnMut(Tally<'_>)) {
        self.unused.push(id);
        while let Some(id) = self.unused.pop() {
            let Some(program) = self.get_mut(id) else { continue };
            program.users -= 1;
            if program.users > 0 {
                continue;
            }
            let (hash, successor) = (program.hash, program.successor.take());
            self.unused.extend(successor);
            self.settle_one(id, &mut take);
            if let Ok(entry) = self.index.find_entry(hash, |&other| other == id) {
                entry.remove();
            }
            self.slots[id as usize] = None;
            self.free.push(id);
        }
    }

    /// Takes a program's steps out, to be put back: they are gone through while the worker is changed.
    #[inline]
    pub fn take_steps(&mut self, id: ProgramId) -> Box<[Step]> {
        let program = self.slots.get_mut(id as usize).and_then(Option::as_mut);
        program.map(|program| std::mem::take(&mut program.steps)).unwrap_or_default()
    }

    /// Puts them back.
    #[inline]
    pub fn put_steps(&mut self, id: ProgramId, steps: Box<[Step]>) {
        if let Some(Some(program)) = self.slots.get_mut(id as usize) {
            program.steps = steps;
        }
    }

    /// How many programs there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }
}

impl Program {
    #[cold]
    fn recheck(&mut self, epochs: &Epochs, published: u64) -> bool {
        let holds = self.verdict.deps.iter().all(|&dep| epochs.holds(dep))
            && validity::bring_up_to_date(&mut self.verdict);
        if holds {
            self.checked = published;
        }
        holds
    }

    /// Whether it does what `verdict` says and rests on the same. One that an older version of the tables gave is brought
    /// up to date first, if the changes since don't concern it.
    fn is_of(&mut self, verdict: &Verdict) -> bool {
        let own = &self.verdict;
        let same_rules = own.rules.len() == verdict.rules.len()
            && own.rules.iter().zip(&verdict.rules).all(|(one, two): (&Arc<Rule>, _)| Arc::ptr_eq(one, two));
        let same_buckets = own.buckets.len() == verdict.buckets.len()
            && own
                .buckets
                .iter()
                .zip(&verdict.buckets)
                .all(|(one, two)| one.bucket == two.bucket && Arc::ptr_eq(&one.group, &two.group));
        let same_tables = own.visited.len() == verdict.visited.len()
            && own
                .visited
                .iter()
                .zip(&verdict.visited)
                .all(|(one, two)| Arc::ptr_eq(&one.tables, &two.tables));
        let same = same_rules
            && same_buckets
            && same_tables
            && own.ops == verdict.ops
            && own.terms == verdict.terms
            && own.looks == verdict.looks
            && own.deps == verdict.deps
            && own.groups == verdict.groups
            && own.further == verdict.further
            && own.young == verdict.young
            && own.patches == verdict.patches
            && own.learned == verdict.learned
            && (own.drop, own.tunnel) == (verdict.drop, verdict.tunnel);
        let same_versions = |one: &Verdict| {
            one.visited.iter().zip(&verdict.visited).all(|(one, two)| one.version == two.version)
        };
        same && (same_versions(&self.verdict)
            || validity::bring_up_to_date(&mut self.verdict) && same_versions(&self.verdict))
    }

    fn compile(verdict: &Verdict, snapshot: &Snapshot, (hash, published): (u64, u64)) -> Program {
        let mut steps = Vec::new();
        compile(verdict, snapshot, &verdict.ops, &mut steps);
        let ends = match verdict.ops.iter().any(|op| matches!(op, Op::PacketIn(_))) {
            true => DropReason::ToController,
            false => verdict.drop.unwrap_or(DropReason::NoDestination),
        };
        let shape = match &steps[..] {
            [] => Shape::Drop(ends),
            [Step::Output(emit, None)] if emit.key.is_none() => match emit.tag {
                TagRewrite::Keep => Shape::Forward(emit.port),
                tag => Shape::Retag(emit.port, tag),
            },
            [Step::Output(_, Some(_))] => Shape::Encap,
            _ => Shape::General,
        };
        Program {
            shape,
            tunnel: verdict.tunnel.unwrap_or(PortId::NONE),
            ends,
            checked: published,
            users: 1,
            hash,
            packets: 0,
            bytes: 0,
            successor: None,
            steps: steps.into(),
            verdict: verdict.clone(),
        }
    }

    /// Whether it may cease to stand within the burst that goes by this publication.
    #[inline]
    pub fn has_to_be_watched(&self, published: u64) -> bool {
        self.checked != published || !self.verdict.further.is_empty()
    }

    /// The outer header of its first step, if it is an output to a tunnel whose path is known.
    #[inline]
    pub fn encap(&self) -> Option<(&Emit, &Template)> {
        match self.steps.first()? {
            Step::Output(emit, Some(template)) => Some((emit, template)),
            _ => None,
        }
    }

    /// Why its packets end here, if no output takes them. (A step that goes wrong ends a packet before that, and a meter.)
    pub fn drops(&self) -> Option<DropReason> {
        match self.steps.last() {
            Some(Step::Output(..)) => None,
            _ => Some(self.ends),
        }
    }

    /// What it rests on, for people to look at.
    pub fn deps(&self) -> &[Dep] {
        &self.verdict.deps
    }
}

/// Mixes a number into a hash (a folded multiplication).
#[inline(always)]
fn fold(hash: u64, number: u64) -> u64 {
    let product = u128::from(hash ^ number) * u128::from(0x9e37_79b9_7f4a_7c15_u64);
    (product as u64 ^ (product >> 64) as u64).rotate_left(23)
}

/// Whether somebody gets to see the packet by this step.
fn leaves(op: &Op) -> bool {
    matches!(op, Op::Output(_) | Op::PacketIn(_) | Op::Meter(_) | Op::Sample { .. })
}

fn compile(verdict: &Verdict, snapshot: &Snapshot, ops: &[Op], steps: &mut Vec<Step>) {
    // What is done behind the last output is done for nobody.
    let ops = ops.get(..ops.iter().rposition(leaves).map_or(0, |last| last + 1)).unwrap_or_default();
    let mut at = 0;
    while let Some(op) = ops.get(at) {
        at += 1;
        match op {
            Op::Clone(count) => {
                // What nobody gets to see at its end is cut off already.
                let inside = ops.get(at..ops.len().min(at + *count as usize)).unwrap_or_default();
                at += inside.len();
                if at == ops.len() {
                    // Nobody needs the packet any more: no copy.
                    compile(verdict, snapshot, inside, steps);
                } else {
                    let start = steps.len();
                    steps.push(Step::Clone(0));
                    compile(verdict, snapshot, inside, steps);
                    steps[start] = Step::Clone((steps.len() - start - 1) as u32);
                }
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
    matches!(tunnel.path, Path::Ready { .. }).then(|| Template::new(tunnel, emit.key?)).flatten()
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
        | Op::TranslateTo(_) => None,
    };
    Edits::new(&ops.iter().filter_map(edit).collect::<Vec<Edit>>())
}
