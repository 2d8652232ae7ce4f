//! First packets of connections between ports of groups do as the first of their kind did, and no more than that.

use weft_conntrack::Timeout;

use super::*;
use packet::{ACK, Body, Inside, SYN, View};

const TOML: &str = r#"
[[bridge]]
name = "br0"
port = [
  { name = "a0", type = "null", acl = "web", port_security = "MAC0 10.0.0.1" },
  { name = "a1", type = "null", acl = "web", port_security = "MAC1 10.0.0.2" },
  { name = "a2", type = "null" },
  { name = "a3", type = "null" },
]

[[bridge]]
name = "br1"
port = [{ name = "b0", type = "null" }, { name = "b1", type = "null" }, { name = "b2", type = "null" }]

[[acl.group]]
name = "web"
rule = [
  { direction = "ingress", protocol = "udp", ports = "53-60", remote = "web" },
  { direction = "ingress", protocol = "tcp", ports = "80", remote = "web" },
  { direction = "ingress", protocol = "icmp", icmp = "8", remote = "web" },
  RULE
  { direction = "egress" },
]
"#;

/// From outside all may come to that port.
const OPEN: &str = "{ direction = \"ingress\", protocol = \"tcp\", ports = \"443\" },";

/// The ports, and the VLAN of all.
const A0: usize = 0;
const A1: usize = 1;
const A2: usize = 2;
const VLAN: u16 = 10;

fn configured(rule: &str, base: &Config) -> Config {
    let toml =
        [("MAC0", 1), ("MAC1", 2)].into_iter().fold(TOML.replace("RULE", rule), |toml, (word, number)| {
            toml.replace(word, &mac(number).to_string())
        });
    Config::from_toml(&toml, "test").unwrap().complete(base).unwrap()
}

fn world(rule: &str) -> World {
    let mut world = World::new(1, &mut Dice(1));
    let config = configured(rule, &world.words.config);
    world.apply(config);
    world
}

impl World {
    /// How many packets have begun a connection as others had before them.
    pub fn begun(&self) -> u64 {
        self.rig.datapath.counters().map(|counters| counters.worker.begun.get()).sum()
    }

    /// How many of these packets begin a connection as others had before them.
    fn begin(&mut self, from: usize, packets: impl Iterator<Item = Packet>) -> u64 {
        let before = self.begun();
        packets.for_each(|packet| self.send((from, VLAN, packet)));
        self.begun() - before
    }

    fn timeouts(&self) -> Vec<(Timeout, u32)> {
        let second = self.rig.now.as_secs() as u32 + 1;
        let mut timeouts: Vec<(Timeout, u32)> = Vec::new();
        let mut note = |timeout| match timeouts.iter_mut().find(|(known, _)| *known == timeout) {
            Some((_, count)) => *count += 1,
            None => timeouts.push((timeout, 1)),
        };
        let connections = self.rig.datapath.connections();
        connections.list(&Filter::default(), second, &mut |connection| note(connection.timeout));
        timeouts
    }
}

fn sent((from, to): (usize, usize), protocol: u8, ports: [u16; 2], inside: Inside) -> Packet {
    let addresses = [from, to].map(|port| 0x0a00_0001 + port as u128);
    let view = View { six: false, protocol, addresses, ports, icmp: (8, 0), id: ports[0] };
    let [source, destination] = [from, to].map(|port| mac(port as u8 + 1));
    Packet { source, destination, body: Body::Ip(view, inside) }
}

fn udp(ports: [u16; 2]) -> Packet {
    sent((A0, A1), 17, ports, Inside::Plain)
}

fn tcp(ports: [u16; 2], flags: u8) -> Packet {
    sent((A0, A1), 6, ports, Inside::Segment(flags))
}

#[test]
fn between_two_guarded_ports_the_second_begins_as_the_first() {
    let mut world = world("");
    assert_eq!(world.begin(A0, (30_000..30_050).map(|port| udp([port, 53]))), 49);
    // Both ports' rules have asked for it.
    assert_eq!(world.timeouts(), [(Timeout::UdpSingle, 50)]);
    assert_eq!(world.rig.datapath.connections().zones(), [(u16::from(ZONES[0]) << 12 | VLAN, 50)]);
    assert_eq!(world.begin(A0, (30_000..30_050).map(|port| udp([port, 53]))), 0, "they have begun");
    // Some rule asks for that port: clients of DHCP have it.
    assert_eq!(world.begin(A0, [69, 68, 70].map(|port| udp([port, 54])).into_iter()), 1);
    // Of ports that rules know, each is a kind; those behind them are one, though the receiver refuses it.
    assert_eq!(world.begin(A0, (55..65).map(|port| udp([40_000, port]))), 3);
    assert_eq!(world.timeouts(), [(Timeout::UdpSingle, 63)]);
    // Answers are established.
    world.send((A1, VLAN, sent((A1, A0), 17, [53, 30_007], Inside::Plain)));
    assert!(world.timeouts().contains(&(Timeout::UdpMultiple, 1)));
    world.rig.check_counters();
}

#[test]
fn a_syn_begins_as_others_and_what_is_met_in_midstream_walks() {
    let mut world = world("");
    assert_eq!(world.begin(A0, (30_000..30_020).map(|port| tcp([port, 80], SYN))), 19);
    assert_eq!(world.timeouts(), [(Timeout::TcpSynSent, 20)]);
    // The receiver's rules see it established: it is the second that they ask for.
    assert_eq!(world.begin(A0, (31_000..31_020).map(|port| tcp([port, 80], ACK))), 0);
    assert_eq!(world.begin(A0, (32_000..32_020).map(|port| tcp([port, 80], SYN))), 20);
    let ping = |id| sent((A0, A1), 1, [id, 0], Inside::Plain);
    assert_eq!(world.begin(A0, (1..20).map(ping)), 18);
}

#[test]
fn addresses_that_no_rule_knows_are_one_kind_and_one_that_becomes_known_is_not() {
    let mut world = world(OPEN);
    let from = |address: u128, port: u16| {
        let mut packet = sent((A2, A1), 6, [30_000, port], Inside::Segment(SYN));
        if let Body::Ip(view, _) = &mut packet.body {
            view.addresses[0] = address;
        }
        packet
    };
    let strangers = 0xc633_6400..0xc633_6420u128;
    assert_eq!(world.begin(A2, strangers.clone().map(|address| from(address, 443))), 31);
    assert_eq!(world.begin(A2, strangers.clone().map(|address| from(address, 80))), 0, "refused");
    // One of them becomes a member: it may more than the others.
    let friend = strangers.start + 40;
    let joined = configured(OPEN, &world.words.config);
    let joined = joined.apply(&[weft_config::Change::AclMemberAdd {
        group: weft_config::value::Value::parse("web").unwrap(),
        member: weft_config::value::Value::parse("198.51.100.40").unwrap(),
    }]);
    world.apply(joined.unwrap());
    world.send((A2, VLAN, from(friend, 80)));
    world.send((A2, VLAN, from(friend + 1, 80)));
    // The survey of the rules is made anew.
    world.words.wait(1);
    world.rig.wait(1);
    assert!(world.begin(A2, (0..32).map(|more| from(friend + 2 + more, 443))) > 29);
    world.send((A2, VLAN, from(friend, 443)));
    // The rule goes: who hasn't begun yet doesn't any more.
    let closed = configured("", &world.words.config);
    world.apply(closed);
    assert_eq!(world.begin(A2, (0..8).map(|more| from(friend + 100 + more, 443))), 0);
    world.again();
}
