//! What packets can have read: each action, reachability, and that what goes is forgotten.

use weft_flow::action::*;
use weft_flow::message::{Band, BandKind, Bucket, GroupKind, MeterMod, MeterSpec, Selection};
use weft_flow::{Fields, KeyMask, Subfield};

use super::*;

/// All bits of these fields, and where the packet came in.
fn mask(fields: &[Field]) -> KeyMask {
    parts(&fields.iter().map(|&field| Subfield::whole(field)).collect::<Vec<_>>())
}

fn parts(parts: &[Subfield]) -> KeyMask {
    let mut bits = Fields::default();
    bits.0[0] = 0xffff;
    for part in parts {
        let old = part.mask();
        bits.0.iter_mut().zip(old.0).for_each(|(word, old)| *word |= old);
    }
    KeyMask(bits.key().0)
}

fn both(one: KeyMask, other: KeyMask) -> KeyMask {
    KeyMask(std::array::from_fn(|word| one.0[word] | other.0[word]))
}

fn vlan() -> KeyMask {
    parts(&[Subfield::new(Field::VlanTci, 0, 13).unwrap()])
}

fn part(field: Field, offset: u8, bits: u8) -> Subfield {
    Subfield::new(field, offset, bits).unwrap()
}

fn bridge(flows: &[FlowMod]) -> Arc<FlowTables> {
    let tables = FlowTables::new();
    let changes: Vec<_> = flows.iter().cloned().map(Change::Flow).collect();
    commit(&tables, &changes, at(1)).unwrap();
    tables
}

/// `table=.., actions=..`, matching everything.
fn does(table: u8, actions: &[Action]) -> FlowMod {
    FlowMod { table: Some(table), actions: actions.into(), ..FlowMod::default() }
}

fn reach(tables: &FlowTables) -> Arc<Reach> {
    tables.load().reads(TableId::FIRST)
}

/// What packets that meet a rule with this one action can have read.
fn read_by(action: Action) -> KeyMask {
    reach(&bridge(&[does(0, &[action])])).mask
}

fn set(field: Field) -> Action {
    Action::set_field(field, 0, field.max())
}

const FIVE_TUPLE: [Field; 7] = [
    Field::EthType,
    Field::NwProto,
    Field::IpFrag,
    Field::Ipv6Src,
    Field::Ipv6Dst,
    Field::TcpSrc,
    Field::TcpDst,
];

#[test]
fn an_empty_bridge_reads_where_a_packet_came_in_and_nothing_else() {
    let nothing = mask(&[]);
    assert_eq!(reach(&FlowTables::new()).mask, nothing);
    for free in [
        does(0, &[]),
        does(0, &[set(Field::Reg0), set(Field::EthSrc), set(Field::TunId), Action::Exit]),
        does(0, &[Action::Resubmit { in_port: Some(OfPort(7)), table: None, ct: false }]),
        does(0, &[Action::WriteMetadata { value: 1, mask: 1 }, Action::ClearActions, Action::CtClear]),
        does(0, &[Action::SetTunnel { id: 1, wide: false }, Action::SetQueue(1), Action::PopQueue]),
        FlowMod { matches: Match::any().with(Field::InPort, 3).with(Field::Reg3, 1), ..does(0, &[]) },
        FlowMod { matches: Match::any().with(Field::CtState, 1).with(Field::Metadata, 1), ..does(0, &[]) },
    ] {
        assert_eq!(reach(&bridge(std::slice::from_ref(&free))).mask, nothing, "{free:?}");
    }
}

#[test]
fn normal_reads_addresses_and_vlan_and_an_output_the_vlan() {
    let normal = both(mask(&[Field::EthSrc, Field::EthDst]), vlan());
    assert_eq!(reach(&FlowTables::normal()).mask, normal);
    for port in [OfPort(1), OfPort::FLOOD, OfPort::ALL, OfPort::IN_PORT, OfPort::LOCAL] {
        assert_eq!(read_by(Action::Output(port)), vlan());
        assert_eq!(read_by(Action::Enqueue { port, queue: 1 }), vlan());
        assert_eq!(read_by(Action::OutputTrunc { port, max_len: 64 }), vlan());
    }
    assert_eq!(read_by(Action::Output(OfPort::CONTROLLER)), mask(&[]));
    let by_register = Action::OutputReg { source: part(Field::Reg0, 0, 16), max_len: 0 };
    assert_eq!(read_by(by_register), vlan());
    let by_address = Action::OutputReg { source: part(Field::IpDst, 0, 16), max_len: 0 };
    assert_eq!(
        read_by(by_address),
        both(vlan(), parts(&[part(Field::IpDst, 0, 16), Subfield::whole(Field::EthType)]))
    );
}

