//! Tunnel packets on the wire, against octets that somebody else made, and against somebody else's checksums.
//!
//! The hex constants were made with scapy 2.5, for instance `VXLAN`:
//! `Ether(dst="02:ff:00:00:00:32", src="02:ff:00:00:00:01") / IP(src="192.0.2.1", dst="192.0.2.50", id=0, ttl=64, flags="DF")
//! / UDP(sport=40000, dport=4789, chksum=0) / VXLAN(vni=0x123456, flags=8) / INNER`, where `INNER` is
//! `Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01") / IP(src="10.0.0.1", dst="10.0.0.2", tos=0x28, id=0) /
//! UDP(sport=1000, dport=2000) / b"weft"`. The names of the others say what differs; `GRE` has key 0xdeadbeef.

#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use etherparse::{Ipv4Header, UdpHeader};
use proptest::prelude::*;
use rig::frames::{Ip, ip_frame, mac};
use rig::{LOCAL, UPLINK, ready, remote, tunnel};
use weft_core::decap::{Outer, Vteps};
use weft_core::encap::Template;
use weft_core::epoch::Dep;
use weft_core::key::{KeyMask, VtepId};
use weft_core::snapshot::{TunnelKeys, TunnelSpec, Vtep};
use weft_io::{FrameCache, FramePool, Packet};
use weft_wire::{DropReason, TunnelKind};

const INNER: &str =
    "02000000000202000000000108004528002000000000401166a30a0000010a00000203e807d0000c024277656674";
const VXLAN: &str = "02ff0000003202ff00000001080045000052000040004011b667c0000201c0000232\
    9c4012b5003e00000800000012345600";
const VXLAN_WITH_CHECKSUM_TTL_32_TOS_28_NO_DF: &str = "02ff0000003202ff000000010800452800520000000020111640\
    c0000201c00002329c4012b6003e64300800000012345600";
const GRE: &str = "02ff0000003202ff0000000108004500004a00004000402fb651c0000201c000023220006558deadbeef";
const GRE_WITH_CHECKSUM: &str =
    "02ff0000003202ff0000000108004500004e00004000402fb64dc0000201c0000232a000655865260000deadbeef";
const GRE_WITH_CHECKSUM_AND_SEQUENCE_BACK: &str = "02ff0000000102ff0000003208004500005200004000402fb649\
    c0000232c0000201b0006558551d0000deadbeef00000009";
const GRE_WITHOUT_KEY_BACK: &str =
    "02ff0000000102ff0000003208004500004600000000402ff655c0000232c000020100006558";
const VXLAN_WITH_CHECKSUM_AND_IP_OPTIONS_BACK: &str = "02ff0000000102ff00000032080046000056000000004011615f\
    c0000232c0000201940400009c4012b5003e64310800000012345600";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Outer headers in front of the inner frame.
fn with_inner(outer: &str) -> Vec<u8> {
    [hex(outer), hex(INNER)].concat()
}

fn with_packet<T>(octets: &[u8], act: impl FnOnce(&mut Packet) -> T) -> T {
    let mut frames: FrameCache = FramePool::new(FramePool::MIN_FRAMES).unwrap().cache();
    let mut packet = frames.alloc().unwrap();
    packet.append(octets).unwrap();
    let result = act(&mut packet);
    frames.free(packet);
    result
}

fn wrap(spec: &TunnelSpec, key: u32, inner: &[u8]) -> Vec<u8> {
    rig::wrapped(spec, key, inner)
}

fn unwrap(octets: &[u8]) -> Result<(Outer, Vec<u8>), DropReason> {
    let vtep = |id, kind, udp_port| Vtep {
        id: VtepId(id),
        local: LOCAL,
        kind,
        udp_port,
        dep: Dep::NONE,
        mask: KeyMask::NORMAL,
        apart: KeyMask::NORMAL,
        tunnels: Default::default(),
    };
    let vteps = Vteps::new(&[vtep(1, TunnelKind::Vxlan, 4789), vtep(2, TunnelKind::Gre, 0)]);
    with_packet(octets, |packet| vteps.strip(packet).map(|outer| (outer, packet.data().to_vec())))
}

