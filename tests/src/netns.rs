//! Network namespaces, the veth pairs between them, and hosts that stand in for VMs.

use crate::cmd::{self, Error, Output, Result, SHORT};
use crate::lab::Lab;
use crate::process::Process;
use std::time::Duration;

/// A network namespace of this lab, with loopback up and IPv6 off (so that captures hold what the test sent and no more).
/// Dropping it ends what still runs in it and removes it, its devices included.
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes the namespace `<lab's tag>-<name>`.
    pub fn new(lab: &Lab, name: &str) -> Result<Self> {
        let ns = Netns { name: format!("{}-{name}", lab.tag()) };
        cmd::sh(&format!("ip netns add {}", ns.name))?;
        ns.ip("link set lo up")?;
        let quiet = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6";
        // A kernel without IPv6 is as quiet as one where it is off.
        ns.run(&["sh", "-c", quiet], SHORT)?;
        Ok(ns)
    }

    /// The name, as `ip netns` and `weftctl port add ... netns=` take it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The words that enter this namespace, to put before a command.
    pub fn prefix(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    /// Runs a command inside, whatever its exit code.
    pub fn run(&self, argv: &[&str], limit: Duration) -> Result<Output> {
        cmd::run(&[&self.prefix(), argv].concat(), limit)
    }

    /// Runs a command inside, which must succeed; the words are split at blanks.
    pub fn sh(&self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        cmd::ok(&[&self.prefix(), &words[..]].concat(), SHORT)
    }

    /// `ip -n NAMESPACE WORDS...`.
    pub fn ip(&self, line: &str) -> Result<String> {
        cmd::sh(&format!("ip -n {} {line}", self.name))
    }

    /// Starts a daemon inside; its output goes to `<file>.log` in the lab's folder.
    pub fn spawn(&self, lab: &Lab, file: &str, argv: &[&str]) -> Result<Process> {
        Process::start(file, &[&self.prefix(), argv].concat(), &lab.path(&format!("{file}.log")), &[])
    }

    /// True when it has a device of this name.
    pub fn has_device(&self, device: &str) -> bool {
        self.ip(&format!("link show dev {device}")).is_ok()
    }

    /// Gives a device its address and MTU and sets it up. Empty `cidr` or 0 leave that as it is.
    pub fn configure(&self, device: &str, cidr: &str, mtu: u32) -> Result<()> {
        if !cidr.is_empty() {
            self.ip(&format!("addr add {cidr} dev {device}"))?;
        }
        let mtu = if mtu == 0 { String::new() } else { format!("mtu {mtu}") };
        self.ip(&format!("link set dev {device} {mtu} up")).map(drop)
    }

    /// A counter of /proc/net/snmp: of `Udp`, `RcvbufErrors`.
    pub fn counter(&self, protocol: &str, name: &str) -> Result<u64> {
        let text = self.sh("cat /proc/net/snmp")?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
        let (names, numbers) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let column = names.split(' ').position(|column| column == name);
        let value = column.and_then(|at| numbers.split(' ').nth(at)?.parse().ok());
        value.ok_or_else(|| Error::new(format!("/proc/net/snmp has no {protocol} {name}: {text}")))
    }

    /// Makes the kernel forget each neighbour that it knows on a device, once. `ip neigh flush` goes on until none is left, and
    /// fails where somebody asks for them again meanwhile.
    pub fn forget_neighbours(&self, device: &str) -> Result<()> {
        for line in self.ip(&format!("-o neigh show dev {device}"))?.lines() {
            let address = line.split_whitespace().next().unwrap_or_default();
            let argv = ["ip", "-n", &self.name, "neigh", "del", address, "dev", device];
            let output = cmd::run(&argv, SHORT)?;
            // It may have gone by itself.
            if !output.success() && !output.stderr.contains("No such file or directory") {
                return Err(Error::new(format!("{}: {}", argv.join(" "), output.stderr)));
            }
        }
        Ok(())
    }

    /// Turns every checksum and segmentation offload of a device off: what is sent is finished, what is received is as on
    /// the wire. Without it, packets between namespaces travel with unfinished checksums.
    pub fn offloads_off(&self, device: &str) -> Result<()> {
        self.sh(&format!("ethtool -K {device} rx off tx off sg off tso off gso off gro off")).map(drop)
    }

    /// Turns the checksum offload of sent packets on: between namespaces, their checksums stay unfinished.
    pub fn tx_checksums_left_to(&self, device: &str) -> Result<()> {
        self.sh(&format!("ethtool -K {device} tx on")).map(drop)
    }

    /// Sends one frame as it is out of a device (AF_PACKET), whatever its bytes are.
    pub fn send_frame(&self, device: &str, frame: &[u8]) -> Result<()> {
        self.send_frames(device, &[frame])
    }

    /// Sends frames as they are out of a device, one after the other.
    pub fn send_frames(&self, device: &str, frames: &[impl AsRef<[u8]>]) -> Result<()> {
        const SEND: &str = "import socket,sys; s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW); s.bind((sys.argv[1],0))\n\
                            for f in sys.argv[2:]: s.send(bytes.fromhex(f))";
        let hex = |frame: &[u8]| -> String { frame.iter().map(|byte| format!("{byte:02x}")).collect() };
        let frames: Vec<String> = frames.iter().map(|frame| hex(frame.as_ref())).collect();
        let mut argv = self.prefix().to_vec();
        argv.extend(["/usr/bin/python3", "-c", SEND, device]);
        argv.extend(frames.iter().map(String::as_str));
        cmd::ok(&argv, SHORT).map(drop)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Ok(pids) = cmd::sh(&format!("ip netns pids {}", self.name)) {
            for pid in pids.split_whitespace() {
                // Whoever ended in the meantime needs no signal.
                let _ = cmd::sh(&format!("kill -KILL {pid}"));
            }
        }
        if let Err(error) = cmd::sh(&format!("ip netns del {}", self.name)) {
            eprintln!("{error}");
        }
    }
}

