//! A thousand ports in fifty security groups, as `weftctl acl` compiles them, and two of the ports that talk.
//!
//! Each group lets in TCP and UDP to a range of ports from its own members, and to other ranges from those of one other
//! group; the addresses that a port may send from are its own. So each first packet is held against the sender's rules
//! and the receiver's, and both ask in which group the other side is.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use etherparse::PacketBuilder;
use weft_config::Config;
use weft_core::key::PortId;
use weft_core::snapshot::PortSpec;
use weft_core::tables::FlowTables;
use weft_core::vlan::{VlanMode, VlanSet};
use weft_daemon::acl::{Compiled, guard, units};
use weft_wire::Mac;

use crate::Failure;
use crate::case::{self, IN, OUT};

/// How many ports the bridge has.
pub const PORTS: u16 = 1000;
/// How many of them are in one group.
const PER_GROUP: u16 = 20;
/// The uppermost bits of the bridge's zones.
const ZONES: u8 = 15;
/// The first port that servers listen on, and how many do; the groups' rules open them.
const LISTENING: (u16, u32) = (5000, 16);
/// Octets of payload in a frame of 60: of UDP, and of TCP.
const PAYLOADS: [&[u8]; 2] = [&[0; 18], &[0; 6]];
/// First sequence numbers of the two ends of a TCP connection.
const ENDS: [u32; 2] = [0x1000, 0x9000];

/// What the connections carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// Whether the port that the first of them talks to is in a group as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Far {
    /// It is: sender's and receiver's rules count.
    Guarded,
    /// It isn't, as an uplink: the sender's rules count.
    Open,
}

/// NORMAL, and what the groups are compiled to.
pub fn flows(far: Far) -> Result<Arc<FlowTables>, Failure> {
    let config = config(far)?;
    let bridge = config.bridges.first().ok_or("no bridge")?;
    let (flows, mut compiled) = (FlowTables::normal(), Compiled::default());
    let units = units(&config, bridge, ZONES, &mut compiled.numbering);
    let changes = compiled.become_units(units, &flows.load());
    flows.prepare(&changes.now, Duration::ZERO)?.commit();
    Ok(flows)
}

/// The bridge's ports: [`IN`], [`OUT`], and all others.
pub fn ports(far: Far) -> Result<Vec<PortSpec>, Failure> {
    let config = config(far)?;
    let ports = config.bridges.iter().flat_map(|bridge| &bridge.ports).zip(0..).map(|(port, id)| {
        let everything = VlanMode::Trunk(VlanSet::all());
        PortSpec { guard: guard(port), ..case::port(PortId(id), port.name.as_str(), everything) }
    });
    Ok(ports.collect())
}

fn config(far: Far) -> Result<Config, Failure> {
    Ok(Config::from_toml(&toml(far), "groups")?.complete(&Config::default())?)
}

/// The Ethernet address of a port.
pub fn mac(port: PortId) -> Mac {
    let [high, low] = port.0.to_be_bytes();
    Mac([2, 0, 0, 0, high, low])
}

/// Its IP address.
fn address(port: PortId) -> [u8; 4] {
    let [high, low] = port.0.to_be_bytes();
    [10, 0, high, low]
}

