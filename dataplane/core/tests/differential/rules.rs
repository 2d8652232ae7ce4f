//! Random rules: every kind of action, on few values of everything.

use std::sync::Arc;
use std::time::Duration;

use weft_core::tables::{Change, FlowTables};
use weft_flow::action::{
    Bundle, BundleAlgorithm, Controller, Ct, CtZone, HashFields, Learn, LearnSource, LearnSpec, LearnTarget,
    Multipath, MultipathAlgorithm, Nat, NatAddresses, NatChoice, NatKind, PacketInReason, Sample, SampleId,
    VlanChange,
};
use weft_flow::message::{
    Band, BandKind, Bucket, FlowCommand, FlowMod, GroupCommand, GroupKind, GroupMod, MeterCommand, MeterMod,
    MeterSpec, Selection,
};
use weft_flow::{Action, Field, Fields, Match, Subfield};
use weft_wire::{Mac, OfPort};

use crate::rig::dice::Dice;
use crate::rig::frames::mac;
use crate::rig::{normal, remote};

/// Rules are in tables 0 to 3.
const TABLES: u8 = 4;
const GROUPS: [u32; 3] = [1, 2, 3];
const METERS: [u32; 2] = [1, 2];

/// Tables with groups and some rules.
pub fn tables(dice: &mut Dice) -> Arc<FlowTables> {
    let tables = FlowTables::new();
    let mut changes: Vec<Change> = GROUPS.iter().map(|&id| Change::Group(group(id, dice))).collect();
    changes.extend(METERS.map(|id| Change::Meter(meter(MeterCommand::Add, id, dice))));
    changes.extend(rules(dice).into_iter().map(Change::Flow));
    changes.extend(crate::own::changes(dice));
    tables.prepare(&changes, Duration::ZERO).unwrap().commit();
    tables
}

/// Tables through which most packets are tracked.
pub fn tracking_tables(dice: &mut Dice) -> Arc<FlowTables> {
    let tables = FlowTables::new();
    let mut changes: Vec<Change> = GROUPS.iter().map(|&id| Change::Group(group(id, dice))).collect();
    changes.extend(tracking_rules(dice).into_iter().map(Change::Flow));
    changes.extend(crate::own::changes(dice));
    tables.prepare(&changes, Duration::ZERO).unwrap().commit();
    tables
}

/// Some rules come, or all are others.
pub fn tracking_changes(dice: &mut Dice) -> Vec<Change> {
    let delete = FlowMod { command: FlowCommand::Delete, table: None, ..FlowMod::default() };
    let all = dice.percent(20).then_some(delete);
    let some = if all.is_some() { tracking_rules(dice) } else { vec![tracked(dice), tracked(dice)] };
    all.into_iter().chain(some).map(Change::Flow).collect()
}

/// IP goes through `ct`, and what that says decides.
fn tracking_rules(dice: &mut Dice) -> Vec<FlowMod> {
    let ip = Match::any().with(Field::EthType, 0x0800);
    let first = Ct { table: Some(1), commit: dice.percent(20), ..ct(dice, 0) };
    let mut rules = vec![normal()];
    rules.push(FlowMod {
        table: Some(0),
        priority: 3 << 13,
        matches: ip,
        actions: [Action::Ct(Box::new(first))].into(),
        ..FlowMod::default()
    });
    for table in 1..TABLES {
        let actions = [Action::Output(dice.pick(&[OfPort::NORMAL, OfPort(2)]))];
        rules.push(FlowMod { table: Some(table), actions: actions.into(), ..FlowMod::default() });
    }
    rules.extend((0..3 + dice.below(6)).map(|_| tracked(dice)));
    rules
}

