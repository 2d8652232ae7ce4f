//! The rules of a case: paths through zones, by the type of service of the packet.

use crate::packets::Ends;
use crate::range::Range;
use crate::rig::dice::Dice;

/// How a zone translates new connections: to one address, and one port if it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    Not,
    /// To its own address, and another port only if there is a clash.
    Zero,
    Source(u16),
    Destination(u16),
    /// To one of several addresses or ports.
    Range(Range),
}

/// What rules do with packets that have this as their type of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Look, in zone A.
    Look,
    /// Commit what is new, with mark and label.
    CommitNew,
    Commit,
    /// Commit with `force`, in a zone of its own.
    Force,
    /// Commit what is new, in zone B.
    Other,
    /// Commit in zone A, then in zone B.
    Both,
    /// Look twice, `ct_clear` in between.
    Clear,
    /// Set marks of what is established.
    Mark,
    /// Look in zone B, then in zone A.
    Back,
    /// Look without translation.
    Plain,
    /// Commit in a zone that a register says.
    Field,
    /// Look, commit, look, all in zone A.
    Thrice,
    Ftp,
    Tftp,
    ForceMark,
    /// Mark by what `ct_mark` was.
    Count,
    /// Commit, to a server ([`crate::services`]).
    Service,
    /// The same, then commit in zone B, from a gateway.
    Hairpin,
    /// Look in zone B, then in zone A.
    HairpinBack,
    /// Both in zone A.
    HairpinOne,
    /// Commit, from its own address.
    Zero,
    /// The same for what is new.
    ZeroNew,
    /// Commit without translation.
    Bare,
    /// Commit with `nat` alone.
    BareNat,
    /// Commit with `force`, from a gateway.
    ForceSource,
    /// Commit with `force`, to a server.
    ForceDestination,
    /// Commit with `force`, without translation.
    ForceBare,
}

pub const PATHS: [Path; 16] = [
    Path::Look,
    Path::CommitNew,
    Path::Commit,
    Path::Force,
    Path::Other,
    Path::Both,
    Path::Clear,
    Path::Mark,
    Path::Back,
    Path::Plain,
    Path::Field,
    Path::Thrice,
    Path::Ftp,
    Path::Tftp,
    Path::ForceMark,
    Path::Count,
];

/// Those that stay in zone A, and look a packet up once by the ends that it has come with.
pub const PATHS_OF_A: [Path; 7] =
    [Path::Look, Path::CommitNew, Path::Commit, Path::Mark, Path::Plain, Path::Thrice, Path::Count];

impl Path {
    pub fn tos(self) -> u8 {
        4 * self as u8
    }
}

#[derive(Clone, Debug)]
pub struct Policy {
    /// Whether all is IPv6.
    pub six: bool,
    /// Where the stations' addresses start.
    pub stations: u128,
    /// A and B.
    pub zones: [u16; 2],
    pub nats: [Nat; 2],
}

/// The address that connections are translated to.
pub fn outer(six: bool, zone: usize) -> u128 {
    if six { 0xfd00 << 112 | 0x90 | zone as u128 } else { 0x0a09_0000 | zone as u128 }
}

/// Whether connections are translated to the address.
pub fn is_outer(six: bool, address: u128) -> bool {
    let first = [outer(six, 0), if six { UPPER } else { outer(six, 0) }];
    first.iter().any(|&first| (first..first + 8).contains(&address))
}

/// An address from which a range goes on in the upper half.
pub const UPPER: u128 = 0xfd00 << 112 | 0xffff_ffff_ffff_fffe;

impl Nat {
    fn random(dice: &mut Dice) -> Nat {
        match dice.below(7) {
            0 | 1 => Nat::Not,
            6 => Nat::Zero,
            2 => Nat::Source(0),
            3 => Nat::Source(dice.pick(&[5000, 5001, 100])),
            4 => Nat::Destination(0),
            _ => Nat::Destination(dice.pick(&[8080, 53])),
        }
    }

    /// The argument of a commit.
    pub fn text(self, six: bool, zone: usize) -> String {
        let address = outer(six, zone);
        let address = match six {
            true => format!("[{}]", std::net::Ipv6Addr::from(address)),
            false => std::net::Ipv4Addr::from(address as u32).to_string(),
        };
        let bare = address.trim_matches(['[', ']']);
        match self {
            Nat::Not => String::new(),
            Nat::Zero => format!(",nat(src={})", if six { "::" } else { "0.0.0.0" }),
            Nat::Source(0) => format!(",nat(src={bare})"),
            Nat::Source(port) => format!(",nat(src={address}:{port})"),
            Nat::Destination(0) => format!(",nat(dst={bare})"),
            Nat::Destination(port) => format!(",nat(dst={address}:{port})"),
            Nat::Range(range) => format!(",{}", range.text()),
        }
    }

