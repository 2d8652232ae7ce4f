//! Who talks to whom: packets of connections as they are sent, and as they shouldn't be.

use crate::case::Outcome;
use crate::explained::{is_first, shown};
use crate::flow::Flow;
use crate::limits::UNFORCED;
use crate::names::is_translated_first;
use crate::packets::{self, Ends, Form, ICMP, ICMP6, Piece, Segment, TCP, UDP};
use crate::policy::{Nat, PATHS, PATHS_OF_A, Path, Policy};
use crate::rig::dice::Dice;
use crate::services::SERVICES;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// One end of a TCP connection.
#[derive(Clone, Debug, Default)]
struct Side {
    /// What it sends next.
    seq: u32,
    /// What it has of the other's.
    heard: u32,
    window: u16,
    /// Its last segment.
    last: Segment,
}

/// How a talk is.
#[derive(Clone, Debug)]
enum Kind {
    Tcp {
        stage: u8,
        sides: [Side; 2],
    },
    Udp,
    Ping,
    Other(u8),
    /// A control connection, whose helper reads one line of it.
    Ftp {
        stage: u8,
        sides: [Side; 2],
        line: Line,
    },
    Tftp,
}

/// What announces a connection.
#[derive(Clone, Debug)]
struct Line {
    /// Who says it.
    from: usize,
    text: String,
}

/// Two that talk. The first is the one that begins.
#[derive(Clone, Debug)]
pub struct Talk {
    /// Packets as each of the two sends them.
    ends: [Ends; 2],
    paths: [Path; 2],
    kind: Kind,
    /// Who has sent what last: the message and its protocol.
    last: Option<(usize, u8, Vec<u8>)>,
    /// Other paths that packets take now and then.
    others: &'static [Path],
    /// Whether each also sends what only the other end should know.
    strays: [bool; 2],
    /// Whether packets are large and in fragments.
    cuts: bool,
    /// Whether TCP is as all trackers understand it: from its SYN, with windows that are open.
    calm: bool,
    id: u16,
    /// A connection that it has announced.
    pub announced: Option<Box<Talk>>,
}

impl Talk {
    pub fn random(dice: &mut Dice, policy: &Policy) -> Talk {
        let six = policy.six;
        let station = |dice: &mut Dice| policy.stations + 1 + dice.below(3) as u128;
        let addresses = [station(dice), station(dice) + 4];
        // Two with one port are the same behind a translation.
        let own = if dice.percent(80) { 16 * (addresses[0] as u16 & 15) } else { 0 };
        let ports = [1000 + own % 256 + dice.below(4) as u16, dice.pick(&[80, 53, 2000])];
        // Open vSwitch reads packets of ports 21 and 69, and takes those for the connection's.
        let keeps_ports = [Nat::Not, Nat::Source(0), Nat::Destination(0)].contains(&policy.nats[0]);
        if keeps_ports && dice.percent(25) {
            return Talk::with_helper(dice, policy, addresses);
        }
        let kind = match dice.below(20) {
            0..10 => Kind::Tcp { stage: 0, sides: Default::default() },
            10..14 => Kind::Udp,
            14..18 => Kind::Ping,
            _ => Kind::Other(dice.pick(&[packets::SCTP, 47, 50, 89, 254])),
        };
        let has_ports = matches!(kind, Kind::Tcp { .. } | Kind::Udp);
        let ports = match kind {
            Kind::Other(_) => [0; 2],
            _ => ports,
        };
        let forward = Ends { six, addresses, ports };
        let paths = dice.pick(&[
            [Path::CommitNew, Path::CommitNew],
            [Path::CommitNew, Path::CommitNew],
            [Path::CommitNew, Path::CommitNew],
            [Path::CommitNew, Path::Look],
            [Path::Commit, Path::Look],
            [Path::Commit, Path::Commit],
            [Path::Other, Path::Other],
            [Path::Both, Path::Back],
            [Path::Both, Path::Back],
            [Path::ForceMark, Path::Force],
        ]);
        let zones: &[usize] = match paths[0] {
            Path::Other => &[1],
            Path::ForceMark => &[],
            Path::Both => &[0, 1],
            _ => &[0],
        };
        let seen = zones.iter().fold(forward, |ends, &zone| policy.nats[zone].apply(zone, ends, has_ports));
        let cuts = dice.percent(15);
        Talk {
            ends: [forward, seen.turned()],
            paths,
            kind,
            last: None,
            others: &PATHS,
            strays: [true; 2],
            cuts,
            calm: false,
            id: dice.roll() as u16,
            announced: None,
        }
    }

