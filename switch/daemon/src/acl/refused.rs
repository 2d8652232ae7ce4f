//! Which groups a packet was held against, from the walk that a trace has written down.

use weft_config::control::WhyGuard;
use weft_config::port::Port;
use weft_core::trace::{Dropped, Step, Trace, What};
use weft_wire::{DropReason, OfPort};

use super::cookie::Cookie;
use crate::switch::Switch;
use crate::trace::Within;

/// The guarded port whose rules a walk has met last, bridge and number: by one of them it comes to the groups' rules.
#[derive(Default)]
struct LastGuarded {
    within: Within,
    port: Option<(String, OfPort)>,
}

impl LastGuarded {
    fn follow(&mut self, step: &Step) {
        self.within.follow(step);
        if let What::Lookup { rule: Some(rule), .. } = &step.what
            && let (Some(bridge), Some(Cookie::Port(port))) = (self.within.bridge(), Cookie::of(rule.cookie))
        {
            self.port = Some((bridge.clone(), port));
        }
    }
}

/// Whether groups are the reason.
fn is_by_groups(dropped: &Dropped) -> bool {
    matches!(dropped.reason, DropReason::AclEgress | DropReason::AclIngress)
}

impl Switch {
    /// The port whose groups have not permitted the packet, if that is why it is dropped. Says in the trace by name whose
    /// groups have refused what.
    pub(crate) fn name_groups(&self, trace: &mut Trace) -> Option<WhyGuard> {
        let mut last = LastGuarded::default();
        // Why nothing leaves is the first refusal.
        let mut first = None;
        for step in &mut trace.steps {
            last.follow(step);
            if let What::Refused(refused) | What::Failed(refused) = &mut step.what
                && is_by_groups(refused)
                && let Some(guard) = self.guard(&last)
            {
                refused.hint = words(&guard, refused.reason);
                first.get_or_insert(guard);
            }
        }
        let dropped = trace.dropped.as_mut().filter(|dropped| is_by_groups(dropped))?;
        let guard = first.or_else(|| self.guard(&last))?;
        dropped.hint = words(&guard, dropped.reason);
        Some(guard)
    }

    fn guard(&self, last: &LastGuarded) -> Option<WhyGuard> {
        let (bridge, number) = last.port.as_ref()?;
        let ports = &self.config.bridge(bridge)?.ports;
        let port: &Port = ports.iter().find(|port| port.ofport == Some(*number))?;
        let groups = port.acl.0.iter().map(ToString::to_string).collect();
        Some(WhyGuard { port: port.name.to_string(), groups })
    }
}

fn words(WhyGuard { port, groups }: &WhyGuard, reason: DropReason) -> String {
    let what = if reason == DropReason::AclEgress { "may send it" } else { "may get it" };
    let groups = match &groups[..] {
        [group] => format!("group {group}"),
        groups => format!("groups {}", groups.join(", ")),
    };
    format!("port {port} is bound to {groups}, of which no rule says that it {what}: 'acl show {port}'")
}
