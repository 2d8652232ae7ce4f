//! What the switch would do with a packet, told step by step: `weftctl trace`.
//!
//! The packet (a frame, or a description of one: `describe.rs`) takes the very walk that a worker's cache miss takes, on
//! what is published at that moment, with a listener (`recorder.rs`) and without effects: nothing is learned, no rule is
//! made, nothing is counted. The listener leaves a [`Trace`]: the steps in order, each with its depth; where every copy
//! goes, and as what; or why nothing leaves, and what would have to change (`hint.rs`).
//!
//! A trace is no tree of boxes, because walks nest thousands of steps deep: its steps are in order, parents first.

mod describe;
mod fields;
mod hint;
mod names;
mod recorder;

use std::sync::Arc;
use std::time::Duration;

use weft_conntrack::Connections;
use weft_flow::FlowKey;
use weft_io::{FrameCache, FramePool, Packet};
use weft_wire::{DropReason, Mac, OfPort, Vid};

use crate::pipeline::{self, Occasion};
use crate::runtime;
use crate::snapshot::Snapshot;
use crate::tables::TableId;
use crate::verdict::Verdict;

pub use describe::{DescribeError, Description};
pub use fields::{Change, packet_text};
pub use names::Names;
use recorder::Recorder;

/// Steps that a trace keeps; of what comes behind them it knows the number.
pub const MAX_STEPS: usize = 20_000;

/// What would happen to a packet. See the module's text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// The packet, as a match.
    pub packet: String,
    /// Which of its fields the tables that it can reach read: packets that agree in these are one cached flow.
    pub reads: Vec<&'static str>,
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// Steps that were too many to keep.
    pub left_out: usize,
    /// What leaves, in order.
    pub copies: Vec<Copy>,
    /// What goes to the controllers.
    pub controllers: Vec<ToController>,
    /// Why nothing leaves.
    pub dropped: Option<Dropped>,
}

/// One step of a walk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Steps that it is within.
    pub depth: u16,
    /// What happens.
    pub what: What,
}

/// What happens in a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// The packet enters a bridge.
    Bridge {
        /// Which.
        bridge: String,
        /// By which port.
        port: String,
        /// That port's number.
        ofport: OfPort,
    },
    /// It is looked up in a table.
    Lookup {
        /// Which.
        table: TableId,
        /// What is found.
        rule: Option<RuleText>,
    },
    /// An action is carried out.
    Action(String),
    /// The action (or the patch port) changes a field.
    Changed(Change),
    /// A `ct` asks for the packet's connection.
    Tracked(Connection),
    /// What `write_actions` has gathered is carried out.
    ActionSet,
    /// A bucket of a group is carried out.
    Bucket {
        /// The group.
        group: u32,
        /// The bucket.
        bucket: u32,
    },
    /// NORMAL takes the packet as one of this VLAN.
    Vlan(Vid),
    /// NORMAL would learn the sender.
    Sender {
        /// Its VLAN.
        vid: Vid,
        /// Its address.
        mac: Mac,
        /// Where it is.
        port: String,
        /// It is known there already.
        known: bool,
    },
    /// NORMAL looks the destination up.
    Destination {
        /// Its VLAN.
        vid: Vid,
        /// Its address.
        mac: Mac,
        /// Where it is; nowhere known (or a group address): the packet is flooded.
        port: Option<String>,
    },
    /// A flood leaves a port out.
    Skipped {
        /// Which.
        port: String,
        /// Why.
        reason: DropReason,
    },
    /// A copy leaves.
    Output(Copy),
    /// A copy goes to the controllers.
    Controller(ToController),
    /// A rule would be made.
    Learn(String),
    /// Something can't be done.
    Refused(Dropped),
    /// The walk ends, and all that it has done is undone.
    Failed(Dropped),
}

/// A rule that is hit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleText {
    /// Its priority.
    pub priority: u16,
    /// Its cookie.
    pub cookie: u64,
    /// Its match.
    pub matches: String,
    /// Its actions.
    pub actions: String,
}

