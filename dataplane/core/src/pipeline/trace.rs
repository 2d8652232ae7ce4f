//! Who listens to a walk: nobody on a miss, `weftctl trace` when somebody asks.

use weft_conntrack::{Facts, Tracked};
use weft_flow::action::Controller;
use weft_flow::{Action, Fields};
use weft_wire::{DropReason, Mac, OfPort, Vid};

use crate::snapshot::{Bridge, Port};
use crate::tables::{Rule, TableId};
use crate::verdict::Emit;

/// What happens on a walk, in order.
#[derive(Debug)]
pub enum Event<'e> {
    /// The packet enters a bridge.
    Bridge {
        /// Which.
        bridge: &'e Bridge,
        /// By which of its ports.
        port: &'e Port,
        /// As what.
        fields: &'e Fields,
    },
    /// It is behind the last bridge that it entered.
    LeftBridge,
    /// It was looked up in a table.
    Lookup {
        /// Which.
        table: TableId,
        /// What was found.
        rule: Option<&'e Rule>,
        /// The fields that it was looked up by.
        fields: &'e Fields,
    },
    /// An action comes.
    Action(&'e Action),
    /// The fields after an action.
    Fields(&'e Fields),
    /// A `ct` has asked for the packet's connection.
    Tracked {
        /// What is known of the packet; `None` if it can't have a connection.
        facts: Option<&'e Facts>,
        /// The answer.
        tracked: &'e Tracked,
    },
    /// What `write_actions` has gathered comes.
    ActionSet,
    /// A bucket of a group comes.
    Bucket {
        /// The group.
        group: u32,
        /// The bucket.
        bucket: u32,
    },
    /// NORMAL took the packet as one of this VLAN.
    Vlan(Vid),
    /// NORMAL learned, or would learn, the sender.
    Learned {
        /// The VLAN.
        vid: Vid,
        /// The address.
        mac: Mac,
        /// Where it is.
        port: OfPort,
        /// Whether it was known there.
        known: bool,
    },
    /// NORMAL looked the destination up.
    Destination {
        /// The VLAN.
        vid: Vid,
        /// The address.
        mac: Mac,
        /// The port's name, or `None`: it is flooded.
        port: Option<&'e str>,
    },
    /// A copy is to leave by a port of the bridge, if nothing is against it.
    Towards(&'e Port),
    /// A flood leaves a port of the VLAN out.
    Skipped {
        /// Which.
        port: &'e Port,
        /// Why.
        reason: DropReason,
    },
    /// A copy leaves by a port of the bridge.
    Output {
        /// Which.
        port: &'e Port,
        /// In what form, and where to.
        emit: Emit,
        /// The packet, before that.
        fields: &'e Fields,
    },
    /// A copy goes to the controllers.
    Controller(&'e Controller),
    /// A rule was, or would be, made.
    Learn(&'e weft_flow::message::FlowMod),
    /// An output that can't be, or a rule without one.
    Refused(DropReason),
    /// The walk ends, and all it did is undone.
    Error(DropReason),
}

/// Listens to a walk.
pub trait Tracer {
    /// Hears of one thing more.
    fn event(&mut self, event: Event<'_>);
}

/// Nobody listens: costs nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Tracer for Silent {
    #[inline(always)]
    fn event(&mut self, _: Event<'_>) {}
}
