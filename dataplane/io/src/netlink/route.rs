//! The way to a remote address: which device, which next hop, which Ethernet addresses, which MTU.
//!
//! The kernel is asked for the route, with the source address that the packets will have, so that rules, tables and
//! metrics all count. Its answer is completed from the table of links and neighbours.

use std::net::Ipv4Addr;

use weft_wire::Mac;

use super::decode::RTMSG;
use super::error::NetlinkError;
use super::message::{Attrs, Message, Request, ipv4, number, u8_at};
use super::monitor::Monitor;
use super::table::Link;

/// `RTAX_MTU` in `RTA_METRICS` (linux/rtnetlink.h).
const RTAX_MTU: u16 = 2;

/// How packets from a local to a remote address leave this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// The source address: the one that was asked with, or the kernel's choice.
    pub local: Ipv4Addr,
    /// The device that they leave by.
    pub ifindex: u32,
    /// Its name.
    pub ifname: String,
    /// Its kind ("veth", "vlan", ...); `None` for a real NIC.
    pub kind: Option<String>,
    /// Its Ethernet address.
    pub src_mac: Mac,
    /// The gateway, or the remote itself if that is on the link.
    pub next_hop: Ipv4Addr,
    /// The next hop's Ethernet address; `None` while the kernel does not know it.
    pub dst_mac: Option<Mac>,
    /// Set by hand, or needing no ARP: never to be probed or refreshed.
    pub fixed: bool,
    /// The largest IP packet in octets: the device's MTU, or less if the route or path MTU discovery says so.
    pub mtu: u32,
}

/// Why there is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// The tunnel's local address is nobody's.
    #[error("local address {local} is on no device of this host")]
    NoLocalAddress {
        /// That address.
        local: Ipv4Addr,
    },
    /// It can't be the other end of a tunnel.
    #[error("remote address {remote} is not a unicast address")]
    NotUnicast {
        /// That address.
        remote: Ipv4Addr,
    },
    /// Packets to it would not leave the host.
    #[error("remote address {remote} is this host's own")]
    Local {
        /// That address.
        remote: Ipv4Addr,
    },
    /// The routing tables have nothing.
    #[error("no route to {remote}")]
    NoRoute {
        /// The address asked for.
        remote: Ipv4Addr,
    },
    /// There is a route that says no.
    #[error("the route to {remote} is of type {kind}")]
    Forbidden {
        /// The address asked for.
        remote: Ipv4Addr,
        /// As ip-route(8) calls it.
        kind: &'static str,
    },
    /// The device of the route, or the one with the local address when there is no route, is down.
    #[error("device {ifname} towards {remote} is {state}")]
    DeviceDown {
        /// The address asked for.
        remote: Ipv4Addr,
        /// The device's name.
        ifname: String,
        /// "down", or "without carrier".
        state: &'static str,
    },
    /// A device without Ethernet addresses.
    #[error("device {ifname} towards {remote} is not an Ethernet device")]
    NotEthernet {
        /// The address asked for.
        remote: Ipv4Addr,
        /// The device's name.
        ifname: String,
    },
    /// An IPv4 route by way of an IPv6 neighbour (RFC 8950).
    #[error("the route to {remote} has an IPv6 next hop, which is not supported")]
    Ipv6NextHop {
        /// The address asked for.
        remote: Ipv4Addr,
    },
    /// The kernel named a device that is not known, or not any more; its events will tell.
    #[error("the route to {remote} leaves by device number {ifindex}, which is gone")]
    NoDevice {
        /// The address asked for.
        remote: Ipv4Addr,
        /// The number.
        ifindex: u32,
    },
    /// The kernel could not be asked.
    #[error("the route to {remote} is unknown: {error}")]
    Netlink {
        /// The address asked for.
        remote: Ipv4Addr,
        /// What went wrong.
        error: NetlinkError,
    },
}

/// The kernel's answer.
#[derive(Debug, Default, PartialEq, Eq)]
struct Route {
    kind: u8,
    oif: u32,
    gateway: Option<Ipv4Addr>,
    ipv6_gateway: bool,
    prefsrc: Option<Ipv4Addr>,
    mtu: Option<u32>,
}

impl Monitor {
    /// How packets from `local` to `remote` go now. An unspecified `local` (0.0.0.0) leaves the choice to the kernel.
    ///
    /// The route is asked for in this moment; links, addresses and neighbours are those of the last
    /// [`Monitor::poll`], and what changed since then will be an event.
    pub fn resolve(&mut self, local: Ipv4Addr, remote: Ipv4Addr) -> Result<Path, PathProblem> {
        if remote.is_unspecified() || remote.is_multicast() || remote.is_broadcast() {
            return Err(PathProblem::NotUnicast { remote });
        }
        if !local.is_unspecified() && self.table.owner(local).is_none() {
            return Err(PathProblem::NoLocalAddress { local });
        }
        let route = self.ask_route(local, remote).map_err(|error| self.no_route(local, remote, error))?;
        self.complete(&route, local, remote)
    }

