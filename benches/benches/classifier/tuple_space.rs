//! The design that was not taken: tuple space search, as Open vSwitch has it. A hash table for each mask, the masks in
//! the order of their highest priority, and prefix tries on addresses and ports that say which prefix lengths can match.
//!
//! It is for figures only: changed in place, not persistent, without Open vSwitch's stages (they keep megaflows wide, they don't
//! make a look-up faster).

use std::collections::HashMap;

use hashbrown::HashTable;
use weft_flow::{Field, Fields, Match, Subfield};

struct Tuple {
    terms: Vec<(u8, u64)>,
    max: u64,
    /// The prefix length that it has in each trie's field; 0: not a prefix, or none.
    prefixes: [u8; TRIES],
    rules: HashTable<Entry>,
}

struct Entry {
    hash: u64,
    rank: u64,
    matches: Match,
    value: u32,
}

const TRIES: usize = 4;
const FIELDS: [Field; TRIES] = [Field::IpSrc, Field::IpDst, Field::TcpSrc, Field::TcpDst];

pub struct TupleSpace {
    tuples: Vec<Tuple>,
    tries: [Trie; TRIES],
    use_tries: bool,
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl Tuple {
    #[inline]
    fn hash(&self, fields: &Fields) -> u64 {
        let mut hash = 0;
        let mut key = 0x9e37_79b9_7f4a_7c15_u64;
        for (word, mask) in &self.terms {
            hash ^= fold(fields.0[usize::from(*word)] & mask ^ key, 0xbf58_476d_1ce4_e5b9 ^ key);
            key = key.rotate_left(11);
        }
        hash
    }
}

impl TupleSpace {
    pub fn new(rules: &[(u16, Match)], use_tries: bool) -> TupleSpace {
        let mut tuples: Vec<Tuple> = Vec::new();
        let mut places: HashMap<Fields, usize> = HashMap::new();
        let mut tries: [Trie; TRIES] = Default::default();
        for (number, (priority, matches)) in rules.iter().enumerate() {
            let rank = (u64::from(*priority) << 48) | ((u64::MAX >> 16) - number as u64);
            let place = *places.entry(matches.mask()).or_insert_with(|| {
                let prefixes = FIELDS.map(|field| prefix_length(matches, field));
                let terms = matches.terms().iter().map(|term| (term.word, term.mask)).collect();
                tuples.push(Tuple { terms, max: 0, prefixes, rules: HashTable::new() });
                tuples.len() - 1
            });
            let tuple = &mut tuples[place];
            tuple.max = tuple.max.max(rank);
            let value = matches.value();
            for ((trie, field), bits) in tries.iter_mut().zip(FIELDS).zip(tuple.prefixes) {
                if bits > 0 {
                    trie.insert(left_aligned(&value, field), bits);
                }
            }
            let entry =
                Entry { hash: tuple.hash(&value), rank, matches: matches.clone(), value: number as u32 };
            tuple.rules.insert_unique(entry.hash, entry, |entry| entry.hash);
        }
        tuples.sort_by_key(|tuple| std::cmp::Reverse(tuple.max));
        TupleSpace { tuples, tries, use_tries }
    }

    pub fn lookup(&self, fields: &Fields) -> Option<u32> {
        let mut best = (0, None);
        let mut lengths = [None; TRIES];
        for tuple in &self.tuples {
            if tuple.max <= best.0 {
                break;
            }
            if self.use_tries && self.ruled_out(tuple, fields, &mut lengths) {
                continue;
            }
            let hash = tuple.hash(fields);
            // Rules of one mask and value at several priorities: the best of them.
            for entry in tuple.rules.iter_hash(hash) {
                if entry.rank > best.0 && entry.matches.covers(fields) {
                    best = (entry.rank, Some(entry.value));
                }
            }
        }
        best.1
    }

    #[inline]
    fn ruled_out(&self, tuple: &Tuple, fields: &Fields, lengths: &mut [Option<u64>; TRIES]) -> bool {
        tuple.prefixes.iter().zip(lengths).enumerate().any(|(number, (bits, lengths))| {
            *bits > 0 && {
                let known = lengths
                    .get_or_insert_with(|| self.tries[number].lengths(left_aligned(fields, FIELDS[number])));
                *known >> bits & 1 == 0
            }
        })
    }
}

/// The field's value in the highest bits of a word.
fn left_aligned(fields: &Fields, field: Field) -> u32 {
    let segment = field.info().segments[0];
    let value = (fields.0[usize::from(segment.word)] & segment.mask()) >> segment.shift;
    (value as u32) << (32 - segment.bits)
}

fn prefix_length(matches: &Match, field: Field) -> u8 {
    let mask = Subfield::whole(field).get(&matches.mask()) as u32;
    let mask = mask << (32 - u32::from(field.info().bits));
    if mask.leading_ones() == mask.count_ones() { mask.leading_ones() as u8 } else { 0 }
}

/// A path-compressed binary trie of prefixes.
#[derive(Default)]
struct Trie {
    nodes: Vec<TrieNode>,
}

#[derive(Clone, Copy, Default)]
struct TrieNode {
    /// The bits from the top down to this node.
    prefix: u32,
    bits: u8,
    is_rule: bool,
    children: [Option<u32>; 2],
}

fn top(value: u32, bits: u8) -> u32 {
    value & !u32::MAX.checked_shr(u32::from(bits)).unwrap_or(0)
}

fn bit(value: u32, at: u8) -> usize {
    (value << at >> 31) as usize
}

impl Trie {
    fn insert(&mut self, value: u32, bits: u8) {
        if self.nodes.is_empty() {
            self.nodes.push(TrieNode::default());
        }
        let (value, mut at) = (top(value, bits), 0);
        loop {
            let node = self.nodes[at];
            if node.bits == bits {
                self.nodes[at].is_rule = true;
                return;
            }
            let side = bit(value, node.bits);
            let Some(next) = node.children[side] else {
                self.nodes.push(TrieNode { prefix: value, bits, is_rule: true, children: [None; 2] });
                self.nodes[at].children[side] = Some(self.nodes.len() as u32 - 1);
                return;
            };
            let child = self.nodes[next as usize];
            let same = ((child.prefix ^ value).leading_zeros() as u8).min(child.bits).min(bits);
            if same < child.bits {
                let mut middle =
                    TrieNode { prefix: top(value, same), bits: same, is_rule: false, children: [None; 2] };
                middle.children[bit(child.prefix, same)] = Some(next);
                self.nodes.push(middle);
                self.nodes[at].children[side] = Some(self.nodes.len() as u32 - 1);
                at = self.nodes.len() - 1;
            } else {
                at = next as usize;
            }
        }
    }

    /// A bit for each length of a prefix that the value has.
    fn lengths(&self, value: u32) -> u64 {
        let mut found = 0;
        let mut next = self.nodes.first();
        while let Some(node) = next {
            if top(value, node.bits) != node.prefix {
                break;
            }
            found |= u64::from(node.is_rule) << node.bits;
            if node.bits == 32 {
                break;
            }
            next = node.children[bit(value, node.bits)].and_then(|at| self.nodes.get(at as usize));
        }
        found
    }
}
