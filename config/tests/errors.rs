//! Each bad configuration is refused with one line: the file, the line, the key, the value and the legal range.

use weft_config::Config;

const GOOD: &str = r#"
[switch]
workers = [1, 3]

[[bridge]]
name = "br0"
fdb_ageing = 60
vnis = { 10 = 5010, 20 = 5020 }
fdb = [{ vlan = 10, mac = "52:54:00:00:00:01", port = "vm1" }]

[[bridge.port]]
name = "vm1"
type = "tap"
netns = "vm1"
vlan = 10

[[bridge.port]]
name = "t1"
mode = "native-untagged"
vlan = 10
trunks = [10, "20-29"]

[[bridge.tunnel]]
name = "vx1"
type = "vxlan"
local = "10.0.0.1"
remote = "10.0.0.2"
"#;

#[track_caller]
fn refused(from: &str, to: &str, expected: &str) {
    let text = GOOD.replacen(from, to, 1);
    assert_ne!(text, GOOD, "'{from}' is not in the text");
    match Config::from_toml(&text, "weft.toml") {
        Err(error) => assert_eq!(error.to_string(), expected),
        Ok(_) => panic!("'{to}' was taken"),
    }
}

#[test]
fn the_good_text_is_good() {
    let config = Config::from_toml(GOOD, "weft.toml").unwrap();
    assert_eq!(Config::from_toml(&config.to_toml(), "printed").unwrap(), config);
}

#[test]
fn values_out_of_range() {
    refused(
        "vlan = 10\n\n[[bridge.port]]",
        "vlan = 5000\n\n[[bridge.port]]",
        "weft.toml:15: bridge[br0].port[vm1].vlan: VLAN 5000 is out of range: 0 to 4095",
    );
    refused(
        "vlan = 10\n\n[[bridge.port]]",
        "vlan = -70000\n\n[[bridge.port]]",
        "weft.toml:15: bridge[br0].port[vm1].vlan: VLAN -70000 is out of range: 0 to 4095",
    );
    refused("20-29", "20-4096", "weft.toml:21: bridge[br0].port[t1].trunks: 4096 is out of range: 0 to 4095");
    refused("5020", "16777216", "weft.toml:8: bridge[br0].vnis.20: 16777216 is out of range: 0 to 16777215");
    refused(
        "20 = 5020",
        "4096 = 5020",
        "weft.toml:8: bridge[br0].vnis: VLAN 4096 is out of range: 0 to 4095",
    );
    refused("60", "86401", "weft.toml:7: bridge[br0].fdb_ageing: 86401 is out of range: 0 to 86400");
    refused("[1, 3]", "[1, 1024]", "weft.toml:3: switch.workers[1]: 1024 is out of range: 0 to 1023");
    refused(
        "[1, 3]",
        "[1, 1]",
        "weft.toml:3: switch.workers: '[1,1]' is not a list of 1 to 64 different CPU numbers",
    );
    refused("[1, 3]", "0", "weft.toml:3: switch.workers: 0 is out of range: 1 to 64");
    refused(
        "\"vxlan\"",
        "\"geneve\"",
        "weft.toml:25: bridge[br0].tunnel[vx1].type: 'geneve' is not a tunnel type: vxlan or gre",
    );
    refused(
        "10.0.0.2",
        "10.0.0",
        "weft.toml:27: bridge[br0].tunnel[vx1].remote: '10.0.0' is not an IPv4 address, as in 192.0.2.1, or flow",
    );
    refused(
        "name = \"vm1\"",
        "name = \"a name with spaces\"",
        "weft.toml:12: bridge[br0].port[a name with spaces].name: 'a name with spaces' is not a port name: 1 to 15 printable ASCII characters without '/', ':' and white space",
    );
}

#[test]
fn unknown_keys_and_broken_text() {
    refused(
        "vlan = 10\n\n",
        "vlam = 10\n\n",
        "weft.toml:15: bridge[br0].port[vm1].vlam: unknown field `vlam`, expected one of `name`, `type`, `backend`, `netns`, `mtu`, `persistent`, `mac`, `ofport`, `mode`, `vlan`, `trunks`, `priority_tags`, `protected`, `file`, `loop`, `peer`, `acl`, `acl_egress`, `acl_multicast`, `fdb_limit`, `port_security`",
    );
    refused(
        "[switch]",
        "[swich]",
        "weft.toml:2: swich: unknown field `swich`, expected one of `switch`, `bridge`, `conntrack`, `acl`",
    );
    refused(
        "workers = [1, 3]",
        "workers = ",
        "weft.toml:3: string values must be quoted, expected literal string",
    );
    refused("local = \"10.0.0.1\"\n", "", "weft.toml:23: bridge[br0].tunnel[vx1]: missing field `local`");
    refused("fdb_ageing = 60", "fdb_ageing = 60\nfdb_ageing = 61", "weft.toml:8: duplicate key");
    refused(
        "name = \"br0\"",
        "name = [[1]]",
        "weft.toml:6: bridge[0].name: invalid type: sequence, expected a single value",
    );
}

