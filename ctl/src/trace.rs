//! `weftctl trace`: which packet is meant, and what the switch tells of it.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use weft_config::control::{FoundRule, Op, TraceEvent, TraceReport, TraceRequest};

use crate::Error;
use crate::request::value;

pub(crate) const HELP: &str = "\
A FLOW is a match, as rules have it; what it does not say is 0 (the time to live of IP: 64), and in_port is required:
  weftctl trace br-int in_port=vm1,tcp,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02,nw_dst=10.0.0.2,tp_dst=80
For a packet from a tunnel, in_port is the tunnel port, the fields are the inner packet's, and tun_id is its key:
  weftctl trace br-tun in_port=vx1,tun_id=100,arp,dl_dst=ff:ff:ff:ff:ff:ff
Rules with ct (security groups, too) take port 0 for invalid: say both tp_src and tp_dst of TCP and UDP.
Nothing is learned, no rule is made, and nothing is counted.";

/// `weftctl trace`
#[derive(clap::Args, Debug)]
pub struct TraceArgs {
    /// The bridge that the packet comes in on.
    bridge: String,
    /// The packet, as a match; beside a frame, its tunnel fields.
    #[arg(required_unless_present_any = ["pcap", "hex"])]
    flow: Option<String>,
    /// The first packet of a capture file (pcap or pcapng; - is standard input).
    #[arg(long, value_name = "FILE", conflicts_with = "hex")]
    pcap: Option<PathBuf>,
    /// A packet, from its Ethernet header on: two hexadecimal digits for each octet.
    #[arg(long, value_name = "OCTETS")]
    hex: Option<String>,
    /// The port by which it comes in, by name or number.
    #[arg(long, value_name = "PORT")]
    in_port: Option<String>,
}

/// Why a capture file has no packet for us.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum CaptureError {
    /// Neither format.
    #[error("neither a pcap nor a pcapng file")]
    NotACapture,
    /// Another link type.
    #[error("link type {0}: weft switches Ethernet frames (link type 1)")]
    LinkType(u32),
    /// No packet.
    #[error("there is no whole packet in it")]
    Empty,
}

/// What to ask for.
pub(crate) fn request(args: &TraceArgs) -> Result<Op, Error> {
    let frame = match (&args.pcap, &args.hex) {
        (Some(file), _) => Some(captured(file)?),
        (None, hex) => hex.clone(),
    };
    Ok(Op::Trace(TraceRequest {
        bridge: value("bridge", &args.bridge)?,
        flow: args.flow.clone().unwrap_or_default(),
        frame,
        in_port: args.in_port.clone(),
    }))
}

fn captured(file: &Path) -> Result<String, Error> {
    let read = if file == Path::new("-") {
        let mut octets = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut octets).map(|_| octets)
    } else {
        std::fs::read(file)
    };
    let octets = read.map_err(|source| Error::File { doing: "read", path: file.to_owned(), source })?;
    let frame = first_frame(&octets).map_err(|problem| Error::Capture { path: file.to_owned(), problem })?;
    Ok(frame.iter().map(|octet| format!("{octet:02x}")).collect())
}

/// The first packet of a capture (pcap: draft-ietf-opsawg-pcap; pcapng: draft-ietf-opsawg-pcapng).
fn first_frame(file: &[u8]) -> Result<&[u8], CaptureError> {
    const ETHERNET: u32 = 1;
    let (frame, link_type) = match file.first_chunk() {
        Some([0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1]) => classic(file, u32::from_le_bytes),
        Some([0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d]) => classic(file, u32::from_be_bytes),
        Some([0x0a, 0x0d, 0x0d, 0x0a]) => match file.get(8..12) {
            Some([0x4d, 0x3c, 0x2b, 0x1a]) => blocks(file, u32::from_le_bytes),
            Some([0x1a, 0x2b, 0x3c, 0x4d]) => blocks(file, u32::from_be_bytes),
            _ => return Err(CaptureError::NotACapture),
        },
        _ => return Err(CaptureError::NotACapture),
    }
    .ok_or(CaptureError::Empty)?;
    if link_type == ETHERNET { Ok(frame) } else { Err(CaptureError::LinkType(link_type)) }
}

/// How a file has its numbers.
type Order = fn([u8; 4]) -> u32;

