//! Cookies of weft's own rules: they say which group and rule, or which port, a rule is there for.

use weft_config::Config;
use weft_config::acl::{Group, GroupName};
use weft_wire::OfPort;

/// Whose a rule of weft's own tables is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cookie {
    /// Everybody's.
    Fixed,
    /// A group's rule, both by number.
    Rule(u16, u16),
    /// A port's: what it may send from, and where its groups begin.
    Port(OfPort),
    /// Of ports that are bound to the same groups in the same way.
    Profile(u32),
    /// Of addresses that are members of the same groups.
    Class(u32),
    /// Of ports with `acl_egress=open`.
    Open(u32),
}

/// The uppermost 16 bits, the kind left out.
const MARK: u64 = 0xac10;

impl Cookie {
    /// As rules have it: `0xac11_gggg_rrrr_0000` is rule `r` of group `g`.
    pub fn number(self) -> u64 {
        let (kind, rest) = match self {
            Cookie::Fixed => (0, 0),
            Cookie::Rule(group, rule) => (1, u64::from(group) << 32 | u64::from(rule) << 16),
            Cookie::Port(port) => (2, port.0.into()),
            Cookie::Profile(profile) => (3, profile.into()),
            Cookie::Class(class) => (4, class.into()),
            Cookie::Open(profile) => (5, profile.into()),
        };
        (MARK | kind) << 48 | rest
    }

    /// What a rule's cookie says, if it is one of these.
    pub fn of(number: u64) -> Option<Cookie> {
        let low = number as u32;
        Some(match (number >> 48).checked_sub(MARK)? {
            0 => Cookie::Fixed,
            1 => Cookie::Rule((number >> 32) as u16, (number >> 16) as u16),
            2 => Cookie::Port(OfPort(number as u16)),
            3 => Cookie::Profile(low),
            4 => Cookie::Class(low),
            5 => Cookie::Open(low),
            _ => return None,
        })
    }
}

/// The group of that number.
pub fn group(config: &Config, id: u16) -> Option<&Group> {
    config.acl.groups.iter().find(|group| group.id.is_some_and(|known| known.get() == u32::from(id)))
}

/// Names with commas in between.
pub fn names<'a>(names: impl Iterator<Item = &'a GroupName>) -> String {
    names.map(GroupName::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_says_what_it_was_made_of() {
        let all = [
            Cookie::Fixed,
            Cookie::Rule(0xffff, 1),
            Cookie::Rule(1, 0xffff),
            Cookie::Port(OfPort(7)),
            Cookie::Profile(u32::MAX),
            Cookie::Class(3),
            Cookie::Open(4),
        ];
        for cookie in all {
            assert_eq!(Cookie::of(cookie.number()), Some(cookie));
        }
        assert_eq!(Cookie::Rule(2, 3).number(), 0xac11_0002_0003_0000);
        assert_eq!((Cookie::of(0), Cookie::of(0xac16 << 48), Cookie::of(u64::MAX)), (None, None, None));
    }
}
