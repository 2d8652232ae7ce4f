//! Packets that wait for a next hop's Ethernet address: a few per remote end, for a moment.

use std::time::Duration;

use weft_io::Packet;

use crate::key::PortId;
use crate::shared::{Now, Wanted};
use crate::snapshot::{Path, Snapshot};

/// How long a packet waits at most: what the kernel gives a neighbour to answer (three probes, a second apart).
pub const HELD_FOR: Duration = Duration::from_secs(3);
/// Packets that wait for one remote end of a tunnel at most.
const PER_TUNNEL: usize = 8;
/// Packets that wait in all.
const IN_ALL: usize = 256;

/// A packet that waits: switched and retagged, all but wrapped.
#[derive(Debug)]
pub struct Waiting {
    /// The tunnel port that it leaves by, and where to.
    pub towards: Wanted,
    /// The key that it is wrapped under.
    pub key: u32,
    /// The port that answers for it if it is dropped.
    pub ingress: PortId,
    /// When it has waited too long, since the process's start.
    pub deadline: Duration,
    /// The packet.
    pub packet: Packet,
}

/// One worker's waiting packets, in order of their coming.
#[derive(Debug)]
pub struct Held(Vec<Waiting>);

impl Default for Held {
    fn default() -> Self {
        Held(Vec::with_capacity(IN_ALL))
    }
}

impl Held {
    /// Lets a packet wait; gives it back when too many do already.
    pub fn put(&mut self, waiting: Waiting) -> Result<(), Packet> {
        let same = self.0.iter().filter(|other| other.towards == waiting.towards).count();
        if same >= PER_TUNNEL || self.0.len() >= IN_ALL {
            return Err(waiting.packet);
        }
        self.0.push(waiting);
        Ok(())
    }

    /// Takes out the packets whose tunnel's path is decided, or whose tunnel is gone.
    pub fn take_resolved(&mut self, snapshot: &Snapshot) -> Vec<Waiting> {
        let resolving = |towards: Wanted| {
            let tunnel = snapshot.port(towards.tunnel).and_then(|port| port.spec.tunnel());
            let way = tunnel.and_then(|tunnel| snapshot.way(tunnel, towards.remote));
            way.is_some_and(|(_, path)| *path == Path::Resolving)
        };
        self.0.extract_if(.., |waiting| !resolving(waiting.towards)).collect()
    }

    /// Takes out the packets that have waited too long.
    pub fn take_expired(&mut self, now: Now) -> Vec<Waiting> {
        self.0.extract_if(.., |waiting| waiting.deadline <= now.uptime).collect()
    }

    /// Takes out the packets that came in by such a port.
    pub fn take_of(&mut self, is: impl Fn(PortId) -> bool) -> Vec<Waiting> {
        self.0.extract_if(.., |waiting| is(waiting.ingress)).collect()
    }

    /// How many packets wait.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