/// To remote end 50, and what comes back from it is for us.
fn spec(kind: TunnelKind) -> TunnelSpec {
    tunnel(kind, 50, TunnelKeys::Fixed(0))
}

fn from_50(kind: TunnelKind, key: u32, inner: &[u8]) -> Vec<u8> {
    let mut spec = spec(kind);
    (spec.local, spec.remote, spec.path) = (remote(50), LOCAL.into(), ready(UPLINK, 1));
    wrap(&spec, key, inner)
}

#[test]
fn what_is_wrapped_is_what_scapy_makes() {
    let mut vxlan = wrap(&spec(TunnelKind::Vxlan), 0x12_3456, &hex(INNER));
    assert!((32768..61000).contains(&u16::from_be_bytes([vxlan[34], vxlan[35]])));
    vxlan[34..36].copy_from_slice(&40000u16.to_be_bytes());
    assert_eq!(vxlan, with_inner(VXLAN));
    assert_eq!(wrap(&spec(TunnelKind::Gre), 0xdead_beef, &hex(INNER)), with_inner(GRE));
    let summed = TunnelSpec { checksum: true, ..spec(TunnelKind::Gre) };
    assert_eq!(wrap(&summed, 0xdead_beef, &hex(INNER)), with_inner(GRE_WITH_CHECKSUM));
}

#[test]
fn ttl_type_of_service_df_udp_port_and_checksum_are_as_set() {
    let other = TunnelSpec {
        checksum: true,
        ttl: 32,
        tos: Some(0x28),
        df: false,
        udp_port: 4790,
        ..spec(TunnelKind::Vxlan)
    };
    let mut octets = wrap(&other, 0x12_3456, &hex(INNER));
    // Another source port is another checksum: RFC 1624, equation 3.
    let port = u16::from_be_bytes([octets[34], octets[35]]);
    let sum = u16::from_be_bytes([octets[40], octets[41]]);
    let sum = weft_wire::checksum::updated(sum, port, 40000);
    octets[34..36].copy_from_slice(&40000u16.to_be_bytes());
    octets[40..42].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(octets, with_inner(VXLAN_WITH_CHECKSUM_TTL_32_TOS_28_NO_DF));
}

#[test]
fn what_scapy_makes_is_unwrapped() {
    let outer = |vtep, key| Outer { vtep: VtepId(vtep), remote: u32::from(remote(50)), key };
    for (octets, expected) in [
        (VXLAN_WITH_CHECKSUM_AND_IP_OPTIONS_BACK, outer(1, 0x12_3456)),
        (GRE_WITH_CHECKSUM_AND_SEQUENCE_BACK, outer(2, 0xdead_beef)),
        (GRE_WITHOUT_KEY_BACK, outer(2, 0)),
    ] {
        assert_eq!(unwrap(&with_inner(octets)), Ok((expected, hex(INNER))));
    }
}

#[test]
fn padding_behind_the_outer_packet_is_cut_off() {
    for kind in [TunnelKind::Vxlan, TunnelKind::Gre] {
        let mut octets = from_50(kind, 7, &hex(INNER));
        octets.extend([0; 30]);
        assert_eq!(unwrap(&octets).map(|(_, inner)| inner), Ok(hex(INNER)));
    }
}

/// Writes octets at a place, and mends the outer IPv4 header's checksum.
fn with(octets: &[u8], at: usize, change: &[u8]) -> Vec<u8> {
    let mut octets = octets.to_vec();
    octets[at..at + change.len()].copy_from_slice(change);
    octets[24..26].fill(0);
    let sum = weft_wire::checksum::checksum(&octets[14..34]);
    octets[24..26].copy_from_slice(&sum.to_be_bytes());
    octets
}

