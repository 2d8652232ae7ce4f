//! A switch that only talks: it answers each operation with what is prepared here, and remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use weft_config::control::{
    BridgeStatus, CacheStatus, Code, Counters, FdbEntry, Op, PortState, PortStatus, Refusal, Reply, Response,
    SwitchStatus, TunnelStatus, UplinkStatus, VniEntry, WorkerStatus, parse_request, to_line,
};
use weft_config::value::Value;
use weft_config::{Config, diff};
use weft_wire::{Mac, OfPort, PortName, TunnelKey, TunnelKind};

pub struct FakeSwitch {
    pub path: PathBuf,
    asked: Arc<Mutex<Vec<Op>>>,
}

impl FakeSwitch {
    pub fn new(name: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("weftctl-{name}-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let _ = serve(stream, &record);
            }
        });
        Ok(FakeSwitch { path, asked })
    }

    pub fn run(&self, words: &str) -> io::Result<Output> {
        weftctl(&self.path, &words.split(' ').collect::<Vec<_>>(), "")
    }

    /// What the last command asked for.
    pub fn asked(&self) -> Vec<Op> {
        self.asked.lock().map(|mut asked| std::mem::take(&mut *asked)).unwrap_or_default()
    }
}

impl Drop for FakeSwitch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

pub fn weftctl(socket: &Path, words: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weftctl"))
        .env("WEFT_SOCKET", socket)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

fn serve(stream: UnixStream, record: &Mutex<Vec<Op>>) -> io::Result<()> {
    let mut output = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        let response = match parse_request(line?.as_bytes()) {
            Ok(request) => {
                if let Ok(mut asked) = record.lock() {
                    asked.push(request.op.clone());
                }
                Response::new(request.id, answer(request.op))
            }
            Err(response) => *response,
        };
        output.write_all(&to_line(&response))?;
    }
    Ok(())
}

