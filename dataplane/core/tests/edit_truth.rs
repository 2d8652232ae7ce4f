//! Edited packets against those that leave stock Open vSwitch: fields of each layer, tags, labels, TTLs, on packets of
//! each protocol, sound and broken. Octet by octet, checksums included.
//!
//! `tests/data/edit-truth.txt` says what was recorded and how. Where weft means to differ, the case is listed in
//! [`differs`], with its reason, and `docs/semantics.md` says so.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::{Ipv4Addr, Ipv6Addr};

use weft_core::edit::{Edit, Edits, apply};
use weft_flow::{Field, Fields, Match, Subfield};
use weft_io::{FrameCache, FramePool};
use weft_wire::{DropReason, EtherType};

const TRUTH: &str = include_str!("../../../tests/data/edit-truth.txt");

struct Case {
    text: &'static str,
    actions: &'static str,
    /// A frame's number, and what becomes of it.
    outcomes: Vec<(usize, &'static str)>,
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn truth() -> (Vec<Vec<u8>>, Vec<Case>) {
    let (mut frames, mut cases) = (Vec::new(), Vec::new());
    for line in TRUTH.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (first, rest) = line.split_once(' ').unwrap();
        match first {
            "frame" => frames.push(unhex(rest.split_once(' ').unwrap().1)),
            "case" => {
                let actions = rest.split_once(' ').unwrap().1;
                cases.push(Case { text: rest, actions, outcomes: Vec::new() });
            }
            number => cases.last_mut().unwrap().outcomes.push((number.parse().unwrap(), rest)),
        }
    }
    (frames, cases)
}

/// The octets that leave; `None` for a drop.
fn expected(frame: &[u8], outcome: &str) -> Option<Vec<u8>> {
    let mut octets = frame.to_vec();
    if outcome == "drop" {
        return None;
    }
    for change in outcome.split(' ').filter(|change| *change != "=") {
        let (place, new) = change.split_once(':').unwrap();
        match place.split_once('-') {
            Some((from, to)) => {
                octets.splice(from.parse::<usize>().unwrap()..to.parse().unwrap(), unhex(new));
            }
            None => {
                let (at, new) = (place.parse::<usize>().unwrap(), unhex(new));
                octets[at..at + new.len()].copy_from_slice(&new);
            }
        }
    }
    Some(octets)
}

fn number(text: &str) -> u128 {
    if let Some(hex) = text.strip_prefix("0x") {
        return u128::from_str_radix(hex, 16).unwrap();
    }
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return ip.to_bits().into();
    }
    if text.len() == 17 && text.split(':').count() == 6 {
        return text.split(':').fold(0, |value, octet| value << 8 | u128::from_str_radix(octet, 16).unwrap());
    }
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        return ip.to_bits();
    }
    text.parse().unwrap()
}

fn set_bits(field: Field, value: u128, mask: u128) -> Edit {
    let (mut masks, mut values) = (Fields::default(), Fields::default());
    Subfield::whole(field).set(&mut masks, mask);
    Subfield::whole(field).set(&mut values, value);
    Edit::Set(Match::new(&masks, &values).terms().into())
}

/// The edits of ovs-ofctl's actions. A label that is pushed starts as a copy of the outermost one, as a walk would have
/// it, which knows the fields of the packet.
fn edits(actions: &str, frame: &[u8]) -> Vec<Edit> {
    let mut entry = label(frame);
    let mut edits = Vec::new();
    for action in actions.split(',') {
        let (name, argument) = action.split_once([':', '(']).unwrap_or((action, ""));
        let argument = argument.trim_end_matches(')');
        let mut set = |name: &str, value: u128, mask: Option<u128>| {
            let field = Field::by_name(name).unwrap();
            if let Some(entry) = &mut entry {
                match field {
                    Field::MplsLabel => *entry = *entry & 0xfff | (value as u32) << 12,
                    Field::MplsTc => *entry = *entry & !0xe00 | (value as u32) << 9,
                    Field::MplsTtl => *entry = *entry & !0xff | value as u32,
                    _ => {}
                }
            }
            edits.push(set_bits(field, value, mask.unwrap_or(field.max())));
        };
        match name {
            "set_field" => {
                let (value, field) = argument.split_once("->").unwrap();
                let (value, mask) = value.split_once('/').unwrap_or((value, ""));
                set(field, number(value), (!mask.is_empty()).then(|| number(mask)));
            }
            "mod_nw_ttl" => set("nw_ttl", number(argument), None),
            "set_mpls_ttl" => set("mpls_ttl", number(argument), None),
            "dec_ttl" => edits.push(Edit::DecTtl),
            "dec_mpls_ttl" => edits.push(Edit::DecMplsTtl),
            "pop_vlan" => edits.push(Edit::PopVlan),
            "push_vlan" => {
                edits.push(Edit::PushVlan { tpid: EtherType(number(argument) as u16), tci: 0x1000 });
            }
            "pop_mpls" => edits.push(Edit::PopMpls { ether_type: EtherType(number(argument) as u16) }),
            "push_mpls" => {
                let new = entry.map_or(0x100, |outer| outer & !0x100);
                entry = Some(new);
                edits.push(Edit::PushMpls { ether_type: EtherType(number(argument) as u16), entry: new });
            }
            "truncate" => edits.push(Edit::Truncate(number(argument) as u16)),
            _ => panic!("{action}"),
        }
    }
    edits
}

