//! Which first packets are alike: what of their addresses and ports those tables tell apart that they go through.
//!
//! As long as no action reads them, a walk depends on addresses and ports by the matches of the rules in the tables that
//! it asks. An address that no rule of these tables matches, in the bits that the rule compares, is as good as any other
//! that none matches; so is a port, and ICMP's identifier. A kind has them as *another*, and what is matched as it is.
//! What is matched is a **lens**: a set of tables, and what their rules compare. A packet is looked for once through each
//! lens, and there are few of them.
//!
//! A **survey** is what the rules of a bridge's tables compare, at one version of them. Of a walk through another version
//! the kind is whole ([`Lens::WHOLE`]), until a sweep makes the survey anew: one at a time, and the less often the more rules
//! there are. A kind that was made by an older one
//! is right as long as its program stands without further doubts: what has changed since concerns no packet on its way.
//!
//! Owner: one worker's lane.

use std::sync::{Arc, Weak};

use arrayvec::ArrayVec;
use weft_flow::action::{Ct, CtZone};
use weft_flow::{Action, KeyMask, Match, Subfield};
use weft_wire::{EtherType, Protocol};

use crate::connection::WORDS;
use crate::pipeline::{PORTS, TUPLE};
use crate::tables::{FlowTables, Table, TableId};
use crate::verdict::{Op, Verdict};

/// Lenses at a time. The last in order makes room.
const LENSES: usize = 8;
/// Bridges whose tables a kind's walk may have gone through.
const BRIDGES: usize = 2;
/// Bridges that are surveyed.
const SURVEYS: usize = 16;
/// Rules of a bridge that is surveyed: some five milliseconds' work.
const RULES: usize = 32 << 10;
/// Rules of one that is surveyed by the walk that comes there first, and not by the next sweep.
const FEW: usize = 2 << 10;
/// Surveyed rules for which a sweep passes without a survey.
const PACE: usize = 256;
/// New lenses between two sweeps: each takes some hundred microseconds where there are thousands of rules.
const NEW_LENSES: u8 = 2;
/// Different masks of addresses in a lens.
const MASKS: usize = 8;
/// Ports that a lens marks one by one.
const MARKS: usize = 1 << 18;
/// The words of the addresses: of the source, of the destination.
const ADDRESSES: [usize; 2] = [4, 6];
/// In the first word of an address: that of no packet which a lens is for.
const ANOTHER: u64 = u64::MAX;
/// In the word of the ports: the identifier of an ICMP message.
const IDENTIFIER: u64 = 0xff00 << 48 | 0xff00 << 32;
/// Where the word of the ports has the source's and the destination's.
const PORT_SHIFTS: [u32; 2] = [48, 32];

/// Values under a mask.
type Values = hashbrown::HashSet<u128, foldhash::fast::RandomState>;
/// What a rule compares an address or a port with: mask and value.
type Pattern<T> = (T, T);

/// What the rules of a table compare.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Patterns {
    /// By side: source, destination.
    ports: [Vec<Pattern<u16>>; 2],
    /// By side, and by family: IPv4, IPv6.
    addresses: [[Vec<Pattern<u128>>; 2]; 2],
    /// A rule asks for the ends of the packet's connection, which are its own.
    asks_for_ends: bool,
    /// A rule asks for the identifier of an ICMP message.
    asks_for_identifier: bool,
}

impl Patterns {
    /// `None` if the table's rules read neither addresses nor ports.
    fn of(table: &Table) -> Option<Patterns> {
        if !reads_ends(table.reads()) {
            return None;
        }
        let mut patterns = Patterns::default();
        table.rules().for_each(|rule| patterns.add(&rule.matches));
        let Patterns { ports, addresses, .. } = &mut patterns;
        ports.iter_mut().for_each(unique);
        addresses.iter_mut().flatten().for_each(unique);
        Some(patterns)
    }

