//! Rules, groups and meters as text, with what they have counted.

use std::sync::Arc;
use std::time::Duration;
use std::vec::IntoIter;

use weft_config::control::{
    Code, Counted, FlowDump, FlowReply, GroupDump, GroupStatus, MeterStatus, Refusal, RuleStatus,
};
use weft_core::tables::{Group, Meter, Rule, Shown, TableId};
use weft_flow::message::{FlowCommand, GroupMod};
use weft_flow::text::{self, FlowStats};
use weft_wire::PortName;

use super::{Names, SESSIONS};
use crate::acl::Owners;
use crate::switch::Switch;

/// How many rules one answer has.
const PAGE: usize = 2048;

/// The rules of a dump that are still to come, as they were when it began.
#[derive(Debug)]
pub(super) struct Dump {
    rules: IntoIter<Arc<Rule>>,
    names: Names,
    owners: Owners,
    no_stats: bool,
    pub touched: Duration,
}

impl Switch {
    pub(super) fn dump_flows(&mut self, dump: &FlowDump) -> Result<FlowReply, Refusal> {
        self.settle_flows()?;
        let (bridge, state) = self.bridge_of(&dump.bridge)?;
        let names = Names::of(bridge);
        let filter = text::parse_flow(&dump.filter, FlowCommand::Delete, &names)
            .map_err(|error| Refusal::new(Code::Refused, format!("filter: {error}")))?;
        let shown = match (dump.table, dump.all) {
            (Some(table), _) => Shown::Table(TableId(table)),
            (None, true) => Shown::All,
            (None, false) => Shown::Filter,
        };
        let rules = state.flows.load().select(shown, &filter).into_iter();
        let names = if dump.no_names { Names::none() } else { names };
        let owners = self.own_rule_owners(&dump.bridge);
        self.page(Dump { rules, names, owners, no_stats: dump.no_stats, touched: Duration::ZERO }, None)
    }

    pub(super) fn go_on_dumping(&mut self, number: u64) -> Result<FlowReply, Refusal> {
        let dump = self.flow_sessions.dumps.remove(&number).ok_or_else(|| {
            Refusal::new(Code::NotFound, format!("there is no dump {number}: it may have waited too long"))
        })?;
        self.page(dump, Some(number))
    }

    fn page(&mut self, mut dump: Dump, number: Option<u64>) -> Result<FlowReply, Refusal> {
        let now = self.uptime();
        let page: Vec<Arc<Rule>> = dump.rules.by_ref().take(PAGE).collect();
        let rules = page.iter().map(|rule| status(rule, &dump, now)).collect();
        if dump.rules.as_slice().is_empty() {
            return Ok(FlowReply::Rules { rules, next: None });
        }
        if self.flow_sessions.dumps.len() >= SESSIONS {
            let line = format!("{SESSIONS} long dumps are under way already: try again later");
            return Err(Refusal::new(Code::Busy, line));
        }
        let number = number.unwrap_or_else(|| self.flow_sessions.number());
        dump.touched = now;
        self.flow_sessions.dumps.insert(number, dump);
        Ok(FlowReply::Rules { rules, next: Some(number) })
    }

    pub(super) fn dump_groups(&self, dump: &GroupDump) -> Result<FlowReply, Refusal> {
        self.settle_flows()?;
        let (bridge, state) = self.bridge_of(&dump.bridge)?;
        let names = if dump.no_names { Names::none() } else { Names::of(bridge) };
        let now = self.uptime();
        let tables = state.flows.load();
        let mut groups: Vec<GroupStatus> =
            tables.groups().map(|group| group_status(group, &names, now)).collect();
        groups.sort_by_key(|group| group.id);
        Ok(FlowReply::Groups { groups })
    }

    pub(super) fn dump_meters(&self, bridge: &PortName) -> Result<FlowReply, Refusal> {
        let now = self.uptime();
        let tables = self.bridge_of(bridge)?.1.flows.load();
        let mut meters: Vec<MeterStatus> = tables.meters().map(|meter| meter_status(meter, now)).collect();
        meters.sort_by_key(|meter| meter.id);
        Ok(FlowReply::Meters { meters })
    }
}

fn status(rule: &Rule, dump: &Dump, now: Duration) -> RuleStatus {
    let counted = rule.stats();
    let since = |then: Duration| now.saturating_sub(then);
    // Dumps have milliseconds, as Open vSwitch's have.
    let duration = Duration::from_millis(since(rule.created).as_millis() as u64);
    let stats = FlowStats {
        duration,
        packets: counted.packets,
        bytes: counted.bytes,
        idle_age: Some(since(counted.used).as_secs()),
        hard_age: Some(since(rule.last_modified()).as_secs()),
    };
    let line = rule.line();
    RuleStatus {
        table: rule.table.0,
        priority: rule.priority,
        cookie: rule.cookie,
        packets: counted.packets,
        bytes: counted.bytes,
        duration_s: seconds(duration),
        idle_age_s: seconds(since(counted.used)),
        idle_timeout: line.idle_timeout,
        hard_timeout: line.hard_timeout,
        matches: text::print_match(&rule.matches, &dump.names),
        actions: text::print_actions(&rule.actions, &dump.names),
        text: text::print_flow(line, (!dump.no_stats).then_some(&stats), &dump.names),
        owner: if rule.table < TableId::OWN { String::new() } else { dump.owners.of(rule.cookie) },
    }
}

/// To the millisecond.
fn seconds(time: Duration) -> f64 {
    time.as_millis() as f64 / 1000.0
}

fn group_status(group: &Group, names: &Names, now: Duration) -> GroupStatus {
    let spec = group.spec();
    let written = GroupMod {
        id: spec.id,
        kind: spec.kind,
        selection: spec.selection.clone(),
        buckets: spec.buckets.clone(),
        ..GroupMod::default()
    };
    GroupStatus {
        id: spec.id,
        text: text::print_group(&written, names),
        duration_s: seconds(now.saturating_sub(group.created())),
        counted: group.stats().into(),
        buckets: (0..spec.buckets.len()).map(|at| Counted::from(group.bucket_stats(at))).collect(),
    }
}

fn meter_status(meter: &Meter, now: Duration) -> MeterStatus {
    let spec = &meter.spec;
    MeterStatus {
        id: spec.id,
        text: text::print_meter(spec),
        duration_s: seconds(now.saturating_sub(meter.created)),
        counted: meter.stats().into(),
        bands: (0..spec.bands.len()).map(|at| Counted::from(meter.band_stats(at))).collect(),
    }
}
