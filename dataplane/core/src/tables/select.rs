//! Which rules a filter is about: what `ovs-ofctl dump-flows` lists.

use std::sync::Arc;

use weft_flow::message::FlowMod;

use super::flows::{outputs_to, uses_group};
use super::{Rule, Table, TableId, Tables};

/// Which tables are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    /// Those that the filter names: one, or every user's.
    Filter,
    /// This one, be it internal or weft's own.
    Table(TableId),
    /// All, weft's own as well.
    All,
}

impl Tables {
    /// The rules that a loose deletion of `filter` would be about, by table, the highest priority first; of equals the
    /// oldest.
    pub fn select(&self, shown: Shown, filter: &FlowMod) -> Vec<Arc<Rule>> {
        let tables: Vec<&Arc<Table>> = match (shown, filter.table) {
            (Shown::Filter, None) => self.users_tables().collect(),
            (Shown::Filter | Shown::All, Some(id)) => self.table(TableId::from(id)).into_iter().collect(),
            (Shown::All, None) => self.tables().collect(),
            (Shown::Table(id), _) => self.table(id).into_iter().collect(),
        };
        let (cookie, mask) = filter.cookie_filter;
        let wanted = |rule: &&Arc<Rule>| {
            (rule.cookie ^ cookie) & mask == 0
                && filter.out_port.is_none_or(|port| outputs_to(&rule.actions, port))
                && filter.out_group.is_none_or(|group| uses_group(&rule.actions, group))
        };
        let within = tables.iter().flat_map(|table| table.rules.within(&filter.matches));
        let mut rules: Vec<Arc<Rule>> = within.map(|(_, _, rule)| rule).filter(wanted).cloned().collect();
        rules.sort_unstable_by(|one, two| {
            let key = |rule: &Rule| (rule.table, std::cmp::Reverse(rule.priority), rule.created);
            key(one).cmp(&key(two)).then_with(|| one.matches.cmp(&two.matches))
        });
        rules
    }
}
