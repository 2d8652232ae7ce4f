//! What of a packet can matter, bridge by bridge: the union of what is read in its own tables and, through patch ports, in
//! those of other bridges. Every port of a bridge has its mask; a guarded one has what its guards read on top.

use std::collections::{BTreeSet, HashMap};

use crate::key::{KeyMask, PortId};
use crate::pipeline::policy::CLAIMS;
use crate::snapshot::{BridgeId, Model, PortKind, PortSpec};
use crate::tables::{Edge, TableId, Tables};
use crate::vlan::{VlanMode, VlanSet};

/// What of packets can matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// All of it.
    pub all: KeyMask,
    /// What matters apart from which connection they belong to: all but what tracking alone reads.
    pub apart: KeyMask,
}

impl Seen {
    /// The same of both.
    pub const fn both(mask: KeyMask) -> Seen {
        Seen { all: mask, apart: mask }
    }

    /// What either sees.
    pub fn union(&self, other: &Seen) -> Seen {
        Seen { all: self.all.union(&other.all), apart: self.apart.union(&other.apart) }
    }

    fn map(&self, change: impl Fn(&KeyMask) -> KeyMask) -> Seen {
        Seen { all: change(&self.all), apart: change(&self.apart) }
    }
}

/// What a bridge's tables can read of a packet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reads {
    seen: Seen,
    /// What is read, besides, of packets from the bridge's guarded ports.
    guarded: Seen,
    lengths: Vec<u16>,
    /// Whether they can take the outermost tag off, so that who comes next reads the second in its place.
    pops: bool,
}

impl Reads {
    /// What these tables can read of a packet that enters the first of them.
    pub fn of(tables: &Tables) -> Reads {
        let reach = tables.reads(TableId::FIRST);
        let own = |entry| tables.table(entry).is_some_and(|table| !table.is_empty());
        let guarded = match own(TableId::FROM_GUARDED) {
            true => {
                let reach = tables.reads(TableId::FROM_GUARDED);
                Seen { all: reach.mask, apart: reach.apart }.map(|mask| unclaimed(*mask).union(&KeyMask::TAG))
            }
            false => Seen::both(KeyMask::INGRESS),
        };
        // Which connections a packet can belong to is decided by its VLAN.
        let tag = if own(TableId::TO_GUARDED) { KeyMask::TAG } else { KeyMask::INGRESS };
        let pops = reach.has(Edge::PopVlan);
        let lengths = reach.lengths().flat_map(with_tags).collect();
        let seen = Seen { all: reach.mask, apart: reach.apart }.union(&Seen::both(tag));
        Reads { seen, guarded, lengths, pops }
    }

    /// Reads what `other` reads as well.
    pub fn add(&mut self, other: &Reads) {
        self.seen = self.seen.union(&other.seen);
        self.guarded = self.guarded.union(&other.guarded);
        self.lengths.extend(&other.lengths);
        self.pops |= other.pops;
    }
}

/// What each bridge's own tables can read.
pub type OwnReads = HashMap<BridgeId, Reads>;

/// What the tables of a model's bridges read.
pub fn own_reads(model: &Model) -> OwnReads {
    model.bridges.iter().map(|bridge| (bridge.id, Reads::of(&bridge.flows.load()))).collect()
}

/// A length that packets are compared with, and what that is for one that has got up to two tags or labels, or lost as many.
fn with_tags(length: u16) -> impl Iterator<Item = u16> {
    [-8, -4, 0, 4, 8].into_iter().map(move |octets| length.saturating_add_signed(octets))
}

/// Without what is read of each packet by itself.
fn unclaimed(mut mask: KeyMask) -> KeyMask {
    for word in CLAIMS {
        if let Some(bits) = mask.0.get_mut(word) {
            *bits = 0;
        }
    }
    mask
}

/// What of packets can matter.
#[derive(Clone, Debug, Default)]
pub struct Masks {
    /// Of each bridge's packets.
    pub bridges: HashMap<BridgeId, Seen>,
    /// Besides, of packets from its guarded ports.
    guarded: HashMap<BridgeId, Seen>,
    /// The lengths that packets are compared with, ascending.
    pub lengths: Vec<u16>,
}

impl Masks {
    /// What of packets from that port can matter; `None` if it is on no bridge.
    pub fn of_port(&self, port: &PortSpec) -> Option<Seen> {
        let bridge = port.bridge?;
        let seen = self.bridges.get(&bridge)?;
        let guarded = self.guarded.get(&bridge).filter(|_| port.guard.from);
        Some(guarded.map_or(*seen, |guarded| seen.union(guarded)))
    }
}

/// What of packets can matter, if that is what bridges' tables read.
pub fn of(model: &Model, reads: &OwnReads) -> Masks {
    let lengths: BTreeSet<u16> = reads.values().flat_map(|reads| reads.lengths.iter().copied()).collect();
    let ingress = Seen::both(KeyMask::INGRESS);
    let mut masks: HashMap<BridgeId, Seen> =
        reads.iter().map(|(id, reads)| (*id, reads.seen.union(&ingress))).collect();
    let guarded = reads.iter().map(|(id, reads)| (*id, reads.guarded)).collect();
    let links = links(model, reads);
    // As far as patch ports lead.
    loop {
        let before = masks.clone();
        for link in &links {
            let behind = masks.get(&link.to).copied().unwrap_or_default();
            if let Some(mask) = masks.get_mut(&link.from) {
                *mask = mask.union(&behind.map(|behind| link.seen_through(behind)));
            }
        }
        if masks == before {
            return Masks { bridges: masks, guarded, lengths: lengths.into_iter().collect() };
        }
    }
}

/// A way from one bridge to another.
struct Link {
    from: BridgeId,
    to: BridgeId,
    /// The outermost tag may be gone on the other side.
    pops: bool,
}

impl Link {
    /// What has to be read before the link for what is read behind it. A tag's priority decides what leaves by a port.
    fn seen_through(&self, behind: &KeyMask) -> KeyMask {
        let mut mask = behind.union(&KeyMask::TAG);
        if self.pops {
            mask.0[3] |= (behind.0[1] & 0xffff) << 32;
        }
        mask
    }
}

fn links(model: &Model, reads: &OwnReads) -> Vec<Link> {
    let bridge_of: HashMap<PortId, BridgeId> =
        model.ports.iter().filter_map(|port| Some((port.id, port.bridge?))).collect();
    let link = |port: &PortSpec| {
        let PortKind::Patch(Some(peer)) = port.kind else { return None };
        let (from, to) = (port.bridge?, *bridge_of.get(&peer)?);
        let strips = port.vlan != VlanMode::Trunk(VlanSet::all());
        let pops = strips || reads.get(&from).is_some_and(|reads| reads.pops);
        Some(Link { from, to, pops })
    };
    model.ports.iter().filter_map(link).collect()
}
