//! The messages that change and describe tables: flow, group and meter modifications (OpenFlow 1.5.1, sections 7.3.4.3
//! to 7.3.4.5), as the control plane hands them on, whether they came as text or from the wire.

use weft_wire::OfPort;

use crate::action::Actions;
use crate::field::Field;
use crate::matching::Match;

/// What a flow modification does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FlowCommand {
    /// Adds a rule, in place of one with the same match and priority.
    #[default]
    Add,
    /// Gives rules that the match selects new actions; adds nothing.
    Modify,
    /// The same for the one rule with this match and priority.
    ModifyStrict,
    /// Deletes the rules that the match selects.
    Delete,
    /// Deletes the one rule with this match and priority.
    DeleteStrict,
}

/// Flags of a rule (OpenFlow 1.5.1, section 7.3.4.3, `ofp_flow_mod_flags`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowFlags {
    /// `send_flow_rem`
    pub send_removed: bool,
    /// `check_overlap`
    pub check_overlap: bool,
    /// `reset_counts`
    pub reset_counts: bool,
    /// `no_packet_counts`
    pub no_packet_counts: bool,
    /// `no_byte_counts`
    pub no_byte_counts: bool,
}

/// A change to the rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlowMod {
    /// What to do.
    pub command: FlowCommand,
    /// Which table; `None` is every table, for changes and deletions only.
    pub table: Option<u8>,
    /// 0 to 65535.
    pub priority: u16,
    /// Which packets, or (for loose changes) which rules.
    pub matches: Match,
    /// The rule's cookie; `None` for a modification that leaves it as it is (an added rule then has cookie 0).
    pub cookie: Option<u64>,
    /// For changes and deletions: only rules whose cookie is `.0` in the bits of `.1`.
    pub cookie_filter: (u64, u64),
    /// What the rule does.
    pub actions: Actions,
    /// Seconds without a packet after which the rule goes; 0 is never.
    pub idle_timeout: u16,
    /// Seconds after which it goes anyway; 0 is never.
    pub hard_timeout: u16,
    /// The less important go first when a table is full.
    pub importance: u16,
    /// Flags.
    pub flags: FlowFlags,
    /// For modifications: one that selects no rule adds it (OpenFlow 1.0 and 1.1, if `cookie_filter` filters nothing).
    pub or_add: bool,
    /// For deletions: only rules that output to that port.
    pub out_port: Option<OfPort>,
    /// For deletions: only rules that use that group.
    pub out_group: Option<u32>,
}

impl Default for FlowMod {
    fn default() -> Self {
        FlowMod {
            command: FlowCommand::Add,
            table: Some(0),
            // ovs-ofctl's default.
            priority: 32768,
            matches: Match::any(),
            cookie: None,
            cookie_filter: (0, 0),
            actions: Box::new([]),
            idle_timeout: 0,
            hard_timeout: 0,
            importance: 0,
            flags: FlowFlags::default(),
            or_add: false,
            out_port: None,
            out_group: None,
        }
    }
}

/// What a group modification does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum GroupCommand {
    /// Adds a group that isn't there.
    #[default]
    Add,
    /// Changes one that is.
    Modify,
    /// Either (`--may-create mod-group`).
    AddOrModify,
    /// Deletes one, or all ([`GroupMod::ALL`]), and the rules that use it.
    Delete,
    /// `insert-buckets`
    InsertBuckets,
    /// `remove-buckets`
    RemoveBuckets,
}

/// The kinds of group (OpenFlow 1.5.1, section 5.10).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum GroupKind {
    /// `all`: every bucket, each with a copy.
    #[default]
    All,
    /// `select`: one bucket, by hash and weight.
    Select,
    /// `indirect`: its one bucket.
    Indirect,
    /// `fast_failover`: the first bucket that is live.
    FastFailover,
}

/// How `select` chooses a bucket.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Selection {
    /// The switch's own choice.
    #[default]
    Default,
    /// `selection_method=hash,fields(..)`
    Hash {
        /// Seed.
        param: u64,
        /// Each with the bits that count.
        fields: Box<[(Field, u128)]>,
    },
    /// `selection_method=dp_hash`
    DpHash {
        /// Which hash.
        param: u64,
    },
}

/// Which bucket commands are about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BucketPosition {
    /// `command_bucket_id=first`
    First,
    /// `command_bucket_id=last`
    Last,
    /// `command_bucket_id=all`
    All,
    /// `command_bucket_id=N`
    Id(u32),
}

/// One bucket of a group.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Bucket {
    /// Its number in the group.
    pub id: u32,
    /// Share of the packets, for `select`.
    pub weight: u16,
    /// The bucket is live if this port is.
    pub watch_port: Option<OfPort>,
    /// The bucket is live if this group is.
    pub watch_group: Option<u32>,
    /// What it does.
    pub actions: Actions,
}

impl Bucket {
    /// The number of a bucket that has none yet: whoever inserts it gives it one.
    pub const UNNUMBERED: u32 = 0xffff_ffff;
}

/// A change to the groups.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GroupMod {
    /// What to do.
    pub command: GroupCommand,
    /// Which group.
    pub id: u32,
    /// Its kind.
    pub kind: GroupKind,
    /// How it chooses.
    pub selection: Selection,
    /// Its buckets, or those that are inserted.
    pub buckets: Box<[Bucket]>,
    /// For bucket commands: where.
    pub position: Option<BucketPosition>,
}

impl GroupMod {
    /// The largest number of a group.
    pub const MAX: u32 = 0xffff_ff00;
    /// `all`, for deletions.
    pub const ALL: u32 = 0xffff_fffc;
}

/// What a meter modification does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MeterCommand {
    /// Adds a meter that isn't there.
    #[default]
    Add,
    /// Changes one that is.
    Modify,
    /// Deletes one, or all ([`MeterMod::ALL`]), and the rules that use it.
    Delete,
}

/// A meter, as asked for (OpenFlow 1.5.1, section 5.11).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct MeterSpec {
    /// Its number, from 1; or one of the reserved ones.
    pub id: u32,
    /// Rates are packets a second, not kilobits.
    pub packets: bool,
    /// Bursts are as the bands say.
    pub burst: bool,
    /// Statistics are wanted.
    pub stats: bool,
    /// The bands; the one with the highest rate that is exceeded applies.
    pub bands: Box<[Band]>,
}

/// One band of a meter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Band {
    /// What happens to packets above the rate.
    pub kind: BandKind,
    /// Kilobits (1,000 bits) or packets a second.
    pub rate: u32,
    /// Kilobits or packets.
    pub burst_size: u32,
}

/// What a band does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BandKind {
    /// The packet goes.
    Drop,
    /// Its drop precedence rises by so many levels.
    DscpRemark(u8),
}

/// A change to the meters.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MeterMod {
    /// What to do.
    pub command: MeterCommand,
    /// The meter.
    pub meter: MeterSpec,
}

impl MeterMod {
    /// The largest number of a meter.
    pub const MAX: u32 = 0xffff_0000;
    /// `slowpath`
    pub const SLOWPATH: u32 = 0xffff_fffd;
    /// `controller`
    pub const CONTROLLER: u32 = 0xffff_fffe;
    /// `all`
    pub const ALL: u32 = 0xffff_ffff;
}
