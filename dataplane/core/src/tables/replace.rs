//! All rules of some tables at once: `replace-flows` and `diff-flows` of ovs-ofctl(8).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use weft_flow::Match;
use weft_flow::message::{FlowCommand, FlowFlags, FlowMod};

use super::error::ChangeError;
use super::flows::Scope;
use super::{FlowTables, Prepared, RemovedReason, Rule, TableId, Tables};

/// Which tables are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Every user's table; each flow names its own.
    Users,
    /// This one alone, be it internal or weft's own; the flows' own tables are not looked at.
    Table(TableId),
}

/// How the rules differ from flows that are wanted.
#[derive(Clone, Debug)]
pub enum Difference {
    /// No such rule: the flow in that place, from 0.
    Missing(usize),
    /// A rule that no flow asks for.
    Surplus(Arc<Rule>),
    /// A rule of the same table, priority and match, with something else about it.
    Changed {
        /// The rule.
        rule: Arc<Rule>,
        /// The place of the flow.
        flow: usize,
    },
}

impl FlowTables {
    /// Makes ready that these flows, and no others, are the rules of some tables. Rules that are already so are not
    /// touched, and keep their counters. Of flows with the same table, priority and match the last one counts; their
    /// `command` is not looked at.
    ///
    /// Holds the writer's lock until it is committed or dropped. Errors: the first flow that can't be, and why.
    pub fn replace(
        &self,
        extent: Extent,
        flows: &[FlowMod],
        now: Duration,
    ) -> Result<Prepared<'_>, ChangeError> {
        let mut draft = self.draft(self.lock(), now);
        let differences = draft.next.diff(extent, flows);
        // Room first.
        for difference in &differences {
            if let Difference::Surplus(rule) = difference {
                draft.remove(rule, RemovedReason::Delete);
            }
        }
        for difference in &differences {
            let (Difference::Missing(index) | Difference::Changed { flow: index, .. }) = *difference else {
                continue;
            };
            let Some(flow) = flows.get(index) else { continue };
            let add = FlowMod { command: FlowCommand::Add, ..flow.clone() };
            draft.flow(extent.scope(), &add).map_err(|why| ChangeError { index, why })?;
        }
        draft.remove_forsaken();
        Ok(self.prepared(draft))
    }
}

impl Extent {
    fn scope(self) -> Scope {
        match self {
            Extent::Users => Scope::Users,
            Extent::Table(id) => Scope::Table(id),
        }
    }

    fn table_of(self, flow: &FlowMod) -> TableId {
        match self {
            Extent::Users => flow.table.map_or(TableId::FIRST, TableId::from),
            Extent::Table(id) => id,
        }
    }
}

impl Tables {
    /// How the rules of some tables differ from what is wanted: first what is missing or changed, in the flows' order.
    pub fn diff(&self, extent: Extent, flows: &[FlowMod]) -> Vec<Difference> {
        let mut wanted: HashMap<(TableId, u16, &Match), usize> = HashMap::with_capacity(flows.len());
        for (at, flow) in flows.iter().enumerate() {
            wanted.insert((extent.table_of(flow), flow.priority, &flow.matches), at);
        }
        let mut differences = Vec::new();
        for (at, flow) in flows.iter().enumerate() {
            let table = extent.table_of(flow);
            if wanted.get(&(table, flow.priority, &flow.matches)) != Some(&at) {
                continue;
            }
            match self.rule(table, flow.priority, &flow.matches) {
                Some(rule) if is_as(rule, flow) => {}
                Some(rule) => differences.push(Difference::Changed { rule: Arc::clone(rule), flow: at }),
                None => differences.push(Difference::Missing(at)),
            }
        }
        let all = match extent {
            Extent::Users => self.users_tables().collect(),
            Extent::Table(id) => self.table(id).into_iter().collect::<Vec<_>>(),
        };
        let surplus = all.iter().flat_map(|table| table.rules());
        let surplus =
            surplus.filter(|rule| !wanted.contains_key(&(rule.table, rule.priority, &rule.matches)));
        differences.extend(surplus.cloned().map(Difference::Surplus));
        differences
    }
}

fn is_as(rule: &Rule, flow: &FlowMod) -> bool {
    // Two flags are about the moment of adding.
    let lasting = |flags: FlowFlags| FlowFlags { check_overlap: false, reset_counts: false, ..flags };
    rule.cookie == flow.cookie.unwrap_or(0)
        && rule.idle_timeout() == flow.idle_timeout
        && rule.hard_timeout() == flow.hard_timeout
        && rule.importance == flow.importance
        && lasting(rule.flags) == lasting(flow.flags)
        && *rule.actions == *flow.actions
}