    /// One of TCP, UDP or pings, in whole packets, or in fragments now and then.
    pub fn simple(dice: &mut Dice, policy: &Policy, cuts: bool) -> Talk {
        loop {
            let strays = [policy.nats[0] == Nat::Not; 2];
            let talk = Talk { cuts, strays, calm: true, ..Talk::random(dice, policy) };
            if matches!(talk.kind, Kind::Tcp { .. } | Kind::Udp | Kind::Ping) {
                return talk;
            }
        }
    }

    /// One that is translated to a range: few tuples, so that they meet.
    pub fn ranged(dice: &mut Dice, policy: &Policy) -> Talk {
        let mut talk = loop {
            let talk = Talk::random(dice, policy);
            if matches!(talk.paths[0], Path::Commit | Path::CommitNew) {
                break talk;
            }
        };
        let forward = &mut talk.ends[0];
        if forward.ports[0] != 0 {
            forward.ports = [dice.pick(&[1000, 1001, 80]), 53];
        }
        forward.addresses[1] = policy.stations + 5 + dice.below(2) as u128;
        talk.ends[1] = talk.ends[0].turned();
        Talk { others: &PATHS_OF_A, strays: [false, true], cuts: false, calm: dice.percent(60), ..talk }
    }

    /// One by these paths, for the most part, in whole packets.
    pub fn service(dice: &mut Dice, forward: Ends, paths: [Path; 2]) -> Talk {
        let kind = match dice.below(10) {
            0..5 => Kind::Tcp { stage: 0, sides: Default::default() },
            5..8 => Kind::Udp,
            _ => Kind::Ping,
        };
        Talk {
            ends: [forward, forward.turned()],
            paths,
            kind,
            last: None,
            others: &SERVICES,
            strays: [false, true],
            cuts: false,
            calm: dice.percent(60),
            id: dice.roll() as u16,
            announced: None,
        }
    }

    /// One on paths without `force`. With timeouts not of other protocols, for which those of a zone don't count in
    /// Open vSwitch; with limits not of TCP, which replaces what has ended.
    pub fn unforced(dice: &mut Dice, policy: &Policy, timed: bool) -> Talk {
        let talk = loop {
            let talk = Talk::random(dice, policy);
            let fits = match talk.kind {
                Kind::Tcp { .. } => timed,
                Kind::Other(_) => !timed,
                Kind::Udp | Kind::Ping => true,
                Kind::Ftp { .. } | Kind::Tftp => false,
            };
            if fits && talk.paths[0] != Path::ForceMark {
                break talk;
            }
        };
        Talk { others: &UNFORCED, cuts: false, ..talk }
    }

    /// Takes note of how the last zone lets the first one's packet go.
    pub fn hear_last(&mut self, packet: &[u8], frames: &Outcome) {
        let has_ports = matches!(self.kind, Kind::Tcp { .. } | Kind::Udp);
        let Some(flow) = Flow::of(packet) else { return };
        let is_own = flow.ends.addresses == self.ends[0].addresses
            && (!has_ports || flow.ends.ports == self.ends[0].ports);
        let last = shown(frames).last().filter(|frame| is_first(frame));
        if let Some(seen) = last.filter(|_| is_own).and_then(|frame| Flow::of(frame)) {
            let ports = if has_ports { seen.ends.ports } else { self.ends[0].ports };
            self.ends[1] = Ends { ports, ..seen.ends }.turned();
        }
    }

