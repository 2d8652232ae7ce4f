//! The outcome of a walk through the flow tables: what is to be done to the packet, and all that this depends on.
//!
//! A verdict is scratch, reused from walk to walk, and nothing in it is boxed by step: rewrites and the state at each
//! look-up are ranges of one list of terms. [`crate::program`] makes it into a program that flows share.

use std::hash::{Hash, Hasher};
use std::net::Ipv4Addr;
use std::sync::Arc;

use weft_conntrack::{Link, Masked};
use weft_flow::action::{Controller, Own};
use weft_flow::{Action, Term};
use weft_wire::{DropReason, OfPort};

use crate::cache::LINKS;
use crate::edit::nat::Once;
use crate::edit::stream::Rewrite;
use crate::epoch::Dep;
use crate::key::PortId;
use crate::snapshot::BridgeId;
use crate::tables::{FlowTables, Group, Meter, Rule, TableId};
use crate::vlan::TagRewrite;
use crate::why::Decided;

/// A range of [`Verdict::terms`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Terms {
    /// The first.
    pub start: u32,
    /// Behind the last.
    pub end: u32,
}

/// One output.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Emit {
    /// The bridge port: a device, or a tunnel.
    pub port: PortId,
    /// What happens to the outermost tag of this copy first.
    pub tag: TagRewrite,
    /// The key to wrap the packet under, if the port is a tunnel.
    pub key: Option<u32>,
    /// Where to, if the port is a tunnel that leaves it to the flow.
    pub remote: Option<Ipv4Addr>,
    /// Octets that are kept; 0 is all.
    pub max_len: u32,
}

/// One step that is done to the packet, in order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// Header fields get new values.
    Set(Terms),
    /// The outermost tag goes.
    PopVlan,
    /// A tag is put in front.
    PushVlan {
        /// Its tag protocol identifier.
        tpid: u16,
        /// Its priority and VLAN.
        tci: u16,
    },
    /// The outermost label goes.
    PopMpls {
        /// The EtherType of what is behind it.
        ethertype: u16,
    },
    /// A label is put in front of what is behind the tags.
    PushMpls {
        /// 0x8847 or 0x8848.
        ethertype: u16,
        /// The label stack entry.
        lse: u32,
    },
    /// Addresses and ports become what the connection of this number in [`Verdict::links`] says.
    Translate(u8),
    /// Addresses and ports become these: of a packet that no further one is like.
    TranslateTo(Box<Once>),
    /// What a helper changes in the text and numbers of a TCP packet: of this one alone.
    Rewrite(Box<Rewrite>),
    /// A copy leaves.
    Output(Emit),
    /// The next so many steps are done to a copy.
    Clone(u32),
    /// The packet goes on if the meter lets it.
    Meter(Shared<Meter>),
    /// A copy goes to the controllers.
    PacketIn(Shared<PacketIn>),
    /// The packet is counted as a sample.
    Sample {
        /// Of 65535.
        probability: u16,
        /// For which collectors.
        collector_set_id: u32,
    },
}

/// What a packet that is sent to the controllers carries beside its octets.
#[derive(Debug)]
pub struct PacketIn {
    /// Which bridge it is on.
    pub bridge: BridgeId,
    /// The table that sent it.
    pub table: TableId,
    /// The cookie of the rule that sent it.
    pub cookie: u64,
    /// Where it came in.
    pub in_port: OfPort,
    /// The pipeline's fields at that moment.
    pub fields: weft_flow::Fields,
    /// What the action says.
    pub controller: Controller,
    /// The meter that limits it.
    pub meter: Option<Arc<Meter>>,
}

impl PartialEq for PacketIn {
    fn eq(&self, other: &Self) -> bool {
        let meter = |of: &PacketIn| of.meter.as_ref().map(Arc::as_ptr);
        (self.bridge, self.table, self.cookie, self.in_port, &self.controller, meter(self))
            == (other.bridge, other.table, other.cookie, other.in_port, &other.controller, meter(other))
            && self.fields == other.fields
    }
}

impl Eq for PacketIn {}

impl Hash for PacketIn {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.bridge, self.table, self.cookie, self.in_port, &self.controller).hash(state);
    }
}

/// A thing that verdicts share, and that is the same only if it is the very same, or (for small ones) equal.
#[derive(Debug)]
pub struct Shared<T>(pub Arc<T>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Shared(Arc::clone(&self.0))
    }
}

impl PartialEq for Shared<Meter> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Shared<Meter> {}

impl Hash for Shared<Meter> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (Arc::as_ptr(&self.0) as usize).hash(state);
    }
}

impl PartialEq for Shared<PacketIn> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Shared<PacketIn> {}

