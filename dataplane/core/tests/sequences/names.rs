//! What each of two switches has chosen for connections that it translates from a range: learned from the first frame of
//! each. With that, frames of the one become those that the other would have sent if it had chosen the same.

use weft_wire::DropReason;
use weft_wire::checksum::checksum;

use crate::case::Outcome;
use crate::explained::{DESTINATION, Header, NEW, SOURCE, is_first, shown, state};
use crate::flow::{Flow, Place};
use crate::packets::{Ends, ICMP, TCP, UDP};
use crate::range::Range;

/// What a connection became.
#[derive(Clone, Copy, Debug)]
struct Choice {
    asked: Flow,
    theirs: Flow,
    ours: Flow,
    /// How often time had gone by when it was last seen.
    age: usize,
}

/// What a packet has taught.
#[derive(Debug, PartialEq, Eq)]
pub enum Learned {
    Nothing,
    /// Both have translated a new connection.
    Both,
    /// Neither: nothing was free.
    Neither,
    /// One has: for the other nothing was free at the address that it had chosen. Packets of this connection can't be compared.
    One,
}

/// Whether it is a packet of a connection's first direction, translated at its source (0) or destination (1).
pub fn is_translated_first(frame: &[u8], side: usize) -> bool {
    is_first(frame) && state(frame) & [SOURCE, DESTINATION][side] != 0
}

#[derive(Debug)]
pub struct Names {
    range: Range,
    known: Vec<Choice>,
    /// Connections that only one of the two has, or that are another one to each: what they begin with and what they
    /// become, in Open vSwitch and in weft.
    lost: [Vec<Flow>; 2],
    /// What connections of Open vSwitch became before they ended: it may hold that until its sweep.
    past: Vec<Flow>,
    age: usize,
}

/// The age of a connection that is over.
const OVER: usize = usize::MAX;
/// Whose.
const THEIRS: usize = 0;
const OURS: usize = 1;

impl Choice {
    fn of(&self, whose: usize) -> Flow {
        [self.theirs, self.ours][whose]
    }
}

const NAMES: [&str; 2] = ["Open vSwitch", "weft"];

impl Names {
    pub fn new(range: Range) -> Names {
        Names { range, known: Vec::new(), lost: Default::default(), past: Vec::new(), age: 0 }
    }

    /// Time goes by: connections may be over.
    pub fn wait(&mut self) {
        self.age += 1;
    }

    /// Whether a packet goes to where a translation might lead, but none does, or only one that is over, and weft has
    /// chosen the same for another since: to weft it could be another connection's.
    pub fn is_unknown(&mut self, frame: &[u8]) -> bool {
        let Some(flow) = Flow::of(frame).or_else(|| Flow::quoted(frame)) else { return false };
        let is_outer = flow.ends.addresses.iter().any(|&address| self.range.has(address));
        let is_unknown = is_outer && self.known_as(&flow).is_none_or(|choice| self.is_taken_over(choice));
        if is_unknown {
            self.lost.iter_mut().for_each(|lost| lost.push(flow));
        }
        is_unknown
    }

    /// A packet (as it is to Open vSwitch, and to weft) to where a connection was translated to that is over, which begins
    /// one of its own: to each of the two it is another one from then on.
    pub fn is_orphan(&mut self, packets: [&[u8]; 2], outcomes: [&Outcome; 2]) -> bool {
        let answers = [DESTINATION, SOURCE][self.range.side];
        let begins = |frames: &&Outcome| {
            shown(frames).last().is_some_and(|frame| state(frame) & NEW != 0)
                && shown(frames).all(|frame| state(frame) & answers == 0)
        };
        let is_orphan = packets[0] != packets[1] && outcomes.iter().all(begins);
        if is_orphan {
            for (lost, (packet, frames)) in self.lost.iter_mut().zip(packets.into_iter().zip(outcomes)) {
                let all = std::iter::once(packet).chain(frames.iter().map(Vec::as_slice));
                lost.extend(all.filter_map(Flow::of));
            }
        }
        is_orphan
    }

