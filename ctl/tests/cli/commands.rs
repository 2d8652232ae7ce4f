//! What each command asks of the switch, and how each mistake is told: one line, and the right exit status.

use crate::support::{FakeSwitch, weftctl};
use serde_json::json;

/// The operations that a command sends, as JSON; the exit status does not matter.
#[track_caller]
fn asks(switch: &FakeSwitch, words: &str, expected: serde_json::Value) {
    match switch.run(words) {
        Ok(_) => assert_eq!(serde_json::to_value(switch.asked()).unwrap_or_default(), expected, "{words}"),
        Err(error) => panic!("{error}"),
    }
}

fn change(change: serde_json::Value) -> serde_json::Value {
    json!([{ "apply": { "changes": [change] } }])
}

#[test]
fn commands_about_bridges_and_ports_ask_for_what_they_say() {
    let switch = FakeSwitch::new("asks-ports").unwrap();
    asks(
        &switch,
        "bridge add br1 fdb_size=10 internal=no",
        change(json!({"bridge_add": {"bridge": {"name": "br1", "fdb_size": 10, "internal": false}}})),
    );
    asks(
        &switch,
        "bridge set br0 fdb_ageing=60",
        change(json!({"bridge_set": {"name": "br0", "set": {"fdb_ageing": "60"}}})),
    );
    asks(&switch, "bridge del br0", change(json!({"bridge_del": {"name": "br0"}})));
    asks(
        &switch,
        "port add br0 vm2 type=tap netns=vm1 vlan=10 mtu=1450",
        change(
            json!({"port_add": {"bridge": "br0", "port": {"name": "vm2", "type": "tap", "netns": "vm1", "vlan": 10, "mtu": 1450}}}),
        ),
    );
    asks(
        &switch,
        "port add br0 t1 type=tap trunks=10,20-29 vlan=10 mode=native-untagged",
        change(
            json!({"port_add": {"bridge": "br0", "port": {"name": "t1", "type": "tap", "trunks": "10,20-29", "vlan": 10, "mode": "native-untagged"}}}),
        ),
    );
    asks(
        &switch,
        "port add br0 t1 trunks=all",
        change(json!({"port_add": {"bridge": "br0", "port": {"name": "t1"}}})),
    );
    asks(
        &switch,
        "port add br0 r type=replay file=/a/b.pcap loop=true",
        change(
            json!({"port_add": {"bridge": "br0", "port": {"name": "r", "type": "replay", "file": "/a/b.pcap", "loop": true}}}),
        ),
    );
    asks(
        &switch,
        "port set vm1 vlan= trunks=1-3",
        change(json!({"port_set": {"name": "vm1", "set": {"vlan": null, "trunks": "1-3"}}})),
    );
    asks(&switch, "port del vm1", change(json!({"port_del": {"name": "vm1"}})));
}

#[test]
fn commands_about_tunnels_and_maps_ask_for_what_they_say() {
    let switch = FakeSwitch::new("asks-tunnels").unwrap();
    asks(
        &switch,
        "tunnel add br0 vx type=vxlan local=192.0.2.1 remote=192.0.2.2 vnis=1-5 df=false tos=inherit",
        change(
            json!({"tunnel_add": {"bridge": "br0", "tunnel": {"name": "vx", "type": "vxlan", "local": "192.0.2.1", "remote": "192.0.2.2", "vnis": "1-5", "df": false, "tos": "inherit"}}}),
        ),
    );
    asks(
        &switch,
        "tunnel set vx key=7 vlan=10",
        change(json!({"tunnel_set": {"name": "vx", "set": {"key": "7", "vlan": "10"}}})),
    );
    asks(&switch, "tunnel del vx", change(json!({"tunnel_del": {"name": "vx"}})));
    asks(
        &switch,
        "vni map br0 10 16777215",
        change(json!({"vni_map": {"bridge": "br0", "vlan": 10, "vni": 16777215}})),
    );
    asks(&switch, "vni unmap br0 10", change(json!({"vni_unmap": {"bridge": "br0", "vlan": 10}})));
    asks(
        &switch,
        "fdb add br0 vm1 10 52:54:00:00:00:09",
        change(
            json!({"fdb_add": {"bridge": "br0", "entry": {"vlan": 10, "mac": "52:54:00:00:00:09", "port": "vm1"}}}),
        ),
    );
    asks(
        &switch,
        "fdb del br0 10 52:54:00:00:00:09",
        change(json!({"fdb_del": {"bridge": "br0", "vlan": 10, "mac": "52:54:00:00:00:09"}})),
    );
    asks(&switch, "fdb flush vlan=3", json!([{"fdb_flush": {"bridge": null, "port": null, "vlan": 3}}]));
    asks(
        &switch,
        "fdb flush br0 port=vm1",
        json!([{"fdb_flush": {"bridge": "br0", "port": "vm1", "vlan": null}}]),
    );
    asks(&switch, "port list br0", json!([{"port_show": {"bridge": "br0", "name": null}}]));
    asks(&switch, "stats", json!(["stats_ports", "stats_drops", "stats_cache", "stats_workers"]));
}

