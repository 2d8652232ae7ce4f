//! `ct(..)` and `ct_clear`: the packet's connection, and what rules see of it.
//!
//! As in Open vSwitch, `ct(..,table=N)` forks: a copy goes on at table N, tracked, with registers, stack, metadata and
//! action set; behind the action the packet goes on untracked. What the connection decides and the path doesn't (its
//! tuple, and the addresses and ports that it translates to) is noted as unknown ([`UNKNOWN`]), so that connections which
//! take the same path share a program.

use weft_conntrack::{
    Before, Choice, Commit, Facts, Helper, Link, Masked, Nat, Refusal, Request, Side, State, Tracked,
    Translation,
};
use weft_flow::action::{Ct, CtHelper, CtZone, NatAddresses, NatChoice, NatKind};
use weft_flow::fields::WORDS;
use weft_flow::{Action, Field, Fields, Subfield, Term};
use weft_wire::{DropReason, Protocol};

use super::trace::{Event, Tracer};
use super::{Datagram, Here, How, Occasion, Walk};
use crate::connection;
use crate::edit::nat::Once;
use crate::tables::TableId;
use crate::verdict::{Answer, Asked, Begun, Op, UNKNOWN};

/// The words of `ct_mark`, `ct_state`, `ct_zone`, and of `ct_label`.
const OWN: std::ops::RangeInclusive<usize> = 27..=29;
/// The words that have a connection's tuple, and which of their bits.
pub(crate) const TUPLE: [(usize, u64); 6] =
    [(30, u64::MAX), (31, 0x00ff_ffff_ffff), (32, u64::MAX), (33, u64::MAX), (34, u64::MAX), (35, u64::MAX)];
/// The words of a packet's addresses and ports.
const PACKET: [(usize, u64); 5] =
    [(4, u64::MAX), (5, u64::MAX), (6, u64::MAX), (7, u64::MAX), (8, 0xffff_ffff << 32)];
/// What says which connection a packet belongs to: EtherType, protocol, whether it is a fragment, addresses and ports.
const ENDS: [(usize, u64); 6] = {
    let [a, b, c, d, e] = PACKET;
    [(3, 0xffff << 48 | 0xff << 24 | 3), a, b, c, d, e]
};
/// The bits of the IP protocol.
pub(super) const PROTOCOL: (usize, u64) = (3, 0xff << 24);

/// Bits of fields that a connection decides, and not the path.
#[derive(Clone, Copy, Default)]
pub(super) struct Unknown {
    /// By [`SLOT`]; the last is nobody's.
    bits: [u64; SLOTS + 1],
    any: bool,
}

/// Words of which a connection can decide bits.
const SLOTS: usize = TUPLE.len() + PACKET.len() + 1;
/// Where [`Unknown`] has the bits of each word.
const SLOT: [u8; WORDS] = {
    let mut slots = [SLOTS as u8; WORDS];
    let mut at = 0;
    while at < PACKET.len() {
        slots[PACKET[at].0] = at as u8;
        at += 1;
    }
    while at < SLOTS - 1 {
        slots[TUPLE[at - PACKET.len()].0] = at as u8;
        at += 1;
    }
    slots[PROTOCOL.0] = at as u8;
    slots
};

impl Unknown {
    fn add(&mut self, (word, bits): (usize, u64)) {
        self.bits[usize::from(SLOT[word])] |= bits;
        self.any = true;
    }

    /// Of a word.
    #[inline(always)]
    pub(super) fn of(&self, word: usize) -> u64 {
        if self.any { SLOT.get(word).map_or(0, |&slot| self.bits[usize::from(slot)]) } else { 0 }
    }

    /// As terms of a look-up's state.
    pub(super) fn terms(&self) -> impl Iterator<Item = Term> {
        let slots = self.bits.iter().zip(UNKNOWN_WORD).take(if self.any { SLOTS } else { 0 });
        slots.filter(|(bits, _)| **bits != 0).map(|(&mask, word)| Term { word, mask, value: 0 })
    }
}

