//! Taking the outer headers off: is this IPv4 packet for one of our VTEPs, is it sound, and what is inside?
//!
//! Checked, in this order: length, IPv4 header and its checksum, local address and kind, fragment, total length, then
//! the tunnel's own header. Reserved VXLAN bits must be 0, as in the kernel and in Open vSwitch (RFC 7348, section 5,
//! would have them ignored).
//!
//! A neighbour on this machine may have left the checksum of the inner packet unfinished, which AF_XDP does not show: the
//! port marks such packets ([`Offload::INNER_UNKNOWN`]), and the inner packet is looked at here.

use weft_io::{Offload, Packet, offload};
use weft_wire::checksum::{self, Sum};
use weft_wire::{DropReason, EtherType, Protocol, TunnelKind, ethernet, gre, ipv4, udp, vxlan};

use crate::encap::{add_from, pseudo_header};
use crate::key::{Ingress, KeyMask, VtepId};
use crate::snapshot::Vtep;

const ETHERNET: usize = ethernet::LEN;

/// What was in the outer headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outer {
    /// Our end.
    pub vtep: VtepId,
    /// The other end's address, as a number.
    pub remote: u32,
    /// The key.
    pub key: u32,
}

/// The words of a flow key that tell of a tunnel.
pub const TUNNEL_WORDS: [usize; 2] = [2, 14];

impl Outer {
    /// The first of the flow key's [`TUNNEL_WORDS`]: remote address and key.
    #[inline]
    pub fn word(&self) -> u64 {
        u64::from(self.remote) << 32 | u64::from(self.key)
    }

    /// Where the inner packet came in.
    #[inline]
    pub fn ingress(&self) -> Ingress {
        Ingress::vtep(self.vtep)
    }
}

/// The local ends, in the form that each received packet is compared with.
#[derive(Debug, Default)]
pub struct Vteps(Vec<LocalEnd>);

#[derive(Debug)]
struct LocalEnd {
    address: u32,
    kind: TunnelKind,
    udp_port: u16,
    id: VtepId,
    mask: KeyMask,
}

impl Vteps {
    /// What the policy behind a VTEP reads; everything, for one that isn't there.
    #[inline]
    pub fn mask(&self, id: VtepId) -> &KeyMask {
        self.0.iter().find(|end| end.id == id).map_or(&KeyMask::EVERYTHING, |end| &end.mask)
    }

    /// The flow key's [`TUNNEL_WORDS`]: remote address and key; local address. The flags and the group policy that word 14
    /// has room for are always 0: [`Vteps::strip`] takes no packet that has such bits.
    #[inline]
    pub fn words(&self, outer: &Outer) -> [u64; 2] {
        let local = self.0.iter().find(|end| end.id == outer.vtep).map_or(0, |end| end.address);
        [outer.word(), u64::from(local) << 32]
    }

    /// The local ends of a snapshot.
    pub fn new(vteps: &[Vtep]) -> Self {
        let end = |vtep: &Vtep| LocalEnd {
            address: vtep.local.into(),
            kind: vtep.kind,
            udp_port: vtep.udp_port,
            id: vtep.id,
            mask: vtep.mask,
        };
        Vteps(vteps.iter().map(end).collect())
    }