    fn ask_route(&mut self, local: Ipv4Addr, remote: Ipv4Addr) -> Result<Route, NetlinkError> {
        // struct rtmsg: family, length of the destination's prefix, of the source's, then what is left open.
        let source_bits = if local.is_unspecified() { 0 } else { 32 };
        let header = [libc::AF_INET as u8, 32, source_bits, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut request = Request::new(libc::RTM_GETROUTE, libc::NLM_F_ACK as u16, &header)
            .attr(libc::RTA_DST, &remote.octets());
        if !local.is_unspecified() {
            request = request.attr(libc::RTA_SRC, &local.octets());
        }
        let mut route = Route::default();
        self.channel.ask("look a route up", request, |message| {
            if message.kind == libc::RTM_NEWROUTE {
                route = parse(message)?;
            }
            Ok(())
        })?;
        Ok(route)
    }

    /// What an error in place of a route means (`fib_props` in the kernel's net/ipv4/fib_semantics.c).
    fn no_route(&self, local: Ipv4Addr, remote: Ipv4Addr, error: NetlinkError) -> PathProblem {
        let errno = match &error {
            NetlinkError::Refused { errno, .. } => *errno,
            _ => return PathProblem::Netlink { remote, error },
        };
        match errno {
            libc::ENETUNREACH => {
                // A device that goes down takes its routes along, which is the usual reason for having none.
                let owner = self.table.owner(local).filter(|link| !link.up);
                owner.map_or(PathProblem::NoRoute { remote }, |link| down(link, remote))
            }
            libc::EHOSTUNREACH => PathProblem::Forbidden { remote, kind: "unreachable" },
            libc::EACCES => PathProblem::Forbidden { remote, kind: "prohibit" },
            libc::EINVAL => PathProblem::Forbidden { remote, kind: "blackhole" },
            _ => PathProblem::Netlink { remote, error },
        }
    }

    fn complete(&self, route: &Route, local: Ipv4Addr, remote: Ipv4Addr) -> Result<Path, PathProblem> {
        match route.kind {
            libc::RTN_UNICAST => (),
            libc::RTN_LOCAL => return Err(PathProblem::Local { remote }),
            libc::RTN_BROADCAST | libc::RTN_MULTICAST | libc::RTN_ANYCAST => {
                return Err(PathProblem::NotUnicast { remote });
            }
            _ => return Err(PathProblem::NoRoute { remote }),
        }
        let ifindex = route.oif;
        let link = self.table.link(ifindex).ok_or(PathProblem::NoDevice { remote, ifindex })?;
        if !link.is_operational() {
            return Err(down(link, remote));
        }
        let src_mac = link.mac.filter(|_| link.is_ethernet());
        let src_mac =
            src_mac.ok_or_else(|| PathProblem::NotEthernet { remote, ifname: link.name.clone() })?;
        if route.ipv6_gateway {
            return Err(PathProblem::Ipv6NextHop { remote });
        }
        let next_hop = route.gateway.unwrap_or(remote);
        let neighbour = self.table.neighbour(ifindex, next_hop);
        let usable = neighbour.filter(|neighbour| neighbour.state.is_usable());
        let chosen = if local.is_unspecified() { route.prefsrc.unwrap_or(local) } else { local };
        Ok(Path {
            local: chosen,
            ifindex,
            ifname: link.name.clone(),
            kind: link.kind.clone(),
            src_mac,
            next_hop,
            dst_mac: usable.and_then(|neighbour| neighbour.mac),
            fixed: neighbour.is_some_and(|neighbour| neighbour.state.is_fixed()),
            mtu: route.mtu.filter(|&mtu| mtu > 0).map_or(link.mtu, |mtu| mtu.min(link.mtu)),
        })
    }
}

fn down(link: &Link, remote: Ipv4Addr) -> PathProblem {
    let state = if link.up { "without carrier" } else { "down" };
    PathProblem::DeviceDown { remote, ifname: link.name.clone(), state }
}

fn parse(message: &Message<'_>) -> Result<Route, NetlinkError> {
    let body = message.body;
    let malformed = NetlinkError::Malformed { what: "route message", length: body.len() };
    let mut route = Route { kind: u8_at(body, 7).ok_or(malformed)?, ..Route::default() };
    for attr in Attrs::after(body, RTMSG)? {
        match attr? {
            (libc::RTA_OIF, value) => route.oif = number(value)?,
            (libc::RTA_GATEWAY, value) => route.gateway = Some(ipv4(value)?),
            (libc::RTA_VIA, _) => route.ipv6_gateway = true,
            (libc::RTA_PREFSRC, value) => route.prefsrc = Some(ipv4(value)?),
            (libc::RTA_METRICS, value) => route.mtu = metric_mtu(value)?,
            _ => (),
        }
    }
    Ok(route)
}

fn metric_mtu(metrics: &[u8]) -> Result<Option<u32>, NetlinkError> {
    for attr in Attrs::new(metrics) {
        if let (RTAX_MTU, value) = attr? {
            return number(value).map(Some);
        }
    }
    Ok(None)
}