    fn add(&mut self, matches: &Match) {
        let mut words = [(0, 0); WORDS];
        let mut asks_for_ends = false;
        for term in matches.terms() {
            match words.get_mut(usize::from(term.word)) {
                Some(word) => *word = (term.mask, term.value),
                None => {
                    let asks = |&(word, bits): &(usize, u64)| {
                        word == usize::from(term.word) && term.mask & bits != 0
                    };
                    asks_for_ends |= TUPLE.iter().any(asks);
                }
            }
        }
        let (mask, value) = words[3];
        let kind = EtherType((value >> 48) as u16);
        let families = match mask >> 48 {
            0xffff => [EtherType::IPV4, EtherType::IPV6].map(|family| family == kind),
            _ => [true; 2],
        };
        // Of others nobody asks whose connection they are.
        if families == [false; 2] {
            return;
        }
        self.asks_for_ends |= asks_for_ends;
        let protocol = (mask >> 24 & 0xff == 0xff).then_some(Protocol((value >> 24) as u8));
        if protocol.is_none_or(is_icmp) {
            self.asks_for_identifier |= words[PORTS.0].0 & IDENTIFIER != 0;
        }
        if protocol.is_none_or(has_ports) {
            let (mask, value) = words[PORTS.0];
            for (list, shift) in self.ports.iter_mut().zip(PORT_SHIFTS) {
                if (mask >> shift) as u16 != 0 {
                    list.push(((mask >> shift) as u16, (value >> shift) as u16));
                }
            }
        }
        for (lists, word) in self.addresses.iter_mut().zip(ADDRESSES) {
            let [high, low] = [words[word], words[word + 1]];
            let (mask, value) = (wide([high.0, low.0]), wide([high.1, low.1]));
            for (list, _) in lists.iter_mut().zip(families).filter(|(_, is_of)| *is_of && mask != 0) {
                list.push((mask, value));
            }
        }
    }
}

fn unique<T: Ord>(list: &mut Vec<T>) {
    list.sort_unstable();
    list.dedup();
}

fn wide([high, low]: [u64; 2]) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

/// Whether the first octets of its header are two ports.
fn has_ports(protocol: Protocol) -> bool {
    [Protocol::TCP, Protocol::UDP].contains(&protocol)
}

fn is_icmp(protocol: Protocol) -> bool {
    [Protocol::ICMP, Protocol::ICMPV6].contains(&protocol)
}

/// Whether some of these bits are of addresses or ports.
fn reads_ends(mask: &KeyMask) -> bool {
    let addresses = ADDRESSES.into_iter().flat_map(|word| [word, word + 1]).map(|word| (word, u64::MAX));
    addresses.chain([PORTS]).any(|(word, bits)| mask.0.get(word).is_some_and(|read| read & bits != 0))
}

/// What the rules of a bridge's tables compare. See the module's text.
#[derive(Debug)]
struct Survey {
    /// No survey keeps the tables of a bridge that is gone.
    tables: Weak<FlowTables>,
    /// At which version of them; `None` if they were too many to be looked at.
    version: Option<u64>,
    /// Other patterns have another one.
    serial: u32,
    /// By table, those alone that read addresses or ports.
    patterns: Vec<(TableId, Patterns)>,
    /// A walk has gone through another version.
    is_outdated: bool,
}

impl Survey {
    fn of(tables: &Arc<FlowTables>, serial: u32) -> Survey {
        let patterns = Vec::new();
        let tables_of = Arc::downgrade(tables);
        let mut survey = Survey { tables: tables_of, version: None, serial, patterns, is_outdated: true };
        if tables.load().len() <= FEW {
            survey.renew(serial);
        }
        survey
    }

    /// Looks at the rules as they are, and returns how many.
    fn renew(&mut self, serial: u32) -> usize {
        self.is_outdated = false;
        let Some(tables) = self.tables.upgrade() else { return 0 };
        let root = tables.load();
        if root.len() > RULES {
            self.version = None;
            return 0;
        }
        let patterns: Vec<_> =
            root.tables().filter_map(|table| Some((table.id, Patterns::of(table)?))).collect();
        if self.patterns != patterns {
            (self.patterns, self.serial) = (patterns, serial);
        }
        self.version = Some(root.version);
        root.len()
    }
}

/// Of the tables of a survey with that serial number, those whose patterns count.
type Asked = ArrayVec<(u32, u64), BRIDGES>;

