//! A packet in one line, from its first octets: addresses, and what its headers say, as tcpdump(1) puts it.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    ArpPacketSlice, EtherType, IpNumber, LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, LinkSlice, TcpSlice,
    TransportSlice,
};
use weft_wire::Mac;

/// The line for a packet of `length` octets that begins with `data`.
pub(super) fn line(data: &[u8], length: usize) -> String {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(data) else {
        return format!("{} octets, too short for Ethernet", data.len());
    };
    let mut text = String::new();
    let mut ether_type = EtherType(0);
    if let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link {
        let (source, destination) = (Mac(ethernet.source()), Mac(ethernet.destination()));
        let _ = write!(text, "{source} > {destination}");
        ether_type = ethernet.ether_type();
    }
    for tag in &packet.link_exts {
        if let LaxLinkExtSlice::Vlan(tag) = tag {
            let (vid, priority) = (tag.vlan_identifier().value(), tag.priority_code_point().value());
            let _ = write!(text, ", vlan {vid}");
            let _ = if priority > 0 { write!(text, " p {priority}") } else { Ok(()) };
            ether_type = tag.ether_type();
        }
    }
    text.push_str(", ");
    text.push_str(&network(&packet, ether_type));
    let _ = write!(text, ", length {length}");
    text
}

fn network(packet: &LaxSlicedPacket<'_>, ether_type: EtherType) -> String {
    let transport = packet.transport.as_ref();
    match &packet.net {
        Some(LaxNetSlice::Arp(arp)) => of_arp(arp),
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let ends = [header.source_addr().to_string(), header.destination_addr().to_string()];
            let offset = u32::from(header.fragments_offset().value()) * 8;
            let fragment = if header.is_fragmenting_payload() {
                format!(" (fragment of {:#06x} at {offset})", header.identification())
            } else {
                String::new()
            };
            format!("IPv4{fragment} {}", of_transport(&ends, transport, ip.payload_ip_number()))
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let address = |octets: [u8; 16]| Ipv6Addr::from(octets).to_string();
            let ends = [address(header.source()), address(header.destination())];
            let fragment = if ip.payload().fragmented { " (fragment)" } else { "" };
            format!("IPv6{fragment} {}", of_transport(&ends, transport, ip.payload().ip_number))
        }
        None => format!("EtherType {:#06x}", ether_type.0),
    }
}

fn of_arp(arp: &ArpPacketSlice<'_>) -> String {
    let address = |octets: &[u8]| {
        <[u8; 4]>::try_from(octets).map_or("?".to_owned(), |octets| Ipv4Addr::from(octets).to_string())
    };
    let (sender, target) = (address(arp.sender_protocol_addr()), address(arp.target_protocol_addr()));
    match arp.operation().0 {
        1 => format!("ARP who-has {target} tell {sender}"),
        2 => {
            let mac =
                <[u8; 6]>::try_from(arp.sender_hw_addr()).map_or("?".to_owned(), |mac| Mac(mac).to_string());
            format!("ARP {sender} is-at {mac}")
        }
        other => format!("ARP operation {other}, {sender} to {target}"),
    }
}

fn of_transport(
    [from, to]: &[String; 2],
    transport: Option<&TransportSlice<'_>>,
    number: IpNumber,
) -> String {
    match transport {
        Some(TransportSlice::Tcp(tcp)) => {
            format!("{from}.{} > {to}.{}: TCP {}", tcp.source_port(), tcp.destination_port(), of_tcp(tcp))
        }
        Some(TransportSlice::Udp(udp)) => {
            let payload = udp.length().saturating_sub(8);
            format!("{from}.{} > {to}.{}: UDP, {payload} octets", udp.source_port(), udp.destination_port())
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            format!("{from} > {to}: ICMP {}", of_icmp(icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8()))
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            format!(
                "{from} > {to}: ICMPv6 {}",
                of_icmpv6((icmp.type_u8(), icmp.code_u8()), icmp.bytes5to8(), icmp.payload())
            )
        }
        Some(TransportSlice::Igmp(_)) => format!("{from} > {to}: IGMP"),
        None => format!("{from} > {to}: protocol {}", number.0),
    }
}

fn of_tcp(tcp: &TcpSlice<'_>) -> String {
    let flags = [
        (tcp.syn(), 'S'),
        (tcp.fin(), 'F'),
        (tcp.rst(), 'R'),
        (tcp.psh(), 'P'),
        (tcp.urg(), 'U'),
        (tcp.ece(), 'E'),
        (tcp.cwr(), 'W'),
        (tcp.ack(), '.'),
    ];
    let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, letter)| letter).collect();
    let flags = if flags.is_empty() { "none".to_owned() } else { flags };
    let ack = if tcp.ack() { format!(", ack {}", tcp.acknowledgment_number()) } else { String::new() };
    format!("[{flags}], seq {}{ack}, win {}", tcp.sequence_number(), tcp.window_size())
}