    /// The other packets': what is translated as it says.
    fn bare(self) -> &'static str {
        if self == Nat::Not { "" } else { ",nat" }
    }

    /// A packet's ends behind the translation.
    pub fn apply(self, zone: usize, mut ends: Ends, has_ports: bool) -> Ends {
        let (at, port) = match self {
            // What it becomes is heard.
            Nat::Not | Nat::Zero | Nat::Range(_) => return ends,
            Nat::Source(port) => (0, port),
            Nat::Destination(port) => (1, port),
        };
        ends.addresses[at] = outer(ends.six, zone);
        if port != 0 && has_ports {
            ends.ports[at] = port;
        }
        ends
    }
}

impl Policy {
    pub fn random(dice: &mut Dice) -> Policy {
        let first = dice.pick(&[0, 1, 5, 65535]);
        let six = dice.percent(35);
        Policy {
            six,
            stations: if six { 0xfd00 << 112 } else { 0x0a00_0000 },
            zones: [first, first ^ 2],
            nats: [Nat::random(dice), Nat::random(dice)],
        }
    }

    /// Zone A translates to a range.
    pub fn ranged(dice: &mut Dice) -> Policy {
        let policy = Policy::random(dice);
        Policy { nats: [Nat::Range(Range::random(dice, policy.six)), Nat::Not], ..policy }
    }

    pub fn rules(&self, dice: &mut Dice) -> Vec<String> {
        let mut rules: Vec<String> = SHOW.lines().map(str::to_owned).collect();
        let mark = dice.pick(&MARKS);
        for path in PATHS {
            let (table, show) = (path as u8, "resubmit(,100)");
            let (then, last) = (10 + table, 40 + table);
            let Way { first, seconds, third } = self.way(path, mark, [then, last]);
            let family = if self.six { "ipv6" } else { "ip" };
            rules.push(format!("table=0,priority=1,{family},nw_tos={},actions={first}", path.tos()));
            for (number, (matches, second)) in seconds.iter().enumerate() {
                let priority = 9 - number;
                rules.push(format!("table={then},priority={priority},{matches},actions={show},{second}"));
            }
            rules.push(format!("table={then},priority=1,{family},actions={show}"));
            let third = third.map(|third| format!(",{third}")).unwrap_or_default();
            rules.push(format!("table={last},priority=1,{family},actions={show}{third}"));
        }
        rules
    }

