//! The case in stock Open vSwitch: two bridges with dummy devices, and a patch between them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use weft_tests::cmd::{SHORT, run};
use weft_tests::unixctl::Control;
use weft_tests::{Lab, Result, StockOvs, pcap};

use crate::case::{Case, Offer, Outcome, Tables, hex};
use crate::rules::LEARNED;
use crate::{PATCHES, PORTS};

/// The type of the frames that stand between packets.
const MARK: [u8; 2] = [0x88, 0xb5];
/// Actions that have to be said in OpenFlow 1.0: later versions refuse them where the match doesn't promise a tag, or have
/// other words for them.
pub const OLD: [&str; 5] = ["mod_vlan", "mod_tp", "pop_vlan", "strip_vlan", "pop_mpls"];
/// Those that it hasn't, and masks, which it forgets.
pub const NEW: [&str; 6] = ["write_", "clear_", "goto_", "group:", "push_vlan", "/"];

pub struct Stock {
    /// Ends when this goes.
    _ovs: StockOvs,
    control: Control,
    folder: std::path::PathBuf,
    /// How much of each port's file has been read.
    read: Vec<u64>,
    marks: u32,
}

/// Whether a rule's actions have one of these words.
pub fn has(rule: &str, words: &[&str]) -> bool {
    let actions = rule.split_once("actions=").map_or(rule, |(_, actions)| actions);
    words.iter().any(|word| actions.contains(word))
}

fn is_old(rule: &str) -> bool {
    has(rule, &OLD) && !has(rule, &NEW)
}

fn name(port: u16) -> String {
    format!("p{port}")
}

impl Stock {
    pub fn start(lab: &Lab) -> Result<Stock> {
        let ovs = StockOvs::dummy(lab, "ovs")?;
        let folder = ovs.dir().to_owned();
        ovs.vsctl(&["set", "Open_vSwitch", ".", "other_config:vlan-limit=2"])?;
        for bridge in ["br0", "br1"] {
            let settings = ["datapath_type=dummy", "fail-mode=secure"];
            ovs.vsctl(&[&["add-br", bridge, "--", "set", "bridge", bridge][..], &settings].concat())?;
        }
        for port in PORTS {
            let (device, bridge) = (name(port.number), format!("br{}", port.bridge));
            let number = format!("ofport_request={}", port.number);
            let file = format!("options:tx_pcap={}", folder.join(&device).with_extension("pcap").display());
            let settings: Vec<&str> = port.columns.split_whitespace().collect();
            let add = [&["add-port", &bridge, &device][..], &settings].concat();
            let set = ["--", "set", "interface", &device, "type=dummy", &number, &file];
            ovs.vsctl(&[&add[..], &set].concat())?;
        }
        for (bridge, number) in PATCHES.into_iter().enumerate() {
            let (device, bridge) = (name(number), format!("br{bridge}"));
            let peer = PATCHES.into_iter().find(|&other| other != number).map_or_else(String::new, name);
            let (number, peer) = (format!("ofport_request={number}"), format!("options:peer={peer}"));
            let set = ["--", "set", "interface", &device, "type=patch", &number, &peer];
            ovs.vsctl(&[&["add-port", &bridge, &device][..], &set].concat())?;
        }
        let control = ovs.control()?;
        let read = vec![24; PORTS.len()];
        Ok(Stock { _ovs: ovs, control, folder, read, marks: 0 })
    }

    fn ofctl(&self, version: &str, words: [&str; 3]) -> Result<()> {
        let [command, bridge, file] = words;
        let target = format!("unix:{}", self.folder.join(bridge).with_extension("mgmt").display());
        let output = run(&["ovs-ofctl", "-O", version, command, &target, file], SHORT)?;
        match output.success() {
            true => Ok(()),
            false => Err(weft_tests::Error::new(format!("{command} {file}: {}", output.stderr))),
        }
    }

    /// Gives both bridges the case's rules and no others, and no addresses. A rule that Open vSwitch refuses is taken out
    /// of the case; returned is what it said.
    pub fn load(&mut self, case: &mut Case) -> Result<Vec<String>> {
        let mut refused = Vec::new();
        for (number, tables) in (0..).zip(&mut case.tables) {
            let bridge = format!("br{number}");
            self.fill(&bridge, tables, &mut refused)?;
            self.add_mark_rules(number)?;
        }
        self.flush()?;
        self.control.call("revalidator/purge", &[])?;
        Ok(refused)
    }

    fn fill(&self, bridge: &str, tables: &mut Tables, refused: &mut Vec<String>) -> Result<()> {
        let file = self.folder.join("lines").display().to_string();
        self.ofctl("OpenFlow10", ["del-flows", bridge, ""])?;
        self.ofctl("OpenFlow15", ["del-groups", bridge, ""])?;
        std::fs::write(&file, tables.groups.join("\n"))?;
        self.ofctl("OpenFlow15", ["add-groups", bridge, &file])?;
        let version = |rule: &String| if is_old(rule) { "OpenFlow10" } else { "OpenFlow14" };
        for group in ["OpenFlow10", "OpenFlow14"] {
            let rules: Vec<_> = tables.rules.iter().filter(|rule| version(rule) == group).cloned().collect();
            std::fs::write(&file, rules.join("\n"))?;
            if self.ofctl(group, ["add-flows", bridge, &file]).is_ok() {
                continue;
            }
            tables.rules.retain(|rule| {
                let result = if version(rule) == group {
                    self.ofctl(group, ["add-flow", bridge, rule])
                } else {
                    Ok(())
                };
                refused.extend(result.as_ref().err().map(|error| format!("{rule}\n  {error}")));
                result.is_ok()
            });
        }
        Ok(())
    }

