//! What the rules do to packets, on real tables, by the walk that workers run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_config::value::Value;
use weft_core::datapath::Datapath;
use weft_core::fdb::Fdb;
use weft_core::key::{KeyMask, PortId};
use weft_core::pipeline::trace::Silent;
use weft_core::pipeline::{Occasion, walk};
use weft_core::snapshot::{BridgeId, BridgeSpec, Model, PortKind, PortSpec};
use weft_core::tables::FlowTables;
use weft_core::trace::{Description, Names};
use weft_core::verdict::Verdict;
use weft_core::vlan::{PriorityTags, VlanMode};
use weft_core::worker::Worker;
use weft_flow::text::{self, FlowLine, NoNames, parse_match};
use weft_io::FramePool;

use super::*;

mod matching;

/// A bridge whose ports are those of a configuration.
struct Lab {
    config: Config,
    compiled: Compiled,
    flows: Arc<FlowTables>,
    datapath: Datapath,
    _workers: Vec<Worker>,
}

impl Lab {
    fn new(toml: &str) -> Lab {
        let pool = FramePool::new(FramePool::MIN_FRAMES).unwrap();
        let (datapath, workers) = Datapath::new(pool, 1).unwrap();
        let flows = FlowTables::normal();
        let compiled = Compiled::default();
        let mut lab = Lab { config: Config::default(), compiled, flows, datapath, _workers: workers };
        lab.apply(config(toml));
        lab
    }

    /// The switch's way: what changes at once, the model, rules that go later. How many rules were touched.
    fn apply(&mut self, config: Config) -> usize {
        self.apply_watched(config, |_| {})
    }

    /// The same, and a look at it in between.
    fn apply_watched(&mut self, config: Config, look: impl Fn(&Lab)) -> usize {
        self.config = config;
        let bridge = &self.config.bridges[0];
        let next = units(&self.config, bridge, 15, &mut self.compiled.numbering);
        let changes = self.compiled.become_units(next, &self.flows.load());
        self.flows.prepare(&changes.now, Duration::ZERO).unwrap().commit();
        look(self);
        self.datapath.publish(self.model()).unwrap();
        look(self);
        self.flows.prepare(&changes.later, Duration::ZERO).unwrap().commit();
        self.datapath.publish(self.model()).unwrap();
        changes.len()
    }

    fn model(&self) -> Model {
        let secret = [1, 2];
        let known = self.datapath.model().bridges.first().map(|bridge| Arc::clone(&bridge.fdb));
        let fdb =
            known.unwrap_or_else(|| Arc::new(Fdb::new(&self.datapath.shared().epochs, 100, secret).unwrap()));
        let bridge = BridgeSpec {
            id: BridgeId(0),
            name: "br0".into(),
            fdb,
            forward_reserved: false,
            vnis: Vec::new(),
            flows: Arc::clone(&self.flows),
        };
        let ports = self.config.bridges[0].ports.iter().enumerate().map(|(at, port)| PortSpec {
            id: PortId(at as u16),
            ofport: port.ofport.unwrap(),
            name: port.name.as_str().into(),
            bridge: Some(BridgeId(0)),
            vlan: VlanMode::Access(weft_wire::Vid::NONE),
            priority_tags: PriorityTags::Never,
            protected: false,
            up: true,
            guard: guard(port),
            kind: PortKind::Device,
        });
        Model { bridges: vec![bridge], ports: ports.collect(), ..Model::default() }
    }

    /// Where a packet goes, or what it is dropped for.
    fn sends(&self, port: &str, packet: &str) -> String {
        let snapshot = self.datapath.shared().published.load();
        let bridge = snapshot.bridge(BridgeId(0)).unwrap();
        let names = Names { snapshot: &snapshot, bridge };
        // To everybody: what is learned doesn't matter.
        let packet = format!("{packet},dl_dst=ff:ff:ff:ff:ff:ff");
        let matches = parse_match(&packet, &names).unwrap_or_else(|error| panic!("{packet}: {error}"));
        let in_port = text::PortNames::number(&names, port);
        let description = Description { bridge, in_port, matches: &matches, frame: None };
        let occasion = Occasion {
            snapshot: &snapshot,
            key: &description.key(&snapshot).unwrap(),
            packet: None,
            connections: self.datapath.connections(),
            second: 1,
            now: Duration::from_secs(1),
            whole: None,
            effects: true,
        };
        let mut verdict = Verdict::default();
        walk(occasion, &mut verdict, &mut Silent);
        let copies = verdict.emits().filter_map(|emit| snapshot.port(emit.port)).map(|port| &*port.spec.name);
        let copies: Vec<&str> = copies.collect();
        match verdict.drop.filter(|_| copies.is_empty()) {
            Some(reason) => reason.to_string(),
            None => copies.join(" "),
        }
    }

    fn mask(&self, port: usize) -> KeyMask {
        self.datapath.shared().published.load().port(PortId(port as u16)).unwrap().mask
    }

    fn text(&self) -> String {
        print(&self.compiled)
    }
}

fn config(toml: &str) -> Config {
    Config::from_toml(toml, "test").unwrap().complete(&Config::default()).unwrap()
}