    /// Takes note of what the other end sees of the first one's packet.
    pub fn hear(&mut self, packet: &[u8], (frames, side): (&Outcome, usize)) {
        let has_ports = matches!(self.kind, Kind::Tcp { .. } | Kind::Udp);
        let is_own = |flow: Flow| {
            [0, 8, 128].contains(&flow.kind)
                && flow.ends.addresses == self.ends[0].addresses
                && (!has_ports || flow.ends.ports == self.ends[0].ports)
        };
        let is_first = |frame: &&Vec<u8>| is_translated_first(frame, side);
        if !Flow::of(packet).is_some_and(is_own) {
            return;
        }
        if let Some(seen) = shown(frames).find(is_first).and_then(|frame| Flow::of(frame)) {
            let ports = if has_ports { seen.ends.ports } else { self.ends[0].ports };
            self.ends[1] = Ends { ports, ..seen.ends }.turned();
        }
    }

    /// One that announces another.
    fn with_helper(dice: &mut Dice, policy: &Policy, addresses: [u128; 2]) -> Talk {
        let (six, is_ftp) = (policy.six, dice.percent(75));
        let forward =
            Ends { six, addresses, ports: [3000 + dice.below(2000) as u16, if is_ftp { 21 } else { 69 }] };
        let seen = policy.nats[0].apply(0, forward, true);
        // Real ones, and as the other end knows them.
        let (client, outer_client) = (addresses[0], seen.addresses[0]);
        let (inner_server, outer_server) = (seen.addresses[1], addresses[1]);
        let port = 1025 + dice.below(200) as u16;
        // Open vSwitch changes a text only where its buffer has room for more: a dummy device's has none.
        let passive = match policy.nats[0] {
            Nat::Not | Nat::Zero => dice.percent(50),
            nat => matches!(nat, Nat::Source(_)),
        };
        let line = match passive {
            false => Line { from: 0, text: command(six, client, port) },
            true => Line { from: 1, text: answer(six, inner_server, port) },
        };
        let ends = |addresses, ports| Ends { six, addresses, ports };
        let other = 2000 + dice.below(200) as u16;
        let (kind, data) = match (is_ftp, passive) {
            (true, false) => (
                Kind::Tcp { stage: 0, sides: Default::default() },
                [ends([inner_server, outer_client], [20, port]), ends([client, outer_server], [port, 20])],
            ),
            (true, true) => (
                Kind::Tcp { stage: 0, sides: Default::default() },
                [
                    ends([client, outer_server], [other, port]),
                    ends([inner_server, outer_client], [port, other]),
                ],
            ),
            (false, _) => (
                Kind::Udp,
                [
                    ends([inner_server, outer_client], [other, seen.ports[0]]),
                    ends([client, outer_server], [forward.ports[0], other]),
                ],
            ),
        };
        let path = if is_ftp { Path::Ftp } else { Path::Tftp };
        let own = if is_ftp { Kind::Ftp { stage: 0, sides: Default::default(), line } } else { Kind::Tftp };
        let talk = |ends, kind, announced| Talk {
            ends,
            paths: [path, path],
            kind,
            last: None,
            others: &PATHS,
            strays: [true; 2],
            cuts: false,
            calm: false,
            id: 0,
            announced,
        };
        let data = talk(data, kind, None);
        talk([forward, seen.turned()], own, Some(Box::new(data)))
    }

    /// Whether a helper reads it.
    pub fn has_helper(&self) -> bool {
        matches!(self.kind, Kind::Ftp { .. } | Kind::Tftp)
    }

    /// The connection that has been announced by now.
    pub fn take_announced(&mut self) -> Option<Talk> {
        let is_said = match &self.kind {
            Kind::Ftp { stage, .. } => *stage > 5,
            _ => self.last.is_some(),
        };
        if is_said { self.announced.take().map(|talk| *talk) } else { None }
    }

