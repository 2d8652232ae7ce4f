//! What tells programs apart, in one run of numbers: a walk finds the program of its path by comparing a few lines of
//! memory, where the verdict itself is a dozen lists in as many places.
//!
//! Always true: two verdicts have the same words, and the same of what words can't hold ([`is_same_deep`]), if and only if
//! they do the same to a packet and rest on the same. The versions of the tables that they went through are at the end,
//! apart: a program's rise.
//!
//! Rules, tables, groups and meters are told apart by where they are in memory: a program holds its own, so nothing else
//! comes to be there meanwhile.

use std::hash::BuildHasher;
use std::sync::Arc;

use weft_flow::Term;

use crate::epoch::Dep;
use crate::verdict::{Chosen, Emit, Look, Op, Terms, Verdict, Visited};
use crate::vlan::TagRewrite;

/// A verdict's words. Scratch, used again and again.
#[derive(Debug, Default)]
pub(super) struct Path {
    words: Vec<u64>,
    /// How many words at the end are versions.
    versions: usize,
    /// It has something that words can't hold; they have that thing's hash.
    is_deep: bool,
}

/// The words of a program.
#[derive(Debug, Default)]
pub(super) struct Known {
    words: Box<[u64]>,
    versions: usize,
    is_deep: bool,
}

/// How a path is like a program's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Alike {
    /// It is another.
    Not,
    /// It is the same, but the program's verdict was last held against other versions of the tables.
    ButVersions,
    /// It is the same.
    Same,
}

/// What a list is of. Each list that isn't empty starts with a word of its kind and length.
#[derive(Clone, Copy)]
enum Kind {
    Ops = 1,
    Terms,
    Looks,
    Rules,
    Deps,
    Further,
    Young,
    Visited,
    Buckets,
    Groups,
    Learned,
    Patches,
}

impl Path {
    /// Writes down a verdict's words. `hasher` is for what words can't hold.
    pub fn describe(&mut self, verdict: &Verdict, hasher: &impl BuildHasher) {
        // A new field has to be thought of here. Those left out are the flow's, or this packet's alone.
        let Verdict {
            ops,
            terms,
            drop,
            tunnel,
            deps,
            further,
            young,
            visited,
            looks,
            rules,
            buckets,
            groups,
            learned,
            patches,
            ingress: _,
            flow_deps: _,
            links: _,
            made: _,
            waits: _,
            fleeting: _,
            asked: _,
        } = verdict;
        self.words.clear();
        self.is_deep = !learned.is_empty();
        let ends = drop.map_or(0, |reason| 1 + reason as u64);
        let tunnel = tunnel.map_or(0, |port| 1 + u64::from(port.0));
        self.words.push(ends << 32 | tunnel);
        self.list(Kind::Ops, ops.len());
        ops.iter().for_each(|op| self.op(op, hasher));
        self.list(Kind::Terms, terms.len());
        self.words
            .extend(terms.iter().flat_map(|&Term { word, mask, value }| [u64::from(word), mask, value]));
        self.list(Kind::Looks, looks.len());
        self.words.extend(looks.iter().flat_map(words_of_look));
        self.list(Kind::Rules, rules.len());
        self.words.extend(rules.iter().map(address));
        for (kind, deps) in [(Kind::Deps, deps), (Kind::Further, further), (Kind::Young, young)] {
            self.list(kind, deps.len());
            self.words
                .extend(deps.iter().map(|&Dep { cell, epoch }| u64::from(cell.0) << 32 | u64::from(epoch)));
        }
        self.list(Kind::Buckets, buckets.len());
        let bucket = |bucket: Option<usize>| bucket.map_or(0, |place| 1 + place as u64);
        self.words.extend(
            buckets.iter().flat_map(|Chosen { group, bucket: place }| [address(group), bucket(*place)]),
        );
        self.list(Kind::Groups, groups.len());
        self.words.extend(groups.iter().map(|&group| u64::from(group)));
        self.list(Kind::Learned, learned.len());
        self.list(Kind::Patches, patches.len());
        self.words.extend(patches.iter().map(|(into, out)| u64::from(into.0) << 16 | u64::from(out.0)));
        self.list(Kind::Visited, visited.len());
        self.words.extend(visited.iter().map(|visited| address(&visited.tables)));
        self.versions = visited.len();
        self.words.extend(visited.iter().map(|&Visited { version, .. }| version));
    }

    fn list(&mut self, kind: Kind, len: usize) {
        if len > 0 {
            self.words.push((kind as u64) << 32 | len as u64);
        }
    }

