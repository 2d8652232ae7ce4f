//! Writing matches as `ovs-ofctl` does: its order, its shorthands, its forms of numbers.

use weft_wire::OfPort;

use super::flags::Flags;
use super::number;
use super::port::{self, PortNames};
use super::value;
use crate::field::{Field, Format, Subfield};
use crate::fields::Fields;
use crate::matching::Match;

/// A match, taken apart.
struct Printer<'a> {
    out: &'a mut String,
    mask: Fields,
    value: Fields,
    ports: &'a dyn PortNames,
}

/// How a number with or without a mask is written.
#[derive(Clone, Copy)]
enum Style {
    /// Decimal; hexadecimal with its mask.
    Port,
    /// Hexadecimal.
    Hex,
}

/// Writes the match, each setting followed by a comma.
pub(super) fn print(out: &mut String, matches: &Match, ports: &dyn PortNames) {
    let mut printer = Printer { out, mask: matches.mask(), value: matches.value(), ports };
    printer.metadata();
    let (eth_type, proto) = (printer.known(Field::EthType), printer.known(Field::NwProto));
    let said = printer.protocol(eth_type, proto);
    printer.registers();
    printer.tunnel();
    printer.masked("metadata", Field::Metadata, Style::Hex);
    printer.port("in_port", Field::InPort);
    printer.tags();
    printer.formatted("dl_src", Field::EthSrc);
    printer.formatted("dl_dst", Field::EthDst);
    if let (false, Some(eth_type)) = (said.eth_type, eth_type) {
        printer.name("dl_type");
        number::hex_padded(printer.out, eth_type, 4);
        printer.out.push(',');
    }
    // Of a packet that is no Ethernet frame, the type says what is in it.
    let inner = printer.known(Field::PacketType).filter(|kind| kind >> 16 == 1);
    let eth_type = eth_type.or(inner.map(|kind| kind & 0xffff));
    printer.network(eth_type, (!said.proto).then_some(proto).flatten());
    printer.mpls();
    printer.formatted("nw_frag", Field::IpFrag);
    printer.transport(eth_type, proto);
}

/// What the shorthand has said.
struct Said {
    eth_type: bool,
    proto: bool,
}

