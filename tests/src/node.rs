//! Compute nodes under weft on one underlay, and the VMs that are plugged into them.

use crate::cmd::{self, Result};
use crate::lab::{Lab, Need};
use crate::netns::{Host, Netns, veth};
use crate::weftd::Weftd;

/// What a scenario with nodes and traffic needs.
pub const NEEDS: [Need; 10] = [
    Need::Root,
    Need::Device("veth"),
    Need::Device("tun"),
    Need::Device("bridge"),
    Need::Tool("tcpdump"),
    Need::Tool("tshark"),
    Need::Tool("iperf3"),
    Need::Tool("ethtool"),
    Need::Tool("socat"),
    Need::File("/usr/bin/python3", "Debian's Python"),
];

/// The underlay's wire: a namespace with a kernel bridge. What passes one of its ports can be captured there; on a node's own
/// device it can't, because AF_XDP packets pass by the kernel's taps.
pub struct Wire {
    ns: Netns,
}

impl Wire {
    /// Makes it.
    pub fn new(lab: &Lab) -> Result<Self> {
        let ns = Netns::new(lab, "wire")?;
        ns.ip("link add br0 type bridge mcast_snooping 0")?;
        ns.ip("link set br0 up")?;
        Ok(Wire { ns })
    }

    /// Its namespace.
    pub fn ns(&self) -> &Netns {
        &self.ns
    }

    /// Plugs a new device `uplink` of the namespace `node` into the wire's port `port`, and gives it an address.
    pub fn plug(&self, node: &Netns, port: &str, cidr: &str) -> Result<()> {
        veth((node, "uplink"), (&self.ns, port))?;
        self.ns.ip(&format!("link set dev {port} master br0"))?;
        node.configure("uplink", cidr, 0)
    }
}

/// A compute node: a namespace, with `uplink` unless it is alone, and weftd in it with the bridge `br0`.
pub struct Node {
    /// The switch; it ends before its namespace goes.
    pub weft: Weftd,
    /// The node's namespace.
    pub ns: Netns,
    /// The uplink's address; empty when it is alone.
    pub address: String,
    name: String,
}

/// The settings of a switch with that many workers, small enough for several on one machine.
pub fn settings(workers: u32) -> String {
    format!("[switch]\nworkers = {workers}\nframes = 32768\n")
}

impl Node {
    /// A node `name` on the wire's port of the same name, with the underlay address `cidr`.
    pub fn new(lab: &Lab, wire: &Wire, name: &str, cidr: &str, workers: u32) -> Result<Self> {
        let ns = Netns::new(lab, name)?;
        wire.plug(&ns, name, cidr)?;
        Node::start(lab, (name, ns), cidr, &settings(workers))
    }

    /// A node without underlay.
    pub fn alone(lab: &Lab, name: &str, workers: u32) -> Result<Self> {
        Node::start(lab, (name, Netns::new(lab, name)?), "", &settings(workers))
    }

    fn start(lab: &Lab, (name, ns): (&str, Netns), cidr: &str, toml: &str) -> Result<Self> {
        let weft = Weftd::start(lab, &format!("weftd-{name}"), &ns, toml)?;
        weft.sh("bridge add br0")?;
        let address = cidr.split('/').next().unwrap_or_default().to_owned();
        Ok(Node { weft, ns, address, name: name.to_owned() })
    }

    /// A VM on a tap that weft makes in the VM's namespace. `port` are the port's settings (`vlan=10`), `vm` the VM's address
    /// with prefix length and its MAC.
    pub fn vm(&self, lab: &Lab, name: &str, port: &str, vm: (&str, &str)) -> Result<Host> {
        let mut host = Host::new(lab, &format!("{}-{name}", self.name), name)?;
        self.weft.sh(&format!("port add br0 {name} type=tap netns={} {port}", host.ns().name()))?;
        host.configure(vm.0, vm.1, 0)?;
        Ok(host)
    }

    /// The same with the address 10.0.0.`number`/24, a MAC that ends in `number`, and the MTU 1400.
    pub fn numbered_vm(&self, lab: &Lab, name: &str, port: &str, number: u8) -> Result<Host> {
        let ends = (format!("10.0.0.{number}/24"), format!("02:00:00:00:00:{number:02x}"));
        let vm = self.vm(lab, name, port, (&ends.0, &ends.1))?;
        vm.configure_mtu(1400)?;
        Ok(vm)
    }

    /// A VM on a veth whose other end is a device of the node, `name`, which weft takes with that `backend`. The VM's end
    /// has its offloads on, as a container's has: its checksums are left to the device.
    pub fn container(&self, lab: &Lab, name: &str, port: &str, vm: (&str, &str)) -> Result<Host> {
        let mut host = Host::new(lab, &format!("{}-{name}", self.name), "eth0")?;
        let (inside, node) = (host.ns().name(), self.ns.name());
        cmd::sh(&format!("ip link add eth0 netns {inside} type veth peer name {name} netns {node}"))?;
        self.ns.configure(name, "", 0)?;
        self.weft.sh(&format!("port add br0 {name} type=netdev {port}"))?;
        host.configure(vm.0, vm.1, 0)?;
        Ok(host)
    }

    /// The last look at the counters: they account for every packet now. From then on its devices may go.
    pub fn close_accounts(&self) -> Result {
        self.weft.settle()?;
        self.weft.no_accounts();
        Ok(())
    }

    /// Forgets the underlay's neighbours.
    pub fn forget_neighbours(&self) -> Result<()> {
        self.ns.forget_neighbours("uplink")
    }
}

/// Two nodes whose uplinks (192.168.77.1 and .2) are joined by a veth pair, and a VXLAN tunnel `t` on each to the other, in which
/// VLAN 10 is VNI 1010.
pub fn two_nodes(lab: &Lab, workers: u32) -> Result<[Node; 2]> {
    let (one, two) = (Netns::new(lab, "node1")?, Netns::new(lab, "node2")?);
    veth((&one, "uplink"), (&two, "uplink"))?;
    let node = |name, ns: Netns, [local, remote]: [&str; 2]| -> Result<Node> {
        let cidr = format!("{local}/24");
        ns.configure("uplink", &cidr, 0)?;
        let node = Node::start(lab, (name, ns), &cidr, &format!("[switch]\nworkers = {workers}\n"))?;
        node.weft.sh("vni map br0 10 1010")?;
        node.weft.sh(&format!("tunnel add br0 t type=vxlan local={local} remote={remote}"))?;
        Ok(node)
    };
    let (first, second) = ("192.168.77.1", "192.168.77.2");
    Ok([node("node1", one, [first, second])?, node("node2", two, [second, first])?])
}

/// Runs one scenario with that many workers, or skips it loudly.
pub fn run(test: &str, needs: &[Need], workers: u32, scenario: fn(&Lab, u32) -> Result) -> Result {
    match Lab::open(test, needs)? {
        Some(lab) => scenario(&lab, workers),
        None => Ok(()),
    }
}

/// Makes two tests of each scenario, a function of a lab and a number of workers: with one worker, and with two.
#[macro_export]
macro_rules! scenarios {
    ($($name:ident needs $needs:expr;)+) => {$(
        mod $name {
            use super::*;

            #[test]
            fn with_one_worker() -> $crate::Result {
                $crate::node::run(concat!(stringify!($name), "::with_one_worker"), &$needs, 1, super::$name)
            }

            #[test]
            fn with_two_workers() -> $crate::Result {
                $crate::node::run(concat!(stringify!($name), "::with_two_workers"), &$needs, 2, super::$name)
            }
        }
    )+};
}
