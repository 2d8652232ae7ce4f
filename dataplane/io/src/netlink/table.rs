//! What the kernel has in one namespace: links, IPv4 addresses, IPv4 neighbours; and what changes in them.
//!
//! A [`Table`] takes messages and gives events; it makes no system call. Routes are not kept: the kernel is asked for
//! the one that matters (a host may have a million), and a changed one is only an event.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use weft_wire::Mac;

use super::decode::{self, Update};
use super::error::NetlinkError;
use super::message::Message;

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it, unique in its namespace.
    pub index: u32,
    /// Its name now.
    pub name: String,
    /// Its Ethernet address; `None` for a device that has none (a tunnel of IP packets, say).
    pub mac: Option<Mac>,
    /// The largest payload, in octets.
    pub mtu: u32,
    /// The administrator wants it up (`IFF_UP`).
    pub up: bool,
    /// It has a carrier and can be used (`IFF_RUNNING`).
    pub running: bool,
    /// Its neighbours are found by ARP (not `IFF_NOARP`).
    pub arp: bool,
    /// The hardware type (`ARPHRD_*`): 1 is Ethernet, 772 loopback.
    pub hardware: u16,
    /// The kind of a virtual device ("veth", "tun", "bridge", ...); `None` for a real NIC and for loopback.
    pub kind: Option<String>,
    /// The bridge, bond or VRF that it belongs to.
    pub master: Option<u32>,
    /// The device below it (a VLAN's) or its peer (a veth's), which may be in another namespace.
    pub lower: Option<u32>,
}

impl Link {
    /// Up and with a carrier: packets can pass.
    pub fn is_operational(&self) -> bool {
        self.up && self.running
    }

    /// Frames on it are Ethernet (`ARPHRD_ETHER`).
    pub fn is_ethernet(&self) -> bool {
        self.hardware == libc::ARPHRD_ETHER
    }
}

/// An IPv4 address of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The device.
    pub index: u32,
    /// The host's own address.
    pub local: Ipv4Addr,
    /// The length of the network's prefix, in bits.
    pub prefix: u8,
}

/// The kernel's word on a neighbour (`NUD_*` of linux/neighbour.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NeighbourState {
    /// Just made, or given up.
    None,
    /// Being asked for.
    Incomplete,
    /// Lately confirmed.
    Reachable,
    /// Known, not lately confirmed.
    Stale,
    /// Known and in use, soon to be confirmed.
    Delay,
    /// Known and being confirmed.
    Probe,
    /// Asked for, and no answer.
    Failed,
    /// Needs no asking.
    NoArp,
    /// Set by hand.
    Permanent,
    /// None of those.
    Unknown(u16),
}

impl NeighbourState {
    /// Whether the address that goes with it may be used.
    pub fn is_usable(self) -> bool {
        use NeighbourState::{Delay, NoArp, Permanent, Probe, Reachable, Stale};
        matches!(self, Reachable | Stale | Delay | Probe | NoArp | Permanent)
    }

    /// Whether it stays as it is without being confirmed; to "use" such a one would make it an ordinary one.
    pub fn is_fixed(self) -> bool {
        matches!(self, NeighbourState::NoArp | NeighbourState::Permanent)
    }
}

impl From<u16> for NeighbourState {
    fn from(state: u16) -> Self {
        match state {
            libc::NUD_NONE => NeighbourState::None,
            libc::NUD_INCOMPLETE => NeighbourState::Incomplete,
            libc::NUD_REACHABLE => NeighbourState::Reachable,
            libc::NUD_STALE => NeighbourState::Stale,
            libc::NUD_DELAY => NeighbourState::Delay,
            libc::NUD_PROBE => NeighbourState::Probe,
            libc::NUD_FAILED => NeighbourState::Failed,
            libc::NUD_NOARP => NeighbourState::NoArp,
            libc::NUD_PERMANENT => NeighbourState::Permanent,
            other => NeighbourState::Unknown(other),
        }
    }
}