#[test]
fn a_change_reads_what_it_presupposes_and_not_what_it_writes() {
    let transport = [Field::EthType, Field::NwProto, Field::IpFrag];
    let tagged = parts(&[part(Field::VlanTci, 12, 1)]);
    let nd = [&transport[..], &[Field::Icmpv6Type, Field::Icmpv6Code]].concat();
    let rows = [
        (set(Field::TcpDst), mask(&transport)),
        (Action::SetTpSrc(1), mask(&transport)),
        (set(Field::IpDst), mask(&[Field::EthType])),
        (set(Field::ArpOp), mask(&[Field::EthType])),
        (set(Field::NdTarget), mask(&nd)),
        (set(Field::VlanTci), tagged),
        (set(Field::VlanVid), tagged),
        (set(Field::VlanPcp), tagged),
        (Action::SetVlanVid(VlanChange { value: 1, push: true }), tagged),
        (Action::PushVlan(0x8100), tagged),
        // The second tag is then the outermost.
        (Action::StripVlan, both(tagged, parts(&[part(Field::InnerVlanTci, 12, 1)]))),
        (Action::SetIpSrc(0.into()), mask(&[Field::EthType])),
        (Action::SetIpTos(0), mask(&[Field::EthType])),
        (Action::SetEthDst(weft_wire::Mac::from_u64(1)), mask(&[])),
        (Action::DecTtl(Box::new([])), mask(&[Field::EthType, Field::NwTtl])),
        (Action::DecMplsTtl, mask(&[Field::EthType, Field::MplsTtl])),
        (Action::SetMplsLabel(1), mask(&[Field::EthType])),
        (Action::Pop(Subfield::whole(Field::UdpSrc)), mask(&transport)),
    ];
    for (action, expected) in rows {
        assert_eq!(read_by(action.clone()), expected, "{action:?}");
    }
}

#[test]
fn sources_are_read_bit_by_bit() {
    let source = part(Field::EthSrc, 8, 16);
    let target = part(Field::Reg1, 0, 16);
    assert_eq!(read_by(Action::Move { source, target }), parts(&[source]));
    assert_eq!(read_by(Action::Push(source)), parts(&[source]));
    let registers = Action::Move { source: target, target: part(Field::EthSrc, 8, 16) };
    assert_eq!(read_by(registers), mask(&[]));
    let ports = Action::Move { source: Subfield::whole(Field::TcpSrc), target };
    assert_eq!(read_by(ports), mask(&[Field::EthType, Field::NwProto, Field::IpFrag, Field::TcpSrc]));
}

#[test]
fn hashes_read_what_they_hash() {
    let target = part(Field::Reg0, 0, 16);
    let multipath = |fields| {
        Action::Multipath(Box::new(Multipath {
            fields,
            basis: 0,
            algorithm: MultipathAlgorithm::ModuloN,
            max_link: 3,
            arg: 0,
            target,
        }))
    };
    let l2 = both(mask(&[Field::EthSrc, Field::EthDst]), vlan());
    assert_eq!(read_by(multipath(HashFields::EthSrc)), mask(&[Field::EthSrc]));
    assert_eq!(read_by(multipath(HashFields::NwDst)), mask(&[Field::EthType, Field::Ipv6Dst]));
    assert_eq!(
        read_by(multipath(HashFields::SymmetricL3)),
        mask(&[Field::EthType, Field::Ipv6Src, Field::Ipv6Dst])
    );
    assert_eq!(read_by(multipath(HashFields::SymmetricL3L4)), mask(&FIVE_TUPLE));
    assert_eq!(read_by(multipath(HashFields::SymmetricL4)), both(l2, mask(&FIVE_TUPLE)));
    let bundle = |target| {
        Action::Bundle(Box::new(Bundle {
            fields: HashFields::EthSrc,
            basis: 0,
            algorithm: BundleAlgorithm::HighestRandomWeight,
            ports: Box::new([OfPort(4)]),
            target,
        }))
    };
    assert_eq!(read_by(bundle(Some(target))), mask(&[Field::EthSrc]));
    let out = reach(&bridge(&[does(0, &[bundle(None)])]));
    assert_eq!(out.mask, both(mask(&[Field::EthSrc]), vlan()));
    assert!(out.has(Edge::Port(OfPort(4))));
}

