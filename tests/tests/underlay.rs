//! The underlay changes while tunnels are up: routes, gateways, neighbours, MTUs. Tunnels follow; what can't be sent is
//! held for a moment, then dropped and counted.

use std::time::{Duration, Instant};

use weft_tests::cmd::SHORT;
use weft_tests::node::two_nodes;
use weft_tests::probe::{Stream, processor_share, wait_traffic};
use weft_tests::{Host, Lab, Netns, Node, Result, Weftd, ping, veth, wait_for, wait_reachable, weftd};

const SOON: Duration = SHORT;

/// Two nodes, a VM on each, and a VXLAN tunnel between them.
fn joined(lab: &Lab, workers: u32) -> Result<([Host; 2], [Node; 2])> {
    let [one, two] = two_nodes(lab, workers)?;
    let vms = [one.numbered_vm(lab, "a", "vlan=10", 1)?, two.numbered_vm(lab, "b", "vlan=10", 2)?];
    assert!(ping(vms[0].ns(), vms[1].address(), 3, "")?.received > 0);
    Ok((vms, [one, two]))
}

fn tunnel_says(weftd: &Weftd, key: &str) -> Result<String> {
    Ok(weftd.tunnel("t")?[key].to_string().replace('"', ""))
}

#[test]
fn tunnels_follow_neighbours_and_mtus() -> Result {
    const TEST: &str = "tunnels_follow_neighbours_and_mtus";
    let Some(lab) = Lab::open(TEST, &weftd::NEEDS)? else { return Ok(()) };
    let ([a, b], [one, two]) = joined(&lab, 2)?;

    // Forgotten neighbours: the packets that come meanwhile wait. Eight may: two hundred milliseconds of this stream.
    let stream = Stream::start(&lab, "forgotten", (&a, &b), (40, 3))?;
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(200));
        one.ns.forget_neighbours("uplink")?;
    }
    let streamed = stream.finish()?;
    println!("neighbours forgotten ten times: {streamed:?}");
    assert_eq!(streamed.lost, 0, "{streamed:?}");

    // The other end gets another Ethernet address, and says so (as a VIP does that moves).
    let (mac, new) = ("02:00:00:00:77:77", "02:00:00:00:77:78");
    for mac in [mac, new] {
        two.ns.ip(&format!("link set uplink address {mac}"))?;
        two.ns.run(&["busybox", "arping", "-A", "-c", "1", "-I", "uplink", "192.168.77.2"], SOON)?;
        one.ns.forget_neighbours("uplink")?;
        wait_for("the new neighbour", SOON, || Ok(tunnel_says(&one.weft, "neighbour")?.contains(mac)))?;
        wait_reachable(&a, b.address())?;
    }

    for (mtu, inner) in [(1400, "1350"), (9000, "8950"), (1500, "1450")] {
        for node in [&one, &two] {
            node.ns.ip(&format!("link set uplink mtu {mtu}"))?;
        }
        wait_for("the tunnel's MTU", SOON, || Ok(tunnel_says(&one.weft, "effective_mtu")? == inner))?;
        assert_eq!(one.weft.port("a")?["effective_mtu"].to_string(), inner);
        let inner: u32 = inner.parse()?;
        a.configure_mtu(9000)?;
        b.configure_mtu(9000)?;
        let fits = ping(a.ns(), b.address(), 2, &format!("-M do -s {}", inner - 28))?;
        assert_eq!(fits.received, 2, "MTU {mtu}");
        let before = one.weft.drops("a", "tunnel_too_big")?;
        assert_eq!(ping(a.ns(), b.address(), 2, &format!("-M do -s {}", inner - 27))?.received, 0);
        assert_eq!(one.weft.drops("a", "tunnel_too_big")?, before + 2, "MTU {mtu}");
    }
    [&one, &two].iter().try_for_each(|node| node.close_accounts())
}

#[test]
fn packets_for_an_unreachable_end_are_held_and_then_counted() -> Result {
    const TEST: &str = "packets_for_an_unreachable_end_are_held_and_then_counted";
    let Some(lab) = Lab::open(TEST, &weftd::NEEDS)? else { return Ok(()) };
    let ([a, b], [one, two]) = joined(&lab, 1)?;
    // Nobody answers for it any more.
    two.ns.ip("addr del 192.168.77.2/24 dev uplink")?;
    one.ns.forget_neighbours("uplink")?;
    wait_for("the neighbour to be missed", SOON, || Ok(tunnel_says(&one.weft, "state")?.contains("77.2")))?;
    println!("{}", tunnel_says(&one.weft, "state")?);
    let stream = Stream::start_with(&lab, "lost", (&a, &b), (5000, 4), "--no-announce")?;
    wait_traffic(&one.weft, "a")?;
    let share = processor_share(one.weft.pid()?, Duration::from_secs(1))?;
    let mut held = 0;
    wait_for("packets that wait", SOON, || {
        held = one.weft.accounts()?.held();
        Ok(held > 0)
    })?;
    let streamed = stream.finish()?;
    println!("5000 packets a second to an unresolved neighbour: {share:.1} % of a core, {held} held");
    assert!(held <= 8, "{held} held");
    assert!(share < 80.0, "{share} % of a core");
    wait_for(
        "all to be dropped",
        SOON,
        || Ok(one.weft.drops("a", "neighbour_unresolved")? >= streamed.sent),
    )?;
    assert_eq!(streamed.lost, streamed.sent);
    two.ns.ip("addr add 192.168.77.2/24 dev uplink")?;
    let start = Instant::now();
    wait_reachable(&a, b.address())?;
    println!("reachable {} ms after the other end was back", start.elapsed().as_millis());
    // Its uplink has come and gone with the address.
    two.weft.no_accounts();
    [&one, &two].iter().try_for_each(|node| node.close_accounts())
}

