//! How the security groups of two configurations differ.

use super::{Acl, Group};
use crate::change::Change;

/// What makes `old` equal to `new`, each with a line for people; removals first.
pub(crate) fn differences(old: &Acl, new: &Acl, add: &mut dyn FnMut(Change, String)) {
    for group in &old.groups {
        let name = &group.name;
        match new.group(name) {
            Some(next) if next.id == group.id => removed(group, next, add),
            _ => add(Change::AclGroupDel { name: name.clone() }, format!("- group {name}")),
        }
    }
    for group in &new.groups {
        let name = &group.name;
        match old.group(name).filter(|before| before.id == group.id) {
            Some(before) => added(before, group, add),
            None => {
                let bare = Group { members: Default::default(), rules: Vec::new(), ..group.clone() };
                let id = group.id.map_or(String::new(), |id| format!(" id={id}"));
                let text = format!("+ group {name}{id}");
                add(Change::AclGroupAdd { group: Box::new(bare.clone()) }, text);
                added(&bare, group, add);
            }
        }
    }
}

fn removed(group: &Group, next: &Group, add: &mut dyn FnMut(Change, String)) {
    let name = &group.name;
    for member in group.members.difference(&next.members) {
        let change = Change::AclMemberDel { group: name.clone(), member: *member };
        add(change, format!("- member {member} of group {name}"));
    }
    for rule in group.rules.iter().filter(|rule| !next.rules.contains(rule)) {
        let Some(id) = rule.id else { continue };
        let change = Change::AclRuleDel { group: name.clone(), id };
        add(change, format!("- rule {id} of group {name}: {rule}"));
    }
}

fn added(before: &Group, group: &Group, add: &mut dyn FnMut(Change, String)) {
    let name = &group.name;
    for member in group.members.difference(&before.members) {
        let change = Change::AclMemberAdd { group: name.clone(), member: *member };
        add(change, format!("+ member {member} of group {name}"));
    }
    for rule in group.rules.iter().filter(|rule| !before.rules.contains(rule)) {
        let id = rule.id.map_or(String::new(), |id| format!(" {id}"));
        let change = Change::AclRuleAdd { group: name.clone(), rule: Box::new(rule.clone()) };
        add(change, format!("+ rule{id} of group {name}: {rule}"));
    }
}
