//! Tunnels between several nodes: who gets a flood, what does not fit, and what stays the host's.

use std::time::Duration;
use weft_tests::cmd::SHORT;
use weft_tests::node::NEEDS;
use weft_tests::vlan::Tags;
use weft_tests::{
    Capture, Host, KernelVxlan, Lab, Need, Netns, Node, Result, Wire, arping, clean_ping, iperf3, ping,
    scenarios, send_bytes, wait_for,
};

scenarios! {
    three_nodes_flood_once_and_only_where_the_vni_is needs [&NEEDS[..], &[Need::Tool("busybox")]].concat();
    what_is_too_big_for_a_tunnel_is_a_named_drop needs NEEDS;
    a_remote_end_that_floods_addresses_has_as_many_as_it_may needs NEEDS;
    the_uplink_stays_the_hosts needs [&NEEDS[..], &[Need::Device("vxlan")]].concat();
}

const A: &str = "192.168.7.1";
const B: &str = "192.168.7.2";
const C: &str = "192.168.7.3";
const LIMIT: Duration = SHORT;

fn node(lab: &Lab, wire: &Wire, name: &str, address: &str, workers: u32) -> Result<Node> {
    let node = Node::new(lab, wire, name, &format!("{address}/24"), workers)?;
    node.weft.sh("vni map br0 10 1010")?;
    node.weft.sh("vni map br0 20 1020")?;
    Ok(node)
}

/// A full mesh. Node `c` has no VM on VLAN 20: the tunnels to it carry VNI 1010 only.
fn three_nodes_flood_once_and_only_where_the_vni_is(lab: &Lab, workers: u32) -> Result {
    let wire = Wire::new(lab)?;
    let nodes = [("a", A), ("b", B), ("c", C)];
    let switches: Vec<Node> = nodes
        .iter()
        .map(|(name, address)| node(lab, &wire, name, address, workers))
        .collect::<Result<_>>()?;
    for (switch, (name, local)) in switches.iter().zip(nodes) {
        for (peer, remote) in nodes.iter().filter(|(peer, _)| *peer != name) {
            let kind = if [name, *peer].contains(&"a") { "vxlan" } else { "gre" };
            let vnis = if [name, *peer].contains(&"c") { "vnis=1010" } else { "" };
            switch
                .weft
                .sh(&format!("tunnel add br0 to-{peer} type={kind} local={local} remote={remote} {vnis}"))?;
        }
    }
    let [a, b, c] = &switches[..] else { panic!("three nodes") };
    let vms = [
        a.vm(lab, "one", "vlan=10 mtu=1400", ("10.0.0.1/24", ""))?,
        b.vm(lab, "two", "vlan=10 mtu=1400", ("10.0.0.2/24", ""))?,
        c.vm(lab, "three", "vlan=10 mtu=1400", ("10.0.0.3/24", ""))?,
    ];
    let blue = a.vm(lab, "blue", "vlan=20", ("10.0.0.1/24", ""))?;
    let capture = Capture::start(lab, "flood", wire.ns(), "c", "")?;
    for (at, from) in vms.iter().enumerate() {
        let to = &vms[(at + 1) % 3];
        // One answer, not one from each way that a flood may take. busybox awaits it for a second.
        let mut answers = 0;
        wait_for("an answer to ARP", LIMIT, || {
            answers = arping(from, to.address(), 1)?;
            Ok(answers > 0)
        })?;
        assert_eq!(answers, 1, "{} asks for {}", from.device(), to.device());
    }
    for from in &vms {
        for to in vms.iter().filter(|to| to.address() != from.address()) {
            clean_ping(from, to, "")?;
        }
    }
    floods_of_each_vni(&switches, &vms[0], &blue)?;
    let captured = capture.stop()?;
    captured.assert_no_malformed_no_bad_checksum()?;
    assert_eq!(captured.count("vxlan.vni == 1020 || gre.key == 1020")?, 0, "VNI 1020 is none of node c's");
    // What `one` and `blue` flooded came once, from a, and not again from b.
    let red = captured.fields("eth.src == 02:00:00:00:01:01", &["ip.src"])?;
    assert!(red.len() == 10 && red.iter().all(|row| row[0].starts_with(A)), "{red:?}");
    Ok(())
}

