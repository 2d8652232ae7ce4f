//! What weftctl prints, byte for byte. `WEFT_BLESS=1 cargo test -p weftctl` writes the expected files anew.

use std::path::Path;

use crate::support::FakeSwitch;

/// Commands by the name of the file with their expected output.
const COMMANDS: &[(&str, &str)] = &[
    ("bridge-list", "bridge list"),
    ("port-list", "port list"),
    ("port-show-vm1", "port show vm1"),
    ("port-show-eth1", "port show eth1"),
    ("port-show-vx1", "port show vx1"),
    ("tunnel-list", "tunnel list br0"),
    ("tunnel-show", "tunnel show vx1"),
    ("vni-list", "vni list"),
    ("fdb-show", "fdb show br0"),
    ("fdb-flush", "fdb flush br0 port=vm1 vlan=10"),
    ("stats", "stats"),
    ("stats-drops", "stats drops"),
    ("show", "show"),
    ("config-show", "config show"),
    ("config-save", "config save -"),
    ("version", "version"),
    ("port-add-help", "port add --help"),
    ("tunnel-add-help", "tunnel add --help"),
    ("help", "--help"),
    ("json-port-show", "--json port show vm1"),
    ("json-tunnel-list", "tunnel list --json"),
    ("json-fdb-show", "--json fdb show"),
    ("json-stats", "--json stats"),
    ("json-show", "--json show"),
    ("json-version", "--json version"),
    ("trace", "trace br0 in_port=vm1,tcp"),
    ("trace-drop", "trace br0 in_port=vm1,tcp,tp_dst=22"),
    ("trace-help", "trace --help"),
    ("json-trace", "--json trace br0 in_port=vm1,tcp"),
    ("json-trace-drop", "--json trace br0 in_port=vm1,tcp,tp_dst=22"),
    ("flow-add", "flow add br0 priority=1,actions=drop"),
    ("flow-add-help", "flow add --help"),
    ("flow-del-nothing", "flow del br0 --strict tcp"),
    ("flow-dump", "flow dump br0"),
    ("flow-dump-help", "flow dump --help"),
    ("flow-diff", "flow diff br0 /dev/null"),
    ("group-add", "group add br0 group_id=1,type=all"),
    ("group-dump", "group dump br0"),
    ("meter-dump", "meter dump br0"),
    ("meter-dump-no-stats", "meter dump br0 --no-stats"),
    ("cache-show", "cache show vm1 --limit 2"),
    ("json-flow-dump", "--json flow dump br0"),
    ("acl-show", "acl show"),
    ("acl-show-port", "acl show vm1"),
    ("acl-rule-add-help", "acl rule add --help"),
    ("acl-help", "acl --help"),
    ("json-acl-show", "--json acl show web"),
    ("flow-dump-all", "flow dump br0 --all"),
    ("json-port-set", "--json port set vm1 vlan=20 mtu="),
];

#[test]
fn the_output_of_each_command_is_as_expected() {
    let switch = FakeSwitch::new("golden").unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/golden");
    let bless = std::env::var_os("WEFT_BLESS").is_some();
    for (name, words) in COMMANDS {
        let output = switch.run(words).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words}");
        assert_eq!(output.status.code(), Some(0), "{words}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.lines().all(|line| line.trim_end() == line) || name.ends_with("help"),
            "trailing space: {words}"
        );
        let file = folder.join(format!("{name}.txt"));
        if bless {
            std::fs::write(&file, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(text, expected, "{words}");
    }
}

#[test]
fn every_expected_file_belongs_to_a_command() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/golden");
    for file in std::fs::read_dir(folder).unwrap() {
        let name = file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
        assert!(COMMANDS.iter().any(|(command, _)| *command == name), "{name} is left over");
    }
}
