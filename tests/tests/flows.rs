//! Flow tables from the command line to the wire: rules as text, statistics, timeouts, patch ports, tunnels by flow.

use std::time::Duration;
use weft_tests::cmd::SHORT;
use weft_tests::node::NEEDS;
use weft_tests::probe::{self, Stream};
use weft_tests::{
    Host, KernelVxlan, Lab, Need, Node, Result, Weftd, Wire, clean_ping, ping, scenarios, wait_for,
    wait_reachable,
};

scenarios! {
    rules_switch_drop_count_and_expire needs NEEDS;
    a_patch_port_joins_two_bridges needs NEEDS;
    rules_choose_the_keys_of_a_tunnel_and_learn_the_way_back needs NEEDS;
    rules_choose_the_remote_end_of_a_tunnel needs [&NEEDS[..], &[Need::Device("vxlan")]].concat();
    a_text_is_refused_in_one_line_and_nothing_of_it_is_done needs NEEDS;
}

const LIMIT: Duration = SHORT;

/// The rules that a filter selects, as `weftctl --json` has them.
fn rules(weft: &Weftd, filter: &str) -> Result<Vec<serde_json::Value>> {
    let rules = weft.json(&format!("flow dump br0 {filter}"))?;
    let rules = probe::find(&rules, "rules").cloned().unwrap_or(rules);
    Ok(rules.as_array().cloned().unwrap_or_default())
}

/// Packets of the rules that a filter selects on a bridge.
fn packets(weft: &Weftd, bridge: &str, filter: &str) -> Result<u64> {
    let text = weft.sh(&format!("flow dump {bridge} {filter}"))?;
    let counts = text.split("n_packets=").skip(1).filter_map(|rest| rest.split(',').next());
    Ok(counts.filter_map(|count| count.parse::<u64>().ok()).sum())
}

