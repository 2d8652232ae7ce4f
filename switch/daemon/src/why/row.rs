//! One row of a report: what one look-up, or one other reason, has dropped at one port.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_config::control::{FoundRule, WhyDrop, WhyGuard, WhyRule, WhySample};
use weft_core::key::{Ingress, PortId};
use weft_core::parse;
use weft_core::snapshot::BridgeId;
use weft_core::tables::{Rule, TableId};
use weft_core::trace;
use weft_core::why::{Decided, DroppedFlows, Place, Sample, Tallied};
use weft_flow::{FlowKey, KeyMask, text};
use weft_wire::DropReason;

use super::{Called, Reasoned, Recent, decode, stage};
use crate::flows::cached_match;
use crate::switch::Switch;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Row {
    pub port: PortId,
    pub reason: DropReason,
    leaves: bool,
    looked: Option<(BridgeId, TableId)>,
    /// The cookie of what the look-up found; the rule itself, if it is known.
    cookie: Option<u64>,
    rule: Option<Arc<Rule>>,
    flow: Option<(FlowKey, KeyMask)>,
    flows: u64,
    pub packets: u64,
    pub second: u32,
    sample: Option<Sample>,
}

impl Row {
    pub fn of_flows(flows: DroppedFlows) -> Row {
        let DroppedFlows { port, reason, leaves, looked, rule, sum } = flows;
        let (packets, second, flow) = (sum.packets, sum.second, Some((sum.key, sum.mask)));
        let cookie = rule.as_ref().map(|rule| rule.cookie);
        let row = Row::of_port((port, reason), packets, second);
        Row { leaves, looked, cookie, rule, flow, flows: sum.flows, ..row }
    }

    /// Of a packet whose flow isn't known: counted with all others that were dropped at its place.
    pub fn of_sample(sample: Sample, places: &BTreeMap<Place, Tallied>, recent: &Recent) -> Row {
        let place = Place { port: sample.port, reason: sample.reason, decided: sample.decided };
        let counted = match places.get(&place) {
            Some(tallied) => tallied.packets,
            None => recent.count(sample.port, sample.reason),
        };
        let rule = sample.rule.clone();
        let second = sample.second;
        let counted = Tallied { packets: counted.max(1), bytes: 0, second };
        Row { rule, sample: Some(sample), ..Row::of_place(&place, &counted) }
    }

    pub fn of_place(place: &Place, tallied: &Tallied) -> Row {
        Row {
            looked: looked(place.decided),
            cookie: place.decided.and_then(|decided| decided.cookie),
            ..Row::of_port((place.port, place.reason), tallied.packets, tallied.second)
        }
    }

    pub fn of_port((port, reason): Reasoned, packets: u64, second: u32) -> Row {
        Row {
            port,
            reason,
            leaves: false,
            looked: None,
            cookie: None,
            rule: None,
            flow: None,
            flows: 0,
            packets,
            second,
            sample: None,
        }
    }

    /// Whether the packet was dropped as this row's were.
    pub fn fits(&self, sample: &Sample) -> bool {
        let address = |rule: &Option<Arc<Rule>>| rule.as_ref().map(Arc::as_ptr);
        (self.port, self.reason) == (sample.port, sample.reason)
            && !self.leaves
            && self.looked == looked(sample.decided)
            && address(&self.rule) == address(&sample.rule)
    }

    /// Whether there is a packet of it to trace.
    pub fn has_packet(&self) -> bool {
        self.flow.is_some() || self.sample.is_some()
    }

    pub fn is_at(&self, place: &Place) -> bool {
        let decided = place.decided;
        (self.port, self.reason) == (place.port, place.reason)
            && self.looked == looked(decided)
            && self.cookie == decided.and_then(|decided| decided.cookie)
    }

    /// The latest packet is the one that is shown.
    pub fn show(&mut self, sample: Sample) {
        self.second = self.second.max(sample.second);
        if self.sample.as_ref().is_none_or(|shown| shown.second < sample.second) {
            self.sample = Some(sample);
        }
    }
}

/// Where the look-up was.
fn looked(decided: Option<Decided>) -> Option<(BridgeId, TableId)> {
    decided.map(|decided| (decided.bridge, decided.table))
}

impl Switch {
    /// The row as it is told.
    pub(super) fn drop_of(&self, row: &Row, (called, traced): (&Called<'_>, bool)) -> WhyDrop {
        let second = self.second();
        let (hint, guard) = if traced { self.traced(row) } else { None }.unzip();
        let guard = guard.flatten();
        WhyDrop {
            port: called.port(row.port),
            stage: stage::of(row.reason).to_owned(),
            reason: row.reason.name().to_owned(),
            rule: row.looked.map(|looked| self.rule_of(row, looked, called)),
            guard,
            leaves: row.leaves,
            flow: row
                .flow
                .as_ref()
                .map_or_else(String::new, |(key, mask)| self.flow_text(row.port, (key, mask), called)),
            flows: row.flows,
            packets: row.packets,
            rate: None,
            age_s: second.saturating_sub(row.second),
            sample: row.sample.as_ref().map(|sample| WhySample {
                text: decode::line(&sample.data, sample.length),
                length: sample.length,
                age_s: second.saturating_sub(sample.second),
            }),
            hint: hint.unwrap_or_else(|| stage::advice(row.reason)),
        }
    }

    fn rule_of(&self, row: &Row, (bridge, table): (BridgeId, TableId), called: &Called<'_>) -> WhyRule {
        let names = called.names(bridge);
        let found = match (&row.rule, row.cookie) {
            (Some(rule), _) => Some(FoundRule {
                priority: rule.priority,
                cookie: rule.cookie,
                name: called.owner(bridge, rule.cookie),
                matches: text::print_match(&rule.matches, &names),
                actions: text::print_actions(&rule.actions, &names),
            }),
            (None, Some(cookie)) => {
                Some(FoundRule { cookie, name: called.owner(bridge, cookie), ..FoundRule::default() })
            }
            (None, None) => None,
        };
        WhyRule { bridge: called.bridge(bridge), table: table.0, found }
    }

    /// What packets of a flow have in common, as a match.
    pub(super) fn flow_text(&self, port: PortId, flow: (&FlowKey, &KeyMask), called: &Called<'_>) -> String {
        let spec = self.datapath.model().ports.iter().find(|spec| spec.id == port);
        let bridge = spec.and_then(|spec| spec.bridge);
        let names = bridge.map_or_else(crate::flows::Names::none, |bridge| called.names(bridge));
        cached_match(called.ports.get(&port).copied(), flow, &names)
    }

    /// What a trace of the same packet says, and whose groups it was held against, if it comes to the same end.
    fn traced(&self, row: &Row) -> Option<(String, Option<WhyGuard>)> {
        let key = match (&row.flow, &row.sample) {
            (Some((key, _)), _) => *key,
            (None, Some(sample)) => {
                FlowKey(parse::words(&sample.data, sample.length, Ingress::port(sample.port))?)
            }
            (None, None) => return None,
        };
        let snapshot = self.datapath.shared().published.load();
        let mut trace = trace::run(self.query((&snapshot, &key), None)).ok()?;
        let guard = self.name_groups(&mut trace);
        let dropped = trace.dropped.filter(|dropped| dropped.reason == row.reason)?;
        Some((dropped.hint, guard))
    }
}
