//! A port's VLAN behaviour, with Open vSwitch's semantics (ovs-vswitchd.conf.db(5), table Port, "VLAN Configuration").
//!
//! Mechanism only: which tag a frame may carry in, which VLAN it then belongs to, and in which form it leaves.

use weft_wire::{Tci, Vid};

/// A set of VLANs.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet(Box<[u64; 64]>);

impl VlanSet {
    /// No VLAN.
    pub fn none() -> Self {
        VlanSet(Box::new([0; 64]))
    }

    /// Every VLAN, 0 (untagged) included.
    pub fn all() -> Self {
        VlanSet(Box::new([u64::MAX; 64]))
    }

    /// Whether `vid` is in the set.
    #[inline]
    pub fn contains(&self, vid: Vid) -> bool {
        self.0[vid.index() / 64] >> (vid.index() % 64) & 1 != 0
    }

    /// Puts `vid` in.
    pub fn insert(&mut self, vid: Vid) {
        self.0[vid.index() / 64] |= 1 << (vid.index() % 64);
    }

    /// Takes `vid` out.
    pub fn remove(&mut self, vid: Vid) {
        self.0[vid.index() / 64] &= !(1 << (vid.index() % 64));
    }

    /// The VLANs in the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = Vid> + '_ {
        (0..4096).map(Vid::from_tci).filter(|&vid| self.contains(vid))
    }
}

impl FromIterator<Vid> for VlanSet {
    fn from_iter<I: IntoIterator<Item = Vid>>(vids: I) -> Self {
        let mut set = VlanSet::none();
        vids.into_iter().for_each(|vid| set.insert(vid));
        set
    }
}

impl std::fmt::Debug for VlanSet {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_set().entries(self.iter().map(Vid::get)).finish()
    }
}

/// How a port treats tags: `vlan_mode`, `tag` and `trunks` of Open vSwitch's Port table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VlanMode {
    /// One VLAN, untagged on the wire.
    Access(Vid),
    /// The VLANs of the set, tagged on the wire; VLAN 0 untagged.
    Trunk(VlanSet),
    /// A trunk; untagged frames belong to the VLAN, whose frames leave tagged.
    NativeTagged(Vid, VlanSet),
    /// A trunk; untagged frames belong to the VLAN, whose frames leave untagged.
    NativeUntagged(Vid, VlanSet),
}

/// Whether a frame that leaves without a VLAN may carry a priority tag (VLAN 0): `priority-tags`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PriorityTags {
    /// Never.
    #[default]
    Never,
    /// When its priority isn't 0.
    IfNonzero,
    /// Always.
    Always,
}

/// How a frame came to its VLAN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// The VLAN.
    pub vid: Vid,
    /// The outermost tag that it came in with.
    pub tci: Tci,
    /// Whether the ingress port gives untagged frames their VLAN (all modes but trunk), even VLAN 0.
    pub assigned: bool,
}

/// A frame's tag has to be changed so before it leaves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TagRewrite {
    /// Not at all.
    Keep,
    /// Take the outermost tag off.
    Pop,
    /// Take the outermost tag off, unless its priority isn't 0: then it stays as a priority tag (VLAN 0). The packet
    /// decides, so that no key has to carry the priority.
    PopUnlessPriority,
    /// Put an 802.1Q tag with this VLAN and priority 0 in front.
    Push(Vid),
    /// Put this VLAN into the outermost tag; its priority stays.
    Set(Vid),
}

impl VlanMode {
    /// The native modes: their VLAN is trunked, VLAN 0 is not, whatever the list says.
    pub fn native(vid: Vid, trunks: Option<VlanSet>, tagged: bool) -> Self {
        let mut trunks = trunks.unwrap_or_else(VlanSet::all);
        if vid != Vid::NONE {
            trunks.insert(vid);
            trunks.remove(Vid::NONE);
        }
        if tagged { VlanMode::NativeTagged(vid, trunks) } else { VlanMode::NativeUntagged(vid, trunks) }
    }

    /// The VLAN of a frame that arrives with `tci`; `None` when the port does not admit it.
    pub fn admit(&self, tci: Tci) -> Option<Vid> {
        let vid = tci.vid();
        match self {
            VlanMode::Access(own) => (vid == Vid::NONE).then_some(*own),
            VlanMode::Trunk(trunks) => trunks.contains(vid).then_some(vid),
            VlanMode::NativeTagged(native, _) | VlanMode::NativeUntagged(native, _) if vid == Vid::NONE => {
                Some(*native)
            }
            VlanMode::NativeTagged(_, trunks) | VlanMode::NativeUntagged(_, trunks) => {
                trunks.contains(vid).then_some(vid)
            }
        }
    }

    /// Whether frames of `vid` are flooded to the port.
    pub fn carries(&self, vid: Vid) -> bool {
        match self {
            VlanMode::Access(own) => *own == vid,
            VlanMode::Trunk(trunks)
            | VlanMode::NativeTagged(_, trunks)
            | VlanMode::NativeUntagged(_, trunks) => trunks.contains(vid),
        }
    }

    /// Whether frames of `vid` can come in by the port, so that its stations can be in that VLAN.
    pub fn has(&self, vid: Vid) -> bool {
        match self {
            VlanMode::NativeTagged(native, _) | VlanMode::NativeUntagged(native, _) if *native == vid => true,
            _ => self.carries(vid),
        }
    }

    /// The VLANs whose frames are flooded to the port.
    pub fn vlans(&self) -> VlanSet {
        match self {
            VlanMode::Access(own) => VlanSet::from_iter([*own]),
            VlanMode::Trunk(trunks)
            | VlanMode::NativeTagged(_, trunks)
            | VlanMode::NativeUntagged(_, trunks) => trunks.clone(),
        }
    }

    /// Whether the port gives untagged frames a VLAN of its own.
    pub fn assigns(&self) -> bool {
        !matches!(self, VlanMode::Trunk(_))
    }

    /// How a frame leaves by this port.
    pub fn emit(&self, frame: Arrival, priority_tags: PriorityTags) -> TagRewrite {
        let own = match self {
            VlanMode::Access(_) => true,
            VlanMode::NativeUntagged(native, _) => *native == frame.vid,
            VlanMode::Trunk(_) | VlanMode::NativeTagged(..) => false,
        };
        if own || frame.vid == Vid::NONE {
            return Self::emit_untagged(own, frame, priority_tags);
        }
        match frame.tci {
            tci if !tci.is_tagged() => TagRewrite::Push(frame.vid),
            tci if tci.vid() == frame.vid => TagRewrite::Keep,
            _ => TagRewrite::Set(frame.vid),
        }
    }

    /// The frame leaves without a VLAN: because it is the port's `own`, or because it is VLAN 0 on a trunk.
    ///
    /// When the frame then carries a priority tag is Open vSwitch's rule, cell by cell (`xvlan_output_translate`,
    /// `xvlan_put`): a trunk keeps a priority that isn't 0 whatever `priority_tags` says, and `Always` adds a tag to VLAN
    /// 0 only, and not to what came untagged from a trunk.
    fn emit_untagged(own: bool, frame: Arrival, priority_tags: PriorityTags) -> TagRewrite {
        let always = priority_tags == PriorityTags::Always && !own;
        match frame.tci.is_tagged() {
            false if always && frame.assigned => TagRewrite::Push(Vid::NONE),
            false => TagRewrite::Keep,
            true if always => TagRewrite::Keep,
            true if own && priority_tags == PriorityTags::Never => TagRewrite::Pop,
            true => TagRewrite::PopUnlessPriority,
        }
    }
}
