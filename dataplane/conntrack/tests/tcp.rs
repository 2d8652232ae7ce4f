//! TCP as RFC 9293 has it, seen from the middle: whole conversations, segment by segment, with what rules see of each and
//! the states and the timeout afterwards; and two ends that talk at random.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use weft_conntrack::flags::{ACK, FIN, PSH, RST, SYN, URG};
use weft_conntrack::{
    Commit, Connection, Connections, Facts, Family, Filter, Request, Segment, Settings, State, TcpState,
    Timeout, Timeouts, Tracked, Tuple,
};

const TUPLE: Tuple = Tuple {
    src: 0x0a00_0001,
    dst: 0x0a00_0002,
    src_port: 40_000,
    dst_port: 80,
    protocol: 6,
    family: Family::V4,
};

use TcpState::{Closed, Closing, Established, FinWait2, SynSent, TimeWait};

/// A tracker that commits what is new, as a rule would.
struct Middle {
    tracker: Connections,
    second: u32,
}

impl Middle {
    fn new() -> Middle {
        let settings = Settings { max: 100, secret: [5, 6], expectations: 1 };
        Middle { tracker: Connections::new(settings).unwrap(), second: 10 }
    }

    fn track(&self, reply: bool, segment: Segment, commit: bool) -> Tracked {
        let tuple = if reply { TUPLE.reversed() } else { TUPLE };
        let facts = Facts { tuple, tcp: Some(segment), valid: true, inner: None };
        let commit = commit.then_some(&Commit { force: false, ..COMMIT });
        let (before, translate, effects) = (None, false, true);
        let request =
            Request { zone: 0, facts: &facts, before, commit, translate, second: self.second, effects };
        self.tracker.track(&request)
    }

    /// What rules see of a segment; if it is new, it is committed.
    fn see(&self, reply: bool, segment: Segment) -> State {
        self.track(reply, segment, true).state.without(State::TRK)
    }

    fn connection(&self) -> Connection {
        let mut found = None;
        self.tracker.list(&Filter::default(), self.second, &mut |connection| found = Some(*connection));
        found.expect("a connection")
    }

    fn states(&self) -> (TcpState, TcpState) {
        let [a, b] = self.connection().progress.peers;
        (a.state, b.state)
    }
}

const COMMIT: Commit = Commit {
    force: false,
    mark: weft_conntrack::Masked { value: 0, mask: 0 },
    label: weft_conntrack::Masked { value: 0, mask: 0 },
    nat: None,
    helper: None,
};

const NEW: State = State::NEW;
const EST: State = State::EST;
const RPL: State = State(0x0a);
const INV: State = State::INV;

/// Who sends (`false` began the conversation), flags, sequence and acknowledgement number behind the initial ones,
/// octets; then what rules see, both states, and the timeout.
type Line = (bool, u8, u32, u32, u32, State, (TcpState, TcpState), Timeout);

/// Initial sequence numbers, near the end of their space.
const ISS: [u32; 2] = [u32::MAX - 50, u32::MAX - 3];

fn segment(&(reply, flags, seq, ack, payload, ..): &Line) -> Segment {
    let [mine, other] = if reply { [ISS[1], ISS[0]] } else { ISS };
    let ack = if flags & ACK == 0 { 0 } else { other.wrapping_add(ack) };
    Segment { seq: mine.wrapping_add(seq), ack, window: 8192, flags, payload, scale: None }
}

fn play(middle: &Middle, lines: &[Line]) {
    for (at, line) in lines.iter().enumerate() {
        let state = middle.see(line.0, segment(line));
        let connection = middle.connection();
        assert_eq!(
            (state, middle.states(), connection.timeout),
            (line.5, line.6, line.7),
            "segment {at}: {line:?} is {state}"
        );
    }
}

const OPENING: [Line; 3] = [
    (false, SYN, 0, 0, 0, NEW, (SynSent, Closed), Timeout::TcpSynSent),
    (true, SYN | ACK, 0, 1, 0, RPL, (Established, SynSent), Timeout::TcpSynRecv),
    (false, ACK, 1, 1, 0, EST, (Established, Established), Timeout::TcpEstablished),
];

const CLOSING: [Line; 4] = [
    (false, FIN | ACK, 1, 1, 0, EST, (Closing, Established), Timeout::TcpFinWait),
    (true, ACK, 1, 2, 0, RPL, (FinWait2, Established), Timeout::TcpFinWait),
    (true, FIN | ACK, 1, 2, 0, RPL, (FinWait2, Closing), Timeout::TcpTimeWait),
    (false, ACK, 2, 2, 0, EST, (FinWait2, FinWait2), Timeout::TcpClose),
];

