//! Neutron's flow tables in stock Open vSwitch: a packet meets the same rules there as in weft, bridge by bridge.

use std::collections::BTreeSet;

use serde_json::Value;
use weft_tests::cmd::{self, SHORT};
use weft_tests::neutron::{A1, A1_OTHER, A2, B1, B2, Cloud, Compute, F1, F2, G1, G2, TRUNK, V1, V2, Vm};
use weft_tests::node::NEEDS;
use weft_tests::{Error, Lab, Need, Result, StockOvs};

/// A rule that a packet meets: bridge, table, and priority and cookie unless the table has none for it.
type Met = (String, u64, Option<(u64, u64)>);

#[test]
fn a_packet_meets_the_rules_that_it_meets_in_stock_open_vswitch() -> Result {
    let ovs = ["ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovs-appctl", "ovs-ofctl"].map(Need::Tool);
    let needs = [&NEEDS[..], &ovs].concat();
    let Some(lab) = Lab::open("a_packet_meets_the_rules_that_it_meets_in_stock_open_vswitch", &needs)? else {
        return Ok(());
    };
    let cloud = Cloud::new(&lab, 1)?;
    cloud.load_rules(&lab)?;
    let (mut count, mut rules) = (0, 0);
    for node in [&cloud.c1, &cloud.c2] {
        let peer = peer(&lab, node)?;
        for (bridge, packet) in packets(node.name) {
            let (ours, theirs) = (ours(node, bridge, &packet)?, theirs(&peer, bridge, &packet)?);
            assert_eq!(ours, theirs, "{} {bridge} {packet}", node.name);
            (count, rules) = (count + 1, rules + ours.len());
        }
        assert_eq!(peer.complaints(), [""; 0]);
    }
    println!("{count} packets met {rules} rules, and the same ones");
    assert!(count > 900 && rules > 6000, "{count} packets, {rules} rules");
    Ok(())
}

/// Unicast and ARP of every VM to every other, in its own name and in another's; and what comes in from outside.
fn packets(node: &str) -> Vec<(&'static str, String)> {
    let (here, there): (&[Vm], &[Vm]) = (&[A1, A1_OTHER, B1, G1, V1, F1], &[A2, B2, G2, V2, F2]);
    let (here, there, other) =
        if node == "c1" { (here, there, "0a4e0002") } else { (there, here, "0a4e0001") };
    let mut packets = Vec::new();
    for from in here {
        // To itself: weft says that it is dropped, as it is. Open vSwitch's trace learns no address, and so floods it.
        for to in here.iter().chain(there).filter(|to| to.mac != from.mac) {
            let Vm { port, mac, address, .. } = from;
            packets.push((
                "br-int",
                format!("in_port={port},icmp,dl_src={mac},dl_dst={},nw_src={address}", to.mac),
            ));
            let asks = format!("arp_op=1,arp_tpa={},arp_sha={mac}", to.address);
            for name in [address, to.address] {
                packets.push((
                    "br-int",
                    format!("in_port={port},arp,dl_src={mac},dl_dst=ff:ff:ff:ff:ff:ff,{asks},arp_spa={name}"),
                ));
            }
            for (tunnel, key) in
                [("vxlan", 0x505), ("vxlan", 0x5fe), ("vxlan", 0xe58), ("gre", 0xe58), ("gre", 0x505)]
            {
                packets.push((
                    "br-tun",
                    format!("in_port={tunnel}-{other},tun_id={key},tcp,dl_src={},dl_dst={mac}", to.mac),
                ));
            }
        }
        let tags = ["", ",dl_vlan=146", ",dl_vlan=147", ",dl_vlan=4095"];
        for tag in tags.into_iter().filter(|_| from.mac != F2.mac) {
            packets.push(("br-phy", format!("in_port=ul0,udp,dl_src={},dl_dst={}{tag}", F2.mac, from.mac)));
        }
    }
    if node == "c1" {
        packets
            .push(("br-ex", "in_port=ex0,arp,dl_src=02:00:00:00:00:01,dl_dst=ff:ff:ff:ff:ff:ff".to_owned()));
        for tag in ["", ",dl_vlan=55", ",dl_vlan=56"] {
            let packet = format!("in_port={},icmp,dl_src={},dl_dst={}{tag}", TRUNK.port, TRUNK.mac, V2.mac);
            packets.push(("tbr-2234250b-5", packet));
        }
    }
    packets
}

