//! What a rule can read of a packet, as words: the packet's own headers first, then what the pipeline keeps beside it.
//!
//! The first [`KEY_WORDS`] words come from the packet (and from where it came in): they are the [`FlowKey`], by which a
//! flow is cached. The others start as 0 for each packet and live as long as its walk: registers, metadata, connection.
//! Words are ordered so that what every policy reads comes first: a mask that stays in the first [`NARROW`] words makes
//! small flows.
//!
//! ```text
//!  word 0   destination MAC (48) | ingress (16)
//!  word 1   source MAC (48)      | outermost VLAN tag, as Tci (16)
//!  word 2   tun_src (32)         | tun_id, low half (32)              0 if it came in by no tunnel
//!  word 3   EtherType (16) | second VLAN tag (16) | nw_proto (8) | TOS (8) | TTL (8) | nw_frag (8)
//!  word 4-5 source address: IPv6, or IPv4 / ARP SPA in the low half of word 5
//!  word 6-7 destination address: IPv6, or IPv4 / ARP TPA in the low half of word 7
//!  word 8   tp_src (16) | tp_dst (16) | TCP flags (16) | length class (16); of ICMP, the low octets of the ports are type
//!           and code, and the high ones the identifier
//!  ---- what few policies read ----
//!  word 9   ARP SHA or ND SLL (48) | 0
//!  word 10  ARP THA or ND TLL (48) | 0
//!  word 11  outermost MPLS label stack entry (32) | IPv6 flow label (32)
//!  word 12-13  ND target
//!  word 14  tun_dst (32) | tun_gbp_id (16) | tun_gbp_flags (8) | tun_flags (8)
//!  word 15  second and third MPLS label stack entry
//!  ---- the pipeline's own ----
//!  word 16  metadata
//!  word 17-24  registers: reg0 is the high half of word 17, reg1 its low half, and so on
//!  word 25  pkt_mark (32) | queue (32)
//!  word 26  conj_id (32) | actset_output (32)
//!  word 27  ct_mark (32) | ct_state (16) | ct_zone (16)
//!  word 28-29  ct_label
//!  word 30  ct_nw_src (32) | ct_nw_dst (32)
//!  word 31  in_port (16) | ct_nw_proto (16) | ct_tp_src (16) | ct_tp_dst (16)
//!  word 32-33  ct_ipv6_src
//!  word 34-35  ct_ipv6_dst
//!  word 36  tun_id, high half (32) | packet_type (32)
//!  word 37-38  tun_ipv6_src
//!  word 39-40  tun_ipv6_dst
//!  word 41  dp_hash (32) | recirc_id (32)
//! ```

/// Words that come from the packet: those of a [`FlowKey`].
pub const KEY_WORDS: usize = 16;
/// Words of a narrow key: Ethernet, VLAN, ingress and tunnel.
pub const NARROW: usize = 3;
/// Words of a key of middle width: all but what few policies read.
pub const MIDDLE: usize = 9;
/// All words.
pub const WORDS: usize = 42;

/// All that a rule can read: the packet's words and the pipeline's. See the module's text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fields(pub [u64; WORDS]);

/// What of a packet itself a policy can read: the first words of [`Fields`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowKey(pub [u64; KEY_WORDS]);

/// Which bits of a key are read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct KeyMask(pub [u64; KEY_WORDS]);

impl Default for Fields {
    fn default() -> Self {
        Fields([0; WORDS])
    }
}

impl Fields {
    /// A packet's fields at the start of its walk: registers and all are 0.
    pub fn of_packet(key: &FlowKey) -> Fields {
        let mut fields = Fields::default();
        fields.0.iter_mut().zip(key.0).for_each(|(word, read)| *word = read);
        fields
    }

    /// The packet's words.
    pub fn key(&self) -> FlowKey {
        let mut key = FlowKey::default();
        key.0.iter_mut().zip(self.0).for_each(|(word, own)| *word = own);
        key
    }
}