    /// What a path does. Behind the first `ct` the packet is at table `then`, behind the second at table `last`.
    fn way(&self, path: Path, mark: &str, [then, last]: [u8; 2]) -> Way {
        let [a, b] = self.zones;
        // Where nothing is translated: there `force` doesn't replace it in Open vSwitch.
        let c = a ^ 4;
        let [na, nb] = [0, 1].map(|zone| self.nats[zone].text(self.six, zone));
        let [ba, bb] = self.nats.map(Nat::bare);
        let ip = if self.six { "ipv6" } else { "ip" };
        let six = if self.six { "6" } else { "" };
        let look = |table| format!("ct(table={table},zone={a}{ba})");
        // A second time in the zone: behind `nat` Open vSwitch would let the packet take part in the state again.
        let plain = |table| format!("ct(table={table},zone={a})");
        let commit = |table: u8, rest: &str| format!("ct(commit,table={table},{rest})");
        let new = format!("{ip},ct_state=+new");
        let helped = |protocol: &str, helper: &str| {
            let expected = (format!("{ip},ct_state=+new+rel"), commit(last, &format!("zone={a}{ba}")));
            let control = format!("{protocol}{six},ct_state=+new");
            vec![expected, (control, commit(last, &format!("zone={a}{na},alg={helper}")))]
        };
        let once = |first| Way { first, seconds: vec![], third: None };
        let way = |first, second: (String, String)| Way { seconds: vec![second], ..once(first) };
        let every = |second| (ip.to_owned(), second);
        match path {
            Path::CommitNew => way(look(then), (new, commit(last, &format!("zone={a}{na},exec({mark})")))),
            Path::Commit => once(commit(then, &format!("zone={a}{na}"))),
            Path::Force => once(commit(then, &format!("force,zone={c}"))),
            Path::ForceMark => once(commit(then, &format!("force,zone={c},exec({mark})"))),
            Path::Other => {
                let first = format!("ct(table={then},zone={b}{bb})");
                way(first, (new, commit(last, &format!("zone={b}{nb}"))))
            }
            Path::Both => {
                let first = commit(then, &format!("zone={a}{na}"));
                way(first, every(commit(last, &format!("zone={b}{nb}"))))
            }
            Path::Clear => way(look(then), every(format!("ct_clear,resubmit(,100),{}", look(last)))),
            Path::Mark => {
                let second = commit(last, &format!("zone={a}{ba},exec({mark})"));
                way(plain(then), (format!("{ip},ct_state=+est"), second))
            }
            Path::Back => way(format!("ct(table={then},zone={b}{bb})"), every(look(last))),
            Path::Plain => once(plain(then)),
            Path::Field => {
                let zone = format!("zone=NXM_NX_REG0[16..31]{nb}");
                once(format!("load:{b}->NXM_NX_REG0[16..31],{}", commit(then, &zone)))
            }
            Path::Thrice => {
                let third = (self.nats[0] == Nat::Not).then(|| plain(70));
                Way { third, ..way(plain(then), every(commit(last, &format!("zone={a}{na}")))) }
            }
            Path::Ftp => Way { seconds: helped("tcp", "ftp"), ..once(look(then)) },
            Path::Tftp => Way { seconds: helped("udp", "tftp"), ..once(look(then)) },
            Path::Count => {
                let mark = "exec(move:NXM_OF_IP_TOS[]->NXM_NX_CT_MARK[8..15])";
                way(plain(then), every(commit(last, &format!("zone={a}{na},{mark}"))))
            }
            _ => once(look(then)),
        }
    }
}

/// The actions of a path.
struct Way {
    first: String,
    /// Behind the first, by what the packet is then.
    seconds: Vec<(String, String)>,
    /// Behind the second.
    third: Option<String>,
}

/// What `exec` does.
const MARKS: [&str; 4] = [
    "load:0x1->NXM_NX_CT_MARK[]",
    "set_field:0x30/0xf0->ct_mark",
    "set_field:0x7/0xf->ct_mark,set_field:0x5a0000000000000000000000000000a5->ct_label",
    "load:1->NXM_NX_CT_LABEL[127],load:0x9->NXM_NX_CT_MARK[28..31]",
];

/// What rules see of a connection, in the addresses of frames: a copy for state, zone, mark and label, one for its tuple.
pub const SHOW: &str = "\
table=0,priority=0,actions=resubmit(,100)
table=70,actions=resubmit(,100)
table=100,priority=2,ip,ct_state=+trk-inv,actions=resubmit(,101),clone(move:NXM_NX_CT_NW_SRC[]->NXM_OF_ETH_SRC[0..31],move:NXM_NX_CT_TP_SRC[]->NXM_OF_ETH_SRC[32..47],move:NXM_NX_CT_NW_DST[]->NXM_OF_ETH_DST[0..31],move:NXM_NX_CT_TP_DST[]->NXM_OF_ETH_DST[32..47],output:3)
table=100,priority=2,ipv6,ct_state=+trk-inv,actions=resubmit(,101),clone(move:NXM_NX_CT_IPV6_SRC[0..31]->NXM_OF_ETH_SRC[0..31],move:NXM_NX_CT_TP_SRC[]->NXM_OF_ETH_SRC[32..47],move:NXM_NX_CT_IPV6_DST[0..31]->NXM_OF_ETH_DST[0..31],move:NXM_NX_CT_TP_DST[]->NXM_OF_ETH_DST[32..47],output:3)
table=100,priority=3,ip,ct_state=+rel-new-est-rpl,actions=resubmit(,101)
table=100,priority=3,ipv6,ct_state=+rel-new-est-rpl,actions=resubmit(,101)
table=100,priority=1,actions=resubmit(,101)
table=101,actions=clone(move:NXM_NX_CT_STATE[0..7]->NXM_OF_ETH_SRC[0..7],move:NXM_NX_CT_ZONE[]->NXM_OF_ETH_SRC[8..23],move:NXM_NX_CT_LABEL[0..23]->NXM_OF_ETH_SRC[24..47],move:NXM_NX_CT_MARK[]->NXM_OF_ETH_DST[0..31],move:NXM_NX_CT_LABEL[112..127]->NXM_OF_ETH_DST[32..47],output:3)";
