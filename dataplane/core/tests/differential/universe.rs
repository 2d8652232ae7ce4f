//! What the differential test draws from: few values of everything, so that packets, rules and changes meet.

use std::sync::Arc;

use weft_core::encap::Template;
use weft_core::key::PortId;
use weft_core::snapshot::{BridgeId, Model, Path, PortKind, PortSpec, Remote, TunnelKeys, TunnelSpec};
use weft_core::vlan::{PriorityTags, VlanMode, VlanSet};
use weft_io::FramePool;
use weft_wire::{Mac, OfPort, TunnelKind, Vid};

use crate::rig::dice::Dice;
use crate::rig::frames::{Ip, ip_frame, mac};
use crate::rig::{LOCAL, UPLINK, port_spec, ready, remote, vid, vids};
use crate::{own, rules};

pub const DEVICES: u16 = 7;
pub const TUNNELS: std::ops::Range<u16> = 50..55;
pub const BRIDGES: u16 = 2;
/// Two patch ports, this one and the next.
pub const PATCHES: u16 = 60;
const VNIS: [u32; 4] = [0, 7, 1000, 2000];
const VLANS: [u16; 4] = [0, 10, 20, 30];

pub fn vlan_mode(dice: &mut Dice) -> VlanMode {
    let trunks = dice.pick(&[None, Some(vids(&[10])), Some(vids(&[10, 20])), Some(vids(&[0, 20]))]);
    let own = vid(dice.pick(&VLANS));
    match dice.below(5) {
        0 | 1 => VlanMode::Access(own),
        2 => VlanMode::Trunk(trunks.unwrap_or_else(VlanSet::all)),
        3 => VlanMode::native(own, trunks, true),
        _ => VlanMode::native(own, trunks, false),
    }
}

pub fn path(dice: &mut Dice) -> Path {
    match dice.below(6) {
        0 => Path::Resolving,
        1 => Path::NoRoute,
        _ => ready(UPLINK, dice.pick(&[50, 51, 60])),
    }
}

fn tunnel_spec(dice: &mut Dice) -> TunnelSpec {
    let key = match dice.below(5) {
        4 => TunnelKeys::Flow,
        0 => TunnelKeys::Fixed(dice.pick(&VNIS)),
        1 => TunnelKeys::Map(Some(Arc::new([1000]))),
        _ => TunnelKeys::Map(None),
    };
    let by_flow = !matches!(key, TunnelKeys::Map(_)) && dice.percent(40);
    TunnelSpec {
        kind: dice.pick(&[TunnelKind::Vxlan, TunnelKind::Gre]),
        local: LOCAL,
        remote: if by_flow { Remote::Flow } else { remote(dice.pick(&[50, 51])).into() },
        key,
        ttl: 64,
        tos: dice.pick(&[None, Some(0), Some(0x20)]),
        df: dice.percent(50),
        udp_port: 4789,
        checksum: dice.percent(30),
        path: path(dice),
    }
}

/// A device (id below [`DEVICES`]) or a tunnel.
pub fn port(id: u16, dice: &mut Dice) -> PortSpec {
    let kind = match id {
        0..DEVICES => PortKind::Device,
        PATCHES.. => PortKind::Patch(dice.pick(&[Some(PortId(121 - id)), Some(PortId(121 - id)), None])),
        _ => PortKind::Tunnel(tunnel_spec(dice)),
    };
    PortSpec {
        id: PortId(id),
        ofport: OfPort(id + 1),
        name: format!("port{id}").into(),
        bridge: dice.pick(&[
            Some(BridgeId(0)),
            Some(BridgeId(0)),
            Some(BridgeId(0)),
            Some(BridgeId(1)),
            None,
        ]),
        vlan: vlan_mode(dice),
        guard: if id < DEVICES { own::guard(dice) } else { Default::default() },
        priority_tags: dice.pick(&[PriorityTags::Never, PriorityTags::IfNonzero, PriorityTags::Always]),
        protected: dice.percent(20),
        up: dice.percent(90),
        kind,
    }
}

pub fn vnis(dice: &mut Dice) -> Vec<(Vid, u32)> {
    let mut map = Vec::new();
    for vlan in VLANS {
        let vni = dice.pick(&VNIS);
        if dice.percent(60) && map.iter().all(|&(_, other)| other != vni) {
            map.push((vid(vlan), vni));
        }
    }
    map
}

pub fn model_ports(dice: &mut Dice) -> Vec<PortSpec> {
    let mut ports: Vec<PortSpec> = (0..DEVICES).map(|id| port(id, dice)).collect();
    ports.extend(
        TUNNELS.filter(|_| dice.percent(70)).collect::<Vec<_>>().into_iter().map(|id| port(id, dice)),
    );
    ports.extend((PATCHES..PATCHES + 2).map(|id| port(id, dice)));
    ports
}

