//! VLANs over real devices: every cell of the truth table over taps, packet sockets and AF_XDP, and TCP between all of them.

use std::collections::HashMap;
use weft_tests::cmd::SHORT;
use weft_tests::node::NEEDS;
use weft_tests::vlan::{Block, Port, Table, Tags};
use weft_tests::{
    Error, Host, Lab, Netns, Node, Received, Recorder, Result, cmd, iperf3, ping, scenarios, wait_for,
};

scenarios! {
    every_cell_of_the_truth_table needs NEEDS;
    tcp_between_all_kinds_of_ports needs NEEDS;
}

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/vlan-truth.txt");

/// The kinds of ports, each with the settings that make weft use it.
const KINDS: [(&str, &str); 3] =
    [("tap", "type=tap"), ("pkt", "type=netdev backend=af_packet"), ("xdp", "type=netdev backend=af_xdp")];

/// Open vSwitch's columns in weft's words. Where OVS ignores a column or takes VLAN 0 for one that lacks, weft wants it said.
fn settings(port: &Port) -> String {
    let list: Vec<String> = port.trunks.iter().map(u16::to_string).collect();
    let trunks = if list.is_empty() { "all".to_owned() } else { list.join(",") };
    let (mode, tag) = (port.mode.as_deref(), port.tag.unwrap_or(0));
    let vlans = match mode {
        Some("access") => format!("mode=access vlan={tag} trunks="),
        None if port.tag.is_some() => format!("mode= vlan={tag} trunks="),
        Some("trunk") | None => format!("mode=trunk vlan= trunks={trunks}"),
        Some(native) => format!("mode={native} vlan={tag} trunks={trunks}"),
    };
    format!("{vlans} priority_tags={}", port.priority_tags.as_deref().unwrap_or(""))
}

/// The switch, with egress port N as `outN` and one ingress port of each kind, `in-tap`, `in-pkt` and `in-xdp`. The far ends
/// are in one namespace, `far`; kinds take turns among the egress ports.
struct Bench {
    node: Node,
    far: Netns,
    table: Table,
    recorder: Recorder,
}

impl Bench {
    fn new(lab: &Lab, workers: u32) -> Result<Self> {
        let table = Table::parse(&std::fs::read_to_string(FILE)?)?;
        let node = Node::alone(lab, "node", workers)?;
        let far = Netns::new(lab, "far")?;
        let outs: Vec<String> = (0..table.ports.len()).map(|number| format!("out{number}")).collect();
        for (number, port) in table.ports.iter().enumerate() {
            add(&node, &far, &outs[number], KINDS[number % 3].1, &settings(port))?;
        }
        for (kind, how) in KINDS {
            add(&node, &far, &format!("in-{kind}"), how, "vlan=4000")?;
        }
        let devices: Vec<&str> = outs.iter().map(String::as_str).collect();
        let recorder = Recorder::start(lab, "recorder", &far, &devices)?;
        Ok(Bench { node, far, table, recorder })
    }

    fn source(kind: usize, block: usize, frame: usize) -> [u8; 6] {
        [2, 0, 0, kind as u8, block as u8, frame as u8]
    }

    /// Sends a block's frames in by one kind of port; returns the VLAN in which each source was learned.
    fn send(&self, kind: usize, number: usize) -> Result<Vec<Option<u16>>> {
        let (block, device) = (&self.table.blocks[number], format!("in-{}", KINDS[kind].0));
        let port = self.table.port(&block.from);
        let port = port.ok_or_else(|| Error::new(format!("the table has no port {}", block.from)))?;
        self.node.weft.sh(&format!("port set {device} {}", settings(port)))?;
        let source = |frame| Self::source(kind, number, frame);
        let frames: Vec<Vec<u8>> =
            block.frames.iter().enumerate().map(|(at, tags)| tags.frame(source(at))).collect();
        let came_in = || self.node.weft.counter(&device, "rx_packets");
        let before = came_in()?;
        self.far.send_frames(&device, &frames)?;
        let all = before + frames.len() as u64;
        wait_for("the frames at the port", SHORT, || Ok(came_in()? >= all))?;
        self.node.weft.settle()?;
        let fdb = self.node.weft.json("fdb show")?;
        let learned = |at| {
            let [a, b, c, d, e, f] = source(at);
            let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
            let entry = fdb.as_array()?.iter().find(|entry| entry["mac"] == mac.as_str())?;
            Some(entry["vlan"].as_u64()? as u16)
        };
        Ok((0..frames.len()).map(learned).collect())
    }

    /// How many frames the table says that the egress ports send, for one kind of ingress port.
    fn expected(&self) -> usize {
        let cells = self.table.blocks.iter().flat_map(|block| &block.to).flat_map(|(_, cells)| cells);
        cells.filter(|cell| cell.is_some()).count()
    }
}

