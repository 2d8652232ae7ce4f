//! weft against other switches: the kernel's vxlan device, stock Open vSwitch, and a guest that QEMU runs.

use weft_tests::cmd::SHORT;
use weft_tests::node::NEEDS;
use weft_tests::ovs::SCHEMA;
use weft_tests::{
    Capture, Guest, Host, KernelVxlan, Lab, Need, Netns, Node, QemuGuest, Result, StockOvs, Wire, clean_ping,
    iperf3, ping, qemu, scenarios, wait_for, wait_for_listener,
};

const OVS: [Need; 3] =
    [Need::Tool("ovs-vswitchd"), Need::Tool("ovsdb-server"), Need::File(SCHEMA, "OVS's schema")];

scenarios! {
    the_kernels_vxlan_device needs [&NEEDS[..], &[Need::Device("vxlan")]].concat();
    stock_ovs_over_vxlan needs [&NEEDS[..], &OVS].concat();
    stock_ovs_over_gre needs [&NEEDS[..], &OVS].concat();
    a_guest_on_a_tap_that_qemu_holds needs [&NEEDS[..], &qemu::NEEDS].concat();
}

const A: &str = "192.168.7.1";
const B: &str = "192.168.7.2";

/// Both ways at once would hide which one fails.
fn tcp_both_ways(lab: &Lab, a: &Host, b: &Host) -> Result {
    for (from, to) in [(a, b), (b, a)] {
        let tcp = iperf3(lab, from, to, 0, "-n 2M")?;
        assert!(tcp.bits_per_second > 1e6, "{} to {}: {tcp:?}", from.device(), to.device());
    }
    Ok(())
}

/// `vx1010` without and `vx1020` with outer UDP checksums.
fn the_kernels_vxlan_device(lab: &Lab, workers: u32) -> Result {
    let wire = Wire::new(lab)?;
    let node = Node::new(lab, &wire, "a", &format!("{A}/24"), workers)?;
    let mut peer = Host::new(lab, "kernel", "vx1010")?;
    wire.plug(peer.ns(), "kernel", &format!("{B}/24"))?;
    node.weft.sh("vni map br0 10 1010")?;
    node.weft.sh("vni map br0 20 1020")?;
    node.weft.sh(&format!("tunnel add br0 vx type=vxlan local={A} remote={B}"))?;
    for (vlan, vni, options) in [(10, 1010, ""), (20, 1020, "udpcsum")] {
        let name = format!("vm{vlan}");
        let vm = node.vm(lab, &name, &format!("vlan={vlan} mtu=1450"), (&format!("10.{vlan}.0.1/24"), ""))?;
        let address = format!("10.{vlan}.0.2");
        peer.is_known_as(&format!("vx{vni}"), &address);
        let vxlan = KernelVxlan::with_options(peer.ns(), vni, (B, &format!("{address}/24")), options)?;
        vxlan.flood_to(A)?;
        let capture = Capture::start(lab, &name, wire.ns(), "a", "")?;
        clean_ping(&vm, &peer, "")?;
        clean_ping(&peer, &vm, "-M do -s 1422")?;
        tcp_both_ways(lab, &vm, &peer)?;
        let captured = capture.stop()?;
        captured.assert_no_malformed_no_bad_checksum()?;
        let pings = captured.fields("vxlan && icmp", &["vxlan.vni"])?;
        assert!(pings.len() == 12 && pings.iter().all(|row| row[0] == vni.to_string()), "{pings:?}");
        assert_eq!(vxlan.learned(&vm.mac()?)?, Some(A.to_owned()));
        unfinished_checksums_inside(lab, &wire, (&vm, &peer))?;
    }
    Ok(())
}

