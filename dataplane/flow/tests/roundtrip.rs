//! Properties of flow text: whatever is printed reads back as the same, and no text whatever makes a panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use weft_flow::action::{
    Action, Actions, Bundle, BundleAlgorithm, Controller, Ct, CtHelper, CtZone, HashFields, Learn,
    LearnSource, LearnSpec, LearnTarget, Multipath, MultipathAlgorithm, Nat, NatAddresses, NatChoice,
    NatKind, PacketInReason, Sample, SampleDirection, SampleId, VlanChange,
};
use weft_flow::field::{Access, Format, Maskable, Prerequisite};
use weft_flow::message::{
    Band, BandKind, Bucket, FlowCommand, FlowFlags, FlowMod, GroupCommand, GroupKind, GroupMod, MeterCommand,
    MeterMod, MeterSpec, Selection,
};
use weft_flow::text::{self, NoNames, PortNames};
use weft_flow::{Field, Match, Subfield};
use weft_wire::{Mac, OfPort};

/// Ports 1 to 3 have names, one of them with everything that has to be quoted.
struct Names;

const NAMES: [&str; 3] = ["eth0", "patch-int", "a,b=(c)#\"\\->"];

impl PortNames for Names {
    fn number(&self, name: &str) -> Option<OfPort> {
        NAMES.iter().position(|known| *known == name).map(|at| OfPort(at as u16 + 1))
    }

    fn name(&self, port: OfPort) -> Option<&str> {
        NAMES.get(usize::from(port.0).checked_sub(1)?).copied()
    }
}

fn port() -> impl Strategy<Value = OfPort> {
    prop_oneof![
        (1..5u16).prop_map(OfPort),
        (0..=0xfeffu16).prop_map(OfPort),
        select(vec![
            OfPort::IN_PORT,
            OfPort::TABLE,
            OfPort::NORMAL,
            OfPort::FLOOD,
            OfPort::ALL,
            OfPort::LOCAL,
        ]),
    ]
}

/// A match on TCP, so that most fields can be read and written.
fn base() -> Match {
    Match::any().with(Field::EthType, 0x0800).with(Field::NwProto, 6).with_masked(Field::CtState, 0x22, 0x32)
}

/// Fields that a rule with [`base`] can read.
fn readable() -> Vec<Field> {
    let named = |field: &Field| !field.info().nxm.is_empty() || !field.info().oxm.is_empty();
    let met = |field: &Field| {
        use Prerequisite::{Ct, Ethernet, Ip, Ipv4, None, Tcp};
        let six = [Field::CtIpv6Src, Field::CtIpv6Dst].contains(field);
        [None, Ethernet, Ip, Ipv4, Tcp, Ct].contains(&field.info().prerequisite) && !six
    };
    Field::ALL.iter().copied().filter(|field| named(field) && met(field)).collect()
}

/// Fields that it can write, outside `ct`.
fn writable() -> Vec<Field> {
    let odd = [Field::CtMark, Field::CtLabel, Field::VlanVid, Field::ArpOp];
    let fields = readable().into_iter();
    fields.filter(|field| field.info().access == Access::Writable && !odd.contains(field)).collect()
}

fn part_of(fields: Vec<Field>) -> impl Strategy<Value = Subfield> {
    (select(fields), any::<u8>(), any::<u8>()).prop_map(|(field, offset, bits)| {
        let width = if field == Field::VlanVid { 12 } else { field.info().bits };
        let offset = offset % width;
        Subfield::new(field, offset, bits % (width - offset) + 1).unwrap()
    })
}

fn value_of(part: Subfield, random: u128) -> u128 {
    match part.field.info().format {
        // Only ports that can be written and read.
        Format::Port | Format::Port32 => (random % 0xff00) & part.max(),
        _ => random & part.max(),
    }
}

/// A value that a field can be set to, and its mask.
fn set_of(field: Field, value: u128, mask: u128) -> Action {
    let legal = match field {
        Field::NwTos => 0xfc,
        _ => field.max(),
    };
    let mask = match field.info().maskable {
        _ if mask & 1 == 0 => field.max(),
        Maskable::Whole => field.max(),
        Maskable::Bitwise => match mask & field.max() {
            0 => field.max(),
            mask => mask,
        },
    };
    Action::set_field(field, value_of(Subfield::whole(field), value) & legal & mask, mask)
}

