//! `weftctl why`: whose packets are dropped, where, by which rule, how many, and one of each to look at.
//!
//! What is told comes from four places. Cached flows have keys, counts and ages; samples are packets that were dropped since
//! somebody asked; the workers' logs have what programs have dropped by rule, whether the flow is still cached or not; and
//! ports' counters have all else: what the port refused when it came or could not transmit. A row is what one look-up, or
//! one other reason, has dropped at one port: it is in one of these places, and a sample is put to it where there is one.
//!
//! `decode` reads samples, `subject` what was asked about, `stage` knows reasons, `recent` when a counter last moved.

mod decode;
mod recent;
mod row;
mod stage;
mod subject;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weft_config::control::{Code, DropPlace, Refusal, WhyOutput, WhyReport, WhyRequest, WhySent, WhyTunnel};
use weft_core::datapath::DatapathError;
use weft_core::key::PortId;
use weft_core::snapshot::{BridgeId, Path, TunnelSpec};
use weft_core::why::{Found, Output, Place, SentFlows, Subject, Tallied};
use weft_wire::DropReason;

use crate::acl::Owners;
use crate::flows::Names;
use crate::switch::Switch;

pub(crate) use recent::Recent;
use row::Row;

/// Seconds for which dropped packets are watched after each question.
const WATCH: u32 = 5;
/// Rows of a report, of each kind.
const ROWS: usize = 64;
/// How long packets are traced for hints: everybody waits meanwhile.
const TRACES: Duration = Duration::from_millis(20);
/// Rows that `stats drops` has by place.
const PLACES: usize = 1000;

/// What numbers are called, while a report is made.
struct Called<'a> {
    ports: BTreeMap<PortId, &'a str>,
    bridges: BTreeMap<BridgeId, &'a weft_config::Bridge>,
    owners: BTreeMap<BridgeId, Owners>,
}

impl Called<'_> {
    fn port(&self, id: PortId) -> String {
        match (self.ports.get(&id), id) {
            (Some(name), _) => (*name).to_owned(),
            (None, PortId::NONE) => "(uplink)".to_owned(),
            (None, _) => "(gone)".to_owned(),
        }
    }

    fn bridge(&self, id: BridgeId) -> String {
        self.bridges.get(&id).map_or_else(|| "(gone)".to_owned(), |bridge| bridge.name.to_string())
    }

    /// Whose rule it is that has this cookie, if it is one of weft's own.
    fn owner(&self, bridge: BridgeId, cookie: u64) -> Option<String> {
        self.owners.get(&bridge).map(|owners| owners.of(cookie)).filter(|owner| !owner.is_empty())
    }

    fn names(&self, id: BridgeId) -> Names {
        self.bridges.get(&id).map_or_else(Names::none, |bridge| Names::of(bridge))
    }
}

/// The traces of one report, until their time is over.
struct Traces {
    end: Duration,
    /// Those that were not made.
    left_out: u64,
}

impl Traces {
    /// Whether there is time for one more.
    fn goes_on(&mut self, now: Duration) -> bool {
        let goes_on = now < self.end;
        self.left_out += u64::from(!goes_on);
        goes_on
    }
}

/// What is known of the subject's packets at one moment.
struct Known {
    found: Found,
    places: BTreeMap<Place, Tallied>,
}