    /// The packets that come next.
    pub fn next(&mut self, dice: &mut Dice) -> Vec<Vec<u8>> {
        let forced = self.paths[0] == Path::ForceMark;
        if dice.percent(if forced { 2 } else { 12 }) && self.last.is_some() {
            return vec![self.error(dice)];
        }
        let (from, protocol, message) = match &self.kind {
            Kind::Tcp { .. } if dice.percent(70) => self.segment(dice),
            Kind::Tcp { .. } => self.odd_segment(dice),
            Kind::Udp => self.datagram(dice),
            Kind::Ping => self.ping(dice),
            Kind::Ftp { .. } => self.control(dice),
            Kind::Tftp => (0, UDP, packets::udp(&self.ends[0], b"\0\x01file\0octet\0")),
            Kind::Other(protocol) => {
                let protocol = *protocol;
                let least = if protocol == packets::SCTP { 12 } else { 0 };
                (usize::from(dice.percent(40)), protocol, vec![7; least + dice.below(60)])
            }
        };
        self.last = Some((from, protocol, message.clone()));
        self.packets(dice, (from, protocol, message))
    }

    fn form(&mut self, dice: &mut Dice, from: usize) -> Form {
        let chance = if matches!(self.kind, Kind::Ftp { .. }) { 2 } else { 15 };
        let path = match dice.percent(chance) {
            true => dice.pick(self.others),
            false => self.paths[from],
        };
        self.id = self.id.wrapping_add(1);
        let padding = if dice.percent(5) { dice.pick(&[1, 6, 300]) } else { 0 };
        // Open vSwitch sees no port behind an extension header when it looks for what helpers read.
        let is_helped = matches!(path, Path::Ftp | Path::Tftp);
        Form { tos: path.tos(), id: self.id, options: dice.percent(8) && !is_helped, padding }
    }

    fn packets(&mut self, dice: &mut Dice, (from, protocol, message): (usize, u8, Vec<u8>)) -> Vec<Vec<u8>> {
        let (ends, mut form) = (self.ends[from], self.form(dice, from));
        // A dummy device sends 1,514 octets at most.
        form.padding = if message.len() < 1100 { form.padding } else { 0 };
        // Sometimes it is sent to, or comes from, who the other end doesn't know.
        let is_stray = dice.percent(4) && self.strays[from];
        let ends = if is_stray { self.ends[1 - from].turned() } else { ends };
        if message.len() < 2600 {
            return vec![packets::frame(&ends, protocol, &form, &message)];
        }
        let mut pieces = pieces(dice, message.len());
        // What one zone refuses comes to the next one first, in Open vSwitch.
        let is_look =
            [Path::Look, Path::Commit, Path::Plain, Path::Force].iter().any(|path| path.tos() == form.tos);
        if is_look && !self.calm {
            spoil(dice, &mut pieces);
        }
        packets::fragments(&ends, protocol, &form, &message, &pieces)
    }

    fn payload(&self, dice: &mut Dice) -> Vec<u8> {
        let len = match dice.below(8) {
            0 | 1 => 0,
            2 if self.cuts => 3000 + dice.below(1000),
            3 => 1000,
            _ => dice.below(60),
        };
        vec![0x61; len]
    }

