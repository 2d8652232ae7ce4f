//! The harness itself, without weft: its peers understand each other, and it leaves nothing behind.

use std::path::Path;
use weft_tests::lab::find_tool;
use weft_tests::ovs::SCHEMA;
use weft_tests::{
    Capture, Guest, Host, KernelVxlan, Lab, Need, Netns, QemuGuest, Result, StockOvs, arping, cmd, iperf3,
    ping, qemu, veth, wait_for,
};

const OVS: [Need; 4] =
    [Need::Root, Need::Tool("ovs-vswitchd"), Need::Tool("ovsdb-server"), Need::File(SCHEMA, "OVS's schema")];
const CAPTURE: [Need; 2] = [Need::Tool("tcpdump"), Need::Tool("tshark")];

/// One compute node under stock OVS: `br-int` with a VM on access VLAN 10, `br-phy` with the underlay.
struct OvsNode {
    // The switch ends before its namespaces go.
    ovs: StockOvs,
    vm: Host,
    ns: Netns,
}

impl OvsNode {
    /// The underlay device `uplink` must exist after `wire` was called with the node's namespace.
    fn new(lab: &Lab, name: &str, underlay: &str, vm: &str, wire: impl Fn(&Netns) -> Result) -> Result<Self> {
        let ns = Netns::new(lab, name)?;
        wire(&ns)?;
        let ovs = StockOvs::in_netns(lab, &format!("ovs-{name}"), &ns)?;
        ovs.add_underlay(&ns, "br-phy", "uplink", underlay)?;
        ovs.add_bridge("br-int")?;
        let vm = Host::on_veth(lab, &format!("{name}-vm"), vm, (&ns, "vm"))?;
        ovs.add_port("br-int", "vm", "tag=10")?;
        Ok(OvsNode { ovs, vm, ns })
    }
}

fn ping_until_clean(from: &Netns, to: &str) -> Result<()> {
    // The first packets of stock OVS's tunnels are lost while it resolves the remote's address.
    wait_for("the first reply", cmd::SHORT, || Ok(ping(from, to, 1, "")?.received == 1))?;
    let result = ping(from, to, 10, "")?;
    assert!(result.is_clean(), "{result:?}");
    Ok(())
}

#[test]
fn kernel_vxlan_and_stock_ovs_understand_each_other() -> Result {
    let needs = [&OVS[..], &CAPTURE, &[Need::Device("vxlan"), Need::Device("veth")]].concat();
    let Some(lab) = Lab::open("kernel_vxlan_and_stock_ovs_understand_each_other", &needs)? else {
        return Ok(());
    };
    let kernel = Netns::new(&lab, "kernel")?;
    let node = OvsNode::new(&lab, "a", "192.168.7.1/24", "10.0.0.1/24", |ns| {
        veth((ns, "uplink"), (&kernel, "uplink"))
    })?;
    kernel.configure("uplink", "192.168.7.2/24", 0)?;
    let vxlan = KernelVxlan::new(&kernel, 10, "192.168.7.2", "10.0.0.2/24")?;
    vxlan.flood_to("192.168.7.1")?;
    node.ovs.add_tunnel("br-int", "vx", "vxlan", "options:remote_ip=192.168.7.2 options:key=10")?;
    node.ovs.vsctl(&["set", "port", "vx", "tag=10"])?;

    let capture = Capture::start(&lab, "underlay", &kernel, "uplink", "")?;
    ping_until_clean(node.vm.ns(), "10.0.0.2")?;
    ping_until_clean(&kernel, "10.0.0.1")?;
    assert!(
        ping(node.vm.ns(), "10.0.0.2", 2, "-s 1422 -M do")?.is_clean(),
        "1450 bytes fit into VXLAN at MTU 1500"
    );
    let captured = capture.stop()?;
    captured.assert_no_malformed_no_bad_checksum()?;
    let rows = captured
        .fields("vxlan && icmp.type == 8 && ip.dst == 10.0.0.2", &["vxlan.vni", "ip.src", "udp.dstport"])?;
    assert!(rows.len() >= 12, "{rows:?}");
    assert_eq!(rows[0], ["10", "192.168.7.1,10.0.0.1", "4789"]);
    assert_eq!(vxlan.learned(&node.vm.mac()?)?, Some("192.168.7.1".to_owned()));
    Ok(())
}

