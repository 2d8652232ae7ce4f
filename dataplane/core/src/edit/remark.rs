//! What a meter's `dscp_remark` band does: a packet of an assured forwarding class (RFC 2597, section 6) gets a higher drop
//! precedence. Others stay as they are.

use weft_flow::Term;
use weft_io::{FrameCache, Packet};
use weft_wire::DropReason;

use super::{Edit, Edits, apply};
use crate::key::{Ingress, PortId};
use crate::parse;

/// Changes of DSCP, compiled once.
#[derive(Debug)]
pub struct Remarks {
    /// By the new DSCP.
    edits: Box<[Edits]>,
}

/// The word of TOS, and how far its DSCP is from the lowest bit.
const DSCP: (u8, u32) = (3, 18);

impl Default for Remarks {
    fn default() -> Self {
        let set = |dscp: u64| {
            let (word, shift) = DSCP;
            Edits::new(&[Edit::Set(Box::new([Term { word, mask: 0x3f << shift, value: dscp << shift }]))])
        };
        Remarks { edits: (0..64).map(set).collect() }
    }
}

impl Remarks {
    /// Raises the packet's drop precedence by `levels`, at most to the highest.
    pub fn apply(&self, levels: u8, packet: &mut Packet, frames: &mut FrameCache) -> Result<(), DropReason> {
        let key = parse::full(packet.data(), Ingress::port(PortId::NONE));
        let dscp = key.map_or(0, |key| (key.0[usize::from(DSCP.0)] >> DSCP.1) as u8 & 0x3f);
        match remarked(dscp, levels).and_then(|dscp| self.edits.get(usize::from(dscp))) {
            Some(edits) => apply(edits, packet, frames),
            None => Ok(()),
        }
    }
}

/// The DSCP with a drop precedence that is higher by `levels`; `None` if it has none.
fn remarked(dscp: u8, levels: u8) -> Option<u8> {
    let (class, precedence) = (dscp >> 3, dscp >> 1 & 3);
    let assured = (1..=4).contains(&class) && precedence > 0 && dscp & 1 == 0;
    assured.then(|| class << 3 | precedence.saturating_add(levels).min(3) << 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assured_forwarding_gets_a_higher_drop_precedence_and_nothing_else_changes() {
        // AF11, AF12, AF13, AF41; expedited and best effort.
        assert_eq!(remarked(10, 1), Some(12));
        assert_eq!(remarked(10, 9), Some(14));
        assert_eq!(remarked(14, 1), Some(14));
        assert_eq!(remarked(34, 1), Some(36));
        assert_eq!((remarked(46, 1), remarked(0, 1)), (None, None));
    }
}
