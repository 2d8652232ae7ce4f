//! VLAN identifiers and tag control information (IEEE 802.1Q-2018, section 9.6).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A VLAN identifier, 0 to 4095, as Open vSwitch has them: 0 is "no VLAN" (untagged, or a priority tag), and 4095 is
/// legal, because Neutron uses it as its dead VLAN.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Vid(u16);

/// The number is not a VLAN identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("VLAN {0} is out of range: 0 to 4095")]
pub struct InvalidVid(pub String);

impl Vid {
    /// Untagged, or tagged with a priority tag.
    pub const NONE: Vid = Vid(0);
    /// The highest identifier.
    pub const MAX: Vid = Vid(4095);

    /// Checks the range.
    pub fn new(number: u16) -> Result<Self, InvalidVid> {
        if number <= Self::MAX.0 { Ok(Vid(number)) } else { Err(InvalidVid(number.to_string())) }
    }

    /// The low 12 bits of a tag control information.
    #[inline]
    pub const fn from_tci(tci: u16) -> Self {
        Vid(tci & 0x0fff)
    }

    /// The number, 0 to 4095.
    #[inline]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The number as an index, 0 to 4095.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Vid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl FromStr for Vid {
    type Err = InvalidVid;

    fn from_str(text: &str) -> Result<Self, InvalidVid> {
        text.parse().ok().and_then(|number| Vid::new(number).ok()).ok_or_else(|| InvalidVid(text.to_owned()))
    }
}

impl TryFrom<u16> for Vid {
    type Error = InvalidVid;

    fn try_from(number: u16) -> Result<Self, InvalidVid> {
        Vid::new(number)
    }
}

impl From<Vid> for u16 {
    fn from(vid: Vid) -> u16 {
        vid.0
    }
}

/// Tag control information as a flow key carries it (the convention of Open vSwitch's `vlan_tci`): priority in bits
/// 15 to 13, "a tag is present" in bit 12 (where the wire has DEI), VLAN identifier in bits 11 to 0. An untagged
/// packet's is 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Tci(pub u16);

impl Tci {
    /// No tag.
    pub const UNTAGGED: Tci = Tci(0);
    /// The bit that says that a tag is there.
    pub const PRESENT: u16 = 0x1000;

    /// From the 16 bits that follow the TPID on the wire.
    #[inline]
    pub const fn from_wire(wire: u16) -> Self {
        Tci(wire | Self::PRESENT)
    }

    /// Whether a tag is there.
    #[inline]
    pub const fn is_tagged(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    /// The VLAN identifier; [`Vid::NONE`] when untagged.
    #[inline]
    pub const fn vid(self) -> Vid {
        Vid::from_tci(self.0)
    }

    /// The priority code point, 0 to 7.
    #[inline]
    pub const fn pcp(self) -> u8 {
        (self.0 >> 13) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_end_at_4095() {
        assert_eq!(Vid::new(4095).map(Vid::get), Ok(4095));
        assert_eq!(Vid::new(4096), Err(InvalidVid("4096".into())));
        assert_eq!("5000".parse::<Vid>(), Err(InvalidVid("5000".into())));
        assert_eq!("-1".parse::<Vid>(), Err(InvalidVid("-1".into())));
    }

    #[test]
    fn a_priority_tag_is_a_tag_without_a_vlan() {
        let tci = Tci::from_wire(0xa000);
        assert!(tci.is_tagged());
        assert_eq!((tci.vid(), tci.pcp()), (Vid::NONE, 5));
        assert!(!Tci::UNTAGGED.is_tagged());
    }
}