#[test]
fn stock_ovs_gre_reaches_stock_ovs() -> Result {
    let needs =
        [&OVS[..], &CAPTURE, &[Need::Device("veth"), Need::Tool("iperf3"), Need::Tool("busybox")]].concat();
    let Some(lab) = Lab::open("stock_ovs_gre_reaches_stock_ovs", &needs)? else { return Ok(()) };
    let wire = Netns::new(&lab, "wire")?;
    wire.ip("link add br0 type bridge")?;
    wire.ip("link set br0 up")?;
    let plug = |name: &'static str| {
        let wire = &wire;
        move |ns: &Netns| {
            veth((ns, "uplink"), (wire, name))?;
            wire.ip(&format!("link set dev {name} master br0")).map(drop)
        }
    };
    let a = OvsNode::new(&lab, "a", "192.168.7.1/24", "10.0.0.1/24", plug("a"))?;
    let b = OvsNode::new(&lab, "b", "192.168.7.2/24", "10.0.0.2/24", plug("b"))?;
    for (node, remote) in [(&a, "192.168.7.2"), (&b, "192.168.7.1")] {
        let options = format!("options:remote_ip={remote} options:key=1010");
        node.ovs.add_tunnel("br-int", "gre", "gre", &options)?;
        node.ovs.vsctl(&["set", "port", "gre", "tag=10"])?;
    }

    let capture = Capture::start(&lab, "underlay", &wire, "a", "")?;
    ping_until_clean(a.vm.ns(), "10.0.0.2")?;
    assert_eq!(arping(&a.vm, "10.0.0.2", 2)?, 2);
    a.vm.configure_mtu(1400)?;
    b.vm.configure_mtu(1400)?;
    let tcp = iperf3(&lab, &a.vm, &b.vm, 1, "-b 50M")?;
    assert!(tcp.bits_per_second > 1e6, "{tcp:?}");
    let udp = iperf3(&lab, &a.vm, &b.vm, 1, "-u -b 1M -l 1000")?;
    assert!(udp.sent > 100 && udp.lost * 10 < udp.sent, "{udp:?}");
    let captured = capture.stop()?;
    captured.assert_no_malformed_no_bad_checksum()?;
    let keys = captured.fields("gre && icmp", &["gre.key"])?;
    assert!(keys.len() >= 20 && keys.iter().all(|row| row == &["0x000003f2"]), "{keys:?}");
    assert!(captured.json("gre && icmp.type == 8")?.as_array().is_some_and(|packets| packets.len() >= 10));
    assert!(a.ns.has_device("br-int"));
    Ok(())
}

#[test]
fn a_qemu_guest_on_a_plain_tap_answers() -> Result {
    let needs = [&qemu::NEEDS[..], &[Need::Root, Need::Device("bridge")]].concat();
    let Some(lab) = Lab::open("a_qemu_guest_on_a_plain_tap_answers", &needs)? else { return Ok(()) };
    let ns = Netns::new(&lab, "node")?;
    ns.ip("link add br0 type bridge")?;
    ns.configure("br0", "10.0.0.1/24", 0)?;
    ns.ip("tuntap add tap0 mode tap")?;
    ns.ip("link set tap0 master br0 up")?;
    let guest = Guest { tap: "tap0", cidr: "10.0.0.2/24", mac: "02:00:00:00:00:02", mtu: 1450 };
    let mut guest = QemuGuest::boot(&lab, "guest", &ns, &guest)?;
    let result = ping(&ns, "10.0.0.2", 5, "")?;
    assert!(result.is_clean(), "{result:?}");
    assert!(guest.sh("ping -c 2 10.0.0.1")?.contains("2 packets received"));
    assert!(guest.sh("ip link show eth0")?.contains("mtu 1450"));
    let (code, output) = guest.run("ls /no/such/folder", cmd::SHORT)?;
    assert_eq!((code, output.contains("No such file")), (1, true), "{output}");
    Ok(())
}