/// A plain 64-bit part at most, as loads are.
fn load() -> impl Strategy<Value = Action> {
    (part_of(writable()), any::<u128>()).prop_map(|(mut target, value)| {
        target.bits = target.bits.min(64);
        Action::Load { target, value: value & target.max() }
    })
}

fn moved() -> impl Strategy<Value = Action> {
    (part_of(readable()), part_of(writable())).prop_map(|(mut source, mut target)| {
        source.bits = source.bits.min(target.bits);
        target.bits = source.bits;
        Action::Move { source, target }
    })
}

fn hashes() -> impl Strategy<Value = HashFields> {
    use HashFields::{EthSrc, NwDst, NwSrc, SymmetricL3, SymmetricL3L4, SymmetricL3L4Udp, SymmetricL4};
    select(vec![EthSrc, SymmetricL4, SymmetricL3L4, SymmetricL3L4Udp, NwSrc, NwDst, SymmetricL3])
}

fn controller() -> impl Strategy<Value = Action> {
    use PacketInReason::{Action as Own, ActionSet, Group, InvalidTtl, NoMatch, PacketOut};
    let reason = select(vec![NoMatch, Own, InvalidTtl, ActionSet, Group, PacketOut]);
    let userdata = vec(any::<u8>(), 0..9);
    (any::<u16>(), reason, any::<u16>(), userdata, any::<bool>(), option::of(0..100u32)).prop_map(
        |(max_len, reason, id, userdata, pause, meter)| {
            Action::Controller(Box::new(Controller {
                max_len,
                reason,
                id,
                userdata: userdata.into(),
                pause,
                meter,
            }))
        },
    )
}

fn bundle() -> impl Strategy<Value = Action> {
    use BundleAlgorithm::{ActiveBackup, HighestRandomWeight};
    let algorithm = select(vec![ActiveBackup, HighestRandomWeight]);
    let target = option::of(part_of(writable()));
    (hashes(), any::<u16>(), algorithm, vec(port(), 0..4), target).prop_map(
        |(fields, basis, algorithm, ports, target)| {
            Action::Bundle(Box::new(Bundle { fields, basis, algorithm, ports: ports.into(), target }))
        },
    )
}

fn multipath() -> impl Strategy<Value = Action> {
    use MultipathAlgorithm::{HashThreshold, HighestRandomWeight, IterHash, ModuloN};
    let algorithm = select(vec![ModuloN, HashThreshold, HighestRandomWeight, IterHash]);
    (hashes(), any::<u16>(), algorithm, any::<u16>(), any::<u32>(), part_of(writable())).prop_map(
        |(fields, basis, algorithm, max_link, arg, target)| {
            let max_link = max_link & target.max().min(0xffff) as u16;
            Action::Multipath(Box::new(Multipath { fields, basis, algorithm, max_link, arg, target }))
        },
    )
}

fn learn_spec() -> impl Strategy<Value = LearnSpec> {
    let free = || {
        let fields = writable().into_iter();
        fields.filter(|field| field.info().prerequisite == Prerequisite::None).collect::<Vec<_>>()
    };
    prop_oneof![
        (part_of(free()), any::<u128>()).prop_map(|(target, value)| LearnSpec {
            source: LearnSource::Immediate(value_of(target, value)),
            target: LearnTarget::Match(target),
        }),
        (part_of(free()), part_of(readable())).prop_map(|(mut target, mut source)| {
            source.bits = source.bits.min(target.bits);
            target.bits = source.bits;
            LearnSpec { source: LearnSource::Field(source), target: LearnTarget::Match(target) }
        }),
        (part_of(free()), any::<u128>()).prop_map(|(target, value)| LearnSpec {
            source: LearnSource::Immediate(value & target.max()),
            target: LearnTarget::Load(target),
        }),
        (part_of(free()), part_of(readable())).prop_map(|(mut target, mut source)| {
            source.bits = source.bits.min(target.bits);
            target.bits = source.bits;
            LearnSpec { source: LearnSource::Field(source), target: LearnTarget::Load(target) }
        }),
        part_of(readable())
            .prop_map(|source| LearnSpec { source: LearnSource::Field(source), target: LearnTarget::Output }),
    ]
}