    /// Takes the outer headers off `packet`: it starts with the inner Ethernet header then.
    #[inline]
    pub fn strip(&self, packet: &mut Packet) -> Result<Outer, DropReason> {
        let data = packet.data();
        let (frame, ip) = outer_headers(data).ok_or(DropReason::RxTruncated)?;
        if frame.ethertype() != EtherType::IPV4 {
            return Err(DropReason::TunnelUnknown);
        }
        let header_len = ip.header_len();
        let header = data.get(ETHERNET..ETHERNET + header_len).ok_or(DropReason::RxTruncated)?;
        if ip.version() != 4 || header_len < ipv4::LEN || checksum::checksum(header) != 0 {
            return Err(DropReason::TunnelMalformed);
        }
        let (remote, local) = (ip.src().to_bits(), ip.dst().to_bits());
        let kind = match ip.protocol() {
            Protocol::UDP => TunnelKind::Vxlan,
            Protocol::GRE => TunnelKind::Gre,
            _ => return Err(DropReason::TunnelUnknown),
        };
        let mine = |end: &&LocalEnd| end.address == local && end.kind == kind;
        if !self.0.iter().any(|end| mine(&end)) {
            return Err(DropReason::TunnelUnknown);
        }
        if ip.is_fragment() {
            return Err(DropReason::TunnelFragment);
        }
        let total = usize::from(ip.total_len());
        if total < header_len || ETHERNET + total > packet.total_len() {
            return Err(DropReason::TunnelMalformed);
        }
        let tos = ip.tos();
        packet.truncate(ETHERNET + total);
        let at = ETHERNET + header_len;
        let (vtep, key, header_end) = match kind {
            TunnelKind::Vxlan => {
                let port = vxlan_port(packet.data(), at)?;
                let end = self.0.iter().filter(mine).find(|end| end.udp_port == port);
                let vtep = end.ok_or(DropReason::TunnelUnknown)?.id;
                (vtep, vxlan(packet, at)?, at + udp::LEN + vxlan::LEN)
            }
            TunnelKind::Gre => {
                let vtep = self.0.iter().find(mine).ok_or(DropReason::TunnelUnknown)?.id;
                let (key, len) = gre(packet, at)?;
                (vtep, key, at + len)
            }
        };
        if packet.len() < header_end + ETHERNET {
            return Err(DropReason::TunnelMalformed);
        }
        let inner_unknown = packet.offload.flags & Offload::INNER_UNKNOWN != 0;
        // What is to be done to the inner packet stays to be done: a kernel's tunnel over a veth hands over inner
        // checksums unfinished. All else is about the outer headers, which go.
        if packet.checksum_start().is_none_or(|start| start < header_end + ETHERNET) {
            packet.offload = Offload::default();
        }
        packet.pull_front(header_end).ok_or(DropReason::TunnelMalformed)?;
        if inner_unknown {
            offload::request_if_partial(packet);
        }
        if tos & 3 == 3 {
            congestion(packet)?;
        }
        Ok(Outer { vtep, remote, key })
    }
}

/// The Ethernet and IPv4 headers that `data` starts with, if they are there.
#[inline]
fn outer_headers(data: &[u8]) -> Option<(ethernet::View<'_>, ipv4::View<'_>)> {
    let (frame, rest) = data.first_chunk::<{ ETHERNET + ipv4::LEN }>()?.split_first_chunk()?;
    Some((ethernet::Header::new(frame), ipv4::Header::new(rest.first_chunk()?)))
}

#[inline]
fn vxlan_port(data: &[u8], at: usize) -> Result<u16, DropReason> {
    let port =
        data.get(at + 2..).and_then(|rest| rest.first_chunk::<2>()).ok_or(DropReason::TunnelMalformed)?;
    Ok(u16::from_be_bytes(*port))
}

/// The UDP (RFC 768) and VXLAN headers at `at`.
#[inline]
fn vxlan_headers(data: &[u8], at: usize) -> Option<(udp::View<'_>, vxlan::View<'_>)> {
    let both = data.get(at..)?.first_chunk::<{ udp::LEN + vxlan::LEN }>()?;
    let (udp, rest) = both.split_first_chunk()?;
    Some((udp::Header::new(udp), vxlan::Header::new(rest.first_chunk()?)))
}

/// Checks the UDP and VXLAN headers at `at`: the VNI.
#[inline]
fn vxlan(packet: &mut Packet, at: usize) -> Result<u32, DropReason> {
    let (udp, vxlan) = vxlan_headers(packet.data(), at).ok_or(DropReason::TunnelMalformed)?;
    if usize::from(udp.length()) != packet.total_len() - at || vxlan.check().is_err() {
        return Err(DropReason::TunnelMalformed);
    }
    let (key, has_checksum) = (vxlan.vni().0, udp.checksum() != 0);
    let known = packet.offload.flags & (Offload::NEEDS_CHECKSUM | Offload::CHECKSUM_VALID) != 0;
    if has_checksum && !known {
        check_outer(packet, at + udp::LEN + vxlan::LEN, |packet| udp_checksum_is_right(packet, at))?;
    }
    Ok(key)
}