/// Cuts the frame to `len` octets; the outer IPv4 and UDP headers say so.
fn cut(octets: &[u8], len: usize) -> Vec<u8> {
    let total = (len - 14) as u16;
    let mut octets = with(octets, 16, &total.to_be_bytes());
    if octets[23] == 17 && len >= 40 {
        octets[38..40].copy_from_slice(&(total - 20).to_be_bytes());
    }
    octets.truncate(len);
    octets
}

#[test]
fn broken_outer_headers_have_their_reasons() {
    use DropReason::*;
    let inner = hex(INNER);
    let (vxlan, gre) = (from_50(TunnelKind::Vxlan, 7, &inner), from_50(TunnelKind::Gre, 7, &inner));
    let total = (vxlan.len() - 14) as u16;
    let summed = with_inner(VXLAN_WITH_CHECKSUM_AND_IP_OPTIONS_BACK);
    let gre_summed = with_inner(GRE_WITH_CHECKSUM_AND_SEQUENCE_BACK);
    let flipped = |octets: &[u8], at: usize| {
        let mut octets = octets.to_vec();
        octets[at] ^= 1;
        octets
    };
    for (what, octets, reason) in [
        ("empty", vec![], RxTruncated),
        ("33 octets", vxlan[..33].to_vec(), RxTruncated),
        ("IPv6", with(&vxlan, 12, &[0x86, 0xdd]), TunnelUnknown),
        ("version 6", with(&vxlan, 14, &[0x65]), TunnelMalformed),
        ("a header of 16 octets", with(&vxlan, 14, &[0x44]), TunnelMalformed),
        ("a header longer than the frame", with(&vxlan, 14, &[0x4f])[..60].to_vec(), RxTruncated),
        ("a header that takes the payload in", with(&vxlan, 14, &[0x4f]), TunnelMalformed),
        ("a wrong header checksum", flipped(&vxlan, 25), TunnelMalformed),
        ("TCP", with(&vxlan, 23, &[6]), TunnelUnknown),
        ("another local address", with(&vxlan, 33, &[9]), TunnelUnknown),
        ("a first fragment", with(&vxlan, 20, &[0x20, 0]), TunnelFragment),
        ("a later fragment", with(&vxlan, 20, &[0, 1]), TunnelFragment),
        ("a total length beyond the frame", with(&vxlan, 16, &(total + 1).to_be_bytes()), TunnelMalformed),
        ("a total length within the header", with(&vxlan, 16, &[0, 19]), TunnelMalformed),
        ("another UDP port", with(&vxlan, 36, &[0x12, 0xb4]), TunnelUnknown),
        ("a UDP length one too long", with(&vxlan, 39, &[vxlan[39] + 1]), TunnelMalformed),
        ("a UDP length one too short", with(&vxlan, 39, &[vxlan[39] - 1]), TunnelMalformed),
        ("no I flag", with(&vxlan, 42, &[0]), TunnelMalformed),
        ("a reserved flag", with(&vxlan, 42, &[0x0c]), TunnelMalformed),
        ("reserved octets", with(&vxlan, 45, &[1]), TunnelMalformed),
        ("a reserved octet behind the VNI", with(&vxlan, 49, &[1]), TunnelMalformed),
        ("a wrong UDP checksum", flipped(&summed, 44), TunnelMalformed),
        ("a wrong octet under a UDP checksum", flipped(&summed, summed.len() - 1), TunnelMalformed),
        ("nothing behind IPv4", cut(&vxlan, 34), TunnelMalformed),
        ("half a UDP header", cut(&vxlan, 38), TunnelMalformed),
        ("half a VXLAN header", cut(&vxlan, 46), TunnelMalformed),
        ("no inner frame", cut(&vxlan, 50), TunnelMalformed),
        ("13 octets of inner frame", cut(&vxlan, 63), TunnelMalformed),
        ("GRE version 1", with(&gre, 35, &[1]), TunnelMalformed),
        ("GRE routing", with(&gre, 34, &[0x60]), TunnelMalformed),
        ("GRE with IPv4 inside", with(&gre, 36, &[8, 0]), TunnelMalformed),
        ("a wrong GRE checksum", flipped(&gre_summed, 39), TunnelMalformed),
        ("half a GRE header", cut(&gre, 36), TunnelMalformed),
        ("half a GRE key", cut(&gre, 40), TunnelMalformed),
        ("GRE and 13 octets of inner frame", cut(&gre, 55), TunnelMalformed),
    ] {
        assert_eq!(unwrap(&octets), Err(reason), "{what}");
    }
    assert!(unwrap(&vxlan).is_ok() && unwrap(&gre).is_ok() && unwrap(&cut(&vxlan, 64)).is_ok());
}

