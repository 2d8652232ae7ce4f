//! UDP packets of 60 octets (64 with the frame check sequence), as `benches/peer/gen_pcap.py` has them.

use etherparse::PacketBuilder;
use weft_core::encap::Template;
use weft_io::FramePool;
use weft_io::replay::ReplayQueue;
use weft_wire::{Mac, TunnelKind};

use crate::Failure;
use crate::case::{Case, LOCAL, REMOTE, VNI, tunnel};

/// How many destinations there are beside the first.
const DESTINATIONS: u16 = 1024;
/// Where packets of one MAC pair go.
pub const DESTINATION: Mac = Mac([2, 0, 0, 0, 0, 2]);
/// Octets of UDP payload in a frame of 60.
const PAYLOAD: [u8; 18] = [0; 18];

/// All destinations: [`DESTINATION`], and those of [`by_mac`].
pub fn destinations() -> impl Iterator<Item = Mac> {
    [DESTINATION].into_iter().chain((0..DESTINATIONS).map(destination))
}

fn destination(number: u16) -> Mac {
    let [high, low] = number.to_be_bytes();
    Mac([2, 0x20, 0, 0, high, low])
}

fn source(number: u32) -> Mac {
    let [a, b, c, d] = number.to_be_bytes();
    Mac([2, 0x10, a, b, c, d])
}

/// The frame between two stations, with `flow` in its addresses and ports.
pub fn udp(source: Mac, destination: Mac, flow: u32, tagged: bool) -> Vec<u8> {
    let [_, b, c, d] = flow.to_be_bytes();
    let builder = PacketBuilder::ethernet2(source.0, destination.0);
    let (ips, ports) = (([10, b, c, d], [10, 128, 0, 1]), (1024 + (flow & 0x7fff) as u16, 80));
    let mut frame = Vec::new();
    // Writing into a Vec does not fail.
    let _ = if tagged {
        let vlan = etherparse::VlanId::try_new(100).unwrap_or(etherparse::VlanId::ZERO);
        let builder = builder.single_vlan(vlan).ipv4(ips.0, ips.1, 64);
        builder.udp(ports.0, ports.1).write(&mut frame, &PAYLOAD)
    } else {
        builder.ipv4(ips.0, ips.1, 64).udp(ports.0, ports.1).write(&mut frame, &PAYLOAD)
    };
    frame
}

/// `count` flows between one pair of stations.
pub fn by_tuple(count: u32, tagged: bool) -> Vec<Vec<u8>> {
    (0..count).map(|flow| udp(source(0), DESTINATION, flow, tagged)).collect()
}

/// `count` flows, each with a source of its own.
pub fn by_mac(count: u32, tagged: bool) -> Vec<Vec<u8>> {
    let to = |flow| destination((flow % u32::from(DESTINATIONS)) as u16);
    (0..count).map(|flow| udp(source(flow), to(flow), flow, tagged)).collect()
}

/// The frame as the other end of the case's tunnel sends it.
pub fn wrapped(kind: TunnelKind, frame: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut spec = tunnel(kind);
    (spec.local, spec.remote) = (REMOTE, LOCAL.into());
    let mut frames = FramePool::new(FramePool::MIN_FRAMES)?.cache();
    let mut packet = frames.alloc().ok_or("no frame")?;
    packet.append(frame).ok_or("no room")?;
    let template = Template::new(&spec, VNI).ok_or("no path")?;
    template.wrap(&mut packet).map_err(|reason| reason.name())?;
    let octets = packet.data().to_vec();
    frames.free(packet);
    Ok(octets)
}

/// What `case` is fed with: these frames in a loop, wrapped if it unwraps.
pub fn replay(case: Case, frames: Vec<Vec<u8>>) -> Result<ReplayQueue, Failure> {
    let kind = match case {
        Case::VxlanDecap => Some(TunnelKind::Vxlan),
        Case::GreDecap => Some(TunnelKind::Gre),
        _ => None,
    };
    let frames = match kind {
        Some(kind) => frames.iter().map(|frame| wrapped(kind, frame)).collect::<Result<Vec<_>, _>>()?,
        None => frames,
    };
    Ok(ReplayQueue::from_frames(frames.iter().map(Vec::as_slice), true)?)
}
