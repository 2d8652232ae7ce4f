//! Frames for tests.

use weft_wire::Mac;

pub const BROADCAST: Mac = Mac([0xff; 6]);

/// A station's address.
pub fn mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, number])
}

/// A frame of 60 octets between two addresses, with no tag.
pub fn frame(source: Mac, destination: Mac) -> Vec<u8> {
    tagged(source, destination, &[])
}

/// A frame with these tags, outermost first, each as the 16 bits behind 0x8100.
pub fn tagged(source: Mac, destination: Mac, tags: &[u16]) -> Vec<u8> {
    let mut frame = [destination.0, source.0].concat();
    for tag in tags {
        frame.extend([0x81, 0x00]);
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(PAYLOAD);
    frame.resize(60 + 4 * tags.len(), 0x5a);
    frame
}

/// EtherType and IPv4 10.0.0.1 to 10.0.0.2, UDP 1 to 2, no payload, no UDP checksum.
const PAYLOAD: [u8; 30] = [
    0x08, 0x00, 0x45, 0x00, 0x00, 0x1c, 0x00, 0x00, 0x00, 0x00, 0x40, 0x11, 0x66, 0xcf, 0x0a, 0x00, 0x00,
    0x01, 0x0a, 0x00, 0x00, 0x02, 0x00, 0x01, 0x00, 0x02, 0x00, 0x08, 0x00, 0x00,
];

/// What differs from packet to packet in an IPv4 frame.
#[derive(Clone, Copy, Debug)]
pub struct Ip {
    pub source: [u8; 4],
    pub destination: [u8; 4],
    pub protocol: u8,
    pub tos: u8,
    pub ports: (u16, u16),
}

impl Default for Ip {
    fn default() -> Self {
        Ip { source: [10, 0, 0, 1], destination: [10, 0, 0, 2], protocol: 17, tos: 0, ports: (1000, 2000) }
    }
}

/// An untagged IPv4 frame with `payload` octets behind an 8-octet (20 for TCP) transport header without checksum.
pub fn ip_frame(source: Mac, destination: Mac, ip: Ip, payload: usize) -> Vec<u8> {
    let transport = if ip.protocol == 6 { 20 } else { 8 };
    let total = (20 + transport + payload) as u16;
    let mut header = vec![0x45, ip.tos, 0, 0, 0, 0, 0, 0, 64, ip.protocol, 0, 0];
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header.extend(ip.source);
    header.extend(ip.destination);
    let sum = weft_wire::checksum::checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [destination.0, source.0].concat();
    frame.extend([8, 0]);
    frame.extend(header);
    frame.extend(ip.ports.0.to_be_bytes());
    frame.extend(ip.ports.1.to_be_bytes());
    if ip.protocol == 6 {
        frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0x20, 0, 0, 0, 0, 0]);
    } else {
        frame.extend(((8 + payload) as u16).to_be_bytes());
        frame.extend([0, 0]);
    }
    frame.extend((0..payload).map(|n| n as u8));
    frame
}
