//! The registry of fields: what each is called, where it lies, what it presupposes, and what may be done with it.
//!
//! Names, prerequisites and rights are those of ovs-fields(7). A field lies in one or two [`Segment`]s of
//! [`Fields`]; some fields lie in the same bits (`tcp_src`, `udp_src`, `icmp_type`; `xreg0` and `reg0`, `reg1`), and
//! prerequisites tell them apart.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::fields::Fields;

/// A run of bits in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Which word of [`Fields`].
    pub word: u8,
    /// How far its lowest bit is from the word's lowest.
    pub shift: u8,
    /// How many bits, 1 to 64.
    pub bits: u8,
}

impl Segment {
    /// The segment's bits in its word.
    #[inline]
    pub const fn mask(self) -> u64 {
        (u64::MAX >> (64 - self.bits as u32)) << self.shift
    }
}

/// Which masks a match on the field may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Maskable {
    /// All of it or nothing.
    Whole,
    /// Any bits.
    Bitwise,
}

/// How values of the field are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// `10`
    Decimal,
    /// `0xa`
    Hex,
    /// `02:00:00:00:00:01`
    Mac,
    /// `10.0.0.1`, `10.0.0.0/8`
    Ipv4,
    /// `2001:db8::1`
    Ipv6,
    /// `no`, `yes`, `first`, `later`, `not_later`
    Frag,
    /// `+trk-new`
    CtState,
    /// `+syn-ack`
    TcpFlags,
    /// `+oam`
    TunFlags,
    /// A port's number or name, 16 bits (OpenFlow 1.0).
    Port,
    /// A port's number or name, 32 bits (OpenFlow 1.1 and later).
    Port32,
    /// `(1,0x800)`
    PacketType,
}

/// What a rule that uses the field has to match on as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prerequisite {
    /// Nothing.
    None,
    /// An Ethernet packet; every packet of weft's is one.
    Ethernet,
    /// A VLAN tag.
    Vlan,
    /// `dl_type` 0x8847 or 0x8848.
    Mpls,
    /// `dl_type` 0x806 or 0x8035.
    Arp,
    /// `dl_type` 0x800.
    Ipv4,
    /// `dl_type` 0x86dd.
    Ipv6,
    /// One of the two.
    Ip,
    /// IP and `nw_proto` 6.
    Tcp,
    /// IP and `nw_proto` 17.
    Udp,
    /// IP and `nw_proto` 132.
    Sctp,
    /// IPv4 and `nw_proto` 1.
    Icmp4,
    /// IPv6 and `nw_proto` 58.
    Icmp6,
    /// ICMPv6 of type 135 or 136, and code 0.
    Nd,
    /// ICMPv6 of type 135.
    NdSolicit,
    /// ICMPv6 of type 136.
    NdAdvert,
    /// A tracked connection: `ct_state=+trk`, and the EtherType that the field belongs to.
    Ct,
}

impl Prerequisite {
    /// What a rule has to say, in words for its author.
    pub fn described(self) -> &'static str {
        match self {
            Prerequisite::None => "anything matched",
            Prerequisite::Ethernet => "Ethernet packets matched",
            Prerequisite::Vlan => "a VLAN tag matched or pushed",
            Prerequisite::Mpls => "mpls or mplsm matched",
            Prerequisite::Arp => "arp or rarp matched",
            Prerequisite::Ipv4 => "ip matched",
            Prerequisite::Ipv6 => "ipv6 matched",
            Prerequisite::Ip => "ip or ipv6 matched",
            Prerequisite::Tcp => "tcp or tcp6 matched, and no later fragments",
            Prerequisite::Udp => "udp or udp6 matched, and no later fragments",
            Prerequisite::Sctp => "sctp or sctp6 matched, and no later fragments",
            Prerequisite::Icmp4 => "icmp matched",
            Prerequisite::Icmp6 => "icmp6 matched",
            Prerequisite::Nd => "icmp6,icmp_type=135 or 136,icmp_code=0 matched",
            Prerequisite::NdSolicit => "icmp6,icmp_type=135,icmp_code=0 matched",
            Prerequisite::NdAdvert => "icmp6,icmp_type=136,icmp_code=0 matched",
            Prerequisite::Ct => {
                "a connection's ct_state (such as +est) and the EtherType of its address matched"
            }
        }
    }
}

