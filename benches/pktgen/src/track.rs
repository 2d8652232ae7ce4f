//! Which sequence numbers have arrived: one bit each, and the highest of each flow.
//!
//! Reordered is a packet that comes after one of its flow with a higher number (RFC 4737, section 3); packets of different
//! flows have no order among them. A number that comes again is a duplicate, and never reordered.

/// Counts what arrived.
#[derive(Clone, Debug)]
pub struct Tracker {
    seen: Vec<u64>,
    /// Per flow: the highest number seen, plus 1; 0 before the first.
    next: Vec<u64>,
    /// Different numbers.
    pub received: u64,
    /// Numbers that came again.
    pub duplicated: u64,
    /// Numbers that came after a higher one of their flow.
    pub reordered: u64,
}

impl Tracker {
    /// Nothing has arrived yet, of any of `flows` flows.
    pub fn new(flows: u32) -> Self {
        Tracker {
            seen: Vec::new(),
            next: vec![0; flows.max(1) as usize],
            received: 0,
            duplicated: 0,
            reordered: 0,
        }
    }

    /// Takes note of one arrival. The caller knows that `sequence` was sent, which bounds the memory: one bit for each
    /// number up to the highest.
    #[inline]
    pub fn insert(&mut self, sequence: u64) {
        let (word, bit) = ((sequence / 64) as usize, 1u64 << (sequence % 64));
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        let Some(word) = self.seen.get_mut(word) else { return };
        if *word & bit != 0 {
            self.duplicated += 1;
            return;
        }
        *word |= bit;
        self.received += 1;
        let flow = (sequence % self.next.len() as u64) as usize;
        let Some(next) = self.next.get_mut(flow) else { return };
        self.reordered += u64::from(sequence < *next);
        *next = (*next).max(sequence + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(flows: u32, arrivals: &[u64]) -> (u64, u64, u64) {
        let mut tracker = Tracker::new(flows);
        arrivals.iter().for_each(|&sequence| tracker.insert(sequence));
        (tracker.received, tracker.duplicated, tracker.reordered)
    }

    #[test]
    fn what_comes_in_order_is_received_once() {
        assert_eq!(counts(1, &[0, 1, 2, 5, 130]), (5, 0, 0));
    }

    #[test]
    fn a_late_packet_is_reordered_and_a_second_copy_is_a_duplicate() {
        assert_eq!(counts(1, &[0, 2, 1, 1, 3, 0]), (4, 2, 1));
    }

    #[test]
    fn flows_have_no_order_among_them() {
        assert_eq!(counts(2, &[1, 0, 3, 2]), (4, 0, 0));
        assert_eq!(counts(2, &[3, 1, 2, 0]), (4, 0, 2));
    }

    proptest! {
        #[test]
        fn counts_equal_those_of_a_set_and_a_scan(flows in 1u32..5, arrivals in prop::collection::vec(0u64..300, 0..400)) {
            let mut set = std::collections::BTreeSet::new();
            let (mut duplicated, mut reordered) = (0, 0);
            for &sequence in &arrivals {
                let later = set.iter().any(|&other| other > sequence && (other - sequence) % u64::from(flows) == 0);
                match set.insert(sequence) {
                    true => reordered += u64::from(later),
                    false => duplicated += 1,
                }
            }
            prop_assert_eq!(counts(flows, &arrivals), (set.len() as u64, duplicated, reordered));
        }
    }
}