/// What of addresses and ports is told apart. See the module's text.
#[derive(Debug)]
pub struct Lens {
    /// Its number, which no other lens ever has.
    pub id: u32,
    asked: Asked,
    /// `None`: all of them.
    known: Option<Box<Known>>,
}

/// Addresses and ports that rules match.
#[derive(Debug)]
struct Known {
    /// A bit for each port, by side.
    ports: [Box<[u64]>; 2],
    /// By side and family: the values under each mask.
    addresses: [[Vec<(u128, Values)>; 2]; 2],
    /// Whether ICMP's identifiers count.
    identifier: bool,
}

impl Known {
    /// `None` if it is too much.
    fn of<'p>(all: impl Iterator<Item = &'p Patterns>) -> Option<Known> {
        let ports = [0; 2].map(|_| vec![0; 1024].into());
        let mut known = Known { ports, addresses: Default::default(), identifier: false };
        let mut marks = 0;
        for patterns in all {
            if patterns.asks_for_ends {
                return None;
            }
            known.identifier |= patterns.asks_for_identifier;
            for (map, list) in known.ports.iter_mut().zip(&patterns.ports) {
                for &pattern in list {
                    marks += mark(map, pattern)?;
                }
            }
            let lists = patterns.addresses.iter().flatten();
            for (sets, list) in known.addresses.iter_mut().flatten().zip(lists) {
                list.iter().for_each(|&(mask, value)| put(sets, mask, value));
                if sets.len() > MASKS {
                    return None;
                }
            }
            if marks > MARKS {
                return None;
            }
        }
        Some(known)
    }

    fn has_port(&self, side: usize, port: u16) -> bool {
        let word = self.ports.get(side).and_then(|map| map.get(usize::from(port) / 64));
        word.is_none_or(|word| word >> (port % 64) & 1 != 0)
    }

    fn has_address(&self, side: usize, family: usize, address: u128) -> bool {
        let sets = self.addresses.get(side).and_then(|families| families.get(family));
        sets.is_none_or(|sets| sets.iter().any(|(mask, values)| values.contains(&(address & mask))))
    }
}

fn put(sets: &mut Vec<(u128, Values)>, mask: u128, value: u128) {
    match sets.iter_mut().find(|(known, _)| *known == mask) {
        Some((_, values)) => drop(values.insert(value)),
        None => sets.push((mask, Values::from_iter([value]))),
    }
}

/// Marks the ports that a pattern matches; how many were marked one by one. `None`: they lie scattered, and are too many.
fn mark(map: &mut [u64], (mask, value): Pattern<u16>) -> Option<usize> {
    let open = !mask;
    let mut set = |port: u16| {
        if let Some(word) = map.get_mut(usize::from(port) / 64) {
            *word |= 1 << (port % 64);
        }
    };
    if open.count_ones() <= 8 {
        // All subsets of the open bits.
        let mut subset = open;
        loop {
            set(value | subset);
            if subset == 0 {
                return Some(1 << open.count_ones());
            }
            subset = (subset - 1) & open;
        }
    }
    if open & open.wrapping_add(1) != 0 {
        return None;
    }
    let (first, last) = (usize::from(value) / 64, usize::from(value | open) / 64);
    map.get_mut(first..=last)?.fill(u64::MAX);
    Some(last - first)
}

impl Lens {
    /// The number of the one that leaves nothing out.
    pub const WHOLE: u32 = 0;

