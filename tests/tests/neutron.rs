//! Neutron's own flow tables, as its agents left them on two nodes, with VMs that talk under them; see [`neutron`].
//!
//! br-tun, br-phy and br-ex have their recorded rules unchanged. br-int has its switching part: [`neutron::switching`] says
//! which rules are left out, and `Compute::anti_spoofing` which are there instead.

use weft_tests::cmd::SHORT;
use weft_tests::neutron::{
    self, A1, A1_OTHER, A2, B1, B2, Cloud, Compute, F1, F2, G1, G2, ROUTER, SUBPORT_VLAN, TRUNK, V1, V2, Vm,
};
use weft_tests::node::NEEDS;
use weft_tests::probe::{Stream, wait_traffic};
use weft_tests::{
    Guest, Lab, QemuGuest, Result, arping, clean_ping, iperf3, ping, qemu, scenarios, wait_for,
    wait_reachable,
};

scenarios! {
    every_recorded_table_loads_and_dumps_back_line_by_line needs NEEDS;
    vms_talk_by_the_rules_of_their_networks needs NEEDS;
    what_the_rules_do_not_allow_is_dropped_and_counted needs NEEDS;
    rules_count_every_packet_of_a_stream_and_others_may_change needs NEEDS;
    an_agent_that_starts_again_sets_every_rule_anew_and_no_packet_notices needs NEEDS;
    a_trace_tells_where_a_packet_goes_and_why_not needs NEEDS;
    a_port_that_rules_name_goes_and_comes_back needs NEEDS;
    a_guest_takes_the_place_of_a_vm_under_its_rules needs [&NEEDS[..], &qemu::NEEDS].concat();
}

/// The rules of the firewall among them: what tracks connections is read and printed, too.
fn every_recorded_table_loads_and_dumps_back_line_by_line(lab: &Lab, workers: u32) -> Result {
    let cloud = Cloud::new(lab, workers)?;
    let mut count = 0;
    for (node, bridge) in cloud.tables() {
        let named = neutron::recorded(node.name, bridge, ".flows")?;
        let numbered = neutron::recorded(node.name, bridge, ".flows.nostats")?;
        for (text, kind) in [(&named, "flows"), (&numbered, "flows.nostats")] {
            let file = lab.path(&format!("{}.{bridge}.{kind}", node.name));
            std::fs::write(&file, text)?;
            let file = file.display();
            node.weft.sh(&format!("flow replace {bridge} {file}"))?;
            assert_eq!(node.weft.sh(&format!("flow diff {bridge} {file}"))?, "nothing differs\n");
            // Whether a file has names or numbers: the rules are the same, and print both ways.
            let lines = neutron::without_statistics(&node.dump(bridge, "")?);
            assert_same(
                &lines,
                &neutron::without_statistics(&named),
                &format!("{} {bridge} from {kind}", node.name),
            );
            for (options, expected) in [("--no-stats", &named), ("--no-stats --no-names", &numbered)] {
                let mut lines: Vec<String> = node.dump(bridge, options)?.lines().map(str::to_owned).collect();
                lines.sort();
                assert_same(
                    &lines,
                    &neutron::without_statistics(expected),
                    &format!("{} {bridge} {options}", node.name),
                );
            }
        }
        count += named.lines().count();
        assert!(node.dump(bridge, "--all")?.lines().count() >= named.lines().count());
    }
    assert_eq!(count, 773);
    Ok(())
}

/// Panics with the lines that only one side has.
fn assert_same(got: &[String], expected: &[String], what: &str) {
    let beyond = |one: &[String], other: &[String]| -> Vec<String> {
        one.iter().filter(|line| !other.contains(line)).cloned().collect()
    };
    let (surplus, missing) = (beyond(got, expected), beyond(expected, got));
    assert!(got == expected, "{what}: surplus {surplus:#?}, missing {missing:#?}");
}

fn ready(lab: &Lab, workers: u32) -> Result<Cloud> {
    let cloud = Cloud::new(lab, workers)?;
    cloud.load_rules(lab)?;
    Ok(cloud)
}

/// Pings until tunnels and FDBs know the way, and then three times for a clean result.
fn reaches(cloud: &Cloud, from: Vm, to: Vm) -> Result {
    wait_reachable(cloud.host(from), to.address)?;
    clean_ping(cloud.host(from), cloud.host(to), "")
}