#[test]
fn a_conversation_opens_carries_data_and_closes() {
    let middle = Middle::new();
    play(&middle, &OPENING);
    let (established, both) = (Timeout::TcpEstablished, (Established, Established));
    play(
        &middle,
        &[
            (false, ACK | PSH, 1, 1, 500, EST, both, established),
            (true, ACK, 1, 501, 1400, RPL, both, established),
            (true, ACK, 1, 501, 1400, RPL, both, established),
            (false, ACK, 501, 1401, 0, EST, both, established),
            (false, FIN | ACK, 501, 1401, 0, EST, (Closing, Established), Timeout::TcpFinWait),
            (true, ACK, 1401, 502, 700, RPL, (FinWait2, Established), Timeout::TcpFinWait),
            (false, ACK, 502, 2101, 0, EST, (FinWait2, Established), Timeout::TcpFinWait),
            (true, FIN | ACK, 2101, 502, 0, RPL, (FinWait2, Closing), Timeout::TcpTimeWait),
            (false, ACK, 502, 2102, 0, EST, (FinWait2, FinWait2), Timeout::TcpClose),
        ],
    );
}

#[test]
fn both_ends_may_close_at_once() {
    let middle = Middle::new();
    play(&middle, &OPENING);
    play(
        &middle,
        &[
            (false, FIN | ACK, 1, 1, 0, EST, (Closing, Established), Timeout::TcpFinWait),
            (true, FIN | ACK, 1, 1, 0, RPL, (FinWait2, Closing), Timeout::TcpTimeWait),
            (false, ACK, 2, 2, 0, EST, (FinWait2, FinWait2), Timeout::TcpClose),
        ],
    );
}

#[test]
fn both_ends_may_open_at_once() {
    let middle = Middle::new();
    play(
        &middle,
        &[
            (false, SYN, 0, 0, 0, NEW, (SynSent, Closed), Timeout::TcpSynSent),
            (true, SYN, 0, 0, 0, NEW, (SynSent, SynSent), Timeout::TcpSynSent),
        ],
    );
}

#[test]
fn a_syn_that_is_sent_again_is_new_and_one_in_a_closed_connection_begins_another() {
    let middle = Middle::new();
    play(&middle, &[OPENING[0], OPENING[0]]);
    play(&middle, &OPENING[1..]);
    play(&middle, &CLOSING);
    let before = middle.tracker.statistics();
    play(&middle, &OPENING[..1]);
    let after = middle.tracker.statistics();
    assert_eq!(
        (after.created, after.replaced, after.connections),
        (before.created + 1, before.replaced + 1, 1)
    );
    play(&middle, &OPENING[1..]);
}

#[test]
fn a_reset_ends_a_connection_only_where_it_is_due() {
    let middle = Middle::new();
    play(&middle, &OPENING);
    let (established, both) = (Timeout::TcpEstablished, (Established, Established));
    play(
        &middle,
        &[
            (true, RST, 100, 0, 0, INV, both, established),
            (true, RST | ACK, 8000, 1, 0, INV, both, established),
            (true, RST | ACK, 1, 1, 0, RPL, (TimeWait, TimeWait), Timeout::TcpClose),
            (false, SYN, 0, 0, 0, NEW, (SynSent, Closed), Timeout::TcpSynSent),
        ],
    );
}

#[test]
fn a_refused_connection_is_closed() {
    let middle = Middle::new();
    play(
        &middle,
        &[
            (false, SYN, 0, 0, 0, NEW, (SynSent, Closed), Timeout::TcpSynSent),
            (true, RST | ACK, 0, 1, 0, RPL, (TimeWait, TimeWait), Timeout::TcpClose),
        ],
    );
}

#[test]
fn what_lies_outside_of_the_window_is_invalid_and_changes_nothing() {
    let middle = Middle::new();
    play(&middle, &OPENING);
    let before = middle.connection();
    for (reply, seq, ack, payload) in
        [(false, 8194, 1, 100), (true, 1, 80_000, 10), (false, u32::MAX - 9000, 1, 10), (true, 9000, 1, 1)]
    {
        let line = (reply, ACK, seq, ack, payload, INV, (Established, Established), Timeout::TcpEstablished);
        assert_eq!(middle.see(reply, segment(&line)), INV, "{line:?}");
        let answer = middle.track(reply, segment(&line), false);
        assert!(!middle.tracker.step(answer.link, middle.second, || Some(segment(&line))));
    }
    assert_eq!(middle.connection(), before);
    middle.tracker.set_window_check(false);
    let line = (false, ACK, 8194, 1, 100, EST, (Established, Established), Timeout::TcpEstablished);
    play(&middle, &[line]);
}