fn print(compiled: &Compiled) -> String {
    let line = |rule: &&OwnRule| {
        let line = FlowLine {
            table: rule.place.table.0,
            priority: rule.place.priority,
            matches: &rule.place.matches,
            cookie: rule.cookie.number(),
            idle_timeout: 0,
            hard_timeout: 0,
            importance: 0,
            flags: Default::default(),
            actions: &rule.actions,
        };
        format!("{}\n", text::print_flow(line, None, &NoNames))
    };
    compiled.rules().iter().map(line).collect()
}

const PORTS: &str = r#"
[[bridge]]
name = "br0"
port = [
  { name = "vm1", type = "null", acl = "web", port_security = "02:00:00:00:00:01 10.0.0.1,02:00:00:00:00:01 2001:db8::1,02:00:00:00:00:11 10.1.0.0/24" },
  { name = "vm2", type = "null", acl = "db,web", acl_multicast = true },
  { name = "vm3", type = "null" },
  { name = "vm4", type = "null", port_security = "02:00:00:00:00:04" },
]
"#;

const GROUPS: &str = r#"
[[acl.group]]
name = "web"
members = ["10.9.0.0/16"]
rule = [
  { direction = "ingress", protocol = "tcp", ports = "80-81", stateless = true },
  { direction = "egress", protocol = "udp", remote = "db", stateless = true },
  { direction = "egress", ethertype = "ipv6", protocol = "icmpv6", icmp = "128", stateless = true },
]

[[acl.group]]
name = "db"
members = ["10.0.0.2", "10.9.1.0/24"]
rule = [
  { direction = "ingress", remote = "web", stateless = true },
  { direction = "ingress", protocol = "icmp", icmp = "8/0", remote = "192.0.2.0/24", stateless = true },
  { direction = "egress", stateless = true },
]
"#;

const V1: &str = "dl_src=02:00:00:00:00:01";

#[test]
fn port_security_stops_what_is_not_the_ports_own() {
    let lab = Lab::new(&format!("{PORTS}{GROUPS}"));
    let everyone = "vm2 vm3 vm4";
    let local = "fe80::ff:fe00:1";
    for (packet, outcome) in [
        ("dl_src=02:00:00:00:00:02,arp,arp_spa=10.0.0.1", "spoofed_mac"),
        (&*format!("{V1},arp,arp_op=1,arp_sha=02:00:00:00:00:01,arp_spa=10.0.0.1"), everyone),
        (&format!("{V1},arp,arp_op=1,arp_sha=02:00:00:00:00:01,arp_spa=0.0.0.0"), everyone),
        (&format!("{V1},arp,arp_op=2,arp_sha=02:00:00:00:00:01,arp_spa=10.0.0.2"), "spoofed_arp"),
        (&format!("{V1},arp,arp_op=2,arp_sha=02:00:00:00:00:02,arp_spa=10.0.0.1"), "spoofed_arp"),
        // The network belongs to the other address.
        (&format!("{V1},arp,arp_op=1,arp_sha=02:00:00:00:00:01,arp_spa=10.1.0.7"), "spoofed_arp"),
        ("dl_src=02:00:00:00:00:11,arp,arp_op=1,arp_sha=02:00:00:00:00:11,arp_spa=10.1.0.7", everyone),
        (&format!("{V1},udp,nw_src=10.0.0.9,nw_dst=10.0.0.2,tp_dst=53"), "spoofed_ip"),
        (&format!("{V1},udp,nw_src=10.0.0.1,nw_dst=10.0.0.2,tp_dst=53"), everyone),
        (&format!("{V1},udp,nw_src=0.0.0.0,nw_dst=255.255.255.255,tp_src=68,tp_dst=67"), "vm3 vm4"),
        (&format!("{V1},udp,nw_src=10.0.0.1,nw_dst=255.255.255.255,tp_src=68,tp_dst=67"), everyone),
        (&format!("{V1},udp,nw_src=10.0.0.1,nw_dst=10.0.0.2,tp_src=67,tp_dst=68"), "rogue_dhcp"),
        (&format!("{V1},udp6,ipv6_src={local},tp_src=547,tp_dst=546"), "rogue_dhcpv6"),
        (&format!("{V1},udp6,ipv6_src={local},tp_src=546,tp_dst=547"), "vm3 vm4"),
        (&format!("{V1},icmp6,ipv6_src={local},icmp_type=134,icmp_code=0"), "rogue_ra"),
        (&format!("{V1},icmp6,ipv6_src=2001:db8::2,icmp_type=135,icmp_code=0"), "spoofed_ip"),
        (&format!("{V1},icmp6,ipv6_src=::,icmp_type=135,icmp_code=0,nd_target=2001:db8::1"), everyone),
        (&format!("{V1},icmp6,ipv6_src={local},icmp_type=133,icmp_code=0"), "vm3 vm4"),
        (
            &format!("{V1},icmp6,ipv6_src=2001:db8::1,icmp_type=135,icmp_code=0,nd_sll=02:00:00:00:00:01"),
            everyone,
        ),
        (
            &format!("{V1},icmp6,ipv6_src=2001:db8::1,icmp_type=135,icmp_code=0,nd_sll=02:00:00:00:00:02"),
            "spoofed_nd",
        ),
        (
            &format!("{V1},icmp6,ipv6_src=2001:db8::1,icmp_type=136,icmp_code=0,nd_target=2001:db8::1"),
            everyone,
        ),
        (
            &format!("{V1},icmp6,ipv6_src={local},icmp_type=136,icmp_code=0,nd_target=2001:db8::2"),
            "spoofed_nd",
        ),
        (
            &format!(
                "{V1},icmp6,ipv6_src={local},icmp_type=136,icmp_code=0,nd_target={local},nd_tll=02:00:00:00:00:02"
            ),
            "spoofed_nd",
        ),
        // No group permits it, whoever sends it.
        (&format!("{V1},dl_type=0x88cc"), "acl_egress"),
        (&format!("{V1},icmp6,ipv6_src=2001:db8::1,icmp_type=143"), "acl_egress"),
    ] {
        assert_eq!(lab.sends("vm1", packet), outcome, "{packet}");
    }
    // Without groups, whatever comes from the address may pass: to those who may get it.
    for (packet, outcome) in [
        ("dl_src=02:00:00:00:00:04,dl_type=0x88cc", "vm3"),
        ("dl_src=02:00:00:00:00:04,ip,nw_src=1.2.3.4", "vm3"),
        ("dl_src=02:00:00:00:00:04,udp,tp_src=67,tp_dst=68", "rogue_dhcp"),
        ("dl_src=02:00:00:00:00:04,arp,arp_sha=02:00:00:00:00:04,arp_spa=1.2.3.4", "vm1 vm2 vm3"),
        ("dl_src=02:00:00:00:00:05,arp", "spoofed_mac"),
    ] {
        assert_eq!(lab.sends("vm4", packet), outcome, "{packet}");
    }
}