fn vms_talk_by_the_rules_of_their_networks(lab: &Lab, workers: u32) -> Result {
    let cloud = ready(lab, workers)?;
    let Cloud { c1, c2, .. } = &cloud;
    // Two VMs of one node, two networks by VXLAN with the same addresses, one by GRE, VLAN 146 and no VLAN on the cable.
    for (from, to) in
        [(A1, A1_OTHER), (A1, A2), (A2, A1_OTHER), (B2, B1), (G1, G2), (V1, V2), (F2, F1), (TRUNK, F2)]
    {
        reaches(&cloud, from, to)?;
    }
    wait_reachable(cloud.host(ROUTER), neutron::OUTSIDE)?;
    clean_ping(&cloud.outside, cloud.host(ROUTER), "")?;
    clean_ping(cloud.host(ROUTER), &cloud.outside, "")?;

    // TCP, whose checksums VMs leave to their taps.
    for (from, to) in [(A1, A2), (G2, G1), (V1, V2), (TRUNK, F2)] {
        let tcp = iperf3(lab, cloud.host(from), cloud.host(to), 0, "-n 4M")?;
        assert!(tcp.bits_per_second > 1e6, "{} to {}: {tcp:?}", from.port, to.port);
    }
    the_arp_responder_answers_for_the_other_node(&cloud)?;
    // What table 10 learned is what it had learned in the recorded run, to the letter.
    for (node, vms) in [(c1, &[A2, B2, G2][..]), (c2, &[A1, A1_OTHER, B1, G1])] {
        let recorded = neutron::without_statistics(&neutron::recorded(node.name, "br-tun", ".flows")?);
        for vm in vms {
            let is_of = |line: &&String| {
                line.contains("hard_timeout=300, ") && line.contains(&format!("={} ", vm.mac))
            };
            let expected = recorded.iter().find(is_of).ok_or(vm.mac).map_err(weft_tests::Error::new)?;
            let learned = neutron::without_statistics(&node.dump("br-tun", "table=20")?);
            assert!(learned.contains(expected), "{}: no {expected} in {learned:#?}", node.name);
        }
    }
    // Unicast goes by the agent's rules for the other node's VMs, which have priority over what was learned.
    let known = format!("table=20,dl_dst={}", A2.mac);
    let before = c1.packets("br-tun", &known, "priority=2,")?;
    clean_ping(cloud.host(A1), cloud.host(A2), "")?;
    assert_eq!(c1.packets("br-tun", &known, "priority=2,")?, before + 3);
    Ok(())
}

/// The other node's VM is never asked.
fn the_arp_responder_answers_for_the_other_node(cloud: &Cloud) -> Result {
    let rule = format!("table=21,dl_vlan={},arp,arp_tpa={}", A1.vlan, A2.address);
    let answered = cloud.c1.packets("br-tun", &rule, "IN_PORT")?;
    let crossed = cloud.c2.packets("br-tun", "table=4", "tun_id=0x505")?;
    // Each begins with a broadcast; further requests would be unicast, which is not for the responder.
    for _ in 0..2 {
        assert_eq!(arping(cloud.host(A1), A2.address, 1)?, 1);
    }
    assert_eq!(cloud.c1.packets("br-tun", &rule, "IN_PORT")?, answered + 2);
    assert_eq!(cloud.c2.packets("br-tun", "table=4", "tun_id=0x505")?, crossed);
    Ok(())
}

/// An ARP request from `mac` that says it is from `address`.
fn arp(mac: &str, address: &str, target: &str) -> Vec<u8> {
    let mac: Vec<u8> = mac.split(':').filter_map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    let ip = |text: &str| text.split('.').filter_map(|octet| octet.parse().ok()).collect::<Vec<u8>>();
    let header = [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1];
    [&[0xff; 6], &mac[..], &header, &mac, &ip(address), &[0; 6], &ip(target), &[0; 18]].concat()
}

