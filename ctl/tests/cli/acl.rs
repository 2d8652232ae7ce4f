//! `weftctl acl`: what it asks, and what the fake switch tells of groups.

use serde_json::json;
use weft_config::control::{AclGroupStatus, AclPortStatus, AclRuleStatus, Code, Counted, Refusal, Reply};
use weft_config::value::Value;
use weft_wire::PortName;

use crate::support::FakeSwitch;

fn name(text: &str) -> PortName {
    PortName::parse(text).unwrap()
}

fn rule(id: u32, text: &str, packets: u64) -> AclRuleStatus {
    let counted = Counted { packets, bytes: packets * 100 };
    AclRuleStatus { id, cookie: 0xac11_0001_0000_0000 | u64::from(id) << 16, text: text.to_owned(), counted }
}

/// Two groups and two guarded ports.
pub fn answer(wanted: Option<&str>) -> Result<Reply, Refusal> {
    let groups = [
        AclGroupStatus {
            name: "web".to_owned(),
            id: 1,
            members: vec!["10.0.0.7".to_owned(), "10.1.0.0/16".to_owned()],
            ports: vec![name("vm1"), name("vm2")],
            rules: vec![
                rule(1, "ingress ipv4 tcp ports=80-81", 12),
                rule(2, "egress ipv4 any remote=db stateless", 0),
            ],
            counted: Counted { packets: 12, bytes: 1200 },
        },
        AclGroupStatus { name: "db".to_owned(), id: 2, ..AclGroupStatus::default() },
    ];
    let vm1 = AclPortStatus {
        bridge: name("br0"),
        name: name("vm1"),
        groups: vec!["web".to_owned(), "db".to_owned()],
        egress: "open".to_owned(),
        multicast: true,
        security: vec!["02:00:00:00:00:01 10.0.0.1".to_owned()],
        zones: 0xf000,
        drops: [("acl_ingress".to_owned(), 7), ("spoofed_arp".to_owned(), 2)].into(),
    };
    let vm3 = AclPortStatus {
        name: name("vm3"),
        groups: Vec::new(),
        egress: "deny".to_owned(),
        multicast: false,
        zones: 0,
        drops: Default::default(),
        ..vm1.clone()
    };
    let is = |own: &str| wanted.is_none_or(|wanted| wanted == own);
    let groups: Vec<_> = groups.into_iter().filter(|group| is(&group.name)).collect();
    let ports: Vec<_> = [vm1, vm3].into_iter().filter(|port| is(port.name.as_str())).collect();
    match wanted {
        Some(wanted) if groups.is_empty() && ports.is_empty() => {
            Err(Refusal::new(Code::NotFound, format_args!("there is no group or port '{wanted}'")))
        }
        _ => Ok(Reply::Acl { groups, ports }),
    }
}

#[test]
fn commands_about_groups_ask_for_what_they_say() {
    let switch = FakeSwitch::new("asks-acl").unwrap();
    for (words, change) in [
        ("acl group add web", json!([{"acl_group_add": {"group": {"name": "web"}}}])),
        ("acl group del web", json!([{"acl_group_del": {"name": "web"}}])),
        (
            "acl rule add web ingress protocol=tcp ports=80-81 remote=db",
            json!([{"acl_rule_add": {"group": "web", "rule":
                {"direction": "ingress", "protocol": "tcp", "ports": "80-81", "remote": "db"}}}]),
        ),
        ("acl rule del web 7", json!([{"acl_rule_del": {"group": "web", "id": 7}}])),
        (
            "acl member add web 10.0.0.1 10.1.0.0/16",
            json!([
                {"acl_member_add": {"group": "web", "member": "10.0.0.1"}},
                {"acl_member_add": {"group": "web", "member": "10.1.0.0/16"}}
            ]),
        ),
        (
            "acl member del web 2001:db8::1",
            json!([{"acl_member_del": {"group": "web", "member": "2001:db8::1"}}]),
        ),
        ("acl bind vm1 web db", json!([{"port_set": {"name": "vm1", "set": {"acl": "web,db"}}}])),
        ("acl bind vm1", json!([{"port_set": {"name": "vm1", "set": {"acl": null}}}])),
    ] {
        switch.run(words).unwrap();
        let asked = serde_json::to_value(switch.asked()).unwrap();
        assert_eq!(asked, json!([{"apply": {"changes": change}}]), "{words}");
    }
}

#[test]
fn a_rule_that_can_never_match_is_refused_before_anything_is_sent() {
    let switch = FakeSwitch::new("bad-acl").unwrap();
    for (words, line) in [
        (
            "acl rule add web ingress protocol=tcp ports=90-80",
            "rule of web: ports: '90-80' is not a range of ports: the first is above the last",
        ),
        (
            "acl rule add web ingress protocol=icmp ports=80",
            "rule of web: ports: the rule can never match: protocol icmp has no ports; tcp, udp and sctp have",
        ),
        (
            "acl rule add web egress remote=2001:db8::/32",
            "rule of web: remote: the rule can never match: 2001:db8::/32 is no ipv4 network",
        ),
        (
            "acl rule add web up",
            "direction: 'up' is not a direction: ingress (to the port) or egress (from the port)",
        ),
        ("acl rule del web 0", "rule: 0 is out of range: 1 to 65535"),
        (
            "acl member add web 10.0.0.1/8",
            "member: '10.0.0.1/8' is not a network: bits beyond its length are set: expected 10.0.0.0/8, or the address without a length",
        ),
        (
            "acl rule add web ingress protocol=icmp icmp=0",
            "rule of web: icmp: the rule can never match: ICMP 0 begins no connection, types 8, 13 and 15 with code 0 do (answers to what passes, and errors about it, need no rule); others need stateless=true",
        ),
        (
            "acl rule add web egress ethertype=ipv6 protocol=44",
            "rule of web: protocol: the rule can never match: 44 is an extension header in ipv6, and rules are about what follows: expected any, or a number other than 0, 43, 44, 51 and 60",
        ),
        (
            "acl bind vm1 any",
            "group: 'any' is not the name of a group: 1 to 63 letters, digits, '.', '_' and '-', a letter or digit first, and not any",
        ),
    ] {
        let output = switch.run(words).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("weftctl: {line}\n"), "{words}");
        assert!(switch.asked().is_empty(), "{words}");
    }
}
