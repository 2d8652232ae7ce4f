//! Changes of flow tables, beside stock Open vSwitch: the same messages leave the same rules.
//!
//! Messages are made at random from a small world, so that they often meet. Each goes to `ovs-ofctl`, as OpenFlow 1.4, and to
//! [`FlowTables`]; after each, both have to have refused or accepted it, and to have the same rules.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use weft_core::tables::{Change, FlowTables, Rule};
use weft_flow::message::{FlowCommand, FlowFlags, FlowMod, GroupCommand, GroupMod};
use weft_flow::{Action, Field, Match};
use weft_tests::cmd::{SHORT, run};
use weft_tests::ovs::{SCHEMA, StockOvs};
use weft_tests::{Lab, Need, Result};
use weft_wire::OfPort;

/// How many messages are compared.
const MESSAGES: u64 = 400;
/// After so many, all rules are deleted.
const RUN: u64 = 25;

/// Matches as Open vSwitch dumps them.
fn matches() -> Vec<(&'static str, Match)> {
    let ip = Match::any().with(Field::EthType, 0x0800);
    let tcp = ip.with(Field::NwProto, 6);
    let net = |of: &Match, value, length: u32| {
        of.with_masked(Field::IpDst, value, u128::from(u32::MAX << (32 - length)))
    };
    vec![
        ("", Match::any()),
        ("ip", ip.clone()),
        ("ip,nw_dst=10.0.0.0/8", net(&ip, 0x0a00_0000, 8)),
        ("ip,nw_dst=10.1.0.0/16", net(&ip, 0x0a01_0000, 16)),
        ("ip,nw_dst=11.0.0.0/8", net(&ip, 0x0b00_0000, 8)),
        ("tcp", tcp.clone()),
        ("tcp,tp_dst=80", tcp.with(Field::TcpDst, 80)),
        ("tcp,tp_dst=0x50/0xfff0", tcp.with_masked(Field::TcpDst, 0x50, 0xfff0)),
        ("tcp,nw_dst=10.0.0.0/8,tp_dst=80", net(&tcp, 0x0a00_0000, 8).with(Field::TcpDst, 80)),
        ("udp,tp_dst=53", ip.with(Field::NwProto, 17).with(Field::UdpDst, 53)),
        ("in_port=1", Match::any().with(Field::InPort, 1)),
    ]
}

/// Actions as Open vSwitch dumps them.
fn actions() -> Vec<(&'static str, Vec<Action>)> {
    let out = |port| Action::Output(OfPort(port));
    vec![
        ("drop", vec![]),
        ("output:1", vec![out(1)]),
        ("output:2", vec![out(2)]),
        ("output:1,goto_table:9", vec![out(1), Action::GotoTable(9)]),
        ("group:1", vec![Action::Group(1)]),
        ("output:2,group:2", vec![out(2), Action::Group(2)]),
        ("clone(output:1)", vec![Action::Clone(Box::new([out(1)]))]),
    ]
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn once_in(&mut self, times: u64) -> bool {
        self.roll(times) == 0
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.roll(all.len() as u64) as usize]
    }
}

/// A message, as a line of a bundle file and as a change.
fn message(dice: &mut Dice) -> (String, Change) {
    if dice.once_in(8) {
        let id = 1 + dice.roll(2) as u32;
        return match dice.once_in(2) {
            true => (format!("group add group_id={id},type=all"), group(GroupCommand::Add, id)),
            false => (format!("group delete group_id={id}"), group(GroupCommand::Delete, id)),
        };
    }
    use FlowCommand::*;
    let commands = [Add, Add, Add, Add, Modify, ModifyStrict, Delete, DeleteStrict];
    let command = *dice.of(&commands);
    flow(dice, command)
}

fn group(command: GroupCommand, id: u32) -> Change {
    Change::Group(GroupMod { command, id, ..GroupMod::default() })
}

fn flow(dice: &mut Dice, command: FlowCommand) -> (String, Change) {
    let (word, strict, deletes) = match command {
        FlowCommand::Add => ("add", true, false),
        FlowCommand::Modify => ("modify", false, false),
        FlowCommand::ModifyStrict => ("modify_strict", true, false),
        FlowCommand::Delete => ("delete", false, true),
        FlowCommand::DeleteStrict => ("delete_strict", true, true),
    };
    let all = matches();
    let (match_text, matches) = dice.of(&all).clone();
    let mut flow = FlowMod { command, matches, ..FlowMod::default() };
    let mut line = format!("flow {word} {match_text}");
    // OpenFlow forbids "every table" for all but deletions.
    if !deletes || dice.once_in(2) {
        let table = dice.roll(3) as u8;
        flow.table = Some(table);
        write!(line, ",table={table}").unwrap();
    } else {
        flow.table = None;
    }
    if strict {
        flow.priority = 1 + dice.roll(2) as u16;
        write!(line, ",priority={}", flow.priority).unwrap();
    }
    if command == FlowCommand::Add {
        adding(dice, &mut flow, &mut line);
    } else if dice.once_in(3) {
        let (cookie, mask) = (dice.roll(3), *dice.of(&[1, u64::MAX]));
        flow.cookie_filter = (cookie, mask);
        write!(line, ",cookie={cookie:#x}/{mask:#x}").unwrap();
    }
    if deletes {
        if dice.once_in(4) {
            flow.out_port = Some(OfPort(1));
            line += ",out_port=1";
        }
        if dice.once_in(6) {
            flow.out_group = Some(1);
            line += ",out_group=1";
        }
    } else {
        let all = actions();
        let (text, actions) = dice.of(&all).clone();
        flow.actions = actions.into();
        write!(line, ",actions={text}").unwrap();
    }
    (line, Change::Flow(flow))
}