fn learn() -> impl Strategy<Value = Action> {
    let timeouts = (any::<u16>(), any::<u16>(), any::<u16>(), any::<u16>());
    let rule = (any::<u16>(), any::<u64>(), 0..=254u8, any::<u32>());
    let flags = (any::<bool>(), any::<bool>());
    let result = option::of((0..32u8).prop_map(|bit| Subfield::new(Field::Reg3, bit, 1).unwrap()));
    (timeouts, rule, flags, result, vec(learn_spec(), 0..5)).prop_map(
        |(timeouts, rule, flags, result, specs)| {
            Action::Learn(Box::new(Learn {
                idle_timeout: timeouts.0,
                hard_timeout: timeouts.1,
                fin_idle_timeout: timeouts.2,
                fin_hard_timeout: timeouts.3,
                priority: rule.0,
                cookie: rule.1,
                table: rule.2,
                limit: rule.3,
                send_flow_removed: flags.0,
                delete_learned: flags.1,
                result,
                specs: specs.into(),
            }))
        },
    )
}

fn sample() -> impl Strategy<Value = Action> {
    let id = || {
        prop_oneof![any::<u32>().prop_map(SampleId::Number), part_of(readable()).prop_map(SampleId::Field)]
    };
    use SampleDirection::{Default, Egress, Ingress};
    let direction = select(vec![Default, Ingress, Egress]);
    (1..=u16::MAX, any::<u32>(), id(), id(), option::of(port()), direction).prop_map(
        |(probability, collector_set_id, obs_domain_id, obs_point_id, sampling_port, direction)| {
            Action::Sample(Box::new(Sample {
                probability,
                collector_set_id,
                obs_domain_id,
                obs_point_id,
                sampling_port,
                direction,
            }))
        },
    )
}

fn nat() -> impl Strategy<Value = Nat> {
    let addresses =
        (any::<u32>(), any::<u32>()).prop_map(|(a, b)| NatAddresses::V4(a.min(b).into(), a.max(b).into()));
    let ports = (1..=u16::MAX, 1..=u16::MAX).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let kind = select(vec![NatKind::Source, NatKind::Destination]);
    let choice = option::of(select(vec![NatChoice::Hash, NatChoice::Random]));
    (option::of(kind), option::of(addresses), option::of(ports), any::<bool>(), choice).prop_map(
        |(kind, addresses, ports, persistent, choice)| {
            let addresses = addresses.filter(|_| kind.is_some());
            let ports = ports.filter(|_| addresses.is_some());
            let persistent = persistent && kind.is_some();
            Nat { kind, addresses, ports, persistent, choice: choice.filter(|_| kind.is_some()) }
        },
    )
}

fn ct() -> impl Strategy<Value = Action> {
    let wide: Vec<Field> = readable().into_iter().filter(|field| field.info().bits >= 16).collect();
    let zone = prop_oneof![
        any::<u16>().prop_map(CtZone::Number),
        select(wide).prop_map(|field| CtZone::Field(Subfield::new(field, 0, 16).unwrap())),
    ];
    let exec = prop_oneof![
        (any::<u128>(), any::<u128>()).prop_map(|(value, mask)| set_of(Field::CtMark, value, mask)),
        (any::<u128>(), any::<u128>()).prop_map(|(value, mask)| set_of(Field::CtLabel, value, mask)),
        Just(Action::Move { source: Subfield::whole(Field::Reg0), target: Subfield::whole(Field::CtMark) }),
    ];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (flags, zone, option::of(0..=254u16), option::of(nat()), vec(exec, 0..3)).prop_map(
        |((commit, force, ftp), zone, table, nat, exec)| {
            let helper = ftp.then_some(CtHelper::Ftp);
            Action::Ct(Box::new(Ct {
                commit,
                force: force && commit,
                zone,
                table,
                helper,
                nat,
                exec: exec.into(),
            }))
        },
    )
}

