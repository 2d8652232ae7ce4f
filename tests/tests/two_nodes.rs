//! Two compute nodes, two tenants with the same addresses: everything that a tenant sends arrives, nothing of it at the
//! other tenant, and the underlay carries sound packets only.

use weft_tests::cmd::SHORT;
use weft_tests::node::NEEDS;
use weft_tests::vlan::Tags;
use weft_tests::{
    Capture, Captured, Host, Lab, Node, Ping, Result, Wire, clean_ping, iperf3, ping, scenarios, wait_for,
};

scenarios! {
    two_tenants_over_vxlan_then_gre needs NEEDS;
    the_first_packet_waits_for_the_neighbour needs NEEDS;
    what_waits_for_nobody_is_dropped needs NEEDS;
}

const A: &str = "192.168.7.1";
const B: &str = "192.168.7.2";
const FIRST: (&str, &str) = ("10.0.0.1/24", "02:00:00:00:00:01");
const SECOND: (&str, &str) = ("10.0.0.2/24", "02:00:00:00:00:02");
const THIRD: (&str, &str) = ("10.0.0.3/24", "02:00:00:00:00:03");

/// Two nodes: VLAN 10 is VNI 1010, VLAN 20 is VNI 1020.
struct Pair {
    a: Node,
    b: Node,
    wire: Wire,
}

impl Pair {
    fn new(lab: &Lab, workers: u32) -> Result<Self> {
        let wire = Wire::new(lab)?;
        let a = Node::new(lab, &wire, "a", &format!("{A}/24"), workers)?;
        let b = Node::new(lab, &wire, "b", &format!("{B}/24"), workers)?;
        for node in [&a, &b] {
            node.weft.sh("vni map br0 10 1010")?;
            node.weft.sh("vni map br0 20 1020")?;
        }
        Ok(Pair { a, b, wire })
    }

    /// Joins them; `a` sends with TTL 77.
    fn join(&self, kind: &str, options: &str) -> Result {
        let common = format!("type={kind} {options}");
        self.a.weft.sh(&format!("tunnel add br0 to-b local={A} remote={B} ttl=77 {common}"))?;
        self.b.weft.sh(&format!("tunnel add br0 to-a local={B} remote={A} {common}"))?;
        Ok(())
    }
}

/// The VMs: `red` and `blue` have the same addresses.
struct Tenants {
    red1: Host,
    red2: Host,
    red3: Host,
    blue1: Host,
    blue3: Host,
}

impl Tenants {
    fn new(lab: &Lab, pair: &Pair) -> Result<Self> {
        Ok(Tenants {
            red1: pair.a.vm(lab, "red1", "vlan=10", FIRST)?,
            red2: pair.a.vm(lab, "red2", "vlan=10", SECOND)?,
            red3: pair.b.vm(lab, "red3", "vlan=10", THIRD)?,
            blue1: pair.a.vm(lab, "blue1", "vlan=20", FIRST)?,
            blue3: pair.b.vm(lab, "blue3", "vlan=20", THIRD)?,
        })
    }

    fn set_mtu(&self, mtu: u32) -> Result {
        for vm in [&self.red1, &self.red2, &self.red3, &self.blue1, &self.blue3] {
            vm.configure_mtu(mtu)?;
        }
        Ok(())
    }
}

/// How many pings a VM's kernel has received.
fn echoes_at(vm: &Host) -> Result<u64> {
    vm.ns().counter("Icmp", "InEchos")
}

fn tcp_and_udp(lab: &Lab, from: &Host, to: &Host) -> Result {
    let tcp = iperf3(lab, from, to, 0, "-n 4M -P 4")?;
    assert!(tcp.bits_per_second > 1e6, "{tcp:?}");
    let udp = iperf3(lab, from, to, 0, "-u -n 1M -b 40M -l 1000")?;
    assert!(udp.sent > 1000 && udp.arrived(), "{udp:?}");
    Ok(())
}

/// What one tenant sends, the other never sees: their VMs have the same addresses.
fn isolation(vms: &Tenants) -> Result {
    let only_red = ping(vms.blue1.ns(), vms.red2.address(), 2, "")?;
    assert_eq!(only_red.received, 0, "blue1 reached red2");
    let only_red = ping(vms.blue3.ns(), vms.red2.address(), 2, "")?;
    assert_eq!(only_red.received, 0, "blue3 reached red2 on the other node");
    for (from, to, twin) in [(&vms.red1, &vms.red3, &vms.blue3), (&vms.blue3, &vms.blue1, &vms.red1)] {
        let before = echoes_at(twin)?;
        clean_ping(from, to, "")?;
        assert_eq!(echoes_at(twin)?, before, "{} got {}'s pings", twin.device(), from.device());
    }
    Ok(())
}