/// A command that ends with this status, prints nothing, and tells this one line.
#[track_caller]
fn fails(switch: &FakeSwitch, words: &str, status: i32, expected: &str) {
    match switch.run(words) {
        Ok(output) => {
            assert_eq!(String::from_utf8_lossy(&output.stderr), format!("weftctl: {expected}\n"), "{words}");
            assert_eq!((output.status.code(), output.stdout.len()), (Some(status), 0), "{words}");
        }
        Err(error) => panic!("{error}"),
    }
    assert!(status == 1 || switch.asked().is_empty(), "{words}: something was sent");
}

#[test]
fn a_wrong_command_line_is_told_in_one_line_and_nothing_is_sent() {
    let switch = FakeSwitch::new("usage").unwrap();
    let keys = "type, backend, netns, mtu, persistent, mac, ofport, mode, vlan, trunks, priority_tags, protected, file, loop, peer, acl, acl_egress, acl_multicast, fdb_limit, port_security";
    fails(
        &switch,
        "port add br0 vm1 vlam=10",
        2,
        &format!("port vm1: there is no key 'vlam': the keys are {keys}"),
    );
    fails(
        &switch,
        "port add br0 vm1 tap",
        2,
        &format!("port vm1: 'tap' is not KEY=VALUE: the keys are {keys}"),
    );
    fails(&switch, "port add br0 vm1 vlan=5000", 2, "port vm1: vlan: VLAN 5000 is out of range: 0 to 4095");
    fails(&switch, "port set vm1 vlan=5000", 2, "port vm1: vlan: VLAN 5000 is out of range: 0 to 4095");
    fails(&switch, "port set vm1 vlan=1 vlan=2", 2, "port vm1: vlan is given twice");
    fails(
        &switch,
        "port add br0 vm1 type=veth",
        2,
        "port vm1: type: 'veth' is not a port type: auto, tap, netdev, internal, replay, capture, null, memory or patch",
    );
    fails(&switch, "port add br0 vm1 mtu=67", 2, "port vm1: mtu: 67 is out of range: 68 to 9600");
    fails(
        &switch,
        "port add br0 this-name-is-too-long",
        2,
        "port: 'this-name-is-too-long' is not a port name: 1 to 15 printable ASCII characters without '/', ':' and white space",
    );
    fails(&switch, "port add br0 t trunks=10,5000", 2, "port t: trunks: 5000 is out of range: 0 to 4095");
}

#[test]
fn a_wrong_command_line_for_the_rest_is_told_in_one_line_too() {
    let switch = FakeSwitch::new("usage-rest").unwrap();
    fails(
        &switch,
        "tunnel add br0 vx type=vxlan local=192.0.2.1",
        2,
        "tunnel vx: remote=IPV4|flow is missing",
    );
    fails(&switch, "tunnel set vx ttl=0", 2, "tunnel vx: ttl: 0 is out of range: 1 to 255");
    fails(&switch, "vni map br0 10 16777216", 2, "vni: 16777216 is out of range: 0 to 16777215");
    fails(&switch, "vni map br0 4096 1", 2, "vlan: VLAN 4096 is out of range: 0 to 4095");
    fails(
        &switch,
        "fdb add br0 vm1 10 52:54:00",
        2,
        "mac: '52:54:00' is not an Ethernet address: expected six pairs of hex digits, as in 52:54:00:12:34:56",
    );
    fails(&switch, "fdb flush br0 mac=1", 2, "flush: there is no key 'mac': the keys are port, vlan");
    fails(
        &switch,
        "port",
        2,
        "'weftctl port' requires a subcommand but one was not provided [subcommands: add, set, del, show, list, help]; see 'weftctl --help'",
    );
    fails(&switch, "port frobnicate", 2, "unrecognized subcommand 'frobnicate'; see 'weftctl --help'");
    fails(
        &switch,
        "port del",
        2,
        "the following required arguments were not provided: <NAME>; see 'weftctl --help'",
    );
    fails(
        &switch,
        "stats everything",
        2,
        "invalid value 'everything' for '[WHAT]' [possible values: ports, drops, cache, workers]; see 'weftctl --help'",
    );
}