#[test]
fn a_segment_from_the_middle_of_a_conversation_begins_a_connection_but_a_syn_with_ack_does_not() {
    let middle = Middle::new();
    assert_eq!(middle.see(true, segment(&OPENING[1])), INV);
    play(
        &middle,
        &[
            (false, ACK, 5000, 7000, 1000, NEW, (SynSent, Closed), Timeout::TcpSynSent),
            (true, ACK, 7000, 6000, 1000, RPL, (Established, SynSent), Timeout::TcpSynRecv),
            (false, ACK, 6000, 8000, 1000, EST, (Established, Established), Timeout::TcpEstablished),
        ],
    );
}

#[test]
fn window_scales_count_only_if_both_ends_have_sent_one() {
    for both in [false, true] {
        let middle = Middle::new();
        let scaled = |line: &Line, scale| Segment { scale, ..segment(line) };
        assert_eq!(middle.see(false, scaled(&OPENING[0], Some(4))), NEW);
        assert_eq!(middle.see(true, scaled(&OPENING[1], both.then_some(4))), RPL);
        assert_eq!(middle.see(false, segment(&OPENING[2])), EST);
        let far = (true, ACK, 100_000, 1, 1000, EST, (Established, Established), Timeout::TcpEstablished);
        assert_eq!(middle.see(true, segment(&far)), if both { RPL } else { INV });
    }
}

#[test]
fn an_answer_that_comes_twice_is_valid_however_large_the_window_that_is_not_scaled() {
    for window in [1, 512, 65_408, 65_409, u16::MAX] {
        let middle = Middle::new();
        let opening = Segment { scale: Some(7), window, ..segment(&OPENING[0]) };
        assert_eq!(middle.see(false, opening), NEW);
        for _ in 0..2 {
            assert_eq!(middle.see(true, segment(&OPENING[1])), RPL, "{window}");
        }
    }
}

#[test]
fn each_set_of_flags_may_begin_a_connection_or_not() {
    for flags in 0..64u8 {
        let has = |flag| flags & flag != 0;
        // A SYN begins; an ACK shows that something has begun; a reset is at least known. FIN, PSH and URG need an ACK,
        // and a SYN goes with no other control flag: Open vSwitch takes all that is left.
        let sane = (has(SYN) || has(ACK) || has(RST))
            && !(has(SYN) && (has(FIN) || has(RST)))
            && (has(ACK) || !(has(FIN) || has(PSH) || has(URG)));
        let begins = sane && !(has(SYN) && has(ACK));
        let segment = Segment { flags, seq: 1, window: 100, ..Segment::default() };
        let state = Middle::new().see(false, segment);
        assert_eq!(state, if begins { NEW } else { INV }, "flags {flags:#x}");
    }
}

#[test]
fn states_live_as_long_as_the_policy_says() {
    let lines: Vec<Line> = OPENING.into_iter().chain(CLOSING).collect();
    for upto in 1..=lines.len() {
        let mut middle = Middle::new();
        play(&middle, &lines[..upto]);
        let seconds = Timeouts::default().get(lines[upto - 1].7);
        assert_eq!(middle.connection().left, seconds);
        middle.second += seconds - 1;
        assert_eq!(middle.connection().left, 1);
        middle.second += 1;
        let last = segment(&lines[upto - 1]);
        let answer = middle.track(false, last, false);
        assert!(!answer.connection.is_connection(), "it has expired");
    }
}

/// One end of a conversation, as RFC 9293 section 3.3.1 keeps it.
#[derive(Clone, Copy, Debug)]
struct End {
    next: u32,
    unacknowledged: u32,
    expected: u32,
    window: u32,
    scale: u8,
    closed: bool,
}

impl End {
    fn segment(&self, flags: u8, seq: u32, payload: u32) -> Segment {
        let window = (self.window >> self.scale).min(0xffff) as u16;
        Segment { seq, ack: self.expected, window, flags, payload, scale: None }
    }

