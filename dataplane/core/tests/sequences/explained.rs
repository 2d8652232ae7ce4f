//! Where weft means to differ from Open vSwitch's tracker, by classes that `docs/semantics.md` explains.

use weft_wire::DropReason;

use crate::case::{Outcome, Step};
use crate::flow::Place;
use crate::packets::{ICMP, ICMP6, TCP, UDP};
use crate::policy::{Path, is_outer};

pub const NEW: u8 = 1;
pub const ESTABLISHED: u8 = 2;
pub const RELATED: u8 = 4;
pub const REPLY: u8 = 8;
const INVALID: u8 = 16;
const TRACKED: u8 = 32;
pub const SOURCE: u8 = 0x40;
pub const DESTINATION: u8 = 0x80;
const TRANSLATED: u8 = SOURCE | DESTINATION;

/// A step whose frames differ.
pub struct Difference<'d> {
    pub step: &'d Step,
    pub ours: &'d Outcome,
    pub theirs: &'d Outcome,
    /// Whether a SYN has had a window of 65535, and a scale for it.
    pub wide: bool,
    /// Why weft has dropped something.
    pub drops: &'d [DropReason],
}

impl Difference<'_> {
    /// The first two frames, ours and theirs, that are not the same.
    fn first_pair(&self) -> Option<(&Vec<u8>, &Vec<u8>)> {
        self.ours.iter().zip(self.theirs).find(|(ours, theirs)| ours != theirs)
    }
}

/// What is to be done after a difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// Both know the same of connections.
    GoOn,
    /// They may not.
    Stop,
}

/// Of translations to one address.
pub const OTHER_PORT: &str = "another free port: each goes by its own hash";

type Is = fn(&Difference<'_>, &Header<'_>) -> bool;

const CLASSES: [(Is, Then, &str); 15] = [
    (
        is_of_order,
        Then::GoOn,
        "fragments leave in the order in which they came, and show ct_tp_src and ct_tp_dst",
    ),
    (
        is_refused_fragment,
        Then::GoOn,
        "a fragment that is refused is dropped; Open vSwitch sends it as invalid",
    ),
    (
        is_late_fragment,
        Then::GoOn,
        "fragments that have waited in vain are dropped; Open vSwitch sends them as invalid",
    ),
    (is_refused_first, Then::Stop, "what can't be translated, or whose answers are another's, is dropped"),
    (is_refused, Then::GoOn, "what can't be translated, or whose answers are another's, is dropped"),
    (is_damaged, Then::GoOn, "Open vSwitch damages translated ICMPv6 errors about TCP and UDP"),
    (is_of_choice, Then::Stop, OTHER_PORT),
    (
        is_taken_still,
        Then::Stop,
        "Open vSwitch holds the port of a connection that has ended until it is swept",
    ),
    (
        is_command_of_the_other,
        Then::Stop,
        "a server's answer from who began: no command here, invalid in Open vSwitch",
    ),
    (is_expected_again, Then::Stop, "what is expected is used up by the connection that comes"),
    (
        is_translated_to_itself,
        Then::GoOn,
        "an expected connection behind nat is translated in Open vSwitch, be it to what it was",
    ),
    (
        is_orphan,
        Then::Stop,
        "a reply of a translated connection that has ended: invalid in Open vSwitch until the sweep",
    ),
    (is_overflow, Then::Stop, "a window of 65535 that isn't to be scaled becomes 0 in Open vSwitch"),
    (is_ended_by_an_error, Then::Stop, "an ICMP error with force: in Open vSwitch it ends a connection"),
    (
        is_forced_answer,
        Then::Stop,
        "force: in Open vSwitch an answer doesn't replace a translated connection",
    ),
];

/// The class of a difference; `None` if there is no reason for it.
pub fn why(difference: &Difference<'_>) -> Option<(Then, &'static str)> {
    let Step::Packet(octets) = difference.step else { return None };
    let header = Header::of(octets);
    CLASSES.iter().find(|(is, ..)| is(difference, &header)).map(|&(_, then, why)| (then, why))
}

/// What a frame has behind its IP header.
#[derive(Debug)]
pub struct Header<'f> {
    tos: u8,
    six: bool,
    protocol: u8,
    fragment: bool,
    /// Where it begins.
    at: usize,
    pub message: &'f [u8],
}

