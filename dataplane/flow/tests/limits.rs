//! Files and lines of any size are read in bounded memory and time, or refused; and commands, comments and headings.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use weft_flow::message::{BucketPosition, FlowCommand, GroupCommand, GroupMod, MeterCommand, MeterMod};
use weft_flow::text::{self, MAX_LINE, NoNames, Problem};
use weft_flow::{Field, Match, Subfield};
use weft_wire::OfPort;

fn problem(line: &str) -> Problem {
    text::parse_flow(line, FlowCommand::Add, &NoNames).unwrap_err().problem
}

#[test]
fn ten_thousand_nested_clones_are_refused_at_once() {
    let line = format!("actions={}output:1{}", "clone(".repeat(10_000), ")".repeat(10_000));
    let start = Instant::now();
    assert_eq!(problem(&line), Problem::TooDeep { max: 100 });
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let legal = format!("actions={}output:1{}", "clone(".repeat(99), ")".repeat(99));
    let flow = text::parse_flow(&legal, FlowCommand::Add, &NoNames).unwrap();
    assert_eq!(text::print_flow(&flow, None, &NoNames), legal);
    assert_eq!(problem(&format!("actions={}", "clone(".repeat(10_000))), Problem::Unclosed(')'));
}

/// The same octet for ever; counts what was taken of it.
struct Endless(u8, usize);

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        buffer.fill(self.0);
        self.1 += buffer.len();
        Ok(buffer.len())
    }
}

#[test]
fn a_line_that_is_too_long_is_refused_before_it_is_read() {
    for octet in [b'a', b'#', b','] {
        let mut reader = BufReader::new(Endless(octet, 0));
        let error = text::parse_flows(&mut reader, FlowCommand::Add, &NoNames).unwrap_err();
        assert_eq!(error.problem, Problem::LineTooLong { max: MAX_LINE });
        assert!(reader.get_ref().1 <= 2 * MAX_LINE);
    }
    let legal = format!("{}actions=drop", " ".repeat(MAX_LINE - 12));
    assert_eq!(text::parse_flows(legal.as_bytes(), FlowCommand::Add, &NoNames).unwrap().len(), 1);
    let error = text::parse_flows(format!(" {legal}").as_bytes(), FlowCommand::Add, &NoNames).unwrap_err();
    assert_eq!(error.to_string(), "line 1, column 1: the line is longer than 65536 octets");
}

/// A file of the same line, over and over, that is never in memory as a whole.
struct Repeated<'a> {
    line: &'a [u8],
    left: usize,
    at: usize,
}

impl Read for Repeated<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let rest = &self.line[self.at..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        if self.at == self.line.len() {
            (self.at, self.left) = (0, self.left - 1);
        }
        Ok(count)
    }
}

fn read_repeated(octets: usize) -> usize {
    let line = "table=1,priority=5,tcp,nw_dst=10.0.0.1,tp_dst=80,reg0=5 actions=load:1->reg1,resubmit(,2)\n";
    let times = octets / line.len();
    let file = Repeated { line: line.as_bytes(), left: times, at: 0 };
    let mut count = 0;
    text::parse_flows_with(BufReader::new(file), FlowCommand::Add, &NoNames, |_| count += 1).unwrap();
    assert_eq!(count, times);
    count
}

#[test]
fn a_big_file_is_handed_on_line_by_line() {
    read_repeated(2_000_000);
}

#[test]
#[ignore = "takes seconds, and is only worth its time with full optimization"]
fn a_hundred_megabytes_take_seconds() {
    let start = Instant::now();
    let count = read_repeated(100_000_000);
    eprintln!("{:.0} rules a second", count as f64 / start.elapsed().as_secs_f64());
}

