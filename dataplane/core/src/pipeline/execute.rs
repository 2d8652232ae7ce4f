//! Actions, one after the other.

use weft_flow::action::{Learn, VlanChange};
use weft_flow::field::Prerequisite;
use weft_flow::{Action, Field, Fields, Subfield};
use weft_wire::{DropReason, OfPort};

use super::trace::{Event, Tracer};
use super::{By, Here, How, MAX_TAGS, Missed, UNSET, Walk, mpls};
use crate::tables::TableId;

/// Whether the list goes on behind an action.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// With the next one.
    Next,
    /// No more of this list.
    Stop,
}

impl<T: Tracer> Walk<'_, T> {
    /// Does what the actions say, in order. An error undoes the whole walk.
    pub(super) fn execute(
        &mut self,
        here: &Here<'_>,
        by: By<'_>,
        actions: &[Action],
    ) -> Result<(), DropReason> {
        for action in actions {
            if self.carry_out(here, by, action)? == Then::Stop {
                break;
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, here: &Here<'_>, by: By<'_>, action: &Action) -> Result<Then, DropReason> {
        self.tracer.event(Event::Action(action));
        let then = self.step(here, by, action)?;
        self.tracer.event(Event::Fields(&self.fields));
        Ok(if self.exit { Then::Stop } else { then })
    }

    fn step(&mut self, here: &Here<'_>, by: By<'_>, action: &Action) -> Result<Then, DropReason> {
        if mpls::looks_inside(action) && !self.can_read_inside() {
            self.refuse(DropReason::MplsUnparsed);
            return Ok(Then::Stop);
        }
        match action {
            Action::DecTtl(controllers) => return Ok(self.dec_ttl(here, by, controllers)),
            Action::DecMplsTtl => return Ok(self.dec_mpls_ttl(here, by)),
            Action::Exit => self.exit = true,
            Action::Resubmit { .. } | Action::GotoTable(_) | Action::Clone(_) | Action::Group(_) => {
                self.branch(here, by, action)?;
            }
            Action::Output(_)
            | Action::OutputTrunc { .. }
            | Action::OutputReg { .. }
            | Action::Controller(_)
            | Action::Enqueue { .. }
            | Action::Bundle(_) => self.send(here, by, action)?,
            Action::ClearActions | Action::WriteActions(_) => self.change_action_set(action),
            Action::Learn(learn) => self.learn_and_tell(here, learn),
            Action::Meter(id) => self.meter(here, *id),
            Action::Sample(sample) => {
                self.flush();
                self.verdict.ops.push(crate::verdict::Op::Sample {
                    probability: sample.probability,
                    collector_set_id: sample.collector_set_id,
                });
            }
            Action::FinTimeout { idle, hard } => self.shorten_timeouts(here, by, (*idle, *hard)),
            // Its rules are clauses; by itself it does nothing.
            Action::Conjunction { .. } | Action::Note(_) => {}
            Action::Ct(ct) => self.connect(here, ct)?,
            Action::CtClear => self.ct_clear(),
            Action::Own(own) => {
                self.outcome = Some(*own);
                self.exit = true;
            }
            Action::SetQueue(queue) => self.set_queue(*queue),
            Action::PopQueue => self.set_queue(0),
            _ => {
                self.rewrite(action)?;
                if self.tags > MAX_TAGS {
                    return Err(DropReason::NoHeadroom);
                }
            }
        }
        Ok(Then::Next)
    }

    /// Actions that carry out other lists.
    fn branch(&mut self, here: &Here<'_>, by: By<'_>, action: &Action) -> Result<(), DropReason> {
        match action {
            Action::Resubmit { in_port, table, ct } => {
                let in_port = match in_port {
                    None | Some(OfPort::IN_PORT) => self.in_port(),
                    Some(port) => *port,
                };
                let table = table.map_or(by.table, TableId::from);
                self.go_to(here, by, table, How { in_port, missed: Missed::IsNothing, original: *ct })
            }
            Action::GotoTable(table) => {
                let in_port = self.in_port();
                self.go_to(here, by, TableId::from(*table), How::arrived(in_port))
            }
            Action::Clone(actions) => self.clone_packet(here, by, actions),
            Action::Group(id) => self.group(here, by, *id),
            _ => Ok(()),
        }
    }

    /// `clone(..)`: the copy has the action set, and carries it out at its end. An `exit` is the packet's own, too.
    fn clone_packet(&mut self, here: &Here<'_>, by: By<'_>, actions: &[Action]) -> Result<(), DropReason> {
        let (set, mut exit) = (self.action_set.clone(), false);
        let result = self.scoped(|walk| {
            let result = walk.execute(here, by, actions).and_then(|()| walk.run_action_set(here));
            exit = walk.exit;
            result
        });
        self.action_set = set;
        self.exit |= exit;
        result
    }

    /// A look-up that goes backwards nests, as Open vSwitch counts it; one that goes forwards doesn't.
    fn go_to(&mut self, here: &Here<'_>, by: By<'_>, table: TableId, how: How) -> Result<(), DropReason> {
        let deeper = u16::from(table <= by.table);
        self.depth += deeper;
        let result = self.look_up(here, table, how);
        self.depth -= deeper;
        result
    }

    /// What `within` does to packet, fields and stack is undone behind it: it is done to a copy.
    pub(super) fn scoped(
        &mut self,
        within: impl FnOnce(&mut Self) -> Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        let (fields, written, pending) = (self.fields, self.written, self.pending);
        let (labels, exit, state) = (self.labels, self.exit, self.state);
        let (tags, grown) = (self.tags, self.grown);
        let (stack, before, unknown) = (self.stack.clone(), self.before, self.unknown);
        let (quoted, ports) = (self.quoted, self.ports);
        let start = self.begin_copy();
        let result = within(self);
        self.end_copy(start);
        (self.fields, self.written, self.pending) = (fields, written, pending);
        (self.labels, self.exit, self.state) = (labels, exit, state);
        (self.tags, self.grown) = (tags, grown);
        (self.stack, self.before, self.unknown) = (stack, before, unknown);
        (self.quoted, self.ports) = (quoted, ports);
        result
    }

    fn change_action_set(&mut self, action: &Action) {
        match action {
            Action::WriteActions(actions) => {
                for action in actions {
                    // Of most kinds, the last one counts; changes of fields add up, in order.
                    self.action_set.push(action.clone());
                }
                let group = self.action_set.iter().any(|action| matches!(action, Action::Group(_)));
                let output = self.action_set.iter().rev().find_map(|action| match action {
                    Action::Output(port) => Some(port.0),
                    _ => None,
                });
                self.set(Field::ActsetOutput, output.filter(|_| !group).unwrap_or(UNSET).into());
            }
            _ => {
                self.action_set.clear();
                self.set(Field::ActsetOutput, UNSET.into());
            }
        }
    }

    /// Carries out what `write_actions` has gathered, unless an `exit` was met.
    pub(super) fn run_action_set(&mut self, here: &Here<'_>) -> Result<(), DropReason> {
        let gathered = std::mem::take(&mut self.action_set);
        if gathered.is_empty() || self.exit {
            return Ok(());
        }
        self.tracer.event(Event::ActionSet);
        self.execute_set(here, By { table: TableId::FIRST, rule: None }, &gathered)
    }

    /// Does what an action set, or a bucket, says.
    pub(super) fn execute_set(
        &mut self,
        here: &Here<'_>,
        by: By<'_>,
        set: &[Action],
    ) -> Result<(), DropReason> {
        for action in ordered(set) {
            if self.carry_out(here, by, action)? == Then::Stop {
                break;
            }
        }
        Ok(())
    }

    /// `learn(..)`, and where the action wants it, whether the rule is there now.
    fn learn_and_tell(&mut self, here: &Here<'_>, learn: &Learn) {
        let made = self.learn(here, learn);
        if let Some(result) = learn.result {
            self.write(result, made.into());
        }
    }

    /// Whether the packet is what a field presupposes.
    pub(super) fn has(&self, prerequisite: Prerequisite) -> bool {
        has(&self.fields, prerequisite)
    }

    /// Changes of fields.
    fn rewrite(&mut self, action: &Action) -> Result<(), DropReason> {
        let whole = Subfield::whole;
        match action {
            Action::SetField { field, value, mask } => self.write_masked(*field, *value, mask.bits(*field)),
            Action::Load { target, value } => self.write_if_there(*target, *value),
            Action::Move { source, target } if self.has(source.field.info().prerequisite) => {
                self.write_if_there(*target, source.get(&self.fields));
            }
            Action::Push(source) => self.stack.push(source.get(&self.fields)),
            Action::Pop(target) => {
                if let Some(value) = self.stack.pop() {
                    self.write_if_there(*target, value);
                }
            }
            Action::SetEthSrc(mac) => self.write(whole(Field::EthSrc), mac.to_u64().into()),
            Action::SetEthDst(mac) => self.write(whole(Field::EthDst), mac.to_u64().into()),
            Action::SetIpSrc(address) => self.write_if_there(whole(Field::IpSrc), address.to_bits().into()),
            Action::SetIpDst(address) => self.write_if_there(whole(Field::IpDst), address.to_bits().into()),
            Action::SetIpTos(tos) => self.write_if_there(whole(Field::IpDscp), (tos >> 2).into()),
            Action::SetIpEcn(ecn) => self.write_if_there(whole(Field::NwEcn), (*ecn).into()),
            Action::SetIpTtl(ttl) => self.write_if_there(whole(Field::NwTtl), (*ttl).into()),
            Action::SetTpSrc(port) => self.write_port(Field::TcpSrc, *port),
            Action::SetTpDst(port) => self.write_port(Field::TcpDst, *port),
            Action::SetVlanVid(VlanChange { value, push }) => self.write_tag((0x0fff, *value), *push),
            Action::SetVlanPcp(VlanChange { value, push }) => self.write_tag((0xe000, value << 13), *push),
            Action::StripVlan => self.pop_vlan(),
            Action::PushVlan(tpid) => self.push_vlan(*tpid, 0),
            Action::SetMplsLabel(label) => self.write_if_there(whole(Field::MplsLabel), (*label).into()),
            Action::SetMplsTc(class) => self.write_if_there(whole(Field::MplsTc), (*class).into()),
            Action::SetMplsTtl(ttl) => self.write_if_there(whole(Field::MplsTtl), (*ttl).into()),
            Action::PushMpls(ethertype) => return self.push_mpls(*ethertype),
            Action::PopMpls(ethertype) => return self.pop_mpls(*ethertype),
            Action::SetTunnel { id, .. } => self.write(whole(Field::TunId), (*id).into()),
            Action::WriteMetadata { value, mask } => {
                self.write_masked(Field::Metadata, (*value).into(), (*mask).into());
            }
            Action::Multipath(multipath) => self.multipath(multipath),
            Action::CheckPktLarger { target, length } => self.check_length(*target, *length),
            _ => {}
        }
        Ok(())
    }

    /// `mod_tp_src`, `mod_tp_dst`: of whatever has ports there.
    fn write_port(&mut self, field: Field, port: u16) {
        let ported = [Prerequisite::Tcp, Prerequisite::Udp, Prerequisite::Sctp];
        if ported.into_iter().any(|protocol| self.has(protocol)) {
            self.write(Subfield::whole(field), port.into());
        }
    }

    fn dec_ttl(&mut self, here: &Here<'_>, by: By<'_>, controllers: &[u16]) -> Then {
        if !self.has(Prerequisite::Ip) {
            return Then::Next;
        }
        let ttl = self.get(Field::NwTtl);
        if ttl > 1 {
            self.write(Subfield::whole(Field::NwTtl), ttl - 1);
            return Then::Next;
        }
        self.expired(here, by, controllers);
        Then::Stop
    }

    fn dec_mpls_ttl(&mut self, here: &Here<'_>, by: By<'_>) -> Then {
        if !self.has(Prerequisite::Mpls) {
            return Then::Next;
        }
        let ttl = self.get(Field::MplsTtl);
        if ttl > 1 {
            self.write(Subfield::whole(Field::MplsTtl), ttl - 1);
            return Then::Next;
        }
        self.expired(here, by, &[]);
        Then::Stop
    }

    /// `fin_timeout`: the packet ends its connection, so the rule may end sooner.
    fn shorten_timeouts(&mut self, here: &Here<'_>, by: By<'_>, (idle, hard): (u16, u16)) {
        const FIN_OR_RST: u128 = 5;
        let ends = self.has(Prerequisite::Tcp) && self.get(Field::TcpFlags) & FIN_OR_RST != 0;
        if let Some(rule) = by.rule.filter(|_| ends && self.occasion.effects) {
            here.live.reduce_timeouts(rule, idle, hard);
        }
    }

    fn set_queue(&mut self, queue: u32) {
        if self.fields.0[QUEUE_WORD] as u32 != queue {
            self.fields.0[QUEUE_WORD] = self.fields.0[QUEUE_WORD] & !u64::from(u32::MAX) | u64::from(queue);
            self.state = None;
        }
    }
}

/// Whether a packet with these fields is what a field presupposes.
pub(crate) fn has(fields: &Fields, prerequisite: Prerequisite) -> bool {
    let field = |field| Subfield::whole(field).get(fields);
    let ether_type = || field(Field::EthType);
    let ip = || matches!(ether_type(), 0x0800 | 0x86dd);
    let later = || field(Field::IpFrag) & 2 != 0;
    let over_ip = |protocol| ip() && field(Field::NwProto) == protocol && !later();
    let icmp6 = || ether_type() == 0x86dd && field(Field::NwProto) == 58 && !later();
    let nd = |kinds: &[u128]| {
        icmp6() && kinds.contains(&field(Field::Icmpv6Type)) && field(Field::Icmpv6Code) == 0
    };
    match prerequisite {
        Prerequisite::None | Prerequisite::Ethernet => true,
        Prerequisite::Vlan => field(Field::VlanTci) & 0x1000 != 0,
        Prerequisite::Mpls => matches!(ether_type(), 0x8847 | 0x8848),
        Prerequisite::Arp => matches!(ether_type(), 0x0806 | 0x8035),
        Prerequisite::Ipv4 => ether_type() == 0x0800,
        Prerequisite::Ipv6 => ether_type() == 0x86dd,
        Prerequisite::Ip => ip(),
        Prerequisite::Tcp => over_ip(6),
        Prerequisite::Udp => over_ip(17),
        Prerequisite::Sctp => over_ip(132),
        Prerequisite::Icmp4 => ether_type() == 0x0800 && field(Field::NwProto) == 1 && !later(),
        Prerequisite::Icmp6 => icmp6(),
        Prerequisite::Nd => nd(&[135, 136]),
        Prerequisite::NdSolicit => nd(&[135]),
        Prerequisite::NdAdvert => nd(&[136]),
        Prerequisite::Ct => field(Field::CtNwProto) != 0,
    }
}

/// The word whose low half is the queue.
const QUEUE_WORD: usize = 25;

/// The order in which an action set is carried out (ovs-actions(7), `write_actions`): tags and labels, time to live,
/// changes of fields in their own order, and of group, output and resubmit the first that there is.
fn ordered(set: &[Action]) -> impl Iterator<Item = &Action> {
    const SLOTS: [fn(&Action) -> bool; 6] = [
        |action| matches!(action, Action::StripVlan),
        |action| matches!(action, Action::PopMpls(_)),
        |action| matches!(action, Action::PushMpls(_)),
        |action| matches!(action, Action::PushVlan(_)),
        |action| matches!(action, Action::DecTtl(_)),
        |action| matches!(action, Action::DecMplsTtl),
    ];
    const FINAL: [fn(&Action) -> bool; 5] = [
        |action| matches!(action, Action::Group(_)),
        |action| matches!(action, Action::Output(_) | Action::OutputTrunc { .. } | Action::Controller(_)),
        |action| matches!(action, Action::Resubmit { .. }),
        |action| matches!(action, Action::CtClear),
        |action| matches!(action, Action::Ct(_)),
    ];
    let last = |of: &fn(&Action) -> bool| set.iter().rev().find(|action| of(action));
    let end = FINAL.iter().find_map(last);
    // Without an output nothing is done at all.
    let slots = SLOTS.iter().filter_map(last).filter(move |_| end.is_some());
    let changes = |action: &&Action| !SLOTS.iter().chain(&FINAL).any(|of| of(action));
    slots.chain(set.iter().filter(changes).filter(move |_| end.is_some())).chain(end)
}