impl Header<'_> {
    pub fn of(frame: &[u8]) -> Header<'_> {
        let six = frame[12..14] == [0x86, 0xdd];
        let (tos, mut protocol, mut at) = match six {
            true => (frame[14] << 4 | frame[15] >> 4, frame[20], 54),
            false => (frame[15], frame[23], 14 + 4 * usize::from(frame[14] & 15)),
        };
        if six && protocol == 0 {
            (protocol, at) = (frame[54], 62);
        }
        let fragment = if six { protocol == 44 } else { frame[20] & 0x3f != 0 || frame[21] != 0 };
        Header { tos, six, protocol, fragment, at, message: frame.get(at..).unwrap_or_default() }
    }

    fn path(&self) -> Option<Path> {
        crate::policy::PATHS.get(usize::from(self.tos / 4)).copied()
    }

    fn is_forced(&self) -> bool {
        let forced =
            [Path::Force, Path::ForceMark, Path::ForceSource, Path::ForceDestination, Path::ForceBare];
        forced.iter().any(|path| path.tos() == self.tos)
    }

    fn is_error(&self) -> bool {
        let kind = self.message.first().copied().unwrap_or_default();
        match self.protocol {
            ICMP => [3, 4, 5, 11, 12].contains(&kind),
            ICMP6 => self.six && kind < 128,
            _ => false,
        }
    }
}

/// `ct_state`, as the rules have written it.
pub fn state(frame: &[u8]) -> u8 {
    frame[11]
}

/// Whether it is a packet of a connection's first direction.
pub fn is_first(frame: &[u8]) -> bool {
    state(frame) & (NEW | ESTABLISHED) != 0 && state(frame) & (RELATED | REPLY) == 0
}

/// The frames that show states: behind each of a packet with a connection there is one that shows its tuple.
pub fn shown(frames: &Outcome) -> impl Iterator<Item = &Vec<u8>> {
    let mut frames = frames.iter();
    std::iter::from_fn(move || {
        let frame = frames.next()?;
        let has = |bits| state(frame) & bits != 0;
        if has(TRACKED) && !has(INVALID) && (!has(RELATED) || has(NEW | ESTABLISHED | REPLY)) {
            frames.next();
        }
        Some(frame)
    })
}

/// Open vSwitch shows no `ct_tp_src` and `ct_tp_dst` of later fragments.
fn is_of_order(difference: &Difference<'_>, header: &Header<'_>) -> bool {
    if !header.fragment {
        return false;
    }
    let without_ports = |frame: &Vec<u8>| {
        let (mut frame, header) = (frame.clone(), Header::of(frame));
        let offset = if header.six {
            header.message.get(2..4).is_some_and(|word| u16::from_be_bytes([word[0], word[1]]) > 7)
        } else {
            frame[20] & 0x1f != 0 || frame[21] != 0
        };
        if offset {
            frame[0..2].fill(0);
            frame[6..8].fill(0);
        }
        frame
    };
    let mut theirs: Vec<_> = difference.theirs.iter().map(without_ports).collect();
    let all_there = difference.ours.iter().map(without_ports).all(|frame| {
        let found = theirs.iter().position(|other| *other == frame);
        found.map(|at| theirs.swap_remove(at)).is_some()
    });
    // One that was refused in the zone before has come to this one first.
    all_there && theirs.iter().all(|frame| state(frame) & INVALID != 0)
}

fn is_refused(difference: &Difference<'_>, _: &Header<'_>) -> bool {
    let refused = [DropReason::NatExhausted, DropReason::ConnectionClash];
    difference.ours.is_empty() && difference.drops.iter().any(|reason| refused.contains(reason))
}

/// In Open vSwitch the packet goes on to the next zone.
fn is_refused_first(difference: &Difference<'_>, header: &Header<'_>) -> bool {
    // What was expected it makes all the same.
    let is_expected = difference.theirs.iter().any(|frame| state(frame) & RELATED != 0);
    is_refused(difference, header) && (header.path() == Some(Path::Both) || is_expected)
}

