//! Actions and instructions: what a matched rule does, as ovs-actions(7) describes it.
//!
//! One enum for both, as Open vSwitch has it: `write_actions`, `goto_table` and the like stand in the same list. An empty
//! list is `drop`. What is nested (`clone`, `write_actions`, `ct(exec(..))`) holds a list of its own.

use std::net::{Ipv4Addr, Ipv6Addr};

use weft_wire::{DropReason, Mac, OfPort};

use crate::field::{Field, Subfield};

/// A list of actions, in order.
pub type Actions = Box<[Action]>;

/// One step. See the module's text.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// `output:N`, `NORMAL`, `IN_PORT` and the other reserved ports (but `CONTROLLER`).
    Output(OfPort),
    /// `output(port=N,max_len=L)`: at most so many octets, at least 14.
    OutputTrunc {
        /// Where to.
        port: OfPort,
        /// Octets that are kept.
        max_len: u32,
    },
    /// `output:NXM_NX_REG0[0..15]`
    OutputReg {
        /// The bits that hold the port's number.
        source: Subfield,
        /// Octets for the controller, if that is the port.
        max_len: u16,
    },
    /// `controller(..)`, `CONTROLLER:max_len`
    Controller(Box<Controller>),
    /// `enqueue:port:queue`
    Enqueue {
        /// Where to.
        port: OfPort,
        /// By which queue of the port.
        queue: u32,
    },
    /// `set_queue:N`
    SetQueue(u32),
    /// `pop_queue`
    PopQueue,
    /// `group:N`
    Group(u32),
    /// `bundle(..)` and `bundle_load(..)`
    Bundle(Box<Bundle>),
    /// `set_field:value[/mask]->field`
    SetField {
        /// The field.
        field: Field,
        /// Its new value; bits outside the mask are 0.
        value: u128,
        /// Which bits change.
        mask: FieldMask,
    },
    /// `load:value->subfield`
    Load {
        /// What changes.
        target: Subfield,
        /// Its new value, within the subfield's width.
        value: u128,
    },
    /// `move:subfield->subfield`, of equal widths.
    Move {
        /// What is read.
        source: Subfield,
        /// What is written.
        target: Subfield,
    },
    /// `push:subfield`
    Push(Subfield),
    /// `pop:subfield`
    Pop(Subfield),
    /// `set_vlan_vid` (in OpenFlow 1.0 and 1.1, `mod_vlan_vid`)
    SetVlanVid(VlanChange),
    /// `set_vlan_pcp` (`mod_vlan_pcp`)
    SetVlanPcp(VlanChange),
    /// `strip_vlan`, `pop_vlan`
    StripVlan,
    /// `push_vlan:ethertype`: 0x8100 or 0x88a8
    PushVlan(u16),
    /// `mod_dl_src`
    SetEthSrc(Mac),
    /// `mod_dl_dst`
    SetEthDst(Mac),
    /// `mod_nw_src`
    SetIpSrc(Ipv4Addr),
    /// `mod_nw_dst`
    SetIpDst(Ipv4Addr),
    /// `mod_nw_tos`: the TOS octet; the two ECN bits stay
    SetIpTos(u8),
    /// `mod_nw_ecn`
    SetIpEcn(u8),
    /// `mod_nw_ttl`
    SetIpTtl(u8),
    /// `mod_tp_src`
    SetTpSrc(u16),
    /// `mod_tp_dst`
    SetTpDst(u16),
    /// `dec_ttl`, `dec_ttl(id,..)`: the controllers that hear of an expired packet; empty is the default one.
    DecTtl(Box<[u16]>),
    /// `set_mpls_label`
    SetMplsLabel(u32),
    /// `set_mpls_tc`
    SetMplsTc(u8),
    /// `set_mpls_ttl`
    SetMplsTtl(u8),
    /// `dec_mpls_ttl`
    DecMplsTtl,
    /// `push_mpls:ethertype`: 0x8847 or 0x8848
    PushMpls(u16),
    /// `pop_mpls:ethertype` of what is behind the last label
    PopMpls(u16),
    /// `set_tunnel:id`, or `set_tunnel64:id`
    SetTunnel {
        /// The key.
        id: u64,
        /// Whether it was written with 64 bits.
        wide: bool,
    },
    /// `resubmit(port,table,ct)`
    Resubmit {
        /// Another `in_port` for the look-up.
        in_port: Option<OfPort>,
        /// Another table than this one; above 255, one of weft's own, which no text names.
        table: Option<u16>,
        /// Look up by the connection's original direction.
        ct: bool,
    },
    /// `learn(..)`
    Learn(Box<Learn>),
    /// `conjunction(id,k/n)`
    Conjunction {
        /// Which conjunctive match.
        id: u32,
        /// This clause of it, from 0.
        clause: u8,
        /// How many clauses it has, 2 to 64.
        clauses: u8,
    },
    /// `multipath(..)`
    Multipath(Box<Multipath>),
    /// `note:hex`
    Note(Box<[u8]>),
    /// `exit`
    Exit,
    /// `sample(..)`
    Sample(Box<Sample>),
    /// `clone(..)`
    Clone(Actions),
    /// `check_pkt_larger(length)->subfield` of one bit
    CheckPktLarger {
        /// The result.
        target: Subfield,
        /// Larger than so many octets.
        length: u16,
    },
    /// `fin_timeout(..)`: shorter timeouts once TCP ends, in seconds; 0 leaves one as it is.
    FinTimeout {
        /// Idle.
        idle: u16,
        /// Hard.
        hard: u16,
    },
    /// `ct(..)`
    Ct(Box<Ct>),
    /// `ct_clear`
    CtClear,
    /// `meter:N`
    Meter(u32),
    /// `clear_actions`
    ClearActions,
    /// `write_actions(..)`
    WriteActions(Actions),
    /// `write_metadata:value[/mask]`
    WriteMetadata {
        /// The new bits.
        value: u64,
        /// Which.
        mask: u64,
    },
    /// `goto_table:N`
    GotoTable(u8),
    /// What only rules of weft's own tables do: it is printed, but no text is read as it.
    Own(Own),
}

