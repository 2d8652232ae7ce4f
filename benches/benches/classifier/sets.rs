//! Rule sets and the traffic for them.

use weft_flow::{Field, Fields, Match};

use crate::dice::Dice;

/// A table's rules.
pub struct Set {
    pub name: String,
    pub rules: Vec<(u16, Match)>,
    /// What packets have in all bits that their rule leaves open; `None`: anything.
    pub base: Option<Fields>,
}

/// Packets, as values of a few words.
pub struct Traffic {
    pub words: Vec<u8>,
    pub values: Vec<u64>,
}

impl Traffic {
    /// So many packets: each is covered by a rule drawn at random, the rest of its bits are random.
    pub fn new(set: &Set, packets: usize, dice: &mut Dice) -> Traffic {
        let mut words: Vec<u8> =
            set.rules.iter().flat_map(|(_, rule)| rule.terms().iter().map(|term| term.word)).collect();
        words.sort();
        words.dedup();
        let mut values = Vec::with_capacity(packets * words.len());
        for _ in 0..packets {
            let (_, rule) = &set.rules[dice.below(set.rules.len())];
            for word in &words {
                let (mask, value) = rule.part(*word);
                let open = match &set.base {
                    Some(base) => base.0[usize::from(*word)],
                    None => filling(*word, dice),
                };
                values.push(value | open & !mask);
            }
        }
        Traffic { words, values }
    }

    pub fn len(&self) -> usize {
        self.values.len() / self.words.len().max(1)
    }

    /// Writes a packet's words.
    #[inline]
    pub fn write(&self, at: usize, fields: &mut Fields) {
        let values = &self.values[at * self.words.len()..];
        for (word, value) in self.words.iter().zip(values) {
            fields.0[usize::from(*word)] = *value;
        }
    }
}

/// What packets have where a rule doesn't look: addresses in 10/8 and 11/8, any ports, UDP.
fn filling(word: u8, dice: &mut Dice) -> u64 {
    match word {
        3 => 0x0800_0000_1100_4000,
        5 => 0x0a00_0000 | dice.roll() & 0xff_ffff,
        7 => 0x0b00_0000 | dice.roll() & 0xff_ffff,
        _ => dice.roll(),
    }
}

fn prefix(matches: &Match, field: Field, value: u128, bits: u32) -> Match {
    let width = u32::from(field.info().bits);
    let mask = field.max() & !(field.max().checked_shr(bits.min(width)).unwrap_or(0));
    matches.with_masked(field, value & mask, mask)
}

fn ipv4(protocol: u128) -> Match {
    Match::any().with(Field::EthType, 0x800).with(Field::NwProto, protocol)
}

/// The mask shapes of `peer_s4.py`, in its order: source prefix, destination prefix, and which ports (1 source, 2
/// destination).
const SHAPES: [(u32, u32, u8); 50] = [
    (8, 32, 1),
    (8, 24, 1),
    (24, 16, 3),
    (16, 24, 0),
    (32, 24, 3),
    (8, 32, 2),
    (0, 32, 2),
    (16, 16, 2),
    (0, 24, 2),
    (24, 32, 2),
    (0, 16, 3),
    (0, 24, 3),
    (0, 16, 2),
    (32, 16, 1),
    (16, 16, 3),
    (0, 32, 3),
    (16, 24, 3),
    (24, 16, 0),
    (8, 32, 0),
    (8, 16, 1),
    (24, 24, 3),
    (8, 24, 3),
    (32, 32, 3),
    (32, 32, 0),
    (16, 32, 0),
    (16, 24, 1),
    (32, 24, 0),
    (0, 16, 1),
    (8, 24, 2),
    (24, 24, 1),
    (0, 24, 1),
    (32, 16, 2),
    (32, 16, 0),
    (16, 16, 0),
    (16, 32, 1),
    (32, 16, 3),
    (24, 32, 0),
    (0, 32, 1),
    (16, 16, 1),
    (24, 24, 2),
    (24, 32, 1),
    (32, 32, 1),
    (24, 32, 3),
    (8, 16, 0),
    (8, 16, 2),
    (16, 32, 3),
    (8, 24, 0),
    (32, 24, 1),
    (0, 16, 0),
    (32, 24, 2),
];