#[test]
fn stateless_rules_permit_their_direction_and_nothing_else() {
    let lab = Lab::new(&format!("{PORTS}{GROUPS}"));
    for (from, packet, outcome) in [
        ("vm3", "tcp,nw_src=1.1.1.1,tp_dst=80", "vm1 vm2 vm4"),
        ("vm3", "tcp,nw_src=1.1.1.1,tp_dst=81", "vm1 vm2 vm4"),
        ("vm3", "tcp,nw_src=1.1.1.1,tp_dst=82", "vm4"),
        ("vm3", "udp,nw_src=1.1.1.1,tp_dst=80", "vm4"),
        ("vm3", "tcp6,tp_dst=80", "vm4"),
        ("vm3", "arp", "vm1 vm2 vm4"),
        ("vm3", "udp,tp_src=67,tp_dst=68", "vm1 vm2 vm4"),
        ("vm3", "icmp6,icmp_type=134", "vm1 vm2 vm4"),
        // vm2 is of both groups: members of web are its own, and the ports' addresses.
        ("vm3", "udp,nw_src=10.0.0.1,tp_dst=9", "vm2 vm4"),
        ("vm3", "udp,nw_src=10.1.0.200,tp_dst=9", "vm2 vm4"),
        ("vm3", "udp,nw_src=10.9.200.1,tp_dst=9", "vm2 vm4"),
        ("vm3", "udp,nw_src=10.9.1.1,tp_dst=9", "vm2 vm4"),
        ("vm3", "udp,nw_src=10.0.0.2,tp_dst=9", "vm4"),
        ("vm3", "icmp,nw_src=192.0.2.9,icmp_type=8,icmp_code=0", "vm2 vm4"),
        ("vm3", "icmp,nw_src=192.0.2.9,icmp_type=8,icmp_code=1", "vm4"),
        ("vm3", "icmp,nw_src=192.0.3.9,icmp_type=8,icmp_code=0", "vm4"),
        // IGMP and MLD, where the port says so.
        ("vm3", "ip,nw_proto=2", "vm2 vm4"),
        ("vm3", "icmp6,icmp_type=130", "vm2 vm4"),
        ("vm2", "ip,nw_proto=2", "vm3 vm4"),
        ("vm2", "ip,nw_src=1.2.3.4", "vm3 vm4"),
        ("vm2", "ipv6", "acl_egress"),
        ("vm1", &format!("{V1},udp,nw_src=10.0.0.1,nw_dst=10.9.1.7"), "vm2 vm3 vm4"),
        ("vm1", &format!("{V1},udp,nw_src=10.0.0.1,nw_dst=10.9.2.7"), "acl_egress"),
        ("vm1", &format!("{V1},tcp,nw_src=10.0.0.1,nw_dst=10.9.1.7"), "acl_egress"),
        ("vm1", &format!("{V1},icmp6,ipv6_src=2001:db8::1,icmp_type=128"), "vm3 vm4"),
    ] {
        assert_eq!(lab.sends(from, packet), outcome, "{from}: {packet}");
    }
}

