//! Why a packet was dropped: one list for code, counters and people.

use std::fmt;

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// Why a packet was dropped. The text of each variant is what the command line shows.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of their counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The counter's name.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }

            /// One sentence for people.
            pub fn text(self) -> &'static str {
                match self { $(DropReason::$variant => concat!($($doc),+),)+ }.trim_start()
            }
        }
    };
}

drop_reasons! {
    /// The frame is shorter than the headers that it says it has.
    RxTruncated => "rx_truncated",
    /// The frame is longer than the port or a frame of the pool takes.
    RxTooBig => "rx_too_big",
    /// The frame pool was empty.
    RxNoFrame => "rx_no_frame",
    /// The kernel or the peer marked the received frame as broken.
    RxError => "rx_error",
    /// A tag or a header's fields contradict each other.
    Malformed => "malformed",
    /// The port's packets of new flows take more of the worker's time than the port has.
    SlowPathLimit => "slow_path_limit",
    /// The port belongs to no bridge (any more).
    NoBridge => "no_bridge",
    /// The frame carries a VLAN tag that the ingress port does not admit.
    VlanNotAdmitted => "vlan_not_admitted",
    /// The destination is a link-local reserved address, which a bridge does not forward.
    LinkLocalReserved => "link_local_reserved",
    /// The destination was learned on the port where the frame came in.
    SamePort => "same_port",
    /// No other port carries this VLAN.
    NoDestination => "no_destination",
    /// What came in by a tunnel does not leave by another.
    SplitHorizon => "split_horizon",
    /// No rule of the flow table matched.
    TableMiss => "table_miss",
    /// A rule's actions are `drop`.
    RuleDrop => "rule_drop",
    /// The source Ethernet address is not one that the port may send from.
    SpoofedMac => "spoofed_mac",
    /// The source IP address is not one that the port may send from with that Ethernet address.
    SpoofedIp => "spoofed_ip",
    /// An ARP packet claims an address that is not the port's.
    SpoofedArp => "spoofed_arp",
    /// A neighbour discovery packet claims an address that is not the port's, or comes in fragments (RFC 6980).
    SpoofedNd => "spoofed_nd",
    /// A router advertisement from a guarded port.
    RogueRa => "rogue_ra",
    /// A DHCP server's answer from a guarded port.
    RogueDhcp => "rogue_dhcp",
    /// A DHCPv6 server's answer from a guarded port.
    RogueDhcpv6 => "rogue_dhcpv6",
    /// No rule of the port's security groups permits what it sends.
    AclEgress => "acl_egress",
    /// No rule of a port's security groups permits what is sent to it.
    AclIngress => "acl_ingress",
    /// Connection tracking takes the packet for invalid, and it goes through security groups.
    AclInvalid => "acl_invalid",
    /// A rule names a port that is not there.
    NoSuchPort => "no_such_port",
    /// A rule names a group that is not there.
    NoSuchGroup => "no_such_group",
    /// No bucket of the group is live.
    NoLiveBucket => "no_live_bucket",
    /// Resubmits nest deeper than 64.
    RecursionTooDeep => "recursion_too_deep",
    /// The packet was looked up more than 4096 times.
    TooManyResubmits => "too_many_resubmits",
    /// The actions push more onto the stack than 65536 octets.
    StackTooDeep => "stack_too_deep",
    /// The actions push more MPLS labels than 3, or pop one of more than 3.
    TooManyMplsLabels => "too_many_mpls_labels",
    /// What is behind a popped MPLS label can't be read.
    MplsUnparsed => "mpls_unparsed",
    /// The packet's time to live has run out.
    TtlExpired => "ttl_expired",
    /// A meter's rate was exceeded.
    MeterExceeded => "meter_exceeded",
    /// No address and port of the NAT range is free.
    NatExhausted => "nat_exhausted",
    /// The answers of the connection that the packet begins would be another connection's.
    ConnectionClash => "connection_clash",
    /// The packet's connection ended while the packet was under way.
    ConnectionGone => "connection_gone",
    /// The text that a helper has to put into the packet does not fit it.
    HelperNoRoom => "helper_no_room",
    /// The packet went to the controllers and nowhere else.
    ToController => "to_controller",
    /// The tags or labels that a rule puts in front do not fit the frame.
    NoHeadroom => "no_headroom",
    /// The tunnel packet is not for a configured tunnel: unknown remote, type or local address.
    TunnelUnknown => "tunnel_unknown",
    /// The tunnel packet's key is not mapped to a VLAN of the bridge, or the tunnel does not carry it.
    TunnelKeyUnknown => "tunnel_key_unknown",
    /// The outer header of a tunnel packet is broken: length, flags, or checksum.
    TunnelMalformed => "tunnel_malformed",
    /// The outer IPv4 packet is a fragment.
    TunnelFragment => "tunnel_fragment",
    /// The VLAN has no VNI on this bridge, or the tunnel does not carry that VNI.
    VniUnmapped => "vni_unmapped",
    /// The packet does not fit the tunnel: inner frame plus outer headers exceed the underlay's MTU.
    TunnelTooBig => "tunnel_too_big",
    /// The kernel has no route to the tunnel's remote end.
    TunnelNoRoute => "tunnel_no_route",
    /// The tunnel's remote end is by flow, and no rule has set tun_dst to a host's address.
    TunnelNoRemote => "tunnel_no_remote",
    /// The tunnel's remote end is by flow, and packets go to as many remote ends as are kept track of already.
    TunnelRemotesFull => "tunnel_remotes_full",
    /// The next hop's Ethernet address is not known, and too many packets wait for it already.
    NeighbourUnresolved => "neighbour_unresolved",
    /// The fragment overlaps one that came before it, or is its twin.
    FragmentOverlap => "fragment_overlap",
    /// The fragment is smaller than fragments may be that are not the last of their packet.
    FragmentTooSmall => "fragment_too_small",
    /// The fragment contradicts itself or others: checksum, length, or end of the packet.
    FragmentMalformed => "fragment_malformed",
    /// Too many fragments wait for others, of all or of this port.
    FragmentLimit => "fragment_limit",
    /// The packet is cut into too many fragments.
    FragmentTooMany => "fragment_too_many",
    /// Other fragments of the packet did not come in time.
    FragmentExpired => "fragment_expired",
    /// The packet is larger than the egress port's MTU.
    TxTooBig => "tx_too_big",
    /// The egress port's ring or queue was full.
    TxRingFull => "tx_ring_full",
    /// The kernel refused the frame.
    TxError => "tx_error",
    /// The egress port is down or its device is gone.
    TxPortDown => "tx_port_down",
    /// The queue to the worker that owns the egress port was full.
    HandoverFull => "handover_full",
    /// The port was removed while the packet waited for it.
    PortRemoved => "port_removed",
    /// A flood or a clone found no free frame for its copy.
    CopyNoFrame => "copy_no_frame",
}

