//! The same sequences through the kernel's connection tracking: whether each packet is new, established, related or invalid, and
//! what translation makes of it.
//!
//! A namespace routes packets from one device to another; rules of legacy iptables write into their type of service what
//! `-m conntrack --ctstate` says of them, and translate to one address (and port). What it forwards, it commits. It puts
//! fragments together first and cuts them again; a packet counts as what all its fragments are. The kernel and Open vSwitch
//! follow TCP by different rules: what weft has from Open vSwitch ([`why`]) is explained in `docs/connections.md`.

use std::collections::{BTreeMap, BTreeSet};

use weft_tests::{Lab, Need, Netns, Recorder, Result, veth};

use crate::case::{Case, Step};
use crate::flow::{Flow, Place};
use crate::ours::Weft;
use crate::packets::{ICMP, ICMP6, TCP, UDP};
use crate::policy::{Nat, Policy, outer};
use crate::rig::dice::Dice;
use crate::rig::octets::hex;
use crate::talks::Talk;
use weft_wire::DropReason;

/// What a packet is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum State {
    New,
    Established,
    Related,
    Invalid,
}

const STATES: [(State, &str); 4] = [
    (State::New, "NEW"),
    (State::Established, "ESTABLISHED"),
    (State::Related, "RELATED"),
    (State::Invalid, "INVALID"),
];

/// Each talk is in a network of its own.
const NETS: u16 = 24;

/// What is compared.
#[derive(Clone, Copy, Debug)]
struct Theme {
    six: bool,
    nat: Nat,
    /// Whether packets come in fragments.
    cuts: bool,
}

const THEMES: [Theme; 8] = [
    Theme { six: false, nat: Nat::Not, cuts: false },
    Theme { six: true, nat: Nat::Not, cuts: false },
    Theme { six: false, nat: Nat::Not, cuts: true },
    Theme { six: true, nat: Nat::Not, cuts: true },
    Theme { six: false, nat: Nat::Source(0), cuts: false },
    Theme { six: false, nat: Nat::Destination(8080), cuts: true },
    Theme { six: true, nat: Nat::Source(5000), cuts: true },
    Theme { six: true, nat: Nat::Destination(0), cuts: false },
];

impl Theme {
    fn stations(self, net: u16) -> u128 {
        if self.six { 0xfd00 << 112 | u128::from(net) << 16 } else { 0x0a00_0000 | u128::from(net) << 8 }
    }

    fn address(self, address: u128) -> String {
        match self.six {
            true => std::net::Ipv6Addr::from(address).to_string(),
            false => std::net::Ipv4Addr::from(address as u32).to_string(),
        }
    }

    /// Those that begin, and those that they speak to.
    fn ends(self, net: u16) -> [String; 2] {
        let bits = if self.six { 126 } else { 30 };
        [0, 4].map(|first| format!("{}/{bits}", self.address(self.stations(net) + first)))
    }

    /// In weft, the type of service says the state.
    fn rules(self) -> Vec<String> {
        let (ip, six) = if self.six { ("ipv6", "ipv6") } else { ("ip", "nw") };
        let states = [("+inv", 16), ("+rel", 12), ("+est", 8), ("+new", 4)];
        let mut rules: Vec<String> = states
            .iter()
            .zip((6..10).rev())
            .map(|((state, tos), priority)| {
                format!("table=1,priority={priority},{ip},ct_state={state},actions=mod_nw_tos:{tos},output:3")
            })
            .collect();
        rules.push("table=1,priority=0,actions=drop".to_owned());
        let translate = self.nat.text(self.six, 0);
        rules.push(match translate.is_empty() {
            true => format!("table=0,{ip},actions=ct(commit,table=1)"),
            false => format!("table=0,{ip},actions=ct(commit,nat,table=1)"),
        });
        for net in (0..NETS).filter(|_| !translate.is_empty()) {
            let [from, to] = self.ends(net);
            rules.push(format!(
                "table=0,priority=40000,{ip},{six}_src={from},{six}_dst={to},actions=ct(commit{translate},table=1)"
            ));
        }
        rules
    }