#[test]
fn members_and_rules_that_come_and_go_count_at_once_and_touch_only_their_own_rules() {
    let toml = format!("{PORTS}{GROUPS}");
    let mut lab = Lab::new(&toml);
    let from_new = |lab: &Lab| lab.sends("vm3", "udp,nw_src=10.8.0.1,tp_dst=9");
    assert_eq!(from_new(&lab), "vm4");
    // Two rules: as a source, and as a destination.
    let joined = config(&toml.replacen("10.9.0.0/16", "10.9.0.0/16\", \"10.8.0.1", 1));
    assert_eq!(lab.apply(joined), 2);
    assert_eq!(from_new(&lab), "vm2 vm4");
    assert_eq!(lab.apply(config(&toml)), 2);
    assert_eq!(from_new(&lab), "vm4");
    // A second port of the same groups brings nothing but itself.
    let more = toml.replacen(
        "  { name = \"vm3\"",
        "  { name = \"vm9\", type = \"null\", acl = \"web,db\", acl_multicast = true },\n  { name = \"vm3\"",
        1,
    );
    let mut more = config(&more);
    more.bridges[0]
        .ports
        .iter_mut()
        .zip(["1", "2", "9", "3", "4"])
        .for_each(|(port, number)| port.ofport = Some(Value::parse(number).unwrap()));
    assert_eq!(lab.apply(more), 2);
    // A rule goes, though another one says part of the same.
    let less = toml.replacen(
        "  { direction = \"ingress\", protocol = \"tcp\", ports = \"80-81\", stateless = true },\n",
        "",
        1,
    );
    lab.apply(config(&less));
    assert_eq!(lab.sends("vm3", "tcp,nw_src=1.1.1.1,tp_dst=80"), "vm4");
    lab.apply(config(PORTS.replace("acl = \"web\", ", "").replace("acl = \"db,web\", ", "").as_str()));
    assert_eq!(lab.sends("vm3", "tcp,nw_src=1.1.1.1,tp_dst=82"), "vm1 vm2 vm4");
    lab.apply(config("[[bridge]]\nname = \"br0\"\nport = [{ name = \"vm3\", type = \"null\" }]"));
    assert!(lab.compiled.is_empty());
    assert_eq!(lab.flows.load().len(), 1);
    assert!(lab.mask(0).is_narrow());
}

#[test]
fn only_packets_of_guarded_ports_are_read_for_what_they_claim() {
    let open = "[[bridge]]\nname = \"br0\"\nport = [{ name = \"vm1\", type = \"null\", port_security = \"02:00:00:00:00:01 10.0.0.1\" }, { name = \"vm3\", type = \"null\" }]";
    let lab = Lab::new(open);
    assert!(!lab.mask(0).is_narrow() && lab.mask(1).is_narrow());
    // What is to leave by a port of groups is read, but for ARP's and neighbours' addresses.
    let lab = Lab::new(&format!("{PORTS}{GROUPS}"));
    let (guarded, other) = (lab.mask(0), lab.mask(2));
    for mask in [guarded, other] {
        assert!(mask.0[8] != 0 && mask.width() == weft_core::key::Width::Middle, "{mask:?}");
    }
}

const STATEFUL: &str = r#"
[[bridge]]
name = "br0"
port = [
  { name = "vm1", type = "null", acl = "web", acl_egress = "open", port_security = "02:00:00:00:00:01 10.0.0.1" },
  { name = "vm2", type = "null", acl = "web,old" },
]

[[acl.group]]
name = "web"
rule = [
  { direction = "ingress", protocol = "tcp", ports = "80-81" },
  { direction = "ingress", protocol = "icmp", icmp = "8" },
  { direction = "egress", protocol = "udp", ports = "53", remote = "web" },
  { direction = "egress", ethertype = "ipv6", remote = "2001:db8::/32" },
]

[[acl.group]]
name = "old"
rule = [{ direction = "ingress", protocol = "tcp", ports = "80" }, { direction = "ingress", protocol = "sctp", stateless = true }]
"#;

/// Packets of one connection: there, and back.
const ASKS: &str = "dl_src=02:00:00:00:00:01,udp,nw_src=10.0.0.1,nw_dst=10.0.0.3,tp_src=5000,tp_dst=53";
const TELLS: &str = "udp,nw_src=10.0.0.3,nw_dst=10.0.0.1,tp_src=53,tp_dst=5000";

