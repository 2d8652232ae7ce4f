//! A trace comes to what stock Open vSwitch's `ofproto/trace` does on the same rules: the same ports, each with the same
//! tag, or nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod rig;

use std::collections::BTreeMap;

use rig::Rig;
use weft_core::snapshot::{BridgeId, TunnelKeys};
use weft_core::trace::{Description, Names};
use weft_core::vlan::{VlanMode, VlanSet};
use weft_flow::text::parse_match;
use weft_tests::ovs::action_words;
use weft_tests::{Lab, Need, StockOvs, cmd};
use weft_wire::TunnelKind;

/// A firewall, a router and a switch, as small as they can be, with registers, learning, resubmits and clones.
const RULES: &str = "\
table=0,priority=100,dl_vlan=30 actions=strip_vlan,resubmit(,5)
table=0,priority=90,in_port=1,arp actions=NORMAL
table=0,priority=90,in_port=2,arp actions=in_port,output:3
table=0,priority=80,in_port=1,ip actions=load:0x1->NXM_NX_REG0[],resubmit(,10)
table=0,priority=80,in_port=2,ip actions=load:0x2->NXM_NX_REG0[],resubmit(,10)
table=0,priority=70,in_port=3 actions=goto_table:20
table=0,priority=60,in_port=4 actions=output:99,output:1
table=0,priority=1,ipv6 actions=write_actions(push_vlan:0x8100,set_field:4116->vlan_vid,output:4),goto_table:30
table=5,priority=1 actions=mod_vlan_vid:31,output:4,strip_vlan,output:2
table=10,priority=50,tcp,tp_dst=80 actions=resubmit(,11)
table=10,priority=50,udp,reg0=0x1 actions=clone(mod_vlan_vid:40,output:3),output:2
table=10,priority=50,udp,reg0=0x2 actions=learn(table=12,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[]),output:1
table=10,priority=40,icmp actions=dec_ttl,mod_nw_dst:10.9.9.9,output:4
table=10,priority=30,sctp actions=drop
table=11,priority=20,ip,nw_dst=10.0.0.0/8 actions=load:0x7->NXM_NX_REG1[0..7],resubmit(,12),output:4
table=11,priority=10,ip actions=ALL
table=12,priority=5,reg1=0x7/0xff actions=mod_vlan_vid:50,output:3
table=20,priority=5,dl_vlan=20 actions=output:4,mod_vlan_vid:21,resubmit(1,21)
table=20,priority=4,vlan_tci=0/0x1000 actions=FLOOD
table=21,priority=5,in_port=1 actions=output:1
table=21,priority=4 actions=output:2
table=30,priority=1,icmp6 actions=clear_actions
table=30,priority=0 actions=drop
";

const PACKETS: [&str; 26] = [
    "in_port=1,dl_vlan=30,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02",
    "in_port=3,dl_vlan=30,dl_vlan_pcp=5,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02",
    "in_port=1,arp,dl_src=02:00:00:00:00:01,dl_dst=ff:ff:ff:ff:ff:ff",
    "in_port=1,arp,dl_vlan=10,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02",
    "in_port=1,arp,dl_src=02:00:00:00:00:01,dl_dst=01:80:c2:00:00:00",
    "in_port=2,arp,dl_src=02:00:00:00:00:01",
    "in_port=1,tcp,nw_dst=10.1.2.3,tp_dst=80,nw_ttl=64",
    "in_port=1,tcp,nw_dst=11.1.2.3,tp_dst=80,nw_ttl=64",
    "in_port=2,tcp,nw_dst=11.1.2.3,tp_dst=80,nw_ttl=64",
    "in_port=1,tcp,nw_dst=11.1.2.3,tp_dst=81,nw_ttl=64",
    "in_port=1,udp,nw_dst=11.1.2.3,udp_dst=81,nw_ttl=64",
    "in_port=2,udp,nw_dst=11.1.2.3,udp_dst=81,nw_ttl=64,dl_src=02:00:00:00:00:07",
    "in_port=1,udp,dl_vlan=7,nw_dst=11.1.2.3,nw_ttl=64",
    "in_port=1,icmp,nw_dst=11.1.2.3,nw_ttl=64",
    "in_port=1,icmp,nw_dst=11.1.2.3,nw_ttl=1",
    "in_port=1,sctp,nw_dst=11.1.2.3,nw_ttl=64",
    "in_port=3,dl_vlan=20,dl_type=0x1234",
    "in_port=3,dl_vlan=22,dl_type=0x1234",
    "in_port=3,dl_type=0x1234",
    "in_port=3,ip,nw_ttl=64",
    "in_port=4,ip,nw_ttl=64",
    "in_port=4,dl_type=0x1234",
    "in_port=1,dl_type=0x1234",
    "in_port=1,tcp6,nw_ttl=64",
    "in_port=2,tcp6,nw_ttl=64",
    "in_port=1,icmp6,nw_ttl=64",
];

