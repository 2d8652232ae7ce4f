//! Putting the outer headers in front: VXLAN (RFC 7348) and GRE with key (RFC 2784, 2890), over IPv4.
//!
//! A [`Template`] is the outer header of one tunnel, key and path, prepared once; per packet the lengths, the IPv4
//! checksum (by adding to a prepared sum, RFC 1624), type of service and the UDP source port are filled in. None of
//! these is ever part of a flow key.

use std::net::Ipv4Addr;

use weft_io::Packet;
use weft_wire::checksum::{Sum, fold_u32};
use weft_wire::{DropReason, EtherType, Protocol, TunnelKey, TunnelKind, ethernet, gre, ipv4, udp, vxlan};

use crate::snapshot::{Path, Remote, TunnelSpec};

const ETHERNET: usize = ethernet::LEN;
const IPV4: usize = ipv4::LEN;
/// Offset of the tunnel's own header.
const INNER: usize = ETHERNET + IPV4;
/// The longest outer header: GRE with checksum is 46, VXLAN 50.
const LONGEST: usize = INNER + udp::LEN + vxlan::LEN;

/// The range that UDP source ports are taken from (Open vSwitch's `tnl/egress_port_range` default).
const PORT_RANGE: std::ops::Range<u32> = 32768..61000;

/// ECN bits: not capable, capable, congestion experienced (RFC 3168, section 5).
const ECN_MASK: u8 = 3;
const ECN_ECT0: u8 = 2;
const ECN_CE: u8 = 3;

/// An outer header, prepared. See the module's text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template {
    header: [u8; LONGEST],
    len: u8,
    kind: TunnelKind,
    checksum: bool,
    /// Type of service with ECN 0; `None` inherits it.
    tos: Option<u8>,
    /// The longest inner frame, in octets.
    max_inner: u16,
    /// The one's complement sum of the IPv4 header with length, type of service and checksum 0.
    sum: u32,
    /// The port to leave by.
    pub uplink: crate::key::PortId,
}

impl Template {
    /// The header of `tunnel` under `key`; `None` while the path isn't known, or if the flow says where the tunnel leads.
    pub fn new(tunnel: &TunnelSpec, key: u32) -> Option<Template> {
        match tunnel.remote {
            Remote::Fixed(remote) => Template::towards(tunnel, key, (remote, &tunnel.path)),
            Remote::Flow => None,
        }
    }

    /// The same to this remote end, by this path.
    pub fn towards(tunnel: &TunnelSpec, key: u32, (remote, path): (Ipv4Addr, &Path)) -> Option<Template> {
        let Path::Ready { uplink, source, destination, mtu } = *path else { return None };
        let mut header = [0u8; LONGEST];
        let (mut frame, rest) = ethernet::Header::split_mut(&mut header).ok()?;
        frame.set_dst(destination);
        frame.set_src(source);
        frame.set_ethertype(EtherType::IPV4);
        let (mut ip, own) = ipv4::Header::split_mut(rest).ok()?;
        outer_ipv4(tunnel, remote).emit(ip.as_bytes_mut());
        let sum = u32::from(!ip.checksum());
        match tunnel.kind {
            TunnelKind::Vxlan => {
                let (mut udp, rest) = udp::Header::split_mut(own).ok()?;
                udp.set_dst_port(tunnel.udp_port);
                vxlan::Repr { vni: TunnelKey(key) }.emit(rest.first_chunk_mut()?);
            }
            TunnelKind::Gre => {
                *own.first_chunk_mut()? = gre::Repr { key: TunnelKey(key), checksum: tunnel.checksum }.emit();
            }
        }
        Some(Template {
            header,
            len: (ETHERNET + tunnel.overhead()) as u8,
            kind: tunnel.kind,
            checksum: tunnel.checksum,
            tos: tunnel.tos.map(|tos| tos & !ECN_MASK),
            max_inner: mtu.saturating_sub(tunnel.overhead() as u16),
            sum,
            uplink,
        })
    }

    /// Wraps `packet`, or says why it can't be. Returns the inner frame's length in octets.
    #[inline(always)]
    pub fn wrap(&self, packet: &mut Packet) -> Result<usize, DropReason> {
        let inner_len = packet.total_len();
        if inner_len > usize::from(self.max_inner) {
            return Err(DropReason::TunnelTooBig);
        }
        if packet.offload != weft_io::Offload::default() {
            finish_inner(packet)?;
        }
        let inner = Inner::look(packet.data());
        let data = packet.push_front(usize::from(self.len)).ok_or(DropReason::TunnelTooBig)?;
        self.write(data, inner_len, &inner).ok_or(DropReason::TunnelTooBig)?;
        if self.checksum {
            self.fill_checksum(packet);
        }
        Ok(inner_len)
    }