fn number(file: &[u8], at: usize, order: Order) -> Option<u32> {
    Some(order(*file.get(at..)?.first_chunk()?))
}

fn piece(file: &[u8], at: usize, length: u32) -> Option<&[u8]> {
    file.get(at..at.checked_add(length as usize)?)
}

/// A header of 24 octets, then one of 16 for each packet.
fn classic(file: &[u8], order: Order) -> Option<(&[u8], u32)> {
    let length = number(file, 24 + 8, order)?;
    // Its high half may say how long a check sequence is.
    Some((piece(file, 40, length)?, number(file, 20, order)? & 0xffff))
}

/// Blocks: type, length, body, length.
fn blocks(file: &[u8], order: Order) -> Option<(&[u8], u32)> {
    const INTERFACE: u32 = 1;
    const SIMPLE: u32 = 3;
    const ENHANCED: u32 = 6;
    let mut links = Vec::new();
    let mut at = 0;
    loop {
        let (kind, length) = (number(file, at, order)?, number(file, at + 4, order)?);
        match kind {
            INTERFACE => links.push(number(file, at + 8, order)? & 0xffff),
            ENHANCED => {
                let link = *links.get(number(file, at + 8, order)? as usize)?;
                return Some((piece(file, at + 28, number(file, at + 20, order)?)?, link));
            }
            SIMPLE => {
                let octets = number(file, at + 8, order)?.min(length.checked_sub(16)?);
                return Some((piece(file, at + 12, octets)?, *links.first()?));
            }
            _ => {}
        }
        at = at.checked_add(length.max(12) as usize)?;
    }
}

/// What the switch told, for people.
pub(crate) fn render(trace: &TraceReport) -> String {
    let mut out = String::new();
    let mut line = |depth: usize, text: &str| {
        // Deep walks would leave the screen: behind 24 steps the depth is said.
        let shown = if depth > 24 { format!("[{depth}] {text}") } else { text.to_owned() };
        let _ = writeln!(out, "{:width$}{shown}", "", width = depth.min(24) * 2);
    };
    line(0, &format!("packet: {}", trace.packet));
    let reads =
        if trace.reads.is_empty() { "nothing but the port".to_owned() } else { trace.reads.join(", ") };
    line(0, &format!("read of it: {reads}"));
    line(0, "");
    let mut gone_to = GoneTo::default();
    for step in &trace.steps {
        line(gone_to.depth(step.depth.into(), &step.event), &event(&step.event));
    }
    if trace.left_out > 0 {
        line(0, &format!("... and {} steps more", trace.left_out));
    }
    line(0, "");
    line(0, &trace.summary);
    out
}

/// The `goto_table`s that a walk is in. A table ends with it: the next one stands below the table, not within, or a pipeline
/// of twenty tables would leave the screen.
#[derive(Default)]
struct GoneTo {
    depths: Vec<usize>,
}

impl GoneTo {
    /// Where a step is printed that the switch gave this depth.
    fn depth(&mut self, depth: usize, event: &TraceEvent) -> usize {
        self.depths.retain(|&outer| outer < depth);
        // From the action to the table that it leads to, and from its table to the action.
        let shown = depth.saturating_sub(2 * self.depths.len());
        if matches!(event, TraceEvent::Action(action) if action.starts_with("goto_table:")) {
            self.depths.push(depth);
        }
        shown
    }
}

