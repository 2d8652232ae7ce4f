//! Keeping the kernel from answering tunnel packets that come to it after all.
//!
//! What the uplink's program leaves to the kernel (fragments; everything while no socket is there, as when weftd
//! starts again) would be answered with "port unreachable" or "protocol unreachable", which makes the sender give up.
//! A socket that is bound to the endpoint and drops all that it gets keeps the kernel quiet. That somebody else has the
//! endpoint, a VXLAN device of the kernel say, shows here too.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::port::Endpoint;
use crate::netns::Netns;
use crate::sys;

/// The sockets that keep the kernel quiet. They are in the namespace in which this was made.
#[derive(Debug)]
pub(super) struct QuietSockets {
    /// Tells the namespace.
    home: OwnedFd,
    sockets: Vec<(Endpoint, OwnedFd)>,
}

impl QuietSockets {
    /// None, in the calling thread's namespace.
    pub fn new() -> io::Result<Self> {
        let home = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        Ok(QuietSockets { home, sockets: Vec::new() })
    }

    /// Has `endpoint` be quiet.
    pub fn add(&mut self, endpoint: Endpoint) -> io::Result<()> {
        if self.sockets.iter().all(|(known, _)| *known != endpoint) {
            let netns = Netns::of_socket(self.home.as_fd())?;
            let socket = netns.run(|| quiet_socket(endpoint)).map_err(io::Error::other)??;
            self.sockets.push((endpoint, socket));
        }
        Ok(())
    }

    /// Leaves `endpoint` to the kernel.
    pub fn remove(&mut self, endpoint: Endpoint) {
        self.sockets.retain(|(known, _)| *known != endpoint);
    }
}

/// A socket bound to `endpoint`, in the calling thread's namespace, that drops what it gets.
fn quiet_socket(endpoint: Endpoint) -> io::Result<OwnedFd> {
    let (kind, protocol, local, port) = match endpoint {
        Endpoint::Vxlan { local, port } => (libc::SOCK_DGRAM, libc::IPPROTO_UDP, local, port),
        Endpoint::Gre { local } => (libc::SOCK_RAW, libc::IPPROTO_GRE, local, 0),
    };
    let socket = sys::socket(libc::AF_INET, kind, protocol)?;
    drop_everything(&socket)?;
    // The address may come later than the switch; and two uplinks may have the same endpoint.
    sys::setsockopt(socket.as_fd(), libc::IPPROTO_IP, libc::IP_FREEBIND, &1)?;
    sys::setsockopt(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, &1)?;
    bind(&socket, local, port)?;
    Ok(socket)
}

/// Attaches a filter (of the classic kind) that keeps no octet of any packet.
fn drop_everything(socket: &OwnedFd) -> io::Result<()> {
    const RETURN: u16 = 0x06;
    let mut program = [libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: 0 }];
    let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    sys::setsockopt(socket.as_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}