/// Everything that the outer headers of node `a` have to say.
fn judge(wire: &Captured, kind: &str) -> Result {
    wire.assert_no_malformed_no_bad_checksum()?;
    let (key, red, blue) = match kind {
        "vxlan" => ("vxlan.vni", "1010", "1020"),
        _ => ("gre.key", "0x000003f2", "0x000003fc"),
    };
    let filter = format!("{kind} && icmp.type == 8");
    let fields = [key, "ip.src", "ip.ttl", "ip.flags.df"];
    let pings = wire.fields(&filter, &fields)?;
    let from_a = |row: &&Vec<String>| row[1].starts_with(A);
    assert!(pings.iter().filter(from_a).count() >= 9, "{pings:?}");
    for row in &pings {
        assert!(row[0] == red || row[0] == blue, "{row:?}");
        let ttl = if from_a(&row) { "77,64" } else { "64,64" };
        assert_eq!((row[2].as_str(), row[3].split(',').next()), (ttl, Some("1")), "{row:?}");
    }
    assert!(pings.iter().any(|row| row[0] == red) && pings.iter().any(|row| row[0] == blue));
    Ok(())
}

fn source_ports_vary(wire: &Captured) -> Result {
    let tcp = wire.fields("vxlan && tcp && tcp.dstport == 5201", &["tcp.srcport", "udp.srcport"])?;
    let mut by_flow = std::collections::BTreeMap::<_, std::collections::BTreeSet<_>>::new();
    for row in &tcp {
        by_flow.entry(row[0].clone()).or_default().insert(row[1].clone());
    }
    assert!(by_flow.len() >= 5, "five connections: {by_flow:?}");
    assert!(by_flow.values().all(|ports| ports.len() == 1), "one port per flow: {by_flow:?}");
    let ports: std::collections::BTreeSet<_> = by_flow.values().flatten().collect();
    assert!(ports.len() >= 4, "the flows' ports differ: {by_flow:?}");
    Ok(())
}

fn two_tenants_over_vxlan_then_gre(lab: &Lab, workers: u32) -> Result {
    let pair = Pair::new(lab, workers)?;
    let vms = Tenants::new(lab, &pair)?;
    for (kind, options, mtu) in [("vxlan", "csum=true", 1450), ("gre", "csum=true", 1454)] {
        pair.join(kind, options)?;
        assert_eq!(pair.a.weft.tunnel("to-b")?["effective_mtu"], mtu);
        vms.set_mtu(mtu)?;
        let capture = Capture::start(lab, kind, pair.wire.ns(), "a", "")?;
        clean_ping(&vms.red1, &vms.red2, "")?;
        clean_ping(&vms.red1, &vms.red3, "")?;
        clean_ping(&vms.blue1, &vms.blue3, "")?;
        clean_ping(&vms.red1, &vms.red3, &format!("-M do -s {}", mtu - 28))?;
        tcp_and_udp(lab, &vms.red1, &vms.red3)?;
        tcp_and_udp(lab, &vms.blue3, &vms.blue1)?;
        isolation(&vms)?;
        let captured = capture.stop()?;
        judge(&captured, kind)?;
        if kind == "vxlan" {
            source_ports_vary(&captured)?;
        }
        fdb_is(&pair)?;
        for node in [&pair.a, &pair.b] {
            let bad = node.weft.accounts()?.dropped_but(&["no_destination"]);
            assert_eq!(bad, 0, "{}", node.weft.accounts()?);
        }
        pair.a.weft.remove("tunnel del to-b")?;
        pair.b.weft.remove("tunnel del to-a")?;
    }
    Ok(())
}