impl fmt::Display for NeighbourState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            NeighbourState::None => "none",
            NeighbourState::Incomplete => "incomplete",
            NeighbourState::Reachable => "reachable",
            NeighbourState::Stale => "stale",
            NeighbourState::Delay => "delay",
            NeighbourState::Probe => "probe",
            NeighbourState::Failed => "failed",
            NeighbourState::NoArp => "noarp",
            NeighbourState::Permanent => "permanent",
            NeighbourState::Unknown(number) => return write!(out, "unknown ({number})"),
        })
    }
}

/// An IPv4 neighbour on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Neighbour {
    /// The device.
    pub index: u32,
    /// The neighbour's address.
    pub address: Ipv4Addr,
    /// Its Ethernet address, if it is known.
    pub mac: Option<Mac>,
    /// What the kernel thinks of it.
    pub state: NeighbourState,
}

/// How a device changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceChange {
    /// It is there now (made, or moved into this namespace).
    Appeared,
    /// It is gone (deleted, or moved to another namespace).
    Gone,
    /// It can be used now: up, and with a carrier.
    Up,
    /// It can't be used any more.
    Down,
    /// It has another name now.
    Renamed {
        /// The name it had.
        from: String,
    },
    /// Its MTU, address, kind, master or administrative state is another one.
    Changed,
}

/// Something that happened in the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A device changed. One that appears is reported before it is reported up.
    Device {
        /// Its number.
        index: u32,
        /// Its name (after the change).
        name: String,
        /// What changed.
        change: DeviceChange,
    },
    /// An address came or went.
    Address(Address),
    /// A neighbour came, went, changed its Ethernet address or its state.
    Neighbour {
        /// The device it is on.
        index: u32,
        /// Its IPv4 address.
        address: Ipv4Addr,
    },
    /// A route to this prefix came, went or changed, in some table.
    Route {
        /// The prefix's address.
        destination: Ipv4Addr,
        /// Its length, in bits.
        prefix: u8,
    },
    /// Routing rules or next-hop objects changed: any route may be another one.
    Rules,
    /// Events were lost and everything was read anew: routes and neighbours may have changed as well. Changed devices
    /// are reported on their own, before this.
    Resynchronized,
}

/// The links, addresses and neighbours of one namespace.
#[derive(Debug, Clone, Default)]
pub struct Table {
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<Address>,
    neighbours: BTreeMap<(u32, Ipv4Addr), Neighbour>,
}