/// Makes a veth pair with one end in each namespace, both up, without offloads.
pub fn veth(a: (&Netns, &str), b: (&Netns, &str)) -> Result<()> {
    let ((a, a_device), (b, b_device)) = (a, b);
    let (a_name, b_name) = (a.name(), b.name());
    cmd::sh(&format!("ip link add {a_device} netns {a_name} type veth peer name {b_device} netns {b_name}"))?;
    for (ns, device) in [(a, a_device), (b, b_device)] {
        ns.offloads_off(device)?;
        ns.configure(device, "", 0)?;
    }
    Ok(())
}

/// A stand-in for a VM: a namespace with one device and one address.
pub struct Host {
    ns: Netns,
    device: String,
    address: String,
}

impl Host {
    /// An empty one; its device comes from elsewhere (a tap that weft makes in the namespace) and is set up by
    /// [`Host::configure`].
    pub fn new(lab: &Lab, name: &str, device: &str) -> Result<Self> {
        Ok(Host { ns: Netns::new(lab, name)?, device: device.to_owned(), address: String::new() })
    }

    /// One whose `eth0` is a veth to `peer`, a device in the namespace `to`.
    pub fn on_veth(lab: &Lab, name: &str, cidr: &str, to: (&Netns, &str)) -> Result<Self> {
        let mut host = Host::new(lab, name, "eth0")?;
        veth((&host.ns, "eth0"), to)?;
        host.configure(cidr, "", 0)?;
        Ok(host)
    }

    /// Sets address, MAC and MTU of its device, and sets it up. An empty or zero value is left as it is.
    ///
    /// From then on it does not ask again for neighbours that it knows, as kernels do five seconds after a neighbour's first
    /// use: that would be just when a test counts packets.
    pub fn configure(&mut self, cidr: &str, mac: &str, mtu: u32) -> Result<()> {
        if !mac.is_empty() {
            self.ns.ip(&format!("link set dev {} address {mac}", self.device))?;
        }
        let kernel = format!("net.ipv4.neigh.{}", self.device);
        let (reachable, probe) = ("base_reachable_time_ms=3600000", "delay_first_probe_time=3600");
        self.ns.sh(&format!("sysctl -qw {kernel}.{reachable} {kernel}.{probe}"))?;
        self.ns.configure(&self.device, cidr, mtu)?;
        self.address = cidr.split('/').next().unwrap_or_default().to_owned();
        Ok(())
    }

    /// Its device and address are somebody else's work.
    pub fn is_known_as(&mut self, device: &str, address: &str) {
        self.device = device.to_owned();
        self.address = address.to_owned();
    }

    /// Sets the MTU of its device.
    pub fn configure_mtu(&self, mtu: u32) -> Result<()> {
        self.ns.configure(&self.device, "", mtu)
    }

    /// Its namespace.
    pub fn ns(&self) -> &Netns {
        &self.ns
    }

    /// The name of its device.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Its address, without the prefix length.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The MAC of its device.
    pub fn mac(&self) -> Result<String> {
        let file = format!("/sys/class/net/{}/address", self.device);
        Ok(self.ns.sh(&format!("cat {file}"))?.trim().to_owned())
    }
}
