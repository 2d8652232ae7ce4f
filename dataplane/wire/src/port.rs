//! Port numbers and names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An OpenFlow port number of one bridge (OpenFlow 1.0's 16-bit space, as Open vSwitch has it).
///
/// Ports that an operator adds are 1 to 65279; [`OfPort::LOCAL`] is the bridge's own internal port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OfPort(pub u16);

impl OfPort {
    /// Back to where the packet came in (`OFPP_IN_PORT`).
    pub const IN_PORT: OfPort = OfPort(0xfff8);
    /// Through the tables, for packets that a controller sends (`OFPP_TABLE`).
    pub const TABLE: OfPort = OfPort(0xfff9);
    /// VLAN and FDB switching (`OFPP_NORMAL`).
    pub const NORMAL: OfPort = OfPort(0xfffa);
    /// Every port but the ingress port and those that are not flooded to (`OFPP_FLOOD`).
    pub const FLOOD: OfPort = OfPort(0xfffb);
    /// Every port but the ingress port (`OFPP_ALL`).
    pub const ALL: OfPort = OfPort(0xfffc);
    /// The controllers (`OFPP_CONTROLLER`).
    pub const CONTROLLER: OfPort = OfPort(0xfffd);
    /// No port, or any (`OFPP_NONE`, `OFPP_ANY`).
    pub const NONE: OfPort = OfPort(0xffff);
    /// The bridge's own internal port (`OFPP_LOCAL`).
    pub const LOCAL: OfPort = OfPort(0xfffe);
    /// The highest number that a port may have (`OFPP_MAX` - 1).
    pub const MAX: OfPort = OfPort(0xfeff);
}

impl fmt::Display for OfPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            OfPort::LOCAL => out.write_str("LOCAL"),
            OfPort(number) => number.fmt(out),
        }
    }
}

/// The name of a port or bridge: what Linux takes as a network device's name (1 to 15 octets, no '/', no white
/// space, no ':', not "." or ".."), so that each port can be backed by a device of that name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortName(Box<str>);

/// The text can't be a device's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a port name: 1 to 15 printable ASCII characters without '/', ':' and white space")]
pub struct InvalidPortName(pub String);

impl PortName {
    /// Checks length and characters.
    pub fn new(text: &str) -> Result<Self, InvalidPortName> {
        let legal = |octet: u8| octet.is_ascii_graphic() && octet != b'/' && octet != b':';
        if (1..=15).contains(&text.len()) && text.bytes().all(legal) && text != "." && text != ".." {
            Ok(PortName(text.into()))
        } else {
            Err(InvalidPortName(text.to_owned()))
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&self.0)
    }
}

impl fmt::Debug for PortName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for PortName {
    type Err = InvalidPortName;

    fn from_str(text: &str) -> Result<Self, InvalidPortName> {
        PortName::new(text)
    }
}

impl TryFrom<String> for PortName {
    type Error = InvalidPortName;

    fn try_from(text: String) -> Result<Self, InvalidPortName> {
        PortName::new(&text)
    }
}

impl From<PortName> for String {
    fn from(name: PortName) -> String {
        name.0.into()
    }
}

impl std::borrow::Borrow<str> for PortName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_linux_takes_for_a_device() {
        for legal in ["a", "tap0", "vxlan-0a4e0002", "exactly15chars_"] {
            assert_eq!(PortName::new(legal).map(|name| name.to_string()), Ok(legal.to_owned()));
        }
        for illegal in ["", ".", "..", "a/b", "a b", "a:b", "sixteen_chars_xx", "t\u{e4}p"] {
            assert!(PortName::new(illegal).is_err(), "{illegal:?}");
        }
    }
}
