//! Where things are in a packet, and what names its connection.

use weft_wire::checksum::checksum;

use crate::packets::{Ends, ICMP, ICMP6, TCP, UDP, finish};

/// Where the parts of an IP packet are in a frame.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub six: bool,
    start: usize,
    pub protocol: u8,
    message: usize,
    /// Where it ends, or is cut off.
    pub end: usize,
}

/// What names a connection in one direction: ports are an ICMP query's identifier, twice; zeros if there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub protocol: u8,
    /// The type of an ICMP query, or of the one that it answers.
    pub kind: u8,
    pub ends: Ends,
}

impl Place {
    pub fn of(frame: &[u8]) -> Option<Place> {
        Place::at(frame, 14, frame.len())
    }

    fn at(frame: &[u8], start: usize, limit: usize) -> Option<Place> {
        let octets = frame.get(start..limit)?;
        let place = |six, protocol, header, len: usize| Place {
            six,
            start,
            protocol,
            message: start + header,
            end: limit.min(start + len),
        };
        let word =
            |at: usize| Some(usize::from(u16::from_be_bytes([*octets.get(at)?, *octets.get(at + 1)?])));
        match octets.first()? >> 4 {
            4 if octets.len() >= 20 => {
                Some(place(false, octets[9], 4 * usize::from(octets[0] & 15), word(2)?))
            }
            6 if octets.len() >= 40 => match octets[6] {
                0 => Some(place(true, *octets.get(40)?, 48, 40 + word(4)?)),
                protocol => Some(place(true, protocol, 40, 40 + word(4)?)),
            },
            _ => None,
        }
    }

    /// What the IP packet carries.
    pub fn message<'f>(&self, frame: &'f [u8]) -> &'f [u8] {
        frame.get(self.message..self.end).unwrap_or_default()
    }

    fn kind(&self, frame: &[u8]) -> u8 {
        frame.get(self.message).copied().unwrap_or_default()
    }

    fn is_error(&self, frame: &[u8]) -> bool {
        match self.protocol {
            ICMP => [3, 4, 5, 11, 12].contains(&self.kind(frame)),
            ICMP6 => self.six && self.kind(frame) < 128,
            _ => false,
        }
    }

    /// The packet that it quotes.
    pub fn quotation(&self, frame: &[u8]) -> Option<Place> {
        self.is_error(frame).then(|| Place::at(frame, self.message + 8, self.end)).flatten()
    }

    fn has_ports(&self) -> bool {
        [TCP, UDP].contains(&self.protocol)
    }

    fn address(&self, which: usize) -> std::ops::Range<usize> {
        let (from, len) = if self.six { (self.start + 8, 16) } else { (self.start + 12, 4) };
        from + which * len..from + (which + 1) * len
    }

    pub fn ends(&self, frame: &[u8]) -> Ends {
        let address =
            |which| frame[self.address(which)].iter().fold(0, |sum, &octet| sum << 8 | u128::from(octet));
        let word = |at: usize| match frame.get(at..at + 2) {
            Some(word) if at + 2 <= self.end => u16::from_be_bytes([word[0], word[1]]),
            _ => 0,
        };
        let ports = match self.protocol {
            TCP | UDP => [word(self.message), word(self.message + 2)],
            ICMP | ICMP6 => [word(self.message + 4); 2],
            _ => [0; 2],
        };
        Ends { six: self.six, addresses: [0, 1].map(address), ports }
    }

    /// Writes addresses, TCP's and UDP's ports, and the IPv4 header's checksum.
    pub fn write(&self, frame: &mut [u8], ends: &Ends) {
        for which in 0..2 {
            let octets = ends.addresses[which].to_be_bytes();
            let range = self.address(which);
            frame[range.clone()].copy_from_slice(&octets[16 - range.len()..]);
            let at = self.message + 2 * which;
            if self.has_ports() && at + 2 <= self.end {
                frame[at..at + 2].copy_from_slice(&ends.ports[which].to_be_bytes());
            }
        }
        if !self.six && self.message <= self.end {
            let header = &mut frame[self.start..self.message];
            header[10..12].fill(0);
            let sum = checksum(header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }

    /// Where the message's checksum is, if it is there.
    pub fn checksum(&self) -> Option<usize> {
        let at = self.message
            + match self.protocol {
                TCP => 16,
                UDP => 6,
                ICMP | ICMP6 => 2,
                _ => return None,
            };
        (at + 2 <= self.end).then_some(at)
    }

    /// Sums the whole message anew.
    pub fn sum(&self, frame: &mut [u8]) {
        let ends = self.ends(frame);
        finish(&ends, self.protocol, &mut frame[self.message..self.end]);
    }
}

impl Flow {
    /// Of a packet that is no ICMP error.
    pub fn of(frame: &[u8]) -> Option<Flow> {
        let place = Place::of(frame)?;
        (!place.is_error(frame)).then(|| Flow::at(frame, &place))
    }

    fn at(frame: &[u8], place: &Place) -> Flow {
        let kind = query(place.protocol, place.kind(frame));
        Flow { protocol: place.protocol, kind, ends: place.ends(frame) }
    }

    /// Of the packet that an ICMP error quotes.
    pub fn quoted(frame: &[u8]) -> Option<Flow> {
        let inner = Place::of(frame)?.quotation(frame)?;
        Some(Flow::at(frame, &inner))
    }

    pub fn turned(&self) -> Flow {
        Flow { ends: self.ends.turned(), ..*self }
    }

    pub fn has_ports(&self) -> bool {
        [TCP, UDP].contains(&self.protocol)
    }

    /// As lists of connections write it.
    pub fn told(protocol: &str, tuple: &str, six: bool) -> Flow {
        let word = |name: &str| tuple.split(',').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let address = |name| match six {
            true => word(name).unwrap().parse::<std::net::Ipv6Addr>().unwrap().to_bits(),
            false => word(name).unwrap().parse::<std::net::Ipv4Addr>().unwrap().to_bits().into(),
        };
        let port = |name| word(name).or(word("id")).map_or(0, |number| number.parse().unwrap());
        let protocol = match protocol {
            "tcp" => TCP,
            "udp" => UDP,
            "icmp" => ICMP,
            "icmpv6" => ICMP6,
            "sctp" => crate::packets::SCTP,
            number => number.parse().unwrap(),
        };
        let ends = Ends { six, addresses: ["src", "dst"].map(address), ports: ["sport", "dport"].map(port) };
        let kind = word("type").map_or(0, |kind| query(protocol, kind.parse().unwrap()));
        Flow { protocol, kind, ends }
    }
}

/// The type of an ICMP query, or of what a reply answers; 0 for other protocols.
fn query(protocol: u8, kind: u8) -> u8 {
    match (protocol, kind) {
        (ICMP, 0) => 8,
        (ICMP, 14 | 16) => kind - 1,
        (ICMP6, 129) => 128,
        (ICMP | ICMP6, _) => kind,
        _ => 0,
    }
}