    /// Whether a packet belongs to a connection that one of the two hasn't made.
    pub fn is_lost(&self, frame: &[u8]) -> bool {
        let is = |flow: Flow| self.lost[THEIRS].contains(&flow) || self.lost[THEIRS].contains(&flow.turned());
        [Flow::of(frame), Flow::quoted(frame)].into_iter().flatten().any(is)
    }

    /// Takes note of what a packet that asked for a translation became; an error if a switch has chosen what it may not.
    pub fn learn(
        &mut self,
        packet: &[u8],
        (ours, theirs): (&Outcome, &Outcome),
        drops: &[DropReason],
    ) -> Result<Learned, String> {
        let Some(asked) = Flow::of(packet) else { return Ok(Learned::Nothing) };
        let translated = |frames: &Outcome| {
            let is = |frame: &&Vec<u8>| is_translated_first(frame, self.range.side);
            shown(frames).find(is).and_then(|frame| Flow::of(frame))
        };
        let refused = ours.is_empty() && drops.contains(&DropReason::NatExhausted);
        match (translated(ours), translated(theirs)) {
            (Some(ours), Some(theirs)) => self.both(packet, Choice { asked, theirs, ours, age: self.age }),
            (None, Some(theirs)) if refused => {
                self.exhausted(&asked, OURS)?;
                self.lose(asked, THEIRS, theirs);
                Ok(Learned::One)
            }
            (Some(ours), None) if shown(theirs).last().is_some_and(|frame| state(frame) & NEW != 0) => {
                self.exhausted(&asked, THEIRS)?;
                self.lose(asked, OURS, ours);
                Ok(Learned::One)
            }
            (None, None) if refused && !theirs.is_empty() => {
                self.exhausted(&asked, OURS)?;
                self.exhausted(&asked, THEIRS)?;
                Ok(Learned::Neither)
            }
            _ => {
                // Another one has begun that nobody keeps.
                let is_over = shown(theirs).next().is_some_and(|frame| state(frame) & NEW != 0);
                let known = self.known.iter_mut().filter(|choice| is_over && choice.asked == asked);
                known.for_each(|choice| choice.age = OVER);
                Ok(Learned::Nothing)
            }
        }
    }

    fn lose(&mut self, asked: Flow, whose: usize, chosen: Flow) {
        let before = self.known.iter().position(|choice| choice.asked == asked);
        let before = before.map(|at| self.known.remove(at));
        for (whose, lost) in self.lost.iter_mut().enumerate() {
            // What it was may be another's by now.
            let is_free = |flow: &Flow| self.known.iter().all(|other| other.of(whose) != *flow);
            lost.extend([asked].into_iter().chain(before.map(|choice| choice.of(whose)).filter(is_free)));
        }
        self.lost[whose].push(chosen);
    }

    fn both(&mut self, packet: &[u8], new: Choice) -> Result<Learned, String> {
        for (whose, lost) in self.lost.iter_mut().enumerate() {
            // Whoever had it is over.
            lost.retain(|flow| ![*flow, flow.turned()].contains(&new.of(whose)));
        }
        if let Some(at) = self.known.iter().position(|choice| choice.asked == new.asked) {
            // Last, as it is the one that is alive of those that had this name.
            let old = self.known.remove(at);
            if (old.ours, old.theirs) == (new.ours, new.theirs) {
                self.known.push(new);
                return Ok(Learned::Nothing);
            }
            // Another connection has to be another one to both.
            let flags = Header::of(packet).message.get(13).copied().unwrap_or_default();
            let may_be_another = old.age != self.age || new.asked.protocol == TCP && flags & 0x16 == 2;
            if !may_be_another {
                return Err(format!("{old:?} becomes {new:?}"));
            }
        }
        [THEIRS, OURS].into_iter().try_for_each(|whose| self.check(&new, whose))?;
        self.past.push(new.theirs);
        self.known.push(new);
        Ok(Learned::Both)
    }