#[test]
fn time_is_linear_in_a_line() {
    // What repeats most in 64 KiB, in each grammar: a quadratic reader would take minutes.
    let repeated = |head: &str, part: &str, tail: &str| {
        let count = (MAX_LINE - head.len() - tail.len()) / part.len();
        format!("{head}{}{tail}", part.repeat(count))
    };
    let lines = [
        repeated("actions=", "1,", ""),
        repeated("actions=", "conjunction(1,1/2),", ""),
        repeated("actions=learn(", "reg0=1,", ")"),
        repeated("actions=", "note:01,", ""),
        repeated("actions=bundle(eth_src,0,hrw,ofport,members:", "1,", ")"),
        repeated("actions=dec_ttl(", "1,", ")"),
        repeated("ip,actions=", "ct(commit,exec(set_field:1->ct_mark)),", ""),
        repeated("", "reg0[0]=0,", "actions=drop"),
        repeated("", "action", "actions=drop"),
        repeated("", "(", "actions=drop"),
        repeated("actions=", "clone(", ""),
        repeated("", "\"", "actions=drop"),
        repeated("ct_state=", "+", ",actions=drop"),
        repeated("ct_state=", "new|", "new,actions=drop"),
        repeated("actions=controller(userdata=", "00", ")"),
    ];
    for line in lines {
        let start = Instant::now();
        let flow = text::parse_flow(&line, FlowCommand::Add, &NoNames);
        if let Ok(flow) = flow {
            text::print_flow(&flow, None, &NoNames);
        }
        let took = start.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}: {}", &line[..60]);
    }
    let group = repeated("group_id=1,type=all,", "bucket=output:1,", "");
    let start = Instant::now();
    let group = text::parse_group(&group, GroupCommand::Add, &NoNames).unwrap();
    assert!(start.elapsed() < Duration::from_secs(1) && group.buckets.len() > 4000);
}

#[test]
fn files_have_commands_comments_and_headings() {
    let file = "# rules\n\
        \n\
        NXST_FLOW reply (xid=0x4):\n\
        \x20cookie=0x5, duration=1.2s, table=3, n_packets=7, n_bytes=8, idle_age=9, priority=10,ip actions=drop # why\n\
        OFPST_FLOW reply (OF1.3) (xid=0x2):\r\n\
        add table=1,actions=output:1\r\n\
        modify table=2,ip,actions=output:2\n\
        modify_strict priority=3,ip,actions=drop\n\
        delete table=4,cookie=0x10/0xf0,out_port=5\n\
        delete_strict table=5,priority=6,tcp\n\
        del out_group=7\n\
        actions=NORMAL\n";
    use FlowCommand::{Add, Delete, DeleteStrict, Modify, ModifyStrict};
    let flows = text::parse_flows(file.as_bytes(), Add, &NoNames).unwrap();
    let seen: Vec<_> = flows.iter().map(|flow| (flow.command, flow.table, flow.priority)).collect();
    let expected = [
        (Add, Some(3), 10),
        (Add, Some(1), 32768),
        (Modify, Some(2), 32768),
        (ModifyStrict, None, 3),
        (Delete, Some(4), 32768),
        (DeleteStrict, Some(5), 6),
        (Delete, None, 32768),
        (Add, Some(0), 32768),
    ];
    assert_eq!(seen, expected);
    assert_eq!((flows[4].cookie_filter, flows[4].out_port), ((0x10, 0xf0), Some(OfPort(5))));
    assert_eq!((flows[0].cookie, flows[6].out_group), (Some(5), Some(7)));
    let error =
        text::parse_flows(&b"actions=drop\n\n  ip,nosuch=1 actions=drop"[..], Add, &NoNames).unwrap_err();
    assert_eq!(error.to_string(), "line 3, column 6: 'nosuch': no match field or setting of that name");
    let error = text::parse_flows(&b"actions=\xff\n"[..], Add, &NoNames).unwrap_err();
    assert_eq!(error.to_string(), "line 1, column 1: the line is not UTF-8 text");
}

#[test]
fn each_command_has_its_own_settings() {
    use FlowCommand::{Delete, DeleteStrict, Modify, ModifyStrict};
    let good = [
        (Modify, "cookie=1/-1,cookie=2,actions=drop", true),
        (Modify, "cookie=1,cookie=2,actions=drop", false),
        (Modify, "cookie=1/-1,ip,actions=drop", true),
        (Modify, "priority=1,idle_timeout=2,ip,actions=drop", true),
        (Modify, "importance=1,actions=drop", false),
        (ModifyStrict, "priority=1,ip,send_flow_rem,actions=drop", true),
        (Modify, "ip", false),
        (Delete, "ip", true),
        (Delete, "", true),
        (Delete, "table=255", true),
        (Delete, "priority=1", false),
        (Delete, "idle_timeout=1", false),
        (Delete, "send_flow_rem", false),
        (Delete, "cookie=1", false),
        (Delete, "cookie=1/1,out_port=LOCAL,out_group=ANY", true),
        (Delete, "ip,actions=drop", false),
        (DeleteStrict, "priority=1,ip", true),
        (Delete, "out_group=4294967041", false),
    ];
    for (command, line, expected) in good {
        let flow = text::parse_flow(line, command, &NoNames);
        assert_eq!(flow.is_ok(), expected, "{command:?} {line}: {flow:?}");
    }
}

