//! Tunnel kinds and keys (VXLAN: RFC 7348; GRE: RFC 2784 and 2890).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a tunnel wraps Ethernet frames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelKind {
    /// VXLAN over UDP (RFC 7348); the key has 24 bits.
    Vxlan,
    /// GRE with protocol 0x6558, Transparent Ethernet Bridging (RFC 2784), and a key of 32 bits (RFC 2890).
    Gre,
}

impl TunnelKind {
    /// The largest key that the encapsulation can carry.
    pub const fn max_key(self) -> u32 {
        match self {
            TunnelKind::Vxlan => 0x00ff_ffff,
            TunnelKind::Gre => u32::MAX,
        }
    }

    /// What the encapsulation adds in front of the inner Ethernet frame over IPv4, in octets, the outer Ethernet
    /// header (14, no VLAN tag) not counted: IPv4 20, then UDP 8 and VXLAN 8, or GRE 4 and its key 4.
    pub const fn overhead_ipv4(self) -> usize {
        match self {
            TunnelKind::Vxlan => 20 + 8 + 8,
            TunnelKind::Gre => 20 + 8,
        }
    }

    /// The word of the command line and of the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            TunnelKind::Vxlan => "vxlan",
            TunnelKind::Gre => "gre",
        }
    }
}

impl fmt::Display for TunnelKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// The text is not a kind of tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a tunnel type: vxlan or gre")]
pub struct UnknownTunnelKind(pub String);

impl FromStr for TunnelKind {
    type Err = UnknownTunnelKind;

    fn from_str(text: &str) -> Result<Self, UnknownTunnelKind> {
        match text {
            "vxlan" => Ok(TunnelKind::Vxlan),
            "gre" => Ok(TunnelKind::Gre),
            _ => Err(UnknownTunnelKind(text.to_owned())),
        }
    }
}

/// A tunnel key: VXLAN's VNI (24 bits) or GRE's key (32 bits). 0 is legal in both, as in Open vSwitch.
///
/// The kind of the tunnel bounds it, see [`TunnelKind::max_key`]; a VLAN-to-VNI map keeps to 24 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TunnelKey(pub u32);

/// The number doesn't fit the encapsulation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} key {key} is out of range: 0 to {max}", max = .kind.max_key())]
pub struct InvalidTunnelKey {
    /// What was asked for.
    pub key: u64,
    /// The encapsulation that has to carry it.
    pub kind: TunnelKind,
}

impl TunnelKey {
    /// Checks the range for `kind`.
    pub fn new(kind: TunnelKind, key: u64) -> Result<Self, InvalidTunnelKey> {
        match u32::try_from(key) {
            Ok(fits) if fits <= kind.max_key() => Ok(TunnelKey(fits)),
            _ => Err(InvalidTunnelKey { key, kind }),
        }
    }
}

impl fmt::Display for TunnelKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vni_has_24_bits_and_a_gre_key_32() {
        assert!(TunnelKey::new(TunnelKind::Vxlan, 0xff_ffff).is_ok());
        assert!(TunnelKey::new(TunnelKind::Vxlan, 0x100_0000).is_err());
        assert!(TunnelKey::new(TunnelKind::Gre, 0xffff_ffff).is_ok());
        let error = TunnelKey::new(TunnelKind::Gre, 0x1_0000_0000).map_err(|error| error.to_string());
        assert_eq!(error, Err("gre key 4294967296 is out of range: 0 to 4294967295".to_owned()));
    }
}