    /// Writes the header: the prepared octets in pieces of fixed size, then what differs from packet to packet.
    #[inline(always)]
    fn write(&self, data: &mut [u8], inner_len: usize, inner: &Inner) -> Option<()> {
        let ip_len = (inner_len + usize::from(self.len) - ETHERNET) as u16;
        let tos = outer_tos(self.tos, inner.tos);
        let sum = fold_u32(self.sum + u32::from(ip_len) + u32::from(tos));
        let head = match self.kind {
            TunnelKind::Vxlan => {
                let head = data.first_chunk_mut::<LONGEST>()?;
                *head = self.header;
                let (_, own) = head.split_at_mut(INNER);
                let mut udp = udp::Header::new(own.first_chunk_mut()?);
                udp.set_src_port(inner.source_port);
                udp.set_length(ip_len - IPV4 as u16);
                head.first_chunk_mut::<INNER>()?
            }
            TunnelKind::Gre => {
                let prepared = self.header.get(..usize::from(self.len))?;
                data.get_mut(..prepared.len())?.copy_from_slice(prepared);
                data.first_chunk_mut::<INNER>()?
            }
        };
        let (_, ip) = head.split_at_mut(ETHERNET);
        let mut ip = ipv4::Header::new(ip.first_chunk_mut()?);
        ip.set_tos(tos);
        ip.set_total_len(ip_len);
        ip.set_checksum(!sum);
        Some(())
    }

    /// UDP's or GRE's own checksum over all that is behind the outer IPv4 header (RFC 768, RFC 2784 section 2.4).
    #[cold]
    fn fill_checksum(&self, packet: &mut Packet) {
        let mut sum = Sum::new();
        let data = packet.data();
        if self.kind == TunnelKind::Vxlan {
            pseudo_header(&mut sum, data, INNER);
        }
        add_from(&mut sum, packet, INNER);
        let data = packet.data_mut();
        let at = match self.kind {
            TunnelKind::Vxlan => INNER + udp::CHECKSUM_AT,
            TunnelKind::Gre => INNER + gre::CHECKSUM_AT,
        };
        let checksum = match self.kind {
            TunnelKind::Vxlan => sum.udp_checksum(),
            TunnelKind::Gre => sum.checksum(),
        };
        if let Some(place) = data.get_mut(at..at + 2) {
            place.copy_from_slice(&checksum.to_be_bytes());
        }
    }
}

/// The outer IPv4 header, without length and type of service.
fn outer_ipv4(tunnel: &TunnelSpec, remote: Ipv4Addr) -> ipv4::Repr {
    ipv4::Repr {
        src: tunnel.local,
        dst: remote,
        protocol: match tunnel.kind {
            TunnelKind::Vxlan => Protocol::UDP,
            TunnelKind::Gre => Protocol::GRE,
        },
        ttl: tunnel.ttl,
        tos: 0,
        ident: 0,
        dont_fragment: tunnel.df,
        total_len: 0,
    }
}

/// What encapsulation reads of the inner frame.
struct Inner {
    tos: Option<u8>,
    source_port: u16,
}

impl Inner {
    #[inline(always)]
    fn look(frame: &[u8]) -> Inner {
        // Untagged IPv4 without options, not a fragment: nearly every packet.
        if let Some(head) = frame.first_chunk::<38>()
            && [head[12], head[13], head[14]] == [0x08, 0x00, 0x45]
            && (head[20] & 0x3f) | head[21] == 0
        {
            let (tos, flow) = plain_ipv4_flow(head);
            return Inner { tos: Some(tos), source_port: source_port(flow) };
        }
        Inner::look_closer(frame)
    }

    #[inline(never)]
    fn look_closer(frame: &[u8]) -> Inner {
        let Some(head) = frame.first_chunk::<18>() else {
            return Inner { tos: None, source_port: PORT_RANGE.start as u16 };
        };
        let mut ether_type = EtherType(u16::from_be_bytes([head[12], head[13]]));
        let mut at = 14;
        if ether_type.is_tag() {
            (ether_type, at) = (EtherType(u16::from_be_bytes([head[16], head[17]])), 18);
        }
        let payload = frame.get(at..).unwrap_or_default();
        let (tos, flow) = match ether_type {
            EtherType::IPV4 => ipv4_flow(payload),
            EtherType::IPV6 => ipv6_flow(payload),
            _ => {
                let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = *head;
                let macs = u64::from_le_bytes([d0, d1, d2, d3, d4, d5, s0, s1]);
                (None, macs.wrapping_mul(MIX) ^ u64::from(u32::from_le_bytes([s2, s3, s4, s5])))
            }
        };
        Inner { tos, source_port: source_port(flow) }
    }
}