/// Over devices without hardware the kernel leaves the checksums of the inner packets as they are.
fn unfinished_checksums_inside(lab: &Lab, wire: &Wire, (vm, peer): (&Host, &Host)) -> Result {
    peer.ns().tx_checksums_left_to("uplink")?;
    wire.ns().tx_checksums_left_to("kernel")?;
    wire.ns().tx_checksums_left_to("a")?;
    let capture = Capture::start(lab, "unfinished", wire.ns(), "kernel", "src host 192.168.7.2 and udp")?;
    tcp_both_ways(lab, vm, peer)?;
    let udp = iperf3(lab, peer, vm, 0, "-u -n 200K -b 20M -l 1000")?;
    assert!(udp.sent >= 200 && udp.arrived(), "{udp:?}");
    let captured = capture.stop()?;
    assert!(captured.count("vxlan && tcp.checksum.status == 0")? > 100, "the kernel finishes them by itself");
    for (ns, device) in [(peer.ns(), "uplink"), (wire.ns(), "kernel"), (wire.ns(), "a")] {
        ns.offloads_off(device)?;
    }
    Ok(())
}

/// A compute node under stock OVS: `br-phy` with the underlay, `br-int` with a VM on VLAN 10.
struct OvsNode {
    ovs: StockOvs,
    vm: Host,
    _ns: Netns,
}

impl OvsNode {
    fn new(lab: &Lab, wire: &Wire) -> Result<Self> {
        let ns = Netns::new(lab, "ovs")?;
        wire.plug(&ns, "ovs", "")?;
        let ovs = StockOvs::in_netns(lab, "stock", &ns)?;
        ovs.add_underlay(&ns, "br-phy", "uplink", &format!("{B}/24"))?;
        ovs.add_bridge("br-int")?;
        let vm = Host::on_veth(lab, "ovs-vm", "10.0.0.2/24", (&ns, "vm"))?;
        vm.configure_mtu(1400)?;
        ovs.add_port("br-int", "vm", "tag=10")?;
        Ok(OvsNode { ovs, vm, _ns: ns })
    }
}

/// How both sides are set up: settings of weft's tunnel, OVS's options, its port's columns, and the key in the packets.
struct Mode {
    weft: &'static str,
    ovs: &'static str,
    port: &'static str,
    key: u32,
    inner_vlan: &'static str,
}

/// By the map; one key for an access port; one key for a trunk, whose VLAN is then inside.
const MODES: [Mode; 3] = [
    Mode { weft: "", ovs: "options:key=1010", port: "tag=10", key: 1010, inner_vlan: "" },
    Mode {
        weft: "key=77 vlan=10",
        ovs: "options:key=77 options:csum=true",
        port: "tag=10",
        key: 77,
        inner_vlan: "",
    },
    Mode { weft: "key=0 csum=true", ovs: "options:key=0", port: "trunks=10", key: 0, inner_vlan: "10" },
];

fn stock_ovs_over_vxlan(lab: &Lab, workers: u32) -> Result {
    stock_ovs(lab, workers, "vxlan")
}

fn stock_ovs_over_gre(lab: &Lab, workers: u32) -> Result {
    stock_ovs(lab, workers, "gre")
}

fn stock_ovs(lab: &Lab, workers: u32, kind: &str) -> Result {
    let wire = Wire::new(lab)?;
    let node = Node::new(lab, &wire, "a", &format!("{A}/24"), workers)?;
    node.weft.sh("vni map br0 10 1010")?;
    let vm = node.vm(lab, "vm", "vlan=10 mtu=1400", ("10.0.0.1/24", ""))?;
    let peer = OvsNode::new(lab, &wire)?;
    for (number, mode) in MODES.iter().enumerate() {
        node.weft.sh(&format!("tunnel add br0 tun type={kind} local={A} remote={B} {}", mode.weft))?;
        peer.ovs.add_tunnel("br-int", "tun", kind, &format!("options:remote_ip={A} {}", mode.ovs))?;
        peer.ovs.vsctl(&["set", "port", "tun", mode.port])?;
        let capture = Capture::start(lab, &format!("{kind}{number}"), wire.ns(), "a", "")?;
        // OVS loses the first packets of a tunnel while it looks for the remote end.
        let first = || Ok(ping(peer.vm.ns(), vm.address(), 1, "")?.received == 1);
        wait_for("OVS's first packet", SHORT, first)?;
        clean_ping(&vm, &peer.vm, "")?;
        clean_ping(&peer.vm, &vm, "-M do -s 1372")?;
        tcp_both_ways(lab, &vm, &peer.vm)?;
        let captured = capture.stop()?;
        captured.assert_no_malformed_no_bad_checksum()?;
        let (field, key) = match kind {
            "vxlan" => ("vxlan.vni", mode.key.to_string()),
            _ => ("gre.key", format!("0x{:08x}", mode.key)),
        };
        for row in captured.fields(&format!("{kind} && icmp"), &[field, "vlan.id"])? {
            assert_eq!(row, [key.as_str(), mode.inner_vlan], "{kind} {number}");
        }
        node.weft.remove("tunnel del tun")?;
        peer.ovs.vsctl(&["del-port", "tun"])?;
    }
    Ok(())
}

