//! What the prepared switch tells of dropped packets, and what it is asked.

use std::net::Ipv4Addr;

use serde_json::json;
use weft_config::control::{
    DropPlace, FoundRule, Reply, WhyDrop, WhyGuard, WhyOutput, WhyReport, WhyRequest, WhyRule, WhySample,
    WhySent, WhyTunnel,
};
use weft_wire::TunnelKind;

use crate::support::FakeSwitch;

/// Ports drop, addresses don't.
pub fn answer(request: &WhyRequest) -> Reply {
    let why = match request.subject.as_str() {
        "vm1" => report(),
        subject => WhyReport { subject: subject.to_owned(), uptime_ms: 5000, ..WhyReport::default() },
    };
    Reply::Why { why: Box::new(why) }
}

fn report() -> WhyReport {
    WhyReport {
        subject: "port vm1 of bridge br0".to_owned(),
        uptime_ms: 4000,
        drops: dropped(),
        sent: vec![sent()],
        further: 2,
        untraced: 3,
        left_out: 7,
    }
}

fn dropped() -> Vec<WhyDrop> {
    let rule = |found| Some(WhyRule { bridge: "br0".to_owned(), table: 60, found });
    let found = FoundRule {
        priority: 40000,
        cookie: 0x77,
        name: None,
        matches: "icmp".to_owned(),
        actions: "drop".to_owned(),
    };
    let ping = WhyDrop {
        port: "vm1".to_owned(),
        stage: "flow tables".to_owned(),
        reason: "rule_drop".to_owned(),
        rule: rule(Some(found)),
        guard: None,
        leaves: false,
        flow: "in_port=vm1,icmp,nw_dst=10.0.0.2".to_owned(),
        flows: 2,
        packets: 12,
        rate: None,
        age_s: 0,
        sample: Some(WhySample {
            text: "02:00:00:00:00:01 > 02:00:00:00:00:02, IPv4 10.0.0.1 > 10.0.0.2: ICMP echo request, id 5, seq 1, length 98".to_owned(),
            length: 98,
            age_s: 0,
        }),
        hint: "the rule of table 60 of bridge br0, priority 40000, cookie 0x77, matching icmp, says drop".to_owned(),
    };
    let missed = WhyDrop {
        reason: "table_miss".to_owned(),
        rule: rule(None),
        flows: 0,
        packets: 1,
        age_s: 9,
        flow: String::new(),
        sample: None,
        hint: "table 60 of bridge br0 has no rule for it".to_owned(),
        ..ping.clone()
    };
    let refused = WhyDrop {
        stage: "security groups".to_owned(),
        reason: "acl_ingress".to_owned(),
        guard: Some(WhyGuard { port: "vm2".to_owned(), groups: vec!["web".to_owned(), "db".to_owned()] }),
        ..missed.clone()
    };
    let full = WhyDrop {
        stage: "transmit".to_owned(),
        reason: "tx_ring_full".to_owned(),
        rule: None,
        packets: 3,
        hint: "The receiver is slower than the sender.".to_owned(),
        ..missed.clone()
    };
    let one_copy = WhyDrop {
        leaves: true,
        reason: "vni_unmapped".to_owned(),
        stage: "tunnel out".to_owned(),
        ..full.clone()
    };
    vec![ping, missed, refused, full, one_copy]
}

fn sent() -> WhySent {
    let tunnel =
        WhyTunnel { kind: TunnelKind::Vxlan, remote: Ipv4Addr::new(192, 0, 2, 2), key: 5010, problem: None };
    let outputs = vec![
        WhyOutput { port: "vx1".to_owned(), tunnel: Some(tunnel) },
        WhyOutput { port: "vm2".to_owned(), tunnel: None },
    ];
    WhySent {
        port: "vm1".to_owned(),
        outputs,
        further: 3,
        flow: "in_port=vm1,arp".to_owned(),
        flows: 1,
        packets: 4,
        rate: None,
        age_s: 2,
    }
}

/// By port, table and cookie.
pub fn places() -> Vec<DropPlace> {
    let place = DropPlace {
        port: "vm1".to_owned(),
        reason: "rule_drop".to_owned(),
        bridge: Some("br0".to_owned()),
        table: Some(60),
        cookie: Some(0x77),
        name: None,
        packets: 12,
        bytes: 1176,
        age_s: 0,
    };
    let missed = DropPlace {
        reason: "table_miss".to_owned(),
        cookie: None,
        packets: 1,
        bytes: 60,
        age_s: 9,
        ..place.clone()
    };
    let unknown = DropPlace {
        port: "(uplink)".to_owned(),
        reason: "tunnel_unknown".to_owned(),
        bridge: None,
        table: None,
        ..missed.clone()
    };
    vec![place, missed, unknown]
}

#[test]
fn the_switch_is_asked_once_without_waiting_and_twice_for_rates() {
    let switch = FakeSwitch::new("why").unwrap();
    let asked = |words: &str| {
        let output = switch.run(words).unwrap();
        assert_eq!(output.status.code(), Some(0), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::to_value(switch.asked()).unwrap()
    };
    let op = json!({"why": {"subject": "02:00:00:00:00:01", "last_s": 5}});
    assert_eq!(asked("why 02:00:00:00:00:01 --last 5 --wait 0"), json!([op]));
    assert_eq!(asked("why 02:00:00:00:00:01 --last 5"), json!([op, op]));
    assert_eq!(switch.run("why").unwrap().status.code(), Some(2), "somebody is needed");
}