/// A copy: the port's number, and the VLAN of its tag.
type Out = (u16, Option<u16>);

fn weft(rig: &Rig, flow: &str) -> Vec<Out> {
    let snapshot = rig.datapath.shared().published.load();
    let bridge = snapshot.bridge(BridgeId(0)).unwrap();
    let matches = parse_match(flow, &Names { snapshot: &snapshot, bridge }).unwrap();
    let description = Description { bridge, in_port: None, matches: &matches, frame: None };
    let key = description.key(&snapshot).unwrap();
    let trace = rig.trace(&key, None);
    assert_eq!(trace.dropped.is_some(), trace.copies.is_empty() && trace.controllers.is_empty(), "{trace:?}");
    sorted(trace.copies.iter().map(|copy| (copy.ofport.0, copy.vlan.tag.map(|(vid, _)| vid))))
}

fn sorted(outs: impl Iterator<Item = Out>) -> Vec<Out> {
    let mut outs: Vec<Out> = outs.collect();
    outs.sort_unstable();
    outs
}

/// The ports' numbers by their numbers in the datapath.
fn numbers(ovs: &StockOvs) -> BTreeMap<u16, u16> {
    let shown = ovs.appctl(&["dpif/show"]).unwrap();
    let pair = |line: &str| {
        let (here, there) = line.split_whitespace().nth(1)?.strip_suffix(':')?.split_once('/')?;
        Some((there.parse().ok()?, here.parse().ok()?))
    };
    shown.lines().filter_map(pair).collect()
}

/// What comes of `flow` by the words behind "Datapath actions:".
fn stock(ovs: &StockOvs, ports: &BTreeMap<u16, u16>, flow: &str) -> Vec<Out> {
    let told = ovs.appctl(&["ofproto/trace", "br0", flow]).unwrap();
    let actions = told.lines().find_map(|line| line.strip_prefix("Datapath actions: ")).expect(&told);
    let mut tags: Vec<u16> = tag_of(flow).into_iter().collect();
    let mut before = Vec::new();
    let mut outs = Vec::new();
    for word in action_words(actions) {
        match word.as_str() {
            "clone(" => before.push(tags.clone()),
            ")" => tags = before.pop().expect(actions),
            "pop_vlan" => drop(tags.pop()),
            word => {
                if let Some(rest) = word.strip_prefix("push_vlan(vid=") {
                    tags.push(rest.split(',').next().unwrap().parse().unwrap());
                } else if let Ok(number) = word.parse::<u16>() {
                    // The bridge's own internal port is none that the rig has.
                    outs.extend(
                        ports
                            .get(&number)
                            .filter(|&&port| port < 100)
                            .map(|&port| (port, tags.last().copied())),
                    );
                }
            }
        }
    }
    sorted(outs.into_iter())
}

fn tag_of(flow: &str) -> Option<u16> {
    flow.split(',').find_map(|word| word.strip_prefix("dl_vlan=")).map(|vid| vid.parse().unwrap())
}

/// Four ports, of which `tunnels` are the numbers of tunnels that take every key; and these rules.
fn switch(rules: &str, tunnels: &[u16]) -> Rig {
    let mut rig = Rig::with_bridge(1);
    rig.add_uplink();
    for id in 0..4 {
        if tunnels.contains(&(id + 1)) {
            rig.add_tunnel(id, rig::tunnel(TunnelKind::Vxlan, id as u8 + 2, TunnelKeys::Flow));
        } else {
            rig.add_device(id, VlanMode::Trunk(VlanSet::all()));
        }
    }
    rig.publish();
    rig.load_rules(0, &rules.lines().collect::<Vec<_>>());
    rig
}

