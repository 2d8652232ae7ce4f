//! What an rtnetlink message says, as far as weft cares.
//!
//! Fixed headers by linux/if_link.h, if_addr.h, neighbour.h, rtnetlink.h. Attributes that are not named here are
//! skipped whatever they hold; one that is named and has the wrong size makes the message malformed.

use std::net::Ipv4Addr;

use weft_wire::Mac;

use super::error::NetlinkError;
use super::message::{Attrs, Message, ipv4, number, text, u8_at, u16_at, u32_at};
use super::table::{Address, Link, Neighbour};

/// `RTM_NEWNEXTHOP` and `RTM_DELNEXTHOP`: next-hop objects.
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
pub(super) const NDMSG: usize = 12;
pub(super) const RTMSG: usize = 12;
const AF_INET: u8 = libc::AF_INET as u8;

/// What a message changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Update {
    Link(Link),
    NoLink(u32),
    Address(Address),
    NoAddress(Address),
    Neighbour(Neighbour),
    NoNeighbour(u32, Ipv4Addr),
    Route { destination: Ipv4Addr, prefix: u8 },
    Rules,
    Nothing,
}

/// Reads a message of any type.
pub(super) fn update(message: &Message<'_>) -> Result<Update, NetlinkError> {
    let body = message.body;
    Ok(match message.kind {
        libc::RTM_NEWLINK => link(body)?.map_or(Update::Nothing, Update::Link),
        libc::RTM_DELLINK => gone_link(body)?.map_or(Update::Nothing, Update::NoLink),
        libc::RTM_NEWADDR => address(body)?.map_or(Update::Nothing, Update::Address),
        libc::RTM_DELADDR => address(body)?.map_or(Update::Nothing, Update::NoAddress),
        libc::RTM_NEWNEIGH => neighbour(body)?.map_or(Update::Nothing, Update::Neighbour),
        libc::RTM_DELNEIGH => {
            neighbour(body)?.map_or(Update::Nothing, |gone| Update::NoNeighbour(gone.index, gone.address))
        }
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => changed_route(body)?,
        libc::RTM_NEWRULE | libc::RTM_DELRULE | RTM_NEWNEXTHOP | RTM_DELNEXTHOP => Update::Rules,
        _ => Update::Nothing,
    })
}

fn short(what: &'static str, body: &[u8]) -> NetlinkError {
    NetlinkError::Malformed { what, length: body.len() }
}

/// A bridge speaks of its ports in link messages of its own family: a port that leaves it is not a link that goes.
fn is_of_bridge(body: &[u8]) -> bool {
    u8_at(body, 0) != Some(libc::AF_UNSPEC as u8)
}

fn gone_link(body: &[u8]) -> Result<Option<u32>, NetlinkError> {
    let index = u32_at(body, 4).ok_or_else(|| short("link message", body))?;
    Ok((!is_of_bridge(body)).then_some(index))
}

/// A link; `None` if the message is about something that only travels in a link message.
pub(super) fn link(body: &[u8]) -> Result<Option<Link>, NetlinkError> {
    let header = || Some((u16_at(body, 2)?, u32_at(body, 4)?, u32_at(body, 8)?));
    let (hardware, index, flags) = header().ok_or_else(|| short("link message", body))?;
    let attrs = Attrs::after(body, IFINFOMSG)?;
    if is_of_bridge(body) {
        return Ok(None);
    }
    let is = |flag: libc::c_int| flags & flag.cast_unsigned() != 0;
    let mut link = Link {
        index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: is(libc::IFF_UP),
        running: is(libc::IFF_RUNNING),
        arp: !is(libc::IFF_NOARP),
        hardware,
        kind: None,
        master: None,
        lower: None,
    };
    for attr in attrs {
        match attr? {
            (libc::IFLA_IFNAME, value) => link.name = text(value),
            (libc::IFLA_ADDRESS, value) => link.mac = mac(value),
            (libc::IFLA_MTU, value) => link.mtu = number(value)?,
            (libc::IFLA_MASTER, value) => link.master = Some(number(value)?).filter(|&master| master != 0),
            (libc::IFLA_LINK, value) => link.lower = Some(number(value)?).filter(|&lower| lower != 0),
            (libc::IFLA_LINKINFO, value) => link.kind = kind(value)?,
            // News of a wireless station, without most of the rest.
            (libc::IFLA_WIRELESS, _) => return Ok(None),
            _ => (),
        }
    }
    if link.name.is_empty() { Err(short("link message without a name", body)) } else { Ok(Some(link)) }
}

fn kind(info: &[u8]) -> Result<Option<String>, NetlinkError> {
    for attr in Attrs::new(info) {
        if let (libc::IFLA_INFO_KIND, value) = attr? {
            return Ok(Some(text(value)));
        }
    }
    Ok(None)
}

/// A link-layer address of another size belongs to another kind of network.
fn mac(value: &[u8]) -> Option<Mac> {
    value.try_into().ok().map(Mac)
}

fn address(body: &[u8]) -> Result<Option<Address>, NetlinkError> {
    let header = || Some((u8_at(body, 0)?, u8_at(body, 1)?, u32_at(body, 4)?));
    let (family, prefix, index) = header().ok_or_else(|| short("address message", body))?;
    if family != AF_INET {
        return Ok(None);
    }
    let (mut local, mut peer) = (None, None);
    for attr in Attrs::after(body, IFADDRMSG)? {
        match attr? {
            (libc::IFA_LOCAL, value) => local = Some(ipv4(value)?),
            (libc::IFA_ADDRESS, value) => peer = Some(ipv4(value)?),
            _ => (),
        }
    }
    // On a point-to-point device IFA_ADDRESS is the far end; elsewhere the two are equal.
    let local = local.or(peer).ok_or_else(|| short("address message without an address", body))?;
    Ok(Some(Address { index, local, prefix }))
}

/// An IPv4 neighbour; `None` for other families (a bridge's forwarding table is one) and for ARP proxies.
pub(super) fn neighbour(body: &[u8]) -> Result<Option<Neighbour>, NetlinkError> {
    let header = || Some((u8_at(body, 0)?, u32_at(body, 4)?, u16_at(body, 8)?, u8_at(body, 10)?));
    let (family, index, state, flags) = header().ok_or_else(|| short("neighbour message", body))?;
    if family != AF_INET || flags & libc::NTF_PROXY != 0 {
        return Ok(None);
    }
    let (mut address, mut lladdr) = (None, None);
    for attr in Attrs::after(body, NDMSG)? {
        match attr? {
            (libc::NDA_DST, value) => address = Some(ipv4(value)?),
            (libc::NDA_LLADDR, value) => lladdr = mac(value),
            _ => (),
        }
    }
    let address = address.ok_or_else(|| short("neighbour message without an address", body))?;
    Ok(Some(Neighbour { index, address, mac: lladdr, state: state.into() }))
}

fn changed_route(body: &[u8]) -> Result<Update, NetlinkError> {
    let header = || Some((u8_at(body, 0)?, u8_at(body, 1)?));
    let (family, prefix) = header().ok_or_else(|| short("route message", body))?;
    if family != AF_INET {
        return Ok(Update::Nothing);
    }
    let mut destination = Ipv4Addr::UNSPECIFIED;
    for attr in Attrs::after(body, RTMSG)? {
        if let (libc::RTA_DST, value) = attr? {
            destination = ipv4(value)?;
        }
    }
    Ok(Update::Route { destination, prefix })
}
