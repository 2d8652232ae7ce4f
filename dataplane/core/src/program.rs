//! What a cached flow does with a packet: a short compiled program, shared by all flows that take the same path.
//!
//! A program is a list of outputs, each with its own rewrite of the packet as it came in; none is a drop. Programs are
//! interned: a new flow whose path was compiled before gets the same program, and costs only its own cache entry. A
//! program notes the published things that it was compiled from; the FDB entries that a flow depends on are in the
//! flow's own entry ([`crate::cache`]).
//!
//! Each worker has its own arena, and is the only one to touch it.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use weft_wire::DropReason;

use crate::encap::Template;
use crate::epoch::{Dep, Epochs};
use crate::key::PortId;
use crate::snapshot::{Path, PortSpec, Snapshot};
use crate::vlan::TagRewrite;

/// One output of a program.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Emit {
    /// The bridge port: a device, or a tunnel.
    pub port: PortId,
    /// What happens to the outermost tag first.
    pub tag: TagRewrite,
    /// The key to wrap the packet under, if the port is a tunnel.
    pub key: Option<u32>,
}

/// The outcome of a walk through the pipeline: what a program is made of. Scratch, reused from walk to walk.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Where copies of the packet go; empty is a drop.
    pub emits: Vec<Emit>,
    /// Why there is no output.
    pub drop: Option<DropReason>,
    /// The tunnel port that the packet came in by.
    pub tunnel: Option<PortId>,
    /// Published things that this depends on.
    pub deps: Vec<Dep>,
    /// FDB entries (or buckets) that this depends on: source and destination.
    pub flow_deps: [Dep; 2],
}

impl Verdict {
    /// Starts a new walk.
    pub fn clear(&mut self) {
        self.emits.clear();
        self.deps.clear();
        (self.drop, self.tunnel, self.flow_deps) = (None, None, [Dep::NONE; 2]);
    }

    /// Whether both send the same packets to the same places.
    pub fn same_outcome(&self, other: &Verdict) -> bool {
        (&self.emits, self.drop, self.tunnel) == (&other.emits, other.drop, other.tunnel)
    }
}

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
    /// Several outputs, or a tunnel whose path isn't known yet.
    General,
}

/// A compiled path. See the module's text.
#[derive(Debug)]
pub struct Program {
    /// The quick way.
    pub shape: Shape,
    /// The tunnel port that packets came in by, or [`PortId::NONE`].
    pub tunnel: PortId,
    /// The publication at which `deps` were last seen to hold.
    checked: u32,
    users: u32,
    hash: u64,
    /// The outputs.
    pub emits: Box<[Emit]>,
    /// The outer header of each output that is a tunnel's with a known path.
    pub templates: Box<[Option<Template>]>,
    deps: Box<[Dep]>,
}

/// The number of a program in its arena.
pub type ProgramId = u32;

/// One worker's programs. See the module's text.
#[derive(Debug, Default)]
pub struct Programs {
    slots: Vec<Option<Program>>,
    free: Vec<ProgramId>,
    index: HashTable<ProgramId>,
    hasher: foldhash::fast::FixedState,
}

impl Programs {
    /// The program of that number.
    #[inline]
    pub fn get(&self, id: ProgramId) -> Option<&Program> {
        self.slots.get(id as usize)?.as_ref()
    }

    /// Whether what the program was compiled from still stands.
    #[inline(always)]
    pub fn valid(&mut self, id: ProgramId, epochs: &Epochs, published: u32) -> bool {
        let Some(Some(program)) = self.slots.get_mut(id as usize) else { return false };
        program.checked == published || program.recheck(epochs, published)
    }

    /// The program for `verdict`, made if there is none; its user count goes up.
    pub fn intern(&mut self, verdict: &Verdict, snapshot: &Snapshot, published: u32) -> ProgramId {
        let hash = self.hasher.hash_one((&verdict.emits, verdict.drop, verdict.tunnel, &verdict.deps));
        let slots = &mut self.slots;
        let same = |&id: &ProgramId| {
            slots.get(id as usize).and_then(Option::as_ref).is_some_and(|program| program.is_of(verdict))
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

    /// A flow no longer uses the program.
    pub fn release(&mut self, id: ProgramId) {
        let Some(Some(program)) = self.slots.get_mut(id as usize) else { return };
        program.users -= 1;
        if program.users == 0 {
            if let Ok(entry) = self.index.find_entry(program.hash, |&other| other == id) {
                entry.remove();
            }
            self.slots[id as usize] = None;
            self.free.push(id);
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
    /// Whether the tunnel of output `at` has an outer header prepared.
    pub fn is_ready(&self, at: usize) -> bool {
        matches!(self.templates.get(at), Some(Some(_)))
    }

    #[cold]
    fn recheck(&mut self, epochs: &Epochs, published: u32) -> bool {
        let holds = self.deps.iter().all(|&dep| epochs.holds(dep));
        if holds {
            self.checked = published;
        }
        holds
    }

    fn is_of(&self, verdict: &Verdict) -> bool {
        let drop = match self.shape {
            Shape::Drop(reason) => Some(reason),
            _ => None,
        };
        *self.emits == verdict.emits[..]
            && drop == verdict.drop
            && self.tunnel == verdict.tunnel.unwrap_or(PortId::NONE)
            && *self.deps == verdict.deps[..]
    }

    fn compile(verdict: &Verdict, snapshot: &Snapshot, (hash, published): (u64, u32)) -> Program {
        let template = |emit: &Emit| {
            let spec: &PortSpec = &snapshot.port(emit.port)?.spec;
            let tunnel = spec.tunnel()?;
            matches!(tunnel.path, Path::Ready { .. }).then(|| Template::new(tunnel, emit.key?)).flatten()
        };
        let templates: Box<[Option<Template>]> = verdict.emits.iter().map(template).collect();
        let shape = match (&verdict.emits[..], &templates[..]) {
            ([], _) => Shape::Drop(verdict.drop.unwrap_or(DropReason::NoDestination)),
            ([Emit { port, tag: TagRewrite::Keep, key: None }], _) => Shape::Forward(*port),
            ([Emit { port, tag, key: None }], _) => Shape::Retag(*port, *tag),
            ([_], [Some(_)]) => Shape::Encap,
            _ => Shape::General,
        };
        Program {
            shape,
            tunnel: verdict.tunnel.unwrap_or(PortId::NONE),
            checked: published,
            users: 1,
            hash,
            emits: verdict.emits.as_slice().into(),
            templates,
            deps: verdict.deps.as_slice().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_a_walk_has_found_again_serves_its_burst_even_if_its_epochs_move_on_meanwhile() {
        let epochs = Epochs::new().unwrap();
        let cell = epochs.allocate(1).unwrap();
        let verdict = Verdict {
            drop: Some(DropReason::NoDestination),
            deps: vec![epochs.observe(cell)],
            ..Verdict::default()
        };
        let (mut programs, snapshot) = (Programs::default(), Snapshot::default());
        let id = programs.intern(&verdict, &snapshot, 1);
        epochs.advance(cell);
        assert_eq!(programs.intern(&verdict, &snapshot, 5), id);
        assert!(programs.valid(id, &epochs, 5) && !programs.valid(id, &epochs, 6));
        programs.release(id);
        assert_eq!(programs.len(), 1);
        programs.release(id);
        assert!(programs.is_empty() && programs.get(id).is_none());
    }
}