fn what_the_rules_do_not_allow_is_dropped_and_counted(lab: &Lab, workers: u32) -> Result {
    let cloud = ready(lab, workers)?;
    let Cloud { c1, c2, .. } = &cloud;
    reaches(&cloud, A1, A2)?;
    reaches(&cloud, B1, B2)?;
    let (ns, port) = (cloud.host(A1).ns(), A1.port);
    // Somebody else's address in ARP: the rule of table 24 that drops. Somebody else's MAC: table 25 has no rule for it.
    let (dropped, missed) = (c1.weft.drops(port, "rule_drop")?, c1.weft.drops(port, "table_miss")?);
    let refused = c1.packets("br-int", "table=24", "priority=0")?;
    let received = c1.weft.counter(A1_OTHER.port, "tx_packets")?;
    ns.send_frames(port, &vec![arp(A1.mac, A1_OTHER.address, A1_OTHER.address); 5])?;
    ns.send_frames(port, &vec![arp(A1_OTHER.mac, A1.address, A1_OTHER.address); 7])?;
    wait_for("twelve drops", SHORT, || {
        let counts = (c1.weft.drops(port, "rule_drop")?, c1.weft.drops(port, "table_miss")?);
        Ok(counts == (dropped + 5, missed + 7))
    })?;
    assert_eq!(c1.packets("br-int", "table=24", "priority=0")?, refused + 5);
    assert_eq!(c1.weft.counter(A1_OTHER.port, "tx_packets")?, received);
    // The same address range, another network: neither node lets it over.
    let before = c2.weft.counter(B2.port, "tx_packets")?;
    assert_eq!(ping(ns, B2.address, 3, "-W 1")?.received, 0);
    assert_eq!(ping(cloud.host(B2).ns(), A1.address, 3, "-W 1")?.received, 0);
    assert_eq!(c2.weft.counter(B2.port, "tx_packets")?, before, "nothing reached the other tenant");
    Ok(())
}

/// The rules that unicast of network A from c1 to c2 meets, and how each is told from others.
const A1_TO_A2: [(&str, &str, &str, &str); 13] = [
    ("c1", "br-int", "table=0", "priority=9,in_port=\"tap05ca1ee7-d8\""),
    ("c1", "br-int", "table=25", "in_port=\"tap05ca1ee7-d8\""),
    ("c1", "br-int", "table=30", ""),
    ("c1", "br-int", "table=59", ""),
    ("c1", "br-int", "table=60", "priority=3 "),
    ("c1", "br-tun", "table=0", "in_port=\"patch-int\""),
    ("c1", "br-tun", "table=2", "dl_dst=00:00:00:00:00:00/01:00:00:00:00:00"),
    ("c1", "br-tun", "table=20,dl_dst=fa:16:3e:b7:eb:bd", "priority=2,"),
    ("c2", "br-tun", "table=0", "in_port=\"vxlan-0a4e0001\""),
    ("c2", "br-tun", "table=4", "tun_id=0x505"),
    ("c2", "br-tun", "table=10", "learn("),
    ("c2", "br-int", "table=59", ""),
    ("c2", "br-int", "table=60", "priority=3 "),
];

fn counts(cloud: &Cloud) -> Result<Vec<u64>> {
    let node = |name| if name == "c1" { &cloud.c1 } else { &cloud.c2 };
    A1_TO_A2.iter().map(|(name, bridge, filter, has)| node(*name).packets(bridge, filter, has)).collect()
}

/// Rules come and go, in every table that the stream passes: none of them is for it.
fn change_others(node: &Compute, times: u32) -> Result {
    for round in 0..times {
        for (bridge, table) in [("br-int", 60), ("br-tun", 20), ("br-int", 0), ("br-tun", 2)] {
            let rule =
                format!("cookie=0xbad,table={table},priority=77,dl_vlan={},udp actions=drop", 700 + round);
            node.weft.ctl(&["flow", "add", bridge, &rule])?;
        }
        if round % 2 == 1 {
            node.weft.sh("flow del br-int cookie=0xbad/-1")?;
            node.weft.sh("flow del br-tun cookie=0xbad/-1")?;
        }
    }
    Ok(())
}

fn rules_count_every_packet_of_a_stream_and_others_may_change(lab: &Lab, workers: u32) -> Result {
    let cloud = ready(lab, workers)?;
    reaches(&cloud, A1, A2)?;
    let before = counts(&cloud)?;
    let stream = Stream::start(lab, "stream", (cloud.host(A1), cloud.host(A2)), (2000, 5))?;
    wait_traffic(&cloud.c2.weft, "patch-tun")?;
    change_others(&cloud.c1, 10)?;
    change_others(&cloud.c2, 10)?;
    let shown = cloud.c1.weft.sh(&format!("cache show {}", A1.port))?;
    let arriving = cloud.c2.weft.sh("cache show vxlan-0a4e0001")?;
    let sent = stream.finish_clean()?.sent;
    assert!(arriving.contains(&format!("output({},pop_vlan)", A2.port)), "{arriving}");
    let cached = shown.lines().find(|line| line.contains("vxlan-0a4e0002"));
    assert!(cached.is_some_and(|steps| steps.contains("0x505")), "{shown}");
    let after = counts(&cloud)?;
    for ((rule, before), after) in A1_TO_A2.iter().zip(before).zip(after) {
        assert_eq!(after - before, sent, "{rule:?}");
    }
    // What was learned from the stream's first packet was learned again from its later ones: they keep the rule.
    let learned = cloud.c2.dump("br-tun", &format!("table=20,dl_dst={}", A1.mac))?;
    let line = learned.lines().find(|line| line.contains("hard_timeout=300")).unwrap_or_default();
    assert!(neutron::number_after(line, "hard_age=")? <= 3, "{learned}");
    Ok(())
}