#[test]
fn more_static_entries_than_the_fdb_takes() {
    let more = "fdb_size = 1\nfdb = [{ vlan = 10, mac = '52:54:00:00:00:02', port = 'vm1' }, ";
    let problem = "2 static entries don't fit an FDB of 1: raise fdb_size, up to 1000000";
    refused("fdb = [", more, &format!("weft.toml:10: bridge[br0].fdb: {problem}"));
}

#[test]
fn combinations() {
    refused(
        "\"t1\"",
        "\"vm1\"",
        "weft.toml:18: bridge[br0].port[vm1].name: the name 'vm1' is taken by bridge[br0].port[vm1]: names of bridges, ports and tunnels are unique in the switch",
    );
    refused(
        "\"native-untagged\"",
        "\"access\"",
        "weft.toml:21: bridge[br0].port[t1].trunks: an access port takes no trunks: leave them out, or say mode=native-untagged or mode=native-tagged",
    );
    refused(
        "5020",
        "5010",
        "weft.toml:8: bridge[br0].vnis.20: VNI 5010 is mapped to VLAN 10 already: a VNI belongs to one VLAN of the bridge",
    );
    refused(
        "\"tap\"",
        "\"replay\"",
        "weft.toml:14: bridge[br0].port[vm1].netns: a port of type replay takes no netns: only auto, tap, netdev and internal do",
    );
    refused(
        "port = \"vm1\"",
        "port = \"vm9\"",
        "weft.toml:9: bridge[br0].fdb[0].port: bridge br0 has no port 'vm9'",
    );
    refused(
        "10.0.0.2",
        "10.0.0.1",
        "weft.toml:27: bridge[br0].tunnel[vx1].remote: local and remote are the same, 10.0.0.1",
    );
    refused(
        "10.0.0.2\"",
        "10.0.0.2\"\nkey = 16777216",
        "weft.toml:28: bridge[br0].tunnel[vx1].key: vxlan key 16777216 is out of range: 0 to 16777215",
    );
    refused(
        "10.0.0.2\"",
        "10.0.0.2\"\nvlan = 1",
        "weft.toml:28: bridge[br0].tunnel[vx1].vlan: a tunnel with key=map takes no vlan: the VLAN-to-VNI map rules its VLANs; say key=flow, or key=0 to 16777215",
    );
    refused(
        "10.0.0.2\"",
        "10.0.0.2\"\n[[bridge.tunnel]]\nname=\"vx2\"\ntype=\"vxlan\"\nlocal=\"10.0.0.1\"\nremote=\"10.0.0.2\"\nkey=5020",
        "weft.toml:32: bridge[br0].tunnel[vx2].remote: vxlan packets from 10.0.0.2 to 10.0.0.1 with key 5020 belong to tunnel vx1 already",
    );
}

#[test]
fn tunnels_to_where_the_flow_says() {
    refused(
        "10.0.0.2\"",
        "flow\"",
        "weft.toml:27: bridge[br0].tunnel[vx1].remote: a tunnel with remote=flow takes no key=map: say key=flow, or key=0 to 16777215",
    );
    refused(
        "10.0.0.2\"",
        "flow\"\nkey = \"flow\"\n[[bridge.tunnel]]\nname=\"vx2\"\ntype=\"vxlan\"\nlocal=\"10.0.0.1\"\nremote=\"flow\"\nkey=\"flow\"",
        "weft.toml:33: bridge[br0].tunnel[vx2].remote: vxlan packets from any other address to 10.0.0.1 with any other key belong to tunnel vx1 already",
    );
}

#[test]
fn patch_ports_and_tunnels_by_flow() {
    refused(
        "\"tap\"",
        "\"tap\"\npeer = \"p1\"",
        "weft.toml:14: bridge[br0].port[vm1].peer: a port of type tap takes no peer: only ports of type patch do",
    );
    refused(
        "name = \"t1\"",
        "name = \"t1\"\ntype = \"patch\"",
        "weft.toml:17: bridge[br0].port[t1].peer: a port of type patch needs a peer, the name of the patch port at the other end",
    );
    refused(
        "name = \"t1\"",
        "name = \"t1\"\ntype = \"patch\"\npeer = \"t1\"",
        "weft.toml:20: bridge[br0].port[t1].peer: a patch port can't be its own peer",
    );
    refused(
        "10.0.0.2\"",
        "10.0.0.2\"\nkey = \"flow\"\nvnis = \"5010\"",
        "weft.toml:29: bridge[br0].tunnel[vx1].vnis: a tunnel with key=flow takes no vnis: only key=map does",
    );
    refused(
        "10.0.0.2\"",
        "10.0.0.2\"\nkey = \"flow\"\n[[bridge.tunnel]]\nname=\"vx2\"\ntype=\"vxlan\"\nlocal=\"10.0.0.1\"\nremote=\"10.0.0.2\"\nkey=\"flow\"",
        "weft.toml:33: bridge[br0].tunnel[vx2].remote: vxlan packets from 10.0.0.2 to 10.0.0.1 with any other key belong to tunnel vx1 already",
    );
}

