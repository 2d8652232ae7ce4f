//! `weftctl why`: whose packets are dropped, and why. A second question a moment after the first one makes rates of counts,
//! and has samples of what was dropped in between.

use std::fmt::Write;
use std::time::Duration;

use weft_config::control::{
    FoundRule, Op, Outcome, Reply, Response, WhyDrop, WhyGuard, WhyOutput, WhyReport, WhyRequest, WhyRule,
    WhySent, to_line,
};

use crate::args::Args;
use crate::client::{Client, ClientError};
use crate::{Error, accepted, print};

pub(crate) const HELP: &str = "\
Whose packets: a port or tunnel by name, a MAC or IP address, or a connection as a match, either way around:
  weftctl why vm1
  weftctl why 10.0.0.5 --follow
  weftctl why tcp,nw_src=10.0.0.1,nw_dst=10.0.0.2,tp_dst=80
An IP address or a connection is found among cached flows where rules read it; and among dropped packets always.";

/// `weftctl why`
#[derive(clap::Args, Debug)]
pub struct WhyArgs {
    /// Whose packets.
    #[arg(value_name = "PORT|MAC|IP|CONNECTION")]
    subject: String,
    /// Go on, and print what is dropped as it happens.
    #[arg(long, short)]
    follow: bool,
    /// Only what had a packet within so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    last: u32,
    /// Seconds to watch, for rates and samples.
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    wait: u32,
}

/// Asks, waits, asks again, and prints.
pub(crate) fn run(args: &Args, why: &WhyArgs) -> Result<(), Error> {
    let mut client = Client::connect(&args.socket)?;
    let (mut id, mut before) = ask(args, &mut client, why)?;
    loop {
        let mut now = before.clone();
        if why.wait > 0 || why.follow {
            std::thread::sleep(Duration::from_secs(u64::from(why.wait.max(1))));
            (id, now) = ask(args, &mut client, why)?;
            add_rates(&before, &mut now);
        }
        if args.json {
            let outcome = Outcome::Result(Reply::Why { why: Box::new(now.clone()) });
            print(&String::from_utf8_lossy(&to_line(&Response { id, outcome })))?;
        } else if why.follow {
            print(&news(&before, &now))?;
        } else {
            print(&render(&now))?;
        }
        if !why.follow {
            return Ok(());
        }
        before = now;
    }
}

fn ask(args: &Args, client: &mut Client, why: &WhyArgs) -> Result<(u64, WhyReport), Error> {
    let request = WhyRequest { subject: why.subject.clone(), last_s: why.last };
    let (line, response) = client.ask(Op::Why(request))?;
    let id = response.id;
    match accepted(args, &line, response)? {
        Reply::Why { why } => Ok((id, *why)),
        _ => Err(ClientError::Unexpected.into()),
    }
}

/// Whether both are of the same place.
fn is_same(one: &WhyDrop, two: &WhyDrop) -> bool {
    (&one.port, &one.reason, &one.rule, one.leaves) == (&two.port, &two.reason, &two.rule, two.leaves)
}

fn since(before: &WhyReport, drop: &WhyDrop) -> u64 {
    let known = before.drops.iter().find(|known| is_same(known, drop));
    drop.packets.saturating_sub(known.map_or(0, |known| known.packets))
}

/// Says of each row how many packets a second it has had since `before`.
fn add_rates(before: &WhyReport, now: &mut WhyReport) {
    let seconds = now.uptime_ms.saturating_sub(before.uptime_ms) as f64 / 1000.0;
    if seconds <= 0.0 {
        return;
    }
    let rate = |packets: u64| Some((packets as f64 / seconds * 10.0).round() / 10.0);
    for drop in &mut now.drops {
        drop.rate = rate(since(before, drop));
    }
    for sent in &mut now.sent {
        let same = |known: &&WhySent| (&known.port, &known.outputs) == (&sent.port, &sent.outputs);
        let known = before.sent.iter().find(same).map_or(0, |known| known.packets);
        sent.rate = rate(sent.packets.saturating_sub(known));
    }
}

/// The report for people.
pub fn render(why: &WhyReport) -> String {
    let mut text = format!("{}\n\n", why.subject);
    if why.drops.is_empty() {
        text.push_str("nothing was dropped\n");
    } else {
        text.push_str("dropped\n");
        why.drops.iter().for_each(|drop| text.push_str(&dropped(drop)));
    }
    if why.further > 0 {
        let _ = writeln!(text, "  and {} more, of packets that are longer ago", why.further);
    }
    if why.untraced > 0 {
        let _ = writeln!(
            text,
            "  {} of these are not traced, for want of time: 'change' is what holds in general",
            why.untraced
        );
    }
    if !why.sent.is_empty() {
        text.push_str("\nsent\n");
        why.sent.iter().for_each(|row| text.push_str(&sent(row)));
    }
    if why.left_out > 0 {
        let _ = writeln!(text, "\n{} flows more, of too many kinds to tell", why.left_out);
    }
    text
}

fn count(packets: u64, flows: u64, rate: Option<f64>, age_s: u32) -> String {
    let mut text = format!("{packets} packet{}", if packets == 1 { "" } else { "s" });
    if let Some(rate) = rate {
        let _ = write!(text, ", {rate:.1}/s");
    }
    if flows > 1 {
        let _ = write!(text, ", {flows} flows");
    }
    let _ = match age_s {
        0 => write!(text, ", last now"),
        age => write!(text, ", last {age} s ago"),
    };
    text
}

