//! Flow keys against those that stock Open vSwitch reads: each protocol, tags, options, extension headers, fragments,
//! lying lengths, octets changed at random, and all of these cut to every length.
//!
//! `tests/data/key-truth.txt` says what was recorded and how. Its text is turned into words here, by a converter that
//! knows what `ovs-ofctl` prints and shares no code with the switch but the registry of fields.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::{Ipv4Addr, Ipv6Addr};

use weft_core::key::{FlowKey, Ingress, KeyMask, MIDDLE, NARROW, PortId};
use weft_core::parse;
use weft_flow::{Field, Fields, Subfield};
use weft_wire::EtherType;

const TRUTH: &str = include_str!("../../../tests/data/key-truth.txt");
const PORT: Ingress = Ingress::port(PortId(3));

/// A recorded frame, and the flow of it at some lengths.
struct Line {
    frame: Vec<u8>,
    lengths: std::ops::RangeInclusive<usize>,
    flow: &'static str,
}

fn lines() -> Vec<Line> {
    let mut frame = Vec::new();
    let mut lines = Vec::new();
    for line in TRUTH.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (lengths, rest) = line.split_once(' ').unwrap();
        if lengths == "frame" {
            frame = (0..rest.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&rest[at..at + 2], 16).unwrap())
                .collect();
            continue;
        }
        let (from, to) = lengths.split_once('-').unwrap();
        let lengths = from.parse().unwrap()..=to.parse().unwrap();
        lines.push(Line { frame: frame.clone(), lengths, flow: rest });
    }
    lines
}

fn number(text: &str) -> u128 {
    text.strip_prefix("0x")
        .map_or_else(|| text.parse().unwrap(), |hex| u128::from_str_radix(hex, 16).unwrap())
}

fn mac(text: &str) -> u128 {
    text.split(':').fold(0, |value, octet| value << 8 | u128::from_str_radix(octet, 16).unwrap())
}

fn tcp_flags(text: &str) -> u128 {
    const NAMES: [&str; 12] =
        ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns", "[200]", "[400]", "[800]"];
    let bit = |name: &str| 1 << NAMES.iter().position(|known| *known == name).unwrap();
    if text == "0" { 0 } else { text.split('|').map(bit).sum() }
}

/// Fields that are put together one by one.
#[derive(Default)]
struct Builder(Fields);

impl Builder {
    fn set(&mut self, field: Field, value: u128) {
        let field = Subfield::whole(field);
        let before = field.get(&self.0);
        field.set(&mut self.0, before | value);
    }

    /// `tcp`: an EtherType and a protocol.
    fn set_kind(&mut self, name: &str) {
        let (ether_type, protocol) = match name {
            "ip" => (0x800, 0),
            "icmp" => (0x800, 1),
            "tcp" => (0x800, 6),
            "udp" => (0x800, 17),
            "sctp" => (0x800, 132),
            "ipv6" => (0x86dd, 0),
            "tcp6" => (0x86dd, 6),
            "udp6" => (0x86dd, 17),
            "icmp6" => (0x86dd, 58),
            "sctp6" => (0x86dd, 132),
            "arp" => (0x806, 0),
            "rarp" => (0x8035, 0),
            "mpls" => (0x8847, 0),
            "mplsm" => (0x8848, 0),
            _ => panic!("{name}"),
        };
        self.set(Field::EthType, ether_type);
        self.set(Field::NwProto, protocol);
    }

