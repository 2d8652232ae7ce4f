//! `weftctl why` on real traffic: dropped pings with rule and sample, live; what left by a tunnel; and what `top` says.

use std::time::Duration;

use serde_json::Value;
use weft_tests::cmd::SHORT;
use weft_tests::node::{NEEDS, two_nodes};
use weft_tests::{Host, Lab, Node, Result, Weftd, clean_ping, ping, scenarios, wait_for, wait_reachable};

scenarios! {
    a_dropped_ping_shows_up_with_rule_and_sample needs NEEDS;
    followers_see_what_is_dropped_as_it_happens needs NEEDS;
    what_left_by_a_tunnel_is_said_to_have_left needs NEEDS;
    what_is_too_big_for_a_device_shows_up_at_its_port needs NEEDS;
    connections_are_listed_limited_and_flushed needs NEEDS;
    segments_outside_of_windows_pass_if_the_configuration_says_so needs NEEDS;
    who_is_refused_by_groups_is_told_their_names needs NEEDS;
}

/// Drops of a report that have this reason.
fn drops(weft: &Weftd, subject: &str, reason: &str) -> Result<Vec<Value>> {
    let report = weft.json(&format!("why {subject}"))?;
    let drops = report["drops"].as_array().cloned().unwrap_or_default();
    Ok(drops.into_iter().filter(|drop| drop["reason"] == reason).collect())
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// Two VMs between which pings are dropped by a rule.
fn guarded(lab: &Lab, workers: u32) -> Result<(Node, Host, Host)> {
    let node = Node::alone(lab, "node", workers)?;
    let one = node.numbered_vm(lab, "one", "", 1)?;
    let two = node.numbered_vm(lab, "two", "", 2)?;
    clean_ping(&one, &two, "")?;
    node.weft.ctl(&["flow", "add", "br0", "cookie=0x5,priority=40000,icmp actions=drop"])?;
    Ok((node, one, two))
}

fn a_dropped_ping_shows_up_with_rule_and_sample(lab: &Lab, workers: u32) -> Result {
    let (node, one, two) = guarded(lab, workers)?;
    let weft = &node.weft;
    assert_eq!(ping(one.ns(), two.address(), 2, "-W 1")?.received, 0);
    // After the fact: the flow is still there. Nobody has watched, so there is no sample.
    let after = drops(weft, "one", "rule_drop")?;
    let [row] = &after[..] else { panic!("one row: {after:?}") };
    assert_eq!((text(row, "/rule/bridge"), &row["rule"]["table"]), ("br0", &Value::from(0)));
    assert_eq!(
        (&row["rule"]["found"]["cookie"], &row["rule"]["found"]["priority"]),
        (&5.into(), &40000.into())
    );
    assert_eq!((text(row, "/rule/found/match"), text(row, "/rule/found/actions")), ("icmp", "drop"));
    assert!(row["packets"].as_u64() >= Some(2) && row["sample"].is_null(), "{row}");
    assert!(text(row, "/flow").contains("in_port=one,icmp"), "{row}");
    assert!(text(row, "/hint").ends_with("matching icmp, says drop"), "{row}");
    // While it happens, by each name that the packets have.
    for subject in [
        "one",
        "02:00:00:00:00:01",
        "two",
        "02:00:00:00:00:02",
        "10.0.0.1",
        "icmp,nw_src=10.0.0.2,nw_dst=10.0.0.1",
    ] {
        let seen = std::thread::scope(|scope| -> Result<_> {
            let running = scope.spawn(|| ping(one.ns(), two.address(), 30, "-l 1 -i 0.1 -W 1"));
            std::thread::sleep(Duration::from_millis(300));
            let seen = drops(weft, subject, "rule_drop");
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            seen
        })?;
        let [row] = &seen[..] else { panic!("{subject}: one row: {seen:?}") };
        let sample = text(row, "/sample/text");
        assert!(sample.contains("IPv4 10.0.0.1 > 10.0.0.2: ICMP echo request, id "), "{subject}: {row}");
        assert!(sample.starts_with("02:00:00:00:00:01 > 02:00:00:00:00:02, "), "{subject}: {row}");
        assert!(row["rate"].as_f64() > Some(2.0), "{subject}: {row}");
    }
    let others = drops(weft, "10.0.0.77", "rule_drop")?;
    assert!(others.is_empty(), "{others:?}");
    let places = weft.sh("stats drops")?;
    assert!(places.lines().any(|line| line.starts_with("one ") && line.contains("0x5  ")), "{places}");
    assert!(weft.refused("why vm9")?.contains("no port of that name, no MAC or IP address"));
    let top = weft.sh("top --once")?;
    assert!(top.contains("nearest to a limit") && top.contains("FDB of br0"), "{top}");
    Ok(())
}

fn followers_see_what_is_dropped_as_it_happens(lab: &Lab, workers: u32) -> Result {
    let (node, one, two) = guarded(lab, workers)?;
    let weft = &node.weft;
    let log = lab.path("follow.log").display().to_string();
    let ctl = weft_tests::weftd::binary("weftctl")?.display().to_string();
    let words = [&ctl[..], "--socket", weft.socket(), "why", "one", "--follow"];
    let follower = weft_tests::Process::start("follow", &words, std::path::Path::new(&log), &[])?;
    std::thread::sleep(Duration::from_millis(500));
    ping(one.ns(), two.address(), 3, "-W 1")?;
    wait_for("the dropped ping", SHORT, || {
        let log = follower.log();
        Ok(log.lines().any(|line| {
            line.starts_with('+')
                && line.contains(
                    "rule_drop at flow tables, port one [table 0 of bridge br0, priority 40000, cookie 0x5",
                )
                && line.contains("ICMP echo request")
        }))
    })?;
    drop(follower);
    Ok(())
}

/// Two VMs of two nodes. The second is in two groups that permit pings of friends alone.
fn who_is_refused_by_groups_is_told_their_names(lab: &Lab, workers: u32) -> Result {
    let [a, b] = two_nodes(lab, workers)?;
    let one = a.numbered_vm(lab, "one", "vlan=10", 1)?;
    let two = b.numbered_vm(lab, "two", "vlan=10", 2)?;
    wait_reachable(&one, two.address())?;
    for line in [
        "acl group add web",
        "acl group add friends",
        "acl rule add web ingress protocol=icmp icmp=8 remote=friends",
        "acl group add db",
        "acl rule add db ingress protocol=tcp ports=5432",
        "acl rule add db egress",
        "acl bind two web db",
    ] {
        b.weft.sh(line)?;
    }
    assert_eq!(ping(one.ns(), two.address(), 2, "-W 1")?.received, 0);
    // By each name that the packets have at that node; where they are sent, they have left by the tunnel.
    for subject in
        ["t", "02:00:00:00:00:01", "02:00:00:00:00:02", "10.0.0.1", "icmp,nw_src=10.0.0.1,nw_dst=10.0.0.2"]
    {
        let seen = watched(&one, two.address(), || drops(&b.weft, subject, "acl_ingress"))?;
        let [row] = &seen[..] else { panic!("{subject}: one row: {seen:?}") };
        assert_eq!(
            row["guard"],
            serde_json::json!({"port": "two", "groups": ["web", "db"]}),
            "{subject}: {row}"
        );
        assert_eq!((text(row, "/port"), text(row, "/stage")), ("t", "security groups"), "{subject}: {row}");
        assert_eq!(text(row, "/rule/found/name"), "all guarded ports", "{subject}: {row}");
        assert!(
            row["rule"]["found"]["cookie"].as_u64().is_some_and(|cookie| cookie >> 48 == 0xac10),
            "{row}"
        );
        assert!(text(row, "/sample/text").contains("ICMP echo request"), "{subject}: {row}");
        assert!(row["rate"].as_f64() > Some(2.0), "{subject}: {row}");
        assert!(
            text(row, "/hint").starts_with("port two is bound to groups web, db, of which no rule"),
            "{row}"
        );
    }
    let left = a.weft.sh("why one --wait 0")?;
    assert!(
        left.contains("by t (vxlan to 192.168.77.2, VNI 1010)") && left.contains("nothing was dropped"),
        "{left}"
    );
    let shown = watched(&one, two.address(), || b.weft.sh("why 10.0.0.1"))?;
    assert!(shown.contains("    groups  web, db of port two: no rule of theirs permits it\n"), "{shown}");
    followers_are_told_the_groups(lab, &b, (&one, two.address()))?;
    b.weft.sh("acl member add friends 10.0.0.1")?;
    clean_ping(&one, &two, "")?;
    groups_and_rules_are_named_in_traces(&b)?;
    what_a_guarded_port_sends_is_told_at_that_port(&b, &one, &two)
}

fn followers_are_told_the_groups(lab: &Lab, b: &Node, (from, to): (&Host, &str)) -> Result {
    let log = lab.path("follow.log").display().to_string();
    let ctl = weft_tests::weftd::binary("weftctl")?.display().to_string();
    let words = [&ctl[..], "--socket", b.weft.socket(), "why", "10.0.0.1", "--follow"];
    let follower = weft_tests::Process::start("follow", &words, std::path::Path::new(&log), &[])?;
    wait_for("the refused ping", SHORT, || {
        ping(from.ns(), to, 1, "-W 1")?;
        Ok(follower.log().lines().any(|line| {
            line.starts_with('+')
                && line.contains("acl_ingress at security groups, port t [no rule of web, db of port two]: ")
                && line.contains("ICMP echo request")
        }))
    })?;
    drop(follower);
    Ok(())
}

/// What permits a packet, and what doesn't.
fn groups_and_rules_are_named_in_traces(b: &Node) -> Result {
    let traced = "in_port=t,tun_id=1010,icmp,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02,nw_src=10.0.0.1,nw_dst=10.0.0.2,icmp_type=8";
    let passes = b.weft.sh(&format!("trace br0 {traced}"))?;
    for name in ["(port two)", "(members of friends)", "(group web, rule 1)"] {
        assert!(passes.contains(name), "{name}: {passes}");
    }
    let refused = b.weft.sh(&format!("trace br0 {}", traced.replace("icmp_type=8", "icmp_type=13")))?;
    assert!(
        refused.contains("dropped (acl_ingress): port two is bound to groups web, db, of which"),
        "{refused}"
    );
    Ok(())
}

fn what_a_guarded_port_sends_is_told_at_that_port(b: &Node, one: &Host, two: &Host) -> Result {
    b.weft.sh("acl rule del db 2")?;
    let sent = watched(two, one.address(), || drops(&b.weft, "two", "acl_egress"))?;
    let [row] = &sent[..] else { panic!("one row: {sent:?}") };
    assert_eq!((text(row, "/guard/port"), text(row, "/port")), ("two", "two"), "{row}");
    let places = b.weft.sh("stats drops")?;
    assert!(
        places
            .lines()
            .any(|line| line.starts_with("two ")
                && line.contains(" 260  0xac10000000000000 (all guarded ports)")),
        "{places}"
    );
    // Port security: the rule is the port's.
    b.weft.ctl(&["port", "set", "two", "port_security=02:00:00:00:00:02 10.0.0.77"])?;
    let spoofed = watched(two, one.address(), || drops(&b.weft, "two", "spoofed_ip"))?;
    assert!(matches!(&spoofed[..], [row] if text(row, "/stage") == "port security"), "{spoofed:?}");
    Ok(())
}

/// What somebody sees while one pings.
fn watched<T>(from: &Host, to: &str, look: impl FnOnce() -> Result<T>) -> Result<T> {
    std::thread::scope(|scope| {
        let running = scope.spawn(|| ping(from.ns(), to, 30, "-l 1 -i 0.1 -W 1"));
        std::thread::sleep(Duration::from_millis(300));
        let seen = look();
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        seen
    })
}

fn what_left_by_a_tunnel_is_said_to_have_left(lab: &Lab, workers: u32) -> Result {
    let [a, b] = two_nodes(lab, workers)?;
    let one = a.numbered_vm(lab, "one", "vlan=10", 1)?;
    let two = b.numbered_vm(lab, "two", "vlan=10", 2)?;
    wait_reachable(&one, two.address())?;
    clean_ping(&one, &two, "")?;
    let report = a.weft.json("why one")?;
    let sent = report["sent"].as_array().cloned().unwrap_or_default();
    let tunnels: Vec<&Value> = sent.iter().filter_map(|row| row.pointer("/outputs/0/tunnel")).collect();
    assert!(
        tunnels.iter().any(|tunnel| tunnel["remote"] == "192.168.77.2" && tunnel["key"] == 1010),
        "{report}"
    );
    let shown = a.weft.sh("why one --wait 0")?;
    assert!(shown.contains("t (vxlan to 192.168.77.2, VNI 1010)"), "{shown}");
    // The other node drops what comes out of the tunnel: there it is the tunnel's.
    b.weft.ctl(&["flow", "add", "br0", "cookie=0x9,priority=40000,icmp actions=drop"])?;
    ping(one.ns(), two.address(), 2, "-W 1")?;
    let dropped = drops(&b.weft, "02:00:00:00:00:01", "rule_drop")?;
    let [row] = &dropped[..] else { panic!("one row: {dropped:?}") };
    assert_eq!((text(row, "/port"), &row["rule"]["found"]["cookie"]), ("t", &9.into()));
    Ok(())
}

fn what_is_too_big_for_a_device_shows_up_at_its_port(lab: &Lab, workers: u32) -> Result {
    let node = Node::alone(lab, "node", workers)?;
    let one = node.numbered_vm(lab, "one", "", 1)?;
    let two = node.container(lab, "two", "", ("10.0.0.2/24", "02:00:00:00:00:02"))?;
    clean_ping(&one, &two, "")?;
    node.ns.configure("two", "", 600)?;
    for subject in ["two", "one", "10.0.0.1"] {
        let seen = std::thread::scope(|scope| -> Result<_> {
            let running = scope.spawn(|| ping(one.ns(), two.address(), 30, "-l 1 -i 0.1 -W 1 -s 1000"));
            std::thread::sleep(Duration::from_millis(300));
            let seen = drops(&node.weft, subject, "tx_too_big");
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            seen
        })?;
        let [row] = &seen[..] else { panic!("{subject}: one row: {seen:?}") };
        assert_eq!((text(row, "/port"), text(row, "/stage")), ("two", "transmit"), "{subject}: {row}");
        assert!(text(row, "/sample/text").contains("ICMP echo request"), "{subject}: {row}");
        assert_eq!(row.pointer("/sample/length"), Some(&1042.into()), "{subject}: {row}");
        assert!(text(row, "/hint").contains("smaller MTU"), "{subject}: {row}");
    }
    Ok(())
}

fn connections_are_listed_limited_and_flushed(lab: &Lab, workers: u32) -> Result {
    let mut node = Node::alone(lab, "node", workers)?;
    let one = node.numbered_vm(lab, "one", "persistent=true", 1)?;
    let two = node.numbered_vm(lab, "two", "persistent=true", 2)?;
    let track = |weft: &Weftd| -> Result {
        for rule in [
            "table=0,priority=10,ip,ct_state=-trk actions=ct(zone=5,table=1)",
            "table=1,ip,ct_state=+new actions=ct(zone=5,commit),normal",
            "table=1,ip,ct_state=+est actions=normal",
        ] {
            weft.ctl(&["flow", "add", "br0", rule])?;
        }
        Ok(())
    };
    track(&node.weft)?;
    clean_ping(&one, &two, "")?;
    let listed = node.weft.sh("conntrack list zone=5 proto=icmp src=10.0.0.1")?;
    assert!(listed.starts_with("icmp,orig=(src=10.0.0.1,dst=10.0.0.2,id="), "{listed}");
    assert!(listed.contains(",type=0,code=0),zone=5"), "{listed}");
    assert_eq!(node.weft.sh("conntrack list zone=6")?, "");
    assert!(
        node.weft
            .sh("conntrack count zone=5")?
            .starts_with(&format!("{} connections", listed.lines().count()))
    );
    let flushed = node.weft.sh("conntrack flush zone=5")?;
    assert_eq!(flushed, format!("{} connections flushed\n", listed.lines().count()));
    assert_eq!(node.weft.sh("conntrack list")?, "");
    node.weft.sh("conntrack limit 5 1")?;
    node.weft.sh("conntrack timeout default icmp_reply=7")?;
    node.weft.sh("conntrack timeout 5 udp_first=3")?;
    clean_ping(&one, &two, "")?;
    // Another one finds no room.
    assert_eq!(ping(two.ns(), one.address(), 2, "-W 1")?.received, 0);
    assert_eq!(node.weft.sh("conntrack list")?.lines().count(), 1);
    let count = node.weft.sh("conntrack count")?;
    assert!(count.contains("refused_zone"), "{count}");
    settings_last(&mut node)
}

/// A TCP segment of 20 octets from 10.0.0.`from` to 10.0.0.`to`, whom no VM has; with SYN, of none.
fn segment([from, to]: [u8; 2], seq: u32, ack: u32, flags: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 1, to, 2, 0, 0, 0, 1, from, 8, 0];
    let octets = if flags & 2 != 0 { 0 } else { 20 };
    frame.extend([0x45, 0, 0, 40 + octets, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, from, 10, 0, 0, to]);
    frame.extend([0x30 + from, from, 0x30 + to, to]);
    frame.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
    frame.extend([0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    frame.resize(54 + usize::from(octets), 0);
    frame
}

fn segments_outside_of_windows_pass_if_the_configuration_says_so(lab: &Lab, workers: u32) -> Result {
    const SYN: u8 = 2;
    const ACK: u8 = 0x10;
    let node = Node::alone(lab, "node", workers)?;
    let one = node.numbered_vm(lab, "one", "", 1)?;
    let two = node.numbered_vm(lab, "two", "", 2)?;
    for rule in [
        "table=0,priority=10,tcp,ct_state=-trk actions=ct(zone=5,table=1)",
        "table=1,priority=20,tcp,ct_state=+inv actions=drop",
        "table=1,priority=10,tcp,ct_state=+new actions=ct(zone=5,commit),normal",
        "table=1,priority=5,tcp actions=normal",
    ] {
        node.weft.ctl(&["flow", "add", "br0", rule])?;
    }
    let sends = |from: &Host, name: &str, to: &str, frame: &[u8]| -> Result {
        let before = node.weft.counter(to, "tx_packets")?;
        from.ns().send_frame(name, frame)?;
        wait_for("a segment that passes", SHORT, || Ok(node.weft.counter(to, "tx_packets")? > before))
    };
    sends(&one, "one", "two", &segment([101, 102], 100, 0, SYN))?;
    sends(&two, "two", "one", &segment([102, 101], 500, 101, SYN | ACK))?;
    sends(&one, "one", "two", &segment([101, 102], 101, 501, ACK))?;
    let (stray, dropped) =
        (segment([101, 102], 0x4000_0000, 501, ACK), || node.weft.drops("one", "rule_drop"));
    let before = dropped()?;
    one.ns().send_frame("one", &stray)?;
    wait_for("a segment that doesn't", SHORT, || Ok(dropped()? == before + 1))?;
    let file = lab.path("liberal.toml");
    let toml = node.weft.sh("config show")?;
    std::fs::write(&file, format!("{toml}\n[conntrack]\ntcp_be_liberal = true\n"))?;
    let differs = node.weft.sh(&format!("config apply {}", file.display()))?;
    assert!(differs.contains("~ conntrack: tcp_be_liberal false -> true"), "{differs}");
    sends(&one, "one", "two", &stray)?;
    assert_eq!(dropped()?, before + 1);
    std::fs::write(&file, toml)?;
    node.weft.sh(&format!("config apply {}", file.display()))?;
    Ok(())
}

/// Limits and timeouts are configuration: they last.
fn settings_last(node: &mut Node) -> Result {
    node.weft.settle()?;
    node.weft.kill()?;
    node.weft.start_again()?;
    let limits = node.weft.sh("conntrack limit 5")?;
    assert!(
        limits
            .lines()
            .any(|line| line.split_whitespace().collect::<Vec<_>>()[..] == ["5", "0", "1", "its", "own", "0"]),
        "{limits}"
    );
    let timeouts = node.weft.sh("conntrack timeout")?;
    let row = |name: &str| {
        timeouts
            .lines()
            .find(|line| line.starts_with(name))
            .map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>())
            .unwrap_or_default()
    };
    assert_eq!((row("icmp_reply"), row("udp_first")), (vec!["7", "-"], vec!["60", "3"]), "{timeouts}");
    assert_eq!(node.weft.sh("conntrack limit 5 -").and(node.weft.sh("conntrack timeout 5 udp_first="))?, "");
    assert!(!node.weft.sh("config show")?.contains("conntrack.zone"));
    assert_eq!(
        node.weft.refused("conntrack limit 5 0")?,
        "weftctl: limit: 0 is not unlimited, or a number: 1 to 67108864"
    );
    Ok(())
}