/// Which word a slot is of, as terms have it.
const UNKNOWN_WORD: [u8; SLOTS] = {
    let mut words = [0; SLOTS];
    let mut word = 0;
    while word < WORDS {
        if (SLOT[word] as usize) < SLOTS {
            words[SLOT[word] as usize] = word as u8 | UNKNOWN;
        }
        word += 1;
    }
    words
};

impl<'a, T: Tracer> Walk<'a, T> {
    /// `ct(..)`
    pub(super) fn connect(&mut self, here: &Here<'_>, ct: &Ct) -> Result<(), DropReason> {
        let (mut tracked, facts, before) = self.track(ct)?;
        if let Some(translation) = tracked.translation {
            self.translate(&translation, tracked.connection);
        }
        if let Some(facts) = facts.filter(|_| tracked.helper.is_some()) {
            self.assist(&mut tracked, &facts, before)?;
        }
        let result = match ct.table {
            Some(table) => self.go_on_tracked(here, TableId::from(table), &tracked),
            None => Ok(()),
        };
        self.untrack();
        result
    }

    /// `ct_clear`
    pub(super) fn ct_clear(&mut self) {
        self.before = None;
        self.untrack();
    }

    /// Rules see no connection from here on.
    pub(super) fn untrack(&mut self) {
        for word in OWN {
            self.fields.0[word] = 0;
        }
        connection::set_original(&mut self.fields, None);
        self.state = None;
    }

    /// Asks for the packet's connection, and notes that the verdict depends on the answer.
    fn track(&mut self, ct: &Ct) -> Result<(Tracked, Option<Facts>, Option<Before>), DropReason> {
        let (mark, label) = self.marks(&ct.exec);
        let zone = match ct.zone {
            CtZone::Number(zone) => zone,
            CtZone::Field(field) => field.get(&self.fields) as u16,
        };
        let Some(mut facts) = self.facts(zone)? else {
            let tracked = no_connection(zone);
            self.tracer.event(Event::Tracked { facts: None, tracked: &tracked });
            return Ok((tracked, None, None));
        };
        // It quotes what earlier translations have made of that.
        facts.inner = facts.inner.map(|quoted| self.quoted.unwrap_or(quoted));
        self.quoted = facts.inner;
        if self.occasion.packet.is_none() && facts.tuple.protocol == Protocol::TCP.0 {
            let (connections, second) = (self.occasion.connections, self.occasion.second);
            facts.tcp = Some(connection::described(connections, zone, &facts, &self.fields, second));
        }
        let commit = ct.commit.then(|| Commit {
            force: ct.force,
            mark,
            label,
            nat: ct.nat.as_ref().and_then(nat),
            helper: ct.helper.map(|helper| match helper {
                CtHelper::Ftp => Helper::Ftp,
                CtHelper::Tftp => Helper::Tftp,
            }),
        });
        let before = self.before.filter(|before| before.zone == zone);
        let tracked = self.ask(&Request {
            zone,
            facts: &facts,
            before,
            commit: commit.as_ref(),
            translate: ct.nat.is_some(),
            second: self.occasion.second,
            effects: self.occasion.effects,
        });
        self.tracer.event(Event::Tracked { facts: Some(&facts), tracked: &tracked });
        self.before = Some(tracked.before());
        let ordinary = self.ordinary(&tracked, before, &facts, commit.as_ref());
        let begun = matches!(self.verdict.asked, Asked::Begun(_));
        self.verdict.asked = self.verdict.asked.and(ordinary);
        // It has begun a connection, so it is for this packet only, but others can't learn of it.
        self.verdict.fleeting |= begun && self.verdict.asked == Asked::Other;
        self.depend(&tracked, before);
        match tracked.refused {
            // Untranslated it would leave from an address that is not to be seen there.
            Some(Refusal::NatExhausted) => Err(DropReason::NatExhausted),
            // Its answers would go to another.
            Some(Refusal::Clash) => Err(DropReason::ConnectionClash),
            _ => Ok((tracked, Some(facts), before)),
        }
    }

