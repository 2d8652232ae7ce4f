//! Counters, in stripes, so that workers don't share a cache line.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::control::Statistics;
use crate::request::Refusal;

const STRIPES: usize = 8;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Count {
    Created = 0,
    Expired,
    Flushed,
    Replaced,
    EarlyDrop,
    RefusedFull,
    RefusedZone,
    RefusedNat,
    RefusedClash,
    Expected,
    RefusedExpectations,
    Invalid,
}

impl From<Refusal> for Count {
    fn from(refusal: Refusal) -> Count {
        match refusal {
            Refusal::Full => Count::RefusedFull,
            Refusal::ZoneLimit => Count::RefusedZone,
            Refusal::NatExhausted => Count::RefusedNat,
            Refusal::Clash => Count::RefusedClash,
        }
    }
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Stripe([AtomicU64; 12]);

/// All counters.
#[derive(Debug, Default)]
pub(crate) struct Tally([Stripe; STRIPES]);

impl Tally {
    /// Counts `n`; `hint` chooses the stripe.
    pub fn add(&self, hint: usize, count: Count, n: u64) {
        // The remainder keeps it in range.
        self.0[hint % STRIPES].0[count as usize].fetch_add(n, Ordering::Relaxed);
    }

    fn get(&self, count: Count) -> u64 {
        self.0.iter().map(|stripe| stripe.0[count as usize].load(Ordering::Relaxed)).sum()
    }

    /// What was counted.
    pub fn read(&self) -> Statistics {
        Statistics {
            created: self.get(Count::Created),
            expired: self.get(Count::Expired),
            flushed: self.get(Count::Flushed),
            replaced: self.get(Count::Replaced),
            early_drop: self.get(Count::EarlyDrop),
            refused_full: self.get(Count::RefusedFull),
            refused_zone: self.get(Count::RefusedZone),
            refused_nat: self.get(Count::RefusedNat),
            refused_clash: self.get(Count::RefusedClash),
            expected: self.get(Count::Expected),
            refused_expectations: self.get(Count::RefusedExpectations),
            invalid: self.get(Count::Invalid),
            ..Statistics::default()
        }
    }
}
