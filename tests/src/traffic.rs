//! ping, arping and iperf3 between hosts, with their results as numbers.

use crate::cmd::{self, Error, Result, SHORT};
use crate::lab::Lab;
use crate::netns::{Host, Netns};
use crate::wait_for;
use serde_json::Value;
use std::time::Duration;

/// What `ping` counted.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Ping {
    /// Requests sent.
    pub sent: u64,
    /// Replies received, duplicates not counted.
    pub received: u64,
    /// Duplicate replies: a loop, or a frame that was flooded twice.
    pub duplicates: u64,
}

impl Ping {
    /// True when each request got exactly one reply.
    pub fn is_clean(&self) -> bool {
        self.sent > 0 && self.sent == self.received && self.duplicates == 0
    }

    /// Reads the closing lines of iputils' ping.
    pub fn parse(text: &str) -> Option<Ping> {
        parse_ping(text)
    }
}

/// Sends `count` pings at once, and waits for the replies, at least two seconds for the last. `options` are further flags
/// (`-s 1422 -M do`). No reply is a result, not an error.
///
/// Between two pings passes as much time as ping waits after the last one, if it has got a reply before: hence all at once.
pub fn ping(from: &Netns, to: &str, count: u32, options: &str) -> Result<Ping> {
    let count_text = count.to_string();
    let mut argv = vec!["ping", "-n", "-i", "2", "-W", "2", "-l", &count_text, "-c", &count_text];
    argv.extend(options.split_whitespace());
    argv.push(to);
    let output = from.run(&argv, SHORT)?;
    parse_ping(&output.stdout).ok_or_else(|| {
        Error::new(format!("ping {to}: exit {}: {}{}", output.code, output.stdout, output.stderr))
    })
}

/// Sends three pings, with options as [`ping`] takes them, and panics unless each gets exactly one reply.
pub fn clean_ping(from: &Host, to: &Host, options: &str) -> Result<()> {
    let result = ping(from.ns(), to.address(), 3, options)?;
    assert!(result.is_clean(), "{} to {}: {result:?}", from.device(), to.device());
    Ok(())
}

/// Waits until an address answers to ping.
pub fn wait_reachable(from: &Host, address: &str) -> Result<()> {
    wait_for(&format!("{address} to answer"), SHORT, || Ok(ping(from.ns(), address, 1, "")?.received > 0))
}

fn parse_ping(text: &str) -> Option<Ping> {
    let line = text.lines().find(|line| line.contains("packets transmitted"))?;
    let mut ping = Ping::default();
    for part in line.split(',') {
        let number = part.split_whitespace().find_map(|word| word.trim_start_matches('+').parse().ok());
        match number {
            Some(n) if part.contains("transmitted") => ping.sent = n,
            Some(n) if part.contains("duplicates") => ping.duplicates = n,
            Some(n) if part.contains("received") => ping.received = n,
            _ => {}
        }
    }
    Some(ping)
}

/// Asks for `to`'s MAC `count` times, one a second, and returns how many answers came (more than `count` from two owners).
pub fn arping(from: &Host, to: &str, count: u32) -> Result<u32> {
    let count_text = count.to_string();
    let argv = ["busybox", "arping", "-c", &count_text, "-w", &count_text, "-I", from.device(), to];
    let output = from.ns().run(&argv, Duration::from_secs(u64::from(count) + 5))?;
    let line = output.stdout.lines().find_map(|line| line.strip_prefix("Received "));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| Error::new(format!("arping {to}: {}{}", output.stdout, output.stderr)))
}

/// What iperf3 measured at the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Iperf {
    /// Payload bits per second received.
    pub bits_per_second: f64,
    /// TCP: segments sent again.
    pub retransmits: u64,
    /// UDP: datagrams sent.
    pub sent: u64,
    /// UDP: datagrams that did not arrive. Those that arrived and met a full socket buffer, because the receiver had no
    /// processor for a while, are none of them.
    pub lost: u64,
}

impl Iperf {
    /// UDP: at least 95 of 100 datagrams arrived. That the switch lost none of the others is for its own counters to say.
    pub fn arrived(&self) -> bool {
        self.sent > 0 && self.lost * 20 <= self.sent
    }
}