    fn check(&self, new: &Choice, whose: usize) -> Result<(), String> {
        let (chosen, name) = (new.of(whose), NAMES[whose]);
        if !self.range.allows(&new.asked, &chosen, &|flow| self.is_taken(flow, whose)) {
            return Err(format!("{name} makes of {:?} {chosen:?}, in {:?}", new.asked, self.range));
        }
        let is_same = |old: &&Choice| old.of(whose) == chosen || old.asked == chosen.turned();
        match self.known.iter().filter(|old| old.age == self.age).find(is_same) {
            Some(old) => Err(format!("{name} makes of {:?} {chosen:?}, which is {old:?}", new.asked)),
            None => Ok(()),
        }
    }

    fn exhausted(&self, asked: &Flow, whose: usize) -> Result<(), String> {
        let is_taken = |flow: &Flow| self.is_taken(flow, whose);
        match self.range.may_be_exhausted(asked, &is_taken) {
            true => Ok(()),
            false => Err(format!("{} finds nothing for {asked:?} in {:?}", NAMES[whose], self.range)),
        }
    }

    /// Whether a connection has been translated to this, or begins with what would be its answers.
    fn is_taken(&self, flow: &Flow, whose: usize) -> bool {
        let lost = &self.lost[whose];
        let is_past = || {
            lost.contains(flow)
                || lost.contains(&flow.turned())
                || whose == THEIRS && self.past.contains(flow)
        };
        self.known.iter().any(|choice| choice.of(whose) == *flow || choice.asked == flow.turned())
            || is_past()
    }

    /// Whether `persistent` holds, if it is asked for: each client has one address.
    pub fn is_persistent(&self) -> bool {
        let side = self.range.side;
        let same = |a: &Choice, b: &Choice| {
            a.asked.ends.addresses[0] != b.asked.ends.addresses[0]
                || a.ours.ends.addresses[side] == b.ours.ends.addresses[side]
        };
        self.range.choice != ",persistent" || self.known.iter().all(|a| self.known.iter().all(|b| same(a, b)))
    }

    /// The latest connection that has become this flow in Open vSwitch, or whose answers it is.
    fn known_as(&self, flow: &Flow) -> Option<&Choice> {
        self.known.iter().rev().find(|choice| [*flow, flow.turned()].contains(&choice.theirs))
    }

    /// Whether weft has made of a later connection what it had made of this one.
    fn is_taken_over(&self, choice: &Choice) -> bool {
        let is_later = |other: &Choice| other.age > choice.age && other.age != OVER;
        self.known.iter().any(|other| other.ours == choice.ours && is_later(other))
    }

    /// What became of a flow, and what weft has made of it.
    fn choice(&self, flow: &Flow) -> Option<(Ends, Ends)> {
        let Choice { theirs, ours, .. } = self.known_as(flow)?;
        match theirs == flow {
            true => Some((theirs.ends, ours.ends)),
            false => Some((theirs.ends.turned(), ours.ends.turned())),
        }
    }

    /// The frame as it would be if Open vSwitch had chosen as weft has.
    pub fn ours(&self, frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        let Some(place) = Place::of(&frame) else { return frame };
        if let Some((old, new)) = Flow::of(&frame).and_then(|flow| self.choice(&flow)) {
            rewrite(&mut frame, &place, (&old, &new));
        }
        let quoted = Flow::quoted(&frame).and_then(|flow| self.choice(&flow));
        if let (Some((old, new)), Some(inner)) = (quoted, place.quotation(&frame)) {
            rewrite(&mut frame, &inner, (&old, &new));
            let mut ends = place.ends(&frame);
            for address in &mut ends.addresses {
                for (old, new) in old.addresses.iter().zip(new.addresses) {
                    if old != &new && address == old {
                        *address = new;
                    }
                }
            }
            place.write(&mut frame, &ends);
            place.sum(&mut frame);
        }
        frame
    }