/// What actions may do with the field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Read.
    ReadOnly,
    /// Read and write.
    Writable,
}

/// All that is known of a field.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Info {
    /// Its name in text.
    pub name: &'static str,
    /// Another name, or "".
    pub alias: &'static str,
    /// Its width.
    pub bits: u8,
    /// Where it lies, most significant first. They have the field's width in sum, but for `in_port_oxm`, `arp_op`
    /// and `ct_state`, whose higher bits are never set.
    pub segments: &'static [Segment],
    /// Which masks are legal.
    pub maskable: Maskable,
    /// How values are written.
    pub format: Format,
    /// What it presupposes.
    pub prerequisite: Prerequisite,
    /// What actions may do.
    pub access: Access,
    /// Its name in Nicira's extended match, or "".
    pub nxm: &'static str,
    /// Its name in OpenFlow's extensible match, or "".
    pub oxm: &'static str,
}

macro_rules! fields {
    ($($variant:ident: $name:literal, $alias:literal, $bits:literal, &[$(($word:literal, $shift:literal, $width:literal)),*],
       $maskable:ident, $format:ident, $prerequisite:ident, $access:ident, $nxm:literal, $oxm:literal;)*) => {
        /// A field of a packet or of the pipeline, as ovs-fields(7) names it.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Field {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        impl Field {
            /// Every field.
            pub const ALL: &[Field] = &[$(Field::$variant),*];
        }

        static INFOS: &[Info] = &[$(Info {
            name: $name,
            alias: $alias,
            bits: $bits,
            segments: &[$(Segment { word: $word, shift: $shift, bits: $width }),*],
            maskable: Maskable::$maskable,
            format: Format::$format,
            prerequisite: Prerequisite::$prerequisite,
            access: Access::$access,
            nxm: $nxm,
            oxm: $oxm,
        }),*];
    };
}

