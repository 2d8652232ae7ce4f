//! Packets for tests, made and judged by etherparse.

use std::sync::Arc;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use crate::packet::Packet;
use crate::pool::{FrameCache, FramePool};
use crate::transport::Transport;

pub(crate) fn pool() -> Arc<FramePool> {
    FramePool::new(FramePool::MIN_FRAMES).expect("memory for 1024 frames")
}

/// A packet of `octets`, the first `head` of them in its head frame and the others in frames of `tail`.
pub(crate) fn packet(cache: &mut FrameCache, octets: &[u8], head: usize, tail: usize) -> Packet {
    let (first, rest) = octets.split_at(head.min(octets.len()));
    let mut packet = cache.alloc().expect("a frame");
    packet.append(first).expect("room");
    for piece in rest.chunks(tail) {
        let mut frame = cache.alloc().expect("a frame");
        frame.append(piece).expect("room");
        assert!(packet.push_continuation(frame).is_ok());
    }
    packet
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) v6: bool,
    pub(crate) tcp: bool,
    pub(crate) tagged: bool,
}

pub(crate) fn kinds() -> impl Strategy<Value = Kind> {
    any::<(bool, bool, bool)>().prop_map(|(v6, tcp, tagged)| Kind { v6, tcp, tagged })
}

/// A packet with a right checksum, by etherparse.
pub(crate) fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    use etherparse::VlanId;
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let mut octets = Vec::new();
    macro_rules! finish {
        ($step:expr) => {
            if kind.tcp {
                $step.tcp(1000, 2000, 77, 500).ack(9).write(&mut octets, payload)
            } else {
                $step.udp(1000, 2000).write(&mut octets, payload)
            }
        };
    }
    let (v4, v6) = (([10, 0, 0, 1], [10, 0, 0, 2], 64), ([1; 16], [2; 16], 64));
    let vlan = VlanId::try_new(7).expect("7 is a VLAN");
    match (kind.tagged, kind.v6) {
        (false, false) => finish!(ethernet.ipv4(v4.0, v4.1, v4.2)),
        (false, true) => finish!(ethernet.ipv6(v6.0, v6.1, v6.2)),
        (true, false) => finish!(ethernet.single_vlan(vlan).ipv4(v4.0, v4.1, v4.2)),
        (true, true) => finish!(ethernet.single_vlan(vlan).ipv6(v6.0, v6.1, v6.2)),
    }
    .expect("a vector takes it");
    octets
}

pub(crate) fn field(octets: &[u8]) -> (usize, u16) {
    let found = Transport::locate(octets).expect("TCP or UDP");
    let at = found.start + found.checksum_offset();
    (at, u16::from_be_bytes([octets[at], octets[at + 1]]))
}

/// The packet's checksum, by etherparse.
pub(crate) fn expected(octets: &[u8]) -> u16 {
    let sliced = SlicedPacket::from_ethernet(octets).expect("a packet");
    let net = sliced.net.expect("IP");
    match (sliced.transport.expect("TCP or UDP"), net) {
        (TransportSlice::Tcp(tcp), etherparse::NetSlice::Ipv4(ip)) => {
            tcp.to_header().calc_checksum_ipv4(&ip.header().to_header(), tcp.payload()).expect("it fits")
        }
        (TransportSlice::Tcp(tcp), etherparse::NetSlice::Ipv6(ip)) => {
            tcp.to_header().calc_checksum_ipv6(&ip.header().to_header(), tcp.payload()).expect("it fits")
        }
        (TransportSlice::Udp(udp), etherparse::NetSlice::Ipv4(ip)) => {
            udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).expect("it fits")
        }
        (TransportSlice::Udp(udp), etherparse::NetSlice::Ipv6(ip)) => {
            udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).expect("it fits")
        }
        other => panic!("{other:?}"),
    }
}