/// The outcome of weft's own tables (port security and security groups): the look-ups end with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Own {
    /// `permit`: the packet goes on to the user's tables, or leaves by the port.
    Permit,
    /// `drop(REASON)`: it doesn't.
    Drop(DropReason),
}

impl Action {
    /// `set_field:value/mask->field`. Bits of the value outside the mask are to be 0.
    pub fn set_field(field: Field, value: u128, mask: u128) -> Action {
        Action::SetField { field, value, mask: FieldMask::new(field, mask) }
    }
}

/// Which bits of a field `set_field` changes. All of them, nearly always: only another mask takes room of its own, so that
/// every action is the smaller for it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FieldMask(Option<Box<u128>>);

impl FieldMask {
    /// These bits of `field`.
    pub fn new(field: Field, bits: u128) -> FieldMask {
        FieldMask((bits != field.max()).then(|| Box::new(bits)))
    }

    /// The bits, given the field that the mask was made for.
    pub fn bits(&self, field: Field) -> u128 {
        self.0.as_deref().copied().unwrap_or_else(|| field.max())
    }
}

/// Rules hold lists of them: a table of 200,000 rules feels each octet.
const _: () = assert!(size_of::<Action>() <= 32);

/// How `set_vlan_vid` and `set_vlan_pcp` treat an untagged packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VlanChange {
    /// The VLAN (12 bits) or the priority (3 bits).
    pub value: u16,
    /// `mod_vlan_vid`, `mod_vlan_pcp`: an untagged packet gets a tag; otherwise the rule must match a tagged one.
    pub push: bool,
}

/// `controller(..)`
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Controller {
    /// Octets of the packet that are sent; 65535 is all.
    pub max_len: u16,
    /// Why.
    pub reason: PacketInReason,
    /// Which connection gets it.
    pub id: u16,
    /// The owner's own octets.
    pub userdata: Box<[u8]>,
    /// Whether the packet's walk can be resumed.
    pub pause: bool,
    /// The meter that limits it, if any.
    pub meter: Option<u32>,
}

impl Controller {
    /// Whether it is no more than `output:CONTROLLER`, with a length.
    pub fn is_output(&self) -> bool {
        let Controller { reason, id, userdata, pause, meter, max_len: _ } = self;
        *reason == PacketInReason::Action && *id == 0 && userdata.is_empty() && !pause && meter.is_none()
    }
}

/// Why a packet is sent to the controller (OpenFlow 1.5.1, section 7.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum PacketInReason {
    /// `no_match`: no rule in a table whose default is the controller.
    NoMatch,
    /// `action`
    #[default]
    Action,
    /// `invalid_ttl`
    InvalidTtl,
    /// `action_set`
    ActionSet,
    /// `group`
    Group,
    /// `packet_out`
    PacketOut,
}

/// `bundle(fields,basis,algorithm,ofport,[dst,]slaves:ports)`
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Bundle {
    /// What the hash reads.
    pub fields: HashFields,
    /// Seed of the hash.
    pub basis: u16,
    /// How a port is chosen.
    pub algorithm: BundleAlgorithm,
    /// The choice.
    pub ports: Box<[OfPort]>,
    /// `bundle_load`: where the chosen port's number goes, instead of an output.
    pub target: Option<Subfield>,
}

/// How `bundle` chooses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BundleAlgorithm {
    /// `active_backup`: the first that is up.
    ActiveBackup,
    /// `hrw`: highest random weight among those that are up.
    HighestRandomWeight,
}

/// What `bundle` and `multipath` hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HashFields {
    /// `eth_src`
    EthSrc,
    /// `symmetric_l4`
    SymmetricL4,
    /// `symmetric_l3l4`
    SymmetricL3L4,
    /// `symmetric_l3l4+udp`
    SymmetricL3L4Udp,
    /// `nw_src`
    NwSrc,
    /// `nw_dst`
    NwDst,
    /// `symmetric_l3`
    SymmetricL3,
}