/// Changes one thing, or nothing.
pub fn change(model: &mut Model, dice: &mut Dice) {
    let id = if dice.percent(60) {
        dice.below(DEVICES.into()) as u16
    } else {
        dice.pick(&[50, 51, 52, 53, 54, 60, 61])
    };
    let at = model.ports.iter().position(|port| port.id.0 == id);
    let bridge = dice.below(model.bridges.len());
    match (dice.below(15), at) {
        (0, _) => {}
        (14, _) => {
            let route = (LOCAL, remote(dice.pick(&[50, 51])));
            match dice.percent(30) {
                true => drop(model.routes.remove(&route)),
                false => drop(model.routes.insert(route, path(dice))),
            }
        }
        (1, _) => model.bridges[bridge].flows = rules::tables(dice),
        (2, _) => model.bridges[bridge].vnis = vnis(dice),
        (3, _) => model.bridges[bridge].forward_reserved ^= true,
        (4, Some(at)) if id != 0 => drop(model.ports.remove(at)),
        (_, None) => model.ports.push(port(id, dice)),
        (5, Some(at)) => model.ports[at].up ^= true,
        (6, Some(at)) => model.ports[at].protected ^= true,
        (7 | 8, Some(at)) => model.ports[at].vlan = vlan_mode(dice),
        (9, Some(at)) => model.ports[at].priority_tags = port(id, dice).priority_tags,
        (10, Some(at)) => model.ports[at].bridge = port(id, dice).bridge,
        (11 | 12, Some(at)) => {
            if let PortKind::Tunnel(tunnel) = &mut model.ports[at].kind {
                tunnel.path = path(dice);
            }
        }
        (_, Some(at)) => model.ports[at] = port(id, dice),
    }
}

/// Ports that let every packet through, so that connections come to something.
pub fn open_ports() -> Vec<PortSpec> {
    let port = |id: u16| PortSpec {
        guard: own::GUARDS[usize::from(id % 3)],
        ..port_spec(id, Some(id % 2), VlanMode::Access(vid(0)), PortKind::Device)
    };
    let patch = |id: u16| PortSpec {
        kind: PortKind::Patch(Some(PortId(2 * PATCHES + 1 - id))),
        guard: Default::default(),
        ..port(id)
    };
    (0..DEVICES).map(port).chain([patch(PATCHES), patch(PATCHES + 1)]).collect()
}

/// A packet of one of few connections.
pub fn tracked_frame(dice: &mut Dice) -> Vec<u8> {
    let (source, destination) = (dice.pick(&[mac(1), mac(2)]), dice.pick(&[mac(1), mac(2), mac(3)]));
    if dice.percent(8) { fragment(source, destination, dice) } else { ip(source, destination, dice) }
}