    /// What the answer is to the first packet of an ordinary connection; `None` if it is none.
    fn ordinary(
        &self,
        tracked: &Tracked,
        before: Option<Before>,
        facts: &Facts,
        commit: Option<&Commit>,
    ) -> Option<Answer> {
        let zone = tracked.zone;
        let is_new = tracked.state == State::NEW | State::TRK && tracked.refused.is_none();
        let is_plain = commit.is_none_or(|commit| (commit.nat, commit.helper) == (None, None))
            && tracked.translation.is_none()
            && facts.inner.is_none()
            && !connection::is_fragment(&self.fields)
            && ENDS.into_iter().all(|(word, bits)| self.written.0[word] & bits == 0);
        match commit {
            _ if !(is_new && is_plain) => None,
            // A connection that there was already, and that wasn't answered yet: if this walk has begun it, others will theirs.
            _ if tracked.connection.is_connection() && !tracked.created => {
                let begun = matches!(self.verdict.asked, Asked::Begun(begun) if begun.zone == zone);
                let changes = |commit: &Commit| *commit != Commit::default();
                let known = before.is_some_and(|before| before.connection.is_connection());
                (begun && !commit.is_some_and(changes)).then_some(if known {
                    Answer::Known
                } else {
                    Answer::Again
                })
            }
            None => Some(Answer::New(zone)),
            Some(Commit { mark, label, .. }) => {
                Some(Answer::Begun(Begun { zone, mark: *mark, label: *label, again: 0 }))
                    .filter(|_| tracked.created)
            }
        }
    }

    /// What the tracker is told of the packet; `None` if it can have no connection. The error is that of [`Walk::wait_for_whole`].
    fn facts(&mut self, zone: u16) -> Result<Option<Facts>, DropReason> {
        if !connection::is_fragment(&self.fields) {
            return Ok(connection::facts(&self.fields, self.occasion.packet));
        }
        self.wait_for_whole(zone)?;
        let whole = self.occasion.whole;
        Ok(whole.and_then(|whole| connection::facts_of_fragment(&self.fields, &whole.facts, self.ports)))
    }

    /// The error ends the walk of a fragment that has to wait for the others: it is its drop's reason if nobody keeps it.
    pub(super) fn wait_for_whole(&mut self, zone: u16) -> Result<(), DropReason> {
        let Occasion { packet, whole, effects, .. } = self.occasion;
        if !connection::is_fragment(&self.fields) {
            return Ok(());
        }
        self.verdict.fleeting = true;
        if whole.is_some() || packet.is_none() || !effects {
            return Ok(());
        }
        let (key, zone) = (&self.occasion.key.0, u64::from(zone));
        // The tunnel that it came in by, and its outermost tag.
        self.verdict.waits = Some([key[2], key[1] << 48 | zone]);
        Err(DropReason::FragmentExpired)
    }

    /// Asks the tracker; for a fragment only if its packet hasn't been asked for yet.
    fn ask(&mut self, request: &Request<'_>) -> Tracked {
        let connections = self.occasion.connections;
        let Some(whole) = self.whole() else { return connections.track(request) };
        let at = self.answered;
        self.answered += 1;
        let mut answers = whole.answers.borrow_mut();
        if let Some(known) = answers.get(at).filter(|known| known.zone == request.zone) {
            return *known;
        }
        // The first to ask, or one that went another way.
        let tracked = connections.track(request);
        answers.truncate(at);
        answers.push(tracked);
        tracked
    }