fn dropped(drop: &WhyDrop) -> String {
    let kept = if drop.leaves { " (one copy; others leave)" } else { "" };
    let mut text = format!("  {} at {}, port {}{kept}\n", drop.reason, drop.stage, drop.port);
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "    {name:<7} {value}");
        }
    };
    line("count", &count(drop.packets, drop.flows, drop.rate, drop.age_s));
    line("rule", &drop.rule.as_ref().map_or_else(String::new, rule));
    line(
        "groups",
        &drop
            .guard
            .as_ref()
            .map_or_else(String::new, |guard| format!("{}: no rule of theirs permits it", groups(guard))),
    );
    line("flow", &drop.flow);
    line("sample", drop.sample.as_ref().map_or("", |sample| &sample.text));
    line("change", &drop.hint);
    text
}

/// The groups that a port is bound to.
fn groups(guard: &WhyGuard) -> String {
    format!("{} of port {}", guard.groups.join(", "), guard.port)
}

fn rule(rule: &WhyRule) -> String {
    let place = format!("table {} of bridge {}", rule.table, rule.bridge);
    let Some(found) = &rule.found else { return format!("none matches in {place}") };
    let FoundRule { priority, cookie, name, matches, actions } = found;
    let name = name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
    if actions.is_empty() && matches.is_empty() {
        return format!("{place}, cookie {cookie:#x}{name}");
    }
    let matches = if matches.is_empty() { "everything" } else { matches };
    format!("{place}, priority {priority}, cookie {cookie:#x}{name}, {matches} actions={actions}")
}

fn sent(row: &WhySent) -> String {
    let outputs: Vec<String> = row.outputs.iter().map(output).collect();
    let further = if row.further > 0 { format!(" and {} ports more", row.further) } else { String::new() };
    let count = count(row.packets, row.flows, row.rate, row.age_s);
    let mut text = format!("  from {} by {}{further}\n    count   {count}\n", row.port, outputs.join(", "));
    if !row.flow.is_empty() {
        let _ = writeln!(text, "    flow    {}", row.flow);
    }
    text
}

fn output(output: &WhyOutput) -> String {
    let Some(tunnel) = &output.tunnel else { return output.port.clone() };
    let problem = tunnel.problem.as_ref().map_or_else(String::new, |problem| format!(", {problem}"));
    format!("{} ({} to {}, VNI {}{problem})", output.port, tunnel.kind, tunnel.remote, tunnel.key)
}

/// What was dropped between two reports, one line for each place.
fn news(before: &WhyReport, now: &WhyReport) -> String {
    let mut text = String::new();
    for drop in &now.drops {
        let packets = since(before, drop);
        if packets == 0 && drop.sample.is_none() {
            continue;
        }
        let place = match (&drop.guard, &drop.rule) {
            (Some(guard), _) => format!(" [no rule of {}]", groups(guard)),
            (None, Some(looked)) => format!(" [{}]", rule(looked)),
            (None, None) => String::new(),
        };
        let what = drop.sample.as_ref().map_or(&drop.flow, |sample| &sample.text);
        let _ =
            writeln!(text, "+{packets} {} at {}, port {}{place}: {what}", drop.reason, drop.stage, drop.port);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_config::control::WhySample;

    fn report(uptime_ms: u64, packets: &[(&str, u64)]) -> WhyReport {
        let drop = |&(port, packets): &(&str, u64)| WhyDrop {
            port: port.to_owned(),
            stage: "flow tables".to_owned(),
            reason: "rule_drop".to_owned(),
            flow: "arp".to_owned(),
            packets,
            ..WhyDrop::default()
        };
        WhyReport { uptime_ms, drops: packets.iter().map(drop).collect(), ..WhyReport::default() }
    }

    #[test]
    fn two_reports_make_a_rate_and_what_is_new() {
        let before = report(1000, &[("vm1", 10), ("vm2", 5)]);
        let mut now = report(3000, &[("vm1", 13), ("vm2", 5), ("vm3", 4)]);
        add_rates(&before, &mut now);
        let rates: Vec<Option<f64>> = now.drops.iter().map(|drop| drop.rate).collect();
        assert_eq!(rates, [Some(1.5), Some(0.0), Some(2.0)]);
        now.drops[2].sample = Some(WhySample { text: "a packet".to_owned(), ..WhySample::default() });
        assert_eq!(
            news(&before, &now),
            "+3 rule_drop at flow tables, port vm1: arp\n+4 rule_drop at flow tables, port vm3: a packet\n"
        );
    }

    #[test]
    fn rows_that_are_not_told_or_not_traced_are_said_to_be() {
        let all = report(1000, &[("vm1", 10)]);
        let some = WhyReport { further: 3, untraced: 2, ..all.clone() };
        let more = render(&some).replace(&render(&all), "");
        assert_eq!(
            more,
            "  and 3 more, of packets that are longer ago\n  2 of these are not traced, for want of time: 'change' is what holds in general\n"
        );
    }

    #[test]
    fn counts_that_have_gone_with_their_flow_are_no_news() {
        let mut now = report(2000, &[("vm1", 3)]);
        add_rates(&report(1000, &[("vm1", 10)]), &mut now);
        assert_eq!(now.drops[0].rate, Some(0.0));
    }
}