/// Runs iperf3 from one host to another for `seconds`, or, with 0, until what `options` ask for is sent (`-n 4M`). `options` are
/// the client's, e.g. `-u -b 50M -l 1000` or `-P 4`.
pub fn iperf3(lab: &Lab, from: &Host, to: &Host, seconds: u32, options: &str) -> Result<Iperf> {
    let limit = SHORT + Duration::from_secs(u64::from(seconds));
    let mut server = to.ns().spawn(lab, "iperf3-server", &["iperf3", "-s", "-1", "--forceflush"])?;
    server.wait_until(SHORT, |server| server.log().contains("listening"))?;
    let full_before = to.ns().counter("Udp", "RcvbufErrors")?;
    let duration = seconds.to_string();
    let mut argv = vec!["iperf3", "--json", "--connect-timeout", "10000", "-c", to.address()];
    if seconds > 0 {
        argv.extend(["-t", &duration]);
    }
    argv.extend(options.split_whitespace());
    let text = cmd::ok(&[&from.ns().prefix()[..], &argv].concat(), limit)?;
    let mut iperf = parse_iperf(&serde_json::from_str(&text)?)
        .ok_or_else(|| Error::new(format!("iperf3 without a result: {text}")))?;
    let full = to.ns().counter("Udp", "RcvbufErrors")? - full_before;
    iperf.lost = iperf.lost.saturating_sub(full);
    Ok(iperf)
}

fn parse_iperf(json: &Value) -> Option<Iperf> {
    let end = &json["end"];
    if let Some(udp) = end["sum"]["lost_packets"].as_u64() {
        // iperf 3.12's own rate is the sender's: what was lost has to be taken off.
        let sent = end["sum"]["packets"].as_u64()?;
        let arrived = sent.saturating_sub(udp) as f64 / sent.max(1) as f64;
        let bits_per_second = end["sum"]["bits_per_second"].as_f64()? * arrived;
        return Some(Iperf { bits_per_second, retransmits: 0, sent, lost: udp });
    }
    let bits_per_second = end["sum_received"]["bits_per_second"].as_f64()?;
    let retransmits = end["sum_sent"]["retransmits"].as_u64().unwrap_or(0);
    Some(Iperf { bits_per_second, retransmits, ..Iperf::default() })
}

/// Sends `bytes` zeros over TCP to port 5000 of `address` in `to`, and returns how many arrived.
pub fn send_bytes(lab: &Lab, from: &Netns, (to, address): (&Netns, &str), bytes: u32) -> Result<u64> {
    let count = "socat -u TCP-LISTEN:5000,reuseaddr STDOUT | wc -c";
    let mut server = to.spawn(lab, "tcp-server", &["sh", "-c", count])?;
    wait_for_listener(to, 5000)?;
    let send = format!("head -c {bytes} /dev/zero | socat -u STDIN TCP:{address}:5000,connect-timeout=10");
    cmd::ok(&[&from.prefix()[..], &["sh", "-c", &send]].concat(), SHORT)?;
    server.wait(SHORT)?;
    Ok(server.log().trim().parse()?)
}

/// Waits until somebody listens on a TCP port.
pub fn wait_for_listener(ns: &Netns, port: u16) -> Result<()> {
    let listens = || Ok(!ns.sh(&format!("ss -Hltn sport = :{port}"))?.trim().is_empty());
    wait_for(&format!("a listener on port {port}"), SHORT, listens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_lines_of_ping_are_read() {
        let text = "\n--- 10.0.0.2 ping statistics ---\n5 packets transmitted, 4 received, +2 duplicates, \
                    20% packet loss, time 408ms\nrtt min/avg/max/mdev = 0.023/0.036/0.054/0.010 ms\n";
        let ping = parse_ping(text).unwrap();
        assert_eq!(ping, Ping { sent: 5, received: 4, duplicates: 2 });
        assert!(!ping.is_clean());
        let text = "2 packets transmitted, 0 received, +2 errors, 100% packet loss, time 1010ms\n";
        assert_eq!(parse_ping(text).unwrap(), Ping { sent: 2, ..Ping::default() });
    }

    #[test]
    fn what_is_no_ping_output_is_none() {
        assert_eq!(parse_ping("ping: connect: Network is unreachable\n"), None);
    }
}
