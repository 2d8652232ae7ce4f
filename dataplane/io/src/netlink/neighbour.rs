//! Making the kernel find a neighbour, and keep it confirmed.
//!
//! weft sends its tunnel packets past the kernel, so the kernel does not see that a neighbour is in use: it would
//! never ask for an unknown one, and never notice that a known one has died or changed its address. `NTF_USE`
//! (linux/neighbour.h) tells it so: an unknown neighbour is asked for at once, a stale one is confirmed.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;

use super::decode;
use super::error::NetlinkError;
use super::message::Request;
use super::monitor::Monitor;
use crate::netns::Netns;
use crate::sys;

/// The discard service (RFC 863): nobody answers, and a refusal harms nobody.
const DISCARD: u16 = 9;

impl Monitor {
    /// Makes the kernel resolve a neighbour now. The answer comes as an [`super::Event::Neighbour`].
    ///
    /// If weft may not touch the neighbour table, a UDP packet to the neighbour's discard port does it.
    pub fn probe(&mut self, next_hop: Ipv4Addr, ifindex: u32) -> Result<(), NetlinkError> {
        let refused = match self.refresh(next_hop, ifindex) {
            Err(error @ NetlinkError::Refused { .. }) => error,
            outcome => return outcome,
        };
        let Some(link) = self.table.link(ifindex) else { return Err(refused) };
        let poked = Netns::run_in(self.netns.as_ref(), || poke(next_hop, &link.name));
        poked?.map_err(|_| refused)
    }

    /// Tells the kernel that a neighbour is in use, to be called every few seconds for each next hop in use: a stale
    /// one is then confirmed, and one that has gone fails. One that was set by hand stays as it is.
    pub fn refresh(&mut self, next_hop: Ipv4Addr, ifindex: u32) -> Result<(), NetlinkError> {
        if self.is_fixed(next_hop, ifindex) {
            return Ok(());
        }
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let request = Request::new(libc::RTM_NEWNEIGH, flags as u16, &header(ifindex, libc::NTF_USE))
            .attr(libc::NDA_DST, &next_hop.octets());
        self.channel.order("use a neighbour", request)
    }

    /// Asks the kernel, not the table: `NTF_USE` would turn a permanent entry into an ordinary one.
    fn is_fixed(&mut self, next_hop: Ipv4Addr, ifindex: u32) -> bool {
        let request = Request::new(libc::RTM_GETNEIGH, libc::NLM_F_ACK as u16, &header(ifindex, 0))
            .attr(libc::NDA_DST, &next_hop.octets());
        let mut fixed = false;
        let asked = self.channel.ask("look a neighbour up", request, |message| {
            if message.kind == libc::RTM_NEWNEIGH {
                fixed = decode::neighbour(message.body)?.is_some_and(|known| known.state.is_fixed());
            }
            Ok(())
        });
        // No entry yet, or a kernel before 5.0, which has only the list: then the table has to do.
        let known = || self.table.neighbour(ifindex, next_hop).is_some_and(|known| known.state.is_fixed());
        if asked.is_ok() { fixed } else { known() }
    }
}

/// `struct ndmsg`: family, padding, device, state (none), flags, type.
fn header(ifindex: u32, flags: u8) -> [u8; decode::NDMSG] {
    let [a, b, c, d] = ifindex.to_ne_bytes();
    [libc::AF_INET as u8, 0, 0, 0, a, b, c, d, 0, 0, flags, 0]
}

/// Sends an empty packet to a neighbour on `ifname`, by no gateway.
fn poke(next_hop: Ipv4Addr, ifname: &str) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_nonblocking(true)?;
    let mut device = [0u8; libc::IFNAMSIZ];
    device.iter_mut().zip(ifname.bytes()).for_each(|(place, octet)| *place = octet);
    sys::setsockopt(socket.as_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &device)?;
    sys::setsockopt(socket.as_fd(), libc::SOL_SOCKET, libc::SO_DONTROUTE, &1i32)?;
    socket.send_to(&[], SocketAddrV4::new(next_hop, DISCARD)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::super::lab::{Lab, follow};
    use super::*;

    /// Makes the calling thread, and no other, the user nobody.
    fn give_up_root() {
        let nobody: libc::c_long = 65534;
        // SAFETY: the bare system call changes this thread's credentials only, and no memory.
        let status = unsafe { libc::syscall(libc::SYS_setresuid, nobody, nobody, nobody) };
        assert_eq!(status, 0);
    }

    #[test]
    fn without_privilege_a_packet_makes_the_kernel_resolve() {
        let Some(lab) = Lab::new("without_privilege_a_packet_makes_the_kernel_resolve") else { return };
        let peer = Ipv4Addr::new(10, 77, 0, 2);
        let unprivileged = || {
            give_up_root();
            let mut monitor = Monitor::open().unwrap();
            let index = monitor.table().link_named("nla0").unwrap().index;
            assert_eq!(monitor.refresh(peer, index).unwrap_err().errno(), Some(libc::EPERM));
            monitor.probe(peer, index).unwrap();
            follow(&mut monitor, |monitor, _| {
                monitor.table().neighbour(index, peer).is_some_and(|known| known.state.is_usable())
            });
        };
        lab.netns().run(unprivileged).unwrap();
    }
}
