//! Random packets: few values of everything, which rules match on, and right checksums.

use weft_wire::checksum::checksum;

use crate::PORTS;
use crate::case::Offer;
use crate::rig::dice::Dice;

/// Times to live that are on the edge or not.
const TTLS: [u8; 6] = [64, 64, 64, 2, 1, 0];

/// A packet by a port.
pub fn offer(dice: &mut Dice) -> Offer {
    let port = dice.pick(&PORTS[..4]).number;
    let port = if dice.percent(10) { dice.pick(&PORTS[4..]).number } else { port };
    Offer { port, octets: frame(dice) }
}

/// A station's address, or one of many receivers.
fn station(dice: &mut Dice) -> [u8; 6] {
    [2, 0, 0, 0, 0, dice.pick(&[1, 2, 3, 4])]
}

fn receiver(dice: &mut Dice) -> [u8; 6] {
    match dice.below(10) {
        0 => [0xff; 6],
        1 => [0x01, 0, 0x5e, 0, 0, 1],
        2 if dice.percent(20) => [0x01, 0x80, 0xc2, 0, 0, 2],
        _ => station(dice),
    }
}

fn frame(dice: &mut Dice) -> Vec<u8> {
    let mut frame = [receiver(dice), station(dice)].concat();
    let one: &[u16] = dice.pick(&[&[][..], &[], &[], &[10], &[10], &[20], &[0xa00a], &[0xa000]]);
    let tags = if dice.percent(6) { dice.pick(&[&[0, 10][..], &[30, 10]]) } else { one };
    for (at, tag) in tags.iter().enumerate() {
        let tpid: u16 = if at == 0 && dice.percent(25) { 0x88a8 } else { 0x8100 };
        frame.extend(tpid.to_be_bytes());
        frame.extend(tag.to_be_bytes());
    }
    let (ether_type, payload) = match dice.below(20) {
        0..8 => (0x0800, ipv4(dice)),
        8..12 => (0x86dd, ipv6(dice)),
        12..15 => (0x0806, arp(dice)),
        15..18 => (dice.pick(&[0x8847, 0x8847, 0x8848]), mpls(dice)),
        _ => (dice.pick(&[0x1234, 0x9000]), vec![7; 46]),
    };
    frame.extend(u16::to_be_bytes(ether_type));
    frame.extend(payload);
    // As short as Ethernet lets it be, at times; padding is the sender's own.
    if dice.percent(50) && frame.len() < 60 {
        frame.resize(60, 0);
    }
    frame
}

fn mpls(dice: &mut Dice) -> Vec<u8> {
    let labels = 1 + dice.pick(&[0, 0, 1, 1, 2]);
    let mut octets = Vec::new();
    for at in 0..labels {
        let bottom = u32::from(at + 1 == labels);
        let label: u32 = dice.pick(&[100, 101, 16]);
        let class = dice.pick(&[0u32, 5]);
        let ttl = u32::from(dice.pick(&TTLS));
        octets.extend((label << 12 | class << 9 | bottom << 8 | ttl).to_be_bytes());
    }
    octets.extend(if dice.percent(80) { ipv4(dice) } else { ipv6(dice) });
    octets
}

fn arp(dice: &mut Dice) -> Vec<u8> {
    let mut octets = vec![0, 1, 8, 0, 6, 4, 0, dice.pick(&[1, 1, 2])];
    octets.extend(station(dice));
    octets.extend([10, 0, 0, dice.pick(&[1, 2, 3])]);
    octets.extend(dice.pick(&[[0; 6], [2, 0, 0, 0, 0, 2]]));
    octets.extend([10, 0, 0, dice.pick(&[1, 2, 3])]);
    octets
}