impl Switch {
    fn called(&self) -> Called<'_> {
        let uplinks = self.underlay.uplinks().map(|uplink| (uplink.id, uplink.name.as_str()));
        let owners =
            self.bridges.iter().map(|(name, bridge)| (bridge.id, self.own_rule_owners(name))).collect();
        let bridges = self.config.bridges.iter();
        Called {
            owners,
            ports: self.ports.iter().map(|(name, port)| (port.id, name.as_str())).chain(uplinks).collect(),
            bridges: bridges
                .filter_map(|bridge| Some((self.bridges.get(&bridge.name)?.id, bridge)))
                .collect(),
        }
    }

    /// Why the subject's packets are dropped.
    pub(crate) fn why(&mut self, request: &WhyRequest) -> Result<WhyReport, Refusal> {
        let asked = self.whose(&request.subject)?;
        let subject = Arc::new(asked.subject);
        let second = self.second();
        let failed = |error: DatapathError| Refusal::new(Code::Failed, error);
        let found = self.datapath.why(&subject, second + WATCH).map_err(failed)?;
        let (places, _) = self.datapath.drops().map_err(failed)?;
        self.follow_drops();
        let called = self.called();
        let left_out = found.left_out;
        let sent = self.sent(&found.sent, &called);
        let mut rows = self.rows(&subject, Known { found, places }, &called);
        rows.retain(|row| row.second.saturating_add(request.last_s) >= second);
        rows.sort_by_key(|row| (std::cmp::Reverse(row.second), std::cmp::Reverse(row.packets)));
        let further = rows.len().saturating_sub(ROWS) as u64;
        rows.truncate(ROWS);
        let mut traces = Traces { end: self.start.elapsed() + TRACES, left_out: 0 };
        let told = rows.iter().map(|row| {
            let traced = row.has_packet() && traces.goes_on(self.start.elapsed());
            self.drop_of(row, (&called, traced))
        });
        let drops = told.collect();
        let mut sent: Vec<WhySent> = sent.into_iter().filter(|sent| sent.age_s <= request.last_s).collect();
        sent.sort_by_key(|sent| (sent.age_s, std::cmp::Reverse(sent.packets)));
        sent.truncate(ROWS);
        let uptime_ms = self.start.elapsed().as_millis() as u64;
        let untraced = traces.left_out;
        Ok(WhyReport { subject: asked.text, uptime_ms, drops, sent, further, untraced, left_out })
    }

    /// All that is dropped, one row for each place.
    fn rows(&self, subject: &Subject, known: Known, called: &Called<'_>) -> Vec<Row> {
        let Known { found, places } = known;
        let mut rows: Vec<Row> = found.dropped.into_iter().map(Row::of_flows).collect();
        for sample in found.samples {
            match rows.iter_mut().find(|row| row.fits(&sample)) {
                Some(row) => row.show(sample),
                None => rows.push(Row::of_sample(sample, &places, &self.recent)),
            }
        }
        if subject.whole_ports {
            for (place, tallied) in places.iter().filter(|(place, _)| subject.ports.contains(&place.port)) {
                if !rows.iter().any(|row| row.is_at(place)) {
                    rows.push(Row::of_place(place, tallied));
                }
            }
        }
        for &port in &subject.ports {
            for (reason, packets, second) in self.recent.of(port) {
                let told = |row: &Row| (row.port, row.reason) == (port, reason);
                if called.ports.contains_key(&port) && !rows.iter().any(told) {
                    rows.push(Row::of_port((port, reason), packets, second));
                }
            }
        }
        rows
    }

    /// Takes note of which counters have moved.
    pub(crate) fn follow_drops(&mut self) {
        let second = self.second();
        let uplinks = self.underlay.uplinks().map(|uplink| uplink.id);
        let ports = self.ports.values().map(|port| port.id).chain(uplinks);
        let counts = ports.map(|id| (id, self.datapath.port_totals(id).drops)).collect::<Vec<_>>();
        self.recent.look(&counts, second);
    }

    fn sent(&self, flows: &[SentFlows], called: &Called<'_>) -> Vec<WhySent> {
        let second = self.second();
        let sent = |flows: &SentFlows| WhySent {
            port: called.port(flows.port),
            outputs: flows.outputs.iter().map(|output| self.output(output, called)).collect(),
            further: flows.further as u64,
            flow: self.flow_text(flows.port, (&flows.sum.key, &flows.sum.mask), called),
            flows: flows.sum.flows,
            packets: flows.sum.packets,
            rate: None,
            age_s: second.saturating_sub(flows.sum.second),
        };
        flows.iter().map(sent).collect()
    }

    fn output(&self, output: &Output, called: &Called<'_>) -> WhyOutput {
        let snapshot = self.datapath.shared().published.load();
        let tunnel = snapshot.port(output.port).and_then(|port| port.spec.tunnel());
        let wrapped = |(tunnel, key): (&TunnelSpec, u32)| {
            let (remote, path) = snapshot.way(tunnel, output.remote)?;
            let problem = match path {
                Path::Ready { .. } => None,
                Path::Resolving => Some("waits for the next hop's address".to_owned()),
                Path::NoRoute => Some("no route".to_owned()),
            };
            Some(WhyTunnel { kind: tunnel.kind, remote, key, problem })
        };
        WhyOutput { port: called.port(output.port), tunnel: tunnel.zip(output.key).and_then(wrapped) }
    }

    /// What rules have dropped, the most first.
    pub(crate) fn drop_places(&self) -> Result<Vec<DropPlace>, Refusal> {
        let (places, _) = self.datapath.drops().map_err(|error| Refusal::new(Code::Failed, error))?;
        let (called, second) = (self.called(), self.second());
        let mut places: Vec<(Place, Tallied)> = places.into_iter().collect();
        places.sort_by_key(|(place, tallied)| (std::cmp::Reverse(tallied.packets), *place));
        places.truncate(PLACES);
        let told = |(place, tallied): (Place, Tallied)| {
            let cookie = place.decided.and_then(|decided| decided.cookie);
            DropPlace {
                port: called.port(place.port),
                reason: place.reason.name().to_owned(),
                bridge: place.decided.map(|decided| called.bridge(decided.bridge)),
                table: place.decided.map(|decided| decided.table.0),
                cookie,
                name: place.decided.and_then(|decided| called.owner(decided.bridge, decided.cookie?)),
                packets: tallied.packets,
                bytes: tallied.bytes,
                age_s: second.saturating_sub(tallied.second),
            }
        };
        Ok(places.into_iter().map(told).collect())
    }
}

/// A port, and why it drops.
type Reasoned = (PortId, DropReason);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_end_with_their_time_and_those_that_were_not_made_are_counted() {
        let mut traces = Traces { end: Duration::from_millis(20), left_out: 0 };
        assert!((0..20).all(|now| traces.goes_on(Duration::from_millis(now))));
        assert_eq!(traces.left_out, 0);
        assert!(!traces.goes_on(Duration::from_millis(20)) && !traces.goes_on(Duration::from_millis(25)));
        assert_eq!(traces.left_out, 2);
    }
}