/// Open vSwitch with the node's bridges, ports and rules.
fn peer(lab: &Lab, node: &Compute) -> Result<StockOvs> {
    let ovs = StockOvs::dummy(lab, &format!("ovs-{}", node.name))?;
    let ports = node.weft.json("port list")?;
    let ports = ports.as_array().map(Vec::as_slice).unwrap_or_default();
    let bridges: BTreeSet<&str> = ports.iter().filter_map(|port| port["bridge"].as_str()).collect();
    for bridge in bridges {
        ovs.vsctl(&["add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=dummy"])?;
        ovs.vsctl(&["set", "bridge", bridge, "protocols=OpenFlow10,OpenFlow14"])?;
    }
    let words: Vec<String> =
        ports.iter().filter(|port| port["type"] != "internal").flat_map(port_words).collect();
    ovs.vsctl(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
    for bridge in ["br-int", "br-tun", "br-phy", "br-ex"] {
        let file = lab.path(&format!("{}.{bridge}", node.name));
        if file.exists() {
            let target = format!("unix:{}", ovs.dir().join(format!("{bridge}.mgmt")).display());
            let file = file.display().to_string();
            cmd::ok(&["ovs-ofctl", "-OOpenFlow14", "replace-flows", &target, &file], SHORT)?;
        }
    }
    Ok(ovs)
}

/// What makes such a port there.
fn port_words(port: &Value) -> Vec<String> {
    let text = |key: &str| port[key].as_str().unwrap_or_default().to_owned();
    let (name, kind) = (text("name"), text("type"));
    let kind: Vec<String> = match &*kind {
        "patch" => {
            let peer = text("why").replace("peer ", "");
            vec!["type=patch".to_owned(), format!("options:peer={peer}")]
        }
        "vxlan" | "gre" => {
            vec![
                format!("type={kind}"),
                "options:remote_ip=10.78.0.9".to_owned(),
                "options:key=flow".to_owned(),
            ]
        }
        _ => vec!["type=dummy".to_owned()],
    };
    let tag = text("vlan").strip_prefix("access ").map(|vlan| format!("tag={vlan}"));
    let add = ["--", "add-port", &text("bridge"), &name].map(str::to_owned);
    let set = ["--", "set", "interface", &name].map(str::to_owned);
    let number = format!("ofport_request={}", port["ofport"]);
    add.into_iter().chain(tag).chain(set).chain(kind).chain([number]).collect()
}

fn ours(node: &Compute, bridge: &str, packet: &str) -> Result<Vec<Met>> {
    let trace = node.weft.json(&format!("trace {bridge} {packet}"))?;
    let mut within: Vec<(u64, String)> = Vec::new();
    let mut met = Vec::new();
    for step in trace["steps"].as_array().into_iter().flatten() {
        let depth = step["depth"].as_u64().unwrap_or_default();
        within.retain(|(outer, _)| *outer < depth);
        if let Some(bridge) = step["bridge"]["bridge"].as_str() {
            within.push((depth, bridge.to_owned()));
        }
        let lookup = &step["lookup"];
        if let Some(table) = lookup["table"].as_u64() {
            let rule = lookup["rule"]["priority"].as_u64().zip(lookup["rule"]["cookie"].as_u64());
            met.push((within.last().map(|(_, bridge)| bridge.clone()).unwrap_or_default(), table, rule));
        }
    }
    met.sort();
    Ok(met)
}

fn theirs(ovs: &StockOvs, bridge: &str, packet: &str) -> Result<Vec<Met>> {
    let text = ovs.appctl(&["ofproto/trace", bridge, packet])?;
    let mut within: Vec<(usize, String)> = Vec::new();
    let mut met = Vec::new();
    for line in text.lines() {
        let depth = line.len() - line.trim_start().len();
        if let Some(name) = line.trim_start().strip_prefix("bridge(\"") {
            within.retain(|(outer, _)| *outer < depth);
            within.push((depth, name.trim_end_matches("\")").to_owned()));
        }
        // A table's number has two places: " 0. in_port=4, priority 9, cookie 0x7".
        let Some((table, rule)) = line.trim_start().split_once(". ") else { continue };
        let Ok(table) = table.parse() else { continue };
        within.retain(|(outer, _)| *outer <= depth);
        let place = within.last().map(|(_, bridge)| bridge.clone()).unwrap_or_default();
        met.push((place, table, priority_and_cookie(rule)?));
    }
    met.sort();
    Ok(met)
}

fn priority_and_cookie(rule: &str) -> Result<Option<(u64, u64)>> {
    if rule.starts_with("No match") {
        return Ok(None);
    }
    let words = || rule.split(", ");
    let priority = words().find_map(|word| word.strip_prefix("priority ")?.parse().ok());
    let cookie = words().find_map(|word| word.strip_prefix("cookie 0x"));
    let cookie = cookie.map_or(Some(0), |hex| u64::from_str_radix(hex, 16).ok());
    priority.zip(cookie).map(Some).ok_or_else(|| Error::new(format!("not a rule of a trace: {rule}")))
}
