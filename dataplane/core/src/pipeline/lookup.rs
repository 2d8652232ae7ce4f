//! Look-ups: what of the packet a table sees, which rule it hits, and what is written down for whoever asks later whether a new
//! rule would have been hit instead.

use std::sync::Arc;

use weft_flow::{Field, Term};
use weft_wire::{DropReason, OfPort};

use super::connect::PROTOCOL;
use super::trace::{Event, Tracer};
use super::{By, Here, MAX_DEPTH, MAX_LOOKUPS, PORTS, Walk};
use crate::tables::{Miss, Rule, TableId};
use crate::verdict::{Look, Terms};

/// Octets that a packet's stack may take.
const MAX_STACK: usize = 65536;
/// Steps that a verdict may have.
const MAX_OPS: usize = 4096;

/// What a fragment and its whole packet can differ in, for a look-up.
const OF_WHOLE: [(usize, u64); 2] = [PROTOCOL, PORTS];

/// As what a packet is looked up.
#[derive(Clone, Copy)]
pub(super) struct How {
    /// As if it had come in there.
    pub in_port: OfPort,
    /// What it means that no rule matches.
    pub missed: Missed,
    /// By the original direction of its connection.
    pub original: bool,
}

impl How {
    /// As it is, where a miss matters.
    pub const fn arrived(in_port: OfPort) -> How {
        How { in_port, missed: Missed::Matters, original: false }
    }
}

/// What it means that no rule matched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missed {
    /// The table's setting decides: a new packet, or `goto_table`.
    Matters,
    /// Nothing happens: `resubmit`.
    IsNothing,
}