/// Ten broadcasts in each VLAN, from stations of their own, until everybody has counted them.
fn floods_of_each_vni(switches: &[Node], red: &Host, blue: &Host) -> Result {
    let counts = || -> Result<Vec<u64>> {
        switches.iter().map(|node| node.weft.accounts().map(|all| all.received_by("uplink"))).collect()
    };
    let before = counts()?;
    red.ns().send_frames(red.device(), &vec![Tags::default().frame([2, 0, 0, 0, 1, 1]); 10])?;
    blue.ns().send_frames(blue.device(), &vec![Tags::default().frame([2, 0, 0, 0, 1, 2]); 10])?;
    let arrived = || Ok(counts()?[1] - before[1] >= 20);
    wait_for("both floods at node b", LIMIT, arrived)?;
    for node in switches {
        node.weft.settle()?;
    }
    let more: Vec<u64> = counts()?.iter().zip(&before).map(|(now, before)| now - before).collect();
    assert_eq!(more, [0, 20, 10], "tunnel packets at a, b and c");
    Ok(())
}

fn a_remote_end_that_floods_addresses_has_as_many_as_it_may(lab: &Lab, workers: u32) -> Result {
    let wire = Wire::new(lab)?;
    let (a, b) = (node(lab, &wire, "a", A, workers)?, node(lab, &wire, "b", B, workers)?);
    let (one, two) = (
        a.vm(lab, "one", "vlan=10 mtu=1400", ("10.0.0.1/24", ""))?,
        b.vm(lab, "two", "vlan=10 mtu=1400", ("10.0.0.2/24", ""))?,
    );
    a.weft.sh(&format!("tunnel add br0 tun type=vxlan local={A} remote={B} fdb_limit=16"))?;
    b.weft.sh(&format!("tunnel add br0 tun type=vxlan local={B} remote={A}"))?;
    clean_ping(&one, &two, "")?;
    let stations: Vec<Vec<u8>> =
        (0..100).map(|number| Tags::default().frame([2, 0, 0, 0, 9, number])).collect();
    let learned =
        || -> Result<usize> { Ok(a.weft.fdb()?.iter().filter(|entry| entry.starts_with("tun ")).count()) };
    let flood = |expected: usize| -> Result {
        wait_for("the addresses behind the tunnel", LIMIT, || {
            two.ns().send_frames(two.device(), &stations)?;
            Ok(learned()? == expected)
        })
    };
    flood(16)?;
    two.ns().send_frames(two.device(), &stations)?;
    a.weft.settle()?;
    assert_eq!(learned()?, 16);
    assert!(a.weft.sh("top --once")?.contains("FDB of br0, learned at tun"));
    // Who isn't learned is reached all the same; and the limit can go.
    clean_ping(&two, &one, "")?;
    a.weft.sh("tunnel set tun fdb_limit=")?;
    flood(101)?;
    assert!(a.weft.sh("tunnel set tun fdb_limit=0").is_err_and(|error| {
        error.to_string().contains("tunnel tun: fdb_limit: 0 is out of range: 1 to 1000000")
    }));
    Ok(())
}

fn what_is_too_big_for_a_tunnel_is_a_named_drop(lab: &Lab, workers: u32) -> Result {
    let wire = Wire::new(lab)?;
    let (a, b) = (node(lab, &wire, "a", A, workers)?, node(lab, &wire, "b", B, workers)?);
    let (one, two) = (
        a.vm(lab, "one", "vlan=10", ("10.0.0.1/24", ""))?,
        b.vm(lab, "two", "vlan=10", ("10.0.0.2/24", ""))?,
    );
    for (kind, mtu) in [("vxlan", 1450), ("gre", 1458)] {
        a.weft.sh(&format!("tunnel add br0 tun type={kind} local={A} remote={B}"))?;
        b.weft.sh(&format!("tunnel add br0 tun type={kind} local={B} remote={A}"))?;
        assert_eq!(a.weft.tunnel("tun")?["effective_mtu"], mtu);
        assert_eq!(a.weft.port("one")?["effective_mtu"], mtu);
        assert!(a.weft.sh("port show one")?.contains(&mtu.to_string()));
        fits(&a, (&one, &two), mtu)?;
        // The underlay shrinks, and grows again.
        a.ns.ip("link set dev uplink mtu 1400")?;
        let shrunk = || Ok(a.weft.tunnel("tun")?["effective_mtu"] == mtu - 100);
        wait_for("the smaller MTU", LIMIT, shrunk)?;
        fits(&a, (&one, &two), mtu - 100)?;
        a.ns.ip("link set dev uplink mtu 1500")?;
        wait_for("the old MTU", LIMIT, || Ok(a.weft.tunnel("tun")?["effective_mtu"] == mtu))?;
        a.weft.remove("tunnel del tun")?;
        b.weft.remove("tunnel del tun")?;
    }
    Ok(())
}