    /// `nw_ttl=64`
    fn set_named(&mut self, name: &str, value: &str) {
        const FRAGMENTS: [&str; 4] = ["no", "first", "", "later"];
        match name {
            "vlan_tci" | "vlan_tci1" => assert_eq!(value, "0x0000"),
            "dl_vlan" => self.set(Field::VlanTci, number(value) | 0x1000),
            "dl_vlan_pcp" => self.set(Field::VlanTci, number(value) << 13),
            "dl_vlan1" => self.set(Field::InnerVlanTci, number(value) | 0x1000),
            "dl_vlan_pcp1" => self.set(Field::InnerVlanTci, number(value) << 13),
            "dl_src" | "dl_dst" | "arp_sha" | "arp_tha" | "nd_sll" | "nd_tll" => {
                self.set(Field::by_name(name).unwrap(), mac(value));
            }
            "nw_src" | "nw_dst" | "arp_spa" | "arp_tpa" => {
                self.set(Field::by_name(name).unwrap(), value.parse::<Ipv4Addr>().unwrap().to_bits().into());
            }
            "ipv6_src" | "ipv6_dst" | "nd_target" => {
                self.set(Field::by_name(name).unwrap(), value.parse::<Ipv6Addr>().unwrap().to_bits());
            }
            "nw_frag" => {
                let at = FRAGMENTS.iter().position(|known| *known == value).unwrap();
                self.set(Field::IpFrag, at as u128);
            }
            "tp_src" | "icmp_type" => self.set(Field::TcpSrc, number(value)),
            "tp_dst" | "icmp_code" => self.set(Field::TcpDst, number(value)),
            "tcp_flags" => self.set(Field::TcpFlags, tcp_flags(value)),
            "mpls_lse1" => self.0.0[15] |= (number(value) as u64) << 32,
            "mpls_lse2" => self.0.0[15] |= number(value) as u64,
            _ => self.set(Field::by_name(name).unwrap_or_else(|| panic!("{name}")), number(value)),
        }
    }
}

/// The key that the text describes: what it doesn't name is 0.
fn key(flow: &str) -> FlowKey {
    let mut builder = Builder::default();
    if !flow.contains("dl_src=") {
        builder.set_named("dl_src", "02:00:00:00:00:01");
        builder.set_named("dl_dst", "02:00:00:00:00:02");
    }
    for item in flow.split(',') {
        match item.split_once('=') {
            Some((name, value)) => builder.set_named(name, value),
            None => builder.set_kind(item),
        }
    }
    let mut key = builder.0.key();
    key.0[0] |= PORT.bits();
    key
}

/// What the text says; neighbour discovery over IPv4 is read by Open vSwitch too, which doesn't print it.
fn said(flow: &str) -> KeyMask {
    let mut mask = KeyMask::EVERYTHING;
    if flow.starts_with("ip,") && flow.contains("nw_proto=58") {
        for word in [9, 10, 12, 13] {
            mask.0[word] = 0;
        }
    }
    // Open vSwitch reads no identifier.
    let icmp = |item: &str| matches!(item, "icmp" | "icmp6" | "nw_proto=1" | "nw_proto=58");
    if flow.split(',').any(icmp) {
        mask.0[8] &= !(0xff00_ff00 << 32);
    }
    mask
}

#[test]
fn keys_are_what_open_vswitch_reads() {
    let mut compared = 0;
    for Line { frame, lengths, flow } in lines() {
        let expected = key(flow);
        for length in lengths {
            let cut = &frame[..length];
            let read = parse::full(cut, PORT);
            // The outermost tag has to be whole, in weft: docs/semantics.md, section 1.
            if length < 18 && EtherType(u16::from_be_bytes([frame[12], frame[13]])).is_tag() {
                assert_eq!(read, None);
                continue;
            }
            let mask = said(flow);
            assert_eq!(read.map(|key| key.masked(&mask)), Some(expected.masked(&mask)), "{flow}, {cut:02x?}");
            compared += 1;
        }
    }
    assert!(compared > 40_000, "{compared}");
}

#[test]
fn a_narrower_key_is_the_start_of_a_wider_one() {
    for Line { frame, lengths, .. } in lines() {
        let cut = &frame[..*lengths.end()];
        let whole = parse::full(cut, PORT).map(|key| key.0);
        let middle = parse::words::<MIDDLE>(cut, cut.len(), PORT);
        assert_eq!(middle.as_ref().map(|words| &words[..]), whole.as_ref().map(|words| &words[..MIDDLE]));
        let narrow = parse::words::<NARROW>(cut, cut.len(), PORT);
        assert_eq!(narrow.map(|words| [words[0], words[1]]), whole.map(|words| [words[0], words[1]]));
    }
}

/// A large packet of a guest: its headers are in the first frame, and its length is that of all frames.
#[test]
fn a_packet_that_goes_on_in_other_frames_is_as_long_as_all_of_them() {
    let start = lines().into_iter().find(|line| line.flow.starts_with("tcp,")).unwrap();
    let mut frame = start.frame.clone();
    frame[16..18].copy_from_slice(&3000u16.to_be_bytes());
    let read = parse::words::<16>(&frame, 14 + 3000, PORT).unwrap();
    assert_eq!(FlowKey(read), key(start.flow));
    assert_eq!(parse::words::<16>(&frame, 14 + 2999, PORT).unwrap()[5], 0);
}