    /// In the kernel's words.
    fn lines(self) -> Vec<String> {
        let tables = if self.six { "ip6tables-legacy" } else { "iptables-legacy" };
        let mut lines = Vec::new();
        for (number, (_, name)) in STATES.iter().enumerate() {
            let mark = format!("-j DSCP --set-dscp {}", number + 1);
            lines
                .push(format!("{tables} -t mangle -A PREROUTING -i r0 -m conntrack --ctstate {name} {mark}"));
        }
        // Nothing that the kernel sends of its own accord.
        lines.push(format!("{tables} -P OUTPUT DROP"));
        let (chain, target, port) = match self.nat {
            Nat::Source(port) => ("POSTROUTING", "SNAT --to-source", port),
            Nat::Destination(port) => ("PREROUTING", "DNAT --to-destination", port),
            _ => return lines,
        };
        let address = self.address(outer(self.six, 0));
        for net in 0..NETS {
            let [from, to] = self.ends(net);
            for protocol in ["tcp", "udp", if self.six { "ipv6-icmp" } else { "icmp" }] {
                let to_port = match (port, self.six) {
                    (0, _) => address.clone(),
                    _ if protocol.contains("icmp") => address.clone(),
                    (port, true) => format!("[{address}]:{port}"),
                    (port, false) => format!("{address}:{port}"),
                };
                lines.push(format!(
                    "{tables} -t nat -A {chain} -p {protocol} -s {from} -d {to} -j {target} {to_port}"
                ));
            }
        }
        lines
    }
}

fn place(frame: &[u8]) -> Option<Place> {
    Place::of(frame).filter(|place| place.six == (frame[12..14] == [0x86, 0xdd]))
}

fn state(frame: &[u8]) -> Option<State> {
    let tos = if place(frame)?.six { frame[14] << 4 | frame[15] >> 4 } else { frame[15] };
    STATES.get(usize::from(tos / 4).checked_sub(1)?).map(|&(state, _)| state)
}

/// A router that notes what it makes of packets.
struct Router {
    _ns: Netns,
    outside: Netns,
    recorder: Recorder,
    theme: Theme,
}

/// What became of packets, by their numbers.
type Frames = BTreeMap<u16, Vec<Vec<u8>>>;

impl Router {
    fn start(lab: &Lab, theme: Theme) -> Result<Router> {
        let (ns, outside) = (Netns::new(lab, "router")?, Netns::new(lab, "out")?);
        veth((&outside, "h0"), (&ns, "r0"))?;
        veth((&outside, "h1"), (&ns, "r1"))?;
        ns.ip("link set dev r0 address 02:00:00:00:00:02")?;
        ns.configure("r1", "192.0.2.1/24", 0)?;
        ns.ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:09 dev r1")?;
        ns.ip("route add 10.0.0.0/8 via 192.0.2.2")?;
        let settings = "net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.r0.rp_filter=0 \
                        net.ipv4.conf.r1.send_redirects=0 net.ipv4.conf.all.send_redirects=0 \
                        net.ipv4.conf.r0.accept_source_route=1 net.ipv4.conf.all.accept_source_route=1";
        ns.sh(&format!("sysctl -qw {settings}"))?;
        if theme.six {
            let settings = "net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.r0.disable_ipv6=0 \
                            net.ipv6.conf.r1.disable_ipv6=0 net.ipv6.conf.all.forwarding=1";
            ns.sh(&format!("sysctl -qw {settings}"))?;
            ns.ip("-6 addr add fd99::1/64 dev r1 nodad")?;
            ns.ip("-6 neigh add fd99::2 lladdr 02:00:00:00:00:09 dev r1")?;
            ns.ip("-6 route add fd00::/32 via fd99::2")?;
        }
        let lines = theme.lines().join(" && ");
        weft_tests::cmd::ok(&[&ns.prefix()[..], &["sh", "-c", &lines]].concat(), weft_tests::cmd::SHORT)?;
        let recorder = Recorder::start(lab, "recorder", &outside, &["h1"])?;
        Ok(Router { _ns: ns, outside, recorder, theme })
    }

