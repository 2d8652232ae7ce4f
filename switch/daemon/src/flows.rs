//! Flow tables as the control socket has them: text comes in and goes out, the dataplane sees messages.
//!
//! What takes more than one request (a large text, a long dump) is kept here between them: [`Sessions`]. Their number is
//! bounded, and one that nobody has gone on with for [`PATIENCE`] goes. The switch forgets rules when it ends: only the
//! configuration is persisted.

mod bundle;
mod cache;
mod dump;

use std::collections::BTreeMap;
use std::time::Duration;

use weft_config::control::{Code, FlowOp, FlowReply, Refusal};
use weft_config::model::Bridge;
use weft_core::datapath::FlowError;
use weft_flow::text::PortNames;
use weft_wire::{OfPort, PortName};

use crate::switch::{BridgeState, Switch};

use bundle::Bundle;
pub(crate) use cache::cached_match;
use dump::Dump;

/// How many texts, and how many dumps, may be under way at a time.
const SESSIONS: usize = 8;
/// How long one may be left alone.
const PATIENCE: Duration = Duration::from_secs(60);

/// Texts and dumps under way, by number.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    last: u64,
    bundles: BTreeMap<u64, Bundle>,
    dumps: BTreeMap<u64, Dump>,
}

impl Sessions {
    fn expire(&mut self, now: Duration) {
        let old = |touched: Duration| now.saturating_sub(touched) > PATIENCE;
        self.bundles.retain(|_, bundle| !old(bundle.touched));
        self.dumps.retain(|_, dump| !old(dump.touched));
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

/// What a bridge's ports are called.
#[derive(Debug)]
pub(crate) struct Names {
    by_name: BTreeMap<String, OfPort>,
    by_number: BTreeMap<OfPort, String>,
}

impl Names {
    pub(crate) fn of(bridge: &Bridge) -> Names {
        let ports = bridge.ports.iter().map(|port| (&port.name, port.ofport));
        let tunnels = bridge.tunnels.iter().map(|tunnel| (&tunnel.name, tunnel.ofport));
        let own = bridge.internal.then_some((&bridge.name, Some(OfPort::LOCAL)));
        let all = ports.chain(tunnels).chain(own);
        let named: Vec<(String, OfPort)> =
            all.filter_map(|(name, number)| Some((name.to_string(), number?))).collect();
        let by_number = named.iter().map(|(name, number)| (*number, name.clone())).collect();
        Names { by_name: named.into_iter().collect(), by_number }
    }

    /// Without names.
    pub(crate) fn none() -> Names {
        Names { by_name: BTreeMap::new(), by_number: BTreeMap::new() }
    }
}

impl PortNames for Names {
    fn number(&self, name: &str) -> Option<OfPort> {
        self.by_name.get(name).copied()
    }

    fn name(&self, port: OfPort) -> Option<&str> {
        self.by_number.get(&port).map(String::as_str)
    }
}

impl Switch {
    /// Does what a client asks about flow tables.
    pub(crate) fn flow(&mut self, op: FlowOp) -> Result<FlowReply, Refusal> {
        match op {
            FlowOp::Change(text) => self.take_text(text),
            FlowOp::Dump(dump) => self.dump_flows(&dump),
            FlowOp::Next { dump } => self.go_on_dumping(dump),
            FlowOp::Groups(dump) => self.dump_groups(&dump),
            FlowOp::Meters { bridge } => self.dump_meters(&bridge),
            FlowOp::Cache { port, limit } => self.cached_flows(&port, limit),
        }
    }

    /// Rules whose time is over go, and so do sessions.
    pub(crate) fn expire_flows(&mut self) {
        let now = self.uptime();
        self.flow_sessions.expire(now);
        match self.datapath.expire_flows(now) {
            Ok(0) => {}
            Ok(rules) => tracing::debug!("{rules} rules have expired"),
            Err(error) => crate::switch::fatal(&error),
        }
        for (name, bridge) in &self.bridges {
            for event in bridge.flows.drain_removed() {
                let rule = &event.rule;
                let (table, priority, cookie) = (rule.table, rule.priority, rule.cookie);
                let why = event.reason;
                tracing::debug!(
                    "bridge {name}: rule removed: table {table}, priority {priority}, cookie {cookie:#x}: {why:?}"
                );
            }
        }
    }

    /// Since the start, as the dataplane counts it.
    fn uptime(&self) -> Duration {
        self.start.elapsed()
    }

    /// A bridge with its state.
    fn bridge_of(&self, name: &PortName) -> Result<(&Bridge, &BridgeState), Refusal> {
        let bridge = self.config.bridges.iter().find(|bridge| bridge.name == *name);
        let found = bridge.and_then(|bridge| Some((bridge, self.bridges.get(name)?)));
        found.ok_or_else(|| Refusal::new(Code::NotFound, format!("there is no bridge '{name}'")))
    }

    /// All counters are up to date after this.
    fn settle_flows(&self) -> Result<(), Refusal> {
        self.datapath.settle().map_err(|error| Refusal::new(Code::Failed, error))
    }
}

/// A dataplane that doesn't follow is a failure; anything else is a refusal.
fn refusal(error: FlowError) -> Refusal {
    match error {
        FlowError::NoBridge => Refusal::new(Code::NotFound, error),
        FlowError::Change(_) => Refusal::new(Code::Refused, error),
        FlowError::Datapath(_) => Refusal::new(Code::Failed, error),
    }
}