fn fdb_is(pair: &Pair) -> Result {
    let on_a = [
        "blue1 20 02:00:00:00:00:01",
        "red1 10 02:00:00:00:00:01",
        "red2 10 02:00:00:00:00:02",
        "to-b 10 02:00:00:00:00:03",
        "to-b 20 02:00:00:00:00:03",
    ];
    assert_eq!(pair.a.weft.fdb()?, on_a);
    let on_b = pair.b.weft.fdb()?;
    for entry in [
        "blue3 20 02:00:00:00:00:03",
        "red3 10 02:00:00:00:00:03",
        "to-a 10 02:00:00:00:00:01",
        "to-a 20 02:00:00:00:00:01",
    ] {
        assert!(on_b.iter().any(|line| line == entry), "{entry}: {on_b:?}");
    }
    Ok(())
}

/// The underlay is cut when the neighbour is asked for: what a VM sends meanwhile waits. The kernels go on asking, five times a
/// second, so that it need not wait long when the underlay is there again.
fn the_first_packet_waits_for_the_neighbour(lab: &Lab, workers: u32) -> Result {
    let pair = Pair::new(lab, workers)?;
    let (near, far) = (pair.a.vm(lab, "near", "vlan=10", FIRST)?, pair.b.vm(lab, "far", "vlan=10", SECOND)?);
    pair.join("vxlan", "")?;
    clean_ping(&near, &far, "")?;
    let wire = pair.wire.ns();
    for node in [&pair.a, &pair.b] {
        let kernel = "net.ipv4.neigh.uplink";
        node.ns.sh(&format!("sysctl -qw {kernel}.retrans_time_ms=200 {kernel}.mcast_solicit=1000"))?;
    }
    wire.ip("link set dev b nomaster")?;
    for node in [&pair.a, &pair.b] {
        node.forget_neighbours()?;
    }
    let known = || -> Result<bool> { Ok(pair.a.weft.tunnel("to-b")?["neighbour"] != "resolving") };
    wait_for("the neighbour to be forgotten", SHORT, || Ok(!known()?))?;
    let argv = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "5", far.address()];
    let mut pings = near.ns().spawn(lab, "ping", &argv)?;
    wait_for("a packet that waits", SHORT, || Ok(pair.a.weft.accounts()?.held() >= 2))?;
    wire.ip("link set dev b master br0")?;
    pings.wait(SHORT)?;
    let result = Ping::parse(&pings.log()).unwrap_or_default();
    assert!(result.is_clean() && result.sent == 3, "{result:?}\n{}", pair.a.weft.accounts()?);
    for node in [&pair.a, &pair.b] {
        node.forget_neighbours()?;
    }
    clean_ping(&near, &far, "")
}

/// A remote end that does not exist: what waits for it is dropped, by name, when it has waited long enough.
fn what_waits_for_nobody_is_dropped(lab: &Lab, workers: u32) -> Result {
    let wire = Wire::new(lab)?;
    let node = Node::new(lab, &wire, "a", &format!("{A}/24"), workers)?;
    node.weft.sh("vni map br0 10 1010")?;
    node.weft.sh(&format!("tunnel add br0 nowhere type=vxlan local={A} remote={B}"))?;
    node.weft.sh(&format!("tunnel add br0 no-route type=vxlan local={A} remote=203.0.113.9"))?;
    let vm = node.vm(lab, "vm", "vlan=10", FIRST)?;
    node.weft.sh("fdb add br0 no-route 10 02:00:00:00:00:09")?;
    let broadcast = Tags::default().frame([2, 0, 0, 0, 0, 1]);
    let mut unicast = broadcast.clone();
    unicast[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    vm.ns().send_frames("vm", &vec![broadcast; 20])?;
    vm.ns().send_frames("vm", &vec![unicast; 5])?;
    let held = || node.weft.accounts().map(|accounts| accounts.held());
    let mut most = 0;
    wait_for("packets that wait", SHORT, || {
        most = held()?;
        Ok(most > 0)
    })?;
    assert!(most <= 16, "{most} held");
    let came_in = || Ok(node.weft.counter("vm", "rx_packets")? >= 25 && held()? == 0);
    wait_for("nothing that waits", SHORT, came_in)?;
    node.weft.settle()?;
    assert_eq!(node.weft.drops("vm", "neighbour_unresolved")?, 20, "{}", node.weft.accounts()?);
    assert_eq!(node.weft.drops("vm", "tunnel_no_route")?, 5, "{}", node.weft.accounts()?);
    let shown = node.weft.tunnel("no-route")?["state"].to_string();
    assert!(shown.contains("no route"), "{shown}");
    node.weft.settle()
}