fn ipv4(dice: &mut Dice) -> Vec<u8> {
    let protocol = dice.pick(&[1, 6, 6, 17, 17, 17, 132, 50]);
    let fragment: u16 = match dice.below(12) {
        0 => 0x2000,
        1 => 0x2004,
        2 => 0x0004,
        3 | 4 => 0x4000,
        _ => 0,
    };
    let addresses = [10, 0, 0, dice.pick(&[1, 2, 3]), 10, 0, dice.pick(&[0, 1]), dice.pick(&[1, 2, 3])];
    let sum = Pseudo { addresses: &addresses, protocol };
    let payload = transport(dice, &sum);
    let tos = dice.pick(&[0, 0, 1, 3, 0x20, 0xb8]);
    let mut header = vec![0x45, tos, 0, 0, 0x12, 0x34, 0, 0, dice.pick(&TTLS), protocol, 0, 0];
    header[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    header[6..8].copy_from_slice(&fragment.to_be_bytes());
    header.extend(addresses);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(payload);
    header
}

fn address6(dice: &mut Dice) -> [u8; 16] {
    let mut address = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    address[15] = dice.pick(&[1, 2, 3]);
    address
}

fn ipv6(dice: &mut Dice) -> Vec<u8> {
    let protocol = dice.pick(&[6, 17, 17, 58, 58, 58, 132]);
    let addresses = [address6(dice), address6(dice)].concat();
    let payload = transport(dice, &Pseudo { addresses: &addresses, protocol });
    let fragmented = dice.percent(10);
    let next = if fragmented { 44 } else { protocol };
    let tos = dice.pick(&[0u32, 0, 1, 0x20, 0xb8]);
    let label = dice.pick(&[0u32, 0, 7]);
    let mut octets = (6 << 28 | tos << 20 | label).to_be_bytes().to_vec();
    let length = payload.len() as u16 + if fragmented { 8 } else { 0 };
    octets.extend(length.to_be_bytes());
    octets.extend([next, dice.pick(&TTLS)]);
    octets.extend(addresses);
    if fragmented {
        octets.extend([protocol, 0]);
        octets.extend(dice.pick(&[0x0001u16, 0x0040, 0x0041]).to_be_bytes());
        octets.extend([0, 0, 0, 9]);
    }
    octets.extend(payload);
    octets
}

/// What a checksum above IP covers besides.
struct Pseudo<'a> {
    addresses: &'a [u8],
    protocol: u8,
}

impl Pseudo<'_> {
    /// Fills in the checksum at `at`.
    fn sum(&self, segment: &mut [u8], at: usize) {
        let mut covered = self.addresses.to_vec();
        covered.extend([0, self.protocol]);
        covered.extend((segment.len() as u16).to_be_bytes());
        covered.extend(&*segment);
        let sum = match (checksum(&covered), self.protocol) {
            (0, 17) => 0xffff,
            (sum, _) => sum,
        };
        segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

fn transport(dice: &mut Dice, pseudo: &Pseudo<'_>) -> Vec<u8> {
    let mut ports = dice.pick(&[1000u16, 1001]).to_be_bytes().to_vec();
    ports.extend(dice.pick(&[53u16, 80]).to_be_bytes());
    let payload = vec![0x61; dice.pick(&[4, 4, 5, 60])];
    match pseudo.protocol {
        6 => {
            let flags = dice.pick(&[2, 0x12, 0x10, 0x11, 4]);
            let header = [0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0x20, 0, 0, 0, 0, 0];
            let mut segment = [&ports[..], &header, &payload].concat();
            pseudo.sum(&mut segment, 16);
            segment
        }
        17 => {
            let length = 8 + payload.len() as u16;
            let mut segment = [&ports[..], &length.to_be_bytes(), &[0, 0], &payload].concat();
            if pseudo.addresses.len() == 32 || dice.percent(80) {
                pseudo.sum(&mut segment, 6);
            }
            segment
        }
        132 => [&ports[..], &[0, 0, 0, 1, 0x12, 0x34, 0x56, 0x78], &payload].concat(),
        1 => {
            let mut message = [&[dice.pick(&[8, 0, 3]), 0, 0, 0, 0, 1, 0, 2][..], &payload].concat();
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            message
        }
        58 => {
            let mut message = icmp6(dice);
            pseudo.sum(&mut message, 2);
            message
        }
        _ => payload,
    }
}

fn icmp6(dice: &mut Dice) -> Vec<u8> {
    let kind = dice.pick(&[128, 135, 135, 136]);
    if kind == 128 {
        return vec![kind, 0, 0, 0, 0, 1, 0, 2, 1, 2, 3, 4];
    }
    let mut message = vec![kind, 0, 0, 0, 0x60, 0, 0, 0];
    message.extend(address6(dice));
    if dice.percent(80) {
        message.extend([kind - 134, 1]);
        message.extend(station(dice));
    }
    message
}