/// Checks a tunnel header's checksum. A sender that leaves the inner packet's checksum to its device computes the outer one
/// for the inner packet as it will be (Linux `lco_csum`): then the inner one is finished first.
#[cold]
fn check_outer(
    packet: &mut Packet,
    inner: usize,
    is_right: impl Fn(&Packet) -> bool,
) -> Result<(), DropReason> {
    if is_right(packet) {
        return Ok(());
    }
    if packet.offload.flags & Offload::INNER_UNKNOWN != 0 && packet.pull_front(inner).is_some() {
        offload::request_if_partial(packet);
        offload::finish_checksum(packet);
        // What was just taken away in front can be put there again.
        let whole = packet.push_front(inner).is_some();
        if whole && is_right(packet) {
            return Ok(());
        }
    }
    Err(DropReason::TunnelMalformed)
}

fn udp_checksum_is_right(packet: &Packet, at: usize) -> bool {
    let mut sum = Sum::new();
    pseudo_header(&mut sum, packet.data(), at);
    add_from(&mut sum, packet, at);
    sum.checksum() == 0
}

fn gre_checksum_is_right(packet: &Packet, at: usize) -> bool {
    let mut sum = Sum::new();
    add_from(&mut sum, packet, at);
    sum.checksum() == 0
}

/// The GRE header at `at` (RFC 2784, 2890): the key (0 if there is none) and the header's length.
#[inline]
fn gre(packet: &mut Packet, at: usize) -> Result<(u32, usize), DropReason> {
    let octets = packet.data().get(at..).unwrap_or_default();
    let (header, _) = gre::Header::split(octets).map_err(|_| DropReason::TunnelMalformed)?;
    if header.check().is_err() || header.protocol() != EtherType::TEB {
        return Err(DropReason::TunnelMalformed);
    }
    let key = match header.key_at() {
        Some(key_at) => {
            let key = octets.get(key_at..).and_then(|rest| rest.first_chunk());
            u32::from_be_bytes(*key.ok_or(DropReason::TunnelMalformed)?)
        }
        None => 0,
    };
    let len = header.header_len();
    if header.has_checksum() {
        check_outer(packet, at + len, |packet| gre_checksum_is_right(packet, at))?;
    }
    Ok((key, len))
}