fn inner_with_tos(tos: u8) -> Vec<u8> {
    ip_frame(mac(1), mac(2), Ip { tos, ..Ip::default() }, 20)
}

#[test]
fn the_outer_type_of_service_is_set_or_inherited_and_ecn_is_the_inner_ones_with_ce_as_ect_0() {
    // Configured, inner, outer: Open vSwitch's tnl_port_send.
    for (configured, inner, outer) in [
        (Some(0), 0x28, 0),
        (Some(0), 0x29, 1),
        (Some(0), 0x2a, 2),
        (Some(0), 0x2b, 2),
        (Some(0xb8), 0x01, 0xb9),
        (None, 0x28, 0x28),
        (None, 0x2a, 0x2a),
        (None, 0x2b, 0x2a),
    ] {
        let spec = TunnelSpec { tos: configured, ..spec(TunnelKind::Vxlan) };
        assert_eq!(wrap(&spec, 7, &inner_with_tos(inner))[15], outer, "{configured:?} {inner:#x}");
    }
    // IPv6's traffic class, behind a tag too; and a frame that has none.
    let inherit = TunnelSpec { tos: None, ..spec(TunnelKind::Gre) };
    let mut six = hex(INNER)[..12].to_vec();
    six.extend([0x86, 0xdd, 0x62, 0xb0, 0, 0, 0, 0, 59, 64]);
    six.extend([0; 36]);
    assert_eq!(wrap(&inherit, 7, &six)[15], 0x2a);
    six.splice(12..12, [0x81, 0, 0, 5]);
    assert_eq!(wrap(&inherit, 7, &six)[15], 0x2a);
    let mut arp = hex(INNER);
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(wrap(&inherit, 7, &arp)[15], 0);
}

#[test]
fn congestion_marks_the_inner_packet_or_drops_it() {
    let marked = |inner: &[u8], outer_ecn: u8| {
        let octets = from_50(TunnelKind::Vxlan, 7, inner);
        unwrap(&with(&octets, 15, &[outer_ecn])).map(|(_, inner)| inner)
    };
    for (inner, expected) in [(0x29, 0x2b), (0x2a, 0x2b), (0x2b, 0x2b)] {
        assert_eq!(marked(&inner_with_tos(inner), 3), Ok(inner_with_tos(expected)));
        assert_eq!(marked(&inner_with_tos(inner), 2), Ok(inner_with_tos(inner)));
    }
    assert_eq!(marked(&inner_with_tos(0x28), 3), Err(DropReason::TunnelMalformed));
    assert_eq!(marked(&inner_with_tos(0x28), 1), Ok(inner_with_tos(0x28)));
    let mut arp = hex(INNER);
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(marked(&arp, 3), Ok(arp.clone()));
}

fn source_port(inner: &[u8]) -> u16 {
    let octets = wrap(&spec(TunnelKind::Vxlan), 7, inner);
    u16::from_be_bytes([octets[34], octets[35]])
}

