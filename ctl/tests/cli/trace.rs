//! What the prepared switch tells of a packet, and what each way to name a packet asks for.

use serde_json::json;
use weft_config::control::{
    FoundRule, Op, Reply, TraceChange, TraceCopy, TraceDrop, TraceEvent, TraceReport, TraceRequest, TraceStep,
};
use weft_wire::{Mac, Vid};

use crate::support::FakeSwitch;

fn steps(events: Vec<(u16, TraceEvent)>) -> Vec<TraceStep> {
    events.into_iter().map(|(depth, event)| TraceStep { depth, event }).collect()
}

fn rule(priority: u16, cookie: u64, matches: &str, actions: &str) -> Option<FoundRule> {
    // One of the switch's own.
    let name = (cookie >> 48 == 0xac11).then(|| "group web, rule 2".to_owned());
    Some(FoundRule { priority, cookie, name, matches: matches.to_owned(), actions: actions.to_owned() })
}

fn entry() -> TraceEvent {
    TraceEvent::Bridge { bridge: "br0".to_owned(), port: "vm1".to_owned(), ofport: 1 }
}

/// A packet to TCP port 22 is dropped, every other one is forwarded.
pub fn answer(request: &TraceRequest) -> Reply {
    let trace = if request.flow.contains("tp_dst=22") { dropped() } else { forwarded() };
    Reply::Trace { trace: Box::new(trace) }
}

fn forwarded() -> TraceReport {
    let copy = TraceCopy {
        bridge: "br0".to_owned(),
        port: "vm2".to_owned(),
        ofport: 2,
        vlan: Some(10),
        pcp: Some(0),
        changes: Vec::new(),
        max_len: None,
        tunnel: None,
        text: "vm2 (VLAN 10)".to_owned(),
    };
    let (vlan, port) = (Vid::from_tci(10), "vm1".to_owned());
    let change = TraceChange { field: "reg0".to_owned(), from: "0x0".to_owned(), to: "0x5".to_owned() };
    TraceReport {
        packet: "tcp,in_port=vm1,vlan_tci=0x0000,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02"
            .to_owned(),
        reads: vec!["dl_src".to_owned(), "dl_dst".to_owned(), "vlan".to_owned()],
        steps: steps(vec![
            (0, entry()),
            (
                1,
                TraceEvent::Lookup {
                    table: 0,
                    rule: rule(10, 0x7, "in_port=vm1", "load:0x5->NXM_NX_REG0[],resubmit(,20)"),
                },
            ),
            (2, TraceEvent::Action("load:0x5->NXM_NX_REG0[]".to_owned())),
            (3, TraceEvent::Change(change)),
            (2, TraceEvent::Action("resubmit(,20)".to_owned())),
            (
                3,
                TraceEvent::Lookup {
                    table: 271,
                    rule: rule(2, 0xac11_0001_0002_0000, "tcp", "resubmit(,273)"),
                },
            ),
            (3, TraceEvent::Lookup { table: 20, rule: rule(0, 0, "", "NORMAL") }),
            (4, TraceEvent::Action("NORMAL".to_owned())),
            (5, TraceEvent::Vlan { vlan }),
            (5, TraceEvent::Sender { vlan, mac: Mac([2, 0, 0, 0, 0, 1]), port, known: false }),
            (5, TraceEvent::Destination { vlan, mac: Mac([2, 0, 0, 0, 0, 2]), port: None }),
            (5, TraceEvent::Skipped { port: "vm3".to_owned(), reason: "tx_port_down".to_owned() }),
            (5, TraceEvent::Output(copy.clone())),
        ]),
        left_out: 0,
        copies: vec![copy],
        controllers: Vec::new(),
        dropped: None,
        summary: "forwarded to vm2 (VLAN 10)".to_owned(),
    }
}

fn dropped() -> TraceReport {
    let hint =
        "the rule of table 0 of bridge br0, priority 100, matching tcp,tp_dst=22, says drop".to_owned();
    TraceReport {
        packet: "tcp,in_port=vm1,tp_dst=22".to_owned(),
        reads: vec!["tcp_dst".to_owned()],
        steps: steps(vec![
            (0, entry()),
            (1, TraceEvent::Lookup { table: 0, rule: rule(100, 0, "tcp,tp_dst=22", "drop") }),
        ]),
        left_out: 0,
        copies: Vec::new(),
        controllers: Vec::new(),
        summary: format!("dropped (rule_drop): {hint}"),
        dropped: Some(TraceDrop { reason: "rule_drop".to_owned(), hint }),
    }
}

/// The one operation that a command sends.
#[track_caller]
fn asks(words: &str, name: &str, expected: serde_json::Value) {
    let switch = FakeSwitch::new(name).unwrap();
    let output = switch.run(words).unwrap();
    assert_eq!(output.status.code(), Some(0), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    let asked: Vec<Op> = switch.asked();
    assert_eq!(serde_json::to_value(asked).unwrap(), json!([{ "trace": expected }]), "{words}");
}

#[test]
fn a_packet_is_a_match_or_octets_or_the_first_one_of_a_capture() {
    asks("trace br0 in_port=1,arp", "trace-flow", json!({"bridge": "br0", "flow": "in_port=1,arp"}));
    asks(
        "trace br0 --hex 0200 --in-port vm1",
        "trace-hex",
        json!({"bridge": "br0", "frame": "0200", "in_port": "vm1"}),
    );
    let mut capture = Vec::new();
    for number in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 1, 1, 2, 3, 3] {
        capture.extend(number.to_le_bytes());
    }
    capture.extend([2, 0xa, 0xff]);
    let file = std::env::temp_dir().join(format!("weftctl-trace-{}.pcap", std::process::id()));
    std::fs::write(&file, capture).unwrap();
    asks(
        &format!("trace br0 tun_id=5 --pcap {} --in-port vx1", file.display()),
        "trace-pcap",
        json!({"bridge": "br0", "flow": "tun_id=5", "frame": "020aff", "in_port": "vx1"}),
    );
    std::fs::write(&file, b"text").unwrap();
    let switch = FakeSwitch::new("trace-bad").unwrap();
    let output = switch.run(&format!("trace br0 --pcap {}", file.display())).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).ends_with(": neither a pcap nor a pcapng file\n"));
    let output = switch.run("trace br0").unwrap();
    assert_eq!(output.status.code(), Some(2), "a packet is needed");
}