impl Printer<'_> {
    fn bits(&self, field: Field) -> (u128, u128) {
        let whole = Subfield::whole(field);
        match whole.get(&self.mask) {
            0 => (0, 0),
            mask => (whole.get(&self.value), mask),
        }
    }

    /// A field's value, if it is matched on.
    fn known(&self, field: Field) -> Option<u128> {
        let (value, mask) = self.bits(field);
        (mask != 0).then_some(value)
    }

    fn name(&mut self, name: &str) {
        self.out.push_str(name);
        self.out.push('=');
    }

    /// A field as actions write it.
    fn formatted(&mut self, name: &str, field: Field) {
        let (value, mask) = self.bits(field);
        if mask != 0 {
            self.name(name);
            value::print(self.out, field, (value, mask), self.ports);
            self.out.push(',');
        }
    }

    /// A field in decimal, whatever its format.
    fn decimal(&mut self, name: &str, field: Field) {
        if let Some(value) = self.known(field) {
            self.name(name);
            number::decimal(self.out, value);
            self.out.push(',');
        }
    }

    fn masked(&mut self, name: &str, field: Field, style: Style) {
        let (value, mask) = self.bits(field);
        if mask == 0 {
            return;
        }
        self.name(name);
        let exact = mask == field.max();
        match style {
            Style::Port if exact => number::decimal(self.out, value),
            // Ports with a mask have 0x0 for nothing, where other numbers have 0.
            Style::Port => number::hex_padded(self.out, value, 1),
            Style::Hex => number::hex(self.out, value),
        }
        if !exact {
            self.out.push('/');
            number::hex(self.out, mask);
        }
        self.out.push(',');
    }

    fn port(&mut self, name: &str, field: Field) {
        if let Some(port) = self.known(field) {
            self.name(name);
            port::print(self.out, OfPort(port as u16), self.ports);
            self.out.push(',');
        }
    }

    fn flags(&mut self, name: &str, field: Field, format: Format) {
        let (value, mask) = self.bits(field);
        if let (Some(flags), true) = (Flags::of(format), mask != 0) {
            self.name(name);
            // The tunnel has more flags than rules can say.
            match format {
                Format::TunFlags => flags.print_signed(self.out, value, mask),
                _ => flags.print(self.out, value, mask),
            }
            self.out.push(',');
        }
    }

    fn metadata(&mut self) {
        self.masked("pkt_mark", Field::PktMark, Style::Hex);
        self.masked("recirc_id", Field::RecircId, Style::Hex);
        self.masked("dp_hash", Field::DpHash, Style::Hex);
        self.decimal("conj_id", Field::ConjId);
        self.port("actset_output", Field::ActsetOutput);
        self.flags("ct_state", Field::CtState, Format::CtState);
        self.masked("ct_zone", Field::CtZone, Style::Port);
        self.masked("ct_mark", Field::CtMark, Style::Hex);
        self.masked("ct_label", Field::CtLabel, Style::Hex);
        self.formatted("ct_nw_src", Field::CtNwSrc);
        self.formatted("ct_ipv6_src", Field::CtIpv6Src);
        self.formatted("ct_nw_dst", Field::CtNwDst);
        self.formatted("ct_ipv6_dst", Field::CtIpv6Dst);
        self.decimal("ct_nw_proto", Field::CtNwProto);
        self.masked("ct_tp_src", Field::CtTpSrc, Style::Port);
        self.masked("ct_tp_dst", Field::CtTpDst, Style::Port);
        if let Some(kind) = self.known(Field::PacketType) {
            self.name("packet_type");
            value::print_packet_type(self.out, kind);
            self.out.push(',');
        }
    }

    /// The shorthand for EtherType and protocol, if there is one.
    fn protocol(&mut self, eth_type: Option<u128>, proto: Option<u128>) -> Said {
        let (word, proto) = match (eth_type, proto) {
            (Some(0x0800), Some(1)) => ("icmp,", true),
            (Some(0x0800), Some(6)) => ("tcp,", true),
            (Some(0x0800), Some(17)) => ("udp,", true),
            (Some(0x0800), Some(132)) => ("sctp,", true),
            (Some(0x0800), _) => ("ip,", false),
            (Some(0x86dd), Some(58)) => ("icmp6,", true),
            (Some(0x86dd), Some(6)) => ("tcp6,", true),
            (Some(0x86dd), Some(17)) => ("udp6,", true),
            (Some(0x86dd), Some(132)) => ("sctp6,", true),
            (Some(0x86dd), _) => ("ipv6,", false),
            (Some(0x0806), _) => ("arp,", false),
            (Some(0x8035), _) => ("rarp,", false),
            (Some(0x8847), _) => ("mpls,", false),
            (Some(0x8848), _) => ("mplsm,", false),
            _ => return Said { eth_type: false, proto: false },
        };
        self.out.push_str(word);
        Said { eth_type: true, proto }
    }

    fn registers(&mut self) {
        for number in 0..16 {
            if let Some(register) = Field::register(number) {
                self.masked(register.info().name, register, Style::Hex);
            }
        }
    }

    fn tunnel(&mut self) {
        self.masked("tun_id", Field::TunId, Style::Hex);
        self.formatted("tun_src", Field::TunSrc);
        self.formatted("tun_dst", Field::TunDst);
        self.formatted("tun_ipv6_src", Field::TunIpv6Src);
        self.formatted("tun_ipv6_dst", Field::TunIpv6Dst);
        self.masked("tun_gbp_id", Field::TunGbpId, Style::Port);
        self.masked("tun_gbp_flags", Field::TunGbpFlags, Style::Hex);
        self.flags("tun_flags", Field::TunFlags, Format::TunFlags);
    }

    /// The VLAN tags: by name where whole parts of a tag are matched, else as they lie in the packet.
    fn tags(&mut self) {
        let (value, mask) = self.bits(Field::VlanTci);
        let (vid, pcp, present) = (mask & 0xfff, mask & 0xe000, mask & value & 0x1000 != 0);
        let whole_parts = [0, 0xfff].contains(&vid) && [0, 0xe000].contains(&pcp) && mask != 0x1000;
        if mask != 0 && present && whole_parts {
            if vid != 0 {
                self.name("dl_vlan");
                number::decimal(self.out, value & 0xfff);
                self.out.push(',');
            }
            if pcp != 0 {
                self.name("dl_vlan_pcp");
                number::decimal(self.out, value >> 13);
                self.out.push(',');
            }
        } else {
            self.tag("vlan_tci", value, mask);
        }
        let (value, mask) = self.bits(Field::InnerVlanTci);
        self.tag("inner_vlan_tci", value, mask);
    }

    fn tag(&mut self, name: &str, value: u128, mask: u128) {
        if mask == 0 {
            return;
        }
        self.name(name);
        number::hex_padded(self.out, value, 4);
        if mask != 0xffff {
            self.out.push('/');
            number::hex_padded(self.out, mask, 4);
        }
        self.out.push(',');
    }

    fn network(&mut self, eth_type: Option<u128>, proto: Option<u128>) {
        let arp = matches!(eth_type, Some(0x0806 | 0x8035));
        match eth_type {
            Some(0x86dd) => {
                self.formatted("ipv6_src", Field::Ipv6Src);
                self.formatted("ipv6_dst", Field::Ipv6Dst);
                self.flow_label();
            }
            _ if arp => {
                self.formatted("arp_spa", Field::ArpSpa);
                self.formatted("arp_tpa", Field::ArpTpa);
            }
            _ => {
                self.formatted("nw_src", Field::IpSrc);
                self.formatted("nw_dst", Field::IpDst);
            }
        }
        if let Some(proto) = proto {
            self.name(if arp { "arp_op" } else { "nw_proto" });
            number::decimal(self.out, proto);
            self.out.push(',');
        }
        if arp {
            self.formatted("arp_sha", Field::ArpSha);
            self.formatted("arp_tha", Field::ArpTha);
        }
        if let Some(dscp) = self.known(Field::IpDscp) {
            self.name("nw_tos");
            number::decimal(self.out, dscp << 2);
            self.out.push(',');
        }
        self.decimal("nw_ecn", Field::NwEcn);
        self.decimal("nw_ttl", Field::NwTtl);
    }

    fn flow_label(&mut self) {
        let (value, mask) = self.bits(Field::Ipv6Label);
        if mask == 0 {
            return;
        }
        self.name("ipv6_label");
        number::hex_padded(self.out, value, 5);
        if mask != Field::Ipv6Label.max() {
            self.out.push('/');
            number::hex_padded(self.out, mask, 5);
        }
        self.out.push(',');
    }

    fn mpls(&mut self) {
        self.decimal("mpls_label", Field::MplsLabel);
        self.decimal("mpls_tc", Field::MplsTc);
        self.decimal("mpls_ttl", Field::MplsTtl);
        self.decimal("mpls_bos", Field::MplsBos);
    }

    fn transport(&mut self, eth_type: Option<u128>, proto: Option<u128>) {
        let icmp6 = (eth_type, proto) == (Some(0x86dd), Some(58));
        if icmp6 || (eth_type, proto) == (Some(0x0800), Some(1)) {
            self.decimal("icmp_type", Field::IcmpType);
            self.decimal("icmp_code", Field::IcmpCode);
        } else {
            self.masked("tp_src", Field::TcpSrc, Style::Port);
            self.masked("tp_dst", Field::TcpDst, Style::Port);
        }
        if icmp6 {
            self.formatted("nd_target", Field::NdTarget);
            self.formatted("nd_sll", Field::NdSll);
            self.formatted("nd_tll", Field::NdTll);
        }
        if proto == Some(6) {
            self.flags("tcp_flags", Field::TcpFlags, Format::TcpFlags);
        }
    }
}