/// What a `ct` says of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connection {
    /// The zone.
    pub zone: u16,
    /// Addresses and ports that it is looked for by; `None` if the packet can't have a connection.
    pub tuple: Option<String>,
    /// What rules see as `ct_state`.
    pub state: String,
    /// The tuple that began it.
    pub original: Option<String>,
    /// `ct_mark`
    pub mark: u32,
    /// `ct_label`
    pub label: u128,
    /// Whether a connection would be made.
    pub is_made: bool,
    /// Why none would be.
    pub refused: Option<String>,
    /// Addresses and ports that the packet gets.
    pub translated: Option<String>,
}

impl std::fmt::Display for Connection {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "zone {}: {}", self.zone, self.state)?;
        match &self.tuple {
            Some(tuple) => write!(out, ", {tuple}")?,
            None => out.write_str(", a packet that can't have a connection")?,
        }
        if let Some(original) = &self.original {
            write!(out, ", begun as {original}")?;
        }
        if self.mark != 0 {
            write!(out, ", mark {:#x}", self.mark)?;
        }
        if self.label != 0 {
            write!(out, ", label {:#x}", self.label)?;
        }
        if self.is_made {
            out.write_str(", would be made")?;
        }
        if let Some(refused) = &self.refused {
            write!(out, ", would not be made: {refused}")?;
        }
        match &self.translated {
            Some(tuple) => write!(out, ", becomes {tuple}"),
            None => Ok(()),
        }
    }
}

/// A copy that leaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copy {
    /// The bridge.
    pub bridge: String,
    /// The port.
    pub port: String,
    /// The port's number.
    pub ofport: OfPort,
    /// Its outermost VLAN tag.
    pub vlan: Tag,
    /// Its header fields that differ from the packet's, tags aside.
    pub changes: Vec<Change>,
    /// Octets that are kept; `None` is all.
    pub max_len: Option<u32>,
    /// How it is wrapped, if the port is a tunnel.
    pub tunnel: Option<Wrapped>,
}

/// A VLAN tag, or that there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tag {
    /// VLAN (0 is a priority tag) and priority.
    pub tag: Option<(u16, u8)>,
}

/// What is put around a copy that leaves by a tunnel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wrapped {
    /// VXLAN or GRE.
    pub kind: String,
    /// Our end.
    pub local: String,
    /// The other end.
    pub remote: String,
    /// The key.
    pub key: u32,
    /// The way there; `None` as long as the next hop's address is being looked for.
    pub path: Option<Way>,
}

/// The way to a tunnel's remote end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Way {
    /// The uplink.
    pub uplink: String,
    /// The next hop's Ethernet address.
    pub next_hop: Mac,
    /// The largest inner frame that fits, in octets.
    pub max_frame: u16,
}

/// A copy for the controllers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ToController {
    /// Why: `action`, `no_match`, `invalid_ttl`.
    pub reason: &'static str,
    /// Octets that are sent; 65535 is all.
    pub max_len: u16,
    /// Which connection gets it.
    pub id: u16,
}

/// Why a copy does not leave, or nothing at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// The reason that is counted.
    pub reason: DropReason,
    /// Which rule or setting it is due to.
    pub hint: String,
}

/// A packet's octets, and frames for it.
#[derive(Clone, Copy, Debug)]
pub struct Octets<'a> {
    /// The packet, without the headers of a tunnel that it came in by.
    pub frame: &'a [u8],
    /// Where frames are to be had.
    pub pool: &'a Arc<FramePool>,
}

/// Which packet is walked, and by what.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The configuration.
    pub snapshot: &'a Snapshot,
    /// The connections that there are.
    pub connections: &'a Connections,
    /// The packet.
    pub key: &'a FlowKey,
    /// Its octets, if it is more than described.
    pub octets: Option<Octets<'a>>,
    /// The time, in seconds.
    pub second: u32,
    /// The time.
    pub now: Duration,
}

