//! Where counts go when a program's packets are settled: rules, buckets, patch ports, the log of drops; and what its
//! packets keep alive.

use std::time::Duration;

use crate::counters::Counters;
use crate::program::Tally;
use crate::shared::Shared;
use crate::tables::LearnResult;
use crate::why::DropLog;

/// See the module's text. Made for one settling.
#[derive(Debug)]
pub struct Ledger<'a> {
    counters: &'a Counters,
    shared: &'a Shared,
    drops: &'a mut DropLog,
    now: Duration,
    second: u32,
}

impl<'a> Ledger<'a> {
    /// Of a worker with these counters and this log, as of now.
    pub fn of(
        (counters, drops): (&'a Counters, &'a mut DropLog),
        shared: &'a Shared,
        now: Duration,
        second: u32,
    ) -> Self {
        Ledger { counters, shared, drops, now, second }
    }

    /// Enters what a program has counted.
    pub fn enter(&mut self, tally: &Tally<'_>) {
        let (packets, bytes) = (tally.packets, tally.bytes);
        for rule in &tally.verdict.rules {
            rule.count(packets, bytes, self.now);
        }
        self.drops.enter(tally, self.second);
        for chosen in &tally.verdict.buckets {
            match chosen.bucket {
                Some(bucket) => chosen.group.count_bucket(bucket, packets, bytes),
                None => chosen.group.count(packets, bytes),
            }
        }
        for &(out, peer) in &tally.verdict.patches {
            let (out, peer) = (self.counters.port(out), self.counters.port(peer));
            out.tx_packets.add(packets);
            out.tx_bytes.add(bytes);
            peer.rx_packets.add(packets);
            peer.rx_bytes.add(bytes);
        }
        for dep in &tally.verdict.young {
            self.shared.epochs.stamp(dep.cell, self.second);
        }
        for learned in &tally.verdict.learned {
            // If somebody else is writing, the next packets say it again.
            if learned.tables.learn(&learned.rule, learned.limit, self.now) == LearnResult::Made {
                self.shared.epochs.publish();
            }
        }
    }
}