#[test]
fn answers_pass_and_nothing_else_that_nobody_asked_for() {
    let mut toml = STATEFUL.replace(
        "]\n\n[[acl.group]]\nname = \"web\"",
        "  { name = \"vm3\", type = \"null\" },\n]\n\n[[acl.group]]\nname = \"web\"",
    );
    let mut lab = Lab::new(&toml);
    assert_eq!(lab.sends("vm3", TELLS), "acl_ingress");
    assert_eq!(lab.sends("vm1", ASKS), "vm3");
    assert_eq!(lab.sends("vm3", TELLS), "vm1");
    assert_eq!(lab.sends("vm1", ASKS), "vm3");
    assert_eq!(lab.sends("vm3", &TELLS.replace("tp_dst=5000", "tp_dst=5001")), "acl_ingress");
    // Of a VLAN's ports, each goes by its own rules.
    assert_eq!(lab.sends("vm2", "udp,nw_src=10.0.0.2,nw_dst=10.0.0.3,tp_src=7,tp_dst=53"), "acl_egress");
    // What is not permitted any more stops, both ways, though it is established.
    toml = toml.replace("acl_egress = \"open\", ", "");
    lab.apply(config(&toml));
    assert_eq!(lab.sends("vm3", TELLS), "acl_ingress");
    assert_eq!(lab.sends("vm1", ASKS), "acl_egress");
    let ping = |there: bool| match there {
        true => "icmp,nw_src=10.0.0.3,nw_dst=10.0.0.1,icmp_type=8,icmp_code=0",
        false => "dl_src=02:00:00:00:00:01,icmp,nw_src=10.0.0.1,nw_dst=10.0.0.3,icmp_type=0,icmp_code=0",
    };
    assert_eq!(lab.sends("vm1", ping(false)), "acl_invalid");
    assert_eq!(lab.sends("vm3", ping(true)), "vm1 vm2");
    assert_eq!(lab.sends("vm1", ping(false)), "vm3");
    lab.apply(config(
        &toml.replace("  { direction = \"ingress\", protocol = \"icmp\", icmp = \"8\" },\n", ""),
    ));
    assert_eq!(lab.sends("vm1", ping(false)), "acl_egress");
    assert_eq!(lab.sends("vm3", ping(true)), "acl_ingress");
}

#[test]
fn a_member_that_leaves_takes_its_connections_along() {
    let toml = |members: &str| {
        format!(
            r#"
[[bridge]]
name = "br0"
port = [{{ name = "vm1", type = "null", acl = "web" }}, {{ name = "vm2", type = "null", acl = "web" }}, {{ name = "vm3", type = "null" }}]
[[acl.group]]
name = "friends"
members = [{members}]
[[acl.group]]
name = "web"
rule = [
  {{ direction = "ingress", protocol = "tcp", ports = "80", remote = "friends" }},
  {{ direction = "egress", protocol = "udp", remote = "friends" }},
]
"#
        )
    };
    let friends = toml("\"10.0.0.3\"");
    let mut lab = Lab::new(&friends);
    let syn = "tcp,nw_src=10.0.0.3,nw_dst=10.0.0.1,tp_src=4000,tp_dst=80,tcp_flags=syn";
    let answer = "tcp,nw_src=10.0.0.1,nw_dst=10.0.0.3,tp_src=80,tp_dst=4000,tcp_flags=syn|ack";
    let ack = "tcp,nw_src=10.0.0.3,nw_dst=10.0.0.1,tp_src=4000,tp_dst=80,tcp_flags=ack";
    let back = "tcp,nw_src=10.0.0.1,nw_dst=10.0.0.3,tp_src=80,tp_dst=4000,tcp_flags=ack";
    let (asks, tells) = (ASKS.trim_start_matches("dl_src=02:00:00:00:00:01,"), TELLS);
    assert_eq!(lab.sends("vm1", asks), "vm3");
    assert_eq!(lab.sends("vm3", syn), "vm1 vm2");
    for _ in 0..2 {
        for (from, packet, passes) in [
            ("vm1", answer, "vm3"),
            ("vm3", ack, "vm1 vm2"),
            ("vm1", back, "vm3"),
            ("vm1", asks, "vm3"),
            ("vm3", tells, "vm1"),
        ] {
            assert!(lab.sends(from, packet).contains(passes.split(' ').next().unwrap()), "{packet}");
        }
        // It leaves; and is back.
        assert_eq!(lab.apply(config(&toml(""))), 7);
        for (from, packet, reason) in [
            ("vm3", ack, "acl_ingress"),
            ("vm1", back, "acl_egress"),
            ("vm1", asks, "acl_egress"),
            ("vm3", tells, "acl_ingress"),
        ] {
            assert_eq!(lab.sends(from, packet), reason, "{packet}");
        }
        lab.apply(config(&friends));
    }
}

/// A port that others reach by what is said, and one without a guard.
fn two_ports(acl: &str, rest: &str) -> Config {
    let ports = format!(
        "port = [{{ name = \"vm1\", type = \"null\", {acl} }}, {{ name = \"vm3\", type = \"null\" }}]"
    );
    config(&format!("[[bridge]]\nname = \"br0\"\n{ports}\n{rest}"))
}

#[test]
fn a_rule_about_a_code_that_no_query_has_lets_no_answer_pass() {
    let ask = "icmp,nw_src=10.0.0.3,nw_dst=10.0.0.1,icmp_type=8,icmp_code=0";
    let answer = "icmp,nw_src=10.0.0.1,nw_dst=10.0.0.3,icmp_type=0,icmp_code=0";
    let mut lab = Lab::new("[[bridge]]\nname = \"br0\"\n");
    let mut rules = two_ports(
        "acl = \"web\"",
        "[[acl.group]]\nname = \"web\"\nrule = [{ direction = \"ingress\", protocol = \"icmp\", icmp = \"8\" }]",
    );
    lab.apply(rules.clone());
    assert_eq!(lab.sends("vm3", ask), "vm1");
    // The last two are refused where users say them.
    for (icmp, outcome) in [("8", "vm3"), ("8/0", "vm3"), ("8/3", "acl_egress"), ("0", "acl_egress")] {
        rules.acl.groups[0].rules[0].icmp = Value::parse(icmp).ok();
        lab.apply(rules.clone());
        assert_eq!(lab.sends("vm1", answer), outcome, "{icmp}");
    }
}

