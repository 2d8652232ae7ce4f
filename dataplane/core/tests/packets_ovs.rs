//! What connection tracking reads of packets, and what translation makes of them, beside stock Open vSwitch: the same frames
//! get the same `ct_state`, and leave with the same octets.
//!
//! Sound and broken frames of all protocols go, in one order, through `ct(commit)` of its userspace datapath and through
//! [`facts()`] and [`Connections`]; then connections with translation of source and destination, with ICMP errors about
//! them, through `ct(nat)` and [`translate`].

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../src/crafted.rs"]
#[allow(dead_code, reason = "not all of it is used here")]
mod crafted;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crafted::{Form, Kind, SIMPLE, error, frame, header_len, link};
use weft_conntrack::{Choice, Commit, Connections, Facts, Nat, Request, Settings, Side, Tracked};
use weft_core::edit::nat::{translate, translate_fragment};
use weft_core::facts::facts;
use weft_core::fragments::{Fragments, Origin, Outcome};
use weft_core::key::{Ingress, PortId};
use weft_core::parse;
use weft_io::Packet;
use weft_tests::cmd::{SHORT, ok};
use weft_tests::ovs::{SCHEMA, StockOvs};
use weft_tests::{Lab, Need, Result, pcap};

/// Frames of all protocols, sound and broken.
const TRUTH: &str = include_str!("../../../tests/data/edit-truth.txt");

/// The rules: states are written into the source address.
const RULES: &str = "\
table=0,in_port=1,ip,actions=ct(commit,zone=1,table=1)
table=0,in_port=1,ipv6,actions=ct(commit,zone=1,table=1)
table=0,in_port=3,ip,actions=ct(commit,zone=2,nat(src=10.9.0.1),table=2)
table=0,in_port=3,ipv6,actions=ct(commit,zone=2,nat(src=fd00::9),table=2)
table=0,in_port=4,ip,actions=ct(zone=2,nat,table=2)
table=0,in_port=4,ipv6,actions=ct(zone=2,nat,table=2)
table=0,in_port=5,ip,actions=ct(commit,zone=3,nat(dst=10.8.0.1),table=2)
table=0,in_port=5,ipv6,actions=ct(commit,zone=3,nat(dst=fd00::8),table=2)
table=0,in_port=6,ip,actions=ct(zone=3,nat,table=2)
table=0,in_port=6,ipv6,actions=ct(zone=3,nat,table=2)
table=1,actions=move:NXM_NX_CT_STATE[0..15]->NXM_OF_ETH_SRC[0..15],output:2
table=2,actions=output:2
";

struct Peer {
    ovs: StockOvs,
    seen: usize,
}