fn is_refused_fragment(difference: &Difference<'_>, header: &Header<'_>) -> bool {
    use DropReason::{FragmentMalformed, FragmentOverlap, FragmentTooSmall};
    let refused = [FragmentOverlap, FragmentMalformed, FragmentTooSmall];
    let is_invalid = difference.theirs.first().is_some_and(|frame| state(frame) & INVALID != 0);
    let is_refused = difference.drops.iter().any(|reason| refused.contains(reason));
    header.fragment && is_refused && is_invalid && difference.ours.is_empty()
}

fn is_late_fragment(difference: &Difference<'_>, _: &Header<'_>) -> bool {
    let is_late = |frame: &&Vec<u8>| state(frame) & INVALID != 0 && Header::of(frame).fragment;
    let others = difference.theirs.iter().filter(|frame| !is_late(frame));
    difference.theirs.iter().any(|frame| is_late(&frame)) && difference.ours.iter().eq(others)
}

/// It takes the error for what it is about when its addresses change, and the quoted packet is another then.
fn is_damaged(difference: &Difference<'_>, header: &Header<'_>) -> bool {
    let is_translated = difference.theirs.iter().any(|frame| state(frame) & TRANSLATED != 0);
    let about = header.message.get(14);
    header.six && header.is_error() && about.is_some_and(|about| [TCP, UDP].contains(about)) && is_translated
}

/// Whether the frames are the same but for ports (and TCP's and UDP's checksums) that the packet hasn't.
fn is_of_choice(difference: &Difference<'_>, header: &Header<'_>) -> bool {
    let sum = match header.protocol {
        TCP => 16,
        UDP => 6,
        _ => return false,
    };
    let own = header.message.get(..2);
    let form = |frame: &Vec<u8>| {
        let mut frame = frame.clone();
        // What the original tuple is in the next zone.
        let port = frame.get(header.at..header.at + 2).map(<[u8]>::to_vec);
        for place in [header.at, header.at + sum] {
            frame.get_mut(place..place + 2).into_iter().for_each(|octets| octets.fill(0));
        }
        for place in [0..2, 6..8] {
            if own == frame.get(place.clone()) || port.as_deref() == frame.get(place.clone()) {
                frame[place].fill(0);
            }
        }
        frame
    };
    let is_new = |frame: &[u8]| state(frame) & NEW != 0 && state(frame) & TRANSLATED != 0;
    // In the next zone it may be of another connection then.
    difference.first_pair().is_some_and(|(ours, theirs)| form(ours) == form(theirs) && is_new(theirs))
}

/// What begins anew is translated by weft, and not by Open vSwitch; a reply that does so has no state there at all.
fn is_taken_still(difference: &Difference<'_>, _: &Header<'_>) -> bool {
    difference.first_pair().is_some_and(|(ours, theirs)| {
        let begins = state(ours) & NEW != 0 && state(ours) != state(theirs);
        begins && [state(ours) & !TRANSLATED, TRACKED, TRACKED | RELATED].contains(&state(theirs))
    })
}

/// In Open vSwitch it stays, for whoever comes.
fn is_expected_again(difference: &Difference<'_>, _: &Header<'_>) -> bool {
    difference.first_pair().is_some_and(|(ours, theirs)| {
        state(ours) & NEW != 0 && state(ours) | RELATED == state(theirs) && state(ours) != state(theirs)
    })
}

fn is_command_of_the_other(difference: &Difference<'_>, header: &Header<'_>) -> bool {
    let is_ftp = header.protocol == TCP
        && header.message.get(20..23).is_some_and(|text| text == b"227" || text == b"229");
    is_ftp && difference.first_pair().is_some_and(|(ours, theirs)| state(ours) | INVALID == state(theirs))
}

fn is_translated_to_itself(difference: &Difference<'_>, _: &Header<'_>) -> bool {
    let form = |frame: &Vec<u8>| {
        let mut frame = frame.clone();
        if state(&frame) & RELATED != 0 {
            frame[11] &= !TRANSLATED;
        }
        frame
    };
    let all = |outcome: &Outcome| outcome.iter().map(form).collect::<Vec<_>>();
    all(difference.ours) == all(difference.theirs)
}