    /// The next one of a connection that goes well: SYN, SYN with ACK, ACK, data, and so on.
    fn segment(&mut self, dice: &mut Dice) -> (usize, u8, Vec<u8>) {
        let payload = self.payload(dice);
        let calm = self.calm;
        let Kind::Tcp { stage, sides } = &mut self.kind else { unreachable!() };
        let (from, flags, data) = match *stage {
            0 => {
                for side in sides.iter_mut() {
                    let (any, least) = (dice.roll() as u32, if calm { 8192 } else { 0 });
                    let seq = dice.pick(&[0, 1000, u32::MAX - 20, any]);
                    *side = Side {
                        seq,
                        window: dice.pick(&[8192_u16, 65535, 100, 0, 20_000]).max(least),
                        ..Side::default()
                    };
                }
                match dice.below(10) {
                    // In midstream.
                    0 if !calm => {
                        (sides[0].heard, sides[1].heard) = (sides[1].seq, sides[0].seq);
                        *stage = 3;
                        (dice.below(2), ACK, payload)
                    }
                    // Both at once.
                    1 if !calm => {
                        *stage = 1;
                        (1, SYN, vec![])
                    }
                    _ => (0, SYN, vec![]),
                }
            }
            1 => (1, SYN | ACK, vec![]),
            2 => (0, ACK, vec![]),
            3..16 => (dice.below(2), ACK | if dice.percent(40) { PSH } else { 0 }, payload),
            // Who closes first, or has to acknowledge that.
            16..20 if calm => {
                let first = usize::from(sides[0].window < sides[1].window);
                let from = if matches!(*stage, 16 | 19) { first } else { 1 - first };
                (from, if stage.is_multiple_of(2) { FIN | ACK } else { ACK }, vec![])
            }
            16 => (dice.below(2), FIN | ACK, payload),
            17 => (dice.below(2), ACK, vec![]),
            18 => (dice.below(2), FIN | ACK, vec![]),
            19 | 20 => (dice.below(2), ACK, vec![]),
            _ => (dice.below(2), RST | if dice.percent(50) { ACK } else { 0 }, vec![]),
        };
        *stage = match *stage {
            3..16 if dice.percent(20) => 16,
            19 if calm => 0,
            20 => dice.pick(&[0, 0, 0, 21]),
            21.. => 0,
            stage => stage + 1,
        };
        // The second FIN is the other's.
        let options = if flags & SYN != 0 { scale(dice, calm) } else { vec![] };
        let segment = send(sides, from, flags, options, data);
        (from, TCP, packets::tcp(&self.ends[from], &segment))
    }

    /// One that isn't next.
    fn odd_segment(&mut self, dice: &mut Dice) -> (usize, u8, Vec<u8>) {
        let from = dice.below(2);
        let Kind::Tcp { sides, stage } = &self.kind else { unreachable!() };
        let side = &sides[from];
        let plain = Segment {
            flags: ACK,
            seq: side.seq,
            ack: side.heard,
            window: side.window,
            data: vec![0x62; dice.below(30)],
            ..Segment::default()
        };
        let kind = match self.calm {
            // Where nothing is known yet, trackers have different ways.
            true if *stage < 3 => dice.pick(&[0, 9, 15]),
            true => dice.pick(&[0, 0, 0, 3, 9, 15]),
            false => dice.below(17),
        };
        let far = 1 << if self.calm { 27 + dice.below(3) } else { dice.below(32) };
        let near = dice.pick(&[1, 2, 8192, 65535, 67_035, 67_036, 70_000, 20_000]);
        let distance = if self.calm || dice.percent(50) { far } else { near };
        let segment = match kind {
            0 | 1 => side.last.clone(),
            2 => Segment { seq: side.seq.wrapping_sub(distance), ..plain },
            3 => Segment { seq: side.seq.wrapping_add(distance), ..plain },
            4 => Segment { ack: side.heard.wrapping_add(distance), ..plain },
            5 => Segment { ack: side.heard.wrapping_sub(distance), ..plain },
            6 => {
                let off = dice.pick(&[0, 0, 1, u32::MAX, 2, 100, 5000]);
                let flags = dice.pick(&[RST, RST | ACK]);
                Segment { seq: side.seq.wrapping_add(off), flags, data: vec![], ..plain }
            }
            7 => Segment { ack: 0, flags: RST | ACK, data: vec![], ..plain },
            8 => Segment { flags: dice.roll() as u8, ..plain },
            9 => Segment { flags: dice.pick(&[0, FIN, 0x29, SYN | FIN, SYN | RST, 0xff]), ..plain },
            10 => Segment { flags: SYN, options: scale(dice, self.calm), data: vec![], ..plain },
            11 => Segment {
                flags: SYN,
                seq: dice.roll() as u32,
                options: scale(dice, self.calm),
                data: vec![],
                ..plain
            },
            12 => Segment { flags: SYN | ACK, options: scale(dice, self.calm), data: vec![], ..plain },
            13 => Segment { seq: side.seq.wrapping_sub(1), data: vec![0; dice.below(2)], ..plain },
            14 => Segment { window: dice.pick(&[0, 1, 65535]), ..plain },
            15 => {
                Segment { offset: Some(dice.pick(if self.calm { &[0, 4] } else { &[0, 4, 6, 15] })), ..plain }
            }
            _ => Segment { flags: FIN | ACK, ..plain },
        };
        (from, TCP, packets::tcp(&self.ends[from], &segment))
    }

