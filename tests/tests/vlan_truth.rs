//! The committed VLAN truth table is what stock Open vSwitch does.

use weft_tests::ovs::{SCHEMA, StockOvs};
use weft_tests::vlan::{Table, record};
use weft_tests::{Lab, Need, Result};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/vlan-truth.txt");

const HEAD: &str = "\
# What each kind of port does with each kind of frame: VLAN semantics as stock Open vSwitch has them.
#
# How to read it. A block is an ingress port. Its columns are frames that come in there; `learned` is the VLAN in which the
# frame's source address was learned (`-`: the frame was not admitted); each row below is an egress port, and the cell says
# how the frame, a broadcast, leaves it (`-`: it does not). A port of the ingress port's name is a second port, set up alike.
#
#   u        untagged                           0p5      a priority tag (VLAN 0) with PCP 5
#   10       a tag 0x8100, VLAN 10, PCP 0       10p5     the same with PCP 5
#   10+20    two tags, the outer one first      s10+20   the outer tag is 0x88a8
#
# Settings are columns of OVS's Port table; priority-tags is other_config:priority-tags. vlan-limit is the default, 1:
# only the outer tag is looked at.
#
# DEI is not in the table, because OVS has no rule for it: a tag that the datapath does not touch keeps its DEI, and a tag
# that was popped for one egress port and pushed again for the next has lost it, so that in a flood the ports' order decides.
#
# How it was recorded: frames were given to and taken from Open vSwitch 3.1 (Debian 12), userspace datapath, dummy devices
# (`ovs-appctl netdev-dummy/receive`, `options:tx_pcap`), flow table `priority=0 actions=NORMAL`; `learned` is from
# `ovs-appctl fdb/show`. `WEFT_RECORD=1 cargo test -p weft-tests --test vlan_truth` writes this file anew; without
# WEFT_RECORD the test compares it with the installed Open vSwitch, cell by cell.

";

#[test]
fn the_vlan_truth_table_is_what_stock_ovs_does() -> Result {
    let needs = [Need::Tool("ovs-vswitchd"), Need::Tool("ovsdb-server"), Need::File(SCHEMA, "OVS's schema")];
    let Some(lab) = Lab::open("the_vlan_truth_table_is_what_stock_ovs_does", &needs)? else { return Ok(()) };
    let ovs = StockOvs::dummy(&lab, "ovs")?;
    let found = record::record(&ovs)?;
    if std::env::var_os("WEFT_RECORD").is_some() {
        std::fs::write(FILE, format!("{HEAD}{found}"))?;
    }
    let recorded = Table::parse(&std::fs::read_to_string(FILE)?)?;
    assert_eq!(recorded.ports, found.ports);
    for (recorded, found) in recorded.blocks.iter().zip(&found.blocks) {
        assert_eq!(recorded, found, "frames that come in by {}", found.from);
    }
    assert_eq!(recorded.blocks.len(), found.blocks.len());
    Ok(())
}
