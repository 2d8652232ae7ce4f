//! The root: all tables, groups and meters of one version.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use weft_flow::{Field, Fields, Match, Subfield};

use super::history::History;
use crate::classifier::Conjunction;

use super::{ChangeRecord, Group, Meter, Miss, Reach, Rule, Table, TableId};

/// All that a bridge's packets are matched against, at one moment. Immutable once published.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Which publication this is, from 1; it rises by one each time.
    pub version: u64,
    /// The user's tables and the internal one, by number.
    pub(super) users: Vec<Option<Arc<Table>>>,
    /// Weft's own, in order of their numbers.
    pub(super) own: Vec<Arc<Table>>,
    pub(super) groups: Arc<HashMap<u32, Arc<Group>>>,
    pub(super) meters: Arc<HashMap<u32, Arc<Meter>>>,
    pub(super) history: History,
    /// What packets that enter table 0 can have read: made when it is first asked for, shared by versions that agree.
    pub(super) reach: Arc<OnceLock<Arc<Reach>>>,
}

/// What a look-up found.
#[derive(Clone, Copy, Debug)]
pub struct Hit<'t> {
    /// The rule, or none.
    pub rule: Option<&'t Arc<Rule>>,
    /// By which conjunctive match it was found, if by one: `conj_id` is its id then.
    pub conjunction: Option<Conjunction>,
    /// The packet was looked up with other values of `conj_id` than its own, too: a new rule that asks for any `conj_id`
    /// can change the outcome.
    pub conjunctive: bool,
    floor: u16,
}

impl Hit<'_> {
    /// A new rule ([`ChangeRecord::Added`]) can change the outcome only if it has at least this priority.
    pub fn matters_from(&self) -> u16 {
        self.floor
    }
}

impl Tables {
    /// The rule for a packet in a table. Sets `conj_id` if a conjunctive match decides.
    pub fn lookup(&self, table: TableId, fields: &mut Fields) -> Hit<'_> {
        let Some(table) = self.table(table) else {
            return Hit { rule: None, conjunction: None, conjunctive: false, floor: 0 };
        };
        let found = table.rules.find(fields);
        if let Some(conjunction) = found.conjunction {
            Subfield::whole(Field::ConjId).set(fields, conjunction.id.into());
        }
        Hit {
            rule: found.rule.map(|(_, rule)| rule),
            conjunction: found.conjunction,
            conjunctive: found.conjunctive,
            floor: found.floor,
        }
    }

    /// The table of that number, if anything was ever said about it.
    pub fn table(&self, id: TableId) -> Option<&Arc<Table>> {
        match id < TableId::OWN {
            true => self.users.get(usize::from(id.0))?.as_ref(),
            false => self.own.get(self.own.binary_search_by_key(&id, |table| table.id).ok()?),
        }
    }

    /// Every table, in order of their numbers.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.users.iter().flatten().chain(&self.own)
    }

    /// The user's tables.
    pub fn users_tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.users.iter().flatten().filter(|table| table.id.is_users())
    }

    /// The rule with exactly this match and priority.
    pub fn rule(&self, table: TableId, priority: u16, matches: &Match) -> Option<&Arc<Rule>> {
        self.table(table)?.rules.get(priority, matches)
    }

    /// What becomes of a packet that no rule of the table matches.
    pub fn miss(&self, table: TableId) -> Miss {
        self.table(table).map_or(Miss::default(), |table| table.miss)
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.tables().map(|table| table.len()).sum()
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The group of that number.
    pub fn group(&self, id: u32) -> Option<&Arc<Group>> {
        self.groups.get(&id)
    }

    /// Every group, in no order.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.groups.values()
    }

    /// The meter of that number.
    pub fn meter(&self, id: u32) -> Option<&Arc<Meter>> {
        self.meters.get(&id)
    }

    /// Every meter, in no order.
    pub fn meters(&self) -> impl Iterator<Item = &Arc<Meter>> {
        self.meters.values()
    }

    /// What was changed after `version`, oldest first; `None` if that is too long ago to know.
    pub fn changes_since(&self, version: u64) -> Option<impl Iterator<Item = &ChangeRecord>> {
        self.history.since(version, self.version)
    }

    /// What packets that enter the table `from` can have read, and where they can go. From the first one on, they can go
    /// to a guarded port, if there is one.
    pub fn reads(&self, from: TableId) -> Arc<Reach> {
        let to_guarded = || self.table(TableId::TO_GUARDED).map(|table| table.id);
        match from == TableId::FIRST {
            true => Arc::clone(self.reach.get_or_init(|| Arc::new(Reach::compute(self, from, to_guarded())))),
            false => Arc::new(Reach::compute(self, from, None)),
        }
    }

    /// A table, to be changed.
    pub(super) fn table_mut(&mut self, id: TableId) -> &mut Table {
        let new = || Arc::new(Table::new(id));
        if id < TableId::OWN {
            let at = usize::from(id.0);
            if self.users.len() <= at {
                self.users.resize(at + 1, None);
            }
            Arc::make_mut(self.users[at].get_or_insert_with(new))
        } else {
            let at = match self.own.binary_search_by_key(&id, |table| table.id) {
                Ok(at) => at,
                Err(at) => {
                    self.own.insert(at, new());
                    at
                }
            };
            Arc::make_mut(&mut self.own[at])
        }
    }
}