/// The outer packet was marked: the inner one is marked too, or dropped if its ends don't know ECN (RFC 6040,
/// section 4.2).
#[cold]
fn congestion(packet: &mut Packet) -> Result<(), DropReason> {
    let data = packet.data_mut();
    let Some(mut ether_type) =
        data.get(12..14).map(|octets| EtherType(u16::from_be_bytes([octets[0], octets[1]])))
    else {
        return Ok(());
    };
    let mut at = ETHERNET;
    if ether_type.is_tag()
        && let Some(octets) = data.get(16..18)
    {
        (ether_type, at) = (EtherType(u16::from_be_bytes([octets[0], octets[1]])), at + ethernet::TAG_LEN);
    }
    let Some(ip) = data.get_mut(at..) else { return Ok(()) };
    match (ether_type, ip) {
        (EtherType::IPV4, [_, tos, ..]) if *tos & 3 == 0 => Err(DropReason::TunnelMalformed),
        (EtherType::IPV4, ip) => {
            mark_ipv4(ip);
            Ok(())
        }
        (EtherType::IPV6, [_, class, ..]) => {
            if *class & 0x30 == 0 {
                return Err(DropReason::TunnelMalformed);
            }
            *class |= 0x30;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Sets CE and mends the header's checksum (RFC 1624, equation 3).
fn mark_ipv4(ip: &mut [u8]) {
    let Ok((mut header, _)) = ipv4::Header::split_mut(ip) else { return };
    let (before, after) = (header.tos(), header.tos() | 3);
    header.set_tos(after);
    header.set_checksum(checksum::updated(header.checksum(), before.into(), after.into()));
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use weft_io::FramePool;
    use weft_io::transport::Transport;
    use weft_wire::Mac;

    use super::*;
    use crate::encap::Template;
    use crate::key::PortId;
    use crate::snapshot::{Path, TunnelKeys, TunnelSpec};

    const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn template(kind: TunnelKind, checksum: bool) -> Template {
        let ends = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        let path = Path::Ready { uplink: PortId(1), source: ends.0, destination: ends.1, mtu: 1500 };
        let spec = TunnelSpec {
            kind,
            local: Ipv4Addr::new(192, 0, 2, 2),
            remote: LOCAL.into(),
            key: TunnelKeys::Fixed(7),
            ttl: 64,
            tos: Some(0),
            df: true,
            udp_port: 4789,
            checksum,
            path,
        };
        Template::new(&spec, 7).expect("the path is known")
    }

    fn vteps(kind: TunnelKind) -> Vteps {
        let mask = KeyMask::EVERYTHING;
        Vteps(vec![LocalEnd { address: LOCAL.into(), kind, udp_port: 4789, id: VtepId(3), mask }])
    }

    /// A UDP packet of 5 octets from 10.0.0.1 to 10.0.0.2, without its checksum.
    fn inner() -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 4, 8, 0];
        frame.extend([0x45, 0, 0, 33, 0, 0, 0, 0, 64, 17, 0x66, 0xca, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x12, 0x34, 0x56, 0x78, 0, 13, 0, 0, 1, 2, 3, 4, 5]);
        frame
    }

    const CHECKSUM: std::ops::Range<usize> = 40..42;

    /// The packet, its checksum as the kernel leaves it, and as it has to be.
    fn unfinished_and_finished() -> (Vec<u8>, Vec<u8>) {
        let (mut before, mut after) = (inner(), inner());
        let found = Transport::locate(&before).expect("UDP");
        let pseudo = found.pseudo_header(&before, found.len).expect("both addresses");
        before[CHECKSUM].copy_from_slice(&pseudo.to_be_bytes());
        let mut sum = Sum::new();
        sum.add(&before[34..]);
        after[CHECKSUM].copy_from_slice(&sum.checksum().to_be_bytes());
        (before, after)
    }

    /// What is inside, once its egress port has finished it, when the sender has wrapped `finished` and put `unfinished` inside.
    fn received(kind: TunnelKind, checksum: bool, mark: u8) -> Result<Vec<u8>, DropReason> {
        let (unfinished, finished) = unfinished_and_finished();
        let pool = FramePool::new(FramePool::MIN_FRAMES).expect("memory");
        let mut frames = pool.cache();
        let mut packet = frames.alloc().expect("a frame");
        packet.append(&finished).expect("room");
        template(kind, checksum).wrap(&mut packet).expect("it fits");
        let at = packet.len() - finished.len();
        packet.data_mut()[at..].copy_from_slice(&unfinished);
        packet.offload.flags = mark;
        let outcome = vteps(kind).strip(&mut packet).map(|outer| {
            assert_eq!((outer.key, outer.vtep), (7, VtepId(3)));
            let words = [u64::from(outer.remote) << 32 | 7, u64::from(LOCAL.to_bits()) << 32];
            assert_eq!(vteps(kind).words(&outer), words);
            offload::finish_checksum(&mut packet);
            packet.data().to_vec()
        });
        frames.free(packet);
        outcome
    }

    #[test]
    fn an_inner_checksum_that_the_sender_left_to_its_device_is_finished() {
        for kind in [TunnelKind::Vxlan, TunnelKind::Gre] {
            for checksum in [false, true] {
                let got = received(kind, checksum, Offload::INNER_UNKNOWN);
                assert_eq!(got, Ok(unfinished_and_finished().1), "{kind} {checksum}");
            }
        }
    }

    #[test]
    fn what_no_port_has_marked_stays_as_it_is() {
        for kind in [TunnelKind::Vxlan, TunnelKind::Gre] {
            assert_eq!(received(kind, false, 0), Ok(unfinished_and_finished().0), "{kind}");
            assert_eq!(received(kind, true, 0), Err(DropReason::TunnelMalformed), "{kind}: it is wrong then");
        }
    }
}
