//! What a packet is about, in words that both sides of the comparison read, and its octets.

use std::net::IpAddr;

use weft_config::acl::Prefix;
use weft_wire::Mac;

use crate::octets::{self, Ends, Form, Segment};

pub const SYN: u8 = 2;
pub const ACK: u8 = 0x10;

/// An IP packet as rules see it: addresses and ports from source to destination, IPv4's addresses in the low 32 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub six: bool,
    pub protocol: u8,
    pub addresses: [u128; 2],
    pub ports: [u16; 2],
    /// ICMP's type and code, and the identifier.
    pub icmp: (u8, u8),
    pub id: u16,
}

/// What is behind the addresses, beyond what a [`View`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inside {
    Plain,
    /// TCP's flags.
    Segment(u8),
    /// An ICMP error about that packet.
    Error(Box<View>),
    /// A neighbour solicitation or advertisement: its target, and the link-layer address that it shows.
    Neighbour(u128, Option<Mac>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Ip(View, Inside),
    /// Sender's addresses, and what is asked for.
    Arp(Mac, u32, u32),
    /// Another EtherType.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: Mac,
    pub destination: Mac,
    pub body: Body,
}

/// Types that ask, with their answers.
const QUERIES: [(bool, u8, u8); 3] = [(false, 8, 0), (false, 13, 14), (true, 128, 129)];

impl View {
    pub fn is_icmp(&self) -> bool {
        self.protocol == if self.six { 58 } else { 1 }
    }

    /// The answer's view.
    pub fn turned(&self) -> View {
        let ([a, b], [from, to]) = (self.addresses, self.ports);
        let kind = self.counterpart().unwrap_or(self.icmp.0);
        View { addresses: [b, a], ports: [to, from], icmp: (kind, self.icmp.1), ..self.clone() }
    }

    fn counterpart(&self) -> Option<u8> {
        let of = QUERIES.iter().filter(|(six, ..)| *six == self.six && self.is_icmp());
        of.flat_map(|&(_, ask, tell)| [(ask, tell), (tell, ask)])
            .find(|(one, _)| *one == self.icmp.0)
            .map(|(_, other)| other)
    }

    /// Whether it asks, of ICMP.
    pub fn asks(&self) -> bool {
        QUERIES.contains(&(self.six, self.icmp.0, self.counterpart().unwrap_or(0)))
    }

    pub fn tells(&self) -> bool {
        self.counterpart().is_some() && !self.asks()
    }

    pub fn address(&self, side: usize) -> Prefix {
        let at = self.addresses[side];
        if self.six {
            Prefix::of(IpAddr::V6(at.into()), 128)
        } else {
            Prefix::of(IpAddr::V4((at as u32).into()), 32)
        }
    }

    fn ends(&self) -> Ends {
        Ends { six: self.six, addresses: self.addresses, ports: self.ports }
    }

    fn message(&self, inside: &Inside) -> Vec<u8> {
        let (ends, (kind, code)) = (self.ends(), self.icmp);
        match (self.protocol, inside) {
            (_, Inside::Error(about)) => octets::icmp(kind, code, [0; 4], &about.octets(&Inside::Plain)),
            (_, Inside::Neighbour(target, shown)) => {
                let mut data = target.to_be_bytes().to_vec();
                if let Some(mac) = shown {
                    data.extend([if kind == 135 { 1 } else { 2 }, 1]);
                    data.extend(mac.0);
                }
                octets::icmp(kind, code, [0; 4], &data)
            }
            (6, Inside::Segment(flags)) => octets::tcp(&ends, &segment(&ends, *flags)),
            (6, _) => octets::tcp(&ends, &segment(&ends, ACK)),
            (17, _) => octets::udp(&ends, b"words"),
            (132, _) => [&ends.ports[0].to_be_bytes()[..], &ends.ports[1].to_be_bytes(), &[0; 8]].concat(),
            _ if self.is_icmp() => {
                let [high, low] = self.id.to_be_bytes();
                octets::icmp(kind, code, [high, low, 0, 1], b"twelve octet")
            }
            _ => vec![0; 16],
        }
    }

    /// The IP packet.
    fn octets(&self, inside: &Inside) -> Vec<u8> {
        octets::ip(&self.ends(), self.protocol, &Form::default(), &self.message(inside))
    }
}

/// One in which every number is right, whatever came before: neither end ever sends data.
fn segment(ends: &Ends, flags: u8) -> Segment {
    let (own, other) = if ends.ports[0] > ends.ports[1] { (1000, 5000) } else { (5000, 1000) };
    let seq = if flags & SYN == 0 { own + 1 } else { own };
    let ack = if flags & ACK == 0 { 0 } else { other + 1 };
    Segment { flags, seq, ack, window: 20_000, ..Segment::default() }
}

impl Packet {
    /// The frame, with this tag if there is one.
    pub fn frame(&self, tag: Option<u16>) -> Vec<u8> {
        let mut frame = [self.destination.0, self.source.0].concat();
        if let Some(vlan) = tag {
            frame.extend([0x81, 0]);
            frame.extend(vlan.to_be_bytes());
        }
        match &self.body {
            Body::Ip(view, inside) => {
                frame.extend(if view.six { [0x86, 0xdd] } else { [8, 0] });
                frame.extend(view.octets(inside));
            }
            Body::Arp(mac, address, asked) => {
                frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
                frame.extend(mac.0);
                frame.extend(address.to_be_bytes());
                frame.extend([0; 6]);
                frame.extend(asked.to_be_bytes());
            }
            Body::Other => frame.extend([0x88, 0xb5, 1, 2, 3, 4]),
        }
        let least = if tag.is_some() { 68 } else { 64 };
        frame.resize(frame.len().max(least), 0);
        frame
    }
}