    /// A packet's kind, of which `whole` is the whole; `key` has all of its addresses and ports. `None`: it has none in
    /// this lens.
    pub fn kind<const W: usize>(&self, whole: &[u64; W], key: &[u64; W]) -> Option<[u64; W]> {
        let Some(known) = &self.known else { return Some(*whole) };
        let words: &[u64; WORDS] = key.first_chunk()?;
        let family = match EtherType((words[3] >> 48) as u16) {
            EtherType::IPV4 => 0,
            EtherType::IPV6 => 1,
            _ => return None,
        };
        let mut kind = *whole;
        let own: &mut [u64; WORDS] = kind.first_chunk_mut()?;
        for (side, at) in ADDRESSES.into_iter().enumerate() {
            if words[at] == ANOTHER {
                return None;
            }
            if !known.has_address(side, family, wide([words[at], words[at + 1]])) {
                (own[at], own[at + 1]) = (ANOTHER, 0);
            }
        }
        let protocol = Protocol((words[3] >> 24) as u8);
        if is_icmp(protocol) && !known.identifier {
            own[PORTS.0] &= !IDENTIFIER;
        }
        if has_ports(protocol) {
            for (side, shift) in PORT_SHIFTS.into_iter().enumerate() {
                // Another one is 0, which no connection has; one that is known is whole, so that it can't be taken for that
                // where rules compare a few of its bits.
                own[PORTS.0] &= !(0xffff << shift);
                if known.has_port(side, (words[PORTS.0] >> shift) as u16) {
                    own[PORTS.0] |= words[PORTS.0] & 0xffff << shift;
                }
            }
        }
        Some(kind)
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Kinds {
    surveys: Vec<Survey>,
    /// Those that were met lately come first.
    lenses: Vec<Lens>,
    /// The last number of a survey or lens.
    last: u32,
    /// How many lenses may come until the next sweep.
    allowance: u8,
    /// Sweeps until a survey may be made anew.
    pause: usize,
}

impl Default for Kinds {
    fn default() -> Self {
        let whole = Lens { id: Lens::WHOLE, asked: Asked::new(), known: None };
        Kinds { surveys: Vec::new(), lenses: vec![whole], last: 0, allowance: NEW_LENSES, pause: 0 }
    }
}

impl Kinds {
    /// All lenses, the likeliest first.
    pub fn lenses(&self) -> &[Lens] {
        &self.lenses
    }

    /// A packet's kind was found in the lens at that place.
    pub fn met(&mut self, at: usize) {
        if at > 0 && at < self.lenses.len() {
            self.lenses.swap(at, at - 1);
        }
    }

    /// The lens for packets that walk so; `apart` is what a whole kind has. It is the whole one if it isn't known what of
    /// their ends the walk depends on.
    pub fn lens_of(&mut self, verdict: &Verdict, apart: &KeyMask) -> Option<&Lens> {
        let lens = if reads_many(apart) { self.known_lens(verdict) } else { None };
        let id = lens.unwrap_or(Lens::WHOLE);
        self.lenses.iter().find(|lens| lens.id == id)
    }

    fn known_lens(&mut self, verdict: &Verdict) -> Option<u32> {
        let is_blind = verdict.rules.iter().all(|rule| rule.actions.iter().all(is_blind));
        if !is_blind || verdict.ops.iter().any(|op| matches!(op, Op::PacketIn(_))) {
            return None;
        }
        let asked = self.asked(verdict)?;
        if let Some(lens) = self.lenses.iter().find(|lens| lens.id != Lens::WHOLE && lens.asked == asked) {
            return Some(lens.id);
        }
        self.allowance = self.allowance.checked_sub(1)?;
        let id = self.next();
        let known = Known::of(self.patterns(&asked))?;
        if self.lenses.len() >= LENSES
            && let Some(at) = self.lenses.iter().rposition(|lens| lens.id != Lens::WHOLE)
        {
            self.lenses.remove(at);
        }
        self.lenses.insert(0, Lens { id, asked, known: Some(Box::new(known)) });
        Some(id)
    }

    /// The tables with patterns that a walk has asked.
    fn asked(&mut self, verdict: &Verdict) -> Option<Asked> {
        let mut asked = Asked::new();
        for (bridge, visited) in (0..).zip(&verdict.visited) {
            let survey = self.survey(&visited.tables)?;
            if survey.version != Some(visited.version) {
                survey.is_outdated = true;
                return None;
            }
            let mut tables = 0;
            for look in verdict.looks.iter().filter(|look| look.bridge == bridge) {
                if let Ok(at) = survey.patterns.binary_search_by_key(&look.table, |(id, _)| *id) {
                    tables |= 1u64.checked_shl(at as u32)?;
                }
            }
            asked.try_push((survey.serial, tables)).ok()?;
        }
        Some(asked)
    }

    fn survey(&mut self, tables: &Arc<FlowTables>) -> Option<&mut Survey> {
        let is_it = |survey: &Survey| Weak::as_ptr(&survey.tables) == Arc::as_ptr(tables);
        if self.surveys.len() < SURVEYS && !self.surveys.iter().any(is_it) {
            let serial = self.next();
            self.surveys.push(Survey::of(tables, serial));
        }
        self.surveys.iter_mut().find(|survey| is_it(survey))
    }

    fn patterns<'a>(&'a self, asked: &'a Asked) -> impl Iterator<Item = &'a Patterns> {
        asked.iter().flat_map(|&(serial, tables)| {
            let survey = self.surveys.iter().filter(move |survey| survey.serial == serial);
            let all = survey.flat_map(|survey| survey.patterns.iter().enumerate());
            all.filter(move |&(at, _)| 1u64.checked_shl(at as u32).is_some_and(|bit| tables & bit != 0))
                .map(|(_, (_, patterns))| patterns)
        })
    }

    fn next(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    /// Brings surveys up to date that walks have found outdated, and forgets those of bridges that are gone.
    pub fn sweep(&mut self) {
        self.allowance = NEW_LENSES;
        self.surveys.retain(|survey| survey.tables.strong_count() > 0);
        self.pause = self.pause.saturating_sub(1);
        let Some(at) = self.surveys.iter().position(|survey| survey.is_outdated) else { return };
        if self.pause == 0 {
            // The next time it is another one's turn.
            let mut survey = self.surveys.remove(at);
            let serial = self.next();
            self.pause = survey.renew(serial) / PACE;
            self.surveys.push(survey);
        }
    }
}

/// Whether whole kinds would be many: whether they have addresses, or the source's port.
fn reads_many(apart: &KeyMask) -> bool {
    let mut mask = *apart;
    if let Some(word) = mask.0.get_mut(PORTS.0) {
        *word &= 0xffff << PORT_SHIFTS[0];
    }
    reads_ends(&mask)
}

/// Whether what the action does, and what it leads to, is the same whatever the packet's addresses and ports are.
fn is_blind(action: &Action) -> bool {
    match action {
        Action::Output(_)
        | Action::SetQueue(_)
        | Action::PopQueue
        | Action::SetVlanVid(_)
        | Action::SetVlanPcp(_)
        | Action::StripVlan
        | Action::PushVlan(_)
        | Action::SetEthSrc(_)
        | Action::SetEthDst(_)
        | Action::Resubmit { .. }
        | Action::Note(_)
        | Action::Exit
        | Action::CtClear
        | Action::WriteMetadata { .. }
        | Action::GotoTable(_)
        | Action::Own(_) => true,
        Action::SetField { field, .. } => is_no_end(Subfield::whole(*field)),
        Action::Load { target, .. } => is_no_end(*target),
        Action::Move { source, target } => is_no_end(*source) && is_no_end(*target),
        Action::Ct(ct) => {
            let Ct { zone, exec, nat, helper, .. } = &**ct;
            let zone_is_no_end = match zone {
                CtZone::Number(_) => true,
                CtZone::Field(field) => is_no_end(*field),
            };
            zone_is_no_end && nat.is_none() && helper.is_none() && exec.iter().all(is_blind)
        }
        _ => false,
    }
}

/// Whether it is no part of an address or a port, be it the connection's.
fn is_no_end(field: Subfield) -> bool {
    let bits = field.mask();
    let of_connection =
        TUPLE.into_iter().any(|(word, own)| bits.0.get(word).is_some_and(|bits| bits & own != 0));
    !of_connection && !reads_ends(&KeyMask(bits.key().0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use weft_flow::Fields;
    use weft_flow::FlowKey;
    use weft_flow::message::FlowCommand;
    use weft_flow::text::{NoNames, parse_flow};

    use super::*;
    use crate::tables::Change;

    const TABLES: u16 = 3;

    /// What rules compare, and values of packets that meet some of it.
    const MATCHES: [&str; 22] = [
        "ip",
        "tcp",
        "udp",
        "ip,nw_src=10.0.0.1",
        "ip,nw_src=10.0.0.0/24",
        "ip,nw_dst=10.0.0.2",
        "ip,nw_dst=10.0.0.0/31",
        "tcp,tp_src=80",
        "tcp,tp_dst=80",
        "tcp,tp_dst=0x50/0xfffe",
        "udp,tp_src=0x400/0xfc00",
        "udp,tp_dst=53",
        "tcp,nw_src=10.0.0.3,tp_src=81",
        "udp,nw_dst=10.0.0.3,tp_dst=1024",
        "icmp,icmp_type=8",
        "arp,arp_spa=10.0.0.5",
        "ipv6",
        "ipv6,ipv6_src=2001:db8::1",
        "tcp6,tp_src=0x8000/0x8000,ipv6_dst=2001:db8::/64",
        "ip,nw_src=0.0.0.1/255.0.0.255",
        "tcp,tp_dst=0/0xfc00",
        "udp,tp_src=0/0x8000",
    ];

    fn tables(rules: &[(u16, usize)]) -> Arc<FlowTables> {
        let change = |(priority, (table, matches)): (usize, &(u16, usize))| {
            let line = format!("table={table},priority={priority},{},actions=drop", MATCHES[*matches]);
            Change::Flow(parse_flow(&line, FlowCommand::Add, &NoNames).unwrap())
        };
        let tables = FlowTables::new();
        let changes: Vec<Change> = rules.iter().enumerate().map(change).collect();
        tables.prepare(&changes, Duration::ZERO).unwrap().commit();
        tables
    }

    fn packet((six, protocol, addresses, ports): (bool, u8, [u8; 2], [u16; 2])) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        words[3] = if six { 0x86dd } else { 0x0800 } << 48 | u64::from(protocol) << 24;
        for (at, address) in ADDRESSES.into_iter().zip(addresses) {
            let last = u64::from(address);
            (words[at], words[at + 1]) =
                if six { (0x2001_0db8 << 32, last) } else { (0, 0x0a00_0000 | last) };
        }
        words[PORTS.0] = u64::from(ports[0]) << 48 | u64::from(ports[1]) << 32;
        words
    }

    fn packets() -> impl Strategy<Value = [u64; WORDS]> {
        let port = prop_oneof![Just(53), Just(80), Just(81), Just(1024), 1000..1100u16, any::<u16>()];
        let protocol = prop_oneof![Just(6), Just(17), Just(1), Just(47)];
        (any::<bool>(), protocol, [0..9u8, 0..9u8], [port.clone(), port]).prop_map(packet)
    }

    fn met(tables: &FlowTables, table: TableId, words: &[u64; WORDS]) -> Option<u16> {
        let mut key = FlowKey::default();
        key.0.iter_mut().zip(words).for_each(|(place, word)| *place = *word);
        tables.load().lookup(table, &mut Fields::of_packet(&key)).rule.map(|rule| rule.priority)
    }

    proptest! {
        /// The oracle looks both up.
        #[test]
        fn packets_of_a_kind_meet_the_same_rules(
            rules in proptest::collection::vec((0..TABLES, 0..MATCHES.len()), 0..25),
            asked in 0..1u16 << TABLES,
            packets in proptest::collection::vec(packets(), 2..30),
        ) {
            let flows = tables(&rules);
            let survey = Survey::of(&flows, 1);
            let is_asked = |table: TableId| asked >> table.0 & 1 != 0;
            let patterns = survey.patterns.iter().filter(|(table, _)| is_asked(*table));
            let known = Known::of(patterns.map(|(_, patterns)| patterns)).unwrap();
            let lens = Lens { id: 1, asked: Asked::new(), known: Some(Box::new(known)) };
            // Whole kinds have what some rule compares, and no more.
            let root = flows.load();
            let read = |at: usize| root.tables().fold(0, |read, table| read | table.reads().0[at]);
            let whole = |words: &[u64; WORDS]| -> [u64; WORDS] {
                std::array::from_fn(|at| words[at] & if at == 3 { u64::MAX } else { read(at) })
            };
            for (one, two) in packets.iter().zip(packets.iter().skip(1)) {
                if lens.kind(&whole(one), one) != lens.kind(&whole(two), two) {
                    continue;
                }
                for table in (0..TABLES).map(TableId).filter(|table| is_asked(*table)) {
                    prop_assert_eq!(met(&flows, table, one), met(&flows, table, two), "{:x?} {:x?}", one, two);
                }
            }
        }

        #[test]
        fn ports_are_marked_that_a_pattern_matches_and_no_others(mask in any::<u16>(), value in any::<u16>(), bits in 0..17u32) {
            for mask in [mask, (0xffff_0000u32 >> bits) as u16] {
                let mut map = vec![0; 1024];
                if mark(&mut map, (mask, value & mask)).is_some() {
                    for port in 0..=u16::MAX {
                        let is_marked = map[usize::from(port) / 64] >> (port % 64) & 1 != 0;
                        prop_assert_eq!(is_marked, port & mask == value & mask, "{} {:x} {:x}", port, mask, value);
                    }
                } else {
                    prop_assert!((!mask).count_ones() > 8);
                }
            }
        }
    }

    #[test]
    fn strangers_are_all_the_same_and_those_that_rules_know_are_not() {
        let flows = tables(&[(0, 3), (0, 8), (1, 11)]);
        let survey = Survey::of(&flows, 1);
        let patterns = survey.patterns.iter().filter(|(table, _)| *table == TableId(0));
        let known = Known::of(patterns.map(|(_, patterns)| patterns)).unwrap();
        let lens = Lens { id: 1, asked: Asked::new(), known: Some(Box::new(known)) };
        let kind = |addresses, ports| {
            let words = packet((false, 6, addresses, ports));
            lens.kind(&words, &words)
        };
        let stranger = kind([7, 8], [1000, 443]);
        assert_eq!(kind([9, 2], [53, 22]), stranger);
        assert_eq!(kind([7, 8], [80, 53]), stranger, "as the source's port, no rule of the table knows it");
        assert_ne!(kind([1, 8], [1000, 443]), stranger);
        assert_ne!(kind([7, 8], [1000, 80]), stranger);
    }

    #[test]
    fn where_rules_compare_some_bits_of_a_port_one_that_has_none_of_them_is_no_stranger() {
        // "tcp,tp_dst=0/0xfc00", and nobody reads more of a port.
        let flows = tables(&[(0, 20)]);
        let survey = Survey::of(&flows, 1);
        let known = Known::of(survey.patterns.iter().map(|(_, patterns)| patterns)).unwrap();
        let lens = Lens { id: 1, asked: Asked::new(), known: Some(Box::new(known)) };
        let kind = |port| {
            let words = packet((false, 6, [7, 8], [1000, port]));
            let mut whole = words;
            whole[PORTS.0] &= 0xfc00 << PORT_SHIFTS[1];
            lens.kind(&whole, &words)
        };
        assert_eq!(kind(8080), kind(9090));
        assert_ne!(kind(8080), kind(22));
    }

    #[test]
    fn what_reads_a_packets_ends_is_not_blind() {
        for (text, blind) in [
            ("output:1", true),
            ("NORMAL", true),
            ("load:5->NXM_NX_REG3[],resubmit(,7)", true),
            ("ct(commit,table=1,zone=NXM_NX_REG3[0..15],exec(load:6->NXM_NX_CT_MARK[]))", true),
            ("move:NXM_OF_IN_PORT[]->NXM_NX_REG0[0..15]", true),
            ("move:NXM_OF_IP_SRC[]->NXM_NX_REG0[]", false),
            ("mod_nw_src:10.0.0.1", false),
            ("load:1->NXM_OF_IP_DST[]", false),
            ("ct(commit,nat(src=10.0.0.1))", false),
            ("ct(commit,exec(move:NXM_OF_IP_SRC[]->NXM_NX_CT_MARK[]))", false),
            ("learn(table=1,NXM_OF_ETH_SRC[])", false),
            ("multipath(symmetric_l4,50,modulo_n,16,0,NXM_NX_REG0[])", false),
            ("controller(max_len=64)", false),
        ] {
            let line = format!("ip,actions={text}");
            let flow = parse_flow(&line, FlowCommand::Add, &NoNames).unwrap();
            assert_eq!(flow.actions.iter().all(is_blind), blind, "{text}");
        }
    }
}
