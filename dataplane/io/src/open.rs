//! What opening a kernel-device port gives: queues for workers, and a handle for the control plane.
//!
//! | backend | for | offloads |
//! | --- | --- | --- |
//! | [`tap`](crate::tap) | a tap that weft creates and owns | checksums both ways |
//! | [`af_packet`](crate::af_packet) | a device that somebody else has: a VM's tap, a veth, a NIC | checksums both ways; received GSO packets are cut |
//! | [`xdp`](crate::xdp) | an existing NIC or veth | none: checksums are finished in software |
//!
//! Opening is for the control thread: it may block for some milliseconds, allocates, and reports one clear line when
//! it can't. The queues go to their workers; a port goes when its queues are dropped.

use crate::queue::PortQueue;

/// An open port.
#[derive(Debug)]
pub struct OpenPort<C> {
    /// One for each queue that was asked for, to be given to one worker each.
    pub queues: Vec<Box<dyn PortQueue>>,
    /// For the control plane.
    pub control: C,
}