fn is_overflow(difference: &Difference<'_>, header: &Header<'_>) -> bool {
    let is_answer =
        header.protocol == TCP && header.message.get(13).is_some_and(|flags| flags & 0x17 == 0x12);
    let is_affected = is_answer || header.protocol == TCP && difference.wide;
    // A second look at the same packet may be the first to say so.
    let becomes_invalid =
        |(ours, theirs): (&Vec<u8>, &Vec<u8>)| state(ours) & ESTABLISHED != 0 && state(theirs) & INVALID != 0;
    is_affected && difference.first_pair().is_some_and(becomes_invalid)
}

/// A SYN that asks for a scale and has the widest window.
pub fn is_wide(step: &Step) -> bool {
    let Step::Packet(octets) = step else { return false };
    let header = Header::of(octets);
    let has = |at: usize, octets: &[u8]| header.message.get(at..at + octets.len()) == Some(octets);
    let scales = header.message.get(20..).is_some_and(|options| options.windows(2).any(|two| two == [3, 3]));
    header.protocol == TCP && has(14, &[0xff; 2]) && header.message[13] & 2 != 0 && scales
}

/// What comes to, or from, an address that connections are translated to.
fn is_orphan(difference: &Difference<'_>, header: &Header<'_>) -> bool {
    let Step::Packet(octets) = difference.step else { return false };
    let is_outer = Place::of(octets)
        .is_some_and(|place| place.ends(octets).addresses.iter().any(|&end| is_outer(header.six, end)));
    is_outer
        && difference
            .first_pair()
            .is_some_and(|(ours, theirs)| state(ours) == NEW | TRACKED && state(theirs) == INVALID | TRACKED)
}

fn is_ended_by_an_error(difference: &Difference<'_>, header: &Header<'_>) -> bool {
    let [ours, theirs] = first_states(difference);
    header.is_forced() && header.is_error() && ours & RELATED != 0 && theirs & INVALID != 0
}

/// The states that the two say first.
fn first_states(difference: &Difference<'_>) -> [u8; 2] {
    [difference.ours, difference.theirs].map(|all| all.first().map_or(0, |frame| state(frame)))
}

fn is_forced_answer(difference: &Difference<'_>, header: &Header<'_>) -> bool {
    let [ours, theirs] = first_states(difference);
    let is_other = theirs & REPLY != 0 || (ours ^ theirs) & TRANSLATED != 0;
    let is_answer = is_other && theirs & (REPLY | TRANSLATED) != 0 && ours & REPLY == 0;
    // One that begins nothing has no state at all there.
    header.is_forced() && (is_answer || theirs == TRACKED && ours == INVALID | TRACKED)
}

/// Whether it is FTP's word of where a data connection will go.
fn announces(header: &Header<'_>) -> bool {
    let words: [&[u8]; 4] = [b"PORT", b"EPRT", b"227 ", b"229 "];
    let text = header.message.get(20..).unwrap_or_default();
    header.protocol == TCP && words.iter().any(|word| text.starts_with(word))
}

/// Why the two may know different things of connections from here on, though nothing is to be seen of it yet.
pub fn doubt(step: &Step, theirs: &Outcome, drops: &[DropReason]) -> Option<&'static str> {
    let Step::Packet(octets) = step else { return None };
    let header = Header::of(octets);
    let has = |path: Path| path.tos() == header.tos;
    let first = shown(theirs).next().map_or(0, |frame| state(frame));
    let is_again =
        has(Path::CommitNew) && header.protocol == TCP && first & NEW != 0 && first & TRANSLATED != 0;
    if has(Path::BareNat) && first & NEW != 0 {
        Some("nat without a range on a new connection: in Open vSwitch its answers come from 0.0.0.0")
    } else if header.is_forced() && first & INVALID != 0 {
        // It may have ended the connection before it was found to begin none.
        Some("force: in Open vSwitch an answer doesn't replace a translated connection")
    } else if drops.contains(&DropReason::ConnectionClash) {
        Some("Open vSwitch makes two connections with one tuple")
    } else if has(Path::Mark) && announces(&header) {
        Some(
            "an expected connection has the mark that its parent has when a server is announced: at the first ct, in Open vSwitch",
        )
    } else {
        (has(Path::HairpinOne) || is_again)
            .then_some("a second ct behind nat takes part in the state again, in Open vSwitch")
    }
}
