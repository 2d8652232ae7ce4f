//! The case in weft.

use std::fmt::Write;

use weft_conntrack::{Connection, Filter, Timeout, Timeouts, ZoneLimit};
use weft_wire::DropReason;

use crate::case::{Case, Outcome, Setting, Step};
use crate::rig::{Rig, access};

/// The port that all packets come in by, and the one by which they leave.
const IN: u16 = 0;
const OUT: u16 = 2;

pub struct Weft {
    rig: Rig,
    drops: Vec<(DropReason, u64)>,
}

impl Weft {
    pub fn load(case: &Case) -> Weft {
        let mut rig = Rig::with_bridge(1);
        (0..3).for_each(|port| rig.add_device(port, access(0)));
        rig.publish();
        rig.load_rules(0, &case.rules);
        Weft { rig, drops: Vec::new() }
    }

    /// What leaves, and why packets were dropped.
    pub fn play(&mut self, step: &Step) -> (Outcome, Vec<DropReason>) {
        match step {
            Step::Packet(octets) => {
                self.rig.send(IN, octets.clone());
                self.rig.run();
            }
            Step::Wait(seconds) => self.rig.wait(*seconds),
            Step::Set(setting) => self.set(setting),
        }
        let drops = self.rig.drops(IN);
        let before = |reason| self.drops.iter().find(|known| known.0 == reason).map_or(0, |known| known.1);
        let new = drops.iter().filter(|&&(reason, count)| count > before(reason));
        let new = new.map(|&(reason, _)| reason).collect();
        self.drops = drops;
        (self.rig.sent(OUT), new)
    }

    /// Connections that limits of zones have refused.
    pub fn refused(&self) -> u64 {
        self.rig.datapath.connections().statistics().refused_zone
    }

    fn set(&self, setting: &Setting) {
        let connections = self.rig.datapath.connections();
        match setting {
            Setting::Limit { zone: Some(zone), limit } => {
                connections.set_zone_limit(*zone, ZoneLimit::AtMost(*limit));
            }
            Setting::Limit { zone: None, limit } => connections.set_default_zone_limit(Some(*limit)),
            Setting::Timeouts { zone, policy } => {
                let mut timeouts = Timeouts::default();
                for word in policy.split(' ') {
                    let (name, seconds) = word.split_once('=').unwrap();
                    let which = Timeout::ALL.into_iter().find(|timeout| timeout.name() == name).unwrap();
                    timeouts.set(which, seconds.parse().unwrap());
                }
                connections.set_timeouts(*zone, Some(timeouts));
            }
        }
    }

    pub fn connections(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let second = self.rig.now.as_secs() as u32 + 1;
        self.rig.datapath.connections().list(&Filter::default(), second, &mut |connection| {
            lines.push(line(connection));
        });
        lines.sort();
        lines
    }
}

/// As Open vSwitch's `dpctl/dump-conntrack -m` writes it.
fn line(connection: &Connection) -> String {
    let Connection { zone, original, reply, mark, label, progress, helper, parent, left, .. } = connection;
    let mut text = String::new();
    match original.protocol {
        6 => text.push_str("tcp"),
        17 => text.push_str("udp"),
        132 => text.push_str("sctp"),
        1 if original.is_icmp() => text.push_str("icmp"),
        58 if original.is_icmp() => text.push_str("icmpv6"),
        number => write!(text, "{number}").unwrap(),
    }
    write!(text, ",orig=({original}),reply=({reply})").unwrap();
    if *zone != 0 {
        write!(text, ",zone={zone}").unwrap();
    }
    if *mark != 0 {
        write!(text, ",mark={mark}").unwrap();
    }
    if *label != 0 {
        write!(text, ",labels={label:#x}").unwrap();
    }
    if original.protocol == 6 {
        let [first, second] = progress.peers;
        write!(text, ",protoinfo=(state_orig={},state_reply={}", first.state.name(), second.state.name())
            .unwrap();
        let [one, other] = [first.scale & 0xf, second.scale & 0xf];
        if one != 0 || other != 0 {
            write!(text, ",wscale_orig={one},wscale_reply={other}").unwrap();
        }
        let flags = |scale: u8| {
            let all = [(0x80, "WINDOW_SCALE"), (0x40, "BE_LIBERAL")];
            let names: Vec<&str> =
                all.iter().filter(|(bit, _)| scale & bit != 0).map(|(_, name)| *name).collect();
            if names.is_empty() { "0".to_owned() } else { names.join("|") }
        };
        write!(text, ",flags_orig={},flags_reply={})", flags(first.scale), flags(second.scale)).unwrap();
    }
    if let Some(helper) = helper {
        write!(text, ",helper={}", format!("{helper:?}").to_lowercase()).unwrap();
    }
    if let Some(parent) = parent {
        write!(text, ",parent=({parent})").unwrap();
    }
    write!(text, ",timeout={left}").unwrap();
    text
}
