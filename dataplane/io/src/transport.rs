//! Where a packet's TCP or UDP header is, for what is done to its checksum and for cutting it into segments.
//!
//! Labels are passed over: what is behind them is IP, of the version that its first octet says.
//!
//! Not a parser for switching: it answers only for packets whose transport checksum covers what is in them (no
//! fragments, no routing header that is still to be followed), and says `None` for everything else.

use weft_wire::checksum::{self, Sum};
use weft_wire::{EtherType, Protocol, ethernet, ipv4, ipv6, tcp, udp};

/// An S-tag's EtherType before 802.1ad was finished.
const OLD_SVLAN: EtherType = EtherType(0x9100);
/// Tags that may stand before the EtherType, and extension headers before the transport header.
const MAX_TAGS: usize = 2;
const MAX_EXTENSIONS: usize = 8;
/// Labels that may stand before the IP header.
const MAX_LABELS: usize = 16;

/// A TCP or UDP header's place in a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transport {
    /// The IP header's first octet.
    pub network: usize,
    /// The TCP or UDP header's first octet.
    pub start: usize,
    /// Octets from `start` to the IP packet's end, as the IP header says.
    pub len: usize,
    /// Whether the IP header is one of version 6.
    pub ipv6: bool,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl Transport {
    /// Finds the header in the packet that starts with `head`.
    pub fn locate(head: &[u8]) -> Option<Self> {
        let mut at = ethernet::LEN;
        for _ in 0..=MAX_TAGS {
            match EtherType(u16::from_be_bytes(octets(head, at - 2)?)) {
                EtherType::IPV4 => return in_ipv4(head.get(at..)?, at),
                EtherType::IPV6 => return in_ipv6(head.get(at..)?, at),
                label if label.is_mpls() => return behind_labels(head, at),
                tag if tag.is_tag() || tag == OLD_SVLAN => at += ethernet::TAG_LEN,
                _ => return None,
            }
        }
        None
    }

    /// Whether it is TCP's; else it is UDP's.
    pub const fn is_tcp(&self) -> bool {
        self.protocol.0 == Protocol::TCP.0
    }

    /// Where the checksum field is, counted from the header's start.
    pub const fn checksum_offset(&self) -> usize {
        if self.is_tcp() { tcp::CHECKSUM_AT } else { udp::CHECKSUM_AT }
    }

    /// The sum of the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1) for `len` octets from the transport
    /// header on, not complemented: what an unfinished checksum field holds.
    pub fn pseudo_header(&self, head: &[u8], len: usize) -> Option<u16> {
        let network = head.get(self.network..)?;
        let sum: Sum = if self.ipv6 {
            let (ip, _) = ipv6::Header::split(network).ok()?;
            checksum::pseudo_v6(ip.src(), ip.dst(), self.protocol.0, len as u32)
        } else {
            let (ip, _) = ipv4::Header::split(network).ok()?;
            checksum::pseudo_v4(ip.src(), ip.dst(), self.protocol.0, len as u16)
        };
        Some(sum.folded())
    }
}

fn octets<const N: usize>(head: &[u8], at: usize) -> Option<[u8; N]> {
    head.get(at..)?.first_chunk().copied()
}

/// The header behind the label stack at `at` (RFC 3032, section 2.1).
fn behind_labels(head: &[u8], mut at: usize) -> Option<Transport> {
    const BOTTOM: u8 = 1;
    for _ in 0..MAX_LABELS {
        let [_, _, class_and_bottom, _] = octets(head, at)?;
        at += 4;
        if class_and_bottom & BOTTOM != 0 {
            let packet = head.get(at..)?;
            return match packet.first()? >> 4 {
                4 => in_ipv4(packet, at),
                6 => in_ipv6(packet, at),
                _ => None,
            };
        }
    }
    None
}

/// The header behind an IPv4 header at `network`, with which `packet` starts.
fn in_ipv4(packet: &[u8], network: usize) -> Option<Transport> {
    let (ip, _) = ipv4::Header::split(packet).ok()?;
    let header = ip.header_len();
    if ip.version() != 4 || header < ipv4::LEN || ip.is_fragment() {
        return None;
    }
    let len = usize::from(ip.total_len()).checked_sub(header)?;
    transport(Transport { network, start: network + header, len, ipv6: false, protocol: ip.protocol() })
}

/// The header behind an IPv6 header at `network`, with which `packet` starts. Only extension headers that leave the
/// pseudo-header as it is are passed over (RFC 8200, section 4).
fn in_ipv6(packet: &[u8], network: usize) -> Option<Transport> {
    const HOP_BY_HOP: u8 = 0;
    const DESTINATION: u8 = 60;
    let (ip, _) = ipv6::Header::split(packet).ok()?;
    if ip.version() != 6 {
        return None;
    }
    let (mut len, mut next, mut start) = (usize::from(ip.payload_len()), ip.next_header(), ipv6::LEN);
    for _ in 0..MAX_EXTENSIONS {
        if next.0 != HOP_BY_HOP && next.0 != DESTINATION {
            break;
        }
        let [following, units] = octets(packet, start)?;
        let extension = (usize::from(units) + 1) * 8;
        len = len.checked_sub(extension)?;
        (next, start) = (Protocol(following), start + extension);
    }
    transport(Transport { network, start: network + start, len, ipv6: true, protocol: next })
}

fn transport(found: Transport) -> Option<Transport> {
    let shortest = match found.protocol {
        Protocol::TCP => tcp::LEN,
        Protocol::UDP => udp::LEN,
        _ => return None,
    };
    (found.len >= shortest).then_some(found)
}