    /// What stands between packets leaves by every port.
    fn add_mark_rules(&self, bridge: u16) -> Result<()> {
        let everywhere = PORTS.iter().filter(|port| port.bridge == bridge);
        let outputs: Vec<String> = everywhere.map(|port| format!("output:{}", port.number)).collect();
        let (outputs, patch) = (outputs.join(","), PATCHES[usize::from(bridge)]);
        for rule in [
            format!("priority=65535,dl_type=0x88b5,in_port={patch},actions={outputs}"),
            format!("priority=65534,dl_type=0x88b5,actions={outputs},in_port,output:{patch}"),
        ] {
            self.ofctl("OpenFlow14", ["add-flow", &format!("br{bridge}"), &rule])?;
        }
        Ok(())
    }

    /// Hands in packets, one after the other. What Open vSwitch has cached is forgotten before each, so that rules and
    /// addresses that were learned count at once.
    pub fn exchange(&mut self, offers: &[Offer]) -> Result<Vec<Outcome>> {
        for offer in offers {
            self.marks += 1;
            let mark = self.mark();
            let words = [&*name(offer.port), &*hex(&offer.octets), &*hex(&mark)];
            let answer = self.control.call("netdev-dummy/receive", &words)?;
            assert!(answer.trim().is_empty(), "{answer}");
            self.wait(PORTS[0].number)?;
            self.control.call("revalidator/purge", &[])?;
        }
        let mut outcomes = vec![Outcome::new(); offers.len()];
        for (at, port) in PORTS.iter().enumerate() {
            self.wait(port.number)?;
            self.collect(at, &mut outcomes)?;
        }
        Ok(outcomes)
    }

    /// The frame that comes behind the packet.
    fn mark(&self) -> Vec<u8> {
        [&[0xff; 12][..], &MARK, &self.marks.to_be_bytes(), &[0; 42]].concat()
    }

    fn open(&self, port: u16) -> Result<File> {
        Ok(File::open(self.folder.join(name(port)).with_extension("pcap"))?)
    }

    /// Until the mark has left by a port.
    fn wait(&self, port: u16) -> Result<()> {
        let (mark, end) = (self.mark(), Instant::now() + SHORT);
        let mut file = self.open(port)?;
        let mut last = vec![0; mark.len()];
        while Instant::now() < end {
            let there = file.seek(SeekFrom::End(-(mark.len() as i64))).is_ok();
            if there && file.read_exact(&mut last).is_ok() && last == mark {
                return Ok(());
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Err(weft_tests::Error::new(format!("a mark is lost at port {port}")))
    }

    fn collect(&mut self, at: usize, outcomes: &mut [Outcome]) -> Result<()> {
        let number = PORTS[at].number;
        let mut file = self.open(number)?;
        let mut octets = vec![0; 24];
        file.seek(SeekFrom::Start(self.read[at]))?;
        self.read[at] += file.read_to_end(&mut octets)? as u64;
        let mut packet = 0;
        for frame in pcap::frames(&octets) {
            if frame[12..14] == MARK {
                packet += 1;
                continue;
            }
            let outcome = outcomes.get_mut(packet).expect("a frame behind the last mark");
            outcome.entry(number).or_default().push(frame.to_vec());
        }
        assert_eq!(packet, outcomes.len(), "marks at port {number}");
        Ok(())
    }

    /// Forgets all stations, and rules that were learned.
    pub fn forget(&mut self) -> Result<()> {
        for bridge in ["br0", "br1"] {
            self.ofctl("OpenFlow10", ["del-flows", bridge, &format!("table={LEARNED}")])?;
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        self.control.call("fdb/flush", &["br0"])?;
        self.control.call("fdb/flush", &["br1"])?;
        Ok(())
    }

    /// What `ofproto/trace` says. It makes Open vSwitch learn, and a trace of some actions sends frames: they are skipped.
    pub fn trace(&mut self, offer: &Offer) -> Result<String> {
        let bridge = PORTS.iter().find(|port| port.number == offer.port).map_or(0, |port| port.bridge);
        let flow = format!("in_port={}", offer.port);
        let told =
            self.control.call("ofproto/trace", &[&format!("br{bridge}"), &flow, &hex(&offer.octets)])?;
        self.marks += 1;
        let mark = hex(&self.mark());
        self.control.call("netdev-dummy/receive", &[&name(offer.port), &mark])?;
        for (at, port) in PORTS.iter().enumerate() {
            self.wait(port.number)?;
            self.read[at] = self.open(port.number)?.metadata()?.len();
        }
        Ok(told)
    }

    /// The numbers of the ports by their numbers in the datapath.
    pub fn numbers(&mut self) -> Result<BTreeMap<u16, u16>> {
        let shown = self.control.call("dpif/show", &[])?;
        let pair = |line: &str| {
            let mut words = line.split_whitespace();
            let port = words.next()?.strip_prefix('p')?.parse().ok()?;
            let (_, there) = words.next()?.strip_suffix(':')?.split_once('/')?;
            Some((there.parse().ok()?, port))
        };
        Ok(shown.lines().filter_map(pair).collect())
    }
}