#[test]
fn select_groups_read_what_chooses_and_every_bucket() {
    let select = |selection, kind| {
        let bucket = |id, actions: Box<[Action]>| Bucket {
            id,
            weight: u16::from(kind == GroupKind::Select),
            watch_port: None,
            watch_group: None,
            actions,
        };
        let buckets = Box::new([bucket(1, out(1)), bucket(2, Box::new([set(Field::IpSrc)]))]);
        let tables = FlowTables::new();
        let group = GroupMod { id: 1, kind, selection, buckets, ..GroupMod::default() };
        let rule = does(0, &[Action::Group(1)]);
        commit(&tables, &[Change::Group(group), Change::Flow(rule)], at(1)).unwrap();
        reach(&tables).mask
    };
    let buckets = both(vlan(), mask(&[Field::EthType]));
    assert_eq!(select(Selection::Default, GroupKind::All), buckets);
    assert_eq!(select(Selection::DpHash { param: 0 }, GroupKind::Select), both(buckets, mask(&FIVE_TUPLE)));
    let l2 = mask(&[Field::EthSrc, Field::EthDst]);
    assert_eq!(select(Selection::Default, GroupKind::Select), both(both(l2, buckets), mask(&FIVE_TUPLE)));
    let fields = Box::new([(Field::IpSrc, 0xff)]);
    let hash = Selection::Hash { param: 0, fields };
    assert_eq!(select(hash, GroupKind::Select), both(buckets, parts(&[part(Field::IpSrc, 0, 8)])));
}

#[test]
fn what_is_reachable_is_read_and_nothing_else() {
    let reads = |table: u8, field| FlowMod { matches: Match::any().with(field, 1), ..does(table, &[]) };
    let goto = |table| Action::GotoTable(table);
    let resubmit = |table| Action::Resubmit { in_port: None, table: Some(table), ct: false };
    let tables = bridge(&[
        does(0, &[Action::Clone(Box::new([resubmit(5)])), Action::Meter(1)][..1]),
        FlowMod { priority: 1, ..does(0, &[goto(10)]) },
        reads(5, Field::EthSrc),
        reads(10, Field::TcpDst),
        reads(11, Field::UdpSrc),
    ]);
    assert_eq!(reach(&tables).mask, mask(&[Field::EthSrc, Field::TcpDst, Field::IpFrag]));
    let edges = [0, 5, 10].map(|id| Edge::Table(TableId(id)));
    assert_eq!(reach(&tables).edges, edges);
    assert_eq!(tables.load().reads(TableId(11)).mask, mask(&[Field::UdpSrc, Field::IpFrag]));
    // A table whose misses continue leads to the next.
    let on = TableMod { table: Some(TableId(10)), miss: Some(Miss::Continue), ..TableMod::default() };
    commit(&tables, &[Change::Table(on)], at(1)).unwrap();
    assert_eq!(reach(&tables).mask, mask(&[Field::EthSrc, Field::TcpDst, Field::UdpSrc, Field::IpFrag]));
    let miss = TableMod { table: Some(TableId(10)), miss: Some(Miss::Controller), ..TableMod::default() };
    commit(&tables, &[Change::Table(miss)], at(1)).unwrap();
    assert!(reach(&tables).has(Edge::Controller) && !reach(&tables).has(Edge::Table(TableId(11))));
    // `ct(table)` and a bucket's resubmit, too; groups that don't exist lead nowhere.
    let ct = Action::Ct(Box::new(Ct { table: Some(11), ..Ct::default() }));
    change(&tables, FlowMod { priority: 2, ..does(0, &[ct]) }).unwrap();
    assert_eq!(
        reach(&tables).mask,
        both(mask(&[Field::EthSrc, Field::UdpSrc, Field::IpFrag]), mask(&FIVE_TUPLE))
    );
    assert!(reach(&tables).has(Edge::Ct));
}

