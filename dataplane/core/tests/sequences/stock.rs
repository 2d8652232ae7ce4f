//! The case in stock Open vSwitch: one bridge with dummy devices, and time that the test tells.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use weft_tests::cmd::{SHORT, ok};
use weft_tests::unixctl::Control;
use weft_tests::{Lab, Result, StockOvs, pcap};

use crate::case::{Case, Outcome, Recorded, Setting, Step};
use crate::rig::octets::hex;

/// The type of the frames that stand between packets.
const MARK: [u8; 2] = [0x88, 0xb5];
/// Longer than any fragment or idle cached flow is kept.
const LONG: u64 = 90_000;

/// The type of its datapath.
const TYPE: &str = "dummy";
/// Zones for which something is set.
const ZONES: [u16; 2] = [5, 7];
/// Frames that a dummy device holds; it drops what is more.
const QUEUE: usize = 100;

pub struct Stock {
    /// Ends when this goes.
    ovs: StockOvs,
    /// Whether limits or timeouts have been set.
    is_set: bool,
    control: Control,
    folder: std::path::PathBuf,
    /// How much of the port's file has been read.
    read: u64,
    marks: u32,
}

impl Stock {
    pub fn start(lab: &Lab, name: &str) -> Result<Stock> {
        let ovs = StockOvs::dummy(lab, name)?;
        let folder = ovs.dir().to_owned();
        let settings = ["datapath_type=dummy", "fail-mode=secure"];
        ovs.vsctl(&[&["add-br", "br0", "--", "set", "bridge", "br0"][..], &settings].concat())?;
        for number in 1..=3 {
            let device = format!("p{number}");
            let request = format!("ofport_request={number}");
            let file = format!("options:tx_pcap={}", folder.join(&device).with_extension("pcap").display());
            let add = ["add-port", "br0", &device, "--", "set", "interface", &device];
            ovs.vsctl(&[&add[..], &["type=dummy", &request, &file]].concat())?;
        }
        let record = ["--", "--id=@m", "create", "Datapath", "datapath_version=0"];
        let name = format!("datapaths:{TYPE}=@m");
        ovs.vsctl(&[&record[..], &["--", "set", "Open_vSwitch", ".", &name]].concat())?;
        let mut control = ovs.control()?;
        control.call("time/stop", &[])?;
        Ok(Stock { ovs, is_set: false, control, folder, read: 24, marks: 0 })
    }

    /// What becomes of a case.
    pub fn play(&mut self, case: &Case) -> Result<Recorded> {
        self.begin(&case.rules)?;
        let mut recorded = Recorded::default();
        (recorded.case.name, recorded.case.rules) = (case.name.clone(), case.rules.clone());
        self.add(&mut recorded, &case.steps)?;
        recorded.connections = self.connections()?;
        Ok(recorded)
    }

    /// Makes ready for a case: it starts without connections.
    pub fn begin(&mut self, rules: &[String]) -> Result<()> {
        self.load(rules)?;
        self.unset()?;
        self.control.call("revalidator/purge", &[])?;
        self.control.call("dpctl/flush-conntrack", &[])?;
        assert_eq!(self.connections()?, [""; 0], "connections that stay");
        // Fragments that nobody has fetched leave with other packets.
        self.warp(LONG)?;
        let idle = crate::idle();
        self.send(&[idle.clone(), idle])?;
        self.collect(2).map(drop)
    }

    /// Goes on with a case.
    pub fn add(&mut self, recorded: &mut Recorded, steps: &[Step]) -> Result<()> {
        for run in steps.chunk_by(|a, b| matches!((a, b), (Step::Packet(_), Step::Packet(_)))) {
            if let [Step::Wait(seconds)] = run {
                self.warp(seconds * 1000)?;
                recorded.outcomes.push(Outcome::new());
                continue;
            }
            if let [Step::Set(setting)] = run {
                self.set(setting)?;
                recorded.outcomes.push(Outcome::new());
                continue;
            }
            let packets = run.iter().filter_map(|step| match step {
                Step::Packet(octets) => Some(octets.clone()),
                _ => None,
            });
            for some in packets.collect::<Vec<_>>().chunks(QUEUE / 2) {
                self.send(some)?;
                recorded.outcomes.extend(self.collect(some.len())?);
            }
        }
        recorded.case.steps.extend_from_slice(steps);
        Ok(())
    }