    /// Lines of Open vSwitch's list of connections, as weft would write them; without those that can't be compared.
    pub fn lines(&self, theirs: &[String]) -> Vec<String> {
        let known = self.comparable(theirs);
        let mut lines: Vec<String> = known.iter().map(|line| self.line(line)).collect();
        lines.sort();
        lines
    }

    /// Lines of weft's list, without those that can't be compared.
    pub fn own_lines(&self, ours: &[String]) -> Vec<String> {
        self.comparable(ours)
    }

    fn comparable(&self, lines: &[String]) -> Vec<String> {
        let is_lost = |line: &String| {
            let asked = self.parts(line).0;
            let is_outer = asked.ends.addresses.iter().any(|&address| self.range.has(address));
            is_outer || self.lost.iter().any(|lost| lost.contains(&asked) || lost.contains(&asked.turned()))
        };
        lines.iter().filter(|line| !is_lost(line)).cloned().collect()
    }

    /// A line's original flow, and where the other tuple is in its text.
    fn parts(&self, line: &str) -> (Flow, std::ops::Range<usize>) {
        let from = line.find(",reply=(").unwrap() + ",reply=(".len();
        let (protocol, original) = line.split_once(",orig=(").unwrap();
        let original = original.split_once(')').unwrap().0;
        let until = from + line[from..].find(')').unwrap();
        (Flow::told(protocol, original, self.range.six), from..until)
    }

    fn line(&self, line: &str) -> String {
        let (asked, reply) = self.parts(line);
        let told = Flow::told(line.split(',').next().unwrap(), &line[reply.clone()], self.range.six);
        let is = |choice: &&Choice| choice.asked == asked && choice.theirs.turned() == told;
        let Some(choice) = self.known.iter().find(is) else { return line.to_owned() };
        let reply_text = retold(&line[reply.clone()], &choice.ours.turned().ends);
        format!("{}{reply_text}{}", &line[..reply.start], &line[reply.end..])
    }
}

/// Other ends in a tuple's text.
fn retold(text: &str, ends: &Ends) -> String {
    let address = |address: u128| match ends.six {
        true => std::net::Ipv6Addr::from(address).to_string(),
        false => std::net::Ipv4Addr::from(address as u32).to_string(),
    };
    let word = |word: &str| match word.split_once('=').unwrap() {
        ("src", _) => format!("src={}", address(ends.addresses[0])),
        ("dst", _) => format!("dst={}", address(ends.addresses[1])),
        ("sport", _) => format!("sport={}", ends.ports[0]),
        ("dport", _) => format!("dport={}", ends.ports[1]),
        _ => word.to_owned(),
    };
    text.split(',').map(word).collect::<Vec<_>>().join(",")
}

/// Gives a packet other ends; its checksums stay as right as they were (RFC 1624).
fn rewrite(frame: &mut [u8], place: &Place, (old, new): (&Ends, &Ends)) {
    let mut ends = place.ends(frame);
    let has_ports = [TCP, UDP].contains(&place.protocol);
    ends.addresses = new.addresses;
    if has_ports {
        ends.ports = new.ports;
    }
    place.write(frame, &ends);
    let Some(at) = place.checksum().filter(|_| place.protocol != ICMP) else { return };
    let words = |ends: &Ends| {
        let mut octets: Vec<u8> = ends.addresses.iter().flat_map(|address| address.to_be_bytes()).collect();
        if has_ports {
            octets.extend(ends.ports.iter().flat_map(|port| port.to_be_bytes()));
        }
        u32::from(!checksum(&octets))
    };
    let was = u32::from(!u16::from_be_bytes([frame[at], frame[at + 1]]));
    let sum = was + (0xffff - words(old)) + words(new);
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[at..at + 2].copy_from_slice(&folded.to_be_bytes());
}