    /// Takes a segment that the other end has sent, if it is the next.
    fn take(&mut self, segment: &Segment) {
        let fin = u32::from(segment.flags & FIN != 0);
        if segment.seq == self.expected {
            self.expected = segment.seq.wrapping_add(segment.payload + fin);
        }
        if (segment.ack.wrapping_sub(self.unacknowledged) as i32) > 0 {
            self.unacknowledged = segment.ack;
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Data(bool, u32, bool),
    Again(bool, bool),
    Ack(bool),
    Fin(bool, bool),
    /// A blind attacker: far from what is due.
    Blind(bool, u32, u8),
}

fn events() -> impl Strategy<Value = Event> {
    let (who, lost) = (any::<bool>(), prop::bool::weighted(0.2));
    prop_oneof![
        10 => (who, 1u32..20_000, lost).prop_map(|(who, length, lost)| Event::Data(who, length, lost)),
        3 => (any::<bool>(), lost).prop_map(|(who, lost)| Event::Again(who, lost)),
        5 => any::<bool>().prop_map(Event::Ack),
        1 => (any::<bool>(), lost).prop_map(|(who, lost)| Event::Fin(who, lost)),
        3 => (any::<bool>(), 0x0400_0000u32..0xf000_0000, prop::sample::select(vec![ACK, ACK | PSH, RST, RST | ACK]))
            .prop_map(|(who, far, flags)| Event::Blind(who, far, flags)),
    ]
}

/// An event as a segment, if the sender's state and the window allow it.
fn sent(event: Event, ends: &mut [End; 2]) -> Option<(usize, Segment, bool)> {
    let (who, lost) = match event {
        Event::Data(who, _, lost) | Event::Again(who, lost) | Event::Fin(who, lost) => (who, lost),
        Event::Ack(who) | Event::Blind(who, ..) => (who, false),
    };
    let who = usize::from(who);
    let room = ends[1 - who].window;
    let end = &mut ends[who];
    let flight = end.next.wrapping_sub(end.unacknowledged);
    let segment = match event {
        Event::Data(_, length, _) if !end.closed && flight < room => {
            let length = length.min(room - flight);
            let seq = end.next;
            end.next = seq.wrapping_add(length);
            end.segment(ACK | PSH, seq, length)
        }
        Event::Again(..) if !end.closed && flight > 0 => end.segment(ACK, end.unacknowledged, flight),
        Event::Ack(_) => end.segment(ACK, end.next, 0),
        Event::Fin(..) if !end.closed && flight == 0 => {
            end.closed = true;
            end.next = end.next.wrapping_add(1);
            end.segment(FIN | ACK, end.next.wrapping_sub(1), 0)
        }
        Event::Blind(_, far, flags) => end.segment(flags, end.next.wrapping_add(far), 10),
        _ => return None,
    };
    Some((who, segment, lost))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_two_ends_say_is_never_invalid_and_what_a_blind_attacker_says_always_is(
        iss in any::<[u32; 2]>(),
        scales in prop::option::of((0u8..=8, 0u8..=8)),
        events in prop::collection::vec(events(), 1..80),
    ) {
        let middle = Middle::new();
        let (a, b) = scales.unwrap_or_default();
        let window = |scale: u8| 30_000u32 << scale;
        let option = |scale| scales.map(|_| scale);
        let begin = |flags, seq, ack, scale| Segment { seq, ack, window: 30_000, flags, payload: 0, scale };
        let next = iss.map(|iss| iss.wrapping_add(1));
        prop_assert_eq!(middle.see(false, begin(SYN, iss[0], 0, option(a))), NEW);
        prop_assert_eq!(middle.see(true, begin(SYN | ACK, iss[1], next[0], option(b))), RPL);
        let end = |at: usize, scale| End {
            next: next[at], unacknowledged: next[at], expected: next[1 - at], window: window(scale), scale, closed: false,
        };
        let mut ends = [end(0, a), end(1, b)];
        prop_assert_eq!(middle.see(false, ends[0].segment(ACK, next[0], 0)), EST);
        // Windows in segments are scaled from here on.
        prop_assert_eq!(middle.see(true, ends[1].segment(ACK, next[1], 0)), RPL);
        for event in events {
            let Some((who, segment, lost)) = sent(event, &mut ends) else { continue };
            let before = middle.connection();
            let both_closed = ends.iter().all(|end| end.closed);
            let state = middle.see(who == 1, segment);
            if let Event::Blind(..) = event {
                // Once both ends have closed, nothing is left to protect, and nearly all is let through.
                if !both_closed {
                    prop_assert_eq!(state, INV, "{:?}", segment);
                    prop_assert_eq!(middle.connection(), before);
                }
                continue;
            }
            prop_assert_eq!(state, if who == 1 { RPL } else { EST }, "{:?} {:?}", event, segment);
            if !lost {
                ends[1 - who].take(&segment);
            }
        }
    }
}