    fn set(&mut self, setting: &Setting) -> Result<()> {
        self.is_set = true;
        match setting {
            Setting::Limit { zone: Some(zone), limit } => {
                self.control.call("dpctl/ct-set-limits", &[&format!("zone={zone},limit={limit}")])?;
            }
            Setting::Limit { zone: None, limit } => {
                self.control.call("dpctl/ct-set-limits", &[&format!("default={limit}")])?;
            }
            Setting::Timeouts { zone, policy } => {
                let words: Vec<&str> = policy.split(' ').collect();
                let add = ["add-zone-tp", TYPE, &format!("zone={zone}")];
                self.ovs.vsctl(&[&add[..], &words].concat())?;
                self.control.call("revalidator/purge", &[])?;
            }
        }
        Ok(())
    }

    /// Nothing is set any more.
    fn unset(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.is_set) {
            return Ok(());
        }
        for zone in ZONES {
            // An error if there is none.
            let _none = self.control.call("dpctl/ct-del-limits", &[&format!("zone={zone}")]);
            self.ovs.vsctl(&["--if-exists", "del-zone-tp", TYPE, &format!("zone={zone}")])?;
        }
        self.control.call("dpctl/ct-set-limits", &[&format!("default={}", u32::MAX)]).map(drop)
    }

    fn warp(&mut self, milliseconds: u64) -> Result<()> {
        self.control.call("time/warp", &[&milliseconds.to_string()])?;
        // Another thread takes away what has expired.
        std::thread::sleep(Duration::from_millis(10));
        Ok(())
    }

    fn load(&self, rules: &[String]) -> Result<()> {
        let file = self.folder.join("lines").display().to_string();
        let mark = "table=0,priority=65535,dl_type=0x88b5,actions=output:3".to_owned();
        std::fs::write(&file, [rules, &[mark]].concat().join("\n"))?;
        let target = format!("unix:{}", self.folder.join("br0.mgmt").display());
        ok(&["ovs-ofctl", "-O", "OpenFlow14", "replace-flows", &target, &file], SHORT).map(drop)
    }

    /// Hands in packets with a mark behind each. They come in by one port: in this order.
    fn send(&mut self, packets: &[Vec<u8>]) -> Result<()> {
        let mut words = vec!["p1".to_owned()];
        for packet in packets {
            self.marks += 1;
            words.extend([hex(packet), hex(&self.mark())]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let answer = self.control.call("netdev-dummy/receive", &words)?;
        assert!(answer.trim().is_empty(), "{answer}");
        Ok(())
    }

    fn mark(&self) -> Vec<u8> {
        [&[0xff; 12][..], &MARK, &self.marks.to_be_bytes(), &[0; 42]].concat()
    }

    /// Frames that have left, by the marks between them, once the last mark has.
    fn collect(&mut self, packets: usize) -> Result<Vec<Outcome>> {
        let (mark, end) = (self.mark(), Instant::now() + SHORT);
        let mut file = File::open(self.folder.join("p3.pcap"))?;
        let mut last = vec![0; mark.len()];
        loop {
            let there = file.seek(SeekFrom::End(-(mark.len() as i64))).is_ok();
            if there && file.read_exact(&mut last).is_ok() && last == mark {
                break;
            }
            assert!(Instant::now() < end, "a mark is lost");
            // An error if it has died.
            self.control.call("version", &[])?;
            std::thread::sleep(Duration::from_micros(100));
        }
        let mut octets = vec![0; 24];
        file.seek(SeekFrom::Start(self.read))?;
        self.read += file.read_to_end(&mut octets)? as u64;
        let mut outcomes = vec![Outcome::new()];
        for frame in pcap::frames(&octets) {
            if frame[12..14] == MARK {
                outcomes.push(Outcome::new());
            } else if let Some(outcome) = outcomes.last_mut() {
                outcome.push(frame.to_vec());
            }
        }
        assert_eq!(outcomes.pop(), Some(Outcome::new()), "frames behind the last mark");
        assert_eq!(outcomes.len(), packets, "marks");
        Ok(outcomes)
    }

    pub fn connections(&mut self) -> Result<Vec<String>> {
        let told = self.control.call("dpctl/dump-conntrack", &["-m", "-s"])?;
        let mut lines: Vec<String> = told
            .lines()
            .map(|line| line.replace("id=0,", "").replace(",status=0", "").replace(",sport=0,dport=0", ""))
            .map(|line| aged(&line))
            .collect();
        lines.sort();
        Ok(lines)
    }
}

/// The line with its timeout at its end.
fn aged(line: &str) -> String {
    let word = line.split(',').find(|word| word.starts_with("timeout=")).unwrap_or_default();
    format!("{},{word}", line.replace(&format!(",{word}"), ""))
}