    /// A control connection as it goes, with a line that announces a connection.
    fn control(&mut self, dice: &mut Dice) -> (usize, u8, Vec<u8>) {
        let Kind::Ftp { stage, sides, line } = &mut self.kind else { unreachable!() };
        if *stage > 2 && dice.percent(15) {
            // Again.
            let from = dice.below(2);
            if sides[from].last.flags != 0 && *stage < 6 {
                return (from, TCP, packets::tcp(&self.ends[from], &sides[from].last.clone()));
            }
        }
        let (from, flags, text) = match *stage {
            0 => {
                for side in sides.iter_mut() {
                    *side = Side { seq: dice.roll() as u32, window: 8192, ..Side::default() };
                }
                (0, SYN, "")
            }
            1 => (1, SYN | ACK, ""),
            2 => (0, ACK, ""),
            3 => (1, ACK | PSH, "220 weft\r\n"),
            4 => (0, ACK | PSH, "USER weft\r\n"),
            5 => (line.from, ACK | PSH, &*line.text),
            stage if stage % 3 == 0 => (1 - line.from, ACK | PSH, "200 so be it\r\n"),
            stage if stage % 3 == 1 => (line.from, ACK | PSH, "NOOP\r\n"),
            _ => (dice.below(2), ACK, ""),
        };
        *stage = stage.saturating_add(1);
        let segment = send(sides, from, flags, vec![], text.as_bytes().to_vec());
        (from, TCP, packets::tcp(&self.ends[from], &segment))
    }

    fn datagram(&mut self, dice: &mut Dice) -> (usize, u8, Vec<u8>) {
        let from = usize::from(dice.percent(45));
        let mut ends = self.ends[from];
        if dice.percent(4) {
            ends.ports[dice.below(2)] = 0;
        }
        (from, UDP, packets::udp(&ends, &self.payload(dice)))
    }

    fn ping(&mut self, dice: &mut Dice) -> (usize, u8, Vec<u8>) {
        let six = self.ends[0].six;
        let from = usize::from(dice.percent(45));
        let kind = match (six, from) {
            (false, 0) => 8,
            (false, _) => 0,
            (true, 0) => 128,
            (true, _) => 129,
        };
        let [high, low] = self.ends[0].ports[0].to_be_bytes();
        let (kind, code) = match dice.below(30) {
            0 => (dice.roll() as u8, 0),
            1 => (kind, 1),
            2 if !six => (if from == 0 { 13 } else { 14 }, 0),
            3 if !six => (if from == 0 { 15 } else { 16 }, 0),
            _ => (kind, 0),
        };
        let message = packets::icmp(kind, code, [high, low, 0, dice.below(9) as u8], &self.payload(dice));
        (from, if six { ICMP6 } else { ICMP }, message)
    }