#[test]
fn bucket_commands_say_where() {
    let parse = |line, command| text::parse_group(line, command, &NoNames);
    let insert =
        parse("group_id=1,command_bucket_id=first,bucket=output:1", GroupCommand::InsertBuckets).unwrap();
    assert_eq!((insert.position, insert.buckets[0].id), (Some(BucketPosition::First), 0));
    let two = "group_id=1,command_bucket_id=last,bucket=bucket_id=0,actions=output:1,bucket=output:2";
    let numbers: Vec<u32> =
        parse(two, GroupCommand::InsertBuckets).unwrap().buckets.iter().map(|bucket| bucket.id).collect();
    assert_eq!(numbers, [0, 1]);
    let remove = parse("group_id=1,command_bucket_id=5", GroupCommand::RemoveBuckets).unwrap();
    assert_eq!(remove.position, Some(BucketPosition::Id(5)));
    assert_eq!(parse("", GroupCommand::Delete).unwrap().id, GroupMod::ALL);
    assert_eq!(parse("group_id=all", GroupCommand::Delete).unwrap().id, GroupMod::ALL);
    assert_eq!(parse("group_id=5", GroupCommand::Delete).unwrap().id, 5);
    for (line, command) in [
        ("group_id=1,bucket=output:1", GroupCommand::InsertBuckets),
        ("group_id=1,command_bucket_id=all,bucket=output:1", GroupCommand::InsertBuckets),
        ("group_id=1,command_bucket_id=5,bucket=output:1", GroupCommand::RemoveBuckets),
        ("group_id=1,type=all", GroupCommand::Delete),
        ("group_id=all,type=all,bucket=output:1", GroupCommand::Add),
    ] {
        assert!(parse(line, command).is_err(), "{command:?} {line}");
    }
    let file = "add group_id=1,type=all,bucket=output:1\nmodify group_id=1,type=all,bucket=output:2\ndelete group_id=1\n";
    let groups = text::parse_groups(file.as_bytes(), GroupCommand::Add, &NoNames).unwrap();
    let commands: Vec<_> = groups.iter().map(|group| group.command).collect();
    assert_eq!(commands, [GroupCommand::Add, GroupCommand::Modify, GroupCommand::Delete]);
    assert_eq!(text::parse_meter("", MeterCommand::Delete).unwrap().meter.id, MeterMod::ALL);
    assert_eq!(text::parse_meter("meter=7", MeterCommand::Delete).unwrap().meter.id, 7);
}

#[test]
fn a_described_packet_has_every_field_and_no_mask() {
    let text = "in_port=3,tcp,nw_src=10.0.0.1,nw_dst=10.0.0.2,nw_tos=32,nw_ttl=64,tp_src=1,tp_dst=80,tcp_flags=syn|ack,\
        dl_vlan=5,dl_vlan_pcp=3,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02,reg3=7,metadata=9,tun_id=5,ct_state=trk|est,\
        ct_nw_src=1.2.3.4,pkt_mark=1,nw_frag=no,recirc_id=4,dp_hash=3";
    let packet = text::parse_packet(text, &NoNames).unwrap();
    let get = |field| Subfield::whole(field).get(&packet);
    let expected = [
        (Field::InPort, 3),
        (Field::EthType, 0x800),
        (Field::NwProto, 6),
        (Field::IpSrc, 0x0a00_0001),
        (Field::NwTos, 32),
        (Field::TcpDst, 80),
        (Field::TcpFlags, 0x12),
        (Field::VlanTci, 0x7005),
        (Field::EthDst, 0x0200_0000_0002),
        (Field::Reg3, 7),
        (Field::CtState, 0x22),
        (Field::CtNwSrc, 0x0102_0304),
        (Field::RecircId, 4),
    ];
    for (field, value) in expected {
        assert_eq!(get(field), value, "{}", field.info().name);
    }
    for wrong in [
        "ip,nw_src=10.0.0.0/8",
        "tp_dst=80",
        "reg0=1/1",
        "nosuch",
        "tcp,udp",
        "ip,nw_frag=yes",
        "actions=drop",
    ] {
        assert!(text::parse_packet(wrong, &NoNames).is_err(), "{wrong}");
    }
    let tagged = text::parse_packet("vlan_vid=5", &NoNames).unwrap();
    assert_eq!(Subfield::whole(Field::VlanTci).get(&tagged), 0x1005);
    assert!(Match::any().covers(&tagged));
}

#[test]
fn whoever_reads_a_file_can_take_it_from_any_reader() {
    let mut input: Box<dyn BufRead> = Box::new(&b"actions=drop"[..]);
    assert_eq!(text::parse_flows(&mut *input, FlowCommand::Add, &NoNames).unwrap().len(), 1);
}