#[test]
fn the_source_port_spreads_flows_over_its_range() {
    let mut bins = [0u32; 16];
    let template = Template::new(&spec(TunnelKind::Vxlan), 7).unwrap();
    for flow in 0..8000u16 {
        let ip = Ip { ports: (1024 + flow, 80), ..Ip::default() };
        let octets = with_packet(&ip_frame(mac(1), mac(2), ip, 4), |packet| {
            template.wrap(packet).unwrap();
            packet.data()[..36].to_vec()
        });
        let port = u32::from(u16::from_be_bytes([octets[34], octets[35]]));
        assert!((32768..61000).contains(&port));
        bins[((port - 32768) * 16 / (61000 - 32768)) as usize] += 1;
    }
    assert!(bins.iter().all(|&flows| (400..600).contains(&flows)), "{bins:?}");
}

#[test]
fn the_source_port_is_the_flows_whatever_the_packet_and_one_for_all_fragments() {
    for protocol in [6, 17] {
        let packet = |tos, payload| ip_frame(mac(1), mac(2), Ip { protocol, tos, ..Ip::default() }, payload);
        assert_eq!(source_port(&packet(0, 4)), source_port(&packet(0x2a, 900)));
    }
    let fragment = |offset: [u8; 2], ports| {
        let mut octets = ip_frame(mac(1), mac(2), Ip { ports, ..Ip::default() }, 64);
        octets[20..22].copy_from_slice(&offset);
        source_port(&octets)
    };
    assert_eq!(fragment([0x20, 0], (1000, 2000)), fragment([0, 9], (0x1234, 0x5678)));
    // Without IP, the addresses are the flow.
    let arp = |source| {
        let mut octets = hex(INNER);
        octets[11] = source;
        octets[12..14].copy_from_slice(&[8, 6]);
        source_port(&octets)
    };
    assert_eq!(arp(1), arp(1));
    assert_ne!(arp(1), arp(2));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn etherparse_finds_the_checksums_right_and_unwrapping_gives_the_frame_back(
        payload in proptest::collection::vec(any::<u8>(), 0..1400), key in 0..1u32 << 24, tos in any::<u8>(),
        ttl in 1u8.., checksum in any::<bool>(), gre in any::<bool>(), df in any::<bool>()
    ) {
        let kind = if gre { TunnelKind::Gre } else { TunnelKind::Vxlan };
        let inner = [&hex(INNER)[..12], &[0x12, 0x34], &payload].concat();
        let spec = TunnelSpec {
            local: remote(50), remote: LOCAL.into(), tos: Some(tos & !3), ttl, checksum, df, ..spec(kind)
        };
        let octets = wrap(&spec, key, &inner);
        let (ip, rest) = Ipv4Header::from_slice(&octets[14..]).unwrap();
        prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        prop_assert_eq!((ip.time_to_live, ip.dont_fragment), (ttl, df));
        prop_assert_eq!(usize::from(ip.total_len), octets.len() - 14);
        if !gre {
            let (udp, behind) = UdpHeader::from_slice(rest).unwrap();
            let right = udp.calc_checksum_ipv4(&ip, behind).unwrap();
            prop_assert_eq!(udp.checksum, if checksum { right } else { 0 });
            prop_assert_eq!(usize::from(udp.length), rest.len());
        }
        let (outer, unwrapped) = unwrap(&octets).unwrap();
        prop_assert_eq!((outer.key, unwrapped), (key, inner));
    }

    #[test]
    fn no_outer_octets_make_unwrapping_panic(mut octets in proptest::collection::vec(any::<u8>(), 0..150), sound in 0..3u8) {
        if sound > 0 && octets.len() >= 34 {
            let outer = if sound == 1 { with_inner(VXLAN_WITH_CHECKSUM_AND_IP_OPTIONS_BACK) } else { with_inner(GRE_WITHOUT_KEY_BACK) };
            octets[..34].copy_from_slice(&outer[..34]);
            octets[14] = 0x45;
            let len = octets.len();
            octets = cut(&octets, len);
        }
        let _ = unwrap(&octets);
    }
}
