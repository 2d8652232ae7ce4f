//! Choosing the bits by which rules are split.
//!
//! A cut starts empty and gets the bits of one word at a time, each time those that make look-ups cheapest, until
//! nothing helps any more. What a look-up costs is guessed from a sample: the probe, the rules that share a
//! bucket, and the rest, which is looked through too unless what the table has outranks it.

use super::cut::Cut;
use super::node::{Item, LEAF};
use super::rank::Rank;

/// Rules that are looked at.
const SAMPLE: usize = 256;
/// What hashing and finding the bucket costs, in nanoseconds.
const PROBE: f32 = 8.0;
/// What comparing a rule costs.
const COMPARE: f32 = 3.0;
/// What each doubling of rules that are split further costs.
const DOUBLING: f32 = 12.0;

/// The rules of a sample, as masks and values of the words that any of them compares.
struct Sample {
    words: Vec<u8>,
    /// For each rule, mask and value of each word.
    parts: Vec<(u64, u64)>,
    ranks: Vec<Rank>,
    /// How many rules one of the sample stands for.
    scale: f32,
}

/// A cut on trial.
#[derive(Clone)]
struct Trial {
    cut: Cut,
    /// For each rule of the sample: what its values in the cut's bits amount to, if it compares all of them.
    keys: Vec<Option<u64>>,
    cost: f32,
}

/// The best cut for these rules, if any is better than going through them one by one.
pub(super) fn cut<V>(items: &[&Item<V>]) -> Option<Cut> {
    let best = Sample::of(items).best();
    let linear = COMPARE * items.len() as f32;
    (best.cost < 0.9 * linear && !best.cut.bits().is_empty()).then_some(best.cut)
}

/// A cut for these rules that is much better than `current`.
pub(super) fn better<V>(items: &[&Item<V>], current: &Cut) -> Option<Cut> {
    let sample = Sample::of(items);
    let (mut now, mut scratch) = (sample.start(), Vec::new());
    for (word, bits) in current.bits() {
        let Some(place) = sample.words.iter().position(|own| own == word) else { continue };
        let cost = sample.cost_with(&now, place, *bits, &mut scratch);
        now = sample.add(&now, place, *bits, cost);
    }
    let best = sample.best();
    (best.cost < 0.8 * now.cost && !best.cut.bits().is_empty()).then_some(best.cut)
}

impl Sample {
    fn of<V>(items: &[&Item<V>]) -> Sample {
        let chosen = || items.iter().step_by(items.len().div_ceil(SAMPLE).max(1));
        let mut words: Vec<u8> =
            chosen().flat_map(|item| item.matches.terms().iter().map(|term| term.word)).collect();
        words.sort_unstable();
        words.dedup();
        let parts = chosen().flat_map(|item| words.iter().map(|word| item.matches.part(*word))).collect();
        let ranks: Vec<Rank> = chosen().map(|item| item.rank).collect();
        let scale = items.len() as f32 / ranks.len().max(1) as f32;
        Sample { words, parts, ranks, scale }
    }

    fn start(&self) -> Trial {
        let all = self.ranks.len() as f32 * self.scale;
        Trial { cut: Cut::default(), keys: vec![Some(0); self.ranks.len()], cost: COMPARE * all }
    }

    fn best(&self) -> Trial {
        let (mut best, mut scratch) = (self.start(), Vec::new());
        loop {
            let mut next: Option<(usize, u64, f32)> = None;
            for (place, word) in self.words.iter().enumerate() {
                if !best.cut.has_room(*word) {
                    continue;
                }
                for bits in self.candidates(&best, place) {
                    let cost = self.cost_with(&best, place, bits, &mut scratch);
                    if next.is_none_or(|(.., lowest)| cost < lowest) {
                        next = Some((place, bits, cost));
                    }
                }
            }
            match next {
                Some((place, bits, cost)) if cost < 0.97 * best.cost => {
                    best = self.add(&best, place, bits, cost);
                }
                _ => return best,
            }
        }
    }

    fn part(&self, rule: usize, place: usize) -> (u64, u64) {
        self.parts.get(rule * self.words.len() + place).copied().unwrap_or((0, 0))
    }

