//! VLAN semantics, cell by cell, against the truth table that was recorded from stock Open vSwitch
//! (`tests/data/vlan-truth.txt`, whose head explains it).

#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use rig::{Rig, vid, vids};
use weft_core::vlan::{PriorityTags, VlanMode, VlanSet};
use weft_tests::vlan::{Block, Port, Table, Tags};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/vlan-truth.txt");

/// Open vSwitch's columns, with its defaults: a tag without a mode is an access port, no tag a trunk; the native modes
/// and access without a tag take VLAN 0; no list of trunks is all VLANs.
fn mode(port: &Port) -> VlanMode {
    let tag = vid(port.tag.unwrap_or(0));
    let trunks = (!port.trunks.is_empty()).then(|| vids(&port.trunks));
    match port.mode.as_deref() {
        Some("access") => VlanMode::Access(tag),
        None if port.tag.is_some() => VlanMode::Access(tag),
        Some("trunk") | None => VlanMode::Trunk(trunks.unwrap_or_else(VlanSet::all)),
        Some("native-tagged") => VlanMode::native(tag, trunks, true),
        Some("native-untagged") => VlanMode::native(tag, trunks, false),
        Some(other) => panic!("vlan_mode={other} is not one of Open vSwitch's four"),
    }
}

fn priority_tags(port: &Port) -> PriorityTags {
    match port.priority_tags.as_deref() {
        None | Some("no") => PriorityTags::Never,
        Some("if-nonzero") => PriorityTags::IfNonzero,
        Some("always") => PriorityTags::Always,
        Some(other) => panic!("priority-tags={other} is not one of Open vSwitch's three"),
    }
}

/// The ingress port's number; egress ports are 0 and up.
const IN: u16 = 200;

fn switch(table: &Table, from: &Port) -> Rig {
    let mut rig = Rig::with_bridge(1);
    for (id, port) in (0..).zip(&table.ports) {
        rig.add_device(id, mode(port));
        rig.port(id).priority_tags = priority_tags(port);
    }
    rig.add_device(IN, mode(from));
    rig.publish();
    rig
}

fn observe(table: &Table, recorded: &Block) -> Block {
    let from = table.ports.iter().find(|port| port.name == recorded.from).unwrap();
    let mut rig = switch(table, from);
    let mut block = Block {
        from: recorded.from.clone(),
        frames: recorded.frames.clone(),
        learned: Vec::new(),
        to: table.ports.iter().map(|port| (port.name.clone(), Vec::new())).collect(),
    };
    for (number, tags) in (0..).zip(&recorded.frames) {
        let source = [2, 0, 0, 0, 0, number];
        rig.send(IN, tags.frame(source));
        rig.run();
        let learned = rig.fdb().entries().into_iter().find(|entry| entry.mac.0 == source);
        block.learned.push(learned.map(|entry| entry.vid.get()));
        for (id, (_, cells)) in (0..).zip(&mut block.to) {
            let sent = rig.sent(id);
            assert!(sent.len() <= 1, "a flood sends each port one copy");
            cells.push(sent.first().map(|frame| Tags::of(frame).unwrap().1));
        }
    }
    block
}

#[test]
fn every_cell_of_the_truth_table_is_as_open_vswitch_has_it() {
    let table = Table::parse(&std::fs::read_to_string(FILE).unwrap()).unwrap();
    assert!(table.blocks.len() > 10, "{} blocks", table.blocks.len());
    let mut wrong = Vec::new();
    let mut cells = 0;
    for recorded in &table.blocks {
        let found = observe(&table, recorded);
        let mut compare = |row: &str, frame: &Tags, expected: Option<String>, found: Option<String>| {
            cells += 1;
            if expected != found {
                let cell = |cell: Option<String>| cell.unwrap_or_else(|| "-".into());
                wrong.push(format!("{} {frame} {row}: {} is {}", recorded.from, cell(expected), cell(found)));
            }
        };
        for (at, frame) in recorded.frames.iter().enumerate() {
            let learned = |block: &Block| block.learned[at].map(|vlan| vlan.to_string());
            compare("learned", frame, learned(recorded), learned(&found));
            for ((name, expected), (_, found)) in recorded.to.iter().zip(&found.to) {
                let cell = |cells: &Vec<Option<Tags>>| cells[at].as_ref().map(Tags::to_string);
                compare(name, frame, cell(expected), cell(found));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {cells} cells differ:\n{}", wrong.len(), wrong.join("\n"));
}