impl Hash for Shared<PacketIn> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// Added to a term's word in [`Look::state`]: bits that the flow's connection decides, not the program.
pub const UNKNOWN: u8 = 0x80;

/// A look-up that the walk made, and what it takes to know whether a new rule could have changed it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Look {
    /// In which of the verdict's bridges.
    pub bridge: u8,
    /// In which table.
    pub table: TableId,
    /// A rule of at least this priority matters.
    pub priority: u16,
    /// A rule matters whatever `conj_id` it asks for.
    pub conjunctive: bool,
    /// What the fields were then: pipeline words that aren't 0, and bits of the packet's words that the walk had
    /// written. All other pipeline bits were 0, all other bits of the packet were its own. A term of a word number with
    /// [`UNKNOWN`] says which bits of that word are another connection's in each flow.
    pub state: Terms,
}

/// The tables of a bridge that the walk went through.
#[derive(Clone, Debug)]
pub struct Visited {
    /// The bridge.
    pub bridge: BridgeId,
    /// The bridge's tables.
    pub tables: Arc<FlowTables>,
    /// The version that the walk saw.
    pub version: u64,
}

/// A group that the walk went through, or a bucket of it: a packet of all its buckets is one of the group.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The group.
    pub group: Arc<Group>,
    /// Which of its buckets, by place; `None` is the group itself.
    pub bucket: Option<usize>,
}

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// What happens to the packet. Without an output it is dropped.
    pub ops: Vec<Op>,
    /// What rewrites and look-ups refer to.
    pub terms: Vec<Term>,
    /// Why nothing leaves, or the first output that was refused.
    pub drop: Option<DropReason>,
    /// The tunnel port that the packet came in by.
    pub tunnel: Option<PortId>,
    /// The port or tunnel that it came in by.
    pub ingress: Option<PortId>,
    /// Published things that this depends on.
    pub deps: Vec<Dep>,
    /// FDB entries (or buckets) that this depends on: source and destination, of the first NORMAL.
    pub flow_deps: [Dep; 2],
    /// The same of further NORMALs: they change without a publication, so they are looked at with every packet.
    pub further: Vec<Dep>,
    /// FDB entries of further senders that the packet keeps young.
    pub young: Vec<Dep>,
    /// Connections that the packet belongs to, or places where none was found; the used ones first. They are the flow's, not
    /// the program's.
    pub links: [Link; LINKS],
    /// Bridges whose tables were walked.
    pub visited: Vec<Visited>,
    /// Look-ups made.
    pub looks: Vec<Look>,
    /// Rules hit, in order, each time.
    pub rules: Vec<Arc<Rule>>,
    /// Buckets used.
    pub buckets: Vec<Chosen>,
    /// Numbers of groups that were asked for, whether they are there or not, and of those that their choices watch.
    pub groups: Vec<u32>,
    /// What was learned: repeated as long as packets come.
    pub learned: Vec<Learned>,
    /// A rule was made or changed by that: more than kept from ending.
    pub made: bool,
    /// Patch ports passed: in and out.
    pub patches: Vec<(PortId, PortId)>,
    /// The packet is a fragment, and a connection is asked for that only the whole packet has: nothing was done, and nothing shall
    /// be until the others are there. What tells it from fragments that come in by the same ingress.
    pub waits: Option<[u64; 2]>,
    /// For this packet only: it was looked at beyond its key, or something could not be written down now.
    pub fleeting: bool,
    /// What the tracker was asked for.
    pub asked: Asked,
}

/// What a walk has asked the tracker, as far as other first packets would hear the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Asked {
    /// Nothing.
    #[default]
    Nothing,
    /// In one zone, where the packet belongs to no connection yet, and could begin one.
    New(u16),
    /// The same, and it has begun one there.
    Begun(Begun),
    /// Something else.
    Other,
}

/// How a packet has begun an ordinary connection: one without translation, helper or parent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Begun {
    /// In which zone.
    pub zone: u16,
    /// Bits of `ct_mark` that were set.
    pub mark: Masked<u32>,
    /// Bits of `ct_label` that were set.
    pub label: Masked<u128>,
    /// How often the packet took part in it once more, each time as the second of an unanswered connection.
    pub again: u8,
}