fn header() -> impl Strategy<Value = Action> {
    let mac = || any::<u64>().prop_map(Mac::from_u64);
    prop_oneof![
        (0..4096u16, Just(true)).prop_map(|(value, push)| Action::SetVlanVid(VlanChange { value, push })),
        (0..8u16, Just(true)).prop_map(|(value, push)| Action::SetVlanPcp(VlanChange { value, push })),
        mac().prop_map(Action::SetEthSrc),
        mac().prop_map(Action::SetEthDst),
        any::<u32>().prop_map(|address| Action::SetIpSrc(address.into())),
        any::<u32>().prop_map(|address| Action::SetIpDst(address.into())),
        (0..64u8).prop_map(|dscp| Action::SetIpTos(dscp << 2)),
        (0..4u8).prop_map(Action::SetIpEcn),
        any::<u8>().prop_map(Action::SetIpTtl),
        any::<u16>().prop_map(Action::SetTpSrc),
        any::<u16>().prop_map(Action::SetTpDst),
        vec(any::<u16>(), 0..4).prop_map(|ids| Action::DecTtl(ids.into())),
        (any::<u32>(), any::<bool>()).prop_map(|(id, wide)| Action::SetTunnel { id: id.into(), wide }),
        any::<u64>().prop_map(|id| Action::SetTunnel { id, wide: true }),
    ]
}

/// Actions that don't fit [`base`], which only OpenFlow 1.0 tolerates.
fn misfit() -> impl Strategy<Value = Action> {
    prop_oneof![
        (0..0x10_0000u32).prop_map(Action::SetMplsLabel),
        (0..8u8).prop_map(Action::SetMplsTc),
        any::<u8>().prop_map(Action::SetMplsTtl),
        Just(Action::DecMplsTtl),
        Just(Action::PopMpls(0x0800)),
        Just(Action::StripVlan),
        (0..4096u16).prop_map(|value| Action::SetVlanVid(VlanChange { value, push: false })),
    ]
}

