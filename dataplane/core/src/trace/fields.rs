//! Fields as text: what a packet is, what of it has changed, what a key mask reads of it.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use weft_flow::field::Format;
use weft_flow::text::{PortNames, print_match};
use weft_flow::{Field, Fields, KeyMask, Match, Subfield};
use weft_wire::{Mac, Tci};

use super::Tag;
use crate::pipeline::execute::has;

/// A field gets another value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Its name.
    pub field: &'static str,
    /// What it was.
    pub from: String,
    /// What it is.
    pub to: String,
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} -> {}", self.field, self.from, self.to)
    }
}

/// The headers of a packet, each bit of them once; which of them a packet has, prerequisites say.
const HEADERS: [Field; 31] = [
    Field::EthSrc,
    Field::EthDst,
    Field::VlanTci,
    Field::EthType,
    Field::InnerVlanTci,
    Field::IpSrc,
    Field::IpDst,
    Field::Ipv6Src,
    Field::Ipv6Dst,
    Field::Ipv6Label,
    Field::NwProto,
    Field::NwTos,
    Field::NwTtl,
    Field::IpFrag,
    Field::TcpSrc,
    Field::TcpDst,
    Field::TcpFlags,
    Field::UdpSrc,
    Field::UdpDst,
    Field::SctpSrc,
    Field::SctpDst,
    Field::IcmpType,
    Field::IcmpCode,
    Field::Icmpv6Type,
    Field::Icmpv6Code,
    Field::ArpOp,
    Field::ArpSpa,
    Field::ArpTpa,
    Field::ArpSha,
    Field::ArpTha,
    Field::NdTarget,
];
/// More of them.
const MORE: [Field; 6] =
    [Field::NdSll, Field::NdTll, Field::MplsLabel, Field::MplsTc, Field::MplsBos, Field::MplsTtl];
/// The tunnel's.
const TUNNEL: [Field; 3] = [Field::TunId, Field::TunSrc, Field::TunDst];
/// What the pipeline keeps beside the packet.
const OWN: [Field; 22] = [
    Field::Metadata,
    Field::PktMark,
    Field::CtState,
    Field::CtZone,
    Field::CtMark,
    Field::CtLabel,
    Field::Reg0,
    Field::Reg1,
    Field::Reg2,
    Field::Reg3,
    Field::Reg4,
    Field::Reg5,
    Field::Reg6,
    Field::Reg7,
    Field::Reg8,
    Field::Reg9,
    Field::Reg10,
    Field::Reg11,
    Field::Reg12,
    Field::Reg13,
    Field::Reg14,
    Field::Reg15,
];

fn headers() -> impl Iterator<Item = Field> {
    HEADERS.into_iter().chain(MORE)
}

fn exists(field: Field, fields: &Fields) -> bool {
    has(fields, field.info().prerequisite)
}

/// Everything that differs.
pub(super) fn changes(before: &Fields, after: &Fields) -> Vec<Change> {
    if before == after {
        return Vec::new();
    }
    differences(headers().chain(TUNNEL).chain(OWN), before, after)
}

/// Header fields that differ, tags aside.
pub(super) fn header_changes(before: &Fields, after: &Fields) -> Vec<Change> {
    let tags = [Field::VlanTci, Field::InnerVlanTci];
    differences(headers().filter(|field| !tags.contains(field)), before, after)
}

fn differences(fields: impl Iterator<Item = Field>, before: &Fields, after: &Fields) -> Vec<Change> {
    let change = |field: Field| {
        let whole = Subfield::whole(field);
        let (old, new) = (whole.get(before), whole.get(after));
        let differs = old != new && exists(field, after);
        differs.then(|| Change { field: name(field), from: value(field, old), to: value(field, new) })
    };
    fields.filter_map(change).collect()
}

fn name(field: Field) -> &'static str {
    match field {
        Field::VlanTci => "vlan",
        Field::InnerVlanTci => "inner_vlan",
        field => {
            let info = field.info();
            // The names that dumps have.
            let dumped = ["dl_", "nw_"].iter().any(|start| info.alias.starts_with(start));
            if dumped { info.alias } else { info.name }
        }
    }
}

fn value(field: Field, value: u128) -> String {
    if matches!(field, Field::VlanTci | Field::InnerVlanTci) {
        return tag(Tci(value as u16)).to_string();
    }
    match field.info().format {
        Format::Mac => Mac::from_u64(value as u64).to_string(),
        Format::Ipv4 => Ipv4Addr::from_bits(value as u32).to_string(),
        Format::Ipv6 => Ipv6Addr::from_bits(value).to_string(),
        Format::Decimal => value.to_string(),
        _ => format!("{value:#x}"),
    }
}

/// A tag as people say it.
pub(super) fn tag(tci: Tci) -> Tag {
    Tag { tag: tci.is_tagged().then(|| (tci.vid().get(), tci.pcp())) }
}

/// The packet as a match, which port it came in by included.
pub fn packet_text(fields: &Fields, ports: &dyn PortNames) -> String {
    let mut mask = Fields::default();
    let always = [Field::InPort, Field::EthSrc, Field::EthDst, Field::VlanTci, Field::EthType];
    let get = |field| Subfield::whole(field).get(fields);
    let wanted = |field: &Field| {
        exists(*field, fields) && *field != Field::InnerVlanTci
            || *field == Field::InnerVlanTci && get(*field) != 0
    };
    let tunnel = TUNNEL.into_iter().filter(|&field| get(field) != 0);
    for field in always.into_iter().chain(headers().filter(wanted)).chain(tunnel) {
        Subfield::whole(field).set(&mut mask, u128::MAX);
    }
    print_match(&Match::new(&mask, fields), ports)
}

/// Which fields of this packet a mask reads.
pub(super) fn read_fields(mask: &KeyMask, fields: &Fields) -> Vec<&'static str> {
    let mut read = Fields::default();
    read.0.iter_mut().zip(mask.0).for_each(|(word, bits)| *word = bits);
    let is_read = |field: &Field| exists(*field, fields) && Subfield::whole(*field).get(&read) != 0;
    headers().chain(TUNNEL).filter(is_read).map(name).collect()
}
