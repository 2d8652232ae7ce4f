//! Frames and ports: how packets come into the switch and leave it.
//!
//! * [`pool`] and [`packet`]: one pool of 4 KiB frames over one memory mapping, and the packets that own frames of it.
//! * [`queue`]: the one trait that every port backend has, [`queue::PortQueue`].
//! * [`memory`], [`replay`], [`null`]: ports for tests and benches.
//! * [`tap`], [`af_packet`], [`xdp`]: ports over devices of the kernel ([`open`] says which is for what); [`device`] and
//!   [`netns`]: those devices, and their namespaces, for the control plane.
//! * [`offload`], [`transport`], `segment`: what is still to be done to a packet, and doing it in software.
//! * [`netlink`]: the underlay's links, addresses, routes and neighbours as the kernel has them.
//! * [`mem`]: prefetch and large tables in huge pages. [`hash`]: what their hashes are made of. [`limits`]: what the process
//!   may have.
//!
//! This is the one crate of weft with `unsafe` code; what it offers to the others is safe.

pub mod af_packet;
mod assemble;
pub mod device;
mod fault;
pub mod hash;
pub mod limits;
pub mod mem;
pub mod memory;
pub mod netlink;
pub mod netns;
pub mod null;
pub mod offload;
pub mod open;
pub mod packet;
pub mod pool;
pub mod queue;
mod receive;
pub mod replay;
mod segment;
mod sys;
pub mod tap;
#[cfg(test)]
mod test_packets;
#[cfg(test)]
mod testing;
pub mod thread;
pub mod transport;
pub mod xdp;

pub use packet::{Offload, Packet};
pub use pool::{FrameCache, FramePool};
pub use queue::{BURST, Burst, PortQueue, Sent, load, unload};
