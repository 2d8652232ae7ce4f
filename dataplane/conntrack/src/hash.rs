//! The keyed hash of a tuple: the same for both directions of a connection that isn't translated.

use weft_io::hash::folded_product as fold;

use crate::tuple::{Family, Tuple};

/// The key, spread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key([u64; 4]);

impl Key {
    pub(crate) fn new(secret: [u64; 2]) -> Key {
        let [a, b] = secret;
        Key([spread(a), spread(b), spread(a ^ 0x6a09_e667_f3bc_c908), spread(b ^ 0xbb67_ae85_84ca_a73b)])
    }

    /// The hash of a tuple in a zone.
    #[inline]
    pub(crate) fn hash(&self, tuple: &Tuple, zone: u16) -> u64 {
        let [a, b, c, d] = self.0;
        let (low, high, extra) = canonical(tuple);
        let ports = u64::from(low.1) << 48 | u64::from(high.1) << 32;
        let rest = u64::from(zone) << 16 | u64::from(tuple.protocol) << 8 | u64::from(extra);
        if tuple.family == Family::V4 {
            let addresses = (low.0 as u64) << 32 | high.0 as u64;
            return fold(fold(addresses ^ a, (ports | rest) ^ b) ^ c, d);
        }
        let near = fold(low.0 as u64 ^ a, (low.0 >> 64) as u64 ^ b);
        let far = fold(high.0 as u64 ^ c, (high.0 >> 64) as u64 ^ d);
        fold(fold(near ^ a, far.rotate_left(32) ^ (ports | rest) ^ b) ^ c, d)
    }
}

/// Both ends in an order that doesn't depend on the direction; and what else counts (an ICMP query's type).
#[inline]
fn canonical(tuple: &Tuple) -> ((u128, u16), (u128, u16), u8) {
    let (a, b, extra) = if tuple.is_icmp() {
        let kind = tuple.icmp_type().min(tuple.reversed().icmp_type());
        ((tuple.src, tuple.src_port), (tuple.dst, tuple.src_port), kind)
    } else {
        ((tuple.src, tuple.src_port), (tuple.dst, tuple.dst_port), 0)
    };
    if a <= b { (a, b, extra) } else { (b, a, extra) }
}

/// SplitMix64's finaliser.
pub(crate) fn spread(number: u64) -> u64 {
    let mut number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn tuples_that_differ_little_are_spread_evenly() {
        let mut buckets = vec![0u32; 1 << 14];
        for number in 0..1u32 << 17 {
            let (src, port) = (u128::from(0x0a00_0000 + (number >> 8)), 1024 + (number & 0xff) as u16);
            let tuple = Tuple {
                src,
                dst: 0x0b00_0001,
                src_port: port,
                dst_port: 53,
                protocol: 17,
                family: Family::V4,
            };
            let hash = Key::new([1, 2]).hash(&tuple, 1);
            buckets[(hash >> 16) as usize & 0x3fff] += 1;
        }
        // Eight on average: by chance a bucket has more than 30 once in a million tables.
        assert!(buckets.iter().all(|&load| load <= 30), "{:?}", buckets.iter().max());
        let empty = buckets.iter().filter(|&&load| load == 0).count();
        assert!(empty < 25, "{empty} are empty, where 5.5 are expected");
    }

    #[test]
    fn both_directions_hash_alike_and_zones_and_ports_do_not() {
        let key = Key::new([1, 2]);
        let udp = Tuple { src: 1, dst: 2, src_port: 3, dst_port: 4, protocol: 17, family: Family::V4 };
        let ping = Tuple { protocol: 1, src_port: 9, dst_port: Tuple::icmp(8, 0), ..udp };
        let six = Tuple { src: 1 << 100, dst: 1 << 90, family: Family::V6, ..udp };
        for tuple in [udp, ping, six] {
            assert_eq!(key.hash(&tuple, 5), key.hash(&tuple.reversed(), 5), "{tuple}");
            assert_ne!(key.hash(&tuple, 5), key.hash(&tuple, 6));
        }
        let mut seen = HashSet::new();
        for port in 0..60_000 {
            assert!(seen.insert(key.hash(&Tuple { src_port: port, ..udp }, 5)));
        }
    }
}
