//! What is left to two VMs, on one worker with a third port that does nothing but make new flows, new connections or new source
//! addresses as fast as a replay port can: compared with what is left to them when the same port's packets are all of one flow.
//!
//! Whoever else uses the machine takes from both alike: rounds alternate, medians count, and what counts is not a second but
//! a second of the worker's processor time.

use std::time::Duration;

use weft_tests::node::NEEDS;
use weft_tests::probe::file;
use weft_tests::traffic::{iperf3, send_bytes};
use weft_tests::{Host, Lab, Node, Result, clean_ping, node, pcap, wait_for};

/// Frames of a replay: more than any cache has flows.
const MANY: u32 = 300_000;
/// Comparisons of which the median counts.
const ROUNDS: usize = 3;
/// Where the attacker's packets go: a port that swallows them.
const SINK: &str = "fdb = [{ vlan = 0, mac = \"02:00:00:00:00:99\", port = \"sink\" }]\n";

/// What the third port sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Attack {
    OneFlow,
    NewFlows,
    NewAddresses,
}

impl Attack {
    /// A UDP packet to the sink.
    fn frame(self, number: u32) -> Vec<u8> {
        let [high, mid, low, last] = number.to_be_bytes();
        let mut frame = vec![2, 0, 0, 0, 0, 0x99, 2, 0, 0, 0, 0, 0x66, 8, 0];
        frame.extend([0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0x64, 0xbd, 10, 0, 1, 1, 10, 0, 1, 2]);
        frame.extend([4, 1, 8, 1, 0, 26, 0, 0]);
        frame.resize(60, 0);
        match self {
            Attack::OneFlow => {}
            Attack::NewFlows => frame[34..38].copy_from_slice(&[low, last, 8 + mid, high]),
            Attack::NewAddresses => {
                frame[8..12].copy_from_slice(&(0x6600_0000 + number % 100_000).to_be_bytes())
            }
        }
        frame
    }

    fn write(self, lab: &Lab) -> Result<String> {
        let path = lab.path(&format!("{self:?}.pcap"));
        pcap::write(&path, &(0..MANY).map(|number| self.frame(number)).collect::<Vec<_>>())?;
        Ok(path.display().to_string())
    }
}

/// What was seen during one transfer.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Bits per second of the worker's time.
    throughput: f64,
    /// The third port's packets per second of the worker's time.
    packets: f64,
}

struct Scene<'a> {
    lab: &'a Lab,
    node: Node,
    vms: [Host; 2],
}

impl Scene<'_> {
    fn new(lab: &Lab) -> Result<Scene<'_>> {
        let node = Node::alone(lab, "node", 1)?;
        let vms = [node.numbered_vm(lab, "one", "", 1)?, node.numbered_vm(lab, "two", "", 2)?];
        // Segments as they are on a wire: the worker has all the work with each of them.
        vms.iter().try_for_each(|vm| vm.ns().offloads_off(vm.device()))?;
        node.weft.sh("port add br0 sink type=null")?;
        let scene = Scene { lab, node, vms };
        scene.configure(|text| text.replace("name = \"br0\"\n", &format!("name = \"br0\"\n{SINK}")))?;
        Ok(scene)
    }

    fn configure(&self, change: impl Fn(&str) -> String) -> Result<()> {
        let text = change(&self.node.weft.sh("config show")?);
        let path = file(self.lab, "changed.toml", &text)?;
        self.node.weft.ctl(&["config", "apply", &path.display().to_string()]).map(drop)
    }

    fn set_share(&self, percent: u32) -> Result<()> {
        self.configure(|text| {
            let others = text.lines().filter(|line| !line.starts_with("slow_path_share"));
            let text: String = others.map(|line| format!("{line}\n")).collect();
            text.replace("[switch]\n", &format!("[switch]\nslow_path_share = {percent}\n"))
        })
    }

    /// The third port sends this from now on.
    fn attack(&self, path: &str, settings: &str) -> Result<()> {
        self.node.weft.sh(&format!("port add br0 mallory type=replay loop=true file={path} {settings}"))?;
        let sends = || Ok(self.node.weft.counter("mallory", "rx_packets")? > 10_000);
        wait_for("the third port to send", Duration::from_secs(30), sends)
    }

    /// It ends; all its packets are accounted for.
    fn end_attack(&self) -> Result<()> {
        self.node.weft.sh("port del mallory").map(drop)
    }

    fn transfer(&self) -> Result<Seen> {
        let [one, two] = &self.vms;
        let look = || -> Result<_> {
            Ok((worker_time(self.node.weft.pid()?)?, self.node.weft.counter("mallory", "rx_packets")?))
        };
        let (start, sent) = look()?;
        let began = std::time::Instant::now();
        let bits = iperf3(self.lab, one, two, 2, "")?.bits_per_second;
        let elapsed = began.elapsed().as_secs_f64();
        let (end, all) = look()?;
        let worked = (end - start).as_secs_f64();
        Ok(Seen { throughput: bits * elapsed / worked, packets: (all - sent) as f64 / worked })
    }

    /// The medians of what the VMs keep, and of how many packets the port sends compared with those of one flow.
    fn kept(&self, (one_flow, many): (&str, &str), settings: &str) -> Result<[f64; 2]> {
        let mut ratios = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            let mut seen = Vec::new();
            for path in [one_flow, many] {
                self.attack(path, settings)?;
                seen.push(self.transfer()?);
                if path == many {
                    self.begin_connections()?;
                }
                self.end_attack()?;
            }
            ratios[0].push(seen[1].throughput / seen[0].throughput);
            ratios[1].push(seen[1].packets / seen[0].packets);
        }
        Ok(ratios.map(|mut ratios| {
            ratios.sort_by(f64::total_cmp);
            ratios[ratios.len() / 2]
        }))
    }

    /// The VMs' new connections work.
    fn begin_connections(&self) -> Result<()> {
        let [one, two] = &self.vms;
        clean_ping(one, two, "")?;
        let sent = send_bytes(self.lab, one.ns(), (two.ns(), two.address()), 100_000)?;
        assert_eq!(sent, 100_000);
        Ok(())
    }

    /// What the VMs keep with the share that is the default; without, it is clearly less.
    fn is_fair(&self, what: &str, attack: Attack, settings: &str) -> Result<()> {
        let paths = (Attack::OneFlow.write(self.lab)?, attack.write(self.lab)?);
        self.set_share(100)?;
        let [without, _] = self.kept((&paths.0, &paths.1), settings)?;
        self.set_share(5)?;
        let [with, packets] = self.kept((&paths.0, &paths.1), settings)?;
        println!("{what}: the VMs keep {with:.2}, without a limit {without:.2}; packets taken {packets:.2}");
        // The line about it is once a second at the earliest.
        let told = || Ok(self.node.weft.log().contains("limit of slow path of mallory"));
        wait_for("a line about the limit", Duration::from_secs(10), told)?;
        // That it is 0.9 is for core's own test of fairness to say, whose VM lacks no processor time for itself.
        assert!(with >= 0.8, "{what}: {with}, and {without} without a limit");
        Ok(())
    }
}

