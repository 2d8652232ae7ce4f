//! Devices vanish, come back and change while they carry traffic; and a switch that has nothing to do does nothing.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use weft_tests::cmd::SHORT;
use weft_tests::node::two_nodes;
use weft_tests::probe::{Stream, down, in_background, processor_share, wait_calm, wait_traffic};
use weft_tests::{Host, Lab, Netns, Node, Result, Weftd, cmd, ping, veth, wait_for, wait_reachable, weftd};

const SOON: Duration = SHORT;

/// A node with four VMs on one VLAN: two on taps that stay, one on a tap, and one each behind a veth per backend.
struct World {
    node: Node,
    other: Node,
    steady: [Host; 2],
    far: Host,
    tap: Host,
    packet: Host,
    xdp: Host,
}

impl World {
    fn new(lab: &Lab, workers: u32) -> Result<Self> {
        let [node, other] = two_nodes(lab, workers)?;
        let steady = [node.numbered_vm(lab, "a", "vlan=10", 1)?, node.numbered_vm(lab, "b", "vlan=10", 2)?];
        let far = other.numbered_vm(lab, "far", "vlan=10", 3)?;
        let tap = node.numbered_vm(lab, "tap", "vlan=10", 4)?;
        let behind = |name: &str, backend: &str, number: u8| -> Result<Host> {
            let host = Host::on_veth(lab, name, &format!("10.0.0.{number}/24"), (&node.ns, name))?;
            node.weft.sh(&format!("port add br0 {name} backend={backend} vlan=10"))?;
            Ok(host)
        };
        let packet = behind("vpacket", "af_packet", 5)?;
        let xdp = behind("vxdp", "af_xdp", 6)?;
        let world = World { node, other, steady, far, tap, packet, xdp };
        for host in [&world.steady[1], &world.far, &world.tap, &world.packet, &world.xdp] {
            assert!(ping(world.steady[0].ns(), host.address(), 3, "")?.received > 0, "{}", host.address());
        }
        Ok(world)
    }

    fn weftd(&self) -> &Weftd {
        &self.node.weft
    }

    /// Waits until a port is down and says why.
    fn wait_down(&self, name: &str) -> Result<String> {
        wait_for(&format!("{name} to be down"), SOON, || Ok(down(self.weftd(), name)?.is_some()))?;
        Ok(down(self.weftd(), name)?.unwrap_or_default())
    }

    fn wait_up(&self, name: &str) -> Result {
        wait_for(&format!("{name} to be up"), SOON, || Ok(down(self.weftd(), name)?.is_none()))
    }

    /// How busy weftd is, in percent of a core, with streams from steady VM a.
    fn share(&self) -> Result<f64> {
        wait_traffic(self.weftd(), "a")?;
        processor_share(self.weftd().pid()?, Duration::from_millis(700))
    }

    /// No thread spins: weftd gets about as busy as it was under the same load `before`.
    fn wait_calm(&self, when: &str, before: f64) -> Result {
        let share = wait_calm(self.weftd().pid()?, 15.0 + 1.5 * before, Duration::from_millis(700))?;
        println!("{when}: {share:.1} % of a core, {before:.1} % before");
        Ok(())
    }

    /// Makes the veth pair again that a host was behind.
    fn plug_again(&self, host: &Host, name: &str, mac: &str) -> Result {
        veth((host.ns(), "eth0"), (&self.node.ns, name))?;
        host.ns().ip(&format!("link set eth0 address {mac}"))?;
        host.ns().ip(&format!("addr add {}/24 dev eth0", host.address())).map(drop)
    }
}

#[test]
fn a_device_that_vanishes_is_down_with_a_reason_and_comes_back_with_one_worker() -> Result {
    vanish("a_device_that_vanishes_is_down_with_a_reason_and_comes_back_with_one_worker", 1)
}

#[test]
fn a_device_that_vanishes_is_down_with_a_reason_and_comes_back_with_two_workers() -> Result {
    vanish("a_device_that_vanishes_is_down_with_a_reason_and_comes_back_with_two_workers", 2)
}

