//! Commands about flow tables: what they ask for, in how many pieces, and what a switch without tables answers.

use serde_json::json;
use weft_config::control::{
    CachedFlow, Code, Counted, FlowOp, FlowReply, GroupStatus, MeterStatus, Op, Refusal, RuleStatus, Verb,
};

use crate::support::{FakeSwitch, weftctl};

/// What the switch that only talks says.
pub fn answer(op: FlowOp) -> Result<FlowReply, Refusal> {
    let counted = |packets| Counted { packets, bytes: packets * 100 };
    Ok(match op {
        FlowOp::Change(text) if text.more => FlowReply::Bundle { bundle: 7 },
        FlowOp::Change(text) => match text.verb {
            Verb::FlowDiff => FlowReply::Differences {
                differences: vec!["-priority=0 actions=NORMAL".to_owned(), "+actions=drop".to_owned()],
            },
            Verb::FlowAdd if text.text.contains("bad") => {
                return Err(Refusal::new(
                    Code::Refused,
                    "column 1: 'bad': no match field or setting of that name",
                ));
            }
            Verb::FlowAdd => FlowReply::Changed { added: 2, replaced: 1, removed: 0 },
            _ => FlowReply::Changed { added: 0, replaced: 0, removed: 0 },
        },
        FlowOp::Dump(dump) if dump.all && dump.filter.is_empty() => {
            FlowReply::Rules { rules: vec![own_rule()], next: None }
        }
        FlowOp::Dump(_) => FlowReply::Rules { rules: vec![rule("priority=10,arp", 3)], next: Some(4) },
        FlowOp::Next { .. } => FlowReply::Rules { rules: vec![rule("priority=0", 1200)], next: None },
        FlowOp::Groups(_) => FlowReply::Groups {
            groups: vec![GroupStatus {
                id: 1,
                text: "group_id=1,type=all,bucket=bucket_id:0,actions=output:vm1".to_owned(),
                duration_s: 4.25,
                counted: counted(5),
                buckets: vec![counted(5)],
            }],
        },
        FlowOp::Meters { .. } => FlowReply::Meters {
            meters: vec![MeterStatus {
                id: 1,
                text: "meter=1 kbps bands=\ntype=drop rate=1000".to_owned(),
                duration_s: 9.5,
                counted: counted(50),
                bands: vec![counted(7)],
            }],
        },
        FlowOp::Cache { .. } => FlowReply::Cached {
            flows: vec![
                CachedFlow {
                    worker: 1,
                    matches: "in_port=vm1,tcp,tp_dst=80".to_owned(),
                    steps: vec![
                        "set(dl_src=52:54:00:00:00:01)".to_owned(),
                        "output(vx1,tun_id=0x1392)".to_owned(),
                    ],
                    rules: 3,
                    packets: 17,
                    bytes: 1700,
                    age_s: 2,
                },
                CachedFlow { matches: "in_port=vm1,udp".to_owned(), ..CachedFlow::default() },
            ],
        },
    })
}

/// A rule of weft's own tables.
fn own_rule() -> RuleStatus {
    let text =
        "cookie=0xac11000100020000, duration=1.5s, table=269, n_packets=3, tcp,reg7=0x1 actions=permit";
    RuleStatus { text: text.to_owned(), owner: "group web, rule 2".to_owned(), ..rule("tcp,reg7=0x1", 3) }
}

fn rule(matches: &str, packets: u64) -> RuleStatus {
    RuleStatus {
        packets,
        bytes: packets * 100,
        duration_s: 1.5,
        matches: matches.to_owned(),
        actions: "NORMAL".to_owned(),
        text: format!("cookie=0x0, duration=1.5s, table=0, n_packets={packets}, {matches} actions=NORMAL"),
        ..RuleStatus::default()
    }
}

/// What the last command asked for, as JSON.
fn asked(switch: &FakeSwitch) -> serde_json::Value {
    serde_json::to_value(switch.asked()).unwrap_or_default()
}