/// What the worker's thread has used of a processor (`schedstat` of proc(5)).
fn worker_time(pid: u32) -> Result<Duration> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        if std::fs::read_to_string(path.join("comm"))?.starts_with("weft-worker-0") {
            let text = std::fs::read_to_string(path.join("schedstat"))?;
            return Ok(Duration::from_nanos(text.split(' ').next().unwrap_or_default().parse()?));
        }
    }
    Err(weft_tests::cmd::Error::new("the worker has no thread"))
}

fn new_addresses(lab: &Lab, _: u32) -> Result {
    let scene = Scene::new(lab)?;
    scene.node.weft.no_accounts();
    scene.is_fair("100k source addresses", Attack::NewAddresses, "")?;
    // A limit of its own keeps them out of the table; the VMs' addresses are there all the time.
    let path = Attack::NewAddresses.write(lab)?;
    scene.attack(&path, "fdb_limit=64")?;
    scene.begin_connections()?;
    wait_for("the limit to be met", Duration::from_secs(10), || {
        let top = scene.node.weft.sh("top --once")?;
        let row = top.lines().find_map(|line| line.split("FDB of br0, learned at mallory").nth(1));
        let cells: Vec<&str> = row.unwrap_or_default().split_whitespace().collect();
        Ok(cells.starts_with(&["64", "64", "100.0"]))
    })?;
    let learned = scene.node.weft.fdb()?.iter().filter(|entry| entry.starts_with("mallory ")).count();
    assert_eq!(learned, 64);
    scene.end_attack()
}

fn new_flows(lab: &Lab, _: u32) -> Result {
    let scene = Scene::new(lab)?;
    scene.node.weft.no_accounts();
    // From here on each pair of ports is a flow.
    scene.node.weft.ctl(&["flow", "add", "br0", "priority=9,udp,tp_src=9,tp_dst=65535 actions=drop"])?;
    scene.is_fair("new flows", Attack::NewFlows, "")
}

fn new_connections(lab: &Lab, _: u32) -> Result {
    let scene = Scene::new(lab)?;
    scene.node.weft.no_accounts();
    for line in [
        "acl group add open",
        "acl rule add open egress protocol=any",
        "acl rule add open ingress protocol=any",
        "acl bind one open",
        "acl bind two open",
    ] {
        scene.node.weft.sh(line)?;
    }
    scene.is_fair("new connections", Attack::NewFlows, "acl=open")
}

/// Dropped for want of time or not: every packet is one that came in.
fn refused_packets_are_accounted_for(lab: &Lab, _: u32) -> Result {
    let scene = Scene::new(lab)?;
    let path = Attack::NewAddresses.write(lab)?;
    scene.node.weft.sh(&format!("port add br0 mallory type=replay file={path}"))?;
    clean_ping(&scene.vms[0], &scene.vms[1], "")?;
    let all = || Ok(scene.node.weft.counter("mallory", "rx_packets")? == u64::from(MANY));
    wait_for("the whole file", Duration::from_secs(30), all)?;
    scene.node.weft.settle()
}

macro_rules! with_one_worker {
    ($($name:ident)+) => {
        mod with_one_worker {
            $(#[test]
            fn $name() -> weft_tests::Result {
                super::node::run(concat!("with_one_worker::", stringify!($name)), &super::NEEDS, 1, super::$name)
            })+
        }
    };
}

with_one_worker! { new_addresses new_flows new_connections refused_packets_are_accounted_for }