/// As the agent does it: all rules once more, with a new cookie, and then the old cookies' go, what was learned among them.
fn set_anew(lab: &Lab, node: &Compute, bridge: &str) -> Result {
    let dump = node.dump(bridge, "--no-stats")?;
    let cookies = dump.lines().filter_map(|line| line.strip_prefix("cookie=")?.split(',').next());
    let old: std::collections::BTreeSet<&str> = cookies.collect();
    let mut text = dump.clone();
    for cookie in &old {
        text = text.replace(&format!("cookie={cookie}"), "cookie=0xfeed");
    }
    let kept: Vec<&str> = text.lines().filter(|line| !line.contains("hard_timeout=300, priority")).collect();
    let file = lab.path(&format!("{}.{bridge}.anew", node.name));
    std::fs::write(&file, kept.join("\n"))?;
    node.weft.sh(&format!("flow add {bridge} --file {}", file.display()))?;
    for cookie in old {
        node.weft.sh(&format!("flow del {bridge} cookie={cookie}/-1"))?;
    }
    Ok(())
}

fn an_agent_that_starts_again_sets_every_rule_anew_and_no_packet_notices(lab: &Lab, workers: u32) -> Result {
    let cloud = ready(lab, workers)?;
    reaches(&cloud, A1, A2)?;
    reaches(&cloud, V1, V2)?;
    let tunnelled = Stream::start(lab, "tunnelled", (cloud.host(A1), cloud.host(A2)), (2000, 5))?;
    let cabled = Stream::start(lab, "cabled", (cloud.host(V2), cloud.host(V1)), (1000, 5))?;
    wait_traffic(&cloud.c2.weft, "patch-tun")?;
    wait_traffic(&cloud.c1.weft, "ul0")?;
    for (node, bridge) in cloud.tables() {
        set_anew(lab, node, bridge)?;
    }
    tunnelled.finish_clean()?;
    cabled.finish_clean()?;
    for (node, bridge) in cloud.tables() {
        let dump = node.dump(bridge, "--no-stats")?;
        assert!(
            !dump.is_empty()
                && !dump.lines().any(|line| line.contains("cookie=") && !line.contains("cookie=0xfeed")),
            "{dump}"
        );
    }
    // The stream has taught the new rule of table 10 what the old one knew.
    let learned = cloud.c2.dump("br-tun", &format!("table=20,dl_dst={}", A1.mac))?;
    assert!(learned.contains("hard_timeout=300") && learned.contains("cookie=0xfeed"), "{learned}");
    Ok(())
}

fn a_trace_tells_where_a_packet_goes_and_why_not(lab: &Lab, workers: u32) -> Result {
    let cloud = ready(lab, workers)?;
    for (from, to) in [(A1, A2), (G1, G2), (V1, V2)] {
        reaches(&cloud, from, to)?;
    }
    what_goes_is_told_with_its_form(&cloud)?;
    what_does_not_go_is_told_with_the_rule(&cloud)?;
    the_walk_names_each_rule(&cloud)?;
    a_new_rule_changes_the_trace_and_the_cache(&cloud)
}

fn what_goes_is_told_with_its_form(cloud: &Cloud) -> Result {
    let Cloud { c1, c2, .. } = cloud;
    let mac = c2.ns.sh("cat /sys/class/net/uplink/address")?;
    let tunnel = |kind: &str, key: &str, size: u32| {
        let path = format!("10.78.0.2 by uplink and {}, frames up to {size} octets", mac.trim());
        format!("{kind}-0a4e0002 (untagged, {kind} key {key} to {path})")
    };
    let from_trunk = format!("{},dl_vlan={SUBPORT_VLAN}", packet(TRUNK, V2));
    for (node, bridge, flow, to) in [
        (c1, "br-int", packet(A1, A2), tunnel("vxlan", "1285", 1464)),
        (c1, "br-int", packet(G1, G2), tunnel("gre", "3672", 1472)),
        (c1, "br-int", packet(V1, V2), "ul0 (VLAN 146)".to_owned()),
        (c1, "tbr-2234250b-5", from_trunk, "ul0 (VLAN 146); tbr-2234250b-5 (VLAN 55)".to_owned()),
        (c2, "br-tun", from_tunnel("0x505"), format!("{} (untagged)", A2.port)),
    ] {
        let (text, last) = node.trace(bridge, &flow)?;
        println!("{}# weftctl trace {bridge} {flow}\n{text}", node.name);
        assert_eq!(last, format!("forwarded to {to}"));
    }
    Ok(())
}