impl Peer {
    fn start(lab: &Lab) -> Result<Self> {
        let ovs = StockOvs::dummy(lab, "ovs")?;
        ovs.vsctl(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=dummy"])?;
        let pcap = format!("options:tx_pcap={}", ovs.dir().join("out.pcap").display());
        for port in 1..=6 {
            let (name, number) = (format!("p{port}"), format!("ofport_request={port}"));
            let add = ["add-port", "br0", &name, "--", "set", "interface", &name, "type=dummy", &number];
            let options: &[&str] = if port == 2 { &[&pcap] } else { &[] };
            ovs.vsctl(&[&add[..], options].concat())?;
        }
        let rules = lab.path("rules");
        std::fs::write(&rules, RULES)?;
        let target = format!("unix:{}", ovs.dir().join("br0.mgmt").display());
        ok(
            &["ovs-ofctl", "-O", "OpenFlow13", "replace-flows", &target, &rules.display().to_string()],
            SHORT,
        )?;
        Ok(Peer { ovs, seen: 0 })
    }

    /// What leaves for a frame that comes in by a port.
    fn pass(&mut self, port: u16, octets: &[u8]) -> Result<Vec<u8>> {
        self.ovs.receive(&format!("p{port}"), octets)?;
        self.next(octets)
    }

    /// The next frame that leaves.
    fn next(&mut self, octets: &[u8]) -> Result<Vec<u8>> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let file = std::fs::read(self.ovs.dir().join("out.pcap"))?;
            if let Some(frame) = pcap::frames(&file).nth(self.seen) {
                self.seen += 1;
                return Ok(frame.to_vec());
            }
            assert!(Instant::now() < end, "nothing left for {octets:02x?}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn connections() -> Connections {
    Connections::new(Settings { max: 100_000, ..Settings::default() }).unwrap()
}

fn track(connections: &Connections, zone: u16, packet: &Packet, commit: Option<&Commit>) -> Tracked {
    // IP that can't be read has no facts.
    let facts = facts(packet).unwrap_or(Facts { valid: false, ..Facts::default() });
    let translate = zone != 1;
    connections.track(&Request {
        zone,
        facts: &facts,
        before: None,
        commit,
        translate,
        second: 1,
        effects: true,
    })
}

/// Frames that are IP behind at most one tag, and no fragments. SCTP, too, is left out: Open vSwitch 3.1 tracks it by
/// addresses, from 3.2 on by ports, as weft.
fn recorded() -> Vec<Vec<u8>> {
    let frames = TRUTH.lines().filter_map(|line| line.strip_prefix("frame ")?.split_once(' '));
    let octets = frames.map(|(_, hex)| {
        let digits: Vec<u8> = hex.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
        digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect::<Vec<u8>>()
    });
    let is_ip = |octets: &Vec<u8>| {
        let key = parse::full(octets, Ingress::port(PortId(1)));
        key.is_some_and(|key| {
            let word = key.0[3];
            let (inner_tag, protocol, fragment) = (word >> 32 & 0xffff, word >> 24 & 0xff, word & 0xff);
            matches!(word >> 48, 0x0800 | 0x86dd) && inner_tag == 0 && fragment == 0 && protocol != 132
        })
    };
    octets.filter(is_ip).collect()
}

/// ICMP of each type; flags; lengths that lie; errors about what is known, unknown, and cut.
fn made() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for six in [false, true] {
        for (number, kind) in [Kind::Tcp, Kind::Udp, Kind::Ping].into_iter().enumerate() {
            let ports = [4000 + number as u16, 5000];
            let form = Form { kind, six, options: number == 1, ports, addresses: [0xfd01, 0xfd02], ..SIMPLE };
            let whole = frame(&form, &[7; 40]);
            let transport = link(&form).len() + header_len(&form);
            all.push(whole.clone());
            let router = Form { addresses: [0xfd03, form.addresses[0]], ..form };
            let quotation = &whole[link(&form).len()..];
            // Over IPv6 Open vSwitch asks for all of TCP's header.
            for left in [7, 8, 20, 40] {
                if !(six && kind == Kind::Tcp && left == 8) {
                    all.push(error(&router, &quotation[..header_len(&form) + left]));
                }
            }
            all.push(error(&Form { addresses: [0xfd03, 0xfd02], ..router }, quotation));
            let unknown = Form { ports: [1, 2], ..form };
            all.push(error(&router, &crafted::ip(&unknown, b"")));
            for at in transport..whole.len().min(transport + 24) {
                for bit in [1, 0x80] {
                    let mut broken = whole.clone();
                    broken[at] ^= bit;
                    all.push(broken);
                }
            }
            if !six {
                for at in 14..transport {
                    let mut broken = whole.clone();
                    // Not what makes a fragment of it.
                    if !(20..22).contains(&at) {
                        broken[at] ^= 1;
                        all.push(broken);
                    }
                }
            }
            all.push(frame(&Form { ports: [0, 5000], ..form }, b""));
            all.push(frame(&Form { ports: [5000, 0], ..form }, b""));
        }
        let form = Form { kind: Kind::Ping, six, ports: [99, 0], ..SIMPLE };
        for (icmp, code) in (0..=255).map(|icmp| (icmp, 0)).chain([(8, 1), (0, 1), (128, 1)]) {
            let mut octets = frame(&form, &[0; 40]);
            let at = link(&form).len() + header_len(&form);
            octets[at..at + 2].copy_from_slice(&[icmp, code]);
            crafted::fill_icmp(&form, &mut octets[at..]);
            all.push(octets);
        }
    }
    all
}

#[test]
fn packets_have_the_state_that_stock_ovs_gives_them() -> Result {
    let needs = [Need::Tool("ovs-vswitchd"), Need::Tool("ovs-ofctl"), Need::File(SCHEMA, "OVS's schema")];
    let Some(lab) = Lab::open("packets_have_the_state_that_stock_ovs_gives_them", &needs)? else {
        return Ok(());
    };
    let (mut peer, connections) = (Peer::start(&lab)?, connections());
    let (mut counts, mut wrong) = (BTreeMap::new(), Vec::new());
    for octets in recorded().into_iter().chain(made()) {
        let out = peer.pass(1, &octets)?;
        let theirs = u16::from_be_bytes([out[10], out[11]]);
        let (_, tracked) =
            crafted::with(&octets, |packet| track(&connections, 1, packet, Some(&Commit::default())));
        let hex: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
        *counts.entry(theirs).or_insert(0) += 1;
        if tracked.state.0 != theirs {
            wrong.push(format!("{theirs:#x}, not {:#x}: {hex}", tracked.state.0));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), counts.values().sum::<usize>(), wrong.join("\n"));
    // Some of each: new, in reply to something, invalid, related.
    println!("{counts:x?}");
    assert!(
        [0x21, 0x2c, 0x30].iter().all(|state| counts.get(state).is_some_and(|&count| count > 10)),
        "{counts:x?}"
    );
    Ok(())
}

/// Ports of the client's and the server's side, what the client's commit says, and the other end's new address.
struct Setting {
    ports: [u16; 2],
    zone: u16,
    side: Side,
}

/// A connection's packets, and errors about them: which side they come from, and the octets.
fn exchange(form: &Form, seen_client: u128, seen_server: u128) -> Vec<(usize, Vec<u8>)> {
    let [client, server] = form.addresses;
    let ping_back = |mut octets: Vec<u8>| {
        if form.kind == Kind::Ping {
            let at = link(form).len() + header_len(form);
            octets[at] = if form.six { 129 } else { 0 };
            let answer = Form { addresses: [seen_server, seen_client], ..*form };
            crafted::fill_icmp(&answer, &mut octets[at..]);
        }
        octets
    };
    let swapped = match form.kind {
        Kind::Ping => form.ports,
        _ => [form.ports[1], form.ports[0]],
    };
    let request = frame(form, &[3; 33]);
    let answer =
        ping_back(frame(&Form { addresses: [seen_server, seen_client], ports: swapped, ..*form }, &[4; 50]));
    // What each side gets to see of the other's packets, and quotes.
    let at_server = crafted::ip(&Form { addresses: [seen_client, seen_server], ..*form }, &[3; 33]);
    let at_client = Form { addresses: [server, client], ports: swapped, ..*form };
    let router = |to: u128| Form { addresses: [0x0a63_0001, to], ..*form };
    let mut all = vec![(0, request), (1, answer)];
    for left in [20, 30] {
        all.push((1, error(&router(seen_client), &at_server[..header_len(form) + left])));
        let from_server = Form { addresses: [seen_server, seen_client], ..*form };
        all.push((1, error(&from_server, &at_server[..header_len(form) + left])));
        if form.kind != Kind::Ping {
            let quotation = crafted::ip(&at_client, &[4; 50]);
            all.push((0, error(&router(server), &quotation[..header_len(form) + left])));
        }
    }
    all
}

#[test]
fn packets_are_translated_as_by_stock_ovs() -> Result {
    let needs = [Need::Tool("ovs-vswitchd"), Need::Tool("ovs-ofctl"), Need::File(SCHEMA, "OVS's schema")];
    let Some(lab) = Lab::open("packets_are_translated_as_by_stock_ovs", &needs)? else {
        return Ok(());
    };
    let (mut peer, connections) = (Peer::start(&lab)?, connections());
    let (mut wrong, mut changed) = (Vec::new(), 0);
    for (number, six) in [false, true, false, true].into_iter().enumerate() {
        for kind in [Kind::Tcp, Kind::Udp, Kind::Ping] {
            for setting in [
                Setting { ports: [3, 4], zone: 2, side: Side::Source },
                Setting { ports: [5, 6], zone: 3, side: Side::Destination },
            ] {
                let prefix = if six { 0xfd00_u128 << 112 } else { 0 };
                let address = |four: u128, last: u128| if six { prefix | last } else { four };
                let addresses = [address(0x0a00_0001, 1), address(0x0a00_0002, 2)];
                let ports = [3000 + number as u16, 400];
                let form = Form { kind, six, tags: number / 2, options: number > 1, addresses, ports };
                let (snat, dnat) = (address(0x0a09_0001, 9), address(0x0a08_0001, 8));
                let (new, client, server) = match setting.side {
                    Side::Source => (snat, snat, addresses[1]),
                    Side::Destination => (dnat, addresses[0], dnat),
                };
                let nat = Nat {
                    side: setting.side,
                    addresses: Some((new, new)),
                    ports: None,
                    choice: Choice::Hash,
                };
                let commit = Commit { nat: Some(nat), ..Commit::default() };
                for (index, (from, octets)) in exchange(&form, client, server).into_iter().enumerate() {
                    let theirs = peer.pass(setting.ports[from], &octets)?;
                    let (ours, ()) = crafted::with(&octets, |packet| {
                        let commit = (from == 0).then_some(&commit);
                        let tracked = track(&connections, setting.zone, packet, commit);
                        if let Some(translation) = &tracked.translation {
                            translate(packet, translation).unwrap();
                        }
                    });
                    changed += usize::from(theirs != octets);
                    // An ICMPv6 error about TCP: when its own address changes, Open vSwitch changes two octets of the quoted
                    // address, as if they were TCP's checksum.
                    if six && kind == Kind::Tcp && index > 1 {
                        assert!(crafted::with(&ours, |packet| facts(packet).unwrap().valid).1);
                    } else if ours != theirs {
                        wrong.push(format!(
                            "{form:?} {index}\n{octets:02x?}\n{ours:02x?}, not\n{theirs:02x?}"
                        ));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(changed > 100, "{changed}");
    Ok(())
}

/// The fragments as they leave here, in their packet's order: translated, or with the state as source address.
fn fragments_here(connections: &Connections, zone: u16, pieces: &[Vec<u8>], commit: &Commit) -> Vec<Vec<u8>> {
    let (mut cache, mut fragments) = (crafted::frames(), Fragments::new(Default::default()));
    let origin = Origin { ingress: Ingress::port(PortId(1)), scope: [0; 2] };
    let mut left = Vec::new();
    for (index, piece) in pieces.iter().enumerate().rev() {
        let packet = crafted::packet(&mut cache, piece, 300);
        let Outcome::Whole(whole) = fragments.put(packet, index, origin, Duration::ZERO) else { continue };
        let (facts, commit) = (&whole.facts, Some(commit));
        let translate = zone != 1;
        let request = Request { zone, facts, before: None, commit, translate, second: 1, effects: true };
        let tracked = connections.track(&request);
        while let Some((mut packet, index)) = fragments.take(&whole) {
            match &tracked.translation {
                Some(translation) => translate_fragment(&mut packet, translation, whole.len).unwrap(),
                None => packet.data_mut()[10..12].copy_from_slice(&tracked.state.0.to_be_bytes()),
            }
            left.push((index, crafted::octets(&mut cache, packet)));
        }
    }
    left.sort();
    left.into_iter().map(|(_, octets)| octets).collect()
}

#[test]
fn fragments_get_what_stock_ovs_gives_them() -> Result {
    let needs = [Need::Tool("ovs-vswitchd"), Need::Tool("ovs-ofctl"), Need::File(SCHEMA, "OVS's schema")];
    let Some(lab) = Lab::open("fragments_get_what_stock_ovs_gives_them", &needs)? else {
        return Ok(());
    };
    let (mut peer, connections) = (Peer::start(&lab)?, connections());
    for (number, six) in [false, true].into_iter().enumerate() {
        let prefix = if six { 0xfd00_u128 << 112 } else { 0 };
        let snat = if six { prefix | 9 } else { 0x0a09_0001 };
        let nat =
            Nat { side: Side::Source, addresses: Some((snat, snat)), ports: None, choice: Choice::Hash };
        for kind in [Kind::Tcp, Kind::Udp, Kind::Ping] {
            for (port, zone) in [(1, 1), (3, 2)] {
                let addresses = [prefix | 0x0a00_0001, prefix | 0x0a00_0002];
                let ports = [7000 + number as u16, 400];
                let form = Form { kind, six, options: !six, addresses, ports, ..SIMPLE };
                let pieces = crafted::cut(&form, &[9; 3900], &[1280, 2560]);
                let commit = Commit { nat: (zone == 2).then_some(nat), ..Commit::default() };
                let ours = fragments_here(&connections, zone, &pieces, &commit);
                for piece in pieces.iter().rev() {
                    peer.ovs.receive(&format!("p{port}"), piece)?;
                }
                let theirs: Vec<_> = pieces.iter().map(|piece| peer.next(piece)).collect::<Result<_>>()?;
                let summary = |all: &[Vec<u8>]| {
                    all.iter().map(|o| format!("{:02x?}", &o[..80])).collect::<Vec<_>>().join("\n")
                };
                assert!(
                    ours == theirs,
                    "{form:?}, zone {zone}\n{}, not\n{}",
                    summary(&ours),
                    summary(&theirs)
                );
            }
        }
    }
    Ok(())
}
