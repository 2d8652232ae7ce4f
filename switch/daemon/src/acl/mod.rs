//! Port security and security groups: from the configuration to rules of weft's own tables.
//!
//! ```text
//!  Config ── plan ─▶ units ── compiled ─▶ what differs ── rules ─▶ changes of flow tables
//! ```
//!
//! Rules come before the ports that they guard are published as guarded, and those of ports that are guarded no longer go
//! behind that; all else changes at once. At no time does a packet of a bound port pass that neither the old groups nor
//! the new ones permit. Belongs to the control thread.

mod compiled;
pub mod cookie;
mod plan;
mod refused;
mod rules;
mod show;

pub use compiled::{Changes, Compiled};
pub use plan::{Numbering, Unit, guard, units};
pub use rules::OwnRule;
pub(crate) use show::Owners;

use std::collections::{BTreeMap, BTreeSet};

use weft_config::Config;
use weft_config::model::Bridge;
use weft_core::tables::Change;
use weft_wire::PortName;

use crate::switch::Switch;
use cookie::Cookie;

/// What the switch keeps of all this.
#[derive(Debug, Default)]
pub(crate) struct Acl {
    bridges: BTreeMap<PortName, Guarded>,
}

/// A bridge with guarded ports.
#[derive(Debug, Default)]
struct Guarded {
    /// The uppermost four bits of its zones; 0 while no port is bound.
    zones: u8,
    compiled: Compiled,
}

/// What is still to be removed, by bridge.
pub(crate) type Removals = Vec<(PortName, Vec<Change>)>;

impl Acl {
    /// The zones of a bridge of `config`: four bits that no other bridge has.
    fn zones(&self, bridge: &Bridge, config: &Config) -> u8 {
        let has_zones = |bridge: &Bridge| bridge.ports.iter().any(|port| guard(port).to);
        if !has_zones(bridge) {
            return 0;
        }
        match self.bridges.get(&bridge.name).map(|guarded| guarded.zones) {
            Some(zones) if zones != 0 => zones,
            _ => {
                let stay: BTreeSet<&PortName> =
                    config.bridges.iter().filter(|own| has_zones(own)).map(|own| &own.name).collect();
                let is_free = |zones: &u8, of_all: bool| {
                    let mut others = self.bridges.iter().filter(|(name, _)| of_all || stay.contains(name));
                    !others.any(|(_, guarded)| guarded.zones == *zones)
                };
                // If may be, not those of a bridge that goes: its connections are there yet. Validation has counted the bridges.
                let mut all = (1..=15).rev();
                all.clone()
                    .find(|zones| is_free(zones, true))
                    .or_else(|| all.find(|zones| is_free(zones, false)))
                    .unwrap_or(15)
            }
        }
    }
}

impl Switch {
    /// Puts the rules into the tables that the configuration asks for. Those that have to go are returned: they stay until
    /// their ports are published without a guard.
    pub(crate) fn add_own_rules(&mut self) -> Removals {
        let config = std::mem::take(&mut self.config);
        let removals = self.add_rules_of(&config);
        self.config = config;
        removals
    }

    fn add_rules_of(&mut self, config: &Config) -> Removals {
        let mut removals = Vec::new();
        for bridge in &config.bridges {
            let zones = self.acl.zones(bridge, config);
            let Some(state) = self.bridges.get(&bridge.name) else { continue };
            let known = self.acl.bridges.contains_key(&bridge.name);
            if !known && !bridge.ports.iter().any(|port| guard(port).from) {
                continue;
            }
            let flows = std::sync::Arc::clone(&state.flows);
            let guarded = self.acl.bridges.entry(bridge.name.clone()).or_default();
            guarded.zones = zones;
            let next = units(config, bridge, zones, &mut guarded.compiled.numbering);
            let changes = guarded.compiled.become_units(next, &flows.load());
            guarded.compiled.forget_counts(|cookie| is_known(config, cookie));
            tracing::debug!(
                "bridge {}: {} of {} rules for guarded ports change",
                bridge.name,
                changes.len(),
                guarded.compiled.len()
            );
            self.change_own_rules(&bridge.name, &changes.now);
            removals.push((bridge.name.clone(), changes.later));
        }
        let exists = |name: &PortName| config.bridges.iter().any(|bridge| bridge.name == *name);
        self.acl.bridges.retain(|name, guarded| exists(name) && !guarded.compiled.is_empty());
        removals
    }

    /// Takes out what [`Switch::add_own_rules`] has left.
    pub(crate) fn remove_own_rules(&mut self, removals: Removals) {
        removals.iter().for_each(|(bridge, changes)| self.change_own_rules(bridge, changes));
    }

    fn change_own_rules(&mut self, bridge: &PortName, changes: &[Change]) {
        let Some(state) = self.bridges.get(bridge).filter(|_| !changes.is_empty()) else { return };
        let (id, now) = (state.id, self.start.elapsed());
        let published = self
            .datapath
            .model()
            .bridges
            .iter()
            .any(|spec| spec.id == id && std::sync::Arc::ptr_eq(&spec.flows, &state.flows));
        let changed = match published {
            true => self.datapath.change_flows(id, changes, now).err(),
            // Nobody can meet its rules yet.
            false => {
                state.flows.prepare(changes, now).map(|prepared| prepared.commit()).err().map(Into::into)
            }
        };
        if let Some(error) = changed {
            // They are weft's own, and right.
            crate::switch::fatal(&error);
        }
    }
}

/// Whether what a rule with that cookie has counted still belongs to somebody.
fn is_known(config: &Config, cookie: Cookie) -> bool {
    match cookie {
        Cookie::Rule(group, rule) => {
            let rules = cookie::group(config, group).map(|group| group.rules.as_slice()).unwrap_or_default();
            rules.iter().any(|own| own.id.is_some_and(|id| id.get() == u32::from(rule)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