// variant: name, alias, bits, [(word, shift, bits)], mask, format, prerequisite, access, NXM name, OXM name
fields! {
    DpHash: "dp_hash", "", 32, &[(41, 32, 32)], Bitwise, Hex, None, ReadOnly, "NXM_NX_DP_HASH", "";
    RecircId: "recirc_id", "", 32, &[(41, 0, 32)], Whole, Decimal, None, ReadOnly, "NXM_NX_RECIRC_ID", "";
    PacketType: "packet_type", "", 32, &[(36, 0, 32)], Whole, PacketType, None, ReadOnly, "", "OXM_OF_PACKET_TYPE";
    ConjId: "conj_id", "", 32, &[(26, 32, 32)], Whole, Decimal, None, ReadOnly, "NXM_NX_CONJ_ID", "";
    TunId: "tun_id", "tunnel_id", 64, &[(36, 32, 32), (2, 0, 32)], Bitwise, Hex, None, Writable, "NXM_NX_TUN_ID", "OXM_OF_TUNNEL_ID";
    TunSrc: "tun_src", "", 32, &[(2, 32, 32)], Bitwise, Ipv4, None, Writable, "NXM_NX_TUN_IPV4_SRC", "";
    TunDst: "tun_dst", "", 32, &[(14, 32, 32)], Bitwise, Ipv4, None, Writable, "NXM_NX_TUN_IPV4_DST", "";
    TunIpv6Src: "tun_ipv6_src", "", 128, &[(37, 0, 64), (38, 0, 64)], Bitwise, Ipv6, None, Writable, "NXM_NX_TUN_IPV6_SRC", "";
    TunIpv6Dst: "tun_ipv6_dst", "", 128, &[(39, 0, 64), (40, 0, 64)], Bitwise, Ipv6, None, Writable, "NXM_NX_TUN_IPV6_DST", "";
    TunFlags: "tun_flags", "", 1, &[(14, 0, 1)], Bitwise, TunFlags, None, Writable, "NXM_NX_TUN_FLAGS", "";
    TunGbpId: "tun_gbp_id", "", 16, &[(14, 16, 16)], Bitwise, Decimal, None, Writable, "NXM_NX_TUN_GBP_ID", "";
    TunGbpFlags: "tun_gbp_flags", "", 8, &[(14, 8, 8)], Bitwise, Hex, None, Writable, "NXM_NX_TUN_GBP_FLAGS", "";
    Metadata: "metadata", "", 64, &[(16, 0, 64)], Bitwise, Hex, None, Writable, "", "OXM_OF_METADATA";
    InPort: "in_port", "", 16, &[(31, 48, 16)], Whole, Port, None, Writable, "NXM_OF_IN_PORT", "";
    InPortOxm: "in_port_oxm", "", 32, &[(31, 48, 16)], Whole, Port32, None, Writable, "", "OXM_OF_IN_PORT";
    ActsetOutput: "actset_output", "", 32, &[(26, 0, 32)], Whole, Port32, None, ReadOnly, "ONFOXM_ET_ACTSET_OUTPUT", "OXM_OF_ACTSET_OUTPUT";
    PktMark: "pkt_mark", "", 32, &[(25, 32, 32)], Bitwise, Hex, None, Writable, "NXM_NX_PKT_MARK", "";
    CtState: "ct_state", "", 32, &[(27, 16, 16)], Bitwise, CtState, None, ReadOnly, "NXM_NX_CT_STATE", "";
    CtZone: "ct_zone", "", 16, &[(27, 0, 16)], Whole, Hex, None, ReadOnly, "NXM_NX_CT_ZONE", "";
    CtMark: "ct_mark", "", 32, &[(27, 32, 32)], Bitwise, Hex, None, Writable, "NXM_NX_CT_MARK", "";
    CtLabel: "ct_label", "", 128, &[(28, 0, 64), (29, 0, 64)], Bitwise, Hex, None, Writable, "NXM_NX_CT_LABEL", "";
    CtNwProto: "ct_nw_proto", "", 8, &[(31, 32, 8)], Whole, Decimal, Ct, ReadOnly, "NXM_NX_CT_NW_PROTO", "";
    CtNwSrc: "ct_nw_src", "", 32, &[(30, 32, 32)], Bitwise, Ipv4, Ct, ReadOnly, "NXM_NX_CT_NW_SRC", "";
    CtNwDst: "ct_nw_dst", "", 32, &[(30, 0, 32)], Bitwise, Ipv4, Ct, ReadOnly, "NXM_NX_CT_NW_DST", "";
    CtIpv6Src: "ct_ipv6_src", "", 128, &[(32, 0, 64), (33, 0, 64)], Bitwise, Ipv6, Ct, ReadOnly, "NXM_NX_CT_IPV6_SRC", "";
    CtIpv6Dst: "ct_ipv6_dst", "", 128, &[(34, 0, 64), (35, 0, 64)], Bitwise, Ipv6, Ct, ReadOnly, "NXM_NX_CT_IPV6_DST", "";
    CtTpSrc: "ct_tp_src", "", 16, &[(31, 16, 16)], Bitwise, Decimal, Ct, ReadOnly, "NXM_NX_CT_TP_SRC", "";
    CtTpDst: "ct_tp_dst", "", 16, &[(31, 0, 16)], Bitwise, Decimal, Ct, ReadOnly, "NXM_NX_CT_TP_DST", "";
    Reg0: "reg0", "", 32, &[(17, 32, 32)], Bitwise, Hex, None, Writable, "NXM_NX_REG0", "";
    Reg1: "reg1", "", 32, &[(17, 0, 32)], Bitwise, Hex, None, Writable, "NXM_NX_REG1", "";
    Reg2: "reg2", "", 32, &[(18, 32, 32)], Bitwise, Hex, None, Writable, "NXM_NX_REG2", "";
    Reg3: "reg3", "", 32, &[(18, 0, 32)], Bitwise, Hex, None, Writable, "NXM_NX_REG3", "";
    Reg4: "reg4", "", 32, &[(19, 32, 32)], Bitwise, Hex, None, Writable, "NXM_NX_REG4", "";
    Reg5: "reg5", "", 32, &[(19, 0, 32)], Bitwise, Hex, None, Writable, "NXM_NX_REG5", "";
    Reg6: "reg6", "", 32, &[(20, 32, 32)], Bitwise, Hex, None, Writable, "NXM_NX_REG6", "";
    Reg7: "reg7", "", 32, &[(20, 0, 32)], Bitwise, Hex, None, Writable, "NXM_NX_REG7", "";
    Reg8: "reg8", "", 32, &[(21, 32, 32)], Bitwise, Hex, None, Writable, "NXM_NX_REG8", "";
    Reg9: "reg9", "", 32, &[(21, 0, 32)], Bitwise, Hex, None, Writable, "NXM_NX_REG9", "";
    Reg10: "reg10", "", 32, &[(22, 32, 32)], Bitwise, Hex, None, Writable, "NXM_NX_REG10", "";
    Reg11: "reg11", "", 32, &[(22, 0, 32)], Bitwise, Hex, None, Writable, "NXM_NX_REG11", "";
    Reg12: "reg12", "", 32, &[(23, 32, 32)], Bitwise, Hex, None, Writable, "NXM_NX_REG12", "";
    Reg13: "reg13", "", 32, &[(23, 0, 32)], Bitwise, Hex, None, Writable, "NXM_NX_REG13", "";
    Reg14: "reg14", "", 32, &[(24, 32, 32)], Bitwise, Hex, None, Writable, "NXM_NX_REG14", "";
    Reg15: "reg15", "", 32, &[(24, 0, 32)], Bitwise, Hex, None, Writable, "NXM_NX_REG15", "";
    Xreg0: "xreg0", "", 64, &[(17, 0, 64)], Bitwise, Hex, None, Writable, "", "OXM_OF_PKT_REG0";
    Xreg1: "xreg1", "", 64, &[(18, 0, 64)], Bitwise, Hex, None, Writable, "", "OXM_OF_PKT_REG1";
    Xreg2: "xreg2", "", 64, &[(19, 0, 64)], Bitwise, Hex, None, Writable, "", "OXM_OF_PKT_REG2";
    Xreg3: "xreg3", "", 64, &[(20, 0, 64)], Bitwise, Hex, None, Writable, "", "OXM_OF_PKT_REG3";
    Xreg4: "xreg4", "", 64, &[(21, 0, 64)], Bitwise, Hex, None, Writable, "", "OXM_OF_PKT_REG4";
    Xreg5: "xreg5", "", 64, &[(22, 0, 64)], Bitwise, Hex, None, Writable, "", "OXM_OF_PKT_REG5";
    Xreg6: "xreg6", "", 64, &[(23, 0, 64)], Bitwise, Hex, None, Writable, "", "OXM_OF_PKT_REG6";
    Xreg7: "xreg7", "", 64, &[(24, 0, 64)], Bitwise, Hex, None, Writable, "", "OXM_OF_PKT_REG7";
    Xxreg0: "xxreg0", "", 128, &[(17, 0, 64), (18, 0, 64)], Bitwise, Hex, None, Writable, "NXM_NX_XXREG0", "";
    Xxreg1: "xxreg1", "", 128, &[(19, 0, 64), (20, 0, 64)], Bitwise, Hex, None, Writable, "NXM_NX_XXREG1", "";
    Xxreg2: "xxreg2", "", 128, &[(21, 0, 64), (22, 0, 64)], Bitwise, Hex, None, Writable, "NXM_NX_XXREG2", "";
    Xxreg3: "xxreg3", "", 128, &[(23, 0, 64), (24, 0, 64)], Bitwise, Hex, None, Writable, "NXM_NX_XXREG3", "";
    EthSrc: "eth_src", "dl_src", 48, &[(1, 16, 48)], Bitwise, Mac, Ethernet, Writable, "NXM_OF_ETH_SRC", "OXM_OF_ETH_SRC";
    EthDst: "eth_dst", "dl_dst", 48, &[(0, 16, 48)], Bitwise, Mac, Ethernet, Writable, "NXM_OF_ETH_DST", "OXM_OF_ETH_DST";
    EthType: "eth_type", "dl_type", 16, &[(3, 48, 16)], Whole, Hex, Ethernet, ReadOnly, "NXM_OF_ETH_TYPE", "OXM_OF_ETH_TYPE";
    VlanTci: "vlan_tci", "", 16, &[(1, 0, 16)], Bitwise, Hex, Ethernet, Writable, "NXM_OF_VLAN_TCI", "";
    DlVlan: "dl_vlan", "", 12, &[(1, 0, 12)], Whole, Decimal, Ethernet, Writable, "", "";
    VlanVid: "vlan_vid", "", 13, &[(1, 0, 13)], Bitwise, Decimal, Ethernet, Writable, "", "OXM_OF_VLAN_VID";
    DlVlanPcp: "dl_vlan_pcp", "", 3, &[(1, 13, 3)], Whole, Decimal, Ethernet, Writable, "", "";
    VlanPcp: "vlan_pcp", "", 3, &[(1, 13, 3)], Whole, Decimal, Vlan, Writable, "", "OXM_OF_VLAN_PCP";
    InnerVlanTci: "inner_vlan_tci", "", 16, &[(3, 32, 16)], Bitwise, Hex, Vlan, ReadOnly, "", "";
    MplsLabel: "mpls_label", "", 20, &[(11, 44, 20)], Whole, Decimal, Mpls, Writable, "", "OXM_OF_MPLS_LABEL";
    MplsTc: "mpls_tc", "", 3, &[(11, 41, 3)], Whole, Decimal, Mpls, Writable, "", "OXM_OF_MPLS_TC";
    MplsBos: "mpls_bos", "", 1, &[(11, 40, 1)], Whole, Decimal, Mpls, ReadOnly, "", "OXM_OF_MPLS_BOS";
    MplsTtl: "mpls_ttl", "", 8, &[(11, 32, 8)], Whole, Decimal, Mpls, Writable, "NXM_NX_MPLS_TTL", "";
    IpSrc: "ip_src", "nw_src", 32, &[(5, 0, 32)], Bitwise, Ipv4, Ipv4, Writable, "NXM_OF_IP_SRC", "OXM_OF_IPV4_SRC";
    IpDst: "ip_dst", "nw_dst", 32, &[(7, 0, 32)], Bitwise, Ipv4, Ipv4, Writable, "NXM_OF_IP_DST", "OXM_OF_IPV4_DST";
    Ipv6Src: "ipv6_src", "", 128, &[(4, 0, 64), (5, 0, 64)], Bitwise, Ipv6, Ipv6, Writable, "NXM_NX_IPV6_SRC", "OXM_OF_IPV6_SRC";
    Ipv6Dst: "ipv6_dst", "", 128, &[(6, 0, 64), (7, 0, 64)], Bitwise, Ipv6, Ipv6, Writable, "NXM_NX_IPV6_DST", "OXM_OF_IPV6_DST";
    Ipv6Label: "ipv6_label", "", 20, &[(11, 0, 20)], Bitwise, Hex, Ipv6, Writable, "NXM_NX_IPV6_LABEL", "OXM_OF_IPV6_FLABEL";
    NwProto: "nw_proto", "ip_proto", 8, &[(3, 24, 8)], Whole, Decimal, Ip, ReadOnly, "NXM_OF_IP_PROTO", "OXM_OF_IP_PROTO";
    NwTos: "nw_tos", "", 8, &[(3, 16, 8)], Whole, Decimal, Ip, Writable, "NXM_OF_IP_TOS", "";
    IpDscp: "ip_dscp", "", 6, &[(3, 18, 6)], Whole, Decimal, Ip, Writable, "", "OXM_OF_IP_DSCP";
    NwEcn: "nw_ecn", "ip_ecn", 2, &[(3, 16, 2)], Whole, Decimal, Ip, Writable, "NXM_NX_IP_ECN", "OXM_OF_IP_ECN";
    NwTtl: "nw_ttl", "", 8, &[(3, 8, 8)], Whole, Decimal, Ip, Writable, "NXM_NX_IP_TTL", "";
    IpFrag: "ip_frag", "nw_frag", 2, &[(3, 0, 2)], Bitwise, Frag, Ip, ReadOnly, "NXM_NX_IP_FRAG", "";
    ArpOp: "arp_op", "", 16, &[(3, 24, 8)], Whole, Decimal, Arp, Writable, "NXM_OF_ARP_OP", "OXM_OF_ARP_OP";
    ArpSpa: "arp_spa", "", 32, &[(5, 0, 32)], Bitwise, Ipv4, Arp, Writable, "NXM_OF_ARP_SPA", "OXM_OF_ARP_SPA";
    ArpTpa: "arp_tpa", "", 32, &[(7, 0, 32)], Bitwise, Ipv4, Arp, Writable, "NXM_OF_ARP_TPA", "OXM_OF_ARP_TPA";
    ArpSha: "arp_sha", "", 48, &[(9, 16, 48)], Bitwise, Mac, Arp, Writable, "NXM_NX_ARP_SHA", "OXM_OF_ARP_SHA";
    ArpTha: "arp_tha", "", 48, &[(10, 16, 48)], Bitwise, Mac, Arp, Writable, "NXM_NX_ARP_THA", "OXM_OF_ARP_THA";
    TcpSrc: "tcp_src", "tp_src", 16, &[(8, 48, 16)], Bitwise, Decimal, Tcp, Writable, "NXM_OF_TCP_SRC", "OXM_OF_TCP_SRC";
    TcpDst: "tcp_dst", "tp_dst", 16, &[(8, 32, 16)], Bitwise, Decimal, Tcp, Writable, "NXM_OF_TCP_DST", "OXM_OF_TCP_DST";
    UdpSrc: "udp_src", "", 16, &[(8, 48, 16)], Bitwise, Decimal, Udp, Writable, "NXM_OF_UDP_SRC", "OXM_OF_UDP_SRC";
    UdpDst: "udp_dst", "", 16, &[(8, 32, 16)], Bitwise, Decimal, Udp, Writable, "NXM_OF_UDP_DST", "OXM_OF_UDP_DST";
    SctpSrc: "sctp_src", "", 16, &[(8, 48, 16)], Bitwise, Decimal, Sctp, Writable, "", "OXM_OF_SCTP_SRC";
    SctpDst: "sctp_dst", "", 16, &[(8, 32, 16)], Bitwise, Decimal, Sctp, Writable, "", "OXM_OF_SCTP_DST";
    TcpFlags: "tcp_flags", "", 12, &[(8, 16, 12)], Bitwise, TcpFlags, Tcp, ReadOnly, "NXM_NX_TCP_FLAGS", "OXM_OF_TCP_FLAGS";
    IcmpType: "icmp_type", "", 8, &[(8, 48, 8)], Whole, Decimal, Icmp4, Writable, "NXM_OF_ICMP_TYPE", "OXM_OF_ICMPV4_TYPE";
    IcmpCode: "icmp_code", "", 8, &[(8, 32, 8)], Whole, Decimal, Icmp4, Writable, "NXM_OF_ICMP_CODE", "OXM_OF_ICMPV4_CODE";
    Icmpv6Type: "icmpv6_type", "", 8, &[(8, 48, 8)], Whole, Decimal, Icmp6, Writable, "NXM_NX_ICMPV6_TYPE", "OXM_OF_ICMPV6_TYPE";
    Icmpv6Code: "icmpv6_code", "", 8, &[(8, 32, 8)], Whole, Decimal, Icmp6, Writable, "NXM_NX_ICMPV6_CODE", "OXM_OF_ICMPV6_CODE";
    NdTarget: "nd_target", "", 128, &[(12, 0, 64), (13, 0, 64)], Bitwise, Ipv6, Nd, Writable, "NXM_NX_ND_TARGET", "OXM_OF_IPV6_ND_TARGET";
    NdSll: "nd_sll", "", 48, &[(9, 16, 48)], Bitwise, Mac, NdSolicit, Writable, "NXM_NX_ND_SLL", "OXM_OF_IPV6_ND_SLL";
    NdTll: "nd_tll", "", 48, &[(10, 16, 48)], Bitwise, Mac, NdAdvert, Writable, "NXM_NX_ND_TLL", "OXM_OF_IPV6_ND_TLL";
}