fn bind(socket: &OwnedFd, local: Ipv4Addr, port: u16) -> io::Result<()> {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(local).to_be() },
        sin_zero: [0; 8],
    };
    let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: the address is a local of the length given.
    sys::check(unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) }).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::netlink::lab::Lab;

    const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    const VXLAN: Endpoint = Endpoint::Vxlan { local: LOCAL, port: 4789 };
    const GRE: Endpoint = Endpoint::Gre { local: LOCAL };
    /// Nobody listens there.
    const CLOSED: u16 = 4790;

    fn quiet(lab: &Lab) -> QuietSockets {
        lab.netns().run(QuietSockets::new).unwrap().unwrap()
    }

    /// A socket of the peer's that sends to `port` of the quiet host, and hears of ICMP errors.
    fn udp_peer(lab: &Lab, port: u16) -> UdpSocket {
        let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        connected(lab.peer_netns().run(bind).unwrap(), port)
    }

    /// The same for GRE: a raw socket, used as what the two have in common.
    fn gre_peer(lab: &Lab) -> UdpSocket {
        let raw = || sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_GRE).unwrap();
        connected(lab.peer_netns().run(raw).unwrap().into(), 0)
    }

    fn connected(socket: UdpSocket, port: u16) -> UdpSocket {
        socket.connect((LOCAL, port)).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        socket
    }

    /// Sends until a refusal comes back, for the kernel limits the rate of refusals; gives its error number.
    fn until_refused(peer: &UdpSocket, packet: &[u8]) -> Option<i32> {
        (0..100).find_map(|_| {
            assert_eq!(peer.send(packet).unwrap(), packet.len());
            let error = peer.recv(&mut [0; 8]).unwrap_err();
            let none = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
            if none { None } else { error.raw_os_error() }
        })
    }

    /// No refusal has come, nor will one: that of a packet sent after those in question is here already.
    fn assert_not_refused(lab: &Lab, peer: &UdpSocket) {
        assert_eq!(until_refused(&udp_peer(lab, CLOSED), &[0; 8]), Some(libc::ECONNREFUSED));
        peer.set_nonblocking(true).unwrap();
        assert_eq!(peer.recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
        peer.set_nonblocking(false).unwrap();
    }

    #[test]
    fn a_vxlan_endpoint_is_never_refused_and_its_queue_stays_empty() {
        let Some(lab) = Lab::new("a_vxlan_endpoint_is_never_refused_and_its_queue_stays_empty") else {
            return;
        };
        let mut sockets = quiet(&lab);
        sockets.add(VXLAN).unwrap();
        let peer = udp_peer(&lab, 4789);
        // The neighbour is known then: so many packets don't all wait for one.
        assert_eq!(until_refused(&udp_peer(&lab, CLOSED), &[0; 8]), Some(libc::ECONNREFUSED));
        for _ in 0..200 {
            peer.send(&[0; 1400]).unwrap();
        }
        assert_not_refused(&lab, &peer);
        // sl local remote st tx:rx tr:when retrnsmt uid timeout inode ref pointer drops
        let table = lab.exec("cat /proc/net/udp");
        let line = table.lines().find(|line| line.contains("01004D0A:12B5")).unwrap();
        let columns: Vec<&str> = line.split_whitespace().collect();
        assert_eq!((columns[4], columns[12]), ("00000000:00000000", "200"), "{line}");
        sockets.remove(VXLAN);
        let refused = until_refused(&peer, &[0; 8]);
        assert_eq!(refused, Some(libc::ECONNREFUSED), "without the socket the kernel refuses");
    }

    #[test]
    fn a_gre_endpoint_is_never_refused() {
        const PACKET: [u8; 8] = [0x20, 0, 0x65, 0x58, 0, 0, 0, 7];
        let Some(lab) = Lab::new("a_gre_endpoint_is_never_refused") else { return };
        let mut sockets = quiet(&lab);
        sockets.add(GRE).unwrap();
        let peer = gre_peer(&lab);
        for _ in 0..20 {
            peer.send(&PACKET).unwrap();
        }
        assert_not_refused(&lab, &peer);
        sockets.remove(GRE);
        let refused = until_refused(&peer, &PACKET);
        assert_eq!(refused, Some(libc::ENOPROTOOPT), "without the socket the kernel refuses");
    }

    #[test]
    fn an_address_may_come_later_and_two_uplinks_may_have_it() {
        let Some(lab) = Lab::new("an_address_may_come_later_and_two_uplinks_may_have_it") else { return };
        let later = Ipv4Addr::new(10, 77, 0, 33);
        let (mut one, mut other) = (quiet(&lab), quiet(&lab));
        for endpoint in [Endpoint::Vxlan { local: later, port: 4789 }, Endpoint::Gre { local: later }] {
            one.add(endpoint).unwrap();
            other.add(endpoint).unwrap();
        }
    }
}