    /// An ICMP error about the last packet, as who received it has it; from him or from a router.
    fn error(&mut self, dice: &mut Dice) -> Vec<u8> {
        let Some((from, protocol, message)) = self.last.clone() else { unreachable!() };
        let six = self.ends[0].six;
        let mut quoted = self.ends[1 - from].turned();
        if dice.percent(10) {
            // About nothing.
            quoted.addresses[1] ^= 0x40;
        }
        let form = self.form(dice, 1 - from);
        let mut message = message;
        if [TCP, UDP].contains(&protocol) && message.len() >= 4 {
            message[..2].copy_from_slice(&quoted.ports[0].to_be_bytes());
            message[2..4].copy_from_slice(&quoted.ports[1].to_be_bytes());
        }
        let mut quotation = packets::ip(&quoted, protocol, &Form { options: false, ..form }, &message);
        let header = if six { 40 } else { 20 };
        let left = dice.pick(&[8, 20, 28, 60, 500]);
        // Of less Open vSwitch 3.1 translates a checksum that isn't there: it writes behind the packet.
        let left = if protocol == TCP { left.max(20) } else { left };
        quotation.truncate(header + left);
        if dice.percent(5) {
            quotation.truncate(dice.below(header + 7));
        }
        let router = if six { 0xfd00 << 112 | 0x77 } else { 0x0a00_0077 };
        let source = if dice.percent(50) { router } else { quoted.addresses[1] };
        let target = if dice.percent(95) { quoted.addresses[0] } else { router };
        let ends = Ends { six, addresses: [source, target], ports: [0; 2] };
        let (kind, code) = match six {
            false => dice.pick(&[(3, 3), (3, 4), (11, 0), (12, 0), (4, 0), (5, 1)]),
            true => dice.pick(&[(1, 4), (2, 0), (3, 0), (4, 1)]),
        };
        let message = packets::icmp(kind, code, [0, 0, 5, 0], &quotation);
        packets::frame(&ends, if six { ICMP6 } else { ICMP }, &form, &message)
    }
}

/// What a client says of where it waits.
fn command(six: bool, address: u128, port: u16) -> String {
    match six {
        true => format!("EPRT |2|{}|{port}|\r\n", std::net::Ipv6Addr::from(address)),
        false => {
            let [a, b, c, d] = (address as u32).to_be_bytes();
            format!("PORT {a},{b},{c},{d},{},{}\r\n", port >> 8, port & 255)
        }
    }
}

/// What a server says of where it waits.
fn answer(six: bool, address: u128, port: u16) -> String {
    match six {
        true => format!("229 Entering Extended Passive Mode (|||{port}|)\r\n"),
        false => {
            let [a, b, c, d] = (address as u32).to_be_bytes();
            format!("227 Entering Passive Mode ({a},{b},{c},{d},{},{}).\r\n", port >> 8, port & 255)
        }
    }
}

/// The window scale option, none, two, or one that is too large.
fn scale(dice: &mut Dice, calm: bool) -> Vec<u8> {
    match dice.below(7) {
        2 | 4 if calm => vec![],
        0 | 1 => vec![],
        2 => vec![1, 3, 3, dice.pick(&[0, 14, 15, 255])],
        3 => vec![2, 4, 5, 180, 1, 3, 3, 2],
        4 => vec![1, 3, 3, 4, 1, 3, 3, 9],
        _ => vec![1, 3, 3, 7],
    }
}

/// A segment that is next, and arrives.
fn send(sides: &mut [Side; 2], from: usize, flags: u8, options: Vec<u8>, data: Vec<u8>) -> Segment {
    let side = &mut sides[from];
    let ack = if flags & ACK != 0 { side.heard } else { 0 };
    let segment = Segment { flags, seq: side.seq, ack, window: side.window, options, offset: None, data };
    let octets = segment.data.len() as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    side.seq = side.seq.wrapping_add(octets);
    side.last = segment.clone();
    sides[1 - from].heard = sides[from].seq;
    segment
}

/// Where a long message is cut.
fn pieces(dice: &mut Dice, len: usize) -> Vec<Piece> {
    let size = dice.pick(&[1280, 1400, 1448, 1248]);
    let mut pieces: Vec<Piece> = (0..len)
        .step_by(size)
        .map(|start| Piece { start, end: (start + size).min(len), more: start + size < len })
        .collect();
    match dice.below(5) {
        0 => pieces.reverse(),
        1 => pieces.swap(0, 1),
        _ => {}
    }
    pieces
}

/// Some are lost, come twice, overlap, or are too small.
fn spoil(dice: &mut Dice, pieces: &mut Vec<Piece>) {
    match dice.below(8) {
        0 => drop(pieces.pop()),
        1 => pieces.insert(1, pieces[0]),
        2 => {
            let Piece { start, end, more } = pieces[0];
            pieces.insert(1, Piece { start: start + 16, end: end + 16, more });
        }
        3 => pieces.insert(0, Piece { start: 0, end: 64, more: true }),
        _ => {}
    }
}
