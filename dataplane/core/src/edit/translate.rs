//! Translation: addresses and ports become those of the packet's connection.
//!
//! Unlike other edits it is not compiled: its values are the connection's, and many connections share a program. Headers and
//! checksums are changed by the same [`Patch`] that fields are.

use weft_conntrack::{Family, Translation, Tuple};
use weft_io::Packet;
use weft_wire::DropReason;

use super::network::Patch;
use super::{Masked, Values};

/// Rewrites addresses, ports and checksums as `translation` says.
///
/// # Errors
/// [`DropReason::Malformed`] if a header goes on behind the head frame.
#[inline]
pub fn translate(translation: &Translation, packet: &mut Packet) -> Result<(), DropReason> {
    let mut values = Values::default();
    let Translation { tuple, source, destination, related } = *translation;
    if source {
        values.set_address(4, tuple.family, tuple.src);
    }
    if destination {
        values.set_address(6, tuple.family, tuple.dst);
    }
    if !related {
        values.set_ports(&tuple);
    }
    match Patch::new(&values) {
        Some(patch) => patch.apply(packet),
        None => Ok(()),
    }
}

impl Values {
    /// The two words from `word` on become this address.
    fn set_address(&mut self, word: usize, family: Family, address: u128) {
        let (high, low) = ((address >> 64) as u64, address as u64);
        let words = match family {
            Family::V4 => [Masked::default(), Masked { mask: u32::MAX.into(), value: low }],
            Family::V6 => [Masked { mask: u64::MAX, value: high }, Masked { mask: u64::MAX, value: low }],
        };
        if let Some(places) = self.0.get_mut(word..word + 2) {
            places.copy_from_slice(&words);
        }
    }

    fn set_ports(&mut self, tuple: &Tuple) {
        if tuple.has_ports() {
            let ports = u64::from(tuple.src_port) << 16 | u64::from(tuple.dst_port);
            self.0[8] = Masked { mask: 0xffff_ffff << 32, value: ports << 32 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edit::{Edit, Edits, apply};
    use weft_flow::Term;
    use weft_io::FramePool;

    /// A UDP packet over IPv4, with right checksums.
    fn frame() -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1000, 53);
        let mut octets = Vec::new();
        builder.write(&mut octets, b"question").unwrap();
        octets
    }

    #[test]
    fn a_translation_gives_what_an_edit_of_the_same_fields_gives() {
        let pool = FramePool::new(FramePool::MIN_FRAMES).unwrap();
        let mut frames = pool.cache();
        let tuple = Tuple {
            src: 0xc000_0201,
            dst: 0xc000_0202,
            src_port: 4000,
            dst_port: 5353,
            protocol: 17,
            family: Family::V4,
        };
        let mut translated = frames.alloc().unwrap();
        translated.append(&frame()).unwrap();
        let translation = Translation { tuple, source: true, destination: true, related: false };
        translate(&translation, &mut translated).unwrap();
        let mut edited = frames.alloc().unwrap();
        edited.append(&frame()).unwrap();
        let term = |word, mask, value| Term { word, mask, value };
        let terms = [
            term(5, 0xffff_ffff, 0xc000_0201),
            term(7, 0xffff_ffff, 0xc000_0202),
            term(8, 0xffff_ffff << 32, (4000 << 16 | 5353) << 32),
        ];
        apply(&Edits::new(&[Edit::Set(terms.into())]), &mut edited, &mut frames).unwrap();
        assert_eq!(translated.data(), edited.data());
        assert_ne!(translated.data(), frame());
        frames.free(translated);
        frames.free(edited);
    }
}