/// Names in experimenters' extensible matches, which fields have besides those of [`Info`].
const MORE_NAMES: [(&str, Field); 2] =
    [("ONFOXM_ET_TCP_FLAGS", Field::TcpFlags), ("NXOXM_ET_DP_HASH", Field::DpHash)];

impl Field {
    /// What is known of it.
    #[inline]
    pub fn info(self) -> &'static Info {
        &INFOS[self as usize]
    }

    /// Its largest value.
    pub fn max(self) -> u128 {
        u128::MAX >> (128 - u32::from(self.info().bits))
    }

    /// The field of that name, alias, or NXM or OXM name.
    pub fn by_name(name: &str) -> Option<Field> {
        static NAMES: OnceLock<HashMap<&'static str, Field>> = OnceLock::new();
        let names = NAMES.get_or_init(|| {
            let names = |field: &Field| {
                let Info { name, alias, nxm, oxm, .. } = *field.info();
                [name, alias, nxm, oxm].map(|name| (name, *field))
            };
            // The first field of a name counts.
            let all = Field::ALL.iter().rev().flat_map(names).filter(|(name, _)| !name.is_empty());
            all.chain(MORE_NAMES).collect()
        });
        names.get(name).copied()
    }

    /// `reg0` to `reg15`.
    pub fn register(number: u8) -> Option<Field> {
        Field::ALL.iter().copied().skip(Field::Reg0 as usize).take(16).nth(usize::from(number))
    }
}

