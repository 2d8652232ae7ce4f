//! The prepared switch's connections, and what commands about them ask for.

use std::collections::BTreeMap;

use serde_json::json;
use weft_config::control::{
    ConnectionStatus, ConntrackCount, ConntrackOp, ConntrackReply, TupleStatus, ZoneCount, ZoneLimitStatus,
    ZoneTimeouts,
};

use crate::support::FakeSwitch;

pub fn answer(op: &ConntrackOp) -> ConntrackReply {
    let named = |numbers: &[(&str, u32)]| -> BTreeMap<String, u32> {
        numbers.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect()
    };
    match op {
        // A long listing comes in pieces.
        ConntrackOp::List { filter, from: from @ 0..3, .. } if filter.zone == Some(7) => {
            ConntrackReply::Connections { connections: vec![connection()], more: 0, next: Some(from + 1) }
        }
        ConntrackOp::List { .. } => {
            ConntrackReply::Connections { connections: vec![connection()], more: 3, next: None }
        }
        ConntrackOp::Flush { .. } => ConntrackReply::Flushed { connections: 2 },
        ConntrackOp::Count { .. } => ConntrackReply::Counted(ConntrackCount {
            connections: 12,
            zones: vec![ZoneCount { zone: 0, connections: 2 }, ZoneCount { zone: 5, connections: 10 }],
            totals: BTreeMap::from([("created".to_owned(), 100), ("invalid".to_owned(), 0)]),
        }),
        ConntrackOp::Limits => {
            let zone = |zone, connections, limit, own| ZoneLimitStatus {
                zone,
                connections,
                limit,
                own,
                refused: if own && limit.is_some() { 7 } else { 0 },
            };
            let zones =
                vec![zone(0, 2, Some(1000), false), zone(5, 10, Some(20), true), zone(6, 0, None, true)];
            ConntrackReply::Limits { max: 4_000_000, default: Some(1000), zones }
        }
        ConntrackOp::Timeouts => ConntrackReply::Timeouts {
            default: named(&[("tcp_established", 86_400), ("udp_single", 60)]),
            zones: vec![ZoneTimeouts {
                zone: 5,
                seconds: named(&[("tcp_established", 3600), ("udp_single", 60)]),
            }],
        },
    }
}

fn connection() -> ConnectionStatus {
    let tuple = |src: [u8; 4], dst: [u8; 4], sport, dport| TupleStatus {
        src: src.into(),
        dst: dst.into(),
        sport,
        dport,
    };
    let (one, two) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    ConnectionStatus {
        text: "tcp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=40000,dport=80),reply=(src=10.0.0.2,dst=10.0.0.1,sport=80,dport=40000),zone=5,protoinfo=(state=ESTABLISHED)".to_owned(),
        proto: "tcp".to_owned(),
        zone: 5,
        original: tuple(one, two, 40000, 80),
        reply: tuple(two, one, 80, 40000),
        state: Some("ESTABLISHED".to_owned()),
        label: "0x0".to_owned(),
        left_s: 86_399,
        ..ConnectionStatus::default()
    }
}

#[test]
fn commands_about_connections_ask_for_what_they_say() {
    let switch = FakeSwitch::new("conntrack").unwrap();
    let asks = |words: &str, expected: serde_json::Value| {
        let output = switch.run(words).unwrap();
        assert_eq!(output.status.code(), Some(0), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(serde_json::to_value(switch.asked()).unwrap(), json!([expected]), "{words}");
    };
    let filter = json!({"zone": 5, "proto": "tcp", "src": "10.0.0.1", "dport": 80, "mark": "0x1/0xff"});
    asks(
        "conntrack list zone=5 proto=tcp src=10.0.0.1 dport=80 mark=1/0xff --limit 7",
        json!({"conntrack": {"list": {"filter": filter, "limit": 7}}}),
    );
    let output = switch.run("conntrack list zone=7 --limit 10").unwrap();
    let piece = |(limit, from): (u32, u32)| match from {
        0 => json!({"conntrack": {"list": {"filter": {"zone": 7}, "limit": limit}}}),
        _ => json!({"conntrack": {"list": {"filter": {"zone": 7}, "limit": limit, "from": from}}}),
    };
    let pieces = [(10, 0), (9, 1), (8, 2), (7, 3)].map(piece);
    assert_eq!(serde_json::to_value(switch.asked()).unwrap(), json!(pieces));
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        (listed.lines().count(), listed.ends_with("\n3 more; --limit NUMBER lists more, a filter less\n")),
        (5, true)
    );
    asks("conntrack flush", json!({"conntrack": {"flush": {"filter": {}}}}));
    asks(
        "conntrack count reply_src=2001:db8::1",
        json!({"conntrack": {"count": {"filter": {"reply_src": "2001:db8::1"}}}}),
    );
    asks("conntrack timeout", json!({"conntrack": "timeouts"}));
    let set = |zone: serde_json::Value, set: serde_json::Value| {
        let change = if zone.is_null() { json!({"set": set}) } else { json!({"zone": zone, "set": set}) };
        json!({"apply": {"changes": [{"conntrack_set": change}]}})
    };
    asks("conntrack limit default 1000", set(json!(null), json!({"limit": "1000"})));
    asks("conntrack limit 5 unlimited", set(json!(5), json!({"limit": "unlimited"})));
    asks("conntrack limit 5 -", set(json!(5), json!({"limit": null})));
    asks(
        "conntrack timeout 5 udp_single=10 tcp_close=",
        set(json!(5), json!({"udp_single": "10", "tcp_close": null})),
    );
    asks("conntrack timeout default icmp_first=1", set(json!(null), json!({"icmp_first": "1"})));
}

#[test]
fn a_wrong_command_about_connections_is_told_in_one_line() {
    let switch = FakeSwitch::new("conntrack-bad").unwrap();
    for (words, line) in [
        ("conntrack list zone=65536", "connections: zone: not a number: 0 to 65535"),
        ("conntrack list src=10.0.0", "connections: src: not an IP address"),
        (
            "conntrack list proto=xyz",
            "connections: proto: 'xyz' is not an IP protocol: tcp, udp, icmp, icmpv6, sctp, dccp, igmp, or 0 to 255",
        ),
        (
            "conntrack list mark=x",
            "connections: mark: 'x' is not a number or VALUE/MASK, as in 5 or 0x5/0xff",
        ),
        ("conntrack limit 70000 1", "zone: 70000 is out of range: 0 to 65535"),
        ("conntrack limit 5 0", "limit: 0 is not unlimited, or a number: 1 to 67108864"),
        ("conntrack timeout 5 udp_first=0", "conntrack zone 5: udp_first: 0 is out of range: 1 to 31536000"),
    ] {
        let output = switch.run(words).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("weftctl: {line}\n"), "{words}");
    }
    assert!(switch.asked().is_empty());
}
