//! What the two programs do with packets, as a truth table.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use super::lab::{Lab, eventually, privileged};
use crate::pool::FramePool;
use crate::xdp::bpf::{Map, Program, SocketMap};
use crate::xdp::program::{self, EndpointKey};
use crate::xdp::socket::{self, Place, RingSizes, XdpSocket};
use crate::xdp::umem::Umem;

const PASS: u32 = 2;
const REDIRECT: u32 = 4;

const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// An Ethernet frame with an IPv4 packet.
struct Ipv4 {
    to: Ipv4Addr,
    protocol: u8,
    /// The 16 bits with flags and fragment offset.
    fragment: u16,
    /// Octets of options.
    options: usize,
    payload: Vec<u8>,
}

impl Ipv4 {
    fn udp(to: Ipv4Addr, port: u16) -> Self {
        let mut payload = vec![0x12, 0x34, 0, 0, 0, 100, 0, 0, 8, 0, 0, 0, 0, 0, 5, 0];
        payload[2..4].copy_from_slice(&port.to_be_bytes());
        payload.resize(100, 0);
        Ipv4 { to, protocol: 17, fragment: 0x4000, options: 0, payload }
    }

    fn gre(to: Ipv4Addr, kind: u16) -> Self {
        let mut payload = vec![0x20, 0, 0, 0, 0, 0, 0, 5];
        payload[2..4].copy_from_slice(&kind.to_be_bytes());
        payload.resize(100, 0);
        Ipv4 { protocol: 47, payload, ..Self::udp(to, 0) }
    }

    fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.push(0x45 + (self.options / 4) as u8);
        frame.extend([0, 0, 0, 0, 0]);
        frame.extend(self.fragment.to_be_bytes());
        frame.extend([64, self.protocol, 0, 0, 198, 51, 100, 1]);
        frame.extend(self.to.octets());
        frame.extend(vec![1; self.options]);
        frame.extend(&self.payload);
        frame
    }
}

fn tagged(mut frame: Vec<u8>) -> Vec<u8> {
    frame.splice(12..12, [0x81, 0, 0, 10]);
    frame
}

fn cut(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
    frame.truncate(len);
    frame
}

/// A map for one socket, and one that can be put there: bound to the loopback device of a namespace of its own.
fn sockets() -> (SocketMap, XdpSocket, Umem) {
    let umem = Umem::new(FramePool::new(FramePool::MIN_FRAMES).unwrap()).unwrap();
    let rings = RingSizes { rx: 64, tx: 64 };
    let netns = Lab::new("").switch_netns();
    let socket = netns.run(|| XdpSocket::new(socket::open().unwrap(), rings).unwrap()).unwrap();
    let place = Place { ifindex: 1, queue: 0 };
    socket::bind(socket.fd(), place, libc::XDP_SHARED_UMEM, Some(umem.anchor())).unwrap();
    let sockets = SocketMap::sockets(1).unwrap();
    (sockets, socket, umem)
}