#[test]
fn a_bad_checksum_is_seen_and_a_raw_frame_goes_out_as_it_is() -> Result {
    let needs = [&CAPTURE[..], &[Need::Root, Need::Device("veth")]].concat();
    let Some(lab) = Lab::open("a_bad_checksum_is_seen_and_a_raw_frame_goes_out_as_it_is", &needs)? else {
        return Ok(());
    };
    let (a, b) = (Netns::new(&lab, "a")?, Netns::new(&lab, "b")?);
    veth((&a, "eth0"), (&b, "eth0"))?;
    let good = weft_tests::vlan::Tags::default().frame([2, 0, 0, 0, 0, 1]);
    let mut bad = good.clone();
    bad[25] ^= 1;
    for (name, frame, is_bad) in [("good", &good, false), ("bad", &bad, true)] {
        let capture = Capture::start(&lab, name, &b, "eth0", "")?;
        a.send_frame("eth0", frame)?;
        let captured = capture.stop()?;
        assert_eq!(captured.count("udp.dstport == 2")?, 1);
        let judged = std::panic::catch_unwind(|| captured.assert_no_malformed_no_bad_checksum());
        assert_eq!(judged.is_err(), is_bad, "{name}");
    }
    Ok(())
}

#[test]
fn a_lab_leaves_no_namespace_no_process_and_no_file() -> Result {
    let needs = [&OVS[..], &[Need::Device("veth")]].concat();
    let Some(lab) = Lab::open("a_lab_leaves_no_namespace_no_process_and_no_file", &needs)? else {
        return Ok(());
    };
    let (tag, dir) = (lab.tag().to_owned(), lab.dir().to_owned());
    let ns = Netns::new(&lab, "a")?;
    let name = ns.name().to_owned();
    let ovs = StockOvs::in_netns(&lab, "ovs", &ns)?;
    ovs.add_bridge("br0")?;
    // A process that the test itself forgot.
    let forgotten = ns.spawn(&lab, "sleep", &["sleep", "1000"])?;
    let pid = forgotten.pid();
    std::mem::forget(forgotten);
    assert!(cmd::sh("ip netns list")?.contains(&name));
    drop((ovs, ns, lab));
    assert!(!cmd::sh("ip netns list")?.contains(&tag));
    assert!(!dir.exists());
    // It was this process's child, which nobody waited for: a zombie, without a command line.
    let ended = || Ok(std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?.is_empty());
    wait_for("the end of the forgotten process", cmd::SHORT, ended)?;
    wait_for("the end of all processes", cmd::SHORT, || Ok(processes_naming(&tag)?.is_empty()))
}

/// The command lines that name `tag`.
fn processes_naming(tag: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        // A process may end while it is looked at.
        let line = std::fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(tag) {
            found.push(line);
        }
    }
    Ok(found)
}

#[test]
fn what_a_killed_run_left_is_swept_by_the_next_lab() -> Result {
    let Some(lab) = Lab::open("what_a_killed_run_left_is_swept_by_the_next_lab", &[Need::Root])? else {
        return Ok(());
    };
    // No process has a pid above the kernel's limit of 2^22.
    let orphan = format!("wt-4194399-{}", lab.tag());
    let folder = std::env::temp_dir().join(&orphan);
    std::fs::create_dir(&folder)?;
    cmd::sh(&format!("ip netns add {orphan}"))?;
    let _next = Lab::open("next", &[])?;
    assert!(!Path::new("/run/netns").join(&orphan).exists());
    assert!(!folder.exists());
    assert!(find_tool("ip").is_some());
    Ok(())
}