    fn route(&self, packets: &[Packet]) -> Result<Frames> {
        let frames: Vec<&Vec<u8>> = packets.iter().map(|packet| &packet.frame).collect();
        for some in frames.chunks(50) {
            self.outside.send_frames("h0", some)?;
        }
        // What comes last.
        let last = packets.iter().find(|packet| Flow::of(&packet.frame).is_some_and(|flow| flow.has_ports()));
        self.outside.send_frame("h0", &numbered(last.unwrap().frame.clone(), u16::MAX))?;
        let end = std::time::Instant::now() + weft_tests::cmd::SHORT;
        loop {
            let all = self.recorder.received();
            let mut frames = Frames::new();
            for frame in all.iter().map(|received| &received.frame) {
                if place(frame).is_some_and(|place| place.six == self.theme.six) {
                    frames.entry(number(frame)).or_default().push(frame.clone());
                }
            }
            if frames.contains_key(&u16::MAX) {
                return Ok(frames);
            }
            assert!(std::time::Instant::now() < end, "{} packets of {}", all.len(), packets.len());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// A packet, or a fragment of one.
struct Packet {
    net: u16,
    number: u16,
    frame: Vec<u8>,
}

/// The packet's number: its identification, or a part of its flow label.
fn number(frame: &[u8]) -> u16 {
    let at = if frame[12] == 8 { 18 } else { 16 };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// With a number, and no type of service.
fn numbered(mut frame: Vec<u8>, number: u16) -> Vec<u8> {
    let is_four = frame[12] == 8;
    let (at, tos) = if is_four { (18, 14..16) } else { (16, 14..16) };
    frame[at..at + 2].copy_from_slice(&number.to_be_bytes());
    match is_four {
        true => frame[15] = 0,
        false => frame[tos].copy_from_slice(&[0x60, 0]),
    }
    refreshed(frame)
}

/// With the right checksum of its IPv4 header.
fn refreshed(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[12] == 8 {
        let end = 14 + 4 * usize::from(frame[14] & 15);
        frame[24..26].fill(0);
        let sum = weft_wire::checksum::checksum(&frame[14..end]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// Packets of several talks.
fn packets(seed: u64, theme: Theme) -> Vec<Packet> {
    let mut dice = Dice(seed);
    let (mut all, mut number) = (Vec::new(), 0);
    for net in 0..NETS {
        let (six, stations) = (theme.six, theme.stations(net));
        let policy = Policy { six, stations, zones: [0, 0], nats: [theme.nat, Nat::Not] };
        let mut talk = Talk::simple(&mut dice, &policy, theme.cuts);
        for _ in 0..30 {
            let frames = talk.next(&mut dice);
            let packet = |frame| Packet { net, number, frame: numbered(frame, number) };
            all.extend(frames.into_iter().map(packet));
            number += 1;
        }
    }
    all
}

/// The packet as it leaves a router, without the frame's header and padding.
fn routed(frame: &[u8], hops: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let at = if frame[12] == 8 { 22 } else { 21 };
    frame[at] -= hops;
    let end = place(&frame).map_or(frame.len(), |place| place.end);
    refreshed(frame)[14..end].to_vec()
}

/// What a packet carries, if it is a whole one or a first fragment.
fn carried(packet: &[u8]) -> Option<(u8, &[u8])> {
    let place = place(packet)?;
    let message = place.message(packet);
    match (place.six, place.protocol) {
        (true, 44) => (message[2] == 0 && message[3] < 8).then(|| (message[0], &message[8..])),
        (true, protocol) => Some((protocol, message)),
        (false, protocol) => (packet[20] & 0x1f == 0 && packet[21] == 0).then_some((protocol, message)),
    }
}

/// Why weft says something else of a packet.
fn why(packet: &[u8], ours: Option<State>, theirs: Option<State>) -> Option<&'static str> {
    let (protocol, message) = carried(packet)?;
    match (protocol, ours?, theirs) {
        (UDP, State::Invalid, Some(State::New | State::Established) | None)
            if message[..4].chunks(2).any(|port| port == [0, 0]) =>
        {
            Some("port 0: invalid, as in Open vSwitch")
        }
        (ICMP | ICMP6, State::Invalid, Some(State::New | State::Established)) if message[1] != 0 => {
            Some("an echo with a code: invalid, as in Open vSwitch")
        }
        (TCP, State::Established, Some(State::Invalid)) if message[13] & 7 == 0 && length(message) == 0 => {
            Some("a segment without data may have any sequence number, as in Open vSwitch")
        }
        (ICMP, State::Invalid, Some(State::Related)) if message.len() < 8 + 20 + 8 => {
            Some("an error that quotes less than 8 octets is invalid, as in Open vSwitch")
        }
        (ICMP, State::Invalid, Some(State::New | State::Established)) if [17, 18].contains(&message[0]) => {
            Some("a query for an address mask: invalid, as in Open vSwitch")
        }
        (ICMP6, State::Invalid, Some(State::New | State::Established))
            if [139, 140].contains(&message[0]) =>
        {
            Some("a node information query: invalid, as in Open vSwitch")
        }
        (ICMP6, State::Invalid, None) if (130..=143).contains(&message[0]) => {
            Some("neighbour discovery and MLD: not tracked by the kernel, invalid as in Open vSwitch")
        }
        (TCP, State::Invalid, Some(State::Established)) if is_beyond(packet, message) => {
            Some("a segment that begins in the window and ends behind it: invalid, as in Open vSwitch")
        }
        // It would be believed without the translation.
        (ICMP, State::Related, None) if message[0] == 5 => {
            Some("a redirect about a translated packet: the kernel drops it")
        }
        _ => None,
    }
}

/// Whether a segment has so much data that a window of 8,192 octets may end in it.
fn is_beyond(packet: &[u8], message: &[u8]) -> bool {
    let is_first = place(packet).is_some_and(|place| place.protocol == 44) || packet[20] & 0x20 != 0;
    message[13] & 7 == 0 && (is_first || length(message) >= 1000)
}

/// Octets of a TCP segment's data.
fn length(message: &[u8]) -> usize {
    message.len().saturating_sub(4 * usize::from(message[12] >> 4))
}

/// What was compared.
#[derive(Default)]
struct Tally {
    packets: BTreeMap<(bool, Option<State>), usize>,
    fragments: usize,
    translated: usize,
    explained: BTreeMap<&'static str, usize>,
    wrong: Vec<String>,
}

impl Tally {
    fn compare(&mut self, seed: u64, theme: Theme, packets: &[Packet], theirs: &Frames) {
        let case = Case { name: String::new(), rules: theme.rules(), steps: vec![] };
        let mut weft = Weft::load(&case);
        let mut ours = Frames::new();
        // Networks in which the two know different things.
        let mut over = BTreeSet::new();
        for all in packets.chunk_by(|one, next| one.number == next.number) {
            let (packet, mut drops) = (&all[0], Vec::new());
            for fragment in all {
                let (left, why) = weft.play(&Step::Packet(fragment.frame.clone()));
                left.into_iter().for_each(|frame| ours.entry(number(&frame)).or_default().push(frame));
                drops.extend(why);
            }
            if over.contains(&packet.net) {
                continue;
            }
            let none = Vec::new();
            let [ours, theirs] = [&ours, theirs].map(|all| all.get(&packet.number).unwrap_or(&none));
            let clash = drops.contains(&DropReason::ConnectionClash);
            match self.packet(all, theme, (ours, theirs, clash)) {
                Ok(None) => {}
                Ok(Some(why)) => {
                    *self.explained.entry(why).or_default() += 1;
                    over.insert(packet.net);
                }
                Err(text) => {
                    self.wrong.push(format!("{theme:?} {seed} {}: {text}", packet.number));
                    over.insert(packet.net);
                }
            }
        }
    }

    /// Why a packet is another one to the kernel; an error if there is no reason.
    fn packet(
        &mut self,
        all: &[Packet],
        theme: Theme,
        (ours, theirs, clash): (&[Vec<u8>], &[Vec<u8>], bool),
    ) -> Result<Option<&'static str>, String> {
        let packet = &all[0];
        let states = [ours, theirs].map(|frames| {
            let mut states: Vec<_> = frames.iter().map(|frame| state(frame)).collect();
            states.dedup();
            states
        });
        let text = |frames: &[Vec<u8>]| {
            let frames: Vec<_> =
                frames.iter().map(|frame| format!("\n    {}", hex(&routed(frame, 0)))).collect();
            frames.concat()
        };
        let told = || {
            let (packet, ours, theirs) = (hex(&packet.frame[14..]), text(ours), text(theirs));
            format!("{states:?}\n  {packet}\n  weft:{ours}\n  kernel:{theirs}")
        };
        let [our_state, their_state] = [&states[0], &states[1]].map(|all| all.first().copied().flatten());
        if states[0] != states[1] || states[0].len() > 1 {
            let why = match (our_state, their_state) {
                (None, Some(State::New)) if clash => Some("a clash: the kernel takes another source port"),
                (ours, theirs) => all.iter().find_map(|packet| why(&packet.frame, ours, theirs)),
            };
            return why.map(Some).ok_or_else(told);
        }
        *self.packets.entry((theme.six, our_state)).or_default() += 1;
        self.fragments += usize::from(all.len() > 1);
        if all.len() > 1 || our_state.is_none() {
            return Ok(None);
        }
        let [our_one, their_one] = [routed(&ours[0], 1), routed(&theirs[0], 0)];
        self.translated += usize::from(our_one[12..] != routed(&packet.frame, 1)[12..]);
        if our_one == their_one {
            return Ok(None);
        }
        let [one, other] = [&ours[0], &theirs[0]].map(|frame| Flow::of(frame));
        let is_other_port = our_state == Some(State::New)
            && one.zip(other).is_some_and(|(mut one, other)| {
                one.ends.ports[0] = other.ends.ports[0];
                one == other
            });
        match our_state {
            // It has no connection there.
            Some(State::Invalid) if theme.nat != Nat::Not => {
                *self
                    .explained
                    .entry("an invalid packet of a translated connection: the kernel leaves it")
                    .or_default() += 1;
                Ok(None)
            }
            _ if is_other_port => Ok(Some("a port that is taken: another one is chosen")),
            _ => Err(told()),
        }
    }
}

#[test]
fn packets_are_to_weft_what_they_are_to_the_kernel() -> Result {
    let needs = [
        Need::Root,
        Need::Tool("iptables-legacy"),
        Need::Tool("ip6tables-legacy"),
        Need::Tool("python3"),
        Need::File("/proc/net/ip_tables_matches", "the kernel's legacy iptables"),
        Need::File("/proc/net/ip6_tables_matches", "the kernel's legacy ip6tables"),
    ];
    let Some(lab) = Lab::open("sequences-kernel", &needs)? else { return Ok(()) };
    let mut tally = Tally::default();
    for theme in THEMES {
        for seed in 1..=crate::number("WEFT_KERNEL_CASES", 1) {
            let packets = packets(seed, theme);
            let theirs = Router::start(&lab, theme)?.route(&packets)?;
            tally.compare(seed, theme, &packets, &theirs);
        }
    }
    let Tally { packets, fragments, translated, explained, wrong } = tally;
    println!("{packets:?}, {fragments} of them in fragments, {translated} changed\n{explained:#?}");
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    assert!(fragments > 50 && translated > 500);
    Ok(())
}
