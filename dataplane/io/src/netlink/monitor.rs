//! A namespace that is watched: a table of it, kept up to date by the kernel's events.
//!
//! The subscription comes before the first reading, so that nothing falls between the two. When the kernel had to
//! drop events (the queue was full), everything is read anew, and the difference is reported as events.

use std::os::fd::{AsRawFd, RawFd};

use super::error::NetlinkError;
use super::message::{Message, Messages, Request};
use super::socket::{Channel, EventSocket, Received, Snapshot};
use super::table::{Event, Table};
use crate::netns::Netns;

/// Multicast groups of linux/rtnetlink.h: links, neighbours, IPv4 addresses, routes and rules.
const GROUPS: [u32; 5] = [1, 3, 5, 7, 8];
/// `RTNLGRP_NEXTHOP`, since Linux 5.3: a route by a next-hop object changes with the object and says nothing itself.
const NEXTHOP_GROUP: u32 = 32;
/// Events that one call of [`Monitor::poll`] gives, about.
const EVENTS_PER_POLL: usize = 4096;
/// Octets of events that may wait in the kernel.
pub(super) const RECEIVE_BUFFER: u32 = 1 << 20;
/// How often a list is read that changes while it is read.
const READINGS: usize = 4;

/// The kernel's view of one namespace.
#[derive(Debug)]
pub struct Monitor {
    pub(super) netns: Option<Netns>,
    pub(super) channel: Channel,
    pub(super) table: Table,
    events: EventSocket,
    pending: Vec<Event>,
    stale: bool,
}

impl Monitor {
    /// Watches the calling thread's namespace. When this returns, [`Monitor::table`] is filled.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::open_in(None, RECEIVE_BUFFER)
    }

    /// Watches `netns`, or the calling thread's; `receive_buffer` octets of events may wait in the kernel.
    pub(super) fn open_in(netns: Option<Netns>, receive_buffer: u32) -> Result<Self, NetlinkError> {
        let groups = GROUPS.iter().fold(0, |bits, group| bits | 1 << (group - 1));
        let sockets = Netns::run_in(netns.as_ref(), || {
            Ok::<_, NetlinkError>((EventSocket::open(groups, receive_buffer)?, Channel::open()?))
        });
        let (events, channel) = sockets??;
        // A kernel without next-hop objects has no such group, and nothing to tell.
        let _ = events.join(NEXTHOP_GROUP);
        let table = Table::default();
        let mut monitor = Monitor { netns, channel, table, events, pending: Vec::new(), stale: false };
        monitor.resynchronize()?;
        monitor.pending.clear();
        Ok(monitor)
    }

    /// What the namespace holds, as of the last [`Monitor::poll`].
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Takes in what happened and reports it. Never waits.
    ///
    /// Wake-ups are by edge in `mio`: call it until it gives no event. After an error nothing is lost; the next call
    /// goes on, and reads everything anew if it must.
    pub fn poll(&mut self) -> Result<Vec<Event>, NetlinkError> {
        while self.stale || self.pending.len() < EVENTS_PER_POLL {
            match self.events.receive()? {
                Received::Nothing => break,
                Received::Overrun => self.stale = true,
                // Everything will be read anew. What still waits is older than that and must not be taken in after it,
                // and the kernel sends nothing new until all of it is fetched.
                Received::Datagram(_) if self.stale => (),
                Received::Datagram(datagram) => {
                    let table = &mut self.table;
                    let mut apply = |message| table.apply(&message, &mut self.pending);
                    // What can't be read may have been anything: look at everything instead.
                    self.stale = Messages(datagram).any(|message| message.and_then(&mut apply).is_err());
                }
            }
        }
        if self.stale {
            self.resynchronize()?;
        }
        Ok(std::mem::take(&mut self.pending))
    }

    /// Reads everything anew.
    fn resynchronize(&mut self) -> Result<(), NetlinkError> {
        self.stale = true;
        let mut newer = Table::default();
        self.read(libc::RTM_GETLINK, &mut newer)?;
        self.read(libc::RTM_GETADDR, &mut newer)?;
        self.read(libc::RTM_GETNEIGH, &mut newer)?;
        self.table.replace(newer, &mut self.pending);
        self.stale = false;
        Ok(())
    }

    /// Reads one list into `table`. If it never holds still the last reading counts: each change that disturbed it is
    /// an event as well.
    fn read(&mut self, kind: u16, table: &mut Table) -> Result<(), NetlinkError> {
        let mut unheard = Vec::new();
        for _ in 0..READINGS {
            let list = |message: &Message<'_>| table.apply(message, &mut unheard);
            let snapshot = self.channel.ask("list the kernel's network objects", dump(kind), list)?;
            if snapshot == Snapshot::Consistent {
                break;
            }
        }
        Ok(())
    }
}

impl AsRawFd for Monitor {
    /// Readable when something happened.
    fn as_raw_fd(&self) -> RawFd {
        self.events.as_raw_fd()
    }
}

/// A request for all links, IPv4 addresses or IPv4 neighbours.
fn dump(kind: u16) -> Request {
    let flags = libc::NLM_F_DUMP as u16;
    if kind == libc::RTM_GETLINK {
        let request = Request::new(kind, flags, &[0; 16]);
        return request.attr_u32(libc::IFLA_EXT_MASK, libc::RTEXT_FILTER_SKIP_STATS.cast_unsigned());
    }
    // struct ifaddrmsg has 8 octets, struct ndmsg 12: the family is the first of either.
    let length = if kind == libc::RTM_GETADDR { 8 } else { 12 };
    let mut header = vec![0; length];
    if let Some(family) = header.first_mut() {
        *family = libc::AF_INET as u8;
    }
    Request::new(kind, flags, &header)
}
