//! The same sequences through the kernel's connection tracking: whether each packet is new, established, related or invalid.
//!
//! A namespace routes packets from one device to another; rules of legacy iptables write into their type of service what
//! `-m conntrack --ctstate` says of them. What it forwards, it commits. The kernel and Open vSwitch follow TCP by different
//! rules: what weft has from Open vSwitch ([`why`]) is explained in `docs/connections.md`.

use std::collections::{BTreeMap, BTreeSet};

use weft_tests::{Lab, Need, Netns, Recorder, Result, veth};

use crate::case::{Case, Step};
use crate::ours::Weft;
use crate::packets::{ICMP, TCP, UDP};
use crate::policy::{Nat, Policy};
use crate::rig::dice::Dice;
use crate::rig::octets::hex;
use crate::talks::Talk;
use weft_wire::checksum::checksum;

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

/// The same in weft: the type of service says the state.
const RULES: [&str; 6] = [
    "table=0,ip,actions=ct(commit,table=1)",
    "table=1,priority=9,ip,ct_state=+inv,actions=mod_nw_tos:16,output:3",
    "table=1,priority=8,ip,ct_state=+rel,actions=mod_nw_tos:12,output:3",
    "table=1,priority=7,ip,ct_state=+est,actions=mod_nw_tos:8,output:3",
    "table=1,priority=6,ip,ct_state=+new,actions=mod_nw_tos:4,output:3",
    "table=1,priority=0,actions=drop",
];

fn state(frame: &[u8]) -> Option<State> {
    let number = usize::from(frame[15] / 4).checked_sub(1)?;
    STATES.get(number).map(|&(state, _)| state)
}

/// A router that notes what it makes of packets.
struct Router {
    _ns: Netns,
    outside: Netns,
    recorder: Recorder,
}

impl Router {
    fn start(lab: &Lab) -> Result<Router> {
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
        for (number, (_, name)) in STATES.iter().enumerate() {
            let mark = format!("-j DSCP --set-dscp {}", number + 1);
            ns.sh(&format!(
                "iptables-legacy -t mangle -A PREROUTING -i r0 -m conntrack --ctstate {name} {mark}"
            ))?;
        }
        // Nothing that the kernel sends of its own accord.
        ns.sh("iptables-legacy -P OUTPUT DROP")?;
        let recorder = Recorder::start(lab, "recorder", &outside, &["h1"])?;
        Ok(Router { _ns: ns, outside, recorder })
    }

    /// Of each packet, by its identification.
    fn states(&self, packets: &[Vec<u8>]) -> Result<BTreeMap<u16, State>> {
        for some in packets.chunks(50) {
            self.outside.send_frames("h0", some)?;
        }
        // What comes last, and leaves as it came.
        let last = [&packets[0][..18], &[0xff, 0xff], &packets[0][20..]].concat();
        self.outside.send_frame("h0", &summed(last))?;
        let end = std::time::Instant::now() + weft_tests::cmd::SHORT;
        loop {
            let all = self.recorder.received();
            let ours = all.iter().filter(|received| received.frame.get(12..14) == Some(&[8, 0][..]));
            let states: BTreeMap<u16, State> =
                ours.filter_map(|received| Some((id(&received.frame), state(&received.frame)?))).collect();
            if states.contains_key(&u16::MAX) {
                return Ok(states);
            }
            assert!(std::time::Instant::now() < end, "{} packets of {}", all.len(), packets.len());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

fn id(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[18], frame[19]])
}

/// With the right checksum of its header.
fn summed(mut frame: Vec<u8>) -> Vec<u8> {
    let end = 14 + 4 * usize::from(frame[14] & 15);
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..end]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Packets of several talks, each with its number as identification.
fn packets(seed: u64) -> Vec<Vec<u8>> {
    let mut dice = Dice(seed);
    let mut all: Vec<Vec<u8>> = Vec::new();
    // Each in a network of its own.
    for net in 0..24 {
        let stations = 0x0a00_0000 | net << 8;
        let policy = Policy { six: false, stations, zones: [0, 0], nats: [Nat::Not; 2] };
        let mut talk = Talk::simple(&mut dice, &policy);
        for _ in 0..30 {
            all.extend(talk.next(&mut dice));
        }
    }
    let number = |(number, mut frame): (usize, Vec<u8>)| {
        frame[15] = 0;
        frame[18..20].copy_from_slice(&(number as u16).to_be_bytes());
        summed(frame)
    };
    all.into_iter().enumerate().map(number).collect()
}

/// Why weft says something else.
fn why(packet: &[u8], ours: State, theirs: State) -> Option<&'static str> {
    let message = &packet[14 + 4 * usize::from(packet[14] & 15)..];
    match (packet[23], ours, theirs) {
        (UDP, State::Invalid, State::New | State::Established)
            if message[..4].chunks(2).any(|port| port == [0, 0]) =>
        {
            Some("port 0: invalid, as in Open vSwitch")
        }
        (ICMP, State::Invalid, State::New | State::Established) if message[1] != 0 => {
            Some("an echo with a code: invalid, as in Open vSwitch")
        }
        (TCP, State::Established, State::Invalid) if message[13] & 7 == 0 && length(packet) == 0 => {
            Some("a segment without data may have any sequence number, as in Open vSwitch")
        }
        (ICMP, State::Invalid, State::Related) if message.len() < 8 + 20 + 8 => {
            Some("an error that quotes less than 8 octets is invalid, as in Open vSwitch")
        }
        _ => None,
    }
}

/// Octets of a TCP segment's data.
fn length(packet: &[u8]) -> usize {
    let (header, total) = (4 * usize::from(packet[14] & 15), u16::from_be_bytes([packet[16], packet[17]]));
    (usize::from(total) - header).saturating_sub(4 * usize::from(packet[14 + header + 12] >> 4))
}

#[test]
fn packets_are_to_weft_what_they_are_to_the_kernel() -> Result {
    let needs = [
        Need::Root,
        Need::Tool("iptables-legacy"),
        Need::Tool("python3"),
        Need::File("/proc/net/ip_tables_matches", "the kernel's legacy iptables"),
    ];
    let Some(lab) = Lab::open("sequences-kernel", &needs)? else { return Ok(()) };
    let (mut counts, mut explained, mut wrong) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for seed in 1..=crate::number("WEFT_KERNEL_CASES", 3) {
        let packets = packets(seed);
        let theirs = Router::start(&lab)?.states(&packets)?;
        let rules = RULES.iter().map(|&rule| rule.to_owned()).collect();
        let mut weft = Weft::load(&Case { name: String::new(), rules, steps: vec![] });
        // Networks in which the two know different things.
        let mut over = BTreeSet::new();
        for (number, packet) in packets.iter().enumerate() {
            let net = packet[28].max(packet[32]);
            if over.contains(&net) {
                continue;
            }
            let (left, _) = weft.play(&Step::Packet(packet.clone()));
            let ours = left.first().and_then(|frame| state(frame));
            let theirs = theirs.get(&(number as u16)).copied();
            if ours == theirs {
                *counts.entry(ours).or_insert(0) += 1;
            } else {
                over.insert(net);
            }
            match (ours, theirs) {
                (ours, theirs) if ours == theirs => {}
                (Some(ours), Some(theirs)) if why(packet, ours, theirs).is_some() => {
                    *explained.entry(why(packet, ours, theirs)).or_insert(0) += 1;
                }
                _ => wrong.push(format!("{seed} {number} weft {ours:?}, kernel {theirs:?}: {}", hex(packet))),
            }
        }
    }
    println!("{counts:?}\n{explained:#?}");
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
    Ok(())
}