/// Some bits of a field: `NXM_NX_REG0[0..15]`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Subfield {
    /// The field.
    pub field: Field,
    /// Its lowest bit, from 0.
    pub offset: u8,
    /// How many bits, from 1.
    pub bits: u8,
}

impl Subfield {
    /// All of a field.
    pub fn whole(field: Field) -> Subfield {
        Subfield { field, offset: 0, bits: field.info().bits }
    }

    /// Bits `offset` and up of a field; `None` if it hasn't that many.
    pub fn new(field: Field, offset: u8, bits: u8) -> Option<Subfield> {
        let fits = bits > 0 && u16::from(offset) + u16::from(bits) <= u16::from(field.info().bits);
        fits.then_some(Subfield { field, offset, bits })
    }

    /// Its largest value.
    pub fn max(self) -> u128 {
        u128::MAX >> (128 - u32::from(self.bits))
    }

    /// Its value.
    pub fn get(self, fields: &Fields) -> u128 {
        let whole = self.field.info().segments.iter().fold(0, |value: u128, segment| {
            let part = (fields.0[usize::from(segment.word)] & segment.mask()) >> segment.shift;
            value.checked_shl(u32::from(segment.bits)).unwrap_or(0) | u128::from(part)
        });
        whole >> self.offset & self.max()
    }

