//! Weft's own tables: port security and security groups, before and behind the user's tables.
//!
//! What comes in by a guarded port is looked up from [`TableId::FROM_GUARDED`] on before the user's tables see it; a copy
//! that is to leave by one, from [`TableId::TO_GUARDED`] on. Both happen to a packet of its own: whatever rules do to
//! registers, metadata or connection is undone behind them, and they find none of the user's. They end with
//! [`Own::Permit`] or [`Own::Drop`]; a packet of which nothing is said is dropped. The user's limits don't count there. A fragment
//! waits in front of them for the others of its packet: they see that one's protocol and ports.
//!
//! What they find set: `reg5` is the guarded port's OpenFlow number, `reg6` the VLAN of the packet at that port.

use weft_flow::Field;
use weft_flow::action::Own;
use weft_flow::field::Prerequisite;
use weft_flow::fields::{KEY_WORDS, WORDS};
use weft_wire::{DropReason, OfPort, Tci, Vid};

use super::trace::Tracer;
use super::{Here, How, Missed, Walk};
use crate::key::Ingress;
use crate::parse;
use crate::snapshot::Port;
use crate::tables::TableId;
use crate::vlan::TagRewrite;

/// The words that hold what ARP and neighbour discovery packets claim: link-layer addresses and the target. Guards read
/// them of each such packet, and no key has them for that.
pub(crate) const CLAIMS: [usize; 4] = [9, 10, 12, 13];

/// One way through weft's own tables.
struct Pass<'p> {
    entry: TableId,
    port: &'p Port,
    vid: Vid,
    /// What a packet is dropped for of which nothing is said.
    otherwise: DropReason,
}

impl<T: Tracer> Walk<'_, T> {
    /// Whether the packet may come in by its port, which is guarded. If not, it is refused.
    pub(super) fn may_enter(&mut self, here: &Here<'_>) -> Result<bool, DropReason> {
        self.read_claims();
        let vid = here.port.spec.vlan.admit(self.packet_tci()).unwrap_or(Vid::NONE);
        let (entry, otherwise) = (TableId::FROM_GUARDED, DropReason::AclEgress);
        self.pass(here, &Pass { entry, port: here.port, vid, otherwise })
    }

    /// Reads what ARP and neighbour discovery claim. That is in no key: it would make all of a guarded port's flows wide,
    /// for packets that are few. So these aren't cached.
    fn read_claims(&mut self) {
        let kind = self.get(Field::Icmpv6Type);
        let nd = self.has(Prerequisite::Icmp6) && (135..=136).contains(&kind);
        if !nd && !self.has(Prerequisite::Arp) {
            return;
        }
        self.verdict.fleeting = true;
        // One that is only described has them.
        let Some(packet) = self.occasion.packet else { return };
        let ingress = Ingress::of(self.occasion.key);
        let read = parse::words::<KEY_WORDS>(packet.data(), packet.total_len(), ingress);
        for word in CLAIMS {
            if let (Some(field), Some(value)) =
                (self.fields.0.get_mut(word), read.and_then(|read| read.get(word).copied()))
            {
                *field = value;
            }
        }
    }

    /// Whether a copy whose tag is changed so may leave by a guarded port. If not, it is refused.
    pub(super) fn may_leave(
        &mut self,
        here: &Here<'_>,
        out: &Port,
        tag: TagRewrite,
    ) -> Result<bool, DropReason> {
        let tci = match tag {
            TagRewrite::Keep => self.packet_tci(),
            TagRewrite::Pop | TagRewrite::PopUnlessPriority => Tci(0),
            TagRewrite::Push(vid) | TagRewrite::Set(vid) => Tci(vid.get() | Tci::PRESENT),
        };
        let vid = out.spec.vlan.admit(tci).unwrap_or(Vid::NONE);
        let (entry, otherwise) = (TableId::TO_GUARDED, DropReason::AclIngress);
        self.pass(here, &Pass { entry, port: out, vid, otherwise })
    }

    fn pass(&mut self, here: &Here<'_>, pass: &Pass<'_>) -> Result<bool, DropReason> {
        // Where there are no rules, nobody reads whether it is a fragment.
        if here.tables.table(pass.entry).is_some_and(|table| !table.is_empty()) {
            self.wait_for_whole(pass.vid.get())?;
        }
        let in_port = OfPort(self.get(Field::InPort) as u16);
        let outer = self.outcome.take();
        let action_set = std::mem::take(&mut self.action_set);
        let limits = (std::mem::take(&mut self.depth), std::mem::take(&mut self.lookups));
        let looked_up = self.scoped(|walk| {
            walk.exit = false;
            walk.fields.0[KEY_WORDS..WORDS].fill(0);
            (walk.before, walk.state) = (None, None);
            walk.set(Field::Reg5, pass.port.spec.ofport.0.into());
            walk.set(Field::Reg6, pass.vid.get().into());
            walk.look_up(here, pass.entry, How { missed: Missed::IsNothing, ..How::arrived(in_port) })
        });
        (self.depth, self.lookups) = limits;
        self.action_set = action_set;
        let outcome = std::mem::replace(&mut self.outcome, outer);
        looked_up?;
        let refused = match outcome {
            Some(Own::Permit) => return Ok(true),
            Some(Own::Drop(reason)) => reason,
            None => pass.otherwise,
        };
        self.refuse(refused);
        Ok(false)
    }
}
