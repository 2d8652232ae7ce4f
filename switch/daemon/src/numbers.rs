//! Numbers that the dataplane knows things by: the lowest free one each time.

use std::collections::BTreeSet;

/// Numbers from 0 to a limit, of which some are taken.
#[derive(Debug)]
pub struct Numbers {
    taken: BTreeSet<u16>,
    limit: u16,
}

impl Numbers {
    /// `limit` free numbers, from 0 on.
    pub fn new(limit: usize) -> Self {
        Numbers { taken: BTreeSet::new(), limit: u16::try_from(limit).unwrap_or(u16::MAX) }
    }

    /// Takes the lowest free one.
    pub fn take(&mut self) -> Option<u16> {
        let free = (0..self.limit).find(|number| !self.taken.contains(number))?;
        self.taken.insert(free);
        Some(free)
    }

    /// Gives one back.
    pub fn give(&mut self, number: u16) {
        self.taken.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_comes_next() {
        let mut numbers = Numbers::new(3);
        assert_eq!(
            (numbers.take(), numbers.take(), numbers.take(), numbers.take()),
            (Some(0), Some(1), Some(2), None)
        );
        numbers.give(1);
        assert_eq!(numbers.take(), Some(1));
    }
}