#[test]
fn commands_about_flow_tables_ask_for_what_they_say() {
    let switch = FakeSwitch::new("asks-flows").unwrap();
    let change =
        |verb: &str, text: &str| json!([{"flow": {"change": {"bridge": "br0", "verb": verb, "text": text}}}]);
    for (words, verb, text) in [
        ("flow add br0 actions=drop", "flow_add", "actions=drop"),
        ("flow add br0 tcp,actions=drop udp,actions=drop", "flow_add", "tcp,actions=drop\nudp,actions=drop"),
        ("flow mod br0 actions=drop", "flow_mod", "actions=drop"),
        ("flow mod --strict br0 actions=drop", "flow_mod_strict", "actions=drop"),
        ("flow del br0", "flow_del", ""),
        ("flow del br0 --strict tcp", "flow_del_strict", "tcp"),
        ("group mod br0 group_id=1", "group_mod", "group_id=1"),
        ("group mod --may-create br0 group_id=1", "group_add_or_mod", "group_id=1"),
        ("group del br0", "group_del", "group_id=all"),
        ("group insert-buckets br0 group_id=1", "group_insert_buckets", "group_id=1"),
        ("group remove-buckets br0 group_id=1", "group_remove_buckets", "group_id=1"),
        ("meter mod br0 meter=1", "meter_mod", "meter=1"),
        ("meter del br0", "meter_del", "meter=all"),
    ] {
        switch.run(words).unwrap();
        assert_eq!(asked(&switch), change(verb, text), "{words}");
    }
    switch.run("flow dump br0 table=1,tcp --no-stats --no-names --all").unwrap();
    let dump =
        json!({"bridge": "br0", "filter": "table=1,tcp", "all": true, "no_stats": true, "no_names": true});
    assert_eq!(asked(&switch), json!([{"flow": {"dump": dump}}, {"flow": {"next": {"dump": 4}}}]));
}

#[test]
fn a_long_file_goes_in_pieces_of_whole_lines_and_nothing_is_lost() {
    let switch = FakeSwitch::new("pieces").unwrap();
    let text: String = (0..20_000).map(|at| format!("table=1,reg0={at} actions=drop\n")).collect();
    let output = weftctl(&switch.path, &["flow", "add", "br0", "-"], &text).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2 added, 1 replaced\n");
    let mut joined = String::new();
    let asked = switch.asked();
    for (at, op) in asked.iter().enumerate() {
        let Op::Flow(FlowOp::Change(piece)) = op else { panic!("{op:?}") };
        assert!(piece.text.ends_with('\n') && piece.text.len() <= 128 << 10);
        assert_eq!((piece.more, piece.bundle), (at + 1 < asked.len(), (at > 0).then_some(7)));
        assert_eq!(piece.file.as_deref(), Some("standard input"));
        joined.push_str(&piece.text);
    }
    assert!(asked.len() > 2 && joined == text);
}

#[test]
fn a_wrong_command_about_flow_tables_is_told_in_one_line() {
    let switch = FakeSwitch::new("bad-flows").unwrap();
    let told = |words: &[&str], input: &str| {
        let output = weftctl(&switch.path, words, input).unwrap();
        assert_eq!(output.stdout.len(), 0);
        (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code())
    };
    let cases: &[(&[&str], i32, &str)] = &[
        (&["flow", "add", "br0"], 2, "nothing is given: name rules, groups or meters, or --file FILE"),
        (
            &["flow", "add", "br0", "tcp\nudp"],
            2,
            "'tcp\\nudp' has several lines: give one rule an argument, or --file FILE",
        ),
        (&["flow", "add", "br0", "bad"], 1, "column 1: 'bad': no match field or setting of that name"),
        (
            &["flow", "replace", "br0", "/nowhere/f"],
            1,
            "/nowhere/f: can't read: No such file or directory (os error 2)",
        ),
    ];
    for (words, status, line) in cases {
        assert_eq!(told(words, ""), (format!("weftctl: {line}\n"), Some(*status)), "{words:?}");
    }
    let file = std::env::temp_dir().join(format!("weftctl-flows-{}", std::process::id()));
    std::fs::write(&file, b"tcp,actions=drop\n\xff\n\n").unwrap();
    let path = file.display().to_string();
    let (line, _) = told(&["flow", "add", "br0", "--file", &path], "");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(line, format!("weftctl: {path}: line 2 is not UTF-8 text\n"));
}