fn forward() -> impl Strategy<Value = Action> {
    prop_oneof![
        port().prop_map(Action::Output),
        ((0..0xff00u16).prop_map(OfPort), 14..=u32::MAX)
            .prop_map(|(port, max_len)| Action::OutputTrunc { port, max_len }),
        part_of(readable()).prop_map(|source| Action::OutputReg { source, max_len: 0xffff }),
        ((0..0xff00u16).prop_map(OfPort), any::<u32>())
            .prop_map(|(port, queue)| Action::Enqueue { port, queue }),
        any::<u32>().prop_map(Action::SetQueue),
        Just(Action::PopQueue),
        (0..=GroupMod::MAX).prop_map(Action::Group),
        (option::of(0..0xff00u16), 0..=254u16, any::<bool>()).prop_map(|(port, table, ct)| {
            Action::Resubmit { in_port: port.map(OfPort), table: Some(table), ct }
        }),
        (0..0xff00u16, any::<bool>()).prop_map(|(port, ct)| Action::Resubmit {
            in_port: Some(OfPort(port)),
            table: None,
            ct
        }),
        vec(any::<u8>(), 0..20).prop_map(|mut note| {
            note.resize(6 + note.len().saturating_sub(6).next_multiple_of(8), 0);
            Action::Note(note.into())
        }),
        Just(Action::Exit),
        Just(Action::CtClear),
        (any::<u16>(), any::<u16>()).prop_map(|(idle, hard)| Action::FinTimeout { idle, hard }),
        (any::<u16>(), part_of(writable())).prop_map(|(length, mut target)| {
            target.bits = 1;
            Action::CheckPktLarger { target, length }
        }),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let leaf = prop_oneof![
        4 => forward(),
        3 => header(),
        1 => misfit(),
        3 => (select(writable()), any::<u128>(), any::<u128>()).prop_map(|(field, value, mask)| set_of(field, value, mask)),
        2 => load(),
        2 => moved(),
        1 => part_of(readable()).prop_map(Action::Push),
        1 => part_of(writable()).prop_map(Action::Pop),
        1 => controller(),
        1 => bundle(),
        1 => multipath(),
        2 => learn(),
        1 => sample(),
        2 => ct(),
    ];
    leaf.prop_recursive(4, 12, 4, |inner| vec(inner, 0..4).prop_map(|list| Action::Clone(list.into())))
}

/// A list of actions with all instructions in their order.
fn actions() -> impl Strategy<Value = Actions> {
    let meter = option::of((1..=MeterMod::MAX).prop_map(Action::Meter));
    let in_set = prop_oneof![
        header(),
        load(),
        moved(),
        ct(),
        port().prop_map(Action::Output),
        (0..=GroupMod::MAX).prop_map(Action::Group),
        any::<u32>().prop_map(Action::SetQueue),
    ];
    let write = option::of(vec(in_set, 0..3).prop_map(|list| Action::WriteActions(list.into())));
    let metadata =
        (any::<u64>(), any::<u64>()).prop_map(|(value, mask)| Action::WriteMetadata { value, mask });
    let last = (option::of(metadata), option::of((10..=254u8).prop_map(Action::GotoTable)));
    let plain = (meter, vec(action(), 0..5), any::<bool>(), write, last).prop_map(
        |(meter, list, clear, write, last)| {
            let list = meter.into_iter().chain(list).chain(clear.then_some(Action::ClearActions));
            list.chain(write).chain(last.0).chain(last.1).collect()
        },
    );
    let conjunction = (any::<u32>(), 2..=64u8, any::<u8>())
        .prop_map(|(id, clauses, clause)| Action::Conjunction { id, clause: clause % clauses, clauses });
    prop_oneof![9 => plain, 1 => vec(conjunction, 1..4).prop_map(Into::into)]
}

/// Any fields that go with [`base`], with any masks.
fn matches() -> impl Strategy<Value = Match> {
    let odd =
        [Field::DpHash, Field::RecircId, Field::PacketType, Field::CtState, Field::IpFrag, Field::EthType];
    let fields: Vec<Field> = readable().into_iter().filter(|field| !odd.contains(field)).collect();
    vec((select(fields), any::<u128>(), any::<u128>()), 0..8).prop_map(|fields| {
        fields.into_iter().fold(base(), |matches, (field, value, mask)| {
            if [Field::NwProto, Field::NwTos].contains(&field) {
                return matches;
            }
            let Action::SetField { value, mask, .. } = set_of(field, value, mask) else { return matches };
            matches.with_masked(field, value, mask.bits(field))
        })
    })
}

fn flow() -> impl Strategy<Value = FlowMod> {
    let numbers = (0..10u8, any::<u16>(), any::<u64>(), any::<u16>(), any::<u16>(), any::<u16>());
    (numbers, vec(prop::bool::weighted(0.1), 5), matches(), actions()).prop_map(
        |(numbers, flags, matches, actions)| FlowMod {
            table: Some(numbers.0),
            priority: numbers.1,
            cookie: Some(numbers.2).filter(|cookie| *cookie != 0),
            idle_timeout: numbers.3,
            hard_timeout: numbers.4,
            importance: numbers.5,
            flags: FlowFlags {
                send_removed: flags[0],
                check_overlap: flags[1],
                reset_counts: flags[2],
                no_packet_counts: flags[3],
                no_byte_counts: flags[4],
            },
            matches,
            actions,
            ..FlowMod::default()
        },
    )
}

/// Whether no version of OpenFlow has it all: see [`text::Problem::Inconsistent`].
fn cannot_be(text: &str) -> bool {
    let inconsistent = |problem| matches!(problem, text::Problem::Inconsistent(_));
    text::parse_flow(text, FlowCommand::Add, &Names).is_err_and(|error| inconsistent(error.problem))
}

fn corpus() -> Vec<String> {
    let lines = ["corpus-lines.txt", "bad-lines.txt", "group-lines.txt", "meter-lines.txt"].map(|file| {
        std::fs::read_to_string(format!("{}/tests/data/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    });
    lines.join("\n").lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

/// Reads a text in every way, and prints what can be read.
fn read_all(line: &str) {
    for command in [FlowCommand::Add, FlowCommand::Modify, FlowCommand::Delete, FlowCommand::DeleteStrict] {
        if let Ok(flow) = text::parse_flow(line, command, &Names) {
            text::print_flow(&flow, None, &Names);
        }
    }
    let _ = text::parse_flows(line.as_bytes(), FlowCommand::Add, &Names);
    let _ = text::parse_packet(line, &Names);
    let _ = text::parse_match(line, &NoNames);
    if let Ok(actions) = text::parse_actions(line, &base(), &Names) {
        text::print_actions(&actions, &NoNames);
    }
    for command in
        [GroupCommand::Add, GroupCommand::Delete, GroupCommand::InsertBuckets, GroupCommand::RemoveBuckets]
    {
        if let Ok(group) = text::parse_group(line, command, &Names) {
            text::print_group(&group, &Names);
        }
    }
    if let Ok(meter) = text::parse_meter(line, MeterCommand::Add) {
        text::print_meter(&meter.meter);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_reads_back_as_the_same_rule(flow in flow()) {
        for names in [&Names as &dyn PortNames, &NoNames] {
            let text = text::print_flow(&flow, None, names);
            prop_assume!(!cannot_be(&text));
            let again = text::parse_flow(&text, FlowCommand::Add, names);
            prop_assert_eq!(again.as_ref().map_err(|error| error.to_string()), Ok(&flow), "{}", text);
        }
    }

    #[test]
    fn a_match_reads_back_alone(matches in matches()) {
        let text = text::print_match(&matches, &Names);
        prop_assert_eq!(text::parse_match(&text, &Names), Ok(matches), "{}", text);
    }

    #[test]
    fn mutilated_lines_are_read_or_refused(at in any::<usize>(), cuts in vec((any::<usize>(), any::<u8>(), 0..4u8), 0..6)) {
        let corpus = corpus();
        let mut line = corpus[at % corpus.len()].clone().into_bytes();
        for (at, byte, kind) in cuts {
            let at = at % (line.len() + 1);
            match kind {
                0 if at < line.len() => drop(line.remove(at)),
                1 => line.insert(at, b" ,=:()[]/->\"\\#0x.*"[usize::from(byte) % 18]),
                2 if at < line.len() => line[at] = byte,
                _ => line.truncate(at),
            }
        }
        read_all(&String::from_utf8_lossy(&line));
    }

    #[test]
    fn what_is_read_and_printed_reads_back(at in any::<usize>(), other in any::<usize>(), cut in any::<usize>()) {
        let corpus = corpus();
        let (one, two) = (&corpus[at % corpus.len()], &corpus[other % corpus.len()]);
        let line: String = one.chars().take(cut % (one.len() + 1)).chain(",".chars()).chain(two.chars()).collect();
        read_all(&line);
        if let Ok(flow) = text::parse_flow(&line, FlowCommand::Add, &Names) {
            let text = text::print_flow(&flow, None, &Names);
            let again = text::parse_flow(&text, FlowCommand::Add, &Names);
            let again = again.map(|again| FlowMod { cookie: flow.cookie, ..again });
            prop_assert_eq!(again, Ok(flow), "{}\n{}", line, text);
        }
    }

    #[test]
    fn any_octets_are_read_or_refused(text in "\\PC{0,80}", octets in vec(any::<u8>(), 0..300)) {
        read_all(&text);
        let _ = text::parse_flows(&octets[..], FlowCommand::Add, &Names);
        let _ = text::parse_groups(&octets[..], GroupCommand::Add, &Names);
    }

    #[test]
    fn groups_read_back(id in 0..=GroupMod::MAX, lists in vec((vec(action(), 0..3), any::<u16>(), option::of(1..5u16)), 0..4), param in any::<u64>()) {
        let buckets = lists.into_iter().enumerate().map(|(at, (actions, weight, watch))| Bucket {
            id: at as u32,
            weight,
            watch_port: watch.map(OfPort),
            watch_group: watch.map(u32::from),
            actions: actions.into(),
        });
        let selection = match param % 3 {
            0 => Selection::Default,
            1 => Selection::DpHash { param },
            _ => Selection::Hash { param, fields: [(Field::IpSrc, 0xffff_ff00), (Field::NwProto, 0xff)].into() },
        };
        let group = GroupMod {
            command: GroupCommand::Add,
            id,
            kind: GroupKind::Select,
            selection,
            buckets: buckets.collect(),
            position: None,
        };
        let text = text::print_group(&group, &Names);
        prop_assert_eq!(text::parse_group(&text, GroupCommand::Add, &Names), Ok(group), "{}", text);
    }

    #[test]
    fn meters_read_back(id in 1..=MeterMod::MAX, flags in any::<[bool; 3]>(), bands in vec((1..=u32::MAX, 1..=u32::MAX, option::of(1..=u8::MAX)), 1..4)) {
        let [packets, burst, stats] = flags;
        let bands = bands.into_iter().map(|(rate, size, level)| Band {
            kind: level.map_or(BandKind::Drop, BandKind::DscpRemark),
            rate,
            burst_size: if burst { size } else { 0 },
        });
        let meter = MeterSpec { id, packets, burst, stats, bands: bands.collect() };
        let text = text::print_meter(&meter);
        let again = text::parse_meter(&text, MeterCommand::Add).map(|meter| meter.meter);
        prop_assert_eq!(again, Ok(meter), "{}", text);
    }
}