fn what_does_not_go_is_told_with_the_rule(cloud: &Cloud) -> Result {
    let Cloud { c1, c2, .. } = cloud;
    let says_drop = |place: &str, cookie: &str| {
        format!(
            "rule_drop): the rule of {place}, priority 0, cookie {cookie}, matching everything, says drop"
        )
    };
    let other_address = format!("in_port={},arp,dl_src={},arp_spa={}", A1.port, A1.mac, A1_OTHER.address);
    let other_mac = packet(A1, A2).replace(A1.mac, A1_OTHER.mac);
    let no_rule = "table_miss): table 25 of bridge br-int has no rule for it".to_owned();
    for (node, bridge, flow, why) in [
        (c2, "br-tun", from_tunnel("0x999"), says_drop("table 4 of bridge br-tun", "0x67c9b58051919e43")),
        (c1, "br-int", other_address, says_drop("table 24 of bridge br-int", "0x3432ff94b5f2ab01")),
        (c1, "br-int", other_mac, no_rule),
    ] {
        let (text, last) = node.trace(bridge, &flow)?;
        println!("{}# weftctl trace {bridge} {flow}\n{text}", node.name);
        assert_eq!(last, format!("dropped ({why}"));
    }
    Ok(())
}

fn packet(from: Vm, to: Vm) -> String {
    let (Vm { port, mac, address, .. }, dst) = (from, to.mac);
    format!("in_port={port},icmp,dl_src={mac},dl_dst={dst},nw_src={address},nw_dst={}", to.address)
}

/// What comes to c2 with this key.
fn from_tunnel(key: &str) -> String {
    format!("in_port=vxlan-0a4e0001,tun_id={key},icmp,dl_src={},dl_dst={}", A1.mac, A2.mac)
}

fn the_walk_names_each_rule(cloud: &Cloud) -> Result {
    let text = cloud.c1.trace("br-int", &packet(A1, A2))?.0;
    let mut at = 0;
    for step in [
        "bridge br-int, in by port tap05ca1ee7-d8 (4)",
        "table 0: cookie 0x765a76a7bdb8b3b6, priority 200, reg3=0",
        "reg3: 0x0 -> 0x1",
        "table 0: priority 9, in_port=\"tap05ca1ee7-d8\"",
        "table 25: priority 2, in_port=\"tap05ca1ee7-d8\",dl_src=fa:16:3e:7c:aa:99",
        "table 60: cookie 0x3432ff94b5f2ab01, priority 3, everything",
        "in VLAN 1",
        "fa:16:3e:b7:eb:bd is behind patch-tun",
        "bridge br-tun, in by port patch-int (1)",
        "vlan: untagged -> VLAN 1",
        "table 20: cookie 0x10128462d7d8e778, priority 2, dl_vlan=1,dl_dst=fa:16:3e:b7:eb:bd",
        "tun_id: 0x0 -> 0x505",
        "output:\"vxlan-0a4e0002\"",
    ] {
        let found = text.get(at..).and_then(|rest| rest.find(step));
        at += found.unwrap_or_else(|| panic!("no {step} (any more) in\n{text}"));
    }
    let arrives = cloud.c2.trace("br-tun", &from_tunnel("0x505"))?.0;
    assert!(
        arrives.contains("would make the rule: cookie=0x67c9b58051919e43, table=20, hard_timeout=300"),
        "{arrives}"
    );
    Ok(())
}