/// A rule about what was tracked.
fn tracked(dice: &mut Dice) -> FlowMod {
    let table = 1 + dice.below(usize::from(TABLES - 1)) as u8;
    let (mut masks, mut values) = (Fields::default(), Fields::default());
    for _ in 0..1 + dice.below(2) {
        let (word, value, mask) = connection_field(dice);
        if masks.0[word] & mask == 0 {
            masks.0[word] |= mask;
            values.0[word] |= value & mask;
        }
    }
    let matches = Match::new(&masks, &values);
    let next =
        Action::Resubmit { in_port: None, table: Some((table + 1).min(TABLES).into()), ct: dice.percent(40) };
    let mut actions = vec![Action::Ct(Box::new(ct(dice, table)))];
    for _ in 0..dice.below(3) {
        actions.push(dice.pick(&[
            Action::Output(OfPort::NORMAL),
            next.clone(),
            Action::CtClear,
            Action::set_field(Field::IpDst, 0x0a00_0003, Field::IpDst.max()),
            Action::Load { target: Subfield::whole(Field::Reg0), value: 1 },
        ]));
    }
    if dice.percent(30) {
        actions.remove(0);
    }
    FlowMod {
        table: Some(table),
        priority: (1 + dice.below(2) as u16) << 13 | mark(&matches) & 0x1fff,
        matches,
        actions: actions.into(),
        ..FlowMod::default()
    }
}

/// The same rules and groups in tables of their own.
pub fn copied(tables: &FlowTables, now: Duration) -> Arc<FlowTables> {
    let copy = FlowTables::new();
    let root = tables.load();
    let mut changes: Vec<Change> = Vec::new();
    for group in root.groups() {
        let spec = group.spec();
        changes.push(Change::Group(GroupMod {
            command: GroupCommand::Add,
            id: spec.id,
            kind: spec.kind,
            selection: spec.selection.clone(),
            buckets: spec.buckets.clone(),
            position: None,
        }));
    }
    for meter in root.meters() {
        changes.push(Change::Meter(MeterMod { command: MeterCommand::Add, meter: meter.spec.clone() }));
    }
    for rule in root.tables().flat_map(|table| table.rules()) {
        let flow = FlowMod {
            table: None,
            priority: rule.priority,
            matches: rule.matches.clone(),
            cookie: Some(rule.cookie),
            actions: rule.actions.iter().cloned().collect(),
            idle_timeout: rule.idle_timeout(),
            hard_timeout: rule.hard_timeout(),
            ..FlowMod::default()
        };
        changes.push(Change::FlowIn(rule.table, flow));
    }
    copy.prepare(&changes, now).unwrap().commit();
    copy
}

fn rules(dice: &mut Dice) -> Vec<FlowMod> {
    let mut rules: Vec<FlowMod> = (0..dice.below(6)).map(|_| rule(dice)).collect();
    if rules.is_empty() || dice.percent(80) {
        rules.push(normal());
    }
    rules
}

/// Whether rules or buckets learn, at whatever depth.
pub fn teach(tables: &FlowTables) -> bool {
    let root = tables.load();
    let learns = |actions: &[Action]| format!("{actions:?}").contains("Learn(");
    root.tables().flat_map(|table| table.rules()).any(|rule| learns(&rule.actions))
        || root.groups().flat_map(|group| &group.spec().buckets).any(|bucket| learns(&bucket.actions))
}

/// Some rules come, or come anew; some go; or a group changes.
pub fn changes(dice: &mut Dice) -> Vec<Change> {
    let mut changes = Vec::new();
    if dice.percent(10) {
        let id = dice.pick(&GROUPS);
        changes.push(Change::Group(GroupMod { command: GroupCommand::Modify, ..group(id, dice) }));
    }
    if dice.percent(10) {
        changes.push(Change::Meter(meter(MeterCommand::Modify, dice.pick(&METERS), dice)));
    }
    if dice.percent(30) {
        let all = FlowMod { command: FlowCommand::Delete, table: None, ..FlowMod::default() };
        changes.push(Change::Flow(all));
        changes.extend(rules(dice).into_iter().map(Change::Flow));
    }
    for _ in 0..1 + dice.below(2) {
        let rule = rule(dice);
        let delete = dice.pick(&[FlowCommand::Delete, FlowCommand::DeleteStrict]);
        let command = dice.pick(&[FlowCommand::Add, FlowCommand::Add, FlowCommand::Modify, delete]);
        changes.push(Change::Flow(FlowMod { command, ..rule }));
    }
    changes
}

