//! What actions read of a packet, and where they can send it.
//!
//! The rule: whatever can make the walk do something else has to be in the key. So an action reads its sources and what
//! it presupposes (a change of `tcp_dst` happens to TCP packets only), and an output reads the VLAN, from which a
//! tunnel's key can follow. What it writes it does not read. The pipeline's own words cost nothing, but those that show a
//! connection's ends, which the packet's own ends decide. What tracking itself reads is the far end of [`Edge::Ct`].

use weft_flow::action::{HashFields, Learn, LearnSource, LearnTarget, SampleId};
use weft_flow::field::Prerequisite;
use weft_flow::fields::KEY_WORDS;
use weft_flow::message::{GroupKind, Selection};
use weft_flow::{Action, Field, KeyMask, Subfield};
use weft_wire::{OfPort, Tci};

use super::reach::Edge;
use super::{Rule, TableId};
use crate::pipeline::{PORTS, TUPLE};

/// What a list of actions (or a whole rule) reads, and where it sends packets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reads {
    /// Bits of the packet.
    pub mask: KeyMask,
    /// Not sorted, perhaps more than once.
    pub edges: Vec<Edge>,
    /// What the rules that it can learn will read, and in which table.
    pub learned: Vec<(TableId, Reads)>,
}

/// Words and bits of what NORMAL reads: both addresses, and of the tag its presence and VLAN.
const NORMAL: [(usize, u64); 2] = [(0, !0xffff), (1, !0xffff | VLAN.1)];
/// The outermost tag's presence and VLAN.
const VLAN: (usize, u64) = (1, (Tci::PRESENT | 0x0fff) as u64);
/// The outermost tag's presence.
const TAGGED: (usize, u64) = (1, Tci::PRESENT as u64);
/// The length class of a packet, for `check_pkt_larger`.
const LENGTH: (usize, u64) = (8, 0xffff);
/// Every label stack entry.
const LABELS: [(usize, u64); 2] = [(11, 0xffff_ffff << 32), (15, u64::MAX)];
/// FIN and RST.
const TCP_END: u128 = 0x005;

/// Whether any of these bits are of the fields that show a connection's ends.
fn shows_ends(bits: &weft_flow::Fields) -> bool {
    TUPLE.into_iter().any(|(word, own)| bits.0.get(word).is_some_and(|word| word & own != 0))
}

impl Reads {
    /// What tracking reads: a connection's ends.
    pub fn of_tracking() -> Reads {
        let mut reads = Reads::default();
        reads.five_tuple();
        reads
    }

    /// What kind of IP packet it is.
    pub fn of_kind() -> Reads {
        let mut reads = Reads::default();
        reads.transport();
        reads
    }

    /// What a rule's match and actions read.
    pub fn of_rule(rule: &Rule) -> Reads {
        let mut reads = Reads { mask: rule.matches.reads(), ..Reads::default() };
        let words = rule.matches.terms().iter().fold(weft_flow::Fields::default(), |mut words, term| {
            if let Some(word) = words.0.get_mut(usize::from(term.word)) {
                *word |= term.mask;
            }
            words
        });
        if shows_ends(&words) {
            reads.five_tuple();
        }
        reads.ports();
        reads.actions(&rule.actions);
        reads
    }

