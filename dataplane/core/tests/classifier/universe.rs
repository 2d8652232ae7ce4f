//! Small worlds of rules and packets, in which rules often overlap.

use weft_core::classifier::Clause;
use weft_flow::{Field, Fields, Match};

use crate::dice::Dice;
use crate::oracle::Rule;

/// What the rules of a table look like.
#[derive(Clone, Copy, Debug)]
pub enum Style {
    /// Prefixes of addresses, ports, protocols.
    Acl,
    /// Registers, ports and addresses, whole: Neutron's way.
    Exact,
    /// Any bits of a few fields.
    Bits,
    /// Prefixes of three fields that differ from one value in their last bit: the tuple space explosion.
    Explosion,
    /// One match at many priorities, and few others.
    Stacked,
}

/// One table's world.
#[derive(Clone, Copy, Debug)]
pub struct World {
    pub style: Style,
    pub priorities: u16,
    /// Of 100 rules, so many have clauses.
    pub conjunctive: u64,
}

impl World {
    pub fn new(dice: &mut Dice) -> World {
        let styles = [Style::Acl, Style::Exact, Style::Bits, Style::Explosion, Style::Stacked];
        World {
            style: dice.pick(&styles),
            priorities: dice.pick(&[1, 2, 5, 1000]),
            conjunctive: dice.pick(&[0, 0, 20, 60]),
        }
    }

    pub fn matches(&self, dice: &mut Dice) -> Match {
        let matches = match self.style {
            Style::Acl => acl(dice),
            Style::Exact => exact(dice),
            Style::Bits => bits(dice),
            Style::Explosion => explosion(dice),
            Style::Stacked => Match::any().with(Field::Reg5, dice.below(3) as u128),
        };
        if self.conjunctive > 0 && dice.percent(15) {
            return matches.with(Field::ConjId, dice.below(4) as u128);
        }
        matches
    }

    pub fn priority(&self, dice: &mut Dice) -> u16 {
        let spread = if matches!(self.style, Style::Stacked) { 100 } else { 1 };
        dice.below(usize::from(self.priorities) * spread) as u16
    }

    pub fn rule(&self, dice: &mut Dice) -> Rule {
        let clauses = if dice.percent(self.conjunctive) {
            (0..1 + dice.below(3)).map(|_| clause(dice)).collect()
        } else {
            Vec::new()
        };
        let (priority, matches) = (self.priority(dice), self.matches(dice));
        Rule { priority, matches, value: dice.roll() as u32, clauses }
    }

    /// A packet: mostly one that some rule covers.
    pub fn packet(&self, rules: &[Rule], dice: &mut Dice) -> Fields {
        let mut fields = Fields::default();
        for _ in 0..2 {
            let other = self.matches(dice);
            overwrite(&mut fields, &other);
        }
        if !rules.is_empty() && dice.percent(80) {
            overwrite(&mut fields, &dice.pick(rules).matches);
        }
        fields
    }
}

fn overwrite(fields: &mut Fields, matches: &Match) {
    for term in matches.terms() {
        let word = &mut fields.0[usize::from(term.word)];
        *word = *word & !term.mask | term.value;
    }
}

fn clause(dice: &mut Dice) -> Clause {
    let clauses = dice.pick(&[2, 2, 2, 3]);
    Clause { id: dice.below(4) as u32, clauses, clause: dice.below(usize::from(clauses)) as u8 }
}

fn prefix(matches: &Match, field: Field, value: u128, bits: u32) -> Match {
    let width = u32::from(field.info().bits);
    let mask = field.max() & !(field.max() >> bits.min(width));
    matches.with_masked(field, value & mask, mask)
}

fn acl(dice: &mut Dice) -> Match {
    let mut matches = Match::any();
    let (ip, port) = ([0x0a00_0001, 0x0a00_00ff, 0x0a01_0001, 0x0b00_0000], [80, 443, 1024, 40000]);
    for field in [Field::IpSrc, Field::IpDst] {
        if dice.percent(60) {
            matches = prefix(&matches, field, dice.pick(&ip), dice.pick(&[0, 8, 16, 24, 31, 32]));
        }
    }
    for field in [Field::TcpSrc, Field::TcpDst] {
        if dice.percent(40) {
            matches = prefix(&matches, field, dice.pick(&port), dice.pick(&[1, 6, 16]));
        }
    }
    if dice.percent(30) {
        matches = matches.with(Field::NwProto, dice.pick(&[6, 17]));
    }
    matches
}

fn exact(dice: &mut Dice) -> Match {
    let mut matches = Match::any();
    let fields = [
        Field::Reg5,
        Field::InPort,
        Field::EthDst,
        Field::EthSrc,
        Field::EthType,
        Field::Ipv6Src,
        Field::Reg6,
    ];
    for field in fields {
        if dice.percent(35) {
            matches = matches.with(field, dice.below(4) as u128);
        }
    }
    matches
}

fn bits(dice: &mut Dice) -> Match {
    let mut matches = Match::any();
    for field in [Field::TcpSrc, Field::TcpDst, Field::Metadata, Field::IpDst, Field::CtState] {
        if dice.percent(50) {
            let lies = u32::from(field.info().segments.iter().map(|segment| segment.bits).sum::<u8>());
            let mask = 1_u128 << (dice.roll() as u32 % lies) | 1 << (dice.roll() as u32 % lies);
            matches = matches.with_masked(field, u128::from(dice.roll()) & mask, mask);
        }
    }
    matches
}

fn explosion(dice: &mut Dice) -> Match {
    let mut matches = Match::any();
    for (field, width) in [(Field::IpSrc, 32), (Field::TcpSrc, 16), (Field::TcpDst, 16)] {
        let bits = 1 + dice.below(width) as u32;
        matches = prefix(&matches, field, 1 << (width as u32 - bits), bits);
    }
    matches
}