/// `multipath(fields,basis,algorithm,n_links,arg,dst)`
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Multipath {
    /// What the hash reads.
    pub fields: HashFields,
    /// Seed of the hash.
    pub basis: u16,
    /// How a link is chosen.
    pub algorithm: MultipathAlgorithm,
    /// How many links there are, 1 to 65536, less one.
    pub max_link: u16,
    /// `iter_hash`'s argument.
    pub arg: u32,
    /// Where the link's number goes.
    pub target: Subfield,
}

/// How `multipath` chooses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MultipathAlgorithm {
    /// `modulo_n`
    ModuloN,
    /// `hash_threshold`
    HashThreshold,
    /// `hrw`
    HighestRandomWeight,
    /// `iter_hash`
    IterHash,
}

/// `learn(..)`
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Learn {
    /// Seconds without a packet after which the rule goes; 0 is never.
    pub idle_timeout: u16,
    /// Seconds after which it goes anyway; 0 is never.
    pub hard_timeout: u16,
    /// The rule's priority.
    pub priority: u16,
    /// Its cookie.
    pub cookie: u64,
    /// Its table.
    pub table: u8,
    /// Idle timeout after a FIN or RST.
    pub fin_idle_timeout: u16,
    /// Hard timeout after a FIN or RST.
    pub fin_hard_timeout: u16,
    /// `send_flow_rem`
    pub send_flow_removed: bool,
    /// `delete_learned`
    pub delete_learned: bool,
    /// At most so many rules with this cookie in this table; 0 is no limit.
    pub limit: u32,
    /// `result_dst`: one bit that says whether the rule could be made.
    pub result: Option<Subfield>,
    /// What the rule matches on and does.
    pub specs: Box<[LearnSpec]>,
}

/// One part of a learned rule.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct LearnSpec {
    /// Where the bits come from.
    pub source: LearnSource,
    /// What becomes of them.
    pub target: LearnTarget,
}

/// Where a learned rule's bits come from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum LearnSource {
    /// A value of the rule.
    Immediate(u128),
    /// A field of the packet that is learned from.
    Field(Subfield),
}

/// What becomes of a learned rule's bits.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum LearnTarget {
    /// The rule matches on it.
    Match(Subfield),
    /// The rule loads it.
    Load(Subfield),
    /// The rule outputs to that port.
    Output,
}

/// `sample(..)`
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Sample {
    /// Out of 65535 packets, so many; at least 1.
    pub probability: u16,
    /// Which collectors.
    pub collector_set_id: u32,
    /// Observation domain: a number, or a field's value.
    pub obs_domain_id: SampleId,
    /// Observation point.
    pub obs_point_id: SampleId,
    /// The port that is reported as sampled, if any.
    pub sampling_port: Option<OfPort>,
    /// Which way the packet goes there.
    pub direction: SampleDirection,
}

/// An IPFIX id: a number, or read from the packet's fields.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SampleId {
    /// A number.
    Number(u32),
    /// Read.
    Field(Subfield),
}

/// Direction of a sample.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum SampleDirection {
    /// Not said.
    #[default]
    Default,
    /// `ingress`
    Ingress,
    /// `egress`
    Egress,
}

/// `ct(..)`
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ct {
    /// `commit`
    pub commit: bool,
    /// `force`
    pub force: bool,
    /// `zone=`: a number, or the low 16 bits of a field.
    pub zone: CtZone,
    /// `table=`: where the packet goes on, tracked. Above 255 it is one of weft's own, which no text names.
    pub table: Option<u16>,
    /// `alg=`
    pub helper: Option<CtHelper>,
    /// `nat` or `nat(..)`
    pub nat: Option<Nat>,
    /// `exec(..)`: actions on `ct_mark` and `ct_label`.
    pub exec: Actions,
}

/// The zone of a `ct`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CtZone {
    /// A number.
    Number(u16),
    /// Read.
    Field(Subfield),
}

impl Default for CtZone {
    fn default() -> Self {
        CtZone::Number(0)
    }
}

/// The protocol helper of a `ct`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CtHelper {
    /// `alg=ftp`
    Ftp,
    /// `alg=tftp`
    Tftp,
}

/// `nat(..)`
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Nat {
    /// `src` or `dst`; `None` translates by what the connection says.
    pub kind: Option<NatKind>,
    /// From this address to that, if any.
    pub addresses: Option<NatAddresses>,
    /// From this port to that, if any; both are equal for one port.
    pub ports: Option<(u16, u16)>,
    /// `persistent`
    pub persistent: bool,
    /// `hash` or `random`
    pub choice: Option<NatChoice>,
}

/// What is translated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum NatKind {
    /// `src`
    Source,
    /// `dst`
    Destination,
}

/// A range of addresses, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum NatAddresses {
    /// IPv4.
    V4(Ipv4Addr, Ipv4Addr),
    /// IPv6.
    V6(Ipv6Addr, Ipv6Addr),
}

/// How a port is chosen from a range.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum NatChoice {
    /// `hash`
    Hash,
    /// `random`
    Random,
}

impl Action {
    /// The actions nested in this one.
    pub fn nested(&self) -> &[Action] {
        match self {
            Action::Clone(actions) | Action::WriteActions(actions) => actions,
            Action::Ct(ct) => &ct.exec,
            _ => &[],
        }
    }
}
