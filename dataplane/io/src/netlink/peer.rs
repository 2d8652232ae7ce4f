//! Finding a veth's other end, wherever it is.
//!
//! The kernel tells the other end's index, and its namespace as a number that has a meaning only in the namespace that
//! asks. So every namespace that can be found is asked for its number there (rtnetlink's `RTM_GETNSID`).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::decode;
use super::error::NetlinkError;
use super::message::{Attrs, Request, number};
use super::socket::Channel;
use super::table::Link;
use crate::netns::{self, Netns};

const ACK: u16 = libc::NLM_F_ACK as u16;
/// Octets of `struct ifinfomsg`.
const IFINFOMSG: usize = 16;
/// `IFLA_LINK_NETNSID` of linux/if_link.h.
const LINK_NETNSID: u16 = 37;
/// `RTM_NEWNSID` and `RTM_GETNSID` of linux/rtnetlink.h.
const NEWNSID: u16 = 88;
const GETNSID: u16 = 90;
/// `NETNSA_NSID` and `NETNSA_FD` of linux/net_namespace.h.
const NSID: u16 = 1;
const NSID_FD: u16 = 3;

/// A veth's other end.
#[derive(Debug)]
pub struct VethPeer {
    /// Its name in its namespace.
    pub name: String,
    /// The namespace; `None` if it is the asker's own.
    pub netns: Option<Netns>,
}

/// Whether a device is a veth, and where its other end is.
#[derive(Debug)]
pub enum VethEnds {
    /// It is none.
    NoVeth,
    /// It is one, and its other end was found.
    Found(VethPeer),
    /// It is one, and its other end is in a namespace to which no path leads from here.
    Hidden,
}

/// Looks for the other end of `device`, which is in the calling thread's namespace.
pub fn veth_peer(device: &str) -> Result<VethEnds, NetlinkError> {
    let mut here = Channel::open()?;
    let by_name = Request::new(libc::RTM_GETLINK, ACK, &[0; IFINFOMSG]).attr_text(libc::IFLA_IFNAME, device);
    let Some((link, netnsid)) = look_up(&mut here, by_name)? else {
        return Err(NetlinkError::NoDevice(device.to_owned()));
    };
    let (Some("veth"), Some(index)) = (link.kind.as_deref(), link.lower) else { return Ok(VethEnds::NoVeth) };
    let netns = match netnsid {
        None => None,
        Some(wanted) => {
            let found = netns::all().find(|netns| number_of(&mut here, netns.as_fd()) == Some(wanted));
            let Some(netns) = found else { return Ok(VethEnds::Hidden) };
            Some(netns)
        }
    };
    let name = match &netns {
        None => name_of(index),
        Some(netns) => netns.run(|| name_of(index)).unwrap_or(Ok(None)),
    };
    Ok(name?.map_or(VethEnds::Hidden, |name| VethEnds::Found(VethPeer { name, netns })))
}

/// The name of the device with that index in the calling thread's namespace.
fn name_of(index: u32) -> Result<Option<String>, NetlinkError> {
    let mut header = [0; IFINFOMSG];
    header.iter_mut().skip(4).zip(index.to_ne_bytes()).for_each(|(place, octet)| *place = octet);
    let found = look_up(&mut Channel::open()?, Request::new(libc::RTM_GETLINK, ACK, &header))?;
    Ok(found.map(|(link, _)| link.name))
}

/// A device, and the number of its other end's namespace if that is another one.
fn look_up(channel: &mut Channel, request: Request) -> Result<Option<(Link, Option<u32>)>, NetlinkError> {
    let mut found = None;
    let asked = channel.ask("look a device up", request, |message| {
        if message.kind != libc::RTM_NEWLINK {
            return Ok(());
        }
        let mut netnsid = None;
        for attr in Attrs::after(message.body, IFINFOMSG)? {
            let (kind, value) = attr?;
            if kind == LINK_NETNSID {
                netnsid = Some(number(value)?);
            }
        }
        found = decode::link(message.body)?.map(|link| (link, netnsid));
        Ok(())
    });
    match asked {
        Err(NetlinkError::Refused { errno: libc::ENODEV, .. }) => Ok(None),
        other => other.map(|_| found),
    }
}

/// The number that `netns` has in the channel's namespace, if it has one.
fn number_of(channel: &mut Channel, netns: BorrowedFd<'_>) -> Option<u32> {
    // struct rtgenmsg: the address family, left open.
    let request = Request::new(GETNSID, ACK, &[0]).attr(NSID_FD, &netns.as_raw_fd().to_ne_bytes());
    let mut nsid = None;
    let asked = channel.ask("ask for a namespace's number", request, |message| {
        if message.kind == NEWNSID {
            for attr in Attrs::after(message.body, 4)? {
                let (kind, value) = attr?;
                if kind == NSID {
                    nsid = Some(number(value)?);
                }
            }
        }
        Ok(())
    });
    asked.ok()?;
    nsid
}