impl Table {
    /// All devices, by number.
    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// The device of that number.
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    /// The device of that name.
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links().find(|link| link.name == name)
    }

    /// All IPv4 addresses, by device.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.addresses.iter()
    }

    /// The device that has this address as its own.
    pub fn owner(&self, local: Ipv4Addr) -> Option<&Link> {
        let address = self.addresses().find(|address| address.local == local)?;
        self.link(address.index)
    }

    /// All IPv4 neighbours, by device and address.
    #[cfg(test)]
    pub(super) fn neighbours(&self) -> impl Iterator<Item = &Neighbour> {
        self.neighbours.values()
    }

    /// What is known of one neighbour.
    pub(super) fn neighbour(&self, index: u32, address: Ipv4Addr) -> Option<&Neighbour> {
        self.neighbours.get(&(index, address))
    }

    /// Takes a message in, and reports what it changed. A message about something else, and one that changes nothing,
    /// gives no event.
    pub(super) fn apply(
        &mut self,
        message: &Message<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), NetlinkError> {
        match decode::update(message)? {
            Update::Link(link) => self.put_link(link, events),
            Update::NoLink(index) => self.remove_link(index, events),
            Update::Address(address) if self.addresses.insert(address) => {
                events.push(Event::Address(address));
            }
            Update::NoAddress(address) if self.addresses.remove(&address) => {
                events.push(Event::Address(address));
            }
            Update::Neighbour(neighbour) => self.put_neighbour(neighbour, events),
            Update::NoNeighbour(index, address) => self.remove_neighbour(index, address, events),
            Update::Route { destination, prefix } => events.push(Event::Route { destination, prefix }),
            Update::Rules => events.push(Event::Rules),
            Update::Address(_) | Update::NoAddress(_) | Update::Nothing => (),
        }
        Ok(())
    }

    /// Becomes `newer`, a picture of the same namespace, and reports the devices that differ.
    pub(super) fn replace(&mut self, newer: Table, events: &mut Vec<Event>) {
        let gone: Vec<u32> =
            self.links.keys().copied().filter(|index| !newer.links.contains_key(index)).collect();
        for index in gone {
            self.remove_link(index, events);
        }
        for link in newer.links.into_values() {
            self.put_link(link, events);
        }
        self.addresses = newer.addresses;
        self.neighbours = newer.neighbours;
        events.push(Event::Resynchronized);
    }

    fn put_link(&mut self, link: Link, events: &mut Vec<Event>) {
        let (index, name) = (link.index, link.name.clone());
        let changes = changes(self.links.insert(index, link.clone()).as_ref(), &link);
        events.extend(changes.into_iter().map(|change| Event::Device { index, name: name.clone(), change }));
    }

    /// A link takes its addresses and neighbours with it: the kernel reports those too, but maybe later.
    fn remove_link(&mut self, index: u32, events: &mut Vec<Event>) {
        if let Some(link) = self.links.remove(&index) {
            self.addresses.retain(|address| address.index != index);
            self.neighbours.retain(|&(device, _), _| device != index);
            events.push(Event::Device { index, name: link.name, change: DeviceChange::Gone });
        }
    }

    fn put_neighbour(&mut self, neighbour: Neighbour, events: &mut Vec<Event>) {
        let Neighbour { index, address, .. } = neighbour;
        if self.neighbours.insert((index, address), neighbour) != Some(neighbour) {
            events.push(Event::Neighbour { index, address });
        }
    }

    fn remove_neighbour(&mut self, index: u32, address: Ipv4Addr, events: &mut Vec<Event>) {
        if self.neighbours.remove(&(index, address)).is_some() {
            events.push(Event::Neighbour { index, address });
        }
    }
}

