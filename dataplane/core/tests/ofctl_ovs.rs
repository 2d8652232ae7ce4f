//! `add-flow`, `mod-flows` and the commands of buckets, as `ovs-ofctl` sends them unless told otherwise, leave here what they leave in
//! stock Open vSwitch.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use weft_core::tables::{Change, FlowTables};
use weft_flow::message::{FlowCommand, GroupCommand};
use weft_flow::text::{NoNames, parse_flow, parse_group, print_flow, print_group};
use weft_tests::cmd::{SHORT, run};
use weft_tests::{Lab, Need, StockOvs};

const FLOWS: [(&[&str], FlowCommand, &str); 14] = [
    (&["add-flow"], FlowCommand::Add, "in_port=1 actions=output:2"),
    (&["add-flow"], FlowCommand::Add, "in_port=1 actions=output:3"),
    // No such rule: one is added, in the first table unless another is named.
    (&["mod-flows"], FlowCommand::Modify, "in_port=4 actions=output:2"),
    (&["mod-flows"], FlowCommand::Modify, "table=7,in_port=4,ip,idle_timeout=60 actions=output:2"),
    (&["--strict", "mod-flows"], FlowCommand::ModifyStrict, "priority=7,in_port=3 actions=output:2"),
    (&["--strict", "mod-flows"], FlowCommand::ModifyStrict, "priority=8,in_port=1 actions=output:1"),
    (&["mod-flows"], FlowCommand::Modify, "cookie=9,in_port=5 actions=output:1"),
    // Rules with this cookie: none, and none is added.
    (&["mod-flows"], FlowCommand::Modify, "cookie=5/-1,in_port=6 actions=output:1"),
    (
        &["--strict", "mod-flows"],
        FlowCommand::ModifyStrict,
        "cookie=5/-1,priority=1,in_port=6 actions=output:1",
    ),
    (&["mod-flows"], FlowCommand::Modify, "cookie=9/-1 actions=output:4"),
    // Such rules: they are changed, and nothing is added.
    (&["mod-flows"], FlowCommand::Modify, "in_port=3 actions=output:9"),
    (&["mod-flows"], FlowCommand::Modify, "cookie=3,in_port=1 actions=output:9"),
    (&["del-flows"], FlowCommand::Delete, "in_port=1"),
    // Without a cookie ovs-ofctl takes cookies away by OpenFlow 1.0; here they stay.
    (&["mod-flows"], FlowCommand::Modify, "cookie=0,actions=output:1"),
];

const GROUPS: [(&str, GroupCommand, &str); 9] = [
    (
        "add-group",
        GroupCommand::Add,
        "group_id=1,type=all,bucket=bucket_id=1,actions=output:1,bucket=bucket_id=2,actions=output:2",
    ),
    // Where: that has to be said, or ovs-ofctl refuses it.
    ("insert-buckets", GroupCommand::InsertBuckets, "group_id=1,bucket=actions=output:3"),
    // Which number: the lowest that is free in the message.
    (
        "insert-buckets",
        GroupCommand::InsertBuckets,
        "group_id=1,command_bucket_id=last,bucket=actions=output:3,bucket=bucket_id=5,actions=output:4",
    ),
    // Which the group has by now.
    (
        "insert-buckets",
        GroupCommand::InsertBuckets,
        "group_id=1,command_bucket_id=last,bucket=actions=output:6",
    ),
    (
        "insert-buckets",
        GroupCommand::InsertBuckets,
        "group_id=1,command_bucket_id=1,bucket=bucket_id=7,actions=output:5",
    ),
    (
        "insert-buckets",
        GroupCommand::InsertBuckets,
        "group_id=1,command_bucket_id=33,bucket=bucket_id=8,actions=output:5",
    ),
    (
        "insert-buckets",
        GroupCommand::InsertBuckets,
        "group_id=2,command_bucket_id=last,bucket=bucket_id=8,actions=output:5",
    ),
    ("remove-buckets", GroupCommand::RemoveBuckets, "group_id=1,command_bucket_id=first"),
    ("remove-buckets", GroupCommand::RemoveBuckets, "group_id=1"),
];

