//! What a cached flow does with a packet: a short compiled program, shared by all flows that take the same path.
//!
//! A program is made of a walk's verdict: its steps with rewrites merged and outer headers prepared, and what it rests
//! on: published things, tables, rules. Programs are interned: a new flow whose path was compiled before gets the same
//! program, and costs only its own cache entry. A program counts its packets; [`Programs::settle`] adds them to the rules,
//! buckets and patch ports that they passed.
//!
//! What a hit reads and writes of a program is one line of memory ([`Hot`]), apart from the rest. A program without flows
//! lingers a little: the next packet of its path may be one whose flow is not cached either.
//!
//! Each worker has its own arena, and is the only one to touch it.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;
use weft_wire::{DropReason, EtherType};

use crate::cache::folded_product;
use crate::doubt::Doubts;
use crate::edit::nat::Once;
use crate::edit::stream::Rewrite;
use crate::edit::{Edit, Edits};
use crate::encap::Template;
use crate::epoch::Epochs;
use crate::fold::folded;
use crate::key::{KeyMask, PortId};
use crate::snapshot::Snapshot;
use crate::tables::{Meter, Rule};
use crate::validity;
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
    TranslateTo(Box<Once>),
    /// Changes text and numbers of this packet.
    Rewrite(Box<Rewrite>),
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

/// What a hit needs of a program. See the module's text.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Hot {
    /// The quick way.
    pub shape: Shape,
    /// The tunnel port that packets came in by, or [`PortId::NONE`].
    pub tunnel: PortId,
    /// It may cease to stand between two publications.
    fleeting: bool,
    /// Up to which of the program's doubts a flow has to have been compared; 0 if it has none.
    pub doubt: u32,
    /// The publication at which all that the program rests on was last seen to hold.
    checked: u64,
    /// Packets and octets since they were last added to rules.
    packets: u64,
    bytes: u64,
}

const _: () = assert!(size_of::<Hot>() == 64);

impl Hot {
    /// Of a place without a program: nothing holds.
    const FREE: Hot = Hot {
        shape: Shape::Drop(DropReason::NoBridge),
        tunnel: PortId::NONE,
        fleeting: true,
        doubt: 0,
        checked: 0,
        packets: 0,
        bytes: 0,
    };

    /// Whether it may cease to stand within the burst that goes by this publication.
    #[inline]
    pub fn has_to_be_watched(&self, published: u64) -> bool {
        self.checked != published || self.fleeting
    }
}

/// A compiled path: what a hit seldom needs. See the module's text.
#[derive(Debug)]
pub struct Program {
    /// Why the packet itself ends here if no step takes it.
    pub ends: DropReason,
    users: u32,
    /// Among those without users that are kept for a while.
    lingers: bool,
    /// Something that it rests on is no more.
    over: bool,
    hash: u64,
    /// Changes of rules that may concern some of its flows.
    doubts: Doubts,
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
    /// One for each slot.
    hot: Vec<Hot>,
    slots: Vec<Option<Program>>,
    free: Vec<ProgramId>,
    index: HashTable<ProgramId>,
    hasher: foldhash::fast::RandomState,
    /// Programs that have counted something.
    busy: Vec<ProgramId>,
    /// Some program has had doubts.
    doubtful: bool,
    /// Programs that had no user lately, oldest first.
    lingering: VecDeque<ProgramId>,
}