/// The same four ports and rules in stock Open vSwitch, where all ports are plain ones.
fn peer(lab: &Lab, rules: &str) -> StockOvs {
    let ovs = StockOvs::dummy(lab, "ovs").unwrap();
    ovs.vsctl(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=dummy"]).unwrap();
    for port in 1..=4 {
        let (name, number) = (format!("p{port}"), format!("ofport_request={port}"));
        ovs.vsctl(&["add-port", "br0", &name, "--", "set", "interface", &name, "type=dummy", &number])
            .unwrap();
    }
    let file = lab.path("rules");
    std::fs::write(&file, rules).unwrap();
    let bridge = format!("unix:{}", ovs.dir().join("br0.mgmt").display());
    let file = file.display().to_string();
    cmd::ok(&["ovs-ofctl", "del-flows", &bridge], cmd::SHORT).unwrap();
    cmd::ok(&["ovs-ofctl", "-OOpenFlow14", "add-flows", &bridge, &file], cmd::SHORT).unwrap();
    ovs
}

fn compare(test: &str, (rules, tunnels): (&str, &[u16]), packets: &[&str]) {
    let needs = ["ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovs-appctl", "ovs-ofctl"].map(Need::Tool);
    let Some(lab) = Lab::open(test, &needs).unwrap() else { return };
    let (rig, ovs) = (switch(rules, tunnels), peer(&lab, rules));
    let ports = numbers(&ovs);
    let mut different = Vec::new();
    for packet in packets {
        let (ours, theirs) = (weft(&rig, packet), stock(&ovs, &ports, packet));
        println!("{packet}: {ours:?}");
        if ours != theirs {
            let told = ovs.appctl(&["ofproto/trace", "br0", packet]).unwrap();
            different.push(format!("{packet}\n  weft {ours:?}\n  ovs  {theirs:?}\n{told}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn a_trace_comes_to_what_open_vswitch_traces() {
    compare("trace-ovs", (RULES, &[]), &PACKETS);
}

#[test]
fn a_trace_of_neutrons_tunnel_bridge_comes_to_what_open_vswitch_traces() {
    let rules = include_str!("../../flow/tests/data/neutron/c2.br-tun.flows.nostats");
    let packets = [
        "in_port=1,dl_vlan=1,dl_src=02:00:00:00:00:01,dl_dst=fa:16:3e:d4:ce:c6",
        "in_port=1,dl_vlan=5,dl_src=02:00:00:00:00:01,dl_dst=fa:16:3e:68:b1:e8",
        "in_port=1,dl_vlan=3,dl_src=02:00:00:00:00:01,dl_dst=fa:16:3e:0a:ba:2e",
        "in_port=1,dl_vlan=1,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:de:ad",
        "in_port=1,dl_vlan=3,dl_src=02:00:00:00:00:01,dl_dst=fa:16:3e:00:00:01",
        "in_port=1,dl_vlan=7,dl_src=02:00:00:00:00:01,dl_dst=fa:16:3e:00:00:01",
        "in_port=1,dl_src=02:00:00:00:00:01,dl_dst=fa:16:3e:00:00:01",
        "in_port=1,dl_vlan=1,dl_src=02:00:00:00:00:01,dl_dst=01:00:5e:00:00:01",
        "in_port=1,arp,dl_vlan=1,dl_src=02:00:00:00:00:01,dl_dst=ff:ff:ff:ff:ff:ff,arp_tpa=10.1.0.2,arp_op=1",
        "in_port=1,arp,dl_vlan=1,dl_src=02:00:00:00:00:01,dl_dst=ff:ff:ff:ff:ff:ff,arp_tpa=10.1.0.99,arp_op=1",
        "in_port=2,tun_id=0x505,dl_src=02:00:00:00:00:02,dl_dst=02:00:00:00:00:01",
        "in_port=2,tun_id=0x5fe,dl_src=02:00:00:00:00:02,dl_dst=02:00:00:00:00:01",
        "in_port=2,tun_id=0x506,dl_src=02:00:00:00:00:02,dl_dst=02:00:00:00:00:01",
        "in_port=3,tun_id=0xe58,dl_src=02:00:00:00:00:02,dl_dst=ff:ff:ff:ff:ff:ff",
        "in_port=3,tun_id=0x505,dl_src=02:00:00:00:00:02,dl_dst=ff:ff:ff:ff:ff:ff",
        "in_port=4,dl_src=02:00:00:00:00:02,dl_dst=ff:ff:ff:ff:ff:ff",
    ];
    compare("trace-neutron", (rules, &[2, 3]), &packets);
}