impl fmt::Display for DropReason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Dropped packets by reason: plain counters that their one owner adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropCounts {
    by_reason: [u64; DropReason::COUNT],
    total: u64,
}

impl Default for DropCounts {
    fn default() -> Self {
        DropCounts { by_reason: [0; DropReason::COUNT], total: 0 }
    }
}

impl DropCounts {
    /// Counts `packets` more drops for `reason`.
    #[inline]
    pub fn add(&mut self, reason: DropReason, packets: u64) {
        self.by_reason[reason as usize] += packets;
        self.total += packets;
    }

    /// How many packets were dropped for `reason`.
    #[inline]
    pub fn get(&self, reason: DropReason) -> u64 {
        self.by_reason[reason as usize]
    }

    /// How many packets were dropped in all.
    #[inline]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Starts at 0 again; costs nothing when nothing was counted.
    #[inline]
    pub fn clear(&mut self) {
        if self.total > 0 {
            *self = DropCounts::default();
        }
    }

    /// The reasons that have counted something.
    pub fn nonzero(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.get(reason))).filter(|&(_, packets)| packets > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_name_and_a_sentence() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(reason.text().ends_with('.'), "{reason}");
            let twins = DropReason::ALL.iter().filter(|other| other.name() == reason.name()).count();
            assert_eq!(twins, 1, "{reason}");
        }
    }
}