    /// The packet that this one is a fragment of.
    pub(super) fn whole(&self) -> Option<&'a Datagram> {
        self.occasion.whole.filter(|_| connection::is_fragment(&self.fields))
    }

    /// Of a fragment: protocol and ports (or type and code) of its whole packet, as the words of [`PROTOCOL`] and ports have them.
    pub(super) fn shown_of_whole(&self) -> Option<(u64, u64)> {
        let tuple = self.whole()?.facts.tuple;
        let (source, destination) = match self.ports {
            _ if tuple.is_icmp() => (tuple.icmp_type().into(), tuple.dst_port & 0xff),
            Some(ports) => ports,
            None => (tuple.src_port, tuple.dst_port),
        };
        let ports = u64::from(source) << 48 | u64::from(destination) << 32;
        Some((u64::from(tuple.protocol) << 24, ports))
    }

    /// Which bits of mark and label `exec(..)` sets.
    fn marks(&self, exec: &[Action]) -> (Masked<u32>, Masked<u128>) {
        if exec.is_empty() {
            return Default::default();
        }
        let (mut values, mut masks) = (self.fields, Fields::default());
        for action in exec {
            let (target, value, mask) = match action {
                Action::SetField { field, value, mask } => {
                    (Subfield::whole(*field), *value, mask.bits(*field))
                }
                Action::Load { target, value } => (*target, *value, u128::MAX),
                Action::Move { source, target } => (*target, source.get(&values), u128::MAX),
                _ => continue,
            };
            let old = target.get(&values);
            target.set(&mut values, old & !mask | value & mask);
            let written = target.get(&masks) | mask;
            target.set(&mut masks, written);
        }
        let (mark, label) = (Subfield::whole(Field::CtMark), Subfield::whole(Field::CtLabel));
        (
            Masked { value: mark.get(&values) as u32, mask: mark.get(&masks) as u32 },
            Masked { value: label.get(&values), mask: label.get(&masks) },
        )
    }

    /// Notes what the answer depends on. What is only for this packet, or depends on too much, isn't cached.
    fn depend(&mut self, tracked: &Tracked, before: Option<Before>) {
        // Asked again in a zone, and nothing has changed: it is noted already.
        if before.is_some_and(|before| before.connection == tracked.connection)
            && self.verdict.links.contains(&tracked.connection)
            && tracked.connection.is_connection()
        {
            return;
        }
        let lasts = tracked.link != Link::NEVER;
        // Of a first packet the others of its kind can learn.
        self.verdict.fleeting |= !lasts && !matches!(self.verdict.asked, Asked::Begun(_));
        let link = if lasts { tracked.link } else { tracked.connection };
        if [Link::NONE, Link::NEVER].contains(&link) || self.verdict.links.contains(&link) {
            return;
        }
        // This very walk has changed the connection: what it was before counts no more.
        let changed = |known: &Link| known.is_connection() && known.place == link.place;
        let links = &mut self.verdict.links;
        let known = links.iter().position(changed);
        self.verdict.fleeting |= known.is_some();
        match known.or_else(|| links.iter().position(|&place| place == Link::NONE)) {
            Some(at) => links[at] = link,
            None => self.verdict.fleeting = true,
        }
    }

    /// Connections that this very walk has replaced don't say any more how the packet is translated.
    pub(super) fn settle_translations(&mut self) {
        let (translations, links) = (&self.translations, &self.verdict.links);
        let connections = self.occasion.connections;
        for op in &mut self.verdict.ops {
            if let Op::Translate(number) = *op
                && let Some(Some(translation)) = translations.get(usize::from(number))
                && links.get(usize::from(number)).is_none_or(|&link| connections.translation(link).is_none())
            {
                self.verdict.fleeting = true;
                *op = Op::TranslateTo(Box::new(Once { translation: *translation, whole: None }));
            }
        }
    }

    /// From here on the packet has other addresses and ports.
    fn translate(&mut self, translation: &Translation, connection: Link) {
        self.flush();
        let number = self.verdict.links.iter().position(|&link| link == connection);
        let whole = self.whole().map(|whole| whole.len);
        let lasts = whole.is_none() && !translation.related && connection.is_connection();
        let by_link = number.filter(|_| lasts);
        self.verdict.ops.push(match by_link {
            Some(number) => {
                if let Some(place) = self.translations.get_mut(number) {
                    *place = Some(*translation);
                }
                Op::Translate(number as u8)
            }
            None => Op::TranslateTo(Box::new(Once { translation: *translation, whole })),
        });
        if translation.related {
            connection::set_related(&mut self.fields, translation);
            self.quoted = self.quoted.map(|quoted| connection::translated_quote(quoted, translation));
        } else {
            connection::set_packet(&mut self.fields, &translation.tuple);
            self.ports = Some((translation.tuple.src_port, translation.tuple.dst_port));
        }
        PACKET.into_iter().for_each(|bits| self.unknown.add(bits));
        self.state = None;
    }

    /// A copy of the packet goes on at a table.
    fn go_on_tracked(
        &mut self,
        here: &Here<'_>,
        table: TableId,
        tracked: &Tracked,
    ) -> Result<(), DropReason> {
        self.depth += 1;
        let result = self.scoped(|walk| {
            let set = walk.action_set.clone();
            walk.show(tracked);
            let how = How::arrived(here.port.spec.ofport);
            let result = walk.look_up(here, table, how).and_then(|()| walk.run_action_set(here));
            walk.action_set = set;
            result
        });
        self.depth -= 1;
        result
    }

    /// Puts what tracking has said into the fields.
    fn show(&mut self, tracked: &Tracked) {
        // ct_mark, ct_state, ct_zone; ct_label
        let words = &mut self.fields.0;
        words[27] =
            u64::from(tracked.mark) << 32 | u64::from(tracked.state.0) << 16 | u64::from(tracked.zone);
        (words[28], words[29]) = ((tracked.label >> 64) as u64, tracked.label as u64);
        connection::set_original(&mut self.fields, tracked.original.as_ref());
        TUPLE.into_iter().for_each(|bits| self.unknown.add(bits));
        self.state = None;
    }

    /// What `resubmit(,N,ct)` looks up: the packet with the tuple that began its connection, and that in the packet's place.
    /// `None` if it has none, or is no IP: then nothing is looked up.
    pub(super) fn swap_tuples(&mut self) -> Option<()> {
        let before = self.fields;
        connection::swap(&mut self.fields)?;
        if self.fields != before {
            PACKET.into_iter().chain(TUPLE).chain([PROTOCOL]).for_each(|bits| self.unknown.add(bits));
        }
        self.state = None;
        Some(())
    }
}

/// What is said of a packet that can't have a connection: which packets these are, the key says.
fn no_connection(zone: u16) -> Tracked {
    Tracked {
        state: State::INV | State::TRK,
        zone,
        mark: 0,
        label: 0,
        original: None,
        translation: None,
        link: Link::NONE,
        connection: Link::NEVER,
        created: false,
        refused: None,
        helper: None,
    }
}

const _: () = assert!(WORDS < UNKNOWN as usize, "a word's number leaves the bit free");

/// How a new connection is to be translated; `None` as the connection that there is says.
fn nat(nat: &weft_flow::action::Nat) -> Option<Nat> {
    let side = match nat.kind? {
        NatKind::Source => Side::Source,
        NatKind::Destination => Side::Destination,
    };
    let addresses = nat.addresses.map(|addresses| match addresses {
        NatAddresses::V4(low, high) => (low.to_bits().into(), high.to_bits().into()),
        NatAddresses::V6(low, high) => (low.to_bits(), high.to_bits()),
    });
    let choice = match (nat.choice, nat.persistent) {
        (Some(NatChoice::Random), _) => Choice::Random,
        (_, true) => Choice::Persistent,
        _ => Choice::Hash,
    };
    Some(Nat { side, addresses, ports: nat.ports, choice })
}