impl<T: Tracer> Walk<'_, T> {
    /// Looks the packet up in a table, and does what the rule says.
    pub(super) fn look_up(&mut self, here: &Here<'_>, table: TableId, how: How) -> Result<(), DropReason> {
        if !self.can_read_inside() {
            self.refuse(DropReason::MplsUnparsed);
            return Ok(());
        }
        self.check_limits()?;
        let (own_port, conjunction) = (self.in_port(), self.conjunction());
        self.set_in_port(how.in_port);
        let Some(hit) = self.find(here, table, how.original) else {
            self.set_in_port(own_port);
            return Ok(());
        };
        self.tracer.event(Event::Lookup { table, rule: hit.map(|rule| &**rule), fields: &self.fields });
        // What was only for the look-up: the rule's actions don't see it.
        self.set_in_port(own_port);
        self.set_conjunction(conjunction);
        let Some(rule) = hit else { return self.miss(here, table, how.missed) };
        self.verdict.rules.push(Arc::clone(rule));
        self.execute(here, By { table, rule: Some(rule) }, &rule.actions)
    }

    /// The rule that the packet hits in a table, which is noted; `None` if it has no original direction to be looked up by.
    fn find<'h>(&mut self, here: &Here<'h>, table: TableId, original: bool) -> Option<Option<&'h Arc<Rule>>> {
        let own = if original { Some((self.fields, self.unknown)) } else { None };
        if original {
            self.swap_tuples()?;
        }
        let ports = self.hide_ports(table, original);
        let conjunction = self.conjunction();
        let hit = here.tables.lookup(table, &mut self.fields);
        let conjoined = self.conjunction();
        if conjoined != conjunction {
            self.state = None;
        }
        let (rule, priority, conjunctive) = (hit.rule, hit.matters_from(), hit.conjunctive);
        let state = self.state_terms();
        self.verdict.looks.push(Look { bridge: here.visited, table, priority, conjunctive, state });
        self.show_ports(ports);
        if let Some(own) = own {
            (self.fields, self.unknown) = own;
            self.state = None;
            self.set_conjunction(conjoined);
        }
        Some(rule)
    }

    /// No rule sees the ports (or type and code) of a fragment, be it a first one that has them, as in Open vSwitch
    /// (ovs-ofctl(8), `set-frags normal`). Weft's own rules see those of its whole packet, and its protocol: what guards refuse,
    /// no fragment may bring. The words as they were.
    fn hide_ports(&mut self, table: TableId, original: bool) -> Option<[(u64, u64); 2]> {
        const IS_FRAGMENT: u128 = 1;
        if self.get(Field::IpFrag) & IS_FRAGMENT == 0 {
            return None;
        }
        let whole = self.shown_of_whole().filter(|_| table >= TableId::OWN);
        if whole.is_some() && original {
            // They are its connection's.
            return None;
        }
        let own = OF_WHOLE.map(|(word, _)| (self.fields.0[word], self.written.0[word]));
        let protocol = self.fields.0[PROTOCOL.0] & PROTOCOL.1;
        let (protocol, ports) = whole.unwrap_or((protocol, 0));
        for ((word, bits), value) in OF_WHOLE.into_iter().zip([protocol, ports]) {
            self.fields.0[word] = self.fields.0[word] & !bits | value;
        }
        self.written.0[PORTS.0] |= PORTS.1;
        if whole.is_some() {
            self.written.0[PROTOCOL.0] |= PROTOCOL.1;
        }
        self.state = None;
        Some(own)
    }

    /// See [`Walk::hide_ports`].
    fn show_ports(&mut self, own: Option<[(u64, u64); 2]>) {
        let Some(own) = own else { return };
        for ((word, bits), (value, written)) in OF_WHOLE.into_iter().zip(own) {
            self.fields.0[word] = self.fields.0[word] & !bits | value & bits;
            self.written.0[word] = self.written.0[word] & !bits | written & bits;
        }
        self.state = None;
    }

    /// No rule matched.
    fn miss(&mut self, here: &Here<'_>, table: TableId, missed: Missed) -> Result<(), DropReason> {
        if missed == Missed::IsNothing {
            return Ok(());
        }
        match here.tables.miss(table) {
            Miss::Drop => {
                self.refuse(DropReason::TableMiss);
                Ok(())
            }
            Miss::Controller => {
                self.report_miss(here, table);
                Ok(())
            }
            Miss::Continue => match table.next() {
                Some(next) => self.look_up(here, next, How { missed, ..How::arrived(here.port.spec.ofport) }),
                None => {
                    self.refuse(DropReason::TableMiss);
                    Ok(())
                }
            },
        }
    }

    pub(super) fn check_limits(&mut self) -> Result<(), DropReason> {
        if self.depth >= MAX_DEPTH {
            return Err(DropReason::RecursionTooDeep);
        }
        if self.lookups >= MAX_LOOKUPS || self.verdict.ops.len() > MAX_OPS {
            return Err(DropReason::TooManyResubmits);
        }
        if self.stack.len() * size_of::<u128>() > MAX_STACK {
            return Err(DropReason::StackTooDeep);
        }
        self.lookups += 1;
        Ok(())
    }

    /// Writes down what the fields are, for whoever asks later whether a new rule would have matched.
    pub(super) fn state_terms(&mut self) -> Terms {
        if let Some(state) = self.state {
            return state;
        }
        let start = self.verdict.terms.len() as u32;
        let (packet, own) = self.fields.0.split_at(weft_flow::fields::KEY_WORDS);
        let terms = &mut self.verdict.terms;
        for ((word, &value), &written) in (0..).zip(packet).zip(&self.written.0) {
            if written != 0 {
                let mask = written & !self.unknown.of(usize::from(word));
                terms.push(Term { word, mask, value: value & mask });
            }
        }
        for (word, &value) in (weft_flow::fields::KEY_WORDS as u8..).zip(own) {
            if value != 0 {
                let mask = !self.unknown.of(usize::from(word));
                terms.push(Term { word, mask, value: value & mask });
            }
        }
        terms.extend(self.unknown.terms());
        let state = Terms { start, end: self.verdict.terms.len() as u32 };
        self.state = Some(state);
        state
    }
}