struct Pair {
    ovs: StockOvs,
    _lab: Lab,
    tables: std::sync::Arc<FlowTables>,
}

impl Pair {
    fn new(test: &str) -> Option<Pair> {
        let needs = ["ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovs-ofctl"].map(Need::Tool);
        let lab = Lab::open(test, &needs).unwrap()?;
        let ovs = StockOvs::dummy(&lab, "ovs").unwrap();
        let protocols = "protocols=OpenFlow10,OpenFlow13,OpenFlow15";
        ovs.vsctl(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=dummy", protocols])
            .unwrap();
        let pair = Pair { ovs, _lab: lab, tables: FlowTables::new() };
        pair.ofctl(&["del-flows"], None);
        Some(pair)
    }

    /// Whether it was accepted, and what was said.
    fn ofctl(&self, words: &[&str], text: Option<&str>) -> (bool, String) {
        let target = format!("unix:{}", self.ovs.dir().join("br0.mgmt").display());
        let argv = [&["ovs-ofctl"], words, &[&target], text.as_slice()].concat();
        let output = run(&argv, SHORT).unwrap();
        (output.success(), format!("{}{}", output.stdout, output.stderr))
    }

    fn apply(&self, change: Change) -> bool {
        self.tables.prepare(&[change], Duration::ZERO).is_ok_and(|prepared| {
            prepared.commit();
            true
        })
    }
}

fn lines(dump: &str) -> BTreeSet<String> {
    dump.lines().skip(1).map(|line| line.trim().to_owned()).collect()
}

#[test]
fn rules_are_added_and_modified_as_by_ovs_ofctls_own_choice_of_version() {
    let Some(pair) = Pair::new("ofctl-flows") else { return };
    for (words, command, text) in FLOWS {
        let (accepted, said) = pair.ofctl(words, Some(text));
        let ours = pair.apply(Change::Flow(parse_flow(text, command, &NoNames).unwrap()));
        assert_eq!(accepted, ours, "{words:?} {text}: {said}");
        let (_, dump) = pair.ofctl(&["--no-stats", "dump-flows"], None);
        let root = pair.tables.load();
        let rules = root.tables().flat_map(|table| table.rules());
        let ours = rules.map(|rule| print_flow(rule.line(), None, &NoNames));
        assert_eq!(
            ours.collect::<BTreeSet<_>>(),
            dump.lines()
                .map(|line| line.trim().to_owned())
                .filter(|line| line.contains("actions="))
                .collect(),
            "{words:?} {text}"
        );
    }
}

#[test]
fn buckets_come_and_go_and_are_numbered_as_by_ovs_ofctl() {
    let Some(pair) = Pair::new("ofctl-groups") else { return };
    for (word, command, text) in GROUPS {
        let (accepted, said) = pair.ofctl(&["-OOpenFlow15", word], Some(text));
        let ours = parse_group(text, command, &NoNames).is_ok_and(|group| pair.apply(Change::Group(group)));
        assert_eq!(accepted, ours, "{word} {text}: {said}");
        let (_, dump) = pair.ofctl(&["-OOpenFlow15", "dump-groups"], None);
        let root = pair.tables.load();
        let ours: BTreeSet<String> =
            root.groups().map(|group| print_group(&as_added(group.spec()), &NoNames)).collect();
        assert_eq!(ours, lines(&dump), "{word} {text}");
    }
}

fn as_added(spec: &weft_core::tables::GroupSpec) -> weft_flow::message::GroupMod {
    weft_flow::message::GroupMod {
        command: GroupCommand::Add,
        id: spec.id,
        kind: spec.kind,
        selection: spec.selection.clone(),
        buckets: spec.buckets.clone(),
        position: None,
    }
}
