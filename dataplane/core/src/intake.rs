//! Which of a port's new flows are cached: all of them, unless they push out flows and are hardly ever met again.
//!
//! A port whose packets belong to more flows than any cache holds gains nothing by caching them: each new flow writes two
//! lines of memory, pushes out another one, perhaps of another port, and is gone before its next packet. Such a port's
//! packets walk, and only one in 2, 4, .. 64 of its new flows is cached, so that those with many packets get in after
//! all, and that it shows when the traffic is another one.
//!
//! Over a window of packets of the port: flows pushed out are what caching costs, hits what it gains. More than two flows
//! pushed out for each hit: half as many are cached from then on. At most one: twice as many. So a port with two packets
//! in each flow has all of them cached, and one whose cache isn't full, too.

/// Packets of a window.
const WINDOW: u32 = 16384;
/// At least one of 2^6 new flows is cached.
const LEAST: u8 = 6;

/// A port's, at one worker. See the module's text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Intake {
    /// One of 2^level new flows is cached.
    level: u8,
    misses: u32,
    packets: u32,
    hits: u32,
    pushed_out: u32,
}

impl Intake {
    /// Whether the flow of the packet that has just missed is to be cached.
    #[inline]
    pub fn takes(&mut self) -> bool {
        self.misses = self.misses.wrapping_add(1);
        self.misses & ((1 << self.level) - 1) == 0
    }

    /// A flow was pushed out for the one that was cached.
    #[inline]
    pub fn pushed_out(&mut self) {
        self.pushed_out += 1;
    }

    /// A burst is through: so many packets, of which so many hit.
    #[inline]
    pub fn note(&mut self, packets: u32, hits: u32) {
        self.packets += packets;
        self.hits += hits;
        if self.packets >= WINDOW {
            self.judge();
        }
    }

    #[cold]
    fn judge(&mut self) {
        if self.pushed_out > 2 * self.hits {
            self.level = LEAST.min(self.level + 1);
        } else if self.pushed_out <= self.hits {
            self.level = self.level.saturating_sub(1);
        }
        (self.packets, self.hits, self.pushed_out) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window in which a share of the packets hits, out of 100, and each cached flow pushes out another.
    fn window(intake: &mut Intake, percent: u32) -> usize {
        let mut taken = 0;
        for burst in 0..WINDOW / 32 {
            let hits = if burst % 100 < percent { 32 } else { 0 };
            for _ in hits..32 {
                if intake.takes() {
                    intake.pushed_out();
                    taken += 1;
                }
            }
            intake.note(32, hits);
        }
        taken
    }

    #[test]
    fn a_port_that_hits_seldom_fills_the_cache_with_a_few_of_its_flows_and_comes_back_when_it_hits() {
        let mut intake = Intake::default();
        assert_eq!(window(&mut intake, 0), WINDOW as usize);
        for _ in 0..10 {
            window(&mut intake, 0);
        }
        assert_eq!(window(&mut intake, 0), WINDOW as usize >> LEAST);
        for _ in 0..10 {
            window(&mut intake, 60);
        }
        assert_eq!(intake.level, 0);
    }

    #[test]
    fn a_port_with_one_hit_for_each_new_flow_has_all_of_them_cached() {
        let mut intake = Intake::default();
        for _ in 0..10 {
            window(&mut intake, 50);
        }
        assert_eq!(intake.level, 0);
    }

    #[test]
    fn a_port_whose_flows_push_nothing_out_has_all_of_them_cached() {
        let mut intake = Intake::default();
        for _ in 0..WINDOW {
            assert!(intake.takes());
            intake.note(1, 0);
        }
        assert_eq!(intake.level, 0);
    }
}
