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
use std::sync::Arc;

use hashbrown::HashTable;
use weft_wire::DropReason;

use crate::doubt::Doubts;
use crate::edit::Edits;
use crate::edit::nat::Once;
use crate::edit::stream::Rewrite;
use crate::encap::Template;
use crate::epoch::Epochs;
use crate::key::{KeyMask, PortId};
use crate::snapshot::Snapshot;
use crate::tables::Meter;
use crate::validity;
use crate::verdict::{Emit, Op, PacketIn, Verdict};
use crate::vlan::TagRewrite;

mod compile;
mod path;

use path::{Alike, Known, Path, is_same_deep};

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
    /// Flows that have it.
    users: u32,
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
        users: 0,
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
    /// The path of each.
    paths: Vec<Known>,
    /// That of the verdict whose program is looked for.
    path: Path,
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
                || !program.bring_up_to_date();
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
        self.path.describe(verdict, &self.hasher);
        let hash = self.path.hash(&self.hasher);
        let id = self.known(hash, verdict).unwrap_or_else(|| self.make(hash, verdict, snapshot));
        if let Some(hot) = self.hot.get_mut(id as usize) {
            hot.users += 1;
            // The walk has just found it again, by the snapshot of this burst: that stands until the next one, even if its
            // epochs are moving on at this moment.
            hot.checked = published;
        }
        id
    }

    /// The program that does what `verdict` says and rests on the same. One that an older version of the tables gave is
    /// brought up to date first, if the changes since don't concern it.
    fn known(&mut self, hash: u64, verdict: &Verdict) -> Option<ProgramId> {
        let Programs { index, paths, path, slots, hot, doubtful, .. } = self;
        let mut is_same = |&id: &ProgramId| {
            let at = id as usize;
            let (Some(known), Some(slot)) = (paths.get_mut(at), slots.get_mut(at)) else { return false };
            // The program itself is far away: most of the time its words are all that is looked at.
            match known.compare(path, || slot.as_ref().is_some_and(|own| is_same_deep(&own.verdict, verdict)))
            {
                Alike::Not => false,
                Alike::Same => true,
                Alike::ButVersions => {
                    let Some(program) = slot else { return false };
                    if !program.bring_up_to_date() {
                        return false;
                    }
                    known.renew(&program.verdict.visited);
                    let latest = program.doubts.latest();
                    *doubtful |= latest != 0;
                    hot.get_mut(at).into_iter().for_each(|hot| hot.doubt = latest);
                    known.is_up_to_date(path)
                }
            }
        };
        index.find(hash, &mut is_same).copied()
    }

    fn make(&mut self, hash: u64, verdict: &Verdict, snapshot: &Snapshot) -> ProgramId {
        let (program, hot) = Program::compile(verdict, snapshot, hash);
        let Programs { index, paths, path, slots, hot: hots, free, .. } = self;
        let id = free.pop().unwrap_or_else(|| {
            slots.push(None);
            paths.push(Known::default());
            hots.push(Hot::FREE);
            (slots.len() - 1) as ProgramId
        });
        let at = id as usize;
        (slots[at], hots[at], paths[at]) = (Some(program), hot, path.known());
        let hash_of = |&id: &ProgramId| {
            slots.get(id as usize).and_then(Option::as_ref).map_or(0, |program| program.hash)
        };
        index.insert_unique(hash, id, hash_of);
        id
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
        let Some(hot) = self.hot.get_mut(id as usize) else { return };
        hot.users = hot.users.saturating_sub(1);
        if hot.users > 0 {
            return;
        }
        let Some(program) = self.get_mut(id) else { return };
        if std::mem::replace(&mut program.lingers, true) {
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
            let at = id as usize;
            let (Some(Some(program)), Some(hot)) = (self.slots.get_mut(at), self.hot.get(at)) else {
                continue;
            };
            program.lingers = false;
            if hot.users > 0 {
                continue;
            }
            let hash = program.hash;
            self.settle_one(id, &mut take);
            if let Ok(entry) = self.index.find_entry(hash, |&other| other == id) {
                entry.remove();
            }
            (self.slots[at], self.hot[at], self.paths[at]) = (None, Hot::FREE, Known::default());
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
    /// Holds changes of rules against it. Whether it stands, for every flow that its doubts don't tell apart.
    fn bring_up_to_date(&mut self) -> bool {
        validity::bring_up_to_date(&mut self.verdict, &mut self.doubts)
    }

    fn compile(verdict: &Verdict, snapshot: &Snapshot, hash: u64) -> (Program, Hot) {
        let steps = compile::steps(verdict, snapshot);
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
            ..Hot::FREE
        };
        let program = Program {
            ends,
            lingers: false,
            over: false,
            hash,
            doubts: Doubts::default(),
            steps,
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