fn event(event: &TraceEvent) -> String {
    match event {
        TraceEvent::Bridge { bridge, port, ofport } => {
            format!("bridge {bridge}, in by port {port} ({ofport})")
        }
        TraceEvent::Lookup { table, rule: Some(rule) } if rule.actions == "drop" => {
            format!("table {table}: {}: drop", hit(rule))
        }
        TraceEvent::Lookup { table, rule: Some(rule) } => format!("table {table}: {}", hit(rule)),
        TraceEvent::Lookup { table, rule: None } => format!("table {table}: no match"),
        TraceEvent::Action(action) => action.clone(),
        TraceEvent::Change(change) => format!("{}: {} -> {}", change.field, change.from, change.to),
        TraceEvent::Tracked(connection) => connection.text.clone(),
        TraceEvent::ActionSet {} => "action set:".to_owned(),
        TraceEvent::Bucket { group, bucket } => format!("group {group}, bucket {bucket}:"),
        TraceEvent::Vlan { vlan } => format!("in VLAN {vlan}"),
        TraceEvent::Sender { mac, port, known: true, .. } => format!("{mac} is known behind {port}"),
        TraceEvent::Sender { mac, port, known: false, .. } => format!("{mac} would be learned behind {port}"),
        TraceEvent::Destination { mac, port: Some(port), .. } => format!("{mac} is behind {port}"),
        TraceEvent::Destination { mac, port: None, .. } if mac.is_multicast() => {
            format!("{mac} is a group address: flood")
        }
        TraceEvent::Destination { mac, port: None, .. } => format!("{mac} is not known: flood"),
        TraceEvent::Skipped { port, reason } => format!("not to {port}: {reason}"),
        TraceEvent::Output(copy) => format!("=> {}", copy.text),
        TraceEvent::Controller(sent) => {
            format!("=> controller {} ({}, {} octets)", sent.id, sent.reason, sent.max_len)
        }
        TraceEvent::Learn(rule) => format!("would make the rule: {rule}"),
        TraceEvent::Refused(refused) => format!("not sent ({}): {}", refused.reason, refused.hint),
        TraceEvent::Failed(failed) => format!("all is undone ({}): {}", failed.reason, failed.hint),
    }
}

fn hit(rule: &FoundRule) -> String {
    let name = rule.name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
    let cookie = if rule.cookie == 0 { String::new() } else { format!("cookie {:#x}{name}, ", rule.cookie) };
    let matches = if rule.matches.is_empty() { "everything" } else { &rule.matches };
    format!("{cookie}priority {}, {matches}", rule.priority)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];

    fn pcap(order: fn(u32) -> [u8; 4], link: u32) -> Vec<u8> {
        let mut file = Vec::new();
        for number in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, link, 1, 2, 14, 14] {
            file.extend(order(number));
        }
        file.extend(FRAME);
        file
    }

    fn pcapng(order: fn(u32) -> [u8; 4]) -> Vec<u8> {
        let mut file = Vec::new();
        let head = [0x0a0d_0d0a, 28, 0x1a2b_3c4d, 1, u32::MAX, u32::MAX, 28, 1, 20, 1, 65535, 20];
        for number in head.into_iter().chain([6, 48, 0, 0, 0, 14, 14]) {
            file.extend(order(number));
        }
        file.extend(FRAME);
        file.extend([0, 0]);
        file.extend(order(48));
        file
    }

    #[test]
    fn tables_that_follow_each_other_stand_below_each_other() {
        let action = |text: &str| TraceEvent::Action(text.to_owned());
        let table = |table| TraceEvent::Lookup { table, rule: None };
        let walk = [
            (1, table(0), 1),
            (2, action("resubmit(,1)"), 2),
            (3, table(1), 3),
            (4, action("goto_table:2"), 4),
            (5, table(2), 3),
            (6, action("goto_table:3"), 4),
            (7, table(3), 3),
            (8, action("output:1"), 4),
            (2, action("goto_table:4"), 2),
            (3, table(4), 1),
            (4, action("drop"), 2),
        ];
        let mut gone_to = GoneTo::default();
        for (depth, event, shown) in walk {
            assert_eq!(gone_to.depth(depth, &event), shown, "{event:?}");
        }
    }

    #[test]
    fn the_first_packet_of_a_capture_is_found_in_either_format_and_order() {
        for file in [
            pcap(u32::to_le_bytes, 1),
            pcap(u32::to_be_bytes, 1),
            pcapng(u32::to_le_bytes),
            pcapng(u32::to_be_bytes),
        ] {
            assert_eq!(first_frame(&file), Ok(&FRAME[..]));
            // What is cut off gives an error, until only what is behind the frame is missing.
            let whole = |end: &usize| first_frame(&file[..*end]).is_ok();
            let cut: Vec<usize> = (0..file.len()).filter(whole).collect();
            assert!(cut.len() <= 6 && cut.iter().all(|&end| first_frame(&file[..end]) == Ok(&FRAME[..])));
        }
        assert_eq!(first_frame(&pcap(u32::to_le_bytes, 113)), Err(CaptureError::LinkType(113)));
        assert_eq!(first_frame(b"no capture"), Err(CaptureError::NotACapture));
    }
}