/// The trace says what the next packet meets, and the cache what the last ones met.
fn a_new_rule_changes_the_trace_and_the_cache(cloud: &Cloud) -> Result {
    let c1 = &cloud.c1;
    let cached = || c1.weft.sh(&format!("cache show {}", A1.port));
    clean_ping(cloud.host(A1), cloud.host(A2), "")?;
    assert!(cached()?.contains("vxlan-0a4e0002"), "{}", cached()?);
    c1.weft.ctl(&["flow", "add", "br-tun", "cookie=0x22,table=2,priority=9,icmp actions=drop"])?;
    let (_, last) = c1.trace("br-int", &packet(A1, A2))?;
    assert_eq!(
        last,
        "dropped (rule_drop): the rule of table 2 of bridge br-tun, priority 9, cookie 0x22, matching icmp, says drop"
    );
    assert_eq!(ping(cloud.host(A1).ns(), A2.address, 3, "-W 1")?.received, 0);
    assert_eq!(c1.packets("br-tun", "cookie=0x22/-1", "")?, 3);
    // What the cache had of them before is of no use any more, and not shown.
    let shown = cached()?;
    let to_a2: Vec<&str> = shown.split("worker=").filter(|flow| flow.contains(A2.mac)).collect();
    assert!(to_a2.len() == 1 && to_a2.concat().ends_with("  drop(rule_drop)\n"), "{shown}");
    c1.weft.sh("flow del br-tun cookie=0x22/-1")?;
    clean_ping(cloud.host(A1), cloud.host(A2), "")
}

fn a_port_that_rules_name_goes_and_comes_back(lab: &Lab, workers: u32) -> Result {
    let cloud = ready(lab, workers)?;
    let weft = &cloud.c1.weft;
    reaches(&cloud, G1, G2)?;
    reaches(&cloud, A1, A2)?;
    let rules = cloud.c1.dump("br-tun", "--no-stats")?;
    weft.remove("tunnel del gre-0a4e0002")?;
    let before = weft.drops(G1.port, "no_such_port")?;
    let sent = ping(cloud.host(G1).ns(), G2.address, 4, "-W 1")?;
    assert_eq!((sent.received, weft.drops(G1.port, "no_such_port")? - before), (0, 4));
    // The rules are still there, with the number that has no name now.
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let numbered = rules.replace("\"gre-0a4e0002\"", "3");
    assert_same(&lines(&cloud.c1.dump("br-tun", "--no-stats")?), &lines(&numbered), "without the port");
    clean_ping(cloud.host(A1), cloud.host(A2), "")?;
    weft.sh("tunnel add br-tun gre-0a4e0002 type=gre local=10.78.0.1 remote=10.78.0.2 key=flow ofport=3")?;
    assert_same(&lines(&cloud.c1.dump("br-tun", "--no-stats")?), &lines(&rules), "with it again");
    reaches(&cloud, G1, G2)
}

/// A real guest, on a tap that QEMU holds, gets the name and the OpenFlow number of a VM's port; no rule is touched.
fn a_guest_takes_the_place_of_a_vm_under_its_rules(lab: &Lab, workers: u32) -> Result {
    let cloud = ready(lab, workers)?;
    let c1 = &cloud.c1;
    let Vm { port, ofport, vlan, mac, address } = A1_OTHER;
    reaches(&cloud, A1_OTHER, A2)?;
    c1.weft.remove(&format!("port del {port}"))?;
    c1.ns.ip(&format!("tuntap add {port} mode tap"))?;
    c1.ns.ip(&format!("link set {port} up"))?;
    let guest = Guest { tap: port, cidr: &format!("{address}/24"), mac, mtu: 1400 };
    let mut guest = QemuGuest::boot(lab, "guest", &c1.ns, &guest)?;
    c1.weft.sh(&format!("port add br-int {port} type=netdev ofport={ofport} vlan={vlan}"))?;
    for vm in [A1, A2] {
        let pings = guest.sh(&format!("ping -c 3 {}", vm.address))?;
        assert!(pings.contains("3 packets received") && !pings.contains("DUP"), "{pings}");
        let result = ping(cloud.host(vm).ns(), address, 3, "")?;
        assert!(result.is_clean(), "{}: {result:?}", vm.port);
    }
    // Its own address is all that it may speak ARP with.
    let refused = c1.packets("br-int", "table=24", "priority=0")?;
    guest.sh(&format!("ip addr add {}/32 dev eth0", A1.address))?;
    let (code, said) =
        guest.run(&format!("arping -c 2 -w 2 -I eth0 -s {} {}", A1.address, A2.address), SHORT)?;
    assert_ne!(code, 0, "{said}");
    let seen = c1.packets("br-int", "table=24", "priority=0")? - refused;
    assert!((2..=3).contains(&seen), "{seen} of ARP requests in another's name: {said}");
    Ok(())
}