/// Type of service, and addresses, protocol and ports folded into one word, of an untagged IPv4 frame without options.
#[inline(always)]
fn plain_ipv4_flow(head: &[u8; 38]) -> (u8, u64) {
    let word =
        |at: usize| u64::from(u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
    let ports = if matches!(head[23], 6 | 17 | 132) { word(34) } else { 0 };
    let addresses = word(26) | word(30) << 32;
    (head[15], addresses.wrapping_mul(MIX) ^ ports ^ u64::from(head[23]) << 40)
}

/// Type of service, and addresses, protocol and ports folded into one word.
#[inline]
fn ipv4_flow(packet: &[u8]) -> (Option<u8>, u64) {
    let Some(head) = packet.first_chunk::<24>() else { return (packet.get(1).copied(), 0) };
    let word =
        |at: usize| u64::from(u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
    let addresses = word(12) | word(16) << 32;
    let fragment = (head[6] & 0x3f) | head[7] != 0;
    let ports = if head[0] == 0x45 && !fragment && matches!(head[9], 6 | 17 | 132) { word(20) } else { 0 };
    (Some(head[1]), addresses.wrapping_mul(MIX) ^ ports ^ u64::from(head[9]) << 40)
}

fn ipv6_flow(packet: &[u8]) -> (Option<u8>, u64) {
    let Some(head) = packet.first_chunk::<44>() else { return (None, 0) };
    let tos = head[0] << 4 | head[1] >> 4;
    let mut flow = 0u64;
    for word in head[8..40].chunks_exact(8) {
        flow = (flow ^ u64::from_le_bytes(*word.first_chunk().unwrap_or(&[0; 8]))).wrapping_mul(MIX);
    }
    let ports = if matches!(head[6], 6 | 17 | 132) { &head[40..44] } else { &[0; 4] };
    let ports = u32::from_le_bytes(*ports.first_chunk().unwrap_or(&[0; 4]));
    (Some(tos), flow ^ u64::from(ports) ^ u64::from(head[6]) << 40)
}

const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads a flow's word over the port range.
#[inline]
fn source_port(flow: u64) -> u16 {
    let mixed = u128::from(flow) * u128::from(MIX);
    let mixed = (mixed >> 64) as u64 ^ mixed as u64;
    let spread = ((mixed >> 32) * u64::from(PORT_RANGE.end - PORT_RANGE.start)) >> 32;
    (u64::from(PORT_RANGE.start) + spread) as u16
}

/// The outer type of service: configured or inherited; ECN is always the inner one's, but CE, which becomes ECT(0), as
/// Open vSwitch has it (RFC 6040's compatibility mode would clear it).
#[inline]
fn outer_tos(configured: Option<u8>, inner: Option<u8>) -> u8 {
    let Some(inner) = inner else { return configured.unwrap_or(0) };
    let ecn = if inner & ECN_MASK == ECN_CE { ECN_ECT0 } else { inner & ECN_MASK };
    configured.unwrap_or(inner & !ECN_MASK) | ecn
}

/// An inner checksum that is still to be done can't wait: no egress finishes it behind an outer header.
#[cold]
fn finish_inner(packet: &mut Packet) -> Result<(), DropReason> {
    if packet.offload.gso_type != weft_io::Offload::GSO_NONE {
        return Err(DropReason::TunnelTooBig);
    }
    weft_io::offload::finish_checksum(packet);
    packet.offload = weft_io::Offload::default();
    Ok(())
}

/// Adds UDP's pseudo-header (RFC 768): addresses of an IPv4 header without options in front of `at`, protocol, and the
/// UDP length at `at + 4`.
pub fn pseudo_header(sum: &mut Sum, data: &[u8], at: usize) {
    sum.add(data.get(ETHERNET + 12..INNER).unwrap_or_default());
    sum.add(&[0, 17]);
    sum.add(data.get(at + 4..at + 6).unwrap_or_default());
}

/// Adds all octets of the packet from `at` on, over all its frames.
pub fn add_from(sum: &mut Sum, packet: &Packet, at: usize) {
    let mut skip = at;
    for segment in packet.segments() {
        sum.add(segment.get(skip..).unwrap_or_default());
        skip = 0;
    }
}