#[test]
fn what_goes_is_forgotten_and_what_others_read_stays() {
    let tables = FlowTables::new();
    let net = |priority, bits| FlowMod {
        priority,
        matches: Match::any().with_masked(Field::EthSrc, 0, bits),
        actions: out(priority),
        ..FlowMod::default()
    };
    let outputs = |tables: &FlowTables| reach(tables).ports().unwrap().map(|port| port.0).collect::<Vec<_>>();
    change(&tables, net(1, 0x0f)).unwrap();
    change(&tables, net(2, 0x0f)).unwrap();
    change(&tables, net(3, 0x3c)).unwrap();
    let read =
        |bits| both(vlan(), KeyMask(std::array::from_fn(|word| if word == 1 { bits << 16 } else { 0 })));
    let read = |bits: u64| both(read(bits), mask(&[]));
    assert_eq!((reach(&tables).mask, outputs(&tables)), (read(0x3f), vec![1, 2, 3]));
    let reach_before = reach(&tables);
    change(&tables, with(FlowCommand::DeleteStrict, net(1, 0x0f))).unwrap();
    assert_eq!((reach(&tables).mask, outputs(&tables)), (read(0x3f), vec![2, 3]));
    change(&tables, with(FlowCommand::DeleteStrict, net(2, 0x0f))).unwrap();
    assert_eq!((reach(&tables).mask, outputs(&tables)), (read(0x3c), vec![3]));
    // A change that changes no union keeps the very same answer.
    let same = reach(&tables);
    change(&tables, FlowMod { priority: 9, actions: out(3), ..net(9, 0x3c) }).unwrap();
    assert!(Arc::ptr_eq(&same, &reach(&tables)) && !Arc::ptr_eq(&same, &reach_before));
    // A modification forgets the old actions.
    change(
        &tables,
        FlowMod { matches: Match::any(), actions: Box::new([]), ..with(FlowCommand::Modify, net(1, 0)) },
    )
    .unwrap();
    assert_eq!(outputs(&tables), [0; 0]);
    assert_eq!(reach(&tables).mask.0[1], 0x3c << 16);
    change(&tables, FlowMod { command: FlowCommand::Delete, ..FlowMod::default() }).unwrap();
    assert_eq!(*reach(&tables), *FlowTables::new().load().reads(TableId::FIRST));
}

#[test]
fn tags_that_come_and_go_are_read_in_each_others_place() {
    let reads = FlowMod { matches: Match::any().with(Field::DlVlan, 5), ..does(1, &[]) };
    let goto = Action::GotoTable(1);
    let pop = bridge(&[reads.clone(), does(0, &[Action::StripVlan, goto.clone()])]);
    let (outer, tagged) = (Subfield::whole(Field::DlVlan), part(Field::VlanTci, 12, 1));
    let inner = [part(Field::InnerVlanTci, 0, 12), part(Field::InnerVlanTci, 12, 1)];
    assert_eq!(reach(&pop).mask, parts(&[outer, tagged, inner[0], inner[1]]));
    let reads_inner = FlowMod { matches: Match::any().with(Field::InnerVlanTci, 5), ..does(1, &[]) };
    let push = bridge(&[reads_inner, does(0, &[Action::PushVlan(0x8100), goto])]);
    assert_eq!(reach(&push).mask, mask(&[Field::InnerVlanTci, Field::VlanTci]));
}

fn learn(table: u8, specs: &[LearnSpec]) -> Action {
    Action::Learn(Box::new(Learn {
        idle_timeout: 0,
        hard_timeout: 0,
        priority: 1,
        cookie: 0,
        table,
        fin_idle_timeout: 0,
        fin_hard_timeout: 0,
        send_flow_removed: false,
        delete_learned: false,
        limit: 0,
        result: None,
        specs: specs.into(),
    }))
}

