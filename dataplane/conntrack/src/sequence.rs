//! Sequence numbers behind a change of length.
//!
//! When a helper makes a text longer, everything that its sender sends from then on has a higher sequence number for the
//! receiver, and what the receiver acknowledges a lower one for the sender. One [`Skew`] for each direction knows by how
//! much, before and behind the last change: a packet that was sent before it, and comes late or again, gets what it got the
//! first time. As the kernel's (net/netfilter/nf_conntrack_seqadj.c); Open vSwitch has one number for both directions.

/// By how much the sequence numbers of one direction differ.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Skew {
    /// The sender's number of the packet whose length was changed last.
    at: u32,
    /// The difference up to there.
    before: i32,
    /// And from there on.
    after: i32,
}

impl Skew {
    /// The packet that the sender has numbered `seq` gets longer by `change` octets. One that is sent again is changed again,
    /// and counts once.
    pub fn add(&mut self, seq: u32, change: i32) {
        if change != 0 && (self.before == self.after || is_behind(seq, self.at)) {
            let after = self.after.wrapping_add(change);
            *self = Skew { at: seq, before: self.after, after };
        }
    }

    /// The receiver's number for the sender's `seq`.
    pub fn sent(&self, seq: u32) -> u32 {
        seq.wrapping_add_signed(if is_behind(seq, self.at) { self.after } else { self.before })
    }

    /// The sender's number for what the receiver acknowledges as `ack`.
    pub fn acknowledged(&self, ack: u32) -> u32 {
        let old = ack.wrapping_add_signed(self.before.wrapping_neg());
        if is_behind(old, self.at) { ack.wrapping_add_signed(self.after.wrapping_neg()) } else { old }
    }

    /// Whether nothing has been changed.
    pub const fn is_none(&self) -> bool {
        self.before == 0 && self.after == 0
    }
}

/// Whether a sequence number comes behind another (RFC 9293, section 3.4).
pub const fn is_behind(seq: u32, other: u32) -> bool {
    (other.wrapping_sub(seq) as i32) < 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_sent_and_acknowledged_is_what_the_two_ends_have_counted(
            start: u32, packets in prop::collection::vec((1..2000u32, prop::option::weighted(0.3, -20..20i32)), 1..30), again: bool,
        ) {
            let mut skew = Skew::default();
            // What the sender has counted, and the receiver.
            let (mut sent, mut received) = (start, start);
            for (len, change) in packets {
                let len = len + 20;
                let change = change.unwrap_or(0);
                for _ in 0..1 + usize::from(again) {
                    prop_assert_eq!(skew.sent(sent), received);
                    prop_assert_eq!(skew.acknowledged(received), sent);
                    skew.add(sent, change);
                }
                prop_assert_eq!(skew.sent(sent), received, "the changed packet itself starts where it did");
                sent = sent.wrapping_add(len);
                received = received.wrapping_add(len).wrapping_add_signed(change);
                prop_assert_eq!(skew.acknowledged(received), sent);
            }
        }
    }

    #[test]
    fn nothing_changed_is_no_difference() {
        let mut skew = Skew::default();
        skew.add(5, 0);
        assert!(skew.is_none());
        assert_eq!((skew.sent(7), skew.acknowledged(7)), (7, 7));
    }
}
