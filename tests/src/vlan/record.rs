//! Asks a running Open vSwitch (dummy devices, userspace datapath, NORMAL) what it does with every frame of the table.
//!
//! Each frame is a broadcast with a source address of its own: it is flooded to every port of its VLAN, and no cached flow
//! or learned address of another frame bears on it.

use super::{Block, Port, Table, Tags};
use crate::cmd::{Error, Result};
use crate::ovs::StockOvs;
use crate::pcap;
use crate::wait_for;
use std::collections::HashMap;
use std::time::Duration;

/// The ports, by name and setting. Those with priority tags differ on egress only, and open no block.
pub const PORTS: &[(&str, &str)] = &[
    ("access-10", "tag=10"),
    ("access-20", "tag=20"),
    ("access-0", "tag=0"),
    ("access-4095", "tag=4095"),
    ("access-no-tag", "vlan_mode=access"),
    ("access-10-trunks-20", "tag=10 trunks=20"),
    ("trunk-all", ""),
    ("trunk-10,20", "trunks=10,20"),
    ("trunk-0,10", "trunks=0,10"),
    ("trunk-tag-10", "vlan_mode=trunk tag=10"),
    ("trunk-4095", "vlan_mode=trunk tag=4095 trunks=4095"),
    ("tagged-10", "vlan_mode=native-tagged tag=10"),
    ("tagged-10,20", "vlan_mode=native-tagged tag=10 trunks=20"),
    ("tagged-no-tag", "vlan_mode=native-tagged"),
    ("untagged-10", "vlan_mode=native-untagged tag=10"),
    ("untagged-10,20", "vlan_mode=native-untagged tag=10 trunks=20"),
    ("untagged-no-tag", "vlan_mode=native-untagged"),
    ("access-10-nonzero", "tag=10 priority-tags=if-nonzero"),
    ("access-10-always", "tag=10 priority-tags=always"),
    ("untagged-10-nonzero", "vlan_mode=native-untagged tag=10 priority-tags=if-nonzero"),
    ("untagged-10-always", "vlan_mode=native-untagged tag=10 priority-tags=always"),
    ("trunk-all-nonzero", "priority-tags=if-nonzero"),
    ("trunk-all-always", "priority-tags=always"),
    ("tagged-10-always", "vlan_mode=native-tagged tag=10 priority-tags=always"),
];

/// The frames: untagged, priority-tagged, tagged with a VLAN of some, of other and of no port, the reserved VLAN, two tags.
pub const FRAMES: &[&str] = &["u", "0", "0p5", "10", "10p5", "20", "30", "4095", "10+20", "0+10", "s10+20"];

/// Records the whole table from `ovs`, which must be fresh.
pub fn record(ovs: &StockOvs) -> Result<Table> {
    let ports: Vec<Port> =
        PORTS.iter().map(|(name, settings)| Port::parse(name, settings)).collect::<Result<_>>()?;
    let recorder = Recorder { ovs, ports };
    recorder.build()?;
    let ingress = recorder.ports.iter().filter(|port| port.priority_tags.is_none());
    let blocks = ingress.enumerate().map(|(n, port)| recorder.block(n, port)).collect::<Result<_>>()?;
    Ok(Table { ports: recorder.ports, blocks })
}

struct Recorder<'a> {
    ovs: &'a StockOvs,
    ports: Vec<Port>,
}

/// Devices of the bridge: `in` is set up anew for each block, `witness` shows that all before it is through, `outN` is
/// egress port N.
impl Recorder<'_> {
    fn build(&self) -> Result<()> {
        self.ovs.vsctl(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=dummy"])?;
        for device in ["in", "witness"] {
            self.ovs.vsctl(&["add-port", "br0", device, "--", "set", "interface", device, "type=dummy"])?;
        }
        for (n, port) in self.ports.iter().enumerate() {
            let device = format!("out{n}");
            let pcap = format!("options:tx_pcap={}", self.pcap(n).display());
            self.ovs.vsctl(&[
                "add-port",
                "br0",
                &device,
                "--",
                "set",
                "interface",
                &device,
                "type=dummy",
                &pcap,
            ])?;
            self.set_up(&device, port)?;
        }
        Ok(())
    }

    fn pcap(&self, n: usize) -> std::path::PathBuf {
        self.ovs.dir().join(format!("out{n}.pcap"))
    }

    fn set_up(&self, device: &str, port: &Port) -> Result<()> {
        let settings = port.to_string().replace("priority-tags", "other_config:priority-tags");
        let clear = ["clear", "port", device, "tag", "--", "clear", "port", device, "trunks"];
        self.ovs.vsctl(&[&clear[..], &["--", "clear", "port", device, "vlan_mode"]].concat())?;
        if !settings.is_empty() {
            let words: Vec<&str> = settings.split_whitespace().collect();
            self.ovs.vsctl(&[&["set", "port", device], &words[..]].concat())?;
        }
        Ok(())
    }

    fn block(&self, number: usize, port: &Port) -> Result<Block> {
        self.set_up("in", port)?;
        let frames: Vec<Tags> = FRAMES.iter().map(|text| text.parse()).collect::<Result<_>>()?;
        let sources: Vec<[u8; 6]> = (0..frames.len()).map(|n| source(number, n)).collect();
        for (frame, source) in frames.iter().zip(&sources) {
            self.ovs.receive("in", &frame.frame(*source))?;
        }
        self.drain(number)?;
        let learned = self.learned()?;
        let learned = sources.iter().map(|source| learned.get(source).copied()).collect();
        let to = (0..self.ports.len()).map(|n| self.row(n, &sources)).collect::<Result<_>>()?;
        Ok(Block { from: port.name.clone(), frames, learned, to })
    }

    /// Two frames, one after the other, through the switch: when the second is out, the round of the datapath that took in
    /// everything before the first is over.
    fn drain(&self, number: usize) -> Result<()> {
        let trunk = self.ports.iter().position(|port| port.name == "trunk-all");
        let trunk = trunk.ok_or_else(|| Error::new("the table has no port `trunk-all`"))?;
        for n in [100, 101] {
            let source = source(number, n);
            self.ovs.receive("witness", &Tags::default().frame(source))?;
            let seen = || Ok(self.sent(trunk)?.contains_key(&source));
            wait_for("the witness frame", Duration::from_secs(5), seen)?;
        }
        Ok(())
    }

    /// What egress port `n` sent, by source address.
    fn sent(&self, n: usize) -> Result<HashMap<[u8; 6], Tags>> {
        let file = std::fs::read(self.pcap(n))?;
        Ok(pcap::frames(&file).filter_map(Tags::of).collect())
    }

    fn row(&self, n: usize, sources: &[[u8; 6]]) -> Result<(String, Vec<Option<Tags>>)> {
        let sent = self.sent(n)?;
        Ok((self.ports[n].name.clone(), sources.iter().map(|source| sent.get(source).cloned()).collect()))
    }

    /// `ovs-appctl fdb/show`: the VLAN of every learned address.
    fn learned(&self) -> Result<HashMap<[u8; 6], u16>> {
        let text = self.ovs.appctl(&["fdb/show", "br0"])?;
        let line = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            Some((parse_mac(words.get(2)?)?, words.get(1)?.parse().ok()?))
        };
        Ok(text.lines().skip(1).filter_map(line).collect())
    }
}

fn source(block: usize, frame: usize) -> [u8; 6] {
    [2, 0, 0, 0, block as u8, frame as u8]
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}