#[test]
fn while_members_and_rules_change_together_nothing_passes_that_neither_what_was_nor_what_is_permits() {
    let groups = |member: &str, remote: &str| {
        let rule = |protocol: &str, remote: &str| {
            format!(
                "{{ direction = \"ingress\", protocol = \"{protocol}\", remote = \"{remote}\", stateless = true }}"
            )
        };
        // Who the friends are is asked for in any case.
        let web = format!(
            "[[acl.group]]\nname = \"web\"\nrule = [{}, {}]\n",
            rule("tcp", "friends"),
            rule("udp", remote)
        );
        let friends = format!("[[acl.group]]\nname = \"friends\"\nmembers = [\"{member}\", \"10.0.0.7\"]\n");
        two_ports("acl = \"web\"", &format!("{web}{friends}"))
    };
    let packet = "udp,nw_src=10.0.0.3,nw_dst=10.0.0.1,tp_src=1,tp_dst=2";
    let mut lab = Lab::new("[[bridge]]\nname = \"br0\"\n");
    let refused = |lab: &Lab| assert_eq!(lab.sends("vm3", packet), "acl_ingress");
    // The address comes as the rule goes, and goes as another comes.
    lab.apply(groups("10.0.0.9", "friends"));
    refused(&lab);
    lab.apply_watched(groups("10.0.0.3", "10.0.0.8"), refused);
    lab.apply_watched(groups("10.0.0.9", "friends"), refused);
    // A number that a class of addresses had is not at once another's.
    let classes = |friend: &str, other: &str| {
        let rule = "{ direction = \"ingress\", protocol = \"udp\", remote = \"friends\", stateless = true }";
        let more = "{ direction = \"ingress\", protocol = \"tcp\", remote = \"others\", stateless = true }";
        let web = format!("[[acl.group]]\nname = \"web\"\nrule = [{rule}, {more}]\n");
        let friends = format!("[[acl.group]]\nname = \"friends\"\nmembers = [{friend}]\n");
        two_ports(
            "acl = \"web\"",
            &format!("{web}{friends}[[acl.group]]\nname = \"others\"\nmembers = [{other}]\n"),
        )
    };
    for _ in 0..3 {
        lab.apply_watched(classes("", "\"10.0.0.3\""), refused);
        lab.apply_watched(classes("\"10.0.0.7\"", ""), refused);
    }
}

#[test]
fn while_rules_come_and_go_nothing_passes_that_is_permitted_neither_before_nor_after() {
    let toml = |vm1: &str, vm2: &str, friends: &str, others: &str| {
        format!(
            r#"
[[bridge]]
name = "br0"
port = [{{ name = "vm1", type = "null", {vm1} }}, {{ name = "vm2", type = "null", {vm2} }}, {{ name = "vm3", type = "null" }}]
[[acl.group]]
name = "friends"
members = [{friends}]
[[acl.group]]
name = "others"
members = [{others}]
[[acl.group]]
name = "ssh"
rule = [{{ direction = "ingress", protocol = "tcp", ports = "22" }}, {{ direction = "ingress", protocol = "tcp", ports = "443", remote = "friends" }}]
[[acl.group]]
name = "web"
rule = [{{ direction = "ingress", protocol = "tcp", ports = "80" }}, {{ direction = "ingress", protocol = "tcp", ports = "8080", remote = "others" }}]
"#
        )
    };
    let syn = |last: u8, port: u16| {
        format!("tcp,nw_src=10.0.0.{last},nw_dst=10.0.0.2,tp_src=4000,tp_dst={port},tcp_flags=syn")
    };
    // A port's groups become another's.
    let mut lab = Lab::new(&toml("acl = \"ssh\"", "acl = \"others\"", "", ""));
    assert_eq!(lab.sends("vm3", &syn(3, 22)), "vm1");
    let reaches = |lab: &Lab, packet: &str| lab.sends("vm3", packet).contains("vm2");
    lab.apply_watched(config(&toml("acl = []", "acl = \"web\"", "", "")), |lab| {
        assert!(!reaches(lab, &syn(3, 22)), "the groups of vm2 have never permitted it");
    });
    assert!(reaches(&lab, &syn(3, 80)));
    // A member goes, and another comes elsewhere.
    let bound = "acl = [\"ssh\", \"web\"]";
    let mut lab = Lab::new(&toml("acl = []", bound, "\"10.0.0.7\"", ""));
    assert_eq!(lab.sends("vm3", &syn(7, 443)), "vm1 vm2");
    lab.apply_watched(config(&toml("acl = []", bound, "", "\"10.0.0.8\"")), |lab| {
        assert!(!reaches(lab, &syn(8, 443)), "10.0.0.8 has never been a friend");
    });
    assert!(reaches(&lab, &syn(8, 8080)));
}