    /// Bits of a word that might be worth adding: what all, most, or some of the rules compare, as a whole and by
    /// sixteen bits; and the commonest masks.
    fn candidates(&self, trial: &Trial, place: usize) -> Vec<u64> {
        let mut counts = [0_u32; 64];
        let mut masks: Vec<u64> = Vec::with_capacity(trial.keys.len());
        for (rule, _) in trial.keys.iter().enumerate().filter(|(_, key)| key.is_some()) {
            let (mask, _) = self.part(rule, place);
            masks.push(mask);
            let mut left = mask;
            while left != 0 {
                counts[left.trailing_zeros() as usize] += 1;
                left &= left - 1;
            }
        }
        let read_by = |percent: usize| {
            let enough = (masks.len() * percent).div_ceil(100).max(1) as u32;
            counts.iter().enumerate().fold(0, |bits, (bit, count)| bits | u64::from(*count >= enough) << bit)
        };
        let mut found: Vec<u64> = [100, 90, 75, 50, 25].map(read_by).to_vec();
        found.extend(
            [50, 90]
                .map(read_by)
                .iter()
                .flat_map(|bits| (0..4).map(move |lane| bits & 0xffff << (16 * lane))),
        );
        masks.sort_unstable();
        let mut common: Vec<(usize, u64)> = masks
            .chunk_by(|a, b| a == b)
            .map(|same| (same.len(), same.first().copied().unwrap_or(0)))
            .collect();
        common.sort_unstable_by(|a, b| b.cmp(a));
        found.extend(common.iter().take(4).map(|(_, mask)| *mask));
        let word = self.words.get(place).copied().unwrap_or(0);
        let known = trial.cut.bits().iter().find(|(own, _)| *own == word).map_or(0, |(_, bits)| *bits);
        found.retain(|bits| bits & !known != 0);
        found.sort_unstable_by_key(|bits| std::cmp::Reverse((bits.count_ones(), *bits)));
        found.dedup();
        found
    }

    /// The trial with some bits more, which was found to cost so much.
    fn add(&self, trial: &Trial, place: usize, bits: u64, cost: f32) -> Trial {
        let keys = (0..trial.keys.len()).map(|rule| self.key(trial, rule, place, bits)).collect();
        let mut cut = trial.cut.clone();
        cut.add(self.words.get(place).copied().unwrap_or(0), bits);
        Trial { cut, keys, cost }
    }

    /// A rule's key with these bits more.
    #[inline]
    fn key(&self, trial: &Trial, rule: usize, place: usize, bits: u64) -> Option<u64> {
        let key = trial.keys.get(rule).copied().flatten()?;
        let (mask, value) = self.part(rule, place);
        (mask & bits == bits).then(|| mixed(key, value & bits))
    }

    /// What a look-up costs in the mean with these bits more, for packets that hit one of the rules. A cut that leaves nearly
    /// as much to do is no use, unless it takes some rules off that it tells well apart.
    fn cost_with(&self, trial: &Trial, place: usize, bits: u64, scratch: &mut Vec<u64>) -> f32 {
        scratch.clear();
        // Ranks of the rest's best, and how many inside that can't keep it from being looked at.
        let mut highest = Rank::NONE;
        for (rule, rank) in self.ranks.iter().enumerate() {
            match self.key(trial, rule, place, bits) {
                Some(key) => scratch.push(key),
                None => highest = highest.max(*rank),
            }
        }
        if scratch.is_empty() {
            return f32::MAX;
        }
        let (table, all) = (scratch.len() as f32, self.ranks.len() as f32);
        let rest = all - table;
        let below = self.ranks.iter().filter(|rank| **rank < highest).count() as f32;
        let outranked = (below - rest).max(0.25 * table).min(table);
        scratch.sort_unstable();
        let squares: usize = scratch.chunk_by(|a, b| a == b).map(|same| same.len() * same.len()).sum();
        let bucket = 1.0 + (squares as f32 / table - 1.0) * self.scale;
        let separated = (squares as f32 / table + rest) < 0.95 * all;
        let chipped_off = table * self.scale > leaf() && squares as f32 <= table * table / 8.0;
        if !separated && !chipped_off {
            return f32::MAX;
        }
        let beside = if rest > 0.0 { guess(rest * self.scale) * (rest + outranked) / all } else { 0.0 };
        PROBE + guess(bucket) + beside
    }
}

/// What so many rules cost that are split further if they are many.
fn guess(rules: f32) -> f32 {
    let leaf = leaf();
    if rules <= leaf { COMPARE * rules + 1.0 } else { COMPARE * leaf + DOUBLING * (rules / leaf).log2() }
}

fn leaf() -> f32 {
    LEAF as f32
}

fn mixed(key: u64, value: u64) -> u64 {
    let word = (key ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word ^ word >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ key.rotate_left(17)
}
