//! Netlink messages: writing requests, and reading messages and their attributes from any octets at all.
//!
//! Layout: linux/netlink.h, netlink(7). All numbers are in the host's byte order; messages and attributes start at
//! multiples of four octets. The readers never panic and always end: a length that lies is a
//! [`NetlinkError::Malformed`], and nothing is read after it.

use std::net::Ipv4Addr;

use super::error::NetlinkError;

/// `struct nlmsghdr`: length, type, flags, sequence, port.
const HEADER: usize = 16;
/// `struct nlattr`: length, type.
const ATTR_HEADER: usize = 4;
/// Bits of an attribute's type that are flags (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const ATTR_FLAGS: u16 = 0xc000;

/// A request under construction.
#[derive(Debug, Clone)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A message of type `kind` with `flags` beside `NLM_F_REQUEST`, and the family's fixed header.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        Request { bytes }.padded()
    }

    fn padded(mut self) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an attribute. Values are at most a few hundred octets.
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + ATTR_HEADER).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.padded()
    }

    /// Adds a 32-bit attribute.
    pub fn attr_u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Adds a text, with the closing zero that the kernel wants.
    pub fn attr_text(self, kind: u16, text: &str) -> Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.attr(kind, &value)
    }

    /// The finished octets, with the sequence number that the answer will carry.
    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let header = length.to_ne_bytes().into_iter().enumerate();
        let sequence = sequence.to_ne_bytes().into_iter().enumerate().map(|(at, octet)| (at + 8, octet));
        for (at, octet) in header.chain(sequence) {
            if let Some(place) = self.bytes.get_mut(at) {
                *place = octet;
            }
        }
        self.bytes
    }
}

/// One message as it came.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// `RTM_*` or `NLMSG_*`.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The sequence number of the request that it answers, or zero.
    pub sequence: u32,
    /// What follows the header, without the padding after it.
    pub body: &'a [u8],
}

/// The messages of one datagram.
#[derive(Debug, Clone)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, NetlinkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.0);
        let Some(message) = message_at(rest) else {
            return Some(Err(NetlinkError::Malformed { what: "message header", length: rest.len() }));
        };
        let (length, message) = message;
        self.0 = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Ok(message))
    }
}

fn message_at(bytes: &[u8]) -> Option<(usize, Message<'_>)> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let body = bytes.get(HEADER..length)?;
    let (kind, flags, sequence) = (u16_at(bytes, 4)?, u16_at(bytes, 6)?, u32_at(bytes, 8)?);
    Some((length, Message { kind, flags, sequence, body }))
}

/// A list of attributes: type without its flag bits, and value.
#[derive(Debug, Clone)]
pub struct Attrs<'a>(&'a [u8]);

impl<'a> Attrs<'a> {
    /// The attributes in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Attrs(bytes)
    }

    /// The attributes that follow a fixed header of `skip` octets.
    pub fn after(body: &'a [u8], skip: usize) -> Result<Self, NetlinkError> {
        let malformed = NetlinkError::Malformed { what: "family header", length: body.len() };
        body.get(skip..).map(Attrs).ok_or(malformed)
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Result<(u16, &'a [u8]), NetlinkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.0);
        let Some((length, kind, value)) = attr_at(rest) else {
            return Some(Err(NetlinkError::Malformed { what: "attribute", length: rest.len() }));
        };
        self.0 = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Ok((kind, value)))
    }
}

fn attr_at(bytes: &[u8]) -> Option<(usize, u16, &[u8])> {
    let length = usize::from(u16_at(bytes, 0)?);
    Some((length, u16_at(bytes, 2)? & !ATTR_FLAGS, bytes.get(ATTR_HEADER..length)?))
}

/// The octet at `offset`.
pub(super) fn u8_at(bytes: &[u8], offset: usize) -> Option<u8> {
    bytes.get(offset).copied()
}

/// The 16-bit number at `offset`.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The 32-bit number at `offset`.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// An attribute's value as a 32-bit number.
pub(super) fn number(value: &[u8]) -> Result<u32, NetlinkError> {
    let malformed = NetlinkError::Malformed { what: "32-bit attribute", length: value.len() };
    u32_at(value, 0).ok_or(malformed)
}

/// An attribute's value as an IPv4 address.
pub(super) fn ipv4(value: &[u8]) -> Result<Ipv4Addr, NetlinkError> {
    let malformed = NetlinkError::Malformed { what: "IPv4 address", length: value.len() };
    <[u8; 4]>::try_from(value).map(Ipv4Addr::from).map_err(|_| malformed)
}

/// An attribute's value as a text, up to its closing zero. Octets that are not UTF-8 are replaced.
pub(super) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&octet| octet == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or(value)).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_reads_back_as_it_was_written() {
        let nested = [9, 9, 9, 9, 8, 0, 1, 0, b'v', b'e', b't', b'h'];
        let request = Request::new(18, 4, &[1, 2, 3, 4, 5])
            .attr_u32(7, 0x0102_0304)
            .attr_text(3, "eth0")
            .attr(0x8000 | 18, &nested);
        let bytes = request.finish(77);
        let messages: Vec<_> = Messages(&bytes).collect::<Result<_, _>>().unwrap();
        let [message] = messages[..] else { panic!("one message, not {messages:?}") };
        assert_eq!((message.kind, message.flags, message.sequence), (18, 5, 77));
        let attrs: Vec<_> = Attrs::after(message.body, 8).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(attrs[0], (7, &0x0102_0304u32.to_ne_bytes()[..]));
        assert_eq!((attrs[1].0, text(attrs[1].1)), (3, "eth0".to_owned()));
        assert_eq!(attrs[2].0, 18);
        let inner: Vec<_> = Attrs::after(attrs[2].1, 4).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(inner, [(1, &b"veth"[..])]);
    }

    #[test]
    fn lying_lengths_are_errors_and_end_the_list() {
        for length in [0u32, 15, 33, u32::MAX] {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.resize(32, 0);
            let read: Vec<_> = Messages(&bytes).collect();
            assert!(matches!(read[..], [Err(NetlinkError::Malformed { .. })]), "{length}: {read:?}");
        }
        for length in [0u16, 3, 9, u16::MAX] {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.resize(8, 0);
            let read: Vec<_> = Attrs::new(&bytes).collect();
            assert!(matches!(read[..], [Err(NetlinkError::Malformed { .. })]), "{length}: {read:?}");
        }
    }

    #[test]
    fn the_last_attribute_needs_no_padding() {
        let bytes = [5, 0, 2, 0, 0xaa];
        assert_eq!(Attrs::new(&bytes).collect::<Vec<_>>(), [Ok((2, &[0xaau8][..]))]);
    }

    proptest! {
        #[test]
        fn any_octets_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Messages(&bytes).count() <= bytes.len() / HEADER + 1);
            prop_assert!(Attrs::new(&bytes).count() <= bytes.len() / ATTR_HEADER + 1);
        }
    }
}
