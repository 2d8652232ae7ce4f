//! VLAN modes of ports, as Open vSwitch has them (ovs-vswitchd.conf.db(5), table Port, "VLAN Configuration").

use std::fmt;

use weft_wire::Vid;

use crate::validate::Problem;
use crate::value::{NumberSet, words};

/// The VLANs that a trunk carries; all of them by default.
pub type Trunks = NumberSet<4095>;

/// The key `mode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VlanModeName {
    /// One VLAN, untagged on the wire.
    Access,
    /// Several VLANs, tagged on the wire; untagged packets are VLAN 0.
    Trunk,
    /// A trunk whose untagged packets are of the native VLAN; they leave with a tag.
    NativeTagged,
    /// A trunk whose native VLAN is untagged on the wire.
    NativeUntagged,
}

words!(VlanModeName, "a VLAN mode: access, trunk, native-tagged or native-untagged",
    "access" => Access, "trunk" => Trunk, "native-tagged" => NativeTagged, "native-untagged" => NativeUntagged);

/// The key `priority_tags`: whether a packet without a VLAN leaves with an 802.1p priority tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PriorityTags {
    /// Never.
    #[default]
    No,
    /// Always.
    Always,
    /// When the packet's priority is not 0.
    IfNonzero,
}

words!(PriorityTags, "no, always or if-nonzero",
    "no" => No, "always" => Always, "if-nonzero" => IfNonzero; "never" => No, "false" => No, "true" => IfNonzero);

/// What `mode`, `vlan` and `trunks` of a port mean together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VlanMode {
    /// One VLAN, untagged on the wire.
    Access(Vid),
    /// The VLANs of the set, tagged on the wire. VLAN 0 in the set admits untagged packets.
    Trunk(Trunks),
    /// Like a trunk that carries `native` too; untagged packets are `native`'s, and they leave with its tag.
    NativeTagged {
        /// The VLAN of untagged packets.
        native: Vid,
        /// The VLANs of tagged packets; `native` belongs to them even if the set lacks it.
        trunks: Trunks,
    },
    /// Like [`VlanMode::NativeTagged`], but `native`'s packets leave without a tag.
    NativeUntagged {
        /// The VLAN of untagged packets.
        native: Vid,
        /// The VLANs of tagged packets; `native` belongs to them even if the set lacks it.
        trunks: Trunks,
    },
}

impl VlanMode {
    /// Open vSwitch's defaults: without `mode`, a port with `vlan` is an access port and one without is a trunk.
    ///
    /// Open vSwitch ignores `trunks` of an access port and `vlan` of a trunk, and takes VLAN 0 where `vlan` lacks:
    /// here these are errors, because an operator who wrote them meant something else.
    pub fn resolve(mode: Option<VlanModeName>, vlan: Option<Vid>, trunks: &Trunks) -> Result<Self, Problem> {
        let by_tag = || if vlan.is_some() { VlanModeName::Access } else { VlanModeName::Trunk };
        let name = mode.unwrap_or_else(by_tag);
        let trunks = trunks.clone();
        match (name, vlan) {
            (VlanModeName::Access, Some(_)) if !trunks.is_all() => Err(Problem::AccessWithTrunks),
            (VlanModeName::Access, Some(vlan)) => Ok(VlanMode::Access(vlan)),
            (VlanModeName::Trunk, None) => Ok(VlanMode::Trunk(trunks)),
            (VlanModeName::Trunk, Some(_)) => Err(Problem::TrunkWithVlan),
            (VlanModeName::NativeTagged, Some(native)) => Ok(VlanMode::NativeTagged { native, trunks }),
            (VlanModeName::NativeUntagged, Some(native)) => Ok(VlanMode::NativeUntagged { native, trunks }),
            (mode, None) => Err(Problem::ModeNeedsVlan { mode }),
        }
    }
}

impl fmt::Display for VlanMode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VlanMode::Access(vlan) => write!(out, "access {vlan}"),
            VlanMode::Trunk(trunks) => write!(out, "trunk {trunks}"),
            VlanMode::NativeTagged { native, trunks } => write!(out, "native-tagged {native} trunk {trunks}"),
            VlanMode::NativeUntagged { native, trunks } => {
                write!(out, "native-untagged {native} trunk {trunks}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    #[test]
    fn modes_default_as_in_open_vswitch() {
        let vlan = Some(Vid::new(10).unwrap());
        let all = Trunks::default();
        let some = Trunks::parse("20-29").unwrap();
        let text = |mode: Option<&str>, vlan, trunks: &Trunks| {
            let mode = mode.map(|mode| VlanModeName::parse(mode).unwrap());
            VlanMode::resolve(mode, vlan, trunks)
                .map(|mode| mode.to_string())
                .map_err(|problem| problem.to_string())
        };
        type Row<'a> = (Option<&'a str>, Option<Vid>, &'a Trunks, Result<&'a str, &'a str>);
        let truth: &[Row<'_>] = &[
            (None, None, &all, Ok("trunk all")),
            (None, None, &some, Ok("trunk 20-29")),
            (None, vlan, &all, Ok("access 10")),
            (None, vlan, &some, Err("trunks")),
            (Some("access"), vlan, &all, Ok("access 10")),
            (Some("access"), None, &all, Err("needs a vlan")),
            (Some("trunk"), None, &some, Ok("trunk 20-29")),
            (Some("trunk"), vlan, &some, Err("vlan")),
            (Some("native-tagged"), vlan, &some, Ok("native-tagged 10 trunk 20-29")),
            (Some("native-tagged"), None, &some, Err("needs a vlan")),
            (Some("native-untagged"), vlan, &all, Ok("native-untagged 10 trunk all")),
            (Some("native-untagged"), None, &all, Err("needs a vlan")),
        ];
        for (mode, vlan, trunks, expected) in truth {
            match (text(*mode, *vlan, trunks), expected) {
                (Ok(text), Ok(expected)) => assert_eq!(&text, expected),
                (Err(text), Err(part)) => assert!(text.contains(part), "{text}"),
                (got, _) => panic!("{mode:?} {vlan:?} {trunks}: {got:?}, expected {expected:?}"),
            }
        }
    }
}
