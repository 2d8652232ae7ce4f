//! ARP for IPv4 over Ethernet (RFC 826).

use std::fmt;
use std::net::Ipv4Addr;

use crate::view::{get, header_view, put};
use crate::{EtherType, Mac, Malformed};

/// What an ARP packet asks or tells (RFC 826). Each number is legal on the wire; weft knows two.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct Operation(pub u16);

impl Operation {
    /// Who has the target address?
    pub const REQUEST: Operation = Operation(1);
    /// The sender has it.
    pub const REPLY: Operation = Operation(2);
}

impl fmt::Display for Operation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Operation::REQUEST => out.write_str("request"),
            Operation::REPLY => out.write_str("reply"),
            Operation(number) => number.fmt(out),
        }
    }
}

mod field {
    pub const HARDWARE: usize = 0;
    pub const PROTOCOL: usize = 2;
    pub const HARDWARE_LEN: usize = 4;
    pub const PROTOCOL_LEN: usize = 5;
    pub const OPERATION: usize = 6;
    pub const SENDER_MAC: usize = 8;
    pub const SENDER_IP: usize = 14;
    pub const TARGET_MAC: usize = 18;
    pub const TARGET_IP: usize = 24;
}

/// The hardware type of Ethernet.
const ETHERNET: u16 = 1;

header_view! {
    /// A whole ARP packet; what follows it is padding.
    28
}

impl<'a> View<'a> {
    /// The packet at the start of `buffer`, when it is about IPv4 over Ethernet.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], or [`Malformed::NotEthernetIpv4`] for other address types or lengths.
    #[inline]
    pub fn new_checked(buffer: &'a [u8]) -> Result<Self, Malformed> {
        let (header, _) = Header::split(buffer)?;
        let bytes = header.as_bytes();
        let hardware = u16::from_be_bytes(get::<{ field::HARDWARE }, 2, LEN>(bytes));
        let protocol = u16::from_be_bytes(get::<{ field::PROTOCOL }, 2, LEN>(bytes));
        let lens = (bytes[field::HARDWARE_LEN], bytes[field::PROTOCOL_LEN]);
        if hardware == ETHERNET && protocol == EtherType::IPV4.0 && lens == (6, 4) {
            Ok(header)
        } else {
            Err(Malformed::NotEthernetIpv4 { hardware, protocol })
        }
    }
}

impl<B: std::borrow::Borrow<[u8; LEN]>> Header<B> {
    /// What it asks or tells.
    #[inline]
    pub fn operation(&self) -> Operation {
        Operation(u16::from_be_bytes(get::<{ field::OPERATION }, 2, LEN>(self.as_bytes())))
    }

    /// The sender's Ethernet address.
    #[inline]
    pub fn sender_mac(&self) -> Mac {
        Mac(get::<{ field::SENDER_MAC }, 6, LEN>(self.as_bytes()))
    }

    /// The sender's IPv4 address.
    #[inline]
    pub fn sender_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(get::<{ field::SENDER_IP }, 4, LEN>(self.as_bytes()))
    }

    /// The target's Ethernet address; without meaning in a request.
    #[inline]
    pub fn target_mac(&self) -> Mac {
        Mac(get::<{ field::TARGET_MAC }, 6, LEN>(self.as_bytes()))
    }

    /// The target's IPv4 address.
    #[inline]
    pub fn target_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(get::<{ field::TARGET_IP }, 4, LEN>(self.as_bytes()))
    }

    /// All that varies, copied out.
    pub fn parse(&self) -> Repr {
        Repr {
            operation: self.operation(),
            sender_mac: self.sender_mac(),
            sender_ip: self.sender_ip(),
            target_mac: self.target_mac(),
            target_ip: self.target_ip(),
        }
    }
}

/// An ARP packet's contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repr {
    /// What it asks or tells.
    pub operation: Operation,
    /// The sender's Ethernet address.
    pub sender_mac: Mac,
    /// The sender's IPv4 address.
    pub sender_ip: Ipv4Addr,
    /// The target's Ethernet address; zero in a request.
    pub target_mac: Mac,
    /// The target's IPv4 address.
    pub target_ip: Ipv4Addr,
}

impl Repr {
    /// Writes the whole packet.
    pub fn emit(&self, bytes: &mut [u8; LEN]) {
        put::<{ field::HARDWARE }, 2, LEN>(bytes, ETHERNET.to_be_bytes());
        put::<{ field::PROTOCOL }, 2, LEN>(bytes, EtherType::IPV4.0.to_be_bytes());
        put::<{ field::HARDWARE_LEN }, 2, LEN>(bytes, [6, 4]);
        put::<{ field::OPERATION }, 2, LEN>(bytes, self.operation.0.to_be_bytes());
        put::<{ field::SENDER_MAC }, 6, LEN>(bytes, self.sender_mac.0);
        put::<{ field::SENDER_IP }, 4, LEN>(bytes, self.sender_ip.octets());
        put::<{ field::TARGET_MAC }, 6, LEN>(bytes, self.target_mac.0);
        put::<{ field::TARGET_IP }, 4, LEN>(bytes, self.target_ip.octets());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::ArpPacketSlice;
    use proptest::prelude::*;

    const REQUEST: [u8; 28] = [
        0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x01, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x0a, 0x00, 0x00,
        0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x00, 0x00, 0x02,
    ];

    fn request() -> Repr {
        Repr {
            operation: Operation::REQUEST,
            sender_mac: Mac([2, 0, 0, 0, 0, 1]),
            sender_ip: Ipv4Addr::new(10, 0, 0, 1),
            target_mac: Mac::ZERO,
            target_ip: Ipv4Addr::new(10, 0, 0, 2),
        }
    }

    #[test]
    fn a_request_is_taken_apart() {
        assert_eq!(Header::new_checked(&REQUEST).unwrap().parse(), request());
    }

    #[test]
    fn a_request_is_constructed_over_what_lay_there() {
        let mut bytes = [0xa5; 28];
        request().emit(&mut bytes);
        assert_eq!(bytes, REQUEST);
    }

    #[test]
    fn a_packet_that_ends_early_is_truncated() {
        for len in 0..28 {
            assert_eq!(Header::new_checked(&REQUEST[..len]), Err(Malformed::truncated(28, len)));
        }
    }

    #[test]
    fn other_address_types_and_lengths_are_refused() {
        for at in 0..6 {
            let mut bytes = REQUEST;
            bytes[at] ^= 1;
            let error = Header::new_checked(&bytes).unwrap_err();
            assert!(matches!(error, Malformed::NotEthernetIpv4 { .. }), "octet {at}");
        }
    }

    proptest! {
        #[test]
        fn what_is_emitted_parses_back_here_and_in_etherparse(op: u16, mac: [u8; 6], ip: u32, to: [u8; 6], to_ip: u32) {
            let repr = Repr {
                operation: Operation(op),
                sender_mac: Mac(mac),
                sender_ip: Ipv4Addr::from_bits(ip),
                target_mac: Mac(to),
                target_ip: Ipv4Addr::from_bits(to_ip),
            };
            let mut bytes = [0xa5; 28];
            repr.emit(&mut bytes);
            prop_assert_eq!(Header::new_checked(&bytes).unwrap().parse(), repr);
            let theirs = ArpPacketSlice::from_slice(&bytes).unwrap();
            prop_assert_eq!(theirs.operation().0, op);
            prop_assert_eq!(theirs.sender_hw_addr(), &mac[..]);
            prop_assert_eq!(theirs.target_protocol_addr(), &to_ip.to_be_bytes()[..]);
        }
    }
}