fn vanish(test: &str, workers: u32) -> Result {
    let Some(lab) = Lab::open(test, &weftd::NEEDS)? else { return Ok(()) };
    let world = World::new(&lab, workers)?;
    let [a, b] = &world.steady;
    world.weftd().no_accounts();
    let steady = Stream::start(&lab, "steady", (a, b), (1000, 12))?;
    let across = Stream::start(&lab, "across", (a, &world.far), (500, 12))?;
    let macs = (world.packet.mac()?, world.xdp.mac()?);
    // Traffic to what is going to vanish.
    let doomed = [&world.tap, &world.packet, &world.xdp].map(|host| {
        let target = host.mac().expect("it has one");
        let options = format!("--no-announce --dmac {target}");
        Stream::start_with(&lab, &format!("to-{}", host.address()), (a, b), (300, 12), &options)
    });
    let before = world.share()?;

    world.tap.ns().ip("link del tap")?;
    let why = world.wait_down("tap").unwrap_or_default();
    println!("tap: {why}");
    world.node.ns.ip("link del vpacket")?;
    println!("vpacket: {}", world.wait_down("vpacket")?);
    world.node.ns.ip("link del vxdp")?;
    println!("vxdp: {}", world.wait_down("vxdp")?);
    world.wait_calm("three devices gone, three streams to them", before)?;
    world.plug_again(&world.packet, "vpacket", &macs.0)?;
    world.plug_again(&world.xdp, "vxdp", &macs.1)?;
    for name in ["tap", "vpacket", "vxdp"] {
        world.wait_up(name)?;
    }
    // The tap is a new one: its VM sets it up again.
    world.tap.ns().ip("link set tap address 02:00:00:00:00:04")?;
    world.tap.ns().configure("tap", "10.0.0.4/24", 1400)?;
    for host in [&world.tap, &world.packet, &world.xdp] {
        wait_reachable(&world.steady[0], host.address())?;
    }
    steady.finish_clean()?;
    across.finish_clean()?;
    for stream in doomed {
        stream?.finish()?;
    }
    world.other.close_accounts()
}

#[test]
fn an_uplink_that_vanishes_takes_the_tunnels_down_and_comes_back() -> Result {
    const TEST: &str = "an_uplink_that_vanishes_takes_the_tunnels_down_and_comes_back";
    let Some(lab) = Lab::open(TEST, &weftd::NEEDS)? else { return Ok(()) };
    let world = World::new(&lab, 2)?;
    let [a, b] = &world.steady;
    [&world.node, &world.other].iter().for_each(|node| node.weft.no_accounts());
    let steady = Stream::start(&lab, "steady", (a, b), (1000, 8))?;
    let across = Stream::start(&lab, "across", (a, &world.far), (300, 8))?;
    let before = world.share()?;
    world.node.ns.ip("link del uplink")?;
    wait_for("the tunnel to be down", SOON, || Ok(world.weftd().tunnel("t")?["state"]["down"].is_string()))?;
    println!("t: {}", world.weftd().tunnel("t")?["state"]);
    world.wait_calm("no uplink, a stream to it", before)?;
    wait_for("drops", SOON, || Ok(world.weftd().drops("a", "tunnel_no_route")? > 0))?;
    veth((&world.node.ns, "uplink"), (&world.other.ns, "uplink"))?;
    for node in [&world.node, &world.other] {
        node.ns.ip(&format!("addr add {}/24 dev uplink", node.address))?;
    }
    wait_reachable(&world.steady[0], world.far.address())?;
    assert_eq!(world.weftd().tunnel("t")?["state"], "up");
    steady.finish_clean()?;
    across.finish()?;
    assert!(ping(a.ns(), world.far.address(), 5, "")?.is_clean());
    Ok(())
}