    /// A step: a word that says how many more it has, and those.
    fn op(&mut self, op: &Op, hasher: &impl BuildHasher) {
        let code = |code: u64| code << 56;
        match op {
            Op::Set(terms) => self.words.extend([code(1), words_of_terms(*terms)]),
            Op::PopVlan => self.words.push(code(2)),
            Op::PushVlan { tpid, tci } => self.words.push(code(3) | u64::from(*tpid) << 16 | u64::from(*tci)),
            Op::PopMpls { ethertype } => self.words.push(code(4) | u64::from(*ethertype)),
            Op::PushMpls { ethertype, lse } => {
                self.words.push(code(5) | u64::from(*ethertype) << 32 | u64::from(*lse));
            }
            Op::Translate(link) => self.words.push(code(6) | u64::from(*link)),
            Op::Output(emit) => self.words.extend(words_of_emit(emit, code(7))),
            Op::Clone(steps) => self.words.push(code(8) | u64::from(*steps)),
            Op::Meter(meter) => self.words.extend([code(9), address(&meter.0)]),
            Op::Sample { probability, collector_set_id } => {
                self.words.push(code(10) | u64::from(*probability) << 32 | u64::from(*collector_set_id));
            }
            Op::TranslateTo(_) | Op::Rewrite(_) | Op::PacketIn(_) => {
                self.is_deep = true;
                self.words.extend([code(11), hasher.hash_one(op)]);
            }
        }
    }

    /// All but the versions.
    fn lasting(&self) -> &[u64] {
        self.words.get(..self.words.len() - self.versions).unwrap_or_default()
    }

    /// A hash of all but the versions.
    pub fn hash(&self, hasher: &impl BuildHasher) -> u64 {
        hasher.hash_one(self.lasting())
    }

    /// To be kept with a program.
    pub fn known(&self) -> Known {
        Known { words: self.words.as_slice().into(), versions: self.versions, is_deep: self.is_deep }
    }
}

impl Known {
    /// How the path of `verdict` is like this one. `is_same_deep` compares what words can't hold.
    #[inline]
    pub fn compare(&self, path: &Path, is_same_deep: impl FnOnce() -> bool) -> Alike {
        if self.words.len() != path.words.len() || self.versions != path.versions {
            return Alike::Not;
        }
        let lasting = self.words.get(..self.words.len() - self.versions).unwrap_or_default();
        if lasting != path.lasting() || self.is_deep && !is_same_deep() {
            return Alike::Not;
        }
        if self.is_up_to_date(path) { Alike::Same } else { Alike::ButVersions }
    }

    /// Whether it is of the same versions as this one, which is the same but for these.
    pub fn is_up_to_date(&self, path: &Path) -> bool {
        self.words[..] == path.words
    }

    /// Its verdict was held against these versions.
    pub fn renew(&mut self, visited: &[Visited]) {
        let versions = self.words.len() - self.versions..;
        let places = self.words.get_mut(versions).unwrap_or_default();
        places.iter_mut().zip(visited).for_each(|(place, visited)| *place = visited.version);
    }
}

/// Whether two verdicts have the same of what words can't hold.
pub(super) fn is_same_deep(one: &Verdict, two: &Verdict) -> bool {
    one.ops == two.ops && one.learned == two.learned
}

fn address<T>(thing: &Arc<T>) -> u64 {
    Arc::as_ptr(thing) as usize as u64
}

fn words_of_terms(Terms { start, end }: Terms) -> u64 {
    u64::from(start) << 32 | u64::from(end)
}

fn words_of_look(&Look { bridge, table, priority, conjunctive, state }: &Look) -> [u64; 2] {
    let place = u64::from(table.0) << 32 | u64::from(priority) << 16 | u64::from(bridge) << 8;
    [place | u64::from(conjunctive), words_of_terms(state)]
}

fn words_of_emit(&Emit { port, tag, key, remote, max_len }: &Emit, code: u64) -> [u64; 3] {
    let tag = match tag {
        TagRewrite::Keep => 0,
        TagRewrite::Pop => 1 << 16,
        TagRewrite::PopUnlessPriority => 2 << 16,
        TagRewrite::Push(vid) => 3 << 16 | u64::from(vid.get()),
        TagRewrite::Set(vid) => 4 << 16 | u64::from(vid.get()),
    };
    let given = u64::from(key.is_some()) << 53 | u64::from(remote.is_some()) << 52;
    let remote = remote.map_or(0, |remote| u64::from(remote.to_bits()));
    let tunnel = u64::from(key.unwrap_or_default()) << 32 | remote;
    [code | given | tag << 16 | u64::from(port.0), tunnel, u64::from(max_len)]
}
