//! Port security and security groups on real VMs' ports: what may pass, what may not, and what it is counted as.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use weft_tests::cmd::SHORT;
use weft_tests::node::NEEDS;
use weft_tests::{Host, Lab, Node, Result, clean_ping, ping, scenarios, wait_for};

scenarios! {
    what_a_vm_pretends_to_be_is_refused_and_counted needs NEEDS;
    groups_open_and_close_while_packets_flow needs NEEDS;
    established_connections_end_with_what_permits_them needs NEEDS;
    groups_are_there_again_after_a_crash needs NEEDS;
    bad_groups_are_refused_in_one_line needs NEEDS;
    a_member_joins_a_group_of_a_thousand_in_milliseconds needs NEEDS;
    no_member_is_lost_when_the_switch_is_killed needs NEEDS;
}

const LIMIT: Duration = SHORT;
const FIRST: (&str, &str) = ("10.0.0.1/24", "02:00:00:00:00:01");
const SECOND: (&str, &str) = ("10.0.0.2/24", "02:00:00:00:00:02");

/// Two VMs that may send from their own addresses only.
fn two_vms(lab: &Lab, workers: u32) -> Result<(Node, Host, Host)> {
    let node = Node::alone(lab, "node", workers)?;
    let one = node.vm(lab, "one", "vlan=10", FIRST)?;
    let two = node.vm(lab, "two", "vlan=10", SECOND)?;
    for (port, (address, mac)) in [("one", FIRST), ("two", SECOND)] {
        let pair = format!("port_security={mac} {}", address.trim_end_matches("/24"));
        node.weft.ctl(&["port", "set", port, &pair])?;
    }
    Ok((node, one, two))
}

fn pings(from: &Host, to: &Host) -> Result<bool> {
    Ok(ping(from.ns(), to.address(), 1, "")?.received > 0)
}

/// An Ethernet frame to everybody from 02:00:00:00:00:`from`.
fn frame(from: u8, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, from]);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// ARP that says that 10.0.0.`address` is at 02:00:00:00:00:`station`.
fn arp(from: u8, station: u8, address: u8) -> Vec<u8> {
    let claim = [2, 0, 0, 0, 0, station, 10, 0, 0, address];
    frame(from, 0x0806, &[&[0, 1, 8, 0, 6, 4, 0, 2][..], &claim, &[0xff; 6], &[10, 0, 0, 9]].concat())
}

/// UDP from 10.0.0.`address`.
fn udp(from: u8, address: u8, [source, destination]: [u16; 2]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, address, 255, 255, 255, 255];
    packet.extend(source.to_be_bytes());
    packet.extend(destination.to_be_bytes());
    packet.extend([0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    frame(from, 0x0800, &packet)
}

/// IPv6 from the link-local address that belongs to 02:00:00:00:00:`from`.
fn ipv6(from: u8, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next_header, 255];
    packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, from]);
    packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend(payload);
    frame(from, 0x86dd, &packet)
}