#[test]
fn a_device_goes_down_and_up_and_changes_its_mtu() -> Result {
    const TEST: &str = "a_device_goes_down_and_up_and_changes_its_mtu";
    let Some(lab) = Lab::open(TEST, &weftd::NEEDS)? else { return Ok(()) };
    let world = World::new(&lab, 2)?;
    let [a, b] = &world.steady;
    let steady = Stream::start(&lab, "steady", (a, b), (1000, 10))?;
    for (host, name, ns, device) in [
        (&world.tap, "tap", world.tap.ns(), "tap"),
        (&world.packet, "vpacket", &world.node.ns, "vpacket"),
        (&world.xdp, "vxdp", &world.node.ns, "vxdp"),
    ] {
        ns.ip(&format!("link set {device} down"))?;
        let why = world.wait_down(name)?;
        assert!(why.contains("administratively down"), "{name}: {why}");
        // Its packets are dropped and counted meanwhile.
        assert_eq!(ping(a.ns(), host.address(), 2, "")?.received, 0);
        ns.ip(&format!("link set {device} up"))?;
        world.wait_up(name)?;
        wait_reachable(&world.steady[0], host.address())?;
        ns.ip(&format!("link set {device} mtu 1300"))?;
        wait_for("the MTU to be shown", SOON, || Ok(world.weftd().port(name)?["mtu"] == 1300))?;
        assert_eq!(ping(a.ns(), host.address(), 2, "-s 1200")?.received, 2, "{name}");
        world.weftd().sh(&format!("port set {name} mtu=1350"))?;
        assert!(ns.ip(&format!("link show dev {device}"))?.contains("mtu 1350"));
    }
    // A device whose driver has a limit of its own: a request that exceeds it changes nothing.
    world.node.ns.ip("link add vx0 type vxlan id 1 dstport 4790 remote 192.168.77.2 dev uplink")?;
    let before = world.weftd().sh("config show")?;
    let refused = world.weftd().refused("port add br0 vx0 mtu=9000")?;
    println!("{refused}");
    assert!(refused.contains("vx0") && refused.contains("9000"), "{refused}");
    assert_eq!(world.weftd().sh("config show")?, before);
    world.weftd().sh("port add br0 vx0 mtu=1400 vlan=99")?;
    world.weftd().refused("port set vx0 mtu=9000 vlan=98")?;
    let port = world.weftd().port("vx0")?;
    assert_eq!((&port["mtu"], &port["vlan"]), (&1400.into(), &"access 99".into()));
    steady.finish_clean()?;
    [&world.node, &world.other].iter().try_for_each(|node| node.close_accounts())
}

#[test]
fn a_namespace_that_is_deleted_takes_its_tap_and_gives_it_back() -> Result {
    const TEST: &str = "a_namespace_that_is_deleted_takes_its_tap_and_gives_it_back";
    let Some(lab) = Lab::open(TEST, &weftd::NEEDS)? else { return Ok(()) };
    let ns = Netns::new(&lab, "node")?;
    let weftd = Weftd::start(&lab, "weft", &ns, "")?;
    weftd.no_accounts();
    weftd.sh("bridge add br0")?;
    let vm = Netns::new(&lab, "vm")?;
    let name = vm.name().to_owned();
    for persistent in ["false", "true"] {
        weftd.sh(&format!("port add br0 t-{persistent} type=tap netns={name} persistent={persistent}"))?;
    }
    // While somebody is in there it lives on without its name.
    let mut somebody = in_background(&lab, &vm, "somebody", "sleep 60")?;
    wait_for("somebody to be in there", SOON, || Ok(!cmd::sh(&format!("ip netns pids {name}"))?.is_empty()))?;
    cmd::sh(&format!("ip netns del {name}"))?;
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(down(&weftd, "t-true")?, None);
    somebody.terminate(SOON)?;
    for port in ["t-false", "t-true"] {
        wait_for("the port to be down", SOON, || Ok(down(&weftd, port)?.is_some()))?;
        println!("{}", down(&weftd, port)?.unwrap_or_default());
    }
    wait_calm(weftd.pid()?, 10.0, Duration::from_secs(1))?;
    cmd::sh(&format!("ip netns add {name}"))?;
    for port in ["t-false", "t-true"] {
        wait_for("the port to be up", SOON, || Ok(down(&weftd, port)?.is_none()))?;
        assert!(vm.has_device(port));
    }
    Ok(())
}

#[test]
fn an_idle_switch_uses_less_than_one_percent_of_a_core() -> Result {
    const TEST: &str = "an_idle_switch_uses_less_than_one_percent_of_a_core";
    let Some(lab) = Lab::open(TEST, &weftd::NEEDS)? else { return Ok(()) };
    for workers in [1, 2] {
        for ports in [0, 40] {
            let ns = Netns::new(&lab, &format!("node{workers}-{ports}"))?;
            let vm = Netns::new(&lab, &format!("vm{workers}-{ports}"))?;
            let toml = format!("[switch]\nworkers = {workers}\n");
            let weftd = Weftd::start(&lab, &format!("weft{workers}-{ports}"), &ns, &toml)?;
            if ports > 0 {
                weftd.sh("bridge add br0")?;
            }
            for number in 0..ports {
                weftd.sh(&format!("port add br0 t{number} type=tap netns={} vlan={number}", vm.name()))?;
            }
            std::thread::sleep(Duration::from_secs(1));
            let share = wait_calm(weftd.pid()?, 1.0, Duration::from_secs(5))?;
            println!("{workers} workers, {ports} ports, no traffic: {share:.2} % of a core");
        }
    }
    Ok(())
}