    /// Gives it a value; higher bits than its width are left out.
    pub fn set(self, fields: &mut Fields, value: u128) {
        let mask = self.max() << self.offset;
        let value = value << self.offset & mask;
        let mut at = 0;
        for segment in self.field.info().segments.iter().rev() {
            let part = |whole: u128| ((whole >> at) as u64) << segment.shift & segment.mask();
            let word = &mut fields.0[usize::from(segment.word)];
            *word = *word & !part(mask) | part(value);
            at += u32::from(segment.bits);
        }
    }

    /// Its bits, set in otherwise empty fields.
    pub fn mask(self) -> Fields {
        let mut fields = Fields::default();
        self.set(&mut fields, u128::MAX);
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::WORDS;
    use proptest::prelude::*;

    #[test]
    fn every_field_lies_within_its_words_and_has_its_own_name() {
        for &field in Field::ALL {
            let info = field.info();
            assert_eq!(Field::by_name(info.name), Some(field), "{}", info.name);
            let lies = info.segments.iter().map(|segment| u32::from(segment.bits)).sum::<u32>();
            let narrower = [Field::InPortOxm, Field::ArpOp, Field::CtState].contains(&field);
            assert!(lies == u32::from(info.bits) || narrower, "{}", info.name);
            for segment in info.segments {
                assert!(
                    usize::from(segment.word) < WORDS && segment.shift + segment.bits <= 64,
                    "{}",
                    info.name
                );
            }
        }
    }

    #[test]
    fn registers_overlap_as_open_vswitch_has_them() {
        let mut fields = Fields::default();
        Subfield::whole(Field::Xxreg0).set(&mut fields, 0x1111_1111_2222_2222_3333_3333_4444_4444);
        let get = |field| Subfield::whole(field).get(&fields);
        assert_eq!(
            [Field::Reg0, Field::Reg1, Field::Reg2, Field::Reg3].map(get),
            [0x1111_1111, 0x2222_2222, 0x3333_3333, 0x4444_4444]
        );
        assert_eq!(get(Field::Xreg1), 0x3333_3333_4444_4444);
        assert_eq!(Field::register(15), Some(Field::Reg15));
        assert_eq!(Field::register(16), None);
    }

    proptest! {
        #[test]
        fn what_is_set_is_read_and_nothing_else_changes(at in 0..Field::ALL.len(), value: u128, offset: u8, bits: u8, old: u64) {
            let field = Field::ALL[at];
            let lies = field.info().segments.iter().map(|segment| segment.bits).sum::<u8>();
            let offset = offset % lies;
            let part = Subfield::new(field, offset, bits % (lies - offset) + 1).unwrap();
            let before = Fields([old; WORDS]);
            let mut after = before;
            part.set(&mut after, value);
            prop_assert_eq!(part.get(&after), value & part.max());
            let mask = part.mask();
            for ((before, after), mask) in before.0.iter().zip(after.0).zip(mask.0) {
                prop_assert_eq!(before & !mask, after & !mask);
            }
        }
    }
}