/// The configuration.
fn toml(far: Far) -> String {
    let mut toml = String::from("[[bridge]]\nname = \"br0\"\n");
    // Writing into a String does not fail.
    for id in 0..PORTS {
        let _ = write!(toml, "[[bridge.port]]\nname = \"p{id}\"\ntype = \"null\"\nofport = {}\n", id + 1);
        if PortId(id) != OUT || far == Far::Guarded {
            let [a, b, c, d] = address(PortId(id));
            let (group, mac) = (id / PER_GROUP, mac(PortId(id)));
            let _ = writeln!(toml, "acl = \"g{group}\"\nport_security = \"{mac} {a}.{b}.{c}.{d}\"");
        }
    }
    let groups = PORTS / PER_GROUP;
    for group in 0..groups {
        let _ = write!(toml, "[[acl.group]]\nname = \"g{group}\"\nrule = [");
        let other = (group + 1) % groups;
        let _ = write!(toml, "{{ direction = \"ingress\", protocol = \"tcp\", ports = \"22\" }},");
        for (protocol, ports, remote) in [
            ("tcp", "5000-6000", group),
            ("udp", "5000-6000", group),
            ("tcp", "80-443", other),
            ("udp", "3300-3400", other),
        ] {
            let _ = write!(
                toml,
                "{{ direction = \"ingress\", protocol = \"{protocol}\", ports = \"{ports}\", remote = \"g{remote}\" }},"
            );
        }
        let _ = writeln!(
            toml,
            "{{ direction = \"egress\" }}, {{ direction = \"egress\", ethertype = \"ipv6\" }}]"
        );
    }
    toml
}

/// What a packet of a TCP connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Segment {
    /// The first of its end.
    Syn,
    /// Data, once both have been heard.
    Data,
}

/// The packets of `connections` connections, one of each: what comes in by one port.
fn packets(from: PortId, connections: u32, protocol: Protocol, segment: Segment) -> Vec<Vec<u8>> {
    (0..connections).map(|number| packet(from, number, protocol, segment)).collect()
}

fn packet(from: PortId, number: u32, protocol: Protocol, segment: Segment) -> Vec<u8> {
    let is_client = from == IN;
    let to = if is_client { OUT } else { IN };
    let client = 1024 + (number / LISTENING.1) as u16;
    let server = LISTENING.0 + (number % LISTENING.1) as u16;
    let (source, destination) = if is_client { (client, server) } else { (server, client) };
    let builder = PacketBuilder::ethernet2(mac(from).0, mac(to).0).ipv4(address(from), address(to), 64);
    let mut frame = Vec::with_capacity(60);
    // Writing into a Vec does not fail.
    let _ = match protocol {
        Protocol::Udp => builder.udp(source, destination).write(&mut frame, PAYLOADS[0]),
        Protocol::Tcp => {
            let [own, others] = if is_client { ENDS } else { [ENDS[1], ENDS[0]] };
            let (seq, ack) = if segment == Segment::Syn { (own, 0) } else { (own + 1, others + 1) };
            let builder = builder.tcp(source, destination, seq, u16::MAX);
            match (segment, is_client) {
                (Segment::Syn, true) => builder.syn().write(&mut frame, &[]),
                (Segment::Syn, false) => builder.syn().ack(others + 1).write(&mut frame, &[]),
                (Segment::Data, _) => builder.psh().ack(ack).write(&mut frame, PAYLOADS[1]),
            }
        }
    };
    frame.resize(60, 0);
    frame
}

/// What comes in by [`IN`] (from clients) or by [`OUT`] (from servers): once, before, and then over and over.
pub fn talk(from: PortId, connections: u32, protocol: Protocol) -> [Vec<Vec<u8>>; 2] {
    let before = match protocol {
        Protocol::Udp => Vec::new(),
        Protocol::Tcp => packets(from, connections, protocol, Segment::Syn),
    };
    [before, packets(from, connections, protocol, Segment::Data)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_its_rules_and_what_it_sends_is_its_own() {
        let flows = flows(Far::Guarded).unwrap();
        println!("{} rules", flows.load().len());
        assert!(flows.load().len() > 10 * usize::from(PORTS));
        let ports = ports(Far::Open).unwrap();
        assert_eq!(ports.len(), usize::from(PORTS));
        assert!(ports.iter().all(|port| port.guard.to == (port.id != OUT)));
        let frames = talk(IN, 40, Protocol::Tcp);
        assert!(frames.iter().flatten().all(|frame| frame.len() == 60 && frame[26..30] == address(IN)));
    }
}