#[test]
fn tunnels_follow_routes_and_gateways() -> Result {
    const TEST: &str = "tunnels_follow_routes_and_gateways";
    let Some(lab) = Lab::open(TEST, &weftd::NEEDS)? else { return Ok(()) };
    let ([a, b], [one, two]) = joined(&lab, 2)?;
    // Loopback addresses behind a router, and a second way to the other node.
    let router = Netns::new(&lab, "router")?;
    router.sh("sysctl -qw net.ipv4.ip_forward=1")?;
    for (node, number) in [(&one, 1), (&two, 2)] {
        veth((&node.ns, "second"), (&router, &format!("r{number}")))?;
        node.ns.ip(&format!("addr add 10.{number}.0.2/24 dev second"))?;
        router.ip(&format!("addr add 10.{number}.0.1/24 dev r{number}"))?;
        node.ns.ip(&format!("addr add 172.16.0.{number}/32 dev lo"))?;
        router.ip(&format!("route add 172.16.0.{number}/32 via 10.{number}.0.2"))?;
        let other = 3 - number;
        node.ns.ip(&format!("route add 172.16.0.{other}/32 via 192.168.77.{other}"))?;
        // Packets come in by the one device and leave by the other for a moment.
        for device in ["all", "uplink", "second"] {
            node.ns.sh(&format!("sysctl -qw net.ipv4.conf.{device}.rp_filter=0"))?;
        }
    }
    one.weft.remove("tunnel del t")?;
    two.weft.remove("tunnel del t")?;
    one.weft.sh("tunnel add br0 t type=vxlan local=172.16.0.1 remote=172.16.0.2")?;
    two.weft.sh("tunnel add br0 t type=vxlan local=172.16.0.2 remote=172.16.0.1")?;
    wait_reachable(&a, b.address())?;
    assert_eq!(tunnel_says(&one.weft, "underlay")?, "uplink");

    // By the router now.
    for (node, number) in [(&one, 1), (&two, 2)] {
        let other = 3 - number;
        node.ns.ip(&format!("route replace 172.16.0.{other}/32 via 10.{number}.0.1"))?;
        wait_for("the new route", SOON, || {
            Ok(tunnel_says(&node.weft, "next_hop")? == format!("10.{number}.0.1"))
        })?;
        assert_eq!(tunnel_says(&node.weft, "underlay")?, "second");
    }
    wait_reachable(&a, b.address())?;
    let uplinks = one.weft.json("show")?["uplinks"].clone();
    assert!(uplinks.to_string().contains("second"), "{uplinks}");

    // No route, and one again.
    one.ns.ip("route del 172.16.0.2/32")?;
    wait_for("the route to be missed", SOON, || Ok(tunnel_says(&one.weft, "state")?.contains("down")))?;
    println!("{}", tunnel_says(&one.weft, "state")?);
    assert_eq!(ping(a.ns(), b.address(), 2, "")?.received, 0);
    assert!(one.weft.drops("a", "tunnel_no_route")? > 0);
    one.ns.ip("route add default via 10.1.0.1")?;
    wait_reachable(&a, b.address())?;
    assert_eq!(tunnel_says(&one.weft, "next_hop")?, "10.1.0.1");
    [&one, &two].iter().for_each(|node| node.weft.no_accounts());
    Ok(())
}

#[test]
fn a_device_with_another_xdp_program_is_refused_clearly() -> Result {
    const TEST: &str = "a_device_with_another_xdp_program_is_refused_clearly";
    let Some(lab) = Lab::open(TEST, &weftd::NEEDS)? else { return Ok(()) };
    let ns = Netns::new(&lab, "node")?;
    let peer = Netns::new(&lab, "peer")?;
    veth((&ns, "uplink"), (&peer, "eth0"))?;
    ns.configure("uplink", "192.168.77.1/24", 0)?;
    peer.configure("eth0", "192.168.77.2/24", 0)?;
    // Another switch's program is another program as good as any.
    let first = Weftd::start(&lab, "first", &ns, "")?;
    first.sh("bridge add br0 internal=false")?;
    first.sh("port add br0 uplink backend=af_xdp")?;
    let second = Weftd::start(&lab, "second", &ns, "")?;
    second.sh("bridge add br1")?;
    second.sh("tunnel add br1 t type=vxlan local=192.168.77.1 remote=192.168.77.2")?;
    let why = tunnel_says(&second, "state")?;
    println!("{why}");
    assert!(why.contains("uplink") && why.contains("XDP program"), "{why}");
    let why = second.refused("port add br1 uplink backend=af_xdp")?;
    println!("{why}");
    // Trying again and again keeps nobody waiting: of thirty answers twenty come at once, whatever else the machine does.
    let answer = || -> Result<Duration> {
        let start = Instant::now();
        second.sh("version")?;
        let took = start.elapsed();
        std::thread::sleep(Duration::from_millis(100));
        Ok(took)
    };
    let mut took = (0..30).map(|_| answer()).collect::<Result<Vec<_>>>()?;
    took.sort();
    assert!(took[20] < Duration::from_millis(700), "{took:?}");
    first.remove("port del uplink")?;
    wait_for("the tunnel to come up", SOON, || Ok(!tunnel_says(&second, "state")?.contains("XDP")))?;
    first.no_accounts();
    second.no_accounts();
    Ok(())
}