/// Rules in so many mask shapes, a priority for each shape, and a rule for the rest: the comparison's case S4.
pub fn shapes(rules: usize, shapes: usize) -> Set {
    let mut dice = Dice(11);
    let mut list = Vec::with_capacity(rules + 1);
    for number in 0..rules {
        let (source, destination, ports) = SHAPES[number % shapes];
        let mut rule = ipv4(17);
        if source > 0 {
            rule = prefix(&rule, Field::IpSrc, 0x0a00_0000 | u128::from(dice.roll() & 0xff_ffff), source);
        }
        rule = prefix(&rule, Field::IpDst, 0x0b00_0000 | u128::from(dice.roll() & 0xff_ffff), destination);
        for (bit, field) in [(1, Field::UdpSrc), (2, Field::UdpDst)] {
            if ports & bit != 0 {
                rule = rule.with(field, 1 + dice.below(1023) as u128);
            }
        }
        list.push((100 + (number % shapes) as u16, rule));
    }
    list.push((0, Match::any()));
    Set { name: format!("{shapes} shapes"), rules: list, base: None }
}

/// How filters are made: of 100 rules, how many leave a field open, and which prefixes the others have.
struct Recipe {
    name: &'static str,
    any_source: u64,
    source: &'static [u32],
    any_destination: u64,
    destination: &'static [u32],
    /// Source and destination port: any, one; the others are ranges, as prefixes.
    ports: [(u64, u64); 2],
}

const RECIPES: [Recipe; 3] = [
    Recipe {
        name: "acl",
        any_source: 20,
        source: &[8, 14, 16, 20, 22, 24, 24, 26, 28, 30, 32, 32, 32],
        any_destination: 2,
        destination: &[16, 20, 23, 24, 24, 26, 27, 28, 29, 30, 31, 32, 32, 32, 32, 32],
        ports: [(98, 1), (25, 60)],
    },
    Recipe {
        name: "fw",
        any_source: 45,
        source: &[8, 12, 15, 16, 18, 20, 24, 28, 32, 32],
        any_destination: 40,
        destination: &[8, 13, 16, 19, 24, 25, 27, 32, 32],
        ports: [(65, 10), (30, 40)],
    },
    Recipe {
        name: "ipc",
        any_source: 10,
        source: &[8, 10, 13, 16, 17, 19, 21, 23, 24, 25, 27, 29, 31, 32, 32, 32],
        any_destination: 10,
        destination: &[8, 11, 14, 16, 18, 20, 22, 24, 24, 26, 28, 30, 32, 32, 32],
        ports: [(70, 20), (60, 30)],
    },
];

/// Filters like ClassBench's access lists, firewalls and IP chains: nested prefixes of a few networks, each rule with
/// its own priority (as far as there are priorities), the first the highest.
pub fn filters(kind: usize, rules: usize) -> Set {
    let recipe = &RECIPES[kind];
    let mut dice = Dice(23 + kind as u64);
    let nets: Vec<u32> = (0..16 + rules / 40).map(|_| dice.roll() as u32).collect();
    let services: Vec<u16> = (0..60).map(|_| (dice.roll() % 10_000) as u16).collect();
    let mut known = std::collections::HashSet::new();
    let mut list: Vec<(u16, Match)> = Vec::with_capacity(rules + 1);
    while list.len() < rules {
        let mut rule = Match::any().with(Field::EthType, 0x800);
        if dice.percent(95) {
            rule = rule.with(Field::NwProto, dice.pick(&[6, 6, 6, 17, 17, 1]));
        }
        let addresses = [
            (Field::IpSrc, recipe.any_source, recipe.source),
            (Field::IpDst, recipe.any_destination, recipe.destination),
        ];
        for (field, any, prefixes) in addresses {
            if !dice.percent(any) {
                let address = u128::from(dice.pick(&nets) ^ dice.roll() as u32 & 0xffff);
                rule = prefix(&rule, field, address, dice.pick(prefixes));
            }
        }
        for (field, (any, one)) in [Field::TcpSrc, Field::TcpDst].into_iter().zip(recipe.ports) {
            let kind = dice.roll() % 100;
            if kind < any {
            } else if kind < any + one {
                rule = rule.with(field, u128::from(dice.pick(&services)));
            } else {
                rule = prefix(
                    &rule,
                    field,
                    u128::from(dice.roll() as u16),
                    dice.pick(&[1, 6, 6, 8, 10, 12, 14]),
                );
            }
        }
        if known.insert(rule.clone()) {
            list.push((0, rule));
        }
    }
    // Who writes filters puts what is special before what is general, more or less.
    list.sort_by_cached_key(|(_, rule)| {
        let bits: u32 = rule.terms().iter().map(|term| term.mask.count_ones()).sum();
        std::cmp::Reverse(bits + dice.below(12) as u32)
    });
    for (number, (priority, _)) in list.iter_mut().enumerate() {
        *priority = (65_535 - number * 65_000 / rules) as u16;
    }
    for at in (1..list.len()).rev() {
        list.swap(at, dice.below(at + 1));
    }
    list.push((0, Match::any()));
    Set { name: recipe.name.to_string(), rules: list, base: None }
}