/// A port whose device `name` has its far end, of the same name, in `far`.
fn add(node: &Node, far: &Netns, name: &str, how: &str, vlans: &str) -> Result {
    // A new port takes no empty value.
    let vlans: Vec<&str> = vlans.split_whitespace().filter(|word| !word.ends_with('=')).collect();
    let (far_name, vlans) = (far.name(), vlans.join(" "));
    if how == "type=tap" {
        node.weft.sh(&format!("port add br0 {name} {how} netns={far_name} {vlans}"))?;
    } else {
        let ours = node.ns.name();
        cmd::sh(&format!("ip link add {name} netns {far_name} type veth peer name {name} netns {ours}"))?;
        node.ns.configure(name, "", 0)?;
        node.weft.sh(&format!("port add br0 {name} {how} {vlans}"))?;
    }
    far.configure(name, "", 0)
}

/// Per source address and device: the tags of each frame that was received.
type Seen = HashMap<([u8; 6], String), Vec<Tags>>;

fn by_source(received: Vec<Received>) -> Seen {
    let mut seen = Seen::new();
    for Received { device, frame } in received {
        if let Some((source, tags)) = Tags::of(&frame) {
            seen.entry((source, device)).or_default().push(tags);
        }
    }
    seen
}

fn every_cell_of_the_truth_table(lab: &Lab, workers: u32) -> Result {
    let bench = Bench::new(lab, workers)?;
    let mut wrong = Vec::new();
    for (kind, (name, _)) in KINDS.iter().enumerate() {
        for (number, block) in bench.table.blocks.iter().enumerate() {
            let learned = bench.send(kind, number)?;
            if learned != block.learned {
                wrong.push(format!(
                    "from {} ({name}): learned {learned:?}, not {:?}",
                    block.from, block.learned
                ));
            }
        }
    }
    let all = bench.expected() * KINDS.len();
    // What is missing is found cell by cell.
    let _ = wait_for("all frames", SHORT, || Ok(bench.recorder.received().len() >= all));
    bench.node.weft.settle()?;
    let seen = by_source(bench.recorder.received());
    for (kind, (name, _)) in KINDS.iter().enumerate() {
        for (number, block) in bench.table.blocks.iter().enumerate() {
            compare(&seen, (kind, number), block, name, &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{} wrong of {all}:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

fn compare(seen: &Seen, (kind, number): (usize, usize), block: &Block, name: &str, wrong: &mut Vec<String>) {
    for (out, (to, cells)) in block.to.iter().enumerate() {
        for (at, cell) in cells.iter().enumerate() {
            let key = (Bench::source(kind, number, at), format!("out{out}"));
            let found = seen.get(&key).map_or(&[][..], Vec::as_slice);
            if found.iter().ne(cell.iter()) {
                let (frame, from, out) = (&block.frames[at], &block.from, KINDS[out % 3].0);
                let found: Vec<String> = found.iter().map(Tags::to_string).collect();
                let cell = cell.as_ref().map_or_else(|| "-".to_owned(), Tags::to_string);
                wrong.push(format!("{frame} from {from} ({name}) to {to} ({out}): {found:?}, not {cell}"));
            }
        }
    }
}

/// Every pair of a tap, an AF_PACKET port and an AF_XDP port, both ways. The kernels at the far ends leave the checksums to
/// their devices.
fn tcp_between_all_kinds_of_ports(lab: &Lab, workers: u32) -> Result {
    let node = Node::alone(lab, "node", workers)?;
    let hosts = [
        node.vm(lab, "tap", "vlan=10", ("10.0.0.1/24", ""))?,
        node.container(lab, "pkt", "backend=af_packet vlan=10", ("10.0.0.2/24", ""))?,
        node.container(lab, "xdp", "backend=af_xdp vlan=10", ("10.0.0.3/24", ""))?,
        node.container(lab, "auto", "vlan=10", ("10.0.0.4/24", ""))?,
    ];
    let backend = |port: &str| Ok::<_, Error>(node.weft.port(port)?["backend"].to_string());
    assert!(backend("xdp")?.contains("af_xdp") && backend("auto")?.contains("af_packet"));
    for from in &hosts {
        for to in hosts.iter().filter(|to| to.address() != from.address()) {
            let between = format!("{} to {}", from.address(), to.address());
            let pings = ping(from.ns(), to.address(), 2, "-s 1400")?;
            assert!(pings.is_clean(), "{between}: {pings:?}");
            let tcp = iperf3(lab, from, to, 0, "-n 4M")?;
            assert!(tcp.bits_per_second > 1e6, "{between}: {tcp:?}");
            udp(lab, from, to, &between)?;
        }
    }
    Ok(())
}

fn udp(lab: &Lab, from: &Host, to: &Host, between: &str) -> Result {
    let udp = iperf3(lab, from, to, 0, "-u -n 100K -b 20M -l 1000")?;
    assert!(udp.sent >= 100 && udp.arrived(), "{between}: {udp:?}");
    Ok(())
}