/// How many programs without users are kept at most.
const LINGERING: usize = 4096;

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

    /// What a hit needs of it.
    #[inline(always)]
    pub fn hot(&self, id: ProgramId) -> Option<&Hot> {
        self.hot.get(id as usize)
    }

    /// Whether what the program was compiled from still stands, for every flow that its doubts don't tell apart.
    #[inline(always)]
    pub fn valid(&mut self, id: ProgramId, epochs: &Epochs, published: u64) -> bool {
        match self.hot.get(id as usize) {
            Some(hot) if !hot.has_to_be_watched(published) => true,
            _ => self.recheck(id, epochs, published),
        }
    }

    #[cold]
    fn recheck(&mut self, id: ProgramId, epochs: &Epochs, published: u64) -> bool {
        let (Some(hot), Some(Some(program))) =
            (self.hot.get_mut(id as usize), self.slots.get_mut(id as usize))
        else {
            return false;
        };
        if hot.checked != published {
            program.over = program.over
                || !program.verdict.deps.iter().all(|&dep| epochs.holds(dep))
                || !validity::bring_up_to_date(&mut program.verdict, &mut program.doubts);
            if program.over {
                return false;
            }
            (hot.checked, hot.doubt) = (published, program.doubts.latest());
            self.doubtful |= hot.doubt != 0;
        }
        program.verdict.further.iter().all(|&dep| epochs.holds(dep))
    }

    /// Whether some program may have doubts.
    #[inline]
    pub fn have_doubts(&self) -> bool {
        self.doubtful
    }

    /// Whether none of the program's doubts beyond number `seen` is about a packet with this key, of which `mask` is known.
    pub fn clears(&self, id: ProgramId, seen: u32, (key, mask): (&[u64], &KeyMask)) -> bool {
        self.get(id).is_some_and(|program| program.doubts.clear(seen, key, mask))
    }

    /// Forgets the program's doubts if all of its flows have been compared with them: [`Doubts::dispel`].
    pub fn dispel(&mut self, id: ProgramId, by: (u64, u64)) {
        if let (Some(hot), Some(Some(program))) =
            (self.hot.get_mut(id as usize), self.slots.get_mut(id as usize))
            && program.doubts.dispel(by)
        {
            hot.doubt = 0;
        }
    }

    /// The program for `verdict`, made if there is none; its user count goes up.
    pub fn intern(&mut self, verdict: &Verdict, snapshot: &Snapshot, published: u64) -> ProgramId {
        let hash = self.hash_of(verdict);
        let slots = &mut self.slots;
        let same = |&id: &ProgramId| {
            slots.get_mut(id as usize).and_then(Option::as_mut).is_some_and(|program| program.is_of(verdict))
        };
        if let Some(&id) = self.index.find(hash, same) {
            if let (Some(Some(program)), Some(hot)) =
                (slots.get_mut(id as usize), self.hot.get_mut(id as usize))
            {
                program.users += 1;
                // The walk has just found it again, by the snapshot of this burst: that stands until the next one, even
                // if its epochs are moving on at this moment.
                (hot.checked, hot.doubt) = (published, program.doubts.latest());
            }
            return id;
        }
        let (program, hot) = Program::compile(verdict, snapshot, (hash, published));
        let id = self.free.pop().unwrap_or_else(|| {
            slots.push(None);
            self.hot.push(Hot::FREE);
            (slots.len() - 1) as ProgramId
        });
        (slots[id as usize], self.hot[id as usize]) = (Some(program), hot);
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
            hash = mix(hash, Arc::as_ptr(rule) as usize as u64);
        }
        for term in &verdict.terms {
            hash = mix(hash, term.value ^ term.mask.rotate_left(u32::from(term.word)));
        }
        for dep in verdict.deps.iter().chain(&verdict.further) {
            hash = mix(hash, u64::from(dep.cell.0) << 32 | u64::from(dep.epoch));
        }
        hash
    }

    /// Counts packets of the program.
    #[inline]
    pub fn count(&mut self, id: ProgramId, packets: u64, bytes: u64) {
        let Some(hot) = self.hot.get_mut(id as usize) else { return };
        if hot.packets == 0 {
            self.busy.push(id);
        }
        hot.packets += packets;
        hot.bytes += bytes;
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
        let (Some(Some(program)), Some(hot)) = (self.slots.get(id as usize), self.hot.get_mut(id as usize))
        else {
            return;
        };
        let (packets, bytes) = (std::mem::take(&mut hot.packets), std::mem::take(&mut hot.bytes));
        if packets > 0 {
            take(Tally { verdict: &program.verdict, packets, bytes, drops: program.drops() });
        }
    }

    /// A flow no longer uses the program. What those have counted that go is shown.
    pub fn release(&mut self, id: ProgramId, take: impl FnMut(Tally<'_>)) {
        let Some(program) = self.get_mut(id) else { return };
        program.users -= 1;
        if program.users > 0 || std::mem::replace(&mut program.lingers, true) {
            return;
        }
        self.lingering.push_back(id);
        if self.lingering.len() > LINGERING {
            self.forget(1, take);
        }
    }

    /// Looks at those of `programs` programs that are without users for longest, and forgets them if they still are.
    pub fn forget(&mut self, programs: usize, mut take: impl FnMut(Tally<'_>)) {
        for _ in 0..programs.min(self.lingering.len()) {
            let Some(id) = self.lingering.pop_front() else { return };
            let Some(program) = self.get_mut(id) else { continue };
            program.lingers = false;
            if program.users > 0 {
                continue;
            }
            let hash = program.hash;
            self.settle_one(id, &mut take);
            if let Ok(entry) = self.index.find_entry(hash, |&other| other == id) {
                entry.remove();
            }
            (self.slots[id as usize], self.hot[id as usize]) = (None, Hot::FREE);
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
            && own.further == verdict.further
            && own.young == verdict.young
            && own.patches == verdict.patches
            && own.groups == verdict.groups
            && own.learned == verdict.learned
            && (own.drop, own.tunnel) == (verdict.drop, verdict.tunnel);
        let same_versions = |one: &Verdict| {
            one.visited.iter().zip(&verdict.visited).all(|(one, two)| one.version == two.version)
        };
        same && (same_versions(&self.verdict)
            || validity::bring_up_to_date(&mut self.verdict, &mut self.doubts)
                && same_versions(&self.verdict))
    }

    fn compile(verdict: &Verdict, snapshot: &Snapshot, (hash, published): (u64, u64)) -> (Program, Hot) {
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
        let hot = Hot {
            shape,
            tunnel: verdict.tunnel.unwrap_or(PortId::NONE),
            fleeting: !verdict.further.is_empty(),
            checked: published,
            ..Hot::FREE
        };
        let program = Program {
            ends,
            users: 1,
            lingers: false,
            over: false,
            hash,
            doubts: Doubts::default(),
            steps: steps.into(),
            verdict: verdict.clone(),
        };
        (program, hot)
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
}

/// Mixes a number into a hash.
#[inline(always)]
fn mix(hash: u64, number: u64) -> u64 {
    folded_product(hash ^ number, 0x9e37_79b9_7f4a_7c15).rotate_left(23)
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
