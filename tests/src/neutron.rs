//! Two compute nodes, c1 and c2, as Neutron's agents wire them, under the rules that these agents left in a recorded run.
//!
//! ```text
//!  VMs - br-int - patch-tun/patch-int - br-tun - VXLAN and GRE - underlay 10.78.0.0/24
//!           |---- int-br-phy/phy-br-phy - br-phy - ul0 - a cable to the other node
//!           |---- int-br-ex/phy-br-ex - br-ex - ex0 - the world outside (c1 only)
//!           `---- tpi, spi/tpt, spt - tbr-2234250b-5 - a VM with a trunk (c1 only)
//! ```
//!
//! Names, OpenFlow numbers, local VLANs, MACs and addresses are the recorded ones. Ports of DHCP and routers that nobody plays
//! here are null ports. Tenant networks and what carries them: A VXLAN 0x505, B VXLAN 0x5fe (with addresses of A), G GRE 0xe58,
//! V VLAN 146, F untagged. Each node has its own local VLAN for each: only the rules translate.

use crate::cmd::{Error, Result};
use crate::lab::Lab;
use crate::netns::{Host, Netns, veth};
use crate::node::{Wire, settings};
use crate::weftd::Weftd;

/// The recorded dumps, `NODE.BRIDGE.flows` with names and statistics, `NODE.BRIDGE.flows.nostats` with numbers.
const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../dataplane/flow/tests/data/neutron");

/// A VM and its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vm {
    /// The port's name in br-int, which is the device's in the VM.
    pub port: &'static str,
    /// The port's OpenFlow number.
    pub ofport: u16,
    /// The local VLAN that the agent gave to its network on this node.
    pub vlan: u16,
    /// Its MAC.
    pub mac: &'static str,
    /// Its address; all networks have 24 bits.
    pub address: &'static str,
}