/// Walks a packet through the tables, on a thread of its own that has room for the deepest walk.
///
/// # Errors
/// When there is no such thread to be had.
pub fn run(query: Query<'_>) -> std::io::Result<Trace> {
    std::thread::scope(|scope| {
        let walk = move || {
            let Query { snapshot, connections, key, octets, second, now } = query;
            let mut frames = octets.map(|octets| octets.pool.cache());
            let packet =
                octets.zip(frames.as_mut()).and_then(|(octets, frames)| packet(octets.frame, frames));
            let occasion = Occasion {
                snapshot,
                key,
                packet: packet.as_ref(),
                whole: None,
                connections,
                second,
                now,
                effects: false,
            };
            let mut recorder = Recorder::new(snapshot, key);
            let mut verdict = Verdict::default();
            pipeline::walk(occasion, &mut verdict, &mut recorder);
            if let Some((packet, mut frames)) = packet.zip(frames) {
                frames.free(packet);
            }
            recorder.finish(&verdict)
        };
        let thread = std::thread::Builder::new()
            .name("weft-trace".into())
            .stack_size(runtime::STACK)
            .spawn_scoped(scope, walk)?;
        thread.join().map_err(|_| std::io::Error::other("the trace has failed"))
    })
}

/// A packet of these octets, in as many frames as it takes; of a very long one, what fits.
fn packet(mut octets: &[u8], frames: &mut FrameCache) -> Option<Packet> {
    let mut head = part(&mut octets, frames)?;
    while !octets.is_empty()
        && let Some(tail) = part(&mut octets, frames)
    {
        if let Err(tail) = head.push_continuation(tail) {
            frames.free(tail);
            break;
        }
    }
    Some(head)
}

/// One frame's octets.
fn part(octets: &mut &[u8], frames: &mut FrameCache) -> Option<Packet> {
    let mut packet = frames.alloc()?;
    // As many as there is room for.
    let _fits = octets.split_off(..octets.len().min(packet.tailroom())).and_then(|part| packet.append(part));
    Some(packet)
}

impl Trace {
    /// What comes of the packet, in one line.
    pub fn summary(&self) -> String {
        let goes_to_controllers =
            if self.controllers.is_empty() { "" } else { "; a copy goes to the controllers" };
        match (&self.dropped, &self.copies[..]) {
            (Some(Dropped { reason, hint }), _) => format!("dropped ({reason}): {hint}"),
            (None, []) => "sent to the controllers and nowhere else".to_owned(),
            (None, copies) => {
                let all: Vec<String> = copies.iter().map(ToString::to_string).collect();
                format!("forwarded to {}{goes_to_controllers}", all.join("; "))
            }
        }
    }
}

impl std::fmt::Display for Tag {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.tag {
            None => out.write_str("untagged"),
            Some((0, priority)) => write!(out, "priority tag {priority}"),
            Some((vid, 0)) => write!(out, "VLAN {vid}"),
            Some((vid, priority)) => write!(out, "VLAN {vid} priority {priority}"),
        }
    }
}

impl std::fmt::Display for Copy {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} ({}", self.port, self.vlan)?;
        for change in &self.changes {
            write!(out, ", {change}")?;
        }
        if let Some(octets) = self.max_len {
            write!(out, ", {octets} octets at most")?;
        }
        if let Some(wrapped) = &self.tunnel {
            write!(out, ", {wrapped}")?;
        }
        out.write_str(")")
    }
}

impl std::fmt::Display for Wrapped {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} key {} to {}", self.kind, self.key, self.remote)?;
        match &self.path {
            None => out.write_str(", which waits for the next hop's address"),
            Some(way) => {
                write!(out, " by {} and {}, frames up to {} octets", way.uplink, way.next_hop, way.max_frame)
            }
        }
    }
}