/// RFC 792
fn of_icmp(kind: u8, code: u8, rest: [u8; 4]) -> String {
    match (kind, code) {
        (8, 0) => format!("echo request, {}", of_echo(rest)),
        (0, 0) => format!("echo reply, {}", of_echo(rest)),
        (3, 0) => "network unreachable".to_owned(),
        (3, 1) => "host unreachable".to_owned(),
        (3, 3) => "port unreachable".to_owned(),
        (3, 4) => format!("fragmentation needed, MTU {}", u16::from_be_bytes([rest[2], rest[3]])),
        (11, _) => "time exceeded".to_owned(),
        _ => format!("type {kind}, code {code}"),
    }
}

/// RFC 4443, RFC 4861
fn of_icmpv6((kind, code): (u8, u8), rest: [u8; 4], payload: &[u8]) -> String {
    let target =
        || payload.first_chunk::<16>().map_or("?".to_owned(), |octets| Ipv6Addr::from(*octets).to_string());
    match kind {
        1 => "destination unreachable".to_owned(),
        2 => format!("packet too big, MTU {}", u32::from_be_bytes(rest)),
        3 => "time exceeded".to_owned(),
        128 => format!("echo request, {}", of_echo(rest)),
        129 => format!("echo reply, {}", of_echo(rest)),
        133 => "router solicitation".to_owned(),
        134 => "router advertisement".to_owned(),
        135 => format!("neighbour solicitation for {}", target()),
        136 => format!("neighbour advertisement of {}", target()),
        _ => format!("type {kind}, code {code}"),
    }
}

fn of_echo([a, b, c, d]: [u8; 4]) -> String {
    format!("id {}, seq {}", u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

#[cfg(test)]
mod tests {
    use super::line;
    use etherparse::PacketBuilder;

    const ENDS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

    fn start() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
        PacketBuilder::ethernet2(ENDS.0, ENDS.1)
    }

    fn shown(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut frame = Vec::new();
        write(&mut frame);
        let text = line(&frame[..frame.len().min(128)], frame.len());
        let start = "02:00:00:00:00:01 > 02:00:00:00:00:02, ";
        text.strip_prefix(start).map_or(text.clone(), str::to_owned)
    }

    #[test]
    fn packets_are_told_in_one_line() {
        let (one, two) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let ping = start().ipv4(one, two, 64).icmpv4_echo_request(5, 1);
        assert_eq!(
            shown(|out| ping.write(out, &[0; 56]).unwrap_or_default()),
            "IPv4 10.0.0.1 > 10.0.0.2: ICMP echo request, id 5, seq 1, length 98"
        );
        let syn = start().ipv4(one, two, 64).tcp(40000, 80, 7, 1000).syn();
        assert_eq!(
            shown(|out| syn.write(out, &[]).unwrap_or_default()),
            "IPv4 10.0.0.1.40000 > 10.0.0.2.80: TCP [S], seq 7, win 1000, length 54"
        );
        let tagged = start().single_vlan(etherparse::VlanId::ZERO).ipv6([1; 16], [2; 16], 64).udp(1, 2);
        assert_eq!(
            shown(|out| tagged.write(out, &[0; 1000]).unwrap_or_default()),
            "vlan 0, IPv6 101:101:101:101:101:101:101:101.1 > 202:202:202:202:202:202:202:202.2: UDP, 1000 octets, length 1066"
        );
        let arp =
            [&ENDS.1[..], &ENDS.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &ENDS.0, &one, &[0; 6], &two].concat();
        assert_eq!(shown(|out| out.extend(&arp)), "ARP who-has 10.0.0.2 tell 10.0.0.1, length 42");
    }

    #[test]
    fn whatever_is_cut_off_or_broken_is_told_as_far_as_it_goes() {
        assert_eq!(line(&[1, 2, 3], 3), "3 octets, too short for Ethernet");
        let packet = start().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(1, 2, 3, 4);
        let mut frame = Vec::new();
        packet.write(&mut frame, &[0; 10]).unwrap_or_default();
        for length in 0..frame.len() {
            let text = line(&frame[..length], frame.len());
            assert!(!text.contains('\n') && !text.is_empty());
        }
        let mut noise = frame.clone();
        for at in 12..noise.len() {
            for value in [0, 0x0f, 0x45, 0x60, 0xff] {
                noise[at] = value;
                assert!(!line(&noise, noise.len()).is_empty());
            }
            noise[at] = frame[at];
        }
    }
}
