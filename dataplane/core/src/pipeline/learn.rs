//! Rules that packets make: `learn(..)` (ovs-actions(7)).

use std::sync::Arc;

use weft_flow::action::{Learn, LearnSource, LearnTarget};
use weft_flow::message::{FlowCommand, FlowFlags, FlowMod};
use weft_flow::{Action, Fields, Match};
use weft_wire::OfPort;

use super::trace::{Event, Tracer};
use super::{Here, Walk};
use crate::tables::LearnResult;
use crate::verdict::Learned;

impl<T: Tracer> Walk<'_, T> {
    /// Makes the rule, at once; packets of the flow keep it alive from then on. Whether it is there now.
    pub(super) fn learn(&mut self, here: &Here<'_>, learn: &Learn) -> bool {
        let rule = Arc::new(rule_of(learn, &self.fields));
        self.tracer.event(Event::Learn(&rule));
        if !self.occasion.effects {
            return true;
        }
        let result = here.live.learn(&rule, learn.limit, self.occasion.now);
        match result {
            LearnResult::Made | LearnResult::Refreshed => {
                self.verdict.made |= result == LearnResult::Made;
                self.verdict.learned.push(Learned {
                    tables: Arc::clone(here.live),
                    rule,
                    limit: learn.limit,
                });
                // A rule that was made moves the version on: that is no reason to walk again.
                true
            }
            LearnResult::Busy => {
                self.verdict.fleeting = true;
                false
            }
            LearnResult::Full => false,
        }
    }
}

/// Whether a learned rule can output there: to a port, or to one of the reserved ones that need no look-up.
fn is_learnable(port: u128) -> bool {
    const RESERVED: [OfPort; 4] = [OfPort::IN_PORT, OfPort::FLOOD, OfPort::ALL, OfPort::LOCAL];
    u16::try_from(port).is_ok_and(|port| port <= OfPort::MAX.0 || RESERVED.contains(&OfPort(port)))
}

/// The rule that a packet with these fields makes.
pub fn rule_of(learn: &Learn, packet: &Fields) -> FlowMod {
    let (mut mask, mut value) = (Fields::default(), Fields::default());
    let mut actions = Vec::new();
    for spec in &learn.specs {
        let bits = match &spec.source {
            LearnSource::Immediate(number) => *number,
            LearnSource::Field(source) => source.get(packet),
        };
        match spec.target {
            LearnTarget::Match(target) => {
                target.set(&mut mask, u128::MAX);
                target.set(&mut value, bits);
            }
            LearnTarget::Load(target) => actions.push(Action::Load { target, value: bits & target.max() }),
            // Others are no ports that a rule could learn, and are left out.
            LearnTarget::Output if is_learnable(bits) => actions.push(Action::Output(OfPort(bits as u16))),
            LearnTarget::Output => {}
        }
    }
    let fin = Action::FinTimeout { idle: learn.fin_idle_timeout, hard: learn.fin_hard_timeout };
    if (learn.fin_idle_timeout, learn.fin_hard_timeout) != (0, 0) {
        actions.insert(0, fin);
    }
    FlowMod {
        command: FlowCommand::Add,
        table: Some(learn.table),
        priority: learn.priority,
        matches: Match::new(&mask, &value),
        cookie: Some(learn.cookie),
        actions: actions.into(),
        idle_timeout: learn.idle_timeout,
        hard_timeout: learn.hard_timeout,
        flags: FlowFlags { send_removed: learn.send_flow_removed, ..FlowFlags::default() },
        ..FlowMod::default()
    }
}