/// How a link differs from what it was.
fn changes(old: Option<&Link>, new: &Link) -> Vec<DeviceChange> {
    let mut changes = Vec::new();
    match old {
        None => changes.push(DeviceChange::Appeared),
        Some(old) if old.name != new.name => changes.push(DeviceChange::Renamed { from: old.name.clone() }),
        Some(_) => (),
    }
    match (old.is_some_and(Link::is_operational), new.is_operational()) {
        (false, true) => changes.push(DeviceChange::Up),
        (true, false) => changes.push(DeviceChange::Down),
        _ => (),
    }
    // Whatever else differs is one event, and none beside those above.
    if changes.is_empty() && old.is_some_and(|old| old != new) {
        changes.push(DeviceChange::Changed);
    }
    changes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::message::{Messages, Request};
    use super::*;

    /// What the kernel would send, as a request that is read back.
    fn apply(table: &mut Table, message: Request) -> Result<Vec<Event>, NetlinkError> {
        let bytes = message.finish(0);
        let mut events = Vec::new();
        for message in Messages(&bytes) {
            table.apply(&message?, &mut events)?;
        }
        Ok(events)
    }

    fn link(kind: u16, family: u8, index: u8, flags: u8) -> Request {
        Request::new(kind, 0, &[family, 0, 1, 0, index, 0, 0, 0, flags, 0, 0, 0, 0, 0, 0, 0])
    }

    fn named(index: u8, flags: u8, name: &str) -> Request {
        link(libc::RTM_NEWLINK, 0, index, flags)
            .attr_text(libc::IFLA_IFNAME, name)
            .attr_u32(libc::IFLA_MTU, 1500)
    }

    fn device(index: u32, name: &str, change: DeviceChange) -> Event {
        Event::Device { index, name: name.to_owned(), change }
    }

    const UP: u8 = (libc::IFF_UP | libc::IFF_RUNNING) as u8;

    #[test]
    fn a_link_that_appears_changes_and_goes_is_reported_step_by_step() {
        let mut table = Table::default();
        let mut step = |message| apply(&mut table, message).unwrap();
        assert_eq!(
            step(named(3, UP, "a")),
            [device(3, "a", DeviceChange::Appeared), device(3, "a", DeviceChange::Up)]
        );
        assert_eq!(step(named(3, UP, "a")), []);
        let renamed = DeviceChange::Renamed { from: "a".to_owned() };
        assert_eq!(step(named(3, 1, "b")), [device(3, "b", renamed), device(3, "b", DeviceChange::Down)]);
        assert_eq!(step(named(3, 0, "b")), [device(3, "b", DeviceChange::Changed)]);
        assert_eq!(step(link(libc::RTM_DELLINK, 7, 3, 0)), [], "news of a bridge's port");
        assert_eq!(step(link(libc::RTM_DELLINK, 0, 3, 0)), [device(3, "b", DeviceChange::Gone)]);
        assert_eq!(step(link(libc::RTM_DELLINK, 0, 3, 0)), []);
    }

    #[test]
    fn reading_anew_reports_only_the_difference() {
        let (mut table, mut newer) = (Table::default(), Table::default());
        for message in [named(1, UP, "a"), named(2, UP, "b"), named(3, UP, "c")] {
            apply(&mut table, message).unwrap();
        }
        for message in [named(2, UP, "b"), named(3, 1, "c"), named(4, 0, "d")] {
            apply(&mut newer, message).unwrap();
        }
        let mut events = Vec::new();
        table.replace(newer, &mut events);
        let expected = [
            device(1, "a", DeviceChange::Gone),
            device(3, "c", DeviceChange::Down),
            device(4, "d", DeviceChange::Appeared),
            Event::Resynchronized,
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn attributes_of_a_wrong_size_are_malformed_and_change_nothing() {
        let mut table = Table::default();
        let neighbour = |attr: u16, value: &[u8]| {
            Request::new(libc::RTM_NEWNEIGH, 0, &[2, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0]).attr(attr, value)
        };
        let address = Request::new(libc::RTM_NEWADDR, 0, &[2, 24, 0, 0, 3, 0, 0, 0]);
        for message in [
            link(libc::RTM_NEWLINK, 0, 3, 0),
            link(libc::RTM_NEWLINK, 0, 3, 0).attr(libc::IFLA_MTU, &[1, 2, 3]),
            neighbour(libc::NDA_DST, &[10, 0, 0]),
            neighbour(libc::NDA_LLADDR, &[1; 6]),
            address.clone(),
            address.attr(libc::IFA_LOCAL, &[1; 16]),
            Request::new(libc::RTM_NEWROUTE, 0, &[2]),
        ] {
            let outcome = apply(&mut table, message.clone());
            assert!(matches!(outcome, Err(NetlinkError::Malformed { .. })), "{message:?}: {outcome:?}");
        }
        assert_eq!((table.links().count(), table.neighbours().count(), table.addresses().count()), (0, 0, 0));
    }

    #[test]
    fn what_is_not_ipv4_is_ignored() {
        let mut table = Table::default();
        for family in [libc::AF_INET6, libc::AF_BRIDGE] {
            let header = [family as u8, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0];
            for kind in [libc::RTM_NEWNEIGH, libc::RTM_NEWADDR, libc::RTM_NEWROUTE] {
                assert_eq!(apply(&mut table, Request::new(kind, 0, &header)), Ok(vec![]));
            }
        }
        let proxy = Request::new(libc::RTM_NEWNEIGH, 0, &[2, 0, 0, 0, 3, 0, 0, 0, 0, 0, libc::NTF_PROXY, 0]);
        assert_eq!(apply(&mut table, proxy), Ok(vec![]));
    }

    #[test]
    fn neighbour_states_are_told_apart_and_none_is_refused() {
        for state in 0..=u16::MAX {
            let read = NeighbourState::from(state);
            let usable = matches!(state, 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80);
            assert_eq!(read.is_usable(), usable, "{read}");
        }
        assert_eq!(NeighbourState::from(3).to_string(), "unknown (3)");
    }

    proptest! {
        #[test]
        fn no_octets_at_all_make_a_table_panic(
            kind in prop_oneof![16u16..=33, 104u16..=105],
            body in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            let mut table = Table::default();
            let _ = apply(&mut table, Request::new(kind, 0, &body));
        }
    }
}