#[test]
fn a_bridge_that_takes_anothers_place_does_not_share_the_zones_of_a_third() {
    let bridge = |number: usize, acl: &str| {
        format!(
            "[[bridge]]\nname = \"br{number}\"\nport = [{{ name = \"vm{number}\", type = \"null\", acl = {acl} }}]\n"
        )
    };
    let all = |acl_of_first: &str, numbers: std::ops::RangeInclusive<usize>| {
        let first = bridge(*numbers.start(), acl_of_first);
        let others: String = numbers.skip(1).map(|number| bridge(number, "\"web\"")).collect();
        config(&format!("{first}{others}[[acl.group]]\nname = \"web\"\n"))
    };
    let zones_of = |acl: &Acl, config: &Config| {
        let of = |bridge: &Bridge| (bridge.name.clone(), acl.zones(bridge, config));
        config.bridges.iter().map(of).collect::<Vec<_>>()
    };
    let mut acl = Acl::default();
    let before = all("\"web\"", 1..=15);
    for bridge in &before.bridges {
        let zones = acl.zones(bridge, &before);
        acl.bridges.insert(bridge.name.clone(), Guarded { zones, ..Guarded::default() });
    }
    let known = zones_of(&acl, &before);
    assert_eq!(known.iter().map(|(_, zones)| *zones).collect::<BTreeSet<_>>(), (1..=15).collect());
    // br1 goes, or is left without groups, and br16 comes.
    for after in [all("\"web\"", 2..=16), all("[]", 1..=16)] {
        let zones = zones_of(&acl, &after);
        let used: Vec<u8> = zones.iter().map(|(_, zones)| *zones).filter(|zones| *zones != 0).collect();
        assert_eq!(used.iter().collect::<BTreeSet<_>>().len(), 15, "{zones:?}");
        assert_eq!(zones.last().unwrap().1, known[0].1);
    }
}

#[test]
fn ports_that_are_both_guarded_share_a_connection() {
    let toml = STATEFUL
        .replace(", acl_egress = \"open\"", "")
        .replace("port_security = \"02:00:00:00:00:01 10.0.0.1\"", "acl_multicast = false");
    let toml = toml.replace("remote = \"web\" }", "remote = \"10.0.0.0/24\" }, { direction = \"ingress\", protocol = \"udp\", ports = \"53\", remote = \"10.0.0.1\" }");
    let lab = Lab::new(&toml);
    let (asks, tells) = (
        "udp,nw_src=10.0.0.1,nw_dst=10.0.0.2,tp_src=5000,tp_dst=53",
        "udp,nw_src=10.0.0.2,nw_dst=10.0.0.1,tp_src=53,tp_dst=5000",
    );
    for _ in 0..3 {
        assert_eq!(lab.sends("vm1", asks), "vm2");
        assert_eq!(lab.sends("vm2", tells), "vm1");
    }
    assert_eq!(lab.sends("vm2", &tells.replace("tp_dst=5000", "tp_dst=5001")), "acl_egress");
    assert_eq!(lab.datapath.connections().zones(), [(0xf000, 1)]);
}

/// `WEFT_BLESS=1 cargo test -p weft-daemon` writes the expected file anew.
#[test]
fn rules_are_compiled_as_expected() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/acl/golden.txt");
    let text = Lab::new(STATEFUL).text();
    if std::env::var_os("WEFT_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap(), "see {path}");
}

/// A configuration out of a number.
fn random(seed: u64) -> Config {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |limit: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % limit
    };
    let mut toml = String::from("[[bridge]]\nname = \"br0\"\n");
    let names = ["a", "b", "c"];
    for port in 0..below(5) {
        let groups: Vec<&str> = names.into_iter().filter(|_| below(2) == 0).collect();
        let (open, ip) = (if below(3) == 0 { "open" } else { "deny" }, below(4));
        let pairs = if below(2) == 0 { String::new() } else { format!("02:00:00:00:00:01 10.0.0.{ip}") };
        toml += &format!(
            "[[bridge.port]]\nname = \"p{port}\"\ntype = \"null\"\nacl = \"{}\"\nacl_egress = \"{open}\"\nport_security = \"{pairs}\"\n",
            groups.join(",")
        );
    }
    for name in names {
        let members: Vec<String> =
            (0..4).filter(|_| below(2) == 0).map(|host| format!("\"10.0.0.{host}\"")).collect();
        let nets: Vec<String> =
            (8..11).filter(|_| below(3) == 0).map(|bits| format!("\"10.0.0.0/{bits}\"")).collect();
        toml += &format!(
            "[[acl.group]]\nname = \"{name}\"\nmembers = [{}]\n",
            [members, nets].concat().join(",")
        );
        let mut seen = BTreeSet::new();
        for _ in 0..below(6) {
            let direction = ["ingress", "egress"][below(2) as usize];
            let remote = ["any", "a", "b", "10.0.0.0/8"][below(4) as usize];
            let (first, more) = (1 + below(6), below(4));
            let stateless = below(3) == 0;
            let rule = format!(
                "direction = \"{direction}\"\nprotocol = \"tcp\"\nports = \"{first}-{}\"\nremote = \"{remote}\"\nstateless = {stateless}\n",
                first + more
            );
            if seen.insert(rule.clone()) {
                toml += &format!("[[acl.group.rule]]\n{rule}");
            }
        }
    }
    config(&toml)
}