/// QEMU's own tap: weft comes to it as to any device, and has to choose packet sockets.
fn a_guest_on_a_tap_that_qemu_holds(lab: &Lab, workers: u32) -> Result {
    let wire = Wire::new(lab)?;
    let a = Node::new(lab, &wire, "a", &format!("{A}/24"), workers)?;
    let b = Node::new(lab, &wire, "b", &format!("{B}/24"), workers)?;
    for (node, local, remote) in [(&a, A, B), (&b, B, A)] {
        node.weft.sh("vni map br0 10 1010")?;
        node.weft.sh(&format!("tunnel add br0 tun type=vxlan local={local} remote={remote}"))?;
    }
    let vm = b.vm(lab, "vm", "vlan=10 mtu=1450", ("10.0.0.1/24", ""))?;
    a.ns.ip("tuntap add guest0 mode tap")?;
    a.ns.ip("link set guest0 up")?;
    let guest = Guest { tap: "guest0", cidr: "10.0.0.2/24", mac: "02:00:00:00:00:02", mtu: 1450 };
    let mut guest = QemuGuest::boot(lab, "guest", &a.ns, &guest)?;
    a.weft.sh("port add br0 guest0 vlan=10")?;
    let port = a.weft.port("guest0")?;
    assert_eq!((port["type"].as_str(), port["backend"].as_str()), (Some("netdev"), Some("af_packet")));
    assert_eq!(port["why"], "somebody else's tap: only af_packet sees its unfinished checksums");
    assert!(a.weft.sh("port show guest0")?.contains("somebody else's tap"));

    let pings = guest.sh("ping -c 3 10.0.0.1")?;
    assert!(pings.contains("3 packets received") && !pings.contains("DUP"), "{pings}");
    let result = ping(vm.ns(), "10.0.0.2", 3, "")?;
    assert!(result.is_clean(), "{result:?}");
    guest_receives(lab, &mut guest, &vm)?;
    guest_sends(lab, &mut guest, &vm)
}

const MEGABYTE: &str = "1048576";

/// A megabyte over TCP from the VM to the guest.
fn guest_receives(lab: &Lab, guest: &mut QemuGuest, vm: &Host) -> Result {
    let serve = "head -c 1048576 /dev/zero | socat -u STDIN TCP-LISTEN:5000,reuseaddr";
    let mut server = vm.ns().spawn(lab, "server", &["sh", "-c", serve])?;
    wait_for_listener(vm.ns(), 5000)?;
    let (code, got) = guest.run("nc 10.0.0.1 5000 </dev/null | wc -c", SHORT)?;
    assert_eq!((code, got.trim()), (0, MEGABYTE));
    server.wait(SHORT).map(drop)
}

/// A megabyte over TCP from the guest to the VM.
fn guest_sends(lab: &Lab, guest: &mut QemuGuest, vm: &Host) -> Result {
    let mut server =
        vm.ns().spawn(lab, "server", &["sh", "-c", "socat -u TCP-LISTEN:5000,reuseaddr STDOUT | wc -c"])?;
    wait_for_listener(vm.ns(), 5000)?;
    let (code, said) = guest.run("head -c 1048576 /dev/zero | nc 10.0.0.1 5000", SHORT)?;
    assert_eq!(code, 0, "{said}");
    server.wait(SHORT)?;
    assert_eq!(server.log().trim(), MEGABYTE);
    Ok(())
}
