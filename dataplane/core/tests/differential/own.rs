//! Random rules of weft's own tables, and the ports that they guard.

use weft_core::snapshot::Guard;
use weft_core::tables::{Change, TableId};
use weft_flow::action::{Ct, CtZone, Own};
use weft_flow::message::{FlowCommand, FlowMod};
use weft_flow::{Action, Field, Fields, Match};
use weft_wire::{DropReason, Mac};

use crate::rig::dice::Dice;
use crate::rig::frames::mac;
use crate::rules::{connection_field, mark, matches};

/// No guard, one of what is sent, and one of both.
pub const GUARDS: [Guard; 3] =
    [Guard { from: false, to: false }, Guard { from: true, to: false }, Guard { from: true, to: true }];

/// How a port is guarded: most aren't.
pub fn guard(dice: &mut Dice) -> Guard {
    dice.pick(&[GUARDS[0], GUARDS[0], GUARDS[1], GUARDS[2]])
}

/// For each way: the table where packets enter, the next one, and the one for what was tracked.
const WAYS: [(TableId, u16, u16); 2] = [(TableId::FROM_GUARDED, 257, 258), (TableId::TO_GUARDED, 262, 263)];
/// Of each way, the table of the addresses that may talk: the members of a group.
const MEMBERS: [u16; 2] = [259, 264];

/// An address joins the group, or leaves it.
pub fn membership(dice: &mut Dice) -> Vec<Change> {
    let command = dice.pick(&[FlowCommand::Add, FlowCommand::DeleteStrict]);
    let tables = dice.pick(&[&MEMBERS[..], &MEMBERS[..1], &MEMBERS[1..]]);
    let change = |&table: &u16| Change::FlowIn(TableId(table), FlowMod { command, ..member(dice) });
    tables.iter().map(change).collect()
}

fn member(dice: &mut Dice) -> FlowMod {
    let field = dice.pick(&[Field::IpSrc, Field::IpDst]);
    let address = 0x0a00_0000 | u128::from(dice.pick(&[1_u8, 2, 3]));
    FlowMod {
        priority: 1,
        matches: Match::any().with(Field::EthType, 0x0800).with(field, address),
        actions: [Action::Own(Own::Permit)].into(),
        table: None,
        ..FlowMod::default()
    }
}

/// All of these tables' rules are others.
pub fn changes(dice: &mut Dice) -> Vec<Change> {
    let mut changes = Vec::new();
    for ((entry, next, tracked), members) in WAYS.into_iter().zip(MEMBERS) {
        for table in [entry, TableId(next), TableId(tracked), TableId(members)] {
            let all = FlowMod { command: FlowCommand::Delete, table: None, ..FlowMod::default() };
            changes.push(Change::FlowIn(table, all));
        }
        let mut add = |table: TableId, matches: Match, actions: &[Action]| {
            let priority = if matches.terms().is_empty() { 0 } else { 1 + (mark(&matches) & 0x1fff) };
            let flow =
                FlowMod { priority, matches, actions: actions.into(), table: None, ..FlowMod::default() };
            changes.push(Change::FlowIn(table, flow));
        };
        add(entry, Match::any(), &[go(next)]);
        let sender = Match::any()
            .with(Field::EthType, 0x0806)
            .with(Field::ArpSha, mac(dice.pick(&[1, 2])).to_u64().into());
        add(entry, sender, &[outcome(dice, DropReason::SpoofedArp)]);
        for _ in 0..dice.below(3) {
            add(entry, matches(dice), &[outcome(dice, DropReason::SpoofedIp)]);
        }
        let ip = Match::any().with(Field::EthType, 0x0800);
        let zone = CtZone::Number(dice.pick(&[0, 7]));
        let track = Ct { table: Some(tracked), zone, ..Ct::default() };
        add(TableId(next), ip, &[Action::Ct(Box::new(track))]);
        if dice.percent(80) {
            add(TableId(next), Match::any(), &[Action::Own(Own::Permit)]);
        }
        let commit = Action::Ct(Box::new(Ct { commit: true, zone, ..Ct::default() }));
        // Most often who is a member decides.
        let end = if dice.percent(60) { go(members) } else { outcome(dice, DropReason::AclInvalid) };
        add(TableId(tracked), Match::any(), &[commit, end]);
        for _ in 0..dice.below(3) {
            let (mut masks, mut values) = (Fields::default(), Fields::default());
            let (word, value, mask) = connection_field(dice);
            (masks.0[word], values.0[word]) = (mask, value & mask);
            let by_origin = Action::Resubmit { in_port: None, table: Some(next), ct: true };
            let actions =
                if dice.percent(20) { vec![by_origin] } else { vec![outcome(dice, DropReason::AclInvalid)] };
            add(TableId(tracked), Match::new(&masks, &values), &actions);
        }
        for _ in 0..dice.below(4) {
            changes.push(Change::FlowIn(TableId(members), member(dice)));
        }
    }
    changes
}

fn go(table: u16) -> Action {
    Action::Resubmit { in_port: None, table: Some(table), ct: false }
}

fn outcome(dice: &mut Dice, reason: DropReason) -> Action {
    Action::Own(if dice.percent(70) { Own::Permit } else { Own::Drop(reason) })
}

/// An ARP packet that claims one address or another.
pub fn arp(source: Mac, destination: Mac, dice: &mut Dice) -> Vec<u8> {
    let claimed = dice.pick(&[mac(1), mac(2), source]);
    let mut frame =
        [&destination.0[..], &source.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, dice.pick(&[1, 2])]].concat();
    frame.extend(claimed.0);
    frame.extend([10, 0, 0, dice.pick(&[1, 2])]);
    frame.extend([0; 6]);
    frame.extend([10, 0, 0, 3]);
    frame.resize(60, 0);
    frame
}
