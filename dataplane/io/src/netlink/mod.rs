//! The kernel's view of the underlay, and the other ends of veths, by netlink.
//!
//! * [`Monitor`]: links, IPv4 addresses and neighbours of one network namespace, kept up to date by events, and the
//!   way that a tunnel packet takes ([`Monitor::resolve`]), which the kernel itself answers.
//! * [`Resolver`]: the paths of all tunnels, and what changed in them since the last look.
//!
//! All of it belongs to the control thread. Nothing here waits for the network: the event socket never blocks, and a
//! request has an answer within a second or fails. (The kernel serves a request inside the system call that sends
//! it; one that needs the kernel's RTNL lock waits there until the lock is free, as it does for every program.)
//!
//! The messages are read by two small modules that look only at what weft needs: the field's crate for
//! rtnetlink messages decodes every attribute of a device and fails as a whole on one that it doesn't know in that
//! shape, and a switch must not lose sight of a NIC because a new kernel describes it with a longer structure.
//!
//! References: rtnetlink(7), netlink(7).

mod decode;
mod error;
mod message;
mod monitor;
mod neighbour;
mod peer;
mod resolver;
mod route;
mod socket;
mod table;

pub use error::NetlinkError;
pub use monitor::Monitor;
pub(crate) use peer::{VethEnds, VethPeer, veth_peer};
pub use resolver::{Pair, Resolution, Resolver, Underlay};
pub use route::{Path, PathProblem};
pub use table::{Address, DeviceChange, Event, Link, Table};

#[cfg(test)]
pub(crate) mod lab;
#[cfg(test)]
mod tests;
