//! Why a change is refused.

use super::TableId;

/// Nothing of a bundle was done, because of one of its changes.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("change {}: {why}", .index + 1)]
pub struct ChangeError {
    /// Which change, from 0.
    pub index: usize,
    /// Why.
    #[source]
    pub why: Refused,
}

/// Why one change is refused. The comments name the error that Open vSwitch gives.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// `OFPBRC_BAD_TABLE_ID`
    #[error("table id {0} is out of range: 0 to 254")]
    BadTable(u16),
    /// `OFPBRC_EPERM`
    #[error("table {0} is internal and can't be changed")]
    ReadOnlyTable(TableId),
    /// `OFPFMFC_OVERLAP`
    #[error("a rule with overlapping match and the same priority exists")]
    Overlap,
    /// `OFPFMFC_TABLE_FULL`
    #[error("table {table} is full: it is limited to {max_flows} rules")]
    TableFull {
        /// Which.
        table: TableId,
        /// Its limit.
        max_flows: u32,
    },
    /// `OFPBAC_BAD_OUT_GROUP`
    #[error("group {0}, which the actions use, doesn't exist")]
    BadOutGroup(u32),
    /// `OFPMMFC_INVALID_METER`
    #[error("meter {0}, which the actions use, doesn't exist")]
    BadOutMeter(u32),
    /// `NXBIC_DUP_TYPE` and the like: what a conjunctive rule may not do.
    #[error("conjunction may be used along with note, but not with any other action")]
    MixedConjunction,
    /// `OFPBAC_TOO_MANY`
    #[error("actions are nested more than {0} deep")]
    NestedTooDeep(usize),
    /// `OFPGMFC_GROUP_EXISTS`
    #[error("group {0} exists already")]
    GroupExists(u32),
    /// `OFPGMFC_UNKNOWN_GROUP`
    #[error("group {0} doesn't exist")]
    UnknownGroup(u32),
    /// `OFPGMFC_INVALID_GROUP`
    #[error("group id {0} is out of range: 0 to 4294967040")]
    InvalidGroup(u32),
    /// `OFPGMFC_INVALID_GROUP`
    #[error("group {id} is indirect and so has exactly one bucket, not {buckets}")]
    IndirectBuckets {
        /// The group.
        id: u32,
        /// How many it would have.
        buckets: usize,
    },
    /// `OFPBPC_BAD_VALUE`
    #[error("group {0} can't have a selection method: only select groups can")]
    SelectionMethod(u32),
    /// `OFPGMFC_BUCKET_EXISTS`
    #[error("group {id} would have bucket {bucket} twice")]
    BucketExists {
        /// The group.
        id: u32,
        /// The bucket.
        bucket: u32,
    },
    /// `OFPGMFC_UNKNOWN_BUCKET`
    #[error("group {id} has no bucket {bucket}")]
    UnknownBucket {
        /// The group.
        id: u32,
        /// The bucket.
        bucket: u32,
    },
    /// `OFPGMFC_BAD_BUCKET`
    #[error("group {id}: bucket {bucket} is out of range (0 to 4294967040), or not asked for")]
    BadBucket {
        /// The group.
        id: u32,
        /// The bucket.
        bucket: u32,
    },
    /// `OFPGMFC_UNKNOWN_BUCKET`
    #[error("which bucket is missing: first, last, a number, or (to remove) all")]
    BucketPosition,
    /// `OFPGMFC_INVALID_GROUP`
    #[error("group {id}: bucket {bucket} can't have a weight: only those of select groups can")]
    Weight {
        /// The group.
        id: u32,
        /// The bucket.
        bucket: u32,
    },
    /// `OFPGMFC_WATCH_UNSUPPORTED`
    #[error(
        "group {id}: bucket {bucket} can't watch a port or group: only those of select and fast_failover groups can"
    )]
    WatchUnsupported {
        /// The group.
        id: u32,
        /// The bucket.
        bucket: u32,
    },
    /// `OFPGMFC_INVALID_GROUP`
    #[error("group {id}: bucket {bucket} has to watch a port or group: the group is fast_failover")]
    WatchMissing {
        /// The group.
        id: u32,
        /// The bucket.
        bucket: u32,
    },
    /// `OFPGMFC_LOOP`
    #[error("group {0} would lead to itself")]
    GroupLoop(u32),
    /// `OFPMMFC_METER_EXISTS`
    #[error("meter {0} exists already")]
    MeterExists(u32),
    /// `OFPMMFC_UNKNOWN_METER`
    #[error("meter {0} doesn't exist")]
    UnknownMeter(u32),
    /// `OFPMMFC_INVALID_METER`
    #[error("meter id {0} is out of range: 1 to 4294901760, or slowpath, or controller")]
    InvalidMeter(u32),
    /// `OFPMMFC_OUT_OF_BANDS`
    #[error("a meter has 8 bands at most, not {0}")]
    TooManyBands(usize),
    /// `OFPMMFC_BAD_RATE`
    #[error("meter {0} has a band with rate 0")]
    BadRate(u32),
}