fn adding(dice: &mut Dice, flow: &mut FlowMod, line: &mut String) {
    let cookie = dice.roll(3);
    flow.cookie = Some(cookie);
    flow.hard_timeout = 1000 * dice.roll(2) as u16;
    flow.importance = dice.roll(2) as u16;
    let flags =
        FlowFlags { check_overlap: dice.once_in(4), reset_counts: dice.once_in(4), ..FlowFlags::default() };
    flow.flags = flags;
    write!(line, ",cookie={cookie:#x},hard_timeout={},importance={}", flow.hard_timeout, flow.importance)
        .unwrap();
    *line += if flags.check_overlap { ",check_overlap" } else { "" };
    *line += if flags.reset_counts { ",reset_counts" } else { "" };
}

/// A rule in the form of `ovs-ofctl --no-stats dump-flows`, without blanks and commas, in one order.
fn shown(rule: &Rule) -> String {
    let all = matches();
    let text = all.iter().find(|(_, matches)| *matches == rule.matches).unwrap().0;
    let all = actions();
    let actions = all.iter().find(|(_, actions)| **actions == *rule.actions).unwrap().0;
    let mut parts = vec![];
    let numbers = [
        ("cookie", rule.cookie),
        ("table", rule.table.0.into()),
        ("hard_timeout", rule.hard_timeout().into()),
        ("importance", rule.importance.into()),
    ];
    for (name, value) in numbers {
        match (name, value) {
            (_, 0) => {}
            ("cookie", value) => parts.push(format!("cookie={value:#x}")),
            (name, value) => parts.push(format!("{name}={value}")),
        }
    }
    parts.push(format!("priority={}", rule.priority));
    let flags = [("check_overlap", rule.flags.check_overlap), ("reset_counts", rule.flags.reset_counts)];
    parts.extend(flags.iter().filter(|(_, set)| *set).map(|(name, _)| (*name).to_owned()));
    parts.extend(text.split(',').filter(|part| !part.is_empty()).map(str::to_owned));
    parts.sort();
    format!("{} actions={actions}", parts.join(" "))
}

/// The same of a line that Open vSwitch prints.
fn normalized(line: &str) -> String {
    let (left, actions) = line.split_once("actions=").unwrap();
    let mut parts: Vec<_> = left.split([',', ' ']).filter(|part| !part.is_empty()).collect();
    if !left.contains("priority=") {
        parts.push("priority=32768");
    }
    parts.sort_unstable();
    format!("{} actions={actions}", parts.join(" "))
}

fn ofctl(ovs: &StockOvs, words: &[&str]) -> Result<(bool, String)> {
    let target = format!("unix:{}", ovs.dir().join("br0.mgmt").display());
    let argv = [&["ovs-ofctl", "-O", "OpenFlow14", words[0], &target], &words[1..]].concat();
    let output = run(&argv, SHORT)?;
    Ok((output.success(), format!("{}{}", output.stdout, output.stderr)))
}

#[test]
fn the_same_messages_leave_the_same_rules_as_in_stock_ovs() -> Result {
    let needs = [Need::Tool("ovs-vswitchd"), Need::Tool("ovs-ofctl"), Need::File(SCHEMA, "OVS's schema")];
    let Some(lab) = Lab::open("the_same_messages_leave_the_same_rules_as_in_stock_ovs", &needs)? else {
        return Ok(());
    };
    let ovs = StockOvs::dummy(&lab, "ovs")?;
    let settings = ["datapath_type=dummy", "protocols=OpenFlow10,OpenFlow14"];
    ovs.vsctl(&[&["add-br", "br0", "--", "set", "bridge", "br0"][..], &settings].concat())?;
    let (tables, file) = (FlowTables::normal(), lab.path("bundle"));
    let mut dice = Dice(2026);
    let (mut refused, mut most) = (0, 0);
    for number in 0..MESSAGES {
        let (line, change) = match number % RUN {
            0 => (
                "flow delete".to_owned(),
                Change::Flow(FlowMod { command: FlowCommand::Delete, table: None, ..FlowMod::default() }),
            ),
            _ => message(&mut dice),
        };
        std::fs::write(&file, format!("{line}\n"))?;
        let (accepted, said) = ofctl(&ovs, &["bundle", &file.display().to_string()])?;
        let ours = tables
            .prepare(std::slice::from_ref(&change), Duration::from_secs(number))
            .map(|prepared| prepared.commit());
        assert_eq!(accepted, ours.is_ok(), "{number}: {line}: {ours:?}: {said}");
        refused += u64::from(!accepted);
        let (_, dump) = ofctl(&ovs, &["dump-flows", "--no-stats"])?;
        let theirs: BTreeSet<_> =
            dump.lines().filter(|line| line.contains("actions=")).map(normalized).collect();
        let root = tables.load();
        let ours: BTreeSet<_> =
            root.tables().flat_map(|table| table.rules()).map(|rule| shown(rule)).collect();
        assert_eq!(theirs, ours, "{number}: {line}");
        most = most.max(ours.len());
    }
    assert!(refused > MESSAGES / 20 && most > 8, "{refused} refused, at most {most} rules");
    Ok(())
}