fn rule(dice: &mut Dice) -> FlowMod {
    let table = dice.pick(&[0, 0, 0, 1, 2, 3]);
    let matches = matches(dice);
    FlowMod {
        table: Some(table),
        // Which of two rules of one priority wins is not promised: no two have the same.
        priority: (dice.below(4) as u16) << 13 | mark(&matches) & 0x1fff,
        matches,
        actions: actions(dice, table, 0).into(),
        ..FlowMod::default()
    }
}

pub fn mark(matches: &Match) -> u16 {
    let words = matches.terms().iter().flat_map(|term| [u64::from(term.word), term.mask, term.value]);
    let sum =
        words.fold(7, |sum: u64, word| (sum ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(31));
    (sum >> 40) as u16 | 4
}

fn actions(dice: &mut Dice, table: u8, depth: u8) -> Vec<Action> {
    (0..dice.below(5)).map(|_| action(dice, table, depth)).collect()
}

fn port(dice: &mut Dice) -> OfPort {
    OfPort(dice.pick(&[0, 1, 2, 3, 50, 51, 52, 60, 61, 90]) + 1)
}

fn output(dice: &mut Dice) -> Action {
    let port = port(dice);
    Action::Output(dice.pick(&[OfPort::NORMAL, port, port, OfPort::IN_PORT, OfPort::FLOOD]))
}

fn action(dice: &mut Dice, table: u8, depth: u8) -> Action {
    match dice.below(28) {
        22 => Action::Meter(dice.pick(&METERS)),
        23 => Action::Sample(Box::new(sample())),
        20 | 21 => label(dice),
        24..27 => Action::Ct(Box::new(ct(dice, table))),
        27 => Action::CtClear,
        0..6 => output(dice),
        6 | 7 => set_field(dice),
        8 => tag(dice),
        9 => registers(dice),
        10 => Action::Resubmit {
            in_port: dice.pick(&[None, None, Some(OfPort(2))]),
            // Backwards now and then: most rules that go round in circles drop all they do.
            table: Some(if dice.percent(8) {
                dice.below(TABLES.into()) as u16
            } else {
                (table + 1).min(TABLES).into()
            }),
            ct: dice.percent(15),
        },
        11 if table + 1 < TABLES => {
            Action::GotoTable(table + 1 + dice.below((TABLES - table - 1).into()) as u8)
        }
        12 if depth == 0 => Action::Clone(actions(dice, table, 1).into()),
        13 => Action::Group(dice.pick(&GROUPS)),
        14 => dice.pick(&[
            Action::DecTtl(Box::new([])),
            Action::SetTunnel { id: 7, wide: false },
            towards(50),
            towards(51),
            Action::set_field(Field::TunDst, 0, 0xff),
        ]),
        15 if depth == 0 => {
            let set = [output(dice), set_field(dice)];
            dice.pick(&[Action::WriteActions(set.into()), Action::ClearActions])
        }
        16 => choice(dice),
        17 if depth == 0 => learn(dice),
        18 => dice.pick(&[
            Action::OutputReg { source: Subfield::whole(Field::Reg0), max_len: 0 },
            Action::Exit,
            Action::Note(Box::new([1])),
        ]),
        _ => Action::Controller(Box::new(Controller {
            max_len: 64,
            reason: PacketInReason::Action,
            id: 0,
            userdata: Box::new([]),
            pause: false,
            meter: None,
        })),
    }
}

fn ct(dice: &mut Dice, table: u8) -> Ct {
    let low = |field| Subfield::new(field, 0, 16).unwrap();
    let zone = CtZone::Number(dice.pick(&[0, 0, 1, 2]));
    let commit = dice.percent(60);
    let next = if dice.percent(8) { dice.below(TABLES.into()) as u8 } else { (table + 1).min(TABLES) };
    let exec: Vec<Action> = (0..if commit { dice.below(3) } else { 0 }).map(|_| mark_action(dice)).collect();
    Ct {
        commit,
        force: commit && dice.percent(20),
        zone: dice.pick(&[zone, zone, CtZone::Field(low(Field::Reg0))]),
        table: dice.percent(70).then_some(next.into()),
        helper: None,
        exec: exec.into(),
        nat: dice.percent(40).then(|| nat(dice)),
    }
}

fn mark_action(dice: &mut Dice) -> Action {
    dice.pick(&[
        Action::set_field(Field::CtMark, 1, 1),
        Action::set_field(Field::CtMark, 6, 0xffff_ffff),
        Action::Load { target: Subfield::new(Field::CtLabel, 64, 2).unwrap(), value: 2 },
        Action::Move { source: Subfield::whole(Field::Reg0), target: Subfield::whole(Field::CtMark) },
    ])
}

fn nat(dice: &mut Dice) -> Nat {
    let address = |last: u32| std::net::Ipv4Addr::from_bits(0x0a00_0000 | last);
    let (source, destination) = (
        Nat {
            kind: Some(NatKind::Source),
            addresses: Some(NatAddresses::V4(address(3), address(4))),
            ..Nat::default()
        },
        Nat {
            kind: Some(NatKind::Destination),
            addresses: Some(NatAddresses::V4(address(3), address(3))),
            ..Nat::default()
        },
    );
    dice.pick(&[
        Nat::default(),
        Nat::default(),
        Nat { ports: Some((1000, 1002)), ..source.clone() },
        Nat {
            addresses: Some(NatAddresses::V4(address(4), address(4))),
            ports: Some((7, 7)),
            ..source.clone()
        },
        Nat { choice: Some(NatChoice::Random), ..source.clone() },
        Nat { persistent: true, ..source },
        Nat { ports: Some((80, 80)), ..destination.clone() },
        destination,
    ])
}

/// Where a tunnel is to lead that leaves it to the flow.
fn towards(number: u8) -> Action {
    Action::set_field(Field::TunDst, remote(number).to_bits().into(), Field::TunDst.max())
}

fn set_field(dice: &mut Dice) -> Action {
    let address = u128::from(mac(dice.pick(&[1, 2, 3])).to_u64());
    let (field, value, mask) = match dice.below(8) {
        0 => (Field::EthDst, address, Field::EthDst.max()),
        1 => (Field::EthSrc, address, Field::EthSrc.max()),
        2 => (Field::EthDst, address & 0xff, 0xff),
        3 => (Field::IpDst, 0x0a00_0003, Field::IpDst.max()),
        4 => (Field::IpSrc, 0x0a00_0100, 0xff00),
        5 => (Field::UdpDst, 53, Field::UdpDst.max()),
        6 => (Field::IpDscp, 8, Field::IpDscp.max()),
        _ => (Field::TcpDst, 80, 0xff),
    };
    Action::set_field(field, value & mask, mask)
}

fn tag(dice: &mut Dice) -> Action {
    let value = dice.pick(&[10, 20]);
    let push = dice.percent(60);
    dice.pick(&[
        Action::SetVlanVid(VlanChange { value, push }),
        Action::SetVlanVid(VlanChange { value, push }),
        Action::SetVlanPcp(VlanChange { value: 5, push }),
        Action::StripVlan,
        Action::StripVlan,
        Action::PushVlan(0x8100),
        Action::PushVlan(0x88a8),
        Action::set_field(Field::VlanVid, 0x1014, 0x1fff),
        Action::set_field(Field::VlanPcp, 3, 7),
        Action::set_field(Field::NwTos, 0x20, 0xff),
        Action::Load { target: Subfield::whole(Field::VlanTci), value: 0 },
        Action::Load { target: Subfield::new(Field::VlanTci, 0, 12).unwrap(), value: 20 },
    ])
}

fn sample() -> Sample {
    let id = SampleId::Number(1);
    Sample {
        probability: 30_000,
        collector_set_id: 1,
        obs_domain_id: id,
        obs_point_id: id,
        sampling_port: None,
        direction: Default::default(),
    }
}

/// A few packets or kilobits a second: what most bursts exceed, and some don't.
fn meter(command: MeterCommand, id: u32, dice: &mut Dice) -> MeterMod {
    let mut bands = vec![Band {
        kind: dice.pick(&[BandKind::Drop, BandKind::DscpRemark(1)]),
        rate: dice.pick(&[1, 2, 4]),
        burst_size: dice.pick(&[0, 3]),
    }];
    if dice.percent(30) {
        bands.push(Band { kind: BandKind::Drop, rate: 8, burst_size: 0 });
    }
    let burst = bands.iter().any(|band| band.burst_size > 0);
    MeterMod {
        command,
        meter: MeterSpec { id, packets: dice.percent(50), burst, stats: true, bands: bands.into() },
    }
}

fn label(dice: &mut Dice) -> Action {
    dice.pick(&[
        Action::PushMpls(0x8847),
        Action::PushMpls(0x8847),
        Action::PopMpls(0x8847),
        Action::PopMpls(0x0800),
        Action::PopMpls(0x0800),
        Action::PopMpls(0x0800),
        Action::PopMpls(0x86dd),
        Action::set_field(Field::MplsLabel, 17, Field::MplsLabel.max()),
        Action::DecMplsTtl,
    ])
}

fn registers(dice: &mut Dice) -> Action {
    let whole = Subfield::whole;
    let low = |field| Subfield::new(field, 0, 16).unwrap();
    dice.pick(&[
        Action::Load { target: whole(Field::Reg0), value: 2 },
        Action::Load { target: whole(Field::Reg0), value: 1 },
        Action::Move { source: whole(Field::InPort), target: low(Field::Reg0) },
        Action::Move { source: whole(Field::EthSrc), target: whole(Field::EthDst) },
        Action::Move { source: whole(Field::UdpSrc), target: low(Field::Reg1) },
        Action::Push(whole(Field::IpSrc)),
        Action::Push(whole(Field::Reg0)),
        Action::Pop(whole(Field::IpDst)),
        Action::Pop(whole(Field::Reg0)),
        Action::WriteMetadata { value: 1, mask: 3 },
    ])
}

fn choice(dice: &mut Dice) -> Action {
    let bits = Subfield::new(Field::Reg0, 0, 1).unwrap();
    match dice.below(3) {
        0 => Action::CheckPktLarger { target: bits, length: dice.pick(&[60, 70, 1000]) },
        1 => Action::Multipath(Box::new(Multipath {
            fields: HashFields::SymmetricL4,
            basis: 1,
            algorithm: dice.pick(&[MultipathAlgorithm::ModuloN, MultipathAlgorithm::HighestRandomWeight]),
            max_link: 1,
            arg: 0,
            target: bits,
        })),
        _ => Action::Bundle(Box::new(Bundle {
            fields: HashFields::EthSrc,
            basis: 0,
            algorithm: dice.pick(&[BundleAlgorithm::ActiveBackup, BundleAlgorithm::HighestRandomWeight]),
            ports: [OfPort(1), OfPort(2), OfPort(91)].into(),
            target: None,
        })),
    }
}

fn learn(dice: &mut Dice) -> Action {
    let whole = Subfield::whole;
    let spec = |source, target| LearnSpec { source: LearnSource::Field(source), target };
    let out = match dice.percent(50) {
        true => spec(whole(Field::InPort), LearnTarget::Output),
        false => {
            LearnSpec { source: LearnSource::Immediate(1), target: LearnTarget::Load(whole(Field::Reg0)) }
        }
    };
    Action::Learn(Box::new(Learn {
        idle_timeout: 0,
        hard_timeout: 300,
        priority: dice.below(3) as u16 + 1,
        cookie: 7,
        table: dice.pick(&[1, 2, 3]),
        fin_idle_timeout: 0,
        fin_hard_timeout: 0,
        send_flow_removed: false,
        delete_learned: false,
        limit: 0,
        result: None,
        specs: [spec(whole(Field::EthSrc), LearnTarget::Match(whole(Field::EthDst))), out].into(),
    }))
}

fn group(id: u32, dice: &mut Dice) -> GroupMod {
    let kind = dice.pick(&[GroupKind::All, GroupKind::Select, GroupKind::FastFailover]);
    let bucket = |number: u32, dice: &mut Dice| Bucket {
        id: number,
        weight: if kind == GroupKind::Select { 100 } else { 0 },
        watch_port: (kind == GroupKind::FastFailover).then(|| port(dice)),
        watch_group: None,
        actions: [set_field(dice), output(dice)].into(),
    };
    GroupMod {
        command: GroupCommand::Add,
        id,
        kind,
        selection: match kind {
            GroupKind::Select => dice.pick(&[Selection::Default, Selection::DpHash { param: 0 }]),
            _ => Selection::Default,
        },
        buckets: (0..2).map(|number| bucket(number, dice)).collect(),
        position: None,
    }
}

/// A match on one field or two, or on registers.
pub fn matches(dice: &mut Dice) -> Match {
    let (mut masks, mut values) = (Fields::default(), Fields::default());
    for _ in 0..dice.below(3) {
        let (word, value, mask) = field(dice);
        if masks.0[word] & mask == 0 {
            masks.0[word] |= mask;
            values.0[word] |= value & mask;
        }
    }
    Match::new(&masks, &values)
}

/// Word, value and mask of a field.
fn field(dice: &mut Dice) -> (usize, u64, u64) {
    let address = |dice: &mut Dice| Mac::to_u64(mac(dice.pick(&[1, 2, 3]))) << 16;
    match dice.below(22) {
        16..=21 => connection_field(dice),
        // in_port: a port's number plus 1
        0 => (31, (dice.pick(&[0, 1, 2, 50, 51, 60]) + 1) << 48, 0xffff << 48),
        1 => (0, address(dice), !0xffff),
        2 => (1, address(dice), !0xffff),
        3 => (0, dice.pick(&[0, 1 << 56]), 1 << 56),
        4 => (1, dice.pick(&[0, 0x100a, 0x1014]), 0x1fff),
        5 => (1, dice.pick(&[0, 0xa000]), 0xe000),
        6 => (3, dice.pick(&[0x0800, 0x0806, 0x86dd, 0x8847]) << 48, 0xffff << 48),
        15 => (11, dice.pick(&[16, 17]) << 44, 0xf_ffff << 44),
        7 => (3, dice.pick(&[6, 17]) << 24, 0xff << 24),
        8 => (3, dice.pick(&[0, 0x20]) << 16, 0xfc << 16),
        9 => (7, 0x0a00_0000 | dice.pick(&[1, 2, 3]), dice.pick(&[0xffff_ffff, 0xffff_fffe])),
        10 => (8, dice.pick(&[53, 80]) << 32, 0xffff << 32),
        11 => (2, dice.pick(&[0, 7, 1000, 2000]), 0xffff_ffff),
        // reg0, reg1, metadata
        12 => (17, dice.pick(&[0, 1, 2]) << 32, 0xffff_ffff << 32),
        13 => (17, dice.pick(&[0, 1000]), 0xffff_ffff),
        _ => (16, dice.pick(&[0, 1]), 3),
    }
}

/// The same of a field of the packet's connection.
pub fn connection_field(dice: &mut Dice) -> (usize, u64, u64) {
    match dice.below(7) {
        0..=2 => {
            let states = [
                (0x21, 0x21),
                (0x22, 0x22),
                (0x20, 0x21),
                (0x30, 0x30),
                (0x28, 0x28),
                (0, 0x20),
                (0x40, 0x40),
            ];
            let (value, mask) = dice.pick(&states);
            (27, value << 16, mask << 16)
        }
        3 => (27, dice.pick(&[0, 1, 6]) << 32, dice.pick(&[1, 0xffff_ffff]) << 32),
        4 => (28, dice.pick(&[0, 2]), 3),
        5 => (30, 0x0a00_0000 | dice.pick(&[1, 2, 3]), 0xffff_ffff),
        _ => (31, dice.pick(&[53, 80]), 0xffff),
    }
}