/// A packet of `mtu` octets passes, and one octet more does not.
fn fits(node: &Node, (one, two): (&Host, &Host), mtu: u32) -> Result {
    clean_ping(one, two, &format!("-M do -s {}", mtu - 28))?;
    let dropped = || node.weft.drops("one", "tunnel_too_big");
    let before = dropped()?;
    let result = ping(one.ns(), two.address(), 2, &format!("-M do -s {}", mtu - 27))?;
    assert_eq!((result.received, dropped()? - before), (0, 2), "MTU {mtu}");
    Ok(())
}

/// TCP and ping to the underlay address while a tunnel is busy; and no refusal of a tunnel packet by the kernel.
fn the_uplink_stays_the_hosts(lab: &Lab, workers: u32) -> Result {
    let wire = Wire::new(lab)?;
    let (a, b) = (node(lab, &wire, "a", A, workers)?, node(lab, &wire, "b", B, workers)?);
    let (one, two) = (
        a.vm(lab, "one", "vlan=10 mtu=1450", ("10.0.0.1/24", ""))?,
        b.vm(lab, "two", "vlan=10 mtu=1450", ("10.0.0.2/24", ""))?,
    );
    let admin = Netns::new(lab, "admin")?;
    wire.plug(&admin, "admin", &format!("{C}/24"))?;
    a.weft.sh(&format!("tunnel add br0 tun type=vxlan local={A} remote={B}"))?;
    b.weft.sh(&format!("tunnel add br0 tun type=vxlan local={B} remote={A}"))?;
    clean_ping(&one, &two, "")?;
    let capture = Capture::start(lab, "refusals", wire.ns(), "a", "icmp[0] == 3")?;
    std::thread::scope(|scope| -> Result {
        let busy = scope.spawn(|| iperf3(lab, &one, &two, 2, ""));
        assert_eq!(send_bytes(lab, &admin, (&a.ns, A), 2 << 20)?, 2 << 20, "TCP to the node");
        assert_eq!(send_bytes(lab, &a.ns, (&admin, C), 2 << 20)?, 2 << 20, "TCP from the node");
        let pings = ping(&admin, A, 5, "")?;
        assert!(pings.is_clean(), "{pings:?}");
        let busy = busy.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        assert!(busy.bits_per_second > 1e6, "{busy:?}");
        Ok(())
    })?;
    unknown_remotes_are_counted(&a, &admin)?;
    // What is the kernel's, it still refuses: a UDP port where nobody listens.
    admin.run(&["sh", "-c", &format!("echo | socat -u STDIN UDP4:{A}:9")], LIMIT)?;
    let refusals = capture.stop()?;
    assert_eq!(refusals.count("udp.dstport == 9")?, 1, "the kernel's own refusals");
    assert_eq!(refusals.count("udp.dstport == 4789")?, 0, "the kernel refused a tunnel packet");
    Ok(())
}

/// Tunnel packets from where no tunnel leads: weft counts them, and nobody answers.
fn unknown_remotes_are_counted(node: &Node, stranger: &Netns) -> Result {
    let vxlan = KernelVxlan::new(stranger, 1010, C, "10.0.0.9/24")?;
    vxlan.flood_to(A)?;
    assert_eq!(ping(stranger, "10.0.0.1", 2, "")?.received, 0);
    let counted = || Ok(node.weft.accounts()?.dropped("tunnel_unknown") >= 1);
    wait_for("the stranger's packets in the counters", LIMIT, counted)
}