impl Asked {
    /// After one more question; `None` if others may hear something else.
    #[must_use]
    pub fn and(self, ordinary: Option<Answer>) -> Asked {
        match (self, ordinary) {
            (Asked::Nothing, Some(Answer::New(zone))) => Asked::New(zone),
            (Asked::New(own), Some(Answer::New(zone))) if own == zone => self,
            (Asked::Nothing, Some(Answer::Begun(begun))) => Asked::Begun(begun),
            (Asked::New(own), Some(Answer::Begun(begun))) if own == begun.zone => Asked::Begun(begun),
            (Asked::Begun(_), Some(Answer::Known)) => self,
            (Asked::Begun(begun), Some(Answer::Again)) if begun.again < u8::MAX => {
                Asked::Begun(Begun { again: begun.again + 1, ..begun })
            }
            _ => Asked::Other,
        }
    }
}

/// What a packet hears that belongs to no connection, and could begin an ordinary one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// That it is new in a zone.
    New(u16),
    /// That it has begun one.
    Begun(Begun),
    /// What it heard before of the one that it has begun.
    Known,
    /// That it belongs to the one that it has begun, and that this is still new: asked as if it were another packet.
    Again,
}

/// The look-up that decided about a packet.
#[derive(Clone, Copy, Debug)]
pub struct Decider<'v> {
    /// On which bridge.
    pub bridge: BridgeId,
    /// In which table.
    pub table: TableId,
    /// What it found.
    pub rule: Option<&'v Arc<Rule>>,
}

impl Decider<'_> {
    /// Without the rule itself.
    pub fn decided(&self) -> Decided {
        Decided { bridge: self.bridge, table: self.table, cookie: self.rule.map(|rule| rule.cookie) }
    }
}

/// A rule that packets of the flow keep alive.
#[derive(Clone, Debug)]
pub struct Learned {
    /// Whose tables.
    pub tables: Arc<FlowTables>,
    /// What is learned, again and again.
    pub rule: Arc<weft_flow::message::FlowMod>,
    /// At most so many rules with its cookie in its table; 0 is no limit.
    pub limit: u32,
}

impl PartialEq for Learned {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.tables, &other.tables) && self.rule == other.rule && self.limit == other.limit
    }
}

impl Verdict {
    /// Starts a new walk.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.terms.clear();
        self.deps.clear();
        self.further.clear();
        self.young.clear();
        self.visited.clear();
        self.looks.clear();
        self.rules.clear();
        self.buckets.clear();
        self.groups.clear();
        self.learned.clear();
        self.patches.clear();
        (self.drop, self.tunnel, self.ingress, self.waits) = (None, None, None, None);
        (self.made, self.fleeting, self.asked) = (false, false, Asked::Nothing);
        (self.flow_deps, self.links) = ([Dep::NONE; 2], [Link::NONE; LINKS]);
    }

    /// The terms of a range.
    pub fn terms(&self, range: Terms) -> &[Term] {
        self.terms.get(range.start as usize..range.end as usize).unwrap_or_default()
    }

    /// The look-up that was the last word on the packet: the one whose rule says that it is dropped, or else the last one
    /// that found a rule; or the last one of all if that it found none is why the packet is dropped.
    pub fn decider(&self) -> Option<Decider<'_>> {
        let missed = self.drop == Some(DropReason::TableMiss);
        // Weft's own rules say so when those that they have asked before have said nothing.
        let says_drop = |rule: &&Arc<Rule>| {
            let is_it = |action: &Action| matches!(action, Action::Own(Own::Drop(reason)) if Some(*reason) == self.drop);
            rule.table >= TableId::OWN && rule.actions.iter().any(is_it)
        };
        let last_rule = || self.rules.iter().rfind(says_drop).or(self.rules.last());
        let rule = if missed { None } else { last_rule() };
        let is_last = |look: &&Look| missed || rule.is_some_and(|rule| rule.table == look.table);
        let look = self.looks.iter().rfind(is_last)?;
        let bridge = self.visited.get(usize::from(look.bridge))?.bridge;
        Some(Decider { bridge, table: look.table, rule })
    }

    /// Whether something leaves, or is sent to the controllers.
    pub fn does_something(&self) -> bool {
        self.ops.iter().any(|op| matches!(op, Op::Output(_) | Op::PacketIn(_)))
    }

    /// The outputs, in order.
    pub fn emits(&self) -> impl Iterator<Item = &Emit> {
        self.ops.iter().filter_map(|op| match op {
            Op::Output(emit) => Some(emit),
            _ => None,
        })
    }

    /// Whether both do the same to a packet.
    pub fn same_outcome(&self, other: &Verdict) -> bool {
        let same_terms = self.ops.iter().zip(&other.ops).all(|(one, two)| match (one, two) {
            (Op::Set(one), Op::Set(two)) => self.terms(*one) == other.terms(*two),
            _ => one == two,
        });
        same_terms
            && self.ops.len() == other.ops.len()
            && (self.drop, self.tunnel) == (other.drop, other.tunnel)
    }
}