fn what_a_vm_pretends_to_be_is_refused_and_counted(lab: &Lab, workers: u32) -> Result {
    let (node, one, two) = two_vms(lab, workers)?;
    clean_ping(&one, &two, "")?;
    let advert = [&[136, 0, 0, 0, 0x20, 0, 0, 0, 0x20, 1, 0xd, 0xb8][..], &[0; 11], &[9]].concat();
    let tricks = [
        ("spoofed_mac", arp(7, 7, 1)),
        ("spoofed_ip", udp(1, 9, [1024, 53])),
        ("spoofed_arp", arp(1, 1, 2)),
        ("spoofed_arp", arp(1, 2, 1)),
        ("spoofed_nd", ipv6(1, 58, &advert)),
        ("rogue_ra", ipv6(1, 58, &[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("rogue_dhcp", udp(1, 1, [67, 68])),
        ("rogue_dhcpv6", ipv6(1, 17, &[2, 0x23, 2, 0x22, 0, 12, 0, 0, 1, 2, 3, 4])),
    ];
    for (reason, trick) in &tricks {
        let (before, sent) = (node.weft.drops("one", reason)?, node.weft.counter("two", "tx_packets")?);
        one.ns().send_frame("one", trick)?;
        wait_for(reason, LIMIT, || Ok(node.weft.drops("one", reason)? == before + 1))?;
        assert_eq!(node.weft.counter("two", "tx_packets")?, sent, "{reason}");
    }
    // What a client asks passes.
    for asks in [udp(1, 1, [68, 67]), ipv6(1, 17, &[2, 0x22, 2, 0x23, 0, 12, 0, 0, 1, 2, 3, 4])] {
        let sent = node.weft.counter("two", "tx_packets")?;
        one.ns().send_frame("one", &asks)?;
        wait_for("what a client asks", LIMIT, || Ok(node.weft.counter("two", "tx_packets")? > sent))?;
    }
    let shown = node.weft.sh("acl show one")?;
    assert!(shown.contains("dropped: spoofed_arp 2") && shown.contains("dropped: rogue_ra 1"), "{shown}");
    let traced = node
        .weft
        .sh("trace br0 in_port=one,dl_src=02:00:00:00:00:01,udp,nw_src=10.0.0.1,tp_src=67,tp_dst=68")?;
    assert!(traced.contains("rogue_dhcp"), "{traced}");
    clean_ping(&one, &two, "")
}

/// Groups `asks` and `answers`: echo requests one way, and what comes back.
fn add_groups(node: &Node) -> Result {
    for line in [
        "acl group add asks",
        "acl rule add asks egress protocol=icmp icmp=8 stateless=true",
        "acl rule add asks ingress protocol=icmp icmp=0 stateless=true",
        "acl group add answers",
        "acl group add friends",
        "acl rule add answers ingress protocol=icmp icmp=8 remote=friends stateless=true",
        "acl rule add answers egress protocol=icmp icmp=0 remote=friends stateless=true",
        "acl bind one asks",
        "acl bind two answers",
    ] {
        node.weft.sh(line)?;
    }
    Ok(())
}

fn groups_open_and_close_while_packets_flow(lab: &Lab, workers: u32) -> Result {
    let (node, one, two) = two_vms(lab, workers)?;
    clean_ping(&one, &two, "")?;
    add_groups(&node)?;
    assert!(!pings(&one, &two)?, "nobody is a friend");
    assert!(node.weft.drops("one", "acl_ingress")? > 0, "{}", node.weft.sh("acl show")?);
    for _ in 0..3 {
        node.weft.sh("acl member add friends 10.0.0.1")?;
        assert!(pings(&one, &two)?, "the first packet of a member passes");
        clean_ping(&one, &two, "")?;
        node.weft.sh("acl member del friends 10.0.0.1")?;
        assert!(!pings(&one, &two)?, "none of a former member does");
    }
    // By its port, too.
    node.weft.sh("acl bind one asks friends")?;
    clean_ping(&one, &two, "")?;
    // The other way nothing was asked.
    assert!(!pings(&two, &one)?);
    let rules = node.weft.json("acl show")?;
    let asks =
        rules["groups"].as_array().and_then(|groups| groups.iter().find(|group| group["name"] == "asks"));
    let counted = asks.map_or(0, |group| group["rules"][0]["counted"]["packets"].as_u64().unwrap_or(0));
    assert!(counted >= 10, "{rules}");
    let dump = node.weft.sh("flow dump br0 --all")?;
    assert!(dump.contains("# group answers, rule 1") && dump.contains("# members of friends"), "{dump}");
    // A rule that goes closes at once.
    node.weft.sh("acl rule del answers 1")?;
    assert!(!pings(&one, &two)?);
    for port in ["one", "two"] {
        node.weft.sh(&format!("acl bind {port}"))?;
    }
    clean_ping(&two, &one, "")
}

fn established_connections_end_with_what_permits_them(lab: &Lab, workers: u32) -> Result {
    let (node, one, two) = two_vms(lab, workers)?;
    for line in [
        "acl group add friends",
        "acl group add others",
        "acl group add web",
        "acl rule add web ingress protocol=tcp remote=friends",
        "acl rule add web ingress protocol=icmp icmp=8 remote=friends",
        "port set one acl=friends acl_egress=open",
        "acl bind two web",
    ] {
        node.weft.sh(line)?;
    }
    clean_ping(&one, &two, "")?;
    let megabyte = 1 << 20;
    let sent = weft_tests::send_bytes(lab, one.ns(), (two.ns(), two.address()), megabyte)?;
    assert_eq!(sent, u64::from(megabyte));
    assert!(!pings(&two, &one)?, "nothing permits what two begins");
    assert!(node.weft.drops("two", "acl_egress")? > 0, "{}", node.weft.sh("acl show")?);
    // One connection for both guarded ends, and a cached flow each way.
    let mut pings = one.ns().spawn(lab, "ping", &["ping", "-n", "-i", "0.05", two.address()])?;
    let answers = || node.weft.counter("one", "tx_packets");
    let grows = |what: &str| -> Result {
        let before = answers()?;
        wait_for(what, LIMIT, || Ok(answers()? > before + 10))
    };
    for (leave, come) in [
        ("acl bind one others", "acl bind one friends"),
        ("acl rule del web 2", "acl rule add web ingress protocol=icmp icmp=8 remote=friends id=2"),
    ] {
        grows("answers to an established ping")?;
        node.weft.sh(leave)?;
        let (before, refused) = (answers()?, node.weft.drops("one", "acl_ingress")?);
        let dropped = || Ok(node.weft.drops("one", "acl_ingress")? > refused + 10);
        wait_for("refused packets of an established connection", LIMIT, dropped)?;
        assert!(answers()? <= before + 1, "answers came after '{leave}'");
        node.weft.sh(come)?;
    }
    grows("answers after all is permitted again")?;
    pings.terminate(LIMIT)?;
    Ok(())
}

fn groups_are_there_again_after_a_crash(lab: &Lab, workers: u32) -> Result {
    let mut node = Node::alone(lab, "node", workers)?;
    let host = node.vm(lab, "one", "vlan=10", FIRST)?;
    node.vm(lab, "two", "vlan=10", SECOND)?;
    add_groups(&node)?;
    node.weft.sh("acl member add friends 10.0.0.0/24")?;
    let (before, config) = (node.weft.json("acl show")?, node.weft.sh("config show")?);
    drop(host);
    node.weft.no_accounts();
    node.weft.kill()?;
    node.weft.start_again()?;
    assert_eq!(node.weft.sh("config show")?, config);
    let after = node.weft.json("acl show")?;
    assert_eq!(after["groups"][1]["id"], before["groups"][1]["id"]);
    let rules = node.weft.sh("flow dump br0 --all --no-stats")?;
    assert!(rules.contains("# group answers, rule 2"), "{rules}");
    Ok(())
}

/// A request of a client that stays connected.
fn asked(client: &mut BufReader<UnixStream>, change: &str) -> Result<bool> {
    let line = format!("{{\"id\":1,\"op\":{{\"apply\":{{\"changes\":[{change}]}}}}}}\n");
    client.get_mut().write_all(line.as_bytes())?;
    let mut answer = String::new();
    client.read_line(&mut answer)?;
    Ok(answer.contains("\"result\""))
}

fn joins(number: u32) -> String {
    let member = std::net::Ipv4Addr::from_bits(0x0b00_0000 + number);
    format!("{{\"acl_member_add\":{{\"group\":\"friends\",\"member\":\"{member}\"}}}}")
}

/// How many members the group has.
fn friends(node: &Node) -> Result<usize> {
    let shown = node.weft.json("acl show friends")?;
    Ok(shown["groups"][0]["members"].as_array().map_or(0, Vec::len))
}

fn a_member_joins_a_group_of_a_thousand_in_milliseconds(lab: &Lab, workers: u32) -> Result {
    let (node, one, two) = two_vms(lab, workers)?;
    add_groups(&node)?;
    let mut client = BufReader::new(UnixStream::connect(node.weft.socket())?);
    let thousand: Vec<String> = (1..=1000).map(joins).collect();
    assert!(asked(&mut client, &thousand.join(","))?);
    let mut times = Vec::new();
    for number in 1001..=1101 {
        let (change, start) = (joins(number), std::time::Instant::now());
        assert!(asked(&mut client, &change)?);
        times.push(start.elapsed());
    }
    times.sort();
    let (median, ninth) = (times[times.len() / 2], times[times.len() * 9 / 10]);
    println!("a member more in a group of a thousand: median {median:?}, nine in ten below {ninth:?}");
    assert!(median < Duration::from_millis(5), "median {median:?}, nine in ten below {ninth:?}");
    assert_eq!(friends(&node)?, 1101);
    // It counts at once.
    assert!(!pings(&one, &two)?);
    assert!(asked(&mut client, &joins(0).replace("11.0.0.0", "10.0.0.1"))?);
    assert!(pings(&one, &two)?);
    Ok(())
}

fn no_member_is_lost_when_the_switch_is_killed(lab: &Lab, workers: u32) -> Result {
    let (mut node, one, two) = two_vms(lab, workers)?;
    drop((one, two));
    add_groups(&node)?;
    node.weft.no_accounts();
    let mut next = 1;
    for round in 1..=5u64 {
        let socket = node.weft.socket().to_owned();
        let adding = std::thread::spawn(move || -> Result<u32> {
            let mut client = BufReader::new(UnixStream::connect(socket)?);
            let mut last = next;
            while asked(&mut client, &joins(last)).unwrap_or(false) {
                last += 1;
            }
            Ok(last - 1)
        });
        std::thread::sleep(Duration::from_millis(100 + 37 * round));
        node.weft.kill()?;
        let acknowledged = adding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))? as usize;
        node.weft.start_again()?;
        let found = friends(&node)?;
        assert!(
            found == acknowledged || found == acknowledged + 1,
            "round {round}: {acknowledged} were acknowledged, {found} are there"
        );
        assert!(found as u32 >= next);
        next = found as u32 + 1;
    }
    // A change that was being written.
    let mut client = BufReader::new(UnixStream::connect(node.weft.socket())?);
    assert!(asked(&mut client, &joins(next))?);
    node.weft.kill()?;
    let journal = lab.path("weftd-node.state/state.journal");
    let whole = std::fs::read(&journal)?;
    std::fs::write(&journal, [&whole[..], b"5f5f5f5f [{\"acl_member_add\":{\"gro"].concat())?;
    node.weft.start_again()?;
    assert_eq!(friends(&node)? as u32, next);
    let said = "the journal ends with 33 octets that never were on the disk as a whole: left out";
    assert_eq!(node.weft.log().lines().filter(|line| line.contains(said)).count(), 1, "{}", node.weft.log());
    // A clean end leaves everything in the state file.
    node.weft.stop()?;
    let state = std::fs::read_to_string(lab.path("weftd-node.state/state.toml"))?;
    let last = std::net::Ipv4Addr::from_bits(0x0b00_0000 + next).to_string();
    assert!(state.contains(&last), "{state}");
    assert_eq!(std::fs::read_to_string(&journal)?.lines().count(), 1);
    node.weft.start_again()
}

/// What is refused with a group `web` and ports `one` and `two`, and why.
const REFUSED: &[(&str, &str)] = &[
    ("acl rule add web ingress protocol=tcp ports=90-80", "the first is above the last"),
    ("acl rule add web ingress protocol=tcp ports=70000", "70000 is out of range: 0 to 65535"),
    ("acl rule add web ingress protocol=tpc", "'tpc' is not a protocol"),
    ("acl rule add web ingress protocol=icmp icmp=8/256", "256 is out of range: 0 to 255"),
    ("acl rule add web ingress ports=80", "can never match: protocol any has no ports"),
    ("acl rule add web ingress protocol=icmp ports=80", "can never match: protocol icmp has no ports"),
    ("acl rule add web ingress protocol=tcp icmp=8", "can never match: protocol tcp has no ICMP type"),
    ("acl rule add web ingress protocol=icmpv6", "can never match: there is no protocol icmpv6 in ipv4"),
    ("acl rule add web ingress remote=2001:db8::/32", "can never match: 2001:db8::/32 is no ipv4 network"),
    ("acl rule add web ingress protocol=icmp icmp=0", "can never match: ICMP 0 begins no connection"),
    ("acl rule add web ingress protocol=icmp icmp=3/4", "can never match: ICMP 3/4 begins no connection"),
    (
        "acl rule add web ingress ethertype=ipv6 protocol=icmpv6 icmp=134",
        "can never match: ingress ICMPv6 of type 134 passes every port",
    ),
    ("acl rule add web egress protocol=udp ports=0", "can never match: no udp connection is to port 0"),
    (
        "acl rule add web ingress ethertype=ipv6 protocol=60",
        "can never match: 60 is an extension header in ipv6",
    ),
    ("acl rule add web ingress remote=224.0.0.1", "can never match: no packet comes from 224.0.0.1"),
    ("acl rule add web egress remote=0.0.0.0", "can never match: no packet goes to 0.0.0.0"),
    ("acl rule add web ingress remote=10.0.0.1/24", "bits beyond its length are set: expected 10.0.0.0/24"),
    ("acl rule add web ingress remote=nobody", "there is no group 'nobody'"),
    ("acl rule add nobody ingress", "there is no group 'nobody'"),
    ("acl rule add web sideways", "ingress (to the port) or egress (from the port)"),
    ("acl rule del web 7", "group web has no rule 7"),
    ("acl member add web 10.0.0.1/24", "bits beyond its length are set"),
    ("acl member del web 10.0.0.1", "group web has no member 10.0.0.1 of its own"),
    ("acl group add web", "there is a group 'web' already"),
    ("acl group add 10.0.0.1", "is not the name of a group"),
    ("acl group del nobody", "there is no group 'nobody'"),
    ("acl bind one web nobody", "there is no group 'nobody'"),
    ("acl bind one web web", "'web' is not listed once: it is there twice"),
    ("acl bind nobody web", "there is no port 'nobody'"),
    ("acl show nobody", "there is no group or port 'nobody'"),
];

fn bad_groups_are_refused_in_one_line(lab: &Lab, workers: u32) -> Result {
    let (node, _one, _two) = two_vms(lab, workers)?;
    node.weft.sh("acl group add web")?;
    for (line, expected) in REFUSED {
        let refused = node.weft.refused(line)?;
        assert!(refused.contains(expected), "{line}: {refused}");
    }
    node.weft.sh("acl bind one web")?;
    node.weft.sh("acl rule add web ingress remote=web")?;
    let twice = node.weft.refused("acl rule add web ingress remote=web")?;
    assert!(twice.contains("rule 1 of the group says the same"), "{twice}");
    // What is in use stays, and who uses it is said.
    let used = |by: &str| -> Result {
        let refused = node.weft.refused("acl group del web")?;
        assert_eq!(refused, format!("weftctl: group web can't go: {by} names it"));
        Ok(())
    };
    used("bridge[br0].port[one].acl")?;
    node.weft.sh("acl bind one")?;
    node.weft.sh("acl group add others")?;
    node.weft.sh("acl rule add others egress remote=web")?;
    used("acl.group[others].rule[1].remote")?;
    node.weft.sh("acl group del others")?;
    node.weft.sh("acl group del web").map(drop)
}