const fn vm((port, ofport): (&'static str, u16), vlan: u16, mac: &'static str, address: &'static str) -> Vm {
    Vm { port, ofport, vlan, mac, address }
}

/// Network A on c1.
pub const A1: Vm = vm(("tap05ca1ee7-d8", 4), 1, "fa:16:3e:7c:aa:99", "10.1.0.203");
/// Network A on c1, another.
pub const A1_OTHER: Vm = vm(("tap248ddb6f-73", 5), 1, "fa:16:3e:d4:ce:c6", "10.1.0.183");
/// Network A on c2.
pub const A2: Vm = vm(("tap6e85042a-e0", 3), 1, "fa:16:3e:b7:eb:bd", "10.1.0.4");
/// Network B on c1.
pub const B1: Vm = vm(("tap278c119a-be", 10), 3, "fa:16:3e:68:b1:e8", "10.1.0.2");
/// Network B on c2.
pub const B2: Vm = vm(("tapfd52007e-2b", 7), 5, "fa:16:3e:a6:f4:e5", "10.1.0.65");
/// Network G on c1.
pub const G1: Vm = vm(("tapf7b2c687-0d", 6), 5, "fa:16:3e:2a:02:b6", "10.2.0.231");
/// Network G on c2.
pub const G2: Vm = vm(("tap0fbf9f38-7d", 4), 3, "fa:16:3e:ac:8c:0f", "10.2.0.67");
/// Network V on c1.
pub const V1: Vm = vm(("tap8e3edd00-ab", 12), 2, "fa:16:3e:fc:ae:b2", "10.3.0.213");
/// Network V on c2.
pub const V2: Vm = vm(("tap513af737-16", 5), 4, "fa:16:3e:d0:d5:a4", "10.3.0.156");
/// Network F on c1.
pub const F1: Vm = vm(("tap54d8dc1a-c2", 13), 4, "fa:16:3e:0f:77:ae", "10.4.0.217");
/// Network F on c2.
pub const F2: Vm = vm(("tapbe801e64-96", 6), 2, "fa:16:3e:3d:ed:f8", "10.4.0.70");
/// The router's leg into the external network, on c1; its address is not in the recording.
pub const ROUTER: Vm = vm(("qg-077b7407-ae", 14), 6, "fa:16:3e:17:3c:79", "192.0.2.10");
/// The VM with a trunk, whose untagged traffic is network F's: behind a bridge of its own.
pub const TRUNK: Vm = vm(("tap77a5dbab-f8", 3), 4, "fa:16:3e:63:42:7e", "10.4.0.72");
/// The VLAN that the trunk's subport has inside; outside it is network V.
pub const SUBPORT_VLAN: u16 = 55;
/// The host outside, behind br-ex.
pub const OUTSIDE: &str = "192.0.2.1";

/// A compute node.
pub struct Compute {
    /// The switch; it ends before its namespaces go.
    pub weft: Weftd,
    /// The node's namespace.
    pub ns: Netns,
    /// Its name in the recording.
    pub name: &'static str,
    vms: Vec<(Vm, Host)>,
}

/// Both nodes and what is around them.
pub struct Cloud {
    /// The network node too: it has br-ex.
    pub c1: Compute,
    /// The other one.
    pub c2: Compute,
    /// A host of the external network.
    pub outside: Host,
    _wire: Wire,
}

impl Cloud {
    /// Makes it, without rules: each bridge is a learning switch yet.
    pub fn new(lab: &Lab, workers: u32) -> Result<Self> {
        let wire = Wire::new(lab)?;
        let (one, two) = (Netns::new(lab, "c1")?, Netns::new(lab, "c2")?);
        veth((&one, "ul0"), (&two, "ul0"))?;
        let outside = Host::on_veth(lab, "outside", &format!("{OUTSIDE}/24"), (&one, "ex0"))?;
        let mut c1 = Compute::start(lab, ("c1", one), (&wire, "10.78.0.1"), workers)?;
        let mut c2 = Compute::start(lab, ("c2", two), (&wire, "10.78.0.2"), workers)?;
        c1.integration_bridge(&C1_BRIDGES)?;
        c2.integration_bridge(&C2_BRIDGES)?;
        c1.tunnel_bridge("0a4e0002", ["10.78.0.1", "10.78.0.2"])?;
        c2.tunnel_bridge("0a4e0001", ["10.78.0.2", "10.78.0.1"])?;
        for node in [&c1, &c2] {
            node.physical_bridge("br-phy", "ul0")?;
        }
        c1.physical_bridge("br-ex", "ex0")?;
        for vm in [A1, A1_OTHER, B1, G1, V1, F1, ROUTER] {
            c1.plug(lab, "br-int", vm)?;
        }
        for vm in [A2, B2, G2, V2, F2] {
            c2.plug(lab, "br-int", vm)?;
        }
        for (name, ofport, vlan) in UNPLAYED {
            c1.weft.sh(&format!("port add br-int {name} type=null ofport={ofport} vlan={vlan}"))?;
        }
        c1.trunk_bridge(lab)?;
        Ok(Cloud { c1, c2, outside, _wire: wire })
    }

    /// The nodes with the bridges that have recorded rules.
    pub fn tables(&self) -> [(&Compute, &'static str); 7] {
        let (c1, c2) = (&self.c1, &self.c2);
        let integration = [(c1, "br-int"), (c2, "br-int")];
        let [int1, int2] = integration;
        [int1, (c1, "br-tun"), (c1, "br-phy"), (c1, "br-ex"), int2, (c2, "br-tun"), (c2, "br-phy")]
    }

    /// Gives every bridge its recorded rules: [`switching`] of br-int's, all others but for what table 10 of br-tun has
    /// learned, for it is to learn that again.
    pub fn load_rules(&self, lab: &Lab) -> Result {
        self.load(lab, |node, recorded| format!("{}{}", switching(recorded), node.anti_spoofing()))
    }

    /// The same with all of br-int's rules, the firewall's among them.
    pub fn load_firewall(&self, lab: &Lab) -> Result {
        self.load(lab, |_, recorded| recorded.to_owned())
    }

    fn load(&self, lab: &Lab, integration: impl Fn(&Compute, &str) -> String) -> Result {
        for (node, bridge) in self.tables() {
            let recorded = recorded(node.name, bridge, ".flows")?;
            let text = match bridge {
                "br-int" => integration(node, &recorded),
                _ => lines(&recorded, |line| !line.contains("hard_timeout=300, priority")),
            };
            let file = lab.path(&format!("{}.{bridge}", node.name));
            std::fs::write(&file, text)?;
            node.weft.sh(&format!("flow replace {bridge} {}", file.display()))?;
        }
        Ok(())
    }

    /// The host that plays a VM.
    pub fn host(&self, vm: Vm) -> &Host {
        let mut all = self.c1.vms.iter().chain(&self.c2.vms);
        all.find_map(|(known, host)| (*known == vm).then_some(host)).unwrap_or(&self.outside)
    }
}

/// The agents' ports on c1 that nobody plays: name, OpenFlow number, local VLAN.
const UNPLAYED: [(&str, u16, u16); 8] = [
    ("tap0cf9db6e-61", 7, 2),
    ("tap14add8d2-cf", 8, 4),
    ("tap1d12617f-1c", 9, 1),
    ("tap680c430a-6f", 11, 5),
    ("qr-33d7eb43-63", 15, 1),
    ("qr-965b1e2d-75", 16, 1),
    ("qr-c8e02cbf-ea", 17, 2),
    ("qr-f08cada8-ba", 18, 5),
];

/// Patch ports of br-int: name, OpenFlow number, peer.
type Patches = [(&'static str, u16, &'static str)];

const C1_BRIDGES: [(&str, u16, &str); 3] =
    [("int-br-phy", 1, "phy-br-phy"), ("int-br-ex", 2, "phy-br-ex"), ("patch-tun", 3, "patch-int")];
const C2_BRIDGES: [(&str, u16, &str); 2] = [("int-br-phy", 1, "phy-br-phy"), ("patch-tun", 2, "patch-int")];

impl Compute {
    fn start(
        lab: &Lab,
        (name, ns): (&'static str, Netns),
        (wire, address): (&Wire, &str),
        workers: u32,
    ) -> Result<Self> {
        wire.plug(&ns, name, &format!("{address}/24"))?;
        let weft = Weftd::start(lab, &format!("weftd-{name}"), &ns, &settings(workers))?;
        Ok(Compute { weft, ns, name, vms: Vec::new() })
    }

    fn integration_bridge(&mut self, patches: &Patches) -> Result {
        self.weft.sh("bridge add br-int")?;
        for (name, ofport, peer) in patches {
            self.weft.sh(&format!("port add br-int {name} type=patch peer={peer} ofport={ofport}"))?;
        }
        Ok(())
    }

    fn tunnel_bridge(&self, number: &str, [local, remote]: [&str; 2]) -> Result {
        self.weft.sh("bridge add br-tun")?;
        self.weft.sh("port add br-tun patch-int type=patch peer=patch-tun ofport=1")?;
        for (kind, ofport) in [("vxlan", 2), ("gre", 3)] {
            let ends = format!("type={kind} local={local} remote={remote}");
            self.weft.sh(&format!("tunnel add br-tun {kind}-{number} {ends} key=flow ofport={ofport}"))?;
        }
        Ok(())
    }

    fn physical_bridge(&self, bridge: &str, device: &str) -> Result {
        self.weft.sh(&format!("bridge add {bridge}"))?;
        self.weft.sh(&format!("port add {bridge} {device} type=netdev ofport=1"))?;
        let (phy, int) = (format!("phy-{bridge}"), format!("int-{bridge}"));
        self.weft.sh(&format!("port add {bridge} {phy} type=patch peer={int} ofport=2")).map(drop)
    }

    /// The bridge of one trunk port. The agent sets no rules there: its ports' VLANs do the work.
    fn trunk_bridge(&mut self, lab: &Lab) -> Result {
        let bridge = "tbr-2234250b-5";
        let patch = |bridge: &str, port: &str, peer: &str, more: &str| {
            self.weft.sh(&format!("port add {bridge} {port} type=patch peer={peer} {more}"))
        };
        self.weft.sh(&format!("bridge add {bridge}"))?;
        patch("br-int", "tpi-77a5dbab-f8", "tpt-77a5dbab-f8", "ofport=19 vlan=4")?;
        patch("br-int", "spi-1e7d9b49-aa", "spt-1e7d9b49-aa", "ofport=20 vlan=2")?;
        patch(bridge, "tpt-77a5dbab-f8", "tpi-77a5dbab-f8", "")?;
        patch(bridge, "spt-1e7d9b49-aa", "spi-1e7d9b49-aa", &format!("vlan={SUBPORT_VLAN}"))?;
        self.plug(lab, bridge, TRUNK)
    }

    /// A VM on a tap; in br-int its port belongs to the local VLAN.
    fn plug(&mut self, lab: &Lab, bridge: &str, vm: Vm) -> Result {
        let mut host = Host::new(lab, &format!("{}-{}", self.name, vm.port), vm.port)?;
        let vlan = if bridge == "br-int" { format!("vlan={}", vm.vlan) } else { String::new() };
        let place = format!("type=tap netns={} ofport={} {vlan}", host.ns().name(), vm.ofport);
        self.weft.sh(&format!("port add {bridge} {} {place}", vm.port))?;
        // What fits into the tunnels.
        host.configure(&format!("{}/24", vm.address), vm.mac, 1400)?;
        self.vms.push((vm, host));
        Ok(())
    }

    /// The rules that the agent sets for each VM where the firewall is `noop` and port security is on: ARP goes to table 24,
    /// which knows the port's address, all goes to table 25, which knows its MAC, and from there to table 30, from
    /// which the recorded rules lead to NORMAL.
    fn anti_spoofing(&self) -> String {
        let in_the_bridge = self.vms.iter().map(|(vm, _)| vm).filter(|vm| **vm != ROUTER && **vm != TRUNK);
        let rules = |Vm { port, mac, address, .. }: &Vm| {
            format!(
                "table=0,priority=10,arp,in_port={port} actions=goto_table:24\n\
                 table=0,priority=9,in_port={port} actions=goto_table:25\n\
                 table=24,priority=2,arp,in_port={port},arp_spa={address} actions=goto_table:25\n\
                 table=25,priority=2,in_port={port},dl_src={mac} actions=goto_table:30\n"
            )
        };
        in_the_bridge.map(rules).collect()
    }

    /// A bridge's rules, as `flow dump` prints them.
    pub fn dump(&self, bridge: &str, options: &str) -> Result<String> {
        self.weft.sh(&format!("flow dump {bridge} {options}"))
    }

    /// Packets of the one rule that `filter` selects in a bridge and whose text has this in it.
    pub fn packets(&self, bridge: &str, filter: &str, has: &str) -> Result<u64> {
        let text = self.dump(bridge, filter)?;
        let mut found = text.lines().filter(|line| line.contains(has));
        match (found.next(), found.next()) {
            (Some(line), None) => number_after(line, "n_packets="),
            _ => Err(Error::new(format!("not one rule of {bridge} {filter} has {has}:\n{text}"))),
        }
    }

    /// `weftctl trace`, of which the last line is the outcome.
    pub fn trace(&self, bridge: &str, flow: &str) -> Result<(String, String)> {
        let text = self.weft.sh(&format!("trace {bridge} {flow}"))?;
        let last = text.trim_end().lines().last().unwrap_or_default().to_owned();
        Ok((text, last))
    }
}

/// The number that stands behind `key` in a line of a dump.
pub fn number_after(line: &str, key: &str) -> Result<u64> {
    let digits = line.split(key).nth(1).and_then(|rest| rest.split([',', ' ']).next());
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| Error::new(format!("no number after {key}: {line}")))
}

/// A recorded dump; `kind` is `.flows` or `.flows.nostats`.
pub fn recorded(node: &str, bridge: &str, kind: &str) -> Result<String> {
    Ok(std::fs::read_to_string(format!("{RECORDED}/{node}.{bridge}{kind}"))?)
}

/// The lines of a text for which `keep` says so.
fn lines(text: &str, keep: impl Fn(&str) -> bool) -> String {
    text.lines().filter(|line| keep(line)).flat_map(|line| [line, "\n"]).collect()
}

/// br-int's rules but for the firewall's, which track connections: left out are tables 71 to 94, and in table 60 the
/// rules of priority 90 and 100 that lead there. What stays of table 60 is `priority=3 actions=NORMAL`, which is all that
/// the agent puts there where the firewall is `noop`.
pub fn switching(recorded: &str) -> String {
    lines(recorded, |line| {
        let table = number_after(line, "table=").unwrap_or(0);
        let firewall = (71..=94).contains(&table)
            || table == 60
                && ["priority=90,", "priority=100,"].iter().any(|priority| line.contains(priority));
        !firewall
    })
}

/// A dump's lines as they are without statistics, where table 0 goes without saying. They are sorted: dumps of Open vSwitch have
/// no order within a table.
pub fn without_statistics(dump: &str) -> Vec<String> {
    const CHANGES: [&str; 5] = ["duration=", "n_packets=", "n_bytes=", "idle_age=", "hard_age="];
    let stays = |word: &&str| *word != "table=0," && !CHANGES.iter().any(|name| word.starts_with(name));
    let line = |line: &str| {
        let (head, actions) = line.trim().split_once(" actions=").unwrap_or((line, ""));
        let head: Vec<&str> = head.split(' ').filter(stays).collect();
        format!("{} actions={actions}", head.join(" "))
    };
    let mut lines: Vec<String> = dump.lines().map(line).collect();
    lines.sort();
    lines
}