    /// What a group's choice and buckets read.
    pub fn of_group<'a>(
        kind: GroupKind,
        selection: &Selection,
        buckets: impl Iterator<Item = &'a [Action]>,
    ) -> Reads {
        let mut reads = Reads::default();
        if kind == GroupKind::Select {
            reads.selection(selection);
        }
        buckets.for_each(|actions| reads.actions(actions));
        reads
    }

    fn selection(&mut self, selection: &Selection) {
        match selection {
            Selection::Default => self.hash(HashFields::SymmetricL4),
            Selection::DpHash { .. } => self.hash(HashFields::SymmetricL3L4Udp),
            Selection::Hash { fields, .. } => fields.iter().for_each(|&(field, mask)| {
                self.presupposes(field.info().prerequisite);
                let mut bits = weft_flow::Fields::default();
                Subfield::whole(field).set(&mut bits, mask);
                self.fields(&bits);
            }),
        }
    }

    fn bits(&mut self, (word, bits): (usize, u64)) {
        if let Some(word) = self.mask.0.get_mut(word) {
            *word |= bits;
        }
    }

    fn fields(&mut self, bits: &weft_flow::Fields) {
        self.mask.0.iter_mut().zip(bits.0).take(KEY_WORDS).for_each(|(word, bits)| *word |= bits);
        if shows_ends(bits) {
            self.five_tuple();
        }
    }

    fn source(&mut self, source: Subfield) {
        self.fields(&source.mask());
        self.presupposes(source.field.info().prerequisite);
    }

    fn whole(&mut self, field: Field) {
        self.fields(&Subfield::whole(field).mask());
    }

    /// A change of the field: only packets that have it are changed.
    fn target(&mut self, field: Field) {
        self.presupposes(field.info().prerequisite);
        // A tag that is written to comes, goes or changes, by whether there is one.
        let tag = [Field::VlanTci, Field::DlVlan, Field::VlanVid, Field::DlVlanPcp, Field::VlanPcp];
        if tag.contains(&field) {
            self.bits(TAGGED);
        }
    }

    fn presupposes(&mut self, prerequisite: Prerequisite) {
        match prerequisite {
            Prerequisite::None | Prerequisite::Ethernet => {}
            Prerequisite::Vlan => self.bits(TAGGED),
            Prerequisite::Mpls
            | Prerequisite::Arp
            | Prerequisite::Ipv4
            | Prerequisite::Ipv6
            | Prerequisite::Ip
            | Prerequisite::Ct => self.whole(Field::EthType),
            Prerequisite::Tcp
            | Prerequisite::Udp
            | Prerequisite::Sctp
            | Prerequisite::Icmp4
            | Prerequisite::Icmp6 => self.transport(),
            Prerequisite::Nd | Prerequisite::NdSolicit | Prerequisite::NdAdvert => {
                self.transport();
                self.whole(Field::Icmpv6Type);
                self.whole(Field::Icmpv6Code);
            }
        }
    }

    /// Which protocol a packet has, and whether its header is there: only in first fragments.
    fn transport(&mut self) {
        [Field::EthType, Field::NwProto, Field::IpFrag].into_iter().for_each(|field| self.whole(field));
    }

    /// A match on ports is one on whether it is a fragment: fragments show none.
    fn ports(&mut self) {
        let (word, bits) = PORTS;
        if self.mask.0.get(word).is_some_and(|mask| mask & bits != 0) {
            self.whole(Field::IpFrag);
        }
    }

    fn addresses(&mut self) {
        [Field::EthType, Field::Ipv6Src, Field::Ipv6Dst].into_iter().for_each(|field| self.whole(field));
    }

    fn five_tuple(&mut self) {
        self.addresses();
        self.transport();
        [Field::TcpSrc, Field::TcpDst].into_iter().for_each(|field| self.whole(field));
    }

    fn hash(&mut self, fields: HashFields) {
        match fields {
            HashFields::EthSrc => self.whole(Field::EthSrc),
            HashFields::NwSrc => {
                self.whole(Field::EthType);
                self.whole(Field::Ipv6Src);
            }
            HashFields::NwDst => {
                self.whole(Field::EthType);
                self.whole(Field::Ipv6Dst);
            }
            HashFields::SymmetricL3 => self.addresses(),
            HashFields::SymmetricL3L4 | HashFields::SymmetricL3L4Udp => self.five_tuple(),
            HashFields::SymmetricL4 => {
                NORMAL.into_iter().for_each(|bits| self.bits(bits));
                self.five_tuple();
            }
        }
    }

    fn output(&mut self, port: OfPort) {
        match port {
            OfPort::CONTROLLER => return self.edges.push(Edge::Controller),
            OfPort::TABLE => return self.edges.push(Edge::Table(TableId::FIRST)),
            OfPort::NONE => return,
            OfPort::NORMAL => NORMAL.into_iter().for_each(|bits| self.bits(bits)),
            _ => self.bits(VLAN),
        }
        self.edges.push(Edge::Port(port));
    }

    fn dynamic_output(&mut self) {
        self.bits(VLAN);
        self.edges.push(Edge::Dynamic);
    }

    fn actions(&mut self, actions: &[Action]) {
        actions.iter().for_each(|action| self.action(action));
    }

    fn action(&mut self, action: &Action) {
        match action {
            Action::Output(port) | Action::OutputTrunc { port, .. } | Action::Enqueue { port, .. } => {
                self.output(*port)
            }
            Action::OutputReg { source, .. } => {
                self.source(*source);
                self.dynamic_output();
            }
            Action::Bundle(bundle) => {
                self.hash(bundle.fields);
                match bundle.target {
                    Some(target) => self.target(target.field),
                    None => bundle.ports.iter().for_each(|&port| self.output(port)),
                }
            }
            Action::Controller(controller) => {
                self.edges.push(Edge::Controller);
                self.edges.extend(controller.meter.map(Edge::Meter));
            }
            Action::Group(id) => self.edges.push(Edge::Group(*id)),
            Action::Meter(id) => self.edges.push(Edge::Meter(*id)),
            Action::GotoTable(table) => self.edges.push(Edge::Table(TableId::from(*table))),
            Action::Resubmit { table, ct, .. } => {
                self.edges.extend(table.map(|table| Edge::Table(TableId::from(table))));
                if *ct {
                    self.five_tuple();
                }
            }
            Action::Clone(actions) | Action::WriteActions(actions) => self.actions(actions),
            Action::Learn(learn) => self.learn(learn),
            Action::Ct(ct) => self.connection(ct),
            action => self.change(action),
        }
    }

    /// Actions that change the packet or look at it, and send it nowhere.
    fn change(&mut self, action: &Action) {
        match action {
            Action::SetField { field, .. } => self.target(*field),
            Action::Load { target, .. } | Action::Pop(target) => self.target(target.field),
            Action::Push(source) => self.source(*source),
            Action::Move { source, target } => {
                self.source(*source);
                self.target(target.field);
            }
            Action::SetVlanVid(_) | Action::SetVlanPcp(_) => self.bits(TAGGED),
            Action::StripVlan => {
                self.bits(TAGGED);
                self.edges.push(Edge::PopVlan);
            }
            Action::PushVlan(_) => {
                self.bits(TAGGED);
                self.edges.push(Edge::PushVlan);
            }
            Action::SetIpSrc(_) | Action::SetIpDst(_) => self.presupposes(Prerequisite::Ipv4),
            Action::SetIpTos(_) | Action::SetIpEcn(_) | Action::SetIpTtl(_) => {
                self.presupposes(Prerequisite::Ip);
            }
            Action::SetTpSrc(_) | Action::SetTpDst(_) => self.transport(),
            Action::DecTtl(_) => self.source(Subfield::whole(Field::NwTtl)),
            Action::SetMplsLabel(_) | Action::SetMplsTc(_) | Action::SetMplsTtl(_) => {
                self.presupposes(Prerequisite::Mpls);
            }
            Action::DecMplsTtl => self.source(Subfield::whole(Field::MplsTtl)),
            Action::PushMpls(_) => {
                self.labels();
                // Class and time to live of the first label are the IP header's.
                self.whole(Field::NwTos);
                self.whole(Field::NwTtl);
            }
            Action::PopMpls(_) => self.labels(),
            Action::Multipath(multipath) => {
                self.hash(multipath.fields);
                self.target(multipath.target.field);
            }
            Action::CheckPktLarger { target, length } => {
                self.bits(LENGTH);
                self.edges.push(Edge::Length(*length));
                self.target(target.field);
            }
            Action::FinTimeout { .. } => {
                self.transport();
                let mut bits = weft_flow::Fields::default();
                Subfield::whole(Field::TcpFlags).set(&mut bits, TCP_END);
                self.fields(&bits);
            }
            Action::Sample(sample) => {
                for id in [sample.obs_domain_id, sample.obs_point_id] {
                    if let SampleId::Field(source) = id {
                        self.source(source);
                    }
                }
            }
            _ => {}
        }
    }

    fn labels(&mut self) {
        self.whole(Field::EthType);
        LABELS.into_iter().for_each(|bits| self.bits(bits));
    }

    fn connection(&mut self, ct: &weft_flow::action::Ct) {
        if let weft_flow::action::CtZone::Field(zone) = ct.zone {
            self.source(zone);
        }
        self.edges.push(Edge::Ct);
        self.edges.extend(ct.table.map(|table| Edge::Table(TableId::from(table))));
        self.actions(&ct.exec);
    }

    fn learn(&mut self, learn: &Learn) {
        let mut made = Reads::default();
        for spec in &learn.specs {
            if let LearnSource::Field(source) = spec.source {
                self.source(source);
            }
            match spec.target {
                LearnTarget::Match(target) => made.fields(&target.mask()),
                LearnTarget::Load(target) => made.target(target.field),
                LearnTarget::Output => made.dynamic_output(),
            }
        }
        made.ports();
        if (learn.fin_idle_timeout, learn.fin_hard_timeout) != (0, 0) {
            made.change(&Action::FinTimeout { idle: 0, hard: 0 });
        }
        if let Some(result) = learn.result {
            self.target(result.field);
        }
        self.learned.push((TableId::from(learn.table), made));
    }
}