/// One of the three fragments of one of few packets.
fn fragment(source: Mac, destination: Mac, dice: &mut Dice) -> Vec<u8> {
    const SIZE: usize = 1200;
    let (a, b) = dice.pick(&[(1, 2), (2, 1)]);
    let ports = if a == 1 { (1000, 53) } else { (53, 1000) };
    let ip = Ip { source: [10, 0, 0, a], destination: [10, 0, 0, b], protocol: 17, tos: 0, ports };
    let whole = ip_frame(source, destination, ip, 3000);
    let number = dice.below(3);
    let piece = whole[34..].chunks(SIZE).nth(number).unwrap();
    let mut frame = [&whole[..34], piece].concat();
    let more = if number == 2 { 0 } else { 0x2000 };
    frame[16..18].copy_from_slice(&(20 + piece.len() as u16).to_be_bytes());
    frame[18..20].copy_from_slice(&[0, dice.pick(&[1, 2])]);
    frame[20..22].copy_from_slice(&(more | (number * SIZE / 8) as u16).to_be_bytes());
    frame[24..26].fill(0);
    let sum = weft_wire::checksum::checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A frame as a station sends it, or garbage.
pub fn frame(dice: &mut Dice) -> Vec<u8> {
    let reserved = Mac([0x01, 0x80, 0xc2, 0, 0, 2]);
    let multicast = Mac([0x01, 0, 0x5e, 0, 0, 1]);
    let source = dice.pick(&[mac(1), mac(2), mac(3), mac(4), mac(5), multicast]);
    let everyone = Mac([0xff; 6]);
    let destination =
        dice.pick(&[mac(1), mac(2), mac(3), mac(4), mac(5), mac(6), everyone, everyone, multicast, reserved]);
    if dice.percent(8) {
        return own::arp(source, destination, dice);
    }
    let mut frame = ip(source, destination, dice);
    if dice.percent(10) {
        frame[12..14].copy_from_slice(&dice.pick(&[[0x08, 0x06], [0x86, 0xdd], [0x12, 0x34]]));
    }
    if dice.percent(12) {
        label(&mut frame, dice);
    }
    for tag in dice.pick(&[
        &[][..],
        &[],
        &[10],
        &[10],
        &[20],
        &[0],
        &[0xa000],
        &[0xa00a],
        &[30],
        &[10, 20],
        &[0, 10],
    ]) {
        let tpid: u16 = dice.pick(&[0x8100, 0x8100, 0x8100, 0x88a8]);
        let octets = [tpid.to_be_bytes(), u16::to_be_bytes(*tag)].concat();
        frame.splice(12..12, octets);
    }
    if dice.percent(3) {
        frame.truncate(dice.below(60));
    }
    frame
}

/// Puts up to four labels in front of what it carries.
fn label(frame: &mut Vec<u8>, dice: &mut Dice) {
    let labels = dice.pick(&[1, 1, 2, 2, 3, 4]);
    for at in 0..labels {
        let entry: u32 = dice.pick(&[16, 17]) << 12 | u32::from(at == 0) << 8 | dice.pick(&[1, 64]);
        frame.splice(14..14, entry.to_be_bytes());
    }
    frame[12..14].copy_from_slice(&[0x88, 0x47]);
}

fn ip(source: Mac, destination: Mac, dice: &mut Dice) -> Vec<u8> {
    let ends = (dice.pick(&[1, 2]), dice.pick(&[1, 2, 3]));
    let ports = (dice.pick(&[1000, 1001]), dice.pick(&[53, 80]));
    // An answer, now and then.
    let back = dice.percent(40);
    let (ends, ports) = if back { ((ends.1, ends.0), (ports.1, ports.0)) } else { (ends, ports) };
    let ip = Ip {
        source: [10, 0, 0, ends.0],
        destination: [10, 0, 0, ends.1],
        protocol: dice.pick(&[6, 6, 17, 17, 17, 1, 47]),
        tos: dice.pick(&[0, 1, 2, 3, 0x20]),
        ports,
    };
    let payload = if dice.percent(3) { 1600 } else { 28 };
    let mut frame = ip_frame(source, destination, ip, payload);
    match ip.protocol {
        6 => segment(&mut frame[34..], dice),
        1 if dice.percent(40) => error(&mut frame[34..70], &ip, dice),
        1 => echo(&mut frame[34..42], back, dice),
        _ => {}
    }
    if dice.percent(3) {
        // A first fragment, or a later one.
        frame[20..22].copy_from_slice(&dice.pick(&[[0x20, 0], [0, 9]]));
    }
    frame
}

/// A TCP header somewhere in a connection.
fn segment(header: &mut [u8], dice: &mut Dice) {
    let numbers = [0u32, 1, 1, 21, 41, 0x8000_0000];
    header[4..8].copy_from_slice(&dice.pick(&numbers).to_be_bytes());
    header[8..12].copy_from_slice(&dice.pick(&numbers).to_be_bytes());
    // SYN, SYN and ACK, ACK, FIN, RST.
    header[13] = dice.pick(&[2, 0x12, 0x10, 0x10, 0x10, 0x10, 0x18, 0x11, 4, 0]);
}

/// An error about a packet of whom it goes to.
fn error(message: &mut [u8], ip: &Ip, dice: &mut Dice) {
    message[..8].copy_from_slice(&dice.pick(&[[3, 4, 0, 0, 0, 0, 5, 0], [11, 0, 0, 0, 0, 0, 0, 0]]));
    let quoted = Ip {
        source: ip.destination,
        destination: [10, 0, 0, dice.pick(&[1, 2])],
        protocol: dice.pick(&[6, 17]),
        tos: 0,
        ports: (dice.pick(&[1000, 1001]), dice.pick(&[53, 80])),
    };
    message[8..36].copy_from_slice(&ip_frame(mac(1), mac(2), quoted, 0)[14..42]);
}

/// An echo request or its reply.
fn echo(header: &mut [u8], back: bool, dice: &mut Dice) {
    header[0] = if back { 0 } else { 8 };
    header[1] = 0;
    header[4..8].copy_from_slice(&[0, dice.pick(&[1, 2]), 0, 1]);
}

/// A frame as another tunnel end sends it, or garbage.
pub fn tunnel_frame(dice: &mut Dice) -> Vec<u8> {
    let mut spec = tunnel_spec(dice);
    spec.local = dice.pick(&[remote(50), remote(51), remote(51), remote(52)]);
    spec.remote = LOCAL.into();
    spec.path = ready(UPLINK, 1);
    let pool = FramePool::new(FramePool::MIN_FRAMES).unwrap();
    let mut frames = pool.cache();
    let mut packet = frames.alloc().unwrap();
    packet.append(&frame(dice)).unwrap();
    let wrapped = Template::new(&spec, dice.pick(&VNIS)).unwrap().wrap(&mut packet);
    let mut octets = packet.data().to_vec();
    frames.free(packet);
    if wrapped.is_ok() && dice.percent(15) {
        mark(&mut octets);
    }
    if dice.percent(4) {
        let (at, octet) = (dice.below(octets.len().max(1)), dice.roll() as u8);
        octets.get_mut(at).into_iter().for_each(|place| *place = octet);
    }
    octets
}

/// Sets CE in the outer header.
fn mark(octets: &mut [u8]) {
    octets[15] |= 3;
    octets[24..26].fill(0);
    let sum = weft_wire::checksum::checksum(&octets[14..34]);
    octets[24..26].copy_from_slice(&sum.to_be_bytes());
}