#[test]
fn the_uplink_program_takes_its_own_tunnel_packets_and_nothing_else() {
    if !privileged("the_uplink_program_takes_its_own_tunnel_packets_and_nothing_else") {
        return;
    }
    let (sockets, socket, _umem) = sockets();
    let endpoints = Map::<EndpointKey, u32>::hash(16, "test").unwrap();
    let program = Program::load(&program::uplink(sockets.as_fd(), endpoints.as_fd()), "test").unwrap();
    let verdict = |frame: &[u8]| program.test_run(frame).unwrap();
    let vxlan = Ipv4::udp(LOCAL, 4789).frame();
    sockets.set_socket(0, socket.fd()).unwrap();
    assert_eq!(verdict(&vxlan), PASS, "no endpoint yet");
    endpoints.insert(&EndpointKey::udp(LOCAL, 4789), &1).unwrap();
    endpoints.insert(&EndpointKey::gre(LOCAL), &1).unwrap();

    let fragment = |fragment| Ipv4 { fragment, ..Ipv4::udp(LOCAL, 4789) }.frame();
    let options = |options| Ipv4 { options, ..Ipv4::udp(LOCAL, 4789) }.frame();
    let header = |octet| [&vxlan[..14], &[octet], &vxlan[15..]].concat();
    let table = [
        ("VXLAN to the local address", vxlan.clone(), REDIRECT),
        ("GRE with an Ethernet payload", Ipv4::gre(LOCAL, 0x6558).frame(), REDIRECT),
        ("VXLAN behind 4 octets of options", options(4), REDIRECT),
        ("VXLAN behind 40 octets of options", options(40), REDIRECT),
        ("VXLAN that may be fragmented", fragment(0), REDIRECT),
        ("VXLAN to another address", Ipv4::udp(SECOND, 4789).frame(), PASS),
        ("UDP to another port", Ipv4::udp(LOCAL, 4790).frame(), PASS),
        ("DNS", Ipv4::udp(LOCAL, 53).frame(), PASS),
        ("TCP with the same numbers", Ipv4 { protocol: 6, ..Ipv4::udp(LOCAL, 4789) }.frame(), PASS),
        ("SSH", Ipv4 { protocol: 6, ..Ipv4::udp(LOCAL, 22) }.frame(), PASS),
        ("ICMP", Ipv4 { protocol: 1, ..Ipv4::udp(LOCAL, 4789) }.frame(), PASS),
        ("GRE with IPv4 in it", Ipv4::gre(LOCAL, 0x0800).frame(), PASS),
        ("PPTP's GRE", Ipv4::gre(LOCAL, 0x880b).frame(), PASS),
        ("GRE to another address", Ipv4::gre(SECOND, 0x6558).frame(), PASS),
        ("VXLAN with a tag", tagged(vxlan.clone()), PASS),
        ("the first fragment", fragment(0x2000), PASS),
        ("a middle fragment", fragment(0x2010), PASS),
        ("the last fragment", fragment(0x0010), PASS),
        ("an evil bit", fragment(0xc000), REDIRECT),
        ("IPv6", [&vxlan[..12], &[0x86, 0xdd, 0x60], &vxlan[15..]].concat(), PASS),
        ("ARP", [&vxlan[..12], &[0x08, 0x06], &vxlan[14..]].concat(), PASS),
        ("a version other than 4", header(0x65), PASS),
        ("a header length of 16", header(0x44), PASS),
        ("a header length of 0", header(0x40), PASS),
        ("a header longer than the packet", cut(options(40), 14 + 40), PASS),
        ("UDP cut behind its ports", cut(vxlan.clone(), 14 + 20 + 4), REDIRECT),
        ("UDP cut in its ports", cut(vxlan.clone(), 14 + 20 + 3), PASS),
        ("IPv4 cut in its header", cut(vxlan.clone(), 14 + 19), PASS),
        ("Ethernet alone", cut(vxlan.clone(), 14), PASS),
    ];
    for (what, frame, expected) in table {
        assert_eq!(verdict(&frame), expected, "{what}");
    }

    endpoints.insert(&EndpointKey::udp(SECOND, 8472), &1).unwrap();
    assert_eq!(verdict(&Ipv4::udp(SECOND, 8472).frame()), REDIRECT, "an endpoint that was added");
    assert_eq!(verdict(&Ipv4::udp(LOCAL, 8472).frame()), PASS, "its port at another address");
    assert!(endpoints.remove(&EndpointKey::udp(LOCAL, 4789)).unwrap());
    assert!(!endpoints.remove(&EndpointKey::udp(LOCAL, 4789)).unwrap());
    assert_eq!(verdict(&vxlan), PASS, "an endpoint that was taken away");
    drop(socket);
    // A child of another test may hold it for a moment.
    eventually("the socket's end", || verdict(&Ipv4::udp(SECOND, 8472).frame()) == PASS);
}

#[test]
fn the_bridge_program_takes_everything_while_there_is_a_socket() {
    if !privileged("the_bridge_program_takes_everything_while_there_is_a_socket") {
        return;
    }
    let (sockets, socket, _umem) = sockets();
    let program = Program::load(&program::all(sockets.as_fd()), "test").unwrap();
    let frames = [vec![0xff; 60], Ipv4::udp(LOCAL, 22).frame(), tagged(Ipv4::gre(LOCAL, 0x6558).frame())];
    assert!(frames.iter().all(|frame| program.test_run(frame).unwrap() == PASS));
    sockets.set_socket(0, socket.fd()).unwrap();
    assert!(frames.iter().all(|frame| program.test_run(frame).unwrap() == REDIRECT));
    drop(socket);
    eventually("the socket's end", || frames.iter().all(|frame| program.test_run(frame).unwrap() == PASS));
}
