//! The uplink stays the host's: its packets go on to the kernel, tunnel packets come here.

use std::net::Ipv4Addr;

use super::lab::{Lab, eventually, privileged};
use super::{all_home, system};
use crate::netns::Netns;
use crate::queue::{Burst, PortQueue};
use crate::xdp::{Endpoint, Role, WantedMode, XdpPort, XdpSpec};
use crate::{FrameCache, FramePool};
use weft_wire::DropCounts;

const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
const VXLAN: Endpoint = Endpoint::Vxlan { local: LOCAL, port: 4789 };
const GRE: Endpoint = Endpoint::Gre { local: LOCAL };

/// A host's end of a switch: what the socket has received so far, by IPv4 protocol.
struct Uplink {
    queue: Box<dyn PortQueue>,
    frames: FrameCache,
    udp: u64,
    gre: u64,
    other: u64,
}

impl Uplink {
    fn receive(&mut self) {
        let (mut burst, mut drops) = (Burst::new(), DropCounts::default());
        self.queue.rx_burst(&mut self.frames, &mut burst, &mut drops);
        assert_eq!(drops.total(), 0);
        for packet in burst.drain(..) {
            match packet.data().get(23) {
                Some(17) => self.udp += 1,
                Some(47) => self.gre += 1,
                _ => self.other += 1,
            }
            self.frames.free(packet);
        }
    }

    fn drain(&mut self) {
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            self.receive();
        }
    }
}

fn open(lab: &Lab, pool: &std::sync::Arc<FramePool>, mode: WantedMode) -> (Uplink, XdpPort) {
    let system = crate::xdp::XdpSystem::new(std::sync::Arc::clone(pool)).unwrap();
    let netns = lab.switch_netns();
    let role = Role::Uplink(vec![VXLAN, GRE]);
    let mut port = system.open(XdpSpec { netns: Some(&netns), role, mode, ..XdpSpec::new("pa") }).unwrap();
    let queue = port.queues.remove(0);
    (Uplink { queue, frames: pool.cache(), udp: 0, gre: 0, other: 0 }, port.control)
}

/// Sends a tunnel packet from the calling thread's namespace to `endpoint`.
fn send_tunnel_packet(endpoint: Endpoint) {
    let socket = match endpoint {
        Endpoint::Vxlan { .. } => std::net::UdpSocket::bind("0.0.0.0:0").unwrap(),
        // A raw socket, used as what the two have in common.
        Endpoint::Gre { .. } => {
            crate::sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_GRE).unwrap().into()
        }
    };
    let sent = match endpoint {
        Endpoint::Vxlan { local, port } => {
            socket.send_to(&[[8, 0, 0, 0, 0, 0, 5, 0], [0; 8]].concat(), (local, port))
        }
        Endpoint::Gre { local } => {
            socket.send_to(&[[0x20, 0, 0x65, 0x58, 0, 0, 0, 5], [0; 8]].concat(), (local, 0))
        }
    };
    assert_eq!(sent.unwrap(), 16);
}

fn the_uplink_stays_the_hosts(mode: WantedMode) {
    let lab = Lab::new("a");
    let (pool, _) = system();
    lab.at_switch("ip address add 10.0.0.254/24 dev pa");
    let (mut uplink, mut port) = open(&lab, &pool, mode);
    let host = |lab: &Lab| {
        let ping = lab.exec('a', "ping -c 20 -l 20 -W 2 10.0.0.254");
        assert!(ping.contains(" 0% packet loss"), "{ping}");
        let _server = super::lab::Background::start(&format!("ip netns exec {} iperf3 -s", lab.switch()));
        eventually("iperf3 listens", || lab.at_switch("ss -ltn").contains(":5201"));
        let (tcp, _) = lab.iperf('a', "10.0.0.254", "-t 1");
        eprintln!("{mode:?}: TCP to the host's own address {:.2} Gbit/s", tcp / 1e9);
        assert!(tcp > 3e7);
    };
    host(&lab);
    uplink.drain();
    assert_eq!((uplink.udp, uplink.gre, uplink.other), (0, 0, 0), "all of it was the host's");

    let knock = |endpoint| {
        let host = Netns::open(&lab.host('a')).unwrap();
        host.run(|| (0..3).for_each(|_| send_tunnel_packet(endpoint))).unwrap();
    };
    knock(VXLAN);
    knock(GRE);
    eventually("tunnel packets of both kinds", || {
        uplink.receive();
        uplink.udp >= 3 && uplink.gre >= 3
    });
    host(&lab);
    uplink.drain();
    assert_eq!(uplink.other, 0);

    assert!(port.remove_endpoint(VXLAN).unwrap());
    uplink.drain();
    let udp = uplink.udp;
    knock(VXLAN);
    uplink.drain();
    assert_eq!(uplink.udp, udp, "the endpoint was taken away");
    port.add_endpoint(VXLAN).unwrap();
    knock(VXLAN);
    eventually("tunnel packets again", || {
        uplink.receive();
        uplink.udp > udp
    });
    // Without the port, everything is the host's again.
    drop((uplink, port));
    host(&lab);
    all_home(&pool);
}

#[test]
fn the_uplink_stays_the_hosts_in_native_mode() {
    if privileged("the_uplink_stays_the_hosts_in_native_mode") {
        the_uplink_stays_the_hosts(WantedMode::Native);
    }
}

#[test]
fn the_uplink_stays_the_hosts_in_generic_mode() {
    if privileged("the_uplink_stays_the_hosts_in_generic_mode") {
        the_uplink_stays_the_hosts(WantedMode::Generic);
    }
}

#[test]
fn the_kernel_does_not_answer_for_an_endpoint() {
    if !privileged("the_kernel_does_not_answer_for_an_endpoint") {
        return;
    }
    let lab = Lab::new("a");
    let (pool, _) = system();
    lab.at_switch("ip address add 10.0.0.254/24 dev pa");
    let (_uplink, mut port) = open(&lab, &pool, WantedMode::Native);
    let answers = || {
        let table = lab.at_switch("cat /proc/net/snmp");
        let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("Icmp:")).collect();
        let column = rows[0].split(' ').position(|name| name == "OutDestUnreachs").unwrap();
        rows[1].split(' ').nth(column).unwrap().parse::<u64>().unwrap()
    };
    // Fragments are the kernel's, which puts them together.
    let host = Netns::open(&lab.host('a')).unwrap();
    let large = || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(&[0; 4000], (LOCAL, 4789)).unwrap();
    };
    host.run(large).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(answers(), 0);
    port.remove_endpoint(VXLAN).unwrap();
    host.run(large).unwrap();
    eventually("the kernel's answer for a port that is nobody's", || answers() > 0);
}

#[test]
fn an_endpoint_that_somebody_else_has_is_refused() {
    if !privileged("an_endpoint_that_somebody_else_has_is_refused") {
        return;
    }
    let lab = Lab::new("a");
    let (pool, _) = system();
    let (_uplink, mut port) = open(&lab, &pool, WantedMode::Native);
    lab.at_switch("ip link add vx type vxlan id 5 remote 10.0.0.1 local 10.0.0.254 dstport 8472");
    lab.at_switch("ip link set vx up");
    let error = port.add_endpoint(Endpoint::Vxlan { local: LOCAL, port: 8472 }).expect_err("a refusal");
    assert_eq!(
        error.to_string(),
        "pa: tunnel endpoint vxlan 10.0.0.254:8472 can't be changed: Address already in use (os error 98) \
         (a VXLAN device of the kernel, or another program, has it)"
    );
}
