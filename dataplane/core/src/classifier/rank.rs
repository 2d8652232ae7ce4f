//! The order of rules: by priority, and of equals the first.

/// A rule's place in its table: no two have the same one. The higher wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Rank(u64);

/// So many rules can be added to a table in its life: at a million a second, nine years.
const NUMBERS: u64 = (1 << 48) - 1;

impl Rank {
    /// Below every rule's.
    pub(crate) const NONE: Rank = Rank(0);

    /// That of the rule which is the `number`th to be added, from 1.
    pub(crate) fn new(priority: u16, number: u64) -> Rank {
        Rank(u64::from(priority) << 48 | NUMBERS.saturating_sub(number).max(1))
    }

    /// The priority.
    #[inline]
    pub(crate) fn priority(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// Above every rule of this one's priority.
    #[inline]
    pub(crate) fn first(self) -> Rank {
        Rank(self.0 | NUMBERS)
    }
}