const GROUPS: &str = r#"
[[bridge]]
name = "br0"
port = [{ name = "vm1", acl = "web", port_security = [{ mac = "02:00:00:00:00:01", ip = "10.0.0.1" }] }]

[[acl.group]]
name = "web"
members = ["10.1.0.0/16"]

[[acl.group.rule]]
direction = "ingress"
protocol = "tcp"
ports = "80-90"
remote = "web"
"#;

/// The rule's text in place of which another is refused.
#[track_caller]
fn group_refused(from: &str, to: &str, expected: &str) {
    let text = GROUPS.replacen(from, to, 1);
    assert_ne!(text, GROUPS, "'{from}' is not in the text");
    let refused = Config::from_toml(&text, "f").map(|_| ()).map_err(|error| error.to_string());
    assert_eq!(refused, Err(expected.to_owned()));
}

#[test]
fn security_groups() {
    let config = Config::from_toml(GROUPS, "f").unwrap();
    assert_eq!(Config::from_toml(&config.to_toml(), "printed").unwrap(), config);
    let rule = "acl.group[web].rule[0]";
    for (from, to, line, problem) in [
        ("80-90", "90-80", 13, format!("{rule}.ports: '90-80' is not a range of ports: the first is above the last")),
        ("80-90", "80-70000", 13, format!("{rule}.ports: 70000 is out of range: 0 to 65535")),
        ("remote = \"web\"", "remote = \"db\"", 14, format!("{rule}.remote: there is no group 'db'")),
        ("remote = \"web\"", "remote = \"10.0.0.1/8\"", 14, format!("{rule}.remote: '10.0.0.1/8' is not a network: bits beyond its length are set: expected 10.0.0.0/8, or the address without a length")),
        ("remote = \"web\"", "remote = \"2001:db8::/32\"", 14, format!("{rule}.remote: the rule can never match: 2001:db8::/32 is no ipv4 network")),
        ("\"tcp\"", "\"icmp\"", 13, format!("{rule}.ports: the rule can never match: protocol icmp has no ports; tcp, udp and sctp have")),
        ("\"tcp\"", "\"icmpv6\"", 12, format!("{rule}.protocol: the rule can never match: there is no protocol icmpv6 in ipv4")),
        ("ports = \"80-90\"", "icmp = 8", 13, format!("{rule}.icmp: the rule can never match: protocol tcp has no ICMP type; icmp and icmpv6 have")),
        ("\"tcp\"\nports = \"80-90\"", "\"icmp\"\nicmp = \"0\"", 13, format!("{rule}.icmp: the rule can never match: ICMP 0 begins no connection, types 8, 13 and 15 with code 0 do (answers to what passes, and errors about it, need no rule); others need stateless=true")),
        ("80-90", "0-0", 13, format!("{rule}.ports: the rule can never match: no tcp connection is to port 0: expected ports of 1 to 65535, or stateless=true")),
        ("acl = \"web\"", "acl = \"web,db\"", 4, "bridge[br0].port[vm1].acl: there is no group 'db'".to_owned()),
        ("acl = \"web\"", "acl = [\"web\", \"web\"]", 4, "bridge[br0].port[vm1].acl: an item is there twice".to_owned()),
        ("02:00:00:00:00:01", "01:00:00:00:00:01", 4, "bridge[br0].port[vm1].port_security: 01:00:00:00:00:01 is not the address of one station: expected one that is neither a group's nor all zeros".to_owned()),
        ("\"10.0.0.1\"", "\"10.0.0\"", 4, "bridge[br0].port[vm1].port_security[0]: '10.0.0' is not an address or a network, as in 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32".to_owned()),
        ("name = \"vm1\",", "name = \"vm1\", type = \"patch\", peer = \"x\",", 4, "bridge[br0].port[vm1].acl: a port of type patch takes no acl: only ports with a device do".to_owned()),
        ("name = \"web\"", "name = \"10.0.0.1\"", 7, "acl.group[10.0.0.1].name: '10.0.0.1' is not the name of a group: 1 to 63 letters, digits, '.', '_' and '-', a letter or digit first, and not any".to_owned()),
    ] {
        group_refused(from, to, &format!("f:{line}: {problem}"));
    }
}
