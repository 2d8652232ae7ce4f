//! Changes to security groups, one step each.

use std::collections::BTreeSet;

use super::{Acl, AclId, Group, GroupName, Prefix, Rule};
use crate::change::ChangeError;

impl Acl {
    pub(crate) fn group_mut(&mut self, name: &GroupName) -> Result<&mut Group, ChangeError> {
        let found = self.groups.iter_mut().find(|group| group.name == *name);
        found.ok_or_else(|| ChangeError::NoSuchGroup(name.clone()))
    }

    pub(crate) fn delete_group(&mut self, name: &GroupName) -> Result<(), ChangeError> {
        self.group_mut(name)?;
        self.groups.retain(|group| group.name != *name);
        Ok(())
    }

    pub(crate) fn add_rule(&mut self, group: &GroupName, rule: &Rule) -> Result<(), ChangeError> {
        self.group_mut(group)?.rules.push(rule.clone());
        Ok(())
    }

    pub(crate) fn delete_rule(&mut self, group: &GroupName, id: AclId) -> Result<(), ChangeError> {
        let rules = &mut self.group_mut(group)?.rules;
        let before = rules.len();
        rules.retain(|rule| rule.id != Some(id));
        let found = rules.len() < before;
        let none = || ChangeError::NoSuchRule { group: group.clone(), id: id.get() };
        if found { Ok(()) } else { Err(none()) }
    }

    pub(crate) fn delete_member(&mut self, group: &GroupName, member: &Prefix) -> Result<(), ChangeError> {
        match self.group_mut(group)?.members.remove(member) {
            true => Ok(()),
            false => Err(ChangeError::NoSuchMember { group: group.clone(), member: *member }),
        }
    }

    /// Groups and rules that have no number keep those that they have in `current`.
    pub(crate) fn adopt_ids(&mut self, current: &Acl) {
        let said: BTreeSet<AclId> = self.groups.iter().filter_map(|group| group.id).collect();
        for group in &mut self.groups {
            let Some(before) = current.group(&group.name) else { continue };
            group.id = group.id.or(before.id.filter(|id| !said.contains(id)));
            let said: BTreeSet<AclId> = group.rules.iter().filter_map(|rule| rule.id).collect();
            for rule in group.rules.iter_mut().filter(|rule| rule.id.is_none()) {
                let same = before.rules.iter().find(|known| known.permits_the_same(rule));
                rule.id = same.and_then(|known| known.id).filter(|id| !said.contains(id));
            }
        }
    }

    /// Gives a number to every group and rule that has none.
    pub(crate) fn assign_ids(&mut self) -> Result<(), ChangeError> {
        number(self.groups.iter_mut().map(|group| &mut group.id)).ok_or(ChangeError::NoGroupId)?;
        for group in &mut self.groups {
            let numbered = number(group.rules.iter_mut().map(|rule| &mut rule.id));
            numbered.ok_or_else(|| ChangeError::NoRuleId(group.name.clone()))?;
        }
        Ok(())
    }
}

/// One above the highest number in use, so that a number comes back late; the lowest free one when that is used up.
fn number<'a>(ids: impl Iterator<Item = &'a mut Option<AclId>>) -> Option<()> {
    let ids: Vec<&mut Option<AclId>> = ids.collect();
    if ids.iter().all(|id| id.is_some()) {
        return Some(());
    }
    let mut taken: BTreeSet<u32> = ids.iter().filter_map(|id| id.map(AclId::get)).collect();
    for id in ids.into_iter().filter(|id| id.is_none()) {
        let above = taken.last().map_or(1, |last| last + 1);
        let free = AclId::new(above).ok().or_else(|| {
            let lowest = (1..above).find(|number| !taken.contains(number))?;
            AclId::new(lowest).ok()
        })?;
        taken.insert(free.get());
        *id = Some(free);
    }
    Some(())
}