/// The tuple space explosion: for each length of the prefixes of source address, source port and destination port a
/// rule that has the first bits of one packet, but for the last one. 32 * 16 * 16 masks, all of one priority.
pub fn explosion() -> Set {
    let mut list = Vec::new();
    for source in 1..=32 {
        for from in 1..=16 {
            for to in 1..=16 {
                let mut rule = ipv4(6);
                let parts = [(Field::IpSrc, source, 32), (Field::TcpSrc, from, 16), (Field::TcpDst, to, 16)];
                for (field, bits, width) in parts {
                    let base = 0x0a14_1e28_u128 & field.max();
                    rule = prefix(&rule, field, base ^ 1 << (width - bits), bits);
                }
                list.push((100, rule));
            }
        }
    }
    let mut dice = Dice(5);
    for at in (1..list.len()).rev() {
        list.swap(at, dice.below(at + 1));
    }
    list.push((0, Match::any()));
    let base =
        ipv4(6).with(Field::IpSrc, 0x0a14_1e28).with(Field::TcpSrc, 0x1e28).with(Field::TcpDst, 0x1e28);
    Set { name: "explosion".into(), rules: list, base: Some(base.value()) }
}

/// Masks of so many bits of each field, drawn at random: nothing nests.
pub fn bitwise(rules: usize, bits: u32) -> Set {
    let mut dice = Dice(6);
    let mut list = Vec::new();
    for number in 0..rules {
        let mut rule = ipv4(6);
        for field in [Field::IpSrc, Field::TcpSrc, Field::TcpDst] {
            let width = usize::from(field.info().bits);
            let mask = (0..bits).fold(0_u128, |mask, _| mask | 1 << dice.below(width));
            rule = rule.with_masked(field, u128::from(dice.roll()) & mask, mask);
        }
        list.push(((number % 60_000) as u16 + 1, rule));
    }
    list.push((0, Match::any()));
    Set { name: format!("any {bits} bits a field"), rules: list, base: None }
}

/// A table like Neutron's 60 (`in_port`), 71 (port security), 81 (`reg5` and addresses) or 94 (one rule).
pub fn neutron(kind: usize, ports: usize) -> Set {
    let mut list = Vec::new();
    let mac = |port: usize| 0xfa16_3e00_0000 + port as u128 * 0x101;
    for port in 0..ports {
        let number = port as u128 + 4;
        let own = Match::any().with(Field::Reg5, number).with(Field::InPort, number);
        match kind {
            60 => {
                list.push((100, Match::any().with(Field::InPort, number)));
                list.push((90, Match::any().with(Field::VlanTci, 0x1005).with(Field::EthDst, mac(port))));
            }
            71 => {
                let addressed = own.with(Field::EthSrc, mac(port));
                let arp = own.with(Field::EthType, 0x806).with(Field::ArpSpa, 0x0a01_0000 + number);
                list.push((95, arp.with(Field::EthSrc, mac(port))));
                list.push((
                    65,
                    addressed.with(Field::EthType, 0x800).with(Field::IpSrc, 0x0a01_0000 + number),
                ));
                list.push((
                    80,
                    addressed
                        .with(Field::EthType, 0x800)
                        .with(Field::NwProto, 17)
                        .with(Field::UdpSrc, 68)
                        .with(Field::UdpDst, 67),
                ));
                list.push((10, own.with(Field::EthType, 0x800)));
            }
            81 => {
                let reg = Match::any().with(Field::Reg5, number).with(Field::EthType, 0x800);
                list.push((
                    77,
                    reg.with(Field::NwProto, 6).with(Field::TcpDst, 22).with_masked(
                        Field::CtState,
                        0x21,
                        0x2f,
                    ),
                ));
                list.push((50, reg.with_masked(Field::CtState, 0x2a, 0x2a)));
                list.push((40, Match::any().with(Field::Reg5, number)));
            }
            _ => {}
        }
    }
    list.push((0, Match::any()));
    Set { name: format!("Neutron, table {kind}"), rules: list, base: None }
}

/// How many masks a set has.
pub fn masks(set: &Set) -> usize {
    let masks: std::collections::HashSet<Fields> = set.rules.iter().map(|(_, rule)| rule.mask()).collect();
    masks.len()
}
