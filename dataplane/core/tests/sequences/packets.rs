//! Packets with right checksums, and their fragments.

use weft_wire::checksum::{Sum, checksum};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP6: u8 = 58;
pub const SCTP: u8 = 132;

/// Where a packet comes from and goes to; addresses of IPv4 are in the low 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub six: bool,
    pub addresses: [u128; 2],
    pub ports: [u16; 2],
}

impl Ends {
    pub fn turned(self) -> Ends {
        let ([source, destination], [from, to]) = (self.addresses, self.ports);
        Ends { addresses: [destination, source], ports: [to, from], ..self }
    }
}

/// What IP's header says besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Form {
    /// Type of service, by which the rules choose what is done.
    pub tos: u8,
    pub id: u16,
    /// IPv4 options, or an IPv6 extension header.
    pub options: bool,
    /// Octets behind the packet, in its frame.
    pub padding: usize,
}

/// A TCP segment.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    /// A multiple of four octets.
    pub options: Vec<u8>,
    /// Of the header, in words, if it isn't the right one.
    pub offset: Option<u8>,
    pub data: Vec<u8>,
}

fn pseudo(ends: &Ends, protocol: u8, len: usize) -> Sum {
    let mut sum = Sum::new();
    for address in ends.addresses {
        let octets = address.to_be_bytes();
        sum.add(if ends.six { &octets } else { &octets[12..] });
    }
    sum.add_word(u16::from(protocol));
    sum.add_word(len as u16);
    sum
}

/// Puts the checksum of what IP carries in its place.
pub fn finish(ends: &Ends, protocol: u8, message: &mut [u8]) {
    let (place, over) = match protocol {
        ICMP => (2, Sum::new()),
        ICMP6 => (2, pseudo(ends, protocol, message.len())),
        TCP => (16, pseudo(ends, protocol, message.len())),
        UDP => (6, pseudo(ends, protocol, message.len())),
        _ => return,
    };
    let Some(field) = message.get_mut(place..place + 2) else { return };
    field.fill(0);
    let mut sum = over;
    sum.add(message);
    let sum = match (sum.checksum(), protocol) {
        (0, UDP) => 0xffff,
        (sum, _) => sum,
    };
    message[place..place + 2].copy_from_slice(&sum.to_be_bytes());
}

pub fn tcp(ends: &Ends, segment: &Segment) -> Vec<u8> {
    let Segment { flags, seq, ack, window, options, offset, data } = segment;
    let mut message = [ends.ports[0].to_be_bytes(), ends.ports[1].to_be_bytes()].concat();
    message.extend(seq.to_be_bytes());
    message.extend(ack.to_be_bytes());
    let words = offset.unwrap_or(5 + (options.len() / 4) as u8);
    message.extend([words << 4, *flags]);
    message.extend(window.to_be_bytes());
    message.extend([0; 4]);
    message.extend(options);
    message.extend(data);
    message
}

pub fn udp(ends: &Ends, data: &[u8]) -> Vec<u8> {
    let mut message = [ends.ports[0].to_be_bytes(), ends.ports[1].to_be_bytes()].concat();
    message.extend((8 + data.len() as u16).to_be_bytes());
    message.extend([0; 2]);
    message.extend(data);
    message
}

/// An ICMP or ICMPv6 message with these second four octets.
pub fn icmp(kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0][..], &rest, data].concat()
}

/// The header in front of what IP carries.
fn header(ends: &Ends, protocol: u8, form: &Form, len: usize) -> Vec<u8> {
    let [source, destination] = ends.addresses.map(u128::to_be_bytes);
    if ends.six {
        let extension = if form.options { 8 } else { 0 };
        let mut header = vec![0x60 | form.tos >> 4, form.tos << 4, 0, 0];
        header.extend(((len + extension) as u16).to_be_bytes());
        header.extend([if form.options { 0 } else { protocol }, 64]);
        header.extend(source);
        header.extend(destination);
        if form.options {
            header.extend([protocol, 0, 1, 4, 0, 0, 0, 0]);
        }
        return header;
    }
    let words = if form.options { 6 } else { 5 };
    let mut header = vec![0x40 | words, form.tos];
    header.extend((4 * u16::from(words) + len as u16).to_be_bytes());
    header.extend(form.id.to_be_bytes());
    header.extend([0, 0, 64, protocol, 0, 0]);
    header.extend(&source[12..]);
    header.extend(&destination[12..]);
    if form.options {
        header.extend([1; 4]);
    }
    fill(&mut header);
    header
}

/// Puts the checksum of an IPv4 header in its place.
fn fill(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = checksum(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The IP packet that carries a message.
pub fn ip(ends: &Ends, protocol: u8, form: &Form, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    finish(ends, protocol, &mut message);
    [header(ends, protocol, form, message.len()), message].concat()
}

fn framed(ends: &Ends, form: &Form, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    frame.extend(if ends.six { [0x86, 0xdd] } else { [8, 0] });
    frame.extend(packet);
    frame.resize(frame.len() + form.padding, 0xa5);
    frame
}

pub fn frame(ends: &Ends, protocol: u8, form: &Form, message: &[u8]) -> Vec<u8> {
    framed(ends, form, &ip(ends, protocol, form, message))
}

/// One octet range of a message, and whether more follows.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub start: usize,
    pub end: usize,
    pub more: bool,
}

/// Fragments of a message.
pub fn fragments(ends: &Ends, protocol: u8, form: &Form, message: &[u8], pieces: &[Piece]) -> Vec<Vec<u8>> {
    let mut message = message.to_vec();
    finish(ends, protocol, &mut message);
    let form = Form { options: false, ..*form };
    let cut = pieces.iter().map(|&Piece { start, end, more }| {
        let octets = &message[start.min(message.len())..end.min(message.len())];
        let packet = if ends.six {
            let mut packet = header(ends, 44, &form, 8 + octets.len());
            let word = (start as u16 & 0xfff8 | u16::from(more)).to_be_bytes();
            packet.extend([protocol, 0, word[0], word[1], 0, 0]);
            packet.extend(form.id.to_be_bytes());
            packet
        } else {
            let mut packet = header(ends, protocol, &form, octets.len());
            packet[6..8].copy_from_slice(&((start / 8) as u16 | u16::from(more) << 13).to_be_bytes());
            fill(&mut packet);
            packet
        };
        framed(ends, &form, &[&packet, octets].concat())
    });
    cut.collect()
}