pub fn parse<T: Value>(text: &str) -> T {
    match T::parse(text) {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

const CONFIG: &str =
    "[[bridge]]\nname = \"br0\"\n\n[[bridge.port]]\nname = \"vm1\"\ntype = \"tap\"\nofport = 1\nvlan = 10\n";

fn config() -> Result<Config, Refusal> {
    Ok(Config::from_toml(CONFIG, "state")?)
}

fn answer(op: Op) -> Result<Reply, Refusal> {
    let switch = switch();
    Ok(match op {
        Op::Version => Reply::Version { version: switch.version },
        Op::ConfigShow => Reply::Config { toml: config()?.to_toml(), config: Box::new(config()?) },
        Op::Apply { .. } | Op::ConfigApply { .. } => {
            let next = op.next_config(&config()?).unwrap_or_else(config)?;
            Reply::Applied { differences: diff(&config()?, &next).iter().map(ToString::to_string).collect() }
        }
        Op::Trace(request) => crate::trace::answer(&request),
        Op::Why(request) => crate::why::answer(&request),
        Op::Top => crate::top::answer(),
        Op::FdbShow { .. } => Reply::Fdb { entries: fdb() },
        Op::FdbFlush(_) => Reply::Flushed { entries: 2 },
        Op::PortShow(scope) => {
            let wanted = |port: &PortStatus| scope.name.as_ref().is_none_or(|name| *name == port.name);
            let ports: Vec<_> = switch.ports.into_iter().filter(wanted).collect();
            match scope.name {
                Some(name) if ports.is_empty() => {
                    return Err(Refusal::new(Code::NotFound, format_args!("there is no port '{name}'")));
                }
                _ => Reply::Ports { ports, uplinks: Vec::new() },
            }
        }
        Op::StatsPorts => Reply::Ports { ports: switch.ports, uplinks: switch.uplinks },
        Op::TunnelShow(scope) => {
            let wanted = |tunnel: &TunnelStatus| scope.name.as_ref().is_none_or(|name| *name == tunnel.name);
            Reply::Tunnels { tunnels: switch.tunnels.into_iter().filter(wanted).collect() }
        }
        Op::BridgeShow(_) => Reply::Bridges { bridges: switch.bridges },
        Op::VniShow { .. } => Reply::Vnis { vnis: switch.vnis },
        Op::StatsDrops => Reply::Drops {
            drops: drops(&[("vlan_not_admitted", 3), ("same_port", 40), ("new_one", 1)]),
            places: crate::why::places(),
        },
        Op::StatsCache => Reply::Caches { caches: switch.caches },
        Op::StatsWorkers => Reply::Workers { workers: switch.workers },
        Op::Show => Reply::Switch { switch: Box::new(switch) },
        Op::Conntrack(op) => Reply::Conntrack(crate::conntrack::answer(&op)),
        Op::Flow(op) => Reply::Flow(crate::flows::answer(op)?),
        Op::AclShow { name } => crate::acl::answer(name.as_deref())?,
    })
}

pub fn drops(drops: &[(&str, u64)]) -> BTreeMap<String, u64> {
    drops.iter().map(|(reason, packets)| ((*reason).to_owned(), *packets)).collect()
}

fn fdb() -> Vec<FdbEntry> {
    let entry = |port: &str, ofport, vlan, mac: &str, age_s, fixed, moves| FdbEntry {
        bridge: parse("br0"),
        port: parse(port),
        ofport: OfPort(ofport),
        vlan: parse(vlan),
        mac: parse(mac),
        age_s,
        fixed,
        moves,
    };
    vec![
        entry("vm1", 1, "10", "52:54:00:00:00:01", 3, false, 0),
        entry("vx1", 4, "10", "52:54:00:00:00:02", 299, false, 17),
        entry("br0", 0xfffe, "0", "02:00:00:00:00:01", 0, true, 0),
    ]
}

fn port(name: &str, ofport: u16, kind: &str, backend: &str) -> PortStatus {
    PortStatus {
        bridge: parse("br0"),
        name: parse(name),
        ofport: OfPort(ofport),
        kind: kind.to_owned(),
        backend: backend.to_owned(),
        why: String::new(),
        state: PortState::Up,
        mac: Mac::parse("52:54:00:00:00:01").ok(),
        mtu: Some(1450),
        effective_mtu: Some(1450),
        vlan: "access 10".to_owned(),
        netns: None,
        ifindex: Some(7),
        worker: Some(0),
        counters: Counters {
            rx_packets: 1200,
            rx_bytes: 98_000,
            tx_packets: 1100,
            tx_bytes: 77_000,
            rx_missed: 3,
            copies: 20,
            drops: drops(&[]),
        },
    }
}

fn ports() -> Vec<PortStatus> {
    let vm1 = PortStatus {
        netns: Some("vm1".to_owned()),
        counters: Counters {
            drops: drops(&[("same_port", 40), ("vlan_not_admitted", 2)]),
            ..port("vm1", 1, "", "").counters
        },
        ..port("vm1", 1, "tap", "tap")
    };
    let eth1 = PortStatus {
        why: "a tap that another process holds".to_owned(),
        state: PortState::Down("the device is gone".to_owned()),
        vlan: "native-untagged 10 trunk 20-29".to_owned(),
        ifindex: None,
        mtu: None,
        ..port("eth1", 2, "netdev", "af_packet")
    };
    let tunnel = PortStatus {
        mac: None,
        mtu: None,
        ifindex: None,
        vlan: "map".to_owned(),
        worker: None,
        ..port("vx1", 4, "vxlan", "")
    };
    vec![
        PortStatus { vlan: "trunk all".to_owned(), ..port("br0", 0xfffe, "internal", "tap") },
        vm1,
        eth1,
        tunnel,
    ]
}

fn uplink() -> UplinkStatus {
    UplinkStatus {
        device: "eth0".to_owned(),
        backend: "af_xdp native".to_owned(),
        why: "the driver can".to_owned(),
        ifindex: 2,
        mtu: 1500,
        worker: Some(0),
        counters: port("eth0", 0, "", "").counters,
    }
}

fn tunnels() -> Vec<TunnelStatus> {
    let vxlan = TunnelStatus {
        bridge: parse("br0"),
        name: parse("vx1"),
        ofport: OfPort(4),
        kind: TunnelKind::Vxlan,
        local: Ipv4Addr::new(192, 0, 2, 1),
        remote: Ipv4Addr::new(192, 0, 2, 2).into(),
        key: "map".to_owned(),
        vnis: "5010,5020".to_owned(),
        state: PortState::Up,
        underlay: Some("eth0".to_owned()),
        next_hop: Some(Ipv4Addr::new(192, 0, 2, 2)),
        neighbour: "reachable 52:54:00:aa:00:02".to_owned(),
        underlay_mtu: Some(1500),
        effective_mtu: Some(1450),
        counters: Counters {
            rx_packets: 900,
            rx_bytes: 90_000,
            tx_packets: 800,
            tx_bytes: 80_000,
            drops: drops(&[("tunnel_too_big", 5)]),
            rx_missed: 0,
            copies: 0,
        },
    };
    let gre = TunnelStatus {
        name: parse("gre-to-far-away"),
        ofport: OfPort(5),
        kind: TunnelKind::Gre,
        key: "4294967295".to_owned(),
        vnis: String::new(),
        state: PortState::Down("no route to 198.51.100.77".to_owned()),
        remote: Ipv4Addr::new(198, 51, 100, 77).into(),
        underlay: None,
        next_hop: None,
        neighbour: String::new(),
        underlay_mtu: None,
        effective_mtu: None,
        counters: Counters::default(),
        ..vxlan.clone()
    };
    vec![vxlan, gre]
}

fn bridges() -> Vec<BridgeStatus> {
    let br0 = BridgeStatus {
        name: parse("br0"),
        mac: Mac::parse("02:00:00:00:00:01").ok(),
        internal: true,
        ports: 4,
        tunnels: 2,
        vnis: 2,
        fdb_entries: 3,
        fdb_size: 8192,
        fdb_ageing: 300,
        fdb_moves: 17,
        fdb_full: 0,
    };
    let empty = BridgeStatus {
        name: parse("empty"),
        mac: None,
        internal: false,
        ports: 0,
        tunnels: 0,
        vnis: 0,
        fdb_entries: 0,
        fdb_moves: 0,
        ..br0.clone()
    };
    vec![br0, empty]
}

fn switch() -> SwitchStatus {
    let vni = |vlan, vni, tunnels: &[&str]| VniEntry {
        bridge: parse("br0"),
        vlan: parse(vlan),
        vni: TunnelKey(vni),
        tunnels: tunnels.iter().map(|name| parse(name)).collect(),
    };
    let worker = WorkerStatus {
        index: 0,
        cpu: None,
        state: "sleeping".to_owned(),
        busy_percent: 12.34,
        bursts: 100,
        packets: 3200,
        cycles_per_packet: 44.6,
        held: 2,
        ports: ["br0", "vm1", "eth1"].map(parse::<PortName>).to_vec(),
    };
    let idle =
        WorkerStatus { index: 1, cpu: Some(3), state: "blocked".to_owned(), ..WorkerStatus::default() };
    let cache = CacheStatus {
        worker: 0,
        entries: 12,
        capacity: 65_536,
        hits: 3000,
        misses: 200,
        stale: 20,
        begun: 150,
        uncached: 7,
        evictions: 0,
        programs: 5,
    };
    SwitchStatus {
        version: "0.1.0".to_owned(),
        pid: 4242,
        uptime_s: 93_784,
        frames: 65_536,
        frames_free: 61_000,
        bridges: bridges(),
        ports: ports(),
        tunnels: tunnels(),
        uplinks: vec![uplink()],
        vnis: vec![vni("10", 5010, &["vx1"]), vni("20", 5020, &[])],
        workers: vec![worker, idle],
        caches: vec![cache, CacheStatus { worker: 1, capacity: 65_536, ..CacheStatus::default() }],
    }
}