#[test]
fn what_the_switch_refuses_is_told_in_one_line() {
    let switch = FakeSwitch::new("refused").unwrap();
    fails(&switch, "port add br9 vm2", 1, "there is no bridge 'br9'");
    fails(&switch, "port del vm9", 1, "there is no port 'vm9'");
    fails(&switch, "port show vm9", 1, "there is no port 'vm9'");
    fails(
        &switch,
        "port add br0 vm1 vlan=10",
        1,
        "bridge[br0].port[vm1].name: the name 'vm1' is taken by bridge[br0].port[vm1]: names of bridges, ports and tunnels are unique in the switch",
    );
    fails(
        &switch,
        "port set vm1 trunks=1-3",
        1,
        "bridge[br0].port[vm1].trunks: an access port takes no trunks: leave them out, or say mode=native-untagged or mode=native-tagged",
    );
    fails(&switch, "vni unmap br0 10", 1, "VLAN 10 of bridge br0 is not mapped to a VNI");
    let output = switch.run("--json port del vm9").unwrap();
    assert_eq!(output.status.code(), Some(1));
    let response = "{\"id\":1,\"error\":{\"code\":\"not_found\",\"message\":\"there is no port 'vm9'\"}}\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), response);
}

#[test]
fn a_file_is_applied_and_its_errors_name_its_lines() {
    let switch = FakeSwitch::new("apply").unwrap();
    let apply = |text: &str| weftctl(&switch.path, &["config", "apply", "-"], text).unwrap();
    let same = switch.run("config save -").unwrap();
    let output = apply(&String::from_utf8_lossy(&same.stdout));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "nothing differs\n");
    let output = apply(
        "[[bridge]]\nname='br0'\nfdb_size=9\n[[bridge.port]]\nname='vm1'\ntype='tap'\nvlan=20\n[[bridge.port]]\nname='vm2'\n",
    );
    let expected = "~ bridge br0: fdb_size 8192 -> 9\n~ port vm1 of bridge br0: vlan 10 -> 20\n+ port vm2 of bridge br0: ofport=2\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected.replace(": ofport", " ofport"));
    let output = apply("[[bridge]]\nname='br0'\nfdb_size=0\n");
    assert_eq!(output.status.code(), Some(1));
    let expected = "weftctl: standard input:3: bridge[br0].fdb_size: 0 is out of range: 1 to 1000000\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
    let output = switch.run("config apply /nowhere/weft.toml").unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "weftctl: /nowhere/weft.toml: can't read: No such file or directory (os error 2)\n"
    );
}

#[test]
fn a_saved_file_is_what_was_shown() {
    let switch = FakeSwitch::new("save").unwrap();
    let file = std::env::temp_dir().join(format!("weftctl-save-{}.toml", std::process::id()));
    let output = switch.run(&format!("config save {}", file.display())).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
    assert_eq!(std::fs::read(&file).unwrap(), switch.run("config show").unwrap().stdout);
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn without_a_switch_the_socket_is_named() {
    let socket = std::path::Path::new("/nowhere/weftd.sock");
    let output = weftctl(socket, &["show"], "").unwrap();
    assert_eq!(output.status.code(), Some(1));
    let expected = "weftctl: can't reach weftd at /nowhere/weftd.sock: No such file or directory (os error 2); is it running? Its socket is chosen by --socket or WEFT_SOCKET\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
}
