//! The words that every part of weft shares: numbers with a range, drop reasons, and views of protocol headers.
//!
//! Depends on nothing else of weft. Numbers live in one module each ([`mac`], [`vlan`], [`tunnel`], [`port`]), each
//! protocol header in a file of its own, named after the protocol. Nothing here allocates on the packet path.

#![forbid(unsafe_code)]

pub mod arp;
pub mod checksum;
pub mod crc32c;
pub mod drop;
pub mod ethernet;
pub mod gre;
pub mod icmpv4;
pub mod ipv4;
pub mod ipv6;
pub mod mac;
pub mod malformed;
pub mod port;
pub mod tcp;
pub mod tunnel;
pub mod udp;
mod view;
pub mod vlan;
pub mod vxlan;

pub use drop::{DropCounts, DropReason};
pub use ethernet::EtherType;
pub use ipv4::Protocol;
pub use mac::Mac;
pub use malformed::Malformed;
pub use port::{OfPort, PortName};
pub use tunnel::{TunnelKey, TunnelKind};
pub use vlan::{Tci, Vid};