fn rules_switch_drop_count_and_expire(lab: &Lab, workers: u32) -> Result {
    let node = Node::alone(lab, "node", workers)?;
    let weft = &node.weft;
    let one = node.numbered_vm(lab, "one", "", 1)?;
    let two = node.numbered_vm(lab, "two", "ofport=7", 2)?;
    assert_eq!(weft.sh("flow dump br0 --no-stats")?, "priority=0 actions=NORMAL\n");
    let file = probe::file(
        lab,
        "rules",
        "# two ways\nin_port=one actions=output:7\nin_port=7 actions=output:one\n",
    )?;
    let replaced = weft.sh(&format!("flow replace br0 {}", file.display()))?;
    assert_eq!(replaced, "2 added, 1 removed\n");
    assert_eq!(weft.sh(&format!("flow diff br0 {}", file.display()))?, "nothing differs\n");
    clean_ping(&one, &two, "")?;
    weft.ctl(&["flow", "add", "br0", "priority=40000,icmp actions=drop"])?;
    assert_eq!(ping(one.ns(), two.address(), 3, "-W 1")?.received, 0);
    assert!(weft.drops("one", "rule_drop")? >= 3);
    weft.sh("flow del br0 icmp")?;
    clean_ping(&one, &two, "")?;
    let running = std::thread::scope(|scope| -> Result<_> {
        let running = scope.spawn(|| ping(one.ns(), two.address(), 60, "-l 1 -i 0.05 -W 1"));
        std::thread::sleep(Duration::from_millis(500));
        weft.ctl(&["flow", "add", "br0", "priority=40000,icmp actions=drop"])?;
        std::thread::sleep(Duration::from_millis(700));
        weft.sh("flow del br0 icmp")?;
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    assert!((10..55).contains(&running.received), "some before, none meanwhile, some after: {running:?}");
    a_stream_is_counted_exactly(lab, weft, (&one, &two))?;
    the_cache_shows_what_packets_find(weft, (&one, &two))?;
    weft.ctl(&["flow", "add", "br0", "cookie=9,idle_timeout=1,priority=1 actions=drop"])?;
    assert_eq!(rules(weft, "cookie=9/-1")?.len(), 1);
    wait_for("the idle rule's end", LIMIT, || Ok(rules(weft, "cookie=9/-1")?.is_empty()))
}

fn a_stream_is_counted_exactly(lab: &Lab, weft: &Weftd, (one, two): (&Host, &Host)) -> Result {
    let rule = "cookie=0x77,idle_timeout=2,priority=50000,in_port=one,udp actions=output:two";
    weft.ctl(&["flow", "add", "br0", rule])?;
    let sent = Stream::start(lab, "stream", (one, two), (2000, 4))?.finish_clean()?.sent;
    // It lasts longer than the rule may be idle: the rule is still there, or its traffic was not seen.
    let counted = packets(weft, "br0", "cookie=0x77/-1")?;
    assert_eq!(counted, sent, "{}", weft.sh("flow dump br0")?);
    let cached = weft.sh("cache show one")?;
    assert!(cached.contains("output(two)"), "{cached}");
    wait_for("the silent rule's end", LIMIT, || Ok(rules(weft, "cookie=0x77/-1")?.is_empty()))
}

/// A rule that nobody meets reads more of the packets: flows that were cached without are found no more, and not listed.
fn the_cache_shows_what_packets_find(weft: &Weftd, (one, two): (&Host, &Host)) -> Result {
    let cached = || -> Result<Vec<String>> {
        let shown = weft.sh("cache show one")?;
        Ok(shown.split("worker=").filter(|flow| flow.contains("output(two)")).map(str::to_owned).collect())
    };
    weft.ctl(&["flow", "add", "br0", "cookie=0x78,priority=60000 actions=output:two,output:one"])?;
    clean_ping(one, two, "")?;
    assert!(!cached()?.is_empty() && !cached()?.concat().contains("tp_"), "{:?}", cached()?);
    weft.ctl(&["flow", "add", "br0", "cookie=0x78,priority=1,tcp,tp_dst=5 actions=drop"])?;
    assert_eq!(cached()?, [""; 0]);
    clean_ping(one, two, "")?;
    let again = cached()?;
    assert!(again.len() == 1 && again[0].contains(",icmp,"), "{again:?}");
    weft.sh("flow del br0 cookie=0x78/-1")?;
    // Not what was cached under the wider mask.
    assert!(!cached()?.concat().contains(",icmp,"), "{:?}", cached()?);
    clean_ping(one, two, "")
}

fn a_patch_port_joins_two_bridges(lab: &Lab, workers: u32) -> Result {
    let node = Node::alone(lab, "node", workers)?;
    let weft = &node.weft;
    let one = node.numbered_vm(lab, "one", "vlan=10", 1)?;
    weft.sh("bridge add br1")?;
    let mut two = Host::new(lab, "node-two", "two")?;
    weft.sh(&format!("port add br1 two type=tap netns={} vlan=10", two.ns().name()))?;
    two.configure("10.0.0.2/24", "02:00:00:00:00:02", 0)?;
    weft.sh("port add br0 to-br1 type=patch peer=to-br0")?;
    assert_eq!(probe::down(weft, "to-br1")?.as_deref(), Some("its peer to-br0 does not exist"));
    weft.sh("port add br1 to-br0 type=patch peer=to-br1")?;
    assert_eq!(probe::down(weft, "to-br1")?, None);
    clean_ping(&one, &two, "")?;
    let sent = Stream::start(lab, "stream", (&one, &two), (2000, 1))?.finish_clean()?.sent;
    // Dumps add up what workers have counted: ports that packets only pass are counted with rules.
    assert!(packets(weft, "br1", "in_port=to-br0")? == 0 && packets(weft, "br1", "")? >= sent);
    assert!(weft.counter("to-br0", "rx_packets")? >= sent);
    weft.ctl(&["flow", "add", "br1", "priority=1,in_port=to-br0 actions=drop"])?;
    assert_eq!(ping(one.ns(), two.address(), 2, "-W 1")?.received, 0);
    weft.sh("flow del br1 in_port=to-br0")?;
    clean_ping(&one, &two, "")?;
    weft.remove("port del to-br0")?;
    assert_eq!(ping(one.ns(), two.address(), 2, "-W 1")?.received, 0);
    Ok(())
}

/// A tunnel bridge as an agent makes it, with the rules that Open vSwitch listed there.
fn tunnel_bridge(node: &Node, remote: &str, vlan: u16) -> Result {
    let (weft, local) = (&node.weft, &node.address);
    weft.sh("bridge add br-tun internal=false")?;
    weft.sh("port add br0 patch-tun type=patch peer=patch-int")?;
    weft.sh("port add br-tun patch-int type=patch peer=patch-tun")?;
    weft.sh(&format!("tunnel add br-tun vxlan-0a4e0002 type=vxlan local={local} remote={remote} key=flow"))?;
    let text = include_str!("../data/br-tun.flows")
        .replace("dl_vlan=1 ", &format!("dl_vlan={vlan} "))
        .replace("set_field:4097->", &format!("set_field:{}->", 4096 + vlan));
    let file = format!("{}.flows", weft.socket());
    std::fs::write(&file, text)?;
    weft.sh(&format!("flow replace br-tun {file}"))?;
    assert_eq!(weft.sh(&format!("flow diff br-tun {file}"))?, "nothing differs\n");
    Ok(())
}

/// VLAN 1 of one node and VLAN 2 of the other are the key 0x505 on the wire.
fn rules_choose_the_keys_of_a_tunnel_and_learn_the_way_back(lab: &Lab, workers: u32) -> Result {
    let wire = Wire::new(lab)?;
    let a = Node::new(lab, &wire, "a", "192.168.7.1/24", workers)?;
    let b = Node::new(lab, &wire, "b", "192.168.7.2/24", workers)?;
    tunnel_bridge(&a, &b.address, 1)?;
    tunnel_bridge(&b, &a.address, 2)?;
    let one = a.numbered_vm(lab, "one", "vlan=1", 1)?;
    let two = b.numbered_vm(lab, "two", "vlan=2", 2)?;
    wait_reachable(&one, two.address())?;
    let learned = a.weft.sh("flow dump br-tun table=20,dl_dst=02:00:00:00:00:02 --no-stats")?;
    assert!(
        learned.contains("hard_timeout=300")
            && learned.contains("vlan_tci=0x0001/0x0fff,dl_dst=02:00:00:00:00:02")
            && learned.contains("load:0x505->NXM_NX_TUN_ID[],output:\"vxlan-0a4e0002\""),
        "{learned}"
    );
    let flooded = packets(&a.weft, "br-tun", "table=22,dl_vlan=1")?;
    let before = packets(&a.weft, "br-tun", "table=20,dl_dst=02:00:00:00:00:02")?;
    clean_ping(&one, &two, "")?;
    assert!(
        packets(&a.weft, "br-tun", "table=20,dl_dst=02:00:00:00:00:02")? > before,
        "unicast by what was learned"
    );
    let more = packets(&a.weft, "br-tun", "table=22,dl_vlan=1")? - flooded;
    assert!(more < 5, "{more} packets flooded after learning");
    Ok(())
}

/// One tunnel port leads to another node under key 500, and to a kernel's vxlan device under key 600.
fn rules_choose_the_remote_end_of_a_tunnel(lab: &Lab, workers: u32) -> Result {
    const KERNEL: &str = "192.168.8.3";
    let wire = Wire::new(lab)?;
    let a = Node::new(lab, &wire, "a", "192.168.8.1/24", workers)?;
    let b = Node::new(lab, &wire, "b", "192.168.8.2/24", workers)?;
    let mut peer = Host::new(lab, "kernel", "vx600")?;
    wire.plug(peer.ns(), "kernel", &format!("{KERNEL}/24"))?;
    peer.is_known_as("vx600", "10.0.0.3");
    let vxlan = KernelVxlan::new(peer.ns(), 600, KERNEL, "10.0.0.3/24")?;
    vxlan.flood_to(&a.address)?;
    let one = a.numbered_vm(lab, "one", "", 1)?;
    let two = b.numbered_vm(lab, "two", "", 2)?;
    for node in [&a, &b] {
        let tunnel = format!("tunnel add br0 t type=vxlan local={} remote=flow key=flow", node.address);
        node.weft.sh(&tunnel)?;
    }
    let (to_b, to_a) = (towards(500, &b.address), towards(500, &a.address));
    let (to_peer, mac) = (towards(600, KERNEL), peer.mac()?);
    for rule in [
        format!("in_port=one,dl_dst=02:00:00:00:00:02 actions={to_b}"),
        format!("in_port=one,dl_dst={mac} actions={to_peer}"),
        format!("in_port=one,dl_dst=ff:ff:ff:ff:ff:ff actions={to_b},{to_peer}"),
        "in_port=t actions=output:one".to_owned(),
    ] {
        a.weft.ctl(&["flow", "add", "br0", &rule])?;
    }
    b.weft.ctl(&["flow", "add", "br0", &format!("in_port=two actions={to_a}")])?;
    let back = format!("in_port=t,tun_id=500,tun_src={} actions=output:two", a.address);
    b.weft.ctl(&["flow", "add", "br0", &back])?;
    wait_reachable(&one, two.address())?;
    wait_reachable(&one, peer.address())?;
    clean_ping(&one, &two, "")?;
    clean_ping(&one, &peer, "")?;
    assert_eq!(vxlan.learned(&one.mac()?)?, Some(a.address.clone()));
    assert_eq!(probe::down(&a.weft, "t")?, None);
    let traced = a.weft.sh("trace br0 in_port=one,dl_dst=02:00:00:00:00:02")?;
    assert!(traced.contains("vxlan key 500 to 192.168.8.2 by uplink"), "{traced}");
    a.weft.ctl(&["flow", "add", "br0", "priority=60000,icmp,in_port=one actions=output:t"])?;
    assert_eq!(ping(one.ns(), two.address(), 2, "-W 1")?.received, 0);
    assert!(a.weft.drops("one", "tunnel_no_remote")? >= 2);
    let traced = a.weft.sh("trace br0 icmp,in_port=one")?;
    assert!(traced.contains("a rule has to set tun_dst"), "{traced}");
    Ok(())
}

fn towards(key: u32, remote: &str) -> String {
    format!("set_tunnel:{key},set_field:{remote}->tun_dst,output:t")
}

fn a_text_is_refused_in_one_line_and_nothing_of_it_is_done(lab: &Lab, workers: u32) -> Result {
    let node = Node::alone(lab, "node", workers)?;
    let weft = &node.weft;
    for (words, line) in [
        ("flow add br0 nosuch=1,actions=drop", "column 1: 'nosuch': no match field or setting of that name"),
        (
            "flow add br0 priority=65536,actions=drop",
            "column 10: '65536': priority is out of range: 0 to 65535",
        ),
        ("flow add br0 actions=group:3", "group 3, which the actions use, doesn't exist"),
        ("flow add br9 actions=drop", "there is no bridge 'br9'"),
        (
            "flow add br0 table=1,actions=drop actions=meter:1",
            "line 2: meter 1, which the actions use, doesn't exist",
        ),
        ("cache show vm9", "there is no port 'vm9'"),
    ] {
        assert_eq!(weft.refused(words)?, format!("weftctl: {line}"), "{words}");
    }
    let file = probe::file(lab, "bad", "table=1,actions=drop\n\ntable=2,tcp,actions=output:nobody\n")?;
    let path = file.display().to_string();
    let line = weft.refused(&format!("flow add br0 --file {path}"))?;
    assert!(
        line.starts_with(&format!("weftctl: {path}: line 3, column ")) && line.contains("nobody"),
        "{line}"
    );
    assert_eq!(weft.sh("flow dump br0 --no-stats")?, "priority=0 actions=NORMAL\n");
    // A large text in pieces, of which the last has a mistake: nothing is left of it.
    let mut text: String = (0..30_000).map(|at| format!("table=3,reg0={at} actions=drop\n")).collect();
    let good = probe::file(lab, "good", &text)?;
    text.push_str("table=3,reg16=1 actions=drop\n");
    let bad = probe::file(lab, "worse", &text)?;
    let line = weft.refused(&format!("flow add br0 --file {}", bad.display()))?;
    assert!(line.contains("line 30001, column "), "{line}");
    assert_eq!(weft.sh("flow dump br0 --no-stats")?, "priority=0 actions=NORMAL\n");
    assert_eq!(weft.sh(&format!("flow add br0 --file {}", good.display()))?, "30000 added\n");
    assert_eq!(weft.sh("flow dump br0 table=3 --no-stats")?.lines().count(), 30_000);
    Ok(())
}