#[test]
fn whatever_came_before_the_tables_have_what_the_configuration_asks_for() {
    let mut compiled = Compiled::default();
    let flows = FlowTables::new();
    for seed in 1..400 {
        let config = random(seed);
        let next = units(&config, &config.bridges[0], 15, &mut compiled.numbering);
        let mut fresh = Compiled::default();
        let all = fresh.become_units(next.clone(), &FlowTables::new().load());
        assert!(all.later.is_empty());
        let changes = compiled.become_units(next, &flows.load());
        flows.prepare(&[changes.now, changes.later].concat(), Duration::ZERO).unwrap().commit();
        // Who stands first where several rules meet may differ; places and actions don't.
        let bare = |compiled: &Compiled| -> Vec<(rules::Place, Box<[weft_flow::Action]>)> {
            compiled.rules().iter().map(|rule| (rule.place.clone(), rule.actions.clone())).collect()
        };
        assert_eq!(bare(&compiled), bare(&fresh), "seed {seed}");
        let tables = flows.load();
        assert_eq!(tables.len(), fresh.len(), "seed {seed}");
        for rule in compiled.rules() {
            let found = tables.rule(rule.place.table, rule.place.priority, &rule.place.matches);
            let found = found.map(|found| (found.cookie, &*found.actions));
            assert_eq!(found, Some((rule.cookie.number(), &*rule.actions)), "seed {seed}");
        }
    }
}

/// 1,000 ports in 50 groups of 20, each with rules that name groups; and one group with 1,000 members.
fn large() -> Config {
    let mut toml = String::from("[[bridge]]\nname = \"br0\"\n");
    for port in 0..1000 {
        toml += &format!(
            "[[bridge.port]]\nname = \"p{port}\"\ntype = \"null\"\nacl = \"all,g{}\"\nport_security = \"02:00:00:00:{:02x}:{:02x} 10.0.{}.{}\"\n",
            port % 50,
            port / 256,
            port % 256,
            port / 256,
            port % 256
        );
    }
    let members: Vec<String> =
        (0..1000).map(|host| format!("\"10.1.{}.{}\"", host / 256, host % 256)).collect();
    toml += &format!("[[acl.group]]\nname = \"all\"\nmembers = [{}]\n", members.join(","));
    for group in 0..50 {
        toml += &format!("[[acl.group]]\nname = \"g{group}\"\nrule = [");
        for (ports, remote) in [
            ("22", "any".to_owned()),
            ("80-443", "all".to_owned()),
            ("5000-6000", format!("g{group}")),
            ("3306", format!("g{}", (group + 1) % 50)),
        ] {
            toml += &format!(
                "{{ direction = \"ingress\", protocol = \"tcp\", ports = \"{ports}\", remote = \"{remote}\" }},"
            );
        }
        toml += "{ direction = \"egress\" }, { direction = \"egress\", ethertype = \"ipv6\" }]\n";
    }
    config(&toml)
}

/// How long it takes to add a member: `cargo test -p weft-daemon --lib -- --ignored --nocapture a_member`.
#[test]
#[ignore = "a measurement"]
fn a_member_of_a_large_group_is_added_soon() {
    let start = Instant::now();
    let mut lab = Lab { ..Lab::new("[[bridge]]\nname = \"br0\"\n") };
    let config = large();
    println!("parsed: {:?}", start.elapsed());
    let start = Instant::now();
    let touched = lab.apply(config.clone());
    println!("{touched} rules compiled and published: {:?}", start.elapsed());
    let mut by_table: BTreeMap<u16, usize> = BTreeMap::new();
    lab.compiled.rules().iter().for_each(|rule| *by_table.entry(rule.place.table.0).or_default() += 1);
    println!("rules by table: {by_table:?}");
    let mut current = config;
    let mut parts: [Vec<Duration>; 5] = Default::default();
    for host in 0..101 {
        let change = weft_config::Change::AclMemberAdd {
            group: Value::parse("all").unwrap(),
            member: Value::parse(&format!("10.2.0.{host}")).unwrap(),
        };
        let mut at = Instant::now();
        let mut lap = |part: usize| {
            parts[part].push(at.elapsed());
            at = Instant::now();
        };
        let next = current.apply(&[change]).unwrap();
        lap(0);
        assert_eq!(weft_config::diff(&current, &next).len(), 1);
        lap(1);
        drop(next.to_toml());
        lap(2);
        let units = units(&next, &next.bridges[0], 15, &mut lab.compiled.numbering);
        let changes = lab.compiled.become_units(units, &lab.flows.load());
        assert_eq!(changes.len(), 2);
        lap(3);
        lab.datapath.change_flows(BridgeId(0), &changes.now, Duration::ZERO).unwrap();
        lap(4);
        current = next;
    }
    for (what, times) in ["apply", "diff", "toml", "compile", "commit"].iter().zip(&mut parts) {
        times.sort();
        println!("{what}: median {:?}, worst {:?}", times[times.len() / 2], times[times.len() - 1]);
    }
}