#[test]
fn what_learned_rules_will_read_is_read_before_they_are_there() {
    let field = |field| LearnSource::Field(Subfield::whole(field));
    let specs = [
        // NXM_OF_VLAN_TCI[0..11], NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[], output:NXM_OF_IN_PORT[]
        LearnSpec {
            source: LearnSource::Field(part(Field::VlanTci, 0, 12)),
            target: LearnTarget::Match(part(Field::VlanTci, 0, 12)),
        },
        LearnSpec {
            source: field(Field::EthSrc),
            target: LearnTarget::Match(Subfield::whole(Field::EthDst)),
        },
        LearnSpec { source: field(Field::InPort), target: LearnTarget::Output },
        LearnSpec {
            source: LearnSource::Immediate(1),
            target: LearnTarget::Load(Subfield::whole(Field::NwTtl)),
        },
    ];
    let learner = does(0, &[learn(20, &specs)]);
    let tables = bridge(std::slice::from_ref(&learner));
    let own = parts(&[part(Field::VlanTci, 0, 12), Subfield::whole(Field::EthSrc)]);
    assert_eq!(reach(&tables).mask, own, "table 20 isn't reachable");
    let goto = FlowMod { priority: 1, ..does(0, &[Action::GotoTable(20)]) };
    change(&tables, goto.clone()).unwrap();
    let learned = both(mask(&[Field::EthDst, Field::EthType]), vlan());
    let before = reach(&tables);
    assert_eq!(before.mask, both(own, learned));
    assert!(before.has(Edge::Dynamic) && before.ports().is_none());
    // The learned rule, when it comes, reads nothing more.
    let made = FlowMod {
        table: Some(20),
        matches: Match::any().with_masked(Field::VlanTci, 5, 0xfff).with(Field::EthDst, 7),
        actions: Box::new([
            Action::Output(OfPort(3)),
            Action::Load { target: Subfield::whole(Field::NwTtl), value: 1 },
        ]),
        ..FlowMod::default()
    };
    assert_eq!(tables.learn(&made, 0, at(1)), LearnResult::Made);
    assert_eq!(reach(&tables).mask, before.mask);
    // Without the learner only what was learned is read.
    change(&tables, with(FlowCommand::DeleteStrict, learner)).unwrap();
    assert_eq!(reach(&tables).mask, learned);
    assert!(!reach(&tables).has(Edge::Dynamic));
    // A bucket can learn, too.
    let bucket = Bucket {
        id: 1,
        weight: 0,
        watch_port: None,
        watch_group: None,
        actions: Box::new([learn(20, &specs)]),
    };
    let group = GroupMod { id: 1, buckets: Box::new([bucket]), ..GroupMod::default() };
    commit(&tables, &[Change::Group(group.clone())], at(1)).unwrap();
    assert!(reach(&tables).has(Edge::Dynamic));
    commit(
        &tables,
        &[Change::Group(GroupMod { command: weft_flow::message::GroupCommand::Delete, ..group })],
        at(1),
    )
    .unwrap();
    assert!(!reach(&tables).has(Edge::Dynamic));
}

#[test]
fn lengths_meters_and_labels_are_told() {
    let remark = Band { kind: BandKind::DscpRemark(1), rate: 1, burst_size: 0 };
    let meter = MeterMod {
        meter: MeterSpec { id: 3, bands: Box::new([remark]), ..MeterSpec::default() },
        ..MeterMod::default()
    };
    let larger = |length| Action::CheckPktLarger { target: part(Field::Reg0, 0, 1), length };
    let tables = FlowTables::new();
    let rule = does(0, &[larger(1500), larger(900), larger(1500), Action::Meter(3)]);
    commit(&tables, &[Change::Meter(meter), Change::Flow(rule)], at(1)).unwrap();
    let reach = reach(&tables);
    assert_eq!(reach.lengths().collect::<Vec<_>>(), [900, 1500]);
    assert_eq!((reach.mask.0[8], reach.has(Edge::Meter(3))), (0xffff, true));
    assert_eq!(reach.mask.0[3], mask(&[Field::EthType]).0[3]);
    let pop = read_by(Action::PopMpls(0x0800));
    assert_eq!((pop.0[11], pop.0[15]), (0xffff_ffff << 32, u64::MAX));
    let push = read_by(Action::PushMpls(0x8847));
    assert_eq!(push, both(pop, mask(&[Field::EthType, Field::NwTos, Field::NwTtl])));
    let fin = read_by(Action::FinTimeout { idle: 1, hard: 1 });
    let ends = Subfield::new(Field::TcpFlags, 0, 1).unwrap();
    let resets = Subfield::new(Field::TcpFlags, 2, 1).unwrap();
    assert_eq!(fin, both(mask(&[Field::EthType, Field::NwProto, Field::IpFrag]), parts(&[ends, resets])));
}