/// The outermost label stack entry.
fn label(frame: &[u8]) -> Option<u32> {
    let (at, ether_type) = link(frame);
    let entry = frame.get(at..at + 4).filter(|_| matches!(ether_type, 0x8847 | 0x8848))?;
    Some(u32::from_be_bytes(entry.try_into().unwrap()))
}

fn edited(frame: &[u8], edits: &[Edit], frames: &mut FrameCache) -> Result<Vec<u8>, DropReason> {
    let mut packet = frames.alloc().unwrap();
    packet.append(frame).unwrap();
    let outcome = apply(&Edits::new(edits), &mut packet, frames).map(|()| packet.data().to_vec());
    frames.free(packet);
    outcome
}

/// Where a frame's tags end, and the type there.
fn link(frame: &[u8]) -> (usize, u16) {
    let at = (12..).step_by(4).find(|&at| !matches!(frame[at..at + 2], [0x81, 0] | [0x88, 0xa8])).unwrap();
    (at + 2, u16::from_be_bytes([frame[at], frame[at + 1]]))
}

/// Why weft means to do something else than Open vSwitch; `None` if it doesn't.
fn differs(actions: &str, frame: &[u8]) -> Option<&'static str> {
    let (at, ether_type) = link(frame);
    let packet = &frame[at..];
    let edits = |names: &[&str]| names.iter().any(|name| actions.contains(name));
    match ether_type {
        0x800 if packet[6] & 0x1f != 0 || packet[7] != 0 => {
            let transport = packet[9] == 6 || packet[9] == 17 || packet[9] == 1;
            (transport && edits(&["ip_src", "ip_dst", "icmp_type"]))
                .then_some("a later fragment has no transport header: its payload stays")
        }
        0x86dd if edits(&["ipv6_src", "ipv6_dst"]) => {
            let (mut next, mut at) = (packet[6], 40);
            while let (0 | 43 | 44 | 60, Some(&[following, units, third, fourth])) =
                (next, packet.get(at..at + 4).and_then(<[u8]>::first_chunk))
            {
                if next == 43 && fourth > 0 && edits(&["ipv6_src"]) {
                    return Some("behind a routing header the checksum covers the source all the same");
                }
                if next == 44 && (third, fourth & 0xf9) == (0, 0) {
                    return Some("a fragment that is the whole packet has a checksum that covers it");
                }
                at += if next == 44 { 8 } else { (usize::from(units) + 1) * 8 };
                next = following;
            }
            None
        }
        0x8035 if edits(&["arp_"]) => Some("Open vSwitch leaves RARP as it is"),
        0x806 => {
            let known = packet.starts_with(&[0, 1, 8, 0, 6, 4]);
            let operation = u16::from_be_bytes([packet[6], packet[7]]);
            (edits(&["arp_"]) && (!known || !(1..256).contains(&operation)))
                .then_some("ARP for Ethernet and IPv4 is edited whatever its operation, and no other")
        }
        0x8847 | 0x8848 if edits(&["push_mpls", "pop_mpls"]) => {
            let entries = packet.chunks_exact(4).map(|entry| entry[2] & 1);
            (entries.take_while(|&bottom| bottom == 0).count() >= 2)
                .then_some("Open vSwitch drops what has more labels than it can keep")
        }
        0..0x600 if edits(&["push_mpls"]) => Some("behind an 802.2 header the type is the header's"),
        _ => (edits(&["vlan_vid", "vlan_pcp"]) && frame[12] == 0x81 && frame[14] & 0x10 != 0)
            .then_some("a tag that is changed keeps its DEI"),
    }
}

#[test]
fn edited_packets_are_those_that_leave_open_vswitch() {
    let (frames, cases) = truth();
    let pool = FramePool::new(FramePool::MIN_FRAMES).unwrap();
    let mut cache = pool.cache();
    let (mut compared, mut different) = (0, std::collections::BTreeMap::new());
    for case in &cases {
        for &(number, outcome) in &case.outcomes {
            let frame = &frames[number];
            let ours = edited(frame, &edits(case.actions, frame), &mut cache).ok();
            let theirs = expected(frame, outcome);
            if let Some(reason) = differs(case.actions, frame).filter(|_| ours != theirs) {
                *different.entry(reason).or_insert(0) += 1;
                continue;
            }
            assert_eq!(ours, theirs, "{}, frame {number}: {frame:02x?}", case.text);
            compared += 1;
        }
    }
    assert!(compared > 6800 && different.len() == 8, "{compared}, {different:#?}");
}
